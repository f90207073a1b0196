"""The step of a whole parallel system from the kernels of one rank: overlap of gradients, the pipeline's bubble, devices.

A graph of one rank (`presilicon.workloads.parallel`) says in ``meta["parallel"]`` of how many ranks. Tensor, expert and
context parallel collectives are on the critical path, as the next kernel needs their result. Gradients of data parallelism
are reduced in buckets while the backward pass goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..arch import Link
from ..errors import MappingError
from ..workloads.graph import OpGraph
from .result import OpResult, Span


@dataclass(frozen=True)
class Step:
    """What one rank runs, in three parts.

    Attributes
    ----------
    micro
        Ops of one microbatch.
    once
        Ops after the last microbatch (the optimizer).
    beside
        Collectives that run beside the backward pass.
    stages, microbatches, devices
        Of the pipeline; and devices in all.
    """

    micro: tuple[OpResult, ...]
    once: tuple[OpResult, ...]
    beside: tuple[OpResult, ...]
    stages: int = 1
    microbatches: int = 1
    devices: int = 1

    @property
    def launched(self) -> list[tuple[tuple[OpResult, ...], int]]:
        """Groups of ops in the order in which a stream runs them, with how often."""
        return [(self.micro, self.microbatches), (self.once, 1)]


def degrees(graph: OpGraph) -> Mapping[str, Any]:
    """Degrees of a graph of one rank; empty for a graph of one device."""
    found = graph.meta.get("parallel")
    return found if isinstance(found, Mapping) else {}


def devices(graph: OpGraph) -> int:
    """Devices that run the graph together."""
    return int(degrees(graph).get("devices", 1))


def check_link(graph: OpGraph, link: Link, name: str) -> None:
    """MappingError if the graph needs more devices than the link joins; networks between nodes are not modelled."""
    wanted = devices(graph)
    for op in graph:
        if op.kind == "collective":
            wanted = max(wanted, int(op.attributes["devices"]))
    if wanted > link.max_devices:
        raise MappingError(
            f"{graph.name} on {name}: {wanted} devices, but its link joins {link.max_devices:g} (link.max_devices); "
            "networks between nodes are not modelled"
        )


def split(graph: OpGraph, results: Sequence[OpResult]) -> Step:
    """The results of a graph by when they run."""
    found = degrees(graph)
    beside = tuple(r for r in results if r.op.attributes.get("overlap"))
    once = tuple(r for r in results if r.op.attributes.get("pass") == "optimizer")
    apart = {id(r) for r in (*beside, *once)}
    micro = tuple(r for r in results if id(r) not in apart)
    return Step(micro, once, beside, int(found.get("pp", 1)), int(found.get("microbatches", 1)), int(found.get("devices", 1)))


def exposed_s(step: Step, which: str = "time_s") -> float:
    """Seconds of the gradients' reduction that the backward pass does not hide.

    A bucket is sent when its gradients are there, so of n buckets n - 1 may hide behind the backward pass of the last
    microbatch, and the last, whose gradients come at its end, never does (Li et al., "PyTorch Distributed", VLDB 2020).
    """
    total = sum(getattr(r.estimate, which) * r.op.count for r in step.beside)
    if not total:
        return 0.0
    buckets = sum(r.op.count for r in step.beside)
    backward = sum(getattr(r.estimate, which) * r.op.count for r in step.micro if r.op.attributes.get("pass") == "backward")
    return max(total / buckets, total - backward * (1.0 - 1.0 / buckets))


def bubble_s(step: Step, busy_s: float) -> float:
    """Seconds for which a stage waits for the others: (p - 1) of its microbatches, in a step of m (Huang et al., GPipe).

    Parameters
    ----------
    busy_s
        Time of a stage for its m microbatches.
    """
    return (step.stages - 1) * busy_s / step.microbatches


def repeated(step: Step) -> tuple[OpResult, ...]:
    """All results, those of a microbatch counted for every microbatch."""
    if step.microbatches == 1:
        return (*step.micro, *step.beside, *step.once)
    micro = tuple(replace(r, op=replace(r.op, count=r.op.count * step.microbatches)) for r in step.micro)
    return (*micro, *step.beside, *step.once)


def shifted(spans: Sequence[Span], by_s: float) -> tuple[Span, ...]:
    """The timeline of a stage that starts later: the last of a pipeline waits for all before it."""
    return tuple(replace(span, start_s=span.start_s + by_s) for span in spans) if by_s else tuple(spans)


def notes(step: Step, busy_s: float, graph: OpGraph) -> tuple[str, ...]:
    """Lines for the report."""
    found = degrees(graph)
    if not found:
        return ()
    named = " x ".join(f"{name} {found[name]}" for name in ("tp", "pp", "dp", "cp", "ep") if found.get(name, 1) > 1) or "one rank"
    lines = [f"one of {step.devices} devices ({named}); energy and tokens/s are those of all"]
    communication = sum(r.total.time_s for r in step.micro if r.op.kind == "collective")
    kernels = sum(r.total.time_s for r in step.micro) or 1.0
    if communication:
        lines.append(f"collectives take {communication / kernels:.0%} of a rank's kernel time")
    if step.stages > 1:
        bubble = (step.stages - 1) / (step.microbatches + step.stages - 1)
        lines.append(f"pipeline: {step.microbatches} microbatches through {step.stages} stages, bubble {bubble:.0%} of the step")
    if step.beside:
        total = sum(r.total.time_s for r in step.beside)
        hidden = 1 - exposed_s(step) / total if total else 1.0
        lines.append(f"gradients: {hidden:.0%} of their reduction hidden behind the backward pass")
    repeats = found.get("replicated") or []
    if repeats:
        lines.append(
            f"every rank repeats {len(repeats)} kinds of work: " + "; ".join(map(str, repeats[:3])) + (" ..." if len(repeats) > 3 else "")
        )
    return tuple(lines)
