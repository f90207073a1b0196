"""GDDR6-AiM: its instructions as requests to one channel, and the kernels that its documentation describes.

All channels play the same requests in lock step, so one is simulated. A host hands over one instruction per cycle; it is
decoded into `opsize` commands per channel. Reads of result registers block the host: it decodes on one cycle after the data
has arrived. Writes of configuration or general registers (CFR, GPR) and additions of those (EWADD) take the host a cycle each and
no command. SYNC holds the host until all before it has landed. WR_SBK and RD_SBK are ordinary writes and reads of one bank.

GEMV, `gemv`: outputs are spread over channels and banks, so that one pass makes ``channels x banks`` of them; the input is
cut into blocks of a row (the global buffer holds one). ``order="outputs"`` finishes one group of outputs after the other and
rewrites the buffer for every block; ``order="inputs"`` keeps a block and goes through all groups, and so reads and restores
the accumulators once per group and block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from ...arch.dram import DramDevice
from ...errors import MappingError, UnknownNameError
from ...mapping.pim import ORDERS, Order, gemv_shape
from .engine import Engine, RefreshKind, Requests, Stream, play
from .tables import Tables, compile_device

#: Instruction, command, whether it walks columns of a row, whether the host waits for its result.
_INSTRUCTIONS: Final = {
    "MAC_ABK": ("MAC16", True, False), "MAC_SBK": ("MAC", True, False), "AF": ("AF16", True, False),
    "EWMUL": ("EWMUL16", True, False), "COPY_BKGB": ("RDCP", True, False), "COPY_GBBK": ("WRCP", True, False),
    "WR_GB": ("WRGB", False, False), "WR_BIAS": ("WRMAC16", False, False), "RD_MAC": ("RDMAC16", False, True),
    "RD_AF": ("RDAF16", False, True), "WR_ABK": ("WRA16", True, False), "WR_SBK": ("WR", True, False), "RD_SBK": ("RD", True, True),
    "SYNC": ("SYNC", False, True),
}
#: Host accesses to registers, and additions of general registers: take a cycle of the host, and nothing of the memory.
HOST: Final = ("W_CFR", "W_GPR", "R_GPR", "EWADD")
#: Commands that a channel's controller holds before the host waits (AiM simulator: one more while it holds no more than 32).
_DEPTH: Final = 33
#: Rows of activation functions: a look-up table beyond the rows of data.
_AF_ROW: Final = 1


@dataclass(frozen=True)
class Instruction:
    """One instruction: name, how many columns or registers (`opsize`), row and bank where they matter.

    Names are those of the AiM instruction set: MAC_ABK (all banks), MAC_SBK, AF, EWMUL, COPY_BKGB, COPY_GBBK, WR_GB,
    WR_BIAS, RD_MAC, RD_AF, WR_ABK, WR_SBK, RD_SBK, SYNC; and W_CFR, W_GPR, R_GPR, EWADD of the host.
    """

    name: str
    opsize: int = 1
    row: int = 0
    bank: int = 0


@dataclass(frozen=True)
class Run:
    """Cycles of a kernel, with the commands of one of its channels, which stands for all.

    Attributes
    ----------
    cycles
        Command clocks from the host's first instruction to the end of the last.
    stream
        Commands of one channel.
    channels
        Channels that play it.
    """

    cycles: int
    stream: Stream
    channels: int

    @property
    def time_s(self) -> float:
        """Seconds."""
        return self.cycles * self.stream.device.cycle_s


def run(device: DramDevice, program: Iterable[Instruction], *, refresh: RefreshKind = "all-bank", engine: Engine = "auto") -> Run:
    """Play a program of instructions on every channel.

    Raises
    ------
    MappingError
        Unknown or missing command, a column or row outside of the device, an empty program.

    >>> from presilicon.arch.dram import load
    >>> program = [Instruction("MAC_ABK", opsize=64, row=row) for row in range(1024)]
    >>> run(load("aim-gddr6"), program, refresh="off").cycles
    231383
    """
    tables = compile_device(device)
    requests, before, after = _decode(device, tables, list(program))
    # The first command leaves in the cycle in which the host's first instruction is decoded, which is cycle 1.
    stream = play(device, requests, refresh=refresh, start=1 + before, mode="bank", engine=engine)
    last, name = int(stream.cycle[-1]), tables.names[int(stream.command[-1])]
    latency = int(tables.latency[tables.index(name)])
    blocking = [command for command, _, waits in _INSTRUCTIONS.values() if waits]
    # The end-of-compute instruction: decoded after a blocking result, served when everything else has landed.
    end = last + latency + 2 + after if name in blocking else last + max(2, after)
    landed = int((stream.cycle + tables.latency[stream.command]).max()) + 1
    return Run(max(end, landed), stream, device.organisation.channels)


def _decode(device: DramDevice, tables: Tables, program: list[Instruction]) -> tuple[Requests, int, int]:
    """Requests of one channel, host cycles before the first, and after the last."""
    organisation = device.organisation
    parts: list[tuple[int, int, int, int, int]] = []
    sends: list[int] = []
    pending, blocked, before = 0, 0, 0
    for instruction in program:
        if instruction.name in HOST:
            pending += 1
            continue
        if instruction.name not in _INSTRUCTIONS:
            raise UnknownNameError("AiM instruction", instruction.name, (*_INSTRUCTIONS, *HOST), device.name)
        name, walks, waits = _INSTRUCTIONS[instruction.name]
        if name not in tables.names:
            raise MappingError(f"{device.name}: {instruction.name} needs the command {name}, which the device lacks")
        _check(device, instruction, walks)
        row = -1
        if walks:
            row = organisation.rows - _AF_ROW if instruction.name == "AF" else instruction.row
        if not parts:
            before = pending
        parts.append((tables.index(name), instruction.bank, row, blocked + pending if blocked else 0, instruction.opsize))
        sends.append(1 + pending)
        blocked = int(tables.latency[tables.index(name)]) + 1 if waits else 0
        pending = 0
    if not parts:
        raise MappingError(f"{device.name}: the program holds no command")
    table = np.array(parts, dtype=np.int64)
    sizes = table[:, 4]
    spread = np.repeat(table[:, :4], sizes, axis=0)
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    wait, send = np.zeros(len(spread), dtype=np.int64), np.zeros(len(spread), dtype=np.int64)
    wait[firsts], send[firsts[1:]] = table[:, 3], sends[1:]
    # Several results of one instruction are one blocking read each, all decoded at once.
    return Requests(spread[:, 0].copy(), spread[:, 1].copy(), spread[:, 2].copy(), wait, send, _DEPTH), before, pending


def _check(device: DramDevice, instruction: Instruction, walks: bool) -> None:
    organisation = device.organisation
    if instruction.opsize < 1 or (walks and instruction.opsize > organisation.columns):
        raise MappingError(f"{device.name}: {instruction.name}: {instruction.opsize} columns; a row has {organisation.columns}")
    if not 0 <= instruction.bank < organisation.banks_per_channel:
        raise MappingError(f"{device.name}: {instruction.name}: bank {instruction.bank}; a channel has banks 0 to "
                           f"{organisation.banks_per_channel - 1}")
    if walks and not 0 <= instruction.row < organisation.rows:
        raise MappingError(f"{device.name}: {instruction.name}: row {instruction.row}; a bank has {organisation.rows}")


def gemv_program(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, element_bytes: int = 2, order: Order = "outputs",
                 bits: float | None = None) -> list[Instruction]:
    """Instructions of y = W x, W of ``(outputs, inputs)``, as in the module; the vectors of a batch come one after the other.

    `bits`: of a stored weight, as `presilicon.mapping.pim.gemv_shape`.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device, a device without units in banks.
    """
    shape = gemv_shape(device, outputs, inputs, element_bytes, bits)
    if order not in ORDERS:
        raise UnknownNameError("loop order", str(order), ORDERS, device.name)
    columns = shape.widths()
    program = [Instruction("W_CFR")]
    pairs = [(group, block) for group in range(shape.groups) for block in range(shape.blocks)]
    if order == "inputs":
        pairs.sort(key=lambda pair: pair[1])
    started: tuple[int, int] | None = None
    held = (-1, -1)
    for vector, (group, block) in product(range(batch), pairs):
        if (vector, group) != started or order == "inputs":
            if started is not None:
                program.append(Instruction("RD_MAC"))
            program.append(Instruction("WR_BIAS"))
            started = vector, group
        if held != (vector, block) or order == "outputs":
            program.append(Instruction("WR_GB", opsize=math.ceil(columns[block] * shape.spread)))
            held = vector, block
        program.append(Instruction("MAC_ABK", opsize=columns[block], row=group * shape.blocks + block))
    program.append(Instruction("RD_MAC"))
    return program


def gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, element_bytes: int = 2, order: Order = "outputs",
         refresh: RefreshKind = "all-bank", engine: Engine = "auto", bits: float | None = None) -> Run:
    """Simulate y = W x command by command; raises as `gemv_program`.

    >>> from presilicon.arch.dram import load
    >>> gemv(load("aim-gddr6"), 4096, 4096, refresh="off").cycles
    13057
    """
    program = gemv_program(device, outputs, inputs, batch=batch, element_bytes=element_bytes, order=order, bits=bits)
    return run(device, program, refresh=refresh, engine=engine)
