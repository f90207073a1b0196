"""GEMM and power: bounds, monotonicity, broadcasting, number formats, energy, agreement with the measured tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch import load
from presilicon.errors import UnknownNameError
from presilicon.mapping.gpu import gemm as module
from presilicon.mapping.gpu import power
from presilicon.mapping.gpu.energy import kernel_energy
from presilicon.mapping.gpu.gemm import gemm, table_options
from presilicon.mapping.gpu.lower import Kernel
from presilicon.mapping.gpu.machine import Machine

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "measured"
GPUS = {name: Machine.of(load(name)) for name in ("a100-sxm-80gb", "l40s", "h100-sxm", "b200", "l4")}
NAMES = st.sampled_from(sorted(GPUS))
SIZES = st.tuples(
    st.integers(1, 40000),
    st.integers(1, 70000),
    st.integers(1, 8000).map(lambda k: 8 * k),
    st.sampled_from([1, 1, 3, 32]),
)
COPIES = st.sampled_from([1.0, 6.0, float("inf")])
BETTER = {
    "sm_count": lambda v: v + 1,
    "clock_hz": lambda v: v * 1.2,
    "dram_bytes_per_s": lambda v: v * 1.2,
    "dram_latency_s": lambda v: v * 0.8,
    "l2_bytes": lambda v: v * 1.3,
    "l2_bytes_per_clk": lambda v: v * 1.2,
    "smem_bytes_per_clk": lambda v: v * 1.2,
    "power_limit_w": lambda v: v * 1.2,
}


@settings(max_examples=150, deadline=None)
@given(name=NAMES, size=SIZES, copies=COPIES)
def test_never_beats_the_roofline(name: str, size: tuple[int, ...], copies: float) -> None:
    gpu = GPUS[name]
    m, n, k, batch = size
    time = gemm(gpu, m, n, k, batch, weight_copies=copies).time_s
    assert time >= 2.0 * m * n * k * batch / gpu.tensor_rate("bf16")
    if copies == float("inf"):
        assert time >= 2.0 * n * k * batch / gpu.dram_bytes_per_s


@settings(max_examples=150, deadline=None)
@given(name=NAMES, size=SIZES, copies=COPIES, field=st.sampled_from(sorted(BETTER)))
def test_a_better_machine_is_never_slower(name: str, size: tuple[int, ...], copies: float, field: str) -> None:
    gpu = GPUS[name]
    better = replace(gpu, **{field: BETTER[field](getattr(gpu, field))})
    before = gemm(gpu, *size, weight_copies=copies).time_s
    assert gemm(better, *size, weight_copies=copies).time_s <= before * (1 + 1e-9)


@settings(max_examples=150, deadline=None)
@given(name=NAMES, size=SIZES, copies=COPIES, axis=st.integers(0, 3))
def test_twice_the_work_is_never_faster(name: str, size: tuple[int, ...], copies: float, axis: int) -> None:
    twice = tuple(2 * s if i == axis else s for i, s in enumerate(size))
    before = gemm(GPUS[name], *size, weight_copies=copies).time_s
    assert gemm(GPUS[name], *twice, weight_copies=copies).time_s >= before * (1 - 1e-9)


def test_designs_broadcast_to_the_same_numbers_as_one_at_a_time() -> None:
    gpu = GPUS["h100-sxm"]
    counts = np.array([40.0, 132.0, 150.0])
    m, n, k = np.array([1.0, 300.0, 8192.0, 64.0]), np.array([4096.0, 512.0, 8192.0, 50000.0]), 4096.0
    whole = gemm(replace(gpu, sm_count=counts[:, np.newaxis]), m, n, k)
    assert whole.time_s.shape == (3, 4)
    for i, count in enumerate(counts):
        one = gemm(replace(gpu, sm_count=count), m, n, k)
        np.testing.assert_array_equal(whole.time_s[i], one.time_s)
        np.testing.assert_array_equal(whole.choice["split_k"][i], one.choice["split_k"])


def test_block_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    gpu = replace(GPUS["l40s"], clock_hz=rng.uniform(1e9, 2e9, (7, 1)))
    m, n, k = (np.round(np.exp(rng.uniform(2, 9, 30))) for _ in range(3))
    whole = gemm(gpu, m, n, k)
    monkeypatch.setattr(module, "CHUNK", 16)
    cut = gemm(gpu, m, n, k)
    np.testing.assert_array_equal(whole.time_s, cut.time_s)
    np.testing.assert_array_equal(whole.busy_s["dram"], cut.busy_s["dram"])
    np.testing.assert_array_equal(whole.limiter(), cut.limiter())


def test_long_narrow_products_split_k_and_large_ones_do_not() -> None:
    tall = gemm(GPUS["a100-sxm-80gb"], 128, 256, 16384)
    large = gemm(GPUS["a100-sxm-80gb"], 8192, 8192, 8192)
    assert tall.choice["split_k"] > 4
    assert large.choice["split_k"] == 1
    assert large.choice["tile_m"] * large.choice["tile_n"] >= 128 * 128
    assert large.limiter() == "tensor"


def test_a_product_of_one_row_is_bound_by_its_weights_on_a_gpu_of_little_compute() -> None:
    h20 = Machine.of(load("h20"))  # 37 bf16 operations a byte: a tile of 64 rows, 63 of them padding, would ask for 64
    times = gemm(h20, 1, 28672, 4096, weight_copies=np.inf)
    assert times.limiter() == "dram"
    assert 1.0 < times.time_s / (28672 * 4096 * 2 / h20.dram_bytes_per_s) < 1.3
    assert times.choice["tile_m"] == 16


def test_weights_that_fit_in_l2_are_read_from_dram_only_when_cold() -> None:
    gpu = GPUS["l40s"]
    warm, cold = gemm(gpu, 8, 4096, 1024, weight_copies=6.0), gemm(gpu, 8, 4096, 1024)
    assert warm.bytes_moved["dram"] == 0
    assert cold.bytes_moved["dram"] >= 2 * 4096 * 1024
    assert cold.time_s > 1.5 * warm.time_s
    assert cold.limiter() == "dram"


def test_weight_only_quantisation_pays_for_streaming_and_not_for_compute() -> None:
    gpu = GPUS["a100-sxm-80gb"]
    four_bit: dict[str, Any] = {"w_bits": 4.125, "dequantise": True}
    stream = gemm(gpu, 1, 16384, 16384).time_s / gemm(gpu, 1, 16384, 16384, **four_bit).time_s
    dense = gemm(gpu, 8192, 8192, 8192).time_s / gemm(gpu, 8192, 8192, 8192, **four_bit).time_s
    assert 2.5 < stream < 16 / 4.125
    assert 0.9 < dense < 1.1


def test_fp8_is_faster_than_bf16_by_less_than_two_where_power_limits() -> None:
    gpu = GPUS["l40s"]
    wide = gemm(gpu, 8192, 8192, 8192)
    narrow = gemm(gpu, 8192, 8192, 8192, arithmetic="fp8", a_bits=8.0, w_bits=8.0)
    assert narrow.clock_hz < gpu.clock_hz
    assert 1.2 < wide.time_s / narrow.time_s < 2.0
    quantised = gemm(gpu, 8192, 8192, 8192, arithmetic="fp8", a_bits=8.0, w_bits=8.0, quantiser="group")
    assert quantised.time_s > narrow.time_s + 8192 * 8192 * 3 / gpu.dram_bytes_per_s


def test_rows_that_are_not_whole_words_are_slower() -> None:
    gpu = GPUS["h100-sxm"]
    assert gemm(gpu, 4096, 4096, 4095).time_s > 1.2 * gemm(gpu, 4096, 4096, 4096).time_s


def test_an_implicit_convolution_reads_each_pixel_once() -> None:
    gpu = GPUS["a100-sxm-80gb"]
    matrix = gemm(gpu, 200704, 64, 576)
    convolution = gemm(gpu, 200704, 64, 576, a_reuse=9.0)
    assert convolution.bytes_moved["dram"] < 0.4 * matrix.bytes_moved["dram"]
    assert convolution.time_s < matrix.time_s


def test_vector_lanes_carry_fp32_at_their_own_rate() -> None:
    gpu = GPUS["a100-sxm-80gb"]
    time = gemm(gpu, 4096, 4096, 4096, arithmetic="fma", a_bits=32.0, w_bits=32.0, out_bits=32.0).time_s
    assert 1.0 < time * 2 * 64 * gpu.sm_count * gpu.clock_hz / (2 * 4096**3) < 1.4


def test_clock_falls_until_power_meets_the_limit() -> None:
    gpu = GPUS["l40s"]
    hot = gemm(gpu, 16384, 16384, 16384, arithmetic="fp8", a_bits=8.0, w_bits=8.0)
    free = gemm(replace(gpu, power_limit_w=2000.0), 16384, 16384, 16384, arithmetic="fp8", a_bits=8.0, w_bits=8.0)
    assert hot.clock_hz < 0.9 * gpu.clock_hz
    assert free.clock_hz == gpu.clock_hz
    energy = kernel_energy([Kernel("mm", "gemm", {}, {"arithmetic": "fp8"}, flops=2.0 * 16384**3)], hot, gpu)
    assert set(energy) == {"tensor", "l2", "dram", "static"}
    assert sum(energy.values()) / hot.time_s == pytest.approx(gpu.power_limit_w, rel=0.1)


@settings(max_examples=100, deadline=None)
@given(core=st.floats(0.0, 1e5), memory=st.floats(0.0, 1e4), time=st.floats(1e-6, 10.0), highest=st.sampled_from([1.0, 1.08]))
def test_clock_ratio_solves_the_power_balance(core: float, memory: float, time: float, highest: float) -> None:
    gpu = GPUS["h100-sxm"]
    ratio = float(power.clock_ratio(gpu, time, core * time, memory * time, highest=highest))
    assert power.LOWEST_CLOCK_RATIO <= ratio <= highest
    volts = max(ratio, gpu["power.voltage_floor"])
    drawn = gpu.power_idle_w + ratio * (core * volts**2 + memory)
    if power.LOWEST_CLOCK_RATIO < ratio < highest:
        assert drawn == pytest.approx(gpu.power_limit_w, rel=1e-6)
    if ratio == highest:
        assert drawn <= gpu.power_limit_w * (1 + 1e-6)


def test_unknown_library_and_arithmetic_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="best"):
        gemm(GPUS["l40s"], 1, 1, 1, library="bets")
    with pytest.raises(UnknownNameError, match="row"):
        gemm(GPUS["l40s"], 1, 1, 1, arithmetic="fp8", quantiser="rows")
    with pytest.raises(UnknownNameError, match="eager"):
        gemm(GPUS["l40s"], 1, 1, 1, timed="eagre")
    with pytest.raises(KeyError):
        gemm(GPUS["a100-sxm-80gb"], 1, 1, 1, arithmetic="fp8")


@pytest.mark.parametrize(
    ("table", "gpu", "dtype", "bar"),
    [
        ("a100_sxm", "a100-sxm-80gb", "bfloat16", 0.080),
        ("l40s", "l40s", "bfloat16", 0.108),
        ("l40s", "l40s", "fp8", 0.12),
    ],
)
def test_held_out_half_of_the_measured_rows(table: str, gpu: str, dtype: str, bar: float) -> None:
    """Mean absolute percentage error on the half of the rows that the constants were not fitted on (seed 0)."""
    pd = pytest.importorskip("pandas")
    path = MEASURED / f"{table}.gemm.csv"
    if not path.exists():
        pytest.skip(f"{path} is absent: measured tables are kept outside of the project")
    rows = pd.read_csv(path)
    rows = rows[rows.gemm_dtype == dtype]
    rows = rows.iloc[np.random.default_rng(0).permutation(len(rows))[len(rows) // 2 :]]
    formats = {"arithmetic": "fp8", "a_bits": 8.0, "w_bits": 8.0} if dtype == "fp8" else {}
    options = formats | table_options(dtype, str(rows.kernel_source.iloc[0]), GPUS[gpu].generation, str(rows.framework.iloc[0]))
    time = gemm(GPUS[gpu], *(rows[c].to_numpy(float) for c in "mnk"), **options).time_s
    assert np.mean(np.abs(time / rows.latency_s.to_numpy() - 1)) < bar
