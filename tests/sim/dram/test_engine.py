"""The constraint engine: earliest legal cycle of single commands, on every shipped device, and streams under the checker."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from presilicon.arch import dram
from presilicon.errors import MappingError, UnknownNameError
from presilicon.sim.dram import engine
from presilicon.sim.dram.checker import check
from presilicon.sim.dram.engine import Channel, Requests, Stream, play
from presilicon.sim.dram.tables import compile_device

DDR4 = dram.load("ddr4-3200")
AIM = dram.load("aim-gddr6")
ATTACC = dram.load("attacc-hbm3")


def requests(device, *steps):
    tables = compile_device(device)
    table = np.array([(tables.index(name), bank, row, wait) for name, bank, row, wait in steps], dtype=np.int64)
    return Requests(*(table[:, part].copy() for part in range(4)))


@pytest.mark.parametrize(("first", "second", "other_bank", "cycles"), [
    ("ACT", "RD", 0, 22), ("ACT", "WR", 0, 22), ("ACT", "PRE", 0, 52), ("ACT", "ACT", 0, 74),
    ("ACT", "ACT", 1, 8), ("ACT", "ACT", 4, 4), ("PRE", "ACT", 0, 22), ("PRE", "ACT", 1, 0),
    ("RD", "RD", 1, 8), ("RD", "RD", 4, 4), ("WR", "WR", 1, 8), ("RD", "WR", 4, 12), ("RD", "PRE", 0, 12), ("RD", "PRE", 1, 0),
    ("WR", "RD", 1, 16 + 4 + 12), ("WR", "RD", 4, 16 + 4 + 4), ("WR", "PRE", 0, 16 + 4 + 24), ("REFab", "ACT", 7, 560),
])
def test_earliest_cycle_after_one_command_of_ddr4(first, second, other_bank, cycles):
    channel = Channel(DDR4)
    channel.issue(first, cycle=1000, row=3)
    assert channel.earliest(second, other_bank) == (1000 + cycles if cycles else 0)


@pytest.mark.parametrize(("device", "first", "second", "cycles"), [
    (AIM, "ACT16", "MAC16", 56), (AIM, "ACT16", "AF16", 86), (AIM, "ACT16", "EWMUL16", 25), (AIM, "ACT16", "WRA16", 28),
    (AIM, "ACT16", "RDCP", 66), (AIM, "ACT16", "WRCP", 48), (AIM, "ACT16", "RD", 36), (AIM, "MAC16", "MAC16", 2),
    (AIM, "MAC16", "PREA", 12), (AIM, "EWMUL16", "PREA", 39), (AIM, "PREA", "ACT16", 32), (AIM, "TMOD", "WRGB", 32),
    (AIM, "RDMAC16", "WRGB", 5), (AIM, "WRGB", "RDMAC16", 12), (AIM, "REFab", "ACT16", 210), (AIM, "REFab", "WRGB", 210),
    (ATTACC, "MACAB", "MACAB", 6), (ATTACC, "MACSB", "MACSB", 6), (ATTACC, "ACTAB", "MACAB", 19), (ATTACC, "MACAB", "PREA", 8),
    (ATTACC, "REFab", "ACTAB", 456 - 1), (ATTACC, "WRGB", "MVSB", 4), (ATTACC.without_power_limit(), "MACAB", "MACAB", 4),
])
def test_earliest_cycle_of_pim_commands(device, first, second, cycles):
    channel = Channel(device)
    channel.issue(first, cycle=500, row=1)
    assert channel.earliest(second) == 500 + cycles


def test_four_activates_in_a_window():
    channel = Channel(DDR4)
    for index in range(4):
        channel.issue("ACT", cycle=100 + 4 * index, bank=4 * index, row=0)
    assert channel.earliest("ACT", bank=1) == 100 + 34


def test_commands_to_several_banks_bind_them_all():
    channel = Channel(ATTACC)
    channel.issue("ACTSB", cycle=10, bank=2, row=5)
    assert channel.earliest("MACSB", bank=2) == 29
    assert channel.earliest("PREA") == 55
    assert channel.earliest("MACSB", bank=1) == 0
    channel.issue("ACTPB", cycle=40, bank=7, row=5)
    assert channel.earliest("MACPB", bank=7 + 32) == 59


def test_too_early_and_unknown_commands_are_refused():
    channel = Channel(DDR4)
    channel.issue("ACT", cycle=10, row=0)
    with pytest.raises(MappingError, match="allowed from cycle 32"):
        channel.issue("RD", cycle=31)
    with pytest.raises(UnknownNameError, match="RDA"):
        channel.earliest("RDA")
    with pytest.raises(MappingError, match="bank 16"):
        channel.earliest("RD", bank=16)


def test_rows_are_opened_and_closed_as_needed():
    stream = play(DDR4, requests(DDR4, ("RD", 0, 5, 0), ("RD", 0, 5, 0), ("RD", 0, 6, 0)), refresh="off")
    assert [stream.names[c] for c in stream.command] == ["ACT", "RD", "RD", "PRE", "ACT", "RD"]
    assert stream.cycle.tolist() == [0, 22, 30, 52, 74, 96]


def test_refresh_falls_due_and_rows_in_work_are_finished():
    many = requests(DDR4, *[("RD", 0, index // 64, 0) for index in range(8000)])
    on, off = play(DDR4, many), play(DDR4, many, refresh="off")
    due = int(on.cycle[-1]) // DDR4.timings["tREFI"]
    assert due >= 3
    assert abs(on.counts()["REFab"] - due) <= 1
    assert "REFab" not in off.counts()
    assert int(on.cycle[-1]) - int(off.cycle[-1]) == pytest.approx(due * DDR4.timings["tRFC"], rel=0.2)
    assert check(on, refresh="all-bank").clean


def test_per_bank_refresh_goes_round_the_banks():
    device = dram.load("hbm3")
    many = requests(device, *[("RD", index % 8, index // 256, 0) for index in range(6000)])
    stream = play(device, many, refresh="per-bank")
    number = stream.names.index("REFpb")
    banks = stream.bank[stream.command == number]
    assert len(banks) > 20
    assert banks.tolist() == [index % 64 for index in range(len(banks))]
    assert check(stream, refresh="per-bank").clean


def test_python_and_compiled_agree_and_numba_is_optional(monkeypatch):
    many = requests(AIM, *[("MAC16", 0, index // 64, 0) for index in range(500)], ("WRGB", 0, -1, 3), ("RDMAC16", 0, -1, 0))
    plain = play(AIM, many, engine="python", mode="bank")
    pytest.importorskip("numba")
    compiled = play(AIM, many, engine="numba", mode="bank")
    for name in ("cycle", "command", "bank", "row"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(compiled, name))
    monkeypatch.setattr(engine, "_compiled", engine._compiled.__wrapped__)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(MappingError, match="numba is not installed"):
        play(AIM, many, engine="numba")
    monkeypatch.setattr(engine, "COMPILE_ABOVE", 1)
    np.testing.assert_array_equal(play(AIM, many, mode="bank").cycle, plain.cycle)


@pytest.mark.parametrize(("change", "says"), [
    ({"bank": 16}, "requests.bank: 16"), ({"row": 1 << 20}, "requests.row"), ({"wait": -1}, "requests.wait"),
    ({"command": 99}, "requests.command"),
])
def test_requests_outside_of_the_device_are_refused(change, says):
    good = requests(DDR4, ("RD", 0, 0, 0))
    bad = replace(good, **{name: np.array([value]) for name, value in change.items()})
    with pytest.raises(MappingError, match=says):
        play(DDR4, bad)


def test_a_refresh_that_the_device_lacks_is_refused():
    with pytest.raises(MappingError, match="per-bank"):
        play(DDR4, requests(DDR4, ("RD", 0, 0, 0)), refresh="per-bank")
    with pytest.raises(UnknownNameError):
        play(DDR4, requests(DDR4, ("RD", 0, 0, 0)), refresh="sometimes")


def test_streams_are_written_as_text(tmp_path):
    stream = play(DDR4, requests(DDR4, ("RD", 3, 5, 0)), refresh="off")
    stream.write(tmp_path / "commands.txt")
    assert (tmp_path / "commands.txt").read_text() == "cycle\tcommand\tbank\trow\n0\tACT\t3\t5\n22\tRD\t3\t5\n"


@st.composite
def devices(draw):
    """A shipped device with other timings and another organisation."""
    device = dram.load(draw(st.sampled_from([name for name in dram.names() if "tRRD_S" in dram.load(name).timings])))
    small = st.integers(1, 40)
    timings = dict(device.timings)
    for name in timings:
        if name not in ("tREFI", "tREFIpb"):
            timings[name] = draw(small)
    for stem in ("tCCD", "tRRD", "tWTR", "tRTP"):
        if f"{stem}_S" in timings:
            timings[f"{stem}_L"] = max(timings[f"{stem}_L"], timings[f"{stem}_S"])
    timings["tRAS"] = max(timings["tRAS"], timings["tRCDRD"], timings["tRCDWR"])
    timings["tRC"] = timings["tRAS"] + timings["tRP"] + draw(st.integers(0, 9))
    timings["tFAW"] = max(timings.get("tFAW", 0), timings["tRRD_S"])
    timings["tRFC"] = max(timings["tRFC"], timings.get("tRFCpb", 0))
    timings["tREFI"] = timings["tRFC"] + draw(st.integers(200, 900))
    if "tREFIpb" in timings:
        timings["tREFIpb"] = timings["tRFCpb"] + draw(st.integers(300, 700))  # a row can open and be read between two
    timings = {name: value for name, value in timings.items() if name in device.timings}
    org = replace(device.organisation, ranks=draw(st.integers(1, 2)), bank_groups=draw(st.sampled_from([1, 2, 4])),
                  banks=draw(st.sampled_from([2, 4])))
    return replace(device, timings=timings, organisation=org)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(device=devices(), seed=st.integers(0, 1 << 30), refresh=st.sampled_from(["all-bank", "per-bank", "off"]))
def test_random_streams_on_random_devices_break_nothing(device, seed, refresh):
    if refresh == "per-bank" and device.refresh_bank is None:
        refresh = "all-bank"
    tables, rng, size = compile_device(device), np.random.default_rng(seed), 400
    useful = [index for index, command in enumerate(device.commands) if command.needs == "open" or command.mode == "register"]
    given_ = Requests(rng.choice(useful, size), rng.integers(0, tables.banks, size), rng.integers(0, 3, size),
                      rng.integers(0, 9, size))
    stream = play(device, given_, refresh=refresh, engine="python", mode=tables.modes[0] if tables.modes else "")
    verdict = check(stream, refresh=refresh)
    assert verdict.clean, verdict.first[:3]
    wanted = np.bincount(given_.command, minlength=len(tables.names))
    found = np.bincount(stream.command, minlength=len(tables.names))
    assert (found[useful] == wanted[useful]).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 30), at=st.integers(1, 300))
def test_the_checker_finds_a_command_moved_forward(seed, at):
    rng = np.random.default_rng(seed)
    tables, size = compile_device(DDR4), 200
    stream = play(DDR4, Requests(np.full(size, tables.index("RD")), rng.integers(0, 16, size), rng.integers(0, 3, size),
                                 np.zeros(size, np.int64)), refresh="off")
    at %= len(stream) - 1
    cycle = stream.cycle.copy()
    # Everything from here on a cycle early: in order and dense, some row binds it.
    moved = replace(stream, cycle=np.where(np.arange(len(cycle)) > at, cycle - 1, cycle))
    assert check(stream).clean
    assert not check(moved).clean


def test_the_checker_sees_rows_buses_modes_and_missing_refreshes():
    def stream(device, *steps):
        names = compile_device(device).names
        table = np.array([(cycle, names.index(name), bank, row) for cycle, name, bank, row in steps], dtype=np.int64)
        return Stream(device, *(table[:, part].copy() for part in range(4)))

    def texts(found, **options):
        return " ".join(violation.text for violation in check(found, **options).first)

    assert "needs its row open" in texts(stream(DDR4, (0, "RD", 0, 1)))
    assert "needs its row open" in texts(stream(DDR4, (0, "ACT", 0, 2), (100, "RD", 0, 1)))
    assert "closed" in texts(stream(DDR4, (0, "ACT", 0, 2), (100, "ACT", 0, 1)))
    assert "bus" in texts(stream(DDR4, (0, "ACT", 0, 2), (0, "ACT", 4, 1)))
    assert "mode" in texts(stream(AIM, (0, "WRGB", 0, -1)))
    assert "tFAW" in texts(stream(DDR4, *[(8 * index, "ACT", index, 0) for index in range(5)]))
    late = stream(DDR4, (0, "ACT", 0, 2), (12480 * 12, "RD", 0, 2))
    assert "owed" in texts(late, refresh="all-bank")
    with pytest.raises(MappingError, match="bank"):
        check(stream(DDR4, (0, "ACT", 77, 2)))
