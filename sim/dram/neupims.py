"""NeuPIMs and Newton command by command: products of the units, with ordinary reads and writes beside them or between them.

Two streams reach one channel. The units' stream is tiles: a vector into the global buffer (GWRITE) where it changes, activates of four
banks at once in every rank (GACT), one COMP a column, READRES for each result, and the precharge. With dual row buffers (the device has
PIMPRE) ordinary accesses keep rows of their own and slip in between under the same constraints; with one row buffer they wait for the end
of a tile, and the units wait for them. Ranks are refreshed in turn. A HEADER tells the controller how long a tile will take: one that is
not expected to end before the next refresh waits for it (`presilicon.mapping.newton_refresh`), while ordinary accesses go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ...arch.dram import DramDevice
from ...errors import MappingError
from ...mapping.newton_refresh import dual, spacing, tile_estimate, vector_estimate
from .engine import Channel, Stream
from .tables import compile_device


@dataclass(frozen=True)
class Tile:
    """One row in every bank: columns and results, the row, and whether a new vector is written to the global buffer before."""

    columns: int
    results: int = 1
    row: int = 0
    vector: bool = False


@dataclass(frozen=True)
class Access:
    """An ordinary burst: bank in the channel, row, and whether it writes."""

    bank: int
    row: int
    write: bool = False


@dataclass(frozen=True)
class ChannelRun:
    """Commands of one channel, and the cycles in which the units' stream and the ordinary accesses had issued their last.

    Attributes
    ----------
    units_cycle, access_cycle
        Cycle after the last command of each; 0 for an empty stream.
    """

    stream: Stream
    units_cycle: int
    access_cycle: int

    @property
    def cycles(self) -> int:
        """Cycle after the last command."""
        return max(self.units_cycle, self.access_cycle)


class _Bus:
    """Issues commands on a channel, one a cycle on each command bus, and writes them down."""

    def __init__(self, device: DramDevice) -> None:
        self.channel = Channel(device)
        self.kind = {c.name: 0 if c.bus == "row" or device.buses == 1 else 1 for c in device.commands}
        self.free = [0, 0]
        self.out: list[tuple[int, str, int, int]] = []

    def first(self, command: str, bank: int = 0, after: int = 0) -> int:
        return max(self.channel.earliest(command, bank), self.free[self.kind[command]], after)

    def issue(self, command: str, bank: int = 0, row: int = -1, after: int = 0) -> int:
        cycle = self.first(command, bank, after)
        self.channel.issue(command, cycle, bank, row)
        self.free[self.kind[command]] = cycle + 1
        self.out.append((cycle, command, bank, row))
        return cycle


def _steps(device: DramDevice, tile: Tile) -> list[tuple[str, int, int]]:
    """Commands of a tile as (name, bank, row)."""
    org = device.organisation
    group, rank = org.banks, org.bank_groups * org.banks
    steps = [("GWRITE", 0, -1)] if tile.vector else []
    steps.append(("HEADER", 0, -1))
    steps += [("GACT", r * rank + g * group, tile.row) for g in range(org.bank_groups) for r in range(org.pseudo_channels * org.ranks)]
    each, over = divmod(tile.columns, tile.results)
    for result in range(tile.results):
        steps += [("COMP", 0, tile.row)] * (each + (result < over)) + [("READRES", 0, -1)]
    steps.append(("PIMPRE" if dual(device) else "PREA", 0, -1))
    return steps


def _check(device: DramDevice, tiles: Sequence[Tile], accesses: Sequence[Access]) -> None:
    org = device.organisation
    if device.pim is None or all(command.name != "GACT" for command in device.commands):
        raise MappingError(f"{device.name}: has no four-bank activates (GACT); shipped with them are neupims-hbm2 and newton-hbm2")
    most = org.row_bytes // device.pim.width_bytes
    for tile in tiles:
        if not 1 <= tile.results <= tile.columns <= most or not 0 <= tile.row < org.rows:
            raise MappingError(f"{device.name}: {tile}: a row holds {most} columns of the units, at least one for each result, and a bank "
                               f"{org.rows} rows")
    for access in accesses:
        if not 0 <= access.bank < org.banks_per_channel or not 0 <= access.row < org.rows:
            raise MappingError(f"{device.name}: {access}: a channel has {org.banks_per_channel} banks of {org.rows} rows")


def simulate(device: DramDevice, tiles: Iterable[Tile], accesses: Iterable[Access] = (), *, refresh: bool = True,
             queue: int = 1) -> ChannelRun:
    """Play tiles and ordinary accesses on one channel.

    Parameters
    ----------
    device
        ``neupims-hbm2``, ``newton-hbm2``, or a device with their commands.
    tiles, accesses
        Each in order; with dual row buffers both go on at once, with one the accesses go between tiles, one tile and then those at hand.
    refresh
        All-bank refresh of one rank after the other; a tile that is not expected to end before the next one is due waits for it.
    queue
        Ordinary accesses that the controller looks at: in each bank the oldest goes first, and of those of several banks the one whose
        next command may go first, so that rows open while others are read. 1: in order.

    Raises
    ------
    MappingError
        A device without the commands, columns, rows or banks that it lacks, or an empty queue.
    """
    work, ordinary = list(tiles), list(accesses)
    _check(device, work, ordinary)
    if queue < 1:
        raise MappingError(f"{device.name}: a queue of {queue} accesses; at least 1")
    run = _Run(device, refresh, queue)
    units, access = run.play(work, ordinary)
    names = {name: index for index, name in enumerate(compile_device(device).names)}
    run.bus.out.sort(key=lambda c: c[0])
    columns = list(zip(*run.bus.out, strict=True)) or [(), (), (), ()]
    stream = Stream(device, np.array(columns[0], dtype=np.int64), np.array([names[name] for name in columns[1]], dtype=np.int64),
                    np.array(columns[2], dtype=np.int64), np.array(columns[3], dtype=np.int64))
    return ChannelRun(stream, units, access)


_Step = tuple[str, int, int]
_NEVER = 1 << 62


class _Run:
    def __init__(self, device: DramDevice, refresh: bool, queue: int) -> None:
        org = device.organisation
        self.device, self.bus, self.dual, self.queue = device, _Bus(device), dual(device), queue
        self.open = [-1] * org.banks_per_channel
        self.rank_banks, self.ranks = org.bank_groups * org.banks, org.pseudo_channels * org.ranks
        self.interval = spacing(device) if refresh else 0
        self.due, self.rank = self.interval or _NEVER, 0
        self.closes_all = device.command("PREA").scope == "channel"
        self.seen: dict[int, deque[tuple[int, Access]]] = {}
        self.count = 0
        self.coming: Iterator[tuple[int, Access]] = iter(())
        self.last = self.data = 0

    def play(self, tiles: list[Tile], accesses: list[Access]) -> tuple[int, int]:
        units = at = 0
        self.coming = enumerate(accesses)
        self._admit()
        for tile in tiles:
            steps = _steps(self.device, tile)
            told = at + 1 if units else 0
            if not self.dual:
                self._some(len(accesses) // max(1, len(tiles)) + 1)
                told = max(told, self.last)
            if tile.vector:
                if self.due - told <= vector_estimate(self.device):
                    self._refresh()
                at = self._unit(*steps.pop(0))
                told = at + self.device.timings["tGWRITE"]
            if self.due - told <= tile_estimate(self.device, tile.columns, tile.results):
                self._refresh()
            if not self.dual:
                self._close()
            # The next header is seen behind the tile's last command: a composite one begins with the first product of the last result.
            last = steps.index(("READRES", 0, -1), len(steps) - 2) - (tile.columns // tile.results if self.dual else 0)
            for position, (name, bank, row) in enumerate(steps):
                units = self._unit(name, bank, row) + 1
                at = units - 1 if position == last else at
        while (going := self._next()) is not None:
            if going[2] >= self.due:
                self._refresh()
            else:
                self._one(*going[:2])
        return units, self.last

    def _unit(self, name: str, bank: int, row: int) -> int:
        """Issue a command of the units; ordinary ones that may go earlier slip in before it where these have rows of their own."""
        while self.dual and (going := self._next()) is not None and going[2] < self.bus.first(name, bank):
            self._one(*going[:2])
        return self.bus.issue(name, bank, row)

    def _admit(self) -> None:
        for position, access in islice(self.coming, self.queue - self.count):
            self.seen.setdefault(access.bank, deque()).append((position, access))
            self.count += 1

    def _next(self, leaving: range = range(0)) -> tuple[Access, _Step, int] | None:
        """The waiting access whose next command may go first, of the oldest of each bank, that command and its cycle; the older of two.

        `leaving`: banks whose commands have to go before the next refresh is due.
        """
        best = (_NEVER, 0)
        found: tuple[Access, _Step] | None = None
        burst = _NEVER  # position of the oldest burst that goes as soon as the data bus is free: no younger one is earlier
        for bank, waiting in self.seen.items():
            position, access = waiting[0]
            step = self._step(access)
            if position > burst and step[0] in ("RD", "WR"):
                continue
            now = (self.bus.first(*step[:2]), position)
            if now < best and (bank not in leaving or now[0] < self.due):
                best, found = now, (access, step)
                if step[0] in ("RD", "WR") and now[0] <= self.data:
                    burst = position
        return None if found is None else (*found, best[0])

    def _step(self, access: Access) -> _Step:
        held = self.open[access.bank]
        if held == access.row:
            return ("WR" if access.write else "RD"), access.bank, access.row
        return ("ACT", access.bank, access.row) if held == -1 else ("PRE", access.bank, -1)

    def _one(self, access: Access, step: _Step) -> bool:
        """Issue the next command of an access; whether that was its last."""
        name, bank, row = step
        cycle = self.bus.issue(name, bank, row)
        if name in ("ACT", "PRE"):
            self.open[bank] = row
            return False
        self.last, self.data = cycle + 1, cycle + self.device.timings["tBL"]
        self.seen[bank].popleft()
        if not self.seen[bank]:
            del self.seen[bank]
        self.count -= 1
        self._admit()
        return True

    def _some(self, most: int) -> None:
        """Up to `most` accesses, between two tiles of a device with one row buffer."""
        done = 0
        while done < most and (going := self._next()) is not None:
            if going[2] >= self.due:
                self._refresh()
            else:
                done += self._one(*going[:2])

    def _close(self) -> None:
        """Close the ordinary rows, all at once where all banks share a command."""
        if all(row == -1 for row in self.open):
            return
        for bank in range(0, len(self.open), len(self.open) if self.closes_all else self.rank_banks):
            self.bus.issue("PREA", bank)
        self.open = [-1] * len(self.open)

    def _refresh(self) -> None:
        """Wait until the rank in turn is due, close its rows and refresh it; ordinary accesses go on until then, those of others after."""
        first = self.rank * self.rank_banks
        mine = range(first, first + self.rank_banks)
        while True:
            left = next((bank for bank in mine if self.open[bank] != -1), None)
            step, bank = ("REFab", first) if left is None else ("PRE", left) if self.closes_all else ("PREA", first)
            going = self._next(mine)
            if going is not None and going[2] < self.bus.first(step, bank, self.due):
                self._one(*going[:2])
                continue
            self.bus.issue(step, bank, -1, self.due)
            if step == "REFab":
                break
            for each in mine if step == "PREA" else (bank,):
                self.open[each] = -1
        self.due += self.interval
        self.rank = (self.rank + 1) % self.ranks


@dataclass(frozen=True)
class Shares:
    """What ordinary reads and units of one channel lose to each other.

    Attributes
    ----------
    alone, beside
        Share of the peak bandwidth that a long stream of reads reaches by itself, and beside units at full work.
    units
        Time of the units beside the reads over that by themselves.
    row_bus, column_bus
        Shares of the command slots that the units take: headers, activates and precharges; products, results and buffer writes.
    """

    alone: float
    beside: float
    units: float
    row_bus: float
    column_bus: float

    @property
    def kept(self) -> float:
        """Bandwidth beside units over bandwidth alone."""
        return self.beside / self.alone


#: Tiles that `contention` plays: two refresh intervals and more.
_TILES = 43
_ROW_COMMANDS, _COLUMN_COMMANDS = ("HEADER", "GACT", "PIMPRE", "PREA"), ("COMP", "READRES", "GWRITE")


#: Shares of devices seen, by what they depend on.
_SEEN: dict[tuple[str, ...], Shares] = {}


def contention(device: DramDevice) -> Shares:
    """Play full tiles, reads of row after row in bank after bank, and both at once, and compare.

    Four tiles share a vector, as the context of a head of 128 does on 32 banks. Reads wait in the queue that the device's controller
    states (``queue``; 1 if it does not).

    Raises
    ------
    MappingError
        A device without four-bank activates.
    """
    one = replace(device.organisation, channels=1)
    key = tuple(repr(x) for x in (device.name, sorted(device.timings.items()), one, device.rules, device.pim, device.controller))
    if key not in _SEEN:
        _SEEN[key] = _contention(device)
    return _SEEN[key]


def _contention(device: DramDevice) -> Shares:
    org, unit = device.organisation, device.pim
    columns = int(org.row_bytes // (unit.width_bytes if unit is not None else org.column_bytes))
    tiles = [Tile(columns, 1, row, row % 4 == 0) for row in range(_TILES)]
    queue = device.controller.get("queue", 1)
    apart = simulate(device, tiles)
    peak = 1.0 / device.timings["tBL"]
    count = int(apart.units_cycle * peak)
    reads = [Access(at // org.columns % org.banks_per_channel, _TILES + at // (org.columns * org.banks_per_channel)) for at in range(count)]
    alone = count / peak / simulate(device, [], reads, queue=queue).access_cycle
    both = simulate(device, tiles, reads, queue=queue)
    names = np.array(both.stream.names)[both.stream.command]
    during = both.stream.cycle < both.units_cycle
    done = int(np.count_nonzero((names == "RD") & during))
    rows, columns_used = (int(np.isin(names, kind).sum()) / both.units_cycle for kind in (_ROW_COMMANDS, _COLUMN_COMMANDS))
    return Shares(alone, done / peak / both.units_cycle, both.units_cycle / apart.units_cycle, rows, columns_used)
