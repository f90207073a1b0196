"""Op tables as files: read in pieces, predict, write beside the input's columns, summarise the error, and calibrate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..arch import System
from ..errors import PresiliconError, TableError, shown
from ..files import replacing
from .calibrate import Calibration, Table, calibrate, with_constants
from .csvtable import read_chunks
from .errors_table import ErrorLine, error_line, error_lines, joined, worst_rows
from .optable import KINDS, TableKind, check, kind_named, predict, shown_names

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

PREDICTED: Final = ("predicted_s", "low_s", "high_s", "limiter")
_GROUPS: Final = (
    "gemm_dtype",
    "attn_dtype",
    "kv_cache_dtype",
    "moe_dtype",
    "mla_dtype",
    "nccl_dtype",
    "allreduce_dtype",
    "operation",
    "num_gpus",
    "kernel_source",
    "framework",
)


def kind_of(frame: pd.DataFrame, where: str) -> TableKind:
    """The kind of table that has these columns; TableError if none is plain."""
    have = set(frame.columns)
    isl_all_one = "isl" in have and bool((frame["isl"].astype(str) == "1").all())
    if "gemm_dtype" in have:
        return KINDS["gemm"]
    if "moe_dtype" in have:
        return KINDS["moe"]
    if have & {"nccl_dtype", "allreduce_dtype"}:
        return KINDS["collective"]
    if "mla_dtype" in have and "mla-decode" in KINDS:
        return KINDS["mla-decode" if isl_all_one else "mla-prefill"]
    if "attn_dtype" in have and "num_key_value_heads" not in have:
        return KINDS["encoder-attention"]
    if "attn_dtype" in have:
        return KINDS["attention-decode" if isl_all_one else "attention-prefill"]
    if "d_conv" in have and "scan" in KINDS:
        return KINDS["scan"]
    raise TableError(
        f"{where}: cannot tell the kind of table from its columns ({shown_names(list(frame.columns))}); name it with --kind: "
        + ", ".join(KINDS)
    )


def _measured(frame: pd.DataFrame, column: str, where: str) -> np.ndarray:
    import pandas as pd

    if column not in frame.columns:
        raise TableError(f"{where}: column {column!r} (measured seconds) is missing (found {shown_names(list(frame.columns))})")
    seconds = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float)
    bad = ~(np.isfinite(seconds) & (seconds > 0))
    if bad.any():
        position = int(np.argmax(bad))
        raise TableError(
            f"{where}, line {frame.index[position]}, column {column!r}: expected positive seconds, found "
            f"{shown(frame[column].iloc[position])}"
        )
    return seconds


@dataclass(frozen=True)
class Summary:
    """What predicting a file gave."""

    path: Path
    kind: str
    system: str
    rows: int
    written: Path | None
    errors: list[ErrorLine] = field(default_factory=list)
    worst: Any = None
    notes: tuple[str, ...] = ()

    def lines(self, worst: int = 10) -> Iterator[Any]:
        """For the console."""
        yield f"{self.path}: {self.rows} rows of {self.kind} predicted on {self.system}" + (
            f", written to {self.written}" if self.written else ""
        )
        yield from self.notes
        if self.errors:
            yield error_table(self.errors)
        if self.worst is not None and worst and len(self.worst):
            from rich.text import Text

            yield "worst rows:"
            yield Text(self.worst.to_string(index=False, float_format=lambda x: f"{x:.4g}"))


def error_table(lines: Sequence[ErrorLine]) -> Any:
    """A rich table of error lines."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("group", "rows", "MAPE", "median", "p95", "bias", "in 90 % interval"):
        table.add_column(name, justify="left" if name == "group" else "right")
    for line in lines:
        covered = "-" if np.isnan(line.coverage) else f"{line.coverage:.1%}"
        table.add_row(
            escape(line.group), str(line.rows), f"{line.mape:.1%}", f"{line.median:.1%}", f"{line.p95:.1%}", f"{line.bias:+.1%}", covered
        )
    return table


def predict_file(
    path: Path,
    system: System,
    kind: str | None = None,
    out: Path | None = None,
    measured: str | None = None,
    worst: int = 10,
    console: Console | None = None,
) -> Summary:
    """Predict every row of a CSV; see ``presilicon ops``.

    Parameters
    ----------
    path
        The table; read in pieces, so any length will do.
    system
        The GPU.
    kind
        One of the kinds of op table; None: from the columns.
    out
        Where to write; appears whole or not at all.
    measured
        Column of measured seconds for the error table.
    worst
        Rows to list.
    console
        Where progress goes; None: nowhere.

    Raises
    ------
    TableError
        Naming file, line and column.
    """
    import pandas as pd
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    chosen = kind_named(kind) if kind else None
    where = str(path)
    kept: list[pd.DataFrame] = []
    worst_frame = None
    notes: dict[str, None] = {}
    rows = 0
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    shown_progress = Progress(*columns, console=console, disable=console is None, transient=True)
    with replacing(out) if out else nullcontext() as stream, shown_progress as progress:
        task = progress.add_task(f"predicting {path.name}")
        for chunk in read_chunks(path):
            frame = chunk.frame()
            chosen = chosen or kind_of(frame, where)
            checked = check(frame, chosen, where)
            if "note" in checked.attrs:
                notes[checked.attrs["note"]] = None
            seconds = _measured(frame, measured, where) if measured is not None else None
            try:
                predicted = predict(checked, chosen, system)
            except PresiliconError as error:
                raise TableError(f"{where}: {error}") from None
            if stream is not None:
                chunk.write(stream, {name: predicted[name].tolist() for name in PREDICTED}, with_header=rows == 0)
            if seconds is not None and measured is not None:
                result = checked.assign(**{measured: seconds}, **{name: predicted[name] for name in PREDICTED})
                groups = [name for name in _GROUPS if name in checked]
                kept.append(result[[*groups, measured, *PREDICTED[:3]]].astype(dict.fromkeys(groups, "category")))
                listed = dict.fromkeys([*groups, *chosen.sizes, *chosen.optional, measured, *PREDICTED])
                worst_frame = worst_rows(pd.concat([worst_frame, result[list(listed)]]), measured, worst)
            rows += len(frame)
            progress.update(task, description=f"predicting {path.name}: {rows} rows")
    assert chosen is not None
    errors = error_lines(joined(kept), measured, _GROUPS) if measured is not None else []
    return Summary(path, chosen.name, system.name, rows, out, errors, worst_frame, tuple(notes))


