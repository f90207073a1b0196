"""All tile shapes of a problem, as one flat array: a shape is a divisor of every extent, so a point of a lattice of prime exponents.

Multiplying a shape by a factor adds a constant to its index, which is what makes the search vectorise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .problem import Problem, Tensor

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


def prime_factors(number: int) -> dict[int, int]:
    """Exponents by prime.

    >>> prime_factors(56)
    {2: 3, 7: 1}
    """
    found: dict[int, int] = {}
    prime = 2
    while prime * prime <= number:
        while number % prime == 0:
            found[prime] = found.get(prime, 0) + 1
            number //= prime
        prime += 1
    if number > 1:
        found[number] = found.get(number, 0) + 1
    return found


@dataclass(frozen=True)
class Axis:
    """One prime of one dimension: `most` is its exponent in the extent, `stride` what one more of it adds to an index."""

    dim: str
    prime: int
    most: int
    stride: int


@dataclass(frozen=True)
class Lattice:
    """Shapes of a problem's tiles.

    Attributes
    ----------
    dims
        Extents.
    axes
        Prime axes; a shape's index is the sum of exponent times stride.
    size
        Number of shapes; the last is the whole problem, index 0 a single point.
    """

    dims: Mapping[str, int]
    axes: tuple[Axis, ...]
    size: int

    @cached_property
    def exponents(self) -> NDArray[np.int8]:
        """Exponents of every shape, one row per axis."""
        index = np.arange(self.size)
        return np.array([(index // a.stride) % (a.most + 1) for a in self.axes], dtype=np.int8).reshape(len(self.axes), self.size)

    @cached_property
    def most(self) -> NDArray[np.int8]:
        """Exponents of the whole problem, one per axis."""
        return np.array([axis.most for axis in self.axes], dtype=np.int8)

    @cached_property
    def extents(self) -> dict[str, Index]:
        """Extent of every shape along each dimension."""
        found = {dim: np.ones(self.size, dtype=np.int64) for dim in self.dims}
        for axis, exponents in zip(self.axes, self.exponents, strict=True):
            found[axis.dim] *= np.int64(axis.prime) ** exponents.astype(np.int64)
        return found

    def index(self, tile: Mapping[str, int]) -> int:
        """Index of a shape whose extents divide the problem's."""
        total = 0
        for axis in self.axes:
            rest, exponent = tile.get(axis.dim, 1), 0
            while rest % axis.prime == 0 and exponent < axis.most:
                rest, exponent = rest // axis.prime, exponent + 1
            total += exponent * axis.stride
        return total

    def tile(self, index: int) -> dict[str, int]:
        """Extents of one shape."""
        return {dim: int(extent[index]) for dim, extent in self.extents.items()}

    def fits(self, index: Index, by: int) -> NDArray[np.bool_]:
        """Which shapes may be multiplied by shape `by` without leaving the lattice."""
        allowed = np.ones(len(index), dtype=bool)
        for axis, exponents in zip(self.axes, self.exponents, strict=True):
            extra = int(exponents[by])
            if extra:
                allowed &= exponents[index] <= axis.most - extra
        return allowed

    def divides(self, index: Index, by: int) -> NDArray[np.bool_]:
        """Which shapes may be divided by shape `by`."""
        allowed = np.ones(len(index), dtype=bool)
        for exponents in self.exponents:
            least = int(exponents[by])
            if least:
                allowed &= exponents[index] >= least
        return allowed

    def grid(self, values: Floats) -> Floats:
        """Values by shape, (size,) or (size, k), as an array with an axis for each prime axis, the last first."""
        return values.reshape((*(axis.most + 1 for axis in reversed(self.axes)), *values.shape[1:]))

    def least_of(self, found: Floats, values: Floats, by: int) -> None:
        """Make `found` at each shape, (size,) or (size, k), no more than `values` at its product with shape `by`."""
        extra = self.exponents[::-1, by].tolist()
        kept = self.grid(found)[tuple(slice(0, axis.most + 1 - e) for axis, e in zip(reversed(self.axes), extra, strict=True))]
        np.minimum(kept, self.grid(values)[tuple(slice(e, None) for e in extra)], out=kept)

    def factors(self, dim: str) -> Iterator[tuple[int, int]]:
        """Every divisor above 1 of a dimension's extent, with what it adds to an index."""
        extent = self.dims[dim]
        for factor in range(2, extent + 1):
            if extent % factor == 0:
                yield factor, self.index({dim: factor})


