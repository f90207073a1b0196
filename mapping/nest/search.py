"""Exact search: the mapping of least energy, latency or energy-delay product, with a proof or a bound.

Branch and bound over partial mappings of the space in `space`. Factors in space are grouped by what they share (`spread`);
within a group the cost of a tile depends on its shape alone (`cost`). From the whole problem inwards, partial mappings
of all memories but the innermost grow tile by tile and loop by loop, and of those at one shape the dominated are dropped
(`sweep`, `pareto`), as are those that are excluded by the least that tiles of the shapes still possible can cost (`bounds`).
What remains is, for each shape, the exact cost of everything above it: the bound under which the innermost memory is searched
from a single point outwards. The halves meet where their shapes agree.

First a narrow pass, which keeps one partial mapping of each shape, gives a mapping to beat. A group is searched for energy
alone, under the least latency that it allows; only where a memory's bandwidth makes its best mapping slower than that is it
searched again, with the cycles of every port as further criteria.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import MappingError, UnknownNameError
from .bounds import Bounds, Direction, least_over
from .constraints import Constraints
from .counts import Counts, evaluate
from .incumbent import OBJECTIVES, TOLERANCE, Incumbent, Objective
from .lattice import Lattice
from .nest import Keep, Loop, Mapping
from .problem import Problem
from .space import Group, Space, space
from .spread import combine
from .sweep import Level, Meter, States, StoppedError, Sweep, Trail, best, joined

Index = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Groups of spatial factors that the first, narrow pass tries.
FIRST_GROUPS: Final = 6


@dataclass(frozen=True)
class Found:
    """What a search ends with.

    Attributes
    ----------
    mapping, counts
        The best mapping and what it costs; None where there is none.
    exhausted
        The whole space was searched or excluded by a bound: the mapping is optimal.
    bound
        No mapping's objective is lower: joules, seconds or joule-seconds.
    space
        Mappings that the space holds (`Space.size`).
    evaluated
        Partial mappings whose cost was computed.
    """

    mapping: Mapping | None
    counts: Counts | None
    exhausted: bool
    bound: float
    space: int
    evaluated: int


def search(
    problem: Problem,
    objective: Objective = "edp",
    constraints: Constraints | None = None,
    *,
    time_limit_s: float | None = None,
    latest_s: float = math.inf,
    imperfect: bool = False,
) -> Found:
    """Find the best mapping of a problem.

    Parameters
    ----------
    problem, objective, constraints
        What to map, what is least (``"energy"``, ``"latency"``, then energy, or ``"edp"``), and what narrows the space.
    time_limit_s
        Stop after so many seconds, but not before the first mapping is found, with the best so far and its bound; None: run to the
        proof. Ctrl-C stops at once.
    latest_s
        Latency that no mapping may exceed.
    imperfect
        Also factors in space that do not divide extents (`presilicon.mapping.nest.ragged_space`).

    Where the hierarchy counts fill and drain, the search is that of the overlapped latency, and its best mapping's phases are counted
    afterwards: exhausted for energy alone; for latency and energy-delay product the overlapped optimum is the bound.

    Raises
    ------
    UnknownNameError
        An unknown objective, or a constraint on what does not exist.
    MappingError
        Even the smallest tiles do not fit, or a constraint cannot be met; says which, and by how much.
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", str(objective), OBJECTIVES)
    if time_limit_s is not None and not time_limit_s > 0:
        raise MappingError(f"time limit: expected seconds above 0, found {time_limit_s!r}")
    if constraints is not None and (constraints.order or constraints.dataflow or constraints.even):
        problem = replace(problem, uneven=False)  # these say in which order the tiles of each memory stand
    if problem.hierarchy.latency != "overlapped":
        plain = replace(problem, hierarchy=replace(problem.hierarchy, latency="overlapped"))
        found = search(plain, objective, constraints, time_limit_s=time_limit_s, latest_s=latest_s, imperfect=imperfect)
        if found.mapping is None:
            return found
        # Phases only add cycles: the bound holds. That of energy alone is reached.
        counts, proven = evaluate(found.mapping, problem), found.exhausted and objective == "energy"
        return replace(found, counts=counts, exhausted=proven)
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    incumbent = Incumbent(objective, latest_s * problem.hierarchy.clock_hz)
    if imperfect:
        from .ragged_search import search_ragged

        return search_ragged(problem, constraints or Constraints(), incumbent, Meter(deadline))
    return _Search(space(problem, constraints or Constraints()), incumbent, Meter(deadline)).run()


