"""Rebuilds kernels whose figures were published, from our own of the same algorithm and configs, and predicts their times.

What `published` reads from its data file comes here as one `Point`. Where the source autotunes, every config of its set is predicted and
the fastest counts, as it did for the source. What the method of timing adds to the kernel is what `tutorials` states for ``do_bench``,
which also clears a buffer before each launch, so that L2 writes while the kernel runs; for a fused op, the kernels around the GEMMs as
`triton_moe` has them; where the timed function casts its inputs first, kernels that move bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ..arch import System, load_gpu
from ..errors import KernelError, UnknownNameError
from ..mapping.gpu.machine import Machine
from ..mapping.gpu.memory_bound import memory_kernel
from ..mapping.gpu.moe_kernels import Tile, default_tile
from ..mapping.triton import Launch, bind_launch, compile_launch, occupancy_of
from ..sim.sm.result import KernelRun
from ..sim.sm.run import simulate_kernel
from . import triton_moe
from .kernels.suite import cdiv
from .moe_routing import routing_of
from .moe_rows import MoeRow
from .older_code import with_older_code
from .older_triton import ATTENTION_CONFIGS, MATMUL_CONFIGS, attention_name, name_of, older_version
from .tutorials import DO_BENCH_S

#: log2(e), which attention kernels fold into their scale.
_LOG2E: Final = 1.4426950408889634
#: Autotune sets of tutorial 03 by year: BLOCK_M, BLOCK_N, BLOCK_K, stages, warps; that of 2023 has no configs for fp8 yet.
TUTORIAL_CONFIGS: Final = {"tutorial-2024": tuple(MATMUL_CONFIGS), "tutorial-2023": tuple(MATMUL_CONFIGS[:8])}


@dataclass(frozen=True)
class Point:
    """One published figure.

    Attributes
    ----------
    name
        Of its set.
    gpu, override
        Device file, and what the machine has otherwise.
    kernel, method
        How it is rebuilt, and how it was timed, as the data file explains.
    label
        What varies within the set, in words: with `name` it tells the point from all others.
    sizes
        Everything else of the row and its set: sizes, number format, config.
    measured_s
        Seconds.
    triton
        Version of Triton that compiled it, where the source tells it and its code differs from later ones'; else ``""``.
    """

    name: str
    gpu: str
    override: tuple[tuple[str, float], ...]
    kernel: str
    method: str
    label: str
    sizes: Mapping[str, Any]
    measured_s: float
    triton: str = ""

    def system(self) -> System:
        """The machine."""
        return _system(self.gpu, self.override)


@dataclass(frozen=True)
class Prediction:
    """Seconds of a point as its method sees them.

    Attributes
    ----------
    time_s
        With what the method adds.
    config
        The config, or the fastest predicted of the set.
    limiter
        What limits the kernel, or each of the two GEMMs.
    runs
        The simulations that `time_s` rests on.
    triton
        Version of Triton that compiled it, where that is not the installed one; else ``""``.
    """

    time_s: float
    config: tuple[int, ...]
    limiter: str
    runs: tuple[KernelRun, ...]
    triton: str = ""


@lru_cache(maxsize=64)
def _system(gpu: str, override: tuple[tuple[str, float], ...]) -> System:
    return load_gpu(gpu).override(dict(override)) if override else load_gpu(gpu)


#: A config and its launch.
Candidate = tuple[tuple[int, ...], Launch]


def _meta(*shape: int, dtype: str) -> Any:
    import torch

    return torch.empty(*shape, dtype=getattr(torch, dtype), device="meta")


def _matmul_tutorial(z: Mapping[str, Any], system: System) -> Iterator[Candidate]:
    """Tutorial 03: one tile a program, row-major operands."""
    from .kernels.gemm import matmul
    from .kernels.published import matmul_fp32

    m, n, k, dtype = int(z["m"]), int(z["n"]), int(z["k"]), str(z["dtype"])
    a, b = _meta(m, k, dtype=dtype), _meta(k, n, dtype=dtype)
    c = _meta(m, n, dtype="float32" if dtype == "float32" else "float16")
    for config in TUTORIAL_CONFIGS[str(z["configs"])]:
        block_m, block_n, block_k, stages, warps = config
        meta = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "num_warps": warps, "num_stages": stages}
        grid, strides = (cdiv(m, block_m) * cdiv(n, block_n),), (k, 1, n, 1, n, 1)
        if dtype == "float32":
            yield config, bind_launch(matmul_fp32, grid, (a, b, c, m, n, k, *strides), meta, target=system.generation)
        else:
            flags = {**meta, "INT8": False, "SCALED": False}
            yield config, bind_launch(matmul, grid, (a, b, c, a, a, m, n, k, *strides), flags, target=system.generation)


def _matmul_variant(z: Mapping[str, Any], system: System) -> Iterator[Candidate]:
    """Tutorial 09: B [n, k], plain, persistent or persistent on tensor descriptors."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    from .kernels import gemm

    m, n, k, variant = int(z["m"]), int(z["n"]), int(z["k"]), str(z["variant"])
    block_m, block_n, block_k, group, warps, stages = config = tuple(int(v) for v in z["config"])
    a, b, c = _meta(m, k, dtype=z["dtype"]), _meta(n, k, dtype=z["dtype"]), _meta(m, n, dtype=z["out_dtype"])
    meta: dict[str, Any] = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": group, "num_warps": warps,
                            "num_stages": stages}
    tiles, strides = cdiv(m, block_m) * cdiv(n, block_n), (k, 1, 1, k, n, 1)
    programs = min(tiles, int(system.gpu.sm.count))
    if variant == "plain":
        flags = {**meta, "INT8": False, "SCALED": False}
        yield config, bind_launch(gemm.matmul, (tiles,), (a, b, c, a, a, m, n, k, *strides), flags, target=system.generation)
        return
    meta["PROGRAMS"] = programs
    if variant == "persistent":
        yield config, bind_launch(gemm.matmul_persistent, (programs,), (a, b, c, m, n, k, *strides), meta, target=system.generation)
        return
    descriptors = [TensorDescriptor.from_tensor(t, list(box)) for t, box in
                   ((a, (block_m, block_k)), (b, (block_n, block_k)), (c, (block_m, block_n)))]
    yield config, bind_launch(gemm.matmul_tma, (programs,), (*descriptors, m, n, k), meta, target=system.generation)


