"""Intervals that calibration has earned: what a System knows of its models' error, applied to a predicted time.

A device file's ``intervals`` section holds, per family, the quantiles of measured over predicted time in bins of the
predicted time (split conformal prediction, Mondrian by bin: Vovk, Gammerman, Shafer, "Algorithmic learning in a random
world", 2005). Outside of the range of times that calibration saw, the interval widens by its own log-width per decade.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from ..errors import SpecError
from .spec import AnySystem

_FALLBACK: Final = Path(__file__).parent / "intervals.yaml"
_KEYS: Final = {"coverage", "edges_s", "low", "high", "rows", "source"}


@lru_cache(maxsize=1)
def uncalibrated() -> dict[str, Any]:
    """Interval tables by family for GPUs without a calibration of their own, ``"default"`` among them."""
    return dict(yaml.safe_load(_FALLBACK.read_text(encoding="utf-8")))


def table_for(system: AnySystem, family: str) -> tuple[Mapping[str, Any], bool]:
    """The interval table of a family, and whether this system's own calibration gave it (else the general rule)."""
    for key in (family, family.partition(".")[0]):
        if key in system.intervals:
            return check(system.intervals[key], f"intervals.{key}"), True
    rules = uncalibrated()
    return next(rules[key] for key in (family, family.partition(".")[0], "default") if key in rules), False


def check(table: Any, where: str) -> Mapping[str, Any]:
    """The table if it is whole: rising ``edges_s``, one ``low`` and ``high`` ratio per bin between; else SpecError."""
    if not isinstance(table, Mapping) or set(table) - _KEYS or _KEYS - set(table):
        raise SpecError(f"{where}: expected the keys {', '.join(sorted(_KEYS))}")
    try:
        edges, low, high = (np.asarray(table[key], dtype=float) for key in ("edges_s", "low", "high"))
    except (TypeError, ValueError):
        raise SpecError(f"{where}: edges_s, low and high are lists of numbers") from None
    whole = edges.ndim == low.ndim == high.ndim == 1 and len(edges) == len(low) + 1 == len(high) + 1 > 1
    if not whole or not np.all(np.diff(edges) > 0) or edges[0] <= 0 or not np.all((low > 0) & (low <= high)):
        raise SpecError(f"{where}: needs n + 1 rising edges_s for n bins of 0 < low <= high")
    return table


def interval_key(family: str, arithmetic: str = "") -> str:
    """Name under which calibration keeps the intervals of a kernel family: the arithmetic tells kinds of GEMM apart."""
    return f"{family}.{arithmetic}" if arithmetic else family


def bounds(system: AnySystem, family: str, time_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends for predicted times.

    Parameters
    ----------
    system
        Whose calibration applies.
    family
        ``"gemm.bf16"``: looked up whole, then by what stands before the dot.
    time_s
        Predicted seconds, any shape.

    Returns
    -------
    low_s, high_s
        Seconds, of the same shape; never above, respectively below, the prediction itself.
    """
    table, _ = table_for(system, family)
    edges = np.asarray(table["edges_s"], dtype=float)
    time_s = np.asarray(time_s, dtype=float)
    index = np.clip(np.searchsorted(edges, time_s, side="right") - 1, 0, len(edges) - 2)
    positive = np.maximum(time_s, 1e-30)
    outside = np.maximum(0.0, np.maximum(np.log10(edges[0] / positive), np.log10(positive / edges[-1])))
    widen = 1.0 + outside
    low = np.exp(np.log(np.minimum(1.0, np.asarray(table["low"], dtype=float)))[index] * widen)
    high = np.exp(np.log(np.maximum(1.0, np.asarray(table["high"], dtype=float)))[index] * widen)
    return time_s * low, time_s * high
