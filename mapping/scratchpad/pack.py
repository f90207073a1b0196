"""Addresses for tensors with known lifetimes (dynamic storage allocation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from .plan import Interval


def pack(intervals: Sequence[Interval], sizes: Sequence[int], capacity_bytes: int, time_limit_s: float) -> list[Interval] | None:
    """Give every interval an address such that none overlap in space and time.

    First fit in several orders first; where none fits, an integer program with an above-or-below choice for each pair that meets in time.

    Parameters
    ----------
    intervals
        Stays of tensors.
    sizes
        Bytes of each interval's tensor, in the order of `intervals`.
    capacity_bytes, time_limit_s
        Of the scratchpad; of the integer program.

    Returns
    -------
    list or None
        None: no packing exists, or none was found in time.
    """
    count = len(intervals)
    keys: list[Callable[[int], tuple[float, ...]]] = [
        lambda i: (-sizes[i], intervals[i].first),
        lambda i: (intervals[i].first - intervals[i].last, -sizes[i]),
        lambda i: (-sizes[i] * (intervals[i].last - intervals[i].first + 1.0), i),
        lambda i: (intervals[i].first, -sizes[i]),
    ]
    for key in keys:
        addresses = _first_fit(intervals, sizes, sorted(range(count), key=key))
        if all(addresses[i] + sizes[i] <= capacity_bytes for i in range(count)):
            return [replace(interval, address=addresses[i]) for i, interval in enumerate(intervals)]
    return _exact(intervals, sizes, capacity_bytes, time_limit_s)


def _meet(a: Interval, b: Interval) -> bool:
    return a.first <= b.last and b.first <= a.last


def _first_fit(intervals: Sequence[Interval], sizes: Sequence[int], order: Sequence[int]) -> list[int]:
    addresses = [0] * len(intervals)
    placed: list[int] = []
    for i in order:
        end = 0
        for j in sorted((j for j in placed if _meet(intervals[i], intervals[j])), key=lambda j: addresses[j]):
            if addresses[j] - end >= sizes[i]:
                break
            end = max(end, addresses[j] + sizes[j])
        addresses[i] = end
        placed.append(i)
    return addresses


def _exact(intervals: Sequence[Interval], sizes: Sequence[int], capacity_bytes: int, time_limit_s: float) -> list[Interval] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    count = len(intervals)
    pairs = [(i, j) for i, j in combinations(range(count), 2) if _meet(intervals[i], intervals[j])]
    unit = float(np.gcd.reduce(list(sizes)))
    room = capacity_bytes // unit
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    low: list[float] = []
    for p, (i, j) in enumerate(pairs):  # above[p] = 1: j lies above i
        for first, second, sign, constant in ((i, j, -1.0, 0.0), (j, i, 1.0, 1.0)):
            row = len(low)
            rows += [row, row, row]
            columns += [second, first, count + p]
            values += [1.0, -1.0, sign * room]
            low.append(sizes[first] / unit - room * (1.0 - constant))
    matrix = coo_array((values, (rows, columns)), shape=(len(low), count + len(pairs)))
    high = np.array([*(room - s / unit for s in sizes), *([1.0] * len(pairs))])
    if (high < 0).any():
        return None
    found = milp(
        np.zeros(count + len(pairs)),
        integrality=np.ones(count + len(pairs), dtype=np.int64),
        bounds=Bounds(np.zeros(count + len(pairs)), high),
        constraints=LinearConstraint(matrix.tocsr(), np.array(low), np.full(len(low), np.inf)),
        options={"time_limit": time_limit_s},
    )
    if found.x is None:
        return None
    return [replace(interval, address=round(found.x[i]) * int(unit)) for i, interval in enumerate(intervals)]
