"""Choice of the images of a figure by a rule that its sidecar repeats: `record={"chosen": choice.account()}`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ibviz.errors import InputError

NAMED = {"best": 1.0, "median": 0.5, "worst": 0.0}


class Choice(NamedTuple):
    """Indices of the chosen images, and the rule by which they were chosen."""

    images: list[int]
    rule: dict[str, Any]

    def account(self) -> dict[str, Any]:
        """Return rule and images for the `record` of a figure."""
        return {**self.rule, "images": self.images}


def by_seed(total: int, count: int, *, seed: int = 0) -> Choice:
    """Draw `count` of `total` images without replacement, in ascending order.

    >>> by_seed(3, 3).images
    [0, 1, 2]
    """
    if not 1 <= count <= total:
        raise InputError(f"asked for {count} of {total} images; at least one and at most all can be drawn")
    drawn = np.random.default_rng(seed).choice(total, count, replace=False)
    return Choice(sorted(drawn.tolist()), {"by": "seed", "seed": seed, "of": total})


def by_list(total: int, images: Sequence[int]) -> Choice:
    """Choose the given images in the given order.

    >>> by_list(10, [7, 2]).account()
    {'by': 'list', 'of': 10, 'images': [7, 2]}
    """
    if not images or not all(0 <= image < total for image in images):
        raise InputError(f"images are numbered from 0 to {total - 1}, and at least one is needed; got {list(images)}")
    return Choice(list(images), {"by": "list", "of": total})


def by_class(labels: Sequence[int], count: int, *, seed: int = 0) -> Choice:
    """Draw `count` images spread over the classes: one of each class in random order before a second of any.

    Args:
        labels: Class of each image; images of unknown class, -1, are drawn last.
        count: Number of images.
        seed: Seed of the order of the classes, and of the images within each.

    >>> sorted(by_class([0, 0, 0, 0, 1, 2], 3).images)[-2:]
    [4, 5]
    """
    total = len(labels)
    if not 1 <= count <= total:
        raise InputError(f"asked for {count} of {total} images; at least one and at most all can be drawn")
    generator = np.random.default_rng(seed)
    order, places = generator.permutation(total).tolist(), generator.permutation(total)
    turn: dict[int, int] = {}  # images of each class so far
    keys = []
    for image in order:
        label = int(labels[image])
        turn[label] = turn.get(label, 0) + 1
        keys.append((label < 0, turn[label], places[image], image))
    images = sorted(image for *_, image in sorted(keys)[:count])
    return Choice(images, {"by": "spread over classes", "seed": seed, "of": total})


def by_quantile(
    values: Sequence[float],
    quantiles: Sequence[str | float] = ("best", "median", "worst"),
    *,
    metric: str,
    each: int = 1,
    lower_is_better: bool = False,
) -> Choice:
    """Choose `each` images around every quantile of a metric, from best (1) to worst (0).

    Images whose value is NaN are not eligible. Equal values are ranked by the index of the image. No image is chosen
    twice. The rule records the values of the chosen images.

    Args:
        values: Value of the metric per image.
        quantiles: "best", "median", "worst", or numbers from 0 to 1.
        metric: Name of the metric, for the record.
        each: Number of images per quantile.
        lower_is_better: True for metrics of which the least value is best.

    Raises:
        InputError: If a quantile is unknown or fewer images than necessary have a value.

    >>> by_quantile([0.2, 0.9, 0.5], metric="srg").images
    [1, 2, 0]
    """
    shares = [NAMED.get(quantile, quantile) if isinstance(quantile, str) else quantile for quantile in quantiles]
    if not shares or not all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares):
        raise InputError(f"quantiles are {', '.join(NAMED)}, or numbers from 0 to 1; got {list(quantiles)}")
    given = np.asarray(values, dtype=float)
    ranked = np.argsort(given if not lower_is_better else -given, kind="stable")  # worst first, NaN last
    ranked = [int(image) for image in ranked if not np.isnan(given[image])]
    if len(ranked) < each * len(shares):
        raise InputError(
            f"{each} images about each of {len(shares)} quantiles need as many with a value of {metric}; "
            f"got {len(ranked)} of {len(given)} images"
        )
    images: list[int] = []
    for middle in [float(share) * (len(ranked) - 1) for share in shares]:
        nearest = sorted(range(len(ranked)), key=lambda rank, middle=middle: abs(rank - middle))
        images += [ranked[rank] for rank in nearest if ranked[rank] not in images][:each]
    rule = {"by": "quantile", "metric": metric, "quantiles": list(quantiles), "lower_is_better": lower_is_better}
    result = {"of": len(given), "eligible": len(ranked), "values": [float(given[image]) for image in images]}
    return Choice(images, rule | result)
