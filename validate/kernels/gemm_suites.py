"""Suites of the GEMM kernels: plain, split-K, persistent, stream-K, TMA, batched, 4-bit weights."""

from __future__ import annotations

from typing import Any, Final

from . import gemm
from .suite import Config, Launch, Place, Shape, Suite, Tensors, cdiv, needs_fp8, product, size_of, tile

#: (m, n, k) of linear layers of 7 to 70 billion-parameter models and squares, spread first.
LAYERS: Final = (
    (4096, 4096, 4096),
    (16, 4096, 14336),
    (8192, 8192, 8192),
    (1024, 6144, 4096),
    (128, 28672, 4096),
    (1, 4096, 4096),
    (4096, 28672, 4096),
    (512, 512, 512),
    (64, 14336, 4096),
    (2048, 2048, 2048),
    (256, 4096, 14336),
    (1000, 3000, 2000),
    (1024, 1024, 1024),
    (4096, 4096, 14336),
    (32, 28672, 4096),
    (2048, 8192, 1024),
    (8192, 1024, 8192),
    (300, 5000, 7000),
    (512, 10240, 8192),
    (16384, 2048, 512),
    (64, 64, 65536),
    (1536, 1536, 1536),
    (3072, 3072, 3072),
    (6144, 6144, 6144),
    (16, 57344, 8192),
    (128, 8192, 28672),
    (4096, 1024, 128),
    (777, 888, 999),
    (256, 256, 256),
    (8192, 4096, 64),
)

#: The autotune set of Triton's matrix multiplication tutorial: its 16-bit configs, then its fp8 ones.
TUTORIAL: Final = tuple(
    tile(*sizes)
    for sizes in (
        (128, 256, 64, 3, 8),
        (64, 256, 32, 4, 4),
        (128, 128, 32, 4, 4),
        (128, 64, 32, 4, 4),
        (64, 128, 32, 4, 4),
        (128, 32, 32, 4, 4),
        (64, 32, 32, 5, 2),
        (32, 64, 32, 5, 2),
        (128, 256, 128, 3, 8),
        (256, 128, 128, 3, 8),
        (256, 64, 128, 4, 4),
        (64, 256, 128, 4, 4),
        (128, 128, 128, 4, 4),
        (128, 64, 64, 4, 4),
        (64, 128, 64, 4, 4),
        (128, 32, 64, 4, 4),
    )
)


def usual_tiles(shape: Shape) -> list[dict[str, Any]]:
    """Six configs that libraries and tuned kernels use at this number of rows."""
    deep = 2 if size_of(str(shape.get("dtype", "bfloat16"))) == 1 else 1
    if int(shape["m"]) <= 32:
        sizes = [(16, 64, 128, 4, 4), (16, 128, 128, 3, 4), (16, 32, 256, 3, 4), (32, 64, 64, 4, 4), (16, 64, 64, 5, 2), (64, 64, 64, 3, 4)]
    elif int(shape["m"]) <= 256:
        sizes = [
            (64, 64, 64, 4, 4),
            (64, 128, 64, 3, 4),
            (32, 64, 128, 3, 4),
            (128, 128, 64, 3, 8),
            (64, 256, 64, 3, 8),
            (64, 32, 128, 4, 4),
        ]
    else:
        sizes = [
            (128, 256, 64, 3, 8),
            (128, 128, 64, 3, 8),
            (128, 128, 32, 4, 4),
            (64, 256, 64, 3, 4),
            (256, 128, 64, 3, 8),
            (64, 64, 64, 4, 4),
        ]
    return [tile(m, n, k * deep, stages, warps) for m, n, k, stages, warps in sizes]


def tuning_tiles(shape: Shape) -> list[dict[str, Any]]:
    """A grid of 72 configs, some of which cannot launch."""
    grid = product(BLOCK_M=[64, 128, 256], BLOCK_N=[64, 128, 256], BLOCK_K=[32, 64], num_stages=[3, 4], num_warps=[4, 8])
    return [config | {"GROUP_M": 8} for config in grid]


def shape_of(m: int, n: int, k: int, dtype: str = "bfloat16", layout: str = "nt", **more: Any) -> dict[str, Any]:
    """Fields of a GEMM; layout "nt" keeps B as [n, k], as linear layers do, "nn" as [k, n]."""
    return {"m": m, "n": n, "k": k, "dtype": dtype, "layout": layout} | more


