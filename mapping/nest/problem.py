"""An op on a hierarchy, compiled: dimensions, tensors with their axes, and which memories each tensor passes through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

from ...arch.hierarchy import Fanout, Hierarchy, Memory, TensorClass
from ...errors import MappingError
from ...workloads.op import Op, Operand

#: Rules by which accesses are counted: see `presilicon.mapping.nest.counts` and `zigzag`.
Counting = Literal["accelforge", "zigzag"]
#: Classes of scalar operations that a MAC unit executes.
MAC_CLASSES = ("mac",)
#: Name of the memory that stands for ZigZag's operand registers: see `presilicon.mapping.nest.zigzag`.
LATCH: Final = "operand_latch"


@dataclass(frozen=True)
class Tensor:
    """One operand of the problem.

    Attributes
    ----------
    name, kind
        Name in the op, and the class by which memories keep it or not.
    bytes_per_element
        With its share of group scales.
    axes
        Per tensor axis, the dimensions (by name) that index it and their strides.
    levels
        Numbers of the memories that keep a tile of it, outermost (0) first.
    halo
        Whether what neighbouring tiles share is kept from one to the next.
    """

    name: str
    kind: TensorClass
    bytes_per_element: float
    axes: tuple[tuple[tuple[str, int], ...], ...]
    levels: tuple[int, ...]
    halo: bool = True

    @cached_property
    def relevant(self) -> frozenset[str]:
        """Dimensions that index it."""
        return frozenset(dim for axis in self.axes for dim, _ in axis)

    @cached_property
    def sliding(self) -> frozenset[str]:
        """Dimensions along which two neighbouring tiles can overlap: those of axes that several dimensions index."""
        return frozenset(dim for axis in self.axes if len(axis) > 1 and self.halo for dim, _ in axis)

    def volume(self, tile: Mapping[str, int]) -> int:
        """Elements of its tile, a dense box: along each axis 1 + the sum of (extent - 1) * stride."""
        return math.prod(self.extents(tile))

    def overlap(self, tile: Mapping[str, int], dim: str, step: int) -> int:
        """Elements that its tile shares with the one `step` iterations further along `dim`."""
        shared = 1 if self.halo else 0
        for axis, extent in zip(self.axes, self.extents(tile), strict=True):
            shift = sum(stride * step for d, stride in axis if d == dim)
            shared *= max(0, extent - shift)
        return shared

    def extents(self, tile: Mapping[str, int]) -> list[int]:
        """Its tile's extent along each axis."""
        return [1 + sum((tile[dim] - 1) * stride for dim, stride in axis) for axis in self.axes]


@dataclass(frozen=True)
class Problem:
    """An op on a hierarchy.

    Attributes
    ----------
    op, hierarchy
        What runs on what.
    dims
        Iteration dimensions and their extents, those of extent 1 included.
    tensors
        Operands by name, in the op's order.
    macs_per_point
        Multiply-accumulates whose time and energy one point takes: 1, or what the hierarchy says of other scalar operations.
    counting
        Rule by which accesses are counted.
    uneven
        Whether ZigZag's operand registers keep an operand while tiles of others in the memory above change.
    """

    op: Op
    hierarchy: Hierarchy
    dims: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    macs_per_point: float = 1.0
    counting: Counting = "accelforge"
    uneven: bool = True

    @cached_property
    def points(self) -> int:
        """Points of the whole op; each reads every input and writes every output."""
        return math.prod(self.dims.values())

    @cached_property
    def memories(self) -> tuple[Memory, ...]:
        """The memories, outermost first."""
        return self.hierarchy.memories

    @cached_property
    def fanouts(self) -> tuple[tuple[int, Fanout], ...]:
        """Each fanout with the number of the memory that it stands below."""
        return tuple((i, fanout) for i in range(len(self.memories)) for fanout in self.hierarchy.fanouts_below(i))

    @property
    def latched(self) -> bool:
        """Whether tiles of the last memory, ZigZag's operand registers, stand among those of the one above: no fanout is between."""
        last = len(self.memories) - 1
        return self.uneven and last > 1 and self.memories[last].name == LATCH and all(position != last - 1 for position, _ in self.fanouts)

    def takes_elements(self, child: int) -> bool:
        """Whether what memory `child` (or the MACs, past the last) takes passes a port of its parent element by element."""
        return self.counting == "zigzag" and (child == len(self.memories) or self.memories[child].name == LATCH)

    def clipped(self, tile: Mapping[str, int]) -> dict[str, int]:
        """A tile's extents, no larger than the problem's: factors that do not divide cover more."""
        return {dim: min(extent, self.dims[dim]) for dim, extent in tile.items()}

    def tensor_bytes(self, tensor: Tensor, tile: Mapping[str, int], memory: Memory) -> float:
        """Bytes that a tile takes in a memory, every buffer of it."""
        return tensor.volume(tile) * tensor.bytes_per_element * memory.buffers


