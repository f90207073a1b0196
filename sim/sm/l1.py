"""What L1 holds of what a CTA reads: its accesses one after another, those that a trace leaves out included."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...mapping.triton import Evaluation
from ...mapping.triton.access import LINE_BYTES, SECTOR_BYTES, in_l1
from ...mapping.triton.effects import Trace


def active_addresses(run: Evaluation, number: int, base: int) -> np.ndarray:
    """int64: addresses of a pattern's active threads at a base address."""
    pattern = run.patterns[number]
    offsets = np.zeros(run.lane_sets[pattern.lanes].count, dtype=np.uint64) if pattern.offsets is None else pattern.offsets
    at = (offsets + np.uint64(base)).astype(np.int64)
    return at if pattern.active is None else at[pattern.active]


def left_out(trace: Trace, step: np.ndarray, index: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """How often the trace leaves out further executions of each access, and how many bytes further on each is than the one before; None
    where it does not say."""
    again, move = np.zeros(len(step), dtype=np.int64), np.zeros(len(step), dtype=np.int64)
    for repeat in trace.repeats:
        here = np.flatnonzero((step >= repeat.first) & (step < repeat.end))
        before = np.flatnonzero((step >= 2 * repeat.first - repeat.end) & (step < repeat.first))
        if len(here) != len(before) or (index[here] != index[before]).any():
            return None
        again[here], move[here] = repeat.times, base[here] - base[before]
    return again, move


def l1_misses(run: Evaluation, l1_bytes: float) -> list[float]:
    """For each access, the share of its sectors that L1 does not hold (1 where it does not look there)."""
    program, trace = run.program, run.trace
    assert trace is not None
    code = program.listing.instructions
    share = [1.0] * len(trace.accesses)
    seen: dict[int, float] = {}
    relative: dict[tuple[int, int], np.ndarray] = {}
    total = 0.0
    looked = [n for n, access in enumerate(trace.accesses) if in_l1(program.memory_ops[access[1]], code[access[1]])]
    table = np.array([trace.accesses[n] for n in looked], dtype=np.int64).reshape(-1, 4)
    again, move = left_out(trace, table[:, 0] - 1, table[:, 1], table[:, 3]) or (np.zeros(len(looked), dtype=np.int64),) * 2
    ends = [repeat.end for repeat in trace.repeats]
    passed: list[int] = []  # accesses of the stretch at hand that the trace leaves out further executions of
    for place, n in enumerate(looked):
        step, index, number, base = trace.accesses[n]
        while ends and step > ends[0]:
            ends.pop(0)
            total = _seen_again(passed, looked, table, again, move, relative, share, seen, total)
            passed = []
        if again[place]:
            passed.append(place)
        op = program.memory_ops[index]
        key = (number, base % LINE_BYTES)
        if key not in relative:
            at = active_addresses(run, number, base)
            relative[key] = np.unique((at[:, None] + np.array([0, max(op.thread_bytes - 1, 0)])) // SECTOR_BYTES) - base // SECTOR_BYTES
        sectors = (relative[key] + base // SECTOR_BYTES).tolist()
        fresh = 0
        for sector in sectors:
            last = seen.get(sector)
            if last is None or total - last > l1_bytes:
                fresh += 1
            seen[sector] = total
        total += fresh * SECTOR_BYTES
        share[n] = round(fresh * SECTOR_BYTES / max(run.patterns[number].sectors * SECTOR_BYTES, 1), 4)
    return share


def _seen_again(passed: list[int], looked: list[int], table: np.ndarray, again: np.ndarray, move: np.ndarray,
                relative: Mapping[tuple[int, int], np.ndarray], share: list[float], seen: dict[int, float], total: float) -> float:
    """What L1 has seen behind executions that the trace leaves out: sectors as far on as each moves; the bytes that have passed by then."""
    for place in passed:
        times, base = int(again[place]), int(table[place, 3])
        sectors = relative[int(table[place, 2]), base % LINE_BYTES]
        start = (base + int(move[place]) * np.arange(1, times + 1)) // SECTOR_BYTES
        total += float(share[looked[place]] * len(sectors) * times * SECTOR_BYTES)
        if move[place]:
            seen.update(dict.fromkeys((start[:, None] + sectors).reshape(-1).tolist(), total))
    return total
