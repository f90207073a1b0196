"""L2: its partitions against lines placed one by one, its atomic units against public measurements."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hand import EXIT, Op, play

from presilicon import arch
from presilicon.arch.sm_timing import sm_timing
from presilicon.sim.sm import isa
from presilicon.sim.sm.l2 import SLICE_BYTES, L2Cache, atomic_passes, blocks_of, scattered
from presilicon.sim.sm.windows import run_windows, through_windows

TWO, ONE = L2Cache(1e6, 1e6, partitions=2), L2Cache(1e6, 1e6, partitions=1)


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_copies_are_those_of_lines_placed_one_by_one(times: int, before: int) -> None:
    rng = np.random.default_rng(times + 10 * before)
    lines = 200_000
    home, sides = rng.integers(0, 2, lines), rng.integers(0, 2, (lines, before + times))
    away = sides != home[:, None]
    had = away[:, :before].any(axis=1)
    made = ~had & away[:, before:].any(axis=1)
    assert TWO.fetched(np.array([before]), np.array([times]))[0] == pytest.approx(made.mean(), abs=0.005)
    assert TWO.far(np.array([before]))[0] == pytest.approx((away[:, before] & ~had).mean(), abs=0.005)
    assert ONE.fetched(np.array([before]), np.array([times]))[0] == ONE.far(np.array([before]))[0] == 0.0


@pytest.mark.parametrize(("moved", "written"), [(500, 0), (2000, 0), (2000, 1000), (6000, 3000), (1000, 1000)])
def test_write_backs_are_those_of_lines_that_are_replaced_one_by_one(moved: int, written: int) -> None:
    rng = np.random.default_rng(moved + written)
    places, before = 2000, 1200
    back, own = 0, 0
    for _ in range(5):
        dirty = rng.permutation(places) < before
        for store in rng.permutation(moved) < written:
            place = rng.integers(places)
            back += dirty[place]
            own += store
            dirty[place] = store
    # what the kernel itself writes counts as written while it runs
    found = L2Cache(float(places), float(before), dirty=True).written_back(float(moved), float(written))
    assert found == pytest.approx((back - own) / 5, abs=0.02 * places)


def test_l2_that_is_not_dirty_writes_nothing_back() -> None:
    assert L2Cache(50e6, 30e6).written_back(1e9, 0.0) == 0.0
    assert L2Cache(50e6, 30e6, dirty=True).written_back(0.0, 0.0) == 0.0


def test_what_two_partitions_keep_is_what_sweeps_of_an_a100_and_an_h100_show() -> None:
    # te42kyfo/gpu-benches: full bandwidth at 19.5 (A100) and 22.8 MB (H100) that all SMs read, not at 22.8 and 26.6;
    # at 25.6 and 33.2 MB of which each part is read by one CTA at a time, not at 30.7 and 36.4 (kB of 1,024 bytes)
    sweeps = (("a100-sxm-80gb", (19_456, 22_764), (25_600, 30_720)), ("h100-pcie", (22_764, 26_632), (33_152, 36_352)))
    for name, all_read, one_reads in sweeps:
        system = arch.load(name)
        l2 = L2Cache.of(system, sm_timing(system.generation), warm=False)
        shared, single = (l2.capacity_bytes / float(l2.places(np.array([times]))[0]) / 1024 for times in (100, 1))
        # the longest size at full speed is met within what `l2_kept` leaves out (5 %), and the next one is beyond it
        assert 0.95 * all_read[0] < shared * 1.06
        assert shared < all_read[1]
        assert 0.95 * one_reads[0] < single * 1.06
        assert single < one_reads[1]
    assert arch.load("l40s").gpu.l2.partitions == 1


def test_what_comes_round_again_is_still_there_as_in_sweeps_of_an_l40_and_an_h100() -> None:
    # te42kyfo/gpu-benches, gpu-latency, clocks a load of chains gone through in turn: kB, share found in L2 (276 and 475 clocks if all, 632
    # and 650 if none)
    l40 = {93_726: 284.2, 101_378: 368.9, 105_435: 443.2, 109_655: 494.7, 114_043: 531.4, 118_607: 561.5, 185_030: 630.4}
    h100 = {47_045: 466.8, 51_750: 484.3, 56_926: 563.4, 62_620: 626.5, 68_883: 644.0}
    for name, sweep, all_there, none in (("l40s", l40, 276.5, 632.0), ("h100-pcie", h100, 475.0, 650.0)):
        system = arch.load(name)
        l2 = L2Cache.of(system, sm_timing(system.generation), warm=False)
        for size, clocks in sweep.items():
            assert l2.outlasting(1024.0 * size) == pytest.approx((none - clocks) / (none - all_there), abs=0.18), size


def test_windows_count_copies_and_compiled_is_plain() -> None:
    # three lines: one asked for by two CTAs, one by one, and again by two in the next window
    index, key = np.zeros(5, np.int64), np.array([0, 0, 1, 0, 0])
    size, window = np.full(5, 100.0), np.array([0, 0, 0, 1, 1])

    def taken(partitions: int, plain: bool) -> tuple[list[float], float]:
        last, touched, found = np.full(2, -1e30), np.zeros(2), np.zeros((1, 5))
        given: Any = (1e9, 0.0, last, touched, np.array([partitions]), found)
        at = run_windows(np.arange(5), window, index, key, size, *given) if plain else through_windows(index, key, size, window, *given)
        return found[0].tolist(), float(at)

    accesses, dram, waiting, far, across = taken(2, False)[0]
    assert (accesses, dram, waiting) == (5.0, 2.0, 3.0)
    assert across == pytest.approx((1 - 0.5**2) + (1 - 0.5) + (0.5**2 - 0.5**4))
    assert far == pytest.approx(2 * 0.5 * 0.5**2)
    assert taken(2, False)[1] == pytest.approx(100 * (2 * (2 - 0.5**2) + (2 - 0.5)))
    assert taken(1, False) == ([5.0, 2.0, 3.0, 0.0, 0.0], 300.0)
    assert taken(2, True) == taken(2, False)


def _passes(addresses: list[int]) -> int:
    by_sector: dict[int, dict[int, int]] = {}
    for address in addresses:
        words = by_sector.setdefault(address // 32, {})
        words[address] = words.get(address, 0) + 1
    return sum(max(words.values()) for words in by_sector.values())


def test_atomics_of_a_warp_against_a_count_by_sector() -> None:
    rng = np.random.default_rng(0)
    for words in (1, 3, 8, 40, 1000):
        warp = rng.integers(0, words, 32) * 4
        assert atomic_passes(warp) == _passes(warp.tolist())
    assert atomic_passes(np.zeros(0, np.int64)) == 0
    drawn = [_passes((rng.integers(0, 256, 32) * 4).tolist()) for _ in range(2000)]
    assert scattered(1024, 4, 32)[0] == pytest.approx(np.mean(drawn), rel=0.03)


def _rate(addresses: int, stride: int) -> float:
    """Words a clock of a machine full of warps whose threads go round `addresses` places so many bytes apart."""
    warp = np.arange(32) % addresses * stride
    starts = np.arange(addresses) * stride
    serving = TWO_SLICES.serving(blocks_of(starts, np.zeros(1, np.int64), 512)) or 0.6 * TWO_SLICES.slices
    first = np.arange(0, max(addresses, 32), 32)[:, None] + np.arange(32)
    passes = np.mean([atomic_passes(row % addresses * stride) for row in first]) if addresses >= 32 else atomic_passes(warp)
    return float(32 / passes * serving)


TWO_SLICES = replace(TWO, slices=80.0)


@pytest.mark.parametrize(("addresses", "stride", "measured"), [
    # H100, red.u32, G/s at a clock of 1.05 to 1.58 GHz
    (1, 4, 1.4), (4, 4, 5.4), (32, 4, 12.6), (2048, 4, 165.4), (32, 128, 10.5), (256, 128, 64.9), (2048, 128, 70.5), (16384, 128, 83.1),
])
def test_rates_of_atomics_lie_where_they_were_measured(addresses: int, stride: int, measured: float) -> None:
    low, high = _rate(addresses, stride) * 1.05, _rate(addresses, stride) * 1.58
    assert 0.75 * low < measured < 1.25 * high


def test_what_slices_give_to_several_sms_arrives_at_each() -> None:
    own = Op(isa.LOAD, "memory", write=0, l2=128.0)
    equal = replace(own, slices=32.0)
    use = Op(pipe="alu", wait=0b1)

    def clocks(loads: list[Op], delivered: float) -> int:
        found = play([[*loads, use, EXIT]], l2_rate=16.0, delivered=delivered)
        assert found.busy["l2"] == sum(128.0 if load.slices < 0 else load.slices for load in loads) / 16
        assert found.busy["l2 port"] == len(loads) * 128 / min(64.0, delivered)
        return found.cycles - 3

    assert clocks([own] * 40, 32.0) == 40 * 128 / 16
    assert clocks([equal] * 40, 32.0) == 40 * 128 / 32
    assert clocks([equal] * 40, 1e9) == 40 * 128 / 64
    # both kinds in turn: the slices are behind by what only one SM reads, the port never
    assert clocks([own, equal] * 20, 32.0) == pytest.approx(20 * (128 + 32) / 16, abs=2)


def test_far_lines_queue_on_the_link_and_atomics_at_their_slice() -> None:
    load = Op(isa.LOAD, "memory", write=0, l2=128.0, load_latency=200.0)
    use = Op(pipe="alu", wait=0b1)
    crossing = replace(load, link=128.0)
    many = play([[crossing] * 50 + [use, EXIT]], link=16.0)
    assert many.cycles == 1 + 50 * 128 // 16 + 200 + 2
    assert many.busy["l2 link"] == 50 * 128 / 16
    assert play([[crossing] * 50 + [use, EXIT]], link=1e9).cycles == play([[load] * 50 + [use, EXIT]]).cycles
    red = Op(isa.STORE, "memory", l2=32.0, atomics=40.0)
    found = play([[red] * 30 + [EXIT]])
    assert found.cycles == 1 + 30 * 40
    assert found.busy["l2 atomics"] == 30 * 40


torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import contended  # noqa: E402

from presilicon.mapping.triton import bind_launch, compile_launch  # noqa: E402
from presilicon.sim.sm.run import FIDELITIES, simulate_kernel  # noqa: E402

H100, A100 = arch.load("h100-sxm"), arch.load("a100-sxm-80gb")


def _run(kernel: Any, programs: int, args: tuple[Any, ...], meta: dict[str, Any], system: Any = H100, fidelity: str = "cycle") -> Any:
    launch = bind_launch(kernel, (programs,), args, meta, target=system.generation)
    return simulate_kernel(compile_launch(launch), launch, system, fidelity=fidelity)


def _words(count: int, kind: Any = None) -> Any:
    return torch.empty(count, dtype=kind or torch.int32, device="meta")


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_one_address_takes_a_clock_for_every_thread(fidelity: str) -> None:
    rounds, programs = 16, 1056
    meta = {"ROUNDS": rounds, "BLOCK": 256, "num_warps": 8}
    hot = _run(contended.strided, programs, (_words(1 << 20), 1, 1), meta, fidelity=fidelity)
    threads = rounds * programs * 256
    # the compiler may join the lanes of a warp itself (a vote and one add); what is left of them takes a clock each
    adds = round(hot.bytes_moved["l2"] / 32)
    assert adds in (threads // 32, threads)
    assert (hot.time_s - hot.launch_s) * hot.clock_hz == pytest.approx(threads if adds == threads else adds, rel=0.1)
    line = _run(contended.strided, programs, (_words(1 << 20), 32, 1), meta, fidelity=fidelity)
    assert (line.time_s - line.launch_s) * line.clock_hz == pytest.approx(threads / 8, rel=0.1), "a sector of eight words a clock"
    wide = _run(contended.strided, programs, (_words(1 << 20), 1 << 18, 1), meta, fidelity=fidelity)
    assert (wide.time_s - wide.launch_s) * wide.clock_hz == pytest.approx(threads / 8 / (80 * 0.6), rel=0.3), "all slices"
    assert line.limiter == "l2 atomics"


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_two_instructions_of_a_thread_queue_at_the_slices_of_both(fidelity: str) -> None:
    # 128 counters lie in one slice, 256 in two: twice the sectors, two slices
    few, many = (_run(contended.counters, 20_000, (_words(1024),), {"COUNT": count, "num_warps": 4}, fidelity=fidelity)
                 for count in (128, 256))
    for found, sectors in ((few, 16), (many, 32)):
        assert found.limiter == "l2 atomics"
        assert (found.time_s - found.launch_s) * found.clock_hz == pytest.approx(20_000 * sectors / (sectors // 16), rel=0.05)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_sectors_that_several_loads_touch_come_once(fidelity: str) -> None:
    rows, columns, stride = 1024, 1024, 16384  # rows a power of two apart
    args = (_words(rows * stride), _words(rows * columns), stride, 2, rows, columns)
    launch = bind_launch(contended.every_other, (rows // 64, columns // 64), args, {"BLOCK": 64}, target=H100.generation)
    found = simulate_kernel(compile_launch(launch), launch, H100, fidelity=fidelity)
    assert found.bytes_moved["dram"] == pytest.approx(2 * 4 * rows * columns + 4 * rows * columns, rel=0.01)


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_a_sum_of_each_cta_into_one_place_costs_next_to_nothing(fidelity: str) -> None:
    n = 1 << 22
    found = _run(contended.counter, n // 1024, (_words(1, torch.float32), _words(n, torch.float32), n), {"BLOCK": 1024}, fidelity=fidelity)
    assert found.pipe_busy.get("l2 atomics", 0.0) < 0.5
    assert found.limiter != "l2 atomics"


@pytest.mark.slow
def test_one_partition_of_the_same_size_keeps_more() -> None:
    # all SMs go through 30 MB in step; two waves of CTAs: the second finds it where L2 keeps it
    columns = 30 << 18
    slots = 108 * 16
    args = (_words(columns, torch.float32), _words(2 * slots * 128, torch.float32), columns)
    one = A100.override({"gpu.l2.partitions": 1, "gpu.l2.far_latency": 200, "gpu.l2.far_bandwidth": 5120})
    two_parts, one_part = (_run(contended.twice, 2 * slots, args, {"BLOCK": 128, "num_warps": 4}, system) for system in (A100, one))
    written = 4 * 128 * 2 * slots
    assert one_part.bytes_moved["dram"] == pytest.approx(4 * columns + written, rel=0.02)
    assert two_parts.bytes_moved["dram"] == pytest.approx(2 * 4 * columns + written, rel=0.02)
    assert two_parts.time_s >= one_part.time_s
    assert SLICE_BYTES * L2Cache.of(A100, sm_timing("sm_80"), warm=False).slices == A100.gpu.l2.bytes_per_clk


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_ctas_that_leave_at_once_take_no_bytes_from_the_others(fidelity: str) -> None:
    # 64 MB that L2 would keep, each row read by one CTA of four
    used, columns, block = 2048, 8192, 128
    args = (_words(used * columns, torch.float32), _words(used * block, torch.float32), used, columns)
    found = _run(contended.some_leave, 4 * used, args, {"BLOCK": block, "num_warps": 4}, arch.load("l40s"), fidelity)
    assert found.bytes_moved["dram"] == pytest.approx(4 * used * (columns + block), rel=0.02)
