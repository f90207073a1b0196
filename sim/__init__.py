"""Plays the chosen mapping out in time.

Names are loaded when they are first used: a Triton kernel needs no graph of operators.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .result import MemoryFit, OpResult, Simulation, Span
    from .run import FIDELITIES, RUNTIMES, simulate

_WHERE = {
    "FIDELITIES": "run", "RUNTIMES": "run", "simulate": "run",
    "MemoryFit": "result", "OpResult": "result", "Simulation": "result", "Span": "result",
}

__all__ = ["FIDELITIES", "RUNTIMES", "MemoryFit", "OpResult", "Simulation", "Span", "simulate"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = globals()[name] = getattr(import_module(f".{_WHERE[name]}", __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
