"""Steps of models on hybrid systems: shared checks of every shipped system, placement, sub-batches, requests of their own lengths."""

from __future__ import annotations

import numpy as np
import pytest

from presilicon.arch import load, names
from presilicon.arch.hybrid_spec import HybridSystem
from presilicon.errors import MappingError, UnknownNameError, WorkloadError
from presilicon.mapping.placement import is_decode_attention
from presilicon.sim.hybrid.run import simulate_hybrid
from presilicon.sim.run import simulate
from presilicon.validate.cases.hybrids import decoder_layers
from presilicon.workloads.formats import by_name
from presilicon.workloads.graph import OpGraph

SHIPPED = [name for name in names() if load(name).kind == "hybrid"]


def _system(name: str) -> HybridSystem:
    system = load(name)
    assert isinstance(system, HybridSystem)
    return system


def _graph(batch: int = 64, keys: int = 300, layers: int = 3) -> OpGraph:
    return decoder_layers(4096, 32, 4, (keys,) * batch, layers)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_system(name: str) -> None:
    system, graph = _system(name), _graph()
    found = simulate(graph, system)
    again = simulate(graph, system)
    assert (found.time_s, found.spans, found.notes) == (again.time_s, again.spans, again.notes)
    busy = {r.place for r in found.results}
    assert busy <= {"xpu", "pim"}
    assert all(r.reason for r in found.results)
    floor = graph.flops / max(system.peaks_flops_per_s.values()) * system.devices  # the graph is one device's share
    assert found.time_s >= floor
    longest = max(r.estimate.time_s * r.op.count for r in found.results)
    assert longest <= found.time_s * 1.0001
    assert found.time_s <= sum(r.estimate.time_s * r.op.count for r in found.results) * 1.5 + 1e-3
    assert found.low_s <= found.time_s <= found.high_s
    assert found.total.total_energy_j > 0
    slower = simulate(_graph(keys=600), system)
    assert slower.time_s >= found.time_s  # attention of one head may hide behind the projections of others
    costs = [next(r.estimate.time_s for r in s.results if r.op.name == "attention") for s in (found, slower)]
    assert costs[1] > costs[0]


@pytest.mark.parametrize("name", [n for n in SHIPPED if load(n).pim is not None])  # type: ignore[attr-defined]
def test_auto_is_not_worse_than_the_rules(name: str) -> None:
    system = _system(name).override({"plan.sub_batches": 1})
    best = simulate_hybrid(_graph(), system, "analytic", "auto").time_s
    for rule in ("xpu", "pim-attention", "pim-linear", "pim"):
        assert best <= simulate_hybrid(_graph(), system, "analytic", rule).time_s * 1.01
    with pytest.raises(UnknownNameError, match="placement"):
        simulate_hybrid(_graph(), system, "analytic", "pimm")


def test_blocked_and_concurrent_memory() -> None:
    graph, neupims = _graph(512), _system("neupims")
    blocked = neupims.override({"pim.access": "blocked"})
    fast, slow = simulate(graph, neupims), simulate(graph, blocked)
    assert slow.time_s > 1.2 * fast.time_s
    lanes = {lane: [(s.start_s, s.start_s + s.duration_s) for s in slow.spans if s.lane == lane] for lane in ("xpu", "pim")}
    for start, end in lanes["pim"]:
        assert all(stop <= start + 1e-12 or begin >= end - 1e-12 for begin, stop in lanes["xpu"])
    assert any("memory" in line for line in slow.notes if line.startswith("waited"))


def test_sub_batches_interleave_only_from_their_least_batch() -> None:
    system = _system("neupims")
    assert any("two sub-batches of 128 and 128" in line for line in simulate(_graph(256), system).notes)
    assert not any("sub-batches" in line for line in simulate(_graph(255), system).notes)


