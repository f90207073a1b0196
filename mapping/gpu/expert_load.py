"""Load of the experts of one expert-parallel rank: rows, experts with rows, and row blocks, under a routing distribution.

Source of how loads are drawn: ``collector/helper.py`` of ai-dynamo/aiconfigurator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UnknownNameError
from .machine import Number

#: Row blocks for which :func:`expert_load` counts tiles.
BLOCK_ROWS = (16, 32, 64, 128, 256)

#: Who gets the rows that rounding leaves over.
ROUNDINGS = ("spread", "popular")

# Nodes of the quadrature over experts, dense at the heavy end: quantile 1 - (1 - v)^2 with weight 2 (1 - v).
_V = (np.arange(24) + 0.5) / 24
_QUANTILE = 1 - (1 - _V) ** 2
_WEIGHT = (1 - _V) / (1 - _V).sum()


@dataclass(frozen=True)
class ExpertLoad:
    """What one expert-parallel rank has to do; arrays of one shape.

    Attributes
    ----------
    tokens
        Tokens with at least one expert on this rank.
    rows
        (token, expert) pairs of this rank's experts.
    active
        Experts with at least one row.
    span
        Tokens over which the rows of one expert are spread in memory (mean over rows).
    tiles
        Row blocks after padding every expert to a multiple of the key.
    """

    tokens: np.ndarray
    rows: np.ndarray
    active: np.ndarray
    span: np.ndarray
    tiles: Mapping[int, np.ndarray]


def blocks_of(a: Number, b: Number) -> Any:
    """Blocks of `b` that hold `a`: the quotient rounded up."""
    return np.ceil(a / b - 1e-9)


def expert_load(
    num_tokens: Number, num_experts: Number, topk: Number, ep_size: Number = 1, distribution: str = "balanced", *,
    rounding: str = "spread",
) -> ExpertLoad:  # fmt: skip
    """Expected load of the heaviest of ``ep_size`` ranks.

    Parameters
    ----------
    num_tokens, num_experts, topk, ep_size
        Arrays that broadcast together; experts are dealt to ranks in equal contiguous groups.
    distribution
        ``"balanced"``: tokens walk through the experts with stride ``num_experts / topk``. ``"power_law_A"``: each
        expert's popularity is drawn from a density proportional to ``x**-A`` on [1, 0.8 tokens] (on [0.01, 2] while
        there are fewer pairs than experts), capped at one row per token, the overflow given to the least loaded
        experts; the rank with the largest sum is the one described.
    rounding
        Who gets the rows that rounding to whole rows leaves over: ``"spread"``: experts without any. ``"popular"``: one
        each to those with the most, and when all that have any are served, to the others from the first on (the
        collector's draws until early 2026: all rows of a lone token then fall on the first rank).

    Returns
    -------
    ExpertLoad
        Expectations. The draw is replaced by its quantiles (24 nodes, those of few experts at the middle of each expert's
        share), and the heaviest of ``p`` groups of ``g``
        experts by the exponential tilt of the draw whose relative entropy is ``(ln p - 1 + 1/p) / g``, near the normal
        extreme value for large ``g``, and ``ln p`` for ``g = 1``, one of ``p`` (rows and tiles within 5 % of simulated
        draws on average).

    Raises
    ------
    UnknownNameError
        Unknown distribution or rounding.

    Examples
    --------
    >>> load = expert_load(64, 8, 2)
    >>> float(load.rows), float(load.active), float(load.tiles[16])
    (128.0, 8.0, 8.0)
    """
    if rounding not in ROUNDINGS:
        raise UnknownNameError("rounding of expert loads", rounding, ROUNDINGS)
    m, e, k, p = (np.asarray(v, float) for v in np.broadcast_arrays(num_tokens, num_experts, topk, ep_size))
    group, pairs = e / p, m * k
    if distribution == "balanced":
        stride = np.ceil(e / k)
        share = np.minimum(group / stride, 1)
        tokens = np.where(m >= stride, m * share, np.ceil(share * m))
        rows = np.minimum(np.maximum(pairs / p, tokens), pairs)
        active = np.minimum(group, rows)
        tiles = {b: active * blocks_of(rows / active, b) for b in BLOCK_ROWS}
        return ExpertLoad(tokens, rows, active, m * 1.0, tiles)
    alpha = _exponent(distribution)
    span = np.log(np.where(pairs > e, np.maximum(0.8 * m, 1.0001), 200.0)) * (1 - alpha)
    # few experts have few draws: each stands at the middle of its share of the distribution
    quantile = (np.floor(_QUANTILE * e[..., None]) + 0.5) / e[..., None]
    draw = np.exp(np.log1p(np.expm1(span)[..., None] * quantile) / (1 - alpha))
    count = draw * (pairs / e / (draw @ _WEIGHT))[..., None]
    cap = m[..., None]
    capped = np.minimum(count, cap)
    over = (count - capped) @ _WEIGHT
    # water level of the overflow: the least loaded experts rise together
    level = (np.cumsum(capped * _WEIGHT, -1) + over[..., None]) / np.cumsum(_WEIGHT)
    above = np.concatenate([capped[..., 1:], np.full((*m.shape, 1), np.inf)], -1)
    first = np.argmax(level <= above, -1)[..., None]
    floor = np.where(over > 1e-3 * pairs / e, np.take_along_axis(level, first, -1)[..., 0], 0.0)[..., None]
    count = np.minimum(np.maximum(capped, floor), cap)
    whole = np.rint(count)
    missing = np.maximum(pairs / e - whole @ _WEIGHT, 0) * group
    weight = _tilt(count / count[..., -1:], np.where(group > 1, (np.log(p) - 1 + 1 / p) / group, np.log(p)))
    active = group * (weight * (whole > 0)).sum(-1)
    if rounding == "popular":
        heavy = group * (weight * whole).sum(-1)
        missing, filled = _to_popular(missing * p, e * ((whole > 0) @ _WEIGHT), group * (whole @ _WEIGHT), heavy, active, group, p)
    else:
        filled = np.minimum(missing, np.maximum(group - active, 0))
    rows = np.clip(group * (weight * whole).sum(-1) + missing, 1.0, np.minimum(pairs, group * m))
    active = np.minimum(np.maximum(active + filled, np.maximum(rows / m, 1)), rows)
    several = np.minimum(k, np.minimum(group, active))
    tokens = m * (1 - (1 - np.minimum(rows / (several * m), 1)) ** several)
    tokens = np.clip(tokens, np.maximum(rows / k, 1), np.minimum(m, rows))
    spread = np.minimum((weight * whole**2).sum(-1) / np.maximum((weight * whole).sum(-1), 1e-9) + 1, m)
    tiles = {b: np.maximum(group * (weight * np.ceil(whole / b)).sum(-1) + filled, active) for b in BLOCK_ROWS}
    return ExpertLoad(tokens, rows, active, spread, tiles)


def _to_popular(missing: Any, loaded: Any, mean: Any, heavy: Any, active: Any, group: Any, p: Any) -> tuple[Any, Any]:
    """Rows that rounding adds to the heaviest rank, and how many of its experts it wakes.

    One row each to the experts with the most rows; once all that have any (`loaded`) are served, to the others in the order
    of their number, which begins on the first rank. That rank, of average load (`mean` rows), may so become the heaviest.
    """
    each = np.minimum(missing / np.maximum(loaded, 1e-9), 1.0)
    woken = np.minimum(np.maximum(missing - loaded, 0.0), np.maximum(group - loaded / p, 0.0))
    first = mean + loaded / p * each + woken
    before = heavy + active * each
    return np.where(first > before, first, before) - heavy, np.where(first > before, woken + loaded / p - active, 0.0)


def _exponent(distribution: str) -> float:
    kind, _, number = distribution.rpartition("_")
    try:
        alpha = float(number)
    except ValueError:
        alpha = 0.0
    if kind != "power_law" or not alpha > 0 or alpha == 1.0:
        raise UnknownNameError("routing distribution", distribution, ("balanced", "power_law_1.01", "power_law_1.2"))
    return alpha


def _tilt(y: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """Weights proportional to ``exp(theta y)`` with the given relative entropy to the quadrature weights."""
    mean = y @ _WEIGHT
    theta = np.sqrt(2 * entropy / np.maximum((y * y) @ _WEIGHT - mean**2, 1e-12))
    for _ in range(5):
        w = np.exp(theta[..., None] * (y - 1)) * _WEIGHT
        z = w.sum(-1)
        first = (w * y).sum(-1) / z
        var = (w * y * y).sum(-1) / z - first**2
        step = np.exp(np.clip((entropy - theta * (first - 1) + np.log(z)) / np.maximum(theta * theta * var, 1e-9), -1, 1))
        theta = np.where(entropy > 0, np.minimum(theta * np.clip(step, 0.4, 2.5), 200.0), 0.0)
    w = np.exp(theta[..., None] * (y - 1)) * _WEIGHT
    return w / w.sum(-1, keepdims=True)
