"""Closed form of a matrix multiply on a GPU: the best of a set of tiles and split-K factors, as libraries choose.

One CTA computes one tile of C; a round of CTAs runs on all SMs at once. The main loop costs, per element of k, the
largest of the tensor cores' cycles, the cycles in which the operands pass through shared memory, and a serial latency
that one CTA alone cannot hide. Beside it stand the L2 traffic of all CTAs and the DRAM traffic of what L2 does not
hold; the three overlap (`gemm_tiles.overlap`). C is written after the main loop. Split-K divides k over CTAs, keeps partial
tiles in L2 and adds a reduction kernel. Dense work lowers the clock until the power limit is met (`power`).

With ``best`` every term is the least of increasing functions of the sizes and decreasing functions of the machine, so
that a larger product is never faster, nor a better machine slower; only rows of k that are not whole 16-byte words
break the first (they load in narrower pieces, as on the hardware).

Constants are in ``arch/constants/gemm.yaml`` and ``power.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...errors import UnknownNameError
from . import power
from .gemm_kernels import LIBRARIES, PROMOTED_K, TABLE_WEIGHT_COPIES, Library, table_options, table_weight_copies
from .gemm_tiles import EXPOSED, Point, choose, overlap, parts, resident_ctas
from .machine import KernelTimes, Machine, Number
from .quantise import quantise_s, quantiser_named
from .sparse import Pruned

__all__ = ["TABLE_WEIGHT_COPIES", "gemm", "table_options", "table_weight_copies"]

#: Elements of k over which the serial latency of one main-loop step is spread.
SERIAL_STEP = 64.0

#: Points worked on at once, so that temporaries stay in cache.
CHUNK = 16384

#: How a call can be timed; see `gemm`.
TIMED = ("graph", "eager", "alone")

#: Columns of C of a CTA, and warps that share its k, in dot products for few rows (TensorRT-LLM, weightOnlyBatchedGemv).
DOT_COLUMNS = 16.0
DOT_WARPS = 8.0


def _vector_width(row_bytes: Any) -> Any:
    """Share of a 16-byte load that rows of this pitch allow (an odd pitch forces narrow loads)."""
    whole = np.round(row_bytes)
    return np.select([whole % 16 == 0, whole % 8 == 0, whole % 4 == 0], [1.0, 0.5, 0.25], 0.125)


def gemm(
    machine: Machine,
    m: Number,
    n: Number,
    k: Number,
    batch: Number = 1,
    *,
    arithmetic: str = "bf16",
    a_bits: float = 16.0,
    w_bits: float = 16.0,
    out_bits: float = 16.0,
    dequantise: bool = False,
    quantiser: str | None = None,
    weight_copies: float = float("inf"),
    activation_copies: float = 1.0,
    a_reuse: Number = 1.0,
    library: str = "best",
    timed: str = "graph",
    overlapped: bool = False,
    pruned: Pruned | None = None,
) -> KernelTimes:
    """Time of ``C[m, n] = A[m, k] @ W[k, n]``, ``batch`` times over.

    Parameters
    ----------
    machine
        One GPU, or designs with fields of shape ``(designs, 1)``.
    m, n, k, batch
        Sizes; arrays broadcast.
    arithmetic
        What the tensor cores execute (a key of ``machine.tensor_flops_per_clk``), or ``"fma"``: fp32 on the vector
        lanes.
    a_bits, w_bits, out_bits
        Bits per element in memory, scales included (W4A16 with groups of 128: ``w_bits=4.125``).
    dequantise
        Weights are widened to the arithmetic's format on the fp32 and integer pipes of the SM.
    quantiser
        If given, the kernels of this library (`quantise.QUANTISERS`) narrow A from 16 bits before this one, and their time is included.
    weight_copies
        Distinct weights that are used before the same one comes again: with ``inf`` weights come from DRAM, as in a
        model larger than L2; for the measured tables see `gemm_kernels.table_options`. 1 where W is an activation.
    activation_copies
        The same for A; with 1, A is still in L2 from its producer as far as it fits.
    a_reuse
        Times that each element of A in memory appears in the [m, k] matrix (the window of an implicit-GEMM
        convolution).
    library
        How the tile is chosen. ``"best"``: the fastest of `gemm_kernels.CANDIDATES` (cuBLAS, cuBLASLt); ``"whole_k"``: the same without
        split-K; another of `gemm_kernels.LIBRARIES`: by that library's rule on the sizes.
    timed
        ``"graph"``: back to back with others in a CUDA graph. ``"eager"``: launched by PyTorch from Python, so that it takes at least as
        long as the host does. ``"alone"``: with events around it.
    overlapped
        Kernels begin before the one ahead of them has ended (programmatic dependent launch), which hides part of their floor.
    pruned
        Zeros among the weights; `w_bits` are then the stored bits, places included, per element of the dense matrix. Where the machine has
        sparse tensor cores (`Machine.sparse_speedup` above 1) that take the pattern, they skip the zeros; elsewhere the weights are
        expanded beside the product (`presilicon.mapping.gpu.sparse`).

    Returns
    -------
    KernelTimes of the broadcast shape.

    Raises
    ------
    KeyError
        The machine lacks the arithmetic, or a constant.
    UnknownNameError
        Unknown library, quantiser or way of timing.
    """
    if library not in LIBRARIES:
        raise UnknownNameError("GEMM library", library, LIBRARIES)
    if timed not in TIMED:
        raise UnknownNameError("way of timing", timed, TIMED)
    lanes = 2.0 * np.asarray(machine.fma_per_clk, dtype=float)
    numbers = {
        "m": m,
        "n": n,
        "k": k,
        "batch": batch,
        "sm_count": machine.sm_count,
        "clock_hz": machine.clock_hz,
        "a_reuse": a_reuse,
        "tensor": lanes if arithmetic == "fma" else machine.tensor_flops_per_clk[arithmetic],
        "fma": machine.fma_per_clk,
        "smem": machine.smem_bytes_per_clk,
        "smem_bytes": machine.smem_bytes,
        "registers": machine.registers,
        "l2_bytes": machine.l2_bytes,
        "l2_bytes_per_clk": machine.l2_bytes_per_clk,
        "dram_bytes_per_s": machine.dram_bytes_per_s,
        "dram_latency_s": machine.dram_latency_s,
        "power_limit_w": machine.power_limit_w,
        "power_idle_w": machine.power_idle_w,
    } | {name: value for name, value in machine.constants.items() if name.startswith(("gemm.", "power."))}
    if pruned is not None:
        numbers |= {"density": pruned.density, "expanded": pruned.bits / 8.0, "expand": pruned.expand_cycles(machine)}
        numbers["sparse_speedup"] = machine.sparse_speedup if pruned.skippable else 1.0
    arrays = {name: np.asarray(value, dtype=float) for name, value in numbers.items()}
    shape = np.broadcast_shapes(*(a.shape for a in arrays.values()))
    bits = (a_bits, w_bits, out_bits)
    options = _Options(arithmetic, bits, dequantise, quantiser, weight_copies, activation_copies, LIBRARIES[library], timed, overlapped)
    size = int(np.prod(shape, dtype=np.int64))
    if size <= CHUNK:
        return KernelTimes(**_unpack(_chunk(arrays, shape, options), shape))
    out: dict[str, np.ndarray] = {}
    for index in _blocks(shape):
        block = {name: _take(a, shape, index) for name, a in arrays.items()}
        block_shape = tuple(s.stop - s.start for s in index)
        for name, value in _chunk(block, block_shape, options).items():
            if name not in out:
                out[name] = np.empty(shape)
            out[name][index] = value
    return KernelTimes(**_unpack(out, shape))


def _blocks(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Slices that cut an array of this shape into blocks of about CHUNK points, last axis longest."""
    blocks: list[tuple[slice, ...]] = [()]
    room = CHUNK
    cuts: list[list[slice]] = []
    for length in reversed(shape):
        step = max(1, min(length, room))
        cuts.append([slice(i, min(i + step, length)) for i in range(0, length, step)])
        room = max(1, room // step)
    for axis in reversed(cuts):
        blocks = [(*head, cut) for head in blocks for cut in axis]
    return blocks


def _take(a: np.ndarray, shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
    """The part of an array that broadcasts to a block of the whole shape."""
    own = index[len(shape) - a.ndim :]
    return a[tuple(cut if length > 1 else slice(None) for cut, length in zip(own, a.shape, strict=True))]


def _unpack(flat: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, Any]:
    """Fields of KernelTimes from names such as ``busy_s/dram``."""
    fields: dict[str, Any] = {"busy_s": {}, "bytes_moved": {}, "choice": {}}
    for name, value in flat.items():
        head, _, tail = name.partition("/")
        whole = np.array(np.broadcast_to(value, shape))
        if tail:
            fields[head][tail] = whole
        else:
            fields[head] = whole
    return fields


class _Options(NamedTuple):
    """Arguments of `gemm` that are the same for all points; bits are those of A, W and C."""

    arithmetic: str
    bits: tuple[float, float, float]
    dequantise: bool
    quantiser: str | None
    weight_copies: float
    activation_copies: float
    library: Library
    timed: str
    overlapped: bool


def _chunk(x: Mapping[str, np.ndarray], shape: tuple[int, ...], o: _Options) -> dict[str, np.ndarray]:
    """`gemm` for one block of points."""
    m, n, k, batch, clock, sm = x["m"], x["n"], x["k"], x["batch"], x["clock_hz"], x["sm_count"]
    a_bytes, w_bytes, out_bytes = (width / 8.0 for width in o.bits)
    outputs = m * n * batch
    a_total = m * k * batch * a_bytes
    w_total = n * k * batch * w_bytes
    c_total = outputs * out_bytes

    # What is not in L2: a footprint that is met again in turn misses from `resident` of the capacity on, wholly beyond.
    capacity = x["l2_bytes"] * x["gemm.l2_capacity"]
    resident = x["gemm.l2_resident"]

    def missing(footprint: Any) -> Any:
        return np.clip((footprint / capacity - resident) / (1.0 - resident), 0.0, 1.0)

    a_unique = a_total / x["a_reuse"]
    once = a_unique + w_total + c_total
    cycle = o.weight_copies * w_total + o.activation_copies * a_unique + c_total
    w_missing = missing(cycle)
    a_missing = missing(once if o.activation_copies == 1.0 else cycle)
    c_missing = missing(once)

    # DRAM reads: each operand once, and again for every band of a near-square wave of CTAs when L2 cannot keep it.
    side = np.sqrt(sm * 32768.0)
    again = missing(a_unique + w_total)
    reads = np.maximum(
        a_unique * a_missing + w_total * w_missing,
        again * (a_unique * np.maximum(1.0, n / side) + w_total * np.maximum(1.0, m / side)),
    )
    dram_bytes = reads + c_total * c_missing
    dram_per_clk = x["dram_bytes_per_s"] * x["gemm.dram_fraction"] / clock
    dram_clk = dram_bytes / dram_per_clk
    l2_write = x["l2_bytes_per_clk"] * x["gemm.l2_write_fraction"]
    write_cost = 1.0 / l2_write + c_missing * np.maximum(0.0, 1.0 / dram_per_clk - 1.0 / l2_write)

    feed = x["smem"] * x["gemm.feed_fraction"]
    row_bytes = k * 2.0 ** np.floor(np.log2(a_bytes))  # without the scales of narrow formats
    if np.any(row_bytes % 16):
        feed = feed * _vector_width(row_bytes)
    widen = x[o.library.widening] / x["fma"] if o.dequantise else None
    tensor: Any = x["tensor"]
    feed_bytes: Any = w_bytes
    executed: Any = 1.0
    if "density" in x:
        skipped = x["sparse_speedup"] > 1.0
        tensor = np.where(skipped, x["sparse_speedup"], 1.0) * tensor
        feed_bytes = np.where(skipped, w_bytes, x["expanded"])
        executed = np.where(skipped, x["density"], 1.0)
        widen = (0.0 if widen is None else widen) + np.where(skipped, 0.0, x["expand"])
    p = Point(
        m=m,
        n=n,
        k=k,
        batch=batch,
        sm=sm,
        flops_per_clk=tensor * x["gemm.tensor_efficiency"],
        feed=feed,
        serial=x[o.library.latencies] * x["dram_latency_s"] * clock / SERIAL_STEP * min(1.0, a_bytes / 2.0),
        epilogue=x["gemm.cutlass_epilogue_cycles"] if o.library.epilogue else None,
        promote=x["gemm.promote_ops"] / (x["fma"] * PROMOTED_K) if o.library.promoted else None,
        fill=x["gemm.fill_cycles"],
        l2_read=x["l2_bytes_per_clk"] * x["gemm.l2_read_fraction"] / x["gemm.cluster_reads"],
        l2_write=l2_write,
        a_bytes=a_bytes,
        w_bytes=feed_bytes,
        widen=widen,
        a_total=a_total,
        w_total=w_total,
        outputs=outputs,
        write=c_total * write_cost * (0.0 if o.library.epilogue else x["gemm.write_exposed"]),
        dram=dram_clk + np.minimum(dram_clk, x["gemm.dram_ramp_latencies"] * x["dram_latency_s"] * clock),
        partial_bytes=out_bytes,
        split_launch=x["gemm.split_launch"] * clock,
    )
    if callable(o.library.tiles):
        tile_m, tile_n, split = o.library.tiles(m, n, k, sm)
    else:
        tile_m, tile_n, split = choose(p, shape, o.library.tiles)
    if o.library.rows_by_dot:
        dots = m <= o.library.rows_by_dot
        tile_m, tile_n, split = np.where(dots, m, tile_m), np.where(dots, DOT_COLUMNS, tile_n), np.where(dots, 1.0, split)
        alone = p.serial * x["gemm.serial_latencies"] / x[o.library.latencies] / DOT_WARPS
        lanes = np.where(dots, 4.0 * x["fma"], p.flops_per_clk)  # two 16-bit products in each lane
        p = p._replace(serial=np.where(dots, alone, p.serial), flops_per_clk=lanes)
    chosen = parts(p, tile_m, tile_n, split)
    l2, reduce, ctas = chosen.l2, chosen.reduce, chosen.ctas

    flops = 2.0 * m * n * k * batch
    launch = x["gemm.launch"] + x["gemm.launch_cycles"] / clock
    if o.overlapped:
        launch = launch * (1.0 - x["gemm.launch_overlap"])
    body_s = overlap(chosen.compute, overlap(l2, p.dram)) / clock
    through_smem = l2 * p.l2_read + np.ceil(m / tile_m) * n * k * batch * (feed_bytes - w_bytes)
    l2_bytes = l2 * p.l2_read * x["gemm.cluster_reads"] + c_total
    # Power: reads are counted as of a 128 x 256 tile, so that the clock does not depend on the tile that was chosen.
    limits = _limits(x)
    per_tile = a_total * np.maximum(1.0, n / 256.0) + w_total * np.maximum(1.0, m / 128.0)
    core_j = power.flop_joules(limits, flops * executed, o.arithmetic)
    core_j = core_j + power.l2_joules(limits, per_tile * x["gemm.cluster_reads"] + c_total)
    memory_j = power.dram_joules(limits, dram_bytes)
    ratio = power.clock_ratio(limits, body_s + reduce / clock, core_j, memory_j, fixed_s=launch)
    time_s = (body_s + reduce / clock) / ratio + launch
    floor_s = launch + np.where(split > 1, x["gemm.split_launch"], 0.0)
    if o.timed == "alone":
        time_s = time_s + x["gemm.profiled_launch"]
        floor_s = floor_s + x["gemm.profiled_launch"]
    if o.quantiser is not None:
        narrow_s, narrow_floor_s, narrow_bytes = quantise_s(x, quantiser_named(o.quantiser), a_bytes, missing, dram_per_clk)
        time_s, floor_s, dram_bytes = time_s + narrow_s, floor_s + narrow_floor_s, dram_bytes + narrow_bytes
    if o.timed == "eager":
        time_s = np.maximum(time_s, x["gemm.eager_call"])
        floor_s = np.maximum(floor_s, x["gemm.eager_call"])
    return {
        "time_s": time_s,
        "clock_hz": ratio * clock,
        "busy_s/tensor": flops / (p.flops_per_clk * sm * clock * ratio),
        "busy_s/smem": through_smem / (p.feed * np.minimum(sm, ctas) * clock * ratio),
        "busy_s/l2": (l2 + c_total * (1.0 - c_missing) / l2_write) / (clock * ratio),
        "busy_s/dram": p.dram / clock,
        "busy_s/floor": floor_s,
        "bytes_moved/dram": dram_bytes,
        "bytes_moved/l2": l2_bytes,
        "choice/tile_m": tile_m,
        "choice/tile_n": tile_n,
        "choice/split_k": split,
        "choice/ctas": ctas,
        "choice/resident": resident_ctas(x, tile_m, tile_n),
        "choice/cta_s": chosen.cta / (clock * ratio),
        "choice/alone_s": chosen.alone / (clock * ratio),
        "choice/l2_s": l2 / (clock * ratio),
        "choice/extra_s": time_s - body_s / ratio,
        "choice/exposed": np.asarray(EXPOSED),
        "choice/exposed_power": np.asarray(2.0),
    }


def _limits(x: Mapping[str, np.ndarray]) -> Any:
    """The numbers of a block that `power` reads, indexed as a Machine is."""
    return _Limits(x["power_limit_w"], x["power_idle_w"], x)


class _Limits(NamedTuple):
    power_limit_w: Any
    power_idle_w: Any
    constants: Mapping[str, np.ndarray]

    def __getitem__(self, name: Any) -> Any:
        return self.constants[name]
