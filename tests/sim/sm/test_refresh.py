"""Waits for DRAM that is being refreshed: the draws that the core takes, beside the law that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from presilicon.arch.sm_timing import sm_timing
from presilicon.sim.sm.refresh import N_DELAYS, delays


@pytest.mark.parametrize("generation", ["sm_80", "sm_89", "sm_90"])
@pytest.mark.parametrize("lines", [4, 16, 64, 512])
def test_draws_have_the_mean_of_the_longest_wait(generation: str, lines: int) -> None:
    timing = sm_timing(generation)
    waits = np.maximum(0.0, 1.0 - delays(timing) / lines)
    held = lines * timing.refresh_share  # the integral of 1 - exp(-held (1 - x)) over x from 0 to 1
    assert waits.mean() == pytest.approx(1.0 - (1.0 - np.exp(-held)) / held, abs=0.005)


def test_draws_agree_with_channels_that_are_refreshed_at_random_times() -> None:
    timing, rng = sm_timing("sm_90"), np.random.default_rng(7)
    left = rng.random((20_000, 64)) / timing.refresh_share  # of a refresh that began so long ago, in lengths of a refresh
    longest = np.where(left < 1.0, 1.0 - left, 0.0).max(axis=1)
    waits = np.maximum(0.0, 1.0 - delays(timing) / 64)
    assert waits.mean() == pytest.approx(longest.mean(), abs=0.02)
    assert np.quantile(waits, 0.9) == pytest.approx(np.quantile(longest, 0.9), abs=0.02)


def test_loops_of_any_length_meet_all_draws() -> None:
    for requests in range(1, N_DELAYS):
        assert len({requests * turn % N_DELAYS for turn in range(N_DELAYS)}) == N_DELAYS
