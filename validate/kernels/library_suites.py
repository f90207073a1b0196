"""torch's own operators, measured as the op tables want them: matmul, attention, and a whole decoder layer.

GEMM weights cycle through six copies, as in the tables of the AIConfigurator project (commit 095f58a), so that weights larger than a
sixth of L2 come from memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final

from . import rows
from .attention_suites import (
    decode_of,
    decode_reference,
    decode_tensors,
    prefill_bytes,
    prefill_flops,
    prefill_of,
    prefill_reference,
    prefill_tensors,
)
from .decoder import decoder_bytes, decoder_call, decoder_flops, decoder_reference, decoder_tensors
from .gemm_suites import LAYERS, gemm_bytes, gemm_flops
from .suite import Config, Launch, Place, Shape, Suite, Tensors, needs_fp8, power_of_two

#: Copies of a weight through which calls cycle.
WEIGHT_COPIES: Final = 6
_FP8_LARGEST: Final = 448.0

#: Beside the layers of 7 to 70 billion-parameter models: the corners (few rows, narrow, deep, quantised waves).
_GEMMS: Final = tuple(
    dict.fromkeys(
        (
            *LAYERS,
            *((m, n, k) for m in (1, 8, 48, 192, 640, 3072, 12288) for n, k in ((4096, 4096), (1024, 8192), (16384, 2048), (512, 512))),
        )
    )
)


def _no_launches(shape: Shape, config: Config, tensors: Tensors, place: Place) -> list[Launch]:
    return []


def _default(shape: Shape) -> list[dict[str, Any]]:
    return [{"library": "torch"}]


def _linear_tensors(shape: Shape, place: Place) -> Tensors:
    m, n, k = int(shape["m"]), int(shape["n"]), int(shape["k"])
    dtype = "bfloat16" if shape["dtype"] == "fp8_e4m3" else str(shape["dtype"])
    weight = place.normal(n, k, dtype=str(shape["dtype"]))
    return {"x": place.normal(m, k, dtype=dtype), "weights": [weight, *(weight.clone() for _ in range(WEIGHT_COPIES - 1))]}


def _linear(shape: Shape, config: Config, t: Tensors) -> Callable[[], Any]:
    import torch

    weights = itertools.cycle(t["weights"])
    x = t["x"]
    if shape["dtype"] != "fp8_e4m3":
        return lambda: torch.nn.functional.linear(x, next(weights))
    m, n, k = int(shape["m"]), int(shape["n"]), int(shape["k"])
    quantised = torch.empty((m, k), dtype=torch.float8_e4m3fn, device=x.device)
    x_scale = torch.empty((m, 1), dtype=torch.float32, device=x.device)
    w_scale = torch.ones((1, n), dtype=torch.float32, device=x.device)
    quantise = rows.quantise_rows[(m,)]
    block = power_of_two(k)

    def run() -> Any:
        quantise(x, quantised, x_scale, k, LARGEST=_FP8_LARGEST, BLOCK=block, num_warps=8)
        return torch._scaled_mm(quantised, next(weights).t(), scale_a=x_scale, scale_b=w_scale, out_dtype=torch.bfloat16)

    return run


def _gemm_row(shape: Shape) -> dict[str, Any]:
    source, dtype = ("torch.nn.functional.linear", shape["dtype"]) if shape["dtype"] != "fp8_e4m3" else ("torch._scaled_mm", "fp8")
    return {"kernel_source": source, "gemm_dtype": dtype, "m": shape["m"], "n": shape["n"], "k": shape["k"]}


def _fp8_refuses(shape: Shape, capability: int) -> str:
    if int(shape["n"]) % 16 or int(shape["k"]) % 16:
        return "fp8 needs n and k to be multiples of 16"
    return needs_fp8(shape, capability)


def _attend(shape: Shape, config: Config, t: Tensors) -> Callable[[], Any]:
    from torch.nn.functional import scaled_dot_product_attention

    grouped = shape["heads"] != shape["kv_heads"]
    return lambda: scaled_dot_product_attention(t["q"], t["k"], t["v"], is_causal=bool(shape["causal"]), enable_gqa=grouped)


def _attend_decode(shape: Shape, config: Config, t: Tensors) -> Callable[[], Any]:
    from torch.nn.functional import scaled_dot_product_attention

    grouped = shape["heads"] != shape["kv_heads"]
    q, k, v = t["q"][:, :, None], t["k"].transpose(1, 2), t["v"].transpose(1, 2)
    return lambda: scaled_dot_product_attention(q, k, v, enable_gqa=grouped)[:, :, 0]


def _attention_row(shape: Shape, **more: Any) -> dict[str, Any]:
    return {
        "kernel_source": "torch_sdpa",
        "batch_size": shape["batch"],
        "num_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape["head_dim"],
        "beam_width": 1,
        "attn_dtype": shape["dtype"],
        "kv_cache_dtype": shape["dtype"],
        "window_size": 0,
    } | more


_PREFILL: Final = tuple(
    prefill_of(b, n, n, h, g, d)
    for b, n, h, g, d in (
        (1, 4096, 32, 8, 128),
        (4, 1024, 32, 32, 64),
        (1, 16384, 16, 8, 128),
        (8, 256, 32, 8, 128),
        (1, 512, 32, 32, 128),
        (2, 2048, 64, 8, 128),
        (16, 128, 16, 16, 64),
        (1, 8192, 8, 1, 128),
        (1, 1024, 8, 4, 256),
        (32, 512, 12, 12, 64),
        (1, 32768, 4, 1, 128),
        (4, 4096, 40, 40, 128),
        (1, 64, 32, 8, 128),
        (64, 64, 32, 8, 128),
        (1, 2048, 96, 8, 128),
        (2, 8192, 32, 4, 64),
        (1, 1536, 24, 2, 128),
        (8, 1024, 64, 8, 64),
    )
)
_ENCODER: Final = tuple(
    prefill_of(b, n, n, h, h, d, causal=0)
    for b, n, h, d in (
        (8, 197, 12, 64),
        (32, 512, 12, 64),
        (1, 4096, 16, 64),
        (4, 1024, 16, 80),
        (64, 128, 12, 64),
        (1, 577, 16, 64),
        (16, 1500, 20, 64),
        (2, 8192, 8, 128),
        (1, 16, 8, 64),
        (128, 256, 8, 64),
    )
)
_DECODE: Final = tuple(
    decode_of(b, n, h, g, d)
    for b, n, h, g, d in (
        (8, 4096, 32, 8, 128),
        (1, 32768, 32, 8, 128),
        (64, 1024, 32, 32, 128),
        (1, 1024, 32, 8, 128),
        (32, 8192, 64, 8, 128),
        (16, 2048, 16, 16, 64),
        (4, 16384, 8, 1, 128),
        (8, 3000, 8, 4, 256),
        (128, 512, 32, 8, 128),
        (1, 128, 32, 8, 128),
        (1, 4096, 64, 8, 128),
        (256, 256, 16, 2, 128),
        (2, 65536, 16, 2, 128),
        (16, 1000, 40, 40, 128),
        (1, 16, 8, 1, 64),
        (64, 4096, 8, 1, 128),
        (4, 8192, 96, 8, 128),
        (32, 64, 32, 32, 64),
    )
)


def _load_tensors(shape: Shape, place: Place) -> Tensors:
    m, n, k, dtype = int(shape["m"]), int(shape["n"]), int(shape["k"]), str(shape["dtype"])
    a, b = place.normal(m, k, dtype=dtype), place.normal(k, n, dtype=dtype)
    if shape["work"] == "zeros":
        a.zero_()
        b.zero_()
    return {"a": a, "b": b}


def _load_reference(shape: Shape, t: Tensors) -> Any:
    return t["a"].float() if shape["work"] == "copy" else t["a"].float() @ t["b"].float()


def _load_work(shape: Shape, products: int, copies: int) -> int:
    return copies if shape["work"] == "copy" else products


def _load_call(shape: Shape, config: Config, t: Tensors) -> Callable[[], Any]:
    a, b = t["a"], t["b"]
    return a.clone if shape["work"] == "copy" else lambda: a @ b


SUITES: Final = (
    Suite(
        "torch_gemm",
        "torch.nn.functional.linear, bf16 and fp16; fp8 with the quantisation of its input",
        [
            {"m": m, "n": n, "k": k, "dtype": d}
            for i, (m, n, k) in enumerate(_GEMMS)
            for d in ("bfloat16", *(("fp8_e4m3",) if i % 2 == 0 else ()), *(("float16",) if i % 5 == 0 else ()))
        ],
        _default,
        _linear_tensors,
        _no_launches,
        lambda s, t: t["x"].float() @ t["weights"][0].float().T,
        gemm_flops,
        gemm_bytes,
        tolerance=lambda s: 0.05 if s["dtype"] == "fp8_e4m3" else 0.01,
        timers=("graph", "cold"),
        call=_linear,
        table="gemm",
        row=_gemm_row,
        refuses=lambda s, c: _fp8_refuses(s, c) if s["dtype"] == "fp8_e4m3" else "",
        tiny=[({"m": 5, "n": 24, "k": 32, "dtype": "bfloat16"}, {"library": "torch"})],
    ),
    Suite(
        "torch_attention",
        "scaled_dot_product_attention, causal",
        _PREFILL,
        _default,
        prefill_tensors,
        _no_launches,
        prefill_reference,
        prefill_flops,
        prefill_bytes,
        tolerance=lambda s: 0.02,
        timers=("graph", "cold"),
        call=_attend,
        table="context_attention",
        row=lambda s: _attention_row(s, isl=s["q"], step=0),
        tiny=[(prefill_of(1, 24, 24, 4, 2, 16), {"library": "torch"})],
    ),
    Suite(
        "torch_attention_encoder",
        "scaled_dot_product_attention, not causal",
        _ENCODER,
        _default,
        prefill_tensors,
        _no_launches,
        prefill_reference,
        prefill_flops,
        prefill_bytes,
        tolerance=lambda s: 0.02,
        timers=("graph", "cold"),
        call=_attend,
        table="encoder_attention",
        row=lambda s: _attention_row(s, isl=s["q"]),
        tiny=[(prefill_of(1, 24, 24, 2, 2, 16, 0), {"library": "torch"})],
    ),
    Suite(
        "torch_attention_decode",
        "scaled_dot_product_attention with one query token",
        _DECODE,
        _default,
        decode_tensors,
        _no_launches,
        decode_reference,
        lambda s: 4 * int(s["batch"]) * int(s["kv"]) * int(s["heads"]) * int(s["head_dim"]),
        lambda s: int(s["batch"]) * int(s["head_dim"]) * (4 * int(s["kv"]) * int(s["kv_heads"]) + 4 * int(s["heads"])),
        tolerance=lambda s: 0.02,
        timers=("graph", "cold"),
        call=_attend_decode,
        table="generation_attention",
        row=lambda s: _attention_row(s, isl=1, step=int(s["kv"]) - 1),
        tiny=[(decode_of(2, 24, 4, 2, 16), {"library": "torch"})],
    ),
    Suite(
        "torch_decoder",
        "one decoder layer of Llama: eager, in a CUDA graph, compiled",
        [
            {
                "tokens": t,
                "batch": b,
                "context": c,
                "hidden": 4096,
                "inter": 14336,
                "heads": 32,
                "kv_heads": 8,
                "head_dim": 128,
                "dtype": "bfloat16",
            }
            for b, t, c in ((1, 2048, 0), (8, 1, 4096), (1, 1, 1024), (64, 1, 1024), (4, 512, 0))
        ],
        lambda s: [{"runtime": r} for r in ("eager", "graph", "compiled")],
        decoder_tensors,
        _no_launches,
        decoder_reference,
        decoder_flops,
        decoder_bytes,
        tolerance=lambda s: 0.03,
        timers=("eager", "graph"),
        call=decoder_call,
        tiny=[
            (
                {
                    "tokens": t,
                    "batch": 2,
                    "context": c,
                    "hidden": 64,
                    "inter": 96,
                    "heads": 4,
                    "kv_heads": 2,
                    "head_dim": 16,
                    "dtype": "bfloat16",
                },
                {"runtime": "eager"},
            )
            for t, c in ((6, 0), (1, 8))
        ],
    ),
    Suite(
        "load",
        "clock and power under seconds of one kind of work: matmul by number format (and on zeros), copying",
        [
            {"work": w, "dtype": d, "m": 8192, "n": 8192, "k": 8192}
            for w, d in (("matmul", "bfloat16"), ("copy", "float32"), ("matmul", "float16"), ("matmul", "float32"), ("zeros", "bfloat16"))
        ],
        _default,
        _load_tensors,
        _no_launches,
        _load_reference,
        lambda s: _load_work(s, gemm_flops(s), 0),
        lambda s: _load_work(s, gemm_bytes(s), 8 * int(s["m"]) * int(s["n"])),
        timers=("sustained",),
        call=_load_call,
        tiny=[({"work": w, "dtype": "bfloat16", "m": 16, "n": 16, "k": 16}, {"library": "torch"}) for w in ("matmul", "copy", "zeros")],
    ),
)
