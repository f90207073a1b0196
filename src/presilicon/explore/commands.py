"""The commands `explore`, `plot` and `report`, and the printing of `sensitivity`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..terminal import make_console

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from .search import Exploration

#: Designs of a front that are printed.
_ROWS = 20
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="Folder that `presilicon sweep` or `presilicon explore` wrote.")]


def explore(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (YAML): workloads x systems x parameters.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of trials, front and picture; one that holds this search goes on.")],
    objectives: Annotated[
        str | None,
        typer.Option(help="Two or more of latency, throughput, energy, memory, area, power, cost, comma-separated; default: the study's."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Designs in all, those that are there already included.", min=1)] = 500,
    sampler: Annotated[str, typer.Option(help="nsga2, tpe or random.")] = "nsga2",
    seed: Annotated[int, typer.Option(help="Of the search.", min=0)] = 0,
    population: Annotated[int, typer.Option(help="Designs of one generation.", min=2)] = 25,
    storage: Annotated[str | None, typer.Option(help="URL of an Optuna storage, in place of SQLite in the folder.")] = None,
    workers: Annotated[int, typer.Option("--jobs", "--workers", help="Processes of this machine, for NPUs, hybrids and tile.", min=1)] = 1,
) -> None:
    """Search the parameters of a study for the best trade-offs; run it again to go on where it was stopped."""
    from .search import explore as run

    names = [name.strip() for name in objectives.split(",") if name.strip()] if objectives else None
    try:
        found = run(
            study, names, trials, sampler=sampler, seed=seed, population=population,  # type: ignore[arg-type]
            out=out, storage=storage, workers=workers, progress=True,
        )
    except KeyboardInterrupt:
        sys.stderr.write(f"presilicon: stopped; whole generations are in {storage or out}, and the same command goes on from there\n")
        raise typer.Exit(130) from None
    console = make_console()
    frame = found.frame
    text = f"{len(frame):,} designs, {int(frame['feasible'].sum()):,} feasible, {int(frame['error'].notna().sum()):,} without a result"
    console.print(text, highlight=False, markup=False)
    if frame["error"].notna().any():
        console.print(f"such as: {frame.loc[frame['error'].notna(), 'error'].iloc[0]}", highlight=False, markup=False)
    if not frame["feasible"].any():
        text = "no design meets every constraint and fits into the memory; these break them least:"
        console.print(text, style="bold red", highlight=False)
        console.print(_rows(found.least_violating(), found, ["violation"]))
        raise typer.Exit(1)
    front = found.front
    console.print(_rows(front.head(_ROWS), found, ["limiter"]))
    if len(front) > _ROWS:
        console.print(f"the first {_ROWS} of {len(front)} designs of the front, best {found.objectives[0]} first", highlight=False)
    reference = ", ".join(f"{name} {abs(value):.4g}" for name, value in zip(found.objectives, found.reference, strict=True))
    console.print(f"hypervolume {found.hypervolume():.6g} before the point {reference}", highlight=False, markup=False)
    console.print(f"trials.parquet, front.parquet and front.svg in {out}", highlight=False, markup=False)


def _rows(frame: pd.DataFrame, found: Exploration, extra: list[str]) -> Table:
    """Designs as a table: parameters, objectives, and some further columns."""
    from ..tables import make_table
    from .html_report import shown_cell
    from .study import OBJECTIVES

    varied = [p for p in ("system", *found.study.paths) if p in frame and (p != "system" or len(found.study.systems) > 1)]
    names = [*varied, *(OBJECTIVES[name][0] for name in found.objectives), *extra]
    rows = [[shown_cell(row[name], name) for name in names] for _, row in frame.iterrows()]
    return make_table("", [(name, "left" if name in ("limiter", "system") else "right") for name in names], rows)


def plot(
    results: Results,
    x: Annotated[str, typer.Option("--x", help="Column across.")],
    y: Annotated[str, typer.Option("--y", help="Column upwards.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Picture to write: .svg, .pdf or .png.")],
    color: Annotated[str | None, typer.Option("--color", help="Column that gives the colour.")] = None,
    where: Annotated[str | None, typer.Option("--where", help="Only rows that meet this condition, such as \"phase == 'decode'\".")] = None,
) -> None:
    """Draw one column of the results over another."""
    from .figures import plot as draw
    from .figures import save
    from .loaded import load_folder

    loaded = load_folder(results)
    save(draw(loaded.where(where), x, y, color=color, title=loaded.name), out)
    make_console().print(f"wrote {out}", highlight=False, markup=False)


def report(results: Results, out: Annotated[Path, typer.Option("-o", "--out", help="HTML file to write.")]) -> None:
    """Write one self-contained page: front, parallel coordinates, sensitivities, best designs, errors, provenance."""
    from .html_report import write_report

    write_report(results, out)
    make_console().print(f"wrote {out}", highlight=False, markup=False)


def show_sensitivity(frame: pd.DataFrame, out: Path | None, top: int) -> None:
    """Print what `presilicon.explore.sensitivity.sensitivity` found; a picture, or a CSV of all, where wanted."""
    from ..files import write_atomically
    from ..tables import make_table
    from .figures import FORMATS, save, tornado_figure
    from .html_report import shown_cell
    from .study import OBJECTIVES

    console = make_console()
    moving = frame[frame["effect"] != "no effect"]
    rows = [
        (r["path"], f"{r['value']:.6g} {r['unit']}".strip().removesuffix(" 1"), _signed(r["sensitivity"], "+.3f"),
         *(_signed(r[w], "+.2%") + _at(r[f"{w}_at"], r["value"]) for w in ("more", "less")), r["effect"], r["status"])
        for _, r in moving.head(top).iterrows()
    ]
    right = ("value", "d ln / d ln", "10 % more", "10 % less")
    columns = [("number", "left"), *((name, "right") for name in right), ("", "left"), ("status", "left")]
    base = shown_cell(frame.attrs["base"], OBJECTIVES[frame.attrs["objective"]][0])
    title = f"{frame.attrs['objective']} of {frame.attrs['graph']} on {frame.attrs['system']}: {base}"
    console.print(make_table(title, columns, rows))
    if any("(" in cell for row in rows for cell in row[3:5]):
        console.print("(at n): a tenth is less than one; the count was moved to the next whole number", highlight=False, markup=False)
    still = frame.loc[frame["effect"] == "no effect", "path"]
    if len(still):
        console.print(f"no effect: {', '.join(still)}", highlight=False, markup=False)
    if out is not None and out.suffix.lstrip(".").lower() in FORMATS:
        save(tornado_figure(moving, title=title), out)
    elif out is not None:
        write_atomically(out, frame.to_csv(index=False).encode())
    if out is not None:
        console.print(f"wrote {out}", highlight=False, markup=False)


def _at(tried: float, value: float) -> str:
    """Says where a count was moved to, if that is much further than a tenth."""
    return f" (at {tried:g})" if math.isfinite(tried) and abs(tried / value - 1.0) > 0.15 else ""


def _signed(value: float, form: str) -> str:
    return "-" if math.isnan(value) else "0" if value == 0 else format(value, form)
