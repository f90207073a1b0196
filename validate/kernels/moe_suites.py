"""Suites of the mixture-of-experts kernels: one grouped GEMM, and the whole layer."""

from __future__ import annotations

from typing import Any, Final

from . import moe, rows
from .suite import Config, Launch, Place, Shape, Suite, Tensors, cdiv, needs_fp8, size_of, tile


def layer_of(
    tokens: int, hidden: int, inter: int, experts: int, top_k: int, distribution: str = "balanced", dtype: str = "bfloat16"
) -> dict[str, Any]:
    """Fields of a mixture-of-experts problem."""
    return {
        "tokens": tokens,
        "hidden": hidden,
        "inter": inter,
        "experts": experts,
        "top_k": top_k,
        "distribution": distribution,
        "dtype": dtype,
    }


def _sizes(shape: Shape) -> tuple[int, int, int, int, int]:
    return (int(shape["tokens"]), int(shape["hidden"]), int(shape["inter"]), int(shape["experts"]), int(shape["top_k"]))


def default_tiles(shape: Shape) -> list[dict[str, Any]]:
    """The default of SGLang (0.5, get_default_config) at this number of tokens and experts, and two that tuned files often hold."""
    few = int(shape["tokens"]) <= int(shape["experts"])
    if size_of(str(shape["dtype"])) == 1:
        first = tile(64, 128, 128, 4, 4, GROUP_M=1) if few else tile(128, 256, 128, 4, 8, GROUP_M=32)
        return [first, tile(16, 128, 128, 3, 4, GROUP_M=1) if few else tile(64, 128, 128, 3, 4, GROUP_M=16)]
    if few:
        return [tile(16, 32, 64, 3, 4, GROUP_M=1), tile(16, 64, 128, 4, 4, GROUP_M=1), tile(16, 128, 64, 4, 4, GROUP_M=1)]
    return [tile(64, 64, 32, 3, 4), tile(128, 128, 64, 3, 8, GROUP_M=16), tile(64, 128, 64, 3, 4)]


def layer_tensors(shape: Shape, place: Place) -> Tensors:
    """x and out [tokens, hidden], gate and up w13 [experts, 2 inter, hidden], down w2 [experts, hidden, inter], routing."""
    tokens, hidden, inter, experts, top_k = _sizes(shape)
    dtype = str(shape["dtype"])
    chosen = moe.route(tokens, experts, top_k, str(shape["distribution"]), place.seed)
    return {
        "x": place.normal(tokens, hidden, dtype=dtype),
        "w13": place.normal(experts, 2 * inter, hidden, dtype=dtype, scale=hidden**-0.5),
        "w2": place.normal(experts, hidden, inter, dtype=dtype, scale=inter**-0.5),
        "weight": place.uniform(tokens, top_k),
        "experts": place.index(chosen),
        "out": place.empty(tokens, hidden),
    }


def _gemm_tensors(shape: Shape, place: Place) -> Tensors:
    tokens, hidden, inter, experts, top_k = _sizes(shape)
    dtype = str(shape["dtype"])
    chosen = moe.route(tokens, experts, top_k, str(shape["distribution"]), place.seed)
    scaled = size_of(dtype) == 1
    return {
        "x": place.normal(tokens, hidden, dtype=dtype),
        "w": place.normal(experts, inter, hidden, dtype=dtype),
        "experts": place.index(chosen),
        "x_scale": place.uniform(1) if scaled else None,
        "w_scale": place.uniform(experts, low=0.5, high=1.5) if scaled else None,
        "out": place.empty(tokens * top_k, inter),
    }


