"""Closed form of one grouped GEMM: every expert's rows times its own weights, in one launch.

Every CTA multiplies one block of ``tile.m`` rows of an expert by one block of ``tile.n`` columns of its weights. Constants:
``arch/constants/moe.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .expert_load import blocks_of
from .machine import KernelTimes, Machine, Number
from .moe_kernels import TUNED_TILES, Tile
from .sparse import Pruned

#: Generations whose tensor cores read shared memory once per warp group.
WARP_GROUP = ("sm_90", "sm_100")

#: Bytes of an activation by arithmetic, its share of the scales included; 2 for the others.
ACTIVATION_BYTES = {"fp8": 1.0, "int8": 1.0, "fp4": 0.5625}


@dataclass(frozen=True)
class GemmParts:
    """Times in seconds and bytes of one grouped GEMM, before what is resident in L2 is known."""

    tensor: np.ndarray
    fma: np.ndarray
    smem: np.ndarray
    l2: np.ndarray
    start: np.ndarray
    step: np.ndarray
    steps: np.ndarray
    ahead: np.ndarray
    waves: np.ndarray
    l2_bytes: np.ndarray
    weight_bytes: np.ndarray
    passes: np.ndarray
    segment: np.ndarray


def gemm_parts(
    machine: Machine, tile: Tile, rows: Number, n: Number, k: Number, active: Number, row_tiles: Number,
    span_bytes: Number, *, arithmetic: str, w_bits: float, block_scaled: bool, clock_scale: Number,
    pruned: Pruned | None = None, tensor: str = "moe.tensor_efficiency", resident: bool = False,
) -> GemmParts:  # fmt: skip
    """Per-resource times of one launch; see :func:`grouped_gemm` for the meaning of the sizes.

    ``tensor`` names the constant of the tensor cores' share; ``resident``: one CTA per SM takes tile after tile, fed by
    multicast copies (CUTLASS on Hopper and later), where a Triton CTA computes one tile and ends.
    """
    sm, clock = machine.sm_count, machine.clock_hz * clock_scale
    a_bytes = ACTIVATION_BYTES.get(arithmetic, 2.0)
    w_bytes = w_bits / 8
    # pruned weights: skipped by the tensor cores, or back among their zeros in shared memory; see `sparse`
    own_bits, skipped = (w_bits, False) if pruned is None else (pruned.bits, pruned.skipped(machine))
    in_smem = np.where(skipped, w_bytes, own_bits / 8)
    columns, steps = blocks_of(n, tile.n), blocks_of(k, tile.k)
    ctas = row_tiles * columns
    smem = (tile.stages - 1) * (tile.m * a_bytes + tile.n * in_smem) * tile.k + 1024
    registers = tile.m * tile.n + 64 * 32 * tile.warps
    fit = np.minimum(machine.smem_bytes / smem, machine.registers / registers)
    occupancy = np.maximum(1, np.floor(np.minimum(fit, np.minimum(machine.max_warps / tile.warps, machine.max_ctas))))
    if resident and machine.generation in WARP_GROUP:  # the pipeline fills the shared memory
        occupancy = np.ones_like(occupancy)
    slots = sm * occupancy

    # cycles that one step of the k loop takes of an SM's pipes
    peak = machine.tensor_flops_per_clk[arithmetic] * machine[tensor] * np.where(skipped, machine.sparse_speedup, 1.0)
    multiply = 2 * tile.m * tile.n * tile.k / peak
    convert = tile.n * tile.k * (own_bits < 8 * a_bytes)
    fma = (tile.m * tile.n * tile.k / 64 * block_scaled + convert) / machine.fma_per_clk
    if not resident:  # a step issues its copies, addresses and barriers, however small it is
        fma = np.maximum(fma, machine["moe.step_cycles"] * tile.warps / 4)
    if pruned is not None:
        fma = fma + np.where(skipped, 0.0, tile.n * tile.k * pruned.expand_cycles(machine))
    # warps are laid out 2 x (warps / 2), 1 x warps for 16 rows: each reads its rows of A and columns of B; the
    # warp-group instructions of Hopper and later (64 rows or more) read each operand once
    down = np.minimum(np.where(tile.warps > 4, 4.0, 2.0), tile.m / 16)
    across = tile.warps / down
    if machine.generation in WARP_GROUP:  # weights on the side of 64 rows or more where a tile of few tokens is resident
        wide = (tile.m >= 64) | resident
        down, across = np.where(wide, 1.0, down), np.where(wide, 1.0, across)
    if resident and machine.generation == "sm_100":  # two CTAs hold half of the weights each
        down = np.where(tile.n >= 256, 0.0, down)
    traffic = (tile.m * (across + 1) * a_bytes + tile.n * (down + 1) * in_smem) * tile.k
    lanes = (tile.m + tile.n) * tile.k / machine["moe.scalar_loads"]
    far = np.clip(1 - machine["moe.gather_reach"] / np.maximum(span_bytes, 1.0), 0, 1)
    ragged = (np.asarray(k) % 16 > 0) & (not resident)  # resident kernels take padded rows
    shared = traffic / machine.smem_bytes_per_clk + np.where(ragged, lanes, 0.0)
    shared = shared + far * tile.m * machine["moe.gather_cycles"]

    busiest = blocks_of(ctas, sm) * steps / clock
    pipes = np.maximum(np.maximum(multiply, fma), shared)
    if not resident:
        start = machine["moe.cta_cycles"] / clock + machine.dram_latency_s
    else:  # a resident CTA takes tile after tile; for each it writes descriptors of its expert's operands, and of their scales
        start = machine["moe.tile_cycles"] * (2.0 if arithmetic == "fp4" else 1.0) / clock
    l2_bytes = ctas * tile.n * steps * tile.k * w_bytes + rows * steps * tile.k * a_bytes * columns
    if resident and machine.generation in WARP_GROUP:  # multicast in clusters of two by two CTAs
        l2_bytes = l2_bytes / 2
    l2_rate = machine.l2_bytes_per_clk * clock * machine["moe.l2_efficiency"]
    # an expert's weights come again for every group of row blocks that does not run side by side
    together = np.maximum(tile.group, slots / columns)
    expert_bytes = n * k * w_bytes
    again = np.clip(2 * expert_bytes / (machine["moe.l2_keep"] * machine.l2_bytes) - 1, 0, 1)
    passes = 1 + np.maximum(row_tiles / active - 1, 0) / together * again
    line = np.minimum(tile.k * w_bytes / 128, 1.0)
    return GemmParts(
        busiest * multiply, busiest * fma, busiest * shared, l2_bytes / l2_rate, start, pipes / clock, steps,
        tile.stages - 1, blocks_of(ctas, slots), l2_bytes,
        active * expert_bytes, passes, 1 - machine["moe.short_line_loss"] * (1 - line),
    )  # fmt: skip


def fits(machine: Machine, tile: Tile, arithmetic: str) -> Any:
    """Whether the tile's pipeline fits the shared memory of a CTA."""
    width = ACTIVATION_BYTES.get(arithmetic, 2.0)
    return (tile.stages - 1) * (tile.m + tile.n) * tile.k * width <= machine.smem_bytes_per_cta


