"""The `tile` fidelity of GPU kernels: the CTAs of the chosen tiling, dispatched to SMs, contending for L2 and DRAM, on the event engine.

A closed form says what one CTA needs (`KernelTimes.choice`); here the CTAs are played out. CTAs that start together behave alike and move
as one cohort: its rate is bounded by the latencies along one CTA's loop, by its share of the SM's pipes, and by its share of the L2 and
DRAM bandwidth, which all running cohorts divide in proportion to their demand. When a cohort ends, its slots take the next CTAs in
launch order.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
import simpy

from ..mapping.gpu.lower import Kernel
from ..mapping.gpu.machine import KernelTimes, Machine

#: Waves that are played out before the steady ones in the middle are skipped by their period.
_PLAYED_WAVES: Final = 3
#: Part of a cohort below which it counts as done (rounding of its rate times the step).
_DONE: Final = 1e-9
#: CTA lengths, and runs of them, that stand for a kernel whose CTAs differ in length (causal attention).
_LENGTH_CLASSES: Final = 4
_MOST_RAMPS: Final = 3
#: Waves from which on CTAs of different length even out.
_MANY_WAVES: Final = 16


@dataclass(frozen=True)
class Grid:
    """One kernel as the tile engine plays it.

    Attributes
    ----------
    ctas
        CTAs of the grid.
    sms, resident
        SMs that take part, and CTAs that fit on one at a time.
    cta_s
        Seconds of a whole SM's pipes that the mean CTA needs.
    alone_s
        Seconds that the mean CTA takes at least, however idle its SM: the latencies in series along its loop.
    l2_s, dram_s
        Seconds of the whole L2 and DRAM bandwidth that the grid needs.
    exposed, exposed_power
        What does not hide: of two activities of lengths a >= b, ``exposed * b * (b / a) ** exposed_power`` comes on top of a.
    longest
        Longest CTA over the mean one (causal attention); lengths rise evenly around the mean.
    ramps
        Runs of rising lengths in launch order (one per head and sequence); 0: one falling run, longest first.
    """

    ctas: int
    sms: int
    resident: int
    cta_s: float
    alone_s: float = 0.0
    l2_s: float = 0.0
    dram_s: float = 0.0
    exposed: float = 0.0
    exposed_power: float = 0.0
    longest: float = 1.0
    ramps: float = 1.0


@dataclass
class _Cohort:
    count: int
    scale: float
    left: float = 1.0


def play_grid(grid: Grid) -> float:
    """Seconds from the first CTA's start to the last one's end.

    >>> play_grid(Grid(ctas=4, sms=2, resident=1, cta_s=1.0))
    2.0
    """
    env = simpy.Environment()
    env.process(_dispatch(env, grid))
    env.run()
    return float(env.now)


def _classes(grid: Grid) -> list[list[float]]:
    """[CTAs, length over the mean] in launch order."""
    runs = int(np.clip(grid.ramps, 1, _MOST_RAMPS))
    parts = runs * _LENGTH_CLASSES
    if grid.longest <= 1.0 or not parts <= grid.ctas <= _MANY_WAVES * grid.sms * grid.resident:
        return [[grid.ctas, 1.0]]
    spread = min(grid.longest, 2.0) - 1.0
    scales = np.tile(1.0 + spread * np.linspace(-1.0, 1.0, _LENGTH_CLASSES), runs)
    if grid.ramps < 1:
        scales = scales[::-1].copy()
    counts = np.diff(np.linspace(0, grid.ctas, parts + 1).astype(int))
    scales *= grid.ctas / float(counts @ scales)  # the mean CTA stays the mean
    return [[int(c), float(s)] for c, s in zip(counts, scales, strict=True)]


def _dispatch(env: simpy.Environment, grid: Grid) -> Generator[Any, Any, None]:
    waiting = _classes(grid)
    slots = grid.sms * grid.resident
    running: list[_Cohort] = []
    free, waves, wave_start, started, scale = slots, 0, 0.0, 0, 1.0
    while waiting or running:
        while waiting and free:
            count = int(min(free, waiting[0][0]))
            scale = waiting[0][1]
            running.append(_Cohort(count, scale))
            started += 1
            free -= count
            waiting[0][0] -= count
            if not waiting[0][0]:
                waiting.pop(0)
        rates = _rates(grid, running)
        step = min(cohort.left / rate for cohort, rate in zip(running, rates, strict=True))
        yield env.timeout(step)
        for cohort, rate in zip(running, rates, strict=True):
            cohort.left -= rate * step
        free += sum(c.count for c in running if c.left <= _DONE)
        running = [c for c in running if c.left > _DONE]
        if not running and waiting:  # the GPU is empty between two waves; after waves of one cohort the next ones repeat it
            alike = started == 1 and scale == waiting[0][1]
            waves, period, wave_start = (waves + 1 if alike else 0), env.now - wave_start, float(env.now)
            started = 0
            skip = int(waiting[0][0] // slots) - 1
            if waves >= _PLAYED_WAVES and skip > 0:
                yield env.timeout(skip * period)
                waiting[0][0] -= skip * slots
                wave_start = float(env.now)


def _rates(grid: Grid, running: Sequence[_Cohort]) -> list[float]:
    """Fraction of itself that each cohort completes per second."""
    active = sum(c.count for c in running)
    per_sm = max(1.0, float(np.ceil(active / grid.sms)))
    wish = []
    for cohort in running:
        compute = cohort.scale * max(per_sm * grid.cta_s, grid.alone_s)
        part = cohort.scale * active / grid.ctas  # all running CTAs ask for as much
        memory = _together(grid, grid.l2_s * part, grid.dram_s * part)
        wish.append(1.0 / max(_together(grid, compute, memory), 1e-15))
    share = 1.0
    for total_s in (grid.l2_s, grid.dram_s):
        demand = sum(rate * cohort.count * cohort.scale * total_s / grid.ctas for rate, cohort in zip(wish, running, strict=True))
        share = max(share, demand)
    return [rate / share for rate in wish]


def _together(grid: Grid, a: float, b: float) -> float:
    """Time of two activities at once; see `Grid.exposed`."""
    longer, shorter = max(a, b), min(a, b)
    return longer + grid.exposed * shorter * (shorter / longer) ** grid.exposed_power if longer > 0 else 0.0


def refine(kernels: Sequence[Kernel], times: KernelTimes, machine: Machine) -> KernelTimes:
    """Replace the closed forms' times by played ones, for the kernels whose closed form describes its CTAs.

    Parameters
    ----------
    kernels
        One group, in the order of the arrays.
    times
        What the closed form found; `choice` holds the fields of `Grid` that describe CTAs, and ``extra_s``, the seconds outside of
        the grid (launch, further kernels); ``l2_s`` and ``dram_s`` are the busy times where `choice` does not give them.
    machine
        One GPU, not an array of designs.

    Returns
    -------
    KernelTimes
        With `time_s` played out; unchanged where `choice` describes no CTAs (collectives).
    """
    choice = times.choice
    if not {"ctas", "resident", "cta_s", "extra_s"} <= set(choice):
        return times
    shape = (len(kernels),)

    def column(values: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, dtype=float), shape)

    described = {name: column(times.busy_s.get(name.removesuffix("_s"), 0.0)) for name in ("l2_s", "dram_s")}
    described |= {
        field.name: column(choice[field.name])
        for field in fields(Grid)
        if field.name in choice and field.name not in ("ctas", "sms", "resident")
    }
    ctas, resident, extra_s = (column(choice[name]) for name in ("ctas", "resident", "extra_s"))
    played = np.empty(shape)
    seen: dict[Grid, float] = {}
    for i in range(len(kernels)):
        grid = Grid(
            ctas=max(1, round(ctas[i])),
            sms=round(float(machine.sm_count)),
            resident=max(1, int(resident[i])),
            **{name: float(values[i]) for name, values in described.items()},
        )
        if grid not in seen:
            seen[grid] = play_grid(grid)
        played[i] = seen[grid] + extra_s[i]
    return replace(times, time_s=played)
