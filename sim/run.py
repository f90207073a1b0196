"""`simulate`: an operator graph on a system of any kind, at one of the fidelities, under one of the runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from ..arch import AnySystem, System, load
from ..errors import MappingError, PresiliconError, UncoveredOpError, UnknownNameError
from ..workloads.graph import OpGraph
from .gpu_run import simulate_gpu
from .host import RUNTIMES, Runtime
from .parallel import devices
from .result import Simulation
from .sparse import with_sparsity

Fidelity = Literal["analytic", "tile"]
FIDELITIES: Final = ("analytic", "tile")


def simulate(
    graph: OpGraph,
    system: AnySystem | str | Path,
    *,
    fidelity: Fidelity = "tile",
    runtime: Runtime = "cudagraph",
    strict: bool = False,
    place: str = "auto",
) -> Simulation:
    """Predict one step of a graph.

    Parameters
    ----------
    graph
        What runs.
    system
        A System of any kind, the name of a shipped one, or the path of a device file.
    fidelity
        ``"analytic"``: closed forms. ``"tile"``: the chosen tiles played out on the device's engines.
    runtime
        GPUs only. ``"eager"``: every kernel is launched by the CPU. ``"cudagraph"``: the same kernels, captured. ``"compiled"``: captured,
        with elementwise chains and norms fused.
    strict
        Refuse graphs with ops that have no formula.
    place
        Hybrid systems only: which device takes which op; see `presilicon.mapping.placement`.

    Raises
    ------
    UnknownNameError
        Unknown fidelity, runtime, placement or system.
    UncoveredOpError
        `strict`, and the graph has ops without a formula.
    """
    for value, known, what in ((fidelity, FIDELITIES, "fidelity"), (runtime, RUNTIMES, "runtime")):
        if value not in known:
            raise UnknownNameError(what, str(value), known)
    system = load(system)
    if strict and graph.uncovered:
        raise UncoveredOpError(f"{graph.name}: ops without a formula: " + ", ".join(u.target for u in graph.uncovered))
    if not isinstance(graph, OpGraph):
        raise PresiliconError(f"expected an OpGraph, found {type(graph).__name__}")
    if isinstance(system, System):
        return with_sparsity(simulate_gpu(graph, system, fidelity, runtime))
    if devices(graph) > 1:
        told = "; hybrid systems take whole models and share them" if system.kind == "hybrid" else ""
        raise MappingError(f"{graph.name} on {system.name}: {devices(graph)} devices; only GPUs run graphs split over several{told}")
    found = _accelerator(system.kind)(graph, system, fidelity=fidelity, **({"place": place} if system.kind == "hybrid" else {}))
    return with_sparsity(found)


def _accelerator(kind: str) -> Any:
    """The simulator of a kind of system other than a GPU; each loads only what it needs."""
    if kind == "npu":
        from .npu.run import simulate_npu

        return simulate_npu
    from .hybrid.run import simulate_hybrid

    return simulate_hybrid
