"""Kernels whose addresses overlap, repeat or depend on data."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pages(q_ptr, pages_ptr, table_ptr, out_ptr, length, PAGE: tl.constexpr, D: tl.constexpr):
    """Every program reads its own `length` pages, which a table names."""
    pid = tl.program_id(0)
    rows, d, t = tl.arange(0, 16), tl.arange(0, D), tl.arange(0, PAGE)
    q = tl.load(q_ptr + pid * 16 * D + rows[:, None] * D + d[None, :])
    acc = tl.zeros((16, PAGE), tl.float32)
    for i in range(length):
        page = tl.load(table_ptr + pid * length + i)
        k = tl.load(pages_ptr + (page * PAGE + t)[None, :] * D + d[:, None])
        acc += tl.dot(q, k)
    tl.store(out_ptr + pid * 16 * PAGE + rows[:, None] * PAGE + t[None, :], acc)


@triton.jit
def cross(x_ptr, y_ptr, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A stencil of five points."""
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (r > 0) & (r < height - 1) & (c > 0) & (c < width - 1)
    at = r * width + c
    near = tl.load(x_ptr + at - 1, mask=inside, other=0.0) + tl.load(x_ptr + at + 1, mask=inside, other=0.0)
    far = tl.load(x_ptr + at - width, mask=inside, other=0.0) + tl.load(x_ptr + at + width, mask=inside, other=0.0)
    tl.store(y_ptr + at, tl.load(x_ptr + at, mask=inside, other=0.0) + near + far, mask=inside)


@triton.jit
def windows(x_ptr, y_ptr, step, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    """Sums of `TAPS` windows of one buffer, `step` apart, behind a cache that holds none of them."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK,), tl.float32)
    for tap in tl.static_range(TAPS):
        acc += tl.load(x_ptr + at + tap * step, cache_modifier=".cg")
    tl.store(y_ptr + at, acc)


@triton.jit
def rows_before(x_ptr, y_ptr, width, TAPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums of each row of a tile and those just before it: a causal convolution in one dimension, whose rows its warps share."""
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tap in tl.static_range(TAPS):
        acc += tl.load(x_ptr + (r - tap)[:, None] * width + c[None, :], mask=(r >= tap)[:, None], other=0.0)
    tl.store(y_ptr + r[:, None] * width + c[None, :], acc.to(tl.bfloat16))


@triton.jit
def update(p_ptr, g_ptr, n, BLOCK: tl.constexpr):
    """A step in float32 by gradients of half the width: a thread's 32 bytes take two loads, and division goes several ways."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    p, g = tl.load(p_ptr + at, mask=at < n), tl.load(g_ptr + at, mask=at < n).to(tl.float32)
    tl.store(p_ptr + at, p - g / tl.sqrt(p), mask=at < n)


@triton.jit
def partial_sums(x_ptr, out_ptr, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """Programs write, one after the other, to a few rows."""
    pid = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + pid % GROUPS * BLOCK + at, tl.load(x_ptr + pid * BLOCK + at))


@triton.jit
def scatter(x_ptr, bins_ptr, BLOCK: tl.constexpr):
    """Counts values, each in a bin of its own."""
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.atomic_add(bins_ptr + x, 1)


@triton.jit
def early_return(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """Rows that `y` marks are only cleared; the others are read twice and written."""
    row = tl.program_id(0)
    mark = tl.load(y_ptr + row)
    x_ptr += row * n
    if mark == -100:
        for i in range(0, n, BLOCK):
            tl.store(x_ptr + i + tl.arange(0, BLOCK), 0.0)
        return
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, n, BLOCK):
        total += tl.exp(tl.load(x_ptr + i + tl.arange(0, BLOCK)))
    scale = 1.0 / tl.sum(total)
    for i in range(0, n, BLOCK):
        x = tl.load(x_ptr + i + tl.arange(0, BLOCK))
        tl.store(x_ptr + i + tl.arange(0, BLOCK), tl.exp(x) * scale)


@triton.jit
def histogram(x_ptr, bins_ptr, BINS: tl.constexpr, BLOCK: tl.constexpr):
    """Triton's own histogram: many jumps of one line, each on a value that was read."""
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.atomic_add(bins_ptr + tl.arange(0, BINS), tl.histogram(x, BINS))


@triton.jit
def roles(a_desc, b_desc, c_desc, tiles_m, tiles, depth, PROGRAMS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
          APART: tl.constexpr):
    """A persistent matrix product; with `APART` warps of their own fetch, multiply and write."""
    for tile in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=True, warp_specialize=APART):
        m, n = tile % tiles_m, tile // tiles_m
        acc = tl.zeros((BM, BN), tl.float32)
        for k in range(depth):
            acc = tl.dot(a_desc.load([m * BM, k * BK]), b_desc.load([n * BN, k * BK]).T, acc)
        c_desc.store([m * BM, n * BN], acc.to(tl.float16))


@triton.jit
def running_sums(x_ptr, y_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums down the columns: some lanes of each warp pass on their part, and all go on together."""
    at = tl.program_id(0) * ROWS * COLUMNS + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(y_ptr + at, tl.cumsum(tl.load(x_ptr + at), 0))


@triton.jit
def copy_between(x_ptr, out_ptr, first, last, BLOCK: tl.constexpr):
    """Programs from `first` up to `last` copy a block each, the others do nothing."""
    pid = tl.program_id(0)
    if (pid >= first) & (pid < last):
        at = (pid - first) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out_ptr + at, tl.load(x_ptr + at))
