"""The baseline: program order, least recently used tensors evicted, first-fit addresses."""

from __future__ import annotations

from collections.abc import Iterable

from .plan import Interval, Plan
from .problem import Problem


def greedy(problem: Problem, capacity_bytes: int) -> Plan:
    """What a simple allocator does.

    Operators run in program order. A tensor that an operator needs is fetched if it is not there; for space, the least recently used
    tensors go, and are written to DRAM if they are still needed and not there. Dead tensors are freed at once. Where the free space is in
    pieces, what the operator needs is moved together by a write and a fetch.
    """
    state = _Scratchpad(problem, capacity_bytes)
    streams = problem.streams(capacity_bytes)
    for step, op in enumerate(range(len(problem.ops))):
        needed = [i for i in problem.needs(op) if (op, i) not in streams]
        state.spilled |= {i for o, i in streams if o == op and problem.tensors[i].producer is not None}
        state.start(step, op, needed)
        state.end(step, needed)
    return Plan(problem, capacity_bytes, tuple(range(len(problem.ops))), tuple(state.done), frozenset(state.spilled), "greedy")


class _Scratchpad:
    """What is resident while the greedy plan is made."""

    def __init__(self, problem: Problem, capacity_bytes: int) -> None:
        self.problem, self.capacity = problem, capacity_bytes
        self.resident: dict[int, Interval] = {}
        self.used: dict[int, int] = {}
        self.done: list[Interval] = []
        self.spilled = {i for i, t in enumerate(problem.tensors) if t.output and t.producer is not None}

    def start(self, step: int, op: int, needed: list[int]) -> None:
        """Make what an operator needs resident."""
        missing = [i for i in needed if i not in self.resident]
        for i in missing:
            address = self._room(i, step, needed)
            if address is None:
                self._gather(step, op, needed)
                return
            self.resident[i] = Interval(i, step, step, self.problem.tensors[i].producer != op, address)

    def end(self, step: int, needed: Iterable[int]) -> None:
        """Note the use, and free what nothing needs any more."""
        for i in needed:
            self.used[i] = step
        for i in [i for i in self.resident if not self._live(i, step)]:
            self._drop(i, step)

    def _live(self, index: int, step: int) -> bool:
        return any(consumer > step for consumer in self.problem.tensors[index].consumers)

    def _drop(self, index: int, last: int) -> None:
        interval = self.resident.pop(index)
        if last >= interval.first:
            self.done.append(Interval(index, interval.first, last, interval.fetched, interval.address))

    def _evict(self, index: int, step: int) -> None:
        if self.problem.tensors[index].producer is not None:
            self.spilled.add(index)
        self._drop(index, step - 1)

    def _room(self, index: int, step: int, needed: list[int]) -> int | None:
        """Address of a hole, made by evictions if need be; None: what must stay is in the way."""
        size = self.problem.tensors[index].size_bytes
        while True:
            end = 0
            for held in sorted(self.resident.values(), key=lambda h: h.address):
                if held.address - end >= size:
                    return end
                end = held.address + self.problem.tensors[held.tensor].size_bytes
            if self.capacity - end >= size:
                return end
            victims = [i for i in self.resident if i not in needed]
            if not victims:
                return None
            self._evict(min(victims, key=lambda i: (self.used[i], i)), step)

    def _gather(self, step: int, op: int, needed: list[int]) -> None:
        """Put what an operator needs side by side; what was resident comes back by way of DRAM."""
        for i in list(self.resident):
            self._evict(i, step)
        address = 0
        for i in needed:
            self.resident[i] = Interval(i, step, step, self.problem.tensors[i].producer != op, address)
            address += self.problem.tensors[i].size_bytes
