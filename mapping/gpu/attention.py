"""Closed form of attention kernels: flash attention (prefill, encoder) and split-KV flash decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from . import power
from .attention_kernels import AttentionKernel, Implementation, lookup, resolve
from .machine import KernelTimes, Machine, Number

#: DRAM bytes per byte of footprint beyond what L2 keeps, until all of it misses: cyclic reuse breaks down quickly.
RAMP: Final = 3.5
#: Part of the longest CTA's time for which the last SM of an uneven grid outlasts the mean.
TAIL: Final = 0.8
#: DRAM latencies per refill of the KV tiles in flight.
REFILLS: Final = 0.5
#: L2 rate of elementwise kernels over that of attention kernels.
STREAM: Final = 0.4
#: Longer than any sequence.
NEVER: Final = 1e12
#: FlashAttention 3 cuts pieces of this times the even share of an SM, and looks at one sequence up to this batch.
EVEN_MARGIN: Final = 1.1
EVEN_BATCH: Final = 992

Found = dict[str, Any]


@dataclass(frozen=True)
class _Work:
    """Sizes of the calls as float arrays; `element` and `kv_element` in bytes."""

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

    @property
    def group(self) -> Any:
        return self.q_heads / self.kv_heads


def _tensor_rate(machine: Machine, arithmetic: str) -> Any:
    """FLOP per clock and SM; a 16-bit rate stands in for an arithmetic that the GPU lacks, fp32 lanes for all of them."""
    rates = machine.tensor_flops_per_clk
    for name in (arithmetic, "bf16", "fp16"):
        if name in rates:
            return rates[name]
    return 2.0 * np.asarray(machine.fma_per_clk)


def _steps(work: _Work, tile_tokens: Any, q_tiles: Any, tile_kv: Any) -> tuple[Any, Any]:
    """Mean and greatest number of KV steps of the CTAs of one head, causal and window tiles outside the mask skipped."""
    offset = work.kv_len - work.q_len
    full = np.ceil(work.kv_len / tile_kv)
    if work.causal:
        ratio = tile_tokens / tile_kv
        total = (q_tiles - 1.0) * (offset / tile_kv + ratio * q_tiles / 2.0 + 0.5 * (1.0 - np.minimum(ratio, 1.0))) + full
    else:
        total = q_tiles * full
    longest = full
    if np.any(work.window > 0):
        window = np.where(work.window > 0, work.window, NEVER)
        shift = offset - window + 1.0
        first = np.clip(np.ceil(-shift / tile_tokens), 0.0, q_tiles)
        count = q_tiles - first
        skipped = count * (shift / tile_kv + tile_tokens / tile_kv * (first + q_tiles - 1.0) / 2.0 - 0.75)
        total = total - np.where(count > 0, np.maximum(skipped, 0.0), 0.0)
        longest = np.minimum(full, np.ceil((window + tile_tokens) / tile_kv) + 0.5)
        single = full - np.floor(np.maximum(shift, 0.0) / tile_kv)
        total = np.where(q_tiles <= 1, single, total)
        longest = np.where(q_tiles <= 1, single, longest)
    mean = np.maximum(total / q_tiles, 1.0)
    return mean, np.maximum(longest, mean)


def _splits(machine: Machine, kernel: AttentionKernel, work: _Work, grid: Any, q_tiles: Any, longest: Any, slots: Any, tile_kv: Any) -> list[Any]:
    """Candidate numbers of pieces along the KV axis."""
    one = np.ones_like(grid * longest)
    if kernel.split == "none":
        return [one]
    if kernel.split == "waves":
        return [np.clip(np.ceil(8.0 * machine.sm_count / grid), 1.0, np.maximum(np.floor(work.kv_len / 128.0), 1.0)) * one]
    if kernel.split == "four":
        return [np.minimum(4.0, longest) * one]
    if kernel.split == "even":
        steps = np.ceil(work.kv_len / tile_kv)
        piece = np.ceil(EVEN_MARGIN * grid * steps / machine.sm_count)
        most = np.clip(np.floor(machine.sm_count / (grid / work.batch)), 1.0, 128.0)
        return [np.clip(np.ceil(steps / piece), 1.0, most) * one]
    fills = (machine.sm_count,) if kernel.split == "sm" else (machine.sm_count, slots)
    return [one] + [np.clip(np.floor(fill / grid), 1.0, np.minimum(128.0, longest)) * one for fill in fills]


def _kernel(machine: Machine, kernel: AttentionKernel, work: _Work, kv_aliased: bool = False) -> Found:
    """Busy times of one attention kernel alone, at the boost clock, the fastest of its candidate splits."""
    m, clock = machine, machine.clock_hz
    if not kernel.skips_window:
        work = replace(work, window=0.0 * work.window)
    pack = np.minimum(work.group, kernel.pack)
    if not kernel.packs_windows:
        pack = np.where(work.window > 0, 1.0, pack)
    heads = np.where(pack > 1, work.kv_heads * np.ceil(work.group / pack), work.q_heads)
    tile_kv, warps = lookup(kernel.tile_kv, work.qk_dim), lookup(kernel.warps, work.qk_dim)
    rows = max(kernel.tile_q, 1)
    kv_dims = work.qk_dim + work.v_dim
    dims = kernel.pad(work.qk_dim) + kernel.pad(work.v_dim)
    q_tiles = np.ceil(work.q_len * pack / rows)
    mean, longest = _steps(work, rows / pack, q_tiles, tile_kv)
    visible = np.minimum(work.kv_len, np.where(work.window > 0, work.window + work.q_len - 1.0, NEVER))

    latent = (work.kv_heads <= 1) & (work.v_dim < work.qk_dim) & (work.qk_dim > 256)  # V is a part of K

    # SM cycles of one KV step of one CTA, by pipe; and of the step when CTAs share the SM, and when one is alone.
    fp8_cache = (work.kv_element < 2) & (work.arithmetic != "fp8")
    unpack = np.where(fp8_cache, kernel.unpack_ops_fp8, kernel.unpack_ops)
    vector = rows * tile_kv * (1.0 / m.sfu_per_clk + kernel.softmax_ops / m.fma_per_clk) + tile_kv * dims * unpack / m.fma_per_clk
    matrix = 0.0 * vector
    smem = 0.0 * vector
    if kernel.tile_q:
        rate = _tensor_rate(m, work.arithmetic) * m["attention.tensor_efficiency"]
        matrix = 2.0 * rows * tile_kv * dims * lookup(kernel.spill, work.qk_dim) / rate
        reads = np.ceil(rows / lookup(kernel.reader_rows, work.qk_dim))
        smem = reads * tile_kv * dims * work.element / m.smem_bytes_per_clk
    longest_pipe = np.maximum(np.maximum(matrix, smem), vector)
    rest = matrix + smem + vector - longest_pipe
    shared = longest_pipe + m["attention.unoverlapped"] * rest
    alone = np.where(kernel.specialised | (warps >= 8), shared, longest_pipe + rest) + kernel.step_cycles
    outside = kernel.cta_cycles + kernel.dim_cycles * dims / 2.0 + kernel.row_cycles * np.minimum(work.q_len * pack, rows)

    # CTAs resident on an SM, by shared memory and by registers.
    cta_bytes = rows * work.qk_dim * work.element + kernel.stages * tile_kv * np.where(latent, work.qk_dim, kv_dims) * np.minimum(work.kv_element, work.element) + 1024.0
    resident = np.floor(np.minimum(m.smem_bytes / cta_bytes, m.registers / (32.0 * 255.0 * warps)))
    resident = np.clip(resident, 1.0, kernel.most_resident)
    slots = m.sm_count * resident
    grid = work.batch * heads * q_tiles

    io_bytes = work.batch * work.q_heads * work.q_len * kv_dims * work.element
    all_kv_bytes = work.batch * work.kv_heads * visible * np.where(latent, work.qk_dim, kv_dims) * work.kv_element
    keep = m["attention.l2_resident"] * m.l2_bytes
    best: Found = {}
    for splits in _splits(m, kernel, work, grid, q_tiles, longest, slots, tile_kv):
        split = splits > 1
        piece = np.where(split, np.ceil(longest / splits), longest)
        steps = np.where(split, np.where(q_tiles > 1, np.minimum(piece, mean / splits + 0.5), piece), mean)
        if kernel.split == "waves":  # pieces of the whole cache, those outside the window empty
            piece = np.ceil(np.minimum(longest, np.ceil(work.kv_len / tile_kv) / splits))
            steps = np.where(longest * tile_kv >= work.kv_len, piece, longest / splits)
        ctas = grid * splits
        cycles: Any = 0.0
        for per_step, lanes in ((shared, m.sm_count), (alone, slots)):
            one, most, waves = outside + steps * per_step, outside + piece * per_step, ctas / lanes
            uneven = np.maximum(most, waves * one + TAIL * most)
            cycles = np.maximum(cycles, np.where(piece > steps * 1.0001, uneven, np.ceil(waves) * one))
        compute_s = cycles / clock

        at_once = np.minimum(ctas, slots) * work.qk_dim * work.kv_element
        kv_bytes = all_kv_bytes
        if kv_aliased:  # V hits where the K bytes that all CTAs read before it still fit
            between = at_once * (steps * tile_kv if not kernel.tile_q else tile_kv)
            kv_bytes = kv_bytes * (0.5 + 0.5 * np.clip(RAMP * (between / keep - 1.0), 0.0, 1.0))
        footprint = kv_bytes + io_bytes
        dram_bytes = footprint * np.clip(RAMP * (1.0 - keep / footprint), 0.0, 1.0)
        if kernel.heads_outermost:
            one_pass = kv_bytes / work.kv_heads + io_bytes / work.q_heads
            dram_bytes = dram_bytes + np.clip(RAMP * (1.0 - keep / one_pass), 0.0, 1.0) * kv_bytes * (heads / work.kv_heads - 1.0)
        if kernel.tiles_outermost:
            dram_bytes = dram_bytes + np.clip(RAMP * (1.0 - keep / kv_bytes), 0.0, 1.0) * kv_bytes * (
                np.minimum(q_tiles, np.ceil(ctas / slots)) - 1.0) * mean / longest
        l2_bytes = ctas * steps * np.minimum(tile_kv, visible) * np.where(latent, work.qk_dim, kv_dims) * work.kv_element + io_bytes
        in_flight = at_once * kernel.stages * np.minimum(tile_kv, visible)
        refill_s = REFILLS * m.dram_latency_s * kv_bytes / footprint / in_flight
        dram_s = dram_bytes * (1.0 / (m["attention.dram_efficiency"] * m.dram_bytes_per_s) + refill_s)
        l2_s = l2_bytes / (m["attention.l2_efficiency"] * m.l2_bytes_per_clk * clock)
        always = kernel.split == "even"
        combine_s = m["attention.launch"] / clock * lookup(kernel.companions, work.qk_dim) + np.where(split | always, m["attention.launch"] / clock * kernel.combine_launches, 0.0) + np.where(
            split, splits * kernel.combine_cycles / clock, 0.0)
        scale = ctas * steps / m.sm_count / clock
        found = {
            "compute_s": compute_s, "l2_s": l2_s, "dram_s": dram_s, "combine_s": combine_s, "dram_bytes": dram_bytes, "l2_bytes": l2_bytes,
            "tensor": scale * matrix, "smem": scale * smem, "vector": scale * vector, "scores": ctas * steps * rows * tile_kv,
            "flops": 2.0 * ctas * steps * rows * tile_kv * dims if kernel.tile_q else 0.0 * ctas, "tile_q": float(kernel.tile_q) + 0.0 * ctas,
            "tile_kv": tile_kv + 0.0 * ctas, "split_kv": splits, "ctas": ctas,
        }
        best = _where(_alone_s(m, found) < _alone_s(m, best), found, best) if best else found
    return best


def _alone_s(machine: Machine, found: Found, ratio: Any = 1.0) -> Any:
    """Time of a kernel whose SMs and L2 run at a ratio of the boost clock."""
    core, memory = found["compute_s"] / ratio, np.maximum(found["l2_s"] / ratio, found["dram_s"])
    hidden = machine["attention.unoverlapped_memory"] * np.minimum(core, memory)
    return np.maximum(core, memory) + hidden + found["combine_s"]


def _where(condition: Any, yes: Found, no: Found) -> Found:
    return {key: np.where(condition, yes[key], no[key]) for key in yes}


def _by_rows(machine: Machine, kernel: AttentionKernel, work: _Work, kv_aliased: bool = False) -> Found:
    """A kernel or the wider one that its packed query rows ask for."""
    found = _kernel(machine, kernel, work, kv_aliased)
    below = kernel
    for wide in kernel.wider:
        taken = (work.group * work.q_len > below.tile_q) & (work.qk_dim <= wide.most_head_dim)
        if np.any(taken):
            found = _where(taken, _kernel(machine, wide, work, kv_aliased), found)
        below = wide
    return found


def _library_split(machine: Machine, implementation: Implementation, work: _Work, found: Found) -> Found:
    """FlashAttention 3's choice between its kernels, which looks at one sequence of the batch."""
    kernel = implementation.split_kernel
    if kernel is None:
        return found
    tiles = np.ceil(work.q_len * work.group / implementation.prefill.tile_q) * work.kv_heads
    steps = np.ceil(work.kv_len / lookup(implementation.prefill.tile_kv, work.qk_dim))
    taken = (tiles < 0.8 * machine.sm_count) & (steps > 4) & (work.batch <= EVEN_BATCH)
    return _where(taken, _kernel(machine, kernel, work), found) if np.any(taken) else found


