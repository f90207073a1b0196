"""A graph on a hybrid system: each device's share, a place for every op, and the step played out on processor, units and links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from typing import Any

import networkx as nx
import numpy as np

from ...arch import Estimate
from ...arch.hybrid_spec import HybridSystem, NpuSide
from ...mapping.fusion import fuse
from ...mapping.packing import halves, pack
from ...mapping.placement import PIM, XPU, Placement, crossover, is_decode_attention, is_linear, place
from ...units import format_si
from ...workloads.graph import OpGraph
from ...workloads.op import Op
from ...workloads.parallel import parallelise
from ...workloads.parallel_tensor import scaled
from ..result import OpResult, Simulation, fit_memory
from .costs import PimCost, pim_costs, seconds, xpu_costs
from .engine import Played, Task, play

#: Batches for which the crossover is sought at most.
_MOST: int = 4096


@dataclass(frozen=True)
class Part:
    """One (sub-)batch: its ops, its costs on both devices, and lengths of its requests."""

    graph: OpGraph
    xpu: dict[str, tuple[Estimate, str, str]]
    pim: dict[str, PimCost]
    share: float = 1.0

    def chosen(self, name: str, device: str) -> Estimate:
        """Cost of an op where it runs."""
        return self.pim[name].estimate if device == PIM else self.xpu[name][0]


def simulate_hybrid(graph: OpGraph, system: HybridSystem, fidelity: str = "tile", place: str = "auto", requests: Any = None) -> Simulation:
    """One step of a graph on a hybrid system.

    Parameters
    ----------
    graph
        What the whole system runs; it is cut over the devices here unless it already is one device's.
    fidelity
        Of the processor's kernels, where it is a GPU.
    place
        See `presilicon.mapping.placement.RULES`.
    requests
        Contexts of the requests in the order of their arrival, or an object with ``contexts``; None: those of the graph, all equal unless
        `presilicon.workloads.ragged` gave each its own.

    Raises
    ------
    UnknownNameError
        Another rule.
    WorkloadError
        Heads or features that the devices do not divide.
    """
    laid = lay_out(graph, system, fidelity, place, requests)
    whole, placement, played = laid.whole, laid.placement, laid.played
    local, notes = whole.graph, _notes(laid, system)
    results = tuple(
        OpResult(op, _of_all(whole.chosen(op.name, placement.device[op.name]), system.devices), _family(whole, op, placement),
                 whole.xpu[op.name][2], 1, placement.device[op.name], placement.reason[op.name]) for op in local)
    busy = max(played.busy_s.values(), default=0.0)
    ends = _interval(whole, placement)
    total = sum(whole.chosen(op.name, placement.device[op.name]).time_s * op.count for op in local) or 1.0
    return Simulation(
        graph=graph, system=system, fidelity=fidelity, runtime="", time_s=played.time_s, low_s=min(1.0, ends[0] / total) * played.time_s,
        high_s=max(1.0, ends[1] / total) * played.time_s, device_busy_s=max(busy, _any_busy(played)), host_busy_s=0.0, first_kernel_s=0.0,
        results=tuple(results), spans=played.spans, memory=fit_memory(graph, system), notes=tuple(notes))


def _of_all(estimate: Estimate, devices: int) -> Estimate:
    """Energy, traffic and work of all devices; they run at the same time."""
    if devices == 1:
        return estimate
    return replace(
        estimate, flops=estimate.flops * devices, energy_j={name: devices * j for name, j in estimate.energy_j.items()},
        bytes_moved={name: devices * size for name, size in estimate.bytes_moved.items()})


@dataclass(frozen=True)
class Layout:
    """A step in time: the whole batch's costs, where ops run, the (sub-)batches, what was played, and lengths of the requests."""

    whole: Part
    placement: Placement
    parts: tuple[Part, ...]
    played: Played
    lengths: tuple[int, ...] | None


def lay_out(graph: OpGraph, system: HybridSystem, fidelity: str = "tile", place: str = "auto", requests: Any = None) -> Layout:
    """Costs, placement and timeline of a step, as `simulate_hybrid` reports them; arguments and errors are its own."""
    local = fuse(graph if system.devices == 1 or "parallel" in graph.meta else parallelise(graph, tp=system.devices))
    local = _ordered(local)
    lengths = _lengths(local, requests)
    whole = _part(local, system, fidelity, lengths)
    placement = _placed(whole, system, place)
    parts = _sub_batches(whole, system, fidelity, lengths, placement)
    return Layout(whole, placement, tuple(parts), _play(parts, system, placement), None if lengths is None else tuple(lengths))


