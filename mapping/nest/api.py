"""What `presilicon.map` is: one op, its text, or a cascade, on a spatial accelerator."""

from __future__ import annotations

from pathlib import Path

from ...arch.hierarchy import Hierarchy, Latency
from ...errors import MappingError
from ...workloads.op import Op
from .cascade import Cascade
from .constraints import Constraints
from .fused_result import CascadeResult, map_cascade
from .incumbent import Objective
from .ops import op_from_text
from .result import MappingResult, map_op


def map_any(
    op: Op | Cascade | str,
    system: Hierarchy | str | Path = "mapbench-16",
    objective: Objective = "edp",
    constraints: Constraints | None = None,
    *,
    time_limit_s: float | None = None,
    imperfect: bool = False,
    latency: Latency | None = None,
) -> MappingResult | CascadeResult:
    """The best mapping of an op, or of a cascade of einsums, on a spatial accelerator, and whether it is proven.

    Parameters
    ----------
    op
        An op, a cascade, or the text of one: ``"matmul m=64 n=64 k=64 int8"`` or ``"S[m,p] = Q[m,e] K[p,e]; ..."``.
    system
        A hierarchy, the name of a shipped one, or the path of a file.
    objective, constraints, time_limit_s, imperfect, latency
        As of `presilicon.mapping.nest.map_op`; a cascade takes no constraints, no imperfect factors and no latency.

    Raises
    ------
    MappingError, UnknownNameError
        As `map_op` and `map_cascade`.

    Examples
    --------
    >>> map_any("matmul m=64 n=64 k=64 int8", "mapbench-16").exhausted
    True
    """
    if isinstance(op, Cascade) or (isinstance(op, str) and "[" in op):
        if constraints is not None:
            raise MappingError("map: a cascade takes no constraints")
        if imperfect or latency is not None:
            raise MappingError("map: a cascade takes neither imperfect factors nor a latency")
        return map_cascade(op, system, objective, time_limit_s=time_limit_s)
    single = op_from_text(op) if isinstance(op, str) else op
    return map_op(single, system, objective, constraints, time_limit_s=time_limit_s, imperfect=imperfect, latency=latency)
