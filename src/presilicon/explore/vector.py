"""Many designs of one GPU at once: the closed forms over arrays of numbers set by override path, then the host in closed form.

The result of each design equals that of `presilicon.sim.run.simulate` on the system with the same overrides, up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

import numpy as np

from ..arch import System, value_at
from ..arch.intervals import bounds, interval_key
from ..mapping.fusion import fuse
from ..mapping.gpu.analytic import evaluate_all
from ..mapping.gpu.energy import kernel_energy
from ..mapping.gpu.lower import Kernel, lower
from ..mapping.gpu.machine import KernelTimes, Machine
from ..mapping.gpu.sparse import SUFFIX, skips
from ..sim import parallel
from ..sim.gpu_tile import refine
from ..sim.host import host_factors
from ..sim.result import fit_memory
from ..workloads.graph import OpGraph
from ..workloads.op import Op
from .host_arrays import Costs, Program, host_busy, per_step, play_arrays

#: Elements of one array of (designs, kernels) that are worked on together: small enough for the processor's caches.
_ELEMENTS: Final = 60_000
#: Bytes of the table of start times that an eager step needs for one block of designs.
_HISTORY_BYTES: Final = 64e6
_HOST: Final = ("launch", "dispatch", "graph_launch", "stream_gap", "queue_depth")
#: Resources that may limit a kernel, in the order of the columns; what a form names beside them is added.
RESOURCES: Final = ("tensor", "fma", "sfu", "smem", "l2", "dram", "link", "floor", "host")


@dataclass(frozen=True)
class Lowered:
    """A graph as distinct kernels: equal ops are evaluated once.

    Attributes
    ----------
    kernels
        The distinct ones.
    program
        The order in which a step launches them, every microbatch of a pipeline written out.
    backward, beside
        How often each distinct one runs in the backward pass of one microbatch, and beside it (collectives of gradients, which the
        program leaves out).
    stages, microbatches
        Of the pipeline.
    """

    kernels: tuple[Kernel, ...]
    program: Program
    backward: np.ndarray
    beside: np.ndarray
    stages: int = 1
    microbatches: int = 1

    def exposed_s(self, times_s: np.ndarray) -> np.ndarray:
        """`presilicon.sim.parallel.exposed_s` of times of shape ``(designs, distinct)``."""
        buckets = float(self.beside.sum())
        if not buckets:
            return np.zeros(len(times_s))
        total, backward = (times_s * self.beside).sum(axis=1), (times_s * self.backward).sum(axis=1)
        return np.asarray(np.maximum(total / buckets, total - backward * (1.0 - 1.0 / buckets)), dtype=float)


def lowered(graph: OpGraph, system: System, runtime: str) -> Lowered:
    """Kernels of a graph on a GPU under a runtime; raises as `presilicon.mapping.gpu.lower.lower` does."""
    ops = [op for op in (fuse(graph) if runtime == "compiled" else graph) if op.kind != "view"]
    ops.sort(key=_is_optimizer)  # what a step runs once, after all else, as `presilicon.sim.parallel.split` has it
    kernels: list[Kernel] = []
    seen: dict[Any, int] = {}
    column: list[int] = []
    for op in ops:
        kernel = lower(op, system.gpu.sm.tensor_flops_per_clk)
        key = (kernel.batch_key, tuple(sorted(kernel.sizes.items())), kernel.launches, kernel.flops)
        if key not in seen:
            seen[key] = len(kernels)
            kernels.append(kernel)
        column.append(seen[key])
    found = parallel.degrees(graph)
    stages, microbatches = int(found.get("pp", 1)), int(found.get("microbatches", 1))
    written: list[int] = []
    first: int | None = None  # launches of one microbatch
    backward, beside = np.zeros(len(kernels)), np.zeros(len(kernels))
    for (count, once), block in groupby(
        ((op, index) for op, index in zip(ops, column, strict=True) if not op.attributes.get("overlap")),
        key=lambda pair: (pair[0].count, _is_optimizer(pair[0])),
    ):
        if once and first is None:
            first = len(written)
        written += [index for _, index in block] * count  # program order: a run of ops with one count is a block that repeats
    first = len(written) if first is None else first
    for op, index in zip(ops, column, strict=True):
        if op.attributes.get("overlap"):
            beside[index] += op.count
        elif op.attributes.get("pass") == "backward":
            backward[index] += op.count
    order = np.array(written[:first] * microbatches + written[first:], dtype=int)
    runs = np.bincount(order, minlength=len(kernels)).astype(float)
    program = Program(order, np.array([k.launches for k in kernels], dtype=float), runs)
    return Lowered(tuple(kernels), program, backward, beside, stages, microbatches)


def _is_optimizer(op: Op) -> bool:
    return bool(op.attributes.get("pass") == "optimizer")


def evaluate_gpu(graph: OpGraph, system: System, columns: Mapping[str, np.ndarray], fidelity: str, runtime: str) -> dict[str, np.ndarray]:
    """Results of many designs.

    Parameters
    ----------
    graph, system, fidelity, runtime
        As `presilicon.sim.run.simulate` takes them.
    columns
        Arrays of shape ``(designs,)`` by override path, SI units, every design within what `System.override` takes.

    Returns
    -------
    dict
        Arrays of shape ``(designs,)``: ``time_s``, ``low_s``, ``high_s``, ``tokens_per_s``, ``energy_j``, ``limiter`` (words), ``fits``,
        ``peak_memory_bytes``, and ``share.RESOURCE``: the part of the step for which each resource, or the host, sets the pace.
    """
    designs = len(next(iter(columns.values())))
    step_by_step = {path: v for path, v in columns.items() if path.startswith("link.") or v.dtype == object}
    rest = {path: v for path, v in columns.items() if path not in step_by_step}
    parts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    for changes, chosen in _alike(step_by_step, designs):
        own = system.override(changes) if changes else system
        added = {path: float(v[0]) for path, v in rest.items() if path not in own.provenance}  # a tensor arithmetic that the GPU lacks
        own = own.override(added) if added else own
        parallel.check_link(graph, own.link, own.name)
        parts.append((chosen, _blocks(graph, own, {path: v[chosen] for path, v in rest.items()}, len(chosen), fidelity, runtime)))
    names = dict.fromkeys(name for _, found in parts for name in found)
    result: dict[str, np.ndarray] = {}
    for name in names:
        first = next(found[name] for _, found in parts if name in found)
        whole = np.zeros(designs, dtype=first.dtype)
        for chosen, found in parts:
            if name in found:
                whole[chosen] = found[name]
        result[name] = whole
    return result


def _alike(columns: Mapping[str, np.ndarray], designs: int) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Designs grouped by the values of some columns: (values, indices)."""
    if not columns:
        return [({}, np.arange(designs))]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, values in enumerate(zip(*(v.tolist() for v in columns.values()), strict=True)):
        groups.setdefault(values, []).append(index)
    return [(dict(zip(columns, values, strict=True)), np.array(chosen)) for values, chosen in groups.items()]


