# ruff: noqa: PLR1730  (plain comparisons are what can be compiled)
"""One SM, warp-instruction by warp-instruction.

The machine
-----------
Four sub-cores issue at most one warp-instruction a clock each. A warp may issue its next instruction when the stall count of the one
before has passed, every scoreboard that its control word names has been released, the pipe that it needs takes one, and, for memory
instructions, the sub-core's queue has room. Among the warps that may, the scheduler takes the one that has waited longest (loose round
robin); the warp of the last issue comes last if its control word yields.

Everything behind issue is a queue that is served in order, at a rate, and answers after a latency: the sub-core's pipes and address unit;
the SM's load/store unit, shared-memory banks, TMA, and its share of L2 and DRAM. So the clock at which a result arrives is known at issue,
and a warp's next issue too, except where it waits for others (CTA barriers, mbarriers). cp.async and bulk stores complete by groups in
order; wgmma goes through the sub-core's tensor pipe asynchronously and in order.

Its jobs lie in files of their own: `core_issue` (which warp issues, and when its next instruction may), `core_units` (what issuing does
behind issue) and `core_barriers` (where warps wait for one another); `core_state` names the columns of their tables.

The functions are compiled by `native` and run as plain Python too, some hundred times slower; the results are equal.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any, Final

import numpy as np

from ...native import Native
from .core_barriers import complete, leave, meet
from .core_issue import account, choose, fetched, go_on, note_span, note_work
from .core_state import (
    ATOMICS,
    BOARD_REASON,
    BY_BOARD,
    BY_OTHER,
    BY_PIPE,
    BY_STALL,
    COPIES,
    CTA,
    CTA_LAUNCH,
    DEADLOCK,
    DONE,
    DRAM_SUM,
    DRAWN,
    END,
    FAR,
    FETCH,
    FIRST_DRAW,
    ISSUED,
    L1_SUM,
    L2,
    L2_SUM,
    LINK,
    LONG,
    N_BARRIERS,
    N_BOARDS,
    N_FREE,
    N_GROUPS,
    N_MBARRIERS,
    N_PIPES,
    NUMBERS,
    OTHER_REASON,
    PORT,
    POSITION,
    READY,
    REASONS,
    SELECTED,
    SHORT,
    SMEM_SUM,
    STORES,
    WARP_COLUMNS,
    WG_COUNT,
)
from .core_units import execute
from .isa import ARRIVE, BARRIER, BULK_GROUP, BULK_LOAD, COPY_GROUP, SYNC_ARRIVE, TCGEN_COMMIT


def run_sm(code, access, stream_start, stream_length,  # type: ignore[no-untyped-def]
           kind, pipe, interval, latency, stall, yields, write_barrier, read_barrier, wait_mask, first, second, code_line,
           smem, tags, l2_bytes, l1_passes, atomics, slice_bytes, dram_bytes, dram_time, link_bytes, dram_lines, load_latency, sync_slot,
           sync_value, template_stream, cta_template, cta_phase, cta_share, slots,
           numbers, end_times, first_issue, busy, stalls, spans):
    """Issue every warp-instruction of some CTAs on one SM.

    Parameters
    ----------
    code, access
        int32, all streams behind one another: instruction index, and row of the access table or -1.
    stream_start, stream_length
        int64 by stream.
    kind ... second
        `isa.IsaTable`; `code_line` the 128-byte line of code.
    smem, tags, l2_bytes, l1_passes, atomics
        float64 by access row, for one warp: clocks of the banks, of the tag stage, bytes to or from L2, clocks of data, and of the few
        slices of L2 that serve its atomics, where those of all SMs queue.
    slice_bytes, dram_bytes, dram_time, link_bytes, dram_lines, load_latency
        float64 of shape (phases, rows): bytes that L2's slices serve (what SMs ask for together counts once), bytes of DRAM, those that it
        could move meanwhile, bytes between L2's partitions, lines that wait for DRAM, and issue to result without queueing.
    sync_slot, sync_value
        int64 by access row: mbarrier of the CTA and arrival count, bytes or parity.
    template_stream
        int64 (templates, warps): stream of each warp.
    cta_template, cta_phase, cta_share
        By CTA in order of launch: template, phase of the memory system, and the factor by which the SM's share of L2 and DRAM is larger.
    slots
        CTAs resident at once.
    numbers
        float64 parameters, see `parameters`.
    end_times, first_issue
        int64 by CTA, filled.
    busy
        float64 by pipe and unit, filled.
    stalls
        float64 (instructions, reasons), filled.
    spans
        int64 (n, 4): CTA, warp, start, end of stretches of work, filled up to its length; its first row counts.

    Returns
    -------
    (status, last clock, issued warp-instructions, bytes of L2, bytes of DRAM, smem passes, L1 bytes)
    """
    ctas = cta_template.shape[0]
    warps_per_cta = template_stream.shape[1]
    total_warps = slots * warps_per_cta
    n_lines = 1
    for k in range(code_line.shape[0]):
        n_lines = max(n_lines, code_line[k] + 1)

    warps = np.full((total_warps, WARP_COLUMNS), -1, np.int64)
    boards = np.zeros((total_warps, N_BOARDS), np.int64)
    board_kind = np.zeros((total_warps, N_BOARDS), np.int64)
    groups = np.zeros((total_warps, N_BOARDS, N_GROUPS), np.int64)
    group_count = np.zeros((total_warps, N_BOARDS), np.int64)
    wg_groups = np.zeros((total_warps, N_GROUPS), np.int64)
    wg_free = np.zeros(4)
    wg_load = np.zeros(4)
    pipe_free = np.zeros((4, N_PIPES))
    read_free = np.zeros(4)
    address_free = np.zeros(4)
    queue = np.zeros((4, 64), np.int64)
    queue_count = np.zeros(4, np.int64)
    free = np.zeros(N_FREE)
    free[DRAWN] = numbers[FIRST_DRAW]
    sums = np.zeros(4)
    line_ready = np.full(n_lines, -1, np.int64)
    slot_left = np.zeros(slots, np.int64)
    arrived = np.zeros((slots, N_BARRIERS), np.int64)
    mbarriers = np.zeros((slots, N_MBARRIERS, 6), np.int64)
    sub_next = np.zeros(4, np.int64)
    last = np.full(4, -1, np.int64)
    starts = np.full(slots, -1, np.int64)  # clock at which a slot takes its next CTA
    for slot in range(min(slots, ctas)):
        starts[slot] = 0
    for w in range(total_warps):
        warps[w, READY] = FAR
    launched = 0
    alive = 0
    issued = 0
    final = np.int64(0)
    span_count = 0

    while True:
        for slot in range(slots):
            if starts[slot] >= 0 and launched < ctas:
                start = starts[slot]
                starts[slot] = -1
                first_issue[launched] = start
                slot_left[slot] = warps_per_cta
                alive += warps_per_cta
                for b in range(N_BARRIERS):
                    arrived[slot, b] = 0
                for b in range(N_MBARRIERS):
                    mbarriers[slot, b, :] = 0
                for k in range(warps_per_cta):
                    w = slot * warps_per_cta + k
                    stream = template_stream[cta_template[launched], k]
                    begin_warp(w, launched, start, stream_start[stream], stream_length[stream], warps, boards, group_count)
                    there = fetched(code_line[code[warps[w, POSITION]]], start, True, line_ready, free, numbers)
                    if there > start:
                        warps[w, READY] = there
                        warps[w, BY_OTHER] = there
                        warps[w, OTHER_REASON] = FETCH
                    s = w & 3
                    if warps[w, READY] < sub_next[s]:
                        sub_next[s] = warps[w, READY]
                launched += 1
        if alive == 0:
            break
        s = 0
        now = sub_next[0]
        for k in range(1, 4):
            if sub_next[k] < now:
                now = sub_next[k]
                s = k
        if now >= FAR:
            return DEADLOCK, final, issued, sums[L2_SUM], sums[DRAM_SUM], sums[SMEM_SUM], sums[L1_SUM]
        w, later = choose(s, now, last[s], warps, code, kind, pipe, interval, first, pipe_free, read_free, queue,
                          queue_count, wg_free, numbers)
        sub_next[s] = later
        if w < 0:
            continue
        at = warps[w, POSITION]
        i = code[at]
        row = access[at]
        kd = kind[i]
        issued += 1
        last[s] = w if yields[i] else -1
        slot = w // warps_per_cta
        cta = warps[w, CTA]
        account(i, w, now, warps, stalls)
        span_count = note_work(w, now, span_count, warps, spans)
        done, read, reason = execute(
            i, row, s, w, slot, now, cta_phase[cta], cta_share[cta], kind, pipe, interval, latency, write_barrier, read_barrier, first,
            second, smem, tags, l2_bytes, l1_passes, atomics, slice_bytes, dram_bytes, dram_time, link_bytes, dram_lines, load_latency,
            sync_slot, sync_value, warps, groups, group_count, wg_groups, wg_free, wg_load, mbarriers, pipe_free, read_free, address_free,
            queue, queue_count, free, busy, sums, numbers)
        if kd in (BULK_LOAD, SYNC_ARRIVE, TCGEN_COMMIT) and row >= 0 and sync_slot[row] >= 0:
            complete(slot, sync_slot[row], now, warps_per_cta, warps, mbarriers, sub_next, numbers)
        b = write_barrier[i]
        if b >= 0 and kd != COPY_GROUP:
            if done > boards[w, b]:
                boards[w, b] = done
                board_kind[w, b] = reason
        elif b >= 0:
            boards[w, b] = done
            board_kind[w, b] = LONG
        b = read_barrier[i]
        if b >= 0 and read > boards[w, b]:
            boards[w, b] = read
            board_kind[w, b] = SHORT if kd != BULK_GROUP else LONG

        warps[w, ISSUED] = now
        warps[w, POSITION] = at + 1
        if at + 1 < warps[w, END]:
            go_on(w, slot, now, i, code[at + 1], access[at + 1], warps, kind, latency, stall, wait_mask, first, second, code_line, boards,
                  board_kind, groups, group_count, wg_groups, mbarriers, sync_slot, sync_value, line_ready, free, numbers)
            if kd in (BARRIER, ARRIVE):
                meet(kd, w, slot, now, first[i], second[i], slot_left[slot], warps_per_cta, warps, arrived, sub_next, numbers)
            if warps[w, READY] < sub_next[s]:
                sub_next[s] = max(warps[w, READY], now + 1)
            continue
        # the warp's end
        if span_count < spans.shape[0] - 1:
            span_count += 1
            note_span(span_count, w, now + 1, warps, spans)
        warps[w, READY] = FAR
        warps[w, CTA] = -1
        alive -= 1
        slot_left[slot] -= 1
        final = max(final, now + 1)
        if slot_left[slot] == 0:
            end_times[cta] = now + 1
            if launched < ctas:
                starts[slot] = now + 1 + int(numbers[CTA_LAUNCH])
        else:
            leave(slot, now, slot_left[slot], warps_per_cta, warps, arrived, sub_next, numbers)
    final = max(final, np.int64(np.ceil(max(free[L2], free[PORT], free[LINK], free[ATOMICS]))))
    if spans.shape[0] > 1:
        spans[0, 0] = span_count
    return DONE, final, issued, sums[L2_SUM], sums[DRAM_SUM], sums[SMEM_SUM], sums[L1_SUM]


def begin_warp(w, cta, start, stream_start, stream_length, warps, boards, group_count):  # type: ignore[no-untyped-def]
    """A warp of a CTA that starts at a clock."""
    warps[w, :] = -1
    warps[w, CTA] = cta
    warps[w, POSITION] = stream_start
    warps[w, END] = stream_start + stream_length
    warps[w, READY] = start
    warps[w, ISSUED] = start - 1
    warps[w, BY_STALL] = start
    warps[w, BY_BOARD] = start
    warps[w, BY_OTHER] = start
    warps[w, BY_PIPE] = 0
    warps[w, COPIES] = 0
    warps[w, STORES] = 0
    warps[w, WG_COUNT] = 0
    warps[w, OTHER_REASON] = 0
    warps[w, BOARD_REASON] = 0
    for b in range(N_BOARDS):
        boards[w, b] = 0
        group_count[w, b] = 0
    return 0


_AT = inspect.getfullargspec(run_sm).args.index("numbers")


#: `run_sm` as machine code.
machine: Final = Native(run_sm, usual={
    ("i4", 1): "code access", ("i8", 2): "template_stream spans", "i": "slots",
    ("f8", 1): "interval smem tags l2_bytes l1_passes atomics cta_share numbers busy",
    ("f8", 2): "slice_bytes dram_bytes dram_time link_bytes dram_lines load_latency stalls"})


@lru_cache(maxsize=1)
def compiled_core() -> Any:
    """`machine`, which refuses parameters of another number: it would read beyond."""

    def run(*arguments: Any) -> Any:
        if arguments[_AT].shape != (NUMBERS,):
            raise ValueError(f"numbers: {arguments[_AT].shape} given, {(NUMBERS,)} wanted")
        return machine(*arguments)

    return run


__all__ = ["DEADLOCK", "DONE", "NUMBERS", "REASONS", "SELECTED", "compiled_core", "run_sm"]
