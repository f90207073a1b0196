"""What GEMM libraries choose from, and how the measured tables called them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

Candidates = tuple[tuple[int, int, tuple[int, ...]], ...]
Tile = tuple[Any, Any, Any]
Rule = Callable[[Any, Any, Any, Any], Tile]

#: Elements of k per scale of block-scaled operands.
PROMOTED_K: Final = 128.0

#: Tiles (rows, columns of C per CTA) among which the library chooses, each with the split-K factors tried.
CANDIDATES: Candidates = (
    (256, 128, (1,)),
    (128, 256, (1,)),
    (128, 128, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)),
    (64, 256, (1,)),
    (128, 64, (1,)),
    (64, 128, (1,)),
    (64, 64, (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)),
    (32, 64, (1,)),
    (16, 64, (1, 2, 4, 8)),  # operands swapped: the eight or sixteen columns that one tensor instruction takes
)

#: The same tiles, never dividing k.
WHOLE_K: Final[Candidates] = tuple((m, n, (1,)) for m, n, _ in CANDIDATES)

#: The same tiles, dividing k by at most seven (TensorRT-LLM, SPLIT_K_LIMIT of its CUTLASS extensions).
SPLIT_BY_SEVEN: Final[Candidates] = tuple((m, n, tuple(s for s in splits if s <= 7)) for m, n, splits in CANDIDATES)

#: Weights through which the measured tables cycle before they meet the same one again (AIConfigurator collectors).
TABLE_WEIGHT_COPIES = 6.0


def cutlass_sm89(m: Any, n: Any, k: Any, sm_count: Any) -> Tile:
    """Tile that vLLM's CUTLASS 2.x fp8 dispatch for sm_89 takes by powers of two of m and n; it never splits k.

    Source: vLLM, ``csrc/quantization/w8a8/cutlass/scaled_mm_c2x_sm89_fp8_dispatch.cuh``.
    """
    m, n = np.broadcast_arrays(m, n)
    wide = (n > 8192) & (n <= 16384)
    tile_m = np.select(
        [m <= 32, m <= 64, m <= 128, m <= 256],
        [32.0, 64.0, np.where(n <= 8192, 64.0, 128.0), np.where(n <= 4096, 64.0, 128.0)],
        np.where((n > 4096) & (n <= 8192), 256.0, 128.0),
    )
    tile_n = np.select([m <= 64, m <= 128], [np.where(wide, 128.0, 64.0), np.where(n <= 16384, 128.0, 64.0)], 128.0)
    return tile_m, tile_n, np.ones(m.shape)


def vllm_sm90(m: Any, n: Any, k: Any, sm_count: Any) -> Tile:
    """Tile of vLLM's CUTLASS 3.x fp8 dispatch for sm_90; up to 64 rows the operands are swapped.

    Source: vLLM, ``csrc/quantization/w8a8/cutlass/c3x/scaled_mm_sm90_fp8_dispatch.cuh``.
    """
    m, n, k = np.broadcast_arrays(m, n, k)
    tile_m = np.select([m <= 16, m <= 64, m <= 128, (m >= 8192) & (k >= 6144)], [16.0, np.where(n <= 1280, 16.0, 64.0), 64.0, 256.0], 128.0)
    return tile_m, np.where(m <= 64, 64.0, 128.0), np.ones(m.shape)


def vllm_sm100(m: Any, n: Any, k: Any, sm_count: Any) -> Tile:
    """Tile per CTA of vLLM's CUTLASS 3.x fp8 dispatch for sm_100; up to 64 rows the operands are swapped.

    Source: vLLM, ``csrc/quantization/w8a8/cutlass/c3x/scaled_mm_sm100_fp8_dispatch.cuh``.
    """
    m, n, k = np.broadcast_arrays(m, n, k)
    plain = (m == 64) & (k < 4096)
    tile_m = np.select([m <= 16, m <= 64, m <= 256], [32.0, 64.0, 64.0], 128.0)
    return tile_m, np.where(plain, 64.0, 128.0), np.ones(m.shape)


def sglang_sm90(m: Any, n: Any, k: Any, sm_count: Any) -> Tile:
    """Tile of SGLang's CUTLASS 3.x fp8 dispatch for sm_90.

    Source: SGLang, ``sgl-kernel/csrc/gemm/fp8_gemm_kernel.cu``, sm90_fp8_dispatch_shape.
    """
    m, n = np.broadcast_arrays(m, n)
    tile_m = np.where(m <= 256, 64.0, 128.0)
    return tile_m, np.where(m <= 256, 64.0, 128.0), np.ones(m.shape)


def sglang_sm100(m: Any, n: Any, k: Any, sm_count: Any) -> Tile:
    """Tile per CTA of SGLang's CUTLASS 3.x fp8 dispatch for sm_100: two CTAs share a tile above 64 rows.

    Source: SGLang, ``sgl-kernel/csrc/gemm/fp8_gemm_kernel.cu``, sm100_fp8_dispatch_bias.
    """
    m, n = np.broadcast_arrays(m, n)
    tile_m = np.select([m <= 64, m <= 256], [64.0, 64.0], 128.0)
    return tile_m, np.where(m <= 64, 64.0, 128.0), np.ones(m.shape)


def deep_gemm(m: Any, n: Any, k: Any, sm_count: Any) -> Tile:
    """Tile that DeepGEMM takes: fewest rounds of CTAs, then the fullest last round, then the smaller tile; it never splits k.

    Source: DeepGEMM, ``csrc/jit_kernels/heuristics/common.hpp``, get_best_config.
    """
    m, n, sm_count = np.broadcast_arrays(m, n, sm_count)
    tile_m, tile_n = np.full(m.shape, 64.0), np.full(m.shape, 16.0)
    best = np.full(m.shape, -np.inf)
    for rows in (64.0, 128.0):
        for columns in range(16, 257, 16):
            if rows > 64.0 and columns > 192:
                continue  # float32 accumulators and their promotion do not fit the registers
            ctas = np.ceil(m / rows) * np.ceil(n / columns)
            rounds = np.ceil(ctas / sm_count)
            score = np.where((rows > 64.0) & (m <= 64), -np.inf, ctas - rounds * sm_count - rounds * 1e6)
            better = score > best
            best = np.where(better, score, best)
            tile_m, tile_n = np.where(better, rows, tile_m), np.where(better, columns, tile_n)
    return tile_m, tile_n, np.ones(m.shape)


#: Constant of main loops of kernels that never divide k.
WHOLE: Final = "gemm.whole_latencies"


class Library(NamedTuple):
    """How a library's kernels are chosen, and what of their main loop is their own.

    Attributes
    ----------
    tiles
        What it chooses from by time, or its rule on the sizes.
    latencies
        Constant: DRAM latencies per 64 16-bit elements of k in a main loop that one CTA runs alone.
    promoted
        Accumulators pass through the fp32 lanes for every `PROMOTED_K` elements of k, as scales differ from block to block.
    epilogue
        Nothing hides the epilogue of a round of CTAs, which is long.
    rows_by_dot
        Rows of A up to which dot products on the vector lanes, whose warps share k, take the place of the tensor cores.
    widening
        Constant: operations on the vector lanes per weight that a tile reads, to widen it.
    """

    tiles: Candidates | Rule
    latencies: str = "gemm.serial_latencies"
    promoted: bool = False
    epilogue: bool = False
    rows_by_dot: float = 0.0
    widening: str = "gemm.dequantise_ops"


#: How the tile is chosen, by name; see `gemm`.
LIBRARIES: Final[Mapping[str, Library]] = {
    "best": Library(CANDIDATES),
    "whole_k": Library(WHOLE_K, WHOLE),
    "cutlass_sm89": Library(cutlass_sm89, epilogue=True),
    "sglang_sm89": Library(cutlass_sm89, WHOLE),
    "vllm_sm90": Library(vllm_sm90, WHOLE),
    "vllm_sm100": Library(vllm_sm100, WHOLE),
    "sglang_sm90": Library(sglang_sm90, WHOLE),
    "sglang_sm100": Library(sglang_sm100, WHOLE),
    "deep_gemm_sm90": Library(deep_gemm, WHOLE, promoted=True),
    "deep_gemm_sm100": Library(deep_gemm, WHOLE),
    "block_scaled": Library(WHOLE_K, WHOLE, promoted=True),
    "weight_only": Library(SPLIT_BY_SEVEN, "gemm.mixed_latencies", rows_by_dot=15.0, widening="gemm.mixed_ops"),
    "fp4": Library(WHOLE_K, "gemm.fp4_latencies"),
    "fp4_default": Library(((128, 256, (1,)),), "gemm.untuned_latencies"),
}


#: Library whose kernel a table's ``kernel_source`` names, where the table has no ``framework``.
_SOURCES: Final = {"sglang": "sglang", "torch_flow": "trtllm", "trt_flow": "trtllm", "vllm_default": "vllm"}

#: Formats that TensorRT-LLM hands to cuBLAS.
_CUBLAS: Final = ("bfloat16", "float16", "fp8")

#: fp8 kernels with one scale per row and column, by library and generation.
_SCALED: Final[Mapping[tuple[str, str], str]] = {
    ("vllm", "sm_89"): "cutlass_sm89",
    ("vllm", "sm_90"): "vllm_sm90",
    ("vllm", "sm_100"): "vllm_sm100",
    ("sglang", "sm_89"): "sglang_sm89",
    ("sglang", "sm_90"): "sglang_sm90",
    ("sglang", "sm_100"): "sglang_sm100",
}


def table_options(gemm_dtype: str, kernel_source: str, generation: str, framework: str = "", version: str = "") -> dict[str, Any]:
    """Options of `gemm` that say how a row of the measured tables was taken (AIConfigurator, ``collector/*/collect_gemm*.py`` up to
    release 0.7.0).

    Parameters
    ----------
    gemm_dtype, kernel_source
        As in the table.
    generation
        Of the GPU, ``"sm_90"``.
    framework, version
        ``"vllm"``, ``"sglang"`` or ``"trtllm"``, and its release; empty: the library is told by `kernel_source`. One that is not known
        means the general case: the fastest tile, after one kernel that narrows the activation.

    Notes
    -----
    Narrow activations are made from bf16 by kernels inside the measured call (`quantise.QUANTISERS`). Weights cycle through
    `TABLE_WEIGHT_COPIES`. Different are: vLLM's block-scaled formats on Blackwell, with one weight, and in fp8 without a CUDA graph;
    TensorRT-LLM's plug-ins (``trt_flow``), which TensorRT's profiler times once, after three large products; SGLang's ``int8_wo``,
    whose activations are int8 too; and TensorRT-LLM from 1.1 on Blackwell, whose calls of cuBLAS
    overlap at their ends, as the shorter floors of two GPUs say.
    """
    known = next((name for start, name in _SOURCES.items() if kernel_source.startswith(start)), "")
    library = framework.lower() if framework.lower() in _SOURCES.values() else known
    options: dict[str, Any] = {"weight_copies": TABLE_WEIGHT_COPIES}
    if gemm_dtype in _CUBLAS and generation == "sm_100" and library == "trtllm" and version and not version.startswith(("0.", "1.0")):
        options["overlapped"] = True
    if gemm_dtype in ("bfloat16", "float16"):
        return options
    if gemm_dtype == "int8_wo" and library == "sglang":
        return options | {"arithmetic": "int8", "a_bits": 8.0, "dequantise": False, "quantiser": "torch_row", "library": "whole_k"}
    if gemm_dtype.endswith("_wo"):
        return options | ({"library": "weight_only", "weight_copies": float("inf"), "timed": "alone"} if library == "trtllm" else {})
    if gemm_dtype.startswith("w"):  # wide activations
        return options
    if gemm_dtype == "nvfp4":
        copies = {"weight_copies": 1.0} if library == "vllm" else {}
        return options | copies | {"quantiser": "group", "library": "fp4_default" if library == "trtllm" else "fp4"}
    if gemm_dtype == "fp8_block":
        deep = {"sm_90": "deep_gemm_sm90", "sm_100": "deep_gemm_sm100"}.get(generation, "block_scaled")
        options |= {"quantiser": "torch_group" if library == "vllm" else "group", "library": deep}
        if generation == "sm_100" and library == "vllm":
            return options | {"timed": "eager", "weight_copies": 1.0}
        return options | ({"quantiser": "group_and_weight_scales"} if generation == "sm_100" and library == "sglang" else {})
    if gemm_dtype == "fp8" and library in ("vllm", "sglang"):
        own = "row" if library == "sglang" else "torch_tensor" if kernel_source == "vllm_default" else "vllm_rows"
        return options | {"quantiser": own, "library": _SCALED.get((library, generation), "whole_k")}
    return options | {"quantiser": "trtllm_tensor" if gemm_dtype == "fp8" and library == "trtllm" else "group"}


def table_weight_copies(frameworks: Any, versions: Any, dtypes: Any) -> list[str]:
    """Distinct weights through which each row of a table cycled, where that is not what `table_options` says, else empty.

    The collector that still measured ``int8_wo`` for SGLang called one layer again and again: its tables meet one weight.
    """
    rows = list(zip((str(f).lower() for f in frameworks), map(str, versions), map(str, dtypes), strict=True))
    older = {(framework, version) for framework, version, dtype in rows if framework == "sglang" and dtype == "int8_wo"}
    return ["1" if (framework, version) in older else "" for framework, version, _ in rows]
