"""Loop nests on spatial accelerators: what a mapping costs, and the mapping that costs least, proven."""

from __future__ import annotations

from .constraints import Constraints
from .counts import Access, Counts, evaluate
from .nest import Keep, Loop, Mapping, Spatial
from .ops import conv, matmul, op_from_text
from .problem import Problem, Tensor, problem
from .result import MappingResult, map_op, pareto

__all__ = [
    "Access",
    "Constraints",
    "Counts",
    "Keep",
    "Loop",
    "Mapping",
    "MappingResult",
    "Problem",
    "Spatial",
    "Tensor",
    "conv",
    "evaluate",
    "map_op",
    "matmul",
    "op_from_text",
    "pareto",
    "problem",
]
