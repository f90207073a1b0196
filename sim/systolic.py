"""Per-cycle trace of a systolic array: which address enters which row or column at each cycle, and counts by walking.

A layer is cut into folds as in `presilicon.mapping.systolic`. Each fold asks for its operands in *streams*: port x of a
stream (a row or a column of the array) sees its t-th address at cycle start + skew * x + t. The schedule says when each
stream starts, fold after fold; `walk` visits every address of every stream and counts; `demand` lays them out as one
row a cycle, one column a port. Nothing here uses the closed forms, and tests hold the two equal.

Row stationary has its own trace in `systolic_rows`; `walk` and `demand` lead there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from ..arch.array import SystolicArray
from ..errors import MappingError, UnknownNameError, shown
from ..mapping.systolic_layer import SPACES, Ints, Layer, Role, Space

Engine = Literal["auto", "numpy", "numba"]
ENGINES = ("auto", "numpy", "numba")
#: Addresses beyond which compiling the walk (one to two seconds, once a process) pays.
COMPILE_ABOVE = 200_000_000
#: Addresses that one NumPy step holds in memory at once.
CHUNK = 1 << 20
#: Addresses that `demand` lays out at most (4 GiB).
MOST_DEMAND = 1 << 29


@dataclass(frozen=True)
class Walk:
    """What a walk over every cycle counted.

    Attributes
    ----------
    cycles, macs, folds, ifmap_reads, filter_reads, ofmap_writes, ofmap_reads
        As in `presilicon.mapping.systolic.SystolicCounts`.
    signatures
        For ifmap, filter and ofmap: the sum of address x (cycle + 1) modulo 2^64, by which two traces can be compared.
    """

    cycles: int
    macs: int
    folds: int
    ifmap_reads: int
    filter_reads: int
    ofmap_writes: int
    ofmap_reads: int
    signatures: tuple[int, int, int]


@dataclass(frozen=True)
class Demand:
    """Addresses by cycle and port, -1 where a port is idle or the position is padding: int64 of ``(cycles, ports)``.

    Ports are rows or columns of the array (of row stationary's input: the PE where it enters, row-major). `ofmap` is
    written; `ofmap_reads` is what is read to be added to it in the same cycle.
    """

    first_cycle: int
    ifmap: Ints
    filter: Ints
    ofmap: Ints
    ofmap_reads: Ints


@dataclass(frozen=True)
class Schedule:
    """Folds in the order in which they run; arrays with one entry a fold.

    Attributes
    ----------
    group
        Independent problem that the fold belongs to.
    row, col
        First index along the array's rows and columns.
    rows, cols
        Rows and columns of the array that it uses.
    accumulates
        Whether its results are added to those of an earlier fold.
    load, start, end
        Cycle in which the stationary operand starts to load, in which row 0 and column 0 stream their first operand,
        and after the last result left.
    """

    group: Ints
    row: Ints
    col: Ints
    rows: Ints
    cols: Ints
    accumulates: Ints
    load: Ints
    start: Ints
    end: Ints


@dataclass(frozen=True)
class Streams:
    """The streams of one operand, one a fold: port x of fold n sees element t at cycle start[n] + skew * x + t.

    The address is that of index ``first_x[n] + x`` of the space `x_space` and ``first_t[n] + step * t`` of `t_space`.
    """

    role: Role
    x_space: Space
    t_space: Space
    ports: int
    skew: int
    step: int
    start: Ints
    used: Ints
    length: Ints
    first_x: Ints
    first_t: Ints


#: Along the rows, along the columns, streamed.
_LAID: dict[str, tuple[Space, Space, Space]] = {"os": ("p", "f", "w"), "ws": ("w", "f", "p"), "is": ("w", "p", "f")}


def schedule(layer: Layer, array: SystolicArray) -> Schedule:
    """When each fold of a layer runs (os, ws, is).

    Raises
    ------
    MappingError
        Row stationary, which has no such folds.
    """
    if array.dataflow not in _LAID:
        raise MappingError(f"layer {layer.name!r}: {array.dataflow!r} folds are not P, F, W folds; use walk or demand")
    options, stationary = array.options, array.dataflow != "os"
    down, across, t = (getattr(layer, space) for space in _LAID[array.dataflow])
    out = array.rows - 1 if stationary or options.drain else 0
    folds: list[tuple[int, ...]] = []
    free = end = 0
    for group in range(layer.g):
        for col in range(0, across, array.cols):
            c = min(array.cols, across - col)
            for row in range(0, down, array.rows):
                r = min(array.rows, down - row)
                # Rows and columns whose time the fold takes.
                long, wide = (r, c) if options.edge_folds == "used" else (array.rows, array.cols)
                begin = free if options.overlap else end
                if stationary:
                    # The load goes into the second register of each PE while the fold before streams.
                    start = max(begin, folds[-1][7] + long if folds and options.overlap else begin + long)
                    load, free = start - long, start + t
                    end = start + (t - 1) + out + (wide - 1) + 1
                else:
                    # The next fold's results must not meet those that still leave through the column.
                    start = load = begin
                    free = start + max(t, long)
                    end = start + (t - 1) + out + (long - 1) + (wide - 1) + 1
                folds.append((group, row, col, r, c, int(stationary and row > 0), load, start, end))
    return Schedule(*np.array(folds, dtype=np.int64).T)


def streams(layer: Layer, array: SystolicArray, plan: Schedule) -> tuple[Streams, Streams, Streams]:
    """The streams of ifmap, filter and ofmap under a schedule."""
    options = array.options
    down, across, along = _LAID[array.dataflow]
    zero = np.zeros_like(plan.start)
    t = zero + getattr(layer, along)
    # Where a partly filled fold takes the time of a full one, its idle rows come first.
    idle = zero if options.edge_folds == "used" else array.rows - plan.rows
    last = plan.row + plan.rows - 1
    if array.dataflow == "os":
        out = plan.start + t - 1 + (array.rows - 1 if options.drain else 0) + idle
        return (
            Streams("ifmap", down, along, array.rows, 1, 1, plan.start, plan.rows, t, plan.row, zero),
            Streams("filter", across, along, array.cols, 1, 1, plan.start, plan.cols, t, plan.col, zero),
            Streams("ofmap", across, down, array.cols, 1, -1, out, plan.cols, plan.rows, plan.col, last),
        )
    held: Role = "filter" if array.dataflow == "ws" else "ifmap"
    moving: Role = "ifmap" if array.dataflow == "ws" else "filter"
    skew, load = int(options.overlap), plan.load + idle
    loaded = Streams(held, across, down, array.cols, skew, -1, load, plan.cols, plan.rows, plan.col, last)
    streamed = Streams(moving, down, along, array.rows, 1, 1, plan.start, plan.rows, t, plan.row, zero)
    out = plan.start + array.rows - 1
    written = Streams("ofmap", across, along, array.cols, 1, 1, out, plan.cols, t, plan.col, zero)
    return (streamed, loaded, written) if held == "filter" else (loaded, streamed, written)


def walk(layer: Layer, array: SystolicArray, engine: Engine = "auto") -> Walk:
    """Visit every address of every cycle and count.

    Parameters
    ----------
    engine
        ``"numba"`` compiles the walk, ``"numpy"`` does without, ``"auto"`` compiles when numba is there and it pays.

    Raises
    ------
    UnknownNameError
        No such engine.
    MappingError
        ``engine="numba"`` without numba.

    Examples
    --------
    >>> from presilicon.arch.array import SystolicArray
    >>> from presilicon.mapping.systolic_layer import gemm
    >>> walk(gemm("tiny", 2, 2, 3), SystolicArray(2, 2, "os")).cycles
    6
    """
    if engine not in ENGINES:
        raise UnknownNameError("engine", str(engine), ENGINES)
    if array.dataflow == "rs":
        from .systolic_rows import walk_rows

        return walk_rows(layer, array)
    options = array.options
    plan = schedule(layer, array)
    traces = streams(layer, array, plan)
    visit = _visitor(engine, sum(int((s.used * s.length).sum()) for s in traces))
    seen, signatures = {}, []
    for stream in traces:
        active, stored, signature = visit(stream, plan, _tables(layer, stream, options.offsets[_index(stream)]))
        seen[stream.role] = active if options.padding_reads else stored
        signatures.append(signature)
    extra = (array.rows + array.cols) * plan.start.size if options.extra_writes and array.dataflow == "os" else 0
    output = traces[2]
    again = int((output.used * output.length)[plan.accumulates == 1].sum()) if options.read_back else 0
    return Walk(
        int(plan.end.max()) - int(options.last_cycle),
        int((plan.rows * plan.cols).sum()) * getattr(layer, _LAID[array.dataflow][2]),
        plan.start.size,
        int(seen["ifmap"].sum()),
        int(seen["filter"].sum()),
        int(seen["ofmap"].sum()) + extra,
        again,
        (signatures[0], signatures[1], signatures[2]),
    )


def demand(layer: Layer, array: SystolicArray, start: int = 0, stop: int | None = None) -> Demand:
    """Addresses of cycles `start` to `stop` (None: to the end), one row a cycle, one column a port.

    Raises
    ------
    MappingError
        An empty range, or one that needs more than 4 GiB.

    Examples
    --------
    >>> from presilicon.arch.array import SystolicArray
    >>> from presilicon.mapping.systolic_layer import gemm
    >>> demand(gemm("tiny", 2, 2, 3), SystolicArray(2, 2, "os")).ifmap
    array([[ 0, -1],
           [ 1,  3],
           [ 2,  4],
           [-1,  5],
           [-1, -1],
           [-1, -1]])
    """
    if array.dataflow == "rs":
        from .systolic_rows import demand_rows

        return demand_rows(layer, array, start, stop)
    plan = schedule(layer, array)
    stop = check_range(layer, start, stop, int(plan.end.max()), array.rows + 3 * array.cols)
    found: dict[str, Ints] = {}
    for stream in streams(layer, array, plan):
        found[stream.role] = _lay_out(layer, array, stream, plan, start, stop, None)
        if stream.role == "ofmap":
            only = plan.accumulates == 1 if array.options.read_back else np.zeros_like(plan.accumulates, dtype=bool)
            found["ofmap_reads"] = _lay_out(layer, array, stream, plan, start, stop, only)
    return Demand(start, **found)


def check_range(layer: Layer, start: int, stop: int | None, cycles: int, ports: int) -> int:
    """The end of a range of cycles, checked against the length of the trace and the memory that it takes."""
    stop = cycles if stop is None else min(stop, cycles)
    if not 0 <= start < stop:
        raise MappingError(f"layer {layer.name!r}: cycles {start} to {stop}: expected a range within 0 to {cycles}")
    if (stop - start) * ports > MOST_DEMAND:
        most = MOST_DEMAND // ports
        raise MappingError(f"layer {layer.name!r}: {stop - start} cycles of {ports} ports: at most {most} cycles at once")
    return stop


def _index(stream: Streams) -> int:
    return ("ifmap", "filter", "ofmap").index(stream.role)


@dataclass(frozen=True)
class _Tables:
    """Shares of port, element and group in the address, and in the coordinates that may be padding (axes x indices)."""

    x: Ints
    t: Ints
    g: Ints
    at_x: Ints
    at_t: Ints
    at_g: Ints
    sizes: Ints


def _tables(layer: Layer, stream: Streams, offset: int) -> _Tables:
    role = stream.role
    if {stream.x_space, stream.t_space} != set(SPACES[role]):
        raise MappingError(f"{role}: addressed by {SPACES[role]}, found {shown((stream.x_space, stream.t_space))}")
    spaces: tuple[Space, Space, Space] = (stream.x_space, stream.t_space, "g")
    outside = layer.padded_axes(role)
    sizes = np.array([axis.size for axis, out in zip(layer.axes(role), outside, strict=True) if out], dtype=np.int64)
    shares = [layer.addresses(role, space, offset) for space in spaces]
    at = [
        np.array(layer.coordinates(role, space), dtype=np.int64).reshape(sizes.size, share.size)
        for space, share in zip(spaces, shares, strict=True)
    ]
    return _Tables(shares[0], shares[1], shares[2], at[0], at[1], at[2], sizes)


def _block(stream: Streams, tables: _Tables, plan: Schedule, n: int, lo: int, hi: int) -> tuple[Ints, Ints]:
    """Addresses (-1: padding) and cycles of elements lo to hi of one stream: shape (ports, elements)."""
    x = np.arange(int(stream.first_x[n]), int(stream.first_x[n] + stream.used[n]))
    element = np.arange(lo, hi)
    t = int(stream.first_t[n]) + stream.step * element
    g = int(plan.group[n])
    addresses = np.add.outer(tables.x[x] + tables.g[g], tables.t[t])
    for axis, size in enumerate(tables.sizes):
        at = np.add.outer(tables.at_x[axis, x] + tables.at_g[axis, g], tables.at_t[axis, t])
        addresses[(at < 0) | (at >= size)] = -1
    cycles = np.add.outer(int(stream.start[n]) + stream.skew * np.arange(x.size), element)
    return addresses, cycles


def _lay_out(layer: Layer, array: SystolicArray, stream: Streams, plan: Schedule, start: int, stop: int, only: Any) -> Ints:
    tables = _tables(layer, stream, array.options.offsets[_index(stream)])
    out = np.full((stop - start, stream.ports), -1, dtype=np.int64)
    last = stream.start + stream.skew * (stream.used - 1) + stream.length
    wanted = (stream.start < stop) & (last > start)
    for n in np.flatnonzero(wanted if only is None else wanted & only):
        lo = max(0, start - int(stream.start[n]) - stream.skew * (int(stream.used[n]) - 1))
        hi = min(int(stream.length[n]), stop - int(stream.start[n]))
        addresses, cycles = _block(stream, tables, plan, int(n), lo, hi)
        port = np.broadcast_to(np.arange(addresses.shape[0])[:, None], addresses.shape)
        inside = (cycles >= start) & (cycles < stop)
        out[cycles[inside] - start, port[inside]] = addresses[inside]
    return out


_Visit = Callable[[Streams, Schedule, _Tables], tuple[Ints, Ints, int]]


def _visitor(engine: Engine, addresses: int) -> _Visit:
    compiled = _compiled.cache_info().currsize > 0
    if engine == "numpy" or (engine == "auto" and addresses < COMPILE_ABOVE and not compiled):
        return _visit_numpy
    kernel = _compiled()
    if kernel is None:
        if engine == "numba":
            raise MappingError("engine 'numba': numba is not installed (pip install numba); 'numpy' does without")
        return _visit_numpy
    return lambda stream, plan, tables: _visit_numba(kernel, stream, plan, tables)


def _visit_numpy(stream: Streams, plan: Schedule, tables: _Tables) -> tuple[Ints, Ints, int]:
    active, stored = np.zeros_like(plan.start), np.zeros_like(plan.start)
    signature = 0
    for n in range(plan.start.size):
        step = max(1, CHUNK // int(stream.used[n]))
        for lo in range(0, int(stream.length[n]), step):
            addresses, cycles = _block(stream, tables, plan, n, lo, min(lo + step, int(stream.length[n])))
            real = addresses >= 0
            active[n] += addresses.size
            stored[n] += np.count_nonzero(real)
            products = np.where(real, addresses, 0).astype(np.uint64).ravel() @ (cycles + 1).astype(np.uint64).ravel()
            signature = (signature + int(products)) % 2**64
    return active, stored, signature


def _visit_numba(kernel: Any, stream: Streams, plan: Schedule, tables: _Tables) -> tuple[Ints, Ints, int]:
    rows = np.stack([stream.start, stream.used, stream.length, stream.first_x, stream.first_t, plan.group], axis=1)
    parts = (tables.x, tables.t, tables.g, tables.at_x, tables.at_t, tables.at_g, tables.sizes)
    active, stored, signature = kernel(rows, stream.skew, stream.step, *parts)
    return active, stored, int(signature) % 2**64


@lru_cache(maxsize=1)
def _compiled() -> Any:
    try:
        from numba import njit
    except ImportError:
        return None

    @njit
    def visit(rows, skew, step, tx, tt, tg, at_x, at_t, at_g, sizes):  # type: ignore[no-untyped-def]
        active = np.zeros(rows.shape[0], dtype=np.int64)
        stored = np.zeros(rows.shape[0], dtype=np.int64)
        signature = np.int64(0)
        for n in range(rows.shape[0]):
            start, used, length, first_x, first_t, g = rows[n]
            for cycle in range(start, start + skew * (used - 1) + length):
                # Ports that are fed in this cycle: element cycle - start - skew * port lies within the stream.
                low = max(0, cycle - start - length + 1) if skew else 0
                high = min(used, cycle - start + 1) if skew else used
                total = np.int64(0)
                if sizes.size == 0:
                    for x in range(low, high):
                        total += tx[first_x + x] + tt[first_t + step * (cycle - start - skew * x)]
                    total += tg[g] * (high - low)
                    stored[n] += high - low
                else:
                    for x in range(low, high):
                        i, j = first_x + x, first_t + step * (cycle - start - skew * x)
                        inside = True
                        for a in range(sizes.size):
                            at = at_x[a, i] + at_t[a, j] + at_g[a, g]
                            inside &= (at >= 0) & (at < sizes[a])
                        if inside:
                            total += tx[i] + tt[j] + tg[g]
                            stored[n] += 1
                active[n] += high - low
                signature += total * (cycle + 1)
        return active, stored, signature

    return visit
