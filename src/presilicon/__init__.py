"""Predict how fast, and at what energy, a PyTorch model runs on hardware that you do not own, or that does not exist yet.

>>> import presilicon as ps
>>> system = ps.load_system("h100-sxm").override({"gpu.sm.count": 144, "dram.bandwidth": "4 TB/s"})

Names load on first use, so that importing one part does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import compare, load_graph, simulate, trace, trace_model
    from .arch import Estimate, System
    from .arch import load as load_system
    from .errors import PresiliconError
    from .report import Report
    from .workloads import Op, OpGraph

__version__ = "0.1.0"

_WHERE = {
    "trace": ("api", "trace"),
    "trace_model": ("api", "trace_model"),
    "load_graph": ("api", "load_graph"),
    "simulate": ("api", "simulate"),
    "compare": ("api", "compare"),
    "Report": ("report", "Report"),
    "load_system": ("arch", "load"),
    "System": ("arch", "System"),
    "Estimate": ("arch", "Estimate"),
    "Op": ("workloads", "Op"),
    "OpGraph": ("workloads", "OpGraph"),
    "PresiliconError": ("errors", "PresiliconError"),
}

__all__ = [
    "Estimate",
    "Op",
    "OpGraph",
    "PresiliconError",
    "Report",
    "System",
    "compare",
    "load_graph",
    "load_system",
    "simulate",
    "trace",
    "trace_model",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        module, attribute = _WHERE[name]
        value = getattr(import_module(f".{module}", __name__), attribute)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
