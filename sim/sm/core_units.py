"""Behind issue: sub-core pipes, tensor queues, address units, the SM's banks and ports, and its share of L2 and DRAM.

Every unit is a queue that is served in order at a rate, and answers after a latency.
"""

from __future__ import annotations

import numpy as np

from .core_barriers import arrive, close_group, expect
from .core_state import (
    ADDRESS_INTERVAL,
    ASYNC_LAUNCH,
    ATOMICS,
    BANK_BUFFER,
    BULK_LATENCY,
    COPIES,
    DELAYS,
    DELIVERED,
    DRAM,
    DRAM_RATE,
    DRAM_SUM,
    DRAWN,
    DRIFT,
    FETCH_LATENCY,
    FP64,
    L1_SUM,
    L2,
    L2_RATE,
    L2_SUM,
    LINK,
    LINK_RATE,
    LONG,
    LSU,
    LSU_INTERVAL,
    N_DELAYS,
    OPERAND_READ,
    PORT,
    PORT_RATE,
    PORTS_LEFT,
    REFRESH,
    SFU,
    SHORT,
    SMEM,
    SMEM_SUM,
    STORES,
    TCGEN05,
    TCGEN_END,
    TENSOR_PIPE,
    TMA,
    WG_COUNT,
    WGMMA_LATENCY,
)
from .isa import (
    ASYNC_COPY,
    BULK_GROUP,
    BULK_LOAD,
    BULK_STORE,
    COPY_GROUP,
    LOAD,
    MATH,
    QUEUED,
    SHARED,
    STORE,
    SYNC_ARRIVE,
    SYNC_INIT,
    TCGEN,
    TCGEN_COMMIT,
    TENSOR_LOAD,
    WGMMA,
)


