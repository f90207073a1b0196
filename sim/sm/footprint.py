"""Which bytes of a buffer the CTAs of a wave read together: what several loads ask for, shifted windows of one buffer say, counts once.

The sectors of one CTA are known from its trace. CTAs that are alike read the same sectors further on, each by what its first address at a
load differs from that CTA's. What comes from DRAM is the union of them all, as far as L2 keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...mapping.triton import Evaluation
from ...mapping.triton.access import LINE_BYTES, SECTOR_BYTES
from ...mapping.triton.memory_ops import GLOBAL
from .distinct import among, counted, distinct_of
from .l1 import active_addresses, l1_misses, left_out

#: Stretches of sectors of a wave's CTAs that are put together at most, and windows in which the CTAs of a wave go on together.
STRETCHES: Final = 4_000_000
_WINDOWS: Final = 64
#: What accesses that share nothing come to together, over the sum, at least.
_SAME: Final = 0.98


@dataclass(frozen=True, eq=False)
class Footprint:
    """What one CTA reads and writes, access by access, in order.

    Attributes
    ----------
    load
        int64: instruction of each stretch of sectors.
    pace
        float64: share of the CTA's bytes that it asked for before.
    start, stop
        int64: first sector of the stretch, and the one behind its last.
    asked
        Bytes that L2 is asked for by each instruction: what L1 held is left out.
    turn
        int64: how often warps had gone through the instruction before; None where each stretch is of a turn of its own.
    """

    load: np.ndarray
    pace: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    asked: Mapping[int, float]
    turn: np.ndarray | None = None

    def of(self, loads: Sequence[int]) -> Footprint:
        """The stretches of some loads alone."""
        at = among(self.load, loads)
        return Footprint(self.load[at], self.pace[at], self.start[at], self.stop[at], {i: self.asked.get(i, 0.0) for i in loads},
                         None if self.turn is None else self.turn[at])


def joined(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The union of stretches, as stretches that do not touch.

    Examples
    --------
    >>> [part.tolist() for part in joined(np.array([5, 0, 2]), np.array([9, 3, 4]))]
    [[0, 5], [4, 9]]
    """
    if not len(start):
        return start, stop
    order = np.argsort(start, kind="stable")
    low, high = start[order], np.maximum.accumulate(stop[order])
    apart = np.ones(len(low) + 1, np.bool_)
    np.greater(low[1:], high[:-1], out=apart[1:-1])
    return low[apart[:-1]], high[apart[1:]]


def size_of(start: np.ndarray, stop: np.ndarray) -> int:
    """Sectors of stretches that do not overlap."""
    return int((stop - start).sum())


def footprint_of(run: Evaluation, l1_bytes: float) -> Footprint | None:
    """What a CTA that was followed reads and writes by instructions of its threads; None where its trace does not say.

    Parameters
    ----------
    run
        One CTA with its trace.
    l1_bytes
        L1 cache left beside shared memory.
    """
    program, trace = run.program, run.trace
    if trace is None:
        return None
    wanted = [n for n, access in enumerate(trace.accesses)
              if program.memory_ops[access[1]].space == GLOBAL]
    if not wanted:
        return None
    table = np.array([trace.accesses[n] for n in wanted], dtype=np.int64).reshape(-1, 4)
    step, index, number, base = table[:, 0] - 1, table[:, 1], table[:, 2], table[:, 3]
    more = left_out(trace, step, index, base)
    if more is None:
        return None
    again, move = more
    misses = l1_misses(run, l1_bytes)
    shapes: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, int]] = {}
    loads: list[np.ndarray] = []
    paces: list[np.ndarray] = []
    starts: list[np.ndarray] = []
    stops: list[np.ndarray] = []
    turns: list[np.ndarray] = []
    gone: dict[tuple[int, int], int] = {}
    count = 0
    asked: dict[int, float] = {}
    done = 0
    for n, at in enumerate(wanted):
        key = (int(number[n]), int(base[n]) % LINE_BYTES)
        if key not in shapes:
            shapes[key] = _stretches(run, int(index[n]), *key)
        low, high, size = shapes[key]
        times = 1 + int(again[n])
        count += len(low) * times
        if count > STRETCHES:
            return None
        origin = (int(base[n]) + int(move[n]) * np.arange(times)) // LINE_BYTES * (LINE_BYTES // SECTOR_BYTES)
        starts.append((origin[:, None] + low).reshape(-1))
        stops.append((origin[:, None] + high).reshape(-1))
        loads.append(np.full(len(starts[-1]), index[n]))
        paces.append(np.repeat(np.linspace(0.0, 1.0, times, endpoint=False), len(low)) * (size * times) + done)
        who = (int(index[n]), run.patterns[key[0]].lanes)
        turns.append(np.repeat(gone.get(who, 0) + np.arange(times), len(low)))
        gone[who] = gone.get(who, 0) + times
        done += size * times
        asked[int(index[n])] = asked.get(int(index[n]), 0.0) + misses[at] * run.patterns[key[0]].sectors * times * SECTOR_BYTES
    return Footprint(np.concatenate(loads), np.concatenate(paces) / max(done, 1), np.concatenate(starts), np.concatenate(stops), asked,
                     np.concatenate(turns))


