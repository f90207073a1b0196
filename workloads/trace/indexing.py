"""Formulas of gathers and scatters: dimensions n (rows) and c (their width); the table counts what is touched."""

from __future__ import annotations

import math
from typing import Any

from .registry import formula
from .values import Call, Draft, Port, Value, read, write


def gather(
    table: Value,
    index: list[Value],
    out: Value,
    width: int,
    *,
    scatter: bool = False,
    sources: list[Value] | None = None,
    attributes: dict[str, Any] | None = None,
) -> Draft:
    """Rows of `table` picked by `index` into `out`, or, with `scatter`, `sources` written (or added) into rows of
    `out`.
    """
    touched = max((v.numel for v in sources or []), default=out.numel) if scatter else out.numel
    rows = touched // max(width, 1)
    ports: list[Port] = []
    if scatter:
        ports += [
            read(f"x{i}", v, "n c", None if v.stored == rows * width else v.stored) for i, v in enumerate(sources or [])
        ]
    else:
        ports.append(
            read("table", table, "n c", min(rows * width, table.stored) if table.stored < rows * width else None)
        )
    ports += [
        read(f"index{i}" if i else "index", v, "n", None if v.stored == rows else v.stored) for i, v in enumerate(index)
    ]
    ports.append(write(out, "n c", elements=rows * width if scatter else None))
    return Draft(
        "gather", {"n": rows, "c": width}, ports, {}, ({"scatter": True} if scatter else {}) | (attributes or {})
    )


@formula("aten.embedding")
def embedding(call: Call) -> Draft:
    """Rows of a weight."""
    weight = call["weight"]
    return gather(weight, [call["indices"]], call.out, weight.shape[-1])


@formula("aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(call: Call) -> Draft:
    """Rows of a weight, summed by bag."""
    weight, indices = call["weight"], call["indices"]
    width = weight.shape[-1]
    ports = [read("table", weight, "n c"), read("index", indices, "n"), write(call.out, "n c", elements=call.out.numel)]
    return Draft("gather", {"n": indices.numel, "c": width}, ports, {"add": 1.0})


@formula("aten.index_select")
def index_select(call: Call) -> Draft:
    """Slices along one axis."""
    x, axis = call["self"], call["dim"]
    return gather(x, [call["index"]], call.out, math.prod(x.shape[axis % len(x.shape) + 1 :]) if x.shape else 1)


@formula("aten.gather", "aten.take_along_dim", "aten.take")
def gather_elements(call: Call) -> Draft:
    """Single elements."""
    return gather(call["self"], [call.get("index", call.get("indices"))], call.out, 1)


@formula("aten.index", "aten._unsafe_index", "aten._index_put_impl")
def index(call: Call) -> Draft:
    """Advanced indexing; the axes after the last index are the row."""
    x, picks = call["self"], call["indices"]
    return gather(x, [v for v in picks if isinstance(v, Value)], call.out, _width(x, picks))


def _width(x: Value, picks: list[Value | None]) -> int:
    last = max((i for i, v in enumerate(picks) if v is not None), default=-1)
    boolean = next((v for v in picks if isinstance(v, Value) and v.number_format == "bool"), None)
    skip = last + (len(boolean.shape) if boolean is not None else 1)
    return math.prod(x.shape[skip:])


@formula("""
    aten.index_put aten.index_put_ aten._unsafe_index_put aten._index_put_impl_
""")
def index_put(call: Call) -> Draft:
    """Scatter by advanced indices; with accumulate the indices are sorted first."""
    x, picks, source = call["self"], call["indices"], call["values"]
    out = x if call.mutated else call.out
    attributes = {"launches": 4} if call.get("accumulate") else {}
    indices = [v for v in picks if isinstance(v, Value)]
    width = _width(x, picks)
    draft = gather(x, indices, out, width, scatter=True, sources=[source], attributes=attributes)
    rows = max((v.numel for v in indices), default=1)
    if indices and indices[0].number_format != "bool":
        touched = max(rows * width, source.numel)
        draft.dims["n"] = touched // max(width, 1)
        draft.ports[-1].elements = touched
        draft.ports[0].elements = source.stored
    return draft


@formula("""
    aten.index_copy aten.index_copy_ aten.index_add aten.index_add_ aten.index_reduce aten.index_reduce_
    aten.index_fill aten.index_fill_ aten.scatter aten.scatter_ aten.scatter_add aten.scatter_add_
    aten.scatter_reduce aten.scatter_reduce_ aten.masked_scatter aten.masked_scatter_ aten.put_ aten.put
""")
def scatter(call: Call) -> list[Draft]:
    """Rows or elements written into a tensor; the out-of-place forms copy it first."""
    x = call["self"]
    source = call.get("src", call.get("source", call.get("tensor")))
    index_value = call.get("index", call.get("mask"))
    out = x if call.mutated else call.out
    axis = call.get("dim", 0) or 0
    by_row = "index_" in call.packet and x.shape
    width = math.prod(x.shape[axis % len(x.shape) + 1 :]) if by_row else 1
    sources = [source] if isinstance(source, Value) and source.numel else []
    draft = gather(
        x, [index_value] if isinstance(index_value, Value) else [], out, width, scatter=True, sources=sources
    )
    if not sources and isinstance(index_value, Value):
        draft.dims["n"] = index_value.numel
        draft.ports[-1].elements = index_value.numel * width
    if "add" in call.packet or "reduce" in call.packet:
        draft.body["add"] = 1.0
    if call.mutated:
        return [draft]
    return [Draft("copy", {"n": x.numel}, [read("x0", x, "n"), write(out, "n")], suffix="base"), draft]


@formula("""
    aten.masked_select aten.nonzero aten.argwhere aten.nonzero_numpy aten.nonzero_static
""")
def compact(call: Call) -> Draft:
    """Count, prefix sum, write: several kernels, and the size returns to the host."""
    x = call.values[0]
    ports = [read(f"x{i}", v, "n", None if v.stored == x.numel else v.stored) for i, v in enumerate(call.values)]
    ports.append(write(call.out, "n", elements=call.out.numel))
    return Draft("elementwise", {"n": x.numel}, ports, {"int": 2.0}, {"launches": 3})


@formula("aten.one_hot")
def one_hot(call: Call) -> list[Draft]:
    """A fill and a scatter of ones."""
    index_value, out = call["self"], call.out
    return [
        Draft("copy", {"n": out.numel}, [write(out, "n")], suffix="zeros"),
        gather(out, [index_value], out, 1, scatter=True, sources=[index_value]),
    ]
