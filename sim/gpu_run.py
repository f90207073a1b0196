"""A graph on one GPU: every op's kernel at the chosen fidelity, then the launches under the chosen runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from ..arch import Estimate, System
from ..arch.intervals import bounds, interval_key
from ..mapping.fusion import fuse
from ..mapping.gpu.analytic import evaluate_all
from ..mapping.gpu.energy import kernel_energy
from ..mapping.gpu.lower import FALLBACK, Kernel, lower
from ..mapping.gpu.machine import KernelTimes, Machine
from ..mapping.gpu.sparse import SUFFIX, arithmetic_label
from ..workloads.graph import OpGraph
from . import parallel
from .gpu_tile import refine
from .host import HostTimeline, Launch, Runtime, host_factors, play, scaled
from .result import OpResult, Simulation, fit_memory


def simulate_gpu(graph: OpGraph, system: System, fidelity: str, runtime: Runtime) -> Simulation:
    """One step of a graph on a GPU; see `presilicon.sim.run.simulate`."""
    if runtime == "compiled":
        graph = fuse(graph)
    parallel.check_link(graph, system.link, system.name)
    machine = Machine.of(system)
    step = parallel.split(graph, estimate_ops(graph, system, machine, fidelity))
    ends = zip(("time_s", "low_s", "high_s"), (1.0, *host_factors(system)), strict=True)
    timelines = [play(list(_launches(step, which)), scaled(system.host, factor), runtime) for which, factor in ends]
    played: HostTimeline = timelines[0]
    waits = [parallel.bubble_s(step, t.time_s) for t in timelines]
    exposed = [parallel.exposed_s(step, which) for which in ("time_s", "low_s", "high_s")]
    return Simulation(
        graph=graph,
        system=system,
        fidelity=fidelity,
        runtime=runtime,
        time_s=played.time_s + waits[0] + exposed[0],
        low_s=timelines[1].time_s + waits[1] + exposed[1],
        high_s=timelines[2].time_s + waits[2] + exposed[2],
        device_busy_s=played.gpu_busy_s + exposed[0],
        host_busy_s=played.host_busy_s,
        first_kernel_s=played.first_kernel_s,
        results=parallel.repeated(step),
        spans=parallel.shifted(played.spans, waits[0]),
        memory=fit_memory(graph, system),
        notes=(*parallel.notes(step, played.time_s, graph), *_borrowed_rates(parallel.repeated(step), system)),
    )


def estimate_ops(graph: OpGraph, system: System, machine: Machine, fidelity: str) -> list[OpResult]:
    """One Estimate per op, in program order."""
    ops = [op for op in graph if op.kind != "view"]
    kernels = [lower(op, machine.tensor_flops_per_clk) for op in ops]
    estimates: list[Estimate] = [Estimate()] * len(ops)
    for indices, closed in evaluate_all(kernels, machine, system.link):
        group = [kernels[i] for i in indices]
        times = refine(group, closed, machine) if fidelity == "tile" else closed
        for position, estimate in zip(indices, _estimates(group, times, system, machine), strict=True):
            estimates[position] = estimate
    return [
        OpResult(op, estimate, kernel.family, arithmetic_label(kernel.options, machine), kernel.launches)
        for op, kernel, estimate in zip(ops, kernels, estimates, strict=True)
    ]


def _estimates(kernels: Sequence[Kernel], times: KernelTimes, system: System, machine: Machine) -> list[Estimate]:
    """Split the arrays of one group into Estimates, with intervals and energy."""
    shape = (len(kernels),)
    time = np.broadcast_to(np.asarray(times.time_s, dtype=float), shape)
    limiter = times.limiter()
    energy = {name: np.broadcast_to(values, shape) for name, values in kernel_energy(kernels, times, machine).items()}
    family = interval_key(kernels[0].family, arithmetic_label(kernels[0].options, machine))
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


def _borrowed_rates(results: Sequence[OpResult], system: System) -> Iterator[str]:
    """A line for each number format that the GPU's tensor cores lack, and whose products are taken at another one's rate."""
    borrowed = {}
    for r in results:
        inputs = [o.number_format for o in r.op.operands if o.role != "output"]
        if r.arithmetic and inputs:
            asked = max(inputs, key=lambda f: f.element_bits).arithmetic
            if asked in FALLBACK and r.arithmetic.removesuffix(SUFFIX) in FALLBACK[asked]:
                borrowed[asked] = r.arithmetic.removesuffix(SUFFIX)
    for asked, taken in sorted(borrowed.items()):
        yield f"{system.name} has no tensor cores for {asked}: its products are predicted at the rate of {taken}"


def _launches(step: parallel.Step, which: str) -> Iterator[Launch]:
    """Program order with repeats written out: a run of ops with one count is a block that repeats."""
    for results, times in step.launched:
        blocks = [(count, list(block)) for count, block in groupby(results, key=lambda r: r.op.count)]
        for _ in range(times):
            for count, members in blocks:
                for _ in range(count):
                    for r in members:
                        yield Launch(r.op.name, getattr(r.estimate, which), r.launches)
