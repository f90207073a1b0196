"""The order of operators in which the fewest bytes pass the DRAM: as good as trying every order."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx
import numpy as np
import pytest

from presilicon.mapping.scratchpad import Problem, Tensor
from presilicon.mapping.scratchpad.order import best_order, reordered
from presilicon.mapping.scratchpad.retain import retain

CAPACITY = 14


def random_problem(seed: int, ops: int = 7) -> tuple[Problem, tuple[float, ...], frozenset[tuple[int, int]], tuple[int, ...]]:
    """Branches, some tensors that never fit, outputs, operators that run more than once, dependences without a tensor, and two blocks."""
    rng = np.random.default_rng(seed)
    tensors = []
    for op in range(ops - 1):
        readers = sorted({int(r) for r in rng.integers(op + 1, ops, size=int(rng.integers(1, 3)))})
        tensors.append(Tensor(f"t{op}", int(rng.integers(1, 16)), op, tuple(readers), bool(rng.random() < 0.2)))
    cut = int(rng.integers(1, ops)) if seed % 2 else ops
    blocks = tuple(int(op >= cut) for op in range(ops))
    runs = tuple(float(1 + 2 * block) for block in blocks)
    before = frozenset({(0, int(rng.integers(1, ops)))}) if rng.random() < 0.5 else frozenset()
    return Problem(f"random {seed}", tuple(f"op{i}" for i in range(ops)), tuple(tensors)), runs, before, blocks


def orders(problem: Problem, before: frozenset[tuple[int, int]], blocks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    graph = problem.order.copy()
    graph.add_edges_from(before)
    for order in nx.all_topological_sorts(graph):
        if [blocks[op] for op in order] == sorted(blocks):
            yield tuple(order)


@pytest.mark.parametrize("seed", range(12))
def test_every_order_tried_finds_nothing_better(seed: int) -> None:
    problem, runs, before, blocks = random_problem(seed)
    program = retain(problem, CAPACITY, runs)
    best = program.bound_bytes
    for number, order in enumerate(orders(problem, before, blocks)):
        best = min(best, retain(reordered(problem, order), CAPACITY, [runs[op] for op in order]).bound_bytes)
        if number == 60:
            break
    found = best_order(problem, CAPACITY, runs, before, blocks, program.bound_bytes)
    assert (program.bound_bytes if found is None else found.moved_bytes) <= best + 1e-6
    if found is not None:
        assert found.proven
        assert found.moved_bytes < program.bound_bytes
        assert found.steps in set(orders(problem, before, blocks))
        again = retain(reordered(problem, found.steps), CAPACITY, [runs[op] for op in found.steps])
        assert again.bound_bytes == pytest.approx(found.moved_bytes)


def test_some_orders_are_better_than_the_programs() -> None:
    found = []
    for seed in range(12):
        problem, runs, before, blocks = random_problem(seed)
        found.append(best_order(problem, CAPACITY, runs, before, blocks, retain(problem, CAPACITY, runs).bound_bytes))
    assert sum(f is not None for f in found) >= 3


def test_a_cut_search_is_not_proven_and_still_no_worse() -> None:
    """Branches of two operators, side by side in the program: more sets of operators than the search goes through."""
    width = 20
    wide = [Tensor(f"a{i}", 6, i, (width + i,)) for i in range(width)]
    narrow = [Tensor(f"b{i}", 1, width + i, (2 * width,)) for i in range(width)]
    problem = Problem("branches", tuple(f"op{i}" for i in range(2 * width + 1)), (*wide, *narrow))
    runs = (1.0,) * (2 * width + 1)
    program = retain(problem, 50, runs)
    found = best_order(problem, 50, runs, (), (0,) * (2 * width + 1), program.moved_bytes)
    assert found is not None
    assert not found.proven
    assert found.moved_bytes < program.moved_bytes
