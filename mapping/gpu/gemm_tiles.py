"""Which tile of C and which split of k a matrix multiply takes, and the cycles of a choice (see `gemm`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .gemm_kernels import Candidates

#: Bytes of k per operand row that one pipeline stage holds at least; k is rounded up to it.
K_STEP_BYTES = 64.0

#: Elements of k until the main loop's pipeline is full; the fill latency is exposed in that proportion.
FILL_DEPTH = 128.0

#: Share of the shorter of two equally long activities that does not hide behind the other (a 3-norm has 2^(1/3) - 1).
EXPOSED = 0.26


class Point(NamedTuple):
    """What the cycle formula needs, in cycles and bytes; every field is a number or an array of the chunk's shape."""

    m: Any
    n: Any
    k: Any
    batch: Any
    sm: Any
    flops_per_clk: Any  # achievable, per SM
    feed: Any  # operand bytes per clock and SM
    serial: Any  # cycles per element of k
    epilogue: Any  # cycles of a round's epilogue, None where the library overlaps it with the next round
    promote: Any  # cycles per element of C and of k on the fp32 lanes, None where accumulators stay
    fill: Any  # cycles per round
    l2_read: Any  # bytes per clock
    l2_write: Any
    a_bytes: Any  # bytes per element
    w_bytes: Any  # of what passes shared memory
    widen: Any  # cycles per weight element and SM to bring it to its arithmetic and its place, None where there is nothing to do
    a_total: Any  # bytes of the whole operand
    w_total: Any
    outputs: Any  # elements of C
    write: Any  # cycles to write C
    dram: Any  # cycles of DRAM traffic, C included
    partial_bytes: Any  # per element of a partial tile
    split_launch: Any  # cycles of the reduction kernel's launch


def overlap(a: Any, b: Any) -> Any:
    """Time of two activities that overlap imperfectly: the longer, plus a share of the shorter that grows as they near.

    A rational stand-in for the 3-norm, within 1.6 % of it, exact at equality and where one is zero; homogeneous, and
    increasing in both. The longer must be positive.

    >>> float(overlap(2.0, 2.0)), float(overlap(2.0, 0.0))
    (2.52, 2.0)
    """
    longer = np.maximum(a, b)
    shorter = np.minimum(a, b)
    ratio = shorter / longer
    return longer + EXPOSED * shorter * ratio * ratio


def _k_per_cta(p: Point, split: Any) -> Any:
    """Elements of k that one CTA works through, in whole steps."""
    step = K_STEP_BYTES / min(p.a_bytes, 2.0)
    return np.ceil(p.k / (split * step)) * step


def _per_tile(p: Point, tile_m: Any, tile_n: Any) -> tuple[Any, Any, Any]:
    """Tiles of C, busy cycles of an SM per tile and element of k, and cycles in which L2 serves all tiles."""
    rows = np.ceil(p.m / tile_m)
    columns = np.ceil(p.n / tile_n)
    per_k = np.maximum(2.0 * tile_m * tile_n / p.flops_per_clk, (p.m / rows * p.a_bytes + p.n / columns * p.w_bytes) / p.feed)
    if p.promote is not None:
        per_k = per_k + tile_m * tile_n * p.promote
    if p.widen is not None:
        per_k = np.maximum(per_k, p.n / columns * p.widen)
    return rows * columns * p.batch, per_k, (columns * p.a_total + rows * p.w_total) / p.l2_read


class Parts(NamedTuple):
    """A tile choice in cycles."""

    compute: Any  # of the whole grid
    l2: Any  # of L2 reads
    reduce: Any  # of the split-K reduction
    ctas: Any
    cta: Any  # of an SM, per CTA
    alone: Any  # of a CTA that has the SM to itself, at least


def parts(p: Point, tile_m: Any, tile_n: Any, split: Any) -> Parts:
    """Cycles of a tile choice."""
    tiles, per_k, l2 = _per_tile(p, tile_m, tile_n)
    ctas = tiles * split
    rounds = np.ceil(ctas / p.sm)
    k_cta = _k_per_cta(p, split)
    fill = p.fill * np.minimum(1.0, k_cta / FILL_DEPTH)
    main = np.maximum(rounds * per_k, p.serial) * k_cta + fill * rounds
    cta = per_k * k_cta + fill
    if p.epilogue is not None:
        epilogue = p.epilogue * np.maximum(1.0, (tile_m / 128.0) ** 2) * np.maximum(rounds - 1.0, 0.2 * (p.m > 16))
        main, cta = main + epilogue, cta + epilogue / rounds
    divided = np.asarray(split) > 1
    partials = p.outputs * p.partial_bytes * split
    write = np.where(divided, partials / p.l2_write, p.write)
    reduce = np.where(divided, p.split_launch + partials / p.l2_read + p.write, 0.0)
    return Parts(main + write, l2, reduce, ctas, cta + write * np.minimum(p.sm, ctas) / ctas, p.serial * k_cta + fill)


def resident_ctas(x: Mapping[str, np.ndarray], tile_m: Any, tile_n: Any) -> Any:
    """CTAs that an SM holds: three stages of operands in shared memory; accumulators and 64 further registers for each of
    the threads, of which 128 work on 128 x 64 elements of C."""
    stages = 3.0 * (tile_m + tile_n) * K_STEP_BYTES
    registers = tile_m * tile_n * (1.0 + 64.0 / 64.0)
    return np.clip(np.floor(np.minimum(x["smem_bytes"] / stages, x["registers"] / registers)), 1.0, 4.0)


def choose(p: Point, shape: tuple[int, ...], candidates: Candidates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tile rows, tile columns and split-K factor with the fewest cycles: `parts`, with what tiles share done once."""
    best = np.full(shape, np.inf)
    choice = np.zeros(shape, dtype=np.int64)
    shared: dict[int, tuple[Any, Any, Any, Any]] = {}
    for split in sorted({factor for _, _, splits in candidates for factor in splits}):
        k_cta = _k_per_cta(p, split)
        beside = p.write
        after: Any = 0.0
        if split > 1:
            partials = p.outputs * (p.partial_bytes * split)
            beside = partials / p.l2_write
            after = p.split_launch + partials / p.l2_read + p.write
        shared[split] = k_cta, p.fill * np.minimum(1.0, k_cta / FILL_DEPTH), beside, after
    tried = 0
    for tile_m, tile_n, splits in candidates:
        tiles, per_k, l2 = _per_tile(p, tile_m, tile_n)
        memory = overlap(l2, p.dram)
        for split in splits:
            k_cta, fill, beside, after = shared[split]
            rounds = np.ceil((tiles * split if split > 1 else tiles) / p.sm)
            cycles = overlap(np.maximum(rounds * per_k, p.serial) * k_cta + fill * rounds + beside, memory) + after
            better = cycles < best
            np.copyto(best, cycles, where=better)
            np.copyto(choice, tried, where=better)
            tried += 1
    every = np.asarray([(m, n, s) for m, n, splits in candidates for s in splits], dtype=float)
    return every[choice, 0], every[choice, 1], every[choice, 2]