def lattice(dims: Mapping[str, int]) -> Lattice:
    """The lattice of a problem's dimensions.

    >>> lattice({"m": 4, "n": 6}).size
    12
    """
    axes, stride = [], 1
    for dim, extent in dims.items():
        for prime, most in prime_factors(extent).items():
            axes.append(Axis(dim, prime, most, stride))
            stride *= most + 1
    return Lattice(dict(dims), tuple(axes), stride)


@dataclass(frozen=True)
class Slide:
    """A loop of `factor` iterations over `dim`, directly above a tile that slides along it; `step` is its index offset."""

    dim: str
    factor: int
    step: int
    moved: Floats
    valid: NDArray[np.bool_]
    price: Floats | None = None


@dataclass(frozen=True)
class TensorTable:
    """What a tensor's tile of every shape holds, and what its fetches move.

    Attributes
    ----------
    volume
        Elements of the tile.
    moved
        Elements that all fetches of the whole run bring into all instances, when none is reused from tile to tile.
    slides
        The same when the tile slides along the loop directly above it, for every such loop that saves something.
    price
        Cost of those fetches, a vector for every shape, where it is not in proportion to `moved`.
    """

    volume: Floats
    moved: Floats
    slides: tuple[Slide, ...]
    price: Floats | None = None

    @cached_property
    def least(self) -> Floats:
        """Fewest elements that fetches of each shape can move."""
        found = self.moved.copy()
        for slide in self.slides:
            np.minimum(found, np.where(slide.valid, slide.moved, np.inf), out=found)
        return found


def tensor_table(problem: Problem, shapes: Lattice, tensor: Tensor) -> TensorTable:
    """Volumes and traffic of a tensor for every shape; formulas of `presilicon.mapping.nest.counts`."""
    extents: list[Floats] = []
    for axis in tensor.axes:
        extent = np.ones(shapes.size)
        for dim, stride in axis:
            extent += (shapes.extents[dim] - 1) * stride
        extents.append(extent)
    volume = np.prod(extents, axis=0) if extents else np.ones(shapes.size)
    times = np.full(shapes.size, float(problem.points))
    for size in shapes.extents.values():
        times /= size
    slides = []
    for dim in sorted(tensor.sliding):
        overlap = np.ones(shapes.size)
        for axis, extent in zip(tensor.axes, extents, strict=True):
            stride = dict(axis).get(dim, 0)
            overlap = overlap * np.maximum(0.0, extent - stride * shapes.extents[dim])
        if not overlap.any():
            continue
        for factor, step in shapes.factors(dim):
            valid = shapes.fits(np.arange(shapes.size), step) & (overlap > 0)
            moved = times / factor * (volume + (factor - 1) * (volume - overlap))
            slides.append(Slide(dim, factor, step, moved, valid))
    return TensorTable(volume, times * volume, tuple(slides))


def ordered_factorisations(shapes: Lattice, index: Iterable[int], slots: int) -> int:
    """Ways to write the rest of the problem, after the spatial shapes given, as factors in so many slots; the sum over shapes."""
    total = 0
    for i in index:
        ways = 1
        for axis, exponents in zip(shapes.axes, shapes.exponents, strict=True):
            ways *= math.comb(axis.most - int(exponents[i]) + slots - 1, slots - 1)
        total += ways
    return total
