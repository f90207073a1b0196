"""The best plan that can be found in time, and how far from the best possible it may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

from ...errors import MappingError, UnknownNameError, shown
from .greedy import greedy
from .ilp import Residency, residency
from .pack import pack
from .plan import Interval, Plan, check
from .problem import Problem, Tensor

Method = Literal["auto", "greedy", "ilp", "divide"]
METHODS: Final = ("auto", "greedy", "ilp", "divide")
#: Operators above which ``auto`` divides: the program grows with operators x the steps that each may take.
_WHOLE: Final = 160


def allocate(problem: Problem, capacity_bytes: int, method: Method = "auto", *, time_limit_s: float = 60.0, segment: int = 40) -> Plan:
    """Plan a scratchpad for a whole graph.

    Parameters
    ----------
    problem
        From `problem_of`.
    capacity_bytes
        Size of the scratchpad.
    method
        ``"greedy"``: program order and least recently used. ``"ilp"``: order, residency and spills by integer programming.
        ``"divide"``: the same for one segment of the graph after the other, cut where the fewest bytes cross. ``"auto"``:
        ``"ilp"``, for large graphs ``"divide"``; never worse than greedy.
    time_limit_s
        Of all solving together.
    segment
        Operators of one segment, at most.

    Returns
    -------
    Plan
        Checked; ``proven`` says whether it is the best of all orders and residencies.

    Raises
    ------
    UnknownNameError
        No such method.
    MappingError
        A capacity below one byte.

    Examples
    --------
    >>> a, b = Tensor("a", 4, 0, (1, 2)), Tensor("b", 8, 1, (2,))
    >>> plan = allocate(Problem("p", ("x", "y", "z"), (a, b)), 12)
    >>> plan.non_compulsory_bytes, plan.proven
    (0.0, True)
    """
    if method not in METHODS:
        raise UnknownNameError("method", str(method), METHODS)
    if isinstance(capacity_bytes, bool) or not capacity_bytes >= 1:
        raise MappingError(f"{problem.name}: expected a scratchpad of 1 byte or more, found {shown(capacity_bytes)}")
    capacity_bytes = int(capacity_bytes)
    floor = problem.compulsory_bytes + problem.forced_bytes(capacity_bytes)
    plan = greedy(problem, capacity_bytes).with_bound(floor)
    if method != "greedy" and not plan.proven:
        whole = method == "ilp" or (method == "auto" and len(problem.ops) <= _WHOLE)
        found = _whole(problem, capacity_bytes, time_limit_s) if whole else _divided(problem, capacity_bytes, time_limit_s, segment)
        if found is not None:
            bound = max(floor, found.bound_bytes)
            plan = found.with_bound(bound) if found.moved_bytes <= plan.moved_bytes else plan.with_bound(bound)
    check(plan)
    return plan


def _whole(problem: Problem, capacity_bytes: int, time_limit_s: float) -> Plan | None:
    """The integer program over the whole graph; packed with less room where its solution does not pack."""
    bound, room = 0.0, capacity_bytes
    for _ in range(6):
        found = residency(problem, room, time_limit_s) if room == capacity_bytes else _tighter(problem, capacity_bytes, room, time_limit_s)
        if found is None:
            return None
        bound = bound or found.bound_bytes
        sizes = [problem.tensors[i.tensor].size_bytes for i in found.intervals]
        packed = pack(found.intervals, sizes, capacity_bytes, time_limit_s / 4)
        if packed is not None:
            return Plan(problem, capacity_bytes, found.order, tuple(packed), found.spilled, "ilp", bound)
        room = int(room * 0.97)
    return None


def _tighter(problem: Problem, capacity_bytes: int, room: int, time_limit_s: float) -> Residency | None:
    """The same program with less room, if the same operators still fit."""
    if problem.streams(room) != problem.streams(capacity_bytes):
        return None
    return residency(problem, room, time_limit_s)


def _divided(problem: Problem, capacity_bytes: int, time_limit_s: float, segment: int) -> Plan | None:
    """One segment of the program order after the other; what crosses a cut goes by way of DRAM."""
    order: list[int] = []
    intervals: list[Interval] = []
    spilled: set[int] = set()
    cuts = _cuts(problem, segment)
    share = time_limit_s / len(cuts)
    for start, end in cuts:
        part, back = _part(problem, start, end)
        found = _whole(part, capacity_bytes, share) or greedy(part, capacity_bytes)
        intervals += [replace(i, tensor=back[i.tensor], first=i.first + start, last=i.last + start) for i in found.intervals]
        spilled |= {back[i] for i in found.spilled}
        order += [op + start for op in found.order]
    return Plan(problem, capacity_bytes, tuple(order), tuple(intervals), frozenset(spilled), "divide")


def _cuts(problem: Problem, segment: int) -> list[tuple[int, int]]:
    """Segments of at most `segment` operators, cut where the fewest bytes cross."""
    count = len(problem.ops)
    crossing = [
        sum(t.size_bytes for t in problem.tensors if t.producer is not None and t.producer < step and any(c >= step for c in t.consumers))
        for step in range(count + 1)
    ]
    cuts, start = [], 0
    while count - start > segment:
        end = min(range(start + max(1, segment // 2), start + segment + 1), key=lambda s: (crossing[s], -s))
        cuts.append((start, end))
        start = end
    return [*cuts, (start, count)]


def _part(problem: Problem, start: int, end: int) -> tuple[Problem, list[int]]:
    """The operators from `start` to before `end` on their own: what comes from before is an input, what goes on an output."""
    tensors, back = [], []
    for index, tensor in enumerate(problem.tensors):
        inside = tensor.producer is not None and start <= tensor.producer < end
        readers = tuple(c - start for c in tensor.consumers if start <= c < end)
        if inside or readers:
            later = any(c >= end for c in tensor.consumers)
            producer = tensor.producer - start if inside and tensor.producer is not None else None
            tensors.append(Tensor(tensor.name, tensor.size_bytes, producer, readers, inside and (tensor.output or later)))
            back.append(index)
    return Problem(f"{problem.name}[{start}:{end}]", problem.ops[start:end], tuple(tensors)), back
