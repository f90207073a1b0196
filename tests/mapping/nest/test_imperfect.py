"""Factors that do not divide their dimension: counts by hand, and the search against full enumeration."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from presilicon.arch.hierarchy import Fanout, Hierarchy, Memory, load_hierarchy
from presilicon.errors import MappingError
from presilicon.mapping.nest import Constraints, Counts, Keep, Loop, Mapping, Problem, Spatial, conv, evaluate, map_op, matmul, problem
from presilicon.mapping.nest.incumbent import OBJECTIVES
from presilicon.mapping.nest.nest import ragged_dims
from presilicon.mapping.nest.ragged import RaggedNest
from presilicon.mapping.nest.ragged_space import RaggedCosts, ragged_factors, ragged_space
from presilicon.mapping.nest.search import search
from presilicon.mapping.nest.space import space

from .enumeration import all_counts
from .random_nests import random_mapping, random_problem, tense_problem

ARRAY = Hierarchy("array", (Memory("dram", None, 2.0, 3.0), Fanout("pe", {"x": 4}), Memory("regs", 64.0, 1.0, 1.0)), 1.0, 1e9)
KEEPS = tuple(Keep(t, "regs") for t in "IWO")


def test_seven_outputs_on_four_instances_by_hand() -> None:
    # m = 7 on 4 instances: two steps, of 4 and of 3. One weight, kept in every instance while both steps run.
    nest = Mapping((Spatial("m", 4, "pe", "x"), Keep("W", "regs"), Loop("m", 2), Keep("I", "regs"), Keep("O", "regs")))
    counts = evaluate(nest, problem(matmul(7, 1, 1), ARRAY))
    assert counts.cycles == 2
    assert counts.utilisation == pytest.approx(7 / 8)
    assert (counts.access("W", "dram").reads, counts.access("W", "regs").writes) == (1, 4)
    assert (counts.access("I", "dram").reads, counts.access("I", "regs").writes) == (7, 7)
    assert (counts.access("O", "regs").reads, counts.access("O", "dram").writes) == (7, 7)
    # With the weight below the loop it is fetched anew in the second step, by three instances.
    nest = Mapping((Spatial("m", 4, "pe", "x"), Keep("I", "regs"), Loop("m", 2), Keep("W", "regs"), Keep("O", "regs")))
    assert evaluate(nest, problem(matmul(7, 1, 1), ARRAY)).access("W", "regs").writes == 4  # W does not move: nothing ends its stay


def test_steps_may_be_ragged_in_time_too() -> None:
    nest = Mapping((Loop("m", 3), *KEEPS, Loop("m", 4)))
    counts = evaluate(nest, problem(matmul(10, 1, 1), ARRAY))
    assert counts.cycles == 10
    assert counts.access("I", "regs").writes == 10
    assert counts.occupancy_bytes["regs"] == 4 + 1 + 4


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((Loop("m", 4), *KEEPS, Loop("m", 4)), "the loops over m run 16 steps; 10 are enough"),
        ((Loop("m", 3), *KEEPS, Loop("m", 3)), "the factors of m multiply to 9; its extent is 10"),
    ],
)
def test_nests_that_do_not_cover_or_run_empty(nodes: tuple[Keep | Loop, ...], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        evaluate(Mapping(nodes), problem(matmul(10, 1, 1), ARRAY))


def test_tiles_with_gaps_are_refused() -> None:
    op = conv(m=1, c=1, p=7, q=1, r=3)
    nest = Mapping((Spatial("p", 4, "pe", "x"), *KEEPS, Loop("p", 2), Loop("r", 3)))
    with pytest.raises(MappingError, match="windows or strides run, such as that of I, stands below every loop over p"):
        evaluate(nest, problem(op, ARRAY))


def test_the_formulas_give_the_same_where_factors_divide() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        prob = random_problem(rng, sizes=(1, 2, 3, 4, 6), memories=rng.choice((1, 2, 3)), roomy=True)
        mapping = random_mapping(rng, prob)
        assert not ragged_dims(mapping, prob)
        counts, nest = evaluate(mapping, prob), RaggedNest(mapping, prob)
        names = [memory.name for memory in prob.memories]
        for tensor in prob.tensors.values():
            written = dict.fromkeys(names, 0)
            for moves in nest.moves(tensor):
                if moves.child < len(names):
                    written[names[moves.child]] += moves.low - moves.first_low
                written[names[moves.parent]] += moves.up if tensor.kind == "output" else 0
            assert all(counts.access(tensor.name, name).writes == n for name, n in written.items() if n), seed


def _problems(seed: int, number: int, most: int) -> Iterator[tuple[int, Problem, list[Counts]]]:
    """So many random problems on which some factors in space do not divide, with the costs of all mappings."""
    found = 0
    while found < number:
        seed += 1
        rng = random.Random(seed)
        if rng.random() < 0.4:
            prob = random_problem(rng, sizes=(1, 1, 2, 3, 3, 5), memories=rng.choice((1, 1, 2)), roomy=rng.random() < 0.2)
        else:
            prob = tense_problem(rng, sizes=(1, 1, 2, 3, 4, 5, 7))
        if prob.points < 5 or prob.points > 120 or not prob.fanouts:
            continue
        counts = all_counts(prob, most, imperfect=True)
        if counts:
            found += 1
            yield seed, prob, counts


def test_a_hundred_fill_an_array_of_sixteen() -> None:
    perfect = map_op(matmul(100, 100, 100), "mapbench-16", "edp")
    result = map_op(matmul(100, 100, 100), "mapbench-16", "edp", imperfect=True)
    assert perfect.exhausted
    assert result.exhausted
    assert (perfect.counts.cycles, result.counts.cycles) == (6250, 4250)
    assert result.value < 0.7 * perfect.value
    assert "factors in space that do not divide among them" in str(result)


def test_the_bounds_of_a_choice_of_factors_hold() -> None:
    """Energy: one fetch of everything, then the cheapest tile that fits, then what every shape of the choice costs exactly."""
    op, tighter = conv(m=10, c=6, p=7, q=5, r=3, s=3), 0
    prob = problem(op, load_hierarchy("mapbench-16"))
    whole = space(prob, Constraints())
    memo: dict[object, Any] = {}
    room = {level.number: level.capacity for level in whole.levels}
    rng = random.Random(0)
    chosen = [choices.factors(i) for choices in ragged_factors(prob, Constraints()) for i in range(len(choices.steps))]
    for factors in rng.sample(chosen, 60):
        costs = RaggedCosts(prob, factors, memo)
        once, fitting = costs.floor_j(), costs.floor_j(room)
        assert RaggedCosts(prob, factors).floor_j(room) == fitting  # what choices share changes nothing
        least = ragged_space(costs, Constraints(), whole).group.least[0]
        assert once <= fitting * (1 + 1e-12)
        assert fitting <= least * (1 + 1e-12)
        tighter += fitting > once * (1 + 1e-9)
    assert tighter > 10


@pytest.mark.slow
def test_the_least_energy_is_proven_too() -> None:
    for op, microjoules, cycles in ((matmul(100, 100, 100), 5.010, 5000), (matmul(37, 101, 211), 4.656, 5757)):
        result = map_op(op, "mapbench-16", "energy", imperfect=True)
        assert result.exhausted
        assert (round(result.counts.energy_j * 1e6, 3), result.counts.cycles) == (microjoules, cycles)


def test_a_search_cut_short_leaves_a_bound_that_holds() -> None:
    optimum = map_op(matmul(100, 13, 7), "mapbench-16", "edp", imperfect=True)
    assert optimum.exhausted
    cut = map_op(matmul(100, 13, 7), "mapbench-16", "edp", imperfect=True, time_limit_s=0.5)
    assert cut.bound <= optimum.value * (1 + 1e-9)


def test_constraints_that_name_factors_are_refused() -> None:
    with pytest.raises(MappingError, match="of the constraints only dataflow, order and spatial_dims"):
        map_op(matmul(7, 7, 7), "mapbench-16", constraints=Constraints(even=True), imperfect=True)
    fixed = map_op(matmul(7, 5, 3), "mapbench-16", "energy", Constraints(dataflow="ws"), imperfect=True)
    kept = [n.tensor for n in fixed.mapping.nodes if isinstance(n, Keep) and n.level == "register_file"]
    assert kept[0] == "W"


def _check(seed: int, prob: Problem, counts: list[Counts]) -> bool:
    better = False
    for objective in OBJECTIVES:
        found = search(prob, objective, imperfect=True)
        assert found.exhausted
        assert found.counts is not None
        assert found.mapping is not None
        value, best = {
            "energy": (found.counts.energy_j, min(c.energy_j for c in counts)),
            "latency": (found.counts.cycles, min(c.cycles for c in counts)),
            "edp": (found.counts.edp_js, min(c.edp_js for c in counts)),
        }[objective]
        assert value == pytest.approx(best, rel=1e-9), f"seed {seed}, {objective}\n{prob.op}\n{prob.hierarchy}\n{found.mapping}"
        better |= bool(ragged_dims(found.mapping, prob))
    return better


@pytest.mark.slow
def test_optimum_equals_full_enumeration() -> None:
    assert sum(_check(*each) for each in _problems(0, 8, 300)) > 1  # in some the best mapping is imperfect


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch", range(6))
def test_optimum_equals_full_enumeration_of_more(batch: int) -> None:
    assert sum(_check(*each) for each in _problems(batch * 10_000, 12, 600)) > 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch", range(6))
def test_optimum_equals_full_enumeration_of_hundreds(batch: int) -> None:
    for each in _problems(10**6 + batch * 10_000, 25, 4000):
        _check(*each)
