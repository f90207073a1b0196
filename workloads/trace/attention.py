"""Formulas of fused attention.

Dimensions: b, h (KV heads), g (query heads per KV head), q and s (query and KV length), e (head dim of q and k).

An iteration point is one (b, h, g, q, s, e); per point there is one multiply-add of the scores, v_head_dim / e of the
weighted sum, and, per score (1 / e of a point), one exp, one multiply, two adds and one compare of the online softmax.
"""

from __future__ import annotations

import math
from typing import Any

from .registry import formula, words
from .values import Call, Draft, Value, read, write

_PASS_THROUGH = words("""
    aten.reshape aten.view aten._unsafe_view aten.clone aten.contiguous aten.to aten._to_copy aten.flatten
    aten.alias aten.detach aten.unsafe_chunk
""")


def visible(q: int, s: int, causal: bool, window: int, align_last: bool) -> float:
    """(query, key) pairs that a mask leaves, per head.

    Query i sits at position ``i + s - q`` when the last query sees the last key, else at i; it sees keys up to its own
    position, and of these the last `window` (0: all).
    """
    if not causal and not window:
        return float(q * s)
    shift = s - q if align_last else 0
    if causal:
        # Row i sees min(i + shift + 1, s) keys, of these the last `window`.
        cap = min(window, s) if window else s
        first = min(max(shift + 1, 0), cap)
        ramp = min(q, max(cap - shift, 0)) if shift < cap else 0
        rising = sum_range(first, ramp) if shift >= 0 else sum(min(max(i + shift + 1, 0), cap) for i in range(q))
        return float(rising + (q - ramp) * cap) if shift >= 0 else float(rising)
    reach = min(window, s)
    return float(
        sum(min(i + shift + reach, s) - max(i + shift - reach + 1, 0) for i in range(q) if i + shift - reach + 1 < s)
    )


def sum_range(first: int, count: int) -> int:
    """first + (first + 1) + ... of `count` terms."""
    return count * first + count * (count - 1) // 2


def true_kv_heads(k: Value, heads: int) -> int:
    """KV heads before they were repeated to match the query heads: follows copies and views back to an expand."""
    value = k
    for _ in range(8):
        call = value.producer
        if call is None or not call.values:
            return heads
        source = call.values[0]
        if call.packet == "aten.expand" and len(source.shape) == len(value.shape):
            grown = [
                n for d, (o, n) in enumerate(zip(source.shape, value.shape, strict=True)) if d > 0 and o == 1 and n > 1
            ]
            if grown and heads % grown[0] == 0:
                return heads // grown[0]
        elif call.packet == "aten.repeat_interleave":
            repeats = call.get("repeats")
            if isinstance(repeats, int) and heads % max(repeats, 1) == 0:
                return heads // max(repeats, 1)
            return heads
        elif call.packet not in _PASS_THROUGH:
            return heads
        value = source
    return heads


