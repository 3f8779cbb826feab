"""Consistency of attention under edits of the image that leave its object intact.

The authors' code hints at such a study (low frequencies, patches, cosine similarity at 0.85, 0.90, 0.95) but does not
contain it, and they published no numbers. The definition used here is our own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.anchors.batches import images_at, index_batches, require_attention
from ibviz.data.image_set import ImageSet
from ibviz.metrics.grid import enlarged
from ibviz.models.classifier import Inspection
from ibviz.models.hooks import evaluating
from ibviz.models.reliance import derangement
from ibviz.statistics import Estimate, estimate
from ibviz.types import Images, Labels, Maps, Scores

Corners = Int[Tensor, "b 2"]  # row and column of a patch's first pixel
SIMILARITY_THRESHOLDS = (0.85, 0.9, 0.95)
LOW_PASS_RADII = (4, 6, 8, 10, 12)  # cycles per image
_SIDES_PER_PATCH = 4  # a patch is a quarter of the image's side: 8 of 32 pixels


class EditInputs(NamedTuple):
    """Inputs from which the edits of a batch are made; random numbers are uniform in [0, 1)."""

    attention: Maps  # mean attention of the unedited images
    others: Images  # another image for each image
    place: Float[Tensor, "b 2"]  # random position of a patch
    source: Float[Tensor, "b 2"]  # random position in the other image from which a patch is cut
    colour: Float[Tensor, "b 3"]  # random colour of a patch


def low_pass(images: Images, radius: int) -> Images:
    """Keep frequencies of at most `radius` cycles per image in any direction, and clip to [0, 1].

    >>> stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 3, 16, 16)  # 8 cycles
    >>> low_pass(stripes, 4).unique(), low_pass(stripes, 8).unique()
    (tensor([0.5000]), tensor([0., 1.]))
    """
    height, width = images.shape[2:]
    down = torch.fft.fftfreq(height, 1 / height, device=images.device)
    across = torch.fft.rfftfreq(width, 1 / width, device=images.device)
    kept = torch.hypot(down[:, None], across) <= radius
    return torch.fft.irfft2(torch.fft.rfft2(images) * kept, s=(height, width)).clamp(0, 1)


def paste(images: Images, patches: Float[Tensor, "b 3 s s"], corners: Corners) -> Images:
    """Paste a patch into each image, with the patch's first pixel at its corner.

    >>> paste(torch.zeros(1, 3, 2, 3), torch.ones(1, 3, 1, 1), torch.tensor([[1, 2]]))[0, 0]
    tensor([[0., 0., 0.],
            [0., 0., 1.]])
    """
    changed = images.permute(0, 2, 3, 1).clone()
    changed[_window(corners, patches.shape[-1])] = patches.permute(0, 2, 3, 1)
    return changed.permute(0, 3, 1, 2)


def crop(images: Images, corners: Corners, side: int) -> Float[Tensor, "b 3 s s"]:
    """Cut a square of `side` pixels out of each image, with its first pixel at the corner.

    >>> crop(torch.arange(4.0).view(1, 1, 2, 2).expand(1, 3, 2, 2), torch.tensor([[1, 0]]), 1)[0, 0]
    tensor([[2.]])
    """
    return images.permute(0, 2, 3, 1)[_window(corners, side)].permute(0, 3, 1, 2)


def _window(corners: Corners, side: int) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = (corners[:, axis, None] + torch.arange(side, device=corners.device) for axis in (0, 1))
    batch = torch.arange(len(corners), device=corners.device)[:, None, None]
    return batch, rows[:, :, None], columns[:, None, :]


def patch_side(images: Images) -> int:
    """Side of a patch in pixels: a quarter of the image's shorter side.

    >>> patch_side(torch.zeros(1, 3, 32, 32))
    8
    """
    return max(1, round(min(images.shape[2:]) / _SIDES_PER_PATCH))


def random_corners(images: Images, uniform: Float[Tensor, "b 2"]) -> Corners:
    """Corners of patches, uniform over all positions inside the image, from numbers in [0, 1)."""
    free = [size - patch_side(images) + 1 for size in images.shape[2:]]
    return (uniform * uniform.new_tensor(free)).long()


def corners_by_attention(images: Images, attention: Maps, *, most: bool) -> Corners:
    """Corners at which a patch covers the most attention, or the least.

    >>> attention = torch.tensor([[[0.1, 0.2], [0.9, 0.3]]])
    >>> corners_by_attention(torch.zeros(1, 3, 4, 4), attention, most=True).tolist()
    [[2, 0]]
    """
    pixels = enlarged(attention, (images.shape[2], images.shape[3]), "nearest")
    covered = F.avg_pool2d(pixels.unsqueeze(1), patch_side(images), stride=1)
    best = covered.flatten(1).argmax(1) if most else covered.flatten(1).argmin(1)
    return torch.stack([best // covered.shape[-1], best % covered.shape[-1]], dim=1)


def _colour(images: Images, inputs: EditInputs) -> Float[Tensor, "b 3 s s"]:
    return inputs.colour[:, :, None, None].expand(-1, -1, *[patch_side(images)] * 2)


def _cut_out(images: Images, inputs: EditInputs) -> Float[Tensor, "b 3 s s"]:
    return crop(inputs.others, random_corners(images, inputs.source), patch_side(images))


_PATCHES: dict[str, Callable[[Images, EditInputs], Tensor]] = {"one colour": _colour, "another image": _cut_out}
_PLACES: dict[str, Callable[[Images, EditInputs], Corners]] = {
    "anywhere": lambda images, inputs: random_corners(images, inputs.place),
    "on the most attention": lambda images, inputs: corners_by_attention(images, inputs.attention, most=True),
    "on the least attention": lambda images, inputs: corners_by_attention(images, inputs.attention, most=False),
}
_CONTROL = "another image altogether"  # similarity if nothing is the same


def edits(images: Images, inputs: EditInputs) -> Iterator[tuple[str, Images]]:
    """Yield the name and the images of every edit of a batch, the control last."""
    for radius in LOW_PASS_RADII:
        yield f"low-pass, {radius} cycles", low_pass(images, radius)
    for filling, patch in _PATCHES.items():
        for place, corners in _PLACES.items():
            yield f"patch of {filling}, {place}", paste(images, patch(images, inputs), corners(images, inputs))
    yield _CONTROL, inputs.others


class Consistency(NamedTuple):
    """Results per edit and image; `correct` is for the unedited images, NaN without a label."""

    edits: tuple[str, ...]
    correct: Scores
    cosine: Float[Tensor, "e n"]  # similarity of the mean attention before and after, in [0, 1]
    accuracy: Float[Tensor, "e n"]  # change of correctness (1 or 0); NaN without a label
    flipped: Float[Tensor, "e n"]  # 1 if another class is predicted

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return one row per edit and image; `names` are those of the images."""
        columns = {name: part.tolist() for name, part in zip(self._fields[2:], self[2:], strict=True)}
        return [
            {"image": image, "name": names[image], "edit": edit}
            | {name: column[place][image] for name, column in columns.items()}
            for place, edit in enumerate(self.edits)
            for image in range(len(names))
        ]


