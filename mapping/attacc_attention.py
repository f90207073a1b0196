"""When decode attention on an AttAcc stack ends: one step per stretch between two barriers, not per command.

A stretch is moves of what is done, MACs, and moves beside them; the schedule of stretches is that of
`presilicon.sim.dram.attacc` (the public trace generators). MACs follow each other at their own distance, moves at tCCD_S, or tCCD_L in one
bank group, on a data path beside them. Moves that stand behind MACs go as soon as the controller's queue shows them, but those to a bank
whose open row is still wanted wait. Rows and refresh are as in `presilicon.mapping.attacc_time`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..arch.dram import DramDevice
from .attacc_time import _PAST, MOVED, AttaccClock

#: Byte within a bank at which values start (8 MiB: half of the bank), as in the public trace generators.
VALUES = 1 << 23

#: Moves before, first column and number of MACs, moves behind: one stretch. Moves by their bank.
Stretch = tuple[Sequence[int], int, int, Sequence[int]]


@dataclass
class _Clock(AttaccClock):
    """The channel as stretches go by.

    Attributes
    ----------
    left
        Cycles at which what lately stood in the queue left it.
    moved, last_move
        Last move of each bank group, and of all.
    rows, alone
        Busy cycles of the row bus, and those of them that a precharge has for itself, where MACs take all banks in turn.
    """

    left: list[int] = field(default_factory=list)
    moved: dict[int, int] = field(default_factory=dict)
    rows: set[int] = field(default_factory=set)
    alone: set[int] = field(default_factory=set)
    last_move: int = _PAST

    def stretch(self, before: Sequence[int], first: int, count: int, behind: Sequence[int], after: Stretch | None) -> None:
        """One stretch, and the barrier behind it; `after` is the next one."""
        start = self.free
        if self.interval and not count:
            self._refresh_idle(start)
        early = self._moves(before, [start] * len(before), ())
        macs: list[int] = []
        held = (0, 0)
        if count:
            fresh = self._place(first)
            known = self.open.get(fresh[0]) == fresh[1]
            begin = max(start + bool(early), self.mac + self.step)
            if self.level == "buffer":
                page = self.turn * self.columns
                at = first
                while at < first + count:  # the next page opens bank by bank
                    room = min(first + count, at - at % page + page) - at
                    macs += self._in_turn(at, room, sorted([*self.left, *early, *macs]), max(begin, self.mac + self.step))
                    at += room
            else:
                ahead = sorted([*self.left, *early])
                begin = max(begin, self._ready(first, ahead))
                if self.level == "bg" and count > self.columns - first % self.columns:
                    away = self.columns - first % self.columns
                    begin = max(begin, self._ready(first + away, ahead, away) - away * self.step)
                self.runs.clear()
                self._macs(first, count, begin)
                macs = self._latest()
            zero = self._last_zero(first, count)
            if zero is not None:
                held = (start if known else macs[max(0, len(macs) - count)] - self.opening, macs[max(0, len(macs) - (count - zero))] + 1)
        # The j-th move behind shows as all but `depth` - 1 before it have left.
        shown = []
        gone = sorted([*self.left, *early, *macs])
        for index in range(len(behind)):
            hidden = len(gone) + index - (self.depth - 1)
            shown.append(max(start, gone[min(hidden, len(gone)) - 1] + 1) if hidden > 0 and gone else start)
        late = self._moves(behind, shown, macs, held, self._wanted(after, len(behind)) if count else None, gone)
        end = max([*early, *macs[-1:], *late, start - 1])
        self.free = end + 1
        self.left = sorted([*self.left, *early, *macs, *late, end + 1])[-self.depth:]

    def _in_turn(self, first: int, count: int, ahead: list[int], begin: int) -> list[int]:
        """Cycles of the last MACs of those that take all banks in turn, in one page of each."""
        opened = self._opened(first, count, ahead, begin)
        self.runs.clear()
        self._macs(first, count, max(opened) - (len(opened) - 1) * self.step)
        macs = self._latest()
        if len(self.runs) == 1:
            macs = sorted(opened)[-len(macs):] if count <= len(opened) else macs
            self.used |= {self._place(first + i)[0]: cycle for i, cycle in enumerate(opened) if i + self.turn >= count}
        return macs

    def _opened(self, first: int, count: int, ahead: list[int], begin: int) -> list[int]:
        """Cycles of the first MACs, two to each bank at most: of what is ready, the oldest goes.

        A cycle takes a command of each bus, but a precharge goes alone (`presilicon.sim.dram.queues.barrier_queue`); an activate takes
        two of the row bus.
        """
        t, few = self.device.timings, min(count, self.turn)
        # What the bank of each MAC needs next (a precharge, an activate, nothing) and from when on.
        needs, free, places = [0] * few, [begin] * few, [self._place(first + index) for index in range(few)]
        for index, (bank, row) in enumerate(places):
            if self.open.get(bank) == row:
                continue
            free[index] = max(1, self._seen(ahead, index), self.refreshed)
            needs[index] = 1
            if bank in self.open:
                free[index] = max(free[index], self.used[bank] + self.settle, self.opened.get(bank, _PAST) + t["tRAS"])
                needs[index] = 2
        total = min(count, 2 * few) if any(needs) else few
        done: list[int] = [0] * total
        left, columns = list(range(total)), set(ahead)
        group: dict[int, int] = {}
        now, mac_free = min(free), begin
        while left:
            taken, soonest = "alone" if now in self.alone else "column" if now in columns else "", 1 << 62
            again = True
            while again:
                again = False
                for at in left:
                    index = at % few
                    bank = places[index][0]
                    need = needs[index]
                    if at >= few and need:
                        continue  # the bank's first MAC sees to its row
                    if need:
                        when = free[index]
                        while when in self.rows or (need == 1 and when + 1 in self.rows):
                            when += 1
                    else:
                        when = max(free[index], mac_free, group.get(bank // self.device.organisation.banks, _PAST) + t["tCCD_L"])
                    if when > now:
                        soonest = min(soonest, when)
                        continue
                    kind = "column" if not need else "row" if need == 1 else "alone"
                    if taken and (kind in ("alone", taken) or taken == "alone"):
                        soonest = min(soonest, now + 1)
                        break
                    if need == 2:
                        free[index], needs[index] = now + self.closing, 1
                        self.rows.add(now)
                        self.alone.add(now)
                    elif need == 1:
                        free[index], needs[index] = max(begin, now + self.opening), 0
                        self.rows.update(range(now, now + t["tACT2"]))
                        self.opened[bank] = self.act = now
                    else:
                        done[at], mac_free = now, now + self.step
                        group[bank // self.device.organisation.banks] = now
                        left.remove(at)
                    again, taken = not taken and kind != "alone", kind
                    soonest = now + 1
                    break
            now = max(now + 1, soonest)
        return done

    def _latest(self) -> list[int]:
        """Cycles of the last MACs, as many as the queue may hold."""
        found: list[int] = []
        for begin, count in reversed(self.runs):
            take = min(count, self.depth + 1 - len(found))
            found[:0] = [begin + (count - 1 - i) * self.step for i in reversed(range(take))]
            if len(found) > self.depth:
                break
        return found

    def _last_zero(self, first: int, count: int) -> int | None:
        """The last of the MACs that goes to bank 0."""
        end = first + count - 1
        if self._place(end)[0] == 0:
            return count - 1
        last = end // self.size // self.turn * self.turn * self.size + self.size - 1
        return last - first if last >= first else None

    def _wanted(self, after: Stretch | None, moves: int) -> int | None:
        """How many moves, barriers and MACs stand behind this stretch's MACs and before the first of the next to an open row of bank 0."""
        if after is None or not after[2]:
            return None
        before, first, count, _ = after
        away = 0 if self._place(first)[0] == 0 else -first % (self.turn * self.size)
        if away >= count or self.open.get(0) != self._place(first + away)[1]:
            return None
        return moves + 1 + len(before) + away

    def _moves(self, banks: Sequence[int], shown: Sequence[int], macs: Sequence[int], held: tuple[int, int] = (0, 0),
               wanted: int | None = None, gone: Sequence[int] = ()) -> list[int]:
        """Cycle of each move: the oldest that may go first.

        `held`: while MACs of this stretch want bank 0. `wanted`: requests behind MACs, which leave when `gone` says, before the next
        that wants it; once the queue shows that one, a move to bank 0 goes only as the oldest request.
        """
        t, size = self.device.timings, self.device.organisation.banks
        done = [0] * len(banks)
        rest, busy = list(range(len(banks))), set(macs)
        newest = max([*macs[-1:], self.last_move])
        while rest:
            best, at = rest[0], 1 << 62
            for place, index in enumerate(rest):
                bank = banks[index]
                ready = max(shown[index], self.last_move + t["tCCD_S"], self.moved.get(bank // size, _PAST) + t["tCCD_L"])
                if bank == 0 and held[0] <= ready < held[1]:
                    ready = held[1]
                if bank == 0 and wanted is not None and ready >= held[1] and (
                        len(gone) - bisect_left(gone, ready) + wanted - (len(banks) - len(rest)) < self.depth):
                    if place:
                        continue
                    ready = max(ready, newest + 1)
                if ready < at:
                    best, at = index, ready
                if at <= max(shown[rest[0]], self.last_move + t["tCCD_S"]):
                    break
            if at == 1 << 62:
                best, at = rest[0], max(shown[rest[0]], self.last_move + t["tCCD_L"])
            while at in busy:
                at += 1
            rest.remove(best)
            done[best] = at
            self.last_move = self.moved[banks[best] // size] = at
            newest = max(newest, at)
        return done


@dataclass(frozen=True)
class _Shape:
    """Columns and moves of one head; as `presilicon.sim.dram.attacc` lays it out."""

    device: DramDevice
    keys: int
    head_dim: int
    lanes: int
    level: str

    @property
    def across(self) -> int:
        """Units that share the head dimension."""
        return self.device.organisation.banks if self.level == "bank" else 1

    @property
    def split(self) -> int:
        """Units that share the keys."""
        org = self.device.organisation
        return org.pseudo_channels * (1 if self.level == "buffer" else org.ranks * org.bank_groups)

    @property
    def own(self) -> int:
        """Keys of a unit."""
        return math.ceil(self.keys / self.split)

    def column(self, offset: int) -> int:
        """First column of a matrix that starts at a byte of each bank."""
        org = self.device.organisation
        if self.level == "bank":
            return offset // org.column_bytes
        return offset // org.row_bytes * org.columns * (org.banks if self.level == "bg" else org.ranks * org.bank_groups * org.banks)

    def groups(self, ranks_first: bool) -> list[int]:
        """First bank of each bank group."""
        org = self.device.organisation
        if self.level == "buffer":
            return [0]
        found = [rank * org.bank_groups * org.banks + group * org.banks for rank in range(org.ranks) for group in range(org.bank_groups)]
        return found if ranks_first else sorted(found, key=lambda bank: (bank % (org.bank_groups * org.banks), bank))

    def query(self) -> list[int]:
        """Writes of the query."""
        return [bank for bank in range(self.across) for _ in range(math.ceil(self.head_dim / self.across / self.lanes))]

    def back(self) -> list[int]:
        """Moves of the probabilities."""
        return [bank for bank in self.groups(True) for _ in range(math.ceil(self.keys / (self.split * self.lanes)))]

    def results(self) -> list[int]:
        """Moves of a part of the result."""
        org = self.device.organisation
        if self.level == "buffer":
            return [0]
        return [rank * org.bank_groups * org.banks + bank for bank in range(self.across) for rank in range(org.ranks)]

    def score(self, offset: int) -> list[tuple[int, int]]:
        """First column and MACs of every 16 keys."""
        per_key = math.ceil(self.head_dim / self.across / self.lanes)
        start = self.column(offset)
        return [(start + at * per_key, min(MOVED, self.own - at) * per_key) for at in range(0, self.own, MOVED)]

    def context(self, offset: int) -> list[tuple[int, int]]:
        """First column and MACs of every part of the result."""
        start = self.column(offset + VALUES)
        return [(start + at * self.own, self.own) for at in range(math.ceil(self.head_dim / (self.across * self.lanes)))]


def _spread(items: list[int], chunks: int, shares: int, lanes: int) -> list[list[int]]:
    """Moves of one head beside the products of another, as the public generators spread them."""
    stride = len(items) * lanes // shares
    cut: list[list[int]] = [[] for _ in range(chunks)]
    for index, item in enumerate(items):
        share = index * lanes // stride if stride else shares
        if share < shares:
            cut[chunks - shares + share].append(item)
    return cut


def _phase(pending: list[int], macs: list[tuple[int, int]], moves: list[int], first: list[int], beside: list[list[int]],
           ) -> tuple[list[Stretch], list[int]]:
    """Stretches of a phase after moves that are still to do; and the moves that it leaves."""
    found: list[Stretch] = []
    for index, (start, count) in enumerate(macs):
        found.append((pending if index == 0 else [], start, count, [*(moves if index else first), *beside[index]]))
    return found, moves


def _stretches(shape: _Shape, heads: int, apart: int) -> Iterator[Stretch]:
    """The busiest channel's stretches: two heads interleaved, a last odd one alone."""
    channels = shape.device.organisation.channels
    rounds = math.ceil(heads / channels)
    pending: list[int] = []
    query, back, moves, results = shape.query(), shape.back(), shape.groups(False), shape.results()
    for index in range(0, rounds - 1, 2):
        one, two = shape.score(index * apart), shape.score((index + 1) * apart)
        values = shape.context(index * apart)
        chunks, parts = len(one), len(values)
        busy = [min(channels, heads - turn * channels) for turn in (index, index + 1)]
        none: list[list[int]] = [[] for _ in range(max(chunks, parts))]
        yield [*pending, *query], one[0][0], int(index == 0), []
        found, pending = _phase([], one, moves, [], _spread(query, chunks, chunks, busy[1]))
        yield from found
        found, pending = _phase(pending, two, moves, [0], _spread(back, chunks, chunks - chunks // 2, busy[0]))
        yield from found
        found, pending = _phase(pending, values, results, [0], _spread(back, parts, parts - parts // 2, busy[1]))
        yield from found
        found, pending = _phase(pending, values, results, [], none)
        yield from found
    if rounds % 2:
        one, values = shape.score((rounds - 1) * apart), shape.context((rounds - 1) * apart)
        none = [[] for _ in range(max(len(one), len(values)))]
        yield [*pending, *query], 0, 0, []
        found, pending = _phase([], one, moves, [], none)
        yield from found
        yield [*pending, 0, *back], 0, 0, []
        found, pending = _phase([], values, results, [], none)
        yield from found
    yield pending, 0, 0, []


@dataclass(frozen=True)
class AttentionCycles:
    """Cycles until the last result has left, MACs of the busiest channel, units of a channel that a MAC feeds, cycles from MAC to MAC."""

    cycles: int
    macs: int
    units: int
    step: int


def attention_cycles(device: DramDevice, heads: int, keys: int, head_dim: int, element_bytes: int, level: str, refresh: bool, longest: int,
                     ) -> AttentionCycles:
    """Cycles of decode attention; arguments as `presilicon.mapping.pim.attacc_attention`, which checks them."""
    org, t = device.organisation, device.timings
    step = {"bank": t.get("tCCD_AB", 0), "bg": t.get("tCCD_SB", 0), "buffer": t["tBL"]}[level]
    shape = _Shape(device, keys, head_dim, org.column_bytes // element_bytes, level)
    clock = _Clock(device, level, step, refresh)
    ahead = list(_stretches(shape, heads, math.ceil(longest * head_dim / org.banks_per_channel)))
    for stretch, following in zip(ahead, [*ahead[1:], None], strict=True):
        clock.stretch(*stretch, following)
    return AttentionCycles(clock.free - 1, sum(stretch[2] for stretch in ahead), shape.split * shape.across, step)
