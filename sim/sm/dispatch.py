# ruff: noqa: PLR1730  (plain comparisons are what `native` compiles)
"""When the last CTA of a grid ends, where CTAs take different times: the grid's own order, dealt to SMs as slots become free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ...native import Native


@dataclass(frozen=True)
class Dispatch:
    """A grid on its SMs.

    Attributes
    ----------
    makespan
        Clock at which the last CTA ends.
    active_sms
        Mean number of SMs at work until then.
    most
        The largest number of CTAs that an SM at work has for more than `BRIEF` of all such time.
    resident
        Mean number of CTAs that all SMs together have while one has so many.
    """

    makespan: float
    active_sms: float
    most: int
    resident: float


#: Share of the time of SMs at work for which a number of CTAs must be resident to count: CTAs that leave at once do not.
BRIEF: Final = 0.02


def run_dispatch(number, first, steady, alone, sms, slots, per_sm, company, crowd):  # type: ignore[no-untyped-def]
    """Makespan, and time that SMs are at work; see `dispatch`.

    By the number of CTAs that an SM has, `company` takes the time for which SMs have so many, and `crowd` that weighted with those of all.
    """
    programs = number.shape[0]
    left = np.zeros((sms, slots))
    whole = np.zeros((sms, slots))
    least = np.zeros((sms, slots))
    count = np.zeros(sms, np.int64)
    now = np.zeros(sms)
    before = np.zeros(sms)
    until = np.full(sms, np.inf)
    launched = 0
    for turn in range(slots):
        for sm in range(sms):
            if launched < programs:
                c = number[launched]
                left[sm, turn], whole[sm, turn], least[sm, turn] = 1.0, first[c], alone[c]
                count[sm] += 1
                launched += 1
    for sm in range(sms):
        for k in range(count[sm]):
            end = left[sm, k] * max(least[sm, k], whole[sm, k] * count[sm] / per_sm)
            if end < until[sm]:
                until[sm] = end
    busy = 0.0
    last = 0.0
    present = launched
    resident = 0.0
    while True:
        soonest = np.inf
        for sm in range(sms):
            soonest = min(soonest, until[sm])
        if soonest == np.inf:
            break
        resident += (soonest - last) * present
        last = soonest
        for sm in range(sms):
            if until[sm] > soonest * (1.0 + 1e-9):
                continue
            passed = soonest - now[sm]
            here = count[sm]
            busy += passed
            company[here] += passed
            crowd[here] += resident - before[sm]
            now[sm], before[sm] = soonest, resident
            k = 0
            while k < count[sm]:
                left[sm, k] -= passed / max(least[sm, k], whole[sm, k] * here / per_sm)
                if left[sm, k] > 1e-9:
                    k += 1
                    continue
                count[sm] -= 1  # the last of the list takes the place; what passed for it is still to be taken off
                present -= 1
                n = count[sm]
                left[sm, k], whole[sm, k], least[sm, k] = left[sm, n], whole[sm, n], least[sm, n]
        dealt = 1
        while dealt > 0 and launched < programs:  # to SMs that have room at the same time in turn
            dealt = 0
            for sm in range(sms):
                if now[sm] == soonest and count[sm] < slots and launched < programs:
                    c, k = number[launched], count[sm]
                    left[sm, k], whole[sm, k], least[sm, k] = 1.0, steady[c], alone[c]
                    count[sm] += 1
                    present += 1
                    launched += 1
                    dealt += 1
        for sm in range(sms):
            if now[sm] == soonest:
                until[sm] = np.inf
                for k in range(count[sm]):
                    end = now[sm] + left[sm, k] * max(least[sm, k], whole[sm, k] * count[sm] / per_sm)
                    if end < until[sm]:
                        until[sm] = end
    return last, busy


_dispatched: Final = Native(run_dispatch)


def dispatch(number: np.ndarray, first: np.ndarray, steady: np.ndarray, alone: np.ndarray, *, sms: int, slots: int,
             company: int | None = None) -> Dispatch:
    """Deal CTAs in order of launch: breadth first, then each to the slot that becomes free next.

    A CTA that shares its SM with others goes on at their common pace: with k residents it takes ``max(alone, whole k / company)``, where
    `whole` is its time among `company` CTAs of its class.

    Parameters
    ----------
    number
        int64 by CTA: its class.
    first, steady, alone
        float64 by class: clocks that a CTA takes in the first wave, later, and with the SM for itself. All above 0.
    sms, slots
        SMs, and CTAs that each holds at once.
    company
        CTAs of one class for which `first` and `steady` hold; `slots` by default.

    Examples
    --------
    >>> one = np.array([100.0])
    >>> dispatch(np.zeros(5, np.int64), one, one, one, sms=2, slots=1).makespan
    300.0
    >>> dispatch(np.zeros(3, np.int64), 2 * one, 2 * one, one, sms=1, slots=2).makespan
    300.0
    """
    floor = np.maximum(np.stack([first, steady, np.minimum(alone, np.minimum(first, steady))]), 1e-6)
    per_sm = float(company or slots)
    times, crowd = np.zeros(slots + 1), np.zeros(slots + 1)
    last, busy = _dispatched(np.ascontiguousarray(number, dtype=np.int64), floor[0], floor[1], floor[2], sms, slots, per_sm, times, crowd)
    most = int(np.flatnonzero(times > BRIEF * times.sum())[-1])
    return Dispatch(float(last), busy / last, most, float(crowd[most] / times[most]))
