"""Tensor-core FLOP of whole grids: from the SASS that is executed, from TTGIR, and from the matrices' sizes."""

from __future__ import annotations

from types import ModuleType

import pytest

from presilicon.mapping.triton import compile_launch, evaluate_grid, parse_ttgir
from presilicon.mapping.triton.follow import all_program_ids
from presilicon.mapping.triton.tensor_core import MatrixShape, descriptor_shape, static_shape


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _tile_flops(launch: object, compiled: object) -> int:
    tiles = parse_ttgir(compiled.ttgir)  # type: ignore[attr-defined]
    parts = [tiles.dot_flops(launch.arguments, tuple(int(n) for n in pid), launch.grid)  # type: ignore[attr-defined, arg-type]
             for pid in all_program_ids(launch.grid)]  # type: ignore[attr-defined]
    assert None not in parts
    return sum(part or 0 for part in parts)


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90, 100, *(pytest.param(cc, marks=SLOW) for cc in (86, 89, 120))])
@pytest.mark.parametrize(("shape", "tile", "warps"), [
    ((512, 512, 512), (128, 128, 64), 8), pytest.param((500, 520, 200), (128, 128, 32), 4, marks=SLOW), ((130, 70, 1000), (64, 64, 64), 4),
])
def test_matmul(lab: ModuleType, target: int, shape: tuple[int, int, int], tile: tuple[int, int, int], warps: int) -> None:
    M, N, K = shape
    BM, BN, BK = tile
    launch = lab.matmul(M, N, K, target, BM=BM, BN=BN, BK=BK, warps=warps, stages=2)
    compiled = compile_launch(launch)
    run = evaluate_grid(compiled, launch)
    wanted = 2 * _up(M, BM) * _up(N, BN) * _up(K, BK)
    assert run.tensor_flops == wanted
    assert _tile_flops(launch, compiled) == wanted
    assert run.ctas == launch.programs


@pytest.mark.slow
@pytest.mark.parametrize(("target", "tile"), [(80, (128, 128, 32)), (90, (128, 256, 64)), (100, (128, 256, 64))])
def test_matmul_8192(lab: ModuleType, target: int, tile: tuple[int, int, int]) -> None:
    from presilicon.mapping.triton import evaluate

    launch = lab.matmul(8192, 8192, 8192, target, BM=tile[0], BN=tile[1], BK=tile[2])
    run = evaluate(compile_launch(launch), launch, (17, 0, 0), addresses=False)
    assert run.tensor_flops * launch.programs == 2 * 8192**3
    assert max(run.loop_trips().values()) in (8192 // tile[2], 8192 // tile[2] - 1), "one trip may be peeled"


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90, 100])
@pytest.mark.parametrize("causal", [False, True])
def test_attention(lab: ModuleType, target: int, causal: bool) -> None:
    length, head, block = 300, 64, 64
    launch = lab.attention(1, 2, length, head, target, causal)
    compiled = compile_launch(launch)
    run = evaluate_grid(compiled, launch)
    pairs = sum(-(-min((i + 1) * block, length) // block) if causal else -(-length // block) for i in range(-(-length // block)))
    wanted = 2 * pairs * 4 * block * block * head
    assert run.tensor_flops == wanted
    assert _tile_flops(launch, compiled) == wanted


@pytest.mark.slow
@pytest.mark.parametrize(("target", "specialize"), [
    (90, False), (100, True), pytest.param(100, False, marks=SLOW), pytest.param(120, True, marks=SLOW)])
def test_matmul_through_tma(lab: ModuleType, target: int, specialize: bool) -> None:
    launch = lab.matmul_tma(300, 264, 200, target, specialize)
    run = evaluate_grid(compile_launch(launch), launch)
    assert run.tensor_flops == 2 * _up(300, 128) * _up(264, 128) * _up(200, 64)


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 89, 90, 100, 120])
@pytest.mark.parametrize("name", ["float16", "float32", "float8_e5m2"])
def test_matmul_of_other_formats(lab: ModuleType, target: int, name: str) -> None:
    import torch

    if name == "float8_e5m2" and target < 89:
        pytest.skip("sm_80 has no fp8 matrix instruction; Triton widens to fp16")
    launch = lab.matmul(256, 128, 256, target, BM=128, BN=64, BK=64, warps=4, dtype=getattr(torch, name))
    run = evaluate_grid(compile_launch(launch), launch)
    assert run.tensor_flops == 2 * 256 * 128 * 256


def test_shapes_by_name() -> None:
    assert static_shape("HMMA", ("16816", "F32", "BF16")) == MatrixShape(16, 8, 16)
    assert static_shape("HMMA", ("1688", "F32", "TF32")) == MatrixShape(16, 8, 8)
    assert static_shape("IMMA", ("16832", "S8", "S8")) == MatrixShape(16, 8, 32)
    assert static_shape("HGMMA", ("64x256x16", "F32", "BF16")) == MatrixShape(64, 256, 16, 4)
    assert static_shape("UTCHMMA", ()) is None
    assert descriptor_shape("UTCHMMA", (), 128 // 16 << 24 | 256 // 8 << 17 | 1 << 7) == MatrixShape(128, 256, 16)
    assert descriptor_shape("UTCHMMA", (), 128 // 16 << 24 | 64 // 8 << 17 | 2 << 7) == MatrixShape(128, 64, 8)
    assert MatrixShape(16, 8, 16).flops == 4096
