"""Columns of results: their units, told from their names alone, and their values as conditions take them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from ..units import BASE_UNITS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

#: Unit of a column of results; those of parameters come from `presilicon.arch.describe`.
UNITS: Final = {
    "time_s": "s", "low_s": "s", "high_s": "s", "tokens_per_s": "token/s", "energy_j": "J", "area_mm2": "mm²", "power_w": "W",
    "cost_usd": "USD", "peak_memory_bytes": "B", "area_mm2_per_device": "mm²", "power_w_per_device": "W", "cost_usd_per_device": "USD",
}
#: Units of the numbers of NPUs and hybrid systems, whose paths hold names of their own.
_BY_FORM: Final = (
    (r"(xpu\.npu\.)?clock", "Hz"),
    (r"memories\.[^.]+\.(size|partial|partition\..+)|matrix\.registers\..+|xpu\.npu\.scratchpad|xpu\.tiled\.(l1|l2|memory)|memory", "B"),
    (r"memories\..+bandwidth|dma\.bandwidth", "B/clk"),
    (r"(noc|host|fabric|xpu\.npu|xpu\.tiled)\.bandwidth", "B/s"),
    (r"xpu\.tiled\.flops", "FLOP/s"),
    (r"fabric\.latency|launch|pim\.host", "s"),
    (r"power\.static|xpu\.(npu|tiled)\.idle", "W"),
)


def unit_of(column: str) -> str:
    """Unit of a column, ``""`` where it has none."""
    from ..arch import describe

    if column in UNITS:
        return UNITS[column]
    if column.startswith("time_s["):
        return "s"
    inner = column.removeprefix("xpu.")  # of a GPU in a hybrid system
    unit = next((u for path, u, _ in describe() if path == inner), "")
    if not unit:
        unit = next((u for form, u in _BY_FORM if re.fullmatch(form, column)), "")
    return "" if unit == "1" else unit


def quantities(names: Iterable[str]) -> dict[str, str]:
    """Base unit of those columns beside which a condition may write a quantity: ``time_s <= '5 ms'``.

    >>> quantities(["time_s", "dram.bandwidth", "area_mm2", "phase"])
    {'time_s': 's', 'dram.bandwidth': 'B/s'}
    """
    return {name: unit for name in names if (unit := unit_of(name)) in BASE_UNITS}


def plain(column: pd.Series[Any]) -> np.ndarray:
    """A pandas column as an array that conditions take: numbers and flags as they are, words as objects."""
    values = column.to_numpy()
    return values if column.dtype.kind in "fiub" else values.astype(object)
