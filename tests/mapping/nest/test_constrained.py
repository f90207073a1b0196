"""The constrained search, and the front of energy and latency, against full enumeration on random small problems."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from presilicon.errors import MappingError
from presilicon.mapping.nest import Constraints, Counts, Mapping, Problem, evaluate, pareto
from presilicon.mapping.nest.constraints import check_constraints
from presilicon.mapping.nest.incumbent import OBJECTIVES
from presilicon.mapping.nest.search import search
from presilicon.mapping.nest.space import space

from .constrained import meets, random_constraints
from .enumeration import mappings
from .random_nests import random_problem, tense_problem


def _problems(seed: int, number: int, most: int) -> Iterator[tuple[int, Problem, list[tuple[Mapping, Counts]]]]:
    """So many random problems of up to `most` mappings, with all that fit and what they cost."""
    found = 0
    while found < number:
        seed += 1
        rng = random.Random(seed)
        small = rng.random() < 0.3
        prob = random_problem(rng, sizes=(1, 1, 2, 2, 3, 4), memories=rng.choice((1, 2)), roomy=False) if small else tense_problem(rng)
        try:
            size = space(prob, Constraints()).size
        except MappingError:
            continue
        if prob.points < 4 or not 30 <= size <= most:
            continue
        costs = []
        for mapping in mappings(prob):
            try:
                costs.append((mapping, evaluate(mapping, prob)))
            except MappingError:
                continue
        found += 1
        yield seed, prob, costs


def _check(seed: int, prob: Problem, costs: list[tuple[Mapping, Counts]], tries: int) -> tuple[int, int]:
    """Several constraints on one problem; how many some mapping meets, and how many none does."""
    met = unmet = 0
    for attempt in range(tries):
        rng = random.Random(seed * 100 + attempt)
        wanted = random_constraints(rng, prob)
        objective = rng.choice(OBJECTIVES)
        try:
            check_constraints(prob, wanted)
        except MappingError:
            continue  # such as a dataflow whose tensor the op lacks
        good = [counts for mapping, counts in costs if meets(mapping, prob, wanted)]
        where = f"seed {seed}, {objective}\n{wanted}\n{prob.op}\n{prob.hierarchy}"
        try:
            found = search(prob, objective, wanted)
        except MappingError:
            assert not good, where
            unmet += 1
            continue
        assert found.exhausted, where
        if found.counts is None or found.mapping is None:
            assert not good, where
            unmet += 1
            continue
        met += 1
        assert meets(found.mapping, prob, wanted), f"{where}\n{found.mapping}"
        assert good, where
        value, best = {
            "energy": (found.counts.energy_j, min(c.energy_j for c in good)),
            "latency": (found.counts.cycles, min(c.cycles for c in good)),
            "edp": (found.counts.edp_js, min(c.edp_js for c in good)),
        }[objective]
        assert value == pytest.approx(best, rel=1e-9), where
    return met, unmet


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(2))
def test_constrained_optimum_equals_full_enumeration(batch: int) -> None:
    results = [_check(*each, tries=12) for each in _problems(batch * 10_000, 10, 300)]
    assert sum(met for met, _ in results) > 40
    assert sum(unmet for _, unmet in results) > 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch", range(10))
def test_constrained_optimum_equals_full_enumeration_of_a_thousand(batch: int) -> None:
    for each in _problems(10**6 + batch * 10_000, 100, 3_000):
        _check(*each, tries=10)


def _front(costs: list[Counts]) -> list[tuple[float, float]]:
    """Energies and cycles that none beats, cheapest first."""
    found: list[tuple[float, float]] = []
    for cycles, energy in sorted((c.cycles, c.energy_j) for c in costs):
        if not found or energy < found[-1][0] * (1 - 1e-9):
            found.append((energy, cycles))
    return found[::-1]


def _check_front(prob: Problem, costs: list[tuple[Mapping, Counts]]) -> int:
    expected = _front([counts for _, counts in costs])
    points = [(p.counts.energy_j, p.counts.cycles) for p in pareto(prob.op, prob.hierarchy)]
    assert len(points) == len(expected), f"{prob.op}\n{prob.hierarchy}"
    for point, wanted in zip(points, expected, strict=True):
        assert point == pytest.approx(wanted, rel=1e-9)
    return len(points)


@pytest.mark.slow
def test_front_equals_full_enumeration() -> None:
    assert sum(_check_front(prob, costs) > 1 for _, prob, costs in _problems(5 * 10**6, 20, 600) if costs) > 2


@pytest.mark.exhaustive
def test_front_equals_full_enumeration_of_hundreds() -> None:
    for _, prob, costs in _problems(6 * 10**6, 300, 3_000):
        if costs:
            _check_front(prob, costs)
