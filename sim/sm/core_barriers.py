"""Where warps of one CTA wait for one another, for copies and for products: barriers, mbarriers, groups."""

from __future__ import annotations

import numpy as np

from .core_state import (
    AT_BARRIER,
    AT_MBARRIER,
    BARRIER_AT,
    BARRIER_LATENCY,
    BY_BOARD,
    BY_OTHER,
    BY_STALL,
    COPIES,
    FAR,
    MB_ARRIVED,
    MB_BYTES,
    MB_DONE,
    MB_PHASE,
    MB_TIME,
    MB_WANTED,
    MBARRIER_AT,
    MBARRIER_LATENCY,
    N_BARRIERS,
    OTHER_REASON,
    PARITY,
    READY,
    STORES,
)
from .isa import BARRIER, COPY_GROUP


def close_group(kd, w, now, b, warps, groups, group_count):  # type: ignore[no-untyped-def]
    """Put what a warp has copied or stored so far into a group on scoreboard `b`; groups complete in order. When it is done."""
    done = warps[w, COPIES] if kd == COPY_GROUP else warps[w, STORES]
    done = max(done, now + 1)
    if b >= 0:
        count = group_count[w, b]
        if count > 0 and groups[w, b, (count - 1) & 31] > done:
            done = groups[w, b, (count - 1) & 31]
        groups[w, b, count & 31] = done
        group_count[w, b] = count + 1
    return done


def expect(slot, m, wanted, mbarriers):  # type: ignore[no-untyped-def]
    """Make an mbarrier."""
    mbarriers[slot, m, MB_WANTED] = wanted
    mbarriers[slot, m, MB_ARRIVED] = 0
    mbarriers[slot, m, MB_BYTES] = 0
    mbarriers[slot, m, MB_PHASE] = 0
    mbarriers[slot, m, MB_TIME] = 0
    return 0


def arrive(slot, m, arrivals, expected, at, mbarriers):  # type: ignore[no-untyped-def]
    """Arrivals at an mbarrier at a clock, with so many more bytes that it waits for."""
    mbarriers[slot, m, MB_ARRIVED] += arrivals
    mbarriers[slot, m, MB_BYTES] += expected
    mbarriers[slot, m, MB_TIME] = max(mbarriers[slot, m, MB_TIME], at)
    return 0


def complete(slot, m, now, warps_per_cta, warps, mbarriers, sub_next, numbers):  # type: ignore[no-untyped-def]
    """End an mbarrier's phase if all have arrived and all bytes are there, and let go who waits for that."""
    wanted = mbarriers[slot, m, MB_WANTED]
    if wanted > 0 and mbarriers[slot, m, MB_ARRIVED] >= wanted and mbarriers[slot, m, MB_BYTES] <= 0:
        mbarriers[slot, m, MB_PHASE] += 1
        mbarriers[slot, m, MB_ARRIVED] = 0
        mbarriers[slot, m, MB_BYTES] = 0
        mbarriers[slot, m, MB_DONE] = mbarriers[slot, m, MB_TIME] + int(numbers[MBARRIER_LATENCY])
        mbarriers[slot, m, MB_TIME] = 0
        for v in range(slot * warps_per_cta, (slot + 1) * warps_per_cta):
            if warps[v, MBARRIER_AT] == m and (mbarriers[slot, m, MB_PHASE] & 1) != warps[v, PARITY]:
                warps[v, MBARRIER_AT] = -1
                ready = max(mbarriers[slot, m, MB_DONE], warps[v, BY_STALL], warps[v, BY_BOARD], warps[v, BY_OTHER], now + 1)
                release(v, ready, AT_MBARRIER, warps[v, BARRIER_AT] >= 0, warps, sub_next)
    return 0


def release(w, ready, reason, held, warps, sub_next):  # type: ignore[no-untyped-def]
    """Let a waiting warp go on at a clock, unless it is also held by a barrier of the other kind: then that one will, no sooner."""
    warps[w, BY_OTHER] = ready
    warps[w, OTHER_REASON] = reason
    if not held:
        warps[w, READY] = ready
        sub_next[w & 3] = min(sub_next[w & 3], ready)
    return 0


def meet(kd, w, slot, now, b, wanted, left, warps_per_cta, warps, arrived, sub_next, numbers):  # type: ignore[no-untyped-def]
    """A warp comes to CTA barrier `b`, and waits there if it does more than arrive; `left` warps of the CTA are at work."""
    arrived[slot, b] += 1
    if kd == BARRIER:
        warps[w, BARRIER_AT] = b
        warps[w, READY] = FAR
    if arrived[slot, b] >= (wanted if wanted > 0 else left):
        open_barrier(slot, b, now, warps_per_cta, warps, arrived, sub_next, numbers)
    return 0


def leave(slot, now, left, warps_per_cta, warps, arrived, sub_next, numbers):  # type: ignore[no-untyped-def]
    """A warp of the CTA has ended: fewer to wait for at a barrier of all."""
    for b in range(N_BARRIERS):
        if arrived[slot, b] > 0 and arrived[slot, b] >= left:
            open_barrier(slot, b, now, warps_per_cta, warps, arrived, sub_next, numbers)
    return 0


def open_barrier(slot, b, now, warps_per_cta, warps, arrived, sub_next, numbers):  # type: ignore[no-untyped-def]
    """Let go the warps at a CTA barrier."""
    arrived[slot, b] = 0
    for v in range(slot * warps_per_cta, (slot + 1) * warps_per_cta):
        if warps[v, BARRIER_AT] == b:
            warps[v, BARRIER_AT] = -1
            ready = max(warps[v, BY_STALL], warps[v, BY_BOARD], warps[v, BY_OTHER], np.int64(now + int(numbers[BARRIER_LATENCY])))
            release(v, ready, AT_BARRIER, warps[v, MBARRIER_AT] >= 0, warps, sub_next)
    return 0
