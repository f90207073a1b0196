"""Published results as runnable cases: one YAML per result, with its hardware, workloads, claims and sources as data.

A claim's quantity is computed by a measure, a Python function on presilicon's own models; a case file computes nothing.
"""

from __future__ import annotations

from . import arrays as _arrays
from . import cascades as _cascades
from . import cent as _cent
from . import hybrids as _hybrids
from . import lamina as _lamina
from . import networks as _networks
from . import npus as _npus
from . import pimgpt as _pimgpt
from . import programs as _programs
from . import rates as _rates
from . import simulated as _simulated
from .case import Case, Claim, read_case
from .registry import builders, measures
from .results import CaseResults, ClaimResult, to_csv
from .runner import case_paths, run_case, run_cases

__all__ = [
    "Case",
    "CaseResults",
    "Claim",
    "ClaimResult",
    "builders",
    "case_paths",
    "measures",
    "read_case",
    "run_case",
    "run_cases",
    "to_csv",
]

_REGISTERED = (_arrays, _cascades, _cent, _hybrids, _lamina, _networks, _npus, _pimgpt, _programs, _rates, _simulated)
