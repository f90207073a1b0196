"""Kernels whose atomics meet, or do not."""

import triton
import triton.language as tl


@triton.jit
def strided(out_ptr, addresses, stride, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Every thread adds to one of `addresses` places, `stride` words apart, again and again."""
    at = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) % addresses * stride
    for _ in range(ROUNDS):
        tl.atomic_add(out_ptr + at, 1, sem="relaxed")


@triton.jit
def counter(out_ptr, x_ptr, n, BLOCK: tl.constexpr):
    """Each CTA adds its sum to one place."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out_ptr, tl.sum(tl.load(x_ptr + at, mask=at < n, other=0.0)), sem="relaxed")


@triton.jit
def counters(out_ptr, COUNT: tl.constexpr):
    """Each CTA adds to every one of some counters."""
    tl.atomic_add(out_ptr + tl.arange(0, COUNT), 1, sem="relaxed")


@triton.jit
def twice(x_ptr, out_ptr, columns, BLOCK: tl.constexpr):
    """Every CTA reads all of `x`, one block after another."""
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, columns, BLOCK):
        total += tl.load(x_ptr + i + tl.arange(0, BLOCK))
    tl.store(out_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), total)


@triton.jit
def some_leave(x_ptr, out_ptr, used, columns, BLOCK: tl.constexpr):
    """The first `used` CTAs read a row each; the others have nothing to do."""
    row = tl.program_id(0)
    if row >= used:
        return
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(0, columns, BLOCK):
        total += tl.load(x_ptr + row * columns + i + tl.arange(0, BLOCK))
    tl.store(out_ptr + row * BLOCK + tl.arange(0, BLOCK), total)


@triton.jit
def every_other(x_ptr, out_ptr, stride, step, rows, columns, BLOCK: tl.constexpr):
    """Every `step`-th number of rows, into rows without gaps."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < columns)
    tl.store(out_ptr + row * columns + column, tl.load(x_ptr + row * stride + column * step, mask=inside), mask=inside)