def hit_share(size: Number, capacity: Number, width: float = 0.25) -> Any:
    """Share of `size` bytes still in a cache of `capacity` bytes when they are read again."""
    return np.clip((1 + width / 2 - size / np.maximum(capacity, 1.0)) / width, 0, 1)


def alone_s(machine: Machine, gemm: GemmParts, hit: Any) -> Any:
    """Seconds that one CTA takes with an SM to itself: each step waits for loads issued ``stages - 1`` steps before."""
    wait = machine.dram_latency_s + (machine.l2_latency_s - machine.dram_latency_s) * hit
    return gemm.start + gemm.steps * np.maximum(gemm.step, machine["moe.loaded_latency"] * wait / gemm.ahead)


def together_s(machine: Machine, gemm: GemmParts, dram_s: Any, alone: Any) -> Any:
    """Time of one launch: the longest of its resources, a share of the others, and the first CTA's own latency."""
    busy = (gemm.tensor, gemm.fma, gemm.smem, gemm.l2, dram_s)
    total = busy[0] + busy[1] + busy[2] + busy[3] + busy[4]
    longest = np.maximum(np.maximum(np.maximum(busy[0], busy[1]), np.maximum(busy[2], busy[3])), busy[4])
    shared = longest + machine["moe.exposed"] * (total - longest) + alone
    return np.maximum(shared, gemm.waves * alone)


