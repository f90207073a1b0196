"""Triton kernels for the tests of `presilicon kernel` and `presilicon tune`; the tests write files that import some of them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=mask) + tl.load(y_ptr + at, mask=mask), mask=mask)


@triton.autotune([triton.Config({"BLOCK": 256}, num_warps=2), triton.Config({"BLOCK": 1024}, num_warps=4)], key=["n"])
@triton.jit
def tuned(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n) * 2.0, mask=at < n)


@triton.jit
def broken(x_ptr, BLOCK: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, BLOCK), tl.zeros((BLOCK, 2), dtype=tl.float32))


@triton.jit
def endless(x_ptr, n):
    i = 0
    while i < n:
        tl.store(x_ptr + i, 1.0)
        i += 0 * n


@triton.jit
def by_data(count_ptr, x_ptr, BLOCK: tl.constexpr):
    trips = tl.load(count_ptr)
    at = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for k in range(trips):
        total += tl.load(x_ptr + k * BLOCK + at)
    tl.store(x_ptr + at, total)


@triton.jit
def talking(x_ptr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    tl.device_print("x", x)
    tl.store(x_ptr + at, x)


@triton.jit
def assembly(x_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    y = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)
    tl.store(x_ptr + at, y)


@triton.jit
def shared_tile(x_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ks = tl.arange(0, COLS)
    a = tl.load(x_ptr + rows[:, None] * COLS + ks[None, :])
    b = tl.load(x_ptr + ks[:, None] * COLS + ks[None, :])
    tl.store(out_ptr + rows[:, None] * COLS + ks[None, :], tl.dot(a, b))


def floats(*shape: int) -> torch.Tensor:
    """A float32 tensor without data."""
    return torch.empty(*shape, device="meta")
