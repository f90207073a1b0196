"""The tile engine: waves, tails, contention, and agreement with what can be worked out by hand."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.sim.gpu_tile import Grid, play_grid

BASE = Grid(ctas=216, sms=108, resident=1, cta_s=10e-6)


def test_two_full_waves():
    assert play_grid(BASE) == pytest.approx(20e-6)


def test_one_cta_more_costs_a_wave():
    assert play_grid(dataclasses.replace(BASE, ctas=217)) == pytest.approx(30e-6)


def test_resident_ctas_share_the_sm_and_hide_latency():
    alone = dataclasses.replace(BASE, alone_s=18e-6)
    assert play_grid(alone) == pytest.approx(36e-6)  # one CTA at a time: its latencies show
    assert play_grid(dataclasses.replace(alone, resident=2)) == pytest.approx(20e-6)  # two at a time fill the pipes


def test_bandwidth_bounds_a_memory_bound_grid():
    grid = dataclasses.replace(BASE, cta_s=0.1e-6, dram_s=100e-6)
    assert play_grid(grid) == pytest.approx(100e-6, rel=0.01)


def test_what_does_not_overlap_adds():
    grid = dataclasses.replace(BASE, ctas=108, cta_s=10e-6, dram_s=4e-6, exposed=0.5)
    assert play_grid(grid) == pytest.approx(10e-6 + 0.5 * 4e-6)
    assert play_grid(dataclasses.replace(grid, exposed_power=1.0)) == pytest.approx(10e-6 + 0.5 * 4e-6 * 0.4)


def test_uneven_ctas_end_later_than_even_ones():
    even = dataclasses.replace(BASE, ctas=300)
    assert play_grid(dataclasses.replace(even, longest=1.9)) != play_grid(even)
    assert play_grid(dataclasses.replace(even, longest=1.9)) >= 300 / 108 * 10e-6


def test_skipping_steady_waves_changes_nothing():
    # 40 waves, of which most are skipped, against the sum of their parts
    many = dataclasses.replace(BASE, ctas=108 * 40 + 5)
    assert play_grid(many) == pytest.approx(41 * 10e-6, rel=1e-9)


grids = st.builds(
    Grid,
    ctas=st.integers(1, 5000),
    sms=st.integers(1, 150),
    resident=st.integers(1, 4),
    cta_s=st.floats(1e-7, 1e-4),
    alone_s=st.floats(0, 1e-4),
    l2_s=st.floats(0, 1e-3),
    dram_s=st.floats(0, 1e-3),
    exposed=st.floats(0, 1),
    exposed_power=st.sampled_from([0.0, 1.0, 2.0]),
    longest=st.floats(1, 2),
)


@settings(max_examples=60, deadline=None)
@given(grids)
def test_never_beats_pipes_or_bandwidth(grid):
    time = play_grid(grid)
    assert time >= grid.ctas * grid.cta_s / grid.sms * (1 - 1e-6)
    assert time >= max(grid.l2_s, grid.dram_s) * (1 - 1e-6)


@settings(max_examples=40, deadline=None)
@given(grids)
def test_same_grid_same_time(grid):
    assert play_grid(grid) == play_grid(grid)