def _prefill(machine: Machine, implementation: Implementation, work: _Work) -> tuple[Found, Any, Any]:
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
        if imp.prefill_long is not None:
            short_smem = machine.generation in {"sm_86", "sm_89", "sm_120"}
            taken = (work.q_len > 128) & ((work.qk_dim >= 256) | (not short_smem))
            found = _where(taken, _by_rows(machine, imp.prefill_long, inputs), found) if np.any(taken) else found
    found = _library_split(machine, imp, work, found)
    new_kv = work.kv_heads * (work.qk_dim + work.v_dim) * (2.0 + work.kv_element)
    moved = work.batch * work.q_len * (imp.query_passes * 4.0 * work.q_heads * work.qk_dim + imp.kv_passes * new_kv)
    launches: Any = 0.0 if dense else imp.launches_prefill
    if dense:
        moved = 0.0 * moved
    if imp.one_token_decodes and np.any(work.q_len <= 1):
        one, its_launches, its_bytes = _decode(machine, imp, work)
        found = _where(work.q_len <= 1, one, found)
        launches, moved = np.where(work.q_len <= 1, its_launches, launches), np.where(work.q_len <= 1, its_bytes, moved)
    return found, launches, moved


def _decode(machine: Machine, implementation: Implementation, work: _Work) -> tuple[Found, Any, Any]:
    """The kernel of a decode step, launches beside it, and bytes that they move."""
    imp = implementation
    narrow = work.kv_element < 2
    found = _by_rows(machine, imp.decode, work, imp.kv_aliased)
    if not imp.decode.packs_windows:  # FlashAttention 2 splits packed calls only
        single = (work.group <= 1) | (work.window > 0)
        found = _where(single, _kernel(machine, replace(imp.decode, split="none"), work, imp.kv_aliased), found)
    if imp.decode_fp8 is not None and np.any(narrow):
        found = _where(narrow, _by_rows(machine, imp.decode_fp8, work, imp.kv_aliased), found)
    found = _library_split(machine, imp, work, found)
    launches: Any = imp.launches_decode
    moved: Any = 0.0
    if imp.regroups:
        copied = (work.batch > 1) & (work.kv_heads > 1) & (work.group > 1) & (imp.decode.packs_windows | (work.window <= 0))
        launches = launches + np.where(copied, 2.0, 0.0)
        moved = np.where(copied, 4.0 * work.batch * work.q_heads * (work.qk_dim + work.v_dim), 0.0)
    if imp.fallback is not None:
        few = imp.fallback_few & ~narrow & (4.0 * work.batch * work.kv_heads * np.ceil(work.kv_len / 128.0) < machine.sm_count)
        taken = (work.group <= imp.fallback_below) | (work.group > imp.fallback_above) | (work.group % 1.0 > 0) | few
        taken = taken & (8.0 * work.kv_element >= imp.fallback_bits)
        if np.any(taken):
            other = _kernel(machine, imp.fallback, work, imp.kv_aliased)
            if imp.fallback_fp8 is not None and np.any(narrow):
                other = _where(narrow, _kernel(machine, imp.fallback_fp8, work, imp.kv_aliased), other)
            found = _where(taken, other, found)
    return found, launches, moved


