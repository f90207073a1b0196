"""Attention kernels: FlashAttention forward (causal, grouped-query, sliding window), split-KV decode, block-sparse.

FlashAttention: Dao 2023, arXiv 2307.08691; split-KV decode: Dao et al. 2023, "Flash-Decoding for long-context inference".
"""

from __future__ import annotations

import triton
import triton.language as tl

_FLOOR = tl.constexpr(-1.0e30)


@triton.jit
def attend(acc, total, top, q, k_base, v_base, stride_kn, stride_vn, rows, scale, begin, end, KV, WINDOW, BLOCK_N: tl.constexpr,
           HEAD_DIM: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    """Online softmax over key blocks from `begin` to `end`; `rows` are the key positions that the queries stand at."""
    offs_d = tl.arange(0, HEAD_DIM)
    for start in range(begin, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        if MASKED:
            k = tl.load(k_base + keys[None, :] * stride_kn + offs_d[:, None], mask=keys[None, :] < KV, other=0.0)
        else:
            k = tl.load(k_base + keys[None, :] * stride_kn + offs_d[:, None])
        score = tl.dot(q, k) * scale
        if MASKED:
            seen = (keys < KV)[None, :]
            if CAUSAL:
                seen = seen & (keys[None, :] <= rows[:, None])
            if WINDOWED:
                seen = seen & (keys[None, :] > rows[:, None] - WINDOW)
            score = tl.where(seen, score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        p = tl.exp2(score - new_top[:, None])
        fade = tl.exp2(top - new_top)
        total = total * fade + tl.sum(p, 1)
        if MASKED:
            v = tl.load(v_base + keys[:, None] * stride_vn + offs_d[None, :], mask=keys[:, None] < KV, other=0.0)
        else:
            v = tl.load(v_base + keys[:, None] * stride_vn + offs_d[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None])
        top = new_top
    return acc, total, top


@triton.jit
def flash_attention(q_ptr, k_ptr, v_ptr, out_ptr, scale, Q, KV, WINDOW, stride_qh, stride_qm, stride_kh, stride_kn, stride_vh, stride_vn,
                    stride_oh, stride_om, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
                    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr):
    """out = softmax(scale q k^T) v; q [batch heads, Q, HEAD_DIM], k and v [batch heads / GROUP, KV, HEAD_DIM].

    The last query stands at the last key. Blocks that every row sees whole are done without masks; the longest programs come first.
    `scale` holds the factor log2(e).
    """
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, HEAD_DIM)
    q = tl.load(q_ptr + head * stride_qh + rows[:, None] * stride_qm + offs_d[None, :], mask=rows[:, None] < Q, other=0.0)
    k_base = k_ptr + head // GROUP * stride_kh
    v_base = v_ptr + head // GROUP * stride_vh
    acc = tl.zeros((BLOCK_M, HEAD_DIM), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    top = tl.zeros((BLOCK_M,), dtype=tl.float32) + _FLOOR
    first = block * BLOCK_M + KV - Q
    stand = rows + KV - Q
    end = KV
    whole_end = KV // BLOCK_N * BLOCK_N
    if CAUSAL:
        end = min(KV, first + BLOCK_M)
        whole_end = min(whole_end, (first + 1) // BLOCK_N * BLOCK_N)
    begin = 0
    whole_begin = 0
    if WINDOWED:
        begin = max(0, first - WINDOW + 1) // BLOCK_N * BLOCK_N
        whole_begin = min(tl.cdiv(max(0, first + BLOCK_M - WINDOW), BLOCK_N) * BLOCK_N, tl.cdiv(end, BLOCK_N) * BLOCK_N)
        acc, total, top = attend(acc, total, top, q, k_base, v_base, stride_kn, stride_vn, stand, scale, begin, whole_begin, KV, WINDOW,
                                 BLOCK_N, HEAD_DIM, True, CAUSAL, WINDOWED)
    whole_end = max(whole_begin, whole_end)
    acc, total, top = attend(acc, total, top, q, k_base, v_base, stride_kn, stride_vn, stand, scale, whole_begin, whole_end, KV, WINDOW,
                             BLOCK_N, HEAD_DIM, False, CAUSAL, WINDOWED)
    acc, total, top = attend(acc, total, top, q, k_base, v_base, stride_kn, stride_vn, stand, scale, whole_end, end, KV, WINDOW,
                             BLOCK_N, HEAD_DIM, True, CAUSAL, WINDOWED)
    out = acc / total[:, None]
    out_ptrs = out_ptr + head * stride_oh + rows[:, None] * stride_om + offs_d[None, :]
    tl.store(out_ptrs, out.to(out_ptr.dtype.element_ty), mask=rows[:, None] < Q)


@triton.jit
def decode_split(q_ptr, k_ptr, v_ptr, part_ptr, lse_ptr, scale, KV, stride_kb, stride_kh, stride_kn, KV_HEADS: tl.constexpr,
                 GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr):
    """One query token against one of SPLITS shares of the KV cache, for the GROUP query heads that share a KV head.

    q [batch, KV_HEADS GROUP, HEAD_DIM]; partial outputs [batch heads, SPLITS, HEAD_DIM] and log2 of their softmax sums in float32. k and v
    have the same strides.
    """
    pair = tl.program_id(0)
    split = tl.program_id(1)
    batch = pair // KV_HEADS
    kv_head = pair % KV_HEADS
    heads = tl.arange(0, BLOCK_H)
    offs_d = tl.arange(0, HEAD_DIM)
    q_rows = pair * GROUP + heads
    q = tl.load(q_ptr + q_rows[:, None] * HEAD_DIM + offs_d[None, :], mask=heads[:, None] < GROUP, other=0.0)
    base = batch.to(tl.int64) * stride_kb + kv_head * stride_kh
    share = tl.cdiv(tl.cdiv(KV, SPLITS), BLOCK_N) * BLOCK_N
    begin = split * share
    end = min(KV, begin + share)
    acc = tl.zeros((BLOCK_H, HEAD_DIM), dtype=tl.float32)
    total = tl.zeros((BLOCK_H,), dtype=tl.float32)
    top = tl.zeros((BLOCK_H,), dtype=tl.float32) + _FLOOR
    for start in range(begin, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        mask = keys < end
        k = tl.load(k_ptr + base + keys[None, :] * stride_kn + offs_d[:, None], mask=mask[None, :], other=0.0)
        score = tl.where(mask[None, :], tl.dot(q, k.to(q.dtype)) * scale, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        p = tl.exp2(score - new_top[:, None])
        fade = tl.exp2(top - new_top)
        total = total * fade + tl.sum(p, 1)
        v = tl.load(v_ptr + base + keys[:, None] * stride_kn + offs_d[None, :], mask=mask[:, None], other=0.0)
        acc = tl.dot(p.to(q.dtype), v.to(q.dtype), acc * fade[:, None])
        top = new_top
    row = q_rows * SPLITS + split
    keep = heads < GROUP
    safe = tl.maximum(total, 1.0e-30)
    tl.store(part_ptr + row[:, None] * HEAD_DIM + offs_d[None, :], acc / safe[:, None], mask=keep[:, None])
    tl.store(lse_ptr + row, top + tl.log2(safe), mask=keep)


@triton.jit
def decode_combine(part_ptr, lse_ptr, out_ptr, HEAD_DIM: tl.constexpr, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr):
    """Joins the shares of one query head."""
    row = tl.program_id(0).to(tl.int64)
    splits = tl.arange(0, BLOCK_S)
    offs_d = tl.arange(0, HEAD_DIM)
    lse = tl.load(lse_ptr + row * SPLITS + splits, mask=splits < SPLITS, other=float("-inf"))
    weight = tl.exp2(lse - tl.max(lse, 0))
    part = tl.load(part_ptr + (row * SPLITS + splits)[:, None] * HEAD_DIM + offs_d[None, :], mask=splits[:, None] < SPLITS, other=0.0)
    out = tl.sum(part * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(out_ptr + row * HEAD_DIM + offs_d, out.to(out_ptr.dtype.element_ty))


@triton.jit
def block_sparse_attention(q_ptr, k_ptr, v_ptr, out_ptr, first_ptr, block_ptr, scale, N, stride_h, stride_n, HEAD_DIM: tl.constexpr,
                           BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Attention of each query block to the key blocks that a list names (compressed rows: ``first`` [blocks + 1] into ``block``).

    q, k, v and out [heads, N, HEAD_DIM]; N is a multiple of both blocks; no mask inside a block; every query block has a key block.
    """
    pid = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    rows = pid * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, HEAD_DIM)
    base = head * stride_h
    q = tl.load(q_ptr + base + rows[:, None] * stride_n + offs_d[None, :])
    acc = tl.zeros((BLOCK_M, HEAD_DIM), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    top = tl.zeros((BLOCK_M,), dtype=tl.float32) + _FLOOR
    for index in range(tl.load(first_ptr + pid), tl.load(first_ptr + pid + 1)):
        keys = tl.load(block_ptr + index) * BLOCK_N + tl.arange(0, BLOCK_N)
        k = tl.load(k_ptr + base + keys[None, :] * stride_n + offs_d[:, None])
        score = tl.dot(q, k) * scale
        new_top = tl.maximum(top, tl.max(score, 1))
        p = tl.exp2(score - new_top[:, None])
        fade = tl.exp2(top - new_top)
        total = total * fade + tl.sum(p, 1)
        v = tl.load(v_ptr + base + keys[:, None] * stride_n + offs_d[None, :])
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None])
        top = new_top
    out = acc / total[:, None]
    tl.store(out_ptr + base + rows[:, None] * stride_n + offs_d[None, :], out.to(out_ptr.dtype.element_ty))
