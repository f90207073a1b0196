"""Least that the tiles still to come can cost, given the shape that a partial mapping has reached.

Going inwards a tile's shape divides the shape reached, going outwards it is a multiple of it. Of such shapes that its memory allows and
has room for, the one whose fetches cost least bounds the cost; each tensor and each column of the costs by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .lattice import Lattice
from .pareto import nondominated
from .space import Group, Space
from .sweep import Level

Floats = NDArray[np.float64]
Direction = Literal["inwards", "outwards"]


def least_over(shapes: Lattice, values: Floats, direction: Direction) -> Floats:
    """For each shape the least of `values` over the shapes that divide it (inwards) or that it divides (outwards).

    Parameters
    ----------
    values
        Shape (size,) or (size, k).
    """
    grid = shapes.grid(values)
    for dimension in range(len(shapes.axes)):
        if direction == "inwards":
            grid = np.minimum.accumulate(grid, axis=dimension)
        else:
            grid = np.flip(np.minimum.accumulate(np.flip(grid, dimension), axis=dimension), dimension)
    return np.ascontiguousarray(grid).reshape(values.shape)


class Bounds:
    """Bounds of one space; tables that several groups share are made once."""

    def __init__(self, searched: Space) -> None:
        self.space, self.shapes = searched, searched.shapes
        self.moved: dict[tuple[str, int, Direction], Floats] = {}

    def price(self, group: Group, level: Level, i: int, direction: Direction, columns: int) -> Floats:
        """Least cost of the fetches of a level's tensor `i` from each shape on; shape (size, columns)."""
        table, edge = level.tables[i], level.edges[i]
        if table.price is not None:
            usable = level.allowed[i] & (level.bytes_held[i] <= level.capacity)
            found = np.where(usable[:, None], table.price[:, :columns], np.inf)
            for slide in table.slides:
                assert slide.price is not None
                np.minimum(found, np.where((usable & slide.valid)[:, None], slide.price[:, :columns], np.inf), out=found)
            return least_over(self.shapes, found, direction)
        moved = self.moved_least(level, i, direction)
        with np.errstate(invalid="ignore"):
            found = moved[:, None] * group.cost.edge[edge][:columns]
        found[~np.isfinite(moved)] = np.inf
        if edge in group.cost.once:
            limit, saved = group.cost.once[edge]
            found += (moved <= limit * (1 + 1e-12))[:, None] * saved[:columns]
        return found

    def moved_least(self, level: Level, i: int, direction: Direction) -> Floats:
        """Fewest elements that the fetches of a level's tensor `i` move from each shape on; shape (size,)."""
        key = *level.edges[i], direction
        if key not in self.moved:
            usable = level.allowed[i] & (level.bytes_held[i] <= level.capacity)
            self.moved[key] = least_over(self.shapes, np.where(usable, level.tables[i].least, np.inf), direction)
        return self.moved[key]

    def rest(self, group: Group, levels: Sequence[Level], direction: Direction, columns: int) -> Floats:
        """Least cost of all tiles of some levels; shape (size, columns)."""
        found = np.zeros((self.shapes.size, columns))
        for level in levels:
            for i in range(len(level.names)):
                found += self.price(group, level, i, direction, columns)
        return found

    def below(self, groups: Sequence[Group], levels: Sequence[Level], columns: int) -> Floats:
        """Least cost, over several groups, of the MACs and of all tiles of the inner `levels`; shape (size, columns)."""
        vectors = [np.concatenate([g.cost.constant[:columns], *(_edges(g, level, columns) for level in levels)]) for g in groups]
        distinct = nondominated(np.zeros(len(vectors), dtype=np.int64), np.array(vectors))
        found = np.full((self.shapes.size, columns), np.inf)
        for i in distinct.tolist():
            np.minimum(found, groups[i].cost.constant[:columns] + self.rest(groups[i], levels, "inwards", columns), out=found)
        return found


def _edges(group: Group, level: Level, columns: int) -> Floats:
    """What a group's costs of a level's tiles grow with; of two groups the one of which no entry is larger is the cheaper."""
    parts: list[Floats] = []
    for edge in level.edges:
        parts.append(group.cost.edge[edge][:columns])
        once: Mapping[tuple[str, int], tuple[float, Floats]] = group.cost.once
        if edge in once:
            limit, saved = once[edge]
            parts += [np.array([-limit]), saved[:columns]]
    return np.concatenate(parts) if parts else np.zeros(0)
