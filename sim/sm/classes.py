"""CTAs of a launch by the way that they go through the kernel.

CTAs that go the same way, loop trips included, take the same time; others do not: causal and block-sparse attention, grouped products whose
grid is larger than what the routing needs, split work. One warp of every CTA is followed for control flow alone, without addresses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial, reduce

import numpy as np

from ...mapping.triton import CompiledKernel, Evaluation, Launch, evaluate, take_apart
from ...mapping.triton.execute import Execution
from .distinct import kinds_of
from .warps import SAMPLED_LANES, followed_warps, one_warp

#: CTAs that are followed at most (of a larger grid a sample: `spread_sample`), and the step in it.
_CTAS, _STEP = 16_384, math.sqrt(2.0)


def program_ids(launch: Launch, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """int64 of shape (n, 3): program ids by their number in order of launch (x fastest)."""
    at = np.asarray(numbers, dtype=np.int64)
    x, y, _ = launch.grid
    return np.stack([at % x, at // x % y, at // (x * y)], axis=1)


@dataclass(frozen=True, eq=False)
class Classes:
    """CTAs of a launch, those together that go the same way.

    Attributes
    ----------
    number
        int64 by CTA in order of launch: its class.
    representative
        int64 by class: number of the CTA in the middle of those that were followed.
    count
        int64 by class: CTAs.
    work
        float64 by class: instructions of one warp.
    way
        int64 by class: equal for classes that enter the same code and differ in trips alone.
    """

    number: np.ndarray
    representative: np.ndarray
    count: np.ndarray
    work: np.ndarray
    way: np.ndarray

    def __len__(self) -> int:
        return len(self.count)


def paths(compiled: CompiledKernel, launch: Launch, ids: np.ndarray, lanes: tuple[int, ...] = SAMPLED_LANES) -> np.ndarray:
    """int64 of shape (CTAs, segments): how often the first warp of each CTA goes through each segment of the program."""
    program = one_warp(compiled, addresses=False)
    count = len(program.segments)
    found = np.zeros((len(ids), count), dtype=np.int64)
    warps = program.threads // 32
    for start, run in followed_warps(program, launch, ids, partial(Execution, trace=True, close=True), lanes):
        assert run.trace is not None
        times = np.zeros((len(run.lane_sets), count), dtype=np.int64)
        again = np.ones(len(run.trace.segments), dtype=np.int64)
        for repeat in run.trace.repeats:
            again[repeat.first:repeat.end] += repeat.times
        np.add.at(times, (np.array(run.trace.lanes, dtype=np.int64), np.array(run.trace.segments, dtype=np.int64)), again)
        for number in np.flatnonzero(times.any(axis=1)).tolist():
            ctas = run.lane_sets[number].warps[run.lane_sets[number].warps % warps == 0] // warps
            found[start + ctas] += times[number]
    return found


@lru_cache(maxsize=64)
def single(grid: tuple[int, int, int]) -> Classes:
    """All CTAs of a grid in one class."""
    zero, programs = np.zeros(1, dtype=np.int64), grid[0] * grid[1] * grid[2]
    return Classes(np.zeros(programs, dtype=np.int64), zero + middle_cta(grid), zero + programs, np.ones(1), zero)


def middle_cta(grid: tuple[int, int, int]) -> int:
    """Number in order of launch of the CTA in the middle of every axis: on an edge, masks leave out what others do."""
    x, y, z = grid
    return x // 2 + x * (y // 2 + y * (z // 2))


def cta_classes(compiled: CompiledKernel, launch: Launch, lanes: tuple[int, ...] = SAMPLED_LANES) -> Classes:
    """The classes of a launch's CTAs; `lanes` stand for their warp."""
    program = take_apart(compiled, addresses=False)
    if launch.programs == 1 or not program.plan.reads_program_id:
        return single(launch.grid)
    picks, owner = spread_sample(launch.programs, _CTAS)
    sizes = np.array([s.last - s.first + 1 for s in program.segments])
    return classes_of(launch.grid, picks, paths(compiled, launch, program_ids(launch, picks), lanes), sizes, owner)


