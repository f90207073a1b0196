"""Error of predictions against measurements: MAPE, median, p95, bias, by dtype and size class, worst rows first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

#: Size classes by measured time.
SIZE_CLASSES: Final = ((10e-6, "under 10 us"), (100e-6, "10 to 100 us"), (1e-3, "100 us to 1 ms"), (np.inf, "over 1 ms"))


@dataclass(frozen=True)
class ErrorLine:
    """Error of one group of rows.

    Attributes
    ----------
    mape, median, p95
        Mean, median and 95th percentile of |predicted - measured| / measured.
    bias
        exp of the mean of log(predicted / measured), minus 1.
    coverage
        Share of measurements within [low, high]; NaN without intervals.
    """

    group: str
    rows: int
    mape: float
    median: float
    p95: float
    bias: float
    coverage: float


def error_line(
    group: str, measured: np.ndarray, predicted: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None
) -> ErrorLine:
    """Summarise one group; arrays in seconds, of one length.

    >>> error_line("all", np.array([1.0, 2.0]), np.array([1.1, 1.8])).mape
    0.1
    """
    ape = np.abs(predicted - measured) / measured
    with np.errstate(divide="ignore"):  # a prediction of 0 (a collective of one GPU) has a bias of -100 %
        bias = float(np.exp(np.mean(np.log(predicted / measured))) - 1.0)
    inside = float(np.mean((measured >= low) & (measured <= high))) if low is not None and high is not None else float("nan")
    return ErrorLine(
        group, len(measured), float(np.round(np.mean(ape), 12)), float(np.median(ape)), float(np.percentile(ape, 95)), bias, inside
    )


def error_lines(frame: pd.DataFrame, measured: str, group_columns: tuple[str, ...] = ()) -> list[ErrorLine]:
    """Lines for all rows, for each value of the group columns, and for each size class.

    Parameters
    ----------
    frame
        Has `measured`, ``predicted_s`` and, if intervals are known, ``low_s`` and ``high_s`` (seconds).
    measured
        Column of measured seconds.
    group_columns
        Columns to break down by, those that exist (dtype, kernel_source ...).
    """

    def line(name: str, part: pd.DataFrame) -> ErrorLine:
        low, high = (part[c].to_numpy(dtype=float) if c in part else None for c in ("low_s", "high_s"))
        return error_line(name, part[measured].to_numpy(dtype=float), part["predicted_s"].to_numpy(dtype=float), low, high)

    lines = [line("all", frame)]
    for column in group_columns:
        if column in frame and frame[column].nunique() > 1:
            lines += [line(f"{column} {value}", part) for value, part in frame.groupby(column, sort=True, observed=True)]
    previous = 0.0
    for limit, name in SIZE_CLASSES:
        part = frame[(frame[measured] >= previous) & (frame[measured] < limit)]
        if len(part):
            lines.append(line(name, part))
        previous = limit
    return lines


def joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Frames of equal columns one below the other; categories stay categories, which pandas' own concat turns into objects."""
    import pandas as pd

    def column(name: str) -> Any:
        columns = [part[name] for part in parts]
        if isinstance(columns[0].dtype, pd.CategoricalDtype):
            return pd.api.types.union_categoricals(columns, sort_categories=True)
        return np.concatenate([c.to_numpy() for c in columns])

    return pd.DataFrame({name: column(name) for name in parts[0].columns})


def worst_rows(frame: pd.DataFrame, measured: str, count: int = 10) -> pd.DataFrame:
    """The rows with the largest |log(predicted / measured)|, worst first, with the ratio in column ``ratio``."""
    ratio = frame["predicted_s"] / frame[measured]
    with np.errstate(divide="ignore"):
        order = np.argsort(-np.abs(np.log(ratio.to_numpy(dtype=float))), kind="stable")[:count]
    return frame.iloc[order].assign(ratio=ratio.iloc[order])


def rank_correlation(frame: pd.DataFrame) -> float:
    """Spearman's rank correlation of predicted and measured; NaN for fewer than three points."""
    if len(frame) < 3:
        return float("nan")
    ranks = frame[["predicted_s", "measured_s"]].rank().to_numpy()
    return float(np.corrcoef(ranks[:, 0], ranks[:, 1])[0, 1])


def points_page(frame: pd.DataFrame, columns: Mapping[str, str], names: Sequence[str], worst: int) -> str:
    """Markdown: a table of errors for each column, worst first; the worst points; how many have no prediction.

    Parameters
    ----------
    frame
        ``measured_s``, ``predicted_s`` (NaN without a prediction), ``error``, ``limiter``, and the columns that follow.
    columns
        Columns to break down by, with their titles.
    names
        Columns that name a point.
    worst
        How many points are listed.
    """
    known, refused = frame[frame.predicted_s.notna()], frame[frame.predicted_s.isna()]
    parts = []
    for number, (column, title) in enumerate(columns.items() if len(known) else ()):
        groups = [("all", known)] if number == 0 else []
        groups += [(str(name), part) for name, part in known.groupby(column, sort=True)]
        lines = [(error_line(name, part.measured_s.to_numpy(), part.predicted_s.to_numpy()), rank_correlation(part))
                 for name, part in groups]
        parts += [f"\n| {title} | points | MAPE | median | p95 | bias | rank correlation |", "|---|--:|--:|--:|--:|--:|--:|"]
        parts += [f"| {n.group} | {n.rows} | {n.mape:.1%} | {n.median:.1%} | {n.p95:.1%} | {n.bias:+.1%} | "
                  + ("" if np.isnan(rank) else f"{rank:.3f}") + " |" for n, rank in sorted(lines, key=lambda x: -x[0].mape)]
    far = known.reindex(known.error.abs().sort_values(ascending=False).index)[:worst].to_dict("records")
    parts += ["\nWorst points:\n", "```text"]
    parts += [f"{row['error']:+7.1%}  {row['measured_s'] * 1e6:9.1f} us  {row['predicted_s'] * 1e6:9.1f} us  "
              + "  ".join(str(row[name]) for name in (*names, "limiter")) for row in far]
    parts.append("```")
    if len(refused):
        parts.append(f"\n{len(refused)} points without a prediction, the first: {refused.iloc[0].limiter}")
    return "\n".join(parts).lstrip("\n") + "\n"
