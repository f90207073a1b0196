"""What the CTAs of one class read and write: bytes by instruction, the memory behind them, and what lies where, sector by sector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...mapping.triton import CompiledKernel, Evaluation, Launch, Program, evaluate
from ...mapping.triton.access import SECTOR_BYTES
from ...mapping.triton.memory_ops import ATOMIC, COPY, GLOBAL, LOAD
from ...mapping.triton.pointers import buffers_behind
from .classes import program_ids
from .footprint import Footprint, addresses_touched, footprint_of, past_l1
from .l2 import ANYWHERE, scattered


@dataclass(frozen=True)
class Loads:
    """What the CTAs of one class read.

    Attributes
    ----------
    instructions
        Instructions of the kernel.
    sizes
        Bytes (whole sectors) that a CTA asks for with each instruction that reads global memory.
    times
        How often all its warps execute each of these together.
    boxes
        Those that copy in bulk.
    stores
        Bytes (whole sectors) that a CTA sends to L2 with each instruction that writes global memory, atomics included.
    storage
        First byte and size of the memory behind a tensor, by instruction: what its addresses lie in, also where they depend on data.
    footprint, cta
        Gives what a CTA reads and writes, sector by sector, from its number in order of launch; number of the CTA that was followed.
    extent
        By instruction the lowest and the highest address at which this CTA begins an access, where it is sooner known than the footprint.
    passed
        Bytes for which this CTA asks L2 by instruction: what L1 held is left out.
    others
        Accesses of other warps than the first.
    atomics
        int64 by instruction: addresses that this CTA's atomics touch (once for each warp's pattern and place).
    scattered
        Atomics whose addresses depend on data.
    glimpse
        Gives what a few warps of the CTA that was followed read and write, where that is sooner known than the footprint.
    """

    instructions: int
    sizes: Mapping[int, float]
    times: Mapping[int, float]
    boxes: frozenset[int]
    stores: Mapping[int, float] = field(default_factory=dict)
    storage: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    footprint: Callable[[int], Footprint | None] | None = None
    cta: int = 0
    extent: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    passed: Mapping[int, float] = field(default_factory=dict)
    others: frozenset[int] = frozenset()
    atomics: Mapping[int, np.ndarray] = field(default_factory=dict)
    scattered: frozenset[int] = frozenset()
    glimpse: Callable[[], Footprint | None] | None = None

    def of_l2(self, sizes: Mapping[int, float]) -> dict[int, float]:
        """Of bytes that a CTA asks for those that L2 is asked for."""
        return {index: self.passed.get(index, size) for index, size in sizes.items()}


def loads_of(run: Evaluation, *, l1_bytes: float = 0.0) -> Loads:
    """What a CTA that was followed reads and writes.

    Parameters
    ----------
    l1_bytes
        L1 cache left beside shared memory.
    """
    sides: tuple[dict[int, float], dict[int, float]] = ({}, {})
    code, x, y = run.program.listing.instructions, *run.launch.grid[:2]
    for index, tally in run.tallies.items():
        op = run.program.memory_ops[index]
        if op.space == GLOBAL:
            sides[op.kind not in (LOAD, COPY)][index] = float(max(tally.sectors * SECTOR_BYTES, tally.bytes if tally.unknown else 0))
    bulk: dict[int, int] = {}
    storage = storage_of(run.program, run.launch, [index for side in sides for index in side])
    for each in run.bulks:
        index, (found, size) = each.instruction, run.bulk_box(each)
        side = sides[code[index].base not in ("UTMALDG", "UBLKCP")]
        side[index] = side.get(index, 0.0) + float(size or 0)
        bulk[index] = bulk.get(index, 0) + 1
        if found is not None:
            storage[index] = (found.buffer.start, found.buffer.size_bytes)
    lead: set[int] = set()
    for _, index, who, _, _ in run.trace.syncs if run.trace is not None else ():
        lead |= {index} if 0 in who else set()
    for _, index, pattern, _ in run.trace.accesses if run.trace is not None else ():
        lead |= {index} if index not in lead and 0 in run.lane_sets[run.patterns[pattern].lanes].warps else set()
    counts, warps = run.instruction_counts, max(run.program.threads // 32, 1)
    times = {index: float(bulk.get(index) or counts[index] / warps) for side in sides for index in side}
    first = run.program_ids[0].tolist()
    cta = first[0] + x * (first[1] + y * first[2])

    def footprint(number: int) -> Footprint | None:
        return footprint_of(run, l1_bytes) if number == cta else followed_footprint(run.program.compiled, run.launch, l1_bytes, number)

    others = frozenset(i for side in sides for i in side if i not in lead and not (i in run.tallies and run.tallies[i].unknown))
    atomics = {i: np.zeros(0, dtype=np.int64) for side in sides for i in side
               if i in run.tallies and run.program.memory_ops[i].kind == ATOMIC}
    atomics |= addresses_touched(run, atomics)
    for index in atomics:
        if run.tallies[index].unknown:
            done, size = run.tallies[index], run.program.memory_ops[index].thread_bytes
            lanes = max(1, round(done.threads / max(done.executions, 1)))
            sectors = done.executions * scattered(storage.get(index, (0, ANYWHERE))[1], size, lanes)[1]
            sides[1][index] = max(sides[1][index], sectors * SECTOR_BYTES)
    return Loads(len(code), sides[0], times, frozenset(bulk), sides[1], storage, footprint, cta, passed=past_l1(run, l1_bytes),
                 others=others, atomics=atomics, scattered=frozenset(i for i in atomics if run.tallies[i].unknown))


def followed_footprint(compiled: CompiledKernel, launch: Launch, l1_bytes: float, number: int) -> Footprint | None:
    """What the CTA of this number in order of launch reads and writes."""
    return footprint_of(evaluate(compiled, launch, program_ids(launch, [number]), trace=True, close=True), l1_bytes)


def storage_of(program: Program, launch: Launch, accesses: Iterable[int]) -> dict[int, tuple[int, int]]:
    """First byte and size of the memory that accesses lie in, by instruction, where all pointers in an address belong to one tensor."""
    behind = {index: {(b.start, b.size_bytes) for b in buffers} for index, buffers in buffers_behind(program, launch, accesses).items()}
    return {index: next(iter(places)) for index, places in behind.items() if len(places) == 1}
