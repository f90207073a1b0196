"""What a CENT device has near its memory channels, and how devices reach each other, from ``cent.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Final

from ..errors import SpecError, UnknownNameError, shown
from ..units import parse
from .yamlfile import read_yaml

PATH: Final = Path(__file__).parent / "cent.yaml"


@dataclass(frozen=True)
class CentNumbers:
    """Numbers of ``cent.yaml`` in SI units, cycles and counts; `sources` by name.

    Attributes
    ----------
    accumulators
        Results of a bank that one group of a product holds.
    single_bank_cycles
        Command clocks of the host for 32 bytes to or from one bank.
    near_clock, near_lanes, near_units
        Accelerators near the memory: Hz, lanes of each, and how many.
    exponential_cycles, add_cycles, norm_cycles, norm_move_cycles, rotary_cycles, softmax_cycles, read_cycles
        Their cycles: 16 lanes of exponentials and of additions over all accelerators; a norm and its moves; a rotary pair; a softmax;
        a read.
    hop, lane, lanes, flit_data, flit
        CXL: seconds of a hop, B/s of a lane, lanes of the host, bytes of data in a flit, and of a flit.
    in_out
        Seconds of a token's way in and out.
    activate_power, read_power, open_power, control_power, phy_power, all_bank_reads
        Watts of one bank's activate for tRC, of a read, of an open channel, of controller and PHY of two channels; reads that an all-bank
        product counts for.
    """

    accumulators: float
    single_bank_cycles: float
    near_clock: float
    near_lanes: float
    near_units: float
    exponential_cycles: float
    add_cycles: float
    norm_cycles: float
    norm_move_cycles: float
    rotary_cycles: float
    softmax_cycles: float
    read_cycles: float
    hop: float
    lane: float
    lanes: float
    flit_data: float
    flit: float
    in_out: float
    activate_power: float
    read_power: float
    open_power: float
    control_power: float
    phy_power: float
    all_bank_reads: float
    sources: Mapping[str, str]


_NAMES: Final = tuple(field.name for field in fields(CentNumbers) if field.name != "sources")


@cache
def cent_numbers(path: Path = PATH) -> CentNumbers:
    """Read the numbers.

    Raises
    ------
    UnknownNameError
        A number that is not known.
    SpecError
        A number is missing, without a source, of another unit, or not above zero.

    >>> cent_numbers().lanes
    144.0
    """
    document = read_yaml(path)
    for name in document:
        if name not in (*_NAMES, "sources"):
            raise UnknownNameError("number of CENT", str(name), _NAMES, where=path.name)
    values: dict[str, float] = {}
    sources: dict[str, str] = {}
    for name in _NAMES:
        node = document.get(name)
        if not isinstance(node, Mapping) or set(node) != {"value", "unit", "source"}:
            raise SpecError(f"{path.name}: {name}: expected {{value: ..., unit: ..., source: ...}}, found {shown(node)}")
        value = parse(node["value"], "1" if node["unit"] == "clk" else str(node["unit"]))
        if value <= 0:
            raise SpecError(f"{path.name}: {name}: expected a number above zero, found {shown(node['value'])}")
        values[name], sources[name] = value, str(node["source"])
    return CentNumbers(**values, sources=sources)
