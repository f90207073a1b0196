"""A layer as a systolic array sees it: P pixels by F filters, summed over a window of W, in G independent groups.

Every convolution and matrix product is such a problem (im2col). `conv` and `gemm` make one from sizes,
`systolic_lower.lower` from an `Op`, `systolic_lower.read_topology` from a SCALE-Sim topology file. Beside the sizes a
`Layer` keeps where each element lies, so that the closed forms (`systolic`) and the per-cycle trace
(`presilicon.sim.systolic`) start from the same description.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import MappingError, shown

Dims = tuple[tuple[str, int], ...]
Role = Literal["ifmap", "filter", "ofmap"]
Space = Literal["p", "f", "w", "g"]
Ints = npt.NDArray[np.int64]
#: The index spaces by which each operand is addressed, beside the group.
SPACES: dict[Role, tuple[Space, Space]] = {"ifmap": ("p", "w"), "filter": ("w", "f"), "ofmap": ("p", "f")}


@dataclass(frozen=True)
class TensorAxis:
    """One axis of a stored tensor: coordinate = offset + sum of dimension x stride; outside 0..size-1 it is padding."""

    size: int
    strides: tuple[tuple[str, int], ...]
    offset: int = 0


@dataclass(frozen=True)
class Sliding:
    """An input axis along which a window slides: coordinate = offset + pixel * stride + tap * dilation."""

    pixel: str
    pixels: int
    stride: int
    tap: str
    taps: int
    dilation: int
    offset: int
    size: int


@dataclass(frozen=True)
class Layer:
    """A (P, F, W) problem in G groups, with the layout of its operands.

    Attributes
    ----------
    name
        For messages and tables.
    pixels, filters, window, groups
        The dimensions that make up P, F, W and G with their extents, the last running fastest.
    ifmap, filter, ofmap
        Axes of the stored tensors, row-major.
    """

    name: str
    pixels: Dims
    filters: Dims
    window: Dims
    groups: Dims
    ifmap: tuple[TensorAxis, ...]
    filter: tuple[TensorAxis, ...]
    ofmap: tuple[TensorAxis, ...]

    def __post_init__(self) -> None:
        for what in ("pixels", "filters", "window", "groups"):
            for dim, extent in getattr(self, what):
                _positive(self.name, f"{what}: {dim}", extent)
        if self.macs >= 2**62:
            raise MappingError(f"layer {self.name!r}: {self.macs:.3g} multiply-adds, more than the 4.6e18 that can be counted")

    @cached_property
    def p(self) -> int:
        """Output pixels of one group (M of a GEMM)."""
        return math.prod(int(n) for _, n in self.pixels)

    @cached_property
    def f(self) -> int:
        """Filters of one group (N of a GEMM)."""
        return math.prod(int(n) for _, n in self.filters)

    @cached_property
    def w(self) -> int:
        """Elements of the window of one group (K of a GEMM)."""
        return math.prod(int(n) for _, n in self.window)

    @cached_property
    def g(self) -> int:
        """Independent groups (batched products, grouped and depthwise convolutions)."""
        return math.prod(int(n) for _, n in self.groups)

    @property
    def macs(self) -> int:
        """Multiply-adds, those with padding included."""
        return self.p * self.f * self.w * self.g

    @cached_property
    def ifmap_elements(self) -> int:
        """(pixel, window position) pairs of one group whose input element is stored: P x W less the padding."""
        total = self.p * self.w
        extents = dict(self.pixels) | dict(self.window)
        for axis, checked in zip(self.ifmap, self.padded_axes("ifmap"), strict=True):
            if checked:
                at = _coordinates(axis, [(d, extents[d]) for d, _ in axis.strides if d in extents])
                total = total // at.size * int(np.count_nonzero((at >= 0) & (at < axis.size)))
        return total

    @cached_property
    def sliding(self) -> tuple[Sliding, ...]:
        """The axes of the input along which the window slides, in the order of the tensor's axes."""
        pixels, taps = dict(self.pixels), dict(self.window)
        found = []
        for axis in self.ifmap:
            here = [(d, s) for d, s in axis.strides if d in pixels]
            there = [(d, s) for d, s in axis.strides if d in taps]
            if len(here) == len(there) == 1:
                (pixel, stride), (tap, dilation) = here[0], there[0]
                found.append(Sliding(pixel, pixels[pixel], stride, tap, taps[tap], dilation, axis.offset, axis.size))
        return tuple(found)

    def dims(self, space: Space) -> Dims:
        """The dimensions of one index space."""
        return {"p": self.pixels, "f": self.filters, "w": self.window, "g": self.groups}[space]

    def axes(self, role: Role) -> tuple[TensorAxis, ...]:
        """The axes of one operand."""
        return {"ifmap": self.ifmap, "filter": self.filter, "ofmap": self.ofmap}[role]

    def elements(self, role: Role) -> int:
        """Stored elements of one operand, all groups."""
        return math.prod(axis.size for axis in self.axes(role))

    def padded_axes(self, role: Role) -> tuple[bool, ...]:
        """For each axis of an operand: whether some of its coordinates are padding."""
        extents = {d: n for space in (*SPACES[role], "g") for d, n in self.dims(space)}
        return tuple(
            axis.offset < 0 or axis.offset + sum(s * (extents[d] - 1) for d, s in axis.strides if d in extents) >= axis.size
            for axis in self.axes(role)
        )

    def addresses(self, role: Role, space: Space, offset: int = 0) -> Ints:
        """Share of each index of one space in the address of an element, in elements; the shares add up.

        The constant part (and `offset`) is in the share of the group.
        """
        pitch, total = 1, np.zeros(math.prod(int(n) for _, n in self.dims(space)), dtype=np.int64)
        if space == "g":
            total += offset
        for axis in reversed(self.axes(role)):
            total += pitch * self.share(axis, space)
            pitch *= axis.size
        return total

    def coordinates(self, role: Role, space: Space) -> list[Ints]:
        """The same for the coordinate along each axis that reaches into padding."""
        padded = zip(self.axes(role), self.padded_axes(role), strict=True)
        return [self.share(axis, space) for axis, outside in padded if outside]

    def share(self, axis: TensorAxis, space: Space) -> Ints:
        """Share of each index of one space in the coordinate along an axis; the axis's offset is in the group's."""
        dims = self.dims(space)
        return _coordinates(TensorAxis(axis.size, axis.strides, axis.offset if space == "g" else 0), dims).ravel()


