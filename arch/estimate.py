"""The result of every model: time, energy, traffic, and how far to believe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


def _add(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in (*a, *(k for k in b if k not in a))}


@dataclass(frozen=True)
class Estimate:
    """What one op, or a sum of ops, costs on one system.

    Attributes
    ----------
    time_s
        Seconds.
    low_s, high_s
        Interval that calibration has earned, at the coverage that the Report names.
    energy_j
        Joules by component (``"tensor"``, ``"dram"``, ``"static"`` ...).
    bytes_moved
        Bytes by level (``"dram"``, ``"l2"``).
    busy_s
        Seconds for which each resource is busy.
    flops
        Floating-point operations.
    clock_hz
        Clock under the power limit; time-weighted in sums.
    limiter
        Resource that limits; in sums the one with the longest busy time.
    """

    time_s: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    energy_j: Mapping[str, float] = field(default_factory=dict)
    bytes_moved: Mapping[str, float] = field(default_factory=dict)
    busy_s: Mapping[str, float] = field(default_factory=dict)
    flops: float = 0.0
    clock_hz: float = 0.0
    limiter: str = ""

    @property
    def cycles(self) -> int:
        """Whole clocks at `clock_hz`."""
        return round(self.time_s * self.clock_hz)

    @property
    def total_energy_j(self) -> float:
        """Sum over components."""
        return sum(self.energy_j.values())

    def __add__(self, other: Estimate) -> Estimate:
        """One after the other. Interval ends add: errors of one model are taken to be fully dependent, the safe side.

        >>> (Estimate(1.0, 0.9, 1.2) + Estimate(2.0, 1.5, 3.0)).high_s
        4.2
        """
        if not isinstance(other, Estimate):
            return NotImplemented
        time = self.time_s + other.time_s
        busy = _add(self.busy_s, other.busy_s)
        clock = (self.clock_hz * self.time_s + other.clock_hz * other.time_s) / time if time else 0.0
        return Estimate(time, self.low_s + other.low_s, self.high_s + other.high_s, _add(self.energy_j, other.energy_j),
                        _add(self.bytes_moved, other.bytes_moved), busy, self.flops + other.flops, clock,
                        max(busy, key=lambda name: busy[name]) if busy else self.limiter or other.limiter)

    def __mul__(self, times: float) -> Estimate:
        """The same thing several times in a row."""
        def scale(parts: Mapping[str, float]) -> dict[str, float]:
            return {key: value * times for key, value in parts.items()}

        return Estimate(self.time_s * times, self.low_s * times, self.high_s * times, scale(self.energy_j),
                        scale(self.bytes_moved), scale(self.busy_s), self.flops * times, self.clock_hz, self.limiter)

    __rmul__ = __mul__
