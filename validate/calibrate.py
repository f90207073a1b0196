"""Fit the physical constants of a device to measured op tables, and learn from held-out residuals how far to believe the result.

One constant has one value per GPU; there are no terms per shape. Fit: bounded least squares on log(predicted / measured) with a soft-L1
loss (scipy.optimize.least_squares). Intervals: residuals of a grouped cross-validation, in which all rows of one weight shape
are held out together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..arch import System
from ..arch.constants import Constant, all_constants
from ..arch.loader import from_document, override
from ..errors import CalibrationError
from ..mapping.gpu.machine import Machine
from .conformal import interval_table
from .errors_table import ErrorLine, error_line
from .optable import Call, TableKind, predict, run

if TYPE_CHECKING:
    import pandas as pd

#: Families of constants that the rows of a table kind can move.
FAMILIES: Final = {
    "gemm": ("gemm", "power"),
    "attention-prefill": ("attention",),
    "attention-decode": ("attention",),
    "encoder-attention": ("attention",),
    "mla-prefill": ("attention",),
    "mla-decode": ("attention",),
    "moe": ("moe",),
    "collective": ("collective",),
    "scan": ("scan",),
}
FIT_ROWS: Final = 3000
#: Root-mean-square error that a departure from the starting constants by a factor of two must earn: keeps those that the rows hardly move
#: near their physical starting values.
PRIOR: Final = 0.02
FOLDS: Final = 5
MIN_ROWS: Final = 20

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Table:
    """A checked op table with measured seconds."""

    name: str
    kind: TableKind
    frame: pd.DataFrame
    measured_s: np.ndarray

    def rows(self, index: np.ndarray) -> Table:
        """Some of the rows."""
        return Table(self.name, self.kind, self.frame.iloc[index].reset_index(drop=True), self.measured_s[index])


@dataclass(frozen=True)
class Calibration:
    """What a fit found.

    Attributes
    ----------
    system
        With the fitted constants and intervals.
    fitted
        New value by constant.
    idle
        Constants that no row moves, left as they were.
    errors
        Before, after, and held out (grouped cross-validation), per table.
    """

    system: System
    fitted: dict[str, float]
    idle: list[str]
    errors: list[ErrorLine] = field(default_factory=list)


def calibrate(
    tables: Sequence[Table],
    system: System,
    *,
    source: str,
    seed: int = 0,
    fit_rows: int = FIT_ROWS,
    progress: Progress = lambda stage, share: None,
) -> Calibration:
    """Fit the constants that the tables can move, family by family.

    Parameters
    ----------
    tables
        Measured op tables of this GPU.
    system
        Whose constants are the start.
    source
        What the numbers were measured on; stands in the device file.
    seed
        Of the subsample and the folds.
    fit_rows
        Rows per table that the optimiser sees (all rows give the residuals).
    progress
        Called with a stage and its share done.

    Raises
    ------
    CalibrationError
        Fewer than 20 rows, or nothing to fit.
    """
    families: dict[tuple[str, ...], list[Table]] = {}
    for table in tables:
        if len(table.frame) < MIN_ROWS:
            raise CalibrationError(f"{table.name}: {len(table.frame)} rows; calibration needs at least {MIN_ROWS}")
        families.setdefault(FAMILIES[table.kind.name], []).append(table)
    fitted: dict[str, float] = {}
    idle: list[str] = []
    lines: list[ErrorLine] = []
    intervals = dict(system.intervals)
    for names, members in families.items():
        before = [_line(f"{t.name} before", t, system) for t in members]
        constants = _movable(names, members, system)
        idle += [c.name for c in all_constants().values() if c.family in names and c.fit and c.name not in {m.name for m in constants}]
        if not constants:
            raise CalibrationError(f"{', '.join(t.name for t in members)}: no constant of {', '.join(names)} moves any row")
        label = ", ".join(t.name for t in members)
        start = np.array([system.calibration[c.name] for c in constants])
        best = _fit(constants, members, system, start, fit_rows, seed, partial(progress, f"fit {label}"))
        held_out = _cross_validate(constants, members, system, best, fit_rows, seed, partial(progress, f"hold out {label}"))
        values = dict(zip((c.name for c in constants), (float(f"{v:.6g}") for v in best), strict=True))
        fitted |= values
        system = override(system, {f"calibration.{n}": v for n, v in values.items()}, source=source, status="fitted")
        for old, table, predicted in zip(before, members, held_out, strict=True):
            lines += [old, _line(f"{table.name} fitted", table, system), error_line(f"{table.name} held out", table.measured_s, predicted)]
        intervals |= _intervals(members, system, held_out, source)
    return Calibration(from_document(_with_source(system, source) | {"intervals": intervals}), fitted, idle, lines)


def with_constants(system: System, donor: System, kind: str | None = None) -> System:
    """A system with another's fitted constants (traits of a chip's design stay); with a kind of table, only those of its families.

    Its own intervals, which belong to its own constants, are left out.
    """
    families = FAMILIES[kind] if kind else None
    changes = {
        f"calibration.{name}": donor.calibration[name]
        for name, constant in all_constants().items()
        if constant.fit and (families is None or constant.family in families)
    }
    changed = override(system, changes, source=f"constants of {donor.name}", status="fitted")
    return from_document({key: part for key, part in changed.document.items() if key != "intervals"})


def _with_source(system: System, source: str) -> dict[str, Any]:
    """The system's document with the source of the fitted constants written once and named beside each."""
    document = dict(system.document)
    sources = dict(document.get("sources") or {})
    names = ("calibration", *(f"calibration-{number}" for number in range(2, len(sources) + 3)))
    label = next(name for name in names if sources.get(name, source) == source)
    constants = {
        name: leaf | {"source": label} if leaf["source"] == source else leaf for name, leaf in document.get("calibration", {}).items()
    }
    return document | {"sources": sources | {label: source}, "calibration": constants}


