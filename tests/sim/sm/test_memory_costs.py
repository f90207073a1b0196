"""What requests cost L2's slices and DRAM, and what must come from DRAM at least."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from presilicon import arch
from presilicon.arch.sm_timing import sm_timing
from presilicon.sim.sm import isa
from presilicon.sim.sm.footprint import Footprint, lone_halves, side_by_side
from presilicon.sim.sm.grid import FEW, beyond_few, dram_bytes_per_s, memory_costs
from presilicon.sim.sm.l2 import L2Cache
from presilicon.sim.sm.sharing import Sharing, at_least_distinct, touched_bytes, within_buffers

#: Instructions of the kernels below.
LOAD, STORE = 0, 1


def sharing(footprint: Footprint | None = None, dram: float = 1.0, l2: float = 1.0,
            both: Callable[[int], bool] = frozenset[int]().__contains__) -> Sharing:
    whole = np.ones((3, 2))
    return Sharing(dram * whole, whole, l2 * whole, 0.0 * whole, 0.0 * whole, np.zeros(2), both=both, reach=lambda: footprint)


def kernel(share: Sharing, counts: tuple[int, int] = (100, 0), gpu: str = "a100-sxm-80gb", **timing: float) -> Any:
    system = arch.load(gpu)
    numbers = SimpleNamespace(**{name: getattr(sm_timing(system.generation), name) for name in (
        "dram_access", "l1_latency", "dram_steady", "dram_turnaround")} | timing)
    return SimpleNamespace(system=system, share=share, timing=numbers, clock_hz=system.gpu.clock.boost_hz, written_back=0.0,
                           l2_bytes_each=np.array([512.0, 512.0]), table=SimpleNamespace(kind=np.array([isa.LOAD, isa.STORE])),
                           grid=SimpleNamespace(counts=np.array(counts)))


def costs(made: Any, asked: float, lines: float, kind: int = LOAD) -> tuple[float, float, float]:
    """Bytes of L2's slices, of DRAM, and those for which DRAM is taken, of a warp's request."""
    found = memory_costs(made, np.array([kind]), *(np.array([value]) for value in (asked, 0.0, lines, 0.0)))
    return tuple(float(part[0, 0]) for part in found[:3])  # type: ignore[return-value]


def strided(sectors: int) -> Footprint:
    """Sectors that lie so far apart."""
    start = np.arange(0, 64 * sectors, sectors)
    return Footprint(np.zeros(len(start), np.int64), np.linspace(0, 1, len(start)), start, start + 1, {LOAD: 32.0 * len(start)})


def test_accesses_count_together_however_many_they_are() -> None:
    many, one = np.full(1000, 64.0), np.array([1e6, 3e3, 2e3, 1e3])
    assert many[beyond_few(many)].sum() >= (1.0 - FEW) * many.sum()  # an unrolled loop: each of them is a thousandth
    assert beyond_few(one).tolist() == [True, False, False, False]


def test_whole_lines_cost_what_they_hold() -> None:
    assert costs(kernel(sharing()), 512.0, 4.0) == (512.0, 512.0, 512.0)


def test_a_half_line_takes_a_whole_turn_of_dram_and_of_no_slice() -> None:
    assert costs(kernel(sharing(), dram_access=96.0), 512.0, 8.0) == (512.0, 512.0, 768.0)


@pytest.mark.parametrize("gpu", ["a100-sxm-80gb", "l40s"])
def test_a_request_waits_for_the_last_of_its_lines(gpu: str) -> None:
    made, l2 = kernel(sharing(), gpu=gpu), arch.load(gpu).gpu.l2
    link, mean = l2.far_latency_clk - l2.latency_clk, made.system.dram.latency_clk
    assert (link > 0) == (l2.partitions > 1)
    waits = [float(memory_costs(made, np.array([LOAD]), *(np.array([value]) for value in (128.0 * lines, 0.0, float(lines), 0.0)))[5][0, 0])
             for lines in (1, 2, 4, 1024)]
    assert waits == pytest.approx([mean, mean + link / 4, mean + link * 7 / 16, mean + link / 2])


@pytest.mark.parametrize(("apart", "bytes_of_dram"), [(1, 512.0), (4, 1024.0), (3, 1024.0)])
def test_a_sector_of_a_line_takes_a_whole_turn_of_a_slice(apart: int, bytes_of_dram: float) -> None:
    # 16 lines, 32 bytes of each: 64 come from DRAM, of which the other half is of use only where it is asked for later
    slices, dram, taken = costs(kernel(sharing(strided(apart)), dram_access=96.0), 512.0, 16.0)
    assert (slices, dram) == (1024.0, bytes_of_dram)
    assert taken == bytes_of_dram * 96 / 64


def test_what_another_cta_begins_with_is_of_use() -> None:
    assert costs(kernel(sharing(strided(4), both={LOAD}.__contains__)), 512.0, 16.0)[1] == 512.0


def test_what_is_written_l2_makes_lines_of() -> None:
    assert costs(kernel(sharing(), counts=(0, 100)), 512.0, 16.0, STORE) == (512.0, 512.0, 512.0)


def test_slices_serve_equal_reads_once() -> None:
    assert costs(kernel(sharing(l2=0.25), gpu="h100-sxm"), 512.0, 4.0)[0] == 128.0


def test_dram_loses_most_where_half_is_written() -> None:
    def reached(reads: int, writes: int) -> float:
        made = kernel(sharing(), (reads, writes))
        return dram_bytes_per_s(made) / (made.timing.dram_steady * made.system.dram.bandwidth_bytes_per_s)

    assert reached(100, 0) == reached(0, 100) == 1.0
    # A100: copies reach 0.925, triads (two reads, one write) 0.92 to 0.94 of what is reached by reading (te42kyfo/gpu-benches)
    assert reached(100, 100) == pytest.approx(0.925, abs=0.01)
    assert reached(200, 100) == pytest.approx(0.93, abs=0.01)


def test_lone_halves_against_a_set() -> None:
    rng = np.random.default_rng(0)
    start, load = rng.integers(0, 200, 60), rng.integers(0, 2, 60)
    size = rng.integers(1, 4, 60)
    found = lone_halves(Footprint(load, np.zeros(60), start, start + size, {}), [0, 1])
    sectors = [{s + k for s, n, i in zip(start, size, load, strict=True) for k in range(n) if i == which} for which in (0, 1)]
    for which in (0, 1):
        pairs = {s // 2 for s in sectors[which]}
        lone = [p for p in pairs if not {2 * p, 2 * p + 1} <= sectors[0] | sectors[1]]
        assert found[which] == pytest.approx(len(lone) / len(pairs))


def test_no_fewer_bytes_come_from_dram_than_ctas_ask_for_distinct_ones() -> None:
    # 100 CTAs of 1,000 bytes each: 40 begin at places of their own, the others where another has begun
    first = {LOAD: np.array([*range(40), *[0] * 60]) * 1000}
    seen = sharing(dram=0.1)

    def total(size: int, share: Sharing = seen) -> float:
        found = at_least_distinct(share, first, {LOAD: (0, size)}, {LOAD: 1000.0}, 100, 4)
        return float(found.dram[:, LOAD].mean()) * 100 * 1000

    assert total(1_000_000) == pytest.approx(40_000), "sampled waves have seen 10,000"
    assert total(25_000) == pytest.approx(25_000), "but the buffer holds no more"
    assert total(1_000_000, sharing(dram=0.7)) == pytest.approx(70_000), "what is read again stays"


# -- what lies side by side ------------------------------------------------------------------------------------------------


def rows(count: int, row_bytes: int, pitch_bytes: int) -> Footprint:
    """A tile of rows that a CTA reads at once, and 64 KB further on again."""
    start = np.arange(count) * pitch_bytes // 32
    stop = -(-(np.arange(count) * pitch_bytes + row_bytes) // 32)
    load, turn = np.zeros(2 * count, np.int64), np.repeat([0, 1], count)
    return Footprint(load, turn / 2, np.append(start, start + 2048), np.append(stop, stop + 2048), {LOAD: 1.0}, turn)


@pytest.mark.parametrize(("heads", "alone"), [(1, 96.0 / 64), (2, 1.0), (4, 1.0)])
def test_heads_side_by_side_share_an_activation(heads: int, alone: float) -> None:
    # 16 tokens of 64 bytes a head, 256 bytes apart: one CTA by head; a request asks for 16 half lines
    moves = {LOAD: np.arange(heads) * 2}
    share = Sharing(*(getattr(sharing(), name) for name in ("dram", "missing", "l2", "far", "crossing", "serving")),
                    reach=lambda: rows(16, 64, 256), begins=lambda loads: moves)
    assert share.side_by_side(np.array([LOAD]), 2)[LOAD] == (64 * heads if heads < 4 else 16 * 256)
    assert costs(kernel(share, dram_access=96.0), 1024.0, 16.0)[2] == 1024 * alone


def test_a_row_across_two_lines_is_one_stretch() -> None:
    # rows of 160 bytes lie in two lines each, 80 bytes in one on the mean
    share = Sharing(*(getattr(sharing(), name) for name in ("dram", "missing", "l2", "far", "crossing", "serving")),
                    reach=lambda: rows(8, 160, 640))
    assert costs(kernel(share, dram_access=96.0), 1280.0, 16.0)[2] == 1280.0
    assert costs(kernel(sharing(), dram_access=96.0), 1280.0, 16.0)[2] == pytest.approx(1280 * 96 / 80)


def test_what_is_read_in_the_next_turn_is_no_neighbour() -> None:
    # 64 bytes of each row at a time, the next 64 in the next iteration
    turn = np.repeat(np.arange(4), 8)
    start = np.tile(np.arange(8) * 64, 4) + 2 * turn
    one = Footprint(np.zeros(32, np.int64), turn / 4, start, start + 2, {LOAD: 1.0}, turn)
    alone = np.zeros(1, np.int64)
    assert side_by_side(one, {LOAD: alone, LOAD + 1: alone}) == {LOAD: 64.0, LOAD + 1: 0.0}


# -- tensors that L2 keeps -------------------------------------------------------------------------------------------------


def launch_of(*sizes: int, programs: int = 100) -> Any:
    starts = np.cumsum([0, *sizes]).tolist()
    return SimpleNamespace(programs=programs, buffers=[SimpleNamespace(start=start, size_bytes=size)
                                                       for start, size in zip(starts, sizes, strict=False)])


@pytest.mark.parametrize(("sizes", "kept"), [((50, 40), (True, True)), ((60, 60), (False, False)), ((90, 9), (True, True)),
                                             ((95, 9), (False, True)), ((101, 30), (False, True))])
def test_tensors_stay_in_l2_as_far_as_they_fit_together(sizes: tuple[int, int], kept: tuple[bool, bool]) -> None:
    # 100 CTAs, each reads two tensors whole; of L2's 100 bytes the smaller takes its part first
    launch = launch_of(*sizes)
    storage = {n: (b.start, b.size_bytes) for n, b in enumerate(launch.buffers)}
    found = within_buffers(sharing(), launch, storage, dict(enumerate(map(float, sizes))), {}, 4, L2Cache(100.0, 100.0))
    assert found.dram[0].tolist() == pytest.approx([0.01 if once else 1.0 for once in kept])


def test_what_is_read_once_takes_no_room() -> None:
    launch = launch_of(1000, 90)
    storage = {n: (b.start, b.size_bytes) for n, b in enumerate(launch.buffers)}
    found = within_buffers(sharing(), launch, storage, {0: 10.0, 1: 90.0}, {}, 4, L2Cache(100.0, 100.0))
    assert found.dram[0].tolist() == pytest.approx([1.0, 0.01])


def test_what_no_cta_touches_takes_no_room_in_l2() -> None:
    # a paged cache of 1,000 bytes of which 100 CTAs read one byte each, twice; 50 bytes are written
    launch = launch_of(1000, 50)
    storage = {0: (0, 1000), 1: (1000, 50)}
    assert touched_bytes(launch, storage, {0: 2.0}, {1: 0.5}) == 250.0
    assert touched_bytes(launch, storage, {0: 20.0}, {1: 0.5}) == 1050.0
    assert touched_bytes(launch, {1: (1000, 50)}, {0: 2.0}, {1: 0.5}) == 250.0, "an access of which no tensor is known"
    assert touched_bytes(launch, {1: (1000, 50)}, {0: 200.0}, {1: 0.5}) == 1050.0
    warm = L2Cache(300.0, 200.0, warm=True)
    assert within_buffers(sharing(), launch, storage, {0: 1.0}, {1: 0.5}, 4, warm).dram.max() == 0.0
    assert within_buffers(sharing(), launch, storage, {0: 2.5}, {1: 0.5}, 4, warm).dram[0, 0] == pytest.approx(0.5)