def test_requests_keep_their_lengths_and_packing_matters() -> None:
    lengths = np.random.default_rng(3).integers(20, 2000, 64)
    graph = decoder_layers(4096, 32, 4, tuple(int(n) for n in lengths))
    greedy = _system("neupims")
    turns = greedy.override({"plan.packing": "round-robin"})
    times = [simulate_hybrid(graph, s, requests=lengths - 1).time_s for s in (greedy, turns)]
    assert times[0] < times[1]
    attention = next(op for op in graph if is_decode_attention(op))
    found = next(r for r in simulate_hybrid(graph, greedy, requests=lengths - 1).results if r.op.name == attention.name)
    assert found.estimate.flops == pytest.approx(greedy.devices * 4.0 * 8 * 128 * lengths.sum())


def test_a_quantised_cache_is_read_by_its_bytes() -> None:
    from dataclasses import replace

    graph = _graph()
    int8 = by_name("int8")
    ops = [replace(op, operands=tuple(replace(o, number_format=int8) if o.role == "cache" else o for o in op.operands)) for op in graph]
    small = OpGraph("small cache", ops, [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)], meta=graph.meta)
    for name in ("neupims", "npu-pim", "h100-aim"):
        found = [simulate(g, _system(name), place="pim-attention").results for g in (small, graph)]
        costs = [next(r.estimate for r in results if r.op.name == "attention") for results in found]
        assert costs[0].time_s < costs[1].time_s
        assert costs[0].bytes_moved["pim"] < costs[1].bytes_moved["pim"]


def test_the_report_says_why_ops_run_where_they_do() -> None:
    found = simulate(_graph(), _system("h100-aim"))
    told = dict(line.removeprefix("why ").split(": ", 1) for line in found.notes if line.startswith("why "))
    assert {name.partition("+")[0] for name in told} == {"qkv", "attention", "proj", "fc_1", "fc_2"}
    assert all(told[r.op.name] == r.reason for r in found.results if r.op.name in told)
    from presilicon.report import Report

    frame = Report(found).to_frame()
    assert dict(zip(frame["op"], frame["reason"], strict=True)) == {r.op.name: r.reason for r in found.results}


def test_the_report_says_when_units_pay() -> None:
    notes = simulate(_graph(), _system("h100-aim")).notes
    assert any("attention: the units pay" in line for line in notes)
    assert any("products with weights: the units" in line for line in notes)
    assert any("products with weights: the units pay below a batch of" in line for line in simulate(_graph(), _system("neupims")).notes)


def test_head_pipelining_and_co_processing_help() -> None:
    system = _system("dgx-attacc")
    plain = system.override({"plan.head_pipeline": False, "plan.co_processing": False})
    assert simulate(_graph(), system).time_s < simulate(_graph(), plain).time_s
    logic = _system("neupims").override({"plan.sub_batches": 1, "plan.prefetch": False})
    shared = logic.override({"plan.co_processing": True})
    assert simulate(_graph(1), shared).time_s < simulate(_graph(1), logic).time_s


@pytest.mark.parametrize("batch", [1, 64])
def test_what_processor_and_units_share_is_done_once(batch: int) -> None:
    system, graph = _system("duplex"), _graph(batch)
    alone = simulate(graph, system.override({"plan.co_processing": False}), place="pim-attention")
    both = simulate(graph, system, place="pim-attention")
    assert any("take together" in line for line in both.notes)
    for mine, whole in zip(both.results, alone.results, strict=True):
        assert mine.estimate.flops == pytest.approx(whole.estimate.flops)
        if mine.op.kind == "matmul":
            moved = mine.estimate.bytes_moved["dram"] / system.devices
            assert moved < whole.estimate.bytes_moved["dram"] / system.devices
            assert moved / mine.estimate.time_s <= system.ceilings_bytes_per_s["dram"] / system.devices
            assert mine.estimate.energy_j["pim mac"] > 0


