"""Order, residency and spills of least traffic, as an integer linear program.

The variables are those of COSMA (Zhang et al., arXiv 2311.18246): for each tensor and step, whether it is resident, fetched, or spilled,
and for each operator its step. Addresses are packed afterwards (`pack`), since a program that bounds the sum of the resident bytes at each
step is a relaxation of the one with addresses: when its solution packs, it is the optimum of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from .plan import Interval
from .problem import Problem


@dataclass(frozen=True)
class Residency:
    """A solution without addresses.

    Attributes
    ----------
    order, intervals, spilled
        As in `presilicon.mapping.scratchpad.plan.Plan`.
    bound_bytes
        No plan moves fewer bytes.
    """

    order: tuple[int, ...]
    intervals: tuple[Interval, ...]
    spilled: frozenset[int]
    bound_bytes: float


class Program:
    """Variables and rows, collected for scipy."""

    def __init__(self) -> None:
        self.cost: list[float] = []
        self.fixed: list[tuple[float, float]] = []
        self.rows: list[tuple[list[int], list[float], float, float]] = []

    def variable(self, cost: float = 0.0, low: float = 0.0, high: float = 1.0) -> int:
        self.cost.append(cost)
        self.fixed.append((low, high))
        return len(self.cost) - 1

    def row(self, terms: Sequence[tuple[int, float]], low: float = -np.inf, high: float = np.inf) -> None:
        self.rows.append(([v for v, _ in terms], [c for _, c in terms], low, high))

    def solve(self, time_limit_s: float) -> tuple[np.ndarray | None, float]:
        """Values and dual bound; no values if none was found in time."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        count = len(self.cost)
        pointers = np.cumsum([0, *(len(r[0]) for r in self.rows)])
        columns = np.array([v for r in self.rows for v in r[0]], dtype=np.int64)
        values = np.array([c for r in self.rows for c in r[1]], dtype=float)
        matrix = csr_array((values, columns, pointers), shape=(len(self.rows), count))
        limits = LinearConstraint(matrix, np.array([r[2] for r in self.rows]), np.array([r[3] for r in self.rows]))
        low, high = (np.array(ends) for ends in zip(*self.fixed, strict=True))
        found = milp(
            np.array(self.cost),
            integrality=np.ones(count, dtype=np.int64),
            bounds=Bounds(low, high),
            constraints=limits,
            options={"time_limit": time_limit_s, "mip_rel_gap": 0.0},
        )
        bound = found.mip_dual_bound
        return found.x, -np.inf if bound is None else float(bound)


def residency(problem: Problem, capacity_bytes: int, time_limit_s: float, *, reorder: bool = True) -> Residency | None:
    """The order and residency that move the fewest bytes.

    Parameters
    ----------
    problem, capacity_bytes
        What is planned, and the scratchpad's size.
    time_limit_s
        Of the solver; what it has by then is returned with its bound.
    reorder
        Whether the order is free; else it is the program's, and so is the bound.

    Returns
    -------
    Residency or None
        None: no solution in time.
    """
    unit = float(np.gcd.reduce([t.size_bytes for t in problem.tensors])) if problem.tensors else 1.0
    program = Program()
    streams = problem.streams(capacity_bytes)
    at = _order_rows(program, problem, _windows(problem, reorder))
    tensors = [_tensor_rows(program, problem, index, at, streams, unit) for index in range(len(problem.tensors))]
    for step in range(len(problem.ops)):
        load = [(v.held[step], t.size_bytes / unit) for v, t in zip(tensors, problem.tensors, strict=True) if step in v.held]
        if load:
            program.row(load, high=capacity_bytes / unit)
    values, bound = program.solve(time_limit_s)
    if values is None:
        return None
    on = {variable for variable, value in enumerate(values) if value > 0.5}
    order = [0] * len(problem.ops)
    for op, steps in enumerate(at):
        order[next(step for step, variable in steps.items() if variable in on)] = op
    kept = frozenset(i for i, t in enumerate(problem.tensors) if t.producer is not None and tensors[i].spill in on)
    intervals = [
        interval
        for i, variables in enumerate(tensors)
        for interval in _runs(
            problem, i, order, streams, *({s for s, v in steps.items() if v in on} for steps in (variables.held, variables.fetched))
        )
    ]
    past = sum(problem.tensors[i].size_bytes for op, i in streams if problem.tensors[i].producer != op)
    return Residency(tuple(order), tuple(intervals), kept, problem.streamed_bytes + past + bound * unit)


