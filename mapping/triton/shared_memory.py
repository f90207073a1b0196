"""Shared memory as far as it decides control: bytes that the code stored and that are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from .group import Lanes, WholeWarpError
from .values import M32, Partial, Unknown, Value, from_bytes

_ATOMICS: dict[str, Any] = {"OR": np.bitwise_or, "AND": np.bitwise_and, "XOR": np.bitwise_xor, "ADD": np.add}


def matrix_places(rows: np.ndarray, matrix: int, transposed: bool) -> list[np.ndarray]:
    """Where each byte lies that a lane holds of an 8x8 matrix of 16-bit numbers (PTX ISA, ``ldmatrix``).

    Lane *l* holds the numbers 2 (l mod 4) and the next of row l // 4; of a transposed matrix, of column l // 4.

    Parameters
    ----------
    rows
        int64 of shape (warps, 32): what the lanes name. Lane 8 m + r names where row r of matrix m begins.
    matrix
        Its number, m.

    Returns
    -------
    By byte of a word, lowest first, int64 of shape (32 warps,).

    Examples
    --------
    >>> places = matrix_places(100 * np.arange(32)[None], 1, False)
    >>> [int(place[5]) for place in places], [int(place[5]) for place in matrix_places(100 * np.arange(32)[None], 1, True)]
    ([904, 905, 906, 907], [1002, 1003, 1102, 1103])
    """
    lane, begins = np.arange(32), rows[:, 8 * matrix:8 * matrix + 8]
    if not transposed:
        return [(begins[:, lane // 4] + 4 * (lane % 4) + byte).reshape(-1) for byte in range(4)]
    return [(begins[:, 2 * (lane % 4) + byte // 2] + 2 * (lane // 4) + byte % 2).reshape(-1) for byte in range(4)]


class SharedMemory:
    """The shared memory of some CTAs.

    Parameters
    ----------
    ctas, threads
        How many CTAs, and threads of each; thread ids count through all CTAs.
    size
        Bytes of each.
    reserved
        Bytes at the start that the system clears before the kernel runs.
    """

    def __init__(self, ctas: int, threads: int, size: int, reserved: int) -> None:
        self.threads = threads
        self.contents = np.zeros((ctas, size), dtype=np.uint8)
        self.known = np.zeros((ctas, size), dtype=bool)
        self.known[:, :reserved] = True
        self.reserved = reserved
        self.low, self.high = (0, reserved) if reserved else (1 << 24, 0)

    def forget(self) -> None:
        """Something was written to where only data says."""
        self.known[:, self.reserved:] = False

    def _places(self, lanes: Lanes, address: Value, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        many = address if type(address) is np.ndarray else np.full(lanes.count, address, dtype=np.uint64)
        places = (many & np.uint64(0xFFFFFF)).astype(np.int64)
        if (places[mask] >= self.contents.shape[1] - 16).any():
            return None
        return lanes.ids // self.threads, np.where(mask, places, 0)

    def put(self, lanes: Lanes, guard: Value, address: Value, data: tuple[Value, ...], size: int) -> None:
        """Store `size` bytes a thread, given as words."""
        if guard is False:
            return
        if type(address) is Unknown or type(guard) is Unknown:
            self.forget()
            return
        if all(type(value) is Unknown for value in data):
            low, high = (address, address) if type(address) is int else (int(address.min()), int(address.max()))
            if (low & 0xFFFFFF) > self.high or (high & 0xFFFFFF) + size <= self.low:
                return  # nothing is known there, and nothing gets known
        mask = guard if type(guard) is np.ndarray else np.ones(lanes.count, dtype=bool)
        found = self._places(lanes, address, mask)
        if found is None or not mask.any():
            return
        cta, places = found[0][mask], found[1][mask]
        if any(type(value) is not Unknown for value in data):
            self.low, self.high = min(self.low, int(places.min())), max(self.high, int(places.max()) + size)
        for k in range(max(1, size // 4)):
            value = data[min(k, len(data) - 1)]
            for byte in range(min(size, 4)):
                self._put_byte(cta, places + 4 * k + byte, value, mask, byte)

    def _put_byte(self, cta: np.ndarray, places: np.ndarray, value: Value, mask: np.ndarray, byte: int) -> None:
        """A byte of the word of each thread of the mask."""
        self.known[cta, places] = value.known[mask] if type(value) is Partial else type(value) is not Unknown
        if type(value) is not Unknown:
            part = (value.value if type(value) is Partial else value) >> 8 * byte & 0xFF
            self.contents[cta, places] = part if type(part) is int else part[mask].astype(np.uint8)

    def get(self, lanes: Lanes, guard: Value, address: Value, count: int, size: int, signed: bool,
            unknown: Unknown) -> tuple[Value, ...]:
        """Load `count` words a thread (one of fewer bytes, if `size` is less than 4)."""
        if type(address) is Unknown or type(guard) is Unknown:
            return (unknown,) * count
        mask = guard if type(guard) is np.ndarray else np.ones(lanes.count, dtype=bool)
        found = self._places(lanes, address, mask)
        if found is None or not mask.any():
            return (unknown,) * count
        cta, places = found
        return tuple(self._word(cta, [places + 4 * k + byte for byte in range(min(size, 4))], mask, signed, unknown) for k in range(count))

    def _word(self, cta: np.ndarray, spots: list[np.ndarray], mask: np.ndarray, signed: bool, unknown: Unknown) -> Value:
        """A word of each thread, from where its bytes are."""
        known = np.logical_and.reduce([self.known[cta, at] for at in spots]) | ~mask
        raw = from_bytes([self.contents[cta, at] for at in spots], signed)
        if known.all():
            return int(raw[mask][0]) if (raw[mask] == raw[mask][0]).all() else raw
        return Partial(raw, known, unknown) if (known & mask).any() else unknown

    # -- matrices --------------------------------------------------------------------------------------------------------

    def _rows(self, lanes: Lanes, guard: Value, address: Value, count: int,
              sampled: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """CTA of each thread, who takes part, and what each names, by warp; None where that is not known."""
        if type(address) is Unknown or type(guard) is Unknown:
            return None
        if not lanes.full:
            if sampled:
                raise WholeWarpError
            return None
        mask = guard if type(guard) is np.ndarray else np.ones(lanes.count, dtype=bool)
        many = address if type(address) is np.ndarray else np.full(lanes.count, address, dtype=np.uint64)
        rows = np.where(mask, many & np.uint64(0xFFFFFF), 0).astype(np.int64).reshape(-1, 32)
        warps = mask.reshape(-1, 32)
        if (warps.any(axis=1) != warps.all(axis=1)).any() or (rows[:, :8 * count] >= self.contents.shape[1] - 16).any():
            return None
        return lanes.ids // self.threads, mask, rows

    def put_matrices(self, lanes: Lanes, guard: Value, address: Value, data: tuple[Value, ...], transposed: bool, sampled: bool) -> None:
        """Store 8x8 matrices of 16-bit numbers, a register of each warp one of them (STSM)."""
        if guard is False:
            return
        found = self._rows(lanes, guard, address, len(data), sampled)
        if found is None:
            self.forget()
            return
        cta, mask, rows = found
        if not mask.any():
            return
        named = rows.reshape(-1)[mask].reshape(-1, 32)[:, :8 * len(data)]
        low, high = int(named.min()), int(named.max()) + 16
        if all(type(value) is Unknown for value in data):
            if low > self.high or high <= self.low:
                return
        else:
            self.low, self.high = min(self.low, low), max(self.high, high)
        for matrix, value in enumerate(data):
            for byte, places in enumerate(matrix_places(rows, matrix, transposed)):
                self._put_byte(cta[mask], places[mask], value, mask, byte)

    def get_matrices(self, lanes: Lanes, guard: Value, address: Value, count: int, transposed: bool, unknown: Unknown,
                     sampled: bool) -> tuple[Value, ...]:
        """Load `count` 8x8 matrices of 16-bit numbers, one into a register of each warp (LDSM)."""
        if self.low >= self.high:
            return (unknown,) * count
        found = self._rows(lanes, guard, address, count, sampled)
        if found is None or not found[1].any():
            return (unknown,) * count
        cta, mask, rows = found
        return tuple(self._word(cta, matrix_places(rows, matrix, transposed), mask, False, unknown) for matrix in range(count))

    def atomic(self, lanes: Lanes, guard: Value, address: Value, value: Value, modifiers: tuple[str, ...],
               unknown: Unknown) -> None:
        """A reduction into one known word of each CTA; anything else leaves the place unknown."""
        if guard is False:
            return
        function = next((_ATOMICS[name] for name in modifiers if name in _ATOMICS), None)
        plain = type(address) is int and type(guard) is not Unknown and type(value) in (int, np.ndarray) and function is not None
        old = self.get(lanes, guard, address, 1, 4, False, unknown)[0] if plain else unknown
        if not plain or type(old) not in (int, np.ndarray):
            self.put(lanes, guard, address, (unknown,), 4)
            return
        mask = guard if type(guard) is np.ndarray else np.ones(lanes.count, dtype=bool)
        before = old if type(old) is np.ndarray else np.full(lanes.count, old, dtype=np.uint64)
        operands = value if type(value) is np.ndarray else np.full(lanes.count, value, dtype=np.uint64)
        cta = lanes.ids // self.threads
        result = before.copy()
        for number in np.unique(cta[mask]):
            here = mask & (cta == number)
            result[cta == number] = function.reduce(operands[here], initial=before[here][0])  # type: ignore[union-attr]
        self.put(lanes, guard, address, (result & np.uint64(M32),), 4)
