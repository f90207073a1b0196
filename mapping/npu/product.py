"""A matrix product or convolution as the loop-nest mapper takes it, and what an NPU's fixed dimensions in space do to its extents.

An `Op` of a traced graph has biases, dimensions of extent 1 and padded inputs; `product` leaves a dense nest of multiply-accumulates over
few dimensions. `spread` chooses which of them the PEs, engines and cores take side by side: that choice is the dataflow's, and makes
the rest small enough to map exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...arch.npu import NpuSystem
from ...errors import MappingError
from ...workloads.formats import by_name
from ...workloads.op import Axis, Op, Operand
from ..systolic_layer import Layer
from ..systolic_lower import lower

#: Largest prime factor that a padded loop bound may have; the bound grows to the next number without a larger one.
LARGEST_PRIME = 7
#: Loop bounds up to this one are left as they are.
SMALL_BOUND = 16


@dataclass(frozen=True)
class Product:
    """A dense nest of multiply-accumulates.

    Attributes
    ----------
    dims
        Extents by name, those of extent 1 left out (``k`` stays).
    classes
        By dimension: ``"p"`` pixels (input and output), ``"f"`` filters (weight and output), ``"w"`` window (both factors), ``"g"`` groups.
    sliding
        Output dimension, window dimension, stride and dilation of each axis along which the window slides.
    bytes_per_element
        Of input, weight and output.
    """

    dims: tuple[tuple[str, int], ...]
    classes: tuple[tuple[str, str], ...]
    sliding: tuple[tuple[str, str, int, int], ...]
    formats: tuple[str, str, str]

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return math.prod(extent for _, extent in self.dims)

    def size(self, kind: str) -> int:
        """Extent of all dimensions of a class."""
        return math.prod(extent for d, extent in self.dims if d in self.of_class(kind))

    def of_class(self, *kinds: str) -> list[str]:
        """Dimensions of the classes."""
        return [d for d, kind in self.classes if kind in kinds]

    def op(self, extents: Mapping[str, int] | None = None) -> Op:
        """The op that the mapper maps, with its own extents or padded ones; operands I, W and O."""
        dims = dict(self.dims) | dict(extents or {})
        slid = {d for out, tap, _, _ in self.sliding for d in (out, tap)}
        outer: tuple[Axis, ...] = tuple(((d, 1),) for d in self.of_class("g"))

        def plain(kind: str) -> tuple[Axis, ...]:
            return tuple(((d, 1),) for d in self.of_class(kind) if d not in slid)

        moving = tuple(((out, stride), (tap, dilation)) for out, tap, stride, dilation in self.sliding)
        taps = tuple(((tap, 1),) for _, tap, _, _ in self.sliding)
        places = tuple(((out, 1),) for out, _, _, _ in self.sliding)
        kinds = [by_name(name) for name in self.formats]
        operands = (
            Operand("I", "input", (*outer, *plain("p"), *plain("w"), *moving), kinds[0]),
            Operand("W", "weight", (*outer, *plain("f"), *plain("w"), *taps), kinds[1]),
            Operand("O", "output", (*outer, *plain("p"), *plain("f"), *places), kinds[2]),
        )
        return Op("product", "conv" if self.sliding else "matmul", "npu", dims, operands, {"mac": 1.0})


def product(op: Op, number_format: str, output_format: str | None = None, weight_format: str | None = None) -> Product:
    """The product that an op is.

    Raises
    ------
    MappingError
        The op is not one dense product of two operands; see `presilicon.mapping.systolic_lower.lower`.
    """
    return from_layer(lower(op), (number_format, weight_format or number_format, output_format or number_format))


def from_layer(layer: Layer, formats: tuple[str, str, str]) -> Product:
    """The product of a (P, F, W, G) problem: a window of one tap is no window, and what only multiplies P, F, W or G is one dimension."""
    sliding = [s for s in layer.sliding if s.taps > 1]
    pixels = layer.p // math.prod(s.pixels for s in sliding)
    window = layer.w // math.prod(s.taps for s in sliding)
    names = [("y", "r"), ("x", "s"), ("z", "t")]
    if len(sliding) > len(names):
        raise MappingError(f"layer {layer.name!r}: {len(sliding)} sliding axes; at most {len(names)} can be mapped")
    names = names[:1] if len(sliding) == 1 else names
    dims = [("g", layer.g, "g"), ("m", pixels, "p"), ("n", layer.f, "f"), ("k", window, "w")]
    slides = []
    for (out, tap), s in zip(names, sliding, strict=False):
        dims += [(out, s.pixels, "p"), (tap, s.taps, "w")]
        slides.append((out, tap, s.stride, s.dilation))
    kept = [(d, e, kind) for d, e, kind in dims if e > 1 or d == "k" or any(d in s[:2] for s in slides)]
    return Product(tuple((d, e) for d, e, _ in kept), tuple((d, kind) for d, _, kind in kept), tuple(slides), formats)


@dataclass(frozen=True)
class Spread:
    """What runs side by side.

    Attributes
    ----------
    spatial
        By fanout, then dimension: instances.
    axes
        By axis of the array (``"array.row"``): dimensions that it takes.
    extents
        Extents, padded so that every factor divides.
    used
        Share of the machine's multiply-accumulate slots that real work fills, over the whole op.
    """

    spatial: Mapping[str, Mapping[str, int]]
    axes: Mapping[str, tuple[str, ...]]
    extents: Mapping[str, int]
    used: float


def smooth(number: int) -> int:
    """The next number whose prime factors are small, so that it has divisors to tile with.

    >>> smooth(14), smooth(239), smooth(4097)
    (14, 240, 4116)
    """
    while number > SMALL_BOUND and not _is_smooth(number):
        number += 1
    return number


def _is_smooth(number: int) -> bool:
    for prime in (2, 3, 5, 7):
        while number % prime == 0:
            number //= prime
    return number == 1


def spread(problem: Product, system: NpuSystem, *, padded: bool = True) -> Spread:
    """Dimensions in space: on each axis the factors that leave the fewest steps in time, innermost fanout first.

    The rows and columns of an array take the classes of dimensions that its dataflow says (see `presilicon.mapping.systolic`): those of a
    row-stationary array filter rows, as many channels or filters as there is room for, and output rows. Engines and cores take outputs;
    those of systolic arrays split them so that what streams is not shorter than the shifting in of what is held (`_cycles`).
    Loop bounds with a large prime factor are padded (`smooth`) unless not `padded`.
    """
    matrix = system.matrix
    left = dict(problem.dims)
    spatial: dict[str, dict[str, int]] = {}
    p, f, w, g = (problem.of_class(kind) for kind in "pfwg")
    axes: list[tuple[str, int, list[str]]] = []
    if matrix.dataflow == "rs":
        taps = [s[1] for s in problem.sliding]
        vertical = [s[0] for s in problem.sliding[:1]] or p
        tall = taps[:1]
        others = [d for d in w + f if d not in taps]
        axes = [("array", matrix.rows, tall), ("array", 0, others), ("array", matrix.cols, vertical), ("array", 0, f + g)]
        along = {"array.row": (*tall, *others), "array.col": (*vertical, *f, *g)}
    else:
        rows, cols = {"os": (p, f), "ws": (w, f), "is": (w, p), "cube": (p, f)}[matrix.dataflow]
        axes = [("array", matrix.rows, rows), ("array", matrix.cols, cols)]
        if matrix.dataflow == "cube":
            axes.append(("array", matrix.depth, w))
        along = {f"array.{name}": tuple(dims) for name, (_, _, dims) in zip(("row", "col", "depth"), axes, strict=False)}
    axes += [("engines", matrix.engines, g + p + f), ("cores", system.cores, g + p + f)]
    room = 0
    for fanout, size, dims in axes:
        places = size or room
        if fanout == "cores":
            chosen = _core_split(problem, left, dims, system)
        elif fanout == "engines":
            chosen = _engine_split(problem, left, dims, system)
        else:
            chosen = _fewest_steps(left, dims, places)
        room = places // math.prod(chosen.values()) if size else 0
        for d, factor in chosen.items():
            left[d] = -(-left[d] // factor)
            if factor > 1:
                already = spatial.setdefault(fanout, {})
                already[d] = already.get(d, 1) * factor
    bounds = {d: smooth(bound) if padded else bound for d, bound in left.items()}
    extents = {d: bound * math.prod(factors.get(d, 1) for factors in spatial.values()) for d, bound in bounds.items()}
    slots = math.prod(bounds.values()) * matrix.pes * system.cores
    return Spread(spatial, along, extents, problem.macs / slots)


def _fewest_steps(left: Mapping[str, int], dims: Sequence[str], places: int) -> dict[str, int]:
    """Factors whose product is within `places` and that leave the fewest steps; of equals those with the fewest instances."""
    best: tuple[int, int, tuple[int, ...]] | None = None
    names = [d for d in dims if left.get(d, 1) > 1]
    if not names or places == 1:
        return {}
    options = [_useful(left[d], places) for d in names]
    for factors in itertools.product(*options):
        used = math.prod(factors)
        if used > places:
            continue
        steps = math.prod(-(-left[d] // factor) for d, factor in zip(names, factors, strict=True))
        key = (steps, used, tuple(-factor for factor in factors))
        if best is None or key < best:
            best = key
    assert best is not None
    return {d: -factor for d, factor in zip(names, best[2], strict=True)}


def _cycles(problem: Product, left: Mapping[str, int], system: NpuSystem) -> tuple[float, float]:
    """Cycles of an array for what is left in time, and the folds in it.

    An array that holds an operand needs its number of rows in cycles to shift the next fold's in (`NpuSystem.hierarchy`), which passes
    behind the streaming of this one's if that is as long.
    """
    steps = math.prod(left.values())
    streams = {"ws": "p", "is": "f"}.get(system.matrix.dataflow)
    if streams is None:
        return steps, 0
    length = math.prod(left[d] for d in problem.of_class(streams))
    folds = steps / length
    return folds * max(length, system.matrix.rows), folds


def _engine_split(problem: Product, left: Mapping[str, int], dims: Sequence[str], system: NpuSystem) -> dict[str, int]:
    """Parts of the outputs for the arrays of a core: those that take the fewest cycles; of equals those with the fewest folds."""
    names = [d for d in dims if left.get(d, 1) > 1]
    best: tuple[tuple[float, float, int], tuple[int, ...]] | None = None
    for factors in itertools.product(*(_useful(left[d], system.matrix.engines) for d in names)):
        used = math.prod(factors)
        if used > system.matrix.engines:
            continue
        rest = {**left, **{d: -(-left[d] // factor) for d, factor in zip(names, factors, strict=True)}}
        key = (*_cycles(problem, rest, system), used)
        if best is None or key < best[0]:
            best = key, factors
    return {} if best is None else dict(zip(names, best[1], strict=True))


def _core_split(problem: Product, left: Mapping[str, int], dims: Sequence[str], system: NpuSystem) -> dict[str, int]:
    """Parts of the outputs for the cores: the ones that take the least time, by multiply-accumulates and by the bytes that a core fetches.

    A core fetches the inputs of its output rows and the weights of its columns; with few rows, cores that share columns all fetch the same
    weights.
    """
    names = [d for d in dims if left.get(d, 1) > 1]
    kinds = dict(problem.classes)
    tiles = {d: _whole_tiles(problem, d, system) for d in names}
    sizes = [by_name(name).bytes for name in problem.formats]
    rate = system.dma.bytes_per_clk * system.dma.queues
    best: tuple[tuple[float, float, int], tuple[int, ...]] | None = None
    for factors in itertools.product(*(_useful(left[d], min(system.cores, tiles[d])) for d in names)):
        used = math.prod(factors)
        if used > system.cores:
            continue
        rest = {**left, **{d: -(-left[d] // factor) for d, factor in zip(names, factors, strict=True)}}
        steps, _ = _cycles(problem, rest, system)
        fetched = 0.0
        for operand, size in (("pwg", sizes[0]), ("fwg", sizes[1]), ("pfg", sizes[2])):
            elements = math.prod(e for d, e in problem.dims if kinds[d] in operand)
            shares = math.prod(factor for d, factor in zip(names, factors, strict=True) if kinds[d] in operand)
            fetched += elements * size / shares
        key = (max(steps, fetched / rate), steps + fetched / rate, used)
        if best is None or key < best[0]:
            best = key, factors
    return {} if best is None else dict(zip(names, best[1], strict=True))


def _whole_tiles(problem: Product, dim: str, system: NpuSystem) -> int:
    """Parts into which an output dimension may be cut: kernels give cores whole tiles (`NpuKernels`)."""
    kind, extent = dict(problem.classes)[dim], dict(problem.dims)[dim]
    least = {"p": system.kernels.rows, "f": system.kernels.cols}.get(kind, 1)
    if kind == "p":  # the pixels of a convolution are one row of tiles
        others = math.prod(e for d, e in problem.dims if d != dim and dict(problem.classes)[d] == "p")
        least = -(-least // others)
    return max(1, -(-extent // least))


def _useful(extent: int, places: int) -> list[int]:
    """For each number of steps along a dimension the smallest factor that reaches it."""
    found: dict[int, int] = {}
    for factor in range(1, min(extent, places) + 1):
        found.setdefault(-(-extent // factor), factor)
    return sorted(found.values())
