"""Measures of NPUs."""

from __future__ import annotations

from ...arch import AnySystem
from ...workloads import OpGraph
from .registry import measures


@measures.add("1")
def npu_speedup(graph: OpGraph, baseline: OpGraph, system: AnySystem, fidelity: str = "tile") -> float:
    """Predicted time of the baseline on an NPU over that of the workload."""
    from ...sim.run import simulate

    times = [simulate(each, system, fidelity=fidelity).time_s for each in (baseline, graph)]  # type: ignore[arg-type]
    return times[0] / times[1]
