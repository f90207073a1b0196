"""Suites of the memory-bound kernels."""

from __future__ import annotations

from typing import Any, Final

from . import rows
from .suite import Config, Launch, Place, Shape, Suite, Tensors, cdiv, power_of_two, product, size_of


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
    return [
        Launch(rows.column_sum, (cdiv(n, bn), splits), (t["x"], part, m, n), meta | {"SPLITS": splits}),
        Launch(rows.column_sum, (cdiv(n, 64), 1), (part, t["out"], splits, n), last),
    ]


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
    return {
        "table": place.normal(int(shape["table"]), n, dtype=dtype),
        "ids": place.index(ids, "int64"),
        "out": place.empty(m, n, dtype=dtype),
    }


def _gather(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    m, n = int(shape["m"]), int(shape["n"])
    return [Launch(rows.gather_rows, (m, cdiv(n, int(config["BLOCK"]))), (t["table"], t["ids"], t["out"], n), dict(config))]


_SIZES: Final = ((4096, 4096), (16384, 8192), (1024, 1024), (256, 4096), (8192, 2048), (32, 8192), (65536, 1024), (1, 4096))
_BLOCKS: Final = product(BLOCK=[1024, 2048, 4096], num_warps=[4, 8])
_TUTORIAL_COLUMNS: Final = (4096, 1024, 8192, 2048, 12288, 512, 6144, 256, 3072, 10240, 781, 1536)


def _suite(name: str, summary: str, shapes: Any, configs: Any, tensors: Any, launches: Any, reference: Any, **more: Any) -> Suite:
    base: dict[str, Any] = {"flops": lambda s: 0, "bytes": _moved}
    return Suite(name, summary, shapes, configs, tensors, launches, reference, **(base | more))


SUITES: Final = (
    _suite(
        "rms_norm",
        "RMSNorm, a row a program",
        [matrix_of(*s) for s in _SIZES],
        _warps(4, 8, 16),
        _norm_tensors,
        _rms_norm,
        _rms_reference,
        flops=lambda s: 4 * _numbers(s),
        tiny=[(matrix_of(3, 40), {"num_warps": 4})],
    ),
    _suite(
        "layer_norm",
        "LayerNorm, a row a program",
        [matrix_of(*s, dtype="float16") for s in _SIZES[:6]],
        _warps(4, 8),
        _norm_tensors,
        _layer_norm,
        _layer_norm_reference,
        flops=lambda s: 8 * _numbers(s),
        tiny=[(matrix_of(3, 40, "float16"), {"num_warps": 4})],
    ),
    _suite(
        "softmax",
        "softmax of rows, persistent (Triton's tutorial 02)",
        [matrix_of(4096, n, "float32") for n in _TUTORIAL_COLUMNS] + [matrix_of(*s) for s in _SIZES[:5]],
        _softmax_configs,
        _matrix,
        _softmax,
        lambda s, t: t["x"].float().softmax(-1),
        flops=lambda s: 5 * _numbers(s),
        tiny=[(matrix_of(5, 40, "float32"), {"PER_SM": 1, "STAGES": 2, "num_warps": 4})],
    ),
    _suite(
        "elementwise",
        "chains of multiply, add and maximum on two inputs",
        [matrix_of(*s, ops=o) for s in _SIZES[:6] for o in (1, 8, 64)],
        lambda s: _BLOCKS[::3],
        lambda s, p: _matrix(s, p, y=p.normal(int(s["m"]), int(s["n"]))),
        _chain,
        _chain_reference,
        flops=lambda s: 3 * _numbers(s) * int(s["ops"]),
        bytes=lambda s: _moved(s, 3),
        tiny=[(matrix_of(3, 50, ops=3), {"BLOCK": 64, "num_warps": 4})],
    ),
    _suite(
        "gelu",
        "the tanh form of GELU",
        [matrix_of(*s) for s in _SIZES[:6]],
        lambda s: _BLOCKS,
        _matrix,
        _gelu,
        _gelu_reference,
        flops=lambda s: 10 * _numbers(s),
        tiny=[(matrix_of(3, 50), {"BLOCK": 64, "num_warps": 4})],
    ),
    _suite(
        "swiglu",
        "silu(gate) times up",
        [matrix_of(*s) for s in ((4096, 14336), (64, 14336), (1024, 4096), (16384, 2048), (1, 28672))],
        lambda s: _BLOCKS[:4],
        _swiglu_tensors,
        _swiglu,
        _swiglu_reference,
        flops=lambda s: 6 * _numbers(s),
        bytes=lambda s: _moved(s, 3),
        tiny=[(matrix_of(3, 50), {"BLOCK": 32, "num_warps": 4})],
    ),
    _suite(
        "reduce",
        "sums of rows (axis 1) and of columns (axis 0)",
        [matrix_of(*s, axis=a) for s in _SIZES[:6] for a in (1, 0)],
        _sum_configs,
        _sum_tensors,
        _sum,
        lambda s, t: t["x"].float().sum(int(s["axis"])),
        flops=_numbers,
        bytes=lambda s: _moved(s, 1),
        tolerance=lambda s: 1e-4,
        tiny=[(matrix_of(37, 50, axis=a), {"BLOCK_M": 8, "BLOCK_N": 16, "num_warps": 4}) for a in (1, 0)],
    ),
    _suite(
        "transpose",
        "transpose of a matrix",
        [matrix_of(*s) for s in ((4096, 4096), (16384, 8192), (1024, 1024), (512, 32768), (3000, 5000))],
        lambda s: [{"BLOCK_M": m, "BLOCK_N": n, "num_warps": w} for m, n, w in ((64, 64, 4), (32, 64, 4), (128, 64, 8), (32, 32, 4))],
        _transpose_tensors,
        _transpose,
        lambda s, t: t["x"].float().T,
        tiny=[(matrix_of(20, 50), {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4})],
    ),
    _suite(
        "gather",
        "rows of an embedding table by random ids",
        [matrix_of(m, n, table=v) for m, n, v in ((8192, 4096, 128256), (65536, 256, 1000000), (256, 8192, 32000), (16384, 1024, 50257))],
        lambda s: [{"BLOCK": b, "num_warps": 4} for b in (512, 1024, 2048)],
        _gather_tensors,
        _gather,
        lambda s, t: t["table"].float()[t["ids"]],
        bytes=lambda s: _moved(s) + 8 * int(s["m"]),
        tiny=[(matrix_of(6, 50, table=9), {"BLOCK": 32, "num_warps": 4})],
    ),
)
