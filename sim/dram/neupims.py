"""NeuPIMs and Newton command by command: products of the units, with ordinary reads and writes beside them or between them.

Two streams reach one channel. The units' stream is tiles: a vector into the global buffer (GWRITE) where it changes, activates of four
banks at once in every rank (GACT), one COMP a column, READRES for each result, and the precharge. With dual row buffers (the device has
PIMPRE) ordinary accesses keep rows of their own and slip in between under the same constraints; with one row buffer they wait for the end
of a tile, and the units wait for them. NeuPIMs' HEADER tells the controller how long a tile will take: a refresh that would fall into it
goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...arch.dram import DramDevice
from ...errors import MappingError
from ...mapping.pim_attention import tile_cycles
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
    steps.append(("PIMPRE" if _dual(device) else "PREA", 0, -1))
    return steps


def _dual(device: DramDevice) -> bool:
    return any(command.name == "PIMPRE" for command in device.commands)


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


def simulate(device: DramDevice, tiles: Iterable[Tile], accesses: Iterable[Access] = (), *, refresh: bool = True) -> ChannelRun:
    """Play tiles and ordinary accesses on one channel.

    Parameters
    ----------
    device
        ``neupims-hbm2``, ``newton-hbm2``, or a device with their commands.
    tiles, accesses
        Each in order; with dual row buffers both go on at once, with one the accesses go between tiles, one tile and then those at hand.
    refresh
        All-bank refresh of each rank; one that would fall due within a tile goes before it.

    Raises
    ------
    MappingError
        A device without the commands, columns, rows or banks that it lacks.
    """
    work, ordinary = list(tiles), list(accesses)
    _check(device, work, ordinary)
    run = _Run(device, refresh)
    units, access = run.play(work, ordinary)
    names = {name: index for index, name in enumerate(compile_device(device).names)}
    run.bus.out.sort(key=lambda c: c[0])
    columns = list(zip(*run.bus.out, strict=True)) or [(), (), (), ()]
    stream = Stream(device, np.array(columns[0], dtype=np.int64), np.array([names[name] for name in columns[1]], dtype=np.int64),
                    np.array(columns[2], dtype=np.int64), np.array(columns[3], dtype=np.int64))
    return ChannelRun(stream, units, access)


class _Run:
    def __init__(self, device: DramDevice, refresh: bool) -> None:
        self.device, self.bus, self.dual = device, _Bus(device), _dual(device)
        self.open = [-1] * device.organisation.banks_per_channel
        self.interval = device.timings["tREFI"] if refresh and device.refresh is not None else 0
        self.due = self.interval

    def play(self, tiles: list[Tile], accesses: list[Access]) -> tuple[int, int]:
        units = access = at = 0
        pending = iter(accesses)
        waiting = next(pending, None)
        for tile in tiles:
            columns = sum(1 for name, _, _ in _steps(self.device, tile) if name == "COMP")
            length = tile_cycles(self.device, columns, tile.results) + (self.device.timings["tGWRITE"] if tile.vector else 0)
            if self.interval and max(self.bus.free) + length > self.due:
                self._refresh()
            if not self.dual:
                waiting, access = self._some(waiting, pending, access, len(accesses) // max(1, len(tiles)) + 1)
                self._close(self.bus)
            for name, bank, row in _steps(self.device, tile):
                # Ordinary commands that may go earlier than the units' next one slip in before it.
                while self.dual and waiting is not None:
                    step = self._next(waiting)
                    if self.bus.first(*step[:2]) >= self.bus.first(name, bank):
                        break
                    waiting, access = self._one(waiting, pending, step, access)
                at = self.bus.issue(name, bank, row)
            units = at + 1
        while waiting is not None:
            if self.interval and max(self.bus.free) > self.due:
                self._refresh()
            waiting, access = self._one(waiting, pending, self._next(waiting), access)
        return units, access

    def _next(self, access: Access) -> tuple[str, int, int]:
        held = self.open[access.bank]
        if held == access.row:
            return ("WR" if access.write else "RD"), access.bank, access.row
        return ("ACT", access.bank, access.row) if held == -1 else ("PRE", access.bank, -1)

    def _one(self, access: Access, pending: Iterable[Access], step: tuple[str, int, int], last: int) -> tuple[Access | None, int]:
        """Issue the next command of an access; the access that then waits, and the cycle after the last done."""
        name, bank, row = step
        cycle = self.bus.issue(name, bank, row)
        if name == "ACT":
            self.open[bank] = row
        elif name == "PRE":
            self.open[bank] = -1
        else:
            return next(iter(pending), None), cycle + 1
        return access, last

    def _some(self, waiting: Access | None, pending: Iterable[Access], last: int, most: int) -> tuple[Access | None, int]:
        """Up to `most` accesses, between two tiles of a device with one row buffer."""
        done = 0
        while waiting is not None and done < most:
            before = waiting
            waiting, last = self._one(waiting, pending, self._next(waiting), last)
            done += waiting is not before
        return waiting, last

    def _close(self, bus: _Bus) -> None:
        """Close the ordinary rows, all at once where all banks share a command."""
        if all(row == -1 for row in self.open):
            return
        org = self.device.organisation
        scope = self.device.command("PREA").scope
        for bank in range(0, org.banks_per_channel, org.banks_per_channel if scope == "channel" else org.bank_groups * org.banks):
            bus.issue("PREA", bank)
        self.open = [-1] * org.banks_per_channel

    def _refresh(self) -> None:
        self._close(self.bus)
        org = self.device.organisation
        for rank in range(org.pseudo_channels * org.ranks):
            self.bus.issue("REFab", rank * org.bank_groups * org.banks)
        self.due += self.interval  # this one is done, even if early
        while self.due <= max(self.bus.free):
            self.due += self.interval
