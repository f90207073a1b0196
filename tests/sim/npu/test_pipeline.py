"""Random operators on random NPUs: the closed forms, the loop nest's byte counts and the simulator against each other."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest

from presilicon.arch import load
from presilicon.arch.npu import NpuSystem
from presilicon.mapping.npu.compile import compile_graph
from presilicon.mapping.npu.matrix import MatrixPlan
from presilicon.mapping.npu.pipeline import pipeline_s, uncontended_s
from presilicon.mapping.npu.segment import Segment, port_rates
from presilicon.sim.npu.play import Played, play
from presilicon.workloads.graph import OpGraph
from presilicon.workloads.op import Op

from .conftest import attention, conv, elementwise, matmul

NPUS = ("ascend-910", "eyeriss", "gemmini-16", "tpu-v1", "tpu-v4i")
#: Busy time of the busiest port over that of the busiest engine up to which bandwidth counts as not contended.
FREE = 0.25


@dataclass(frozen=True)
class Case:
    """One segment that ran alone."""

    op: Op
    system: NpuSystem
    segment: Segment
    plan: MatrixPlan | None
    played: Played


def random_op(r: random.Random) -> Op:
    kind = r.choice(("conv", "conv", "matmul", "matmul", "depthwise", "attention", "elementwise"))
    if kind == "conv":
        channels, size, filters = r.choice((3, 16, 64, 100, 256)), r.choice((7, 14, 28, 56)), r.choice((16, 64, 96, 512))
        return conv("op", channels, size, filters, r.choice((1, 3, 5, 7)), r.choice((1, 1, 2)), 1, r.choice((1, 1, 4)))
    if kind == "depthwise":
        channels = r.choice((32, 144, 384))
        return conv("op", channels, r.choice((7, 14, 28)), channels, 3, r.choice((1, 2)), channels)
    if kind == "matmul":
        rows, cols, depth = r.choice((1, 17, 128, 1000)), r.choice((64, 100, 768, 3072)), r.choice((64, 256, 1000, 4096))
        return matmul("op", rows, cols, depth, r.choice(("int8", "bf16")))
    if kind == "attention":
        return attention("op", r.choice((1, 8, 12)), r.choice((1, 64, 512)), r.choice((64, 512)), r.choice((64, 128)))
    return elementwise("op", r.choice((1000, 10**5)), r.choice((1, 2)))


def sweep(number: int, seed: int) -> list[Case]:
    """So many random operators, on NPUs with a quarter to a hundred times the bandwidth to the DRAM."""
    r = random.Random(seed)
    found = []
    for _ in range(number):
        system = load(r.choice(NPUS))
        assert isinstance(system, NpuSystem)
        times = r.choice((0.25, 1, 1, 4, 20, 100))
        rates = {"dram.bandwidth": times * system.dram.bandwidth_bytes_per_s, "dma.bandwidth": times * system.dma.bytes_per_clk}
        system = system.override(rates)
        op = random_op(r)
        for compiled in compile_graph(OpGraph("one", [op]), system):
            plan = compiled.plans[0] if op.kind in ("conv", "matmul") and compiled.plans else None
            found += [Case(op, system, s, plan, play([s], system)) for s in compiled.segments if s.steps]
    return found


def check(cases: list[Case]) -> None:
    """What holds for every case."""
    free = contended = 0
    for case in cases:
        time_s = case.played.time_s
        assert pipeline_s(case.segment, case.system) == pytest.approx(time_s, rel=1e-9), case.op
        alone = uncontended_s(case.segment, case.system)
        assert alone <= time_s * (1 + 1e-9), case.op
        ports = max((s for name, s in case.segment.busy_s.items() if name not in ("matrix", "vector", "host")), default=0.0)
        if ports < FREE * max(case.segment.busy_s.get("matrix", 0.0), case.segment.busy_s.get("vector", 0.0)):
            free += 1
            assert alone == pytest.approx(time_s, rel=0.05), (case.system.name, case.op)
        contended += alone < 0.95 * time_s
        for port in port_rates(case.system):
            assert case.played.moved[port] == pytest.approx(case.segment.moved(port), rel=1e-9)
        if case.plan is not None and case.plan.product.formats[2] != "fp32":
            expected: dict[str, float] = {}
            for access in case.plan.result.counts.accesses:
                expected[access.level] = expected.get(access.level, 0.0) + access.read_bytes + access.written_bytes
            shared = ["dram", *(m.name for m in case.system.memories if m.scope == "chip")]
            for level in shared:
                passed = sum(size for port, size in case.played.moved.items() if port.partition(".")[0] == level)
                if level == "dram" or passed:
                    assert passed == pytest.approx(expected[level], rel=1e-12), (case.system.name, case.op, level)
    assert free >= len(cases) // 10, "the sweep has too few cases without contention to say anything"
    assert contended >= len(cases) // 20, "nothing contends: the closed forms are not told apart"


@pytest.mark.slow
def test_closed_forms_bytes_and_simulation_agree_on_random_operators() -> None:
    check(sweep(30, seed=3))


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(4))
def test_closed_forms_bytes_and_simulation_agree_on_many_random_operators(seed: int) -> None:
    check(sweep(250, seed=100 + seed))


def test_pipelines_of_any_shape_are_solved_as_they_are_played() -> None:
    """Steps, rooms and sizes that no mapping made: nothing leans on how mappings look."""
    r = np.random.default_rng(7)
    system = load("ascend-910")
    assert isinstance(system, NpuSystem)
    rates = port_rates(system)
    for _ in range(150):
        steps = int(r.integers(1, 12))
        names = list(rates)

        def part(steps: int = steps, names: list[str] = names) -> dict[str, np.ndarray]:
            chosen = r.choice(names, size=int(r.integers(0, len(names) + 1)), replace=False)
            return {str(p): rates[str(p)] * 1e-6 * r.integers(0, 4, steps) for p in chosen}

        room = np.arange(steps) - r.integers(1, 4, steps)
        segment = Segment(
            "any",
            part(),
            part(),
            part(),
            1e-6 * r.integers(0, 4, steps),
            1e-6 * r.integers(0, 3, steps),
            {},
            {},
            skew_s=float(r.choice((0.0, 1.5e-6))),
            weights_room=np.maximum.accumulate(np.maximum(room, -1)),
            inputs_room=np.maximum(np.arange(steps) - int(r.integers(1, 3)), -1),
        )
        time_s = play([segment], system).time_s
        assert pipeline_s(segment, system) == pytest.approx(time_s, rel=1e-9)
        assert uncontended_s(segment, system) <= time_s * (1 + 1e-9)
