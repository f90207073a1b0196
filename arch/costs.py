"""Area, power and cost of designs of every kind of system, as columns of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from ..errors import PresiliconError
from .area import chip, peak_power_w, table
from .hybrid_area import hybrid_device
from .hybrid_spec import HybridSystem
from .npu import NpuSystem
from .npu_area import npu_chip, npu_peak_power_w
from .spec import System

#: Columns of one device: silicon that computes and what drives its memory, the most power that it draws, what it costs to make.
PER_DEVICE: Final = ("area_mm2_per_device", "power_w_per_device", "cost_usd_per_device")
#: The same of all devices together.
TOTALS: Final = ("area_mm2", "power_w", "cost_usd")


def design_costs(system: Any, designs: Mapping[str, np.ndarray], devices: int = 1) -> dict[str, np.ndarray]:
    """Area, power and cost of many designs.

    Parameters
    ----------
    system
        A system of any kind.
    designs
        Arrays of shape ``(designs,)`` by override path, SI units or words.
    devices
        How many such systems run the workload together; a hybrid system has several devices itself, which count as well.

    Returns
    -------
    dict
        ``area_mm2``, ``power_w`` and ``cost_usd`` of all devices, the same with ``_per_device``, and ``devices``: arrays of shape
        ``(designs,)``, or scalars where no design changes. Empty for a GPU whose generation has no technology in ``area.yaml``, or a node
        beyond it. A design whose die exceeds the reticle costs infinitely much; one that the system refuses has no numbers (NaN).
    """
    if isinstance(system, System):
        return _gpu(system, designs, devices)
    paths = list(designs)
    rows = list(zip(*(np.asarray(values).tolist() for values in designs.values()), strict=True)) if paths else [()]
    seen: dict[tuple[Any, ...], tuple[float, ...]] = {}
    for row in rows:
        if row not in seen:
            try:
                seen[row] = _one(system.override(dict(zip(paths, row, strict=True))) if paths else system)
            except PresiliconError:
                seen[row] = (np.nan,) * 4
    found = np.array([seen[row] for row in rows], dtype=float)
    if np.isnan(found).all():
        return {}
    return _columns(found[:, 0], found[:, 1], found[:, 2], found[:, 3] * devices)


def _one(system: Any) -> tuple[float, float, float, float]:
    """Area, power and cost of one device, and devices."""
    if isinstance(system, NpuSystem):
        found = npu_chip(system)
        return float(found.area_mm2), npu_peak_power_w(system), float(found.cost_usd), 1.0
    assert isinstance(system, HybridSystem)
    device = hybrid_device(system)
    return device.area_mm2, device.power_w, device.cost_usd, float(system.devices)


def _gpu(system: System, designs: Mapping[str, np.ndarray], devices: int) -> dict[str, np.ndarray]:
    if not (system.name in table()["parts"] or system.generation in table()["generations"]):
        return {}
    numbers = {path: values for path, values in designs.items() if np.asarray(values).dtype != object}
    made = chip(system, numbers)
    return _columns(made.area_mm2, peak_power_w(system, numbers), made.cost_usd, np.asarray(float(devices)))


def _columns(area: Any, power: Any, cost: Any, devices: Any) -> dict[str, np.ndarray]:
    each = tuple(np.asarray(values, dtype=float) for values in (area, power, cost))
    totals = {name: values * devices for name, values in zip(TOTALS, each, strict=True)}
    return totals | dict(zip(PER_DEVICE, each, strict=True)) | {"devices": np.asarray(devices, dtype=float)}
