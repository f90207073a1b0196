"""Clock under the power limit, and energy by component, of a GPU kernel.

A kernel at the boost clock would draw ``idle + core energy / time + memory energy / time``. Where that is above the
limit, the power controller lowers the SM clock, and with it the voltage of the SMs and the L2, until the limit is
met. With the voltage proportional to the clock down to a floor, core power goes with ``r * max(r, floor)**2`` for a
clock ratio ``r``, which has a closed solution. Memory energy does not depend on the SM clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .machine import Machine, Number

#: Bits per operand by which the energy of a tensor-core operation scales.
ARITHMETIC_BITS: Mapping[str, float] = {
    "fp64": 64.0,
    "fp32": 32.0,
    "tf32": 32.0,
    "bf16": 16.0,
    "fp16": 16.0,
    "fp8": 8.0,
    "int8": 8.0,
    "int4": 4.0,
    "fp4": 4.0,
}

#: The clock never falls below this share of boost; keeps the closed form monotone in every rate of the machine.
LOWEST_CLOCK_RATIO = 0.4

#: Steps that bring the clock within rounding of its solution between the voltage floor and boost.
NEWTON_STEPS = 6


def tensor_joules(machine: Machine, flops: Number, arithmetic: str = "bf16") -> Any:
    """Energy of matrix FLOPs at the boost voltage, in joules.

    Scales with the operand width as ``(bits / 16) ** power.width_exponent``: array multipliers shrink with the square
    of the width, adders, registers and wires with its first power or less.
    """
    width = (ARITHMETIC_BITS[arithmetic] / 16.0) ** machine["power.width_exponent"]
    return machine["power.joule_per_flop"] * width * flops


def fma_joules(machine: Machine, flops: Number) -> Any:
    """Energy of vector fp32 FLOPs at the boost voltage, in joules (several times a tensor-core FLOP)."""
    return machine["power.joule_per_vector_flop"] * flops


def flop_joules(machine: Machine, flops: Number, arithmetic: str) -> Any:
    """Energy of FLOPs at the boost voltage, on the tensor cores or, for ``"fma"``, on the vector lanes, in joules."""
    return fma_joules(machine, flops) if arithmetic == "fma" else tensor_joules(machine, flops, arithmetic)


def l2_joules(machine: Machine, n_bytes: Number) -> Any:
    """Energy of moving bytes from L2 into the SMs at the boost voltage, in joules."""
    return machine["power.joule_per_l2_byte"] * n_bytes


def dram_joules(machine: Machine, n_bytes: Number) -> Any:
    """Energy of moving bytes to or from DRAM, in joules (independent of the SM clock)."""
    return machine["power.joule_per_dram_byte"] * n_bytes


def clock_ratio(machine: Machine, time_s: Number, core_j: Number, memory_j: Number = 0.0, fixed_s: Number = 0.0,
                highest: float = 1.0) -> Any:
    """SM clock under the power limit, as a share of boost.

    Parameters
    ----------
    time_s
        Time at the boost clock that goes with 1 / r, seconds.
    core_j
        Energy of the SMs and the L2 at the boost voltage, joules.
    memory_j
        Energy of DRAM traffic, joules.
    fixed_s
        Further time, whatever the clock (launches), in which power may average out, seconds.
    highest
        The highest ratio, where the clock may go above boost.

    Returns
    -------
    Ratio in [LOWEST_CLOCK_RATIO, highest], of the broadcast shape.

    Notes
    -----
    Balances the energy of a kernel: ``core_j * max(r, v)**2 + memory_j = (limit - idle) * (time_s / r + fixed_s)`` with
    ``v = power.voltage_floor``: linear in r below v, a cubic above, solved by Newton steps from above. The work is taken to be
    sustained: the controller reacts within milliseconds, and the tables of large GEMMs show the same ceiling from 0.1 ms to 0.1 s.
    """
    allowed_w = np.maximum(machine.power_limit_w - machine.power_idle_w, 0.0)
    allowed_j, memory_j = allowed_w * time_s, memory_j - allowed_w * fixed_s
    floor = machine["power.voltage_floor"]
    low = allowed_j / np.maximum(core_j * floor * floor + memory_j, 1e-30)
    ratio = np.asarray(highest)
    for _ in range(NEWTON_STEPS):
        square = ratio * ratio
        ratio = (2.0 * core_j * square * ratio + allowed_j) / np.maximum(3.0 * core_j * square + memory_j, 1e-30)
        ratio = np.minimum(ratio, highest)
    return np.clip(np.where(low < floor, low, np.maximum(ratio, floor)), LOWEST_CLOCK_RATIO, highest)


def energy_joules(
    machine: Machine, time_s: Number, ratio: Number, *, core_j: Mapping[str, Number], memory_j: Number = 0.0
) -> dict[str, Any]:
    """Energy by component at the throttled clock, in joules.

    Parameters
    ----------
    time_s
        Time at the throttled clock, seconds.
    ratio
        Clock ratio of `clock_ratio`.
    core_j
        Energy at the boost voltage by component name (``"tensor"``, ``"l2"`` ...).
    memory_j
        Energy of DRAM traffic.

    Returns
    -------
    The components of `core_j` at the lowered voltage, ``"dram"`` and ``"static"``; their sum over ``time_s`` is the
    mean power.
    """
    voltage = np.maximum(ratio, machine["power.voltage_floor"]) ** 2
    parts: dict[str, Any] = {name: value * voltage for name, value in core_j.items()}
    parts["dram"] = memory_j
    parts["static"] = machine.power_idle_w * time_s
    return parts
