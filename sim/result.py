"""What a simulation of one graph on one system found; the face wraps it in a Report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

from ..arch import AnySystem, Estimate

if TYPE_CHECKING:
    from ..workloads.graph import OpGraph
    from ..workloads.op import Op


@dataclass(frozen=True)
class OpResult:
    """What one run of an op costs, and how that was found.

    Attributes
    ----------
    op, estimate
        The op, and the cost of one run.
    family
        Model that gave it: a GPU's ``"gemm"``, ``"attention_decode"`` ..., an NPU's ``"npu.matmul"`` ...
    arithmetic
        Arithmetic that executes it (``"bf16"``); ``""`` where there is none.
    launches
        Kernels or commands that the host submits for it.
    place, reason
        In a system of several devices: which one runs it, and why.
    """

    op: Op
    estimate: Estimate
    family: str
    arithmetic: str = ""
    launches: int = 1
    place: str = ""
    reason: str = ""

    @property
    def total(self) -> Estimate:
        """All runs of the op in one step."""
        return self.estimate * self.op.count


@dataclass(frozen=True)
class Span:
    """One bar of the timeline.

    Attributes
    ----------
    lane
        ``"host"``, ``"gpu"``, or the name of a link or unit.
    """

    name: str
    lane: str
    start_s: float
    duration_s: float
    op: str = ""


@dataclass(frozen=True)
class MemoryFit:
    """Peak memory of one step against the device's capacity, in bytes."""

    parts_bytes: Mapping[str, float]
    capacity_bytes: float

    @property
    def peak_bytes(self) -> float:
        """Sum of the parts."""
        return sum(self.parts_bytes.values())

    @property
    def fits(self) -> bool:
        """Whether the peak is within capacity."""
        return self.peak_bytes <= self.capacity_bytes

    @property
    def missing_bytes(self) -> float:
        """Bytes by which it does not fit; 0 if it fits."""
        return max(0.0, self.peak_bytes - self.capacity_bytes)


@dataclass(frozen=True)
class Simulation:
    """One step of a graph on a system.

    Attributes
    ----------
    time_s, low_s, high_s
        Wall time of the step, launch costs included, and its interval.
    device_busy_s, host_busy_s
        Seconds for which the device (any of them) ran kernels, and the CPU submitted them.
    first_kernel_s
        When the first kernel started.
    results
        Per op, in program order.
    spans
        Timeline of the step, repeats included.
    memory
        Peak against capacity.
    notes
        What the report says beside the numbers: fallbacks, who waited for whom, loads of channels.
    """

    graph: OpGraph
    system: AnySystem
    fidelity: str
    runtime: str
    time_s: float
    low_s: float
    high_s: float
    device_busy_s: float
    host_busy_s: float
    first_kernel_s: float
    results: tuple[OpResult, ...]
    spans: tuple[Span, ...] = field(repr=False)
    memory: MemoryFit = field(default_factory=lambda: MemoryFit({}, 0.0))
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> Estimate:
        """Sum over ops, without launch gaps."""
        return reduce(lambda a, b: a + b, (r.total for r in self.results), Estimate())

    @property
    def host_limited(self) -> bool:
        """Whether the CPU's submissions, not the kernels, set the step's time: the device idles for more than a tenth of it."""
        return self.host_busy_s > self.device_busy_s and self.device_busy_s < 0.9 * self.time_s


def fit_memory(graph: OpGraph, system: AnySystem) -> MemoryFit:
    """Peak memory of a step against the device's capacity."""
    m = graph.memory
    parts = {
        "weights": m.weights_bytes,
        "kv_cache": m.kv_cache_bytes,
        "activations": m.activations_bytes,
        "gradients": m.gradient_bytes,
        "optimizer": m.optimizer_bytes,
    }
    return MemoryFit({name: value for name, value in parts.items() if value}, system.memory_bytes)
