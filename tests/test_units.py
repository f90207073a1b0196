"""Quantities with units: parsed once, formatted for people, and refused with a message that says what is wanted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presilicon.errors import SpecError, UnitError
from presilicon.units import BASE_UNITS, format_si, parse


@pytest.mark.parametrize(("text", "unit", "value"), [
    ("3.35 TB/s", "B/s", 3.35e12), ("900GB/s", "B/s", 9e11), ("200 Gb/s", "B/s", 25e9), ("400 Gbit/s", "B/s", 50e9),
    ("312 TFLOP/s", "FLOP/s", 312e12), ("312 TFLOPS", "FLOP/s", 312e12), ("4096 FLOP/clk", "FLOP/clk", 4096.0),
    ("4.7 us", "s", 4.7e-6), ("4.7 µs", "s", 4.7e-6), ("4.7 μs", "s", 4.7e-6), ("90 min", "s", 5400.0), ("2e-6", "s",
        2e-6),
    ("228 KiB", "B", 228 * 1024.0), ("80 GB", "B", 80e9), ("1 kB", "B", 1e3), ("8 bit", "B", 1.0), ("50 MiB", "B",
        50 * 2.0**20),
    ("3.9 pJ/bit", "J/bit", 3.9e-12), ("4 pJ/bit", "J/B", 32e-12), ("8 pJ/B", "J/bit", 1e-12), ("0.5 pJ/FLOP",
        "J/FLOP", 0.5e-12),
    ("80 %", "1", 0.8), ("80%", "1", 0.8), ("1_000", "1", 1000.0), (" +132 ", "1", 132.0), (".5", "1", 0.5),
    ("1410 MHz", "Hz", 1.41e9), ("700 W", "W", 700.0), ("260 clk", "clk", 260.0), ("260 cycles", "clk", 260.0),
    ("814 mm2", "m2", 814e-6), ("2.5 USD/h", "USD/h", 2.5), (132, "1", 132.0), (1.5, "W", 1.5),
    (np.int64(144), "1", 144.0), (np.float32(0.5), "s", 0.5),
])
def test_parse(text: object, unit: str, value: float) -> None:
    found = parse(text, unit)
    assert type(found) is float
    assert found == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("text", "unit", "message"), [
    ("144 W", "1", "expected a plain number, found '144 W', which is in W"),
    ("many", "1", "expected a plain number, such as '132', found 'many'"),
    ("80 %", "B", "expected a quantity in B, found '80 %', which is a plain number"),
    ("4 TB", "B/s", "expected a quantity in B/s, found '4 TB', which is in B"),
    ("4 TBs", "B/s", "found '4 TBs': unknown unit 'TBs'"),
    ("4 k%", "1", "unknown unit 'k%'"),
    ("4 mm2", "s", "which is in m2"),
    ("", "s", "such as '4.7 us'"),
    ("1,000", "1", "unknown unit ',000'"),
    ("nan", "s", "expected a quantity in s"),
    ("1e999 B", "B", "that is finite"),
    (10**400, "1", "that is finite"),
    (float("inf"), "W", "that is finite"),
    (float("nan"), "W", "that is finite"),
    (True, "1", "expected a plain number, such as '132', found True"),
    (None, "Hz", "expected a quantity in Hz, such as '1.41 GHz', found None"),
    ([1], "Hz", "found [1]"),
    (2j, "1", "found 2j"),
])
def test_refused(text: object, unit: str, message: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse(text, unit)
    assert message in str(caught.value)
    assert "in 1" not in str(caught.value)


def test_unit_error_is_a_value_error_so_that_pydantic_adds_the_path() -> None:
    assert issubclass(UnitError, ValueError)
    assert issubclass(UnitError, SpecError)


@given(st.floats(min_value=1e-3, max_value=1e6), st.sampled_from(["", "k", "M", "G", "T", "m", "u", "n", "p"]),
       st.sampled_from([u for u in BASE_UNITS if u not in ("1", "m2")]))
def test_prefixes_scale_any_unit(number: float, prefix: str, unit: str) -> None:
    scale = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "m": 1e-3, "u": 1e-6, "n": 1e-9, "p": 1e-12}[prefix]
    assert parse(f"{number!r} {prefix}{unit}", unit) == pytest.approx(number * scale, rel=1e-12)


@given(st.floats(min_value=1e-14, max_value=1e20))
def test_what_is_formatted_parses_back(number: float) -> None:
    assert parse(format_si(number, "B/s"), "B/s") == pytest.approx(number, rel=6e-3)
    assert parse(format_si(number, "s", 5), "s") == pytest.approx(number, rel=6e-5)


@pytest.mark.parametrize(("value", "unit", "text"), [
    (0.00234, "s", "2.34 ms"), (3.352e12, "B/s", "3.35 TB/s"), (999.7e9, "B/s", "1 TB/s"), (999.4e9, "B/s", "999 GB/s"),
    (0.0, "s", "0 s"), (0.0, "1", "0"), (65536.0, "1", "65536"), (132.0, "1", "132"), (0.1234567, "1", "0.123"),
        (-5e-6, "s", "-5 us"),
    (math.inf, "s", "inf s"), (math.nan, "s", "-"), (None, "s", "-"), (1410e6, "Hz", "1.41 GHz"), (1e-16, "s",
        "0.1 fs"),
])
def test_format(value: float | None, unit: str, text: str) -> None:
    assert format_si(value, unit) == text