class _Search:
    """One search."""

    def __init__(self, searched: Space, incumbent: Incumbent, meter: Meter, inner: int | None = None) -> None:
        self.space, self.incumbent, self.meter = searched, incumbent, meter
        self.groups = searched.groups
        self.problem, self.shapes, self.levels = searched.problem, searched.shapes, searched.levels
        inner = _inner(searched) if inner is None else inner
        #: Levels that are searched from the whole problem inwards, and from a point outwards.
        self.above = self.levels[: max(0, len(self.levels) - inner)]
        self.below = self.levels[max(0, len(self.levels) - inner) :]
        first = self.below[0].number if self.below else len(self.problem.memories)
        at = [position for position, _ in self.problem.fanouts]
        #: Fanouts among the levels above, between the two halves, and among the levels below.
        self.outer = [i for i, position in enumerate(at) if position < first - 1]
        self.joint = [i for i, position in enumerate(at) if position == first - 1]
        self.inner = [i for i, position in enumerate(at) if position >= first]
        self.bounds = Bounds(searched)
        self.upper: dict[object, tuple[States, Trail]] = {}

    def run(self) -> Found:
        score = self.incumbent.score
        pending = sorted(self.groups, key=lambda g: (float(score(g.least[0], g.floor)), g.floor, g.least[0]))
        if self.space.constraints == Constraints():
            self.incumbent.offer(self._plain(), self.problem)
        plain = self.incumbent.mapping
        try:
            for group in sorted(pending, key=self._promise)[:FIRST_GROUPS]:
                self.meter.armed = self.incumbent.mapping is not plain
                self._solve(group, narrow=True)
            self.meter.armed = True
            self.upper.clear()
            while pending:
                self._solve(pending[0], narrow=False)
                pending.pop(0)
        except (StoppedError, KeyboardInterrupt):
            pass
        bound = min([self.incumbent.best, *(self._bound(group) for group in pending)])
        scale = 1.0 if self.incumbent.objective == "energy" else 1.0 / self.problem.hierarchy.clock_hz
        best_of = self.incumbent
        return Found(best_of.mapping, best_of.counts, not pending, bound * scale, self.space.size(), self.meter.evaluated)

    def _plain(self) -> Mapping:
        """All loops above all tiles, nothing in space: what there is if a search is interrupted at once."""
        loops = [Loop(dim, extent) for dim, extent in self.problem.dims.items() if extent > 1]
        keeps = [Keep(name, self.problem.memories[number].name) for level in self.levels for name, number in level.edges]
        return Mapping((*loops, *keeps))

    def _promise(self, group: Group) -> tuple[float, float]:
        """Order in which the first pass tries groups: many MACs, cheap fetches into the innermost memory."""
        price = 0.0
        for level in self.levels[-1:]:
            for edge in level.edges:
                price += float(group.cost.edge[edge][0]) * math.sqrt(self.problem.tensors[edge[0]].volume(self.problem.dims))
        return group.cost.compute, price

    def _bound(self, group: Group) -> float:
        """Score that no mapping of a group falls below, by what is known so far."""
        energy = float(group.least[0])
        known = self.upper.get(self._key(group, 1, False))
        if known is not None:
            energy = max(energy, self._least(group, known[0]))
        return float(self.incumbent.score(energy, group.floor))

    def _least(self, group: Group, upper: States) -> float:
        """Energy that no mapping of a group falls below, given all partial mappings of the levels above."""
        inside = self.bounds.rest(group, self.below, "inwards", 1)[:, 0]
        apart = np.full_like(inside, np.inf)
        everything = np.arange(self.shapes.size)
        for by in combine(self.shapes, [group.chosen[i].shapes for i in self.joint]).tolist():
            whole = everything[self.shapes.divides(everything, by)]
            apart[whole] = np.minimum(apart[whole], inside[whole - by])
        return float(group.cost.constant[0] + (upper.cost[:, 0] + apart[upper.shape]).min(initial=math.inf))

    def _solve(self, group: Group, *, narrow: bool) -> None:
        """Search one group; offers its best mapping to the incumbent."""
        if not self.incumbent.can_improve(float(group.least[0]), group.floor):
            return
        met = self._meet(group, 1, narrow)
        if met is None:
            return
        energy, mapping = met
        counts = self.incumbent.offer(mapping, self.problem)
        if not math.isclose(counts.energy_j, energy, rel_tol=1e-6) and (counts.energy_j > energy or not narrow):
            raise AssertionError(f"the search counted {energy} J for a mapping that takes {counts.energy_j} J")
        settled = self.incumbent.objective == "energy" and counts.cycles <= self.incumbent.latest * (1 + TOLERANCE)
        if narrow or settled or counts.cycles <= group.floor * (1 + TOLERANCE):
            return
        if self.incumbent.can_improve(energy, group.floor):
            met = self._meet(group, len(group.least), False)
            if met is not None:
                self.incumbent.offer(met[1], self.problem)

    def _meet(self, group: Group, columns: int, narrow: bool) -> tuple[float, Mapping] | None:
        """Best mapping of a group under the first `columns` costs, with its energy; None if the bound excludes all."""
        upper, upper_trail = self._above(group, columns, narrow)
        cycles = group.floor if columns == 1 else group.cost.compute
        if not narrow and not self.incumbent.can_improve(self._least(group, upper), cycles):
            return None
        trail = Trail()
        lower = _point(columns)
        constant = group.cost.constant[:columns]
        steps = combine(self.shapes, [group.chosen[i].shapes for i in self.joint])
        other = _outside(self.shapes, upper, steps)
        for level in reversed(self.below):
            lower = self._spread_below(lower, trail, group, level.number)
            later = tuple(outer for outer in self.below if outer.number < level.number)
            missing = other + self.bounds.rest(group, later, "outwards", columns)
            lower = self._sweep(group, level, "outwards", constant, missing, cycles, columns, trail, narrow).run(lower)
        for i in reversed(self.joint):
            lower = _spread(self.shapes, lower, trail, i, group.chosen[i].shapes)
        pair = self._join(lower, upper, constant, cycles)
        if pair is None:
            return None
        low, high, energy = pair
        names = {level.number: level.names for level in self.levels}
        return energy, self.space.written(upper_trail.follow(high, names)[::-1] + trail.follow(low, names))

    def _key(self, group: Group, columns: int, narrow: bool) -> object:
        """What the costs above the innermost memory depend on."""
        return columns, narrow, tuple((*group.chosen[i].shares.values(), group.chosen[i].total) for i in self.outer)

    def _spread_below(self, states: States, trail: Trail, group: Group, memory: int) -> States:
        """Factors of the fanouts directly below a memory added above partial mappings."""
        for i in reversed(self.inner):
            if self.problem.fanouts[i][0] == memory:
                states = _spread(self.shapes, states, trail, i, group.chosen[i].shapes)
        return states

    def _above(self, group: Group, columns: int, narrow: bool) -> tuple[States, Trail]:
        """Partial mappings of the levels above; shared by groups that spread alike there."""
        key = self._key(group, columns, narrow)
        if key in self.upper:
            return self.upper[key]
        trail = Trail()
        if not self.above:
            self.upper[key] = _everything(self.shapes, columns), trail
            return self.upper[key]
        alike = [g for g in self.groups if self._key(g, columns, narrow) == key]
        below = self.bounds.below(alike, self.below, columns)
        cycles = min(g.floor if columns == 1 else g.cost.compute for g in alike)
        states = _everything(self.shapes, columns).take(np.array([self.shapes.size - 1]))
        for level in self.above:
            for i in self.outer:
                if self.problem.fanouts[i][0] == level.number - 1:
                    states = _spread(self.shapes, states, trail, i, group.chosen[i].shapes, inwards=True)
            later = [other for other in self.above if other.number > level.number]
            missing = below + self.bounds.rest(group, later, "inwards", columns)
            nothing = np.zeros(columns)
            states = self._sweep(group, level, "inwards", nothing, missing, cycles, columns, trail, narrow).run(states)
        self.upper[key] = states, trail
        return states, trail

    def _sweep(
        self,
        group: Group,
        level: Level,
        direction: Direction,
        constant: Floats,
        other: Floats,
        cycles: float,
        columns: int,
        trail: Trail,
        narrow: bool,
    ) -> Sweep:
        """The sweep of one level; `other` is what everything else costs at least, by shape."""
        edges = [group.cost.edge[edge][:columns] for edge in level.edges]
        least = [self.bounds.price(group, level, i, direction, columns) for i in range(len(level.names))]
        missing: dict[int, Floats] = {}

        def keep(shape: Index, spent: Floats, bits: int) -> NDArray[np.bool_]:
            if bits not in missing:
                missing[bits] = constant + sum((each for i, each in enumerate(least) if not bits >> i & 1), start=other)
            total = spent + missing[bits][shape]
            return self.incumbent.improved_by(total[:, 0], _slowest(total, cycles))

        return Sweep(self.shapes, level, edges, direction, keep, trail, self.meter, narrow, once=_once(group, level, columns))

    def _join(self, lower: States, upper: States, constant: Floats, cycles: float) -> tuple[int, int, float] | None:
        """Rows of the pair of partial mappings that meet at a shape and are best together, and their energy."""
        if not len(lower) or not len(upper):
            return None
        upper = upper.take(np.argsort(upper.shape, kind="stable"))
        first = np.searchsorted(upper.shape, lower.shape, side="left")
        number = np.searchsorted(upper.shape, lower.shape, side="right") - first
        low = np.repeat(np.arange(len(lower)), number)
        high = np.repeat(first - (np.cumsum(number) - number), number) + np.arange(number.sum())
        total = lower.cost[low] + upper.cost[high] + constant
        self.meter.add(len(total))
        slowest = np.broadcast_to(_slowest(total, cycles), len(total))
        possible = np.flatnonzero(self.incumbent.improved_by(total[:, 0], slowest))
        if not len(possible):
            return None
        energy, slowest = total[possible, 0], slowest[possible]
        least = np.lexsort((energy, np.asarray(self.incumbent.score(energy, slowest))))[0]
        chosen = possible[least]
        return int(lower.row[low[chosen]]), int(upper.row[high[chosen]]), float(total[chosen, 0])


