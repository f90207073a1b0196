"""Closed forms of a processor of systolic arrays and vector cores beside memory with processing units (the NPU of NeuPIMs).

A product (m, n, k) with a constant second operand, by what the arrays hold:

* ``inputs``: a tile of activations of ``rows x columns`` (k by m) is loaded into every array in `rows` cycles, and the weights that belong
  to it stream past, each array taking a share: rows + (ceil(n / columns) - 1) columns / arrays cycles a tile (NeuPIMs' simulator).
  A batch below `columns` leaves columns empty, so that halving a small batch saves nothing.
* ``weights``: SCALE-Sim's fold of a weight-stationary array, 2 rows + columns + m - 2 cycles, folds spread over the arrays.

Products of activations (attention on this processor) go the way that is faster. Vector operations take one cycle for all lanes. Memory is
busy for every operand's bytes over bandwidth and efficiency; an op takes the longest of the three. With activations in the arrays, all
weights pass once for each tile of `columns` tokens: the first pass waits for them to arrive, the others find them in the scratchpad, so
that an op takes the longer of arrival and first pass, and then the other passes (NeuPIMs' simulator: an op's loads begin with the op).
"""

from __future__ import annotations

import math

from ..arch import Estimate
from ..arch.hybrid_spec import STATIONARY, NpuSide
from ..workloads.op import Op


def matrix_cycles(npu: NpuSide, m: int, n: int, k: int, stationary: str) -> float:
    """Cycles of one product of ``(m, k)`` by ``(k, n)``; see the module.

    >>> from presilicon.arch import load
    >>> matrix_cycles(load("neupims").xpu, 128, 128 * 24, 128, "inputs")
    496.0
    """
    folds = math.ceil(k / npu.rows)
    if stationary == "inputs":
        stream = (math.ceil(n / npu.columns) - 1) * npu.columns / npu.arrays
        return folds * math.ceil(m / npu.columns) * (npu.rows + stream)
    return math.ceil(folds * math.ceil(n / npu.columns) / npu.arrays) * (2.0 * npu.rows + npu.columns + m - 2)


def gemv_cycles(npu: NpuSide, matrices: float, n: int, k: int) -> float:
    """Cycles of many products of one row with a matrix ``(k, n)`` of its own each.

    Spread over the arrays, each either holds the row and streams the matrix past, rows + n cycles a fold, or holds tiles of the matrix.
    In turn, all arrays are one pipeline and share each fold: the vector takes their place, `rows` cycles, while the matrix streams past,
    n / arrays cycles (NeuPIMs' simulator: GEMM_PRELOAD starts `rows` after the instruction before it, with an eighth of the columns each).
    """
    if npu.gemv == "in-turn":
        return matrices * math.ceil(k / npu.rows) * max(npu.rows, n / npu.arrays)
    past = math.ceil(k / npu.rows) * (npu.rows + n)
    held = math.ceil(k / npu.rows) * math.ceil(n / npu.columns) * (2.0 * npu.rows + npu.columns - 1)
    return matrices * min(past, held) / npu.arrays


def npu_estimate(op: Op, npu: NpuSide, lengths: tuple[int, ...] | None = None) -> Estimate:
    """Time, traffic and energy of one run of an op.

    Parameters
    ----------
    op
        Any op of a graph.
    npu
        The processor.
    lengths
        Context of each request, for attention of decode steps; None: the op's own.
    """
    matrix, flops, moved = _matrix(op, npu, lengths)
    vector_ops = op.scalar_ops("add", "mul", "div", "exp", "rsqrt", "tanh", "log", "cmp", "int")
    if op.kind == "attention" and lengths is not None:
        per_point = sum(op.body.get(name, 0.0) for name in ("add", "mul", "exp", "cmp"))
        vector_ops = per_point * op.dims["h"] * op.dims["g"] * op.dims["q"] * op.dims["e"] * sum(lengths)
    vector = vector_ops / (npu.vector_cores * npu.lanes)
    busy = {
        "matrix": matrix / npu.clock_hz,
        "vector": vector / npu.clock_hz,
        "dram": moved / (npu.bandwidth_bytes_per_s * npu.efficiency),
    }
    time_s = max(*busy.values(), _arriving_s(op, npu, busy["matrix"]))
    limiter = max(busy, key=lambda name: busy[name])
    return Estimate(
        time_s=time_s, low_s=time_s, high_s=time_s, busy_s=busy, bytes_moved={"dram": moved}, flops=flops, clock_hz=npu.clock_hz,
        limiter=limiter, energy_j={"mac": flops / 2.0 * npu.mac_j, "vector": vector_ops * npu.vector_j})


