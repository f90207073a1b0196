"""DRAM device files: what they hold, and what is refused."""

from __future__ import annotations

import copy

import pytest

from presilicon.arch import dram
from presilicon.arch.yamlfile import read_yaml
from presilicon.errors import SpecError, UnknownNameError


@pytest.fixture
def document():
    return copy.deepcopy(read_yaml(dram.FOLDER / "aim-gddr6.yaml"))


@pytest.mark.parametrize("name", dram.names())
def test_every_number_of_every_file_has_a_source(name):
    device = dram.load(name)
    for part in ("clock", *(f"timings.{timing}" for timing in device.timings),
                 *(f"organisation.{key}" for key in type(device.organisation).__dataclass_fields__)):
        assert len(device.sources[part]) > 3, part


def test_peak_rates_are_the_published_ones():
    aim, samsung, attacc = (dram.load(name) for name in ("aim-gddr6", "samsung-hbm2-pim", "attacc-hbm3"))
    # 16 units of 32 bytes at 1 GHz: 512 GB/s a channel, 16.4 TB/s on 32 channels.
    assert aim.units_per_channel * aim.pim.width_bytes * aim.pim.clock_hz * 32 == pytest.approx(16.4e12, rel=0.01)
    # 8 units on each of 64 pseudo-channels: 4.1 TB/s; the second rank of a channel idles.
    assert samsung.units_per_channel // 2 * 64 * 32 * samsung.pim.clock_hz == pytest.approx(4.10e12, rel=0.01)
    assert attacc.organisation.size_bytes == 16 << 30
    assert attacc.without_power_limit().timings["tCCD_AB"] == 4


def test_times_become_cycles_rounded_as_jedec_does():
    assert dram.load("attacc-hbm3").timings["tRFC"] == 455
    assert dram.load("ddr4-3200").timings["tRAS"] == 52


@pytest.mark.parametrize(("timing", "value", "says"), [
    ("tRC", 50, "tRAS . tRP = 86"), ("tRAS", 30, "tRCDRD = 36"), ("tCCD_L", 1, "tCCD_S"), ("tREFI", 200, "leave no time"),
    ("tRFCpb", 900, "tRFC"), ("tWTR_L", 3, "tWTR_S"),
])
def test_contradicting_timings_are_refused(document, timing, value, says):
    document["timings"][timing]["value"] = value
    with pytest.raises(SpecError, match=says):
        dram.from_document(document, "mine.yaml")


def test_a_unit_whose_width_does_not_divide_a_column_is_refused(document):
    document["pim"]["width"]["value"] = 24
    with pytest.raises(SpecError, match=r"mine.yaml: pim.width: .*24 bytes.*32 bytes"):
        dram.from_document(document, "mine.yaml")


@pytest.mark.parametrize(("path", "value", "error", "says"), [
    (("timings", "tRP"), {"value": -1, "source": "x"}, SpecError, "timings.tRP"),
    (("timings", "tRP"), {"value": 3}, SpecError, "lacks its source"),
    (("timings", "tRP"), {"value": "3 GHz", "source": "x"}, SpecError, "timings.tRP"),
    (("timings", "tRP"), 32, SpecError, "expected a mapping"),
    (("timings", "tRP"), {"value": 1.5, "source": "x"}, SpecError, "whole number"),
    (("organisation", "banks"), {"value": 0, "source": "x"}, SpecError, "organisation.banks"),
    (("organisation", "bank"), {"value": 1, "source": "x"}, UnknownNameError, "banks"),
    (("clock",), {"value": "2 s", "source": "x"}, SpecError, "clock"),
    (("speed",), 1, UnknownNameError, "unknown key 'speed'"),
    (("pim", "placement"), {"value": "row", "source": "x"}, UnknownNameError, "placement"),
    (("constraints",), [{"level": "bank", "after": ["ACT"], "before": ["RDX"], "cycles": "tRP"}], UnknownNameError, "RDX"),
    (("constraints",), [{"level": "bank", "after": ["ACT"], "before": ["RD"], "cycles": "tRX"}], UnknownNameError, "tRX"),
    (("constraints",), [{"level": "bank", "after": ["ACT"], "before": ["RD"], "cycles": "tRP * 2"}], SpecError, "sum"),
    (("constraints",), [{"level": "bunk", "after": ["ACT"], "before": ["RD"], "cycles": "tRP"}], UnknownNameError, "bank"),
    (("commands", "MAC16", "opener"), "ACT15", UnknownNameError, "ACT16"),
    (("include",), "jdec", UnknownNameError, "jedec"),
    (("refresh",), {"command": "REFab"}, SpecError, "refresh"),
])
def test_what_is_wrong_is_named(document, path, value, error, says):
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(error, match=says):
        dram.from_document(document, "mine.yaml")


def test_devices_that_do_not_exist_and_own_files(tmp_path):
    with pytest.raises(UnknownNameError, match="aim-gddr6"):
        dram.load("aim-gddr5")
    with pytest.raises(SpecError, match="cannot be read"):
        dram.load(tmp_path / "none.yaml")
    own = tmp_path / "own.yaml"
    own.write_text((dram.FOLDER / "aim-gddr6.yaml").read_text().replace("name: aim-gddr6", "name: mine"))
    assert dram.load(own).name == "mine"
    with pytest.raises(UnknownNameError, match="tRCD_MAC"):
        dram.load("aim-gddr6").with_timings({"tRCD_MACC": 3})


STANDARDS = ("ddr4-3200", "lpddr5-6400", "gddr6-2000", "hbm2", "hbm2e", "hbm3", "upmem")


@pytest.mark.parametrize("name", STANDARDS)
def test_every_timing_of_a_standard_says_what_a_second_source_has(name):
    device = dram.load(name)
    for timing in device.timings:
        path = f"timings.{timing}"
        assert (device.statuses[path] in ("agreed", "differs")) == (path in device.seconds), path
        assert device.seconds.get(path) != device.sources[path], path


def test_second_sources_and_statuses_are_checked(document):
    document["timings"]["tRP"] = {"value": 32, "source": "a", "second": "b", "status": "agreed"}
    device = dram.from_document(document, "x.yaml")
    assert device.seconds["timings.tRP"] == "b"
    assert device.statuses["timings.tRP"] == "agreed"
    for wrong, error, says in (({"status": "agred"}, UnknownNameError, "agreed"), ({"second": 3}, SpecError, "second source in words")):
        document["timings"]["tRP"] = {"value": 32, "source": "a", **wrong}
        with pytest.raises(error, match=says):
            dram.from_document(document, "x.yaml")


def test_capacities_are_those_of_the_titles():
    assert dram.load("ddr4-3200").organisation.size_bytes == 8 << 30  # eight devices of 8 Gb
    assert dram.load("lpddr5-6400").organisation.size_bytes == 1 << 30  # 8 Gb
    assert dram.load("gddr6-2000").organisation.size_bytes == 1 << 30