def _inner(searched: Space) -> int:
    """Levels to search outwards: up to the innermost whose memory has an energy or a bandwidth."""
    free = 0
    for level in reversed(searched.levels):
        memory = searched.problem.memories[level.number]
        rates = (memory.bandwidth_bytes_per_clk, memory.read_bytes_per_clk, memory.write_bytes_per_clk)
        if memory.read_j_per_byte or memory.write_j_per_byte or any(rate is not None for rate in rates):
            break
        free += 1
    return free + 1


def _once(group: Group, level: Level, columns: int) -> dict[int, tuple[float, Floats]]:
    """`Cost.once` of a level's tensors, by bit."""
    found = ((i, group.cost.once.get(edge)) for i, edge in enumerate(level.edges))
    return {i: (each[0], each[1][:columns]) for i, each in found if each is not None}


def _slowest(total: Floats, cycles: float) -> Floats | float:
    """Cycles of the slowest of the MACs and every port."""
    return np.maximum(cycles, total[:, 1:].max(axis=1)) if total.shape[1] > 1 else cycles


def _everything(shapes: Lattice, columns: int) -> States:
    """Every shape at no cost: loops over everything, nothing kept."""
    n = shapes.size
    return States(np.arange(n), np.zeros(n), np.zeros((n, columns)), np.full(n, -1, dtype=np.int64))


