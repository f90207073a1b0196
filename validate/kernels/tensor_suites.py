"""Suites of convolution and linear attention."""

from __future__ import annotations

from typing import Any, Final

from . import tensor_ops
from .suite import Config, Launch, Place, Shape, Suite, Tensors, cdiv, tile


def conv_of(batch: int, size: int, channels: int, filters: int, kernel: int, stride: int = 1, dtype: str = "bfloat16") -> dict[str, Any]:
    """Fields of a convolution with "same" padding."""
    return {
        "batch": batch,
        "size": size,
        "channels": channels,
        "filters": filters,
        "kernel": kernel,
        "stride": stride,
        "pad": kernel // 2,
        "dtype": dtype,
    }


def _out_size(shape: Shape) -> int:
    return (int(shape["size"]) + 2 * int(shape["pad"]) - int(shape["kernel"])) // int(shape["stride"]) + 1


def _conv_tensors(shape: Shape, place: Place) -> Tensors:
    b, size, c, f, r = (int(shape[n]) for n in ("batch", "size", "channels", "filters", "kernel"))
    out, dtype = _out_size(shape), str(shape["dtype"])
    return {
        "x": place.normal(b, size, size, c, dtype=dtype),
        "w": place.normal(f, r, r, c, dtype=dtype),
        "out": place.empty(b, out, out, f, dtype=dtype),
    }


def _conv_gemm(shape: Shape) -> tuple[int, int, int]:
    return int(shape["batch"]) * _out_size(shape) ** 2, int(shape["filters"]), int(shape["channels"]) * int(shape["kernel"]) ** 2


def _conv(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    size, out, m = int(shape["size"]), _out_size(shape), _conv_gemm(shape)[0]
    meta = {
        "CHANNELS": shape["channels"],
        "FILTERS": shape["filters"],
        "R": shape["kernel"],
        "S": shape["kernel"],
        "STRIDE": shape["stride"],
        "PAD": shape["pad"],
    }
    grid = cdiv(m, int(config["BLOCK_M"])) * cdiv(int(shape["filters"]), int(config["BLOCK_N"]))
    return [Launch(tensor_ops.conv2d, (grid,), (t["x"], t["w"], t["out"], shape["batch"], size, size, out, out), {**config, **meta})]


def _conv_reference(shape: Shape, t: Tensors) -> Any:
    import torch

    x, w = (t[n].float().permute(0, 3, 1, 2) for n in ("x", "w"))
    with torch.backends.cudnn.flags(allow_tf32=False):
        return torch.nn.functional.conv2d(x, w, stride=int(shape["stride"]), padding=int(shape["pad"])).permute(0, 2, 3, 1)


def _conv_flops(shape: Shape) -> int:
    m, n, k = _conv_gemm(shape)
    return 2 * m * n * k


def _conv_bytes(shape: Shape) -> int:
    m, n, k = _conv_gemm(shape)
    return 2 * (int(shape["batch"]) * int(shape["size"]) ** 2 * int(shape["channels"]) + n * k + m * n)


def _scan_tensors(shape: Shape, place: Place) -> Tensors:
    h, t, dk, dv = (int(shape[n]) for n in ("heads", "t", "key_dim", "value_dim"))
    dtype = str(shape["dtype"])
    return {
        "q": place.normal(h, t, dk, dtype=dtype),
        "k": place.normal(h, t, dk, dtype=dtype, scale=dk**-0.5),
        "v": place.normal(h, t, dv, dtype=dtype),
        "decay": place.uniform(h, t, low=-0.2, high=0.0),
        "out": place.empty(h, t, dv, dtype=dtype),
    }


def _scan(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    grid = (int(shape["heads"]), int(shape["value_dim"]) // int(config["BLOCK_V"]))
    meta = {"KEY_DIM": shape["key_dim"], "VALUE_DIM": shape["value_dim"]}
    return [Launch(tensor_ops.linear_attention, grid, (t["q"], t["k"], t["v"], t["decay"], t["out"], shape["t"]), {**config, **meta})]


def _scan_reference(shape: Shape, t: Tensors) -> Any:
    """The same sum without chunks, by blocks of queries: masked scores times exp of the decay between key and query."""
    import torch

    q, k, v = t["q"].float(), t["k"].float(), t["v"].float()
    since = t["decay"].double().cumsum(-1)
    out = torch.empty_like(v)
    for start in range(0, q.shape[1], 1024):
        stop = min(start + 1024, q.shape[1])
        gap = (since[:, start:stop, None] - since[:, None, :stop]).float()
        late = torch.arange(stop, device=q.device)[None, :] > torch.arange(start, stop, device=q.device)[:, None]
        score = (q[:, start:stop] @ k[:, :stop].transpose(1, 2)) * gap.masked_fill(late, -torch.inf).exp()
        out[:, start:stop] = score @ v[:, :stop]
    return out


def _scan_flops(shape: Shape) -> int:
    """As a recurrence: update and query of the state."""
    return 4 * int(shape["heads"]) * int(shape["t"]) * int(shape["key_dim"]) * int(shape["value_dim"])


def _scan_bytes(shape: Shape) -> int:
    return int(shape["heads"]) * int(shape["t"]) * (4 * int(shape["key_dim"]) + 4 * int(shape["value_dim"]) + 4)


SUITES: Final = (
    Suite(
        "conv",
        "convolution as an implicit GEMM, channels last",
        [
            conv_of(*s)
            for s in (
                (32, 56, 64, 64, 3),
                (32, 28, 256, 256, 3),
                (16, 14, 1024, 256, 1),
                (8, 112, 64, 128, 3, 2),
                (64, 7, 512, 512, 3),
                (1, 64, 320, 320, 3),
                (4, 224, 3, 64, 7, 2),
            )
        ],
        lambda s: [tile(128, 64, 32, 3, 4), tile(128, 128, 32, 3, 8), tile(64, 64, 64, 3, 4)],
        _conv_tensors,
        _conv,
        _conv_reference,
        flops=_conv_flops,
        bytes=_conv_bytes,
        tiny=[
            (conv_of(2, 6, 20, 24, 3, dtype="float16"), tile(16, 16, 16, 2, 4)),
            (conv_of(1, 7, 5, 8, 3, 2, "float16"), tile(16, 16, 16, 2, 4)),
        ],
    ),
    Suite(
        "linear_attention",
        "chunked scan of linear attention with decay",
        [
            {"heads": h, "t": t, "key_dim": dk, "value_dim": dv, "dtype": "bfloat16"}
            for h, t, dk, dv in ((128, 2048, 64, 64), (32, 4096, 128, 128), (64, 8192, 64, 128), (16, 16384, 128, 128), (256, 512, 64, 64))
        ],
        lambda s: [
            {"CHUNK": c, "BLOCK_V": v, "num_warps": 4, "num_stages": n} for c, v, n in ((64, 64, 2), (64, 32, 2), (32, 64, 3), (128, 64, 1))
        ],
        _scan_tensors,
        _scan,
        _scan_reference,
        flops=_scan_flops,
        bytes=_scan_bytes,
        tolerance=lambda s: 0.02,
        tiny=[
            (
                {"heads": 2, "t": 48, "key_dim": 16, "value_dim": 32, "dtype": "float16"},
                {"CHUNK": 16, "BLOCK_V": 16, "num_warps": 4, "num_stages": 2},
            )
        ],
    ),
)
