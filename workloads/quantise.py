"""Other number formats for the weights (and activations) of a traced graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ..errors import UnknownNameError
from ._callable import callable_module
from .formats import NumberFormat, by_name
from .graph import Memory, OpGraph
from .op import Op, Operand


@dataclass(frozen=True)
class Scheme:
    """Formats of a quantisation scheme; None leaves a tensor as it was traced."""

    weight: str | None
    activation: str | None = None


SCHEMES: Final = {
    "w4a16": Scheme("w4_g128"),
    "w4a16_zero": Scheme("w4_g128_zero"),
    "w8a16": Scheme("w8_g128"),
    "w8a8": Scheme("int8", "int8"),
    "int8": Scheme("int8", "int8"),
    "fp8": Scheme("fp8_e4m3", "fp8_e4m3"),
    "fp8_block": Scheme("fp8_block", "fp8_block"),
    "mxfp8": Scheme("mxfp8", "mxfp8"),
    "mxfp4": Scheme("mxfp4", "mxfp4"),
    "nvfp4": Scheme("nvfp4", "nvfp4"),
    "w4a16_mxfp4": Scheme("mxfp4"),
}


def quantise(graph: OpGraph, scheme: str, *, lm_head: bool = False) -> OpGraph:
    """A copy of a graph whose linear layers have other formats.

    Matmuls with a weight operand change: the weight, and, where the scheme says so, the activation that meets it.
    Biases, embeddings, norms, attention and the cache stay. The output head stays unless `lm_head`, as is usual.

    Parameters
    ----------
    scheme
        One of `SCHEMES`: ``"w4a16"``, ``"w8a8"``, ``"fp8"`` ...

    Raises
    ------
    UnknownNameError
        No such scheme, with the nearest names.
    """
    found = SCHEMES.get(scheme)
    if found is None:
        raise UnknownNameError("quantisation scheme", scheme, SCHEMES)
    saved = 0.0
    ops: list[Op] = []
    for op in graph:
        changed = op
        if op.kind == "matmul" and any(_is_matrix(op, o) for o in op.operands) and (lm_head or not _is_head(op)):
            changed = replace(
                op,
                operands=tuple(_convert(op, o, found) for o in op.operands),
                attributes={**op.attributes, "quantised": scheme},
            )
            saved += op.count * (op.operand_bytes("weight") - changed.operand_bytes("weight"))
        ops.append(changed)
    weights = max(graph.memory.weights_bytes - saved, 0.0)
    edges = [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)]
    memory = Memory(
        weights,
        graph.memory.kv_cache_bytes,
        graph.memory.activations_bytes,
        graph.memory.optimizer_bytes,
        graph.memory.gradient_bytes,
    )
    return OpGraph(
        graph.name,
        ops,
        edges,
        memory=memory,
        tokens=graph.tokens,
        uncovered=graph.uncovered,
        meta={**graph.meta, "quantised": scheme},
    )


def _is_matrix(op: Op, operand: Operand) -> bool:
    return operand.role == "weight" and operand.name in ("a", "w")


def _is_head(op: Op) -> bool:
    last = op.module.rsplit(".", 1)[-1]
    return last in ("lm_head", "embed_out", "proj_out", "output", "score", "classifier")


def _convert(op: Op, operand: Operand, scheme: Scheme) -> Operand:
    if _is_matrix(op, operand):
        wanted = scheme.weight
    elif operand.name in ("a", "w") and operand.role == "input":
        wanted = scheme.activation
    else:
        wanted = None
    if wanted is None:
        return operand
    number_format: NumberFormat = by_name(wanted)
    return replace(operand, number_format=number_format)


callable_module(__name__, lambda: quantise)
