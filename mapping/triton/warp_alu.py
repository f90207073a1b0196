# ruff: noqa: PLR1714, PLR1730, SIM109, PLR0124  (plain comparisons are what `native` compiles)
"""What single operations of `bytecode` do on one lane, and what one access of a warp costs; for `warp_machine`."""

from __future__ import annotations

import numpy as np

from .bytecode import NUMBER

(MOV, ADD, SUB, MUL, AND, OR, XOR, LSL, LSR, LT, LE, GT, GE, EQ, NE, SEL, SHL, SHR, SAR64, MIN, ABSOLUTE, PRMT, FLO, POPC, BREV, SGXT, BMSK,
 I2F, RCP, F2I, UNKNOWN) = range(31)
assert NUMBER["unknown"] == UNKNOWN
Z, ONE, W32, W64 = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFF), np.uint64(0xFFFFFFFFFFFFFFFF)
B31, B32, B63, B64 = np.uint64(31), np.uint64(32), np.uint64(63), np.uint64(64)
SIGN32, TOP = np.uint64(1 << 31), np.uint64(1 << 32)


def alu(op, a, ua, b, ub, c, uc, extra, word, real):  # type: ignore[no-untyped-def]
    """One operation on one lane: value and unknown bits.

    Parameters
    ----------
    a, b, c, ua, ub, uc
        uint64: operands and their unknown bits.
    word, real
        uint32 and float32 arrays of one number that share memory.
    """
    if op == MOV:
        return a, ua
    if op == AND:
        u = (ua | ub) & (a | ua) & (b | ub)
        return a & b & ~u, u
    if op == OR:
        u = (ua | ub) & ~a & ~b
        return a | b, u
    if op == XOR:
        u = ua | ub
        return (a ^ b) & ~u, u
    if op == SEL:
        if ua != Z:
            return Z, W64
        if a != Z:
            return b, ub
        return c, uc
    if op == UNKNOWN:
        return Z, W64
    if op == NE or op == EQ:
        if (a & ~(ua | ub)) != (b & ~(ua | ub)):
            return (ONE if op == NE else Z), Z
        if ua | ub:
            return Z, W64
        return (Z if op == NE else ONE), Z
    if op == MUL and ((a == Z and ua == Z) or (b == Z and ub == Z)):
        return Z, Z
    if (op == LSL or op == LSR) and ub == Z and b < B64:
        if op == LSL:
            return a << b, ua << b
        return a >> b, ua >> b
    if ua | ub | uc:
        return Z, W64
    if op == ADD:
        return a + b, Z
    if op == SUB:
        return a - b, Z
    if op == MUL:
        return a * b, Z
    if op == LT:
        return (ONE if a < b else Z), Z
    if op == LE:
        return (ONE if a <= b else Z), Z
    if op == GT:
        return (ONE if a > b else Z), Z
    if op == GE:
        return (ONE if a >= b else Z), Z
    if op == SHL or op == LSL:
        return (Z if b >= B64 else a << b), Z
    if op == SHR or op == LSR:
        return (Z if b >= B64 else a >> b), Z
    if op == MIN:
        return (a if a < b else b), Z
    if op == SAR64:
        n = b if b < B63 else B63
        r = a >> n
        if a >> B63 and n > Z:
            r |= W64 << (B64 - n)
        return r, Z
    if op == ABSOLUTE:
        return (a if a < SIGN32 else (TOP - a)), Z
    if op == PRMT:
        r = Z
        for place in range(4):
            nibble = (b >> np.uint64(4 * place)) & np.uint64(15)
            source = a if (nibble & np.uint64(7)) < np.uint64(4) else c
            byte = (source >> (np.uint64(8) * (nibble & np.uint64(3)))) & np.uint64(255)
            if nibble & np.uint64(8):
                byte = (byte >> np.uint64(7)) * np.uint64(255)
            r |= byte << np.uint64(8 * place)
        return r, Z
    if op == FLO:
        if extra & 1 and a >= SIGN32:
            a = a ^ W32
        if a == Z:
            return W32, Z
        n = Z
        while a > ONE:
            a = a >> ONE
            n += ONE
        return (B31 - n if extra >> 8 & 1 else n), Z
    if op == POPC:
        n = Z
        while a != Z:
            a &= a - ONE
            n += ONE
        return n, Z
    if op == BREV:
        r = Z
        for k in range(32):
            r |= ((a >> np.uint64(k)) & ONE) << np.uint64(31 - k)
        return r, Z
    if op == SGXT:
        return extended(a, b, extra), Z
    if op == BMSK:
        n = b if b < B32 else B32
        at = a if a < B32 else B32
        return (((ONE << n) - ONE) << at) & W32, Z
    if op == I2F:
        return from_integer(a, extra, word, real), Z
    if op == RCP:
        return reciprocal(a, word, real), Z
    if op == F2I:
        return to_integer(a, extra, word, real), Z
    return Z, W64


