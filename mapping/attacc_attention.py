"""When decode attention on an AttAcc stack ends: one step per stretch between two barriers, not per command.

A stretch is moves of what is done, MACs, and moves beside them; the schedule of stretches is that of
`presilicon.sim.dram.attacc` (the public trace generators). MACs follow each other at their own distance, moves at tCCD_S, or tCCD_L in one
bank group, on a data path beside them. Moves that stand behind MACs go as soon as the controller's queue shows them, but those to a bank
whose open row is still wanted wait. Rows and refresh are as in `presilicon.mapping.attacc_time`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..arch.dram import DramDevice
from .attacc_schedule import Shape, Stretch, stretches
from .attacc_time import _PAST, AttaccClock

#: Stretches that a queue may show at once.
_SHOWN = 4


@dataclass
class _Part:
    """MACs of one page of a bank in one row: their place among those of the stretch, how many are left, and when the row is open."""

    bank: int
    row: int
    offset: int
    left: int
    ready: int | None = None


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
    askew
        Columns by which the head of a stretch begins inside of a row, where units are at bank groups: each page of a bank then runs on
        into the next row.
    """

    left: list[int] = field(default_factory=list)
    moved: dict[int, int] = field(default_factory=dict)
    rows: set[int] = field(default_factory=set)
    alone: set[int] = field(default_factory=set)
    last_move: int = _PAST
    askew: int = 0

    def _place(self, column: int) -> tuple[int, int]:
        if not self.askew:
            return super()._place(column)
        page, within = divmod(column, self.columns)
        return page % self.turn, page // self.turn + (self.askew + within) // self.columns

    def stretch(self, before: Sequence[int], first: int, count: int, behind: Sequence[int], askew: int,
                after: Sequence[Stretch]) -> None:
        """One stretch, and the barrier behind it; `after` are the next ones, as many as the queue may show."""
        start, self.askew = self.free, askew
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
                page, wanted = self.turn * self.columns, self._hits(after, len(behind))
                at = first
                while at < first + count:  # the next page opens bank by bank
                    room = min(first + count, at - at % page + page) - at
                    later = {bank: place + first + count - at - room for bank, place in wanted.items()}
                    macs += self._in_turn(at, room, sorted([*self.left, *early, *macs]), max(begin, self.mac + self.step), later)
                    at += room
            elif askew:
                macs = self._paged(first, count, sorted([*self.left, *early]), begin)
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
        late = self._moves(behind, shown, macs, held, self._wanted(after[0] if after else None, len(behind)) if count else None, gone)
        end = max([*early, *macs[-1:], *late, start - 1])
        self.free = end + 1
        self.left = sorted([*self.left, *early, *macs, *late, end + 1])[-self.depth:]

    def _paged(self, first: int, count: int, ahead: list[int], begin: int) -> list[int]:
        """Cycles of the last MACs where pages run on into the next row of their bank, which changes within the page.

        While it does, MACs of the next page, in another bank, go on, as far as the queue shows them; the oldest that may go does.
        """
        parts, at = list[_Part](), first
        while at < first + count:
            bank, row = self._place(at)
            within = at % self.columns
            end = min(first + count, at - within + (self.columns if within + self.askew >= self.columns else self.columns - self.askew))
            parts.append(_Part(bank, row, at - first, end - at))
            at = end
        times, now = list[int](), begin
        while parts:
            best, soonest, until = None, 1 << 62, 1 << 62
            seen_banks: set[int] = set()
            for part in parts[:2 * self.turn]:
                if part.bank in seen_banks:
                    continue  # behind another row of its bank
                seen_banks.add(part.bank)
                hidden = len(ahead) + part.offset - (self.depth - 1)
                if hidden - len(ahead) > len(times):
                    break  # not in the queue yet, nor is anything behind it
                if part.ready is None:
                    shown = _PAST if hidden <= 0 else (ahead[hidden - 1] if hidden <= len(ahead) else times[hidden - len(ahead) - 1]) + 1
                    part.ready = self._opens(part, max(1, shown, self.refreshed), begin)
                if part.ready <= now:
                    best = part
                    break
                soonest, until = min(soonest, part.ready), min(until, part.ready)
            if best is None:
                now = soonest
                continue
            run = min(best.left, -(-(until - now) // self.step)) if until < 1 << 62 else best.left
            if self.interval and self.due <= now + (run - 1) * self.step:
                run = max(0, -(-(self.due - now) // self.step))
                times += range(now, now + run * self.step, self.step)
                best.left -= run
                self.mac = times[-1] if times else self.mac
                # Units stop at once: those that are left open their rows again.
                now = max(self._refresh(max(self.due, self.mac + self.settle)) + self.opening, self.mac + self.step)
                for part in parts:
                    part.ready = None
                parts = [part for part in parts if part.left]
                continue
            times += range(now, now + run * self.step, self.step)
            best.left -= run
            self.mac = self.used[best.bank] = times[-1]
            now = times[-1] + self.step
            if not best.left:
                parts.remove(best)
        return times[-(self.depth + 1):]

    def _opens(self, part: _Part, seen: int, begin: int) -> int:
        """First cycle of a part's MACs, whose row opens if it is not open, once the queue shows them."""
        if self.open.get(part.bank) == part.row:
            return begin
        if part.bank in self.open:
            shut = max(seen, self.used[part.bank] + self.settle, self.opened.get(part.bank, _PAST) + self.device.timings["tRAS"])
            seen = shut + self.closing
        self.open[part.bank], self.opened[part.bank], self.act = part.row, seen, seen
        return max(begin, seen + self.opening)

    def _hits(self, after: Sequence[Stretch], moves: int) -> dict[int, int]:
        """Banks whose open row MACs of the next stretches want, and how much the queue holds between this stretch's MACs and the first."""
        found: dict[int, int] = {}
        place = moves + 1
        for before, first, count, behind, _ in after:
            place += len(before)
            for index in range(min(count, self.depth - place)):
                bank, row = self._place(first + index)
                if self.open.get(bank) == row:
                    found.setdefault(bank, place + index)
            place += count + len(behind) + 1
            if place >= self.depth:
                break
        return found

    def _in_turn(self, first: int, count: int, ahead: list[int], begin: int, later: Mapping[int, int]) -> list[int]:
        """Cycles of the last MACs of those that take all banks in turn, in one page of each; `later`: see `_opened`."""
        opened = self._opened(first, count, ahead, begin, later)
        self.runs.clear()
        self._macs(first, count, max(opened) - (len(opened) - 1) * self.step)
        macs = self._latest()
        if len(self.runs) == 1:
            macs = sorted(opened)[-len(macs):] if count <= len(opened) else macs
            self.used |= {self._place(first + i)[0]: cycle for i, cycle in enumerate(opened) if i + self.turn >= count}
        return macs

    def _opened(self, first: int, count: int, ahead: list[int], begin: int, later: Mapping[int, int]) -> list[int]:
        """Cycles of the first MACs, two to each bank at most: of what is ready, the oldest goes.

        `later`: banks whose open row is wanted again behind these MACs, and how much the queue holds in between. Once it shows those, only
        the oldest request may close such a row (what is no row hit may not pass a hit to its bank).

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
        groups = self.device.organisation.ranks * self.device.organisation.bank_groups  # columns take them in turn
        group: dict[int, int] = {}
        now, mac_free = min(free), begin
        while left:
            taken, soonest = "alone" if now in self.alone else "column" if now in columns else "", 1 << 62
            again, held = True, len(ahead) - bisect_left(ahead, now)
            while again:
                again = False
                for at in left:
                    index = at % few
                    bank = places[index][0]
                    need = needs[index]
                    if at >= few and need:
                        continue  # the bank's first MAC sees to its row
                    if need == 2 and at != left[0] and later.get(bank, self.depth) + held + len(left) + count - total < self.depth:
                        continue
                    if need:
                        when = max(now, free[index])
                        while when in self.rows or (need == 1 and when + 1 in self.rows):
                            when += 1
                    else:
                        when = max(free[index], mac_free, group.get(bank % groups, _PAST) + t["tCCD_L"])
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
                        group[bank % groups] = now
                        left.remove(at)
                    again, taken = not taken and kind != "alone", kind
                    soonest = now + 1
                    break
            now = max(now + 1, soonest) if soonest < 1 << 62 else now + 1
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
        before, first, count, _, askew = after
        away = 0 if self._place(first)[0] == 0 else -first % (self.turn * self.size)
        mine, self.askew = self.askew, askew
        wanted = self._place(first + away)[1]
        self.askew = mine
        if away >= count or self.open.get(0) != wanted:
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
    shape = Shape(device, keys, head_dim, org.column_bytes // element_bytes, level)
    clock = _Clock(device, level, step, refresh)
    ahead = list(stretches(shape, heads, math.ceil(longest * head_dim / org.banks_per_channel)))
    for index, stretch in enumerate(ahead):
        clock.stretch(*stretch, ahead[index + 1:index + 1 + _SHOWN])
    return AttentionCycles(clock.free - 1, sum(stretch[2] for stretch in ahead), shape.split * shape.across, step)
