"""The operator graph: Ops as nodes, tensors on the edges, saved and loaded as JSON without torch."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import networkx as nx

from ..errors import GraphError, PresiliconError, shown
from ..files import write_atomically
from .formats import by_name
from .op import Op, Operand

FORMAT_VERSION: Final = 1
_MAGIC: Final = "presilicon-graph"
#: Largest number that a graph file may hold; FLOPs and bytes derived from it stay finite.
_LARGEST: Final = 2.0**62


@dataclass(frozen=True)
class Memory:
    """Bytes that one step keeps, and the peak of what comes and goes.

    Attributes
    ----------
    weights_bytes, kv_cache_bytes, optimizer_bytes, gradient_bytes
        Kept for the whole step.
    activations_bytes
        Peak of the intermediate tensors.
    """

    weights_bytes: float = 0.0
    kv_cache_bytes: float = 0.0
    activations_bytes: float = 0.0
    optimizer_bytes: float = 0.0
    gradient_bytes: float = 0.0

    @property
    def peak_bytes(self) -> float:
        """Sum of all parts."""
        kept = self.weights_bytes + self.kv_cache_bytes + self.optimizer_bytes + self.gradient_bytes
        return kept + self.activations_bytes


@dataclass(frozen=True)
class Uncovered:
    """Ops that were traced but have no formula: their target, how often they run, and the bytes that they touch."""

    target: str
    count: int
    bytes_touched: float
    example: str = ""


def is_graph_file(name: str | Path) -> bool:
    """Whether a name is that of a saved graph (``.json`` or ``.json.gz``) rather than of a model or its ``config.json``."""
    return str(name).endswith((".json", ".json.gz")) and Path(name).name != "config.json"


class OpGraph:
    """Ops in program order, with their dependences.

    Parameters
    ----------
    name
        Name of the model.
    ops
        Ops in program order, names unique.
    edges
        ``(producer, consumer, tensor name)``.
    memory, tokens, uncovered, meta
        What the trace learned: memory by class, tokens that one step produces or processes, ops without a formula, and
        provenance (phase, batch, dtype, versions).

    Raises
    ------
    GraphError
        Two ops share a name, an edge names no op, or the graph has a cycle.
    """

    def __init__(
        self,
        name: str,
        ops: Iterable[Op],
        edges: Iterable[tuple[str, str, str]] = (),
        *,
        memory: Memory | None = None,
        tokens: float = 0.0,
        uncovered: Iterable[Uncovered] = (),
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.memory = memory or Memory()
        self.tokens = float(tokens)
        self.uncovered = tuple(uncovered)
        self.meta = dict(meta or {})
        self.nx: nx.DiGraph[str] = nx.DiGraph()
        for op in ops:
            if op.name in self.nx:
                raise GraphError(f"graph {name!r}: two ops are named {op.name!r}")
            self.nx.add_node(op.name, op=op)
        for producer, consumer, tensor in edges:
            for end in (producer, consumer):
                if end not in self.nx:
                    raise GraphError(f"graph {name!r}: an edge names op {end!r}, which does not exist")
            self.nx.add_edge(producer, consumer, tensor=tensor)
        if not nx.is_directed_acyclic_graph(self.nx):
            cycle = " -> ".join(u for u, _ in nx.find_cycle(self.nx))
            raise GraphError(f"graph {name!r} has a cycle: {cycle}")

    def __len__(self) -> int:
        return len(self.nx)

    def __iter__(self) -> Iterator[Op]:
        for _, data in self.nx.nodes(data=True):
            yield data["op"]

    def __getitem__(self, name: str) -> Op:
        return self.nx.nodes[name]["op"]

    @property
    def ops(self) -> list[Op]:
        """Ops in program order."""
        return list(self)

    @property
    def flops(self) -> float:
        """FLOPs of one step, repeats included."""
        return sum(op.flops * op.count for op in self)

    def __repr__(self) -> str:
        runs = sum(op.count for op in self)
        return f"OpGraph({self.name!r}: {len(self)} ops, {runs} runs, {self.flops:.4g} FLOP)"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "format": _MAGIC,
            "version": FORMAT_VERSION,
            "name": self.name,
            "tokens": self.tokens,
            "meta": self.meta,
            "memory": vars(self.memory),
            "uncovered": [vars(u) for u in self.uncovered],
            "ops": [_op_to_dict(op) for op in self],
            "edges": [[u, v, d["tensor"]] for u, v, d in self.nx.edges(data=True)],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "graph") -> OpGraph:
        """Inverse of `to_dict`; raises GraphError for anything that is not a graph of a known version."""
        if not isinstance(data, Mapping) or data.get("format") != _MAGIC:
            raise GraphError(f'{where}: not a presilicon graph (no "format": "{_MAGIC}")')
        version = data.get("version")
        if version != FORMAT_VERSION:
            raise GraphError(f"{where}: graph format version {version!r}; this release reads version {FORMAT_VERSION}")
        try:
            _check_numbers(data["memory"], "memory")
            _check_numbers({"tokens": data["tokens"]}, "graph")
            return cls(
                str(data["name"]),
                [_op_from_dict(d) for d in data["ops"]],
                [(u, v, t) for u, v, t in data["edges"]],
                memory=Memory(**data["memory"]),
                tokens=float(data["tokens"]),
                uncovered=[Uncovered(**u) for u in data["uncovered"]],
                meta=data["meta"],
            )
        except PresiliconError as error:
            raise GraphError(f"{where}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise GraphError(f"{where}: damaged graph: {type(error).__name__}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON (gzip if the name ends in .gz); the file appears whole or not at all."""
        target = Path(path)
        text = json.dumps(self.to_dict(), separators=(",", ":")) + "\n"
        payload = gzip.compress(text.encode(), mtime=0) if target.suffix == ".gz" else text.encode()
        write_atomically(target, payload)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> OpGraph:
        """Read what `save` wrote."""
        source = Path(path)
        try:
            payload = source.read_bytes()
            data = json.loads(gzip.decompress(payload) if source.suffix == ".gz" else payload)
        except OSError as error:
            raise GraphError(f"{source}: cannot be read: {error.strerror or error}") from None
        except (ValueError, EOFError, RecursionError, zlib.error) as error:
            raise GraphError(f"{source}: not a graph file, or cut short: {error}") from None
        return cls.from_dict(data, where=str(source))


