"""What GEMM libraries choose from, and how the measured tables called them."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Tiles (rows, columns of C per CTA) among which the library chooses, each with the split-K factors tried.
CANDIDATES: tuple[tuple[int, int, tuple[int, ...]], ...] = (
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

#: How the tile is chosen; see `gemm`.
LIBRARIES: tuple[str, ...] = ("best", "cutlass_sm89")

#: Weights through which the measured tables cycle before they meet the same one again (AIConfigurator collectors).
TABLE_WEIGHT_COPIES = 6.0


def cutlass_tiles(m: Any, n: Any) -> tuple[Any, Any, Any]:
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


def table_options(gemm_dtype: str, kernel_source: str, generation: str) -> dict[str, Any]:
    """Options of `gemm` that say how a row of the measured tables was taken (AIConfigurator collectors, commit
    095f58a).

    Weights cycle through `TABLE_WEIGHT_COPIES`, but block-scaled and 4-bit formats in vLLM use one. Narrow
    activations are made from bf16 by a kernel that is inside the measured call. On sm_89, fp8 runs vLLM's CUTLASS
    kernels.
    """
    options: dict[str, Any] = {"weight_copies": TABLE_WEIGHT_COPIES}
    if gemm_dtype in ("bfloat16", "float16") or gemm_dtype.endswith("_wo"):
        return options
    options["quantise_from_bits"] = 16.0
    if gemm_dtype in ("fp8_block", "nvfp4") and kernel_source == "vllm_default":
        options["weight_copies"] = 1.0
    if gemm_dtype == "fp8" and generation == "sm_89" and kernel_source != "torch_flow":
        options["library"] = "cutlass_sm89"
    return options
