"""What public software says of the MoE kernels: default tiles, tuned shapes, and how tables were recorded.

Sources: ``get_default_config`` and the file names under ``configs`` in sgl-project/sglang (0.5,
``srt/layers/moe/moe_runner/triton_utils``) and vllm-project/vllm (0.14 and 0.24, ``model_executor/layers/fused_moe``); the MoE
collectors of ai-dynamo/aiconfigurator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ...errors import UnknownNameError
from .machine import Number


@dataclass(frozen=True)
class Tile:
    """Block sizes of the Triton kernel, its group of row blocks, warps and pipeline stages; numbers or arrays."""

    m: Number
    n: Number
    k: Number
    group: Number
    warps: Number
    stages: Number


#: Libraries whose tiles are known; vLLM up to 0.14 has other defaults than 0.24.
LIBRARIES: Final = ("sglang", "vllm", "vllm-0.14", "trtllm-1.0", "trtllm")

#: Frameworks whose MoE tables are known.
FRAMEWORKS: Final = ("sglang", "vllm", "trtllm")

#: First version of each framework whose tables were drawn by the collector that spreads what rounding leaves over.
_SPREADS_FROM: Final = {"sglang": [0, 5, 9], "vllm": [0, 17], "trtllm": [1, 3]}

_FLASHINFER: Final = ("flashinfer_cutlass_fused_moe", "sglang_flashinfer_cutedsl_moe")

#: Kernels that choose the top-k experts: in the library's layer, and called one by one with copies of their results.
ROUTER_KERNELS: Final = {"sglang": 1.0, "vllm": 4.0, "vllm-0.14": 4.0, "separate": 3.0}

#: Tiles (BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, warps, stages) that stand for what tuning finds.
TUNED_TILES: Final = (
    (16, 32, 128, 1, 4, 4),
    (16, 64, 128, 1, 4, 4),
    (32, 64, 128, 1, 4, 3),
    (64, 64, 128, 8, 4, 3),
    (64, 128, 64, 8, 4, 3),
    (128, 128, 64, 16, 8, 3),
    (128, 256, 64, 16, 8, 3),
)

#: (experts of the rank, intermediate size of the rank) for which a tuned 16-bit file ships, by device name.
TUNED_SHAPES: Final[dict[str, frozenset[tuple[int, int]]]] = {
    "a100-sxm-80gb": frozenset(
        [(1, n) for n in (1792, 3584, 7168, 14336)]
        + [(8, n) for n in (1792, 2048, 3584, 4096, 7168)]
        + [(16, 1344), (16, 2688)]
    ),
    "l40s": frozenset([(8, 3584), (128, 928), (128, 1856)]),
    "h100-sxm": frozenset(
        [(8, n) for n in (1792, 2048, 3584, 4096, 7168)]
        + [(16, 1344), (16, 1856), (16, 2688), (64, 192), (64, 640), (64, 1280), (64, 1536), (64, 1856)]
        + [(32, n) for n in (224, 448, 896, 928, 1792, 1856)]
        + [(128, n) for n in (192, 232, 352, 384, 464, 704, 768, 928, 1344, 1856, 2688)]
        + [(256, n) for n in (672, 1344, 2688)]
        + [(512, n) for n in (64, 128, 336, 672, 1344, 2688)]
    ),
    "h200-sxm": frozenset(
        [(8, n) for n in (1792, 2048, 3584, 4096, 7168, 14336)]
        + [(20, 1536), (32, 1792), (128, 192), (128, 384), (128, 1024), (256, 128), (512, 64), (512, 128), (512, 256)]
    ),
    "b200": frozenset(
        [(16, 1856), (16, 2048), (64, 192), (64, 464), (64, 1536), (64, 1856), (64, 2688)]
        + [(32, n) for n in (224, 448, 896, 928, 1792, 1856)]
        + [(128, n) for n in (232, 352, 464, 704, 928, 1344, 1856, 2688)]
        + [(256, n) for n in (256, 512, 672, 1344, 2688)]
        + [(512, n) for n in (128, 256, 336, 672, 1344, 2688)]
    ),
}


#: The same for vLLM 0.14, which ships its own files.
TUNED_VLLM: Final[dict[str, frozenset[tuple[int, int]]]] = {
    "a100-sxm-80gb": frozenset(
        [(1, n) for n in (1792, 3584, 7168, 14336)] + [(8, n) for n in (1792, 2048, 3584, 4096, 7168)]
        + [(16, n) for n in (1344, 1792, 2688, 3584, 7168, 14336)] + [(64, 640), (64, 1280), (128, 192), (512, 64), (512, 128)]
    ),
    "l40s": frozenset([(8, 3584), (128, 928), (128, 1856)]),
    "h100-sxm": frozenset(
        [(8, n) for n in (1792, 2048, 3584, 4096, 7168)] + [(16, n) for n in (1344, 1792, 2688)]
        + [(64, n) for n in (320, 640, 1280)] + [(128, n) for n in (192, 512, 928, 1856)]
        + [(1, 3072), (256, 512), (512, 128), (512, 256), (512, 512)]
    ),
    "h200-sxm": frozenset(
        [(8, n) for n in (1792, 2048, 3584, 4096, 7168, 14336)] + [(64, n) for n in (320, 640, 1280, 2560)]
        + [(128, n) for n in (192, 384, 768, 1024)] + [(16, 1024), (16, 2048)] + [(512, n) for n in (64, 128, 256, 512)]
    ),
    "b200": frozenset([(16, 1024), (32, 1408), (64, 1408), (128, 768)] + [(512, n) for n in (64, 128, 256, 512)]),
}

#: The same for fp8 with one scale per tensor.
TUNED_FP8: Final[dict[str, frozenset[tuple[int, int]]]] = {
    "h100-sxm": frozenset([(8, n) for n in (2048, 3584, 4096, 7168, 8192, 14336)] + [(64, n) for n in (320, 640, 1280, 2560)]),
    "h200-sxm": frozenset(
        [(8, n) for n in (1792, 2048, 3584, 4096, 7168, 8192, 14336)] + [(64, n) for n in (320, 640, 1280, 2560)]
        + [(16, 1024), (16, 2048), (128, 512), (128, 1024), (160, 192)]
    ),
}


def is_tuned(
    device: str, experts: Number, inter_size: Number, *, fp8: bool = False, library: str = "sglang"
) -> np.ndarray:
    """Whether a tuned file ships for this GPU and the rank's share of experts and intermediate size.

    Examples
    --------
    >>> is_tuned("a100-sxm-80gb", 8, [7168, 14336]).tolist()
    [True, False]
    """
    files = TUNED_FP8 if fp8 else TUNED_VLLM if library == "vllm-0.14" else TUNED_SHAPES
    e, n = np.broadcast_arrays(np.asarray(experts, float), np.asarray(inter_size, float))
    known = np.array([x * 65536.0 + y for x, y in sorted(files.get(device, ()))])
    return np.isin(e * 65536.0 + n, known)


def tile_steps(library: str, experts: Number) -> tuple[Number, ...]:
    """Numbers of tokens above which the library's default tile changes."""
    return (experts,) if library != "vllm" else (16, 32, 64, 96, 128, 512, 128 * np.asarray(experts, float))


