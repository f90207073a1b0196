"""y = W x on a PIM device, in closed form and command by command: cycles, the difference, energy by part, and the share of the roofline."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from ...arch import dram
from ...arch.dram import DramDevice
from ...arch.hybrid_spec import unit_level
from ...errors import MappingError, UnknownNameError
from ...mapping import pim, pim_gemv
from ...mapping.pim_energy import energy_j
from ...mapping.pim_layouts import PLAIN_BITS, GemvLayout, Product, candidates, closed_form, gemv_kernel, layouts, shared
from . import aim, attacc, neupims, rows, samsung
from .engine import RefreshKind, Stream

Fidelity = Literal["analytic", "cycle"]
FIDELITIES: Final = ("analytic", "cycle")
#: A faster layout is worth a word from this much on.
_NOTABLE: Final = 0.9


@dataclass(frozen=True)
class GemvReport:
    """What a GEMV takes.

    Attributes
    ----------
    device, product, layout
        What was asked, and how it lies there.
    analytic
        The closed form, in the loop order that it found best (or was given).
    cycles
        Cycles command by command; None with the closed form alone.
    stream
        Commands of one channel, which stands for all; None likewise.
    """

    device: DramDevice
    product: Product
    layout: GemvLayout
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

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bytes of W, padding excluded, once a vector, over the time."""
        return self.product.matrix_bytes * self.product.batch / self.time_s

    @property
    def roofline_share(self) -> float:
        """That bandwidth over the rate at which all units take columns."""
        return self.bandwidth_bytes_per_s / self.analytic.peak_bytes_per_s

    @cached_property
    def energy_j(self) -> dict[str, float]:
        """Joules by part (`presilicon.mapping.pim_energy`); empty where the device's file states none."""
        found = self.analytic
        return energy_j(self.device, self.layout.level or unit_level(self.device), read_bits=8.0 * found.weight_bytes, macs=found.macs,
                        path_bits=8.0 * found.moved_bytes, opened_bits=8.0 * found.opened_bytes, standing_s=self.time_s)

    @cached_property
    def others(self) -> list[tuple[GemvLayout, pim.PimEstimate]]:
        """Every other layout of the device in closed form, fewest cycles first."""
        every = candidates(self.device, self.product, layouts(self.device, level=self.layout.level or "bank", split=None))
        return [(layout, found) for layout, found in every if layout != self.layout]

    def why(self) -> list[str]:
        """Why the layout is as it is, in sentences: what the other loop order takes, and what inputs over more channels would."""
        lines = []
        mine = self.analytic
        for layout, found in self.others:
            if layout.split == self.layout.split:
                lines.append(f"{self.layout}: {mine.cycles} cycles, {mine.writes} writes of inputs and {mine.reads} accesses to "
                             f"accumulators a channel; {layout}: {found.cycles}, {found.writes} and {found.reads}")
        layout, found = min(self.others, key=lambda pair: pair[1].cycles, default=(self.layout, mine))
        if layout.split != self.layout.split and found.cycles < _NOTABLE * mine.cycles:
            lines.append(f"{layout} would take {found.cycles} cycles: {100 * self.roofline_share:.0f} % of the units' rate is used here")
        units = self.device.pim
        if units is not None and self.product.bits < PLAIN_BITS and not self.product.element and gemv_kernel(self.device) != "upmem":
            column = pim.weights_in_column(self.device, self.product.bits) * units.width_bytes // self.device.organisation.column_bytes
            lines.append(f"units of {units.lanes} lanes are taken to multiply the {column} weights of a step at once, as AttAcc's of INT8")
        return lines

    def document(self) -> dict[str, Any]:
        """The answer as plain data: SI units, names as here."""
        found, energy = self.analytic, self.energy_j
        return {
            "device": self.device.name, "outputs": self.product.outputs, "inputs": self.product.inputs, "batch": self.product.batch,
            "bits": self.product.bits, "refresh": self.product.refresh, "order": self.layout.order, "level": self.layout.level,
            "split": self.layout.split, "time_s": self.time_s,
            "analytic_cycles": found.cycles, "cycles": self.cycles, "gap": self.gap, "clock_hz": self.device.clock_hz, "macs": found.macs,
            "weight_bytes": found.weight_bytes, "opened_bytes": found.opened_bytes, "moved_bytes": found.moved_bytes,
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s, "peak_bytes_per_s": found.peak_bytes_per_s,
            "roofline_share": self.roofline_share, "energy_j": energy, "total_energy_j": sum(energy.values()) if energy else None,
            "energy_per_mac_j": sum(energy.values()) / found.macs if energy else None,
            "commands": self.stream.counts() if self.stream is not None else None, "why": self.why(),
            "others": [{"order": layout.order, "level": layout.level, "split": layout.split, "analytic_cycles": other.cycles,
                        "writes": other.writes, "reads": other.reads, "moved_bytes": other.moved_bytes}
                       for layout, other in self.others]}


