"""Closed forms of y = W x on devices other than AiM and Samsung's: AttAcc at its three levels, NeuPIMs and Newton, UPMEM.

* AttAcc: rows of W lie as keys do. A block of inputs fills the operand buffers, ``columns x lanes`` of a bank at most; MACs follow each
  other at tCCD, results move to the buffer die 16 at a time beside the MACs of the next 16 rows, and add up there.
* NeuPIMs, Newton: one row of W a bank, and a block of inputs a row; a tile of every bank gives one result each. The buffer is written
  once a block.
* UPMEM: each scalar core takes its share of W's rows. Its threads fill its pipeline, one instruction a cycle; reads from MRAM go on
  beside them, 77 cycles and a cycle for 2 bytes each. The slower of the two sets the time. Moving x and y over the host's bus is not in it.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from ..arch.dram import DramDevice
from ..errors import MappingError, UnknownNameError
from .attacc_time import MOVED, AttaccClock
from .newton_refresh import TileClock
from .pim import PimEstimate, best_gemv, positive, weights_in_column
from .pim_attention import tile_cycles

Level = Literal["bank", "bg", "buffer"]
LEVELS: Final[tuple[Level, ...]] = ("bank", "bg", "buffer")
ELEMENTS: Final = {"int8": 1, "int32": 4, "fp32": 4}


def _fits(device: DramDevice, outputs: int, inputs: int, needed: float) -> None:
    if needed > device.organisation.size_bytes:
        raise MappingError(f"{device.name}: a matrix of {outputs} x {inputs} takes {needed / 2**30:.2f} GiB; there are "
                           f"{device.organisation.size_bytes / 2**30:.2f} GiB")


def attacc_blocks(device: DramDevice, inputs: int, level: Level) -> list[int]:
    """Inputs of each block: what the operand buffers of the units that share a row of W hold."""
    if level not in LEVELS:
        raise UnknownNameError("level", str(level), LEVELS, device.name)
    assert device.pim is not None
    most = device.pim.buffer_bytes // 2 * (device.organisation.banks if level == "bank" else 1)
    return [min(most, inputs - at) for at in range(0, inputs, most)]


def attacc_gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, level: Level = "bank", power_limited: bool = True,
                refresh: bool = True, bits: float = 16.0, vectors: int = 1) -> PimEstimate:
    """GEMV on an AttAcc stack, as `presilicon.sim.dram.attacc.gemv` plays it with weights of 16 bits.

    `bits`: stored bits of a weight. Inputs have 16, and units take a column of narrower weights in the same time, as AttAcc's of INT8.
    `vectors`: how many vectors units multiply at once with a column that they have read, where they have multipliers, an operand buffer
    and an accumulator for each (PAPI); their inputs are written and their results moved one after the other. `batch` counts such groups.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device, weights wider than a column.
    UnknownNameError
        A level that does not exist.
    """
    positive(device, outputs=outputs, inputs=inputs, batch=batch, vectors=vectors)
    blocks = attacc_blocks(device, inputs, level)
    if not power_limited:
        device = device.without_power_limit()
    org, t = device.organisation, device.timings
    lanes, across = weights_in_column(device, bits), org.banks if level == "bank" else 1
    split = org.pseudo_channels * (1 if level == "buffer" else org.ranks * org.bank_groups)
    rows = math.ceil(math.ceil(outputs / org.channels) / split)
    per_row = [math.ceil(block / across / lanes) for block in blocks]
    writes = [math.ceil(block / across / (org.column_bytes // 2)) * across * vectors for block in blocks]
    _fits(device, outputs, inputs, float(sum(per_row)) * rows * org.column_bytes * org.channels * split * across)
    step = {"bank": t.get("tCCD_AB", 0), "bg": t.get("tCCD_SB", 0), "buffer": t["tBL"]}[level]
    clock = AttaccClock(device, level, step, refresh)
    clock.movers *= vectors
    starts = [rows * sum(per_row[:index]) for index in range(len(per_row))]
    passes = list(zip(starts, per_row, writes, strict=True)) * batch
    for index, (at, columns, written) in enumerate(passes):
        ahead = passes[index + 1] if index + 1 < len(passes) else None
        clock.block(at, rows, columns, written, None if ahead is None else (ahead[0], ahead[2]))
    cycles = clock.free - 1
    time_s = cycles * device.cycle_s
    wanted = outputs * inputs * batch * vectors
    peak = vectors * org.channels * split * across * lanes / (step * device.cycle_s)
    read = batch * sum(per_row) * rows * org.column_bytes * org.channels * split * across
    moved = batch * sum(writes), batch * len(blocks) * clock.movers * math.ceil(rows / MOVED)
    units = org.channels * split * across
    return PimEstimate(cycles, time_s, wanted, read, min(1.0, wanted / (time_s * peak)), level,
                       clock.rows_opened(rows * sum(per_row), batch) * org.row_bytes * units, *moved,
                       sum(moved) * org.column_bytes * org.channels, units * org.column_bytes / (step * device.cycle_s))


def weights_s(device: DramDevice, kernel: str, outputs: int, inputs: int, *, bits: float = 16.0, level: str = "bank",
              power_limited: bool = True, vectors: int = 1) -> float:
    """Seconds of one vector's product with weights of so many stored bits, on units of kernel ``"aim"``, ``"attacc"`` or ``"upmem"``.

    `vectors`: as `attacc_gemv`, whose units alone take several at once. UPMEM's cores multiply integers of up to 8 bits as int8, and wider
    numbers as fp32.

    Raises
    ------
    MappingError
        A matrix larger than the device, another kernel.
    UnknownNameError
        Units of AttAcc at another level.
    """
    if kernel == "aim":
        return best_gemv(device, outputs, inputs, bits=bits).time_s
    if kernel == "attacc":
        where = next((known for known in LEVELS if known == level), None)
        if where is None:
            raise UnknownNameError("level", str(level), LEVELS, device.name)
        return attacc_gemv(device, outputs, inputs, level=where, power_limited=power_limited, bits=bits, vectors=vectors).time_s
    if kernel == "upmem":
        return upmem_gemv(device, outputs, inputs, element="int8" if bits <= 8 else "fp32").time_s
    raise MappingError(f"{device.name}: kernel {kernel!r} has no product with weights here; aim, attacc and upmem have")


def newton_shape(
    device: DramDevice, outputs: int, inputs: int, *, bits: float = 16.0, channels: int | None = None
) -> tuple[int, list[int]]:
    """Passes over all banks of `channels` (None: the device's), and columns of each block of inputs of `bits`; errors as `newton_gemv`."""
    positive(device, outputs=outputs, inputs=inputs)
    if device.pim is None or all(command.name != "GACT" for command in device.commands):
        raise MappingError(f"{device.name}: has no four-bank activates (GACT); shipped with them are neupims-hbm2 and newton-hbm2")
    org, per_row = device.organisation, int(device.organisation.row_bytes * 8 // bits)
    groups = math.ceil(outputs / ((channels or org.channels) * org.banks_per_channel))
    blocks = [min(per_row, inputs - at) for at in range(0, inputs, per_row)]
    if groups * len(blocks) > org.rows:
        raise MappingError(f"{device.name}: a matrix of {outputs} x {inputs} takes {groups * len(blocks)} rows of every bank; "
                           f"there are {org.rows}")
    return groups, [math.ceil(block / (device.pim.width_bytes * 8 / bits)) for block in blocks]


def newton_gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, refresh: bool = True, bits: float = 16.0) -> PimEstimate:
    """GEMV on NeuPIMs or Newton, as `presilicon.sim.dram.neupims` plays its tiles; `bits`: as `attacc_gemv`.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device, a device without four-bank activates.
    """
    groups, blocks = newton_shape(device, outputs, inputs, bits=bits)
    positive(device, batch=batch)
    org = device.organisation
    clock = TileClock(device, refresh)
    for _ in range(batch):
        for columns in blocks:
            clock.vector()
            clock.tiles(groups, tile_cycles(device, columns), columns)
    cycles = clock.shut + 1
    assert device.pim is not None
    time_s, units = math.ceil(cycles) * device.cycle_s, org.channels * org.banks_per_channel
    read = batch * groups * sum(blocks) * device.pim.width_bytes * units
    wanted = outputs * inputs * batch
    peak = units * device.pim.lanes * device.pim.clock_hz
    tiles, writes = batch * groups * len(blocks), batch * len(blocks)
    return PimEstimate(math.ceil(cycles), time_s, wanted, read, min(1.0, wanted / (time_s * peak)), "", tiles * org.row_bytes * units,
                       writes, tiles, (writes * org.row_bytes + tiles * org.column_bytes) * org.channels,
                       units * device.pim.width_bytes * device.pim.clock_hz)


def upmem_gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, element: str = "int8", threads: int = 16) -> PimEstimate:
    """GEMV on UPMEM's cores, whose instructions by element are stated in the device file; cycles are those of the core.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a share of W larger than a bank, vectors larger than the working memory.
    UnknownNameError
        Another element than int8, int32 or fp32.
    """
    positive(device, outputs=outputs, inputs=inputs, batch=batch, threads=threads)
    if element not in ELEMENTS:
        raise UnknownNameError("element", str(element), ELEMENTS, device.name)
    unit, org, told = device.pim, device.organisation, device.controller
    assert unit is not None
    cores = org.channels * org.banks_per_channel
    rows, size = math.ceil(outputs / cores), ELEMENTS[element]
    if rows * inputs * size > org.rows * org.row_bytes:
        raise MappingError(f"{device.name}: a matrix of {outputs} x {inputs} takes {rows * inputs * size} bytes of every bank; there are "
                           f"{org.rows * org.row_bytes}")
    # Threads take rows, so that the one with most rows ends last; fewer than 11 leave the pipeline empty.
    busy = min(threads, rows * max(1, math.ceil(inputs * size / told["dma_block"])))
    work = rows * inputs * told[f"mac_{element}"] * max(1.0, told["revolver"] / busy)
    reads = 2 if inputs * size > unit.buffer_bytes // 2 else 1
    moved = reads * rows * inputs * size
    dma = math.ceil(moved / told["dma_block"]) * told["dma_cycles"] + moved / told["dma_bytes_per_cycle"]
    cycles = batch * max(work, dma) + told["stages"]
    time_s, wanted = cycles / unit.clock_hz, outputs * inputs * batch
    return PimEstimate(math.ceil(cycles), time_s, wanted, batch * rows * inputs * size * cores,
                       min(1.0, wanted / (time_s * cores * unit.clock_hz)),
                       peak_bytes_per_s=cores * told["dma_bytes_per_cycle"] * unit.clock_hz)

