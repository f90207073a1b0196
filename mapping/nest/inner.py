"""The inner half of a search: from a single point outwards, several groups of spatial factors at once, to where it meets the outer half.

Groups differ in what a move costs and in the factors that stand between the halves; the shapes of tiles, what they hold and what they
move are the same. So one sweep serves many groups: its partial mappings carry the number of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .bounds import Bounds, least_over
from .cost import Cost
from .incumbent import Incumbent
from .lattice import Lattice
from .space import Group
from .sweep import Keep, Level, Meter, States, Sweep, Trail, best, joined

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outer:
    """The outer half: partial mappings of the levels above, and how they came about."""

    shapes: Lattice
    states: States
    trail: Trail

    @cached_property
    def sorted(self) -> States:
        """The partial mappings by shape."""
        return self.states.take(np.argsort(self.states.shape, kind="stable"))

    @cached_property
    def least(self) -> Floats:
        """Least cost of what stands above each shape or a multiple of it, for loops may come between; shape (size, k)."""
        states = self.sorted
        found = np.full((self.shapes.size, states.cost.shape[1]), np.inf)
        if len(states):
            heads = np.flatnonzero(np.concatenate(([True], states.shape[1:] != states.shape[:-1])))
            found[states.shape[heads]] = np.minimum.reduceat(states.cost, heads, axis=0)
        return least_over(self.shapes, found, "outwards")

    def outside(self, steps: Index) -> Floats:
        """Least cost outside of each shape with one of the factors `steps`, as shapes, above it; shape (size, k)."""
        found = np.full_like(self.least, np.inf)
        for by in steps.tolist():
            self.shapes.least_of(found, self.least, by)
        return found


@dataclass(frozen=True)
class Pair:
    """A partial mapping of each half that meet: rows of their trails, the shapes that they reach, and the energy and cycles of both."""

    group: Group
    energy: float
    cycles: float
    low: int
    high: int
    inside: int
    outside: int


@dataclass(frozen=True)
class Inner:
    """Groups that share an outer half.

    Attributes
    ----------
    bounds, incumbent, meter, trail
        Of the search.
    outer
        The outer half.
    levels
        Those of the inner half, outermost first.
    groups, steps
        Groups, and for each the factors, as shapes, of the fanouts between the halves.
    columns
        Costs that count: 1 for energy alone, under the least cycles that a group allows.
    narrow
        As of `presilicon.mapping.nest.sweep.Sweep`.
    """

    bounds: Bounds
    incumbent: Incumbent
    meter: Meter
    trail: Trail
    outer: Outer
    levels: Sequence[Level]
    groups: Sequence[Group]
    steps: Sequence[Index]
    columns: int
    narrow: bool

    @cached_property
    def constant(self) -> Floats:
        """Costs that no tile changes; shape (groups, k)."""
        return np.array([g.cost.constant[: self.columns] for g in self.groups])

    @cached_property
    def cycles(self) -> Floats:
        """Cycles that count besides those of the ports; shape (groups,)."""
        return np.array([g.floor if self.columns == 1 else g.cost.compute for g in self.groups])

    @cached_property
    def outside(self) -> Floats:
        """Least cost outside of each shape, constants included; shape (groups * size, k)."""
        found = np.array([self.outer.outside(steps) for steps in self.steps]) + self.constant[:, None, :]
        return found.reshape(-1, self.columns)

    def run(self) -> list[Pair]:
        """For each group the best pair of halves, as far as the bound leaves one; best first."""
        number = len(self.groups)
        nothing = np.zeros(number, dtype=np.int64)
        states = States(nothing, np.zeros(number), np.zeros((number, self.columns)), nothing - 1, np.arange(number))
        for n in reversed(range(len(self.levels))):
            level = self.levels[n]
            if not len(states):
                return []
            states = self._spread(states, level.number)
            edges = [np.array([g.cost.edge[edge][: self.columns] for g in self.groups]) for edge in level.edges]
            states = Sweep(
                self.bounds.shapes, level, edges, "outwards", self._keep(n), self.trail, self.meter, self.narrow,
                closed=False, criteria=self._criteria(n), once=self._once(level),
            ).run(states)  # fmt: skip
        return self._join(states)

    def _spread(self, states: States, memory: int) -> States:
        """Factors of the fanouts directly below a memory, and below those its loops, added above partial mappings."""
        problem = self.bounds.space.problem
        inner = [i for i, (position, _) in enumerate(problem.fanouts) if position == memory]
        for i in reversed(inner):
            parts = []
            held = [set(g.chosen[i].shapes.tolist()) for g in self.groups]
            for by in sorted(set().union(*held)):
                able = np.array([by in each for each in held])[states.group]
                inside = states.take(able & self.bounds.shapes.fits(states.shape, by))
                row = self.trail.add(inside.shape, inside.row, tensors=0, level=i, spread=by)
                parts.append(States(inside.shape + by, inside.held, inside.cost, row, inside.group))
            states = best(joined(parts, self.columns), self.bounds.shapes.size)
        return states

    def _once(self, level: Level) -> dict[int, tuple[Floats, Floats]]:
        """`Cost.once` of a level's tensors, by bit; shapes (groups,) and (groups, k)."""
        found = {}
        for i, edge in enumerate(level.edges):
            each = [g.cost.once[edge] for g in self.groups if edge in g.cost.once]
            if each:
                found[i] = np.array([limit for limit, _ in each]), np.array([saved[: self.columns] for _, saved in each])
        return found

    def _criteria(self, n: int) -> list[int]:
        """Columns that dominance has to compare after level `n` of the inner ones."""
        return independent([g.cost for g in self.groups], self.levels[n:], self.columns)

    def _keep(self, n: int) -> Keep:
        """The bound of level `n` of the inner ones: what is spent, what is outside, and the least of each tile still to come."""
        size, level = self.bounds.shapes.size, self.levels[n]
        wanted = [(each, i) for each in (level, *self.levels[:n]) for i in range(len(each.names))]
        priced = any(each.tables[i].price is not None for each, i in wanted)
        prices = [self.bounds.price(self.groups[0], each, i, "outwards", self.columns) for each, i in wanted] if priced else []
        # Elements moved at least, (size, tiles), the cost of one, (groups, tiles, k), and by tile what `Cost.once` saves.
        counted = [] if priced else wanted
        moved = np.ascontiguousarray(np.array([self.bounds.moved_least(each, i, "outwards") for each, i in counted]).reshape(-1, size).T)
        edges = np.array([[g.cost.edge[each.edges[i]][: self.columns] for each, i in counted] for g in self.groups])
        once = {tile: known[i] for tile, (each, i) in enumerate(wanted) if i in (known := self._once(each))}

        def keep(states: States, bits: int) -> NDArray[np.bool_]:
            missing = [tile for tile, (_, i) in enumerate(wanted) if tile >= len(level.names) or not bits >> i & 1]
            shape, group = states.shape, states.group
            assert group is not None
            total = states.cost + self.outside[states.place(size)]
            if priced:
                for tile in missing:
                    total += prices[tile][shape]
            elif missing:
                least, edge = moved[shape], edges[group]
                if len(missing) < len(wanted):
                    least, edge = least[:, missing], edge[:, missing]
                with np.errstate(invalid="ignore"):  # no room for a tile: infinite, or not a number where it costs nothing
                    total += np.einsum("nt,ntk->nk", least, edge)
                for tile in missing:
                    if tile in once:
                        limit, saved = once[tile]
                        total += (moved[shape, tile] <= limit[group] * (1 + 1e-12))[:, None] * saved[group]
            return self.incumbent.improved_by(total[:, 0], slowest(total, self.cycles[group]))

        return keep

    def _join(self, inside: States) -> list[Pair]:
        """Both halves where their shapes agree, with the factors of the fanouts between."""
        outer = self.outer.sorted
        if not len(inside) or not len(outer):
            return []
        shapes, group = self.bounds.shapes, inside.group
        assert group is not None
        flat, start = np.concatenate(self.steps), np.cumsum([0, *(len(each) for each in self.steps)])
        number = (start[1:] - start[:-1])[group]
        low = np.repeat(np.arange(len(inside)), number)
        by = flat[np.repeat(start[:-1][group] - (np.cumsum(number) - number), number) + np.arange(number.sum())]
        fits = (shapes.exponents[:, inside.shape[low]] + shapes.exponents[:, by] <= shapes.most[:, None]).all(axis=0)
        low, by = low[fits], by[fits]
        reached = inside.shape[low] + by
        first = np.searchsorted(outer.shape, reached, side="left")
        number = np.searchsorted(outer.shape, reached, side="right") - first
        high = np.repeat(first - (np.cumsum(number) - number), number) + np.arange(number.sum())
        low = np.repeat(low, number)
        total = inside.cost[low] + outer.cost[high] + self.constant[group[low]]
        self.meter.add(len(total))
        cycles = np.asarray(slowest(total, self.cycles[group[low]]))
        possible = np.flatnonzero(self.incumbent.improved_by(total[:, 0], cycles))
        low, high, total, cycles = low[possible], high[possible], total[possible], cycles[possible]
        score = np.asarray(self.incumbent.score(total[:, 0], cycles))
        order = np.lexsort((total[:, 0], score))
        chosen = order[np.sort(np.unique(group[low][order], return_index=True)[1])]
        return [
            Pair(
                self.groups[group[low[i]]], float(total[i, 0]), float(cycles[i]), int(inside.row[low[i]]), int(outer.row[high[i]]),
                int(inside.shape[low[i]]), int(outer.shape[high[i]]),
            )
            for i in chosen.tolist()
        ]  # fmt: skip


