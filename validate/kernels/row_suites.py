"""Suites of the memory-bound kernels, convolution and linear attention."""

from __future__ import annotations

from typing import Any, Final

from . import rows, tensor_ops
from .suite import Config, Launch, Place, Shape, Suite, Tensors, cdiv, power_of_two, product, size_of, tile


def matrix_of(m: int, n: int, dtype: str = "bfloat16", **more: Any) -> dict[str, Any]:
    """Fields of a problem on an [m, n] matrix."""
    return {"m": m, "n": n, "dtype": dtype} | more


def _matrix(shape: Shape, place: Place, **more: Any) -> Tensors:
    m, n, dtype = int(shape["m"]), int(shape["n"]), str(shape["dtype"])
    return {"x": place.normal(m, n, dtype=dtype), "out": place.empty(m, n, dtype=dtype)} | more


def _numbers(shape: Shape) -> int:
    return int(shape["m"]) * int(shape["n"])


def _moved(shape: Shape, times: int = 2) -> int:
    return times * _numbers(shape) * size_of(str(shape["dtype"]))


def _warps(*counts: int) -> Any:
    return lambda shape: [{"num_warps": warps} for warps in counts]


def _norm_tensors(shape: Shape, place: Place) -> Tensors:
    n, dtype = int(shape["n"]), str(shape["dtype"])
    return _matrix(shape, place, weight=place.normal(n, dtype=dtype), bias=place.normal(n, dtype=dtype))


