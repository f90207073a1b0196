"""One piece of an NPU's work: what its engines compute and what moves between its memories, step by step, and its closed-form time.

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


def closed_form_s(segment: Segment, system: NpuSystem) -> float:
    """Seconds of a segment that runs alone: a pipeline of loads, matrix work, vector work and stores, as fast as its slowest resource.

    A resource starts once the first step has passed those before it, works for its whole busy time without a gap, and the last step then
    passes those behind it; the segment takes as long as the resource for which that sum is largest. Loads into a memory with one place for
    a tile come between two steps of the matrix engine.
    """
    if not segment.steps:
        return segment.host_s
    rates = port_rates(system)
    latency = system.dram.latency_s if "dram" in {**segment.weights, **segment.inputs} else 0.0
    load = _first_load(segment, rates, latency)
    store = _at(segment.outputs, -1, rates)
    first, last = float(segment.matrix_s[0]), float(segment.matrix_s[-1])
    after, vector = float(segment.vector_s[-1]), segment.busy_s.get("vector", 0.0)
    matrix = segment.busy_s.get("matrix", 0.0)
    arrival = {name: busy + (latency if name == "dram" else 0.0) for name, busy in segment.busy_s.items()}
    ports = max((end for name, end in arrival.items() if name not in ("matrix", "vector", "host")), default=0.0)
    before = load + segment.skew_s
    waits = _not_overlapped(segment, rates)
    return segment.host_s + max(
        before + matrix + waits + after + store,
        before + first + vector + store,
        ports + segment.skew_s + last + after,
    )


def _at(part: Mapping[str, Floats], step: int, rates: Mapping[str, float]) -> float:
    return max((float(values[step]) / rates[port] for port, values in part.items()), default=0.0)


def _first_load(segment: Segment, rates: Mapping[str, float], latency: float) -> float:
    """Seconds until the first step's tiles are there: all of them come at once."""
    total: dict[str, float] = {}
    for part in (segment.weights, segment.inputs):
        for port, values in part.items():
            total[port] = total.get(port, 0.0) + float(values[0])
    return max((size / rates[port] + (latency if port == "dram" and size else 0.0) for port, size in total.items()), default=0.0)


def _not_overlapped(segment: Segment, rates: Mapping[str, float]) -> float:
    """Seconds of loads that wait for the step before theirs, and for which the next one waits."""
    found = np.zeros(segment.steps)
    before = np.arange(segment.steps) - 1
    for part, room in ((segment.weights, segment.weights_room), (segment.inputs, segment.inputs_room)):
        loads = np.max([values / rates[port] for port, values in part.items()], axis=0) if part else np.zeros(segment.steps)
        found = np.maximum(found, loads * (room == before) * (before >= 0))
    return float(found.sum())


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
