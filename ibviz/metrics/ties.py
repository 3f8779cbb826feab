"""The order of cells with equal values; in quantised maps most cells are tied, so tie-breaking affects a metric."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ibviz.errors import InputError
from ibviz.metrics.grid import finite
from ibviz.settings import name_in
from ibviz.types import Maps, Scores


class TieReport(NamedTuple):
    """Ties of each map; shares are of cells."""

    levels: Int[Tensor, " b"]  # distinct values
    tie_fraction: Scores  # cells that share their value with another cell
    zero_share: Scores  # cells that are exactly 0, as after a ReLU


def cell_order(values: Float[Tensor, "b cells"], shuffle: Int[Tensor, " cells"]) -> Int[Tensor, "b cells"]:
    """Return the rank of every cell, 0 for the highest value; tied cells follow the order in `shuffle`.

    The same permutation is used for all images, so that results are independent of the batch.

    >>> cell_order(torch.tensor([[0.5, 0.9, 0.5]]), torch.tensor([2, 1, 0]))
    tensor([[2, 0, 1]])
    """
    cells = shuffle[values[:, shuffle].argsort(dim=1, descending=True, stable=True)]
    ranks = torch.arange(cells.shape[1], device=cells.device)
    return torch.empty_like(cells).scatter_(1, cells, ranks.expand_as(cells))


def shuffles(cells: int, orders: int, seed: int) -> Int[Tensor, "orders cells"]:
    """Return seeded permutations in pairs, each followed by its reverse; drawn on the CPU, independent of the device.

    Each order is uniform, so the mean over orders is unbiased. With pairs, insertion minus deletion is exactly
    antisymmetric under negation of a map, and exactly 0 for a constant map, not only in expectation.

    Raises:
        InputError: The number of orders is odd.

    >>> shuffles(3, 2, seed=0)
    tensor([[2, 0, 1],
            [1, 0, 2]])
    """
    if orders % 2:
        raise InputError(f"tie orders come in reversed pairs, so their number must be even; got {orders}")
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(cells, generator=generator) for _ in range(orders // 2)]
    return torch.stack([order for forth in drawn for order in (forth, forth.flip(0))])


def tie_orders(cells: int, rule: str, *, orders: int, seed: int) -> Int[Tensor, "_ cells"]:
    """Return the orders of tied cells: seeded ("expected"), row by row ("index"), or row by row backwards ("reverse").

    Args:
        cells: The number of cells.
        rule: "expected", "index" or "reverse".
        orders: The number of seeded orders, an even number.
        seed: The seed of the orders.

    >>> tie_orders(3, "reverse", orders=8, seed=0)
    tensor([[2, 1, 0]])
    """
    make = TIES[rule]
    assert make is not None, "a level at a time has no orders"
    return make(cells, orders, seed)


def _by_index(cells: int, _orders: int, _seed: int) -> Int[Tensor, "1 cells"]:
    return torch.arange(cells).unsqueeze(0)


# Functions of cells, orders and seed that return the orders of tied cells; None: tied cells are removed together.
TIES: dict[str, Callable[[int, int, int], Int[Tensor, "_ cells"]] | None] = {
    "expected": shuffles,
    "index": _by_index,
    "reverse": lambda *given: _by_index(*given).flip(1),
    "group": None,
}
TieRule = Annotated[str, name_in("tie rule", lambda: TIES)]


def levels(values: Float[Tensor, "b cells"]) -> Int[Tensor, "b cells"]:
    """Return the index of each cell's value among the distinct values of its map, 0 for the highest.

    >>> levels(torch.tensor([[0.5, 0.9, 0.5, 0.1]]))
    tensor([[1, 0, 1, 2]])
    """
    ordered, cells = values.sort(dim=1, descending=True)
    steps = pad((ordered[:, 1:] != ordered[:, :-1]).long().cumsum(1), (1, 0))
    return torch.empty_like(cells).scatter_(1, cells, steps)


def tie_report(maps: Maps) -> TieReport:
    """Count levels, ties and zeros of each map on its own grid.

    >>> tie_report(torch.tensor([[[0.0, 0.0, 1.0, 2.0]]]))
    TieReport(levels=tensor([3]), tie_fraction=tensor([0.5000]), zero_share=tensor([0.5000]))
    """
    values = finite(maps).flatten(1)
    level = levels(values)
    sharing = torch.zeros_like(level).scatter_add_(1, level, torch.ones_like(level)).gather(1, level)
    return TieReport(level.amax(1) + 1, _share(sharing > 1), _share(values == 0))


def _share(cells: Tensor) -> Scores:
    return cells.float().mean(1)
