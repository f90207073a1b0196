"""Products with weights on units of AttAcc, AiM and UPMEM: placed by cost, by their stored bits, and refused where they do not fit."""

from __future__ import annotations

import pytest

from presilicon.arch import load
from presilicon.arch.hybrid_spec import HybridSystem
from presilicon.mapping.placement import is_linear
from presilicon.sim.hybrid.run import simulate_hybrid
from presilicon.validate.cases.hybrids import decoder_layers
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.quantise import quantise


def _system(name: str, **changes: object) -> HybridSystem:
    system = load(name)
    assert isinstance(system, HybridSystem)
    return system.override({key.replace("__", "."): value for key, value in changes.items()}) if changes else system


def _graph(batch: int) -> OpGraph:
    return decoder_layers(4096, 32, 8, (512,) * batch, 2)


def _linear_s(system: HybridSystem, graph: OpGraph) -> float:
    found = simulate_hybrid(graph, system, "analytic", "pim")
    placed = [r for r in found.results if is_linear(r.op)]
    assert placed
    assert {r.place for r in placed} == {"pim"}
    return sum(r.estimate.time_s * r.op.count for r in placed)


def test_attacc_units_take_products_of_small_batches_and_leave_large_ones() -> None:
    system = _system("dgx-attacc", plan__co_processing=False)
    small, large = (simulate_hybrid(_graph(batch), system, "analytic", "auto") for batch in (1, 128))
    assert any(is_linear(r.op) and r.place == "pim" for r in small.results)
    assert all(r.place == "xpu" for r in large.results if is_linear(r.op))
    reasons = [r.reason for r in small.results if is_linear(r.op) and r.place == "pim"]
    assert all("on pim" in reason and "on xpu" in reason for reason in reasons)


@pytest.mark.parametrize("name", ["dgx-attacc", "h100-aim"])
def test_quantised_weights_take_fewer_columns(name: str) -> None:
    system = _system(name)
    graph = _graph(1)
    wide, half, quarter = (_linear_s(system, found) for found in (graph, quantise(graph, "w8a16"), quantise(graph, "w4a16")))
    assert wide > half > quarter
    assert wide < 4 * quarter


def test_upmem_runs_products_and_says_what_does_not_fit() -> None:
    system = _system("h100-aim", pim__dram="upmem", pim__kernel="upmem", pim__count=1)
    assert _linear_s(system, _graph(1)) > 0
    tiny = _system("h100-aim", pim__count=1)
    huge = decoder_layers(65536, 64, 1, (16,), 1)
    found = simulate_hybrid(huge, tiny, "analytic", "pim")
    assert any("stays on the processor" in note and "rows of every bank" in note for note in found.notes)


def test_all_weights_on_the_units_together_have_to_fit() -> None:
    system, graph = _system("h100-aim", pim__count=1), decoder_layers(8192, 64, 1, (512,), 60)
    found = simulate_hybrid(graph, system, "analytic", "pim")
    assert system.pim is not None
    held = sum(r.op.count * (r.op.operand_bytes("weight") + r.op.operand_bytes("cache")) for r in found.results if r.place == "pim")
    assert 0 < held <= system.pim.size_bytes
    left = [r for r in found.results if is_linear(r.op) and r.place == "xpu"]
    assert left
    assert all("no room" in r.reason for r in left)
    assert any("no room there for" in note for note in found.notes)
    assert any("processor's own memory" in note and "DO NOT FIT" in note for note in found.notes) == (
        sum(r.op.count * r.op.operand_bytes("weight") for r in left) > system.memory_bytes - system.pim.size_bytes)
