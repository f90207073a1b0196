"""Closed form of attention kernels: flash attention (prefill, encoder) and split-KV flash decoding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .attention_kernels import FLASH_ATTENTION, AttentionKernel, Implementation
from .machine import KernelTimes, Machine

NEVER = 1e12
LATENCIES = 0.5
#: DRAM bytes per byte of footprint beyond what the L2 keeps, while cyclic reuse breaks down.
RAMP = 3.5
#: Part of the longest CTA's time in which the SMs idle at the end of an uneven grid.
TAIL = 0.8


@dataclass(frozen=True)
class _Work:
    batch: Any
    q_len: Any
    kv_len: Any
    q_heads: Any
    kv_heads: Any
    qk_dim: Any
    v_dim: Any
    window: Any
    causal: bool
    arithmetic: str
    element: float
    kv_element: Any


def _tensor(machine: Machine, arithmetic: str) -> Any:
    table = machine.tensor_flops_per_clk
    return table[arithmetic] if arithmetic in table else table["bf16"]


def _steps(work: _Work, tile_tokens: Any, q_tiles: Any, tile_kv: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and greatest number of KV steps of the CTAs of one head."""
    offset = work.kv_len - work.q_len
    full = np.ceil(work.kv_len / tile_kv)
    fraction = np.minimum(tile_tokens / tile_kv, 1.0)
    if work.causal:
        before = q_tiles - 1.0
        total = before * (offset / tile_kv + tile_tokens / tile_kv * q_tiles / 2 + 0.5 * (1.0 - fraction)) + full
    else:
        total = q_tiles * full
    window = np.where(np.asarray(work.window) > 0, work.window, NEVER)
    shift = offset - window + 1.0
    first = np.clip(np.ceil(-shift / tile_tokens), 0.0, q_tiles)
    count = q_tiles - first
    skipped = count * (shift / tile_kv + tile_tokens / tile_kv * (first + q_tiles - 1.0) / 2 - 0.75)
    skipped = np.where(count > 0, np.maximum(skipped, 0.0), 0.0)
    mean = np.maximum((total - skipped) / q_tiles, 1.0)
    longest = np.minimum(full, np.ceil((window + tile_tokens) / tile_kv) + 0.5)
    single = full - np.floor(np.maximum(shift, 0.0) / tile_kv)
    one = q_tiles <= 1
    return np.where(one, single, mean), np.where(one, single, np.maximum(longest, mean))


