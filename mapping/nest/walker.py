"""A loop nest walked iteration by iteration, instance by instance and element by element: what `counts` must agree with.

For small problems; nothing here is shared with the closed form but the problem and the nest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from .nest import Keep, Loop, Mapping, Spatial
from .problem import Problem, Tensor

Element = tuple[int, ...]
Place = tuple[str, int]  # tensor and memory; the MACs are numbered past the memories


@dataclass
class _Tile:
    """What one instance of a memory holds of one tensor, and the loop counters when it was fetched."""

    elements: frozenset[Element] = frozenset()
    outside: tuple[int, ...] | None = None
    moving: tuple[int, ...] = ()
    seen: set[Element] = field(default_factory=set)


class Walker:
    """Reads and writes of every tensor in every memory, counted one by one.

    Attributes
    ----------
    reads, writes
        Elements by (tensor, number of the memory).
    """

    def __init__(self, mapping: Mapping, problem: Problem) -> None:
        self.nodes, self.problem = mapping.nodes, problem
        self.numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
        self.fanouts = {fanout.name: (position, fanout) for position, fanout in problem.fanouts}
        self.steps = [
            tile[node.dim] if not isinstance(node, Keep) else 0
            for node, tile in zip(mapping.nodes, mapping.extents_below(problem.dims), strict=True)
        ]
        self.below = mapping.extents_below(problem.dims)
        self.tiles: dict[tuple[Place, tuple[int, ...]], _Tile] = {}
        self.served: set[object] = set()
        self.reads: dict[Place, int] = {}
        self.writes: dict[Place, int] = {}
        self._run()

    def _run(self) -> None:
        self._walk(0, (), dict.fromkeys(self.problem.dims, 0))
        self._flush()

    def _walk(self, i: int, counters: tuple[int, ...], start: dict[str, int]) -> None:
        """Execute the nest from node `i`; `counters` holds the iteration of every loop above (0 for kept tiles)."""
        if i == len(self.nodes):
            self._multiply(counters, start)
            return
        node = self.nodes[i]
        if isinstance(node, Keep):
            if self.numbers[node.level]:
                self._arrive(i, node, counters, start)
            self._walk(i + 1, (*counters, 0), start)
            return
        for iteration in range(node.factor):
            inner = dict(start)
            inner[node.dim] += iteration * self.steps[i]
            self._walk(i + 1, (*counters, iteration), inner)

    def _where(self, counters: tuple[int, ...], above: int) -> tuple[int, ...]:
        """Coordinates of the instance of memory `above` in the array."""
        return tuple(
            c for c, node in zip(counters, self.nodes, strict=False) if isinstance(node, Spatial) and self.fanouts[node.fanout][0] < above
        )

    def _when(self, counters: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(c for c, node in zip(counters, self.nodes, strict=False) if isinstance(node, Loop))

    def _group(self, tensor: Tensor, counters: tuple[int, ...], parent: int, child: int) -> tuple[tuple[int, int], ...]:
        """Coordinates that tell apart the instances of `child` which the parent serves one by one."""
        found = []
        for i, (counter, node) in enumerate(zip(counters, self.nodes, strict=False)):
            if isinstance(node, Spatial) and self.fanouts[node.fanout][0] < child:
                position, fanout = self.fanouts[node.fanout]
                shares = position >= parent and (fanout.multicast or tensor.kind == "output")
                if not (shares and node.dim not in tensor.relevant):
                    found.append((i, counter))
        return tuple(found)

    def _count(self, counter: dict[Place, int], place: Place, once: object = None) -> None:
        if once is not None:
            if once in self.served:
                return
            self.served.add(once)
        counter[place] = counter.get(place, 0) + 1

    def _parent(self, tensor: Tensor, child: int) -> int:
        return max(level for level in tensor.levels if level < child)

    def _arrive(self, i: int, node: Keep, counters: tuple[int, ...], start: dict[str, int]) -> None:
        tensor, level = self.problem.tensors[node.tensor], self.numbers[node.level]
        wanted = frozenset(self._box(tensor, self.below[i], start))
        block = self._block(i, level)
        times = [(j, c) for j, (n, c) in enumerate(zip(self.nodes[:i], counters, strict=True)) if isinstance(n, Loop) and n.factor > 1]
        outside = tuple(c for j, c in times if j < block)
        moving = tuple(c for j, c in times if j >= block and self._dim(j) in tensor.relevant)
        key = ((tensor.name, level), self._where(counters, level))
        tile = self.tiles.setdefault(key, _Tile())
        when = (i, self._when(counters))
        if tile.outside == outside and tile.moving == moving:
            return
        advanced = bool(moving) and tile.moving == (*moving[:-1], moving[-1] - 1)
        slides = tile.outside == outside and advanced
        kept = tile.elements & wanted if slides else frozenset()
        self._drain(tensor, level, counters, tile.elements - kept, when)
        self._fill(tensor, level, counters, tile, wanted - kept, when)
        tile.elements, tile.outside, tile.moving = wanted, outside, moving

    def _block(self, i: int, level: int) -> int:
        """First node of the block of memory `level` above node `i`."""
        return max((j + 1 for j, n in enumerate(self.nodes[:i]) if isinstance(n, Keep) and self.numbers[n.level] < level), default=0)

    def _dim(self, i: int) -> str:
        node = self.nodes[i]
        return "" if isinstance(node, Keep) else node.dim

    def _fill(self, tensor: Tensor, level: int, counters: tuple[int, ...], tile: _Tile, new: frozenset[Element], when: object) -> None:
        if level == tensor.levels[0]:
            return
        parent = self._parent(tensor, level)
        group = self._group(tensor, counters, parent, level)
        for element in new:
            if tensor.kind == "output" and element not in tile.seen:
                tile.seen.add(element)
                continue
            self._count(self.writes, (tensor.name, level))
            self._count(self.reads, (tensor.name, parent), ("fill", tensor.name, level, when, group, element))

    def _drain(self, tensor: Tensor, level: int, counters: tuple[int, ...], old: frozenset[Element], when: object) -> None:
        if tensor.kind != "output" or level == tensor.levels[0]:
            return
        parent = self._parent(tensor, level)
        group = self._group(tensor, counters, parent, level)
        for element in old:
            self._count(self.reads, (tensor.name, level))
            self._count(self.writes, (tensor.name, parent), ("drain", tensor.name, level, when, group, element))

    def _flush(self, when: object = "end") -> None:
        """Drain what is left at the end."""
        for ((name, level), where), tile in self.tiles.items():
            if level >= len(self.problem.memories):
                continue
            spatial = [i for i, n in enumerate(self.nodes) if isinstance(n, Spatial) and self.fanouts[n.fanout][0] < level]
            counters = [0] * len(self.nodes)
            for i, coordinate in zip(spatial, where, strict=True):
                counters[i] = coordinate
            self._drain(self.problem.tensors[name], level, tuple(counters), tile.elements, when)

    def _multiply(self, counters: tuple[int, ...], start: dict[str, int]) -> None:
        mac = len(self.problem.memories)
        when = self._when(counters)
        for tensor in self.problem.tensors.values():
            parent = self._parent(tensor, mac)
            group = self._group(tensor, counters, parent, mac)
            tile = self.tiles.setdefault(((tensor.name, mac + 1), self._where(counters, mac)), _Tile()) if tensor.kind == "output" else None
            (element,) = self._box(tensor, dict.fromkeys(self.problem.dims, 1), start)
            if tile is None or element in tile.seen:
                self._count(self.reads, (tensor.name, parent), ("mac read", tensor.name, when, group))
            if tile is not None:
                tile.seen.add(element)
                self._count(self.writes, (tensor.name, parent), ("mac write", tensor.name, when, group))

    @staticmethod
    def _box(tensor: Tensor, tile: dict[str, int], start: dict[str, int]) -> Iterator[Element]:
        ranges = []
        for axis in tensor.axes:
            first = sum(start[dim] * stride for dim, stride in axis)
            ranges.append(range(first, first + 1 + sum((tile[dim] - 1) * stride for dim, stride in axis)))
        return product(*ranges)
