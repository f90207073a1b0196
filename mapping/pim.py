"""Closed forms of kernels on processing in memory: cycles without playing a command, from the rows that the engine obeys.

Each kernel of `presilicon.sim.dram` has its form here; `sim` plays the same commands one by one, and tests hold the two
together (within 2 %). With h the columns of a row that are used and d = tCCD of the MAC:

* AiM, a row of h columns: tRCD_MAC + d (h - 1) + tRTP + tRP, that is 98 + 2 h cycles of 0.5 ns. A buffer write of h columns
  between two mode switches takes 2 tMOD + d (h - 1) and what the buses need around it.
* AttAcc at the banks: a row of h columns takes d (h - 1) + tRTP_L + tRP + tRCD; rounds of one head per channel; two heads
  hide each other's moves and softmax (`presilicon.mapping.attacc_attention`).
* Samsung: a tile of 128 inputs is 8 register writes and 64 reads over two rows, 341 cycles in even banks and 388 in odd.

Refresh: each that falls due costs tRFC where a row in work is finished first (which tends to a division by
1 - tRFC / tREFI), and the reopening of the row as well for controllers that close it at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from ..arch.dram import DramDevice
from ..errors import MappingError, UnknownNameError, shown
from .attacc_attention import attention_cycles

Order = Literal["outputs", "inputs"]
ORDERS: Final = ("outputs", "inputs")


@dataclass(frozen=True)
class PimEstimate:
    """Cycles and time of a kernel, and what it moves.

    Attributes
    ----------
    cycles, time_s
        Command clocks, and seconds.
    macs, weight_bytes
        Multiply-accumulates that are wanted, and bytes of the matrix read inside the memory, padding included.
    utilisation
        MACs over the peak of the units in that time.
    order
        Loop order of a GEMV, as in `presilicon.sim.dram.aim`.
    opened_bytes
        Bytes of all rows that are opened for the reads, without refresh.
    writes, reads
        Commands of one channel that write inputs into buffers, and that write or read accumulators.
    moved_bytes
        Bytes that these commands move between units and host, on all channels.
    peak_bytes_per_s
        Rate at which all units together take columns, one after the other.
    """

    cycles: int
    time_s: float
    macs: int
    weight_bytes: int
    utilisation: float
    order: str = ""
    opened_bytes: int = 0
    writes: int = 0
    reads: int = 0
    moved_bytes: int = 0
    peak_bytes_per_s: float = 0.0


@dataclass(frozen=True)
class GemvShape:
    """How a GEMV lies in a device with a unit per bank.

    Attributes
    ----------
    groups
        Passes over ``channels x banks`` outputs.
    blocks
        Pieces of the input that the buffer, or a row, holds.
    columns, last_columns
        Columns of a full block, and of the last.
    spread
        Columns of the buffer that the inputs of one column of weights fill: more than one where weights are narrower.
    """

    groups: int
    blocks: int
    columns: int
    last_columns: int
    spread: float = 1.0

    def widths(self) -> list[int]:
        """Columns of each block."""
        return [self.columns] * (self.blocks - 1) + [self.last_columns]


def positive(device: DramDevice, **sizes: int) -> None:
    """Raise MappingError for what is no positive whole number."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise MappingError(f"{device.name}: {name}: expected a positive whole number, found {shown(value)}")


