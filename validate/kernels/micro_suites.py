"""Suites of the microbenchmarks: what each unit and level of a GPU can do, for the constants of a device file.

A point's latency divided by `Suite.calls_per_launch` is the time of one step: seconds a dependent load or operation in the chains.
"""

from __future__ import annotations

from typing import Any, Final

from . import micro
from .suite import Config, Launch, Place, Shape, Suite, Tensors, cdiv, needs_fp8, product

KIB, MIB = 1024, 1024 * 1024
#: Triton's cache modifier for loads that may hit L1, and for those that go to L2.
_CACHE: Final = {"l1": "", "l2": ".cg"}


def one_config(shape: Shape) -> list[dict[str, Any]]:
    """For microbenchmarks whose shape says all."""
    return [{"num_warps": shape.get("warps", 4)}]


def ring(lines: int, line_words: int, seed: int) -> Any:
    """A random cycle through all lines, int32 [lines line_words]: entry i of a line's first word is the index of the next line's."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(lines).astype(np.int64)
    cells = np.zeros(lines * line_words, np.int32)
    cells[order * line_words] = np.roll(order, -1) * line_words
    return cells


def _chase_tensors(shape: Shape, place: Place) -> Tensors:
    cells = ring(int(shape["bytes"]) // 128, 32, place.seed)
    return {"next": place.index(cells), "out": place.zeros(1)}


def _chase_reference(shape: Shape, t: Tensors) -> Any:
    cells, index = t["next"].cpu().numpy(), 0
    for _ in range(int(shape["steps"])):
        index = int(cells[index])
    return t["out"].new_tensor([index]).float()


def _chase(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    return [Launch(micro.chase, (1,), (t["next"], t["out"], shape["steps"]), {**config, "CACHE": _CACHE[str(shape["cache"])]})]


def _shared_tensors(shape: Shape, place: Place) -> Tensors:
    return {"out": place.zeros(32)}


def _shared_reference(shape: Shape, t: Tensors) -> Any:
    return t["out"].new_tensor([4 * i for i in range(32)]).float()


def _shared(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    return [Launch(micro.shared_chase, (1,), (t["out"],), {**config, "STEPS": shape["steps"]})]


def _read_programs(shape: Shape, place: Place) -> int:
    words = int(shape["bytes"]) // 4
    return min(place.sm_count * int(shape["per_sm"]), cdiv(words, int(shape["block"])))


def _read_tensors(shape: Shape, place: Place) -> Tensors:
    return {"x": place.uniform(int(shape["bytes"]) // 4), "out": place.empty(_read_programs(shape, place), dtype="float32")}


def _read_reference(shape: Shape, t: Tensors) -> Any:
    import torch

    block, programs = int(shape["block"]), t["out"].shape[0]
    sums = t["x"].view(-1, block).double().sum(-1) * int(shape["passes"])
    out = torch.zeros(programs, dtype=torch.float64, device=t["x"].device)
    return out.index_add_(0, torch.arange(len(sums), device=out.device) % programs, sums).float()


def _read(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    args = (t["x"], t["out"], shape["passes"], int(shape["bytes"]) // 4 // int(shape["block"]))
    meta = {"BLOCK": shape["block"], "CACHE": _CACHE[str(shape["cache"])], "UNROLL": shape["unroll"], "num_warps": config["num_warps"]}
    return [Launch(micro.read, (_read_programs(shape, place),), args, meta)]


def _read_of(size: int, passes: int, per_sm: int, block: int = 4096, warps: int = 4, cache: str = "l2", unroll: int = 4) -> dict[str, Any]:
    return {
        "bytes": size,
        "passes": passes,
        "per_sm": per_sm,
        "block": block,
        "warps": warps,
        "cache": cache,
        "unroll": unroll,
        "dtype": "float32",
    }


_OWN_BLOCK, _OWN_ROUNDS = 2048, 4


def _own_tensors(shape: Shape, place: Place) -> Tensors:
    programs = place.sm_count * int(shape["per_sm"])
    return {"x": place.uniform(programs, _OWN_BLOCK * _OWN_ROUNDS), "out": place.empty(programs, dtype="float32")}


def _own(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    meta = {"BLOCK": _OWN_BLOCK, "ROUNDS": _OWN_ROUNDS, "num_warps": config["num_warps"]}
    return [Launch(micro.read_own, (t["out"].shape[0],), (t["x"], t["out"], shape["passes"]), meta)]


def _copy_tensors(shape: Shape, place: Place) -> Tensors:
    words = int(shape["bytes"]) // 4
    return {"x": place.uniform(words), "out": place.empty(words, dtype="float32")}


def _copy(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    words, block = int(shape["bytes"]) // 4, int(config["BLOCK"])
    return [Launch(micro.copy, (cdiv(words, block),), (t["x"], t["out"], words), dict(config))]


def _fill(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    words, block = int(shape["bytes"]) // 4, int(config["BLOCK"])
    return [Launch(micro.fill, (cdiv(words, block),), (t["out"], 1.5, words), dict(config))]


def _dot_tensors(shape: Shape, place: Place) -> Tensors:
    m, n, k, dtype = int(shape["m"]), int(shape["n"]), int(shape["k"]), str(shape["dtype"])
    return {
        "a": place.normal(m, k, dtype=dtype),
        "b": place.normal(n, k, dtype=dtype),
        "out": place.empty(_dot_programs(shape, place), m, n, dtype="float32"),
    }


def _dot_programs(shape: Shape, place: Place) -> int:
    return place.sm_count * int(shape["per_sm"])


def _dot_reference(shape: Shape, t: Tensors) -> Any:
    one = (t["a"].double() @ t["b"].double().T * int(shape["steps"])).float()
    return one.expand(t["out"].shape)


def _dot(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    meta = {
        "BLOCK_M": shape["m"],
        "BLOCK_N": shape["n"],
        "BLOCK_K": shape["k"],
        "INT8": shape["dtype"] == "int8",
        "num_warps": config["num_warps"],
    }
    return [Launch(micro.tensor_core, (t["out"].shape[0],), (t["a"], t["b"], t["out"], shape["steps"]), meta)]


def dot_of(m: int, n: int, k: int, warps: int, per_sm: int, dtype: str = "bfloat16", steps: int = 2048) -> dict[str, Any]:
    """Fields of a tensor-core benchmark."""
    return {"m": m, "n": n, "k": k, "warps": warps, "per_sm": per_sm, "steps": steps, "dtype": dtype}


def _arithmetic_tensors(shape: Shape, place: Place) -> Tensors:
    threads = int(shape["block"]) * (1 if shape["per_sm"] == 0 else place.sm_count * int(shape["per_sm"]))
    return {"x": place.uniform(threads, low=0.5, high=1.0), "out": place.empty(threads, dtype="float32")}


def _arithmetic_reference(shape: Shape, t: Tensors) -> Any:
    import torch

    if shape["op"] == "int":
        n = t["x"].to(torch.int32)
        for _ in range(int(shape["steps"])):
            n = n * 1664525 + 1013904223
        return n.float()
    x = t["x"]
    for _ in range(int(shape["steps"])):
        x = torch.exp2(-x) if shape["op"] == "exp2" else torch.rsqrt(x) if shape["op"] == "rsqrt" else x * 0.5 + 0.25
    return x


def _arithmetic(shape: Shape, config: Config, t: Tensors, place: Place) -> list[Launch]:
    block = int(shape["block"])
    meta = {"OP": shape["op"], "BLOCK": block, "num_warps": config["num_warps"]}
    return [Launch(micro.arithmetic, (t["x"].shape[0] // block,), (t["x"], t["out"], shape["steps"]), meta)]


_ROOM: Final = product(BLOCK=[1024, 4096], num_warps=[4])


def _steps(shape: Shape) -> int:
    return int(shape["steps"])


def _passes_bytes(shape: Shape) -> int:
    return int(shape["bytes"]) * int(shape["passes"])


SUITES: Final = (
    Suite(
        "latency_load",
        "dependent loads: buffers that fit L1, L2, DRAM; the seconds of one (with its two address instructions) are latency_s / steps",
        [
            {"bytes": b, "cache": c, "steps": 4096, "warps": 1, "dtype": "int32"}
            for b, c in (
                (16 * KIB, "l1"),
                (16 * KIB, "l2"),
                (2 * MIB, "l2"),
                (8 * MIB, "l2"),
                (16 * MIB, "l2"),
                (32 * MIB, "l2"),
                (64 * MIB, "l2"),
                (256 * MIB, "l2"),
                (1024 * MIB, "l2"),
                (96 * KIB, "l1"),
                (512 * KIB, "l2"),
            )
        ],
        one_config,
        _chase_tensors,
        _chase,
        _chase_reference,
        lambda s: 0,
        lambda s: 128 * int(s["steps"]),
        timers=("graph",),
        tiny=[({"bytes": 1024, "cache": "l1", "steps": 5, "warps": 1, "dtype": "int32"}, {"num_warps": 1})],
        calls_per_launch=_steps,
    ),
    Suite(
        "latency_shared",
        "dependent loads from shared memory; the seconds of one are latency_s / steps",
        [{"steps": 65536, "warps": 1, "dtype": "int32"}],
        one_config,
        _shared_tensors,
        _shared,
        _shared_reference,
        lambda s: 0,
        lambda s: 0,
        timers=("graph",),
        interpretable=False,
        calls_per_launch=_steps,
    ),
    Suite(
        "latency_arithmetic",
        "dependent operations of one warp; the seconds of one are latency_s / steps",
        [{"op": op, "steps": 16384, "block": 32, "warps": 1, "per_sm": 0, "dtype": "float32"} for op in ("fma", "exp2", "rsqrt", "int")],
        one_config,
        _arithmetic_tensors,
        _arithmetic,
        _arithmetic_reference,
        lambda s: 0,
        lambda s: 0,
        timers=("graph",),
        tolerance=lambda s: 1e-3,
        calls_per_launch=_steps,
        tiny=[
            ({"op": op, "steps": 3, "block": 32, "warps": 1, "per_sm": 0, "dtype": "float32"}, {"num_warps": 1})
            for op in ("fma", "exp2", "rsqrt", "int")
        ],
    ),
    Suite(
        "rate_arithmetic",
        "operations of full SMs: exp2, fma, rsqrt, integer multiply-add; operations a second are block programs steps / latency_s",
        [
            {"op": op, "steps": 8192, "block": 1024, "warps": w, "per_sm": 4, "dtype": "float32"}
            for op in ("exp2", "fma", "rsqrt", "int")
            for w in (4, 8)
        ],
        one_config,
        _arithmetic_tensors,
        _arithmetic,
        _arithmetic_reference,
        lambda s: 0,
        lambda s: 0,
        timers=("graph",),
        tolerance=lambda s: 1e-3,
        calls_per_launch=_steps,
    ),
    Suite(
        "latency_tensor_core",
        "dependent tensor-core products of one CTA; the seconds of one are latency_s / steps",
        [
            dot_of(64, n, k, 4, 0, d, 8192)
            for n, k, d in ((16, 16, "bfloat16"), (64, 16, "bfloat16"), (256, 16, "bfloat16"), (64, 32, "int8"))
        ],
        one_config,
        lambda s, p: _dot_tensors({**s, "per_sm": 1}, Place(p.device, 1, p.capability, p.seed)),
        _dot,
        _dot_reference,
        lambda s: 0,
        lambda s: 0,
        timers=("graph",),
        tolerance=lambda s: 0.01,
        calls_per_launch=_steps,
        tiny=[(dot_of(16, 16, 16, 4, 0, "float16", steps=2), {"num_warps": 4})],
    ),
    Suite(
        "rate_tensor_core",
        "tensor-core rate by number format and tile shape, every SM busy; FLOP/s are 2 m n k programs steps / latency_s",
        [
            dot_of(m, n, k, w, per, d)
            for d in ("bfloat16", "float16", "fp8_e4m3", "int8", "float32")
            for m, n, k, w, per in (
                (128, 256, 64, 8, 1),
                (128, 128, 64, 4, 1),
                (64, 256, 64, 4, 1),
                (64, 64, 64, 4, 2),
                (128, 64, 64, 4, 2),
            )
        ],
        one_config,
        _dot_tensors,
        _dot,
        _dot_reference,
        lambda s: 0,
        lambda s: 0,
        timers=("graph",),
        refuses=needs_fp8,
        # sm_90 adds fp8 products in about 14 bits, and here into the same accumulator all along
        tolerance=lambda s: 0.6 if s["dtype"] == "fp8_e4m3" else 0.02,
        calls_per_launch=_steps,
    ),
    Suite(
        "bandwidth_read",
        "reading buffers that fit L2 or not, by programs an SM and bytes in flight",
        [
            _read_of(1024 * MIB, 1, per, block, w, unroll=u)
            for per, block, w, u in (
                (1, 1024, 4, 1),
                (1, 4096, 4, 1),
                (1, 4096, 4, 4),
                (2, 4096, 4, 4),
                (4, 4096, 8, 4),
                (8, 4096, 8, 2),
                (16, 2048, 4, 2),
            )
        ]
        + [
            _read_of(size, passes, 4, 4096, 8)
            for size, passes in (
                (8 * MIB, 64),
                (16 * MIB, 32),
                (24 * MIB, 24),
                (32 * MIB, 16),
                (48 * MIB, 12),
                (64 * MIB, 8),
                (128 * MIB, 4),
            )
        ],
        one_config,
        _read_tensors,
        _read,
        _read_reference,
        lambda s: 0,
        _passes_bytes,
        timers=("graph",),
        tolerance=lambda s: 1e-3,
        tiny=[(_read_of(4096, 2, 1, 64, unroll=1), {"num_warps": 4})],
    ),
    Suite(
        "bandwidth_l1",
        "each program reading its own 32 KiB through L1; bytes a second are 32768 programs passes / latency_s",
        [{"per_sm": per, "warps": w, "passes": 512, "dtype": "float32"} for per, w in ((1, 4), (1, 8), (2, 8), (4, 8))],
        one_config,
        _own_tensors,
        _own,
        lambda s, t: (t["x"].double().sum(-1) * int(s["passes"])).float(),
        lambda s: 0,
        lambda s: 0,
        timers=("graph",),
        tolerance=lambda s: 1e-3,
        tiny=[({"per_sm": 1, "warps": 4, "passes": 2, "dtype": "float32"}, {"num_warps": 4})],
    ),
    Suite(
        "bandwidth_copy",
        "copying: as many bytes read as written",
        [{"bytes": b, "dtype": "float32"} for b in (1024 * MIB, 4 * MIB, 64 * MIB, 16 * MIB, 256 * MIB, MIB, 256 * KIB)],
        lambda s: _ROOM,
        _copy_tensors,
        _copy,
        lambda s, t: t["x"],
        lambda s: 0,
        lambda s: 2 * int(s["bytes"]),
        tolerance=lambda s: 0.0,
        tiny=[({"bytes": 1000, "dtype": "float32"}, {"BLOCK": 64, "num_warps": 4})],
    ),
    Suite(
        "bandwidth_fill",
        "writing",
        [{"bytes": b, "dtype": "float32"} for b in (1024 * MIB, 16 * MIB, 128 * MIB)],
        lambda s: _ROOM,
        lambda s, p: {"out": p.empty(int(s["bytes"]) // 4, dtype="float32")},
        _fill,
        lambda s, t: t["out"].new_full(t["out"].shape, 1.5),
        lambda s: 0,
        lambda s: int(s["bytes"]),
        tolerance=lambda s: 0.0,
        tiny=[({"bytes": 1000, "dtype": "float32"}, {"BLOCK": 64, "num_warps": 4})],
    ),
    Suite(
        "launch",
        "an empty kernel: CPU seconds a launch (host), back to back (eager), in a graph, and between events with L2 overwritten (cold)",
        [{"programs": p, "dtype": "int32"} for p in (1, 132, 1056, 16896, 1000000)],
        one_config,
        lambda s, p: {"out": p.zeros(1)},
        lambda s, c, t, p: [Launch(micro.empty, (int(s["programs"]),), (t["out"],), dict(c))],
        lambda s, t: t["out"].new_ones(1).float(),
        lambda s: 0,
        lambda s: 4,
        timers=("host", "eager", "graph", "cold"),
        tiny=[({"programs": 2, "dtype": "int32"}, {"num_warps": 4})],
    ),
)
