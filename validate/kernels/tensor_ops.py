"""Implicit-GEMM convolution and chunked linear attention."""

from __future__ import annotations

import triton
import triton.language as tl

from .gemm import grouped_tile


@triton.jit
def conv2d(x_ptr, w_ptr, out_ptr, BATCH, HEIGHT, WIDTH, OUT_H, OUT_W, CHANNELS: tl.constexpr, FILTERS: tl.constexpr, R: tl.constexpr,
           S: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
           GROUP_M: tl.constexpr):
    """Convolution as a GEMM that is never written out: rows are output pixels, depth is (r, s, channel).

    x [BATCH, HEIGHT, WIDTH, CHANNELS], w [FILTERS, R, S, CHANNELS], out [BATCH, OUT_H, OUT_W, FILTERS].
    """
    pixels = BATCH * OUT_H * OUT_W
    pid_m, pid_n = grouped_tile(tl.program_id(0), tl.cdiv(pixels, BLOCK_M), tl.cdiv(FILTERS, BLOCK_N), GROUP_M)
    rows = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    top = rows // OUT_W % OUT_H * STRIDE - PAD
    left = rows % OUT_W * STRIDE - PAD
    image = rows // (OUT_W * OUT_H) * HEIGHT
    offs_k = tl.arange(0, BLOCK_K)
    steps: tl.constexpr = (CHANNELS + BLOCK_K - 1) // BLOCK_K
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(R * S * steps):
        tap = step // steps
        channel = step % steps * BLOCK_K + offs_k
        y = top + tap // S
        x = left + tap % S
        inside = (rows < pixels) & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
        a_ptrs = x_ptr + ((image + y) * WIDTH + x)[:, None] * CHANNELS + channel[None, :]
        a = tl.load(a_ptrs, mask=inside[:, None] & (channel[None, :] < CHANNELS), other=0.0)
        b_ptrs = w_ptr + (cols[None, :] * (R * S) + tap) * CHANNELS + channel[:, None]
        b = tl.load(b_ptrs, mask=(cols[None, :] < FILTERS) & (channel[:, None] < CHANNELS), other=0.0)
        acc = tl.dot(a, b, acc)
    out_ptrs = out_ptr + rows[:, None] * FILTERS + cols[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=(rows[:, None] < pixels) & (cols[None, :] < FILTERS))


@triton.jit
def linear_attention(q_ptr, k_ptr, v_ptr, decay_ptr, out_ptr, T, KEY_DIM: tl.constexpr, VALUE_DIM: tl.constexpr, CHUNK: tl.constexpr,
                     BLOCK_V: tl.constexpr):
    """out_t = q_t S_t with S_t = exp(decay_t) S_(t-1) + k_t^T v_t, chunk by chunk: inside a chunk as masked attention, between chunks by S.

    q and k [heads, T, KEY_DIM], v and out [heads, T, VALUE_DIM], decay [heads, T] float32 and not positive; T a multiple of CHUNK. One
    program a head and BLOCK_V value columns; S stays in registers.
    """
    head = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    offs_t = tl.arange(0, CHUNK)
    offs_k = tl.arange(0, KEY_DIM)
    state = tl.zeros((KEY_DIM, BLOCK_V), dtype=tl.float32)
    for start in range(0, T, CHUNK):
        t = head * T + start + offs_t
        q = tl.load(q_ptr + t[:, None] * KEY_DIM + offs_k[None, :])
        k = tl.load(k_ptr + t[:, None] * KEY_DIM + offs_k[None, :])
        v = tl.load(v_ptr + t[:, None] * VALUE_DIM + cols[None, :])
        decay = tl.load(decay_ptr + t)
        since = tl.cumsum(decay, 0)
        whole = tl.sum(decay, 0)
        score = tl.dot(q, tl.trans(k))
        gap = since[:, None] - since[None, :]
        score = tl.where(offs_t[:, None] >= offs_t[None, :], score * tl.exp(tl.minimum(gap, 0.0)), 0.0)
        out = tl.dot(score.to(v.dtype), v)
        out += tl.dot(q, state.to(q.dtype)) * tl.exp(since)[:, None]
        tl.store(out_ptr + t[:, None] * VALUE_DIM + cols[None, :], out.to(out_ptr.dtype.element_ty))
        late = (k.to(tl.float32) * tl.exp(whole - since)[:, None]).to(k.dtype)
        state = tl.dot(tl.trans(late), v, state * tl.exp(whole))
