"""One Triton launch on one GPU: `simulate_kernel`."""

from __future__ import annotations

from ...arch import System
from ...errors import UnknownNameError
from ...mapping.triton import CompiledKernel, Launch
from .result import KernelRun

FIDELITIES = ("cycle", "tile")


def simulate_kernel(compiled: CompiledKernel, launch: Launch, system: System, *, fidelity: str = "cycle", record: bool = False,
                    warm_l2: bool = False) -> KernelRun:
    """Time of one launch."""
    if fidelity not in FIDELITIES:
        raise UnknownNameError("fidelity", fidelity, FIDELITIES)
    raise NotImplementedError
