"""A kernel of which only lanes in the middle of a warp touch memory."""

import triton
import triton.language as tl


@triton.jit
def middle(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    where = tl.program_id(0) * BLOCK + at
    mask = (at % 32 >= 8) & (at % 32 < 24)
    tl.store(out + where, tl.load(x + where, mask=mask), mask=mask)
