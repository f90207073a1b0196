"""Closed form of attention calls: flash attention (prefill, encoder) and split-KV flash decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from .attention_grid import RAMP, Found, Work, kernel_s, kernel_times, select, tensor_rate
from .attention_kernels import resolve
from .attention_types import AttentionKernel, Implementation, lookup
from .machine import KernelTimes, Machine, Number

#: FlashAttention 3 looks at one sequence alone up to this batch.
EVEN_BATCH: Final = 992
#: Width of the latent vector of DeepSeek's multi-head latent attention, beside which 64 rotary elements lie.
LATENT: Final = 512.0
#: L2 rate of elementwise kernels over that of attention kernels.
STREAM: Final = 0.4


def _by_rows(machine: Machine, kernel: AttentionKernel, work: Work, kv_aliased: bool = False) -> Found:
    """A kernel or the wider one that its packed query rows ask for."""
    found = kernel_times(machine, kernel, work, kv_aliased)
    below = kernel
    for wide in kernel.wider:
        rows = work.group * work.q_len
        taken = ((rows >= wide.rows_from) if wide.rows_from else (rows > below.tile_q)) & (work.qk_dim <= wide.most_head_dim)
        if np.any(taken):
            found = select(taken, kernel_times(machine, wide, work, kv_aliased), found)
        below = wide
    return found


def _library_split(machine: Machine, implementation: Implementation, work: Work, found: Found) -> Found:
    """FlashAttention 3's choice between its kernels, which looks at one sequence of the batch."""
    kernel, plain = implementation.split_kernel, implementation.prefill
    if work.arithmetic == "fp8" and implementation.split_fp8 is not None:
        kernel, plain = implementation.split_fp8, implementation.prefill_fp8 or plain
    if kernel is None:
        return found
    tiles = np.ceil(work.q_len * work.group / plain.tile_q) * work.kv_heads
    steps = np.ceil(work.kv_len / lookup(plain.tile_kv, work.qk_dim))
    taken = (tiles < 0.8 * machine.sm_count) & (steps > 4) & (work.batch <= EVEN_BATCH)
    return select(taken, kernel_times(machine, kernel, work), found) if np.any(taken) else found


def _query_bytes(implementation: Implementation, work: Work) -> Any:
    """Bytes that reading and writing the queries outside the attention kernel moves."""
    return implementation.query_passes * 4.0 * work.batch * work.q_len * work.q_heads * work.qk_dim


def _written_bytes(implementation: Implementation, work: Work) -> Any:
    """Bytes that storing the new keys and values moves."""
    imp = implementation
    elements = work.kv_heads * np.where(work.latent, work.qk_dim, work.qk_dim + work.v_dim)
    if imp.stores_latent:
        elements = LATENT + 64.0
    return imp.kv_passes * work.batch * work.q_len * elements * (2.0 + work.kv_element)


def _cast_bytes(implementation: Implementation, work: Work) -> Any:
    """Bytes that converting the queries to fp8 moves."""
    narrow = work.kv_element < 2
    return np.where(narrow, implementation.query_casts * 3.0, 0.0) * work.batch * work.q_len * work.q_heads * work.qk_dim


def _prefill(machine: Machine, implementation: Implementation, work: Work) -> tuple[Found, Any, Any]:
    """The kernel of a prefill, launches beside it, and bytes that they move."""
    imp = implementation
    inputs = work if imp.prefill_reads_cache else replace(work, kv_element=np.full_like(work.kv_element, work.element))
    dense = imp.prefill_dense is not None and not work.causal
    if dense and imp.prefill_dense is not None:
        found = _by_rows(machine, imp.prefill_dense, inputs)
    elif imp.prefill_fp8 is not None and work.arithmetic == "fp8":
        found = _by_rows(machine, imp.prefill_fp8, inputs)
    else:
        found = _by_rows(machine, imp.prefill, inputs)
        if imp.prefill_narrow is not None and np.any(work.qk_dim <= 64):
            found = select(work.qk_dim <= 64, _by_rows(machine, imp.prefill_narrow, inputs), found)
        if imp.prefill_long is not None:
            short_smem = machine.generation in {"sm_86", "sm_89", "sm_120"}
            taken = (work.q_len > 128) & ((work.qk_dim >= 256) | (not short_smem))
            found = select(taken, _by_rows(machine, imp.prefill_long, inputs), found) if np.any(taken) else found
    found = _library_split(machine, imp, work, found)
    moved = _query_bytes(imp, work) + _written_bytes(imp, work) + _cast_bytes(imp, work)
    launches: Any = 0.0 if dense else imp.launches_prefill
    if dense:
        moved = 0.0 * moved
    if imp.latent_tokens and np.any(work.q_len <= imp.latent_tokens):
        few, one = work.q_len <= imp.latent_tokens, np.ones_like(work.q_heads)
        absorbed = replace(work, kv_heads=one, qk_dim=(LATENT + 64.0) * one, v_dim=LATENT * one)
        latent, its_launches, its_bytes = _decode(machine, imp, absorbed)
        its_bytes = its_bytes + _query_bytes(imp, absorbed)
        found = select(few, latent, found)
        launches, moved = np.where(few, its_launches, launches), np.where(few, its_bytes, moved)
    if imp.one_token_decodes and np.any(work.q_len <= 1):
        one, its_launches, its_bytes = _decode(machine, imp, work)
        found = select(work.q_len <= 1, one, found)
        launches, moved = np.where(work.q_len <= 1, its_launches, launches), np.where(work.q_len <= 1, its_bytes, moved)
    return found, launches, moved


