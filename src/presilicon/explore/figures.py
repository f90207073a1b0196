"""Pictures of sweeps and searches that a paper can carry: vector, colour-blind safe, the same bytes for the same rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import OutputError, PresiliconError, UnknownNameError
from ..files import write_atomically
from ..plots import _figure, colour, literal, svg
from ..units import format_si
from .columns import UNITS, unit_of
from .pareto import pareto_front
from .study import OBJECTIVES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_NAMES: Final = {
    "time_s": "time", "tokens_per_s": "rate", "energy_j": "energy", "area_mm2": "area", "power_w": "power", "cost_usd": "cost",
    "peak_memory_bytes": "memory", "area_mm2_per_device": "area of one device", "power_w_per_device": "power of one device",
    "cost_usd_per_device": "cost of one device",
}
#: A range of more than so many times its low end is drawn on a logarithmic axis.
_LOG_FROM: Final = 20.0
_MOST_POINTS: Final = 20_000
#: Labels with units that fit side by side under a linear axis.
_MOST_TICKS: Final = 7
_MOST_COLOURS: Final = 8
_MOST_NAMED: Final = 500
#: What a legend calls rows that have no word in the column that gives the colour (``quant`` of a workload that is not quantised).
_MISSING: Final = "none"
FORMATS: Final = ("svg", "pdf", "png")


def _column(frame: pd.DataFrame, name: str) -> Any:
    if name not in frame:
        raise UnknownNameError("column", name, [str(c) for c in frame.columns])
    return frame[name]


def _finite(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Rows with numbers in all of the columns; a design that cannot be made costs infinitely much, and has no place in a picture."""
    return frame[np.isfinite(np.asarray(frame[list(columns)], dtype=float)).all(axis=1)]


def label_of(column: str) -> str:
    """``"area (mm²)"``, ``"dram.bandwidth"``: with the unit where the ticks do not carry it."""
    unit = unit_of(column)
    return _NAMES.get(column, column) + (f" ({unit})" if unit and is_plain(unit) else "")


def is_plain(unit: str) -> bool:
    """Whether values of a unit are written as they are, not with an SI prefix."""
    return unit in ("", "mm²", "USD", "token/s") or "clk" in unit


def _style(axis: Any, values: np.ndarray, column: str) -> None:
    """SI ticks, and a logarithmic axis where the range asks for it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    values = values[np.isfinite(values)]
    unit = unit_of(column)
    log = len(values) and values.min() > 0 and values.max() / values.min() > _LOG_FROM
    if log:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        fine = values.max() / values.min() < (40 if axis.axis_name == "x" else 1e4)  # labels stand side by side under an axis
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if fine else LogLocator())
        axis.set_minor_formatter(NullFormatter())
    elif axis.axis_name == "x":
        axis.set_major_locator(MaxNLocator(_MOST_TICKS))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.6g}" if is_plain(unit) else format_si(x, unit)))


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as SVG, PDF or PNG, by the file's ending; the same figure gives the same bytes.

    Raises
    ------
    OutputError
        Another ending, or a place that cannot be written.
    """
    ending = path.suffix.lstrip(".").lower()
    if ending not in FORMATS:
        raise OutputError(f"{path}: pictures are written as {', '.join(FORMATS)}; found {path.suffix or 'no ending'}")
    if ending == "svg":
        write_atomically(path, svg(figure))
        return path
    stream = io.BytesIO()
    figure.savefig(stream, format=ending, dpi=200, metadata={"CreationDate": None} if ending == "pdf" else {"Software": None})
    write_atomically(path, stream.getvalue())
    return path