def _coordinates(axis: TensorAxis, dims: Sequence[tuple[str, int]]) -> Ints:
    """Coordinate along an axis for every index of some dimensions: array of their extents."""
    strides = dict(axis.strides)
    at = np.full([n for _, n in dims], axis.offset, dtype=np.int64)
    for i, (dim, extent) in enumerate(dims):
        if dim in strides:
            at += (strides[dim] * np.arange(extent)).reshape([-1 if j == i else 1 for j in range(len(dims))])
    return at


def _positive(name: str, what: str, value: object) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
        raise MappingError(f"layer {name!r}: {what}: expected an integer of 1 or more, found {shown(value)}")


def gemm(name: str, m: int, n: int, k: int, batch: int = 1) -> Layer:
    """``out[b, m, n] = sum over k of a[b, m, k] * w[b, n, k]``: P = m, F = n, W = k, one group a batch entry.

    The weights lie k fastest, as SCALE-Sim addresses them.

    Examples
    --------
    >>> layer = gemm("qkv", m=512, n=768, k=64)
    >>> layer.p, layer.f, layer.w
    (512, 768, 64)
    """
    for what, size in (("m", m), ("n", n), ("k", k), ("batch", batch)):
        _positive(name, what, size)
    b = TensorAxis(batch, (("b", 1),))
    m_, n_, k_ = (TensorAxis(size, ((dim, 1),)) for dim, size in (("m", m), ("n", n), ("k", k)))
    return Layer(name, (("m", m),), (("n", n),), (("k", k),), (("b", batch),), (b, m_, k_), (b, n_, k_), (b, m_, n_))


def conv(
    name: str,
    height: int,
    width: int,
    filter_h: int,
    filter_w: int,
    channels: int,
    filters: int,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    batch: int = 1,
    groups: int = 1,
    ceil_mode: bool = False,
) -> Layer:
    """A 2-D convolution; tensors lie channels last, window positions run row, column, channel.

    Parameters
    ----------
    height, width, channels
        Of the stored input, all groups; `filters` too counts all groups.
    ceil_mode
        Round the number of output pixels up, so that the last window may hang over the edge, as SCALE-Sim does.

    Raises
    ------
    MappingError
        A size below 1, a filter larger than the padded input, channels or filters that the groups do not divide.

    Examples
    --------
    >>> layer = conv("conv1", 224, 224, 7, 7, 3, 64, stride=(2, 2), padding=(3, 3))
    >>> layer.p, layer.f, layer.w
    (12544, 64, 147)
    """
    for what, size in (
        ("height", height),
        ("width", width),
        ("filter_h", filter_h),
        ("filter_w", filter_w),
        ("batch", batch),
        ("channels", channels),
        ("filters", filters),
        ("groups", groups),
        ("stride", stride[0]),
        ("stride", stride[1]),
        ("dilation", dilation[0]),
        ("dilation", dilation[1]),
        ("padding + 1", padding[0] + 1),
        ("padding + 1", padding[1] + 1),
    ):
        _positive(name, what, size)
    for what, count in (("channels", channels), ("filters", filters)):
        if count % groups:
            raise MappingError(f"layer {name!r}: {what}: {count} do not divide into {groups} groups")
    pixels = []
    for what, size, taps, i in (("height", height, filter_h, 0), ("width", width, filter_w, 1)):
        span, room = dilation[i] * (taps - 1) + 1, size + 2 * padding[i]
        if span > room:
            raise MappingError(f"layer {name!r}: filter {what}: {span} is larger than the input, {room} (with padding and dilation)")
        pixels.append((-((span - room) // stride[i]) if ceil_mode else (room - span) // stride[i]) + 1)
    c, m = channels // groups, filters // groups
    b = TensorAxis(batch, (("b", 1),))
    y = TensorAxis(height, (("p", stride[0]), ("r", dilation[0])), -padding[0])
    x = TensorAxis(width, (("q", stride[1]), ("s", dilation[1])), -padding[1])
    out = TensorAxis(filters, (("g", m), ("m", 1)))
    return Layer(
        name,
        (("b", batch), ("p", pixels[0]), ("q", pixels[1])),
        (("m", m),),
        (("r", filter_h), ("s", filter_w), ("c", c)),
        (("g", groups),),
        (b, y, x, TensorAxis(channels, (("g", c), ("c", 1)))),
        (out, *(TensorAxis(n, ((d, 1),)) for d, n in (("r", filter_h), ("s", filter_w), ("c", c)))),
        (b, TensorAxis(pixels[0], (("p", 1),)), TensorAxis(pixels[1], (("q", 1),)), out),
    )
