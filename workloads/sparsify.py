"""Zeros in the weights of a traced graph: N:M patterns, or a share of the weights wherever they lie."""

from __future__ import annotations

from dataclasses import replace

from ..errors import WorkloadError
from ._callable import callable_module
from .graph import OpGraph
from .linear import change_linear, is_matrix
from .op import Op, Operand
from .quantise import quantise
from .sparsity import Sparsity, sparsity_by_name


def sparsify(graph: OpGraph, scheme: str, *, lm_head: bool = False) -> OpGraph:
    """A copy of a graph whose linear layers have pruned weights.

    The same layers change as with `quantise`: matmuls with a weight matrix, without the output head unless `lm_head`. Their weights are
    stored without the zeros and with the places of what remains, so that bytes and memory follow; FLOPs stay those of the dense product,
    whether or not a device can skip them. Quantised weights keep their format, and the order of the two does not matter.

    A layer whose depth is no multiple of M has no N:M pattern and stays dense.

    Parameters
    ----------
    scheme
        ``"2:4"`` or any ``"N:M"``; ``"unstructured:0.6"``: 60 % of the weights are zero; see
        `presilicon.workloads.sparsity.sparsity_by_name`.

    Raises
    ------
    UnknownNameError, SpecError
        No such scheme, or a share of zeros that is not between 0 and 1.
    WorkloadError
        A training step (pruned weights are those of a trained model), or a graph without a layer that can have the pattern.
    """
    found = sparsity_by_name(scheme)
    if graph.meta.get("phase") == "train":
        raise WorkloadError(f"{graph.name}: sparsity {found.name}: a training step updates dense weights; give prefill or decode")
    changed = change_linear(graph, lambda op: _pruned(op, found), {"sparsity": found.name}, lm_head=lm_head)
    if not any(op.attributes.get("sparsity") == found.name for op in changed):
        depth = f" whose depth is a multiple of {found.group}" if found.group else ""
        raise WorkloadError(f"{graph.name}: sparsity {found.name}: no linear layer{depth} to prune; other ops are dense")
    return changed


def reformat(graph: OpGraph, quant: str | None = None, sparsity: str | None = None) -> OpGraph:
    """The graph quantised and pruned; None leaves it as it is."""
    graph = graph if quant is None else quantise(graph, quant)
    return graph if sparsity is None else sparsify(graph, sparsity)


def _pruned(op: Op, sparsity: Sparsity) -> tuple[Operand, ...]:
    if sparsity.group and op.dims.get("k", 0) % sparsity.group:
        return op.operands
    return tuple(replace(o, number_format=o.number_format.sparse(sparsity)) if is_matrix(o) else o for o in op.operands)


callable_module(__name__, lambda: sparsify)
