"""Other number formats for the weights (and activations) of a traced graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ..errors import UnknownNameError
from ._callable import callable_module
from .formats import by_name
from .graph import OpGraph
from .linear import change_linear, is_activation, is_matrix
from .op import Operand


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
    Biases, embeddings, norms, attention and the cache stay. The output head stays unless `lm_head`, as is usual. Pruned weights
    (`presilicon.workloads.sparsify`) stay pruned.

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
    return change_linear(graph, lambda op: tuple(_convert(o, found) for o in op.operands), {"quantised": scheme}, lm_head=lm_head)


def _convert(operand: Operand, scheme: Scheme) -> Operand:
    wanted = scheme.weight if is_matrix(operand) else scheme.activation if is_activation(operand) else None
    if wanted is None:
        return operand
    return replace(operand, number_format=by_name(wanted).sparse(operand.number_format.sparsity))


callable_module(__name__, lambda: quantise)
