"""Area of a tensor core that looks dot products up, against one that multiplies: counts of tables, multiplexers and adders.

A dot product of K activations with K one-bit weights is one of 2^K sums; half of them are the negative of the others, so that a table has
2^(K-1) entries. The N columns of a tile share the table of a row; each of the M x N units needs a multiplexer over the entries and an adder
that accumulates, and takes one cycle a weight bit.

Source of the structure: LUT Tensor Core (ISCA 2025, arXiv 2408.06003), sections on table symmetrisation and on elongated tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from ..errors import SpecError, UnknownNameError, shown
from ..units import parse
from .yamlfile import read_yaml

TABLE: Final = Path(__file__).parent / "look_up.yaml"


@cache
def part_um2(name: str) -> float:
    """Area of a part at 45 nm, um^2: ``"adder"``, ``"multiply_add"`` (fp16), or ``"entry"``: 16 bits of a table, or of a selection.

    Raises
    ------
    UnknownNameError
        No such part in ``arch/look_up.yaml``.

    >>> part_um2("adder")
    1030.0
    """
    table = read_yaml(TABLE)
    known = [key for key in table if key != "sources"]
    if name not in known:
        raise UnknownNameError("part", str(name), known, str(TABLE))
    return round(parse(table[name]["value"], "m2") * 1e12, 9)


@dataclass(frozen=True)
class LookUpCore:
    """A tile of look-up units.

    Attributes
    ----------
    rows, cols
        Rows of activations (M) and columns of weights (N).
    lanes
        Activations that one look-up sums (K).
    """

    rows: int = 2
    cols: int = 64
    lanes: int = 4

    def __post_init__(self) -> None:
        for name in ("rows", "cols", "lanes"):
            if not getattr(self, name) >= 1:
                raise SpecError(f"look-up core: {name}: expected 1 or more, found {shown(getattr(self, name))}")

    @property
    def entries(self) -> int:
        """Entries of one row's table.

        >>> LookUpCore().entries
        8
        """
        return int(2 ** (self.lanes - 1))

    @property
    def table_entries(self) -> int:
        """Entries of all tables."""
        return self.rows * self.entries

    @property
    def area_um2(self) -> float:
        """Tables, multiplexers and accumulators, um^2 at 45 nm."""
        units = self.rows * self.cols
        return self.table_entries * part_um2("entry") + units * ((self.entries - 1) * part_um2("entry") + part_um2("adder"))

    def products_per_clk(self, weight_bits: int) -> float:
        """Products of an activation and a weight in a cycle, one weight bit at a time."""
        if not weight_bits >= 1:
            raise SpecError(f"look-up core: expected weights of 1 bit or more, found {shown(weight_bits)}")
        return self.rows * self.cols * self.lanes / weight_bits

    def density_ratio(self, weight_bits: int, mac_scale: float = 1.0) -> float:
        """Products a cycle and area over those of a multiply-add unit.

        Parameters
        ----------
        weight_bits
            Of a weight.
        mac_scale
            Area of the baseline's multiply-add, with what a tensor core has around it, over that of ``part_um2("multiply_add")``.

        >>> [round(LookUpCore(lanes=k).density_ratio(1), 2) for k in (2, 3, 4, 5, 6)]
        [2.86, 3.92, 4.47, 4.34, 3.59]
        """
        return self.products_per_clk(weight_bits) / self.area_um2 * mac_scale * part_um2("multiply_add")
