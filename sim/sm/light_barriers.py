"""What warps that were followed in compiled code do with mbarriers and bulk copies: their rows and bytes, and rounds that may be cut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...mapping.triton import CompiledKernel
from ...mapping.triton.access import LINE_BYTES
from ...mapping.triton.boxes import box_shape, bytes_inside, map_of
from ...mapping.triton.launch import TensorMap
from ...mapping.triton.warp_runs import NotFollowedError, WarpRun
from . import isa
from .distinct import among, distinct_of, distinct_rows
from .streams import SLOTS, Period, Rows, arrivals_wanted

_ARRIVES = (isa.SYNC_ARRIVE, isa.BULK_LOAD, isa.TCGEN_COMMIT)


@dataclass(frozen=True)
class Boxes:
    """What bulk copies of a launch move.

    Attributes
    ----------
    compiled, maps
        The kernel, and its launch's descriptors by their place in constant bank 0.
    """

    compiled: CompiledKernel
    maps: Mapping[int, TensorMap]

    def tensor(self, descriptor: int) -> TensorMap:
        """The tensor behind a descriptor.

        Raises
        ------
        NotFollowedError
            The kernel made it itself, of more than its arguments.
        """
        found = map_of(self.compiled, self.maps, descriptor)
        if found is None:
            raise NotFollowedError
        return found

    def bytes_of(self, bulks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bytes inside the tensor, and bytes of the whole box, by copy (a record of `warp_machine`); int64."""
        inside, whole = np.zeros(len(bulks), np.int64), np.zeros(len(bulks), np.int64)
        for descriptor in distinct_of(bulks[:, 3]).tolist():
            mine, tensor = np.flatnonzero(bulks[:, 3] == descriptor), self.tensor(descriptor)
            box = box_shape(self.compiled, self.maps, tensor)
            inside[mine] = bytes_inside(tensor, box, bulks[mine, 5:5 + bulks[mine[0], 4]])
            whole[mine] = math.prod(box) * tensor.element_bytes
        return inside, whole


def events_of(run: WarpRun, rows: Rows, kinds: np.ndarray, slots: dict[int, int],
              boxes: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step, instruction and row of what a warp does with mbarriers, as `streams` has it.

    Parameters
    ----------
    kinds
        int64 by instruction: `isa.IsaTable.kind`.
    slots
        Number of each mbarrier by its address, of the CTA; filled.
    """
    step, index, _, address, value = run.syncs.T
    kept = among(kinds[index], (isa.BULK_LOAD, isa.BULK_STORE, isa.SYNC_INIT, isa.SYNC_WAIT, *_ARRIVES))
    step, index, address, value = step[kept], index[kept], address[kept] & 0xFFFFFFFF, value[kept]
    inside, whole = np.zeros(len(step), np.int64), np.zeros(len(step), np.int64)
    copies = np.flatnonzero(among(kinds[index], (isa.BULK_LOAD, isa.BULK_STORE)))
    if len(copies) and len(run.bulks):
        behind = np.searchsorted(run.bulks[:, 0] << 24 | run.bulks[:, 1], step[copies] << 24 | index[copies])
        inside[copies], whole[copies] = (part[behind] for part in boxes.bytes_of(run.bulks))
    columns = np.stack([index, address, value, inside, whole], axis=1)
    picks, inverse = distinct_rows(columns)
    numbers = np.empty(len(picks), np.int64)
    for n, (i, at, given, moved, size) in enumerate(columns[picks].tolist()):
        kind = int(kinds[i])
        slot = -1 if kind == isa.BULK_STORE else slots.setdefault(at, len(slots) % SLOTS)
        if kind in (isa.BULK_LOAD, isa.BULK_STORE):
            numbers[n] = rows.find(i, smem=size / LINE_BYTES, l2_bytes=float(moved), sync_slot=slot, sync_value=size)
        elif kind == isa.SYNC_INIT:
            numbers[n] = rows.find(i, sync_slot=slot, sync_value=arrivals_wanted(given))
        elif kind == isa.SYNC_WAIT:
            numbers[n] = rows.find(i, sync_slot=slot, sync_value=int(given > 0))
        else:
            numbers[n] = rows.find(i, sync_slot=slot, sync_value=max(given, 0) if kind == isa.SYNC_ARRIVE else 0)
    return step, index, numbers[inverse]


@dataclass(frozen=True)
class Stretch:
    """The equal stretches of one warp, and the mbarriers of one of them.

    Attributes
    ----------
    period
        None where there are none.
    waits, arrives
        mbarriers that the warp waits at in a stretch, and those at which it arrives; of a warp without stretches, at any time.
    """

    period: Period | None
    waits: frozenset[int]
    arrives: frozenset[int]


def stretch_of(period: Period | None, step: np.ndarray, row: np.ndarray, rows: Rows, kinds: np.ndarray) -> Stretch:
    """The mbarriers of a warp's stretches, from its accesses by step."""
    inside = np.ones(len(step), dtype=bool) if period is None else (step >= period.first) & (step < period.first + period.length)
    met: tuple[set[int], set[int]] = (set(), set())
    for number in distinct_of(row[inside]).tolist():
        kind = int(kinds[rows.instruction[number]])
        if kind == isa.SYNC_WAIT or kind in _ARRIVES:
            met[kind in _ARRIVES].add(rows.sync_slot[number])
    return Stretch(period, frozenset(met[0]), frozenset(met[1]))


def cut_together(stretches: Sequence[Stretch]) -> list[Period | None]:
    """By warp the stretches that may be cut: as many of each warp, and only if what is cut leaves every mbarrier as it found it.

    That is so where the warps' stretches together wait at all mbarriers that they complete, and complete all that they wait at.
    """
    none: list[Period | None] = [None] * len(stretches)
    touching = [s for s in stretches if s.period is not None or s.waits or s.arrives]
    periods = [s.period for s in touching if s.period is not None]
    if not periods or len(periods) < len(touching) or len({p.iterations for p in periods}) > 1:
        return none
    if frozenset().union(*(s.waits for s in touching)) != frozenset().union(*(s.arrives for s in touching)):
        return none
    times = min(p.times for p in periods)
    return [None if s.period is None else replace(s.period, times=times) for s in stretches]
