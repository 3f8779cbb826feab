"""Interventions on the gate: predictions of a network when its attention is replaced and the image is unchanged."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ibviz.anchors.batches import images_at, index_batches, require_attention
from ibviz.data.image_set import ImageSet
from ibviz.errors import InputError, unknown
from ibviz.models.classifier import IBClassifier
from ibviz.models.hooks import evaluating
from ibviz.models.reliance import (
    REPLACEMENTS,
    at_mean,
    classification_scores,
    derangement,
    mean_map,
    reversed_values,
)
from ibviz.types import AttentionMap, Images, Labels, Maps

_MAPS_PER_PASS = 8  # maps per image in one pass behind the gate; bounds the memory


class Donors(NamedTuple):
    """Maps from other images, to replace an image's own."""

    other: Maps  # the map of another image, for each image
    average: Float[Tensor, "1 gh gw"]  # mean over all images of the study


def flatten_to_mean(own: AttentionMap, donors: Donors) -> Maps:
    """Set every cell to the mean of its map, which keeps the level and removes the location."""
    del donors
    return at_mean(own.values())


def use_average(own: AttentionMap, donors: Donors) -> Maps:
    """Return the average map of all images, the same for every image."""
    return donors.average.expand_as(own.mean)


def swap(own: AttentionMap, donors: Donors) -> Maps:
    """Return the map of another image: typical attention at the wrong location."""
    del own
    return donors.other


def reverse(own: AttentionMap, donors: Donors) -> Maps:
    """Reverse the order of the cells within the map's range; off the distribution, see `reversed_values`."""
    del donors
    return reversed_values(own.values())


def unquantised(own: AttentionMap, donors: Donors) -> Maps:
    """Return the attention before the quantiser; for a continuous model, the attention itself."""
    del donors
    return own.mean


def set_to_anchor(own: AttentionMap, donors: Donors, *, anchor: int) -> Maps:
    """Set every cell to one anchor."""
    del donors
    return _anchors(own)[anchor].expand_as(own.mean)


def keep(own: AttentionMap, donors: Donors, *, anchor: int) -> Maps:
    """Set cells below the anchor's value to the lowest anchor, and keep the rest."""
    del donors
    values, anchors = own.values(), _anchors(own)
    return values.where(values >= anchors[anchor], anchors.min())


def erase(own: AttentionMap, donors: Donors, *, anchor: int) -> Maps:
    """Set cells at one anchor to the mean of their map, and keep the rest."""
    del donors
    values = own.values()
    return values.where(own.index != anchor, at_mean(values))


def _anchors(own: AttentionMap) -> Float[Tensor, " q"]:
    assert own.anchors is not None
    return own.anchors


class Intervention(NamedTuple):
    """An intervention: `function(own, donors, **options)` returns the values that replace the attention `own`."""

    function: Callable[..., Maps]
    label: str
    by_anchor: bool = False  # takes `anchor`, an index into the table of anchors


INTERVENTIONS: dict[str, Intervention] = {
    "mean": Intervention(flatten_to_mean, REPLACEMENTS["mean"]),
    "average": Intervention(use_average, REPLACEMENTS["average"]),
    "swap": Intervention(swap, REPLACEMENTS["other"]),
    "reversed": Intervention(reverse, REPLACEMENTS["reversed"]),
    "unquantised": Intervention(unquantised, "without the quantiser"),
    "uniform": Intervention(set_to_anchor, "every cell at anchor k", by_anchor=True),
    "keep": Intervention(keep, "only anchors >= k, the rest at the lowest", by_anchor=True),
    "erase": Intervention(erase, "cells of anchor k at their map's mean", by_anchor=True),
}


class Variant(NamedTuple):
    """Name of an intervention and, if it has one, the index of its anchor."""

    name: str
    anchor: int | None = None


CELL_EDITS = {
    "drop": "the chosen cells at the lowest anchor",
    "keep": "all other cells at the lowest anchor",
    "set": "the chosen cells at anchor k",
    "mean": "the chosen cells at their map's mean",
    "swap": "the chosen cells as in another image",
}  # what is done to the cells at several anchors, by name