def _latent_projection_s(machine: Machine, implementation: Implementation, work: _Work, tokens: Any, nope_dim: Any) -> Any:
    """Time of the projections between latent and head space that the call of a latent attention contains."""
    latent = implementation.latent_projection
    if not latent:
        return 0.0
    flops = 2.0 * tokens * latent * work.q_heads * 2.0 * nope_dim
    weights = latent * work.q_heads * 2.0 * nope_dim * work.element
    rate = _tensor_rate(machine, work.arithmetic) * machine.sm_count * machine.clock_hz
    return flops / (0.8 * rate) + weights / (machine["attention.dram_efficiency"] * machine.dram_bytes_per_s)


def _stream_s(machine: Machine, n_bytes: Any) -> Any:
    """Time of elementwise kernels over so many bytes."""
    missed = np.clip(RAMP * (n_bytes - machine["attention.l2_resident"] * machine.l2_bytes), 0.0, n_bytes)
    l2_s = n_bytes / (STREAM * machine["attention.l2_efficiency"] * machine.l2_bytes_per_clk * machine.clock_hz)
    return np.maximum(l2_s, missed / (machine["attention.dram_efficiency"] * machine.dram_bytes_per_s))


def _finish(machine: Machine, implementation: Implementation, work: _Work, found: Found, launches: Any, moved: Any, projection_s: Any) -> KernelTimes:
    """Floor, further launches and clock under the power limit around the attention kernel."""
    m = machine
    launches = launches + np.where(work.kv_element < 2, implementation.launches_fp8, 0.0)
    floor_s = (m["attention.floor"] + m["attention.launch"] * launches) / m.clock_hz
    stream_s = _stream_s(m, moved)
    boost_s = _alone_s(m, found)
    ratio: Any = 1.0
    if "power.joule_per_flop" in m.constants:
        name = work.arithmetic if work.arithmetic in power.ARITHMETIC_BITS else "bf16"
        softmax_j = m["attention.joule_per_score"] * found["scores"]
        core_j = power.tensor_joules(m, found["flops"], name) + softmax_j + power.l2_joules(m, found["l2_bytes"])
        ratio = power.clock_ratio(m, boost_s, core_j, power.dram_joules(m, found["dram_bytes"]))
    time_s = floor_s + _alone_s(m, found, ratio) + stream_s + projection_s
    time_s = np.maximum(time_s, implementation.host_s)
    shape = time_s.shape
    busy = {"tensor": found["tensor"] / ratio, "fma": found["vector"] / ratio, "smem": found["smem"] / ratio, "l2": found["l2_s"] / ratio,
            "dram": found["dram_s"] + stream_s, "floor": floor_s + found["combine_s"]}
    return KernelTimes(
        time_s=time_s,
        busy_s={name: np.broadcast_to(value, shape) for name, value in busy.items()},
        bytes_moved={"dram": np.broadcast_to(found["dram_bytes"] + 0.0 * stream_s, shape), "l2": np.broadcast_to(found["l2_bytes"] + moved, shape)},
        clock_hz=np.broadcast_to(m.clock_hz * ratio, shape),
        choice={name: np.broadcast_to(found[name], shape) for name in ("tile_q", "tile_kv", "split_kv", "ctas")},
    )


