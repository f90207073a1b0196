"""Whole kernels: bounds that no answer may break, and the published order of magnitude."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from presilicon import arch  # noqa: E402
from presilicon.errors import KernelError, UnknownNameError  # noqa: E402
from presilicon.mapping.triton import bind_launch, compile_launch  # noqa: E402
from presilicon.sim.sm import grid  # noqa: E402
from presilicon.sim.sm.grid import Schedule, run_ctas, schedule  # noqa: E402
from presilicon.sim.sm.run import prepare, simulate_kernel  # noqa: E402
from presilicon.sim.sm.streams import Period, find_period, runs_alike  # noqa: E402

DEVICES = {"sm_80": "a100-sxm-80gb", "sm_89": "l40s", "sm_90": "h100-sxm", "sm_100": "b200"}


@cache
def gemm(size: int, tile: tuple[int, int, int], stages: int, warps: int, target: str, k: int = 0) -> Any:
    from presilicon.validate.kernels.gemm import matmul

    m, n, depth = size, size, k or size
    block_m, block_n, block_k = tile
    a, b, c = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in ((m, depth), (depth, n), (m, n)))
    meta = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "INT8": False, "SCALED": False, "num_warps": warps,
            "num_stages": stages}
    programs = -(-m // block_m) * -(-n // block_n)
    launch = bind_launch(matmul, (programs,), (a, b, c, a, a, m, n, depth, depth, 1, n, 1, n, 1), meta, target=target)
    return compile_launch(launch), launch


@cache
def elementwise(size: int, target: str) -> Any:
    from presilicon.validate.kernels.rows import elementwise_chain

    x, y, out = (torch.empty(size, dtype=torch.float32, device="meta") for _ in range(3))
    meta = {"OPS": 1, "BLOCK": 1024, "num_warps": 4}
    launch = bind_launch(elementwise_chain, (-(-size // 1024),), (x, y, out, size), meta, target=target)
    return compile_launch(launch), launch


@cache
def tma(target: str) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    from presilicon.validate.kernels.gemm import matmul_tma

    n = 2048
    a, b, c = (torch.empty(n, n, dtype=torch.float16, device="meta") for _ in range(3))
    maps = [TensorDescriptor(t, [n, n], [n, 1], block) for t, block in ((a, [128, 64]), (b, [256, 64]), (c, [128, 256]))]
    meta = {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "GROUP_M": 8, "PROGRAMS": 128, "num_warps": 8, "num_stages": 3}
    launch = bind_launch(matmul_tma, (128,), (*maps, n, n, n), meta, target=target)
    return compile_launch(launch), launch


def floor_s(found: Any, system: Any, arithmetic: str = "bf16") -> float:
    """Least time by the device file's peaks, at the clock that was held, where that is below boost."""
    ratio = min(1.0, found.clock_hz / system.gpu.clock.boost_hz)
    tensor = found.tensor_flops / (system.tensor_flops_per_s(arithmetic) * ratio)
    return max(tensor, found.bytes_moved["dram"] / system.dram.bandwidth_bytes_per_s)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "tile", "stages", "warps", "low", "high"),
                         [("sm_90", (128, 256, 64), 3, 8, 550e12, 800e12), ("sm_80", (128, 128, 32), 4, 4, 190e12, 290e12)])
def test_large_gemm_is_as_fast_as_such_kernels_are(target: str, tile: Any, stages: int, warps: int, low: float, high: float) -> None:
    system = arch.load(DEVICES[target])
    found = simulate_kernel(*gemm(8192, tile, stages, warps, target), system)
    assert found.tensor_flops == 2 * 8192**3
    assert low < found.flops / found.time_s < high
    assert found.time_s >= floor_s(found, system)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_90", "sm_100"])
def test_no_answer_beats_the_peaks(target: str) -> None:
    system = arch.load(DEVICES[target])
    for compiled, launch in (gemm(1024, (64, 64, 32), 3, 4, target), elementwise(1 << 24, target)):
        found = simulate_kernel(compiled, launch, system)
        assert found.time_s >= floor_s(found, system) + found.launch_s
        assert all(0.0 <= share <= 1.0 for share in found.pipe_busy.values())
        assert found.issued == sum(found.issued_by_instruction)
        assert math.isclose(sum(line.share for line in found.lines), 1.0)
        assert found.low_s <= found.time_s <= found.high_s


