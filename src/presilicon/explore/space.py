"""What a search varies, and what designs it finds good: parameters as distributions, constraints as amounts of violation."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from ..arch import AnySystem
from ..arch.costs import PER_DEVICE, TOTALS
from ..errors import PresiliconError, SpecError, UnknownNameError
from ..workloads.graph import OpGraph
from .axes import is_whole
from .cache import default_cache
from .columns import plain, quantities
from .evaluate import RESULTS, WORKLOAD_COLUMNS, Subject, evaluate_designs
from .expand import Columns
from .expression import Expression
from .study import Study, Workload, condition_columns, units_of

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: Results that are averaged (geometric mean) over the workloads of a study, and those that are the same for all.
_MEAN: Final = ("time_s", "low_s", "high_s", "tokens_per_s", "energy_j")
_SYSTEM: Final = "system"
COSTS: Final = (*TOTALS, *PER_DEVICE, "devices")
#: Columns that hold words, and those that differ between the workloads of a study.
_WORDS: Final = ("workload", "model", "phase", "dtype", "quant", "sparsity", "system", "fidelity", "runtime", "limiter")
_OF_WORKLOAD: Final = frozenset(WORKLOAD_COLUMNS) - {"system", "fidelity", "runtime"}


class Evaluate(Protocol):
    """What evaluates designs as `presilicon.explore.evaluate.evaluate_designs` does, here or elsewhere."""

    def __call__(self, subject: Subject, columns: Columns, *, version: str | None = None) -> pa.Table: ...


@dataclass(frozen=True)
class Dimension:
    """One thing that a search turns.

    Attributes
    ----------
    name
        Path, paths of a zipped group joined by ``" & "``, or ``"system"``.
    low, high, log, whole
        Of a range; ``whole``: only whole numbers.
    columns
        Of a list: the values by path, chosen by index; None for a range.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    columns: Mapping[str, np.ndarray] | None = None

    def distribution(self) -> Any:
        """As Optuna samples it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.columns is None:
            if self.whole:
                return IntDistribution(round(self.low), round(self.high), log=self.log)
            return FloatDistribution(self.low, self.high, log=self.log)
        values = next(iter(self.columns.values()))
        count = len(values)
        ordered = values.dtype.kind == "f" and bool(np.all(np.diff(values) > 0)) and len(self.columns) == 1
        return IntDistribution(0, count - 1) if ordered else CategoricalDistribution(list(range(count)))

    def values(self, chosen: Sequence[Any]) -> dict[str, np.ndarray]:
        """Columns by path of the chosen numbers (of a range) or indices (of a list)."""
        if self.columns is None:
            return {self.name: np.array(chosen, dtype=float)}
        index = np.array(chosen, dtype=int)
        return {path: values[index] for path, values in self.columns.items()}


def dimensions(study: Study) -> tuple[Dimension, ...]:
    """What a search over a study varies: ranges continuously (or over whole numbers), lists by their values, and the system if several.

    Raises
    ------
    PresiliconError
        Nothing varies.
    """
    found: list[Dimension] = []
    if len(study.systems) > 1:
        names = np.array([s.name for s in study.systems], dtype=object)
        found.append(Dimension(_SYSTEM, columns={_SYSTEM: names}))
    for axis in study.axes:
        if axis.kind != "random" and not axis.ranges:
            found.append(Dimension(" & ".join(axis.columns), columns=axis.columns))
            continue
        for path, values in axis.columns.items():
            low, high, log = (axis.ranges or {}).get(path, (0.0, 0.0, False))
            if low < high:
                found.append(Dimension(path, low, high, log, any(is_whole(s, path, low) for s in study.systems)))
            else:
                found.append(Dimension(path, columns={path: np.array(sorted(set(values.tolist())), dtype=values.dtype)}))
    if not any(d.columns is None or len(next(iter(d.columns.values()))) > 1 for d in found):
        raise PresiliconError(f"{study.source}: nothing varies: give parameters with a range or several values, or several systems")
    return tuple(found)


def check_constraints(study: Study) -> None:
    """Refuse, before anything runs, constraints that name no column of the results or compare a word with a number."""
    samples: dict[str, Any] = {name: np.ones(1) for name in (*WORKLOAD_COLUMNS, *RESULTS, *COSTS)}
    samples |= {name: np.array([""], dtype=object) for name in _WORDS}
    samples |= {path: axis.columns[path][:1] for axis in study.axes for path in axis.columns}
    for index, condition in enumerate(study.constraints):
        where = f"{study.source}: constraints.{index}"
        for name in sorted(condition.names):
            if name not in samples and not name.startswith("share."):
                raise UnknownNameError("column", name, samples, where=where)
        try:
            condition.evaluate(samples | {name: np.ones(1) for name in condition.names - samples.keys()}, quantities(condition.names))
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from None


def evaluate_points(
    study: Study,
    graphs: Mapping[Workload, OpGraph],
    columns: Mapping[str, np.ndarray],
    version: str | None = None,
    evaluate: Evaluate = evaluate_designs,
) -> dict[str, np.ndarray]:
    """Results of designs over all workloads of a study.

    Parameters
    ----------
    study, graphs
        The study, and the graph of each of its workloads.
    columns
        Arrays of shape ``(designs,)`` by path; ``"system"`` holds names where the study has several systems.
    version
        As `evaluate_designs` takes it.
    evaluate
        `evaluate_designs`, or what does the same elsewhere (`presilicon.explore.cluster.workers_of`).

    Returns
    -------
    dict
        Columns of shape ``(designs,)``: the parameters, the results (geometric means over the workloads for time, rate and energy),
        ``limiter`` of the slowest workload, ``fits`` on all, ``error`` (None or a text), ``violation`` and ``feasible``.
    """
    count = len(next(iter(columns.values())))
    systems = columns.get(_SYSTEM, np.full(count, study.systems[0].name, dtype=object))
    paths = {path: values for path, values in columns.items() if path != _SYSTEM}
    merged: dict[str, np.ndarray] = {_SYSTEM: systems, **paths}
    for system in study.systems:
        chosen = np.flatnonzero(systems == system.name)
        if not len(chosen):
            continue
        part = {path: values[chosen] for path, values in paths.items()}
        for name, values in _one_system(study, graphs, system, part, version, len(chosen), evaluate).items():
            if name not in merged:
                merged[name] = np.full(count, _absent(name, values.dtype), dtype=values.dtype)
            merged[name][chosen] = values
    return merged


def _absent(name: str, kind: np.dtype[Any]) -> Any:
    """What stands in a column of results for the designs of a system that has no such column."""
    return None if kind.kind == "O" else np.nan if kind.kind == "f" and not name.startswith("share.") else 0


def _one_system(
    study: Study,
    graphs: Mapping[Workload, OpGraph],
    system: AnySystem,
    columns: Mapping[str, np.ndarray],
    version: str | None,
    count: int,
    evaluate: Evaluate,
) -> dict[str, np.ndarray]:
    cache = default_cache()  # of models that are slow; a genetic search comes back to designs that it has seen
    tables = [
        evaluate(Subject(w, graphs[w], system, study.fidelity, study.runtime, cache), columns, version=version).to_pandas()
        for w in study.workloads
    ]
    if not columns:  # the system as it is: one row stands for all
        tables = [table.iloc[np.zeros(count, dtype=int)].reset_index(drop=True) for table in tables]
    errors = np.full(count, None, dtype=object)
    for table in tables:
        told = [text if isinstance(text, str) else None for text in table["error"]]
        errors[:] = [old if old is not None else new for old, new in zip(errors, told, strict=True)]
    times = np.stack([t["time_s"].to_numpy(dtype=float) for t in tables])
    slowest = np.argmax(np.nan_to_num(times, nan=-1.0), axis=0)
    found: dict[str, np.ndarray] = {}
    for name in tables[0].columns:
        if name in _MEAN:
            values = np.stack([t[name].to_numpy(dtype=float) for t in tables])
            with np.errstate(all="ignore"):
                found[name] = np.exp(np.log(values).mean(axis=0))
        elif name.startswith("share."):
            found[name] = np.mean([t[name].to_numpy(dtype=float) for t in tables if name in t], axis=0)
        elif name == "limiter":
            words = np.stack([t[name].to_numpy(dtype=object) for t in tables])
            found[name] = words[slowest, np.arange(count)]
        elif name == "fits":
            found[name] = np.all([t[name].to_numpy(dtype=object) == True for t in tables], axis=0)  # noqa: E712  null is no fit
        elif name == "peak_memory_bytes" or name in COSTS:  # of all devices: what the workload with most of them takes
            found[name] = np.max([t[name].to_numpy(dtype=float) for t in tables], axis=0)
    if len(tables) > 1:
        for workload, table in zip(study.workloads, tables, strict=True):
            found[f"time_s[{workload.label}]"] = table["time_s"].to_numpy(dtype=float)
    found["error"] = errors
    found["violation"] = _violations(study, system, {**columns, **found}, tables, count)
    found["feasible"] = np.array([e is None for e in errors]) & (found["violation"] <= 0)
    return found


def _violations(study: Study, system: AnySystem, columns: Mapping[str, Any], tables: Sequence[pd.DataFrame], count: int) -> np.ndarray:
    """By how much designs break the constraints: relative amounts, added up; 0 where they keep all.

    A constraint that names a field of the workload holds for each workload's own results, any other for the results of all.
    """
    capacity = np.asarray(columns.get("dram.size", system.memory_bytes), dtype=float)
    total = np.maximum(np.nan_to_num(columns["peak_memory_bytes"]) / capacity - 1.0, 0.0) + np.zeros(count)
    same = {name: tables[0][name].to_numpy() for name in ("system", "fidelity", "runtime")}
    for condition in study.constraints:
        absent = {name: np.zeros(count) if name.startswith("share.") else np.full(count, np.nan) for name in condition.names}
        named = tables if condition.names & _OF_WORKLOAD else [None]
        for table in named:
            own = same | dict(columns) if table is None else {str(name): plain(table[name]) for name in table}
            total = total + violation(condition, absent | own, quantities(condition.names))
    units = units_of(system)
    for workload in study.workloads if study.when else ():
        known = condition_columns(workload, system) | dict(columns)
        for condition in study.when:
            total = total + violation(condition, known, units)
    return np.nan_to_num(total, nan=np.inf, posinf=np.inf)


def violation(condition: Expression, columns: Mapping[str, Any], units: Mapping[str, str]) -> np.ndarray:
    """Relative amount by which a condition is broken, 0 where it holds; conditions joined by ``and`` add up.

    A single comparison of numbers is broken by ``|left - right| / |right|``; any other condition by 1.

    >>> from presilicon.explore.expression import parse_expression
    >>> violation(parse_expression("area_mm2 <= 800", "constraints"), {"area_mm2": np.array([700.0, 1000.0])}, {}).tolist()
    [0.0, 0.25]
    """
    holds = np.asarray(condition.evaluate(columns, units), dtype=bool)
    body = ast.parse(condition.text, mode="eval").body
    if isinstance(body, ast.BoolOp) and isinstance(body.op, ast.And):
        parts = [Expression(ast.unparse(each), condition.names) for each in body.values]
        return np.asarray(sum(violation(part, columns, units) for part in parts))
    sides = condition.sides(columns, units)
    if sides is not None and not any(isinstance(side, str) for side in sides):
        left, right = (np.asarray(side, dtype=float) for side in sides)
        with np.errstate(all="ignore"):
            amount = np.abs(left - right) / np.maximum(np.abs(right), 1e-300)
        return np.where(holds, 0.0, np.maximum(np.nan_to_num(amount, nan=np.inf, posinf=np.inf), 1e-9))
    return np.where(holds, 0.0, 1.0)
