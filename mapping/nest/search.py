"""Exact search: the mapping of least energy, latency or energy-delay product, with a proof or a bound.

Branch and bound over partial mappings of the space in `space`. Factors in space are grouped by what they share (`spread`);
within a group the cost of a tile depends on its shape alone (`cost`). From the whole problem inwards, partial mappings
of all memories but the innermost grow tile by tile and loop by loop, and of those at one shape the dominated are dropped
(`sweep`, `pareto`), as are those that are excluded by the least that tiles of the shapes still possible can cost (`bounds`).
What remains is, for each shape, the exact cost of everything above it: the bound under which the innermost memory is searched
from a single point outwards, for many groups at once (`inner`). The halves meet where their shapes agree.

First a narrow pass, which keeps one partial mapping of each shape, gives a mapping to beat. Groups are searched for energy
alone, under the least latency that they allow; only those in which a memory's bandwidth makes the best mapping slower than that are
searched again, with the cycles of every port as further criteria. Where that is so for most, the others are searched so at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...errors import MappingError, UnknownNameError
from .bounds import Bounds
from .constraints import Constraints
from .counts import Counts, evaluate
from .incumbent import OBJECTIVES, TOLERANCE, Incumbent, Objective
from .inner import Inner, Outer, Pair, independent, slowest
from .lattice import Lattice
from .nest import Keep, Loop, Mapping
from .problem import Problem
from .space import Group, Space, space
from .spread import combine
from .sweep import Keep as Bound
from .sweep import Level, Meter, States, StoppedError, Sweep, Trail, best, joined

Index = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Groups of spatial factors that the first, narrow pass tries.
FIRST_GROUPS: Final = 6
#: Groups that are searched at once: so many at first, when the best known is soon beaten, and at most.
FIRST_BATCH: Final = 4
MOST_AT_ONCE: Final = 128
#: Entries of the table that a batch of groups makes: of costs by group and shape.
BATCH_ENTRIES: Final = 2**21


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
        #: Fanouts among the levels above, and between the two halves.
        self.outer = [i for i, position in enumerate(at) if position < first - 1]
        self.joint = [i for i, position in enumerate(at) if position == first - 1]
        self.bounds = Bounds(searched)
        self.upper: dict[object, Outer] = {}
        self.trail = Trail()
        #: Groups searched for energy alone of which the best mapping was slower than the bound on cycles, less those where it was not.
        self.slower = 0

    def run(self) -> Found:
        score, size = self.incumbent.score, self.space.size  # counted before the search: an interrupt after it would lose what was found
        pending = sorted(self.groups, key=lambda g: (float(score(g.least[0], g.floor)), g.floor, g.least[0]))
        if self.space.constraints == Constraints():
            self.incumbent.offer(self._plain(), self.problem)
        plain = self.incumbent.mapping
        try:
            for group in sorted(pending, key=self._promise)[:FIRST_GROUPS]:
                self.meter.armed = self.incumbent.mapping is not plain
                self._solve([group], narrow=True)
            self.meter.armed = True
            self.upper.clear()
            for batch in self.batches(pending):
                self._solve(batch, narrow=False)
                done = set(map(id, batch))
                pending = [group for group in pending if id(group) not in done]
        except (StoppedError, KeyboardInterrupt):
            pass
        bound = min([self.incumbent.best, *(self._bound(group) for group in pending)])
        scale = 1.0 if self.incumbent.objective == "energy" else 1.0 / self.problem.hierarchy.clock_hz
        best_of = self.incumbent
        return Found(best_of.mapping, best_of.counts, not pending, bound * scale, size, self.meter.evaluated)

    def batches(self, groups: Sequence[Group]) -> Iterator[list[Group]]:
        """Groups in their order, by several that share what stands above; those that cannot be better by themselves."""
        most = max(1, BATCH_ENTRIES // (self.shapes.size * len(self.groups[0].least))) if self.groups else 1
        most, number = min(MOST_AT_ONCE, most), FIRST_BATCH
        waiting = list(groups)
        while waiting:
            hopeless = [g for g in waiting if not self.incumbent.can_improve(float(g.least[0]), g.floor)]
            if hopeless:
                yield hopeless
                done = set(map(id, hopeless))
                waiting = [g for g in waiting if id(g) not in done]
                continue
            key = self._key(waiting[0], 1, False)
            batch = [g for g in waiting if self._key(g, 1, False) == key][: min(number, most)]
            yield batch
            number *= 4
            done = set(map(id, batch))
            waiting = [g for g in waiting if id(g) not in done]

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
        known = self.upper.get(self._key(group, 1, False)) or self.upper.get(self._key(group, len(group.least), False))
        if known is not None:
            energy = max(energy, self._least(group, known))
        return float(self.incumbent.score(energy, group.floor))

    def _least(self, group: Group, upper: Outer) -> float:
        """Energy that no mapping of a group falls below, given all partial mappings of the levels above."""
        inside = self.bounds.rest(group, self.below, "inwards", 1)[:, 0]
        apart = np.full_like(inside, np.inf)
        everything = np.arange(self.shapes.size)
        for by in self._steps(group).tolist():
            whole = everything[self.shapes.divides(everything, by)]
            apart[whole] = np.minimum(apart[whole], inside[whole - by])
        return float(group.cost.constant[0] + (upper.states.cost[:, 0] + apart[upper.states.shape]).min(initial=math.inf))

    def _steps(self, group: Group) -> Index:
        """Factors of the fanouts between the halves, as shapes."""
        return combine(self.shapes, [group.chosen[i].shapes for i in self.joint])

    def _solve(self, groups: Sequence[Group], *, narrow: bool) -> None:
        """Search groups that share what stands above; offers their best mappings to the incumbent."""
        groups = [g for g in groups if self.incumbent.can_improve(float(g.least[0]), g.floor)]
        if groups and (narrow or self.slower <= 0):
            groups = self._frugal(groups, narrow)
        groups = [] if narrow else [g for g in groups if self.incumbent.can_improve(float(g.least[0]), g.floor)]
        if groups:
            for pair in self._meet(groups, len(groups[0].least), False):
                if self.incumbent.can_improve(pair.energy, pair.cycles):
                    self._offer(pair, len(groups[0].least), narrow=False)

    def _frugal(self, groups: Sequence[Group], narrow: bool) -> list[Group]:
        """Offers the mapping of least energy of each group; groups that may have a faster one that is better."""
        found = []
        for pair in self._meet(groups, 1, narrow):
            floor = pair.group.floor
            if not self.incumbent.can_improve(pair.energy, floor):
                continue
            counts = self._offer(pair, 1, narrow)
            settled = self.incumbent.objective == "energy" and counts.cycles <= self.incumbent.latest * (1 + TOLERANCE)
            if not settled and counts.cycles > floor * (1 + TOLERANCE) and self.incumbent.can_improve(pair.energy, floor):
                found.append(pair.group)
        self.slower += 2 * len(found) - len(groups)
        return found

    def _offer(self, pair: Pair, columns: int, narrow: bool) -> Counts:
        counts = self.incumbent.offer(self.mapping(pair, columns, narrow), self.problem)
        if not math.isclose(counts.energy_j, pair.energy, rel_tol=1e-6) and (counts.energy_j > pair.energy or not narrow):
            raise AssertionError(f"the search counted {pair.energy} J for a mapping that takes {counts.energy_j} J")
        return counts

    def _meet(self, groups: Sequence[Group], columns: int, narrow: bool) -> list[Pair]:
        """Best pair of halves of each of some groups that share what stands above, under the first `columns` costs, as far as the bound
        leaves one; the best first."""
        outer = self._above(groups[0], columns, narrow)
        if len(groups) == 1 and not narrow:  # no sweep to share: a bound by what stands above is worth its while
            cycles = groups[0].floor if columns == 1 else groups[0].cost.compute
            if not self.incumbent.can_improve(self._least(groups[0], outer), cycles):
                return []
        self.trail = Trail()
        steps = [self._steps(group) for group in groups]
        return Inner(self.bounds, self.incumbent, self.meter, self.trail, outer, self.below, groups, steps, columns, narrow).run()

    def mapping(self, pair: Pair, columns: int, narrow: bool) -> Mapping:
        """The nest of a pair of the last `_meet`, of which these are the arguments."""
        outer = self._above(pair.group, columns, narrow)
        at = States(np.array([pair.inside]), np.zeros(1), np.zeros((1, 1)), np.array([pair.low]))
        for i in reversed(self.joint):
            at = spread(self.shapes, at, self.trail, i, pair.group.chosen[i].shapes)
        low = int(at.row[np.flatnonzero(at.shape == pair.outside)[0]])
        names = {level.number: level.names for level in self.levels}
        return self.space.written(outer.trail.follow(pair.high, names)[::-1] + self.trail.follow(low, names))

    def _key(self, group: Group, columns: int, narrow: bool) -> object:
        """What the costs above the innermost memory depend on."""
        return columns, narrow, tuple((*group.chosen[i].shares.values(), group.chosen[i].total) for i in self.outer)

    def _above(self, group: Group, columns: int, narrow: bool) -> Outer:
        """Partial mappings of the levels above; shared by groups that spread alike there."""
        key = self._key(group, columns, narrow)
        if key in self.upper:
            return self.upper[key]
        trail = Trail()
        if not self.above:
            self.upper[key] = Outer(self.shapes, _everything(self.shapes, columns), trail)
            return self.upper[key]
        alike = [g for g in self.groups if self._key(g, columns, narrow) == key]
        alike = [g for g in alike if g is group or self.incumbent.can_improve(float(g.least[0]), g.floor)]
        below = self.bounds.below(alike, self.below, columns)
        cycles = min(g.floor if columns == 1 else g.cost.compute for g in alike)
        states = _everything(self.shapes, columns).take(np.array([self.shapes.size - 1]))
        for n, level in enumerate(self.above):
            for i in self.outer:
                if self.problem.fanouts[i][0] == level.number - 1:
                    states = spread(self.shapes, states, trail, i, group.chosen[i].shapes, inwards=True)
            missing = below + self.bounds.rest(group, self.above[n + 1 :], "inwards", columns)
            once = {
                i: (np.array(group.cost.once[edge][0]), group.cost.once[edge][1][:columns])
                for i, edge in enumerate(level.edges)
                if edge in group.cost.once
            }
            states = Sweep(
                self.shapes, level, [group.cost.edge[edge][:columns] for edge in level.edges], "inwards",
                self._keep(group, level, missing, cycles), trail, self.meter, narrow, closed=n + 1 == len(self.above),
                criteria=independent([group.cost], self.above[: n + 1], columns), once=once,
            ).run(states)  # fmt: skip
        self.upper[key] = Outer(self.shapes, states, trail)
        return self.upper[key]

    def _keep(self, group: Group, level: Level, other: Floats, cycles: float) -> Bound:
        """The bound of one level above; `other` is what everything but its tiles costs at least, by shape."""
        columns = other.shape[1]
        least = [self.bounds.price(group, level, i, "inwards", columns) for i in range(len(level.names))]
        missing: dict[int, Floats] = {}

        def keep(states: States, bits: int) -> NDArray[np.bool_]:
            if bits not in missing:
                missing[bits] = sum((each for i, each in enumerate(least) if not bits >> i & 1), start=other)
            total = states.cost + missing[bits][states.shape]
            return self.incumbent.improved_by(total[:, 0], slowest(total, cycles))

        return keep


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


def _everything(shapes: Lattice, columns: int) -> States:
    """Every shape at no cost: loops over everything, nothing kept."""
    n = shapes.size
    return States(np.arange(n), np.zeros(n), np.zeros((n, columns)), np.full(n, -1, dtype=np.int64))


def point(columns: int) -> States:
    """A single point of the iteration space, nothing kept."""
    return States(np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros((1, columns)), np.full(1, -1, dtype=np.int64))


def spread(shapes: Lattice, states: States, trail: Trail, fanout: int, options: Index, *, inwards: bool = False) -> States:
    """Factors in space added above partial mappings, or below them; rows of the trail hold the shape below the factors."""
    parts = []
    for by in options.tolist():
        inside = states.take(shapes.divides(states.shape, by) if inwards else shapes.fits(states.shape, by))
        below = inside.shape - by if inwards else inside.shape
        row = trail.add(below, inside.row, tensors=0, level=fanout, spread=by)
        parts.append(States(below if inwards else below + by, inside.held, inside.cost, row))
    return best(joined(parts, states.cost.shape[1]))
