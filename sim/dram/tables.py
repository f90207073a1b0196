"""A device's commands and constraint rows as flat arrays, which the kernels read.

Nodes of one channel (the channel, its pseudo-channels, ranks, bank groups, banks) are numbered level after level. A command
sent to bank b addresses an arithmetic progression of nodes at each level; `Tables` holds its parts by command and level:
first node ``offset + ((b - b % align) % modulo) // width``, then `count` nodes, `stride` apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...arch.dram import LEVELS, DramDevice
from ...arch.dram_spec import scope_banks
from ...errors import SpecError, UnknownNameError

Ints = npt.NDArray[np.int64]
#: A cycle before every run, from which no constraint reaches into it.
NEVER: Final = -(1 << 40)
NEEDS: Final = {"any": 0, "open": 1, "closed": 2}
EFFECTS: Final = {"none": 0, "open": 1, "close": 2}


@dataclass(frozen=True)
class Tables:
    """Flat arrays; see the module. Those with two indices are row-major over (command, level) or (command, command).

    Attributes
    ----------
    names
        Commands in the order of their numbers.
    align, modulo, count, stride
        Addressed banks of a command; `node_count`, `node_stride` the same at each level.
    offset, width
        First node of a level, and banks per node of it.
    push_start, push_level, push_to, push_cycles
        Rows by the command that comes first.
    look_start, look_level
        Levels at which a command is held by rows, by command.
    window_*
        Rows with a window above one: level, the commands before and after as masks, cycles, depth.
    needs, effect, opener, closer, bus, latency, mode
        As in `arch.dram.Command`, as numbers; -1 for none. Modes are numbered from 1, 0 is any.
    """

    names: tuple[str, ...]
    banks: int
    nodes: int
    align: Ints
    modulo: Ints
    count: Ints
    stride: Ints
    node_count: Ints
    node_stride: Ints
    offset: Ints
    width: Ints
    push_start: Ints
    push_level: Ints
    push_to: Ints
    push_cycles: Ints
    look_start: Ints
    look_level: Ints
    window_level: Ints
    window_after: Ints
    window_before: Ints
    window_cycles: Ints
    window_depth: Ints
    needs: Ints
    effect: Ints
    opener: Ints
    closer: Ints
    bus: Ints
    latency: Ints
    mode: Ints
    switch: int
    refresh: int
    refresh_closer: int
    interval: int
    refresh_bank: int
    refresh_bank_closer: int
    bank_interval: int
    modes: tuple[str, ...]
    _lists: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def index(self, name: str) -> int:
        """Number of a command; raises UnknownNameError."""
        if name not in self.names:
            raise UnknownNameError("DRAM command", name, self.names)
        return self.names.index(name)

    def packed(self, as_lists: bool) -> tuple[Any, ...]:
        """What the kernels take: arrays, or lists for Python, which indexes those faster."""
        arrays = (self.align, self.modulo, self.count, self.stride, self.node_count, self.node_stride, self.offset,
                  self.width, self.push_start, self.push_level, self.push_to, self.push_cycles, self.look_start,
                  self.look_level, self.window_level, self.window_after, self.window_before, self.window_cycles,
                  self.window_depth, self.needs, self.effect, self.opener, self.closer, self.bus, self.mode)
        if not as_lists:
            return arrays
        if "lists" not in self._lists:
            self._lists["lists"] = tuple(array.tolist() for array in arrays)
        packed: tuple[Any, ...] = self._lists["lists"]
        return packed


def _compiled(device: DramDevice) -> Tables:
    names = tuple(command.name for command in device.commands)
    number = {name: index for index, name in enumerate(names)}
    total, per_level = device.organisation.banks_per_channel, device.organisation.nodes
    width = [total // nodes for nodes in per_level]
    offset = np.concatenate([[0], np.cumsum(per_level)[:-1]])
    scopes = [scope_banks(device.organisation, command.scope) for command in device.commands]
    node_count, node_stride = [], []
    for _, _, count, stride in scopes:
        for banks in width:
            if count == 1 or stride >= banks:
                node_count.append(count)
                node_stride.append(max(1, stride // banks))
            else:
                node_count.append(max(1, count * stride // banks))
                node_stride.append(1)
    push: dict[tuple[int, int, int], int] = {}
    windows = []
    for rule in device.rules:
        level, cycles = LEVELS.index(rule.level), device.expand(rule.cycles)
        if rule.window > 1:
            windows.append((level, sum(1 << number[c] for c in rule.after), sum(1 << number[c] for c in rule.before), cycles,
                            rule.window))
            continue
        for first in rule.after:
            for second in rule.before:
                row = number[first], level, number[second]
                push[row] = max(push.get(row, 0), cycles)
    if len(names) > 62:
        raise SpecError(f"{device.name}: {len(names)} commands; at most 62 are allowed")
    rows = sorted((row, cycles) for row, cycles in push.items() if cycles > 0)
    looks = sorted({(second, level) for (_, level, second), _ in rows})
    modes = tuple(sorted({command.mode for command in device.commands if command.mode}))

    def numbers(values: Any) -> Ints:
        return np.array(list(values), dtype=np.int64)

    refresh, turn = device.refresh, device.refresh_bank
    return Tables(
        names=names, banks=total, nodes=int(sum(per_level)), align=numbers(s[0] for s in scopes),
        modulo=numbers(s[1] for s in scopes), count=numbers(s[2] for s in scopes), stride=numbers(s[3] for s in scopes),
        node_count=numbers(node_count), node_stride=numbers(node_stride), offset=numbers(offset), width=numbers(width),
        push_start=numbers(np.searchsorted([row[0] for row, _ in rows], np.arange(len(names) + 1))),
        push_level=numbers(row[1] for row, _ in rows), push_to=numbers(row[2] for row, _ in rows),
        push_cycles=numbers(cycles for _, cycles in rows),
        look_start=numbers(np.searchsorted([look[0] for look in looks], np.arange(len(names) + 1))),
        look_level=numbers(look[1] for look in looks), window_level=numbers(w[0] for w in windows),
        window_after=numbers(w[1] for w in windows), window_before=numbers(w[2] for w in windows),
        window_cycles=numbers(w[3] for w in windows), window_depth=numbers(w[4] for w in windows),
        needs=numbers(NEEDS[c.needs] for c in device.commands), effect=numbers(EFFECTS[c.effect] for c in device.commands),
        opener=numbers(number.get(c.opener, -1) for c in device.commands),
        closer=numbers(number.get(c.closer, -1) for c in device.commands),
        bus=numbers(0 if device.buses == 1 or c.bus == "row" else 1 for c in device.commands),
        latency=numbers(device.expand(c.latency) for c in device.commands),
        mode=numbers(modes.index(c.mode) + 1 if c.mode else 0 for c in device.commands),
        switch=number.get(device.mode_switch, -1), refresh=number[refresh.command] if refresh else -1,
        refresh_closer=number[refresh.closer] if refresh else -1,
        interval=device.timings[refresh.interval] if refresh else 0,
        refresh_bank=number[turn.command] if turn else -1, refresh_bank_closer=number[turn.closer] if turn else -1,
        bank_interval=device.timings[turn.interval] if turn else 0, modes=modes)


_KEPT: dict[int, tuple[DramDevice, Tables]] = {}


def compile_device(device: DramDevice) -> Tables:
    """Tables of a device; kept while the process lives, since devices are immutable."""
    kept = _KEPT.get(id(device))
    if kept is None or kept[0] is not device:
        if len(_KEPT) >= 64:
            _KEPT.clear()
        kept = _KEPT[id(device)] = device, _compiled(device)
    return kept[1]
