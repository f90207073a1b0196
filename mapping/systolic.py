"""Closed forms of systolic arrays: cycles, SRAM accesses, folds and utilisations of many layers at once.

A layer of P pixels, F filters and a window of W (`systolic_layer`) is laid over R rows and C columns:

==============  ==============  ==============  ================
dataflow        along the rows  along the cols  streamed, T long
==============  ==============  ==============  ================
``os``          P               F               W
``ws``          W               F               P
``is``          W               P               F
``rs``          channel, tap r  b, output row   F x pixels x taps
==============  ==============  ==============  ================

What does not fit is cut into folds, columns outermost, rows inside; r and c are the rows and columns that a fold uses.
Row i gets its operands i cycles after row 0, column j its own j cycles after column 0. One fold takes

* ``os``: T + r + c - 2 until its last PE is done; a column's results leave through the bottom edge, r of them one by
  one, which ends at T + R + r + c - 3;
* ``ws``, ``is``: r cycles to load the stationary operand, then T + R + c - 2 until the last sum has left at the bottom;
* ``rs``: T + R - 1; inputs and filter rows come by multicast, so that columns have no skew.

With `overlap`, the next fold streams max(T, r) cycles behind: of ``os`` r is what drains, of ``ws`` and ``is`` what is
loaded meanwhile. ``rs`` follows T behind. The formulas are those of Samajdar et al., ISPASS 2020 (SCALE-Sim), with the
drain, the edge folds and the overlap worked out from the register transfers; ``rs`` follows Chen et al., ISCA 2016
(Eyeriss). The trace in `presilicon.sim.systolic` walks the same schedule cycle by cycle and must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from ..arch.array import PHYSICAL, SystolicArray, SystolicOptions
from ..errors import MappingError, shown
from .systolic_layer import Ints, Layer, Sliding

Floats = npt.NDArray[np.float64]
Sizes = npt.ArrayLike


@dataclass(frozen=True)
class SystolicCounts:
    """Counts of layers on arrays; every field is an array of one shape.

    Attributes
    ----------
    macs
        Multiply-adds.
    folds
        Parts into which the layer is cut, all groups.
    cycles
        From the first operand in to the last result out.
    ifmap_reads, filter_reads, ofmap_writes, ofmap_reads
        SRAM accesses in elements; `ofmap_reads` are partial sums read back.
    mapping_efficiency
        Share of the PEs that have work, mean over the folds.
    compute_utilisation
        Share of PE-cycles that do a multiply-add; under the ``scalesim`` preset the mean over the folds, each alone.
    overall_utilisation
        Multiply-adds over PEs x cycles.
    """

    macs: Ints
    folds: Ints
    cycles: Ints
    ifmap_reads: Ints
    filter_reads: Ints
    ofmap_writes: Ints
    ofmap_reads: Ints
    mapping_efficiency: Floats
    compute_utilisation: Floats
    overall_utilisation: Floats

    def row(self, i: int) -> dict[str, int | float]:
        """The counts of one layer, by field."""
        return {field.name: getattr(self, field.name)[i].item() for field in fields(self)}


def estimate(layers: Sequence[Layer], array: SystolicArray) -> SystolicCounts:
    """Counts of every layer on one array: fields of shape ``(len(layers),)``.

    Examples
    --------
    >>> from presilicon.arch.array import SystolicArray, SCALESIM
    >>> from presilicon.mapping.systolic_layer import gemm
    >>> estimate([gemm("square", 256, 256, 256)], SystolicArray(32, 32, "os", SCALESIM)).row(0)["cycles"]
    20351
    """
    if array.dataflow == "rs":
        return _row_stationary(layers, array)
    columns = np.array([(x.p, x.f, x.w, x.g, x.ifmap_elements) for x in layers], dtype=np.int64).reshape(-1, 5).T
    p, f, w, g, elements = columns
    return closed_form(
        p,
        f,
        w,
        rows=array.rows,
        cols=array.cols,
        dataflow=array.dataflow,
        options=array.options,
        groups=g,
        ifmap_elements=elements,
    )


def closed_form(
    p: Sizes,
    f: Sizes,
    w: Sizes,
    *,
    rows: Sizes,
    cols: Sizes,
    dataflow: str,
    options: SystolicOptions = PHYSICAL,
    groups: Sizes = 1,
    ifmap_elements: Sizes | None = None,
) -> SystolicCounts:
    """Counts of (P, F, W) problems on arrays; all sizes broadcast against each other.

    Parameters
    ----------
    p, f, w
        Output pixels, filters and window of one group (M, N and K of a GEMM).
    rows, cols
        Of the arrays.
    dataflow
        ``"os"``, ``"ws"`` or ``"is"``; row stationary needs the layers themselves (`estimate`).
    groups
        Independent problems of this size, run one after the other.
    ifmap_elements
        Pairs of a pixel and a window position whose input is stored, of one group; None: all, no padding.

    Raises
    ------
    MappingError
        A size that is not an integer of 1 or more, sizes that do not broadcast, another dataflow; names the argument.

    Examples
    --------
    >>> closed_form([512, 1], 768, 768, rows=128, cols=[[32], [128]], dataflow="ws").cycles.shape
    (2, 2)
    """
    if dataflow not in ("os", "ws", "is"):
        raise MappingError(f"dataflow: expected 'os', 'ws' or 'is', found {shown(dataflow)}")
    named = {"p": p, "f": f, "w": w, "rows": rows, "cols": cols, "groups": groups}
    sizes = [_checked(name, value) for name, value in named.items()]
    present = None if ifmap_elements is None else _checked("ifmap_elements", ifmap_elements, least=0)
    try:
        shaped = np.broadcast_arrays(*sizes, sizes[0] if present is None else present)
    except ValueError:
        shapes = ", ".join(f"{name} {size.shape}" for name, size in zip(named, sizes, strict=True))
        raise MappingError(f"sizes do not broadcast: {shapes}") from None
    p, f, w, rows, cols, g, present = (np.asarray(a, dtype=np.int64) for a in shaped)
    if ifmap_elements is None or options.padding_reads:
        present = p * w
    if p.size and float(np.max(p.astype(float) * f * w * g)) >= 2.0**62:
        raise MappingError("p x f x w x groups: more multiply-adds than the 4.6e18 that can be counted")
    along_rows, along_cols, t = {"os": (p, f, w), "ws": (w, f, p), "is": (w, p, f)}[dataflow]
    down, across = -(-along_rows // rows), -(-along_cols // cols)
    folds = down * across * g
    cycles = _cycles(along_rows, along_cols, t, rows, cols, g, dataflow, options) - int(options.last_cycle)
    macs = p * f * w * g
    outputs = p * f * g
    if dataflow == "os":
        ifmap, filters, written, read = present * g * across, f * w * g * down, outputs, np.zeros_like(outputs)
        if options.extra_writes:
            written = written + folds * (rows + cols)
    else:
        ifmap, filters = (present * g * across, f * w * g) if dataflow == "ws" else (present * g, f * w * g * across)
        written, read = outputs * down, outputs * (down - 1) * int(options.read_back)
    pes = (rows * cols).astype(float)
    with np.errstate(divide="ignore"):
        overall = macs / (cycles * pes)
    compute = overall
    if options.skew_twice:
        alone = t + rows + cols - 2 if dataflow == "os" else t + 2 * rows + 2 * cols - 3
        compute = macs / (folds * pes * alone)
    mapped = along_rows * along_cols * g / (folds * pes)
    return SystolicCounts(macs, folds, cycles, ifmap, filters, written, read, mapped, compute, overall)


def _checked(name: str, value: Sizes, least: int = 1) -> Ints:
    try:
        sizes = np.asarray(value)
    except ValueError:
        raise MappingError(f"{name}: expected integers of {least} or more, found {shown(value)}") from None
    if sizes.size and (sizes.dtype.kind not in "iu" or int(sizes.min()) < least):
        wrong = sizes if sizes.dtype.kind not in "iu" or not sizes.ndim else sizes[sizes < least][0]
        place = f" at {np.unravel_index(int(np.argmin(sizes)), sizes.shape)}" if sizes.dtype.kind in "iu" and sizes.ndim else ""
        raise MappingError(f"{name}: expected integers of {least} or more, found {shown(wrong.tolist())}{place}")
    return sizes.astype(np.int64)


def _cycles(
    along_rows: Ints,
    along_cols: Ints,
    t: Ints,
    rows: Ints,
    cols: Ints,
    g: Ints,
    dataflow: str,
    options: SystolicOptions,
) -> Ints:
    """Cycles of all folds of all groups."""
    down, across = -(-along_rows // rows), -(-along_cols // cols)
    used = options.edge_folds == "used"
    last_r = along_rows - (down - 1) * rows if used else rows
    last_c = along_cols - (across - 1) * cols if used else cols
    full_c = np.where(across > 1, cols, last_c)
    sum_r, sum_c = (down - 1) * rows + last_r, (across - 1) * cols + last_c

    # One fold alone takes t + fixed + r (os with its drain, ws, is) + c.
    fixed = rows - 3 if dataflow == "os" and options.drain else -2 if dataflow == "os" else rows - 2
    if not options.overlap:
        return g * (down * across * (t + fixed) + across * sum_r + down * sum_c)

    # One column block: its folds follow max(t, r) apart. In os that is the gap behind a fold, in ws and is before it.
    block = (down - 1) * np.maximum(t, rows) + np.maximum(t, last_r)
    before_last = (g * across - 1) * block + (down - 1) * np.maximum(t, rows)
    if dataflow != "os":
        first_r = np.where(down > 1, rows, last_r)
        before_last = before_last + np.maximum(t, last_r) - np.maximum(t, first_r) + first_r
    # Where the fold before the last column block has more columns it may finish later.
    tail = t + fixed + (last_r if dataflow == "os" else 0)
    return np.maximum(before_last + tail + last_c, np.where(across > 1, before_last - block + tail + full_c, 0))


def _row_stationary(layers: Sequence[Layer], array: SystolicArray) -> SystolicCounts:
    """Row stationary, layer by layer: filter rows lie in the PEs' rows, output rows in their columns."""
    columns = np.array([_one_row_stationary(layer, array) for layer in layers], dtype=np.int64).reshape(-1, 8).T
    macs, folds, cycles, ifmap, filters, written, read, mapped = columns
    with np.errstate(divide="ignore"):
        overall = macs / (cycles * float(array.pes))
    return SystolicCounts(macs, folds, cycles, ifmap, filters, written, read, mapped / (folds * float(array.pes)), overall, overall)