def attend(
    call: Call,
    q: Value,
    k: Value,
    v: Value,
    out: Value,
    *,
    mask: Value | None,
    is_causal: bool,
    backward: bool = False,
    window: int | None = None,
) -> Draft:
    """The op of one attention; GQA, windows and causality come from the call, the shapes and what the module says of
    itself.
    """
    e, v_head_dim = q.shape[-1], v.shape[-1]
    q_length, s = q.shape[-2], k.shape[-2]
    heads, k_heads = (q.shape[-3] if len(q.shape) > 2 else 1), (k.shape[-3] if len(k.shape) > 2 else 1)
    batch = math.prod(q.shape[:-3])
    facts = call.facts
    if k_heads == heads:
        kv_heads = true_kv_heads(k, heads)
        groups = facts.get("groups", 1)
        if (
            kv_heads == heads
            and groups > 1
            and heads == facts.get("kv_heads")
            and q_length % groups == 0
            and k.role == "cache"
        ):
            q_length //= groups  # the query heads of a group were packed into the query length
            heads *= groups
    else:
        kv_heads = k_heads
    groups = max(heads // max(kv_heads, 1), 1)
    known = window is not None  # a kernel that is told its window, rather than a mask that holds it
    window = window if window is not None else int(facts.get("window") or 0)
    causal = bool(is_causal or (mask is not None and facts.get("causal") and q_length > 1))
    if mask is None and not known:
        window = 0
    pairs = visible(q_length, s, causal, window if q_length > 1 else 0, align_last=mask is not None or known)
    if q_length == 1 and 0 < window < s:
        pairs = float(window)
    attributes: dict[str, Any] = {
        "causal": causal,
        "window": window,
        "v_head_dim": v_head_dim,
        "q_heads": heads,
        "kv_heads": kv_heads,
        "phase": "decode" if k.role == "cache" or (q_length == 1 and s > 1) else "prefill",
        "mask": mask is not None,
    }
    dims = {"b": batch, "h": kv_heads, "g": groups, "q": q_length, "s": s, "e": e}
    same = v_head_dim == e
    v_elements = None if same else batch * kv_heads * s * v_head_dim
    wide = None if same else batch * heads * q_length * v_head_dim
    ports = [read("q", q, "b h g q e"), read("k", k, "b h s e"), read("v", v, "b h s e", v_elements)]
    if mask is not None:
        ports.append(read("mask", mask, "q s", mask.stored))
    full = batch * heads * q_length * s * e
    iterations = None if pairs == q_length * s else float(batch * heads * e) * pairs
    body = {"mac": 1 + v_head_dim / e, "exp": 1 / e, "add": 2 / e, "mul": 1 / e, "cmp": 1 / e}
    if backward:
        # Scores are recomputed; then dV = P^T dO, dP = dO V^T, dQ = dS K, dK = dS^T Q.
        body = {"mac": 3 + 2 * v_head_dim / e, "exp": 1 / e, "add": 2 / e, "mul": 3 / e}
        attributes["backward"] = True
    if full == 0:
        iterations = None
    ports.append(write(out, "b h g q e", elements=wide))
    return Draft("attention", dims, ports, body, attributes, iterations)


@formula("aten.scaled_dot_product_attention", "aten._scaled_dot_product_attention_math")
def sdpa(call: Call) -> Draft:
    """The composite operator: query (.., H, q, e), key (.., Hk, s, e), value (.., Hk, s, ev)."""
    return attend(
        call,
        call["query"],
        call["key"],
        call["value"],
        call.out,
        mask=call.get("attn_mask"),
        is_causal=call["is_causal"],
    )


@formula("""
    aten._scaled_dot_product_flash_attention aten._scaled_dot_product_cudnn_attention
    aten._scaled_dot_product_flash_attention_for_cpu aten._scaled_dot_product_efficient_attention
    aten._scaled_dot_product_fused_attention_overrideable
""")
def fused(call: Call) -> Draft:
    """The kernels behind it; they also write the log of the softmax sum for the backward pass."""
    mask = call.get("attn_bias", call.get("attn_mask"))
    draft = attend(call, call["query"], call["key"], call["value"], call.out, mask=mask, is_causal=call["is_causal"])
    if len(call.outputs) > 1 and call.outputs[1].numel:
        draft.ports.append(write(call.outputs[1], "b h g q", "logsumexp", elements=call.outputs[1].numel))
    return draft


@formula("""
    aten._scaled_dot_product_flash_attention_backward aten._scaled_dot_product_efficient_attention_backward
    aten._scaled_dot_product_cudnn_attention_backward aten._scaled_dot_product_flash_attention_for_cpu_backward
    aten._scaled_dot_product_fused_attention_overrideable_backward
""")
def fused_backward(call: Call) -> Draft:
    """Gradients of query, key and value."""
    mask = call.get("attn_bias", call.get("attn_mask"))
    grad = call.values[0]
    draft = attend(
        call, call["query"], call["key"], call["value"], call.out, mask=mask, is_causal=call["is_causal"], backward=True
    )
    sizes = {"grad_k": "b h s e", "grad_v": "b h s e"}
    draft.ports.insert(3, read("grad_out", grad, "b h g q e", grad.stored))
    if call.get("out") is not None:
        draft.ports.insert(4, read("o", call["out"], "b h g q e", call["out"].stored))
    draft.ports[-1].name = "grad_q"
    draft.ports[-1].elements = None
    for (name, dims), value in zip(sizes.items(), call.outputs[1:3], strict=False):
        draft.ports.append(write(value, dims, name, elements=value.numel))
    return draft


@formula("presilicon.attention")
def told(call: Call) -> Draft:
    """A kernel with windows, soft caps (a tanh per score) and sinks (one more score per row)."""
    draft = attend(
        call,
        call["query"],
        call["key"],
        call["value"],
        call.out,
        mask=call["bias"],
        is_causal=call["is_causal"],
        window=call["window"],
    )
    e = call["query"].shape[-1]
    if call["softcap"]:
        draft.body |= {"tanh": 1 / e, "mul": 3 / e}
        draft.attributes["softcap"] = call["softcap"]
    if call["sinks"] is not None:
        draft.ports.insert(-1, read("sinks", call["sinks"], "h g"))
        draft.attributes["sinks"] = True
    return draft
