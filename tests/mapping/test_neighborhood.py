"""Neighbourhood tiles against the mask itself, query by query."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from presilicon.errors import MappingError
from presilicon.mapping.neighborhood import Neighborhood


def _visited(na: Neighborhood, query_tile: tuple[int, ...], key_tile: tuple[int, ...]) -> float:
    """Mean key tiles with any unmasked entry, over query tiles, from the dense mask of every dimension."""
    per_dimension = []
    for n, w, s, q, k in zip(na.extent, na.window, na.stride, query_tile, key_tile, strict=True):
        mask = np.zeros((n, n), dtype=bool)
        for query in range(n):
            middle = min(query // s * s + s // 2, n - 1)
            start = min(max(middle - w // 2, 0), n - w)
            mask[query, start : start + w] = True
        per_dimension.append([sum(bool(mask[a : a + q, b : b + k].any()) for b in range(0, n, k)) for a in range(0, n, q)])
    return float(np.mean([np.prod(combination) for combination in itertools.product(*per_dimension)]))


@pytest.mark.parametrize("seed", range(25))
def test_visits_equal_a_walk_over_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dims = int(rng.integers(1, 4))
    extent = tuple(int(n) for n in rng.integers(4, 25, dims))
    window = tuple(int(rng.integers(1, n + 1)) for n in extent)
    stride = tuple(int(rng.integers(1, w + 1)) for w in window)
    query_tile, key_tile = (tuple(int(t) for t in rng.integers(1, 9, dims)) for _ in range(2))
    na = Neighborhood(extent, window, stride)
    dense = np.prod([-(-n // k) for n, k in zip(extent, key_tile, strict=True)])
    assert na.tile_bound(query_tile, key_tile) == pytest.approx(dense / _visited(na, query_tile, key_tile))


def test_windows_are_whole_and_inside() -> None:
    na = Neighborhood((100,), (31,), (7,))
    (starts,) = na.starts
    assert starts.min() >= 0
    assert starts.max() + 31 <= 100
    assert len(set(starts[14:21])) == 1, "one group shares a window"


def test_blocked_windows_gain_the_whole_flop_ratio() -> None:
    na = Neighborhood((64, 64), (16, 16), (16, 16))
    assert na.tile_bound((16, 16)) == na.flop_ratio == 16


@pytest.mark.parametrize(
    ("extent", "window", "stride"), [((8,), (9,), (1,)), ((8,), (4,), (5,)), ((8, 8), (4,), (1,)), ((8,), (4,), (0,)), ((2,) * 4,) * 3]
)
def test_bad_shapes(extent: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]) -> None:
    with pytest.raises(MappingError, match="neighbourhood"):
        Neighborhood(extent, window, stride)


def test_bad_tiles() -> None:
    with pytest.raises(MappingError, match="tile sizes"):
        Neighborhood((8,), (4,), (1,)).tile_bound((2, 2))
