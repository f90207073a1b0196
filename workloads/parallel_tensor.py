"""Tensor parallelism of a traced graph, found by following its tensors.

Values (one per op: its output) that are joined by ops which keep the feature axis apart (elementwise ops, copies,
attention, reductions inside a head) form a *region*. A weight matmul leads from one region into another. A region that no
op forbids to be split (a norm over the features, a router, the token embedding) is split over the ranks: the matmuls that
enter it by columns, those that leave it by rows (Shoeybi et al., "Megatron-LM", arXiv 1909.08053). What leaves by rows
is a partial sum; it is carried through linear ops as long as these allow, and then all-reduced, so attention and MLP have
one reduction each, and branches that are added first share one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Final

import networkx as nx

from ..errors import WorkloadError
from .graph import OpGraph
from .op import Op, Operand

#: Ops, by the packet of their target, through which a sum over ranks may be taken later.
_LINEAR: Final = frozenset((
    "add", "add_", "sub", "neg", "mul", "mul_", "div", "div_", "to", "_to_copy", "copy", "copy_", "contiguous", "clone",
    "reshape", "index", "index_select", "sum", "mean", "cat", "index_add", "index_add_", "slice_backward", "embedding",
))  # fmt: skip
#: Losses, which Megatron computes on logits that stay split by vocabulary, after three small all-reduces.
_LOSS: Final = frozenset(("nll_loss_forward", "nll_loss_backward", "nll_loss", "cross_entropy_loss"))


def packet(op: Op) -> str:
    """``"add"`` of ``"aten.add.Tensor"``."""
    parts = op.target.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


class Flow:
    """Where each operand of each op comes from."""

    def __init__(self, graph: OpGraph) -> None:
        self.ops: dict[str, Op] = {op.name: op for op in graph}
        self.sources: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in self.ops}
        self.consumers: dict[str, list[str]] = defaultdict(list)
        for producer, consumer, data in graph.nx.edges(data=True):
            for tensor in data["tensor"].split(","):
                self.sources[consumer][tensor].append(producer)
            self.consumers[producer].append(consumer)
        self.constant: set[str] = set()  # derived from weights alone
        for name, op in self.ops.items():
            reads = [o for o in op.operands if o.role != "output"]
            if reads and all(o.role == "weight" or self._is_constant(self._from(op, o)) for o in reads):
                self.constant.add(name)

    def _is_constant(self, producers: set[str]) -> bool:
        return bool(producers) and producers <= self.constant

    def _from(self, op: Op, operand: Operand) -> set[str]:
        return set(self.sources[op.name].get(operand.name, ()))

    def producers(self, op: Op, operand: str) -> list[str]:
        """Ops that wrote an operand, those of constants left out."""
        return [p for p in self.sources[op.name].get(operand, ()) if p not in self.constant]

    def weight_matmul(self, op: Op) -> bool:
        """Whether an op multiplies an activation by a parameter."""
        if op.kind != "matmul":
            return False
        w = next((o for o in op.operands if o.name == "w"), None)
        if w is None:
            return False
        return w.role == "weight" or self._is_constant(self._from(op, w))


@dataclass
class Region:
    """Values that are split together or not at all."""

    values: set[str] = field(default_factory=set)
    entries: list[str] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)
    blocked: str = ""
    vocabulary: bool = False
    split: bool = False


class Tensor:
    """The decision for one graph and `tp` ranks: which region is split, and what share of each value a rank has."""

    def __init__(self, graph: OpGraph, tp: int, expert_tp: int = 1) -> None:
        self.graph, self.tp, self.expert_tp = graph, tp, expert_tp
        self.flow = Flow(graph)
        self.training = any(op.attributes.get("pass") == "backward" for op in graph)
        self.links: nx.Graph[str] = nx.Graph()
        self.blocked: dict[str, str] = {}
        self.share: dict[str, Fraction] = {}
        self.replicated: list[str] = []
        for op in graph:
            self.links.add_node(op.name)
            self._join(op)
        self.regions = [Region(set(found)) for found in nx.connected_components(self.links)]
        self.region_of = {name: region for region in self.regions for name in region.values}
        self._find_ends()
        self._decide()

    # -- regions --------------------------------------------------------------------------------------------------

    def _union(self, op: Op, names: Iterable[str]) -> None:
        for name in names:
            for producer in self.flow.producers(op, name):
                self.links.add_edge(op.name, producer)

    def _block(self, op: Op, why: str) -> None:
        self.blocked.setdefault(op.name, why)

    def _join(self, op: Op) -> None:
        flow, reads = self.flow, [o for o in op.operands if o.role != "output"]
        if op.attributes.get("pass") == "optimizer":
            return
        if op.kind == "matmul":
            if not flow.weight_matmul(op) and op.dims.get("b", 1) > 1 and "split_groups" not in op.attributes:
                self._union(op, ("a", "w", "add"))
            return
        if op.kind == "attention":
            self._union(op, (o.name for o in reads if o.name not in ("mask", "sinks")))
        elif op.kind == "view" or (op.kind == "elementwise" and "n" in op.dims):
            n = op.dims.get("n", 1)
            self._union(op, (o.name for o in reads if o.elements is None or o.elements >= n))
            self._union(op, ("out",))
        elif op.kind == "copy":
            self._union(op, self._parts(op, reads))
            self._union(op, ("out",))
        elif op.kind in ("reduce", "norm", "softmax"):
            if packet(op) not in _LOSS and (set(op.attributes) & {"topk", "sort"} or "r" not in op.dims):
                self._block(op, "chooses among the features")
            self._union(op, (o.name for o in reads if o.name.startswith("x")))
        elif op.kind == "gather":
            table = next((o for o in op.operands if o.name == "table"), None)
            if table is not None and table.role == "weight":
                if not self.is_expert_bias(op):
                    self._block(op, "comes from an embedding")
            elif op.dims.get("c", 1) == 1 or table is None:
                self._union(op, ("x0", "table"))
                self._block(op, "is gathered element by element")
            else:
                self._union(op, ("table",))
        else:
            self._union(op, (o.name for o in reads))
            self._block(op, f"passes a {op.kind}")

    def is_expert_bias(self, op: Op) -> bool:
        """Whether an op gathers rows of a weight by expert, not by token: its index was computed from a router's choice."""
        return op.kind == "gather" and any(
            self.flow.ops[a].attributes.get("sort") or self.flow.ops[a].attributes.get("topk")
            for p in self.flow.producers(op, "index")
            for a in (p, *nx.ancestors(self.graph.nx, p))
        )

    def _parts(self, op: Op, reads: list[Operand]) -> list[str]:
        """Operands of a copy that carry the feature axis; one that is repeated for every head does not."""
        n = op.dims.get("n", 1)
        sizes = {o.name: n if o.elements is None else o.elements for o in reads}
        written = [p for p in self.flow.producers(op, "out") if p not in self.flow.producers(op, "x0")]
        if len(sizes) == 1:
            return [] if written and sum(sizes.values()) < n else list(sizes)
        total = sum(sizes.values())
        if total < n:
            for name, size in sizes.items():
                if size and (n - (total - size)) % size == 0 and (n - (total - size)) // size > 1:
                    return [other for other in sizes if other != name]
        return list(sizes)

    def _find_ends(self) -> None:
        for op in self.graph:
            region = self.region_of[op.name]
            if op.name in self.blocked and not region.blocked:
                region.blocked = f"{op.name} {self.blocked[op.name]}"
            if self.flow.weight_matmul(op):
                region.entries.append(op.name)
                for producer in self.flow.producers(op, "a"):
                    self.region_of[producer].exits.append(op.name)

    # -- decisions ------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        order = {name: i for i, name in enumerate(self.flow.ops)}
        for region in sorted(self.regions, key=lambda r: min((order[e] for e in r.entries), default=len(order))):
            if not region.entries:
                continue
            why = region.blocked or self._forbids(region)
            if not why and any(self._input_split(entry) for entry in region.entries):
                continue  # its matmuls are split by rows already
            if why:
                stream = "embedding" in why
                if not stream and not any(self._input_split(e) for e in region.entries):
                    self.replicated += [f"{entry}: {why}" for entry in region.entries]
                continue
            region.split = True
            self._set_shares(region)

    def _input_split(self, entry: str) -> bool:
        return any(self.region_of[p].split for p in self.flow.producers(self.flow.ops[entry], "a"))

    def _forbids(self, region: Region) -> str:
        """Why a region cannot be split; an empty string when it can."""
        flow = self.flow
        rows = min(flow.ops[e].dims["m"] for e in region.entries)
        forward = [e for e in region.entries if flow.ops[e].attributes.get("pass") != "backward"]
        width = flow.ops[forward[0]].dims["n"] if len(forward) == 1 else 0
        heads = any(flow.ops[v].kind == "attention" for v in region.values)
        vocabulary = False
        for name in region.values:
            op = flow.ops[name]
            if op.kind in ("reduce", "norm", "softmax") and packet(op) not in _LOSS and "r" in op.dims:
                if op.dims["r"] > rows and op.dims["r"] % rows == 0:
                    continue  # several rows a token: a reduction inside each head
                if op.attributes.get("pass") == "backward" and packet(op) == "sum" and op.dims["c"] % rows == 0:
                    continue  # a bias's or scale's gradient: a reduction over the tokens
                if op.kind == "softmax" and op.dims["c"] == width and self.training:
                    vocabulary = True
                    continue
                return f"{name} reduces over the features"
            vocabulary |= packet(op) in _LOSS
            if not heads and op.kind == "copy" and self._repeats(op) > 1 and any(flow.ops[v].dims.get("b", 1) > 1 for v in region.values):
                self._check_repeated(op, region)
        if not region.exits and not heads:
            vocabulary = len(forward) == 1
            if not vocabulary:
                return "its outputs leave the model"
        region.vocabulary = vocabulary
        if not vocabulary and not region.exits:
            return "no matmul follows"
        return ""

    def _repeats(self, op: Op) -> int:
        """How often a copy writes each element that it reads."""
        read = sum(op.elements(o) for o in op.operands if o.role != "output")
        return op.dims.get("n", 0) // read if read and op.dims.get("n", 0) % read == 0 else 1

    def _check_repeated(self, op: Op, region: Region) -> None:
        """Attention written out as matmuls repeats its KV heads; a rank must hold whole ones."""
        batch = self.graph.meta.get("batch")
        products = [self.flow.ops[v] for v in region.values if self.flow.ops[v].kind == "matmul" and self.flow.ops[v].dims.get("b", 1) > 1]
        made = nx.ancestors(self.graph.nx.subgraph(region.values), op.name)
        if not isinstance(batch, int) or not products or not made & set(region.entries):
            return
        kv_heads = products[0].dims["b"] // batch // self._repeats(op)
        if kv_heads % self.tp:
            raise WorkloadError(
                f"{op.name}: {kv_heads} KV heads do not divide by --tp {self.tp} where attention is written out as matmuls; "
                "trace with --attention flash"
            )

    def _set_shares(self, region: Region) -> None:
        """Share of each value of a split region that one rank holds."""
        tp, flow = self.tp, self.flow
        attention = [flow.ops[v] for v in region.values if flow.ops[v].kind == "attention"]
        experts = any("groups" in flow.ops[e].attributes for e in region.entries)
        ranks = self.expert_tp if experts else tp
        share = Fraction(1, ranks)
        if region.vocabulary:  # padded to a multiple, as Megatron does
            width = next(flow.ops[e].dims["n"] for e in region.entries if flow.ops[e].attributes.get("pass") != "backward")
            share = Fraction(math.ceil(Fraction(width, ranks)), width)
        for name in region.values:
            self.share[name] = share
        if not attention:
            for entry in () if region.vocabulary else region.entries:
                width = flow.ops[entry].dims["n"]
                if width % ranks:
                    raise WorkloadError(f"{entry}: {width} output features do not divide by --tp {ranks}")
            return
        heads = {(op.attributes["q_heads"], op.dims["h"]) for op in attention}
        for q_heads, kv_heads in heads:
            if q_heads % tp:
                raise WorkloadError(f"{attention[0].name}: {q_heads} attention heads do not divide by --tp {tp}")
            if kv_heads % tp and tp % kv_heads:
                raise WorkloadError(
                    f"{attention[0].name}: {kv_heads} KV heads and --tp {tp}: neither divides the other; "
                    f"choose a tp that divides {kv_heads} or is a multiple of it"
                )
            if kv_heads < tp and self.training:
                raise WorkloadError(f"{attention[0].name}: training repeats no KV heads, and {kv_heads} do not divide by --tp {tp}")
        q_heads, kv_heads = next(iter(heads))
        if kv_heads >= tp or len(heads) > 1:
            return
        inside = self.graph.nx.subgraph(region.values)
        feeds: dict[str, set[str]] = {"q": set(), "kv": set()}
        for op in attention:
            for side, labels in (("q", "q"), ("kv", "kv")):
                for label in labels:
                    for producer in flow.producers(op, label):
                        feeds[side] |= {producer, *nx.ancestors(inside, producer)}
        kv_share = Fraction(1, kv_heads)  # each rank holds one KV head; tp / kv_heads ranks hold the same one
        both = (Fraction(q_heads, tp) + 2) / (q_heads + 2 * kv_heads)
        for name in region.values:
            if name in feeds["kv"]:
                self.share[name] = both if name in feeds["q"] else kv_share

    # -- ops of one rank ------------------------------------------------------------------------------------------

    def row_split(self, op: Op) -> bool:
        """Whether a weight matmul sums over a split axis: its output is a partial sum."""
        return self.flow.weight_matmul(op) and self._input_split(op.name) and op.name not in self.share

    def gradient_share(self, op: Op) -> tuple[Fraction, Fraction]:
        """Shares of m and n of a product of activations that sums over tokens (a weight's gradient)."""
        shares = []
        for label in ("a", "w"):
            shares.append(min((self.share.get(p, Fraction(1)) for p in self.flow.producers(op, label)), default=Fraction(1)))
        return shares[0], shares[1]

    def rank(self, op: Op) -> Op:
        """What one rank executes of an op."""
        share = self.share.get(op.name)
        if op.kind == "matmul":
            return self._rank_matmul(op, share)
        if share is None:
            return self._follow(op)
        if op.kind == "attention":
            return self._rank_attention(op, share)
        dim = {"norm": "r", "reduce": "r", "softmax": "r", "gather": "c"}.get(op.kind, "n")
        if self.region_of[op.name].vocabulary and op.kind == "softmax":
            dim = "c"
        if packet(op) in _LOSS and op.kind == "reduce":
            return op
        return scaled(op, {dim: share}, self._operand_shares(op, share))

    def _operand_shares(self, op: Op, own: Fraction) -> dict[str, Fraction]:
        """Share of operands whose number of elements is given: that of their producer."""
        shares = {}
        for o in op.operands:
            if o.role == "output":
                shares[o.name] = own
                continue
            made = self.flow.producers(op, o.name)
            shares[o.name] = min((self.share.get(p, Fraction(1)) for p in made), default=own if o.role == "cache" else Fraction(1))
        return shares

    def _follow(self, op: Op) -> Op:
        """An op outside of split regions may still read gradients of split weights."""
        if op.kind != "copy":
            return op
        made = self.flow.producers(op, "x0")
        if not made:
            return op
        source = self.flow.ops[made[0]]
        if source.kind != "matmul" or self.flow.weight_matmul(source) or self.share.get(source.name):
            return op
        m, n = self.gradient_share(source)
        share = m * n
        return op if share == 1 else scaled(op, {"n": share}, dict.fromkeys((o.name for o in op.operands), share))

    def _rank_matmul(self, op: Op, share: Fraction | None) -> Op:
        if not self.flow.weight_matmul(op):
            if share is not None:
                return scaled(op, {"b": share}, dict.fromkeys(("a", "w", "add", "out"), share))
            m, n = self.gradient_share(op)
            return op if m == n == 1 else scaled(op, {"m": m, "n": n}, {"a": m, "w": n, "out": m * n})
        if share is not None:
            out = {"w": share, "bias": share, "out": share, "add": share}
            return scaled(op, {"n": share}, out)
        if self.row_split(op):
            k = min(self.share[p] for p in self.flow.producers(op, "a") if p in self.share)
            return scaled(op, {"k": k}, {"a": k, "w": k})
        return op

    def _rank_attention(self, op: Op, share: Fraction) -> Op:
        d = dict(op.dims)
        kv = max(1, d["h"] // self.tp)
        q_heads = op.attributes["q_heads"] // self.tp
        kv_share = Fraction(kv, d["h"])
        d |= {"h": kv, "g": max(1, (op.dims["h"] * op.dims["g"]) // self.tp // kv)}
        shares = {"k": kv_share, "v": kv_share, "grad_k": kv_share, "grad_v": kv_share}
        operands = []
        for o in op.operands:
            part = shares.get(o.name, share)
            if o.name == "mask":  # one mask for all heads, or a bias for each
                part = share if op.elements(o) >= op.attributes["q_heads"] * op.dims["q"] * op.dims["s"] else Fraction(1)
            operands.append(o if o.elements is None else replace(o, elements=math.ceil(o.elements * part)))
        attributes = {**op.attributes, "q_heads": q_heads, "kv_heads": kv}
        iterations = None if op.iterations is None else op.iterations / self.tp
        return replace(op, dims=d, operands=tuple(operands), attributes=attributes, iterations=iterations)


def scaled(op: Op, dims: Mapping[str, Fraction], operands: Mapping[str, Fraction]) -> Op:
    """An op with some dimensions times a share, and the given numbers of elements of its operands too.

    Raises
    ------
    WorkloadError
        A dimension does not come out whole.
    """
    extents = dict(op.dims)
    factor = Fraction(1)
    for dim, share in dims.items():
        if dim not in extents or share == 1:
            continue
        wanted = extents[dim] * share
        if wanted.denominator != 1:
            raise WorkloadError(f"{op.name}: dimension {dim!r} of {extents[dim]} does not divide by {share.denominator}")
        extents[dim] = int(wanted)
        factor *= share
    if factor == 1:
        return op
    changed: list[Operand] = []
    for o in op.operands:
        share = operands.get(o.name, Fraction(1))
        if o.elements is not None:
            changed.append(replace(o, elements=math.ceil(o.elements * share)))
        elif share == 1 and any(dim in dims for axis in o.projection for dim, _ in axis) and o.role != "output":
            changed.append(replace(o, elements=op.elements(o)))  # read whole by every rank
        else:
            changed.append(o)
    attributes: dict[str, Any] = dict(op.attributes)
    if "epilogue_bytes" in attributes:
        attributes["epilogue_bytes"] = attributes["epilogue_bytes"] * float(factor)
    iterations = None if op.iterations is None else op.iterations * float(factor)
    return replace(op, dims=extents, operands=tuple(changed), attributes=attributes, iterations=iterations)


def partial_sums(tensor: Tensor, sources: set[str]) -> set[str]:
    """Values to reduce over the ranks, given the ops whose outputs are partial sums.

    A sum is taken as late as linear ops allow, but no later than where a value is used twice.
    """
    flow = tensor.flow
    reduced = {name for name in sources if flow.ops[name].kind == "gather"}  # the embedding: the residual stream starts there
    while True:
        partial: set[str] = set()
        first = ""
        for name, op in flow.ops.items():
            held = {o.name: [p for p in flow.producers(op, o.name) if p in partial] for o in op.operands}
            held = {label: made for label, made in held.items() if made}
            carried = bool(held) and _carries(tensor, op, held)
            if held and not carried:
                first = next(p for made in held.values() for p in made)
            elif name not in reduced and (name in sources or carried):
                partial.add(name)
                first = name if len(set(flow.consumers[name])) > 1 else ""
            if first:
                break
        if not first:
            return reduced | {name for name in partial if not flow.consumers[name]}
        reduced.add(_narrower(flow, first, partial))


def _narrower(flow: Flow, name: str, partial: set[str]) -> str:
    """The value itself, or what it was converted from when that has fewer bytes."""
    op = flow.ops[name]
    made = [p for p in flow.producers(op, "x0") if p in partial]
    if op.kind == "copy" and len(made) == 1 and set(flow.consumers[made[0]]) == {name}:
        return made[0] if flow.ops[made[0]].bytes_written < op.bytes_written else name
    return name


def _carries(tensor: Tensor, op: Op, held: Mapping[str, list[str]]) -> bool:
    """Whether an op of partial sums gives the partial sum of its result."""
    if packet(op) not in _LINEAR or op.kind in ("matmul", "attention", "norm", "softmax"):
        return False
    reads = [o for o in op.operands if o.role != "output" and o.name != "index"]
    if packet(op) in ("mul", "mul_", "div", "div_"):
        return len({o.name for o in reads} & set(held)) == 1 and not (packet(op).startswith("div") and "x1" in held)
    if packet(op) in ("add", "add_", "sub"):
        for o in reads:
            if o.name in held:
                continue
            made = tensor.flow.producers(op, o.name)
            bias = o.role == "weight" or (made and all(tensor.is_expert_bias(tensor.flow.ops[p]) for p in made))
            if not bias:
                return False
    return True
