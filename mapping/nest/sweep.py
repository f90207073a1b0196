"""One memory level of the search: every order of its tiles and every loop between them, as partial mappings.

A partial mapping is a shape, what its tiles take of the memory, what it has cost, and its last tile. A forward sweep goes
from the whole problem inwards and a backward sweep from a single point outwards; loops cost nothing by themselves, so
that they are a closure over the lattice, after which each shape keeps only what no other partial mapping dominates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .cost import Edge
from .lattice import Lattice, Slide, TensorTable
from .pareto import cheapest, nondominated

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


class StoppedError(Exception):
    """The time limit has passed."""


@dataclass
class Meter:
    """Counts partial mappings and watches the clock, while `armed`: a search is not stopped before it has a mapping to show."""

    deadline: float | None = None
    evaluated: int = 0
    armed: bool = True

    def add(self, number: int) -> None:
        """Note work done; raises `StoppedError` past the deadline."""
        self.evaluated += number
        if self.armed and self.deadline is not None and time.monotonic() > self.deadline:
            raise StoppedError


@dataclass(frozen=True)
class Placed:
    """A link of a partial mapping: tiles placed at a shape, or factors spread (no tiles)."""

    shape: int
    tensors: tuple[str, ...]
    slide: tuple[str, int] | None
    spread: int
    level: int


@dataclass
class Trail:
    """How every partial mapping came about, so that the best can be written out: rows that point at the row before."""

    chunks: list[tuple[Index, int, Index, int, int, tuple[str, int] | None]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    total: int = 0

    def add(
        self, shape: Index, before: Index, *, tensors: int, level: int, spread: int = -1, slide: tuple[str, int] | None = None
    ) -> Index:
        """Rows for so many placements of the same tiles; returns their numbers."""
        self.chunks.append((shape, tensors, before, level, spread, slide))
        self.starts.append(self.total)
        self.total += len(shape)
        return np.arange(self.total - len(shape), self.total)

    def follow(self, row: int, names: Mapping[int, Sequence[str]]) -> list[Placed]:
        """Placements from row `row` back to the first; `names` are the tensors of each level's bits."""
        found = []
        while row >= 0:
            chunk = int(np.searchsorted(self.starts, row, side="right")) - 1
            shape, bits, before, level, spread, slide = self.chunks[chunk]
            offset = row - self.starts[chunk]
            tensors = tuple(name for i, name in enumerate(names.get(level, ())) if bits >> i & 1)
            found.append(Placed(int(shape[offset]), tensors, slide, spread, level))
            row = int(before[offset])
        return found


@dataclass(frozen=True)
class States:
    """Partial mappings: shapes (n,), bytes of their tiles (n,), costs (n, k), rows of the trail (n,), and the groups that they belong to.

    `group` numbers the groups of spatial factors that are searched together, shape (n,); None where there is one.
    """

    shape: Index
    held: Floats
    cost: Floats
    row: Index
    group: Index | None = None

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> States:
        """Some of them."""
        group = None if self.group is None else self.group[index]
        return States(self.shape[index], self.held[index], self.cost[index], self.row[index], group)

    def of(self, values: Floats) -> Floats:
        """Each one's entry of values by group, or the one value of all."""
        return values if self.group is None else values[self.group]

    def place(self, size: int) -> Index:
        """A number for each group and shape, of lattices of `size` shapes."""
        return self.shape if self.group is None else self.group * size + self.shape

    def __len__(self) -> int:
        return len(self.shape)


#: (partial mappings, tiles placed as bits) -> which may still lead to a mapping better than the best known.
Keep = Callable[[States, int], NDArray[np.bool_]]


def joined(parts: Sequence[States], columns: int) -> States:
    """Several sets as one."""
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return States(none, np.zeros(0), np.zeros((0, columns)), none)
    if len(parts) == 1:
        return parts[0]
    group = None if parts[0].group is None else np.concatenate([p.group for p in parts if p.group is not None])
    shape, held, cost, row = ([getattr(p, name) for p in parts] for name in ("shape", "held", "cost", "row"))
    return States(np.concatenate(shape), np.concatenate(held), np.concatenate(cost), np.concatenate(row), group)


