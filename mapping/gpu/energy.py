"""Energy of kernels by component, from their FLOPs, their traffic by level and their time (constants: `power`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import power
from .lower import Kernel
from .machine import KernelTimes, Machine
from .sparse import executed_share


def kernel_energy(kernels: Sequence[Kernel], times: KernelTimes, machine: Machine) -> dict[str, Any]:
    """Joules by component of one group of kernels.

    Parameters
    ----------
    kernels
        One group (equal family and options), in the order of the arrays of `times`.
    times
        Times, traffic and clock of the group.
    machine
        One GPU, or designs.

    Returns
    -------
    dict
        ``"tensor"`` or ``"fma"``, ``"l2"``, ``"dram"``, ``"static"``: arrays of the shape of ``times.time_s``.
    """
    flops = np.array([kernel.flops for kernel in kernels])
    flops = flops * executed_share(kernels[0].options, machine)
    arithmetic = kernels[0].options.get("arithmetic", "fma")
    core = {"fma" if arithmetic == "fma" else "tensor": power.flop_joules(machine, flops, arithmetic)}
    core["l2"] = power.l2_joules(machine, times.bytes_moved.get("l2", 0.0))
    memory = power.dram_joules(machine, times.bytes_moved.get("dram", 0.0))
    return power.energy_joules(machine, times.time_s, times.clock_hz / machine.clock_hz, core_j=core, memory_j=memory)
