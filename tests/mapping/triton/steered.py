"""Kernels that data, float scalars, assertions or library functions steer."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ragged(x_ptr, out_ptr, lengths_ptr, flags_ptr, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    length = tl.load(lengths_ptr + row)
    flag = tl.load(flags_ptr + row)
    acc = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, length, BLOCK):  # the rows
        at = start + tl.arange(0, BLOCK)
        acc += tl.load(x_ptr + row * width + at, mask=at < length, other=0.0)
    if flag > 0:  # the choice
        acc = tl.exp(acc)
        acc = acc / tl.sum(acc)
    else:
        acc = acc * 2
    if flag == 7:  # the return
        return
    i = flag
    while i < 100:  # the walk
        acc += tl.load(x_ptr + i + tl.arange(0, BLOCK))
        i = i * 2 + 1
    tl.store(out_ptr + row * BLOCK + tl.arange(0, BLOCK), acc)


@triton.jit
def dropout(x_ptr, out_ptr, p, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    if p > 0.0:
        x = tl.where(tl.rand(17, at) > p, x / (1 - p), 0.0)
    tl.store(out_ptr + at, x, mask=at < n)


@triton.jit
def compared(x_ptr, p, q, HOW: tl.constexpr):
    if HOW == 0:
        right = p < q
    elif HOW == 1:
        right = p <= q
    elif HOW == 2:
        right = p == q
    elif HOW == 3:
        right = p != q
    elif HOW == 4:
        right = not (p < q)
    else:
        right = -p > q
    if right:
        tl.store(x_ptr, 1.0)


@triton.jit
def asserting(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.device_assert(x > 0, "positive")
    tl.store(x_ptr + at, x + 1, mask=at < n)


@triton.jit
def printing(x_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < n)
    tl.device_print("x", x)
    tl.store(x_ptr + at, x + 1, mask=at < n)


@triton.jit
def sines(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, tl.div_rn(tl.sin(x), x + 2))


@triton.jit
def newton(x_ptr, out_ptr, tol, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x_ptr + at)
    x = a
    while tl.max(tl.abs(x * x - a)) > tol:
        x = 0.5 * (x + tl.div_rn(a, x))
    tl.store(out_ptr + at, x)


@triton.jit
def square(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, tl.dot(x, x))


@triton.jit
def masked_copy(x_ptr, flags_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    taken = tl.load(flags_ptr + at) != 0
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=taken), mask=taken)


@triton.jit
def switched(x_ptr, first, second, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    if first:
        tl.store(x_ptr + at, 1.0)
    if second:
        tl.store(x_ptr + BLOCK + at, 2.0)


@triton.jit
def windowed(x_ptr, out_ptr, n, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    acc = tl.zeros((BLOCK_M, BLOCK_M), tl.float32)
    for start in range(0, n, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        seen = (rows[:, None] >= columns[None, :]) & (rows[:, None] <= columns[None, :] + WINDOW)
        if tl.max(tl.max(seen.to(tl.int32), axis=1), axis=0) != 0:  # the tile
            x = tl.load(x_ptr + rows[:, None] * n + columns[None, :])
            acc += tl.dot(x, tl.trans(x))
    tl.store(out_ptr + rows[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :], acc)


@triton.jit
def swapped(lock_ptr, out_ptr, n):
    old = tl.atomic_cas(lock_ptr + tl.program_id(0), 0, 1)
    tl.store(out_ptr + tl.program_id(0), old + n)


@triton.jit
def largest(x_ptr, out_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.atomic_max(out_ptr, tl.max(x, axis=0))
