"""Which experts the tokens of a measured mixture-of-experts row go to, drawn as its collector drew them, and in what blocks.

Expert loads are those of the collector of ai-dynamo/aiconfigurator (``collector/helper.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..mapping.gpu.moe_kernels import implementation_of
from .kernels.suite import cdiv
from .moe_rows import MoeRow

#: Draws of the expert loads, of which the one nearest to their mean is taken; the collector averages ten.
DRAWS: Final = 10


@dataclass(frozen=True)
class Routing:
    """What one rank computes.

    Attributes
    ----------
    experts_of
        int64 [tokens present, top_k]: expert of each pair, numbered among those that have a row; -1 where it is on another rank and not
        computed here.
    numbers
        int64 by expert with a row: its number on the rank.
    """

    experts_of: np.ndarray
    numbers: np.ndarray

    @property
    def active(self) -> int:
        """Experts with a row."""
        return len(self.numbers)


def expert_counts(tokens: int, experts: int, top_k: int, ep: int, exponent: float, seed: int) -> np.ndarray:
    """Rows of each expert, the busiest rank's experts first; int64 [experts].

    Shares are drawn from a density proportional to ``x**-exponent`` on [1, 0.8 tokens] ([0.01, 2] with fewer pairs than experts), rounded,
    capped at one row a token; what is missing then goes to the least loaded experts, rank by rank.

    Examples
    --------
    >>> int(expert_counts(64, 8, 2, 2, 1.2, seed=0).sum())
    128
    """
    counts = np.minimum(_drawn_counts(tokens, experts, top_k, exponent, seed), tokens).reshape(ep, -1)
    rank = 0
    while (missing := tokens * top_k - int(counts.sum())) != 0:
        mine, rank = counts[rank % ep], rank + 1
        step = max(1, abs(missing) // (ep * len(mine)))  # many at once while much is missing
        if missing > 0:
            at = int(mine.argmin())
            mine[at] += min(step, missing, tokens - int(mine[at]))
        else:
            at = int(mine.argmax())
            mine[at] -= min(step, -missing, int(mine[at]))
    return _busiest_first(counts)


def early_counts(tokens: int, experts: int, top_k: int, ep: int, exponent: float, seed: int) -> np.ndarray:
    """`expert_counts` as the collector of early 2026 has it: no cap; what is missing goes to the most loaded experts, one each, and what is
    too much is taken from the least loaded.

    Examples
    --------
    >>> early_counts(1, 160, 8, 32, 1.01, seed=0)[:10].tolist()  # all shares are rounded to nothing
    [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    """
    counts = _drawn_counts(tokens, experts, top_k, exponent, seed)
    missing = tokens * top_k - int(counts.sum())
    order = np.argsort(-counts, kind="stable")
    if missing > 0:
        counts += missing // experts
        counts[order[:missing % experts]] += 1
    for n in range(-missing):
        least = order[-(n % experts) - 1]
        counts[least if counts[least] > 0 else counts.argmax()] -= 1
    return _busiest_first(counts.reshape(ep, -1))


def _drawn_counts(tokens: int, experts: int, top_k: int, exponent: float, seed: int) -> np.ndarray:
    low, high = (1.0, max(0.8 * tokens, 1.0001)) if tokens * top_k > experts else (0.01, 2.0)
    power = 1.0 - exponent
    u = np.random.default_rng(seed).random(experts)
    share = ((high**power - low**power) * u + low**power) ** (1.0 / power)
    return np.rint(share / share.sum() * tokens * top_k).astype(np.int64)


def _busiest_first(counts: np.ndarray) -> np.ndarray:
    """Counts [ranks, experts of each] with the busiest rank's in front, flat."""
    busiest = int(counts.sum(1).argmax())
    counts[[0, busiest]] = counts[[busiest, 0]]
    return counts.reshape(-1)


def _without_repeats(chosen: np.ndarray) -> np.ndarray:
    """Where a token names an expert twice, the lowest that it does not name instead: the top k of how often each is named."""
    repeated = np.flatnonzero((np.diff(np.sort(chosen, axis=1), axis=1) == 0).any(axis=1))
    for token in repeated.tolist():
        named = np.unique(chosen[token])
        others = np.setdiff1d(np.arange(len(named) + chosen.shape[1]), named)
        chosen[token] = np.concatenate([named, others[:chosen.shape[1] - len(named)]])
    return chosen


def chosen_experts(row: MoeRow, seed: int) -> np.ndarray:
    """Experts of every token of the whole layer, [tokens, top_k]."""
    if row.distribution == "balanced":
        stride = cdiv(row.experts, row.top_k)
        token = np.arange(row.tokens)[:, None]
        first = token if row.tokens >= stride else (token * stride / row.tokens)
        return np.asarray((first + stride * np.arange(row.top_k)) % row.experts).astype(np.int64)
    if row.distribution == "uniform":
        return np.random.default_rng(seed).random((row.tokens, row.experts)).argsort(axis=1)[:, :row.top_k]
    exponent = float(row.distribution.rpartition("_")[2])
    counts = (early_counts if row.early else expert_counts)(row.tokens, row.experts, row.top_k, row.ep, exponent, seed)
    order = np.argsort(-counts, kind="stable")
    chosen = np.repeat(order, counts[order]).reshape(row.top_k, row.tokens).T
    return _without_repeats(chosen.copy()) if row.early else chosen


def on_busiest_rank(row: MoeRow, chosen: np.ndarray) -> Routing:
    """The busiest rank's part."""
    local = row.experts // row.ep
    mine = chosen < local
    if implementation_of(row.framework, row.version)["remote_rows"] == "computed":
        here = mine.any(axis=1)
        ids = np.where(mine, chosen, 0)[here]
    else:
        ids = np.where(mine, chosen, -1)
    active, compact = np.unique(ids, return_inverse=True)
    without = int(active[0] < 0)
    return Routing(compact.reshape(ids.shape) - without, active[without:])


def routing_of(row: MoeRow, block: int) -> Routing:
    """The routing of one rank: of `DRAWS` draws the one whose experts in use and row blocks are nearest to the mean."""
    if row.distribution == "balanced":
        return on_busiest_rank(row, chosen_experts(row, 0))
    drawn = [on_busiest_rank(row, chosen_experts(row, seed)) for seed in range(DRAWS)]
    size = np.array([(r.active, row_blocks(r, block)) for r in drawn], float)
    return drawn[int(np.abs(size / size.mean(0) - 1).sum(1).argmin())]


def row_blocks(routing: Routing, block: int) -> int:
    """Row blocks after padding each expert to whole blocks."""
    flat = routing.experts_of.reshape(-1)
    return int((-(-np.bincount(flat[flat >= 0]) // block)).sum())


def align_pairs(routing: Routing, block: int, capacity_experts: int) -> tuple[np.ndarray, np.ndarray, int]:
    """As `kernels.moe.align`, for pairs that may be elsewhere (-1), and buffers for `capacity_experts`."""
    flat = routing.experts_of.reshape(-1)
    pairs = len(flat)
    capacity = cdiv(pairs + min(capacity_experts, pairs) * (block - 1), block) * block
    ids = np.full(capacity, pairs, np.int32)
    counts = np.bincount(flat[flat >= 0], minlength=routing.active)
    blocks = -(-counts // block)
    of_block = np.zeros(capacity // block, np.int32)
    used = int(blocks.sum()) * block
    of_block[:used // block] = np.repeat(np.arange(len(counts)), blocks)
    order = np.argsort(flat, kind="stable")[int((flat < 0).sum()):]
    start = np.cumsum(blocks * block) - blocks * block
    ids[np.repeat(start - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))] = order
    return ids, of_block, used
