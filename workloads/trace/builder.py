"""From a recorded `Program` to an `OpGraph`: formulas applied, names given, dependences and memory found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Set
from typing import Any

from ...errors import UncoveredOpError
from ..formats import by_name
from ..graph import Memory, OpGraph, Uncovered
from ..op import Op, Operand
from .liveness import activation_peak
from .registry import lookup, nearest
from .values import Call, Draft, Program, Value, read, write


def build(
    program: Program,
    name: str,
    *,
    tokens: float = 0.0,
    meta: Mapping[str, Any] | None = None,
    strict: bool = False,
    extra: tuple[Op, ...] = (),
    optimizer_bytes: float = 0.0,
    gradient_bytes: float = 0.0,
    kept: Set[int] = frozenset(),
) -> OpGraph:
    """Turn a traced step into a graph of ops, one per kernel (or small fixed group of kernels) that PyTorch launches.

    Parameters
    ----------
    extra
        Ops to add at the end (the optimizer's); each depends on all ops that nothing else depends on.
    kept
        Storages that are accounted elsewhere than in the activations (gradients).

    Raises
    ------
    UncoveredOpError
        With `strict`, when any operator has no formula; names all of them.
    """
    assembly = _Assembly()
    for call in program.calls:
        assembly.add(call)
    ops, edges = assembly.ops, assembly.edges
    uncovered = assembly.uncovered()
    if strict and uncovered:
        raise UncoveredOpError(_complaint(name, uncovered))
    if extra:
        sources = {u for u, _ in edges}
        sinks = [op.name for op in ops if op.name not in sources]
        for op in extra:
            edges |= {(sink, op.name): ["x1"] for sink in sinks}
        ops = [*ops, *extra]
    weights = {v.storage: program.storage_bytes[v.storage] for v in program.inputs if v.role == "weight"}
    caches = {
        v.storage: program.storage_bytes[v.storage]
        for v in (*program.inputs, *program.cache)
        if v.role == "cache" or v in program.cache
    }
    memory = Memory(
        weights_bytes=float(sum(weights.values())),
        kv_cache_bytes=float(sum(caches.values())),
        activations_bytes=float(activation_peak(program, kept | set(caches))),
        optimizer_bytes=optimizer_bytes,
        gradient_bytes=gradient_bytes,
    )
    labelled = [(u, v, ",".join(dict.fromkeys(tensors))) for (u, v), tensors in edges.items()]
    return OpGraph(name, ops, labelled, memory=memory, tokens=tokens, uncovered=uncovered, meta=meta)


def _complaint(name: str, uncovered: list[Uncovered]) -> str:
    parts = []
    for item in uncovered:
        near = nearest(item.target.rsplit(".", 1)[0])
        hint = f" (nearest with a formula: {', '.join(near)})" if near else ""
        parts.append(f"{item.target} x{item.count} at {item.example}{hint}")
    return f"{name}: {len(uncovered)} operator(s) without a formula: " + "; ".join(parts)


class _Assembly:
    """Ops and edges as they grow, call by call."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.edges: dict[tuple[str, str], list[str]] = {}
        self._writer: dict[int, str] = {}
        self._names: Counter[str] = Counter()
        self._unknown: dict[str, list[tuple[Op, str]]] = defaultdict(list)

    def add(self, call: Call) -> None:
        if call.is_alias:
            return
        function = lookup(call)
        note = ""
        drafts: list[Draft] = []
        if function is not None:
            try:
                made = function(call)
                drafts = [made] if isinstance(made, Draft) else list(made or ())
            except Exception as error:
                function, note = None, f"; its formula failed: {type(error).__name__}: {error}"
        if function is None:
            drafts = [unknown(call)]
        if not drafts:
            self._forward(call)
            return
        for draft in drafts:
            if any(extent == 0 for extent in draft.dims.values()):
                self._forward(call)
                continue  # an empty tensor: nothing is launched
            op = self._finish(call, draft)
            if function is None:
                self._unknown[call.target].append(
                    (op, f"{call.module or 'top level'} ({call.source or 'unknown line'}){note}")
                )

    def _forward(self, call: Call) -> None:
        """Let dependences pass through an operator that costs nothing."""
        writers = [self._writer[v.storage] for v in call.values if v.storage in self._writer]
        for value in call.outputs:
            if writers:
                self._writer.setdefault(value.storage, writers[-1])

    def _finish(self, call: Call, draft: Draft) -> Op:
        short = call.packet.split(".", 1)[-1].strip("_") + (f".{draft.suffix}" if draft.suffix else "")
        base = ".".join(part for part in ("backward" if call.phase == "backward" else "", call.module, short) if part)
        self._names[base] += 1
        name = base if self._names[base] == 1 else f"{base}_{self._names[base]}"
        operands = tuple(
            Operand(
                port.name,
                "output" if port.output else port.role or port.value.role,
                port.axes,
                by_name(port.value.number_format),
                None if port.elements is None else int(port.elements),
            )
            for port in draft.ports
        )
        attributes = dict(draft.attributes)
        if call.phase == "backward":
            attributes["pass"] = "backward"
        op = Op(
            name,
            draft.kind,
            call.target,
            draft.dims,
            operands,
            draft.body,
            attributes,
            draft.iterations,
            1,
            call.module,
            call.source,
        )
        for port in draft.ports:
            before = self._writer.get(port.value.storage)
            if before is not None and before != name:
                self.edges.setdefault((before, name), []).append(port.name)
        for port in draft.ports:
            if port.output:
                self._writer[port.value.storage] = name
        for label in call.mutated:  # written arguments that the formula did not list
            value = call.arguments.get(label)
            if isinstance(value, Value):
                self._writer[value.storage] = name
        for value in call.outputs:
            self._writer.setdefault(value.storage, name)
        self.ops.append(op)
        return op

    def uncovered(self) -> list[Uncovered]:
        """One entry per target without a formula."""
        return [
            Uncovered(target, len(found), sum(op.bytes_read + op.bytes_written for op, _ in found), found[0][1])
            for target, found in sorted(self._unknown.items())
        ]


def unknown(call: Call) -> Draft:
    """An operator without a formula: its tensors are read and written once, its arithmetic is not known."""
    n = max([v.numel for v in (*call.outputs, *call.values)], default=1)
    ports = [read(f"x{i}", v, "n", v.stored) for i, v in enumerate(call.values)]
    ports += [write(v, "n", "out" if i == 0 else f"out{i}", v.numel) for i, v in enumerate(call.outputs)]
    return Draft("unknown", {"n": max(n, 1)}, ports)
