"""What a mapping costs, as the `Estimate` that every model returns."""

from __future__ import annotations

from ...arch.estimate import Estimate
from ...arch.hierarchy import Hierarchy
from ...workloads.op import Op
from .counts import Counts


def estimate_of(op: Op, counts: Counts, hierarchy: Hierarchy) -> Estimate:
    """Time, energy, traffic and busy time of one run of an op. No calibration exists: the interval is the time itself."""
    moved = {memory.name: 0.0 for memory in hierarchy.memories}
    for access in counts.accesses:
        moved[access.level] += access.read_bytes + access.written_bytes
    busy = {name: cycles / counts.clock_hz for name, cycles in counts.cycles_by.items()}
    time = counts.latency_s
    return Estimate(time, time, time, dict(counts.energy_by), moved, busy, op.flops, counts.clock_hz, counts.limiter)
