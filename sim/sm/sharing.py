"""What the CTAs of a launch share in L2, from the addresses with which they begin.

CTAs that run together and read the same bytes at about the same time cost DRAM once: of what a wave of CTAs asks for, the distinct part
that no earlier wave has left in L2 comes from DRAM. To know it for a whole wave, one warp of every CTA of it is followed until its loops
repeat, and its first address at each load names the stream of bytes that the CTA reads there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...mapping.triton import Launch
from ...mapping.triton.access import SECTOR_BYTES
from .footprint import fetched, joined, size_of
from .loads import Loads
from .windows import through_windows

#: What comes from DRAM over what the buffer holds, from which it is looked at sector by sector.
_MORE = 1.02
#: The same, of a wave over all that lies between the lowest and the highest address.
_DENSE = 1.2


@dataclass(frozen=True)
class Sharing:
    """How much of what each load asks of L2 comes from DRAM.

    Attributes
    ----------
    dram
        float64 of shape (phases, instructions): bytes of DRAM per byte that the SMs ask for.
    missing
        The same shape: share of the requests that wait for DRAM, those that ride on another SM's miss included.
    l2
        The same shape: bytes of L2's slices per byte asked for; the SMs of one cluster of processors (TPC) that ask for a line together
        are served once.
    waves
        Wave of CTAs that each phase stands for.
    """

    dram: np.ndarray
    missing: np.ndarray
    l2: np.ndarray
    waves: tuple[str, ...] = ("first", "steady", "last")


#: First addresses of some CTAs (by number in order of launch) by instruction, -1 where not known; and of some waves of CTAs the
#: instruction, CTA and sector (of bulk copies: box) of every access of warp 0, each CTA's in order.
First = Callable[[np.ndarray], Mapping[int, np.ndarray]]
Walks = Callable[[Sequence[np.ndarray], Sequence[int]], list[tuple[np.ndarray, np.ndarray, np.ndarray]]]


def sharing(launch: Launch, asked: Loads, first: First, *, together: int, capacity_bytes: float, merge: int = 2, warm: bool = False,
            most: int = 6000) -> Sharing:
    """Sharing of the waves of a launch.

    Parameters
    ----------
    asked
        What one CTA reads.
    first
        The first addresses with which CTAs read.
    together
        CTAs that the GPU holds at once.
    capacity_bytes
        What L2 keeps.
    merge
        SMs whose requests of one line are served once.
    warm
        Operands were used just before the launch, so that L2 still holds what of them fits.
    most
        CTAs that are followed; of longer launches the first two waves.
    """
    programs = launch.programs
    waves = -(-programs // together)
    picked = sorted({0, 1, *range(max(0, waves // 2 - 1), min(waves, waves // 2 + 2)), waves - 1} & set(range(waves)))
    if together * len(picked) > most:
        picked = sorted({0, min(1, waves - 1)})
    numbers = [np.arange(w * together, min(programs, (w + 1) * together)) for w in picked]
    ctas = np.concatenate([*numbers, np.array([asked.cta])])
    addresses = first(ctas)
    loads, bytes_of = sorted(asked.sizes), asked.of_l2(asked.sizes)
    edges = np.concatenate([[0], np.cumsum([len(n) for n in numbers])])
    found = np.ones((len(picked), asked.instructions, 3))
    classes: dict[tuple[bool, bytes], list[int]] = {}
    for index in (*loads, *sorted(asked.stores)):
        if index in addresses:
            keys = addresses[index] if index in asked.boxes else addresses[index] // SECTOR_BYTES
            inverse = np.unique(keys[:edges[-1]], return_inverse=True)[1]
            classes.setdefault((index in asked.stores, inverse.tobytes()), []).append(index)
    every = [np.unique(addresses[members[0]][:edges[-1]] // SECTOR_BYTES) for members in classes.values()]
    last = [np.full(len(keys), -1e30) for keys in every]
    began, moved = np.zeros(len(picked)), np.zeros(len(picked))
    position = 0.0
    for n, _ in enumerate(picked):
        if n and picked[n] != picked[n - 1] + 1:
            position += together * sum(bytes_of.values()) * 0.1
        began[n] = position
        for number, ((writes, _), members) in enumerate(classes.items()):
            keys = addresses[members[0]][edges[n]:edges[n + 1]]
            keys = keys[keys >= 0] // SECTOR_BYTES
            if not len(keys):
                continue
            unique, times = np.unique(keys, return_counts=True)
            at = np.searchsorted(every[number], unique)
            fresh = position - last[number][at] > capacity_bytes
            last[number][at] = position
            found[n, members, 0] = fresh.sum() / len(keys)
            found[n, members, 1] = times[fresh].sum() / len(keys)
            if not writes:
                found[n, members, 2] = _merged(keys, merge)
                moved[n] += len(unique) * sum(bytes_of[i] for i in members)
        position += moved[n]
    for side in (asked.sizes, asked.stores):
        known = [i for (writes, _), members in classes.items() if writes == (side is asked.stores) for i in members]
        _as_neighbours(found, known, sorted(set(side) - set(known)), side, asked.storage)
    share = np.array([1.0, max(waves - 2, 0), 1.0 if waves > 1 else 0.0]) / max(waves, 1)
    phases = [0, max(min(1, len(picked) - 1), len(picked) - 2), len(picked) - 1]
    _windows_once(found, asked, addresses, edges, began, moved, capacity_bytes, programs * (share @ found[phases, :, 0]), ctas)
    made = _sharing_from(found[phases])
    return _within_buffers(made, launch, asked.storage, bytes_of, asked.stores, waves, capacity_bytes, warm)


def _sharing_from(found: np.ndarray) -> Sharing:
    """Sharing from an array of shape (phases, instructions, 3)."""
    dram, missing, slices = (np.ascontiguousarray(found[:, :, n]) for n in range(3))
    return Sharing(dram, missing, slices)


def _as_neighbours(found: np.ndarray, known: Sequence[int], others: Sequence[int], sizes: Mapping[int, float],
                   storage: Mapping[int, tuple[int, int]]) -> None:
    """What is not known of an access: as those of the same buffer that are known, else bytes that nobody else asks for."""
    for index in others:
        mates = [i for i in known if i in storage and storage[i] == storage.get(index)]
        weight = np.array([sizes[i] for i in mates])
        if weight.sum() > 0:
            found[:, index] = np.tensordot(found[:, mates], weight / weight.sum(), axes=(1, 0))


def _windows_once(found: np.ndarray, asked: Loads, addresses: Mapping[int, np.ndarray], edges: np.ndarray, began: np.ndarray,
                  moved: np.ndarray, capacity_bytes: float, ratio: np.ndarray, numbers: np.ndarray) -> None:
    """Count bytes of a buffer for which several instructions ask once, where one by one they come to more than the buffer holds.

    Parameters
    ----------
    found
        By wave and instruction: share that comes from DRAM, share that waits for it, share of the slices' work; the first two are changed.
    edges
        Where the CTAs of each wave begin in `addresses`; the CTA that was followed stands behind them all.
    ratio
        By instruction: the share that comes from DRAM, times CTAs.
    numbers
        The CTAs of `addresses`, by number in order of launch.
    """
    doubtful = []
    reading = asked.of_l2(asked.sizes)
    for side in (reading, asked.stores):
        members: dict[tuple[int, int], list[int]] = {}
        for index in side:
            if index in asked.storage and index not in asked.boxes and index in addresses and (addresses[index] >= 0).mean() > 0.5:
                members.setdefault(asked.storage[index], []).append(index)
        doubtful += [
            alike for (_, size), alike in members.items() if sum(side[i] * ratio[i] for i in alike) > _MORE * size
            and not (side is reading and _spread_out(asked, alike, side, addresses, edges, found))
        ]
    if not doubtful or asked.footprint is None:
        return
    like = _most_alike([addresses[i] for alike in doubtful for i in alike])
    whole = asked.footprint(int(numbers[like])) if like >= 0 else None
    if whole is None:
        return
    reads = whole.of([i for i in asked.sizes if i in whole.asked])
    one_by_one = sum(reading[i] for i in reads.asked)
    scale = SECTOR_BYTES * size_of(*joined(reads.start, reads.stop)) / one_by_one if one_by_one else 1.0
    began, moved = began * scale, moved * scale  # what the loads one by one come to is more than what passes through L2
    for alike in doubtful:
        mine = whole.of(alike)
        shifts = []
        for n in range(len(edges) - 1):
            here = slice(edges[n], edges[n + 1])
            there = np.logical_and.reduce([addresses[i][here] >= 0 for i in alike])
            shifts.append({i: (addresses[i][here][there] - addresses[i][like]) // SECTOR_BYTES for i in alike})
        bytes_of = fetched(mine, shifts, began.tolist(), moved.tolist(), capacity_bytes)
        own = min(1.0, SECTOR_BYTES * size_of(*joined(mine.start, mine.stop)) / max(sum(mine.asked.values()), 1.0))
        for n, shift in enumerate(shifts):
            passed = sum(found[n, i, 0] * asked.passed.get(i, mine.asked.get(i, 0.0)) for i in alike)
            counted = float(passed) * len(shift[alike[0]])
            factor = own if bytes_of is None else bytes_of[n] / counted if counted > 0 else 1.0
            found[n, alike, 0] = np.minimum(found[n, alike, 0] * factor, 1.0)
            found[n, alike, 1] *= own


def _spread_out(asked: Loads, alike: Sequence[int], side: Mapping[int, float], addresses: Mapping[int, np.ndarray], edges: np.ndarray,
                found: np.ndarray) -> bool:
    """Whether what the first wave touches lies so far apart that no two of its bytes need be the same."""
    if any(i not in asked.extent or addresses[i][-1] < 0 for i in alike):
        return False
    low, high, total = [], [], 0.0
    for i in alike:
        here = addresses[i][:edges[1]]
        here = here[here >= 0] - addresses[i][-1]
        if len(here):
            low.append(asked.extent[i][0] + int(here.min()))
            high.append(asked.extent[i][1] + int(here.max()))
            total += asked.sizes.get(i, side[i]) * found[0, i, 0] * len(here)
    return not low or total < _DENSE * (max(high) - min(low))


def _most_alike(addresses: Sequence[np.ndarray]) -> int:
    """Which CTA stands for most: all its accesses begin as far from one another as theirs do (CTAs on an edge leave out threads).

    The last one where it is as good; -1 where none has all accesses.
    """
    table = np.stack(addresses)
    known = np.flatnonzero((table >= 0).all(axis=0))
    if not len(known):
        return -1
    _, inverse, times = np.unique(table[:, known] - table[0, known], axis=1, return_inverse=True, return_counts=True)
    inverse = np.asarray(inverse).reshape(-1)
    most, last = int(np.argmax(times)), int(known[-1]) == table.shape[1] - 1
    return int(known[-1 if last and 2 * times[inverse[-1]] > times[most] else np.argmax(inverse == most)])


#: Waves of CTAs that are walked through, by the share of the launch's work that is done when they begin; and windows in which those of a
#: wave go on together, at most; what keeps addresses of stores apart from those of loads.
_WALKED, _WINDOWS, _APART = (0.0, 0.35, 0.65, 1.0), 64, 1 << 60


def sharing_of_walks(launch: Launch, asked: Sequence[Loads], walks_of: Walks, *, together: int, work: np.ndarray,
                     capacity_bytes: float, merge: int = 2, warm: bool = False, shares: Sequence[float] = _WALKED,
                     thinned: float = 1.0) -> Sharing:
    """Sharing where CTAs go different ways: from every address of some waves of CTAs, the first, the last and two between.

    The waves are those that begin when given shares of the launch's work are done: CTAs that leave at once do not stand for others.

    CTAs of a wave go on at the same pace in bytes. What one of them asks for comes from DRAM unless the wave has touched it since
    `capacity_bytes` of other bytes went by, whichever instruction touched it.

    Parameters
    ----------
    asked
        What CTAs read, of each way at least one.
    walks_of
        Every address of some waves.
    work
        Instructions of each CTA, in order of launch.
    together, capacity_bytes, merge, warm
        As `sharing` takes them.
    shares
        Of the launch's work, done when the waves begin that are walked through.
    thinned
        Share of the sectors whose accesses `walks_of` gives.
    """
    programs, count = launch.programs, asked[0].instructions
    storage = {index: place for part in asked for index, place in part.storage.items()}
    waves = -(-programs // together)
    done = np.cumsum(np.add.reduceat(np.where(work > 0.05 * work.max(), work, 0.0), np.arange(0, programs, together)))
    picked = sorted({int(np.searchsorted(done, share * done[-1] * (1.0 - 1e-9), side="right")) for share in shares})
    numbers = [np.arange(w * together, min(programs, (w + 1) * together)) for w in picked]
    each, written = _bytes_each(asked, lambda part: part.of_l2(part.sizes)), _bytes_each(asked, lambda part: part.stores)
    walks = walks_of(numbers, sorted(each.keys() | written.keys()))
    size_of_load = np.array([each.get(i, 0.0) for i in range(count)])
    is_store = np.isin(np.arange(count), list(written))
    found_once = np.ones((3, count, 3))
    distinct, inverse = np.unique(np.concatenate([walk[2] + is_store[walk[0]] * _APART for walk in walks]), return_inverse=True)
    last = np.full(len(distinct), -1e30)
    parts = np.split(np.asarray(inverse).reshape(-1), np.cumsum([len(walk[2]) for walk in walks])[:-1])
    position = 0.0
    found = np.zeros((len(picked), count, 4))
    for n, ((index, cta, _), key) in enumerate(zip(walks, parts, strict=True)):
        if n and picked[n] != picked[n - 1] + 1:
            position += capacity_bytes * thinned * 0.1 * (picked[n] - picked[n - 1] - 1)
        size = size_of_load[index]
        order = np.argsort(cta, kind="stable")
        so_far = np.cumsum(size[order])
        begins = np.searchsorted(cta[order], np.arange(len(numbers[n])))
        so_far -= np.concatenate([[0.0], so_far])[begins][cta[order]]
        windows = min(_WINDOWS, max(1, int(4 * size.sum() / max(capacity_bytes * thinned, 1.0)) + 1))
        window = np.empty(len(index), dtype=np.int64)
        pace = (so_far - size[order]) / max(float(so_far.max(initial=1.0)), 1.0)
        window[order] = np.minimum(windows - 1, (pace * windows).astype(np.int64))
        position = through_windows(index, key, size, window, capacity_bytes * thinned, position, last, found[n])
        for i in np.unique(index).tolist():
            mine = index == i
            first = np.full(len(numbers[n]), -1, dtype=np.int64)
            first[cta[mine][::-1]] = key[mine][::-1]
            found[n, i, 3] = _merged(first, merge)
    between = list(range(1, len(picked) - 1)) or [min(1, len(picked) - 1)]
    for phase, at_waves in enumerate(([0], between, [len(picked) - 1])):
        touches = found[at_waves].sum(axis=0)
        seen = touches[:, 0] > 0
        found_once[phase, seen, :2] = touches[seen, 1:3] / touches[seen, :1]
        reads = seen & ~is_store
        found_once[phase, reads, 2] = np.mean([found[n, reads, 3] for n in at_waves], axis=0)
        for sizes in (each, written):
            _as_neighbours(found_once[phase:phase + 1], [i for i in sizes if seen[i]], [i for i in sizes if not seen[i]], sizes, storage)
    touched = np.bincount(np.concatenate([walk[0] for walk in walks]), minlength=count) / (thinned * sum(len(chunk) for chunk in numbers))
    mean_bytes = [{i: float(touched[i] * sizes[i]) if touched[i] else np.mean([side(part).get(i, 0.0) for part in asked]) for i in sizes}
                  for sizes, side in ((each, lambda part: part.of_l2(part.sizes)), (written, lambda part: part.stores))]
    return _within_buffers(_sharing_from(found_once), launch, storage, mean_bytes[0], mean_bytes[1], waves, capacity_bytes, warm)


def _bytes_each(asked: Sequence[Loads], side: Callable[[Loads], Mapping[int, float]]) -> dict[int, float]:
    """Bytes (whole sectors) that all warps of a CTA ask for in one execution of each instruction of one side, reads or writes."""
    total: dict[int, float] = {}
    times: dict[int, float] = {}
    for part in asked:
        for index, size in side(part).items():
            total[index] = total.get(index, 0.0) + size
            times[index] = times.get(index, 0.0) + part.times[index]
    return {index: total[index] / times[index] if times[index] > 0 else 0.0 for index in sorted(total)}


def _merged(keys: np.ndarray, merge: int) -> float:
    """Distinct keys among neighbours in order of launch, over all keys."""
    whole = len(keys) // merge * merge
    if not whole:
        return 1.0
    rows = np.sort(keys[:whole].reshape(-1, merge), axis=1)
    return float(1 + (rows[:, 1:] != rows[:, :-1]).sum(axis=1).mean()) / merge


def _within_buffers(share_of: Sharing, launch: Launch, storage: Mapping[int, tuple[int, int]], sizes: Mapping[int, float],
                    stores: Mapping[int, float], waves: int, capacity: float, warm: bool) -> Sharing:
    """A tensor that L2 keeps is read from DRAM and written to it once at most; one that it held before the launch, not at all."""
    dram, missing = share_of.dram.copy(), share_of.missing
    total = sum(size for _, size in {(b.start, b.size_bytes) for b in launch.buffers})
    resident = float(np.clip(2.0 - total / capacity, 0.0, 1.0)) if warm else 0.0
    share = np.array([1.0, max(waves - 2, 0), 1.0 if waves > 1 else 0.0]) / max(waves, 1)
    for side in (sizes, stores):
        by_buffer: dict[tuple[int, int], list[int]] = {}
        for index in side:
            if index in storage:
                by_buffer.setdefault(storage[index], []).append(index)
        for (_, size), members in by_buffer.items():
            asked = sum(side[i] * launch.programs * float(dram[:, i] @ share) for i in members)
            if asked > size and size <= capacity:
                dram[:, members] *= size / asked
    return Sharing(dram * (1.0 - resident), missing * (1.0 - resident), share_of.l2)
