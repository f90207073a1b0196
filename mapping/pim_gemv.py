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
from .pim import PimEstimate, positive
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


class _Refreshes:
    """Refreshes of all banks as a kernel goes on: cycles of a span in which the banks idle, or work."""

    def __init__(self, device: DramDevice, extra: int) -> None:
        self.interval = self.due = device.timings["tREFI"] if device.refresh is not None else 0
        self.cost, self.extra = device.timings["tRFC"] if device.refresh is not None else 0, extra

    def idle(self, start: float, length: float) -> float:
        end = start + length
        while self.interval and self.due < end:
            end = max(end, max(self.due, start) + self.cost)
            self.due += self.interval
        return end - start

    def busy(self, start: float, length: float, row: float) -> float:
        """`row`: cycles at the end for which a refresh waits, and then begins among the next writes of inputs."""
        end = start + length
        while self.interval and self.due < end - row:
            end += self.cost + self.extra
            self.due += self.interval
        return end - start


def attacc_gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, level: Level = "bank", power_limited: bool = True,
                refresh: bool = True) -> PimEstimate:
    """GEMV of 16-bit numbers on an AttAcc stack, as `presilicon.sim.dram.attacc.gemv` plays it.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device.
    UnknownNameError
        A level that does not exist.
    """
    positive(device, outputs=outputs, inputs=inputs, batch=batch)
    blocks = attacc_blocks(device, inputs, level)
    if not power_limited:
        device = device.without_power_limit()
    org, t = device.organisation, device.timings
    lanes, across = org.column_bytes // 2, org.banks if level == "bank" else 1
    split = org.pseudo_channels * (1 if level == "buffer" else org.ranks * org.bank_groups)
    rows = math.ceil(math.ceil(outputs / org.channels) / split)
    per_row = [math.ceil(block / across / lanes) for block in blocks]
    _fits(device, outputs, inputs, float(sum(per_row)) * rows * org.column_bytes * org.channels * split * across)
    step = {"bank": t.get("tCCD_AB", 0), "bg": t.get("tCCD_SB", 0), "buffer": t["tBL"]}[level]
    reopen = t["tRTP_L"] + t["tRP"] + t["tRCDRD"]
    # Results of the last rows: bank groups and ranks in turn; nothing hides them. The next block's inputs follow in another bank group, but
    # for the single mover of the buffer die.
    movers = 1 if level == "buffer" else org.bank_groups * org.ranks
    last, between = (movers - 1) * t["tCCD_S"] + 1, t["tCCD_L"] if level == "buffer" else t["tCCD_S"]
    # Units at all banks go on until their row ends before they are refreshed; the others open theirs again.
    tail = min(org.columns, rows * min(per_row)) * step + last if level == "bank" else 0
    due = _Refreshes(device, 0 if level == "bank" else reopen - step) if refresh else None
    cycles = 1.0
    for _ in range(batch):
        at = 0
        for columns in per_row:
            macs = rows * columns
            first, at = at, at + macs
            # Writes of the inputs hide the activate (a block that goes on in an open row has none), and a refresh that begins among them.
            query = max((columns * across - 1) * t["tCCD_L"] + 1, 0 if first % org.columns else t["tRCDRD"])
            cycles += query if due is None else due.idle(cycles, query)
            crossed = (at - 1) // org.columns - first // org.columns if level == "bank" else 0
            work = (macs - 1) * step + crossed * (reopen - step) + last
            cycles += (work if due is None else due.busy(cycles, work, tail)) + between
    cycles -= between
    time_s = math.ceil(cycles) * device.cycle_s
    wanted = outputs * inputs * batch
    peak = org.channels * split * across * lanes / (step * device.cycle_s)
    read = batch * sum(per_row) * rows * org.column_bytes * org.channels * split * across
    return PimEstimate(math.ceil(cycles), time_s, wanted, read, min(1.0, wanted / (time_s * peak)), level)


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


def newton_gemv(device: DramDevice, outputs: int, inputs: int, *, batch: int = 1, refresh: bool = True) -> PimEstimate:
    """GEMV of 16-bit numbers on NeuPIMs or Newton, as `presilicon.sim.dram.neupims` plays its tiles.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device, a device without four-bank activates.
    """
    groups, blocks = newton_shape(device, outputs, inputs)
    positive(device, batch=batch)
    org, t = device.organisation, device.timings
    # A buffer write hides behind the precharge before it.
    load = t["tGWRITE"] - t["tRP"] + 1
    interval = t[device.refresh.interval] if refresh and device.refresh is not None else 0
    cycles, due = 0.0, interval
    for _ in range(batch):
        for columns in blocks:
            tile, left = tile_cycles(device, columns), groups
            cycles += load
            while left:
                # A refresh that would fall into a tile goes before it.
                fit = left if not interval else min(left, int((due - cycles) // tile))
                if fit < 1:
                    cycles, due = cycles + t["tRFC"], due + interval
                    continue
                cycles, left = cycles + fit * tile, left - fit
    assert device.pim is not None
    time_s, units = math.ceil(cycles) * device.cycle_s, org.channels * org.banks_per_channel
    read = batch * groups * sum(blocks) * device.pim.width_bytes * units
    wanted = outputs * inputs * batch
    peak = units * device.pim.lanes * device.pim.clock_hz
    return PimEstimate(math.ceil(cycles), time_s, wanted, read, min(1.0, wanted / (time_s * peak)))


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
                       min(1.0, wanted / (time_s * cores * unit.clock_hz)))

