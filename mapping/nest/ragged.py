"""Accesses of a nest whose factors do not divide their dimensions, in closed form with every remainder.

The rule is that of `presilicon.mapping.nest.counts`, and of a dimension of extent N that s instances share and whose loops in time make T
steps, where s T is more than N (Ruby-S, Horeni et al., ISPASS 2022, lets factors in space be imperfect in the same way):

* Element x belongs to instance x mod s and to step x div s, whatever the order of the loops. All steps but the last keep all s instances
  busy; the last has what is left. Steps past the extent are not run.
* A tile holds the elements of its own that exist: the last one along a dimension may be smaller. A tile is fetched when the innermost loop
  over which it moves, or a loop further out in its block, advances; instances that have no element then fetch nothing.
* All instances drain an output tile when its stay ends.
* The MACs take one cycle for each step, however many instances are busy in it; a port takes as long as that of the busiest instance.

Counts are products over dimensions, for the elements that exist along each are a range: an irrelevant dimension contributes how many
different values the counters of interest take over its range (`distinct`), the dimensions of an axis the sum of the tiles' extents.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping as MappingABC
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .nest import Keep, Loop, Mapping, Spatial, ragged_dims
from .problem import Problem, Tensor


def distinct(number: int, digits: Sequence[tuple[int, bool]]) -> int:
    """How many different values the marked digits of 0 ... number - 1 take; digits as (base, marked), the most significant first.

    >>> distinct(6, [(2, False), (4, True)]), distinct(6, [(2, True), (4, False)]), distinct(9, [(3, True), (4, True)])
    (4, 2, 9)
    """
    if number <= 0:
        return 0
    if not digits:
        return 1
    (_, marked), rest = digits[0], digits[1:]
    weight = math.prod(base for base, _ in rest)
    full, left = divmod(number, weight)
    if marked:
        return full * distinct(weight, rest) + distinct(left, rest)
    return distinct(weight if full else left, rest)


@dataclass(frozen=True)
class Moves:
    """What one tensor's tiles of one memory, `child` (the MACs: past the last memory), exchange with `parent`.

    Attributes
    ----------
    low, up
        Elements that reach the child's instances, and that the parent is read for them; of an output as many are drained.
    first_low, first_up
        First fetches among them, which are skipped.
    """

    parent: int
    child: int
    low: int
    up: int
    first_low: int
    first_up: int


class RaggedNest:
    """A nest with its counts in all instances, or in the first (and busiest) instance of one memory."""

    def __init__(self, mapping: Mapping, problem: Problem, instance_of: int = 0) -> None:
        self.nodes, self.problem, self.instance_of = mapping.nodes, problem, instance_of
        self.positions = {fanout.name: position for position, fanout in problem.fanouts}
        self.numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
        self.ragged = ragged_dims(mapping, problem)
        self.extents = {dim: self._extent(dim, extent) for dim, extent in problem.dims.items()}

    def _within(self, dim: str, level: int) -> int:
        """Instances that share a dimension below one instance of memory `level`."""
        return math.prod(n.factor for n in self.nodes if isinstance(n, Spatial) and n.dim == dim and self.positions[n.fanout] >= level)

    def _extent(self, dim: str, extent: int) -> int:
        """Elements along a dimension in one instance of the memory that is looked at."""
        space, inside = self._within(dim, 0), self._within(dim, self.instance_of)
        steps = -(-extent // space)
        return (steps - 1) * inside + min(inside, extent - (steps - 1) * space)

    def tile(self, i: int) -> dict[str, int]:
        """Extents of the largest tile below node `i`."""
        found = dict.fromkeys(self.problem.dims, 1)
        for node in self.nodes[i + 1 :]:
            if not isinstance(node, Keep):
                found[node.dim] *= node.factor
        return self.problem.clipped(found)

    def steps(self, dim: str) -> int:
        """Steps in time that a dimension takes."""
        return -(-self.problem.dims[dim] // self._within(dim, 0))

    def moves(self, tensor: Tensor) -> list[Moves]:
        """All exchanges of a tensor, outermost first."""
        chain = [*tensor.levels, len(self.problem.memories)]
        return [self._moves(tensor, parent, child) for parent, child in itertools.pairwise(chain)]

    def _moves(self, tensor: Tensor, parent: int, child: int) -> Moves:
        at = len(self.nodes)
        if child < len(self.problem.memories):
            at = self.nodes.index(Keep(tensor.name, self.problem.memories[child].name))
        mover, counted = self._mover(tensor, at, child)
        elements = self._elements(tensor, at, child, mover)
        volume = math.prod(tensor.extents(self.extents)) if tensor.kind == "output" else 0
        found = [elements, elements, volume, volume]
        for dim in self.problem.dims:
            if dim in tensor.relevant:
                continue
            for i, (times, shared) in enumerate(((counted, False), (counted, True), (-1, False), (-1, True))):
                found[i] *= distinct(self.extents[dim], self._digits(tensor, dim, times, parent if shared else child, child))
        if tensor.kind != "output":
            found[2:] = [0, 0]
        return Moves(parent, child, found[0], found[1], found[2], found[3])

    def _digits(self, tensor: Tensor, dim: str, counted: int, served: int, child: int) -> list[tuple[int, bool]]:
        """Digits of a dimension's index: loops in time up to node `counted` are marked, and instances that are served one by one."""
        fanouts = {fanout.name: fanout for _, fanout in self.problem.fanouts}
        times = [(n.factor, i <= counted) for i, n in enumerate(self.nodes) if isinstance(n, Loop) and n.dim == dim]
        space = []
        for node in self.nodes:
            if not isinstance(node, Spatial) or node.dim != dim or self.positions[node.fanout] < self.instance_of:
                continue
            position = self.positions[node.fanout]
            alone = served < child and not (fanouts[node.fanout].multicast or tensor.kind == "output")
            space.append((node.factor, position < served or (alone and position < child)))
        return times + space

    def _mover(self, tensor: Tensor, at: int, child: int) -> tuple[int | None, int]:
        """The loop over which a tile moves (None: no loop of its block), and the last loop whose every advance counts."""
        if child == len(self.problem.memories):
            return None, at
        inside = True
        for i in range(at - 1, -1, -1):
            node = self.nodes[i]
            if isinstance(node, Keep):
                inside = inside and self.numbers[node.level] >= child
            elif isinstance(node, Loop):
                if not inside:
                    return None, i
                if node.dim in tensor.relevant and node.factor > 1:
                    return i, i
        return None, -1

    def _elements(self, tensor: Tensor, at: int, child: int, mover: int | None) -> int:
        """Elements of all tiles together, less what a tile keeps of the one before."""
        if child == len(self.problem.memories):
            return math.prod(self.extents[dim] for dim in tensor.relevant)
        found = 1
        for axis in tensor.axes:
            chunks = {dim: self._chunks(dim, at, child) for dim, _ in axis}
            number = math.prod(c.number for c in chunks.values())
            total = number
            for dim, stride in axis:
                chunk = chunks[dim]
                total += stride * (self.extents[dim] - chunk.number) * (number // chunk.number)
            node = None if mover is None else self.nodes[mover]
            if isinstance(node, Loop) and node.dim in chunks and tensor.halo and len(axis) > 1:
                assert mover is not None
                total -= kept(axis, chunks, node.dim, node.factor, self._step(mover))
            found *= total
        return found

    def _chunks(self, dim: str, at: int, child: int) -> Chunks:
        inside = self._within(dim, child)
        steps = math.prod(n.factor for n in self.nodes[at:] if isinstance(n, Loop) and n.dim == dim)
        extent = self.extents[dim]
        size = min(steps * inside, extent)
        return Chunks(extent, size, -(-self.steps(dim) // steps), self._within(dim, self.instance_of) // inside)

    def _step(self, mover: int) -> int:
        """Elements that one iteration of a loop moves on along its dimension."""
        node = self.nodes[mover]
        assert isinstance(node, Loop)
        below = [n for n in self.nodes[mover + 1 :] if not isinstance(n, Keep) and n.dim == node.dim]
        if node.dim in self.ragged:
            return math.prod(n.factor for n in below if isinstance(n, Loop)) * self.ragged[node.dim]
        return math.prod(n.factor for n in below)


@dataclass(frozen=True)
class Chunks:
    """Tiles along one dimension: `size` elements each, the last what is left; in `rounds` rounds of `instances`, the last with fewer."""

    extent: int
    size: int
    rounds: int
    instances: int

    @property
    def number(self) -> int:
        """Tiles."""
        return -(-self.extent // self.size)

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(elements, tiles of so many)."""
        last = self.extent - (self.number - 1) * self.size
        return ((self.size, self.number - 1), (last, 1)) if self.number > 1 else ((last, 1),)

    def sliding(self, factor: int) -> tuple[tuple[int, int], ...]:
        """The same of the tiles that a loop of so many iterations, directly above, moves in other than its first iteration."""
        firsts = -(-self.rounds // factor)
        fresh = (self.rounds - 1) % factor == 0  # the last round is a first iteration
        in_last = self.number - (self.rounds - 1) * self.instances
        slid = self.number - (firsts - fresh) * self.instances - (in_last if fresh else 0)
        last = self.extent - (self.number - 1) * self.size
        return ((self.size, slid), (last, 0)) if fresh else ((self.size, slid - 1), (last, 1))


def kept(axis: Sequence[tuple[str, int]], chunks: MappingABC[str, Chunks], dim: str, factor: int, step: int) -> int:
    """Sum of what tiles share along one axis with the tile before, over all that slide.

    The loop directly above has `factor` iterations over `dim`, each `step` elements further on.
    """
    strides, own = dict(axis), chunks[dim]
    others = [(d, chunks[d]) for d, _ in axis if d != dim]
    total = 0
    for sizes in itertools.product(*(c.sizes for _, c in others)):
        ways = math.prod(count for _, count in sizes)
        rest = 1 + sum((size - 1) * strides[d] for (d, _), (size, _) in zip(others, sizes, strict=True))
        before = rest + (own.size - 1) * strides[dim] - step * strides[dim]
        for size, count in own.sliding(factor):
            total += ways * count * max(0, min(before, rest + (size - 1) * strides[dim]))
    return total
