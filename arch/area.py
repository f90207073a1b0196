"""Silicon area, yield and cost of chips: sums over their parts, vectorised over designs, from the numbers of ``area.yaml``.

Logic is a number of transistors spread at the effective density of its node, memory a number of bit cells at an efficiency, and what
drives pins (PHYs) an area that does not shrink with the node. Eight numbers are fitted on six dies, the others are published; the error
on every die of the table is what `die_errors` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..errors import SpecError, UnknownNameError
from .area_table import Node, known, nanometres, of_node, table, value
from .die_cost import Chip, Number, dies_per_wafer, good_share, price
from .loader import leaves, load, names, value_at
from .spec import System

__all__ = ["Chip", "Die", "chip", "die_errors", "dies_per_wafer", "good_share", "link_area_mm2", "logic_area_mm2", "mac_area_mm2",
           "peak_power_w", "phy_area_mm2", "shipped_die", "sram_area_mm2", "table"]

#: Bits of an element of each tensor arithmetic. The formats share one array of multipliers, whose rate doubles where the width halves,
#: as in every shipped tensor core.
_BITS: Final = {"tf32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4}
_FP64: Final = "gpu.sm.tensor.fp64"
_KIB, _MIB = 1024.0, 1024.0**2
#: L1 cache beside the shared memory of an SM: 192 - 164 KiB on A100, 256 - 228 on H100, 128 - 100 on Ada.
_L1_BYTES: Final = 28 * _KIB
#: Bandwidth per direction of one NVLink 2, 3 or 4 (data sheets: 300 GB/s in 12 links on A100).
_NVLINK_BYTES_PER_S: Final = 25e9


def logic_area_mm2(transistors: Number, node: Node) -> Number:
    """Area of so many transistors of synthesised logic at a node (``"N7"``, or nanometres), mm2.

    Raises
    ------
    UnknownNameError, SpecError
        A node that ``area.yaml`` does not have, or nanometres outside of it.
    """
    return np.asarray(transistors, dtype=float) / of_node(node, "logic")


def sram_area_mm2(n_bytes: Number, node: Node, *, kind: str = "macro") -> Number:
    """Area of an SRAM, mm2: its bit cells over their share of the whole.

    Parameters
    ----------
    n_bytes
        Capacity.
    node
        Process node.
    kind
        ``"macro"``: a bare macro (0.7 of it are cells); ``"scratchpad"``: one of a chip, with its banks, ports and wires (0.3, fitted on
        TPU v1 and Gemmini); ``"cache"``: with tags, ECC, queues and ports to a crossbar (0.354, from the die of
        AMD's V-Cache); ``"register"``: a cache's overhead and twice the area a bit, for more ports.

    >>> round(float(sram_area_mm2(50 * 2**20, "N4", kind="cache")), 1)
    24.9
    """
    cell = of_node(node, "sram_cell")
    kinds = {
        "macro": 1.0 / value("sram", "macro_efficiency"),
        "scratchpad": 1.0 / value("sram", "scratchpad_efficiency"),
        "cache": 1.0 / value("sram", "cache_efficiency"),
        "register": value("sram", "register_factor") / value("sram", "cache_efficiency"),
    }
    if kind not in kinds:
        raise UnknownNameError("kind of SRAM", kind, kinds)
    return np.asarray(n_bytes, dtype=float) * 8.0 * cell * kinds[kind]


def mac_area_mm2(arithmetic: str, node: Node) -> float:
    """Area of one discrete multiply-accumulate unit, mm2: Horowitz's 45 nm areas (ISSCC 2014), by the density of logic at the node.

    Raises
    ------
    UnknownNameError
        Unknown arithmetic or node.

    >>> mac_area_mm2("int8", "N7") < mac_area_mm2("fp8", "N7") < mac_area_mm2("bf16", "N7")
    True
    """
    um2 = float(known("mac_um2_45nm", arithmetic, "arithmetic")["value"])
    return float(logic_area_mm2(um2 * 1e-6 * of_node("N45", "logic"), node))


def phy_area_mm2(memory: str, bandwidth_bytes_per_s: Number, node: Node) -> Number:
    """PHYs and controllers of a memory (``"hbm3"``, ``"gddr6"`` ...) of a bandwidth, mm2; fractions of a stack or channel count.

    Raises
    ------
    UnknownNameError
        Unknown memory or node.
    """
    entry = known("memories", memory, "memory")
    return _phy_units(entry["kind"], np.asarray(bandwidth_bytes_per_s, dtype=float) / float(entry["unit_bandwidth"]), node)


def _phy_units(kind: str, units: Number, node: Node) -> Number:
    if kind == "ddr":  # measured with its controller
        return units * value("phy", "ddr_channel")
    phy, controller = (("hbm_stack", "hbm_controller"), ("gddr_channel", "gddr_controller"))[kind == "gddr"]
    return units * (value("phy", phy) + logic_area_mm2(value("logic", controller), node))


def link_area_mm2(nvlinks: Number, pcie_lanes: Number, node: Node) -> Number:
    """PHYs and controllers of links, mm2; one NVLink is 25 GB/s a direction."""
    old = "" if nanometres(node) <= nanometres("N4") else "_old"
    nvlink = value("phy", f"nvlink{old}") + logic_area_mm2(value("logic", "nvlink_controller"), node)
    return nvlinks * nvlink + pcie_lanes * (value("phy", f"pcie_lane{old}") + logic_area_mm2(value("logic", "pcie_controller"), node))


@dataclass(frozen=True)
class Die:
    """Units of a GPU's silicon, working or not: floats, or arrays with one value per design; `l2_bytes` for all dies of a package."""

    node: str
    memory: str
    sm: Number
    fma_lanes: Number
    tensor_macs: Number
    fp64_lanes: Number
    register_bytes: Number
    l1_bytes: Number
    l2_bytes: Number
    memory_units: Number
    nvlinks: Number
    pcie_lanes: Number
    graphics: bool
    dies: int = 1

    def areas_mm2(self) -> dict[str, Number]:
        """Area by part: tensor, vector, sm_control, registers, l1, l2, memory_phy, links, uncore."""
        node, sm = self.node, self.sm
        macs = self.tensor_macs * value("logic", "fp16_mac") * value("logic", "tensor_wiring")
        lanes = self.fma_lanes * (value("logic", "fp32_lane") + value("logic", "int32_lane"))
        lanes = lanes + self.fp64_lanes * value("logic", "fp64_lane")
        control = value("logic", "sm_control") + self.graphics * value("logic", "sm_graphics")
        return {
            "tensor": sm * logic_area_mm2(macs, node),
            "vector": sm * logic_area_mm2(lanes, node),
            "sm_control": sm * logic_area_mm2(control, node),
            "registers": sm * sram_area_mm2(self.register_bytes, node, kind="register"),
            "l1": sm * sram_area_mm2(self.l1_bytes, node, kind="cache"),
            "l2": sram_area_mm2(self.l2_bytes, node, kind="cache"),
            "memory_phy": _phy_units(known("memories", self.memory, "memory")["kind"], self.memory_units, node),
            "links": link_area_mm2(self.nvlinks, self.pcie_lanes, node),
            "uncore": self.dies * logic_area_mm2(value("logic", "uncore"), node),
        }


#: Parts of a GPU's area that are repeated once an SM: a defect there costs one SM, and spare SMs replace it.
_IN_SM: Final = ("tensor", "vector", "sm_control", "registers", "l1")


def shipped_die(name: str) -> Die:
    """A die of the table by its name (``"GH100"``), all units counted.

    Raises
    ------
    UnknownNameError
        No such die.
    """
    d = known("dies", name, "die")
    return Die(
        node=d["node"],
        memory="hbm3" if "stacks" in d else "gddr6",
        sm=float(d["sm"]),
        fma_lanes=float(d["fma"]),
        tensor_macs=float(d["tensor_macs"]),
        fp64_lanes=float(d.get("fp64_lanes", 2)),
        register_bytes=256 * _KIB,
        l1_bytes=d["l1_kib"] * _KIB,
        l2_bytes=d["l2_mib"] * _MIB,
        memory_units=float(d.get("stacks", d.get("channels"))),
        nvlinks=float(d.get("nvlinks", 0)),
        pcie_lanes=float(d.get("pcie_lanes", 16)),
        graphics=bool(d.get("graphics", False)),
        dies=int(d.get("dies", 1)),
    )


def die_errors() -> dict[str, tuple[float, float]]:
    """Published and modelled area of every die of the table, mm2."""
    return {name: (float(d["area"]), float(sum(shipped_die(name).areas_mm2().values()))) for name, d in table()["dies"].items()}


def chip(system: System, designs: Mapping[str, np.ndarray] | None = None, *, node: str | None = None, memory: str | None = None) -> Chip:
    """Area and cost of a GPU, or of many designs of one.

    Parameters
    ----------
    system
        The GPU. Its name, or else its generation, tells node and memory; a shipped part keeps its die's ratio of units to working
        units (spare SMs, unused stacks), so that the part as shipped has its die's area.
    designs
        Arrays of shape ``(designs,)`` by override path, SI units.
    node, memory
        Other technologies (`table`'s ``nodes`` and ``memories``).

    Raises
    ------
    UnknownNameError
        Unknown node or memory.
    SpecError
        The node has no wafer price, or the generation no technology.

    >>> round(float(chip(load("h100-sxm")).area_mm2))
    814
    >>> chip(load("h100-sxm"), {"gpu.l2.size": np.array([50e6, 100e6])}).area_mm2.shape
    (2,)
    """
    die, enabled_sm = _die_of(system, dict(designs or {}), node, memory)
    areas = die.areas_mm2()
    shape = np.broadcast_shapes(*(np.shape(v) for v in areas.values()))
    areas = {name: np.broadcast_to(np.asarray(v, dtype=float), shape) for name, v in areas.items()}
    in_sm = np.sum([areas[name] for name in _IN_SM], axis=0)
    size, bandwidth = (
        np.asarray((designs or {}).get(path, value_at(system, path)), dtype=float) for path in ("dram.size", "dram.bandwidth")
    )
    return price(areas, die.node, die.memory, size, bandwidth, dies=die.dies, in_units_mm2=in_sm, spares=die.sm - enabled_sm)


def _die_of(system: System, designs: Mapping[str, np.ndarray], node: str | None, memory: str | None) -> tuple[Die, Number]:
    """The silicon of a design, and how many SMs of it work."""
    tables = table()
    part = tables["parts"].get(system.name)
    technology = tables["generations"].get(system.generation)
    if technology is None:
        raise SpecError(f"{system.name}: generation {system.generation}: area.yaml names no node and memory for it")
    memory = memory or (part or technology)["memory"]
    known("memories", memory, "memory")
    shipped = tables["dies"][part["die"]] if part else {}
    node = node or shipped.get("node", technology["node"])
    base = load(system.name) if part and system.name in names() else system
    if not isinstance(base, System):
        base = system

    def at(path: str) -> Number:
        return np.asarray(designs[path], dtype=float) if path in designs else float(value_at(system, path))

    def physical(path: str, of_die: float | None, default: float = 1.0) -> Number:
        """Units on the silicon for the working ones of a path."""
        return at(path) * (of_die / float(value_at(base, path)) if of_die is not None else default)

    arithmetics = {name for name in leaves() if name.startswith("gpu.sm.tensor.")} & {*system.provenance, *designs}
    paths = sorted(p for p in arithmetics if p.rpartition(".")[2] in _BITS)
    tensor: Number = 0.0
    for path in paths:
        tensor = np.maximum(tensor, _tensor_macs(path, at(path)))
    if shipped:  # a part may have some of its die's tensor cores switched off
        enabled = max(_tensor_macs(path, float(value_at(base, path))) for path in paths if path in base.provenance)
        tensor = tensor * (shipped["tensor_macs"] / enabled)
    fp64: Number = at(_FP64) / 4 if _FP64 in arithmetics else 2.0
    if "fp64_lanes" in shipped:
        fp64 = shipped["fp64_lanes"] * (at(_FP64) / float(value_at(base, _FP64)) if _FP64 in base.provenance else 1.0)
    units = float(tables["memories"][memory]["unit_bandwidth"])
    of_die = shipped.get("stacks", shipped.get("channels"))
    phys = physical("dram.bandwidth", of_die) if of_die and memory == part["memory"] else at("dram.bandwidth") / units
    links = shipped.get("nvlinks", 0.0)
    if system.link.kind == "nvlink":
        links = physical("link.bandwidth", shipped.get("nvlinks"), 1.0 / _NVLINK_BYTES_PER_S)
    die = Die(
        node=node,
        memory=memory,
        sm=physical("gpu.sm.count", shipped.get("sm"), value("spares", "sm")),
        fma_lanes=at("gpu.sm.fma"),
        tensor_macs=tensor,
        fp64_lanes=fp64,
        register_bytes=at("gpu.sm.registers") * 4,
        l1_bytes=at("gpu.sm.shared_memory") + _L1_BYTES,
        l2_bytes=physical("gpu.l2.size", shipped["l2_mib"] * _MIB if shipped else None),
        memory_units=phys,
        nvlinks=links,
        pcie_lanes=16.0,
        graphics=bool(shipped.get("graphics", tables["memories"][memory]["kind"] == "gddr")),
        dies=int(shipped.get("dies", 1)),
    )
    return die, at("gpu.sm.count")


def _tensor_macs(path: str, flops_per_clk: Number) -> Number:
    """fp16 multiply-accumulates a clock and SM that a rate in some arithmetic stands for."""
    return flops_per_clk / 2 * _BITS[path.rpartition(".")[2]] / 16


def peak_power_w(system: System, designs: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    """The most that a design draws: every unit at its rate at once, or its power limit, whichever is less; W.

    ``idle + FLOP/s * J/FLOP + L2 B/s * J/B + DRAM B/s * J/B`` with the calibration constants ``power.*`` of the system and its most
    demanding tensor arithmetic; the power limit then lowers the clock (`presilicon.mapping.gpu.power`).
    """

    def at(path: str) -> Number:
        return np.asarray(designs[path], dtype=float) if designs and path in designs else float(value_at(system, path))

    exponent = at("calibration.power.width_exponent")
    paths = sorted(p for p in {*system.provenance, *(designs or {})} if p.startswith("gpu.sm.tensor.") and p.rpartition(".")[2] in _BITS)
    tensor: Number = 0.0
    for path in paths:
        tensor = np.maximum(tensor, at(path) * (_BITS[path.rpartition(".")[2]] / 16) ** exponent)
    clock = at("gpu.clock.boost")
    core = tensor * at("gpu.sm.count") * at("calibration.power.joule_per_flop")
    core = core + at("gpu.l2.bandwidth") * at("calibration.power.joule_per_l2_byte")
    peak = at("power.idle") + clock * core + at("dram.bandwidth") * at("calibration.power.joule_per_dram_byte")
    return np.minimum(peak, at("power.limit"))
