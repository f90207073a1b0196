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
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .cascade import Cascade
from .constraints import Constraints
from .cost import ports
from .fused import FusedNest, Held, inner_tensors, shared_dims, stored_bytes
from .incumbent import TOLERANCE, Incumbent
from .lattice import Lattice, Slide, TensorTable, lattice
from .nest import Keep, Loop, Mapping
from .pareto import nondominated
from .problem import Problem
from .search import _cheapest, _point, _reached, _Search, _spread
from .space import Group, Space, space
from .spread import combine
from .sweep import Level, Meter, States, Sweep, Trail, best, joined

Index = NDArray[np.int64]
Floats = NDArray[np.float64]
#: (energies, cycles) of what is known -> which may still be part of a mapping better than the best known.
Gate = Callable[[Floats, Floats | float], NDArray[np.bool_]]

#: Groups of spatial factors of each op that the first pass tries.
FIRST: Final = 3


@dataclass(frozen=True)
class Point:
    """One mapping of a group: energy, cycles, and the nest."""

    energy: float
    cycles: float
    nest: FusedNest


class Side:
    """One op of a group, its space, and bounds from its search with intermediates free of charge and no other op beside it."""

    def __init__(self, compiled: Problem, inner: Sequence[str], backing: int, meter: Meter) -> None:
        self.problem, self.backing, self.meter = compiled, backing, meter
        self.space: Space = space(compiled, Constraints())
        self.shapes = self.space.shapes
        self.groups: list[Group] = self.space.groups
        self.fastest = min(g.cost.compute for g in self.groups)
        relaxed = _Search(self.space, Incumbent("energy"), meter)
        self.relaxed = relaxed
        self.inner = tuple(name for name in inner if name in compiled.tensors)
        self.bound = min(float(g.least[0]) for g in self.groups)
        self.at: Level | None = self.space.levels[backing - 1] if backing else None
        self.trail = Trail()

    def tighten(self) -> None:
        """Find the least energy that any mapping of the op alone can have."""
        least = _LeastEnergy(self.relaxed).run()
        self.bound = max(self.bound, least)

    @cached_property
    def floor(self) -> float:
        """Cycles that no mapping falls below."""
        return min(g.floor for g in self.groups)

    def fast(self, only: str) -> list[Group]:
        """Groups of a class: ``"all"``, ``"fastest"`` (fewest cycles of the MACs) or ``"slower"``, most promising first."""
        chosen = [g for g in self.groups if only == "all" or (g.cost.compute <= self.fastest * (1 + TOLERANCE)) == (only == "fastest")]
        return sorted(chosen, key=self.relaxed._promise)

    def own(self, level: Level) -> list[int]:
        """Tensors of a level that are not intermediates of the group."""
        return [i for i, name in enumerate(level.names) if name not in self.inner]


class _LeastEnergy:
    """Least energy of an op whose intermediates cost nothing outside their memory and that has the hierarchy to itself."""

    def __init__(self, relaxed: _Search) -> None:
        self.relaxed = relaxed

    def run(self) -> float:
        """The least energy in joules, infinite when nothing fits."""
        search, known = self.relaxed, math.inf
        search.incumbent.mapping = Mapping(())  # none in particular: its energy is what counts
        pending = sorted(search.groups, key=lambda g: float(g.least[0]))
        for narrow in (True, False):
            for group in sorted(pending, key=search._promise)[:6] if narrow else pending:
                if search._bound(group) < known:
                    search.incumbent.energy = known
                    met = search._meet(group, 1, narrow)
                    known = min(known, met[0]) if met is not None else known
            search.upper.clear()
        search.incumbent.energy, search.incumbent.mapping = math.inf, None
        return known