def best(states: States, size: int = 0, criteria: Sequence[int] | None = None) -> States:
    """Without the dominated ones, on a lattice of `size` shapes; of the costs only columns `criteria` are compared, if given."""
    cost = states.cost if criteria is None else states.cost[:, criteria]
    return states.take(nondominated(states.place(size), np.column_stack([cost, states.held])))


@dataclass(frozen=True)
class Level:
    """One memory of the search.

    Attributes
    ----------
    number
        Of the memory.
    names
        Tensors that it keeps; bit i of a set of tiles is tensor i.
    tables
        Volumes and traffic of each.
    bytes_held
        Bytes of each tensor's tile of every shape.
    allowed
        Shapes that each tensor's tile may have.
    capacity
        Bytes of the memory, infinite when unlimited.
    above
        Bits of the tensors that must stand above each tensor.
    relevant
        Dimensions that index each tensor; empty where nothing asks for an order.
    even
        All tiles stand at one depth: a loop between two of them indexes none of those above it.
    under
        Bits of the tiles that each tile stands below wherever it is placed; empty: of none.
    owners
        Memory of each tile, where they are not all of memory `number`; empty: they are.
    """

    number: int
    names: tuple[str, ...]
    tables: tuple[TensorTable, ...]
    bytes_held: tuple[Floats, ...]
    allowed: tuple[NDArray[np.bool_], ...]
    capacity: float
    above: tuple[int, ...]
    relevant: tuple[frozenset[str], ...] = ()
    even: bool = False
    under: tuple[int, ...] = ()
    owners: tuple[Edge, ...] = ()

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Tensor and memory of each tile."""
        return self.owners or tuple((name, self.number) for name in self.names)

    @property
    def orders(self) -> int:
        """Orders in which the tiles can stand; a tile stands under one other at most."""
        return math.factorial(len(self.names)) >> sum(map(bool, self.under))

    def open(self, bits: int, direction: str) -> list[int]:
        """Tiles that can be placed next to the tiles `bits`."""
        left = [i for i in range(len(self.names)) if not bits >> i & 1]
        if not self.under:
            return left
        if direction == "inwards":
            return [i for i in left if not self.under[i] & ~bits]
        return [i for i in left if not any(self.under[j] >> i & 1 for j in left)]

    def blocked(self, bits: int, direction: str) -> frozenset[str]:
        """Dimensions over which no loop may stand between the tiles `bits`, placed so far, and the others.

        A tile stands as high as it can: above the loops over which it does not move. So it may stand above one that an order puts above it,
        if no loop between the two moves it, for then it costs the same below: it is written there (`Space.written`).
        """
        if not self.relevant or bits in (0, self.full):
            return frozenset()
        upper = bits if direction == "inwards" else self.full & ~bits
        lifted = upper if self.even else self._lifted(upper)
        return frozenset().union(*(dims for i, dims in enumerate(self.relevant) if lifted >> i & 1))

    def _lifted(self, upper: int) -> int:
        """Of the tiles `upper`, placed above all others, those that an order puts below one of the others."""
        lower, lifted = self.full & ~upper, 0
        while True:
            more = sum(1 << i for i, above in enumerate(self.above) if upper >> i & 1 and above & (lower | lifted))
            if more == lifted:
                return lifted
            lifted = more

    @property
    def full(self) -> int:
        """All tiles placed, as bits."""
        return (1 << len(self.names)) - 1


@dataclass
class Sweep:
    """Places the tiles of one level in every way.

    Attributes
    ----------
    shapes, level, edges
        Lattice, level, and cost of an element moved of each tensor, (k,); (groups, k) where the partial mappings have groups.
    direction
        ``"inwards"`` from the whole problem, or ``"outwards"`` from a point.
    keep
        Bound by which partial mappings are dropped.
    narrow
        Keep only the cheapest partial mapping of each shape and set of tiles: fast, and without proof.
    complete
        Every tile of the level is placed in this sweep, and so takes room in it.
    closed
        Loops are added after the last tile too. They can be left to what comes next: a loop costs nothing on either side of a fanout.
    criteria
        Columns of the costs that dominance compares: the others are in proportion to one of these. None: all.
    once
        By bit, what a tensor saves when it moves no more than so many elements (`presilicon.mapping.nest.cost.Cost.once`); also by group.
    """

    shapes: Lattice
    level: Level
    edges: Sequence[Floats]
    direction: Literal["inwards", "outwards"]
    keep: Keep
    trail: Trail
    meter: Meter
    narrow: bool = False
    complete: bool = True
    closed: bool = True
    criteria: Sequence[int] | None = None
    once: Mapping[int, tuple[Floats, Floats]] = field(default_factory=dict)

    def run(self, start: States) -> States:
        """Partial mappings with all tiles of the level placed, closed under further loops, holding nothing."""
        level, columns = self.level, start.cost.shape[1]
        placed: dict[int, list[States]] = {bits: [] for bits in range(level.full + 1)}
        for bits in sorted(placed, key=lambda b: (b.bit_count(), b)):
            base = start if not bits else joined(placed.pop(bits), columns)
            if not len(base):
                if bits == level.full:
                    return base
                continue
            done = bits == level.full
            base = self._trim(base, done)
            closed = self.close(base, bits, done) if self.closed or not done else base
            if done:
                return States(closed.shape, np.zeros(len(closed)), closed.cost, closed.row, closed.group)
            if not len(closed):
                continue
            for i in level.open(bits, self.direction):
                placed[bits | 1 << i].append(self._place(closed, bits, i))
            for group, states in self._slide(closed, bits):
                placed[bits | group].append(states)
        raise AssertionError("the last set of tiles is the full one")

    def partial(self, start: States) -> dict[int, States]:
        """For every set of tiles, partial mappings that have placed just those, closed under further loops, holding them."""
        level, columns = self.level, start.cost.shape[1]
        placed: dict[int, list[States]] = {bits: [] for bits in range(level.full + 1)}
        placed[0].append(start)
        found: dict[int, States] = {}
        for bits in sorted(placed, key=lambda b: (b.bit_count(), b)):
            found[bits] = closed = best(self.close(best(joined(placed.pop(bits), columns)), bits))
            for i in level.open(bits, self.direction):
                placed[bits | 1 << i].append(self._place(closed, bits, i))
            for group, states in self._slide(closed, bits):
                placed[bits | group].append(states)
        return found

    def _trim(self, states: States, done: bool) -> States:
        """Without the dominated ones; once the level is `done`, what they hold only decides between equals: the less, the sooner filled."""
        if self.narrow or (done and len(self.criteria or range(states.cost.shape[1])) == 1):
            return states.take(cheapest(states.place(self.shapes.size), states.cost[:, 0], states.held if done else None))
        if done:
            states = States(states.shape, np.zeros(len(states)), states.cost, states.row, states.group)
        return best(states, self.shapes.size, self.criteria)

    def close(self, states: States, bits: int, done: bool = False) -> States:
        """Add loops: every shape that divides (inwards) or is a multiple of (outwards) a partial mapping's shape.

        `done`: nothing of this level is to come, so that what partial mappings hold is of no more account.
        """
        states = self._viable(states, bits)
        if not len(states):
            return states
        blocked = self.level.blocked(bits, self.direction)
        for axis, exponents in zip(self.shapes.axes, self.shapes.exponents, strict=True):
            if axis.dim in blocked:
                continue
            moving, parts = states, [states]
            for _ in range(axis.most):
                room = exponents[moving.shape] > 0 if self.direction == "inwards" else exponents[moving.shape] < axis.most
                moving = moving if room.all() else moving.take(room)
                if not len(moving):
                    break
                step = -axis.stride if self.direction == "inwards" else axis.stride
                moving = self._viable(States(moving.shape + step, moving.held, moving.cost, moving.row, moving.group), bits)
                parts.append(moving)
            if len(parts) > 1:
                states = self._trim(joined(parts, states.cost.shape[1]), done)
                self.meter.add(0)
        return states

    def _viable(self, states: States, bits: int) -> States:
        """Those that leave room for the tiles to come and that the bound does not exclude."""
        if not len(states):
            return states
        good = self.keep(states, bits)
        level = self.level
        if bits != level.full and self.complete:
            rest = np.zeros(len(states))
            for i, size in enumerate(level.bytes_held):
                if not bits >> i & 1:
                    rest += size[states.shape] if self.direction == "outwards" else size[0]
            good &= states.held + rest <= level.capacity
        return states if good.all() else states.take(good)

    def _place(self, states: States, bits: int, i: int) -> States:
        """Tensor `i` kept at each shape."""
        level = self.level
        held = states.held + level.bytes_held[i][states.shape]
        fits = (held <= level.capacity) & level.allowed[i][states.shape]
        states = States(states.shape, held, states.cost, states.row, states.group).take(fits)
        cost = states.cost + self._price(level.tables[i], i, states, states.shape)
        if i in self.once:
            limit, saved = self.once[i]
            moved = level.tables[i].moved[states.shape]
            cost += (moved <= states.of(limit) * (1 + 1e-12))[:, None] * states.of(saved)
        states = States(states.shape, states.held, cost, states.row, states.group)
        return self._recorded(states, states.shape, before=bits, bits=1 << i)

    def _price(self, table: TensorTable | Slide, i: int, states: States, tile: Index) -> Floats:
        """Cost of a tensor's fetches at each shape."""
        if table.price is not None:
            return table.price[tile, : self.edges[i].shape[-1]]
        return table.moved[tile][:, None] * states.of(self.edges[i])

    def _recorded(self, found: States, tile: Index, *, before: int, bits: int, slide: tuple[str, int] | None = None) -> States:
        """Drop what the bound excludes and give the rest a row in the trail."""
        self.meter.add(len(found))
        good = self.keep(found, before | bits)
        found, tile = found.take(good), tile[good]
        row = self.trail.add(tile, found.row, tensors=bits, level=self.level.number, slide=slide)
        return States(found.shape, found.held, found.cost, row, found.group)

    def _slide(self, states: States, bits: int) -> list[tuple[int, States]]:
        """Tensors kept where they slide along a loop directly above, alone or several along the same loop."""
        level = self.level
        loops = {(s.dim, s.factor): s.step for i, t in enumerate(level.tables) if not bits >> i & 1 for s in t.slides}
        found = []
        for (dim, factor), step in loops.items():
            inside = self.shapes.fits(states.shape, step) if self.direction == "outwards" else self.shapes.divides(states.shape, step)
            moving = states.take(inside)
            tile = moving.shape if self.direction == "outwards" else moving.shape - step
            after = moving.shape + step if self.direction == "outwards" else tile
            moving = States(after, moving.held, moving.cost, moving.row, moving.group)
            able = [i for i, t in enumerate(level.tables) if not bits >> i & 1 and (dim, factor) in {(s.dim, s.factor) for s in t.slides}]
            for group in range(1, 1 << len(able)):
                members = [i for n, i in enumerate(able) if group >> n & 1]
                # The loop stands above the group and below what is placed further out.
                if dim in level.blocked(bits if self.direction == "inwards" else bits | sum(1 << i for i in members), self.direction):
                    continue
                together = sum(1 << i for i in members)
                found.append((together, self._slide_group(moving, tile, bits, members, (dim, factor))))
        return found

    def _slide_group(self, states: States, tile: Index, bits: int, members: Sequence[int], loop: tuple[str, int]) -> States:
        level = self.level
        held, cost, good = states.held, states.cost, np.ones(len(states), dtype=bool)
        for i in members:
            slide = next(s for s in level.tables[i].slides if (s.dim, s.factor) == loop)
            held = held + level.bytes_held[i][tile]
            cost = cost + self._price(slide, i, states, tile)
            good &= slide.valid[tile] & level.allowed[i][tile]
        good &= held <= level.capacity
        states = States(states.shape, held, cost, states.row, states.group).take(good)
        return self._recorded(states, tile[good], before=bits, bits=sum(1 << i for i in members), slide=loop)
