"""Decode and prefill steps of Llama-like models as a serving framework runs them: fused kernels, one device's share."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

from ...errors import CaseError
from ...workloads import Op, OpGraph, tensor
from ...workloads.models import load_config

#: What a configuration of a model like Llama says.
_SIZES: Final = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
#: Share of a GPU's memory that vLLM takes (its default, gpu_memory_utilization).
MEMORY_SHARE: Final = 0.9


def llama_config(model: str) -> tuple[str, dict[str, Any]]:
    """Name and sizes of a Llama by its name; CaseError for a model of another kind, whose configuration lacks one of them."""
    name, config = load_config(model)
    config = {**config, "num_key_value_heads": config.get("num_key_value_heads") or config.get("num_attention_heads")}
    lacking = [size for size in _SIZES if not config.get(size)]
    if lacking:
        raise CaseError(f"{model}: expected a model like Llama; its configuration lacks {', '.join(lacking)}")
    return name, config


def llama_step(
    model: str, devices: int, requests: int, tokens: int, keys: int, parts: tuple[str, ...] = ("products", "attention")
) -> OpGraph:
    """One device's share of one step of a Llama: fused QKV, gate and up, norm with residual, rotary with cache write, attention.

    Parameters
    ----------
    model
        Name of a configuration.
    devices
        Devices that share heads, feed-forward width and vocabulary (tensor parallelism); collectives are not in the graph.
    requests, tokens, keys
        Requests, new tokens of each, and keys that each then attends to (a prefill: `tokens` and `keys` are equal).
    parts
        ``products``: everything but attention; ``attention``.

    Source: the kernels of vLLM's Llama (public).
    """
    name, config = llama_config(model)
    hidden, ffn, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    vocabulary, dim = config["vocab_size"], hidden // heads
    if heads % devices or kv % devices:
        raise CaseError(f"{name}: {heads} heads and {kv} KV heads over {devices} devices do not divide")
    rows, own, own_kv, wide = requests * tokens, heads // devices, kv // devices, ffn // devices

    def linear(name: str, n: int, k: int, m: int = rows, count: int = layers) -> Op:
        operands = (tensor("a", "input", "m k", "fp16"), tensor("w", "weight", "k n", "fp16"), tensor("out", "output", "m n", "fp16"))
        return Op(name, "matmul", "linear", {"m": m, "n": n, "k": k}, operands, {"mac": 1.0}, count=count)

    def point(name: str, kind: Any, width: int, body: dict[str, float], inputs: int, outputs: int = 1) -> Op:
        operands = [tensor(f"x{i}", "input", "r c", "fp16") for i in range(inputs)]
        operands += [tensor(f"y{i}", "output", "r c", "fp16") for i in range(outputs)]
        return Op(name, kind, name, {"r": rows, "c": width}, tuple(operands), body, count=layers)

    prefill = tokens > 1
    kept: Any = "input" if prefill else "cache"
    share = (tokens * keys - tokens * (tokens - 1) // 2) / (tokens * keys)
    attention = Op(
        "attention", "attention", "sdpa", {"b": requests, "h": own_kv, "g": own // own_kv, "q": tokens, "s": keys, "e": dim},
        (tensor("q", "input", "b h g q e", "fp16"), tensor("k", kept, "b h s e", "fp16"), tensor("v", kept, "b h s e", "fp16"),
         tensor("out", "output", "b h g q e", "fp16")),
        {"mac": 2.0, "exp": 1.0 / dim, "add": 2.0 / dim, "mul": 1.0 / dim},
        {"phase": "prefill", "causal": True} if prefill else {"phase": "decode"},
        iterations=requests * own * tokens * keys * dim * share, count=layers)
    norm = {"add": 2.0, "mul": 3.0, "rsqrt": 1.0 / hidden}
    ops = [
        point("norm_1", "norm", hidden, norm, 2, 2), linear("qkv", (own + 2 * own_kv) * dim, hidden),
        point("rotary", "elementwise", (own + 2 * own_kv) * dim, {"mul": 2.0, "add": 1.0}, 1), attention,
        linear("o", hidden, own * dim), point("norm_2", "norm", hidden, norm, 2, 2), linear("gate_up", 2 * wide, hidden),
        point("silu", "elementwise", wide, {"exp": 1.0, "add": 1.0, "mul": 2.0, "div": 1.0}, 2), linear("down", hidden, wide),
        linear("lm_head", vocabulary // devices, hidden, requests, 1)]
    ops = [op for op in ops if ("attention" if op.kind == "attention" else "products") in parts]
    edges = [(a.name, b.name, "out") for a, b in pairwise(ops)]
    return OpGraph(f"{name} {'prefill' if prefill else 'decode'}", ops, edges, tokens=float(rows))


def sizes(model: str) -> tuple[float, float]:
    """Bytes of the weights, and of one token's keys and values, at 16 bits."""
    _, c = llama_config(model)
    hidden, layers, heads = c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"]
    kv = c["num_key_value_heads"] * (hidden // heads)
    weights = layers * hidden * (2.0 * hidden + 2.0 * kv + 3.0 * c["intermediate_size"]) + 2.0 * c["vocab_size"] * hidden
    return 2.0 * weights, 4.0 * layers * kv
