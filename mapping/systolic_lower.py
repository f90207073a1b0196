"""From an `Op`, or a row of a SCALE-Sim topology file, to the (P, F, W) problem that a systolic array runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import MappingError, shown
from ..workloads.op import Op, Operand
from .systolic_layer import Layer, TensorAxis, conv, gemm


def lower(op: Op) -> Layer:
    """The problem that an op is.

    Dimensions of the input and the output are pixels, of the filter and the output filters, of both factors the
    window, of all three groups. The filter is the factor with the role ``weight``, else the second one. Sliding windows
    keep stride, dilation and padding. Where the output itself slides (transposed convolutions, gradients of inputs) the
    array computes the P x F products, and adding them up where they overlap is left to another engine. A product of
    routed experts is one group an expert, each with its share of the rows, rounded up.

    Raises
    ------
    MappingError
        The op is not one dense product of two operands, or has an extent of 0; names the op and the reason.
    """
    where = f"op {op.name!r} ({op.target})"
    if op.kind not in ("matmul", "conv"):
        raise MappingError(f"{where}: a systolic array runs ops of kind matmul and conv, found {op.kind!r}")
    if op.iterations is not None:
        points = math.prod(op.dims.values())
        raise MappingError(f"{where}: not a dense product: {op.iterations:.6g} of {points} points are executed")
    if op.body.get("mac") != 1.0:
        raise MappingError(f"{where}: expected one multiply-add a point, found {shown(dict(op.body))}")
    for dim, extent in op.dims.items():
        if extent < 1:
            raise MappingError(f"{where}: dimension {dim!r}: expected 1 or more, found {extent}")
    outs = [o for o in op.operands if o.role == "output"]
    if len(outs) != 1:
        raise MappingError(f"{where}: expected one output, found {len(outs)}")
    kept = _used(outs[0])
    factors = [o for o in op.operands if o.role != "output" and _used(o) - kept]
    if len(factors) != 2:
        names = ", ".join(o.name for o in factors) or "none"
        raise MappingError(f"{where}: expected two operands that are multiplied and summed, found {names}")
    left, right = factors if factors[0].role != "weight" or factors[1].role == "weight" else factors[::-1]
    if op.kind == "matmul" and op.attributes.get("distribution") == "balanced" and right.elements is not None:
        return _balanced_experts(op, right.elements)
    dims: dict[str, list[tuple[str, int]]] = {"p": [], "f": [], "w": [], "g": []}
    membership = {(True, False, True): "p", (False, True, True): "f", (True, True, False): "w", (True, True, True): "g"}
    for dim, extent in op.dims.items():
        inside = (dim in _used(left), dim in _used(right), dim in kept)
        space = membership.get(inside)
        if space is not None:
            dims[space].append((dim, extent))
        elif extent > 1:
            found = [o.name for o, there in zip((left, right, outs[0]), inside, strict=True) if there]
            raise MappingError(
                f"{where}: dimension {dim!r} of extent {extent} is only in {', '.join(found) or 'no operand'};"
                " a product has each dimension in two or three of its operands"
            )
    space_of = {d: space for space, members in dims.items() for d, _ in members}
    slides = any({"p", "f"} <= {space_of.get(d) for d, _ in axis} for axis in outs[0].projection)
    plain = tuple(TensorAxis(n, ((d, 1),)) for space in ("g", "p", "f") for d, n in dims[space])
    out = plain if slides else _axes(op, outs[0])
    stored = _input_axes(op, left, space_of, where)
    p, f, w, g = (tuple(dims[space]) for space in ("p", "f", "w", "g"))
    return Layer(op.name, p, f, w, g, stored, _axes(op, right), out)


def _used(operand: Operand) -> set[str]:
    return {dim for axis in operand.projection for dim, _ in axis}


def _axes(op: Op, operand: Operand) -> tuple[TensorAxis, ...]:
    return tuple(TensorAxis(n, axis) for n, axis in zip(op.extent(operand), operand.projection, strict=True))


def _balanced_experts(op: Op, weights: int) -> Layer:
    """A grouped product whose rows are routed evenly: each expert gets its share, rounded up."""
    m, n, k = (op.dims[d] for d in "mnk")
    experts = max(weights // (n * k), 1)
    return gemm(op.name, -(-m // experts), n, k, batch=experts)


def _input_axes(op: Op, operand: Operand, space_of: Mapping[str, str], where: str) -> tuple[TensorAxis, ...]:
    """Axes of the input with the padding put back: a projection starts at the first window, not at the tensor's edge.

    The stored size of a sliding axis is known up to the stride (the last columns may be left over); the number of
    stored elements settles it.
    """
    axes = _axes(op, operand)
    sliding = [i for i, axis in enumerate(operand.projection) if {space_of.get(d) for d, _ in axis} == {"p", "w"}]
    padding = op.attributes.get("padding")
    if not sliding or op.kind != "conv" or op.attributes.get("transposed"):
        return axes
    before: dict[int, int] = {}
    possible: dict[int, range] = {}
    for n, i in enumerate(sliding):
        (_, stride), (tap, dilation) = axes[i].strides
        if padding == "same":
            both = dilation * (op.dims[tap] - 1)
            before[i] = both // 2
        else:
            before[i] = 0 if padding in (None, "valid") else _entry(padding, n, where)
            both = 2 * before[i]
        least = max(axes[i].size - both, 1)
        possible[i] = range(least, least + stride)
    rest = math.prod(axis.size for i, axis in enumerate(axes) if i not in sliding)
    fits = (n for n in itertools.product(*(possible[i] for i in sliding)) if math.prod(n) * rest == operand.elements)
    sizes = next(fits, tuple(possible[i].start for i in sliding))
    stored = dict(zip(sliding, sizes, strict=True))
    return tuple(TensorAxis(stored.get(i, axis.size), axis.strides, -before.get(i, 0)) for i, axis in enumerate(axes))


def _entry(padding: object, n: int, where: str) -> int:
    values = padding if isinstance(padding, Sequence) and not isinstance(padding, str) else [padding]
    value = values[min(n, len(values) - 1)] if values else 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MappingError(f"{where}: padding: expected integers of 0 or more, 'same' or 'valid', found {shown(padding)}")
    return value


def read_topology(
    path: str | Path,
    *,
    kind: Literal["conv", "gemm"] | None = None,
    depthwise: Literal["split", "grouped"] = "split",
) -> list[Layer]:
    """Layers of a SCALE-Sim topology CSV.

    Columns of a convolution: name, input height and width, filter height and width, channels, filters, stride (and a
    stride along the width, where there is one more); of a GEMM: name, M, N, K. A sparsity column (``1:1``) may follow.
    There is no padding column; the last window may hang over the edge, as in SCALE-Sim.

    Parameters
    ----------
    kind
        Of all rows; None: a header that names M, N and K, or else three sizes in the first row, mean GEMM.
    depthwise
        Rows with ``DP`` in their names: ``"split"`` gives one layer a channel, as SCALE-Sim counts them, ``"grouped"``
        one layer with a group a channel.

    Raises
    ------
    MappingError
        A missing file, a row with too few columns or text in place of a size, a size that cannot be; names the file and
        the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MappingError(f"{path}: cannot be read as a topology file: {error}") from None
    rows = [(n, [cell.strip() for cell in line.split(",")]) for n, line in enumerate(lines, 1)]
    rows = [(n, cells) for n, cells in rows if any(cells)]
    if len(rows) < 2:
        raise MappingError(f"{path}: expected a header and at least one layer, found {len(rows)} lines")
    header = {cell.casefold() for cell in rows[0][1]}
    if kind is None:
        first = _sizes(rows[1][1], f"{path}, line {rows[1][0]}")
        kind = "gemm" if {"m", "n", "k"} <= header or len(first) == 3 else "conv"
    layers: list[Layer] = []
    for line, cells in rows[1:]:
        where = f"{path}, line {line}"
        try:
            layers += _row(cells[0], _sizes(cells, where), kind, depthwise, where)
        except MappingError as error:
            raise MappingError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return layers


