"""What waits on chip for an engine that streams the rest: as good as exhaustive search, and never more than fits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from presilicon.mapping.scratchpad import Problem, Tensor
from presilicon.mapping.scratchpad.retain import Retained, retain


def random_problem(seed: int, ops: int = 7) -> tuple[Problem, tuple[float, ...]]:
    rng = np.random.default_rng(seed)
    tensors = []
    for op in range(ops - 1):
        readers = sorted({int(r) for r in rng.integers(op + 1, ops, size=int(rng.integers(1, 4)))})
        tensors.append(Tensor(f"t{op}", int(rng.integers(1, 12)), op, tuple(readers), bool(rng.random() < 0.2)))
    runs = tuple(float(r) for r in rng.integers(1, 4, size=ops))
    return Problem(f"random {seed}", tuple(f"op{i}" for i in range(ops)), tuple(tensors)), runs


def room(found: Retained) -> int:
    """Most bytes that wait at one step."""
    return max(sum(found.problem.tensors[i].size_bytes for i in found.held(step)) for step in range(len(found.problem.ops)))


@pytest.mark.parametrize("seed", range(25))
def test_exhaustive_search_finds_nothing_better(seed: int) -> None:
    problem, runs = random_problem(seed)
    capacity = 14
    found = retain(problem, capacity, runs)
    assert room(found) <= capacity
    assert found.moved_bytes <= found.greedy_bytes <= found.total_bytes
    best = found.total_bytes
    for last in product(*((None, *t.consumers) for t in problem.tensors)):
        other = replace(found, last=last)
        if room(other) <= capacity:
            best = min(best, other.moved_bytes)
    assert found.bound_bytes <= best + 1e-6
    if found.proven:
        assert found.moved_bytes == pytest.approx(best)


def test_most_are_proven_and_some_beat_first_come_first_kept() -> None:
    results = [retain(*_args(seed)) for seed in range(25)]
    assert sum(r.proven for r in results) >= 20
    assert any(r.moved_bytes < r.greedy_bytes for r in results)


def _args(seed: int) -> tuple[Problem, float, tuple[float, ...]]:
    problem, runs = random_problem(seed)
    return problem, 14, runs


def test_what_is_an_output_is_written_and_what_does_not_fit_streams() -> None:
    tensors = (Tensor("out", 4, 0, (1, 2), True), Tensor("huge", 100, 1, (2,)))
    found = retain(Problem("p", ("a", "b", "c"), tensors), 10, (1, 2, 3))
    assert found.last == (2, None)
    assert found.moved_bytes == 4 + 100 * 2 + 100 * 3, "written as often as its maker runs, read as often as its reader does"
    assert found.proven
    assert retain(found.problem, 10, (1, 2, 3)) is found, "solved once"


def test_what_a_repeated_block_reads_each_time_is_kept_first() -> None:
    """The reader of `often` runs five times, that of `once` once; there is room for one."""
    tensors = (Tensor("once", 8, 0, (2,)), Tensor("often", 8, 1, (3,)))
    found = retain(Problem("p", ("a", "b", "c", "d"), tensors), 8, (1, 1, 1, 5))
    assert found.last == (None, 3)
    assert found.moved_bytes == 16
