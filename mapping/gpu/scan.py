"""Closed forms of sequence-mixing kernels: causal conv1d, the Mamba-2 SSD scan and the gated delta rule.

Prefill runs a few kernels over chunks: matmuls inside each chunk, and a recurrence from chunk to chunk that is
sequential for each (sequence, head). Decode reads and writes the recurrent state once.

Sources
-------
Chunked SSD: Dao and Gu, "Transformers are SSMs" (2024), section 6, and the five Triton kernels of mamba_ssm's
``mamba_chunk_scan_combined``. Chunked gated delta rule: Yang et al., "Gated Delta Networks" (2024), section 3, and the
kernels of flash-linear-attention's ``chunk_gated_delta_rule``. Causal conv1d: Dao-AILab/causal-conv1d, whose forward
kernel gives one CTA of 128 threads to each (sequence, channel) and walks 1,024 tokens at a time.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from .machine import KernelTimes, Machine, Number

#: Tokens that a CTA of the causal conv1d forward kernel takes per step (128 threads of 16 bytes of bf16).
CONV_STEP_TOKENS: Final = 1024.0
#: Most CTAs of 128 threads that an SM of 2,048 threads holds.
CONV_CTAS_PER_SM: Final = 16.0


def causal_conv1d(
    machine: Machine,
    batch: Any,
    seq_len: Any,
    channels: Any,
    width: Any = 4.0,
    *,
    element_bytes: float = 2.0,
) -> KernelTimes:
    """Depthwise causal convolution with activation over whole sequences, in place.

    Parameters
    ----------
    batch, seq_len, channels, width
        Arrays that broadcast together.

    Notes
    -----
    A sequence length that is not a multiple of eight takes the kernel's scalar loads (``conv_unaligned``).
    """
    batch, seq_len, channels, width = _sizes(batch, seq_len, channels, width)
    elements = batch * seq_len * channels
    ctas = batch * channels
    sms, clock = machine.sm_count, machine.clock_hz
    moved = 2.0 * elements * element_bytes * machine["scan.conv_traffic"]
    dram, dram_s, l2_s = _memory(machine, moved, elements * element_bytes)
    fma_s = elements * (width + 4.0) / (machine.fma_per_clk * sms * clock * machine["memory.issue_efficiency"])
    sfu_s = 2.0 * elements / (machine.sfu_per_clk * sms * clock * machine["memory.issue_efficiency"])
    throughput = np.maximum(np.maximum(dram_s, l2_s), np.maximum(fma_s, sfu_s))
    scalar = np.where(seq_len % 8.0 == 0.0, 1.0, machine["scan.conv_unaligned"])
    starts = np.maximum(ctas / sms, 1.0) * machine["scan.conv_cta_cycles"] * scalar / clock
    # A CTA's steps follow one another; CTAs on an SM overlap.
    steps = np.ceil(seq_len / CONV_STEP_TOKENS) - 1.0
    rounds = np.maximum(ctas / (sms * CONV_CTAS_PER_SM), 1.0)
    latency = starts + steps * rounds * machine["scan.conv_step_cycles"] / clock
    time = machine["scan.floor"] + np.hypot(throughput, latency)
    busy = {"dram": dram_s, "l2": l2_s, "fma": fma_s, "sfu": sfu_s, "floor": machine["scan.floor"] + latency}
    return _times(machine, time, busy, dram, moved)


def causal_conv1d_update(
    machine: Machine, batch: Any, channels: Any, width: Any = 4.0, *, element_bytes: float = 2.0
) -> KernelTimes:
    """One decode step of the causal convolution: reads and writes the last `width` inputs of each channel.

    All sizes are arrays that broadcast together.
    """
    batch, channels, width = _sizes(batch, channels, width)
    footprint = batch * channels * (1.0 + width) * element_bytes
    # Each channel's few bytes are loads and stores of their own, at a fixed rate of the SM's load-store units.
    cycles = batch * channels * machine["scan.conv_update_cycles"]
    fma_ops, sfu_ops = batch * channels * (width + 4.0), 2.0 * batch * channels
    return _state_pass(machine, 2.0 * footprint, footprint, fma_ops, sfu_ops, cycles)


def mamba2_update(
    machine: Machine, batch: Any, heads: Any, head_dim: Any, state_dim: Any, *, state_bytes: float = 4.0
) -> KernelTimes:
    """One decode step of the Mamba-2 recurrence (``selective_state_update``); all sizes broadcast together."""
    batch, heads, head_dim, state_dim = _sizes(batch, heads, head_dim, state_dim)
    state = batch * heads * head_dim * state_dim
    return _state_pass(machine, 2.0 * state * state_bytes, state * state_bytes, 3.0 * state, state)


def gated_delta_update(
    machine: Machine,
    batch: Any,
    value_heads: Any,
    key_dim: Any,
    value_dim: Any,
    *,
    read_bytes: float = 4.0,
    write_bytes: float = 4.0,
    in_place: bool = True,
) -> KernelTimes:
    """One decode step of the gated delta rule: each value head's state, ``key_dim`` by ``value_dim``, read and written.

    Parameters
    ----------
    batch, value_heads, key_dim, value_dim
        Arrays that broadcast together.
    read_bytes, write_bytes
        Bytes per state element (fp32 in serving frameworks).
    in_place
        Whether the new state replaces the old; if not, both take room in L2.
    """
    batch, value_heads, key_dim, value_dim = _sizes(batch, value_heads, key_dim, value_dim)
    state = batch * value_heads * key_dim * value_dim
    footprint = state * (read_bytes if in_place else read_bytes + write_bytes)
    return _state_pass(machine, state * (read_bytes + write_bytes), footprint, 5.0 * state, batch * value_heads)


def mamba2_scan(
    machine: Machine,
    batch: Any,
    seq_len: Any,
    heads: Any,
    head_dim: Any,
    state_dim: Any,
    groups: Any = 1.0,
    chunk: Any = 256.0,
    *,
    arithmetic: str = "bf16",
    element_bytes: float = 2.0,
) -> KernelTimes:
    """Chunked state-space-dual scan of Mamba-2 over whole sequences: five kernels.

    Parameters
    ----------
    batch, seq_len, heads, head_dim, state_dim, groups, chunk
        Arrays that broadcast together.
    arithmetic
        Tensor-core arithmetic of the chunk matmuls; a GPU without it uses fp16.
    """
    sizes = _sizes(batch, seq_len, heads, head_dim, state_dim, groups, chunk)
    batch, seq_len, heads, head_dim, state_dim, groups, chunk = sizes
    chunks = np.ceil(seq_len / chunk)
    # A short sequence computes one partial chunk, padded to the matmul tile.
    span = np.minimum(chunk, np.maximum(seq_len, 16.0))
    tokens = batch * chunks * span
    flops = tokens * (
        2.0 * groups * span * state_dim  # scores C B^T, per group
        + 2.0 * heads * span * head_dim  # scores times x
        + 4.0 * heads * state_dim * head_dim  # state of the chunk, and its part in the output
    )
    x_bytes = batch * seq_len * heads * head_dim * element_bytes
    bc_bytes = 2.0 * batch * seq_len * groups * state_dim * element_bytes
    state_bytes = batch * chunks * heads * state_dim * head_dim * 4.0
    score_bytes = tokens * groups * span * 4.0
    # x in twice and out once, B and C in twice; states out, through the recurrence, and in; scores out and in.
    moved = 3.0 * x_bytes + 2.0 * bc_bytes + 4.0 * state_bytes + 2.0 * score_bytes
    footprint = 2.0 * x_bytes + bc_bytes + state_bytes + score_bytes
    ctas = batch * chunks * heads * np.maximum(head_dim * span / 4096.0, 1.0)
    # State passing walks the chunks, one load and one multiply-add each.
    turn = machine.dram_latency_s
    return _chunked(machine, flops, moved, footprint, ctas, 5.0, chunks * turn, arithmetic)


def gated_delta(
    machine: Machine,
    batch: Any,
    seq_len: Any,
    key_heads: Any,
    value_heads: Any,
    key_dim: Any,
    value_dim: Any,
    chunk: Any = 64.0,
    *,
    arithmetic: str = "bf16",
    element_bytes: float = 2.0,
) -> KernelTimes:
    """Chunked gated delta rule over whole sequences: eight kernels, one of which walks the chunks, two matmuls each.

    Parameters
    ----------
    batch, seq_len, key_heads, value_heads, key_dim, value_dim, chunk
        Arrays that broadcast together.
    arithmetic
        Tensor-core arithmetic of the chunk matmuls; a GPU without it uses fp16.
    """
    sizes = _sizes(batch, seq_len, key_heads, value_heads, key_dim, value_dim, chunk)
    batch, seq_len, key_heads, value_heads, key_dim, value_dim, chunk = sizes
    chunks = np.ceil(seq_len / chunk)
    span = np.minimum(chunk, np.maximum(seq_len, 16.0))
    tokens = batch * chunks * span
    flops = 2.0 * tokens * value_heads * (
        span * key_dim  # K K^T
        + span * span / 3.0  # inverse of the unit lower triangle
        + span * (key_dim + value_dim)  # w and u
        + 2.0 * key_dim * value_dim  # corrected values, and the state
        + key_dim * value_dim + span * (key_dim + value_dim)  # output: through the state, and inside the chunk
    )  # fmt: skip
    qk_bytes = 2.0 * batch * seq_len * key_heads * key_dim * element_bytes
    v_bytes = batch * seq_len * value_heads * value_dim * element_bytes
    w_bytes = batch * seq_len * value_heads * key_dim * element_bytes
    state_bytes = batch * chunks * value_heads * key_dim * value_dim * element_bytes
    triangle_bytes = tokens * value_heads * span * 4.0
    # q and k normalised (in, out), k in three times, q once; v in, u out and in, new v out and in, o out; w out and in;
    # states out and in; the triangle out, in, out, in.
    moved = 4.0 * qk_bytes + 6.0 * v_bytes + 2.0 * w_bytes + 2.0 * state_bytes + 4.0 * triangle_bytes
    footprint = qk_bytes + 3.0 * v_bytes + w_bytes + state_bytes + triangle_bytes
    ctas = batch * chunks * value_heads
    turn = machine["scan.turn_cycles"] / machine.clock_hz
    return _chunked(machine, flops, moved, footprint, ctas, 8.0, chunks * turn, arithmetic)


def _sizes(*values: Any) -> tuple[np.ndarray, ...]:
    return np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in values))


def _memory(machine: Machine, moved: np.ndarray, footprint: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DRAM bytes, seconds at achievable DRAM bandwidth, seconds at achievable L2 bandwidth."""
    kept = np.clip(2.0 - footprint / (machine["memory.l2_residency"] * machine.l2_bytes), 0.0, 1.0)
    dram = moved * (1.0 - kept)
    dram_s = dram / (machine.dram_bytes_per_s * machine["memory.dram_efficiency"])
    return dram, dram_s, moved / (machine.l2_bytes_per_clk * machine.clock_hz * machine["memory.l2_efficiency"])


