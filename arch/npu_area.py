"""Silicon, power and cost of NPUs, from the numbers of ``area.yaml`` that GPUs are counted with, so that budgets compare.

A PE is a multiply-accumulator and its flip-flops, times what a tensor core takes for wires, formats and operand buffers (fitted on GPUs);
memories are scratchpads (fitted on TPU v1 and Gemmini); a share of the die goes to all else (the floor plan of TPU v1).
"""

from __future__ import annotations

from typing import Any, Final

from ..errors import UnknownNameError
from .area import link_area_mm2, logic_area_mm2, phy_area_mm2, sram_area_mm2
from .area_table import Node, known, table, value
from .die_cost import Chip, price
from .npu import NpuSystem, arithmetic_bits

#: Operands that a PE latches, and sums: it passes its inputs on, holds a stationary operand twice, and adds to a sum that moves or stays.
_LATCHED: Final = {"ws": (3, 1), "is": (3, 1), "os": (2, 1), "rs": (2, 1), "cube": (2, 0)}
#: Interface that a chip gets whose file names no DRAM standard, by its bandwidth.
_BY_BANDWIDTH: Final = ((200e9, "hbm2e"), (50e9, "gddr6"), (0.0, "ddr4"))


def pe_transistors(arithmetic: str, dataflow: str) -> float:
    """Transistors of one PE: a fp16 multiply-accumulator by the ratio of Horowitz's areas, and flip-flops, with their wiring.

    Raises
    ------
    UnknownNameError
        An arithmetic or dataflow that the table lacks.

    >>> round(pe_transistors("int8", "ws"))
    10848
    """
    if dataflow not in _LATCHED:
        raise UnknownNameError("dataflow", dataflow, _LATCHED)
    operands, sums = _LATCHED[dataflow]
    latched = operands * arithmetic_bits(arithmetic) + sums * value("npu", "sum_bits")
    return (mac_transistors(arithmetic) + latched * value("npu", "flip_flop")) * value("logic", "tensor_wiring")


def mac_transistors(arithmetic: str) -> float:
    """Transistors of a bare multiply-accumulator; 16-bit integers, which the table lacks, as four of 8 bits."""
    if arithmetic == "int16":
        return 4 * mac_transistors("int8")
    ratio = float(known("mac_um2_45nm", arithmetic, "arithmetic")["value"]) / float(table()["mac_um2_45nm"]["fp16"]["value"])
    return value("logic", "fp16_mac") * ratio


def npu_area_mm2(system: NpuSystem, node: Node | None = None) -> dict[str, float]:
    """Area by part, of all cores, mm2.

    Parameters
    ----------
    system
        The NPU. Of shipped ones the table knows cores that are switched off, and interfaces.
    node
        A node of the table, or nanometres; the system's own if None.

    Returns
    -------
    dict
        ``"matrix"`` (the arithmetics share the PEs: of transistors times rate the largest counts), ``"vector"``, ``"registers"``, each
        memory by its name, ``"memory_phy"``, ``"links"`` and ``"rest"``: control, networks, pads.

    Raises
    ------
    SpecError
        A node beyond the table.

    Examples
    --------
    >>> from presilicon.arch import load
    >>> parts = npu_area_mm2(load("tpu-v1"))
    >>> [f"{name} {area:.0f}" for name, area in parts.items()]
    ['matrix 36', 'vector 4', 'unified_buffer 85', 'accumulators 14', 'memory_phy 20', 'links 12', 'rest 60']
    """
    chosen: Node = system.node_nm if node is None else node
    part = _part(system)
    matrix, vector = system.matrix, system.vector
    cores = system.cores * _spare(system)
    each = max(pe_transistors(a, matrix.dataflow) * rate for a, rate in matrix.macs_per_clk.items())
    parts = {"matrix": float(logic_area_mm2(each * matrix.pes * cores, chosen))}
    if vector is not None:
        lane = value("logic", "fp32_lane") + value("logic", "int32_lane")
        units = vector.lanes * max([1.0, *vector.ops_per_clk.values()])
        parts["vector"] = float(logic_area_mm2(lane * units * cores, chosen))
    if matrix.register_bytes:
        held = sum(matrix.register_bytes.values()) * matrix.pes * cores
        parts["registers"] = float(sram_area_mm2(held, chosen, kind="register"))
    for memory in system.memories:
        size = memory.size_bytes or sum(memory.partition_bytes.values())
        parts[memory.name] = float(sram_area_mm2(size, chosen, kind="scratchpad")) * (cores if memory.scope == "core" else 1)
    parts["memory_phy"] = float(phy_area_mm2(memory_of(system), system.dram.bandwidth_bytes_per_s, chosen))
    lanes = float(part.get("pcie_lanes", value("npu", "pcie_lanes")))
    if lanes:
        parts["links"] = float(link_area_mm2(0.0, lanes, chosen))
    rest = value("npu", "rest")
    return parts | {"rest": sum(parts.values()) * rest / (1.0 - rest)}


