"""The `tile` fidelity: how instructions become operations, physics that it must obey, and how it agrees with `cycle`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
torch = pytest.importorskip("torch", reason="needs torch for meta tensors")

sys.path.insert(0, str(Path(__file__).parent))

import odd  # noqa: E402

from presilicon import arch  # noqa: E402
from presilicon.arch.sm_timing import sm_timing  # noqa: E402
from presilicon.mapping.triton import Launch, bind_launch, compile_launch, take_apart  # noqa: E402
from presilicon.sim.sm import isa, tile  # noqa: E402
from presilicon.sim.sm.run import simulate_kernel  # noqa: E402
from presilicon.validate.kernels import all_suites, suite_named  # noqa: E402

H100 = arch.load("h100-sxm")


pytestmark = pytest.mark.usefixtures("own_cache")


def launches(name: str, system: Any = H100, shape: int = 0, config: int = 0) -> list[Launch]:
    """The bound launches of a point of a suite."""
    capability, suite = int(system.generation[3:]), suite_named(name)
    sizes = suite.shapes[shape]
    made = suite.predict(sizes, suite.configs(sizes)[config], sm_count=int(system.gpu.sm.count), capability=capability)
    return [bind_launch(one.kernel, one.grid, one.args, one.meta, target=capability) for one in made]


def predicted(name: str, system: Any = H100, **point: int) -> Any:
    """The first launch of a point at `tile`."""
    launch = launches(name, system, **point)[0]
    return simulate_kernel(compile_launch(launch), launch, system, fidelity="tile")


def table(*instructions: tuple[int, str, int, int]) -> isa.IsaTable:
    """Rows of (kind, pipe, write barrier, wait mask); everything else is plain."""
    n = len(instructions)
    kind, pipe, write, wait = (np.array(column) for column in zip(*[(k, isa.PIPE[p], w, m) for k, p, w, m in instructions], strict=True))
    zero, minus = np.zeros(n, np.int64), np.full(n, -1)
    return isa.IsaTable(kind, pipe, np.ones(n), zero, zero + 1, zero, write, minus, wait, zero, zero)


def test_instructions_between_two_waits_go_together_by_class() -> None:
    made = table(
        (isa.MATH, "alu", -1, 0), (isa.LOAD, "memory", 0, 0), (isa.MATH, "imad", -1, 0), (isa.LOAD, "memory", 0, 0),
        (isa.MATH, "fma", -1, 1), (isa.MATH, "fma", -1, 0), (isa.BARRIER, "none", -1, 0), (isa.SHARED, "memory", 1, 0),
        (isa.SHARED, "memory", 2, 0),
    )
    group = tile.group_operations(made, np.arange(9)).tolist()
    # address arithmetic before the loads, both loads, what follows; after the wait its users; the barrier alone; one per scoreboard
    assert group == [0, 1, 2, 1, 3, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemm", "attention", "softmax", "elementwise", "gemm_tma"])
def test_never_faster_than_the_roofline(name: str) -> None:
    for system in (H100, H100.override({"dram.bandwidth": "8 TB/s"})):
        run = predicted(name, system)
        sm = system.gpu.sm
        peak = max(sm.tensor_flops_per_clk[a] for a in ("fp16", "bf16")) * sm.count * system.gpu.clock.boost_hz
        assert run.time_s >= run.tensor_flops / peak
        assert run.time_s >= run.bytes_moved["dram"] / system.dram.bandwidth_bytes_per_s


def test_tensor_flops_of_a_gemm_are_exact() -> None:
    suite = suite_named("gemm")
    sizes = suite.shapes[0]
    assert predicted("gemm").tensor_flops == 2 * int(sizes["m"]) * int(sizes["n"]) * int(sizes["k"])


def test_a_streaming_kernel_takes_the_time_of_its_bytes() -> None:
    run = predicted("bandwidth_copy")
    least = run.bytes_moved["dram"] / H100.dram.bandwidth_bytes_per_s
    timing = sm_timing(H100.generation)
    assert least <= run.time_s - run.launch_s <= 1.03 * least / (timing.dram_steady * (1 - timing.dram_turnaround))
    assert run.limiter == "dram"


def test_more_bandwidth_is_never_slower() -> None:
    times = [predicted("elementwise", H100.override({"dram.bandwidth": f"{x} TB/s"})).time_s for x in (1, 2, 4)]
    assert times == sorted(times, reverse=True)
    assert times[0] > 1.7 * times[1]


def test_what_a_run_says_of_itself_adds_up() -> None:
    run = predicted("gemm")
    assert run.fidelity == "tile"
    assert sum(line.share for line in run.lines) == pytest.approx(1.0)
    assert sum(line.issued for line in run.lines) == run.issued == sum(run.issued_by_instruction)
    assert run.stalls["selected"] == pytest.approx(run.issued)
    assert run == predicted("gemm"), "the same question has the same answer"


def test_what_lanes_do_together_behind_a_join_is_counted_once() -> None:
    programs, rows, columns = 64, 64, 32
    args = [torch.empty(programs * rows * columns, device="meta") for _ in range(2)]
    launch = bind_launch(odd.running_sums, (programs,), args, {"ROWS": rows, "COLUMNS": columns}, target=90)
    compiled = compile_launch(launch)
    code = take_apart(compiled).listing.instructions
    assert any(ins.base == "BSYNC" for ins in code)
    runs = [simulate_kernel(compiled, launch, H100, fidelity=fidelity) for fidelity in ("tile", "cycle")]
    assert runs[0].flops == runs[1].flops
    for run in runs:  # a warp stores 16 bytes a lane at most
        widths = {"128": 512, "64": 256}
        stored = sum(run.issued_by_instruction[ins.index] * widths[ins.modifiers[-1]] for ins in code if ins.base == "STG")
        assert stored == 4 * programs * rows * columns


@pytest.mark.parametrize(("name", "shape"), [("gemm", 0), ("gemm", 1), ("softmax", 0), ("rms_norm", 0), ("transpose", 0), ("gemm_w4a16", 0),
                                             ("linear_attention", 0), ("latency_load", 0)])
def test_agrees_with_cycle(name: str, shape: int) -> None:
    (found, *_) = tile.compare_with_cycle(launches(name, shape=shape), H100)
    assert found.ratio == pytest.approx(1.0, abs=0.10)
    assert found.tile_steps < found.cycle_steps / 2


@pytest.mark.slow
def test_a_later_cta_of_an_sm_waits_for_what_the_one_before_it_stores() -> None:
    """Short products, one CTA an SM: the step from the first wave to the second told a sixth less than `cycle`."""
    gpu = arch.load("a100-sxm-80gb")
    suite = suite_named("gemm")
    shape = next(n for n, sizes in enumerate(suite.shapes) if (sizes["m"], sizes["n"], sizes["k"]) == (8192, 4096, 64))
    (found,) = tile.compare_with_cycle(launches("gemm", gpu, shape), gpu)
    assert found.ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("fidelity", ["tile", "cycle"])
def test_waves_of_ctas_that_have_nothing_to_do(fidelity: str) -> None:
    """The first wave of 132 x 16 CTAs copies, those behind it ask for nothing."""
    x, waves = torch.empty(2112 * 1024, dtype=torch.float32, device="meta"), 16
    launch = bind_launch(odd.copy_between, (2112 * waves,), (x, x, 0, 2112), {"BLOCK": 1024, "num_warps": 4}, target=90)
    run = simulate_kernel(compile_launch(launch), launch, H100, fidelity=fidelity)
    assert run.bytes_moved["l2"] == pytest.approx(2 * x.numel() * 4, rel=0.01)
    assert run.bytes_moved["dram"] == pytest.approx(2 * x.numel() * 4, rel=0.01)


@pytest.mark.slow
def test_experts_of_uneven_load_bring_what_cycle_says_from_dram() -> None:
    """Waves of such a launch are unlike one another: two of them told a quarter more bytes than four."""
    gpu = arch.load("a100-sxm-80gb")
    shape = next(n for n, sizes in enumerate(suite_named("moe_gemm").shapes) if sizes["tokens"] == 2048 and sizes["experts"] == 256)
    (launch, *_) = launches("moe_gemm", gpu, shape)
    tile_run, cycle_run = (simulate_kernel(compile_launch(launch), launch, gpu, fidelity=fidelity) for fidelity in ("tile", "cycle"))
    assert tile_run.bytes_moved["dram"] == pytest.approx(cycle_run.bytes_moved["dram"], rel=0.03)
    assert tile_run.time_s == pytest.approx(cycle_run.time_s, rel=0.10)


@pytest.mark.exhaustive
@pytest.mark.parametrize("system", ["h100-sxm", "a100-sxm-80gb"])
def test_agrees_with_cycle_on_the_suites(system: str) -> None:
    """Within 10 % on 90 % of the launches: first two shapes and configs of every suite."""
    gpu = arch.load(system)
    capability = int(gpu.generation[3:])
    found = []
    for name, suite in all_suites().items():
        for shape, sizes in enumerate(suite.shapes[:2]):
            if suite.call is None and not suite.refuses(sizes, capability):
                for config in range(min(2, len(suite.configs(sizes)))):
                    found += tile.compare_with_cycle(launches(name, gpu, shape, config), gpu)
    errors = np.array([abs(each.ratio - 1.0) for each in found])
    assert len(errors) > 70
    assert (errors <= 0.10).mean() >= 0.90, sorted(((e.ratio, e.name) for e in found), key=lambda x: -abs(x[0] - 1.0))[:20]
    assert np.median([each.cycle_steps / each.tile_steps for each in found]) > 4
