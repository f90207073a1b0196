"""Exact search over perfect factors and over factors in space that do not divide: one search for each choice of the latter."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ...errors import MappingError
from .constraints import Constraints
from .incumbent import Incumbent
from .problem import Problem
from .ragged_space import RaggedCosts, ragged_factors, ragged_space, touched
from .search import Found, _Search
from .space import Space, space
from .sweep import Meter, StoppedError

#: Choices of factors in space that the first, narrow pass tries.
FIRST = 6


def search_ragged(problem: Problem, constraints: Constraints, incumbent: Incumbent, meter: Meter) -> Found:
    """Best mapping with perfect factors or with factors in space that do not divide; ends as `presilicon.mapping.nest.search` does.

    Raises
    ------
    MappingError
        As `space`; and for constraints that say which factors a nest has.
    """
    if constraints.spatial or constraints.tiles or constraints.even or problem.counting != "accelforge":
        raise MappingError("imperfect factors: of the constraints only dataflow, order and spatial_dims; and accelforge's counting")
    whole = space(problem, constraints)
    scale = 1.0 if incumbent.objective == "energy" else 1.0 / problem.hierarchy.clock_hz
    pending: list[tuple[float, int, RaggedCosts]] = []
    memo: dict[object, Any] = {}
    size, unlisted = whole.size, True
    places, orders = sum(len(level.names) for level in whole.levels) + 1, math.prod(math.factorial(len(x.names)) for x in whole.levels)
    found = _Search(whole, incumbent, meter).run()
    bound = found.bound / scale
    try:
        if not found.exhausted:
            raise StoppedError
        least = _least_j(problem)
        for choices in ragged_factors(problem, constraints):
            size += choices.nests(places) * orders
            cycles = choices.steps.prod(axis=1, dtype=float) * problem.macs_per_point / problem.hierarchy.macs_per_clk
            for i in np.flatnonzero(incumbent.improved_by(np.full(len(cycles), least), cycles)).tolist():
                meter.add(0)
                costs = RaggedCosts(problem, choices.factors(i), memo)
                if incumbent.can_improve(energy := costs.floor_j(), costs.compute):
                    pending.append((float(incumbent.score(energy, costs.compute)), len(pending), costs))
        unlisted = False
        room = {level.number: level.capacity for level in whole.levels}
        for i, (_, number, costs) in enumerate(pending):
            meter.add(0)
            pending[i] = float(incumbent.score(costs.floor_j(room), costs.compute)), number, costs
        pending.sort(key=lambda each: each[:2])
        for _, _, costs in pending[:FIRST]:
            _solve(costs, constraints, whole, incumbent, meter, narrow=True)
        while pending:
            _solve(pending[0][2], constraints, whole, incumbent, meter, narrow=False)
            pending.pop(0)
    except (StoppedError, KeyboardInterrupt):
        bound = min(bound, _floor(problem, incumbent)) if unlisted else bound
    bound = min([bound, incumbent.best, *(each[0] for each in pending)])
    return Found(incumbent.mapping, incumbent.counts, not pending and not unlisted, bound * scale, size, meter.evaluated)


def _solve(costs: RaggedCosts, constraints: Constraints, whole: Space, incumbent: Incumbent, meter: Meter, *, narrow: bool) -> None:
    if incumbent.can_improve(costs.floor_j(), costs.compute):
        searched = ragged_space(costs, constraints, whole)
        _Search(searched, incumbent, meter)._solve([searched.group], narrow=narrow)


def _least_j(problem: Problem) -> float:
    """Energy that no mapping falls below: the MACs, and every element once through every memory."""
    energy, memories = problem.points * problem.macs_per_point * problem.hierarchy.mac_j, problem.memories
    for tensor in problem.tensors.values():
        size = touched(tensor, problem.dims) * tensor.bytes_per_element
        for parent, child in itertools.pairwise(tensor.levels):
            above, below = memories[parent], memories[child]
            output = tensor.kind == "output"
            energy += size * (above.write_j_per_byte + below.read_j_per_byte if output else above.read_j_per_byte + below.write_j_per_byte)
        # Every MAC has its own read of the innermost memory where no fanout stands below that.
        last = memories[tensor.levels[-1]]
        if not any(problem.hierarchy.fanouts_below(i) for i in range(tensor.levels[-1], len(memories))):
            reads = problem.points - (touched(tensor, problem.dims) * problem.hierarchy.mac_units if tensor.kind == "output" else 0)
            writes = problem.points if tensor.kind == "output" else 0
            energy += tensor.bytes_per_element * (max(0, reads) * last.read_j_per_byte + writes * last.write_j_per_byte)
    return energy


def _floor(problem: Problem, incumbent: Incumbent) -> float:
    """Score that no mapping falls below: that energy, and all MACs at work."""
    cycles = problem.points * problem.macs_per_point / problem.hierarchy.mac_units / problem.hierarchy.macs_per_clk
    return float(incumbent.score(_least_j(problem), cycles))