def _blocks(
    graph: OpGraph, system: System, columns: Mapping[str, np.ndarray], designs: int, fidelity: str, runtime: str
) -> dict[str, np.ndarray]:
    low = lowered(graph, system, runtime)
    step = max(1, _ELEMENTS // max(1, len(low.kernels)))
    if runtime == "eager":
        step = max(1, min(step, int(_HISTORY_BYTES / 8 / max(1, len(low.program.column)))))
    parts = []
    for start in range(0, designs, step):
        block = {path: values[start : start + step] for path, values in columns.items()}
        parts.append(_block(graph, system, low, block, min(step, designs - start), fidelity, runtime))
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.concatenate([part.get(name, np.zeros(len(part["time_s"]))) for part in parts]) for name in names}


def _block(
    graph: OpGraph, system: System, low: Lowered, columns: Mapping[str, np.ndarray], designs: int, fidelity: str, runtime: str
) -> dict[str, np.ndarray]:
    read = {path: values for path, values in columns.items() if not path.startswith("host.")}
    machine = Machine.of(system, read)
    shape = (designs, len(low.kernels))
    time, early, late, energy = (np.zeros(shape) for _ in range(4))
    limiter = np.zeros(shape, dtype=int)
    names = list(RESOURCES)
    for indices, closed in evaluate_all(low.kernels, machine, system.link):
        group = [low.kernels[i] for i in indices]
        times = _refined(group, closed, machine, designs) if fidelity == "tile" else closed
        part = (designs, len(indices))
        seconds = np.broadcast_to(np.asarray(times.time_s, dtype=float), part)
        time[:, indices] = seconds
        early[:, indices], late[:, indices] = _bounds(system, group[0], machine, seconds)
        energy[:, indices] = sum(np.broadcast_to(joules, part) for joules in kernel_energy(group, times, machine).values())
        limiter[:, indices] = _limiters(times, part, names)
    return _summed(graph, system, low, columns, (time, early, late, energy, limiter), names, machine, runtime)


