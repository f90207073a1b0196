"""The search of cascades against full enumeration on random small problems."""

from __future__ import annotations

import random

import pytest

from presilicon.errors import MappingError
from presilicon.mapping.nest.fused_search import search_cascade
from presilicon.mapping.nest.incumbent import OBJECTIVES

from .cascade_enumeration import all_costs
from .random_cascades import TEXTS, random_cascade, random_hierarchy

#: A block that adds its input to its output, one with a gate, and both: X is read in several places.
RESIDUAL = (
    "U[m,f] = X[m,d] A[d,f]; Y[m,e] = U[m,f] C[f,e]; R[m,e] = add(Y[m,e], X[m,e])",
    "U[m,f] = X[m,d] A[d,f]; G[m,f] = X[m,d] B[d,f]; H[m,f] = mul(U[m,f], G[m,f])",
    "U[m,f] = X[m,d] A[d,f]; G[m,f] = X[m,d] B[d,f]; H[m,f] = mul(U[m,f], G[m,f]); Y[m,e] = H[m,f] C[f,e]; R[m,e] = add(Y[m,e], X[m,e])",
)


def _check(seed: int, limit: int, texts: tuple[str, ...] = TEXTS, sizes: tuple[int, ...] = (1, 2, 2, 3, 4)) -> bool:
    rng = random.Random(seed)
    cascade = random_cascade(rng, sizes, texts)
    hierarchy = random_hierarchy(rng, rng.choice((1, 1, 1, 2)), roomy=False)
    try:
        costs = all_costs(cascade, hierarchy, limit)
    except MappingError:
        return False
    if costs is None:
        return False
    if not costs:
        with pytest.raises(MappingError, match="more than its"):
            search_cascade(cascade, hierarchy, "energy")
        return False
    for objective in OBJECTIVES:
        found = search_cascade(cascade, hierarchy, objective)
        assert found.exhausted
        assert found.counts is not None
        got = {"energy": found.counts.energy_j, "latency": found.counts.cycles, "edp": found.counts.energy_j * found.counts.cycles}[
            objective
        ]
        best = min({"energy": e, "latency": c, "edp": e * c}[objective] for e, c in costs)
        assert got == pytest.approx(best, rel=1e-9), f"seed {seed}, {objective}\n{cascade}\n{hierarchy}\n{found.mapping}"
        if objective == "latency":
            tied = min(e for e, c in costs if c <= best * (1 + 1e-9))
            assert found.counts.energy_j == pytest.approx(tied, rel=1e-9), f"seed {seed}, energy at the least latency"
    return any(len(group.ops) > 1 for group in found.mapping.groups) if found.mapping else False


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(4))
def test_optimum_equals_full_enumeration(batch: int) -> None:
    fused = sum(_check(seed, 250) for seed in range(batch * 100, batch * 100 + 50))
    assert fused > 1  # in some the best mapping does fuse


@pytest.mark.slow
@pytest.mark.parametrize("text", RESIDUAL, ids=["residual", "gate", "both"])
def test_optimum_of_branching_cascades_equals_full_enumeration(text: str) -> None:
    assert sum(_check(seed, 120, (text,), (1, 1, 2)) for seed in range(20)) > 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("text", RESIDUAL, ids=["residual", "gate", "both"])
def test_optimum_of_branching_cascades_equals_full_enumeration_of_more(text: str) -> None:
    assert sum(_check(seed, 600, (text,), (1, 2, 2, 3)) for seed in range(100)) > 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch", range(6))
def test_optimum_equals_full_enumeration_of_hundreds(batch: int) -> None:
    for seed in range(batch * 100, (batch + 1) * 100):
        _check(seed, 1500)


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch", range(10))
def test_optimum_equals_full_enumeration_of_larger_spaces(batch: int) -> None:
    for seed in range(10**6 + batch * 200, 10**6 + (batch + 1) * 200):
        _check(seed, 6000)
