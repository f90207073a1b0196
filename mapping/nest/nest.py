"""A mapping written as a loop nest: temporal loops, loops in space, and where each tensor's tile is kept.

Read from the outside in, a node ``Keep("O", "buffer")`` says that at this point of the nest the buffer holds the tile of O
that the loops below touch. Tensors of one memory may be kept at different depths. Everything is kept in the first memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass

from ...errors import MappingError, UnknownNameError, shown
from .problem import Problem, Tensor


@dataclass(frozen=True)
class Loop:
    """A loop in time: `factor` iterations over dimension `dim`."""

    dim: str
    factor: int


@dataclass(frozen=True)
class Spatial:
    """A loop in space: `factor` instances along an axis of a fanout work on parts of dimension `dim`."""

    dim: str
    factor: int
    fanout: str
    axis: str


@dataclass(frozen=True)
class Keep:
    """From here inwards memory `level` holds the tile of `tensor`."""

    tensor: str
    level: str


Node = Loop | Spatial | Keep


@dataclass(frozen=True)
class Mapping:
    """A loop nest, outermost node first.

    Rules, which `check` enforces: the factors of a dimension multiply to its extent, or cover it (`check_ragged`); every
    tensor is kept once in every memory that keeps its class; all tiles of a memory stand above those of the next; the loops
    of a fanout stand below the tiles of the memories above it and above those of the memories below it; factors along an
    axis multiply to no more than its instances.

    Examples
    --------
    >>> print(Mapping((Loop("m", 2), Keep("O", "buffer"), Spatial("n", 4, "array", "x"))))
    for m in 2
      buffer: O
      parallel n in 4 on array.x
    """

    nodes: tuple[Node, ...]

    def __str__(self) -> str:
        return "\n".join(lines(self.nodes))

    def extents_below(self, dims: Iterable[str]) -> list[dict[str, int]]:
        """For each node, the product of the factors of every dimension in the nodes below it."""
        tile = dict.fromkeys(dims, 1)
        found = []
        for node in reversed(self.nodes):
            found.append(dict(tile))
            if not isinstance(node, Keep):
                tile[node.dim] = tile.get(node.dim, 1) * node.factor
        return found[::-1]


def lines(nodes: Iterable[Node], notes: MappingABC[Keep, str] | None = None) -> Iterator[str]:
    """The nest as indented text; `notes` says more about a kept tile."""
    depth = 0
    for node in nodes:
        pad = "  " * depth
        if isinstance(node, Loop):
            yield f"{pad}for {node.dim} in {node.factor}"
            depth += 1
        elif isinstance(node, Spatial):
            yield f"{pad}parallel {node.dim} in {node.factor} on {node.fanout}.{node.axis}"
            depth += 1
        else:
            note = (notes or {}).get(node, "")
            yield f"{pad}{node.level}: {node.tensor}{f'  {note}' if note else ''}"


def check(mapping: Mapping, problem: Problem) -> None:
    """Raise unless the nest is a mapping of the problem by the rules of `Mapping`.

    Raises
    ------
    UnknownNameError
        A dimension, tensor, memory, fanout or axis that does not exist.
    MappingError
        A rule is broken; says at which node.
    """
    where = f"mapping of {problem.op.name!r}"
    numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
    fanouts = {fanout.name: (position, fanout) for position, fanout in problem.fanouts}
    used: dict[tuple[str, str], int] = {}
    kept: set[tuple[str, str]] = set()
    deepest, shallowest = 0, 0  # number of the innermost memory seen so far; innermost memory above the last fanout seen, plus one
    last = len(problem.memories) - 1 - problem.latched  # operands at the MACs may stay while tiles of this memory change
    held: dict[str, set[str]] = {name: set() for name in problem.tensors}
    for i, node in enumerate(mapping.nodes):
        place = f"{where}: node {i}"
        if isinstance(node, Keep):
            if node.tensor not in problem.tensors:
                raise UnknownNameError("tensor", node.tensor, problem.tensors, place)
            if node.level not in numbers:
                raise UnknownNameError("memory", node.level, numbers, place)
            number = numbers[node.level]
            if number not in problem.tensors[node.tensor].levels:
                raise MappingError(f"{place}: {node.level} keeps no {problem.tensors[node.tensor].kind}, such as {node.tensor}")
            if (node.tensor, node.level) in kept:
                raise MappingError(f"{place}: {node.tensor} is kept in {node.level} twice")
            if number < max(deepest if deepest <= last else last, shallowest):
                raise MappingError(f"{place}: {node.level} stands below {problem.memories[deepest].name} or a fanout that it stands above")
            if number == 0 and any(not isinstance(other, Keep) for other in mapping.nodes[:i]):
                raise MappingError(f"{place}: {node.level} backs every tensor, and so no loop stands above it")
            kept.add((node.tensor, node.level))
            chain = [problem.memories[n].name for n in problem.tensors[node.tensor].levels if 0 < n <= last]
            if number > last and not held[node.tensor].issuperset(chain):
                raise MappingError(f"{place}: {node.tensor} is kept in {node.level} above the memory that it comes from")
            held[node.tensor].add(node.level)
            deepest = max(deepest, number)
            continue
        if node.dim not in problem.dims:
            raise UnknownNameError("dimension", node.dim, problem.dims, place)
        if isinstance(node.factor, bool) or not isinstance(node.factor, int) or node.factor < 1:
            raise MappingError(f"{place}: factor of {node.dim}: expected an integer of 1 or more, found {shown(node.factor)}")
        if isinstance(node, Spatial):
            if node.fanout not in fanouts:
                raise UnknownNameError("fanout", node.fanout, fanouts, place)
            position, fanout = fanouts[node.fanout]
            if node.axis not in fanout.axes:
                raise UnknownNameError("axis", node.axis, fanout.axes, f"{place}: {node.fanout}")
            if deepest > position or position + 1 < shallowest:
                raise MappingError(f"{place}: {node.fanout} stands above {problem.memories[deepest].name} in the hierarchy, not below")
            key = (node.fanout, node.axis)
            used[key] = used.get(key, 1) * node.factor
            if used[key] > fanout.axes[node.axis]:
                room = fanout.axes[node.axis]
                raise MappingError(f"{place}: {node.fanout}.{node.axis} has {room} instances; the loops on it need {used[key]}")
            shallowest = position + 1
    check_ragged(mapping, problem, where)
    _check_complete(problem, kept, where)


def _check_complete(problem: Problem, kept: set[tuple[str, str]], where: str) -> None:
    for tensor in problem.tensors.values():
        for number in (n for n in tensor.levels if n):
            if (tensor.name, problem.memories[number].name) not in kept:
                raise MappingError(f"{where}: {problem.memories[number].name} keeps every {tensor.kind}; say where it keeps {tensor.name}")


def ragged_dims(mapping: Mapping, problem: Problem) -> dict[str, int]:
    """Dimensions whose factors multiply to more than their extent, with how many instances share each."""
    total, space = dict.fromkeys(problem.dims, 1), dict.fromkeys(problem.dims, 1)
    for node in mapping.nodes:
        if not isinstance(node, Keep):
            total[node.dim] *= node.factor
            space[node.dim] *= node.factor if isinstance(node, Spatial) else 1
    return {dim: space[dim] for dim, extent in problem.dims.items() if total[dim] != extent}


def along_window(tensor: Tensor, dim: str) -> bool:
    """Whether an axis of the tensor is indexed by more than this dimension, or in strides."""
    return any(dim in dict(axis) and (len(axis) > 1 or dict(axis)[dim] != 1) for axis in tensor.axes)


def windowed(problem: Problem, dim: str) -> bool:
    """`along_window` of any tensor."""
    return any(along_window(tensor, dim) for tensor in problem.tensors.values())


def check_ragged(mapping: Mapping, problem: Problem, where: str) -> None:
    """Raise unless the factors of every dimension cover its extent with nothing empty.

    Raises
    ------
    MappingError
        Factors multiply to less than the extent; more instances than elements; a loop's last iteration is empty; or a tile that a
        raggedly spread window runs along stands above loops over the dimension, so that it would have gaps.
    """
    totals = dict.fromkeys(problem.dims, 1)
    for node in mapping.nodes:
        if not isinstance(node, Keep):
            totals[node.dim] *= node.factor
    for dim, space in ragged_dims(mapping, problem).items():
        extent = problem.dims[dim]
        if totals[dim] < extent:
            raise MappingError(f"{where}: the factors of {dim} multiply to {totals[dim]}; its extent is {extent}")
        if space > extent:
            raise MappingError(f"{where}: {dim} is spread over {space} instances; its extent is {extent}")
        steps, times = -(-extent // space), [n.factor for n in mapping.nodes if isinstance(n, Loop) and n.dim == dim and n.factor > 1]
        inner = math.prod(times[1:])
        if times and (times[0] - 1) * inner >= steps:
            raise MappingError(f"{where}: the loops over {dim} run {times[0] * inner} steps; {steps} are enough, and an iteration is empty")
        if space > 1 and windowed(problem, dim):
            _check_windows(mapping, problem, dim, where)


def _check_windows(mapping: Mapping, problem: Problem, dim: str, where: str) -> None:
    spread = next(i for i, n in enumerate(mapping.nodes) if isinstance(n, Spatial) and n.dim == dim and n.factor > 1)
    for i, node in enumerate(mapping.nodes[spread:], start=spread):
        if not isinstance(node, Keep) or not along_window(problem.tensors[node.tensor], dim):
            continue
        if any(isinstance(n, Loop) and n.dim == dim and n.factor > 1 for n in mapping.nodes[i:]):
            raise MappingError(
                f"{where}: node {i}: {dim} is spread over instances that do not divide its extent; below the fanout a tile along which "
                f"windows or strides run, such as that of {node.tensor}, stands below every loop over {dim}"
            )
