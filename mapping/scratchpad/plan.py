"""A plan for the scratchpad, what it moves, and a check that shares no code with whoever made it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from ...errors import MappingError
from .problem import Problem


@dataclass(frozen=True)
class Interval:
    """A tensor in the scratchpad, from one step to another, both included.

    Attributes
    ----------
    tensor
        Index into `Problem.tensors`.
    first, last
        Steps; operator number ``order[step]`` runs in a step.
    fetched
        It comes from DRAM; else the operator of step `first` makes it.
    address
        First byte.
    """

    tensor: int
    first: int
    last: int
    fetched: bool
    address: int = 0


@dataclass(frozen=True)
class Plan:
    """Operator order, and which tensors are where and when.

    Attributes
    ----------
    problem, capacity_bytes
        What was planned.
    order
        Operator of each step.
    intervals
        What the scratchpad holds.
    spilled
        Tensors written to DRAM, graph outputs among them.
    method
        ``"greedy"``, ``"ilp"`` or ``"divide"``.
    bound_bytes
        No plan moves fewer bytes between DRAM and scratchpad.
    """

    problem: Problem
    capacity_bytes: int
    order: tuple[int, ...]
    intervals: tuple[Interval, ...]
    spilled: frozenset[int]
    method: str
    bound_bytes: float = 0.0

    @property
    def moved_bytes(self) -> float:
        """Bytes between DRAM and scratchpad: spills, fetches, and what is streamed past it; weights included."""
        sizes = [t.size_bytes for t in self.problem.tensors]
        fetched = sum(sizes[i.tensor] for i in self.intervals if i.fetched)
        read_past = sum(sizes[t] for op, t in self.problem.streams(self.capacity_bytes) if self.problem.tensors[t].producer != op)
        return self.problem.streamed_bytes + fetched + read_past + sum(sizes[t] for t in self.spilled)

    @property
    def non_compulsory_bytes(self) -> float:
        """Bytes above those that every plan of an unlimited scratchpad moves."""
        return self.moved_bytes - self.problem.compulsory_bytes

    @property
    def peak_bytes(self) -> int:
        """Highest address that is used."""
        return max((i.address + self.problem.tensors[i.tensor].size_bytes for i in self.intervals), default=0)

    @property
    def proven(self) -> bool:
        """Whether no plan moves fewer bytes."""
        return self.moved_bytes <= self.bound_bytes + 0.5

    def with_bound(self, bound_bytes: float) -> Plan:
        """The same plan with a lower bound on what any plan moves."""
        return replace(self, bound_bytes=bound_bytes)


def check(plan: Plan) -> None:
    """Play a plan step by step.

    Raises
    ------
    MappingError
        An operator runs before what it needs is made or resident, a fetched tensor is not in DRAM, an output is never written, or two
        tensors overlap or leave the scratchpad; the first one is named.
    """
    problem, tensors = plan.problem, plan.problem.tensors
    if sorted(plan.order) != list(range(len(problem.ops))):
        raise MappingError(f"{problem.name}: the order does not run every operator once")
    step_of = {op: step for step, op in enumerate(plan.order)}
    streams = problem.streams(plan.capacity_bytes)
    held: dict[int, dict[int, Interval]] = defaultdict(dict)
    for interval in plan.intervals:
        for step in range(interval.first, interval.last + 1):
            if interval.tensor in held[step]:
                raise MappingError(f"{problem.name}: {tensors[interval.tensor].name} is held twice at step {step}")
            held[step][interval.tensor] = interval
    for interval in plan.intervals:
        tensor = tensors[interval.tensor]
        made = -1 if tensor.producer is None else step_of[tensor.producer]
        if interval.fetched and (made >= interval.first or (tensor.producer is not None and interval.tensor not in plan.spilled)):
            raise MappingError(f"{problem.name}: {tensor.name} is fetched at step {interval.first} but is not in DRAM")
        if not interval.fetched and made != interval.first:
            raise MappingError(f"{problem.name}: {tensor.name} appears at step {interval.first}, but is made at step {made}")
    for index, tensor in enumerate(tensors):
        if tensor.output and tensor.producer is not None and index not in plan.spilled:
            raise MappingError(f"{problem.name}: output {tensor.name} never reaches DRAM")
    for step, op in enumerate(plan.order):
        for index in problem.needs(op):
            tensor = tensors[index]
            if tensor.producer is not None and step_of[tensor.producer] > step:
                raise MappingError(f"{problem.name}: {problem.ops[op]} runs before {tensor.name} is made")
            if (op, index) in streams:
                if tensor.producer is not None and index not in plan.spilled:
                    raise MappingError(f"{problem.name}: {problem.ops[op]} streams {tensor.name}, which is not in DRAM")
            elif index not in held[step]:
                raise MappingError(f"{problem.name}: {problem.ops[op]} needs {tensor.name}, which is not resident at step {step}")
        _check_addresses(plan, step, list(held[step].values()))


def _check_addresses(plan: Plan, step: int, held: list[Interval]) -> None:
    end, before = 0, ""
    for interval in sorted(held, key=lambda i: i.address):
        tensor = plan.problem.tensors[interval.tensor]
        if interval.address < end:
            raise MappingError(f"{plan.problem.name}: {before} and {tensor.name} overlap at step {step}")
        end, before = interval.address + tensor.size_bytes, tensor.name
    if end > plan.capacity_bytes:
        raise MappingError(f"{plan.problem.name}: {before} ends at {end} B of {plan.capacity_bytes} B at step {step}")
