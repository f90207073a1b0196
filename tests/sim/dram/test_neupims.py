"""Tiles of NeuPIMs and Newton with ordinary accesses beside them: cycles by hand, and every timing checked apart from the scheduler."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch.dram import load
from presilicon.errors import MappingError
from presilicon.mapping.newton_refresh import TileClock, refreshed, seen_before, tile_estimate, waiting
from presilicon.mapping.pim_attention import tile_cycles
from presilicon.sim.dram.checker import check
from presilicon.sim.dram.neupims import Access, Tile, contention, simulate

DEVICES = ("neupims-hbm2", "newton-hbm2")


@pytest.mark.parametrize(("name", "period"), [("neupims-hbm2", 184), ("newton-hbm2", 187)])
def test_a_full_tile_takes_what_the_paper_says(name: str, period: int) -> None:
    device = load(name)  # 184 = 3 tFAW + tRCD + 32 x 2 + tRP + 2; one row buffer also waits for tRTP
    ends = [simulate(device, [Tile(32, 1, row) for row in range(n)], refresh=False).cycles for n in (4, 5)]
    assert ends[1] - ends[0] == period == tile_cycles(device, 32)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(("columns", "results"), [(1, 1), (8, 1), (32, 4), (24, 3)])
def test_the_closed_form_is_within_two_per_cent(name: str, columns: int, results: int) -> None:
    device = load(name)
    ends = [simulate(device, [Tile(columns, results, row) for row in range(n)], refresh=False).cycles for n in (10, 30)]
    assert (ends[1] - ends[0]) / 20 == pytest.approx(tile_cycles(device, columns, results), rel=0.02)


def test_a_vector_takes_a_buffer_write() -> None:
    device = load("neupims-hbm2")
    plain, fresh = (simulate(device, [Tile(32, 1, 0, False), Tile(32, 1, 1, vector)], refresh=False).cycles for vector in (False, True))
    assert fresh - plain == pytest.approx(device.timings["tGWRITE"], abs=15)  # some of it behind the precharge


def _reads(count: int) -> list[Access]:
    return [Access(i // 16 % 32, i // 512, write=i % 7 == 0) for i in range(count)]


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("refresh", [True, False])
def test_every_timing_holds_with_and_without_accesses(name: str, refresh: bool) -> None:
    device = load(name)
    tiles = [Tile(1 + row % 32, 1, row, row % 5 == 0) for row in range(60)]
    for accesses in ([], _reads(600)):
        run = simulate(device, tiles, accesses, refresh=refresh)
        verdict = check(run.stream, refresh="all-bank" if refresh else "off")
        assert verdict.clean, verdict.first
        counts = run.stream.counts()
        assert counts["COMP"] == sum(tile.columns for tile in tiles)
        assert counts.get("RD", 0) + counts.get("WR", 0) == len(accesses)


def test_dual_row_buffers_let_accesses_go_beside_the_units() -> None:
    tiles, accesses = [Tile(32, 1, row) for row in range(50)], _reads(2000)
    dual, single = (load(name) for name in DEVICES)
    alone = simulate(dual, tiles).units_cycle
    both = simulate(dual, tiles, accesses)
    assert both.units_cycle < 1.05 * alone  # the units hardly notice
    apart = simulate(dual, [], accesses).access_cycle
    assert both.cycles < 0.9 * (alone + apart)
    assert simulate(single, tiles, accesses).cycles > 0.95 * (simulate(single, tiles).cycles + simulate(single, [], accesses).cycles)


@pytest.mark.slow
def test_reads_beside_units_depend_on_the_queue() -> None:
    device = load("neupims-hbm2")
    shares = contention(device)
    refresh = device.timings["tRFC"] / device.timings["tREFI"]
    assert 1 - refresh - 0.02 < shares.alone <= 1.0  # what refresh leaves
    assert shares.kept > 0.9  # rows open ahead of the reads while units multiply
    assert 1.0 <= shares.units < 1.02
    assert shares.row_bus + shares.column_bus < 0.25
    in_order = contention(replace(device, controller={"queue": 1}))
    assert in_order.kept < 0.6 * shares.kept  # an activate that waits for its turn finds the units' windows
    single = contention(load("newton-hbm2"))
    assert single.units > 1.5  # with one row buffer each waits for the other
    assert single.beside < 0.6 * single.alone
    with pytest.raises(MappingError, match="GACT"):
        contention(load("hbm2"))


def test_a_queue_reorders_only_between_banks() -> None:
    device = load("neupims-hbm2")
    accesses = [Access(bank, row) for row in range(4) for bank in (0, 5, 10, 21) for _ in range(6)]
    runs = [simulate(device, [], accesses, queue=queue) for queue in (1, 24)]
    assert runs[1].access_cycle < runs[0].access_cycle
    for run in runs:
        assert check(run.stream, refresh="all-bank").clean
        reads = [(b, r) for n, b, r in zip(np.array(run.stream.names)[run.stream.command].tolist(), run.stream.bank.tolist(),
                                           run.stream.row.tolist(), strict=True) if n == "RD"]
        assert sorted(reads) == sorted((a.bank, a.row) for a in accesses)
        for bank in (0, 5, 10, 21):
            assert [r for b, r in reads if b == bank] == [a.row for a in accesses if a.bank == bank]
    with pytest.raises(MappingError, match="queue"):
        simulate(device, [], accesses, queue=0)


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("accesses", [0, 3000])
def test_refresh_goes_before_a_tile_that_it_would_cut(name: str, accesses: int) -> None:
    device = load(name)
    run = simulate(device, [Tile(32, 1, row) for row in range(100)], _reads(accesses))
    assert check(run.stream, refresh="all-bank").clean
    names = np.array(run.stream.names)[run.stream.command]
    inside = False
    for command in names.tolist():
        inside = (inside or command == "GACT") and command != "READRES"
        assert not (inside and command == "REFab")
    # Ranks in turn, half an interval apart, and never before they are due; Newton's last tile may end a little late.
    at = np.flatnonzero(names == "REFab")
    assert run.stream.bank[at].tolist() == [16 * (turn % 2) for turn in range(len(at))]
    late = run.stream.cycle[at] - 1950 * (1 + np.arange(len(at)))
    assert len(at) >= run.cycles // 1950 - 1
    assert (late >= 0).all()
    assert (late < 120).all()


@pytest.mark.parametrize("name", DEVICES)
def test_refresh_stops_units_for_longer_than_it_takes(name: str) -> None:
    device = load(name)
    tiles = [Tile(32, 1, row) for row in range(400)]
    ends = [simulate(device, tiles, refresh=refresh).cycles for refresh in (True, False)]
    assert ends[0] / ends[1] > 1 / (1 - 260 / 1950)  # either rank's stops them all
    free = replace(device, controller={"queue": 1, "estimate_per_bank": 0})
    sooner = simulate(free, tiles).cycles
    assert sooner < ends[0] if name == "neupims-hbm2" else sooner == ends[0]  # what the controller counts for open rows is waited for


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(("columns", "results"), [(32, 1), (32, 4), (4, 1), (25, 1), (9, 3)])
def test_the_clock_of_tiles_is_that_of_the_commands(name: str, columns: int, results: int) -> None:
    device = load(name)
    length, found = tile_cycles(device, columns, results), []
    for in_row in (1, 2, 4, 14):
        clock, count = TileClock(device), 140 // in_row * in_row
        for _ in range(count // in_row):
            clock.vector()
            clock.tiles(in_row, length, columns, results)
        tiles = [Tile(columns, results, row, row % in_row == 0) for row in range(count)]
        assert clock.shut + 1 == simulate(device, tiles).units_cycle
        base = simulate(device, tiles, refresh=False).units_cycle
        found.append((clock.shut + 1) / base)
    # The mean form knows nothing of how equal tiles fall into step with refresh.
    ahead = seen_before(device, length, columns, results)
    wait = waiting(length, tile_estimate(device, columns, results), ahead)
    mean = refreshed(device, [(np.array([1.0]), float(length), wait)])[0] / length
    assert mean == pytest.approx(np.mean(found), rel=0.09)


def test_ordinary_reads_go_on_while_a_rank_is_refreshed() -> None:
    shares = contention(load("neupims-hbm2"))
    assert shares.alone > 0.99  # queues of every bank are deep enough to read one rank while the other is refreshed
    assert contention(replace(load("neupims-hbm2"), controller={"queue": 128})).alone < 0.95  # one that sees eight rows is not
    assert shares.kept > 0.95


@pytest.mark.parametrize("tile", [Tile(33), Tile(0), Tile(4, 5), Tile(4, 1, 1 << 20)])
def test_tiles_that_no_row_holds_are_refused(tile: Tile) -> None:
    with pytest.raises(MappingError, match="columns"):
        simulate(load("neupims-hbm2"), [tile])


def test_other_devices_are_refused() -> None:
    with pytest.raises(MappingError, match="GACT"):
        simulate(load("aim-gddr6"), [Tile(4)])
    with pytest.raises(MappingError, match="banks"):
        simulate(load("neupims-hbm2"), [], [Access(64, 0)])


@pytest.mark.exhaustive
def test_ten_million_commands_break_no_timing() -> None:
    from presilicon.sim.dram.engine import Requests, play
    from presilicon.sim.dram.tables import compile_device

    pytest.importorskip("numba")
    seen = 0
    rng = np.random.default_rng(5)
    for name in ("aim-gddr6", "attacc-hbm3", "hbm2", "hbm3", "ddr4-3200", "lpddr5-6400", "gddr6-2000", "hbm2e", "newton-hbm2"):
        device = load(name)
        names = compile_device(device).names
        used = [n for n in ("RD", "WR", "MAC16", "MACAB") if n in names]
        count = 1_000_000
        command = np.array([names.index(n) for n in used])[rng.integers(0, len(used), count)]
        # Runs of hits in a row, as products and streams have them.
        bank = np.repeat(rng.integers(0, device.organisation.banks_per_channel, count // 8 + 1), 8)[:count]
        row = np.repeat(rng.integers(0, device.organisation.rows - 1, count // 8 + 1), 8)[:count]
        requests = Requests(np.repeat(command[::8], 8)[:count].astype(np.int64), bank.astype(np.int64), row.astype(np.int64),
                            np.zeros(count, np.int64))
        stream = play(device, requests, engine="numba")
        verdict = check(stream, refresh="all-bank")
        assert verdict.clean, (name, verdict.first)
        seen += verdict.commands
    assert seen > 10_000_000


@settings(max_examples=10, deadline=None)
@given(data=st.data(), name=st.sampled_from(DEVICES), refresh=st.booleans(), seed=st.integers(0, 2**20))
def test_random_heads_lengths_and_accesses_obey_every_timing(data: st.DataObject, name: str, refresh: bool, seed: int) -> None:
    device = load(name)
    rng = np.random.default_rng(seed)
    tiles: list[Tile] = []
    # Attention of requests: scores with as many heads in a row as fit, then context pages, one result a tile.
    for keys in data.draw(st.lists(st.integers(1, 600), min_size=1, max_size=2)):
        heads = data.draw(st.integers(1, 4))
        tiles += [Tile(8 * min(4, heads), min(4, heads), int(rng.integers(0, 4096)), group == 0) for group in range(-(-keys // 32))]
        tiles += [Tile(-(-min(512, keys - at) // 16), 1, int(rng.integers(0, 4096)), d == 0)
                  for _ in range(heads) for at in range(0, keys, 512) for d in range(4)]
    accesses = [Access(int(rng.integers(0, 32)), int(rng.integers(0, 64)), bool(rng.integers(0, 2)))
                for _ in range(data.draw(st.integers(0, 60)))]
    run = simulate(device, tiles, accesses, refresh=refresh)
    verdict = check(run.stream, refresh="all-bank" if refresh else "off")
    assert verdict.clean, verdict.first
    counts = run.stream.counts()
    assert counts["COMP"] == sum(tile.columns for tile in tiles)
    assert counts["READRES"] == sum(tile.results for tile in tiles)
    assert counts.get("GWRITE", 0) == sum(tile.vector for tile in tiles)
    assert counts.get("RD", 0) + counts.get("WR", 0) == len(accesses)
    if refresh:  # each rank once an interval, and no more often
        assert counts.get("REFab", 0) <= 2 * (run.cycles // device.timings["tREFI"] + 1)
