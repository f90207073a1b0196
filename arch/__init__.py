"""What the hardware is: typed specs, device files with sources, calibration constants, and Estimate.

>>> system = load_gpu("h100-sxm")
>>> system.override({"gpu.sm.count": 144}).gpu.sm.count
144.0
"""

from __future__ import annotations

from .estimate import Estimate
from .listing import table
from .loader import describe, load, load_gpu, names, save, value_at
from .spec import AnySystem, Dram, Gpu, Host, Link, Power, Provenance, System

__all__ = ["AnySystem", "Dram", "Estimate", "Gpu", "Host", "Link", "Power", "Provenance", "System", "describe", "load",
           "load_gpu", "names", "save", "table", "value_at"]