def _kernel_time(machine: Machine, kernel: AttentionKernel, work: _Work, pack: Any, kv_aliased: bool) -> dict[str, Any]:
    """Busy times of one attention kernel, launches of others not counted."""
    m, clock = machine, machine.clock_hz
    if not kernel.skips_window:
        work = replace(work, window=0.0 * work.window)
    heads = np.where(pack > 1, work.kv_heads * np.ceil(work.q_heads / work.kv_heads / pack), work.q_heads)
    tile_kv = kernel.lookup(kernel.tile_kv, work.qk_dim)
    warps = kernel.lookup(kernel.warps, work.qk_dim)
    kv_dims = work.qk_dim + work.v_dim
    dims = kernel.pad(work.qk_dim) + kernel.pad(work.v_dim)
    rows = max(kernel.tile_q, 1)
    tile_tokens = rows / pack
    q_tiles = np.ceil(work.q_len * pack / rows)
    mean, longest = _steps(work, tile_tokens, q_tiles, tile_kv)
    visible = np.minimum(work.kv_len, np.where(np.asarray(work.window) > 0, work.window + work.q_len - 1, NEVER))

    # Cycles of an SM for one KV step of one CTA.
    softmax = rows * tile_kv * (1.0 / m.sfu_per_clk + kernel.softmax_ops / m.fma_per_clk)
    if kernel.tile_q:
        tensor = 2.0 * rows * tile_kv * dims / (_tensor(m, work.arithmetic) * m["attention.tensor_efficiency"]) * kernel.lookup(kernel.spill, work.qk_dim)
        slabs = np.minimum(warps, rows / 16.0)
        smem = slabs * tile_kv * dims * work.element / m.smem_bytes_per_clk
    else:
        tensor = 0.0 * tile_kv
        smem = 0.0 * tile_kv
    unpack = np.where((np.asarray(work.kv_element) < 2) & (work.arithmetic != "fp8"), kernel.unpack_ops_fp8, kernel.unpack_ops)
    softmax = softmax + tile_kv * dims * unpack / m.fma_per_clk
    outside = kernel.cta_cycles + kernel.dim_cycles * dims / 2
    serial = tensor + smem + softmax
    greatest = np.maximum(np.maximum(tensor, smem), softmax)
    shared = greatest + m["attention.unoverlapped"] * (serial - greatest)
    alone = serial + kernel.step_cycles

    # CTAs resident on an SM: shared memory, and 65,536 registers at 255 a thread.
    smem_bytes = rows * work.qk_dim * work.element + kernel.stages * tile_kv * dims * work.kv_element + 1024.0
    resident = np.floor(np.minimum(m.smem_bytes / smem_bytes, m.registers / (32.0 * 255.0 * warps)))
    resident = np.clip(resident, 1.0, kernel.most_resident)
    slots = m.sm_count * resident
    grid = work.batch * heads * q_tiles

    best: dict[str, Any] = {}
    fills: tuple[Any, ...] = (None, m.sm_count, slots)[: 3 if kernel.split_slots else 2] if kernel.split else (None,)
    if kernel.split_waves:
        fills = (kernel.split_waves * m.sm_count,)
    for fill in fills:
        if fill is None:
            splits, n_mean, n_long = np.ones_like(mean * grid), mean, longest
        else:
            most_splits = np.floor(work.kv_len / 128.0) if kernel.split_waves else np.minimum(128.0, longest)
            want = np.clip(np.ceil(fill / grid) if kernel.split_waves else np.floor(fill / grid), 1.0, np.maximum(most_splits, 1.0))
            n_long = np.ceil(longest / want)
            splits = np.ceil(longest / n_long)
            n_mean = np.where(splits > 1, np.minimum(n_long, mean / splits + 0.5), mean)
            n_mean = np.where((q_tiles <= 1) & (splits > 1), n_long, n_mean)
            n_long = np.where(splits > 1, n_long, longest)
            if kernel.split_waves:
                splits = want
                n_mean = longest / splits
                n_long = np.ceil(np.minimum(longest, np.ceil(work.kv_len / tile_kv) / splits))
                n_mean = np.where(longest * tile_kv >= work.kv_len, n_long, n_mean)
        ctas = grid * splits
        cycles = 0.0
        for per_step, lanes in ((shared, m.sm_count), (alone, slots)):
            one, most = outside + n_mean * per_step, outside + n_long * per_step
            waves = ctas / lanes
            even = np.ceil(waves) * one
            uneven = np.maximum(most, waves * one + TAIL * most)
            cycles = np.maximum(cycles, np.where(n_long > n_mean * 1.0001, uneven, even))
        l2_bytes = ctas * n_mean * np.minimum(tile_kv, visible) * kv_dims * work.kv_element
        in_flight = np.minimum(ctas, slots) * kernel.stages * np.minimum(tile_kv, visible) * work.qk_dim * work.kv_element
        kv_bytes = work.batch * work.kv_heads * visible * kv_dims * work.kv_element
        io_bytes = work.batch * work.q_heads * work.q_len * kv_dims * work.element
        keep = m["attention.l2_resident"] * m.l2_bytes
        if kv_aliased:
            between = np.minimum(ctas, slots) * work.qk_dim * work.kv_element * (n_mean * tile_kv if not kernel.tile_q else tile_kv)
            kv_bytes = kv_bytes * (0.5 + 0.5 * np.clip(RAMP * (between / keep - 1.0), 0.0, 1.0))
        footprint = kv_bytes + io_bytes
        missed = np.clip(RAMP * (1.0 - keep / footprint), 0.0, 1.0)
        dram_bytes = missed * footprint
        if kernel.heads_outermost:
            one_pass = kv_bytes / work.kv_heads + io_bytes / work.q_heads
            again = np.clip(RAMP * (1.0 - keep / one_pass), 0.0, 1.0)
            dram_bytes = dram_bytes + again * kv_bytes * (heads / work.kv_heads - 1.0)
        dram_s = dram_bytes * (
            1.0 / (m["attention.dram_efficiency"] * m.dram_bytes_per_s) + m.dram_latency_s * LATENCIES / in_flight
        )
        l2_s = (l2_bytes + io_bytes) / (m["attention.l2_efficiency"] * m.l2_bytes_per_clk * clock)
        compute_s = cycles / clock
        memory_s = np.maximum(dram_s, l2_s)
        time = np.maximum(compute_s, memory_s) + m["attention.unoverlapped_memory"] * np.minimum(compute_s, memory_s)
        time = time + np.where(splits > 1, m["attention.launch"] * kernel.combine_launches + splits * kernel.combine_cycles / clock, 0.0)
        total = ctas * n_mean / m.sm_count / clock
        found = dict(
            time=time, compute=compute_s, dram=dram_s, l2=l2_s, dram_bytes=dram_bytes, l2_bytes=l2_bytes + io_bytes, splits=splits,
            ctas=ctas, tensor=total * tensor, smem=total * smem, softmax=total * softmax, resident=resident, tile_kv=tile_kv, steps=n_mean,
        )
        if not best:
            best = found
        else:
            better = found["time"] < best["time"]
            best = {key: np.where(better, found[key], best[key]) for key in best}
    return best


