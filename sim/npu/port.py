"""A memory port that many transfers share: each gets an equal part of its bandwidth, event by event."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any, Final

import simpy

#: Bytes below which a transfer counts as done (rounding of rate times time).
_DONE: Final = 1e-6


class SharedPort:
    """Processor sharing: running transfers divide the bandwidth equally, and what one leaves the others take.

    Parameters
    ----------
    env
        The simulation.
    bytes_per_s
        Bandwidth.

    Attributes
    ----------
    moved
        Bytes that have passed.
    busy_s
        Seconds with at least one transfer.
    """

    def __init__(self, env: simpy.Environment, bytes_per_s: float) -> None:
        self.env, self.rate = env, bytes_per_s
        self.moved = 0.0
        self.busy_s = 0.0
        self._left: dict[simpy.Event, float] = {}
        self._since = 0.0
        self._turn = 0

    def transfer(self, size: float) -> simpy.Event:
        """Event of the end of a transfer of so many bytes that starts now."""
        done = self.env.event()
        self.moved += size
        if size <= 0 or math.isinf(self.rate):
            done.succeed()
            return done
        self._advance()
        self._left[done] = size
        self._wake()
        return done

    def _advance(self) -> None:
        """Account for the time since the last change."""
        elapsed = self.env.now - self._since
        self._since = self.env.now
        if self._left and elapsed > 0:
            self.busy_s += elapsed
            part = elapsed * self.rate / len(self._left)
            for event in self._left:
                self._left[event] -= part

    def _wake(self) -> None:
        """Come back when the shortest transfer ends."""
        self._turn += 1
        if self._left:
            shortest = max(min(self._left.values()), 0.0)
            self.env.process(self._finish(self._turn, shortest * len(self._left) / self.rate))

    def _finish(self, turn: int, after_s: float) -> Generator[Any, Any, None]:
        yield self.env.timeout(after_s)
        if turn != self._turn:
            return
        self._advance()
        least = min(self._left.values())
        for event in [e for e, left in self._left.items() if left <= least + _DONE]:
            del self._left[event]
            event.succeed()
        self._wake()


def move(env: simpy.Environment, ports: Mapping[str, SharedPort], sizes: Mapping[str, float]) -> simpy.Event:
    """End of a transfer that streams through several ports at once: when the last of them has let it pass."""
    return env.all_of([ports[name].transfer(size) for name, size in sizes.items()])
