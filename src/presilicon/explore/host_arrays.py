"""`presilicon.sim.host.play` in closed form, for many designs at once: when a step ends, given each launch's time.

The rules are the event engine's. Captured: the CPU submits the graph once, then the GPU runs the kernels back to back. Eager: launch i
reaches the stream when the CPU has submitted it and the queue has room, which is when launch i - queue_depth has left it; the GPU starts it
when the one before has ended and the stream's gap has passed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Costs:
    """What the CPU and the stream cost, each a float or an array of shape ``(designs,)``, in seconds (`queue_depth`: launches)."""

    launch_s: np.ndarray
    dispatch_s: np.ndarray
    graph_launch_s: np.ndarray
    stream_gap_s: np.ndarray
    queue_depth: np.ndarray

    def scaled(self, factor: float) -> Costs:
        """The same host, `factor` times as slow."""
        return Costs(
            self.launch_s * factor, self.dispatch_s * factor, self.graph_launch_s * factor, self.stream_gap_s * factor, self.queue_depth
        )


@dataclass(frozen=True)
class Program:
    """The launches of one step.

    Attributes
    ----------
    column
        Which of the distinct kernels each launch runs, in program order with repeats written out; shape ``(launches,)``.
    kernels
        Kernels that each distinct one submits; shape ``(distinct,)``.
    runs
        How often each distinct one runs in a step; shape ``(distinct,)``.
    """

    column: np.ndarray
    kernels: np.ndarray
    runs: np.ndarray


def per_step(values: np.ndarray, program: Program) -> np.ndarray:
    """Sum over the launches of one step of values of shape ``(designs, distinct)``; a design's sum does not depend on the others'."""
    return np.asarray((values * program.runs).sum(axis=1), dtype=float)


def host_busy(program: Program, costs: Costs, runtime: str) -> np.ndarray:
    """Seconds for which the CPU submits, of shape ``(designs,)`` or a scalar."""
    if runtime != "eager":
        return np.asarray(costs.graph_launch_s, dtype=float)
    launches, kernels = float(program.runs.sum()), float(program.runs @ program.kernels)
    return np.asarray(costs.dispatch_s * launches + costs.launch_s * kernels, dtype=float)


def play_arrays(times_s: np.ndarray, program: Program, costs: Costs, runtime: str) -> np.ndarray:
    """End of one step for each design.

    Parameters
    ----------
    times_s
        Seconds of each distinct kernel, shape ``(designs, distinct)``.
    program, costs, runtime
        As above.

    Returns
    -------
    numpy.ndarray
        Seconds, shape ``(designs,)``; equal to `play`'s ``time_s`` up to rounding.
    """
    designs = len(times_s)
    if not len(program.column):
        return np.broadcast_to(costs.graph_launch_s if runtime != "eager" else 0.0, (designs,)).astype(float)
    if runtime != "eager":
        return np.asarray(costs.graph_launch_s + per_step(times_s, program), dtype=float)
    return _eager(np.ascontiguousarray(times_s.T), program, costs, designs)


def _eager(times_s: np.ndarray, program: Program, costs: Costs, designs: int) -> np.ndarray:
    """The recurrence of launches, one step of it for all designs together; `times_s` has shape ``(distinct, designs)``."""
    dispatch, launch, gap = (np.broadcast_to(cost, (designs,)) for cost in (costs.dispatch_s, costs.launch_s, costs.stream_gap_s))
    submit = dispatch + program.kernels[:, np.newaxis] * launch
    run = times_s + (program.kernels[:, np.newaxis] - 1) * gap
    depth = np.broadcast_to(np.maximum(1, np.asarray(costs.queue_depth, dtype=int)), (designs,))
    shallowest = int(depth.min())
    starts = np.zeros((len(program.column), designs)) if len(program.column) > shallowest else None
    everyone = np.arange(designs)
    ready, free, end = np.zeros(designs), np.zeros(designs), np.zeros(designs)
    for i, kernel in enumerate(program.column):
        ready = ready + submit[kernel]
        if starts is not None and i >= shallowest:  # the queue may be full until an earlier launch leaves it
            ready = np.maximum(ready, np.where(i >= depth, starts[np.maximum(i - depth, 0), everyone], 0.0))
        start = np.maximum(ready, free)
        if starts is not None:
            starts[i] = start
        end = start + run[kernel]
        free = end + gap
    return end