@dataclass(frozen=True)
class RowShape:
    """A layer as row stationary sees it.

    The window slides down `vertical`: its taps lie along the PE rows, its pixels (output rows, of each image) along the
    columns. The other sliding axes are convolved inside a PE. Every channel and every image has rows of its own.
    """

    vertical: Sliding
    horizontal: tuple[Sliding, ...]
    images: int
    channels: int
    sets: int
    parts: int

    @property
    def output_rows(self) -> int:
        """Output rows of all images: they share the columns."""
        return self.images * self.vertical.pixels

    @property
    def row_folds(self) -> int:
        """Folds along the array's rows: channels by the number that fit above each other, by parts of a tall filter."""
        return -(-self.channels // self.sets) * self.parts

    @property
    def pixels(self) -> int:
        """Outputs that a PE computes for each filter: those of one output row."""
        return int(np.prod([axis.pixels for axis in self.horizontal], dtype=np.int64))

    @property
    def taps(self) -> int:
        """Filter elements that a PE holds for each filter: one filter row."""
        return int(np.prod([axis.taps for axis in self.horizontal], dtype=np.int64))


def row_shape(layer: Layer, rows: int) -> RowShape:
    """How row stationary lays a layer over an array of so many rows.

    A matrix product is a convolution with a 1 x 1 filter: M lies along the columns, K along the rows.
    """
    sliding = layer.sliding
    vertical = sliding[0] if sliding else Sliding("", 1, 1, "", 1, 1, 0, 1)
    horizontal = sliding[1:]
    images = layer.p // (vertical.pixels * int(np.prod([axis.pixels for axis in horizontal], dtype=np.int64)))
    channels = layer.w // (vertical.taps * int(np.prod([axis.taps for axis in horizontal], dtype=np.int64)))
    return RowShape(vertical, horizontal, images, channels, max(rows // vertical.taps, 1), -(-vertical.taps // rows))


def _one_row_stationary(layer: Layer, array: SystolicArray) -> tuple[int, ...]:
    options, shape = array.options, row_shape(layer, array.rows)
    strips = -(-shape.output_rows // array.cols)
    folds = layer.g * strips * shape.row_folds
    stream = layer.f * shape.pixels * shape.taps
    cycles = folds * stream + (array.rows - 1) * (1 if options.overlap else folds)
    passes = -(-layer.f // array.filters_per_pe)
    rows_read = _distinct_rows(shape, array, options)
    met = [_distinct(axis, options) for axis in shape.horizontal]
    across, kept = (int(np.prod([n[i] for n in met], dtype=np.int64)) for i in (0, 1))
    outputs = layer.p * layer.f * layer.g
    return (
        layer.macs,
        folds,
        cycles - int(options.last_cycle),
        layer.g * shape.channels * rows_read * (across + (passes - 1) * (across - kept)),
        layer.g * strips * layer.f * layer.w,
        outputs * shape.row_folds,
        outputs * (shape.row_folds - 1) * int(options.read_back),
        layer.g * shape.channels * shape.vertical.taps * shape.output_rows,
    )


def _distinct(axis: Sliding, options: SystolicOptions) -> tuple[int, int]:
    """Elements along an axis that the window meets in one pass over it, and how many of them the next pass finds there.

    A PE holds what lies within the window; of what the last window of a pass spans, the first of the next keeps a part.
    """
    at = axis.offset + np.add.outer(axis.stride * np.arange(axis.pixels), axis.dilation * np.arange(axis.taps))
    met = np.unique(at)
    if not options.padding_reads:
        met = met[(met >= 0) & (met < axis.size)]
    return met.size, int(np.count_nonzero((met >= at[-1, 0]) & (met <= at[0, -1])))


def _distinct_rows(shape: RowShape, array: SystolicArray, options: SystolicOptions) -> int:
    """Input rows of one channel that are read, summed over the strips of columns and the parts of a tall filter.

    A row is counted where it enters: at the pair of an output row and a tap that has no pair in the same fold which
    needs the same input row for an earlier output and a later tap.
    """
    axis = shape.vertical
    common = int(np.gcd(axis.stride, axis.dilation))
    back, on = axis.dilation // common, axis.stride // common
    row, tap = np.arange(shape.output_rows)[:, None], np.arange(axis.taps)[None, :]
    pixel = row % axis.pixels
    at = axis.offset + pixel * axis.stride + tap * axis.dilation
    shared = (pixel >= back) & (row % array.cols >= back)
    shared = shared & (tap + on < axis.taps) & ((tap + on) // array.rows == tap // array.rows)
    read = ~shared
    if not options.padding_reads:
        read &= (at >= 0) & (at < axis.size)
    return int(np.count_nonzero(read))
