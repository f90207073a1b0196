"""Estimates add as things that run one after the other, and scale as things that run again."""

from __future__ import annotations

import pytest

from presilicon.arch import Estimate

A = Estimate(1.0, 0.9, 1.2, {"tensor": 3.0, "dram": 1.0}, {"dram": 10.0}, {"tensor": 0.8, "dram": 0.5}, 100.0, 1e9,
    "tensor")
B = Estimate(3.0, 2.0, 4.0, {"dram": 2.0}, {"dram": 30.0, "l2": 5.0}, {"dram": 2.5}, 20.0, 2e9, "dram")


def test_the_sum_keeps_parts_and_weighs_the_clock_by_time() -> None:
    total = A + B
    assert (total.time_s, total.low_s, total.high_s, total.flops) == (4.0, 2.9, 5.2, 120.0)
    assert total.energy_j == {"tensor": 3.0, "dram": 3.0}
    assert total.total_energy_j == 6.0
    assert total.bytes_moved == {"dram": 40.0, "l2": 5.0}
    assert total.clock_hz == 1.75e9
    assert total.limiter == "dram"
    assert total.cycles == 7_000_000_000


def test_twice_is_the_sum_with_itself() -> None:
    assert A * 2 == 2 * A == A + A


def test_nothing_adds_nothing() -> None:
    assert Estimate() + A == A + Estimate() == A
    assert sum([A, B], Estimate()) == A + B
    assert (Estimate() + Estimate()).clock_hz == 0.0


def test_only_estimates_add() -> None:
    with pytest.raises(TypeError):
        A + 1.0  # type: ignore[operator]
