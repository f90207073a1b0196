# ruff: noqa: N803  (rows of values)
"""Shared memory of a CTA of which all threads are followed, word by word; written as `warp_machine` is."""

from __future__ import annotations

import numpy as np

from .warp_alu import ONE, W32, W64, Z

BYTES24 = np.uint64(0xFFFFFF)
TWO, THREE = np.uint64(2), np.uint64(3)
EIGHT = np.uint64(8)
#: What became of an access to shared memory: done, written to where only data says, not modelled.
KEPT, LOST, REFUSED = range(3)


def put_part(smem, address, width, value, dark, taint):  # type: ignore[no-untyped-def]
    """One to four bytes into shared memory."""
    word = np.int64((address & BYTES24) >> TWO)
    moved = EIGHT * (address & THREE)
    bits = (W32 if width >= 4 else (ONE << np.uint64(8 * width)) - ONE) << moved
    smem[word, 0] = (smem[word, 0] & ~bits) | ((value << moved) & bits)
    smem[word, 1] = (smem[word, 1] & ~bits) | ((dark << moved) & bits)
    smem[word, 2] = taint if width >= 4 else smem[word, 2] | taint
    return 0


def matrix_address(V, b, mb, first, matrix, lane, half, transposed):  # type: ignore[no-untyped-def]
    """Where a half of what a lane holds of an 8x8 matrix lies, as `shared_memory.matrix_places` has it; `first` is lane 0 of its warp."""
    if transposed:
        named = first + 8 * matrix + 2 * (lane & 3) + half
        return V[b, mb * named] + np.uint64(2 * (lane >> 2))
    named = first + 8 * matrix + (lane >> 2)
    return V[b, mb * named] + np.uint64(4 * (lane & 3) + 2 * half)


def in_shared(extra, stores, a, ma, b, mb, c, mc, V, U, taints, active, n_active, held, held_u, size, rows, how,  # type: ignore[no-untyped-def]
              smem):
    """A load from shared memory into `held`, or a store, with what each word depends on in `taints`.

    `LOST`: nothing is known of shared memory any more.

    Parameters
    ----------
    extra
        Number of the instruction, and behind bit 20 that of the word, or of the matrix.
    size, rows, how
        Bytes of a thread; threads whose addresses count (LDSM, STSM; 0 for none); of these 1 for transposed matrices, 2 for none that is
        known; else whether bytes are signed.
    """
    k_word = extra >> 20
    limit = np.uint64(4 * smem.shape[0] - 16)
    width = min(size, 4)
    if rows:  # whole warps
        if how == 2 or n_active & 31:
            return REFUSED
        for k in range(0, n_active, 32):
            for j in range(32):
                if active[k + j] != active[k] + j:
                    return REFUSED
                if (U[a, ma * active[k + j]] | (V[a, ma * active[k + j]] ^ V[a, ma * active[k]])) & ONE:
                    return REFUSED
                if j < rows and U[b, mb * active[k + j]]:
                    return REFUSED
    found = KEPT
    for k in range(n_active):
        lane = active[k]
        on = V[a, ma * lane] & ONE
        dark = U[a, ma * lane] & ONE
        if not stores:
            held[k], held_u[k] = V[c, mc * lane], U[c, mc * lane]
            taints[k] = Z
            if dark or (on and not rows and U[b, mb * lane]):
                held[k], held_u[k] = Z, W64
                continue
        if not on and not dark:
            continue
        if stores and (dark or (not rows and U[b, mb * lane])):
            found = LOST
            continue
        if rows:
            first = lane & ~31
            low = matrix_address(V, b, mb, first, k_word, lane & 31, 0, how) & BYTES24
            high = matrix_address(V, b, mb, first, k_word, lane & 31, 1, how) & BYTES24
            if low >= limit or high >= limit:
                return REFUSED
            if stores:
                v, u = V[c, mc * lane], U[c, mc * lane]
                put_part(smem, low, 2, v, u, taints[k])
                put_part(smem, high, 2, v >> np.uint64(16), u >> np.uint64(16), taints[k])
                continue
            w0, w1 = np.int64(low >> TWO), np.int64(high >> TWO)
            s0, s1 = EIGHT * (low & THREE), EIGHT * (high & THREE)
            taints[k] = smem[w0, 2] | smem[w1, 2]
            if ((smem[w0, 1] >> s0) | (smem[w1, 1] >> s1)) & np.uint64(0xFFFF):
                held[k], held_u[k] = Z, W64
            else:
                held[k] = ((smem[w0, 0] >> s0) & np.uint64(0xFFFF)) | (((smem[w1, 0] >> s1) & np.uint64(0xFFFF)) << np.uint64(16))
                held_u[k] = Z
            continue
        address = (V[b, mb * lane] + np.uint64(4 * k_word)) & BYTES24
        if address >= limit:
            return REFUSED
        if stores:
            put_part(smem, address, width, V[c, mc * lane], U[c, mc * lane], taints[k])
            continue
        word, moved = np.int64(address >> TWO), EIGHT * (address & THREE)
        bits = W32 if width >= 4 else (ONE << np.uint64(8 * width)) - ONE
        taints[k] = smem[word, 2]
        if (smem[word, 1] >> moved) & bits:
            held[k], held_u[k] = Z, W64
        else:
            v = (smem[word, 0] >> moved) & bits
            if how == 1 and width < 4 and (v >> np.uint64(8 * width - 1)) & ONE:
                v |= W32 & ~bits
            held[k], held_u[k] = v, Z
    return found


def copied_in(a, ma, b, mb, c, mc, V, U, active, n_active, size, buffers, data, taint, smem):  # type: ignore[no-untyped-def]
    """What cp.async brings into shared memory, where `a` holds to `b` from `c`: known where tensors have values, zeros from address 0."""
    pieces, width, limit = max(1, size // 4), min(size, 4), np.uint64(4 * smem.shape[0] - 32)
    for k in range(n_active):
        lane = active[k]
        if U[a, ma * lane] & ONE:
            return LOST
        if V[a, ma * lane] & ONE == Z:
            continue
        address, source = V[b, mb * lane] & BYTES24, V[c, mc * lane]
        if U[b, mb * lane] or address >= limit:
            return LOST
        zeros, begins = U[c, mc * lane] == Z and source == Z, -1
        if U[c, mc * lane] == Z and not zeros:
            for j in range(buffers.shape[0]):
                if buffers[j, 0] <= source and source + np.uint64(size) <= buffers[j, 0] + buffers[j, 1]:
                    begins = np.int64(source - buffers[j, 0] + buffers[j, 2])
        if size >= 4 and begins < 0:
            word = np.int64(address >> TWO)
            for piece in range(pieces):
                smem[word + piece, 0], smem[word + piece, 1], smem[word + piece, 2] = Z, (Z if zeros else W32), taint
            continue
        for piece in range(pieces):
            value = Z
            if begins >= 0:
                for i in range(width):
                    value |= np.uint64(data[begins + 4 * piece + i]) << np.uint64(8 * i)
            put_part(smem, address + np.uint64(4 * piece), width, value, Z if zeros or begins >= 0 else W64, taint)
    return KEPT
