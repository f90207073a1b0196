"""Which ops of a graph an NPU runs as one, and which tensors wait on chip between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...arch.npu import NpuSystem, arithmetic_bits
from ...workloads.graph import OpGraph
from ...workloads.op import Op, Operand
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
        In program order; a matrix op comes first.
    folded
        Names of batch normalisations whose scale and shift went into the weights: no work is left of them.
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
        In program order.
    inside
        By op: whether all who read its result stand in its own group, so that the result moves nowhere.
    resident
        By op: whether its result waits in the on-chip memory until its last reader has run.
    reserved_bytes
        By group: bytes of that memory which tensors take that the group does not touch.
    producer
        By op and operand: the op whose result the operand is.
    """

    groups: tuple[Group, ...]
    inside: Mapping[str, bool]
    resident: Mapping[str, bool]
    reserved_bytes: tuple[float, ...]
    producer: Mapping[tuple[str, str], str]


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
    if op.kind in MATRIX_KINDS:
        return True
    needed = {name for name, number in op.body.items() if number and name != "mac"} | ({"mul", "add"} if op.body.get("mac") else set())
    return not needed or (system.vector is not None and needed <= set(system.vector.ops_per_clk))


def schedule(graph: OpGraph, system: NpuSystem) -> Schedule:
    """Group a graph's ops and decide which tensors stay on chip.

    Elementwise work on each result of a matrix op joins it where matrix and vector engines share a buffer; a batch normalisation right
    behind a convolution is folded into its weights (inference). Vector work whose operands come from the vector work before it joins
    that. A tensor waits on chip if it and all others that do take at most `RESIDENT_SHARE` of the memory.
    """
    producers = _producers(graph)
    members: list[list[Op]] = []
    folded: list[set[str]] = []
    group_of: dict[str, int] = {}
    for op in graph:
        if op.kind == "view":
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
    groups = tuple(Group(tuple(ops), frozenset(gone)) for ops, gone in zip(members, folded, strict=True))
    readers: dict[str, set[int]] = {}
    for (name, _), made in producers.items():
        readers.setdefault(made, set()).add(group_of[name])
    inside = {op.name: readers.get(op.name, set()) == {group_of[op.name]} for group in groups for op in group.ops}
    resident, reserved = _residents(groups, readers, inside, system)
    return Schedule(groups, inside, resident, reserved, producers)


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


def _residents(
    groups: tuple[Group, ...], readers: Mapping[str, set[int]], inside: Mapping[str, bool], system: NpuSystem
) -> tuple[dict[str, bool], tuple[float, ...]]:
    where = home(system)
    memory = next((m for m in system.memories if m.name == where), None)
    budget = RESIDENT_SHARE * memory.size_bytes if memory is not None and memory.size_bytes is not None else 0.0
    live: list[tuple[int, float, str]] = []
    resident: dict[str, bool] = {}
    reserved = []
    for number, group in enumerate(groups):
        live = [entry for entry in live if entry[0] >= number]
        touched = {name for _, _, name in live if number in readers.get(name, set())}
        reserved.append(sum(size for _, size, name in live if name not in touched))
        for op in group.ops:
            later = {r for r in readers.get(op.name, set()) if r > number}
            size = _result_bytes(op, system)
            taken = sum(entry[1] for entry in live)
            resident[op.name] = bool(later) and not inside[op.name] and size + taken <= budget
            if resident[op.name]:
                live.append((max(later), size, op.name))
    return resident, tuple(reserved)


def _result_bytes(op: Op, system: NpuSystem) -> float:
    arithmetic = arithmetic_of(op, system)
    return sum(op.elements(o) * element_bytes(o, arithmetic) for o in op.operands if o.role == "output")