def operands(shape: Shape, place: Place) -> Tensors:
    """A [m, k], B [k, n] (a view of [n, k] in layout "nt"), out [m, n] and, for 8-bit operands, scales by row and by column."""
    m, n, k, dtype = int(shape["m"]), int(shape["n"]), int(shape["k"]), str(shape["dtype"])
    b = place.normal(n, k, dtype=dtype) if shape["layout"] == "nt" else place.normal(k, n, dtype=dtype)
    out = "bfloat16" if dtype in ("fp8_e4m3", "int8") else "float16" if dtype == "fp8_e5m2" else dtype
    tensors = {
        "a": place.normal(m, k, dtype=dtype),
        "b": b.T if shape["layout"] == "nt" else b,
        "out": place.empty(m, n, dtype=out),
        "a_scale": None,
        "b_scale": None,
    }
    if dtype in ("fp8_e4m3", "int8"):
        tensors |= {"a_scale": place.uniform(m, low=0.5, high=1.5), "b_scale": place.uniform(n, low=0.5, high=1.5)}
    return tensors


def product_of(shape: Shape, tensors: Tensors) -> Any:
    """The reference: the product in float32, scaled."""
    out = tensors["a"].float() @ tensors["b"].float()
    return out if tensors.get("a_scale") is None else out * tensors["a_scale"][:, None] * tensors["b_scale"][None, :]


def gemm_flops(shape: Shape) -> int:
    """2 m n k, times the batch."""
    return 2 * int(shape["m"]) * int(shape["n"]) * int(shape["k"]) * int(shape.get("batch", 1))


def gemm_bytes(shape: Shape) -> int:
    """Operands once and the output (16-bit for 8-bit operands) once."""
    m, n, k, item = int(shape["m"]), int(shape["n"]), int(shape["k"]), size_of(str(shape["dtype"]))
    return ((m * k + k * n) * item + m * n * max(item, 2)) * int(shape.get("batch", 1))


def tiles_of(shape: Shape, config: Config) -> int:
    """Output tiles."""
    return cdiv(int(shape["m"]), int(config["BLOCK_M"])) * cdiv(int(shape["n"]), int(config["BLOCK_N"]))


def _operand_args(shape: Shape, t: Tensors) -> tuple[Any, ...]:
    return (shape["m"], shape["n"], shape["k"], *t["a"].stride(), *t["b"].stride())