def _decode(machine: Machine, implementation: Implementation, work: Work) -> tuple[Found, Any, Any]:
    """The kernel of a decode step, launches beside it, and bytes that they move."""
    imp = implementation
    narrow = work.kv_element < 2
    found = _by_rows(machine, imp.decode, work, imp.kv_aliased)
    if not imp.decode.packs_windows:  # FlashAttention 2 splits packed calls only
        single = (work.group <= 1) | (work.window > 0)
        found = select(single, kernel_times(machine, replace(imp.decode, split="none"), work, imp.kv_aliased), found)
    if imp.decode_fp8 is not None and np.any(narrow):
        found = select(narrow, _by_rows(machine, imp.decode_fp8, work, imp.kv_aliased), found)
    found = _library_split(machine, imp, work, found)
    launches: Any = imp.launches_decode
    moved: Any = _written_bytes(imp, work) + _cast_bytes(imp, work) if imp.writes_in_decode else 0.0
    if imp.regroups:
        copied = (work.batch > 1) & (work.kv_heads > 1) & (work.group > 1) & (imp.decode.packs_windows | (work.window <= 0))
        launches = launches + np.where(copied, 2.0, 0.0)
        moved = moved + np.where(copied, 4.0 * work.batch * work.q_heads * (work.qk_dim + work.v_dim), 0.0)
    if imp.fallback is not None:
        few = (
            imp.fallback_few
            & (~narrow | (work.group >= imp.fallback_few_fp8))
            & (4.0 * work.batch * work.kv_heads * np.ceil(work.kv_len / 128.0) < machine.sm_count)
        )
        taken = (work.group <= imp.fallback_below) | (work.group > imp.fallback_above) | (work.group % 1.0 > 0) | few
        taken = taken & (8.0 * work.kv_element >= imp.fallback_bits)
        if np.any(taken):
            other = kernel_times(machine, imp.fallback, work, imp.kv_aliased)
            if imp.fallback_fp8 is not None and np.any(narrow):
                other = select(narrow, kernel_times(machine, imp.fallback_fp8, work, imp.kv_aliased), other)
            found = select(taken, other, found)
    return found, launches, moved


def _latent_projection_s(machine: Machine, implementation: Implementation, work: Work, tokens: Any, nope_dim: Any) -> Any:
    """Time of the projections between latent and head space that the call of a latent attention contains."""
    latent = implementation.latent_projection
    if not latent:
        return 0.0
    flops = 2.0 * tokens * latent * work.q_heads * 2.0 * nope_dim
    weights = latent * work.q_heads * 2.0 * nope_dim * work.element
    rate = tensor_rate(machine, work.arithmetic) * machine.sm_count * machine.clock_hz
    return flops / (0.8 * rate) + weights / (machine["attention.dram_efficiency"] * machine.dram_bytes_per_s)


def _slow_s(machine: Machine, implementation: Implementation, work: Work, decode: bool) -> Any:
    """Time by which kernels that compute rather than stream exceed the time of their bytes."""
    imp, rate = implementation, machine.sm_count * machine.clock_hz
    time_s: Any = 0.0
    if imp.write_bytes_per_clk:
        written = _written_bytes(imp, work) / (imp.write_bytes_per_clk * rate)
        time_s = np.where(imp.fused_fp8_store & (work.kv_element < 2), 0.0, written)
    if imp.write_block_cycles:
        cycles = np.where(work.kv_element < 2, imp.write_block_cycles_fp8, imp.write_block_cycles)
        threads = np.minimum(512.0, work.kv_heads * work.qk_dim)
        time_s = time_s + work.batch * work.q_len * threads / 2048.0 * cycles / rate
    if decode and imp.cache_cast_bytes_per_clk:
        cached = work.batch * work.kv_len * work.kv_heads * work.qk_dim
        time_s = time_s + np.where(work.kv_element < 2, 3.0 * cached / (imp.cache_cast_bytes_per_clk * rate), 0.0)
    return time_s


