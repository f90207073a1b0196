# ruff: noqa: PLR1730, SIM102  (plain comparisons are what can be compiled)
"""The schedulers of one SM: which warp issues, why it came no sooner, and when its next instruction may."""

from __future__ import annotations

import numpy as np

from .core_state import (
    AT_MBARRIER,
    BOARD_REASON,
    BUBBLE,
    BY_BOARD,
    BY_OTHER,
    BY_PIPE,
    BY_STALL,
    CODE,
    CTA,
    DISPATCH,
    FAR,
    FETCH,
    FETCH_INTERVAL,
    FETCH_LATENCY,
    ISSUED,
    LG_THROTTLE,
    LONG,
    MATH_THROTTLE,
    MB_DONE,
    MB_PHASE,
    MBARRIER_AT,
    MEMBAR,
    MEMORY,
    MIO_THROTTLE,
    NOT_SELECTED,
    OTHER_REASON,
    PARITY,
    PIPE_REASON,
    POSITION,
    QUEUE_DEPTH,
    READ_WINDOW,
    READY,
    SELECTED,
    SHORT,
    SINCE,
    TENSOR,
    TENSOR_AHEAD,
    TENSOR_PIPE,
    WAIT,
    WG_COUNT,
    WGMMA_DEPTH,
)
from .isa import ASYNC_COPY, FENCE, LOAD, MATH, SYNC_WAIT, WAIT_GROUP, WAIT_WGMMA, WGMMA


def choose(s, now, last, warps, code, kind, pipe, interval, first, pipe_free, read_free, queue, queue_count, wg_free,  # type: ignore[no-untyped-def]
           numbers):
    """The warp that sub-core `s` issues, or -1, and the first clock at which another may, at the soonest."""
    depth = int(numbers[QUEUE_DEPTH])
    best = -1
    best_rank = FAR
    later = FAR
    for w in range(s, warps.shape[0], 4):
        t = warps[w, READY]
        if t > now:
            if t < later:
                later = t
            continue
        i = code[warps[w, POSITION]]
        p = pipe[i]
        free = np.int64(np.ceil(pipe_free[s, p] - (numbers[TENSOR_AHEAD] * interval[i] if p == TENSOR_PIPE else 0.0)))
        why = MATH_THROTTLE
        if p == MEMORY:
            count = queue_count[s]
            if count >= depth:
                leaves = queue[s, (count - depth) & 63]
                if leaves > free:
                    free = leaves
                    why = LG_THROTTLE if LOAD <= kind[i] <= ASYNC_COPY else MIO_THROTTLE
        if kind[i] == MATH and first[i] > 0:
            ports = np.int64(np.ceil(read_free[s] - max(READ_WINDOW - first[i], 0)))
            if ports > free:
                free = ports
                why = DISPATCH
        if kind[i] == WGMMA:
            room = np.int64(np.ceil(wg_free[s] - numbers[WGMMA_DEPTH] * interval[i]))
            free = max(free, room)
        if free > now:
            warps[w, BY_PIPE] = free
            warps[w, PIPE_REASON] = why
            if free < later:
                later = free
            continue
        rank = warps[w, ISSUED] if w != last else now
        if best >= 0:
            later = now + 1
        if best < 0 or rank < best_rank:
            best = w
            best_rank = rank
    return best, later


def account(i, w, now, warps, stalls):  # type: ignore[no-untyped-def]
    """Enter into the stall table why a warp came no sooner."""
    c = warps[w, ISSUED] + 1
    x = min(warps[w, BY_STALL], now)
    if x > c:
        stalls[i, WAIT] += x - c
        c = x
    x = min(warps[w, BY_BOARD], now)
    if x > c:
        stalls[i, warps[w, BOARD_REASON]] += x - c
        c = x
    x = min(warps[w, BY_OTHER], now)
    if x > c:
        stalls[i, warps[w, OTHER_REASON]] += x - c
        c = x
    x = min(warps[w, BY_PIPE], now)
    if x > c:
        stalls[i, warps[w, PIPE_REASON]] += x - c
        c = x
    if now > c:
        stalls[i, NOT_SELECTED] += now - c
    stalls[i, SELECTED] += 1
    return 0


