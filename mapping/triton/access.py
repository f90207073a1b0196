"""Counting memory accesses: bytes, 32-byte sectors, and the passes that shared-memory banks need.

Addresses of a group come as one array; most repeat a pattern at another base, so patterns are measured once and kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .group import Lanes
from .memory_ops import GLOBAL, LOAD, MemoryOp
from .sass import Instruction
from .values import Unknown, Value, settled

SECTOR_BYTES, LINE_BYTES, BANKS, BANK_BYTES = 32, 128, 32, 4
#: No tensor lies here or beyond: what goes there is arithmetic on values that are not the launch's real ones.
FAR = 1 << 48


def in_l1(op: MemoryOp, ins: Instruction) -> bool:
    """Whether an access looks into L1: loads of global memory, unless they ask for coherence or to bypass it."""
    return op.space == GLOBAL and op.kind == LOAD and not ins.has("STRONG", "BYPASS", "NA")


@dataclass(frozen=True)
class Pattern:
    """One warp-wide (or CTA-wide) access up to its base address.

    Attributes
    ----------
    lanes
        Number of the thread set (`Execution.lane_sets`).
    offsets
        uint64 of shape (n,): addresses minus that of the first thread, modulo 2**64; None where all are equal.
    active
        bool of shape (n,), or None for all.
    requests, threads
        Warps and threads with an access.
    sectors
        Distinct 32-byte sectors (global), summed over the warps.
    lines
        Distinct 128-byte lines (global), summed over the warps.
    passes
        Cycles of the shared-memory banks (shared), summed over the warps.
    """

    lanes: int
    offsets: np.ndarray | None
    active: np.ndarray | None
    requests: int
    threads: int
    sectors: int
    lines: int
    passes: int


@dataclass
class Tally:
    """What one instruction accessed, summed over all its executions.

    Attributes
    ----------
    executions
        Warps that issued it with an active thread.
    threads
        Active threads.
    bytes
        Bytes asked for.
    sectors, lines, passes
        As in `Pattern`.
    unknown
        Executions whose addresses depend on data; their bytes count, their sectors do not.
    """

    executions: int = 0
    threads: int = 0
    bytes: int = 0
    sectors: int = 0
    lines: int = 0
    passes: int = 0
    unknown: int = 0


@dataclass
class PatternTable:
    """Every pattern seen, by number."""

    patterns: list[Pattern] = field(default_factory=list)
    numbers: dict[tuple[object, ...], int] = field(default_factory=dict)

    def find(self, lanes: Lanes, address: Value, active: np.ndarray | None, size: int, rows: int,
             shared: bool) -> tuple[int, int]:
        """Number of the pattern and the base address (of the group's first thread)."""
        grain = LINE_BYTES
        if type(address) is int:
            base, offsets, raw = address, None, b""
        else:
            base = int(address[0])
            offsets = address - address[0]
            raw = offsets.tobytes()
        key = (lanes.number, size, rows, shared, base % grain, raw, active.tobytes() if active is not None else b"")
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.patterns)
            self.patterns.append(_measure(lanes, base, offsets, active, size, rows, shared))
        return number, base


def _measure(lanes: Lanes, base: int, offsets: np.ndarray | None, active: np.ndarray | None, size: int, rows: int,
             shared: bool) -> Pattern:
    on = np.ones(lanes.count, dtype=bool) if active is None else active
    per_warp = np.add.reduceat(on.astype(np.int64), lanes.starts)
    requests, threads = int((per_warp > 0).sum()), int(on.sum())
    address = np.full(lanes.count, np.uint64(base)) if offsets is None else offsets + np.uint64(base)
    sectors = lines = passes = 0
    if shared:
        passes = _bank_passes(lanes, address, on, size, rows)
    else:
        sectors = _distinct(lanes, address, on, size, SECTOR_BYTES)
        lines = _distinct(lanes, address, on, size, LINE_BYTES)
    return Pattern(lanes.number, offsets, active, requests, threads, sectors, lines, passes)


