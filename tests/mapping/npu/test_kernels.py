"""Whole tiles for cores, split-K, and what waits on chip across ops."""

from __future__ import annotations

import pytest

from presilicon.arch import load
from presilicon.arch.npu import NpuSystem, npu_from_document
from presilicon.errors import SpecError
from presilicon.mapping.npu.group import RESIDENT_SHARE, schedule
from presilicon.mapping.npu.product import product as build
from presilicon.mapping.npu.product import spread
from presilicon.sim.npu.run import simulate_npu
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op, tensor


def npu(name: str) -> NpuSystem:
    system = load(name)
    assert isinstance(system, NpuSystem)
    return system


def product(m: int, n: int, k: int, weight: str = "w4_g128") -> OpGraph:
    operands = (tensor("a", "input", "m k", "fp16"), tensor("b", "weight", "k n", weight), tensor("out", "output", "m n", "fp16"))
    return OpGraph("mm", [Op("mm", "matmul", "aten.mm.default", {"m": m, "n": n, "k": k}, operands, {"mac": 1.0})])


def test_cores_take_whole_tiles() -> None:
    coarse = npu("ascend-910").override({"kernels.rows": 128, "kernels.cols": 256})
    shape = build(product(16, 1024, 8192, "fp16")["mm"], "fp16")
    cores = spread(shape, coarse).spatial.get("cores", {})
    assert cores.get("n", 1) <= 1024 // 256
    assert spread(shape, npu("ascend-910")).spatial["cores"]["n"] > 1024 // 256


def test_split_sums_fill_cores_that_whole_tiles_leave_idle() -> None:
    """The mechanism of arXiv 2601.16536: with K much larger than N there are fewer output tiles than cores."""
    tiled = npu("ascend-910").override({"launch": 0, "kernels.rows": 128, "kernels.cols": 256})
    fine = npu("ascend-910").override({"launch": 0})

    def gain(system: NpuSystem, n: int, k: int) -> float:
        whole, cut = (simulate_npu(product(16, n, k), system.override({"kernels.split_sum": s}), "analytic").time_s for s in (0, 1))
        return whole / cut

    narrow, wide = gain(tiled, 1024, 8192), gain(tiled, 8192, 8192)
    assert narrow > 1.3
    assert wide == pytest.approx(1.0, abs=0.02)
    assert gain(fine, 1024, 8192) == pytest.approx(1.0, abs=0.05)


def test_a_flag_that_is_none() -> None:
    document = npu("ascend-910").document
    wrong = {**document, "kernels": {"split_sum": {"value": 2, "source": "test"}}}
    with pytest.raises(SpecError, match=r"kernels\.split_sum: expected 0"):
        npu_from_document(wrong)


def residual(count: int = 6) -> OpGraph:
    """A chain of products in which each result is read again three ops later."""
    ops, edges = [], []
    for i in range(count):
        size = 512 + 256 * (i % 3)
        operands = [tensor("a", "input", "m k", "int8"), tensor("b", "weight", "k n", "int8"), tensor("out", "output", "m n", "int8")]
        ops.append(Op(f"mm{i}", "matmul", "aten.mm.default", {"m": 512, "n": size, "k": 512}, tuple(operands), {"mac": 1.0}))
        edges += [(f"mm{j}", f"mm{i}", "a") for j in (i - 1,) if j >= 0]
    more = [
        Op(
            f"sum{i}",
            "reduce",
            "aten.sum.dim_IntList",
            {"n": 512 * (512 + 256 * (i % 3))},
            (tensor("x", "input", "n", "int8"), tensor("y", "output", "n", "int8")),
            {"add": 1.0},
        )
        for i in range(count)
    ]
    return OpGraph("skips", [*ops, *more], [*edges, *((f"mm{i}", f"sum{i}", "x") for i in range(count))])


def test_what_waits_fits_and_saves_what_the_note_says() -> None:
    for size in ("1 MiB", "2 MiB", "24 MiB"):
        system = npu("tpu-v1").override({"memories.unified_buffer.size": size})
        scheduled = schedule(residual(), system)
        kept = scheduled.retained
        assert kept is not None
        assert kept.moved_bytes <= kept.greedy_bytes
        for step in range(len(scheduled.groups)):
            assert sum(kept.problem.tensors[i].size_bytes for i in kept.held(step)) <= RESIDENT_SHARE * system.memories[0].size_bytes
    found = simulate_npu(residual(), npu("tpu-v1"), "analytic")
    assert any("between ops 0 B pass the DRAM" in note and "proven" in note for note in found.notes)


def test_less_room_moves_more_through_the_dram() -> None:
    moved = [
        simulate_npu(residual(), npu("tpu-v1").override({"memories.unified_buffer.size": size}), "tile").total.bytes_moved["dram"]
        for size in ("24 MiB", "2 MiB", "1 MiB")
    ]
    assert moved == sorted(moved)
    assert moved[-1] > moved[0]