def _bounds(system: System, kernel: Kernel, machine: Machine, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Interval of a group's times; of pruned weights that some designs skip and others expand, each design its own."""
    arithmetic = str(kernel.options.get("arithmetic", ""))
    low, high = bounds(system, interval_key(kernel.family, arithmetic), seconds)
    skipped = skips(kernel.options, machine)
    if not skipped.any():
        return low, high
    sparse_low, sparse_high = bounds(system, interval_key(kernel.family, f"{arithmetic}{SUFFIX}"), seconds)
    return np.where(skipped, sparse_low, low), np.where(skipped, sparse_high, high)


def _limiters(times: KernelTimes, shape: tuple[int, int], names: list[str]) -> np.ndarray:
    """Index into `names`, which grows where a form names a new resource, of what `KernelTimes.limiter` says."""
    names += [name for name in times.busy_s if name not in names]
    busiest = np.argmax(np.stack([np.broadcast_to(busy, shape) for busy in times.busy_s.values()]), axis=0)
    return np.array([names.index(name) for name in times.busy_s])[busiest]


def _refined(kernels: list[Kernel], closed: KernelTimes, machine: Machine, designs: int) -> KernelTimes:
    """The tile engine's times, one design after the other."""
    shape = (designs, len(kernels))

    def rows(values: Any) -> np.ndarray:
        return np.broadcast_to(np.asarray(values), shape)

    count = np.broadcast_to(np.asarray(machine.sm_count, dtype=float), (designs, 1))
    choice, busy = ({name: rows(v) for name, v in table.items()} for table in (closed.choice, closed.busy_s))
    time = rows(closed.time_s)
    played = np.empty(shape)
    for d in range(designs):
        own = replace(closed, time_s=time[d], busy_s={n: v[d] for n, v in busy.items()}, choice={n: v[d] for n, v in choice.items()})
        played[d] = refine(kernels, own, replace(machine, sm_count=float(count[d, 0]))).time_s
    return replace(closed, time_s=played)


def _summed(
    graph: OpGraph,
    system: System,
    low: Lowered,
    columns: Mapping[str, np.ndarray],
    kernels: tuple[np.ndarray, ...],
    names: list[str],
    machine: Machine,
    runtime: str,
) -> dict[str, np.ndarray]:
    """The step: launches under the runtime, energy with the gaps' idle power, and what sets the pace."""
    time, early, late, energy, limiter = kernels
    designs, runs = len(time), low.program.runs
    costs = Costs(*(np.asarray(columns.get(f"host.{name}", value_at(system, f"host.{name}")), dtype=float) for name in _HOST))
    ends = zip((time, early, late), (1.0, *host_factors(system)), strict=True)
    wait = 1.0 + (low.stages - 1) / low.microbatches  # a stage waits for the others: `presilicon.sim.parallel.bubble_s`
    step, first, last = (
        play_arrays(seconds, low.program, costs.scaled(factor), runtime) * wait + low.exposed_s(seconds) for seconds, factor in ends
    )
    exposed = low.exposed_s(time)
    busy = per_step(time, low.program) + exposed
    gap = step - busy
    idle_w = np.broadcast_to(machine.power_idle_w, (designs, 1))[:, 0]
    total_j = per_step(energy, low.program) + (energy * low.beside).sum(axis=1) + np.maximum(0.0, gap) * idle_w
    weighted = time * runs
    shares = np.stack(
        [np.where(limiter == i, weighted, 0.0).sum(axis=1) if (limiter == i).any() else np.zeros(designs) for i in range(len(names))]
    )
    host = names.index("host")
    if low.stages > 1:
        names.append("pipeline")
        shares = np.concatenate([shares, np.maximum(0.0, gap)[np.newaxis]])
    else:
        shares[host] += np.maximum(0.0, gap)
    shares[names.index("link")] += exposed  # gradients that the backward pass does not hide
    waits = (host_busy(low.program, costs, runtime) > busy) & (busy < 0.9 * step)
    limited = np.where(waits, host, np.argmax(shares, axis=0))
    memory = fit_memory(graph, system).peak_bytes
    capacity = np.broadcast_to(np.asarray(columns.get("dram.size", system.memory_bytes), dtype=float), (designs,))
    with np.errstate(divide="ignore", invalid="ignore"):
        tokens = np.where(step > 0, graph.tokens / step, 0.0)
        parts = np.where(shares.sum(axis=0) > 0, shares / shares.sum(axis=0), 0.0)
    return {
        "time_s": step,
        "low_s": first,
        "high_s": last,
        "tokens_per_s": tokens,
        "energy_j": total_j * parallel.devices(graph),
        "limiter": np.array(names, dtype=object)[limited],
        "fits": memory <= capacity,
        "peak_memory_bytes": np.full(designs, float(memory)),
    } | {f"share.{name}": parts[i] for i, name in enumerate(names)}
