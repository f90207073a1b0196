"""Two Triton kernels, and the launches of them that are to be predicted."""

import torch
import triton
import triton.language as tl


@triton.jit
def add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=mask) + tl.load(y_ptr + at, mask=mask), mask=mask)


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    a = a_ptr + rows[:, None] * K + k[None, :]
    b = b_ptr + k[:, None] * N + cols[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(0, K, BLOCK_K):
        total += tl.dot(tl.load(a), tl.load(b))
        a += BLOCK_K
        b += BLOCK_K * N
    tl.store(c_ptr + rows[:, None] * N + cols[None, :], total.to(tl.bfloat16))


def launches():
    n = 1 << 24
    x, y, out = (torch.empty(n, device="meta") for _ in range(3))
    yield add, lambda meta: (triton.cdiv(n, meta["BLOCK"]),), (x, y, out, n), {"BLOCK": 1024}

    m = 4096
    a, b, c = (torch.empty(m, m, dtype=torch.bfloat16, device="meta") for _ in range(3))
    blocks = {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
    yield matmul, lambda meta: (triton.cdiv(m, meta["BLOCK_M"]), triton.cdiv(m, meta["BLOCK_N"])), (a, b, c, m, m, m), blocks
