"""y = W x on any device whose file says which commands write inputs, multiply, and read results (`presilicon.arch.dram.Roles`).

A unit owns the banks of its node (`Pim.placement`). One pass gives one output of every unit: a row of W, cut into blocks of what the
operand buffer holds, lies in one row of one of the unit's banks, and banks are filled one after the other. ``order="outputs"`` finishes an
output with all its blocks before the next, ``order="inputs"`` keeps a block in the buffer and reads a part of every output, which the host
adds up. Commands go out strictly in order (`presilicon.sim.dram.rows` plays them), and so the closed form needs the first and last command
of each run alone, and of equal passes only a few.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ..arch.dram import LEVELS, DramDevice
from ..arch.dram_spec import Roles
from ..errors import MappingError, UnknownNameError
from .pim import ORDERS, GemvShape, Order, PimEstimate, gap, positive, refreshed, weights_in_column

#: Command, bank that it is sent to, how often, row or -1.
Step = tuple[str, int, int, int]
#: Equal passes that are played before the rest is taken to last as long.
_SEEN: Final = 3


@dataclass(frozen=True)
class RowLayout:
    """How W lies in a device, and which commands a pass takes.

    Attributes
    ----------
    shape
        Passes, blocks and columns; `shape.columns` are commands of the multiplication.
    banks
        Banks of a unit.
    macs
        Banks that the multiplication is sent to, by the bank of every unit that it takes.
    writes, reads, clears
        Banks that the other commands are sent to, so that they reach every unit once.
    """

    device: DramDevice
    roles: Roles
    shape: GemvShape
    banks: int
    macs: tuple[tuple[int, ...], ...]
    writes: tuple[int, ...]
    reads: tuple[int, ...]
    clears: tuple[int, ...]

    def visit(self, group: int, block: int, load: bool, first: bool, last: bool) -> list[Step]:
        """Commands of one pass over a block: inputs, products, results."""
        roles, rows, steps = self.roles, self.device.organisation.rows, list[Step]()
        width = self.shape.widths()[block]
        if load:
            steps += [(roles.write, bank, math.ceil(width * self.shape.spread), -1) for bank in self.writes]
        if first and roles.clear:
            steps += [(roles.clear, bank, 1, -1) for bank in self.clears]
        place = group * self.shape.blocks + block
        steps += [(roles.mac, bank, width, place % rows) for bank in self.macs[place // rows]]
        if last:
            steps += [(roles.read, bank, 1, -1) for bank in self.reads]
        return steps


def row_layout(device: DramDevice, outputs: int, inputs: int, *, bits: float | None = None, channels: int | None = None) -> RowLayout:
    """Lay W of ``(outputs, inputs)`` out over `channels` (None: the device's).

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device, commands that cannot reach every unit once.
    """
    positive(device, outputs=outputs, inputs=inputs)
    roles, pim, org = device.gemv, device.pim, device.organisation
    if roles is None or pim is None:
        raise MappingError(f"{device.name}: says not which commands a GEMV takes (gemv: mac, write, read)")
    units = device.units_per_channel
    banks = org.banks_per_channel // units
    macs = tuple(_reaching(device, roles.mac, banks, bank) for bank in range(banks))
    in_buffer = org.column_bytes // 2
    per_column = in_buffer if bits is None else weights_in_column(device, bits)
    spread = per_column / in_buffer
    steps = org.column_bytes // pim.width_bytes
    block = max(1, min(org.columns, int(pim.buffer_bytes // org.column_bytes / spread)))
    groups = math.ceil(outputs / ((channels or org.channels) * units))
    columns = math.ceil(inputs / per_column)
    blocks = math.ceil(columns / block)
    if groups * blocks > org.rows * banks:
        raise MappingError(f"{device.name}: a matrix of {outputs} x {inputs} takes {groups * blocks} rows of every unit; there are "
                           f"{org.rows * banks}")
    shape = GemvShape(groups, blocks, block * steps, (columns - (blocks - 1) * block) * steps, spread / steps)
    return RowLayout(device, roles, shape, banks, macs, *(
        _reaching(device, name, banks) if name else () for name in (roles.write, roles.read, roles.clear)))


def _reaching(device: DramDevice, name: str, banks: int, only: int | None = None) -> tuple[int, ...]:
    """Banks that a command is sent to, to reach every unit (with `only`: that bank of every unit) once; raises MappingError."""
    found: list[int] = []
    left = set(range(device.units_per_channel))
    for bank in range(device.organisation.banks_per_channel):
        there = [other // banks for other in device.addressed(name, bank)]
        if bank // banks not in left or (only is not None and bank % banks != only):
            continue
        if only is not None and len(set(there)) < len(there):
            raise MappingError(f"{device.name}: gemv.mac: {name} addresses several banks of one unit, which has {banks}; scope "
                               f"{device.command(name).scope!r} does not suit units at {device.pim.placement if device.pim else ''}")
        left -= set(there)
        found.append(bank)
    return tuple(found)


def visits(shape: GemvShape, order: Order, batch: int = 1) -> Iterator[tuple[int, int, bool, bool, bool]]:
    """Group, block, whether the buffer is written, whether accumulators begin, whether results are read, of each pass."""
    for _ in range(batch):
        for times, body in _rounds(shape, order):
            for turn in range(times):
                for group, block, load, first, last in body:
                    yield group + turn, block, load, first, last


def _rounds(shape: GemvShape, order: Order) -> list[tuple[int, list[tuple[int, int, bool, bool, bool]]]]:
    """Rounds of equal passes of one vector: how often, and the passes, whose group counts up from round to round."""
    blocks, groups = range(shape.blocks), shape.groups
    if order == "outputs" and shape.blocks > 1:
        return [(groups, [(0, block, True, block == 0, block == shape.blocks - 1) for block in blocks])]
    found = []
    for block in blocks:
        found.append((1, [(0, block, True, True, True)]))
        if groups > 1:
            found.append((groups - 1, [(1, block, False, True, True)]))
    return found


@dataclass
class _Clock:
    """Commands of one channel in order: when each goes, from the device's rows; runs of one command at once."""

    device: DramDevice
    last: dict[tuple[str, int], int] = field(default_factory=dict)
    bus: dict[str, int] = field(default_factory=lambda: {"row": -1, "column": -1})
    open: dict[int, int] = field(default_factory=dict)
    gaps: dict[tuple[str, int, str, int], int] = field(default_factory=dict)
    recent: deque[tuple[str, int, int]] = field(default_factory=lambda: deque(maxlen=64))
    mode: str = ""

    def __post_init__(self) -> None:
        self.mode = min((c.mode for c in self.device.commands if c.mode), default="")
        self.windows = [rule for rule in self.device.rules if rule.window > 1]

    def _meet(self, level: str, one: tuple[str, int], other: tuple[str, int]) -> bool:
        org = self.device.organisation
        size = org.banks_per_channel // org.nodes[LEVELS.index(level)]
        nodes = [{bank // size for bank in self.device.addressed(*command)} for command in (one, other)]
        return not nodes[0].isdisjoint(nodes[1])

    def gap(self, one: tuple[str, int], other: tuple[str, int]) -> int:
        """Cycles that rows ask between two commands."""
        key = (*one, *other)
        if key not in self.gaps:
            self.gaps[key] = max([self.device.expand(rule.cycles) for rule in self.device.rules if rule.window == 1
                                  and one[0] in rule.after and other[0] in rule.before and self._meet(rule.level, one, other)] + [0])
        return self.gaps[key]

    def earliest(self, name: str, bank: int) -> int:
        """First cycle of a command."""
        found = self.bus[self._bus(name)] + 1
        for known, cycle in self.last.items():
            found = max(found, cycle + self.gap(known, (name, bank)))
        for rule in self.windows:
            if name in rule.before:
                seen = [cycle for other, at, cycle in self.recent
                        if other in rule.after and self._meet(rule.level, (other, at), (name, bank))]
                if len(seen) >= rule.window:
                    found = max(found, seen[-rule.window] + self.device.expand(rule.cycles))
        return found

    def _bus(self, name: str) -> str:
        return self.device.command(name).bus if self.device.buses == 2 else "column"

    def issue(self, name: str, bank: int, count: int = 1, cycle: int | None = None) -> None:
        """So many of a command in a row, from its first legal cycle, or a given one, on."""
        begin = self.earliest(name, bank) if cycle is None else cycle
        self.last.pop((name, bank), None)
        end = begin + (count - 1) * max(1, self.gap((name, bank), (name, bank)))
        self.last[name, bank] = self.bus[self._bus(name)] = end
        if count == 1 and any(name in rule.after for rule in self.windows):
            self.recent.append((name, bank, end))

    def step(self, name: str, bank: int, count: int, row: int) -> None:
        """A run, with the row that it needs."""
        command, needed = self.device.command(name), list[tuple[str, int]]()
        if command.needs == "open":
            banks = self.device.addressed(name, bank)
            if any(self.open.get(other, row) != row for other in banks):
                needed += self._parts(command.closer, banks)
            if any(self.open.get(other) != row for other in banks):
                needed += self._parts(command.opener, banks)
            self.open.update(dict.fromkeys(banks, row))
        if command.mode and command.mode != self.mode and self.device.mode_switch:
            self.issue(self.device.mode_switch, bank, cycle=self.earliest(*(needed[0] if needed else (name, bank))))
            self.mode = command.mode
        for part in needed:
            self.issue(*part)
        self.issue(name, bank, count)

    def _parts(self, name: str, banks: tuple[int, ...]) -> list[tuple[str, int]]:
        """A command sent as often as it takes to reach banks; it closes or opens no others here."""
        found, left = [], list(banks)
        while left:
            found.append((name, left[0]))
            reached = set(self.device.addressed(name, left[0]))
            left = [bank for bank in left if bank not in reached]
        return found

    def later(self, cycles: int) -> None:
        """Move all that has been to a later time."""
        self.last = {key: cycle + cycles for key, cycle in self.last.items()}
        self.bus = {key: cycle + cycles for key, cycle in self.bus.items()}
        self.recent = deque(((name, bank, cycle + cycles) for name, bank, cycle in self.recent), maxlen=64)


def _vector(clock: _Clock, layout: RowLayout, order: Order) -> None:
    for times, body in _rounds(layout.shape, order):
        ends = []
        for turn in range(min(times, _SEEN)):
            # The last rounds, so that rows after them are another's.
            place = turn if times <= _SEEN else times - _SEEN + turn
            for group, block, *rest in body:
                for step in layout.visit(group + place, block, *rest):
                    clock.step(*step)
            ends.append(max(clock.bus.values()))
        if times > _SEEN:
            clock.later((times - _SEEN) * (ends[-1] - ends[-2]))


def row_cycles(layout: RowLayout, order: Order, batch: int = 1) -> int:
    """Cycles until the last result has arrived, without refresh."""
    clock, ends = _Clock(layout.device), list[int]()
    for _ in range(min(batch, _SEEN)):
        _vector(clock, layout, order)
        ends.append(max(clock.bus.values()))
    if batch > _SEEN:
        clock.later((batch - _SEEN) * (ends[-1] - ends[-2]))
    device = layout.device
    return clock.last[layout.roles.read, layout.reads[-1]] + device.expand(device.command(layout.roles.read).latency)


def written_beside(layout: RowLayout) -> int:
    """Cycles of a refresh beside which inputs are written, where it falls before a visit that writes some and no row holds writes back."""
    device, roles, shape = layout.device, layout.roles, layout.shape
    if device.refresh is None:
        return 0
    duration = device.timings[device.refresh.duration]
    if gap(device, device.refresh.command, roles.write) >= duration:
        return 0
    written = math.ceil(shape.columns * shape.spread) * len(layout.writes) * gap(device, roles.write, roles.write)
    mac = device.command(roles.mac)
    return min(written, duration + gap(device, mac.closer, mac.opener))


def _beside_refresh(layout: RowLayout, batch: int, cycles: int) -> int:
    """Cycles of a refresh beyond tRFC, or below it, where commands reach the units one after the other.

    It closes all rows at once: of those that were opened since the last refresh, each would have been closed alone, tRP before its next
    activate, but for the row in work. A matrix of one row has nothing to change: its rows open again.
    """
    device, each = layout.device, len(layout.macs[0])
    if each == 1 or device.refresh is None:
        return 0
    mac = device.command(layout.roles.mac)
    places = layout.shape.groups * layout.shape.blocks
    if places == 1:
        return each * gap(device, mac.opener, mac.name) if batch > 1 else 0
    opened = min(each, int(device.timings[device.refresh.interval] * places * batch * each // cycles))
    return -max(0, opened - 1) * gap(device, mac.closer, mac.opener)


def row_gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, order: Order | None = None, refresh: bool = True,
             bits: float | None = None) -> PimEstimate:
    """GEMV in closed form, one vector of a batch after the other; `order` None tries both.

    Inputs have 16 bits; `bits` are those of a stored weight, scales included, where they differ. Errors as `row_layout`, and
    UnknownNameError for another order.
    """
    if order is not None and order not in ORDERS:
        raise UnknownNameError("loop order", str(order), ORDERS, device.name)
    positive(device, batch=batch)
    layout = row_layout(device, outputs, inputs, bits=bits)
    orders: tuple[Order, ...] = ("outputs", "inputs") if order is None else (order,)
    cycles, best = min((row_cycles(layout, each, batch), each) for each in orders)
    if refresh:
        loads = 1.0 if best == "outputs" and layout.shape.blocks > 1 else 1.0 / layout.shape.groups  # visits that write inputs
        beside = _beside_refresh(layout, batch, cycles) - int(loads * written_beside(layout))
        latency = device.expand(device.command(layout.roles.read).latency)  # what falls due while data arrives is another's
        cycles = math.ceil(refreshed(device, cycles - latency, beside)) + latency
    pim, units = device.pim, device.organisation.channels * device.units_per_channel
    assert pim is not None
    time_s, wanted = cycles * device.cycle_s, outputs * inputs * batch
    read = batch * layout.shape.groups * sum(layout.shape.widths()) * pim.width_bytes * units
    org, passes = device.organisation, list(visits(layout.shape, best, batch))
    places = layout.shape.groups * layout.shape.blocks
    written = sum(math.ceil(layout.shape.widths()[block] * layout.shape.spread) for _, block, load, *_ in passes if load)
    writes = len(layout.writes) * written
    reads = sum(len(layout.clears) * first + len(layout.reads) * last for _, _, _, first, last in passes)
    return PimEstimate(cycles, time_s, wanted, read, min(1.0, wanted / (time_s * units * pim.lanes * pim.clock_hz)), best,
                       (1 if places == 1 else len(passes)) * org.row_bytes * units, writes, reads,
                       (writes + reads) * org.column_bytes * org.channels, units * pim.width_bytes * pim.clock_hz)
