"""One field of a PIM device's file is wrong at a time: a clear error that names file and field, or a device that obeys its own roofline."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch import dram
from presilicon.errors import PresiliconError, SpecError, UnknownNameError
from presilicon.sim.dram.checker import check
from presilicon.sim.dram.gemv import gemv

NAMES = ("aim-gddr6", "samsung-hbm2-pim", "attacc-hbm3", "neupims-hbm2", "newton-hbm2", "upmem", "papi-attn-hbm3", "papi-fc-hbm3")
DELETED = "(deleted)"
NONSENSE: tuple[Any, ...] = (DELETED, 0, -1, math.nan, math.inf, "abc", "", None, True, [], {}, 1e30, 0.5, 1, 3, 7, "1 XB", "5 ns", "-5 ns")


@cache
def _document(name: str) -> dict[str, Any]:
    return dram._based(dram.FOLDER / f"{name}.yaml", name)


def _paths(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field; a number with a source is one."""
    if isinstance(node, dict) and not {"value", "source"} <= set(node):
        for key, inner in node.items():
            if at or key not in ("sources", "notes", "base"):
                yield from _paths(inner, (*at, key))
    elif isinstance(node, list):
        for index, inner in enumerate(node):
            yield from _paths(inner, (*at, index))
    else:
        yield at


@cache
def _fields(name: str) -> list[tuple[Any, ...]]:
    return list(_paths(_document(name)))


def _changed(name: str, path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(_document(name))
    at: Any = document
    for key in path[:-1]:
        at = at[key]
    if value == DELETED:
        del at[path[-1]]
    elif isinstance(at[path[-1]], dict):
        at[path[-1]]["value"] = value
    else:
        at[path[-1]] = value
    return document


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(NAMES), data=st.data())
def test_a_wrong_field_is_refused_or_harmless(name: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(_fields(name)))
    document = _changed(name, path, data.draw(st.sampled_from(NONSENSE)))
    refused = ""
    try:
        device = dram.from_document(document, "mine.yaml")
        report = gemv(device, 40, 100)
    except PresiliconError as error:  # at the latest by a kernel that needs more than the file has
        refused = str(error)
    if refused:
        assert refused.startswith(("mine.yaml: ", str(document.get("name"))))
        assert len(refused) < 500
        return
    assert 0 < report.roofline_share <= 1 + 1e-3
    if report.stream is not None:
        assert check(report.stream, refresh="off").clean


@pytest.mark.parametrize(("name", "path", "value", "says"), [
    ("attacc-hbm3", ("pim", "buffer"), 1, "pim.buffer: 1 bytes; expected 32 or more, a column"),
    ("newton-hbm2", ("pim", "buffer"), 512, "expected 1024 or more, a row of inputs"),
    ("samsung-hbm2-pim", ("pim", "buffer"), 32, "expected 256 or more, a column for each of 8 registers"),
    ("aim-gddr6", ("pim", "width"), 16, "pim.width: 16 bytes; MAC16 gives a unit a column of 32"),
    ("aim-gddr6", ("pim", "lanes"), 24, "pim.lanes: 24; a unit takes 32 bytes a step, 16 numbers"),
    ("samsung-hbm2-pim", ("pim", "lanes"), 32, "expected as many"),
    ("aim-gddr6", ("pim", "clock"), "900 MHz", "a step every 1.11 ns; constraints let MAC16 follow MAC16 after 2 cycles, 1 ns"),
    ("attacc-hbm3", ("power_limit", "tCCD_AB"), 1, "without the power limit: expected a faster clock"),
    ("neupims-hbm2", ("clock",), "2 GHz", "pim.clock: 5e.08 Hz, a step every 2 ns; .* COMP after 2 cycles, 1 ns"),
    ("attacc-hbm3", ("timings", "tCCD_AB"), 0, "timings.tCCD_AB: expected a whole number from 1 on, found 0"),
    ("aim-gddr6", ("timings", "tRP"), "0 ns", "at least 1 cycle of 2e.09 Hz, found '0 ns'"),
    ("aim-gddr6", ("commands", "ACT16", "effect"), "none", "MAC16.opener: ACT16 has effect 'none'; expected .* 'open'"),
    ("aim-gddr6", ("commands", "MAC16", "scope"), "bank", "commands.MAC16.scope: 'bank'; it reaches every bank of a channel"),
    ("aim-gddr6", ("commands", "MAC16", "needs"), "any", "commands.MAC16.needs: 'any'.* expected 'open'"),
    ("aim-gddr6", ("commands", "MAC16", "latency"), "tCWL - tCL", "commands.MAC16.latency: 'tCWL - tCL' is -44 cycles"),
    ("aim-gddr6", ("commands", "MAC16", "mode"), 3, "commands.MAC16.mode: expected a text, found 3"),
    ("aim-gddr6", ("commands", "EWMUL16", "mode"), "1 XB", "EWMUL16.mode: '1 XB' beside 'bank', 'register'; a device switches between two"),
    ("aim-gddr6", ("commands", "TMOD", "switches_mode"), "yes", "switches_mode: expected true or false"),
    ("aim-gddr6", ("constraints", 0, "after", 0), ["RD"], r"constraints\[0\].after: expected names of commands"),
    ("aim-gddr6", ("constraints", 4, "cycles"), "tCCD_X", r"constraints\[4\].cycles: .*did you mean 'tCCD_S' or 'tCCD_L'"),
    ("newton-hbm2", ("constraints", 6, "cycles"), 0, r"constraints\[6\].cycles: expected 1 or more from GACT to COMP.* open row, found 0"),
    ("aim-gddr6", ("refresh", "interval"), "tREF", "refresh.interval: unknown timing 'tREF'"),
    ("aim-gddr6", ("name",), None, "name: expected a text, found None"),
])
def test_what_does_not_fit_the_units_is_named(name: str, path: tuple[Any, ...], value: Any, says: str) -> None:
    with pytest.raises((SpecError, UnknownNameError), match=f"^mine.yaml: .*{says}"):
        dram.from_document(_changed(name, path, value), "mine.yaml")


def test_kernels_say_what_a_file_lacks() -> None:
    device = dram.from_document(_changed("samsung-hbm2-pim", ("timings", "tRTW"), DELETED), "mine.yaml")
    with pytest.raises(SpecError, match=r"timings\.tRTW: missing"):
        gemv(device, 64, 64)
    device = dram.from_document(_changed("samsung-hbm2-pim", ("organisation", "bank_groups"), 2), "mine.yaml")
    with pytest.raises(PresiliconError, match="3 bank groups or more"):
        gemv(device, 64, 64)
    device = dram.from_document(_changed("aim-gddr6", ("commands", "TMOD", "switches_mode"), DELETED), "mine.yaml")
    with pytest.raises(PresiliconError, match="switched by no command"):
        gemv(device, 64, 64)
