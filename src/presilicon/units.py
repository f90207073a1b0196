"""Quantities with units, parsed once at the boundary into SI floats, and formatted for people.

>>> parse("3.35 TB/s", "B/s")
3350000000000.0
>>> parse("40 MiB", "B")
41943040.0
>>> parse(1410, "Hz")
1410.0
>>> format_si(0.00234, "s")
'2.34 ms'
"""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import Final

from .errors import UnitError, shown

_DECIMAL: Final = {
    "f": 1e-15,
    "p": 1e-12,
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "μ": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
}
_BINARY: Final = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_PREFIXES: Final = {**_BINARY, **_DECIMAL}

#: Base units that a quantity may be given in. ``"1"`` is a plain number.
BASE_UNITS: Final = (
    "s",
    "Hz",
    "B",
    "B/s",
    "B/clk",
    "FLOP/s",
    "FLOP/clk",
    "op/clk",
    "W",
    "J",
    "J/B",
    "J/bit",
    "J/FLOP",
    "V",
    "m2",
    "clk",
    "USD",
    "USD/h",
    "1",
)
#: Other spellings that take a prefix, and those that do not: base unit and factor.
_FACTORS: Final = {"bit/s": ("B/s", 0.125), "b/s": ("B/s", 0.125), "bps": ("B/s", 0.125), "bit": ("B", 0.125), "FLOPS": ("FLOP/s", 1.0)}
_FIXED: Final = {
    "%": ("1", 0.01),
    "cycles": ("clk", 1.0),
    "cycle": ("clk", 1.0),
    "mm2": ("m2", 1e-6),
    "um2": ("m2", 1e-12),
    "cm2": ("m2", 1e-4),
    "min": ("s", 60.0),
    "h": ("s", 3600.0),
}
_CONVERSIONS: Final = {("J/bit", "J/B"): 8.0, ("J/B", "J/bit"): 0.125}
_EXAMPLES: Final = {
    "s": "4.7 us",
    "Hz": "1.41 GHz",
    "B": "40 MiB",
    "B/s": "3.35 TB/s",
    "FLOP/s": "312 TFLOP/s",
    "J": "3 mJ",
    "J/B": "4 pJ/B",
    "J/bit": "3.9 pJ/bit",
    "J/FLOP": "0.5 pJ/FLOP",
    "m2": "814 mm2",
    "1": "132",
}
_NAMES: Final = {-5: "f", -4: "p", -3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}
_QUANTITY: Final = re.compile(r"^\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*$")


def _wanted(unit: str) -> str:
    return "a plain number" if unit == "1" else f"a quantity in {unit}"


def _example(unit: str) -> str:
    return f"such as '{_EXAMPLES.get(unit, f'64 {unit}')}'"


def _split_unit(text: str) -> tuple[str, float] | None:
    """Base unit and factor of a unit as written; None where there is no such unit."""
    if text in _FIXED:
        return _FIXED[text]
    if text in BASE_UNITS:
        return text, 1.0
    if text in _FACTORS:
        return _FACTORS[text]
    for prefix, factor in _PREFIXES.items():
        rest = text.removeprefix(prefix)
        if rest == text:
            continue
        if rest in BASE_UNITS and rest not in ("1", "m2"):
            return rest, factor
        if rest in _FACTORS:
            base, scale = _FACTORS[rest]
            return base, factor * scale
    return None


def parse(value: object, unit: str) -> float:
    """Turn ``"3.35 TB/s"`` (or a plain number, already in `unit`) into an SI float.

    Parameters
    ----------
    value
        A real number, NumPy's included, or a text of a number and a unit. The unit takes an SI prefix (``k M G T``,
        ``m u n p``) or a binary one (``Ki Mi Gi Ti``); a text without a unit is in `unit`.
    unit
        The base unit that is wanted, one of `BASE_UNITS`.

    Raises
    ------
    UnitError
        The text is no quantity, its unit is unknown, its unit is of another dimension, or it is not finite.

    >>> parse("3.9 pJ/bit", "J/B")
    3.12e-11
    >>> parse("80 %", "1")
    0.8
    """
    if isinstance(value, bool) or not isinstance(value, Real | str):
        raise UnitError(f"expected {_wanted(unit)}, {_example(unit)}, found {shown(value)}")
    factor, base = 1.0, unit
    try:
        if isinstance(value, str):
            match = _QUANTITY.match(value)
            if match is None:
                raise UnitError(f"expected {_wanted(unit)}, {_example(unit)}, found {shown(value)}")
            number = float(match.group(1).replace("_", ""))
            if match.group(2):
                found = _split_unit(match.group(2))
                if found is None:
                    raise UnitError(f"expected {_wanted(unit)}, {_example(unit)}, found {shown(value)}: unknown unit {match.group(2)!r}")
                base, factor = found
        else:
            number = float(value)
    except OverflowError:
        number = math.inf
    if base != unit:
        if (base, unit) not in _CONVERSIONS:
            dimension = "a plain number" if base == "1" else f"in {base}"
            raise UnitError(f"expected {_wanted(unit)}, found {shown(value)}, which is {dimension}")
        factor *= _CONVERSIONS[base, unit]
    number *= factor
    if not math.isfinite(number):
        raise UnitError(f"expected {_wanted(unit)} that is finite, found {shown(value)}")
    return number


def format_si(value: float | None, unit: str, digits: int = 3) -> str:
    """A number with an SI prefix and unit, for people; bytes use decimal prefixes, plain numbers (``"1"``) none.

    >>> format_si(3.352e12, "B/s"), format_si(65536, "1"), format_si(float("nan"), "s")
    ('3.35 TB/s', '65536', '-')
    """
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or math.isinf(value):
        return f"{value:g} {unit}".removesuffix(" 1").strip()
    if unit in ("1", "ratio"):
        return _digits(value, digits)
    magnitude = math.floor(math.log10(abs(value)) / 3)
    if abs(value) / 10.0 ** (3 * magnitude) >= 1000.0 - 0.5 * 10.0 ** (3 - max(digits, 3)):
        magnitude += 1
    magnitude = max(-5, min(6, magnitude))
    return f"{_digits(value / 10.0 ** (3 * magnitude), digits)} {_NAMES[magnitude]}{unit}"


def _digits(value: float, digits: int) -> str:
    """`digits` significant digits, and whole numbers below a million in full rather than with an exponent."""
    rounded = float(f"{value:.{digits}g}")
    if abs(value) < 1e6 and (value == int(value) or abs(value) >= 10.0**digits):
        return f"{value:.0f}"
    return f"{rounded:g}" if 1e-4 <= abs(rounded) < 1e6 else f"{value:.{digits}g}"
