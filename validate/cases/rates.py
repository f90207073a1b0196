"""Measures that follow from bytes, FLOPs, rates and schedules alone."""

from __future__ import annotations

import math
from typing import Annotated

from ...arch import System
from ...errors import CaseError
from ...mapping.gpu.lower import lower
from ...mapping.gpu.sparse import SUFFIX
from ...mapping.neighborhood import Neighborhood
from ...workloads import NumberFormat, Op, OpGraph
from ...workloads.formats import by_name
from ...workloads.op import SPECIAL
from .registry import measures

FP16 = by_name("fp16")


def _only(graph: OpGraph, kind: str) -> Op:
    ops = [op for op in graph if op.kind == kind]
    if len(ops) != 1:
        raise CaseError(f"expected a workload of one {kind} op, found {len(ops)}")
    return ops[0]


def mac_flops(graph: OpGraph) -> float:
    """FLOPs of the multiply-adds of one step, repeats included."""
    return sum(2.0 * op.scalar_ops("mac") * op.count for op in graph)


def _roofline_s(op: Op, system: System) -> float:
    sm, lanes = system.gpu.sm, system.gpu.sm.count * system.gpu.clock.boost_hz
    options, peaks = lower(op, sm.tensor_flops_per_clk).options, system.peaks_flops_per_s
    arithmetic = options.get("arithmetic", "fma")
    skipped = f"{arithmetic}{SUFFIX}"  # of the dense product's FLOPs
    tensor_s = 2.0 * op.scalar_ops("mac") / peaks[skipped if options.get("skip") and skipped in peaks else arithmetic]
    fma_s = op.scalar_ops("add", "mul", "cmp") / (sm.fma_per_clk * lanes)
    special_s = op.scalar_ops(*SPECIAL) / (sm.sfu_per_clk * lanes)
    return max(tensor_s, fma_s, special_s, (op.bytes_read + op.bytes_written) / system.dram.bandwidth_bytes_per_s)


def _roofline_total_s(graph: OpGraph, system: System) -> float:
    return sum(_roofline_s(op, system) * op.count for op in graph)


@measures.add("1")
def roofline_speedup(graph: OpGraph, baseline: OpGraph, system: System) -> float:
    """Roofline time of the baseline over that of the workload.

    An op's roofline time is the larger of its compulsory bytes / DRAM bandwidth and its work / peak rate, at the boost
    clock.

    Source: Williams, Waterman and Patterson, "Roofline" (CACM 2009).
    """
    return _roofline_total_s(baseline, system) / _roofline_total_s(graph, system)


@measures.add("B")
def dram_bytes(graph: OpGraph) -> float:
    """Bytes between DRAM and chip when every op reads each operand once and writes each output once."""
    return sum((op.bytes_read + op.bytes_written) * op.count for op in graph)


@measures.add("1")
def weight_bytes_ratio(graph: OpGraph, baseline: OpGraph) -> float:
    """Weight bytes of the baseline over those of the workload, scales, zero points, indices and offsets included."""
    return sum(op.operand_bytes("weight") * op.count for op in baseline) / sum(
        op.operand_bytes("weight") * op.count for op in graph
    )


@measures.add("1")
def parameters(graph: OpGraph, stored_as: NumberFormat = FP16) -> float:
    """Parameters of a model: bytes of its weights over the bytes of one."""
    return graph.memory.weights_bytes / stored_as.bytes


@measures.add("FLOP")
def matmul_flops(graph: OpGraph) -> float:
    """FLOPs of all matrix products of one step, a multiply-add being two."""
    return mac_flops(graph)


@measures.add("s")
def time_at_rate(graph: OpGraph, rate: Annotated[float, "FLOP/s"]) -> float:
    """FLOPs of the matrix products over an aggregate rate that is given (measured, not predicted)."""
    return mac_flops(graph) / rate


@measures.add("1")
def share_of_peak_at_rate(rate: Annotated[float, "FLOP/s"], devices: int, arithmetic: str, system: System) -> float:
    """An aggregate rate that is given over the tensor-core peak of so many devices."""
    return rate / (devices * system.tensor_flops_per_s(arithmetic))


@measures.add("1")
def tokens_per_s_at_rate(graph: OpGraph, rate: Annotated[float, "FLOP/s"], stored_as: NumberFormat = FP16) -> float:
    """Tokens a second when every parameter costs one multiply-add a token and nothing but compute limits: rate / (2 P).

    Source: NanoFlow (arXiv 2408.12757), section on the optimal throughput.
    """
    return rate / (2.0 * parameters(graph, stored_as))


