"""Area of a tensor core that looks dot products up, against one that multiplies: counts of tables, multiplexers and adders.

A dot product of K activations with K one-bit weights is one of 2^K sums; half of them are the negative of the others, so that a table has
2^(K-1) entries. The N columns of a tile share the table of a row; each of the M x N units needs a multiplexer over the entries and an adder
that accumulates, and takes one cycle a weight bit.

Source of the structure: LUT Tensor Core (ISCA 2025, arXiv 2408.06003), sections on table symmetrisation and on elongated tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import SpecError, shown

#: fp16 adder and multiply-add, 45 nm: Aladdin's table, as in FuseMax's artifact (ART_summary.yaml: 1030 and 1545 um2).
ADDER_UM2: Final = 1030.0
MAC_UM2: Final = 1545.0
#: One 16-bit entry of a two-way selection, 45 nm, as in the same table (ART_summary.yaml: 49.289 um2 for the comparator and multiplexer of
#: a maximum): stands for a leg of the multiplexers, and for an entry of the tables.
ENTRY_UM2: Final = 49.289


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
        return self.table_entries * ENTRY_UM2 + units * ((self.entries - 1) * ENTRY_UM2 + ADDER_UM2)

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
            Area of the baseline's multiply-add, with what a tensor core has around it, over `MAC_UM2`.

        >>> [round(LookUpCore(lanes=k).density_ratio(1), 2) for k in (2, 3, 4, 5, 6)]
        [2.86, 3.92, 4.47, 4.34, 3.59]
        """
        return self.products_per_clk(weight_bits) / self.area_um2 * mac_scale * MAC_UM2
