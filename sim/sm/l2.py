"""The L2 cache as the CTAs of a kernel find it: what it keeps, its partitions, and its atomic units.

Two partitions (A100, H100): every line has its home in one of them, and an SM asks the near one. What is not there is fetched through the
link between them, and the near partition keeps a copy (NVIDIA, A100 white paper; GTC 2021, S33322, Dissecting the Ampere GPU
Architecture). So what SMs on both sides read takes its place twice, and only the first of them on the far side waits for the link. Lines
are spread evenly over the partitions, CTAs evenly over the SMs on either side. Published sweeps have it so: an A100 (2 x 20 MB) goes on at
full speed up to 20 MB where all SMs read the same bytes, and up to 26 MB where every byte is read by one SM at a time, which is C / 2 and
C / 1.5 (te42kyfo/gpu-benches, gpu-cache and gpu-l2-cache; H100: 25 and 33 MB of 2 x 25).

Atomics are done in the slices of L2: a slice takes one sector of a warp's request a clock, all its words at once, and again for every
further lane with the same address; consecutive addresses lie in one slice for some hundred bytes (`atomic_interval`, `atomic_block` in
`arch/sm_timing.yaml`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from ...arch import System
from ...arch.sm_timing import SmTiming
from ...mapping.triton.access import SECTOR_BYTES
from .distinct import count_of, distinct_of

#: Bytes a clock of one slice of L2 (A100 white paper: 64), of which a sector that is read and written back takes all.
SLICE_BYTES: Final = 64
#: Bytes of a line that L2 fetches from DRAM at a time, at least.
PIECE_BYTES: Final = 64
#: Size of a buffer that nothing is known of.
ANYWHERE: Final = 1 << 40
#: Bytes that come round again, over what L2 keeps, up to which all of them are still there, and from which none is
#: (te42kyfo/gpu-benches, gpu-latency: of chains that are gone through in turn, an L40 finds all at 94 MB, half at 106 and a sixth at 121,
#: an H100 PCIe all at 47, half at 57 and a seventh at 63; they keep 0.95 of 98 and of 51 MB).
_HELD: Final = (1.0, 1.32)
#: Warps that are drawn to know how lanes meet that are spread over a buffer by data.
_DRAWS: Final = 64


@dataclass(frozen=True)
class L2Cache:
    """What is known of L2 before a kernel's addresses.

    Attributes
    ----------
    capacity_bytes
        What it keeps while a kernel runs, copies included.
    between_bytes
        What of it outlasts a kernel.
    partitions
        How many.
    merge
        SMs whose requests of one line are served once.
    warm
        The operands were used just before the launch.
    held
        Share of them that it still holds; None: what outlasts a kernel that touched the same.
    dirty
        What outlasts a kernel was written before the launch, and DRAM does not have it yet.
    slices
        Slices of 64 bytes a clock.
    block_bytes
        Consecutive addresses that lie in one slice.
    """

    capacity_bytes: float
    between_bytes: float
    partitions: int = 1
    merge: int = 1
    warm: bool = False
    slices: float = 1.0
    block_bytes: int = 512
    dirty: bool = False
    held: float | None = None

    @classmethod
    def of(cls, system: System, timing: SmTiming, *, warm: bool | float, dirty: bool = False) -> L2Cache:
        """That of a GPU; `warm` as `simulate_kernel` takes it."""
        l2 = system.gpu.l2
        held = None if isinstance(warm, bool) else float(warm)
        return cls(timing.l2_kept * l2.size_bytes, system.calibration["memory.l2_residency"] * l2.size_bytes, int(l2.partitions),
                   int(timing.merged_sms), bool(warm), l2.bytes_per_clk / SLICE_BYTES, int(timing.atomic_block), dirty, held)

    def written_back(self, moved_bytes: float, written_bytes: float) -> float:
        """Bytes that go to DRAM while a kernel runs beside what it reads and writes itself: 0 unless L2 is `dirty`.

        L2 writes a line back when its place is taken, so that what a flush has cleared is written during the kernel that follows, and what
        the kernel writes is in part still in L2 when it ends (NVIDIA/nvbench issue 270: a fill at 114 % of DRAM's bandwidth). The place of
        a new line is taken as drawn at random; copies in the other partition are left out.

        Parameters
        ----------
        moved_bytes
            What the kernel brings into L2 and writes, each line once for every time that it takes a place.
        written_bytes
            What of it the kernel writes.

        Examples
        --------
        >>> flushed = L2Cache(50e6, 30e6, dirty=True)
        >>> [round(flushed.written_back(moved, 0.0) / 1e6, 1) for moved in (5e6, 50e6, 500e6)]
        [2.9, 19.0, 30.0]
        """
        if not self.dirty or moved_bytes <= 0.0:
            return 0.0
        taken = 1.0 - math.exp(-moved_bytes / self.capacity_bytes)
        return taken * (self.between_bytes - self.capacity_bytes * written_bytes / moved_bytes)

    def outlasting(self, touched_bytes: float) -> float:
        """Share of what was read that L2 still holds when so many bytes have been touched, all of which come round again.

        Examples
        --------
        >>> [round(L2Cache(1.0, 1.0).outlasting(touched), 3) for touched in (1.0, 1.2, 1.4)]
        [1.0, 0.375, 0.0]
        """
        full, none = _HELD
        return min(1.0, max(0.0, (none - touched_bytes / self.capacity_bytes) / (none - full)))

    @property
    def elsewhere(self) -> float:
        """Chance that a line's home is not the partition that is asked."""
        return 1.0 - 1.0 / self.partitions

    def fetched(self, before: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Copies of a line that are made when `times` CTAs ask for it, of which `before` have already asked while L2 held it.

        Examples
        --------
        >>> L2Cache(1.0, 1.0, partitions=2).fetched(np.zeros(3), np.array([1, 2, 8])).tolist()
        [0.5, 0.75, 0.99609375]
        """
        extra = self.partitions - 1
        return np.asarray(extra * (self.elsewhere**before - self.elsewhere**(before + times)) if extra else np.zeros(len(times)))

    def far(self, before: np.ndarray) -> np.ndarray:
        """Chance that a line that L2 holds, and for which `before` CTAs have asked, is not in the partition that the next one asks."""
        return np.asarray(self.elsewhere * self.elsewhere**before if self.partitions > 1 else np.zeros(len(before)))

    def places(self, times: np.ndarray) -> np.ndarray:
        """How often a line lies in L2 for which `times` CTAs ask."""
        return 1.0 + self.fetched(np.zeros(len(times)), times)

    def serving(self, blocks: int) -> float:
        """Slices that serve atomics to so many blocks of addresses; 0 where these are so many that only L2's bandwidth counts."""
        return float(max(blocks, 1)) if blocks < self.slices else 0.0


def atomic_passes(addresses: np.ndarray) -> int:
    """Clocks for which one warp's atomics take slices of L2: by sector, as often as the address that most lanes have.

    Parameters
    ----------
    addresses
        int64: those of the active lanes.

    Examples
    --------
    >>> atomic_passes(np.arange(32) * 4), atomic_passes(np.zeros(32, int)), atomic_passes(np.arange(32) % 4 * 4)
    (4, 32, 8)
    """
    words, times = np.unique(addresses, return_counts=True)
    _, sector = np.unique(words // SECTOR_BYTES, return_inverse=True)
    most = np.zeros(int(sector.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(most, sector.reshape(-1), times)
    return int(most.sum())


@lru_cache(maxsize=256)
def scattered(buffer_bytes: int, lane_bytes: int, lanes: int) -> tuple[float, float]:
    """Clocks and sectors of a warp's atomics whose addresses data decides, taken as evenly spread over a buffer: means of warps drawn.

    Examples
    --------
    >>> scattered(4, 4, 32), scattered(1 << 40, 4, 32)
    ((32.0, 1.0), (32.0, 32.0))
    """
    drawn = np.random.default_rng(0).integers(0, max(buffer_bytes // lane_bytes, 1), (_DRAWS, lanes)) * lane_bytes
    return (float(np.mean([atomic_passes(warp) for warp in drawn])),
            float(np.mean([len(np.unique(warp // SECTOR_BYTES)) for warp in drawn])))


def blocks_of(starts: np.ndarray, shifts: np.ndarray, block_bytes: int) -> int:
    """Distinct blocks of addresses that CTAs touch with their atomics.

    Parameters
    ----------
    starts
        int64: addresses that one of them touches.
    shifts
        int64 by CTA: how much further on it begins.
    """
    moves = distinct_of(shifts)
    if len(moves) * len(starts) > 1 << 20:  # many more than there are slices
        return len(moves)
    return count_of((starts[None, :] + moves[:, None]) // block_bytes) if len(starts) and len(moves) else 0


def union_of(parts: Sequence[np.ndarray], block_bytes: int) -> int:
    """Distinct blocks of some addresses."""
    return count_of(np.concatenate(parts) // block_bytes) if parts else 0
