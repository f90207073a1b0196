"""What chips cost to make: yield, dies of a wafer, memory, package, test; vectorised over designs, from the numbers of ``area.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .area_table import Node, known, of_node, value

#: A scalar, or an array with one value per design.
Number = Any
#: Largest die that a scanner exposes: 26 mm x 33 mm.
_RETICLE_MM2: Final = 858.0


@dataclass(frozen=True)
class Chip:
    """Area and cost of one GPU, or of an array of designs: floats of NumPy, or arrays with one value per design.

    Attributes
    ----------
    areas_mm2
        Area by part; their sum is `area_mm2`, of all dies together.
    good_share
        Yield: share of dies that can be sold.
    cost_usd
        Die, memory, package, test; to make one, not its price.
    """

    areas_mm2: Mapping[str, np.ndarray]
    area_mm2: np.ndarray
    good_share: np.ndarray
    die_usd: np.ndarray
    memory_usd: np.ndarray
    package_usd: np.ndarray
    test_usd: np.ndarray
    cost_usd: np.ndarray


def price(
    areas_mm2: Mapping[str, Number],
    node: Node,
    memory: str,
    memory_bytes: Number,
    bandwidth_bytes_per_s: Number,
    *,
    dies: int = 1,
    in_units_mm2: Number = 0.0,
    spares: Number = 0.0,
    memory_factor: Number = 1.0,
) -> Chip:
    """What it costs to make a chip with its memory, package and test.

    Parameters
    ----------
    areas_mm2
        By part, of all dies of the package, which are alike.
    node
        Process node.
    memory, memory_bytes, bandwidth_bytes_per_s
        A name of the table's ``memories``, and how much of it.
    dies
        Dies of the package.
    in_units_mm2, spares
        Area of units that are many and alike, and how many of them may fail.
    memory_factor
        By how much its units raise the price of a memory that computes.

    Raises
    ------
    UnknownNameError
        Unknown node or memory.
    SpecError
        The node has no wafer price.
    """
    wafer = of_node(node, "wafer_usd")
    area = np.sum([np.asarray(part, dtype=float) for part in areas_mm2.values()], axis=0)
    in_units = np.asarray(in_units_mm2, dtype=float)
    good = good_share((area - in_units) / dies, in_units / dies, np.asarray(spares, dtype=float) / dies)
    with np.errstate(divide="ignore"):
        die_usd = dies * wafer / (dies_per_wafer(area / dies) * good)
    entry = known("memories", memory, "memory")
    memory_usd = 0 * area + np.asarray(memory_bytes, dtype=float) / 1e9 * float(entry["usd_per_gb"]) * memory_factor
    hbm = entry["kind"] == "hbm"
    stacks = np.asarray(bandwidth_bytes_per_s, dtype=float) / float(entry["unit_bandwidth"]) if hbm else 0.0
    package = (area + stacks * value("package", "hbm_stack_mm2")) * value(
        "package", "interposer_usd_per_mm2" if hbm else "substrate_usd_per_mm2"
    )
    test = value("package", "test_usd") + value("package", "test_share") * (die_usd + memory_usd + package)
    return Chip(dict(areas_mm2), area, good, die_usd, memory_usd, package, test, die_usd + memory_usd + package + test)


def good_share(fixed_mm2: Number, in_sm_mm2: Number, spare_sms: Number) -> Number:
    """Yield of one die: no defect outside of the SMs, and no more defects in SMs than there are spare ones.

    Parameters
    ----------
    fixed_mm2, in_sm_mm2
        Area in which any defect kills, and area of SMs; half of the L2 and links could be repaired too, which is not counted.
    spare_sms
        SMs that may fail; between two whole numbers the yield lies between theirs, so that costs have no steps.

    Returns
    -------
    Share in (0, 1].

    Notes
    -----
    Negative binomial (Stapper 1983): ``(1 + A D / alpha) ** -alpha`` without spares, its distribution function (a regularised
    incomplete beta function) with them. The two areas are taken as independent.
    """
    from scipy.special import betainc

    density, alpha = value("yield", "defects_per_mm2"), value("yield", "clustering")
    outside = (1.0 + np.asarray(fixed_mm2) * density / alpha) ** -alpha
    mean = np.asarray(in_sm_mm2) * density
    return outside * betainc(alpha, np.maximum(spare_sms, 0) + 1, alpha / (alpha + mean))


def dies_per_wafer(area_mm2: Number) -> Number:
    """Dies that a 300 mm wafer holds, 0 above the reticle of 26 mm x 33 mm: ``pi (d/2)^2 / A - pi d / sqrt(2 A)``.

    Source: Hennessy and Patterson, Computer Architecture, 6th edition, section 1.6.
    """
    area = np.asarray(area_mm2, dtype=float)
    d = value("yield", "wafer_diameter_mm")
    count = np.pi * (d / 2) ** 2 / area - np.pi * d / np.sqrt(2 * area)
    return np.where(area <= _RETICLE_MM2, np.maximum(count, 0.0), 0.0)
