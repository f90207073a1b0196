"""The fused mixture-of-experts op of a serving framework as the launches of our Triton kernels, predicted from their machine code.

A measured row is the whole op: routing (where the collector timed it), sorting by expert, grouped GEMM to gate and up, activation, grouped
GEMM down, sum over the top-k copies. The two GEMMs are `kernels.moe.moe_matmul`, compiled for the GPU and simulated on one SM; the kernels
around them move bytes and are the closed form of `mapping.gpu.memory_bound`. Block sizes are the framework's documented default
(`mapping.gpu.moe_kernels.default_tile`: ``get_default_config`` of SGLang 0.5 and vLLM 0.24; `default_of`: of earlier vLLM); where a tuned
file ships for the GPU and shape, it is read from a folder that the user names (`moe_configs`), and without one the config predicted to be
the fastest of `TUNED_TILES` and the default is taken.

No number is fitted on these rows. Expert loads are drawn as the collector of ai-dynamo/aiconfigurator draws them (``collector/helper.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..arch import System
from ..arch.sm_timing import sm_timing
from ..errors import KernelError, TableError
from ..mapping.gpu.machine import Machine
from ..mapping.gpu.memory_bound import memory_kernel
from ..mapping.gpu.moe_kernels import ROUTER_KERNELS, TUNED_TILES, Tile, default_tile, implementation_of, is_gated, is_tuned
from ..mapping.triton import bind_launch, compile_launch, occupancy_of
from ..sim.sm.l2 import L2Cache
from ..sim.sm.result import KernelRun
from ..sim.sm.run import simulate_kernel
from .kernels.suite import cdiv
from .moe_configs import TunedConfigs

#: Number formats of the tables whose kernels ours are: SGLang's Triton path expands ``w4a16_mxfp4`` to bf16; tables of early 2026 write
#: ``float16`` for bfloat16 tensors.
FORMATS: Final[Mapping[str, str]] = {"bfloat16": "bfloat16", "float16": "bfloat16", "w4a16_mxfp4": "bfloat16", "fp8": "fp8_e4m3",
                                     "fp8_block": "fp8_e4m3"}
#: Rows and columns of weights that share a scale in ``fp8_block``, and columns of a row of activations (both collectors).
SCALE_BLOCK: Final = 128
#: The first vLLM with the default tiles by tokens (pull request 34846, 18 February 2026); 0.14 still has SGLang's.
TILES_BY_TOKENS: Final = (0, 17)
#: The first SGLang whose tables were recorded with expert loads capped at one row a token.
EARLY_SGLANG: Final = (0, 5, 9)
#: vLLM sorts no pairs where they are at most 1 / 4 of the experts (``SPARSITY_FACTOR``) and all experts are here; in 0.14, not in 0.12.
UNSORTED: Final = ((0, 14), 4)
#: What a prediction's `config` says of a tile that the framework takes without a tuned file.
DEFAULT: Final = "the framework's default"
#: Sources that are Triton's without saying so.
TRITON_SOURCES: Final = ("vllm_fused_moe",)
#: Calls that both collectors make in turn, each with a draw of its own (and in SGLang's of one rank of several, its own activations).
IN_TURN: Final = 5
#: Draws of the expert loads, of which the one nearest to their mean is taken; the collector averages ten.
DRAWS: Final = 10


@dataclass(frozen=True)
class MoeRow:
    """One row of a ``*.moe_triton.csv`` table.

    Attributes
    ----------
    framework, version, moe_dtype
        What ran, and the table's name of its number format.
    tokens, hidden, inter, top_k, experts
        Sizes of the whole layer.
    tp, ep
        GPUs over which each expert's intermediate size, and the experts, are divided.
    distribution
        ``"balanced"``, ``"power_law_A"``, or ``"uniform"``: every token draws its experts at random.
    measured_s
        Seconds a call.
    in_turn
        Calls that are made in turn, each with a draw of its own.
    """

    framework: str
    version: str
    moe_dtype: str
    tokens: int
    hidden: int
    inter: int
    top_k: int
    experts: int
    tp: int
    ep: int
    distribution: str
    measured_s: float
    in_turn: int = IN_TURN

    @property
    def release(self) -> tuple[int, ...]:
        """Numbers of the framework's version; (99,) where the row names none."""
        return tuple(int(part) for part in self.version.split(".")[:3] if part.isdigit()) or (99,)

    @property
    def fp8(self) -> bool:
        """Whether weights and activations are fp8."""
        return FORMATS[self.moe_dtype] == "fp8_e4m3"

    @property
    def block_scaled(self) -> bool:
        """Whether each `SCALE_BLOCK` square of the weights has a scale; SGLang's collector took one where sizes are no multiples of it.

        That of early 2026 took one everywhere. This is inferred: its rows reach 1,018 TFLOP/s on an H100, as per-tensor scales with their
        default tile of 128x256 do, where vLLM's rows with the same 64x128 tile for scales by block as SGLang's stop at 585.
        """
        even = self.hidden % SCALE_BLOCK == 0 and self.inter // self.tp % SCALE_BLOCK == 0
        return self.moe_dtype == "fp8_block" and (self.vllm or (even and not self.early))

    @property
    def vllm(self) -> bool:
        """Whether vLLM ran."""
        return self.framework.lower() == "vllm"

    @property
    def early_vllm(self) -> bool:
        """Whether it is a vLLM before `TILES_BY_TOKENS`, whose collector also chose the experts before the clock started."""
        return self.vllm and self.release < TILES_BY_TOKENS

    @property
    def early(self) -> bool:
        """Whether the table is of early 2026, whose collector drew expert loads by other rules (`early_counts`)."""
        return self.early_vllm or (not self.vllm and self.release < EARLY_SGLANG)

    @property
    def gated(self) -> bool:
        """Whether GEMM 1 computes gate and up; the early collectors drove every layer so."""
        return self.early or bool(is_gated(self.framework, self.version, self.hidden, self.inter, self.top_k))


