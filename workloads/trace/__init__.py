"""The front end: PyTorch modules to operator graphs. Calling this module traces, as `.api.trace` does.

How a call becomes an op: a front end (`export`, or `dispatch` where a model does not export) records every ATen
operator as a `Call`; the formula of that operator, found in `registry`, turns it into ops; `builder` names them, links
them and finds the memory they need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._callable import callable_module


def _find() -> Callable[..., Any]:
    from .api import trace

    return trace


callable_module(__name__, _find)
