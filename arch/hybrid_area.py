"""Silicon, power and cost of a processor with memory that computes, of one device and of the whole system.

Memory dies themselves are no area here, as they are none of a GPU; what units add to them is, and what drives memories of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .area import Die, chip, link_area_mm2, logic_area_mm2, peak_power_w, phy_area_mm2, sram_area_mm2
from .area_table import nanometres, value
from .die_cost import price
from .hybrid_spec import CROSSED, PATH, HybridSystem, NpuSide, PimSide, TiledSide, crossed, internal_bytes_per_s
from .npu_area import pe_transistors
from .spec import System

#: Interface of a memory standard on the processor.
_INTERFACES: Final = {"HBM2": "hbm2", "HBM2E": "hbm2e", "HBM3": "hbm3", "GDDR6": "gddr6", "DDR4": "ddr4", "LPDDR5": "lpddr4"}
_LINK_BYTES_PER_S: Final = 25e9
_KIB: Final = 1024.0


@dataclass(frozen=True)
class Device:
    """One device of a hybrid system: mm2, W, USD.

    Attributes
    ----------
    areas_mm2
        By part: of the processor's die, ``"units"`` in the memory, and ``"controllers"`` of memories of their own.
    power_w, cost_usd
        The most that it draws; what it costs to make.
    """

    areas_mm2: dict[str, float]
    power_w: float
    cost_usd: float

    @property
    def area_mm2(self) -> float:
        """Of all parts."""
        return sum(self.areas_mm2.values())


def hybrid_device(system: HybridSystem) -> Device:
    """Area, power and cost of one device of a hybrid system.

    Raises
    ------
    SpecError
        A GPU whose generation has no technology in ``area.yaml``.

    >>> from presilicon.arch import load
    >>> sorted(hybrid_device(load("h100-aim")).areas_mm2)[:3]
    ['controllers', 'l1', 'l2']
    """
    node = value("hybrid", "node")
    links = sum(wire.bandwidth_bytes_per_s for wire in (system.link, system.fabric) if wire is not None) / _LINK_BYTES_PER_S
    sides = list(system.sides.values())
    shared, apart = ([side for side in sides if side.memory == memory] for memory in ("shared", "separate"))
    own_bytes = system.memory_bytes / system.devices - sum(side.size_bytes for side in apart)
    memory = _INTERFACES.get(shared[0].device.standard, "hbm2") if shared else "hbm2"
    factor = 1.0 + sum(units_area_mm2(side) / _dram_mm2(side) for side in shared)
    if isinstance(system.xpu, System):
        found = chip(system.xpu)
        areas = {name: float(area) for name, area in found.areas_mm2.items()}
        power = float(peak_power_w(system.xpu))
        dearer = (factor - 1.0) * (1.0 + value("package", "test_share"))
        cost = float(found.cost_usd) + dearer * float(found.memory_usd)
    else:
        areas = _npu_side(system.xpu, memory) if isinstance(system.xpu, NpuSide) else _tiled_side(system.xpu)
        memory = memory if isinstance(system.xpu, NpuSide) else "hbm3"
        areas["links"] = float(link_area_mm2(links, value("npu", "pcie_lanes"), node))
        rest = value("npu", "rest") if isinstance(system.xpu, NpuSide) else 0.0
        areas["rest"] = areas.get("rest", 0.0) + sum(areas.values()) * rest / (1.0 - rest)
        made = price(areas, node, memory, own_bytes, system.bandwidth_bytes_per_s, memory_factor=factor)
        cost, power = float(made.cost_usd), _side_power_w(system.xpu, system.pim)
    if sides:
        areas["units"] = sum(units_area_mm2(side) for side in sides)
        power += sum(units_power_w(side) for side in sides)
    for side in apart:
        standard, bandwidth = _INTERFACES.get(side.device.standard, "hbm2"), external_bytes_per_s(side)
        controller = float(phy_area_mm2(standard, bandwidth, node) + link_area_mm2(0.0, value("npu", "pcie_lanes"), node))
        areas["controllers"] = areas.get("controllers", 0.0) + controller
        made = price({"controllers": controller}, node, standard, side.size_bytes, bandwidth,
                     memory_factor=1.0 + units_area_mm2(side) / _dram_mm2(side))
        cost += float(made.cost_usd)
    return Device(areas, power, cost)


def units_area_mm2(pim: PimSide) -> float:
    """Silicon that the units of one device's memories take, mm2: by their lanes in DRAM dies, by their rate on logic dies."""
    if pim.kernel == "logic" or pim.device.pim is None:
        return value("hybrid", "logic_unit") * internal_bytes_per_s(pim) * max(1.0, pim.op_per_byte) / 1e12
    lanes = pim.channels * pim.device.units_per_channel * pim.device.pim.lanes
    dual = value("hybrid", "row_buffers") * _dram_mm2(pim) if pim.memory == "shared" and pim.access == "concurrent" else 0.0
    return lanes * value("hybrid", "unit_lane") + dual


