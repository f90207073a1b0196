"""What public software says of the Triton MoE kernels: default tiles, tuned shapes, and how tables were recorded.

Sources: ``get_default_config`` and the file names under ``configs`` in sgl-project/sglang (0.5,
``srt/layers/moe/moe_runner/triton_utils``) and vllm-project/vllm (0.24, ``model_executor/layers/fused_moe``); the MoE
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


#: Libraries whose default tiles are known.
LIBRARIES: Final = ("sglang", "vllm")

#: Kernels that choose the top-k experts: in the library's layer, and called one by one with copies of their results.
ROUTER_KERNELS: Final = {"sglang": 1.0, "vllm": 4.0, "separate": 3.0}

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


def is_tuned(device: str, experts: Number, inter_size: Number) -> np.ndarray:
    """Whether a tuned 16-bit file ships for this GPU and the rank's share of experts and intermediate size.

    Examples
    --------
    >>> is_tuned("a100-sxm-80gb", 8, [7168, 14336]).tolist()
    [True, False]
    """
    e, n = np.broadcast_arrays(np.asarray(experts, float), np.asarray(inter_size, float))
    known = np.array([x * 65536.0 + y for x, y in sorted(TUNED_SHAPES.get(device, ()))])
    return np.isin(e * 65536.0 + n, known)


def tile_steps(library: str, experts: Number) -> tuple[Number, ...]:
    """Numbers of tokens above which the library's default tile changes."""
    return (experts,) if library == "sglang" else (16, 32, 64, 96, 128, 512, 128 * np.asarray(experts, float))


def default_tile(
    library: str, tokens: Number, experts: Number, *, fp8: bool = False, block_scaled: bool = False
) -> Tile:
    """Tile that the library takes where no tuned file exists for the shape and GPU.

    Parameters
    ----------
    library
        ``"sglang"`` or ``"vllm"``.
    tokens, experts
        Tokens of the call and experts held by the rank.
    fp8, block_scaled
        fp8 weights and activations; with one scale per 128 x 128 block of the weights.
    """
    m, e = np.broadcast_arrays(np.asarray(tokens, float), np.asarray(experts, float))
    one = np.ones(m.shape)
    if library == "sglang":
        few = m <= e
        if fp8 and block_scaled:
            return Tile(64 * one, 128 * one, 128 * one, 32 * one, 4 * one, 3 * one)
        if fp8:
            return Tile(
                np.where(few, 64.0, 128.0), np.where(few, 128.0, 256.0), 128 * one, np.where(few, 1.0, 32.0),
                np.where(few, 4.0, 8.0), 4 * one,
            )  # fmt: skip
        return Tile(
            np.where(few, 16.0, 64.0), np.where(few, 32.0, 64.0), np.where(few, 64.0, 32.0), np.where(few, 1.0, 8.0),
            4 * one, 3 * one,
        )  # fmt: skip
    if library != "vllm":
        raise UnknownNameError("library of the MoE kernels", library, LIBRARIES)
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


def implementation_of(framework: str, version: str = "", dtype: str = "") -> dict[str, Any]:
    """Options of :func:`~.moe.fused_moe` for the rows of an AIConfigurator MoE table.

    Parameters
    ----------
    framework
        ``"sglang"`` or ``"vllm"`` in any case.
    version
        Of the framework. SGLang before 0.5.12 was driven kernel by kernel: remote pairs land on the first local expert,
        and the top-k kernels are timed only with one expert-parallel rank. Later versions run the whole layer.
    dtype
        The table's name of the number formats. SGLang's Triton path expands ``w4a16_mxfp4`` weights to bf16 when it
        loads them, so that the kernels read 16 bits.

    Returns
    -------
    dict
        ``library``, ``remote_rows``, ``router``, ``block_scaled``, and ``w_bits`` where it is not the format's own.

    Raises
    ------
    UnknownNameError
        For another framework.

    Examples
    --------
    >>> implementation_of("sglang", "0.5.10")
    {'library': 'sglang', 'block_scaled': False, 'remote_rows': 'computed', 'router': 'single-rank'}
    """
    library = framework.lower()
    if library not in LIBRARIES:
        raise UnknownNameError("framework of an MoE table", framework, LIBRARIES)
    options: dict[str, Any] = {"library": library, "block_scaled": dtype == "fp8_block"}
    if library == "sglang" and dtype == "w4a16_mxfp4":
        options["w_bits"] = 16.0
    numbers = [int(part) if part.isdigit() else 0 for part in version.split(".")[:3]]
    if library == "sglang" and version and numbers < [0, 5, 12]:
        return options | {"remote_rows": "computed", "router": "single-rank"}
    return options | {"remote_rows": "masked", "router": "always"}


def is_gated(framework: str, version: str, hidden_size: Number, inter_size: Number, topk: Number) -> np.ndarray:
    """Whether the rows of an AIConfigurator MoE table have gate and up projections.

    The Nemotron-3 layers (22 experts a token, or hidden 2688 and intermediate 1856) use squared ReLU without a gate;
    SGLang before 0.5.12 was driven as if every layer were gated.
    """
    hidden, inter, k = np.broadcast_arrays(hidden_size, inter_size, topk)
    plain = (k == 22) | ((hidden == 2688) & (inter == 1856))
    return ~plain | (implementation_of(framework, version)["remote_rows"] == "computed")
