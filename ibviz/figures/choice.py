"""Which images a figure shows, by a rule that a sidecar repeats: `record={"chosen": by_seed(200, 6).account()}`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ibviz.errors import InputError

NAMED = {"best": 1.0, "median": 0.5, "worst": 0.0}


class Choice(NamedTuple):
    """Numbers of the chosen images, and the rule that they follow from."""

    images: list[int]
    rule: dict[str, Any]

    def account(self) -> dict[str, Any]:
        """Rule and images, for a record."""
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
    """Take these images, in this order.

    >>> by_list(10, [7, 2]).account()
    {'by': 'list', 'of': 10, 'images': [7, 2]}
    """
    beyond = [one for one in images if not 0 <= one < total]
    if beyond or not images:
        raise InputError(f"images are numbered from 0 to {total - 1}, and at least one is needed; got {list(images)}")
    return Choice(list(images), {"by": "list", "of": total})


def by_quantile(
    values: Sequence[float],
    quantiles: Sequence[str | float] = ("best", "median", "worst"),
    *,
    metric: str,
    each: int = 1,
    lower_is_better: bool = False,
) -> Choice:
    """Take `each` images about every quantile of a metric, one value an image, from best (1) to worst (0).

    Images whose value is NaN are not eligible; equal values are ranked by the number of the image; no image comes
    twice. The rule notes the values of the chosen.

    >>> by_quantile([0.2, 0.9, 0.5], metric="srg").images
    [1, 2, 0]
    """
    shares = [NAMED.get(one, one) if isinstance(one, str) else one for one in quantiles]
    if not shares or not all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares):
        raise InputError(f"quantiles are {', '.join(NAMED)}, or numbers from 0 to 1; got {list(quantiles)}")
    given = np.asarray(values, dtype=float)
    ranked = np.argsort(given if not lower_is_better else -given, kind="stable")  # worst first, NaN last
    ranked = [int(one) for one in ranked if not np.isnan(given[one])]
    if len(ranked) < each * len(shares):
        raise InputError(
            f"{each} images about each of {len(shares)} quantiles need as many with a value of {metric}; "
            f"got {len(ranked)} of {len(given)} images"
        )
    images: list[int] = []
    for middle in [float(share) * (len(ranked) - 1) for share in shares]:
        nearest = sorted(range(len(ranked)), key=lambda rank, middle=middle: abs(rank - middle))
        images += [ranked[rank] for rank in nearest if ranked[rank] not in images][:each]
    told = {"by": "quantile", "metric": metric, "quantiles": list(quantiles), "lower_is_better": lower_is_better}
    shown = {"of": len(given), "eligible": len(ranked), "values": [float(given[one]) for one in images]}
    return Choice(images, told | shown)
