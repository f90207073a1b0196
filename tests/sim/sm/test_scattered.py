"""Where only data knows addresses or masks, a launch costs what it does with data that makes them lie side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from presilicon.arch import load
from presilicon.mapping.triton import bind_launch, compile_launch
from presilicon.sim.sm.run import simulate_kernel

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
torch = pytest.importorskip("torch", reason="needs torch for meta tensors")
pytest.importorskip("numba", reason="the core runs in numba")
sys.path.insert(0, str(Path(__file__).parent))

import paged  # noqa: E402

pytestmark = pytest.mark.usefixtures("own_cache")


def _run(kernel: Any, grid: int, args: tuple[Any, ...], system: str, **meta: Any) -> Any:
    gpu = load(system)
    launch = bind_launch(kernel, (grid,), args, meta, target=gpu.generation)
    return simulate_kernel(compile_launch(launch), launch, gpu, fidelity="tile")


def _meta(*shape: int, dtype: Any = torch.bfloat16) -> Any:
    return torch.empty(*shape, dtype=dtype, device="meta")


def test_a_pipelined_loop_over_a_table_copies_each_row_once() -> None:
    n, k, grid, block = 128, 64, 432, 16
    table = torch.arange(grid * n, dtype=torch.int32)
    x, q, out = _meta(grid * n, k), _meta(block, k), _meta(grid, block, block, dtype=torch.float32)
    known, unknown = (_run(paged.paged_product, grid, (x, rows, q, out, n), "a100-sxm-80gb", K=k, BLOCK=block, num_warps=1, num_stages=3)
                      for rows in (table, _meta(grid * n, dtype=torch.int32)))
    assert known.assumptions == ()
    assert "address depends on what" in " ".join(unknown.assumptions)
    moved = 2 * grid * n * k + 4 * grid * n + 2 * block * k + 4 * grid * block**2
    assert unknown.bytes_moved["dram"] == pytest.approx(moved, rel=0.01)
    assert unknown.bytes_moved["l1"] == pytest.approx(known.bytes_moved["l1"], rel=0.01), "asynchronous copies pass L1 by"
    assert unknown.time_s == pytest.approx(known.time_s, rel=0.03)


def test_gathered_loads_ask_l1_for_their_bytes() -> None:
    grid, k = 4096, 2048
    run = _run(paged.rows_of, grid, (_meta(8192, k), _meta(grid, dtype=torch.int32), _meta(grid, k)), "h100-sxm", K=k)
    by_threads = grid * (2 * 2 * k + 4 * 128)  # each thread loads the row's number
    assert run.bytes_moved["l1"] == pytest.approx(by_threads, rel=0.001)
    assert run.bytes_moved["dram"] == pytest.approx(grid * (2 * 2 * k + 4), rel=0.01)


def test_a_mask_that_only_data_knows_costs_what_it_does_where_it_holds() -> None:
    grid, block = 1024, 512
    x, out = _meta(grid * block), _meta(grid * block)
    flags = torch.ones(grid * block, dtype=torch.int64), _meta(grid * block, dtype=torch.int64)
    known, unknown = (_run(paged.taken, grid, (x, some, out), "h100-sxm", BLOCK=block) for some in flags)
    assert any("mask depends on what" in text for text in unknown.assumptions)
    assert unknown.bytes_moved["dram"] == pytest.approx(known.bytes_moved["dram"], rel=1e-6)
    assert unknown.time_s == pytest.approx(known.time_s, rel=0.02)
