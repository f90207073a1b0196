"""Loops in closed form: the same counts, bytes and steps as a walk through every iteration."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from presilicon.errors import KernelError
from presilicon.mapping.triton import compile_launch, evaluate, take_apart

#: Launches, the program ids to follow, and whether a loop of theirs is known to close.
CASES: dict[str, tuple[Callable[[Any], Any], Any, bool]] = {
    "gemm": (lambda lab: lab.matmul(512, 512, 4096, 80), (3, 0, 0), True),
    "gemm, sm_90": (lambda lab: lab.matmul(512, 512, 4096, 90), (3, 0, 0), True),
    "gemm, odd sizes": (lambda lab: lab.matmul(200, 300, 2104, 80, 64, 64, 32, 4), [(n, 0, 0) for n in range(6)], True),
    "gemm, unaligned": (lambda lab: lab.matmul(130, 70, 1999, 90, 64, 64, 32, 4), (5, 0, 0), False),
    "gemm, tma": (lambda lab: lab.matmul_tma(256, 256, 2048, 90), (1, 0, 0), False),
    "gemm, warp-specialised": (lambda lab: lab.matmul_tma(256, 256, 2048, 100, specialize=True), (1, 0, 0), False),
    "gemm, sm_100": (lambda lab: lab.matmul(512, 512, 4096, 100), (3, 0, 0), False),
    "gemm, sm_120": (lambda lab: lab.matmul(512, 512, 4096, 120, 64, 64, 32, 4), (3, 0, 0), True),
    "attention": (lambda lab: lab.attention(1, 2, 4096, 64, 80, False), (9, 1, 0), True),
    "causal attention": (lambda lab: lab.attention(1, 2, 4096, 64, 90, True), [(n, 0, 0) for n in (5, 40, 63)], False),
    "softmax": (lambda lab: lab.softmax(4000, 1000, 16, 80), [(n, 0, 0) for n in range(16)], False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_counts_are_those_of_the_walk(lab: ModuleType, name: str) -> None:
    make, ids, _ = CASES[name]
    launch = make(lab)
    compiled = compile_launch(launch)
    for options in ({"trace": True}, {"addresses": False}):
        walked, closed = (evaluate(compiled, launch, ids, close=close, **options) for close in (False, True))
        assert np.array_equal(walked.block_counts, closed.block_counts)
        for part in ("edge_counts", "tallies", "copies", "matrices"):
            assert dict(getattr(walked, part)) == dict(getattr(closed, part)), part
        if walked.trace:
            assert walked.memory_bytes() == closed.memory_bytes()
        assert walked.assumptions == closed.assumptions
        if walked.trace and closed.trace:
            order = closed.trace.order()
            assert np.array_equal(np.array(closed.trace.segments)[order], walked.trace.segments)
            assert np.array_equal(np.array(closed.trace.lanes)[order], walked.trace.lanes)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
def test_long_loops_cost_no_more_than_short_ones(lab: ModuleType, name: str) -> None:
    make, ids, _ = CASES[name]
    launch = make(lab)
    run = evaluate(compile_launch(launch), launch, ids, trace=True, close=True)
    assert run.trace is not None
    assert run.trace.repeats
    assert len(run.trace.segments) < len(run.trace.order()) / 2
    with pytest.raises(KernelError, match="leaves out iterations"):
        next(run.walk())


def test_global_addresses_alone(lab: ModuleType) -> None:
    """A smaller slice, for the same control and the same bytes of global memory."""
    compiled = compile_launch(lab.matmul(512, 512, 4096, 80))
    whole, alone, none = (take_apart(compiled, addresses=which) for which in (True, "global", False))
    assert sum(none.plan.needed) < sum(alone.plan.needed) < sum(whole.plan.needed)
