"""Spaces of mappings with factors in space that do not divide their dimension, one for each choice of such factors.

With s of a dimension's N elements side by side, its loops in time make ceil(N / s) steps, in any perfect factors (the space Ruby-S of
Horeni et al., ISPASS 2022). An element's instance and step do not depend on the order of the loops (`presilicon.mapping.nest.ragged`), so
that what a tile's fetches cost is still a function of the tile's shape alone; the search of `presilicon.mapping.nest.search` then holds
as it stands, on the lattice of s ceil(N / s), with the exact cost of every shape in the place of elements times cost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...workloads.op import Axis
from .constraints import Constraints
from .cost import Cost, Port, ports
from .lattice import Lattice, Slide, TensorTable, lattice, prime_factors
from .nest import along_window
from .problem import Problem, Tensor
from .ragged import Chunks, distinct, kept
from .space import Group, Space
from .spread import Spread, axis_shapes
from .sweep import Level

Floats = NDArray[np.float64]
#: Factors in space of every dimension, by fanout.
Factors = tuple[dict[str, int], ...]


@dataclass(frozen=True)
class RaggedSpace(Space):
    """The mappings of one choice of factors in space."""

    group: Group

    @property
    def fewest(self) -> dict[tuple[str, int], float]:
        """Multiples of the least cost of each tensor's tiles in each memory: once."""
        return dict.fromkeys(self.group.cost.edge, 1.0)

    @property
    def groups(self) -> list[Group]:
        """The one choice of factors in space."""
        return [self.group]


