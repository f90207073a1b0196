"""Commands for accelerators other than GPUs: the mapping of one operator, and kernels on processing in memory."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .errors import PresiliconError, UnknownNameError
from .files import check_writable
from .terminal import make_console


class ObjectiveName(StrEnum):
    """What the best mapping has least of."""

    ENERGY = "energy"
    LATENCY = "latency"
    EDP = "edp"


def map_(
    op: Annotated[str | None, typer.Argument(help="An op, such as 'matmul m=1024 n=1024 k=1024 int8'.")] = None,
    system: Annotated[str, typer.Option("--system", help="Name or path of a hierarchy file.")] = "mapbench-16",
    objective: Annotated[ObjectiveName, typer.Option(help="What is least.")] = ObjectiveName.EDP,
    graph: Annotated[Path | None, typer.Option(help="Take the op from a saved graph.")] = None,
    name: Annotated[str | None, typer.Option("--op", help="Name of the op in --graph.")] = None,
    dataflow: Annotated[str | None, typer.Option(help="os, ws or is.")] = None,
    front: Annotated[bool, typer.Option("--pareto", help="The energy-latency front.")] = False,
    time_limit: Annotated[float | None, typer.Option(help="Seconds; then the best so far and its bound.", min=0.0)] = None,
) -> None:
    """The best mapping of one operator onto a spatial accelerator, and whether it is proven."""
    from .mapping.nest import Constraints, map_op, op_from_text, pareto
    from .units import format_si
    from .workloads.graph import OpGraph

    if (op is None) == (graph is None) or (graph is None) != (name is None):
        raise PresiliconError("map: give either an op, or --graph FILE with --op NAME")
    if graph is not None and name is not None:
        loaded = OpGraph.load(graph)
        if name not in loaded.nx:
            raise UnknownNameError("op", name, [each.name for each in loaded], where=str(graph))
        chosen = loaded[name]
    else:
        chosen = op_from_text(str(op))
    console, limits = make_console(), Constraints(dataflow=dataflow)
    if not front:
        console.print(str(map_op(chosen, system, objective.value, limits, time_limit_s=time_limit)), highlight=False, markup=False)
        return
    for p in pareto(chosen, system, limits, time_limit_s=time_limit):
        proof = "proven" if p.exhausted else f"gap {p.gap:.1%}"
        console.print(f"{format_si(p.counts.energy_j, 'J', 6)}  {p.counts.cycles:,.0f} cycles  {proof}", highlight=False, markup=False)


pim_app = typer.Typer(no_args_is_help=True, help="Kernels on processing in memory, in closed form and command by command.")


@pim_app.callback()
def _pim() -> None:
    """Processing in memory."""


@pim_app.command("gemv")
def pim_gemv(
    rows: Annotated[int, typer.Option(help="Rows of W: outputs.")],
    cols: Annotated[int, typer.Option(help="Columns of W: inputs.")],
    system: Annotated[str, typer.Option(help="PIM device: aim-gddr6, samsung-hbm2-pim, or a file.")] = "aim-gddr6",
    fidelity: Annotated[str, typer.Option(help="analytic, or cycle: command by command as well.")] = "cycle",
    batch: Annotated[int, typer.Option(help="Vectors.")] = 1,
    refresh: Annotated[bool, typer.Option(help="Refresh the memory.")] = True,
    commands: Annotated[Path | None, typer.Option(help="Write the commands of one channel here (needs cycle).")] = None,
) -> None:
    """Cycles of y = W x on a PIM device: closed form, commands, and the difference."""
    from typing import cast

    from .errors import MappingError
    from .sim.dram.gemv import Fidelity, gemv
    from .units import format_si

    console = make_console()
    if commands is not None:
        if fidelity != "cycle":
            raise MappingError("--commands: the closed form issues none; use --fidelity cycle")
        check_writable(commands)
    answer = gemv(system, rows, cols, batch=batch, fidelity=cast(Fidelity, fidelity), refresh=refresh)
    closed = answer.analytic
    order = f", loop order {closed.order}" if closed.order else ""
    lines = [
        f"{answer.device.title}: {rows} x {cols}, batch {batch}, refresh {'on' if refresh else 'off'}{order}",
        f"closed form  {closed.cycles} cycles  {format_si(closed.time_s, 's')}  {100 * closed.utilisation:.1f} % of the units",
    ]
    if answer.cycles is not None and answer.gap is not None and answer.stream is not None and answer.time_s is not None:
        lines.append(f"commands     {answer.cycles} cycles  {format_si(answer.time_s, 's')}  closed form {100 * answer.gap:+.2f} %")
        lines.append("per channel  " + ", ".join(f"{n} {c}" for n, c in sorted(answer.stream.counts().items())))
        if commands is not None:
            answer.stream.write(commands)
    for line in lines:
        console.print(line, highlight=False, markup=False)