def gemv(system: str | Path | DramDevice, outputs: int, inputs: int, *, batch: int = 1, fidelity: Fidelity = "cycle",
         order: pim.Order | None = None, refresh: bool = True, level: str = "bank", element: str = "", bits: float | None = None,
         split: int | None = 1) -> GemvReport:
    """Predict y = W x, W of ``(outputs, inputs)``, on a device by name or file.

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
    bits
        Stored bits of a weight, group scales included; inputs keep their 16. None: 16, or those of `element`.
    split
        Channels that share every row of W, each with a part of the inputs; None searches.

    Raises
    ------
    MappingError
        Sizes that are no positive integers, a matrix larger than the device, a device without units for it, weights that they cannot take.
    UnknownNameError
        No such device, fidelity, order, level or element.

    >>> report = gemv("aim-gddr6", 4096, 4096, refresh=False)
    >>> report.layout.order, report.cycles, report.gap
    ('inputs', 9665, 0.0)
    """
    if fidelity not in FIDELITIES:
        raise UnknownNameError("fidelity", str(fidelity), FIDELITIES)
    device = dram.load(system)
    kernel = gemv_kernel(device)
    if bits is None:
        bits = 8.0 * pim_gemv.ELEMENTS.get(element or "int8", 1) if kernel == "upmem" else PLAIN_BITS
    product = Product(outputs, inputs, batch, bits, element, refresh)
    wanted = list(layouts(device, order=order, level=level, split=split))
    if len(wanted) == 1:
        layout, closed = wanted[0], closed_form(device, product, wanted[0])
    else:
        layout, closed = candidates(device, product, iter(wanted))[0]
    report = GemvReport(device, product, layout, closed)
    if fidelity == "analytic" or kernel == "upmem":
        return report
    cycles, stream = _played(shared(device, layout.split), kernel, replace(product, inputs=math.ceil(inputs / layout.split)), layout)
    return replace(report, cycles=cycles, stream=stream)


def _played(device: DramDevice, kernel: str, product: Product, layout: GemvLayout) -> tuple[int, Stream]:
    """Cycles and commands of one channel."""
    outputs, inputs, batch = product.outputs, product.inputs, product.batch
    refresh: RefreshKind = "all-bank" if product.refresh else "off"
    order: pim.Order = "inputs" if layout.order == "inputs" else "outputs"
    bits = None if product.bits == PLAIN_BITS else product.bits
    if kernel == "gemv":
        plain = rows.gemv(device, outputs, inputs, batch=batch, order=order, refresh=refresh, bits=bits)
        return plain.cycles, plain.stream
    if kernel == "attacc":
        level = next(known for known in pim_gemv.LEVELS if known == layout.level)
        moved = attacc.gemv(device, outputs, inputs, batch=batch, level=level, refresh=refresh, bits=product.bits)
        return moved.cycles, moved.stream
    if kernel == "newton":
        groups, blocks = pim_gemv.newton_shape(device, outputs, inputs, bits=product.bits)
        tiles = [neupims.Tile(columns, 1, index * groups + group, group == 0) for _ in range(batch) for index, columns in enumerate(blocks)
                 for group in range(groups)]
        tiled = neupims.simulate(device, tiles, refresh=product.refresh)
        return tiled.cycles, tiled.stream
    if kernel == "samsung":
        run = samsung.simulate(device, "GEMV", outputs, inputs, batch, refresh=refresh)
        return run.cycles, run.stream
    if kernel != "aim":
        raise MappingError(f"{device.name}: kernel {kernel!r} has no commands to play")
    played = aim.gemv(device, outputs, inputs, batch=batch, order=order, refresh=refresh, bits=bits)
    return played.cycles, played.stream
