"""Hybrid systems under models that are not one stack of equal layers: windows, encoders, experts, wide numbers, odd heads."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from presilicon.arch import load
from presilicon.arch.hybrid_spec import HybridSystem, internal_bytes_per_s
from presilicon.mapping.placement import RULES, XPU, keys_of
from presilicon.mapping.tiled_side import tiled_estimate
from presilicon.sim.hybrid.costs import pim_costs, room_of, stored_bytes
from presilicon.sim.hybrid.run import simulate_hybrid
from presilicon.sim.hybrid.sharing import cache_room_bytes, shared
from presilicon.sim.result import OpResult, Simulation
from presilicon.validate.cases.hybrids import decoder_layers
from presilicon.workloads.formats import by_name
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op
from presilicon.workloads.ragged import with_keys

SYSTEMS = ("neupims", "h100-aim", "papi", "duplex")


def _system(name: str) -> HybridSystem:
    system = load(name)
    assert isinstance(system, HybridSystem)
    return system


def _graph(ops: list[Op], graph: OpGraph, **meta: object) -> OpGraph:
    edges = [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)]
    return OpGraph(graph.name, ops, edges, memory=graph.memory, tokens=graph.tokens, meta={**graph.meta, **meta})


def _two_attentions(context: int, keys: int, window: int = 0, batch: int = 8) -> OpGraph:
    """One layer that attends to all that is cached, and one that attends to `keys`: behind a window, or of an encoder."""
    far = decoder_layers(4096, 32, 4, (context + 1,) * batch)
    near = [replace(op, name=f"near {op.name}") for op in decoder_layers(4096, 32, 4, (keys,) * batch)]
    near = [replace(op, attributes={**op.attributes, "window": window}) if op.kind == "attention" else op for op in near]
    names = [op.name for op in (*near, *far)]
    return OpGraph("two attentions", [*near, *far], [(a, b, "out") for a, b in pairwise(names)],
                   meta={**far.meta, "context": context})


def _result(found: Simulation, name: str) -> OpResult:
    return next(r for r in found.results if r.op.name == name)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("rule", ["xpu", "pim-attention"])
@pytest.mark.parametrize(("keys", "window"), [(512, 512), (1500, 0)])
def test_each_attention_has_its_own_keys(name: str, rule: str, keys: int, window: int) -> None:
    system = _system(name)
    both = simulate_hybrid(_two_attentions(4000, keys, window), system, "analytic", rule)
    far, near = (simulate_hybrid(decoder_layers(4096, 32, 4, (n,) * 8), system, "analytic", rule) for n in (4001, keys))
    assert _result(both, "attention").estimate.time_s == pytest.approx(_result(far, "attention").estimate.time_s)
    assert _result(both, "near attention").estimate.time_s == pytest.approx(_result(near, "attention").estimate.time_s)
    for r in both.results:
        if r.op.kind == "attention" and r.place != XPU:
            assert r.estimate.bytes_moved["pim"] >= 0.99 * system.devices * r.op.operand_bytes("cache")


def test_requests_of_their_own_lengths_see_their_windows() -> None:
    contexts = np.array([100, 700, 3000, 5000, 20, 900, 1000, 2000])
    found = simulate_hybrid(_two_attentions(4000, 512, 512), _system("neupims"), "analytic", "pim-attention", requests=contexts)
    heads, dim, devices = 8, 128, 4
    for name, seen in (("attention", contexts + 1), ("near attention", np.minimum(contexts + 1, 512))):
        assert _result(found, name).estimate.flops == pytest.approx(devices * 4.0 * heads * dim * seen.sum())
    # An encoder's output has the same length for all, whatever the requests have cached.
    cross = simulate_hybrid(_two_attentions(4000, 1500), _system("neupims"), "analytic", "pim-attention", requests=contexts)
    assert _result(cross, "near attention").estimate.flops == pytest.approx(devices * 4.0 * heads * dim * 1500 * len(contexts))


def test_sub_batches_and_crossovers_keep_the_keys_of_requests() -> None:
    contexts = np.random.default_rng(1).integers(50, 900, 300)
    system = _system("neupims")
    graph = decoder_layers(4096, 32, 4, (500,) * 300, 2)
    found = simulate_hybrid(graph, system, "analytic", "pim-attention", requests=contexts)
    assert any("two sub-batches of 150 and 150" in line for line in found.notes)
    assert _result(found, "attention").estimate.flops == pytest.approx(4 * 4.0 * 8 * 128 * (contexts + 1).sum())
    # On a GPU one request of the mean length is far cheaper than all of them together.
    ops = [with_keys(op, contexts + 1) if op.kind == "attention" else op for op in graph]
    hybrid = _system("h100-aim")
    told, plain = ([line for line in simulate_hybrid(g, hybrid, "analytic").notes if line.startswith("attention: the units")]
                   for g in (_graph(ops, graph), decoder_layers(4096, 32, 4, (round(float((contexts + 1).mean())),) * 300, 2)))
    assert told == plain != []


def _experts(tokens: int, experts: int, active: int) -> OpGraph:
    """A decoder layer whose first feed-forward product is one of experts."""
    graph = decoder_layers(1024, 8, 1, (200,) * tokens)
    ops = []
    for op in graph:
        if op.name == "fc_1":
            weight = op.dims["n"] * op.dims["k"]
            operands = tuple(replace(o, elements=active * weight) if o.role == "weight" else o for o in op.operands)
            ops.append(replace(op, operands=operands, attributes={"groups": experts}))
        else:
            ops.append(op)
    return _graph(ops, graph)


@pytest.mark.parametrize(("tokens", "experts"), [(4, 4), (6, 4), (3, 16), (32, 4)])
def test_experts_share_no_passes(tokens: int, experts: int) -> None:
    system = _system("papi").override({"devices": 1})
    graph = _experts(tokens, experts, min(tokens, experts))
    cost = pim_costs(graph, system)[0]["fc_1"].estimate
    weight = 2.0 * 4096 * 1024
    each = [tokens // experts + (i < tokens % experts) for i in range(experts)]
    passes = sum(-(-own // 4) for own in each)  # four vectors at once, of one expert
    assert cost.bytes_moved["pim"] == pytest.approx(passes * weight)
    assert system.pim_linear is not None
    assert cost.time_s >= min(tokens, experts) * weight / internal_bytes_per_s(system.pim_linear)
    # The processor reads the weights of experts that have tokens, and no others.
    xpu = tiled_estimate(graph["fc_1"], system.xpu)  # type: ignore[arg-type]
    assert xpu.flops == pytest.approx(graph["fc_1"].flops)
    assert min(tokens, experts) * weight <= xpu.bytes_moved["dram"] < 1.1 * min(tokens, experts) * weight + 1e6


def test_idle_experts_take_memory_too() -> None:
    graph = _experts(3, 16, 3)
    assert stored_bytes(graph["fc_1"]) == 16 * 2 * 4096 * 1024
    assert stored_bytes(graph["fc_2"]) == graph["fc_2"].operand_bytes("weight")
    assert room_of(graph, _system("h100-aim")).held["fc_1"] == 16 * 2 * 4096 * 1024


def test_units_multiply_no_wide_numbers() -> None:
    graph = decoder_layers(4096, 32, 4, (300,) * 4)
    wide = [replace(op, operands=tuple(replace(o, number_format=by_name("fp32")) for o in op.operands)) for op in graph]
    for name in ("neupims", "h100-aim", "duplex"):
        found = simulate_hybrid(_graph(wide, graph), _system(name), "analytic", "pim")
        assert {r.place for r in found.results} == {XPU}
        assert any("stays on the processor" in line and "up to 16 bits; found fp32" in line for line in found.notes)


def test_prompts_and_written_out_attention_stay_on_the_processor_and_are_named() -> None:
    graph = decoder_layers(4096, 32, 4, (300,) * 4, 1, 9)
    found = simulate_hybrid(graph, _system("h100-aim"), "analytic", "pim-attention")
    assert _result(found, "attention").place == XPU
    assert any("attention: stays on the processor: units attend with at most 8 queries" in line for line in found.notes)


def _whole(heads: int, batch: int = 4) -> OpGraph:
    graph = pytest.importorskip("presilicon.workloads.models").trace_model(
        "gpt2", phase="decode", batch=batch, context=100, dtype="float16")
    assert any(op.kind == "attention" and op.dims["h"] == heads for op in graph)
    return graph


@pytest.mark.slow
def test_devices_that_heads_do_not_divide_by_stay_idle() -> None:
    pytest.importorskip("torch")
    graph = _whole(12)
    system = _system("neupims").override({"devices": 8})
    local, used, told = shared(graph, system)
    assert (used.devices, used.memory_bytes) == (6, system.memory_bytes * 6 / 8)
    assert "12 attention heads do not divide by 8 devices" in told[0]
    assert "2 of 8 stay IDLE" in told[0]
    found, six = (simulate_hybrid(graph, s, "analytic") for s in (system, system.override({"devices": 6})))
    assert found.time_s == six.time_s
    assert found.total.total_energy_j == six.total.total_energy_j
    assert found.notes == (*told, *six.notes)
    assert shared(local, used)[0] is local


def test_caches_have_the_room_of_the_memory_that_they_lie_in() -> None:
    system, graph = _system("h100-aim"), decoder_layers(4096, 32, 1, (300,) * 4, 8)
    own, units, weights = 85.5e9, 8 * 16 * 2**30, 8 * 12 * 4096 * 4096 * 2.0
    assert cache_room_bytes(graph, system, "pim-attention", 0.9) == pytest.approx(0.9 * units)
    assert cache_room_bytes(graph, system, "xpu", 0.9) == pytest.approx(0.9 * own - weights, rel=0.01)
    assert cache_room_bytes(graph, system, "auto", 0.9) == pytest.approx(0.9 * units)
    one = _system("neupims")
    assert cache_room_bytes(graph, one, "auto", 0.9) == pytest.approx(0.9 * one.memory_bytes - weights)


@pytest.mark.parametrize("name", ["dgx-attacc", "neupims"])
def test_auto_is_not_slower_than_any_rule_where_work_overlaps(name: str) -> None:
    for tokens, experts in ((16, 4), (300, 8)):
        graph, system = _experts(tokens, experts, min(tokens, experts)), _system(name)
        best = simulate_hybrid(graph, system, "analytic").time_s
        assert all(best <= simulate_hybrid(graph, system, "analytic", rule).time_s * 1.0001 for rule in RULES)


def test_keys_of_requests_are_those_of_the_op() -> None:
    op = decoder_layers(4096, 32, 4, (300,) * 4)["attention"]
    assert keys_of(op) == (300,) * 4
    assert keys_of(with_keys(op, [1, 2, 3, 4])) == (1, 2, 3, 4)