def slowest(total: Floats, cycles: Floats | float) -> Floats | float:
    """Cycles of the slowest of the MACs and every port."""
    return np.maximum(cycles, total[:, 1:].max(axis=1)) if total.shape[1] > 1 else cycles


def independent(costs: Sequence[Cost], levels: Sequence[Level], columns: int) -> list[int]:
    """Columns of the costs of some levels' tiles of which none is, under each choice of factors in space, in proportion to another.

    What partial mappings spend in a column in proportion to another is compared with that other.
    """
    everything = range(columns)
    if columns == 1 or any(table.price is not None for level in levels for table in level.tables):
        return list(everything)
    edges = [edge for level in levels for edge in level.edges]
    vectors = [np.array([v for edge in edges for v in _vectors(cost, edge, columns)]).reshape(-1, columns) for cost in costs]
    found: list[int] = []
    for column in everything:
        if not any(all(_in_proportion(v[:, known], v[:, column]) for v in vectors) for known in found):
            found.append(column)
    return found


def _vectors(cost: Cost, edge: tuple[str, int], columns: int) -> list[Floats]:
    return [cost.edge[edge][:columns], *([cost.once[edge][1][:columns]] if edge in cost.once else [])]


def _in_proportion(known: Floats, other: Floats) -> bool:
    largest = int(np.argmax(np.abs(known))) if len(known) else 0
    if not len(known) or not known[largest]:
        return not other.any()
    ratio = other[largest] / known[largest]
    return bool(ratio >= 0 and np.allclose(other, ratio * known, rtol=1e-13, atol=0.0))
