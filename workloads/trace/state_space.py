"""Formulas of the fused scans of `fused_scans`: kind ``scan``, with the kernel's variant and sizes as attributes.

Counts are those of the chunked algorithms: Mamba-2 (Dao and Gu 2024, section 6) and the gated delta rule (Yang et al.
2024, section 3), per token of a chunk of Q tokens.
"""

from __future__ import annotations

from typing import Any

from .registry import formula
from .values import Call, Draft, Port, read, write


def _scan(
    call: Call,
    dims: dict[str, int],
    axes: dict[str, str],
    outputs: dict[str, str],
    body: dict[str, float],
    attributes: dict[str, Any],
) -> Draft:
    """A scan op: arguments by name and the dimensions that index them; each tensor counts what it stores."""
    ports: list[Port] = []
    for name, names in axes.items():
        value = call.get(name)
        if value is not None:
            ports.append(read(name, value, names, elements=value.stored))
    ports += [write(v, names, name, v.numel) for (name, names), v in zip(outputs.items(), call.outputs, strict=False)]
    for name in call.mutated:
        ports.append(write(call[name], axes[name], f"{name}_new", call[name].numel))
    return Draft("scan", dims, ports, body, attributes)


@formula("presilicon.mamba1_scan")
def mamba1_scan(call: Call) -> Draft:
    """Dimensions b, d (channels), l (length), n (state); a point decays and updates one state element and reads it."""
    x, a = call["x"], call["a"]
    dims = {"b": x.shape[0], "d": x.shape[1], "l": x.shape[2], "n": a.shape[1]}
    axes = {"x": "b d l", "dt": "b d l", "a": "d n", "b": "b n l", "c": "b n l", "d": "d", "z": "b d l", "dt_bias": "d"}
    body = {"exp": 1.0 + 2.0 / dims["n"], "mul": 3.0, "mac": 2.0, "log": 1.0 / dims["n"]}
    return _scan(call, dims, axes, {"out": "b d l", "state": "b d n"}, body, {"variant": "mamba1_scan"})


@formula("presilicon.mamba2_scan")
def mamba2_scan(call: Call) -> Draft:
    """Dimensions b, l, h (heads), p (head dim), n (state).

    Per token: Q n for C B^T (shared by a group), and per head Q p for its product with x, 2 n p for the states.
    """
    x, b, chunk = call["x"], call["b"], call["chunk"]
    batch, length, heads, width = x.shape
    groups, n = b.shape[2], b.shape[3]
    dims = {"b": batch, "l": length, "h": heads, "p": width, "n": n}
    axes = {"x": "b l h p", "dt": "b l h", "a": "h", "b": "b l n", "c": "b l n", "d": "h", "initial": "b h p n"}
    mac = 2.0 + chunk / n + groups * chunk / (heads * width)
    body = {"mac": mac, "exp": chunk / (width * n), "mul": chunk / (width * n)}
    attributes = {
        "variant": "mamba2_scan",
        "batch": batch,
        "seq_len": length,
        "heads": heads,
        "head_dim": width,
        "state_dim": n,
        "groups": groups,
        "chunk": chunk,
        "launches": 5,
    }
    return _scan(call, dims, axes, {"out": "b l h p", "state": "b h p n"}, body, attributes)


@formula("presilicon.mamba2_update")
def mamba2_update(call: Call) -> Draft:
    """One token: dimensions b, h, p, n (or b, p, n for Mamba-1, whose channels stand for heads)."""
    state, x = call["state"], call["x"]
    heads, width = (state.shape[1], state.shape[2]) if len(state.shape) == 4 else (state.shape[1], 1)
    n = state.shape[-1]
    dims = {"b": state.shape[0], "h": heads, "p": width, "n": n}
    axes = {
        "state": "b h p n",
        "x": "b h p",
        "dt": "b h p",
        "a": "h p n",
        "b": "b n",
        "c": "b n",
        "d": "h p",
        "z": "b h p",
    }
    body = {"mac": 2.0, "mul": 2.0, "exp": 1.0 + 1.0 / n}
    attributes = {"variant": "mamba2_update", "batch": x.shape[0], "heads": heads, "head_dim": width, "state_dim": n}
    return _scan(call, dims, axes, {"out": "b h p"}, body, attributes)


