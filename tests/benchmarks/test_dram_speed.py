"""Speed of the DRAM engine and of its closed forms: `make bench`.

Bars: 500,000 commands a second on one core (compiled); a GEMV 100 times faster in closed form, and 5 times command by
command, than the public simulators, whose wall times stand beside the cases (`extra_info`).
"""

import numpy as np
import pytest

from presilicon.arch import dram
from presilicon.mapping import pim
from presilicon.sim.dram import aim, attacc, samsung
from presilicon.sim.dram.engine import Requests, play
from presilicon.sim.dram.tables import compile_device

#: Wall seconds of the public simulators for the same work on their authors' kind of machine.
REFERENCE_S = {"aim": 0.26, "samsung": 7.30, "attacc": 9.07}


@pytest.mark.parametrize("name", ["aim-gddr6", "samsung-hbm2-pim", "attacc-hbm3", "ddr4-3200"])
def test_random_requests(benchmark, name):
    pytest.importorskip("numba")
    device = dram.load(name)
    tables, rng, size = compile_device(device), np.random.default_rng(0), 200_000
    kinds = np.array([tables.index("RD"), tables.index("WR")])
    requests = Requests(kinds[rng.integers(0, 2, size)], rng.integers(0, tables.banks, size), rng.integers(0, 4, size),
                        np.zeros(size, np.int64))
    play(device, requests, engine="numba")
    stream = benchmark(play, device, requests, engine="numba")
    if benchmark.stats is not None:  # timed, not only run once
        benchmark.extra_info["commands_per_s"] = round(len(stream) / benchmark.stats.stats.mean)
    assert len(stream) > size


CASES = {
    "aim": (lambda: aim.gemv(dram.load("aim-gddr6"), 4096, 4096, refresh="off").cycles,
            lambda: pim.aim_gemv(dram.load("aim-gddr6"), 4096, 4096, refresh=False).cycles),
    "samsung": (lambda: samsung.simulate(dram.load("samsung-hbm2-pim"), "GEMV", 4096, 4096).cycles,
                lambda: pim.samsung_gemv(dram.load("samsung-hbm2-pim"), 4096, 4096).cycles),
    "attacc": (lambda: attacc.simulate(dram.load("attacc-hbm3"), attacc.Attention(64, 2048)).cycles,
               lambda: pim.attacc_attention(dram.load("attacc-hbm3"), 64, 2048).cycles),
}


@pytest.mark.parametrize("closed", [False, True], ids=["commands", "closed"])
@pytest.mark.parametrize("name", CASES)
def test_kernel(benchmark, name, closed):
    cycles = benchmark(CASES[name][closed])
    if benchmark.stats is not None:
        benchmark.extra_info["times_faster"] = round(REFERENCE_S[name] / benchmark.stats.stats.mean)
    assert cycles > 0
