# ruff: noqa: N803  (plain comparisons are what can be compiled)
"""What lanes of a warp tell one another: shuffles, votes, reductions; written as `warp_machine` is."""

from __future__ import annotations

import numpy as np

from .warp_alu import ONE, SIGN32, W32, W64, Z
from .warp_records import ALL, ANY, BALLOT, BY_BFLY, BY_IDX, BY_UP, OF_AND, OF_MIN, OF_OR, OF_SUM, OF_XOR, REDUCE, SHUFFLE


def shuffled(op, extra, a, b, mb, limits, V, U, active, n_active, held, held_u):  # type: ignore[no-untyped-def]
    """Fill `held` and its unknown bits with what each lane gets (`a`) from the lane that `b` names, or whether there is such a lane.

    Parameters
    ----------
    limits
        Segment mask and clamp, as the instruction's last operand has them.
    """
    segment, bound = np.int64(limits >> np.uint64(8)) & 31, np.int64(limits) & 31
    for k in range(n_active):
        lane = active[k] & 31
        step = np.int64(V[b, mb * active[k]])
        low = lane & segment
        high = low | (bound & ~segment)
        if extra == BY_IDX:
            source = low | (step & ~segment & 31)
            inside = source <= high
        elif extra == BY_BFLY:
            source = lane ^ (step & 31)
            inside = source <= high
        elif extra == BY_UP:
            source = lane - (step & 31)
            inside = source >= high
        else:
            source = lane + (step & 31)
            inside = source <= high
        if not inside:
            source = lane
        source += active[k] - lane  # where its warp begins
        there = False
        for j in range(n_active):
            if active[j] == source:
                there = True
        if U[b, mb * active[k]] or not there:
            held[k], held_u[k] = Z, W64
        elif op == SHUFFLE:
            held[k], held_u[k] = V[a, source], U[a, source]
        else:
            held[k], held_u[k] = (ONE if inside else Z), Z
    return 0


def voted(op, extra, a, ma, V, U, lanes, active, n_active):  # type: ignore[no-untyped-def]
    """What all lanes make of `a` together, and its unknown bits."""
    v, u = Z, Z
    flip = SIGN32 if extra >> 8 & 1 and extra & 0xFF >= OF_MIN else Z
    for k in range(n_active):
        lane = active[k]
        value = V[a, ma * lane]
        if U[a, ma * lane]:
            u = W64
        elif op == ANY:
            if value:
                v = ONE
        elif op == ALL:
            if value == Z:
                v = ONE  # one that fails
        elif op == BALLOT:
            if value:
                v |= ONE << np.uint64(lanes[lane])
        else:
            how = extra & 0xFF
            value ^= flip
            if k == 0:
                v = value
            elif how == OF_AND:
                v &= value
            elif how == OF_OR:
                v |= value
            elif how == OF_XOR:
                v ^= value
            elif how == OF_SUM:
                v += value
            elif (value < v) == (how == OF_MIN):
                v = value
    if op == ALL:
        v = Z if v else ONE
    if op == REDUCE:
        v = (v ^ flip) & W32
    return v, u
