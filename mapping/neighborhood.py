"""Which key-value tiles a fused neighbourhood attention visits: sliding, strided and blocked windows in one to three dimensions.

Every query attends a window of fixed size; with a stride, the queries of one group share the window of the group's middle one, and windows
are shifted inwards at the borders (Generalized Neighborhood Attention, arXiv 2504.16922, section 3). A tile of queries visits every tile of
keys that any of its windows touches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import MappingError, shown


@dataclass(frozen=True)
class Neighborhood:
    """A neighbourhood attention; one entry per dimension, one to three of them.

    Attributes
    ----------
    extent
        Tokens.
    window
        Keys that a query attends.
    stride
        Queries that share a window; 1: sliding, equal to the window: blocked.

    Raises
    ------
    MappingError
        Lengths that differ, a window larger than the extent, or a stride larger than the window.

    >>> na = Neighborhood((32768,), (2048,), (1,))
    >>> na.flop_ratio, round(na.tile_bound((128,)), 1)
    (16.0, 15.1)
    """

    extent: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.extent) <= 3 or len({len(self.extent), len(self.window), len(self.stride)}) > 1:
            raise MappingError(
                f"neighbourhood: expected 1 to 3 extents, windows and strides, found {self.extent}, {self.window}, {self.stride}"
            )
        for n, w, s in zip(self.extent, self.window, self.stride, strict=True):
            if not 1 <= s <= w <= n:
                raise MappingError(f"neighbourhood: expected 1 <= stride <= window <= extent, found {shown((s, w, n))}")

    @property
    def flop_ratio(self) -> float:
        """Work of dense attention over that of the windows alone."""
        return math.prod(self.extent) / math.prod(self.window)

    @cached_property
    def starts(self) -> tuple[np.ndarray, ...]:
        """First key of every query's window, by dimension; arrays of shape (extent,)."""
        found = []
        for n, w, s in zip(self.extent, self.window, self.stride, strict=True):
            middle = np.minimum(np.arange(n) // s * s + s // 2, n - 1)
            found.append(np.clip(middle - w // 2, 0, n - w))
        return tuple(found)

    def visits(self, query_tile: Sequence[int], key_tile: Sequence[int]) -> list[np.ndarray]:
        """Key tiles that each query tile visits along each dimension; their product over dimensions is what a tile visits."""
        counts = []
        for n, w, starts, q, k in zip(self.extent, self.window, self.starts, query_tile, key_tile, strict=True):
            edges = np.arange(0, n, q)
            first = np.minimum.reduceat(starts, edges)
            last = np.maximum.reduceat(starts, edges) + w - 1
            counts.append(last // k - first // k + 1)
        return counts

    def tile_bound(self, query_tile: Sequence[int], key_tile: Sequence[int] | None = None) -> float:
        """The most that a kernel with these tiles can gain over dense attention with the same tiles.

        Parameters
        ----------
        query_tile, key_tile
            Tokens of a tile by dimension; `key_tile` defaults to `query_tile`.

        Raises
        ------
        MappingError
            Tiles of another number of dimensions, or without tokens.
        """
        key_tile = query_tile if key_tile is None else key_tile
        for tile in (query_tile, key_tile):
            if len(tile) != len(self.extent) or any(t < 1 for t in tile):
                raise MappingError(f"neighbourhood: expected {len(self.extent)} tile sizes of 1 or more, found {shown(tuple(tile))}")
        dense = math.prod(math.ceil(n / k) for n, k in zip(self.extent, key_tile, strict=True))
        return dense / math.prod(float(np.mean(counts)) for counts in self.visits(query_tile, key_tile))
