"""A kernel whose CTAs have loops of different lengths."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def uneven(x_ptr, out_ptr, rounds, KINDS: tl.constexpr, BLOCK: tl.constexpr):
    """`rounds` (1 + program modulo KINDS) rounds of arithmetic on a block."""
    pid = tl.program_id(0)
    at = pid * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at)
    for _ in range(rounds * (1 + pid % KINDS)):
        x = tl.exp2(x) * 0.5 + x
    tl.store(out_ptr + at, x)
