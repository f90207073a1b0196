"""Scans: linear in sequence length, sequential across chunks, state traffic of decode, agreement with the tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon import arch
from presilicon.mapping.gpu import scan
from presilicon.mapping.gpu.machine import KernelTimes, Machine

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "measured"


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine.of(arch.load("a100-sxm-80gb"))


def prefill(machine: Machine, kind: str, batch: float, seq_len: float) -> KernelTimes:
    if kind == "conv":
        return scan.causal_conv1d(machine, batch, seq_len, 8192)
    if kind == "ssd":
        return scan.mamba2_scan(machine, batch, seq_len, 64, 64, 128, 8)
    return scan.gated_delta(machine, batch, seq_len, 16, 32, 128, 128)


def decode(machine: Machine, kind: str, batch: float) -> KernelTimes:
    if kind == "conv":
        return scan.causal_conv1d_update(machine, batch, 8192)
    if kind == "ssd":
        return scan.mamba2_update(machine, batch, 64, 64, 128)
    return scan.gated_delta_update(machine, batch, 32, 128, 128)


@pytest.mark.parametrize("kind", ["conv", "ssd", "delta"])
def test_long_prefill_is_linear_in_sequence_length(machine: Machine, kind: str) -> None:
    long, longer = prefill(machine, kind, 8, 16384).time_s, prefill(machine, kind, 8, 32768).time_s
    assert longer / long == pytest.approx(2.0, rel=0.05)


def test_ssd_flops_of_a_full_chunk(machine: Machine) -> None:
    """Scores C B^T, scores times x, and the two state products, per token: 2 G Q N + 2 H Q P + 4 H N P."""
    chunk, heads, head_dim, state_dim, groups, tokens = 256, 64, 64, 128, 8, 1 << 20
    flops = tokens * (2 * groups * chunk * state_dim + 2 * heads * chunk * head_dim + 4 * heads * state_dim * head_dim)
    times = scan.mamba2_scan(machine, 16, tokens // 16, heads, head_dim, state_dim, groups, chunk)
    rate = machine.tensor_rate("bf16") * machine["scan.tensor_efficiency"]
    assert times.busy_s["tensor"] * rate == pytest.approx(flops)


def test_one_long_sequence_waits_for_its_recurrence(machine: Machine) -> None:
    """The same tokens in one sequence or in many: the chunks of one follow one another."""
    one, many = prefill(machine, "delta", 1, 32768), prefill(machine, "delta", 64, 512)
    turns = (one.busy_s["floor"] - many.busy_s["floor"]) * machine.clock_hz / machine["scan.turn_cycles"]
    assert turns == pytest.approx(32768 / 64 - 512 / 64)
    assert one.time_s > many.time_s


@pytest.mark.parametrize(("kind", "state"), [("ssd", 64 * 64 * 128), ("delta", 32 * 128 * 128)])
def test_decode_reads_and_writes_the_state_once(machine: Machine, kind: str, state: int) -> None:
    times = decode(machine, kind, 1024)
    assert times.bytes_moved["l2"] == 1024 * state * 8
    assert times.time_s > times.bytes_moved["dram"] / machine.dram_bytes_per_s
    assert times.limiter() == "dram"


def test_scalar_loads_cost(machine: Machine) -> None:
    assert prefill(machine, "conv", 64, 7).time_s > 1.2 * prefill(machine, "conv", 64, 8).time_s


def test_old_tensor_cores_without_bf16(machine: Machine) -> None:
    volta = replace(machine, tensor_flops_per_clk={"fp16": 1024.0})
    assert prefill(volta, "ssd", 8, 8192).time_s > prefill(machine, "ssd", 8, 8192).time_s


def test_designs_broadcast(machine: Machine) -> None:
    designs = replace(machine, sm_count=np.array([[54.0], [108.0]]), clock_hz=np.array([[1e9], [2e9]]))
    for times in (
        scan.causal_conv1d(designs, 4, np.array([8.0, 512.0, 9000.0]), 4096),
        scan.causal_conv1d_update(designs, np.array([1.0, 2.0, 4.0]), 4096),
        scan.gated_delta(designs, np.array([1.0, 2.0, 4.0]), 512, 16, 32, 128, 128),
        scan.mamba2_update(designs, np.array([1.0, 2.0, 4.0]), 64, 64, 128),
    ):
        assert times.time_s.shape == (2, 3)
        assert all(value.shape == (2, 3) for value in (*times.busy_s.values(), *times.bytes_moved.values()))


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["conv", "ssd", "delta"]), batch=st.integers(1, 512), eights=st.integers(1, 4096),
    step=st.booleans(), factor=st.floats(1, 8),
)  # fmt: skip
def test_better_machines_and_smaller_batches_are_never_slower(
    kind: str, batch: int, eights: int, step: bool, factor: float
) -> None:
    base = Machine.of(arch.load("a100-sxm-80gb"))

    def run(machine: Machine, batch: int = batch) -> float:
        return float((decode(machine, kind, batch) if step else prefill(machine, kind, batch, 8 * eights)).time_s)

    time, slack = run(base), 1 + 1e-12
    assert run(base, 2 * batch) * slack >= time
    numbers = ("sm_count", "clock_hz", "dram_bytes_per_s", "l2_bytes", "l2_bytes_per_clk", "fma_per_clk", "sfu_per_clk")
    for better in numbers:
        assert run(replace(base, **{better: getattr(base, better) * factor})) <= time * slack, better


@pytest.mark.skipif(not MEASURED.exists(), reason="the measured tables (../shared/measured) are not here")
def test_measured_conv1d(machine: Machine) -> None:
    """The convolution of this table runs over the 16 x 128 channels of q or k: its time ignores the value heads."""
    import pandas as pd

    rows = pd.read_csv(MEASURED / "a100_sxm.gdn.csv")
    rows = rows[rows.kernel_source == "causal_conv1d_fn"]
    spread = rows.groupby(["batch_size", "seq_len"]).latency_s.agg(lambda times: times.max() / times.min())
    assert spread.median() < 1.05
    channels = rows.num_k_heads * rows.head_k_dim
    times = scan.causal_conv1d(machine, rows.batch_size, rows.seq_len, channels, rows.d_conv)
    assert np.abs(times.time_s / rows.latency_s - 1).mean() < 0.06
