"""The command line: one function per command; models and heavy libraries are imported inside."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from . import cli_accelerators, cli_explore, cli_kernels, cli_npu, cli_pim, cli_validate, cli_workload
from .cli_options import (
    FidelityName,
    FidelityOption,
    Model,
    RequestsOption,
    RuntimeName,
    RuntimeOption,
    Strict,
    SystemOption,
    assignments,
    how_split,
    takes,
    what_runs,
)
from .errors import KernelError, PresiliconError
from .explore import commands
from .files import check_writable, write_atomically
from .terminal import make_console

if TYPE_CHECKING:
    from .report import Report

#: Objects made between two searches for cycles. By Python's own 700 the searches are a sixth of what importing torch costs.
_ALLOCATIONS = 100_000

app = typer.Typer(
    help="Predict how fast, and at what energy, a PyTorch model runs on hardware that you do not own.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Listed here; `main` takes --debug out of the arguments, wherever it stands."""


@app.command()
@takes(what_runs, how_split)
def predict(
    call: typer.Context,
    model: Model,
    system: Annotated[list[str], typer.Option("--system", help="Name or device file; repeat to compare.")],
    requests: RequestsOption = None,
    runtime: RuntimeOption = RuntimeName.CUDAGRAPH,
    fidelity: FidelityOption = FidelityName.TILE,
    place: Annotated[
        str, typer.Option(help="Hybrid systems: auto (by cost), xpu, pim-attention, pim-linear, or pim (all that the units can do).")
    ] = "auto",
    strict: Strict = False,
    override: Annotated[list[str] | None, typer.Option("--set", help=("PATH=VALUE, such as dram.bandwidth='4 TB/s'; repeatable."))] = None,
    top: Annotated[int, typer.Option(help="Ops to list.", min=1)] = 10,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for the tables, timeline and roofline.")] = None,
) -> None:
    """Predict one step of a model on one system or several."""
    from .api import simulate
    from .arch import load
    from .tables import comparison_table

    console = make_console()
    if out is not None:
        check_writable(out / "report.csv")
    systems = [load(name).override(assignments(override)) for name in system]
    if place != "auto" and all(s.kind != "hybrid" for s in systems):
        raise PresiliconError(f"--place {place}: says where ops of a hybrid system run, and {', '.join(s.name for s in systems)} is none")
    reports = [
        simulate(graph, s, fidelity=fidelity.value, runtime=runtime.value, strict=strict, place=place)
        for graph, s in cli_workload.runs_of(model, strict, call, systems)
    ]
    for report in reports:
        report.print(console, top)
    if len(reports) > 1:
        console.print(comparison_table(reports))
    if out is not None:
        for report in reports:
            _write_outputs(report, out)
        console.print(f"wrote {out}", highlight=False, markup=False)


@app.command()
@takes(what_runs)
def compare(
    call: typer.Context,
    model: Model,
    first: Annotated[str, typer.Argument(metavar="A", help="System whose budget counts: a name or device file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="System whose PEs are scaled to that budget.")],
    iso: Annotated[cli_npu.BudgetName, typer.Option("--iso", help="area: equal silicon; power: equal peak power.")],
    fidelity: FidelityOption = FidelityName.TILE,
) -> None:
    """Two systems at equal area or power: B with as many PEs as A's budget holds."""
    from .api import simulate
    from .arch import load
    from .iso import equalise

    found = equalise(load(second), load(first), iso.value)
    graph = cli_workload.traced(model, False, call)
    systems = (load(first), load(second), found.system)
    cli_npu.show_equal([simulate(graph, s, fidelity=fidelity.value) for s in systems], found)


def _write_outputs(report: Report, folder: Path) -> None:
    import json
    import math

    from .plots import svg

    s = report.simulation
    stem = "-".join(filter(None, (s.graph.name, s.graph.meta.get("phase", ""), s.system.name))).replace("/", "_")
    picture = svg(report.roofline())
    write_atomically(folder / f"{stem}.csv", report.to_frame().to_csv(index=False).encode())
    plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in report.headline().items()}
    write_atomically(folder / f"{stem}.json", (json.dumps(plain, indent=1) + "\n").encode())
    report.to_perfetto(folder / f"{stem}.perfetto.json")
    write_atomically(folder / f"{stem}.roofline.svg", picture)


@app.command()
@takes(what_runs, how_split)
def trace(
    call: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="Graph file to write (.json or .json.gz).")],
    strict: Strict = False,
) -> None:
    """Trace a model into a graph file, which every command takes in place of MODEL without importing torch."""
    check_writable(out)
    graph = cli_workload.graph_of(model, strict, call)
    graph.save(out)
    console = make_console()
    console.print(f"{graph!r} written to {out}", highlight=False, markup=False)
    for u in graph.uncovered:
        console.print(f"uncovered: {u.target} x{u.count} ({u.example})", style="bold red", highlight=False, markup=False)


