# ruff: noqa: N803, PLR1714, SIM109  (plain comparisons are what can be compiled)
"""A CTA of which all threads are followed, with its shared memory; written as `warp_machine` is.

Threads tell one another integers through shared memory, shuffles, votes and reductions (a tile that is skipped where nothing of it counts;
row numbers that are gathered by). What each thread is told this way is written down in order. With that at hand `warp_machine` follows one
warp, or one lane, on its own.

Threads that stand at different places are taken lowest place first; at a barrier all wait for all. Warps that do not meet at the same
barriers (warp specialisation) end the run, as what `warp_machine` refuses does.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ...native import Native
from .cta_shared import KEPT, LOST, REFUSED, TWO, copied_in, in_shared
from .warp_alu import ONE, UNKNOWN, W32, W64, Z, alu, special_register
from .warp_control import (
    ASK_DATA,
    GUESSED,
    PART,
    TURN,
    decided,
    first_of,
    parted,
    put_lanes,
    sent,
    standing,
)
from .warp_exchange import shuffled, voted
from .warp_memory import in_local, loaded
from .warp_places import next_place
from .warp_records import (
    ACCESS,
    ALL,
    ANY,
    ARGUMENT,
    AT_BARRIER,
    AT_BRANCH,
    AT_EXIT,
    AT_INDIRECT,
    AT_JOIN,
    AT_RETURN,
    BALLOT,
    BULK,
    BY_IDX,
    COPIED,
    DONE,
    ELECT,
    ELECTED_LANE,
    ENOUGH,
    FIRST_LANE,
    FULL,
    IN_GLOBAL,
    IN_LOCAL,
    IN_RANGE,
    IN_SHARED,
    LOAD_,
    MATRIX,
    NOT_MODELLED,
    NOTHING,
    OF_AND,
    OF_ATOMICS,
    OF_MIN,
    OF_OR,
    OF_STORES,
    ON_DATA,
    ON_THREAD,
    ON_X,
    REDUCE,
    SHUFFLE,
    SPECIAL_,
    STORE_,
    SYNC,
    TOLD_TAINT,
    TOLD_UNKNOWN,
)
from .warp_rows import lane_operations, of_rows, row_operation, spread
from .warp_whole import in_a_row


def told_to(log, log_row, cursor, lane, value, dark, taint):  # type: ignore[no-untyped-def]
    """Write down a word that a thread is told; False where room is lacking."""
    row = log_row[lane]
    if row < 0:
        return True
    at = cursor[lane]
    if at >= log.shape[1]:
        return False
    log[row, at] = (value & W32) | (taint << TOLD_TAINT) | (TOLD_UNKNOWN if dark != Z else Z)
    cursor[lane] = at + 1
    return True


def run_cta(code, registers, begin, end, condition, ends, after, target, forced, where, V, U, S, T, K, ids, space, kind, size, rows, signed,  # type: ignore[no-untyped-def]
            buffers, data, most, local, trips, tells, smem, reserved, log_row, cursor,
            word, real, log, out):
    """Follow all threads of one CTA until nothing more is told.

    Parameters
    ----------
    code ... signed, buffers, data, local, trips, word, real
        As `warp_machine.run_warp` has them, a lane being a thread.
    most
        Segments of the first thread with a row of `log` after which it is enough.
    tells
        bool by segment: from here on something may be told.
    smem
        uint64 of shape (words, 3): value, unknown bits and what it depends on of each word of shared memory.
    reserved
        Words at its start that stay known.
    log_row, cursor
        By thread its row of `log` (-1: none), and how many words it was told.
    log
        Filled with what threads are told, in order: 32 bits, from bit `TOLD_TAINT` on what it depends on, and `TOLD_UNKNOWN`.
    out
        Filled with what control and the words that are told depend on, and the number of segments.

    Returns
    -------
    Why it ended.
    """
    n_lanes = V.shape[1]
    slots = V.shape[0] - 4
    place = np.zeros(n_lanes, np.int64)
    alive = np.ones(n_lanes, np.bool_)
    parked = np.zeros(n_lanes, np.bool_)
    waits = np.zeros(n_lanes, np.bool_)
    active = np.zeros(n_lanes, np.int64)
    part = np.zeros(32, np.int64)
    held = np.zeros(n_lanes, np.uint64)
    held_u = np.zeros(n_lanes, np.uint64)
    part_v = np.zeros(32, np.uint64)
    part_u = np.zeros(32, np.uint64)
    taints = np.zeros(n_lanes, np.uint64)
    depends = Z
    executed = 0
    steps = 0
    watched = 0
    for k in range(n_lanes - 1, -1, -1):
        if log_row[k] >= 0:
            watched = k
    count_alive = n_lanes
    together = True
    here = 0
    numbers = np.zeros(n_lanes, np.int64)
    for k in range(n_lanes):
        active[k] = k
        numbers[k] = k & 31
    n_active = n_lanes
    while count_alive > 0:
        if not together:
            here = next_place(place, alive, parked, waits)
            if here < 0:
                return NOT_MODELLED
            n_active = standing(here, place, alive, parked, active)
            together = n_active == count_alive
        whole = n_active == count_alive
        steps += 1
        if whole:
            executed += 1
        else:
            for k in range(n_active):
                if active[k] == watched:
                    executed += 1
        if not tells[here]:
            left = False
            for k in range(n_lanes):
                if alive[k] and (not together) and tells[place[k]]:
                    left = True
            if not left:
                break
        if executed > most or steps > most * n_lanes:
            out[0], out[1] = np.int64(depends), executed
            return ENOUGH
        for at in range(begin[here], end[here]):
            op = code[at, 0]
            d, a, b, c, extra = code[at, 1], code[at, 2], code[at, 3], code[at, 4], code[at, 5]
            ma, mb, mc = 0 if S[a] else 1, 0 if S[b] else 1, 0 if S[c] else 1
            all_lanes = whole or d >= registers
            dependent = T[a] | T[b] | T[c]
            scalar = False
            v, u = Z, Z
            if op <= UNKNOWN:
                if ma + mb + mc == 0:
                    v, u = alu(op, V[a, 0], U[a, 0], V[b, 0], U[b, 0], V[c, 0], U[c, 0], extra, word, real)
                    scalar = True
                elif of_rows(op) and not (K[a] or K[b] or K[c]) and all_lanes:
                    in_a_row(op, d, a, ma, b, mb, c, mc, V, U, S, T, K, slots, dependent, True, active, n_active, extra, word, real)
                    continue
                else:
                    lane_operations(op, a, ma, b, mb, c, mc, V, U, active, n_active, held, held_u, extra, word, real)
            elif op == ACCESS:
                index = extra & 0xFFFFF
                if space[index] == IN_GLOBAL and (kind[index] == OF_STORES or kind[index] == OF_ATOMICS):
                    for j in range(buffers.shape[0]):
                        for k in range(n_active):
                            at_lane = V[b, mb * active[k]]
                            if V[a, ma * active[k]] & ONE and buffers[j, 0] <= at_lane < buffers[j, 0] + buffers[j, 1]:
                                return ON_DATA
                continue
            elif op == COPIED:  # cp.async: c is where from, or 0 for zeros
                index = extra & 0xFFFFF
                found = copied_in(a, ma, b, mb, c, mc, V, U, active, n_active, size[index], buffers, data, np.uint64(dependent), smem)
                if found != KEPT:
                    return NOT_MODELLED
                continue
            elif op == LOAD_ or op == STORE_:
                index = extra & 0xFFFFF
                if space[index] == IN_LOCAL:
                    unknown = False
                    for k in range(n_active):
                        unknown |= U[a, ma * active[k]] & ONE != Z
                    if not S[b] or U[b, 0] or (op == STORE_ and unknown):
                        return NOT_MODELLED
                    at_word = (np.int64(V[b, 0] >> TWO) + (extra >> 20)) & (local.shape[0] - 1)
                    dependent |= np.uint8(in_local(op == STORE_, at_word, a, ma, c, mc, V, U, np.uint64(T[a] | T[c]), local, active,
                                                   n_active, held, held_u))
                    if op == STORE_:
                        continue
                elif space[index] == IN_SHARED:
                    if kind[index] == OF_ATOMICS:
                        return NOT_MODELLED
                    if op == STORE_:
                        for k in range(n_active):
                            taints[k] = np.uint64(dependent)
                    found = in_shared(extra, op == STORE_, a, ma, b, mb, c, mc, V, U, taints, active, n_active, held, held_u, size[index],
                                      rows[index], signed[index], smem)
                    if found == REFUSED:
                        return NOT_MODELLED
                    if found == LOST:
                        for k in range(reserved, smem.shape[0]):
                            smem[k, 1] = W32
                    if op == STORE_:
                        continue
                    own = np.uint64(T[a] | T[b])
                    for k in range(n_active):
                        dependent |= np.uint8(taints[k])
                        depends |= taints[k] | own
                        if not told_to(log, log_row, cursor, active[k], held[k], held_u[k], taints[k] | own):
                            return FULL
                elif op == STORE_:
                    return NOT_MODELLED
                else:
                    loaded(extra, a, ma, b, mb, c, mc, V, U, active, n_active, held, held_u, space[index] == IN_GLOBAL, size[index],
                           signed[index], buffers, data)
            elif op == SPECIAL_:
                dependent = ON_X << np.uint8(extra - 1) if 1 <= extra <= 3 else ON_THREAD if extra == 0 else NOTHING
                if 1 <= extra <= 3:
                    v = np.uint64(ids[0, extra - 1])
                    scalar = True
                else:
                    for k in range(n_active):
                        lane = active[k]
                        held[k], held_u[k] = special_register(extra, lane & 31, lane & ~31, ids[0, 0]), Z
            elif op == SHUFFLE or op == IN_RANGE or op == FIRST_LANE or op == ANY or op == ALL or op == BALLOT or op == REDUCE \
                    or op == ELECT or op == ELECTED_LANE:
                if (op == SHUFFLE or op == IN_RANGE) and not S[a] and (not S[c] or U[c, 0]):
                    return NOT_MODELLED
                k = 0
                while k < n_active:  # warp by warp
                    n = 0
                    while k + n < n_active and active[k + n] >> 5 == active[k] >> 5:
                        part[n] = active[k + n]
                        n += 1
                    v, u = Z, Z
                    if op == SHUFFLE or op == IN_RANGE:
                        if S[a]:
                            v, u = V[a, 0], U[a, 0]
                            if op == IN_RANGE:
                                known = u == Z and extra == BY_IDX
                                v, u = ONE if known else Z, Z if known else W64
                            for j in range(n):
                                part_v[j], part_u[j] = v, u
                        else:
                            shuffled(op, extra, a, b, mb, V[c, 0], V, U, part, n, part_v, part_u)
                    elif op == ELECT or op == ELECTED_LANE:
                        for j in range(n):
                            part_u[j] = Z
                            part_v[j] = np.uint64(part[0] & 31) if op == ELECTED_LANE else (ONE if j == 0 else Z)
                    else:
                        if op == FIRST_LANE:
                            chosen = first_of(a, ma, V, U, part, n)
                            v, u = V[b, mb * chosen], U[b, mb * chosen]
                        elif op == REDUCE and S[a] and (extra & 0xFF == OF_AND or extra & 0xFF >= OF_MIN or extra & 0xFF == OF_OR):
                            v, u = V[a, 0], U[a, 0]
                        else:
                            v, u = voted(op, extra, a, ma, V, U, numbers, part, n)
                            if u:
                                v = Z
                        for j in range(n):
                            part_v[j], part_u[j] = v, u
                    for j in range(n):
                        held[k + j], held_u[k + j] = part_v[j], part_u[j]
                    k += n
                if op == SHUFFLE or op == IN_RANGE or op == BALLOT or op == REDUCE:
                    depends |= np.uint64(dependent)
                    for k in range(n_active):
                        if not told_to(log, log_row, cursor, active[k], held[k], held_u[k], np.uint64(dependent)):
                            return FULL
                elif op == ELECT or op == ELECTED_LANE:
                    dependent = NOTHING
            elif op == ARGUMENT or op == BULK or op == SYNC or op == MATRIX:
                continue
            else:
                return NOT_MODELLED
            # the result: `v` for all lanes, or `held` by place in `active`
            if scalar and all_lanes:
                if K[d]:
                    U[d, :] = Z
                V[d, 0], U[d, 0] = v, u
                S[d], T[d], K[d] = True, dependent, u != Z
                continue
            put_lanes(d, scalar, v, u, held, held_u, dependent, all_lanes, active, n_active, V, U, S, T, K)
        # where control goes
        way = ends[here]
        c = condition[here]
        mc = 0 if S[c] else 1
        depends |= np.uint64(T[c]) if way == AT_BRANCH or way == AT_EXIT or way == AT_RETURN or way == AT_INDIRECT else Z
        if way == AT_BRANCH or way == AT_EXIT:
            turn = decided(here, c, mc, V, U, forced, trips, False, active, n_active)
            if turn == ASK_DATA:
                return ON_DATA
            if turn >= GUESSED:
                turn -= GUESSED
            if turn == PART:
                left = parted(here, way, c, mc, V, target, after, place, alive, active, n_active)
                if left < 0:
                    return NOT_MODELLED
                count_alive -= left
                together = False
                continue
            if way == AT_EXIT and turn == TURN:
                for k in range(n_active):
                    alive[active[k]] = False
                count_alive -= n_active
                together = False
                continue
            goes = target[here] if turn == TURN else after[here]
            if goes < 0:
                return NOT_MODELLED
            if together:
                here = goes
            else:
                for k in range(n_active):
                    place[active[k]] = goes
            continue
        if way == AT_RETURN or way == AT_INDIRECT:
            why = sent(c, mc, V, U, where, place, active, n_active)
            if why != DONE:
                return why
            together = False
            continue
        goes = after[here]
        if goes < 0:
            return NOT_MODELLED
        if way == AT_BARRIER:
            for k in range(n_active):
                if U[c, mc * active[k]] & ONE or V[c, mc * active[k]] & ONE == Z:
                    return NOT_MODELLED
        if together:
            here = goes
            continue
        for k in range(n_active):
            place[active[k]] = goes
            parked[active[k]] = way == AT_JOIN or way == AT_BARRIER
            waits[active[k]] = way == AT_BARRIER
    out[0], out[1] = np.int64(depends), executed
    return DONE


#: `run_cta` as machine code.
cta_machine: Final = Native(run_cta, inlined=False, wide=(row_operation, spread), usual={
    ("i4", 2): "code", "i": "registers most reserved", ("b1", 1): "S K tells", ("b1", 2): "trips", ("u1", 1): "T data",
    ("u8", 2): "V U buffers smem log", ("u8", 3): "local", ("i8", 2): "ids", ("u4", 1): "word", ("f4", 1): "real"})