@dataclass(frozen=True)
class Routing:
    """What one rank computes.

    Attributes
    ----------
    experts_of
        int64 [tokens present, top_k]: expert of each pair, numbered among those that have a row; -1 where it is on another rank and not
        computed here.
    numbers
        int64 by expert with a row: its number on the rank.
    """

    experts_of: np.ndarray
    numbers: np.ndarray

    @property
    def active(self) -> int:
        """Experts with a row."""
        return len(self.numbers)


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


def expert_counts(tokens: int, experts: int, top_k: int, ep: int, exponent: float, seed: int) -> np.ndarray:
    """Rows of each expert, the busiest rank's experts first; int64 [experts].

    Shares are drawn from a density proportional to ``x**-exponent`` on [1, 0.8 tokens] ([0.01, 2] with fewer pairs than experts), rounded,
    capped at one row a token; what is missing then goes to the least loaded experts, rank by rank.

    Examples
    --------
    >>> int(expert_counts(64, 8, 2, 2, 1.2, seed=0).sum())
    128
    """
    counts = np.minimum(_drawn_counts(tokens, experts, top_k, exponent, seed), tokens).reshape(ep, -1)
    rank = 0
    while (missing := tokens * top_k - int(counts.sum())) != 0:
        mine, rank = counts[rank % ep], rank + 1
        step = max(1, abs(missing) // (ep * len(mine)))  # many at once while much is missing
        if missing > 0:
            at = int(mine.argmin())
            mine[at] += min(step, missing, tokens - int(mine[at]))
        else:
            at = int(mine.argmax())
            mine[at] -= min(step, -missing, int(mine[at]))
    return _busiest_first(counts)


def early_counts(tokens: int, experts: int, top_k: int, ep: int, exponent: float, seed: int) -> np.ndarray:
    """`expert_counts` as the collector of early 2026 has it: no cap; what is missing goes to the most loaded experts, one each, and what is
    too much is taken from the least loaded.

    Examples
    --------
    >>> early_counts(1, 160, 8, 32, 1.01, seed=0)[:10].tolist()  # all shares are rounded to nothing
    [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    """
    counts = _drawn_counts(tokens, experts, top_k, exponent, seed)
    missing = tokens * top_k - int(counts.sum())
    order = np.argsort(-counts, kind="stable")
    if missing > 0:
        counts += missing // experts
        counts[order[:missing % experts]] += 1
    for n in range(-missing):
        least = order[-(n % experts) - 1]
        counts[least if counts[least] > 0 else counts.argmax()] -= 1
    return _busiest_first(counts.reshape(ep, -1))


def _drawn_counts(tokens: int, experts: int, top_k: int, exponent: float, seed: int) -> np.ndarray:
    low, high = (1.0, max(0.8 * tokens, 1.0001)) if tokens * top_k > experts else (0.01, 2.0)
    power = 1.0 - exponent
    u = np.random.default_rng(seed).random(experts)
    share = ((high**power - low**power) * u + low**power) ** (1.0 / power)
    return np.rint(share / share.sum() * tokens * top_k).astype(np.int64)


def _busiest_first(counts: np.ndarray) -> np.ndarray:
    """Counts [ranks, experts of each] with the busiest rank's in front, flat."""
    busiest = int(counts.sum(1).argmax())
    counts[[0, busiest]] = counts[[busiest, 0]]
    return counts.reshape(-1)


def _without_repeats(chosen: np.ndarray) -> np.ndarray:
    """Where a token names an expert twice, the lowest that it does not name instead: the top k of how often each is named."""
    repeated = np.flatnonzero((np.diff(np.sort(chosen, axis=1), axis=1) == 0).any(axis=1))
    for token in repeated.tolist():
        named = np.unique(chosen[token])
        others = np.setdiff1d(np.arange(len(named) + chosen.shape[1]), named)
        chosen[token] = np.concatenate([named, others[:chosen.shape[1] - len(named)]])
    return chosen


def _chosen(row: MoeRow, seed: int) -> np.ndarray:
    """Experts of every token of the whole layer, [tokens, top_k]."""
    if row.distribution == "balanced":
        stride = cdiv(row.experts, row.top_k)
        token = np.arange(row.tokens)[:, None]
        first = token if row.tokens >= stride else (token * stride / row.tokens)
        return np.asarray((first + stride * np.arange(row.top_k)) % row.experts).astype(np.int64)
    if row.distribution == "uniform":
        return np.random.default_rng(seed).random((row.tokens, row.experts)).argsort(axis=1)[:, :row.top_k]
    exponent = float(row.distribution.rpartition("_")[2])
    counts = (early_counts if row.early else expert_counts)(row.tokens, row.experts, row.top_k, row.ep, exponent, seed)
    order = np.argsort(-counts, kind="stable")
    chosen = np.repeat(order, counts[order]).reshape(row.top_k, row.tokens).T
    return _without_repeats(chosen.copy()) if row.early else chosen


def _local(row: MoeRow, chosen: np.ndarray) -> Routing:
    """The busiest rank's part."""
    local = row.experts // row.ep
    mine = chosen < local
    if implementation_of(row.framework, row.version)["remote_rows"] == "computed":
        here = mine.any(axis=1)
        ids = np.where(mine, chosen, 0)[here]
    else:
        ids = np.where(mine, chosen, -1)
    active, compact = np.unique(ids, return_inverse=True)
    without = int(active[0] < 0)
    return Routing(compact.reshape(ids.shape) - without, active[without:])


def routing_of(row: MoeRow, block: int) -> Routing:
    """The routing of one rank: of `DRAWS` draws the one whose experts in use and row blocks are nearest to the mean."""
    if row.distribution == "balanced":
        return _local(row, _chosen(row, 0))
    drawn = [_local(row, _chosen(row, seed)) for seed in range(DRAWS)]
    size = np.array([(r.active, row_blocks(r, block)) for r in drawn], float)
    return drawn[int(np.abs(size / size.mean(0) - 1).sum(1).argmin())]


def row_blocks(routing: Routing, block: int) -> int:
    """Row blocks after padding each expert to whole blocks."""
    flat = routing.experts_of.reshape(-1)
    return int((-(-np.bincount(flat[flat >= 0]) // block)).sum())


def align_pairs(routing: Routing, block: int, capacity_experts: int) -> tuple[np.ndarray, np.ndarray, int]:
    """As `kernels.moe.align`, for pairs that may be elsewhere (-1), and buffers for `capacity_experts`."""
    flat = routing.experts_of.reshape(-1)
    pairs = len(flat)
    capacity = cdiv(pairs + min(capacity_experts, pairs) * (block - 1), block) * block
    ids = np.full(capacity, pairs, np.int32)
    counts = np.bincount(flat[flat >= 0], minlength=routing.active)
    blocks = -(-counts // block)
    of_block = np.zeros(capacity // block, np.int32)
    used = int(blocks.sum()) * block
    of_block[:used // block] = np.repeat(np.arange(len(counts)), blocks)
    order = np.argsort(flat, kind="stable")[int((flat < 0).sum()):]
    start = np.cumsum(blocks * block) - blocks * block
    ids[np.repeat(start - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))] = order
    return ids, of_block, used


def read_rows(path: Any) -> list[MoeRow]:
    """Rows of a table of mixture-of-experts layers whose number format our kernels have and, where it says what ran, that Triton ran.

    Raises
    ------
    TableError
        A column is missing.
    """
    import pandas as pd

    frame = pd.read_csv(path, dtype={"version": str})
    names = ("framework", "version", "moe_dtype", "num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size",
             "moe_ep_size", "distribution", "latency_s")
    for name in names:
        if name not in frame.columns:
            raise TableError(f"{path}: no column {name!r}; it has {', '.join(map(str, frame.columns))}")
    frame = frame[frame.moe_dtype.isin(list(FORMATS))]
    if "kernel_source" in frame:
        source = frame.kernel_source.astype(str)
        frame = frame[source.str.contains("triton") | source.isin(TRITON_SOURCES)]
    return [MoeRow(*values) for values in frame[list(names)].itertuples(index=False, name=None)]


def has_tuned_file(row: MoeRow, system: System) -> bool:
    """Whether a tuned file ships for this GPU and shape, so that the framework's default does not apply."""
    return not row.fp8 and bool(is_tuned(system.name, row.experts // row.ep, row.inter // row.tp))


def default_of(row: MoeRow, tokens: int) -> Tile:
    """The framework's default tile for a call of `tokens`, as its version has it.

    vLLM up to 0.14 has SGLang's two tiles for 16 bits and takes them for fp8 as well, and one for scales by block (its
    ``get_default_config``).
    """
    library, fp8 = str(implementation_of(row.framework, row.version, row.moe_dtype)["library"]), row.fp8
    if row.early_vllm:
        library, fp8 = "sglang", row.block_scaled
    return default_tile(library, tokens, row.experts // row.ep, fp8=fp8, block_scaled=row.block_scaled)


def sample(rows: list[MoeRow], count: int) -> list[MoeRow]:
    """Every n-th row in order of format, tokens, experts, sizes and parallelism: each size class has its share."""
    order = sorted(rows, key=lambda r: (r.moe_dtype, r.tokens, r.experts, r.hidden, r.tp, r.ep, r.distribution, r.version, r.measured_s))
    if count >= len(order):
        return order
    return [order[int((n + 0.5) * len(order) / count)] for n in range(count)]


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
        drawn[seed, _local(row, _chosen(row, seed)).numbers] = True
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
    present = len(_local(row, _chosen(row, 0)).experts_of)
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
