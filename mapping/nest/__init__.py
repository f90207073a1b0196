"""Loop nests on spatial accelerators: what a mapping costs, and the mapping that costs least, proven."""

from __future__ import annotations

from .cascade import Cascade, cascade_from_graph, cascade_from_text
from .constraints import Constraints
from .constraints_file import load_constraints
from .counts import Access, Counts, evaluate
from .fused_result import CascadeResult, map_cascade
from .graph import GraphMapping, map_graph
from .nest import Keep, Loop, Mapping, Spatial
from .ops import conv, matmul, op_from_text
from .problem import Problem, Tensor, problem
from .result import MappingResult, map_op, pareto
from .timeloop import mapping_from_timeloop, mapping_to_timeloop

__all__ = [
    "Access",
    "Cascade",
    "CascadeResult",
    "Constraints",
    "Counts",
    "GraphMapping",
    "Keep",
    "Loop",
    "Mapping",
    "MappingResult",
    "Problem",
    "Spatial",
    "Tensor",
    "cascade_from_graph",
    "cascade_from_text",
    "conv",
    "evaluate",
    "load_constraints",
    "map_cascade",
    "map_graph",
    "map_op",
    "mapping_from_timeloop",
    "mapping_to_timeloop",
    "matmul",
    "op_from_text",
    "pareto",
    "problem",
]
