"""Superpixel methods: ablation, LIME and KernelSHAP over superpixels that turn black.

Superpixels are those of SLIC (Achanta 2012) for each image, in the variant that chooses the weight of colour against
distance itself: with a fixed weight a noisy image becomes a single superpixel. Pixels of a superpixel share a value.
Random draws follow from `seed` alone and are shared by all images, so that a map depends neither on its batch nor on
the device. An image that is explained for several targets passes the network once.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from ibviz.attribution.forward_pass import (
    DistinctInputs,
    copies_per_pass,
    distinct_inputs,
    images_per_pass,
    predict_logits,
)
from ibviz.attribution.sampling import BLOCK, Drawing, ErrorLimit, Sampling, record_errors, units_in
from ibviz.attribution.superpixel_fits import (
    Choices,
    ChoiceScores,
    Coefficients,
    Superpixels,
    fit_kernel_shap,
    fit_lime,
    kernel_choices,
    random_choices,
)
from ibviz.errors import InputError, not_finite
from ibviz.heads import Logits
from ibviz.settings import Count
from ibviz.types import Images, Labels, Maps

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


def lime(  # noqa: PLR0913 - three inputs, six options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: AtLeastTwo = 500,
    sampling: Sampling = "paired",
    error: ErrorLimit | None = None,
    segments: AtLeastTwo = 50,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """LIME (Ribeiro 2016): weights of a ridge regression of the target's logit on the superpixels that are shown.

    Samples more like the image weigh more, by cosine distance. With "plain" the map is that of Captum for the same
    seed; with "paired" each choice of superpixels comes with its complement, and the regression is the same.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        samples: Most random choices of superpixels per image.
        sampling: "paired" (an odd number of samples is rounded up) or "plain".
        error: Draw in blocks of 64 samples until the standard error is below this share of the map's size, for each
            image by itself; None to draw all. Both are root mean squares over pixels, of the map minus its mean;
            `ibviz.attribution.recorded_errors` tells the error reached.
        segments: Approximate number of superpixels per image.
        seed: Seed of the choices.
        batch_size: The most changed images in one pass.

    Returns:
        One value per pixel, in units of the logit.
    """
    inputs = distinct_inputs(images, targets)
    index, units = superpixels(inputs.images, segments), units_in(samples, sampling)

    def drawn(count: int) -> Choices:
        return random_choices(units, count, sampling, torch.Generator().manual_seed(seed))

    return _maps_from_choices(model, inputs, index, drawn, partial(fit_lime, sampling), error, batch_size)


def kernel_shap(  # noqa: PLR0913 - three inputs, six options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    samples: AtLeastTwo = 500,
    sampling: Sampling = "paired",
    error: ErrorLimit | None = None,
    segments: AtLeastTwo = 50,
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """KernelSHAP (Lundberg 2017): Shapley values of superpixels by weighted regression; sum f(image) - f(black).

    With "plain" the map is that of Captum for the same seed. With "paired" each choice of superpixels comes with its
    complement (Covert and Lee 2021), and the regression's matrix is not estimated but exact, which makes the map
    unbiased; see `fit_kernel_shap`.

    Args:
        model: Any network.
        images: `(b, channels, h, w)` in [0, 1].
        targets: Class of each image.
        samples: Most choices of superpixels per image, with the whole image and the black one; at least one per
            superpixel.
        sampling: "paired" (an odd number of samples is rounded up) or "plain".
        error: Draw in blocks of 64 samples until the standard error is below this share of the map's size, for each
            image by itself; None to draw all. Both are root mean squares over pixels, of the map minus its mean;
            `ibviz.attribution.recorded_errors` tells the error reached.
        segments: Approximate number of superpixels per image.
        seed: Seed of the choices.
        batch_size: The most changed images in one pass.

    Returns:
        One value per pixel, in units of the logit.

    Raises:
        InputError: If there are fewer samples than superpixels, which do not determine the regression, or if an image
            has a single superpixel.
    """
    inputs = distinct_inputs(images, targets)
    index = superpixels(inputs.images, segments)
    fewest, most = (int(count) + 1 for count in index.flatten(1).amax(1).aminmax())
    if fewest < 2 or samples < most:
        raise InputError(
            f"kernel_shap needs at least 2 superpixels in every image and one sample per superpixel; got "
            f"{samples} samples for {fewest} to {most}; change samples or segments"
        )

    units = max(1, units_in(samples - 2, sampling))  # beside the image and black

    def drawn(count: int) -> Choices:
        return kernel_choices(units, count, sampling, torch.Generator().manual_seed(seed))

    return _maps_from_choices(model, inputs, index, drawn, partial(fit_kernel_shap, sampling), error, batch_size)


def superpixels(images: Images, segments: int) -> Int[Tensor, "b h w"]:
    """Return the number of the SLIC superpixel of each pixel, from 0; about `segments` superpixels per image.

    >>> superpixels(torch.rand(2, 3, 16, 16), 4).shape
    torch.Size([2, 16, 16])
    """
    from skimage.segmentation import slic

    pixels = images.permute(0, 2, 3, 1).double().cpu().numpy()
    parts = [slic(image, segments, slic_zero=True, start_label=0, channel_axis=-1) for image in pixels]
    return torch.stack([torch.from_numpy(part) for part in parts]).to(images.device)


def _maps_from_choices(  # noqa: PLR0913 - three inputs, what is drawn and what is fitted
    model: nn.Module,
    inputs: DistinctInputs,
    index: SuperpixelIndex,
    drawn: Callable[[int], Choices],
    fit: Callable[[Choices, ChoiceScores, Superpixels], Coefficients],
    error: float | None,
    batch_size: int,
) -> Maps:
    """Return the maps of one regression per image and target, with a value per superpixel.

    The choices of superpixels depend on their number alone, so that the targets of an image share its passes.
    """
    maps = torch.zeros(len(inputs.image_index), *index.shape[1:], device=index.device)
    errors = torch.zeros(len(maps), dtype=torch.float64)
    for place, image in enumerate(inputs.images):
        rows = (inputs.image_index == place).nonzero().flatten().cpu()
        classes, parts = inputs.classes[inputs.class_index[rows]], _superpixels_of(image, index[place])
        choices, drawing, scores = drawn(len(parts.area)), Drawing(len(rows), error), []
        for block in choices.split(len(choices) if error is None else BLOCK):
            scores.append(_choice_scores(model, image, index[place], block, batch_size)[:, classes].double().cpu())
            values, seen = torch.cat(scores), drawing.waiting
            fitted = fit(choices[: len(values)], values[:, seen], parts)
            maps[rows[seen]] = fitted.values[:, index[place].cpu()].to(maps)
            drawing.reach(fitted.errors)
            if not len(drawing.waiting):
                break
        errors[rows] = drawing.errors
    record_errors(errors)
    return maps


def _choice_scores(
    model: nn.Module, image: Float[Tensor, "c h w"], index: Int[Tensor, "h w"], choices: Choices, batch_size: int
) -> Logits:
    """Return the logits of an image of which only the chosen superpixels are shown."""
    logits = [
        predict_logits(model, image * part.to(image)[:, index].unsqueeze(1))
        for part in choices.split(images_per_pass(image[None], batch_size))
    ]
    scores = torch.cat(logits)
    if not scores.isfinite().all():
        raise not_finite("scores of the network")
    return scores


def _superpixels_of(image: Float[Tensor, "c h w"], index: Int[Tensor, "h w"]) -> Superpixels:
    """Return the area and the energy of each superpixel, as shares of the image."""
    flat = index.flatten().cpu()
    area = flat.bincount().double()
    energy = torch.zeros_like(area).index_add_(0, flat, image.double().square().sum(0).flatten().cpu())
    return Superpixels(area / area.sum(), energy / energy.sum().clamp(min=torch.finfo(torch.float64).tiny))
