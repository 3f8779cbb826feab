"""What the target's score loses when windows, random cells or superpixels of the image are hidden behind black.

Draws follow from `seed` alone and are shared by all images, so that a map depends neither on its batch nor on the
device. The native grid is that of the pixels. Images that are asked about for several targets pass the network once.

Superpixels are SLIC's (Achanta 2012) of each image, in the form that weighs colour against distance by itself, since a
fixed weight finds a single one in a noisy image. Every pixel of one has its value.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.attribution.passes import Count, copies_a_pass, fine, laid_out, rows_a_pass
from ibviz.errors import InputError, not_finite
from ibviz.heads import head_of
from ibviz.types import Grid, Images, Labels, Maps

KEPT = 0.5  # probability with which a cell of RISE's masks is seen
LIME_KERNEL = 0.25  # width of LIME's kernel on images, in cosine distance
Segments = Annotated[int, Field(ge=2)]
Cells = Float[Tensor, "n rows columns"]
Logits = Float[Tensor, "n classes"]
Pieces = Int[Tensor, "n h w"]  # of each pixel, the number of its superpixel


class Asked(NamedTuple):
    """What has to be asked about a batch: every different image once, for all targets together."""

    images: Images
    classes: Labels
    image: Labels  # of each of the batch, its place in `images`
    target: Labels  # and its target's in `classes`


def occlusion(
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    window: Count | None = None,
    stride: Count | None = None,
    batch_size: Count = 64,
) -> Maps:
    """Mean loss of the logit over the black windows that cover a pixel (Zeiler 2014), through Captum.

    `window` is a side in pixels, an eighth of the image's shorter side if None; `stride` is half a window if None.
    """
    from captum.attr import Occlusion

    side = window or max(1, min(images.shape[2:]) // 8)
    step = stride or max(1, side // 2)
    if side > min(images.shape[2:]) or step > side:
        raise InputError(
            f"occlusion's window has to fit into the image of {tuple(images.shape[2:])} pixels, and its "
            f"stride into the window, so that no pixel is left out; got {side} and {step}"
        )
    parts = Occlusion(partial(logits_of, model)).attribute(
        images,
        sliding_window_shapes=(images.shape[1], side, side),
        strides=(images.shape[1], step, step),
        baselines=0.0,
        target=targets,
        perturbations_per_eval=copies_a_pass(images, batch_size),
    )
    return cast(Tensor, parts)[:, 0].float()


def rise(  # noqa: PLR0913 - three inputs, four options
    model: nn.Module,
    images: Images,
    targets: Labels,
    *,
    masks: Count = 1000,
    grid: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (7, 7),
    seed: int = 0,
    batch_size: Count = 64,
) -> Maps:
    """RISE (Petsiuk 2018): random masks averaged by the probability of the image seen through them.

    The network's head says what a probability is; of a regression the output itself stands for it. Masks are coin
    flips on `grid`, enlarged and shifted by up to a cell; all images share them. On pixels, in units of probability;
    the noise falls with the root of `masks`, of which the paper takes 4000 to 8000 at 224 px.
    """
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.rand(masks, *grid, generator=generator) < KEPT).to(images)
    sides = torch.tensor([-(-side // count) for side, count in zip(images.shape[2:], grid, strict=True)])
    shifts = (torch.rand(masks, 2, generator=generator) * sides).long().to(images.device)
    questions, head = asked(images, targets), head_of(model)
    rows = copies_a_pass(questions.images, batch_size)
    total = fine(images.new_zeros(len(images), images[0, 0].numel()))
    for part, shift in zip(cells.split(rows), shifts.split(rows), strict=True):
        seen = shifted_masks(part, shift, (images.shape[2], images.shape[3]))
        states = (seen[:, None, None] * questions.images).flatten(0, 1)
        scores = head.probability(logits_of(model, states))[:, questions.classes].unflatten(0, (len(seen), -1))
        with torch.autocast(images.device.type, enabled=False):  # it would round the sum
            total += scores[:, questions.image, questions.target].to(total).T @ seen.flatten(1).to(total)
    return (total.view(-1, *images.shape[2:]) / (KEPT * masks)).float()


def feature_ablation(
    model: nn.Module, images: Images, targets: Labels, *, segments: Segments = 50, batch_size: Count = 64
) -> Maps:
    """What the logit loses when one superpixel turns black."""
    from captum.attr import FeatureAblation

    parts = FeatureAblation(partial(logits_of, model)).attribute(
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
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime
    from captum.attr._core.lime import get_exp_kernel_similarity_function

    kernel = get_exp_kernel_similarity_function("cosine", kernel_width=LIME_KERNEL)
    questions, rows = asked(images, targets), rows_a_pass(images, batch_size)

    def attribute(network: Callable[[Images], Logits], **given: Any) -> Tensor:
        method = Lime(network, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=kernel)
        return method.attribute(**given, n_samples=samples, perturbations_per_eval=rows)

    return _image_by_image(model, attribute, questions, superpixels(questions.images, segments), seed)


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

    Raises `InputError` for fewer samples than superpixels, which leave the regression open, and for a single one.
    """
    from captum.attr import KernelShap

    questions, rows = asked(images, targets), rows_a_pass(images, batch_size)
    pieces = superpixels(questions.images, segments)
    fewest, most = (int(count) + 1 for count in pieces.flatten(1).amax(1).aminmax())
    if fewest < 2 or samples < most:
        raise InputError(
            f"kernel_shap needs at least 2 superpixels in every image and one sample a superpixel; got "
            f"{samples} samples for {fewest} to {most}; change samples or segments"
        )

    def attribute(network: Callable[[Images], Logits], **given: Any) -> Tensor:
        return KernelShap(network).attribute(**given, n_samples=samples, perturbations_per_eval=rows)

    return _image_by_image(model, attribute, questions, pieces, seed)


