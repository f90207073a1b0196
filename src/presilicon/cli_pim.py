"""Commands for kernels on processing in memory."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import MappingError
from .files import check_writable, write_atomically
from .terminal import make_console

if TYPE_CHECKING:
    from rich.table import Table

    from .sim.dram.gemv import GemvReport


class UnitLevel(StrEnum):
    """Where AttAcc's units are."""

    BANK = "bank"
    BG = "bg"
    BUFFER = "buffer"


class LoopOrder(StrEnum):
    """What the outer loop of a device with a global buffer runs over."""

    OUTPUTS = "outputs"
    INPUTS = "inputs"


class PimFidelity(StrEnum):
    """How closely a PIM kernel is modelled."""

    ANALYTIC = "analytic"
    CYCLE = "cycle"


pim_app = typer.Typer(no_args_is_help=True, help="Kernels on processing in memory, in closed form and command by command.")


@pim_app.callback()
def _pim() -> None:
    """Processing in memory."""


@pim_app.command("gemv")
def pim_gemv(
    rows: Annotated[int, typer.Option(help="Rows of W: outputs.")],
    cols: Annotated[int, typer.Option(help="Columns of W: inputs.")],
    system: Annotated[
        str, typer.Option(help="aim-gddr6, samsung-hbm2-pim, attacc-hbm3, neupims-hbm2, newton-hbm2, upmem, or a file.")
    ] = "aim-gddr6",
    fidelity: Annotated[PimFidelity, typer.Option(help="cycle: command by command as well.")] = PimFidelity.CYCLE,
    batch: Annotated[int, typer.Option(help="Vectors.")] = 1,
    bits: Annotated[float | None, typer.Option(help="Stored bits of a weight, scales included; 16 by default, inputs always.")] = None,
    order: Annotated[LoopOrder | None, typer.Option(help="Loop order of devices with a global buffer; by default the faster one.")] = None,
    split: Annotated[str, typer.Option(help="Channels that share a row of W, each with a part of the inputs; auto: the fastest.")] = "1",
    compare: Annotated[bool, typer.Option("--compare", help="List every layout: orders, levels of AttAcc's units, splits.")] = False,
    refresh: Annotated[bool, typer.Option(help="Refresh the memory.")] = True,
    level: Annotated[UnitLevel, typer.Option(help="Where AttAcc's units are.")] = UnitLevel.BANK,
    element: Annotated[str, typer.Option(help="UPMEM's numbers: int8 (default), int32 or fp32; others take 16 bits.")] = "",
    commands: Annotated[Path | None, typer.Option(help="Write the commands of one channel here (needs cycle).")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the answer here (JSON, SI units).")] = None,
) -> None:
    """Cycles, bandwidth and energy of y = W x on a PIM device: closed form, commands, the difference, and why it lies as it does."""
    import json

    from .sim.dram.gemv import gemv

    console = make_console()
    if commands is not None and fidelity is not PimFidelity.CYCLE:
        raise MappingError("--commands: the closed form issues none; use --fidelity cycle")
    for path in filter(None, (commands, out)):
        check_writable(path)
    answer = gemv(system, rows, cols, batch=batch, fidelity=fidelity.value, order=None if order is None else order.value, refresh=refresh,
                  level=level.value, element=element, bits=bits, split=_split(split))
    if commands is not None and answer.stream is None:
        raise MappingError(f"--commands: {answer.device.name} has a closed form only; its cores run instructions")
    for line in _lines(answer, fidelity is PimFidelity.CYCLE):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if compare:
        console.print(_comparison(answer))
    if commands is not None and answer.stream is not None:
        answer.stream.write(commands)
    if out is not None:
        write_atomically(out, (json.dumps(answer.document(), indent=1) + "\n").encode())
    for written in filter(None, (commands, out)):
        console.print(f"wrote {written}", highlight=False, markup=False, soft_wrap=True)


def _split(text: str) -> int | None:
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 9):
        raise MappingError(f"--split: expected a whole number of channels from 1 on, or auto, found {text!r}")
    return int(text)


def _lines(answer: GemvReport, played: bool) -> list[str]:
    from .units import format_si

    closed, asked = answer.analytic, answer.product
    lines = [
        f"{answer.device.title}: {asked.outputs} x {asked.inputs} of {asked.bits:g} bits, batch {asked.batch}, refresh "
        f"{'on' if asked.refresh else 'off'}, {answer.layout}",
        f"closed form  {closed.cycles} cycles  {format_si(closed.time_s, 's')}",
    ]
    if answer.stream is not None and answer.gap is not None:
        lines.append(f"commands     {answer.cycles} cycles  {format_si(answer.time_s, 's')}  closed form {100 * answer.gap:+.2f} %")
        lines.append("per channel  " + ", ".join(f"{n} {c}" for n, c in sorted(answer.stream.counts().items())))
    elif played:
        lines.append("commands     none: its cores run instructions, whose counts the device file states")
    lines.append(f"bandwidth    {format_si(answer.bandwidth_bytes_per_s, 'B/s')} of the matrix, {100 * answer.roofline_share:.1f} % of the "
                 f"{format_si(closed.peak_bytes_per_s, 'B/s')} at which the units take columns")
    energy = answer.energy_j
    if energy:
        total = sum(energy.values())
        lines.append(f"energy       {format_si(total, 'J')}, {format_si(total / closed.macs, 'J')} a multiply-add: "
                     + ", ".join(f"{name} {format_si(joules, 'J')}" for name, joules in sorted(energy.items(), key=lambda part: -part[1])))
    else:
        lines.append("energy       none: the device's file states no energies")
    return lines + [f"{'layout' if not index else '':13}{line}" for index, line in enumerate(answer.why())]


def _comparison(answer: GemvReport) -> Table:
    """Every layout of the device in closed form, fastest first; of AttAcc's at all levels."""
    from .mapping.pim_gemv import LEVELS
    from .mapping.pim_layouts import candidates, layouts
    from .tables import make_table
    from .units import format_si

    device, asked = answer.device, answer.product
    wanted = (layout for level in (LEVELS if answer.layout.level else ("bank",)) for layout in layouts(device, level=level, split=None))
    rows = []
    for layout, found in candidates(device, asked, wanted):
        other = replace(answer, layout=layout, analytic=found, cycles=None, stream=None)
        rows.append(("*" if layout == answer.layout else "", layout, f"{found.cycles:,}", f"{100 * other.roofline_share:.1f} %",
                     f"{found.writes:,}", f"{found.reads:,}", format_si(sum(other.energy_j.values()), "J") if other.energy_j else "-"))
    names = [("", "left"), ("layout", "left")]
    return make_table("closed form of every layout; writes and reads of buffers and accumulators in one channel",
                      [*names, *((name, "right") for name in ("cycles", "of the roofline", "writes", "reads", "energy"))], rows)
