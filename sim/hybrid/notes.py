"""What the report says of a step on a hybrid system: placement, lanes, waits, channels, crossovers, energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ...arch.hybrid_spec import HybridSystem
from ...mapping.packing import Packing
from ...mapping.placement import PIM, XPU, Room, crossover, is_decode_attention, is_linear, taken_bytes
from ...units import format_si
from ...workloads.graph import OpGraph
from ...workloads.op import Op
from ...workloads.parallel_tensor import scaled
from ..result import OpResult
from .costs import home_of, pim_costs, room_of, xpu_costs
from .layout import TOKENS, Layout, Part

#: Batches for which the crossover is sought at most.
_MOST: int = 4096


def notes(laid: Layout, system: HybridSystem) -> list[str]:
    """Lines of the report on a step, its energy apart."""
    whole, parts, placement, played, lengths = laid.whole, laid.parts, laid.placement, laid.played, laid.lengths
    lines = []
    if system.devices > 1:
        lines.append(f"{system.devices} devices, each with its share of every layer (tensor parallel); times and lanes are those of one")
    lines += pim_costs(whole.graph, system, lengths)[1]
    on_pim = [op for op in whole.graph if placement.device[op.name] != XPU]
    for name in system.sides or (PIM,):
        there = ", ".join(op.name for op in on_pim if placement.device[op.name] == name)
        what = "units" if len(system.sides) < 2 else f"units of {name}"
        lines.append(f"placed on the {what}: {there or 'nothing'}" + ("" if placement.exhausted else " (search not exhausted)"))
    if laid.together:
        lines.append(f"processor and units take together: {', '.join(op.name for op in whole.graph if op.name in laid.together)}")
    lines += _overfull(whole, laid.placement.device, room_of(whole.graph, system))
    if len(parts) > 1:
        lines.append(f"two sub-batches of {' and '.join(str(round(p.share * len(lengths or ()))) for p in parts)} requests interleave")
    busy = ", ".join(f"{lane} {100 * s / played.time_s:.1f} %" for lane, s in sorted(played.busy_s.items())) if played.time_s else ""
    lines.append(f"busy: {busy}")
    shares = whole.shares
    if shares is not None and on_pim:
        slowed = ", ".join(f"{lane} {format_si(s, 's', 3)}" for lane, s in sorted(played.slowed_s.items()) if s > 1e-9)
        lines.append(f"beside units at work, ordinary reads keep {100 * shares.kept:.1f} % of their bandwidth and units take "
                     f"{100 * (shares.units - 1):.1f} % longer (command engine); longer here: {slowed or 'nobody'}")
    waits = sorted(((s, lane, other) for (lane, other), s in played.waited_s.items() if s > 0), reverse=True)
    lines.append("waited: " + (", ".join(f"{lane} for {other} {format_si(s, 's', 3)}" for s, lane, other in waits) or "nobody"))
    for op in on_pim:
        packing, sent_s = whole.pim[op.name].packing, whole.pim[op.name].estimate.busy_s.get("pim commands", 0.0)
        if packing is not None and system.pim is not None:
            cycle_s = system.pim.device.cycle_s
            if sent_s:
                lines.append(f"{op.name}: the processor needs {format_si(sent_s, 's', 3)} to send the units' commands, one at a time "
                             "for all channels")
            lines += _fullest(whole, op, packing, system, lengths)
            lines.append(
                f"{op.name}: {len(packing.load)} channels, busiest {format_si(packing.busiest * cycle_s, 's', 3)}, mean "
                f"{format_si(float(packing.load.mean()) * cycle_s, 's', 3)}, least "
                f"{format_si(float(packing.load.min()) * cycle_s, 's', 3)} ({100 * packing.balance:.1f} % balanced, {system.plan.packing})")
    return lines + _crossovers(whole, system, lengths)


def _overfull(whole: Part, device: Mapping[str, str], room: Room) -> list[str]:
    """What stays on the processor since the units' memory is full, and whether each memory holds what is placed there."""
    lines = []
    for memory, most in room.most.items():
        what = "the processor's own memory" if memory == XPU else f"the units' memory{'' if memory == PIM else f' ({memory})'}"
        could = [name for name, cost in whole.pim.items() if memory != XPU and device[name] == XPU and cost.device == memory]
        kept = [name for name in could if room.held[name] and room.over({**device, name: memory}, memory)]
        if kept:
            lines.append(f"{what} holds {format_si(most, 'B', 3)} a device, {format_si(room.used(device, memory), 'B', 3)} of it taken: "
                         f"no room there for {', '.join(kept)}")
        over = room.over(device, memory)
        if over:
            lines.append(f"{what} holds {format_si(most, 'B', 3)} a device; weights and caches of ops placed there are "
                         f"{format_si(over, 'B', 3)} more and DO NOT FIT")
    return lines


