"""One op of a fused group: its space, and bounds from its search by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import product

from .constraints import Constraints
from .incumbent import TOLERANCE, Incumbent
from .nest import Mapping
from .problem import Problem
from .search import _Search
from .space import Group, Space, space
from .sweep import Level, Meter, Trail


class Side:
    """One op of a group, its space, and bounds from its search with intermediates free of charge and no other op beside it."""

    def __init__(self, compiled: Problem, inner: Sequence[str], backing: int, meter: Meter) -> None:
        self.problem, self.backing, self.meter = compiled, backing, meter
        self.space: Space = space(compiled, Constraints())
        self.shapes = self.space.shapes
        self.groups: list[Group] = self.space.groups
        self.fastest = min(g.cost.compute for g in self.groups)
        relaxed = _Search(self.space, Incumbent("energy"), meter, inner=1)
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
            for batch in search.batches(sorted(pending, key=search._promise)[:6] if narrow else pending):
                search.incumbent.energy = known
                better = [group for group in batch if search._bound(group) < known]
                met = search._meet(better, 1, narrow) if better else []
                known = min([known, *(pair.energy for pair in met)])
            search.upper.clear()
        search.incumbent.energy, search.incumbent.mapping = math.inf, None
        return known


def classes(sides: Sequence[Side]) -> list[tuple[str, ...]]:
    """Every choice of ``"fastest"`` or ``"slower"`` groups for each op, the fastest of all first."""
    return list(product(("fastest", "slower"), repeat=len(sides)))
