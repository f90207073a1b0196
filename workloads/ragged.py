"""A decode graph whose requests have contexts of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import networkx as nx
import numpy as np

from ..errors import WorkloadError
from .graph import Memory, OpGraph
from .op import Op
from .parallel_tensor import scaled


def with_contexts(graph: OpGraph, contexts: Sequence[int] | np.ndarray) -> OpGraph:
    """The decode step of requests with different numbers of tokens in their caches.

    Attention of each request reads its own cache: FLOPs and bytes are sums over requests, and ``kv_lengths`` tells models
    the lengths (the new token included). All other ops depend only on how many requests there are.

    Parameters
    ----------
    graph
        A decode step traced with as many sequences as there are contexts.
    contexts
        Tokens in the cache of each request before the step.

    Returns
    -------
    OpGraph
        With ``meta["contexts"]``, and the mean as ``meta["context"]``.

    Raises
    ------
    WorkloadError
        Not a decode step, another number of sequences, or attention written out as matmuls.
    """
    lengths = np.asarray(contexts, dtype=np.int64) + 1
    batch, context = graph.meta.get("batch"), graph.meta.get("context")
    if graph.meta.get("phase") != "decode" or not isinstance(batch, int) or not isinstance(context, int):
        raise WorkloadError(f"{graph.name}: contexts of requests need a decode step traced with trace_model")
    if "parallel" in graph.meta:
        raise WorkloadError(f"{graph.name}: give requests their contexts before the graph is split over devices")
    if batch != len(lengths):
        raise WorkloadError(f"{graph.name}: {len(lengths)} contexts, but the step decodes {batch} sequences")
    if not any(op.kind == "attention" for op in graph):
        raise WorkloadError(f"{graph.name}: attention is written out as matmuls, all of one length; trace with attention='flash'")
    traced = context + 1
    changed: dict[str, Op] = {}
    around: set[str] = set()
    before = after = 0.0
    for op in graph:
        if op.kind != "attention" or op.dims["q"] != 1 or op.dims["b"] != batch:
            continue
        window = int(op.attributes.get("window") or 0)
        if op.dims["s"] != min(traced, window or traced) and op.dims["s"] != traced:
            continue  # attention over an encoder's output
        seen = np.minimum(lengths, window) if window else lengths
        changed[op.name] = with_keys(op, seen)
        before, after = before + op.count * _cached(op), after + op.count * _cached(changed[op.name])
        around |= nx.ancestors(graph.nx, op.name)
    ratio = Fraction(int(lengths.sum()), batch * traced)
    for op in graph:  # what is computed anew over the whole cache (expanding a latent one)
        if op.name in around and op.name not in changed and any(o.role == "cache" for o in op.operands):
            changed |= {name: _resized(graph[name], ratio, batch * traced) for name in (op.name, *_between(graph, op.name, changed))}
    if not before:
        raise WorkloadError(f"{graph.name}: no attention reads a cache of {traced} tokens a sequence")
    share = after / before
    m = graph.memory
    memory = Memory(m.weights_bytes, m.kv_cache_bytes * share, m.activations_bytes, m.optimizer_bytes, m.gradient_bytes)
    meta = {**graph.meta, "context": round(float(lengths.mean() - 1)), "contexts": [int(n) - 1 for n in lengths]}
    return OpGraph(
        graph.name, [changed.get(op.name, op) for op in graph], [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)],
        memory=memory, tokens=graph.tokens, uncovered=graph.uncovered, meta=meta,
    )  # fmt: skip


def _cached(op: Op) -> int:
    return sum(op.elements(o) for o in op.operands if o.name in ("k", "v"))


def with_keys(op: Op, seen: Sequence[int] | np.ndarray) -> Op:
    """Decode attention whose requests attend to so many keys each, the new token's among them."""
    seen = np.asarray(seen, dtype=np.int64)
    total, longest = int(seen.sum()), int(seen.max())
    heads = op.dims["h"]
    sizes = {"k": total * heads * op.dims["e"], "v": total * heads * op.attributes.get("v_head_dim", op.dims["e"])}
    operands = tuple(replace(o, elements=sizes[o.name]) if o.name in sizes else o for o in op.operands)
    points = float(heads * op.dims["g"] * op.dims["q"] * op.dims["e"]) * total
    attributes = {**op.attributes, "kv_lengths": [int(n) for n in seen]}
    return replace(op, dims={**op.dims, "s": longest}, operands=operands, attributes=attributes, iterations=points)


def _between(graph: OpGraph, name: str, attention: dict[str, Op]) -> set[str]:
    """Ops between one and the attentions that it feeds."""
    below = nx.descendants(graph.nx, name)
    ends = {a for a in attention if a in below}
    return {op for op in below if op not in ends and any(op in nx.ancestors(graph.nx, end) for end in ends)}


def _resized(op: Op, ratio: Fraction, tokens: int) -> Op:
    dim = next((d for d in ("m", "n", "r") if op.dims.get(d, 0) and op.dims[d] % tokens == 0), "")
    if not dim:
        return op
    real = Fraction(math.ceil(op.dims[dim] * ratio), op.dims[dim])
    return scaled(op, {dim: real}, {o.name: real for o in op.operands if o.role != "weight"})
