"""Pruned weights on every kind of system: what the report says, whose bytes shrink, and what memory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import presilicon as ps
from presilicon.workloads import Memory, Op, OpGraph, tensor

DECODE = Path(__file__).parents[1] / "data" / "llama-3-8b.decode.graph.json.gz"


def linear(m: int = 16, fmt: str = "bf16", count: int = 4) -> OpGraph:
    operands = (tensor("a", "input", "m k", fmt), tensor("w", "weight", "n k", fmt), tensor("out", "output", "m n", fmt))
    op = Op("up", "matmul", "aten.linear", {"m": m, "n": 2048, "k": 2048}, operands, {"mac": 1.0}, count=count, module="up")
    return OpGraph("linear", [op], memory=Memory(weights_bytes=count * op.operand_bytes("weight")))


def note(report: Any) -> str:
    lines = [line for line in report.simulation.notes if "product:" in line or "products:" in line]
    assert len(lines) == 1, report.simulation.notes
    return str(lines[0])


@pytest.mark.parametrize(
    ("system", "scheme", "words"),
    [
        ("h100-sxm", "2:4", ("4 products", "skip the zeros", "2 x", "bf16")),
        ("h100-sxm", "4:8", ("computed as dense", "skip only 2:4/1:2 in bf16")),
        ("h100-sxm", "unstructured:0.6", ("computed as dense", "skip only")),
        ("t4", "2:4", ("computed as dense", "t4 has no sparse tensor cores")),
        ("tpu-v4i", "2:4", ("expanded on their way in", "multiplies the zeros")),
    ],
)
def test_the_report_says_what_the_zeros_gain(system: str, scheme: str, words: tuple[str, ...]) -> None:
    report = ps.simulate(ps.sparsify(linear(), scheme), system)
    assert all(word in note(report) for word in words), note(report)
    assert f"{scheme}, 4 products" in report.summary()
    assert not any("zeros" in line for line in ps.simulate(linear(), system).simulation.notes)


@pytest.mark.parametrize("scheme", ["2:4", "unstructured:0.6"])
@pytest.mark.parametrize("name", ["tpu-v4i", "ascend-910", "gemmini-16"])
def test_an_npu_gains_dram_bytes_and_nothing_else(name: str, scheme: str) -> None:
    dense, pruned = ps.simulate(linear(), name), ps.simulate(ps.sparsify(linear(), scheme), name)
    before, after = dense.simulation.results[0].estimate, pruned.simulation.results[0].estimate
    assert after.busy_s["matrix"] == pytest.approx(before.busy_s["matrix"])
    assert after.time_s <= before.time_s
    weight = linear()["up"].elements(linear()["up"].operands[1])
    element = 8 if "gemmini" in name else 16  # an integer NPU stores integers
    share = ps.sparsify(linear(fmt="int8" if element == 8 else "bf16"), scheme)["up"].operands[1].number_format.bits / element
    spared = before.bytes_moved["dram"] - after.bytes_moved["dram"]
    assert spared >= weight * element / 8 * (1 - share) * (1 - 1e-9)  # each weight crosses once or more
    assert before.energy_j["dram"] - after.energy_j["dram"] == pytest.approx(
        spared * ps.load_system(name).dram.j_per_byte, rel=1e-6)


@pytest.mark.parametrize("name", ["tpu-v4i", "ascend-910"])
def test_quantised_and_pruned_weights_on_an_npu(name: str) -> None:
    moved = [
        ps.simulate(graph, name).simulation.results[0].estimate.bytes_moved["dram"]
        for graph in (linear(), ps.quantise(linear(), "w4a16"), ps.sparsify(ps.quantise(linear(), "w4a16"), "2:4"))
    ]
    assert moved[0] > moved[1] > moved[2]
    assert moved[1] - moved[2] >= (4.125 - 3.125) / 8 * 2048 * 2048 * (1 - 1e-9)


@pytest.mark.parametrize("fidelity", ["analytic", "tile"])
def test_useful_flops_stay_and_the_roofline_knows(fidelity: Any) -> None:
    graph = linear(m=16384)
    dense, pruned = (ps.simulate(g, "h100-sxm", fidelity=fidelity) for g in (graph, ps.sparsify(graph, "2:4")))
    assert dense.headline()["flops"] == pruned.headline()["flops"]
    peaks = ps.load_system("h100-sxm").peaks_flops_per_s
    rate = float(pruned.to_frame()["tflops_per_s"].iloc[0]) * 1e12
    assert peaks["bf16"] < rate < peaks["bf16_sparse"]
    assert pruned.simulation.results[0].arithmetic == "bf16_sparse"
    assert "not calibrated" in pruned.calibration["gemm.bf16_sparse"]
    pytest.importorskip("matplotlib")
    texts = [text.get_text() for text in pruned.roofline().axes[0].texts]
    assert any(text.startswith("bf16_sparse") for text in texts)


@pytest.mark.slow
def test_units_in_memory_keep_the_zeros() -> None:
    graph = OpGraph.load(DECODE)
    dense, pruned = (ps.simulate(g, "pim-gpt") for g in (graph, ps.sparsify(graph, "2:4")))
    assert pruned.time_s == pytest.approx(dense.time_s)
    assert pruned.simulation.memory.parts_bytes["weights"] == pytest.approx(dense.simulation.memory.parts_bytes["weights"])
    assert any("need every weight in its place" in line for line in pruned.simulation.notes)


def test_a_processor_beside_the_units_gains_what_it_can() -> None:
    graph = OpGraph.load(DECODE)
    dense, pruned = (ps.simulate(g, "h100-aim", place="xpu") for g in (graph, ps.sparsify(graph, "2:4")))
    assert pruned.time_s < dense.time_s
    assert any("skip the zeros" in line for line in pruned.simulation.notes)
    assert pruned.simulation.memory.parts_bytes["weights"] < dense.simulation.memory.parts_bytes["weights"]


def test_weights_fetched_ahead_fit_back_whatever_their_size() -> None:
    """Sizes that are no whole bytes: what was taken of the scratchpad fits back into it."""
    graph = ps.sparsify(OpGraph.load(DECODE), "unstructured:0.7")
    assert ps.simulate(graph, "neupims-npu-only").time_s > 0


@pytest.mark.slow
def test_a_processor_of_dense_kernels_gains_nothing_and_says_so() -> None:
    graph = OpGraph.load(DECODE)
    dense, pruned = (ps.simulate(g, "dgx-attacc") for g in (graph, ps.sparsify(graph, "2:4")))
    assert pruned.time_s == pytest.approx(dense.time_s)
    assert pruned.simulation.memory.parts_bytes["weights"] == pytest.approx(dense.simulation.memory.parts_bytes["weights"])
    assert any("nothing is gained" in line for line in pruned.simulation.notes)


def test_memory_fits_with_zeros_that_does_not_without() -> None:
    graph = OpGraph.load(DECODE)
    device = ps.load_system("h100-sxm").override({"dram.size": "15 GB"})
    assert not ps.simulate(graph, device).simulation.memory.fits
    assert ps.simulate(ps.sparsify(graph, "2:4"), device).simulation.memory.fits
