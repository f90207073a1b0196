"""The graph of one rank, put together step by step: see `presilicon.workloads.parallel`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

from ..errors import WorkloadError
from .formats import NumberFormat, by_name
from .graph import Memory, OpGraph
from .op import Op, Operand
from .parallel_stage import last_stage, layer
from .parallel_tensor import Flow, Tensor, partial_sums, scaled
from .parallel_tokens import split_tokens

#: Gradients that one collective takes in data parallelism (torch DistributedDataParallel, bucket_cap_mb).
BUCKET_BYTES: Final = 25 * 2**20


@dataclass(frozen=True)
class Degrees:
    """Ranks in each dimension; their product, experts apart, is the number of devices.

    Attributes
    ----------
    tp, pp, dp, cp
        Tensor, pipeline, data and context parallel ranks.
    ep
        Ranks that the experts are dealt over, out of the tp x dp x cp ranks of a stage.
    microbatches
        Parts of the batch that follow each other through the pipeline.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    cp: int = 1
    microbatches: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise WorkloadError(f"parallelism: {name} must be a whole number from 1, not {value!r}")
        stage = self.tp * self.dp * self.cp
        if stage % self.ep:
            raise WorkloadError(f"parallelism: experts over {self.ep} ranks, but a stage has tp x dp x cp = {stage}, which it must divide")
        if self.tp % self.ep and self.ep % self.tp:
            raise WorkloadError(f"parallelism: ep {self.ep} and tp {self.tp}: one must divide the other")

    @property
    def devices(self) -> int:
        """Devices of the whole system."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def expert_slots(self) -> int:
        """Ranks of a tensor-parallel group that hold different experts."""
        return min(self.tp, self.ep)

    @property
    def expert_tp(self) -> int:
        """Ranks over which each expert's matrices are split."""
        return self.tp // self.expert_slots

    @property
    def expert_exchange(self) -> int:
        """Ranks with different tokens that exchange them before and after the experts."""
        return self.ep // self.expert_slots


