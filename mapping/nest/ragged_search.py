"""Exact search over perfect factors and over factors in space that do not divide: one search for each choice of the latter."""

from __future__ import annotations

import itertools
import math

from ...errors import MappingError
from .constraints import Constraints
from .incumbent import Incumbent
from .problem import Problem
from .ragged_space import Factors, RaggedCosts, nests, ragged_factors, ragged_space, touched
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
    pending: list[tuple[float, int, Factors]] = []
    size, unlisted = whole.size(), True
    places, orders = sum(len(level.names) for level in whole.levels) + 1, math.prod(math.factorial(len(x.names)) for x in whole.levels)
    found = _Search(whole, incumbent, meter).run()
    bound = found.bound / scale
    try:
        if not found.exhausted:
            raise StoppedError
        for number, factors in enumerate(ragged_factors(problem, constraints)):
            meter.add(0)
            size += nests(problem, factors, places) * orders
            costs = RaggedCosts(problem, factors)
            if incumbent.can_improve(energy := costs.floor_j(), costs.compute):
                pending.append((float(incumbent.score(energy, costs.compute)), number, factors))
        unlisted = False
        pending.sort(key=lambda each: each[:2])
        for _, _, factors in pending[:FIRST]:
            _solve(problem, constraints, factors, whole, incumbent, meter, narrow=True)
        while pending:
            _solve(problem, constraints, pending[0][2], whole, incumbent, meter, narrow=False)
            pending.pop(0)
    except (StoppedError, KeyboardInterrupt):
        bound = min(bound, _floor(problem, incumbent)) if unlisted else bound
    bound = min([bound, incumbent.best, *(each[0] for each in pending)])
    return Found(incumbent.mapping, incumbent.counts, not pending and not unlisted, bound * scale, size, meter.evaluated)


def _solve(
    problem: Problem, constraints: Constraints, factors: Factors, whole: Space, incumbent: Incumbent, meter: Meter, *, narrow: bool
) -> None:
    costs = RaggedCosts(problem, factors)
    if incumbent.can_improve(costs.floor_j(), costs.compute):
        searched = ragged_space(problem, constraints, factors, whole)
        _Search(searched, incumbent, meter)._solve(searched.group, narrow=narrow)


def _floor(problem: Problem, incumbent: Incumbent) -> float:
    """Score that no mapping falls below: the MACs, all at work, and every element once through every memory."""
    hierarchy, memories = problem.hierarchy, problem.memories
    work = problem.points * problem.macs_per_point
    energy = work * hierarchy.mac_j
    for tensor in problem.tensors.values():
        size = touched(tensor, problem.dims) * tensor.bytes_per_element
        for parent, child in itertools.pairwise(tensor.levels):
            above, below = memories[parent], memories[child]
            output = tensor.kind == "output"
            energy += size * (above.write_j_per_byte + below.read_j_per_byte if output else above.read_j_per_byte + below.write_j_per_byte)
    return float(incumbent.score(energy, work / hierarchy.mac_units / hierarchy.macs_per_clk))
