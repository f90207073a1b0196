"""The search against full enumeration on random small problems."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from presilicon.errors import MappingError
from presilicon.mapping.nest import Constraints, Counts, Problem
from presilicon.mapping.nest.incumbent import OBJECTIVES
from presilicon.mapping.nest.search import search
from presilicon.mapping.nest.space import space

from .enumeration import all_counts
from .random_nests import random_problem, tense_problem


def _problems(seed: int, number: int, least: int, most: int) -> Iterator[tuple[int, Problem, list[Counts]]]:
    """So many random problems that have `least` to `most` mappings, with the costs of all of them."""
    found = 0
    while found < number:
        seed += 1
        rng = random.Random(seed)
        if rng.random() < 0.3:
            prob = random_problem(rng, sizes=(1, 1, 2, 2, 3, 4), memories=rng.choice((1, 2, 2)), roomy=rng.random() < 0.2)
        else:
            prob = tense_problem(rng)
        if prob.points < 6 or not least <= _size(prob, least) <= most:
            continue
        counts = all_counts(prob, 4 * most)
        if counts is not None:
            found += 1
            yield seed, prob, counts


def _size(prob: Problem, otherwise: int) -> int:
    try:
        return space(prob, Constraints()).size
    except MappingError:
        return otherwise


def _check(seed: int, prob: Problem, counts: list[Counts]) -> None:
    for objective in OBJECTIVES:
        if not counts:
            with pytest.raises(MappingError, match="more than its"):
                search(prob, objective)
            continue
        found = search(prob, objective)
        assert found.exhausted
        assert found.counts is not None
        best = {
            "energy": (min(c.energy_j for c in counts), found.counts.energy_j),
            "latency": (min(c.cycles for c in counts), found.counts.cycles),
            "edp": (min(c.edp_js for c in counts), found.counts.edp_js),
        }[objective]
        assert best[1] == pytest.approx(best[0], rel=1e-9), f"seed {seed}, {objective}\n{prob.op}\n{prob.hierarchy}"
        if objective == "latency":
            tied = min(c.energy_j for c in counts if c.cycles <= best[0] * (1 + 1e-9))
            assert found.counts.energy_j == pytest.approx(tied, rel=1e-9), f"seed {seed}, energy at the least latency"


@pytest.mark.slow
@pytest.mark.parametrize("batch", [0, 1, *(pytest.param(b, marks=pytest.mark.exhaustive) for b in range(2, 8))])
def test_optimum_equals_full_enumeration(batch: int) -> None:
    for seed, prob, counts in _problems(batch * 10_000, 25, 200, 900):
        _check(seed, prob, counts)


@pytest.mark.parametrize("seed", [28556, 21166, 24931, 22911, 24094, 25266])
def test_optimum_where_bandwidth_decides(seed: int) -> None:
    """The mapping of least energy at the most MACs is not the one of least energy-delay product: a port is in its way."""
    prob = tense_problem(random.Random(seed))
    counts = all_counts(prob, 10_000)
    assert counts is not None
    fastest = min(c.cycles_by["mac"] for c in counts)
    frugal = min((c for c in counts if c.cycles_by["mac"] == fastest), key=lambda c: c.energy_j)
    assert frugal.edp_js > min(c.edp_js for c in counts) * (1 + 1e-9)
    _check(seed, prob, counts)


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch", range(8))
def test_optimum_equals_full_enumeration_of_larger_spaces(batch: int) -> None:
    for seed, prob, counts in _problems(10**6 + batch * 10_000, 20, 900, 4_000):
        _check(seed, prob, counts)


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch", range(20))
def test_optimum_equals_full_enumeration_of_thousands(batch: int) -> None:
    for seed, prob, counts in _problems(10**7 + batch * 100_000, 100, 1_000, 10_000):
        _check(seed, prob, counts)
