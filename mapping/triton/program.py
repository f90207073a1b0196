"""A compiled kernel as a program: how often each instruction is issued, for chosen program ids and the real arguments."""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import KernelError
from .access import Pattern, Tally
from .assumptions import Assumption, Chooser
from .cfg import ControlFlow, control_flow
from .compile import CompiledKernel
from .execute import MAX_STEPS, Bulk, Execution, Trace, memory_ops_of
from .group import Lanes
from .launch import Buffer, Launch, TensorMap
from .memory_ops import MemoryOp
from .sass import Listing, parse_listing
from .segments import Segment, build_segments
from .slicing import Slice, slice_program
from .tensor_core import TENSOR_CORE, MatrixShape, static_shape
from .values import Unknown

#: Where we place the window through which code reads its own parameters (descriptors are passed by address).
_CONSTANT_WINDOW = 0x7E00_0000_0000
_STACK_TOP = 0x00FF_F000
#: Program ids that are followed before a grid is sampled; fewer where shared memory must be followed too.
_GRID_LIMIT, _GRID_LIMIT_SHARED = 4096, 512
_LANES_AT_ONCE = 65536
_FOLLOWED_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Program:
    """A kernel taken apart once: instructions, control flow, and the pieces to follow it by.

    Attributes
    ----------
    compiled
        What it was made from.
    listing, flow
        Instructions; basic blocks, edges and loops.
    plan, segments
        What is evaluated to know control and addresses.
    memory_ops
        The memory access of each instruction that has one, by instruction index.
    """

    compiled: CompiledKernel
    listing: Listing
    flow: ControlFlow
    plan: Slice
    segments: tuple[Segment, ...] = field(repr=False)
    memory_ops: Mapping[int, MemoryOp] = field(repr=False)

    @property
    def threads(self) -> int:
        """Threads a CTA."""
        return self.compiled.threads

    @property
    def target(self) -> int:
        """Compute capability."""
        return self.compiled.target

    @property
    def shared_bytes(self) -> int:
        """Shared memory that the code may address, what the system reserves included."""
        return self.compiled.shared_bytes + self.compiled.static_shared_bytes + (1024 if self.target >= 90 else 0)

    def where(self, index: int) -> str:
        """``file.py:34`` of an instruction, or the kernel's own place."""
        source = self.listing.instructions[index].source
        return str(source) if source else f"{self.compiled.source_file}:{self.compiled.source_line}"


@functools.lru_cache(maxsize=64)
def _program(key: str, compiled: _Same, addresses: bool) -> Program:
    kernel = compiled.kernel
    listing = parse_listing(kernel.sass)
    flow = control_flow(listing)
    plan = slice_program(flow, addresses=addresses)
    return Program(kernel, listing, flow, plan, build_segments(flow, plan, addresses=addresses), memory_ops_of(listing.instructions))


class _Same:
    """A kernel that compares equal to every other one, so that the cache goes by the key alone."""

    def __init__(self, kernel: CompiledKernel) -> None:
        self.kernel = kernel

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    def __hash__(self) -> int:
        return 0


def take_apart(compiled: CompiledKernel, *, addresses: bool = True) -> Program:
    """The program of a compiled kernel.

    Parameters
    ----------
    addresses
        False leaves memory addresses alone: faster, for counts of instructions only.
    """
    return _program(compiled.key, _Same(compiled), addresses)


# -- parameters --------------------------------------------------------------------------------------------------------


class ConstantBank(dict[int, Any]):
    """Constant bank 0: words by byte offset; what is not known is `Unknown`."""

    def __missing__(self, offset: int) -> Unknown:
        made = self[offset] = Unknown(f"constant bank 0 at {offset:#x}")
        return made


_FORMATS = {"i1": "<B", "u1": "<B", "i8": "<b", "u8": "<B", "i16": "<h", "u16": "<H", "i32": "<i", "u32": "<I", "i64": "<q",
            "u64": "<Q", "fp16": "<e", "fp32": "<f", "f32": "<f", "fp64": "<d"}


def _flatten(kind: Any, value: Any, mapped: bool) -> Iterable[tuple[str, Any]]:
    """Parameters in order: tuples flattened, constexprs dropped, descriptors expanded as Triton's launcher does."""
    if isinstance(kind, tuple):
        for k, v in zip(kind, value, strict=True):
            yield from _flatten(k, v, mapped)
    elif isinstance(value, TensorMap):
        sizes = [*value.shape], [*value.strides]
        if mapped:
            yield "descriptor", value
        else:
            yield "*", value.buffer
            yield from (("i64", n) for n in itertools.chain(*sizes))
            yield from (("i1", 0), ("i1", 0))
        yield from (("i32", n) for n in sizes[0])
        yield from (("i64", n) for n in sizes[1])
    elif kind != "constexpr":
        yield str(kind), value


