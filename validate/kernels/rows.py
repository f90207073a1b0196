"""Kernels whose programs take rows or tiles of memory: norms, softmax, elementwise chains, gates, reductions, transpose, gather."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rms_norm(x_ptr, weight_ptr, out_ptr, N, stride, epsilon, BLOCK: tl.constexpr):
    """out = x / sqrt(mean(x^2) + epsilon) * weight, one row a program."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < N
    x = tl.load(x_ptr + row * stride + cols, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + cols, mask=mask, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(x * x, 0) / N + epsilon)
    tl.store(out_ptr + row * stride + cols, (x * inverse * weight).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def layer_norm(x_ptr, weight_ptr, bias_ptr, out_ptr, N, stride, epsilon, BLOCK: tl.constexpr):
    """out = (x - mean) / sqrt(variance + epsilon) * weight + bias, one row a program."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < N
    x = tl.load(x_ptr + row * stride + cols, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, 0) / N
    centred = tl.where(mask, x - mean, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 0) / N + epsilon)
    weight = tl.load(weight_ptr + cols, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * stride + cols, (centred * inverse * weight + bias).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def softmax(out_ptr, x_ptr, x_stride, out_stride, M, N, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    """Softmax of rows, each program taking every num_programs-th row; loads are pipelined over STAGES rows (Triton's tutorial 02)."""
    for row in tl.range(tl.program_id(0), M, tl.num_programs(0), num_stages=STAGES):
        cols = tl.arange(0, BLOCK)
        mask = cols < N
        x = tl.load(x_ptr + row * x_stride + cols, mask=mask, other=float("-inf"))
        top = x - tl.max(x, axis=0)
        p = tl.exp(top.to(tl.float32))
        tl.store(out_ptr + row * out_stride + cols, (p / tl.sum(p, axis=0)).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def elementwise_chain(x_ptr, y_ptr, out_ptr, size, OPS: tl.constexpr, BLOCK: tl.constexpr):
    """out = f(x, y) with OPS rounds of multiply, add and maximum on float32."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < size
    x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    for _ in tl.static_range(OPS):
        x = tl.maximum(x * 0.875 + y, -1.0)
    tl.store(out_ptr + offs, x.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def gelu(x_ptr, out_ptr, size, BLOCK: tl.constexpr):
    """The tanh form of GELU."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < size
    x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    tl.store(out_ptr + offs, (x * tl.sigmoid(2.0 * inner)).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def swiglu(x_ptr, out_ptr, N, BLOCK: tl.constexpr):
    """out[row] = silu(x[row, :N]) x[row, N:]; x [rows, 2 N]."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < N
    gate = tl.load(x_ptr + row * 2 * N + cols, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * N + N + cols, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * N + cols, (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def row_sum(x_ptr, out_ptr, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """out[row] = sum of x[row, :] in float32."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    base = x_ptr + rows[:, None].to(tl.int64) * N
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, N, BLOCK_N):
        cols = start + tl.arange(0, BLOCK_N)
        total += tl.load(base + cols[None, :], mask=(rows[:, None] < M) & (cols[None, :] < N), other=0.0).to(tl.float32)
    tl.store(out_ptr + rows, tl.sum(total, 1), mask=rows < M)


@triton.jit
def column_sum(x_ptr, out_ptr, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr):
    """out[split, column] = sum of every SPLITS-th block of rows in float32."""
    cols = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(split * BLOCK_M, M, SPLITS * BLOCK_M):
        rows = start + tl.arange(0, BLOCK_M)
        place = rows[:, None].to(tl.int64) * N + cols[None, :]
        total += tl.load(x_ptr + place, mask=(rows[:, None] < M) & (cols[None, :] < N), other=0.0).to(tl.float32)
    tl.store(out_ptr + split * N + cols, tl.sum(total, 0), mask=cols < N)


@triton.jit
def transpose(x_ptr, out_ptr, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """out [N, M] = x [M, N]^T, a tile a program."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    x = tl.load(x_ptr + rows[:, None].to(tl.int64) * N + cols[None, :], mask=(rows[:, None] < M) & (cols[None, :] < N), other=0.0)
    out_ptrs = out_ptr + cols[:, None].to(tl.int64) * M + rows[None, :]
    tl.store(out_ptrs, tl.trans(x), mask=(cols[:, None] < N) & (rows[None, :] < M))


@triton.jit
def gather_rows(table_ptr, id_ptr, out_ptr, N, BLOCK: tl.constexpr):
    """out[i] = table[id[i]], a piece of a row a program."""
    i = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = cols < N
    row = tl.load(id_ptr + i).to(tl.int64)
    tl.store(out_ptr + i * N + cols, tl.load(table_ptr + row * N + cols, mask=mask), mask=mask)


@triton.jit
def quantise_rows(x_ptr, out_ptr, scale_ptr, N, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    """fp8 copy of each row, scaled so that its largest number becomes LARGEST, and the scale that undoes it."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    mask = cols < N
    x = tl.load(x_ptr + row * N + cols, mask=mask, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), 0) / LARGEST, 1.0e-12)
    tl.store(out_ptr + row * N + cols, (x / scale).to(out_ptr.dtype.element_ty), mask=mask)
    tl.store(scale_ptr + row, scale)
