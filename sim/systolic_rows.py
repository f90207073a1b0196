"""Per-cycle trace of row stationary (Eyeriss): filter rows stay in the PEs' rows, output rows in their columns.

In one fold, PE (i, j) convolves filter row i with the input row that output row j needs for it. Its loops, outermost
first: groups of `filters_per_pe` filters, pixels of the output row, taps of the filter row, filters of the group; one
multiply-add a cycle, row i starting i cycles after row 0 so that the sum from above is there when its own is done.

* A filter element is read when a PE row first needs it, sent to all columns, and kept for all pixels.
* An input element is read when the first PE of the fold needs it in a pass over a group of filters, handed down the
  diagonal to the others, and kept while the window slides over it; what the last window of a pass holds and the first
  of the next one spans stays.
* A sum that has passed all rows leaves at the bottom of its column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..arch.array import SystolicArray
from ..mapping.systolic import RowShape, row_shape
from ..mapping.systolic_layer import Dims, Ints, Layer, Space
from .systolic import Demand, Walk, check_range


@dataclass(frozen=True)
class _Events:
    """Accesses of one operand in one fold: cycle, port, address (-1: padding)."""

    cycle: Ints
    port: Ints
    address: Ints


@dataclass(frozen=True)
class _FoldEvents:
    start: int
    macs: int
    accumulates: bool
    ifmap: _Events
    filter: _Events
    ofmap: _Events


def walk_rows(layer: Layer, array: SystolicArray) -> Walk:
    """Count the accesses of every cycle of a row-stationary run."""
    options = array.options
    counts = dict.fromkeys(("ifmap", "filter", "ofmap", "again", "macs", "folds"), 0)
    signatures = dict.fromkeys(("ifmap", "filter", "ofmap"), 0)
    last = 0
    for fold in _folds(layer, array):
        counts["folds"] += 1
        counts["macs"] += fold.macs
        for role in signatures:
            events: _Events = getattr(fold, role)
            real = events.address >= 0
            counts[role] += real.size if options.padding_reads else int(np.count_nonzero(real))
            products = events.address[real].astype(np.uint64) @ (events.cycle[real] + 1).astype(np.uint64)
            signatures[role] = (signatures[role] + int(products)) % 2**64
        counts["again"] += fold.ofmap.cycle.size if fold.accumulates and options.read_back else 0
        last = max(last, int(fold.ofmap.cycle.max()))
    return Walk(
        last + 1 - int(options.last_cycle),
        counts["macs"],
        counts["folds"],
        counts["ifmap"],
        counts["filter"],
        counts["ofmap"],
        counts["again"],
        (signatures["ifmap"], signatures["filter"], signatures["ofmap"]),
    )


def demand_rows(layer: Layer, array: SystolicArray, start: int, stop: int | None) -> Demand:
    """Addresses of a range of cycles; see `presilicon.sim.systolic.demand`."""
    end = max(int(fold.ofmap.cycle.max()) for fold in _folds(layer, array)) + 1
    stop = check_range(layer, start, stop, end, array.pes + array.rows + 2 * array.cols)
    ports = {"ifmap": array.pes, "filter": array.rows, "ofmap": array.cols, "ofmap_reads": array.cols}
    out = {role: np.full((stop - start, n), -1, dtype=np.int64) for role, n in ports.items()}
    for fold in _folds(layer, array):
        for role, table in out.items():
            if role == "ofmap_reads" and not (fold.accumulates and array.options.read_back):
                continue
            events: _Events = getattr(fold, role.removesuffix("_reads"))
            inside = (events.cycle >= start) & (events.cycle < stop)
            table[events.cycle[inside] - start, events.port[inside]] = events.address[inside]
    return Demand(start, **out)


def _folds(layer: Layer, array: SystolicArray) -> Iterator[_FoldEvents]:
    """Every fold in order: groups, strips of output rows, channels, parts of a tall filter."""
    shape = row_shape(layer, array.rows)
    time, taps = 0, shape.vertical.taps
    indexer = _Indexer(layer, shape, array)
    stream = layer.f * shape.pixels * shape.taps
    for group in range(layer.g):
        for first in range(0, shape.output_rows, array.cols):
            outs = np.arange(first, min(first + array.cols, shape.output_rows))
            later = False
            for channel in range(0, shape.channels, shape.sets):
                channels = np.arange(channel, min(channel + shape.sets, shape.channels))
                for tap in range(0, taps, array.rows):
                    part = np.arange(tap, min(tap + array.rows, taps))
                    # One PE row for each pair of a channel and a tap.
                    lines = np.stack([np.repeat(channels, part.size), np.tile(part, channels.size)])
                    yield indexer.fold(group, outs, lines, time, later)
                    time += stream if array.options.overlap else stream + array.rows - 1
                    later = True


class _Indexer:
    """Turns loop indices into flat P, F and W indices and those into addresses."""

    def __init__(self, layer: Layer, shape: RowShape, array: SystolicArray) -> None:
        self.layer, self.shape, self.array = layer, shape, array
        horizontal = shape.horizontal
        self.image, self.out_row, pixels = _shares(layer.pixels, shape.vertical.pixel, [a.pixel for a in horizontal])
        self.channel, self.tap_row, taps = _shares(layer.window, shape.vertical.tap, [a.tap for a in horizontal])
        self.pixel, self.tap = pixels, taps
        # Which (pixel, tap) of a row lie in the first window of a pass and in the last one.
        self.stays = np.ones((pixels.size, taps.size), dtype=bool)
        for axis in layer.ifmap:
            if {d for d, _ in axis.strides} & {a.pixel for a in horizontal}:
                at = np.add.outer(layer.share(axis, "p")[pixels], layer.share(axis, "w")[taps])
                self.stays &= (at >= at[-1].min()) & (at <= at[0].max())
        offsets = dict(zip(("ifmap", "filter", "ofmap"), array.options.offsets, strict=True))
        self.share: dict[tuple[str, Space], Ints] = {}
        for role, spaces in (("ifmap", "pwg"), ("filter", "wfg"), ("ofmap", "pfg")):
            for space in spaces:
                self.share[role, space] = layer.addresses(role, space, offsets[role])  # type: ignore[arg-type,index]

    def fold(self, group: int, outs: Ints, lines: Ints, time: int, accumulates: bool) -> _FoldEvents:
        layer, shape, array = self.layer, self.shape, self.array
        held = array.filters_per_pe
        rows, cols, n_taps, n_pixels = lines.shape[1], outs.size, shape.taps, shape.pixels
        p = self.image[outs // shape.vertical.pixels] + self.out_row[outs % shape.vertical.pixels]
        w = self.channel[lines[0]] + self.tap_row[lines[1]]
        i, j = np.arange(rows), np.arange(cols)

        # Elements that the fold needs in a pass, by PE row, column, pixel and tap; the first PE to need one reads it.
        p_all = (p[None, :, None, None] + self.pixel[None, None, :, None]) + np.zeros((rows, 1, 1, n_taps), np.int64)
        w_all = (w[:, None, None, None] + self.tap[None, None, None, :]) + np.zeros((1, cols, n_pixels, 1), np.int64)
        step = np.arange(n_pixels)[:, None] * n_taps + np.arange(n_taps)
        address, key = self._inputs(p_all, w_all, group)
        ifmap: list[Ints] = []
        for first in range(0, layer.f, held):
            width = min(held, layer.f - first)
            begin = time + first * n_pixels * n_taps
            cycle = begin + i[:, None, None, None] + step[None, None] * width
            at = np.broadcast_to(cycle, p_all.shape).ravel()
            order = np.lexsort((at, key.ravel()))
            fresh = np.ones(order.size, dtype=bool)
            fresh[1:] = np.diff(key.ravel()[order]) != 0
            chosen = order[fresh]
            if first:
                chosen = chosen[~np.broadcast_to(self.stays, p_all.shape).ravel()[chosen]]
            pe = np.broadcast_to((i[:, None] * array.cols + j)[:, :, None, None], p_all.shape).ravel()
            ifmap.append(np.stack([at[chosen], pe[chosen], address.ravel()[chosen]]))

        # Time of multiply-add (pixel, tap, filter) in row 0.
        f = np.arange(layer.f)
        batch, inner = f // held, f % held
        widths = np.minimum(held, layer.f - batch * held)
        when = time + batch * held * n_pixels * n_taps + inner + step[..., None] * widths
        weight = self.share["filter", "w"][w[:, None] + self.tap][:, :, None] + self.share["filter", "f"]
        weight = weight + self.share["filter", "g"][group]
        reads = when[None, 0] + i[:, None, None]
        out = self.share["ofmap", "p"][p[:, None] + self.pixel][:, :, None] + self.share["ofmap", "f"]
        out = out + self.share["ofmap", "g"][group]
        leaves = np.broadcast_to(when[None, :, -1] + array.rows - 1, out.shape)
        return _FoldEvents(
            time,
            rows * cols * n_taps * n_pixels * layer.f,
            accumulates,
            _Events(*np.concatenate(ifmap, axis=1)),
            _Events(reads.ravel(), np.broadcast_to(i[:, None, None], reads.shape).ravel(), weight.ravel()),
            _Events(leaves.ravel(), np.broadcast_to(j[:, None, None], out.shape).ravel(), out.ravel()),
        )

    def _inputs(self, p: Ints, w: Ints, group: int) -> tuple[Ints, Ints]:
        """Address (-1: padding) and identity of the inputs of (pixel, window) pairs."""
        address = self.share["ifmap", "p"][p] + self.share["ifmap", "w"][w] + self.share["ifmap", "g"][group]
        key = np.zeros_like(address)
        for axis, outside in zip(self.layer.ifmap, self.layer.padded_axes("ifmap"), strict=True):
            # Less the offset, which only the group's share holds, coordinates count up from 0.
            at = self.layer.share(axis, "p")[p] + self.layer.share(axis, "w")[w]
            key = key * (int(at.max()) + 1) + at
            if outside:
                real = at + axis.offset
                address = np.where((real < 0) | (real >= axis.size), -1, address)
        return address, key


def _shares(dims: Dims, vertical: str, horizontal: list[str]) -> tuple[Ints, Ints, Ints]:
    """Flat index by the dimensions that are left, by the vertical one, by the horizontal ones (the last fastest)."""
    pitch, pitches = 1, {}
    for dim, extent in reversed(dims):
        pitches[dim] = pitch
        pitch *= extent
    extents = dict(dims)

    def flat(names: list[str]) -> Ints:
        total = np.zeros([1], dtype=np.int64)
        for name in names:
            total = np.add.outer(total, pitches[name] * np.arange(extents[name])).ravel()
        return total

    rest = [dim for dim, _ in dims if dim != vertical and dim not in horizontal]
    return flat(rest), flat([vertical] if vertical else []), flat(horizontal)