def _grouped(
    shape: Shape,
    config: Config,
    place: Place,
    a: Any,
    b: Any,
    out: Any,
    experts_of: Any,
    top_k: int,
    weight: Any = None,
    scales: tuple[Any, Any] = (None, None),
) -> Launch:
    """One grouped GEMM of every (token, expert) pair; a has one row for `top_k` pairs."""
    block, n, k = int(config["BLOCK_M"]), int(b.shape[1]), int(b.shape[2])
    ids, of_block, used = moe.align(experts_of.cpu().numpy(), int(shape["experts"]), block)
    args = (
        a,
        b,
        out,
        *scales,
        weight,
        place.index(ids),
        place.index(of_block),
        place.index([used]),
        n,
        k,
        int(experts_of.numel()),
        a.stride(0),
        b.stride(0),
        b.stride(1),
        out.stride(0),
    )
    flags = {
        "TOP_K": top_k,
        "WEIGHTED": weight is not None,
        "SCALED": scales[0] is not None,
        "EVEN_K": k % int(config["BLOCK_K"]) == 0,
        "CAPACITY": len(ids),
    }
    return Launch(moe.moe_matmul, (len(ids) // block * cdiv(n, int(config["BLOCK_N"])),), args, {**config, **flags})


def _gemm(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    return [
        _grouped(shape, config, place, t["x"], t["w"], t["out"], t["experts"], int(shape["top_k"]), scales=(t["x_scale"], t["w_scale"]))
    ]


def _gemm_reference(shape: Shape, t: Tensors) -> Any:
    import torch

    top_k = int(shape["top_k"])
    flat = t["experts"].reshape(-1).long()
    out = torch.zeros((len(flat), int(shape["inter"])), dtype=torch.float32, device=t["x"].device)
    for expert in flat.unique().tolist():
        pair = (flat == expert).nonzero()[:, 0]
        out[pair] = t["x"][pair // top_k].float() @ t["w"][expert].float().T * (1.0 if t["w_scale"] is None else t["w_scale"][expert])
    return out if t["x_scale"] is None else out * t["x_scale"]


def _layer(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    tokens, hidden, inter, _, top_k = _sizes(shape)
    pairs = tokens * top_k
    gates, middle, each = (place.empty(pairs, width, dtype=str(shape["dtype"])) for width in (2 * inter, inter, hidden))
    return [
        _grouped(shape, config, place, t["x"], t["w13"], gates, t["experts"], top_k),
        Launch(rows.swiglu, (pairs, cdiv(inter, 1024)), (gates, middle, inter), {"BLOCK": 1024, "num_warps": 4}),
        _grouped(shape, config, place, middle, t["w2"], each, t["experts"], 1, t["weight"]),
        Launch(moe.moe_sum, (tokens, cdiv(hidden, 1024)), (each, t["out"], hidden), {"TOP_K": top_k, "BLOCK": 1024, "num_warps": 4}),
    ]


def _layer_reference(shape: Shape, t: Tensors) -> Any:
    import torch

    out = torch.zeros(t["x"].shape, dtype=torch.float32, device=t["x"].device)
    for expert in t["experts"].unique().tolist():
        token, slot = (t["experts"] == expert).nonzero(as_tuple=True)
        gate, up = (t["x"][token].float() @ t["w13"][expert].float().T).chunk(2, -1)
        middle = torch.nn.functional.silu(gate) * up
        out.index_add_(0, token, middle @ t["w2"][expert].float().T * t["weight"][token, slot][:, None])
    return out


def _active(shape: Shape) -> int:
    tokens, _, _, experts, top_k = _sizes(shape)
    return len(set(moe.route(tokens, experts, top_k, str(shape["distribution"])).reshape(-1).tolist()))


def _layer_bytes(shape: Shape) -> int:
    tokens, hidden, inter, _, _ = _sizes(shape)
    return 2 * (3 * _active(shape) * hidden * inter + 2 * tokens * hidden)


def _gemm_bytes(shape: Shape) -> int:
    tokens, hidden, inter, _, top_k = _sizes(shape)
    item = size_of(str(shape["dtype"]))
    return item * (_active(shape) * hidden * inter + tokens * hidden) + 2 * tokens * top_k * inter


def _row(shape: Shape) -> dict[str, Any]:
    tokens, hidden, inter, experts, top_k = _sizes(shape)
    return {
        "kernel_source": "presilicon_moe_triton",
        "moe_dtype": shape["dtype"],
        "num_tokens": tokens,
        "hidden_size": hidden,
        "inter_size": inter,
        "topk": top_k,
        "num_experts": experts,
        "moe_tp_size": 1,
        "moe_ep_size": 1,
        "distribution": shape["distribution"],
    }


_MIXTRAL, _QWEN3, _FINE = (4096, 14336, 8, 2), (2048, 768, 128, 8), (7168, 256, 256, 8)
_LAYERS: Final = [
    layer_of(t, *sizes, distribution=d)
    for t, sizes, d in (
        (4096, _QWEN3, "balanced"),
        (16, _MIXTRAL, "power_law_1.01"),
        (1024, _QWEN3, "power_law_1.2"),
        (512, _MIXTRAL, "balanced"),
        (64, _QWEN3, "power_law_1.01"),
        (1, _MIXTRAL, "balanced"),
        (2048, _FINE, "power_law_1.01"),
        (8, _QWEN3, "balanced"),
        (4096, _MIXTRAL, "power_law_1.2"),
        (128, _FINE, "balanced"),
        (256, _QWEN3, "power_law_1.01"),
        (64, _MIXTRAL, "power_law_1.01"),
        (16384, _QWEN3, "power_law_1.01"),
        (1, _QWEN3, "balanced"),
    )
]
_TINY: Final = tile(16, 16, 16, 2, 4, GROUP_M=2)

SUITES: Final = (
    Suite(
        "moe_gemm",
        "grouped GEMM over experts with the block structure of SGLang and vLLM, bf16 and fp8",
        [s | {"dtype": d, "inter": int(s["inter"]) * 2} for s in _LAYERS[:8] for d in ("bfloat16", "fp8_e4m3")],
        default_tiles,
        _gemm_tensors,
        _gemm,
        _gemm_reference,
        lambda s: 2 * int(s["tokens"]) * int(s["top_k"]) * int(s["hidden"]) * int(s["inter"]),
        _gemm_bytes,
        refuses=needs_fp8,
        tiny=[
            (layer_of(7, 24, 20, 4, 2, dtype="float16"), _TINY),
            (layer_of(9, 32, 16, 4, 1, "power_law_1.2", "fp8_e4m3"), tile(16, 16, 32, 2, 4, GROUP_M=1)),
        ],
    ),
    Suite(
        "moe",
        "the whole layer: two grouped GEMMs, SwiGLU, weighted sum",
        _LAYERS,
        default_tiles,
        layer_tensors,
        _layer,
        _layer_reference,
        lambda s: 6 * int(s["tokens"]) * int(s["top_k"]) * int(s["hidden"]) * int(s["inter"]),
        _layer_bytes,
        tolerance=lambda s: 0.02,
        tiny=[(layer_of(6, 32, 16, 4, 2, dtype="float16"), _TINY)],
        table="moe_triton",
        row=_row,
    ),
)