def grouped_gemm(
    machine: Machine, rows: Number, n: Number, k: Number, groups: Number, *, active: Number | None = None,
    row_tiles: Number | None = None, tile: Tile | None = None, span_bytes: Number = 0.0, arithmetic: str = "bf16",
    w_bits: float = 16, block_scaled: bool = False, warm: bool = True, clock_scale: Number = 1.0,
    pruned: Pruned | None = None,
) -> KernelTimes:  # fmt: skip
    """One grouped GEMM: each expert's ``[rows_e, k]`` times its own ``[k, n]``, in one launch.

    Parameters
    ----------
    rows
        Rows over all experts (torch's ``_grouped_mm``: rows of the packed input).
    n, k
        Columns and depth of every expert's weights.
    groups
        Experts whose weights are there.
    active
        Experts with at least one row; None: the expected number if every row picks an expert at random.
    row_tiles
        Row blocks after padding each expert to ``tile.m``; None: expected for rows spread at random over the experts.
    tile
        Block sizes; None: the fastest of :data:`~.moe_kernels.TUNED_TILES`, as a library with a heuristic chooses.
    span_bytes
        Memory over which the rows of one block are scattered (0: contiguous).
    arithmetic, w_bits
        What the tensor cores multiply, and bits per stored weight (fewer: converted in registers).
    block_scaled
        One scale per 128 x 128 weights and per 128 activations, applied in fp32 for every 128 of k.
    warm
        Operands smaller than L2 are there from the previous run of the same kernel.
    clock_scale
        SM clock over the boost clock (the power model's answer).
    pruned
        Zeros among the weights, as `presilicon.mapping.gpu.gemm.gemm` takes them.

    Returns
    -------
    KernelTimes
        Of the broadcast shape.
    """
    if active is None:
        empty = np.exp(rows * np.log1p(-1 / np.maximum(groups, 1 + 1e-9)))
        active = np.maximum(groups * (1 - empty), 1.0)
    best: KernelTimes | None = None
    for choice in [tile] if tile is not None else [Tile(*t) for t in TUNED_TILES]:
        allowed = best is None or fits(machine, choice, arithmetic)
        tiles = np.maximum(active, rows / choice.m + 0.5 * active) if row_tiles is None else row_tiles
        g = gemm_parts(machine, choice, rows, n, k, active, tiles, span_bytes, arithmetic=arithmetic, w_bits=w_bits,
                  block_scaled=block_scaled, clock_scale=clock_scale, pruned=pruned)  # fmt: skip
        capacity = machine["moe.l2_keep"] * machine.l2_bytes
        a_bytes = ACTIVATION_BYTES.get(arithmetic, 2.0)
        moved = rows * k * a_bytes + rows * n * 2.0
        hit = hit_share(g.weight_bytes + moved, capacity) if warm else 0.0
        dram = g.weight_bytes * np.maximum(g.passes - hit, 0) + moved * (1 - hit)
        dram_s = dram / (machine.dram_bytes_per_s * machine["moe.dram_efficiency"] * g.segment)
        alone = alone_s(machine, g, hit)
        time = together_s(machine, g, dram_s, alone) + machine["moe.kernel_floor"]
        times = times_of(machine, time, {
            "tensor": g.tensor, "fma": g.fma, "smem": g.smem, "l2": g.l2, "dram": dram_s,
            "floor": machine["moe.kernel_floor"] + alone,
        }, dram, g.l2_bytes, clock_scale, choice)  # fmt: skip
        best = times if best is None else faster(best, times, allowed)
    assert best is not None
    return best


def times_of(
    machine: Machine, time: Any, busy: dict[str, Any], dram: Any, l2: Any, clock_scale: Number, tile: Tile
) -> KernelTimes:
    shape = np.shape(time)
    spread = {name: np.broadcast_to(np.asarray(value, float), shape) for name, value in busy.items()}
    chosen = {"tile_m": tile.m, "tile_n": tile.n, "tile_k": tile.k, "stages": tile.stages, "warps": tile.warps}
    return KernelTimes(
        np.asarray(time, float),
        spread,
        {"dram": np.broadcast_to(np.asarray(dram, float), shape), "l2": np.broadcast_to(np.asarray(l2, float), shape)},
        np.broadcast_to(np.asarray(machine.clock_hz * clock_scale, float), shape),
        {name: np.broadcast_to(np.asarray(value, float), shape) for name, value in chosen.items()},
    )


def faster(a: KernelTimes, b: KernelTimes, allowed: Any = True) -> KernelTimes:
    """Element by element the faster of two choices; `b` only where it is allowed."""
    take = (b.time_s < a.time_s) & allowed

    def pick(x: Mapping[str, np.ndarray], y: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.where(take, y[name], x[name]) for name in x}

    return KernelTimes(
        np.where(take, b.time_s, a.time_s), pick(a.busy_s, b.busy_s), pick(a.bytes_moved, b.bytes_moved), a.clock_hz,
        pick(a.choice, b.choice),
    )  # fmt: skip
