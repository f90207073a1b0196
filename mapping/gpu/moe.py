"""Closed form of the fused mixture-of-experts MLP made of Triton kernels, and of one grouped GEMM.

The layer is the kernel sequence of SGLang and vLLM: sort the (token, expert) pairs by expert and pad each expert to
whole row blocks (``moe_align_block_size``), grouped GEMM 1 (hidden to gate and up), activation, grouped GEMM 2
(intermediate to hidden, scaled by the routing weight), sum over the top-k copies of each token. The grouped GEMM is one
launch in which every CTA multiplies one block of ``BLOCK_M`` gathered token rows by one block of ``BLOCK_N`` columns of
one expert's weights.

Sources of what is modelled: the kernel and its default tiles, ``fused_moe.py`` and ``fused_moe_triton_config.py`` of
sgl-project/sglang (0.5) and vllm-project/vllm (0.24); the constants are in ``arch/constants/moe.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UnknownNameError
from .expert_load import BLOCK_ROWS, ExpertLoad, blocks_of, expert_load
from .machine import KernelTimes, Machine, Number
from .moe_kernels import ROUTER_KERNELS, TUNED_TILES, Tile, default_tile, is_tuned, tile_steps
from .sparse import Pruned

#: Treatments of (token, expert) pairs whose expert is on another GPU.
REMOTE_ROWS = ("masked", "computed")

#: When choosing the top-k experts is part of the time.
ROUTERS = ("never", "single-rank", "always")

#: Generations whose tensor cores read shared memory once per warp group.
WARP_GROUP = ("sm_90", "sm_100")


@dataclass(frozen=True)
class _Gemm:
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


def _gemm(
    machine: Machine, tile: Tile, rows: Number, n: Number, k: Number, active: Number, row_tiles: Number,
    span_bytes: Number, *, arithmetic: str, w_bits: float, block_scaled: bool, clock_scale: Number,
    pruned: Pruned | None = None,
) -> _Gemm:  # fmt: skip
    """Per-resource times of one launch; see :func:`grouped_gemm` for the meaning of the sizes."""
    sm, clock = machine.sm_count, machine.clock_hz * clock_scale
    a_bytes = 1.0 if arithmetic in {"fp8", "int8"} else 2.0
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
    slots = sm * occupancy

    # cycles that one step of the k loop takes of an SM's pipes
    peak = machine.tensor_flops_per_clk[arithmetic] * machine["moe.tensor_efficiency"] * np.where(skipped, machine.sparse_speedup, 1.0)
    tensor = 2 * tile.m * tile.n * tile.k / peak
    convert = tile.n * tile.k * (own_bits < 8 * a_bytes)
    fma = (tile.m * tile.n * tile.k / 64 * block_scaled + convert) / machine.fma_per_clk
    if pruned is not None:
        fma = fma + np.where(skipped, 0.0, tile.n * tile.k * pruned.expand_cycles(machine))
    # warps are laid out 2 x (warps / 2), 1 x warps for 16 rows: each reads its rows of A and columns of B; the
    # warp-group instructions of Hopper and later (64 rows or more) read each operand once
    down = np.minimum(np.where(tile.warps > 4, 4.0, 2.0), tile.m / 16)
    across = tile.warps / down
    if machine.generation in WARP_GROUP:
        down, across = np.where(tile.m >= 64, 1.0, down), np.where(tile.m >= 64, 1.0, across)
    traffic = (tile.m * (across + 1) * a_bytes + tile.n * (down + 1) * in_smem) * tile.k
    lanes = (tile.m + tile.n) * tile.k / machine["moe.scalar_loads"]
    far = np.clip(1 - machine["moe.gather_reach"] / np.maximum(span_bytes, 1.0), 0, 1)
    shared = traffic / machine.smem_bytes_per_clk + np.where(np.asarray(k) % 16 > 0, lanes, 0.0)
    shared = shared + far * tile.m * machine["moe.gather_cycles"]

    busiest = blocks_of(ctas, sm) * steps / clock
    pipes = np.maximum(np.maximum(tensor, fma), shared)
    start = machine["moe.cta_cycles"] / clock + machine.dram_latency_s
    l2_bytes = ctas * tile.n * steps * tile.k * w_bytes + rows * steps * tile.k * a_bytes * columns
    l2_rate = machine.l2_bytes_per_clk * clock * machine["moe.l2_efficiency"]
    # an expert's weights come again for every group of row blocks that does not run side by side
    together = np.maximum(tile.group, slots / columns)
    expert_bytes = n * k * w_bytes
    again = np.clip(2 * expert_bytes / (machine["moe.l2_keep"] * machine.l2_bytes) - 1, 0, 1)
    passes = 1 + np.maximum(row_tiles / active - 1, 0) / together * again
    line = np.minimum(tile.k * w_bytes / 128, 1.0)
    return _Gemm(
        busiest * tensor, busiest * fma, busiest * shared, l2_bytes / l2_rate, start, pipes / clock, steps,
        tile.stages - 1, blocks_of(ctas, slots), l2_bytes,
        active * expert_bytes, passes, 1 - machine["moe.short_line_loss"] * (1 - line),
    )  # fmt: skip


def _fits(machine: Machine, tile: Tile, arithmetic: str) -> Any:
    """Whether the tile's pipeline fits the shared memory of a CTA."""
    width = 1.0 if arithmetic in {"fp8", "int8"} else 2.0
    return (tile.stages - 1) * (tile.m + tile.n) * tile.k * width <= machine.smem_bytes_per_cta