def _state_pass(
    machine: Machine,
    moved: np.ndarray,
    footprint: np.ndarray,
    fma_ops: np.ndarray,
    sfu_ops: np.ndarray,
    access_cycles: np.ndarray | float = 0.0,
) -> KernelTimes:
    """A kernel that reads and writes a state once; `access_cycles` are SM cycles of its load-store units, in all."""
    dram, dram_s, l2_s = _memory(machine, moved, footprint)
    rate = machine.sm_count * machine.clock_hz * machine["memory.issue_efficiency"]
    fma_s, sfu_s = fma_ops / (machine.fma_per_clk * rate), sfu_ops / (machine.sfu_per_clk * rate)
    smem_s = access_cycles / (machine.sm_count * machine.clock_hz)
    latency = machine["scan.update_floor"] + machine.dram_latency_s
    time = np.hypot(latency, np.maximum(np.maximum(np.maximum(dram_s, l2_s), np.maximum(fma_s, sfu_s)), smem_s))
    busy = {"dram": dram_s, "l2": l2_s, "fma": fma_s, "sfu": sfu_s, "smem": smem_s, "floor": latency}
    return _times(machine, time, busy, dram, moved)


def _chunked(
    machine: Machine,
    flops: np.ndarray,
    moved: np.ndarray,
    footprint: np.ndarray,
    ctas: np.ndarray,
    kernels: float,
    recurrence_s: np.ndarray,
    arithmetic: str,
) -> KernelTimes:
    """Several kernels over chunks: matmuls on the SMs that have a CTA, bytes, and the sequential recurrence."""
    used = np.minimum(ctas / machine.sm_count, 1.0)
    rate = machine.tensor_rate(arithmetic if arithmetic in machine.tensor_flops_per_clk else "fp16")
    tensor_s = flops / (rate * machine["scan.tensor_efficiency"] * used)
    dram, dram_s, l2_s = _memory(machine, moved, footprint)
    latency = kernels * machine["scan.floor"] + recurrence_s
    time = latency + np.hypot(tensor_s, np.maximum(dram_s, l2_s))
    return _times(machine, time, {"tensor": tensor_s, "dram": dram_s, "l2": l2_s, "floor": latency}, dram, moved)


def _times(
    machine: Machine, time: np.ndarray, busy: dict[str, Number], dram: np.ndarray, moved: np.ndarray
) -> KernelTimes:
    time = np.asarray(time)
    return KernelTimes(
        time_s=time,
        busy_s={name: np.broadcast_to(value, time.shape) for name, value in busy.items()},
        bytes_moved={"dram": np.broadcast_to(dram, time.shape), "l2": np.broadcast_to(moved, time.shape)},
        clock_hz=np.broadcast_to(np.asarray(machine.clock_hz, dtype=float), time.shape),
    )
