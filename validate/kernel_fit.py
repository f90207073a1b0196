"""Constants of family ``kernel`` fitted on measured Triton kernels, and how far to believe the result.

Each row is simulated with the constants as they are and with each of them nudged, which gives log(time) to first order in their
logarithms; the fixed part of a launch is added exactly. Bounded least squares on log(predicted / measured) with a soft-L1 loss;
simulated and fitted again at the constants found. Rows that the split holds out take no part (`kernel_rows.split_of`). Intervals
come from the residuals of kernels that took no part in the fit either, a fifth of them at a time, since a user's kernel is none of those
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ..arch import System
from ..arch.constants import all_constants
from ..arch.loader import from_document, override
from ..errors import CalibrationError
from .conformal import interval_table
from .errors_table import ErrorLine, error_line
from .kernel_rows import KernelRows, Predicted, Progress, predict_rows

#: What moves the simulated part; kernel.launch multiplies the fixed part.
_CORE: Final = ("kernel.clock", "kernel.dram", "kernel.l2")
NAMES: Final = (*_CORE, "kernel.launch")
_NUDGE, _ROUNDS, _FOLDS = 0.93, 1, 5
#: Root-mean-square error that a departure by a factor of two must earn.
_PRIOR: Final = 0.02
#: Rows that the fit simulates, at most, spread over the suites.
FIT_ROWS: Final = 240
MIN_ROWS: Final = 20
#: Factor between a measured and a fitted time from which on a row is named.
OUTLIER: Final = 2.0


@dataclass(frozen=True)
class KernelCalibration:
    """What a fit found.

    Attributes
    ----------
    system
        With the fitted constants and the intervals of measured kernels.
    fitted
        New value by constant.
    idle
        Constants that no row moves, left as they were.
    errors
        Before and after on the rows fitted, held out by groups of shapes, and each kernel left out altogether.
    rows
        Rows that were fitted.
    refused
        Rows without a prediction, with the reason.
    outliers
        Rows that the fit leaves wrong by more than `OUTLIER`, worst first: the loss lets them count little.
    """

    system: System
    fitted: dict[str, float]
    idle: list[str]
    errors: list[ErrorLine] = field(default_factory=list)
    rows: int = 0
    refused: tuple[str, ...] = ()
    outliers: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Linear:
    """Predictions near a point: log of the core's time and its slopes, and the fixed part at a factor of 1."""

    at: np.ndarray
    log_core: np.ndarray
    slopes: np.ndarray
    launch_s: np.ndarray

    def predict(self, values: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
        moved = self.slopes[rows] @ (np.log(values[:3]) - np.log(self.at[:3]))
        return np.exp(self.log_core[rows] + moved) + self.launch_s[rows] * values[3]


def calibrate_kernels(rows: KernelRows, system: System, *, source: str, seed: int = 0, fit_rows: int = FIT_ROWS, jobs: int = 1,
                      progress: Progress = lambda stage, share: None) -> KernelCalibration:
    """Fit the constants that the rows of the part "fit" can move.

    Raises
    ------
    CalibrationError
        Fewer than 20 rows, or none that can be predicted.
    """
    fit = rows.rows((rows.frame["part"] == "fit").to_numpy())
    fit = fit.rows(_spread(fit, fit_rows, seed))
    if len(fit.frame) < MIN_ROWS:
        raise CalibrationError(f"{rows.path}: {len(fit.frame)} rows to fit; calibration needs at least {MIN_ROWS}")
    values = np.array([system.calibration[name] for name in NAMES])
    near, refused, tensor, kept = _linear(fit, system, values, jobs, "simulating", progress)
    fit = fit.rows(kept)
    if len(fit.frame) < MIN_ROWS:
        raise CalibrationError(f"{rows.path}: {len(fit.frame)} rows can be predicted; calibration needs at least {MIN_ROWS}; {refused[0]}")
    measured, origin = fit.frame["measured_s"].to_numpy(), values
    before = near.predict(origin)
    for _ in range(_ROUNDS):
        values = _solve(near, measured, origin)
        near, _, _, _ = _linear(fit, _with(system, values, source), values, jobs, "simulating again", progress)
    values = _solve(near, measured, origin)
    values = np.array([float(f"{v:.5g}") for v in values])
    idle = [name for n, name in enumerate(_CORE) if not np.any(np.abs(near.slopes[:, n]) > 1e-3)]
    suites = fit.frame["suite"].to_numpy()
    held = _held_out(near, measured, origin, fit.frame["suite"] + fit.frame["shape"], seed)
    apart = _held_out(near, measured, origin, suites, seed) if len(set(suites)) >= _FOLDS else held
    fitted = _with(system, values, source)
    after = near.predict(values)
    intervals = dict(system.intervals)
    for name, mine in (("kernel.tensor", tensor), ("kernel.memory", ~tensor)):
        if np.count_nonzero(mine) >= MIN_ROWS:
            intervals[name] = interval_table(apart[mine], measured[mine], source=source)
    intervals["kernel"] = interval_table(apart, measured, source=source)
    lines = [error_line("before", measured, before), error_line("fitted", measured, after),
             error_line("held out, by shapes", measured, held)]
    for suite in sorted(set(suites)) if len(set(suites)) > 1 else ():
        mine = suites == suite
        left = _solve(near, measured, origin, ~mine)
        lines.append(error_line(f"{suite} left out altogether", measured[mine], near.predict(left, mine)))
    made = from_document(dict(fitted.document) | {"intervals": intervals})
    return KernelCalibration(made, dict(zip(NAMES, values.tolist(), strict=True)), idle, lines, len(fit.frame), tuple(refused),
                             _outliers(fit, after / measured))


def _outliers(rows: KernelRows, ratio: np.ndarray) -> tuple[str, ...]:
    far = np.abs(np.log(ratio))
    order = [n for n in np.argsort(-far, kind="stable").tolist() if far[n] > np.log(OUTLIER)]
    return tuple(f"{rows.frame['suite'].iloc[n]} {rows.frame['shape'].iloc[n]} {rows.frame['config'].iloc[n]}: measured "
                 f"{rows.frame['measured_s'].iloc[n]:.4g} s, fitted {ratio[n] * rows.frame['measured_s'].iloc[n]:.4g} s" for n in order)


def _with(system: System, values: np.ndarray, source: str) -> System:
    changes = {f"calibration.{name}": float(value) for name, value in zip(NAMES, values, strict=True)}
    return override(system, changes, source=source, status="fitted")


def _spread(rows: KernelRows, most: int, seed: int) -> np.ndarray:
    """Positions of at most so many rows, the suites in turn."""
    order = np.random.default_rng(seed).permutation(len(rows.frame))
    turn: dict[str, int] = {}
    keys = []
    for position in order.tolist():
        suite = rows.frame["suite"].iloc[position]
        turn[suite] = turn.get(suite, 0) + 1
        keys.append((turn[suite], position))
    share = max(MIN_ROWS, 2 * most // max(len(turn), 1))  # a suite with many configs must not outweigh the others
    return np.sort([position for _, position in sorted(key for key in keys if key[0] <= share)[:most]])


def _linear(rows: KernelRows, system: System, at: np.ndarray, jobs: int, label: str,
            progress: Progress) -> tuple[_Linear, list[str], np.ndarray, np.ndarray]:
    """The rows near a point, reasons of those refused, which use tensor cores, and which are there."""
    constants = all_constants()
    nudges = [_NUDGE if at[n] * _NUDGE >= constants[name].low else 1.0 / _NUDGE for n, name in enumerate(_CORE)]
    systems = [override(system, {"calibration.kernel.launch": 1.0})]
    systems += [override(systems[0], {f"calibration.{name}": float(at[n] * nudges[n])}) for n, name in enumerate(_CORE)]
    found = predict_rows(rows, systems, jobs=jobs, label=label, progress=progress)
    kept = np.array([not row[0].problem for row in found])
    core = np.array([[one.core_s for one in row] for row, here in zip(found, kept, strict=True) if here]).reshape(-1, len(systems))
    launch = np.array([row[0].launch_s for row, here in zip(found, kept, strict=True) if here])
    tensor = np.array([row[0].tensor for row, here in zip(found, kept, strict=True) if here], dtype=bool)
    logs = np.log(np.maximum(core, 1e-9))
    slopes = (logs[:, 1:] - logs[:, :1]) / np.log(np.array(nudges))
    return _Linear(at, logs[:, 0], slopes, launch), _reasons(found), tensor, kept


def _reasons(found: Sequence[Sequence[Predicted]]) -> list[str]:
    return [row[0].problem for row in found if row[0].problem]


def _solve(near: _Linear, measured: np.ndarray, origin: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
    """The constants that fit some of the rows best, near `origin` where these hardly move them."""
    from scipy.optimize import least_squares

    constants = all_constants()
    low = np.log([constants[name].low for name in NAMES])
    high = np.log([constants[name].high for name in NAMES])
    wanted = np.log(measured[rows])
    begin = np.clip(np.log(origin), low + 1e-6, high - 1e-6)
    weight = _PRIOR * len(wanted) ** 0.5 / np.log(2)

    def residuals(logs: np.ndarray) -> np.ndarray:
        return np.concatenate([np.log(near.predict(np.exp(logs), rows)) - wanted, weight * (logs - begin)])

    found = least_squares(residuals, begin, bounds=(low, high), loss="soft_l1", f_scale=0.08)
    return np.exp(found.x)


def _held_out(near: _Linear, measured: np.ndarray, origin: np.ndarray, groups: Any, seed: int) -> np.ndarray:
    """Predictions by constants that were fitted without the rows of the same group."""
    _, labels = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    fold = (np.random.default_rng(seed + 1).permutation(labels.max() + 1) % _FOLDS)[labels]
    made = np.empty(len(measured))
    for number in np.unique(fold):
        mine = fold == number
        made[mine] = near.predict(_solve(near, measured, origin, ~mine) if not mine.all() else origin, mine)
    return made
