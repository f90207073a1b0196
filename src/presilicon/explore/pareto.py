"""Pareto fronts and their hypervolume, exact, for a handful of objectives that are all minimised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PresiliconError, UnknownNameError
from .study import OBJECTIVES

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 2048


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Which points no other point dominates; of equal points the first stays.

    Parameters
    ----------
    values
        Shape ``(points, objectives)``, less is better; a point that is not finite is dominated.

    Returns
    -------
    numpy array of bool, shape ``(points,)``
        A point dominates another if it is no worse in every objective and better in one.

    >>> non_dominated(np.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [1.0, 3.0]])).tolist()
    [True, True, False, False]
    """
    values = np.asarray(values, dtype=float)
    keep = np.zeros(len(values), dtype=bool)
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    # Lexicographic order: a point can only be dominated by an earlier one.
    order = rows[np.lexsort((rows, *values[rows].T[::-1]))]
    front = np.empty((0, values.shape[1]))
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        if len(front):
            block = block[~(front[:, None, :] <= values[block][None, :, :]).all(axis=2).any(axis=0)]
        alive: list[int] = []
        for index in block:
            if not alive or not (values[alive] <= values[index]).all(axis=1).any():
                alive.append(int(index))
        keep[alive] = True
        front = np.concatenate([front, values[alive]]) if alive else front
    return keep


def hypervolume(values: np.ndarray, reference: Sequence[float] | np.ndarray) -> float:
    """Volume that the points dominate and that the reference point bounds, exactly.

    Parameters
    ----------
    values
        Shape ``(points, objectives)``, less is better; points beyond the reference count for nothing.
    reference
        Shape ``(objectives,)``.

    Notes
    -----
    Slices along the last objective (HSO: While et al., IEEE Trans. Evolutionary Computation 10, 2006), down to two objectives, which one
    sorted pass solves.

    >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), [3.0, 3.0])
    3.0
    """
    values, limit = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    values = values[(values < limit).all(axis=1)] if len(values) else values.reshape(0, len(limit))
    return _volume(values[non_dominated(values)], limit) if len(values) else 0.0


def _volume(front: np.ndarray, limit: np.ndarray) -> float:
    if front.shape[1] == 1:
        return float(limit[0] - front[:, 0].min())
    if front.shape[1] == 2:
        front = front[np.argsort(front[:, 0], kind="stable")]
        lowest = np.minimum.accumulate(front[:, 1])
        right = np.append(front[1:, 0], limit[0])
        return float(np.sum((right - front[:, 0]) * (limit[1] - lowest)))
    front = front[np.argsort(front[:, -1], kind="stable")]
    tops = np.append(front[1:, -1], limit[-1])
    total = 0.0
    for count, (low, top) in enumerate(zip(front[:, -1], tops, strict=True), start=1):
        if top > low:
            slab = front[:count, :-1]
            total += (top - low) * _volume(slab[non_dominated(slab)], limit[:-1])
    return total


def as_minimised(frame: pd.DataFrame | Mapping[str, Any], objectives: Sequence[str]) -> np.ndarray:
    """Objectives of rows as an array of shape ``(rows, objectives)`` in which less is better (throughput is negated).

    Raises
    ------
    UnknownNameError
        An objective that does not exist, or whose column the rows lack.
    """
    columns = []
    for name in objectives:
        if name not in OBJECTIVES:
            raise UnknownNameError("objective", name, OBJECTIVES)
        column, direction = OBJECTIVES[name]
        if column not in frame:
            raise UnknownNameError("objective", name, [n for n, (c, _) in OBJECTIVES.items() if c in frame], where=f"no column {column}")
        values = np.asarray(frame[column], dtype=float)
        columns.append(-values if direction == "max" else values)
    return np.stack(columns, axis=1)


def pareto_front(frame: pd.DataFrame, objectives: Sequence[str] = ("latency", "energy")) -> pd.DataFrame:
    """The rows that no other row dominates, best first in the first objective.

    Parameters
    ----------
    frame
        Rows of a sweep or a search.
    objectives
        Two names or more of `presilicon.explore.study.OBJECTIVES`. Rows that failed, or that break a constraint (column ``feasible``), are
        left out.

    Raises
    ------
    PresiliconError
        Fewer than two objectives.
    UnknownNameError
        An unknown objective.
    """
    if len(objectives) < 2:
        raise PresiliconError("a Pareto front needs two objectives or more")
    rows = frame[frame["error"].isna()] if "error" in frame else frame
    rows = rows[rows["feasible"]] if "feasible" in rows else rows
    values = as_minimised(rows, objectives)
    keep = non_dominated(values)
    return rows[keep].iloc[np.argsort(values[keep, 0], kind="stable")]
