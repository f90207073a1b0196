"""The closed form against the walk of the nest, access by access."""

from __future__ import annotations

import random

import pytest

from presilicon.mapping.nest import evaluate
from presilicon.mapping.nest.walker import Walker

from .random_nests import random_mapping, random_problem


def _agree(seed: int, sizes: tuple[int, ...]) -> None:
    rng = random.Random(seed)
    prob = random_problem(rng, sizes=sizes, memories=rng.choice((1, 2, 2, 3)), roomy=True)
    mapping = random_mapping(rng, prob)
    walked = Walker(mapping, prob)
    numbers = {memory.name: i for i, memory in enumerate(prob.memories)}
    for access in evaluate(mapping, prob).accesses:
        key = (access.tensor, numbers[access.level])
        found = (walked.reads.get(key, 0), walked.writes.get(key, 0))
        assert (access.reads, access.writes) == found, f"seed {seed}: {access.tensor} in {access.level}\n{mapping}\n{prob.hierarchy}"


@pytest.mark.parametrize("batch", range(20))
def test_thousands_of_random_nests(batch: int) -> None:
    for seed in range(batch * 150, (batch + 1) * 150):
        _agree(seed, (1, 2, 3, 4))


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(20))
def test_larger_random_nests(batch: int) -> None:
    for seed in range(10**6 + batch * 100, 10**6 + (batch + 1) * 100):
        _agree(seed, (1, 2, 4, 6))
