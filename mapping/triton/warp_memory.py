# ruff: noqa: N803  (rows of values)
"""What a warp's access costs, what is written down of it, and what it loads from tensors with values; written as `warp_machine` is."""

from __future__ import annotations

import numpy as np

from .made_maps import DESCRIPTOR_BYTES, SCRATCH_END, SCRATCH_WINDOW
from .warp_alu import ONE, W32, W64, Z, bank_clocks, distinct
from .warp_records import TOLD_TAINT, TOLD_UNKNOWN

#: Places in the table of L1 by which blocks of as many sectors as it has lie apart; odd.
APART = 1021
SCRATCH_FROM, SCRATCH_TO = np.uint64(SCRATCH_WINDOW), np.uint64(SCRATCH_END)


def priced(picked, n, row, of_banks, size, rows, memo, memo_base, memo_count, memo_cost, memo_sectors,  # type: ignore[no-untyped-def]
           room, table, taken):
    """Bank passes, or sectors and lines, of `n` addresses in `memo_cost`, unless the last of its kind went to places like these.

    Parameters
    ----------
    row
        Number of the instruction and of what it does there.
    of_banks, size, rows
        Whether shared memory is accessed; bytes of a lane; rows of a matrix.
    memo ... memo_sectors
        By `row`: distances of the addresses from the first, its place in its line, how many, what they cost and sectors.
    """
    base = picked[0] & np.uint64(127)
    same = memo_count[row] == n and memo_base[row] == base
    if same:
        other = Z
        for k in range(n):
            other |= memo[row, k] ^ (picked[k] - picked[0])
        same = other == Z
    if not same:
        memo_count[row], memo_base[row] = n, base
        for k in range(n):
            memo[row, k] = picked[k] - picked[0]
        if of_banks:
            memo_cost[row, 0] = bank_clocks(picked, n, size, rows, table, taken)
            memo_cost[row, 1] = memo_cost[row, 2] = 0
        else:
            memo_cost[row, 0] = 0
            memo_cost[row, 2] = distinct(picked, n, size, np.uint64(7), room)
            memo_cost[row, 1] = distinct(picked, n, size, np.uint64(5), room)
            for k in range(memo_cost[row, 1]):
                memo_sectors[row, k] = np.int64(room[k] - (picked[0] >> np.uint64(5)))
    return 0


def missing_in_l1(row, first, passed, l1_bytes, memo_cost, memo_sectors, seen):  # type: ignore[no-untyped-def]
    """Sectors of an access at `first` that L1 does not hold any more; `seen` and `passed` as `run_warp` has them.

    Rows that lie a power of two apart have places of their own.
    """
    missing = 0
    for k in range(memo_cost[row, 1]):
        sector = memo_sectors[row, k] + np.int64(first >> np.uint64(5))
        spot = (sector + (sector >> 15) * APART) % seen.shape[0]
        if seen[spot, 0] != sector or passed - seen[spot, 1] > l1_bytes:
            missing += 1
        seen[spot, 0], seen[spot, 1] = sector, passed
    return missing


def noted_pieces(row, first, access, memo_cost, memo_sectors, pieces, n_pieces):  # type: ignore[no-untyped-def]
    """Write down the pieces of an access at `first` behind `n_pieces` others; how many there are then, -1 where room is lacking."""
    origin = np.int64(first >> np.uint64(5))
    for k in range(memo_cost[row, 1]):
        if k == 0 or memo_sectors[row, k] != memo_sectors[row, k - 1] + 1:
            if n_pieces == pieces.shape[0]:
                return -1
            pieces[n_pieces, 0], pieces[n_pieces, 1] = access, origin + memo_sectors[row, k]
            n_pieces += 1
        pieces[n_pieces - 1, 2] = origin + memo_sectors[row, k] + 1
    return n_pieces


def tallied(tally, cta, place, key):  # type: ignore[no-untyped-def]
    """Count an access of a CTA, and keep where its first one is."""
    if tally[place, 0, cta] == 0:
        tally[place, 1, cta] = np.int64(key)
    tally[place, 0, cta] += 1
    return 0


def tallied_all(tally, owner, place, picked, n):  # type: ignore[no-untyped-def]
    """`tallied` of `n` addresses, each of its owner, in one call."""
    for k in range(n):
        cta = owner[k]
        if tally[place, 0, cta] == 0:
            tally[place, 1, cta] = np.int64(picked[k])
        tally[place, 0, cta] += 1
    return 0


