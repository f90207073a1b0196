"""Exact search of one fused group: partial mappings of its ops, joined on the shared outer loops.

Costs of a tile depend on its shape alone (`presilicon.mapping.nest.cost`). So a fused nest splits at the branch point, the shape that
one iteration of the shared loops leaves: above it stand loops over shared dimensions and tiles of any op (one sweep inwards over the
lattice of the shared dimensions, all ops together), below it each op by itself (sweeps outwards from a point). Branches that reach the
same shape of the shared dimensions with complementary tiles are compatible; of those that agree in both only the ones stay that none
beats in every cost and in bytes held. The join takes, for each partial mapping above, what fits beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .cascade import Cascade
from .cost import ports
from .fused import FusedNest, Held, inner_tensors, shared_dims, stored_bytes
from .fused_join import Floats, Gate, Pair, embedding, front_of, match, match_all, on_shared
from .fused_side import Side
from .incumbent import TOLERANCE
from .lattice import Lattice, lattice
from .nest import Keep, Loop
from .problem import Problem
from .search import point, spread
from .space import Group
from .sweep import Level, Meter, States, Sweep, Trail, best, joined

#: Groups of spatial factors of each op that the first pass tries.
FIRST: Final = 3


@dataclass(frozen=True)
class Point:
    """One mapping of a group: energy, cycles, and the nest."""

    energy: float
    cycles: float
    nest: FusedNest


class GroupSearch:
    """Searches one group of ops with its intermediates in memory number `backing` (0: a single op)."""

    def __init__(self, cascade: Cascade, ops: tuple[int, ...], compiled: list[Problem], backing: int, meter: Meter) -> None:
        self.cascade, self.ops, self.backing, self.meter = cascade, ops, backing, meter
        self.hierarchy = compiled[0].hierarchy
        self.inner = inner_tensors(cascade, ops) if backing else {}
        self.sides = [Side(p, tuple(self.inner), backing, meter) for p in compiled]
        self.dims = shared_dims(cascade, ops) if backing else ()
        self.shapes: Lattice = lattice({d: compiled[0].dims[d] for d in self.dims})
        self.up = [embedding(self.shapes, side.shapes) for side in self.sides]
        self.ports = len(ports(compiled[0]))
        self.live = self._live()

    @property
    def bound(self) -> float:
        """Energy that no mapping of the group falls below."""
        return sum(side.bound for side in self.sides)

    @cached_property
    def floor(self) -> float:
        """Cycles that no mapping of the group falls below."""
        return sum(side.floor for side in self.sides)

    def tighten(self) -> None:
        """Find the bounds of every op."""
        for side in self.sides:
            side.tighten()

    def _live(self) -> list[Floats]:
        """For each op and shape of the shared dimensions, bytes of the intermediates that the backing memory holds while it runs."""
        found = [np.zeros(self.shapes.size) for _ in self.sides]
        for name, (first, last) in self.inner.items():
            sizes = np.array([stored_bytes(name, [s.problem for s in self.sides], self.shapes.tile(i)) for i in range(self.shapes.size)])
            for k, op in enumerate(self.ops):
                if first <= op <= last:
                    found[k] += sizes
        return found

    # Columns: the energy; and in full also, for every op, the cycles of the MACs and of every port.

    def _columns(self, full: bool) -> int:
        return 1 + len(self.sides) * (1 + self.ports) if full else 1

    def _vector(self, cost: Floats, k: int, full: bool) -> Floats:
        found = np.zeros(self._columns(full))
        found[0] = cost[0]
        if full:
            start = 2 + k * (1 + self.ports)
            found[start : start + self.ports] = cost[1:]
        return found

    def _cycles(self, cost: Floats) -> Floats:
        """Cycles of the group: of each op the slowest, then the sum."""
        found = np.zeros(len(cost))
        for k in range(len(self.sides)):
            start = 1 + k * (1 + self.ports)
            found += cost[:, start : start + 1 + self.ports].max(axis=1)
        return found

    def least_energy(self, only: Sequence[str] | None = None) -> Point | None:
        """The mapping of least energy among groups of the classes `only`, one for each op; None when nothing fits."""
        only = only or ["all"] * len(self.sides)
        best_so_far = math.inf
        found: Point | None = None

        def gate(energy: Floats, _cycles: Floats | float) -> NDArray[np.bool_]:
            good: NDArray[np.bool_] = np.isfinite(energy) & (energy < best_so_far * (1 - TOLERANCE))
            return good

        for most in (FIRST, None):
            points = self._solve(only, False, gate, most)
            if points:
                found, best_so_far = points[0], points[0].energy
        return found

    def front(self, only: Sequence[str], gate: Gate) -> list[Point]:
        """Mappings of which none beats another in both energy and cycles, as far as the gate lets them pass."""
        return self._solve(only, True, gate, None)

    def _solve(self, only: Sequence[str], full: bool, gate: Gate, most: int | None) -> list[Point]:
        below = []
        for k, side in enumerate(self.sides):
            states = self._lower(k, side.fast(only[k])[:most], full, gate)
            if not len(states):
                return []
            below.append(states)
        if not self.backing:
            return self._single(below[0], full, gate)
        return self._join(below, full, gate)

    def _rest(self, k: int) -> tuple[float, float]:
        """Least energy and cycles of the other ops."""
        return sum(s.bound for i, s in enumerate(self.sides) if i != k), sum(s.floor for i, s in enumerate(self.sides) if i != k)

    def _lower(self, k: int, groups: Sequence[Group], full: bool, gate: Gate) -> States:
        """Partial mappings of op `k` below its tiles in the backing memory: for each shape what none dominates."""
        side = self.sides[k]
        side.trail = Trail()
        columns = 1 + self.ports if full else 1
        rest_energy, rest_cycles = self._rest(k)
        parts = []
        for group in groups:
            outside = side.relaxed._above(group, 1, False).states.cost[:, 0].min(initial=math.inf)
            least = np.array([max(float(group.least[0]), float(group.below[0] + outside)) + rest_energy])
            if not gate(least, group.floor + rest_cycles)[0]:
                continue
            states = self._inside(side, group, columns, lambda e, c: gate(e + rest_energy, c + rest_cycles))
            if not len(states):
                continue
            cost = states.cost + group.cost.constant[:columns]
            if full:
                wide = np.zeros((len(cost), self._columns(True)))
                wide[:, 0] = cost[:, 0]
                start = 1 + k * (1 + self.ports)
                wide[:, start] = group.cost.compute
                wide[:, start + 1 : start + 1 + self.ports] = cost[:, 1:]
                cost = wide
            parts.append(States(states.shape, np.zeros(len(states)), cost, states.row))
        return best(joined(parts, self._columns(full)))

    def _inside(self, side: Side, group: Group, columns: int, gate: Gate) -> States:
        shapes, search = side.shapes, side.relaxed
        at = [position for position, _ in side.problem.fanouts]
        states = point(columns)
        last = len(side.problem.memories) - 1
        levels = [level for level in side.space.levels if level.number > self.backing]
        fewest = {edge: group.cost.edge[edge][:columns] * number for edge, number in side.space.fewest.items()}
        for level in reversed(levels):
            for i in reversed(range(len(at))):
                if at[i] == level.number:
                    states = spread(shapes, states, side.trail, i, group.chosen[i].shapes)
            if level.number == last:
                cheapest = search._above(group, 1, False).outside(search._steps(group))
                other = np.concatenate([cheapest, np.zeros((shapes.size, columns - 1))], axis=1)
                other[:, 1:] += sum((v[1:] for (_, n), v in fewest.items() if n < last), start=np.zeros(columns - 1))
            else:
                outer = sum((v for (_, n), v in fewest.items() if n < level.number), start=np.zeros(columns))
                other = np.broadcast_to(outer, (shapes.size, columns))
            rest = [fewest[name, level.number] for name in level.names]
            edges = [group.cost.edge[name, level.number][:columns] for name in level.names]
            keep = _keeper(group.cost.constant[:columns], rest, other, group.cost.compute, gate)
            states = Sweep(shapes, level, edges, "outwards", keep, side.trail, self.meter).run(states)
        for i in reversed(range(len(at))):
            if at[i] == self.backing:
                states = spread(shapes, states, side.trail, i, group.chosen[i].shapes)
        return states

    def _single(self, states: States, full: bool, gate: Gate) -> list[Point]:
        side = self.sides[0]
        whole = states.take(states.shape == side.shapes.size - 1)
        names = {level.number: level.names for level in side.space.levels}
        cycles = self._cycles(whole.cost) if full else np.zeros(len(whole))
        chosen = front_of(whole.cost[:, 0], cycles, gate)
        return [
            Point(
                float(whole.cost[i, 0]),
                float(cycles[i]),
                FusedNest(self.ops, "", (), (side.space.written(side.trail.follow(int(whole.row[i]), names)).nodes,)),
            )
            for i in chosen
        ]

    # The join.

    def _joint_level(self, number: int) -> tuple[Level, list[tuple[int, str]]]:
        """A memory at or above the backing one, over the shared dimensions, with the tensors of all ops."""
        names: list[tuple[int, str]] = []
        tables, held, allowed = [], [], []
        for k, side in enumerate(self.sides):
            level = side.space.levels[number - 1]
            for i in side.own(level):
                names.append((k, level.names[i]))
                tables.append(on_shared(self.shapes, level.tables[i], self.up[k]))
                held.append(level.bytes_held[i][self.up[k]])
                allowed.append(level.allowed[i][self.up[k]])
        capacity = self.sides[0].space.levels[number - 1].capacity
        texts = tuple(f"{k} {name}" for k, name in names)
        return Level(number, texts, tuple(tables), tuple(held), tuple(allowed), capacity, (0,) * len(texts)), names

    def _join(self, below: list[States], full: bool, gate: Gate) -> list[Point]:
        columns = self._columns(full)
        trail = Trail()
        states = States(np.array([self.shapes.size - 1]), np.zeros(1), np.zeros((1, columns)), np.full(1, -1, dtype=np.int64))
        least = np.zeros(columns)
        for part in below:
            least += part.cost.min(axis=0)

        def keep(states: States, _bits: int) -> NDArray[np.bool_]:
            total = states.cost + least
            return gate(total[:, 0], self._cycles(total) if full else self.floor)

        for number in range(1, self.backing):
            level, own = self._joint_level(number)
            states = Sweep(self.shapes, level, self._edges(own, number, full), "inwards", keep, trail, self.meter).run(states)
        level, own = self._joint_level(self.backing)
        above = Sweep(self.shapes, level, self._edges(own, self.backing, full), "inwards", keep, trail, self.meter, complete=False).partial(
            states
        )
        branches = [self._branch(k, below[k], full, gate) for k in range(len(self.sides))]
        found: list[Pair] = []
        masks = [sum(1 << i for i, (owner, _) in enumerate(own) if owner == k) for k in range(len(self.sides))]
        firsts = [next((i for i, (owner, _) in enumerate(own) if owner == k), 0) for k in range(len(self.sides))]
        for bits, upper in above.items():
            if not len(upper):
                continue
            chosen = [branches[k][((~bits) & masks[k]) >> firsts[k]] for k in range(len(self.sides))]
            if not full:
                match(self.live, self.meter, upper, chosen, level.capacity, gate, self.floor, found)
            else:
                match_all(self.live, self.meter, self._cycles, upper, chosen, level.capacity, gate, found)
        if not found:
            return []
        energies, cycles = np.array([f[0] for f in found]), np.array([f[1] for f in found])
        return [self._point(found[i], trail, own) for i in front_of(energies, cycles, gate)]

    def _edges(self, own: Sequence[tuple[int, str]], number: int, full: bool) -> list[Floats]:
        # No fanout stands above the backing memory, so that every group of spatial factors costs the same there.
        return [self._vector(self.sides[k].groups[0].cost.edge[name, number], k, full) for k, name in own]

    def _branch(self, k: int, start: States, full: bool, gate: Gate) -> dict[int, States]:
        """Branches of op `k` by the tiles that they keep in the backing memory, on shapes of the shared dimensions."""
        side = self.sides[k]
        assert side.at is not None
        own = side.own(side.at)
        part = Level(
            self.backing,
            tuple(side.at.names[i] for i in own),
            tuple(side.at.tables[i] for i in own),
            tuple(side.at.bytes_held[i] for i in own),
            tuple(side.at.allowed[i] for i in own),
            side.at.capacity - min(float(each.min()) for each in self.live),
            (0,) * len(own),
        )
        edges = [self._vector(side.groups[0].cost.edge[name, self.backing], k, full) for name in part.names]
        rest_energy, rest_cycles = self._rest(k)
        fewest = [side.space.fewest[name, self.backing] for name in part.names]

        def keep(states: States, bits: int) -> NDArray[np.bool_]:
            total = states.cost + sum((f * e for i, (f, e) in enumerate(zip(fewest, edges, strict=True)) if not bits >> i & 1), start=0.0)
            return gate(total[:, 0] + rest_energy, self._cycles(total) + rest_cycles if full else self.floor)

        found = Sweep(side.shapes, part, edges, "outwards", keep, side.trail, self.meter).partial(start)
        where = np.full(side.shapes.size, -1, dtype=np.int64)
        where[self.up[k]] = np.arange(self.shapes.size)
        result = {}
        for bits, states in found.items():
            inside = states.take(where[states.shape] >= 0)
            inside = States(where[inside.shape], inside.held, inside.cost, inside.row)
            order = np.lexsort((inside.held, inside.shape))
            result[bits] = inside.take(order)
        return result

    def _point(self, found: Pair, trail: Trail, own: Sequence[tuple[int, str]]) -> Point:
        energy, cycles, shape, row, branch_rows = found
        names = {number: self._joint_level(number)[0].names for number in range(1, self.backing + 1)}
        memory = [m.name for m in self.hierarchy.memories]
        shared: list[Loop | Held] = []
        here = self.shapes.tile(self.shapes.size - 1)

        def loops_to(target: MappingABC[str, int]) -> None:
            shared.extend(Loop(d, here[d] // target[d]) for d in here if here[d] != target[d])
            here.update(target)

        for link in trail.follow(row, names)[::-1]:
            tile = self.shapes.tile(link.shape)
            if link.slide is not None:
                dim, factor = link.slide
                loops_to(tile | {dim: tile[dim] * factor})
                shared.append(Loop(dim, factor))
                here.update(tile)
            else:
                loops_to(tile)
            for text in link.tensors:
                k, _, name = text.partition(" ")
                shared.append(Held(self.ops[int(k)], Keep(name, memory[link.level])))
        loops_to(self.shapes.tile(shape))
        branches = []
        for n, side in enumerate(self.sides):
            assert side.at is not None
            levels = {level.number: level.names for level in side.space.levels}
            levels[self.backing] = tuple(side.at.names[i] for i in side.own(side.at))
            placed = side.trail.follow(branch_rows[n], levels)
            branches.append(side.space.written(placed, int(self.up[n][shape])).nodes)
        return Point(energy, cycles, FusedNest(self.ops, memory[self.backing], tuple(shared), tuple(branches)))


def _keeper(constant: Floats, rest: Sequence[Floats], other: Floats, compute: float, gate: Gate) -> Callable[..., NDArray[np.bool_]]:
    missing = {
        bits: constant + sum((r for i, r in enumerate(rest) if not bits >> i & 1), start=np.zeros(len(constant)))
        for bits in range(1 << len(rest))
    }

    def keep(states: States, bits: int) -> NDArray[np.bool_]:
        total = states.cost + missing[bits] + other[states.shape]
        return gate(total[:, 0], np.maximum(compute, total[:, 1:].max(axis=1)) if total.shape[1] > 1 else compute)

    return keep


def backing_memories(cascade: Cascade, ops: tuple[int, ...], compiled: Sequence[Problem]) -> list[int]:
    """Memories that can back the intermediates of a group: no fanout stands above, and they keep them in every op."""
    hierarchy = compiled[0].hierarchy
    found = []
    for number, memory in enumerate(hierarchy.memories):
        if number and not any(hierarchy.fanouts_below(i) for i in range(number)) and not memory.partition_bytes:
            inner = inner_tensors(cascade, ops)
            if all(number in p.tensors[name].levels for p in compiled for name in inner if name in p.tensors):
                found.append(number)
    return found
