"""One piece of an NPU's work: what its engines compute and what moves between its memories, step by step.

A `Segment` is what the simulator plays: a matrix op with the vector work that follows it tile by tile, or vector work or a copy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...arch.npu import NpuSystem

Floats = NDArray[np.float64]

#: Steps of one segment that are played one by one; more are joined, fine at both ends and coarse in the middle.
PLAYED_STEPS = 24


@dataclass(frozen=True)
class Segment:
    """Work of the whole NPU, all cores side by side; arrays hold one number a step.

    Attributes
    ----------
    name
        The op that it belongs to.
    weights, inputs, outputs
        Bytes a step by port (`port_rates`): weights and inputs (partial sums that come back included) on their way to the cores, and
        results on their way back.
    matrix_s, vector_s
        Seconds of the matrix engines (or of a core's scratchpad ports, where those are slower) and of the vector engines.
    busy_s
        Seconds for which each resource is busy in all.
    energy_j
        Joules by component, without static power.
    skew_s
        Time from the first operand's arrival at the array to its first result.
    prefetch
        The weights of its first steps may come while earlier work runs: there is room.
    weights_room, inputs_room
        The step that must have ended before the tiles of a step have room; -1: none.
    """

    name: str
    weights: Mapping[str, Floats]
    inputs: Mapping[str, Floats]
    outputs: Mapping[str, Floats]
    matrix_s: Floats
    vector_s: Floats
    busy_s: Mapping[str, float]
    energy_j: Mapping[str, float]
    skew_s: float = 0.0
    prefetch: bool = True
    host_s: float = 0.0
    weights_room: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    inputs_room: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        for name in ("weights_room", "inputs_room"):
            if len(getattr(self, name)) != self.steps:  # two tiles, where nothing else is known
                object.__setattr__(self, name, np.maximum(np.arange(self.steps) - 2, -1))

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.matrix_s)

    def moved(self, level: str) -> float:
        """Bytes that pass a port."""
        return math.fsum(float(part[level].sum()) for part in (self.weights, self.inputs, self.outputs) if level in part)


def port_rates(system: NpuSystem) -> dict[str, float]:
    """Bytes per second of the ports of the shared memories, and of what lies between them and the cores: see `ports_of`."""
    clock = system.clock_hz
    rates = {"dram": system.dram.bandwidth_bytes_per_s, "dma": system.dma.bytes_per_clk * system.dma.queues * system.cores * clock}
    if system.noc_bytes_per_s is not None:
        rates["noc"] = system.noc_bytes_per_s
    for memory in system.memories:
        if memory.scope == "chip":
            if memory.bandwidth_bytes_per_clk is not None:
                rates[memory.name] = memory.bandwidth_bytes_per_clk * clock
            if memory.read_bytes_per_clk is not None:
                rates[f"{memory.name}.read"] = memory.read_bytes_per_clk * clock
            if memory.write_bytes_per_clk is not None:
                rates[f"{memory.name}.write"] = memory.write_bytes_per_clk * clock
    return rates


def ports_of(memory: str, direction: Literal["read", "write"], rates: Mapping[str, float]) -> list[str]:
    """Ports of a shared memory that a read or a write takes."""
    return [name for name in (memory, f"{memory}.{direction}") if name in rates]


def join_steps(steps: int, played: int = PLAYED_STEPS) -> NDArray[np.int64]:
    """First step of each group of steps: single steps at both ends, ever longer groups towards the middle.

    >>> join_steps(5).tolist(), len(join_steps(4096)) <= PLAYED_STEPS
    ([0, 1, 2, 3, 4], True)
    """
    if steps <= played:
        return np.arange(steps)
    half = played // 2
    growth = 1.0
    while sum(math.floor(growth**i) for i in range(half)) < steps / 2:
        growth *= 1.01
    ramp = np.cumsum([math.floor(growth**i) for i in range(half)])
    ramp = ramp[ramp < steps / 2]
    return np.unique(np.concatenate([[0], ramp, steps - ramp]))


def joined_room(room: NDArray[np.int64], moved: Floats, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`Edge.room` over groups of steps: the group that holds the last step to wait for, at the latest the one before the last.

    Where most bytes of a group wait for the very step before theirs, nothing overlaps, and the group waits for the one before.
    """
    steps = np.arange(len(room))
    latest = np.maximum.reduceat(room, starts)
    group = np.searchsorted(starts, latest, side="right") - 1
    at_once = np.add.reduceat(moved * ((steps - room < 2) & (room >= 0)), starts)
    distance = np.where(2 * at_once > np.add.reduceat(moved, starts), 1, 2)
    return np.where(latest < 0, -1, np.maximum(np.minimum(group, np.arange(len(starts)) - distance), -1))


def joined(values: Floats, starts: NDArray[np.int64]) -> Floats:
    """Sums over the groups that begin at `starts`."""
    return np.add.reduceat(values, starts) if len(values) else values