def _hit(size: Number, capacity: Number, width: float = 0.25) -> Any:
    """Share of `size` bytes still in a cache of `capacity` bytes when they are read again."""
    return np.clip((1 + width / 2 - size / np.maximum(capacity, 1.0)) / width, 0, 1)


def _alone(machine: Machine, gemm: _Gemm, hit: Any) -> Any:
    """Seconds that one CTA takes with an SM to itself: each step waits for loads issued ``stages - 1`` steps before."""
    wait = machine.dram_latency_s + (machine.l2_latency_s - machine.dram_latency_s) * hit
    return gemm.start + gemm.steps * np.maximum(gemm.step, machine["moe.loaded_latency"] * wait / gemm.ahead)


def _together(machine: Machine, gemm: _Gemm, dram_s: Any, alone: Any) -> Any:
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
        allowed = best is None or _fits(machine, choice, arithmetic)
        tiles = np.maximum(active, rows / choice.m + 0.5 * active) if row_tiles is None else row_tiles
        g = _gemm(machine, choice, rows, n, k, active, tiles, span_bytes, arithmetic=arithmetic, w_bits=w_bits,
                  block_scaled=block_scaled, clock_scale=clock_scale, pruned=pruned)  # fmt: skip
        capacity = machine["moe.l2_keep"] * machine.l2_bytes
        a_bytes = 1.0 if arithmetic in {"fp8", "int8"} else 2.0
        moved = rows * k * a_bytes + rows * n * 2.0
        hit = _hit(g.weight_bytes + moved, capacity) if warm else 0.0
        dram = g.weight_bytes * np.maximum(g.passes - hit, 0) + moved * (1 - hit)
        dram_s = dram / (machine.dram_bytes_per_s * machine["moe.dram_efficiency"] * g.segment)
        alone = _alone(machine, g, hit)
        time = _together(machine, g, dram_s, alone) + machine["moe.kernel_floor"]
        times = _times(machine, time, {
            "tensor": g.tensor, "fma": g.fma, "smem": g.smem, "l2": g.l2, "dram": dram_s,
            "floor": machine["moe.kernel_floor"] + alone,
        }, dram, g.l2_bytes, clock_scale, choice)  # fmt: skip
        best = times if best is None else _faster(best, times, allowed)
    assert best is not None
    return best


