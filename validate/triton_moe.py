"""The fused mixture-of-experts op of a serving framework as the launches of our Triton kernels, predicted from their machine code.

A measured row is the whole op: routing (where the collector timed it), sorting by expert, grouped GEMM to gate and up, activation, grouped
GEMM down, sum over the top-k copies. The two GEMMs are `kernels.moe.moe_matmul`, compiled for the GPU and simulated on one SM; the kernels
around them move bytes and are the closed form of `mapping.gpu.memory_bound`. Block sizes are the framework's documented default
(`moe_rows.default_of`: ``get_default_config`` of SGLang 0.5, vLLM 0.24 and earlier vLLM). Where a tuned file ships for the GPU and shape,
it is read from a folder that the user names (`moe_configs`); without one the config predicted to be the fastest of `TUNED_TILES` and the
default is taken.

No number is fitted on these rows. Expert loads are drawn as the rows' collector draws them (`moe_routing`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..arch import System
from ..arch.sm_timing import sm_timing
from ..errors import KernelError
from ..mapping.gpu.machine import Machine
from ..mapping.gpu.memory_bound import memory_kernel
from ..mapping.gpu.moe_kernels import ROUTER_KERNELS, TUNED_TILES, Tile, implementation_of
from ..mapping.triton import bind_launch, compile_launch, occupancy_of
from ..sim.sm.l2 import L2Cache
from ..sim.sm.result import KernelRun
from ..sim.sm.run import simulate_kernel
from .kernels.suite import cdiv
from .moe_configs import TunedConfigs
from .moe_routing import Routing, align_pairs, chosen_experts, on_busiest_rank, routing_of, row_blocks
from .moe_rows import FORMATS, SCALE_BLOCK, MoeRow, default_of, has_tuned_file

#: vLLM sorts no pairs where they are at most 1 / 4 of the experts (``SPARSITY_FACTOR``) and all experts are here; in 0.14, not in 0.12.
UNSORTED: Final = ((0, 14), 4)
#: What a prediction's `config` says of a tile that the framework takes without a tuned file.
DEFAULT: Final = "the framework's default"


@dataclass(frozen=True)
class MoePrediction:
    """Seconds of one row and what they are made of.

    Attributes
    ----------
    time_s, gemms_s, others_s
        All, the two grouped GEMMs, the kernels around them.
    tile
        BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, warps, stages.
    config
        Where the tile is from: given, the framework's default or tuned file, or the fastest predicted where that file is not known.
    active, blocks
        Experts with a row; row blocks.
    weight_bytes
        Weights of these experts: what must come from DRAM at least where L2 does not hold them.
    held
        Share of the operands that L2 holds from the calls before.
    limiter
        Of both GEMMs.
    runs
        The two simulations.
    """

    time_s: float
    gemms_s: float
    others_s: float
    tile: tuple[int, ...]
    config: str
    active: int
    blocks: int
    weight_bytes: float
    held: float
    limiter: str
    runs: tuple[KernelRun, ...]


def grouped_gemm(row: MoeRow, routing: Routing, tile: Tile, system: System, sizes: tuple[int, int, int], weighted: bool) -> Any:
    """The bound launch of one grouped GEMM; `sizes` are n, k and how many pairs share a row of the input."""
    import torch

    from .kernels import moe
    from .kernels.suite import torch_dtype

    n, k, shared = sizes
    block = int(tile.m)
    # vLLM's grid is for the blocks of all experts, SGLang's for those of the rank
    ids, of_block, used = align_pairs(routing, block, row.experts if row.vllm else row.experts // row.ep)
    kind = torch_dtype(FORMATS[row.moe_dtype])
    pairs = routing.experts_of.size

    def meta(*shape: int, dtype: Any = kind) -> Any:
        return torch.empty(shape, dtype=dtype, device="meta")

    a, b, c = meta(cdiv(pairs, shared), k), meta(max(1, routing.active), n, k), meta(pairs, n, dtype=torch.bfloat16)
    experts, scaled, scales = max(1, routing.active), kind.itemsize == 1, (None, None)
    if row.block_scaled:
        groups = cdiv(k, SCALE_BLOCK)
        scales = (meta(len(a), groups, dtype=torch.float32), meta(experts, cdiv(n, SCALE_BLOCK), groups, dtype=torch.float32))
    elif scaled:
        scales = (meta(1, dtype=torch.float32), meta(experts, dtype=torch.float32))
    weight = meta(pairs, dtype=torch.float32) if weighted else None
    args = (a, b, c, *scales, weight, torch.from_numpy(ids), torch.from_numpy(of_block), torch.tensor([used], dtype=torch.int32), n, k,
            pairs, k, n * k, k, n)
    flags = {"BLOCK_M": block, "BLOCK_N": int(tile.n), "BLOCK_K": int(tile.k), "GROUP_M": int(tile.group), "num_warps": int(tile.warps),
             "num_stages": int(tile.stages), "TOP_K": shared, "WEIGHTED": weighted, "SCALED": scaled,
             "EVEN_K": not row.vllm and k % int(tile.k) == 0, "CAPACITY": len(ids),   # vLLM has masks along k always
             "SCALE_BLOCK": SCALE_BLOCK if row.block_scaled else 0,
             "SCALE_COLUMNS": row.vllm or int(tile.n) > SCALE_BLOCK}
    return bind_launch(moe.moe_matmul, (len(ids) // block * cdiv(n, int(tile.n)),), args, flags, target=system.generation)


def _others_s(row: MoeRow, routing: Routing, machine: Machine, inter: int) -> float:
    """Seconds of the kernels around the GEMMs, each the closed form of a memory-bound kernel."""
    present, pairs = len(routing.experts_of), routing.experts_of.size
    wide = 2 if row.gated else 1
    kernels: list[tuple[float, float]] = [(2.0 * pairs * wide * inter, 2.0 * pairs * inter)]   # activation
    since, factor = UNSORTED
    if not (row.early_vllm and row.release >= since and row.ep == 1 and pairs * factor <= row.experts):
        kernels += [(4.0 * pairs, 4.0 * row.experts), (4.0 * pairs, 4.0 * pairs)]   # count and pad each expert; fill the sorted list
    if not row.gated:
        kernels.append((2.0 * pairs * inter, 2.0 * pairs * inter))   # squared ReLU takes two kernels
    if row.top_k > 1:
        kernels.append((2.0 * pairs * row.hidden, 2.0 * present * row.hidden))
    if row.fp8:
        kernels += [(2.0 * present * row.hidden, 1.0 * present * row.hidden), (2.0 * pairs * inter, 1.0 * pairs * inter)]
    implementation = implementation_of(row.framework, row.version, row.moe_dtype)
    if (implementation["router"] == "always" and not row.early_vllm) or (implementation["router"] == "single-rank" and row.ep == 1):
        count = ROUTER_KERNELS[row.framework if implementation["router"] == "always" else "separate"]
        picked = 8.0 * row.tokens * row.top_k
        kernels += [(4.0 * row.tokens * row.experts, picked)] + [(picked, picked)] * (int(count) - 1)
    remote = float((routing.experts_of < 0).sum())
    if remote and row.vllm:
        kernels.append((0.0, 2.0 * pairs * row.hidden))   # GEMM 2 leaves out pairs of remote experts: its output is cleared first
    read, written = (np.array(column) for column in zip(*kernels, strict=True))
    total = float(memory_kernel(machine, read, written).time_s.sum())
    if remote and not row.vllm:   # the GEMMs also write zeros for them, in CTAs of their own
        zeros = memory_kernel(machine, 0.0, 2.0 * remote * np.array([wide * inter, row.hidden])).time_s
        total += float((zeros - machine["memory.floor"]).sum())
    return total


def _weight_bytes(row: MoeRow, routing: Routing, inter: int) -> float:
    return float(routing.active * ((2 if row.gated else 1) + 1) * row.hidden * inter * (1 if row.fp8 else 2))


def held_share(row: MoeRow, routing: Routing, system: System, inter: int) -> float:
    """Share of a call's weights that L2 holds from the calls before, of which `MoeRow.in_turn` go round.

    An expert's weights are used again in the next call that draws it. Until then pass the weights of all experts drawn in between, and what
    every call reads and writes beside them, which lies at the same place each time.
    """
    wide, pairs, present = (2 if row.gated else 1), routing.experts_of.size, len(routing.experts_of)
    inputs = row.in_turn if row.ep > 1 and implementation_of(row.framework, row.version)["remote_rows"] == "computed" else 1
    streams = 2 * pairs * ((wide + 1) * inter + row.hidden * (row.top_k > 1)) + 2 * present * row.hidden * (inputs + 1)
    each = _weight_bytes(row, routing, inter) / max(routing.active, 1)
    l2 = L2Cache.of(system, sm_timing(system.generation), warm=False)
    if row.distribution == "balanced" or l2.outlasting(each * routing.active + streams) == 0.0:
        return l2.outlasting(each * routing.active + streams)
    drawn = np.zeros((row.in_turn, row.experts // row.ep), dtype=bool)
    for seed in range(row.in_turn):
        drawn[seed, on_busiest_rank(row, chosen_experts(row, seed)).numbers] = True
    shares = []
    for call, mine in enumerate(drawn):
        passed, left = np.zeros_like(mine), mine
        for ago in range(1, row.in_turn + 1):
            passed = passed | drawn[call - ago]
            here = left & drawn[call - ago]
            shares += [l2.outlasting(each * float(passed.sum()) + streams)] * int(here.sum())
            left = left & ~here
    return float(np.mean(shares)) if shares else 1.0


def predict_row(row: MoeRow, system: System, *, fidelity: str = "tile", tile: Tile | None = None,
                configs: TunedConfigs | None = None) -> MoePrediction:
    """Seconds of one row; `tile` where it is known, else the framework's: of its tuned file in `configs`, or its default.

    Raises
    ------
    KernelError
        No tile of the framework fits the GPU.
    """
    inter, local = row.inter // row.tp, row.experts // row.ep
    present = len(on_busiest_rank(row, chosen_experts(row, 0)).experts_of)
    shipped = None
    if tile is None and configs is not None:
        scales = "fp8" if row.fp8 and not row.block_scaled else row.moe_dtype
        shipped = configs.find(row.framework.lower(), system.name, local, inter, present, scales)
    rule = tile or shipped or default_of(row, present)
    first = (rule.m, rule.n, rule.k, rule.group, rule.warps, rule.stages)
    guessed = tile is None and configs is None and has_tuned_file(row, system)
    tiles = [tuple(int(v) for v in first)] + (list(TUNED_TILES) if guessed else [])
    if tile is not None or shipped is not None:
        config = "given" if tile is not None else "the framework's tuned file"
    else:
        config = "chosen by prediction" if guessed else DEFAULT
    best: MoePrediction | None = None
    for numbers in dict.fromkeys(tiles):
        found = _predict(row, Tile(*numbers), numbers, config, inter, system, fidelity)
        if found is not None and (best is None or found.time_s < best.time_s):
            best = found
    if best is None:
        raise KernelError(f"no tile of {row.framework} {row.version} fits an SM of {system.name}")
    return best


def _predict(row: MoeRow, tile: Tile, numbers: tuple[int, ...], config: str, inter: int, system: System,
             fidelity: str) -> MoePrediction | None:
    routing = routing_of(row, int(tile.m))
    held = held_share(row, routing, system, inter)
    up = ((2 if row.gated else 1) * inter, row.hidden, row.top_k)
    runs = []
    for sizes, weighted in ((up, False), ((row.hidden, inter, 1), True)):
        launch = grouped_gemm(row, routing, tile, system, sizes, weighted)
        compiled = compile_launch(launch)
        if occupancy_of(compiled, system).ctas == 0:
            return None
        runs.append(simulate_kernel(compiled, launch, system, fidelity=fidelity, warm_l2=held))
    gemms = sum(run.time_s for run in runs)
    others = _others_s(row, routing, Machine.of(system), inter)
    return MoePrediction(gemms + others, gemms, others, numbers, config, routing.active, row_blocks(routing, int(tile.m)),
                         _weight_bytes(row, routing, inter), held, "/".join(run.limiter for run in runs), tuple(runs))
