"""A channel under its constraint rows: earliest legal cycles of single commands, and streams of requests played in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ...arch.dram import DramDevice
from ...errors import MappingError, UnknownNameError
from ...files import replacing
from . import kernels
from .tables import NEVER, Ints, Tables, compile_device

Engine = Literal["auto", "python", "numba"]
ENGINES: Final = ("auto", "python", "numba")
RefreshKind = Literal["all-bank", "per-bank", "off"]
REFRESHES: Final = ("all-bank", "per-bank", "off")
#: Requests from which loading the compiled kernels (a second, once a process) pays.
COMPILE_ABOVE: Final = 20_000
#: Doublings of the room for commands after which refreshes alone are being issued.
_ROUNDS: Final = 6


@dataclass(frozen=True)
class Requests:
    """What a channel is asked to do, in order.

    Attributes
    ----------
    command, bank, row
        Command number (`Tables.index`), bank in the channel, row or -1; int64 of equal length.
    wait
        Cycles that a request keeps behind the request before it, beyond every constraint.
    send, depth
        Cycles of the host between sending the request before it and this one, and how many the controller holds; depth 0, the
        default, for a host that is always ahead.
    """

    command: Ints
    bank: Ints
    row: Ints
    wait: Ints
    send: Ints | None = None
    depth: int = 0

    def __len__(self) -> int:
        return len(self.command)


@dataclass(frozen=True)
class Stream:
    """Commands of one channel in the order of their issue.

    Attributes
    ----------
    device
        Whose commands they are.
    cycle, command, bank, row
        Issue cycle, command number, bank in the channel, row or -1.
    """

    device: DramDevice
    cycle: Ints
    command: Ints
    bank: Ints
    row: Ints

    def __len__(self) -> int:
        return len(self.cycle)

    @property
    def names(self) -> tuple[str, ...]:
        """Names by command number."""
        return compile_device(self.device).names

    def counts(self) -> dict[str, int]:
        """Commands by name, those that occur."""
        found = np.bincount(self.command, minlength=len(self.names))
        return {name: int(n) for name, n in zip(self.names, found, strict=True) if n}

    def write(self, path: Path) -> None:
        """Write one line per command, ``cycle command bank row``, tab-separated; raises OutputError."""
        names = np.array(self.names)
        with replacing(path) as out:
            out.write(b"cycle\tcommand\tbank\trow\n")
            for first in range(0, len(self), 1 << 16):
                part = slice(first, first + (1 << 16))
                lines = [f"{cycle}\t{name}\t{bank}\t{row}\n" for cycle, name, bank, row in zip(
                    self.cycle[part].tolist(), names[self.command[part]].tolist(), self.bank[part].tolist(),
                    self.row[part].tolist(), strict=True)]
                out.write("".join(lines).encode())


class Channel:
    """One channel, command by command, in Python: what tests and explorations use.

    >>> from presilicon.arch.dram import load
    >>> channel = Channel(load("aim-gddr6"))
    >>> channel.issue("ACT16", cycle=10, row=3)
    >>> channel.earliest("MAC16") - 10
    56
    """

    def __init__(self, device: DramDevice) -> None:
        self.device, self.tables = device, compile_device(device)
        self._state = _State(self.tables, as_lists=True)

    def earliest(self, command: str, bank: int = 0) -> int:
        """First cycle at which all rows allow the command (not whether a row is open)."""
        return int(kernels.earliest(self._number(command, bank), bank, *self._state.constraint()))

    def issue(self, command: str, cycle: int, bank: int = 0, row: int = -1) -> None:
        """Issue a command; raises MappingError where a row forbids it at that cycle."""
        first = self.earliest(command, bank)
        if cycle < first:
            raise MappingError(f"{self.device.name}: {command} to bank {bank} at cycle {cycle}; allowed from cycle {first}")
        kernels.issue(self._number(command, bank), bank, row, cycle, *self._state.everything())

    def _number(self, command: str, bank: int) -> int:
        if command not in self.tables.names:
            raise UnknownNameError("DRAM command", command, self.tables.names, self.device.name)
        if not 0 <= bank < self.tables.banks:
            raise MappingError(f"{self.device.name}: bank {bank}; a channel has banks 0 to {self.tables.banks - 1}")
        return self.tables.index(command)


class _State:
    """Arrays of one channel's state, or lists."""

    def __init__(self, tables: Tables, as_lists: bool) -> None:
        self.deepest = int(tables.window_depth.max(initial=1))
        windows = len(tables.window_level)
        arrays = (np.full(tables.nodes * len(tables.names), 0, np.int64), np.full(tables.banks, -1, np.int64),
                  np.full(max(1, windows * tables.nodes * self.deepest), NEVER, np.int64),
                  np.zeros(max(1, windows * tables.nodes), np.int64))
        parts: list[Any] = [array.tolist() for array in arrays] if as_lists else list(arrays)
        self.ready, self.rows, self.ring, self.ring_at = parts
        self.packed, self.width = tables.packed(as_lists), len(tables.names)

    def constraint(self) -> tuple[Any, ...]:
        return self.packed, self.ready, self.ring, self.ring_at, self.width, self.deepest

    def everything(self) -> tuple[Any, ...]:
        return self.packed, self.ready, self.rows, self.ring, self.ring_at, self.width, self.deepest


