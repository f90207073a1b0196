
"""What a wave of CTAs finds in L2, window by window: CTAs go on together, and what they ask for in one window is asked for once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np


def run_windows(order, window, index, key, size, capacity, position, last, found):  # type: ignore[no-untyped-def]
    """All windows; see `through_windows`. `order` has the accesses by window."""
    n = order.shape[0]
    times = np.zeros(last.shape[0], np.int64)
    weight = np.zeros(last.shape[0])
    fresh = np.zeros(last.shape[0], np.bool_)
    at = 0
    while at < n:
        end = at
        while end < n and window[order[end]] == window[order[at]]:
            k = key[order[end]]
            if times[k] == 0:
                fresh[k] = position - last[k] > capacity
            times[k] += 1
            weight[k] += size[order[end]]
            end += 1
        moved = 0.0
        for j in range(at, end):
            i, k = index[order[j]], key[order[j]]
            found[i, 0] += 1.0
            if fresh[k]:
                found[i, 1] += 1.0 / times[k]
                found[i, 2] += 1.0
        for j in range(at, end):
            k = key[order[j]]
            if times[k]:
                moved += weight[k] / times[k]
                last[k] = position
                times[k] = 0
                weight[k] = 0.0
        position += moved
        at = end
    return position


@lru_cache(maxsize=1)
def _compiled() -> Any:
    try:
        from numba import njit
    except ImportError:
        return run_windows
    return njit(cache=True)(run_windows)


def through_windows(index: np.ndarray, key: np.ndarray, size: np.ndarray, window: np.ndarray, capacity_bytes: float, position: float,
                    last: np.ndarray, found: np.ndarray) -> float:
    """Take a wave's accesses through L2.

    Parameters
    ----------
    index, key, size, window
        By access: instruction, sector (numbered from 0), bytes, window.
    capacity_bytes
        Bytes after which what is in L2 is gone.
    position
        Bytes that have come from DRAM before.
    last
        float64 by sector: the position at which it was last asked for; changed.
    found
        float64 of shape (instructions, 3 or more), added to: accesses, those that bring bytes from DRAM, those that wait for it. Accesses
        to one sector in one window bring an equal share each.

    Returns
    -------
    The position behind the wave.
    """
    order = np.argsort(window, kind="stable")
    return float(_compiled()(order, window, index, key, size, float(capacity_bytes), float(position), last, found))
