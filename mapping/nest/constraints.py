"""Constraints that narrow the space: a fixed dataflow, dimensions fixed in space, parts of the nest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...arch.hierarchy import CLASSES
from ...errors import MappingError, UnknownNameError
from .problem import Problem

#: Dataflows by name: the class of tensors whose tile stands outermost in the innermost memory, and so stays longest.
DATAFLOWS: Mapping[str, str] = {"os": "output", "ws": "weight", "is": "input"}


@dataclass(frozen=True)
class Constraints:
    """What a mapping must obey; by default nothing.

    Attributes
    ----------
    dataflow
        ``"os"``, ``"ws"`` or ``"is"``: in the innermost memory the output's, weight's or input's tile stands above the others.
    spatial
        By fanout, the whole of what is spread, by dimension: ``{"pe_array": {"m": 16, "n": 16}}``.
    spatial_dims
        By fanout or by axis (``"pe_array.x"``), the dimensions that may be spread.
    order
        By memory, its tensors from the outermost tile to the innermost.
    tiles
        By memory and tensor, extents that the tile must have: ``{("buffer", "O"): {"m": 512}}``; dimensions left out are free, and
        only those that index the tensor can be fixed.
    even
        All tiles of a memory stand at one depth, as Timeloop has them: a loop between two of them indexes none of those above it, so that
        they might as well stand below it. And each dimension is spread along one axis of a fanout.
    """

    dataflow: str | None = None
    spatial: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    spatial_dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tiles: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)
    even: bool = False


def check_constraints(problem: Problem, constraints: Constraints) -> None:
    """Raise where a constraint names what does not exist, or asks for what cannot be.

    Raises
    ------
    UnknownNameError
        An unknown dataflow, fanout, axis, memory, tensor or dimension.
    MappingError
        A factor that does not divide, or that its fanout has no room for; says by how much.
    """
    where = "constraints"
    if constraints.dataflow is not None:
        if constraints.dataflow not in DATAFLOWS:
            raise UnknownNameError("dataflow", str(constraints.dataflow), DATAFLOWS, where)
        kind = DATAFLOWS[constraints.dataflow]
        if not any(t.kind == kind for t in problem.tensors.values()):
            raise MappingError(f"{where}: dataflow {constraints.dataflow!r} holds the {kind} still; op {problem.op.name!r} has none")
    fanouts = {fanout.name: fanout for _, fanout in problem.fanouts}
    for name, factors in constraints.spatial.items():
        if name not in fanouts:
            raise UnknownNameError("fanout", name, fanouts, f"{where}: spatial")
        _check_factors(problem, factors, f"{where}: spatial: {name}")
        wanted = 1
        for factor in factors.values():
            wanted *= factor
        if wanted > fanouts[name].instances:
            raise MappingError(f"{where}: spatial: {name} has {fanouts[name].instances} instances; the factors need {wanted}")
    for name, dims in constraints.spatial_dims.items():
        fanout, _, axis = name.partition(".")
        if fanout not in fanouts:
            raise UnknownNameError("fanout", fanout, fanouts, f"{where}: spatial_dims")
        if axis and axis not in fanouts[fanout].axes:
            raise UnknownNameError("axis", axis, fanouts[fanout].axes, f"{where}: spatial_dims: {fanout}")
        for dim in dims:
            if dim not in problem.dims:
                raise UnknownNameError("dimension", dim, problem.dims, f"{where}: spatial_dims: {name}")
    memories = {memory.name: i for i, memory in enumerate(problem.memories) if i}
    for name, order in constraints.order.items():
        if name not in memories:
            raise UnknownNameError("memory", name, memories, f"{where}: order")
        kept = {t.name for t in problem.tensors.values() if memories[name] in t.levels}
        for tensor in order:
            if tensor not in kept:
                raise UnknownNameError("tensor", tensor, kept, f"{where}: order: {name}")
        if len(set(order)) < len(order):
            raise MappingError(f"{where}: order: {name} names a tensor twice")
    for (name, tensor), factors in constraints.tiles.items():
        if name not in memories:
            raise UnknownNameError("memory", name, memories, f"{where}: tiles")
        if tensor not in problem.tensors:
            raise UnknownNameError("tensor", tensor, problem.tensors, f"{where}: tiles: {name}")
        if memories[name] not in problem.tensors[tensor].levels:
            kind = problem.tensors[tensor].kind
            raise MappingError(f"{where}: tiles: {name} keeps no {kind}, such as {tensor}; it keeps {', '.join(CLASSES)} by its 'keeps'")
        _check_factors(problem, factors, f"{where}: tiles: {name}: {tensor}")
        for dim in factors:
            if dim not in problem.tensors[tensor].relevant:
                indexed = ", ".join(d for d in problem.dims if d in problem.tensors[tensor].relevant) or "none"
                place = f"{where}: tiles: {name}"
                raise MappingError(f"{place}: {dim} does not index {tensor}, whose tile has no extent along it; expected of {indexed}")

    for level in range(1, len(problem.memories)):
        pairs = set(orders(problem, constraints, level))
        crossed = sorted((a, b) for a, b in pairs if (b, a) in pairs)
        if crossed:
            first, second = crossed[0]
            name = problem.memories[level].name
            raise MappingError(
                f"{where}: dataflow {constraints.dataflow!r} and the order of {name} put {first} above {second} and {second} above "
                f"{first}; drop one of them"
            )


def _check_factors(problem: Problem, factors: Mapping[str, int], where: str) -> None:
    for dim, factor in factors.items():
        if dim not in problem.dims:
            raise UnknownNameError("dimension", dim, problem.dims, where)
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1 or problem.dims[dim] % factor:
            raise MappingError(f"{where}: {dim}: expected a divisor of its extent {problem.dims[dim]}, found {factor!r}")


def orders(problem: Problem, constraints: Constraints, level: int) -> list[tuple[str, str]]:
    """Pairs of tensors of one memory of which the first must stand above the second."""
    memory = problem.memories[level]
    kept = [t for t in problem.tensors.values() if level in t.levels]
    wanted = constraints.order.get(memory.name, ())
    pairs = [(a, b) for i, a in enumerate(wanted) for b in wanted[i + 1 :]]
    if constraints.dataflow is not None and level == len(problem.memories) - 1:
        kind = DATAFLOWS[constraints.dataflow]
        pairs += [(a.name, b.name) for a in kept if a.kind == kind for b in kept if b.kind != kind]
    return pairs
