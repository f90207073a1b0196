"""One GEMM with tensor descriptors of the host and with its own, for tests of `presilicon.sim.sm`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _multiply(a_desc, b_desc, c_desc, M, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    pid = tl.program_id(0)
    down = tl.cdiv(M, BM)
    row, column = (pid % down) * BM, (pid // down) * BN
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in tl.range(0, tl.cdiv(K, BK)):
        acc = tl.dot(a_desc.load([row, k * BK]), b_desc.load([column, k * BK]).T, acc)
    c_desc.store([row, column], acc.to(tl.float16))


@triton.jit
def by_host(a_desc, b_desc, c_desc, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C = A B^T through descriptors that the host makes."""
    _multiply(a_desc, b_desc, c_desc, M, K, BM, BN, BK)


@triton.jit
def by_kernel(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C = A B^T through descriptors that the kernel makes."""
    a_desc = tl.make_tensor_descriptor(a_ptr, [M, K], [K, 1], [BM, BK])
    b_desc = tl.make_tensor_descriptor(b_ptr, [N, K], [K, 1], [BN, BK])
    c_desc = tl.make_tensor_descriptor(c_ptr, [M, N], [N, 1], [BM, BN])
    _multiply(a_desc, b_desc, c_desc, M, K, BM, BN, BK)
