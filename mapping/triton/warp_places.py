"""Which lanes go on next where they stand at different places; written as `warp_machine` is."""

from __future__ import annotations


def lowest(place, alive, parked):  # type: ignore[no-untyped-def]
    """The lowest place of lanes that wait for none; where all do, those at the lowest go on together."""
    here = -1
    for k in range(place.shape[0]):
        if alive[k] and not parked[k] and (here < 0 or place[k] < here):
            here = place[k]
    if here < 0:
        for k in range(place.shape[0]):
            if alive[k] and (here < 0 or place[k] < here):
                here = place[k]
        for k in range(place.shape[0]):
            if alive[k] and place[k] == here:
                parked[k] = False
    return here


def next_place(place, alive, parked, waits):  # type: ignore[no-untyped-def]
    """The lowest place of threads that wait for none; else of those at a join; else that behind the barrier where all are; -1 elsewhere."""
    here = -1
    for k in range(place.shape[0]):
        if alive[k] and not parked[k] and (here < 0 or place[k] < here):
            here = place[k]
    if here >= 0:
        return here
    for k in range(place.shape[0]):
        if alive[k] and not waits[k] and (here < 0 or place[k] < here):
            here = place[k]
    if here < 0:
        for k in range(place.shape[0]):
            if alive[k]:
                if here >= 0 and place[k] != here:
                    return -1
                here = place[k]
    for k in range(place.shape[0]):
        if alive[k] and place[k] == here:
            parked[k] = False
            waits[k] = False
    return here
