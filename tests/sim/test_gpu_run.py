"""What a run on one GPU says beside its numbers."""

from pathlib import Path

import pytest

import presilicon as ps
from presilicon.workloads import Op, OpGraph, tensor

DECODE = Path(__file__).parents[1] / "data" / "llama-3-8b.decode.graph.json.gz"


def product(fmt: str) -> OpGraph:
    operands = (tensor("a", "input", "m k", fmt), tensor("w", "weight", "n k", fmt), tensor("out", "output", "m n", fmt))
    return OpGraph("product", [Op("up", "matmul", "aten.linear", {"m": 64, "n": 2048, "k": 2048}, operands, {"mac": 1.0}, module="up")])


@pytest.mark.parametrize(
    ("system", "fmt", "asked", "taken"),
    [("v100-sxm", "bf16", "bf16", "fp16"), ("t4", "bf16", "bf16", "fp16"), ("a100-sxm-80gb", "fp8", "fp8", "fp16"),
     ("h100-sxm", "nvfp4", "fp4", "fp8")],
)
def test_a_format_that_the_tensor_cores_lack_is_named(system: str, fmt: str, asked: str, taken: str) -> None:
    notes = ps.simulate(product(fmt), system).simulation.notes
    assert notes == (f"{system} has no tensor cores for {asked}: its products are predicted at the rate of {taken}",)


@pytest.mark.parametrize(("system", "fmt"), [("v100-sxm", "fp16"), ("v100-sxm", "fp32"), ("a100-sxm-80gb", "bf16"), ("h100-sxm", "fp8")])
def test_formats_that_they_have_and_those_of_the_vector_lanes_are_not(system: str, fmt: str) -> None:
    assert ps.simulate(product(fmt), system).simulation.notes == ()


def test_experts_that_are_dealt_evenly_are_all_read() -> None:
    rows, experts = 8, 8
    weights = tensor("w", "weight", "n k", "bf16", elements=experts * 2048 * 2048)
    operands = (tensor("a", "input", "m k", "bf16"), weights, tensor("out", "output", "m n", "bf16"))
    op = Op("up", "matmul", "aten._grouped_mm", {"m": rows, "n": 2048, "k": 2048}, operands, {"mac": 1.0}, module="up",
            attributes={"groups": experts, "distribution": "balanced"})
    report = ps.simulate(OpGraph("experts", [op]), "h100-sxm")
    moved = report.simulation.results[0].estimate.bytes_moved["dram"]
    assert moved >= op.operand_bytes("weight") == experts * 2048 * 2048 * 2
    assert report.time_s >= op.operand_bytes("weight") / 3.35e12


def test_a_cache_of_a_decode_step_comes_from_dram() -> None:
    graph = OpGraph.load(DECODE)
    results = [r for r in ps.simulate(graph, "h100-sxm").simulation.results if r.op.kind == "attention"]
    assert results
    for r in results:
        assert r.estimate.bytes_moved["dram"] >= r.op.operand_bytes("cache")
