# ruff: noqa: PLR1730, SIM102  (plain comparisons are what can be compiled)
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

The function is compiled by `native` and runs as plain Python too, some hundred times slower; the results are equal.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import numpy as np

from ...native import Native
from .isa import (
    ARRIVE,
    ASYNC_COPY,
    BARRIER,
    BULK_GROUP,
    BULK_LOAD,
    BULK_STORE,
    COPY_GROUP,
    FENCE,
    LOAD,
    MATH,
    PIPE,
    PIPES,
    QUEUED,
    SHARED,
    STORE,
    SYNC_ARRIVE,
    SYNC_INIT,
    SYNC_WAIT,
    TCGEN,
    TCGEN_COMMIT,
    TENSOR_LOAD,
    UNITS,
    WAIT_GROUP,
    WAIT_WGMMA,
    WGMMA,
)

#: Rows of the stall table.
(SELECTED, NOT_SELECTED, WAIT, LONG, SHORT, AT_BARRIER, AT_MBARRIER, TENSOR, MATH_THROTTLE, MIO_THROTTLE, LG_THROTTLE, FETCH,
 MEMBAR) = range(13)
REASONS = ("selected", "not selected", "wait", "long scoreboard", "short scoreboard", "barrier", "mbarrier", "tensor",
           "math pipe throttle", "mio throttle", "lg throttle", "branch", "membar")
FAR = 1 << 60
TENSOR_PIPE, MEMORY, SFU, FP64 = PIPE["tensor"], PIPE["memory"], PIPE["sfu"], PIPE["fp64"]
LSU, SMEM, L2, DRAM, TMA, TCGEN05, LINK, ATOMICS = range(len(PIPES), len(PIPES) + len(UNITS))
N_PIPES = len(PIPES)
DONE, DEADLOCK = 0, 1