def note_work(w, now, count, warps, spans):  # type: ignore[no-untyped-def]
    """Begin a warp's stretch of work, and enter the one before if a pause of over 64 clocks ended it; how many there are."""
    most = spans.shape[0] - 1
    if most > 0 and now - warps[w, ISSUED] > 64:
        if count < most and warps[w, SINCE] >= 0:
            count += 1
            note_span(count, w, warps[w, ISSUED] + 1, warps, spans)
        warps[w, SINCE] = now
    if warps[w, SINCE] < 0:
        warps[w, SINCE] = now
    return count


def note_span(number, w, end, warps, spans):  # type: ignore[no-untyped-def]
    """Enter a stretch of work."""
    spans[number, 0] = warps[w, CTA]
    spans[number, 1] = w
    spans[number, 2] = warps[w, SINCE]
    spans[number, 3] = end
    return 0


def fetched(line, now, jump, line_ready, free, numbers):  # type: ignore[no-untyped-def]
    """Clock at which a line of code is there; what is fetched out of order waits for L2."""
    if line_ready[line] < 0:
        free[CODE] = max(free[CODE], float(now)) + numbers[FETCH_INTERVAL]
        line_ready[line] = np.int64(free[CODE] + (numbers[FETCH_LATENCY] if jump else 0.0))
    return line_ready[line]


def go_on(w, slot, now, i, j, row, warps, kind, latency, stall, wait_mask, first, second, code_line,  # type: ignore[no-untyped-def]
          boards, board_kind, groups, group_count, wg_groups, mbarriers, sync_slot, sync_value, line_ready, free, numbers):
    """Set when a warp that has issued `i` may issue its next instruction `j` (with access row `row`)."""
    t = now + stall[i]
    warps[w, BY_STALL] = t
    tb = np.int64(0)
    why = SHORT
    mask = wait_mask[j]
    b = 0
    while mask:
        if mask & 1 and boards[w, b] > tb:
            tb = boards[w, b]
            why = board_kind[w, b]
        mask >>= 1
        b += 1
    kj = kind[j]
    if kj == WAIT_GROUP:
        b = first[j]
        count = group_count[w, b] - 1 - second[j]
        if group_count[w, b] > 0:
            if count >= 0 and groups[w, b, count & 31] > tb:
                tb = groups[w, b, count & 31]
                why = LONG
        elif boards[w, b] > tb:
            tb = boards[w, b]
            why = board_kind[w, b]
    elif kj == WAIT_WGMMA:
        count = warps[w, WG_COUNT] - 1 - second[j]
        if count >= 0 and wg_groups[w, count & 31] > tb:
            tb = wg_groups[w, count & 31]
            why = TENSOR
    warps[w, BY_BOARD] = tb
    warps[w, BOARD_REASON] = why
    warps[w, BY_OTHER] = 0
    r = max(t, tb)
    if j != i + 1:
        r = max(r, t + int(numbers[BUBBLE]))
        warps[w, BY_OTHER] = r
        warps[w, OTHER_REASON] = FETCH
    there = fetched(code_line[j], now, j != i + 1, line_ready, free, numbers)
    if there > r:
        r = there
        warps[w, BY_OTHER] = r
        warps[w, OTHER_REASON] = FETCH
    if kind[i] == FENCE:
        if r < now + latency[i]:
            r = now + latency[i]
            warps[w, BY_OTHER] = r
            warps[w, OTHER_REASON] = MEMBAR
    if kj == SYNC_WAIT and row >= 0 and sync_slot[row] >= 0:
        m = sync_slot[row]
        parity = sync_value[row] & 1
        if (mbarriers[slot, m, MB_PHASE] & 1) != parity:
            if mbarriers[slot, m, MB_DONE] > r:
                r = mbarriers[slot, m, MB_DONE]
                warps[w, BY_OTHER] = r
                warps[w, OTHER_REASON] = AT_MBARRIER
        else:
            warps[w, MBARRIER_AT] = m
            warps[w, PARITY] = parity
            r = np.int64(FAR)
    warps[w, READY] = r
    return 0
