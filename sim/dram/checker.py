"""Does a stream of commands obey every timing? Written apart from the engine: from the rows of the device, not its tables.

For each constraint row, the commands that it names are laid out by node in the order of their issue, and every later one is
held against the last earlier one (or the n-th last, for a window). Row states, modes, buses and refreshes are checked as
well. Nothing is simulated; NumPy looks at all commands at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ...arch.dram import LEVELS, Command, DramDevice
from ...errors import MappingError
from .engine import RefreshKind, Stream

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
#: Intervals by which a refresh may be late: JEDEC lets eight be postponed, and one may be in progress.
_LATE: Final = 9


@dataclass(frozen=True)
class Violation:
    """One broken rule: position and cycle of the command that breaks it, and what it breaks, in words."""

    position: int
    cycle: int
    text: str


@dataclass(frozen=True)
class Verdict:
    """Commands seen, pairs of commands compared, violations in all, and the first of them."""

    commands: int
    comparisons: int
    violations: int
    first: tuple[Violation, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is broken."""
        return self.violations == 0


def _targets(device: DramDevice, command: Command) -> Ints:
    """Banks that a command addresses, by the bank that it is sent to: int64 of ``(banks, addressed)``."""
    org = device.organisation
    shape = (org.pseudo_channels, org.ranks, org.bank_groups, org.banks)
    grid = np.arange(org.banks_per_channel).reshape(shape)
    out = []
    for bank in range(org.banks_per_channel):
        pseudo, rank, group, inner = (int(part) for part in np.unravel_index(bank, shape))
        out.append({
            "channel": grid, "pseudochannel": grid[pseudo], "rank": grid[pseudo, rank], "bankgroup": grid[pseudo, rank, group],
            "bank": grid[pseudo, rank, group, inner], "same-bank": grid[:, :, :, inner],
            "bank-all-pseudochannels": grid[:, rank, group, inner],
        }[command.scope].reshape(-1))
    return np.array(out)


