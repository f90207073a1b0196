"""Folding: equal blocks once, with a count; nothing lost, no cycle."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.workloads import Op, OpGraph
from presilicon.workloads.fold import fold
from presilicon.workloads.op import tensor


def op(module: str, name: str, n: int) -> Op:
    ports = (tensor("x0", "input", "n", "bf16"), tensor("out", "output", "n", "bf16"))
    return Op(
        f"{module}.{name}" if module else name,
        "elementwise",
        f"aten.{name}.default",
        {"n": n},
        ports,
        {"add": 1.0},
        module=module,
    )


def chain(sizes: list[int], width: int = 2) -> OpGraph:
    """A chain of blocks whose ops have the given sizes, between a first and a last op."""
    ops = [op("", "first", 4)]
    for i, n in enumerate(sizes):
        ops += [op(f"layers.{i}", f"step{j}", n) for j in range(width)]
    ops.append(op("", "last", 4))
    edges = [(a.name, b.name, "x0") for a, b in pairwise(ops)]
    return OpGraph("chain", ops, edges)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 4))
def test_sums_are_exact_for_any_mix_of_blocks(sizes: list[int], width: int) -> None:
    graph = chain(sizes, width)
    folded = fold(graph)
    assert folded.flops == graph.flops
    assert sum(o.count for o in folded) == len(graph)
    assert sum(o.count * o.operand_bytes() for o in folded) == sum(o.operand_bytes() for o in graph)
    assert len(folded) == 2 + width * len(set(sizes))
    assert nx.is_directed_acyclic_graph(folded.nx)
    assert fold(folded).to_dict() == folded.to_dict()


def test_the_order_and_the_way_through_are_kept() -> None:
    folded = fold(chain([8] * 5))
    assert [o.name for o in folded] == ["first", "layers.0.step0", "layers.0.step1", "last"]
    assert list(folded.nx.edges) == [
        ("first", "layers.0.step0"),
        ("layers.0.step0", "layers.0.step1"),
        ("layers.0.step1", "last"),
    ]


def test_blocks_that_are_wired_differently_stay_apart() -> None:
    ops = [op(f"layers.{i}", name, 8) for i in range(2) for name in ("a", "b", "c")]
    edges = [
        ("layers.0.a", "layers.0.b", "x0"),
        ("layers.0.b", "layers.0.c", "x0"),
        ("layers.1.a", "layers.1.b", "x0"),
        ("layers.1.a", "layers.1.c", "x0"),
    ]
    assert len(fold(OpGraph("g", ops, edges))) == 6


def test_nested_blocks_fold_inside_out() -> None:
    ops = [op(f"stages.{s}.blocks.{b}", "step", 8 * (s + 1)) for s in range(2) for b in range(3)]
    folded = fold(OpGraph("nested", ops))
    assert [(o.name, o.count) for o in folded] == [("stages.0.blocks.0.step", 3), ("stages.1.blocks.0.step", 3)]
    ops = [op(f"stages.{s}.blocks.{b}", "step", 8) for s in range(2) for b in range(3)]
    assert [(o.name, o.count) for o in fold(OpGraph("nested", ops))] == [("stages.0.blocks.0.step", 6)]


def test_forward_and_backward_are_not_mixed() -> None:
    from dataclasses import replace

    forward = [op(f"layers.{i}", "step", 8) for i in range(3)]
    backward = [replace(o, name=f"backward.{o.name}", attributes={"pass": "backward"}) for o in reversed(forward)]
    folded = fold(OpGraph("train", [*forward, *backward]))
    assert [(o.name, o.count) for o in folded] == [("layers.0.step", 3), ("backward.layers.2.step", 3)]


@pytest.mark.slow
def test_a_thousand_blocks_fold_quickly_enough_to_count() -> None:
    folded = fold(chain([8] * 1000, width=40))
    assert len(folded) == 42
    assert {o.count for o in folded} == {1, 1000}
