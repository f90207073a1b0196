"""Which of a hybrid system's devices runs which op, and why.

Every op has a cost on each device that can run it, and data that cross a link between devices cost time as well. ``"auto"`` looks for the
least critical path of the graph: ops that more than one device can run are tried one by one, the largest gain first, until no change helps;
with at most `EXHAUSTIVE` such ops all combinations are tried, and the choice is the best there is under these costs. A rule decides
instead if one is named. Weights and caches lie where their ops run: what the units' memory has no room for, all together, stays on the
processor.
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
class Room:
    """Bytes that each op's weights and caches take, of all its runs, and bytes that each device holds; without an entry, all."""

    held: Mapping[str, float]
    most: Mapping[str, float]

    def over(self, chosen: Mapping[str, str], device: str) -> float:
        """Bytes that a device would have too many."""
        if device not in self.most:
            return 0.0
        return max(0.0, sum(size for name, size in self.held.items() if chosen[name] == device) - self.most[device])

    def too_much(self, chosen: Mapping[str, str]) -> float:
        """Bytes that both devices together would have too many."""
        return self.over(chosen, PIM) + self.over(chosen, XPU)


_ENDLESS: Final = Room({}, {})


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


def place(graph: OpGraph, costs: Mapping[str, Mapping[str, float]], transfer: Transfer, rule: str = "auto",
          room: Room = _ENDLESS) -> Placement:
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
    room
        What lies where. ``"auto"`` overfills the two memories as little as it can, which is not at all if anything fits both. A rule keeps
        the ops that gain least by byte on the processor where the units' memory is too small, unless the processor's is even smaller.

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
    gain = {name: (costs[name][XPU] - costs[name][PIM]) * graph[name].count / max(1.0, room.held.get(name, 0.0)) for name in free}
    if rule != "auto":
        wanted = {op.name: _by_rule(op, rule, costs[op.name]) for op in graph}
        chosen = _fitting(wanted, gain, room)
        reasons = {op.name: _because(op, chosen[op.name], costs[op.name],
                                     f"rule {rule}" if chosen[op.name] == wanted[op.name] else _FULL) for op in graph}
        return Placement(chosen, reasons, _path(graph, costs, transfer, chosen), True)
    chosen = {op.name: XPU for op in graph}
    exhausted = len(free) <= EXHAUSTIVE
    if exhausted:
        picks = [chosen | dict(zip(free, pick, strict=True)) for pick in itertools.product((XPU, PIM), repeat=len(free))]
        least = min(room.too_much(pick) for pick in picks)
        chosen = min((pick for pick in picks if room.too_much(pick) <= least), key=lambda pick: _path(graph, costs, transfer, pick))
    else:
        chosen = _descend(graph, costs, transfer, _filled(chosen, costs, gain, room), free, room)
    length = _path(graph, costs, transfer, chosen)
    reasons = {}
    for op in graph:
        text = "only the processor can"
        if op.name in free:
            other = chosen | {op.name: PIM if chosen[op.name] == XPU else XPU}
            longer = _path(graph, costs, transfer, other) - length
            text = f"the step's critical path would be {format_si(longer, 's', 3)} longer otherwise"
            if room.over(other, PIM) > room.over(chosen, PIM):
                text = _FULL
            elif room.over(other, XPU) > room.over(chosen, XPU):
                text = "the processor's memory has no room for its weights and caches beside those of other ops"
            elif longer < 0:
                text = "other ops leave it no room elsewhere"
        reasons[op.name] = _because(op, chosen[op.name], costs[op.name], text)
    return Placement(chosen, reasons, length, exhausted)


_FULL: Final = "the units' memory has no room for its weights and caches beside those of other ops"


def _fitting(wanted: Mapping[str, str], gain: Mapping[str, float], room: Room) -> dict[str, str]:
    """The placement without as many ops on the units as these have no room for, those that gain least by byte first."""
    chosen = dict(wanted)
    for name in sorted((n for n, device in wanted.items() if device == PIM and room.held.get(n, 0.0)), key=gain.__getitem__):
        if not room.over(chosen, PIM):
            break
        if room.too_much({**chosen, name: XPU}) <= room.too_much(chosen):
            chosen[name] = XPU
    return chosen


def _filled(chosen: Mapping[str, str], costs: Mapping[str, Mapping[str, float]], gain: Mapping[str, float], room: Room) -> dict[str, str]:
    """Each op on its cheaper device as far as the units have room, and more of them there while the processor has too little."""
    now = _fitting(dict(chosen) | {name: min((XPU, PIM), key=lambda device: costs[name][device]) for name in gain}, gain, room)
    for name in sorted((n for n in gain if now[n] == XPU and room.held.get(n, 0.0)), key=gain.__getitem__, reverse=True):
        if not room.over(now, XPU):
            break
        if not room.over(now | {name: PIM}, PIM):
            now[name] = PIM
    return now


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


def _descend(graph: OpGraph, costs: Mapping[str, Mapping[str, float]], transfer: Transfer, now: dict[str, str], free: list[str], room: Room,
             ) -> dict[str, str]:
    """Change one op at a time while that shortens the path and overfills no memory more."""
    best = _path(graph, costs, transfer, now)
    improved = True
    while improved:
        improved = False
        for name in free:
            other = now | {name: PIM if now[name] == XPU else XPU}
            if any(room.over(other, device) > room.over(now, device) for device in (XPU, PIM)):
                continue
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