@app.command()
@takes(what_runs)
def sensitivity(
    call: typer.Context,
    model: Model,
    system: SystemOption,
    objective: Annotated[str, typer.Option(help="latency, throughput, energy, memory, area, power or cost.")] = "latency",
    calibration: Annotated[bool, typer.Option("--calibration", help="The constants of the models too.")] = False,
    top: Annotated[int, typer.Option(help="Numbers to print.", min=1)] = 20,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Picture (.svg, .pdf, .png), or CSV of every number.")] = None,
    fidelity: FidelityOption = FidelityName.ANALYTIC,
    runtime: RuntimeOption = RuntimeName.CUDAGRAPH,
) -> None:
    """Which number of a device moves the answer, and by how much."""
    from .arch import load
    from .explore.sensitivity import sensitivity as run

    if out is not None:
        check_writable(out)
    device = load(system)
    graph = cli_workload.traced(model, False, call)
    frame = run(graph, device, objective=objective, calibration=calibration, fidelity=fidelity.value, runtime=runtime.value)
    commands.show_sensitivity(frame, out, top)


@app.command()
def systems(name: Annotated[str | None, typer.Argument(help="One system: show every number with its source.")] = None) -> None:
    """List the device files, or show one with the source of every number."""
    from . import arch
    from .arch.listing import table
    from .tables import make_table
    from .units import format_si

    console = make_console()
    if name is None:
        rows = []
        for each in arch.names():
            s = arch.load(each)
            peaks = s.peaks_flops_per_s
            arithmetic = next((a for a in ("bf16", "fp16", "int8") if a in peaks), max(peaks, key=lambda a: peaks[a]))
            rows.append(
                (
                    s.name,
                    s.title,
                    s.kind,
                    s.generation or "-",
                    f"{format_si(peaks[arithmetic], 'FLOP/s')} {arithmetic}",
                    format_si(s.ceilings_bytes_per_s["dram"], "B/s"),
                    format_si(s.memory_bytes, "B"),
                    ", ".join(sorted(s.intervals)) or "-",
                )
            )
        left = ("name", "device", "kind", "generation")
        right = ("peak", "DRAM", "memory")
        columns = [(n, "left") for n in left] + [(n, "right") for n in right] + [("calibrated", "left")]
        console.print(make_table("", columns, rows))
        return
    system = arch.load(name)
    generation = f", generation {system.generation}" if system.generation else ""
    console.print(f"{system.title} ({system.name}), {system.kind}{generation}", highlight=False, markup=False)
    console.print(
        make_table(
            "",
            [("path", "left"), ("value", "right"), ("status", "left"), ("source", "left")],
            [(r.path, r.value, r.status, r.source) for r in table(system)],
        )
    )


for command in (cli_validate.ops, cli_validate.calibrate, cli_validate.validate, cli_validate.measure):
    app.command()(command)
app.command("map")(cli_accelerators.map_)
app.command()(cli_npu.allocate)
app.command()(cli_explore.sweep)
app.command()(commands.explore)
app.command()(commands.plot)
app.command()(commands.report)
app.command("kernel")(cli_kernels.kernel)
app.command("tune")(cli_kernels.tune)
app.add_typer(cli_pim.pim_app, name="pim")
app.command()(cli_validate.cases)


@app.command()
def demo(out: Annotated[Path, typer.Option("-o", "--out", help="Folder for what the demo writes.")] = Path("demo-out")) -> None:
    """Llama-3-8B, prefill and decode, predicted on an A100, an L40S and an H100."""
    from .demo import run

    check_writable(out / "graph.json")
    run(make_console(), out, _write_outputs)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point: an error that the user can mend is one line on stderr and exit status 2, with --debug a traceback.

    What Triton says of a kernel keeps its lines, which point into the source.

    Parameters
    ----------
    args
        By default the process's own, which then ends with this call.
    """
    gc.set_threshold(_ALLOCATIONS)
    try:
        _run(sys.argv[1:] if args is None else list(args))
    except SystemExit as stop:
        if args is None and "torch" in sys.modules and (stop.code is None or isinstance(stop.code, int)):
            _leave(stop.code or 0)
        raise


def _run(args: list[str]) -> NoReturn:
    try:
        app([arg for arg in args if arg != "--debug"], prog_name="presilicon")
    except (PresiliconError, OSError) as error:
        if "--debug" in args:
            raise
        text = str(error).rstrip() if isinstance(error, KernelError) else " ".join(str(error).split())
        sys.stderr.write(f"presilicon: {text}\n")
        sys.exit(2)
    except Exception as error:
        if "--debug" in args:
            raise
        sys.stderr.write(f"presilicon: internal error, {type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)\n")
        sys.exit(1)
    sys.exit(0)


def _leave(status: int) -> None:
    """End the process as Python does (threads, `atexit`, buffers), but for taking torch's and Triton's million objects apart: 0.6 s.

    Comes back where something of it fails, for Python to say it.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        return
    os._exit(status)


if __name__ == "__main__":
    main()
