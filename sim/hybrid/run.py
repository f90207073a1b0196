"""A graph on a hybrid system: each device's share, a place for every op, and the step played out on processor, units and links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from typing import Any

import networkx as nx
import numpy as np

from ...arch import Estimate
from ...arch.hybrid_spec import HybridSystem, NpuSide
from ...errors import MappingError
from ...mapping.fusion import fuse
from ...mapping.packing import halves, pack, packed
from ...mapping.placement import PIM, RULES, XPU, Placement, crossing_bytes, is_decode_attention, is_linear, keys_of, place
from ...workloads.graph import OpGraph
from ...workloads.op import Op
from ...workloads.parallel_tensor import scaled
from ...workloads.ragged import with_keys
from ..host import RUNTIME_OF
from ..result import OpResult, Simulation, fit_memory
from .costs import home_of, pim_costs, room_of, seconds, shares_of, xpu_costs
from .energies import energy, with_all_energy
from .engine import Played, Task, play
from .layout import TOKENS, Layout, Part
from .notes import notes
from .sharing import shared


def simulate_hybrid(graph: OpGraph, system: HybridSystem, fidelity: str = "tile", place: str = "auto", requests: Any = None) -> Simulation:
    """One step of a graph on a hybrid system.

    Parameters
    ----------
    graph
        What the whole system runs; it is cut over the devices here unless it already is one device's. Devices that its heads do not
        divide by stay idle, and the report says so.
    fidelity
        Of the processor's kernels, where it is a GPU.
    place
        See `presilicon.mapping.placement.RULES`.
    requests
        Contexts of the requests in the order of their arrival, or an object with ``contexts`` and, if their channels are known,
        ``channels``; None: those of the graph, all equal unless `presilicon.workloads.ragged` gave each its own.

    Raises
    ------
    UnknownNameError
        Another rule.
    MappingError
        Channels of requests that are not one for each, or that the memory does not have.
    """
    mine, system, told = shared(graph, system)
    laid = lay_out(mine, system, fidelity, place, requests)
    whole, placement, played = laid.whole, laid.placement, laid.played
    local = whole.graph
    results = with_all_energy([
        OpResult(op, _of_all(laid.chosen(op.name), system.devices), _family(whole, op, placement), whole.xpu[op.name][2], 1,
                 placement.device[op.name], placement.reason[op.name]) for op in local], laid, system)
    told += [*notes(laid, system), *energy(results)]
    busy = max(played.busy_s.values(), default=0.0)
    ends = _interval(whole, placement)
    total = sum(whole.chosen(op.name, placement.device[op.name]).time_s * op.count for op in local) or 1.0
    return Simulation(
        graph=graph, system=system, fidelity=fidelity, runtime=RUNTIME_OF["hybrid"], time_s=played.time_s,
        low_s=min(1.0, ends[0] / total) * played.time_s, high_s=max(1.0, ends[1] / total) * played.time_s,
        device_busy_s=max(busy, _any_busy(played)), host_busy_s=0.0, first_kernel_s=0.0, results=tuple(results), spans=played.spans,
        memory=fit_memory(graph, system), notes=tuple(told))


def _of_all(estimate: Estimate, devices: int) -> Estimate:
    """Energy, traffic and work of all devices; they run at the same time."""
    if devices == 1:
        return estimate
    return replace(
        estimate, flops=estimate.flops * devices, energy_j={name: devices * j for name, j in estimate.energy_j.items()},
        bytes_moved={name: devices * size for name, size in estimate.bytes_moved.items()})


#: What runs as one op on a processor that fuses nothing else: the steps of one activation.
_APART = frozenset({"elementwise"})


def lay_out(graph: OpGraph, system: HybridSystem, fidelity: str = "tile", place: str = "auto", requests: Any = None) -> Layout:
    """Costs, placement and timeline of a step, as `simulate_hybrid` reports them; arguments and errors are its own."""
    graph, system, _ = shared(graph, system)
    local = _ordered(fuse(graph) if system.plan.fuse else fuse(graph, _APART, epilogues=False))
    lengths = _lengths(local, requests)
    local = _attending(local, lengths)
    channels = _channels(requests, system, lengths)
    whole = _part(local, system, fidelity, channels)
    known = None if lengths is None else tuple(lengths)

    def laid(placement: Placement) -> Layout:
        parts = _sub_batches(whole, system, fidelity, placement, channels)
        played, crossed = _play(parts, system, placement)
        return Layout(whole, placement, tuple(parts), played, known, _together(whole, system, placement), crossed)

    chosen = _placed(whole, system, place)
    best = laid(chosen)
    return best if place != "auto" else min([best, *map(laid, _rivals(whole, system, chosen))], key=lambda found: found.played.time_s)


#: Critical path of a rule's placement over that of the least one, up to which the two are played out: two lanes at work at once halve it at
#: most. Where processor and units share products, a path in which one of them does all says nothing.
_NEAR = 2.0


def _rivals(part: Part, system: HybridSystem, chosen: Placement) -> list[Placement]:
    """Placements by rules that may be faster than that of the least critical path: others, nearly as short, that fit as well.

    What overlaps (prefetch, sub-batches, pieces of heads, shared products) shows only when a step is played out.
    """
    room = room_of(part.graph, system)
    found = {tuple(chosen.device.values()): chosen}
    for rule in RULES:
        if rule == "auto":
            continue
        other = _placed(part, system, rule)
        near = system.plan.co_processing or other.critical_path_s <= _NEAR * chosen.critical_path_s
        if near and room.too_much(other.device) <= room.too_much(chosen.device):
            said = f"rule {rule}, whose step is shorter when played out"
            why = {name: text.replace(f"rule {rule}", said) for name, text in other.reason.items()}
            found.setdefault(tuple(other.device.values()), replace(other, reason=why))
    return list(found.values())[1:]


def _interval(part: Part, placement: Placement) -> tuple[float, float]:
    """Sums over ops of the ends of their intervals."""
    chosen = [(part.chosen(op.name, placement.device[op.name]), op.count) for op in part.graph]
    return sum(e.low_s * count for e, count in chosen), sum(e.high_s * count for e, count in chosen)


def _family(part: Part, op: Op, placement: Placement) -> str:
    return f"pim.{op.kind}" if placement.device[op.name] != XPU else part.xpu[op.name][1]


def _ordered(graph: OpGraph) -> OpGraph:
    """Ops in an order in which each follows what it needs, program order where that leaves a choice; without views, which run nowhere."""
    bare = graph.nx.copy()
    for op in graph:
        if op.kind == "view":
            for before, _, data in list(bare.in_edges(op.name, data=True)):
                for _, after in list(bare.out_edges(op.name)):
                    bare.add_edge(before, after, tensor=data["tensor"])
            bare.remove_node(op.name)
    position = {op.name: i for i, op in enumerate(graph)}
    names = nx.lexicographical_topological_sort(bare, key=position.__getitem__)
    return OpGraph(graph.name, [graph[name] for name in names], [(u, v, d["tensor"]) for u, v, d in bare.edges(data=True)],
                   memory=graph.memory, tokens=graph.tokens, uncovered=graph.uncovered, meta=graph.meta)


def _lengths(graph: OpGraph, requests: Any) -> list[int] | None:
    """Keys in the cache of each request, its new token's among them, in the order in which requests came; None without such a cache."""
    attention = max((op for op in graph if _own_cache(op, graph)), key=lambda op: sum(keys_of(op)), default=None)
    if attention is None:
        return None
    if requests is not None:
        return [int(n) + 1 for n in np.asarray(getattr(requests, "contexts", requests)).tolist()]
    if "kv_lengths" not in attention.attributes:
        return list(keys_of(attention))
    # Sorted there; the order of arrival is unknown, and a fixed shuffle stands for it.
    return [int(n) for n in np.random.default_rng(0).permutation(np.asarray(keys_of(attention))).tolist()]


