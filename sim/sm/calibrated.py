"""A GPU as calibration on measured kernels found it: the constants of family ``kernel`` put where the simulation reads its numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final, Generic, TypeVar

from ...arch import System

Held = TypeVar("Held")

#: Constants that are factors on other numbers; see arch/constants/kernel.yaml.
FACTORS: Final = ("kernel.clock", "kernel.dram", "kernel.l2", "kernel.launch")


def calibrated(system: System) -> System:
    """The system with its clock, bandwidths and launch cost multiplied by their factors; itself where all are 1.

    Examples
    --------
    >>> from presilicon.arch import load_gpu
    >>> calibrated(load_gpu("h100-sxm")) is load_gpu("h100-sxm")
    True
    """
    factors = tuple(float(system.calibration.get(name, 1.0)) for name in FACTORS)
    return system if set(factors) == {1.0} else _changed(Same(system), factors)


class Same(Generic[Held]):
    """Something that is told apart by its identity, which a cached result keeps alive."""

    def __init__(self, held: Held) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.held is self.held

    def __hash__(self) -> int:
        return id(self.held)


@lru_cache(maxsize=16)
def _changed(same: Same[System], factors: tuple[float, ...]) -> System:
    system, (clock, dram, l2, launch) = same.held, factors
    constants = dict(system.calibration) | dict.fromkeys(FACTORS, 1.0)
    constants["memory.floor"] *= launch
    gpu = replace(system.gpu, clock=replace(system.gpu.clock, boost_hz=system.gpu.clock.boost_hz * clock),
                  l2=replace(system.gpu.l2, bytes_per_clk=system.gpu.l2.bytes_per_clk * l2))
    memory = replace(system.dram, bandwidth_bytes_per_s=system.dram.bandwidth_bytes_per_s * dram)
    return replace(system, gpu=gpu, dram=memory, calibration=constants)
