"""What `tile` and `cycle` cost once a kernel is compiled, and what following its CTAs costs with and without closed loops."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("numba")
pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("pytest_benchmark")

from presilicon import arch
from presilicon.mapping.triton import bind_launch, compile_launch, evaluate
from presilicon.sim.sm.run import simulate_kernel
from presilicon.validate.kernels import suite_named

H100 = arch.load("h100-sxm")


def _launch(name: str) -> Any:
    suite = suite_named(name)
    sizes = suite.shapes[0]
    one = suite.predict(sizes, suite.configs(sizes)[0], sm_count=132, capability=90)[0]
    launch = bind_launch(one.kernel, one.grid, one.args, one.meta, target=90)
    return compile_launch(launch), launch


def _seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of the quicker of two runs."""
    found = []
    for _ in range(2):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


@pytest.mark.parametrize("name", ["gemm", "gemm_tune", "attention", "moe_gemm", "swiglu", "bandwidth_copy"])
def test_tile_beside_cycle(benchmark: Any, name: str) -> None:
    compiled, launch = _launch(name)
    cycle = simulate_kernel(compiled, launch, H100)
    simulate_kernel(compiled, launch, H100, fidelity="tile")
    seconds = {fidelity: _seconds(lambda fidelity=fidelity: simulate_kernel(compiled, launch, H100, fidelity=fidelity))
               for fidelity in ("cycle", "tile")}
    tile = benchmark.pedantic(simulate_kernel, (compiled, launch, H100), {"fidelity": "tile"}, rounds=2)
    benchmark.extra_info["cycle_over_tile"] = round(seconds["cycle"] / max(seconds["tile"], 1e-9), 2)
    benchmark.extra_info["steps_cycle_over_tile"] = round(cycle.simulated_issued / tile.simulated_issued, 1)
    print(f"\n{name}: cycle {seconds['cycle'] * 1e3:.1f} ms, tile {seconds['tile'] * 1e3:.1f} ms, steps "
          f"{cycle.simulated_issued:,} and {tile.simulated_issued:,}")
    assert tile.time_s == pytest.approx(cycle.time_s, rel=0.10)


@pytest.mark.parametrize("close", [False, True])
def test_following_a_cta(benchmark: Any, close: bool) -> None:
    compiled, launch = _launch("gemm_tune")
    found = benchmark.pedantic(evaluate, (compiled, launch, (0, 0, 0)), {"trace": True, "close": close}, rounds=3, warmup_rounds=1)
    assert found.tensor_flops == evaluate(compiled, launch, (1, 0, 0), addresses=False).tensor_flops > 0