def addresses_touched(run: Evaluation, wanted: Iterable[int]) -> dict[int, np.ndarray]:
    """Addresses of a CTA's threads by instruction, each once: int64; of instructions in the trace."""
    trace, chosen = run.trace, set(wanted)
    if trace is None or not chosen:
        return {}
    table = np.array([access for access in trace.accesses if access[1] in chosen], dtype=np.int64).reshape(-1, 4)
    step, index, number, base = table[:, 0] - 1, table[:, 1], table[:, 2], table[:, 3]
    again, move = left_out(trace, step, index, base) or (np.zeros(len(step), dtype=np.int64),) * 2
    parts: dict[int, list[np.ndarray]] = {}
    for n in range(len(step)):
        first = active_addresses(run, int(number[n]), int(base[n]))
        parts.setdefault(int(index[n]), []).append((first[None, :] + int(move[n]) * np.arange(1 + int(again[n]))[:, None]).reshape(-1))
    return {i: np.unique(np.concatenate(found)) for i, found in parts.items()}


def past_l1(run: Evaluation, l1_bytes: float) -> dict[int, float]:
    """Bytes for which a CTA asks L2 by instruction, where L1 holds some of what it reads."""
    trace = run.trace
    if trace is None:
        return {}
    again = np.ones(len(trace.segments) + 1)
    for repeat in trace.repeats:
        again[repeat.first + 1:repeat.end + 1] += repeat.times
    misses = l1_misses(run, l1_bytes)
    made = {index: 0.0 for (_, index, _, _), miss in zip(trace.accesses, misses, strict=True) if miss < 1.0}
    for (step, index, number, _), miss in zip(trace.accesses, misses, strict=True):
        if index in made:
            made[index] += miss * run.patterns[number].sectors * SECTOR_BYTES * float(again[step])
    return made


def lone_halves(footprint: Footprint, loads: Sequence[int]) -> dict[int, float]:
    """Share of the pairs of sectors (64 bytes) that each of some loads touches of which none of them touches the other sector.

    Examples
    --------
    >>> one = Footprint(np.array([7, 7, 8]), np.zeros(3), np.array([0, 4, 1]), np.array([1, 5, 2]), {})
    >>> lone_halves(one, [7, 8])
    {7: 0.5, 8: 0.0}
    """
    at = among(footprint.load, loads)
    load, start, size = footprint.load[at], footprint.start[at], (footprint.stop - footprint.start)[at]
    which = np.repeat(np.arange(len(load)), size)
    sector = start[which] + np.arange(len(which)) - np.repeat(np.cumsum(size) - size, size)
    every = distinct_of(sector)
    made = {}
    for index in loads:
        pair = distinct_of(sector[load[which] == index] >> 1)
        if len(pair):
            made[index] = float(1.0 - (np.isin(2 * pair, every) & np.isin(2 * pair + 1, every)).mean())
    return made


def side_by_side(footprint: Footprint, shifts: Mapping[int, np.ndarray]) -> dict[int, float]:
    """Bytes that lie side by side of what the CTAs of a wave read as they first go through a load, mean, by load; 0 where nothing is known.

    Parameters
    ----------
    shifts
        By load: int64, by how many sectors CTAs read further on than that of the footprint.

    Examples
    --------
    >>> one = Footprint(np.array([7, 7]), np.zeros(2), np.array([0, 64]), np.array([2, 66]), {}, np.zeros(2, np.int64))
    >>> side_by_side(one, {7: np.zeros(1, np.int64)}), side_by_side(one, {7: np.array([0, 2, 4, 6])})
    ({7: 64.0}, {7: 256.0})
    """
    made: dict[int, float] = {}
    seen: dict[tuple[bytes, ...], float] = {}
    for load, moved in shifts.items():
        at = np.flatnonzero(footprint.load == load)
        at = at[:1] if footprint.turn is None else at[footprint.turn[at] == 0]
        low, high = footprint.start[at], footprint.stop[at]
        key = _relative(low, high, moved)
        if key not in seen:
            seen[key] = _side_by_side(low, high, moved)
        made[load] = seen[key]
    return made