def _stream_s(machine: Machine, n_bytes: Any) -> Any:
    """Time of elementwise kernels over so many bytes."""
    missed = np.clip(RAMP * (n_bytes - machine["attention.l2_resident"] * machine.l2_bytes), 0.0, n_bytes)
    l2_s = n_bytes / (STREAM * machine["attention.l2_efficiency"] * machine.l2_bytes_per_clk * machine.clock_hz)
    return np.maximum(l2_s, missed / (machine["attention.dram_efficiency"] * machine.dram_bytes_per_s))


def _finish(
    machine: Machine,
    implementation: Implementation,
    work: Work,
    found: Found,
    launches: Any,
    moved: Any,
    projection_s: Any,
) -> KernelTimes:
    """Floor, further launches and clock under the power limit around the attention kernel."""
    m = machine
    launches = launches + np.where(work.kv_element < 2, implementation.launches_fp8, 0.0)
    floor_s = (m["attention.floor"] + m["attention.launch"] * launches) / m.clock_hz
    stream_s = _stream_s(m, moved)
    ratio = found["ratio"]
    time_s = floor_s + kernel_s(m, found) + stream_s + projection_s
    time_s = np.maximum(time_s, implementation.host_s)
    shape = time_s.shape
    busy = {
        "tensor": found["tensor"] / ratio,
        "fma": found["vector"] / ratio,
        "smem": found["smem"] / ratio,
        "l2": found["l2_s"],
        "dram": found["dram_s"] + stream_s,
        "floor": floor_s + found["combine_s"],
    }
    choice = {name: found[name] for name in ("tile_q", "tile_kv", "split_kv", "ctas", "resident", "longest", "ramps")} | {
        "cta_s": found["cta_s"] / ratio,
        "alone_s": found["alone_s"] / ratio,
        "dram_s": np.maximum(found["l2_s"], found["dram_s"]),
        "l2_s": 0.0,
        "exposed": m["attention.unoverlapped_memory"] / found["stages"],
        "extra_s": time_s - kernel_s(m, found) + found["combine_s"],
    }
    return KernelTimes(
        time_s=time_s,
        busy_s={name: np.broadcast_to(value, shape) for name, value in busy.items()},
        bytes_moved={
            "dram": np.broadcast_to(found["dram_bytes"] + 0.0 * stream_s, shape),
            "l2": np.broadcast_to(found["l2_bytes"] + moved, shape),
        },
        clock_hz=np.broadcast_to(m.clock_hz * ratio, shape),
        choice={name: np.broadcast_to(value, shape) for name, value in choice.items()},
    )


def _products(machine: Machine, implementation: Implementation, arithmetic: str, kv_bits: Number) -> str:
    """Arithmetic of the products: fp8 where the implementation converts the queries to the cache's format."""
    converted = implementation.fp8_products and "fp8" in machine.tensor_flops_per_clk and np.all(np.asarray(kv_bits) < 16)
    return "fp8" if converted else arithmetic


def _arrays(sizes: Mapping[str, Number], *, causal: bool, arithmetic: str, kv_bits: Number) -> Work:
    arrays = {name: np.asarray(value, dtype=float) for name, value in sizes.items()}
    arrays["q_len"] = np.minimum(arrays["q_len"], arrays["kv_len"])
    element = 1.0 if arithmetic == "fp8" else 2.0
    return Work(
        **arrays,
        causal=causal,
        arithmetic=arithmetic,
        element=element,
        kv_element=np.asarray(kv_bits, dtype=float) / 8.0,
    )


