"""One attention kernel on one GPU: its grid of CTAs, the cycles of a KV step, its splits and its memory traffic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from . import power
from .attention_types import AttentionKernel, lookup
from .machine import Machine

#: DRAM bytes per byte of footprint beyond what L2 keeps, until all of it misses: cyclic reuse breaks down quickly.
RAMP: Final = 3.5
#: DRAM latencies per refill of the KV tiles in flight. Of 0.2 to 0.5, all rows of six GPUs (A100 to GB200) in view, errors are least
#: at 0.2 to 0.3.
REFILLS: Final = 0.25
#: Longer than any sequence.
NEVER: Final = 1e12
#: FlashAttention 3 cuts pieces of this times the even share of an SM.
EVEN_MARGIN: Final = 1.1

Found = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """Sizes of the calls as float arrays; `element` and `kv_element` in bytes; `cold`: L2 holds nothing of the cache."""

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
    cold: Any = False

    @property
    def group(self) -> Any:
        return self.q_heads / self.kv_heads

    @property
    def latent(self) -> Any:
        """Whether the values are a part of the keys."""
        return (self.kv_heads <= 1) & (self.v_dim < self.qk_dim) & (self.qk_dim > 256)


def tensor_rate(machine: Machine, arithmetic: str) -> Any:
    """FLOP per clock and SM; a 16-bit rate stands in for an arithmetic that the GPU lacks, or else fp32 lanes."""
    rates = machine.tensor_flops_per_clk
    for name in (arithmetic, "bf16", "fp16"):
        if name in rates:
            return rates[name]
    return 2.0 * np.asarray(machine.fma_per_clk)


def _steps(work: Work, tile_tokens: Any, q_tiles: Any, tile_kv: Any) -> tuple[Any, Any]:
    """Mean and greatest number of KV steps of the CTAs of one head, those wholly outside the mask skipped."""
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
        single = np.minimum(full, np.ceil((window + work.q_len - 1.0) / tile_kv))  # of caches that end with a tile
        total = np.where(q_tiles <= 1, single, total)
        longest = np.where(q_tiles <= 1, single, longest)
    mean = np.maximum(total / q_tiles, 1.0)
    return mean, np.maximum(longest, mean)


def _splits(
    machine: Machine,
    kernel: AttentionKernel,
    work: Work,
    grid: Any,
    q_tiles: Any,
    longest: Any,
    slots: Any,
    lanes: Any,
    tile_kv: Any,
) -> list[Any]:
    """Candidate numbers of pieces along the KV axis."""
    one = np.ones_like(grid * longest)
    if kernel.split == "none":
        return [one]
    if kernel.split == "waves":
        cut = work.kv_len if kernel.empty_share else np.minimum(work.kv_len, longest * tile_kv)
        return [np.clip(np.ceil(8.0 * machine.sm_count / grid), 1.0, np.maximum(np.floor(cut / 128.0), 1.0)) * one]
    if kernel.split == "four":
        return [np.minimum(4.0, longest) * one]
    if kernel.split == "parts":
        return [np.clip(lanes / grid, 1.0, longest) * one]
    if kernel.split == "even":
        steps = np.ceil(work.kv_len / tile_kv)
        planned = np.maximum(kernel.planned_kv_heads / work.kv_heads, 1.0)
        piece = np.ceil(EVEN_MARGIN * planned * grid * steps / machine.sm_count)
        most = np.clip(np.floor(machine.sm_count / (grid / work.batch)), 1.0, 128.0)
        return [np.clip(np.ceil(steps / piece), 1.0, most) * one]
    # More than an SM's worth of pieces only for single query tiles, whose pieces are all alike.
    twice = np.where(q_tiles > 1, machine.sm_count, np.minimum(2.0 * machine.sm_count, slots))
    most = np.minimum(128.0, longest)
    fills = [machine.sm_count * one]
    if kernel.split == "slots":
        fills.append(twice * one)
        # Where merging costs more than it gains, fewer pieces: by halves, so that a call has every choice that twice its batch has.
        while kernel.combine_cycles > 0.0 and np.any(fills[0] >= 2.0 * grid):
            fills.insert(0, fills[0] / 2.0)
    pieces = [np.ceil(longest / np.clip(np.floor(fill / grid), 1.0, most)) for fill in fills]
    return [one] + [np.ceil(longest / piece) * one for piece in pieces]


def _step_cycles(machine: Machine, kernel: AttentionKernel, work: Work, rows: int, tile_kv: Any, dims: Any) -> tuple[Any, Any, Any]:
    """SM cycles of one KV step of one CTA on the tensor cores, on shared memory, and on the vector pipes."""
    m = machine
    fp8_cache = (work.kv_element < 2) & (work.arithmetic != "fp8")
    unpack = np.where(fp8_cache, kernel.unpack_ops_fp8, kernel.unpack_ops)
    vector = rows * tile_kv * (1.0 / m.sfu_per_clk + kernel.softmax_ops / m.fma_per_clk)
    vector = vector + tile_kv * dims * unpack / m.fma_per_clk
    if not kernel.tile_q:
        return 0.0 * vector, 0.0 * vector, vector
    rate = tensor_rate(m, work.arithmetic) * m["attention.tensor_efficiency"]
    matrix = 2.0 * rows * tile_kv * dims * lookup(kernel.spill, work.qk_dim) / rate
    reads = np.ceil(rows / lookup(kernel.reader_rows, work.qk_dim))
    return matrix, reads * tile_kv * dims * work.element / m.smem_bytes_per_clk, vector


def _waves_cycles(kernel: AttentionKernel, lanes: Any, ctas: Any, slots: Any, cta: tuple[Any, ...]) -> Any:
    """Cycles until the last CTA ends: the longer of the SMs' shared pipes and of the chains of lone CTAs."""
    mean_outside, outside, steps, piece, shared, alone = cta
    cycles: Any = 0.0
    for per_step, width in ((shared, lanes), (alone, slots)):
        one, most, waves = mean_outside + steps * per_step, outside + piece * per_step, ctas / width
        # An even grid runs in whole waves; in an uneven one short CTAs fill the gaps, and the longest make a tail.
        spread = most - one
        whole = np.clip(1.0 - 4.0 * spread / most, 0.0, 1.0)
        filled = one * (waves + whole * (np.ceil(waves) - waves))
        tail = 2.0 * kernel.tail * spread * np.clip(waves - 1.0, 0.0, 1.0)
        cycles = np.maximum(cycles, np.maximum(most, filled + tail))
    return cycles


