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
def square(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, tl.dot(x, x))


@triton.jit
def masked_copy(x_ptr, flags_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    taken = tl.load(flags_ptr + at) != 0
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=taken), mask=taken)