def _rms_norm(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    args = (t["x"], t["weight"], t["out"], shape["n"], shape["n"], 1e-5)
    return [Launch(rows.rms_norm, (int(shape["m"]),), args, {**config, "BLOCK": power_of_two(int(shape["n"]))})]


def _rms_reference(shape: Shape, t: Tensors) -> Any:
    x = t["x"].float()
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * t["weight"].float()


def _layer_norm(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    args = (t["x"], t["weight"], t["bias"], t["out"], shape["n"], shape["n"], 1e-5)
    return [Launch(rows.layer_norm, (int(shape["m"]),), args, {**config, "BLOCK": power_of_two(int(shape["n"]))})]


def _layer_norm_reference(shape: Shape, t: Tensors) -> Any:
    import torch

    return torch.nn.functional.layer_norm(t["x"].float(), (int(shape["n"]),), t["weight"].float(), t["bias"].float(), 1e-5)


def _softmax(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    m, n = int(shape["m"]), int(shape["n"])
    programs = min(m, place.sm_count * int(config["PER_SM"]))
    meta = {"BLOCK": power_of_two(n), "STAGES": config["STAGES"], "num_warps": config["num_warps"]}
    return [Launch(rows.softmax, (programs,), (t["out"], t["x"], n, n, m, n), meta)]


def _softmax_configs(shape: Shape) -> list[dict[str, Any]]:
    """The tutorial's 8 warps and 2 stages; programs an SM as registers and shared memory (two rows) would allow there, and fewer."""
    row_bytes = power_of_two(int(shape["n"])) * size_of(str(shape["dtype"]))
    most = max(1, min(8, 160 * 1024 // (2 * row_bytes)))
    return [{"PER_SM": per, "STAGES": 2, "num_warps": 8} for per in sorted({most, max(1, most // 2)}, reverse=True)]


def _chain(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    size, block = _numbers(shape), int(config["BLOCK"])
    return [Launch(rows.elementwise_chain, (cdiv(size, block),), (t["x"], t["y"], t["out"], size), {**config, "OPS": shape["ops"]})]


def _chain_reference(shape: Shape, t: Tensors) -> Any:
    x, y = t["x"].float(), t["y"].float()
    for _ in range(int(shape["ops"])):
        x = (x * 0.875 + y).clamp_min(-1.0)
    return x


def _gelu(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    size = _numbers(shape)
    return [Launch(rows.gelu, (cdiv(size, int(config["BLOCK"])),), (t["x"], t["out"], size), dict(config))]


def _gelu_reference(shape: Shape, t: Tensors) -> Any:
    import torch

    return torch.nn.functional.gelu(t["x"].float(), approximate="tanh")


def _swiglu_tensors(shape: Shape, place: Place) -> Tensors:
    m, n, dtype = int(shape["m"]), int(shape["n"]), str(shape["dtype"])
    return {"x": place.normal(m, 2 * n, dtype=dtype), "out": place.empty(m, n, dtype=dtype)}


def _swiglu(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    m, n = int(shape["m"]), int(shape["n"])
    return [Launch(rows.swiglu, (m, cdiv(n, int(config["BLOCK"]))), (t["x"], t["out"], n), dict(config))]


def _swiglu_reference(shape: Shape, t: Tensors) -> Any:
    import torch

    gate, up = t["x"].float().chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def _sum_tensors(shape: Shape, place: Place) -> Tensors:
    m, n, dtype = int(shape["m"]), int(shape["n"]), str(shape["dtype"])
    return {"x": place.uniform(m, n, dtype=dtype), "out": place.empty(m if shape["axis"] == 1 else n, dtype="float32")}


def _sum(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    m, n, bm, bn = int(shape["m"]), int(shape["n"]), int(config["BLOCK_M"]), int(config["BLOCK_N"])
    meta = {"BLOCK_M": bm, "BLOCK_N": bn, "num_warps": config["num_warps"]}
    if shape["axis"] == 1:
        return [Launch(rows.row_sum, (cdiv(m, bm),), (t["x"], t["out"], m, n), meta)]
    splits = max(1, min(cdiv(m, bm), 4 * place.sm_count // cdiv(n, bn)))
    part = place.empty(splits, n, dtype="float32")
    last = {"BLOCK_M": power_of_two(splits), "BLOCK_N": 64, "SPLITS": 1, "num_warps": 4}
    return [Launch(rows.column_sum, (cdiv(n, bn), splits), (t["x"], part, m, n), meta | {"SPLITS": splits}),
            Launch(rows.column_sum, (cdiv(n, 64), 1), (part, t["out"], splits, n), last)]


def _sum_configs(shape: Shape) -> list[dict[str, Any]]:
    sizes = [(4, 512, 4), (1, 2048, 4), (8, 256, 8)] if shape["axis"] == 1 else [(32, 128, 4), (16, 256, 4), (64, 64, 8)]
    return [{"BLOCK_M": m, "BLOCK_N": n, "num_warps": w} for m, n, w in sizes]


def _transpose_tensors(shape: Shape, place: Place) -> Tensors:
    m, n, dtype = int(shape["m"]), int(shape["n"]), str(shape["dtype"])
    return {"x": place.normal(m, n, dtype=dtype), "out": place.empty(n, m, dtype=dtype)}


def _transpose(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    m, n = int(shape["m"]), int(shape["n"])
    grid = (cdiv(m, int(config["BLOCK_M"])), cdiv(n, int(config["BLOCK_N"])))
    return [Launch(rows.transpose, grid, (t["x"], t["out"], m, n), dict(config))]


def _gather_tensors(shape: Shape, place: Place) -> Tensors:
    import numpy as np

    m, n, dtype = int(shape["m"]), int(shape["n"]), str(shape["dtype"])
    ids = np.random.default_rng(place.seed).integers(0, int(shape["table"]), m)
    return {"table": place.normal(int(shape["table"]), n, dtype=dtype), "ids": place.index(ids, "int64"), "out": place.empty(m, n, dtype=dtype)}


def _gather(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    m, n = int(shape["m"]), int(shape["n"])
    return [Launch(rows.gather_rows, (m, cdiv(n, int(config["BLOCK"]))), (t["table"], t["ids"], t["out"], n), dict(config))]


def conv_of(batch: int, size: int, channels: int, filters: int, kernel: int, stride: int = 1, dtype: str = "bfloat16") -> dict[str, Any]:
    """Fields of a convolution with "same" padding."""
    return {"batch": batch, "size": size, "channels": channels, "filters": filters, "kernel": kernel, "stride": stride, "pad": kernel // 2,
            "dtype": dtype}


def _out_size(shape: Shape) -> int:
    return (int(shape["size"]) + 2 * int(shape["pad"]) - int(shape["kernel"])) // int(shape["stride"]) + 1


def _conv_tensors(shape: Shape, place: Place) -> Tensors:
    b, size, c, f, r = (int(shape[n]) for n in ("batch", "size", "channels", "filters", "kernel"))
    out, dtype = _out_size(shape), str(shape["dtype"])
    return {"x": place.normal(b, size, size, c, dtype=dtype), "w": place.normal(f, r, r, c, dtype=dtype),
            "out": place.empty(b, out, out, f, dtype=dtype)}


def _conv_gemm(shape: Shape) -> tuple[int, int, int]:
    return int(shape["batch"]) * _out_size(shape) ** 2, int(shape["filters"]), int(shape["channels"]) * int(shape["kernel"]) ** 2


def _conv(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    size, out, m = int(shape["size"]), _out_size(shape), _conv_gemm(shape)[0]
    meta = {"CHANNELS": shape["channels"], "FILTERS": shape["filters"], "R": shape["kernel"], "S": shape["kernel"], "STRIDE": shape["stride"],
            "PAD": shape["pad"]}
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
    return {"q": place.normal(h, t, dk, dtype=dtype), "k": place.normal(h, t, dk, dtype=dtype, scale=dk**-0.5),
            "v": place.normal(h, t, dv, dtype=dtype), "decay": place.uniform(h, t, low=-0.2, high=0.0), "out": place.empty(h, t, dv, dtype=dtype)}


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


_SIZES: Final = ((4096, 4096), (16384, 8192), (1024, 1024), (256, 4096), (8192, 2048), (32, 8192), (65536, 1024), (1, 4096))
_BLOCKS: Final = product(BLOCK=[1024, 2048, 4096], num_warps=[4, 8])
_TUTORIAL_COLUMNS: Final = (4096, 1024, 8192, 2048, 12288, 512, 6144, 256, 3072, 10240, 781, 1536)


def _suite(name: str, summary: str, shapes: Any, configs: Any, tensors: Any, launches: Any, reference: Any, **more: Any) -> Suite:
    base: dict[str, Any] = {"flops": lambda s: 0, "bytes": _moved}
    return Suite(name, summary, shapes, configs, tensors, launches, reference, **(base | more))


SUITES: Final = (
    _suite("rms_norm", "RMSNorm, a row a program", [matrix_of(*s) for s in _SIZES], _warps(4, 8, 16), _norm_tensors, _rms_norm, _rms_reference,
           flops=lambda s: 4 * _numbers(s), tiny=[(matrix_of(3, 40), {"num_warps": 4})]),
    _suite("layer_norm", "LayerNorm, a row a program", [matrix_of(*s, dtype="float16") for s in _SIZES[:6]], _warps(4, 8), _norm_tensors,
           _layer_norm, _layer_norm_reference, flops=lambda s: 8 * _numbers(s), tiny=[(matrix_of(3, 40, "float16"), {"num_warps": 4})]),
    _suite("softmax", "softmax of rows, persistent (Triton's tutorial 02)", [matrix_of(4096, n, "float32") for n in _TUTORIAL_COLUMNS]
           + [matrix_of(*s) for s in _SIZES[:5]], _softmax_configs, _matrix, _softmax, lambda s, t: t["x"].float().softmax(-1),
           flops=lambda s: 5 * _numbers(s), tiny=[(matrix_of(5, 40, "float32"), {"PER_SM": 1, "STAGES": 2, "num_warps": 4})]),
    _suite("elementwise", "chains of multiply, add and maximum on two inputs", [matrix_of(*s, ops=o) for s in _SIZES[:6] for o in (1, 8, 64)],
           lambda s: _BLOCKS[::3], lambda s, p: _matrix(s, p, y=p.normal(int(s["m"]), int(s["n"]))), _chain, _chain_reference,
           flops=lambda s: 3 * _numbers(s) * int(s["ops"]), bytes=lambda s: _moved(s, 3),
           tiny=[(matrix_of(3, 50, ops=3), {"BLOCK": 64, "num_warps": 4})]),
    _suite("gelu", "the tanh form of GELU", [matrix_of(*s) for s in _SIZES[:6]], lambda s: _BLOCKS, _matrix, _gelu, _gelu_reference,
           flops=lambda s: 10 * _numbers(s), tiny=[(matrix_of(3, 50), {"BLOCK": 64, "num_warps": 4})]),
    _suite("swiglu", "silu(gate) times up", [matrix_of(*s) for s in ((4096, 14336), (64, 14336), (1024, 4096), (16384, 2048), (1, 28672))],
           lambda s: _BLOCKS[:4], _swiglu_tensors, _swiglu, _swiglu_reference, flops=lambda s: 6 * _numbers(s), bytes=lambda s: _moved(s, 3),
           tiny=[(matrix_of(3, 50), {"BLOCK": 32, "num_warps": 4})]),
    _suite("reduce", "sums of rows (axis 1) and of columns (axis 0)", [matrix_of(*s, axis=a) for s in _SIZES[:6] for a in (1, 0)], _sum_configs,
           _sum_tensors, _sum, lambda s, t: t["x"].float().sum(int(s["axis"])), flops=_numbers, bytes=lambda s: _moved(s, 1),
           tolerance=lambda s: 1e-4, tiny=[(matrix_of(37, 50, axis=a), {"BLOCK_M": 8, "BLOCK_N": 16, "num_warps": 4}) for a in (1, 0)]),
    _suite("transpose", "transpose of a matrix", [matrix_of(*s) for s in ((4096, 4096), (16384, 8192), (1024, 1024), (512, 32768), (3000, 5000))],
           lambda s: [{"BLOCK_M": m, "BLOCK_N": n, "num_warps": w} for m, n, w in ((64, 64, 4), (32, 64, 4), (128, 64, 8), (32, 32, 4))],
           _transpose_tensors, _transpose, lambda s, t: t["x"].float().T, tiny=[(matrix_of(20, 50), {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4})]),
    _suite("gather", "rows of an embedding table by random ids",
           [matrix_of(m, n, table=v) for m, n, v in ((8192, 4096, 128256), (65536, 256, 1000000), (256, 8192, 32000), (16384, 1024, 50257))],
           lambda s: [{"BLOCK": b, "num_warps": 4} for b in (512, 1024, 2048)], _gather_tensors, _gather,
           lambda s, t: t["table"].float()[t["ids"]], bytes=lambda s: _moved(s) + 8 * int(s["m"]),
           tiny=[(matrix_of(6, 50, table=9), {"BLOCK": 32, "num_warps": 4})]),
    _suite("conv", "convolution as an implicit GEMM, channels last",
           [conv_of(*s) for s in ((32, 56, 64, 64, 3), (32, 28, 256, 256, 3), (16, 14, 1024, 256, 1), (8, 112, 64, 128, 3, 2), (64, 7, 512, 512, 3),
                                  (1, 64, 320, 320, 3), (4, 224, 3, 64, 7, 2))],
           lambda s: [tile(128, 64, 32, 3, 4), tile(128, 128, 32, 3, 8), tile(64, 64, 64, 3, 4)], _conv_tensors, _conv, _conv_reference,
           flops=_conv_flops, bytes=_conv_bytes, tiny=[(conv_of(2, 6, 20, 24, 3, dtype="float16"), tile(16, 16, 16, 2, 4)),
                                                       (conv_of(1, 7, 5, 8, 3, 2, "float16"), tile(16, 16, 16, 2, 4))]),
    _suite("linear_attention", "chunked scan of linear attention with decay",
           [{"heads": h, "t": t, "key_dim": dk, "value_dim": dv, "dtype": "bfloat16"} for h, t, dk, dv in (
               (128, 2048, 64, 64), (32, 4096, 128, 128), (64, 8192, 64, 128), (16, 16384, 128, 128), (256, 512, 64, 64))],
           lambda s: [{"CHUNK": c, "BLOCK_V": v, "num_warps": 4, "num_stages": n} for c, v, n in ((64, 64, 2), (64, 32, 2), (32, 64, 3), (128, 64, 1))],
           _scan_tensors, _scan, _scan_reference, flops=_scan_flops, bytes=_scan_bytes, tolerance=lambda s: 0.02,
           tiny=[({"heads": 2, "t": 48, "key_dim": 16, "value_dim": 32, "dtype": "float16"},
                  {"CHUNK": 16, "BLOCK_V": 16, "num_warps": 4, "num_stages": 2})]),
)
