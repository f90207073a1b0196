"""Measures of whole convolutional networks: utilisation on systolic arrays, and what a scratchpad spills."""

from __future__ import annotations

from typing import Any, Final

from ...arch.array import SystolicArray
from ...errors import CaseError, UnknownNameError
from ...mapping.fusion import fuse
from ...mapping.scratchpad import allocate, problem_of
from ...mapping.systolic import estimate
from ...mapping.systolic_layer import Layer
from ...mapping.systolic_lower import lower
from ...workloads import OpGraph
from ...workloads.models import trace_model
from .registry import builders, measures

_LAYERS: Final = ("all", "depthwise", "other")


@builders.add()
def network(model: str, batch: int = 1, whole: bool = True) -> OpGraph:
    """One inference of a traced model, operators fused as `presilicon.mapping.fusion.fuse` does; ``whole``: repeated blocks one by one."""
    return fuse(trace_model(model, batch=batch, folded=not whole))


@builders.add()
def layers(model: str, batch: int = 1) -> OpGraph:
    """One inference of a traced model, operators as they are, repeated ones once with a count."""
    return trace_model(model, batch=batch)


def _depthwise(layer: Layer) -> bool:
    return layer.g > 1 and layer.f == 1 and layer.w > 1


def _rows(graph: OpGraph, kind: str, rows: int, cols: int, dataflow: str) -> list[dict[str, int | float]]:
    if kind not in _LAYERS:
        raise CaseError(str(UnknownNameError("layers", kind, _LAYERS)))
    given: Any = dataflow  # SystolicArray refuses what is no dataflow
    array = SystolicArray(rows, cols, given)
    found = []
    for op in graph:
        if op.kind in ("conv", "matmul"):
            layer = lower(op)
            if kind == "all" or _depthwise(layer) == (kind == "depthwise"):
                found += [estimate([layer], array).row(0)] * op.count
    if not found:
        raise CaseError(f"{graph.name}: no {kind} layers")
    return found


def array_utilisation(graph: OpGraph, rows: int, cols: int, dataflow: str, kind: str = "all") -> float:
    """Mean over the layers of a network of the share of PE-cycles that do a multiply-add; ``kind`` is all, depthwise or other layers.

    Source: by definition; cycles of `presilicon.mapping.systolic`.
    """
    every = _rows(graph, kind, rows, cols, dataflow)
    return sum(row["overall_utilisation"] for row in every) / len(every)


@measures.add("1")
def depthwise_cycle_share(graph: OpGraph, rows: int, cols: int, dataflow: str) -> float:
    """Share of a network's cycles that its depthwise layers take: the most that making them faster can cut."""
    depthwise, every = (sum(row["cycles"] for row in _rows(graph, kind, rows, cols, dataflow)) for kind in ("depthwise", "all"))
    return depthwise / every


@measures.add("1")
def depthwise_utilisation_gain(graph: OpGraph, rows: int, cols: int, dataflow: str) -> float:
    """Gain in mean utilisation if the depthwise layers ran at the mean of the others: other / all - 1."""
    other, every = (array_utilisation(graph, rows, cols, dataflow, kind) for kind in ("other", "all"))
    return other / every - 1.0


@measures.add("1")
def spill_reduction(graph: OpGraph, mebibytes: list[float], method: str = "ilp", over: str = "greedy") -> float:
    """Share of the avoidable bytes of one allocation method that another saves, summed over scratchpad sizes.

    Avoidable are the bytes between scratchpad and DRAM beyond each input once, each output once and what operators larger than the
    scratchpad stream under any plan.

    Source: COSMA (arXiv 2311.18246), which reports the mean reduction of non-compulsory accesses.
    """
    problem = problem_of(graph)
    spent = {method: 0.0, over: 0.0}
    for size in mebibytes:
        capacity = int(size * 2**20)
        for name in spent:
            given: Any = name  # allocate refuses what is no method
            spent[name] += allocate(problem, capacity, given).non_compulsory_bytes - problem.forced_bytes(capacity)
    if not spent[over] > 0:
        raise CaseError(f"{graph.name}: {over} spills nothing that can be avoided at these sizes")
    return 1.0 - spent[method] / spent[over]
