"""Fused nests: ops of a cascade under common outer loops, their intermediate tensors kept in an inner memory and never written further out.

The counting rule is that of `presilicon.mapping.nest.counts`, op by op, and:

* All ops of a group run, one after the other, within each iteration of the shared loops. Shared loops are in time, over dimensions that
  index every intermediate of the group, in every op, as an axis of its own.
* All tiles of a memory, of every op, stand above those of the next; a memory's block begins below the last tile, of any op, of the
  memories above it.
* The memory that backs an intermediate holds, from the writer's part of the nest to the last reader's, what one iteration of the shared
  loops makes of it. It is neither fetched from nor drained to anything further out.
* A tile kept above the branches stays while the other ops run; a tile kept in a branch starts empty in each iteration of the shared
  loops, and takes room only while its op runs.
* The latency is the sum over the ops: nothing of one hides behind another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass, field

from ...arch.hierarchy import Hierarchy
from ...errors import MappingError, UnknownNameError
from .cascade import Cascade
from .counts import Counts, evaluate
from .nest import Keep, Loop, Mapping, Node, lines
from .problem import Problem, problem


@dataclass(frozen=True)
class Held:
    """Above the branches: memory `level` keeps the tile of op number `op` of its tensor."""

    op: int
    keep: Keep


@dataclass(frozen=True)
class FusedNest:
    """One group of ops.

    Attributes
    ----------
    ops
        Their numbers in the cascade, in a row.
    level
        Memory that backs their intermediates; empty: a single op.
    shared
        Loops and tiles above the branches, outermost first.
    branches
        What stands below them, for each op.
    """

    ops: tuple[int, ...]
    level: str
    shared: tuple[Loop | Held, ...]
    branches: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class CascadeMapping:
    """Groups that run one after another and cover the cascade."""

    groups: tuple[FusedNest, ...]


def inner_tensors(cascade: Cascade, ops: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Intermediates that stay within a group of ops: numbers of the writer and of the last reader."""
    return {
        name: (writer, max(readers))
        for name, (writer, readers) in cascade.intermediates.items()
        if writer in ops and all(reader in ops for reader in readers)
    }


def shared_dims(cascade: Cascade, ops: tuple[int, ...]) -> tuple[str, ...]:
    """Dimensions that shared loops of a group may run over."""
    inner = inner_tensors(cascade, ops)
    if not inner:
        return ()
    found = []
    for dim in cascade.ops[ops[0]].dims:
        touching = [(i, cascade.operand(i, name)) for name in inner for i in ops]
        alone = all(((dim, 1),) in operand.projection for _, operand in touching if operand is not None)
        if alone and all(dim in cascade.ops[i].dims for i in ops):
            found.append(dim)
    # A dimension that stands on different axes of one tensor in two ops does not run through it in step.
    return tuple(d for d in found if all(_same_axis(cascade, ops, name, d) for name in inner))


def _same_axis(cascade: Cascade, ops: tuple[int, ...], name: str, dim: str) -> bool:
    places = {o.projection.index(((dim, 1),)) for i in ops if (o := cascade.operand(i, name)) is not None}
    return len(places) == 1


def problems(cascade: Cascade, hierarchy: Hierarchy, ops: tuple[int, ...], level: int) -> list[Problem]:
    """Problem of each op of a group whose intermediates start and end in memory number `level`."""
    backed = dict.fromkeys(inner_tensors(cascade, ops), level)
    return [problem(cascade.ops[i], hierarchy, backed) for i in ops]


def own_nest(nest: FusedNest, k: int, stored: tuple[str, ...], memories: tuple[str, ...]) -> tuple[Mapping, int, dict[int, int]]:
    """The nest as op number `k` of the group sees it, where its branch starts, and the first node that each memory's block may have.

    `stored` are intermediates that the op touches, `memories` the names of all.
    """
    above: list[Node] = []
    starts: dict[int, int] = {}
    for node in nest.shared:
        if isinstance(node, Loop):
            above.append(node)
            continue
        if node.op == nest.ops[k]:
            above.append(node.keep)
        starts |= {number: len(above) for number in range(memories.index(node.keep.level) + 1, len(memories))}
    above += [Keep(name, nest.level) for name in stored]
    return Mapping((*above, *nest.branches[k])), len(above), starts


