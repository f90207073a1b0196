"""Memory-bound kernels: rooflines, residency, occupancy of few rows, monotonicity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon import arch
from presilicon.errors import UnknownNameError
from presilicon.mapping.gpu.machine import Machine
from presilicon.mapping.gpu.memory_bound import PHASES, Kind, memory_kernel

KINDS: tuple[Kind, ...] = ("copy", "norm", "softmax")


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine.of(arch.load("a100-sxm-80gb"))


def test_large_copies_reach_the_achievable_bandwidth(machine: Machine) -> None:
    times = memory_kernel(machine, 1e9, 1e9, kind="copy")
    share = 2e9 / times.time_s / machine.dram_bytes_per_s
    assert 0.97 * machine["memory.dram_efficiency"] < share <= machine["memory.dram_efficiency"]
    assert times.limiter() == "dram"


def test_a_warm_footprint_stays_in_l2(machine: Machine) -> None:
    small, large = 0.2 * machine.l2_bytes, 4 * machine.l2_bytes
    warm = memory_kernel(machine, small, small)
    assert warm.bytes_moved["dram"] == 0
    assert memory_kernel(machine, small, small, resident=0.0).bytes_moved["dram"] == small
    assert memory_kernel(machine, large, large).bytes_moved["dram"] == 2 * large
    assert warm.time_s < memory_kernel(machine, small, small, resident=0.0).time_s


def test_an_empty_kernel_takes_the_floor_and_one_access(machine: Machine) -> None:
    times = memory_kernel(machine, 0.0, 0.0)
    assert times.time_s == pytest.approx(machine["memory.floor"] + machine.l2_latency_s)
    assert times.limiter() == "floor"


def test_few_long_rows_leave_sms_idle(machine: Machine) -> None:
    size = 64e6
    few = memory_kernel(machine, size, size, kind="softmax", rows=4)
    many = memory_kernel(machine, size, size, kind="softmax", rows=4096)
    assert few.time_s > 5 * many.time_s
    assert few.limiter() == "floor"


def test_dependent_phases_order_the_kinds(machine: Machine) -> None:
    copy, norm, softmax = (memory_kernel(machine, 1e5, 1e5, kind=kind, rows=16).time_s for kind in KINDS)
    assert copy < norm < softmax


def test_gathered_rows_are_charged_in_sectors(machine: Machine) -> None:
    whole = memory_kernel(machine, 1e9, 1e9, kind="gather", row_bytes=64)
    short = memory_kernel(machine, 1e9, 1e9, kind="gather", row_bytes=8)
    assert short.bytes_moved["l2"] == pytest.approx(1e9 * 32 / 8 + 1e9)
    assert whole.bytes_moved["l2"] == pytest.approx(2e9)


def test_special_functions_can_bind(machine: Machine) -> None:
    elements = 1e8
    times = memory_kernel(machine, 2 * elements, 2 * elements, sfu_ops=16 * elements)
    assert times.limiter() == "sfu"
    assert times.time_s > 16 * elements / (machine.sfu_per_clk * machine.sm_count * machine.clock_hz)


def test_unknown_kind(machine: Machine) -> None:
    with pytest.raises(UnknownNameError, match="softmax"):
        memory_kernel(machine, 1.0, 1.0, kind="sotfmax")  # type: ignore[arg-type]


def test_designs_broadcast(machine: Machine) -> None:
    designs = replace(machine, sm_count=np.array([[54.0], [108.0], [216.0]]))
    times = memory_kernel(designs, np.geomspace(1, 1e9, 5), 0.0, kind="reduce")
    assert times.time_s.shape == (3, 5)
    assert all(value.shape == (3, 5) for value in (*times.busy_s.values(), *times.bytes_moved.values(), times.clock_hz))


@settings(max_examples=200, deadline=None)
@given(
    read=st.floats(0, 1e10), written=st.floats(0, 1e10), kind=st.sampled_from(sorted(PHASES)), rows=st.floats(1, 1e6),
    fma=st.floats(0, 40), sfu=st.floats(0, 8), resident=st.floats(0, 1), factor=st.floats(1, 8),
)  # fmt: skip
def test_roofline_and_monotonicity(
    read: float, written: float, kind: Kind, rows: float, fma: float, sfu: float, resident: float, factor: float
) -> None:
    base = Machine.of(arch.load("a100-sxm-80gb"))

    def run(machine: Machine, grow: float = 1.0) -> float:
        ops = (read + written) * grow
        times = memory_kernel(
            machine, read * grow, written * grow, kind=kind, rows=rows * grow, resident=resident,
            fma_ops=fma * ops, sfu_ops=sfu * ops,
        )  # fmt: skip
        return float(times.time_s)

    time, slack = run(base), 1 + 1e-8
    assert time >= (read + written - machine_l2(base)) / base.dram_bytes_per_s
    assert time >= fma * (read + written) / (base.fma_per_clk * base.sm_count * base.clock_hz)
    assert run(base, factor) * slack >= time
    for better in ("sm_count", "dram_bytes_per_s", "l2_bytes", "l2_bytes_per_clk", "fma_per_clk", "sfu_per_clk"):
        assert run(replace(base, **{better: getattr(base, better) * factor})) <= time * slack, better
    faster = replace(base, clock_hz=base.clock_hz * factor)
    assert run(faster) <= time * slack
    assert run(replace(base, dram_latency_s=base.dram_latency_s / min(factor, 1.5))) <= time * slack


def machine_l2(machine: Machine) -> float:
    """Bytes that L2 may keep from one kernel to the next."""
    return float(machine.l2_bytes)
