"""What kernels move whose addresses overlap, repeat or depend on data: bounds that physics sets, and assumptions that are named."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
torch = pytest.importorskip("torch", reason="needs torch for meta tensors")

sys.path.insert(0, str(Path(__file__).parent))

import odd  # noqa: E402

from presilicon import arch  # noqa: E402
from presilicon.mapping.triton import bind_launch, compile_launch, evaluate, take_apart  # noqa: E402
from presilicon.mapping.triton.pointers import buffers_behind  # noqa: E402
from presilicon.sim.sm.classes import middle_cta  # noqa: E402
from presilicon.sim.sm.footprint import SECTOR_BYTES, Footprint, fetched, footprint_of, joined, size_of  # noqa: E402
from presilicon.sim.sm.run import simulate_kernel  # noqa: E402

A100, H100 = arch.load("a100-sxm-80gb"), arch.load("h100-sxm")
FIDELITIES = ("cycle", "tile")


def meta(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.empty(*shape, dtype=dtype, device="meta")


def prepared(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], options: dict[str, Any], target: str) -> Any:
    launch = bind_launch(kernel, grid, args, options, target=target)
    return compile_launch(launch), launch


PROGRAMS, LENGTH, PAGE, D = 264, 32, 32, 64
PAGE_BYTES = PROGRAMS * LENGTH * PAGE * D * 2


@cache
def pages(target: str, known: bool) -> Any:
    count = PROGRAMS * LENGTH
    table = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(torch.int32) if known else meta(count, dtype=torch.int32)
    q, held = meta(PROGRAMS * 16, D, dtype=torch.float16), meta(count * PAGE, D, dtype=torch.float16)
    args = (q, held, table, meta(PROGRAMS, 16, PAGE), LENGTH)
    return prepared(odd.pages, (PROGRAMS,), args, {"PAGE": PAGE, "D": D, "num_warps": 4, "num_stages": 3}, target)


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize(("target", "system"), [("sm_80", A100), ("sm_90", H100)])
@pytest.mark.parametrize("known", [True, False])
def test_pages_that_a_table_names_come_from_dram(target: str, system: Any, known: bool, fidelity: str) -> None:
    found = simulate_kernel(*pages(target, known), system, fidelity=fidelity)
    assert found.bytes_moved["dram"] >= PAGE_BYTES
    assert found.bytes_moved["dram"] == pytest.approx(PAGE_BYTES, rel=0.15)
    assert found.time_s >= PAGE_BYTES / system.dram.bandwidth_bytes_per_s
    assert any("address depends on what" in text for text in found.assumptions) is not known


def test_a_table_that_is_copied_asynchronously_is_followed_through_shared_memory() -> None:
    compiled, launch = pages("sm_80", True)
    assert "LDGSTS" in compiled.sass
    run = evaluate(compiled, launch, (3, 0, 0))
    assert run.assumptions == ()
    assert sum(t.unknown for t in run.tallies.values()) == 0
    assert sum(t.bytes for i, t in run.tallies.items() if run.program.memory_ops[i].kind == "copy") >= PAGE_BYTES // PROGRAMS


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize("system", [A100, H100], ids=lambda s: s.name)
@pytest.mark.parametrize("size", [1 << 20, 1 << 22, 1 << 24])
def test_no_stream_is_faster_than_dram_goes_on(size: int, system: Any, fidelity: str) -> None:
    from presilicon.arch.sm_timing import sm_timing
    from presilicon.validate.kernels.rows import elementwise_chain

    args = (meta(size), meta(size), meta(size), size)
    made = prepared(elementwise_chain, (size // 1024,), args, {"OPS": 1, "BLOCK": 1024, "num_warps": 4}, system.generation)
    found = simulate_kernel(*made, system, fidelity=fidelity)
    steady = system.dram.bandwidth_bytes_per_s * sm_timing(system.generation).dram_steady
    assert found.bytes_moved["dram"] == pytest.approx(3 * 4 * size, rel=0.01)
    assert found.time_s - found.launch_s >= found.bytes_moved["dram"] / steady * (1 - 1e-9)


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize("system", [A100, H100], ids=lambda s: s.name)
def test_a_stencil_reads_its_input_once(system: Any, fidelity: str) -> None:
    n = 2048
    made = prepared(odd.cross, (n // 16, n // 128), (meta(n, n), meta(n, n), n, n), {"ROWS": 16, "COLUMNS": 128, "num_warps": 4},
                    system.generation)
    found = simulate_kernel(*made, system, fidelity=fidelity)
    assert found.bytes_moved["dram"] == pytest.approx(2 * 4 * n * n, rel=0.1)


@pytest.mark.parametrize("system", [A100, H100], ids=lambda s: s.name)
def test_windows_of_one_buffer_past_l1_come_from_dram_once(system: Any) -> None:
    n, block, taps = 1 << 24, 1024, 9
    made = prepared(odd.windows, (n // block,), (meta(n + taps * 128), meta(n), 128), {"TAPS": taps, "BLOCK": block, "num_warps": 4},
                    system.generation)
    found = simulate_kernel(*made, system)
    assert found.bytes_moved["l2"] > 9 * 4 * n
    assert found.bytes_moved["dram"] == pytest.approx(2 * 4 * n, rel=0.1)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_rows_that_warps_share_come_into_l1_once(fidelity: str) -> None:
    height, width, taps, rows = 2048, 4096, 4, 64
    held = meta(height, width, dtype=torch.bfloat16), meta(height, width, dtype=torch.bfloat16)
    made = prepared(odd.rows_before, (width // 64, height // rows), (*held, width),
                    {"TAPS": taps, "ROWS": rows, "COLUMNS": 64, "num_warps": 4}, "sm_90")
    found = simulate_kernel(*made, H100, fidelity=fidelity)
    assert found.bytes_moved["l2"] == pytest.approx(2 * height * width * ((rows + taps - 1) / rows + 1), rel=0.01)
    assert found.bytes_moved["dram"] == pytest.approx(2 * 2 * height * width, rel=0.02)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_what_l1_holds_takes_no_bytes_from_the_load_before_it(fidelity: str) -> None:
    n = (1 << 24) + 256  # the last CTA is not full, so that CTAs go two ways
    made = prepared(odd.update, (-(-n // 1024),), (meta(n), meta(n, dtype=torch.bfloat16), n), {"BLOCK": 1024}, "sm_90")
    found = simulate_kernel(*made, H100, fidelity=fidelity)
    assert found.bytes_moved["dram"] == pytest.approx((4 + 2 + 4) * n, rel=0.01)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_rows_that_are_written_again_and_again_stay_in_l2(fidelity: str) -> None:
    programs, block = 4096, 4096
    made = prepared(odd.partial_sums, (programs,), (meta(programs, block), meta(8, block)), {"GROUPS": 8, "BLOCK": block}, "sm_90")
    found = simulate_kernel(*made, H100, fidelity=fidelity)
    assert found.bytes_moved["dram"] == pytest.approx(4 * programs * block, rel=0.01)
    assert found.bytes_moved["l2"] == pytest.approx(2 * 4 * programs * block, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_atomics_to_a_small_buffer_cost_dram_no_more_than_it_holds(fidelity: str) -> None:
    n, bins = 1 << 22, 256
    made = prepared(odd.scatter, (n // 1024,), (meta(n, dtype=torch.int32), meta(bins, dtype=torch.int32)), {"BLOCK": 1024}, "sm_90")
    found = simulate_kernel(*made, H100, fidelity=fidelity)
    assert 4 * n <= found.bytes_moved["dram"] <= 4 * n + 2 * 4 * bins
    assert any("address depends on what" in text and "odd.py" in text for text in found.assumptions)


def test_pointers_are_known_where_addresses_are_not() -> None:
    for target in ("sm_80", "sm_90"):
        made = prepared(odd.scatter, (64,), (meta(1 << 16, dtype=torch.int32), meta(256, dtype=torch.int32)), {"BLOCK": 1024}, target)
        program = take_apart(made[0])
        kinds = {i: op.kind for i, op in program.memory_ops.items() if op.space == "global"}
        behind = {kinds[i]: buffers for i, buffers in buffers_behind(program, made[1], kinds).items()}
        assert behind == {"load": (made[1].buffers[0],), "atomic": (made[1].buffers[1],)}


def test_the_pointer_of_a_view_leads_to_its_storage() -> None:
    both = meta(2, 1 << 16, dtype=torch.int32)
    made = prepared(odd.scatter, (64,), (both[1], meta(256, dtype=torch.int32)), {"BLOCK": 1024}, "sm_90")
    program = take_apart(made[0])
    kinds = {i: op.kind for i, op in program.memory_ops.items() if op.space == "global"}
    behind = {kinds[i]: buffers for i, buffers in buffers_behind(program, made[1], kinds).items()}
    assert behind == {"load": (made[1].buffers[0],), "atomic": (made[1].buffers[1],)}
    assert made[1].buffers[0].size_bytes == 2 * 4 << 16


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_an_early_return_that_data_decides_is_not_taken_for_the_kernel(fidelity: str) -> None:
    rows, n = 1056, 8192

    def simulated(marks: Any) -> Any:
        made = prepared(odd.early_return, (rows,), (meta(rows, n), marks, n), {"BLOCK": 1024, "num_warps": 4}, "sm_90")
        return simulate_kernel(*made, H100, fidelity=fidelity)

    unknown, known = simulated(meta(rows, dtype=torch.int64)), simulated(torch.zeros(rows, dtype=torch.int64))
    assert known.assumptions == ()
    assert unknown.time_s == pytest.approx(known.time_s, rel=0.02)
    assert unknown.flops == known.flops > 0
    assert any("branch depends on" in text and "more work" in text for text in unknown.assumptions)


def test_an_early_return_can_be_asked_for() -> None:
    made = prepared(odd.early_return, (4,), (meta(4, 8192), meta(4, dtype=torch.int64), 8192), {"BLOCK": 1024}, "sm_90")
    run = evaluate(*made, (0, 0, 0))
    name = next(a.name for a in run.assumptions if a.kind == "branch")
    holds = next(a for a in run.assumptions if a.kind == "branch").holds
    other = evaluate(*made, (0, 0, 0), assume={name: not holds})
    assert other.instructions < run.instructions
    assert not any("more work" in a.choice for a in other.assumptions)


def test_equal_assumptions_of_a_line_are_one() -> None:
    args = (meta(4 * 4096, dtype=torch.int32), meta(256, dtype=torch.int32))
    made = prepared(odd.histogram, (4,), args, {"BINS": 256, "BLOCK": 4096}, "sm_90")
    run = evaluate(*made, (0, 0, 0))
    branches = [a for a in run.assumptions if a.kind == "branch"]
    assert len(branches) == len({(a.where, a.choice) for a in branches})
    assert sum(a.times for a in branches) >= 8
    merged = next(a for a in branches if a.times > 1)
    assert merged.name == f"line {merged.where.split(':')[-1]}"
    assert evaluate(*made, (0, 0, 0), assume={merged.name: True}).assumptions != run.assumptions


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
def test_tile_moves_the_bytes_of_cycle(causal: bool) -> None:
    from test_classes import attention

    tile, cycle = (simulate_kernel(*attention("sm_90", 8192, causal), H100, fidelity=fidelity) for fidelity in ("tile", "cycle"))
    assert tile.bytes_moved["dram"] == pytest.approx(cycle.bytes_moved["dram"], rel=0.05)


@cache
def apart(specialised: bool, target: str) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    n = 2048
    maps = [TensorDescriptor(meta(n, n, dtype=torch.float16), [n, n], [n, 1], block) for block in ([128, 64], [128, 64], [128, 128])]
    options = {"PROGRAMS": 148, "BM": 128, "BN": 128, "BK": 64, "APART": specialised, "num_warps": 4, "num_stages": 3}
    return prepared(odd.roles, (148,), (*maps, n // 128, (n // 128)**2, n // 64), options, target)


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_warps_of_their_own_fetch_and_multiply(fidelity: str) -> None:
    system = arch.load("b200")
    one, other = (simulate_kernel(*apart(specialised, "sm_100"), system, fidelity=fidelity) for specialised in (True, False))
    assert one.tensor_flops == other.tensor_flops == 2 * 2048**3
    assert one.bytes_moved["dram"] == pytest.approx(3 * 2 * 2048**2, rel=0.05)
    assert 0.5 < one.time_s / other.time_s < 1.5


def test_barriers_that_a_guard_leaves_out_are_in_the_trace() -> None:
    run = evaluate(*apart(True, "sm_100"), (0, 0, 0), trace=True)
    assert run.trace is not None
    code, segments = run.program.listing.instructions, run.program.segments
    assert run.trace.skipped
    assert all(code[segments[run.trace.segments[step]].last].base == "BAR" and who for step, who in run.trace.skipped)


# -- footprints ------------------------------------------------------------------------------------------------------------


def test_stretches_are_joined() -> None:
    rng = np.random.default_rng(0)
    start = rng.integers(0, 500, 80)
    stop = start + rng.integers(1, 12, 80)
    assert size_of(*joined(start, stop)) == len({k for a, b in zip(start, stop, strict=True) for k in range(a, b)})


def test_a_footprint_is_what_a_walk_touches() -> None:
    n = 512
    compiled, launch = prepared(odd.cross, (n // 16, n // 128), (meta(n, n), meta(n, n), n, n), {"ROWS": 16, "COLUMNS": 128}, "sm_90")
    run = evaluate(compiled, launch, (3, 2, 0), trace=True)
    found = footprint_of(run, 1 << 20)
    assert found is not None
    for kind in ("load", "store"):
        loads = [i for i, op in run.program.memory_ops.items() if op.space == "global" and op.kind == kind]
        mine = found.of(loads)
        touched = {int(a) // SECTOR_BYTES for t in run.walk() if t.instruction in loads for a in t.addresses[t.active]}
        assert size_of(*joined(mine.start, mine.stop)) == len(touched)
        asked = sum(mine.asked.values()) / SECTOR_BYTES
        assert asked == pytest.approx(len(touched), rel=1e-3) if kind == "load" else asked >= len(touched)  # L1 keeps what is read alone


def test_a_footprint_holds_the_iterations_that_a_trace_leaves_out() -> None:
    from test_run import gemm

    compiled, launch = gemm(1024, (64, 64, 32), 3, 4, "sm_80")
    whole, closed = (footprint_of(evaluate(compiled, launch, (5, 0, 0), trace=True, close=close), 0.0) for close in (False, True))
    assert whole is not None
    assert closed is not None
    for one, other in zip(joined(whole.start, whole.stop), joined(closed.start, closed.stop), strict=True):
        assert np.array_equal(one, other)
    assert closed.asked == pytest.approx(whole.asked)


def test_what_ctas_fetch_together_against_a_set() -> None:
    # two windows of ten sectors, three apart, that every CTA reads eight further on
    one = Footprint(np.array([1, 2]), np.array([0.0, 0.5]), np.array([0, 3]), np.array([10, 13]), {1: 320.0, 2: 320.0})
    shift = 8 * np.arange(6)
    touched = {k + s for s in shift.tolist() for k in range(13)}
    assert fetched(one, [{1: shift, 2: shift}], [0.0], [100.0], 1e9) == [SECTOR_BYTES * len(touched)]
    # the next wave reads what the first has left, where L2 keeps it; else again
    waves = [{1: shift, 2: shift}] * 2
    assert fetched(one, waves, [0.0, 100.0], [100.0, 100.0], 1e9) == [SECTOR_BYTES * len(touched), 0.0]
    again = fetched(one, waves, [0.0, 1e6], [100.0, 100.0], 1e3)
    assert again is not None
    assert again[1] == again[0]


def test_the_middle_of_a_grid_is_on_no_edge() -> None:
    assert middle_cta((7, 1, 1)) == 3
    x, y = 16, 8
    number = middle_cta((x, y, 1))
    assert 0 < number % x < x - 1
    assert 0 < number // x < y - 1
