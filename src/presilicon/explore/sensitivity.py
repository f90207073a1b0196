"""Which number of a device moves the answer, and by how much: logarithmic derivatives of a result by every number, vectorised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..arch import AnySystem, load
from ..errors import PresiliconError, UnknownNameError
from ..workloads.graph import OpGraph
from .axes import is_whole, numbers_of, provenance_of
from .cache import default_cache
from .evaluate import Subject, evaluate_designs
from .study import OBJECTIVES, Workload

if TYPE_CHECKING:
    import pandas as pd

#: Relative steps: of the derivative, and of the two columns that say what a tenth more or less would do.
_STEP, _TENTH = 0.01, 0.1
_PLACES: Final = ("up", "down", "more", "less")
#: A result that moves by less than this share does not move (rounding of sums of many kernels).
_STILL: Final = 1e-12
#: A derivative that promises more than so many times what a tenth then does is a step at this very place.
_JUMP: Final = 2.0


def sensitivity(
    graph: OpGraph,
    system: AnySystem | str | Path,
    *,
    objective: str = "latency",
    paths: Sequence[str] | None = None,
    calibration: bool = False,
    fidelity: str = "analytic",
    runtime: str = "cudagraph",
    use_cache: bool = True,
) -> pd.DataFrame:
    """How much each number of a system moves the result of a graph.

    Parameters
    ----------
    graph, system
        As `presilicon.simulate` takes them.
    objective
        One of `presilicon.explore.study.OBJECTIVES`.
    paths
        Numbers to look at; all of the hardware if None.
    calibration
        Look at the constants of the models too (``calibration.*``).
    fidelity, runtime
        As `presilicon.simulate` takes them.
    use_cache
        Keep and reuse the results of slow models in the user's cache.

    Returns
    -------
    pandas.DataFrame
        One row per number, the one whose tenth does most first: ``path``, ``value``, ``unit``, ``sensitivity`` (d ln(result) / d ln(value),
        by central differences of 1 %, of one unit for whole numbers; NaN where the number is 0 or cannot be moved), ``more`` and ``less``
        (relative change of the result for a tenth more or less; counts move to the next whole number), ``more_at`` and ``less_at`` (the
        values that were tried), ``effect`` (``""``; ``"no effect"``; ``"step"``: the number stands at a
        jump, such as the last register that lets one more CTA in; ``"cannot be moved"``), ``status`` and ``source`` of the number.
        ``attrs`` holds the result of the system as it is under ``"base"``.

    Raises
    ------
    UnknownNameError
        An unknown system, path or objective.
    PresiliconError
        The system as it is has no result.

    Examples
    --------
    ``ps.sensitivity(ps.trace_model("llama-3-8b", phase="decode"), "h100-sxm")`` puts ``dram.bandwidth`` first, at about -0.9.
    """
    system = load(system)
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", objective, OBJECTIVES)
    numbers = {p: (v, u) for p, v, u in numbers_of(system) if isinstance(v, int | float) and not isinstance(v, bool)}
    for path in paths or ():
        if path not in numbers:
            raise UnknownNameError("path", path, numbers, where=system.name)
    chosen = list(paths) if paths is not None else [p for p in numbers if calibration or not _is_calibration(p)]
    moved = {p: _moves(float(numbers[p][0]), _is_count(system, p, numbers[p])) for p in chosen}
    cache = default_cache() if use_cache else None
    values = _results(graph, system, {p: m for p, m in moved.items() if m}, objective, fidelity, runtime, cache)
    base = values["", "base"]
    if not math.isfinite(base):
        raise PresiliconError(f"{system.name}: the graph has no result there: {objective} is {base}")
    import pandas as pd

    rows = [_row(system, p, numbers[p], moved[p], values, base) for p in chosen]
    names = ("path", "value", "unit", "sensitivity", "more", "less", "more_at", "less_at", "effect", "status", "source")
    frame = pd.DataFrame(rows, columns=list(names))
    order = frame[["more", "less"]].abs().max(axis=1).fillna(-1.0).sort_values(ascending=False, kind="stable").index
    frame = frame.loc[order].reset_index(drop=True)
    frame.attrs = {"base": base, "objective": objective, "system": system.name, "graph": graph.name}
    return frame


def _is_calibration(path: str) -> bool:
    return path.removeprefix("xpu.").startswith("calibration.")


def _is_count(system: AnySystem, path: str, number: tuple[Any, str]) -> bool:
    """Whether a number is a count, which only whole steps move."""
    value, unit = number
    return unit in ("", "1") and not _is_calibration(path) and float(value).is_integer() and is_whole(system, path, value)


def _moves(value: float, whole: bool) -> dict[str, float]:
    """The four values to try; empty where a relative step is none."""
    if value == 0 or not math.isfinite(value):
        return {}
    steps = {"up": 1 + _STEP, "down": 1 - _STEP, "more": 1 + _TENTH, "less": 1 - _TENTH}
    found = {name: value * factor for name, factor in steps.items()}
    if whole:
        found = {name: float(math.ceil(v - 1e-9) if v > value else math.floor(v + 1e-9)) for name, v in found.items()}
    return {name: v for name, v in found.items() if v > 0}


def _results(
    graph: OpGraph,
    system: AnySystem,
    moved: dict[str, dict[str, float]],
    objective: str,
    fidelity: str,
    runtime: str,
    cache: Path | None,
) -> dict[tuple[str, str], float]:
    """Result of every changed system by (path, which change), and of the system as it is by ("", "base")."""
    keys = [("", "base"), *((p, which) for p, m in moved.items() for which in m)]
    base = {p: v for p, v, _ in numbers_of(system)}
    columns = {path: np.full(len(keys), float(base[path])) for path in moved}
    for index, (path, which) in enumerate(keys):
        if path:
            columns[path][index] = moved[path][which]
    fields: dict[str, Any] = {k: graph.meta.get(k) for k in ("phase", "batch", "seq", "context")}
    workload = Workload(graph.name, True, **fields)
    table = evaluate_designs(Subject(workload, graph, system, fidelity, runtime, cache), columns).to_pandas()
    column = OBJECTIVES[objective][0]
    if column not in table:
        raise PresiliconError(f"{system.name}: no {column}: the area model does not know this system")
    found = np.where(table["error"].isna(), table[column].astype(float), np.nan)
    return dict(zip(keys, found.tolist(), strict=True))


def _row(
    system: AnySystem, path: str, number: tuple[Any, str], moves: dict[str, float], values: dict[tuple[str, str], float], base: float
) -> tuple[Any, ...]:
    value, unit = float(number[0]), number[1]
    ends = {w: (x, values[path, w]) for w, x in moves.items() if math.isfinite(values[path, w])}
    slope = math.nan
    near = [ends[w] for w in ("down", "up") if w in ends]
    if len(near) < 2 and near:
        near = sorted([*near, (value, base)])
    if len(near) == 2 and near[0][1] > 0 and near[1][1] > 0:
        slope = math.log(near[1][1] / near[0][1]) / math.log(near[1][0] / near[0][0])
    changes = {w: ends[w][1] / base - 1.0 if w in ends and base else math.nan for w in _PLACES}
    finite = [abs(c) for c in changes.values() if math.isfinite(c)]
    at = tuple(ends[w][0] if w in ends else math.nan for w in ("more", "less"))
    origin = provenance_of(system, path)
    told = (origin.status, origin.source) if origin else ("", "")
    if finite and max(finite) <= _STILL:
        return path, value, unit, 0.0, 0.0, 0.0, *at, "no effect", *told
    far = max((abs(changes[w]) for w in ("more", "less") if math.isfinite(changes[w])), default=math.nan)
    step = math.isfinite(slope) and abs(slope) * _TENTH > _JUMP * far
    effect = "step" if step else "" if math.isfinite(slope) else "cannot be moved"
    return path, value, unit, slope, changes["more"], changes["less"], *at, effect, *told
