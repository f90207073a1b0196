"""Accesses, energy and latency of a loop nest, in closed form.

The counting rule (that of AccelForge's action counts, arXiv 2602.15172, and of LoopTree before it):

* A tile is a dense box of the tensor: along each axis 1 + the sum of (extent - 1) * stride.
* A memory starts with no tile each time a loop outside its own block advances. The block of a memory are the loops
  between its tiles and the tiles of the memory above.
* Within the block a tile is fetched when it moves. Over a loop that does not index the tensor it stays. When the
  innermost loop over which it moves advances, only what the last tile did not hold is fetched (the halo of a convolution is
  kept); when one further out does, all of it.
* A fetch writes the lower memory in every instance, and reads the upper one once for all instances that stand apart only
  along dimensions that do not index the tensor (multicast). Where the fanout has no multicast it reads once for each.
* An output tile is drained when it moves: read in the lower memory in every instance, written to the upper one once
  for all instances that hold partial sums of the same outputs (spatial reduction). It is fetched back when it returns; the
  very first fetch of each output into each instance is skipped, for it would be zero.
* Each MAC reads every operand from the innermost memory that keeps it and writes the output; the first read of each output
  is skipped.
* Factors that do not divide their dimension: `presilicon.mapping.nest.ragged`.
* Latency is that of the slowest: the MACs, or a memory's bytes per instance over its bandwidth; ports that are separate for
  reads and writes count alone. Every instance is equally busy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field, replace
from itertools import pairwise

from ...arch.hierarchy import Memory
from ...errors import MappingError
from .nest import Keep, Mapping, Spatial, check, ragged_dims
from .problem import Problem, Tensor
from .ragged import RaggedNest


@dataclass(frozen=True)
class Access:
    """Elements of one tensor that one memory reads and writes, all its instances together, and the bytes of each."""

    tensor: str
    level: str
    reads: int
    writes: int
    bytes_per_element: float

    @property
    def read_bytes(self) -> float:
        """Bytes read."""
        return self.reads * self.bytes_per_element

    @property
    def written_bytes(self) -> float:
        """Bytes written."""
        return self.writes * self.bytes_per_element


@dataclass(frozen=True)
class Counts:
    """What a mapping costs.

    Attributes
    ----------
    accesses
        By tensor and memory, outermost memory first.
    energy_by
        Joules by memory, and of the ``"mac"``.
    cycles_by
        Cycles that each memory and the ``"mac"`` need.
    occupancy_bytes
        Bytes of all tiles in one instance of each memory but the first.
    instances
        Instances of each memory, and MAC units, that are used.
    mac_units
        MAC units that exist.
    clock_hz
        Clock.
    busy
        Share of the cycles of the MAC units used that do work: less than 1 where factors do not divide extents.
    phases
        Cycles of ``fill``, ``steady`` and ``drain`` where the hierarchy counts them (`presilicon.mapping.nest.filldrain`); else empty.
    """

    accesses: tuple[Access, ...]
    energy_by: MappingABC[str, float]
    cycles_by: MappingABC[str, float]
    occupancy_bytes: MappingABC[str, float]
    instances: MappingABC[str, int]
    mac_units: int
    clock_hz: float
    busy: float = 1.0
    phases: MappingABC[str, float] = field(default_factory=dict)

    @property
    def energy_j(self) -> float:
        """Energy of everything."""
        return math.fsum(self.energy_by.values())

    @property
    def cycles(self) -> float:
        """Cycles of the slowest, or of all phases."""
        return sum(self.phases.values()) if self.phases else max(self.cycles_by.values())

    @property
    def latency_s(self) -> float:
        """Seconds of the run."""
        return self.cycles / self.clock_hz

    @property
    def edp_js(self) -> float:
        """Energy-delay product."""
        return self.energy_j * self.latency_s

    @property
    def limiter(self) -> str:
        """What is slowest: ``"mac"`` or a memory."""
        return max(self.cycles_by, key=lambda name: (self.cycles_by[name], name == "mac"))

    @property
    def utilisation(self) -> float:
        """Share of the MAC-cycles of the run that do work."""
        return self.cycles_by["mac"] / self.cycles * self.busy * self.instances["mac"] / self.mac_units

    def access(self, tensor: str, level: str) -> Access:
        """Accesses of one tensor at one memory."""
        return next(a for a in self.accesses if (a.tensor, a.level) == (tensor, level))


def evaluate(mapping: Mapping, problem: Problem, branch: int = 0, starts: MappingABC[int, int] | None = None) -> Counts:
    """Count what a mapping costs, by the rule at the head of this module.

    Parameters
    ----------
    mapping, problem
        The nest, and what it is a nest of.
    branch
        Number of the first node of a fused op's own part of the nest: the tiles from there on start empty whenever a loop
        above advances, for the other ops have run in between.
    starts
        By number of a memory, the first node that its block can begin with, where tiles of other ops bound it.

    Raises
    ------
    MappingError
        The nest is no mapping of the problem, or its tiles do not fit a memory; says which, and by how much.
    """
    counts = _counted(mapping, problem, branch, starts or {})
    if problem.hierarchy.latency == "overlapped":
        return counts
    if problem.counting != "accelforge" or branch or starts:
        raise MappingError(f"mapping of {problem.op.name!r}: fill and drain are counted for single ops, by accelforge's rule")
    from .filldrain import with_phases

    return with_phases(mapping, problem, counts)


def _counted(mapping: Mapping, problem: Problem, branch: int, starts: MappingABC[int, int]) -> Counts:
    check(mapping, problem)
    _check_sums(mapping, problem)
    below = mapping.extents_below(problem.dims)
    occupancy = _occupancy(mapping, problem, below)
    if ragged_dims(mapping, problem):
        return _ragged(mapping, problem, occupancy, single=not branch and not starts)
    reads: dict[tuple[str, int], int] = {}
    writes: dict[tuple[str, int], int] = {}
    single: dict[tuple[str, int], tuple[int, int]] = {}
    for tensor in problem.tensors.values():
        for parent, child, moved, shared, start in _transfers(mapping, problem, tensor, below, branch, starts):
            output, first = tensor.kind == "output", start
            if output and problem.counting == "zigzag":
                # Fetched back every time, the first included, unless no partial sum ever returns.
                alone = tensor.volume(problem.dims) if child == len(problem.memories) else start
                first = moved if moved <= alone else 0
            if problem.takes_elements(child):
                single[tensor.name, parent] = (moved - first) // shared, moved // shared if output else 0
            for key, read, written in (
                ((tensor.name, parent), moved - first, moved if output else 0),
                ((tensor.name, child), moved if output else 0, moved - first),
            ):
                divisor = shared if key[1] == parent else 1
                reads[key] = reads.get(key, 0) + read // divisor
                writes[key] = writes.get(key, 0) + written // divisor
    totals = _totals(mapping, problem, _listed(problem, reads, writes), occupancy)
    return replace(totals, cycles_by=_with_single(problem, totals, single)) if single else totals


def _with_single(problem: Problem, totals: Counts, single: MappingABC[tuple[str, int], tuple[int, int]]) -> dict[str, float]:
    """Cycles by memory when so many of the reads and writes of each tensor pass the port one by one, each in whole cycles."""
    cycles = dict(totals.cycles_by)
    for number, memory in enumerate(problem.memories):
        passed = [(t, *single.get((t.name, number), (0, 0))) for t in problem.tensors.values() if number in t.levels]
        together = [(t.bytes_per_element, totals.access(t.name, memory.name), read, written) for t, read, written in passed]
        cycles[memory.name] = 0.0
        for rate, reads, writes in (
            (memory.bandwidth_bytes_per_clk, True, True),
            (memory.read_bytes_per_clk, True, False),
            (memory.write_bytes_per_clk, False, True),
        ):
            if rate is None:
                continue
            taken = 0.0
            for size, access, read, written in together:
                alone = read * reads + written * writes
                rest = access.reads * reads + access.writes * writes - alone
                taken += rest * size / rate + alone * math.ceil(size / rate)
            cycles[memory.name] = max(cycles[memory.name], taken / totals.instances[memory.name])
    return cycles


def _listed(problem: Problem, reads: MappingABC[tuple[str, int], int], writes: MappingABC[tuple[str, int], int]) -> tuple[Access, ...]:
    return tuple(
        Access(tensor.name, memory.name, reads.get((tensor.name, i), 0), writes.get((tensor.name, i), 0), tensor.bytes_per_element)
        for i, memory in enumerate(problem.memories)
        for tensor in problem.tensors.values()
        if i in tensor.levels
    )


def _check_sums(mapping: Mapping, problem: Problem) -> None:
    fanouts = {fanout.name: fanout for _, fanout in problem.fanouts}
    for node in mapping.nodes:
        if not isinstance(node, Spatial) or node.factor == 1 or fanouts[node.fanout].reduction:
            continue
        for tensor in problem.tensors.values():
            if tensor.kind == "output" and node.dim not in tensor.relevant:
                raise MappingError(
                    f"mapping of {problem.op.name!r}: {node.fanout} cannot add partial sums; {node.dim}, which does not "
                    f"index the output {tensor.name}, is spread over {node.factor} of its instances"
                )


def _ragged(mapping: Mapping, problem: Problem, occupancy: dict[str, float], *, single: bool) -> Counts:
    """Counts of a nest whose factors do not divide: `presilicon.mapping.nest.ragged`."""
    if problem.counting != "accelforge" or not single:
        raise MappingError(f"mapping of {problem.op.name!r}: factors that do not divide are counted for single ops, by accelforge's rule")
    whole = RaggedNest(mapping, problem)
    totals = _totals(mapping, problem, _of_moves(whole), occupancy)
    cycles = {}
    for i, memory in enumerate(problem.memories):
        own = [a for a in _of_moves(RaggedNest(mapping, problem, i)) if a.level == memory.name]
        cycles[memory.name] = port_cycles(memory, sum(a.read_bytes for a in own), sum(a.written_bytes for a in own))
    steps = math.prod(whole.steps(dim) for dim in problem.dims)
    cycles["mac"] = steps * problem.macs_per_point / problem.hierarchy.macs_per_clk
    return replace(totals, cycles_by=cycles, busy=problem.points / (steps * totals.instances["mac"]))


def _of_moves(nest: RaggedNest) -> tuple[Access, ...]:
    """Accesses of every memory; those of memories outside the one whose instance is looked at mean nothing."""
    reads: dict[tuple[str, int], int] = {}
    writes: dict[tuple[str, int], int] = {}
    for tensor in nest.problem.tensors.values():
        for m in nest.moves(tensor):
            drained = tensor.kind == "output"
            for key, read, written in (
                ((tensor.name, m.parent), m.up - m.first_up, m.up * drained),
                ((tensor.name, m.child), m.low * drained, m.low - m.first_low),
            ):
                reads[key] = reads.get(key, 0) + read
                writes[key] = writes.get(key, 0) + written
    return _listed(nest.problem, reads, writes)


def _transfers(
    mapping: Mapping, problem: Problem, tensor: Tensor, below: list[dict[str, int]], branch: int, starts: MappingABC[int, int]
) -> list[tuple[int, int, int, int, int]]:
    """Parent, child, elements moved into all instances of the child, instances that share a datum, first fetches.

    The last child is the MAC, numbered past the memories.
    """
    numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
    at = {numbers[n.level]: i for i, n in enumerate(mapping.nodes) if isinstance(n, Keep) and n.tensor == tensor.name}
    fanouts = {fanout.name: (position, fanout) for position, fanout in problem.fanouts}
    chain = [*tensor.levels, len(problem.memories)]
    found = []
    for parent, child in pairwise(chain):
        shared = copies = 1
        for node in mapping.nodes:
            if not isinstance(node, Spatial) or node.dim in tensor.relevant or node.factor == 1:
                continue
            position, fanout = fanouts[node.fanout]
            if position >= child:
                continue
            copies *= node.factor
            if position >= parent and (fanout.multicast or tensor.kind == "output"):
                shared *= node.factor
        moved = problem.points
        if child != chain[-1]:
            first_node = branch if at[child] >= branch else starts.get(child, 0)
            moved = _fetched(mapping, problem, tensor, at[child], below, child, first_node)
        first = tensor.volume(problem.dims) * copies if tensor.kind == "output" else 0
        found.append((parent, child, moved, shared, first))
    return found


def _fetched(mapping: Mapping, problem: Problem, tensor: Tensor, at: int, below: list[dict[str, int]], level: int, start: int) -> int:
    """Elements fetched into all instances of memory `level`, whose tile of the tensor is kept at node `at`."""
    numbers = {memory.name: i for i, memory in enumerate(problem.memories)}
    tile = below[at]
    volume = tensor.volume(tile)
    times, inside, mover, step = 1, True, None, 0
    # An operand at the MACs stays while other tensors' tiles in the memory above change.
    alone = problem.latched and level == len(problem.memories) - 1
    for i in range(at - 1, -1, -1):
        node, extents = mapping.nodes[i], below[i]
        inside = inside and i >= start
        if isinstance(node, Keep):
            inside = inside and numbers[node.level] >= level - (alone and node.tensor != tensor.name)
        elif isinstance(node, Spatial) or not inside or mover is not None:
            times *= node.factor
        elif node.factor > 1 and node.dim in tensor.relevant:
            mover, step = node, extents[node.dim]
    if mover is None:
        return times * volume
    return times * (volume + (mover.factor - 1) * (volume - tensor.overlap(tile, mover.dim, step)))


def _occupancy(mapping: Mapping, problem: Problem, below: list[dict[str, int]]) -> dict[str, float]:
    """Bytes of all tiles in one instance of each memory but the first; raises where they do not fit."""
    by_name = {memory.name: memory for memory in problem.memories}
    total = {memory.name: 0.0 for memory in problem.memories[1:]}
    for node, steps in zip(mapping.nodes, below, strict=True):
        if not isinstance(node, Keep) or node.level not in total:
            continue
        tile = problem.clipped(steps)
        tensor, memory = problem.tensors[node.tensor], by_name[node.level]
        size = problem.tensor_bytes(tensor, tile, memory)
        total[node.level] += size
        if size > memory.partition_bytes.get(tensor.kind, math.inf):
            raise _too_large(memory, f"the tile of {tensor.name}", size, memory.partition_bytes[tensor.kind])
    for name, size in total.items():
        limit = by_name[name].size_bytes
        if limit is not None and size > limit:
            raise _too_large(by_name[name], "the tiles", size, limit)
    return total


def _too_large(memory: Memory, what: str, size: float, limit: float) -> MappingError:
    return MappingError(f"{memory.name}: {what} take {size:g} B, {size - limit:g} B more than its {limit:g} B")


def port_cycles(memory: Memory, read_bytes: float, written_bytes: float) -> float:
    """Cycles that one instance of a memory needs for its reads and writes."""
    cycles = 0.0
    if memory.bandwidth_bytes_per_clk is not None:
        cycles = (read_bytes + written_bytes) / memory.bandwidth_bytes_per_clk
    if memory.read_bytes_per_clk is not None:
        cycles = max(cycles, read_bytes / memory.read_bytes_per_clk)
    if memory.write_bytes_per_clk is not None:
        cycles = max(cycles, written_bytes / memory.write_bytes_per_clk)
    return cycles


def _totals(mapping: Mapping, problem: Problem, accesses: tuple[Access, ...], occupancy: dict[str, float]) -> Counts:
    hierarchy = problem.hierarchy
    positions = {fanout.name: position for position, fanout in problem.fanouts}
    spread = [(positions[node.fanout], node.factor) for node in mapping.nodes if isinstance(node, Spatial)]
    instances = {
        name: math.prod(factor for position, factor in spread if position < i)
        for i, name in enumerate([*(memory.name for memory in problem.memories), "mac"])
    }
    energy, cycles = {}, {}
    for memory in problem.memories:
        own = [a for a in accesses if a.level == memory.name]
        read, written = sum(a.read_bytes for a in own), sum(a.written_bytes for a in own)
        energy[memory.name] = read * memory.read_j_per_byte + written * memory.write_j_per_byte
        cycles[memory.name] = port_cycles(memory, read / instances[memory.name], written / instances[memory.name])
    work = problem.points * problem.macs_per_point
    energy["mac"] = work * hierarchy.mac_j
    cycles["mac"] = work / instances["mac"] / hierarchy.macs_per_clk
    return Counts(accesses, energy, cycles, occupancy, instances, hierarchy.mac_units, hierarchy.clock_hz)