def _own_cache(op: Op, graph: OpGraph) -> bool:
    """Whether an op attends to what its requests have cached, all of it or a window, and not to an encoder's output."""
    if not is_decode_attention(op):
        return False
    context = graph.meta.get("context")
    longest = int(context) + 1 if isinstance(context, int) else max(other.dims["s"] for other in graph if is_decode_attention(other))
    window = int(op.attributes.get("window") or 0)
    return "kv_lengths" in op.attributes or op.dims["s"] in (longest, min(longest, window or longest))


def _attending(graph: OpGraph, lengths: Sequence[int] | None) -> OpGraph:
    """The graph whose attentions name the keys of each request: its own, as far as a sliding window lets them see."""
    if lengths is None:
        return graph

    def attending(op: Op) -> Op:
        if not _own_cache(op, graph):
            return op
        window = int(op.attributes.get("window") or 0)
        seen = tuple(min(n, window or n) for n in lengths)
        return op if seen == keys_of(op) and "kv_lengths" not in op.attributes else with_keys(op, seen)

    edges = [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)]
    return OpGraph(graph.name, [attending(op) for op in graph], edges, memory=graph.memory, tokens=graph.tokens,
                   uncovered=graph.uncovered, meta=graph.meta)


def _channels(requests: Any, system: HybridSystem, lengths: Sequence[int] | None) -> list[int] | None:
    """Channel of each request, where it is known."""
    known = getattr(requests, "channels", None)
    if known is None or lengths is None or system.pim is None:
        return None
    found, most = [int(channel) for channel in known], system.pim.channels
    if len(found) != len(lengths) or not 0 <= min(found) <= max(found) < most:
        raise MappingError(f"{system.name}: expected a channel from 0 to {most - 1} for each of {len(lengths)} requests, found "
                           f"{len(found)} from {min(found, default=0)} to {max(found, default=0)}")
    return found


