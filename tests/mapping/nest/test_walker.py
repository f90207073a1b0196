"""The closed form against the walk of the nest, access by access."""

from __future__ import annotations

import random

import pytest

from presilicon.errors import MappingError
from presilicon.mapping.nest import evaluate
from presilicon.mapping.nest.counts import port_cycles
from presilicon.mapping.nest.nest import ragged_dims
from presilicon.mapping.nest.walker import Walker

from .random_nests import random_mapping, random_problem, random_ragged_mapping


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


@pytest.mark.parametrize("batch", [pytest.param(b, marks=pytest.mark.exhaustive if b > 9 else ()) for b in range(20)])
def test_thousands_of_random_nests(batch: int) -> None:
    for seed in range(batch * 150, (batch + 1) * 150):
        _agree(seed, (1, 2, 3, 4))


def _agree_ragged(seed: int, sizes: tuple[int, ...]) -> bool:
    rng = random.Random(seed)
    prob = random_problem(rng, sizes=sizes, memories=rng.choice((1, 2, 2, 3)), roomy=True)
    mapping = random_ragged_mapping(rng, prob)
    ragged = bool(ragged_dims(mapping, prob))
    try:
        counts, walked = evaluate(mapping, prob), Walker(mapping, prob)
    except MappingError as error:
        if "windows or strides" in str(error):
            return False
        raise
    numbers = {memory.name: i for i, memory in enumerate(prob.memories)}
    where = f"seed {seed}\n{mapping}\n{prob.op}\n{prob.hierarchy}"
    for access in counts.accesses:
        key = (access.tensor, numbers[access.level])
        found = (walked.reads.get(key, 0), walked.writes.get(key, 0))
        assert (access.reads, access.writes) == found, f"{access.tensor} in {access.level}, {where}"
    assert counts.cycles_by["mac"] == len(walked.steps_run), where
    for number, memory in enumerate(prob.memories):
        each = [port_cycles(memory, *moved) for (level, _), moved in walked.by_instance.items() if level == number]
        assert counts.cycles_by[memory.name] == pytest.approx(max(each, default=0.0), rel=1e-12), f"{memory.name}, {where}"
    return ragged


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(10))
def test_hundreds_of_nests_whose_factors_do_not_divide(batch: int) -> None:
    assert sum(_agree_ragged(seed, (1, 2, 3, 4, 5, 7)) for seed in range(batch * 30, (batch + 1) * 30)) > 12


@pytest.mark.slow
@pytest.mark.parametrize("batch", [pytest.param(b, marks=pytest.mark.exhaustive if b > 4 else ()) for b in range(20)])
def test_larger_random_nests(batch: int) -> None:
    for seed in range(10**6 + batch * 100, 10**6 + (batch + 1) * 100):
        _agree(seed, (1, 2, 4, 6))


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch", range(10))
def test_thousands_of_nests_whose_factors_do_not_divide(batch: int) -> None:
    for seed in range(10**6 + batch * 100, 10**6 + (batch + 1) * 100):
        _agree_ragged(seed, (1, 2, 3, 5, 6, 7))
