"""When the products of a GEMV on AttAcc begin and end: one step per block of inputs, not per command.

A block is writes of its inputs to the operand buffers, a barrier, MACs with the moves of earlier results beside them, a barrier, and the
moves of its last results. Commands behind a barrier wait; activates and precharges come forward, as far as the controller's queue shows
them. So a row opens behind the moves and writes before it, unless these are few. Times are cycles of column commands.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..arch.dram import DramDevice

#: Rows of W whose results move together (`presilicon.sim.dram.attacc`).
MOVED = 16
_PAST = -(1 << 40)


@dataclass
class AttaccClock:
    """The channel as blocks go by.

    Attributes
    ----------
    device, level, step, refresh
        The device, where its units are, cycles from MAC to MAC, and whether all banks are refreshed.
    free, mac, move, act, due, refreshed
        Cycles: the first for another column command; the last MAC, move and activate; the next refresh, and the end of the last.
    count
        MACs of the last block.
    open, used, opened
        Open row, cycle of the last MAC, and the last activate, of each bank that MACs take in turn.
    runs
        First cycle and number of MACs of each run without a stop, as they were added.
    """

    device: DramDevice
    level: str
    step: int
    refresh: bool
    free: int = 1
    mac: int = _PAST
    move: int = _PAST
    act: int = _PAST
    due: int = 0
    refreshed: int = 0
    count: int = 0
    open: dict[int, int] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)
    opened: dict[int, int] = field(default_factory=dict)
    runs: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        org, t = self.device.organisation, self.device.timings
        self.interval = t["tREFI"] if self.refresh and self.device.refresh is not None else 0
        self.banks, self.parts = org.ranks * org.bank_groups * org.banks, org.pseudo_channels
        self.due, self.columns = self.interval, org.columns
        # Banks that MACs take in turn, and the columns of one before the next.
        self.turn, self.size = {"bank": (1, 1), "bg": (org.banks, org.columns), "buffer": (self.banks, 1)}[self.level]
        self.movers = 1 if self.level == "buffer" else org.bank_groups * org.ranks
        self.apart = t["tCCD_L"] if self.level == "buffer" else t["tCCD_S"]
        self.depth = self.device.controller.get("queue", 32)
        self.opening, self.closing, self.settle = t["tRCDRD"], t["tRP"], t["tRTP_L"]
        # MACs to all banks that follow each other sooner than a precharge may follow keep the row open until it is done.
        self.finishes = self.level == "bank" and self.step < self.settle

    def _place(self, column: int) -> tuple[int, int]:
        """Bank (one of those that a MAC takes in turn) and row of a column of W's share."""
        return column // self.size % self.turn, column // (self.turn * self.columns)

    def rows_opened(self, columns: int, batch: int) -> int:
        """Rows that a unit opens, of `columns` of its banks `batch` times over: a bank with one row leaves it open (no refresh)."""
        if self.level == "buffer":
            each, more = divmod(columns, self.turn * self.columns)
            more = min(self.turn, more)
        else:
            each, more = divmod(-(-columns // self.columns), self.turn)
        return sum(banks * rows * (batch if rows > 1 else 1) for banks, rows in ((more, each + 1), (self.turn - more, each)))

    def block(self, first: int, rows: int, columns: int, writes: int, following: tuple[int, int] | None = None) -> None:
        """One block: `writes` of inputs, and `rows` of so many columns from the `first` of the share on.

        `following`: first column and writes of the next block.
        """
        t = self.device.timings
        gap = t["tCCD_L"]
        start = max(self.free, self.move + self.apart)
        last = start + (writes - 1) * gap
        # What stands in the queue between the last MAC and the next: a barrier, moves, a barrier, writes, a barrier.
        moves = [] if self.move == _PAST else [self.move - (self.movers - 1 - i) * t["tCCD_S"] for i in range(self.movers)]
        before = [self.mac - i * self.step for i in reversed(range(min(self.depth, self.count)))]
        ahead = [*before, *([self.mac + 1, *moves, start] if moves else []), *(start + i * gap for i in range(writes)), last + 1]
        if self.interval:
            self._refresh_idle(last + 1)
        begin = max(last + 1, self._ready(first, ahead))
        total = rows * columns
        self.runs.clear()
        if self.level == "bg" and total > self.columns - first % self.columns:
            # The next page lies in another bank, which opens meanwhile.
            away = self.columns - first % self.columns
            begin = max(begin, self._ready(first + away, ahead, away) - away * self.step)
        self._macs(first, total, begin)
        tail = rows - (rows - 1) // MOVED * MOVED
        end, beside = self.mac, _PAST
        if rows > MOVED:
            beside = self.mac - tail * columns * self.step + 1 + (self.movers - 1) * t["tCCD_S"]
            beside = max(beside, self._held(first + total - tail * columns, first + total, following))
            end = max(end, beside)
        self.move = max(end + 1, max(beside, last) + self.apart) + (self.movers - 1) * t["tCCD_S"]
        self.count = total
        self.free = self.move + 1

    def _held(self, start: int, end: int, following: tuple[int, int] | None) -> int:
        """First cycle of a move from bank 0 beside MACs of columns `start` to `end`: it may not pass one to bank 0 that the queue shows."""
        last = min(end - 1, ((end - 1) // self.size // self.turn * self.turn + 1) * self.size - 1)
        left = end - max(last + 1, start)
        if following is not None:
            column, writes = following
            # Its own barrier, the last moves and theirs, the next writes and theirs.
            if left + writes + self.movers + 4 + -(column // self.size) % self.turn * self.size < self.depth:
                return self.mac + 1
        return self.mac - left * self.step + 1 if last >= start else _PAST

    def _seen(self, ahead: list[int], offset: int) -> int:
        """First cycle at which the queue shows a request that so many others stand before."""
        hidden = len(ahead) + offset - (self.depth - 1)
        return _PAST if hidden <= 0 else ahead[min(hidden, len(ahead)) - 1] + 1

    def _ready(self, column: int, ahead: list[int], offset: int = 0) -> int:
        """First cycle of a MAC at a column, whose row opens or changes before it."""
        bank, row = self._place(column)
        if self.open.get(bank) == row:
            return _PAST
        seen = max(1, self._seen(ahead, offset), self.refreshed)
        if bank in self.open:
            t = self.device.timings
            shut = max(seen, self.used[bank] + self.settle)
            shut = max(shut, (self.act if self.level == "bank" else self.opened.get(bank, _PAST)) + t["tRAS"])
            self.act = shut + self.closing
        else:
            self.act = seen
        self.opened[bank] = self.act
        self.open[bank] = row
        return self.act + self.opening

    def _macs(self, first: int, total: int, begin: int) -> None:
        """MACs of a block from `begin` on, with changes of rows and refreshes."""
        at, done, now = first, 0, begin
        while done < total:
            # Up to the next change of a row that costs time, or the end.
            whole = self.columns if self.level == "bank" else self.banks * self.columns if self.level == "buffer" else total
            room = total - done if self.level == "bg" else min(total - done, whole - at % whole)
            run = now + (room - 1) * self.step
            if self.interval and not self.finishes and self.due <= run:
                # Units stop at once: those that are left open their rows again.
                count = max(0, -(-(self.due - now) // self.step))
                if count:
                    self.mac = now + (count - 1) * self.step
                    self.runs.append((now, count))
                resume = self._refresh(max(self.due, self.mac + self.settle)) + self.opening
                done, at, now = done + count, at + count, max(resume, self.mac + self.step)
                self.act = resume - self.opening
                continue
            self.mac = run
            self.runs.append((now, room))
            done, at = done + room, at + room
            if done == total:
                break
            if self.interval and self.level == "bank" and self.due <= run + self.settle + self.closing:
                now = self._refresh(run + self.settle) + self.opening
            elif self.level == "bank":
                now = run + self.settle + self.closing + self.opening
            else:
                now = run + self.step
            self.act = now - self.opening
        end = first + total
        for column in {*range(max(first, end - self.turn * self.size), end, self.size), end - 1}:
            bank, row = self._place(column)
            until = min(end, column - column % self.size + self.size) - 1
            self.open[bank], self.used[bank] = row, self.mac - (end - 1 - until) * self.step

    def _refresh(self, shut: int) -> int:
        """Refresh with rows closed from `shut` on; the first cycle of an activate."""
        t = self.device.timings
        self.open.clear()
        start = max(shut, self.act + t["tRAS"]) + self.closing
        begun = max(start, self.due) + self.parts - 1
        self.due += self.interval
        self.refreshed = begun + t["tRFC"]
        return self.refreshed

    def _refresh_idle(self, until: int) -> None:
        while self.due < until:
            if self.open:
                self._refresh(max(self.due, self.mac + self.settle))
            else:
                self._refresh(max(self.due, self.refreshed) - self.closing)