@dataclass(frozen=True)
class CascadeCounts:
    """What a fused mapping costs.

    Attributes
    ----------
    by_op
        Counts of each op, in the cascade's order.
    occupancy_bytes
        Bytes that one instance of each memory holds while each op runs.
    volumes
        Elements of each tensor, by name.
    """

    by_op: tuple[Counts, ...]
    occupancy_bytes: MappingABC[str, tuple[float, ...]]
    volumes: MappingABC[str, int] = field(default_factory=dict)

    @property
    def energy_by(self) -> dict[str, float]:
        """Joules by component, all ops together."""
        return {name: math.fsum(counts.energy_by[name] for counts in self.by_op) for name in self.by_op[0].energy_by}

    @property
    def energy_j(self) -> float:
        """Energy of everything."""
        return math.fsum(counts.energy_j for counts in self.by_op)

    @property
    def cycles(self) -> float:
        """Cycles of all ops, one after the other."""
        return math.fsum(counts.cycles for counts in self.by_op)

    @property
    def latency_s(self) -> float:
        """Seconds of all ops."""
        return self.cycles / self.by_op[0].clock_hz

    @property
    def edp_js(self) -> float:
        """Energy-delay product."""
        return self.energy_j * self.latency_s

    def moved_bytes(self, level: str) -> float:
        """Bytes read and written at one memory."""
        return sum(a.read_bytes + a.written_bytes for counts in self.by_op for a in counts.accesses if a.level == level)

    def passes(self, op: int, tensor: str, level: str) -> float:
        """How often op number `op` goes over a tensor of a memory: elements read there (written, of an output), over the tensor's."""
        access = next((a for a in self.by_op[op].accesses if (a.tensor, a.level) == (tensor, level)), None)
        return 0.0 if access is None else max(access.reads, access.writes) / self.volumes[tensor]


def evaluate_cascade(mapping: CascadeMapping, cascade: Cascade, hierarchy: Hierarchy) -> CascadeCounts:
    """Count what a fused mapping costs, by the rule at the head of this module.

    Raises
    ------
    MappingError
        The groups do not cover the cascade, a nest is none, or tiles do not fit; says which, and by how much.
    """
    if tuple(i for group in mapping.groups for i in group.ops) != tuple(range(len(cascade.ops))):
        raise MappingError(f"cascade: the groups are {[g.ops for g in mapping.groups]}; expected every op once, in order")
    names = [memory.name for memory in hierarchy.memories]
    by_op: list[Counts] = []
    held: dict[str, list[float]] = {name: [] for name in names[1:]}
    volumes: dict[str, int] = {}
    for group in mapping.groups:
        inner = inner_tensors(cascade, group.ops)
        if bool(inner) != bool(group.level) or (len(group.ops) > 1 and not inner):
            raise MappingError(f"cascade: ops {group.ops}: a group has a memory for its intermediates, a single op has none")
        if group.level and group.level not in names:
            raise UnknownNameError("memory", group.level, names, f"cascade: ops {group.ops}")
        _check_shared(cascade, group, names)
        compiled = problems(cascade, hierarchy, group.ops, names.index(group.level) if group.level else 0)
        _add_group(cascade, group, compiled, inner, by_op, held, volumes)
    found = CascadeCounts(tuple(by_op), {name: tuple(parts) for name, parts in held.items()}, volumes)
    for memory in hierarchy.memories[1:]:
        for i, size in enumerate(found.occupancy_bytes[memory.name]):
            if memory.size_bytes is not None and size > memory.size_bytes:
                excess = size - memory.size_bytes
                raise MappingError(
                    f"{memory.name}: the tiles take {size:g} B while op {cascade.ops[i].name!r} runs, {excess:g} B more than its "
                    f"{memory.size_bytes:g} B"
                )
    return found