def _bytes_of(kind: str, value: Any, size: int) -> bytes | None:
    if isinstance(value, Buffer):
        return struct.pack("<Q", value.address)
    if kind == "bf16":
        return struct.pack("<f", float(value))[2:]
    if kind not in _FORMATS:
        return None
    if kind[0] in "iu":
        number = int(value) & ((1 << 8 * size) - 1)
        return number.to_bytes(size, "little")
    return struct.pack(_FORMATS[kind], float(value))


def parameters_of(compiled: CompiledKernel, launch: Launch) -> tuple[ConstantBank, dict[int, TensorMap]]:
    """Constant bank 0 as the launch fills it, and the tensor descriptors in it by their place.

    Raises
    ------
    KernelError
        The kernel's parameters are not those of the launch.
    """
    layout, bank = compiled.layout, ConstantBank()
    flat = [pair for name, kind in launch.signature.items()
            for pair in _flatten(kind, launch.arguments[name], bool(compiled.metadata.get("tensordesc_meta")))]
    if len(flat) > len(layout.parameters):
        raise KernelError(f"{compiled.source_file}:{compiled.source_line}: kernel {compiled.name!r} takes {len(layout.parameters)} "
                          f"parameters, the launch passes {len(flat)}")
    raw = bytearray(max((offset + size for offset, size in layout.parameters), default=0) + 8)
    unset: set[int] = set()
    maps: dict[int, TensorMap] = {}
    scratch = [("u64", 0x7D00_0000_0000), ("u64", 0x7C00_0000_0000)]
    for (kind, value), (offset, size) in zip([*flat, *scratch], layout.parameters, strict=False):
        packed = None if kind == "descriptor" else _bytes_of(kind, value, size)
        if kind == "descriptor":
            maps[layout.parameter_base + offset] = value
        if packed is None:
            unset |= set(range(offset, offset + size))
        else:
            raw[offset:offset + len(packed)] = packed
    for offset in range(0, len(raw) - 3, 4):
        if offset not in unset:
            bank[layout.parameter_base + offset] = int.from_bytes(raw[offset:offset + 4], "little")
    bank |= _system_constants(compiled, launch)
    return bank, maps


def _system_constants(compiled: CompiledKernel, launch: Launch) -> dict[int, int]:
    """What the driver puts in front of the parameters: sizes of block and grid, the stack, the parameters' own address."""
    blocks, grid = (0x360, 0x370) if compiled.target >= 100 else (0x0, 0xC)
    stack, window, access = (0x37C, 0x348, 0x358) if compiled.target >= 100 else (0x28, 0x198, 0x208 if compiled.target >= 90 else 0x118)
    sizes = (launch.grid[0] * compiled.num_ctas, *launch.grid[1:])
    words = {blocks + 4 * i: n for i, n in enumerate((compiled.threads, 1, 1))} | {grid + 4 * i: n for i, n in enumerate(sizes)}
    words[stack] = _STACK_TOP
    words |= {access: 0, access + 4: 0, window: _CONSTANT_WINDOW & 0xFFFFFFFF, window + 4: _CONSTANT_WINDOW >> 32}
    return words


