"""Builders of a case's workloads: each returns an OpGraph made of Ops, or traced from a real model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from ...errors import CaseError, UnknownNameError
from ...workloads import Memory, NumberFormat, Op, Operand, OpGraph, quantise, tensor, trace_model
from ...workloads.formats import by_name
from ...workloads.models import load_config
from .registry import builders

FP16 = by_name("fp16")
BF16 = by_name("bf16")


def _matmul(
    name: str,
    m: int,
    n: int,
    k: int,
    a: NumberFormat,
    w: NumberFormat,
    out: NumberFormat,
    *,
    batch: int = 1,
    weight: bool = True,
    bias: bool = False,
    count: int = 1,
) -> Op:
    """(b, m, k) by (k, n), or by (b, k, n) where the second factor is no weight."""
    operands = [
        tensor(f"{name}.a", "input", "b m k", a),
        tensor(f"{name}.w", "weight", "k n", w) if weight else tensor(f"{name}.b", "input", "b k n", w),
        tensor(f"{name}.out", "output", "b m n", out),
    ]
    if bias:
        operands.insert(2, tensor(f"{name}.bias", "weight", "n", a))
    return Op(
        name,
        "matmul",
        "aten.linear" if weight else "aten.bmm",
        {"b": batch, "m": m, "n": n, "k": k},
        tuple(operands),
        {"mac": 1.0},
        count=count,
    )


def _pointwise(
    name: str,
    inputs: Iterable[tuple[str, int, NumberFormat]],
    outputs: Iterable[tuple[str, int, NumberFormat]],
    n: int,
    body: dict[str, float],
) -> Op:
    """An elementwise op over n points whose operands touch the given numbers of elements."""
    operands = [Operand(f"{name}.{each}", "input", ((("n", 1),),), fmt, elements) for each, elements, fmt in inputs]
    operands += [Operand(f"{name}.{each}", "output", ((("n", 1),),), fmt, elements) for each, elements, fmt in outputs]
    return Op(name, "elementwise", name, {"n": n}, tuple(operands), body)


@builders.add()
def matmul(
    m: int,
    n: int,
    k: int,
    a: NumberFormat = FP16,
    w: NumberFormat = FP16,
    out: NumberFormat = FP16,
    batch: int = 1,
    density: Annotated[float, "1"] = 1.0,
    skips_zeros: bool = False,
    elements_per_offset: int = 0,
) -> OpGraph:
    """One product of activations (m, k) and weights (k, n).

    `density` is the share of the weights that is stored; with `skips_zeros` only those are multiplied, otherwise all
    are. A tiled sparse format also stores a 4-byte offset for every `elements_per_offset` weights of the dense matrix.
    """
    if not 0.0 < density <= 1.0:
        raise CaseError(f"density: expected more than 0 and at most 1, found {density:g}")
    op = _matmul("matmul", m, n, k, a, w, out, batch=batch)
    if density < 1.0:
        stored = replace(op.operands[1], elements=round(k * n * density))
        op = replace(
            op,
            operands=(op.operands[0], stored, *op.operands[2:]),
            iterations=op.points * (density if skips_zeros else 1.0),
        )
    if elements_per_offset:
        offsets = Operand(
            "matmul.offsets", "weight", ((("k", 1),),), by_name("int32"), math.ceil(k * n / elements_per_offset)
        )
        op = replace(op, operands=(*op.operands, offsets))
    return OpGraph("matmul", [op], memory=Memory(weights_bytes=op.operand_bytes("weight")))


@builders.add()
def matmuls(
    m: list[int], shapes: list[list[int]], a: NumberFormat = BF16, w: NumberFormat = BF16, out: NumberFormat = BF16
) -> OpGraph:
    """Every m of a list with every (n, k) of `shapes`, one product each."""
    if any(len(shape) != 2 for shape in shapes):
        raise CaseError("shapes: expected pairs of n and k")
    return OpGraph("matmuls", [_matmul(f"{rows}x{n}x{k}", rows, n, k, a, w, out) for rows in m for n, k in shapes])


@builders.add()
def attention(
    q_len: int,
    kv_len: int,
    heads: int = 1,
    kv_heads: int = 0,
    head_dim: int = 128,
    batch: int = 1,
    causal: bool = False,
    phase: str = "prefill",
    values: NumberFormat = BF16,
) -> OpGraph:
    """One fused attention kernel; `kv_heads` of 0 stands for as many as `heads`."""
    return OpGraph(
        "attention",
        [_attention("attention", batch, heads, kv_heads or heads, q_len, kv_len, head_dim, causal, phase, values)],
    )


@builders.add()
def attentions(
    heads: list[list[int]],
    lengths: list[int],
    batches: list[int],
    head_dim: int = 128,
    phase: str = "decode",
    values: NumberFormat = BF16,
) -> OpGraph:
    """Fused attention for every (query heads, KV heads) pair, KV length and batch: decode steps, or causal prefills."""
    if any(len(pair) != 2 for pair in heads):
        raise CaseError("heads: expected pairs of query heads and KV heads")
    return OpGraph(
        "attentions",
        [
            _attention(
                f"{b}x{q}/{kv}x{s}",
                b,
                q,
                kv,
                1 if phase == "decode" else s,
                s,
                head_dim,
                phase == "prefill",
                phase,
                values,
            )
            for q, kv in heads
            for s in lengths
            for b in batches
        ],
    )


def _attention(
    name: str,
    batch: int,
    heads: int,
    kv_heads: int,
    q_len: int,
    kv_len: int,
    head_dim: int,
    causal: bool,
    phase: str,
    values: NumberFormat,
) -> Op:
    if phase not in ("prefill", "decode"):
        raise UnknownNameError("phase", phase, ("prefill", "decode"))
    if heads % kv_heads:
        raise CaseError(f"heads: {heads} query heads do not share {kv_heads} KV heads evenly")
    if causal and q_len > kv_len:
        raise CaseError(f"q_len: {q_len} exceeds kv_len, {kv_len}, with a causal mask")
    dims = {"b": batch, "h": kv_heads, "g": heads // kv_heads, "q": q_len, "s": kv_len, "e": head_dim}
    executed = q_len * kv_len - (q_len * (q_len - 1) // 2 if causal else 0)
    kept: Literal["cache", "input"] = "cache" if phase == "decode" else "input"
    return Op(
        name,
        "attention",
        "aten.scaled_dot_product_attention",
        dims,
        (
            tensor(f"{name}.q", "input", "b h g q e", values),
            tensor(f"{name}.k", kept, "b h s e", values),
            tensor(f"{name}.v", kept, "b h s e", values),
            tensor(f"{name}.out", "output", "b h g q e", values),
        ),
        {"mac": 2.0, "exp": 1 / head_dim, "add": 2 / head_dim, "mul": 1 / head_dim, "cmp": 1 / head_dim},
        {
            "causal": causal,
            "window": 0,
            "v_head_dim": head_dim,
            "q_heads": heads,
            "kv_heads": kv_heads,
            "phase": phase,
            "mask": False,
        },
        iterations=float(batch * heads * executed * head_dim),
    )


@builders.add()
def model(
    model: str,
    phase: str = "decode",
    batch: int = 1,
    seq: int = 2048,
    context: int = 2048,
    dtype: str = "bfloat16",
    attention: str = "sdpa",
    quantise: str = "",
) -> OpGraph:
    """A real model traced by its configuration (see `presilicon.workloads.trace_model`), quantised on request."""
    return _traced(model, phase, batch, seq, context, dtype, attention, quantise)


@lru_cache(maxsize=32)
def _traced(
    name: str, phase: str, batch: int, seq: int, context: int, dtype: str, attention: str, scheme: str
) -> OpGraph:
    if scheme:
        return quantise(_traced(name, phase, batch, seq, context, dtype, attention, ""), scheme)
    step: Any = phase  # trace_model refuses what is no phase
    return trace_model(name, phase=step, batch=batch, seq=seq, context=context, dtype=dtype, attention=attention)


@builders.add()
def model_shard(
    model: str,
    devices: int,
    phase: str = "decode",
    batch: int = 1,
    seq: int = 2048,
    context: int = 2048,
    dtype: str = "bfloat16",
) -> OpGraph:
    """What one of several devices runs of a Llama-like model under tensor parallelism, without its collectives.

    Heads, KV heads, MLP width and vocabulary are divided by `devices`; hidden size and layers are not.

    Source: Shoeybi et al., "Megatron-LM" (arXiv 1909.08053), section 3.
    """
    name, config = load_config(model)
    shard = dict(config)
    shard["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        if not isinstance(config.get(key), int) or config[key] % devices:
            raise CaseError(f"devices: {key} of {name}, {config.get(key)!r}, is not a multiple of {devices}")
        shard[key] = config[key] // devices
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}-over-{devices}.json"
        path.write_text(json.dumps(shard), encoding="utf-8")
        return _traced(str(path), phase, batch, seq, context, dtype, "sdpa", "")


@builders.add()
def gpt_training(
    layers: int,
    hidden: int,
    heads: int,
    seq: int,
    vocabulary: int,
    batch: int,
    recompute: bool = False,
    values: NumberFormat = FP16,
) -> OpGraph:
    """One training iteration of a GPT: the matrix products of forward and backward, and the weights of every layer.

    With `recompute` the blocks' forward pass runs a second time during the backward pass. A backward product has two
    parts, for the input's gradient (m, k, n) and for the weight's (k, n, m).
    """
    if hidden % heads:
        raise CaseError(f"hidden: {hidden} is not a multiple of heads, {heads}")
    rows, head_dim = batch * seq, hidden // heads
    linear = {
        "qkv": (3 * hidden, hidden),
        "projection": (hidden, hidden),
        "mlp.up": (4 * hidden, hidden),
        "mlp.down": (hidden, 4 * hidden),
    }
    forward = [
        _matmul(name, rows, n, k, values, values, values, bias=True, count=layers) for name, (n, k) in linear.items()
    ]
    forward += [
        _matmul("scores", seq, seq, head_dim, values, values, values, batch=batch * heads, weight=False, count=layers),
        _matmul("context", seq, head_dim, seq, values, values, values, batch=batch * heads, weight=False, count=layers),
    ]
    head = _matmul("logits", rows, vocabulary, hidden, values, values, values)
    norm = Op(
        "norm",
        "norm",
        "aten.layer_norm",
        {"r": rows, "c": hidden},
        (
            tensor("norm.x", "input", "r c", values),
            tensor("norm.weight", "weight", "c", values),
            tensor("norm.bias", "weight", "c", values),
            tensor("norm.out", "output", "r c", values),
        ),
        {"add": 3.0, "mul": 3.0},
        count=2 * layers,
    )
    positions = seq * hidden * values.bytes
    weights = sum(op.operand_bytes("weight") * op.count for op in (*forward, norm, head)) + positions
    ops = [replace(op, count=op.count * 2) if recompute else op for op in (*forward, norm)] + [head]
    for op in (*forward, head):
        d = op.dims
        for part, (m, n, k) in (("input", (d["m"], d["k"], d["n"])), ("weight", (d["k"], d["n"], d["m"]))):
            ops.append(
                _matmul(
                    f"{op.name}.backward.{part}",
                    m,
                    n,
                    k,
                    values,
                    values,
                    values,
                    batch=d["b"],
                    weight=False,
                    count=op.count,
                )
            )
    return OpGraph("gpt", ops, memory=Memory(weights_bytes=weights), tokens=float(rows))


@builders.add()
def attention_training(batch: int, heads: int, seq: int, head_dim: int, values: NumberFormat = FP16) -> OpGraph:
    """Attention forward and backward as separate kernels: products, causal mask, softmax, dropout, all through memory.

    The kernels are those of ``attention_pytorch`` in benchmarks/benchmark_flash_attention.py of
    Dao-AILab/flash-attention and of its autograd: baddbmm, add mask, softmax, dropout (which keeps one byte an
    element), product with V; then dV, dP, dropout, softmax, dQ, dK.
    """
    pairs, wide = batch * heads, batch * heads * seq * seq
    flag = by_name("bool")

    def product(name: str, m: int, n: int, k: int) -> Op:
        return _matmul(name, m, n, k, values, values, values, batch=pairs, weight=False)

    def square(
        name: str,
        inputs: dict[str, NumberFormat],
        outputs: dict[str, NumberFormat],
        body: dict[str, float],
        extra: int = 0,
    ) -> Op:
        sources = [(each, wide, fmt) for each, fmt in inputs.items()] + ([("mask", extra, values)] if extra else [])
        return _pointwise(name, sources, [(each, wide, fmt) for each, fmt in outputs.items()], wide, body)

    softmax = Op(
        "softmax",
        "softmax",
        "aten.softmax",
        {"r": pairs * seq, "c": seq},
        (tensor("softmax.x", "input", "r c", values), tensor("softmax.out", "output", "r c", values)),
        {"add": 2.0, "exp": 1.0, "mul": 1.0, "cmp": 1.0},
    )
    return OpGraph(
        "attention training",
        [
            product("scores", seq, seq, head_dim),
            square("causal mask", {"scores": values}, {"out": values}, {"add": 1.0}, extra=seq * seq),
            softmax,
            square("dropout", {"p": values}, {"out": values, "kept": flag}, {"mul": 1.0, "cmp": 1.0}),
            product("values", seq, head_dim, seq),
            product("dv", seq, head_dim, seq),
            product("dp", seq, seq, head_dim),
            square("dropout backward", {"dp": values, "kept": flag}, {"out": values}, {"mul": 2.0}),
            square("softmax backward", {"p": values, "dp": values}, {"out": values}, {"mul": 2.0, "add": 2.0}),
            product("dq", seq, head_dim, seq),
            product("dk", seq, head_dim, seq),
        ],
        tokens=float(batch * seq),
    )
