"""Commands that hold predictions against measurements and published results: `ops`, `calibrate`, `validate`, `measure`, `cases`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_options import KINDS, SystemOption, pair
from .errors import TableError, UnknownNameError
from .files import check_writable, write_atomically
from .terminal import make_console

if TYPE_CHECKING:
    from .arch import System


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
    tables: Annotated[list[Path], typer.Argument(help="CSV op tables with measured seconds, or one CSV of `presilicon measure`.")],
    system: SystemOption,
    out: Annotated[Path, typer.Option("-o", "--out", help="Device file to write.")],
    kind: Annotated[str | None, typer.Option(help=f"Kind of all tables: {KINDS}; default: from the columns of each.")] = None,
    measured: Annotated[str, typer.Option(help="Column of measured seconds.")] = "latency_s",
    source: Annotated[str | None, typer.Option(help="What the tables were measured on; default: the files' names.")] = None,
    half: Annotated[
        int | None, typer.Option(min=0, max=1, help=("0 or 1: fit on this random half of the rows only and report the error on the other."))
    ] = None,
    start: Annotated[str | None, typer.Option(help="Take the starting constants from this system.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random subsample, folds and half; of kernels, of the split.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Processes that predict kernels; default: one a CPU core.", min=1)] = None,
) -> None:
    """Fit the physical constants of a device to measured op tables or Triton kernels and write a new device file."""
    from .arch import load_gpu, save
    from .validate.kernel_rows import is_measurement
    from .validate.opfile import calibrate_files

    console = make_console()
    check_writable(out)
    if any(map(is_measurement, tables)):
        if len(tables) > 1:
            raise TableError("calibrate: a file of `presilicon measure` stands alone; give op tables apart, and go on from its device file")
        if kind is not None or half is not None or measured != "latency_s":
            raise TableError(f"{tables[0]}: --kind, --half and --measured are for op tables; measured kernels have a split of their own")
        _calibrate_kernels(tables[0], load_gpu(start) if start else None, load_gpu(system), out, source, seed, jobs)
        return
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


def _calibrate_kernels(path: Path, start: System | None, system: System, out: Path, source: str | None, seed: int,
                       jobs: int | None) -> None:
    from .arch import save
    from .validate import kernel_fit
    from .validate.calibrate import with_constants
    from .validate.kernel_report import LEFT_OUT_BAR, note_left_out
    from .validate.kernel_rows import read_kernel_rows, write_split
    from .validate.opfile import error_table

    console = make_console()
    system = with_constants(system, start) if start is not None else system
    rows = read_kernel_rows(path, system, seed=seed)
    console.print(f"wrote {write_split(rows)}: the split, before anything is fitted", highlight=False, markup=False)
    for note in rows.notes:
        console.print(note, highlight=False, markup=False)
    with _bar("calibrating") as progress:
        result = kernel_fit.calibrate_kernels(
            rows, system, source=source or f"fitted by presilicon calibrate on {path.name} ({rows.gpu})", seed=seed,
            jobs=jobs or os.cpu_count() or 1, progress=progress,
        )
    save(result.system, out)
    console.print(error_table(result.errors))
    for name, value in result.fitted.items():
        console.print(f"  {name} = {value:.5g}{'   (no row moves it)' if name in result.idle else ''}", highlight=False, markup=False)
    left = [line for line in result.errors if line.group.endswith("left out altogether")]
    if left:
        note_left_out(path, result.fitted, left)
        worst = max(left, key=lambda line: line.mape)
        missed = sum(line.mape > LEFT_OUT_BAR for line in left)
        met = f"missed by {missed} of {len(left)}" if missed else "met by all"
        text = f"a kernel left out altogether: MAPE {LEFT_OUT_BAR:.0%} {met}; the worst is {worst.group.split()[0]}, {worst.mape:.1%}"
        console.print(text, highlight=False, markup=False)
    for text in result.refused[:3]:
        console.print(f"no prediction: {text}", highlight=False, markup=False)
    if result.outliers:
        console.print(f"{len(result.outliers)} of {result.rows} rows stay wrong by more than a factor of {kernel_fit.OUTLIER:g}, and count "
                      f"little in the fit; the worst: {result.outliers[0]}", highlight=False, markup=False)
    console.print(f"wrote {out}", highlight=False, markup=False)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[str, float], None]]:
    """A function of a stage and its share done, which draws a bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda stage, share: progress.update(task, description=stage, completed=share)


