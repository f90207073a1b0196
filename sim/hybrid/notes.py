"""What the report says of a step on a hybrid system: placement, lanes, waits, channels, crossovers, energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ...arch.hybrid_spec import HybridSystem
from ...mapping.packing import Packing
from ...mapping.placement import PIM, XPU, Room, crossover, is_decode_attention, is_linear, keys_of, taken_bytes
from ...units import format_si
from ...workloads.graph import OpGraph
from ...workloads.op import Op
from ...workloads.parallel_tensor import scaled
from ...workloads.ragged import with_keys
from .costs import home_of, pim_costs, room_of, stored_bytes, xpu_costs
from .layout import TOKENS, Layout, Part

#: Batches for which the crossover is sought at most.
_MOST: int = 4096


def notes(laid: Layout, system: HybridSystem) -> list[str]:
    """Lines of the report on a step, its energy apart."""
    whole, parts, placement, played, lengths = laid.whole, laid.parts, laid.placement, laid.played, laid.lengths
    lines = []
    if system.devices > 1:
        lines.append(f"{system.devices} devices, each with its share of every layer (tensor parallel); times and lanes are those of one")
    lines += pim_costs(whole.graph, system)[1]
    on_pim = [op for op in whole.graph if placement.device[op.name] != XPU]
    for name in system.sides or (PIM,):
        there = ", ".join(op.name for op in on_pim if placement.device[op.name] == name)
        what = "units" if len(system.sides) < 2 else f"units of {name}"
        lines.append(f"placed on the {what}: {there or 'nothing'}" + ("" if placement.exhausted else " (search not exhausted)"))
    lines += _reasons(laid)
    if laid.together:
        lines.append(f"processor and units take together: {', '.join(op.name for op in whole.graph if op.name in laid.together)}")
    used = {side.device.name: side for name, side in system.sides.items() if name in placement.device.values()}
    lines += [f"{name} states no energy: what its units read and multiply counts none" for name, side in used.items()
              if not set(side.device.energy) - {"standby_w"}]
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
    lines += [f"processor and units use {side.device.name} at the same time, each at its full rate: what they lose to each other is known "
              f"for dual row buffers alone; --set {name.replace('-', '_')}.access=blocked makes them exclude each other"
              for name, side in system.sides.items() if shares is None and (side.memory, side.access) == ("shared", "concurrent")
              and name in placement.device.values()]
    waits = sorted(((s, lane, other) for (lane, other), s in played.waited_s.items() if s > 0), reverse=True)
    lines.append("waited: " + (", ".join(f"{lane} for {other} {format_si(s, 's', 3)}" for s, lane, other in waits) or "nobody"))
    largest = max((op for op in on_pim if is_decode_attention(op)), key=lambda op: sum(keys_of(op)) * op.count, default=None)
    for op in on_pim:
        packing, sent_s = whole.pim[op.name].packing, whole.pim[op.name].estimate.busy_s.get("pim commands", 0.0)
        if packing is not None and system.pim is not None:
            cycle_s = system.pim.device.cycle_s
            if sent_s:
                lines.append(f"{op.name}: the processor needs {format_si(sent_s, 's', 3)} to send the units' commands, one at a time "
                             "for all channels")
            lines += _fullest(whole, op, packing, system) if op is largest else []
            lines.append(
                f"{op.name}: {len(packing.load)} channels, busiest {format_si(packing.busiest * cycle_s, 's', 3)}, mean "
                f"{format_si(float(packing.load.mean()) * cycle_s, 's', 3)}, least "
                f"{format_si(float(packing.load.min()) * cycle_s, 's', 3)} ({100 * packing.balance:.1f} % balanced, {system.plan.packing})")
    return lines + _crossovers(whole, system)


#: Ops whose reasons the report prints, those that take longest; the table has all.
_TOLD: int = 6


def _reasons(laid: Layout) -> list[str]:
    """Why the ops that units can run are where they are."""
    free = sorted((op for op in laid.whole.graph if op.name in laid.whole.pim), key=lambda op: -laid.chosen(op.name).time_s * op.count)
    return [f"why {op.name}: {laid.placement.reason[op.name]}" for op in free[:_TOLD]]


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


def _fullest(whole: Part, op: Op, packing: Packing, system: HybridSystem) -> list[str]:
    """Whether each channel holds its requests' caches of all layers beside its part of the weights, where a request has one channel."""
    side, requests = system.pim, whole.pim[op.name].requests
    if side is None or requests is None or requests.items > 1 or side.memory != "shared":
        return []
    held = np.zeros(len(keys_of(op)))  # bytes of each request
    for other in whole.graph:
        if is_decode_attention(other) and len(keys_of(other)) == len(held):
            held += other.count * other.operand_bytes("cache") / sum(keys_of(other)) * np.asarray(keys_of(other), dtype=np.float64)
    caches = np.bincount(packing.channel, weights=held, minlength=side.channels)
    weights = sum(stored_bytes(o) * o.count for o in whole.graph) / side.channels
    room, most = side.size_bytes / side.channels - weights, float(caches.max())
    if most <= room:
        return []
    return [f"{op.name}: the fullest channel, {int(caches.argmax())}, would hold {format_si(most, 'B', 3)} of caches and has "
            f"{format_si(max(0.0, room), 'B', 3)} beside weights: these requests DO NOT FIT, since each stays in one channel"]


def _crossovers(part: Part, system: HybridSystem) -> list[str]:
    """Batch from which the processor is as fast as the units, for all attention and for all products with weights together."""
    lines = []
    attention = [op for op in part.graph if is_decode_attention(op) and op.name in part.pim]
    products = [op for op in part.graph if is_linear(op) and op.name in part.pim]
    home = home_of(system)
    for ops, what in ((attention, "attention"), (products, "products with weights")):
        if not ops:
            continue

        def of(batch: int, ops: Sequence[Op] = ops) -> OpGraph:
            return OpGraph("crossover", [_of_batch(op, batch) for op in ops])

        def pim_s(batch: int, of: Callable[[int], OpGraph] = of) -> float:
            graph, total = of(batch), 0.0
            for name, cost in pim_costs(graph, system)[0].items():
                op, moved_s = graph[name], 0.0
                if system.link is not None and home[cost.device] != XPU:
                    moved_s = system.link.time_s(taken_bytes(op)) + system.link.time_s(op.bytes_written)
                total += op.count * (cost.estimate.time_s + moved_s)
            return total

        def xpu_s(batch: int, of: Callable[[int], OpGraph] = of) -> float:
            graph = of(batch)
            costs = xpu_costs(graph, system, "analytic")
            return sum(op.count * costs[op.name][0].time_s for op in graph)

        below, least = crossover(pim_s, xpu_s, _MOST)
        if least is None:
            lines.append(f"{what}: the units {'pay' if below else 'do not pay'} at any batch up to {_MOST}")
        else:
            lines.append(f"{what}: the units pay {'below' if below else 'from'} a batch of {least}{'' if below else ' on'}")
    return lines


def _of_batch(op: Op, batch: int) -> Op:
    """The op for so many requests or tokens, with contexts of the mean length where it attends."""
    dim = TOKENS[op.kind]
    share = Fraction(batch, op.dims[dim])
    one = scaled(op, {dim: share}, {o.name: share for o in op.operands if o.role != "weight"})
    if not is_decode_attention(op) or "kv_lengths" not in op.attributes:
        return one
    keys = keys_of(op)
    equal = with_keys(one, [max(1, round(sum(keys) / len(keys)))] * batch)
    return replace(equal, attributes={name: value for name, value in equal.attributes.items() if name != "kv_lengths"})
