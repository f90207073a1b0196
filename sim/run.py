"""`simulate`: an operator graph on a system, at one of the fidelities, under one of the runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, Literal

import numpy as np

from ..arch import Estimate, System, load
from ..arch.intervals import bounds
from ..errors import PresiliconError, UncoveredOpError, UnknownNameError
from ..mapping.fusion import fuse
from ..mapping.gpu.analytic import evaluate_all
from ..mapping.gpu.energy import kernel_energy
from ..mapping.gpu.lower import Kernel, lower
from ..mapping.gpu.machine import KernelTimes, Machine
from ..workloads.graph import OpGraph
from .gpu_tile import refine
from .host import RUNTIMES, HostTimeline, Launch, Runtime, play
from .result import MemoryFit, OpResult, Simulation

Fidelity = Literal["analytic", "tile"]
FIDELITIES: Final = ("analytic", "tile")


def simulate(
    graph: OpGraph, system: System | str | Path, *, fidelity: Fidelity = "tile", runtime: Runtime = "cudagraph", strict: bool = False
) -> Simulation:
    """Predict one step of a graph.

    Parameters
    ----------
    graph
        What runs.
    system
        A System, the name of a shipped one, or the path of a device file.
    fidelity
        ``"analytic"``: closed forms. ``"tile"``: the chosen tiles played out on the SMs.
    runtime
        ``"eager"``: every kernel is launched by the CPU. ``"cudagraph"``: the same kernels, captured. ``"compiled"``: captured, with
        elementwise chains and norms fused.
    strict
        Refuse graphs with ops that have no formula.

    Raises
    ------
    UnknownNameError
        Unknown fidelity, runtime or system.
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
    if runtime == "compiled":
        graph = fuse(graph)
    machine = Machine.of(system)
    results = estimate_ops(graph, system, machine, fidelity)
    timelines = [play(list(_launches(results, which)), system.host, runtime) for which in ("time_s", "low_s", "high_s")]
    played: HostTimeline = timelines[0]
    return Simulation(
        graph=graph,
        system=system,
        fidelity=fidelity,
        runtime=runtime,
        time_s=played.time_s,
        low_s=timelines[1].time_s,
        high_s=timelines[2].time_s,
        gpu_busy_s=played.gpu_busy_s,
        host_busy_s=played.host_busy_s,
        first_kernel_s=played.first_kernel_s,
        results=tuple(results),
        spans=played.spans,
        memory=fit_memory(graph, system),
    )


def estimate_ops(graph: OpGraph, system: System, machine: Machine, fidelity: Fidelity) -> list[OpResult]:
    """One Estimate per op, in program order."""
    ops = [op for op in graph if op.kind != "view"]
    kernels = [lower(op, machine.tensor_flops_per_clk) for op in ops]
    estimates: list[Estimate] = [Estimate()] * len(ops)
    for indices, closed in evaluate_all(kernels, machine, system.link):
        group = [kernels[i] for i in indices]
        times = refine(group, closed, machine) if fidelity == "tile" else closed
        for position, estimate in zip(indices, _estimates(group, times, system, machine), strict=True):
            estimates[position] = estimate
    return [OpResult(op, kernel, estimate) for op, kernel, estimate in zip(ops, kernels, estimates, strict=True)]


def _estimates(kernels: Sequence[Kernel], times: KernelTimes, system: System, machine: Machine) -> list[Estimate]:
    """Split the arrays of one group into Estimates, with intervals and energy."""
    shape = (len(kernels),)
    time = np.broadcast_to(np.asarray(times.time_s, dtype=float), shape)
    limiter = times.limiter()
    energy = {name: np.broadcast_to(values, shape) for name, values in kernel_energy(kernels, times, machine).items()}
    family = interval_key(kernels[0].family, kernels[0].options)
    low, high = bounds(system, family, time)
    busy = {name: np.broadcast_to(values, shape) for name, values in times.busy_s.items()}
    moved = {name: np.broadcast_to(values, shape) for name, values in times.bytes_moved.items()}
    clock = np.broadcast_to(times.clock_hz, shape)
    return [
        Estimate(
            time_s=float(time[i]),
            low_s=float(low[i]),
            high_s=float(high[i]),
            energy_j={n: float(v[i]) for n, v in energy.items()},
            bytes_moved={n: float(v[i]) for n, v in moved.items()},
            busy_s={n: float(v[i]) for n, v in busy.items()},
            flops=kernels[i].flops,
            clock_hz=float(clock[i]),
            limiter=str(limiter[i]),
        )
        for i in range(len(kernels))
    ]


def interval_key(family: str, options: object) -> str:
    """Name under which calibration keeps the intervals of a kernel family: the arithmetic tells kinds of GEMM apart."""
    arithmetic = options.get("arithmetic") if isinstance(options, dict) else None
    return f"{family}.{arithmetic}" if arithmetic else family


def _launches(results: Sequence[OpResult], which: str) -> Iterator[Launch]:
    """Program order with repeats written out: a run of ops with one count is a block that repeats."""
    for count, block in groupby(results, key=lambda r: r.op.count):
        members = list(block)
        for _ in range(count):
            for r in members:
                yield Launch(r.op.name, getattr(r.estimate, which), r.kernel.launches)


def fit_memory(graph: OpGraph, system: System) -> MemoryFit:
    """Peak memory of a step against the device's capacity."""
    m = graph.memory
    parts = {
        "weights": m.weights_bytes,
        "kv_cache": m.kv_cache_bytes,
        "activations": m.activations_bytes,
        "gradients": m.gradient_bytes,
        "optimizer": m.optimizer_bytes,
    }
    return MemoryFit({name: value for name, value in parts.items() if value}, system.dram.size_bytes)