def spread_sample(programs: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of CTAs that are followed, one of each of equal stretches of the launch, and by CTA which of them it does as.

    All of them where there are few. Else the place in its stretch goes on by an irrational step: picks one distance apart would meet the
    period in which the order of tiles (grouped rows, say) deals out work, and find it everywhere or nowhere. Periods are powers of two
    mostly; multiples of sqrt(2) come back near to where they were after 5, 12, 29, 70, those of the golden section after 8.

    Examples
    --------
    >>> spread_sample(3, 4)[0].tolist(), spread_sample(16, 4)[0].tolist()
    ([0, 1, 2], [0, 5, 11, 12])
    """
    count = min(programs, most)
    edges = np.arange(count + 1) * programs // count
    wide = np.diff(edges)
    return edges[:-1] + (np.arange(count) * _STEP % 1.0 * wide).astype(np.int64), np.repeat(np.arange(count), wide)


def classes_of(grid: tuple[int, int, int], picks: np.ndarray, found: np.ndarray, sizes: np.ndarray,
               owner: np.ndarray) -> Classes:
    """Classes of a grid's CTAs, from those that were followed.

    Parameters
    ----------
    picks
        Numbers of these in order of launch, rising.
    found
        How often each of them goes through each segment.
    sizes
        Instructions of the segments.
    owner
        Which of them each CTA does as.
    """
    ways, inverse = _distinct_rows(found)
    times = np.bincount(inverse)
    if len(ways) == 1:
        return single(grid)
    number = inverse[owner]
    order = np.argsort(inverse, kind="stable")
    middle = np.cumsum(times) - times + times // 2
    entered = np.asarray(np.unique(ways > 0, axis=0, return_inverse=True)[1]).reshape(-1)
    return Classes(number, picks[order[middle]], np.bincount(number, minlength=len(ways)), (ways @ sizes).astype(np.float64), entered)


def _distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of int64, in order, and which of them each row is: ``np.unique(axis=0)``, sooner where few are distinct."""
    picks, back = kinds_of(rows)
    ways, order = np.unique(rows[picks], axis=0, return_inverse=True)
    return ways, order.reshape(-1)[back]


#: Classes of one way that are simulated, and ways.
_SAMPLES, _WAYS = 3, 8
#: Longest class over the shortest up to which the classes of a way count as alike.
_ALIKE = 1.02


@dataclass(frozen=True, eq=False)
class Samples:
    """Classes that are simulated, for all.

    Attributes
    ----------
    classes
        Their numbers.
    weights
        float64 of shape (classes, samples): what a class takes, from what the samples take. Between two samples of its way a class takes
        what lies between by its work.
    """

    classes: tuple[int, ...]
    weights: np.ndarray


def sample(classes: Classes) -> Samples:
    """Of each way the shortest, the longest and the one half way between; of many ways those with most work."""
    if len(classes) == 1:
        return Samples((0,), np.ones((1, 1)))
    heavy = np.bincount(classes.way, weights=classes.work * classes.count)
    kept = np.argsort(-heavy, kind="stable")[:_WAYS].tolist()
    chosen: list[int] = []
    weights = np.zeros((len(classes), 0))
    for way in kept:
        mine = np.flatnonzero(classes.way == way)
        mine = mine[np.argsort(classes.work[mine], kind="stable")]
        work = classes.work[mine]
        if work[-1] <= _ALIKE * work[0]:
            picks = [int(np.argmax(classes.count[mine]))]
        else:
            picks = sorted({0, int(np.argmin(np.abs(work - (work[0] + work[-1]) / 2))), len(mine) - 1})[:_SAMPLES]
        added = np.zeros((len(classes), len(picks)))
        for column, pick in enumerate(picks):
            added[mine, column] = np.interp(work, work[picks], np.eye(len(picks))[column]) if len(picks) > 1 else work / work[pick]
        weights = np.concatenate([weights, added], axis=1)
        chosen += mine[picks].tolist()
    for number in np.flatnonzero(~np.isin(classes.way, kept)).tolist():
        nearest = int(np.argmin(np.abs(np.log(classes.work[chosen] / classes.work[number]))))
        weights[number, nearest] = classes.work[number] / classes.work[chosen[nearest]]
    return Samples(tuple(int(c) for c in chosen), weights)


def grid_of(compiled: CompiledKernel, launch: Launch, classes: Classes, samples: Samples, runs: Sequence[Evaluation]) -> Evaluation:
    """Counts of the whole grid from one CTA of each class, as `evaluate_grid` has them from every CTA; bulk copies are left out.

    Parameters
    ----------
    runs
        The CTAs that stand for the classes of `samples`.
    """
    parts = [replace(run, bulks=()).scaled(int(classes.count[number])) for number, run in zip(samples.classes, runs, strict=True)]
    others = np.setdiff1d(np.arange(len(classes)), samples.classes)
    for count in np.unique(classes.count[others]).tolist():
        ids = program_ids(launch, classes.representative[others[classes.count[others] == count]])
        parts.append(replace(evaluate(compiled, launch, ids, addresses=False, close=True), bulks=()).scaled(count))
    return reduce(_sum, parts)


def _sum(one: Evaluation, other: Evaluation) -> Evaluation:
    edges = {pair: one.edge_counts.get(pair, 0) + other.edge_counts.get(pair, 0) for pair in {*one.edge_counts, *other.edge_counts}}
    matrices = {key: one.matrices.get(key, 0) + other.matrices.get(key, 0) for key in {*one.matrices, *other.matrices}}
    names = {(a.name, a.kind) for a in one.assumptions}
    return replace(one, program_ids=np.concatenate([one.program_ids, other.program_ids]),
                   block_counts=one.block_counts + other.block_counts, edge_counts=edges, matrices=matrices,
                   assumptions=one.assumptions + tuple(a for a in other.assumptions if (a.name, a.kind) not in names))