class GroupSearch:
    """Searches one group of ops with its intermediates in memory number `backing` (0: a single op)."""

    def __init__(self, cascade: Cascade, ops: tuple[int, ...], compiled: list[Problem], backing: int, meter: Meter) -> None:
        self.cascade, self.ops, self.backing, self.meter = cascade, ops, backing, meter
        self.hierarchy = compiled[0].hierarchy
        self.inner = inner_tensors(cascade, ops) if backing else {}
        self.sides = [Side(p, tuple(self.inner), backing, meter) for p in compiled]
        self.dims = shared_dims(cascade, ops) if backing else ()
        self.shapes: Lattice = lattice({d: compiled[0].dims[d] for d in self.dims})
        self.up = [_embedding(self.shapes, side.shapes) for side in self.sides]
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
            outside = side.relaxed._above(group, 1, False)[0].cost[:, 0].min(initial=math.inf)
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
        states = _point(columns)
        last = len(side.problem.memories) - 1
        levels = [level for level in side.space.levels if level.number > self.backing]
        fewest = {edge: group.cost.edge[edge][:columns] * number for edge, number in side.space.fewest.items()}
        for level in reversed(levels):
            for i in reversed(range(len(at))):
                if at[i] == level.number:
                    states = _spread(shapes, states, side.trail, i, group.chosen[i].shapes)
            if level.number == last:
                upper, _ = search._above(group, 1, False)
                steps = combine(shapes, [group.chosen[i].shapes for i in search.joint])
                cheapest = _reached(shapes, _cheapest(shapes, upper), steps)
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
                states = _spread(shapes, states, side.trail, i, group.chosen[i].shapes)
        return states

    def _single(self, states: States, full: bool, gate: Gate) -> list[Point]:
        side = self.sides[0]
        whole = states.take(states.shape == side.shapes.size - 1)
        names = {level.number: level.names for level in side.space.levels}
        cycles = self._cycles(whole.cost) if full else np.zeros(len(whole))
        chosen = _front(whole.cost[:, 0], cycles, gate)
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
                tables.append(_on(self.shapes, level.tables[i], self.up[k]))
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

        def keep(_shape: Index, spent: Floats, _bits: int) -> NDArray[np.bool_]:
            total = spent + least
            return gate(total[:, 0], self._cycles(total) if full else self.floor)

        for number in range(1, self.backing):
            level, own = self._joint_level(number)
            states = Sweep(self.shapes, level, self._edges(own, number, full), "inwards", keep, trail, self.meter).run(states)
        level, own = self._joint_level(self.backing)
        above = Sweep(self.shapes, level, self._edges(own, self.backing, full), "inwards", keep, trail, self.meter, complete=False).partial(
            states
        )
        branches = [self._branch(k, below[k], full, gate) for k in range(len(self.sides))]
        found: list[tuple[float, float, int, int, tuple[int, ...]]] = []  # energy, cycles, shared shape, row above, row of each branch
        masks = [sum(1 << i for i, (owner, _) in enumerate(own) if owner == k) for k in range(len(self.sides))]
        firsts = [next((i for i, (owner, _) in enumerate(own) if owner == k), 0) for k in range(len(self.sides))]
        for bits, upper in above.items():
            if not len(upper):
                continue
            chosen = [branches[k][((~bits) & masks[k]) >> firsts[k]] for k in range(len(self.sides))]
            if not full:
                self._match(upper, chosen, level.capacity, gate, found)
            else:
                self._match_all(upper, chosen, level.capacity, gate, found)
        if not found:
            return []
        energies, cycles = np.array([f[0] for f in found]), np.array([f[1] for f in found])
        return [self._point(found[i], trail, own) for i in _front(energies, cycles, gate)]

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

        def keep(_shape: Index, spent: Floats, bits: int) -> NDArray[np.bool_]:
            total = spent + sum((f * e for i, (f, e) in enumerate(zip(fewest, edges, strict=True)) if not bits >> i & 1), start=0.0)
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

    def _match(
        self,
        upper: States,
        chosen: Sequence[States],
        capacity: float,
        gate: Gate,
        found: list[tuple[float, float, int, int, tuple[int, ...]]],
    ) -> None:
        """The best of energy alone: beside each partial mapping above, the cheapest branch of each op that fits."""
        total = upper.cost[:, 0].copy()
        rows = []
        for k, states in enumerate(chosen):
            if not len(states):
                return
            room = capacity - self.live[k][upper.shape] - upper.held
            top = float(states.held.max()) + 1.0
            # Of the states of one shape, sorted by bytes held, each costs less than those before it.
            keys = states.shape * (2 * top) + states.held
            at = np.searchsorted(keys, upper.shape * (2 * top) + np.minimum(room, top), side="right") - 1
            good = (at >= 0) & (room >= 0)
            at = np.maximum(at, 0)
            good &= (states.shape[at] == upper.shape) & (states.held[at] <= room)
            total = np.where(good, total + states.cost[at, 0], np.inf)
            rows.append(states.row[at])
        self.meter.add(len(total))
        best_row = int(np.argmin(total))
        if gate(total[best_row : best_row + 1], self.floor)[0]:
            where = int(upper.shape[best_row])
            found.append((float(total[best_row]), 0.0, where, int(upper.row[best_row]), tuple(int(r[best_row]) for r in rows)))

    def _match_all(
        self,
        upper: States,
        chosen: Sequence[States],
        capacity: float,
        gate: Gate,
        found: list[tuple[float, float, int, int, tuple[int, ...]]],
    ) -> None:
        """All that fits together, with every cost."""
        for shape in np.unique(upper.shape):
            top = upper.take(upper.shape == shape)
            parts = [states.take(states.shape == shape) for states in chosen]
            if any(not len(part) for part in parts):
                continue
            rest = [np.zeros(top.cost.shape[1])]
            for part in reversed(parts):
                rest.append(rest[-1] + part.cost.min(axis=0))
            cost, held, rows = top.cost, top.held, [top.row]
            for k, part in enumerate(parts):
                a, b = np.repeat(np.arange(len(cost)), len(part)), np.tile(np.arange(len(part)), len(cost))
                good = held[a] + part.held[b] + self.live[k][shape] <= capacity
                a, b = a[good], b[good]
                total = cost[a] + part.cost[b]
                self.meter.add(len(total))
                low = total + rest[len(parts) - 1 - k]
                good = gate(low[:, 0], self._cycles(low))
                a, b, total = a[good], b[good], total[good]
                stay = nondominated(np.zeros(len(a), dtype=np.int64), np.column_stack([total, held[a]]))
                cost, held = total[stay], held[a[stay]]
                rows = [r[a[stay]] for r in rows] + [part.row[b[stay]]]
            cycles = self._cycles(cost)
            for i in _front(cost[:, 0], cycles, gate):
                found.append((float(cost[i, 0]), float(cycles[i]), int(shape), int(rows[0][i]), tuple(int(r[i]) for r in rows[1:])))

    def _point(self, found: tuple[float, float, int, int, tuple[int, ...]], trail: Trail, own: Sequence[tuple[int, str]]) -> Point:
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

    def keep(shape: Index, spent: Floats, bits: int) -> NDArray[np.bool_]:
        total = spent + missing[bits] + other[shape]
        return gate(total[:, 0], np.maximum(compute, total[:, 1:].max(axis=1)) if total.shape[1] > 1 else compute)

    return keep


