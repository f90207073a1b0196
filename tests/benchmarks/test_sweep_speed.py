"""Speed of sweeps, by pytest-benchmark: `make bench`. Bars: 100,000 designs x 2 workloads (`analytic`), 1,000 x 2 (`tile`)."""

import sys
from pathlib import Path
from typing import Any

import pytest

from presilicon.explore.sweep import sweep

DATA = Path(__file__).parents[1] / "data"
#: Steps of each of the five parameters: 10 designs, 100,000 designs.
PARAMETERS = {
    "gpu.sm.count": (60, 204),
    "gpu.clock.boost": (1.2e9, 2.1e9),
    "gpu.l2.size": (24e6, 144e6),
    "dram.bandwidth": (1.5e12, 8e12),
    "gpu.sm.tensor.bf16": (1024, 10240),
}


def study(fidelity: str, steps: tuple[int, ...]) -> dict[str, Any]:
    ranges = zip(PARAMETERS.items(), steps, strict=True)
    return {
        "workloads": [{"graph": str(DATA / f"llama-3-8b.{phase}.graph.json.gz")} for phase in ("prefill", "decode")],
        "systems": ["h100-sxm"],
        "parameters": {path: {"range": list(ends), "steps": n} for (path, ends), n in ranges},
        "fidelity": fidelity,
    }


@pytest.mark.parametrize(("fidelity", "steps", "bar_s"), [("analytic", (10, 10, 10, 10, 10), 15), ("tile", (4, 5, 2, 5, 5), 120)])
def test_llama_sweep(benchmark: Any, fidelity: str, steps: tuple[int, ...], bar_s: float, tmp_path: Path, request: Any) -> None:
    if request.config.getoption("benchmark_disable"):
        steps = (2, 2, 1, 2, 1)
    folders = iter(tmp_path / str(i) for i in range(100))
    found = benchmark.pedantic(lambda: sweep(study(fidelity, steps), next(folders), use_cache=False), rounds=1)
    expected = 2
    for n in steps:
        expected *= n
    assert len(found) == expected
    if benchmark.stats is not None:
        sys.__stdout__.write(f"\n{benchmark.name}: {expected:,} points in {benchmark.stats['min']:.1f} s, bar {bar_s} s\n")
