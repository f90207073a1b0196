"""Silicon of an NPU's engines and memories, for comparisons at equal area or power."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import UnknownNameError
from .area import logic_area_mm2, mac_area_mm2, sram_area_mm2, table
from .npu import NpuSystem

#: Nodes of ``area.yaml`` by their number.
_NODES: Final[Mapping[float, str]] = {45: "N45", 28: "N28", 12: "N12", 7: "N7", 4: "N4"}


def npu_area_mm2(system: NpuSystem, node: str | None = None) -> dict[str, float]:
    """Area by part: ``"matrix"``, ``"vector"``, ``"registers"`` and each memory, of all cores, mm2.

    Multiply-accumulators (the arithmetics share them: of area times rate the largest counts), fp32 lanes, and SRAM as
    `presilicon.arch.area` has them, which says where their numbers come from. Control, networks and what drives pins are left out: the
    sum is a lower bound of a die, good for ratios of alike designs.

    Parameters
    ----------
    system
        The NPU.
    node
        ``"N45"``, ``"N28"``, ``"N12"``, ``"N7"`` or ``"N4"``; by default the system's own.

    Raises
    ------
    UnknownNameError
        The table has no such node.

    Examples
    --------
    >>> from presilicon.arch import load
    >>> parts = npu_area_mm2(load("tpu-v1"))
    >>> [f"{name} {area:.0f}" for name, area in parts.items()]
    ['matrix 7', 'vector 2', 'unified_buffer 37', 'accumulators 6']
    """
    chosen = node or _NODES.get(system.node_nm)
    if chosen is None:
        raise UnknownNameError("process node", f"N{system.node_nm:g}", tuple(_NODES.values()), system.name)
    matrix = system.matrix
    each = max(_mac_mm2(a, chosen) * rate for a, rate in matrix.macs_per_clk.items())
    parts = {"matrix": each * matrix.pes * system.cores}
    if system.vector is not None:
        lane = float(table()["logic"]["fp32_lane"]["value"])
        parts["vector"] = float(logic_area_mm2(lane * system.vector.lanes, chosen)) * system.cores
    if matrix.register_bytes:
        held = sum(matrix.register_bytes.values()) * matrix.pes * system.cores
        parts["registers"] = float(sram_area_mm2(held, chosen, kind="register"))
    for memory in system.memories:
        size = memory.size_bytes or sum(memory.partition_bytes.values())
        parts[memory.name] = float(sram_area_mm2(size, chosen)) * (system.cores if memory.scope == "core" else 1)
    return parts


def _mac_mm2(arithmetic: str, node: str) -> float:
    """Area of one multiply-accumulator; 16-bit integers, which the table lacks, as four of 8 bits (multipliers grow with the square)."""
    return 4 * mac_area_mm2("int8", node) if arithmetic == "int16" else mac_area_mm2(arithmetic, node)
