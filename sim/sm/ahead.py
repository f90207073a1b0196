"""The compiled loops of a fidelity, made ready while something else is waited for: torch's import, Triton's compiler."""

from __future__ import annotations

from functools import cache

from ... import native
from ...mapping.triton.warp_machine import machine as warps
from .core import machine as core
from .distinct import distinct
from .operations import joined_stream

_LOOPS = {"cycle": (core,), "tile": (warps, distinct, joined_stream, core)}


@cache
def compile_ahead(fidelity: str, *, optimised: bool = False) -> None:
    """Begin to load or compile what `simulate_kernel` will call, once a process; fidelities that are not known need nothing.

    Parameters
    ----------
    optimised
        At once as `native` otherwise does when loops have run for long: for measurements of speed.
    """
    native.ahead(_LOOPS.get(fidelity, ()), optimised=optimised)


__all__ = ["compile_ahead"]
