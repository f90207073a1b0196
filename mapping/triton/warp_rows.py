# ruff: noqa: N803, PLR1714, SIM109  (plain comparisons are what `native` compiles)
"""Operations of `bytecode` on many lanes at once, for `warp_machine`: as `warp_alu.alu` does them one by one."""

from __future__ import annotations

import numpy as np

from .warp_alu import (
    ABSOLUTE,
    ADD,
    AND,
    B64,
    EQ,
    F2I,
    GE,
    GT,
    I2F,
    LE,
    LSL,
    LSR,
    LT,
    MIN,
    MOV,
    MUL,
    NE,
    ONE,
    OR,
    RCP,
    SAR64,
    SEL,
    SGXT,
    SHL,
    SHR,
    SIGN32,
    SUB,
    TOP,
    W64,
    XOR,
    Z,
    alu,
    extended,
    from_integer,
    reciprocal,
    to_integer,
)


def of_rows(op):  # type: ignore[no-untyped-def]
    """Whether `row_operation` knows an operation."""
    return (op <= MIN and op != SAR64) or op == ABSOLUTE or op == SGXT or op == I2F or op == RCP or op == F2I


def takes_common(op):  # type: ignore[no-untyped-def]
    """Whether `row_operation` takes a second operand that all lanes share as a number.

    Not of products: Intel's 64-bit vector product waits for what its result's register held before, 15 clocks, unless a load of the second
    operand into that register comes between.
    """
    return op == ADD or op == AND or op == XOR or op == NE or op == LSL or op == LSR or op == SHL or op == SHR


def spread(V, r, value):  # type: ignore[no-untyped-def]
    """Fill a row with one value."""
    for k in range(V.shape[1]):
        V[r, k] = value
    return 0


def copied_row(V, r, x):  # type: ignore[no-untyped-def]
    """Copy row `x` into row `r`."""
    for k in range(V.shape[1]):
        V[r, k] = V[x, k]
    return 0


def row_operation(op, V, x, y, z, r, common, shared, extra, word, real):  # type: ignore[no-untyped-def]
    """One operation on all lanes of rows of the file of values, whose bits are all known.

    Parameters
    ----------
    V
        uint64 by slot and lane.
    x, y, z, r
        Rows: operands and result.
    common, shared
        What stands in the second operand of all lanes, if `shared`; operations that `takes_common` names do not look at row `y` then.
    extra, word, real
        As `warp_alu.alu` takes them.
    """
    if op == ADD:
        if shared:
            for k in range(V.shape[1]):
                V[r, k] = V[x, k] + common
        else:
            for k in range(V.shape[1]):
                V[r, k] = V[x, k] + V[y, k]
    elif op == AND:
        if shared:
            for k in range(V.shape[1]):
                V[r, k] = V[x, k] & common
        else:
            for k in range(V.shape[1]):
                V[r, k] = V[x, k] & V[y, k]
    elif op == OR:
        for k in range(V.shape[1]):
            V[r, k] = V[x, k] | V[y, k]
    elif op == XOR:
        if shared:
            for k in range(V.shape[1]):
                V[r, k] = V[x, k] ^ common
        else:
            for k in range(V.shape[1]):
                V[r, k] = V[x, k] ^ V[y, k]
    elif op == MOV:
        for k in range(V.shape[1]):
            V[r, k] = V[x, k]
    elif op == MUL:
        for k in range(V.shape[1]):
            V[r, k] = V[x, k] * V[y, k]
    elif op == SUB:
        for k in range(V.shape[1]):
            V[r, k] = V[x, k] - V[y, k]
    elif op == LSL or op == SHL:
        if shared:
            for k in range(V.shape[1]):
                V[r, k] = V[x, k] << common
            if common >= B64:
                V[r, :] = Z
        else:
            for k in range(V.shape[1]):
                V[r, k] = Z if V[y, k] >= B64 else V[x, k] << V[y, k]
    elif op == LSR or op == SHR:
        if shared:
            for k in range(V.shape[1]):
                V[r, k] = V[x, k] >> common
            if common >= B64:
                V[r, :] = Z
        else:
            for k in range(V.shape[1]):
                V[r, k] = Z if V[y, k] >= B64 else V[x, k] >> V[y, k]
    elif op == LT:
        for k in range(V.shape[1]):
            V[r, k] = ONE if V[x, k] < V[y, k] else Z
    elif op == LE:
        for k in range(V.shape[1]):
            V[r, k] = ONE if V[x, k] <= V[y, k] else Z
    elif op == GT:
        for k in range(V.shape[1]):
            V[r, k] = ONE if V[x, k] > V[y, k] else Z
    elif op == GE:
        for k in range(V.shape[1]):
            V[r, k] = ONE if V[x, k] >= V[y, k] else Z
    elif op == EQ:
        for k in range(V.shape[1]):
            V[r, k] = ONE if V[x, k] == V[y, k] else Z
    elif op == NE:
        if shared:
            for k in range(V.shape[1]):
                V[r, k] = ONE if V[x, k] != common else Z
        else:
            for k in range(V.shape[1]):
                V[r, k] = ONE if V[x, k] != V[y, k] else Z
    elif op == SEL:
        for k in range(V.shape[1]):
            chosen = Z - np.uint64(V[x, k] != Z)  # jumps would keep it from being done many lanes at a time
            V[r, k] = (V[y, k] & chosen) | (V[z, k] & ~chosen)
    elif op == MIN:
        for k in range(V.shape[1]):
            V[r, k] = V[x, k] if V[x, k] < V[y, k] else V[y, k]
    elif op == ABSOLUTE:
        for k in range(V.shape[1]):
            V[r, k] = V[x, k] if V[x, k] < SIGN32 else TOP - V[x, k]
    elif op == SGXT:
        for k in range(V.shape[1]):
            V[r, k] = extended(V[x, k], V[y, k], extra)
    elif op == I2F:
        for k in range(V.shape[1]):
            V[r, k] = from_integer(V[x, k], extra, word, real)
    elif op == RCP:
        for k in range(V.shape[1]):
            V[r, k] = reciprocal(V[x, k], word, real)
    else:  # F2I
        for k in range(V.shape[1]):
            V[r, k] = to_integer(V[x, k], extra, word, real)
    return 0