def problem(op: Op, hierarchy: Hierarchy, backed: Mapping[str, int] | None = None) -> Problem:
    """Compile an op for a hierarchy.

    Parameters
    ----------
    op, hierarchy
        What runs on what.
    backed
        Tensors that start and end in another memory than the first: the number of that memory.

    Raises
    ------
    MappingError
        The op is no dense nest of what the MAC units execute: it has no or other scalar operations, no output, an empty
        or unknown dimension, masked points, data-dependent operands, or an output that several dimensions index at once.
    """
    where = f"op {op.name!r} ({op.kind})"
    macs = _macs_per_point(op, hierarchy, where)
    points = math.prod(op.dims.values())
    if op.iterations is not None and op.iterations != points:
        raise MappingError(f"{where}: {op.iterations:g} of {points} points are executed; masked nests cannot be mapped")
    for dim, extent in op.dims.items():
        if isinstance(extent, bool) or not isinstance(extent, int) or extent < 1:
            raise MappingError(f"{where}: dimension {dim!r}: expected an integer of 1 or more, found {extent!r}")
    if not any(operand.role == "output" for operand in op.operands):
        raise MappingError(f"{where}: expected an output, found none")
    if len({operand.name for operand in op.operands}) < len(op.operands):
        raise MappingError(f"{where}: two operands have the same name; give each its own")
    kinds = _classes(op)
    tensors = {operand.name: _tensor(operand, kinds[operand.name], hierarchy, where) for operand in op.operands}
    for name, level in (backed or {}).items():
        if name in tensors:
            tensors[name] = replace(tensors[name], levels=tuple(i for i in tensors[name].levels if i >= level))
    return Problem(op, hierarchy, dict(op.dims), tensors, macs)


def _macs_per_point(op: Op, hierarchy: Hierarchy, where: str) -> float:
    known: dict[str, float] = dict.fromkeys(MAC_CLASSES, 1.0) | dict(hierarchy.op_macs)
    body = {name: number for name, number in op.body.items() if number}
    missing = sorted(set(body) - set(known))
    if not body or missing or body.get("mac", 1.0) != 1.0:
        found = ", ".join(f"{number:g} {name}" for name, number in op.body.items()) or "none"
        hint = f"; mac.ops of {hierarchy.name} does not name {', '.join(missing)}" if missing else ""
        raise MappingError(f"{where}: the array executes one multiply-accumulate per point; the op's body is {found}{hint}")
    return sum(number * known[name] for name, number in body.items())


def _classes(op: Op) -> dict[str, TensorClass]:
    """Class of each operand: see `presilicon.arch.hierarchy.TensorClass`."""
    read = [operand for operand in op.operands if operand.role != "output"]
    weights = [operand.name for operand in read if operand.role == "weight"] or [operand.name for operand in read[1:2]]
    found: dict[str, TensorClass] = {operand.name: "output" for operand in op.operands if operand.role == "output"}
    for operand in read:
        found[operand.name] = "weight" if operand.name in weights else "input"
    return found


def _tensor(operand: Operand, kind: TensorClass, hierarchy: Hierarchy, where: str) -> Tensor:
    place = f"{where}: operand {operand.name!r}"
    if operand.elements is not None:
        raise MappingError(f"{place}: which elements it touches depends on data; such an op cannot be mapped")
    axes = tuple(tuple((dim, stride) for dim, stride in axis if stride) for axis in operand.projection)
    for axis in axes:
        if len({dim for dim, _ in axis}) < len(axis):
            raise MappingError(f"{place}: an axis names a dimension twice: {_text(axis)}")
        if any(stride < 0 for _, stride in axis):
            raise MappingError(f"{place}: negative stride in {_text(axis)}; expected strides of 1 or more")
    dims = [dim for axis in axes for dim, _ in axis]
    if len(set(dims)) < len(dims):
        raise MappingError(f"{place}: a dimension indexes two of its axes; expected each dimension on one axis")
    if kind == "output" and any(len(axis) > 1 or any(stride != 1 for _, stride in axis) for axis in axes):
        raise MappingError(f"{place}: an output axis is indexed by one dimension with stride 1, found {'; '.join(map(_text, axes))}")
    levels = tuple(i for i, memory in enumerate(hierarchy.memories) if kind in memory.keeps)
    return Tensor(operand.name, kind, operand.number_format.bytes, axes, levels)


def _text(axis: Sequence[tuple[str, int]]) -> str:
    return " + ".join(dim if stride == 1 else f"{stride}*{dim}" for dim, stride in axis) or "0"
