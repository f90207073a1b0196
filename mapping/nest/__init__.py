"""Loop nests on spatial accelerators: what a mapping costs, and the mapping that costs least, proven."""

from __future__ import annotations

from .counts import Access, Counts, evaluate
from .nest import Keep, Loop, Mapping, Spatial
from .problem import Problem, Tensor, problem

__all__ = ["Access", "Counts", "Keep", "Loop", "Mapping", "Problem", "Spatial", "Tensor", "evaluate", "problem"]