def _interval(part: Part, placement: Placement) -> tuple[float, float]:
    """Sums over ops of the ends of their intervals."""
    chosen = [(part.chosen(op.name, placement.device[op.name]), op.count) for op in part.graph]
    return sum(e.low_s * count for e, count in chosen), sum(e.high_s * count for e, count in chosen)


def _family(part: Part, op: Op, placement: Placement) -> str:
    return f"pim.{op.kind}" if placement.device[op.name] == PIM else part.xpu[op.name][1]


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
    """Keys that each request attends to, in the order in which requests came; None without decode attention."""
    attention = next((op for op in graph if is_decode_attention(op)), None)
    if attention is None:
        return None
    if requests is not None:
        return [int(n) + 1 for n in np.asarray(getattr(requests, "contexts", requests)).tolist()]
    known = attention.attributes.get("kv_lengths")
    if known is None:
        return [attention.dims["s"]] * attention.dims["b"]
    # Sorted there; the order of arrival is unknown, and a fixed shuffle stands for it.
    return [int(n) for n in np.random.default_rng(0).permutation(np.asarray(known)).tolist()]


def _part(graph: OpGraph, system: HybridSystem, fidelity: str, lengths: Sequence[int] | None, share: float = 1.0) -> Part:
    pim, _ = pim_costs(graph, system, lengths)
    return Part(graph, xpu_costs(graph, system, fidelity, lengths), pim, share)


def _placed(part: Part, system: HybridSystem, rule: str) -> Placement:
    def transfer(source: str, target: str, size: float) -> float:
        if source == target or system.link is None:
            return 0.0
        return system.link.time_s(size)

    return place(part.graph, seconds(part.xpu, part.pim), transfer, rule)


def _sub_batches(whole: Part, system: HybridSystem, fidelity: str, lengths: Sequence[int] | None, placement: Placement) -> list[Part]:
    """The batch as one part, or as two where the plan says so and units attend."""
    plan = system.plan
    batch = len(lengths) if lengths is not None else 1
    attends = any(placement.device[op.name] == PIM for op in whole.graph if is_decode_attention(op))
    if plan.sub_batches < 2 or not attends or batch < max(2, plan.sub_batch_least) or lengths is None or system.pim is None:
        return [whole]
    cost = next(c for c in whole.pim.values() if c.requests is not None)
    assert cost.requests is not None
    first, second = halves(pack(cost.requests.cycles, system.pim.channels, plan.packing))
    parts = []
    for chosen in (first, second):
        own = [lengths[i] for i in chosen.tolist()]
        share = Fraction(len(own), batch)
        ops = [_fewer(op, share) for op in whole.graph]
        edges = [(u, v, d["tensor"]) for u, v, d in whole.graph.nx.edges(data=True)]
        parts.append(_part(OpGraph(whole.graph.name, ops, edges, meta=whole.graph.meta), system, fidelity, own, float(share)))
    return parts


#: Dimension that counts tokens or requests, by kind of op.
_TOKENS = {"matmul": "m", "attention": "b", "norm": "r", "elementwise": "n", "copy": "n", "gather": "n", "collective": "n", "softmax": "r"}


def _fewer(op: Op, share: Fraction) -> Op:
    """The op on a share of the tokens."""
    name = _TOKENS.get(op.kind)
    if name is None or op.dims.get(name, 1) < 2:
        return op
    real = Fraction(max(1, round(op.dims[name] * share)), op.dims[name])
    return scaled(op, {name: real}, {o.name: real for o in op.operands if o.role != "weight"})