def _line(label: str, table: Table, system: System) -> ErrorLine:
    return error_line(label, table.measured_s, predict(table.frame, table.kind, system)["predicted_s"])


def _intervals(tables: Sequence[Table], system: System, held_out: Sequence[np.ndarray], source: str) -> dict[str, Any]:
    keys = np.concatenate([predict(t.frame, t.kind, system)["interval_key"] for t in tables])
    measured = np.concatenate([t.measured_s for t in tables])
    predicted = np.concatenate(list(held_out))
    return {str(key): interval_table(predicted[keys == key], measured[keys == key], source=source) for key in np.unique(keys)}


def _model(tables: Sequence[Table], system: System, constants: Sequence[Constant]) -> Callable[[np.ndarray], np.ndarray]:
    """log(predicted / measured) of all rows as a function of the constants' values; each table weighs the same."""
    machine = Machine.of(system)
    calls: list[tuple[Call, np.ndarray, float]] = []
    for table in tables:
        weight = (1.0 / len(table.frame)) ** 0.5
        calls += [(call, np.log(table.measured_s[call.index]), weight) for call in table.kind.calls(table.frame, system)]

    def residuals(values: np.ndarray) -> np.ndarray:
        changed = machine.with_constants(**{c.name.replace(".", "__"): float(v) for c, v in zip(constants, values, strict=True)})
        return np.concatenate(
            [
                weight * (np.log(np.broadcast_to(run(call, changed, system.link).time_s, target.shape)) - target)
                for call, target, weight in calls
            ]
        )

    return residuals


def _movable(families: Sequence[str], tables: Sequence[Table], system: System) -> list[Constant]:
    """The constants that may be fitted and that move at least one row."""
    sample = [t.rows(np.random.default_rng(1).permutation(len(t.frame))[:400]) for t in tables]
    candidates = [c for c in all_constants().values() if c.family in families and c.fit]
    model = _model(sample, system, candidates)
    start = np.array([system.calibration[c.name] for c in candidates])
    base = model(start)
    found = []
    for i, constant in enumerate(candidates):
        nudged = start.copy()
        nudged[i] = (
            start[i] * 1.02 if constant.low <= start[i] * 1.02 <= constant.high and start[i] else 0.98 * start[i] + 0.02 * constant.low
        )
        if start[i] == 0.0:
            nudged[i] = 0.02 * constant.high
        if np.any(np.abs(model(nudged) - base) > 1e-12):
            found.append(constant)
    return found


