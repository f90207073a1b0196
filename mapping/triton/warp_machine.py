# ruff: noqa: N803, PLR1714, SIM102, SIM109  (plain comparisons are what can be compiled)
"""A warp of one CTA, followed through `bytecode`: written to be compiled by `native`, and run as plain Python where it cannot be.

Lanes that stand at different places are taken lowest place first, as `execute` takes groups; lanes that come to a join wait until no other
can go on. A value is 64 bits, bits that depend on data, and what it depends on; one that all lanes share is computed once.

Where control depends on data, or on shared memory (which is not kept), the way is the one that `assumptions.Chooser` takes. Where an
address or a mask does, or where lanes are needed that are not followed, the run ends with a reason, and the caller falls back to `execute`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ...native import Native
from .warp_alu import MOV, ONE, UNKNOWN, W32, W64, Z, alu, special_register
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
from .warp_memory import in_local, loaded, missing_in_l1, noted_pieces, priced, retold, tallied, tallied_all
from .warp_notes import box_of, noted_access, noted_bulk, noted_sync, noted_touch, noted_touches, refused, who_accesses
from .warp_places import lowest
from .warp_records import (
    ACCESS,
    ALL,
    ANY,
    ARGUMENT,
    AT_BRANCH,
    AT_EXIT,
    AT_INDIRECT,
    AT_JOIN,
    AT_RETURN,
    BALLOT,
    BULK,
    BY_IDX,
    COPIED,
    COUNT,
    DONE,
    ELECT,
    ELECTED_LANE,
    ENDLESS,
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
    RECORD,
    REDUCE,
    SHUFFLE,
    SPECIAL_,
    STORE_,
    SYNC,
    TALLY,
    TOLD_UNKNOWN,
    TOUCH,
    WHOLE_WARP,
)
from .warp_rows import copied_row, lane_operations, of_rows, row_operation, spread
from .warp_whole import in_a_row


def run_warp(code, registers, begin, end, condition, ends, after, target, forced, where, V, U, S, T, K, lanes, ctas, thread, ids,  # type: ignore[no-untyped-def]
             space, kind, size, rows, signed, buffers, data, cached, l1_bytes, equal, mode, wanted, repeats, most, thin, weight, local,
             trips, told, told_row, steps, masks, accesses, pieces, syncs, bulks, counts, matrices, touched, tally,
             memo, memo_base, memo_count, memo_cost, memo_sectors, seen, word, real, out):
    """Follow one warp to its end, or one lane of many CTAs.

    Parameters
    ----------
    code, registers, begin, end, condition
        `bytecode.Bytecode`.
    ends, after, target, forced, where
        By segment: how it ends, which comes next, which is jumped to, which way a jump goes that depends on data (see
        `ASSUMED`), and its address.
    V, U, S, T, K
        The file of values: uint64 (and four rows more) and unknown bits by slot and lane; by slot whether lane 0's stands for
        all, what it depends on of the program id and the thread's number in the CTA, and whether it has unknown bits.
    lanes, ctas, thread, ids
        Lane numbers that are followed, and whose CTA each is in (rows of `ids`, the program ids); thread number of each lane's
        first thread of the warp. With more than one CTA each lane is a warp of its own.
    space, kind, size, rows, signed
        By instruction: its memory access.
    buffers, data
        Start, size and place in `data` of the tensors with values.
    cached, l1_bytes
        By instruction whether it looks into L1, and what L1 keeps for the warp.
    equal
        Which tensor descriptors in scratch memory are the same in every CTA, as `made_maps.equal_descriptors` has it.
    mode, wanted, repeats, most
        What is recorded; by instruction whether accesses of it are (if so, its place in `tally` and one);
        executions of one instruction and segments after which it is enough.
    thin
        Of touches, those of one sector in ``1 << thin`` are recorded, whichever instruction touches it.
    weight
        int64 by instruction: what an access counts in the sum that stands behind each touch.
    local
        Room for words of local memory, a power of two: value, unknown bits and what it depends on, by lane.
    seen
        int64 of shape (places, 2): by place in L1 its sector (-1: none) and the bytes that had come in when it was asked for.
    word, real
        uint32 and float32 of one number that share memory.
    trips
        bool by segment and lane, all false: whether a loop whose end depends on data has made its trip.
    told, told_row
        Words that threads are told through shared memory and by their warps, as `cta_machine.run_cta` writes them down (no columns: nothing
        was, and what shared memory holds is not known); by lane the row.
    steps ... memo_sectors
        Filled; `counts` by segment and CTA (no columns: of many CTAs nothing is counted), `touched` with CTA, instruction, address and sum
        of weights before, `tally` by place and CTA with accesses and the address of the first.
    out
        Filled with the numbers of steps, accesses, mbarrier records, bulk copies and touches, what control and guards depend on, segments,
        the number of pieces (access, first sector, the one behind the last) of global memory, where a way was assumed (bits, segment
        modulo 62), and whether something known was written to shared memory.

    Returns
    -------
    Why it ended.
    """
    n_lanes = lanes.shape[0]
    alone = ids.shape[0] > 1  # lanes are warps of their own
    place = np.zeros(n_lanes, np.int64)
    alive = np.ones(n_lanes, np.bool_)
    parked = np.zeros(n_lanes, np.bool_)
    active = np.zeros(n_lanes, np.int64)
    picked = np.zeros(n_lanes, np.uint64)
    owner = np.zeros(n_lanes, np.int64)
    room = np.zeros(160, np.uint64)
    table = np.zeros((32, 40), np.uint64)
    taken = np.zeros(32, np.int64)
    arguments = np.zeros((8, n_lanes), np.int64)
    so_far = np.zeros(ids.shape[0], np.int64)
    held = np.zeros(n_lanes, np.uint64)
    held_u = np.zeros(n_lanes, np.uint64)
    cursor = np.zeros(n_lanes, np.int64)
    is_told = told.shape[1] > 0
    slots = V.shape[0] - 4
    passed = 0
    n_arguments = 0
    n_steps = 0
    n_accesses = 0
    n_pieces = 0
    n_syncs = 0
    n_bulks = 0
    n_touches = 0
    depends = NOTHING
    executed = 0
    assumed = 0
    leaves_known = False
    has_data = buffers.shape[0] > 0
    is_counted = counts.shape[1] > 0
    count_alive = n_lanes
    together = True  # all lanes alive stand at `here`
    here = 0
    for k in range(n_lanes):
        active[k] = k
    n_active = n_lanes
    status = DONE
    while count_alive > 0 and status == DONE:
        if not together:
            here = lowest(place, alive, parked)
            n_active = standing(here, place, alive, parked, active)
            together = n_active == count_alive
        whole = n_active == count_alive
        executed += 1
        if executed > most:
            status = ENOUGH if mode == TOUCH or mode == TALLY else ENDLESS
            break
        if alone and is_counted:
            for k in range(n_active):
                counts[here, ctas[active[k]]] += 1
        elif not alone:
            counts[here, 0] += 1
        if mode == RECORD:
            if n_steps == steps.shape[0]:
                return FULL
            steps[n_steps] = here
            mask = 0
            for k in range(n_active):
                mask |= 1 << lanes[active[k]]
            masks[n_steps] = mask
            n_steps += 1
        lead = active[0]
        for at in range(begin[here], end[here]):
            op = code[at, 0]
            d, a, b, c, extra = code[at, 1], code[at, 2], code[at, 3], code[at, 4], code[at, 5]
            ma, mb, mc = 0 if S[a] else 1, 0 if S[b] else 1, 0 if S[c] else 1
            all_lanes = whole or d >= registers  # what lanes elsewhere hold may be written over
            dependent = T[a] | T[b] | T[c]
            scalar = False
            v, u = Z, Z
            if op <= UNKNOWN:
                if ma + mb + mc == 0:
                    v, u = alu(op, V[a, 0], U[a, 0], V[b, 0], U[b, 0], V[c, 0], U[c, 0], extra, word, real)
                    scalar = True
                elif of_rows(op) and not (K[a] or K[b] or K[c]) and (all_lanes or 8 * n_active > n_lanes):
                    in_a_row(op, d, a, ma, b, mb, c, mc, V, U, S, T, K, slots, dependent, all_lanes, active, n_active, extra, word, real)
                    continue
                elif op == MOV and all_lanes:
                    copied_row(V, d, a)
                    copied_row(U, d, a)
                    S[d], T[d], K[d] = False, dependent, K[a]
                    continue
                else:
                    lane_operations(op, a, ma, b, mb, c, mc, V, U, active, n_active, held, held_u, extra, word, real)
            elif op == ACCESS or op == COPIED or op == LOAD_ or op == STORE_:
                index = extra & 0xFFFFF
                if op == ACCESS and mode != RECORD and (mode == COUNT or wanted[index] == 0):
                    if not (has_data and space[index] == IN_GLOBAL and (kind[index] == OF_STORES or kind[index] == OF_ATOMICS)):
                        continue
                plain = mode == RECORD and whole and n_active == 32 and ma == 0 and mb == 1 and not K[a] and not K[b] \
                    and (op == ACCESS or op == COPIED)
                if plain and V[a, 0] & ONE == Z:
                    depends |= T[a] & ON_THREAD
                    continue
                n, chosen, unknown = who_accesses(plain, a, ma, b, mb, V, U, lanes, ctas, active, n_active, picked, owner)
                if op == ACCESS or op == COPIED:
                    depends |= T[a] & ON_THREAD
                    if unknown:
                        return ON_DATA
                    if n == 0:
                        continue
                    if op == ACCESS and space[index] == IN_GLOBAL:
                        why = refused(picked, n, kind[index] == OF_STORES or kind[index] == OF_ATOMICS, buffers)
                        if why != DONE:
                            return why
                    if mode == COUNT:
                        continue
                    if mode != RECORD:
                        if op == COPIED or wanted[index] == 0:
                            continue
                        if mode == TALLY:
                            tallied_all(tally, owner, wanted[index] - 1, picked, n)
                        else:
                            n_touches = noted_touches(touched, n_touches, thin, so_far, weight[index], owner, index, picked, n)
                            if n_touches < 0:
                                return FULL
                        memo_count[index] += 1
                        if memo_count[index] > repeats and executed > ends.shape[0]:
                            status = ENOUGH
                            break
                        continue
                    of_banks = op == COPIED or space[index] == IN_SHARED
                    row = index if op == ACCESS else index + kind.shape[0]
                    priced(picked, n, row, of_banks, size[index], rows[index], memo, memo_base, memo_count, memo_cost, memo_sectors,
                           room, table, taken)
                    if n_accesses == accesses.shape[0]:
                        return FULL
                    missing = memo_cost[row, 1]
                    if op == ACCESS and cached[index]:
                        missing = missing_in_l1(row, picked[0], passed, l1_bytes, memo_cost, memo_sectors, seen)
                        passed += 32 * missing
                    noted_access(accesses, n_accesses, n_steps - 1, index if op == ACCESS else -1 - index, row, memo_cost, n, picked[0],
                                 missing, chosen)
                    if pieces.shape[0] > 0 and space[index] == IN_GLOBAL and op == ACCESS:
                        n_pieces = noted_pieces(row, picked[0], n_accesses, memo_cost, memo_sectors, pieces, n_pieces)
                        if n_pieces < 0:
                            return FULL
                    n_accesses += 1
                    continue
                if space[index] == IN_LOCAL:
                    if not S[b] or U[b, 0] or (op == STORE_ and unknown):
                        return NOT_MODELLED
                    at_word = (np.int64(V[b, 0] >> np.uint64(2)) + (extra >> 20)) & (local.shape[0] - 1)
                    dependent |= np.uint8(in_local(op == STORE_, at_word, a, ma, c, mc, V, U, np.uint64(T[a] | T[c]), local, active,
                                                   n_active, held, held_u))
                    if op == STORE_:
                        continue
                elif op == STORE_:  # shared memory is not kept: what is loaded from it is not known
                    for k in range(n_active):
                        lane = active[k]
                        if ((U[a, ma * lane] | V[a, ma * lane]) & ONE) != Z and U[c, mc * lane] & W32 != W32 and not is_told:
                            leaves_known = True
                    continue
                elif is_told and space[index] == IN_SHARED:
                    found = retold(True, a, ma, c, mc, V, U, told, told_row, cursor, active, n_active, held, held_u)
                    if found & TOLD_UNKNOWN:
                        status = ENOUGH
                        break
                    dependent |= np.uint8(found)
                else:
                    loaded(extra, a, ma, b, mb, c, mc, V, U, active, n_active, held, held_u, space[index] == IN_GLOBAL, size[index],
                           signed[index], buffers, data)
            elif op == SPECIAL_:
                dependent = ON_X << np.uint8(extra - 1) if 1 <= extra <= 3 else ON_THREAD if extra == 0 else NOTHING
                if 1 <= extra <= 3 and not alone:
                    v = np.uint64(ids[0, extra - 1])
                    scalar = True
                else:
                    part = extra - 1 if 1 <= extra <= 3 else 0
                    for k in range(n_active):
                        lane = active[k]
                        held[k], held_u[k] = special_register(extra, lanes[lane], thread[lane], ids[ctas[lane], part]), Z
            elif op == ELECT or op == ELECTED_LANE:
                dependent = NOTHING
                for k in range(n_active):
                    first = active[k] if alone else lead
                    held[k] = np.uint64(lanes[first]) if op == ELECTED_LANE else (ONE if active[k] == first else Z)
                    held_u[k] = Z
            elif is_told and (op == SHUFFLE or op == IN_RANGE or op == BALLOT or op == REDUCE):
                found = retold(False, a, ma, c, mc, V, U, told, told_row, cursor, active, n_active, held, held_u)
                if found & TOLD_UNKNOWN:
                    status = ENOUGH
                    break
                dependent |= np.uint8(found)
                scalar = not alone and op != SHUFFLE and op != IN_RANGE
                v, u = held[0], held_u[0]
            elif op == SHUFFLE or op == IN_RANGE:  # a value, b source, c clamp
                if S[a]:
                    v, u = V[a, 0], U[a, 0]
                    if op == IN_RANGE:
                        known = u == Z and extra == BY_IDX
                        v, u = ONE if known else Z, Z if known else W64
                    scalar = True
                else:
                    if n_lanes < 32 or alone:
                        return WHOLE_WARP
                    if not S[c] or U[c, 0]:
                        return NOT_MODELLED
                    shuffled(op, extra, a, b, mb, V[c, 0], V, U, active, n_active, held, held_u)
            elif op == FIRST_LANE or op == ANY or op == ALL or op == BALLOT or op == REDUCE:
                if alone and op != BALLOT and (op != REDUCE or S[a]):
                    source, by = b if op == FIRST_LANE else a, mb if op == FIRST_LANE else ma
                    for k in range(n_active):
                        held[k], held_u[k] = V[source, by * active[k]], U[source, by * active[k]]
                elif op == FIRST_LANE:
                    chosen = first_of(a, ma, V, U, active, n_active)
                    v, u = V[b, mb * chosen], U[b, mb * chosen]
                    scalar = True
                elif op == REDUCE and S[a] and (extra & 0xFF == OF_AND or extra & 0xFF >= OF_MIN or extra & 0xFF == OF_OR):
                    v, u = V[a, 0], U[a, 0]
                    scalar = True
                else:
                    scalar = True
                    v, u = voted(op, extra, a, ma, V, U, lanes, active, n_active)
                    if u:
                        v = Z
                    elif (n_lanes < 32 or alone) and (op == BALLOT or op == REDUCE):
                        return WHOLE_WARP
            elif op == ARGUMENT:
                for k in range(n_active):
                    if U[a, ma * active[k]]:
                        return ON_DATA
                    arguments[n_arguments, k] = np.int64(V[a, ma * active[k]])
                n_arguments = min(n_arguments + 1, 5)
                continue
            elif op == BULK or op == SYNC or op == MATRIX:
                number = n_arguments
                n_arguments = 0
                depends |= (T[a] | T[b]) & ON_THREAD if op == SYNC else T[a] & ON_THREAD
                for k in range(n_active):
                    lane = active[k]
                    if U[a, ma * lane] & ONE:
                        return ON_DATA
                    if V[a, ma * lane] & ONE == Z:
                        continue
                    if op == BULK:
                        if U[b, mb * lane] or U[c, mc * lane]:
                            return ON_DATA
                        key = box_of(arguments, number, k, V[c, mc * lane], equal)
                        if mode == TALLY and wanted[extra]:
                            tallied(tally, ctas[lane], wanted[extra] - 1, key)
                        elif mode == TOUCH and wanted[extra]:
                            n_touches = noted_touch(touched, n_touches, thin, so_far, weight[extra], ctas[lane], extra, key, Z)
                            if n_touches < 0:
                                return FULL
                        elif mode == RECORD:
                            if n_bulks == bulks.shape[0]:
                                return FULL
                            noted_bulk(bulks, n_bulks, n_steps - 1, extra, V[b, mb * lane], V[c, mc * lane], arguments, number, k)
                            n_bulks += 1
                    elif mode == TALLY and op == SYNC and wanted[extra]:
                        tallied(tally, ctas[lane], wanted[extra] - 1, V[b, mb * lane] & W32)
                    elif mode == RECORD and op == SYNC:
                        if n_syncs == syncs.shape[0]:
                            return FULL
                        noted_sync(syncs, n_syncs, n_steps - 1, extra, lanes[lane], V[b, mb * lane], U[b, mb * lane], V[c, mc * lane],
                                   U[c, mc * lane])
                        n_syncs += 1
                    elif mode == RECORD:
                        matrices[extra] += 1
                    if not alone:
                        break
                if op == BULK and (mode == TOUCH or mode == TALLY) and wanted[extra]:
                    memo_count[extra] += 1
                    if memo_count[extra] > repeats and executed > ends.shape[0]:
                        status = ENOUGH
                        break
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
        if status != DONE:
            break
        # where control goes
        n_arguments = 0
        way = ends[here]
        c = condition[here]
        mc = 0 if S[c] else 1
        if way == AT_BRANCH or way == AT_EXIT:
            turn = decided(here, c, mc, V, U, forced, trips, leaves_known, active, n_active)
            if turn == ASK_DATA:
                return ON_DATA
            if turn >= GUESSED:
                turn -= GUESSED
                assumed |= 1 << (here % 62)
            depends |= T[c]
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
            depends |= T[c]
            why = sent(c, mc, V, U, where, place, active, n_active)
            if why != DONE:
                return why
            together = False
            continue
        goes = after[here]
        if goes < 0:
            return NOT_MODELLED
        if together:
            here = goes
            continue
        for k in range(n_active):
            place[active[k]] = goes
            parked[active[k]] = way == AT_JOIN
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = n_steps, n_accesses, n_syncs, n_bulks, n_touches, depends, executed
    out[7] = n_pieces
    out[8] = assumed
    out[9] = 1 if leaves_known else 0
    return status


#: `run_warp` as machine code.
machine: Final = Native(run_warp, inlined=False, wide=(row_operation, spread, copied_row), usual={
    ("i4", 2): "code", ("i4", 1): "steps", "i": "registers mode repeats most thin", "f": "l1_bytes", ("b1", 1): "S K cached",
    ("b1", 2): "trips", ("u1", 1): "T data", ("u8", 1): "memo_base", ("u8", 2): "V U buffers told memo", ("u8", 3): "local",
    ("i8", 2): "ids accesses pieces syncs bulks counts touched memo_cost memo_sectors seen", ("i8", 3): "tally", ("u4", 1): "word",
    ("f4", 1): "real"})