def _variants(machine, kernel, work, pack_of, group, kv_aliased):
    found = _kernel_time(machine, kernel, work, pack_of(kernel), kv_aliased)
    last = kernel
    for wide in kernel.wider:
        other = _kernel_time(machine, wide, work, pack_of(wide), kv_aliased)
        taken = (np.minimum(group, last.pack * 1e9 if last.pack > 1 else 1) * work.q_len > last.tile_q) & (work.qk_dim <= wide.most_head_dim)
        found = {key: np.where(taken, other[key], found[key]) for key in found}
        last = wide
    return found


def _stream_s(machine: Machine, bytes_moved: Any) -> Any:
    keep = machine["attention.l2_resident"] * machine.l2_bytes
    dram = 1.0 / (machine["attention.dram_efficiency"] * machine.dram_bytes_per_s)
    l2 = 1.0 / (machine["attention.l2_efficiency"] * machine.l2_bytes_per_clk * machine.clock_hz)
    return np.maximum(bytes_moved * l2, np.clip(RAMP * (bytes_moved - keep), 0.0, bytes_moved) * dram)


def _finish(machine, work, found, implementation, launches, extra_bytes):
    m = machine
    fp8 = np.where(np.asarray(work.kv_element) < 2, implementation.launches_fp8, 0.0)
    floor = m["attention.floor"] + m["attention.launch"] * (launches + fp8)
    extra = _stream_s(m, extra_bytes)
    time = floor + found["time"] + extra
    time = np.maximum(time, implementation.host_s)
    return time, found

def attention_prefill(machine, batch, q_len, kv_len, q_heads, kv_heads, head_dim, *, v_head_dim=None, causal=True, window=0,
                      arithmetic="bf16", kv_bits=16, implementation: Implementation = FLASH_ATTENTION):
    v = head_dim if v_head_dim is None else v_head_dim
    f = lambda x: np.asarray(x, float)
    element = 1.0 if arithmetic == "fp8" else 2.0
    work = _Work(f(batch), f(q_len), f(kv_len), f(q_heads), f(kv_heads), f(head_dim), f(v), f(window), causal, arithmetic, element, f(kv_bits) / 8)
    group = work.q_heads / work.kv_heads
    k = implementation.prefill
    found = _variants(machine, k, work, lambda kernel: np.minimum(group, kernel.pack), group, False)
    if implementation.decode_single and np.any(work.q_len <= 1):
        single = _decode(machine, work, implementation)[0]
        found = {key: np.where(work.q_len <= 1, single[key], found[key]) for key in found}
    cached = work
    if not implementation.prefill_reads_cache:
        work = replace(work, kv_element=np.full_like(work.kv_element, element))
        found = _variants(machine, k, work, lambda kernel: np.minimum(group, kernel.pack), group, False)
    if implementation.prefill_long is not None:
        long = _variants(machine, implementation.prefill_long, work, lambda kernel: np.minimum(group, kernel.pack), group, False)
        on_ada = machine.generation in ("sm_86", "sm_89", "sm_120")
        taken = (work.q_len > 128) & ((work.qk_dim >= 256) | (not on_ada))
        taken = taken & (arithmetic != "fp8")
        found = {key: np.where(taken, long[key], found[key]) for key in found}
    if implementation.prefill_fp8 is not None and arithmetic == "fp8":
        found = _variants(machine, implementation.prefill_fp8, work, lambda kernel: np.minimum(group, kernel.pack), group, False)
    tokens = work.batch * work.q_len
    extra = tokens * (implementation.query_passes * 4 * work.q_heads * work.qk_dim + implementation.kv_passes * work.kv_heads * (work.qk_dim + work.v_dim) * (2 + cached.kv_element))
    return _finish(machine, cached, found, implementation, implementation.launches_prefill, extra)

