"""Formulas of scans along a sequence, and of the fused state-space and recurrent kernels."""

from __future__ import annotations

from .reduce import along
from .registry import formula
from .values import Call, Draft, read, write


@formula("""
    aten.cumsum aten.cumsum_ aten.cumprod aten.cumprod_ aten.cummax aten.cummin aten._cummax_helper
""")
def cumulative(call: Call) -> Draft:
    """A prefix operation along one axis: dimensions r, c."""
    variant = call.packet.removeprefix("aten.").rstrip("_")
    body = (
        {"mul": 1.0}
        if "prod" in variant
        else {"cmp": 1.0}
        if "m" in variant[3:5] and "sum" not in variant
        else {"add": 1.0}
    )
    return along(call, "scan", body if call["self"].is_float else {"int": 1.0}, variant=variant)


@formula("""
    aten.lstm aten.gru aten.rnn_tanh aten.rnn_relu aten._thnn_fused_lstm_cell aten._thnn_fused_gru_cell
    aten._cudnn_rnn
""")
def recurrent(call: Call) -> Draft:
    """A recurrent layer stack: every weight matrix meets every time step in order. Dimensions n (steps times batch), k
    (weights).
    """
    values = call.values
    x = values[0]
    weights = [v for v in values if v.role == "weight" and len(v.shape) == 2]
    steps = x.numel // max(x.shape[-1], 1)
    per_step = sum(v.numel for v in weights)
    ports = [read("x0", x, "n", x.stored)]
    ports += [read(f"w{i}", w, "k", w.numel) for i, w in enumerate(weights)]
    ports.append(write(call.out, "n", elements=call.out.numel))
    return Draft(
        "scan",
        {"n": steps, "k": per_step},
        ports,
        {"mac": 1.0},
        {"variant": call.packet.removeprefix("aten."), "steps": steps},
    )


@formula("""
    aten.fft_rfft aten.fft_irfft aten.fft_fft aten.fft_ifft aten._fft_r2c aten._fft_c2r aten._fft_c2c
    aten.fft_rfft2 aten.fft_irfft2 aten.fft_fftn aten.fft_ifftn aten.fft_rfftn aten.fft_irfftn aten.fft_fft2
    aten.fft_ifft2
""")
def fft(call: Call) -> Draft:
    """2.5 log2 n adds and multiplies per point (radix-2 count, halves each way)."""
    import math

    x, out = call["self"], call.out
    n = max(x.numel, out.numel)
    length = max(x.shape[-1] if x.shape else 1, 2)
    depth = math.log2(length)
    ports = [read("x0", x, "n", x.stored), write(out, "n", elements=out.numel)]
    return Draft("elementwise", {"n": n}, ports, {"add": 1.5 * depth, "mul": depth}, {"fft": length})
