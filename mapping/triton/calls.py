"""Calls to functions of the CUDA system, whose code is not in the cubin: debug prints and failed assertions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from .operands import CONSTANT_INDEXED, IMMEDIATE
from .sass import Instruction, Listing

#: Functions that do not come back. Source: CUDA C++ Programming Guide, Assertion: a failed assert stops the kernel with a trap.
ENDLESS: Final = frozenset({"__assertfail"})
#: Bank in which the driver puts the addresses of system functions.
_BANK: Final = 4


def settle_calls(listing: Listing, functions: Mapping[int, str]) -> Listing:
    """The listing with its calls to system functions as plain instructions: one that comes back does nothing, another ends its thread.

    Calls keep their `opcode`, and have the `base` ``"NOP"`` or ``"KILL"``. Registers keep their values across a call: the compiler keeps
    what it still needs where the callee must save it.

    Parameters
    ----------
    functions
        System functions by their place in constant bank 4, from `CubinInfo.functions`.
    """
    calls = [ins for ins in listing.instructions if ins.base == "CALL" and ins.target is None and not ins.targets]
    if not calls or not functions:
        return listing
    made = list(listing.instructions)
    for ins in calls:
        made[ins.index] = replace(ins, base="KILL" if _called(listing, ins, functions) in ENDLESS else "NOP")
    return Listing(listing.name, tuple(made), listing.labels)


def _called(listing: Listing, call: Instruction, functions: Mapping[int, str]) -> str:
    """The function that a call names, by the constant that its address was loaded from."""
    names = set(functions.values())
    if len(names) == 1:
        return names.pop()
    load = _writer(listing, call, call.reads[0]) if call.reads else None
    match = CONSTANT_INDEXED.match(load.operands[-1]) if load is not None else None
    if load is None or match is None or int(match[1], 16) != _BANK:
        return ""
    offset = int(match[4] or "0", 16) * (-1 if match[3] else 1)
    if match[2] and not match[2].endswith("Z"):
        index = _writer(listing, load, load.reads[0])
        number = IMMEDIATE.match(index.operands[-1]) if index is not None else None
        if number is None:
            return ""
        offset += int(number[2], 16)
    return functions.get(offset, "")


def _writer(listing: Listing, reader: Instruction, register: int) -> Instruction | None:
    """The last instruction before `reader` that writes a register."""
    writers = [ins.index for ins in listing.instructions if register in ins.writes]
    place = bisect_left(writers, reader.index)
    return listing.instructions[writers[place - 1]] if place else None
