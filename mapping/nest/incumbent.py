"""The best mapping so far, and whether a partial mapping can still beat it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .counts import Counts, evaluate
from .nest import Mapping
from .problem import Problem

Floats = NDArray[np.float64]
Objective = Literal["energy", "latency", "edp"]
OBJECTIVES: Final[tuple[Objective, ...]] = get_args(Objective)

#: Two costs closer than this, relative, count as equal: sums in another order differ by that much.
TOLERANCE: Final = 1e-10


@dataclass
class Incumbent:
    """The best mapping so far.

    Attributes
    ----------
    objective
        What is least. Of mappings of equal latency the one of less energy is the better.
    latest
        Cycles that no mapping may exceed.
    energy, cycles, mapping, counts
        Of the best mapping; infinite and None before there is one.
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

    @property
    def best(self) -> float:
        """Score of the best mapping."""
        return float(self.score(self.energy, self.cycles))

    def improved_by(self, energy: Floats, cycles: Floats | float) -> NDArray[np.bool_]:
        """Whether mappings that cost at least so much could be better; shape of `energy`."""
        possible: NDArray[np.bool_] = np.isfinite(energy) & (cycles <= self.latest * (1 + TOLERANCE))
        if self.mapping is None:
            return possible
        if self.objective == "latency":
            faster = np.asarray(cycles < self.cycles * (1 - TOLERANCE))
            tied = np.asarray(cycles <= self.cycles * (1 + TOLERANCE))
            return possible & (faster | (tied & (energy < self.energy * (1 - TOLERANCE))))
        return possible & np.asarray(self.score(energy, cycles) < self.best * (1 - TOLERANCE))

    def can_improve(self, energy: float, cycles: float) -> bool:
        """`improved_by` of one mapping."""
        return bool(self.improved_by(np.array([energy]), cycles)[0])

    def offer(self, mapping: Mapping, problem: Problem) -> Counts:
        """Take a mapping if it is better; returns what it costs."""
        counts = evaluate(mapping, problem)
        if self.can_improve(counts.energy_j, counts.cycles):
            self.mapping, self.counts, self.energy, self.cycles = mapping, counts, counts.energy_j, counts.cycles
        return counts
