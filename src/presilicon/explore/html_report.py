"""One self-contained HTML page of a sweep or a search: no network, and nothing from files or YAML unescaped."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import __version__
from ..errors import PresiliconError
from ..files import check_writable, write_atomically
from ..plots import svg
from ..units import format_si
from . import figures
from .columns import unit_of
from .loaded import Loaded, load_folder
from .pareto import as_minimised, pareto_front
from .study import OBJECTIVES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MOST_GROUPS: Final = 8
_MOST_ROWS: Final = 25
_MOST_ERRORS: Final = 20
_BINS: Final = 10
#: A parameter whose bins differ by less, and whose rank correlation is below, has no effect worth telling.
_FLAT, _UNRELATED = 1e-3, 0.02

_STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:68rem;padding:0 1rem;color:#111;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.2rem;border-bottom:1px solid #ccc}h3{font-size:1.05rem}
table{border-collapse:collapse;font-size:13px;margin:.6rem 0;display:block;overflow-x:auto}
th,td{padding:.2rem .6rem;text-align:right;white-space:nowrap}td.w,th.w{text-align:left;white-space:normal}
thead th{border-bottom:1px solid #111;cursor:pointer}tbody tr:hover{background:#e8f1f8}
svg{max-width:100%;height:auto}.note{color:#555}.bad{color:#a33}
"""
_SCRIPT: Final = """
document.querySelectorAll('thead th').forEach(function(th){th.addEventListener('click',function(){
var b=th.closest('table').tBodies[0],i=th.cellIndex,u=th.dataset.up!=='1';th.dataset.up=u?'1':'0';
Array.from(b.rows).sort(function(p,q){var x=p.cells[i].dataset.v,y=q.cells[i].dataset.v,a=parseFloat(x),c=parseFloat(y);
var d=isNaN(a)||isNaN(c)?String(x).localeCompare(String(y)):a-c;return u?d:-d}).forEach(function(r){b.appendChild(r)})})})
"""


def write_report(results: str | Path | Loaded, path: str | Path) -> Path:
    """Write the page of a results folder.

    Parameters
    ----------
    results
        Folder of `presilicon sweep` or `presilicon explore`, or what `load_folder` read.
    path
        HTML file to write, whole or not at all.

    Raises
    ------
    SpecError
        The folder holds no results.
    OutputError
        The file cannot be written.
    """
    path = Path(path)
    check_writable(path)
    loaded = results if isinstance(results, Loaded) else load_folder(results)
    write_atomically(path, page(loaded).encode())
    return path


def page(loaded: Loaded) -> str:
    """The page as text; the same results give the same page."""
    frame = loaded.frame
    failed = frame[frame["error"].notna()] if "error" in frame else frame.iloc[:0]
    good = frame.drop(failed.index)
    feasible = good[good["feasible"]] if "feasible" in good else good
    body = [
        f"<h1>{_text(loaded.name)}</h1>",
        f"<p>A {_text(loaded.kind)} of {len(frame):,} rows: {len(feasible):,} meet every constraint, {len(good) - len(feasible):,} do not, "
        f"{len(failed):,} have no result.</p>",
    ]
    groups = [("", good)] if "workload" not in good else [(str(k), g) for k, g in good.groupby("workload", sort=False, observed=True)]
    for name, group in groups[:_MOST_GROUPS]:
        if name:
            body.append(f"<h2>{_text(name)}</h2>")
        body += _group(loaded, group)
    if len(groups) > _MOST_GROUPS:
        body.append(f"<p class=note>{len(groups) - _MOST_GROUPS} further workloads are in the results, not on this page.</p>")
    body += _errors(failed)
    body.append("<h2>Where this comes from</h2>")
    facts = {"results": str(loaded.path), **loaded.facts, "page written by": f"presilicon {__version__}"}
    body.append(_plain_table(("", ""), list(facts.items())))
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{_text(loaded.name)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + f"\n<script>{_SCRIPT}</script></body></html>\n"
    )