def superpixels(images: Images, segments: int) -> Int[Tensor, "b h w"]:
    """About `segments` SLIC superpixels of each image, numbered from 0.

    >>> superpixels(torch.rand(2, 3, 16, 16), 4).shape
    torch.Size([2, 16, 16])
    """
    from skimage.segmentation import slic

    pixels = images.permute(0, 2, 3, 1).double().cpu().numpy()
    parts = [slic(one, segments, slic_zero=True, start_label=0, channel_axis=-1) for one in pixels]
    return torch.stack([torch.from_numpy(part) for part in parts]).to(images.device)


def shifted_masks(cells: Cells, shifts: Int[Tensor, "n 2"], size: Grid) -> Float[Tensor, "n h w"]:
    """Masks in [0, 1] of `size` from values of cells: enlarged bilinearly by one cell more, then cut out at `shifts`.

    >>> shifted_masks(torch.ones(1, 2, 2), torch.tensor([[1, 0]]), (4, 4)).unique()
    tensor([1.])
    """
    cell = [-(-side // count) for side, count in zip(size, cells.shape[1:], strict=True)]
    large = [(count + 1) * side for count, side in zip(cells.shape[1:], cell, strict=True)]
    enlarged = F.interpolate(cells.unsqueeze(1), large, mode="bilinear", align_corners=False).squeeze(1)
    rows, columns = (
        shifts[:, [axis]] + torch.arange(size[axis], device=cells.device) for axis in (0, 1)
    )  # one run of places for each mask
    return enlarged[torch.arange(len(cells), device=cells.device)[:, None, None], rows[:, :, None], columns[:, None]]


def asked(images: Images, targets: Labels) -> Asked:
    """The different images of a batch and the different targets.

    >>> asked(torch.zeros(2, 3, 4, 4), torch.tensor([7, 5])).images.shape
    torch.Size([1, 3, 4, 4])
    """
    different, image = images.unique(dim=0, return_inverse=True)
    classes, target = targets.unique(return_inverse=True)
    return Asked(different, classes, image, target)


@torch.no_grad()
def logits_of(model: nn.Module, images: Images) -> Logits:
    """Logits, float32 or finer."""
    return fine(model(laid_out(images)))


class _Replayed:
    """A network's answers about some classes, remembered: whoever asks the same again from the start hears them."""

    def __init__(self, model: nn.Module, classes: Labels) -> None:
        self.model, self.classes, self.said, self.place = model, classes, list[Tensor](), 0

    def __call__(self, images: Images) -> Logits:
        if self.place == len(self.said):
            self.said.append(logits_of(self.model, images)[:, self.classes])
        self.place += 1
        return self.said[self.place - 1]


def _image_by_image(
    model: nn.Module, attribute: Callable[..., Tensor], questions: Asked, pieces: Pieces, seed: int
) -> Maps:
    """Captum fits one regression at a time; coalitions follow from `seed`, so that targets share their passes."""
    maps, networks = [], [_Replayed(model, questions.classes) for _ in questions.images]
    for place, target in zip(questions.image.tolist(), questions.target.tolist(), strict=True):
        networks[place].place = 0
        inputs, mask = questions.images[place : place + 1], pieces[place][None, None]
        with seeded(seed), finite_scores():
            part = attribute(networks[place], inputs=inputs, baselines=0.0, target=target, feature_mask=mask)
        maps.append(part[:, 0])
    return torch.cat(maps).float()


def enlarged(grids: Float[Tensor, "b c gh gw"], images: Images) -> Float[Tensor, "b c h w"]:
    """Bilinearly, to the size of the images and in their precision."""
    return F.interpolate(grids.to(images.dtype), images.shape[2:], mode="bilinear", align_corners=False)


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
    """Inside the block, the CPU's global generator starts from `seed`; Captum draws from no other."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