def _point(columns: int) -> States:
    """A single point of the iteration space, nothing kept."""
    return States(np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros((1, columns)), np.full(1, -1, dtype=np.int64))


def _spread(shapes: Lattice, states: States, trail: Trail, fanout: int, options: Index, *, inwards: bool = False) -> States:
    """Factors in space added above partial mappings, or below them; rows of the trail hold the shape below the factors."""
    parts = []
    for by in options.tolist():
        inside = states.take(shapes.divides(states.shape, by) if inwards else shapes.fits(states.shape, by))
        below = inside.shape - by if inwards else inside.shape
        row = trail.add(below, inside.row, tensors=0, level=fanout, spread=by)
        parts.append(States(below if inwards else below + by, inside.held, inside.cost, row))
    return best(joined(parts, states.cost.shape[1]))


def _outside(shapes: Lattice, upper: States, steps: Index) -> Floats:
    """Least cost outside of each shape: of the partial mappings above at its products with the shapes `steps`, and at their multiples,
    for loops may come between."""
    cheapest = np.full((shapes.size, upper.cost.shape[1]), np.inf)
    for column in range(upper.cost.shape[1]):
        np.minimum.at(cheapest[:, column], upper.shape, upper.cost[:, column])
    found = np.full_like(cheapest, np.inf)
    everything = np.arange(shapes.size)
    for by in steps.tolist():
        inside = everything[shapes.fits(everything, by)]
        found[inside] = np.minimum(found[inside], cheapest[inside + by])
    return least_over(shapes, found, "outwards")
