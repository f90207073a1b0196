"""Which ops of a graph an NPU runs as one, and which tensors wait on chip between two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ...arch.npu import NpuSystem, arithmetic_bits
from ...workloads.graph import OpGraph
from ...workloads.op import Op, Operand
from ..scratchpad.order import best_order
from ..scratchpad.problem import Problem, Tensor
from ..scratchpad.retain import Retained, retain
from .matrix import home

MATRIX_KINDS: Final = ("matmul", "conv", "attention")
#: Kinds that join the vector work before them.
_CHAINED: Final = ("elementwise", "norm", "softmax", "reduce", "copy")
#: Part of the on-chip memory that tensors waiting between two ops may take; tiles of the running op have the rest.
RESIDENT_SHARE: Final = 0.5


@dataclass(frozen=True)
class Group:
    """Ops that run as one: a matrix op with the elementwise work on its results, or a chain of vector work.

    Attributes
    ----------
    ops
        In program order; a matrix op comes first, and paddings of its input last.
    folded
        Names of batch normalisations whose scale and shift went into the weights, and of paddings: no work is left of them.
    """

    ops: tuple[Op, ...]
    folded: frozenset[str] = frozenset()

    @property
    def lead(self) -> Op:
        """The op that names the group."""
        return self.ops[0]


@dataclass(frozen=True)
class Schedule:
    """Groups in the order in which they run, and where each tensor is.

    Attributes
    ----------
    groups
        In program order, or in another if `program_bytes` says so.
    inside
        By op: whether all who read its result stand in its own group, so that the result moves nowhere.
    resident
        By op: whether its result waits in the on-chip memory until its last reader has run, and is not written to the DRAM.
    found
        Ops and operands that are on chip when the op runs.
    reserved_bytes
        By group: bytes of that memory which tensors take that the group does not touch.
    retained
        What was decided, and how much better it is than first come, first kept; None where the NPU has no memory for it.
    producer
        By op and operand: the op whose result the operand is.
    program_bytes
        Bytes that would pass the DRAM in program order; None: groups run in that order.
    """

    groups: tuple[Group, ...]
    inside: Mapping[str, bool]
    resident: Mapping[str, bool]
    found: frozenset[tuple[str, str]]
    reserved_bytes: tuple[float, ...]
    producer: Mapping[tuple[str, str], str]
    retained: Retained | None = None
    program_bytes: float | None = None


def element_bytes(operand: Operand, arithmetic: str) -> float:
    """Bytes of an element on an NPU that computes in an arithmetic: integer arithmetic stores quantised tensors."""
    own = operand.number_format.bytes
    if arithmetic.startswith("int") and operand.number_format.arithmetic.startswith(("fp", "bf", "tf")):
        return min(own, arithmetic_bits(arithmetic) / 8)
    return own


def arithmetic_of(op: Op, system: NpuSystem) -> str:
    """Arithmetic in which the matrix engine runs an op: that of its first operand, or the NPU's own."""
    first = next((o for o in op.operands if o.role != "output"), None)
    return system.arithmetic_for(first.number_format.arithmetic if first else "")


def executes(op: Op, system: NpuSystem) -> bool:
    """Whether the NPU has an engine for an op's scalar operations."""
    return op.kind in MATRIX_KINDS or executes_all(op, system)


def executes_all(op: Op, system: NpuSystem) -> bool:
    """Whether the vector engine executes all of an op's scalar operations; a multiply-accumulate is a product and a sum."""
    needed = {name for name, number in op.body.items() if number and name != "mac"} | ({"mul", "add"} if op.body.get("mac") else set())
    return not needed or (system.vector is not None and needed <= set(system.vector.ops_per_clk))


