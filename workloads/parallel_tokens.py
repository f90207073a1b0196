"""The part of a traced graph that works on a part of the tokens: a replica's share of the batch, a microbatch, or a
rank's share of the sequence.

Ops that descend from the inputs of the step carry tokens; what descends from weights and constants alone (rotary tables,
masks) does not, and gradients of weights are sums over tokens.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

from ..errors import WorkloadError
from .graph import OpGraph
from .op import Op
from .parallel_tensor import Flow, scaled


def split_tokens(graph: OpGraph, parts: int, axis: Literal["batch", "sequence"], option: str) -> dict[str, Op]:
    """Each op as one of `parts` equal parts of the batch or of the sequence runs it.

    Parameters
    ----------
    option
        The option that asks for it, for errors.

    Returns
    -------
    Ops by name; attention keeps the whole length of keys and values when the sequence is split.

    Raises
    ------
    WorkloadError
        The batch or the sequence does not divide by `parts`, or the graph does not say how large it is.
    """
    size = graph.meta.get("batch" if axis == "batch" else "seq")
    batch, seq = graph.meta.get("batch"), 1 if graph.meta.get("phase") == "decode" else graph.meta.get("seq")
    if not isinstance(size, int) or not isinstance(batch, int) or not isinstance(seq, int):
        raise WorkloadError(f"{graph.name}: {option}: the graph does not record its batch and sequence (traced with trace_model)")
    if size % parts:
        raise WorkloadError(f"{graph.name}: {axis} {size} does not divide by {option} {parts}")
    flow, share = Flow(graph), Fraction(1, parts)
    carries: set[str] = set()
    ops: dict[str, Op] = {}
    for op in graph:
        ops[op.name] = op
        reads = [o for o in op.operands if o.role != "output"]
        given = {o.name for o in reads if o.role in ("input", "cache") and not flow.sources[op.name].get(o.name)}
        source = bool(given) and op.name not in flow.constant
        if axis == "sequence":  # positions are made, not given
            source = any(o.role == "input" for o in reads if o.name in given) or not reads
        held = {o.name for o in reads if any(p in carries for p in flow.sources[op.name].get(o.name, ()))}
        if op.attributes.get("pass") == "optimizer" or not (source or held):
            continue
        dim = _token_dim(op, flow, batch, seq, axis)
        if not dim or (axis == "sequence" and held and _last_token(op, flow, carries, seq)):
            continue
        own = {o.name: share for o in op.operands if o.role == "output" or o.name in held | given}
        ops[op.name] = _with_sizes(scaled(op, {dim: share}, own), op, share)
        kept = {d for o in op.operands if o.role == "output" for projected in o.projection for d, _ in projected}
        if dim in kept and not (op.attributes.get("pass") == "backward" and op.attributes.get("scatter")):
            carries.add(op.name)
    return ops


def _token_dim(op: Op, flow: Flow, batch: int, seq: int, axis: str) -> str:
    """Dimension whose extent is a multiple of the batch's sequences or tokens; empty where there is none."""
    d, tokens = op.dims, batch * seq
    unit = batch if axis == "batch" else seq
    if op.kind == "attention":
        candidates = [("b", batch)] if axis == "batch" else [("q", seq)]
    elif op.kind == "matmul":
        gradient = "split_groups" in op.attributes or (op.attributes.get("pass") == "backward" and d.get("b", 1) == 1)
        if flow.weight_matmul(op):
            candidates = [("m", tokens if axis == "sequence" else batch)]
            if d.get("b", 1) > 1 and axis == "batch":
                candidates.insert(0, ("b", batch))
        elif gradient:
            candidates = [("k", 1 if "split_groups" in op.attributes else unit)]
        else:
            candidates = [("b", batch)] if axis == "batch" and d.get("b", 1) > 1 else [("m", unit)]
    elif op.kind in ("reduce", "norm", "softmax"):
        candidates = [("r", tokens), ("c", tokens), ("r", unit), ("c", unit)]
    elif op.kind in ("conv", "scan"):
        candidates = [(dim, unit) for dim in ("b", "batch", "p", "n", "r", "c")]
    else:
        candidates = [("n", unit)]
    return next((dim for dim, multiple in candidates if d.get(dim, 0) and d[dim] % multiple == 0), "")


def _last_token(op: Op, flow: Flow, carries: set[str], seq: int) -> bool:
    """Whether an op reads one token of each sequence only: it is that much smaller than what it reads from."""
    if op.kind not in ("elementwise", "copy", "gather") or seq < 2:
        return False
    made = [flow.ops[p] for label in flow.sources[op.name] for p in flow.sources[op.name][label] if p in carries]
    read = max(p.elements(o) for p in made for o in p.operands if o.role == "output")
    written = max(op.elements(o) for o in op.operands if o.role == "output")
    return written * seq <= read and written % seq != 0


def _with_sizes(op: Op, before: Op, share: Fraction) -> Op:
    """Sizes that attributes repeat."""
    changed: dict[str, Any] = {}
    for name, value in before.attributes.items():
        if name == "batch" and isinstance(value, int) and value * share == int(value * share):
            changed[name] = int(value * share)
        elif name == "kv_lengths":  # every n-th of the descending lengths: the heaviest of fairly dealt shares
            changed[name] = sorted(value, reverse=True)[:: share.denominator]
    return replace(op, attributes={**op.attributes, **changed}) if changed else op