def lane_operations(op, a, ma, b, mb, c, mc, V, U, active, n_active, held, held_u, extra, word, real):  # type: ignore[no-untyped-def]
    """Fill `held` and its unknown bits, by place in `active`, with what an operation makes of operands whose bits may be unknown.

    Parameters
    ----------
    a, ma, b, mb, c, mc
        Rows of the operands, and 0 for one that all lanes share (else 1).
    """
    if op == MOV:
        for k in range(n_active):
            lane = active[k]
            held[k], held_u[k] = V[a, ma * lane], U[a, ma * lane]
    elif op == OR:
        for k in range(n_active):
            lane = active[k]
            v, w = V[a, ma * lane], V[b, mb * lane]
            held[k], held_u[k] = v | w, (U[a, ma * lane] | U[b, mb * lane]) & ~v & ~w
    elif (op == LSL or op == LSR) and mb == 0 and U[b, 0] == Z and V[b, 0] < B64:
        n = V[b, 0]
        for k in range(n_active):
            lane = active[k]
            v, u = V[a, ma * lane], U[a, ma * lane]
            held[k], held_u[k] = (v << n if op == LSL else v >> n), (u << n if op == LSL else u >> n)
    elif op == ADD or op == MUL:
        for k in range(n_active):
            lane = active[k]
            v, w, uv, uw = V[a, ma * lane], V[b, mb * lane], U[a, ma * lane], U[b, mb * lane]
            if op == MUL and ((v == Z and uv == Z) or (w == Z and uw == Z)):
                held[k], held_u[k] = Z, Z
            elif uv | uw | U[c, mc * lane]:
                held[k], held_u[k] = Z, W64
            else:
                held[k], held_u[k] = (v * w if op == MUL else v + w), Z
    else:
        for k in range(n_active):
            lane = active[k]
            held[k], held_u[k] = alu(op, V[a, ma * lane], U[a, ma * lane], V[b, mb * lane], U[b, mb * lane], V[c, mc * lane],
                                     U[c, mc * lane], extra, word, real)
    return 0