def attention_prefill(
    machine: Machine,
    batch: Number,
    q_len: Number,
    kv_len: Number,
    q_heads: Number,
    kv_heads: Number,
    head_dim: Number,
    *,
    v_head_dim: Number | None = None,
    causal: bool = True,
    window: Number = 0,
    arithmetic: str = "bf16",
    kv_bits: Number = 16,
    implementation: str | None = None,
) -> KernelTimes:
    """Flash attention forward: new query tokens against all keys; causal by default, an encoder without the mask.

    A CTA takes one tile of query rows of one head (or of the packed heads of a group) and steps over the KV tiles that
    its mask leaves. A step costs tensor-core, shared-memory and softmax cycles, which overlap where enough warps share
    the SM; the grid runs in waves over the SMs; KV tiles come from L2, and from DRAM what L2 does not keep.

    Parameters
    ----------
    batch
        Sequences, each of `q_len` new tokens that see `kv_len` tokens, themselves included.
    q_heads, kv_heads
        Query heads and KV heads; their ratio is the group.
    head_dim, v_head_dim
        Of queries and keys, and of values (None: the same).
    causal
        Whether a token sees only itself and those before it.
    window
        Tokens that a query sees at most; 0: all.
    arithmetic
        Of both matrix products, a key of ``machine.tensor_flops_per_clk``; one that the GPU lacks runs as 16 bits.
    kv_bits
        Bits of an element of the KV cache; fewer than 16 with 16-bit arithmetic are converted on the way.
    implementation
        Which library's kernels, and what its call launches besides (`attention_kernels.IMPLEMENTATIONS`); None: flash
        attention in general. Every size and every number of the machine may be an array; they broadcast.

    Returns
    -------
    KernelTimes
        Seconds from the start of the call's first kernel to the end of its last, inside a CUDA graph.

    Raises
    ------
    MappingError
        No implementation has the name.

    Examples
    --------
    >>> from presilicon.arch import load
    >>> a100 = Machine.of(load("a100-sxm-80gb"))
    >>> times = attention_prefill(a100, batch=4, q_len=8192, kv_len=8192, q_heads=32, kv_heads=8, head_dim=128)
    >>> flops = 4 * 4 * 32 * 128 * 8192 * 8193 / 2
    >>> bool(0.5 < flops / times.time_s / a100.tensor_rate("bf16") < 0.7)
    True
    """
    imp = resolve(implementation, machine.generation)
    sizes = {
        "batch": batch,
        "q_len": q_len,
        "kv_len": kv_len,
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "qk_dim": head_dim,
        "v_dim": head_dim if v_head_dim is None else v_head_dim,
        "window": window,
    }
    if imp.absorbed_prefill:
        sizes |= {"kv_heads": 1.0, "qk_dim": LATENT + 64.0, "v_dim": LATENT}
    arithmetic = _products(machine, imp, arithmetic, kv_bits)
    work = _arrays(sizes, causal=causal, arithmetic=arithmetic, kv_bits=kv_bits)
    found, launches, moved = _prefill(machine, imp, work)
    projection_s = _latent_projection_s(machine, imp, work, work.batch * work.kv_len, work.v_dim)
    projection_s = projection_s + _slow_s(machine, imp, work, decode=False)
    return _finish(machine, imp, work, found, launches, moved, projection_s)


def attention_decode(
    machine: Machine,
    batch: Number,
    kv_len: Number,
    q_heads: Number,
    kv_heads: Number,
    head_dim: Number,
    *,
    q_len: Number = 1,
    v_head_dim: Number | None = None,
    window: Number = 0,
    arithmetic: str = "bf16",
    kv_bits: Number = 16,
    implementation: str | None = None,
    cold: bool = False,
) -> KernelTimes:
    """Flash decoding: a few query tokens (`q_len`) over a KV cache of `kv_len` tokens, split along the cache.

    The query heads of a group share a tile, padded to its rows; a grid too short for the SMs is split along KV, with
    a launch that combines the pieces. The bandwidth of DRAM grows with the KV bytes in flight.
    With one KV head, a `head_dim` above 256 and a smaller `v_head_dim`, the cache is latent (multi-head latent
    attention): values are a part of the keys and are read once.

    Where the cache is `cold` (other layers ran since it was read), all of it comes from DRAM; else L2 keeps what fits from call to call.

    Parameters and result as `attention_prefill`; the matrix products run at `arithmetic`, on 16-bit queries.

    Examples
    --------
    >>> from presilicon.arch import load
    >>> h100 = Machine.of(load("h100-sxm"))
    >>> times = attention_decode(h100, batch=64, kv_len=8192, q_heads=32, kv_heads=8, head_dim=128)
    >>> bool(0.8 < 64 * 8192 * 8 * 512 / times.time_s / h100.dram_bytes_per_s < 0.93)
    True
    """
    imp = resolve(implementation, machine.generation)
    sizes = {
        "batch": batch,
        "q_len": q_len,
        "kv_len": kv_len,
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "qk_dim": head_dim,
        "v_dim": head_dim if v_head_dim is None else v_head_dim,
        "window": window,
    }
    products = _products(machine, imp, arithmetic, kv_bits)
    work = replace(_arrays(sizes, causal=True, arithmetic=products, kv_bits=kv_bits), cold=cold)
    if products == arithmetic:
        work = replace(work, element=2.0)
    found, launches, moved = _decode(machine, imp, work)
    projection_s = _latent_projection_s(machine, imp, work, work.batch * work.q_len, np.asarray(128.0))
    projection_s = projection_s + _slow_s(machine, imp, work, decode=True)
    return _finish(machine, imp, work, found, launches, moved, projection_s)
