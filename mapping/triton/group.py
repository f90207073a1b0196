"""Threads at one place of the program, with their registers: what splits at a divergent branch and joins again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .sass import PREDICATE, REGISTER_COUNT
from .values import DEAD, M32, Partial, Unknown, Value, as_number, has_bits, is_flag, select, settled


class WholeWarpError(Exception):
    """What a lane does depends on lanes of its warp that are not followed."""


class Lanes:
    """Which threads a group holds; groups of the same threads share one.

    Attributes
    ----------
    ids
        int64 of shape (n,), ascending: CTA slot times threads a CTA, plus the thread's number.
    warps
        int64 of shape (w,): CTA slot times warps a CTA, plus the warp's number.
    warp
        int64 of shape (n,): index into `warps`.
    starts
        int64 of shape (w,): first position of each warp in `ids`.
    """

    def __init__(self, ids: np.ndarray, number: int) -> None:
        self.ids, self.number = ids, number
        self.warps, self.starts, self.warp = np.unique(ids >> 5, return_index=True, return_inverse=True)
        self.full = len(ids) == 32 * len(self.warps)
        self.count = len(ids)

    def first(self, mask: np.ndarray | None) -> np.ndarray:
        """Position of the first lane of each warp that is in `mask` (of the first lane, where none is)."""
        if mask is None:
            return self.starts
        places = np.where(mask, np.arange(self.count), self.count)
        found = np.minimum.reduceat(places, self.starts)
        return np.where(found == self.count, self.starts, found)


class Group:
    """Threads that execute together.

    Attributes
    ----------
    lanes
        The threads.
    registers
        Values by register number.
    place
        Number of the segment that comes next.
    local
        Known words of local memory by address.
    joins
        Convergence barriers: the set of threads (bool over all threads) that each waits for.
    """

    def __init__(self, lanes: Lanes, machine: Any, place: int = 0) -> None:
        self.lanes, self.machine, self.place = lanes, machine, place
        self.registers: list[Value] = [DEAD] * REGISTER_COUNT
        self.local: dict[int, Value] = {}
        self.joins: dict[str, np.ndarray] = {}
        self.trips: dict[int, int] = {}
        self._special: dict[str, Value] = {}

    def clear(self) -> None:
        """Registers before anything is written: they hold anything at all, and code that is right does not depend on it."""
        self.registers = [0] * PREDICATE + [False] * (REGISTER_COUNT - PREDICATE)

    # -- splitting and joining -----------------------------------------------------------------------------------

    def part(self, mask: np.ndarray, live: Iterable[int]) -> Group:
        """The threads of `mask` as a group of their own; of the registers only those in `live` are kept."""
        picks = np.flatnonzero(mask)
        made = Group(self.machine.lanes(self.lanes.ids[picks]), self.machine, self.place)
        for number in live:
            value = self.registers[number]
            made.registers[number] = value.take(picks) if type(value) is np.ndarray else _part(value, picks)
        made.local = {key: _part(value, picks) for key, value in self.local.items()}
        made.joins, made.trips = dict(self.joins), dict(self.trips)
        return made

    def join(self, other: Group, live: Iterable[int]) -> Group:
        """Both groups as one at the same place; of the registers only those in `live` are kept."""
        ids = np.concatenate([self.lanes.ids, other.lanes.ids])
        order = np.argsort(ids, kind="stable")
        made = Group(self.machine.lanes(ids[order]), self.machine, self.place)
        sizes = (self.lanes.count, other.lanes.count)
        for number in live:
            made.registers[number] = _merge(self.registers[number], other.registers[number], sizes, order)
        for key in self.local.keys() & other.local.keys():
            made.local[key] = _merge(self.local[key], other.local[key], sizes, order)
        made.joins = dict(other.joins)
        for name, mask in self.joins.items():
            theirs = other.joins.get(name)
            made.joins[name] = mask if theirs is None or theirs is mask else mask | theirs
        made.trips = {**other.trips, **self.trips}
        return made

    def absorb(self, other: Group, live: Iterable[int]) -> bool:
        """Take back threads that were split off while the rest of this group stood still at one place.

        `self` still holds the values of all threads from before the split; those of `other`'s are replaced.

        Returns
        -------
        False, and nothing is changed, where values have become partly unknown (then `join` is the way).
        """
        if self.local or other.local:
            return False
        picks = np.searchsorted(self.lanes.ids, other.lanes.ids)
        fresh: dict[int, Value] = {}
        for number in live:
            mine, theirs = self.registers[number], other.registers[number]
            if mine is theirs or (type(mine) is type(theirs) and type(mine) in (int, bool) and mine == theirs):
                continue
            if type(mine) in (Unknown, Partial) or type(theirs) in (Unknown, Partial):
                return False
            if type(mine) is np.ndarray:
                if (mine[picks] == theirs).all():
                    continue
                changed = mine.copy()
            else:
                changed = np.full(self.lanes.count, mine, dtype=bool if type(mine) is bool else np.uint64)
            changed[picks] = theirs
            fresh[number] = changed
        for number, value in fresh.items():
            self.registers[number] = value
        for name, mask in other.joins.items():
            self.joins.setdefault(name, mask)
        self.trips.update(other.trips)
        return True

    # -- what instructions ask for -------------------------------------------------------------------------------

    def special(self, name: str) -> Value:
        """A special register: thread and program ids, lane number and masks."""
        if name not in self._special:
            self._special[name] = self._read_special(name)
        return self._special[name]

    def _read_special(self, name: str) -> Value:
        machine, ids = self.machine, self.lanes.ids
        thread = ids % machine.threads
        if name in ("SR_TID.X", "SR_TID"):
            return thread.astype(np.uint64)
        if name in ("SR_TID.Y", "SR_TID.Z"):
            return 0
        if name.startswith("SR_CTAID"):
            return _spread(machine.program_ids[:, "XYZ".index(name[-1])], ids // machine.threads)
        if name == "SR_LANEID":
            return (thread & 31).astype(np.uint64)
        if name == "SR_CgaCtaId":
            return _spread(machine.cluster_ranks, ids // machine.threads)
        masks = {"SR_EQMASK": lambda n: 1 << n, "SR_LTMASK": lambda n: (1 << n) - 1, "SR_LEMASK": lambda n: (2 << n) - 1,
                 "SR_GTMASK": lambda n: M32 & ~((2 << n) - 1), "SR_GEMASK": lambda n: M32 & ~((1 << n) - 1)}
        if name.upper() in masks:
            return np.array([masks[name.upper()](int(n)) for n in thread & 31], dtype=np.uint64)
        return Unknown(f"the special register {name}")

    def _array(self, value: Value) -> np.ndarray:
        if type(value) is np.ndarray:
            return value
        return np.full(self.lanes.count, value, dtype=bool if type(value) is bool else np.uint64)

    def any(self, flag: Value) -> Value:
        """Whether the flag holds in any thread of the warp."""
        flag = settled(flag)
        if type(flag) is not np.ndarray:
            return flag
        return _flatten(np.logical_or.reduceat(flag, self.lanes.starts), self.lanes.warp)

    def all(self, flag: Value) -> Value:
        """Whether the flag holds in all active threads of the warp."""
        flag = settled(flag)
        if type(flag) is not np.ndarray:
            return flag
        return _flatten(np.logical_and.reduceat(flag, self.lanes.starts), self.lanes.warp)

    def ballot(self, flag: Value) -> Value:
        """The threads of the warp in which the flag holds, as bits."""
        flag = settled(flag)
        if type(flag) is Unknown:
            return flag
        if self.machine.sampled:
            raise WholeWarpError
        bits = as_number(self._array(flag)) << (self.lanes.ids & 31).astype(np.uint64)
        return _flatten(np.bitwise_or.reduceat(bits, self.lanes.starts), self.lanes.warp)

    def elect(self) -> Value:
        """True in one thread of each warp, the first active one."""
        chosen = np.zeros(self.lanes.count, dtype=bool)
        chosen[self.lanes.starts] = True
        return chosen if self.lanes.count > 1 else True

    def elected_lane(self) -> Value:
        """Lane number of that thread."""
        return ((self.lanes.ids & 31).astype(np.uint64)[self.lanes.starts])[self.lanes.warp]

    def first_lane(self, guard: Value, value: Value) -> Value:
        """The value in the first thread of each warp whose guard holds, given to the whole warp (R2UR)."""
        if not isinstance(value, np.ndarray | Partial):
            return value
        picks = self.lanes.first(guard if type(guard) is np.ndarray else None)
        if isinstance(value, Partial):
            known = value.known[picks][self.lanes.warp]
            plain = value.value[picks][self.lanes.warp]
            return plain if known.all() else Partial(plain, known, value.cause) if known.any() else value.cause
        return _flatten(value[picks], self.lanes.warp)

    def reduce(self, kind: str, value: Value, signed: bool) -> Value:
        """REDUX over the active threads of each warp."""
        value = settled(value)
        if type(value) is Unknown:
            return value
        if type(value) is int and kind in ("AND", "OR", "MIN", "MAX"):
            return value
        if self.machine.sampled:
            raise WholeWarpError
        many, flip = self._array(value), np.uint64(0x80000000 if signed and kind in ("MIN", "MAX") else 0)
        function: Any = {"AND": np.bitwise_and, "OR": np.bitwise_or, "XOR": np.bitwise_xor, "SUM": np.add, "MIN": np.minimum,
                         "MAX": np.maximum}[kind]
        return _flatten((function.reduceat(many ^ flip, self.lanes.starts) ^ flip) & np.uint64(M32), self.lanes.warp)

    def shuffle(self, mode: str, value: Value, source: Value, clamp: Value) -> tuple[Value, Value]:
        """SHFL: the value of another thread of the warp, and whether that thread was in range."""
        value, source, clamp = settled(value), settled(source), settled(clamp)
        if type(value) is int or type(value) is Unknown:
            return value, True if type(value) is int and mode == "IDX" else Unknown("the range predicate of SHFL")
        if type(source) is Unknown or type(clamp) is not int:
            return Unknown("SHFL with an unknown lane"), Unknown("SHFL with an unknown lane")
        lane = (self.lanes.ids & 31).astype(np.int64)
        step = np.asarray(source, dtype=np.uint64).astype(np.int64)
        segment, bound = clamp >> 8 & 31, clamp & 31
        low = lane & segment
        high = low | (bound & ~segment)
        if mode == "IDX":
            wanted = low | (step & ~segment & 31)
            inside = wanted <= high
        elif mode == "BFLY":
            wanted = lane ^ (step & 31)
            inside = wanted <= high
        elif mode == "DOWN":
            wanted = lane + (step & 31)
            inside = wanted <= high
        else:
            wanted = lane - (step & 31)
            inside = wanted >= high
        target = (self.lanes.ids & ~31) + np.where(inside, wanted, lane)
        place = np.minimum(np.searchsorted(self.lanes.ids, target), self.lanes.count - 1)
        there = self.lanes.ids[place] == target
        if not there.all():
            if self.machine.sampled:
                raise WholeWarpError
            return Unknown("SHFL from a thread that is elsewhere"), Unknown("SHFL from a thread that is elsewhere")
        return _flatten(value[place], None), bool(inside.all()) if inside.all() else inside


def _merge(one: Value, two: Value, sizes: tuple[int, int], order: np.ndarray) -> Value:
    if one is two or (type(one) is type(two) and type(one) in (int, bool) and one == two):
        return one
    if has_bits(one) or has_bits(two):
        first = np.repeat([True, False], sizes)[order]
        return select(first, _widened(one, sizes, order, 0), _widened(two, sizes, order, 1))
    if type(one) is Unknown and type(two) is Unknown:
        return one
    kind = bool if is_flag(one) or is_flag(two) else np.uint64
    values: list[np.ndarray] = []
    known: list[np.ndarray] = []
    cause: Unknown | None = None
    for value, size in zip((one, two), sizes, strict=True):
        if type(value) is Partial:
            cause = value.cause
            values.append(value.value)
            known.append(value.known)
            continue
        missing = type(value) is Unknown
        if missing and value is not DEAD:
            cause = value
        values.append(value if type(value) is np.ndarray else np.full(size, 0 if missing else value, dtype=kind))
        known.append(np.full(size, not missing or value is DEAD))
    merged = np.concatenate(values)[order]
    return merged if cause is None else Partial(merged, np.concatenate(known)[order], cause)


def _widened(value: Value, sizes: tuple[int, int], order: np.ndarray, side: int) -> Value:
    """A value of one of two groups as a value of both, zero in the other's threads."""
    def wide(part: Value) -> Value:
        if type(part) is not np.ndarray:
            return part
        rest = np.zeros(sizes[1 - side], dtype=part.dtype)
        return np.concatenate([part, rest] if side == 0 else [rest, part])[order]

    if type(value) is Unknown:
        return Unknown(value.cause, wide(value.value), wide(value.mask), value.origin) if has_bits(value) else value
    if type(value) is Partial:
        return value.cause
    return wide(value)