def extended(a, b, extra):  # type: ignore[no-untyped-def]
    """The lowest `b` bits of `a`, their sign spread over 32 bits if `extra` says so."""
    n = b if b < B32 else B32
    kept = a & ((ONE << n) - ONE)
    if extra & 1 and n > Z and (kept >> (n - ONE)) & ONE:
        kept |= W32 & ~((ONE << n) - ONE)
    return kept


def from_integer(a, extra, word, real):  # type: ignore[no-untyped-def]
    """Bits of the float32 of an integer; `extra`: its width, whether it is signed, and whether to round upward."""
    bits, signed, upward = extra & 0xFF, extra >> 8 & 0xFF, extra >> 16 & 1
    negative = signed != 0 and (a >> np.uint64(bits - 1)) & ONE != Z
    size = (~a + ONE) & (W32 if bits == 32 else W64) if negative else a
    real[0] = np.float32(size)
    if upward and np.float64(real[0]) < 18446744073709551616.0 and np.uint64(np.float64(real[0])) < size:
        word[0] = word[0] + np.uint32(1)
    if negative:
        real[0] = -real[0]
    return np.uint64(word[0])


def reciprocal(a, word, real):  # type: ignore[no-untyped-def]
    """Bits of one over a float32."""
    word[0] = np.uint32(a & W32)
    if real[0] == np.float32(0):
        return np.uint64((word[0] & np.uint32(0x80000000)) | np.uint32(0x7F800000))
    real[0] = np.float32(1) / real[0]
    return np.uint64(word[0])


def to_integer(a, extra, word, real):  # type: ignore[no-untyped-def]
    """The integer of a float32, toward zero; `extra`: its width, and whether it is signed."""
    bits, signed = extra & 0xFF, extra >> 8 & 1
    word[0] = np.uint32(a & W32)
    x = np.float64(real[0])
    if x != x:
        return Z
    x = np.trunc(x)
    high = 2.0**(bits - signed)
    top = W64 >> np.uint64(64 - bits + signed)
    if x >= high:
        return top
    if signed:
        if x < -high:
            x = -high
        size = np.uint64(abs(x))
        return ((~size + ONE) if x < 0 else size) & (W32 if bits == 32 else W64)
    return Z if x < 0.0 else np.uint64(x)


def special_register(number, lane, thread, program):  # type: ignore[no-untyped-def]
    """One of `bytecode.SPECIAL`, of a lane whose warp begins at a thread of its CTA; `program` is the CTA's part of the program id."""
    at = np.uint64(lane)
    if number == 0:
        return np.uint64(thread + lane)
    if number <= 3:
        return np.uint64(program)
    if number == 5:
        return ONE << at
    if number == 6:
        return (ONE << at) - ONE
    if number == 7:
        return (np.uint64(2) << at) - ONE
    if number == 8:
        return W32 & ~((np.uint64(2) << at) - ONE)
    if number == 9:
        return W32 & ~((ONE << at) - ONE)
    return at


def distinct(address, count, size, shift, room):  # type: ignore[no-untyped-def]
    """Distinct pieces of ``1 << shift`` bytes that some accesses of `size` bytes touch."""
    n = 0
    for k in range(count):
        first, last = address[k] >> shift, (address[k] + np.uint64(size - 1)) >> shift
        piece = first
        while piece <= last:
            if n == 0 or piece > room[n - 1]:
                room[n] = piece
                n += 1
            else:
                low, high = 0, n
                while low < high:
                    middle = (low + high) // 2
                    if room[middle] < piece:
                        low = middle + 1
                    else:
                        high = middle
                if room[low] != piece:
                    for j in range(n, low, -1):
                        room[j] = room[j - 1]
                    room[low] = piece
                    n += 1
            piece += ONE
    return n


def bank_clocks(address, count, size, rows, table, taken):  # type: ignore[no-untyped-def]
    """Clocks of the shared-memory banks, as `access.bank_passes` counts them; of matrix rows the first `rows` addresses count."""
    if rows and rows < count:
        count = rows
    together = max(1, 128 // max(size, 4))
    words = max(1, size // 4)
    total = 0
    at = 0
    while at < count:
        for bank in range(32):
            taken[bank] = 0
        most = 0
        for k in range(at, min(at + together, count)):
            for j in range(words):
                word = (address[k] >> np.uint64(2)) + np.uint64(j)
                bank = int(word & B31)
                seen = False
                for i in range(taken[bank]):
                    if table[bank, i] == word:
                        seen = True
                if not seen:
                    table[bank, taken[bank]] = word
                    taken[bank] += 1
                    if taken[bank] > most:
                        most = taken[bank]
        total += most
        at += together
    return total
