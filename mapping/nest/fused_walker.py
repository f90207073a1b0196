"""A fused nest walked iteration by iteration, the ops of a group in turn: what `fused.evaluate_cascade` must agree with.

Besides the accesses it checks what fusion must never break: that a reader finds every element of an intermediate, complete, in the
memory that backs it; and it weighs what every instance of a memory holds.
"""

from __future__ import annotations

import math
from itertools import product

from ...arch.hierarchy import Hierarchy
from .cascade import Cascade
from .fused import CascadeMapping, FusedNest, inner_tensors, own_nest, problems
from .nest import Keep, Loop, Mapping
from .problem import Problem
from .walker import Element, Walker


class OpWalker(Walker):
    """One op of a group, walked a branch at a time."""

    def __init__(
        self, nest: tuple[Mapping, int, dict[int, int]], problem: Problem, made: dict[str, dict[Element, int]], cascade: Cascade
    ) -> None:
        mapping, self.branch, self.starts = nest
        self.made, self.cascade = made, cascade
        super().__init__(mapping, problem)

    def _run(self) -> None:
        """Wait for `visit`."""

    def _block(self, i: int, level: int) -> int:
        return max(super()._block(i, level), self.starts.get(level, 0))

    def enter(self, iterations: tuple[int, ...]) -> None:
        """Fetch the tiles above the branch for one iteration of the shared loops."""
        counters: tuple[int, ...] = ()
        start = dict.fromkeys(self.problem.dims, 0)
        rest = iter(iterations)
        for i, node in enumerate(self.nodes[: self.branch]):
            if isinstance(node, Keep):
                self._arrive(i, node, counters, start)
                counters = (*counters, 0)
            else:
                iteration = next(rest)
                start[node.dim] += iteration * self.steps[i]
                counters = (*counters, iteration)
        self.here = counters, start

    def visit(self) -> None:
        """Walk the branch."""
        self._walk(self.branch, *self.here)

    def release(self, when: object) -> None:
        """Drain and forget every tile that the branch kept."""
        inside = {(node.tensor, self.numbers[node.level]) for node in self.nodes[self.branch :] if isinstance(node, Keep)}
        own = {key: tile for key, tile in self.tiles.items() if key[0] in inside}
        everything, self.tiles = self.tiles, own
        self._flush(when)
        self.tiles = everything
        for tile in own.values():
            tile.elements, tile.outside, tile.moving = frozenset(), None, ()

    def held(self, level: int) -> dict[str, float]:
        """Bytes of every tensor in the fullest instance of a memory."""
        memory = self.problem.memories[level]
        found: dict[str, float] = {}
        for ((name, number), _), tile in self.tiles.items():
            if number == level:
                size = len(tile.elements) * self.problem.tensors[name].bytes_per_element * memory.buffers
                found[name] = max(found.get(name, 0.0), size)
        return found

    def _multiply(self, counters: tuple[int, ...], start: dict[str, int]) -> None:
        for tensor in self.problem.tensors.values():
            (element,) = self._tile(tensor, len(self.nodes), start)
            if tensor.kind == "output":
                done = self.made.setdefault(tensor.name, {})
                done[element] = done.get(element, 0) + 1
            elif tensor.name in self.made and tensor.levels[0]:
                writer = self.cascade.ops[self.cascade.intermediates[tensor.name][0]]
                output = next(o for o in writer.operands if o.name == tensor.name)
                wanted = math.prod(writer.dims.values()) // math.prod(writer.dims[d] for axis in output.projection for d, _ in axis)
                found = self.made[tensor.name].get(element, 0)
                inside = all(e < extent for e, extent in zip(element, writer.extent(output), strict=True))  # past it lies padding
                assert not inside or found == wanted, f"{tensor.name}{element} has {found} of {wanted} contributions when it is read"
        super()._multiply(counters, start)


class CascadeWalker:
    """Reads and writes of every op, tensor and memory, counted one by one, and the bytes that memories hold.

    Attributes
    ----------
    reads, writes
        Elements by (op, tensor, number of the memory).
    occupancy
        Bytes by (op that runs, number of the memory).
    """

    def __init__(self, mapping: CascadeMapping, cascade: Cascade, hierarchy: Hierarchy) -> None:
        self.cascade = cascade
        self.reads: dict[tuple[int, str, int], int] = {}
        self.writes: dict[tuple[int, str, int], int] = {}
        self.occupancy: dict[tuple[int, int], float] = {}
        names = [memory.name for memory in hierarchy.memories]
        for group in mapping.groups:
            level = names.index(group.level) if group.level else 0
            self._group(group, problems(cascade, hierarchy, group.ops, level), level)

    def _group(self, group: FusedNest, compiled: list[Problem], level: int) -> None:
        inner = inner_tensors(self.cascade, group.ops)
        made: dict[str, dict[Element, int]] = {}
        walkers = []
        for k, each in enumerate(compiled):
            stored = tuple(name for name in inner if name in each.tensors)
            nest = own_nest(group, k, stored, tuple(memory.name for memory in each.memories))
            walkers.append(OpWalker(nest, each, made, self.cascade))
        loops = [range(node.factor) for node in group.shared if isinstance(node, Loop)]
        for iterations in product(*loops):
            for walker in walkers:
                walker.enter(iterations)
            for k, walker in enumerate(walkers):
                walker.visit()
                alive: dict[str, float] = {}
                for other in walkers:
                    for name, size in other.held(level).items() if level else ():
                        if name in inner and inner[name][0] <= group.ops[k] <= inner[name][1]:
                            alive[name] = max(alive.get(name, 0.0), size)
                for number in range(1, len(compiled[0].memories)):
                    total = sum(alive.values()) if number == level else 0.0
                    for other in walkers:
                        total += sum(size for name, size in other.held(number).items() if number != level or name not in inner)
                    key = group.ops[k], number
                    self.occupancy[key] = max(self.occupancy.get(key, 0.0), total)
                walker.release(("release", iterations))
        for k, walker in enumerate(walkers):
            walker._flush()
            for (name, number), count in walker.reads.items():
                self.reads[group.ops[k], name, number] = count
            for (name, number), count in walker.writes.items():
                self.writes[group.ops[k], name, number] = count
