"""The front end: PyTorch modules to operator graphs. Calling this module traces, as `.api.trace` does.

How a call becomes an op: a front end (`export`, or `dispatch` where a model does not export) records every ATen
operator as a `Call`; the formula of that operator, found in `registry`, turns it into ops; `builder` names them, links
them and finds the memory they need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._callable import callable_module

if TYPE_CHECKING:
    from .api import trace as trace


def _find() -> Callable[..., Any]:
    from .api import trace

    return trace


def __getattr__(name: str) -> Any:
    if name == "trace":
        return _find()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


callable_module(__name__, _find)
