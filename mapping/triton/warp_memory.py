# ruff: noqa: N803  (rows of values)
"""What a warp's access costs, and what it loads from tensors with values; written as `warp_machine` is."""

from __future__ import annotations

import numpy as np

from .warp_alu import ONE, W32, W64, Z, bank_clocks, distinct


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
