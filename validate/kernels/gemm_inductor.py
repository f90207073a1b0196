"""The matrix multiplication that torch's inductor generates for one tile a program, of the same structure.

Sizes and strides are constants, K is a multiple of BLOCK_K and needs no mask, and offsets are promised to be contiguous where an operand is
dense and no smaller than a tile.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def matmul_inductor(a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, B_NK: tl.constexpr, BLOCK_M: tl.constexpr,
                    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr):
    """C[M, N] = A[M, K] B[K, N]; B_NK: K runs fastest in B, else N."""
    pid = tl.program_id(0)
    grid_m: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M
    grid_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    width: tl.constexpr = GROUP_M * grid_n
    group = pid // width
    rows_left = min(grid_m - group * GROUP_M, GROUP_M)
    pid_m = group * GROUP_M + pid % rows_left
    pid_n = (pid % width) // rows_left
    tl.assume(pid_m >= 0)
    tl.assume(pid_n >= 0)
    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_m = tl.max_contiguous(tl.multiple_of(rows % M, BLOCK_M), BLOCK_M) if M >= BLOCK_M else rows % M
    offs_n = tl.max_contiguous(tl.multiple_of(cols % N, BLOCK_N), BLOCK_N) if N >= BLOCK_N else cols % N
    offs_k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(tl.cdiv(K, BLOCK_K)):
        a_k = offs_k[None, :] + step * BLOCK_K
        b_k = offs_k[:, None] + step * BLOCK_K
        a = tl.load(a_ptr + (a_k + K * offs_m[:, None]))
        b = tl.load(b_ptr + (b_k + K * offs_n[None, :] if B_NK else offs_n[None, :] + N * b_k))
        acc += tl.dot(a, b, out_dtype=tl.float32)
    out_rows = (pid_m * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    out_cols = (pid_n * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    tl.store(c_ptr + (out_cols + N * out_rows), acc.to(c_ptr.dtype.element_ty), mask=(out_rows < M) & (out_cols < N))
