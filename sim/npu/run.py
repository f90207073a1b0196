"""`simulate_npu`: a whole graph on an NPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from ...arch import Estimate
from ...arch.npu import NpuSystem
from ...mapping.npu import build
from ...mapping.npu.compile import Compiled, compile_groups
from ...mapping.npu.group import Schedule, schedule
from ...mapping.npu.pipeline import pipeline_s, uncontended_s
from ...mapping.npu.segment import Segment
from ...units import format_si
from ...workloads.graph import OpGraph
from ..host import RUNTIME_OF
from ..result import OpResult, Simulation, Span, fit_memory
from .play import play

#: Runs of a repeated block that are played; the rest repeat the last one.
PLAYED_RUNS = 3


def simulate_npu(graph: OpGraph, system: NpuSystem, fidelity: str = "tile") -> Simulation:
    """One step of a graph on an NPU.

    Parameters
    ----------
    graph, system
        What runs where.
    fidelity
        ``"analytic"``: each group by its closed form, one after the other. ``"tile"``: all groups played out, tile by tile, on engines,
        DMA queues and memories that they share.

    Raises
    ------
    MappingError
        An op that the NPU cannot run, or that has no room; names the op and the reason.
    """
    scheduled = schedule(graph, system)
    compiled = compile_groups(scheduled, system)
    if fidelity == "analytic":
        times = [sum(pipeline_s(s, system) for s in c.segments) + system.launch_s for c in compiled]
        spans = _line_up(compiled, times)
    else:
        times, spans = _played(compiled, system)
    results = [r for c, seconds in zip(compiled, times, strict=True) for r in _results(c, seconds, system)]
    total = sum(seconds * c.group.lead.count for c, seconds in zip(compiled, times, strict=True))
    order = {op.name: i for i, op in enumerate(graph)}
    results.sort(key=lambda r: order[r.op.name])
    host = sum(s.host_s * c.group.lead.count for c in compiled for s in c.segments)
    return Simulation(
        graph=graph,
        system=system,
        fidelity=fidelity,
        runtime=RUNTIME_OF["npu"],
        time_s=total,
        low_s=total,
        high_s=total,
        device_busy_s=total,
        host_busy_s=host,
        first_kernel_s=0.0,
        results=tuple(results),
        spans=spans,
        memory=fit_memory(graph, system),
        notes=(*_notes(graph, compiled, scheduled, system), _gap(compiled, total, system)),
    )


def _played(compiled: Sequence[Compiled], system: NpuSystem) -> tuple[list[float], tuple[Span, ...]]:
    """Seconds of one run of each group, and the timeline: repeated blocks are played a few times, the last run stands for the rest."""
    order: list[int] = []
    for count, block in groupby(range(len(compiled)), key=lambda i: compiled[i].group.lead.count):
        order += list(block) * min(count, PLAYED_RUNS)
    segments: list[Segment] = []
    last_of: list[int] = []
    for i in order:
        segments += compiled[i].segments
        last_of.append(len(segments) - 1)
    played = play(segments, system)
    spent: dict[int, list[float]] = {}
    before = 0.0
    for i, last in zip(order, last_of, strict=True):
        spent.setdefault(i, []).append(played.ends_s[last] - before)
        before = played.ends_s[last]
    times = []
    for i, c in enumerate(compiled):
        runs = spent[i]
        rest = c.group.lead.count - len(runs)
        times.append((sum(runs) + rest * runs[-1]) / c.group.lead.count)
    return times, played.spans


def _line_up(compiled: Sequence[Compiled], times: Sequence[float]) -> tuple[Span, ...]:
    """Closed forms one after the other: a bar of the matrix, vector, dma or host lane, whichever is busy longest."""
    spans, now = [], 0.0
    for c, seconds in zip(compiled, times, strict=True):
        lane = _lane(_busy(c))
        length = seconds * c.group.lead.count
        spans.append(Span(c.group.lead.name, lane, now, length, c.group.lead.name))
        now += length
    return tuple(spans)


def _busy(c: Compiled) -> dict[str, float]:
    found: dict[str, float] = {}
    for s in c.segments:
        for name, seconds in s.busy_s.items():
            found[name] = found.get(name, 0.0) + seconds
    return found


def _lane(busy: Mapping[str, float]) -> str:
    longest = max(busy, key=lambda name: busy[name], default="dma")
    return longest if longest in ("matrix", "vector", "host") else "dma"


def _results(c: Compiled, seconds: float, system: NpuSystem) -> list[OpResult]:
    """The group's time stands with the op that leads it; the vector work of the others with them, as energy and FLOPs."""
    busy = _busy(c)
    energy: dict[str, float] = {}
    for s in c.segments:
        for name, joules in s.energy_j.items():
            energy[name] = energy.get(name, 0.0) + joules
    lead, *others = c.group.ops
    found = []
    for op in others:
        own = {} if op.name in c.group.folded or c.family == "npu.host" else build.vector_work(op, system).energy(system)
        own = {name: min(joules, energy.get(name, 0.0)) for name, joules in own.items()}
        for name, joules in own.items():
            energy[name] -= joules
        what = "fused into" if op.name not in c.group.folded else "folded into" if op.kind == "copy" else "folded into the weights of"
        estimate = Estimate(0.0, 0.0, 0.0, own, {}, {}, op.flops, system.clock_hz, "fused")
        found.append(OpResult(op, estimate, "npu.fused", c.arithmetic, 0, system.name, f"{what} {lead.name}"))
    energy["static"] = system.static_w * seconds
    moved = _moved(c, system)
    limiter = max(busy, key=lambda name: busy[name], default="launch")
    if busy and busy[limiter] < 0.5 * seconds:
        limiter = "launch" if system.launch_s > 0.5 * seconds else "latency"
    first = Estimate(seconds, seconds, seconds, energy, moved, busy, lead.flops, system.clock_hz, limiter)
    return [OpResult(lead, first, c.family, c.arithmetic, len(c.segments), system.name, _reason(c)), *found]


