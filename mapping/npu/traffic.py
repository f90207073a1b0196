"""What a mapping moves between two memories, in all and step by step.

A step is one iteration of the loops above the innermost scratchpad's tiles. The same rule as in `presilicon.mapping.nest.counts` says in
which steps a tile moves; the sums over the steps are the loop-nest model's byte counts, to the byte (a test holds them equal).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..nest.nest import Keep, Loop, Mapping, Spatial
from ..nest.problem import Problem, Tensor

Floats = NDArray[np.float64]

#: Steps that are told apart; loops further inside are one step.
MOST_STEPS = 8192


@dataclass(frozen=True)
class Edge:
    """Traffic of one tensor between two neighbouring memories that keep it, by step.

    Attributes
    ----------
    tensor, parent, child
        Names; ``"mac"`` below the innermost memory.
    read, filled
        Bytes read in the parent and written to the child, in all instances.
    drained, stored
        Bytes read in the child and written to the parent: results and partial sums.
    room
        The step after which there is room in the child for what comes in a step: that which uses a tile for the last time whose place is
        taken; -1 where the place is free from the start. Double-buffered memories, and the registers of an array, have two places.
    tiles
        Tiles that the child takes one after the other.
    """

    tensor: str
    parent: str
    child: str
    read: Floats
    filled: Floats
    drained: Floats
    stored: Floats
    room: NDArray[np.int64]
    tiles: int


@dataclass(frozen=True)
class Traffic:
    """All edges of a mapping, and its number of steps."""

    edges: tuple[Edge, ...]
    steps: int

    def bytes_read(self, level: str) -> float:
        """Bytes that a memory reads."""
        down = math.fsum(e.read.sum() for e in self.edges if e.parent == level)
        return down + math.fsum(e.drained.sum() for e in self.edges if e.child == level)

    def bytes_written(self, level: str) -> float:
        """Bytes that are written to a memory."""
        down = math.fsum(e.filled.sum() for e in self.edges if e.child == level)
        return down + math.fsum(e.stored.sum() for e in self.edges if e.parent == level)

    def without(self, tensors: Collection[str], parent: str) -> Traffic:
        """The same without the moves of some tensors below one memory: they are already, or stay, where they would be brought."""
        kept = tuple(e for e in self.edges if not (e.parent == parent and e.tensor in tensors))
        return Traffic(kept, self.steps)


def traffic(mapping: Mapping, problem: Problem, innermost: str) -> Traffic:
    """Traffic of a mapping; `innermost` names the memory above whose tiles the steps are counted."""
    below = mapping.extents_below(problem.dims)
    last = max(i for i, node in enumerate(mapping.nodes) if isinstance(node, Keep) and node.level == innermost)
    loops = [(i, node) for i, node in enumerate(mapping.nodes[:last]) if isinstance(node, Loop) and node.factor > 1]
    told: list[tuple[int, Loop]] = []
    steps = 1
    for i, loop in loops:
        if steps * loop.factor > MOST_STEPS:
            break
        told.append((i, loop))
        steps *= loop.factor
    index = _indices([loop.factor for _, loop in told], steps)
    at_step = {i: index[n] for n, (i, _) in enumerate(told)}
    edges = []
    for tensor in problem.tensors.values():
        edges += _edges(mapping, problem, tensor, below, at_step, steps)
    return Traffic(tuple(edges), steps)


def _indices(factors: list[int], steps: int) -> list[NDArray[np.int64]]:
    """Iteration of each loop at each step, outermost first."""
    flat = np.arange(steps)
    found = []
    inner = steps
    for factor in factors:
        inner //= factor
        found.append(flat // inner % factor)
    return found


def _edges(
    mapping: Mapping,
    problem: Problem,
    tensor: Tensor,
    below: list[dict[str, int]],
    at_step: dict[int, NDArray[np.int64]],
    steps: int,
) -> list[Edge]:
    numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
    names = [memory.name for memory in problem.memories] + ["mac"]
    at = {numbers[n.level]: i for i, n in enumerate(mapping.nodes) if isinstance(n, Keep) and n.tensor == tensor.name}
    fanouts = {fanout.name: (position, fanout) for position, fanout in problem.fanouts}
    mac = len(problem.memories)
    size = tensor.bytes_per_element
    output = tensor.kind == "output"
    found = []
    for parent, child in pairwise([*tensor.levels, mac]):
        shared = copies = 1
        for node in mapping.nodes:
            if isinstance(node, Spatial) and node.dim not in tensor.relevant and fanouts[node.fanout][0] < child:
                position, fanout = fanouts[node.fanout]
                copies *= node.factor
                if position >= parent and (fanout.multicast or output):
                    shared *= node.factor
        if child == mac:
            moved = np.full(steps, problem.points / steps)
            first = _first(mapping, tensor, len(mapping.nodes), at_step, steps)
            first = first / first.sum() * tensor.volume(problem.dims) * copies
        else:
            moved = _moved(mapping, problem, tensor, at[child], below, child, at_step, steps)
            first = moved * _first(mapping, tensor, at[child], at_step, steps)
            share = tensor.volume(problem.dims) * copies / first.sum() if output else 1.0
            if share < 1 - 1e-9:  # loops that are not told apart bring tiles back within a step
                first *= share
        fetched = moved - first if output else moved
        room, tiles = np.full(steps, -1), 1
        drained = np.zeros(steps)
        if child != mac:
            room, tiles = _room(mapping, problem, tensor, at[child], child, at_step, steps)
            if output:
                drained = _moved(mapping, problem, tensor, at[child], below, child, at_step, steps, leaving=True)
        elif output:
            drained = moved
        up, down = names[parent], names[child]
        fine, wide = size, size / shared
        found.append(Edge(tensor.name, up, down, fetched * wide, fetched * fine, drained * fine, drained * wide, room, tiles))
    return found


def _moved(
    mapping: Mapping,
    problem: Problem,
    tensor: Tensor,
    at: int,
    below: list[dict[str, int]],
    level: int,
    at_step: dict[int, NDArray[np.int64]],
    steps: int,
    *,
    leaving: bool = False,
) -> Floats:
    """Elements fetched into all instances of memory `level`, whose tile is kept at node `at`, at each step; or those that leave it.

    A tile comes piece by piece, each in the step that first uses it, and a result leaves piece by piece, each after its last use.
    """
    numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
    tile = below[at]
    volume = float(tensor.volume(tile))
    events = np.ones(steps)

    def at_end(i: int) -> NDArray[np.bool_]:
        return at_step[i] == (at_step[i].max() if leaving else 0)

    for i in at_step:
        if i > at:
            node = mapping.nodes[i]
            assert isinstance(node, Loop)
            events = events / node.factor if node.dim in tensor.relevant else events * at_end(i)
    inside, mover = True, False
    for i in range(at - 1, -1, -1):
        node = mapping.nodes[i]
        if isinstance(node, Keep):
            inside = inside and numbers[node.level] >= level
            continue
        factor = node.factor
        if isinstance(node, Spatial):
            events *= factor
        elif factor == 1:
            continue
        elif not inside or mover:
            events *= 1 if i in at_step else factor
        elif node.dim in tensor.relevant:
            mover = True
            rest = volume - tensor.overlap(tile, node.dim, below[i][node.dim])
            events = events * (np.where(at_step[i] == 0, volume, rest) if i in at_step else volume + (factor - 1) * rest)
        elif i in at_step:
            events *= at_end(i)
    return events if mover else events * volume


def _room(
    mapping: Mapping, problem: Problem, tensor: Tensor, at: int, level: int, at_step: dict[int, NDArray[np.int64]], steps: int
) -> tuple[NDArray[np.int64], int]:
    """See `Edge.room` and `Edge.tiles`."""
    numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
    changes = np.zeros(steps, dtype=bool)
    inside, moves = True, False
    for i in range(at - 1, -1, -1):
        node = mapping.nodes[i]
        if isinstance(node, Keep):
            inside = inside and numbers[node.level] >= level
        elif i in at_step:
            moves = moves or not inside or node.dim in tensor.relevant
            if moves:
                changes[1:] |= at_step[i][1:] != at_step[i][:-1]
    number = np.cumsum(changes)
    places = 2 if problem.memories[level].name == "registers" else problem.memories[level].buffers
    last = np.searchsorted(number, np.arange(number[-1] + 1), side="right") - 1
    return np.where(number >= places, last[np.maximum(number - places, 0)], -1), int(number[-1]) + 1


def _first(mapping: Mapping, tensor: Tensor, at: int, at_step: dict[int, NDArray[np.int64]], steps: int) -> Floats:
    """Where tiles of an output come for the first time: no loop that does not index it has advanced."""
    found = np.ones(steps)
    if tensor.kind != "output":
        return np.zeros(steps) if at < len(mapping.nodes) else found
    for i, node in enumerate(mapping.nodes[:at]):
        if i in at_step and isinstance(node, Loop) and node.dim not in tensor.relevant:
            found *= at_step[i] == 0
    return found
