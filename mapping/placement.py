"""Which of a hybrid system's devices runs which op, and why.

Every op has a cost on each device that can run it, and data that cross a link between devices cost time as well. ``"auto"`` looks for the
least critical path of the graph: ops that more than one device can run are tried one by one, the largest gain first, until no change helps;
with at most `EXHAUSTIVE` such ops all combinations are tried, and the choice is the best there is under these costs. A rule decides
instead if one is named. Weights and caches lie where their ops run: what the units' memory has no room for, all together, stays on the
processor.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import networkx as nx

from ..errors import UnknownNameError
from ..units import format_si
from ..workloads.graph import OpGraph
from ..workloads.op import Op

XPU: Final = "xpu"
PIM: Final = "pim"
#: Units of a second memory, which take the products with weights where a system has it.
PIM_LINEAR: Final = "pim-linear"
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
    """Bytes that each op's weights and caches take, of all its runs, and bytes that each device holds; without an entry, all.

    `home` names the device in whose memory another one works, units that share the processor's, say; by default each has its own.
    """

    held: Mapping[str, float]
    most: Mapping[str, float]
    home: Mapping[str, str] = field(default_factory=dict)

    def where(self, device: str) -> str:
        """The device whose memory holds what a device works on."""
        return self.home.get(device, device)

    def used(self, chosen: Mapping[str, str], device: str) -> float:
        """Bytes in the memory of a device."""
        memory = self.where(device)
        return sum(size for name, size in self.held.items() if self.where(chosen[name]) == memory)

    def over(self, chosen: Mapping[str, str], device: str) -> float:
        """Bytes that the memory of a device would have too many."""
        memory = self.where(device)
        return max(0.0, self.used(chosen, memory) - self.most[memory]) if memory in self.most else 0.0

    def too_much(self, chosen: Mapping[str, str]) -> float:
        """Bytes that all memories together would have too many."""
        return sum(self.over(chosen, memory) for memory in self.most)


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


def keys_of(op: Op) -> tuple[int, ...]:
    """Keys that each request of a decode attention attends to, in the order of the requests."""
    known = op.attributes.get("kv_lengths")
    return (op.dims["s"],) * op.dims["b"] if known is None else tuple(known)


def is_linear(op: Op) -> bool:
    """A product with constant weights."""
    return op.kind == "matmul" and op.operand_bytes("weight") > 0


def taken_bytes(op: Op) -> float:
    """What an op takes in besides weights and what its cache holds already: its inputs, and the new tokens' keys and values."""
    new = op.operand_bytes("cache") * op.dims["q"] / op.dims["s"] if op.kind == "attention" else 0.0
    return op.operand_bytes("input") + new


def crossing_bytes(graph: OpGraph, name: str, sources: Iterable[str]) -> float:
    """Bytes that an op needs of what others wrote: all of it, but no more than the op takes in (a part of a joint QKV product, say)."""
    return min(sum(graph[source].bytes_written for source in sources), taken_bytes(graph[name]))


