"""Plays the chosen mapping out in time."""

from __future__ import annotations

from .result import MemoryFit, OpResult, Simulation, Span
from .run import FIDELITIES, RUNTIMES, simulate

__all__ = ["FIDELITIES", "RUNTIMES", "MemoryFit", "OpResult", "Simulation", "Span", "simulate"]
