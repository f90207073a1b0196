"""Speed, by pytest-benchmark: `make bench`. Numbers depend on the machine; read them beside the peer or the bar that each names."""

import numpy as np
import pytest

from presilicon import arch
from presilicon.mapping.gpu.analytic import evaluate
from presilicon.mapping.gpu.machine import Machine

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


def _points_per_s(benchmark, points):
    if benchmark.stats is not None:
        benchmark.extra_info["points_per_s"] = points / benchmark.stats["min"]


def test_analytic_gemm_points(benchmark, designs):
    m, n, k = (np.array(column, dtype=float) for column in zip(*LLAMA_GEMMS, strict=True))
    link = arch.load("h100-sxm").link
    times = benchmark(evaluate, "gemm", designs, link, {"m": m, "n": n, "k": k}, {"arithmetic": "bf16"})
    assert times.time_s.shape == (DESIGNS, len(LLAMA_GEMMS))
    _points_per_s(benchmark, DESIGNS * len(LLAMA_GEMMS))


def test_analytic_memory_points(benchmark, designs):
    sizes = {"bytes_read": np.geomspace(1e4, 1e9, 20), "bytes_written": np.geomspace(1e4, 1e9, 20)}
    times = benchmark(evaluate, "memory", designs, arch.load("h100-sxm").link, sizes, {"kind": "elementwise"})
    assert times.time_s.shape == (DESIGNS, 20)
    _points_per_s(benchmark, DESIGNS * 20)