def execute(i, row, s, w, slot, now, phase, share, kind, pipe, interval, latency, write_barrier, read_barrier,  # type: ignore[no-untyped-def]
            first, second, smem, tags, l2_bytes, l1_passes, atomics, slice_bytes, dram_bytes, dram_time, link_bytes, dram_lines,
            load_latency, sync_slot, sync_value, warps, groups, group_count, wg_groups, wg_free, wg_load, mbarriers, pipe_free, read_free,
            address_free, queue, queue_count, free, busy, sums, numbers):
    """What issuing `i` does: clocks at which its result is there and its operands have been read, and what its user waits for."""
    kd = kind[i]
    p = pipe[i]
    operand_read = int(numbers[OPERAND_READ])
    begin = max(float(now), pipe_free[s, p])
    if p != 0 and kd != WGMMA:
        pipe_free[s, p] = begin + interval[i]
        busy[p] += interval[i]
    done = now + latency[i]
    read = now + operand_read
    reason = SHORT
    if kd == MATH:
        if first[i] > 0:
            read_free[s] = read_until(max(float(now), read_free[s]), first[i], wg_free[s])
        if p in (TENSOR_PIPE, SFU, FP64):
            done = np.int64(np.ceil(begin + interval[i])) + latency[i]
    elif kd in (SHARED, QUEUED):
        turn = max(float(now + 1), address_free[s])
        address_free[s] = turn + numbers[ADDRESS_INTERVAL]
        passes = 1.0
        if kd == SHARED:
            passes = smem[row] if row >= 0 else 0.0
        turn = enter(turn, s, numbers[LSU_INTERVAL], queue, queue_count, free, busy, numbers)
        read = np.int64(turn) + operand_read
        turn = max(turn, free[SMEM])
        free[SMEM] = turn + passes / left_by_products(turn, wg_free, wg_load)
        busy[SMEM] += passes
        sums[SMEM_SUM] += passes
        done = np.int64(np.ceil(turn + max(passes, 1.0))) - 1 + latency[i]
    elif LOAD <= kd <= ASYNC_COPY:
        turn = max(float(now + 1), address_free[s])
        address_free[s] = turn + numbers[ADDRESS_INTERVAL]
        read = np.int64(turn) + operand_read
        if row >= 0:
            turn = enter(turn, s, max(numbers[LSU_INTERVAL], tags[row]), queue, queue_count, free, busy, numbers)
            read = np.int64(turn) + operand_read
            data = l1_passes[row]
            turn = max(turn, free[SMEM])
            free[SMEM] = turn + data
            busy[SMEM] += data
            moved = l2_bytes[row]
            sums[L1_SUM] += data * 128.0
            come = turn
            if moved > 0.0:
                come, spread = beyond(turn, moved, atomics[row], row, phase, share, slice_bytes, dram_bytes, dram_time, link_bytes, free,
                                      busy, sums, numbers)
                come += refreshed(dram_lines[phase, row], spread, free, numbers)
            done = np.int64(np.ceil(come + load_latency[phase, row]))
            if kd == ASYNC_COPY:
                sums[SMEM_SUM] += smem[row]
                free[SMEM] += smem[row] / left_by_products(turn, wg_free, wg_load)
                busy[SMEM] += smem[row]
                warps[w, COPIES] = max(warps[w, COPIES], done)
            elif kd == STORE:
                warps[w, STORES] = max(warps[w, STORES], done)
        reason = LONG
    elif kd in (COPY_GROUP, BULK_GROUP):
        done = close_group(kd, w, now, write_barrier[i] if kd == COPY_GROUP else read_barrier[i], warps, groups, group_count)
        read = done
        reason = LONG
    elif kd == WGMMA:
        # an asynchronous matrix instruction: the tensor pipe in order, operands from shared memory
        passes = first[i] / 16.0
        takes = max(interval[i], 4.0 * passes)
        wg_free[s] = max(float(now), wg_free[s]) + takes
        wg_load[s] = passes / takes
        busy[SMEM] += passes
        sums[SMEM_SUM] += passes
        busy[TENSOR_PIPE] += interval[i]
        if second[i] == 1:
            wg_groups[w, warps[w, WG_COUNT] & 31] = np.int64(np.ceil(wg_free[s])) + int(numbers[WGMMA_LATENCY])
            warps[w, WG_COUNT] += 1
    elif kd in (BULK_LOAD, BULK_STORE):
        if row >= 0:
            turn = max(float(now), free[TMA])
            moved = l2_bytes[row]
            free[TMA] = turn + max(numbers[ASYNC_LAUNCH], moved / 128.0)
            busy[TMA] += max(numbers[ASYNC_LAUNCH], moved / 128.0)
            come, spread = beyond(turn, moved, 0.0, row, phase, share, slice_bytes, dram_bytes, dram_time, link_bytes, free, busy, sums,
                                  numbers)
            busy[SMEM] += smem[row]
            sums[SMEM_SUM] += smem[row]
            come += refreshed(dram_lines[phase, row], spread, free, numbers)
            done = np.int64(np.ceil(come + load_latency[phase, row] + numbers[BULK_LATENCY]))
            read = np.int64(turn) + operand_read
            if kd == BULK_STORE:
                warps[w, STORES] = max(warps[w, STORES], done)
            elif sync_slot[row] >= 0:
                arrive(slot, sync_slot[row], 0, -sync_value[row], done, mbarriers)
    elif kd == SYNC_INIT and row >= 0 and sync_slot[row] >= 0:
        expect(slot, sync_slot[row], sync_value[row], mbarriers)
    elif kd == SYNC_ARRIVE and row >= 0 and sync_slot[row] >= 0:
        arrive(slot, sync_slot[row], 1, sync_value[row], now + operand_read, mbarriers)
    elif kd == TCGEN:
        # tcgen05.mma: one queue an SM, in order
        if row >= 0:
            turn = max(float(now + latency[i]), free[TCGEN05])
            free[TCGEN05] = turn + max(l1_passes[row], smem[row])
            busy[TCGEN05] += l1_passes[row]
            busy[SMEM] += smem[row]
            sums[SMEM_SUM] += smem[row]
            free[TCGEN_END] = free[TCGEN05] + numbers[WGMMA_LATENCY]
    elif kd == TCGEN_COMMIT and row >= 0 and sync_slot[row] >= 0:
        at = np.int64(np.ceil(max(free[TCGEN_END], float(now)))) + operand_read
        arrive(slot, sync_slot[row], 1, 0, at, mbarriers)
    elif kd == TENSOR_LOAD:
        done = np.int64(np.ceil(begin + first[i] / 16.0)) + latency[i]
        pipe_free[s, p] = begin + first[i] / 16.0
    return done, read, reason


