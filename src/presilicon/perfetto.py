"""Timelines as Chrome trace events (the JSON format that Perfetto and chrome://tracing open)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .files import write_atomically
from .sim.result import Simulation


def write(simulation: Simulation, path: Path) -> Path:
    """Write one step's timeline; times are in microseconds, as the format asks."""
    write_atomically(path, (json.dumps(events(simulation)) + "\n").encode())
    return path


def events(simulation: Simulation) -> dict[str, Any]:
    """The trace as plain data: one process for the system, one thread per lane."""
    lanes = {lane: index + 1 for index, lane in enumerate(dict.fromkeys(span.lane for span in simulation.spans))}
    by_name = {r.op.name: r for r in simulation.results}
    trace: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": f"{simulation.graph.name} on {simulation.system.name}"}}
    ]
    trace += [{"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": lane}} for lane, tid in lanes.items()]
    for span in simulation.spans:
        args: dict[str, Any] = {}
        result = by_name.get(span.op)
        if result is not None and span.lane != "host":
            e = result.estimate
            args = {
                "module": result.op.module,
                "kind": result.op.kind,
                "limiter": e.limiter,
                "low_us": e.low_s * 1e6,
                "high_us": e.high_s * 1e6,
                "flops": e.flops,
                "dram_bytes": e.bytes_moved.get("dram", 0.0),
                "source": result.op.source,
            }
        trace.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": lanes[span.lane],
                "name": span.name,
                "ts": span.start_s * 1e6,
                "dur": span.duration_s * 1e6,
                "args": args,
            }
        )
    return {"traceEvents": trace, "displayTimeUnit": "ns"}