class Pending:
    """Threads split off that need not run yet: the group as it was before the split, and which threads are meant."""

    def __init__(self, parent: Group, mask: np.ndarray, place: int, live: Iterable[int]) -> None:
        self.parent, self.mask, self.place, self.live = parent, mask, place, live

    def group(self) -> Group:
        """Those threads as a group of their own."""
        made = self.parent.part(self.mask, self.live)
        made.place = self.place
        return made

    def rejoin(self, other: Group, live: Iterable[int]) -> Group:
        """All threads of both, where `other` stands at the same place."""
        parent = self.parent
        if other.lanes.count + int(np.count_nonzero(self.mask)) == parent.lanes.count \
                and np.array_equal(other.lanes.ids, parent.lanes.ids[~self.mask]):
            parent.place = self.place
            if parent.absorb(other, live):
                return parent
        return self.group().join(other, live)


def _part(value: Value, picks: np.ndarray) -> Value:
    """The values of the threads at these positions."""
    if type(value) is np.ndarray:
        return value[picks]
    if has_bits(value):
        bits = [v[picks] if type(v) is np.ndarray else v for v in (value.value, value.mask)]
        return value.origin._bits(None, *bits)
    if type(value) is not Partial:
        return value
    known, plain = value.known[picks], value.value[picks]
    return plain if known.all() else Partial(plain, known, value.cause) if known.any() else value.cause


def _flatten(by_warp: np.ndarray, warp: np.ndarray | None) -> Value:
    """One value a warp given to its threads; a plain number where all are the same."""
    first = by_warp[0]
    if (by_warp == first).all():
        return bool(first) if by_warp.dtype == bool else int(first)
    return by_warp if warp is None else by_warp[warp]


def _spread(by_cta: np.ndarray, cta: np.ndarray) -> Value:
    first = by_cta[0]
    return int(first) if (by_cta == first).all() else by_cta[cta].astype(np.uint64)
