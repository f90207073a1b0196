"""Closed form of the fused mixture-of-experts MLP, and in detail that made of Triton kernels.

The Triton layer is the kernel sequence of SGLang and vLLM: sort the (token, expert) pairs by expert and pad each expert to
whole row blocks (``moe_align_block_size``), grouped GEMM 1 (hidden to gate and up), activation, grouped GEMM 2
(intermediate to hidden, scaled by the routing weight), sum over the top-k copies of each token. The grouped GEMM
(`moe_gemm`) gathers its rows. TensorRT-LLM's layer is in `moe_cutlass`.

Sources of what is modelled: the kernel and its default tiles, ``fused_moe.py`` and ``fused_moe_triton_config.py`` of
sgl-project/sglang (0.5) and vllm-project/vllm (0.14 and 0.24); the constants are in ``arch/constants/moe.yaml``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import UnknownNameError
from .expert_load import BLOCK_ROWS, ExpertLoad, blocks_of, expert_load
from .machine import KernelTimes, Machine, Number
from .moe_cutlass import FLOWS, cutlass_moe
from .moe_gemm import alone_s, faster, fits, gemm_parts, grouped_gemm, hit_share, times_of, together_s
from .moe_kernels import ROUTER_KERNELS, TUNED_TILES, Tile, default_tile, is_tuned, tile_steps

__all__ = ["REMOTE_ROWS", "ROUTERS", "fused_moe", "grouped_gemm"]

#: Treatments of (token, expert) pairs whose expert is on another GPU.
REMOTE_ROWS = ("masked", "computed")

#: When choosing the top-k experts is part of the time.
ROUTERS = ("never", "single-rank", "always")


def fused_moe(
    machine: Machine, num_tokens: Number, hidden_size: Number, inter_size: Number, topk: Number, num_experts: Number, *,
    moe_tp_size: Number = 1, moe_ep_size: Number = 1, distribution: str = "balanced", arithmetic: str = "bf16",
    w_bits: float = 16, block_scaled: bool = False, gated: Number = True, library: str = "sglang",
    tuned: Number | None = None, remote_rows: str = "masked", router: str = "never", warm: bool = True,
    clock_scale: Number = 1.0, rounding: str = "spread",
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
        Whose layer: ``"sglang"``, ``"vllm"`` or ``"vllm-0.14"`` (up to that version), by their default tiles, or
        ``"trtllm-1.0"`` or ``"trtllm"`` (from 1.1 on).
    tuned
        Where true, the fastest of :data:`~.moe_kernels.TUNED_TILES` and the default tile. None: where the library
        ships a tuned file for this GPU and shape. TensorRT-LLM: where false, the first tactic of its list; None: true.
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
    rounding
        How drawn loads are rounded; see :func:`expert_load`.

    Returns
    -------
    KernelTimes
        ``choice`` holds the tile of both GEMMs, of TensorRT-LLM's those of the first.

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
    load = expert_load(m, experts, k, ep, distribution, rounding=rounding)
    computed = remote_rows == "computed"
    present = load.tokens if computed else m
    pairs = present * k
    extra = np.maximum(pairs - load.rows, 0) if computed else 0.0 * m
    rows = load.rows + extra
    span = (load.span * load.rows + present * extra) / rows
    fp8 = arithmetic in {"fp8", "int8"}
    if library in FLOWS:
        return cutlass_moe(
            machine, library, m, hidden, inter / tp, k, experts / ep, load, arithmetic=arithmetic, w_bits=w_bits,
            block_scaled=block_scaled, gated=np.where(gated, 2.0, 1.0), tuned=True if tuned is None else tuned,
            warm=warm, clock_scale=clock_scale,
        )  # fmt: skip
    if tuned is None:
        files = is_tuned(machine.name, experts / ep, inter / tp, fp8=fp8, library=library)
        tuned = files & (w_bits in (8, 16)) & (not block_scaled)
    # the default tile, or that of a larger batch where it would do better: more tokens are then never faster
    local = experts / ep
    later = [np.maximum(present, step + 1) for step in tile_steps(library, local)]
    defaults = [default_tile(library, at, local, fp8=fp8, block_scaled=block_scaled) for at in (present, *later)]
    choices: list[tuple[Tile, Any]] = [(tile, True) for tile in defaults]
    if np.any(tuned):
        choices += [(Tile(*t), tuned & fits(machine, Tile(*t), arithmetic)) for t in TUNED_TILES]
    kernels = ROUTER_KERNELS[library] if router == "always" else ROUTER_KERNELS["separate"]
    routed = kernels * {"never": 0.0 * ep, "single-rank": ep == 1, "always": ep > 0}[router]
    best: KernelTimes | None = None
    for tile, allowed in choices:
        tiles = np.select([tile.m == b for b in BLOCK_ROWS], [load.tiles[b] for b in BLOCK_ROWS])
        times = _layer(
            machine, tile, m, hidden, inter / tp, k, experts, load, present, rows, tiles + extra / tile.m, span, pairs,
            arithmetic=arithmetic, w_bits=w_bits, block_scaled=block_scaled, gated=np.where(gated, 2.0, 1.0),
            routed=routed, warm=warm, clock_scale=clock_scale, remote=np.maximum(pairs - rows, 0.0),
        )  # fmt: skip
        best = times if best is None else faster(best, times, allowed)
    assert best is not None
    return best


def _layer(
    machine: Machine, tile: Tile, m: Any, hidden: Any, inter: Any, k: Any, experts: Any, load: ExpertLoad, present: Any,
    rows: Any, tiles: Any, span: Any, pairs: Any, *, arithmetic: str, w_bits: float, block_scaled: bool, gated: Any,
    routed: Any, warm: bool, clock_scale: Number, remote: Any,
) -> KernelTimes:  # fmt: skip
    """The kernel sequence for one tile choice."""
    fp8 = arithmetic in {"fp8", "int8"}
    a_bytes = 1.0 if fp8 else 2.0
    options: dict[str, Any] = {
        "arithmetic": arithmetic, "w_bits": w_bits, "block_scaled": block_scaled, "clock_scale": clock_scale,
    }  # fmt: skip
    up = gemm_parts(machine, tile, rows, gated * inter, hidden, load.active, tiles, span * hidden * a_bytes, **options)
    down = gemm_parts(machine, tile, rows, hidden, inter, load.active, tiles, span * k * inter * a_bytes, **options)
    clock = machine.clock_hz * clock_scale
    capacity = machine["moe.l2_keep"] * machine.l2_bytes
    dram_rate = machine.dram_bytes_per_s * machine["moe.dram_efficiency"]
    l2_rate = machine.l2_bytes_per_clk * clock * machine["moe.l2_efficiency"]
    gate_up, act = pairs * gated * inter * 2, pairs * inter * a_bytes
    out, x = pairs * hidden * 2, load.tokens * hidden * a_bytes
    weights = up.weight_bytes + down.weight_bytes
    hit = hit_share(weights + 0.5 * (gate_up + act + out + x), capacity) if warm else 0.0
    up_dram = up.weight_bytes * np.maximum(up.passes - hit, 0) + x * (1 - hit_share(x + out, capacity))
    up_dram = up_dram + gate_up * (1 - hit_share(gate_up, capacity))
    down_dram = down.weight_bytes * np.maximum(down.passes - hit, 0) + act * (1 - hit_share(gate_up + act, capacity))
    down_dram = down_dram + out * (1 - hit_share(out, capacity))
    up_s, down_s = up_dram / (dram_rate * up.segment), down_dram / (dram_rate * down.segment)

    # the activation writes 16 bits; squared ReLU takes two kernels; fp8 quantises both inputs in kernels of their own
    wide = pairs * inter * 2
    streams = [(gate_up + wide + np.where(gated > 1, 0.0, 2 * wide), gate_up)]
    streams.append((np.where(k > 1, out + present * hidden * 2, 0.0), out))
    if fp8:
        streams.append((present * hidden * 3, present * hidden * 2))
        streams.append((wide + act, wide))
    streams.append(((routed > 0) * m * experts * 12, m * experts * 4))
    far = sum(moved * (1 - hit_share(size, capacity, 1.0)) for moved, size in streams)
    near = sum(moved * hit_share(size, capacity, 1.0) for moved, size in streams)
    sort = pairs * machine["moe.sort_cycles"] / clock
    launches = 5.0 + (k > 1) + 2.0 * fp8 + routed
    floor = launches * machine["moe.kernel_floor"]
    stream_s = np.maximum(far / dram_rate + near / l2_rate, (far + near) / (machine["moe.stream_bytes"] * machine.sm_count * clock))
    up_alone, down_alone = alone_s(machine, up, hit), alone_s(machine, down, hit)
    gemms = together_s(machine, up, up_s, up_alone) + together_s(machine, down, down_s, down_alone)
    # blocks of remote experts' pairs are launched too, and write zeros
    blocks = remote / tile.m + np.where(remote > 0, 0.5 * np.minimum(experts, remote), 0.0)
    zeros = blocks * (blocks_of(gated * inter, tile.n) + blocks_of(hidden, tile.n)) / machine.sm_count
    gemms = gemms + zeros * machine["moe.zero_cycles"] / clock
    time = gemms + stream_s + sort + floor
    busy = {
        "tensor": up.tensor + down.tensor, "fma": up.fma + down.fma, "smem": up.smem + down.smem,
        "l2": up.l2 + down.l2 + near / l2_rate, "dram": up_s + down_s + far / dram_rate,
        "floor": floor + sort + up_alone + down_alone,
    }  # fmt: skip
    return times_of(
        machine, time, busy, up_dram + down_dram + far, up.l2_bytes + down.l2_bytes + near, clock_scale, tile
    )
