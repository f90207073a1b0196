"""Commands of design-space exploration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from .explore.results import Sweep

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (YAML): workloads x systems x parameters.")]


def sweep(
    study: StudyFile,
    out: Annotated[Path, typer.Option("-o", "--out", help="Results folder; one that holds part of this study is completed.")],
    workers: Annotated[int, typer.Option("--jobs", "--workers", help="Processes of this machine.", min=1)] = 1,
    dask: Annotated[str | None, typer.Option(help="Address or scheduler file of a dask cluster that exists.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many points, how long and how large; write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a sweep of more than ten million points.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither keep nor reuse results of slow models.")] = False,
) -> None:
    """Evaluate every point of a study into a results folder; run it again to go on where it was stopped."""
    from .explore.expand import design_points
    from .explore.study import load_study
    from .explore.sweep import MOST_POINTS, plan
    from .explore.sweep import sweep as run
    from .units import format_si

    console = make_console()
    read = load_study(study)
    if dry_run:
        p = plan(read, out, workers)
        console.print(
            f"{p.points:,} points in {p.batches:,} batches, {p.done:,} of them done; about {format_si(p.time_s, 's')} with {workers} "
            f"worker{'s' if workers > 1 else ''}, {format_si(p.disk_bytes, 'B')} on disk",
            highlight=False,
            markup=False,
        )
        return
    size = design_points(read).size
    if size > MOST_POINTS and not yes and sys.stdin.isatty():
        yes = typer.confirm(f"{size:,} points: evaluate them all?", err=True)
    try:
        found = run(read, out, workers, dask=dask, yes=yes, progress=True, use_cache=not no_cache)
    except KeyboardInterrupt:
        sys.stderr.write(f"presilicon: stopped; whole batches are in {out}, and the same command goes on from there\n")
        raise typer.Exit(130) from None
    console.print(f"{len(found):,} rows in {out}", highlight=False, markup=False)
    if found.failures:
        first = found.failed().iloc[0]
        text = f"{found.failures:,} designs have no result, such as {first['config_hash']}: {first['error']}"
        console.print(text, highlight=False, markup=False)
    for name, count in found.uncovered.items():
        console.print(
            f"uncovered: {name}: {count} ops without a formula, timed by their bytes alone", style="bold red", highlight=False, markup=False
        )
    unmet = found.unmet()
    for line in unmet:
        console.print(f"constraint {line}", style="bold red", highlight=False, markup=False)
    if not unmet:
        _print_best(found, console)


def _print_best(found: Sweep, console: Console) -> None:
    """The best design of each workload and system for each objective, a line each."""
    from .explore.study import OBJECTIVES, units_of

    units = {path: unit for system in found.study.systems for path, unit in units_of(system).items()}
    for objective in found.study.objectives:
        column, _ = OBJECTIVES[objective]
        for _, row in found.best(objective).iterrows() if column in found.columns else ():
            design = ", ".join(f"{path} {_shown(row[path], units.get(path, ''))}" for path in found.study.paths)
            text = f"best {objective} of {row['workload']} on {row['system']}: {column} {row[column]:.4g}, limited by {row['limiter']}"
            console.print(f"{text}; {design}" if design else text, highlight=False, markup=False)


def _shown(value: object, unit: str) -> str:
    from .units import format_si

    return format_si(float(value), unit) if isinstance(value, float) and unit else str(value)
