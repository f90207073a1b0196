"""What a compiler fuses: chains of elementwise work, norms, softmaxes and reductions become one kernel, or a matmul's epilogue.

Two ops may share a kernel when one feeds the other, neither is a matmul-like op, both run equally often, and no path between them
leaves the fusable ops (loop fusion as TorchInductor does it: Ansel et al., "PyTorch 2", ASPLOS 2024, section 4). What a fused kernel
moves is what crosses its boundary: a tensor made and used inside costs no memory traffic. A group of purely elementwise ops over all
elements of a matmul's result, and nothing else, is applied before that result is written (epilogue fusion of matmul templates).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Final

import networkx as nx

from ..workloads.graph import OpGraph
from ..workloads.op import Op, Operand

FUSABLE: Final = frozenset({"elementwise", "norm", "softmax", "reduce", "copy"})
_ROWWISE: Final = ("softmax", "norm", "reduce")


def fuse(graph: OpGraph, kinds: frozenset[str] = FUSABLE, epilogues: bool = True) -> OpGraph:
    """The graph that a fusing compiler runs: same arithmetic, fewer kernels, less traffic.

    Parameters
    ----------
    graph
        Ops in program order; edge labels name the consumer's operands.
    kinds
        What may share a kernel, of `FUSABLE`.
    epilogues
        Whether elementwise work joins the matmul that it follows.

    Returns
    -------
    OpGraph
        Ops of one group replaced by one op whose attribute ``fused`` lists them.
    """
    group_of = _groups(graph, kinds)
    group_of = _join_epilogues(graph, group_of) if epilogues else group_of
    members = _members(graph, group_of)
    fused = {group: _merge(graph, ops) if len(ops) > 1 else ops[0] for group, ops in members.items()}
    name_of = {op.name: fused[group_of[op.name]].name for op in graph}
    edges: dict[tuple[str, str], list[str]] = defaultdict(list)
    for u, v, data in graph.nx.edges(data=True):
        if name_of[u] != name_of[v]:
            edges[name_of[u], name_of[v]] += data["tensor"].split(",")
    order = dict.fromkeys(name_of[op.name] for op in reversed(graph.ops))  # a group runs where its last member stood
    by_name = {op.name: op for op in fused.values()}
    return OpGraph(
        graph.name,
        [by_name[name] for name in reversed(order)],
        [(u, v, ",".join(dict.fromkeys(t))) for (u, v), t in edges.items()],
        memory=graph.memory,
        tokens=graph.tokens,
        uncovered=graph.uncovered,
        meta=graph.meta | {"fused": True},
    )


def _members(graph: OpGraph, group_of: dict[str, int]) -> dict[int, list[Op]]:
    members: dict[int, list[Op]] = defaultdict(list)
    for op in graph:
        members[group_of[op.name]].append(op)
    return members


def _join_epilogues(graph: OpGraph, group_of: dict[str, int]) -> dict[str, int]:
    """Put a matmul into the elementwise group that alone consumes it; the last of several, whose result the group then waits for least."""
    position = {op.name: i for i, op in enumerate(graph)}
    joined = dict(group_of)
    for group, ops in _members(graph, group_of).items():
        names = {op.name for op in ops}
        if any(op.kind not in ("elementwise", "copy") or op.points != ops[0].points for op in ops):
            continue
        producers = {
            u
            for name in names
            for u in graph.nx.predecessors(name)
            if graph[u].kind == "matmul"
            and "groups" not in graph[u].attributes
            and graph[u].count == ops[0].count
            and set(graph.nx.successors(u)) <= names
            and sum(graph[u].elements(o) for o in graph[u].operands if o.role == "output") == ops[0].points
        }
        if producers:
            joined[max(producers, key=lambda name: position[name])] = group
    return joined


def _groups(graph: OpGraph, kinds: frozenset[str]) -> dict[str, int]:
    """A group number per op. Ops at equal depth of unfusable ops on their longest path in may share a group: no path between them
    can then pass through an unfusable op, so that merging makes no cycle."""
    depth: dict[str, int] = {}
    for name in nx.topological_sort(graph.nx):
        depth[name] = max((depth[u] + (graph[u].kind not in kinds) for u in graph.nx.predecessors(name)), default=0)
    parts = nx.utils.UnionFind(op.name for op in graph)
    for u, v in graph.nx.edges:
        a, b = graph[u], graph[v]
        if a.kind in kinds and b.kind in kinds and depth[u] == depth[v] and a.count == b.count:
            parts.union(u, v)
    numbers: dict[str, int] = {}
    group_of: dict[str, int] = {}
    for op in graph:
        root = parts[op.name]
        group_of[op.name] = numbers.setdefault(root, len(numbers))
    return _break_cycles(graph, group_of)


def _break_cycles(graph: OpGraph, group_of: dict[str, int]) -> dict[str, int]:
    """Dissolve groups that ops of another count (and equal depth) have tied into a cycle."""
    while True:
        condensed = nx.DiGraph((group_of[u], group_of[v]) for u, v in graph.nx.edges if group_of[u] != group_of[v])
        knots = [part for part in nx.strongly_connected_components(condensed) if len(part) > 1]
        if not knots:
            return group_of
        tied, fresh = set().union(*knots), max(group_of.values()) + 1
        for name, group in list(group_of.items()):
            if group in tied:
                group_of[name], fresh = fresh, fresh + 1


def _merge(graph: OpGraph, ops: list[Op]) -> Op:
    """One op for a group; with a matmul among them, that matmul with the others as its epilogue."""
    matmul = next((op for op in ops if op.kind == "matmul"), None)
    crossing = _crossing(graph, ops, matmul)
    points = max(op.points for op in ops) if matmul is None else matmul.points
    body: dict[str, float] = defaultdict(float)
    for op in ops:
        for scalar, count in op.body.items():
            body[scalar] += count * op.points / points
    fused = {"fused": [op.name for op in ops]}
    if matmul is not None:
        own = tuple(o for o in matmul.operands if o.role != "output")
        moved = sum(matmul.elements(o) * o.number_format.bytes for o in crossing)
        attributes = dict(matmul.attributes) | fused | {"epilogue_bytes": moved}
        return replace(matmul, name=f"{matmul.name}+{len(ops) - 1}", operands=own + crossing, body=dict(body), attributes=attributes)
    lead = max((op for op in ops if op.kind in _ROWWISE), key=lambda op: (op.points, -_ROWWISE.index(op.kind)), default=ops[-1])
    rowwise = lead.kind in _ROWWISE and lead.points == points
    return Op(
        f"{lead.name}+{len(ops) - 1}",
        lead.kind if rowwise else "elementwise",
        "fused",
        dict(lead.dims) if rowwise else {"n": int(points)},
        crossing,
        dict(body),
        fused,
        iterations=points,
        count=lead.count,
        module=lead.module,
        source=lead.source,
    )


def _crossing(graph: OpGraph, ops: list[Op], matmul: Op | None) -> tuple[Operand, ...]:
    """What the group reads and writes, each tensor once; without a matmul's own inputs, which keep their projections."""
    inside = {op.name for op in ops}
    operands: list[Operand] = []
    seen: set[tuple[str, int, float]] = set()
    for op in ops:
        fed = {u: set(data["tensor"].split(",")) for u, _, data in graph.nx.in_edges(op.name, data=True)}
        internal = set().union(*(names for u, names in fed.items() if u in inside))
        escapes = graph.nx.out_degree(op.name) == 0 or any(v not in inside for v in graph.nx.successors(op.name))
        for operand in op.operands:
            if operand.role == "output":
                if escapes:
                    operands.append(_flat(operand, f"{op.name}:{operand.name}", op))
                continue
            if op is matmul or operand.name in internal:
                continue
            producer = next((u for u, names in fed.items() if operand.name in names), None)
            key = (producer or f"{op.name}:{operand.name}", op.elements(operand), operand.number_format.bits)
            if producer is None or key not in seen:  # another member that reads the same tensor loads it no second time
                operands.append(_flat(operand, f"{op.name}:{operand.name}", op))
            seen.add(key)
    return tuple(operands)


def _flat(operand: Operand, name: str, op: Op) -> Operand:
    """The operand without its projection: only how many elements cross the boundary matters in a fused kernel."""
    return Operand(name, operand.role, (), operand.number_format, op.elements(operand))
