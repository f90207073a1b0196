"""Measures that play a workload out on presilicon's models of the hardware."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

import numpy as np

from ...arch import System
from ...errors import UnknownNameError
from ...mapping.gpu import collective
from ...mapping.gpu.lower import lower
from ...mapping.gpu.machine import KernelTimes, Machine
from ...workloads import OpGraph
from .rates import decode_floor
from .registry import measures


@lru_cache(maxsize=64)
def _simulation(graph_and_system: _Key, runtime: str, fidelity: str) -> Any:
    from ...sim.run import simulate

    return simulate(graph_and_system.graph, graph_and_system.system, runtime=runtime, fidelity=fidelity)  # type: ignore[arg-type]


class _Key:
    """A graph and a system, equal to itself only: both are made once a run."""

    def __init__(self, graph: OpGraph, system: System) -> None:
        self.graph, self.system = graph, system

    def __hash__(self) -> int:
        return hash((id(self.graph), id(self.system)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.graph is other.graph and self.system is other.system


def _simulate(graph: OpGraph, system: System, runtime: str = "cudagraph", fidelity: str = "tile") -> Any:
    return _simulation(_Key(graph, system), runtime, fidelity)


@measures.add("s")
def step_time(graph: OpGraph, system: System, runtime: str = "cudagraph", fidelity: str = "tile") -> float:
    """Predicted wall time of one step, the host's launches included."""
    return float(_simulate(graph, system, runtime, fidelity).time_s)


@measures.add("1")
def step_ratio(graph: OpGraph, system: System, runtime: str, over: str, fidelity: str = "tile") -> float:
    """Predicted wall time under one runtime over that under another."""
    return step_time(graph, system, runtime, fidelity) / step_time(graph, system, over, fidelity)


@measures.add("1")
def floor_fraction(graph: OpGraph, system: System, runtime: str = "eager", fidelity: str = "tile") -> float:
    """`decode_floor` over the predicted wall time."""
    return decode_floor(graph, system) / step_time(graph, system, runtime, fidelity)


@measures.add("s")
def kernel_time(graph: OpGraph, system: System, fidelity: str = "tile") -> float:
    """Predicted GPU time of all kernels of one step, without launches and gaps."""
    return float(_simulate(graph, system, "cudagraph", fidelity).total.time_s)


@measures.add("1")
def kernel_speedup(graph: OpGraph, baseline: OpGraph, system: System, fidelity: str = "tile") -> float:
    """`kernel_time` of the baseline over that of the workload."""
    return kernel_time(baseline, system, fidelity) / kernel_time(graph, system, fidelity)


@measures.add("1")
def kernels_per_step(graph: OpGraph, system: System) -> float:
    """Kernels that an eager framework launches in one step."""
    rates = system.gpu.sm.tensor_flops_per_clk
    return float(sum(lower(op, rates).launches * op.count for op in graph if op.kind != "view"))


def _statistic(values: np.ndarray, statistic: str) -> float:
    if statistic == "median":
        return float(np.median(values))
    if statistic == "p95":
        return float(np.percentile(values, 95))
    raise UnknownNameError("statistic", statistic, ("median", "p95"))


@measures.add("1")
def share_of_bandwidth(graph: OpGraph, system: System, statistic: str = "median", fidelity: str = "tile") -> float:
    """Over the kernels of a workload: compulsory bytes / predicted time / DRAM bandwidth."""
    results = _simulate(graph, system, "cudagraph", fidelity).results
    rates = np.array([(r.op.bytes_read + r.op.bytes_written) / r.estimate.time_s for r in results])
    return _statistic(rates / system.dram.bandwidth_bytes_per_s, statistic)


@measures.add("1")
def share_of_peak(
    graph: OpGraph, arithmetic: str, system: System, statistic: str = "median", fidelity: str = "tile"
) -> float:
    """Over the kernels of a workload: multiply-add FLOPs / predicted time / tensor-core peak at the boost clock."""
    results = _simulate(graph, system, "cudagraph", fidelity).results
    rates = np.array([2.0 * r.op.scalar_ops("mac") / r.estimate.time_s for r in results])
    return _statistic(rates / system.tensor_flops_per_s(arithmetic), statistic)


@measures.add("s")
def median_kernel_time(graph: OpGraph, system: System, fidelity: str = "tile") -> float:
    """Median over the kernels of a workload of their predicted GPU time."""
    return float(np.median([r.estimate.time_s for r in _simulate(graph, system, "cudagraph", fidelity).results]))


def _all_reduce(message: float, devices: int, implementation: str, system: System) -> KernelTimes:
    return collective.all_reduce(
        Machine.of(system),
        collective.Link.of(system.link),
        np.array([message]),
        np.array([float(devices)]),
        implementation=implementation,
    )


@measures.add("s")
def all_reduce_time(
    message: Annotated[float, "B"], devices: int, system: System, implementation: str = "nccl"
) -> float:
    """Predicted time of one all-reduce of a message inside a node, by NCCL or by a serving framework's own kernel."""
    return float(_all_reduce(message, devices, implementation, system).time_s[0])


@measures.add("B/s")
def all_reduce_bus_bandwidth(
    message: Annotated[float, "B"], devices: int, system: System, implementation: str = "nccl"
) -> float:
    """Predicted bus bandwidth of an all-reduce, 2 (n - 1) / n * bytes / time.

    Source: nccl-tests, doc/PERFORMANCE.md.
    """
    return 2.0 * (devices - 1) / devices * message / all_reduce_time(message, devices, system, implementation)


@measures.add("B/s")
def all_gather_bandwidth(message: Annotated[float, "B"], devices: int, system: System) -> float:
    """Predicted algorithm bandwidth of an NCCL all-gather: gathered bytes over time.

    Source: nccl-tests, doc/PERFORMANCE.md.
    """
    times = collective.all_gather(
        Machine.of(system), collective.Link.of(system.link), np.array([message]), np.array([float(devices)])
    )
    return message / float(times.time_s[0])


@measures.add("s")
def tensor_parallel_step_time(
    graph: OpGraph,
    devices: int,
    all_reduces: int,
    message: Annotated[float, "B"],
    system: System,
    implementation: str = "nccl",
    runtime: str = "cudagraph",
    fidelity: str = "tile",
) -> float:
    """`step_time` of one device's shard, and all-reduces that nothing overlaps."""
    exchange_s = all_reduces * all_reduce_time(message, devices, system, implementation)
    return step_time(graph, system, runtime, fidelity) + exchange_s