def _arriving_s(op: Op, npu: NpuSide, matrix_s: float) -> float:
    """Seconds of a product whose weights arrive during its first pass, in pieces that fit half of the scratchpad; 0 for other ops."""
    size = op.operand_bytes("weight")
    if op.kind != "matmul" or not size or npu.stationary != "inputs":
        return 0.0
    passes, pieces = math.ceil(op.dims["m"] / npu.columns), math.ceil(2.0 * size / npu.scratchpad_bytes)
    arrive, run = size / (npu.bandwidth_bytes_per_s * npu.efficiency) / pieces, matrix_s / pieces
    first = max(arrive, run / passes) + run * (passes - 1) / passes
    return first + (pieces - 1) * max(arrive, run)


def fill_cycles(npu: NpuSide) -> float:
    """Cycles that the first tile takes to enter and the last to leave, beyond those between tiles."""
    return 2.0 * npu.rows + npu.columns - 3.0 + npu.columns / npu.arrays


def _matrix(op: Op, npu: NpuSide, lengths: tuple[int, ...] | None) -> tuple[float, float, float]:
    """Cycles of the arrays, FLOPs, and bytes moved."""
    moved, flops, d = op.bytes_read + op.bytes_written, 2.0 * op.scalar_ops("mac"), op.dims
    if op.kind == "matmul":
        batch = math.prod(extent for name, extent in d.items() if name not in ("m", "n", "k"))
        if op.operand_bytes("weight"):
            cycles = batch * matrix_cycles(npu, d["m"], d["n"], d["k"], npu.stationary)
            cycles += fill_cycles(npu) if npu.stationary == "inputs" else 0.0
        else:
            ways = [matrix_cycles(npu, d["m"], d["n"], d["k"], way) for way in STATIONARY]
            cycles = batch * min(*ways, gemv_cycles(npu, d["m"], d["n"], d["k"]))
        return cycles, flops, moved
    if op.kind == "attention":
        heads, rows, dim = d["h"], d["g"] * d["q"], d["e"]
        contexts = lengths if lengths is not None and d["q"] <= 8 else (d["s"],) * d["b"]
        if lengths is not None:
            cache, keys = op.operand_bytes("cache"), sum(lengths) * heads
            bits = sum(o.number_format.bits for o in op.operands if o.role == "cache")
            moved += keys * dim * bits / 8.0 - cache if cache else 0.0
            flops = 4.0 * keys * rows * dim
        counts: dict[int, int] = {}
        for context in contexts:
            counts[context] = counts.get(context, 0) + 1
        cycles = 0.0
        for context, requests in counts.items():
            for n, k in ((context, dim), (dim, context)):
                few = gemv_cycles(npu, heads * rows, n, k)
                held = ("inputs",) if npu.gemv == "in-turn" and rows < npu.columns else STATIONARY
                many = heads * min(matrix_cycles(npu, rows, n, k, way) for way in held)
                cycles += requests * min(few, many)
        return cycles, flops, moved
    if op.kind == "conv":
        pixels = math.prod(d.get(x, 1) for x in ("b", "p", "q", "z"))
        window = d.get("c", 1) * math.prod(d.get(x, 1) for x in ("r", "s", "t"))
        return d.get("g", 1) * matrix_cycles(npu, pixels, d["m"], window, npu.stationary), flops, moved
    return 0.0, flops, moved