def _clock_ratio(machine: Machine, kernel: AttentionKernel, work: Work, compute_s: Any, flops: Any, scores: Any) -> Any:
    """SM clock under the power limit, over boost: matrix products, and a few vector instructions per score."""
    if "power.joule_per_flop" not in machine.constants:
        return np.ones_like(compute_s)
    name = work.arithmetic if work.arithmetic in power.ARITHMETIC_BITS else "bf16"
    vector_j = power.fma_joules(machine, 2.0 * (kernel.softmax_ops + 2.0) * scores)
    return power.clock_ratio(machine, compute_s, power.tensor_joules(machine, flops, name) + vector_j)


def _dram_bytes(machine: Machine, kernel: AttentionKernel, work: Work, kv_bytes: Any, io_bytes: Any, heads: Any, passes: Any) -> Any:
    """Bytes that miss L2: none of a footprint that it keeps from call to call; re-reads where one pass exceeds it.

    `passes`: times that all KV is read by query tiles that do not run together.
    """
    keep = machine["attention.l2_resident"] * machine.l2_bytes
    footprint = kv_bytes + io_bytes
    dram_bytes = footprint * np.clip(RAMP * (1.0 - keep / footprint), 0.0, 1.0)
    if work.cold:
        dram_bytes = np.maximum(dram_bytes, kv_bytes)
    if kernel.heads_outermost:
        one_pass = kv_bytes / work.kv_heads + io_bytes / work.q_heads
        again = np.clip(RAMP * (1.0 - keep / one_pass), 0.0, 1.0) * (heads / work.kv_heads - 1.0)
        dram_bytes = dram_bytes + again * kv_bytes
    if kernel.tiles_outermost:
        dram_bytes = dram_bytes + np.clip(RAMP * (1.0 - keep / kv_bytes), 0.0, 1.0) * (passes - 1.0) * kv_bytes
    return dram_bytes