def _scale(constants: Sequence[Constant]) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """To and from the optimiser's [0, 1]: logarithmic where the bounds span more than a factor of ten."""
    low, high = np.array([c.low for c in constants]), np.array([c.high for c in constants])
    logarithmic = (low > 0) & (high > 10 * np.maximum(low, 1e-300))
    safe = np.where(logarithmic, low, 1.0)
    ratio = np.log(np.where(logarithmic, high, 2.0) / safe)

    def to_unit(x: np.ndarray) -> np.ndarray:
        return np.where(logarithmic, np.log(np.maximum(x, safe) / safe) / ratio, (x - low) / (high - low))

    def from_unit(u: np.ndarray) -> np.ndarray:
        return np.clip(np.where(logarithmic, safe * np.exp(u * ratio), low + u * (high - low)), low, high)

    return to_unit, from_unit


def _fit(
    constants: Sequence[Constant],
    tables: Sequence[Table],
    system: System,
    start: np.ndarray,
    fit_rows: int,
    seed: int,
    progress: Callable[[float], None],
    evaluations: int = 25,
) -> np.ndarray:
    from scipy.optimize import least_squares

    sample = [t.rows(np.random.default_rng(seed).permutation(len(t.frame))[:fit_rows]) for t in tables]
    residuals = _model(sample, system, constants)
    to_unit, from_unit = _scale(constants)
    calls = {"n": 0}
    per_step = len(constants) + 1
    norm = float(sum(len(t.frame) for t in sample)) ** 0.5

    def objective(u: np.ndarray) -> np.ndarray:
        calls["n"] += 1
        progress(min(1.0, calls["n"] / (per_step * evaluations)))
        return norm * np.concatenate([residuals(from_unit(u)), PRIOR * len(sample) ** 0.5 * octaves * (u - begin)])

    begin = np.clip(to_unit(start), 1e-3, 1.0 - 1e-3)
    octaves = np.log2(np.maximum(from_unit(np.minimum(begin + 0.01, 1.0)) / np.maximum(from_unit(begin), 1e-300), 1.0 + 1e-9)) / 0.01
    found = least_squares(
        objective,
        begin,
        bounds=(0.0, 1.0),
        loss="soft_l1",
        f_scale=0.08,
        diff_step=np.full(len(begin), 3e-3),
        max_nfev=evaluations,
        xtol=1e-5,
        ftol=1e-5,
    )
    progress(1.0)
    better = found.cost <= 0.5 * float(np.sum(2 * 0.08**2 * ((1 + (objective(to_unit(start)) / 0.08) ** 2) ** 0.5 - 1)))
    return from_unit(found.x) if better else start


def shape_groups(table: Table) -> np.ndarray:
    """One label per row; rows of one weight (or head) shape share it and are held out together."""
    columns = [
        c
        for c in (
            "n",
            "k",
            "num_heads",
            "num_key_value_heads",
            "head_dim",
            "hidden_size",
            "inter_size",
            "num_experts",
            "message_size",
            "d_model",
            "tp_size",
        )
        if c in table.frame.columns
    ]
    _, labels = np.unique(table.frame[columns].to_numpy(dtype=float), axis=0, return_inverse=True)
    return labels.reshape(-1)


def _cross_validate(
    constants: Sequence[Constant],
    tables: Sequence[Table],
    system: System,
    best: np.ndarray,
    fit_rows: int,
    seed: int,
    progress: Callable[[float], None],
) -> list[np.ndarray]:
    """Predictions of every row by constants that were fitted without its shape group."""
    rng = np.random.default_rng(seed + 1)
    folds = []
    for table in tables:
        labels = shape_groups(table)
        if labels.max() == 0:  # one shape only: its rows are held out one by one
            labels = np.arange(len(labels))
        of_group = rng.permutation(labels.max() + 1) % FOLDS
        folds.append(of_group[labels])
    predictions = [np.full(len(t.frame), np.nan) for t in tables]
    for fold in sorted({int(number) for f in folds for number in f}):

        def part(share: float, done: int = fold) -> None:
            progress((done + share) / FOLDS)

        train = [t.rows(np.flatnonzero(f != fold)) for t, f in zip(tables, folds, strict=True)]
        values = _fit(constants, [t for t in train if len(t.frame)], system, best, max(200, fit_rows // 2), seed, part, evaluations=6)
        fitted = override(system, {f"calibration.{c.name}": float(v) for c, v in zip(constants, values, strict=True)})
        for table, f, out in zip(tables, folds, predictions, strict=True):
            held = np.flatnonzero(f == fold)
            if len(held):
                out[held] = predict(table.rows(held).frame, table.kind, fitted)["predicted_s"]
    return predictions
