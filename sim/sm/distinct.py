"""Distinct rows of a table of integers, in order of first appearance."""

from __future__ import annotations

from typing import Final

import numpy as np

from ...native import Native

_MIXER: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(29)


def find_distinct(table, slots, picks, inverse):  # type: ignore[no-untyped-def]
    """Fill `picks` with the first row of each kind and `inverse` with the kind of each row; how many kinds there are.

    Parameters
    ----------
    table
        int64 of shape (rows, columns).
    slots
        int64, all -1: a power of two, at least twice as many as rows.
    """
    count = 0
    for row in range(table.shape[0]):
        mixed = np.uint64(0)
        for column in range(table.shape[1]):
            mixed = (mixed ^ np.uint64(table[row, column])) * _MIXER
            mixed ^= mixed >> _HALF
        at = np.int64(mixed & np.uint64(slots.shape[0] - 1))
        while True:
            kind = slots[at]
            if kind < 0:
                slots[at] = count
                picks[count] = row
                inverse[row] = count
                count += 1
                break
            same = True
            for column in range(table.shape[1]):
                if table[picks[kind], column] != table[row, column]:
                    same = False
                    break
            if same:
                inverse[row] = kind
                break
            at = (at + 1) & (slots.shape[0] - 1)
    return count


_found: Final = Native(find_distinct)


def distinct_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each kind, and the kind of each row.

    Parameters
    ----------
    table
        int64 of shape (rows, columns).

    Examples
    --------
    >>> [part.tolist() for part in distinct_rows(np.array([[7, 1], [2, 2], [7, 1]]))]
    [[0, 1], [0, 1, 0]]
    """
    rows = len(table)
    picks, inverse = np.empty(rows, np.int64), np.empty(rows, np.int64)
    count = _found(np.ascontiguousarray(table), np.full(2 << max(rows, 1).bit_length(), -1), picks, inverse)
    return picks[:count], inverse