class Rank:
    """One rank while it is put together: ops change in steps, collectives are queued behind the op that feeds them."""

    def __init__(self, graph: OpGraph, degrees: Degrees, kernel: str, sequence_parallel: bool) -> None:
        self.graph, self.degrees, self.kernel, self.sequence_parallel = graph, degrees, kernel, sequence_parallel
        self.training = graph.meta.get("phase") == "train"
        self.decode = graph.meta.get("phase") == "decode"
        self.after: dict[str, list[Op]] = defaultdict(list)
        self.tensor: Tensor | None = None
        self.replicated: list[str] = []
        self.names: Counter[str] = Counter()
        self.cache_share = Fraction(1)
        self.embedding: str | None = None

    def build(self) -> OpGraph:
        d = self.degrees
        original = {op.name: op for op in self.graph}
        self.queries = {op.name: op.dims["q"] for op in self.graph if op.kind == "attention"}
        graph = self.graph
        for parts, axis, option in (
            (d.dp, "batch", "--dp"),
            (d.microbatches, "batch", "--microbatches"),
            (d.cp if not self.decode else 1, "sequence", "--cp"),
        ):
            if parts > 1:
                source = graph if axis == "sequence" else _with_batch(graph, parts)
                graph = _replaced(source, split_tokens(graph, parts, axis, option))  # type: ignore[arg-type]
                self.cache_share /= parts if option != "--microbatches" else 1
        stage = last_stage(graph, d.pp, self.training) if d.pp > 1 else {op.name: op.count for op in graph}
        ops = {op.name: op for op in graph}
        if d.tp > 1 or d.ep > 1:
            self.tensor = Tensor(graph, d.tp, d.expert_tp)
            self.replicated = self.tensor.replicated if d.tp > 1 else []
            ops = self._tensor_parallel(graph)
        if d.cp > 1:
            ops = self._context_parallel(ops)
        ops = {name: replace(op, count=stage[name]) for name, op in ops.items() if stage[name]}
        memory = self._memory(original, graph, ops)
        if self.training:
            ops = self._gradients(ops, memory)
        if d.pp > 1:
            self._send(ops)
        return self._assemble(ops, memory)

    # -- tensor and expert parallelism ------------------------------------------------------------------------------

    def _tensor_parallel(self, graph: OpGraph) -> dict[str, Op]:
        d, tensor = self.degrees, self.tensor
        assert tensor is not None
        ops = {op.name: tensor.rank(op) if d.tp > 1 else op for op in graph}
        sources = {op.name for op in graph if d.tp > 1 and tensor.row_split(op)}
        self.embedding = self._vocabulary(graph) if d.tp > 1 else None
        if self.embedding:
            sources.add(self.embedding)
        if d.ep > 1:
            self._experts(graph, ops, tensor)
        reduced = partial_sums(tensor, sources)
        for name in reduced:
            out = _output(ops[name])
            elements = ops[name].elements(out)
            if self.sequence_parallel:
                self._collect(ops[name], "reduce_scatter", elements, out.number_format, d.tp, "tp")
            else:
                self._collect(ops[name], "all_reduce", elements, out.number_format, d.tp, "tp")
        for region in tensor.regions:
            if region.split and region.vocabulary and d.tp > 1:
                self._logits(region.values, ops, tensor.flow)
        if self.sequence_parallel:
            ops = self._sequence_parallel(graph, ops, tensor, reduced)
        if d.tp > 1 and not any(r.split for r in tensor.regions):
            raise WorkloadError(f"{graph.name}: --tp {d.tp}: no pair of matmuls can be split: {'; '.join(self.replicated[:3])}")
        return ops

    def _vocabulary(self, graph: OpGraph) -> str | None:
        """The token embedding, split by vocabulary."""
        for op in graph:
            table = next((o for o in op.operands if o.name == "table"), None)
            indexed = self.tensor is not None and self.tensor.flow.sources[op.name].get("index")
            if op.target.startswith("aten.embedding.") and table is not None and table.role == "weight" and not indexed:
                return op.name
        return None

    def _logits(self, values: set[str], ops: Mapping[str, Op], flow: Flow) -> None:
        """Logits split by vocabulary: gathered where they leave the model; in a loss, three numbers a token are reduced."""
        last = [name for name in flow.ops if name in values and not set(flow.consumers[name]) & values]
        inside = next((flow.ops[v] for v in flow.ops if v in values and flow.ops[v].kind == "softmax"), None)
        if inside is not None:
            self._collect(ops[inside.name], "all_reduce", 3 * inside.dims["r"], by_name("fp32"), self.degrees.tp, "tp")
            return
        for name in last:
            out = _output(ops[name])
            whole = ops[name].elements(out) * self.degrees.tp
            self._collect(ops[name], "all_gather", whole, out.number_format, self.degrees.tp, "tp")

    def _experts(self, graph: OpGraph, ops: dict[str, Op], tensor: Tensor) -> None:
        """Fewer experts a rank, and where ranks have different tokens an exchange before and after them."""
        d, flow = self.degrees, tensor.flow
        rows = Fraction(1, d.expert_slots)
        for op in graph:
            if op.kind != "matmul" or "groups" not in op.attributes:
                continue
            groups = op.attributes["groups"]
            if groups % d.ep:
                raise WorkloadError(f"{op.name}: {groups} experts do not divide by --ep {d.ep}")
            mine = ops[op.name]
            if rows != 1:
                mine = _rows(mine, "m", rows, ("a", "out"))
            held = groups // d.ep
            weights = min(held, mine.dims["m"]) * mine.dims["n"] * mine.dims["k"]
            operands = tuple(replace(o, elements=weights) if o.name == "w" else o for o in mine.operands)
            ops[op.name] = replace(mine, operands=operands, attributes={**mine.attributes, "groups": held})
            entry = op.name in tensor.share or not any("groups" in flow.ops[a].attributes for a in _upstream(graph, op.name, 6))
            if d.expert_exchange > 1:
                out = _output(ops[op.name]) if not entry else next(o for o in ops[op.name].operands if o.name == "a")
                feeds = flow.producers(op, "a")
                target = ops[feeds[0]] if entry and feeds else ops[op.name]
                self._collect(target, "all_to_all", ops[op.name].elements(out), out.number_format, d.expert_exchange, "ep", once=True)
            region = tensor.region_of[op.name]
            if rows == 1 or not entry:
                continue
            for name in (*region.values, *flow.producers(op, "a")):
                other = ops[name]
                if other.kind != "matmul":
                    ops[name] = _rows(other, "n", rows, tuple(o.name for o in other.operands if o.name != "table" or o.role != "weight"))

    def _sequence_parallel(self, graph: OpGraph, ops: dict[str, Op], tensor: Tensor, reduced: set[str]) -> dict[str, Op]:
        """Ops between reductions and the next split matmul on 1/tp of the tokens, gathered before that matmul."""
        d, flow = self.degrees, tensor.flow
        tokens = _with_batch(graph, 1)
        parts = split_tokens(tokens, d.tp, "batch" if self.decode else "sequence", "sequence_parallel over --tp")
        changed = dict(ops)
        for op in graph:
            region = tensor.region_of[op.name]
            stream = not region.split and "embedding" in region.blocked and op.name != self.embedding
            if stream and op.kind not in ("matmul", "gather") and op.name not in reduced and parts[op.name] is not op:
                changed[op.name] = parts[op.name]
        unsplit = {name for name in ops if flow.ops[name].kind in ("matmul", "gather") and changed[name] is ops[name]}
        shared = {name for name in ops if changed[name] is not ops[name]}
        gathered = [name for name in ops if name in shared and set(flow.consumers[name]) & unsplit]
        for name in gathered:
            out = _output(ops[name])
            self._collect(ops[name], "all_gather", ops[name].elements(out), out.number_format, d.tp, "tp")
        return changed

    # -- context parallelism ----------------------------------------------------------------------------------------

    def _context_parallel(self, ops: dict[str, Op]) -> dict[str, Op]:
        cp, changed = self.degrees.cp, dict(ops)
        for name, op in ops.items():
            if op.kind != "attention":
                continue
            if self.decode and op.attributes.get("phase") == "decode":
                if op.dims["s"] > 1:
                    part = Fraction(1, cp)
                    s = math.ceil(op.dims["s"] * part)
                    real = Fraction(s, op.dims["s"])
                    mine = scaled(op, {"s": real}, dict.fromkeys(("k", "v", "mask"), real))
                    if "kv_lengths" in op.attributes:
                        mine = replace(mine, attributes={**op.attributes, "kv_lengths": [-(-n // cp) for n in op.attributes["kv_lengths"]]})
                    changed[name] = mine
                out = _output(op)
                rows = op.elements(out) + op.elements(out) // max(op.attributes.get("v_head_dim", op.dims["e"]), 1)
                self._collect(op, "all_gather", rows * cp, by_name("fp32"), cp, "cp")
            elif not self.decode:
                before = [o for o in op.operands if o.name in ("k", "v", "grad_k", "grad_v")]
                size = sum(op.elements(o) for o in before)
                self._collect(op, "all_gather", size, before[0].number_format, cp, "cp", before=True)
        if not any(op.kind == "attention" for op in ops.values()):
            raise WorkloadError(f"{self.graph.name}: --cp {cp}: attention is written out as matmuls; trace with --attention flash")
        if self.decode:
            self.cache_share /= cp
            self.replicated = [*self.replicated, "all but attention: context ranks decode the same tokens"]
        elif not any(op.kind == "attention" and op.dims["q"] < self.queries[name] for name, op in ops.items()):
            raise WorkloadError(f"{self.graph.name}: --cp {cp}: no attention works on the sequence of {self.graph.meta.get('seq')} tokens")
        return changed

    # -- data and pipeline parallelism ------------------------------------------------------------------------------

    def _gradients(self, ops: dict[str, Op], memory: Memory) -> dict[str, Op]:
        """The optimizer's part of the parameters, and the gradients' reduction over replicas."""
        d = self.degrees
        share = memory.weights_bytes / self.graph.memory.weights_bytes if self.graph.memory.weights_bytes else 1.0
        last = ""
        for name, op in ops.items():
            if op.attributes.get("pass") == "optimizer":
                ops = {**ops, name: replace(op, dims={"n": math.ceil(op.dims["n"] * share)})}
            else:
                last = name
        if d.dp * d.cp > 1 and last:
            size = memory.gradient_bytes
            buckets = max(1, math.ceil(size / BUCKET_BYTES))
            fmt = by_name({"bfloat16": "bf16", "float32": "fp32"}.get(str(self.graph.meta.get("dtype")), "fp16"))
            elements, feeder = math.ceil(size / buckets / fmt.bytes), replace(ops[last], count=buckets)
            self._collect(feeder, "all_reduce", elements, fmt, d.dp * d.cp, "dp", overlap=True, implementation="nccl")
        return ops

    def _send(self, ops: Mapping[str, Op]) -> None:
        """Activations to the next stage, and in training their gradients back."""
        hidden = None
        for op in ops.values():
            if op.attributes.get("pass") != "backward" and layer(op.module) is not None and op.kind in ("elementwise", "matmul"):
                hidden = op
        if hidden is None:
            return
        out = _output(hidden)
        width = hidden.elements(out)
        for suffix in ("", "backward") if self.training else ("",):
            self._collect(replace(hidden, count=1), "send", width, out.number_format, 2, "pp", suffix=suffix)

    # -- collectives ------------------------------------------------------------------------------------------------

    def _collect(
        self, feeder: Op, operation: str, elements: int, fmt: NumberFormat, devices: int, group: str, *,
        before: bool = False, once: bool = False, overlap: bool = False, implementation: str = "", suffix: str = "",
    ) -> None:  # fmt: skip
        """Queue a collective behind (or before) an op; `elements` are those of the whole message."""
        base = ".".join(filter(None, (suffix, feeder.name, f"{operation}_{group}")))
        self.names[base] += 1
        if once and self.names[base] > 1:
            return
        name = base if self.names[base] == 1 else f"{base}_{self.names[base]}"
        reads = elements // devices if operation == "all_gather" else elements
        writes = math.ceil(elements / devices) if operation == "reduce_scatter" else elements
        attributes: dict[str, Any] = {"operation": operation, "devices": devices, "group": group}
        if operation == "all_reduce":
            attributes["implementation"] = implementation or self.kernel
        if overlap:
            attributes["overlap"] = True
        if "pass" in feeder.attributes or suffix:
            attributes["pass"] = "backward" if suffix else feeder.attributes["pass"]
        operands = (
            Operand("x", "input", ((("n", 1),),), fmt, reads if reads != elements else None),
            Operand("out", "output", ((("n", 1),),), fmt, writes if writes != elements else None),
        )
        op = Op(name, "collective", f"collective.{operation}", {"n": elements}, operands, {}, attributes, None, feeder.count, feeder.module)
        self.after[("<" if before else ">") + feeder.name].append(op)

    # -- result -----------------------------------------------------------------------------------------------------

    def _memory(self, original: Mapping[str, Op], graph: OpGraph, ops: Mapping[str, Op]) -> Memory:
        """Bytes of one rank: weights and caches exactly by op; activations in proportion to what the ops write."""
        d, whole = self.degrees, self.graph.memory
        counted, mine = 0.0, 0.0
        for name, op in original.items():
            if op.attributes.get("pass") in ("backward", "optimizer") or op.kind == "gather":
                continue
            counted += _weight_bytes(op) * op.count
            if name in ops:
                mine += _weight_bytes(ops[name]) * ops[name].count
        rest = max(whole.weights_bytes - counted, 0.0)  # embeddings
        factor = whole.weights_bytes / counted if counted > whole.weights_bytes > 0 else 1.0
        weights = mine * factor + (0.0 if d.pp > 1 else rest / (d.tp if self.embedding else 1))
        share = weights / whole.weights_bytes if whole.weights_bytes else 1.0
        step = [op for op in original.values() if op.attributes.get("pass") != "optimizer"]
        written = sum(op.bytes_written * op.count for op in step)
        kept = sum(ops[op.name].bytes_written * ops[op.name].count for op in step if op.name in ops)
        activations = whole.activations_bytes * (kept / written if written else 1.0)
        if self.training:
            activations *= min(d.pp, d.microbatches)  # 1F1B holds as many microbatches as stages
        return Memory(
            weights,
            whole.kv_cache_bytes * float(self.cache_share) / d.pp * self._head_share(original),
            activations,
            whole.optimizer_bytes * share,
            whole.gradient_bytes * share,
        )

    def _head_share(self, original: Mapping[str, Op]) -> float:
        """Share of the cache that one tensor-parallel rank keeps: its KV heads; a latent cache is kept whole."""
        if self.tensor is None or self.degrees.tp == 1:
            return 1.0
        total = mine = 0.0
        if not any(op.kind == "attention" for op in original.values()):  # written out as matmuls over batch x heads
            split = any(op.kind == "matmul" and op.name in self.tensor.share and op.dims.get("b", 1) > 1 for op in original.values())
            return 1.0 / self.degrees.tp if split else 1.0
        for op in original.values():
            if op.kind == "attention" and op.attributes.get("pass") != "backward":
                size = sum(op.elements(o) * o.number_format.bytes for o in op.operands if o.name in ("k", "v")) * op.count
                latent = op.attributes.get("v_head_dim", op.dims["e"]) != op.dims["e"]
                kept = 1.0 if latent or op.name not in self.tensor.share else max(1, op.dims["h"] // self.degrees.tp) / op.dims["h"]
                total, mine = total + size, mine + size * kept
        return mine / total if total else 1.0

    def _assemble(self, ops: Mapping[str, Op], memory: Memory) -> OpGraph:
        new: list[Op] = []
        edges: list[tuple[str, str, str]] = []
        tail: dict[str, str] = {}
        head: dict[str, str] = {}
        for name, op in ops.items():
            chain = [*self.after.get("<" + name, ()), op, *self.after.get(">" + name, ())]
            new += chain
            head[name], tail[name] = chain[0].name, chain[-1].name
            edges += [(a.name, b.name, "x") for a, b in pairwise(chain)]
        for producer, consumer, data in self.graph.nx.edges(data=True):
            if producer in ops and consumer in ops:
                edges.append((tail[producer], head[consumer], data["tensor"]))
        d = self.degrees
        parallel: dict[str, Any] = {**asdict(d), "devices": d.devices, "replicated": self.replicated}
        if self.sequence_parallel:
            parallel["sequence_parallel"] = True
        return OpGraph(
            self.graph.name, new, edges, memory=memory, tokens=self.graph.tokens, uncovered=self.graph.uncovered,
            meta={**self.graph.meta, "parallel": parallel},
        )  # fmt: skip


def _output(op: Op) -> Operand:
    return next(o for o in op.operands if o.role == "output")


def _weight_bytes(op: Op) -> float:
    """Bytes of the parameters of an op, of all its experts and not only of those that have tokens."""
    total = 0.0
    for o in op.operands:
        if o.role != "weight":
            continue
        experts = op.kind == "matmul" and o.name == "w" and "groups" in op.attributes
        total += (op.dims["n"] * op.dims["k"] * op.attributes["groups"] if experts else op.elements(o)) * o.number_format.bytes
    return total


def _rows(op: Op, dim: str, share: Fraction, names: tuple[str, ...]) -> Op:
    """Fewer rows, rounded up: experts share the tokens of a small batch unevenly."""
    if dim not in op.dims:
        return op
    real = Fraction(math.ceil(op.dims[dim] * share), op.dims[dim])
    return scaled(op, {dim: real}, dict.fromkeys(names, real))


def _upstream(graph: OpGraph, name: str, depth: int) -> set[str]:
    found, edge = set[str](), {name}
    for _ in range(depth):
        edge = {p for n in edge for p in graph.nx.predecessors(n)} - found
        found |= edge
    return found


def _with_batch(graph: OpGraph, parts: int) -> OpGraph:
    """The graph, recording the batch of one of `parts`."""
    batch = graph.meta.get("batch")
    meta = {**graph.meta, "batch": batch // parts} if isinstance(batch, int) else graph.meta
    return _replaced(graph, {}, meta)


def _replaced(graph: OpGraph, ops: Mapping[str, Op], meta: Mapping[str, Any] | None = None) -> OpGraph:
    return OpGraph(
        graph.name, [ops.get(op.name, op) for op in graph], [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)],
        memory=graph.memory, tokens=graph.tokens, uncovered=graph.uncovered, meta=meta or graph.meta,
    )  # fmt: skip
