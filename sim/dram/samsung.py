"""Samsung HBM2-PIM: GEMV, ADD, MUL and RELU as the host runs them and as the units do.

Every pseudo-channel does the same, so one is simulated. The host streams operands in and results out. With the units, a
kernel parks the banks, switches to all-bank mode, programs the command registers, and then each read or write of bank 0
(even banks) or 1 (odd banks) is one step of all eight units: a burst of 16 numbers each. Control registers are rows of their
own (0x17ff, 0x1fff, 0x3fff). The fences are those of the vendor's kernels (public PIMSimulator):

* GEMV: 8 registers hold 128 inputs, 8 accumulators per unit make 4,096 outputs over 64 pseudo-channels. For each tile of
  outputs and each vector of the batch: input tiles of even banks, then of odd banks, each 8 register writes and 8 x 8
  multiply-accumulate reads; then the accumulators go to the bank, and the mode is left and entered again.
* ADD, MUL: per 8 columns, for even and odd banks, read both operands and write the result; RELU: read and write.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from ...arch.dram import DramDevice
from ...errors import MappingError, UnknownNameError, shown
from ...mapping.pim import samsung_units
from .engine import Engine, RefreshKind, Stream, _State, check_refresh, choose, refreshing
from .tables import Ints, compile_device

Kernel = Literal["GEMV", "ADD", "MUL", "RELU"]
KERNELS: Final = ("GEMV", "ADD", "MUL", "RELU")
#: Rows of the control space: parking, single-bank to all-bank mode and back, registers.
_PARK, _TO_ALL, _TO_SINGLE, _REGISTERS = 0x1000, 0x17FF, 0x1FFF, 0x3FFF
#: Rows where the vendor's element-wise kernels keep operands and result.
_SECOND, _RESULT = 128, 256
#: Cycles beyond the read latency: the command on its bus, the burst, and its return; of a write, its burst.
_READ_EXTRA: Final = 1
#: Refreshes that may be owed before a rank must stand still (JESD235: up to eight intervals).
_POSTPONED: Final = 8


@dataclass(frozen=True)
class Run:
    """Cycles until all data have arrived, and the commands of one channel."""

    cycles: int
    stream: Stream

    @property
    def time_s(self) -> float:
        """Seconds."""
        return self.cycles * self.stream.device.cycle_s


class _Program:
    """Requests of one channel, collected."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.parts: list[tuple[int, int, int, int, int, int]] = []

    def add(self, write: bool, bank: int, row: int, column: int, count: int = 1) -> None:
        """`count` bursts from a column on, which runs on into the next rows."""
        for index in range(column, column + count):
            self.parts.append((int(write), bank, row + index // self.columns, index % self.columns, 0, 0))

    def fence(self) -> None:
        """Hold what follows until all so far has left."""
        if self.parts:
            self.parts[-1] = (*self.parts[-1][:4], 1, 0)

    def array(self) -> Ints:
        """Columns: is a write, bank, row, column, fence, gate."""
        return np.array(self.parts, dtype=np.int64).reshape(-1, 6)


def _positive(device: DramDevice, **sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise MappingError(f"{device.name}: {name}: expected a positive whole number, found {shown(value)}")


def _check(device: DramDevice, kernel: str, outputs: int, inputs: int, batch: int) -> None:
    if kernel not in KERNELS:
        raise UnknownNameError("kernel", str(kernel), KERNELS, device.name)
    _positive(device, outputs=outputs, inputs=inputs, batch=batch)
    samsung_units(device)


def host_requests(device: DramDevice, kernel: Kernel, outputs: int, inputs: int, batch: int = 1) -> Ints:
    """What a channel is asked to do when the host computes: streams of reads and writes over consecutive addresses.

    Addresses run over channels, then banks of a bank group, bank groups, columns and rows.
    """
    _check(device, kernel, outputs, inputs, batch)
    org = device.organisation
    lane, banks = 2, org.bank_groups * org.banks  # FP16; one rank

    if kernel == "GEMV":
        plan = [(0, outputs * inputs + inputs * batch), (1, outputs * batch)]
    else:
        plan = [(0, outputs * (1 if kernel == "RELU" else 2)), (1, outputs)]
    bursts = [(write, math.ceil(size * lane / org.column_bytes / org.channels)) for write, size in plan]
    needed, room = sum(count for _, count in bursts), banks * org.columns * org.rows
    if needed > room:
        raise MappingError(f"{device.name}: {kernel} of {outputs} x {inputs} takes {needed} bursts of a rank of every channel; "
                           f"there are {room}")
    at, parts = 0, []
    for index, (write, count) in enumerate(bursts):
        address = np.arange(at, at + count, dtype=np.int64)
        at += count
        part = np.zeros((count, 6), dtype=np.int64)
        part[:, 0] = write
        part[:, 1] = address % banks
        column = address // banks
        part[:, 2], part[:, 3] = column // org.columns, column % org.columns
        part[0, 5] = int(index > 0)
        parts.append(part)
    return np.concatenate(parts)


def pim_requests(device: DramDevice, kernel: Kernel, outputs: int, inputs: int, batch: int = 1) -> Ints:
    """What a channel is asked to do when the units compute; raises MappingError where the operands do not fit."""
    _check(device, kernel, outputs, inputs, batch)
    assert device.pim is not None
    org, lanes, registers = device.organisation, device.pim.lanes, device.pim.registers
    program = _Program(org.columns)
    _park(device, program)
    for bank in (0, 1, 2 * org.banks, 2 * org.banks + 1):
        program.add(True, bank, _TO_ALL, org.columns - 1)
    program.fence()
    program.add(True, 1, _REGISTERS, 4)
    program.fence()
    if kernel == "GEMV":
        _gemv(device, program, outputs, inputs, batch, registers, lanes)
    else:
        _elementwise(device, program, kernel, outputs, registers, lanes)
    for bank in (0, 1):
        program.add(True, bank, _TO_SINGLE, org.columns - 1)
    program.fence()
    _park(device, program)
    return program.array()


def _park(device: DramDevice, program: _Program) -> None:
    """A read of the parking row in every bank, bank groups innermost."""
    org = device.organisation
    for bank in range(org.banks):
        for group in range(org.bank_groups):
            program.add(False, group * org.banks + bank, _PARK, 0)
    program.fence()


def _gemv(device: DramDevice, program: _Program, outputs: int, inputs: int, batch: int, registers: int, lanes: int) -> None:
    units = device.organisation.channels * device.units_per_channel // device.organisation.ranks
    tiles_out, tiles_in = math.ceil(outputs / units / registers), math.ceil(math.ceil(inputs / lanes) / registers)
    square = registers * registers
    end = tiles_out * tiles_in // 2 * square
    rows = math.ceil((end + square + (tiles_out + batch) * registers) / device.organisation.columns)
    if rows > _PARK:
        raise MappingError(f"{device.name}: a matrix of {outputs} x {inputs} takes {rows} rows of every bank; there are {_PARK}")
    for tile in range(tiles_out):
        for vector in range(batch):
            program.add(True, 0, _REGISTERS, 0)
            program.fence()
            for odd in (0, 1):
                for part in range(odd, tiles_in, 2):
                    program.add(True, 1, _REGISTERS, 8, registers)
                    program.fence()
                    column = square * (part // 2 + tile * tiles_in // 2)
                    for step in range(0, square, registers):
                        program.add(False, odd, 0, column + step, registers)
                        program.fence()
            program.add(True, 1, 0, end + (tile + vector) * registers, registers)
            program.fence()
            program.add(True, 0, _REGISTERS, 0)
            program.fence()


def _elementwise(device: DramDevice, program: _Program, kernel: Kernel, size: int, registers: int, lanes: int) -> None:
    org = device.organisation
    tiles = math.ceil(size / lanes / (org.bank_groups * org.banks * org.channels * registers))
    if tiles * registers > _SECOND * org.columns:
        raise MappingError(f"{device.name}: {kernel} of {size} elements takes {tiles * registers} columns of every bank; the "
                           f"kernel keeps {_SECOND * org.columns} for an operand")
    program.add(True, 0, _REGISTERS, 0)
    program.fence()
    sources = (0,) if kernel == "RELU" else (0, _SECOND)
    for tile in range(tiles):
        column = registers * tile
        for bank in (0, 1):
            for row in sources:
                program.add(False, bank, row, column, registers)
                program.fence()
            program.add(True, bank, _RESULT, column, registers)
            program.fence()
    program.add(True, 0, _REGISTERS, 0)
    program.fence()


def play(device: DramDevice, requests: Ints, *, leaves: bool = False, refresh: RefreshKind = "all-bank", engine: Engine = "auto") -> Run:
    """Play requests (columns as `_Program.array`) on one channel through the vendor's controller.

    With `leaves`, they are those of a kernel that enters the all-bank mode and leaves it at its end.
    """
    check_refresh(device, refresh)
    if refresh == "per-bank":
        raise MappingError(f"{device.name}: Samsung's controller refreshes all banks or none, not per bank")
    tables, timings = compile_device(device), device.timings
    kernel, as_lists = choose("open_queue", engine, len(requests))
    depth = device.controller.get("queue", 64)
    told = refreshing(tables, refresh)
    numbers = [tables.index(name) for name in ("RD", "WR", "ACT", "PRE")]
    # A command is a cycle on its bus; the burst follows its latency.
    done = (_READ_EXTRA + timings["tCL"] + timings["tBL"], timings["tCWL"] + timings["tBL"])
    room, issued, cycles = 3 * len(requests) + 4096, -1, 0
    while issued < 0:
        state = _State(tables, as_lists)
        given = [np.ascontiguousarray(requests[:, part]) for part in range(6)]
        scratch = [np.zeros(size, np.int64) for size in (depth, 2 * tables.banks, 2 * tables.banks, device.organisation.ranks)]
        out = [np.empty(room, np.int64) for _ in range(4)]
        if as_lists:
            given, scratch, out = ([array.tolist() for array in arrays] for arrays in (given, scratch, out))
        leaving = _TO_SINGLE if leaves else -2
        issued, cycles = kernel(*given, depth, *numbers, *done, *state.everything(), told[0], told[2], _POSTPONED, leaving,
                                *scratch, *out)
        room *= 2
    return Run(int(cycles), Stream(device, *(np.asarray(array[:issued], np.int64) for array in out)))


def simulate(device: DramDevice, kernel: Kernel, outputs: int, inputs: int = 1, batch: int = 1, *, pim: bool = True,
             refresh: RefreshKind = "all-bank", engine: Engine = "auto") -> Run:
    """Simulate a kernel with the units (`pim`) or on the host, command by command.

    Parameters
    ----------
    device
        A device with units between banks, ``samsung-hbm2-pim``.
    kernel
        ``"GEMV"`` of ``(outputs, inputs)`` and a batch of vectors; ``"ADD"``, ``"MUL"``, ``"RELU"`` of `outputs` elements.
    refresh, engine
        As in `engine.play`; all-bank or off.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, operands that do not fit.

    >>> from presilicon.arch.dram import load
    >>> simulate(load("samsung-hbm2-pim"), "GEMV", 4096, 128, refresh="off").cycles > 408
    True
    """
    requests = (pim_requests if pim else host_requests)(device, kernel, outputs, inputs, batch)
    return play(device, requests, leaves=pim, refresh=refresh, engine=engine)