def _times(
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


def _faster(a: KernelTimes, b: KernelTimes, allowed: Any = True) -> KernelTimes:
    """Element by element the faster of two choices; `b` only where it is allowed."""
    take = (b.time_s < a.time_s) & allowed

    def pick(x: Mapping[str, np.ndarray], y: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.where(take, y[name], x[name]) for name in x}

    return KernelTimes(
        np.where(take, b.time_s, a.time_s), pick(a.busy_s, b.busy_s), pick(a.bytes_moved, b.bytes_moved), a.clock_hz,
        pick(a.choice, b.choice),
    )  # fmt: skip


def fused_moe(
    machine: Machine, num_tokens: Number, hidden_size: Number, inter_size: Number, topk: Number, num_experts: Number, *,
    moe_tp_size: Number = 1, moe_ep_size: Number = 1, distribution: str = "balanced", arithmetic: str = "bf16",
    w_bits: float = 16, block_scaled: bool = False, gated: Number = True, library: str = "sglang",
    tuned: Number | None = None, remote_rows: str = "masked", router: str = "never", warm: bool = True,
    clock_scale: Number = 1.0,
) -> KernelTimes:  # fmt: skip
    """Time of the fused MoE layer on the most loaded GPU.

    Parameters
    ----------
    num_tokens, hidden_size, inter_size, topk, num_experts
        Sizes of the whole layer; arrays that broadcast.
    moe_tp_size, moe_ep_size
        GPUs over which each expert's intermediate size, and the experts, are divided.
    distribution
        How tokens choose experts; see :func:`expert_load`.
    arithmetic, w_bits, block_scaled
        As in :func:`grouped_gemm`; with fp8 the inputs of both GEMMs are quantised by kernels of their own.
    gated
        Whether GEMM 1 computes gate and up (SwiGLU) or up alone (squared ReLU); may be an array.
    library
        Whose default tiles: ``"sglang"`` or ``"vllm"``.
    tuned
        Where true, the fastest of :data:`~.moe_kernels.TUNED_TILES` and the default tile. None: where the library
        ships a tuned file for this GPU and shape.
    remote_rows
        With experts on other GPUs, ``"masked"``: every token is here; pairs of remote experts write zeros and go
        through the activation and the sum. ``"computed"``: only tokens with a local expert are here, and their remote
        pairs are multiplied by the first local expert (how AIConfigurator drove SGLang up to 0.5.10).
    router
        Whether choosing the top-k experts is part of the time: ``"never"``, ``"always"``, or only with one
        expert-parallel rank (``"single-rank"``).
    warm
        Weights that fit L2 are there from the previous call with the same routing.
    clock_scale
        SM clock over the boost clock.

    Returns
    -------
    KernelTimes
        ``choice`` holds the tile of both GEMMs.

    Raises
    ------
    UnknownNameError
        Unknown distribution, library, router, or treatment of remote rows.
    """
    if remote_rows not in REMOTE_ROWS:
        raise UnknownNameError("treatment of remote rows", remote_rows, REMOTE_ROWS)
    if router not in ROUTERS:
        raise UnknownNameError("timing of the router", router, ROUTERS)
    m, hidden, inter, k, experts, tp, ep = (
        np.asarray(v, float)
        for v in np.broadcast_arrays(num_tokens, hidden_size, inter_size, topk, num_experts, moe_tp_size, moe_ep_size)
    )
    load = expert_load(m, experts, k, ep, distribution)
    computed = remote_rows == "computed"
    present = load.tokens if computed else m
    pairs = present * k
    extra = np.maximum(pairs - load.rows, 0) if computed else 0.0 * m
    rows = load.rows + extra
    span = (load.span * load.rows + present * extra) / rows
    fp8 = arithmetic in {"fp8", "int8"}
    if tuned is None:
        tuned = is_tuned(machine.name, experts / ep, inter / tp) & (not fp8) & (w_bits == 16)
    # the default tile, or that of a larger batch where it would do better: more tokens are then never faster
    local = experts / ep
    later = [np.maximum(present, step + 1) for step in tile_steps(library, local)]
    defaults = [default_tile(library, at, local, fp8=fp8, block_scaled=block_scaled) for at in (present, *later)]
    choices: list[tuple[Tile, Any]] = [(tile, True) for tile in defaults]
    if np.any(tuned):
        choices += [(Tile(*t), tuned & _fits(machine, Tile(*t), arithmetic)) for t in TUNED_TILES]
    kernels = ROUTER_KERNELS[library] if router == "always" else ROUTER_KERNELS["separate"]
    routed = kernels * {"never": 0.0 * ep, "single-rank": ep == 1, "always": ep > 0}[router]
    best: KernelTimes | None = None
    for tile, allowed in choices:
        tiles = np.select([tile.m == b for b in BLOCK_ROWS], [load.tiles[b] for b in BLOCK_ROWS])
        times = _layer(
            machine, tile, m, hidden, inter / tp, k, experts, load, present, rows, tiles + extra / tile.m, span, pairs,
            arithmetic=arithmetic, w_bits=w_bits, block_scaled=block_scaled, gated=np.where(gated, 2.0, 1.0),
            routed=routed, warm=warm, clock_scale=clock_scale,
        )  # fmt: skip
        best = times if best is None else _faster(best, times, allowed)
    assert best is not None
    return best


def _layer(
    machine: Machine, tile: Tile, m: Any, hidden: Any, inter: Any, k: Any, experts: Any, load: ExpertLoad, present: Any,
    rows: Any, tiles: Any, span: Any, pairs: Any, *, arithmetic: str, w_bits: float, block_scaled: bool, gated: Any,
    routed: Any, warm: bool, clock_scale: Number,
) -> KernelTimes:  # fmt: skip
    """The kernel sequence for one tile choice."""
    fp8 = arithmetic in {"fp8", "int8"}
    a_bytes = 1.0 if fp8 else 2.0
    options: dict[str, Any] = {
        "arithmetic": arithmetic, "w_bits": w_bits, "block_scaled": block_scaled, "clock_scale": clock_scale,
    }  # fmt: skip
    up = _gemm(machine, tile, rows, gated * inter, hidden, load.active, tiles, span * hidden * a_bytes, **options)
    down = _gemm(machine, tile, rows, hidden, inter, load.active, tiles, span * k * inter * a_bytes, **options)
    clock = machine.clock_hz * clock_scale
    capacity = machine["moe.l2_keep"] * machine.l2_bytes
    dram_rate = machine.dram_bytes_per_s * machine["moe.dram_efficiency"]
    l2_rate = machine.l2_bytes_per_clk * clock * machine["moe.l2_efficiency"]
    gate_up, act = pairs * gated * inter * 2, pairs * inter * a_bytes
    out, x = pairs * hidden * 2, load.tokens * hidden * a_bytes
    weights = up.weight_bytes + down.weight_bytes
    hit = _hit(weights + 0.5 * (gate_up + act + out + x), capacity) if warm else 0.0
    up_dram = up.weight_bytes * np.maximum(up.passes - hit, 0) + x * (1 - _hit(x + out, capacity))
    up_dram = up_dram + gate_up * (1 - _hit(gate_up, capacity))
    down_dram = down.weight_bytes * np.maximum(down.passes - hit, 0) + act * (1 - _hit(gate_up + act, capacity))
    down_dram = down_dram + out * (1 - _hit(out, capacity))
    up_s, down_s = up_dram / (dram_rate * up.segment), down_dram / (dram_rate * down.segment)

    # the activation writes 16 bits; squared ReLU takes two kernels; fp8 quantises both inputs in kernels of their own
    wide = pairs * inter * 2
    streams = [(gate_up + wide + np.where(gated > 1, 0.0, 2 * wide), gate_up)]
    streams.append((np.where(k > 1, out + present * hidden * 2, 0.0), out))
    if fp8:
        streams.append((present * hidden * 3, present * hidden * 2))
        streams.append((wide + act, wide))
    streams.append(((routed > 0) * m * experts * 12, m * experts * 4))
    far = sum(moved * (1 - _hit(size, capacity, 1.0)) for moved, size in streams)
    near = sum(moved * _hit(size, capacity, 1.0) for moved, size in streams)
    sort = pairs * machine["moe.sort_cycles"] / clock
    launches = 5.0 + (k > 1) + 2.0 * fp8 + routed
    floor = launches * machine["moe.kernel_floor"]
    stream_s = far / dram_rate + near / l2_rate
    up_alone, down_alone = _alone(machine, up, hit), _alone(machine, down, hit)
    gemms = _together(machine, up, up_s, up_alone) + _together(machine, down, down_s, down_alone)
    time = gemms + stream_s + sort + floor
    busy = {
        "tensor": up.tensor + down.tensor, "fma": up.fma + down.fma, "smem": up.smem + down.smem,
        "l2": up.l2 + down.l2 + near / l2_rate, "dram": up_s + down_s + far / dram_rate,
        "floor": floor + sort + up_alone + down_alone,
    }  # fmt: skip
    return _times(
        machine, time, busy, up_dram + down_dram + far, up.l2_bytes + down.l2_bytes + near, clock_scale, tile
    )