# -- evaluation --------------------------------------------------------------------------------------------------------


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
        Tensor descriptors among the parameters, by address in constant bank 0.
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
            if ins.base in TENSOR_CORE and ins.guard is None and not ins.guard_negated:
                if (shape := static_shape(ins.base, ins.modifiers)) is not None:
                    total += shape.flops * int(counts[ins.index]) // shape.warps
        return total

    def bulk_box(self, bulk: Bulk) -> tuple[TensorMap | None, int]:
        """The descriptor of a bulk copy, where it is a parameter, and the bytes of its box that lie inside the tensor."""
        if type(bulk.descriptor) is not int:
            return None, 0
        found = self.maps.get(bulk.descriptor - _CONSTANT_WINDOW + self.program.compiled.layout.parameter_base)
        if found is None or any(type(c) is not int for c in bulk.coordinates):
            return found, 0
        box = self._box_shape(found)
        starts = [c - (1 << 32) if c >> 31 else c for c in reversed(bulk.coordinates)]
        inside = [max(0, min(at + n, size) - max(at, 0)) for at, n, size in zip(starts, box, found.shape, strict=False)]
        return found, math.prod(inside) * found.element_bytes

    def _box_shape(self, found: TensorMap) -> tuple[int, ...]:
        """Box of a descriptor: its block, cut along the last axis as the swizzle asks."""
        metas = self.program.compiled.metadata.get("tensordesc_meta") or []
        boxes = [tuple(meta["block_size"]) for meta in metas]
        places = sorted(self.maps)
        number = next((i for i, place in enumerate(places) if self.maps[place] is found), None)
        return boxes[number] if number is not None and number < len(boxes) else found.block_shape

    def memory_bytes(self) -> dict[str, int]:
        """Bytes asked for, by space and kind: ``"global load"``, ``"global copy"`` (cp.async), ``"global store"``,
        ``"global atomic"``, ``"tma load"``, ``"tma store"``, ``"shared load"``, ``"shared store"``, ``"local load"`` ...

        Threads that are masked off ask for nothing; of a TMA box only what lies inside the tensor counts. TMA through
        descriptors made on the device counts whole boxes where their shape is known, else it is in `assumptions`.
        """
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
            total[name] = total.get(name, 0) + self.bulk_box(bulk)[1]
        return {name: count for name, count in sorted(total.items()) if count}

    def walk(self) -> Iterator[Touch]:
        """Every memory access of the trace, in order.

        Raises
        ------
        KernelError
            The evaluation was made without ``trace=True``.
        """
        if self.trace is None:
            raise KernelError("no trace was kept: evaluate(..., trace=True)")
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
        return Evaluation(self.program, self.launch, np.repeat(self.program_ids, factor, axis=0), self.block_counts * factor,
                          {k: n * factor for k, n in self.edge_counts.items()}, tallies[0], tallies[1], {k: n * factor for k, n in self.matrices.items()}, self.bulks * factor,
                          self.maps, self.assumptions + ((note,) if note else ()))


def all_program_ids(grid: tuple[int, int, int]) -> np.ndarray:
    """Every program id of a grid, x fastest, as int64 of shape (programs, 3)."""
    z, y, x = np.meshgrid(np.arange(grid[2]), np.arange(grid[1]), np.arange(grid[0]), indexing="ij")
    return np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1).astype(np.int64)


def _check_ids(launch: Launch, program_ids: Any) -> np.ndarray:
    ids = np.atleast_2d(np.asarray(program_ids, dtype=np.int64))
    if ids.shape[1] < 3:
        ids = np.pad(ids, ((0, 0), (0, 3 - ids.shape[1])))
    if ids.shape[1] != 3 or (ids < 0).any() or (ids >= np.array(launch.grid)).any():
        raise KernelError(f"program ids {np.asarray(program_ids).tolist()!r} are not all inside the grid {launch.grid}")
    return ids