def default_tile(
    library: str, tokens: Number, experts: Number, *, fp8: bool = False, block_scaled: bool = False
) -> Tile:
    """Tile that the library takes where no tuned file exists for the shape and GPU.

    Parameters
    ----------
    library
        ``"sglang"``, ``"vllm"`` or ``"vllm-0.14"`` (the default of vLLM up to that version).
    tokens, experts
        Tokens of the call and experts held by the rank.
    fp8, block_scaled
        fp8 weights and activations; with one scale per 128 x 128 block of the weights.
    """
    m, e = np.broadcast_arrays(np.asarray(tokens, float), np.asarray(experts, float))
    one = np.ones(m.shape)
    if library in ("sglang", "vllm-0.14"):
        few = m <= e
        if fp8 and block_scaled:
            return Tile(64 * one, 128 * one, 128 * one, 32 * one, 4 * one, 3 * one)
        if fp8 and library == "sglang":
            return Tile(
                np.where(few, 64.0, 128.0), np.where(few, 128.0, 256.0), 128 * one, np.where(few, 1.0, 32.0),
                np.where(few, 4.0, 8.0), 4 * one,
            )  # fmt: skip
        return Tile(
            np.where(few, 16.0, 64.0), np.where(few, 32.0, 64.0), np.where(few, 64.0, 32.0), np.where(few, 1.0, 8.0),
            4 * one, 3 * one,
        )  # fmt: skip
    if library != "vllm":
        raise UnknownNameError("library of the Triton MoE kernels", library, LIBRARIES[:3])
    if fp8 and block_scaled:
        return Tile(np.where(m <= 64, 16.0, 64.0), 128 * one, 128 * one, np.where(m <= 16, 1.0, 32.0), 4 * one, 3 * one)
    return Tile(
        np.select([m <= 32, m <= 96, m <= 512], [16.0, 32.0, 64.0], 128.0),
        np.where(m <= 64, 64.0, 128.0),
        128 * one if fp8 else np.where(m <= 64, 128.0, 64.0),
        np.where(m / e > 128, 16.0, 1.0),
        np.where(m <= 128, 4.0, 8.0),
        np.where(m <= 32, 4.0, 3.0),
    )