def _work(sizes: Mapping[str, Number], *, causal: bool, arithmetic: str, kv_bits: Number) -> _Work:
    arrays = {name: np.asarray(value, dtype=float) for name, value in sizes.items()}
    arrays["q_len"] = np.minimum(arrays["q_len"], arrays["kv_len"])
    element = 1.0 if arithmetic == "fp8" else 2.0
    return _Work(**arrays, causal=causal, arithmetic=arithmetic, element=element, kv_element=np.asarray(kv_bits, dtype=float) / 8.0)


def attention_prefill(
    machine: Machine, batch: Number, q_len: Number, kv_len: Number, q_heads: Number, kv_heads: Number, head_dim: Number, *,
    v_head_dim: Number | None = None, causal: bool = True, window: Number = 0, arithmetic: str = "bf16", kv_bits: Number = 16,
    implementation: str | None = None,
) -> KernelTimes:
    """Flash attention forward over new query tokens.
    """
    imp = resolve(implementation, machine.generation)
    sizes = {"batch": batch, "q_len": q_len, "kv_len": kv_len, "q_heads": q_heads, "kv_heads": kv_heads, "qk_dim": head_dim,
             "v_dim": head_dim if v_head_dim is None else v_head_dim, "window": window}
    work = _work(sizes, causal=causal, arithmetic=arithmetic, kv_bits=kv_bits)
    found, launches, moved = _prefill(machine, imp, work)
    projection_s = _latent_projection_s(machine, imp, work, work.batch * work.kv_len, work.v_dim)
    return _finish(machine, imp, work, found, launches, moved, projection_s)


def attention_decode(
    machine: Machine, batch: Number, kv_len: Number, q_heads: Number, kv_heads: Number, head_dim: Number, *, q_len: Number = 1,
    v_head_dim: Number | None = None, window: Number = 0, arithmetic: str = "bf16", kv_bits: Number = 16, implementation: str | None = None,
) -> KernelTimes:
    """Attention of a few query tokens over a cache."""
    imp = resolve(implementation, machine.generation)
    sizes = {"batch": batch, "q_len": q_len, "kv_len": kv_len, "q_heads": q_heads, "kv_heads": kv_heads, "qk_dim": head_dim,
             "v_dim": head_dim if v_head_dim is None else v_head_dim, "window": window}
    work = replace(_work(sizes, causal=True, arithmetic=arithmetic, kv_bits=kv_bits), element=2.0)
    found, launches, moved = _decode(machine, imp, work)
    projection_s = _latent_projection_s(machine, imp, work, work.batch * work.q_len, np.asarray(128.0))
    return _finish(machine, imp, work, found, launches, moved, projection_s)
