"""Dominance among partial mappings: of two at the same shape, one that costs and holds no less than the other is dropped."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


def nondominated(group: Index, criteria: Floats) -> Index:
    """Rows that no other row of their group dominates; of equal rows one stays.

    Parameters
    ----------
    group
        Numbers of 0 or more; shape (n,).
    criteria
        Shape (n, k), smaller is better.

    Returns
    -------
    Indices of the rows that stay, sorted by group, then by the first criterion that differs anywhere.

    >>> nondominated(np.array([0, 0, 0, 1]), np.array([[1.0, 5], [2, 5], [2, 4], [9, 9]])).tolist()
    [0, 2, 3]
    """
    if len(group) <= 1:
        return np.arange(len(group))
    kept = criteria.shape[1]
    varying = [k for k in range(kept) if not (criteria[:, k] == criteria[0, k]).all()]
    if len(varying) < 2:
        return cheapest(group, criteria[:, varying[0]] if varying else np.zeros(len(group)))
    if len(varying) == 2:
        return _flat(group, criteria[:, varying[0]], criteria[:, varying[1]])
    return _general(group, criteria[:, varying])


def cheapest(group: Index, cost: Floats, tie: Floats | None = None) -> Index:
    """A row of least cost of every group, sorted by group; of several, one of the least `tie`."""
    order = _sorted(group, cost)
    if not len(order):
        return order
    where, value = group[order], cost[order]
    head = np.concatenate(([True], where[1:] != where[:-1]))
    if tie is None:
        return order[head]
    equal = value == value[head][np.cumsum(head) - 1]
    order = order[equal]
    return order[cheapest(where[equal], tie[order])]


def _sorted(group: Index, cost: Floats) -> Index:
    """Rows by group, then by cost: two sorts by one key each are much faster than `numpy.lexsort`."""
    order = np.argsort(cost)
    where, most = group[order], int(group.max(initial=0))
    # Stable sorts of 16-bit integers are radix sorts.
    order = order[np.argsort(where.astype(np.uint16), kind="stable")]
    shift = 16
    while most >> shift:
        order = order[np.argsort((group[order] >> shift).astype(np.uint16), kind="stable")]
        shift += 16
    return order


def _flat(group: Index, first: Floats, second: Floats) -> Index:
    """Two criteria: sorted by the first, a row stays where the second falls below all before it in its group."""
    order = _sorted(group, first)
    where, rest = group[order], second[order]
    number = np.concatenate(([0], np.cumsum(where[1:] != where[:-1])))
    span = float(rest.max() - rest.min()) + 1.0
    if span * (number[-1] + 1) < 2.0**52 and (rest == np.rint(rest)).all():
        rank = rest  # whole numbers, of which sums and products are exact
    else:
        _, ranks = np.unique(rest, return_inverse=True)
        rank, span = ranks.astype(float), float(len(order) + 1)
    # Ranks of later groups lie below all of earlier ones, so that the running minimum starts afresh in each group.
    level = rank - number * span
    stays = np.concatenate(([True], level[1:] < np.minimum.accumulate(level)[:-1]))
    order, where = order[stays], where[stays]
    # Of rows that are equal in the first, the last to stay has the least of the second.
    value = first[order]
    last = np.concatenate(((where[1:] != where[:-1]) | (value[1:] != value[:-1]), [True]))
    return order if last.all() else order[last]


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