def _moved(c: Compiled, system: NpuSystem) -> dict[str, float]:
    """Bytes by memory: the shared ones by their ports, those of the cores by the mapping."""
    found = {"dram": sum(s.moved("dram") for s in c.segments)}
    for memory in system.memories:
        if memory.scope == "chip":
            names = (memory.name, f"{memory.name}.read", f"{memory.name}.write")
            found[memory.name] = sum(s.moved(name) for s in c.segments for name in names)
    return found


def _reason(c: Compiled) -> str:
    plans = [f"{', '.join(sorted(p.resident))} on chip" for p in c.plans if p.resident]
    return "; ".join([*([c.how] if c.how else []), *plans])


def _gap(compiled: Sequence[Compiled], total_s: float, system: NpuSystem) -> str:
    """What the simulated time holds that the loop nests' own latencies do not: waiting at shared ports, and what groups overlap."""
    alone = free = 0.0
    for c in compiled:
        runs = c.group.lead.count
        alone += runs * (sum(pipeline_s(s, system) for s in c.segments) + system.launch_s)
        free += runs * (sum(uncontended_s(s, system) for s in c.segments) + system.launch_s)
    shared = f"{format_si(alone, 's')} with shared ports ({_percent(alone, free)})"
    here = f"{format_si(total_s, 's')} here ({_percent(total_s, alone)})"
    return f"loop nests one after the other: {format_si(free, 's')} if no transfer slowed another down, {shared}; {here}"


def _percent(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.1f} %" if base else "+0.0 %"


def _notes(graph: OpGraph, compiled: Sequence[Compiled], scheduled: Schedule, system: NpuSystem) -> tuple[str, ...]:
    notes = []
    hosted = [c for c in compiled if c.note]
    if hosted:
        targets = sorted({op.target.split(".")[1] if "." in op.target else op.kind for c in hosted for op in c.group.ops})
        seconds = sum(s.host_s * c.group.lead.count for c in hosted for s in c.segments)
        notes.append(f"{len(hosted)} ops on the host, {seconds * 1e3:.3g} ms: {', '.join(targets)}; {system.name} has no engine for them")
    dtypes = {o.number_format.arithmetic for op in graph for o in op.operands if op.kind in ("matmul", "conv", "attention")}
    used = {c.arithmetic for c in compiled if c.plans}
    other = sorted(d for d in dtypes if d.startswith(("bf", "fp", "tf")) and d not in used)
    if other and used:
        notes.append(f"traced in {', '.join(other)}, run in {', '.join(sorted(used))}: {system.name} has no engine for the former")
    cut = sum(1 for c in compiled for p in c.plans if not p.result.exhausted)
    total = sum(len(c.plans) for c in compiled)
    notes.append(f"{total} matrix products mapped, {'all proven optimal' if not cut else f'{cut} not proven optimal'} in their space")
    folded = sum(len(c.group.folded) for c in compiled)
    fused = sum(len(c.group.ops) - 1 for c in compiled)
    if fused:
        groups = sum(len(c.group.ops) > 1 for c in compiled)
        notes.append(f"{fused} ops fused into {groups} groups, {folded} of them batch normalisations and paddings folded away")
    kept = scheduled.retained
    if kept is not None:
        proof = "proven least" if kept.proven else f"at least {format_si(kept.bound_bytes, 'B')}"
        better = "" if kept.moved_bytes == kept.greedy_bytes else f"; first come, first kept: {format_si(kept.greedy_bytes, 'B')}"
        if scheduled.program_bytes is not None:
            better = f"; in the program's order: {format_si(scheduled.program_bytes, 'B')}{better}"
        between, moved = format_si(kept.total_bytes, "B"), format_si(kept.moved_bytes, "B")
        notes.append(f"of {between} between ops {moved} pass the DRAM, the rest waits on chip ({proof} for the room there is{better})")
    return tuple(notes)