def attention_decode(machine, batch, kv_len, q_heads, kv_heads, head_dim, *, q_len=1, v_head_dim=None, window=0, arithmetic="bf16", kv_bits=16,
                     implementation: Implementation = FLASH_ATTENTION):
    v = head_dim if v_head_dim is None else v_head_dim
    f = lambda x: np.asarray(x, float)
    work = _Work(f(batch), f(q_len), f(kv_len), f(q_heads), f(kv_heads), f(head_dim), f(v), f(window), True, arithmetic, 2.0, f(kv_bits) / 8)
    found, launches, extra = _decode(machine, work, implementation)
    return _finish(machine, work, found, implementation, launches, extra)


def _decode(machine, work, imp):
    group = work.q_heads / work.kv_heads
    k = imp.decode
    pack = np.where((work.window > 0) & (not k.pack_windows), 1.0, np.minimum(group, k.pack))
    found = _variants(machine, k, work, lambda kernel: np.where((work.window > 0) & (not k.pack_windows), 1.0, np.minimum(group, kernel.pack)), group, imp.kv_aliased)
    if imp.decode_fp8 is not None and np.any(work.kv_element < 2):
        narrow = _variants(machine, imp.decode_fp8, work, lambda kernel: np.minimum(group, kernel.pack), group, imp.kv_aliased)
        found = {key: np.where(work.kv_element < 2, narrow[key], found[key]) for key in found}
    launches = imp.launches_decode
    extra = 0.0
    if k.split_groups_only:  # no packing, no split
        plain = _kernel_time(machine, k.unsplit(), work, 1.0, imp.kv_aliased)
        alone = (group <= 1) | ((work.window > 0) & (not k.pack_windows))
        found = {key: np.where(alone, plain[key], found[key]) for key in found}
    if imp.regroup:
        copies = (work.batch > 1) & (work.kv_heads > 1) & (group > 1) & (k.pack_windows | (work.window <= 0))
        launches = launches + np.where(copies, 2.0, 0.0)
        extra = np.where(copies, 4.0 * 2 * work.batch * work.q_heads * work.qk_dim, 0.0)
    if imp.fallback is not None:
        other = _kernel_time(machine, imp.fallback, work, np.minimum(group, imp.fallback.pack), imp.kv_aliased)
        few = imp.fallback_few & (work.kv_element >= 2) & (work.batch * work.kv_heads * np.ceil(work.kv_len / 128) * 4 < machine.sm_count)
        alone = ((group <= imp.fallback_below) | (group > imp.fallback_group) | few | (group % 1 > 0)) & (work.kv_element >= imp.fallback_element)
        if imp.fallback_fp8 is not None and np.any(work.kv_element < 2):
            narrow = _kernel_time(machine, imp.fallback_fp8, work, np.minimum(group, imp.fallback_fp8.pack), imp.kv_aliased)
            other = {key: np.where(work.kv_element < 2, narrow[key], other[key]) for key in other}
        found = {key: np.where(alone, other[key], found[key]) for key in found}
    return found, launches, extra
