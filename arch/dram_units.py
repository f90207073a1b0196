"""What a file says of its processing units must fit its commands, timings and columns: else kernels would beat their own roofline."""

from __future__ import annotations

import math
from typing import Final

from ..errors import SpecError
from .dram_spec import LEVELS, DramDevice, expand

#: Beginnings of the names of timings that no memory has at zero cycles: the distances of commands, and the times of rows and refresh.
_ABOVE_ZERO: Final = ("tBL", "tCCD", "tRCD", "tRP", "tRAS", "tRC", "tRRD", "tFAW", "tACT", "tREFI", "tRFC", "tGWRITE")
#: Multiplications of the kernels that know them by name, which take a whole column of every bank that they address.
_COLUMN_MACS: Final = ("MAC16", "MACAB")
#: Multiplication of Newton and NeuPIMs, of a unit's width.
_NEWTON_MAC: Final = "COMP"
#: Bytes of a number that lanes take.
_NUMBER: Final = 2
#: Slack of a distance that a clock in round numbers misses.
_ROUNDING: Final = 1e-3


def least_cycles(timing: str) -> int:
    """The fewest cycles that a timing may have.

    >>> least_cycles("tCCD_L"), least_cycles("tCL_REG")
    (1, 0)
    """
    return int(timing.startswith(_ABOVE_ZERO))


def check_units(device: DramDevice) -> None:
    """Raise SpecError where units cannot take what the device's commands give them, or hold what its kernel puts into their buffer."""
    pim, org = device.pim, device.organisation
    if pim is None or "mac_int8" in device.controller:  # UPMEM's cores run instructions
        return
    names = {command.name for command in device.commands}
    newton = "GACT" in names
    plain = device.gemv is None and not newton and not names & set(_COLUMN_MACS)  # Samsung's: a read is a multiplication
    columns = [str(name) for name in _COLUMN_MACS if name in names] or ["RD"]
    macs = [device.gemv.mac] if device.gemv else [_NEWTON_MAC] if newton else columns
    if device.gemv is None and not newton and pim.width_bytes != org.column_bytes:
        raise SpecError(f"{device.name}: pim.width: {pim.width_bytes} bytes; {macs[0]} gives a unit a column of {org.column_bytes} bytes")
    if pim.lanes % max(1, pim.width_bytes // _NUMBER) or (plain and pim.lanes != pim.width_bytes // _NUMBER):
        raise SpecError(f"{device.name}: pim.lanes: {pim.lanes}; a unit takes {pim.width_bytes} bytes a step, {pim.width_bytes // _NUMBER} "
                        f"numbers of 16 bits: expected {'as many' if plain else 'a multiple of that'}")
    least = org.row_bytes if newton else org.column_bytes * (pim.registers if plain else 1)
    if pim.buffer_bytes < least:
        what = "a row" if newton else f"a column for each of {pim.registers} registers" if plain else "a column"
        raise SpecError(f"{device.name}: pim.buffer: {pim.buffer_bytes} bytes; expected {least} or more, {what} of inputs")
    for mac in macs:
        if not newton and device.command(mac).needs != "open":
            raise SpecError(f"{device.name}: commands.{mac}.needs: {device.command(mac).needs!r}; a multiplication takes a column of an "
                            "open row: expected 'open'")
        if mac in (*_COLUMN_MACS, _NEWTON_MAC) and device.gemv is None and device.command(mac).scope != "channel":
            raise SpecError(f"{device.name}: commands.{mac}.scope: {device.command(mac).scope!r}; it reaches every bank of a channel: "
                            "expected 'channel'")
        for limited, paced in ((True, device.timings), (False, {**device.timings, **device.power_limit})):
            _pace(device, mac, dict(paced), limited)


def _pace(device: DramDevice, mac: str, timings: dict[str, int], limited: bool) -> None:
    """Refuse a multiplication that may follow itself, in one unit, sooner than the unit's clock."""
    pim, nodes = device.pim, device.organisation.nodes
    assert pim is not None
    banks = nodes[-1] // device.units_per_channel
    whole = len({bank // banks for bank in device.addressed(mac, 0)}) * banks == len(device.addressed(mac, 0))
    # Rows of a level that holds all of a unit's banks; where the command reaches them all at once, rows of any.
    deepest = len(LEVELS) if whole or banks == 1 else next(i for i in reversed(range(len(LEVELS))) if nodes[-1] // nodes[i] >= banks)
    apart = max([expand(rule.cycles, timings, device.name) for rule in device.rules if rule.window == 1 and mac in rule.after
                 and mac in rule.before and LEVELS.index(rule.level) <= deepest] + [1])
    if apart * device.cycle_s * (1.0 + _ROUNDING) < 1.0 / pim.clock_hz or not math.isfinite(pim.clock_hz):
        raise SpecError(f"{device.name}: pim.clock: {pim.clock_hz:g} Hz, a step every {1e9 / pim.clock_hz:.3g} ns; constraints let {mac} "
                        f"follow {mac} after {apart} cycles, {1e9 * apart * device.cycle_s:.3g} ns"
                        f"{'' if limited else ' without the power limit'}: expected a faster clock, or a longer row")
