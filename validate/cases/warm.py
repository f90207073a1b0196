"""Batches in the middle of continuous batching: which requests run, how far they are, and the channel that each was given on arrival.

A request keeps its channel for life, since its cache lies there. Whoever leaves makes room for another, which is packed into the channels
as they are then: that is less even than packing a whole batch at once, and is how NeuPIMs makes its traces (public trace generator).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ...errors import CaseError
from ...mapping.packing import arrive

Ints = npt.NDArray[np.int64]
#: Tokens that every request makes between two looks at the batch, and looks before it counts as warm.
STRIDE: Final = 10
LOOKS: Final = 250


@dataclass(frozen=True)
class Lengths:
    """Log-normal prompt and output lengths, by mean and median in tokens, and the longest context.

    Raises
    ------
    CaseError
        Medians below 1 or not below their means.
    """

    prompt: tuple[float, float]
    output: tuple[float, float]
    longest: int = 2048

    def __post_init__(self) -> None:
        for what, (mean, median) in (("prompt", self.prompt), ("output", self.output)):
            if not 1 <= median < mean:
                raise CaseError(f"lengths: {what}: expected a mean above a median from 1, found {mean:g}, {median:g}")

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Prompts and outputs of so many requests, int64 of ``(count,)`` each."""
        drawn = []
        for mean, median in (self.prompt, self.output):
            sigma = math.sqrt(2.0 * math.log(mean / median))
            tokens = np.rint(rng.lognormal(math.log(median), sigma, count))
            drawn.append(np.clip(tokens, 1, self.longest).astype(np.int64))
        return drawn[0], drawn[1]


def lengths_of(numbers: Sequence[float]) -> tuple[Lengths, ...]:
    """Lengths of data sets from a case file: prompt mean, prompt median, output mean, output median of each, in a row.

    Raises
    ------
    CaseError
        Not four numbers for each.
    """
    if not numbers or len(numbers) % 4:
        raise CaseError(f"lengths: expected four numbers a data set (mean and median of prompts, then of outputs), found {len(numbers)}")
    return tuple(Lengths((float(a), float(b)), (float(c), float(d))) for a, b, c, d in zip(*[iter(numbers)] * 4, strict=True))


@dataclass(frozen=True)
class Warm:
    """A warm batch.

    Attributes
    ----------
    contexts
        Tokens in each cache, the new one apart, int64 of ``(requests,)``, in the order of arrival.
    channels
        Channel of each.
    """

    contexts: Ints
    channels: Ints


def warm_batch(lengths: Lengths, batch: int, channels: int, how: str, cycles: npt.NDArray[np.float64] | None, seed: int) -> Warm:
    """A batch of so many requests after `LOOKS` times `STRIDE` steps, in which whoever had all its tokens made room for another.

    Parameters
    ----------
    lengths
        What requests are drawn from; the same seed draws the same requests whatever the packing.
    batch, channels
        Requests in the batch, and channels of the memory.
    how
        ``"round-robin"`` or ``"greedy"``: newcomers into channels (`presilicon.mapping.packing.arrive`).
    cycles
        Load of a request by its keys, of ``(longest + 1,)``; None: the keys.
    seed
        Of the draws.
    """
    rng = np.random.default_rng(seed)
    load = np.arange(lengths.longest + 1, dtype=np.float64) if cycles is None else cycles
    keys, left, where, since = (np.zeros(batch, dtype=np.int64) for _ in range(4))
    turn = 0
    for look in range(LOOKS):
        step = np.minimum(left, STRIDE)
        keys, left = keys + step, left - step
        new = np.flatnonzero(left == 0)
        keys[new], left[new] = lengths.draw(len(new), rng)
        keys, since[new] = np.minimum(keys, lengths.longest), look
        stay = np.ones(batch, dtype=np.bool_)
        stay[new] = False
        there = np.bincount(where[stay], weights=load[keys[stay]], minlength=channels).astype(np.float64)
        where[new] = arrive(load[keys[new]], there, how, turn)
        turn += len(new)
    order = np.argsort(since, kind="stable")
    return Warm(np.maximum(keys[order] - 1, 1), where[order])