def _sizes(cells: Sequence[str], where: str) -> list[int]:
    sizes = []
    for cell in cells[1:]:
        if ":" in cell:
            if cell.replace(" ", "") != "1:1":
                raise MappingError(f"{where}: sparsity {cell}: only dense layers (1:1) are modelled")
        elif cell:
            try:
                sizes.append(int(cell))
            except ValueError:
                raise MappingError(f"{where}: expected an integer, found {shown(cell)}") from None
    return sizes


def _row(name: str, sizes: Sequence[int], kind: str, depthwise: str, where: str) -> Iterable[Layer]:
    if kind == "gemm":
        if len(sizes) != 3:
            raise MappingError(f"{where}: a GEMM has 3 sizes (M, N, K), found {len(sizes)}")
        return [gemm(name, *sizes)]
    if len(sizes) not in (7, 8):
        raise MappingError(f"{where}: a convolution has 7 sizes (8 with a stride along the width), found {len(sizes)}")
    h, w, r, t, channels, filters, down = sizes[:7]
    stride = (down, sizes[-1])
    if "DP" not in name:
        return [conv(name, h, w, r, t, channels, filters, stride=stride, ceil_mode=True)]
    if depthwise == "grouped":
        wide = filters * channels
        return [conv(name, h, w, r, t, channels, wide, stride=stride, groups=channels, ceil_mode=True)]
    one = conv(name, h, w, r, t, 1, filters, stride=stride, ceil_mode=True)
    return [replace(one, name=f"{name}Channel_{i}") for i in range(channels)]
