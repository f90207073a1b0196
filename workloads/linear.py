"""Linear layers of a traced graph, as quantisation and sparsity select them, and a copy of the graph with their operands changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from .graph import OpGraph
from .op import Op, Operand
from .sparsity import Sparsity

#: Names of modules that turn hidden states into logits.
_HEADS: Final = ("lm_head", "embed_out", "proj_out", "output", "score", "classifier")


def is_matrix(operand: Operand) -> bool:
    """Whether an operand of a matmul is a weight matrix (not a bias)."""
    return operand.role == "weight" and operand.name in ("a", "w")


def is_activation(operand: Operand) -> bool:
    """Whether an operand of a matmul is the activation that meets the weight matrix."""
    return operand.role == "input" and operand.name in ("a", "w")


def is_head(op: Op) -> bool:
    """Whether an op is the output head of a model."""
    return op.module.rsplit(".", 1)[-1] in _HEADS


def with_dense_weights(op: Op) -> Op:
    """The op with every element of its operands stored, for units that need them in their places."""
    if all(o.number_format.sparsity is None for o in op.operands):
        return op
    return replace(op, operands=tuple(replace(o, number_format=o.number_format.dense) for o in op.operands))


def sparsity_of(op: Op) -> Sparsity | None:
    """Pattern of an op's pruned weights; None where all are stored."""
    return next((o.number_format.sparsity for o in op.operands if o.number_format.sparsity is not None), None)


def change_linear(graph: OpGraph, change: Callable[[Op], tuple[Operand, ...]], noted: dict[str, Any], *, lm_head: bool = False) -> OpGraph:
    """A copy of a graph in which the operands of linear layers are others; its weights' bytes follow.

    Parameters
    ----------
    change
        From a matmul with a weight matrix to its new operands; the same ones leave the op as it is.
    noted
        What stands in the attributes of changed ops, and in the graph's `meta`.
    lm_head
        Change the output head too.
    """
    saved = 0.0
    ops: list[Op] = []
    for op in graph:
        changed = op
        if op.kind == "matmul" and any(is_matrix(o) for o in op.operands) and (lm_head or not is_head(op)):
            operands = change(op)
            if operands != op.operands:
                changed = replace(op, operands=operands, attributes={**op.attributes, **noted})
                saved += op.count * (op.operand_bytes("weight") - changed.operand_bytes("weight"))
        ops.append(changed)
    return OpGraph(
        graph.name,
        ops,
        [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)],
        memory=replace(graph.memory, weights_bytes=max(graph.memory.weights_bytes - saved, 0.0)),
        tokens=graph.tokens,
        uncovered=graph.uncovered,
        meta={**graph.meta, **noted},
    )