@dataclass(frozen=True)
class _TensorVariables:
    """Variables of one tensor: resident and fetched, by step, and whether DRAM has it."""

    held: dict[int, int]
    fetched: dict[int, int]
    spill: int


def _order_rows(program: Program, problem: Problem, windows: Sequence[range]) -> list[dict[int, int]]:
    """For each operator a variable for each step that it may run in: one step an operator, one operator a step, makers first."""
    at = [{step: program.variable() for step in window} for window in windows]
    for steps in at:
        program.row([(v, 1.0) for v in steps.values()], 1.0, 1.0)
    for step in range(len(at)):
        program.row([(steps[step], 1.0) for steps in at if step in steps], 1.0, 1.0)
    for before, after in problem.order.edges:
        for step in windows[after]:
            earlier = [(v, 1.0) for s, v in at[before].items() if s < step]
            program.row([*earlier, *((v, -1.0) for s, v in at[after].items() if s <= step)], 0.0)
    return at


def _tensor_rows(
    program: Program, problem: Problem, index: int, at: Sequence[dict[int, int]], streams: frozenset[tuple[int, int]], unit: float
) -> _TensorVariables:
    """One tensor: it is resident where it is needed, by being made, fetched or kept; it is fetched just in time, once DRAM has it."""
    tensor = problem.tensors[index]
    size = tensor.size_bytes / unit
    users = [at[c] for c in tensor.consumers if (c, index) not in streams]
    maker = at[tensor.producer] if tensor.producer is not None and (tensor.producer, index) not in streams else {}
    steps = sorted({step for where in (maker, *users) for step in where})
    steps = list(range(steps[0], steps[-1] + 1)) if steps else []
    if tensor.producer is None:
        spill = program.variable(0.0, 1.0)
    else:
        spill = program.variable(size, 1.0 if tensor.output or any(i == index for _, i in streams) else 0.0)
    held = {step: program.variable() for step in steps}
    fetched = {step: program.variable(size) for step in steps if any(step in user for user in users)}
    for step in steps:
        comes = [maker.get(step), fetched.get(step), held.get(step - 1)]
        program.row([(held[step], 1.0), *((v, -1.0) for v in comes if v is not None)], high=0.0)
        for where in (maker, *users):
            if step in where:
                program.row([(held[step], 1.0), (where[step], -1.0)], 0.0)
    for step, variable in fetched.items():
        program.row([(spill, 1.0), (variable, -1.0)], 0.0)
        program.row([*((user[step], 1.0) for user in users if step in user), (variable, -1.0)], 0.0)
        if tensor.producer is not None:
            program.row([*((v, 1.0) for s, v in at[tensor.producer].items() if s < step), (variable, -1.0)], 0.0)
    return _TensorVariables(held, fetched, spill)


def _windows(problem: Problem, reorder: bool) -> list[range]:
    """Steps in which each operator may run: after all that it depends on, before all that depend on it."""
    count = len(problem.ops)
    if not reorder:
        return [range(i, i + 1) for i in range(count)]
    return [range(len(nx.ancestors(problem.order, op)), count - len(nx.descendants(problem.order, op))) for op in range(count)]


def _runs(
    problem: Problem, index: int, order: Sequence[int], streams: frozenset[tuple[int, int]], held: set[int], fetched: set[int]
) -> list[Interval]:
    """The stays of one tensor, each from its start to its last use."""
    tensor = problem.tensors[index]
    uses = sorted(s for s in held if (order[s] == tensor.producer or order[s] in tensor.consumers) and (order[s], index) not in streams)
    found: list[Interval] = []
    for step in uses:
        made = order[step] == tensor.producer
        if found and step not in fetched and all(s in held for s in range(found[-1].last, step + 1)):
            found[-1] = Interval(index, found[-1].first, step, found[-1].fetched)
        else:
            found.append(Interval(index, step, step, not made))
    return found
