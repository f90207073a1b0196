"""How long a segment takes that runs alone: five stages that wait for each other's tiles.

Tiles of weights and inputs come in order, each when its place is free; the matrix engine starts a step when both its tiles are there; the
vector engine when the step's products have left the array; the store after that: what the simulator's processes wait for as well
(`presilicon.sim.npu.play`).

`uncontended_s` lets every transfer have the full rate of its ports, but for the two loads of a step, which pass a port one after the
other: one pass over the steps, which is the latency of the loop nest, its slowest level with fill and drain. It is a lower bound, and short
where loads of different steps and stores meet at a port: a burst of loads ahead makes the load that the array waits for, or a store, wait.
`pipeline_s` gives each of k transfers at a port a k-th of its rate. Between two events every rate is constant and the next event is known,
so that no clock and no queue is played; a test holds the result equal to the simulator's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from ...arch.npu import NpuSystem
from .segment import Segment, port_rates

#: Relative rounding of a transfer's remaining time below which it has ended.
_DONE = 1e-12


def pipeline_s(segment: Segment, system: NpuSystem) -> float:
    """Seconds from the first load to the end of the last store.

    Parameters
    ----------
    segment, system
        What runs where; nothing else runs.

    Examples
    --------
    >>> import numpy as np
    >>> from presilicon.arch import load
    >>> two = np.array([1e-3, 1e-3])
    >>> pipeline_s(Segment("op", {}, {}, {}, two, np.zeros(2), {"matrix": 2e-3}, {}), load("tpu-v1"))
    0.002
    """
    return _Pipeline(segment, system).solve() if segment.steps else segment.host_s


def uncontended_s(segment: Segment, system: NpuSystem) -> float:
    """Seconds of a segment if no transfer slowed another down: never more than `pipeline_s`.

    Each stream of transfers, and each port over all of them, works without a gap at best; the matrix engine waits for its tiles, and
    tiles for their places. The two loads of a step share ports: together they take what they take one after the other.

    Examples
    --------
    >>> import numpy as np
    >>> from presilicon.arch import load
    >>> tpu, two = load("tpu-v1"), np.array([1e-3, 1e-3])
    >>> weights = {"dram": two * tpu.dram.bandwidth_bytes_per_s}
    >>> work = Segment("op", weights, {}, {}, two, np.zeros(2), {"dram": 2e-3, "matrix": 2e-3}, {})
    >>> round(1e3 * (uncontended_s(work, tpu) - tpu.dram.latency_s), 6)
    3.0
    """
    if not segment.steps:
        return segment.host_s
    shared = _Pipeline(segment, system)
    ended: list[list[float]] = [[], []]
    matrix: list[float] = []
    vector = last = 0.0
    for step in range(segment.steps):
        starts = []
        for stream in (0, 1):
            room = shared.room[stream][step]
            starts.append(max(matrix[room] if room >= 0 else 0.0, ended[stream][-1] if step else shared.first(stream)))
            ended[stream].append(starts[stream] + max(shared.seconds[stream][step].values(), default=0.0))
        weights, inputs = shared.seconds[0][step], shared.seconds[1][step]
        both = max((seconds + inputs[port] for port, seconds in weights.items() if port in inputs), default=0.0)
        tiles = max(ended[0][step], ended[1][step], min(starts) + both)
        matrix.append(max(matrix[-1] if step else segment.host_s, tiles) + shared.work[step])
        vector = max(vector, matrix[-1] + (segment.skew_s if shared.work[step] else 0.0)) + shared.after[step]
        last = max(last, vector) + max(shared.seconds[2][step].values(), default=0.0)
    ports: dict[str, float] = defaultdict(float)
    for transfers in (t for each in shared.seconds for t in each):
        for port, seconds in transfers.items():
            ports[port] += seconds
    return max([last, *ports.values()])


class _Pipeline:
    """Streams 0 to 2 are weights, inputs and results; `ended` holds ends of their transfers, `matrix` and `vector` those of the work."""

    def __init__(self, segment: Segment, system: NpuSystem) -> None:
        self.segment, self.latency_s = segment, system.dram.latency_s
        rates = port_rates(system)
        steps = range(segment.steps)
        self.seconds = [
            [{port: float(sizes[s]) / rates[port] for port, sizes in part.items() if sizes[s] > 0} for s in steps]
            for part in (segment.weights, segment.inputs, segment.outputs)
        ]
        self.room = (segment.weights_room.tolist(), segment.inputs_room.tolist())
        self.work, self.after = segment.matrix_s.tolist(), segment.vector_s.tolist()
        self.matrix: list[float] = []
        self.vector: list[float] = []
        self.ended: list[list[float]] = [[], [], []]
        self.moving: list[dict[str, float] | None] = [None, None, None]
        self.now = 0.0

    def solve(self) -> float:
        """The end of the last store."""
        last = self.segment.steps
        while True:
            starts = self._settle()
            if len(self.ended[2]) == last:
                return self.ended[2][-1]
            self._advance(starts)

    def _settle(self) -> list[float]:
        """Start and end all that starts and ends now; the next start of each idle stream."""
        while True:
            before = [len(e) for e in self.ended]
            starts = [math.inf] * 3
            for stream in range(3):
                moving = self.moving[stream]
                if moving is None:
                    starts[stream] = self._start(stream)
                    if starts[stream] > self.now:
                        continue
                    moving = dict(self.seconds[stream][len(self.ended[stream])])
                    self.moving[stream] = moving
                if not moving:
                    self.ended[stream].append(self.now)
                    self.moving[stream] = None
            self._work()
            if before == [len(e) for e in self.ended]:
                return starts

    def _start(self, stream: int) -> float:
        """When a stream's next transfer may start; never, as far as is known, while what it waits for has no end yet."""
        step, ended = len(self.ended[stream]), self.ended[stream]
        if step == self.segment.steps:
            return math.inf
        since = ended[-1] if ended else 0.0
        if stream == 2:
            return max(self.vector[step], since) if step < len(self.vector) else math.inf
        room = self.room[stream][step]
        if room >= len(self.matrix):
            return math.inf
        return max(self.matrix[room] if room >= 0 else 0.0, since) + (0.0 if step else self.first(stream))

    def first(self, stream: int) -> float:
        """Latency of a stream's first transfer."""
        return self.latency_s if "dram" in self.seconds[stream][0] else 0.0

    def _work(self) -> None:
        """Ends of the steps whose tiles have come."""
        while (step := len(self.matrix)) < min(len(self.ended[0]), len(self.ended[1])):
            free = self.matrix[-1] if step else self.segment.host_s
            self.matrix.append(max(free, self.ended[0][step], self.ended[1][step]) + self.work[step])
            left = self.matrix[-1] + (self.segment.skew_s if self.work[step] else 0.0)
            self.vector.append(max(self.vector[-1] if step else 0.0, left) + self.after[step])

    def _advance(self, starts: list[float]) -> None:
        """To the next start or end."""
        users = Counter(port for moving in self.moving for port in moving or ())
        ends = [left * users[port] for moving in self.moving for port, left in (moving or {}).items()]
        elapsed = min([s - self.now for s, moving in zip(starts, self.moving, strict=True) if moving is None] + ends)
        for moving in self.moving:
            for port in list(moving or ()):
                assert moving is not None
                moving[port] -= elapsed / users[port]
                if moving[port] <= _DONE * elapsed:
                    del moving[port]
        self.now += elapsed
