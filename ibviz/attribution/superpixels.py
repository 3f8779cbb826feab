"""Superpixel methods: ablation, LIME and KernelSHAP through Captum, over superpixels that turn black.

Superpixels are those of SLIC (Achanta 2012) for each image, in the variant that chooses the weight of colour against
distance itself: with a fixed weight a noisy image becomes a single superpixel. Pixels of a superpixel share a value.
Random draws follow from `seed` alone and are shared by all images, so that a map depends neither on its batch nor on
the device. An image that is explained for several targets passes the network once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, cast

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor, nn

from ibviz.attribution.forward_pass import (
    DistinctInputs,
    copies_per_pass,
    distinct_inputs,
    images_per_pass,
    predict_logits,
)
from ibviz.errors import InputError, not_finite
from ibviz.heads import Logits
from ibviz.settings import Count
from ibviz.types import Images, Labels, Maps

LIME_KERNEL = 0.25  # width of LIME's kernel on images, in cosine distance
AtLeastTwo = Annotated[int, Field(ge=2)]
SuperpixelIndex = Int[Tensor, "n h w"]  # the number of the superpixel of each pixel


def feature_ablation(
    model: nn.Module, images: Images, targets: Labels, *, segments: AtLeastTwo = 50, batch_size: Count = 64
) -> Maps:
    """Superpixel ablation: drop of the target's logit when one superpixel turns black, by Captum.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        segments: Approximate number of superpixels per image.
        batch_size: The most changed images in one pass.

    Returns:
        One value per pixel, in units of the logit.
    """
    from captum.attr import FeatureAblation

    parts = FeatureAblation(partial(predict_logits, model)).attribute(
        images,
        baselines=0.0,
        target=targets,
        feature_mask=superpixels(images, segments).unsqueeze(1),
        perturbations_per_eval=copies_per_pass(images, batch_size),
    )
    return cast(Tensor, parts)[:, 0].float()


def lime(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: AtLeastTwo = 500,
    segments: AtLeastTwo = 50,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """LIME (Ribeiro 2016): weights of a ridge regression of the target's logit on the superpixels that are shown.

    Samples more like the image weigh more, by cosine distance. Computed by Captum.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        samples: Random choices of superpixels per image.
        segments: Approximate number of superpixels per image.
        seed: Seed of the choices.
        batch_size: The most changed images in one pass.

    Returns:
        One value per pixel, in units of the logit.
    """
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime
    from captum.attr._core.lime import get_exp_kernel_similarity_function

    kernel = get_exp_kernel_similarity_function("cosine", kernel_width=LIME_KERNEL)
    inputs, rows = distinct_inputs(images, targets), images_per_pass(images, batch_size)

    def attribute(network: Callable[[Images], Logits], **given: Any) -> Tensor:
        method = Lime(network, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=kernel)
        return method.attribute(**given, n_samples=samples, perturbations_per_eval=rows)

    return _attribute_per_image(model, attribute, inputs, superpixels(inputs.images, segments), seed)


def kernel_shap(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: AtLeastTwo = 500,
    segments: AtLeastTwo = 50,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """KernelSHAP (Lundberg 2017): Shapley values of superpixels by weighted regression; sum f(image) - f(black).

    Computed by Captum.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        samples: Random choices of superpixels per image, at least one per superpixel.
        segments: Approximate number of superpixels per image.
        seed: Seed of the choices.
        batch_size: The most changed images in one pass.

    Returns:
        One value per pixel, in units of the logit.

    Raises:
        InputError: If there are fewer samples than superpixels, which do not determine the regression, or if an image
            has a single superpixel.
    """
    from captum.attr import KernelShap

    inputs, rows = distinct_inputs(images, targets), images_per_pass(images, batch_size)
    index = superpixels(inputs.images, segments)
    fewest, most = (int(count) + 1 for count in index.flatten(1).amax(1).aminmax())
    if fewest < 2 or samples < most:
        raise InputError(
            f"kernel_shap needs at least 2 superpixels in every image and one sample per superpixel; got "
            f"{samples} samples for {fewest} to {most}; change samples or segments"
        )

    def attribute(network: Callable[[Images], Logits], **given: Any) -> Tensor:
        return KernelShap(network).attribute(**given, n_samples=samples, perturbations_per_eval=rows)

    return _attribute_per_image(model, attribute, inputs, index, seed)


def superpixels(images: Images, segments: int) -> Int[Tensor, "b h w"]:
    """Return the number of the SLIC superpixel of each pixel, from 0; about `segments` superpixels per image.

    >>> superpixels(torch.rand(2, 3, 16, 16), 4).shape
    torch.Size([2, 16, 16])
    """
    from skimage.segmentation import slic

    pixels = images.permute(0, 2, 3, 1).double().cpu().numpy()
    parts = [slic(image, segments, slic_zero=True, start_label=0, channel_axis=-1) for image in pixels]
    return torch.stack([torch.from_numpy(part) for part in parts]).to(images.device)


class _CachedNetwork:
    """A network that keeps its logits of some classes and returns them again if the same passes are repeated."""

    def __init__(self, model: nn.Module, classes: Labels) -> None:
        self.model, self.classes, self.passes, self.next = model, classes, list[Tensor](), 0

    def __call__(self, images: Images) -> Logits:
        if self.next == len(self.passes):
            self.passes.append(predict_logits(self.model, images)[:, self.classes])
        self.next += 1
        return self.passes[self.next - 1]


def _attribute_per_image(
    model: nn.Module, attribute: Callable[..., Tensor], inputs: DistinctInputs, superpixel: SuperpixelIndex, seed: int
) -> Maps:
    """Return the maps of one regression per image and target, as Captum fits only one at a time.

    The choices of superpixels follow from `seed`, so that the targets of an image share its passes.
    """
    maps, networks = [], [_CachedNetwork(model, inputs.classes) for _ in inputs.images]
    for place, target in zip(inputs.image_index.tolist(), inputs.class_index.tolist(), strict=True):
        networks[place].next = 0
        image, mask = inputs.images[place : place + 1], superpixel[place][None, None]
        with seeded(seed), finite_scores():
            part = attribute(networks[place], inputs=image, baselines=0.0, target=target, feature_mask=mask)
        maps.append(part[:, 0])
    return torch.cat(maps).float()


@contextmanager
def finite_scores() -> Iterator[None]:
    """Raise `InputError` if a regression inside the block meets NaN."""
    try:
        yield
    except ValueError as error:
        if "NaN" not in str(error):
            raise
        raise not_finite("scores of the network") from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generator of the CPU inside the block: the only one from which Captum draws."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
