"""A whole graph on an NPU: its groups as segments, in the order in which they run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from ...arch.npu import NpuSystem, arithmetic_bits
from ...errors import MappingError
from ...units import format_si
from ...workloads.graph import OpGraph
from ...workloads.op import Op
from . import build
from .engine import groups_at_once, joined, on_vector
from .group import MATRIX_KINDS, RESIDENT_SHARE, Group, Schedule, arithmetic_of, runs_on_host, schedule
from .matrix import MatrixPlan, home, plan
from .pipeline import pipeline_s
from .product import Product, product
from .segment import Segment
from .sparse import compressed


@dataclass(frozen=True)
class Compiled:
    """A group ready to play.

    Attributes
    ----------
    group
        Its ops.
    segments
        What runs, in order.
    plans
        Mappings of its products.
    arithmetic, family
        Of the matrix engine, and ``"npu.matmul"``, ``"npu.vector"``, ``"npu.dma"``, ``"npu.host"`` ...
    note
        What the report says of it, or nothing.
    how
        Why it does not run on the matrix engine as it stands, or nothing.
    """

    group: Group
    segments: tuple[Segment, ...]
    plans: tuple[MatrixPlan, ...]
    arithmetic: str
    family: str
    note: str = ""
    how: str = ""


def compile_graph(graph: OpGraph, system: NpuSystem) -> list[Compiled]:
    """Every group of a graph, mapped.

    Raises
    ------
    MappingError
        An op that the NPU cannot run: names the op and the reason.
    """
    return compile_groups(schedule(graph, system), system)


def compile_groups(scheduled: Schedule, system: NpuSystem) -> list[Compiled]:
    """Every group of a schedule, mapped; see `compile_graph`."""
    return [_compile(group, number, scheduled, system) for number, group in enumerate(scheduled.groups)]


def _compile(group: Group, number: int, scheduled: Schedule, system: NpuSystem) -> Compiled:
    lead = group.lead
    arithmetic = arithmetic_of(lead, system)
    build.check_single(group, system)
    if runs_on_host(group, system):
        segments = tuple(build.host_segment(op, system) for op in group.ops)
        return Compiled(group, segments, (), arithmetic, "npu.host", f"{lead.name}: on the host, {system.name} has no engine for it")
    if lead.kind not in MATRIX_KINDS:
        moves = build.operand_moves(group, scheduled, system)
        work = sum((build.vector_work(op, system) for op in group.ops), build.VectorWork())
        family = "npu.vector" if work.operations else "npu.dma"
        return Compiled(group, (build.vector_segment(lead.name, work, moves, system),), (), arithmetic, family)
    followers = [op for op in group.ops[1:] if op.name not in group.folded]
    extra = sum((build.vector_work(op, system) for op in followers), build.VectorWork())
    moves = build.operand_moves(group, scheduled, system)
    reserved = scheduled.reserved_bytes[number]
    out = "O" if scheduled.resident.get(build.stored_by(group, scheduled).name) else ""
    how = ""
    if lead.kind == "attention":
        segments, plans = _attention(lead, scheduled, system, arithmetic, out, extra, moves)
    else:
        segments, plans, how = _product(lead, scheduled, system, arithmetic, out, reserved, extra, moves)
        other = on_vector(group, scheduled, system, segments[0])
        if other is not None and (less := pipeline_s(other, system)) < (more := pipeline_s(segments[0], system)):
            how = f"on the vector engine in {format_si(less, 's')}, as the array would take {format_si(more, 's')}"
            return Compiled(group, (other,), (), arithmetic, "npu.vector", how=how)
    note = f"{lead.name}: its softmax runs on the host" if any(s.host_s for s in segments) else ""
    return Compiled(group, segments, plans, arithmetic, f"npu.{lead.kind}", note, how)


def _product(
    op: Op, scheduled: Schedule, system: NpuSystem, arithmetic: str, out: str, reserved: float, extra: build.VectorWork, moves: build.Moves
) -> tuple[tuple[Segment, ...], tuple[MatrixPlan, ...], str]:
    left, right = build.factors(op)
    weights = right.number_format
    packed = weights.dense.bits < arithmetic_bits(arithmetic) and right.role == "weight"
    resident = {name for name, o in (("I", left), ("W", right)) if (op.name, o.name) in scheduled.found}
    if packed and weights.execution == "dequantise":
        elements = op.elements(right)
        work = build.VectorWork({"mul": elements, "add": elements}, elements * (weights.bytes + arithmetic_bits(arithmetic) / 8))
        if system.coupling == "memory":
            kept = resident | ({out} if out else set())
            return *_dequantised(op, system, arithmetic, work, elements * weights.bytes, kept, extra, moves), ""
        extra = extra + work
    shape = product(op, arithmetic, weight_format=weights.dense.name if packed else None)
    mapped = _planned(shape, system, arithmetic, frozenset(resident | ({out} if out else set())), reserved, op)
    best = _faster(op.name, mapped, system, extra, moves)
    for parts in _sum_splits(shape, mapped, system):
        other = _summed(op, shape, parts, system, arithmetic, frozenset(resident), out, reserved, extra, moves)
        if pipeline_s(other[0], system) < pipeline_s(best[0], system):
            best = other
    how = ""
    groups = groups_at_once(shape, system) if op.kind == "conv" and right.role == "weight" and weights.sparsity is None else 1
    if groups > 1:
        with suppress(MappingError):  # wider weights may not fit
            side = _planned(joined(shape, groups), system, arithmetic, frozenset(resident | ({out} if out else set())), reserved, op)
            other = _faster(op.name, side, system, extra, moves)
            if pipeline_s(other[0], system) < pipeline_s(best[0], system):
                best, how = other, f"{groups} groups at once, as block-diagonal weights"
    if weights.sparsity is not None:
        best = compressed(best[0], system, weights.sparsity, shape.formats[1]), best[1]
    return (best[0],), (best[1],), how


def _sum_splits(shape: Product, mapped: MatrixPlan, system: NpuSystem) -> list[int]:
    """Parts into which the sum over the window may be cut for cores that outputs alone leave idle: powers of two."""
    if not system.kernels.split_sum:
        return []
    used = math.prod(mapped.spread.spatial.get("cores", {}).values())
    window = dict(shape.dims)["k"]
    most = min(system.cores, window // (system.matrix.depth * system.matrix.rows))
    return [2**i for i in range(1, most.bit_length()) if 2**i <= most] if 4 * used < 3 * system.cores and not shape.sliding else []


def _summed(
    op: Op,
    shape: Product,
    parts: int,
    system: NpuSystem,
    arithmetic: str,
    resident: frozenset[str],
    out: str,
    reserved: float,
    extra: build.VectorWork,
    moves: build.Moves,
) -> tuple[Segment, MatrixPlan]:
    """A product whose sum is cut into parts that run side by side (split-K); the vector engines add the 4-byte partial sums."""
    dims = dict(shape.dims)
    groups = dims.get("g", 1) * parts
    wide = [("g", groups, "g"), *((d, -(-e // parts) if d == "k" else e, dict(shape.classes)[d]) for d, e in shape.dims if d != "g")]
    formats = (*shape.formats[:2], "fp32")
    cut = Product(tuple((d, e) for d, e, _ in wide), tuple((d, c) for d, _, c in wide), (), formats)
    results = float(dims.get("g", 1) * dims.get("m", 1) * dims.get("n", 1))
    where = home(system)
    size = next((m.size_bytes or 0.0 for m in system.memories if m.name == where), 0.0)
    stays = where is not None and 4 * results * parts <= RESIDENT_SHARE * size - reserved
    mapped = _planned(cut, system, arithmetic, resident | ({"O"} if stays else frozenset()), reserved, op)
    added = build.Moves()
    for memory, number in moves.read.items():
        added.read[memory] += number
    for memory, number in moves.written.items():
        added.written[memory] += number
    added.read[where if stays and where else "dram"] += 4 * results * parts
    added.written[where if out and where else "dram"] += results * arithmetic_bits(arithmetic) / 8
    work = extra + build.VectorWork({"add": results * (parts - 1)}, 4 * results * (parts + 1))
    return _faster(op.name, mapped, system, work, added)


def _faster(name: str, mapped: MatrixPlan, system: NpuSystem, work: build.VectorWork, moves: build.Moves) -> tuple[Segment, MatrixPlan]:
    """A product's segment with the mapper's tiles or with finer ones, whichever takes less time."""
    best = build.matrix_segment(name, mapped, system, work, moves), mapped
    if mapped.finer is not None:
        other = build.matrix_segment(name, mapped.finer, system, work, moves)
        if pipeline_s(other, system) < pipeline_s(best[0], system):
            return other, mapped.finer
    return best


def _planned(shape: Product, system: NpuSystem, arithmetic: str, resident: frozenset[str], reserved: float, op: Op) -> MatrixPlan:
    """The mapping; where the resident tensors leave no room for it, one that moves them past the DRAM."""
    where = next((m for m in system.memories if m.name == home(system)), None)
    kept = {"I": "input", "W": "weight", "O": "output"}
    resident = frozenset(name for name in resident if where is not None and kept[name] in where.keeps)
    try:
        return plan(shape, system, arithmetic, resident, reserved)
    except MappingError as error:
        if not resident and not reserved:
            raise MappingError(f"op {op.name!r}: {error}") from None
        return _planned(shape, system, arithmetic, frozenset(), 0.0, op)


def _dequantised(
    op: Op,
    system: NpuSystem,
    arithmetic: str,
    work: build.VectorWork,
    packed_bytes: float,
    resident: set[str],
    extra: build.VectorWork,
    moves: build.Moves,
) -> tuple[tuple[Segment, ...], tuple[MatrixPlan, ...]]:
    """Packed weights where vector and matrix cores share no buffer: unpacked weights go to the shared memory and come back.

    The vector cores unpack while the matrix cores multiply what is unpacked already. Through an on-chip memory that all cores share the
    unpacked weights pass a part at a time and never reach the DRAM.
    """
    shape = product(op, arithmetic)
    mapped = _planned(shape, system, arithmetic, frozenset(resident), 0.0, op)
    whole, mapped = _faster(op.name, mapped, system, extra + work, moves)
    best = _with_unpacking(whole, mapped, system, packed_bytes), mapped
    for parts in _sum_splits(shape, mapped, system):
        segment, split = _summed(op, shape, parts, system, arithmetic, frozenset(resident - {"O"}), "", 0.0, extra + work, moves)
        segment = _with_unpacking(segment, split, system, packed_bytes)
        if pipeline_s(segment, system) < pipeline_s(best[0], system):
            best = segment, split
    return (best[0],), (best[1],)


def _with_unpacking(segment: Segment, mapped: MatrixPlan, system: NpuSystem, packed_bytes: float) -> Segment:
    """A product whose weights come from where the vector cores put them, with the traffic of unpacking."""
    where = home(system)
    unpacked = sum(float(e.read.sum()) for e in mapped.traffic.edges if e.tensor == "W" and e.parent == "dram")
    ports = build.Ports(system, segment.steps, dict(segment.weights), dict(segment.inputs), dict(segment.outputs))
    energy = dict(segment.energy_j)
    if where is not None:  # the DRAM gives packed weights; the vector cores, not the DRAM, fill the on-chip memory
        ports.weights["dram"] = segment.weights["dram"] * (packed_bytes / unpacked)
        energy["dram"] += (packed_bytes - unpacked) * system.dram.j_per_byte
        ports.add(ports.weights, ports.cross(), packed_bytes)
    else:
        ports.read(ports.weights, "dram", packed_bytes)
        ports.write("dram", unpacked)
        energy["dram"] += (packed_bytes + unpacked) * system.dram.j_per_byte
    busy = ports.busy() | {name: segment.busy_s[name] for name in ("matrix", "vector") if name in segment.busy_s}
    return replace(segment, weights=ports.weights, inputs=ports.inputs, outputs=ports.outputs, busy_s=busy, energy_j=energy)


def _attention(
    op: Op, scheduled: Schedule, system: NpuSystem, arithmetic: str, out: str, extra: build.VectorWork, moves: build.Moves
) -> tuple[tuple[Segment, ...], tuple[MatrixPlan, ...]]:
    """Scores, softmax and values as one: a part of the scores at a time, as large as the on-chip memory lets stay, never in the DRAM."""
    dims = op.dims
    share = op.points / math.prod(dims.values())
    heads, rows = dims["b"] * dims["h"], dims.get("g", 1) * dims["q"]
    length, values = max(1, math.ceil(dims["s"] * share)), int(op.attributes.get("v_head_dim", dims["e"]))
    size = arithmetic_bits(arithmetic) / 8
    where = next((m for m in system.memories if m.name == home(system)), None)
    budget = RESIDENT_SHARE * (where.size_bytes or 0.0) if where is not None else 0.0
    fits_heads = int(budget // (rows * length * size))
    part_rows = rows if fits_heads else int(budget // (length * size))
    fused = fits_heads > 0 or part_rows > 0
    part_heads = min(heads, fits_heads) if fits_heads else 1 if fused else heads
    part_rows = part_rows if fused else rows
    parts = math.ceil(heads / part_heads) * math.ceil(rows / part_rows)
    formats = (arithmetic, arithmetic, arithmetic)

    def one(m: int, n: int, k: int) -> Product:
        given = [("g", part_heads, "g"), ("m", m, "p"), ("n", n, "f"), ("k", k, "w")]
        kept = [(d, e, c) for d, e, c in given if e > 1 or d == "k"]
        return Product(tuple((d, e) for d, e, _ in kept), tuple((d, c) for d, _, c in kept), (), formats)

    scores = _planned(one(part_rows, length, dims["e"]), system, arithmetic, frozenset("O" if fused else ()), 0.0, op)
    result = _planned(one(part_rows, values, length), system, arithmetic, frozenset("I" if fused else ()), 0.0, op)
    softmax = build.VectorWork(dict(_softmax(op)), 2 * part_heads * part_rows * length * size * parts)
    host_s = 0.0
    if system.vector is None or not set(softmax.operations) <= set(system.vector.ops_per_clk):
        if system.host is None:
            raise MappingError(f"op {op.name!r} (attention): {system.name} has no engine for its softmax, and no host")
        operations = sum(softmax.operations.values())
        host_s = operations / system.host.ops_per_s + softmax.local_bytes / system.host.bandwidth_bytes_per_s
        moves.read["dram"] += softmax.local_bytes / 2
        moves.written["dram"] += softmax.local_bytes / 2
        softmax = build.VectorWork()
    if system.coupling == "memory" and where is not None:
        moves.read[where.name] += softmax.local_bytes / 2
        moves.written[where.name] += softmax.local_bytes / 2
    first, scores = _faster(op.name, scores, system, build.VectorWork(), build.Moves())
    second, result = _faster(op.name, result, system, build.VectorWork(), build.Moves())
    together = _together(op.name, first, second, parts, max(parts, heads), softmax + extra, moves, system)
    if host_s:
        together = replace(together, host_s=host_s, busy_s={**together.busy_s, "host": host_s})
    return (together,), (scores, result)


def _softmax(op: Op) -> Iterator[tuple[str, float]]:
    for name, number in op.body.items():
        if name != "mac" and number:
            yield name, number * op.points


def _together(
    name: str, first: Segment, second: Segment, parts: int, steps: int, work: build.VectorWork, moves: build.Moves, system: NpuSystem
) -> Segment:
    """Two products, `parts` times one after the other, with vector work between them, as one pipeline of even steps."""
    ports = build.Ports(system, min(steps, build.LEAST_TILES * 3))
    for segment in (first, second):
        for into, part in ((ports.weights, segment.weights), (ports.inputs, segment.inputs), (ports.outputs, segment.outputs)):
            for port, values in part.items():
                ports.add(into, [port], float(values.sum()) * parts)
    moves.onto(ports)
    matrix = (float(first.matrix_s.sum()) + float(second.matrix_s.sum())) * parts
    vector = work.seconds(system)
    energy: dict[str, float] = {}
    for source, times in ((first.energy_j, parts), (second.energy_j, parts), (work.energy(system), 1), (moves.energy(system), 1)):
        for component, joules in source.items():
            energy[component] = energy.get(component, 0.0) + joules * times
    even = np.full(ports.steps, 1.0 / ports.steps)
    return Segment(
        name,
        ports.weights,
        ports.inputs,
        ports.outputs,
        matrix * even,
        vector * even,
        ports.busy() | {"matrix": matrix, "vector": vector},
        energy,
        first.skew_s + second.skew_s,
        first.prefetch,
    )