def run_sm(code, access, stream_start, stream_length,  # type: ignore[no-untyped-def]
           kind, pipe, interval, latency, stall, yields, write_barrier, read_barrier, wait_mask, first, second, code_line,
           smem, tags, l2_bytes, l1_passes, atomics, slice_bytes, dram_bytes, link_bytes, load_latency, sync_slot, sync_value,
           template_stream, cta_template, cta_phase, cta_share, slots,
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
    slice_bytes, dram_bytes, link_bytes, load_latency
        float64 of shape (phases, rows): bytes that L2's slices serve (what SMs ask for together counts once), bytes of DRAM, bytes between
        L2's partitions, and issue to result without queueing.
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
    lsu_interval, address_interval, queue_depth = numbers[0], numbers[1], int(numbers[2])
    l2_rate, dram_rate, port_rate = numbers[3], numbers[4], numbers[5]
    operand_read, barrier_latency, bubble = int(numbers[6]), int(numbers[7]), int(numbers[8])
    fetch_interval, cta_launch = numbers[9], int(numbers[10])
    async_launch, bulk_latency, mbarrier_latency, wgmma_latency = numbers[11], numbers[12], int(numbers[13]), int(numbers[14])
    fetch_latency, wgmma_depth = numbers[15], numbers[16]
    tensor_ahead, bank_buffer, dram_access, link_rate = numbers[17], numbers[18], numbers[19], numbers[20]

    position = np.zeros(total_warps, np.int64)
    end = np.zeros(total_warps, np.int64)
    ready = np.full(total_warps, FAR, np.int64)
    issued_at = np.zeros(total_warps, np.int64)
    at_wait = np.zeros(total_warps, np.int64)
    at_board = np.zeros(total_warps, np.int64)
    board_reason = np.zeros(total_warps, np.int64)
    at_other = np.zeros(total_warps, np.int64)
    other_reason = np.zeros(total_warps, np.int64)
    throttled = np.zeros(total_warps, np.int64)
    throttle_reason = np.zeros(total_warps, np.int64)
    boards = np.zeros((total_warps, 6), np.int64)
    board_kind = np.zeros((total_warps, 6), np.int64)
    groups = np.zeros((total_warps, 6, 32), np.int64)
    group_count = np.zeros((total_warps, 6), np.int64)
    copies_done = np.zeros(total_warps, np.int64)
    stores_done = np.zeros(total_warps, np.int64)
    wg_free = np.zeros(4)
    wg_load = np.zeros(4)
    wg_groups = np.zeros((total_warps, 32), np.int64)
    wg_count = np.zeros(total_warps, np.int64)
    age = np.zeros(total_warps, np.int64)
    work_since = np.full(total_warps, -1, np.int64)
    cta_of = np.full(total_warps, -1, np.int64)

    pipe_free = np.zeros((4, N_PIPES))
    address_free = np.zeros(4)
    queue = np.zeros((4, 64), np.int64)
    queue_count = np.zeros(4, np.int64)
    lsu_free = 0.0
    smem_free = 0.0
    l2_free = 0.0
    dram_free = 0.0
    port_free = 0.0
    link_free = 0.0
    atomics_free = 0.0
    tma_free = 0.0
    tcgen_free = 0.0
    tcgen_done = 0.0
    line_ready = np.full(n_lines, -1, np.int64)
    fetch_free = 0.0

    slot_cta = np.full(slots, -1, np.int64)
    slot_left = np.zeros(slots, np.int64)
    arrived = np.zeros((slots, 16), np.int64)
    waits_at = np.full(total_warps, -1, np.int64)
    # mbarriers: wanted arrivals, arrivals so far, bytes outstanding, latest arrival, phases completed, time of the last completion
    mb_count = np.zeros((slots, 64), np.int64)
    mb_arrived = np.zeros((slots, 64), np.int64)
    mb_bytes = np.zeros((slots, 64), np.int64)
    mb_time = np.zeros((slots, 64), np.int64)
    mb_phase = np.zeros((slots, 64), np.int64)
    mb_done = np.zeros((slots, 64), np.int64)
    mb_wait = np.full(total_warps, -1, np.int64)
    mb_parity = np.zeros(total_warps, np.int64)

    sub_next = np.zeros(4, np.int64)
    last = np.full(4, -1, np.int64)
    alive = 0
    launched = 0
    now = np.int64(0)
    issued = 0
    l2_total = 0.0
    dram_total = 0.0
    smem_total = 0.0
    l1_total = 0.0
    final = np.int64(0)
    clock_age = 0
    span_count = 0
    max_spans = spans.shape[0] - 1

    # launch the first CTAs
    pending = np.full(slots, -1, np.int64)
    for slot in range(slots):
        if launched < ctas:
            pending[slot] = 0
            launched += 1
    launched = 0

    while True:
        # CTAs that start
        for slot in range(slots):
            if pending[slot] >= 0 and launched < ctas:
                start = pending[slot]
                pending[slot] = -1
                cta = launched
                launched += 1
                slot_cta[slot] = cta
                slot_left[slot] = warps_per_cta
                first_issue[cta] = start
                for b in range(16):
                    arrived[slot, b] = 0
                for b in range(64):
                    mb_count[slot, b] = 0
                    mb_arrived[slot, b] = 0
                    mb_bytes[slot, b] = 0
                    mb_time[slot, b] = 0
                    mb_phase[slot, b] = 0
                    mb_done[slot, b] = 0
                for k in range(warps_per_cta):
                    w = slot * warps_per_cta + k
                    stream = template_stream[cta_template[cta], k]
                    cta_of[w] = cta
                    position[w] = stream_start[stream]
                    end[w] = stream_start[stream] + stream_length[stream]
                    ready[w] = start
                    issued_at[w] = start - 1
                    at_wait[w] = start
                    at_board[w] = start
                    at_other[w] = start
                    throttled[w] = 0
                    copies_done[w] = 0
                    stores_done[w] = 0
                    wg_count[w] = 0
                    waits_at[w] = -1
                    mb_wait[w] = -1
                    for b in range(6):
                        boards[w, b] = 0
                        group_count[w, b] = 0
                    age[w] = clock_age
                    work_since[w] = -1
                    clock_age += 1
                    alive += 1
                    line = code_line[code[position[w]]]
                    if line_ready[line] < 0:
                        fetch_free = max(fetch_free, float(start)) + fetch_interval
                        line_ready[line] = int(fetch_free + fetch_latency)
                    if line_ready[line] > ready[w]:
                        ready[w] = line_ready[line]
                        at_other[w] = ready[w]
                        other_reason[w] = FETCH
                    s = w & 3
                    if ready[w] < sub_next[s]:
                        sub_next[s] = ready[w]
        if alive == 0:
            break
        s = 0
        now = sub_next[0]
        for k in range(1, 4):
            if sub_next[k] < now:
                now = sub_next[k]
                s = k
        if now >= FAR:
            return DEADLOCK, final, issued, l2_total, dram_total, smem_total, l1_total

        # the scheduler
        best = -1
        best_age = FAR
        later = FAR
        for w in range(s, total_warps, 4):
            t = ready[w]
            if t > now:
                if t < later:
                    later = t
                continue
            i = code[position[w]]
            p = pipe[i]
            free = np.int64(np.ceil(pipe_free[s, p] - (tensor_ahead * interval[i] if p == TENSOR_PIPE else 0.0)))
            why = MATH_THROTTLE
            if p == MEMORY:
                count = queue_count[s]
                if count >= queue_depth:
                    leaves = queue[s, (count - queue_depth) & 63]
                    if leaves > free:
                        free = leaves
                        why = LG_THROTTLE if LOAD <= kind[i] <= ASYNC_COPY else MIO_THROTTLE
            if kind[i] == WGMMA:
                room = np.int64(np.ceil(wg_free[s] - wgmma_depth * interval[i]))
                free = max(free, room)
            if free > now:
                throttled[w] = free
                throttle_reason[w] = why
                if free < later:
                    later = free
                continue
            rank = issued_at[w] if w != last[s] else now
            if best < 0 or rank < best_age:
                best = w
                best_age = rank
        if best < 0:
            sub_next[s] = later
            continue
        w = best
        at = position[w]
        i = code[at]
        row = access[at]
        kd = kind[i]
        issued += 1
        sub_next[s] = now + 1
        last[s] = w if yields[i] else -1
        slot = w // warps_per_cta
        cta = cta_of[w]
        phase = cta_phase[cta]
        share = cta_share[cta]

        # why it came no sooner
        c = issued_at[w] + 1
        x = min(at_wait[w], now)
        if x > c:
            stalls[i, WAIT] += x - c
            c = x
        x = min(at_board[w], now)
        if x > c:
            stalls[i, board_reason[w]] += x - c
            c = x
        x = min(at_other[w], now)
        if x > c:
            stalls[i, other_reason[w]] += x - c
            c = x
        x = min(throttled[w], now)
        if x > c:
            stalls[i, throttle_reason[w]] += x - c
            c = x
        if now > c:
            stalls[i, NOT_SELECTED] += now - c
        stalls[i, SELECTED] += 1
        if max_spans > 0 and now - issued_at[w] > 64:
            if span_count < max_spans and work_since[w] >= 0:
                span_count += 1
                spans[span_count, 0] = cta
                spans[span_count, 1] = w
                spans[span_count, 2] = work_since[w]
                spans[span_count, 3] = issued_at[w] + 1
            work_since[w] = now
        if work_since[w] < 0:
            work_since[w] = now

        # what it does
        p = pipe[i]
        begin = max(float(now), pipe_free[s, p])
        if p != 0 and kd != WGMMA:
            pipe_free[s, p] = begin + interval[i]
            busy[p] += interval[i]
        done = now + latency[i]
        read = now + operand_read
        reason = SHORT
        if kd == MATH:
            if p in (TENSOR_PIPE, SFU, FP64):
                done = np.int64(np.ceil(begin + interval[i])) + latency[i]
        elif kd in (SHARED, QUEUED):
            turn = max(float(now + 1), address_free[s])
            address_free[s] = turn + address_interval
            passes = 1.0
            if kd == SHARED:
                passes = smem[row] if row >= 0 else 0.0
            turn = max(turn, lsu_free)
            lsu_free = turn + lsu_interval
            busy[LSU] += lsu_interval
            read = np.int64(turn) + operand_read
            queue[s, queue_count[s] & 63] = np.int64(max(turn, smem_free - bank_buffer)) + 1
            queue_count[s] += 1
            turn = max(turn, smem_free)
            taken = 0.0
            for k in range(4):
                if wg_free[k] > turn:
                    taken += wg_load[k]
            smem_free = turn + passes / (1.0 - min(taken, 0.9))
            busy[SMEM] += passes
            smem_total += passes
            done = np.int64(np.ceil(turn + max(passes, 1.0))) - 1 + latency[i]
        elif LOAD <= kd <= ASYNC_COPY:
            turn = max(float(now + 1), address_free[s])
            address_free[s] = turn + address_interval
            read = np.int64(turn) + operand_read
            if row >= 0:
                turn = max(turn, lsu_free)
                lsu_free = turn + max(lsu_interval, tags[row])
                busy[LSU] += max(lsu_interval, tags[row])
                read = np.int64(turn) + operand_read
                queue[s, queue_count[s] & 63] = np.int64(max(turn, smem_free - bank_buffer)) + 1
                queue_count[s] += 1
                data = l1_passes[row]
                turn = max(turn, smem_free)
                smem_free = turn + data
                busy[SMEM] += data
                moved = l2_bytes[row]
                l1_total += data * 128.0
                come = turn
                if moved > 0.0:
                    # the SM's port, its share of the L2's bandwidth, and of the DRAM's
                    port_free = max(port_free, turn) + moved / port_rate
                    l2_free = max(l2_free, turn) + slice_bytes[phase, row] / (l2_rate * share)
                    come = max(port_free, l2_free)
                    l2_total += moved
                    far = dram_bytes[phase, row]
                    if far > 0.0:
                        # short rows take as long as the activation of theirs (lines are those of all that is asked for, what L1 held
                        # included); what is written L2 gathers into lines first
                        takes = far / (dram_rate * share)
                        if kd != STORE:
                            takes *= max(1.0, dram_access * tags[row] / max(moved, data * 128.0))
                        dram_free = max(dram_free, turn) + takes
                        dram_total += far
                        come = max(come, dram_free)
                        busy[DRAM] += takes
                    across = link_bytes[phase, row]
                    if across > 0.0:
                        link_free = max(link_free, turn) + across / (link_rate * share)
                        come = max(come, link_free)
                        busy[LINK] += across / (link_rate * share)
                    hot = atomics[row]
                    if hot > 0.0:
                        atomics_free = max(atomics_free, turn) + hot / share
                        come = max(come, atomics_free)
                        busy[ATOMICS] += hot / share
                    busy[L2] += slice_bytes[phase, row] / (l2_rate * share)
                done = np.int64(np.ceil(come + load_latency[phase, row]))
                if kd == ASYNC_COPY:
                    smem_total += smem[row]
                    taken = 0.0
                    for k in range(4):
                        if wg_free[k] > turn:
                            taken += wg_load[k]
                    smem_free += smem[row] / (1.0 - min(taken, 0.9))
                    busy[SMEM] += smem[row]
                    if done > copies_done[w]:
                        copies_done[w] = done
                elif kd == STORE:
                    if done > stores_done[w]:
                        stores_done[w] = done
            reason = LONG
        elif kd in (COPY_GROUP, BULK_GROUP):
            b = write_barrier[i] if kd == COPY_GROUP else read_barrier[i]
            done = copies_done[w] if kd == COPY_GROUP else stores_done[w]
            if done < now + 1:
                done = now + 1
            if b >= 0:
                count = group_count[w, b]
                if count > 0 and groups[w, b, (count - 1) & 31] > done:
                    done = groups[w, b, (count - 1) & 31]
                groups[w, b, count & 31] = done
                group_count[w, b] = count + 1
            read = done
            reason = LONG
        elif kd == WGMMA:
            # an asynchronous matrix instruction: the tensor pipe in order, operands from shared memory
            passes = first[i] / 16.0
            takes = max(interval[i], 4.0 * passes)
            wg_free[s] = max(float(now), wg_free[s]) + takes
            wg_load[s] = passes / takes
            busy[SMEM] += passes
            smem_total += passes
            busy[TENSOR_PIPE] += interval[i]
            if second[i] == 1:
                wg_groups[w, wg_count[w] & 31] = np.int64(np.ceil(wg_free[s])) + wgmma_latency
                wg_count[w] += 1
        elif kd in (BULK_LOAD, BULK_STORE):
            if row >= 0:
                turn = max(float(now), tma_free)
                moved = l2_bytes[row]
                tma_free = turn + max(async_launch, moved / 128.0)
                busy[TMA] += max(async_launch, moved / 128.0)
                port_free = max(port_free, turn) + moved / port_rate
                l2_free = max(l2_free, turn) + slice_bytes[phase, row] / (l2_rate * share)
                come = max(port_free, l2_free)
                l2_total += moved
                far = dram_bytes[phase, row]
                if far > 0.0:
                    dram_free = max(dram_free, turn) + far / (dram_rate * share)
                    dram_total += far
                    come = max(come, dram_free)
                    busy[DRAM] += far / (dram_rate * share)
                across = link_bytes[phase, row]
                if across > 0.0:
                    link_free = max(link_free, turn) + across / (link_rate * share)
                    come = max(come, link_free)
                    busy[LINK] += across / (link_rate * share)
                busy[L2] += slice_bytes[phase, row] / (l2_rate * share)
                busy[SMEM] += smem[row]
                smem_total += smem[row]
                done = np.int64(np.ceil(come + load_latency[phase, row] + bulk_latency))
                read = np.int64(turn) + operand_read
                if kd == BULK_STORE:
                    if done > stores_done[w]:
                        stores_done[w] = done
                elif sync_slot[row] >= 0:
                    m = sync_slot[row]
                    mb_bytes[slot, m] -= sync_value[row]
                    if done > mb_time[slot, m]:
                        mb_time[slot, m] = done
        elif kd == SYNC_INIT and row >= 0 and sync_slot[row] >= 0:
            m = sync_slot[row]
            mb_count[slot, m] = sync_value[row]
            mb_arrived[slot, m] = 0
            mb_bytes[slot, m] = 0
            mb_phase[slot, m] = 0
            mb_time[slot, m] = 0
        elif kd == SYNC_ARRIVE and row >= 0 and sync_slot[row] >= 0:
            m = sync_slot[row]
            mb_arrived[slot, m] += 1
            mb_bytes[slot, m] += sync_value[row]
            if now + operand_read > mb_time[slot, m]:
                mb_time[slot, m] = now + operand_read
        elif kd == TCGEN:
            # tcgen05.mma: one queue an SM, in order
            if row >= 0:
                turn = max(float(now + latency[i]), tcgen_free)
                length = max(l1_passes[row], smem[row])
                tcgen_free = turn + length
                busy[TCGEN05] += l1_passes[row]
                busy[SMEM] += smem[row]
                smem_total += smem[row]
                tcgen_done = tcgen_free + wgmma_latency
        elif kd == TCGEN_COMMIT and row >= 0 and sync_slot[row] >= 0:
            m = sync_slot[row]
            mb_arrived[slot, m] += 1
            d = np.int64(np.ceil(max(tcgen_done, float(now)))) + operand_read
            if d > mb_time[slot, m]:
                mb_time[slot, m] = d
        elif kd == TENSOR_LOAD:
            done = np.int64(np.ceil(begin + first[i] / 16.0)) + latency[i]
            pipe_free[s, p] = begin + first[i] / 16.0

        # a bulk load or an arrival may complete an mbarrier's phase
        if kd in (BULK_LOAD, SYNC_ARRIVE, TCGEN_COMMIT) and row >= 0 and sync_slot[row] >= 0:
            m = sync_slot[row]
            if mb_count[slot, m] > 0 and mb_arrived[slot, m] >= mb_count[slot, m] and mb_bytes[slot, m] <= 0:
                mb_phase[slot, m] += 1
                mb_arrived[slot, m] = 0
                mb_bytes[slot, m] = 0
                mb_done[slot, m] = mb_time[slot, m] + mbarrier_latency
                mb_time[slot, m] = 0
                for k in range(warps_per_cta):
                    v = slot * warps_per_cta + k
                    if mb_wait[v] == m and (mb_phase[slot, m] & 1) != mb_parity[v]:
                        mb_wait[v] = -1
                        ready[v] = max(mb_done[slot, m], at_wait[v], at_board[v], now + 1)
                        at_other[v] = ready[v]
                        other_reason[v] = AT_MBARRIER
                        if ready[v] < sub_next[v & 3]:
                            sub_next[v & 3] = ready[v]

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

        # the warp's next instruction
        issued_at[w] = now
        position[w] = at + 1
        if at + 1 >= end[w]:
            ready[w] = FAR
            cta_of[w] = -1
            alive -= 1
            slot_left[slot] -= 1
            if now + 1 > final:
                final = now + 1
            if span_count < max_spans:
                span_count += 1
                spans[span_count, 0] = cta
                spans[span_count, 1] = w
                spans[span_count, 2] = work_since[w]
                spans[span_count, 3] = now + 1
            if slot_left[slot] == 0:
                end_times[cta] = now + 1
                pending[slot] = now + 1 + cta_launch
                if launched >= ctas:
                    pending[slot] = -1
            else:
                # fewer warps to wait for at a barrier of all
                for b in range(16):
                    if arrived[slot, b] > 0 and arrived[slot, b] >= slot_left[slot]:
                        arrived[slot, b] = 0
                        for k in range(warps_per_cta):
                            v = slot * warps_per_cta + k
                            if waits_at[v] == b:
                                waits_at[v] = -1
                                ready[v] = max(at_wait[v], now + barrier_latency)
                                at_other[v] = ready[v]
                                other_reason[v] = AT_BARRIER
                                sub_next[v & 3] = min(sub_next[v & 3], ready[v])
            continue
        j = code[at + 1]
        t = now + stall[i]
        at_wait[w] = t
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
            count = wg_count[w] - 1 - second[j]
            if count >= 0 and wg_groups[w, count & 31] > tb:
                tb = wg_groups[w, count & 31]
                why = TENSOR
        at_board[w] = tb
        board_reason[w] = why
        at_other[w] = 0
        r = max(t, tb)
        if j != i + 1:
            r = max(r, t + bubble)
            at_other[w] = r
            other_reason[w] = FETCH
        line = code_line[j]
        if line_ready[line] < 0:
            fetch_free = max(fetch_free, float(now)) + fetch_interval
            jump = fetch_latency if j != i + 1 else 0.0
            line_ready[line] = np.int64(fetch_free + jump)
        if line_ready[line] > r:
            r = line_ready[line]
            at_other[w] = r
            other_reason[w] = FETCH
        if kd == FENCE:
            if r < now + latency[i]:
                r = now + latency[i]
                at_other[w] = r
                other_reason[w] = MEMBAR
        if kj == SYNC_WAIT and access[at + 1] >= 0 and sync_slot[access[at + 1]] >= 0:
            m = sync_slot[access[at + 1]]
            parity = sync_value[access[at + 1]] & 1
            if (mb_phase[slot, m] & 1) != parity:
                if mb_done[slot, m] > r:
                    r = mb_done[slot, m]
                    at_other[w] = r
                    other_reason[w] = AT_MBARRIER
                ready[w] = r
            else:
                mb_wait[w] = m
                mb_parity[w] = parity
                ready[w] = FAR
                at_wait[w] = r
        else:
            ready[w] = r
        if kd in (BARRIER, ARRIVE):
            b = first[i]
            arrived[slot, b] += 1
            wanted = second[i]
            if wanted == 0:
                wanted = slot_left[slot]
            if kd == BARRIER:
                waits_at[w] = b
                at_wait[w] = max(at_wait[w], ready[w]) if ready[w] < FAR else at_wait[w]
                ready[w] = FAR
            if arrived[slot, b] >= wanted:
                arrived[slot, b] = 0
                for k in range(warps_per_cta):
                    v = slot * warps_per_cta + k
                    if waits_at[v] == b:
                        waits_at[v] = -1
                        ready[v] = max(at_wait[v], now + barrier_latency)
                        at_other[v] = ready[v]
                        other_reason[v] = AT_BARRIER
                        sub_next[v & 3] = min(sub_next[v & 3], ready[v])
        if ready[w] < sub_next[s]:
            sub_next[s] = max(ready[w], now + 1)
    final = max(final, np.int64(np.ceil(max(l2_free, port_free, link_free, atomics_free))))
    if max_spans > 0:
        spans[0, 0] = span_count
    return DONE, final, issued, l2_total, dram_total, smem_total, l1_total


#: How many parameters the machine has.
NUMBERS = 21
_AT = inspect.getfullargspec(run_sm).args.index("numbers")


@lru_cache(maxsize=1)
def compiled_core() -> Any:
    """`run_sm` as machine code (see `native`); it refuses parameters of another number, which it would read beyond."""
    compiled = Native(run_sm)

    def run(*arguments: Any) -> Any:
        if arguments[_AT].shape != (NUMBERS,):
            raise ValueError(f"numbers: {arguments[_AT].shape} given, {(NUMBERS,)} wanted")
        return compiled(*arguments)

    return run
