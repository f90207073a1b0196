"""Whole graphs on NPUs: what holds for every device, every graph and both fidelities."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from presilicon.arch import load
from presilicon.arch.npu import NpuSystem, npu_from_document
from presilicon.errors import MappingError
from presilicon.mapping.npu.compile import compile_graph
from presilicon.mapping.npu.pipeline import pipeline_s
from presilicon.sim.npu.play import play
from presilicon.sim.npu.run import simulate_npu
from presilicon.sim.run import simulate
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op, tensor

NPUS = ("ascend-910", "eyeriss", "gemmini-16", "tpu-v1", "tpu-v4i")
BOTH = ("analytic", "tile")


def npu(name: str) -> NpuSystem:
    system = load(name)
    assert isinstance(system, NpuSystem)
    return system


def peak(system: NpuSystem) -> float:
    return max(system.peaks_flops_per_s.values())


@pytest.mark.parametrize("fidelity", BOTH)
@pytest.mark.parametrize("name", NPUS)
def test_never_beats_the_roofline_and_adds_up(name: str, fidelity: str, residual: OpGraph) -> None:
    system = npu(name)
    found = simulate_npu(residual, system, fidelity)
    products = [op for op in residual if op.kind in ("conv", "matmul")]
    assert found.time_s >= sum(op.flops for op in products) / peak(system)
    weights = sum(op.operand_bytes("weight") for op in products)
    assert found.time_s >= weights / system.dram.bandwidth_bytes_per_s
    total = found.total
    assert total.bytes_moved["dram"] >= weights
    assert total.time_s == pytest.approx(found.time_s)
    assert total.total_energy_j == pytest.approx(sum(total.energy_j.values()))
    assert total.energy_j["static"] == pytest.approx(system.static_w * found.time_s)
    assert [r.op.name for r in found.results] == [op.name for op in residual]
    assert all(joules >= 0 for r in found.results for joules in r.estimate.energy_j.values())


@pytest.mark.parametrize("name", NPUS)
def test_played_twice_gives_the_same(name: str, residual: OpGraph) -> None:
    first, second = (simulate_npu(residual, npu(name), "tile") for _ in range(2))
    assert (first.time_s, first.spans, first.notes) == (second.time_s, second.spans, second.notes)


@pytest.mark.parametrize("fidelity", BOTH)
@pytest.mark.parametrize("name", ["ascend-910", "tpu-v1", "tpu-v4i"])
@pytest.mark.parametrize("path", ["dram.bandwidth", "clock"])
def test_more_of_something_is_never_slower(name: str, path: str, fidelity: str, residual: OpGraph) -> None:
    system = npu(name)
    value = {p: v for p, v, _ in system.numbers()}[path]
    faster = system.override({path: 2 * value})
    assert simulate_npu(residual, faster, fidelity).time_s <= simulate_npu(residual, system, fidelity).time_s * 1.02


@pytest.mark.parametrize("name", ["tpu-v1", "gemmini-16", "tpu-v4i"])
def test_closed_form_and_simulation_agree_where_bandwidth_is_not_contended(name: str, residual: OpGraph) -> None:
    system = npu(name)
    bandwidth = {"dram.bandwidth": 20 * system.dram.bandwidth_bytes_per_s, "dma.bandwidth": 20 * system.dma.bytes_per_clk}
    system = system.override(bandwidth)
    checked = 0
    for compiled in compile_graph(residual, system):
        for segment in compiled.segments:
            if segment.busy_s.get("matrix", 0.0) < 2 * max(s for n, s in segment.busy_s.items() if n not in ("matrix", "vector")):
                continue
            checked += 1
            assert play([segment], system).time_s == pytest.approx(pipeline_s(segment, system), rel=0.05)
    assert checked >= 2


@pytest.mark.parametrize("name", NPUS)
def test_bytes_that_pass_the_ports_are_those_of_the_loop_nest(name: str, residual: OpGraph) -> None:
    system = npu(name)
    for op in residual:
        if op.kind not in ("conv", "matmul"):
            continue
        (compiled,) = compile_graph(OpGraph("alone", [op]), system)
        if compiled.family == "npu.vector":  # faster there, and no loop nest
            continue
        (segment,), (plan,) = compiled.segments, compiled.plans
        if plan.product.formats[2] == "fp32":  # cut sums, which the vector engines add
            continue
        played, counts = play([segment], system), plan.result.counts
        expected = {access.level: 0.0 for access in counts.accesses}
        for access in counts.accesses:
            expected[access.level] += access.read_bytes + access.written_bytes
        assert played.moved["dram"] == pytest.approx(expected["dram"], rel=1e-12)
        for memory in system.memories:
            if memory.scope == "chip":
                passed = [size for port, size in played.moved.items() if port.partition(".")[0] == memory.name]
                assert sum(passed) == pytest.approx(expected[memory.name], rel=1e-12)


def test_fusion_keeps_intermediate_tensors_off_the_dram(residual: OpGraph) -> None:
    found = simulate_npu(residual, npu("tpu-v1"), "tile")
    by_name = {r.op.name: r for r in found.results}
    assert by_name["bn1"].reason == "folded into the weights of conv1"
    assert by_name["relu1"].reason == "fused into conv1"
    assert by_name["relu1"].estimate.time_s == 0
    weights = sum(op.operand_bytes("weight") for op in residual if op.kind in ("conv", "matmul"))
    first_input = 64 * 58 * 58
    last_outputs = 64 * 56 * 56 + 1000
    fc_input = 2048
    assert found.total.bytes_moved["dram"] <= 1.01 * (weights + first_input + last_outputs + fc_input)


def test_what_no_engine_executes_runs_on_the_host_or_is_refused(residual: OpGraph) -> None:
    found = simulate_npu(residual, npu("eyeriss"), "tile")
    assert any("on the host" in note and "add" in note for note in found.notes)
    assert {r.family for r in found.results if r.op.name == "sum"} == {"npu.host"}
    tensors = (tensor("x0", "input", "r c", "bf16"), tensor("out", "output", "r c", "bf16"))
    softmax = Op("soft", "softmax", "aten.softmax.int", {"r": 8, "c": 8}, tensors, {"exp": 1.0, "div": 1.0})
    tpu = npu("tpu-v1")
    vector = {**tpu.document["vector"], "rate": {"add": {"value": 1, "source": "test"}}}
    alone = npu_from_document({**tpu.document, "host": None, "vector": vector})
    with pytest.raises(MappingError, match=r"'soft' \(softmax\): tpu-v1 cannot execute div, exp and has no host"):
        simulate_npu(OpGraph("g", [softmax]), alone)
    reduce = Op("ar", "collective", "all_reduce", {"n": 8}, (tensor("x", "input", "n", "bf16"), tensor("y", "output", "n", "bf16")))
    with pytest.raises(MappingError, match="tpu-v1 is one device"):
        simulate_npu(OpGraph("g", [reduce]), tpu)


@pytest.mark.parametrize("name", ["ascend-910", "tpu-v4i"])
def test_attention_keeps_its_scores_on_chip(name: str, block: OpGraph) -> None:
    system = npu(name)
    found = simulate_npu(block, system, "tile")
    attention = next(r for r in found.results if r.op.kind == "attention")
    scores = 12 * 512 * 512 * 2
    operands = attention.op.operand_bytes()
    assert attention.estimate.bytes_moved["dram"] <= operands < scores
    assert attention.estimate.busy_s["vector"] > 0
    assert attention.estimate.busy_s["matrix"] >= attention.op.scalar_ops("mac") * 2 / peak(system)


def test_repeated_blocks_cost_what_they_cost_one_after_the_other(one: Callable[..., OpGraph]) -> None:
    system = npu("tpu-v4i")
    once = simulate_npu(one(512, 4096, 4096, "bf16"), system, "tile").time_s
    many = simulate_npu(one(512, 4096, 4096, "bf16", count=32), system, "tile").time_s
    assert 0.5 * 32 * once < many <= 32 * once * 1.001


def test_weights_of_the_next_op_come_while_this_one_runs(one: Callable[..., OpGraph]) -> None:
    system = npu("tpu-v1")
    bound = one(200, 2000, 2000, count=8)
    played, lined_up = (simulate_npu(bound, system, fidelity).time_s for fidelity in ("tile", "analytic"))
    assert played < lined_up
    assert played >= 8 * 2000 * 2000 / system.dram.bandwidth_bytes_per_s


def test_tpu_v1_reaches_its_published_throughput_on_memory_bound_layers(one: Callable[..., OpGraph]) -> None:
    """Jouppi et al., ISCA 2017, table 3: MLP0 (20 million weights, batch 200) 12.3 TOPS, MLP1 (5 million, batch 168) 9.7."""
    for weights, batch, layers, tops in ((20e6, 200, 5, 12.3), (5e6, 168, 4, 9.7)):
        width = round((weights / layers) ** 0.5)
        seconds = simulate_npu(one(batch, width, width, count=layers), npu("tpu-v1"), "tile").time_s
        assert 2 * batch * layers * width**2 / seconds / 1e12 == pytest.approx(tops, rel=0.15)


def test_dequantised_weights_through_memory_gain_less_than_their_size_says(one: Callable[..., OpGraph]) -> None:
    """arXiv 2601.16536: W4A16 on Ascend 910 reaches at most 1.48 times FP16, because unpacked weights pass the memory once more."""
    system = npu("ascend-910").override({"launch": 0})
    gains = []
    for n, k in ((4096, 12288), (8192, 8192)):
        fp16, w4 = (simulate_npu(one(1, n, k, "fp16", weight), system, "tile") for weight in ("fp16", "w4_g128"))
        assert w4.results[0].estimate.limiter == "l2"
        gains.append(fp16.time_s / w4.time_s)
    assert all(1.0 < gain <= 1.48 for gain in gains)


def test_dispatch_and_report(residual: OpGraph) -> None:
    import presilicon as ps

    report = ps.simulate(residual, "tpu-v1")
    assert report.time_s == simulate(residual, "tpu-v1").time_s
    assert {"dma", "matrix", "vector"} == {span.lane for span in report.simulation.spans}
    assert "mapped" in str(report.simulation.notes)
