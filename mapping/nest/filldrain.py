"""Latency with the first fill and the last drain of every memory, for hierarchies with ``latency: fill-drain``.

Three phases, as in ZigZag's latency model (Mei et al., "A Uniform Latency Model for DNN Accelerators with Diverse Architectures and
Dataflows", DATE 2022: preloading, computation with its stalls, offloading), with these closed forms for each:

* F(i): cycles of all fills and drains of memory i, the slowest of its own ports and of those of the memories that serve it; M: cycles of
  the MACs and of the ports that serve them. All of the busiest instance.
* ``steady``: M; then from the innermost memory outwards the larger of this and F(i) where the memory has two buffers, so that a tile is
  filled while the one before is used, and the sum of both where it has one. No less than the overlapped latency.
* ``fill``: over memories with two buffers, the cycles that fill the first tiles of all operands that are read: nothing runs before.
* ``drain``: over memories with two buffers, the cycles that drain the last tiles of the outputs.

A memory with one buffer has its first fill and its last drain in the steady phase already.
"""

from __future__ import annotations

import math
from dataclasses import replace

from .counts import Counts, port_cycles
from .nest import Keep, Mapping, Spatial
from .problem import Problem, Tensor
from .ragged import RaggedNest


def phases(mapping: Mapping, problem: Problem, overlapped: float) -> dict[str, float]:
    """Cycles of the phases ``fill``, ``steady`` and ``drain``; `overlapped` is the latency when everything overlaps."""
    macs = len(problem.memories)
    first = RaggedNest(mapping, problem)
    steps = math.prod(first.steps(dim) for dim in problem.dims)
    steady = max(steps * problem.macs_per_point / problem.hierarchy.macs_per_clk, _transfers(mapping, problem, macs))
    found = {"fill": 0.0, "steady": 0.0, "drain": 0.0}
    for number in range(macs - 1, 0, -1):
        cycles = _transfers(mapping, problem, number)
        if problem.memories[number].buffers == 1:
            steady += cycles
            continue
        steady = max(steady, cycles)
        found["fill"] += _once(mapping, problem, first, number, drain=False)
        found["drain"] += _once(mapping, problem, first, number, drain=True)
    found["steady"] = max(steady, overlapped)
    return found


def _transfers(mapping: Mapping, problem: Problem, child: int) -> float:
    """Cycles of everything that memory `child` (or the MACs) exchanges with the memories above."""
    slowest = 0.0
    for level, memory in enumerate(problem.memories):
        if level > child:
            break
        nest, read, written = RaggedNest(mapping, problem, level), 0.0, 0.0
        for tensor in problem.tensors.values():
            for m in nest.moves(tensor):
                if m.child != child or level not in (m.parent, m.child):
                    continue
                drained = tensor.kind == "output"
                inwards, outwards = (m.up - m.first_up, m.up) if level == m.parent else (m.low - m.first_low, m.low)
                read += tensor.bytes_per_element * (inwards if level == m.parent else outwards * drained)
                written += tensor.bytes_per_element * (outwards * drained if level == m.parent else inwards)
        slowest = max(slowest, port_cycles(memory, read, written))
    return slowest


def _once(mapping: Mapping, problem: Problem, nest: RaggedNest, child: int, *, drain: bool) -> float:
    """Cycles in which one tile of every input reaches memory `child`, or one of every output leaves it."""
    moved = dict.fromkeys(range(child + 1), 0.0)
    for tensor in problem.tensors.values():
        if (tensor.kind == "output") != drain or child not in tensor.levels[1:]:
            continue
        parent = max(level for level in tensor.levels if level < child)
        tile = nest.tile(mapping.nodes.index(Keep(tensor.name, problem.memories[child].name)))
        size = tensor.volume(tile) * tensor.bytes_per_element
        moved[child] += size
        moved[parent] += size * _served_apart(mapping, problem, tensor, parent, child)
    slowest = 0.0
    for level, size in moved.items():
        reads = (level == child) == drain
        slowest = max(slowest, port_cycles(problem.memories[level], size if reads else 0.0, 0.0 if reads else size))
    return slowest


def _served_apart(mapping: Mapping, problem: Problem, tensor: Tensor, parent: int, child: int) -> int:
    """Tiles that one instance of the parent serves one by one, for all instances of the child below it."""
    fanouts = {fanout.name: (position, fanout) for position, fanout in problem.fanouts}
    total = 1
    for node in mapping.nodes:
        if isinstance(node, Spatial):
            position, fanout = fanouts[node.fanout]
            together = node.dim not in tensor.relevant and (fanout.multicast or tensor.kind == "output")
            total *= node.factor if parent <= position < child and not together else 1
    return total


def with_phases(mapping: Mapping, problem: Problem, counts: Counts) -> Counts:
    """Counts whose latency is that of the phases."""
    return replace(counts, phases=phases(mapping, problem, counts.cycles))
