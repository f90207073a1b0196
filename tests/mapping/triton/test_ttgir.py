"""Tiles, loops, copies and waits as TTGIR states them."""

from __future__ import annotations

from types import ModuleType

import pytest

from presilicon.mapping.triton import compile_launch, parse_ttgir
from presilicon.mapping.triton.ttgir import COPIES, DOTS, WAITS, Partition


def test_pipelined_hopper_gemm(lab: ModuleType) -> None:
    launch = lab.matmul(8192, 8192, 8192, 90, 128, 256, 64)
    tiles = parse_ttgir(compile_launch(launch).ttgir)
    assert (tiles.name, tiles.target, tiles.num_warps) == ("matmul", 90, 8)
    assert tiles.layouts["mma"].startswith("#ttg.nvidia_mma<{versionMajor = 3")
    ((dot, (loop,)),) = tiles.find(DOTS)
    assert dot.dot_shape == (128, 256, 64)
    assert DOTS[dot.name] == 3
    assert dot.attributes["isAsync"] == "true"
    assert tiles.expression(loop.high) == "((K + 63) // 64)"
    assert tiles.trips(loop, launch.arguments) == 128
    inside = [op for op, loops in tiles.find(COPIES) if loops]
    assert [COPIES[op.name] for op in inside] == ["cp.async", "cp.async"]
    assert [op.types[-1].shape for op in inside] == [(128, 64), (64, 256)]
    assert [op.types[-1].bytes for op in inside] == [16384, 32768]
    assert {op.types[-1].layout for op in inside} == {"shared"}
    waits = [(op.name, op.attributes[WAITS[op.name]], len(loops)) for op, loops in tiles.find(WAITS)]
    assert waits == [("ttg.async_wait", 2, 1), ("ttng.warp_group_dot_wait", 1, 1), ("ttng.warp_group_dot_wait", 0, 0),
                     ("ttg.async_wait", 0, 0)]
    assert [(t.shape, t.element, t.space) for t in tiles.shared_allocations] == [
        ((3, 128, 64), "bf16", "smem"), ((3, 64, 256), "bf16", "smem")]
    assert sum(t.bytes for t in tiles.shared_allocations) == 147456
    assert dot.source is not None
    assert dot.source.file.endswith("kernels.py")


def test_trips_that_depend_on_the_program_id(lab: ModuleType) -> None:
    launch = lab.attention(1, 2, 300, 64, 80, True)
    tiles = parse_ttgir(compile_launch(launch).ttgir)
    ((_, (loop,)), _) = tiles.find(DOTS)
    assert tiles.expression(loop.high) == "min(((program_id(x) + 1) * 64), n_ctx)"
    assert [tiles.trips(loop, launch.arguments, (i, 0, 0), launch.grid) for i in range(5)] == [1, 2, 3, 4, 5]
    assert tiles.trips(loop, {}, (0, 0, 0)) is None, "the length is not known"


def test_warp_specialised_partitions(lab: ModuleType) -> None:
    launch = lab.matmul_tma(512, 512, 512, 100, specialize=True)
    tiles = parse_ttgir(compile_launch(launch).ttgir)
    names = [node.name for node in tiles.body if isinstance(node, Partition)]
    assert names == ["default", "partition0", "partition1"]
    ((dot, (loop,)),) = tiles.find(DOTS)
    assert DOTS[dot.name] == 5
    assert tiles.trips(loop, launch.arguments) == 8, "the bound is passed into the partition"
    kinds = [(COPIES[op.name], op.types[-1].bytes, len(loops)) for op, loops in tiles.find(COPIES)]
    assert kinds == [("tma load", 16384, 1), ("tma load", 16384, 1), ("tma store", 32768, 0)]


def test_while_loops_reductions_and_branches(kernels: ModuleType, lab: ModuleType) -> None:
    from presilicon.mapping.triton import compile_kernel

    tiles = parse_ttgir(compile_kernel(kernels.forever, (1,), (lab.floats(1), 7), target=90).ttgir)
    loop = next(node for node in tiles.body if not hasattr(node, "operands"))
    assert tiles.trips(loop, {"n": 7}) is None
    x = lab.meta(1000, dtype=__import__("torch").int32)
    tiles = parse_ttgir(compile_kernel(kernels.histogram, (4,), (x, x, 1000), {"BLOCK": 256}, target=90).ttgir)
    assert [COPIES[op.name] for op, _ in tiles.find(COPIES)] == ["load", "atomic"]
    assert tiles.dot_flops({}) == 0


@pytest.mark.parametrize("text", ["", "module {}", "tt.func public @f() {", "}\n}\n}", "%a = scf.for"])
def test_text_that_is_no_ttgir_gives_an_empty_program(text: str) -> None:
    assert list(parse_ttgir(text).walk()) == []