class _Checker:
    def __init__(self, stream: Stream, most: int) -> None:
        self.stream, self.device, self.most = stream, stream.device, most
        self.number = {name: index for index, name in enumerate(stream.names)}
        self.targets = [_targets(self.device, command) for command in self.device.commands]
        self.comparisons, self.count = 0, 0
        self.first: list[Violation] = []

    def report(self, positions: Ints, text: str) -> None:
        self.count += len(positions)
        for position in positions[:max(0, self.most - len(self.first))].tolist():
            name = self.stream.names[int(self.stream.command[position])]
            self.first.append(Violation(position, int(self.stream.cycle[position]),
                                        f"{name} to bank {int(self.stream.bank[position])}: {text}"))

    def rules(self) -> None:
        total = self.device.organisation.banks_per_channel
        nodes = dict(zip(LEVELS, self.device.organisation.nodes, strict=True))
        for rule in self.device.rules:
            cycles = self.device.expand(rule.cycles)
            if cycles <= 0:
                continue
            after = np.isin(np.arange(len(self.number)), [self.number[name] for name in rule.after])
            before = np.isin(np.arange(len(self.number)), [self.number[name] for name in rule.before])
            position, node = self._laid_out(after | before, total // nodes[rule.level])
            if not len(position):
                continue
            order = np.argsort(node.astype(np.uint16), kind="stable")
            position, node = position[order], node[order]
            command = self.stream.command[position]
            first, second = after[command], before[command]
            # Number of commands `after` up to here; those before a position end at the one that counts.
            counted: Ints = np.cumsum(first, dtype=np.int64) - first
            places = np.flatnonzero(first)
            held = np.flatnonzero(second)
            rank = counted[held] - rule.window
            held = held[rank >= 0]
            partner = places[rank[rank >= 0]]
            same = node[held] == node[partner]
            held, partner = held[same], partner[same]
            self.comparisons += len(held)
            short = self.stream.cycle[position[held]] - self.stream.cycle[position[partner]] < cycles
            if short.any():
                window = f" ({rule.window} commands)" if rule.window > 1 else ""
                self.report(np.unique(position[held[short]]),
                            f"within {rule.cycles} = {cycles} cycles of {'/'.join(rule.after)}{window} on one {rule.level}")

    def _laid_out(self, wanted: Bools, banks: int) -> tuple[Ints, Ints]:
        """Positions of the wanted commands, once for each node that they address, in order, and the nodes."""
        positions, nodes = [], []
        for number in np.flatnonzero(wanted):
            at = np.flatnonzero(self.stream.command == number)
            touched = [np.unique(row // banks) for row in self.targets[number]]
            table = np.array(touched)
            positions.append(np.repeat(at, table.shape[1]))
            nodes.append(table[self.stream.bank[at]].reshape(-1))
        position, node = np.concatenate(positions), np.concatenate(nodes)
        order = np.argsort(position, kind="stable")
        return position[order], node[order]

    def rows(self) -> None:
        """The row of each bank: open where needed and the right one, closed where needed."""
        commands = self.device.commands
        needs = np.array([command.needs for command in commands])
        effect = np.array([command.effect for command in commands])
        matters = (needs != "any") | (effect != "none")
        for bank in range(self.device.organisation.banks_per_channel):
            reaches = np.array([(table == bank).any(axis=1) for table in self.targets])
            at = np.flatnonzero(reaches[self.stream.command, self.stream.bank] & matters[self.stream.command])
            command = self.stream.command[at]
            changes = effect[command] != "none"
            last = np.maximum.accumulate(np.where(changes, np.arange(len(at)), -1))
            last = np.concatenate([[-1], last[:-1]])[:len(at)]
            known = np.maximum(last, 0)
            is_open = (last >= 0) & (effect[command[known]] == "open")
            row = np.where(is_open, self.stream.row[at[known]], -1)
            wrong = (needs[command] == "open") & (~is_open | (row != self.stream.row[at]))
            self.report(at[wrong], f"needs its row open in bank {bank}")
            wrong = (needs[command] == "closed") & is_open
            self.report(at[wrong], f"needs bank {bank} closed")
            self.comparisons += len(at)

    def buses(self) -> None:
        row_bus = np.array([self.device.buses == 1 or command.bus == "row" for command in self.device.commands])
        for mine in (row_bus[self.stream.command], ~row_bus[self.stream.command]):
            at = np.flatnonzero(mine)
            self.report(at[1:][np.diff(self.stream.cycle[at]) < 1], "in one cycle with another command of its bus")
        self.report(np.flatnonzero(np.diff(self.stream.cycle) < 0) + 1, "earlier than the command before it")

    def modes(self) -> None:
        modes = sorted({command.mode for command in self.device.commands if command.mode})
        if not self.device.mode_switch or not modes:
            return
        switches = self.stream.command == self.number[self.device.mode_switch]
        current = np.cumsum(switches) % len(modes)
        wanted = np.array([modes.index(command.mode) if command.mode else -1 for command in self.device.commands])
        wanted = wanted[self.stream.command]
        self.report(np.flatnonzero((wanted >= 0) & (wanted != current)), "in the wrong mode")

    def refreshes(self, how: RefreshKind) -> None:
        told = {"all-bank": self.device.refresh, "per-bank": self.device.refresh_bank}.get(how)
        if told is None or not len(self.stream):
            return
        number = self.number[told.command]
        at = np.flatnonzero(self.stream.command == number)
        groups = len({tuple(row) for row in self.targets[number].tolist()})
        interval = self.device.timings[told.interval] * (groups if how == "per-bank" else 1)
        end = int(self.stream.cycle[-1])
        node = self.targets[number][:, 0][self.stream.bank[at]]
        for target in np.unique(self.targets[number][:, 0]):
            mine = at[node == target]
            limits = (np.arange(len(mine)) + 1 + _LATE) * interval
            self.report(mine[self.stream.cycle[mine] > limits], f"a refresh later than {_LATE} intervals")
            if end > (len(mine) + 1 + _LATE) * interval:
                self.report(np.array([len(self.stream) - 1]), f"bank {int(target)} is owed more than {_LATE} refreshes")


def check(stream: Stream, *, refresh: RefreshKind = "off", most: int = 20) -> Verdict:
    """Check a stream against every rule of its device.

    Parameters
    ----------
    stream
        Commands of one channel in the order of their issue.
    refresh
        How the channel should have been refreshed; ``"off"`` expects none.
    most
        Violations described at most; all are counted.

    Raises
    ------
    MappingError
        Arrays of unequal length, or commands and banks that the device does not have.
    """
    lengths = {len(getattr(stream, name)) for name in ("cycle", "command", "bank", "row")}
    if len(lengths) != 1:
        raise MappingError(f"{stream.device.name}: a stream's arrays differ in length: {sorted(lengths)}")
    limits = {"command": len(stream.device.commands), "bank": stream.device.organisation.banks_per_channel}
    for name, limit in limits.items():
        found = getattr(stream, name)
        if len(found) and not (found.min() >= 0 and found.max() < limit):
            raise MappingError(f"{stream.device.name}: stream.{name}: outside of 0 to {limit - 1}")
    checker = _Checker(stream, most)
    checker.rules()
    checker.rows()
    checker.buses()
    checker.modes()
    checker.refreshes(refresh)
    return Verdict(len(stream), checker.comparisons, checker.count, tuple(checker.first))


def words(verdict: Verdict) -> Iterator[str]:
    """Lines that tell a verdict."""
    yield f"{verdict.commands} commands, {verdict.comparisons} comparisons, {verdict.violations} violations"
    for violation in verdict.first:
        yield f"cycle {violation.cycle}, command {violation.position}: {violation.text}"