def _group(loaded: Loaded, rows: pd.DataFrame) -> list[str]:
    """Front, parallel coordinates, best designs, sensitivity of one workload (or of all together, in a search)."""
    names = [n for n in loaded.objectives if OBJECTIVES[n][0] in rows]
    if rows.empty:
        return ["<p class=bad>No design has a result.</p>"]
    feasible = rows[rows["feasible"]] if "feasible" in rows else rows
    if feasible.empty:
        told = "<p class=bad>No design meets every constraint and fits into the memory."
        if "violation" not in rows:
            return [f"{told}</p>"]
        least = rows.sort_values("violation", kind="stable").head(5)
        return [f"{told} These break them least:</p>", _table(least, [*loaded.parameters, *_columns(names), "violation"])]
    out: list[str] = []
    front = feasible.iloc[:0]
    if len(names) > 1:
        front = pareto_front(feasible, names)
        out.append(f"<h3>Pareto front: {len(front):,} of {len(feasible):,} designs</h3>")
        tips = [", ".join(f"{p} = {shown_cell(r[p], p)}" for p in [*_columns(names), *loaded.parameters]) for _, r in front.iterrows()]
        out += _picture(lambda: figures.front_figure(rows, names), tips)
        out.append(_table(front.head(_MOST_ROWS), [*_system(rows), *loaded.parameters, *_columns(names), "limiter"]))
        if len(front) > _MOST_ROWS:
            out.append(f"<p class=note>The first {_MOST_ROWS} of {len(front)}, best {_text(names[0])} first.</p>")
    shown = [p for p in loaded.parameters if p in rows] + _columns(names)
    out.append("<h3>Parallel coordinates</h3><p class=note>Front, or a sample of the designs where it is small; "
               f"dark: low {_text(names[0])}.</p>")
    drawn = front if len(front) >= 10 else feasible.sample(min(300, len(feasible)), random_state=0).sort_index()
    out += _picture(lambda: figures.parallel_figure(drawn, shown, color=OBJECTIVES[names[0]][0]))
    out.append("<h3>Best designs and what limits each</h3>")
    best = _best(feasible, names)
    labels = [f"least {n}" if OBJECTIVES[n][1] == "min" else f"most {n}" for n in names]
    best.insert(0, "best", labels)
    out.append(_table(best, ["best", *_system(rows), *loaded.parameters, *_columns(names), "limiter"]))
    out += _picture(lambda: figures.bottleneck_figure(best, labels))
    return out + _sensitivities(loaded, feasible, names)