def _part(graph: OpGraph, system: HybridSystem, fidelity: str, channels: Sequence[int] | None, share: float = 1.0) -> Part:
    pim, _ = pim_costs(graph, system, channels)
    fast, shares = xpu_costs(graph, system, fidelity), shares_of(system)
    slow = fast
    if shares is not None and isinstance(system.xpu, NpuSide):
        less = replace(system.xpu, bandwidth_bytes_per_s=system.xpu.bandwidth_bytes_per_s * shares.kept)
        slow = xpu_costs(graph, replace(system, xpu=less), fidelity)
    return Part(graph, fast, pim, share, slow, shares)


def _placed(part: Part, system: HybridSystem, rule: str) -> Placement:
    home = home_of(system)

    def transfer(source: str, target: str, size: float) -> float:
        if home[source] == home[target] or system.link is None:
            return 0.0
        return system.link.time_s(size)

    lane = home.__getitem__ if _blocked(system) else str
    return place(part.graph, seconds(part.xpu, part.pim), transfer, rule, room_of(part.graph, system), lane)


def _blocked(system: HybridSystem) -> bool:
    """Whether processor and units exclude each other from a memory that they share."""
    return any(side.memory == "shared" and side.access == "blocked" for side in system.sides.values())


def _sub_batches(whole: Part, system: HybridSystem, fidelity: str, placement: Placement, channels: Sequence[int] | None) -> list[Part]:
    """The batch as one part, or as two where the plan says so and units attend."""
    plan = system.plan
    attending = [op for op in whole.graph if is_decode_attention(op) and placement.device[op.name] == PIM]
    batch = max((len(keys_of(op)) for op in attending), default=1)
    if plan.sub_batches < 2 or batch < max(2, plan.sub_batch_least) or system.pim is None:
        return [whole]
    cost = max((whole.pim[op.name] for op in attending), key=lambda c: c.estimate.time_s)
    assert cost.requests is not None
    single = cost.requests.items == 1
    packing = (packed(cost.requests.cycles, channels, system.pim.channels) if single and channels is not None
               else pack(cost.requests.cycles, system.pim.channels, plan.packing))
    first, second = halves(packing)
    parts = []
    for chosen in (first, second):
        share = Fraction(len(chosen), batch)
        ops = [_fewer(op, share, chosen.tolist()) for op in whole.graph]
        edges = [(u, v, d["tensor"]) for u, v, d in whole.graph.nx.edges(data=True)]
        parts.append(_part(OpGraph(whole.graph.name, ops, edges, meta=whole.graph.meta), system, fidelity,
                           packing.channel[chosen].tolist() if single else None, float(share)))  # a cache stays in its channel
    return parts


