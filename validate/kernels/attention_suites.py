"""Suites of the attention kernels."""

from __future__ import annotations

import math
from typing import Any, Final

from . import attention
from .suite import Config, Launch, Place, Shape, Suite, Tensors, cdiv, power_of_two, product, size_of

_LOG2E: Final = math.log2(math.e)


def prefill_of(
    batch: int, q: int, kv: int, heads: int, kv_heads: int, head_dim: int, causal: int = 1, window: int = 0, dtype: str = "bfloat16"
) -> dict[str, Any]:
    """Fields of an attention problem; window 0: none. The last query stands at the last key."""
    return {
        "batch": batch,
        "q": q,
        "kv": kv,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "causal": causal,
        "window": window,
        "dtype": dtype,
    }


def pairs(q: int, kv: int, causal: bool, window: int) -> int:
    """Query-key pairs that are seen.

    >>> pairs(4, 4, True, 0), pairs(4, 4, True, 2), pairs(2, 6, True, 0), pairs(4, 4, False, 0)
    (10, 7, 11, 16)
    """
    if not causal:
        return q * kv
    return sum(min(i + kv - q + 1, window or kv) for i in range(q))


def prefill_tensors(shape: Shape, place: Place) -> Tensors:
    """q and out [batch, heads, q, head_dim], k and v [batch, kv_heads, kv, head_dim]."""
    b, q, kv, h, g, d = (int(shape[n]) for n in ("batch", "q", "kv", "heads", "kv_heads", "head_dim"))
    dtype = str(shape["dtype"])
    return {
        "q": place.normal(b, h, q, d, dtype=dtype),
        "k": place.normal(b, g, kv, d, dtype=dtype),
        "v": place.normal(b, g, kv, d, dtype=dtype),
        "out": place.empty(b, h, q, d, dtype=dtype),
    }


