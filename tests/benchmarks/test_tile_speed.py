"""What `tile` and `cycle` cost once a kernel is compiled, and what following its CTAs costs with and without closed loops."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("llvmlite")
pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("pytest_benchmark")

from presilicon import arch, native
from presilicon.mapping.triton import bind_launch, compile_launch, evaluate, program
from presilicon.sim.sm import classes, facts, light_code
from presilicon.sim.sm.ahead import compile_ahead
from presilicon.sim.sm.run import simulate_kernel
from presilicon.validate.kernels import groups, suite_named

DEVICES = ("h100-sxm", "a100-sxm-80gb")
#: Every suite of ours that is no microbenchmark.
NAMES = tuple(name for group, names in groups().items() if group not in ("micro", "torch") for name in names)


def _launch(name: str, system: Any) -> Any:
    suite = suite_named(name)
    sizes = suite.shapes[0]
    capability = int(system.generation.removeprefix("sm_"))
    if reason := suite.refuses(sizes, capability):
        pytest.skip(reason)
    one = suite.predict(sizes, suite.configs(sizes)[0], sm_count=int(system.gpu.sm.count), capability=capability)[0]
    launch = bind_launch(one.kernel, one.grid, one.args, one.meta, target=capability)
    return compile_launch(launch), launch


def _forget() -> None:
    """Empty what this process keeps of kernels; what lies on disk beside the compiled kernel stays."""
    for kept in (program._parsed, program._program, facts._facts, light_code._light_code, classes.single):
        kept.cache_clear()


def _seconds(work: Callable[[], Any], cold: bool, rounds: int) -> tuple[float, Any]:
    """CPU seconds of the quickest of some runs, and what they give."""
    found = []
    for _ in range(rounds):
        if cold:
            _forget()
        start = time.process_time()
        made = work()
        found.append(time.process_time() - start)
    return min(found), made


@pytest.fixture(scope="module", autouse=True)
def _optimised() -> None:
    """Loops as they are once a process has run for a while."""
    for fidelity in ("tile", "cycle"):
        compile_ahead(fidelity, optimised=True)
    native._wait()


@pytest.fixture(scope="module")
def table() -> Iterator[dict[tuple[str, str], list[float]]]:
    """By device and kernel CPU seconds of `cycle` and `tile`, first and again, and `tile`'s time over `cycle`'s; printed at the end."""
    made: dict[tuple[str, str], list[float]] = {}
    yield made
    for device in dict.fromkeys(on for on, _ in made):
        rows = {name: row for (on, name), row in made.items() if on == device}
        print(f"\n{device}\n| kernel | `cycle`, first | `tile`, first | `cycle`, again | `tile`, again | time, `tile` over `cycle` |")
        print("|---|--:|--:|--:|--:|--:|")
        for name, row in rows.items():
            cells = ("" if math.isnan(part) else f"{1e3 * part:.{1 if part < 0.02 else 0}f}" for part in row[:4])
            print(f"| {name} | " + " | ".join(cells) + f" | {row[4]:.3f} |")
        error = sorted(abs(row[4] - 1.0) for row in rows.values())
        first, again = (sorted(row[n] / row[n + 1] for row in rows.values() if not math.isnan(row[n])) for n in (0, 2))
        print(f"{len(rows)} kernels; `cycle` over `tile`, median: first {statistics.median(first):.1f}, "
              + (f"again {statistics.median(again):.1f}, " if again else "")
              + f"first 10 and more in {sum(r >= 10 for r in first)}; error: median {statistics.median(error):.1%}, 90th percentile "
              f"{error[int(0.9 * (len(error) - 1))]:.1%}, within 10 %: {sum(e <= 0.1 for e in error)}")


@pytest.mark.parametrize("device", [DEVICES[0], pytest.param(DEVICES[1], marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.exhaustive) if name == "gemm_stream_k" else name for name in NAMES])  # `cycle` takes ten seconds
def test_tile_beside_cycle(benchmark: Any, table: dict[tuple[str, str], list[float]], name: str, device: str) -> None:
    """Three runs of each where benchmarks are measured; else one of `cycle` and two of `tile`, the first of which makes its code."""
    system = arch.load(device)
    compiled, launch = _launch(name, system)
    benchmark.pedantic(simulate_kernel, (compiled, launch, system), {"fidelity": "tile"}, rounds=2)
    again, rounds = (False, 1) if benchmark.disabled else (True, 3)
    spent, found = zip(*(_seconds(lambda fidelity=fidelity: simulate_kernel(compiled, launch, system, fidelity=fidelity), cold, rounds)
                         for cold in ((True, False) if again else (True,)) for fidelity in ("cycle", "tile")), strict=True)
    table[device, name] = [*spent, *(() if again else (math.nan, math.nan)), found[1].time_s / found[0].time_s]
    benchmark.extra_info["cycle_over_tile"] = [round(spent[n] / spent[n + 1], 2) for n in range(0, len(spent), 2)]
    assert found[1].time_s == pytest.approx(found[0].time_s, rel=0.10)


@pytest.mark.parametrize("close", [False, True])
def test_following_a_cta(benchmark: Any, close: bool) -> None:
    compiled, launch = _launch("gemm_tune", arch.load("h100-sxm"))
    found = benchmark.pedantic(evaluate, (compiled, launch, (0, 0, 0)), {"trace": True, "close": close}, rounds=3, warmup_rounds=1)
    assert found.tensor_flops == evaluate(compiled, launch, (1, 0, 0), addresses=False).tensor_flops > 0
