"""Distinct rows of a table of integers, in order of first appearance, and distinct integers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from ...native import Native, available

_MIXER: Final = np.uint64(0x9E3779B97F4A7C15)
_HALF: Final = np.uint64(29)
#: Integers for which the table of `find_distinct` stays in the processor's cache.
_FEW: Final = 1 << 17


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


distinct: Final = Native(find_distinct, usual={("i8", 2): "table"})


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
    count = distinct(np.ascontiguousarray(table), np.full(2 << max(rows, 1).bit_length(), -1), picks, inverse)
    return picks[:count], inverse


def kinds_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A row of each kind, and the kind of each row, in no order that means anything; `distinct_rows` without compiled code.

    Parameters
    ----------
    rows
        int64 of shape (rows, columns).
    """
    weights = np.arange(1, rows.shape[1] + 1, dtype=np.uint64) * _MIXER
    mixed = rows.astype(np.uint64) @ ((weights ^ (weights >> _HALF)) * _MIXER | np.uint64(1))
    _, picks, back = np.unique(mixed, return_index=True, return_inverse=True)
    if not np.array_equal(rows[picks[back.reshape(-1)]], rows):
        _, picks, back = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return picks, back.reshape(-1)


def numbered(values: np.ndarray) -> tuple[int, np.ndarray]:
    """How many distinct integers there are, and a number for each, in no order that means anything.

    Examples
    --------
    >>> numbered(np.array([7, 2, 7]))[0]
    2
    """
    if len(values) <= _FEW and available():
        picks, inverse = distinct_rows(values.reshape(-1, 1))
        return len(picks), inverse
    ranks = ranks_of(values)
    return int(ranks.max(initial=-1)) + 1, ranks


def counted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct integers, rising, and how often each occurs.

    Examples
    --------
    >>> [part.tolist() for part in counted(np.array([7, 2, 7]))]
    [[2, 7], [1, 2]]
    """
    ordered = np.sort(values, axis=None)
    begins = np.flatnonzero(_fresh(ordered))
    times = np.empty(len(begins), np.int64)
    np.subtract(begins[1:], begins[:-1], out=times[:-1])
    times[-1:] = len(ordered) - begins[-1:]
    return ordered[begins], times


def distinct_of(values: np.ndarray) -> np.ndarray:
    """Distinct integers, rising: ``np.unique``, many times sooner (that fills a hash table, one by one).

    Examples
    --------
    >>> distinct_of(np.array([7, 2, 7])).tolist()
    [2, 7]
    """
    ordered = np.sort(values, axis=None)
    return ordered[_fresh(ordered)]


def ranks_of(values: np.ndarray) -> np.ndarray:
    """int64: how many distinct integers are smaller than each.

    Examples
    --------
    >>> ranks_of(np.array([7, 2, 7])).tolist()
    [1, 0, 1]
    """
    order = np.argsort(values, kind="stable")
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.cumsum(_fresh(values[order])) - 1
    return ranks


def among(values: np.ndarray, chosen: Iterable[int]) -> np.ndarray:
    """bool: which of some small integers, none negative, are among the chosen ones: ``np.isin``, many times sooner where there are few.

    Examples
    --------
    >>> among(np.array([7, 2, 7]), [7, 9]).tolist()
    [True, False, True]
    """
    table = np.zeros(int(values.max(initial=0)) + 1, np.bool_)
    table[[number for number in chosen if number < len(table)]] = True
    return table[values]


def count_of(values: np.ndarray) -> int:
    """How many distinct integers there are."""
    return int(np.count_nonzero(_fresh(np.sort(values, axis=None))))


def _fresh(ordered: np.ndarray) -> np.ndarray:
    fresh = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    return fresh
