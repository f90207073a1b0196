"""What `tile` and `cycle` cost once a kernel is compiled, and what following its CTAs costs with and without closed loops."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("numba")
pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("pytest_benchmark")

from presilicon import arch
from presilicon.mapping.triton import bind_launch, compile_launch, evaluate, program
from presilicon.sim.sm import classes, facts, light_code
from presilicon.sim.sm.run import simulate_kernel
from presilicon.validate.kernels import suite_named

H100 = arch.load("h100-sxm")
#: Kernels on which the ratio is printed: every kind of the suites that are no microbenchmarks.
NAMES = ("gemm", "gemm_fp8", "gemm_tune", "gemm_split_k", "gemm_batched", "gemm_w4a16", "attention", "attention_decode",
         "attention_block_sparse", "moe_gemm", "rms_norm", "layer_norm", "softmax", "elementwise", "swiglu", "reduce", "transpose",
         "gather", "conv", "linear_attention", "bandwidth_copy")


def _launch(name: str) -> Any:
    suite = suite_named(name)
    sizes = suite.shapes[0]
    one = suite.predict(sizes, suite.configs(sizes)[0], sm_count=132, capability=90)[0]
    launch = bind_launch(one.kernel, one.grid, one.args, one.meta, target=90)
    return compile_launch(launch), launch


def _forget() -> None:
    """Empty what this process keeps of kernels; what lies on disk beside the compiled kernel stays."""
    for kept in (program._parsed, program._program, facts._facts, light_code._light_code, classes.single):
        kept.cache_clear()


def _seconds(work: Callable[[], Any], cold: bool) -> float:
    """CPU seconds of the quickest of three runs."""
    found = []
    for _ in range(3):
        if cold:
            _forget()
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


@pytest.fixture(scope="module")
def ratios() -> Iterator[dict[str, tuple[float, float]]]:
    """CPU of `cycle` over that of `tile`, first prediction and again, by kernel; their medians are printed at the end."""
    made: dict[str, tuple[float, float]] = {}
    yield made
    for n, what in enumerate(("first prediction in a process", "again")):
        print(f"\n{what}: median {statistics.median(pair[n] for pair in made.values()):.1f} of {len(made)} kernels")


@pytest.mark.parametrize("name", NAMES)
def test_tile_beside_cycle(benchmark: Any, ratios: dict[str, tuple[float, float]], name: str) -> None:
    compiled, launch = _launch(name)
    cycle = simulate_kernel(compiled, launch, H100)
    simulate_kernel(compiled, launch, H100, fidelity="tile")
    spent = {(fidelity, cold): _seconds(lambda fidelity=fidelity: simulate_kernel(compiled, launch, H100, fidelity=fidelity), cold)
             for fidelity in ("cycle", "tile") for cold in (True, False)}
    tile = benchmark.pedantic(simulate_kernel, (compiled, launch, H100), {"fidelity": "tile"}, rounds=2)
    ratios[name] = tuple(spent["cycle", cold] / max(spent["tile", cold], 1e-9) for cold in (True, False))  # type: ignore[assignment]
    benchmark.extra_info["cycle_over_tile"] = [round(ratio, 2) for ratio in ratios[name]]
    print(f"\n{name}: first {spent['cycle', True] * 1e3:.1f} and {spent['tile', True] * 1e3:.1f} ms ({ratios[name][0]:.1f}), again "
          f"{spent['cycle', False] * 1e3:.1f} and {spent['tile', False] * 1e3:.1f} ms ({ratios[name][1]:.1f}); steps "
          f"{cycle.simulated_issued:,} and {tile.simulated_issued:,}")
    assert tile.time_s == pytest.approx(cycle.time_s, rel=0.10)


@pytest.mark.parametrize("close", [False, True])
def test_following_a_cta(benchmark: Any, close: bool) -> None:
    compiled, launch = _launch("gemm_tune")
    found = benchmark.pedantic(evaluate, (compiled, launch, (0, 0, 0)), {"trace": True, "close": close}, rounds=3, warmup_rounds=1)
    assert found.tensor_flops == evaluate(compiled, launch, (1, 0, 0), addresses=False).tensor_flops > 0
