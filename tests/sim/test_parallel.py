"""Steps of parallel systems: collectives in the timeline, pipeline bubble, hidden gradients, devices in every total."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from presilicon import simulate
from presilicon.arch import load
from presilicon.errors import MappingError
from presilicon.mapping.gpu import attention, collective
from presilicon.mapping.gpu.machine import Machine
from presilicon.sim import parallel
from presilicon.workloads import Operand, OpGraph
from presilicon.workloads.formats import by_name
from presilicon.workloads.op import Op
from presilicon.workloads.parallel import parallelise
from presilicon.workloads.ragged import with_contexts

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def prefill() -> OpGraph:
    return OpGraph.load(DATA / "llama-3-8b.prefill.graph.json.gz")


@pytest.fixture(scope="module")
def decode() -> OpGraph:
    return OpGraph.load(DATA / "llama-3-8b.decode.graph.json.gz")


def busy_of(graph: OpGraph, kind: str) -> float:
    report = simulate(graph, "h100-sxm", fidelity="analytic")
    return sum(r.total.time_s for r in report.simulation.results if r.op.kind == kind)


@pytest.mark.parametrize("fidelity", ["analytic", "tile"])
def test_more_devices_are_faster_and_cost_more(prefill: OpGraph, fidelity: str) -> None:
    reports = [simulate(parallelise(prefill, tp=tp), "h100-sxm", fidelity=fidelity) for tp in (1, 2, 4, 8)]  # type: ignore[arg-type]
    times = [r.time_s for r in reports]
    assert times == sorted(times, reverse=True)
    assert all(one / times[0] > 1 / n for n, one in zip((2, 4, 8), times[1:], strict=True))  # never better than linear
    energies = [sum(r.energy_j.values()) for r in reports]
    assert energies == sorted(energies)
    assert [r.headline()["devices"] for r in reports] == [1, 2, 4, 8]
    assert reports[3].tokens_per_s == pytest.approx(2048 / times[3])


def test_collectives_take_what_the_closed_form_says(prefill: OpGraph) -> None:
    system = load("h100-sxm")
    report = simulate(parallelise(prefill, tp=8, all_reduce="nccl"), system, fidelity="analytic")
    reduce = next(r for r in report.simulation.results if r.op.attributes.get("operation") == "all_reduce")
    times = collective.all_reduce(Machine.of(system), collective.Link.of(system.link), 2048 * 4096 * 2, 8, process_per_gpu=True)
    assert reduce.estimate.time_s == pytest.approx(float(times.time_s))
    gather = next(r for r in report.simulation.results if r.op.attributes.get("operation") == "all_gather")
    times = collective.all_gather(Machine.of(system), collective.Link.of(system.link), 128256 * 2, 8, process_per_gpu=True)
    assert gather.estimate.time_s == pytest.approx(float(times.time_s))


def test_engines_reduce_small_messages_faster(decode: OpGraph) -> None:
    own, library = (parallelise(decode, tp=8, all_reduce=kernel) for kernel in ("vllm", "nccl"))
    assert busy_of(own, "collective") < busy_of(library, "collective")


def test_a_system_joins_so_many_devices(prefill: OpGraph) -> None:
    with pytest.raises(MappingError, match="16 devices, but its link joins 8"):
        simulate(parallelise(prefill, tp=8, pp=2), "h100-sxm")


def test_other_kinds_of_systems_are_one_device(prefill: OpGraph) -> None:
    with pytest.raises(MappingError, match="2 devices; only GPUs"):
        simulate(parallelise(prefill, tp=2), "neupims")


def test_pipeline_of_one_microbatch_is_the_sum_of_its_stages(prefill: OpGraph) -> None:
    alone = simulate(prefill, "h100-sxm", fidelity="analytic")
    piped = simulate(parallelise(prefill, pp=4), "h100-sxm", fidelity="analytic")
    assert piped.time_s == pytest.approx(alone.time_s, rel=0.05)  # stages follow each other; each sends its activations
    assert piped.simulation.device_busy_s < 0.3 * alone.time_s
    assert piped.bottlenecks()["pipeline"] == pytest.approx(0.75 * piped.time_s, rel=0.05)
    assert min(s.start_s for s in piped.simulation.spans) == pytest.approx(0.75 * piped.time_s, rel=0.05)


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 1), (2, 8), (4, 4), (4, 16)])
def test_bubble(stages: int, microbatches: int) -> None:
    step = parallel.Step((), (), (), stages, microbatches, stages)
    wait = parallel.bubble_s(step, 1.0)
    assert wait / (1.0 + wait) == pytest.approx((stages - 1) / (microbatches + stages - 1))


def reduction(buckets: int) -> Op:
    bf16 = by_name("bf16")
    ports = (Operand("x", "input", ((("n", 1),),), bf16), Operand("out", "output", ((("n", 1),),), bf16))
    attributes = {"operation": "all_reduce", "devices": 2, "group": "dp", "overlap": True, "pass": "backward"}
    return Op("grads", "collective", "collective.all_reduce", {"n": 13_107_200}, ports, {}, attributes, None, buckets)


def backward_pass(runs: int) -> Op:
    bf16 = by_name("bf16")
    ports = (
        Operand("a", "input", ((("m", 1),), (("k", 1),)), bf16),
        Operand("w", "weight", ((("k", 1),), (("n", 1),)), bf16),
        Operand("out", "output", ((("m", 1),), (("n", 1),)), bf16),
    )
    dims = {"b": 1, "m": 8192, "n": 8192, "k": 8192}
    return Op("mm", "matmul", "aten.mm.default", dims, ports, {"mac": 1.0}, {"pass": "backward"}, None, runs)


@pytest.mark.parametrize(("runs", "hidden"), [(1, False), (200, True)])
def test_gradients_hide_behind_a_long_backward_pass(runs: int, hidden: bool) -> None:
    meta = {"phase": "train", "parallel": {"dp": 2, "pp": 1, "microbatches": 1, "devices": 2}}
    compute = OpGraph("compute", [backward_pass(runs)], meta=meta)
    both = OpGraph("both", [backward_pass(runs), reduction(40)], meta=meta)
    alone, together = (simulate(g, "h100-sxm", fidelity="analytic") for g in (compute, both))
    bucket = next(r.estimate.time_s for r in together.simulation.results if r.op.kind == "collective")
    exposed = together.time_s - alone.time_s
    assert exposed == pytest.approx(bucket if hidden else 40 * bucket - alone.simulation.device_busy_s * 39 / 40, rel=1e-6)
    assert any("hidden behind the backward pass" in note for note in together.simulation.notes)


def test_sending_takes_latency_and_bandwidth() -> None:
    system = load("h100-sxm")
    machine, link = Machine.of(system), collective.Link.of(system.link)
    small, large = (float(collective.send(machine, link, size).time_s) for size in (1024, 2**30))
    assert link.latency_s < small < 30e-6
    assert 2**30 / 450e9 < large < 2 * 2**30 / 450e9
    assert float(collective.send(machine, link, 2**20).bytes_moved["link"]) == 2**20


@pytest.mark.parametrize("fidelity", ["analytic", "tile"])
def test_ragged_batches(decode: OpGraph, fidelity: str) -> None:
    batch, context = decode.meta["batch"], decode.meta["context"]
    even = simulate(with_contexts(decode, [context] * batch), "h100-sxm", fidelity=fidelity)  # type: ignore[arg-type]
    plain = simulate(decode, "h100-sxm", fidelity=fidelity)  # type: ignore[arg-type]
    assert even.time_s == pytest.approx(plain.time_s, rel=1e-6)
    if batch < 2:
        return
    lengths = np.full(batch, 2)
    lengths[0] = context * batch - 2 * (batch - 1)
    skewed = simulate(with_contexts(decode, lengths), "h100-sxm", fidelity=fidelity)  # type: ignore[arg-type]
    assert skewed.time_s >= even.time_s * 0.999  # as many tokens in all, one request has nearly all of them
    alone = attention.attention_decode(Machine.of(load("h100-sxm")), 1, int(lengths[0]) + 1, 32, 8, 128).time_s
    mine = next(r for r in skewed.simulation.results if r.op.kind == "attention")
    assert mine.estimate.time_s >= float(alone) * 0.999  # it still has to end


@pytest.mark.slow
def test_published_llama_70b_on_eight_h100() -> None:
    """10.25 ms a token at batch 1, bf16 (NVIDIA NIM performance page, Llama-3.3-70B); serving engines fuse as `compiled` does."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from presilicon.workloads import trace_model

    graph = trace_model("llama-3-70b", phase="decode", batch=1, context=1024, attention="flash")
    report = simulate(parallelise(graph, tp=8), "h100-sxm", runtime="compiled")
    assert report.interval_s[0] < 10.25e-3 < report.interval_s[1]
    assert report.time_s == pytest.approx(10.25e-3, rel=0.15)