class CellEdit(NamedTuple):
    """Other values for all cells at some anchors; the other cells stay."""

    edit: str  # in `CELL_EDITS`
    chosen: tuple[int, ...]  # indices of anchors
    anchor: int | None = None  # for "set": the index of the anchor that the cells are set to

    @property
    def name(self) -> str:
        """The name of the intervention in tables."""
        return f"{self.edit} cells"

    def values(self, own: AttentionMap, donors: Donors) -> Maps:
        """Return the values that enter the network; an `InputError` for an unknown edit or anchor."""
        if self.edit not in CELL_EDITS:
            raise unknown("edit of cells", self.edit, list(CELL_EDITS))
        last = -1 if own.index is None else len(_anchors(own)) - 1
        named = [*self.chosen, *([] if self.anchor is None else [self.anchor])]
        if own.index is None or (self.anchor is None) == (self.edit == "set") or not all(0 <= k <= last for k in named):
            raise InputError(
                f"edits of cells name anchors from 0 to {last}, and only 'set' one to set them to; got {tuple(self)}"
            )
        lit = torch.isin(own.index, torch.tensor(self.chosen, dtype=own.index.dtype, device=own.index.device))
        values, lowest = own.values(), _anchors(own).min()
        others = {"set": _anchors(own)[self.anchor or 0], "mean": at_mean(values), "swap": donors.other}
        return torch.where(~lit if self.edit == "keep" else lit, others.get(self.edit, lowest), values)


def variants(anchors: int | None) -> list[Variant]:
    """List all interventions on a model with this number of anchors, those with an anchor once for each.

    For a continuous model, `anchors` is None.

    >>> len(variants(20)), [variant.name for variant in variants(None)]
    (65, ['mean', 'average', 'swap', 'reversed', 'unquantised'])
    """
    whole = [Variant(name) for name, intervention in INTERVENTIONS.items() if not intervention.by_anchor]
    by_anchor = [name for name, intervention in INTERVENTIONS.items() if intervention.by_anchor]
    return whole + [Variant(name, anchor) for name in by_anchor for anchor in range(anchors or 0)]


def edited(own: AttentionMap, donors: Donors, variant: Variant | CellEdit) -> Maps:
    """Return the values that enter the network instead of `own`.

    Raises `InputError` for an unknown intervention, or an anchor that the attention does not have.

    >>> values = torch.tensor([[[0.0, 1.0]]])
    >>> attention = AttentionMap(values, values, values.long(), torch.tensor([0.0, 1.0]))
    >>> donors = Donors(other=values.flip(2), average=values)
    >>> edited(attention, donors, Variant("mean")), edited(attention, donors, Variant("uniform", 1))
    (tensor([[[0.5000, 0.5000]]]), tensor([[[1., 1.]]]))
    """
    if isinstance(variant, CellEdit):
        return variant.values(own, donors)
    name, anchor = variant
    if name not in INTERVENTIONS:
        raise unknown("intervention", name, list(INTERVENTIONS))
    if not INTERVENTIONS[name].by_anchor:
        if anchor is not None:
            raise InputError(f"intervention {name!r} is about no anchor; leave it out")
        return INTERVENTIONS[name].function(own, donors)
    count = 0 if own.anchors is None else len(own.anchors)
    if anchor is None or not 0 <= anchor < count:
        has = f"0 to {count - 1}" if count else "none, its attention being continuous"
        raise InputError(f"intervention {name!r} needs an anchor of the model, which has {has}; got {anchor}")
    return INTERVENTIONS[name].function(own, donors, anchor=anchor)