def touched_by(touched, at, cta, index, key, before):  # type: ignore[no-untyped-def]
    """Write down a touch: CTA, instruction, address or box, and the sum of weights before."""
    touched[at, 0], touched[at, 1], touched[at, 2], touched[at, 3] = cta, index, np.int64(key), before
    return 0


def common_descriptor(descriptor, equal):  # type: ignore[no-untyped-def]
    """`made_maps.common` of a descriptor."""
    if descriptor < SCRATCH_FROM or descriptor >= SCRATCH_TO:
        return descriptor
    place = np.int64(descriptor - SCRATCH_FROM) % equal[0]
    return SCRATCH_FROM + np.uint64(place) if equal[1 + place // DESCRIPTOR_BYTES] != 0 else descriptor


def in_local(stores, word, a, ma, c, mc, V, U, depends, local, active, n_active, held, held_u):  # type: ignore[no-untyped-def]
    """Keep `c` in a word of local memory where `a` holds, with what both depend on; or fill `held` with it. What a load depends on."""
    found = Z
    for k in range(n_active):
        lane = active[k]
        if stores:
            if V[a, ma * lane] & ONE:
                local[word, lane, 0], local[word, lane, 1], local[word, lane, 2] = V[c, mc * lane], U[c, mc * lane], depends
            continue
        held[k], held_u[k] = V[c, mc * lane], U[c, mc * lane]
        if U[a, ma * lane] & ONE:
            held[k], held_u[k] = Z, W64
        elif V[a, ma * lane] & ONE:
            held[k], held_u[k] = local[word, lane, 0], local[word, lane, 1]
            found |= local[word, lane, 2]
    return found


def loaded(extra, a, ma, b, mb, c, mc, V, U, active, n_active, held, held_u, in_global, size, signed, buffers, data):  # type: ignore[no-untyped-def]
    """Fill `held` and its unknown bits with the word ``extra >> 20`` of what address `b` names; where `a` does not hold, what `c` did."""
    for k in range(n_active):
        lane = active[k]
        held[k], held_u[k] = V[c, mc * lane], U[c, mc * lane]
        if U[a, ma * lane] & ONE:
            held[k], held_u[k] = Z, W64
        elif V[a, ma * lane] & ONE:
            held[k], held_u[k] = Z, W64
            address = V[b, mb * lane]
            if U[b, mb * lane] == Z and in_global:
                for j in range(buffers.shape[0]):
                    if buffers[j, 0] <= address and address + np.uint64(size) <= buffers[j, 0] + buffers[j, 1]:
                        from_byte = np.int64(address - buffers[j, 0] + buffers[j, 2]) + 4 * (extra >> 20)
                        width = min(size, 4)
                        v = Z
                        for i in range(width):
                            v |= np.uint64(data[from_byte + i]) << np.uint64(8 * i)
                        if signed and (v >> np.uint64(8 * width - 1)) & ONE:
                            v |= W32 & ~((ONE << np.uint64(8 * width)) - ONE)
                        held[k], held_u[k] = v, Z
    return 0


def retold(guarded, a, ma, c, mc, V, U, told, told_row, cursor, active, n_active, held, held_u):  # type: ignore[no-untyped-def]
    """Fill `held` and its unknown bits with the next word that each lane is told; where `a` does not hold, if `guarded`, what `c` did.

    Returns what the words depend on, with `TOLD_UNKNOWN` where no more was written down.
    """
    found = Z
    for k in range(n_active):
        lane = active[k]
        if cursor[lane] >= told.shape[1]:
            return TOLD_UNKNOWN
        entry = told[told_row[lane], cursor[lane]]
        cursor[lane] += 1
        if entry == W64:
            return TOLD_UNKNOWN
        if guarded and (V[a, ma * lane] | U[a, ma * lane]) & ONE == Z:
            held[k], held_u[k] = V[c, mc * lane], U[c, mc * lane]
            continue
        found |= (entry & ~TOLD_UNKNOWN) >> TOLD_TAINT
        held[k], held_u[k] = entry & W32, Z
        if entry & TOLD_UNKNOWN or (guarded and U[a, ma * lane] & ONE):
            held[k], held_u[k] = Z, W64
    return found
