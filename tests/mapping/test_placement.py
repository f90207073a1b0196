"""Placement by cost, packing into channels, attention in closed form on units in memory."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch import load
from presilicon.arch.hybrid_spec import HybridSystem
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.packing import halves, pack
from presilicon.mapping.pim_attention import Heads, request_costs
from presilicon.mapping.placement import PIM, XPU, crossover, place
from presilicon.sim.dram import aim
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op, tensor


def _op(name: str) -> Op:
    return Op(name, "elementwise", name, {"n": 1000}, (tensor("x", "input", "n", "fp16"), tensor("out", "output", "n", "fp16")))


def _chain(names: str) -> OpGraph:
    return OpGraph("chain", [_op(n) for n in names], [(a, b, "out") for a, b in itertools.pairwise(names)])


def _free(source: str, target: str, size: float) -> float:
    return 0.0


def test_auto_takes_the_cheaper_device_and_says_why() -> None:
    found = place(_chain("abc"), {"a": {XPU: 1.0}, "b": {XPU: 5.0, PIM: 2.0}, "c": {XPU: 1.0, PIM: 3.0}}, _free)
    assert found.device == {"a": XPU, "b": PIM, "c": XPU}
    assert found.critical_path_s == pytest.approx(4.0)
    assert found.reason["a"] == "only the processor can"
    assert "2 s on pim, 5 s on xpu" in found.reason["b"]
    assert "3 s longer otherwise" in found.reason["b"]


def test_a_dear_link_keeps_ops_together() -> None:
    costs = {"a": {XPU: 1.0}, "b": {XPU: 5.0, PIM: 2.0}, "c": {XPU: 1.0}}
    dear = place(_chain("abc"), costs, lambda source, target, size: 0.0 if source == target else 2.0)
    assert dear.device["b"] == XPU
    assert place(_chain("abc"), costs, lambda source, target, size: 0.0 if source == target else 1.0).device["b"] == PIM


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9), st.booleans()), min_size=1, max_size=6), st.floats(0, 3))
def test_auto_is_the_best_of_all_choices_on_a_chain(ops: list[tuple[float, float, bool]], hop: float) -> None:
    names = "abcdef"[: len(ops)]
    costs = {n: {XPU: x} | ({PIM: p} if can else {}) for n, (x, p, can) in zip(names, ops, strict=True)}
    found = place(_chain(names), costs, lambda source, target, size: hop * (source != target))
    lengths = []
    for pick in itertools.product((XPU, PIM), repeat=len(ops)):
        if all(device in costs[n] for n, device in zip(names, pick, strict=True)):
            hops = sum(hop for a, b in itertools.pairwise(pick) if a != b)
            lengths.append(hops + sum(costs[n][device] for n, device in zip(names, pick, strict=True)))
    assert found.critical_path_s == pytest.approx(min(lengths))


def test_rules() -> None:
    costs = {"a": {XPU: 1.0, PIM: 9.0}, "b": {XPU: 9.0, PIM: 1.0}}
    assert set(place(_chain("ab"), costs, _free, "xpu").device.values()) == {XPU}
    assert set(place(_chain("ab"), costs, _free, "pim").device.values()) == {PIM}
    with pytest.raises(UnknownNameError, match="pim-attention"):
        place(_chain("ab"), costs, _free, "pim-atention")


@pytest.mark.parametrize(("pim", "xpu", "expected"), [
    (lambda b: 3.0 * b, lambda b: 100.0, (True, 34)), (lambda b: 50.0, lambda b: 2.0 * b, (False, 26)),
    (lambda b: b, lambda b: 2 * b, (True, None)), (lambda b: 2 * b, lambda b: b, (False, None))])  # fmt: skip
def test_crossover(pim, xpu, expected) -> None:  # type: ignore[no-untyped-def]
    assert crossover(pim, xpu, 4096) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 100), max_size=60), st.integers(1, 9))
def test_packing_keeps_all_load_and_greedy_keeps_grahams_bound(loads: list[float], channels: int) -> None:
    for how in ("round-robin", "greedy"):
        found = pack(loads, channels, how)
        assert found.load.sum() == pytest.approx(sum(loads))
        assert len(found.load) == channels
    greedy = pack(loads, channels, "greedy").busiest
    mean, largest = sum(loads) / channels, max(loads, default=0.0)
    assert max(mean, largest) - 1e-9 <= greedy <= mean + (1 - 1 / channels) * largest + 1e-9  # Graham, 1966: any list schedule


def test_halves_share_every_channel() -> None:
    packing = pack(np.arange(37.0), 5, "greedy")
    one, two = halves(packing)
    assert sorted([*one, *two]) == list(range(37))
    for channel in range(5):
        counts = [int((packing.channel[part] == channel).sum()) for part in (one, two)]
        assert abs(counts[0] - counts[1]) <= 1


def test_bad_packing() -> None:
    with pytest.raises(UnknownNameError, match="greedy"):
        pack([1.0], 2, "gredy")
    with pytest.raises(MappingError, match="loads of 0 or more"):
        pack([-1.0], 2)


def _side(name: str):  # type: ignore[no-untyped-def]
    system = load(name)
    assert isinstance(system, HybridSystem)
    assert system.pim is not None
    return system.pim


def test_newton_attention_by_hand() -> None:
    # 8 heads of 128: 2 chunks of 4 heads; 64 keys are 2 tiles of 32 banks; a tile has 32 columns and 4 results: 184 + 3 cycles.
    found = request_costs(_side("neupims"), Heads(8, 1, 128), np.array([64]))
    score = 2 * 100 + 2 * 2 * 187
    # values: 8 heads, 4 tiles of 32 dimensions, 64 keys are 4 columns, less than tRAS: 139.
    context = 8 * (100 + 4 * 139)
    refresh = 1 - 260 / 3900
    assert found.score_cycles[0] == pytest.approx(score / refresh)
    assert found.cycles[0] == pytest.approx((score + context) / refresh)
    assert found.commands["COMP"][0] == 8 * (2 * 8 + 4 * 4)


def test_aim_scores_are_those_of_the_commands() -> None:
    device = _side("h100-aim").device
    from presilicon.mapping.pim import aim_scores

    for keys in (16, 128, 800):
        program = [aim.Instruction("WR_BIAS"), aim.Instruction("WR_GB", opsize=8)]
        for group in range(keys // 16):
            program += [aim.Instruction("RD_MAC"), aim.Instruction("WR_BIAS")] if group else []
            program.append(aim.Instruction("MAC_ABK", opsize=8, row=group // 8))
        program.append(aim.Instruction("RD_MAC"))
        cycles = aim.run(device, program, refresh="off").cycles
        assert cycles - 3 == aim_scores(device, keys, 8)  # the host's cycles around it


@pytest.mark.parametrize("name", ["neupims", "npu-pim", "h100-aim", "dgx-attacc"])
def test_attention_grows_with_keys_heads_and_groups_and_shrinks_with_bits(name: str) -> None:
    side = _side(name)
    lengths = np.array([1, 100, 101, 2000])
    base = request_costs(side, Heads(8, 1, 128), lengths)
    assert (np.diff(base.cycles) >= 0).all()
    assert (base.items * request_costs(side, Heads(16, 1, 128), lengths).cycles >= base.cycles).all()
    grouped = request_costs(side, Heads(8, 4, 128), lengths)
    assert grouped.cycles == pytest.approx(4 * base.cycles)
    assert request_costs(side, Heads(8, 1, 128, 8.0), lengths).cycles[-1] < base.cycles[-1]
    assert base.macs[1] == 2 * 8 * 128 * 100


def test_attention_of_no_key_is_refused() -> None:
    with pytest.raises(MappingError, match="at least one key"):
        request_costs(_side("neupims"), Heads(8, 1, 128), np.array([0]))
    with pytest.raises(MappingError, match="does not fit a row"):
        request_costs(_side("neupims"), Heads(8, 1, 1024), np.array([5]))


def test_the_graph_is_left_alone() -> None:
    graph = _chain("ab")
    place(graph, {"a": {XPU: 1.0}, "b": {XPU: 1.0}}, _free)
    assert nx.is_directed_acyclic_graph(graph.nx)
    assert len(graph.nx) == 2
