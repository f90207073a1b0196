"""One operator as an extended Einsum.

An `Op` names its iteration dimensions, projects each operand onto them, and counts the scalar operations of its body by
class. FLOPs and bytes are derived from these and are stored nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from ..errors import GraphError
from .formats import NumberFormat, by_name

Kind = Literal[
    "matmul", "conv", "attention", "norm", "softmax", "elementwise", "reduce", "scan", "gather", "copy",
    "collective", "view", "unknown"
]  # fmt: skip
KINDS: Final[tuple[str, ...]] = get_args(Kind)

#: FLOPs that one scalar operation of a class counts for. A multiply-add is two; comparisons and integer work are none.
FLOPS_PER: Final = dict.fromkeys(("add", "mul", "div", "exp", "rsqrt", "tanh", "log"), 1.0) | {
    "mac": 2.0,
    "cmp": 0.0,
    "int": 0.0,
}
#: Classes that run on the special-function units of a GPU.
SPECIAL: Final = ("exp", "rsqrt", "tanh", "log", "div")

Axis = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Operand:
    """One tensor of an Op.

    Attributes
    ----------
    name
        Name of the tensor in the graph.
    role
        ``"input"``, ``"weight"`` (constant across calls: parameters and buffers), ``"cache"`` (KV cache), or
        ``"output"``.
    projection
        One entry per tensor axis: the iteration dimensions that index it with their strides, ``(("p", 1), ("r", 1))``
        for a convolution's input row. An axis without dimensions has extent 1.
    number_format
        Format of its elements.
    elements
        Elements of the tensor that the op touches, when the projection does not say so (gathered rows, a causal half);
        None: the product of the axes' extents.
    """

    name: str
    role: Literal["input", "weight", "cache", "output"]
    projection: tuple[Axis, ...]
    number_format: NumberFormat
    elements: int | None = None


@dataclass(frozen=True)
class Op:
    """One operator.

    Attributes
    ----------
    name
        Unique within its graph.
    kind
        What family it belongs to, one of `KINDS`; models dispatch on it.
    target
        What it was traced from: ``"aten.linear.default"``.
    dims
        Iteration dimensions and their extents.
    operands
        Inputs and outputs.
    body
        Scalar operations per iteration point, by class of `FLOPS_PER`.
    attributes
        What changes the work: ``causal``, ``window``, ``q_heads``, ``topk`` ... JSON values only.
    iterations
        Points of the iteration space that are executed, when masking leaves some out (causal attention); None: all.
    count
        How often the op runs in one step (repeated blocks are folded).
    module, source
        Path of the module and source line, for people.
    """

    name: str
    kind: Kind
    target: str
    dims: Mapping[str, int]
    operands: tuple[Operand, ...]
    body: Mapping[str, float] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    iterations: float | None = None
    count: int = 1
    module: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise GraphError(f"op {self.name!r}: unknown kind {self.kind!r}; allowed: {', '.join(KINDS)}")
        for dim, extent in self.dims.items():
            if extent < 0:
                raise GraphError(f"op {self.name!r}: dimension {dim!r} has negative extent {extent}")
        for operand in self.operands:
            for axis in operand.projection:
                for dim, _ in axis:
                    if dim not in self.dims:
                        where = f"op {self.name!r}: operand {operand.name!r}"
                        raise GraphError(f"{where} uses dimension {dim!r}, which the op lacks")
        unknown = set(self.body) - set(FLOPS_PER)
        if unknown:
            allowed = ", ".join(FLOPS_PER)
            raise GraphError(f"op {self.name!r}: unknown scalar operation {min(unknown)!r}; allowed: {allowed}")

    @property
    def points(self) -> float:
        """Executed points of the iteration space, of one run of the op."""
        return float(math.prod(self.dims.values())) if self.iterations is None else float(self.iterations)

    def scalar_ops(self, *classes: str) -> float:
        """Scalar operations of the given classes in one run."""
        return self.points * sum(self.body.get(c, 0.0) for c in classes)

    @property
    def flops(self) -> float:
        """Floating-point operations of one run; a multiply-add counts two."""
        return self.points * sum(n * FLOPS_PER[c] for c, n in self.body.items())

    def extent(self, operand: Operand) -> tuple[int, ...]:
        """Shape of the part of an operand that the op touches: 1 + the sum over dimensions of (extent - 1) * stride."""
        return tuple(1 + sum((self.dims[dim] - 1) * stride for dim, stride in axis) for axis in operand.projection)

    def elements(self, operand: Operand) -> int:
        """Elements of an operand that one run touches."""
        if operand.elements is not None:
            return operand.elements
        if any(self.dims[dim] == 0 for axis in operand.projection for dim, _ in axis):
            return 0
        return math.prod(self.extent(operand))

    def operand_bytes(self, *roles: str) -> float:
        """Bytes of the operands with the given roles; all when none is given."""
        return sum(self.elements(o) * o.number_format.bytes for o in self.operands if not roles or o.role in roles)

    @property
    def bytes_read(self) -> float:
        """Bytes of all operands that are read once."""
        return self.operand_bytes("input", "weight", "cache")

    @property
    def bytes_written(self) -> float:
        """Bytes of all operands that are written once."""
        return self.operand_bytes("output")

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs per compulsory byte."""
        moved = self.bytes_read + self.bytes_written
        return self.flops / moved if moved else math.inf


def tensor(
    name: str,
    role: Literal["input", "weight", "cache", "output"],
    axes: str | tuple[str, ...],
    number_format: str | NumberFormat,
    elements: int | None = None,
) -> Operand:
    """An operand whose axes are each one dimension with stride 1: ``tensor("a", "input", ("m", "k"), "bf16")``."""
    names = tuple(axes.split()) if isinstance(axes, str) else axes
    fmt = by_name(number_format) if isinstance(number_format, str) else number_format
    return Operand(name, role, tuple(((axis, 1),) for axis in names), fmt, elements)