def _attention_tutorial(z: Mapping[str, Any], system: System) -> Iterator[Candidate]:
    """Tutorial 06 of 2025 and its autotune set: 8 warps on Hopper for tiles of 128x128 alone, registers capped where warps specialise.

    Warps that specialise are slow to follow, so that of their set only tiles of 128 rows and 4 warps are tried: with 8 warps none fits.
    """
    from triton.tools.tensor_descriptor import TensorDescriptor

    from .kernels.published import attention_tma

    n, dim, heads = int(z["n"]), int(z["head_dim"]), int(z["batch"]) * int(z["heads"])
    special = bool(z["warp_specialised"])
    q, k, v, out = (_meta(heads * n, dim, dtype=z["dtype"]) for _ in range(4))
    lse = _meta(heads * n, dtype="float32")
    for block_m, block_n, stages, warps in itertools.product((64, 128), (32, 64, 128), (2, 3, 4), (4, 8)):
        if system.generation == "sm_90" and block_m * block_n < 128 * 128 and warps == 8:
            continue
        if special and (block_m, warps) != (128, 4):
            continue
        boxes = [TensorDescriptor.from_tensor(t, [rows, dim]) for t, rows in ((q, block_m), (k, block_n), (v, block_n), (out, block_m))]
        meta: dict[str, Any] = {"HEAD_DIM": dim, "BLOCK_M": block_m, "BLOCK_N": block_n, "SPECIALISED": special, "num_warps": warps,
                                "num_stages": stages}
        if special:
            meta["maxnreg"] = 168
        args = (*boxes, lse, dim**-0.5 * _LOG2E, n)
        yield (block_m, block_n, warps, stages), bind_launch(attention_tma, (n // block_m, heads), args, meta, target=system.generation)


def _attention_pointers(z: Mapping[str, Any], system: System) -> Iterator[Candidate]:
    """Tutorial 06 of 2023: 128x64 with 4 warps and 4 stages, or what it took on Hopper: 8 warps and 7 stages."""
    from .kernels.attention import flash_attention

    n, dim, heads = int(z["n"]), int(z["head_dim"]), int(z["batch"]) * int(z["heads"])
    q, k, v, out = (_meta(heads, n, dim, dtype=z["dtype"]) for _ in range(4))
    for warps, stages in ((4, 4), (8, 7)):
        meta = {"GROUP": 1, "HEAD_DIM": dim, "BLOCK_M": 128, "BLOCK_N": 64, "CAUSAL": bool(z["causal"]), "WINDOWED": False,
                "num_warps": warps, "num_stages": stages}
        args = (q, k, v, out, dim**-0.5 * _LOG2E, n, n, 0, *(n * dim, dim) * 4)
        yield (128, 64, warps, stages), bind_launch(flash_attention, (cdiv(n, 128), heads), args, meta, target=system.generation)


def _attention_tiles(z: Mapping[str, Any], system: System) -> Iterator[Candidate]:
    """Tutorial 06 of 2024, by block pointers, and the autotune set that the source names."""
    from .kernels.published import attention_tiles

    n, dim, heads, dtype = int(z["n"]), int(z["head_dim"]), int(z["batch"]) * int(z["heads"]), str(z["dtype"])
    fp8 = dtype.startswith("float8")
    q, k = (_meta(heads, n, dim, dtype=dtype) for _ in range(2))
    v = _meta(heads, dim, n, dtype=dtype) if fp8 else _meta(heads, n, dim, dtype=dtype)
    out, lse = _meta(heads, n, dim, dtype="float16" if fp8 else dtype), _meta(heads, n, dtype="float32")
    for config in ATTENTION_CONFIGS[str(z["configs"])]:
        block_m, block_n, warps, stages = config
        if block_n > dim:
            continue
        meta = {"HEAD_DIM": dim, "BLOCK_M": block_m, "BLOCK_N": block_n, "CAUSAL": bool(z["causal"]), "V_BY_COLUMNS": fp8,
                "BLOCK_POINTERS": False, "num_warps": warps, "num_stages": stages}
        args = (q, k, v, out, lse, dim**-0.5 * _LOG2E, n)
        yield config, bind_launch(attention_tiles, (n // block_m, heads), args, meta, target=system.generation)


def _row_block(columns: int) -> tuple[int, int]:
    """One block for a whole row, and the warps that Liger-Kernel's ``calculate_settings`` gives it."""
    block = 1 << (columns - 1).bit_length()
    return block, next(warps for limit, warps in ((32768, 32), (8192, 16), (2048, 8), (0, 4)) if block >= limit)


def _norm(z: Mapping[str, Any], system: System, *, bias: bool) -> Iterator[Candidate]:
    from .kernels.rows import layer_norm, rms_norm

    rows, columns = int(z["rows"]), int(z["columns"])
    block, warps = _row_block(columns)
    x, out = (_meta(rows, columns, dtype=z["dtype"]) for _ in range(2))
    weights = [_meta(columns, dtype=z["dtype"]) for _ in range(2 if bias else 1)]
    args = (x, *weights, out, columns, columns, 1e-6)
    yield (block, warps), bind_launch(layer_norm if bias else rms_norm, (rows,), args, {"BLOCK": block, "num_warps": warps},
                                      target=system.generation)


def _cross_entropy(z: Mapping[str, Any], system: System) -> Iterator[Candidate]:
    from .kernels.published import cross_entropy

    rows, columns = int(z["rows"]), int(z["columns"])
    block = min(32768, 1 << (columns - 1).bit_length())
    args = (_meta(rows, columns, dtype=z["dtype"]), _meta(rows, dtype="int64"), _meta(rows, dtype="float32"), columns, columns, rows)
    yield (block, 32), bind_launch(cross_entropy, (rows,), args, {"BLOCK": block, "num_warps": 32}, target=system.generation)


def _grouped_gemm(z: Mapping[str, Any], system: System) -> Iterator[Candidate]:
    """The up projection alone, without a gate, weighted, as the source calls the kernel."""
    row, tile = _moe_row(z), _moe_tile(z)
    routing = routing_of(row, int(tile.m))
    sizes = (row.inter, row.hidden, row.top_k)
    yield _numbers(tile), triton_moe.grouped_gemm(row, routing, tile, system, sizes, True)


#: Launches of a point, one for each config.
KERNELS: Final[Mapping[str, Callable[[Mapping[str, Any], System], Iterator[Candidate]]]] = {
    "matmul_tutorial": _matmul_tutorial,
    "matmul_variant": _matmul_variant,
    "attention_tutorial": _attention_tutorial,
    "attention_pointers": _attention_pointers,
    "attention_tiles": _attention_tiles,
    "rms_norm": lambda z, system: _norm(z, system, bias=False),
    "layer_norm": lambda z, system: _norm(z, system, bias=True),
    "cross_entropy": _cross_entropy,
    "grouped_gemm": _grouped_gemm,
}
#: Names that `older_triton` gives the kernels of a point, by its sizes and the config.
OLDER_NAMES: Final[Mapping[str, Callable[[Mapping[str, Any], tuple[int, ...]], str]]] = {
    "matmul_tutorial": lambda z, config: name_of(str(z["dtype"]), config),
    "attention_tiles": lambda z, config: attention_name(str(z["dtype"]), int(z["head_dim"]), bool(z["causal"]), config),
}
#: Ops of several kernels.
OPS: Final = ("fused_moe",)


def _moe_row(z: Mapping[str, Any]) -> MoeRow:
    # benchmark_moe of vLLM and SGLang replays one draw
    return MoeRow("vllm", "", {"fp8_e4m3": "fp8"}.get(str(z["dtype"]), str(z["dtype"])), int(z["tokens"]), int(z["hidden"]),
                             int(z["inter"]), int(z["top_k"]), int(z["experts"]), 1, 1, "uniform", 0.0, in_turn=1)


def _numbers(tile: Tile) -> tuple[int, ...]:
    return tuple(int(v) for v in (tile.m, tile.n, tile.k, tile.group, tile.warps, tile.stages))


def _moe_tile(z: Mapping[str, Any]) -> Tile:
    """The printed config, or vLLM's default of that time: from February 2026 that of `default_tile`."""
    config, tokens, experts = z["config"], int(z["tokens"]), int(z["experts"])
    if config == "vllm-2026":
        return default_tile("vllm", tokens, experts, fp8=z["dtype"] == "fp8_e4m3")
    if config == "vllm-2025":
        return Tile(16, 32, 64, 1, 4, 3) if tokens <= experts else Tile(64, 64, 32, 8, 4, 3)
    return Tile(*config)


def _method_s(run: KernelRun, method: str) -> float:
    """Seconds that the method shows for one kernel."""
    return run.time_s - run.launch_s + DO_BENCH_S if method == "do_bench" else run.time_s


def _casts_s(z: Mapping[str, Any], system: System) -> float:
    """Seconds of the casts of q, k and v to another format of 16 bits that the timed function makes first (``cast_from``)."""
    if "cast_from" not in z:
        return 0.0
    tensor_bytes = 2.0 * int(z["batch"]) * int(z["heads"]) * int(z["n"]) * int(z["head_dim"])
    return 3.0 * float(memory_kernel(Machine.of(system), tensor_bytes, tensor_bytes).time_s)


def predict(point: Point, *, fidelity: str = "tile", system: System | None = None,
            cubins: Sequence[Path] = ()) -> Prediction:
    """Seconds of one point.

    Parameters
    ----------
    point
        What was measured.
    fidelity
        As `simulate_kernel` takes it.
    system
        In place of the point's own machine (to ask what a constant does).
    cubins
        Folders that `older_triton` wrote: kernels of points whose Triton is that of a folder are taken from it.

    Raises
    ------
    KernelError
        No config of the set fits an SM.
    UnknownNameError
        A kernel of the data file that is not known here.
    """
    machine = system or point.system()
    if point.kernel == "fused_moe":
        found = triton_moe.predict_row(_moe_row(point.sizes), machine, fidelity=fidelity, tile=_moe_tile(point.sizes))
        return Prediction(found.time_s, found.tile, found.limiter, found.runs)
    if point.kernel not in KERNELS:
        raise UnknownNameError("kernel of published figures", point.kernel, [*KERNELS, *OPS])
    best: Prediction | None = None
    casts_s = _casts_s(point.sizes, machine)
    older = next((folder for folder in cubins if point.kernel in OLDER_NAMES and older_version(folder) == point.triton), None)
    for config, launch in KERNELS[point.kernel](point.sizes, machine):
        compiled = compile_launch(launch)
        if older is not None:
            compiled = with_older_code(compiled, older, OLDER_NAMES[point.kernel](point.sizes, config))
        if occupancy_of(compiled, machine).ctas == 0:
            continue
        run = simulate_kernel(compiled, launch, machine, fidelity=fidelity, dirty_l2=point.method == "do_bench")
        time_s = casts_s + _method_s(run, point.method)
        if best is None or time_s < best.time_s:
            best = Prediction(time_s, config, run.limiter, (run,), point.triton if older is not None else "")
    if best is None:
        raise KernelError(f"{point.name} {point.label}: no config fits an SM of {machine.name}")
    return best
