"""What the report says of a step on a hybrid system: placement, lanes, waits, channels, crossovers, energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ...arch.hybrid_spec import HybridSystem
from ...mapping.packing import Packing
from ...mapping.placement import PIM, XPU, Room, crossover, is_decode_attention, is_linear
from ...units import format_si
from ...workloads.graph import OpGraph
from ...workloads.op import Op
from ...workloads.parallel_tensor import scaled
from ..result import OpResult
from .costs import pim_costs, room_of, xpu_costs
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
    on_pim = [op for op in whole.graph if placement.device[op.name] == PIM]
    lines.append(f"placed on the units: {', '.join(op.name for op in on_pim) or 'nothing'}"
                 + ("" if placement.exhausted else " (search not exhausted)"))
    if laid.together:
        lines.append(f"processor and units take together: {', '.join(op.name for op in whole.graph if op.name in laid.together)}")
    lines += _overfull(whole.graph, laid.placement.device, room_of(whole.graph, system))
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


def _overfull(graph: OpGraph, device: Mapping[str, str], room: Room) -> list[str]:
    """What stays on the processor since the units' memory is full, and whether the processor's own memory holds what is placed there."""
    lines = []
    could = [op for op in graph if device[op.name] == XPU and room.held[op.name] and (is_linear(op) or is_decode_attention(op))]
    kept = [op.name for op in could if room.over({**device, op.name: PIM}, PIM)]
    if kept and PIM in room.most:
        used = sum(size for name, size in room.held.items() if device[name] == PIM)
        lines.append(f"the units' memory holds {format_si(room.most[PIM], 'B', 3)} a device, {format_si(used, 'B', 3)} of it taken: "
                     f"no room there for {', '.join(kept)}")
    for where, what in ((PIM, "the units' memory"), (XPU, "the processor's own memory")):
        over = room.over(device, where)
        if over:
            lines.append(f"{what} holds {format_si(room.most[where], 'B', 3)} a device; weights and caches of ops placed there are "
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
    """Batch from which the processor is as fast as the units, for attention and for the largest product with weights."""
    lines = []
    attention = next((op for op in part.graph if is_decode_attention(op) and op.name in part.pim), None)
    products = [op for op in part.graph if is_linear(op) and op.name in part.pim]
    linear = max(products, key=lambda op: op.operand_bytes("weight"), default=None)
    for op, what in ((attention, "attention"), (linear, "products with weights")):
        if op is None:
            continue
        mean = round(sum(lengths) / len(lengths)) if lengths else 1

        def pim_s(batch: int, op: Op = op, mean: int = mean) -> float:
            one, contexts = _of_batch(op, batch, mean)
            alone = pim_costs(OpGraph("crossover", [one]), system, contexts)[0][one.name].estimate.time_s
            if system.link is None:
                return alone
            return alone + system.link.time_s(one.operand_bytes("input")) + system.link.time_s(one.bytes_written)

        def xpu_s(batch: int, op: Op = op, mean: int = mean) -> float:
            one, contexts = _of_batch(op, batch, mean)
            return xpu_costs(OpGraph("crossover", [one]), system, "analytic", contexts)[one.name][0].time_s

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