def place(graph: OpGraph, costs: Mapping[str, Mapping[str, float]], transfer: Transfer, rule: str = "auto",
          room: Room = _ENDLESS, lane: Callable[[str], str] = str) -> Placement:
    """Choose a device for every op.

    Parameters
    ----------
    graph
        Ops and their dependences.
    costs
        Seconds of one run by op and device; every op has ``"xpu"``, and those that units can run one more, ``"pim"`` or ``"pim-linear"``.
    transfer
        Seconds for so many bytes from one device to another; 0 on the same one.
    rule
        One of `RULES`. ``"pim-attention"``: decode attention on the units, the rest on the processor; ``"pim-linear"``: products with
        weights; ``"pim"``: whatever the units can do.
    lane
        What devices that exclude each other have in common, such as the memory that they take turns on; each device for itself by default.
    room
        What lies where. ``"auto"`` overfills the memories as little as it can, which is not at all if anything fits both. A rule keeps
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
    path = partial(_path, graph, costs, transfer, lane)
    units = {op.name: _units(costs[op.name]) for op in graph}
    free = [name for name, device in units.items() if device != XPU]
    gain = {name: (costs[name][XPU] - costs[name][units[name]]) * graph[name].count / max(1.0, room.held.get(name, 0.0)) for name in free}
    if rule != "auto":
        wanted = {op.name: _by_rule(op, rule, costs[op.name]) for op in graph}
        chosen = _fitting(wanted, gain, room)
        reasons = {op.name: _because(op, chosen[op.name], costs[op.name],
                                     f"rule {rule}" if chosen[op.name] == wanted[op.name] else _FULL) for op in graph}
        return Placement(chosen, reasons, path(chosen), True)
    chosen = {op.name: XPU for op in graph}
    exhausted = len(free) <= EXHAUSTIVE
    if exhausted:
        picks = [chosen | dict(zip(free, pick, strict=True)) for pick in itertools.product(*((XPU, units[name]) for name in free))]
        least = min(room.too_much(pick) for pick in picks)
        chosen = min((pick for pick in picks if room.too_much(pick) <= least), key=path)
    else:
        chosen = _descend(path, _filled(chosen, costs, gain, room), units, room)
    length = path(chosen)
    reasons = {}
    for op in graph:
        text = "only the processor can"
        if op.name in free:
            other = chosen | {op.name: units[op.name] if chosen[op.name] == XPU else XPU}
            longer = path(other) - length
            text = f"the step's critical path would be {format_si(longer, 's', 3)} longer otherwise"
            if room.where(units[op.name]) != XPU and room.over(other, units[op.name]) > room.over(chosen, units[op.name]):
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
    for name in sorted((n for n, device in wanted.items() if device != XPU and room.held.get(n, 0.0)), key=gain.__getitem__):
        if room.where(wanted[name]) == XPU or not room.over(chosen, wanted[name]):
            continue
        if room.too_much({**chosen, name: XPU}) <= room.too_much(chosen):
            chosen[name] = XPU
    return chosen


def _filled(chosen: Mapping[str, str], costs: Mapping[str, Mapping[str, float]], gain: Mapping[str, float], room: Room) -> dict[str, str]:
    """Each op on its cheaper device as far as the units have room, and more of them there while the processor has too little."""
    now = _fitting(dict(chosen) | {name: min(costs[name], key=costs[name].__getitem__) for name in gain}, gain, room)
    for name in sorted((n for n in gain if now[n] == XPU and room.held.get(n, 0.0)), key=gain.__getitem__, reverse=True):
        if not room.over(now, XPU):
            break
        units = _units(costs[name])
        if not room.over(now | {name: units}, units):
            now[name] = units
    return now


def _by_rule(op: Op, rule: str, costs: Mapping[str, float]) -> str:
    wanted = rule == "pim" or (rule == "pim-attention" and is_decode_attention(op)) or (rule == "pim-linear" and is_linear(op))
    return _units(costs) if wanted else XPU


def _units(costs: Mapping[str, float]) -> str:
    """The units that can run an op, or the processor where none can."""
    return next((device for device in costs if device != XPU), XPU)


def _because(op: Op, device: str, costs: Mapping[str, float], why: str) -> str:
    units = _units(costs)
    if units == XPU:
        return "only the processor can"
    return f"{device}: {format_si(costs[units], 's', 3)} on {units}, {format_si(costs[XPU], 's', 3)} on xpu; {why}"


def _path(graph: OpGraph, costs: Mapping[str, Mapping[str, float]], transfer: Transfer, lane: Callable[[str], str],
          chosen: Mapping[str, str]) -> float:
    """Critical path: the longest sum of runs and transfers along any chain of dependences, runs of the same lane in order.

    What an op needs from other devices comes in one transfer when all of it is there.
    """
    weighted: nx.DiGraph[str] = nx.DiGraph()
    last: dict[str, str] = {}
    for op in graph:
        weighted.add_node(op.name)
        device = chosen[op.name]
        run_s = costs[op.name][device] * op.count
        needed = list(graph.nx.predecessors(op.name))
        away = [before for before in needed if chosen[before] != device and transfer(chosen[before], device, 1.0)]
        moved_s = transfer(chosen[away[0]], device, crossing_bytes(graph, op.name, away)) * op.count if away else 0.0
        for before in needed:
            weighted.add_edge(before, op.name, weight=run_s + (moved_s if before in away else 0.0))
        here = lane(device)
        if here in last and not weighted.has_edge(last[here], op.name):
            weighted.add_edge(last[here], op.name, weight=run_s)
        elif not weighted.in_degree(op.name):
            weighted.add_edge(f"start {op.name}", op.name, weight=run_s)
        last[here] = op.name
    return float(nx.dag_longest_path_length(weighted, weight="weight")) if len(weighted) else 0.0


def _descend(path: Callable[[Mapping[str, str]], float], now: dict[str, str], units: Mapping[str, str], room: Room) -> dict[str, str]:
    """Change one op at a time while that shortens the path and overfills no memory more."""
    best = path(now)
    improved = True
    while improved:
        improved = False
        for name, device in units.items():
            if device == XPU:
                continue
            other = now | {name: device if now[name] == XPU else XPU}
            if any(room.over(other, memory) > room.over(now, memory) for memory in room.most):
                continue
            length = path(other)
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
