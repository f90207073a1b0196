"""Formulas of operators that only the backward pass launches."""

from __future__ import annotations

import math

from .elementwise import parse_bodies, pointwise
from .norm import normalise
from .registry import formula
from .values import Call, Draft, Value, read, write

#: Scalar operations per element of pointwise gradients.
POINTWISE = parse_bodies("""
    exp add*3 mul*3 div: silu_backward
    exp tanh mul*12 add*6: gelu_backward
    mul*2 add: tanh_backward sigmoid_backward
    cmp: hardtanh_backward
    cmp mul: leaky_relu_backward hardsigmoid_backward
    exp mul*2: elu_backward log_sigmoid_backward
    exp div add: softplus_backward
    cmp*2 mul*2: hardswish_backward
    mul*2: native_dropout_backward
    add mul*2: mse_loss_backward
    exp mul*4: glu_backward
    exp tanh mul*4: mish_backward
    cmp*2 mul: smooth_l1_loss_backward
    cmp mul*2: _prelu_kernel_backward
    div mul*2: binary_cross_entropy_backward
    div: logit_backward
    mul*3: rsqrt_backward
""")


def _register() -> None:
    for name, body in POINTWISE.items():

        def run(call: Call, body: dict[str, float] = body) -> Draft:
            return pointwise(call, body)

        run.__name__ = name
        formula(f"aten.{name}")(run)


_register()


@formula("aten._softmax_backward_data", "aten._log_softmax_backward_data")
def softmax_backward(call: Call) -> Draft:
    """grad * y minus y times its row sum."""
    grad, axis = call["grad_output"], call["dim"]
    cols = grad.shape[axis] if grad.shape else 1
    ports = [read("x0", grad, "r c"), read("x1", call["output"], "r c"), write(call.out, "r c")]
    return Draft(
        "softmax", {"r": grad.numel // max(cols, 1), "c": cols}, ports, {"mul": 2.0, "add": 2.0}, {"backward": True}
    )


def _rows(call: Call, x: Value) -> int:
    """Sets of statistics: leading rows (layer norm), groups of an image (group norm), or channels (batch norm)."""
    if call.get("normalized_shape") is not None:
        return x.numel // max(math.prod(call["normalized_shape"]), 1)
    return x.shape[0] * int(call["group"]) if call.get("group") else x.shape[1]


@formula("""
    aten.native_layer_norm_backward aten._fused_rms_norm_backward aten.native_group_norm_backward
    aten.native_batch_norm_backward aten.cudnn_batch_norm_backward aten.batch_norm_backward
    aten._fused_layer_norm_backward
""")
def norm_backward(call: Call) -> Draft:
    """Gradient of the input (two row sums) and, in a second kernel, of scale and shift (two column sums)."""
    grad = call.get("grad_out", call.get("grad_output"))
    x = call.get("input") or call.values[1]
    rows = _rows(call, x)
    extra = [(f"x{i}", v) for i, v in enumerate(call.values, 2) if v is not grad and v is not x]
    out = call.outputs[0] if call.outputs else grad
    draft = normalise(x, out, rows, {"add": 6.0, "mul": 7.0}, extra, launches=2)
    draft.ports.insert(1, read("x1", grad, "r c", grad.stored))
    for i, value in enumerate(call.outputs[1:], 1):
        if value.numel:
            draft.ports.append(write(value, "c", f"out{i}", elements=value.numel))
    draft.attributes["backward"] = True
    return draft


@formula("aten.embedding_dense_backward", "aten.embedding_backward")
def embedding_backward(call: Call) -> list[Draft]:
    """The gradient is zeroed, indices are sorted, rows are added."""
    grad, indices, out = call["grad_output"], call["indices"], call.out
    width = grad.shape[-1]
    ports = [
        read("x0", grad, "n c"),
        read("index", indices, "n"),
        write(out, "n c", elements=min(indices.numel * width, out.numel)),
    ]
    return [
        Draft("copy", {"n": out.numel}, [write(out, "n")], suffix="zeros"),
        Draft("gather", {"n": indices.numel, "c": width}, ports, {"add": 1.0}, {"scatter": True, "launches": 4}),
    ]


@formula("aten.nll_loss_backward", "aten.nll_loss2d_backward")
def nll_loss_backward(call: Call) -> Draft:
    """A zeroed gradient with one element per row."""
    n = call.out.numel
    return Draft(
        "elementwise",
        {"n": n},
        [read("target", call["target"], "n", call["target"].numel), write(call.out, "n")],
        {"add": 1.0},
        {"launches": 2},
    )


@formula("""
    aten.slice_backward aten.select_backward aten.diagonal_backward aten.constant_pad_nd_backward
    aten.reflection_pad2d_backward aten.value_selecting_reduction_backward aten.index_select_backward
    aten.trace_backward aten.reflection_pad1d_backward aten.replication_pad2d_backward aten.expand_backward
""")
def placed(call: Call) -> Draft:
    """A zeroed tensor with the gradient copied into a part of it."""
    grad, out = call.values[0], call.out
    return Draft(
        "copy", {"n": out.numel}, [read("x0", grad, "n", grad.stored), write(out, "n")], attributes={"launches": 2}
    )


@formula("""
    aten.max_pool2d_with_indices_backward aten.avg_pool2d_backward aten._adaptive_avg_pool2d_backward
    aten.adaptive_max_pool2d_backward aten.upsample_bilinear2d_backward aten.upsample_nearest2d_backward
    aten.upsample_bicubic2d_backward aten.avg_pool3d_backward aten.max_pool3d_with_indices_backward
    aten.grid_sampler_2d_backward aten.upsample_linear1d_backward
""")
def spread(call: Call) -> Draft:
    """Each gradient element is added to the pixels that made it."""
    n = max(call.out.numel, call.values[0].numel)
    ports = [read(f"x{i}", v, "n", v.stored) for i, v in enumerate(call.values)]
    ports.append(write(call.out, "n", elements=call.out.numel))
    return Draft("elementwise", {"n": n}, ports, {"add": 1.0, "mul": 1.0})


@formula("""
    aten.gather_backward aten.cumsum_backward aten.topk_backward aten.index_backward aten.sort_backward
""")
def moved(call: Call) -> Draft:
    """Gradients that move through an index."""
    n = call.out.numel
    ports = [read(f"x{i}", v, "n", v.stored) for i, v in enumerate(call.values)]
    ports.append(write(call.out, "n"))
    return Draft("elementwise", {"n": n}, ports, {"add": 1.0}, {"launches": 2})
