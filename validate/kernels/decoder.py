"""One decoder layer of Llama in torch, to measure how a host launches it: RMSNorm, grouped-query attention with rotation, SwiGLU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .suite import Config, Place, Shape, Tensors


def decoder_tensors(shape: Shape, place: Place) -> Tensors:
    """x [batch, tokens, hidden], weights, KV cache [batch, kv_heads, context, head_dim], rotation tables [tokens, head_dim]."""
    b, t, c, hidden, inter, h, g, d = (
        int(shape[n]) for n in ("batch", "tokens", "context", "hidden", "inter", "heads", "kv_heads", "head_dim")
    )
    dtype = str(shape["dtype"])

    def weight(rows: int, columns: int) -> Any:
        return place.normal(rows, columns, dtype=dtype, scale=columns**-0.5)

    tensors = {
        "x": place.normal(b, t, hidden, dtype=dtype),
        "norm1": place.normal(hidden, dtype=dtype),
        "norm2": place.normal(hidden, dtype=dtype),
        "qkv": weight((h + 2 * g) * d, hidden),
        "o": weight(hidden, h * d),
        "gate_up": weight(2 * inter, hidden),
        "down": weight(hidden, inter),
        "cache_k": place.normal(b, g, c, d, dtype=dtype),
        "cache_v": place.normal(b, g, c, d, dtype=dtype),
    }
    if place.device == "meta":
        return tensors
    import torch

    position = torch.arange(c, c + t, device=place.device, dtype=torch.float32)
    angle = position[:, None] * 10000.0 ** (-torch.arange(0, d, 2, device=place.device, dtype=torch.float32) / d)[None, :]
    return tensors | {"cos": angle.cos().repeat(1, 2), "sin": angle.sin().repeat(1, 2)}


def decoder(x: Any, w: Tensors, heads: int, kv_heads: int, head_dim: int) -> Any:
    """The layer's output; the new keys and values are joined to the cache.

    With a cache there is one token, since torch's causal mask starts at the first key.
    """
    import torch
    from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

    b, t, hidden = x.shape
    cos, sin = w["cos"].to(x.dtype), w["sin"].to(x.dtype)

    def rotate(y: Any) -> Any:
        first, second = y.chunk(2, -1)
        return y * cos + torch.cat((-second, first), -1) * sin

    qkv = linear(rms_norm(x, (hidden,), w["norm1"], 1e-5), w["qkv"]).view(b, t, heads + 2 * kv_heads, head_dim).transpose(1, 2)
    q, k, v = qkv.split((heads, kv_heads, kv_heads), 1)
    q, k = rotate(q), rotate(k)
    past = w["cache_k"].shape[2]
    if past:
        k, v = torch.cat((w["cache_k"], k), 2), torch.cat((w["cache_v"], v), 2)
    seen = scaled_dot_product_attention(q, k, v, is_causal=t > 1, enable_gqa=heads != kv_heads)
    x = x + linear(seen.transpose(1, 2).reshape(b, t, heads * head_dim), w["o"])
    gate, up = linear(rms_norm(x, (hidden,), w["norm2"], 1e-5), w["gate_up"]).chunk(2, -1)
    return x + linear(silu(gate) * up, w["down"])


def _sizes(shape: Shape) -> tuple[int, int, int]:
    return int(shape["heads"]), int(shape["kv_heads"]), int(shape["head_dim"])


def decoder_call(shape: Shape, config: Config, tensors: Tensors) -> Callable[[], Any]:
    """The layer as a call, compiled by torch.compile where the config says so."""
    import torch

    run: Any = torch.compile(decoder, dynamic=False) if config["runtime"] == "compiled" else decoder
    x, weights = tensors["x"], {name: value for name, value in tensors.items() if name not in ("x", "out")}

    def call() -> Any:
        with torch.no_grad():
            return run(x, weights, *_sizes(shape))

    return call


def decoder_reference(shape: Shape, tensors: Tensors) -> Any:
    """The same layer in float32, by the plain formulas of attention."""
    import torch

    wide = {name: value.float() for name, value in tensors.items() if name != "out"}
    heads, kv_heads, d = _sizes(shape)
    x, t = wide["x"], int(shape["tokens"])

    def norm(y: Any, weight: Any) -> Any:
        return y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight

    def rotate(y: Any) -> Any:
        half = d // 2
        cos, sin = wide["cos"][:, :half], wide["sin"][:, :half]
        first, second = y[..., :half], y[..., half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    flat = (norm(x, wide["norm1"]) @ wide["qkv"].T).unflatten(-1, (-1, d)).transpose(1, 2)
    q, k, v = rotate(flat[:, :heads]), rotate(flat[:, heads : heads + kv_heads]), flat[:, heads + kv_heads :]
    k, v = torch.cat((wide["cache_k"], k), 2), torch.cat((wide["cache_v"], v), 2)
    hidden = torch.ones(t, k.shape[2], dtype=torch.bool, device=x.device).triu(k.shape[2] - t + 1)
    out = torch.empty_like(q)
    for h in range(heads):
        score = q[:, h] @ k[:, h * kv_heads // heads].transpose(1, 2) / math.sqrt(d)
        out[:, h] = score.masked_fill(hidden, -torch.inf).softmax(-1) @ v[:, h * kv_heads // heads]
    x = x + out.transpose(1, 2).flatten(2) @ wide["o"].T
    gate, up = (norm(x, wide["norm2"]) @ wide["gate_up"].T).chunk(2, -1)
    return x + (gate * gate.sigmoid() * up) @ wide["down"].T


def _weights(shape: Shape) -> int:
    hidden, inter = int(shape["hidden"]), int(shape["inter"])
    heads, kv_heads, d = _sizes(shape)
    return hidden * d * (2 * heads + 2 * kv_heads) + 3 * hidden * inter


def decoder_flops(shape: Shape) -> int:
    """Projections, and attention over the pairs that are seen."""
    b, t, c = int(shape["batch"]), int(shape["tokens"]), int(shape["context"])
    heads, _, d = _sizes(shape)
    return b * (2 * t * _weights(shape) + 4 * heads * d * (t * c + t * (t + 1) // 2))


def decoder_bytes(shape: Shape) -> int:
    """Weights, cache, input and output once, 16 bits each."""
    b, t, c = int(shape["batch"]), int(shape["tokens"]), int(shape["context"])
    _, kv_heads, d = _sizes(shape)
    return 2 * (_weights(shape) + 2 * b * (c + t) * kv_heads * d + 2 * b * t * int(shape["hidden"]))