def _fewer(op: Op, share: Fraction, chosen: Sequence[int]) -> Op:
    """The op on a share of the tokens, or on the chosen requests, which are that share."""
    name = TOKENS.get(op.kind)
    if name is None or op.dims.get(name, 1) < 2:
        return op
    real = Fraction(max(1, round(op.dims[name] * share)), op.dims[name])
    fewer = scaled(op, {name: real}, {o.name: real for o in op.operands if o.role != "weight"})
    if not is_decode_attention(op) or "kv_lengths" not in op.attributes:
        return fewer
    keys = keys_of(op)
    return with_keys(fewer, [keys[i] for i in chosen])


def _play(parts: Sequence[Part], system: HybridSystem, placement: Placement) -> tuple[Played, dict[str, float]]:
    """Tasks of all parts, block by block, on the engine; and the bytes that each op's tasks bring over the link."""
    chains = [_tasks(part, system, placement, index if len(parts) > 1 else None) for index, part in enumerate(parts)]
    tasks: list[Task] = []
    where: list[dict[int, int]] = [{} for _ in chains]
    for position in range(max(len(chain) for chain in chains)):
        for index, chain in enumerate(chains):
            if position < len(chain):
                task = chain[position]
                where[index][position] = len(tasks)
                tasks.append(replace(task, after=tuple(where[index][other] for other in task.after)))
    blocked = _blocked(system)
    ahead = system.plan.prefetch and not blocked and len(parts) == 1 and isinstance(system.xpu, NpuSide)
    scratchpad = system.xpu.scratchpad_bytes if ahead and isinstance(system.xpu, NpuSide) else 0.0
    crossed: dict[str, float] = {}
    for task in tasks:
        if task.crossed_bytes:
            crossed[task.op] = crossed.get(task.op, 0.0) + task.crossed_bytes
    return play(tasks, blocked=blocked, scratchpad_bytes=scratchpad), crossed


#: Pieces that heads are cut into where attention of one overlaps the projections of others.
_PIECES = 8


def _tasks(part: Part, system: HybridSystem, placement: Placement, index: int | None) -> list[Task]:
    """Tasks of one part in program order, repeats written out; `after` are positions in this list."""
    mark = "" if index is None else f" #{index + 1}"
    tasks: list[Task] = []
    last: dict[str, tuple[int, ...]] = {}
    pieces, together = _pipelined(part, system, placement), _together(part, system, placement)
    for count, run in groupby(part.graph, key=lambda op: op.count):
        block = list(run)
        names = {op.name for op in block}
        previous: tuple[int, ...] = ()
        for repeat in range(count):
            for op in block:
                before = [u for u, _ in part.graph.nx.in_edges(op.name)]
                sources = [last[u] for u in before if u in last and (u in names or not repeat)]
                if repeat and (not before or any(u not in names for u in before)):
                    sources.append(previous)
                last[op.name] = _append(tasks, part, system, placement, op, sources, pieces.get(op.name, 1), mark,
                                        op.name in together)
            previous = last[block[-1].name]
    return tasks


def _pipelined(part: Part, system: HybridSystem, placement: Placement) -> dict[str, int]:
    """Pieces of decode attention on the units, and of the products right before and after it, where the plan overlaps heads."""
    found: dict[str, int] = {}
    if not system.plan.head_pipeline:
        return found
    for op in part.graph:
        if is_decode_attention(op) and placement.device[op.name] == PIM:
            around = [*part.graph.nx.predecessors(op.name), *part.graph.nx.successors(op.name)]
            for name in (op.name, *(n for n in around if is_linear(part.graph[n]))):
                found[name] = min(_PIECES, op.dims["h"])
    return found


