"""A cascade of einsums: ops of which later ones read what earlier ones write, with one name for each dimension and tensor.

Written as text, one einsum after another, then the sizes::

    S[h,m,p] = Q[h,m,e] K[h,p,e]; A[h,m,f] = S[h,m,p] V[h,p,f]; h=12 m=512 p=512 e=64 f=64 int8
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from ...errors import MappingError, UnknownNameError
from ...workloads.formats import by_name, names
from ...workloads.graph import OpGraph
from ...workloads.op import Axis, Op, Operand

#: Scalar operations per point of each function that the text knows. The one-pass softmax compares with the running maximum, subtracts it,
#: exponentiates, and adds to the running sum (FlashAttention, arXiv 2205.14135, algorithm 1; rescaling what was summed before, once for
#: each new maximum, is left out).
FUNCTIONS: Final[Mapping[str, Mapping[str, float]]] = {
    "exp": {"exp": 1.0},
    "add": {"add": 1.0},
    "sub": {"add": 1.0},
    "mul": {"mul": 1.0},
    "div": {"div": 1.0},
    "relu": {"cmp": 1.0},
    "max": {"cmp": 1.0},
    "sum": {"add": 1.0},
    "softmax": {"cmp": 1.0, "add": 2.0, "exp": 1.0},
}
_TENSOR: Final = r"[A-Za-z_]\w*\s*\[[^\]]*\]"


@dataclass(frozen=True)
class Cascade:
    """Ops in the order in which they run.

    Attributes
    ----------
    ops
        Each dimension and each tensor has the same name in all of them.

    Raises
    ------
    MappingError
        An op reads what a later one writes, two ops write the same tensor, or a tensor has two shapes or formats.
    """

    ops: tuple[Op, ...]

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def intermediates(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Tensors that one op writes and others read: number of the writer, and of the readers."""
        writer = {operand.name: i for i, op in enumerate(self.ops) for operand in op.operands if operand.role == "output"}
        found: dict[str, tuple[int, tuple[int, ...]]] = {}
        for name, i in writer.items():
            readers = tuple(j for j, op in enumerate(self.ops) for o in op.operands if o.name == name and o.role != "output")
            if readers:
                found[name] = (i, readers)
        return found

    def operand(self, op: int, name: str) -> Operand | None:
        """Operand of one op by name."""
        return next((o for o in self.ops[op].operands if o.name == name), None)


def _check(cascade: Cascade) -> None:
    if not cascade.ops:
        raise MappingError("cascade: expected at least one op, found none")
    written: dict[str, int] = {}
    for i, op in enumerate(cascade.ops):
        for operand in op.operands:
            if operand.role == "output":
                if operand.name in written:
                    raise MappingError(f"cascade: {operand.name} is written twice, by op {written[operand.name]} and by op {i} ({op.name})")
                written[operand.name] = i
    sizes: dict[str, int] = {}
    formats: dict[str, str] = {}
    ranks: dict[str, int] = {}
    for i, op in enumerate(cascade.ops):
        for dim, extent in op.dims.items():
            if sizes.setdefault(dim, extent) != extent:
                raise MappingError(f"cascade: dimension {dim} is {sizes[dim]} and, in op {op.name!r}, {extent}")
        for operand in op.operands:
            place = f"cascade: {operand.name} of op {op.name!r}"
            if operand.role != "output" and written.get(operand.name, i) > i:
                raise MappingError(f"{place} is written only later, by op {cascade.ops[written[operand.name]].name!r}")
            if operand.role != "output" and written.get(operand.name) == i:
                raise MappingError(f"{place} is read and written by the same op")
            if formats.setdefault(operand.name, operand.number_format.name) != operand.number_format.name:
                raise MappingError(f"{place} is {operand.number_format.name}; elsewhere it is {formats[operand.name]}")
            if ranks.setdefault(operand.name, len(operand.projection)) != len(operand.projection):
                raise MappingError(f"{place} has {len(operand.projection)} axes; elsewhere it has {ranks[operand.name]}")


