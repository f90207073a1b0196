"""Refresh beside the units of NeuPIMs and Newton, in closed form.

Ranks are refreshed in turn, tREFI over their number apart (DRAMsim3's RANK_LEVEL_STAGGERED, which NeuPIMs' public simulator uses), and the
units need all of them: each refresh stops them for tRFC. A header tells the controller how long a tile will take. A tile that would end
after the next refresh is due waits for it, and so do the tiles behind it; ordinary accesses go on. The controller's estimate is longer
than a tile of NeuPIMs, since it counts `estimate_per_bank` cycles for each bank whose row is still open, and shorter than one of Newton.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ..arch.dram import DramDevice

Floats = npt.NDArray[np.float64]

_NEVER: Final = 1 << 62
#: Products that fill the adders' pipeline: fewer take as long (NeuPIMs' public simulator).
PIPELINE: Final = 6


def spacing(device: DramDevice) -> int:
    """Cycles from the refresh of one rank to that of the next; 0 for a device without refresh.

    >>> from presilicon.arch.dram import load
    >>> spacing(load("neupims-hbm2"))
    1950
    """
    if device.refresh is None:
        return 0
    return device.timings[device.refresh.interval] // (device.organisation.pseudo_channels * device.organisation.ranks)


def tile_estimate(device: DramDevice, columns: int, results: int = 1) -> int:
    """Cycles within which the controller expects a tile to end, from the moment in which it sees the header.

    Source: NeuPIMs' public simulator, EstimatePIMOperationLatency.

    >>> from presilicon.arch.dram import load
    >>> tile_estimate(load("neupims-hbm2"), 32), tile_estimate(load("newton-hbm2"), 32)
    (328, 168)
    """
    t, org = device.timings, device.organisation
    close = device.controller.get("estimate_per_bank", 0) * org.banks_per_channel
    opened = (org.bank_groups - 1) * t["tFAW"] + t["tRCDRD"]
    products = max(t["tBL"], t["tCCD_S"]) * max(columns, PIPELINE)
    return close + opened + products + max(t["tBL"], t["tCCD_L"]) * (results - 1)


def vector_estimate(device: DramDevice) -> int:
    """Cycles within which the controller expects a vector in the global buffer, whose row it has to open."""
    return device.timings["tGWRITE"] + device.timings["tRP"] + device.timings["tRCDRD"]


def dual(device: DramDevice) -> bool:
    """Whether the units have a row buffer of their own in every bank; one command then stands for a result's products and its read."""
    return any(command.name == "PIMPRE" for command in device.commands)


def seen_before(device: DramDevice, length: int, columns: int, results: int = 1) -> int:
    """Cycles of a tile of `length` that are left when the controller sees the next header, behind its last command."""
    t, org = device.timings, device.organisation
    first = (org.bank_groups - 1) * t["tFAW"] + org.pseudo_channels * org.ranks - 1 + t["tRCDRD"]
    if dual(device):
        begun = columns - columns // results
        return length - (first + begun * t["tCCD_L"] + (results - 1) * t["tCCD_S"]) - 1
    return length - (first + columns * t["tCCD_L"] + (results - 1) * t["tCCD_S"]) - 1


class TileClock:
    """Tiles and vectors of one channel one after the other, from refresh to refresh.

    Attributes
    ----------
    shut
        Cycle of the last precharge.
    """

    def __init__(self, device: DramDevice, refresh: bool = True) -> None:
        org, t = device.organisation, device.timings
        self.device, self.ranks = device, org.pseudo_channels * org.ranks
        self.interval = spacing(device) if refresh else 0
        self.due, self.rank = self.interval or _NEVER, 0
        self.opened = (org.bank_groups - 1) * t["tFAW"] + self.ranks - 1 + t["tRCDRD"]
        self.shut, self.free, self.next, self.told = -1, 0, 0, 0

    def _refresh_before(self, estimate: int) -> None:
        """A refresh, where what comes is not expected to end before it is due; the units then wait for their rank."""
        if self.due - self.told > estimate:
            return
        t = self.device.timings
        begun = max(self.due, self.shut + t["tRP"])
        self.next = max(self.next, begun + t["tRFC"] - self.rank)  # activates of ranks are a slot apart, that of the first rank first
        self.free = max(self.free, begun + (1 if self.rank else t["tRFC"]))  # the vector lies in the first rank
        self.told = begun
        self.due += self.interval
        self.rank = (self.rank + 1) % self.ranks

    def vector(self) -> None:
        """A vector into the global buffer."""
        self._refresh_before(vector_estimate(self.device))
        self.told = self.free + self.device.timings["tGWRITE"]
        self.next = max(self.next, self.told)

    def tiles(self, count: int, length: int, columns: int, results: int = 1) -> None:
        """So many equal tiles of `length` cycles each."""
        t, estimate = self.device.timings, tile_estimate(self.device, columns, results)
        ahead = seen_before(self.device, length, columns, results)
        while count:
            self._refresh_before(estimate)
            # The first goes; of those behind it, all that the controller still lets begin before the next refresh.
            now = min(count, 1 + max(0, (self.due - estimate - 1 - (self.next + length - ahead)) // length + 1) if self.interval else count)
            last = self.next + (now - 1) * length
            self.shut, self.next, self.told = last + length - t["tRP"], last + length, last + length - ahead
            self.free = last + self.opened + columns * t["tCCD_L"] + (results - 1) * t["tCCD_S"] + 1
            count -= now


def waiting(length: float, estimate: float, ahead: float) -> float:
    """Mean cycles for which units wait for a refresh in a long row of equal tiles, over all cycles in which it may fall due.

    Parameters
    ----------
    length
        Cycles from one tile to the next.
    estimate
        Cycles that the controller expects of one.
    ahead
        Cycles before the end of the tile before it in which the controller sees a header (`seen_before`).
    """
    most = max(0.0, estimate - ahead)  # the next refresh is at most so far from the end of the last tile before it
    return (most**2 - max(0.0, most - length) ** 2) / (2.0 * length)


def refreshed(device: DramDevice, parts: Sequence[tuple[Floats, float, float]]) -> Floats:
    """Cycles of each request with refresh, on average over the cycles in which it may fall due.

    Rows of equal tiles fall into step with refresh and lose up to a tenth more or less (`TileClock`); those of a batch are not equal.

    Parameters
    ----------
    device
        Device of the units.
    parts
        For each kind of tile or vector: how many, ``(requests,)``; cycles of each; and mean cycles that units wait in a row of it.
    """
    total = sum((count * length for count, length, _ in parts), np.zeros_like(parts[0][0]))
    if device.refresh is None:
        return total
    waited = sum((count * length * wait for count, length, wait in parts), np.zeros_like(total)) / np.maximum(total, 1.0)
    return np.asarray(total / (1.0 - (device.timings[device.refresh.duration] + waited) / spacing(device)))
