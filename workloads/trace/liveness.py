"""Peak of the intermediate tensors by liveness: a buffer lives from the call that makes it to the last call that
touches it or a view.
"""

from __future__ import annotations

from collections.abc import Set

from .values import Program


def activation_peak(program: Program, kept: Set[int] = frozenset()) -> int:
    """Largest sum of live intermediate storages in bytes.

    Inputs of the step are included; weights, caches and the storages in `kept` are left out.
    """
    fixed = {v.storage for v in program.inputs if v.role != "input"} | kept
    first: dict[int, int] = {v.storage: 0 for v in program.inputs if v.storage not in fixed}
    last: dict[int, int] = dict(first)
    for position, call in enumerate(program.calls):
        for value in (*call.values, *call.outputs):
            if value.storage not in fixed:
                first.setdefault(value.storage, position)
                last[value.storage] = position
    for value in program.outputs:
        if value.storage in last:
            last[value.storage] = len(program.calls)
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for storage, position in first.items():
        starts.setdefault(position, []).append(storage)
        ends.setdefault(last[storage], []).append(storage)
    live = peak = 0
    for position in range(len(program.calls) + 1):
        live += sum(program.storage_bytes.get(s, 0) for s in starts.get(position, ()))
        peak = max(peak, live)
        live -= sum(program.storage_bytes.get(s, 0) for s in ends.get(position, ()))
    return peak


def left_behind(program: Program) -> int:
    """Bytes that a step returns beside its cache: they live until its end."""
    kept = {v.storage for v in program.inputs} | {v.storage for v in program.cache}
    return sum(program.storage_bytes.get(storage, 0) for storage in {v.storage for v in program.outputs} - kept)
