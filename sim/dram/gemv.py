"""y = W x on a PIM device, in closed form and command by command, with the difference between the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ...arch import dram
from ...arch.dram import DramDevice
from ...errors import MappingError, UnknownNameError
from ...mapping import pim, pim_gemv, pim_rows
from . import aim, attacc, neupims, rows, samsung
from .engine import Stream

Fidelity = Literal["analytic", "cycle"]
FIDELITIES: Final = ("analytic", "cycle")


@dataclass(frozen=True)
class GemvReport:
    """What a GEMV takes.

    Attributes
    ----------
    device, outputs, inputs, batch
        What was asked.
    analytic
        The closed form, in the loop order that it found best (or was given).
    cycles
        Cycles command by command; None with the closed form alone.
    stream
        Commands of one channel, which stands for all; None likewise.
    """

    device: DramDevice
    outputs: int
    inputs: int
    batch: int
    analytic: pim.PimEstimate
    cycles: int | None = None
    stream: Stream | None = None

    @property
    def gap(self) -> float | None:
        """Closed form over commands, less one."""
        return None if self.cycles is None else self.analytic.cycles / self.cycles - 1.0

    @property
    def time_s(self) -> float:
        """Seconds, by the commands where they were played."""
        return self.analytic.time_s if self.cycles is None else self.cycles * self.device.cycle_s


def gemv(system: str | Path | DramDevice, outputs: int, inputs: int, *, batch: int = 1, fidelity: Fidelity = "cycle",
         order: pim.Order | None = None, refresh: bool = True, level: str = "bank", element: str = "") -> GemvReport:
    """Predict y = W x, W of ``(outputs, inputs)``, on a device by name or file; of 16-bit numbers, but for UPMEM.

    Parameters
    ----------
    system
        ``"aim-gddr6"``, ``"samsung-hbm2-pim"``, ``"attacc-hbm3"``, ``"neupims-hbm2"``, ``"newton-hbm2"``, ``"upmem"``, or a file.
    outputs, inputs, batch
        Rows and columns of W, and vectors; units multiply one vector after the other.
    fidelity
        ``"analytic"``: the closed form; ``"cycle"``: the commands as well (UPMEM has only the closed form: its cores run instructions).
    order
        Loop order of a device with a global buffer; None searches.
    refresh
        All-bank refresh.
    level
        Where AttAcc's units are, ``"bank"``, ``"bg"`` or ``"buffer"``.
    element
        UPMEM's numbers, ``"int8"`` (if ""), ``"int32"`` or ``"fp32"``.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device, a device without units for it.
    UnknownNameError
        No such device, fidelity, order, level or element.

    >>> report = gemv("aim-gddr6", 4096, 4096, refresh=False)
    >>> report.analytic.order, report.cycles, report.gap
    ('inputs', 9665, 0.0)
    """
    if fidelity not in FIDELITIES:
        raise UnknownNameError("fidelity", str(fidelity), FIDELITIES)
    device = dram.load(system)
    placement = device.pim.placement if device.pim else "none"
    commands = {command.name for command in device.commands}
    if "mac_int8" in device.controller:
        closed = pim_gemv.upmem_gemv(device, outputs, inputs, batch=batch, element=element or "int8")
        return GemvReport(device, outputs, inputs, batch, closed)
    if device.gemv is not None and not element:
        closed = pim_rows.row_gemv(device, outputs, inputs, batch=batch, order=order, refresh=refresh)
        if fidelity == "analytic":
            return GemvReport(device, outputs, inputs, batch, closed)
        how: pim.Order = "inputs" if closed.order == "inputs" else "outputs"
        plain = rows.gemv(device, outputs, inputs, batch=batch, order=how, refresh="all-bank" if refresh else "off")
        return GemvReport(device, outputs, inputs, batch, closed, plain.cycles, plain.stream)
    if element:
        raise MappingError(f"{device.name}: element {element!r}: its units take 16-bit numbers; only UPMEM has others")
    if "MACAB" in commands:
        wanted = next((known for known in pim_gemv.LEVELS if known == level), None)
        if wanted is None:
            raise UnknownNameError("level", str(level), pim_gemv.LEVELS, device.name)
        closed = pim_gemv.attacc_gemv(device, outputs, inputs, batch=batch, level=wanted, refresh=refresh)
        if fidelity == "analytic":
            return GemvReport(device, outputs, inputs, batch, closed)
        moved = attacc.gemv(device, outputs, inputs, batch=batch, level=wanted, refresh="all-bank" if refresh else "off")
        return GemvReport(device, outputs, inputs, batch, closed, moved.cycles, moved.stream)
    if "GACT" in commands:
        closed = pim_gemv.newton_gemv(device, outputs, inputs, batch=batch, refresh=refresh)
        if fidelity == "analytic":
            return GemvReport(device, outputs, inputs, batch, closed)
        groups, blocks = pim_gemv.newton_shape(device, outputs, inputs)
        tiles = [neupims.Tile(columns, 1, index * groups + group, group == 0) for _ in range(batch) for index, columns in enumerate(blocks)
                 for group in range(groups)]
        tiled = neupims.simulate(device, tiles, refresh=refresh)
        return GemvReport(device, outputs, inputs, batch, closed, tiled.cycles, tiled.stream)
    if placement == "bank-pair":
        closed = pim.samsung_gemv(device, outputs, inputs, batch=batch, refresh=refresh)
        if fidelity == "analytic":
            return GemvReport(device, outputs, inputs, batch, closed)
        run = samsung.simulate(device, "GEMV", outputs, inputs, batch, refresh="all-bank" if refresh else "off")
        return GemvReport(device, outputs, inputs, batch, closed, run.cycles, run.stream)
    if placement != "bank" or "MAC16" not in commands:
        raise MappingError(f"{device.name}: has no GEMV kernel: its file says not which commands a GEMV takes (gemv: mac, write, "
                           f"read), and has not those of aim-gddr6, samsung-hbm2-pim, attacc-hbm3, neupims-hbm2 or newton-hbm2")
    if order is None:
        closed = pim.best_gemv(device, outputs, inputs, batch=batch, refresh=refresh)
    else:
        closed = pim.aim_gemv(device, outputs, inputs, batch=batch, order=order, refresh=refresh)
    if fidelity == "analytic":
        return GemvReport(device, outputs, inputs, batch, closed)
    chosen: pim.Order = "inputs" if closed.order == "inputs" else "outputs"
    played = aim.gemv(device, outputs, inputs, batch=batch, order=chosen, refresh="all-bank" if refresh else "off")
    return GemvReport(device, outputs, inputs, batch, closed, played.cycles, played.stream)
