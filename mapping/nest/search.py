"""Exact search: the mapping of least energy, latency or energy-delay product, with a proof or a bound.

Branch and bound over partial mappings of the space in `space`. Factors in space are grouped by what they share (`spread`);
within a group the cost of a tile depends on its shape alone (`cost`). From the whole problem inwards, partial mappings
of all memories but the innermost grow tile by tile and loop by loop, and of those at one shape the dominated are dropped
(`sweep`, `pareto`). What remains is, for each shape, the exact cost of everything above it: the bound under which the
innermost memory is searched from a single point outwards. The halves meet where their shapes agree.

First a narrow pass, which keeps one partial mapping of each shape, gives a mapping to beat. A group is searched for energy
alone, under the least latency that it allows; only where a memory's bandwidth makes its best mapping slower than that is it
searched again, with the cycles of every port as further criteria.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import MappingError, UnknownNameError
from .constraints import Constraints
from .counts import Counts, evaluate
from .incumbent import OBJECTIVES, TOLERANCE, Incumbent, Objective
from .lattice import Lattice
from .nest import Mapping
from .problem import Problem
from .space import Group, Space, space
from .spread import combine
from .sweep import Keep, Level, Meter, States, StoppedError, Sweep, Trail, best, joined

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
        Stop after so many seconds with the best so far and its bound; None: run to the proof. Ctrl-C does the same.
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

    def __init__(self, searched: Space, incumbent: Incumbent, meter: Meter, groups: Sequence[Group] | None = None) -> None:
        self.space, self.incumbent, self.meter = searched, incumbent, meter
        self.groups = searched.groups if groups is None else groups
        self.problem, self.shapes, self.levels = searched.problem, searched.shapes, searched.levels
        last = len(self.problem.memories) - 1
        at = [position for position, _ in self.problem.fanouts]
        #: Fanouts above the second memory from the inside, above the innermost, and below it.
        self.outer = [i for i, position in enumerate(at) if position < last - 1]
        self.joint = [i for i, position in enumerate(at) if position == last - 1]
        self.inner = [i for i, position in enumerate(at) if position == last]
        self.upper: dict[object, tuple[States, Trail]] = {}

    def run(self) -> Found:
        score = self.incumbent.score
        pending = sorted(self.groups, key=lambda g: (float(score(g.least[0], g.floor)), g.floor, g.least[0]))
        try:
            for group in sorted(pending, key=self._promise)[:FIRST_GROUPS]:
                self._solve(group, narrow=True)
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

    def _promise(self, group: Group) -> tuple[float, float]:
        """Order in which the first pass tries groups: many MACs, cheap fetches into the innermost memory."""
        price = 0.0
        for level in self.levels[-1:]:
            for name in level.names:
                elements = self.problem.tensors[name].volume(self.problem.dims)
                price += float(group.cost.edge[name, level.number][0]) * math.sqrt(elements)
        return group.cost.compute, price

    def _bound(self, group: Group) -> float:
        """Score that no mapping of a group falls below, by what is known so far."""
        energy = float(group.least[0])
        known = self.upper.get(self._key(group, 1, False))
        if known is not None:
            energy = max(energy, float(group.below[0] + known[0].cost[:, 0].min(initial=math.inf)))
        return float(self.incumbent.score(energy, group.floor))

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
        trail = Trail()
        lower = _point(columns)
        for i in reversed(self.inner):
            lower = _spread(self.shapes, lower, trail, i, group.chosen[i].shapes)
        cycles = group.floor if columns == 1 else group.cost.compute
        if self.levels:
            level = self.levels[-1]
            steps = combine(self.shapes, [group.chosen[i].shapes for i in self.joint])
            rest = [group.cost.least((name, level.number), self.space.fewest[name, level.number])[:columns] for name in level.names]
            keep = self._keeper(group.cost.constant[:columns], rest, _reached(self.shapes, _cheapest(self.shapes, upper), steps), cycles)
            edges = [group.cost.edge[name, level.number][:columns] for name in level.names]
            once = _once(group, level, columns)
            lower = Sweep(self.shapes, level, edges, "outwards", keep, trail, self.meter, narrow, once=once).run(lower)
        for i in reversed(self.joint):
            lower = _spread(self.shapes, lower, trail, i, group.chosen[i].shapes)
        pair = self._join(lower, upper, group.cost.constant[:columns], cycles)
        if pair is None:
            return None
        low, high, energy = pair
        names = {level.number: level.names for level in self.levels}
        return energy, self.space.written(upper_trail.follow(high, names)[::-1] + trail.follow(low, names))

    def _key(self, group: Group, columns: int, narrow: bool) -> object:
        """What the costs above the innermost memory depend on."""
        return columns, narrow, tuple((*group.chosen[i].shares.values(), group.chosen[i].total) for i in self.outer)

    def _above(self, group: Group, columns: int, narrow: bool) -> tuple[States, Trail]:
        """Partial mappings of every memory but the innermost; shared by groups that spread alike above it."""
        key = self._key(group, columns, narrow)
        if key in self.upper:
            return self.upper[key]
        trail = Trail()
        if len(self.levels) <= 1:
            self.upper[key] = _everything(self.shapes, columns), trail
            return self.upper[key]
        alike = [g for g in self.groups if self._key(g, columns, narrow) == key]
        below = np.min([g.below[:columns] for g in alike], axis=0)
        cycles = min(g.floor if columns == 1 else g.cost.compute for g in alike)
        states = _everything(self.shapes, columns).take(np.array([self.shapes.size - 1]))
        for level in self.levels[:-1]:
            for i in self.outer:
                if self.problem.fanouts[i][0] == level.number - 1:
                    states = _spread(self.shapes, states, trail, i, group.chosen[i].shapes, inwards=True)
            price = {edge: group.cost.least(edge, fewest)[:columns] for edge, fewest in self.space.fewest.items()}
            later = sum((p for (_, number), p in price.items() if level.number < number < len(self.levels)), start=below)
            keep = self._keeper(later, [price[name, level.number] for name in level.names], np.zeros((self.shapes.size, columns)), cycles)
            edges = [group.cost.edge[name, level.number][:columns] for name in level.names]
            once = _once(group, level, columns)
            states = Sweep(self.shapes, level, edges, "inwards", keep, trail, self.meter, narrow, once=once).run(states)
        self.upper[key] = states, trail
        return states, trail

    def _keeper(self, constant: Floats, rest: Sequence[Floats], other: Floats, cycles: float) -> Keep:
        """Bound of a sweep: what is spent, what the missing tiles cost at least, and what lies on the other side of the shape."""
        missing = {
            bits: constant + sum((r for i, r in enumerate(rest) if not bits >> i & 1), start=np.zeros(len(constant)))
            for bits in range(1 << len(rest))
        }

        def keep(shape: Index, spent: Floats, bits: int) -> NDArray[np.bool_]:
            total = spent + missing[bits] + other[shape]
            return self.incumbent.improved_by(total[:, 0], _slowest(total, cycles))

        return keep

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


def _once(group: Group, level: Level, columns: int) -> dict[int, tuple[float, Floats]]:
    """`Cost.once` of a level's tensors, by bit."""
    found = ((i, group.cost.once.get((name, level.number))) for i, name in enumerate(level.names))
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
    for by in steps.tolist():
        inside = everything[shapes.fits(everything, by)]
        found[inside] = np.minimum(found[inside], cheapest[inside + by])
    return found
