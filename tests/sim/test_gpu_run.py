"""What a run on one GPU says beside its numbers."""

import pytest

import presilicon as ps
from presilicon.workloads import Op, OpGraph, tensor


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