def cascade_from_text(text: str) -> Cascade:
    """A cascade from its text; see the head of this module.

    An einsum is ``OUT[dims] = A[dims] B[dims]`` (multiply and add over the dimensions that OUT lacks) or ``OUT[dims] = function(A[dims],
    ...)`` with a function of `FUNCTIONS`. An index may be a sum, ``I[c, 2*p+r]``. The one-pass softmax also writes its running maximum
    and sum: ``P[m,p], X[m], D[m] = softmax(S[m,p])``. A size or the number format may stand anywhere as a part of its own.

    Raises
    ------
    MappingError
        Text that is no einsum, a dimension without size, or a cascade that is none.
    UnknownNameError
        An unknown function or number format.

    >>> cascade = cascade_from_text("S[m,p] = Q[m,e] K[p,e]; A[m,f] = S[m,p] V[p,f]; m=8 p=8 e=4 f=4")
    >>> cascade.intermediates
    {'S': (0, (1,))}
    """
    einsums, sizes, number_format = [], {}, "int8"
    for part in (piece.strip() for piece in text.replace("\n", ";").split(";")):
        if "[" in part:
            einsums.append(part)
            continue
        for word in part.replace(",", " ").split():
            name, equals, number = word.partition("=")
            if not equals:
                if word not in names():
                    raise UnknownNameError("number format", word, names(), "cascade")
                number_format = word
            elif not number.isascii() or not number.isdigit() or int(number) < 1:
                raise MappingError(f"cascade: {name}: expected a whole number of 1 or more, found {number!r}")
            elif name in sizes:
                raise MappingError(f"cascade: {name} is given twice")
            else:
                sizes[name] = int(number)
    if not einsums:
        raise MappingError(f"cascade: expected einsums such as 'S[m,p] = Q[m,e] K[p,e]', found {text!r}")
    ops = tuple(_einsum(part, sizes, number_format) for part in einsums)
    unused = sorted(set(sizes) - {dim for op in ops for dim in op.dims})
    if unused:
        raise UnknownNameError("dimension", unused[0], sorted({dim for op in ops for dim in op.dims}), "cascade")
    return Cascade(ops)


def _einsum(text: str, sizes: Mapping[str, int], number_format: str) -> Op:
    where = f"cascade: {text!r}"
    left, equals, right = text.partition("=")
    if not equals or "[" not in right:
        raise MappingError(f"{where}: expected OUT[dims] = A[dims] B[dims], or OUT[dims] = function(A[dims], ...)")
    called = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*\((.*)\)\s*", right)
    if called and called[1] not in FUNCTIONS:
        raise UnknownNameError("function", called[1], FUNCTIONS, where)
    body = dict(FUNCTIONS[called[1]]) if called else {"mac": 1.0}
    inner = called[2] if called else right
    fmt = by_name(number_format)
    operands: list[Operand] = []
    for side, role in ((inner, "input"), (left, "output")):
        found = re.findall(_TENSOR, side)
        rest = re.sub(r"[\s,*]", "", re.sub(_TENSOR, "", side))
        if rest or not found:
            raise MappingError(f"{where}: cannot read {rest or side.strip()!r}; expected tensors such as Q[h,m,e]")
        for each in found:
            name, _, index = each.partition("[")
            axes = tuple(_axis(a, where) for a in index.rstrip("] ").split(",") if a.strip())
            operands.append(Operand(name.strip(), role, axes, fmt))  # type: ignore[arg-type]
    dims = {dim: 0 for operand in operands for axis in operand.projection for dim, _ in axis}
    for dim in dims:
        if dim not in sizes:
            raise MappingError(f"{where}: give the size of {dim}, as in {dim}=64")
        dims[dim] = sizes[dim]
    outputs = [o.name for o in operands if o.role == "output"]
    kind = "matmul" if body == {"mac": 1.0} else "softmax" if called and called[1] == "softmax" else "elementwise"
    return Op(outputs[0], kind, called[1] if called else "einsum", dims, tuple(operands), body)  # type: ignore[arg-type]


