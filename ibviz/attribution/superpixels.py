"""What superpixels contribute to the target's logit, hidden behind black or not, through Captum.

Superpixels are SLIC's (Achanta 2012) of each image, in the form that weighs colour against distance by itself, since a
fixed weight finds a single one in a noisy image. Every pixel of one has its value. Coalitions are drawn anew from
`seed` for every image, so that a map does not depend on its batch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, cast

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from ibviz.attribution.gradients import Count, copies_a_pass
from ibviz.errors import InputError, not_finite
from ibviz.types import Images, Labels, Maps

Segments = Annotated[int, Field(ge=2)]
LIME_KERNEL = 0.25  # width of LIME's kernel on images, in cosine distance


def feature_ablation(
    model: nn.Module, images: Images, targets: Labels, *, segments: Segments = 50, batch_size: Count = 64
) -> Maps:
    """What the logit loses when one superpixel turns black."""
    from captum.attr import FeatureAblation  # noqa: PLC0415 - a second to import

    parts = FeatureAblation(model).attribute(
        images,
        baselines=0.0,
        target=targets,
        feature_mask=superpixels(images, segments).unsqueeze(1),
        perturbations_per_eval=copies_a_pass(images, batch_size),
    )
    return cast(Tensor, parts)[:, 0].float()


def lime(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: Segments = 500,
    segments: Segments = 50,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """LIME (Ribeiro 2016): a ridge regression of the logit on which superpixels are seen, near ones weighing more."""
    from captum._utils.models.linear_model import SkLearnRidge  # noqa: PLC0415 - a second to import
    from captum.attr import Lime  # noqa: PLC0415
    from captum.attr._core.lime import get_exp_kernel_similarity_function  # noqa: PLC0415

    kernel = get_exp_kernel_similarity_function("cosine", kernel_width=LIME_KERNEL)
    method = Lime(model, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=kernel)
    options = {"n_samples": samples, "perturbations_per_eval": batch_size}
    return _image_by_image(partial(method.attribute, **options), images, targets, segments, seed)


def kernel_shap(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: Segments = 500,
    segments: Segments = 50,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """Shapley values of superpixels by weighted regression (Lundberg 2017); they sum to f(image) - f(black).

    Raises `InputError` for fewer samples than superpixels, which leave the regression open.
    """
    from captum.attr import KernelShap  # noqa: PLC0415 - a second to import

    if samples < segments:
        raise InputError(f"kernel_shap needs at least one sample a superpixel; got {samples} samples for {segments}")
    options = {"n_samples": samples, "perturbations_per_eval": batch_size}
    return _image_by_image(partial(KernelShap(model).attribute, **options), images, targets, segments, seed)


def superpixels(images: Images, segments: int) -> Int[Tensor, "b h w"]:
    """About `segments` SLIC superpixels of each image, numbered from 0.

    >>> superpixels(torch.rand(2, 3, 16, 16), 4).shape
    torch.Size([2, 16, 16])
    """
    from skimage.segmentation import slic  # noqa: PLC0415 - slow to import

    pixels = images.permute(0, 2, 3, 1).double().cpu().numpy()
    parts = [slic(one, segments, slic_zero=True, start_label=0, channel_axis=-1) for one in pixels]
    return torch.stack([torch.from_numpy(part) for part in parts]).to(images.device)


def _image_by_image(attribute: Callable[..., Any], images: Images, targets: Labels, segments: int, seed: int) -> Maps:
    """Captum fits one regression at a time; its passes hold the coalitions of one image."""
    maps, pieces = [], superpixels(images, segments)
    for image, target, mask in zip(images.split(1), targets.split(1), pieces, strict=True):
        with seeded(seed), finite_scores():
            maps.append(attribute(image, baselines=0.0, target=target, feature_mask=mask[None, None])[:, 0])
    return torch.cat(maps).float()


@contextmanager
def finite_scores() -> Iterator[None]:
    """Inside the block, a regression that meets NaN is an `InputError`."""
    try:
        yield
    except ValueError as error:
        if "NaN" not in str(error):
            raise
        raise not_finite("scores of the network") from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside the block, the global generators of all devices start from `seed`; after it they are as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