def gemv_shape(device: DramDevice, outputs: int, inputs: int, element_bytes: int = 2, bits: float | None = None) -> GemvShape:
    """Groups and blocks of y = W x, W of ``(outputs, inputs)``, on units of one bank each.

    `bits`: stored bits of a weight, group scales included, where they are not those of an input; a column holds as many whole ones as fit.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device, a device without a unit in every bank, elements
        that do not divide a column, weights wider than a column.
    """
    positive(device, outputs=outputs, inputs=inputs, element_bytes=element_bytes)
    pim, organisation = device.pim, device.organisation
    if pim is None or pim.placement != "bank":
        raise MappingError(f"{device.name}: has no processing unit in every bank, which this kernel needs")
    if organisation.column_bytes % element_bytes:
        raise MappingError(f"{device.name}: elements of {element_bytes} bytes do not divide a column of "
                           f"{organisation.column_bytes}")
    in_buffer = organisation.column_bytes // element_bytes
    per_column = in_buffer if bits is None else weights_in_column(device, bits)
    spread = per_column / in_buffer
    block = max(1, min(organisation.columns, int(pim.buffer_bytes // organisation.column_bytes / spread)))
    groups = math.ceil(outputs / (organisation.channels * organisation.banks_per_channel))
    columns = math.ceil(inputs / per_column)
    blocks = math.ceil(columns / block)
    if groups * blocks > organisation.rows:
        raise MappingError(f"{device.name}: a matrix of {outputs} x {inputs} takes {groups * blocks} rows of every bank; "
                           f"there are {organisation.rows}")
    return GemvShape(groups, blocks, block, columns - (blocks - 1) * block, spread)


def weights_in_column(device: DramDevice, bits: float) -> int:
    """Whole weights of so many bits in a column.

    >>> from presilicon.arch.dram import load
    >>> [weights_in_column(load("aim-gddr6"), bits) for bits in (16, 8, 4.25)]
    [16, 32, 60]
    """
    column = device.organisation.column_bytes * 8
    if not (math.isfinite(bits) and 0.0 < bits <= column):
        raise MappingError(f"{device.name}: weights of {shown(bits)} bits; allowed are more than 0 and up to {column}, a column's")
    return int(column // bits)


def refreshed(device: DramDevice, cycles: float, extra: int = 0) -> float:
    """Cycles with all-bank refresh: each that falls due costs tRFC and `extra`; ranks take turns, evenly over the interval."""
    if device.refresh is None:
        return cycles
    interval, duration = device.timings[device.refresh.interval], device.timings[device.refresh.duration]
    first, due = interval // device.organisation.ranks, 0
    while cycles + due * (duration + extra) > first + due * interval:
        due = max(due + 1, int((cycles + due * (duration + extra) - first) // interval))
    return cycles + due * (duration + extra)


def gap(device: DramDevice, after: str, before: str) -> int:
    """Cycles that the rows of a channel's commands ask between two commands to the same place; at least one."""
    return max([device.expand(rule.cycles) for rule in device.rules
                if rule.window == 1 and after in rule.after and before in rule.before] + [1])


def aim_gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, element_bytes: int = 2, order: Order = "outputs",
             refresh: bool = True, bits: float | None = None) -> PimEstimate:
    """GEMV on AiM in closed form, one vector of a batch after the other; arguments and errors as `presilicon.sim.dram.aim.gemv`.

    `bits`: as `gemv_shape`; units take a column of narrower weights in the same time.

    >>> from presilicon.arch.dram import load
    >>> aim_gemv(load("aim-gddr6"), 4096, 4096, refresh=False).cycles
    13057
    """
    shape = gemv_shape(device, outputs, inputs, element_bytes, bits)
    if order not in ORDERS:
        raise UnknownNameError("loop order", str(order), ORDERS, device.name)
    modes = {name: device.command(name).mode for name in ("MAC16", "WRGB", "WRMAC16", "RDMAC16")}
    if not device.mode_switch or modes != {"MAC16": modes["MAC16"], **dict.fromkeys(("WRGB", "WRMAC16", "RDMAC16"), modes["WRGB"])} or (
            "" in modes.values() or modes["MAC16"] == modes["WRGB"]):
        raise MappingError(f"{device.name}: commands: modes {modes}, switched by {device.mode_switch or 'no command'}; the closed form "
                           "knows MAC16 in one mode, WRGB, WRMAC16 and RDMAC16 in another, and a command with switches_mode (or give gemv: "
                           "mac, write, read)")
    # First command in cycle 2; the host's end two cycles behind the last result.
    positive(device, batch=batch)
    cycles = 2 + _aim_passes(device, shape, order, batch) + 2
    if refresh:
        cycles = refreshed(device, cycles)
    found = _estimate(device, cycles, outputs * inputs * batch, shape, order)
    visits = [(math.ceil(shape.widths()[block] * shape.spread) if loads else 0, restores or index == 0)
              for index, (block, loads, restores) in enumerate(_visits(shape, order, batch))]
    writes, reads, org = sum(columns for columns, _ in visits), 2 * sum(read for _, read in visits), device.organisation
    opened = 1 if shape.groups * shape.blocks == 1 else len(visits)
    return replace(found, weight_bytes=batch * found.weight_bytes, writes=writes, reads=reads,
                   opened_bytes=opened * org.row_bytes * org.channels * org.banks_per_channel,
                   moved_bytes=(writes + reads) * org.column_bytes * org.channels)


def _aim_passes(device: DramDevice, shape: GemvShape, order: Order, batch: int = 1) -> float:
    """Cycles of the passes of a batch of GEMVs over one channel, until the last results have arrived."""
    timings = device.timings
    mod, step, fill = timings["tMOD"], gap(device, "MAC16", "MAC16"), gap(device, "WRGB", "WRGB")
    reopen = gap(device, "PREA", "ACT16") + gap(device, "ACT16", "MAC16")
    to_write, to_read = 1, gap(device, "MAC16", "RDMAC16")
    bias, again = gap(device, "WRMAC16", "WRGB"), gap(device, "RDMAC16", "WRMAC16")
    widths = shape.widths()
    # A matrix of a single row of the banks leaves it open from vector to vector.
    again_open = 0 if shape.groups * shape.blocks == 1 else reopen
    total = 0.0
    # From the last MAC of one visit of a (group, block) to the last of the next: leave the row, write registers, return.
    for index, (block, loads, restores) in enumerate(_visits(shape, order, batch)):
        width = widths[block]
        if index == 0:
            head = bias + mod
        elif restores:
            head = to_read + mod + again + mod + (bias if loads else 1)
        else:
            head = to_write + mod + mod
        # A buffer write between; the return to bank mode is one cycle behind the last register write.
        head += (math.ceil(width * shape.spread) - 1) * fill + 1 if loads else 0
        if loads and index == 0:
            head += mod
        total += head + (again_open if index else reopen - gap(device, "PREA", "ACT16")) + (width - 1) * step
    latency = device.expand(device.command("RDMAC16").latency)
    return total + to_read + mod + latency


def aim_blocks(device: DramDevice, groups: int, columns: int) -> float:
    """Cycles of one channel for `groups` results of every bank from vectors of so many columns, in the better loop order.

    >>> from presilicon.arch.dram import load
    >>> aim_blocks(load("aim-gddr6"), 8, 64) == min(_aim_passes(load("aim-gddr6"), GemvShape(8, 1, 64, 64), o) for o in ORDERS)
    True
    """
    block = block_columns(device)
    blocks = math.ceil(columns / block)
    shape = GemvShape(groups, blocks, block, columns - (blocks - 1) * block)
    return min(_aim_passes(device, shape, "outputs"), _aim_passes(device, shape, "inputs"))


def aim_scores(device: DramDevice, keys: int, columns: int) -> float:
    """Cycles of one channel for the scores of `keys` keys of so many columns, one key a bank, as many in a row as fit.

    As `_aim_passes` with one block in the buffer, but the row is left only when its keys are done.
    """
    groups = math.ceil(keys / device.organisation.banks_per_channel)
    in_row = max(1, device.organisation.columns // columns)
    passes = _aim_passes(device, GemvShape(groups, 1, block_columns(device), columns), "inputs")
    reopen = gap(device, "PREA", "ACT16") + gap(device, "ACT16", "MAC16")
    return passes - (groups - math.ceil(groups / in_row)) * reopen


def block_columns(device: DramDevice) -> int:
    """Columns that the operand buffer, or a row, holds."""
    if device.pim is None or device.pim.placement != "bank":
        raise MappingError(f"{device.name}: has no processing unit in every bank, which this kernel needs")
    return max(1, min(device.organisation.columns, device.pim.buffer_bytes // device.organisation.column_bytes))


def _visits(shape: GemvShape, order: Order, batch: int = 1) -> Iterator[tuple[int, bool, bool]]:
    """Block, whether the buffer is written, and whether results are read and restored before, of each pass over a row."""
    for vector in range(batch):
        if order == "outputs":
            for group in range(shape.groups):
                for block in range(shape.blocks):
                    yield block, True, block == 0 and (group > 0 or vector > 0)
        else:
            for block in range(shape.blocks):
                for group in range(shape.groups):
                    yield block, group == 0, block > 0 or group > 0 or vector > 0


def _estimate(device: DramDevice, cycles: float, macs: int, shape: GemvShape, order: str) -> PimEstimate:
    org, pim = device.organisation, device.pim
    assert pim is not None
    columns = shape.groups * sum(shape.widths())
    time_s = math.ceil(cycles) * device.cycle_s
    # Units between two banks: kernels use those of one rank.
    units = device.units_per_channel // (org.ranks if pim.placement == "bank-pair" else 1)
    peak = org.channels * units * pim.lanes * pim.clock_hz
    return PimEstimate(math.ceil(cycles), time_s, macs, columns * org.column_bytes * org.channels * org.banks_per_channel,
                       min(1.0, macs / (time_s * peak)), order, peak_bytes_per_s=org.channels * units * pim.width_bytes * pim.clock_hz)


def best_gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, element_bytes: int = 2,
              refresh: bool = True, bits: float | None = None) -> PimEstimate:
    """The loop order of a GEMV with fewest cycles: all orders are tried; errors as `aim_gemv`.

    >>> from presilicon.arch.dram import load
    >>> best_gemv(load("aim-gddr6"), 4096, 4096).order
    'inputs'
    """
    found = [aim_gemv(device, outputs, inputs, batch=batch, element_bytes=element_bytes, order=order, refresh=refresh, bits=bits)
             for order in ("outputs", "inputs")]
    return min(found, key=lambda estimate: estimate.cycles)


def samsung_units(device: DramDevice) -> None:
    """Raise MappingError for a device without Samsung's units, or whose channels their kernels cannot park and program."""
    org = device.organisation
    if device.pim is None or device.pim.placement != "bank-pair":
        raise MappingError(f"{device.name}: has no processing unit between two banks, which these kernels need")
    if org.pseudo_channels != 1 or org.bank_groups < 3 or org.banks < 2:
        raise MappingError(f"{device.name}: organisation: {org.pseudo_channels} pseudo-channels, {org.bank_groups} bank groups of "
                           f"{org.banks} banks; its kernels change modes by banks 0 and 1 of the first and third group: expected 1 "
                           "pseudo-channel (count them as channels), 3 bank groups or more and 2 banks or more")


def samsung_gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, refresh: bool = True) -> PimEstimate:
    """GEMV of FP16 on Samsung's units in closed form; arguments and errors as `presilicon.sim.dram.samsung.simulate`.

    A tile is 8 register writes to a row of bank 1 and 64 reads over two rows, of bank 0 in even tiles, of bank 1 in odd ones;
    the bus turns around twice, and each change of a row is written out. About 408 + 365 n cycles for n tiles.
    """
    positive(device, outputs=outputs, inputs=inputs, batch=batch)
    samsung_units(device)
    pim, org, t = device.pim, device.organisation, device.timings
    assert pim is not None
    units = org.channels * device.units_per_channel // org.ranks
    registers = pim.registers
    groups = math.ceil(outputs / units / registers)
    tiles = math.ceil(math.ceil(inputs / pim.lanes) / registers)
    squares = registers * registers
    if squares % org.columns and org.columns % squares:
        raise MappingError(f"{device.name}: tiles of {squares} columns lie askew in rows of {org.columns}")
    # A write, its row closed, another opened; a read to a read, or to a write, of another row of the same bank.
    rewrite = t["tCWL"] + t["tBL"] + t["tWR"] + t["tRP"]
    reread = t["tRTP"] + t["tRP"]
    rows_of_tile = max(1, squares // org.columns)
    step = max(t["tCCD_L"], t["tBL"])
    read = (squares - rows_of_tile) * step + (rows_of_tile - 1) * (reread + t["tRCDRD"])
    write = (registers - 1) * step
    turn = t["tCWL"] + t["tBL"] + t["tWTR_L"]
    # Even tiles read bank 0, beside the registers' row in bank 1; odd tiles share bank 1 with it.
    even = write + turn + read + t["tRTW"]
    odd = write + rewrite + t["tRCDRD"] + read + reread + t["tRCDWR"]
    passes = groups * batch
    fresh = rewrite + t["tRCDWR"]
    work = passes * (math.ceil(tiles / 2) * even + tiles // 2 * odd + write) + (passes - 1) * fresh
    banks = org.bank_groups * org.banks
    park = (banks - 2) * t["tRRD_S"] + 2 * t["tRCDRD"] + 1
    mode = 1 + t["tRCDWR"]
    head = 1 + park + t["tRTW"] + 2 * t["tCCD_S"] + fresh + mode + t["tCCD_L"]
    late = max(0, rewrite + t["tRCDRD"] - t["tCCD_L"] - write - turn)
    # A refresh that falls due as the banks park at the end comes after them.
    parked = park + t["tCL"] + t["tBL"] + 2
    cycles = float(head + late + work + 2 * mode + fresh + rewrite - t["tRP"] + 1)
    cycles = (refreshed(device, cycles, t["tRP"]) if refresh else cycles) + parked
    shape = GemvShape(groups, tiles, squares, squares)
    found = _estimate(device, cycles, outputs * inputs * batch, shape, "")
    # Rows of W opened, and columns read, by each unit; registers written beside all units of a channel, and read of each of them.
    read, opened = passes * tiles * squares * org.column_bytes, passes * tiles * rows_of_tile * org.row_bytes
    writes, reads = passes * tiles * registers, passes * registers * units // org.channels
    return replace(found, weight_bytes=read * units, opened_bytes=opened * units, writes=writes, reads=reads,
                   moved_bytes=(writes + reads) * org.column_bytes * org.channels)


def attacc_attention(device: DramDevice, heads: int, keys: int, *, head_dim: int = 128, element_bytes: int = 2,
                     level: Literal["bank", "bg", "buffer"] = "bank", power_limited: bool = True, refresh: bool = True,
                     longest: int | None = None) -> PimEstimate:
    """Decode attention on an AttAcc stack in closed form (`presilicon.mapping.attacc_attention`): within 2 % of the commands, or a few
    tens of cycles where there are few keys.

    The busiest channel does ``ceil(heads / channels)`` heads, two of them interleaved. MACs follow each other at tCCD; units
    at the banks wait for every change of the row, the others find the next bank open. Softmax and moves hide behind the
    products, but for those of the last head. `longest`: keys for which room is kept, which places the heads in the banks; None: 4,096, or
    `keys` where those are more.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, elements that do not divide a column.
    UnknownNameError
        A level that does not exist.

    >>> from presilicon.arch.dram import load
    >>> attacc_attention(load("attacc-hbm3"), 64, 256).cycles
    1783
    """
    positive(device, heads=heads, keys=keys, head_dim=head_dim, element_bytes=element_bytes)
    org = device.organisation
    if level not in ("bank", "bg", "buffer"):
        raise UnknownNameError("level", str(level), ("bank", "bg", "buffer"), device.name)
    if org.column_bytes % element_bytes:
        raise MappingError(f"{device.name}: elements of {element_bytes} bytes do not divide a column of {org.column_bytes}")
    if not power_limited:
        device = device.without_power_limit()
    lanes = org.column_bytes // element_bytes
    found = attention_cycles(device, heads, keys, head_dim, element_bytes, level, refresh, longest or max(keys, 4096))
    wanted, time_s = 2 * heads * keys * head_dim, found.cycles * device.cycle_s
    peak = org.channels * found.units * lanes / (found.step * device.cycle_s)
    return PimEstimate(found.cycles, time_s, wanted, found.macs * org.column_bytes * org.channels * found.units,
                       min(1.0, wanted / (time_s * peak)))