@formula("presilicon.causal_conv1d")
def causal_conv1d(call: Call) -> Draft:
    """Depthwise, with its activation: dimensions b, d, l, w (window)."""
    x, weight = call["x"], call["weight"]
    w = weight.shape[-1]
    dims = {"b": x.shape[0], "d": x.shape[1], "l": x.shape[2], "w": w}
    axes = {"x": "b d l", "weight": "d w", "bias": "d"}
    body = {"mac": 1.0} | ({"exp": 1 / w, "add": 1 / w, "div": 1 / w} if call["activation"] else {})
    attributes = {
        "variant": "causal_conv1d",
        "batch": dims["b"],
        "seq_len": dims["l"],
        "channels": dims["d"],
        "width": w,
    }
    return _scan(call, dims, axes, {"out": "b d l"}, body, attributes)


@formula("presilicon.causal_conv1d_update")
def causal_conv1d_update(call: Call) -> Draft:
    """One token (or a few): the window shifts by them."""
    x, weight = call["x"], call["weight"]
    w = weight.shape[-1]
    dims = {"b": x.shape[0], "d": x.shape[1], "l": x.shape[-1] if len(x.shape) == 3 else 1, "w": w}
    axes = {"x": "b d l", "state": "b d w", "weight": "d w", "bias": "d"}
    body = {"mac": 1.0} | ({"exp": 1 / w, "add": 1 / w, "div": 1 / w} if call["activation"] else {})
    attributes = {"variant": "causal_conv1d_update", "batch": dims["b"], "channels": dims["d"], "width": w}
    return _scan(call, dims, axes, {"out": "b d l"}, body, attributes)


@formula("presilicon.gated_delta")
def gated_delta(call: Call) -> Draft:
    """Dimensions b, l, h (value heads), k and v (head dims).

    Per token and head: 3 Q k + 2 Q v for the products inside a chunk, Q^2 / 3 for the triangular inverse, 3 k v for the
    state.
    """
    key, value, chunk = call["key"], call["value"], call["chunk"]
    batch, length, heads, v = value.shape
    k = key.shape[3]
    dims = {"b": batch, "l": length, "h": heads, "k": k, "v": v}
    axes = {
        "query": "b l h k",
        "key": "b l h k",
        "value": "b l h v",
        "g": "b l h",
        "beta": "b l h",
        "initial": "b h k v",
    }
    mac = 3.0 + chunk * (3.0 / v + 2.0 / k) + chunk * chunk / (3.0 * k * v)
    body = {"mac": mac, "exp": chunk / (k * v), "mul": chunk / (k * v)}
    attributes = {
        "variant": "gated_delta",
        "batch": batch,
        "seq_len": length,
        "key_heads": key.shape[2],
        "value_heads": heads,
        "key_dim": k,
        "value_dim": v,
        "chunk": chunk,
        "launches": 6,
    }
    return _scan(call, dims, axes, {"out": "b l h v", "state": "b h k v"}, body, attributes)


@formula("presilicon.gated_delta_update")
def gated_delta_update(call: Call) -> Draft:
    """One token: the state decays, is corrected by what it holds for the key, and is read by the query."""
    key, value = call["key"], call["value"]
    batch, length, heads, v = value.shape
    k = key.shape[3]
    dims = {"b": batch, "l": length, "h": heads, "k": k, "v": v}
    axes = {
        "query": "b l h k",
        "key": "b l h k",
        "value": "b l h v",
        "g": "b l h",
        "beta": "b l h",
        "initial": "b h k v",
    }
    attributes = {"variant": "gated_delta_update", "batch": batch, "value_heads": heads, "key_dim": k, "value_dim": v}
    return _scan(call, dims, axes, {"out": "b l h v", "state": "b h k v"}, {"mac": 3.0, "mul": 1.0}, attributes)


@formula("presilicon.rwkv_scan")
def rwkv_scan(call: Call) -> Draft:
    """RWKV-4: dimensions b, l, d; a point takes four exponentials and a quotient, and updates two running sums."""
    batch, length, width = call["key"].shape
    axes = {"decay": "d", "first": "d", "key": "b l d", "value": "b l d", "num": "b d", "den": "b d", "top": "b d"}
    outputs = {"out": "b l d", "num_new": "b d", "den_new": "b d", "top_new": "b d"}
    body = {"exp": 4.0, "mul": 6.0, "add": 8.0, "div": 1.0, "cmp": 2.0}
    return _scan(call, {"b": batch, "l": length, "d": width}, axes, outputs, body, {"variant": "rwkv_scan"})