@measures.add("1")
def pipeline_bubble(stages: int, batch: int, data_parallel: int, micro_batch: int, chunks: int = 1) -> float:
    """Idle share of ideal time of a 1F1B pipeline: (p - 1) / (v m).

    p stages, m = batch / (data_parallel * micro_batch) micro-batches a replica, v chunks of layers a stage.

    Source: Narayanan et al., "Efficient large-scale language model training on GPU clusters using Megatron-LM"
    (SC 2021), section 2.2.
    """
    if batch % (data_parallel * micro_batch):
        raise CaseError(
            f"batch: {batch} is not a multiple of data_parallel * micro_batch, {data_parallel * micro_batch}"
        )
    return (stages - 1) / (chunks * (batch // (data_parallel * micro_batch)))


@measures.add("clk")
def tensor_cycles(graph: OpGraph, arithmetic: str, system: System) -> float:
    """SM clocks that the tensor cores of one SM need for the multiply-adds of a tile."""
    rates = system.gpu.sm.tensor_flops_per_clk
    if arithmetic not in rates:
        system.tensor_flops_per_s(arithmetic)  # raises with the arithmetics that there are
    return mac_flops(graph) / rates[arithmetic]


@measures.add("clk")
def exponential_cycles(graph: OpGraph, system: System) -> float:
    """SM clocks that the special-function units of one SM need for the exponentials of a tile."""
    return sum(op.scalar_ops("exp") * op.count for op in graph) / system.gpu.sm.sfu_per_clk


@measures.add("s")
def decode_floor(graph: OpGraph, system: System) -> float:
    """Weights and KV cache, each read once, over the DRAM bandwidth: no decode step is faster."""
    return (graph.memory.weights_bytes + graph.memory.kv_cache_bytes) / system.dram.bandwidth_bytes_per_s


@measures.add("B")
def flash_attention_training_bytes(graph: OpGraph, system: System) -> float:
    """DRAM bytes of FlashAttention, forward and backward, by its algorithms 1 and 4, blocks filling shared memory.

    N rows of d elements and M elements of shared memory give B_c = ceil(M / 4d) columns a block and T = ceil(N / B_c)
    outer iterations. Forward, for each head: initialise O, l, m; read K and V once; in each outer iteration read Q, O,
    l, m and write O, l, m. Backward: initialise dQ, dK, dV; read K, V once and write dK, dV once; in each outer
    iteration read Q, O, dO, dQ, l, m and write dQ. The statistics l and m are fp32, one number a row. No masked block
    is skipped and no cache catches anything.

    Source: Dao et al., "FlashAttention" (arXiv 2205.14135), algorithms 1 and 4.
    """
    op = _only(graph, "attention")
    d, fmt = op.dims, op.operands[0].number_format
    vector, statistic = d["q"] * d["e"] * fmt.bytes, d["q"] * 4.0
    block = math.ceil(system.gpu.sm.shared_bytes / fmt.bytes / (4 * d["e"]))
    outer = math.ceil(d["s"] / block)
    forward = (1 + 2 + 3 * outer) * vector + (2 + 4 * outer) * statistic
    backward = (3 + 2 + 2 + 5 * outer) * vector + 2 * outer * statistic
    return d["b"] * d["h"] * d["g"] * (forward + backward)


@measures.add("1")
def flash_attention_training_flop_ratio(graph: OpGraph, baseline: OpGraph) -> float:
    """FLOPs of FlashAttention's products, forward (2) and backward (5: the scores come again), over the baseline's.

    Source: Dao et al., "FlashAttention" (arXiv 2205.14135), algorithm 4.
    """
    return (2 + 5) / 2 * mac_flops(graph) / mac_flops(baseline)


@measures.add("1")
def wave_fill(tasks: int, system: System) -> float:
    """Share of the SMs' slots that equal tasks fill, one to an SM at a time: tasks / (ceil(tasks / SMs) * SMs)."""
    sms = system.gpu.sm.count
    return tasks / (math.ceil(tasks / sms) * sms)


@measures.add("1")
def neighborhood_flop_ratio(extent: list[int], window: list[int]) -> float:
    """Work of dense attention over that of neighbourhood windows.

    Source: Generalized Neighborhood Attention (arXiv 2504.16922).
    """
    return Neighborhood(tuple(extent), tuple(window), (1,) * len(extent)).flop_ratio


@measures.add("1")
def neighborhood_tile_bound(extent: list[int], window: list[int], stride: list[int], tile: list[int]) -> float:
    """Most that a tiled neighbourhood attention can gain over dense attention: key tiles of dense over key tiles visited.

    Source: Generalized Neighborhood Attention (arXiv 2504.16922), section 3.
    """
    return Neighborhood(tuple(extent), tuple(window), tuple(stride)).tile_bound(tile)