def ragged_factors(problem: Problem, constraints: Constraints) -> Iterator[Choices]:
    """Choices of factors in space of which at least one dimension's do not divide its extent, in as many parts as there are of the
    fanouts but the last."""
    indexed = frozenset.intersection(*(t.relevant for t in problem.tensors.values() if t.kind == "output"))
    extents = np.array(list(problem.dims.values()), dtype=np.int64)
    choices = []
    for _, fanout in problem.fanouts:
        dims = [d for d in problem.dims if fanout.reduction or d in indexed]
        dims = [d for d in dims if d in constraints.spatial_dims.get(fanout.name, problem.dims)]
        found = np.ones((1, len(extents)), dtype=np.int64)
        for axis, instances in fanout.axes.items():
            allowed = [d in dims and d in constraints.spatial_dims.get(f"{fanout.name}.{axis}", problem.dims) for d in problem.dims]
            own = np.array(list(_held([e if a else 1 for e, a in zip(problem.dims.values(), allowed, strict=True)], instances)))
            parts = [each * own for each in found]
            rows = np.concatenate([part[(part <= extents).all(axis=1)] for part in parts]).astype(np.int32)
            flat = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).reshape(-1)
            found = rows[np.unique(flat, return_index=True)[1]].astype(np.int64)
        choices.append(found)
    for outer in itertools.product(*choices[:-1]):
        each = choices[-1] if choices else np.ones((0, len(extents)), dtype=np.int64)
        total = each * np.prod(np.array(outer, dtype=np.int64).reshape(len(outer), len(extents)), axis=0)
        good = (total <= extents).all(axis=1) & (extents % total).any(axis=1)
        yield Choices(tuple(problem.dims), outer, each[good], -(-extents // total[good]))


@dataclass(frozen=True)
class Choices:
    """Factors in space: those of the outer fanouts, and for each choice those of the last fanout and the steps left, (n, dimensions)."""

    dims: tuple[str, ...]
    outer: tuple[NDArray[np.int64], ...]
    last: NDArray[np.int64]
    steps: NDArray[np.int64]

    def factors(self, i: int) -> Factors:
        """One choice."""
        return tuple({d: int(f) for d, f in zip(self.dims, each, strict=True)} for each in (*self.outer, self.last[i]))

    def nests(self, places: int) -> int:
        """Ways to write the steps of every dimension as factors in so many places, over all choices."""
        ways = np.ones(len(self.steps))
        for column in self.steps.T:
            values, at = np.unique(column, return_inverse=True)
            each = [math.prod(math.comb(m + places - 1, places - 1) for m in prime_factors(int(v)).values()) for v in values]
            ways *= np.array(each, dtype=float)[at.reshape(-1)]
        return int(ways.sum())


def _held(most: Sequence[int], instances: int) -> Iterator[tuple[int, ...]]:
    if not most:
        yield ()
        return
    for factor in range(1, min(most[0], instances) + 1):
        for rest in _held(most[1:], instances // factor):
            yield factor, *rest


def touched(tensor: Tensor, dims: Mapping[str, int]) -> int:
    """Elements that the points of an op touch at least: windows with strides or dilations leave gaps in the tensor's box."""
    return math.prod(max((dims[dim] for dim, _ in axis), default=1) for axis in tensor.axes)


def _outer(parts: Sequence[Floats]) -> Floats:
    """Products of one entry of each part, flat."""
    found = np.ones(1)
    for part in parts:
        found = np.multiply.outer(found, part.reshape(-1)).reshape(-1)
    return found


class RaggedCosts:
    """Costs under one choice of factors in space; `memo` is what choices that agree in some dimensions share."""

    def __init__(self, problem: Problem, factors: Factors, memo: dict[object, Any] | None = None) -> None:
        self.problem, self.factors = problem, factors
        self.memo: dict[object, Any] = {} if memo is None else memo
        self.of = {d: tuple(each[d] for each in factors) for d in problem.dims}
        levels = range(len(problem.memories) + 1)
        self.within = {(d, level): self._count_within(d, level) for d in problem.dims for level in levels}
        self.ports: tuple[Port, ...] = ports(problem)
        self.shared = {d: self._within(d, 0) for d in problem.dims}
        self.steps = {d: -(-e // self.shared[d]) for d, e in problem.dims.items()}
        self.compute = math.prod(self.steps.values()) * problem.macs_per_point / problem.hierarchy.macs_per_clk

    def _within(self, dim: str, level: int) -> int:
        return self.within[dim, level]

    def _count_within(self, dim: str, level: int) -> int:
        chosen = zip(self.problem.fanouts, self.factors, strict=True)
        return math.prod(f[dim] for (position, _), f in chosen if position >= level)

    def extent(self, dim: str, level: int) -> int:
        """Elements along a dimension in the first instance of memory `level`."""
        inside, left = self._within(dim, level), self.problem.dims[dim] - (self.steps[dim] - 1) * self.shared[dim]
        return (self.steps[dim] - 1) * inside + min(inside, left)

    def copies(self, tensor: Tensor, dim: str, steps: int, *, parent: int, child: int, level: int, up: bool, timed: bool = True) -> int:
        """How often a tile of so many steps along an irrelevant dimension reaches the child, or is read for it in the parent."""
        key = tensor.kind == "output", dim, self.of[dim], steps, parent, child, level, up, timed
        if key not in self.memo:
            self.memo[key] = self._copies(tensor, dim, steps, parent, child, level, up, timed)
        return int(self.memo[key])

    def _copies(self, tensor: Tensor, dim: str, steps: int, parent: int, child: int, level: int, up: bool, timed: bool) -> int:
        digits = [(self.steps[dim] // steps, timed), (steps, False)]
        for (position, fanout), factors in zip(self.problem.fanouts, self.factors, strict=True):
            if position >= level:
                one_by_one = parent <= position < child and not (up and (fanout.multicast or tensor.kind == "output"))
                digits.append((factors[dim], position < parent or one_by_one))
        return distinct(self.extent(dim, level), digits)

    def vector(self, tensor: Tensor, parent: int, child: int, count: Callable[[int, bool], Floats], *, drain: bool, fetch: bool) -> Floats:
        """Cost of moves counted by ``count(level, up)``: fetched, drained, or both; shape (n, k)."""
        memories, size = self.problem.memories, tensor.bytes_per_element
        low, up = count(0, False), count(0, True)
        found = np.zeros((len(low), 1 + len(self.ports)))
        above = memories[parent]
        found[:, 0] = up * size * (fetch * above.read_j_per_byte + drain * above.write_j_per_byte)
        if child < len(memories):
            below = memories[child]
            found[:, 0] += low * size * (fetch * below.write_j_per_byte + drain * below.read_j_per_byte)
        for i, port in enumerate(self.ports, start=1):
            if port.level == parent:
                found[:, i] += count(parent, True) * size * (fetch * port.read + drain * port.write)
            if port.level == child:
                found[:, i] += count(child, False) * size * (fetch * port.write + drain * port.read)
        return found

    @cached_property
    def constant(self) -> Floats:
        """The MACs and their reads and writes, less all first fetches."""
        problem, macs = self.problem, len(self.problem.memories)
        found = np.zeros(1 + len(self.ports))
        found[0] = problem.points * problem.macs_per_point * problem.hierarchy.mac_j
        for tensor in problem.tensors.values():
            output = tensor.kind == "output"
            for parent, child in itertools.pairwise((*tensor.levels, macs)):
                if child == macs:
                    found += self._alike(tensor, parent, child, first=False, drain=output, fetch=True)
                if output:
                    found -= self._alike(tensor, parent, child, first=True, drain=False, fetch=True)
        return found

    def _singles(self, tensor: Tensor, parent: int, child: int, level: int, up: bool, *, first: bool) -> int:
        """Elements moved one by one: at every step, or (`first`) once into each instance."""
        inside = {d: self.extent(d, level) for d in tensor.relevant}
        total = touched(tensor, inside) if first else math.prod(inside.values())
        for dim in self.problem.dims:
            if dim not in tensor.relevant:
                total *= self.copies(tensor, dim, 1, parent=parent, child=child, level=level, up=up, timed=not first)
        return total

    def _alike(self, tensor: Tensor, parent: int, child: int, *, first: bool, drain: bool, fetch: bool) -> Floats:
        """Cost of `_singles`."""

        def count(level: int, up: bool) -> Floats:
            return np.array([float(self._singles(tensor, parent, child, level, up, first=first))])

        found: Floats = self.vector(tensor, parent, child, count, drain=drain, fetch=fetch)[0]
        return found

    def floor_j(self, room: Mapping[int, float] | None = None) -> float:
        """Energy that no mapping falls below: every element moves once into every instance that needs it, and to every MAC at each step.

        With `room`, the bytes of each memory: the cheapest tile of each tensor that its memory has room for.
        """
        problem, macs = self.problem, len(self.problem.memories)
        total = problem.points * problem.macs_per_point * problem.hierarchy.mac_j
        for tensor in problem.tensors.values():
            size, output = tensor.bytes_per_element, tensor.kind == "output"
            for parent, child in itertools.pairwise((*tensor.levels, macs)):
                above = problem.memories[parent]
                up: float = self._singles(tensor, parent, child, 0, True, first=child < macs)
                skipped = 0.0
                if child < macs:
                    below, low = problem.memories[child], float(self._singles(tensor, parent, child, 0, False, first=True))
                    skipped, first = (up, low) if output else (0, 0)  # an output's first fetch
                    if room is not None:
                        fewest = self.fewest(tensor, child, room[child])
                        up, low = (max(n, fewest * self._spread(tensor, parent, child, b)) for n, b in ((up, True), (low, False)))
                    total += size * ((low - first) * below.write_j_per_byte + low * output * below.read_j_per_byte)
                elif output:
                    skipped = self._singles(tensor, parent, child, 0, True, first=True)
                total += size * ((up - skipped) * above.read_j_per_byte + up * output * above.write_j_per_byte)
        return total

    def _spread(self, tensor: Tensor, parent: int, child: int, up: bool) -> int:
        """How often a tile that stands as high as it can is moved for dimensions that do not index it."""
        others = (d for d in self.problem.dims if d not in tensor.relevant)
        return math.prod(self.copies(tensor, d, self.steps[d], parent=parent, child=child, level=0, up=up) for d in others)

    def fewest(self, tensor: Tensor, child: int, room: float) -> float:
        """Fewest elements of all tiles of one size, over the sizes that memory `child` has room for."""
        key = "fewest", tensor.name, child, tuple(self.of[d] for d in sorted(tensor.relevant))
        if key not in self.memo:
            size = tensor.bytes_per_element * self.problem.memories[child].buffers
            held = [self._extents(tensor, axis, child) for axis in tensor.axes]
            fits = _outer(held) * size <= room * (1 + 1e-12)
            plain = [self.along(tensor, axis, child, 0, None) for axis in tensor.axes]
            found = float(np.min(_outer(plain), where=fits, initial=np.inf))
            for i, axis in enumerate(tensor.axes):
                for dim in sorted(tensor.sliding & {d for d, _ in axis}):
                    for factor in (f for f in range(2, self.steps[dim] + 1) if self.steps[dim] % f == 0):
                        slid = [*plain[:i], self.along(tensor, axis, child, 0, (dim, factor)), *plain[i + 1 :]]
                        found = min(found, float(np.min(_outer(slid), where=fits, initial=np.inf)))
            self.memo[key] = found
        return float(self.memo[key])

    def _extents(self, tensor: Tensor, axis: Sequence[tuple[str, int]], child: int) -> Floats:
        """A tile's extent along one axis for every extent of its dimensions, infinite where there is no such tile."""
        found = np.ones([len(self.values(d)) for d, _ in axis])
        for i, (dim, stride) in enumerate(axis):
            each = [min(x, self.problem.dims[dim]) if self._fits(tensor, dim, x, child) else math.inf for x in self.values(dim)]
            found += (np.array(each).reshape([-1 if i == j else 1 for j in range(len(axis))]) - 1) * stride
        return found

    def values(self, dim: str) -> list[int]:
        """Extents that tiles can have along a dimension, those with gaps included."""
        key = "values", dim, self.of[dim]
        if key not in self.memo:
            whole = self.steps[dim] * self.shared[dim]
            self.memo[key] = [x for x in range(1, whole + 1) if whole % x == 0]
        return list(self.memo[key])

    def _usable(self, tensor: Tensor, dim: str, child: int) -> list[int]:
        """The same with one instance's share of a step in place of extents that no tile can have."""
        return [x if self._fits(tensor, dim, x, child) else self._within(dim, child) for x in self.values(dim)]

    def along(self, tensor: Tensor, axis: Axis, child: int, level: int, slide: tuple[str, int] | None) -> Floats:
        """Elements along one axis of all tiles in one instance of memory `level` (0: in all), by the extents of its dimensions."""
        dims = [d for d, _ in axis]
        if slide is not None and slide[0] not in dims:
            slide = None
        key = "along", tensor.name, axis, child, level, slide, tuple(self.of[d] for d in dims)
        if key not in self.memo:
            self.memo[key] = self._along(tensor, axis, child, level, slide)
        return np.asarray(self.memo[key])

    def _along(self, tensor: Tensor, axis: Axis, child: int, level: int, slide: tuple[str, int] | None) -> Floats:
        def chunks(dim: str, x: int) -> Chunks:
            inside, extent = self._within(dim, child), self.extent(dim, level)
            return Chunks(extent, min(x, extent), -(-self.steps[dim] // (x // inside)), self._within(dim, level) // inside)

        dims = [d for d, _ in axis]
        usable = {d: self._usable(tensor, d, child) for d in dims}
        table = np.ones([len(usable[d]) for d in dims])
        for place in itertools.product(*(range(len(usable[d])) for d in dims)):
            own = {d: chunks(d, usable[d][i]) for d, i in zip(dims, place, strict=True)}
            number = math.prod(c.number for c in own.values())
            total = number + sum(s * (own[d].extent - own[d].number) * (number // own[d].number) for d, s in axis)
            if slide is not None:
                dim, factor = slide
                x, inside = usable[dim][place[dims.index(dim)]], self._within(dim, child)
                ragged = self.steps[dim] * self.shared[dim] != self.problem.dims[dim]
                total -= kept(axis, own, dim, factor, x // inside * self.shared[dim] if ragged else x)
            table[place] = total
        return table

    def table(self, shapes: Lattice, tensor: Tensor, child: int) -> tuple[TensorTable, NDArray[np.bool_]]:
        """What a tensor's tiles of every shape cost in memory `child`, and which shapes a tile can have."""
        parent = max(level for level in tensor.levels if level < child)
        output = tensor.kind == "output"
        good = np.ones(shapes.size, dtype=bool)
        values: dict[str, list[int]] = {}
        where: dict[str, NDArray[np.int64]] = {}
        for dim, extents in shapes.extents.items():
            values[dim] = self.values(dim)
            where[dim] = np.searchsorted(values[dim], extents)
            good &= np.array([self._fits(tensor, dim, x, child) for x in values[dim]])[where[dim]]
        usable = {dim: self._usable(tensor, dim, child) for dim in values}

        def irrelevant(level: int, up: bool) -> Floats:
            total = np.ones(shapes.size)
            for dim in shapes.dims:
                if dim not in tensor.relevant:
                    inside = self._within(dim, child)
                    ways = [self.copies(tensor, dim, x // inside, parent=parent, child=child, level=level, up=up) for x in usable[dim]]
                    total *= np.array(ways, dtype=float)[where[dim]]
            return total

        def along(axis: Axis, level: int, slide: tuple[str, int] | None) -> Floats:
            found: Floats = self.along(tensor, axis, child, level, slide)[tuple(where[d] for d, _ in axis)]
            return found if axis else np.ones(shapes.size)

        def price(slide: tuple[str, int] | None) -> tuple[Floats, Floats]:
            inner = {level: np.prod([along(axis, level, slide) for axis in tensor.axes], axis=0) for level in {0, parent, child}}
            cost = self.vector(tensor, parent, child, lambda n, up: inner[n] * irrelevant(n, up), drain=output, fetch=True)
            return cost, inner[0] * irrelevant(0, False)

        cost, moved = price(None)
        slides = []
        for dim in sorted(tensor.sliding):
            for factor, step in shapes.factors(dim):
                if self.steps[dim] % factor:
                    continue
                sliding, fewer = price((dim, factor))
                inside = self._within(dim, child)
                fits = np.array([self.steps[dim] % (x // inside * factor) == 0 for x in usable[dim]])[where[dim]]
                valid = shapes.fits(np.arange(shapes.size), step) & good & fits & (fewer < moved)
                if valid.any():
                    slides.append(Slide(dim, factor, step, fewer, valid, sliding))
        volume = np.ones(shapes.size)
        for axis in tensor.axes:
            extent = np.ones(shapes.size)
            for dim, stride in axis:
                extent += (np.minimum(shapes.extents[dim], self.problem.dims[dim]) - 1) * stride
            volume *= extent
        return TensorTable(volume, moved, tuple(slides), cost), good

    def _fits(self, tensor: Tensor, dim: str, x: int, child: int) -> bool:
        inside = self._within(dim, child)
        if x % inside or self.steps[dim] % (x // inside):
            return False
        ragged = self.steps[dim] * self.shared[dim] != self.problem.dims[dim]
        return not (ragged and self.shared[dim] > inside and along_window(tensor, dim) and x != inside)


def ragged_space(costs: RaggedCosts, constraints: Constraints, whole: Space) -> RaggedSpace:
    """The space of one choice of factors; `whole` is that of perfect factors, whose constraints and capacities hold here."""
    problem, factors = costs.problem, costs.factors
    shapes = lattice({d: costs.steps[d] * costs.shared[d] for d in problem.dims})
    levels, edge = [], {}
    for level in whole.levels:
        memory = problem.memories[level.number]
        tables, held, allowed = [], [], []
        for name in level.names:
            tensor = problem.tensors[name]
            table, good = costs.table(shapes, tensor, level.number)
            size = table.volume * tensor.bytes_per_element * memory.buffers
            good = good & (size <= memory.partition_bytes.get(tensor.kind, math.inf))
            tables.append(table)
            held.append(size)
            allowed.append(good)
            fitting = good & (size <= level.capacity)
            parts = [table.price[fitting], *(s.price[s.valid & fitting] for s in table.slides)]  # type: ignore[index]
            # No tile fits: infinite, and so nothing is searched.
            edge[name, level.number] = np.min([p.min(axis=0, initial=np.inf) for p in parts], axis=0)
        levels.append(
            Level(level.number, level.names, tuple(tables), tuple(held), tuple(allowed), level.capacity, level.above, level.relevant)
        )
    chosen = []
    for each in factors:
        shares = {t.name: math.prod(f for d, f in each.items() if d not in t.relevant) for t in problem.tensors.values()}
        chosen.append(Spread(shares, math.prod(each.values()), np.array([shapes.index(each)])))
    cost = Cost(edge, costs.constant, costs.compute)
    innermost = whole.levels[-1].number if whole.levels else 0
    below = costs.constant + sum((v for (_, number), v in edge.items() if number == innermost), start=np.zeros_like(costs.constant))
    least = below + sum((v for (_, number), v in edge.items() if number != innermost), start=np.zeros_like(costs.constant))
    axis_options = tuple(
        tuple(axis_shapes(shapes, n, [d for d, f in each.items() if f > 1]) for n in fanout.axes.values())
        for (_, fanout), each in zip(problem.fanouts, factors, strict=True)
    )
    return RaggedSpace(
        problem, constraints, shapes, tuple(levels), axis_options, tuple(c.shapes for c in chosen), Group(tuple(chosen), cost, below, least)
    )
