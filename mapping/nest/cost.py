"""What one element moved costs, once the factors in space are chosen: joules, and cycles of every memory port.

Costs are vectors: energy first, then one entry per port of limited bandwidth. Formulas: `presilicon.mapping.nest.counts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .problem import Problem, Tensor

Floats = NDArray[np.float64]
Edge = tuple[str, int]  # tensor, and the memory that fetches its tiles


@dataclass(frozen=True)
class Port:
    """A port of memory `level`: cycles per byte that one instance reads and writes."""

    level: int
    read: float
    write: float


def ports(problem: Problem) -> tuple[Port, ...]:
    """Every port of limited bandwidth."""
    found = []
    for i, memory in enumerate(problem.memories):
        if memory.bandwidth_bytes_per_clk is not None:
            found.append(Port(i, 1 / memory.bandwidth_bytes_per_clk, 1 / memory.bandwidth_bytes_per_clk))
        if memory.read_bytes_per_clk is not None:
            found.append(Port(i, 1 / memory.read_bytes_per_clk, 0.0))
        if memory.write_bytes_per_clk is not None:
            found.append(Port(i, 0.0, 1 / memory.write_bytes_per_clk))
    return tuple(found)


@dataclass(frozen=True)
class Cost:
    """Costs under one choice of spreads.

    Attributes
    ----------
    edge
        Cost of one element moved, by tensor and memory that fetches it.
    constant
        Cost that no tile shape changes: the MACs, their reads and writes, less the skipped first reads.
    compute
        Cycles of the MACs.
    once
        By tensor and memory, what is saved when no more than so many elements are moved: nothing is fetched back (ZigZag's rule).
    """

    edge: Mapping[Edge, Floats]
    constant: Floats
    compute: float
    once: Mapping[Edge, tuple[float, Floats]] = field(default_factory=dict)

    def least(self, edge: Edge, fewest: float) -> Floats:
        """Least cost of a tensor's moves into a memory, when `fewest` elements is the least that it can move."""
        return self.edge[edge] * fewest + (self.once[edge][1] if edge in self.once else 0.0)


def costs(problem: Problem, shares: Sequence[Mapping[str, Floats]], totals: Sequence[Floats]) -> list[Cost]:
    """Cost vectors of n choices of spreads at once.

    Parameters
    ----------
    problem
        What is mapped.
    shares, totals
        Per fanout, how many instances need the same element, by tensor, and the instances used: shape (n,) each.
    """
    used = ports(problem)
    macs = len(problem.memories)
    number = len(totals[0]) if totals else 1
    instances = [np.ones(number) for _ in range(macs + 1)]
    for (position, _), total in zip(problem.fanouts, totals, strict=True):
        for below in range(position + 1, macs + 1):
            instances[below] = instances[below] * total
    constant = np.zeros((number, 1 + len(used)))
    constant[:, 0] = problem.points * problem.macs_per_point * problem.hierarchy.mac_j
    edge: dict[Edge, Floats] = {}
    once: dict[Edge, tuple[Floats, Floats]] = {}
    for tensor in problem.tensors.values():
        chain = [*tensor.levels, macs]
        if chain[0]:
            edge[tensor.name, chain[0]] = np.zeros_like(constant)
        for parent, child in pairwise(chain):
            shared, copies = _sharing(problem, shares, tensor, parent, child, number)
            single = problem.takes_elements(child)
            above = _vectors(problem, used, instances, tensor, parent, single=single)
            lower = _vectors(problem, used, instances, tensor, child)
            fetch, drain = above[0] / shared[:, None] + lower[1], above[1] / shared[:, None] + lower[0]
            moved = fetch + drain if tensor.kind == "output" else fetch
            if child == macs:
                constant += problem.points * moved
            else:
                edge[tensor.name, child] = moved
            if tensor.kind == "output":
                elements = tensor.volume(problem.dims)
                if problem.counting == "accelforge":
                    constant -= elements * copies[:, None] * fetch
                elif child < macs:
                    once[tensor.name, child] = elements * copies, -elements * copies[:, None] * fetch
                elif problem.points == elements:
                    constant -= elements * fetch
    compute = problem.points * problem.macs_per_point / instances[macs] / problem.hierarchy.macs_per_clk
    return [
        Cost(
            {key: each[i] for key, each in edge.items()},
            constant[i],
            float(compute[i]),
            {key: (float(limit[i]), saved[i]) for key, (limit, saved) in once.items()},
        )
        for i in range(number)
    ]


def _sharing(
    problem: Problem, shares: Sequence[Mapping[str, Floats]], tensor: Tensor, parent: int, child: int, number: int
) -> tuple[Floats, Floats]:
    """Instances of the child that one access of the parent serves, and copies of an element over all of them; shape (n,)."""
    shared, copies = np.ones(number), np.ones(number)
    for (position, fanout), by_tensor in zip(problem.fanouts, shares, strict=True):
        if position < child:
            copies = copies * by_tensor[tensor.name]
            if position >= parent and (fanout.multicast or tensor.kind == "output"):
                shared = shared * by_tensor[tensor.name]
    return shared, copies


def _vectors(
    problem: Problem, used: Sequence[Port], instances: Sequence[Floats], tensor: Tensor, level: int, *, single: bool = False
) -> tuple[Floats, Floats]:
    """Cost of one element read at a memory, and of one written, `single`: in cycles of its own; none at the MACs. Shape (n, k) each."""
    read, written = (np.zeros((len(instances[0]), 1 + len(used))) for _ in range(2))
    if level == len(problem.memories):
        return read, written
    memory, size = problem.memories[level], tensor.bytes_per_element
    read[:, 0], written[:, 0] = size * memory.read_j_per_byte, size * memory.write_j_per_byte
    for i, port in enumerate(used, start=1):
        if port.level == level:
            for found, rate in ((read, port.read), (written, port.write)):
                found[:, i] = (math.ceil(size * rate) if single else size * rate) / instances[level]
    return read, written
