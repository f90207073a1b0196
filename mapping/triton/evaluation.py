"""What some CTAs of a launch execute: counts of instructions, FLOP and bytes, and the order of it all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...errors import KernelError
from .access import Pattern, Tally
from .assumptions import Assumption
from .boxes import box_shape, bytes_inside, map_of
from .effects import Bulk, Trace
from .group import Lanes
from .launch import Launch, TensorMap
from .program import Program
from .tensor_core import TENSOR_CORE, MatrixShape, static_shape
from .ttgir import COPIES, TileProgram, parse_ttgir


@dataclass(frozen=True)
class Touch:
    """One memory access of a group of threads.

    Attributes
    ----------
    step
        Index into the trace's steps.
    instruction
        Index of the instruction; `Program.memory_ops` says what it does.
    lanes
        The threads.
    addresses, active
        uint64 and bool of shape (threads,): where each accesses, and whether it does.
    """

    step: int
    instruction: int
    lanes: Lanes
    addresses: np.ndarray
    active: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """What some CTAs of a launch execute.

    Attributes
    ----------
    program, launch
        What was evaluated.
    program_ids
        int64 of shape (ctas, 3).
    block_counts
        int64 by basic block: how often a warp entered it, summed over warps and CTAs.
    edge_counts
        The same for jumps and falls from block to block (indirect jumps and returns left out).
    tallies, copies
        Memory accesses by instruction index; `copies` holds the shared-memory side of cp.async.
    matrices
        Executions of tensor-core instructions by (instruction index, shape), counted once a warp.
    bulks
        Bulk copies (TMA) in order.
    maps
        Tensor descriptors among the parameters, by address in constant bank 0; those that the kernel makes, as `parameters_of` has them.
    assumptions
        What was assumed where only data could tell.
    trace
        Order of execution, where it was asked for; `segments` of the program number its steps.
    patterns, lane_sets
        What the trace's accesses and steps refer to.
    """

    program: Program
    launch: Launch
    program_ids: np.ndarray
    block_counts: np.ndarray
    edge_counts: Mapping[tuple[int, int], int]
    tallies: Mapping[int, Tally]
    copies: Mapping[int, Tally]
    matrices: Mapping[tuple[int, MatrixShape], int]
    bulks: tuple[Bulk, ...]
    maps: Mapping[int, TensorMap]
    assumptions: tuple[Assumption, ...]
    trace: Trace | None = None
    patterns: Sequence[Pattern] = ()
    lane_sets: Sequence[Lanes] = ()

    @property
    def ctas(self) -> int:
        """Number of CTAs evaluated."""
        return len(self.program_ids)

    @property
    def instruction_counts(self) -> np.ndarray:
        """int64 by instruction: warp-level issues."""
        return self.block_counts[np.array(self.program.flow.block_of)]

    @property
    def instructions(self) -> int:
        """Warp-level instructions issued."""
        return int(self.instruction_counts.sum())

    def by_opcode(self) -> dict[str, int]:
        """Warp-level issues by opcode without modifiers, most first."""
        counts: dict[str, int] = {}
        for ins, count in zip(self.program.listing.instructions, self.instruction_counts, strict=True):
            counts[ins.base] = counts.get(ins.base, 0) + int(count)
        return dict(sorted(((k, v) for k, v in counts.items() if v), key=lambda item: -item[1]))

    def by_line(self) -> dict[str, int]:
        """Warp-level issues by source line, most first."""
        counts: dict[str, int] = {}
        for ins, count in zip(self.program.listing.instructions, self.instruction_counts, strict=True):
            counts[str(ins.source or "")] = counts.get(str(ins.source or ""), 0) + int(count)
        return dict(sorted(((k, v) for k, v in counts.items() if v), key=lambda item: -item[1]))

    def loop_trips(self) -> dict[int, float]:
        """Mean trips of a warp through each loop it enters, by the loop's header block; loops that only wait are left out."""
        trips = {}
        for loop in self.program.flow.loops:
            heads = int(self.block_counts[loop.header])
            entries = heads - sum(self.edge_counts.get((latch, loop.header), 0) for latch in loop.latches)
            if not loop.waits:
                trips[loop.header] = heads / entries if entries > 0 else 0.0
        return trips

    @property
    def tensor_flops(self) -> int:
        """FLOP of the tensor cores: shape times executions, a warpgroup's instruction counted once for its four warps."""
        total = 0
        for (_, shape), times in self.matrices.items():
            total += shape.flops * times // shape.warps
        counts = self.instruction_counts
        for ins in self.program.listing.instructions:
            plain = ins.base in TENSOR_CORE and ins.guard is None and not ins.guard_negated
            found = static_shape(ins.base, ins.modifiers) if plain else None
            if found is not None:
                total += found.flops * int(counts[ins.index]) // found.warps
        return total

    @cached_property
    def tiles(self) -> TileProgram:
        """The kernel in TTGIR."""
        return parse_ttgir(self.program.compiled.ttgir)

    def bulk_box(self, bulk: Bulk) -> tuple[TensorMap | None, int | None]:
        """The descriptor of a bulk copy, and the bytes of its box that lie inside the tensor.

        A descriptor that the kernel makes of more than its arguments is None, and its box counts whole, as TTGIR states it; None bytes
        where the box is not known either.
        """
        found = None
        if type(bulk.descriptor) is int:
            found = map_of(self.program.compiled, self.maps, bulk.descriptor)
        if found is None:
            return None, self._tile_box(bulk)
        box = box_shape(self.program.compiled, self.maps, found)
        if any(type(c) is not int for c in bulk.coordinates):
            return found, math.prod(box) * found.element_bytes
        return found, int(bytes_inside(found, box, np.array([bulk.coordinates], dtype=np.int64))[0])

    def bulk_bytes(self, bulk: Bulk) -> int:
        """Bytes that a bulk load reports to its mbarrier: the whole box, what lies outside of the tensor filled in; 0 if not known."""
        found, inside = self.bulk_box(bulk)
        return inside or 0 if found is None else math.prod(box_shape(self.program.compiled, self.maps, found)) * found.element_bytes

    def _tile_box(self, bulk: Bulk) -> int | None:
        """Bytes of one message of the TMA copies on the instruction's source line, if they agree."""
        ins = self.program.listing.instructions[bulk.instruction]
        way = "tma load" if ins.base == "UTMALDG" else "tma store"
        sizes = set()
        for op, _ in self.tiles.find(COPIES):
            if COPIES[op.name] != way or ins.source is None or op.source is None or op.source.line != ins.source.line:
                continue
            for tile in op.types:
                if tile.kind != "memdesc" or tile.element == "i64":
                    continue
                layout = self.tiles.layouts.get(tile.layout, "")
                swizzle = re.search(r"swizzlingByteWidth = (\d+)", layout)
                width = re.search(r"elementBitWidth = (\d+)", layout)
                inner = tile.shape[-1]
                if swizzle and width and int(swizzle[1]):
                    inner = min(inner, int(swizzle[1]) * 8 // int(width[1]))
                sizes.add(tile.bytes * inner // tile.shape[-1])
        return sizes.pop() if len(sizes) == 1 else None

    def memory_bytes(self) -> dict[str, int]:
        """Bytes asked for, by space and kind: ``"global load"``, ``"global copy"`` (cp.async), ``"global store"``,
        ``"global atomic"``, ``"tma load"``, ``"tma store"``, ``"shared load"``, ``"shared store"``, ``"local load"`` ...

        Threads that are masked off ask for nothing; of a TMA box only what lies inside the tensor counts. TMA through
        descriptors that the kernel makes of more than its arguments counts whole boxes, which `assumptions` says.

        Raises
        ------
        KernelError
            Addresses were not followed (`evaluate_grid`, ``addresses=False``).
        """
        if not self.program.addresses:
            raise KernelError(f"{self.program.compiled.name}: addresses were not followed, so bytes are not known; "
                              "evaluate(compiled, launch) follows them")
        total: dict[str, int] = {}
        for index, tally in self.tallies.items():
            op = self.program.memory_ops[index]
            name = f"{op.space} {op.kind}"
            total[name] = total.get(name, 0) + tally.bytes
        for tally in self.copies.values():
            total["shared store"] = total.get("shared store", 0) + tally.bytes
        for bulk in self.bulks:
            ins = self.program.listing.instructions[bulk.instruction]
            name = "tma load" if ins.base in ("UTMALDG", "UBLKCP") else "tma store"
            total[name] = total.get(name, 0) + (self.bulk_box(bulk)[1] or 0)
        return {name: count for name, count in sorted(total.items()) if count}

    def walk(self) -> Iterator[Touch]:
        """Every memory access of the trace, in order.

        Raises
        ------
        KernelError
            The evaluation was made without ``trace=True``, or with ``close=True`` and leaves out iterations.
        """
        if self.trace is None:
            raise KernelError("no trace was kept: evaluate(..., trace=True)")
        if self.trace.repeats:
            raise KernelError("the trace leaves out iterations: evaluate(..., close=False)")
        for step, index, number, base in self.trace.accesses:
            pattern = self.patterns[number]
            lanes = self.lane_sets[pattern.lanes]
            offsets = np.zeros(lanes.count, dtype=np.uint64) if pattern.offsets is None else pattern.offsets
            active = np.ones(lanes.count, dtype=bool) if pattern.active is None else pattern.active
            yield Touch(step - 1, index, lanes, offsets + np.uint64(base), active)

    def scaled(self, factor: int, note: Assumption | None = None) -> Evaluation:
        """The same for `factor` times as many CTAs that execute the same."""
        tallies = [{i: Tally(*(getattr(t, name) * factor for name in Tally.__dataclass_fields__)) for i, t in side.items()}
                   for side in (self.tallies, self.copies)]
        edges = {k: n * factor for k, n in self.edge_counts.items()}
        matrices = {k: n * factor for k, n in self.matrices.items()}
        return Evaluation(self.program, self.launch, np.repeat(self.program_ids, factor, axis=0), self.block_counts * factor,
                          edges, tallies[0], tallies[1], matrices, self.bulks * factor, self.maps,
                          self.assumptions + ((note,) if note else ()))
