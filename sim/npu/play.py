"""An NPU's engines at work: DMA loads, matrix and vector engines and stores as processes that wait for each other's tiles (SimPy).

All cores run the same tiles of their own part of an op at once, so that they move as one and share DRAM, chip memories, network and
DMA queues (`presilicon.sim.npu.port`). Weights of the next op come while the running one leaves room for them; inputs come once the op
that makes them has stored its result.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from ...arch.npu import NpuSystem
from ...mapping.npu.segment import Segment, port_rates
from ..result import Span
from .port import SharedPort, move

_Process = Generator[Any, Any, None]


@dataclass(frozen=True)
class Played:
    """When everything happened.

    Attributes
    ----------
    ends_s
        End of each segment: its results are stored.
    time_s
        End of the last.
    spans
        Bars of the lanes ``"dma"``, ``"matrix"``, ``"vector"`` and ``"host"``.
    moved, busy_s
        Bytes that passed each port, and seconds for which it and each engine worked.
    """

    ends_s: tuple[float, ...]
    time_s: float
    spans: tuple[Span, ...]
    moved: Mapping[str, float]
    busy_s: Mapping[str, float]


def play(segments: Sequence[Segment], system: NpuSystem) -> Played:
    """Play segments in order.

    Examples
    --------
    >>> import numpy as np
    >>> from presilicon.arch import load
    >>> two = np.array([1e-3, 1e-3])
    >>> work = Segment("op", {}, {}, {}, two, np.zeros(2), {"matrix": 2e-3}, {})
    >>> play([work], load("tpu-v1")).time_s
    0.002
    """
    return _Player(segments, system).run()


class _Player:
    def __init__(self, segments: Sequence[Segment], system: NpuSystem) -> None:
        self.segments, self.system = segments, system
        self.env = simpy.Environment()
        self.ports = {name: SharedPort(self.env, rate) for name, rate in port_rates(system).items()}
        shape = [s.steps for s in segments]

        def events() -> list[list[simpy.Event]]:
            return [[self.env.event() for _ in range(steps)] for steps in shape]

        self.weights, self.inputs, self.matrix, self.vector = events(), events(), events(), events()
        self.stored = [self.env.event() for _ in segments]
        self.ends = [0.0] * len(segments)
        self.bars: dict[tuple[int, str], list[float]] = {}
        self.ready: dict[tuple[int, int], float] = {}
        self.busy = {"matrix": 0.0, "vector": 0.0, "host": 0.0}

    def run(self) -> Played:
        for process in (self._load_weights(), self._load_inputs(), self._multiply(), self._follow(), self._store()):
            self.env.process(process)
        self.env.run()
        bars = sorted(self.bars.items(), key=lambda item: (item[1][0], item[0]))
        spans = tuple(Span(self.segments[i].name, lane, a, b - a, self.segments[i].name) for (i, lane), (a, b) in bars if b > a)
        moved = {name: port.moved for name, port in self.ports.items()}
        busy = {name: port.busy_s for name, port in self.ports.items()} | self.busy
        return Played(tuple(self.ends), max(self.ends, default=0.0), spans, moved, busy)

    def _bar(self, i: int, lane: str, start: float) -> None:
        bar = self.bars.setdefault((i, lane), [start, start])
        bar[1] = max(bar[1], float(self.env.now))

    def _steps(self) -> list[tuple[int, int]]:
        return [(i, s) for i, segment in enumerate(self.segments) for s in range(segment.steps)]

    def _room(self, i: int, step: int, after: int, *, ahead: bool) -> list[simpy.Event]:
        """What must have ended before a step's tiles may come: the step whose room they take, or earlier work."""
        segment = self.segments[i]
        if after >= 0:
            return [self.matrix[i][after]]
        if step:
            return []
        if i == 0 or (ahead and segment.prefetch and self.segments[i - 1].prefetch):
            return [self.stored[i - 2]] if i > 1 else []
        return [self.stored[i - 1]]

    def _load_weights(self) -> _Process:
        for i, step in self._steps():
            segment = self.segments[i]
            before = self._room(i, step, int(segment.weights_room[step]), ahead=True)
            yield from self._load(i, step, segment.weights, before, self.weights[i][step])

    def _load_inputs(self) -> _Process:
        for i, step in self._steps():
            before = self._room(i, step, int(self.segments[i].inputs_room[step]), ahead=False)
            if i and not step:
                before = [*before, self.stored[i - 1]]
            yield from self._load(i, step, self.segments[i].inputs, before, self.inputs[i][step])

    def _load(
        self, i: int, step: int, sizes: Mapping[str, np.ndarray], before: Sequence[simpy.Event], done: simpy.Event
    ) -> _Process:
        yield self.env.all_of(before)
        start = float(self.env.now)
        here = {name: float(values[step]) for name, values in sizes.items() if values[step] > 0}
        if here:
            if not step and "dram" in here:
                yield self.env.timeout(self.system.dram.latency_s)
            yield move(self.env, self.ports, here)
            self._bar(i, "dma", start)
        done.succeed()

    def _multiply(self) -> _Process:
        for i, segment in enumerate(self.segments):
            if i:
                yield self.env.timeout(self.system.launch_s)
            if segment.host_s:
                yield self.stored[i - 1] if i else self.env.timeout(0)
                start = float(self.env.now)
                yield self.env.timeout(segment.host_s)
                self.busy["host"] += segment.host_s
                self._bar(i, "host", start)
            for step in range(segment.steps):
                yield self.env.all_of([self.weights[i][step], self.inputs[i][step]])
                start = float(self.env.now)
                if segment.matrix_s[step]:
                    yield self.env.timeout(float(segment.matrix_s[step]))
                    self.ready[i, step] = float(self.env.now) + segment.skew_s
                    self.busy["matrix"] += float(segment.matrix_s[step])
                    self._bar(i, "matrix", start)
                self.matrix[i][step].succeed()
            if not segment.steps:
                self.ends[i] = float(self.env.now)
                self.stored[i].succeed()

    def _follow(self) -> _Process:
        for i, step in self._steps():
            yield self.matrix[i][step]
            late = self.ready.get((i, step), 0.0) - float(self.env.now)
            if late > 0:
                yield self.env.timeout(late)
            start, seconds = float(self.env.now), float(self.segments[i].vector_s[step])
            if seconds:
                yield self.env.timeout(seconds)
                self.busy["vector"] += seconds
                self._bar(i, "vector", start)
            self.vector[i][step].succeed()

    def _store(self) -> _Process:
        for i, step in self._steps():
            segment = self.segments[i]
            yield self.vector[i][step]
            start = float(self.env.now)
            here = {name: float(values[step]) for name, values in segment.outputs.items() if values[step] > 0}
            if here:
                yield move(self.env, self.ports, here)
                self._bar(i, "dma", start)
            if step == segment.steps - 1:
                self.ends[i] = float(self.env.now)
                self.stored[i].succeed()
