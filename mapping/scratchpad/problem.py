"""A graph as the scratchpad sees it: operators that need their tensors resident, and tensors with sizes and uses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from ...errors import MappingError, shown
from ...workloads.graph import OpGraph
from ...workloads.op import Op


@dataclass(frozen=True)
class Tensor:
    """One intermediate tensor, graph input or graph output.

    Attributes
    ----------
    name, size_bytes
        Name, and bytes that it takes in the scratchpad.
    producer
        Index of the operator that makes it; None: a graph input, which lies in DRAM.
    consumers
        Indices of the operators that read it.
    output
        Whether it leaves the graph, and so must reach DRAM.
    """

    name: str
    size_bytes: int
    producer: int | None
    consumers: tuple[int, ...]
    output: bool = False


@dataclass(frozen=True)
class Problem:
    """Operators in program order and the tensors among them.

    Attributes
    ----------
    name, ops
        Name of the graph, names of the operators.
    tensors
        What the scratchpad may hold. Weights are not among them: they stream through buffers of their own.
    streamed_bytes
        Bytes that must cross the DRAM interface whatever the plan is besides those of `tensors` (weights).

    Raises
    ------
    MappingError
        A size below 1, an index that names no operator, or a tensor that nothing makes or uses.
    """

    name: str
    ops: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    streamed_bytes: float = 0.0

    def __post_init__(self) -> None:
        for tensor in self.tensors:
            where = f"{self.name}: tensor {tensor.name!r}"
            if tensor.size_bytes < 1:
                raise MappingError(f"{where}: expected a size of 1 byte or more, found {shown(tensor.size_bytes)}")
            for index in (*tensor.consumers, *(() if tensor.producer is None else (tensor.producer,))):
                if not 0 <= index < len(self.ops):
                    raise MappingError(f"{where}: operator {index} does not exist; there are {len(self.ops)}")
            if not tensor.consumers and not tensor.output:
                raise MappingError(f"{where}: nothing reads it, and it is no output of the graph")
        if not nx.is_directed_acyclic_graph(self.order):
            raise MappingError(f"{self.name}: the operators depend on each other in a cycle")

    @cached_property
    def order(self) -> nx.DiGraph[int]:
        """Which operator must come before which."""
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(range(len(self.ops)))
        graph.add_edges_from((t.producer, c) for t in self.tensors if t.producer is not None for c in t.consumers)
        return graph

    @property
    def compulsory_bytes(self) -> float:
        """Bytes that no plan saves: each graph input fetched once, each graph output written once, the weights."""
        moved = sum(t.size_bytes * ((t.producer is None) + (t.output and t.producer is not None)) for t in self.tensors)
        return self.streamed_bytes + moved

    def needs(self, op: int) -> list[int]:
        """Indices of the tensors that an operator reads or makes."""
        return [i for i, t in enumerate(self.tensors) if t.producer == op or op in t.consumers]

    def streams(self, capacity_bytes: int) -> frozenset[tuple[int, int]]:
        """Pairs (operator, tensor) that do not fit: an operator whose tensors exceed the capacity streams the largest of them
        between DRAM and the engine, until the rest fits."""
        found = set()
        for op in range(len(self.ops)):
            needed = sorted(self.needs(op), key=lambda i: (-self.tensors[i].size_bytes, i))
            total = sum(self.tensors[i].size_bytes for i in needed)
            for i in needed:
                if total <= capacity_bytes:
                    break
                found.add((op, i))
                total -= self.tensors[i].size_bytes
        return frozenset(found)

    def forced_bytes(self, capacity_bytes: int) -> float:
        """Bytes above the compulsory ones that operators too large for the scratchpad cost every plan: what they stream, once for each, and
        one more fetch of a streamed tensor that another operator needs resident."""
        streams = self.streams(capacity_bytes)
        total = 0.0
        for index, tensor in enumerate(self.tensors):
            mine = {op for op, i in streams if i == index}
            if not mine:
                continue
            reads = len(mine - {tensor.producer})
            apart = tensor.producer is None or tensor.producer in mine
            fetches = reads + (apart and not set(tensor.consumers) <= mine)
            written = 0 if tensor.producer is None or tensor.output else 1
            total += tensor.size_bytes * (fetches + written - (tensor.producer is None))
        return total


def problem_of(graph: OpGraph) -> Problem:
    """The problem of a graph: views alias what they view, weights and caches stream, blocks that repeat stand once.

    Trace with ``folded=False`` to see repeated blocks one after the other, and fuse first if the device does.

    >>> from presilicon.workloads.op import Op, tensor
    >>> io = (tensor("x", "input", "n", "int8"), tensor("y", "output", "n", "int8"))
    >>> ops = [Op(name, "elementwise", "relu", {"n": 8}, io) for name in "ab"]
    >>> p = problem_of(OpGraph("two", ops, [("a", "b", "x")]))
    >>> [(t.name, t.producer, t.consumers, t.output) for t in p.tensors]
    [('a:y', 0, (1,), False), ('b:y', 1, (), True), ('a:x', None, (0,), False)]
    """
    ops = [op for op in graph if op.kind != "view"]
    index = {op.name: i for i, op in enumerate(ops)}
    makers = [_Made(op, i) for i, op in enumerate(ops)]
    inputs: list[Tensor] = []
    for i, op in enumerate(ops):
        fed: set[str] = set()
        for source, _, data in graph.nx.in_edges(op.name, data=True):
            names = data["tensor"].split(",")
            fed |= set(names)
            for origin in _through_views(graph, source):
                makers[index[origin]].feed(i, _bytes(op, names))
        inputs += [
            Tensor(f"{op.name}:{o.name}", math.ceil(op.elements(o) * o.number_format.bytes), None, (i,))
            for o in op.operands
            if o.role == "input" and o.name not in fed and o.name.rpartition(":")[2] not in fed and op.elements(o) > 0
        ]
    tensors = [tensor for maker in makers for tensor in maker.tensors()]
    weights = sum(op.operand_bytes("weight", "cache") for op in ops)
    return Problem(graph.name, tuple(op.name for op in ops), (*tensors, *inputs), weights)


class _Made:
    """The outputs of one operator and who reads each."""

    def __init__(self, op: Op, index: int) -> None:
        self.op, self.index = op, index
        self.outputs = [o for o in op.operands if o.role == "output" and op.elements(o) > 0]
        self.sizes = [math.ceil(op.elements(o) * o.number_format.bytes) for o in self.outputs]
        self.readers: list[list[int]] = [[] for _ in self.outputs]

    def feed(self, reader: int, sizes: Sequence[float]) -> None:
        """Note a reader: of the output whose size is nearest to what it reads."""
        if self.outputs:
            wanted = max(sizes, default=0.0)
            best = min(range(len(self.sizes)), key=lambda i: (abs(self.sizes[i] - wanted), i))
            if reader not in self.readers[best]:
                self.readers[best].append(reader)

    def tensors(self) -> list[Tensor]:
        return [
            Tensor(f"{self.op.name}:{o.name}", size, self.index, tuple(readers), not readers)
            for o, size, readers in zip(self.outputs, self.sizes, self.readers, strict=True)
        ]


def _bytes(op: Op, names: Iterable[str]) -> list[float]:
    wanted = set(names)
    return [op.elements(o) * o.number_format.bytes for o in op.operands if o.name in wanted or o.name.rpartition(":")[2] in wanted]


def _through_views(graph: OpGraph, name: str) -> list[str]:
    """The operators that made what a view shows; the operator itself if it is none."""
    if graph[name].kind != "view":
        return [name]
    return [origin for source in graph.nx.predecessors(name) for origin in _through_views(graph, source)]
