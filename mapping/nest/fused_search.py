"""Exact search of a cascade: which ops are fused, in which memory their intermediates stay, and the best nest of every group.

The space: every way to cut the cascade, in its order, into groups; in a group of several ops every intermediate that only they read is
kept in one and the same memory, above which no fanout stands; every fused nest (`presilicon.mapping.nest.fused`) of the group whose
branches and tiles above them are those of `presilicon.mapping.nest.space`. Each op of a group reads a tensor for itself, even one that
another op of the group reads too; nothing is computed twice.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...arch.hierarchy import Hierarchy
from ...errors import MappingError, UnknownNameError
from .cascade import Cascade
from .fused import CascadeCounts, CascadeMapping, evaluate_cascade, inner_tensors, problems
from .fused_group import GroupSearch, Point, backing_memories
from .fused_join import Gate
from .fused_side import classes
from .incumbent import OBJECTIVES, TOLERANCE, Incumbent, Objective
from .nest import Mapping
from .sweep import Meter, StoppedError

Cut = tuple[tuple[tuple[int, ...], int], ...]  # ops of each group and the memory that backs its intermediates (0: a single op)


@dataclass(frozen=True)
class FoundCascade:
    """What a search ends with; fields as those of `presilicon.mapping.nest.search.Found`.

    `cuts` are the ways to group the ops that were searched.
    """

    mapping: CascadeMapping | None
    counts: CascadeCounts | None
    exhausted: bool
    bound: float
    cuts: int
    evaluated: int


def search_cascade(
    cascade: Cascade, hierarchy: Hierarchy, objective: Objective = "edp", *, fuse: bool = True, time_limit_s: float | None = None
) -> FoundCascade:
    """Find the best mapping of a cascade.

    Parameters
    ----------
    cascade, hierarchy, objective
        What to map on what, and what is least.
    fuse
        False: every op by itself.
    time_limit_s
        Stop after so many seconds with the best so far and its bound; Ctrl-C does the same.

    Raises
    ------
    UnknownNameError
        An unknown objective.
    MappingError
        An op cannot be mapped, or does not fit even by itself.
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", str(objective), OBJECTIVES)
    if time_limit_s is not None and not time_limit_s > 0:
        raise MappingError(f"time limit: expected seconds above 0, found {time_limit_s!r}")
    if hierarchy.latency != "overlapped":
        raise MappingError(f"cascade: {hierarchy.name} says latency: {hierarchy.latency}; fill and drain are counted for single ops")
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    return _CascadeSearch(cascade, hierarchy, objective, fuse, Meter(deadline)).run()


