"""Waits for DRAM that is being refreshed: the draws that the core takes, beside the law that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from presilicon.arch.sm_timing import sm_timing
from presilicon.sim.sm import isa
from presilicon.sim.sm.core_state import DELAYS, N_FREE, NUMBERS, REFRESH
from presilicon.sim.sm.core_units import refreshed
from presilicon.sim.sm.grid import Streams, requests_that_wait
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


@pytest.mark.parametrize("lines", [3, 32, 256])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 3.0])
def test_a_transfer_hides_what_its_first_lines_wait(lines: int, spread: float) -> None:
    timing, rng = sm_timing("sm_90"), np.random.default_rng(3)
    left = rng.random((20_000, lines)) / timing.refresh_share
    waits = np.where(left < 1.0, 1.0 - left, 0.0)
    last = np.maximum(0.0, (waits - spread * rng.random(waits.shape)).max(axis=1))
    numbers, free = np.zeros(NUMBERS), np.zeros(N_FREE)
    numbers[REFRESH], numbers[DELAYS:] = 640.0, delays(timing)
    found = np.array([refreshed(float(lines), 640.0 * spread, free, numbers) for _ in range(N_DELAYS)]) / 640.0
    assert found.mean() == pytest.approx(last.mean(), abs=0.01)
    assert np.quantile(found, 0.9) == pytest.approx(np.quantile(last, 0.9), abs=0.04)


def test_requests_are_counted_before_they_are_played() -> None:
    kinds = np.array([isa.LOAD, isa.ASYNC_COPY, isa.SHARED, isa.MATH], np.int64)
    code = np.array([0, 1, 3, 0, 1, 1, 2, 0], np.int32)  # two streams, of three and of five instructions
    access = np.array([0, 1, -1, 0, 1, 2, 2, -1], np.int32)
    lines = np.array([[4.0, 2.0, 8.0, 0.0], [0.0, 2.0, 8.0, 0.0], [0.0, 0.0, 0.5, 0.0]])  # by phase and row; an empty row behind them
    streams = Streams({"code": code, "access": access, "kind": kinds, "dram_lines": lines}, np.array([0, 3]), np.array([3, 5]), (0, 1, 1))
    by_phase = [2 + 2 * 3, 1 + 2 * 2, 2 * 1]
    for phases in ([0], [1], [2], [0, 0, 1, 1, 1, 2]):
        assert requests_that_wait(streams, np.array(phases)) == sum(by_phase[phase] for phase in phases)


def test_loops_of_any_length_meet_all_draws() -> None:
    for requests in range(1, N_DELAYS):
        assert len({requests * turn % N_DELAYS for turn in range(N_DELAYS)}) == N_DELAYS
