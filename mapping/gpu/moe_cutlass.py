"""Closed form of the mixture-of-experts MLP of TensorRT-LLM: rows copied into expert order, grouped GEMMs, rows summed back.

The PyTorch flow's layer chooses the top-k experts, sorts the pairs, copies the rows of this rank's experts side by side
(quantised on the way), runs a grouped GEMM, the activation, a second grouped GEMM, and adds each token's rows up. Pairs of
experts on other ranks are neither copied nor multiplied. The tactic of each GEMM is found by timing.

Sources: ``moe_kernels.cu`` and ``cutlass_heuristic.cpp`` of NVIDIA/TensorRT-LLM (1.0 to 1.2; tiles of the grouped GEMMs),
its pull request 3294 (sum fused into the second GEMM, from 1.1 on, Hopper and later); ``triton_kernels`` of
triton-lang/triton for mxfp4 weights on Hopper. Constants: ``arch/constants/moe.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .expert_load import ExpertLoad
from .machine import KernelTimes, Machine, Number
from .moe_gemm import ACTIVATION_BYTES, WARP_GROUP, alone_s, faster, gemm_parts, hit_share, times_of, together_s
from .moe_kernels import Tile

#: (token rows, weight columns) of the grouped GEMM's tiles. Weights stand on the instruction's side of 128 rows, so that a
#: tile may have few tokens.
TILES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "sm_80": ((16, 128), (32, 128), (64, 128), (128, 128)),
    "sm_89": ((16, 256), (32, 128), (64, 128), (128, 256), (256, 128)),
    "sm_90": ((16, 128), (32, 128), (64, 128), (128, 128), (256, 128), (128, 256)),
    "sm_100": ((32, 128), (64, 128), (128, 128), (256, 128), (128, 256), (256, 256)),
}

#: The first tile of the library's list, which runs where no tactic was timed: tokens on the side of 128 rows.
FIRST_TILE: Final[dict[str, tuple[int, int]]] = {"sm_90": (128, 16), "sm_100": (128, 128)}

#: Tile of the grouped GEMM with scales for blocks of 128 x 128 weights.
BLOCK_SCALED_TILES: Final = ((64, 128), (128, 128))


@dataclass(frozen=True)
class Flow:
    """What one version of the library launches around the two GEMMs.

    Attributes
    ----------
    routing
        Kernels that choose the experts.
    fused_sum
        Whether the second GEMM adds its rows into the output (Hopper and later).
    """

    routing: float
    fused_sum: bool


FLOWS: Final = {"trtllm-1.0": Flow(4.0, False), "trtllm": Flow(1.0, True)}


def tiles_of(machine: Machine, arithmetic: str, block_scaled: bool) -> list[Tile]:
    """Tiles among which timing chooses; a step of k is 128 bytes of activations, and stages fill the shared memory."""
    shapes = BLOCK_SCALED_TILES if block_scaled else TILES.get(machine.generation, TILES["sm_80"])
    if arithmetic == "fp8" and machine.generation == "sm_100":
        shapes = ((16, 128), *shapes)
    return [_tile(machine, m, n, arithmetic) for m, n in shapes if arithmetic != "fp4" or m >= 64]


def _tile(machine: Machine, m: int, n: int, arithmetic: str) -> Tile:
    width = ACTIVATION_BYTES.get(arithmetic, 2.0)
    depth = 256.0 if arithmetic == "fp4" else 128.0 / width
    room = np.min((machine.smem_bytes_per_cta - 4096) / ((m + n) * width * depth))
    most = 16 if machine.generation in WARP_GROUP else 4
    return Tile(m, n, depth, 8.0 if m > 32 else 1.0, 8.0 if m * n > 8192 else 4.0, float(np.clip(np.floor(room), 2, most)) + 1)


def cutlass_moe(
    machine: Machine, library: str, tokens: Any, hidden: Any, inter: Any, topk: Any, experts: Any, load: ExpertLoad, *,
    arithmetic: str, w_bits: float, block_scaled: bool, gated: Any, tuned: Any, warm: bool, clock_scale: Number,
) -> KernelTimes:  # fmt: skip
    """Time of the layer on one rank.

    Parameters
    ----------
    library
        One of `FLOWS`.
    tokens, hidden, inter, topk
        Arrays of one shape; `inter` is this rank's share of the intermediate size.
    experts
        Experts whose weights are on this rank.
    load
        What falls on this rank.
    gated
        2 where GEMM 1 computes gate and up, 1 where up alone.
    tuned
        Where false, the library's first tactic runs.
    arithmetic, w_bits, block_scaled, warm, clock_scale
        As in `presilicon.mapping.gpu.moe.fused_moe`.
    """
    flow = FLOWS[library]
    width = ACTIVATION_BYTES.get(arithmetic, 2.0)
    ampere = machine.generation not in WARP_GROUP
    converted = w_bits < 8 * width  # weights unpacked in the GEMM: Triton kernels, which gather and scatter rows themselves
    fused_sum = flow.fused_sum and not (ampere or block_scaled or converted)
    rows, clock = load.rows, machine.clock_hz * clock_scale
    capacity = machine["moe.l2_keep"] * machine.l2_bytes
    dram_rate = machine.dram_bytes_per_s * machine["moe.dram_efficiency"]
    copy_rate = machine["moe.copy_bytes"] * machine.sm_count * clock
    l2_rate = machine.l2_bytes_per_clk * clock * machine["moe.l2_efficiency"]
    x, act, out, result = rows * hidden * width, rows * inter * width, rows * hidden * 2, tokens * hidden * 2
    gate_up = rows * gated * inter * 2
    fused_activation = ampere or converted
    up_writes = np.where(fused_activation, act, gate_up)
    down_writes = out + (result if fused_sum else 0.0)
    weights = load.active * (gated + 1) * inter * hidden * w_bits / 8
    hit = hit_share(weights + 0.5 * (up_writes + act + out + x), capacity) if warm else 0.0

    options: dict[str, Any] = {
        "arithmetic": arithmetic, "w_bits": w_bits, "block_scaled": block_scaled, "clock_scale": clock_scale,
        "tensor": "moe.cutlass_block_tensor" if block_scaled else "moe.unpacked_tensor" if converted else "moe.cutlass_tensor",
        "resident": True,
    }  # fmt: skip
    untimed = np.asarray(not block_scaled and machine.generation in FIRST_TILE) & ~np.asarray(tuned, bool)
    choices: list[tuple[Tile, Any]] = [(tile, ~untimed) for tile in tiles_of(machine, arithmetic, block_scaled)]
    if np.any(untimed):
        choices.append((_tile(machine, *FIRST_TILE[machine.generation], arithmetic), untimed))
    parts: list[KernelTimes] = []
    for n, depth, moved in ((gated * inter, hidden, x + up_writes), (hidden, inter, act + down_writes)):
        best: KernelTimes | None = None
        for tile, allowed in choices:
            g = gemm_parts(machine, tile, rows, n, depth, load.active, load.tiles[int(tile.m)], 0.0, **options)
            dram = g.weight_bytes * np.maximum(g.passes - hit, 0) + moved * (1 - hit_share(moved, capacity))
            dram_s = dram / (dram_rate * g.segment)
            alone = alone_s(machine, g, hit)
            busy = {"tensor": g.tensor, "fma": g.fma, "smem": g.smem, "l2": g.l2, "dram": dram_s, "floor": alone}
            time = np.where(allowed, together_s(machine, g, dram_s, alone), np.inf)
            times = times_of(machine, time, busy, dram, g.l2_bytes, clock_scale, tile)
            best = times if best is None else faster(best, times)
        assert best is not None
        parts.append(best)

    # copy in expert order (16 bits where the GEMM's own kernel quantises), activation, sum
    streams = [(np.where(converted, 0.0, rows * hidden * (2 if block_scaled else width) + np.minimum(out, rows * hidden * 2)), out)]
    streams.append((np.where(fused_activation, 0.0, gate_up + act), gate_up))
    # Triton's second GEMM scatters into a row for every pair, those of other ranks included
    summed = np.where(converted, tokens * topk * hidden * 2, out)
    streams.append((summed + result, summed) if not fused_sum else (result, result))
    launches = 4.0 * converted + flow.routing + 5.0 + 2.0 * (tokens > 256) + np.where(fused_activation, 0.0, 1.0) + 1.0
    if width < 2 and not block_scaled:
        streams.append((tokens * hidden * (2 + width), tokens * hidden * 2))
        launches = launches + (3 if arithmetic == "fp4" else 1)
    far = sum(moved * (1 - hit_share(size, capacity, 1.0)) for moved, size in streams)
    near = sum(moved * hit_share(size, capacity, 1.0) for moved, size in streams)
    stream_s = np.maximum(far / dram_rate + near / l2_rate, (far + near) / copy_rate)
    floor = launches * machine["moe.flow_floor"]
    if block_scaled:
        quantised = rows * (hidden + inter) * 3.0
        stream_s = stream_s + quantised / (machine["moe.quantise_bytes"] * machine.sm_count * clock)
        far = far + quantised
        floor = floor + 2 * machine["moe.flow_floor"] + 2 * experts * machine["moe.group_cycles"] / clock
    up, down = parts
    busy = {key: up.busy_s[key] + down.busy_s[key] for key in up.busy_s}
    busy["dram"] = busy["dram"] + far / dram_rate
    busy["l2"] = busy["l2"] + near / l2_rate
    busy["floor"] = busy["floor"] + floor
    moved = {level: up.bytes_moved[level] + down.bytes_moved[level] for level in ("dram", "l2")}
    total = up.time_s + down.time_s + stream_s + floor
    shape = np.shape(total)
    return KernelTimes(
        np.asarray(total, float),
        {name: np.broadcast_to(value, shape) for name, value in busy.items()},
        {"dram": np.broadcast_to(moved["dram"] + far, shape), "l2": np.broadcast_to(moved["l2"] + near, shape)},
        np.broadcast_to(np.asarray(clock, float), shape),
        dict(up.choice),
    )
