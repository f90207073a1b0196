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
    chosen = arrive(items, np.zeros(channels), how)
    return Packing(chosen, np.bincount(chosen, weights=items, minlength=channels).astype(np.float64))


def arrive(loads: Floats, there: Floats, how: str = "greedy", turn: int = 0) -> Ints:
    """Channel of each newcomer where others are already.

    Parameters
    ----------
    loads
        Load of each newcomer.
    there
        Load that each channel has.
    how
        As in `pack`.
    turn
        Newcomers before these, for taking turns.

    Raises
    ------
    UnknownNameError
        Another way of packing.

    >>> arrive(np.array([4.0, 1.0]), np.array([3.0, 0.0])).tolist()
    [1, 0]
    """
    if how not in PACKINGS:
        raise UnknownNameError("packing", how, PACKINGS)
    if how == "round-robin":
        return (turn + np.arange(len(loads), dtype=np.int64)) % len(there)
    if len(loads) and loads[0] > 0 and (loads == loads[0]).all() and not there.any():
        return np.arange(len(loads), dtype=np.int64) % len(there)  # equal loads go in turn: what the heap below would find
    chosen = np.zeros(len(loads), dtype=np.int64)
    heap = [(float(load), channel) for channel, load in enumerate(there.tolist())]
    heapq.heapify(heap)
    for item in np.argsort(-loads, kind="stable").tolist():
        load, channel = heapq.heappop(heap)
        chosen[item] = channel
        heapq.heappush(heap, (load + float(loads[item]), channel))
    return chosen


def packed(loads: Sequence[float] | Floats, where: Sequence[int] | Ints, channels: int) -> Packing:
    """The packing of items whose channels are known.

    Raises
    ------
    MappingError
        A channel for each item is missing, or is not one of ``0 ... channels - 1``.

    >>> packed([5, 3, 1], [1, 0, 1], 2).load.tolist()
    [3.0, 6.0]
    """
    items, chosen = np.asarray(loads, dtype=np.float64), np.asarray(where, dtype=np.int64)
    if items.shape != chosen.shape or (len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < channels):
        raise MappingError(f"packing: expected a channel from 0 to {channels - 1} for each of {items.size} items, found {chosen.size}"
                           + (f" from {chosen.min()} to {chosen.max()}" if chosen.size else ""))
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
