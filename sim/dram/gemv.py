"""y = W x on a PIM device, in closed form and command by command, with the difference between the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ...arch import dram
from ...arch.dram import DramDevice
from ...errors import MappingError, UnknownNameError
from ...mapping import pim
from . import aim, samsung
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
         order: pim.Order | None = None, refresh: bool = True) -> GemvReport:
    """Predict y = W x of 16-bit numbers, W of ``(outputs, inputs)``, on a device by name or file.

    Parameters
    ----------
    system
        ``"aim-gddr6"``, ``"samsung-hbm2-pim"``, a file, or a device with units in banks or between two.
    outputs, inputs, batch
        Rows and columns of W, and vectors; a device with a global buffer takes one at a time.
    fidelity
        ``"analytic"``: the closed form; ``"cycle"``: the commands as well.
    order
        Loop order of a device with a global buffer; None searches.
    refresh
        All-bank refresh.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device, a device without units for it.
    UnknownNameError
        No such device, fidelity or order.

    >>> report = gemv("aim-gddr6", 4096, 4096, refresh=False)
    >>> report.analytic.order, report.cycles, report.gap
    ('inputs', 9665, 0.0)
    """
    if fidelity not in FIDELITIES:
        raise UnknownNameError("fidelity", str(fidelity), FIDELITIES)
    device = dram.load(system)
    placement = device.pim.placement if device.pim else "none"
    if placement == "bank-pair":
        closed = pim.samsung_gemv(device, outputs, inputs, batch=batch, refresh=refresh)
        if fidelity == "analytic":
            return GemvReport(device, outputs, inputs, batch, closed)
        run = samsung.simulate(device, "GEMV", outputs, inputs, batch, refresh="all-bank" if refresh else "off")
        return GemvReport(device, outputs, inputs, batch, closed, run.cycles, run.stream)
    if placement != "bank" or all(command.name != "MAC16" for command in device.commands):
        raise MappingError(f"{device.name}: has no GEMV kernel: it needs units between banks, or in banks with a global buffer "
                           f"(MAC16); shipped are aim-gddr6 and samsung-hbm2-pim")
    pim.positive(device, batch=batch)
    if batch > 1:
        raise MappingError(f"{device.name}: batch {batch}: this kernel multiplies one vector; call it once for each")
    if order is None:
        closed = pim.best_gemv(device, outputs, inputs, refresh=refresh)
    else:
        closed = pim.aim_gemv(device, outputs, inputs, order=order, refresh=refresh)
    if fidelity == "analytic":
        return GemvReport(device, outputs, inputs, batch, closed)
    chosen: pim.Order = "inputs" if closed.order == "inputs" else "outputs"
    played = aim.gemv(device, outputs, inputs, order=chosen, refresh="all-bank" if refresh else "off")
    return GemvReport(device, outputs, inputs, batch, closed, played.cycles, played.stream)
