"""What a front end records: tensors as `Value`, traced operators as `Call`, the whole step as `Program`.

These hold no torch objects, so that the formulas, which turn a `Call` into `Draft` ops, can be read and tested without
torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..op import Axis, Kind

Role = Literal["input", "weight", "cache"]


@dataclass(eq=False, slots=True)
class Value:
    """A tensor as seen by one call.

    Attributes
    ----------
    shape, stride
        In elements.
    number_format
        Name of a format of `presilicon.workloads.formats`.
    storage
        Identity of the memory behind it: a view shares it with its base.
    producer
        The call that returned it; None for inputs, parameters and buffers.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    number_format: str
    storage: int
    role: Role = "input"
    name: str = ""
    producer: Call | None = None

    @property
    def numel(self) -> int:
        """Elements, expanded dimensions counted in full."""
        return math.prod(self.shape)

    @property
    def stored(self) -> int:
        """Distinct elements: dimensions of stride 0 (expand) count once."""
        return math.prod(n for n, s in zip(self.shape, self.stride, strict=True) if s != 0 or n == 0)

    @property
    def is_float(self) -> bool:
        """Whether its elements are floating-point (or complex) numbers."""
        return self.number_format.startswith(("fp", "bf", "tf", "complex", "mx", "nv"))


@dataclass(eq=False, slots=True)
class Call:
    """One traced operator.

    Attributes
    ----------
    target, packet
        ``"aten.add.Tensor"`` and ``"aten.add"``.
    arguments
        Arguments by the names of the operator's schema, defaults filled in; tensors are `Value`.
    outputs
        Tensors that it returned.
    mutated
        Names of the arguments that it writes.
    facts
        What the enclosing module says of its work (``is_causal``, ``window``, ``q_heads``, ``kv_heads``), if anything.
    """

    target: str
    packet: str
    arguments: dict[str, Any]
    outputs: list[Value]
    module: str = ""
    source: str = ""
    mutated: tuple[str, ...] = ()
    phase: str = "forward"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument, or a default where the schema lacks it."""
        return self.arguments.get(name, default)

    @property
    def out(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def values(self) -> list[Value]:
        """All tensor arguments, lists flattened, in the order of the schema."""
        return list(_tensors(self.arguments.values()))

    @property
    def is_alias(self) -> bool:
        """True when it writes nothing and every output is a view of an argument."""
        if self.mutated or not self.outputs:
            return False
        known = {v.storage for v in self.values}
        return bool(known) and all(v.storage in known for v in self.outputs)


def _tensors(items: Any) -> Iterator[Value]:
    for item in items:
        if isinstance(item, Value):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _tensors(item)


@dataclass(slots=True)
class Port:
    """One operand of a draft: the tensor, its name in the op, and its projection onto the op's dimensions."""

    value: Value
    name: str
    axes: tuple[Axis, ...]
    output: bool = False
    elements: int | None = None
    role: Role | None = None


@dataclass(slots=True)
class Draft:
    """An op before it has a name: what a formula returns."""

    kind: Kind
    dims: dict[str, int]
    ports: list[Port]
    body: dict[str, float] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    iterations: float | None = None
    suffix: str = ""


def axes(names: str | Sequence[str]) -> tuple[Axis, ...]:
    """``"b m k"`` as a projection of unit strides."""
    parts = names.split() if isinstance(names, str) else names
    return tuple(((part, 1),) for part in parts)


def read(name: str, value: Value, names: str, elements: int | None = None, role: Role | None = None) -> Port:
    """An operand that is read."""
    return Port(value, name, axes(names), False, elements, role)


def write(value: Value, names: str, name: str = "out", elements: int | None = None) -> Port:
    """An operand that is written."""
    return Port(value, name, axes(names), True, elements)


@dataclass(slots=True)
class Program:
    """A traced step: calls in program order, the tensors that it starts with and returns, bytes of each storage.

    ``cache`` holds those outputs that the next step will read as its cache.
    """

    calls: list[Call] = field(default_factory=list)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    cache: list[Value] = field(default_factory=list)
    storage_bytes: dict[int, int] = field(default_factory=dict)
    front_end: str = ""
    reason: str = ""
