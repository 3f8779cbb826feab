"""What a network decides when its attention is replaced: interventions on the gate, not on the image."""

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

_MAPS_PER_PASS = 8  # in one pass behind the gate, for each image of a batch; bounds the memory


class Donors(NamedTuple):
    """Maps that do not come from an image itself, as they enter the network."""

    other: Maps  # of another image for each
    average: Float[Tensor, "1 gh gw"]  # over all images of the study


def flatten_to_mean(own: AttentionMap, donors: Donors) -> Maps:
    """Every cell at the mean of its map: the level stays, the places are lost."""
    del donors
    return at_mean(own.values())


def use_average(own: AttentionMap, donors: Donors) -> Maps:
    """The average map of all images: where attention usually lies, the same for every image."""
    return donors.average.expand_as(own.mean)


def swap(own: AttentionMap, donors: Donors) -> Maps:
    """The map of another image: attention of the usual kind, at places that are another's."""
    del own
    return donors.other


def reverse(own: AttentionMap, donors: Donors) -> Maps:
    """The order of the cells reversed within the map's range; off the distribution, see `reversed_values`."""
    del donors
    return reversed_values(own.values())


def unquantised(own: AttentionMap, donors: Donors) -> Maps:
    """Attention as it was before the quantiser; for a continuous model as it is."""
    del donors
    return own.mean


def set_to_anchor(own: AttentionMap, donors: Donors, *, anchor: int) -> Maps:
    """Every cell at one anchor."""
    del donors
    return _anchors(own)[anchor].expand_as(own.mean)


def keep(own: AttentionMap, donors: Donors, *, anchor: int) -> Maps:
    """Cells whose value is below the anchor's drop to the lowest anchor; the rest stay."""
    del donors
    values, anchors = own.values(), _anchors(own)
    return values.where(values >= anchors[anchor], anchors.min())


def erase(own: AttentionMap, donors: Donors, *, anchor: int) -> Maps:
    """Cells at one anchor go to the mean of their map; the rest stay."""
    del donors
    values = own.values()
    return values.where(own.index != anchor, at_mean(values))


def _anchors(own: AttentionMap) -> Float[Tensor, " q"]:
    assert own.anchors is not None
    return own.anchors


class Intervention(NamedTuple):
    """A function `(own, donors, **options)` from the attention of images, and maps of other images, to values."""

    function: Callable[..., Maps]
    label: str
    by_anchor: bool = False  # takes `anchor`, a place in the table of anchors


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
    """An intervention by name, and the anchor it is about."""

    name: str
    anchor: int | None = None


def variants(anchors: int | None) -> list[Variant]:
    """Every intervention on a model of so many anchors, once for each where it is about one; None: continuous.

    >>> len(variants(20)), [variant.name for variant in variants(None)]
    (65, ['mean', 'average', 'swap', 'reversed', 'unquantised'])
    """
    free = [Variant(name) for name, one in INTERVENTIONS.items() if not one.by_anchor]
    about = [name for name, one in INTERVENTIONS.items() if one.by_anchor]
    return free + [Variant(name, anchor) for name in about for anchor in range(anchors or 0)]


def edited(own: AttentionMap, donors: Donors, variant: Variant) -> Maps:
    """Values that enter the network instead of `own`; raises `InputError` for what does not fit the attention.

    >>> values = torch.tensor([[[0.0, 1.0]]])
    >>> seen = AttentionMap(values, values, values.long(), torch.tensor([0.0, 1.0]))
    >>> donors = Donors(other=values.flip(2), average=values)
    >>> edited(seen, donors, Variant("mean")), edited(seen, donors, Variant("uniform", 1))
    (tensor([[[0.5000, 0.5000]]]), tensor([[[1., 1.]]]))
    """
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
    """What each variant does to each image: one number for each image, below `nats` one for each variant as well."""

    variants: tuple[Variant, ...]
    labels: Labels  # -1: unknown
    predicted: Labels  # from the attention as it is
    probability: Float[Tensor, " n"]  # of the predicted class
    nats: Float[Tensor, " n"]  # cross-entropy against the label; NaN without one
    cells: Float[Tensor, "v n"]  # whose value is another one now
    change: Float[Tensor, "v n"]  # of that probability: with the intervention less without
    correct: Float[Tensor, "v n"]  # change of 1 for right and 0 for wrong; NaN without a label
    flipped: Float[Tensor, "v n"]  # 1 where another class is predicted
    cross_entropy: Float[Tensor, "v n"]  # change of `nats`

    def of(self, name: str) -> "Effects":
        """The variants of one intervention."""
        kept = [place for place, variant in enumerate(self.variants) if variant.name == name]
        chosen = tuple(self.variants[place] for place in kept)
        return Effects(chosen, *self[1:5], *(part[kept] for part in self[5:]))

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """One row for each variant and image, the images under their names."""
        columns = [part.tolist() for part in self[5:]]
        return [
            {"image": image, "name": names[image], "intervention": variant.name, "anchor": variant.anchor}
            | {key: column[place][image] for key, column in zip(self._fields[5:], columns, strict=True)}
            for place, variant in enumerate(self.variants)
            for image in range(len(names))
        ]


def intervene(
    model: nn.Module,
    images: ImageSet,
    chosen: Sequence[Variant] | None = None,
    *,
    seed: int = 0,
    batch_size: int = 32,
) -> Effects:
    """Replace the attention of each image in every way, or in those `chosen`, and see what the network says.

    All but the attention stays as it is: features, latent mean, decoder. `seed` decides whose map an image gets in a
    swap; the average map is over all `images`; the result does not depend on `batch_size`. The predicted class was
    chosen for its probability, so a change of any kind tends to lower it; the change of accuracy has no such bias.

    >>> from ibviz.config import InputConfig, ModelConfig
    >>> from ibviz.data import digits
    >>> spec = InputConfig(size=48, mean=(0.5,) * 3, std=(0.2,) * 3, class_names=tuple("0123456789"))
    >>> intervene(IBClassifier(ModelConfig(anchors=5), spec), digits("test", count=3, seed=0)).change.shape
    torch.Size([20, 3])
    """
    model = require_attention(model)
    tried = tuple(variants(model.config.anchors) if chosen is None else chosen)
    partners, parts = derangement(len(images.labels), seed), []
    with evaluating(model), torch.inference_mode():
        looks = (
            images_at(images, rows, model) for rows in index_batches(images, batch_size, "looking at the attention")
        )
        maps = torch.cat([model.inspect(own).attention.values() for own in looks])
        usual = mean_map(maps)
        for rows in index_batches(images, batch_size, "intervening"):
            own, donors = images_at(images, rows, model), Donors(maps[partners[rows].to(maps.device)], usual)
            parts.append(_effects(model, own, donors, images.labels[rows].to(own.device), tried))
    joined = [torch.cat(columns, dim=-1).cpu() for columns in zip(*(part[1:] for part in parts), strict=True)]
    return Effects(tried, *joined)


def _effects(
    model: IBClassifier, images: Images, donors: Donors, labels: Labels, tried: tuple[Variant, ...]
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
