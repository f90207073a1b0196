"""Energy of a step on a hybrid system: what crosses links, what is drawn all along, and the sum of the parts."""

from __future__ import annotations

import pytest

from presilicon.arch import load, names
from presilicon.arch.hybrid_spec import HybridSystem
from presilicon.sim.hybrid.energies import standing_w
from presilicon.sim.hybrid.run import simulate_hybrid
from presilicon.validate.cases.hybrids import decoder_layers

SHIPPED = [name for name in names() if load(name).kind == "hybrid"]


def _system(name: str) -> HybridSystem:
    system = load(name)
    assert isinstance(system, HybridSystem)
    return system


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("rule", ["auto", "xpu"])
def test_static_energy_is_power_times_the_step(name: str, rule: str) -> None:
    system = _system(name)
    found = simulate_hybrid(decoder_layers(4096, 32, 4, (300,) * 64, 3), system, "analytic", rule)
    static = sum(r.estimate.energy_j["static"] * r.op.count for r in found.results)
    assert static == pytest.approx(standing_w(system) * found.time_s)
    assert found.total.energy_j["static"] == pytest.approx(static)


def test_standby_of_aim_is_that_of_its_channels() -> None:
    # CENT: 183 mW of a precharged channel, and 381 and 268 mW of PHY and controller for two channels.
    h100 = _system("h100-aim")
    assert standing_w(h100) - h100.idle_w == pytest.approx(8 * 32 * (0.183 + (0.381 + 0.268) / 2))


def test_bytes_over_the_link_cost_its_energy() -> None:
    batch, layers, heads, dim = 64, 3, 8, 128
    graph = decoder_layers(4096, 32, 4, (300,) * batch, layers)
    system = _system("h100-aim")
    found = simulate_hybrid(graph, system, "analytic", "pim-attention")
    # Queries and the new token's key and value go out, results come back, 16 bits each.
    crossed = layers * 2.0 * batch * heads * dim * (1 + 2 + 1)
    assert found.total.energy_j["link"] == pytest.approx(crossed * 35.2e-12)
    double = simulate_hybrid(graph, system.override({"link.energy": "70.4 pJ/B"}), "analytic", "pim-attention")
    assert double.total.energy_j["link"] == pytest.approx(2 * found.total.energy_j["link"])
    assert double.time_s == found.time_s
    assert "link" not in simulate_hybrid(graph, system, "analytic", "xpu").total.energy_j
    assert "link" not in simulate_hybrid(graph, _system("neupims"), "analytic", "pim").total.energy_j


def test_sub_batches_cross_the_link_once() -> None:
    graph = decoder_layers(4096, 32, 4, (300,) * 64, 3)
    system = _system("h100-aim")
    whole, halves = (simulate_hybrid(graph, s, "analytic", "pim-attention").total.energy_j["link"]
                     for s in (system, system.override({"plan.sub_batches": 2})))
    assert halves == pytest.approx(whole)


def test_a_memory_without_energies_is_named() -> None:
    system = _system("h100-aim").override({"pim.dram": "upmem", "pim.kernel": "upmem"})
    found = simulate_hybrid(decoder_layers(4096, 32, 4, (300,) * 64), system, "analytic", "pim")
    assert any("upmem states no energy" in line for line in found.notes)
