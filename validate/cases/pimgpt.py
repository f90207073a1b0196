"""Measures of PIM-GPT and IANUS: one token after the other, on memory with units, against an eager GPU."""

from __future__ import annotations

from itertools import pairwise

from ...arch import AnySystem, System
from ...arch.hybrid_spec import HybridSystem
from ...errors import CaseError
from ...workloads import OpGraph
from .registry import measures
from .simulated import _simulate


def _units(graph: OpGraph, system: AnySystem, place: str = "pim") -> tuple[float, float]:
    """Seconds and joules of a step; by default with all that units can run on the units."""
    from ...sim.hybrid.run import simulate_hybrid

    if not isinstance(system, HybridSystem):
        raise CaseError(f"{system.name}: expected a hybrid system, found a system of kind {system.kind}")
    found = simulate_hybrid(graph, system, "analytic", place)
    return found.time_s, found.total.total_energy_j


@measures.add("1")
def units_speedup(graph: OpGraph, system: AnySystem, gpu: System, runtime: str = "eager", place: str = "pim") -> float:
    """Wall time of a step on a GPU, launches included, over that on a hybrid system, whose units run what `place` gives them."""
    return float(_simulate(graph, gpu, runtime, "analytic").time_s / _units(graph, system, place)[0])


@measures.add("1")
def mean_units_speedup(
    medium: OpGraph, large: OpGraph, largest: OpGraph, system: AnySystem, gpu: System, runtime: str = "eager", place: str = "pim"
) -> float:
    """Mean of `units_speedup` over three models."""
    return sum(units_speedup(graph, system, gpu, runtime, place) for graph in (medium, large, largest)) / 3.0


@measures.add("1")
def units_energy_ratio(graph: OpGraph, system: AnySystem, gpu: System, runtime: str = "eager") -> float:
    """Joules of a step on a GPU, idle ones included, over those in a hybrid system's memory and processor."""
    step = _simulate(graph, gpu, runtime, "analytic")
    idle_j = max(0.0, step.time_s - step.total.time_s) * gpu.idle_w
    return (step.total.total_energy_j + idle_j) / _units(graph, system)[1]


@measures.add("1")
def shrinks(
    small: OpGraph, medium: OpGraph, large: OpGraph, largest: OpGraph, system: AnySystem, gpu: System, runtime: str = "eager"
) -> float:
    """1 if `units_speedup` falls from each of four models to the next, else 0."""
    gains = [units_speedup(graph, system, gpu, runtime) for graph in (small, medium, large, largest)]
    return float(all(before > after for before, after in pairwise(gains)))
