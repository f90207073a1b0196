"""Devices of one's own, from a YAML file that states what its commands are for: closed form against the commands, layouts, bad files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch import dram
from presilicon.arch.dram import DramDevice
from presilicon.errors import MappingError, SpecError, UnknownNameError
from presilicon.mapping.pim_rows import row_cycles, row_gemv, row_layout, written_beside
from presilicon.sim.dram import rows
from presilicon.sim.dram.checker import check
from presilicon.sim.dram.gemv import gemv

ME = "a design of one's own"
#: Placement of units, and the scopes of activate, precharge and multiplication that reach one bank of each.
SCOPES = {"bank": ("channel", "channel", "channel"), "bankgroup": ("same-bank", "same-bank", "same-bank"),
          "pseudochannel": ("bank", "bank", "bank"), "bank-pair": ("bank", "bank", "bank")}


def _leaf(value: Any) -> dict[str, Any]:
    return {"value": value, "source": ME}


def document(placement: str = "bankgroup", base: str = "lpddr5-6400", width: int = 32, buffer: int = 2048, clear: bool = False,
             buses: int = 1) -> dict[str, Any]:
    """A device with units, as a user writes it: what differs from a standard, and what its new commands are for."""
    opens, shuts, works = SCOPES[placement]
    level = "channel" if works == "channel" else "bank"
    return {
        "name": "mine", "title": "mine", "standard": "LPDDR5", "base": base, "buses": buses,
        "organisation": {"channels": _leaf(4)},
        "timings": {"tRCD_MAC": _leaf("22 ns"), "tBUF": _leaf(3)},
        "commands": {
            "ACTU": {"scope": opens, "bus": "row", "needs": "closed", "effect": "open"},
            "PREU": {"scope": shuts, "bus": "row", "effect": "close"},
            "MACU": {"scope": works, "needs": "open", "opener": "ACTU", "closer": "PREU"},
            "PUT": {"scope": "channel"}, "GET": {"scope": "channel", "latency": "tCL + tBL"}, "NIL": {"scope": "channel"}},
        "constraints": [
            {"level": level, "after": ["ACTU"], "before": ["MACU"], "cycles": "tRCD_MAC"},
            {"level": level, "after": ["ACTU"], "before": ["PREU"], "cycles": "tRAS"},
            {"level": level, "after": ["MACU"], "before": ["PREU"], "cycles": "tRTP"},
            {"level": level, "after": ["PREU"], "before": ["ACTU"], "cycles": "tRP"},
            {"level": "channel", "after": ["MACU"], "before": ["MACU"], "cycles": "tCCD_L"},
            {"level": "channel", "after": ["PUT", "NIL"], "before": ["PUT", "MACU"], "cycles": "tBUF"},
            {"level": "channel", "after": ["MACU"], "before": ["GET"], "cycles": "tCCD_L + 4"},
            {"level": "channel", "after": ["GET"], "before": ["GET", "MACU"], "cycles": "tBL"}],
        "pim": {"placement": _leaf(placement), "lanes": _leaf(16), "width": _leaf(width), "clock": _leaf("500 MHz"),
                "buffer": _leaf(buffer), "buffer_scope": _leaf("channel"), "registers": _leaf(1)},
        "gemv": {"mac": "MACU", "write": "PUT", "read": "GET", **({"clear": "NIL"} if clear else {})}}


def device(folder: Path, **options: Any) -> DramDevice:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(document(**options)))
    return dram.load(path)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(placement=st.sampled_from(sorted(SCOPES)), base=st.sampled_from(("lpddr5-6400", "ddr4-3200", "gddr6-2000", "hbm2")),
       width=st.sampled_from((8, 16, 32)), buffer=st.sampled_from((64, 512, 2048)), clear=st.booleans(), buses=st.sampled_from((1, 2)),
       outputs=st.integers(1, 400), inputs=st.integers(1, 900), batch=st.integers(1, 5), order=st.sampled_from(("outputs", "inputs")))
def test_the_closed_form_is_the_commands(tmp_path_factory: pytest.TempPathFactory, placement: str, base: str, width: int, buffer: int,
                                         clear: bool, buses: int, outputs: int, inputs: int, batch: int, order: Any) -> None:
    mine = device(tmp_path_factory.mktemp("mine"), placement=placement, base=base, width=width, buffer=buffer, clear=clear, buses=buses)
    plain = rows.gemv(mine, outputs, inputs, batch=batch, order=order, refresh="off")
    assert row_cycles(row_layout(mine, outputs, inputs), order, batch) == plain.cycles
    assert check(plain.stream).clean
    on = rows.gemv(mine, outputs, inputs, batch=batch, order=order)
    closed = row_gemv(mine, outputs, inputs, batch=batch, order=order)
    # One refresh more or less at the end, and the precharges that it saves there; and whether inputs are written beside each, or not.
    layout = row_layout(mine, outputs, inputs)
    one, each = mine.timings["tRFC"] + mine.timings["tRC"], len(layout.macs[0])
    hidden = on.stream.counts().get("REFab", 0) * written_beside(layout)
    assert abs(closed.cycles - on.cycles) <= max((0.02 if each == 1 else 0.03) * on.cycles, one + each * mine.timings["tRP"], hidden)
    assert check(on.stream, refresh="all-bank").clean
    assert 0 < closed.utilisation <= 1


def test_a_refresh_that_closes_all_rows_at_once_spares_each_its_own_precharge(tmp_path: Path) -> None:
    # Commands reach one unit each, and rows change from visit to visit: of 8 units all but one save tRP, which is more than tRFC here.
    mine = device(tmp_path, placement="bank-pair", base="gddr6-2000")
    plain = rows.gemv(mine, 652, 637, order="inputs", refresh="off").cycles
    on = rows.gemv(mine, 652, 637, order="inputs")
    spared = mine.timings["tRFC"] - (on.cycles - plain) / on.stream.counts()["REFab"]
    assert spared == pytest.approx(7 * mine.timings["tRP"], abs=mine.timings["tRP"])
    assert row_gemv(mine, 652, 637, order="inputs").cycles == pytest.approx(on.cycles, rel=0.01)


def test_one_file_is_a_device(tmp_path: Path) -> None:
    mine = device(tmp_path)
    assert mine.units_per_channel == 4  # a unit a bank group
    assert mine.sources["timings.tRP"].startswith("JESD209-5B")  # of the standard that it builds on
    assert mine.sources["timings.tBUF"] == ME
    found = gemv(tmp_path / "mine.yaml", 1000, 1000)
    assert found.cycles is not None
    assert abs(found.gap or 0.0) < 0.02
    assert found.stream is not None
    assert found.stream.counts()["MACU"] == 63 * 63  # ceil(1000 / 16 units) passes of ceil(1000 / 16 lanes) columns
    # Half as wide units take twice as many commands.
    narrow = device(tmp_path, width=16)
    assert rows.gemv(narrow, 1000, 1000).stream.counts()["MACU"] == 2 * 63 * 63


def test_time_is_a_step_function_of_outputs_and_banks_fill_one_after_the_other(tmp_path: Path) -> None:
    mine = device(tmp_path)
    times = [row_gemv(mine, outputs, 512, refresh=False).cycles for outputs in (1, 16, 17, 32)]
    assert times[0] == times[1] < times[2] == times[3]
    layout = row_layout(mine, 16 * (mine.organisation.rows + 1), 100)
    assert [layout.visit(at, 0, True, True, True)[1][1::2] for at in (0, mine.organisation.rows)] == [(0, 0), (1, 0)]


def test_what_a_file_forgets_about_refresh_holds_anyway(tmp_path: Path) -> None:
    # No row of the file says that ACTU waits for a refresh; JEDEC does.
    run = rows.gemv(device(tmp_path), 4000, 1000)
    names = run.stream.names
    refreshes = [cycle for cycle, name in zip(run.stream.cycle, run.stream.command, strict=True) if names[name] == "REFab"]
    opened = [cycle for cycle, name in zip(run.stream.cycle, run.stream.command, strict=True) if names[name] == "ACTU"]
    assert refreshes
    assert all(not at < cycle < at + run.stream.device.timings["tRFC"] for at in refreshes for cycle in opened)


@pytest.mark.parametrize(("change", "match"), [
    ({"gemv": {"mac": "MACU", "write": "PUT"}}, "gemv: lacks 'read'"),
    ({"gemv": {"mac": "MACV", "write": "PUT", "read": "GET"}}, "gemv.mac.*MACU"),
    ({"gemv": {"mac": "PUT", "write": "PUT", "read": "GET"}}, "needs an open row"),
    ({"gemv": {"mak": "MACU", "write": "PUT", "read": "GET"}}, "did you mean 'mac'"),
    ({"base": "lpddr5"}, "lpddr5-6400"), ({"base": 5}, "base: expected the name"), ({"base": "mine.yaml"}, "does not build on this one"),
])
def test_bad_files(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**document(), **change}))
    with pytest.raises((SpecError, UnknownNameError), match=match):
        dram.load(path)


def test_bad_requests(tmp_path: Path) -> None:
    mine = device(tmp_path)
    with pytest.raises(MappingError, match="rows of every unit"):
        row_gemv(mine, 1 << 24, 1 << 14)
    with pytest.raises(MappingError, match="positive whole number"):
        row_gemv(mine, 0, 1)
    with pytest.raises(UnknownNameError, match="loop order"):
        row_gemv(mine, 1, 1, order="columns")  # type: ignore[arg-type]
    with pytest.raises(MappingError, match="which commands a GEMV takes"):
        row_gemv(dram.load("hbm2"), 1, 1)
    wide = document()
    wide["commands"]["MACU"]["scope"] = "channel"
    (tmp_path / "wide.yaml").write_text(yaml.safe_dump(wide))
    with pytest.raises(MappingError, match="several banks of one unit"):
        row_gemv(dram.load(tmp_path / "wide.yaml"), 1, 1)
