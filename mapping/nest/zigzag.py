"""ZigZag's way of counting accesses (zigzag-dse 3.9.1, its default), so that mappings of the two can be compared.

It differs from the rule of `presilicon.mapping.nest.counts` in three things:

* An input stays at the MAC while consecutive multiply-accumulates use the same element: the innermost memory is read once for all of them
  (``access_same_data_considered_as_no_access``). Here that is one more memory, of one element for each operand that is read, at no energy.
  It stays there while tiles of other tensors change in that memory: ZigZag nests the tiles of every operand by themselves.
* Partial sums are fetched back at every return and at the first time as well; only an output that never returns is not fetched.
* A tile is fetched whole: what neighbouring tiles of a convolution share is not kept.

Latency is that of the slowest, where an element that the MACs read or write takes a cycle of its memory's port for itself, however wide the
port. ZigZag's stalls come from there for the most part: it adds those of transfers that must wait for a tile in use, and the first fill and
the last drain, which are not modelled here. One element is the grain of every access.
"""

from __future__ import annotations

from dataclasses import replace

from ...arch.hierarchy import Hierarchy, Memory
from ...workloads.op import Op
from .problem import LATCH, Problem, problem


def zigzag_problem(op: Op, hierarchy: Hierarchy) -> Problem:
    """An op on a hierarchy, counted as ZigZag counts.

    Raises
    ------
    MappingError
        As `problem`.
    """
    bits = {kind: max((o.number_format.bytes for o in op.operands if o.role != "output"), default=1.0) for kind in ("input", "weight")}
    latch = Memory(LATCH, keeps=("input", "weight"), partition_bytes=bits)  # type: ignore[arg-type]
    wider = replace(hierarchy, levels=(*hierarchy.levels, latch))
    compiled = problem(op, wider)
    tensors = {name: replace(tensor, halo=False) for name, tensor in compiled.tensors.items()}
    return replace(compiled, tensors=tensors, counting="zigzag")
