# ruff: noqa: N803  (rows of values)
"""Who accesses memory, whether that can be followed, and the records that `warp_machine` keeps of it; written as that is."""

from __future__ import annotations

import numpy as np

from .warp_alu import ONE, W32, Z
from .warp_memory import common_descriptor, touched_by
from .warp_records import BOX, DONE, MIXER, NOT_MODELLED, ON_DATA, TOO_FAR

#: Bits of an address inside its sector.
SECTOR = np.uint64(5)


def who_accesses(plain, a, ma, b, mb, V, U, lanes, ctas, active, n_active, picked, owner):  # type: ignore[no-untyped-def]
    """Fill `picked` and `owner` with addresses `b` and CTAs of lanes where `a` holds; how many, which (bits), and whether any is unknown.

    `plain`: a whole warp, where `a` holds for all and all is known.
    """
    n = 0
    chosen = 0
    unknown = False
    if plain:
        chosen = 0xFFFFFFFF
        n = 32
        for k in range(32):
            picked[k] = V[b, k]
    else:
        for k in range(n_active):
            lane = active[k]
            if U[a, ma * lane] & ONE:
                unknown = True
            elif V[a, ma * lane] & ONE:
                chosen |= 1 << lanes[lane]
                if U[b, mb * lane]:
                    unknown = True
                picked[n] = V[b, mb * lane]
                owner[n] = ctas[lane]
                n += 1
    return n, chosen, unknown


def refused(picked, n, writes, buffers):  # type: ignore[no-untyped-def]
    """Why accesses to global memory cannot be followed (too far, or tensors with values are written), or `DONE`."""
    for k in range(n):
        if picked[k] >= TOO_FAR:
            return NOT_MODELLED
    if writes:
        for j in range(buffers.shape[0]):
            for k in range(n):
                if buffers[j, 0] <= picked[k] < buffers[j, 0] + buffers[j, 1]:
                    return ON_DATA
    return DONE


def noted_access(accesses, at, step, index, row, memo_cost, n, first, missing, chosen):  # type: ignore[no-untyped-def]
    """Write down an access; columns as `warp_records` names them."""
    accesses[at, 0] = step
    accesses[at, 1] = index
    accesses[at, 2] = memo_cost[row, 0]
    accesses[at, 3] = memo_cost[row, 1]
    accesses[at, 4] = memo_cost[row, 2]
    accesses[at, 5] = n
    accesses[at, 6] = np.int64(first)
    accesses[at, 7] = missing
    accesses[at, 8] = chosen
    return 0


def noted_touch(touched, at, thin, so_far, weight, cta, index, key, coarse):  # type: ignore[no-untyped-def]
    """Write down a touch of `key` (told apart without its last `coarse` bits), unless it is thinned out; how many there are then.

    -1 where room is lacking.
    """
    so_far[cta] += weight
    if thin and ((key >> coarse) * MIXER) >> np.uint64(64 - thin) != Z:
        return at
    if at == touched.shape[0]:
        return -1
    touched_by(touched, at, cta, index, key, so_far[cta] - weight)
    return at + 1


def box_of(arguments, number, k, descriptor, equal):  # type: ignore[no-untyped-def]
    """A number for the box that a bulk copy of lane `k` names by its arguments and its descriptor."""
    key = Z
    for j in range(number):
        key = (key * np.uint64(1_000_003) + np.uint64(arguments[j, k])) & BOX
    return (key * np.uint64(1_000_003) + common_descriptor(descriptor, equal)) & BOX


def noted_bulk(bulks, at, step, index, address, descriptor, arguments, number, k):  # type: ignore[no-untyped-def]
    """Write down a bulk copy of lane `k`."""
    bulks[at, 0], bulks[at, 1] = step, index
    bulks[at, 2], bulks[at, 3] = np.int64(address), np.int64(descriptor)
    bulks[at, 4] = number
    for j in range(number):
        bulks[at, 5 + j] = arguments[j, k]
    return 0


def noted_sync(syncs, at, step, index, lane, address, address_u, count, count_u):  # type: ignore[no-untyped-def]
    """Write down what a lane does at an mbarrier; -1 for what is not known."""
    syncs[at, 0], syncs[at, 1], syncs[at, 2] = step, index, lane
    syncs[at, 3] = np.int64(address & W32) if address_u == Z else -1
    syncs[at, 4] = np.int64(count & W32) if count_u == Z else -1
    return 0


def noted_touches(touched, at, thin, so_far, weight, owner, index, picked, n):  # type: ignore[no-untyped-def]
    """`noted_touch` of the sectors of `n` addresses, each of its owner, in one call."""
    for k in range(n):
        cta = owner[k]
        so_far[cta] += weight
        if thin and ((picked[k] >> SECTOR) * MIXER) >> np.uint64(64 - thin) != Z:
            continue
        if at == touched.shape[0]:
            return -1
        touched[at, 0], touched[at, 1], touched[at, 2], touched[at, 3] = cta, index, np.int64(picked[k]), so_far[cta] - weight
        at += 1
    return at
