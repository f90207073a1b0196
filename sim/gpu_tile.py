"""The `tile` fidelity of GPU kernels: the CTAs of the chosen tiling, dispatched to SMs, contending for L2 and DRAM, on the event engine.

A closed form says what one CTA needs (`KernelTimes.choice`); here the CTAs are played out. CTAs that start together behave alike and move
as one cohort. A cohort first waits for its pipeline to fill, then streams: its rate is bounded by its share of the SM's pipes and by
its share of the L2 and DRAM bandwidth, which all running cohorts divide in proportion to their demand. When a cohort ends, its slots
take the next CTAs in launch order.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import simpy

from ..mapping.gpu.lower import Kernel
from ..mapping.gpu.machine import KernelTimes, Machine

#: Waves that are played out before the steady ones in the middle are skipped by their period.
_PLAYED_WAVES: Final = 3
#: CTA lengths that stand for a kernel whose CTAs differ in length (causal attention).
_LENGTH_CLASSES: Final = 4


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
    fill_s
        Seconds before the mean CTA's first result: launch of the CTA and latency of its first loads.
    l2_s, dram_s
        Seconds of the whole L2 and DRAM bandwidth that the grid needs.
    unoverlapped
        Share of the smaller of compute and memory time that does not hide behind the larger.
    longest
        Longest CTA over the mean one; launched first to last from long to short.
    """

    ctas: int
    sms: int
    resident: int
    cta_s: float
    fill_s: float
    l2_s: float
    dram_s: float
    unoverlapped: float = 0.0
    longest: float = 1.0


@dataclass
class _Cohort:
    count: int
    scale: float
    fill_left_s: float
    left: float = 1.0


def play_grid(grid: Grid) -> float:
    """Seconds from the first CTA's start to the last one's end.

    >>> round(play_grid(Grid(ctas=4, sms=2, resident=1, cta_s=1.0, fill_s=0.0, l2_s=0.0, dram_s=0.0)), 9)
    2.0
    """
    env = simpy.Environment()
    env.process(_dispatch(env, grid))
    env.run()
    return float(env.now)


def _classes(grid: Grid) -> list[list[float]]:
    """[CTAs, length over the mean] in launch order."""
    if grid.longest <= 1.0 or grid.ctas < _LENGTH_CLASSES:
        return [[grid.ctas, 1.0]]
    spread = min(grid.longest, 2.0) - 1.0
    scales = 1.0 + spread * np.linspace(1.0, -1.0, _LENGTH_CLASSES)
    counts = np.diff(np.linspace(0, grid.ctas, _LENGTH_CLASSES + 1).astype(int))
    scales *= grid.ctas / float(counts @ scales)  # the mean CTA stays the mean
    return [[int(c), float(s)] for c, s in zip(counts, scales, strict=True)]


def _dispatch(env: simpy.Environment, grid: Grid) -> Generator[Any, Any, None]:
    waiting = _classes(grid)
    slots = grid.sms * grid.resident
    running: list[_Cohort] = []
    free, waves, wave_start = slots, 0, 0.0
    while waiting or running:
        while waiting and free:
            count = int(min(free, waiting[0][0]))
            running.append(_Cohort(count, waiting[0][1], grid.fill_s))
            free -= count
            waiting[0][0] -= count
            if not waiting[0][0]:
                waiting.pop(0)
        rates = _rates(grid, running)
        step = min(c.fill_left_s if c.fill_left_s > 0 else c.left / rate for c, rate in zip(running, rates, strict=True))
        yield env.timeout(step)
        for cohort, rate in zip(running, rates, strict=True):
            if cohort.fill_left_s > 0:
                cohort.fill_left_s = max(0.0, cohort.fill_left_s - step)
                cohort.fill_left_s = cohort.fill_left_s if cohort.fill_left_s > 1e-15 else 0.0
            else:
                cohort.left -= rate * step
        done = [c for c in running if c.left <= 1e-9 and c.fill_left_s == 0]
        running = [c for c in running if c.left > 1e-9 or c.fill_left_s > 0]
        free += sum(c.count for c in done)
        if not running and waiting:  # a whole wave ended at once: the next ones repeat it
            waves, period, wave_start = waves + 1, env.now - wave_start, float(env.now)
            skip = int(waiting[0][0] // slots) - 1
            if waves >= _PLAYED_WAVES and skip > 0:
                yield env.timeout(skip * period)
                waiting[0][0] -= skip * slots
                wave_start = float(env.now)


def _rates(grid: Grid, running: Sequence[_Cohort]) -> list[float]:
    """Fraction of itself that each cohort completes per second; a filling cohort has none."""
    streaming = [c for c in running if c.fill_left_s == 0]
    per_sm = max(1.0, float(np.ceil(sum(c.count for c in streaming) / grid.sms)))
    wish: list[float] = []
    for cohort in running:
        if cohort.fill_left_s > 0:
            wish.append(0.0)
            continue
        compute = per_sm * grid.cta_s * cohort.scale
        memory = max(grid.l2_s, grid.dram_s) / grid.ctas * cohort.scale * cohort.count
        alone = max(compute, memory) + grid.unoverlapped * min(compute, memory)
        wish.append(1.0 / max(alone, 1e-15))
    share = 1.0
    for total_s in (grid.l2_s, grid.dram_s):
        demand = sum(rate * cohort.count * cohort.scale * total_s / grid.ctas for rate, cohort in zip(wish, running, strict=True))
        share = max(share, demand)
    return [rate / share for rate in wish]


def refine(kernels: Sequence[Kernel], times: KernelTimes, machine: Machine) -> KernelTimes:
    """Replace the closed forms' times by played ones, for the kernels whose closed form describes its CTAs.

    Parameters
    ----------
    kernels
        One group, in the order of the arrays.
    times
        What the closed form found; `choice` holds ``ctas``, ``resident``, ``cta_s``, ``fill_s`` (and optionally ``unoverlapped``,
        ``longest``), `busy_s` holds ``l2``, ``dram`` and ``floor``.
    machine
        One GPU, not an array of designs.

    Returns
    -------
    KernelTimes
        With `time_s` played out; unchanged where `choice` describes no CTAs (collectives).
    """
    choice = times.choice
    if not {"ctas", "resident", "cta_s", "fill_s"} <= set(choice):
        return times
    shape = (len(kernels),)

    def column(values: Any, default: float = 0.0) -> np.ndarray:
        return np.broadcast_to(np.asarray(default if values is None else values, dtype=float), shape)

    columns = {name: column(choice.get(name), default) for name, default in
               (("ctas", 1.0), ("resident", 1.0), ("cta_s", 0.0), ("fill_s", 0.0), ("unoverlapped", 0.0), ("longest", 1.0), ("extra_s", 0.0))}
    l2, dram, floor = (column(times.busy_s.get(name)) for name in ("l2", "dram", "floor"))
    played = np.empty(shape)
    seen: dict[Grid, float] = {}
    for i in range(len(kernels)):
        grid = Grid(max(1, round(columns["ctas"][i])), round(float(machine.sm_count)), max(1, int(columns["resident"][i])),
                    float(columns["cta_s"][i]), float(columns["fill_s"][i]), float(l2[i]), float(dram[i]),
                    float(columns["unoverlapped"][i]), float(columns["longest"][i]))
        if grid not in seen:
            seen[grid] = play_grid(grid)
        played[i] = seen[grid] + floor[i] + columns["extra_s"][i]
    return replace(times, time_s=played)