def _front(energy: Floats, cycles: Floats, gate: Gate) -> list[int]:
    """Of those that pass the gate, the ones that no other beats in both, cheapest first."""
    good = np.flatnonzero(gate(energy, cycles))
    stay = good[nondominated(np.zeros(len(good), dtype=np.int64), np.column_stack([energy[good], cycles[good]]))]
    return [int(i) for i in stay[np.argsort(energy[stay], kind="stable")]]


def _embedding(shared: Lattice, whole: Lattice) -> Index:
    """Index, in an op's lattice, of each shape of the shared dimensions, the other dimensions whole."""
    strides = {(axis.dim, axis.prime): axis.stride for axis in whole.axes}
    base = sum(axis.most * axis.stride for axis in whole.axes if axis.dim not in shared.dims)
    found = np.full(shared.size, base, dtype=np.int64)
    for axis, exponents in zip(shared.axes, shared.exponents, strict=True):
        found += exponents.astype(np.int64) * strides[axis.dim, axis.prime]
    return found


def _on(shared: Lattice, table: TensorTable, up: Index) -> TensorTable:
    """A tensor's table over the shapes of the shared dimensions."""
    slides = tuple(
        Slide(s.dim, s.factor, shared.index({s.dim: s.factor}), s.moved[up], s.valid[up]) for s in table.slides if s.dim in shared.dims
    )
    return TensorTable(table.volume[up], table.moved[up], slides)


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


def classes(sides: Sequence[Side]) -> list[tuple[str, ...]]:
    """Every choice of ``"fastest"`` or ``"slower"`` groups for each op, the fastest of all first."""
    return list(product(("fastest", "slower"), repeat=len(sides)))