def consistency(model: nn.Module, images: ImageSet, *, seed: int = 0, batch_size: int = 64) -> Consistency:
    """Compare the attention of every image with the attention of its edits.

    The edits are low-pass filters; patches of a quarter of the side, of a random colour or cut out of another image, at
    a random position, on the most attention and on the least; and as a control a different image. If attention is
    nearly constant, every similarity is near 1, including that of the control.

    Args:
        model: Classifier with trained attention.
        images: Images to edit, at least two.
        seed: Seed of all random draws.
        batch_size: Images per batch; the result does not depend on it.

    Raises:
        InputError: The model has no trained attention, or there are fewer than two images.
    """
    model = require_attention(model)
    count = len(images.labels)
    partners = derangement(count, seed)
    drawn = torch.rand(count, 7, generator=torch.Generator().manual_seed(seed))
    names: tuple[str, ...] = ()
    parts = []
    with evaluating(model), torch.inference_mode():
        for rows in index_batches(images, batch_size, "editing images"):
            own, others = (images_at(images, indices, model) for indices in (rows, partners[rows]))
            before = model.inspect(own)
            place, source, colour = drawn[rows].to(own.device).split([2, 2, 3], dim=1)
            inputs = EditInputs(before.attention.mean, others, place, source, colour)
            after = {name: model.inspect(edited) for name, edited in edits(own, inputs)}
            parts.append(_compared(before, list(after.values()), images.labels[rows].to(own.device)))
            names = tuple(after)
    return Consistency(names, *(torch.cat(columns, dim=-1).cpu() for columns in zip(*parts, strict=True)))


def _compared(before: Inspection, after: Sequence[Inspection], labels: Labels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    best = torch.stack([inspection.logits.argmax(1) for inspection in (before, *after)])
    right = (best == labels).float().masked_fill(labels < 0, torch.nan)
    maps = torch.stack([inspection.attention.mean.float().flatten(1) for inspection in (before, *after)])
    flipped = (best[1:] != best[0]).float()
    return right[0], F.cosine_similarity(maps[1:], maps[:1], dim=-1), right[1:] - right[0], flipped


class ConsistencySummary(NamedTuple):
    """Summary of one edit over all images; `similar` is the share of images at or above each cosine threshold."""

    edit: str
    cosine: Estimate
    similar: dict[float, Estimate]
    similar_of_correct: dict[float, Estimate]  # over images that are classified correctly before the edit
    accuracy: Estimate  # change of accuracy
    flips: Estimate  # share of images with another predicted class


def summarise_edits(results: Consistency) -> list[ConsistencySummary]:
    """Summarise each edit over images, with 95 % bootstrap intervals."""
    return [_summary(*columns, results.correct == 1) for columns in zip(results.edits, *results[2:], strict=True)]


def _summary(edit: str, cosine: Tensor, accuracy: Tensor, flipped: Tensor, right: Tensor) -> ConsistencySummary:
    above = {threshold: (cosine >= threshold).float() for threshold in SIMILARITY_THRESHOLDS}
    return ConsistencySummary(
        edit,
        _estimate(cosine),
        {threshold: _estimate(similar) for threshold, similar in above.items()},
        {threshold: _estimate(similar[right]) for threshold, similar in above.items()},
        _estimate(accuracy),
        _estimate(flipped),
    )


def _estimate(values: Tensor) -> Estimate:
    return estimate(values.tolist())
