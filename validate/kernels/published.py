"""Kernels whose published figures are compared with predictions: float32 without TF32, attention on tensor descriptors, cross entropy.

The structure is that of the kernels which were measured: Triton's tutorials 03 and 06, and Liger-Kernel's cross entropy (Hsu et al. 2024,
arXiv 2410.10989).
"""

from __future__ import annotations

import triton
import triton.language as tl

from .gemm import grouped_tile


@triton.jit
def matmul_fp32(a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn, stride_cm, stride_cn, BLOCK_M: tl.constexpr,
                BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr):
    """C = A B in float32 throughout, without tensor cores; one tile a program."""
    pid_m, pid_n = grouped_tile(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    offs_m = (pid_m * BLOCK_M + tl.arange(0, BLOCK_M)) % M
    offs_n = (pid_n * BLOCK_N + tl.arange(0, BLOCK_N)) % N
    offs_k = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak
    b_ptrs = b_ptr + offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(tl.cdiv(K, BLOCK_K)):
        a = tl.load(a_ptrs, mask=offs_k[None, :] < K - k * BLOCK_K, other=0.0)
        b = tl.load(b_ptrs, mask=offs_k[:, None] < K - k * BLOCK_K, other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk
    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    c_ptrs = c_ptr + stride_cm * rows[:, None] + stride_cn * cols[None, :]
    tl.store(c_ptrs, acc, mask=(rows[:, None] < M) & (cols[None, :] < N))


@triton.jit
def attention_tma(q_desc, k_desc, v_desc, out_desc, lse_ptr, scale, N, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr,
                  BLOCK_N: tl.constexpr, SPECIALISED: tl.constexpr):
    """Non-causal attention of [heads N, HEAD_DIM] operands by tensor descriptors; N is a multiple of both blocks.

    The grid is (N / BLOCK_M, heads). `scale` holds the factor log2(e) and is folded into one multiply-add with the running maximum.
    SPECIALISED gives loads, products and softmax warps of their own (sm_100).
    """
    head = tl.program_id(1)
    first = head * N + tl.program_id(0) * BLOCK_M
    q = q_desc.load([first, 0])
    acc = tl.zeros((BLOCK_M, HEAD_DIM), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32) + 1.0
    top = tl.zeros((BLOCK_M,), dtype=tl.float32) - float("inf")
    for start in tl.range(0, N, BLOCK_N, warp_specialize=SPECIALISED):
        k = k_desc.load([head * N + start, 0])
        score = tl.dot(q, k.T)
        new_top = tl.maximum(top, tl.max(score, 1) * scale)
        p = tl.exp2(score * scale - new_top[:, None])
        fade = tl.exp2(top - new_top)
        total = total * fade + tl.sum(p, 1)
        v = v_desc.load([head * N + start, 0])
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None])
        top = new_top
    tl.store(lse_ptr + first + tl.arange(0, BLOCK_M), top + tl.log2(total))
    out_desc.store([first, 0], (acc / total[:, None]).to(out_desc.dtype))


@triton.jit
def cross_entropy(x_ptr, target_ptr, loss_ptr, V, stride, rows, BLOCK: tl.constexpr):
    """loss[row] = logsumexp(x[row]) - x[row, target[row]]; x becomes its own gradient, divided by the number of rows."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    target = tl.load(target_ptr + row)
    chosen = tl.load(x_ptr + target).to(tl.float32)
    top = float("-inf")
    total = 0.0
    for start in range(0, V, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + cols, mask=cols < V, other=float("-inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(x, 0))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(x - new_top), 0)
        top = new_top
    for start in range(0, V, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + cols, mask=cols < V, other=float("-inf")).to(tl.float32)
        p = tl.exp(x - top) / total
        grad = tl.where(cols == target, p - 1.0, p) / rows
        tl.store(x_ptr + cols, grad.to(x_ptr.dtype.element_ty), mask=cols < V)
    tl.store(loss_ptr + row, top + tl.log(total) - chosen)
