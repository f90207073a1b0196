"""A loop nest walked iteration by iteration, instance by instance and element by element: what `counts` must agree with.

For small problems; nothing here is shared with the closed form but the problem and the nest. A dimension whose factors multiply to more
than its extent is dealt out to its instances one element after the other, and what lies past its extent is not executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from .nest import Keep, Loop, Mapping, Spatial
from .problem import Problem, Tensor

Element = tuple[int, ...]
Place = tuple[str, int]  # tensor and memory; the MACs are numbered past the memories


@dataclass
class _Tile:
    """What one instance of a memory holds of one tensor, and the counters of the loops that end its stay when they advance."""

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
    by_instance
        The same by number of the memory and coordinates of its instance: bytes read and written.
    steps_run
        Points in time at which some MAC works.
    """

    def __init__(self, mapping: Mapping, problem: Problem) -> None:
        self.nodes, self.problem = mapping.nodes, problem
        self.numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
        self.fanouts = {fanout.name: (position, fanout) for position, fanout in problem.fanouts}
        self.below = mapping.extents_below(problem.dims)
        totals = Mapping((Loop("", 1), *mapping.nodes)).extents_below(problem.dims)[0]
        self.ragged = {dim for dim, extent in problem.dims.items() if totals[dim] != extent}
        self.steps = [0 if isinstance(node, Keep) else self._step(i, node) for i, node in enumerate(mapping.nodes)]
        self.tiles: dict[tuple[Place, tuple[int, ...]], _Tile] = {}
        self.served: set[object] = set()
        self.reads: dict[Place, int] = {}
        self.writes: dict[Place, int] = {}
        self.by_instance: dict[tuple[int, tuple[int, ...]], list[float]] = {}
        self.steps_run: set[tuple[int, ...]] = set()
        self._run()

    def _step(self, i: int, node: Loop | Spatial) -> int:
        """What an iteration of node `i` adds to the index of its dimension."""
        if node.dim not in self.ragged:
            return self.below[i][node.dim]
        step = 1
        for j, other in enumerate(self.nodes):
            if isinstance(other, Keep) or other.dim != node.dim:
                continue
            if isinstance(node, Spatial):
                step *= other.factor if isinstance(other, Spatial) and j > i else 1
            else:
                step *= other.factor if isinstance(other, Spatial) or j > i else 1
        return step

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
            if inner[node.dim] >= self.problem.dims[node.dim]:
                break
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

    def _count(self, counter: dict[Place, int], place: Place, counters: tuple[int, ...], once: object = None) -> None:
        if once is not None:
            if once in self.served:
                return
            self.served.add(once)
        counter[place] = counter.get(place, 0) + 1
        name, level = place
        bytes_ = self.by_instance.setdefault((level, self._where(counters, level)), [0.0, 0.0])
        bytes_[counter is self.writes] += self.problem.tensors[name].bytes_per_element

    def _parent(self, tensor: Tensor, child: int) -> int:
        return max(level for level in tensor.levels if level < child)

    def _arrive(self, i: int, node: Keep, counters: tuple[int, ...], start: dict[str, int]) -> None:
        tensor, level = self.problem.tensors[node.tensor], self.numbers[node.level]
        wanted = frozenset(self._tile(tensor, i, start))
        block = self._block(i, level)
        times = [(j, c) for j, (n, c) in enumerate(zip(self.nodes[:i], counters, strict=True)) if isinstance(n, Loop) and n.factor > 1]
        outside = tuple(c for j, c in times if j < block)
        # The innermost loop over which the tile moves: when it, or one further out, advances, the tile's stay ends.
        mover = max((j for j, _ in times if j >= block and self._dim(j) in tensor.relevant), default=-1)
        moving = tuple(c for j, c in times if block <= j <= mover)
        key = ((tensor.name, level), self._where(counters, level))
        tile = self.tiles.setdefault(key, _Tile())
        when = (i, self._when(counters))
        if tile.outside == outside and tile.moving == moving:
            return
        advanced = bool(moving) and tile.moving == (*moving[:-1], moving[-1] - 1)
        slides = tile.outside == outside and advanced
        kept = tile.elements & wanted if slides else frozenset()
        self._drain(tensor, level, counters, tile.elements - kept, (tile.outside, tile.moving))
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
            self._count(self.writes, (tensor.name, level), counters)
            self._count(self.reads, (tensor.name, parent), counters, ("fill", tensor.name, level, when, group, element))

    def _drain(self, tensor: Tensor, level: int, counters: tuple[int, ...], old: frozenset[Element], when: object) -> None:
        if tensor.kind != "output" or level == tensor.levels[0]:
            return
        parent = self._parent(tensor, level)
        group = self._group(tensor, counters, parent, level)
        for element in old:
            self._count(self.reads, (tensor.name, level), counters)
            self._count(self.writes, (tensor.name, parent), counters, ("drain", tensor.name, level, when, group, element))

    def _flush(self, when: object = None) -> None:
        """Drain what is left at the end, or at a point `when` in a cascade; instances whose tiles stayed equally long drain together."""
        for ((name, level), where), tile in self.tiles.items():
            if level >= len(self.problem.memories):
                continue
            stay = (tile.outside, tile.moving)
            spatial = [i for i, n in enumerate(self.nodes) if isinstance(n, Spatial) and self.fanouts[n.fanout][0] < level]
            counters = [0] * len(self.nodes)
            for i, coordinate in zip(spatial, where, strict=True):
                counters[i] = coordinate
            self._drain(self.problem.tensors[name], level, tuple(counters), tile.elements, stay if when is None else (when, stay))

    def _multiply(self, counters: tuple[int, ...], start: dict[str, int]) -> None:
        mac = len(self.problem.memories)
        when = self._when(counters)
        self.steps_run.add(when)
        for tensor in self.problem.tensors.values():
            parent = self._parent(tensor, mac)
            group = self._group(tensor, counters, parent, mac)
            tile = self.tiles.setdefault(((tensor.name, mac + 1), self._where(counters, mac)), _Tile()) if tensor.kind == "output" else None
            (element,) = self._tile(tensor, len(self.nodes), start)
            if tile is None or element in tile.seen:
                self._count(self.reads, (tensor.name, parent), counters, ("mac read", tensor.name, when, group))
            if tile is not None:
                tile.seen.add(element)
                self._count(self.writes, (tensor.name, parent), counters, ("mac write", tensor.name, when, group))

    def _tile(self, tensor: Tensor, i: int, start: dict[str, int]) -> Iterator[Element]:
        """Elements of the tile below node `i`: those that its points touch, and along axes of windows or strides all between."""
        ranges: list[Sequence[int]] = []
        for axis in tensor.axes:
            touched = {dim: self._indices(dim, i, start[dim]) for dim, _ in axis}
            if len(axis) == 1 and axis[0][1] == 1:
                ranges.append(touched[axis[0][0]])
                continue
            first = sum(touched[dim][0] * stride for dim, stride in axis)
            last = sum(touched[dim][-1] * stride for dim, stride in axis)
            ranges.append(range(first, last + 1))
        return product(*ranges)

    def _indices(self, dim: str, i: int, start: int) -> list[int]:
        """Sorted indices of a dimension that the nodes below `i` run through, from `start`."""
        found = [start]
        for node, step in zip(self.nodes[i + 1 :], self.steps[i + 1 :], strict=True):
            if not isinstance(node, Keep) and node.dim == dim:
                found = [x + k * step for x in found for k in range(node.factor)]
        return sorted(x for x in found if x < self.problem.dims[dim])