def validate(
    folder: Annotated[Path, typer.Argument(help="Folder of measured op tables, GPU.KIND.csv, or a CSV of `presilicon measure`.")],
    protocol: Annotated[list[str] | None, typer.Option(help="shipped, held-out, transfer; repeatable; default: all.")] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(help="GPU=NAME: the device file of a GPU in the file names; repeatable. For a CSV of kernels: its device file."),
    ] = None,
    kind: Annotated[list[str] | None, typer.Option(help=f"Only tables of this kind: {KINDS}; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random half.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Markdown page to write.")] = None,
    intervals: Annotated[
        Path | None,
        typer.Option(help=("YAML to write: the transfer residuals as intervals for GPUs without a calibration (arch/intervals.yaml).")),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Of kernels: SVG of predicted over measured times.")] = None,
    into: Annotated[Path | None, typer.Option(help="Of kernels: Markdown page whose tables between markers are replaced.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that predict kernels; default: one a CPU core.", min=1)] = None,
) -> None:
    """Error on measured op tables by protocol (as shipped, held out, transferred from another GPU) or on measured kernels, worst first."""
    from rich.progress import Progress

    from .validate import accuracy

    console = make_console()
    for path in filter(None, (out, intervals, plot, into)):
        check_writable(path)
    if folder.is_file():
        if protocol or kind or intervals:
            raise TableError(f"{folder}: --protocol, --kind and --intervals are for folders of op tables")
        _validate_kernels(folder, system or [], out, plot, into, jobs)
        return
    if plot or into:
        raise TableError(f"{folder}: --plot and --into are for a CSV of `presilicon measure`")
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


def _validate_kernels(path: Path, systems: list[str], out: Path | None, plot: Path | None, into: Path | None, jobs: int | None) -> None:
    from .arch import load_gpu
    from .figure import svg
    from .validate.kernel_report import kernel_errors, write_into
    from .validate.kernel_rows import is_measurement, read_kernel_rows
    from .validate.opfile import error_table

    if not is_measurement(path):
        raise TableError(f"{path}: not a file of `presilicon measure`; op tables are validated by folder, or with `presilicon ops`")
    if len(systems) != 1:
        raise TableError(f"{path}: name the device file of its GPU with --system")
    console = make_console()
    gpu = load_gpu(systems[0])
    rows = read_kernel_rows(path, gpu)
    with _bar("predicting") as progress:
        found = kernel_errors(rows, gpu, jobs=jobs or os.cpu_count() or 1, progress=progress)
    for note in (*rows.notes, *(f"no prediction: {text}" for text in found.refused[:3])):
        console.print(note, highlight=False, markup=False)
    console.print(error_table(found.lines()))
    for what, asked, value, met in found.verdicts():
        console.print(f"{'met   ' if met else 'missed'}  {what}: {value} (asked: {asked})", highlight=False, markup=False)
    page = found.page()
    console.print(page[page.index("Worst rows:"):].replace("```text\n", "").replace("```", "").rstrip(), highlight=False, markup=False)
    if out is not None:
        write_atomically(out, f"# Measured kernels, {rows.gpu}\n\n{page}".encode())
    if plot is not None:
        write_atomically(plot, svg(found.parity()))
    if into is not None:
        write_into(into, [found], f"presilicon validate {path.name} --system {systems[0]} --into {into.name}")
    for written in filter(None, (out, plot, into)):
        console.print(f"wrote {written}", highlight=False, markup=False)


def measure(
    suite: Annotated[str, typer.Option(help="Names, groups or prefixes*, comma-separated; --list shows them.")] = "all",
    out: Annotated[Path, typer.Option("-o", "--out", help="CSV of the measurements; gone on with if it is there.")] = Path("measured.csv"),
    budget: Annotated[float, typer.Option(help="Seconds in all, compilation included; a point in flight may take a minute more.")] = 500.0,
    shapes: Annotated[int | None, typer.Option(help="At most so many shapes of a suite, the first ones.", min=1)] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes that compile ahead; default: CPU cores less two, at most 12.", min=0)] = None,
    point_limit: Annotated[float, typer.Option(help="Seconds after which a point counts as hung.")] = 120.0,
    retry: Annotated[bool, typer.Option("--retry", help="Measure again what failed or was wrong, of the suites named.")] = False,
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
        suite, out, budget_s=budget, jobs=jobs, check=check, point_s=point_limit, shapes=shapes, seed=seed, retry=retry, quiet=quiet
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
