"""What a fanout can spread: every product of factors that its axes hold, grouped by what they share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...arch.hierarchy import Fanout
from .lattice import Lattice
from .nest import Spatial
from .problem import Problem

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Spread:
    """Factors in space that cost the same by themselves.

    Attributes
    ----------
    shares
        By tensor, how many instances need the same element.
    total
        Instances used.
    shapes
        Indices of the factors, as shapes of the lattice.
    """

    shares: dict[str, int]
    total: int
    shapes: Index


def axis_shapes(shapes: Lattice, instances: int, dims: Iterable[str]) -> Index:
    """Shapes over `dims` with no more points than an axis has instances."""
    points = np.ones(shapes.size, dtype=np.float64)
    allowed = np.ones(shapes.size, dtype=bool)
    chosen = set(dims)
    for dim, extent in shapes.extents.items():
        points *= extent
        if dim not in chosen:
            allowed &= extent == 1
    return np.flatnonzero(allowed & (points <= instances))


def combine(shapes: Lattice, parts: Sequence[Index]) -> Index:
    """Distinct products of one shape of each part."""
    found = np.zeros(1, dtype=np.int64)
    for part in parts:
        pieces = []
        for by in part:
            inside = found[shapes.fits(found, int(by))]
            pieces.append(inside + by)
        found = np.unique(np.concatenate(pieces))
    return found


def together(shapes: Lattice, options: Sequence[Sequence[Index]]) -> Index:
    """Which choices of one set of shapes for each fanout hold shapes whose product is in the lattice; shape (n, fanouts).

    Parameters
    ----------
    options
        For each fanout, its sets of shapes.
    """
    found = np.zeros((1, 0), dtype=np.int64)
    products = [np.zeros(1, dtype=np.int64)]
    most = np.array([axis.most for axis in shapes.axes], dtype=np.int8)
    for sets in options:
        flat = np.concatenate(sets)
        starts = np.concatenate(([0], np.cumsum([len(s) for s in sets])[:-1]))
        kept, parts = [], []
        for row, before in enumerate(products):
            room = most[:, None] - shapes.exponents[:, before]
            fits = np.ones((len(before), len(flat)), dtype=bool)
            for left, need in zip(room, shapes.exponents[:, flat], strict=True):
                fits &= left[:, None] >= need[None, :]
            able = np.flatnonzero(np.logical_or.reduceat(fits.any(axis=0), starts))
            kept.append(np.column_stack([np.repeat(found[row : row + 1], len(able), axis=0), able]))
            if len(options) > found.shape[1] + 1:
                parts += [np.unique((before[:, None] + sets[i])[fits[:, starts[i] : starts[i] + len(sets[i])]]) for i in able.tolist()]
        found, products = np.concatenate(kept), parts
    return found


def spreads(problem: Problem, shapes: Lattice, candidates: Index) -> list[Spread]:
    """Group the factors of a fanout by sharing and by instances used."""
    sharing = [[d for d in problem.dims if d not in t.relevant] for t in problem.tensors.values()]
    table = np.ones((len(candidates), len(sharing) + 1), dtype=np.int64)
    for column, dims in enumerate([*sharing, list(problem.dims)]):
        for dim in dims:
            table[:, column] *= shapes.extents[dim][candidates]
    keys, member = np.unique(table, axis=0, return_inverse=True)
    member = member.reshape(-1)
    order = np.argsort(member, kind="stable")
    groups = np.split(candidates[order], np.cumsum(np.bincount(member))[:-1])
    return [
        Spread(dict(zip(problem.tensors, map(int, key[:-1]), strict=True)), int(key[-1]), group)
        for key, group in zip(keys, groups, strict=True)
    ]


def place(shapes: Lattice, fanout: Fanout, options: Sequence[Index], wanted: int) -> list[Spatial]:
    """Loops on the fanout's axes whose product is shape `wanted`; `options` are the shapes that each axis may hold."""
    chosen = one_axis_each(shapes, options, wanted) or _split(shapes, options, wanted)
    assert chosen is not None, "a spread is a product of what its axes hold"
    return [
        Spatial(dim, factor, fanout.name, axis)
        for axis, index in zip(fanout.axes, chosen, strict=True)
        for dim, factor in shapes.tile(index).items()
        if factor > 1
    ]


def one_axis_each(shapes: Lattice, options: Sequence[Index], wanted: int) -> list[int] | None:
    """What each axis holds when every dimension lies on one axis; None where that does not fit."""
    able = [set(option.tolist()) for option in options]
    factors = {dim: factor for dim, factor in shapes.tile(wanted).items() if factor > 1}
    for axes in itertools.product(range(len(options)), repeat=len(factors)):
        held = [shapes.index({d: f for (d, f), axis in zip(factors.items(), axes, strict=True) if axis == i}) for i in range(len(options))]
        if all(index in room for index, room in zip(held, able, strict=True)):
            return held
    return None


def _split(shapes: Lattice, options: Sequence[Index], wanted: int) -> list[int] | None:
    if len(options) == 1:
        return [wanted] if wanted in set(options[0].tolist()) else None
    tile = shapes.tile(wanted)
    fitting = [int(i) for i in options[0] if all(tile[d] % e == 0 for d, e in shapes.tile(int(i)).items())]
    for index in sorted(fitting, key=lambda i: -math.prod(shapes.tile(i).values())):
        rest = _split(shapes, options[1:], wanted - index)
        if rest is not None:
            return [index, *rest]
    return None
