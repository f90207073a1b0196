"""DRAM devices as typed values: organisation, commands, constraint rows, refresh, processing units; contradictions refused.

`presilicon.arch.dram` reads them from files, and says what a constraint row is.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ..errors import SpecError, UnknownNameError, shown

#: Levels of a channel, outermost first; a row of a constraint names one.
LEVELS: Final = ("channel", "pseudochannel", "rank", "bankgroup", "bank")
#: Sets of banks that a command may address: one node of a level, the same bank of every bank group of the channel
#: (``same-bank``), or one bank in every pseudo-channel (``bank-all-pseudochannels``).
SCOPES: Final = (*LEVELS, "same-bank", "bank-all-pseudochannels")
PLACEMENTS: Final = ("bank", "bank-pair", "bankgroup", "pseudochannel")
BUSES: Final = ("row", "column")
NEEDS: Final = ("any", "open", "closed")
EFFECTS: Final = ("none", "open", "close")


@dataclass(frozen=True)
class Organisation:
    """How many of what: channels of the device, and what each channel holds.

    Attributes
    ----------
    channels, pseudo_channels, ranks, bank_groups, banks
        Each is the count inside one node of the level above; `channels` have command buses of their own.
    rows, columns, column_bytes
        Rows of a bank, columns (bursts) of a row, bytes of a column.
    """

    channels: int
    pseudo_channels: int
    ranks: int
    bank_groups: int
    banks: int
    rows: int
    columns: int
    column_bytes: int

    @property
    def nodes(self) -> tuple[int, ...]:
        """Nodes of one channel at each of `LEVELS`."""
        pseudo, ranks = self.pseudo_channels, self.pseudo_channels * self.ranks
        groups = ranks * self.bank_groups
        return 1, pseudo, ranks, groups, groups * self.banks

    @property
    def banks_per_channel(self) -> int:
        """Banks of one channel."""
        return self.nodes[-1]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of one bank."""
        return self.columns * self.column_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of the device."""
        return self.channels * self.banks_per_channel * self.rows * self.row_bytes


@dataclass(frozen=True)
class Command:
    """One command of the bus.

    Attributes
    ----------
    name
        As in the constraint rows.
    scope
        The banks that it addresses, one of `SCOPES`.
    bus
        ``row`` or ``column``; they are one bus unless the device says ``buses: 2``.
    needs
        ``open``: the row in every addressed bank; ``closed``: no row in any; ``any``.
    effect
        ``open`` or ``close`` the rows of the addressed banks, or ``none``.
    opener, closer
        Commands that a controller sends first where the row is missing, or another one is open.
    latency
        Name of the timing, or sum of names, until its result has arrived; "0" where nobody waits.
    mode
        Mode that the device must be in, changed by the device's ``mode_switch`` command; "" where it does not matter.
    """

    name: str
    scope: str
    bus: str = "column"
    needs: str = "any"
    effect: str = "none"
    opener: str = ""
    closer: str = ""
    latency: str = "0"
    mode: str = ""


@dataclass(frozen=True)
class Rule:
    """A constraint row; `cycles` is a sum of timing names, as text."""

    level: str
    after: tuple[str, ...]
    before: tuple[str, ...]
    cycles: str
    window: int = 1


@dataclass(frozen=True)
class Refresh:
    """How a channel is refreshed: each `interval` (a timing) every node of the refresh command's scope, rows closed before.

    Attributes
    ----------
    command, closer
        Refresh command, and the precharge that it needs first.
    interval, duration
        Names of timings.
    """

    command: str
    closer: str
    interval: str
    duration: str


@dataclass(frozen=True)
class Pim:
    """Processing units inside the memory.

    Attributes
    ----------
    placement
        What one unit belongs to, one of `PLACEMENTS`.
    lanes, width_bytes
        Multiply-accumulates per command and unit, and bytes that it takes from the row buffer for them.
    clock_hz
        Clock of the units.
    buffer_bytes, buffer_scope
        Operand buffer, and what has one each: ``channel`` (a global buffer) or ``unit``.
    registers
        Result registers of a unit.
    """

    placement: str
    lanes: int
    width_bytes: int
    clock_hz: float
    buffer_bytes: int
    buffer_scope: str
    registers: int


@dataclass(frozen=True)
class Roles:
    """Commands of a GEMV on units whose command set no kernel of its own knows.

    Attributes
    ----------
    mac
        Takes a column of the open row in every unit that it addresses.
    write
        Puts a column of inputs into the buffer of every unit that it addresses.
    read
        Reads the results of the units that it addresses.
    clear
        Sets their accumulators before the first product; "" where the units do so themselves.
    """

    mac: str
    write: str
    read: str
    clear: str = ""


class _Numbers(dict[str, int]):
    """Numbers of a section of a file by name; one that is asked for and missing is an error that names its place."""

    def __init__(self, given: Mapping[str, int], place: str) -> None:
        super().__init__(given)
        self.place = place

    def __missing__(self, key: str) -> int:
        raise SpecError(f"{self.place}.{key}: missing; the kernels of this device need it")

    def __reduce__(self) -> tuple[type[_Numbers], tuple[dict[str, int], str]]:
        return _Numbers, (dict(self), self.place)


@dataclass(frozen=True)
class DramDevice:
    """A DRAM standard or device, checked; see the module.

    Attributes
    ----------
    timings
        Cycles by name. `expand` evaluates a sum of names.
    refresh, refresh_bank
        All-bank refresh, and refresh of one bank after the other.
    power_limit
        Timings, and their values without the power limit, that `without_power_limit` puts in place.
    controller
        Settings of the documented controller (queue depths).
    gemv
        Roles of the commands in `presilicon.mapping.pim_rows`; None where a kernel knows them by name.
    energy
        Joules per bit, or per operation, by name.
    sources, seconds
        Source of every number by its path in the file, and a second one where there is one.
    statuses
        What a second source says of a number: ``"agreed"``, it has the same; ``"differs"``; ``"single"``, none has been found;
        ``"assumed"``, a rule of presilicon gives it.
    """

    name: str
    title: str
    standard: str
    clock_hz: float
    organisation: Organisation
    timings: Mapping[str, int]
    commands: tuple[Command, ...]
    rules: tuple[Rule, ...]
    buses: int = 1
    mode_switch: str = ""
    refresh: Refresh | None = None
    refresh_bank: Refresh | None = None
    pim: Pim | None = None
    power_limit: Mapping[str, int] = field(default_factory=dict)
    controller: Mapping[str, int] = field(default_factory=dict)
    energy: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, str] = field(default_factory=dict)
    statuses: Mapping[str, str] = field(default_factory=dict)
    gemv: Roles | None = None

    def __post_init__(self) -> None:
        for section in ("timings", "controller"):
            object.__setattr__(self, section, _Numbers(getattr(self, section), f"{self.name}: {section}"))
        _check(self)

    @property
    def cycle_s(self) -> float:
        """Seconds of one cycle of the command clock."""
        return 1.0 / self.clock_hz

    @property
    def units_per_channel(self) -> int:
        """Processing units of one channel; zero without."""
        if self.pim is None:
            return 0
        nodes = dict(zip(LEVELS, self.organisation.nodes, strict=True))
        return nodes["bank"] // 2 if self.pim.placement == "bank-pair" else nodes[self.pim.placement]

    def addressed(self, name: str, bank: int) -> tuple[int, ...]:
        """Banks of a channel that a command addresses when it is sent to a bank."""
        align, modulo, count, stride = scope_banks(self.organisation, self.command(name).scope)
        base = (bank - bank % align) % modulo
        return tuple(base + index * stride for index in range(count))

    def command(self, name: str) -> Command:
        """The command of that name, or UnknownNameError."""
        for found in self.commands:
            if found.name == name:
                return found
        raise UnknownNameError("DRAM command", name, [c.name for c in self.commands], self.name)

    def expand(self, text: str) -> int:
        """Cycles of a sum of timing names and numbers, ``"tCWL + tBL + tWR"``; ``max(a, b)`` may occur."""
        return expand(text, self.timings, f"{self.name}")

    def with_timings(self, changes: Mapping[str, int]) -> DramDevice:
        """The device with other timings; names must exist."""
        for name in changes:
            if name not in self.timings:
                raise UnknownNameError("timing", name, self.timings, self.name)
        return replace(self, timings={**self.timings, **changes})

    def without_power_limit(self) -> DramDevice:
        """The device with the timings that its power limit stretches at their unlimited values."""
        return self.with_timings(self.power_limit)


def scope_banks(organisation: Organisation, scope: str) -> tuple[int, int, int, int]:
    """align, modulo, count and stride of a scope: sent to bank b it addresses ``(b - b % align) % modulo`` and count - 1 more."""
    total = organisation.banks_per_channel
    if scope == "same-bank":
        inner = organisation.banks
        return 1, inner, total // inner, inner
    if scope == "bank-all-pseudochannels":
        pseudo = organisation.pseudo_channels
        return 1, total // pseudo, pseudo, total // pseudo
    inside = total // organisation.nodes[LEVELS.index(scope)]
    return inside, total, inside, 1


def expand(text: str, timings: Mapping[str, int], where: str) -> int:
    """Cycles of a sum of timing names and numbers; `where` names its place in errors."""

    def value(node: ast.AST) -> int:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                return number
            case ast.Name(id=name):
                if name not in timings:
                    raise UnknownNameError("timing", name, timings, f"{where}: {text!r}")
                return timings[name]
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return value(left) - value(right)
            case ast.Call(func=ast.Name(id="max"), args=[_, *_] as args, keywords=[]):
                return max(value(arg) for arg in args)
        raise SpecError(f"{where}: {shown(text)}: expected a sum of timing names such as 'tCWL + tBL + tWR'")

    try:
        tree = ast.parse(str(text), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise SpecError(f"{where}: {shown(text)}: expected a sum of timing names such as 'tCWL + tBL + tWR'") from None
    return value(tree)


def _check(device: DramDevice) -> None:
    """Refuse timings that contradict each other, and names that do not exist."""
    timings, where = device.timings, device.name

    def at_least(larger: str, *parts: str) -> None:
        if larger in timings and all(part in timings for part in parts):
            total = sum(timings[part] for part in parts)
            if timings[larger] < total:
                raise SpecError(f"{where}: timings.{larger}: {timings[larger]} cycles contradict "
                                f"{' + '.join(parts)} = {total}; {larger} must not be smaller")

    at_least("tRC", "tRAS", "tRP")
    for row in ("tRCD", "tRCDRD", "tRCDWR"):
        at_least("tRAS", row)
    for stem in ("tCCD", "tRRD", "tWTR", "tRTP"):
        at_least(f"{stem}_L", f"{stem}_S")
    at_least("tFAW", "tRRD_S")
    at_least("tRFC", "tRFCpb")
    for interval, duration in (("tREFI", "tRFC"), ("tREFIpb", "tRFCpb")):
        if interval in timings and timings[interval] <= timings.get(duration, 0):
            raise SpecError(f"{where}: timings.{interval}: {timings[interval]} cycles leave no time beside {duration} = "
                            f"{timings.get(duration, 0)}")
    known = {command.name: command for command in device.commands}
    for command in device.commands:
        for role in ("opener", "closer"):
            other = getattr(command, role)
            if other and other not in known:
                raise UnknownNameError("DRAM command", other, known, f"{where}: commands.{command.name}.{role}")
            effect = {"opener": "open", "closer": "close"}[role]
            if other and known[other].effect != effect:
                raise SpecError(f"{where}: commands.{command.name}.{role}: {other} has effect {known[other].effect!r}; expected a command "
                                f"of effect {effect!r}")
        if command.needs == "open" and not (command.opener and command.closer):
            raise SpecError(f"{where}: commands.{command.name}: needs an open row, and so an opener and a closer")
        if (late := expand(command.latency, timings, f"{where}: commands.{command.name}.latency")) < 0:
            raise SpecError(f"{where}: commands.{command.name}.latency: {command.latency!r} is {late} cycles; expected 0 or more")
    modes = Counter(command.mode for command in device.commands if command.mode)
    if len(modes) > 2:
        rare = min(modes, key=lambda mode: modes[mode])
        odd = next(command for command in device.commands if command.mode == rare)
        raise SpecError(f"{where}: commands.{odd.name}.mode: {odd.mode!r} beside {', '.join(repr(m) for m in modes if m != rare)}; a "
                        f"device switches between two")
    for rule in device.rules:
        expand(rule.cycles, timings, f"{where}: constraints")
    for part, refresh in (("refresh", device.refresh), ("refresh_bank", device.refresh_bank)):
        if refresh is None:
            continue
        for key in ("command", "closer"):
            if (name := getattr(refresh, key)) not in known:
                raise UnknownNameError("DRAM command", name, known, f"{where}: {part}.{key}")
        for key in ("interval", "duration"):
            if (name := getattr(refresh, key)) not in timings:
                raise UnknownNameError("timing", name, timings, f"{where}: {part}.{key}")
    if device.gemv is not None:
        for role in ("mac", "write", "read", "clear"):
            name = getattr(device.gemv, role)
            if name and name not in known:
                raise UnknownNameError("DRAM command", name, known, f"{where}: gemv.{role}")
        if known[device.gemv.mac].needs != "open" or device.pim is None:
            raise SpecError(f"{where}: gemv.mac: {device.gemv.mac} needs an open row, and the device processing units (pim)")
    if device.buses not in (1, 2):
        raise SpecError(f"{where}: buses: expected 1, or 2 for a row bus and a column bus, found {device.buses}")
