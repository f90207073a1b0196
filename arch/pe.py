"""Processing elements by arithmetic style: how many cycles a dot product takes, and what area and energy it costs.

A style is one entry of ``arch/pe_styles.yaml``: ordinary multiply-adds (``mac``), weights fed bit by bit (``bit-serial``), table look-ups
(``look-up``), encoded digits of which only the non-zero ones cost a cycle (``digits``), or blocks that share a scale (``block``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

from ..errors import SpecError, UnknownNameError, shown
from ..units import parse
from .spec import Provenance
from .yamlfile import read_yaml

STYLES: Final = Path(__file__).parent / "pe_styles.yaml"
ARRAYS: Final = Path(__file__).parent / "dot_arrays.yaml"

Execution = Literal["mac", "bit-serial", "look-up", "digits", "block"]
EXECUTIONS: Final[tuple[str, ...]] = get_args(Execution)
_NUMBERS: Final = {"lanes": "1", "bits_per_clk": "1", "radix_bits": "1", "area": "m2", "energy_per_clk": "1"}


@dataclass(frozen=True)
class PeStyle:
    """One kind of processing element.

    Attributes
    ----------
    name, title
        Name in its file, and a line for people.
    execution
        How a product is formed, one of `EXECUTIONS`.
    lanes
        Products that one PE adds up at once: the length of its dot product.
    bits_per_clk
        Weight bits that it consumes in a cycle (``bit-serial``, ``look-up``).
    radix_bits
        Bits of one encoded digit (``digits``).
    area_m2
        Silicon area, m^2; None: not published.
    energy_per_clk
        Energy of one busy cycle in the unit of its source; None: not published.
    """

    name: str
    title: str
    execution: Execution
    lanes: int
    bits_per_clk: float = 1.0
    radix_bits: int = 2
    area_m2: float | None = None
    energy_per_clk: float | None = None
    provenance: Mapping[str, Provenance] | None = None

    def cycles(self, weight_bits: float, digits: float | None = None) -> float:
        """Cycles of one dot product of `lanes` elements.

        Parameters
        ----------
        weight_bits
            Bits of a weight; fractions (shared scales, mixed precision) cost memory, not cycles.
        digits
            ``digits`` only: mean number of non-zero digits, for example from `nonzero_digits`.

        Raises
        ------
        SpecError
            No bits, or no digits where they decide.

        >>> load_pe("bitmod").cycles(6.0625), load_pe("fp16-mac").cycles(16)
        (3.0, 1.0)
        """
        if not weight_bits > 0:
            raise SpecError(f"PE style {self.name}: expected weights of more than 0 bits, found {shown(weight_bits)}")
        if self.execution in ("bit-serial", "look-up"):
            return float(max(1, math.ceil(math.floor(weight_bits) / self.bits_per_clk)))
        if self.execution == "digits":
            if digits is None or digits < 0:
                raise SpecError(f"PE style {self.name}: needs the mean number of non-zero digits, found {shown(digits)}")
            return float(digits)
        return 1.0

    def table_entries(self, rows: int) -> int:
        """``look-up`` only: entries of the tables of `rows` input rows, half of 2^lanes each, since the other half is their negative.

        >>> load_pe("lut-k4").table_entries(2)
        16
        """
        if self.execution != "look-up":
            raise SpecError(f"PE style {self.name}: executes by {self.execution} and has no table")
        return rows * 2 ** (self.lanes - 1)


def nonzero_digits(sigma: float, bits: int = 8, radix_bits: int = 2) -> float:
    """Mean number of non-zero digits of rounded normal integers in sign-magnitude radix 2^radix_bits with digits -1 to 2.

    Parameters
    ----------
    sigma
        Standard deviation of the values, in units of the last place.
    bits
        Bits of the two's complement integers; larger values saturate.
    radix_bits
        Bits of one digit; only 2 (digits -1, 0, 1, 2) is encoded here.

    Notes
    -----
    A magnitude is written from its last digit on: 3 becomes -1 with a carry. Source of the encoding: arXiv 2503.06342, section 3, and its
    repository, which measures 1.75, 2.10, 2.32, 2.48 and 2.60 for sigma of 10 to 50.

    >>> [round(nonzero_digits(sigma), 2) for sigma in (10, 20, 30, 40, 50)]
    [1.76, 2.11, 2.33, 2.49, 2.6]
    """
    if radix_bits != 2:
        raise SpecError(f"radix_bits: expected 2, found {shown(radix_bits)}")
    if not sigma > 0:
        raise SpecError(f"sigma: expected more than 0, found {shown(sigma)}")
    largest = 2 ** (bits - 1) - 1
    mean = 0.0
    for magnitude in range(largest + 1):
        low, high = magnitude - 0.5, math.inf if magnitude == largest else magnitude + 0.5
        share = 0.5 * (math.erfc(low / sigma / math.sqrt(2)) - math.erfc(high / sigma / math.sqrt(2)))
        mean += _digits(magnitude) * share * (1 if magnitude == 0 else 2)
    return mean


def _digits(magnitude: int) -> int:
    count = 0
    while magnitude:
        digit = magnitude % 4
        count += digit != 0
        magnitude = magnitude // 4 + (digit == 3)
    return count


@dataclass(frozen=True)
class DotArray:
    """Rows by columns of dot-product PEs between two SRAMs and DRAM.

    Attributes
    ----------
    pe
        What each PE is.
    rows, cols
        PEs along the output channels, and along the tokens.
    weight_sram_bytes, input_sram_bytes
        SRAM of the weights, and of the inputs.
    dram_bytes_per_clk
        Both directions together.
    """

    pe: PeStyle
    rows: int
    cols: int
    weight_sram_bytes: float
    input_sram_bytes: float
    dram_bytes_per_clk: float

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "weight_sram_bytes", "input_sram_bytes", "dram_bytes_per_clk"):
            if not getattr(self, name) > 0:
                raise SpecError(f"array of {self.pe.name}: {name}: expected more than 0, found {shown(getattr(self, name))}")

    @property
    def area_m2(self) -> float:
        """Area of the PEs.

        Raises
        ------
        SpecError
            The style's area is not published.
        """
        if self.pe.area_m2 is None:
            raise SpecError(f"PE style {self.pe.name}: no area is published")
        return self.rows * self.cols * self.pe.area_m2

    def iso_area(self, pe: PeStyle) -> DotArray:
        """As many whole columns of another PE as the area of this array holds, rows unchanged; at least one."""
        if pe.area_m2 is None:
            raise SpecError(f"PE style {pe.name}: no area is published")
        cols = max(1, int(self.area_m2 // (self.rows * pe.area_m2)))
        return DotArray(pe, self.rows, cols, self.weight_sram_bytes, self.input_sram_bytes, self.dram_bytes_per_clk)


def load_pe(name: str) -> PeStyle:
    """A style by name.

    Raises
    ------
    UnknownNameError
        No such style, with the nearest names.
    """
    if name not in pe_styles():
        raise UnknownNameError("PE style", str(name), pe_styles())
    return pe_styles()[name]


@cache
def pe_styles() -> dict[str, PeStyle]:
    """Every style of ``arch/pe_styles.yaml``."""
    document = read_yaml(STYLES)
    return {name: _style(name, node, document["sources"]) for name, node in document["styles"].items()}


def _style(name: str, node: Mapping[str, Any], sources: Mapping[str, str]) -> PeStyle:
    where = f"{STYLES.name}: styles.{name}"
    for key in node:
        if key not in (*_NUMBERS, "title", "execution"):
            raise UnknownNameError("key", str(key), (*_NUMBERS, "title", "execution"), where)
    if node["execution"] not in EXECUTIONS:
        raise UnknownNameError("execution", str(node["execution"]), EXECUTIONS, where)
    values = {key: parse(node[key]["value"], unit) for key, unit in _NUMBERS.items() if key in node}
    return PeStyle(
        name=name,
        title=node["title"],
        execution=node["execution"],
        lanes=int(values["lanes"]),
        bits_per_clk=values.get("bits_per_clk", 1.0),
        radix_bits=int(values.get("radix_bits", 2)),
        area_m2=values.get("area"),
        energy_per_clk=values.get("energy_per_clk"),
        provenance={key: Provenance(sources[node[key]["source"]], "sourced") for key in values},
    )


@cache
def load_array(name: str, phase: str) -> DotArray:
    """An array of ``arch/dot_arrays.yaml``, whose PEs are of the style of the same name.

    Parameters
    ----------
    name
        ``"fp16-mac"``, ``"ant"``, ``"olive"``, ``"bitmod"``.
    phase
        ``"prefill"`` or ``"decode"``: the arrays are shaped by it.

    Raises
    ------
    UnknownNameError
        No such array or phase.

    >>> array = load_array("olive", "decode")
    >>> array.rows, array.cols, array.dram_bytes_per_clk
    (72, 16, 32.0)
    """
    table = read_yaml(ARRAYS)
    if name not in table["arrays"]:
        raise UnknownNameError("array", str(name), table["arrays"], str(ARRAYS))
    phases = table["arrays"][name]
    if phase not in phases:
        raise UnknownNameError("phase", str(phase), phases, f"array {name}")
    rows, cols = (int(phases[phase][axis]["value"]) for axis in ("rows", "cols"))
    weights, inputs = (parse(table[key]["value"], "B") for key in ("weight_sram", "input_sram"))
    return DotArray(load_pe(name), rows, cols, weights, inputs, parse(table["dram_bandwidth"]["value"], "B/clk"))