def evaluate(compiled: CompiledKernel, launch: Launch, program_ids: Any = None, *, addresses: bool = True, trace: bool = False,
             assume: Mapping[str, int | bool] | None = None, max_steps: int = MAX_STEPS) -> Evaluation:
    """Follow some CTAs of a launch through the kernel.

    Parameters
    ----------
    compiled, launch
        From `compile_launch` and `bind_launch`.
    program_ids
        ``(x, y, z)``, or a list of them; every program id of the grid by default (see `evaluate_grid` for large ones).
    addresses
        False leaves memory alone: instruction counts only, faster.
    trace
        Keep the order of execution and every access (one group of CTAs only).
    assume
        Decisions where data decides: ``{"line 34": 17}`` trips of the loop there, ``{"line 36": True}`` the branch there
        is taken. Names are those of `Assumption.name`.
    max_steps
        Segments executed before the kernel is taken to never end.

    Raises
    ------
    KernelError
        An infinite loop, a jump that depends on data, program ids outside the grid.
    UnknownNameError
        A name in `assume` that names nothing that data decides.
    """
    program = take_apart(compiled, addresses=addresses)
    ids = all_program_ids(launch.grid) if program_ids is None else _check_ids(launch, program_ids)
    bank, maps = parameters_of(compiled, launch)
    chooser = Chooser(program, assume)
    cluster = compiled.num_ctas
    ranks = np.tile(np.arange(cluster), len(ids))
    raw = np.repeat(ids, cluster, axis=0)
    raw[:, 0] = raw[:, 0] * cluster + ranks
    at_once = _LANES_AT_ONCE // program.threads
    if program.plan.tracks_shared:
        at_once = min(at_once, _FOLLOWED_BYTES // program.shared_bytes)
    at_once = max(cluster, at_once // cluster * cluster)
    if trace and len(raw) > at_once:
        raise KernelError(f"a trace of {len(raw)} CTAs was asked for; {at_once} are the most")
    counts = np.zeros(len(program.flow.blocks), dtype=np.int64)
    edges: dict[tuple[int, int], int] = {}
    runs = []
    for start in range(0, len(raw), at_once):
        run = Execution(program, bank, raw[start:start + at_once], buffers=launch.buffers, chooser=chooser, trace=trace,
                        max_steps=max_steps, cluster_ranks=ranks[start:start + at_once])
        run.run()
        for segment, count, taken in zip(program.segments, run.counts, run.taken, strict=True):
            if segment.opens_block:
                counts[segment.block] += count
            for way, times in ((segment.target, taken), (segment.next, count - taken if segment.conditional else 0)):
                if way is not None and program.segments[way].opens_block and times:
                    pair = (segment.block, program.segments[way].block)
                    edges[pair] = edges.get(pair, 0) + times
        runs.append(run)
    chooser.check_used()
    tallies, copies = _sum_tallies([r.tallies for r in runs]), _sum_tallies([r.copies for r in runs])
    matrices: dict[tuple[int, MatrixShape], int] = {}
    for run in runs:
        for key, times in run.matrices.items():
            matrices[key] = matrices.get(key, 0) + times
    last = runs[-1]
    return Evaluation(program, launch, ids, counts, edges, tallies, copies, matrices, tuple(b for r in runs for b in r.bulks), maps,
                      chooser.assumptions(), last.trace, last.patterns.patterns, last.lane_sets)


def _sum_tallies(parts: list[dict[int, Tally]]) -> dict[int, Tally]:
    total: dict[int, Tally] = {}
    for part in parts:
        for index, tally in part.items():
            into = total.setdefault(index, Tally())
            for name in Tally.__dataclass_fields__:
                setattr(into, name, getattr(into, name) + getattr(tally, name))
    return total


def evaluate_grid(compiled: CompiledKernel, launch: Launch, *, assume: Mapping[str, int | bool] | None = None,
                  limit: int | None = None) -> Evaluation:
    """Instruction and FLOP counts of the whole grid.

    Where control does not depend on the program id, one CTA stands for all, exactly. Else every CTA is followed, up to
    `limit` of them (4,096, or 512 where values in shared memory decide control); of a larger grid an even sample is
    followed and scaled, which the result's assumptions say.
    """
    program = take_apart(compiled, addresses=False)
    if not program.plan.reads_program_id:
        return evaluate(compiled, launch, (0, 0, 0), addresses=False, assume=assume).scaled(launch.programs)
    limit = limit or (_GRID_LIMIT_SHARED if program.plan.tracks_shared else _GRID_LIMIT)
    if launch.programs <= limit:
        return evaluate(compiled, launch, addresses=False, assume=assume)
    picks = np.unique(np.linspace(0, launch.programs - 1, limit).astype(np.int64))
    x, y, _ = launch.grid
    ids = np.stack([picks % x, picks // x % y, picks // (x * y)], axis=1)
    part = evaluate(compiled, launch, ids, addresses=False, assume=assume)
    factor = launch.programs // len(picks)
    note = Assumption("sample", "sample", program.where(0), -1, "the program id",
                      f"{len(picks)} of {launch.programs} program ids, counts times {factor}", 1)
    return part.scaled(factor, note)


def alternatives(evaluation: Evaluation, *, assume: Mapping[str, int | bool] | None = None) -> dict[str, tuple[int, int]]:
    """For each branch or loop that data decides: warp-level instructions the way taken, and the other way.

    The other way of a branch is its other side; of a loop, twice the trips.
    """
    base = dict(assume or {})
    found = {}
    for item in evaluation.assumptions:
        if item.kind not in ("branch", "loop") or item.name in found:
            continue
        other: int | bool = item.choice != "taken" if item.kind == "branch" else 2 * int(item.choice.split()[0]) or 1
        try:
            run = evaluate(evaluation.program.compiled, evaluation.launch, evaluation.program_ids, addresses=False,
                           assume={**base, item.name: other})
            found[item.name] = (evaluation.instructions, run.instructions)
        except KernelError:
            found[item.name] = (evaluation.instructions, -1)
    return found
