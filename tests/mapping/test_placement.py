"""Placement by cost, packing into channels, attention in closed form on units in memory."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch import load
from presilicon.arch.hybrid_spec import HybridSystem, NpuSide
from presilicon.errors import MappingError, UnknownNameError
from presilicon.mapping.npu_side import gemv_cycles, npu_estimate
from presilicon.mapping.packing import arrive, halves, pack, packed
from presilicon.mapping.pim_attention import Heads, request_costs
from presilicon.mapping.placement import PIM, PIM_LINEAR, XPU, Room, crossing_bytes, crossover, place
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


def test_what_the_units_have_no_room_for_stays_on_the_processor() -> None:
    graph, costs = _chain("abc"), {"a": {XPU: 5.0, PIM: 1.0}, "b": {XPU: 9.0, PIM: 1.0}, "c": {XPU: 3.0, PIM: 1.0}}
    held = {"a": 4.0, "b": 4.0, "c": 4.0}
    for rule in ("auto", "pim"):
        found = place(graph, costs, _free, rule, Room(held, {PIM: 9.0}))
        assert found.device == {"a": PIM, "b": PIM, "c": XPU}
        assert "no room" in found.reason["c"]
        assert set(place(graph, costs, _free, rule, Room(held, {PIM: 12.0})).device.values()) == {PIM}
    # The processor is faster but too small: what does not fit goes to the units, as long as anything fits both.
    slow = {name: {XPU: 1.0, PIM: cost} for name, cost in (("a", 5.0), ("b", 9.0), ("c", 3.0))}
    assert place(graph, slow, _free, room=Room(held, {PIM: 9.0, XPU: 9.0})).device == {"a": XPU, "b": XPU, "c": PIM}
    # Nothing fits: as little as can be is too much, here 1 for c on the units instead of 3 for all on the processor.
    assert place(graph, slow, _free, room=Room(held, {PIM: 3.0, XPU: 9.0})).device == {"a": XPU, "b": XPU, "c": PIM}
    assert place(graph, costs, _free, "pim", Room({"a": 8.0}, {PIM: 6.0, XPU: 1.0})).device["a"] == PIM


def test_many_ops_keep_to_the_room_as_well() -> None:
    names = "abcdefghijklmnop"
    costs = {n: {XPU: 5.0 + i, PIM: 1.0} for i, n in enumerate(names)}
    found = place(_chain(names), costs, _free, room=Room(dict.fromkeys(names, 1.0), {PIM: 5.0}))
    assert not found.exhausted
    assert {n for n, device in found.device.items() if device == PIM} == set(names[-5:])


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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.floats(0, 100), st.integers(1, 9), st.sampled_from((0.0, 3.0)))
def test_equal_loads_go_where_the_longest_first_rule_sends_them(items: int, load: float, channels: int, there: float) -> None:
    loads, slow = np.full(items, load), np.full(channels, there)
    expected = []
    for each in loads:
        expected.append(int(slow.argmin()))  # the first of the least loaded
        slow[expected[-1]] += each
    assert arrive(loads, np.full(channels, there)).tolist() == expected


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
    # A rank is refreshed every 1950 cycles. Units stop for 260, and wait before: a tile is let begin until 328 (values of few columns: 276,
    # scores: 334) cycles are left when its header is seen, behind the one command for the last products of the tile before it; a vector
    # until 128 are left, its row to be opened.
    waited = 2 * 100 * (128 - 50) + 4 * 187 * (334 - (14 + 2 * 8) - 187 / 2)
    assert found.score_cycles[0] == pytest.approx(score / (1 - (260 + waited / score) / 1950))
    later = 8 * (100 * (128 - 50) + 4 * 139 * (276 - (139 - 91 - 14 - 1) - 139 / 2))
    assert found.cycles[0] - found.score_cycles[0] == pytest.approx(context / (1 - (260 + later / context) / 1950))
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


def test_newcomers_go_where_least_is_to_do() -> None:
    loads, there = np.array([1.0, 5.0, 2.0]), np.array([4.0, 0.0, 3.0])
    assert arrive(loads, there).tolist() == [0, 1, 2]  # 5 to the empty one, 2 onto 3, 1 onto 4
    assert arrive(loads, there, "round-robin", 2).tolist() == [2, 0, 1]
    with pytest.raises(UnknownNameError, match="greedy"):
        arrive(loads, there, "gready")
    found = packed([1.0, 2.0, 4.0], [2, 0, 2], 3)
    assert found.load.tolist() == [2.0, 0.0, 5.0]
    for wrong in ([0, 1], [0, 1, 3], [-1, 0, 0]):
        with pytest.raises(MappingError, match="channel"):
            packed([1.0, 2.0, 4.0], wrong, 3)


def test_commands_that_the_processor_sends() -> None:
    # NeuPIMs (public), npu+pim branch: 8 heads of 128 in 2 chunks of 4, 64 keys in 2 tiles of 32 banks; contexts of 8 heads in 4 tiles.
    lengths = np.array([64])
    apart = request_costs(_side("npu-pim"), Heads(8, 1, 128), lengths)
    assert apart.score_sent.tolist() == [2 + 4 + 16 + 128]  # GWRITE, headers, READRES, COMP
    assert apart.context_sent.tolist() == [8 + 32 + 32 + 8 * 4 * 4]
    whole = request_costs(_side("neupims"), Heads(8, 1, 128), lengths)
    assert whole.score_sent.tolist() == [2 + 4 + 16]  # one command for the products and the read of a result
    assert whole.context_sent.tolist() == [8 + 32 + 32]
    assert whole.commands["COMP"].tolist() == apart.commands["COMP"].tolist()


def test_weights_arrive_during_the_first_pass() -> None:
    from dataclasses import replace

    npu = _npu()
    one, four = (npu_estimate(_product(128 * passes, 3072, 4096), npu) for passes in (1, 4))
    arrive = 2.0 * 3072 * 4096 / (npu.bandwidth_bytes_per_s * npu.efficiency)
    run = 32 * (128 + 23 * 16) / npu.clock_hz
    assert arrive > run
    assert one.time_s == pytest.approx(one.busy_s["dram"])
    assert four.time_s == pytest.approx(arrive + 3 * run, rel=0.01)  # three more passes find the weights on chip
    small = npu_estimate(_product(512, 3072, 4096), replace(npu, scratchpad_bytes=npu.scratchpad_bytes / 16))
    assert max(four.busy_s.values()) < small.time_s < four.time_s  # pieces: the next arrive while the last are used


def test_arrays_in_turn_or_a_head_each() -> None:
    from dataclasses import replace

    turn = _npu()
    spread = replace(turn, gemv="spread")
    assert gemv_cycles(turn, 8, 376, 128) == 8 * 128  # a fold takes the arrays for as long as they take to fill
    assert gemv_cycles(turn, 8, 128, 376) == 8 * 3 * 128
    assert gemv_cycles(turn, 1, 4096, 128) == 512  # or as the matrix takes to stream past
    assert gemv_cycles(spread, 8, 376, 128) == 128 + 376


def _npu() -> NpuSide:
    found = load("neupims")
    assert isinstance(found, HybridSystem)
    assert isinstance(found.xpu, NpuSide)
    return found.xpu


def _product(m: int, n: int, k: int) -> Op:
    operands = (tensor("a", "input", "m k", "fp16"), tensor("w", "weight", "k n", "fp16"), tensor("out", "output", "m n", "fp16"))
    return Op("p", "matmul", "linear", {"m": m, "n": n, "k": k}, operands, {"mac": 1.0})


def test_what_an_op_needs_comes_in_one_transfer_no_larger_than_the_op_takes() -> None:
    wide = Op("qkv", "elementwise", "qkv", {"n": 3000}, (tensor("x", "input", "n", "fp16"), tensor("out", "output", "n", "fp16")))
    graph = OpGraph("join", [wide, _op("k"), _op("b")], [("qkv", "k", "out"), ("qkv", "b", "out"), ("k", "b", "out")])
    assert crossing_bytes(graph, "b", ["k"]) == 2000.0
    assert crossing_bytes(graph, "b", ["qkv", "k"]) == 2000.0  # b takes 1,000 numbers of 2 bytes, whatever others wrote
    moved: list[float] = []

    def transfer(source: str, target: str, size: float) -> float:
        moved.append(size)
        return size * 1e-3

    found = place(graph, {"qkv": {XPU: 1.0}, "k": {XPU: 1.0}, "b": {XPU: 9.0, PIM: 1.0}}, transfer)
    assert found.device["b"] == PIM
    assert found.critical_path_s == pytest.approx(1.0 + 1.0 + 2.0 + 1.0)
    assert max(moved) == 2000.0


def test_devices_that_take_turns_are_no_gain_side_by_side() -> None:
    graph = OpGraph("fork", [_op("a"), _op("b"), _op("c")], [("a", "b", "out"), ("a", "c", "out")])
    costs = {"a": {XPU: 1.0}, "b": {XPU: 2.0, PIM: 2.5}, "c": {XPU: 2.0, PIM: 2.5}}
    beside, in_turn = place(graph, costs, _free), place(graph, costs, _free, lane=lambda device: "memory")
    assert sorted(beside.device.values()) == [PIM, XPU, XPU]
    assert set(in_turn.device.values()) == {XPU}
    assert in_turn.critical_path_s == pytest.approx(5.0)


def test_three_devices_and_two_memories() -> None:
    graph = _chain("ab")
    costs = {"a": {XPU: 5.0, PIM: 1.0}, "b": {XPU: 5.0, PIM_LINEAR: 1.0}}
    assert place(graph, costs, _free).device == {"a": PIM, "b": PIM_LINEAR}
    # b's units work in the processor's memory, which has no room for a as well.
    room = Room({"a": 10.0, "b": 10.0}, {XPU: 10.0, PIM: 10.0}, {PIM_LINEAR: XPU})
    assert room.over({"a": XPU, "b": PIM_LINEAR}, PIM_LINEAR) == room.over({"a": XPU, "b": XPU}, XPU) == 10.0
    fitted = place(graph, {"a": {XPU: 1.0, PIM: 5.0}, "b": {XPU: 5.0, PIM_LINEAR: 1.0}}, _free, room=room)
    assert fitted.device == {"a": PIM, "b": PIM_LINEAR}
    assert place(graph, costs, _free, "pim").reason["b"].startswith("pim-linear: 1 s on pim-linear")
