"""Pruned weights on an NPU: compressed in DRAM, expanded on their way in; the engines multiply the zeros too."""

from __future__ import annotations

from dataclasses import replace

from ...arch.npu import NpuSystem
from ...workloads.formats import by_name
from ...workloads.sparsity import Sparsity
from .segment import Segment


def compressed(segment: Segment, system: NpuSystem, sparsity: Sparsity, stored: str) -> Segment:
    """A product whose weights lie pruned in DRAM and whole everywhere else.

    Parameters
    ----------
    segment
        The product with dense weights.
    stored
        Number format of the stored elements.
    """
    dense = by_name(stored).dense
    share = dense.sparse(sparsity).bits / dense.bits
    if "dram" not in segment.weights:
        return segment
    weights = {**segment.weights, "dram": segment.weights["dram"] * share}
    spared = segment.moved("dram") - replace(segment, weights=weights).moved("dram")
    busy = {**segment.busy_s, "dram": segment.busy_s["dram"] * (1.0 - spared / segment.moved("dram"))}
    energy = {**segment.energy_j, "dram": segment.energy_j["dram"] - spared * system.dram.j_per_byte}
    return replace(segment, weights=weights, busy_s=busy, energy_j=energy)