class Effects(NamedTuple):
    """Outcome of each variant on each image: the fields up to `nats` are per image, the rest per variant and image."""

    variants: tuple[Variant | CellEdit, ...]
    labels: Labels  # -1: unknown
    predicted: Labels  # with the unchanged attention
    probability: Float[Tensor, " n"]  # of the predicted class
    nats: Float[Tensor, " n"]  # cross-entropy against the label; NaN without a label
    cells: Float[Tensor, "v n"]  # number of cells whose value changes
    change: Float[Tensor, "v n"]  # of the predicted class's probability: after minus before
    correct: Float[Tensor, "v n"]  # change of correctness (1 or 0); NaN without a label
    flipped: Float[Tensor, "v n"]  # 1 if another class is predicted
    cross_entropy: Float[Tensor, "v n"]  # change of `nats`

    def of(self, name: str) -> "Effects":
        """Select the variants of one intervention."""
        kept = [number for number, variant in enumerate(self.variants) if variant.name == name]
        chosen = tuple(self.variants[number] for number in kept)
        return Effects(chosen, *self[1:5], *(part[kept] for part in self[5:]))

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return one row per variant and image; `names` are those of the images."""
        columns = [part.tolist() for part in self[5:]]
        return [
            {"image": image, "name": names[image], "intervention": variant.name, "anchor": variant.anchor}
            | {key: column[number][image] for key, column in zip(self._fields[5:], columns, strict=True)}
            for number, variant in enumerate(self.variants)
            for image in range(len(names))
        ]


def intervene(
    model: nn.Module,
    images: ImageSet,
    chosen: Sequence[Variant | CellEdit] | None = None,
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> Effects:
    """Replace the attention of each image by every intervention, and measure the effect on the prediction.

    Features, latent mean and decoder are unchanged. The predicted class is the one with the highest probability, so any
    change tends to lower it; the change of accuracy has no such bias.

    Args:
        model: Classifier with trained attention.
        images: Images of the study, at least two; the average map is over all of them.
        chosen: Variants to try, or edits of the cells at several anchors; None: all of `variants`.
        seed: Seed that decides which other image's map each image gets in a swap.
        batch_size: Images per batch; the result does not depend on it.

    Returns:
        Effects per variant and image, on the CPU.

    Raises:
        InputError: The model has no trained attention, a variant does not fit it, or there are fewer than two images.

    >>> from ibviz.models.config import InputConfig, ModelConfig
    >>> from ibviz.data import digits
    >>> spec = InputConfig(size=48, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=tuple("0123456789"))
    >>> intervene(IBClassifier(ModelConfig(anchors=5), spec), digits("test", count=3, seed=0)).change.shape
    torch.Size([20, 3])
    """
    model = require_attention(model)
    tried = tuple(variants(model.config.anchors) if chosen is None else chosen)
    partners, parts = derangement(len(images.labels), seed), []
    with evaluating(model), torch.inference_mode():
        inputs = (
            images_at(images, rows, model) for rows in index_batches(images, batch_size, "looking at the attention")
        )
        maps = torch.cat([model.inspect(own).attention.values() for own in inputs])
        usual = mean_map(maps)
        for rows in index_batches(images, batch_size, "intervening"):
            own, donors = images_at(images, rows, model), Donors(maps[partners[rows].to(maps.device)], usual)
            parts.append(_effects(model, own, donors, images.labels[rows].to(own.device), tried))
    joined = [torch.cat(columns, dim=-1).cpu() for columns in zip(*(part[1:] for part in parts), strict=True)]
    return Effects(tried, *joined)


def _effects(
    model: IBClassifier, images: Images, donors: Donors, labels: Labels, tried: tuple[Variant | CellEdit, ...]
) -> Effects:
    own = model.inspect(images).attention
    values = torch.stack([own.values(), *(edited(own, donors, variant) for variant in tried)])
    logits = torch.cat([model.with_gate(images, part) for part in values.split(_MAPS_PER_PASS)]).float()
    best, (predicted, *_) = logits.argmax(-1), logits.argmax(-1)
    probability = logits.softmax(-1).gather(-1, predicted.expand_as(best).unsqueeze(-1)).squeeze(-1)
    right, nats = classification_scores(logits, labels)
    return Effects(
        tried,
        labels,
        predicted,
        probability[0],
        nats[0],
        cells=(values[1:] != values[0]).sum((2, 3)).float(),
        change=probability[1:] - probability[0],
        correct=right[1:] - right[0],
        flipped=(best[1:] != predicted).float(),
        cross_entropy=nats[1:] - nats[0],
    )
