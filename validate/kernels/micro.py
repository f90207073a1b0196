"""Microbenchmarks: one unit of the GPU at a time, in loops long enough that nothing else counts."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def chase(next_ptr, out_ptr, STEPS, CACHE: tl.constexpr):
    """Dependent loads: each gives the index of the next. One program of one warp; CACHE is "" (may hit L1) or ".cg" (L2)."""
    index = tl.program_id(0)
    for _ in range(STEPS):
        index = tl.load(next_ptr + index, cache_modifier=CACHE)
    tl.store(out_ptr, index)


@triton.jit
def shared_chase(out_ptr, STEPS: tl.constexpr):
    """Dependent loads from shared memory by one warp: each lane reads its own word, which holds that word's address."""
    lane = tl.arange(0, 32)
    last = tl.inline_asm_elementwise(
        asm="""
        {
            .shared .align 16 .b32 words[32];
            .reg .b32 base, place, count;
            .reg .pred more;
            mov.u32 base, words;
            shl.b32 place, $1, 2;
            add.u32 place, place, base;
            st.shared.b32 [place], place;
            bar.warp.sync 0xffffffff;
            mov.u32 count, $2;
        again:
            ld.volatile.shared.b32 place, [place];
            ld.volatile.shared.b32 place, [place];
            ld.volatile.shared.b32 place, [place];
            ld.volatile.shared.b32 place, [place];
            sub.u32 count, count, 4;
            setp.gt.s32 more, count, 0;
            @more bra again;
            sub.u32 $0, place, base;
        }
        """,
        constraints="=r,r,r", args=[lane, tl.full((32,), STEPS, tl.int32)], dtype=tl.int32, is_pure=False, pack=1)
    tl.store(out_ptr + lane, last)


@triton.jit
def read(x_ptr, out_ptr, PASSES, BLOCKS, BLOCK: tl.constexpr, CACHE: tl.constexpr, UNROLL: tl.constexpr):
    """Bandwidth of a level: the grid reads BLOCKS blocks of BLOCK words, PASSES times over."""
    offs = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for _ in range(PASSES):
        for block in tl.range(tl.program_id(0), BLOCKS, tl.num_programs(0), loop_unroll_factor=UNROLL):
            total += tl.load(x_ptr + block * BLOCK + offs, cache_modifier=CACHE)
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def read_own(x_ptr, out_ptr, PASSES, BLOCK: tl.constexpr, ROUNDS: tl.constexpr):
    """Bandwidth of L1: each program reads its own ROUNDS blocks of BLOCK words, PASSES times over, through L1."""
    base = x_ptr + tl.program_id(0) * BLOCK * ROUNDS + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for step in range(PASSES):
        # the start moves with the pass, so that no load can be taken out of the loop
        for r in tl.static_range(ROUNDS):
            total += tl.load(base + ((r + step) % ROUNDS) * BLOCK)
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def copy(x_ptr, out_ptr, size, BLOCK: tl.constexpr):
    """Bandwidth of reading and writing together."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < size
    tl.store(out_ptr + offs, tl.load(x_ptr + offs, mask=mask), mask=mask)


@triton.jit
def fill(out_ptr, value, size, BLOCK: tl.constexpr):
    """Bandwidth of writing."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, tl.zeros((BLOCK,), dtype=tl.float32) + value, mask=offs < size)


@triton.jit
def tensor_core(a_ptr, b_ptr, out_ptr, STEPS, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, INT8: tl.constexpr):
    """STEPS products of one tile of A [BLOCK_M, BLOCK_K] and B [BLOCK_N, BLOCK_K]^T into one accumulator, in every program."""
    rows = tl.arange(0, BLOCK_M)
    cols = tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    a = tl.load(a_ptr + rows[:, None] * BLOCK_K + depth[None, :])
    b = tl.load(b_ptr + cols[None, :] * BLOCK_K + depth[:, None])
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32 if INT8 else tl.float32)
    for _ in range(STEPS):
        acc = tl.dot(a, b, acc, out_dtype=tl.int32 if INT8 else tl.float32)
    place = tl.program_id(0) * BLOCK_M * BLOCK_N + rows[:, None] * BLOCK_N + cols[None, :]
    tl.store(out_ptr + place, acc.to(tl.float32))


@triton.jit
def arithmetic(x_ptr, out_ptr, STEPS, OP: tl.constexpr, BLOCK: tl.constexpr):
    """STEPS dependent operations on each of BLOCK numbers: exp2, fma, rsqrt, or int (multiply and add)."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs)
    if OP == "int":
        n = x.to(tl.int32)
        for _ in range(STEPS):
            n = n * 1664525 + 1013904223
        x = n.to(tl.float32)
    else:
        for _ in range(STEPS):
            if OP == "exp2":
                x = tl.exp2(-x)
            elif OP == "rsqrt":
                x = tl.rsqrt(x)
            else:
                x = tl.fma(x, 0.5, 0.25)
    tl.store(out_ptr + offs, x)


@triton.jit
def empty(out_ptr):
    """Nothing but one store, so that a launch has an output."""
    tl.store(out_ptr, 1)