def _dram_mm2(pim: PimSide) -> float:
    return pim.size_bytes / 1e9 * value("hybrid", "dram_mm2_per_gb")


def external_bytes_per_s(pim: PimSide) -> float:
    """Bandwidth of one device's memories with units over their pins."""
    org, device = pim.device.organisation, pim.device
    return pim.count * org.channels * org.pseudo_channels * org.column_bytes * device.clock_hz / device.timings["tBL"]


def units_power_w(pim: PimSide) -> float:
    """Power of all units of one device reading at their rate, and standby of their memories; none that the memory's file does not give."""
    energy = pim.device.energy
    per_bit = sum(energy.get(part, 0.0) for part in PATH[:CROSSED[crossed(pim)]])
    # A multiply-add for each two bytes and vector, or as many operations a byte as units on the logic die do.
    per_byte = 8.0 * per_bit + energy.get("mac_j", 0.0) / 2.0 * max(1.0, float(pim.vectors), pim.op_per_byte)
    return internal_bytes_per_s(pim) * per_byte + pim.channels * energy.get("standby_w", 0.0)


def _npu_side(side: NpuSide, memory: str) -> dict[str, float]:
    node = value("hybrid", "node")
    transistors = pe_transistors("fp16", "is" if side.stationary == "inputs" else "ws") * side.arrays * side.rows * side.columns
    lane = value("logic", "fp32_lane") + value("logic", "int32_lane")
    return {
        "matrix": float(logic_area_mm2(transistors, node)),
        "vector": float(logic_area_mm2(lane * side.vector_cores * side.lanes, node)),
        "scratchpad": float(sram_area_mm2(side.scratchpad_bytes, node, kind="scratchpad")),
        "memory_phy": float(phy_area_mm2(memory, side.bandwidth_bytes_per_s, node)),
    }


def _tiled_side(side: TiledSide) -> dict[str, float]:
    """As a GPU of the same cores, rates and memories, with the lanes and registers of an A100's SM; links apart."""
    macs = side.flops_per_s / 2.0 / value("hybrid", "l2_per_clk") / side.cores
    die = Die(node="N7", memory="hbm3", sm=side.cores * value("spares", "sm"), fma_lanes=64.0, tensor_macs=macs, fp64_lanes=32.0,
              register_bytes=256 * _KIB, l1_bytes=side.l1_bytes, l2_bytes=side.l2_bytes,
              memory_units=phy_units("hbm3", side.bandwidth_bytes_per_s), nvlinks=0.0, pcie_lanes=0.0, graphics=False)
    assert nanometres("N7") == value("hybrid", "node")
    return {name: float(area) for name, area in die.areas_mm2().items() if name != "links"}


def phy_units(memory: str, bandwidth_bytes_per_s: float) -> float:
    """Stacks, or channels, of a memory of a bandwidth; fractions count."""
    from .area_table import known

    return bandwidth_bytes_per_s / float(known("memories", memory, "memory")["unit_bandwidth"])


def _side_power_w(side: NpuSide | TiledSide, pim: PimSide | None) -> float:
    if isinstance(side, TiledSide):
        core = side.flops_per_s / 2.0 * side.energy["mac"]
        return side.idle_w + core + side.bandwidth_bytes_per_s * side.energy["dram"]
    macs = side.arrays * side.rows * side.columns * side.mac_j
    per_bit = sum(pim.device.energy.get(part, 0.0) for part in PATH) if pim is not None else 0.0
    dram = side.bandwidth_bytes_per_s * 8.0 * (per_bit or 3.92e-12)  # HBM2: O'Connor et al., MICRO 2017, as in arch/energy.yaml
    return side.idle_w + side.clock_hz * (macs + side.vector_cores * side.lanes * side.vector_j) + dram
