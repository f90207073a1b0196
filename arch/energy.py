"""Energy of arithmetic, SRAM and DRAM accesses by number format, size and process node, from the tables of ``energy.yaml``.

Used where a device file gives no energy of its own; such numbers have the status ``assumed``. Between two nodes of a table energies are
interpolated, log energy over log node; beyond the ends
of a table its nearest row holds, since what no table says is not invented (a 65 nm chip is counted at 45 nm, which is on the low side).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from ..errors import SpecError, UnknownNameError
from ..units import parse
from .yamlfile import read_yaml

TABLE: Final = Path(__file__).parent / "energy.yaml"
#: Multiply and add that a multiply-accumulate of each arithmetic is: operands of that format, sums in the wider one.
MAC_PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "int4": ("int8_mul", "int32_add"),
    "int8": ("int8_mul", "int32_add"),
    "int16": ("int32_mul", "int32_add"),
    "bf16": ("bf16_mul", "fp32_add"),
    "fp16": ("fp16_mul", "fp32_add"),
    "fp32": ("fp32_mul", "fp32_add"),
}
#: What a format that the table lacks at a node stands for there: bf16 has a shorter mantissa than fp16, which bounds it from above.
_STANDS_FOR: Final = {"bf16_mul": "fp16_mul", "bf16_add": "fp16_add"}
#: Part of a 32-bit multiplication that one of fewer bits takes: partial products grow with the square of the width.
_INT4_SHARE: Final = (4 / 8) ** 2
_INT16_SHARE: Final = (16 / 32) ** 2


@cache
def _tables() -> dict[str, Any]:
    return read_yaml(TABLE)


def _over_nodes(rows: Mapping[float, float], node_nm: float) -> float:
    """Energy at a node, from those of the table's nodes."""
    if not (isinstance(node_nm, int | float) and math.isfinite(node_nm) and node_nm > 0):
        raise SpecError(f"energy: node: expected nanometres above 0, found {node_nm!r}")
    nodes = sorted(rows)
    if node_nm <= nodes[0] or len(nodes) == 1:
        return rows[nodes[0]]
    if node_nm >= nodes[-1]:
        return rows[nodes[-1]]
    low = max(n for n in nodes if n <= node_nm)
    high = min(n for n in nodes if n > node_nm)
    share = math.log(node_nm / low) / math.log(high / low)
    return rows[low] ** (1 - share) * rows[high] ** share


def operation_j(operation: str, node_nm: float) -> float:
    """Joules of one scalar operation (``"fp16_mul"``, ``"int32_add"``).

    Raises
    ------
    UnknownNameError
        No node of the table has it.

    >>> round(operation_j("int8_mul", 45) * 1e12, 3), round(operation_j("fp32_add", 7) * 1e12, 3)
    (0.2, 0.38)
    """
    tables = _tables()["operations"]
    known = {name for table in tables.values() for name in table["values"]}
    if operation not in known:
        raise UnknownNameError("operation", operation, known, "energy table")
    rows = {}
    for node, table in tables.items():
        values = table["values"]
        name = operation if operation in values else _STANDS_FOR.get(operation, operation)
        if name in values:
            rows[float(node)] = parse(values[name], "J")
    return _over_nodes(rows, node_nm)


def mac_j(arithmetic: str, node_nm: float) -> float:
    """Joules of one multiply-accumulate of an arithmetic: its multiplication and the addition to a wider sum.

    int16 multiplies at a quarter of a 32-bit multiplication and int4 at a quarter of an 8-bit one (partial products grow with the square
    of the width).

    >>> round(mac_j("int8", 45) * 1e12, 3), round(mac_j("bf16", 7) * 1e12, 3)
    (0.3, 0.59)
    """
    if arithmetic not in MAC_PARTS:
        raise UnknownNameError("arithmetic", arithmetic, MAC_PARTS, "energy table")
    multiply, add = MAC_PARTS[arithmetic]
    share = {"int4": _INT4_SHARE, "int16": _INT16_SHARE}.get(arithmetic, 1.0)
    return share * operation_j(multiply, node_nm) + operation_j(add, node_nm)


def sram_j_per_byte(size_bytes: float, node_nm: float) -> float:
    """Joules of one byte read from an SRAM of a size, in 64-bit words; a write is taken to cost the same.

    Between the sizes of the table log energy is interpolated over log size. Above the largest the last slope goes on (a larger memory
    has longer wires); below the smallest energy falls with the square root of the size, as the length of bit and word lines does.

    >>> round(sram_j_per_byte(32768, 45) * 1e12, 3), round(sram_j_per_byte(2**20, 7) * 1e12, 3)
    (2.5, 1.75)
    """
    if not size_bytes > 0:
        raise SpecError(f"energy: SRAM size: expected bytes above 0, found {size_bytes!r}")
    rows = {}
    for node, table in _tables()["sram"].items():
        points = sorted((float(size), parse(energy, "J") / 8) for size, energy in table["values"].items())
        rows[float(node)] = _over_sizes(points, float(size_bytes))
    return _over_nodes(rows, node_nm)


def _over_sizes(points: list[tuple[float, float]], size: float) -> float:
    if size <= points[0][0]:
        return points[0][1] * math.sqrt(size / points[0][0])
    low = max(i for i, (s, _) in enumerate(points[:-1]) if s <= size)
    (s0, e0), (s1, e1) = points[low], points[low + 1]
    return e0 * (size / s0) ** (math.log(e1 / e0) / math.log(s1 / s0))


def dram_j_per_byte(standard: str) -> float:
    """Joules of one byte moved between a DRAM of a standard (``"hbm2"``) and the chip.

    >>> round(dram_j_per_byte("ddr3") * 1e12, 1)
    162.4
    """
    table = _tables()["dram"]
    if standard not in table:
        raise UnknownNameError("DRAM standard", standard, table, "energy table")
    return parse(table[standard]["value"], "J/B")


def dram_standards() -> list[str]:
    """Standards that the table holds."""
    return sorted(_tables()["dram"])
