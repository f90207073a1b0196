"""Streams of a CTA from warps that stand for others, and their runs of equal stretches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ...mapping.triton.warp_runs import WarpRun
from .facts import CodeFacts
from .streams import KEPT, Cta, Period, Rows, find_period, runs_alike


@dataclass(frozen=True, eq=False)
class Warp:
    """One warp, for those that do as it does.

    Attributes
    ----------
    steps
        int64: segments in order.
    at, instruction, row
        int64, by rising step: step, instruction and row of each access.
    period
        The longest run of equal stretches.
    keys
        int64 by step: equal where steps are alike.
    """

    steps: np.ndarray
    at: np.ndarray
    instruction: np.ndarray
    row: np.ndarray
    period: Period | None
    keys: np.ndarray


@dataclass(frozen=True, eq=False)
class WarpStreams:
    """One CTA's streams, from warps that stand for others; see `streams.Followed`.

    Attributes
    ----------
    facts
        The kernel.
    rows, period, counts
        Costs of accesses; the longest run of equal stretches; warp-instructions of the CTA by instruction.
    roles, warps
        By warp the one that stands for it, and those.
    """

    facts: CodeFacts
    rows: Rows
    period: Period | None
    counts: np.ndarray
    roles: tuple[int, ...]
    warps: tuple[Warp, ...]

    def pack(self, keep: int | None = None) -> Cta:
        """Streams, the longest run of stretches cut to `keep`."""
        first, sizes = self.facts.first, self.facts.size
        code, access = [], []
        for warp in self.warps:
            taken = np.ones(len(warp.steps), dtype=bool)
            if self.period is not None and warp.period is not None and keep is not None and keep < warp.period.times:
                p = warp.period
                for begin in (p.first, *p.again):
                    taken[begin + keep * p.length:begin + p.times * p.length] = False
            segments = warp.steps[taken]
            lengths = sizes[segments]
            offsets = np.cumsum(lengths) - lengths
            stream = np.arange(int(lengths.sum())) - np.repeat(offsets - first[segments], lengths)
            place = np.full(len(warp.steps), -1, dtype=np.int64)
            place[taken] = offsets - first[segments]
            kept = taken[warp.at]
            entry = np.full(len(stream), -1, dtype=np.int32)
            entry[place[warp.at[kept]] + warp.instruction[kept]] = warp.row[kept]
            code.append(stream.astype(np.int32))
            access.append(entry)
        return Cta(self.roles, tuple(code), tuple(access))


def step_keys(run: WarpRun, step: np.ndarray, row: np.ndarray) -> np.ndarray:
    """int64 by step: equal where segment, lanes and the rows of all accesses are."""
    mixed = np.zeros(len(run.steps), dtype=np.uint64)
    weight = (row.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    np.add.at(mixed, step, (weight ^ (weight >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9))
    mixed += run.steps.astype(np.uint64) * np.uint64(0x94D049BB133111EB) + run.masks.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
    return mixed.view(np.int64)


def turns_of(instruction: np.ndarray) -> np.ndarray:
    """How often each instruction stands before each place.

    >>> turns_of(np.array([5, 7, 5, 5, 7])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(instruction, kind="stable")
    ordered, place = instruction[order], np.arange(len(order))
    fresh = np.ones(len(order), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    turns = np.empty(len(order), np.int64)
    turns[order] = place - np.maximum.accumulate(np.where(fresh, place, 0))
    return turns


def cut_all_runs(warps: tuple[Warp, ...], *, inner: bool) -> tuple[Warp, ...]:
    """Warps whose runs of equal stretches are cut all together, where each warp has as many of them.

    Parameters
    ----------
    inner
        Where stretches are loops themselves (the tiles of a persistent CTA), their iterations may be cut in place of them.
    """
    cutting = [warp for warp in warps if warp.period is not None]
    if len({warp.period.times for warp in cutting if warp.period is not None}) != 1:
        return warps
    choices = [[warp.period for warp in cutting if warp.period is not None]]
    if inner:
        found = [_within(warp.keys, period) for warp, period in zip(cutting, choices[0], strict=True)]
        choices += [[period for period in found if period is not None]] if None not in found else []
    best, least = choices[0], math.inf
    for periods in choices:
        runs = [runs_alike(warp.keys, period) for warp, period in zip(cutting, periods, strict=True)]
        alike = len({len(mine) for mine in runs}) == 1
        times = min(n for mine in runs for _, n in mine) if alike else periods[0].times
        made = [replace(period, times=min(times, period.times), again=tuple(at for at, _ in mine if at != period.first) if alike else ())
                for period, mine in zip(periods, runs, strict=True)]
        left = sum(len(warp.steps) - (1 + len(p.again)) * (p.times - KEPT / p.iterations) * p.length
                   for warp, p in zip(cutting, made, strict=True))
        if left < least and len({p.times for p in made}) == 1:
            best, least = made, left
    cut = iter(best)
    return tuple(replace(warp, period=next(cut)) if warp.period is not None else warp for warp in warps)


def _within(keys: np.ndarray, period: Period) -> Period | None:
    """The longest run of equal stretches in one stretch of a period."""
    found = find_period(keys[period.first:period.first + period.length])
    return None if found is None else replace(found, first=found.first + period.first)