def _add_group(
    cascade: Cascade,
    group: FusedNest,
    compiled: list[Problem],
    inner: MappingABC[str, tuple[int, int]],
    by_op: list[Counts],
    held: dict[str, list[float]],
    volumes: dict[str, int],
) -> None:
    part = after_shared(group, cascade)
    sizes = {name: stored_bytes(name, compiled, part) for name in inner}
    memories = compiled[0].memories
    for k, each in enumerate(compiled):
        stored = tuple(name for name in inner if name in each.tensors)
        nest, branch, starts = own_nest(group, k, stored, tuple(memory.name for memory in memories))
        counts = evaluate(nest, each, branch, starts)
        by_op.append(counts)
        volumes |= {tensor.name: tensor.volume(each.dims) for tensor in each.tensors.values()}
        for memory in memories[1:]:
            size = counts.occupancy_bytes[memory.name]
            for node, tiles in _held_by_others(group, compiled, k):
                if node.keep.level == memory.name:
                    owner = compiled[group.ops.index(node.op)]
                    size += owner.tensor_bytes(owner.tensors[node.keep.tensor], tiles, memory)
            if memory.name == group.level:
                size -= sum(each.tensor_bytes(each.tensors[name], dict(each.dims) | dict(part), memory) for name in stored)
                size += sum(sizes[name] for name, (first, last) in inner.items() if first <= group.ops[k] <= last)
            held[memory.name].append(size)


def stored_bytes(name: str, compiled: list[Problem], part: MappingABC[str, int]) -> float:
    """Bytes that the backing memory holds of an intermediate: the larger of what its writer and its readers touch."""
    sizes = []
    for each in compiled:
        if name in each.tensors:
            tensor = each.tensors[name]
            sizes.append(each.tensor_bytes(tensor, dict(each.dims) | dict(part), each.memories[tensor.levels[0]]))
    return max(sizes)


def after_shared(group: FusedNest, cascade: Cascade) -> dict[str, int]:
    """Extents of the shared dimensions in one iteration of the shared loops."""
    part = {dim: cascade.ops[group.ops[0]].dims[dim] for dim in shared_dims(cascade, group.ops)}
    for node in group.shared:
        if isinstance(node, Loop):
            part[node.dim] //= node.factor
    return part


def _held_by_others(group: FusedNest, compiled: list[Problem], k: int) -> Iterator[tuple[Held, dict[str, int]]]:
    """Tiles of the other ops above the branches, with the shape of each."""
    loops: dict[str, int] = {}
    for node in group.shared:
        if isinstance(node, Loop):
            loops[node.dim] = loops.get(node.dim, 1) * node.factor
        elif node.op != group.ops[k]:
            dims = compiled[group.ops.index(node.op)].dims
            yield node, {dim: extent // loops.get(dim, 1) for dim, extent in dims.items()}


def _check_shared(cascade: Cascade, group: FusedNest, names: list[str]) -> None:
    levels = [names.index(node.keep.level) for node in group.shared if isinstance(node, Held) and node.keep.level in names]
    if levels != sorted(levels):
        raise MappingError(f"cascade: ops {group.ops}: above the branches all tiles of a memory stand above those of the next")
    dims = shared_dims(cascade, group.ops)
    for node in group.shared:
        if isinstance(node, Loop) and node.dim not in dims:
            allowed = ", ".join(dims) or "none"
            raise MappingError(f"cascade: ops {group.ops}: a shared loop runs over {node.dim}; dimensions that may be shared: {allowed}")
        if isinstance(node, Held) and (group.level == "" or node.op not in group.ops):
            raise MappingError(f"cascade: ops {group.ops}: a tile above the branches belongs to op {node.op}, which is not in the group")


def fused_lines(group: FusedNest, cascade: Cascade, notes: MappingABC[tuple[int, Keep], str]) -> Iterator[str]:
    """A group as indented text; `notes` says more about a kept tile."""
    depth = 0
    for node in group.shared:
        pad = "  " * depth
        if isinstance(node, Loop):
            yield f"{pad}for {node.dim} in {node.factor}"
            depth += 1
        else:
            note = notes.get((node.op, node.keep), "")
            yield f"{pad}{node.keep.level}: {node.keep.tensor} (of {cascade.ops[node.op].name})  {note}".rstrip()
    pad = "  " * depth
    for name, (first, last) in inner_tensors(cascade, group.ops).items():
        note = notes.get((first, Keep(name, group.level)), "")
        yield f"{pad}{group.level}: {name}  {note}  from {cascade.ops[first].name} to {cascade.ops[last].name}, never further out"
    for i, branch in zip(group.ops, group.branches, strict=True):
        yield f"{pad}{cascade.ops[i].name}:"
        own = {keep: text for (op, keep), text in notes.items() if op == i}
        yield from (f"{pad}  {line}" for line in lines(branch, own))
