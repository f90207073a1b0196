"""Kernels of `test_scattered`."""

import triton
import triton.language as tl


@triton.jit
def paged_product(x_ptr, rows_ptr, q_ptr, out_ptr, n, K: tl.constexpr, BLOCK: tl.constexpr):
    """A product with rows that a table names."""
    pid, at, k = tl.program_id(0), tl.arange(0, BLOCK), tl.arange(0, K)
    q = tl.load(q_ptr + at[:, None] * K + k[None, :])
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for i in range(0, n, BLOCK):
        rows = tl.load(rows_ptr + pid * n + i + at)
        total += tl.dot(q, tl.load(x_ptr + rows[None, :] * K + k[:, None]))
    tl.store(out_ptr + pid * BLOCK * BLOCK + at[:, None] * BLOCK + at[None, :], total)


@triton.jit
def rows_of(x_ptr, rows_ptr, out_ptr, K: tl.constexpr):
    """An embedding."""
    pid, k = tl.program_id(0), tl.arange(0, K)
    row = tl.load(rows_ptr + pid)
    tl.store(out_ptr + pid * K + k, tl.load(x_ptr + row * K + k))


@triton.jit
def taken(x_ptr, flags_ptr, out_ptr, BLOCK: tl.constexpr):
    """Interleaved stores under a mask that only data knows."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    on = tl.load(flags_ptr + at) != 0
    tl.store(out_ptr + at, tl.load(x_ptr + at), mask=on)
