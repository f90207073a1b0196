"""Fusion: what a fused kernel computes and moves, and that the order of work stays possible."""

import networkx as nx
import pytest

from presilicon.mapping.fusion import fuse
from presilicon.mapping.gpu.lower import lower
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op, tensor


def elementwise(name, n, reads=1, body=None, count=1, weight=False):
    operands = [tensor(f"x{i}", "weight" if weight and i else "input", "n", "bf16") for i in range(reads)]
    return Op(name, "elementwise", "t", {"n": n}, (*operands, tensor("out", "output", "n", "bf16")), body or {"add": 1}, count=count)


def matmul(name, m, n, k, count=1):
    return Op(
        name,
        "matmul",
        "t",
        {"b": 1, "m": m, "n": n, "k": k},
        (tensor("a", "input", "b m k", "bf16"), tensor("w", "weight", "k n", "bf16"), tensor("out", "output", "b m n", "bf16")),
        {"mac": 1},
        count=count,
    )


def gather(name, n):
    return Op(name, "gather", "t", {"n": n}, (tensor("x0", "input", "n", "bf16"), tensor("out", "output", "n", "bf16")))


def chain():
    """gather -> scale -> add (with the gather's own result as residual) -> matmul"""
    return OpGraph(
        "chain",
        [gather("rows", 512), elementwise("scale", 512), elementwise("add", 512, 2), matmul("mm", 8, 64, 64)],
        [("rows", "scale", "x0"), ("scale", "add", "x0"), ("rows", "add", "x1"), ("add", "mm", "a")],
    )


def test_a_chain_becomes_one_kernel_that_moves_what_crosses_its_boundary():
    fused = fuse(chain())
    assert [op.kind for op in fused] == ["gather", "elementwise", "matmul"]
    kernel = fused.ops[1]
    assert sorted(kernel.attributes["fused"]) == ["add", "scale"]
    assert kernel.bytes_read == 512 * 2  # the gathered rows, read once for both members
    assert kernel.bytes_written == 512 * 2  # the scaled tensor never leaves
    assert kernel.flops == 2 * 512


def gated_mlp():
    """silu(gate) * up, as a gated feed-forward layer has it"""
    return OpGraph(
        "mlp",
        [
            matmul("gate", 8, 64, 32),
            elementwise("silu", 512),
            matmul("up", 8, 64, 32),
            elementwise("mul", 512, 2),
            matmul("down", 8, 32, 64),
        ],
        [("gate", "silu", "x0"), ("silu", "mul", "x0"), ("up", "mul", "x1"), ("mul", "down", "a")],
    )


def test_elementwise_work_on_a_matmul_becomes_its_epilogue():
    fused = fuse(gated_mlp())
    assert [op.name for op in fused] == ["gate", "up+2", "down"]
    up = fused["up+2"]
    assert up.kind == "matmul"
    assert dict(up.dims) == {"b": 1, "m": 8, "n": 64, "k": 32}
    assert up.flops == 2 * 8 * 64 * 32 + 2 * 512
    assert up.attributes["epilogue_bytes"] == 2 * 512 * 2  # the gate's result comes in, the product goes out; up's own never leaves
    kernel = lower(up, {"bf16": 1.0})
    assert kernel.options["out_bits"] == 32.0
    assert lower(fused["gate"], {"bf16": 1.0}).options["out_bits"] == 16.0


def test_a_result_that_others_need_is_no_epilogue():
    ops = [matmul("mm", 8, 64, 32), elementwise("relu", 512), matmul("next", 8, 64, 64)]
    graph = OpGraph("fork", ops, [("mm", "relu", "x0"), ("mm", "next", "a")])
    assert [op.name for op in fuse(graph)] == ["mm", "relu", "next"]


def test_a_norm_is_no_epilogue():
    norm = Op(
        "norm", "norm", "t", {"r": 8, "c": 64}, (tensor("x0", "input", "r c", "bf16"), tensor("out", "output", "r c", "bf16")), {"add": 1}
    )
    graph = OpGraph("normed", [matmul("mm", 8, 64, 32), norm], [("mm", "norm", "x0")])
    assert [op.name for op in fuse(graph)] == ["mm", "norm"]


def test_arithmetic_is_kept():
    assert fuse(chain()).flops == chain().flops


def test_a_tensor_that_others_need_is_still_written():
    graph = OpGraph("fork", [elementwise("a", 100), elementwise("b", 100), matmul("mm", 10, 10, 10)], [("a", "b", "x0"), ("a", "mm", "a")])
    kernel = fuse(graph).ops[0]
    assert kernel.bytes_written == 2 * 100 * 2  # a for the matmul, b as the result


def test_ops_of_other_counts_stay_apart():
    graph = OpGraph("loop", [elementwise("once", 10), elementwise("often", 10, count=32)], [("once", "often", "x0")])
    assert len(fuse(graph)) == 2


def test_a_path_through_another_op_keeps_ops_apart():
    # first feeds last directly and through the gather: one kernel for both could never start
    graph = OpGraph(
        "skip",
        [elementwise("first", 64), gather("rows", 64), elementwise("last", 64, 2)],
        [("first", "rows", "x0"), ("rows", "last", "x0"), ("first", "last", "x1")],
    )
    fused = fuse(graph)
    assert len(fused) == 3
    assert nx.is_directed_acyclic_graph(fused.nx)


def test_weights_of_members_are_all_read():
    graph = OpGraph("norm", [elementwise("a", 64, 2, weight=True), elementwise("b", 64, 2, weight=True)], [("a", "b", "x0")])
    kernel = fuse(graph).ops[0]
    assert kernel.operand_bytes("weight") == 2 * 64 * 2


def test_program_order_is_a_topological_order():
    position = {op.name: i for i, op in enumerate(fuse(chain()))}
    assert all(position[u] < position[v] for u, v in fuse(chain()).nx.edges)


@pytest.mark.parametrize("kind", ["norm", "softmax", "reduce"])
def test_a_row_kernel_keeps_its_rows(kind):
    row = Op(
        "row", kind, "t", {"r": 8, "c": 64}, (tensor("x0", "input", "r c", "bf16"), tensor("out", "output", "r c", "bf16")), {"add": 1}
    )
    graph = OpGraph("rows", [row, elementwise("e", 512)], [("row", "e", "x0")])
    kernel = fuse(graph).ops[0]
    assert kernel.kind == kind
    assert dict(kernel.dims) == {"r": 8, "c": 64}