def plot(frame: pd.DataFrame, x: str, y: str, *, color: str | None = None, line: bool | None = None, title: str = "") -> Figure:
    """One column over another, a colour for each value (or a colour scale for numbers) of a third.

    Parameters
    ----------
    frame
        Rows of a sweep or search; those with an error are left out.
    x, y, color
        Columns.
    line
        Join the points of a colour in the order of `x`; None: where `x` is a parameter, and each has one `y` for every `x`.

    Raises
    ------
    UnknownNameError
        No such column, with the nearest.
    PresiliconError
        No row has a result, or an axis holds no numbers.
    """
    rows = frame[frame["error"].isna()] if "error" in frame else frame
    for name in filter(None, (x, y, color)):
        _column(rows, name)
    for name in (x, y):
        if rows[name].dtype.kind not in "fiub":
            raise PresiliconError(f"column {name!r} holds words, not numbers; it can be a colour")
    rows = _finite(rows, [x, y, *([color] if color is not None and rows[color].dtype.kind == "f" else [])])
    if rows.empty:
        raise PresiliconError("no row has a result to draw")
    if len(rows) > _MOST_POINTS:  # evenly spaced, so that the picture stays a file that opens
        rows = rows.iloc[np.linspace(0, len(rows) - 1, _MOST_POINTS).astype(int)]
    figure, axes = _figure(6.4, 4.2)
    scale = color is not None and rows[color].dtype.kind in "fi" and rows[color].nunique() > _MOST_COLOURS
    if scale:
        drawn = axes.scatter(rows[x], rows[y], c=rows[color], s=14, cmap="cividis", edgecolor="none", rasterized=len(rows) > 5000)
        bar = figure.colorbar(drawn, ax=axes, label=label_of(str(color)))
        _style(bar.ax.yaxis, np.asarray(rows[color], dtype=float), str(color))
    else:
        groups = [("", rows)] if color is None else _by_colour(rows, color)
        once = x not in UNITS and all(not g[x].duplicated().any() and len(g) > 1 for _, g in groups)
        joined = line if line is not None else once
        markers = "osD^vP*X"
        for index, (name, group) in enumerate(groups):
            line_rows = group.sort_values(x, kind="stable")
            axes.plot(line_rows[x], line_rows[y], color=colour(index), marker=markers[index // 8 % 8], ms=4, lw=1.3 if joined else 0,
                      alpha=1.0 if joined else 0.6, label=literal(name), mec="none", rasterized=len(line_rows) > 5000)
        if color is not None:
            axes.legend(fontsize=8, title=color, title_fontsize=8, ncols=1 + len(groups) // 16)
    for axis, name in ((axes.xaxis, x), (axes.yaxis, y)):
        _style(axis, np.asarray(rows[name], dtype=float), name)
    axes.set(xlabel=label_of(x), ylabel=label_of(y), title=literal(title))
    axes.grid(True, alpha=0.25)
    return figure


def _by_colour(rows: pd.DataFrame, color: str) -> list[tuple[str, pd.DataFrame]]:
    """Rows by the value of a column, in order, each group with the value as a legend shows it; rows without a value are a group too."""
    if rows[color].dtype.kind in "fi":
        return [(_number(float(np.asarray(k)), color), g) for k, g in rows.groupby(color, sort=True)]
    words = [str(value) if isinstance(value, str | bool | np.bool_) else _MISSING for value in rows[color]]
    return [(str(k), g) for k, g in rows.groupby(np.array(words, dtype=object), sort=True)]


def front_figure(frame: pd.DataFrame, objectives: Sequence[str], *, title: str = "") -> Figure:
    """The Pareto front among all designs: the first two objectives on the axes, a third as colour."""
    columns = [OBJECTIVES[name][0] for name in objectives]
    front = pareto_front(frame, objectives)
    if front.empty:
        raise PresiliconError("no design is feasible: there is no front to draw")
    rows = frame[frame["error"].isna()] if "error" in frame else frame
    others = rows[~rows.index.isin(front.index)].dropna(subset=columns[:2])
    if len(others) > _MOST_POINTS:
        others = others.iloc[np.linspace(0, len(others) - 1, _MOST_POINTS).astype(int)]
    good = others["feasible"].astype(bool) if "feasible" in others else np.ones(len(others), dtype=bool)
    figure, axes = _figure(6.4, 4.4)
    x, y = columns[:2]
    bad = others[~good]
    if len(bad):
        axes.scatter(bad[x], bad[y], s=8, marker="x", lw=0.6, color="#999999", label="breaks a constraint", rasterized=len(bad) > 5000)
    axes.scatter(others[good][x], others[good][y], s=8, color="#BBBBBB", label="dominated", edgecolor="none", rasterized=len(others) > 5000)
    from matplotlib import colormaps

    tints: Any = [colour(3)] * len(front)
    if len(columns) > 2:
        third = np.asarray(front[columns[2]], dtype=float)
        drawn = axes.scatter(front[x], front[y], c=third, cmap="cividis", s=1, edgecolor="none")
        bar = figure.colorbar(drawn, ax=axes, label=label_of(columns[2]))
        _style(bar.ax.yaxis, third, columns[2])
        span = third.max() - third.min()
        tints = colormaps["cividis"]((third - third.min()) / span if span else np.zeros(len(third)))
    else:
        line = front.sort_values(x, kind="stable")
        axes.step(line[x], line[y], where="post", color=colour(3), lw=1.2)
    for index, (a, b) in enumerate(zip(front[x], front[y], strict=True)):  # one by one: each can then be named in the SVG
        if index < _MOST_NAMED:
            axes.plot([a], [b], "o", ms=5, color=tints[index], mec="#000000", mew=0.4, gid=f"front-{index}")
    filled = colour(3) if len(columns) == 2 else "#FFFFFF"
    axes.plot([], [], "o", ms=5, color=filled, mec="#000000", mew=0.4, label=f"front ({len(front)})")
    if len(front) > _MOST_NAMED:
        axes.scatter(front[x][_MOST_NAMED:], front[y][_MOST_NAMED:], s=20, color=tints[_MOST_NAMED:], edgecolor="#000000", lw=0.4)
    shown_rows = np.concatenate([np.asarray(front[[x, y]], dtype=float), np.asarray(others[[x, y]], dtype=float)])
    for axis, name, values in ((axes.xaxis, x, shown_rows[:, 0]), (axes.yaxis, y, shown_rows[:, 1])):
        _style(axis, values, name)
    axes.set(xlabel=label_of(x), ylabel=label_of(y), title=literal(title))
    axes.grid(True, alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def parallel_figure(frame: pd.DataFrame, columns: Sequence[str], *, color: str | None = None, title: str = "", most: int = 300) -> Figure:
    """Parallel coordinates: one upright axis a column, one line a row, coloured by a column; each axis from its least to its most."""
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    names = [str(c) for c in columns if frame[_known(frame, c)].dtype.kind in "fiu" and frame[c].nunique() > 1]
    if len(names) < 2:
        raise PresiliconError("parallel coordinates need two columns or more of numbers that vary")
    rows = _finite(frame, names)
    names = [name for name in names if rows[name].nunique() > 1]
    if len(names) < 2:
        raise PresiliconError("parallel coordinates need two columns or more of numbers that vary")
    if len(rows) > most:
        rows = rows.iloc[np.linspace(0, len(rows) - 1, most).astype(int)]
    places, ends = [], []
    for name in names:
        values = np.asarray(rows[name], dtype=float)
        log = values.min() > 0 and values.max() / values.min() > _LOG_FROM
        scaled = np.log(values) if log else values
        span = scaled.max() - scaled.min()
        places.append((scaled - scaled.min()) / span if span else np.full(len(scaled), 0.5))
        ends.append((values.min(), values.max()))
    figure, axes = _figure(max(6.0, 1.25 * len(names)), 3.8)
    lines = np.stack([np.stack([np.arange(len(names)), np.array(row)], axis=1) for row in zip(*places, strict=True)])
    if color is not None and rows[_known(rows, color)].dtype.kind in "fi":
        tint = np.asarray(rows[color].rank(pct=True))
        colours: Any = colormaps["cividis"](tint)
    elif color is not None:
        kinds = {kind: to_rgba(colour(i)) for i, kind in enumerate(sorted(rows[color].astype(str).unique()))}
        colours = [kinds[str(kind)] for kind in rows[color]]
        for kind, rgba in kinds.items():
            axes.plot([], [], color=rgba, label=literal(kind))
        axes.legend(fontsize=8, title=color, title_fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    else:
        colours = colour(0)
    axes.add_collection(LineCollection(list(lines), colors=colours, lw=0.8, alpha=0.6))
    axes.vlines(range(len(names)), 0.0, 1.0, color="#000000", lw=0.8)
    for place, (name, (low, high)) in enumerate(zip(names, ends, strict=True)):
        for y, value in ((-0.05, low), (1.05, high)):
            axes.text(place, y, _number(value, name), ha="center", va="center", fontsize=8,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})
    axes.set(xlim=(-0.3, len(names) - 0.7), ylim=(-0.12, 1.12), yticks=[], title=literal(title))
    axes.set_xticks(range(len(names)), [_NAMES.get(n, n) for n in names], rotation=20, ha="right", fontsize=8)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _known(frame: pd.DataFrame, name: str) -> str:
    _column(frame, name)
    return name


def _number(value: float, column: str) -> str:
    unit = unit_of(column)
    return f"{value:,.5g} {unit}".rstrip() if is_plain(unit) else format_si(value, unit)


def bottleneck_figure(frame: pd.DataFrame, labels: Sequence[str], *, title: str = "") -> Figure:
    """A bar a row, stacked by what sets the pace (columns ``share.RESOURCE``)."""
    shares = [str(c) for c in frame.columns if str(c).startswith("share.") and np.nan_to_num(np.asarray(frame[c], dtype=float)).max() > 0]
    if not shares or frame.empty:
        raise PresiliconError("these rows have no bottleneck shares")
    figure, axes = _figure(7.0, 1.3 + 0.32 * len(frame))
    left = np.zeros(len(frame))
    for index, name in enumerate(shares):
        width = np.nan_to_num(np.asarray(frame[name], dtype=float))
        axes.barh(range(len(frame)), width, left=left, color=colour(index), label=name.removeprefix("share."),
                  hatch="//" if index >= _MOST_COLOURS else None)
        left += width
    axes.set_yticks(range(len(frame)), [literal(label) for label in labels], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="share of the step", xlim=(0, 1), title=literal(title))
    figure.legend(fontsize=8, ncols=min(len(shares), 7), loc="outside lower center")
    return figure


def tornado_figure(frame: pd.DataFrame, *, most: int = 20, title: str = "") -> Figure:
    """What a tenth more and a tenth less of each number does to the result, in percent (columns ``path``, ``more``, ``less``)."""
    rows = frame[frame[["more", "less"]].abs().max(axis=1) > 0].head(most)
    if rows.empty:
        raise PresiliconError("no number has an effect: there is nothing to draw")
    figure, axes = _figure(6.8, 1.3 + 0.28 * len(rows))
    for name, tint in (("more", colour(0)), ("less", colour(1))):
        axes.barh(range(len(rows)), 100 * np.nan_to_num(rows[name].astype(float)), color=tint, label=f"10 % {name}", height=0.7)
    return _bars(figure, axes, list(rows["path"]), "change of the result (%)", title)


def rank_figure(labels: Sequence[str], ranks: Sequence[float], *, xlabel: str, title: str = "") -> Figure:
    """Signed bars, such as rank correlations."""
    if not len(labels):
        raise PresiliconError("there is nothing to draw")
    figure, axes = _figure(6.8, 0.9 + 0.28 * len(labels))
    axes.barh(range(len(labels)), ranks, color=[colour(0) if v < 0 else colour(3) for v in ranks])
    return _bars(figure, axes, labels, xlabel, title)


def _bars(figure: Figure, axes: Any, labels: Sequence[str], xlabel: str, title: str) -> Figure:
    axes.set_yticks(range(len(labels)), list(labels), fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="#000000", lw=0.8)
    axes.set(xlabel=xlabel, title=literal(title))
    axes.grid(True, axis="x", alpha=0.25)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)
    return figure


def parity_figure(x: Sequence[float], y: Sequence[float], *, xlabel: str, ylabel: str, unit: str = "s", title: str = "") -> Figure:
    """Two predictions, or prediction and measurement, of the same things: points about the diagonal, with lines at +-20 %."""
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.shape != b.shape or not np.isfinite(a).any():
        raise PresiliconError(f"parity: expected two columns of one length with numbers, found {a.shape} and {b.shape}")
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure, axes = _figure(4.6, 4.6)
    ends = np.array([np.nanmin([a, b]), np.nanmax([a, b])])
    axes.plot(ends, ends, color="#000000", lw=1.0)
    for share in (0.8, 1.2):
        axes.plot(ends, ends * share, color="#777777", lw=0.7, ls="--")
    axes.scatter(a, b, s=12, color=colour(0), alpha=0.6, edgecolor="none", rasterized=len(a) > 5000)
    log = ends[0] > 0 and ends[1] / ends[0] > _LOG_FROM
    if log:
        axes.set(xscale="log", yscale="log")
        limits = ends[0] / 1.5, ends[1] * 1.5
    else:
        margin = 0.08 * (ends[1] - ends[0]) or 0.1 * abs(ends[1]) or 1.0
        limits = ends[0] - margin, ends[1] + margin
    axes.set(xlim=limits, ylim=limits)
    for axis in (axes.xaxis, axes.yaxis):
        if not log:
            axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda v, _: format_si(v, unit)))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=literal(title), aspect="equal")
    axes.grid(True, alpha=0.25)
    return figure
