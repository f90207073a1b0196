"""Numbers of one SM: complete, sourced, and no copy of what a device file states."""

from __future__ import annotations

import pytest

from presilicon.arch.sm_timing import sm_timing
from presilicon.errors import UnknownNameError

GENERATIONS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_number_has_a_source(generation: str) -> None:
    timing = sm_timing(generation)
    assert all(len(source) > 5 for source in timing.sources.values())
    assert set(timing.sources) == set(timing.statuses)
    assert set(timing.statuses.values()) <= {"published", "measured", "assumed"}
    assert "tensor_ahead" in timing.assumed()
    assert "alu_lanes" not in timing.assumed() or generation == "sm_120"
    assert 64 < timing.dram_access < 128, "between half a line and a line"
    assert timing.l1_latency > timing.shared_latency > timing.operand_read > 0
    assert 0 < timing.warp_mma <= 1
    assert 0.9 <= timing.dram_steady < 1
    assert 0 < timing.dram_turnaround < 0.15
    assert timing.dram_refresh > 50
    assert 0.02 < timing.refresh_share < 0.12


def test_an_unknown_generation_names_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="sm_90"):
        sm_timing("sm_91")