def kernel_times(machine: Machine, kernel: AttentionKernel, work: Work, kv_aliased: bool = False) -> Found:
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
    token_bytes = np.where(work.latent, work.qk_dim, kv_dims) * work.kv_element

    matrix, smem, vector = _step_cycles(m, kernel, work, rows, tile_kv, dims)
    longest_pipe = np.maximum(np.maximum(matrix, smem), vector)
    rest = matrix + smem + vector - longest_pipe
    shared = longest_pipe + m["attention.unoverlapped"] * rest
    alone = np.where(kernel.specialised | (warps >= 8), shared, longest_pipe + rest) + kernel.step_cycles
    outside = kernel.cta_cycles + kernel.dim_cycles * dims / 2.0
    per_row = kernel.row_cycles + np.where((work.window > 0) & (work.window < work.kv_len), kernel.window_row_cycles, 0.0)
    outside = outside + per_row * np.minimum(work.q_len * pack, rows)

    # CTAs resident on an SM, by shared memory and by registers.
    cta_bytes = (
        rows * work.qk_dim * work.element + kernel.stages * tile_kv * token_bytes * np.minimum(1.0, work.element / work.kv_element) + 1024.0
    )
    resident = np.floor(np.minimum(m.smem_bytes / cta_bytes, m.registers / (32.0 * 255.0 * warps)))
    resident = np.clip(resident, 1.0, kernel.most_resident)
    lanes = m.sm_count
    if kernel.planned_heads:
        planned = np.maximum(np.floor(m.sm_count / np.ceil(kernel.planned_heads * work.q_len / rows)), 1.0)
        lanes = np.minimum(planned * q_tiles, m.sm_count)
    slots = lanes * resident
    grid = work.batch * heads * q_tiles

    io_bytes = work.batch * work.q_heads * work.q_len * kv_dims * work.element
    all_kv_bytes = work.batch * work.kv_heads * visible * token_bytes
    keep = m["attention.l2_resident"] * m.l2_bytes
    best: Found = {}
    for splits in _splits(m, kernel, work, grid, q_tiles, longest, slots, lanes, tile_kv):
        split, mean_outside = splits > 1, outside
        piece = np.where(split, np.ceil(longest / splits), longest)
        steps = np.where(split, piece * mean / longest, mean)
        if kernel.split == "waves" and kernel.empty_share:  # pieces of the whole cache, those outside the window empty
            piece = np.ceil(np.minimum(longest, np.ceil(work.kv_len / tile_kv) / splits))
            steps = np.where(longest * tile_kv >= work.kv_len, piece, longest / splits)
            full = np.minimum(1.0, steps / piece)
            mean_outside = outside * (full + kernel.empty_share * (1.0 - full))
        ctas = grid * splits
        compute_s = _waves_cycles(kernel, lanes, ctas, slots, (mean_outside, outside, steps, piece, shared, alone)) / clock

        at_once = np.minimum(ctas, slots) * work.qk_dim * work.kv_element
        kv_bytes = all_kv_bytes
        if kv_aliased:  # V hits where the K bytes that all CTAs read before it still fit
            between = at_once * (steps * tile_kv if not kernel.tile_q else tile_kv)
            kv_bytes = kv_bytes * (0.5 + 0.5 * np.clip(RAMP * (between / keep - 1.0), 0.0, 1.0))
        passes = 1.0 + (np.minimum(q_tiles, np.ceil(ctas / slots)) - 1.0) * mean / longest
        dram_bytes = _dram_bytes(m, kernel, work, kv_bytes, io_bytes, heads, passes)
        l2_bytes = grid * mean * np.minimum(tile_kv, visible) * token_bytes + io_bytes
        in_flight = at_once * kernel.stages * np.minimum(tile_kv, visible)
        refill_s = REFILLS * m.dram_latency_s * kv_bytes / (kv_bytes + io_bytes) / in_flight
        dram_s = dram_bytes * (1.0 / (m["attention.dram_efficiency"] * m.dram_bytes_per_s) + refill_s)
        l2_s = l2_bytes / (m["attention.l2_efficiency"] * m.l2_bytes_per_clk * clock)
        always = kernel.split == "even"
        combine_s = (
            m["attention.launch"] / clock * lookup(kernel.companions, work.qk_dim)
            + np.where(split | always, m["attention.launch"] / clock * kernel.combine_launches, 0.0)
            + np.where(split, splits * kernel.combine_cycles / clock, 0.0)
        )
        scale = ctas * steps / m.sm_count / clock
        scores = grid * mean * rows * tile_kv
        flops = 2.0 * scores * dims if kernel.tile_q else 0.0 * scores
        found = {
            "compute_s": compute_s,
            "l2_s": l2_s,
            "dram_s": dram_s,
            "combine_s": combine_s,
            "dram_bytes": dram_bytes,
            "l2_bytes": l2_bytes,
            "tensor": scale * matrix,
            "smem": scale * smem,
            "vector": scale * vector,
            "ratio": _clock_ratio(m, kernel, work, compute_s, flops, scores),
            "tile_q": float(kernel.tile_q) + 0.0 * ctas,
            "tile_kv": tile_kv + 0.0 * ctas,
            "split_kv": splits,
            "ctas": ctas,
            "resident": resident + 0.0 * ctas,
            "cta_s": (outside + steps * shared) / clock + 0.0 * ctas,
            "alone_s": (outside + steps * alone) / clock + 0.0 * ctas,
            "longest": (outside + piece * shared) / (outside + steps * shared) + 0.0 * ctas,
            "ramps": np.where(kernel.specialised, 0.0, grid / q_tiles) + 0.0 * ctas,  # FlashAttention 3 starts with the longest
            "stages": float(kernel.stages) + 0.0 * ctas,
        }
        best = select(kernel_s(m, found) < kernel_s(m, best), found, best) if best else found
    return best


def kernel_s(machine: Machine, found: Found) -> Any:
    """Time of a kernel, its SMs at their share of the boost clock."""
    core, memory = found["compute_s"] / found["ratio"], np.maximum(found["l2_s"], found["dram_s"])
    exposed = machine["attention.unoverlapped_memory"] / found["stages"] * np.minimum(core, memory)
    return np.maximum(core, memory) + exposed + found["combine_s"]


def select(condition: Any, yes: Found, no: Found) -> Found:
    return {key: np.where(condition, yes[key], no[key]) for key in yes}