def prefill_reference(shape: Shape, t: Tensors) -> Any:
    """Softmax attention in float32, head by head."""
    import torch

    q, kv, window = int(shape["q"]), int(shape["kv"]), int(shape["window"])
    device = t["q"].device
    out = torch.empty(t["q"].shape, dtype=torch.float32, device=device)
    stand = torch.arange(q, device=device)[:, None] + kv - q
    keys = torch.arange(kv, device=device)[None, :]
    hidden = torch.zeros((q, kv), dtype=torch.bool, device=device)
    if shape["causal"]:
        hidden |= keys > stand
    if window:
        hidden |= keys <= stand - window
    group = int(shape["heads"]) // int(shape["kv_heads"])
    for b in range(out.shape[0]):
        for h in range(out.shape[1]):
            score = t["q"][b, h].float() @ t["k"][b, h // group].float().T / math.sqrt(int(shape["head_dim"]))
            out[b, h] = torch.softmax(score.masked_fill_(hidden, -torch.inf), -1) @ t["v"][b, h // group].float()
    return out


def prefill_flops(shape: Shape) -> int:
    """Two products over the pairs that are seen."""
    seen = pairs(int(shape["q"]), int(shape["kv"]), bool(shape["causal"]), int(shape["window"]))
    return 4 * seen * int(shape["batch"]) * int(shape["heads"]) * int(shape["head_dim"])


def prefill_bytes(shape: Shape) -> int:
    """q, k, v and out once."""
    b, q, kv, h, g, d = (int(shape[n]) for n in ("batch", "q", "kv", "heads", "kv_heads", "head_dim"))
    return b * d * (2 * h * q + 2 * g * min(kv, q + int(shape["window"]) if shape["window"] else kv)) * size_of(str(shape["dtype"]))


def _flash(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    b, q, kv, h, g, d = (int(shape[n]) for n in ("batch", "q", "kv", "heads", "kv_heads", "head_dim"))
    args = (t["q"], t["k"], t["v"], t["out"], _LOG2E / math.sqrt(d), q, kv, shape["window"], q * d, d, kv * d, d, kv * d, d, q * d, d)
    flags = {"GROUP": h // g, "HEAD_DIM": d, "CAUSAL": bool(shape["causal"]), "WINDOWED": bool(shape["window"])}
    return [Launch(attention.flash_attention, (cdiv(q, int(config["BLOCK_M"])), b * h), args, {**config, **flags})]


def _flash_configs(shape: Shape) -> list[dict[str, Any]]:
    if int(shape["head_dim"]) > 128:
        sizes = [(64, 32, 4, 2), (128, 64, 8, 2), (64, 64, 4, 2)]
    else:
        sizes = [(128, 64, 4, 3), (128, 128, 8, 2), (64, 64, 4, 3), (128, 64, 8, 3), (64, 128, 4, 2), (128, 32, 4, 4)]
    return [{"BLOCK_M": m, "BLOCK_N": n, "num_warps": w, "num_stages": s} for m, n, w, s in sizes]


def decode_of(batch: int, kv: int, heads: int, kv_heads: int, head_dim: int, dtype: str = "bfloat16") -> dict[str, Any]:
    """Fields of a decode step: one query token a sequence."""
    return {"batch": batch, "kv": kv, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "dtype": dtype}


def decode_tensors(shape: Shape, place: Place) -> Tensors:
    """q and out [batch, heads, head_dim], k and v [batch, kv, kv_heads, head_dim]."""
    b, kv, h, g, d = (int(shape[n]) for n in ("batch", "kv", "heads", "kv_heads", "head_dim"))
    dtype = str(shape["dtype"])
    return {
        "q": place.normal(b, h, d, dtype=dtype),
        "k": place.normal(b, kv, g, d, dtype=dtype),
        "v": place.normal(b, kv, g, d, dtype=dtype),
        "out": place.empty(b, h, d, dtype=dtype),
    }


def decode_reference(shape: Shape, t: Tensors) -> Any:
    """Softmax attention in float32, sequence by sequence."""
    import torch

    b, h, g, d = (int(shape[n]) for n in ("batch", "heads", "kv_heads", "head_dim"))
    out = torch.empty((b, h, d), dtype=torch.float32, device=t["q"].device)
    for i in range(b):
        q, k, v = t["q"][i].float().view(g, h // g, d), t["k"][i].float().transpose(0, 1), t["v"][i].float().transpose(0, 1)
        out[i] = (torch.softmax(q @ k.transpose(1, 2) / math.sqrt(d), -1) @ v).reshape(h, d)
    return out


def _decode(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    b, kv, h, g, d = (int(shape[n]) for n in ("batch", "kv", "heads", "kv_heads", "head_dim"))
    splits = int(config["SPLITS"])
    part, lse = place.empty(b * h, splits, d, dtype="float32"), place.empty(b * h, splits, dtype="float32")
    args = (t["q"], t["k"], t["v"], part, lse, _LOG2E / math.sqrt(d), kv, kv * g * d, d, g * d)
    meta = {**config, "KV_HEADS": g, "GROUP": h // g, "HEAD_DIM": d, "BLOCK_H": max(16, power_of_two(h // g))}
    combine = {"HEAD_DIM": d, "SPLITS": splits, "BLOCK_S": power_of_two(splits), "num_warps": 4}
    return [
        Launch(attention.decode_split, (b * g, splits), args, meta),
        Launch(attention.decode_combine, (b * h,), (part, lse, t["out"]), combine),
    ]


def _decode_configs(shape: Shape) -> list[dict[str, Any]]:
    return product(SPLITS=[4, 16], BLOCK_N=[64, 128], num_warps=[4], num_stages=[2, 3])[:: 2 if int(shape["head_dim"]) > 128 else 1]


def sparse_blocks(n: int, block: int, local: int, stride: int) -> tuple[Any, Any]:
    """Key blocks of each query block as compressed rows: the last `local` blocks up to it, and every `stride`-th before."""
    import numpy as np

    lists = [sorted({j for j in range(i + 1) if i - j < local or j % stride == 0}) for i in range(n // block)]
    return np.cumsum([0, *map(len, lists)]).astype(np.int32), np.concatenate(lists).astype(np.int32)


def _sparse_tensors(shape: Shape, place: Place) -> Tensors:
    h, n, d, block = (int(shape[k]) for k in ("heads", "n", "head_dim", "block"))
    first, blocks = sparse_blocks(n, block, int(shape["local"]), int(shape["stride"]))
    dtype = str(shape["dtype"])
    return {
        "q": place.normal(h, n, d, dtype=dtype),
        "k": place.normal(h, n, d, dtype=dtype),
        "v": place.normal(h, n, d, dtype=dtype),
        "out": place.empty(h, n, d, dtype=dtype),
        "first": place.index(first),
        "blocks": place.index(blocks),
    }


def _sparse_reference(shape: Shape, t: Tensors) -> Any:
    import torch

    block, n = int(shape["block"]), int(shape["n"])
    first, blocks = t["first"].tolist(), t["blocks"].tolist()
    hidden = torch.ones((n, n), dtype=torch.bool, device=t["q"].device)
    for i in range(n // block):
        for j in blocks[first[i] : first[i + 1]]:
            hidden[i * block : (i + 1) * block, j * block : (j + 1) * block] = False
    out = torch.empty(t["q"].shape, dtype=torch.float32, device=t["q"].device)
    for h in range(out.shape[0]):
        score = t["q"][h].float() @ t["k"][h].float().T / math.sqrt(int(shape["head_dim"]))
        out[h] = torch.softmax(score.masked_fill_(hidden, -torch.inf), -1) @ t["v"][h].float()
    return out


def _sparse_flops(shape: Shape) -> int:
    first, _ = sparse_blocks(int(shape["n"]), int(shape["block"]), int(shape["local"]), int(shape["stride"]))
    return int(first[-1]) * int(shape["block"]) ** 2 * 4 * int(shape["heads"]) * int(shape["head_dim"])


def _sparse(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    h, n, d, block = (int(shape[k]) for k in ("heads", "n", "head_dim", "block"))
    args = (t["q"], t["k"], t["v"], t["out"], t["first"], t["blocks"], _LOG2E / math.sqrt(d), n, n * d, d)
    return [Launch(attention.block_sparse_attention, (n // block, h), args, {**config, "HEAD_DIM": d, "BLOCK_M": block, "BLOCK_N": block})]


_PREFILL: Final = (
    prefill_of(1, 4096, 4096, 32, 8, 128),
    prefill_of(4, 1024, 1024, 32, 32, 64),
    prefill_of(1, 8192, 8192, 16, 16, 128, causal=0),
    prefill_of(1, 8192, 8192, 32, 8, 128, window=1024),
    prefill_of(1, 512, 4096, 32, 8, 128),
    prefill_of(16, 512, 512, 16, 16, 64, causal=0),
    prefill_of(1, 16384, 16384, 8, 8, 128),
    prefill_of(2, 2048, 2048, 8, 4, 256),
    prefill_of(8, 197, 197, 12, 12, 64, causal=0),
    prefill_of(1, 128, 128, 32, 8, 128),
    prefill_of(1, 1000, 3000, 16, 2, 128),
    prefill_of(2, 4096, 4096, 16, 8, 64, window=256),
)
_DECODE: Final = (
    decode_of(8, 4096, 32, 8, 128),
    decode_of(1, 32768, 32, 8, 128),
    decode_of(64, 1024, 32, 32, 128),
    decode_of(1, 1024, 32, 8, 128),
    decode_of(32, 8192, 64, 8, 128),
    decode_of(16, 2048, 16, 16, 64),
    decode_of(4, 16384, 8, 1, 128),
    decode_of(8, 3000, 8, 4, 256),
)

SUITES: Final = (
    Suite(
        "attention",
        "FlashAttention forward: causal, grouped-query, sliding window",
        _PREFILL,
        _flash_configs,
        prefill_tensors,
        _flash,
        prefill_reference,
        prefill_flops,
        prefill_bytes,
        tolerance=lambda s: 0.02,
        tiny=[
            (prefill_of(1, q, kv, 2, g, 16, causal, window, "float16"), {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 2})
            for q, kv, g, causal, window in ((40, 40, 1, 1, 0), (24, 50, 2, 1, 20), (20, 33, 2, 0, 0), (48, 48, 1, 1, 5))
        ],
    ),
    Suite(
        "attention_decode",
        "split-KV decode and the kernel that joins the shares",
        _DECODE,
        _decode_configs,
        decode_tensors,
        _decode,
        decode_reference,
        lambda s: 4 * int(s["batch"]) * int(s["kv"]) * int(s["heads"]) * int(s["head_dim"]),
        lambda s: int(s["batch"]) * int(s["head_dim"]) * (4 * int(s["kv"]) * int(s["kv_heads"]) + 4 * int(s["heads"])),
        tolerance=lambda s: 0.02,
        tiny=[(decode_of(2, 50, 4, 2, 16, "float16"), {"SPLITS": 3, "BLOCK_N": 16, "num_warps": 4, "num_stages": 2})],
    ),
    Suite(
        "attention_block_sparse",
        "attention to listed key blocks",
        [
            {"heads": h, "n": n, "head_dim": d, "block": b, "local": lo, "stride": st, "dtype": "bfloat16"}
            for h, n, d, b, lo, st in (
                (16, 8192, 128, 64, 8, 16),
                (32, 4096, 64, 64, 4, 8),
                (16, 4096, 128, 128, 2, 8),
                (8, 16384, 64, 64, 16, 64),
            )
        ],
        lambda s: [{"num_warps": w, "num_stages": st} for w, st in ((4, 2), (4, 3), (8, 2))],
        _sparse_tensors,
        _sparse,
        _sparse_reference,
        _sparse_flops,
        lambda s: 8 * int(s["heads"]) * int(s["n"]) * int(s["head_dim"]),
        tolerance=lambda s: 0.02,
        tiny=[
            (
                {"heads": 2, "n": 64, "head_dim": 16, "block": 16, "local": 1, "stride": 2, "dtype": "float16"},
                {"num_warps": 4, "num_stages": 2},
            )
        ],
    ),
)