def read_until(start, clocks, products_end):  # type: ignore[no-untyped-def]
    """When registers have been read that take the ports for some clocks, of which products leave a share until they end."""
    beside = max(products_end - start, 0.0) * PORTS_LEFT
    return start + (clocks / PORTS_LEFT if clocks <= beside else beside / PORTS_LEFT + clocks - beside)


def enter(turn, s, takes, queue, queue_count, free, busy, numbers):  # type: ignore[no-untyped-def]
    """Pass the SM's load/store unit, where the sub-core's queue is left once the banks take more work; when."""
    turn = max(turn, free[LSU])
    free[LSU] = turn + takes
    busy[LSU] += takes
    queue[s, queue_count[s] & 63] = np.int64(max(turn, free[SMEM] - numbers[BANK_BUFFER])) + 1
    queue_count[s] += 1
    return turn


def left_by_products(turn, wg_free, wg_load):  # type: ignore[no-untyped-def]
    """Share of the banks' time that asynchronous matrix instructions leave."""
    taken = 0.0
    for k in range(4):
        if wg_free[k] > turn:
            taken += wg_load[k]
    return 1.0 - min(taken, 0.9)


def refreshed(lines, spread, free, numbers):  # type: ignore[no-untyped-def]
    """Clocks from the end of a transfer to the last of its lines that waits for DRAM to be refreshed; lines come spread over so many."""
    if lines <= 0.0 or numbers[REFRESH] <= 0.0:
        return 0.0
    drawn = int(free[DRAWN])
    free[DRAWN] = 0.0 if drawn + 1 == N_DELAYS else float(drawn + 1)
    spread /= numbers[REFRESH]
    short = numbers[DELAYS + drawn] / lines
    short = short + spread / 2.0 if short > spread / 2.0 else np.sqrt(2.0 * spread * short)
    return max(0.0, 1.0 - short) * numbers[REFRESH]


def beyond(turn, moved, hot, row, phase, share, slice_bytes, dram_bytes, dram_time, link_bytes, free, busy,  # type: ignore[no-untyped-def]
           sums, numbers):
    """Clock at which bytes have come through the SM's port, its share of L2's bandwidth, and of DRAM's; and for how long they came.

    What L2 serves to several SMs with one read still arrives at each: its slices and the SMs' ports are queues of their own.

    SMs start alike and ask together, but DRAM serves one after another: they drift apart by as long as it has served them so far. While
    some of them compute, others have what these leave of DRAM; so each can make up for that much of the time for which it asked
    nothing. Where loops are cut, these lie closer together than they do: of what is longer than a round trip to DRAM (about twice that of
    a hit in L2), which leaves room between iterations, `DRIFT` counts.
    """
    arrives = moved / min(numbers[PORT_RATE], numbers[DELIVERED] * share)
    free[PORT] = max(free[PORT], turn) + arrives
    busy[PORT] += arrives
    served = slice_bytes[phase, row] / (numbers[L2_RATE] * share)
    free[L2] = max(free[L2], turn) + served
    busy[L2] += served
    come = max(free[PORT], free[L2])
    spread = max(arrives, served)
    sums[L2_SUM] += moved
    far = dram_bytes[phase, row]
    if far > 0.0:
        takes = dram_time[phase, row] / (numbers[DRAM_RATE] * share)
        if turn > free[DRAM]:
            idle = turn - free[DRAM]
            short = min(idle, 2.0 * numbers[FETCH_LATENCY])
            free[DRAM] = turn - min(busy[DRAM], short + (idle - short) * numbers[DRIFT])
        free[DRAM] += takes
        sums[DRAM_SUM] += far
        come = max(come, free[DRAM])
        spread = max(spread, takes)
        busy[DRAM] += takes
    across = link_bytes[phase, row]
    if across > 0.0:
        takes = across / (numbers[LINK_RATE] * share)
        free[LINK] = max(free[LINK], turn) + takes
        come = max(come, free[LINK])
        spread = max(spread, takes)
        busy[LINK] += takes
    if hot > 0.0:
        free[ATOMICS] = max(free[ATOMICS], turn) + hot / share
        come = max(come, free[ATOMICS])
        busy[ATOMICS] += hot / share
    return come, min(spread, come - turn)
