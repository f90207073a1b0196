
"""What a wave of CTAs finds in L2, window by window: CTAs go on together, and what they ask for in one window is asked for once."""

from __future__ import annotations

from typing import Final

import numpy as np

from ...native import Native


def run_windows(order, window, index, key, size, capacity, position, last, touched, partitions, found):  # type: ignore[no-untyped-def]
    """All windows; see `through_windows`. `order` has the accesses by window."""
    n = order.shape[0]
    times = np.zeros(last.shape[0], np.int64)
    weight = np.zeros(last.shape[0])
    copies = np.zeros(last.shape[0])
    far = np.zeros(last.shape[0])
    fresh = np.zeros(last.shape[0], np.bool_)
    at = 0
    while at < n:
        end = at
        while end < n and window[order[end]] == window[order[at]]:
            k = key[order[end]]
            if times[k] == 0:
                fresh[k] = position - last[k] > capacity
                if fresh[k]:
                    touched[k] = 0.0
            times[k] += 1
            weight[k] += size[order[end]]
            end += 1
        moved = 0.0
        for j in range(at, end):
            i, k = index[order[j]], key[order[j]]
            if far[k] == 0.0 and partitions[i] > 1:  # see `l2.L2Cache`
                elsewhere = 1.0 - 1.0 / partitions[i]
                far[k] = elsewhere**(1.0 + touched[k])
                copies[k] = (partitions[i] - 1) * (elsewhere**touched[k] - elsewhere**(touched[k] + times[k]))
                weight[k] *= 1.0 + (partitions[i] - 1) * (1.0 - elsewhere**times[k])
            found[i, 0] += 1.0
            found[i, 4] += copies[k] / times[k]
            if not fresh[k]:
                found[i, 3] += far[k]
            if fresh[k]:
                found[i, 1] += 1.0 / times[k]
                found[i, 2] += 1.0
        for j in range(at, end):
            k = key[order[j]]
            if times[k]:
                moved += weight[k] / times[k]
                last[k] = position
                touched[k] += times[k]
                times[k] = 0
                far[k] = 0.0
                copies[k] = 0.0
                weight[k] = 0.0
        position += moved
        at = end
    return position


_windows: Final = Native(run_windows)


def through_windows(index: np.ndarray, key: np.ndarray, size: np.ndarray, window: np.ndarray, capacity_bytes: float, position: float,
                    last: np.ndarray, touched: np.ndarray, partitions: np.ndarray, found: np.ndarray) -> float:
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
    touched
        float64 by sector: how often it has been asked for since it came; changed.
    partitions
        int64 by instruction: partitions of L2 that keep copies of what it asks for (1: none, as of what is written).
    found
        float64 of shape (instructions, 5), added to: accesses, those that bring bytes from DRAM, those that wait for it, those that wait
        for another partition of L2, and those that bring bytes from there. Accesses to one sector in one window bring an equal share each.

    Returns
    -------
    The position behind the wave.
    """
    order = np.argsort(window, kind="stable")
    return float(_windows(order, window, index, key, size, float(capacity_bytes), float(position), last, touched, partitions, found))
