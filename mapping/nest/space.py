"""The space of mappings of one problem: shapes, levels, factors in space; its size, and how one of its mappings is written.

Every order of the tiles within each memory; every way to write each dimension's extent as factors in the places above,
between and below tiles, and along the axes of each fanout; every order of the loops in one place. Factors divide
extents, and the tiles of a memory stand above those of the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...errors import MappingError
from .constraints import Constraints, check_constraints, orders
from .cost import Cost, costs
from .lattice import Lattice, lattice, ordered_factorisations, tensor_table
from .nest import Keep, Loop, Mapping, Node
from .problem import Problem
from .spread import Spread, axis_shapes, combine, one_axis_each, place, spreads, together
from .sweep import Level, Placed

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """One spread of every fanout, with its costs and the least that any mapping of it can cost.

    Attributes
    ----------
    chosen
        By fanout.
    cost
        Of an element moved, and of what does not depend on tiles.
    below
        Least cost of the MACs and the innermost memory.
    least
        Least cost of everything.
    """

    chosen: tuple[Spread, ...]
    cost: Cost
    below: Floats
    least: Floats

    @property
    def floor(self) -> float:
        """Cycles that no mapping of the group falls below."""
        return max(self.cost.compute, *self.least[1:], 0.0)


@dataclass(frozen=True)
class Space:
    """The space of one problem under constraints; see the head of this module."""

    problem: Problem
    constraints: Constraints
    shapes: Lattice
    levels: tuple[Level, ...]
    axis_options: tuple[tuple[Index, ...], ...]
    spread_options: tuple[Index, ...]

    @cached_property
    def fewest(self) -> dict[tuple[str, int], float]:
        """Fewest elements that the fetches of each tensor into each memory can move, over all shapes that fit alone."""
        return {
            edge: float(np.min(table.least, where=allowed & (held <= level.capacity), initial=np.inf))
            for level in self.levels
            for edge, table, allowed, held in zip(level.edges, level.tables, level.allowed, level.bytes_held, strict=True)
        }

    @cached_property
    def groups(self) -> list[Group]:
        """Every combination of spreads whose factors divide the extents together."""
        options = [spreads(self.problem, self.shapes, s) for s in self.spread_options]
        if not options:
            return [self._group((), each) for each in costs(self.problem, [], [])]
        pick = together(self.shapes, [[spread.shapes for spread in each] for each in options])
        shares = [
            {name: np.array([s.shares[name] for s in each], dtype=float)[pick[:, i]] for name in self.problem.tensors}
            for i, each in enumerate(options)
        ]
        totals = [np.array([s.total for s in each], dtype=float)[pick[:, i]] for i, each in enumerate(options)]
        found = costs(self.problem, shares, totals)
        chosen = (tuple(each[i] for each, i in zip(options, row, strict=True)) for row in pick.tolist())
        return [self._group(spread, cost) for spread, cost in zip(chosen, found, strict=True)]

    def _group(self, chosen: tuple[Spread, ...], cost: Cost) -> Group:
        innermost = self.levels[-1].number if self.levels else 0
        below, above = cost.constant.copy(), np.zeros_like(cost.constant)
        for (name, number), fewest in self.fewest.items():
            part = below if number >= innermost else above
            part += cost.least((name, number), fewest)
        return Group(chosen, cost, below, below + above)

    @cached_property
    def size(self) -> int:
        """Mappings in the space: orders of tiles times factors in time and in space.

        Loops of one place count once, whatever their order; constraints other than those on spatial factors are ignored.
        """
        ways = np.zeros(self.shapes.size, dtype=object)
        ways[0] = 1
        everything = np.arange(self.shapes.size)
        for options in self.spread_options:
            spread = np.zeros(self.shapes.size, dtype=object)
            for by in options:
                inside = np.flatnonzero(self.shapes.fits(everything, int(by)) & (ways != 0))
                spread[inside + by] += ways[inside]
            ways = spread
        slots = sum(len(level.names) for level in self.levels) + 1
        total = sum(int(ways[i]) * ordered_factorisations(self.shapes, [int(i)], slots) for i in np.flatnonzero(ways))
        return total * math.prod(level.orders for level in self.levels)

    def written(self, placed: Sequence[Placed], start: int | None = None) -> Mapping:
        """The nest of a chain of placements, outermost first, within shape `start`: the whole problem if None."""
        nodes: list[Node] = []
        here = self.shapes.tile(self.shapes.size - 1 if start is None else start)
        edges = {(level.number, name): edge for level in self.levels for name, edge in zip(level.names, level.edges, strict=True)}

        def loops_to(target: dict[str, int], innermost: frozenset[str] = frozenset()) -> None:
            nodes.extend(Loop(d, here[d] // target[d]) for d in sorted(here, key=lambda d: d in innermost) if here[d] != target[d])
            here.update(target)

        for link in placed:
            tile = self.shapes.tile(link.shape)
            if link.spread >= 0:
                by = self.shapes.tile(link.spread)
                loops_to({d: tile[d] * by[d] for d in tile})
                fanout = self.problem.fanouts[link.level][1]
                nodes.extend(place(self.shapes, fanout, self.axis_options[link.level], link.spread))
                here.update(tile)
                continue
            if link.slide is not None:
                dim, factor = link.slide
                loops_to(tile | {dim: tile[dim] * factor})
                nodes.append(Loop(dim, factor))
                here.update(tile)
            else:
                loops_to(tile, self.problem.tensors[edges[link.level, link.tensors[0]][0]].relevant)
            for text in link.tensors:
                name, number = edges[link.level, text]
                nodes.append(Keep(name, self.problem.memories[number].name))
        loops_to(dict.fromkeys(here, 1))
        for level in self.levels:
            _lower(nodes, orders(self.problem, self.constraints, level.number), self.problem.memories[level.number].name)
        return Mapping(tuple(nodes))


def _lower(nodes: list[Node], pairs: Sequence[tuple[str, str]], memory: str) -> None:
    """Move tiles of a memory below those that must stand above them; no loop on the way moves them (`Level.blocked`)."""
    for _ in pairs:
        for first, second in pairs:
            above, below = Keep(first, memory), Keep(second, memory)
            if above in nodes and below in nodes and nodes.index(below) < nodes.index(above):
                nodes.remove(below)
                nodes.insert(nodes.index(above) + 1, below)


def space(problem: Problem, constraints: Constraints) -> Space:
    """The space of a problem.

    Raises
    ------
    MappingError
        Not even the smallest tiles fit a memory, or a constraint cannot be met; says which, and by how much.
    """
    check_constraints(problem, constraints)
    shapes = lattice(problem.dims)
    levels = tuple(_level(problem, shapes, constraints, i) for i in range(1, len(problem.memories)))
    if problem.latched:
        levels = (*levels[:-2], _with_latch(*levels[-2:]))
    axis_options, spread_options = _spread_options(problem, shapes, constraints)
    return Space(problem, constraints, shapes, levels, axis_options, spread_options)


def _level(problem: Problem, shapes: Lattice, constraints: Constraints, number: int) -> Level:
    memory = problem.memories[number]
    tensors = [t for t in problem.tensors.values() if number in t.levels]
    names = tuple(t.name for t in tensors)
    tables = tuple(tensor_table(problem, shapes, t) for t in tensors)
    held = tuple(table.volume * t.bytes_per_element * memory.buffers for t, table in zip(tensors, tables, strict=True))
    above = [0] * len(names)
    for first, second in orders(problem, constraints, number):
        above[names.index(second)] |= 1 << names.index(first)
    allowed, smallest = [], {}
    for tensor, size in zip(tensors, held, strict=True):
        wanted = np.ones(shapes.size, dtype=bool)
        for dim, extent in constraints.tiles.get((memory.name, tensor.name), {}).items():
            wanted &= shapes.extents[dim] == extent
        smallest[tensor.name] = float(size[wanted].min())
        partition = memory.partition_bytes.get(tensor.kind, math.inf)
        if smallest[tensor.name] > partition:
            raise _no_room(memory.name, f"the smallest tile of {tensor.name}", smallest[tensor.name], partition)
        allowed.append(wanted & (size <= partition))
    capacity = math.inf if memory.size_bytes is None else memory.size_bytes
    if sum(smallest.values()) > capacity:
        parts = ", ".join(f"{name} {size:g} B" for name, size in smallest.items())
        raise _no_room(memory.name, f"the smallest tiles together ({parts})", sum(smallest.values()), capacity)
    relevant = tuple(t.relevant for t in tensors) if constraints.even or any(above) else ()
    return Level(number, names, tables, held, tuple(allowed), capacity, tuple(above), relevant, constraints.even)


def _with_latch(level: Level, latch: Level) -> Level:
    """A memory and the operands at the MACs below it, which stay while tiles of other tensors in the memory change."""
    names = (*level.names, *(f"{name} at the MAC" for name in latch.names))
    free = tuple(np.zeros_like(held) for held in latch.bytes_held)
    under = tuple(1 << level.names.index(name) if name in level.names else 0 for name in latch.names)
    return Level(
        level.number, names, level.tables + latch.tables, level.bytes_held + free, level.allowed + latch.allowed, level.capacity,
        level.above + latch.above, under=(0,) * len(level.names) + under, owners=level.edges + latch.edges,
    )  # fmt: skip


def _no_room(memory: str, what: str, need: float, room: float) -> MappingError:
    return MappingError(f"{memory}: {what} needs {need:g} B, {need - room:g} B more than its {room:g} B")


def _spread_options(problem: Problem, shapes: Lattice, constraints: Constraints) -> tuple[tuple[tuple[Index, ...], ...], tuple[Index, ...]]:
    """For each fanout, what each of its axes may hold, and every product of those."""
    indexed = frozenset.intersection(*(t.relevant for t in problem.tensors.values() if t.kind == "output"))
    by_axis, whole = [], []
    for _, fanout in problem.fanouts:
        dims = [d for d in problem.dims if fanout.reduction or d in indexed]
        dims = [d for d in dims if d in constraints.spatial_dims.get(fanout.name, problem.dims)]
        options = []
        for axis, instances in fanout.axes.items():
            chosen = [d for d in dims if d in constraints.spatial_dims.get(f"{fanout.name}.{axis}", problem.dims)]
            options.append(axis_shapes(shapes, instances, chosen))
        found = combine(shapes, options)
        if fanout.name in constraints.spatial:
            factors = constraints.spatial[fanout.name]
            wanted = shapes.index(factors)
            if wanted not in found:
                axes = ", ".join(f"{axis} {instances}" for axis, instances in fanout.axes.items())
                asked = ", ".join(f"{dim} {factor}" for dim, factor in factors.items())
                raise MappingError(f"constraints: spatial: the axes of {fanout.name} ({axes}) cannot hold {asked}")
            found = np.array([wanted])
        if constraints.even:
            found = np.array([i for i in found.tolist() if one_axis_each(shapes, options, i) is not None], dtype=np.int64)
        by_axis.append(tuple(options))
        whole.append(found)
    return tuple(by_axis), tuple(whole)
