"""Which tensors wait on chip where an operator streams, a tile at a time, what is not there.

`allocate` plans for engines whose operators need their tensors whole in the scratchpad. An engine that works tile by tile reads from
DRAM what does not wait on chip, at the cost of its bytes and of no room beyond that of its tiles. What is left to decide is for each
tensor until which of its readers it stays: an integer program with one choice a tensor and one row a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from .ilp import Program
from .pack import pack
from .plan import Interval
from .problem import Problem

#: Seconds for the solver, and for the packing; programs of networks take milliseconds.
TIME_LIMIT_S: Final = 2.0


@dataclass(frozen=True)
class Retained:
    """Tensors on chip.

    Attributes
    ----------
    problem, capacity_bytes
        What was decided.
    last
        By tensor: the last operator that finds it on chip; None: it does not wait there.
    runs
        By operator: how often it runs.
    method
        ``"greedy"`` or ``"ilp"``.
    bound_bytes
        No choice moves fewer bytes.
    greedy_bytes
        What first come, first kept moves.
    """

    problem: Problem
    capacity_bytes: int
    runs: tuple[float, ...]
    last: tuple[int | None, ...]
    method: str
    bound_bytes: float
    greedy_bytes: float = 0.0

    @property
    def total_bytes(self) -> float:
        """Bytes that would pass the DRAM if nothing waited on chip."""
        return sum(moved_by(self.problem, i, None, self.runs) for i in range(len(self.last)))

    @property
    def moved_bytes(self) -> float:
        """Bytes of the tensors that pass the DRAM, written and read."""
        return sum(moved_by(self.problem, i, last, self.runs) for i, last in enumerate(self.last))

    @property
    def proven(self) -> bool:
        """Whether no choice moves fewer bytes."""
        return self.moved_bytes <= self.bound_bytes * (1 + 1e-9) + 0.5

    def held(self, step: int) -> list[int]:
        """Indices of the tensors that are on chip while an operator runs."""
        tensors = self.problem.tensors
        return [i for i, last in enumerate(self.last) if last is not None and (tensors[i].producer or 0) <= step <= last]


def retain(problem: Problem, capacity_bytes: float, runs: Sequence[float]) -> Retained:
    """The tensors that wait on chip so that the fewest bytes pass the DRAM, in program order.

    Parameters
    ----------
    problem
        Operators in program order and what passes between them; every tensor has a producer. A tensor that is an output is written in
        any case.
    capacity_bytes
        Room for tensors that wait; tiles of the running operator come on top.
    runs
        By operator: how often it runs (repeated blocks stand once). A tensor is written as often as its maker runs, and read as often as
        each of its readers does.

    Returns
    -------
    Retained
        Never worse than first come, first kept; ``proven`` says whether nothing is better. The same problem is solved once.

    Examples
    --------
    >>> from presilicon.mapping.scratchpad import Tensor
    >>> big, small = Tensor("big", 8, 0, (3,)), Tensor("small", 5, 1, (2, 3))
    >>> found = retain(Problem("p", ("a", "b", "c", "d"), (big, small)), 12, (1, 1, 1, 1))
    >>> found.last, found.moved_bytes, found.proven
    ((3, None), 15.0, True)
    """
    return _retain(problem, int(capacity_bytes), tuple(float(r) for r in runs))


@lru_cache(maxsize=256)
def _retain(problem: Problem, capacity: int, runs: tuple[float, ...]) -> Retained:
    floor = sum(moved_by(problem, i, max(t.consumers, default=None), runs) for i, t in enumerate(problem.tensors))
    first = Retained(problem, capacity, runs, _greedy(problem, capacity), "greedy", floor)
    first = replace(first, greedy_bytes=first.moved_bytes)
    if first.proven:
        return first
    room = capacity
    bound = floor
    for attempt in range(6):
        last, found_bound = _solve(problem, room, runs)
        if attempt == 0:
            bound = max(bound, found_bound)
        if last is None:
            break
        found = replace(first, last=last, method="ilp", bound_bytes=bound)
        if found.moved_bytes >= first.moved_bytes:
            break
        if _packs(found):
            return found
        room = int(room * 0.97)
    return replace(first, bound_bytes=bound)


def moved_by(problem: Problem, index: int, last: int | None, runs: Sequence[float]) -> float:
    """Bytes of one tensor that pass the DRAM if it waits until an operator; see `retain`."""
    tensor = problem.tensors[index]
    late = [c for c in tensor.consumers if last is None or c > last]
    writes = runs[tensor.producer or 0] if tensor.output or late else 0.0
    return tensor.size_bytes * (sum(runs[c] for c in late) + writes)


def _greedy(problem: Problem, capacity: int) -> tuple[int | None, ...]:
    """First come, first kept, until the last reader."""
    last: list[int | None] = [None] * len(problem.tensors)
    live: list[int] = []
    for step in range(len(problem.ops)):
        live = [i for i in live if (last[i] or 0) >= step]
        for i, tensor in enumerate(problem.tensors):
            taken = sum(problem.tensors[j].size_bytes for j in live)
            if tensor.producer == step and tensor.consumers and taken + tensor.size_bytes <= capacity:
                last[i] = max(tensor.consumers)
                live.append(i)
    return tuple(last)


def _solve(problem: Problem, room: int, runs: Sequence[float]) -> tuple[tuple[int | None, ...] | None, float]:
    """One variable for each tensor and last reader on chip; at most one of a tensor, and the sum of what waits fits at each step."""
    program = Program()
    unit = float(max(t.size_bytes for t in problem.tensors))
    choices: list[dict[int, int]] = []
    all_moved = 0.0
    for i, tensor in enumerate(problem.tensors):
        none = moved_by(problem, i, None, runs)
        all_moved += none
        fits = tensor.size_bytes <= room
        mine = {c: program.variable((moved_by(problem, i, c, runs) - none) / unit) for c in sorted(tensor.consumers) if fits}
        if len(mine) > 1:
            program.row([(v, 1.0) for v in mine.values()], high=1.0)
        choices.append(mine)
    if not program.cost:
        return None, all_moved
    for step in range(len(problem.ops)):
        load = [
            (v, t.size_bytes / unit)
            for t, mine in zip(problem.tensors, choices, strict=True)
            for c, v in mine.items()
            if t.producer is not None and t.producer <= step <= c
        ]
        if load:
            program.row(load, high=room / unit)
    values, bound = program.solve(TIME_LIMIT_S)
    if values is None:
        return None, 0.0
    last = tuple(next((c for c, v in mine.items() if values[v] > 0.5), None) for mine in choices)
    return last, all_moved + bound * unit


def _packs(found: Retained) -> bool:
    """Whether what waits has addresses, as well as room in sum."""
    tensors = found.problem.tensors
    stays = [Interval(i, tensors[i].producer or 0, last, False) for i, last in enumerate(found.last) if last is not None]
    return pack(stays, [tensors[s.tensor].size_bytes for s in stays], found.capacity_bytes, TIME_LIMIT_S) is not None
