"""Mixture-of-experts kernels with the block structure of SGLang's and vLLM's fused MoE: (token, expert) pairs sorted by expert and padded
to whole row blocks, one expert a block."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from .gemm import grouped_tile


@triton.jit
def moe_matmul(a_ptr, b_ptr, c_ptr, a_scale_ptr, b_scale_ptr, weight_ptr, sorted_ptr, expert_ptr, padded_ptr, N, K, PAIRS, stride_am,
               stride_be, stride_bn, stride_cm, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
               TOP_K: tl.constexpr, WEIGHTED: tl.constexpr, SCALED: tl.constexpr, EVEN_K: tl.constexpr, CAPACITY: tl.constexpr,
               SCALE_BLOCK: tl.constexpr = 0, SCALE_COLUMNS: tl.constexpr = True):
    """C[pair] = A[pair // TOP_K] B[expert of the pair]^T for every routed pair.

    ``sorted`` lists pair numbers by expert, each expert's list filled up to whole blocks with the number PAIRS; ``expert`` names the expert
    of each block; ``padded`` holds the length of ``sorted`` in use, and programs beyond it leave at once. The grid is for CAPACITY rows.
    SCALED multiplies by one scale for all of A and one for each expert; with a SCALE_BLOCK (a multiple of BLOCK_K) by those of A [rows,
    K / SCALE_BLOCK] and B [experts, N / SCALE_BLOCK, K / SCALE_BLOCK], step by step along K; without SCALE_COLUMNS a tile's columns are in
    one block.
    """
    pid_m, pid_n = grouped_tile(tl.program_id(0), tl.cdiv(CAPACITY, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    if pid_m * BLOCK_M >= tl.load(padded_ptr):
        return
    pair = tl.load(sorted_ptr + pid_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    valid = pair < PAIRS
    expert = tl.load(expert_ptr + pid_m).to(tl.int64)
    cols = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_n = (cols % N).to(tl.int64)
    offs_k = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + (pair[:, None] // TOP_K) * stride_am + offs_k[None, :]
    b_ptrs = b_ptr + expert * stride_be + offs_n[None, :] * stride_bn + offs_k[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    if SCALE_BLOCK > 0:
        groups = tl.cdiv(K, SCALE_BLOCK)
        a_scale_ptrs = a_scale_ptr + (pair // TOP_K) * groups
        block_n = offs_n // SCALE_BLOCK if SCALE_COLUMNS else pid_n * BLOCK_N // SCALE_BLOCK
        b_scale_ptrs = b_scale_ptr + (expert * tl.cdiv(N, SCALE_BLOCK) + block_n) * groups
    for k in range(tl.cdiv(K, BLOCK_K)):
        if EVEN_K:
            a = tl.load(a_ptrs, mask=valid[:, None], other=0.0)
            b = tl.load(b_ptrs)
        else:
            a = tl.load(a_ptrs, mask=valid[:, None] & (offs_k[None, :] < K - k * BLOCK_K), other=0.0)
            b = tl.load(b_ptrs, mask=offs_k[:, None] < K - k * BLOCK_K, other=0.0)
        if SCALE_BLOCK > 0:
            step = k * BLOCK_K // SCALE_BLOCK
            a_scale = tl.load(a_scale_ptrs + step, mask=valid, other=0.0)
            b_scale = tl.load(b_scale_ptrs + step)
            if SCALE_COLUMNS:
                acc += tl.dot(a, b) * a_scale[:, None] * b_scale[None, :]
            else:
                acc += tl.dot(a, b) * (a_scale[:, None] * b_scale)
        else:
            acc = tl.dot(a, b, acc)
        a_ptrs += BLOCK_K
        b_ptrs += BLOCK_K
    if SCALED and SCALE_BLOCK == 0:
        acc = acc * (tl.load(a_scale_ptr) * tl.load(b_scale_ptr + expert))
    if WEIGHTED:
        acc = acc * tl.load(weight_ptr + pair, mask=valid, other=0.0)[:, None]
    c_ptrs = c_ptr + pair[:, None] * stride_cm + cols[None, :]
    tl.store(c_ptrs, acc.to(c_ptr.dtype.element_ty), mask=valid[:, None] & (cols[None, :] < N))


@triton.jit
def moe_sum(pair_ptr, out_ptr, HIDDEN, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    """out[token] = sum of its TOP_K pairs."""
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for k in tl.static_range(TOP_K):
        total += tl.load(pair_ptr + (token * TOP_K + k) * HIDDEN + cols, mask=cols < HIDDEN, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * HIDDEN + cols, total.to(out_ptr.dtype.element_ty), mask=cols < HIDDEN)


def route(tokens: int, experts: int, top_k: int, distribution: str, seed: int = 0) -> Any:
    """Experts of each token, [tokens, top_k] int32.

    Parameters
    ----------
    distribution
        ``"balanced"``: tokens walk through the experts with stride ceil(experts / top_k). ``"power_law_A"``: the share of each expert is
        drawn from a density proportional to x**-A on [1, 0.8 tokens] (on [0.01, 2] with fewer pairs than experts); a token takes its
        experts by these shares without repetition (Gumbel top-k).
    """
    import numpy as np

    if distribution == "balanced":
        stride = -(-experts // top_k)
        return ((np.arange(tokens)[:, None] + stride * np.arange(top_k)) % experts).astype(np.int32)
    alpha = float(distribution.rpartition("_")[2])
    generator = np.random.default_rng(seed)
    low, high = (1.0, max(0.8 * tokens, 1.0001)) if tokens * top_k > experts else (0.01, 2.0)
    u = generator.random(experts)
    share = (low ** (1 - alpha) + u * (high ** (1 - alpha) - low ** (1 - alpha))) ** (1 / (1 - alpha))
    noise = np.log(share) + generator.gumbel(size=(tokens, experts))
    return np.argsort(-noise, axis=1)[:, :top_k].astype(np.int32)


def align(experts_of: Any, experts: int, block: int) -> tuple[Any, Any, int]:
    """Sorted and padded pair numbers, expert of each block, and rows in use.

    Parameters
    ----------
    experts_of
        [tokens, top_k] as `route` gives.
    block
        Rows of a block.

    Returns
    -------
    sorted
        int32, as long as the worst routing could need: pairs + min(experts, pairs) (block - 1), rounded up to whole blocks.
    expert_of_block
        int32, one for each block of that length.
    used
        Rows of ``sorted`` in use.

    Examples
    --------
    >>> import numpy as np
    >>> ids, of, used = align(np.array([[1], [0], [1]]), experts=2, block=2)
    >>> ids[:used].tolist(), of[: used // 2].tolist()
    ([1, 3, 0, 2], [0, 1])
    """
    import numpy as np

    flat = np.asarray(experts_of).reshape(-1)
    pairs = len(flat)
    capacity = -(-(pairs + min(experts, pairs) * (block - 1)) // block) * block
    ids = np.full(capacity, pairs, np.int32)
    of_block = np.zeros(capacity // block, np.int32)
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat, minlength=experts)
    used = start = 0
    for expert, count in enumerate(counts):
        ids[used:used + count] = order[start:start + count]
        blocks = -(-int(count) // block)
        of_block[used // block:used // block + blocks] = expert
        used += blocks * block
        start += int(count)
    return ids, of_block, used