def _best(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    values = as_minimised(rows, names)
    return rows.iloc[[int(np.nanargmin(values[:, i])) for i in range(len(names))]].copy()


def _sensitivities(loaded: Loaded, rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Over the designs: rank correlation, and by how much the median moves from the lowest to the highest tenth of a parameter."""
    import pandas as pd

    out = ["<h3>Sensitivity of each parameter</h3><p class=note>Over the designs of this page: Spearman's rank correlation with each "
           "objective, and the largest over the smallest median of the objective among tenths of the parameter, the others as they fall."]
    table: list[dict[str, Any]] = []
    quiet: list[str] = []
    for name in loaded.parameters:
        if name not in rows or rows[name].dtype.kind not in "fiu" or rows[name].nunique() < 2:
            quiet.append(f"{name} (does not vary, or is a word)")
            continue
        row: dict[str, Any] = {"parameter": name}
        for objective in names:
            row |= dict(zip((f"rank {objective}", f"span {objective}"), parameter_effect(rows[name], rows[OBJECTIVES[objective][0]]),
                            strict=True))
        if all(abs(row[f"rank {n}"]) < _UNRELATED and row[f"span {n}"] - 1 < _FLAT for n in names):
            quiet.append(name)
        else:
            table.append(row)
    if table:
        frame = pd.DataFrame(table)
        frame = frame.reindex(frame[f"rank {names[0]}"].abs().sort_values(ascending=False, kind="stable").index)
        out += ["</p>", _table(frame, list(frame.columns))]
        label = f"rank correlation with {figures.label_of(OBJECTIVES[names[0]][0])}"
        out += _picture(lambda: figures.rank_figure(list(frame["parameter"]), list(frame[f"rank {names[0]}"]), xlabel=label))
    if quiet:
        out.append(f"<p>No effect: {_text(', '.join(quiet))}.</p>")
    return out


def parameter_effect(parameter: pd.Series[Any], result: pd.Series[Any]) -> tuple[float, float]:
    """Rank correlation of a parameter with a result, and the largest over the smallest median of the result in tenths of the parameter."""
    import pandas as pd

    rank = float(parameter.rank().corr(result.rank()))
    bins = pd.qcut(parameter, _BINS, duplicates="drop") if parameter.nunique() > _BINS else parameter
    medians = result.groupby(bins, observed=True).median()
    low, high = float(medians.min()), float(medians.max())
    return (rank if np.isfinite(rank) else 0.0), (high / low if low > 0 else float("nan"))


def _errors(failed: pd.DataFrame) -> list[str]:
    if failed.empty:
        return []
    counts = failed["error"].astype(str).value_counts()
    rows = [(f"{count:,}", str(text)) for text, count in counts.head(_MOST_ERRORS).items()]
    more = f"<p class=note>and {len(counts) - _MOST_ERRORS} further errors</p>" if len(counts) > _MOST_ERRORS else ""
    return ["<h2>Designs without a result</h2>", _plain_table(("rows", "error"), rows), more]


def _columns(names: Sequence[str]) -> list[str]:
    return [OBJECTIVES[n][0] for n in names]


def _system(rows: pd.DataFrame) -> list[str]:
    return ["system"] if "system" in rows and rows["system"].nunique() > 1 else []


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def shown_cell(value: Any, column: str) -> str:
    """A value for people: SI prefixes, digits that mean something."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return "-" if value is None else str(value)
    number = float(value)
    if not np.isfinite(number):
        return "-"
    unit = unit_of(column)
    return f"{number:,.5g} {unit}".rstrip() if figures.is_plain(unit) else format_si(number, unit)


def _table(rows: pd.DataFrame, columns: Sequence[str]) -> str:
    names = [c for c in dict.fromkeys(columns) if c in rows]
    word = {c: " class=w" if rows[c].dtype.kind not in "fiu" else "" for c in names}
    head = "".join(f"<th{word[c]}>{_text(figures._NAMES.get(c, c))}</th>" for c in names)
    lines = []
    for _, row in rows[names].iterrows():
        cells = "".join(f'<td{word[c]} data-v="{_text(row[c])}">{_text(shown_cell(row[c], c))}</td>' for c in names)
        lines.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _plain_table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    top = f"<thead><tr><th class=w>{_text(head[0])}</th><th class=w>{_text(head[1])}</th></tr></thead>" if any(head) else ""
    lines = "".join(f'<tr><td class=w data-v="{_text(a)}">{_text(a)}</td><td class=w data-v="{_text(b)}">{_text(b)}</td></tr>'
                    for a, b in rows)
    return f"<table>{top}<tbody>{lines}</tbody></table>"


def _picture(draw: Any, tips: Sequence[str] = ()) -> list[str]:
    """An inline SVG, or why there is none; ``tips`` are shown over the points of a front."""
    try:
        figure: Figure = draw()
    except PresiliconError as error:
        return [f"<p class=note>No picture: {_text(error)}.</p>"]
    text = svg(figure).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for index, tip in enumerate(tips):
        text = text.replace(f'<g id="front-{index}">', f'<g id="front-{index}"><title>{_text(tip)}</title>', 1)
    return [text]