def implementation_of(framework: str, version: str = "", dtype: str = "", source: str = "") -> dict[str, Any]:
    """Options of :func:`~.moe.fused_moe` for the rows of an AIConfigurator MoE table.

    Parameters
    ----------
    framework
        ``"sglang"``, ``"vllm"`` or ``"trtllm"`` in any case.
    version
        Of the framework. SGLang before 0.5.12 was driven kernel by kernel: remote pairs land on the first local expert,
        and the top-k kernels are timed only with one expert-parallel rank. Later versions run the whole layer. vLLM up to
        0.14 has SGLang's default tiles for 16 bits, and takes them for fp8 with one scale per tensor too. The draws of
        the loads round as the collector of that time did.
    dtype
        The table's name of the number formats. SGLang's Triton path expands ``w4a16_mxfp4`` weights to bf16 when it
        loads them, so that the kernels read 16 bits.
    source
        The table's ``kernel_source``. The nvfp4 kernels that SGLang and vLLM take from FlashInfer are those of
        TensorRT-LLM; FlashInfer's CUTLASS layer was called without timing its tactics first.

    Returns
    -------
    dict
        ``library``, ``remote_rows``, ``router``, ``block_scaled``, ``rounding``, and where they are not the usual
        ``w_bits`` and ``tuned``.

    Raises
    ------
    UnknownNameError
        For another framework.

    Examples
    --------
    >>> implementation_of("sglang", "0.5.10")["remote_rows"], implementation_of("vllm", "0.12.0")["library"]
    ('computed', 'vllm-0.14')
    """
    library = framework.lower()
    if library not in FRAMEWORKS:
        raise UnknownNameError("framework of an MoE table", framework, FRAMEWORKS)
    numbers = [int(part) if part.isdigit() else 0 for part in version.split(".")[:3]]
    old = bool(version) and numbers < _SPREADS_FROM[library]
    options: dict[str, Any] = {"library": library, "block_scaled": dtype == "fp8_block", "remote_rows": "masked", "router": "always"}
    options["rounding"] = "popular" if old else "spread"
    if source in _FLASHINFER:
        return options | {"library": "trtllm", "tuned": source != "flashinfer_cutlass_fused_moe"}
    if library == "trtllm" and version and numbers < [1, 1]:
        options["library"] = "trtllm-1.0"
    if library == "vllm" and version and numbers < [0, 15]:
        options["library"] = "vllm-0.14"
    if library == "sglang" and dtype == "w4a16_mxfp4":
        options["w_bits"] = 16.0
    if library == "sglang" and version and numbers < [0, 5, 12]:
        options |= {"remote_rows": "computed", "router": "single-rank"}
    return options


#: Numbers of experts of the layers that AIConfigurator times, by hidden and intermediate size.
RECORDED_EXPERTS: Final = {
    (2048, 768): (128,), (2688, 1856): (128,), (2880, 2880): (32, 128), (4096, 1536): (128,), (4096, 2688): (512,),
    (4096, 14336): (8,), (6144, 2560): (160,), (6144, 16384): (8,), (7168, 2048): (256, 384),
}  # fmt: skip


def is_timed(
    version: str, dtype: str, hidden_size: Number, inter_size: Number, num_experts: Number, moe_ep_size: Number
) -> np.ndarray:
    """Whether the rows of a TensorRT-LLM table ran the tactics that were found by timing.

    AIConfigurator's collector keeps the tactics of each shape in a file whose name ends with the number of local experts,
    and loads the first file whose name begins so: where another shape's number begins with the same digits, that shape's
    tactics are loaded, none fits, and the library's first tactic runs.

    Examples
    --------
    With 7,168 hidden, 4 local experts (256 on 64 ranks) find the file of 48 (384 on 8 ranks); those of 8 find their own.

    >>> is_timed("1.2.0rc5", "fp8", 7168, 2048, 256, [64, 32]).tolist()
    [False, True]
    """
    hidden, inter, experts, ep = np.broadcast_arrays(hidden_size, inter_size, num_experts, moe_ep_size)
    if not version.startswith("1.2.") or dtype not in ("bfloat16", "float16", "fp8", "nvfp4"):
        return np.ones(hidden.shape, bool)
    found = np.ones(hidden.shape, bool)
    for (h, i), counts in RECORDED_EXPERTS.items():
        local = {str(n >> s) for n in counts for s in range(9) if (n >> s) << s == n}
        shadowed = [float(a) for a in local if any(b != a and b.startswith(a) for b in local)]
        found &= ~((hidden == h) & (inter == i) & np.isin(experts / ep, shadowed))
    return found


def is_gated(
    framework: str, version: str, hidden_size: Number, inter_size: Number, topk: Number, source: str = ""
) -> np.ndarray:
    """Whether the rows of an AIConfigurator MoE table have gate and up projections.

    The Nemotron-3 layers (22 experts a token, or hidden 2688 and intermediate 1856) use squared ReLU without a gate;
    SGLang before 0.5.12 and the collectors of early 2026 drove every layer as if it were gated, unless `source`, the
    table's ``kernel_source``, says ``nongated``.
    """
    hidden, inter, k = np.broadcast_arrays(hidden_size, inter_size, topk)
    plain = (k == 22) | ((hidden == 2688) & (inter == 1856))
    if "nongated" in source:
        return np.zeros(plain.shape, bool)
    how = implementation_of(framework, version)
    return ~plain | (how["remote_rows"] == "computed") | (how["rounding"] == "popular")