def _part(system: NpuSystem) -> dict[str, Any]:
    found: dict[str, Any] = table()["npus"].get(system.name, {})
    return found


def _spare(system: NpuSystem) -> float:
    """Cores on the silicon for each that works: a design keeps the ratio of the part that it is made from."""
    from .loader import load

    physical = _part(system).get("cores")
    if physical is None:
        return 1.0
    shipped = load(system.name)
    return float(physical) / shipped.cores if isinstance(shipped, NpuSystem) else 1.0


def memory_of(system: NpuSystem) -> str:
    """Name of its DRAM in the table's ``memories``: what is known of the part, the standard that its file names, or the usual one of its
    bandwidth."""
    part = _part(system)
    if "memory" in part:
        return str(part["memory"])
    standard = system.values.get("dram.standard", ("", ""))[0]
    if standard in table()["memories"]:
        return str(standard)
    return next(name for least, name in _BY_BANDWIDTH if system.dram.bandwidth_bytes_per_s >= least)


def npu_chip(system: NpuSystem, node: Node | None = None) -> Chip:
    """Area and cost of an NPU with its memory; see `npu_area_mm2` and `presilicon.arch.die_cost.price`."""
    areas = npu_area_mm2(system, node)
    chosen: Node = system.node_nm if node is None else node
    per_core = ("matrix", "vector", "registers", *(m.name for m in system.memories if m.scope == "core"))
    cores = sum(areas.get(name, 0.0) for name in per_core)
    spare = system.cores * (_spare(system) - 1.0)
    return price(areas, chosen, memory_of(system), system.dram.size_bytes, system.dram.bandwidth_bytes_per_s,
                 in_units_mm2=cores if spare >= 1 else 0.0, spares=spare)


def npu_peak_power_w(system: NpuSystem) -> float:
    """The most that an NPU draws with its DRAM: static power and every unit, port and DRAM byte at its rate at once, W.

    Energies are those of its file, or of the energy table. Memories whose ports no number limits are left out, and so are networks and
    the clock tree.

    >>> from presilicon.arch import load
    >>> 40 < npu_peak_power_w(load("tpu-v1")) < 75  # busy, and the limit of its design (Jouppi et al., ISCA 2017, table 2)
    True
    """
    matrix, vector, clock = system.matrix, system.vector, system.clock_hz
    mac = max(matrix.mac_j[a] * rate for a, rate in matrix.macs_per_clk.items())
    if matrix.register_bytes:  # a multiply-accumulate reads two operands and a sum, and writes one
        mac += 4 * max(arithmetic_bits(a) / 8 * rate for a, rate in matrix.macs_per_clk.items()) * matrix.register_j_per_byte
    per_clk = mac * matrix.pes * system.cores
    if vector is not None:
        per_clk += vector.lanes * max(vector.op_j[op] * rate for op, rate in vector.ops_per_clk.items()) * system.cores
    for memory in system.memories:
        count = system.cores if memory.scope == "core" else 1
        if memory.bandwidth_bytes_per_clk is not None:
            per_clk += count * memory.bandwidth_bytes_per_clk * max(memory.read_j_per_byte, memory.write_j_per_byte)
        else:
            per_clk += count * (memory.read_bytes_per_clk or 0.0) * memory.read_j_per_byte
            per_clk += count * (memory.write_bytes_per_clk or 0.0) * memory.write_j_per_byte
    return system.static_w + per_clk * clock + system.dram.bandwidth_bytes_per_s * system.dram.j_per_byte


def npu_die_errors() -> dict[str, tuple[float, float]]:
    """Published and modelled area of every NPU die of the table, mm2."""
    from .loader import load

    found: dict[str, tuple[float, float]] = {}
    for name, entry in table()["npus"].items():
        system = load(name)
        if "area" in entry and isinstance(system, NpuSystem):
            found[name] = float(entry["area"]), sum(npu_area_mm2(system).values())
    for name, entry in table()["npu_dies"].items():
        system = load(entry["of"])
        assert isinstance(system, NpuSystem)
        changed = _renamed(system.override(entry["changes"]), name)
        found[name] = float(entry["area"]), sum(npu_area_mm2(changed).values())
    return found


def _renamed(system: NpuSystem, name: str) -> NpuSystem:
    from dataclasses import replace

    return replace(system, name=name)
