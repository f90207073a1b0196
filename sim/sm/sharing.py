"""What the CTAs of a launch share in L2, from the addresses with which they begin.

CTAs that run together and read the same bytes at about the same time cost DRAM once: of what a wave of CTAs asks for, the distinct part
that no earlier wave has left in L2 comes from DRAM. To know it for a whole wave, one warp of every CTA of it is followed until its loops
repeat, and its first address at each load names the stream of bytes that the CTA reads there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from ...mapping.triton import Launch
from ...mapping.triton.access import SECTOR_BYTES
from .distinct import count_of, counted, distinct_of, kinds_of, ranks_of
from .footprint import Footprint, fetched, joined, lone_halves, overlaps, side_by_side, size_of
from .l2 import L2Cache, blocks_of
from .loads import Loads

#: What comes from DRAM over what the buffer holds, from which it is looked at sector by sector.
_MORE = 1.02
_SECTOR_BITS = SECTOR_BYTES.bit_length() - 1


def _alone(loads: Sequence[int]) -> Mapping[int, np.ndarray]:
    """Where nothing is known of other CTAs."""
    return {}


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
    far
        The same shape: share of the requests that wait for the other partition of L2, which has the line.
    crossing
        The same shape: bytes between the partitions per byte asked for.
    serving
        float64 by instruction: slices of L2 that serve its atomics where these are few (else 0).
    waves
        Wave of CTAs that each phase stands for.
    both
        Says of a load whether some CTAs begin it in the first half of what L2 fetches at once, and some in the second.
    reach
        Gives what a CTA reads, sector by sector.
    begins
        Gives, by load, int64 by CTA of a wave: by how many sectors it begins further on than the CTA of `reach`.
    """

    dram: np.ndarray
    missing: np.ndarray
    l2: np.ndarray
    far: np.ndarray
    crossing: np.ndarray
    serving: np.ndarray
    waves: tuple[str, ...] = ("first", "steady", "last")
    both: Callable[[int], bool] = frozenset[int]().__contains__
    reach: Callable[[], Footprint | None] | None = None
    begins: Callable[[Sequence[int]], Mapping[int, np.ndarray]] = _alone

    def side_by_side(self, short: np.ndarray, instructions: int) -> np.ndarray:
        """Bytes that lie side by side of what a wave asks for at about the same time, mean, by instruction; 0 where that is not known.

        Parameters
        ----------
        short
            int64: instructions that are looked at.
        """
        found = np.zeros(instructions)
        wanted = sorted(set(short.tolist()))
        whole = self.reach() if self.reach is not None and wanted else None
        if whole is not None:
            alone, moves = np.zeros(1, np.int64), self.begins(wanted)
            for index, size in side_by_side(whole, {index: moves.get(index, alone) for index in wanted}).items():
                found[index] = size
        return found

    def lone_halves(self, short: np.ndarray, instructions: int) -> np.ndarray:
        """Share of the pieces that L2 fetches from DRAM of which only one half is asked for, by instruction.

        Parameters
        ----------
        short
            int64: instructions that ask for less than a piece of a line at a time.
        """
        found = np.zeros(instructions)
        wanted = sorted(index for index in set(short.tolist()) if not self.both(index))
        whole = self.reach() if self.reach is not None and wanted else None
        for index, share in (lone_halves(whole, wanted) if whole is not None else {}).items():
            found[index] = share
        return found


#: First addresses of some CTAs (by number in order of launch) by instruction, -1 where not known.
First = Callable[[np.ndarray], Mapping[int, np.ndarray]]


