"""Numbers of one SM: complete, sourced, and no copy of what a device file states."""

from __future__ import annotations

import pytest

from presilicon.arch.sm_timing import sm_timing
from presilicon.errors import UnknownNameError

GENERATIONS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_number_has_a_source(generation: str) -> None:
    timing = sm_timing(generation)
    assert all(len(source) > 10 for source in timing.sources.values())
    assert timing.l1_latency > timing.shared_latency > timing.operand_read > 0
    assert 0 < timing.warp_mma <= 1
    assert 0.9 <= timing.dram_steady <= 1


def test_an_unknown_generation_names_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="sm_90"):
        sm_timing("sm_91")
