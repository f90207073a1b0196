"""What CTAs that go different ways share in L2, from every address of some waves of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...mapping.triton import Launch
from ...mapping.triton.access import SECTOR_BYTES
from .distinct import numbered
from .l2 import L2Cache, union_of
from .loads import Loads
from .sharing import (
    First,
    Sharing,
    as_neighbours,
    at_least_distinct,
    further_on,
    merged,
    reach_of,
    serving_scattered,
    sharing_from,
    unknown_sharing,
    within_buffers,
)
from .windows import through_windows

#: Of a wave of CTAs the instruction, CTA and sector (of bulk copies: box) of every access of warp 0, each CTA's in order. Where not all
#: accesses are given, the bytes that the CTA has asked for before each stand behind them.
Walk = tuple[np.ndarray, ...]
#: The walks of some waves.
Walks = Callable[[Sequence[np.ndarray], Sequence[int]], Sequence[Walk]]
#: Waves of CTAs that are walked through, by the share of the launch's work that is done when they begin.
WAVES_WALKED = (0.0, 0.35, 0.65, 1.0)
#: Windows in which the CTAs of a wave go on together, at most; what keeps addresses of stores apart from those of loads.
_WINDOWS, _APART = 64, 1 << 60
#: CTAs whose first addresses are asked for at most.
FOLLOWED = 16_384


def sharing_of_walks(launch: Launch, asked: Sequence[Loads], walks_of: Walks, l2: L2Cache, *, together: int, work: np.ndarray,
                     thinned: float = 1.0, first: First | None = None) -> Sharing:
    """Sharing where CTAs go different ways: from every address of some waves of CTAs, the first, the last and two between.

    The waves are those that begin when given shares of the launch's work are done: CTAs that leave at once do not stand for others.

    CTAs of a wave go on at the same pace in bytes. What one of them asks for comes from DRAM unless the wave has touched it since
    as many other bytes went by as L2 keeps, whichever instruction touched it.

    Parameters
    ----------
    asked
        What CTAs read, of each way at least one.
    walks_of
        Every address of some waves.
    work
        Instructions of each CTA, in order of launch.
    l2, together
        As `sharing` takes them.
    thinned
        Share of the sectors whose accesses `walks_of` gives.
    first
        The first addresses with which CTAs read: where some waves stand for more, no less comes from DRAM than all CTAs' streams hold.
    """
    programs, count = launch.programs, asked[0].instructions
    storage = {index: place for part in asked for index, place in part.storage.items()}
    waves = -(-programs // together)
    work = np.where(work > 0.05 * work.max(), work, 0.0)
    done = np.cumsum(np.add.reduceat(work, np.arange(0, programs, together)))
    picked = sorted({int(np.searchsorted(done, share * done[-1] * (1.0 - 1e-9), side="right")) for share in WAVES_WALKED})
    numbers = [np.arange(w * together, min(programs, (w + 1) * together)) for w in picked]
    each, written = bytes_each(asked, lambda part: part.of_l2(part.sizes)), bytes_each(asked, lambda part: part.stores)
    size_of = np.zeros(count)
    for side in (written, each):
        size_of[list(side)] = list(side.values())
    # what L1 always holds asks nothing of L2, and has no part in what comes from DRAM
    walks = [tuple(column[size_of[walk[0]] > 0] for column in walk) for walk in walks_of(numbers, sorted(each.keys() | written.keys()))]
    is_store = np.isin(np.arange(count), list(written))
    found_once = unknown_sharing(3, count, l2)
    distinct, number = numbered(np.concatenate([walk[2] + is_store[walk[0]] * _APART for walk in walks]))
    last, touched = np.full(distinct, -1e30), np.zeros(distinct)
    parts = np.split(number, np.cumsum([len(walk[2]) for walk in walks])[:-1])
    position = 0.0
    found, together_once = np.zeros((len(picked), count, 5)), np.zeros((len(picked), count))
    for n, (walk, key) in enumerate(zip(walks, parts, strict=True)):
        index, cta = walk[:2]
        if n and picked[n] != picked[n - 1] + 1:
            position += l2.capacity_bytes * thinned * 0.1 * (picked[n] - picked[n - 1] - 1)
        size = size_of[index]
        before = walk[3] if len(walk) > 3 else _bytes_before(cta, size, len(numbers[n]))
        windows = min(_WINDOWS, max(1, int(4 * size.sum() / max(l2.capacity_bytes * thinned, 1.0)) + 1))
        window = np.minimum(windows - 1, (before / max(float((before + size).max(initial=1.0)), 1.0) * windows).astype(np.int64))
        position = through_windows(index, key, size, window, l2.capacity_bytes * thinned, position, last, touched,
                                   np.where(is_store, 1, l2.partitions), found[n])
        met = np.flatnonzero(np.bincount(index, minlength=count))
        begins_at = np.full((len(met), len(numbers[n])), -1, dtype=np.int64)
        begins_at[np.searchsorted(met, index[::-1]), cta[::-1]] = key[::-1]
        together_once[n, met] = merged(begins_at, l2.merge)
    between = list(range(1, len(picked) - 1)) or [min(1, len(picked) - 1)]
    for phase, at_waves in enumerate(([0], between, [len(picked) - 1])):
        touches = found[at_waves].sum(axis=0)
        seen = touches[:, 0] > 0
        found_once[phase, seen, :2] = touches[seen, 1:3] / touches[seen, :1]
        reads = seen & ~is_store
        found_once[phase, reads, 2] = together_once[at_waves][:, reads].mean(axis=0)
        found_once[phase, reads, 3:] = touches[reads, 3:] / touches[reads, :1]
        for sizes in (each, written):
            as_neighbours(found_once[phase:phase + 1], [i for i in sizes if seen[i]], [i for i in sizes if not seen[i]], sizes, storage)
    stands = _stand_for(work, np.concatenate(numbers)) / (programs * thinned)
    times = np.bincount(np.concatenate([walk[0] for walk in walks]),
                        np.concatenate([stands[at[walk[1]]] for at, walk in zip(numbers, walks, strict=True)]), count)
    mean_bytes = [{i: float(times[i] * sizes[i]) if times[i] else np.mean([side(part).get(i, 0.0) for part in asked]) for i in sizes}
                  for sizes, side in ((each, lambda part: part.of_l2(part.sizes)), (written, lambda part: part.stores))]
    serving = np.zeros(count)
    for atomic in {i for part in asked for i in part.atomics}:
        having = [part for part in asked if atomic in part.atomics]
        if any(atomic in part.scattered for part in having):
            serving[atomic] = min(serving_scattered(part, atomic, l2) for part in having)
        else:
            begins = [walk[2][walk[0] == atomic] * SECTOR_BYTES for walk in walks]
            serving[atomic] = l2.serving(max(union_of(begins, l2.block_bytes),
                                             *(union_of([part.atomics[atomic]], l2.block_bytes) for part in having)))
    def further(loads: Sequence[int]) -> Mapping[int, np.ndarray]:
        known = first(np.append(numbers[0], asked[0].cta)) if first is not None else {}
        return further_on({i: known[i] for i in loads if i in known and i not in asked[0].boxes})

    made = replace(sharing_from(found_once, serving), reach=reach_of(asked[0]), begins=further)
    made = within_buffers(made, launch, storage, mean_bytes[0], mean_bytes[1], waves, l2)
    if first is None or l2.warm or not len(picked) < waves <= FOLLOWED // together:
        return made
    return at_least_distinct(made, first(np.arange(programs)), storage, mean_bytes[0], programs, waves)


def _stand_for(work: np.ndarray, walked: np.ndarray) -> np.ndarray:
    """By CTA, for how many one that is walked through stands: for those of its own work, and by work for those whose like is not walked.

    Examples
    --------
    >>> _stand_for(np.array([9.0, 9.0, 3.0, 3.0, 3.0, 3.0]), np.array([0, 2, 3]))[[0, 2, 3]].tolist()
    [2.0, 2.0, 2.0]
    >>> _stand_for(np.array([8.0, 4.0, 2.0, 2.0]), np.array([0]))[0].tolist()
    2.0
    """
    amounts, kind = np.unique(work, return_inverse=True)
    every, seen = np.bincount(kind), np.bincount(kind[walked], minlength=len(amounts))
    covered = float((every * amounts)[seen > 0].sum())
    return np.asarray((every / np.maximum(seen, 1))[kind] * (float(work.sum()) / covered if covered else 1.0))


def _bytes_before(cta: np.ndarray, size: np.ndarray, ctas: int) -> np.ndarray:
    """Bytes that its CTA has asked for before each access."""
    order = np.argsort(cta, kind="stable")
    so_far = np.cumsum(size[order]) - size[order]
    before = np.empty(len(cta))
    before[order] = so_far - np.append(so_far, 0.0)[np.searchsorted(cta[order], np.arange(ctas))][cta[order]]
    return before


def bytes_each(asked: Sequence[Loads], side: Callable[[Loads], Mapping[int, float]]) -> dict[int, float]:
    """Bytes (whole sectors) that all warps of a CTA ask for in one execution of each instruction of one side, reads or writes."""
    total: dict[int, float] = {}
    times: dict[int, float] = {}
    for part in asked:
        for index, size in side(part).items():
            total[index] = total.get(index, 0.0) + size
            times[index] = times.get(index, 0.0) + part.times[index]
    return {index: total[index] / times[index] if times[index] > 0 else 0.0 for index in sorted(total)}