def _play(parts: Sequence[Part], system: HybridSystem, placement: Placement) -> Played:
    """Tasks of all parts, block by block, on the engine."""
    chains = [_tasks(part, system, placement, index if len(parts) > 1 else None) for index, part in enumerate(parts)]
    tasks: list[Task] = []
    where: list[dict[int, int]] = [{} for _ in chains]
    for position in range(max(len(chain) for chain in chains)):
        for index, chain in enumerate(chains):
            if position < len(chain):
                task = chain[position]
                where[index][position] = len(tasks)
                tasks.append(replace(task, after=tuple(where[index][other] for other in task.after)))
    blocked = system.pim is not None and system.pim.memory == "shared" and system.pim.access == "blocked"
    ahead = system.plan.prefetch and not blocked and len(parts) == 1 and isinstance(system.xpu, NpuSide)
    scratchpad = system.xpu.scratchpad_bytes if ahead and isinstance(system.xpu, NpuSide) else 0.0
    return play(tasks, blocked=blocked, scratchpad_bytes=scratchpad)


#: Pieces that heads are cut into where attention of one overlaps the projections of others.
_PIECES = 8


def _tasks(part: Part, system: HybridSystem, placement: Placement, index: int | None) -> list[Task]:
    """Tasks of one part in program order, repeats written out; `after` are positions in this list."""
    mark = "" if index is None else f" #{index + 1}"
    tasks: list[Task] = []
    last: dict[str, tuple[int, ...]] = {}
    pieces = _pipelined(part, system, placement)
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
                last[op.name] = _append(tasks, part, system, placement, op, sources, pieces.get(op.name, 1), mark)
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


def _append(tasks: list[Task], part: Part, system: HybridSystem, placement: Placement, op: Op, sources: Sequence[tuple[int, ...]],
            pieces: int, mark: str) -> tuple[int, ...]:
    """Add an op's tasks, in so many pieces; positions of those that what follows waits for, piece by piece."""
    device = placement.device[op.name]
    estimate = part.chosen(op.name, device)
    if op.kind == "collective":
        tasks.append(Task(f"{op.name}{mark}", op.name, "fabric", estimate.time_s, _all(sources)))
        return (len(tasks) - 1,)
    done: list[int] = []
    for piece in range(pieces):
        after = tuple(sorted({s[piece] if len(s) == pieces > 1 else i for s in sources for i in s}))
        after = _moved(tasks, part, system, op, after, device, pieces, mark)
        label = f"{op.name}{mark}" + (f" {piece + 1}/{pieces}" if pieces > 1 else "")
        shared = system.plan.co_processing and PIM in placement.device.values()  # not where a rule leaves the units idle
        if shared and pieces == 1 and is_linear(op) and op.name in part.pim:
            ours, theirs = estimate.time_s, part.pim[op.name].estimate.time_s
            both = ours * theirs / (ours + theirs)
            tasks += [Task(label, op.name, XPU, both, after, True), Task(f"{label} (share)", op.name, PIM, both, after, True)]
            done += [len(tasks) - 2, len(tasks) - 1]
            continue
        fetch_s, fetch_bytes, run_s = _fetched(op, system, device, estimate)
        tasks.append(Task(label, op.name, device, run_s / pieces, after, True, fetch_s / pieces, fetch_bytes / pieces,
                          estimate.time_s / pieces))
        done.append(len(tasks) - 1)
    return tuple(done)


def _all(sources: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted({i for s in sources for i in s}))


def _moved(tasks: list[Task], part: Part, system: HybridSystem, op: Op, after: tuple[int, ...], device: str, pieces: int, mark: str,
           ) -> tuple[int, ...]:
    """A transfer over the link, where what is needed lies on the other side of it; what the op then waits for."""
    crossing = {tasks[i].op for i in after if _device(tasks[i].lane) != device} if system.link is not None else set()
    if not crossing or system.link is None:
        return after
    size = sum(part.graph[name].bytes_written for name in crossing)
    tasks.append(Task(f"to {device}: {op.name}{mark}", op.name, "link", system.link.time_s(size / pieces), after))
    return (len(tasks) - 1,)


def _fetched(op: Op, system: HybridSystem, device: str, estimate: Estimate) -> tuple[float, float, float]:
    """Seconds and bytes of weights that may be fetched ahead, and seconds that the op then still takes."""
    if device != XPU or not isinstance(system.xpu, NpuSide) or not system.plan.prefetch or not is_linear(op):
        return 0.0, 0.0, estimate.time_s
    size, rate = op.operand_bytes("weight"), system.xpu.bandwidth_bytes_per_s * system.xpu.efficiency
    rest = (estimate.bytes_moved["dram"] - size) / rate
    return size / rate, size, max(estimate.busy_s["matrix"], estimate.busy_s["vector"], rest)