def _fullest(whole: Part, op: Op, packing: Packing, system: HybridSystem, lengths: Sequence[int] | None) -> list[str]:
    """Whether each channel holds its requests' caches of all layers beside its part of the weights, where a request has one channel."""
    side, requests = system.pim, whole.pim[op.name].requests
    if side is None or requests is None or requests.items > 1 or lengths is None or side.memory != "shared":
        return []
    keys = np.bincount(packing.channel, weights=np.asarray(lengths, dtype=np.float64), minlength=side.channels)
    cache = sum(o.operand_bytes("cache") * o.count for o in whole.graph if is_decode_attention(o)) / sum(lengths)
    weights = sum(o.operand_bytes("weight") * o.count for o in whole.graph) / side.channels
    room, most = side.size_bytes / side.channels - weights, float(keys.max()) * cache
    if most <= room:
        return []
    return [f"{op.name}: the fullest channel, {int(keys.argmax())}, would hold {format_si(most, 'B', 3)} of caches and has "
            f"{format_si(max(0.0, room), 'B', 3)} beside weights: these requests DO NOT FIT, since each stays in one channel"]


def energy(results: Sequence[OpResult]) -> list[str]:
    """Energy by component, largest first."""
    parts: dict[str, float] = {}
    for r in results:
        for name, joules in r.estimate.energy_j.items():
            parts[name] = parts.get(name, 0.0) + joules * r.op.count
    known = sorted(((j, name) for name, j in parts.items() if j > 0), reverse=True)
    return ["energy: " + ", ".join(f"{name} {format_si(j, 'J', 3)}" for j, name in known)] if known else []


def _crossovers(part: Part, system: HybridSystem, lengths: Sequence[int] | None) -> list[str]:
    """Batch from which the processor is as fast as the units, for attention and for all products with weights together."""
    lines = []
    attention = [op for op in part.graph if is_decode_attention(op) and op.name in part.pim][:1]
    products = [op for op in part.graph if is_linear(op) and op.name in part.pim]
    mean, home = round(sum(lengths) / len(lengths)) if lengths else 1, home_of(system)
    for ops, what in ((attention, "attention"), (products, "products with weights")):
        if not ops:
            continue

        def of(batch: int, ops: Sequence[Op] = ops) -> tuple[OpGraph, list[int] | None]:
            found = [_of_batch(op, batch, mean) for op in ops]
            return OpGraph("crossover", [op for op, _ in found]), found[0][1]

        def pim_s(batch: int, of: Callable[[int], tuple[OpGraph, list[int] | None]] = of) -> float:
            graph, contexts = of(batch)
            total = 0.0
            for name, cost in pim_costs(graph, system, contexts)[0].items():
                op, moved_s = graph[name], 0.0
                if system.link is not None and home[cost.device] != XPU:
                    moved_s = system.link.time_s(taken_bytes(op)) + system.link.time_s(op.bytes_written)
                total += op.count * (cost.estimate.time_s + moved_s)
            return total

        def xpu_s(batch: int, of: Callable[[int], tuple[OpGraph, list[int] | None]] = of) -> float:
            graph, contexts = of(batch)
            costs = xpu_costs(graph, system, "analytic", contexts)
            return sum(op.count * costs[op.name][0].time_s for op in graph)

        below, least = crossover(pim_s, xpu_s, _MOST)
        if least is None:
            lines.append(f"{what}: the units {'pay' if below else 'do not pay'} at any batch up to {_MOST}")
        else:
            lines.append(f"{what}: the units pay {'below' if below else 'from'} a batch of {least}{'' if below else ' on'}")
    return lines


def _of_batch(op: Op, batch: int, mean: int) -> tuple[Op, list[int] | None]:
    """The op for so many requests or tokens, with contexts of the mean length where it attends, and those contexts."""
    dim = TOKENS[op.kind]
    share = Fraction(batch, op.dims[dim])
    one = scaled(op, {dim: share}, {o.name: share for o in op.operands if o.role != "weight"})
    if op.kind != "attention":
        return one, None
    return replace(one, dims={**one.dims, "s": mean}), [mean] * batch
