"""Formulas of convolutions: dimensions b (batch), p q z (pixels), m and c (channels of a group), r s t (window), g
(groups).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..op import Axis
from .registry import formula
from .values import Call, Draft, Port, Value

_PIXELS = ("p", "q", "z")
_WINDOW = ("r", "s", "t")


def convolve(
    x: Value,
    w: Value,
    out: Value,
    bias: Value | None,
    stride: list[int],
    padding: str | Sequence[int],
    dilation: list[int],
    groups: int,
    transposed: bool = False,
    backward: str = "",
) -> Draft:
    """A convolution; a transposed one runs over the pixels of its input and scatters into its output.

    `x`, `w` and `out` are the operands of the forward convolution; with `backward` ("input" or "weight") the same
    points are visited but that operand is the one written.
    """
    spatial = len(w.shape) - 2
    stride, dilation = _spread(stride, spatial), _spread(dilation, spatial)
    small, large = (x, out) if transposed else (out, x)
    unbatched = len(x.shape) == spatial + 1
    pixels = small.shape[-spatial:]
    dims = {"b": 1 if unbatched else x.shape[0], "g": groups}
    if transposed:
        dims |= {"m": w.shape[1], "c": w.shape[0] // groups}
    else:
        dims |= {"m": w.shape[0] // groups, "c": w.shape[1]}
    dims |= {_PIXELS[i]: pixels[i] for i in range(spatial)} | {_WINDOW[i]: w.shape[2 + i] for i in range(spatial)}
    here: tuple[Axis, ...] = tuple(((_PIXELS[i], 1),) for i in range(spatial))
    there: tuple[Axis, ...] = tuple(((_PIXELS[i], stride[i]), (_WINDOW[i], dilation[i])) for i in range(spatial))
    batch: tuple[Axis, ...] = ((("b", 1),),)
    in_channels: Axis = (("g", dims["c"]), ("c", 1))
    out_channels: Axis = (("g", dims["m"]), ("m", 1))
    window: tuple[Axis, ...] = tuple(((_WINDOW[i], 1),) for i in range(spatial))
    x_axes = (*batch, in_channels, *(here if transposed else there))
    out_axes = (*batch, out_channels, *(there if transposed else here))
    w_axes = (in_channels, (("m", 1),), *window) if transposed else (out_channels, (("c", 1),), *window)
    ports = [
        Port(x, "a", x_axes, backward == "input", x.stored if not transposed else None),
        Port(w, "w", w_axes, backward == "weight"),
        Port(out, "out", out_axes, not backward, out.numel if transposed else None),
    ]
    if bias is not None:
        ports.insert(2, Port(bias, "bias", (out_channels,)))
    if backward:
        ports.sort(key=lambda port: port.output)
    attributes = {
        "stride": stride,
        "padding": padding if isinstance(padding, str) else list(padding),
        "dilation": dilation,
        "groups": groups,
        "transposed": transposed,
    }
    if backward:
        attributes["backward"] = backward
    if large.numel == 0:
        attributes["empty"] = True
    return Draft("conv", dims, ports, {"mac": 1.0}, attributes, suffix=f"grad_{backward}" if backward else "")


def _spread(values: list[int] | int, n: int) -> list[int]:
    items = [values] if isinstance(values, int) else list(values)
    return items * n if len(items) == 1 else items


def _forward(call: Call, *, transposed: bool) -> Draft:
    bias, stride, padding, dilation, groups = (call.get(name) for name in ("bias", "stride", "padding", "dilation", "groups"))
    return convolve(call["input"], call["weight"], call.out, bias, stride, padding, dilation, groups, transposed=transposed)


@formula("aten.conv1d", "aten.conv2d", "aten.conv3d")
def conv(call: Call) -> Draft:
    """conv1d, conv2d, conv3d; padding may be "same" or "valid"."""
    return _forward(call, transposed=False)


@formula("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def conv_transpose(call: Call) -> Draft:
    """Transposed convolutions."""
    return _forward(call, transposed=True)


@formula("aten.convolution", "aten._convolution")
def convolution(call: Call) -> Draft:
    """The general form."""
    return convolve(
        call["input"],
        call["weight"],
        call.out,
        call.get("bias"),
        call["stride"],
        call["padding"],
        call["dilation"],
        call["groups"],
        transposed=call["transposed"],
    )


@formula("aten.convolution_backward")
def convolution_backward(call: Call) -> list[Draft]:
    """Gradients of input and weight, each as many multiply-adds as the forward convolution, and of the bias."""
    grad, x, w = call["grad_output"], call["input"], call["weight"]
    mask = call["output_mask"]
    outputs = iter(call.outputs)
    drafts = []
    for wanted, kind in zip(mask, ("input", "weight", "bias"), strict=True):
        if not wanted:
            continue
        out = next(outputs, None)
        if out is None:
            continue
        if kind == "bias":
            rows = out.numel
            drafts.append(
                Draft(
                    "reduce",
                    {"r": rows, "c": grad.numel // max(rows, 1)},
                    [Port(grad, "x0", ((("r", 1),), (("c", 1),))), Port(out, "out", ((("r", 1),),), True)],
                    {"add": 1.0},
                    suffix="grad_bias",
                )
            )
            continue
        drafts.append(
            convolve(
                out if kind == "input" else x,
                out if kind == "weight" else w,
                grad,
                None,
                call["stride"],
                call["padding"],
                call["dilation"],
                call["groups"],
                call["transposed"],
                backward=kind,
            )
        )
    return drafts
