"""What a scratchpad holds over a whole graph: operator order, residency, addresses, spills and fetches.

>>> from presilicon.mapping.scratchpad import allocate, problem_of
"""

from __future__ import annotations

from .allocate import allocate
from .plan import Interval, Plan, check
from .problem import Problem, Tensor, problem_of

__all__ = ["Interval", "Plan", "Problem", "Tensor", "allocate", "check", "problem_of"]
