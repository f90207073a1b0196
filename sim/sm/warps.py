"""One warp of many CTAs, followed through the kernel all at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from ...errors import KernelError
from ...mapping.triton import CompiledKernel, Evaluation, Launch, Program, take_apart
from ...mapping.triton.assumptions import Chooser
from ...mapping.triton.execute import Execution
from ...mapping.triton.group import WholeWarpError
from ...mapping.triton.parameters import parameters_of
from ...mapping.triton.slicing import Addresses

#: Threads at once.
_LANES: Final = 1 << 16
#: Lanes that stand for their warp: masks that cut rows off keep the first lanes or the last.
SAMPLED_LANES: Final[tuple[int, ...]] = (0, 31)
Run = TypeVar("Run", bound=Execution)


class EnoughError(Exception):
    """What was wanted is known."""


def one_warp(compiled: CompiledKernel, *, addresses: Addresses = True) -> Program:
    """The program of a kernel as if each CTA had one warp; with all of them where they tell one another through shared memory."""
    whole = take_apart(compiled, addresses=addresses)
    if whole.plan.tracks_shared:
        return whole
    return replace(whole, compiled=replace(compiled, num_warps=1)) if compiled.target < 90 or compiled.num_warps > 1 else whole


def ends_decide(run: Evaluation) -> bool:
    """Whether the first or the last lane takes part wherever a lane of a warp does: where not, these two do not stand for their warp."""
    used = {pattern for _, _, pattern, _ in run.trace.accesses} if run.trace else set()
    groups = [run.lane_sets[number] for number in set(run.trace.lanes)] if run.trace else []
    masks = [(run.lane_sets[run.patterns[number].lanes], run.patterns[number].active) for number in used]
    for lanes, active in [*((group, None) for group in groups), *masks]:
        if lanes.full and active is None:
            continue
        on = lanes.ids if active is None else lanes.ids[active]
        ended = np.isin(on & 31, SAMPLED_LANES)
        if not np.array_equal(np.unique(on >> 5), np.unique(on[ended] >> 5)):
            return False
    return True


def followed_warps(program: Program, launch: Launch, ids: np.ndarray, make: Callable[..., Run],
                   lanes: tuple[int, ...] = SAMPLED_LANES) -> Iterator[tuple[int, Run]]:
    """The CTAs of a program, as if each had as many warps as it says, followed to their end in parts.

    Of each warp `lanes` stand for all, unless what they do depends on the others, or on shared memory.

    Parameters
    ----------
    make
        The `Execution`, from program, constants, program ids and its keywords.
    lanes
        Those that stand for their warp; () for all.

    Yields
    ------
    The place of the part's first CTA in `ids`, and the execution.
    """
    bank, _ = parameters_of(program.compiled, launch)
    start = 0
    lanes = () if program.plan.tracks_shared else lanes
    while start < len(ids):
        part = ids[start:start + max(1, _LANES // (program.threads // 32 * (len(lanes) or 32)))]
        run = make(program, bank, part, buffers=launch.buffers, chooser=Chooser(program, launch.assume), lanes=lanes)
        try:
            with contextlib.suppress(KernelError, EnoughError):  # one warp alone may wait for others for ever: what it did so far counts
                run.run()
        except WholeWarpError:
            lanes = ()
            continue
        yield start, run
        start += len(part)
