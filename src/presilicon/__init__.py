"""Predict how fast, and at what energy, a PyTorch model runs on hardware that you do not own, or that does not exist yet.

>>> import presilicon as ps
>>> system = ps.load_system("h100-sxm").override({"gpu.sm.count": 144, "dram.bandwidth": "4 TB/s"})

Names load on first use, so that importing one part does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import calibrate, compare, load_graph, predict_table, simulate, trace, trace_model
    from .arch import Estimate, System
    from .arch import load as load_system
    from .errors import PresiliconError
    from .explore.figures import plot
    from .explore.knobs import knobs
    from .explore.pareto import pareto_front
    from .explore.results import load_results
    from .explore.search import explore as explore_designs
    from .explore.sensitivity import sensitivity
    from .explore.sweep import sweep
    from .iso import equalise
    from .kernel_api import capture_launches, predict_kernel
    from .kernel_report import KernelReport
    from .kernel_tune import tune
    from .mapping.nest.api import map_any as map
    from .predicting import predict
    from .report import Report
    from .workloads import Op, OpGraph, parallelise
    from .workloads.quantise import quantise
    from .workloads.sparsify import sparsify

__version__ = "0.1.0"

_WHERE = {
    "trace": ("api", "trace"),
    "trace_model": ("api", "trace_model"),
    "load_graph": ("api", "load_graph"),
    "simulate": ("api", "simulate"),
    "compare": ("api", "compare"),
    "equalise": ("iso", "equalise"),
    "predict": ("predicting", "predict"),
    "predict_table": ("api", "predict_table"),
    "calibrate": ("api", "calibrate"),
    "Report": ("report", "Report"),
    "predict_kernel": ("kernel_api", "predict_kernel"),
    "capture_launches": ("kernel_api", "capture_launches"),
    "KernelReport": ("kernel_report", "KernelReport"),
    "tune": ("kernel_tune", "tune"),
    "sweep": ("explore.sweep", "sweep"),
    "load_results": ("explore.results", "load_results"),
    "explore_designs": ("explore.search", "explore"),
    "pareto_front": ("explore.pareto", "pareto_front"),
    "sensitivity": ("explore.sensitivity", "sensitivity"),
    "knobs": ("explore.knobs", "knobs"),
    "plot": ("explore.figures", "plot"),
    "load_system": ("arch", "load"),
    "System": ("arch", "System"),
    "Estimate": ("arch", "Estimate"),
    "Op": ("workloads", "Op"),
    "OpGraph": ("workloads", "OpGraph"),
    "quantise": ("workloads.quantise", "quantise"),
    "sparsify": ("workloads.sparsify", "sparsify"),
    "parallelise": ("workloads.parallel", "parallelise"),
    "PresiliconError": ("errors", "PresiliconError"),
    "map": ("mapping.nest.api", "map_any"),
}

__all__ = [
    "Estimate",
    "KernelReport",
    "Op",
    "OpGraph",
    "PresiliconError",
    "Report",
    "System",
    "calibrate",
    "capture_launches",
    "compare",
    "equalise",
    "explore_designs",
    "knobs",
    "load_graph",
    "load_results",
    "load_system",
    "map",
    "parallelise",
    "pareto_front",
    "plot",
    "predict",
    "predict_kernel",
    "predict_table",
    "quantise",
    "sensitivity",
    "simulate",
    "sparsify",
    "sweep",
    "trace",
    "trace_model",
    "tune",
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