def _axis(text: str, where: str) -> Axis:
    found = []
    for term in text.split("+"):
        match = re.fullmatch(r"\s*(?:(\d+)\s*\*\s*)?([A-Za-z_]\w*)\s*", term)
        if not match or match[1] == "0":
            raise MappingError(f"{where}: index {text.strip()!r}: expected a dimension, or a sum such as 2*p+r")
        found.append((match[2], int(match[1] or 1)))
    return tuple(found)


def cascade_from_graph(graph: OpGraph, chosen: Sequence[str]) -> Cascade:
    """Ops of a graph as a cascade; they must follow one another directly.

    Raises
    ------
    UnknownNameError
        The graph has no op of that name.
    MappingError
        An op that reads from none of those before it, or an intermediate whose axes do not line up.
    """
    for name in chosen:
        if name not in graph.nx:
            raise UnknownNameError("op", name, [each.name for each in graph], graph.name)
    order = [op.name for op in graph if op.name in chosen]
    tensors: dict[tuple[str, str], str] = {}
    for name in order:
        for before, _, data in graph.nx.in_edges(name, data=True):
            if before in order:
                output = next(o.name for o in graph[before].operands if o.role == "output")
                tensors |= {(name, operand): f"{before}.{output}" for operand in data["tensor"].split(",")}
        if name != order[0] and not any(reader == name for reader, _ in tensors):
            raise MappingError(
                f"cascade: {name} reads nothing directly from {', '.join(order[: order.index(name)])}; give neighbouring ops"
            )
    return linked([graph[name] for name in order], tensors)


def linked(ops: Sequence[Op], tensors: Mapping[tuple[str, str], str]) -> Cascade:
    """Ops with names of their own, as a cascade: `tensors` gives (op, operand) -> ``"writer.output"``.

    Dimensions take the name that they have where the tensor is written; other names that clash get the op's number.
    """
    done: list[Op] = []
    for i, op in enumerate(ops):
        rename: dict[str, str] = {}
        for operand in op.operands:
            source = tensors.get((op.name, operand.name))
            if source is None:
                continue
            written = next((o for d in done for o in d.operands if o.name == source and o.role == "output"), None)
            if written is None:
                raise MappingError(f"cascade: {operand.name} of {op.name!r} is linked to {source!r}, which no op before it writes")
            if len(written.projection) != len(operand.projection):
                raise MappingError(
                    f"cascade: {operand.name} of {op.name!r} has {len(operand.projection)} axes; {source} has {len(written.projection)}"
                )
            sizes = {dim: extent for d in done for dim, extent in d.dims.items()}
            for mine, theirs in zip(operand.projection, written.projection, strict=True):
                if len(mine) == len(theirs) == 1 and mine[0][1] == 1 and op.dims[mine[0][0]] == sizes[theirs[0][0]]:
                    rename.setdefault(mine[0][0], theirs[0][0])
        taken = {dim for d in done for dim in d.dims}
        for dim in op.dims:
            if dim not in rename:
                rename[dim] = f"{dim}{i}" if dim in taken or dim in rename.values() else dim
        done.append(_renamed(op, rename, tensors))
    return Cascade(tuple(done))


def _renamed(op: Op, dims: Mapping[str, str], tensors: Mapping[tuple[str, str], str]) -> Op:
    operands = tuple(
        replace(
            operand,
            name=tensors.get((op.name, operand.name), f"{op.name}.{operand.name}"),
            projection=tuple(tuple((dims[dim], stride) for dim, stride in axis) for axis in operand.projection),
        )
        for operand in op.operands
    )
    return replace(op, dims={dims[dim]: extent for dim, extent in op.dims.items()}, operands=operands)