@cache
def _compiled(name: str) -> Callable[..., Any] | None:
    """A scheduler of `kernels` or `queues`, compiled; None without numba."""
    try:
        from numba import njit
        from numba.extending import register_jitable
    except ImportError:
        return None
    _register(register_jitable)
    module: Any = kernels
    if not hasattr(kernels, name):
        from . import queues as module
    found: Callable[..., Any]
    try:
        found = njit(cache=True)(getattr(module, name))
    except RuntimeError:  # no folder in which numba could keep the compiled code
        found = njit(getattr(module, name))
    return found


@cache
def _register(register_jitable: Any) -> None:
    for helper in (kernels.earliest, kernels.issue, kernels.row_state, kernels.first_closed, kernels.refresh_now):
        register_jitable(helper)


def choose(name: str, engine: Engine, size: int) -> tuple[Callable[..., Any], bool]:
    """A scheduler by name, and whether it is Python's (and wants lists); raises MappingError for numba that is absent."""
    if engine not in ENGINES:
        raise UnknownNameError("engine", str(engine), ENGINES)
    if engine == "numba" or (engine == "auto" and size > COMPILE_ABOVE):
        found = _compiled(name)
        if found is not None:
            return found, False
        if engine == "numba":
            raise MappingError("engine 'numba': numba is not installed (pip install numba); 'python' does without")
    if hasattr(kernels, name):
        return getattr(kernels, name), True
    from . import queues

    return getattr(queues, name), True


def refreshing(tables: Tables, how: RefreshKind) -> tuple[int, int, int, int]:
    """Refresh command, its precharge, interval and whether banks take turns, as the kernels take them."""
    if how == "off":
        return -1, -1, 0, 0
    if how == "per-bank":
        return tables.refresh_bank, tables.refresh_bank_closer, tables.bank_interval, 1
    return tables.refresh, tables.refresh_closer, tables.interval, 0


def check_refresh(device: DramDevice, how: RefreshKind) -> None:
    """Raise where the device cannot be refreshed so."""
    if how not in REFRESHES:
        raise UnknownNameError("refresh", str(how), REFRESHES)
    if (how == "all-bank" and device.refresh is None) or (how == "per-bank" and device.refresh_bank is None):
        raise MappingError(f"{device.name}: describes no {how} refresh; play it with refresh='off'")


def play(device: DramDevice, requests: Requests, *, refresh: RefreshKind = "all-bank", start: int = 0, mode: str = "",
         engine: Engine = "auto") -> Stream:
    """Play requests in order on one channel, with the activates, precharges, mode switches and refreshes that they need.

    Parameters
    ----------
    device
        The device; its `refresh` row says how it is refreshed.
    requests
        Commands with bank and row, in order.
    refresh
        ``"all-bank"`` from each multiple of its interval on, as soon as the row in work is done; ``"per-bank"``, one bank
        after the other; or ``"off"``.
    start
        Cycle of the first command.
    mode
        Mode that the device is in at the start; "" for the first of its modes.
    engine
        ``"numba"`` compiles, ``"python"`` does without, ``"auto"`` compiles long streams when numba is there.

    Raises
    ------
    MappingError
        A bank, row or wait outside of the device, or a refresh that the device does not describe.
    """
    tables = compile_device(device)
    _check(device, tables, requests)
    check_refresh(device, refresh)
    kernel, as_lists = choose("in_order", engine, len(requests))
    told = refreshing(tables, refresh)
    room, issued = 2 * len(requests) + 4096, -1
    most = (room << _ROUNDS) + int(requests.wait.sum())
    while issued < 0:
        if room > most:
            raise MappingError(f"{device.name}: refresh ({refresh}) comes again before a row is open and read: expected a longer interval, "
                               "or refresh off")
        state = _State(tables, as_lists)
        out: list[Any] = [np.empty(room, np.int64) for _ in range(4)]
        given: list[Any] = [getattr(requests, name) for name in ("command", "bank", "row", "wait")]
        given += [requests.wait if requests.send is None else requests.send, np.zeros(max(1, requests.depth), np.int64)]
        if as_lists:
            given, out = [array.tolist() for array in given], [[0] * room for _ in range(4)]
        modes = tables.switch, tables.modes.index(mode) + 1 if mode else 1
        issued = kernel(*given, requests.depth, *state.everything(), *modes, *told, start, *out)
        room *= 2
    parts: list[npt.NDArray[np.int64]] = [np.asarray(array[:issued], np.int64) for array in out]
    return Stream(device, *parts)


def _check(device: DramDevice, tables: Tables, requests: Requests) -> None:
    limits = {"command": (0, len(tables.names) - 1), "bank": (0, tables.banks - 1),
              "row": (-1, device.organisation.rows - 1), "wait": (0, 1 << 40), "send": (0, 1 << 40)}
    for name, (low, high) in limits.items():
        found = getattr(requests, name)
        if found is None:
            continue
        if found.shape != requests.command.shape:
            raise MappingError(f"{device.name}: requests.{name}: {found.shape}, but command has {requests.command.shape}")
        if len(found) and not (low <= found.min() and found.max() <= high):
            worst = found.min() if found.min() < low else found.max()
            raise MappingError(f"{device.name}: requests.{name}: {worst}; allowed are {low} to {high}")
