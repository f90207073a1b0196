"""Which of a hybrid system's devices runs which op, and why.

Every op has a cost on each device that can run it, and data that cross a link between devices cost time as well. ``"auto"`` looks for the
least critical path of the graph: ops that more than one device can run are tried one by one, the largest gain first, until no change helps;
with at most `EXHAUSTIVE` such ops all combinations are tried, and the choice is the best there is under these costs. A rule decides
instead if one is named.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import networkx as nx

from ..errors import UnknownNameError
from ..units import format_si
from ..workloads.graph import OpGraph
from ..workloads.op import Op

XPU: Final = "xpu"
PIM: Final = "pim"
#: Rules that a user may name.
RULES: Final = ("auto", "xpu", "pim-attention", "pim-linear", "pim")
#: Ops with a choice up to which all combinations are tried.
EXHAUSTIVE: Final = 10
#: Largest batch at which a crossover is looked for.
MOST_BATCH: Final = 1 << 16

#: Seconds that the bytes of an edge take between two devices.
Transfer = Callable[[str, str, float], float]


@dataclass(frozen=True)
class Placement:
    """Device and reason of every op, by its name, and the critical path in seconds under those costs."""

    device: Mapping[str, str]
    reason: Mapping[str, str]
    critical_path_s: float
    exhausted: bool = True


def is_decode_attention(op: Op) -> bool:
    """Attention of a few queries on a cache: what units in memory are for."""
    return op.kind == "attention" and op.dims["q"] <= 8 and op.attributes.get("phase", "decode") == "decode"


def is_linear(op: Op) -> bool:
    """A product with constant weights."""
    return op.kind == "matmul" and op.operand_bytes("weight") > 0


def place(graph: OpGraph, costs: Mapping[str, Mapping[str, float]], transfer: Transfer, rule: str = "auto") -> Placement:
    """Choose a device for every op.

    Parameters
    ----------
    graph
        Ops and their dependences.
    costs
        Seconds of one run by op and device (``"xpu"``, ``"pim"``); every op has ``"xpu"``.
    transfer
        Seconds for so many bytes from one device to another; 0 on the same one.
    rule
        One of `RULES`. ``"pim-attention"``: decode attention on the units, the rest on the processor; ``"pim-linear"``: products with
        weights; ``"pim"``: whatever the units can do.

    Raises
    ------
    UnknownNameError
        Another rule.
    """
    if rule not in RULES:
        raise UnknownNameError("placement", rule, RULES)
    ordered = list(nx.lexicographical_topological_sort(graph.nx, key={op.name: i for i, op in enumerate(graph)}.__getitem__))
    graph = OpGraph(graph.name, [graph[name] for name in ordered], [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)])
    free = [op.name for op in graph if PIM in costs[op.name]]
    if rule != "auto":
        chosen = {op.name: _by_rule(op, rule, costs[op.name]) for op in graph}
        reasons = {op.name: _because(op, chosen[op.name], costs[op.name], f"rule {rule}") for op in graph}
        return Placement(chosen, reasons, _path(graph, costs, transfer, chosen), True)
    chosen = {op.name: XPU for op in graph}
    exhausted = len(free) <= EXHAUSTIVE
    if exhausted:
        best = min(itertools.product((XPU, PIM), repeat=len(free)),
                   key=lambda pick: _path(graph, costs, transfer, chosen | dict(zip(free, pick, strict=True))))
        chosen |= dict(zip(free, best, strict=True))
    else:
        chosen |= _descend(graph, costs, transfer, chosen, free)
    length = _path(graph, costs, transfer, chosen)
    reasons = {}
    for op in graph:
        text = "only the processor can"
        if op.name in free:
            other = chosen | {op.name: PIM if chosen[op.name] == XPU else XPU}
            text = f"the step's critical path would be {format_si(_path(graph, costs, transfer, other) - length, 's', 3)} longer otherwise"
        reasons[op.name] = _because(op, chosen[op.name], costs[op.name], text)
    return Placement(chosen, reasons, length, exhausted)


def _by_rule(op: Op, rule: str, costs: Mapping[str, float]) -> str:
    if PIM not in costs or rule == "xpu":
        return XPU
    wanted = rule == "pim" or (rule == "pim-attention" and is_decode_attention(op)) or (rule == "pim-linear" and is_linear(op))
    return PIM if wanted else XPU


def _because(op: Op, device: str, costs: Mapping[str, float], why: str) -> str:
    if PIM not in costs:
        return "only the processor can"
    return f"{device}: {format_si(costs[PIM], 's', 3)} on pim, {format_si(costs[XPU], 's', 3)} on xpu; {why}"


def _path(graph: OpGraph, costs: Mapping[str, Mapping[str, float]], transfer: Transfer, chosen: Mapping[str, str]) -> float:
    """Critical path: the longest sum of runs and transfers along any chain of dependences, runs of the same device in order."""
    weighted: nx.DiGraph[str] = nx.DiGraph()
    last: dict[str, str] = {}
    for op in graph:
        weighted.add_node(op.name)
        device = chosen[op.name]
        run_s = costs[op.name][device] * op.count
        for before in graph.nx.predecessors(op.name):
            size = graph[before].bytes_written
            weighted.add_edge(before, op.name, weight=run_s + transfer(chosen[before], device, size) * op.count)
        if device in last and not weighted.has_edge(last[device], op.name):
            weighted.add_edge(last[device], op.name, weight=run_s)
        elif not weighted.in_degree(op.name):
            weighted.add_edge(f"start {op.name}", op.name, weight=run_s)
        last[device] = op.name
    return float(nx.dag_longest_path_length(weighted, weight="weight")) if len(weighted) else 0.0


def _descend(graph: OpGraph, costs: Mapping[str, Mapping[str, float]], transfer: Transfer, chosen: dict[str, str], free: list[str],
             ) -> dict[str, str]:
    """Start with the cheaper device of each op, then change one at a time while that shortens the path."""
    now = chosen | {name: min((XPU, PIM), key=lambda device: costs[name][device]) for name in free}
    best = _path(graph, costs, transfer, now)
    improved = True
    while improved:
        improved = False
        for name in free:
            other = now | {name: PIM if now[name] == XPU else XPU}
            length = _path(graph, costs, transfer, other)
            if length < best:
                now, best, improved = other, length, True
    return now


def crossover(pim_s: Callable[[int], float], xpu_s: Callable[[int], float], most: int = MOST_BATCH) -> tuple[bool, int | None]:
    """Whether the units are faster at batch 1, and the least batch at which that is no longer so; None if it stays so up to `most`.

    The difference is taken to change its sign once: found by doubling, then by halving.

    >>> crossover(lambda batch: 3.0 * batch, lambda batch: 100.0)
    (True, 34)
    """
    first = pim_s(1) < xpu_s(1)
    high = 1
    while (pim_s(high) < xpu_s(high)) == first:
        if high >= most:
            return first, None
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if (pim_s(middle) < xpu_s(middle)) == first:
            low = middle
        else:
            high = middle
    return first, high