def sharing(launch: Launch, asked: Loads, first: First, l2: L2Cache, *, together: int, most: int = 6000) -> Sharing:
    """Sharing of the waves of a launch.

    Parameters
    ----------
    asked
        What one CTA reads.
    first
        The first addresses with which CTAs read.
    l2
        The cache.
    together
        CTAs that the GPU holds at once.
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
    bytes_of = asked.of_l2(asked.sizes)
    edges = np.concatenate([[0], np.cumsum([len(n) for n in numbers])])
    found = unknown_sharing(len(picked), asked.instructions, l2)
    classes: dict[tuple[bool, bytes], list[int]] = {}
    alike: dict[bytes, bytes] = {}
    found_of = [index for index in (*sorted(asked.sizes), *sorted(asked.stores)) if index in addresses]
    for index in found_of:
        keys = addresses[index][:edges[-1]]
        keys = keys if index in asked.boxes else keys >> _SECTOR_BITS
        moves = (keys - keys[:1]).tobytes()  # what lies further on by as much for every CTA is shared alike
        if moves not in alike:
            alike[moves] = ranks_of(keys).tobytes()
        classes.setdefault((index in asked.stores, alike[moves]), []).append(index)
    sectors = [addresses[members[0]][:edges[-1]] >> _SECTOR_BITS for members in classes.values()]
    every = [distinct_of(keys) for keys in sectors]
    last = [np.full(len(keys), -1e30) for keys in every]
    touched = [np.zeros(len(keys)) for keys in every]
    began, moved = np.zeros(len(picked)), np.zeros(len(picked))
    position = 0.0
    for n, _ in enumerate(picked):
        if n and picked[n] != picked[n - 1] + 1:
            position += together * sum(bytes_of.values()) * 0.1
        began[n] = position
        for number, ((writes, _), members) in enumerate(classes.items()):
            keys = sectors[number][edges[n]:edges[n + 1]]
            keys = keys[keys >= 0]
            if not len(keys):
                continue
            unique, times = counted(keys)
            at = np.searchsorted(every[number], unique)
            fresh = position - last[number][at] > l2.capacity_bytes
            before = np.where(fresh, 0.0, touched[number][at])
            last[number][at], touched[number][at] = position, before + times
            several, places = found[n, members[0]].tolist(), float(len(unique))
            several[:2] = np.count_nonzero(fresh) / len(keys), times[fresh].sum() / len(keys)
            if not writes:
                several[2] = float(merged(keys, l2.merge))
                several[3] = (times * l2.far(before))[~fresh].sum() / len(keys)
                several[4] = l2.fetched(before, times).sum() / len(keys)
                places = float(l2.places(times).sum())
            found[n, members] = several
            moved[n] += places * sum((asked.stores if writes else bytes_of)[i] for i in members)
        position += moved[n]
    for side in (asked.sizes, asked.stores):
        known = [i for (writes, _), members in classes.items() if writes == (side is asked.stores) for i in members]
        as_neighbours(found, known, sorted(set(side) - set(known)), side, asked.storage)
    share = phase_shares(waves)
    phases = [0, max(min(1, len(picked) - 1), len(picked) - 2), len(picked) - 1]
    _windows_once(found, asked, addresses, edges, began, moved, l2.capacity_bytes, programs * (share @ found[phases, :, 0]), ctas)
    serving = np.zeros(asked.instructions)
    moved_by: dict[int, np.ndarray] = {}
    for index in asked.atomics:
        here = addresses.get(index, np.full(len(ctas), -1))
        begins = here[:edges[1]][here[:edges[1]] >= 0]
        if index in asked.scattered:
            serving[index] = serving_scattered(asked, index, l2)
        elif len(begins) and here[-1] >= 0:
            moved_by[index] = begins - here[-1]
    for index, shifts in moved_by.items():  # atomics of one buffer queue at the slices of all of them
        mates = [i for i in moved_by if asked.storage.get(i) == asked.storage.get(index) and np.array_equal(moved_by[i], shifts)]
        serving[index] = l2.serving(blocks_of(np.concatenate([asked.atomics[i] for i in mates]), shifts, l2.block_bytes))

    def both(index: int) -> bool:
        halves = addresses[index][addresses[index] >= 0] >> _SECTOR_BITS & 1 if index in asked.sizes and index in addresses else serving[:0]
        return bool(halves.any() and not halves.all())

    def further(loads: Sequence[int]) -> Mapping[int, np.ndarray]:
        return further_on({i: addresses[i][[*range(edges[1]), -1]] for i in loads if i in addresses and i not in asked.boxes})

    made = replace(sharing_from(found[phases], serving), both=both, reach=reach_of(asked), begins=further)
    return within_buffers(made, launch, asked.storage, bytes_of, asked.stores, waves, l2)


def further_on(addresses: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """By load, by how many sectors the CTAs whose first addresses are known read further on than the one that stands behind them all."""
    sectors = {index: at >> _SECTOR_BITS for index, at in addresses.items() if at[-1] >= 0}
    return {index: at[at >= 0] - at[-1] for index, at in sectors.items()}


def reach_of(asked: Loads) -> Callable[[], Footprint | None] | None:
    """Gives what a CTA reads, or some of its warps, whichever is sooner known."""
    if asked.glimpse is not None:
        return cache(asked.glimpse)
    return cache(partial(asked.footprint, asked.cta)) if asked.footprint is not None else None


def unknown_sharing(phases: int, instructions: int, l2: L2Cache) -> np.ndarray:
    """What is taken of accesses of which nothing is known: bytes that nobody else asks for; float64 (phases, instructions, 5)."""
    found = np.ones((phases, instructions, 5))
    found[:, :, 3], found[:, :, 4] = 0.0, l2.elsewhere
    return found


def serving_scattered(asked: Loads, index: int, l2: L2Cache) -> float:
    """Slices that serve atomics to addresses that data decides: those of the buffer."""
    return l2.serving(asked.storage[index][1] // l2.block_bytes) if index in asked.storage else 0.0


def sharing_from(found: np.ndarray, serving: np.ndarray) -> Sharing:
    """Sharing from an array of shape (phases, instructions, 5)."""
    dram, missing, slices, far, crossing = (np.ascontiguousarray(found[:, :, n]) for n in range(5))
    return Sharing(dram, missing, slices, far, crossing, serving)


def as_neighbours(found: np.ndarray, known: Sequence[int], others: Sequence[int], sizes: Mapping[int, float],
                   storage: Mapping[int, tuple[int, int]]) -> None:
    """What is not known of an access: as those of the same buffer that are known, else bytes that nobody else asks for."""
    places = {storage.get(index) for index in others} - {None}
    for place in places:
        mates = [i for i in known if storage.get(i) == place]
        weight = np.array([sizes[i] for i in mates])
        if weight.sum() > 0:
            like = np.tensordot(found[:, mates], weight / weight.sum(), axes=(1, 0))
            for index in others:
                if storage.get(index) == place:
                    found[:, index] = like


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
            if index in asked.storage and index not in asked.boxes and index in addresses \
                    and 2 * np.count_nonzero(addresses[index] >= 0) > len(addresses[index]):
                members.setdefault(asked.storage[index], []).append(index)
        doubtful += [alike for (_, size), alike in members.items() if sum(side[i] * ratio[i] for i in alike) > _MORE * size]
    first = {i: addresses[i][:edges[1]] // SECTOR_BYTES for alike in doubtful for i in alike}
    if asked.glimpse is not None and doubtful:
        some = asked.glimpse()
        doubtful = [alike for alike in doubtful if some is None or overlaps(some.of(alike), {i: first[i][first[i] >= 0] for i in alike})]
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
        if not overlaps(mine, shifts[0]):
            continue  # what is read again, CTAs that begin at the same place read by the same instruction: so it was counted
        bytes_of = fetched(mine, shifts, began.tolist(), moved.tolist(), capacity_bytes)
        own = min(1.0, SECTOR_BYTES * size_of(*joined(mine.start, mine.stop)) / max(sum(mine.asked.values()), 1.0))
        for n, shift in enumerate(shifts):
            passed = sum(found[n, i, 0] * asked.passed.get(i, mine.asked.get(i, 0.0)) for i in alike)
            counted = float(passed) * len(shift[alike[0]])
            factor = own if bytes_of is None else bytes_of[n] / counted if counted > 0 else 1.0
            found[n, alike, 0] = np.minimum(found[n, alike, 0] * factor, 1.0)
            found[n, alike, 1] *= own
            found[n, alike, 4] *= own


def _most_alike(addresses: Sequence[np.ndarray]) -> int:
    """Which CTA stands for most: all its accesses begin as far from one another as theirs do (CTAs on an edge leave out threads).

    The last one where it is as good; -1 where none has all accesses.
    """
    table = np.stack(addresses)
    known = np.flatnonzero((table >= 0).all(axis=0))
    if not len(known):
        return -1
    apart = (table[:, known] - table[0, known]).T
    picks, inverse = kinds_of(apart)
    times = np.bincount(inverse)
    best = np.flatnonzero(times == times.max())
    for column in apart[picks].T:  # of those that are equally many the one that comes first in order
        if len(best) == 1:
            break
        best = best[column[best] == column[best].min()]
    most = int(best[0])
    last = int(known[-1]) == table.shape[1] - 1
    return int(known[-1 if last and 2 * times[inverse[-1]] > times[most] else np.argmax(inverse == most)])


def merged(keys: np.ndarray, merge: int) -> np.ndarray:
    """Distinct keys among neighbours in order of launch (the last axis), over all keys.

    Examples
    --------
    >>> merged(np.array([[1, 1, 1, 2, 2, 3], [1, 2, 3, 4, 5, 6]]), 3).round(2).tolist(), merged(np.zeros((0, 6)), 3).tolist()
    ([0.5, 1.0], [])
    """
    ctas = keys.shape[-1]
    if merge == 1 or ctas < merge:
        return np.ones(keys.shape[:-1])
    if keys.ndim == 1 and merge == 2:
        return np.asarray((1 + np.count_nonzero(keys[:ctas // 2 * 2:2] != keys[1::2][:ctas // 2]) / (ctas // 2)) / 2)
    rows = np.sort(keys[..., :ctas // merge * merge].reshape(*keys.shape[:-1], ctas // merge, merge), axis=-1)
    return np.asarray(1 + (rows[..., 1:] != rows[..., :-1]).sum(axis=-1).mean(axis=-1)) / merge


def at_least_distinct(share_of: Sharing, first: Mapping[int, np.ndarray], storage: Mapping[int, tuple[int, int]],
                      sizes: Mapping[int, float], programs: int, waves: int) -> Sharing:
    """What CTAs that begin at different places read comes from DRAM once at least, all of it together as far as the buffer goes.

    Parameters
    ----------
    first
        First addresses of all CTAs, by instruction, -1 where not known.
    sizes
        Bytes that a CTA asks L2 for with each load, mean of all.
    """
    dram = share_of.dram.copy()
    share = phase_shares(waves)
    by_buffer: dict[tuple[int, int], list[int]] = {}
    for index in sizes:
        if index in storage and index in first and (first[index] >= 0).any():
            by_buffer.setdefault(storage[index], []).append(index)
    for (_, size), members in by_buffer.items():
        known = [first[i][first[i] >= 0] for i in members]
        least = min(float(size), sum(sizes[i] * programs * count_of(at) / len(at) for i, at in zip(members, known, strict=True)))
        found = sum(sizes[i] * programs * float(dram[:, i] @ share) for i in members)
        if 0.0 < found < least:
            dram[:, members] = np.minimum(1.0, dram[:, members] * least / found)
    return replace(share_of, dram=dram)


def phase_shares(waves: int) -> np.ndarray:
    """Share of a launch's waves that each phase stands for."""
    return np.array([1.0, max(waves - 2, 0), 1.0 if waves > 1 else 0.0]) / max(waves, 1)


