"""Commands that hold predictions against measurements and published results: `ops`, `calibrate`, `validate`, `measure`, `cases`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .cli_options import KINDS, SystemOption, pair
from .errors import UnknownNameError
from .files import check_writable, write_atomically
from .terminal import make_console


def ops(
    table: Annotated[Path, typer.Argument(help="CSV, one operator per row.")],
    system: SystemOption,
    kind: Annotated[
        str | None,
        typer.Option(help=f"{KINDS}; default: from the columns."),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV to write: the input's columns and the prediction.")] = None,
    measured: Annotated[str | None, typer.Option(help="Column of measured seconds: print the error table.")] = None,
    worst: Annotated[int, typer.Option(help="Worst rows to print.", min=0)] = 10,
) -> None:
    """Predict every row of an op table; with --measured, print how wrong the prediction is."""
    from .arch import load_gpu
    from .validate.opfile import predict_file

    console = make_console()
    summary = predict_file(table, load_gpu(system), kind, out, measured, worst, console if sys.stderr.isatty() else None)
    for line in summary.lines(worst):
        console.print(line, highlight=False, markup=False)


def calibrate(
    tables: Annotated[list[Path], typer.Argument(help="CSV op tables with measured seconds.")],
    system: SystemOption,
    out: Annotated[Path, typer.Option("-o", "--out", help="Device file to write.")],
    kind: Annotated[str | None, typer.Option(help=f"Kind of all tables: {KINDS}; default: from the columns of each.")] = None,
    measured: Annotated[str, typer.Option(help="Column of measured seconds.")] = "latency_s",
    source: Annotated[str | None, typer.Option(help="What the tables were measured on; default: the files' names.")] = None,
    half: Annotated[
        int | None, typer.Option(min=0, max=1, help=("0 or 1: fit on this random half of the rows only and report the error on the other."))
    ] = None,
    start: Annotated[str | None, typer.Option(help="Take the starting constants from this system.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random subsample, folds and half.")] = 0,
) -> None:
    """Fit the physical constants of a device to measured op tables and write a new device file."""
    from .arch import load_gpu, save
    from .validate.opfile import calibrate_files

    console = make_console()
    check_writable(out)
    result = calibrate_files(
        tables,
        load_gpu(system),
        kind=kind,
        measured=measured,
        source=source,
        half=half,
        seed=seed,
        start=load_gpu(start) if start else None,
        show_progress=sys.stderr.isatty(),
    )
    save(result.system, out)
    for line in result.lines():
        console.print(line, highlight=False, markup=False)
    console.print(f"wrote {out}", highlight=False, markup=False)


def validate(
    folder: Annotated[Path, typer.Argument(help="Folder of measured op tables, GPU.KIND.csv.")],
    protocol: Annotated[list[str] | None, typer.Option(help="shipped, held-out, transfer; repeatable; default: all.")] = None,
    system: Annotated[list[str] | None, typer.Option(help=("GPU=NAME: the device file of a GPU in the file names; repeatable."))] = None,
    kind: Annotated[list[str] | None, typer.Option(help=f"Only tables of this kind: {KINDS}; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random half.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Markdown page to write.")] = None,
    intervals: Annotated[
        Path | None,
        typer.Option(help=("YAML to write: the transfer residuals as intervals for GPUs without a calibration (arch/intervals.yaml).")),
    ] = None,
) -> None:
    """Error on measured op tables by protocol (as shipped, held out, transferred from another GPU), worst first."""
    from rich.progress import Progress

    from .validate import accuracy

    console = make_console()
    for path in filter(None, (out, intervals)):
        check_writable(path)
    for name in protocol or ():
        if name not in accuracy.PROTOCOLS:
            raise UnknownNameError("protocol", name, accuracy.PROTOCOLS)
    tables = accuracy.find_tables(folder, dict(pair(item, "--system", "GPU=NAME") for item in system or ()))
    tables = [(t, s) for t, s in tables if not kind or t.kind.name in kind]
    with Progress(disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("validating", total=1.0)
        entries = accuracy.evaluate_tables(
            tables,
            protocol or accuracy.PROTOCOLS,
            seed=seed,
            progress=lambda stage, share: progress.update(task, description=stage, completed=share),
        )
        if intervals is not None:
            accuracy.write_intervals(intervals, tables, seed)
    console.print(accuracy.overview(entries), highlight=False, markup=False)
    if out is not None:
        write_atomically(out, accuracy.page(entries, "presilicon validate").encode())
    for written in filter(None, (out, intervals)):
        console.print(f"wrote {written}", highlight=False, markup=False)


def measure(
    suite: Annotated[str, typer.Option(help="Names, groups or prefixes*, comma-separated; --list shows them.")] = "all",
    out: Annotated[Path, typer.Option("-o", "--out", help="CSV of the measurements; gone on with if it is there.")] = Path("measured.csv"),
    budget: Annotated[float, typer.Option(help="Seconds in all, compilation included.")] = 500.0,
    shapes: Annotated[int | None, typer.Option(help="At most so many shapes of a suite, the first ones.", min=1)] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that compile ahead; default: CPU cores less two, at most 12.", min=0)] = None,
    point_limit: Annotated[float, typer.Option(help="Seconds after which a point counts as hung.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Without a GPU: tiny sizes in Triton's interpreter, outputs checked.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the suites, their points and time.")] = False,
) -> None:
    """Measure kernels, microbenchmarks and torch's operators on the GPU of this machine."""
    from .validate import measure as harness

    if list_:
        sys.stdout.write(harness.list_suites(suite, shapes))
        return
    status = harness.measure(
        suite, out, budget_s=budget, jobs=jobs, check=check, point_s=point_limit, shapes=shapes, seed=seed, quiet=quiet
    )
    if status:
        raise typer.Exit(status if status > 0 else 128 - status)


def cases(
    names: Annotated[list[str] | None, typer.Argument(help="Cases to run; default: all.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of case files; default: the shipped ones.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV of the results.")] = None,
) -> None:
    """Run published results and print claimed beside predicted; exit status 1 if one is outside of its tolerance."""
    from .validate.cases import run_cases, to_csv

    console = make_console()
    if out is not None:
        check_writable(out)
    results = run_cases(names or [], folder)
    for line in results.lines():
        console.print(line, highlight=False, markup=False)
    if out is not None:
        to_csv(results, out)
        console.print(f"wrote {out}", highlight=False, markup=False)
    if not results.all_within:
        raise typer.Exit(1)