def _device(lane: str) -> str:
    return PIM if lane == PIM else XPU


def _any_busy(played: Played) -> float:
    """Seconds for which any lane runs something."""
    total, end = 0.0, 0.0
    for span in played.spans:
        start, stop = max(span.start_s, end), span.start_s + span.duration_s
        if stop > start:
            total += stop - start
            end = stop
    return total


def _notes(laid: Layout, system: HybridSystem) -> list[str]:
    whole, parts, placement, played, lengths = laid.whole, laid.parts, laid.placement, laid.played, laid.lengths
    lines = []
    if system.devices > 1:
        lines.append(f"{system.devices} devices, each with its share of every layer (tensor parallel); times and lanes are those of one")
    lines += pim_costs(whole.graph, system, lengths)[1]
    on_pim = [op for op in whole.graph if placement.device[op.name] == PIM]
    lines.append(f"placed on the units: {', '.join(op.name for op in on_pim) or 'nothing'}"
                 + ("" if placement.exhausted else " (search not exhausted)"))
    if len(parts) > 1:
        lines.append(f"two sub-batches of {' and '.join(str(round(p.share * len(lengths or ()))) for p in parts)} requests interleave")
    busy = ", ".join(f"{lane} {100 * s / played.time_s:.1f} %" for lane, s in sorted(played.busy_s.items())) if played.time_s else ""
    lines.append(f"busy: {busy}")
    waits = sorted(((s, lane, other) for (lane, other), s in played.waited_s.items() if s > 0), reverse=True)
    lines.append("waited: " + (", ".join(f"{lane} for {other} {format_si(s, 's', 3)}" for s, lane, other in waits) or "nobody"))
    for op in on_pim:
        packing = whole.pim[op.name].packing
        if packing is not None and system.pim is not None:
            cycle_s = system.pim.device.cycle_s
            lines.append(
                f"{op.name}: {len(packing.load)} channels, busiest {format_si(packing.busiest * cycle_s, 's', 3)}, mean "
                f"{format_si(float(packing.load.mean()) * cycle_s, 's', 3)}, least "
                f"{format_si(float(packing.load.min()) * cycle_s, 's', 3)} ({100 * packing.balance:.1f} % balanced, {system.plan.packing})")
    return lines + _crossovers(whole, system, lengths)


def _crossovers(part: Part, system: HybridSystem, lengths: Sequence[int] | None) -> list[str]:
    """Batch from which the processor is as fast as the units, for attention and for the largest product with weights."""
    lines = []
    attention = next((op for op in part.graph if is_decode_attention(op) and op.name in part.pim), None)
    products = [op for op in part.graph if is_linear(op) and op.name in part.pim]
    linear = max(products, key=lambda op: op.operand_bytes("weight"), default=None)
    for op, what in ((attention, "attention"), (linear, "products with weights")):
        if op is None:
            continue
        dim = _TOKENS[op.kind]
        mean = round(sum(lengths) / len(lengths)) if lengths else 1

        def at(batch: int, op: Op = op, dim: str = dim, mean: int = mean) -> tuple[float, float]:
            share = Fraction(batch, op.dims[dim])
            one = scaled(op, {dim: share}, {o.name: share for o in op.operands if o.role != "weight"})
            if op.kind == "attention":
                one = replace(one, dims={**one.dims, "s": mean})
            alone = OpGraph("crossover", [one])
            contexts = [mean] * batch if op.kind == "attention" else None
            link = 0.0
            if system.link is not None:
                link = system.link.time_s(one.operand_bytes("input")) + system.link.time_s(one.bytes_written)
            pim = pim_costs(alone, system, contexts)[0][one.name].estimate.time_s + link
            return pim, xpu_costs(alone, system, "analytic", contexts)[one.name][0].time_s

        below, least = crossover(lambda batch: at(batch)[0], lambda batch: at(batch)[1], _MOST)
        if least is None:
            lines.append(f"{what}: the units {'pay' if below else 'do not pay'} at any batch up to {_MOST}")
        else:
            lines.append(f"{what}: the units pay {'below' if below else 'from'} a batch of {least}{'' if below else ' on'}")
    return lines