def _side_by_side(start: np.ndarray, stop: np.ndarray, moved: np.ndarray) -> float:
    low, high = joined(start, stop)
    if not len(low):
        return 0.0
    moves = distinct_of(np.append(moved, 0))[:max(1, STRETCHES // (_WINDOWS * len(low)))]
    low, high = joined((low + moves[:, None]).reshape(-1), (high + moves[:, None]).reshape(-1))
    return SECTOR_BYTES * size_of(low, high) / len(low)


def _relative(low: np.ndarray, high: np.ndarray, moved: np.ndarray) -> tuple[bytes, ...]:
    """Stretches and the distances at which they are read again, wherever they lie."""
    return (low - low[:1]).tobytes(), (high - low[:1]).tobytes(), moved.tobytes()


def _stretches(run: Evaluation, index: int, number: int, offset: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Stretches of sectors of a pattern whose first address lies `offset` bytes into its line, and how many sectors they hold."""
    pattern, size = run.patterns[number], run.program.memory_ops[index].thread_bytes
    count = run.lane_sets[pattern.lanes].count
    offsets = np.zeros(count, dtype=np.int64) if pattern.offsets is None else pattern.offsets.astype(np.int64)
    at = offsets + offset
    at = at if pattern.active is None else at[pattern.active]
    low, high = joined(at // SECTOR_BYTES, (at + max(size - 1, 0)) // SECTOR_BYTES + 1)
    return low, high, size_of(low, high)


def overlaps(footprint: Footprint, shifts: Mapping[int, np.ndarray], most: int = 4) -> bool:
    """Whether some sector is in two of the accesses of one CTA, or of two CTAs that do not begin at the same place.

    Parameters
    ----------
    shifts
        By load: int64 by CTA, sectors by which it reads further on than the CTA of the footprint.
    most
        Distances between CTAs that are tried: the smallest and the most frequent.
    """
    union = joined(footprint.start, footprint.stop)
    if size_of(*union) < _SAME * int((footprint.stop - footprint.start).sum()):
        return True
    seen: set[tuple[bytes, ...]] = set()
    for load in footprint.asked:
        mine = footprint.load == load
        low, high, moved = footprint.start[mine], footprint.stop[mine], shifts[load]
        key = _relative(low, high, moved - moved[:1])
        if key in seen:
            continue
        seen.add(key)
        low, high = joined(low, high)
        places = distinct_of(moved)
        apart, times = counted(places[1:] - places[:-1])
        reach = int(high.max() - low.min()) if len(low) else 0
        for move in {*apart[:1].tolist(), *apart[np.argsort(-times, kind="stable")[:most]].tolist()}:
            both = joined(np.concatenate([low, low + move]), np.concatenate([high, high + move])) if move < reach else None
            if both is not None and size_of(*both) < 2 * _SAME * size_of(low, high):
                return True
    return False


def fetched(footprint: Footprint, shifts: Sequence[Mapping[int, np.ndarray]], began: Sequence[float], moved: Sequence[float],
            capacity_bytes: float) -> list[float] | None:
    """Bytes of one buffer that each of some waves of CTAs brings from DRAM; None where there are too many stretches to say.

    Parameters
    ----------
    footprint
        What one CTA reads of the buffer.
    shifts
        By wave and load: int64 by CTA, sectors by which it reads further on than that CTA.
    began, moved
        By wave: bytes that came from DRAM before it, and those that it brings itself, about.
    capacity_bytes
        What L2 keeps.
    """
    loads = sorted(footprint.asked)
    kinds = [_alike(loads, wave) for wave in shifts]
    if sum(len(footprint.start) * max((len(unique) for unique, _ in wave), default=0) for wave in kinds) > STRETCHES:
        return None
    kept: list[tuple[float, np.ndarray, np.ndarray]] = []
    total = []
    for n, wave in enumerate(kinds):
        windows = min(_WINDOWS, max(1, int(4 * moved[n] / max(capacity_bytes, 1.0)) + 1))
        window = np.minimum((footprint.pace * windows).astype(np.int64), windows - 1)
        fresh = 0
        for w in range(windows):
            now = began[n] + moved[n] * w / windows
            kept = [entry for entry in kept if now - entry[0] <= capacity_bytes]
            low, high = _placed(footprint, wave, window == w)
            if not len(low):
                continue
            before = joined(*(np.concatenate([entry[k] for entry in kept]) for k in (1, 2))) if kept else (low[:0], low[:0])
            fresh += size_of(*joined(*(np.concatenate(pair) for pair in zip(before, (low, high), strict=True)))) - size_of(*before)
            kept.append((now, low, high))
        total.append(float(fresh * SECTOR_BYTES))
    return total


def _alike(loads: Sequence[int], shifts: Mapping[int, np.ndarray]) -> list[tuple[np.ndarray, list[int]]]:
    """Loads that move together from CTA to CTA, and by how much, each distance once."""
    groups: dict[bytes, list[int]] = {}
    for load in loads:
        groups.setdefault(shifts[load].tobytes(), []).append(load)
    return [(distinct_of(shifts[members[0]]), members) for members in groups.values()]


def _placed(footprint: Footprint, wave: Sequence[tuple[np.ndarray, list[int]]], chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The chosen stretches of all CTAs of a wave."""
    lows, highs = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for unique, members in wave:
        at = chosen & among(footprint.load, members)
        low, high = joined(footprint.start[at], footprint.stop[at])
        lows.append((unique[:, None] + low).reshape(-1))
        highs.append((unique[:, None] + high).reshape(-1))
    return joined(np.concatenate(lows), np.concatenate(highs))
