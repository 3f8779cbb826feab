"""The same numbers by plain loops, one cell and one pixel at a time; shares only the drawn permutations."""

import math


def cell_of(row, column, grid, size):
    """The cell in which the centre of a pixel lies."""
    return math.floor((row + 0.5) * grid[0] / size[0]) * grid[1] + math.floor((column + 0.5) * grid[1] / size[1])


def ordered_cells(values, shuffle):
    """Cells from the highest value down; among equal ones, whoever comes first in `shuffle`."""
    return sorted(range(len(values)), key=lambda cell: (-values[cell], shuffle.index(cell)))


def removal_sets(values, shuffle, cuts):
    """The set of cells removed at each point of a deletion curve."""
    order = ordered_cells(values, shuffle)
    return [frozenset(order[:cut]) for cut in cuts]


def level_sets(values):
    """The same, a whole level at a time."""
    distinct = sorted(set(values), reverse=True)
    tops = [set(distinct[:count]) for count in range(len(distinct) + 1)]
    return [frozenset(cell for cell, value in enumerate(values) if value in top) for top in tops]


def masked(image, kept, grid, baseline):
    """A copy of the image in which only pixels of `kept` cells are left."""
    result = image.clone()
    size = image.shape[1:]
    for row in range(size[0]):
        for column in range(size[1]):
            if cell_of(row, column, grid, size) not in kept:
                for channel in range(3):
                    result[channel, row, column] = baseline[channel]
    return result


def share(cells, grid, size):
    """Share of the image's pixels that lie in `cells`."""
    inside = sum(cell_of(row, column, grid, size) in cells for row in range(size[0]) for column in range(size[1]))
    return inside / (size[0] * size[1])


def trapezoid(fractions, scores):
    """Area under straight lines between the points."""
    pairs = zip(zip(fractions, scores, strict=True), zip(fractions[1:], scores[1:], strict=True), strict=False)
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairs)


def curve(score, image, row, states, protocol):
    """Score of the image at each set of kept cells."""
    return [float(score(masked(image, kept, protocol.grid, protocol.colour)[None], row)) for kept in states]


def areas(score, image, row, removed, protocol):
    """Deletion and insertion area of one removal order."""
    everything = frozenset(range(protocol.grid[0] * protocol.grid[1]))
    fractions = [share(cells, protocol.grid, image.shape[1:]) for cells in removed]
    deletion = curve(score, image, row, [everything - cells for cells in removed], protocol)
    insertion = curve(score, image, row, removed, protocol)
    return trapezoid(fractions, deletion), trapezoid(fractions, insertion)


def distinct_states(orders, everything):
    """Number of different kept sets that the curves of one image meet."""
    return len({kept for removed in orders for cells in removed for kept in (cells, everything - cells)})


def near(region, distance):
    """Whether each pixel lies within `distance` of any pixel of the region."""
    height, width = region.shape
    inside = [(y, x) for y in range(height) for x in range(width) if region[y, x]]
    return {
        (row, column): any(math.hypot(row - y, column - x) <= distance for y, x in inside)
        for row in range(height)
        for column in range(width)
    }


def pointing(values, region, distance):
    """Ask every tied maximal pixel of an enlarged map in turn: hits in row-major order, and the share of the image."""
    grid = (len(values), len(values[0]))
    flat = [value for line in values for value in line]
    asked = near(region, distance)
    hits = [hit for (y, x), hit in asked.items() if flat[cell_of(y, x, grid, region.shape)] == max(flat)]
    return hits, sum(asked.values()) / len(asked)
