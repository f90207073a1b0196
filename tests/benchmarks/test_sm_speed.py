"""Issued warp-instructions a second of the SM's core."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("llvmlite")
pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("pytest_benchmark")

import torch

from presilicon import arch
from presilicon.mapping.triton import bind_launch, compile_launch, occupancy_of
from presilicon.sim.sm.grid import Schedule, run_ctas
from presilicon.sim.sm.run import prepare, simulate_kernel


def _gemm(target: str) -> Any:
    from presilicon.validate.kernels.gemm import matmul

    n = 4096
    a, b, c = (torch.empty(n, n, dtype=torch.bfloat16, device="meta") for _ in range(3))
    meta = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 32, "GROUP_M": 8, "INT8": False, "SCALED": False, "num_warps": 4, "num_stages": 4}
    launch = bind_launch(matmul, (1024,), (a, b, c, a, a, n, n, n, n, 1, n, 1, n, 1), meta, target=target)
    return compile_launch(launch), launch


def test_issue_rate(benchmark: Any) -> None:
    compiled, launch = _gemm("sm_80")
    system = arch.load("a100-sxm-80gb")
    kernel, plan = prepare(compiled, launch, system, occupancy_of(compiled, system), False)
    part = Schedule(plan.slots, 4, 0, 1.0)
    run = run_ctas(kernel, part)  # compiles
    found = benchmark(run_ctas, kernel, part)
    benchmark.extra_info["warp_instructions"] = found.issued
    assert found.issued == run.issued > 500_000


def test_kernel_again(benchmark: Any) -> None:
    compiled, launch = _gemm("sm_80")
    system = arch.load("a100-sxm-80gb")
    first = simulate_kernel(compiled, launch, system)
    assert benchmark(simulate_kernel, compiled, launch, system).time_s == first.time_s