def _together(part: Part, system: HybridSystem, placement: Placement) -> frozenset[str]:
    """Products with weights that processor and units share, where the plan has them do so and no rule leaves the units idle."""
    if not system.plan.co_processing or set(placement.device.values()) <= {XPU}:
        return frozenset()
    pieces = _pipelined(part, system, placement)
    return frozenset(op.name for op in part.graph if is_linear(op) and op.name in part.pim and pieces.get(op.name, 1) == 1)


def _append(tasks: list[Task], part: Part, system: HybridSystem, placement: Placement, op: Op, sources: Sequence[tuple[int, ...]],
            pieces: int, mark: str, together: bool) -> tuple[int, ...]:
    """Add an op's tasks, in so many pieces; positions of those that what follows waits for, piece by piece."""
    device = placement.device[op.name]
    estimate = part.chosen(op.name, device)
    if op.kind == "collective":
        tasks.append(Task(f"{op.name}{mark}", op.name, "fabric", estimate.time_s, _all(sources)))
        return (len(tasks) - 1,)
    done: list[int] = []
    own = home_of(system)[device] == XPU
    for piece in range(pieces):
        after = tuple(sorted({s[piece] if len(s) == pieces > 1 else i for s in sources for i in s}))
        after = _moved(tasks, part, system, op, after, device, pieces, mark)
        label = f"{op.name}{mark}" + (f" {piece + 1}/{pieces}" if pieces > 1 else "")
        if together:
            both = part.shared(op.name)[0].time_s
            units = part.pim[op.name].device
            tasks += [Task(label, op.name, XPU, both, after, True), Task(f"{label} (share)", op.name, units, both, after, True)]
            done += [len(tasks) - 2, len(tasks) - 1]
            continue
        fetch_s, fetch_bytes, run_s = _fetched(op, system, device, estimate)
        tasks.append(Task(label, op.name, device, run_s / pieces, after, own, fetch_s / pieces, fetch_bytes / pieces,
                          estimate.time_s / pieces, _beside(part, op, device)))
        done.append(len(tasks) - 1)
    return tuple(done)


def _all(sources: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted({i for s in sources for i in s}))


def _moved(tasks: list[Task], part: Part, system: HybridSystem, op: Op, after: tuple[int, ...], device: str, pieces: int, mark: str,
           ) -> tuple[int, ...]:
    """A transfer over the link, where what is needed lies on the other side of it; what the op then waits for."""
    home = home_of(system)
    crossing = {tasks[i].op for i in after if home.get(tasks[i].lane, XPU) != home[device]} if system.link is not None else set()
    if not crossing or system.link is None:
        return after
    size = crossing_bytes(part.graph, op.name, crossing)
    tasks.append(Task(f"to {device}: {op.name}{mark}", op.name, "link", system.link.time_s(size / pieces), after,
                      crossed_bytes=size / pieces))
    return (len(tasks) - 1,)


def _fetched(op: Op, system: HybridSystem, device: str, estimate: Estimate) -> tuple[float, float, float]:
    """Seconds and bytes of weights that may be fetched ahead, and seconds that the op then still takes."""
    if device != XPU or not isinstance(system.xpu, NpuSide) or not system.plan.prefetch or not is_linear(op):
        return 0.0, 0.0, estimate.time_s
    size, rate = op.operand_bytes("weight"), system.xpu.bandwidth_bytes_per_s * system.xpu.efficiency
    rest = (estimate.bytes_moved["dram"] - size) / rate
    return size / rate, size, max(estimate.busy_s["matrix"], estimate.busy_s["vector"], rest)


def _beside(part: Part, op: Op, device: str) -> float:
    """Time of an op while the other of processor and units uses the memory as well, over that by itself."""
    if part.shares is None:
        return 1.0
    if device != XPU:
        return part.shares.units
    alone = part.xpu[op.name][0].time_s
    return part.slow[op.name][0].time_s / alone if alone else 1.0


def _any_busy(played: Played) -> float:
    """Seconds for which any lane runs something."""
    total, end = 0.0, 0.0
    for span in played.spans:
        start, stop = max(span.start_s, end), span.start_s + span.duration_s
        if stop > start:
            total += stop - start
            end = stop
    return total
