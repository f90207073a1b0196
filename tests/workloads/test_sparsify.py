"""Pruned weights in a graph: exact bytes, the layers that change, any order with quantisation, schemes that cannot be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.errors import SpecError, UnknownNameError, WorkloadError
from presilicon.workloads import Memory, Op, OpGraph, parallelise, quantise, sparsify, tensor
from presilicon.workloads.formats import by_name, names
from presilicon.workloads.linear import sparsity_of, with_dense_weights
from presilicon.workloads.quantise import SCHEMES
from presilicon.workloads.sparsity import sparsity_by_name

DATA = Path(__file__).parents[1] / "data"
LLAMA = DATA / "llama-3-8b.decode.graph.json.gz"
PATTERNS = ("2:4", "1:2", "4:8", "unstructured:0.6", "tiled_csl:0.8")


def linear(n: int, k: int, module: str = "up_proj") -> Op:
    operands = (tensor("a", "input", "m k", "bf16"), tensor("w", "weight", "n k", "bf16"), tensor("bias", "weight", "n", "bf16"),
                tensor("out", "output", "m n", "bf16"))
    return Op(module, "matmul", "aten.linear", {"m": 8, "n": n, "k": k}, operands, {"mac": 1.0}, count=3, module=module)


def graph(n: int = 96, k: int = 64) -> OpGraph:
    ops = [linear(n, k), linear(n, k, "lm_head")]
    return OpGraph("two layers", ops, memory=Memory(weights_bytes=sum(op.count * op.operand_bytes("weight") for op in ops)))


@settings(deadline=None)
@given(groups=st.integers(1, 300), n=st.integers(1, 300), m=st.integers(2, 64), data=st.data())
def test_bytes_of_n_of_m_are_those_of_a_count(groups: int, n: int, m: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, m - 1))
    changed = sparsify(graph(n, groups * m), f"{kept}:{m}")
    stored = n * groups * kept
    bits = stored * 16 + stored * (m - 1).bit_length()  # a place among m takes as many bits as the largest place, m - 1
    assert changed["up_proj"].operand_bytes("weight") == pytest.approx(bits / 8 + 2 * n, rel=1e-12)


def test_bytes_of_scattered_zeros() -> None:
    dense = 4096 * 8192
    bitmap = 0.4 * dense * 2 + dense / 8 + 4 * dense / (64 * 64)
    tiled = 0.4 * dense * 4 + 4 * dense / (128 * 64)
    for scheme, expected in (("unstructured:0.6", bitmap), ("tiled_csl:0.6", tiled)):
        op = sparsify(graph(4096, 8192), scheme)["up_proj"]
        assert op.operand_bytes("weight") - 2 * 4096 == pytest.approx(expected, rel=1e-12)


def test_the_head_and_biases_stay_and_memory_follows() -> None:
    before, after = graph(), sparsify(graph(), "2:4")
    spared = 3 * 96 * 64 * (16 - 9) / 8
    assert after.memory.weights_bytes == pytest.approx(before.memory.weights_bytes - spared)
    assert after["lm_head"] == before["lm_head"]
    assert after["up_proj"].operands[2] == before["up_proj"].operands[2]
    assert after["up_proj"].flops == before["up_proj"].flops  # of the dense product
    assert (after.meta["sparsity"], after["up_proj"].attributes["sparsity"]) == ("2:4", "2:4")
    with_head = sparsify(graph(), "2:4", lm_head=True)
    assert with_head.memory.weights_bytes == pytest.approx(before.memory.weights_bytes - 2 * spared)


@pytest.mark.parametrize("quant", sorted(SCHEMES))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_order_with_quantisation_does_not_matter(quant: str, pattern: str) -> None:
    first, second = sparsify(quantise(graph(), quant), pattern), quantise(sparsify(graph(), pattern), quant)
    assert first.ops == second.ops
    assert first.meta == second.meta
    assert first.memory.weights_bytes == pytest.approx(second.memory.weights_bytes, rel=1e-12)
    weight = first["up_proj"].operands[1].number_format
    assert weight.dense == by_name(SCHEMES[quant].weight or "bf16")
    assert weight.sparsity == sparsity_by_name(pattern)
    shared = (weight.scale_bits + weight.zero_bits) / weight.group_size if weight.group_size else 0.0
    assert weight.bits == pytest.approx(weight.sparsity.density * (weight.element_bits + weight.sparsity.index_bits)
                                        + weight.sparsity.mask_bits + shared)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pruned_graph_is_saved_and_split(pattern: str, tmp_path: Path) -> None:
    pruned = sparsify(OpGraph.load(LLAMA), pattern)
    assert OpGraph.load(pruned.save(tmp_path / "pruned.json.gz")).to_dict() == pruned.to_dict()
    one, four = pruned, parallelise(pruned, tp=4)
    proj = next(op.name for op in one if op.module.endswith("mlp.up_proj"))
    assert sparsity_of(four[proj]) == sparsity_of(one[proj]) is not None
    assert four[proj].operand_bytes("weight") == pytest.approx(one[proj].operand_bytes("weight") / 4)
    kept = sum(op.count * op.operand_bytes("weight") for op in parallelise(OpGraph.load(LLAMA), tp=4) if sparsity_of(four[op.name]))
    left = sum(op.count * op.operand_bytes("weight") for op in four if sparsity_of(op))
    saved = parallelise(OpGraph.load(LLAMA), tp=4).memory.weights_bytes - four.memory.weights_bytes
    assert saved == pytest.approx(kept - left)


def test_a_second_pattern_replaces_the_first() -> None:
    twice = sparsify(sparsify(graph(), "2:4"), "unstructured:0.9")
    once = sparsify(graph(), "unstructured:0.9")
    assert (twice.ops, twice.meta) == (once.ops, once.meta)
    assert twice.memory.weights_bytes == pytest.approx(once.memory.weights_bytes, rel=1e-12)
    op = twice["up_proj"]
    assert with_dense_weights(op).operands == graph()["up_proj"].operands


def test_every_format_can_be_sparse_by_name() -> None:
    for name in names():
        dense, sparse = by_name(name), by_name(f"{name}@2:4")
        assert sparse.dense == dense
        assert sparse.name == f"{name}@2:4"
        assert (sparse.arithmetic, sparse.execution) == (dense.arithmetic, dense.execution)
    assert by_name("bfloat16@4:8").name == "bf16@4:8"
    assert by_name("bf16@unstructured:60%").name == "bf16@unstructured:0.6"


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("4:2", ("4:2", "1 <= N < M")),
        ("4:4", ("4:4", "N < M")),
        ("0:4", ("0:4", "1 <= N")),
        ("2:512", ("2:512", "256")),
        ("unstructured:1.5", ("unstructured:1.5", "above 0 and below 1")),
        ("unstructured:0", ("above 0 and below 1",)),
        ("unstructured:nan", ("above 0 and below 1",)),
        ("unstructured:-0.2", ("above 0 and below 1",)),
        ("tiled_csl:many", ("above 0 and below 1", "'many'")),
        ("unstructured", ("unstructured:0.6",)),
        ("tiled_csl", ("tiled_csl:0.6",)),
    ],
)
def test_a_scheme_that_cannot_be_is_explained(scheme: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        sparsify(graph(), scheme)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("scheme", "near"), [("unstructred:0.6", "unstructured:0.6"), ("2to4", "2:4"), ("", "2:4"), ("2:4:8", "2:4")])
def test_an_unknown_scheme_names_the_nearest(scheme: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match="sparsity scheme") as caught:
        sparsify(graph(), scheme)
    assert near in str(caught.value)


def test_depth_that_no_pattern_fits_stays_dense() -> None:
    mixed = OpGraph("mixed", [linear(96, 64), linear(96, 66, "odd")])
    changed = sparsify(mixed, "2:4")
    assert sparsity_of(changed["up_proj"]) is not None
    assert sparsity_of(changed["odd"]) is None
    with pytest.raises(WorkloadError, match="multiple of 4"):
        sparsify(OpGraph("odd", [linear(96, 66)]), "2:4")
    assert sparsity_of(sparsify(OpGraph("odd", [linear(96, 66)]), "unstructured:0.5")["up_proj"]) is not None


def test_a_graph_without_linear_layers_and_training_are_refused() -> None:
    with pytest.raises(WorkloadError, match="no linear layer to prune"):
        sparsify(OpGraph("nothing", []), "unstructured:0.5")
    with pytest.raises(WorkloadError, match="training step"):
        sparsify(OpGraph("train", [linear(96, 64)], meta={"phase": "train"}), "2:4")


def test_tiled_csl_and_bitmap_cross_where_documented() -> None:
    def bits(scheme: str) -> float:
        return by_name(f"fp16@{scheme}").bits

    assert bits("tiled_csl:0.937") > bits("unstructured:0.937")
    assert bits("tiled_csl:0.938") < bits("unstructured:0.938")
    assert math.isclose(bits("tiled_csl:0.5"), 16, rel_tol=1e-3)  # Flash-LLM: break-even at half