def within_buffers(share_of: Sharing, launch: Launch, storage: Mapping[int, tuple[int, int]], sizes: Mapping[int, float],
                    stores: Mapping[int, float], waves: int, l2: L2Cache) -> Sharing:
    """Tensors that L2 keeps are read from DRAM and written to it once at most; those that it held before the launch, not at all.

    L2 keeps those that are gone through again as far as they fit together, the smaller ones, whose turn comes round sooner, before the
    larger ones. Before the launch it held what was touched last: of a tensor no more than CTAs ask for.

    Parameters
    ----------
    sizes, stores
        Bytes that a CTA asks L2 for with each load, and sends to it with each store; mean of all.
    """
    dram, missing, far = share_of.dram.copy(), share_of.missing, share_of.far
    share = phase_shares(waves)
    again: list[tuple[tuple[int, int], list[int], float]] = []
    programs = launch.programs
    rooms: dict[tuple[int, int], float] = {}
    for side in (sizes, stores):
        for buffer, members in _by_buffer(side, storage).items():
            asked, size = sum(side[i] * programs * float(dram[:, i] @ share) for i in members), buffer[1]
            if asked > size:
                again.append((buffer, members, size / asked))
                places = float(l2.places(np.array([asked / size]))[0]) if side is sizes else 1.0
                rooms[buffer] = max(places * size, rooms.get(buffer, 0.0))
    for buffer, members, once in again:
        if sum(room for room in rooms.values() if room <= rooms[buffer]) <= l2.capacity_bytes:
            dram[:, members] *= once
    resident = l2.held or 0.0
    if l2.warm and l2.held is None:
        resident = float(np.clip(2.0 - touched_bytes(launch, storage, sizes, stores) / l2.between_bytes, 0.0, 1.0))
    far = far + resident * missing * float(l2.far(np.ones(1))[0])
    return replace(share_of, dram=dram * (1.0 - resident), missing=missing * (1.0 - resident), far=far)


def touched_bytes(launch: Launch, storage: Mapping[int, tuple[int, int]], sizes: Mapping[int, float], stores: Mapping[int, float]) -> float:
    """Bytes of a launch's tensors that its CTAs touch, at most: of each tensor as many as are asked for.

    Where nothing says in which tensor an access lies, it may touch what others leave of any.
    """
    asked: dict[tuple[int, int], float] = {}
    elsewhere = 0.0
    for side in (sizes, stores):
        elsewhere += sum(size for index, size in side.items() if index not in storage) * launch.programs
        for buffer, members in _by_buffer(side, storage).items():
            asked[buffer] = asked.get(buffer, 0.0) + sum(side[i] for i in members) * launch.programs
    every = {(b.start, b.size_bytes) for b in launch.buffers}
    known = sum(min(float(buffer[1]), asked.get(buffer, 0.0)) for buffer in every)
    return known + min(elsewhere, sum(size for _, size in every) - known)


def _by_buffer(side: Mapping[int, float], storage: Mapping[int, tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Accesses of one side, reads or writes, by the memory that they lie in."""
    found: dict[tuple[int, int], list[int]] = {}
    for index in side:
        if index in storage:
            found.setdefault(storage[index], []).append(index)
    return found