def schedule(graph: OpGraph, system: NpuSystem) -> Schedule:
    """Group a graph's ops and decide which tensors stay on chip.

    Elementwise work on each result of a matrix op joins it where matrix and vector engines share a buffer; a batch normalisation right
    behind a convolution is folded into its weights (inference), and a padding that only a convolution reads into its borders. Vector work
    whose operands come from the vector work before it joins that. Tensors wait on chip in `RESIDENT_SHARE` of the memory: those by which
    the fewest bytes pass the DRAM (`retain`). Groups run in another order than the program's where fewer bytes pass then (`best_order`).
    """
    producers = _producers(graph)
    padded = _paddings(graph, producers)
    members: list[list[Op]] = []
    folded: list[set[str]] = []
    group_of: dict[str, int] = {}
    for op in graph:
        if op.kind == "view" or op.name in padded:
            continue
        made_by = [group_of[u] for (name, _), u in producers.items() if name == op.name and u in group_of]
        latest = max(made_by, default=-1)
        if latest >= 0 and _joins(op, members[latest], system):
            members[latest].append(op)
            group_of[op.name] = latest
            if _folds(op, members[latest]):
                folded[latest].add(op.name)
        else:
            group_of[op.name] = len(members)
            members.append([op])
            folded.append(set())
    for name, reader in padded.items():
        group_of[name] = group_of[reader]
        members[group_of[name]].append(graph[name])
        folded[group_of[name]].add(name)
    groups = tuple(Group(tuple(ops), frozenset(gone)) for ops, gone in zip(members, folded, strict=True))
    older = _caches(graph, producers)
    cached = frozenset(producers[key] for key in older)
    made_now = {key: made for key, made in producers.items() if key not in older}
    readers = _readers(made_now, group_of)
    inside = {
        op.name: op.name in padded or (op.name not in cached and readers.get(op.name, set()) == {group_of[op.name]})
        for group in groups
        for op in group.ops
    }
    retained, made_by_group = _retained(graph.name, groups, readers, inside, cached, system)
    program_bytes = None
    if retained is not None:
        steps = _better_order(groups, group_of, producers, retained)
        other = tuple(groups[number] for number in steps)
        at = {op.name: number for number, group in enumerate(other) for op in group.ops}
        found_, made_ = _retained(graph.name, other, _readers(made_now, at), inside, cached, system) if steps else (None, [])
        if found_ is not None and found_.moved_bytes < retained.moved_bytes:
            program_bytes = retained.moved_bytes
            groups, group_of, readers, retained, made_by_group = other, at, _readers(made_now, at), found_, made_
    resident = {op.name: False for group in groups for op in group.ops}
    found: set[tuple[str, str]] = set()
    reserved = [0.0] * len(groups)
    if retained is not None:
        resident, found, reserved = _places(retained, made_by_group, resident, made_now, group_of, readers)
    return Schedule(groups, inside, resident, frozenset(found), tuple(reserved), producers, retained, program_bytes)


def _readers(producers: Mapping[tuple[str, str], str], group_of: Mapping[str, int]) -> dict[str, set[int]]:
    """By op: the groups that read its result."""
    readers: dict[str, set[int]] = {}
    for (name, _), made in producers.items():
        readers.setdefault(made, set()).add(group_of[name])
    return readers


def _better_order(
    groups: tuple[Group, ...],
    group_of: Mapping[str, int],
    producers: Mapping[tuple[str, str], str],
    retained: Retained,
) -> tuple[int, ...]:
    """Groups by number in an order in which fewer bytes pass the DRAM; none where there is none.

    Repeated blocks stay together, and ops that touch a cache keep their order.
    """
    before = {(group_of[made], group_of[name]) for (name, _), made in producers.items() if group_of[made] != group_of[name]}
    caching = [n for n, group in enumerate(groups) if any(o.role == "cache" for op in group.ops for o in op.operands)]
    before |= set(pairwise(caching))
    blocks = [0]
    for a, b in pairwise(groups):
        blocks.append(blocks[-1] + (a.lead.count != b.lead.count))
    found = best_order(retained.problem, retained.capacity_bytes, retained.runs, before, blocks, retained.moved_bytes)
    return () if found is None else found.steps


def _producers(graph: OpGraph) -> dict[tuple[str, str], str]:
    """Who makes each operand; views pass on what they were given."""
    seen: dict[str, str] = {}
    found = {}
    for op in graph:
        for u, _, data in graph.nx.in_edges(op.name, data=True):
            source = seen.get(u, u)
            if op.kind == "view":
                seen[op.name] = source
            else:
                for name in data["tensor"].split(","):
                    found[op.name, name] = source
    return found


def _caches(graph: OpGraph, producers: Mapping[tuple[str, str], str]) -> frozenset[tuple[str, str]]:
    """Ops and operands that read a cache of which the op before wrote a part: the rest is from earlier steps, and all of it in the DRAM."""
    found = set()
    for name, operand in producers:
        op, made = graph[name], graph[producers[name, operand]]
        read = next((op.elements(o) for o in op.operands if o.name == operand and o.role == "cache"), 0)
        if read > sum(made.elements(o) for o in made.operands if o.role == "output"):
            found.add((name, operand))
    return frozenset(found)


