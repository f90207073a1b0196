"""Requests into channels: in turn, or to the least loaded channel, longest first; and batches into sub-batches.

Attention of one request runs in one channel of a memory with units in its banks, so that the busiest channel sets the time. Greedy
packing is Graham's longest-processing-time rule, which NeuPIMs uses: its worst case is 4/3 of the optimum (Graham, 1969).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..arch.hybrid_spec import PACKINGS
from ..errors import MappingError, UnknownNameError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """Which channel each item has, and what each channel then has to do.

    Attributes
    ----------
    channel
        Channel of each item, int64 of the shape of the loads.
    load
        Sum of the items' loads by channel.
    """

    channel: Ints
    load: Floats

    @property
    def busiest(self) -> float:
        """Load of the busiest channel; 0 for no items."""
        return float(self.load.max(initial=0.0))

    @property
    def balance(self) -> float:
        """Mean load over the busiest; 1 is perfect."""
        return float(self.load.mean() / self.busiest) if self.busiest else 1.0


def pack(loads: Sequence[float] | Floats, channels: int, how: str = "greedy") -> Packing:
    """Give each item a channel.

    Parameters
    ----------
    loads
        Time or bytes of each item, not negative.
    channels
        How many channels.
    how
        ``"round-robin"``: in turn, in the order given. ``"greedy"``: longest first, to the least loaded channel.

    Raises
    ------
    MappingError
        No channel, or a negative load.
    UnknownNameError
        Another way of packing.

    >>> pack([5, 3, 3, 1], 2, "greedy").load.tolist()
    [6.0, 6.0]
    >>> pack([5, 1, 3, 1], 2, "round-robin").load.tolist()
    [8.0, 2.0]
    """
    items = np.asarray(loads, dtype=np.float64)
    if channels < 1 or items.ndim != 1 or (items < 0).any():
        raise MappingError(f"packing needs at least one channel and loads of 0 or more; found {channels} channels, {items.shape} loads, "
                           f"least {items.min(initial=0.0):g}")
    if how not in PACKINGS:
        raise UnknownNameError("packing", how, PACKINGS)
    if how == "round-robin":
        chosen = np.arange(len(items), dtype=np.int64) % channels
    else:
        chosen = np.zeros(len(items), dtype=np.int64)
        heap = [(0.0, channel) for channel in range(channels)]
        for item in np.argsort(-items, kind="stable").tolist():
            load, channel = heapq.heappop(heap)
            chosen[item] = channel
            heapq.heappush(heap, (load + float(items[item]), channel))
    return Packing(chosen, np.bincount(chosen, weights=items, minlength=channels).astype(np.float64))


def halves(packing: Packing) -> tuple[Ints, Ints]:
    """Two sub-batches, half of every channel's items in each; channels with an odd number give the one more in turns (NeuPIMs).

    >>> [part.tolist() for part in halves(pack([1.0] * 6, 2, "round-robin"))]
    [[0, 2, 1], [4, 3, 5]]
    """
    parts: tuple[list[int], list[int]] = ([], [])
    more = True
    for channel in range(len(packing.load)):
        items = np.flatnonzero(packing.channel == channel).tolist()
        first = len(items) // 2
        if len(items) % 2:
            first += more
            more = not more
        parts[0].extend(items[:first])
        parts[1].extend(items[first:])
    return np.array(parts[0], dtype=np.int64), np.array(parts[1], dtype=np.int64)
