"""Dominance among partial mappings: of two at the same shape, one that costs and holds no less than the other is dropped."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


def nondominated(group: Index, criteria: Floats) -> Index:
    """Rows that no other row of their group dominates; of equal rows the first stays.

    Parameters
    ----------
    group
        Shape (n,).
    criteria
        Shape (n, k), smaller is better.

    Returns
    -------
    Indices of the rows that stay, sorted by group, then by the first criterion.

    >>> nondominated(np.array([0, 0, 0, 1]), np.array([[1.0, 5], [2, 5], [2, 4], [9, 9]])).tolist()
    [0, 2, 3]
    """
    if len(group) <= 1:
        return np.arange(len(group))
    kept = criteria.shape[1]
    varying = [k for k in range(kept) if not (criteria[:, k] == criteria[0, k]).all()]
    if len(varying) <= 2:
        return _flat(group, criteria[:, varying])
    return _general(group, criteria[:, varying])


def _flat(group: Index, criteria: Floats) -> Index:
    """At most two criteria: sorted by the first, a row stays where the second falls below all before it in its group."""
    order = np.lexsort((*criteria.T[::-1], group))
    same = group[order][1:] == group[order][:-1]
    if criteria.shape[1] < 2:
        return order[np.concatenate(([True], ~same))]
    _, rank = np.unique(criteria[order, 1], return_inverse=True)
    number = np.concatenate(([0], np.cumsum(~same)))
    # Ranks of later groups lie below all of earlier ones, so that the running minimum starts afresh in each group.
    level = rank - number * (len(order) + 1)
    least = np.minimum.accumulate(level)
    return order[np.concatenate(([True], level[1:] < least[:-1]))]


def _general(group: Index, criteria: Floats) -> Index:
    """Any number of criteria: the lexicographically least row of each group stays and removes what it dominates; repeat."""
    order = np.lexsort((*criteria.T[::-1], group))
    kept = []
    while len(order):
        head = np.concatenate(([True], group[order][1:] != group[order][:-1]))
        pivots = order[head]
        kept.append(pivots)
        pivot_of = pivots[np.cumsum(head) - 1]
        order = order[(criteria[order] < criteria[pivot_of]).any(axis=1)]
    found = np.concatenate(kept)
    return found[np.lexsort((criteria[found, 0], group[found]))]