def test_what_is_far_from_the_peaks_runs_above_boost() -> None:
    system = arch.load("h100-sxm")
    boost = system.gpu.clock.boost_hz
    flat = system.override({"gpu.clock.headroom": 1})
    small = gemm(512, (64, 64, 32), 3, 4, "sm_90")
    found, without = (simulate_kernel(*small, one) for one in (system, flat))
    idle = 1.0 - found.pipe_busy["tensor"]
    assert 0.8 < idle < 1.0
    assert found.clock_hz == pytest.approx(1.83e9 + idle * 0.15e9, rel=1e-3)
    assert without.clock_hz == boost
    core = [one.time_s - one.launch_s for one in (found, without)]
    assert core[1] / 1.082 <= core[0] < 0.98 * core[1], "all but what waits for DRAM"
    held = system.override({"power.limit": "300 W"})
    large = gemm(4096, (128, 128, 64), 3, 8, "sm_90")
    found, without = (simulate_kernel(*large, one) for one in (held, held.override({"gpu.clock.headroom": 1})))
    assert found.clock_hz < boost, "the power limit holds both down to the same clock"
    assert found.clock_hz == pytest.approx(without.clock_hz, rel=0.02)
    assert found.time_s == pytest.approx(without.time_s, rel=0.03), "what waits for DRAM takes fewer of slower clocks"


def test_a_stream_moves_its_compulsory_bytes_at_nearly_dram_bandwidth() -> None:
    system, size = arch.load("a100-sxm-80gb"), 1 << 25
    found = simulate_kernel(*elementwise(size, "sm_80"), system)
    assert found.bytes_moved["dram"] == pytest.approx(3 * 4 * size, rel=0.01)
    achieved = found.bytes_moved["dram"] / (found.time_s - found.launch_s)
    assert 0.85 < achieved / system.dram.bandwidth_bytes_per_s < 1.0
    assert found.limiter == "dram"


def test_more_of_the_machine_is_never_slower() -> None:
    compiled, launch = gemm(2048, (128, 128, 32), 4, 4, "sm_80")
    base = arch.load("a100-sxm-80gb")
    time_s = simulate_kernel(compiled, launch, base).time_s
    for change in ({"dram.bandwidth": "3 TB/s"}, {"gpu.sm.count": 132}, {"gpu.clock.boost": 1.6e9}):
        assert simulate_kernel(compiled, launch, base.override(change)).time_s <= 1.01 * time_s


def test_equal_inputs_give_equal_answers() -> None:
    compiled, launch = gemm(1024, (64, 64, 32), 3, 4, "sm_80")
    system = arch.load("a100-sxm-80gb")
    assert simulate_kernel(compiled, launch, system) == simulate_kernel(compiled, launch, system)


def test_warm_operands_cost_no_dram() -> None:
    compiled, launch = gemm(1024, (64, 64, 32), 3, 4, "sm_80")
    system = arch.load("a100-sxm-80gb")
    cold, warm = simulate_kernel(compiled, launch, system), simulate_kernel(compiled, launch, system, warm_l2=True)
    assert warm.bytes_moved["dram"] < 0.01 * cold.bytes_moved["dram"]
    assert warm.time_s < cold.time_s
    half = simulate_kernel(compiled, launch, system, warm_l2=0.5)
    assert half.bytes_moved["dram"] == pytest.approx(0.5 * cold.bytes_moved["dram"])
    assert warm.time_s < half.time_s < cold.time_s
    assert simulate_kernel(compiled, launch, system, warm_l2=0.0) == cold
    assert simulate_kernel(compiled, launch, system, warm_l2=1.0) == warm


def test_what_a_flush_has_written_goes_to_dram_during_the_kernel() -> None:
    """Sums of 64 MB each, of which a third is written: of 24 MB that are still dirty most go, of 13 MB of their own most stay."""
    size = 1 << 24
    system = arch.load("a100-sxm-80gb")
    compiled, launch = elementwise(size, "sm_80")
    cold, flushed = simulate_kernel(compiled, launch, system), simulate_kernel(compiled, launch, system, dirty_l2=True)
    kept, moved = 0.95 * system.gpu.l2.size_bytes, 3 * 4 * size
    taken = 1.0 - math.exp(-moved / kept)
    extra = taken * (0.6 * system.gpu.l2.size_bytes - kept / 3)
    assert flushed.bytes_moved["dram"] - cold.bytes_moved["dram"] == pytest.approx(extra, rel=0.05)
    assert cold.time_s < flushed.time_s < cold.time_s * (1.0 + 1.5 * extra / moved)
    warm = [simulate_kernel(compiled, launch, system, warm_l2=True, dirty_l2=dirty).time_s for dirty in (False, True)]
    assert warm[0] == warm[1]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
