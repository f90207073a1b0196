"""The inner half of the search: many groups of spatial factors in one sweep, and what it leaves out."""

from __future__ import annotations

import random

import numpy as np
import pytest

from presilicon.arch.hierarchy import Fanout, Hierarchy, Memory
from presilicon.errors import MappingError
from presilicon.mapping.nest import Constraints, Counts, Problem, map_op, matmul, problem
from presilicon.mapping.nest.incumbent import OBJECTIVES, Incumbent, Objective
from presilicon.mapping.nest.inner import Outer, independent
from presilicon.mapping.nest.lattice import lattice
from presilicon.mapping.nest.pareto import cheapest, nondominated
from presilicon.mapping.nest.search import _Search
from presilicon.mapping.nest.space import space
from presilicon.mapping.nest.sweep import Meter, States, Trail
from presilicon.mapping.nest.zigzag import zigzag_problem

from .enumeration import all_counts, latched_counts
from .random_nests import random_hierarchy, random_op, tense_problem

NOTHING = Constraints()
SEARCH = "presilicon.mapping.nest.search"


def value(counts: Counts, objective: Objective) -> float:
    return {"energy": counts.energy_j, "latency": counts.cycles, "edp": counts.edp_js}[objective]


def enumerated(number: int) -> list[tuple[int, Problem, list[Counts]]]:
    """Small problems with the costs of all their mappings, every other one under ZigZag's counting."""
    found: list[tuple[int, Problem, list[Counts]]] = []
    for seed in range(1000):
        rng = random.Random(seed)
        latched = len(found) % 2 == 1
        try:
            if latched:
                made = zigzag_problem(random_op(rng, (1, 2, 2, 3)), random_hierarchy(rng, memories=1, roomy=rng.random() < 0.3))
            else:
                made = tense_problem(rng, (1, 2, 3, 4))
            if made.points > 24 or made.latched != latched or len(space(made, NOTHING).groups) < 3:
                continue
            counts = latched_counts(made, 1500) if latched else all_counts(made, 1500)
        except MappingError:
            continue
        if counts:
            found.append((seed, made, counts))
        if len(found) == number:
            return found
    raise AssertionError("too few problems")


@pytest.fixture(scope="module")
def problems() -> list[tuple[int, Problem, list[Counts]]]:
    return enumerated(4)


@pytest.mark.parametrize("slower", [-(10**9), 10**9], ids=["energy first", "every port at once"])
@pytest.mark.parametrize("together", [1, 3, 64])
def test_groups_together_are_searched_as_each_by_itself(
    monkeypatch: pytest.MonkeyPatch, problems: list[tuple[int, Problem, list[Counts]]], together: int, slower: int
) -> None:
    """Whatever the batches, with and without a search for energy alone, and with no first pass to help."""
    monkeypatch.setattr(f"{SEARCH}.FIRST_BATCH", together)
    monkeypatch.setattr(f"{SEARCH}.MOST_AT_ONCE", together)
    monkeypatch.setattr(f"{SEARCH}.FIRST_GROUPS", 0)
    for seed, made, counts in problems:
        for objective in OBJECTIVES:
            searched = _Search(space(made, NOTHING), Incumbent(objective), Meter())
            searched.slower = slower
            found = searched.run()
            assert found.exhausted
            assert found.counts is not None
            best = min(value(each, objective) for each in counts)
            assert value(found.counts, objective) == pytest.approx(best, rel=1e-9), (seed, objective)


def test_least_of_shapes_further_out() -> None:
    shapes = lattice({"m": 12, "n": 6})
    values = np.random.default_rng(0).random((shapes.size, 2))
    for by in (0, shapes.index({"m": 4}), shapes.index({"m": 3, "n": 2}), shapes.size - 1):
        found = np.full((shapes.size, 2), 0.5)
        shapes.least_of(found, values, by)
        for shape in range(shapes.size):
            tile = {d: e * shapes.tile(by)[d] for d, e in shapes.tile(shape).items()}
            inside = all(shapes.dims[d] % e == 0 for d, e in tile.items())
            expected = np.minimum(0.5, values[shapes.index(tile)]) if inside else np.full(2, 0.5)
            assert found[shape] == pytest.approx(expected)


def test_what_stands_outside_a_shape() -> None:
    """The cheapest of the partial mappings above, at the shape times a factor in space or at a multiple of that."""
    shapes = lattice({"m": 8})
    at = np.array([3, 2, 2])  # shapes 8, 4 and 4
    states = States(at, np.zeros(3), np.array([[1.0], [5.0], [4.0]]), np.arange(3))
    outer = Outer(shapes, states, Trail())
    assert outer.least[:, 0].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert outer.outside(np.array([1]))[:, 0].tolist() == [1.0, 1.0, 1.0, np.inf]
    assert Outer(shapes, states.take(np.array([1, 2])), Trail()).outside(np.array([0, 1]))[:, 0].tolist() == [4.0, 4.0, 4.0, np.inf]


def hierarchy(write_j: float) -> Hierarchy:
    levels = (
        Memory("dram", None, 8.0, write_j, 64.0), Memory("buffer", 4096.0, 1.0, 1.0, 512.0), Fanout("pe", {"x": 4}),
        Memory("regs", 64.0, 0.1, 0.1, None, 8.0, 8.0),
    )  # fmt: skip
    return Hierarchy("three", levels, 0.3, 1e9)


def test_columns_in_proportion_are_compared_once() -> None:
    """Energy, DRAM's cycles and the buffer's are as the bytes fetched where reads and writes cost the same, and not where they differ."""
    for write_j, expected in ((8.0, [0]), (9.0, [0, 1])):
        searched = space(problem(matmul(8, 8, 8), hierarchy(write_j)), NOTHING)
        costs = [group.cost for group in searched.groups]
        assert independent(costs, searched.levels[:1], 5) == expected
        assert len(independent(costs, searched.levels, 5)) > len(expected)


def test_of_equals_the_one_that_holds_less() -> None:
    group, cost, tie = np.array([7, 7, 7, 2, 2]), np.array([1.0, 1.0, 2.0, 5.0, 5.0]), np.array([3.0, 2.0, 1.0, 4.0, 4.0])
    assert cheapest(group, cost, tie)[1] == 1
    assert cheapest(group, cost).shape == (2,)
    # Nothing is gained by tiles of several batches in the buffer at once: loops over them stand outermost.
    result = map_op(matmul(512, 64, 512, b=12), "mapbench-16", "energy")
    assert {node.factor for node in result.mapping.nodes if getattr(node, "dim", "") == "b"} == {12}


def test_dominance_against_every_pair() -> None:
    """Whole and broken numbers, few and many groups (their numbers are sorted by 16 bits at a time), ties."""
    rng = np.random.default_rng(0)
    for _ in range(600):
        rows, columns = int(rng.integers(1, 40)), int(rng.integers(1, 4))
        group = rng.integers(0, int(rng.choice([2, 10, 200_000])), rows)
        criteria = rng.integers(0, int(rng.choice([2, 5, 1000])), (rows, columns)) * float(rng.choice([1.0, 0.1, 3e-9]))
        kept = nondominated(group, criteria)
        found = {(int(group[i]), *criteria[i]) for i in kept}
        everything = {(int(g), *row) for g, row in zip(group, criteria, strict=True)}
        expected = {
            a for a in everything
            if not any(b != a and b[0] == a[0] and all(y <= x for x, y in zip(a[1:], b[1:], strict=True)) for b in everything)
        }  # fmt: skip
        assert found == expected
        assert len(kept) == len(found)
        assert (np.diff(group[kept]) >= 0).all()