class _CascadeSearch:
    def __init__(self, cascade: Cascade, hierarchy: Hierarchy, objective: Objective, fuse: bool, meter: Meter) -> None:
        self.cascade, self.hierarchy, self.meter = cascade, hierarchy, meter
        self.incumbent = Incumbent(objective)
        self.best: CascadeMapping | None = None
        self.counts: CascadeCounts | None = None
        self.tightened: set[tuple[tuple[int, ...], int]] = set()
        self.searches: dict[tuple[tuple[int, ...], int], GroupSearch | None] = {}
        self.least: dict[tuple[tuple[int, ...], int, tuple[str, ...]], Point | None] = {}
        self.cuts = [cut for cut in self._cuts(fuse) if all(self._search(*part) is not None for part in cut)]

    def _cuts(self, fuse: bool) -> Iterator[Cut]:
        number = len(self.cascade.ops)
        for marks in itertools.product((False, True), repeat=number - 1):
            runs: list[tuple[int, ...]] = [(0,)]
            for i, joined in enumerate(marks, start=1):
                if joined:
                    runs[-1] = (*runs[-1], i)
                else:
                    runs.append((i,))
            if any(marks) and not fuse:
                continue
            options: list[list[tuple[tuple[int, ...], int]]] = []
            for ops in runs:
                if len(ops) == 1:
                    options.append([(ops, 0)])
                    continue
                inner = inner_tensors(self.cascade, ops)
                if not all(any(self.cascade.operand(i, name) for name in inner) for i in ops):
                    options.append([])
                    continue
                options.append([(ops, m) for m in backing_memories(self.cascade, ops, problems(self.cascade, self.hierarchy, ops, 0))])
            yield from itertools.product(*options)

    def _search(self, ops: tuple[int, ...], backing: int) -> GroupSearch | None:
        """The search of a group, or None where its smallest tiles do not fit."""
        key = ops, backing
        if key not in self.searches:
            try:
                self.searches[key] = GroupSearch(
                    self.cascade, ops, problems(self.cascade, self.hierarchy, ops, backing), backing, self.meter
                )
            except MappingError:
                if len(ops) == 1:
                    raise
                self.searches[key] = None
        return self.searches[key]

    def _parts(self, cut: Cut) -> list[GroupSearch]:
        found = [self._search(*part) for part in cut]
        return [part for part in found if part is not None]

    def run(self) -> FoundCascade:
        pending = list(self.cuts)
        try:
            for cut in self.cuts:
                for part in self._parts(cut):
                    if part.inner or len(self.cuts) == 1 or self.incumbent.objective != "energy":
                        self._tighten(part)
            for cut in self.cuts:
                self._first(cut)
            while pending:
                self._prove(pending[0])
                pending.pop(0)
        except (StoppedError, KeyboardInterrupt):
            pass
        bound = min([self.incumbent.best, *(self._bound(cut) for cut in pending)])
        scale = 1.0 if self.incumbent.objective == "energy" else 1.0 / self.hierarchy.clock_hz
        return FoundCascade(self.best, self.counts, not pending, bound * scale, len(self.cuts), self.meter.evaluated)

    def _tighten(self, part: GroupSearch) -> None:
        if (part.ops, part.backing) not in self.tightened:
            part.tighten()
            self.tightened.add((part.ops, part.backing))

    def _bound(self, cut: Cut) -> float:
        parts = self._parts(cut)
        return float(self.incumbent.score(sum(p.bound for p in parts), sum(p.floor for p in parts)))

    def _least(self, part: GroupSearch, only: tuple[str, ...]) -> Point | None:
        key = part.ops, part.backing, only
        if key not in self.least:
            self.least[key] = part.least_energy(only)
        return self.least[key]

    def _offer(self, points: Sequence[Point]) -> CascadeCounts:
        mapping = CascadeMapping(tuple(point.nest for point in points))
        counts = evaluate_cascade(mapping, self.cascade, self.hierarchy)
        energy = sum(point.energy for point in points)
        if not math.isclose(counts.energy_j, energy, rel_tol=1e-6):
            raise AssertionError(f"the search counted {energy} J for a mapping that takes {counts.energy_j} J")
        if self.incumbent.can_improve(counts.energy_j, counts.cycles):
            self.incumbent.energy, self.incumbent.cycles, self.incumbent.mapping = counts.energy_j, counts.cycles, Mapping(())
            self.best, self.counts = mapping, counts
        return counts

    def _first(self, cut: Cut) -> None:
        """A mapping to beat: the one of least energy, for other objectives among those with the most MACs at work."""
        only = "all" if self.incumbent.objective == "energy" else "fastest"
        points = [self._least(part, (only,) * len(part.sides)) for part in self._parts(cut)]
        found = [point for point in points if point is not None]
        if len(found) == len(points):
            self._offer(found)

    def _prove(self, cut: Cut) -> None:
        """Exclude everything else of a cut, or find what is better."""
        if self.incumbent.objective == "energy":
            return  # `_first` has found the least energy of every group
        parts = self._parts(cut)
        for choice in itertools.product(*(classes(part.sides) for part in parts)):
            if any(
                not side.fast(one) for part, only in zip(parts, choice, strict=True) for side, one in zip(part.sides, only, strict=True)
            ):
                continue
            floors = [
                sum(min(g.floor for g in side.fast(one)) for side, one in zip(part.sides, only, strict=True))
                for part, only in zip(parts, choice, strict=True)
            ]
            if not self.incumbent.can_improve(sum(part.bound for part in parts), sum(floors)):
                continue
            points = [self._least(part, only) for part, only in zip(parts, choice, strict=True)]
            found = [point for point in points if point is not None]
            if len(found) < len(points):
                continue
            energies = [point.energy for point in found]
            if not self.incumbent.can_improve(sum(energies), sum(floors)):
                continue
            counts = self._offer(found)
            if counts.cycles <= sum(floors) * (1 + TOLERANCE):
                continue
            self._fronts(parts, choice, energies, floors)

    def _fronts(self, parts: list[GroupSearch], choice: Sequence[tuple[str, ...]], energies: list[float], floors: list[float]) -> None:
        """Energy and cycles of every group at once."""
        fronts = []
        for i, (part, only) in enumerate(zip(parts, choice, strict=True)):
            rest = sum(energies) - energies[i], sum(floors) - floors[i]
            fronts.append(part.front(only, self._gate(*rest)))
        for points in itertools.product(*fronts):
            if self.incumbent.can_improve(sum(p.energy for p in points), sum(p.cycles for p in points)):
                self._offer(points)

    def _gate(self, energy: float, cycles: float) -> Gate:
        def gate(found_energy: np.ndarray, found_cycles: np.ndarray | float) -> np.ndarray:
            return self.incumbent.improved_by(found_energy + energy, found_cycles + cycles)

        return gate
