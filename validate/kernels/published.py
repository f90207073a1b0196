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
def tile_at(ptr, rows, columns, row_stride, column_stride, first_row, ROWS: tl.constexpr, COLUMNS: tl.constexpr, BY_COLUMNS: tl.constexpr,
            BLOCK_POINTERS: tl.constexpr):
    """Pointer to a tile of a matrix [rows, columns], from `first_row` on; BLOCK_POINTERS as Triton had them up to 3.6, else one for each
    element."""
    if BLOCK_POINTERS:
        order: tl.constexpr = (0, 1) if BY_COLUMNS else (1, 0)
        tile = tl.make_block_ptr(ptr, (rows, columns), (row_stride, column_stride), (first_row, 0), (ROWS, COLUMNS), order)
    else:
        tile = ptr + (first_row + tl.arange(0, ROWS))[:, None] * row_stride + tl.arange(0, COLUMNS)[None, :] * column_stride
    return tile


@triton.jit
def moved(pointer, rows, columns, row_stride, column_stride, BLOCK_POINTERS: tl.constexpr):
    """A pointer of `tile_at`, so many rows and columns on."""
    if BLOCK_POINTERS:
        pointer = tl.advance(pointer, (rows, columns))
    else:
        pointer += rows * row_stride + columns * column_stride
    return pointer


@triton.jit
def attend_tiles(acc, total, top, q, k_tile, v_tile, v_rows, v_columns, rows, scale, begin, end, BLOCK_N: tl.constexpr,
                 HEAD_DIM: tl.constexpr, MASKED: tl.constexpr, BLOCK_POINTERS: tl.constexpr):
    """Online softmax over key blocks from `begin` to `end`, by pointers that stand at the first key; MASKED hides later keys."""
    k_tile = moved(k_tile, 0, begin, 1, HEAD_DIM, BLOCK_POINTERS)
    v_tile = moved(v_tile, begin, 0, v_rows, v_columns, BLOCK_POINTERS)
    for start in range(begin, end, BLOCK_N):
        score = tl.dot(q, tl.load(k_tile))
        if MASKED:
            seen = rows[:, None] >= start + tl.arange(0, BLOCK_N)[None, :]
            score = score * scale + tl.where(seen, 0, -1.0e6)
            new_top = tl.maximum(top, tl.max(score, 1))
            score -= new_top[:, None]
        else:
            new_top = tl.maximum(top, tl.max(score, 1) * scale)
            score = score * scale - new_top[:, None]
        p = tl.math.exp2(score)
        fade = tl.math.exp2(top - new_top)
        total = total * fade + tl.sum(p, 1)
        acc = acc * fade[:, None]
        v = tl.load(v_tile)
        acc = tl.dot(p.to(v.dtype), v, acc)
        top = new_top
        k_tile = moved(k_tile, 0, BLOCK_N, 1, HEAD_DIM, BLOCK_POINTERS)
        v_tile = moved(v_tile, BLOCK_N, 0, v_rows, v_columns, BLOCK_POINTERS)
    return acc, total, top


@triton.jit
def attention_tiles(q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, scale, N, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                    CAUSAL: tl.constexpr, V_BY_COLUMNS: tl.constexpr, BLOCK_POINTERS: tl.constexpr):
    """Attention of [heads, N, HEAD_DIM] operands, as the tutorial had it in 2024; N is a multiple of both blocks.

    The grid is (N / BLOCK_M, heads). `scale` holds the factor log2(e). V_BY_COLUMNS: v is [heads, HEAD_DIM, N], as fp8 products want it.
    """
    head = tl.program_id(1)
    base = head.to(tl.int64) * N * HEAD_DIM
    first = tl.program_id(0) * BLOCK_M
    v_rows, v_columns = HEAD_DIM, 1
    if V_BY_COLUMNS:
        v_rows, v_columns = 1, N
    q_tile = tile_at(q_ptr + base, N, HEAD_DIM, HEAD_DIM, 1, first, BLOCK_M, HEAD_DIM, False, BLOCK_POINTERS)
    k_tile = tile_at(k_ptr + base, HEAD_DIM, N, 1, HEAD_DIM, 0, HEAD_DIM, BLOCK_N, True, BLOCK_POINTERS)
    v_tile = tile_at(v_ptr + base, N, HEAD_DIM, v_rows, v_columns, 0, BLOCK_N, HEAD_DIM, V_BY_COLUMNS, BLOCK_POINTERS)
    rows = first + tl.arange(0, BLOCK_M)
    acc = tl.zeros((BLOCK_M, HEAD_DIM), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32) + 1.0
    top = tl.zeros((BLOCK_M,), dtype=tl.float32) - float("inf")
    q = tl.load(q_tile)
    end = first if CAUSAL else N
    acc, total, top = attend_tiles(acc, total, top, q, k_tile, v_tile, v_rows, v_columns, rows, scale, 0, end, BLOCK_N, HEAD_DIM, False,
                                   BLOCK_POINTERS)
    if CAUSAL:
        acc, total, top = attend_tiles(acc, total, top, q, k_tile, v_tile, v_rows, v_columns, rows, scale, first, first + BLOCK_M, BLOCK_N,
                                       HEAD_DIM, True, BLOCK_POINTERS)
    tl.store(lse_ptr + head * N + rows, top + tl.math.log2(total))
    out_tile = tile_at(out_ptr + base, N, HEAD_DIM, HEAD_DIM, 1, first, BLOCK_M, HEAD_DIM, False, BLOCK_POINTERS)
    tl.store(out_tile, (acc / total[:, None]).to(out_ptr.dtype.element_ty))


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
