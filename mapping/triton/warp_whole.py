# ruff: noqa: N803  (rows of values)
"""An operation on all lanes at once, and what is kept of the slot that it fills; written as `warp_machine` is."""

from __future__ import annotations

from .warp_alu import Z
from .warp_control import spread_operands
from .warp_rows import row_operation


def in_a_row(op, d, a, ma, b, mb, c, mc, V, U, S, T, K, slots, dependent, all_lanes, active, n_active, extra, word, real):  # type: ignore[no-untyped-def]
    """Fill slot `d`, of active lanes where these are not `all_lanes`, from operands that are known; arguments as `run_warp` has them."""
    if K[d] and all_lanes:
        K[d] = False
        U[d, :] = Z
    x, y, z = spread_operands(op, V, slots, a, ma, b, mb, c, mc)
    r = d if all_lanes else slots + 3
    row_operation(op, V, x, y, z, r, V[b, 0], mb == 0, extra, word, real)
    if not all_lanes:
        if S[d]:
            for k in range(1, V.shape[1]):
                V[d, k], U[d, k] = V[d, 0], U[d, 0]
        for k in range(n_active):
            V[d, active[k]] = V[r, active[k]]
        if K[d]:
            for k in range(n_active):
                U[d, active[k]] = Z
    S[d] = False
    T[d] = dependent if all_lanes else dependent | T[d]
    return 0
