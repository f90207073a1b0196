# ruff: noqa: N803  (rows of values)
"""What both interpreters do alike: who stands where, where control goes, and where results are put; written as `warp_machine` is."""

from __future__ import annotations

import numpy as np

from .warp_alu import ONE, SEL, Z
from .warp_records import ASSUMED, AT_EXIT, DONE, NOT_MODELLED, ON_DATA, ONE_TRIP
from .warp_rows import spread, takes_common

#: What lanes that come to a branch do; from `GUESSED` on: by an assumption.
GO_ON, TURN, PART, ASK_DATA, GUESSED = range(5)


def standing(here, place, alive, parked, active):  # type: ignore[no-untyped-def]
    """Fill `active` with the lanes that go on at a place; how many there are."""
    n = 0
    for k in range(place.shape[0]):
        if alive[k] and not parked[k] and place[k] == here:
            active[n] = k
            n += 1
    return n


def spread_operands(op, V, slots, a, ma, b, mb, c, mc):  # type: ignore[no-untyped-def]
    """Rows of the operands of a row operation; what all lanes share is spread out behind the `slots`."""
    x, y, z = a, b, c
    if ma == 0:
        x = slots
        spread(V, x, V[a, 0])
    if mb == 0 and not takes_common(op):
        y = slots + 1
        spread(V, y, V[b, 0])
    if mc == 0 and op == SEL:
        z = slots + 2
        spread(V, z, V[c, 0])
    return x, y, z


def first_of(a, ma, V, U, active, n_active):  # type: ignore[no-untyped-def]
    """The first lane whose flag is known and set, else the first one."""
    for k in range(n_active):
        if U[a, ma * active[k]] & ONE == Z and V[a, ma * active[k]] & ONE:
            return active[k]
    return active[0]


def put_lanes(d, scalar, common, common_u, held, held_u, dependent, all_lanes, active, n_active, V, U, S, T, K):  # type: ignore[no-untyped-def]
    """Put a result, `common` to all active lanes or `held` by place in `active`, into slot `d` beside what other lanes hold there."""
    if S[d] and not all_lanes:
        for k in range(1, V.shape[1]):
            V[d, k], U[d, k] = V[d, 0], U[d, 0]
    if all_lanes and K[d]:
        U[d, :] = Z
        K[d] = False
    for k in range(n_active):
        v = common if scalar else held[k]
        u = common_u if scalar else held_u[k]
        V[d, active[k]], U[d, active[k]] = v, u
        if u:
            K[d] = True
    S[d] = False
    T[d] = dependent if all_lanes else dependent | T[d]
    return 0


def decided(here, c, mc, V, U, forced, trips, leaves_known, active, n_active):  # type: ignore[no-untyped-def]
    """Whether active lanes `TURN` at a branch or an exit, `GO_ON`, `PART`, or data alone says (`ASK_DATA`).

    What data says is taken from `forced`, where something is assumed (`GUESSED` and more); not where shared memory holds what is known
    and not followed (`leaves_known`).
    """
    lead = active[0]
    guessed = 0
    differs = False
    unknown = False
    flag = V[c, mc * lead] & ONE
    for k in range(n_active):
        if U[c, mc * active[k]] & ONE:
            unknown = True
        if V[c, mc * active[k]] & ONE != flag:
            differs = True
    if unknown:
        if forced[here] < 0:
            return ASK_DATA
        flag = np.uint64(forced[here] & 1)
        differs = False
        if forced[here] >= ASSUMED:
            for k in range(n_active):
                if leaves_known or U[c, mc * active[k]] & ONE == Z or trips[here, active[k]] != trips[here, lead]:
                    return ASK_DATA
            guessed = GUESSED
            if forced[here] >= ONE_TRIP:
                if not trips[here, lead]:
                    flag ^= ONE
                for k in range(n_active):
                    trips[here, active[k]] = not trips[here, active[k]]
    if differs:
        return PART
    return guessed + (TURN if flag else GO_ON)


def parted(here, way, c, mc, V, target, after, place, alive, active, n_active):  # type: ignore[no-untyped-def]
    """Send active lanes their own ways from a branch or an exit; how many have left, -1 where a way leads nowhere."""
    if way != AT_EXIT and (target[here] < 0 or after[here] < 0):
        return -1
    left = 0
    for k in range(n_active):
        lane = active[k]
        if V[c, mc * lane] & ONE:
            if way == AT_EXIT:
                alive[lane] = False
                left += 1
            else:
                place[lane] = target[here]
        else:
            place[lane] = after[here]
    return left


def sent(c, mc, V, U, where, place, active, n_active):  # type: ignore[no-untyped-def]
    """Send active lanes to the places whose addresses they hold (a return, an indirect jump); why that cannot be done, or `DONE`."""
    for k in range(n_active):
        if U[c, mc * active[k]]:
            return ON_DATA
        goes = -1
        for j in range(where.shape[0]):
            if where[j] == np.int64(V[c, mc * active[k]]):
                goes = j
                break
        if goes < 0:
            return NOT_MODELLED
        place[active[k]] = goes
    return DONE