def test_bulk_copies_and_mbarriers(target: str) -> None:
    system = arch.load(DEVICES[target])
    found = simulate_kernel(*tma(target), system)
    assert found.stalls["mbarrier"] > 0
    assert found.pipe_busy["tma"] > 0
    assert 0.05 < found.pipe_busy["tensor" if target == "sm_90" else "tcgen05"] < 1.0
    assert found.tensor_flops == 2 * 2048**3
    assert 0.05 < found.tensor_flops / (found.time_s - found.launch_s) / system.tensor_flops_per_s("fp16") < 0.95


def test_cut_loops_and_waves_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, launch = gemm(2048, (128, 128, 32), 4, 4, "sm_80", k=8192)
    system = arch.load("a100-sxm-80gb")
    cut = simulate_kernel(compiled, launch, system)
    monkeypatch.setattr(grid, "BUDGET", 1 << 60)
    whole = simulate_kernel(compiled, launch, system)
    assert cut.simulated_issued < 0.5 * whole.simulated_issued
    assert cut.cycles == pytest.approx(whole.cycles, rel=0.01)


@pytest.mark.slow
def test_a_cut_loop_is_exact_once_its_period_is_steady() -> None:
    from presilicon.mapping.triton import occupancy_of

    compiled, launch = gemm(1024, (128, 128, 32), 3, 4, "sm_80", k=8192)
    system = arch.load("a100-sxm-80gb")
    kernel, _ = prepare(compiled, launch, system, occupancy_of(compiled, system), False)
    kernel = replace(kernel, timing=replace(kernel.timing, dram_refresh=0.0))  # what waits for a refresh is drawn
    one = Schedule(1, 1, 0, 1.0)
    times = [run_ctas(kernel, one, keep=keep).cycles for keep in (60, 120, 180)]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], rel=1e-4)


def test_schedule_deals_breadth_first() -> None:
    assert schedule(50, 100, 2) == Schedule(2, 0, 1, 2.0)
    assert schedule(150, 100, 2).ctas == 2
    assert schedule(400, 100, 2) == Schedule(2, 2, 0, 1.0)


def test_periods_of_steps() -> None:
    import numpy as np

    keys = np.array([9, 8, *[1, 2, 3] * 10, 7, 7, 5])
    found = find_period(keys)
    assert found is not None
    assert (found.first, found.length, found.times) == (2, 3, 10)
    assert find_period(np.arange(50)) is None


def test_runs_of_the_same_stretches() -> None:
    import numpy as np

    loop, other = [5, 6, 7], [5, 8, 7]
    keys = np.array([1, *loop * 20, 2, 3, *other * 30, 2, 6, 7, *loop * 18, 1, *loop * 12, 4])
    period = Period(1, 3, 20)
    assert runs_alike(keys, period) == [(1, 20), (154, 18)], "one that begins within a stretch counts, no other loop and no short run"
    assert runs_alike(keys, Period(63, 3, 30)) == [(63, 30)]


@pytest.mark.slow
def test_bad_input() -> None:
    compiled, launch = gemm(1024, (64, 64, 32), 3, 4, "sm_80")
    with pytest.raises(KernelError, match="compiled for sm_80, h100-sxm is sm_90"):
        simulate_kernel(compiled, launch, arch.load("h100-sxm"))
    with pytest.raises(UnknownNameError, match="fidelity"):
        simulate_kernel(compiled, launch, arch.load("a100-sxm-80gb"), fidelity="cycles")
    with pytest.raises(KernelError, match="num_ctas=2, but clusters of CTAs are not modelled"):
        simulate_kernel(replace(compiled, num_ctas=2), launch, arch.load("a100-sxm-80gb"))
    big = gemm(1024, (128, 128, 128), 4, 4, "sm_80")
    with pytest.raises(KernelError, match="cannot launch"):
        simulate_kernel(*big, arch.load("a100-sxm-80gb"))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "sm_100"])
def test_loops_behind_mbarriers_are_cut_in_whole_rounds(target: str) -> None:
    from presilicon.mapping.triton import occupancy_of

    compiled, launch = tma(target) if target == "sm_90" else gemm(1024, (128, 256, 64), 3, 8, target, k=4096)
    system = arch.load(DEVICES[target])
    kernel, _ = prepare(compiled, launch, system, occupancy_of(compiled, system), False)
    period = kernel.runs[0].period
    assert period is not None
    assert period.iterations % 2 == 0
    one = Schedule(1, 1, 0, 1.0)
    whole = run_ctas(kernel, one).cycles
    cut = [run_ctas(kernel, one, keep=keep).cycles for keep in range(1, period.times)]
    assert cut == sorted(cut)
    assert cut[-1] + (cut[-1] - cut[-2]) == pytest.approx(whole, rel=0.01)
