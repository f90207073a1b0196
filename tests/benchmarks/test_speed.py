"""Speed, by pytest-benchmark: `make bench`. Numbers depend on the machine; read them beside the peer or the bar that each names."""

import sys
from pathlib import Path

import numpy as np
import pytest

from presilicon import arch
from presilicon.mapping.gpu.analytic import evaluate, evaluate_all
from presilicon.mapping.gpu.lower import lower
from presilicon.mapping.gpu.machine import Machine
from presilicon.workloads.graph import OpGraph

DATA = Path(__file__).parents[1] / "data"

#: The GEMMs of one decoder layer of Llama-3-8B at 2,048 tokens, and of a decode step of batch 8.
LLAMA_GEMMS = [(m, n, k) for m in (2048, 8) for n, k in ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336), (128256, 4096))]
DESIGNS = 2000


@pytest.fixture(scope="module")
def designs():
    rng = np.random.default_rng(0)
    return Machine.of(
        arch.load("h100-sxm"),
        {
            "gpu.sm.count": rng.integers(60, 200, DESIGNS),
            "gpu.clock.boost": rng.uniform(1e9, 2.2e9, DESIGNS),
            "gpu.l2.size": rng.uniform(20e6, 120e6, DESIGNS),
            "dram.bandwidth": rng.uniform(1e12, 8e12, DESIGNS),
            "gpu.sm.tensor.bf16": rng.uniform(1024, 8192, DESIGNS),
        },
    )


def _rate(benchmark, points):
    """Points a second of the fastest round, in the name column's extra info (``--benchmark-json`` holds it) and on the terminal."""
    if benchmark.stats is not None:
        rate = points / benchmark.stats["min"]
        benchmark.extra_info["points_per_s"] = rate
        sys.__stdout__.write(f"\n{benchmark.name}: {rate / 1e6:.2f} million (op, design) points a second\n")


def test_analytic_gemm_points(benchmark, designs):
    m, n, k = (np.array(column, dtype=float) for column in zip(*LLAMA_GEMMS, strict=True))
    link = arch.load("h100-sxm").link
    times = benchmark(evaluate, "gemm", designs, link, {"m": m, "n": n, "k": k}, {"arithmetic": "bf16"})
    assert times.time_s.shape == (DESIGNS, len(LLAMA_GEMMS))
    _rate(benchmark, DESIGNS * len(LLAMA_GEMMS))


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_analytic_llama_points(benchmark, designs, phase):
    """Every kernel of Llama-3-8B on 2,000 designs."""
    system = arch.load("h100-sxm")
    graph = OpGraph.load(DATA / f"llama-3-8b.{phase}.graph.json.gz")
    kernels = [lower(op, system.gpu.sm.tensor_flops_per_clk) for op in graph]
    results = benchmark(evaluate_all, kernels, designs, system.link)
    assert sum(len(indices) for indices, _ in results) == len(graph)
    _rate(benchmark, DESIGNS * len(graph))
