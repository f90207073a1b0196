"""What one element moved costs, once the factors in space are chosen: joules, and cycles of every memory port.

Costs are vectors: energy first, then one entry per port of limited bandwidth. Formulas: `presilicon.mapping.nest.counts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .problem import Problem, Tensor
from .spread import Spread

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


def cost(problem: Problem, chosen: Sequence[Spread]) -> Cost:
    """Cost vectors when fanout i of the problem spreads as ``chosen[i]``."""
    used = ports(problem)
    macs = len(problem.memories)
    instances = [1] * (macs + 1)
    for (position, _), spread in zip(problem.fanouts, chosen, strict=True):
        for below in range(position + 1, macs + 1):
            instances[below] *= spread.total
    constant = np.zeros(1 + len(used))
    constant[0] = problem.points * problem.macs_per_point * problem.hierarchy.mac_j
    edge: dict[Edge, Floats] = {}
    once: dict[Edge, tuple[float, Floats]] = {}
    for tensor in problem.tensors.values():
        chain = [*tensor.levels, macs]
        if chain[0]:
            edge[tensor.name, chain[0]] = np.zeros_like(constant)
        for parent, child in pairwise(chain):
            shared, copies = _sharing(problem, chosen, tensor, parent, child)
            read_up, written_up = (_vector(problem, used, instances, tensor, parent, *once) for once in ((1 / shared, 0), (0, 1 / shared)))
            read_low, written_low = (_vector(problem, used, instances, tensor, child, *once) for once in ((1, 0), (0, 1)))
            fetch, drain = read_up + written_low, written_up + read_low
            moved = fetch + drain if tensor.kind == "output" else fetch
            if child == macs:
                constant += problem.points * moved
            else:
                edge[tensor.name, child] = moved
            if tensor.kind == "output":
                elements = tensor.volume(problem.dims)
                if problem.counting == "accelforge":
                    constant -= elements * copies * fetch
                elif child < macs:
                    once[tensor.name, child] = float(elements * copies), -elements * copies * fetch
                elif problem.points == elements:
                    constant -= elements * fetch
    work = problem.points * problem.macs_per_point
    return Cost(edge, constant, work / instances[macs] / problem.hierarchy.macs_per_clk, once)


def _sharing(problem: Problem, chosen: Sequence[Spread], tensor: Tensor, parent: int, child: int) -> tuple[int, int]:
    """Instances of the child that one access of the parent serves, and copies of an element over all of them."""
    shared = copies = 1
    for (position, fanout), spread in zip(problem.fanouts, chosen, strict=True):
        if position < child:
            copies *= spread.shares[tensor.name]
            if position >= parent and (fanout.multicast or tensor.kind == "output"):
                shared *= spread.shares[tensor.name]
    return shared, copies


def _vector(
    problem: Problem, used: Sequence[Port], instances: Sequence[int], tensor: Tensor, level: int, reads: float, writes: float
) -> Floats:
    """Cost of so many elements read and written at a memory; none at the MACs."""
    found = np.zeros(1 + len(used))
    if level == len(problem.memories):
        return found
    memory, size = problem.memories[level], tensor.bytes_per_element
    found[0] = size * (reads * memory.read_j_per_byte + writes * memory.write_j_per_byte)
    for i, port in enumerate(used, start=1):
        if port.level == level:
            found[i] = size * (reads * port.read + writes * port.write) / instances[level]
    return found