def _plain(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    args = (t["a"], t["b"], t["out"], t["a_scale"], t["b_scale"], *_operand_args(shape, t), *t["out"].stride())
    flags = {"INT8": shape["dtype"] == "int8", "SCALED": t["a_scale"] is not None}
    return [Launch(gemm.matmul, (tiles_of(shape, config),), args, {**config, **flags})]


def _split_k(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    m, n, splits = int(shape["m"]), int(shape["n"]), int(config["SPLIT_K"])
    partial = place.empty(splits, m, n, dtype="float32")
    grid = (tiles_of(shape, config), splits)
    block = 1024
    return [
        Launch(gemm.matmul_split_k, grid, (t["a"], t["b"], partial, *_operand_args(shape, t)), dict(config)),
        Launch(gemm.split_k_sum, (cdiv(m * n, block),), (partial, t["out"], m * n), {"SPLIT_K": splits, "BLOCK": block, "num_warps": 4}),
    ]


def _persistent(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    programs = min(place.sm_count, tiles_of(shape, config))
    args = (t["a"], t["b"], t["out"], *_operand_args(shape, t), *t["out"].stride())
    return [Launch(gemm.matmul_persistent, (programs,), args, {**config, "PROGRAMS": programs})]


def _stream_k(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    steps = tiles_of(shape, config) * cdiv(int(shape["k"]), int(config["BLOCK_K"]))
    programs = min(place.sm_count, steps)
    partial = place.empty(programs, int(config["BLOCK_M"]), int(config["BLOCK_N"]), dtype="float32")
    args = (t["a"], t["b"], t["out"], partial, place.zeros(programs), *_operand_args(shape, t), *t["out"].stride())
    return [Launch(gemm.matmul_stream_k, (programs,), args, {**config, "PROGRAMS": programs})]


def _tma(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    from triton.tools.tensor_descriptor import TensorDescriptor

    bm, bn, bk = (int(config[name]) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    programs = min(place.sm_count, tiles_of(shape, config))
    descriptors = (
        TensorDescriptor.from_tensor(t["a"], [bm, bk]),
        TensorDescriptor.from_tensor(t["b"].T, [bn, bk]),
        TensorDescriptor.from_tensor(t["out"], [bm, bn]),
    )
    return [Launch(gemm.matmul_tma, (programs,), (*descriptors, shape["m"], shape["n"], shape["k"]), {**config, "PROGRAMS": programs})]


def _batched_operands(shape: Shape, place: Place) -> Tensors:
    batch, m, n, k, dtype = int(shape["batch"]), int(shape["m"]), int(shape["n"]), int(shape["k"]), str(shape["dtype"])
    return {
        "a": place.normal(batch, m, k, dtype=dtype),
        "b": place.normal(batch, k, n, dtype=dtype),
        "out": place.empty(batch, m, n, dtype=dtype),
    }


def _batched(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    args = (t["a"], t["b"], t["out"], shape["m"], shape["n"], shape["k"], *t["a"].stride(), *t["b"].stride(), *t["out"].stride())
    return [Launch(gemm.batched_matmul, (tiles_of(shape, config), int(shape["batch"])), args, dict(config))]


def _w4a16_operands(shape: Shape, place: Place) -> Tensors:
    m, n, k, group = int(shape["m"]), int(shape["n"]), int(shape["k"]), int(shape["group"])
    dtype = str(shape["dtype"])
    return {
        "a": place.normal(m, k, dtype=dtype),
        "b": place.bytes(n, k // 2),
        "scale": place.uniform(n, k // group, low=0.01, high=0.1, dtype=dtype),
        "out": place.empty(m, n, dtype=dtype),
    }


def _w4a16_product(shape: Shape, t: Tensors) -> Any:
    import torch

    weight = torch.stack([t["b"] & 0xF, t["b"] >> 4], -1).flatten(1).to(t["scale"].dtype) - 8
    return t["a"].float() @ (weight * t["scale"].repeat_interleave(int(shape["group"]), 1)).float().T


def _w4a16(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    args = (
        t["a"],
        t["b"],
        t["scale"],
        t["out"],
        shape["m"],
        shape["n"],
        shape["k"],
        t["a"].stride(0),
        t["b"].stride(0),
        t["scale"].stride(0),
        t["out"].stride(0),
    )
    return [Launch(gemm.matmul_w4a16, (tiles_of(shape, config),), args, {**config, "GROUP_K": shape["group"]})]


def _w4a16_bytes(shape: Shape) -> int:
    m, n, k = int(shape["m"]), int(shape["n"]), int(shape["k"])
    return 2 * m * k + n * k // 2 + 2 * n * k // int(shape["group"]) + 2 * m * n


def _w4a16_tiles(shape: Shape) -> list[dict[str, Any]]:
    if int(shape["m"]) <= 64:
        return [tile(16, 64, 128, 4, 4), tile(16, 128, 128, 3, 4), tile(32, 64, 128, 3, 4), tile(16, 32, 128, 4, 4)]
    return [tile(64, 128, 64, 3, 4), tile(128, 128, 64, 3, 8), tile(128, 64, 128, 3, 8)]


def _tolerance(shape: Shape) -> float:
    return {"float32": 2e-3, "fp8_e4m3": 0.03}.get(str(shape["dtype"]), 0.01)


def _tiny(m: int, n: int, k: int, *configs: dict[str, Any], **more: Any) -> list[tuple[Shape, Config]]:
    # float16, since Triton's interpreter multiplies the codes of bfloat16
    return [(shape_of(m, n, k, **({"dtype": "float16"} | more)), config) for config in configs]


_SMALL: Final = tile(16, 32, 16, 2, 4)
_SQUARES: Final = (
    4096,
    512,
    2048,
    1024,
    256,
    3072,
    1536,
    768,
    3584,
    2560,
    *(n for n in range(256, 4097, 128) if n not in (4096, 512, 2048, 1024, 256, 3072, 1536, 768, 3584, 2560)),
)


def _suite(name: str, summary: str, shapes: Any, configs: Any, launches: Any, **more: Any) -> Suite:
    base: dict[str, Any] = {
        "tensors": operands,
        "reference": product_of,
        "flops": gemm_flops,
        "bytes": gemm_bytes,
        "tolerance": _tolerance,
        "refuses": needs_fp8,
    }
    return Suite(name, summary, shapes, configs, launches=launches, **(base | more))


SUITES: Final = (
    _suite(
        "gemm",
        "tiled GEMM in grouped order, bf16",
        [shape_of(*s) for s in LAYERS],
        usual_tiles,
        _plain,
        tiny=[
            *_tiny(40, 48, 40, _SMALL),
            *_tiny(33, 17, 32, _SMALL, layout="nn", dtype="float16"),
            *_tiny(16, 32, 64, _SMALL, dtype="float32"),
        ],
    ),
    _suite(
        "gemm_fp8",
        "GEMM of fp8 operands with scales by row and column",
        [shape_of(*s, dtype="fp8_e4m3") for s in LAYERS[:16]],
        lambda s: usual_tiles(s)[:4],
        _plain,
        tiny=_tiny(32, 32, 64, tile(16, 32, 32, 2, 4), dtype="fp8_e4m3"),
    ),
    _suite(
        "gemm_int8",
        "GEMM of int8 operands with scales by row and column",
        [shape_of(*s, dtype="int8") for s in LAYERS[:16]],
        lambda s: usual_tiles(s)[:3],
        _plain,
        tiny=_tiny(32, 32, 64, tile(16, 32, 32, 2, 4), dtype="int8"),
    ),
    _suite(
        "gemm_fp16",
        "GEMM, fp16 and tf32",
        [shape_of(*s, dtype=d) for s in LAYERS[:5] for d in ("float16", "float32")],
        lambda s: usual_tiles(s)[1:3] if s["dtype"] == "float32" else usual_tiles(s)[:2],
        _plain,
    ),
    _suite(
        "gemm_tutorial",
        "the kernel, shapes and configs of Triton's tutorial, fp16 and fp8 e5m2",
        [shape_of(n, n, n, dtype="float16", layout="nn") for n in _SQUARES]
        + [shape_of(n, n, n, dtype="fp8_e5m2", layout="nt") for n in _SQUARES],
        lambda s: TUTORIAL,
        _plain,
        timers=("cold",),
        extra=True,
        tiny=_tiny(32, 32, 64, _SMALL, dtype="fp8_e5m2"),
    ),
    _suite(
        "gemm_tune",
        "72 configs of a few shapes, to judge tuning by prediction",
        [shape_of(*s) for s in ((4096, 4096, 4096), (512, 4096, 4096), (2048, 14336, 4096), (8192, 1024, 8192))],
        tuning_tiles,
        _plain,
        timers=("graph",),
    ),
    _suite(
        "gemm_split_k",
        "GEMM with the sum over K split among programs, and the kernel that adds",
        [
            shape_of(*s)
            for s in ((16, 4096, 14336), (64, 64, 65536), (128, 4096, 4096), (32, 4096, 4096), (256, 1024, 8192), (1, 8192, 28672))
        ],
        lambda s: [c | {"SPLIT_K": split} for c in usual_tiles(s)[:2] for split in (2, 4, 8)],
        _split_k,
        tiny=_tiny(24, 32, 72, _SMALL | {"SPLIT_K": 2}),
    ),
    _suite(
        "gemm_persistent",
        "GEMM with one program an SM",
        [shape_of(*s) for s in (*LAYERS[:8], LAYERS[11], (4096, 4096, 14336))],
        lambda s: usual_tiles(s)[:3],
        _persistent,
        tiny=_tiny(40, 48, 40, _SMALL),
    ),
    _suite(
        "gemm_stream_k",
        "GEMM with equal shares of steps",
        [shape_of(*s) for s in (*LAYERS[:8], LAYERS[11], (64, 64, 65536))],
        lambda s: usual_tiles(s)[:2],
        _stream_k,
        tiny=_tiny(40, 48, 72, _SMALL),
    ),
    _suite(
        "gemm_tma",
        "persistent GEMM by tensor descriptors",
        [shape_of(*s) for s in (*LAYERS[:8], (4096, 4096, 14336))],
        lambda s: usual_tiles(s)[:3],
        _tma,
        tiny=_tiny(32, 32, 64, _SMALL),
        refuses=lambda s, c: "" if c >= 90 else "TMA needs sm_90",
    ),
    _suite(
        "gemm_batched",
        "batched GEMM",
        [
            {"batch": b, "m": m, "n": n, "k": k, "dtype": d}
            for b, m, n, k, d in (
                (32, 1024, 1024, 128, "bfloat16"),
                (64, 128, 128, 128, "bfloat16"),
                (8, 2048, 2048, 2048, "float16"),
                (256, 64, 64, 512, "bfloat16"),
                (16, 1, 4096, 4096, "bfloat16"),
                (128, 512, 64, 512, "bfloat16"),
            )
        ],
        lambda s: usual_tiles(s)[:3],
        _batched,
        tensors=_batched_operands,
        tiny=[({"batch": 2, "m": 24, "n": 32, "k": 40, "dtype": "float16"}, _SMALL)],
    ),
    _suite(
        "gemm_w4a16",
        "bf16 activations times 4-bit weights with group scales",
        [
            {"m": m, "n": n, "k": k, "group": 128, "dtype": "bfloat16"}
            for m, n, k in (
                (16, 28672, 4096),
                (1, 4096, 4096),
                (64, 4096, 14336),
                (512, 4096, 4096),
                (2048, 28672, 4096),
                (128, 14336, 4096),
            )
        ],
        _w4a16_tiles,
        _w4a16,
        tensors=_w4a16_operands,
        reference=_w4a16_product,
        bytes=_w4a16_bytes,
        tiny=[({"m": 20, "n": 32, "k": 64, "group": 32, "dtype": "float16"}, tile(16, 32, 32, 2, 4))],
    ),
)
