"""Exact search: the mapping of least energy, latency or energy-delay product, with a proof or a bound.

Branch and bound over partial mappings. The factors in space are grouped by what they share (`spread`); under each group the
cost of a tile depends on its shape alone (`cost`). From the whole problem inwards, partial mappings of all memories but the
innermost are extended tile by tile and loop by loop, and of those at one shape that hold and cost no less than
another the worse are dropped (`sweep`, `pareto`). What remains is, for each shape, the exact cost of everything above it: the
bound under which the innermost memory is searched from a single point outwards. The halves meet where shapes agree.

First a narrow beam gives a mapping to beat. Energy alone is searched at first, under the least latency that a group allows;
where a memory's bandwidth then makes a group's best mapping slower, the group is searched again with the cycles of every
port as further criteria.

The space: every order of the tiles within each memory; every way to write each dimension's extent as factors in
the places above, between and below tiles, and along the axes of each fanout; every order of the loops in one place. Factors
divide extents; the tiles of a memory stand above those of the next.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import MappingError, UnknownNameError
from .constraints import Constraints, check_constraints, orders
from .cost import Cost, cost
from .counts import Counts, evaluate
from .lattice import Lattice, lattice, ordered_factorisations, tensor_table
from .nest import Keep as KeepNode, Loop, Mapping, Node
from .problem import Problem
from .spread import Spread, axis_shapes, combine, place, spreads
from .sweep import Keep, Level, Meter, Placed, States, Stopped, Sweep, Trail, best

Index = NDArray[np.int64]
Floats = NDArray[np.float64]
Objective = Literal["energy", "latency", "edp"]
OBJECTIVES: Final[tuple[Objective, ...]] = get_args(Objective)

#: Two costs closer than this, relative, count as equal: sums in another order differ by that much.
TOLERANCE: Final = 1e-10
#: Partial mappings that the first pass keeps for each set of tiles, and groups of spatial factors that it tries.
BEAM, FIRST_GROUPS = 300, 6


@dataclass
class Incumbent:
    """The best mapping so far.

    Attributes
    ----------
    objective
        What is least; of mappings of equal latency the one of less energy, of equal energy the faster.
    latest
        Cycles that no mapping may exceed.
    """

    objective: Objective
    latest: float = math.inf
    energy: float = math.inf
    cycles: float = math.inf
    mapping: Mapping | None = None
    counts: Counts | None = None

    def score(self, energy: Floats | float, cycles: Floats | float) -> Floats | float:
        """What is minimised: joules, cycles or joule-cycles."""
        return energy if self.objective == "energy" else cycles if self.objective == "latency" else energy * cycles

    def improved_by(self, energy: Floats, cycles: Floats | float) -> NDArray[np.bool_]:
        """Whether mappings that cost at least so much could be better."""
        possible: NDArray[np.bool_] = np.asarray(cycles <= self.latest * (1 + TOLERANCE)) & np.isfinite(energy)
        if self.mapping is None:
            return possible
        if self.objective == "latency":
            faster = np.asarray(cycles < self.cycles * (1 - TOLERANCE))
            return possible & (faster | ((cycles <= self.cycles * (1 + TOLERANCE)) & (energy < self.energy * (1 - TOLERANCE))))
        target = self.score(self.energy, self.cycles)
        less: NDArray[np.bool_] = np.asarray(self.score(energy, cycles) < target * (1 - TOLERANCE))
        if self.objective == "energy":
            less = less | ((energy <= target * (1 + TOLERANCE)) & np.asarray(cycles < self.cycles * (1 - TOLERANCE)))
        return possible & less

    def offer(self, mapping: Mapping, problem: Problem) -> Counts:
        """Take a mapping if it is better; returns what it costs."""
        counts = evaluate(mapping, problem)
        if self.improved_by(np.array([counts.energy_j]), counts.cycles)[0]:
            self.mapping, self.counts, self.energy, self.cycles = mapping, counts, counts.energy_j, counts.cycles
        return counts


@dataclass(frozen=True)
class Found:
    """What a search ends with; `presilicon.mapping.nest.result.MappingResult` is for people.

    Attributes
    ----------
    mapping, counts
        The best mapping and its cost; None where there is none under the limits.
    exhausted
        The whole space was searched or excluded: the mapping is optimal.
    bound
        No mapping's objective is lower, in joules, seconds or joule-seconds.
    space
        Mappings that the space holds, as counted by `Search.space`.
    evaluated
        Partial mappings whose cost was computed.
    """

    mapping: Mapping | None
    counts: Counts | None
    exhausted: bool
    bound: float
    space: int
    evaluated: int


@dataclass(frozen=True)
class Group:
    """One spread of every fanout, with its costs and the least that any mapping of it can cost."""

    chosen: tuple[Spread, ...]
    cost: Cost
    least: Floats

    @property
    def floor(self) -> float:
        """Cycles that no mapping of the group falls below."""
        return max(self.cost.compute, *self.least[1:], 0.0)


@dataclass
class Search:
    """A search of one problem; `run` performs it."""

    problem: Problem
    objective: Objective
    constraints: Constraints = field(default_factory=Constraints)
    time_limit_s: float | None = None
    latest: float = math.inf

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UnknownNameError("objective", str(self.objective), OBJECTIVES)
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise MappingError(f"time limit: expected seconds above 0, found {self.time_limit_s!r}")
        check_constraints(self.problem, self.constraints)
        self.shapes: Lattice = lattice(self.problem.dims)
        self.last = len(self.problem.memories) - 1
        self.levels = [_level(self.problem, self.shapes, self.constraints, i) for i in range(1, self.last + 1)]
        for level in self.levels:
            _check_room(self.problem, level)
        self.axis_options, self.spread_options = _spread_options(self.problem, self.shapes, self.constraints)
        self.incumbent = Incumbent(self.objective, self.latest)
        deadline = None if self.time_limit_s is None else time.monotonic() + self.time_limit_s
        self.meter = Meter(deadline)
        self._upper: dict[object, tuple[States, Trail]] = {}

    # The groups of spatial factors.

    def groups(self) -> list[Group]:
        """Every combination of spreads whose factors divide the extents together, with its bound."""
        found = []
        for chosen in itertools.product(*(spreads(self.problem, self.shapes, s) for s in self.spread_options)):
            if not len(combine(self.shapes, [spread.shapes for spread in chosen])):
                continue
            costs = cost(self.problem, chosen)
            least = costs.constant.copy()
            for level in self.levels:
                for name, fewest in zip(level.names, self._fewest(level), strict=True):
                    least += fewest * costs.edge[name, level.number]
            found.append(Group(tuple(chosen), costs, least))
        return found

    def _fewest(self, level: Level) -> list[float]:
        """Fewest elements that each tensor's fetches can move, over all shapes that fit alone."""
        return [
            float(np.min(table.least, where=allowed & (held <= level.capacity), initial=np.inf))
            for table, allowed, held in zip(level.tables, level.allowed, level.bytes_held, strict=True)
        ]

    def space(self) -> int:
        """Mappings in the space: orders of tiles, times factors in time and in space; constraints on tiles and order ignored."""
        ways = np.zeros(self.shapes.size, dtype=object)
        ways[0] = 1
        for options in self.spread_options:
            spread = np.zeros(self.shapes.size, dtype=object)
            for by in options:
                inside = np.flatnonzero(self.shapes.fits(np.arange(self.shapes.size), int(by)) & (ways != 0))
                spread[inside + by] += ways[inside]
            ways = spread
        slots = sum(len(level.names) for level in self.levels) + 1
        total = sum(int(ways[i]) * ordered_factorisations(self.shapes, [int(i)], slots) for i in np.flatnonzero(ways))
        return total * math.prod(math.factorial(len(level.names)) for level in self.levels)

    # The run.

    def run(self) -> Found:
        """Search; see `Found`. A keyboard interrupt ends it early, like the time limit."""
        groups = sorted(self.groups(), key=lambda g: (float(self.incumbent.score(g.least[0], g.floor)), g.floor, g.least[0]))
        if not groups:
            raise MappingError(f"op {self.problem.op.name!r}: no factors in space satisfy the constraints: {self.constraints.spatial}")
        pending = list(groups)
        try:
            for group in sorted(groups, key=self._promise)[:FIRST_GROUPS]:
                self._solve(group, BEAM)
            self._upper.clear()
            while pending:
                self._solve(pending[0], None)
                pending.pop(0)
        except (Stopped, KeyboardInterrupt):
            pass
        best_score = float(self.incumbent.score(self.incumbent.energy, self.incumbent.cycles))
        bound = min([best_score, *(float(self.incumbent.score(g.least[0], g.floor)) for g in pending)])
        scale = 1.0 if self.objective == "energy" else 1.0 / self.problem.hierarchy.clock_hz
        bound = bound if pending else best_score
        return Found(self.incumbent.mapping, self.incumbent.counts, not pending, bound * scale, self.space(), self.meter.evaluated)

    def _promise(self, group: Group) -> tuple[float, float]:
        """Order in which the first pass tries groups: many MACs, cheap fetches into the innermost memory."""
        price = 0.0
        for level in self.levels[-1:]:
            for name in level.names:
                tensor = self.problem.tensors[name]
                price += float(group.cost.edge[name, level.number][0]) * tensor.volume(self.problem.dims) ** 0.5
        return group.cost.compute, price

    def _solve(self, group: Group, beam: int | None) -> None:
        """Search one group; offers its best mapping to the incumbent."""
        if not self.incumbent.improved_by(group.least[:1], group.floor)[0]:
            return
        met = self._meet(group, 1, beam)
        if met is None:
            return
        energy, mapping = met
        counts = self.incumbent.offer(mapping, self.problem)
        if counts.energy_j > energy * (1 + 1e-6):
            raise AssertionError(f"the search counted {energy} J for a mapping that takes {counts.energy_j} J")
        unaware = self.objective == "energy" and math.isinf(self.latest)
        if beam is not None or unaware or counts.cycles <= group.floor * (1 + TOLERANCE):
            return
        if not self.incumbent.improved_by(np.array([energy]), group.floor)[0]:
            return
        met = self._meet(group, len(group.least), None)
        if met is not None:
            self.incumbent.offer(met[1], self.problem)

    def _meet(self, group: Group, columns: int, beam: int | None) -> tuple[float, Mapping] | None:
        """Best mapping of a group under the first `columns` costs, with its energy; None if the bound excludes all."""
        upper, upper_trail = self._above(group, columns, beam)
        if not len(upper):
            return None
        trail = Trail()
        position = [i for i, (p, _) in enumerate(self.problem.fanouts) if p == self.last]
        lower = _starts(self.shapes, trail, [(i, group.chosen[i].shapes) for i in position], columns)
        joint = [i for i, (p, _) in enumerate(self.problem.fanouts) if p == self.last - 1]
        cheapest = _cheapest(self.shapes, upper)
        constant, floor = group.cost.constant[:columns], self._floor(group, columns)
        if self.levels:
            level = self.levels[-1]
            steps = combine(self.shapes, [group.chosen[i].shapes for i in joint]) if joint else np.zeros(1, dtype=np.int64)
            rest = [group.cost.edge[name, level.number][:columns] * n for name, n in zip(level.names, self._fewest(level), strict=True)]
            keep = self._keeper(constant, rest, _reached(self.shapes, cheapest, steps), group.cost.compute if columns > 1 else floor)
            edges = [group.cost.edge[name, level.number][:columns] for name in level.names]
            lower = Sweep(self.shapes, level, edges, "outwards", keep, trail, self.meter, beam).run(lower)
        for i in reversed(joint):
            lower = _spread_outwards(self.shapes, lower, trail, i, group.chosen[i].shapes)
        pair = self._join(lower, upper, constant, floor if columns == 1 else group.cost.compute)
        if pair is None:
            return None
        low, high, energy = pair
        names = {level.number: level.names for level in self.levels}
        placed = upper_trail.follow(high, names)[::-1] + trail.follow(low, names)
        return energy, self._written(placed)

    def _floor(self, group: Group, columns: int) -> float:
        return group.floor if columns == 1 else group.cost.compute

    def _keeper(self, constant: Floats, rest: Sequence[Floats], other: Floats, cycles: float) -> Keep:
        """Bound of a sweep: what is spent, what the missing tiles cost at least, and what lies on the other side of the shape."""
        missing: dict[int, Floats] = {}

        def keep(shape: Index, spent: Floats, bits: int) -> NDArray[np.bool_]:
            if bits not in missing:
                missing[bits] = constant + sum((r for i, r in enumerate(rest) if not bits >> i & 1), start=np.zeros(len(constant)))
            total = spent + missing[bits] + other[shape]
            slowest = np.maximum(cycles, total[:, 1:].max(axis=1, initial=0.0)) if total.shape[1] > 1 else cycles
            return self.incumbent.improved_by(total[:, 0], slowest)

        return keep

    def _above(self, group: Group, columns: int, beam: int | None) -> tuple[States, Trail]:
        """Partial mappings of every memory but the innermost; shared by groups that spread alike above it."""
        before = [i for i, (p, _) in enumerate(self.problem.fanouts) if p < self.last - 1]
        key = (columns, tuple((i, tuple(group.chosen[i].shares.values()), group.chosen[i].total) for i in before), beam)
        if key in self._upper:
            return self._upper[key]
        alike = [g for g in self.groups_cached if all(g.chosen[i] is group.chosen[i] or g.chosen[i] == group.chosen[i] for i in before)]
        trail = Trail()
        none = np.full(1, -1, dtype=np.int64)
        states = States(np.array([self.shapes.size - 1]), np.zeros(1), np.zeros((1, columns)), none)
        constant = np.min([self._constant_below(g, columns) for g in alike], axis=0)
        cycles = min(g.floor if columns == 1 else g.cost.compute for g in alike)
        nothing = np.zeros((self.shapes.size, columns))
        for n, level in enumerate(self.levels[:-1]):
            for i in before:
                if self.problem.fanouts[i][0] == level.number - 1:
                    states = _spread_inwards(self.shapes, states, trail, i, group.chosen[i].shapes)
            rest = [group.cost.edge[name, level.number][:columns] * f for name, f in zip(level.names, self._fewest(level), strict=True)]
            later = np.zeros(columns)
            for other in self.levels[n + 1 : -1]:
                for name, f in zip(other.names, self._fewest(other), strict=True):
                    later = later + group.cost.edge[name, other.number][:columns] * f
            keep = self._keeper(constant + later, rest, nothing, cycles)
            edges = [group.cost.edge[name, level.number][:columns] for name in level.names]
            states = Sweep(self.shapes, level, edges, "inwards", keep, trail, self.meter, beam).run(states)
        if len(self.levels) <= 1:
            states = _everything(self.shapes, columns)
        self._upper[key] = states, trail
        return states, trail

    @property
    def groups_cached(self) -> list[Group]:
        """`groups`, computed once."""
        if not hasattr(self, "_groups"):
            self._groups = self.groups()
        return self._groups

    def _constant_below(self, group: Group, columns: int) -> Floats:
        """What a group's mappings cost at least at the MACs and in the innermost memory."""
        found = group.cost.constant[:columns].copy()
        for level in self.levels[-1:]:
            for name, fewest in zip(level.names, self._fewest(level), strict=True):
                found += group.cost.edge[name, level.number][:columns] * fewest
        return found

    def _join(self, lower: States, upper: States, constant: Floats, cycles: float) -> tuple[int, int, float] | None:
        """Rows of the pair of partial mappings that meet at a shape and are best together, and their energy."""
        if not len(lower) or not len(upper):
            return None
        order = np.argsort(upper.shape, kind="stable")
        upper = upper.take(order)
        first = np.searchsorted(upper.shape, lower.shape, side="left")
        number = np.searchsorted(upper.shape, lower.shape, side="right") - first
        low = np.repeat(np.arange(len(lower)), number)
        high = np.repeat(first - np.concatenate(([0], np.cumsum(number)[:-1])), number) + np.arange(number.sum())
        total = lower.cost[low] + upper.cost[high] + constant
        self.meter.add(len(total))
        slowest = np.maximum(cycles, total[:, 1:].max(axis=1, initial=0.0))
        possible = np.flatnonzero(self.incumbent.improved_by(total[:, 0], slowest))
        if not len(possible):
            return None
        score = np.asarray(self.incumbent.score(total[possible, 0], slowest[possible]))
        chosen = possible[np.lexsort((slowest[possible], total[possible, 0], score))[0]]
        return int(lower.row[low[chosen]]), int(upper.row[high[chosen]]), float(total[chosen, 0])

    def _written(self, placed: Sequence[Placed]) -> Mapping:
        """The nest of a chain of placements, outermost first."""
        shapes, nodes = self.shapes, list[Node]()
        here = shapes.tile(shapes.size - 1)

        def loops_to(target: dict[str, int], last: frozenset[str]) -> None:
            ordered = sorted(here, key=lambda d: d in last)
            nodes.extend(Loop(d, here[d] // target[d]) for d in ordered if here[d] != target[d])
            here.update(target)

        for link in placed:
            tile = shapes.tile(link.shape)
            if link.spread >= 0:
                by = shapes.tile(link.spread)
                loops_to({d: tile[d] * by[d] for d in tile}, frozenset())
                fanout = self.problem.fanouts[link.level][1]
                nodes.extend(place(shapes, fanout, self.axis_options[link.level], link.spread))
                here.update(tile)
                continue
            if link.slide is not None:
                dim, factor = link.slide
                loops_to(tile | {dim: tile[dim] * factor}, frozenset())
                nodes.append(Loop(dim, factor))
                here.update(tile)
            else:
                loops_to(tile, self.problem.tensors[link.tensors[0]].relevant)
            nodes.extend(KeepNode(name, self.problem.memories[link.level].name) for name in link.tensors)
        loops_to(dict.fromkeys(here, 1), frozenset())
        return Mapping(tuple(nodes))


def _level(problem: Problem, shapes: Lattice, constraints: Constraints, number: int) -> Level:
    memory = problem.memories[number]
    tensors = [t for t in problem.tensors.values() if number in t.levels]
    tables = tuple(tensor_table(problem, shapes, t) for t in tensors)
    held = tuple(table.volume * t.bytes_per_element * memory.buffers for t, table in zip(tensors, tables, strict=True))
    names = tuple(t.name for t in tensors)
    above = [0] * len(names)
    for first, second in orders(problem, constraints, number):
        above[names.index(second)] |= 1 << names.index(first)
    allowed = []
    for tensor, size in zip(tensors, held, strict=True):
        fits = size <= memory.partition_bytes.get(tensor.kind, math.inf)
        for dim, extent in constraints.tiles.get((memory.name, tensor.name), {}).items():
            fits = fits & (shapes.extents[dim] == extent)
        allowed.append(fits)
    capacity = math.inf if memory.size_bytes is None else memory.size_bytes
    return Level(number, names, tables, held, tuple(allowed), capacity, tuple(above))


def _check_room(problem: Problem, level: Level) -> None:
    """Raise where not even the smallest tiles fit a memory; says which, and by how much."""
    memory = problem.memories[level.number]
    smallest = []
    for name, held, allowed in zip(level.names, level.bytes_held, level.allowed, strict=True):
        kind = problem.tensors[name].kind
        if not allowed.any():
            limit = memory.partition_bytes.get(kind, math.inf)
            raise MappingError(f"{memory.name}: the smallest tile of {name} that the constraints allow exceeds its partition of {limit:g} B "
                               f"for the {kind} (one element takes {held[0]:g} B)")
        smallest.append(float(held[allowed].min()))
    need = sum(smallest)
    if need > level.capacity:
        parts = ", ".join(f"{name} {size:g} B" for name, size in zip(level.names, smallest, strict=True))
        raise MappingError(f"{memory.name}: the smallest tiles ({parts}) take {need:g} B, {need - level.capacity:g} B more than its {level.capacity:g} B")


def _spread_options(problem: Problem, shapes: Lattice, constraints: Constraints) -> tuple[list[list[Index]], list[Index]]:
    """For each fanout, what each of its axes may hold, and every product of those."""
    output = next(t for t in problem.tensors.values() if t.kind == "output")
    by_axis, whole = [], []
    for _, fanout in problem.fanouts:
        dims = [d for d in problem.dims if fanout.reduction or d in output.relevant]
        dims = [d for d in dims if d in constraints.spatial_dims.get(fanout.name, problem.dims)]
        options = []
        for axis, instances in fanout.axes.items():
            chosen = [d for d in dims if d in constraints.spatial_dims.get(f"{fanout.name}.{axis}", problem.dims)]
            options.append(axis_shapes(shapes, instances, chosen))
        found = combine(shapes, options)
        if fanout.name in constraints.spatial:
            wanted = shapes.index(constraints.spatial[fanout.name])
            if wanted not in found:
                raise MappingError(f"constraints: spatial: the axes of {fanout.name} ({', '.join(f'{a} {n}' for a, n in fanout.axes.items())}) cannot hold "
                                   f"{', '.join(f'{d} {f}' for d, f in constraints.spatial[fanout.name].items())}")
            found = np.array([wanted])
        by_axis.append(options)
        whole.append(found)
    return by_axis, whole


def _everything(shapes: Lattice, columns: int) -> States:
    """Every shape at no cost: loops over everything, nothing kept."""
    n = shapes.size
    return States(np.arange(n), np.zeros(n), np.zeros((n, columns)), np.full(n, -1, dtype=np.int64))


def _starts(shapes: Lattice, trail: Trail, fanouts: Sequence[tuple[int, Index]], columns: int) -> States:
    """Partial mappings that hold only what the fanouts below the innermost memory spread."""
    states = States(np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros((1, columns)), np.full(1, -1, dtype=np.int64))
    for i, options in reversed(fanouts):
        states = _spread_outwards(shapes, states, trail, i, options)
    return states


def _spread_outwards(shapes: Lattice, states: States, trail: Trail, fanout: int, options: Index) -> States:
    """Factors in space added above partial mappings."""
    parts = []
    for by in options:
        inside = states.take(shapes.fits(states.shape, int(by)))
        row = trail.add(inside.shape, inside.row, tensors=0, level=fanout, spread=int(by))
        parts.append(States(inside.shape + by, inside.held, inside.cost, row))
    return best(_joined(parts, states))


def _spread_inwards(shapes: Lattice, states: States, trail: Trail, fanout: int, options: Index) -> States:
    """Factors in space added below partial mappings; the rows hold the shape below them."""
    parts = []
    for by in options:
        inside = states.take(shapes.divides(states.shape, int(by)))
        row = trail.add(inside.shape - by, inside.row, tensors=0, level=fanout, spread=int(by))
        parts.append(States(inside.shape - by, inside.held, inside.cost, row))
    return best(_joined(parts, states))


def _joined(parts: Sequence[States], like: States) -> States:
    from .sweep import joined

    return joined([p for p in parts if len(p)], like.cost.shape[1])


def _cheapest(shapes: Lattice, states: States) -> Floats:
    """Least of every cost at each shape, infinite where there is no partial mapping."""
    found = np.full((shapes.size, states.cost.shape[1]), np.inf)
    for column in range(states.cost.shape[1]):
        np.minimum.at(found[:, column], states.shape, states.cost[:, column])
    return found


def _reached(shapes: Lattice, cheapest: Floats, steps: Index) -> Floats:
    """For each shape the least of `cheapest` over its products with the shapes `steps`."""
    found = np.full_like(cheapest, np.inf)
    everything = np.arange(shapes.size)
    for by in steps:
        inside = shapes.fits(everything, int(by))
        found[inside] = np.minimum(found[inside], cheapest[everything[inside] + by])
    return found