def _op_to_dict(op: Op) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": op.name,
        "kind": op.kind,
        "target": op.target,
        "dims": dict(op.dims),
        "operands": [
            {
                "name": o.name,
                "role": o.role,
                "projection": [[list(t) for t in axis] for axis in o.projection],
                "format": o.number_format.name,
            }
            | ({} if o.elements is None else {"elements": o.elements})
            for o in op.operands
        ],
    }
    for key in ("body", "attributes"):
        if getattr(op, key):
            data[key] = dict(getattr(op, key))
    for key, default in (("iterations", None), ("count", 1), ("module", ""), ("source", "")):
        if getattr(op, key) != default:
            data[key] = getattr(op, key)
    return data


def _check_numbers(node: Any, where: str, smallest: float = 0.0) -> None:
    """GraphError unless every value of a mapping is a number of a size that the models can work with."""
    if not isinstance(node, Mapping):
        raise GraphError(f"{where}: expected a mapping of names to numbers, found {shown(node)}")
    for name, value in node.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not smallest <= value <= _LARGEST:
            raise GraphError(f"{where}.{name}: expected a number from {smallest:g} to 2^62, found {shown(value)}")


def _op_from_dict(data: Mapping[str, Any]) -> Op:
    where = f"op {data['name']!r}"
    for section in ("dims", "body"):
        _check_numbers(data.get(section, {}), f"{where}: {section}")
    _check_numbers({"iterations": data.get("iterations") or 0, "count": data.get("count", 1)}, where)
    for operand in data["operands"]:
        _check_numbers({"elements": operand.get("elements") or 0}, f"{where}: {operand['name']}")
        _check_numbers(
            {str(d): s for axis in operand["projection"] for d, s in axis}, f"{where}: {operand['name']}", -_LARGEST
        )
    operands = tuple(
        Operand(
            o["name"],
            o["role"],
            tuple(tuple((str(d), int(s)) for d, s in axis) for axis in o["projection"]),
            by_name(o["format"]),
            o.get("elements"),
        )
        for o in data["operands"]
    )
    rest = {k: v for k, v in data.items() if k != "operands"}
    return Op(operands=operands, **rest)