def _paddings(graph: OpGraph, producers: dict[tuple[str, str], str]) -> dict[str, str]:
    """Paddings of which one convolution alone reads the result, by name, with its name; `producers` then leads past them.

    Graph compilers fold them into the convolution, whose input gets the zeros where it enters the array (CANN's PadConv2dFusionPass).
    """
    readers: dict[str, set[str]] = {}
    for (name, _), made in producers.items():
        readers.setdefault(made, set()).add(name)
    found: dict[str, str] = {}
    for op in graph:
        if op.kind != "copy" or op.target.split(".")[1:2] not in (["pad"], ["constant_pad_nd"]) or len(readers.get(op.name, ())) != 1:
            continue
        (reader,) = readers[op.name]
        if graph[reader].kind == "conv" and graph[reader].count == op.count:
            found[op.name] = reader
    sources = {name: made for (name, _), made in producers.items() if name in found}
    for key, made in list(producers.items()):
        if key[0] in found or (made in found and made not in sources):
            del producers[key]
        elif made in found:
            producers[key] = sources[made]
    return found


def _joins(op: Op, group: list[Op], system: NpuSystem) -> bool:
    lead = group[0]
    if op.kind not in _CHAINED or op.count != lead.count or not executes(op, system) or not executes(lead, system):
        return _folds(op, [*group, op]) and op.count == lead.count
    if lead.kind in MATRIX_KINDS:
        if _folds(op, [*group, op]):
            return True
        result = sum(lead.elements(o) for o in lead.operands if o.role == "output")
        return system.coupling == "shared-buffer" and op.kind in ("elementwise", "copy") and op.points == result
    return lead.kind in _CHAINED and system.vector is not None


def _folds(op: Op, group: list[Op]) -> bool:
    """A batch normalisation that directly follows its convolution."""
    return "batch_norm" in op.target and len(group) == 2 and group[0].kind == "conv" and group[0].name != op.name


def runs_on_host(group: Group, system: NpuSystem) -> bool:
    """Whether no engine of the NPU executes a group."""
    return group.lead.kind not in MATRIX_KINDS and not executes(group.lead, system)


def _retained(
    name: str,
    groups: tuple[Group, ...],
    readers: Mapping[str, set[int]],
    inside: Mapping[str, bool],
    cached: frozenset[str],
    system: NpuSystem,
) -> tuple[Retained | None, list[Op]]:
    """What waits on chip, and the ops that make it; what the host makes or reads, and what goes into a cache, is in the DRAM."""
    where = home(system)
    size = next((m.size_bytes for m in system.memories if m.name == where), None)
    if size is None:
        return None, []
    hosted = {number for number, group in enumerate(groups) if runs_on_host(group, system)}
    tensors, makers = [], []
    for number, group in enumerate(groups):
        for op in group.ops if number not in hosted else ():
            later = {r for r in readers.get(op.name, set()) if r > number}
            bytes_ = math.ceil(_result_bytes(op, system))
            if later - hosted and not inside[op.name] and bytes_ > 0:
                tensors.append(Tensor(op.name, bytes_, number, tuple(sorted(later - hosted)), bool(later & hosted) or op.name in cached))
                makers.append(op)
    if not tensors:
        return None, []
    problem = Problem(name, tuple(group.lead.name for group in groups), tuple(tensors))
    return retain(problem, RESIDENT_SHARE * size, [group.lead.count for group in groups]), makers


def _places(
    retained: Retained,
    makers: list[Op],
    resident: dict[str, bool],
    producers: Mapping[tuple[str, str], str],
    group_of: Mapping[str, int],
    readers: Mapping[str, set[int]],
) -> tuple[dict[str, bool], set[tuple[str, str]], list[float]]:
    """Where each result and operand is, and the bytes that wait beside those that a group works on."""
    tensors = retained.problem.tensors
    last = {op.name: retained.last[i] for i, op in enumerate(makers)}
    for i, op in enumerate(makers):
        end = last[op.name]
        resident[op.name] = end is not None and end >= max(tensors[i].consumers) and not tensors[i].output
    found = {key for key, source in producers.items() if (last.get(source) or -1) >= group_of[key[0]] > group_of[source]}

    def beside(step: int, i: int) -> bool:
        made_here = tensors[i].producer == step and resident[tensors[i].name]
        return not made_here and step not in readers[tensors[i].name]

    steps = range(len(retained.problem.ops))
    return resident, found, [float(sum(tensors[i].size_bytes for i in retained.held(step) if beside(step, i))) for step in steps]


def _result_bytes(op: Op, system: NpuSystem) -> float:
    arithmetic = arithmetic_of(op, system)
    return sum(op.elements(o) * element_bytes(o, arithmetic) for o in op.operands if o.role == "output")