def test_commands_bound_the_blocked_units() -> None:
    system, graph = _system("npu-pim"), _graph(128)
    limited = simulate(graph, system, place="pim-attention")
    free = simulate(graph, system.override({"pim.issue": "0 Hz"}), place="pim-attention")
    composite = simulate(graph, system.override({"pim.composite": True}), place="pim-attention")
    times = [next(r.estimate.time_s for r in s.results if r.op.name == "attention") for s in (free, composite, limited)]
    assert times[0] < times[1] < 0.5 * times[2]
    limits = [next(r.estimate.limiter for r in s.results if r.op.name == "attention") for s in (free, limited)]
    assert limits == ["pim", "pim commands"]
    assert any("to send the units' commands" in line for line in limited.notes)
    # A command is a kilobyte of cells: at one a nanosecond the units read no faster than the memory's bus.
    cache = 2 * 128 * 300 * 8 * 128 * 2.0
    assert times[2] > 0.9 * cache / system.bandwidth_bytes_per_s


def test_units_and_reads_share_the_channels() -> None:
    graph, system = _graph(512), _system("neupims")
    found = simulate(graph, system)
    assert any("command engine" in line and "longer here: pim" in line for line in found.notes)
    assert any(line.startswith("energy: ") and "pim activate" in line and "pim cell" in line and "pim io" in line for line in found.notes)
    assert not any("command engine" in line for line in simulate(graph, _system("npu-pim")).notes)
    # One row buffer, used by both at once: nothing says what that costs, and so the report does.
    told = "newton-hbm2 at the same time, each at its full rate"
    for access, expected in (("concurrent", True), ("blocked", False)):
        notes = simulate(graph, _system("npu-pim").override({"pim.access": access}), place="pim-attention").notes
        assert any(told in line for line in notes) == expected
    # Two sub-batches read the weights twice.
    whole = simulate(graph, system.override({"plan.sub_batches": 1}))
    read = [sum(r.estimate.bytes_moved["dram"] for r in s.results if r.op.kind == "matmul") for s in (found, whole)]
    weights = sum(op.operand_bytes("weight") for op in graph) * system.devices
    assert read[0] - read[1] == pytest.approx(weights, rel=0.01)


def test_known_channels_are_kept() -> None:
    from presilicon.validate.cases.warm import Warm

    system = _system("neupims")
    keys = np.full(64, 299, dtype=np.int64)
    even, one = (simulate_hybrid(_graph(), system, place="pim-attention", requests=Warm(keys, np.arange(64) % of)) for of in (32, 1))
    assert even.time_s == pytest.approx(simulate_hybrid(_graph(), system, place="pim-attention", requests=keys).time_s)
    assert one.time_s > 2 * even.time_s
    assert any("3.1 % balanced" in line for line in one.notes)
    with pytest.raises(MappingError, match="channel"):
        simulate_hybrid(_graph(), system, requests=Warm(keys, np.full(64, 32)))


def test_a_channel_that_its_requests_overfill_is_told() -> None:
    long = simulate(_graph(64, 6000, 32), _system("neupims"), place="pim-attention")
    assert any("DO NOT FIT" in line and "fullest channel" in line for line in long.notes)
    assert not any("DO NOT FIT" in line for line in simulate(_graph(64, 600, 32), _system("neupims")).notes)


def test_a_model_that_no_devices_share_runs_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from presilicon.sim.hybrid import sharing

    def refuse(graph: OpGraph, tp: int) -> OpGraph:
        raise WorkloadError(f"attention: 71 attention heads do not divide by --tp {tp}")

    monkeypatch.setattr(sharing, "parallelise", refuse)
    graph = _graph()
    whole = OpGraph(graph.name, list(graph), [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)])
    found, one = (simulate(g, s) for g, s in ((whole, _system("neupims")), (graph, _system("neupims").override({"devices": 1}))))
    assert "71 attention heads do not divide by 4 devices: one device runs every layer, and 3 of 4 stay IDLE" in found.notes[0]
    assert (found.time_s, found.total.total_energy_j) == (one.time_s, one.total.total_energy_j)
    assert found.memory.capacity_bytes == one.memory.capacity_bytes
