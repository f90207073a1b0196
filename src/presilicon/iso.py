"""Two systems at equal silicon or equal power: one of them with as many PEs as the other's budget holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np

from .errors import SpecError, UnknownNameError

if TYPE_CHECKING:
    from .arch.npu import NpuSystem
    from .arch.spec import AnySystem

Budget = Literal["area", "power"]
BUDGETS: Final[tuple[Budget, ...]] = get_args(Budget)
#: Column of `presilicon.arch.costs.design_costs` of each budget, and its unit.
_COLUMNS: Final[Mapping[str, tuple[str, str]]] = {"area": ("area_mm2", "mm2"), "power": ("power_w", "W")}
#: Most units that a design is grown to.
_MOST: Final = 1 << 16


@dataclass(frozen=True)
class Equalised:
    """A system that spends another one's budget.

    Attributes
    ----------
    system
        With its PEs scaled.
    budget, allowed, spent
        What is equal, how much of it there is, and how much the scaled system takes: mm2 or W. One more unit would exceed it.
    before
        What the system takes as its file has it.
    changes
        Override path and value of what was scaled.
    """

    system: AnySystem
    budget: Budget
    allowed: float
    spent: float
    before: float
    changes: Mapping[str, float]


def cost(system: AnySystem, budget: Budget) -> float:
    """Silicon in mm2, or the most power in W with the DRAM, of a system with all its devices; see docs/npu.md for what is counted.

    Raises
    ------
    UnknownNameError
        No such budget.
    SpecError
        ``area.yaml`` has no technology for the system.

    >>> from presilicon.arch import load
    >>> 40 < cost(load("tpu-v1"), "power") < 75  # busy, and the limit of its design
    True
    """
    from .arch.costs import design_costs

    if budget not in BUDGETS:
        raise UnknownNameError("budget", str(budget), BUDGETS)
    found = design_costs(system, {})
    if not found:
        raise SpecError(f"{system.name}: no area and power: area.yaml has no technology for it")
    return float(np.ravel(found[_COLUMNS[budget][0]])[0])


def equalise(system: AnySystem | str, like: AnySystem | str, budget: Budget = "area") -> Equalised:
    """A system with as many PEs as fit the area or power of another.

    What is scaled is the number of SMs of a GPU, of cores of an NPU with several, and rows and columns of an NPU with one core, whose
    shape it keeps. Memories, bandwidths and clock stay as they are, and so does what they take of the budget. Each system is counted at the
    node of its own file.

    Parameters
    ----------
    system
        What is scaled: a system, a shipped name or the path of a device file.
    like
        Whose budget it gets.
    budget
        ``"area"``: silicon; ``"power"``: everything at its rate at once.

    Returns
    -------
    Equalised
        Within the budget, and less than one unit below it.

    Raises
    ------
    UnknownNameError
        No such budget.
    SpecError
        A hybrid system, whose parts would have to be scaled against each other; or not even one unit fits, as memories and interfaces
        take more than the budget.

    Examples
    --------
    >>> found = equalise("eyeriss", like="eyeriss")
    >>> found.changes, found.spent == found.allowed
    ({'matrix.rows': 12.0, 'matrix.cols': 14.0}, True)
    """
    from .arch import load as load_system
    from .arch.hybrid_spec import HybridSystem
    from .arch.npu import NpuSystem

    mine = load_system(system) if isinstance(system, str) else system
    other = load_system(like) if isinstance(like, str) else like
    if isinstance(mine, HybridSystem):
        raise SpecError(f"{mine.name}: a hybrid system has units of several kinds, no one number of which scales it; scale a GPU or an NPU")
    allowed, before = cost(other, budget), cost(mine, budget)
    changes = _npu_changes(mine) if isinstance(mine, NpuSystem) else _gpu_changes

    def fits(units: int) -> bool:
        return cost(mine.override(changes(units)), budget) <= allowed

    if not fits(1):
        unit = _COLUMNS[budget][1]
        least = cost(mine.override(changes(1)), budget)
        raise SpecError(
            f"{mine.name}: with one unit it takes {least:.3g} {unit}, more than the {allowed:.3g} {unit} of {other.name}: memories and "
            "interfaces, which are not scaled, exceed the budget"
        )
    low, high = 1, 2
    while high < _MOST and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    scaled = mine.override(changes(low))
    return Equalised(scaled, budget, allowed, cost(scaled, budget), before, changes(low))


def _gpu_changes(units: int) -> dict[str, float]:
    return {"gpu.sm.count": float(units)}


def _npu_changes(system: NpuSystem) -> Callable[[int], dict[str, float]]:
    """Cores; or of the only core the longer side of its arrays, the other one in proportion."""
    if system.cores > 1:
        return lambda units: {"cores": float(units)}
    rows, cols = system.matrix.rows, system.matrix.cols
    longest = max(rows, cols)
    return lambda units: {
        "matrix.rows": float(max(1, round(units * rows / longest))),
        "matrix.cols": float(max(1, round(units * cols / longest))),
    }


def parts(system: AnySystem) -> dict[str, float]:
    """Silicon by part, mm2; they add up to ``cost(system, "area")``."""
    from .arch import System
    from .arch.area import chip
    from .arch.hybrid_area import hybrid_device
    from .arch.hybrid_spec import HybridSystem
    from .arch.npu import NpuSystem
    from .arch.npu_area import npu_area_mm2

    if isinstance(system, NpuSystem):
        return npu_area_mm2(system)
    if isinstance(system, HybridSystem):
        return {name: float(mm2) * system.devices for name, mm2 in hybrid_device(system).areas_mm2.items()}
    assert isinstance(system, System)
    return {name: float(mm2) for name, mm2 in chip(system).areas_mm2.items()}
