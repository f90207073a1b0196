"""The CPU that submits kernels and the stream that runs them, on the event engine.

The CPU takes `Host.dispatch_s` for each operator and `Host.launch_s` for each kernel, runs ahead of the GPU by at most
`Host.queue_depth` launches, and the GPU runs the kernels of one stream in order. With a captured graph the CPU pays once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import simpy

from ..arch import Host, System
from ..arch.intervals import table_for
from .result import Span

Runtime = Literal["eager", "cudagraph", "compiled"]
RUNTIMES: Final = ("eager", "cudagraph", "compiled")
#: What other kinds of systems run under, whatever is asked for: the processor of a hybrid fuses elementwise chains and norms.
RUNTIME_OF: Final = {"npu": "npu", "hybrid": "compiled"}


def host_factors(system: System) -> tuple[float, float]:
    """What a system's host costs may be multiplied by, at the low and the high end of their interval."""
    table, _ = table_for(system, "host")
    return float(table["low"][0]), float(table["high"][0])


def scaled(host: Host, factor: float) -> Host:
    """A host whose costs are `factor` times as high."""
    return replace(
        host,
        launch_s=host.launch_s * factor,
        dispatch_s=host.dispatch_s * factor,
        graph_launch_s=host.graph_launch_s * factor,
        stream_gap_s=host.stream_gap_s * factor,
    )


@dataclass(frozen=True)
class Launch:
    """One operator as the host sees it: its name, GPU seconds, and kernels to submit."""

    name: str
    gpu_s: float
    kernels: int = 1


@dataclass(frozen=True)
class HostTimeline:
    """When everything ran.

    Attributes
    ----------
    time_s
        From the first CPU action to the end of the last kernel.
    """

    time_s: float
    gpu_busy_s: float
    host_busy_s: float
    first_kernel_s: float
    spans: tuple[Span, ...]


def play(launches: Sequence[Launch], host: Host, runtime: Runtime) -> HostTimeline:
    """Run launches in order under a runtime.

    Parameters
    ----------
    launches
        Operators in program order, repeats written out.
    host
        Costs of the CPU.
    runtime
        ``"eager"``: the CPU submits each kernel. ``"cudagraph"`` and ``"compiled"``: one captured graph is submitted.

    Returns
    -------
    HostTimeline
        Times in seconds from the start of the step.
    """
    env = simpy.Environment()
    queue: simpy.Store = simpy.Store(env, capacity=max(1, int(host.queue_depth)))
    spans: list[Span] = []
    busy = {"host": 0.0, "gpu": 0.0, "first": -1.0, "end": 0.0}
    if runtime == "eager":
        env.process(_cpu(env, queue, launches, host, spans, busy))
    else:
        env.process(_graph(env, queue, launches, host, spans, busy))
    env.process(_gpu(env, queue, len(launches), 0.0 if runtime != "eager" else host.stream_gap_s, spans, busy))
    env.run()
    return HostTimeline(busy["end"] if launches else float(env.now), busy["gpu"], busy["host"], max(0.0, busy["first"]), tuple(spans))


def _cpu(
    env: simpy.Environment, queue: simpy.Store, launches: Iterable[Launch], host: Host, spans: list[Span], busy: dict[str, float]
) -> Generator[Any, Any, None]:
    for launch in launches:
        start, cost = env.now, host.dispatch_s + host.launch_s * launch.kernels
        yield env.timeout(cost)
        spans.append(Span(f"launch {launch.name}", "host", float(start), cost, launch.name))
        busy["host"] += cost
        yield queue.put(launch)


def _graph(
    env: simpy.Environment, queue: simpy.Store, launches: Iterable[Launch], host: Host, spans: list[Span], busy: dict[str, float]
) -> Generator[Any, Any, None]:
    yield env.timeout(host.graph_launch_s)
    spans.append(Span("launch graph", "host", 0.0, host.graph_launch_s))
    busy["host"] = host.graph_launch_s
    for launch in launches:
        yield queue.put(launch)


def _gpu(
    env: simpy.Environment, queue: simpy.Store, count: int, gap_s: float, spans: list[Span], busy: dict[str, float]
) -> Generator[Any, Any, None]:
    for _ in range(count):
        launch = yield queue.get()
        if busy["first"] < 0:
            busy["first"] = float(env.now)
        start = env.now
        yield env.timeout(launch.gpu_s + gap_s * (launch.kernels - 1))
        busy["end"] = float(env.now)
        spans.append(Span(launch.name, "gpu", float(start), launch.gpu_s, launch.name))
        busy["gpu"] += launch.gpu_s
        yield env.timeout(gap_s)
