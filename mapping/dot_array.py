"""Cycles of matrix products on an array of dot-product PEs: tiles times cycles, or the bytes over the DRAM bandwidth.

The counting is that of BitMoD's simulator (HPCA 2025, repository abdelfattah-lab/BitMoD-HPCA-25, bitmod_sim/accelerator.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..arch.pe import DotArray
from ..errors import MappingError, shown


@dataclass(frozen=True)
class Product:
    """A weight matrix times inputs.

    Attributes
    ----------
    outputs, depth
        Rows and columns of the weights.
    tokens
        Columns of the result.
    weight_bits, input_bits
        Bits of an element, fractions included; results have the inputs' format.
    stored_bits
        Bits that a weight takes in memory, where that is not `weight_bits`; None: `weight_bits`.
    input_depth
        Elements of one token's input that are fetched, where that is not `depth`; None: `depth`.
    count
        How often it runs.
    """

    outputs: int
    depth: int
    tokens: int
    weight_bits: float
    input_bits: float = 16.0
    stored_bits: float | None = None
    input_depth: int | None = None
    count: int = 1

    def __post_init__(self) -> None:
        for name in ("outputs", "depth", "tokens", "weight_bits", "input_bits", "count"):
            if not getattr(self, name) > 0:
                raise MappingError(f"product: {name}: expected more than 0, found {shown(getattr(self, name))}")

    @property
    def bytes_by_operand(self) -> tuple[int, int, int]:
        """Bytes of weights, inputs and results; each row starts at a whole byte."""
        depth = self.depth if self.input_depth is None else self.input_depth
        stored = self.weight_bits if self.stored_bits is None else self.stored_bits
        return (
            math.ceil(self.depth * stored / 8) * self.outputs,
            math.ceil(depth * self.input_bits / 8) * self.tokens,
            math.ceil(self.outputs * self.input_bits / 8) * self.tokens,
        )


@dataclass(frozen=True)
class ProductCycles:
    """Cycles of one product: of the PEs, of DRAM, and the larger of them; and how often weights and inputs are fetched."""

    compute: float
    dram: float
    fetches: tuple[int, int]

    @property
    def total(self) -> float:
        """PEs and DRAM overlap: the slower one."""
        return max(self.compute, self.dram)


def product_cycles(product: Product, array: DotArray, digits: float | None = None) -> ProductCycles:
    """Cycles of one run of a product.

    Parameters
    ----------
    product, array
        What runs, and on what.
    digits
        Mean non-zero digits, for PEs that encode them.

    Returns
    -------
    ProductCycles
        ``compute``: ceil(depth / lanes) x ceil(outputs / rows) x ceil(tokens / cols) x cycles of a dot product. ``dram``: bytes over
        bandwidth, whole cycles; where neither weights nor inputs fit their SRAM, the cheaper of fetching one of them again for each tile of
        the other.
    """
    tiles = math.ceil(product.depth / array.pe.lanes) * math.ceil(product.outputs / array.rows) * math.ceil(product.tokens / array.cols)
    weights, inputs, results = product.bytes_by_operand
    again = (1, 1)
    if weights > array.weight_sram_bytes and inputs > array.input_sram_bytes:
        for_weights, for_inputs = math.ceil(inputs / array.input_sram_bytes), math.ceil(weights / array.weight_sram_bytes)
        cheaper = for_weights * weights + inputs < for_inputs * inputs + weights
        again = (for_weights, 1) if cheaper else (1, for_inputs)
    moved = again[0] * weights + again[1] * inputs + results
    return ProductCycles(tiles * array.pe.cycles(product.weight_bits, digits), float(int(moved / array.dram_bytes_per_clk)), again)


def total_cycles(products: list[Product], array: DotArray) -> float:
    """Cycles of products one after the other, repeats included."""
    return sum(product_cycles(product, array).total * product.count for product in products)
