"""Formulas of normalisations and softmax: dimensions r (rows that share statistics) and c (their length)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .registry import formula
from .values import Call, Draft, Port, Value, read, write

#: Per element: sum, then centred sum of squares (one add, one multiply each with the subtraction), then scale and
#: shift.
LAYER_NORM = {"add": 4.0, "mul": 3.0}
RMS_NORM = {"add": 1.0, "mul": 3.0}
SOFTMAX = {"cmp": 1.0, "add": 2.0, "exp": 1.0, "mul": 1.0}


def normalise(
    x: Value,
    out: Value,
    rows: int,
    body: dict[str, float],
    extra: Sequence[tuple[str, Value | None]],
    *,
    launches: int = 1,
) -> Draft:
    """A normalisation over rows of equal length; `extra` are its scale, shift and statistics."""
    cols = x.numel // max(rows, 1)
    ports = [read("x0", x, "r c", None if x.stored == rows * cols else x.stored)]
    ports += [read(name, value, "c", value.stored) for name, value in extra if value is not None]
    ports.append(write(out, "r c"))
    body = dict(body)
    if cols:
        body["rsqrt"] = 1.0 / cols
    return Draft("norm", {"r": rows, "c": cols}, ports, body, {} if launches == 1 else {"launches": launches})


@formula("aten.layer_norm", "aten.native_layer_norm")
def layer_norm(call: Call) -> Draft:
    """Over the trailing `normalized_shape`."""
    x = call["input"]
    rows = x.numel // max(math.prod(call["normalized_shape"]), 1)
    draft = normalise(x, call.out, rows, LAYER_NORM, [("weight", call.get("weight")), ("bias", call.get("bias"))])
    return _statistics(draft, call)


@formula("aten.rms_norm", "aten._fused_rms_norm")
def rms_norm(call: Call) -> Draft:
    """Over the trailing `normalized_shape`."""
    x = call["input"]
    rows = x.numel // max(math.prod(call["normalized_shape"]), 1)
    return _statistics(normalise(x, call.out, rows, RMS_NORM, [("weight", call.get("weight"))]), call)


def _statistics(draft: Draft, call: Call) -> Draft:
    for i, value in enumerate(call.outputs[1:], 1):
        if value.numel:
            draft.ports.append(write(value, "r", f"out{i}", elements=value.numel))
    return draft


@formula("aten.group_norm", "aten.native_group_norm")
def group_norm(call: Call) -> Draft:
    """Over the channels of a group and all pixels, per image."""
    x = call["input"]
    groups = call.get("num_groups") or call.get("group") or 1
    extra = [("weight", call.get("weight")), ("bias", call.get("bias"))]
    return _statistics(normalise(x, call.out, x.shape[0] * groups, LAYER_NORM, extra), call)


@formula("""
    aten.batch_norm aten.native_batch_norm aten._native_batch_norm_legit aten.cudnn_batch_norm
    aten._batch_norm_impl_index aten._native_batch_norm_legit_no_training aten._batch_norm_with_update
    aten._batch_norm_no_update aten.miopen_batch_norm aten._native_batch_norm_legit_functional
""")
def batch_norm(call: Call) -> Draft:
    """Inference: a scale and a shift per channel from the running statistics. Training: statistics over batch and
    pixels.
    """
    x = call["input"]
    training = bool(call.get("training", call.get("train", "no_training" not in call.packet)))
    channels = x.shape[1] if len(x.shape) > 1 else 1
    extra = [(name, call.get(name)) for name in ("weight", "bias", "running_mean", "running_var")]
    return _statistics(
        normalise(x, call.out, channels, LAYER_NORM if training else {"add": 2.0, "mul": 2.0}, extra), call
    )


@formula("aten.instance_norm")
def instance_norm(call: Call) -> Draft:
    """Over the pixels of each channel of each image."""
    x = call["input"]
    return normalise(
        x, call.out, x.shape[0] * x.shape[1], LAYER_NORM, [("weight", call.get("weight")), ("bias", call.get("bias"))]
    )


@formula("aten.linalg_vector_norm", "aten.norm", "aten.linalg_norm")
def vector_norm(call: Call) -> Draft:
    """A norm over some axes, as a reduction."""
    x, out = call["self"], call.out
    rows = max(out.numel, 1)
    cols = x.numel // rows
    return Draft(
        "reduce",
        {"r": rows, "c": cols},
        [read("x0", x, "r c"), write(out, "r")],
        {"add": 1.0, "mul": 1.0, "rsqrt": 1.0 / max(cols, 1)},
    )


@formula("""
    aten.softmax aten._softmax aten.log_softmax aten._log_softmax aten._safe_softmax aten.special_softmax
""")
def softmax(call: Call) -> Draft:
    """Along one axis; computed in the output's format."""
    x, out = call["self"], call.out
    axis = call.get("dim", -1)
    cols = x.shape[axis] if x.shape else 1
    rows = x.numel // max(cols, 1)
    ports: list[Port] = [read("x0", x, "r c"), write(out, "r c")]
    return Draft("softmax", {"r": rows, "c": cols}, ports, dict(SOFTMAX))


@formula("aten.logsumexp", "aten._logcumsumexp")
def logsumexp(call: Call) -> Draft:
    """log sum exp over some axes."""
    x, out = call["self"], call.out
    rows = max(out.numel, 1)
    return Draft(
        "softmax",
        {"r": rows, "c": x.numel // rows},
        [read("x0", x, "r c"), write(out, "r")],
        {"cmp": 1.0, "add": 2.0, "exp": 1.0},
    )


@formula("aten._weight_norm_interface", "aten._weight_norm")
def weight_norm(call: Call) -> Draft:
    """A weight scaled to a given norm along one axis."""
    v, g = call["v"], call["g"]
    rows = max(g.numel, 1)
    return _statistics(normalise(v, call.out, rows, {"add": 1.0, "mul": 2.0}, [("g", g)]), call)
