"""Folding: blocks that repeat (``layers.0``, ``layers.1`` ...) are kept once, with a count.

Two blocks are equal when their ops agree, in order, in everything but the index in their names, and depend on each
other in the same way. Equal blocks need not be neighbours: of alternating local and global layers one of each kind is
kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import replace

from .graph import OpGraph
from .op import Op


def fold(graph: OpGraph) -> OpGraph:
    """Keep one of each set of equal blocks.

    FLOPs, bytes and the number of runs do not change: ``sum(op.flops * op.count)`` is the same. An edge between folded
    blocks becomes an edge between their representatives, or none where that would point backwards in program order (the
    loop over the blocks).

    Examples
    --------
    >>> from presilicon.workloads.op import tensor
    >>> def relu(i):
    ...     ports = (tensor("x0", "input", "n", "bf16"), tensor("out", "output", "n", "bf16"))
    ...     where = f"layers.{i}"
    ...     return Op(f"{where}.relu", "elementwise", "aten.relu.default", {"n": 8}, ports, module=where)
    >>> folded = fold(OpGraph("two", [relu(0), relu(1)], [("layers.0.relu", "layers.1.relu", "x0")]))
    >>> [(op.name, op.count) for op in folded]
    [('layers.0.relu', 2)]
    """
    ops = {op.name: op for op in graph}
    incoming: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for producer, consumer, data in graph.nx.edges(data=True):
        incoming[consumer].append((producer, data["tensor"]))
    kept = list(ops)
    counts = {name: op.count for name, op in ops.items()}
    twin: dict[str, str] = {}
    depth = max((len(_indices(op.module)) for op in ops.values()), default=0)
    for level in range(depth):
        blocks: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(dict)
        for name in kept:
            op = ops[name]
            positions = _indices(op.module)
            if level < len(positions):
                parts = op.module.split(".")
                container = ".".join(parts[: positions[level]])
                key = (str(op.attributes.get("pass", "")), container)
                blocks[key].setdefault(parts[positions[level]], []).append(name)
        gone: set[str] = set()
        for (_, container), members in blocks.items():
            first: dict[Hashable, list[str]] = {}
            for index, names in members.items():
                same = first.setdefault(
                    _signature(
                        [ops[n] for n in names],
                        [counts[n] for n in names],
                        incoming,
                        f"{container}.{index}" if container else index,
                    ),
                    names,
                )
                if same is not names:
                    for mine, theirs in zip(names, same, strict=True):
                        counts[theirs] += counts[mine]
                        twin[mine] = theirs
                    gone |= set(names)
        kept = [name for name in kept if name not in gone]
    return _rebuild(graph, [replace(ops[name], count=counts[name]) for name in kept], twin)


def _indices(module: str) -> list[int]:
    return [i for i, part in enumerate(module.split(".")) if part.isdigit()]


def _signature(ops: list[Op], counts: list[int], incoming: dict[str, list[tuple[str, str]]], prefix: str) -> Hashable:
    """Everything that a block is, except its index and who is outside of it."""
    local = {op.name: i for i, op in enumerate(ops)}
    return tuple(
        (
            op.module.removeprefix(prefix),
            op.kind,
            op.target,
            tuple(op.dims.items()),
            op.operands,
            tuple(sorted(op.body.items())),
            repr(sorted(op.attributes.items())),
            op.iterations,
            count,
            tuple(sorted((local[p], label) for p, label in incoming[op.name] if p in local)),
        )
        for op, count in zip(ops, counts, strict=True)
    )


def _rebuild(graph: OpGraph, ops: list[Op], twin: dict[str, str]) -> OpGraph:
    def representative(name: str) -> str:
        while name in twin:
            name = twin[name]
        return name

    order = {op.name: i for i, op in enumerate(ops)}
    edges: dict[tuple[str, str], str] = {}
    for producer, consumer, data in graph.nx.edges(data=True):
        u, v = representative(producer), representative(consumer)
        if order[u] < order[v]:
            edges.setdefault((u, v), data["tensor"])
    return OpGraph(
        graph.name,
        ops,
        [(u, v, t) for (u, v), t in edges.items()],
        memory=graph.memory,
        tokens=graph.tokens,
        uncovered=graph.uncovered,
        meta=graph.meta,
    )