def _distinct(lanes: Lanes, address: np.ndarray, on: np.ndarray, size: int, grain: int) -> int:
    """Distinct pieces of `grain` bytes, counted in each warp and summed."""
    shift = np.uint64(grain.bit_length() - 1)
    first, last = address[on] >> shift, (address[on] + np.uint64(size - 1)) >> shift
    warp = lanes.warp[on].astype(np.uint64)
    pieces = [np.stack([warp, np.minimum(first + np.uint64(k), last)]) for k in range(size // grain + 2)]
    return int(np.unique(np.concatenate(pieces, axis=1), axis=1).shape[1]) if on.any() else 0


def bank_passes(address: np.ndarray, size: int) -> int:
    """Cycles of the banks for one warp's access: threads go in rounds of 128 bytes, a round takes as many cycles as the
    busiest bank has distinct words.

    Parameters
    ----------
    address
        uint64 of shape (n,), the active threads' byte addresses in order of lane.
    size
        Bytes a thread: 1 to 16.

    Examples
    --------
    >>> bank_passes(np.arange(32, dtype=np.uint64) * 4, 4), bank_passes(np.arange(32, dtype=np.uint64) * 128, 4)
    (1, 32)
    """
    together = max(1, BANKS * BANK_BYTES // max(size, BANK_BYTES))
    total = 0
    for at in range(0, len(address), together):
        part = address[at:at + together]
        words = np.unique((part[:, None] // np.uint64(BANK_BYTES) + np.arange(max(1, size // BANK_BYTES), dtype=np.uint64)).ravel())
        total += int(np.bincount((words % np.uint64(BANKS)).astype(np.int64)).max()) if len(words) else 0
    return total


def _bank_passes(lanes: Lanes, address: np.ndarray, on: np.ndarray, size: int, rows: int) -> int:
    total = 0
    seen: dict[bytes, int] = {}
    for warp, start in enumerate(lanes.starts):
        stop = lanes.starts[warp + 1] if warp + 1 < len(lanes.starts) else lanes.count
        part = address[start:stop][on[start:stop]]
        if len(part):
            part = (part[:rows] if rows else part)
            part = part - (part[0] & ~np.uint64(BANKS * BANK_BYTES - 1))  # whole rounds of the banks change nothing
            key = part.tobytes()
            if key not in seen:
                seen[key] = bank_passes(part, size)
            total += seen[key]
    return total


def tally_access(tally: Tally, table: PatternTable, lanes: Lanes, guard: Value, address: Value, size: int, rows: int,
                 shared: bool) -> tuple[int, int] | None:
    """Add one execution to a tally.

    Returns
    -------
    Pattern number and base address, or None where nothing was accessed or the addresses are unknown.
    """
    guard = settled(guard)
    if guard is False:
        return None
    address = settled(address, guard)
    active = guard if type(guard) is np.ndarray else None
    if active is not None:
        count = int(np.count_nonzero(active))
        if not count:
            return None
        if count == lanes.count:
            active = None
    if type(address) is Unknown:
        threads = lanes.count if active is None else int(active.sum())
        tally.executions += len(lanes.warps)
        tally.threads += threads
        tally.bytes += _bytes_of(len(lanes.warps), threads, size, rows)
        tally.unknown += 1
        return None
    number, base = table.find(lanes, address, active, size, rows, shared)
    pattern = table.patterns[number]
    tally.executions += pattern.requests
    tally.threads += pattern.threads
    tally.bytes += _bytes_of(pattern.requests, pattern.threads, size, rows)
    tally.sectors += pattern.sectors
    tally.lines += pattern.lines
    tally.passes += pattern.passes
    return number, base


def _bytes_of(warps: int, threads: int, size: int, rows: int) -> int:
    """Bytes asked for: each thread's, or each matrix row's where 32 threads share them (LDSM)."""
    return warps * rows * size if rows else threads * size