def _whole(table: Path | pd.DataFrame, kind: str | None) -> tuple[str, TableKind, pd.DataFrame, pd.DataFrame]:
    """Name, kind, rows as they are and checked rows of a whole table."""
    import pandas as pd

    if isinstance(table, pd.DataFrame):
        name = where = "table"
        frame = table
    else:
        name, where = table.name, str(table)
        frame = pd.concat([chunk.frame() for chunk in read_chunks(table)])
    chosen = kind_named(kind) if kind else kind_of(frame, where)
    return name, chosen, frame, check(frame, chosen, where)


def read_table(table: Path | pd.DataFrame, kind: str | None, measured: str) -> Table:
    """A whole measured table, checked."""
    name, chosen, frame, checked = _whole(table, kind)
    where = name if table is frame else str(table)
    return Table(name, chosen, checked.reset_index(drop=True), _measured(frame, measured, where))


def predict_table(table: Path | pd.DataFrame, system: System, kind: str | None = None) -> pd.DataFrame:
    """A whole table with the prediction in the columns ``PREDICTED``."""
    _, chosen, frame, checked = _whole(table, kind)
    predicted = predict(checked, chosen, system)
    return frame.assign(**{name: predicted[name] for name in PREDICTED})


def halves(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of row numbers: the split that error claims name."""
    order = np.random.default_rng(seed).permutation(rows)
    return order[: rows // 2], order[rows // 2 :]


@dataclass(frozen=True)
class CalibrationSummary:
    """A calibration, and its error on the half that it did not see."""

    calibration: Calibration
    other_half: list[ErrorLine]

    def to_frame(self) -> pd.DataFrame:
        """One row per group of rows: errors before the fit, after it, and held out."""
        import pandas as pd

        return pd.DataFrame([vars(line) for line in self.calibration.errors + self.other_half])

    def __repr__(self) -> str:
        return f"CalibrationSummary({self.system.name}: {len(self.calibration.fitted)} constants fitted)"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3g}", escape=True)

    @property
    def system(self) -> System:
        """With the fitted constants."""
        return self.calibration.system

    def lines(self) -> Iterator[Any]:
        """For the console."""
        yield error_table(self.calibration.errors + self.other_half)
        for name, value in self.calibration.fitted.items():
            yield f"  {name} = {value:.6g}"
        if self.calibration.idle:
            yield "not moved by any row, left as they were: " + ", ".join(self.calibration.idle)


def calibrate_files(
    tables: Sequence[Path | pd.DataFrame],
    system: System,
    *,
    kind: str | None = None,
    measured: str = "latency_s",
    source: str | None = None,
    half: int | None = None,
    seed: int = 0,
    start: System | None = None,
    show_progress: bool = False,
) -> CalibrationSummary:
    """Fit a system to files of measured op tables; see ``presilicon calibrate``."""
    from rich.progress import Progress

    read = [read_table(table, kind, measured) for table in tables]
    fit_on, other = read, []
    if half is not None:
        parts = [halves(len(t.frame), seed) for t in read]
        fit_on = [t.rows(p[half]) for t, p in zip(read, parts, strict=True)]
        other = [t.rows(p[1 - half]) for t, p in zip(read, parts, strict=True)]
    text = source or "fitted by presilicon calibrate on " + ", ".join(t.name for t in read) + (
        f" (random half {half}, seed {seed})" if half is not None else ""
    )
    if start is not None:
        system = with_constants(system, start)
    with Progress(disable=not show_progress, transient=True) as progress:
        task = progress.add_task("calibrating", total=1.0)
        result = calibrate(
            fit_on, system, source=text, seed=seed, progress=lambda stage, share: progress.update(task, description=stage, completed=share)
        )
    lines = []
    for table in other:
        predicted = predict(table.frame, table.kind, result.system)
        lines.append(
            error_line(f"{table.name} other half", table.measured_s, predicted["predicted_s"], predicted["low_s"], predicted["high_s"])
        )
    return CalibrationSummary(result, lines)
