"""Error summaries against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from presilicon.validate.errors_table import error_line, error_lines, joined, worst_rows


def test_one_line_by_hand() -> None:
    measured = np.array([1.0, 2.0, 4.0, 5.0, 10.0])
    predicted = np.array([1.1, 1.6, 4.0, 10.0, 9.0])  # absolute errors 10, 20, 0, 100, 10 %
    line = error_line("all", measured, predicted, low=0.9 * predicted, high=1.2 * predicted)
    assert (line.group, line.rows) == ("all", 5)
    assert line.mape == pytest.approx(0.28)
    assert line.median == pytest.approx(0.10)
    assert line.p95 == pytest.approx(0.20 + 0.8 * 0.80), "linear between the 4th and the 5th of five"
    assert line.bias == pytest.approx((1.1 * 0.8 * 1.0 * 2.0 * 0.9) ** (1 / 5) - 1)
    assert line.coverage == pytest.approx(0.6), "1.0, 4.0 and 10.0 are within; 2.0 is above 1.92, 5.0 below 9.0"


def test_too_fast_and_too_slow_by_one_factor_have_no_bias() -> None:
    line = error_line("x", np.array([1.0, 1.0]), np.array([2.0, 0.5]))
    assert line.bias == pytest.approx(0.0)
    assert line.mape == pytest.approx(0.75)
    assert math.isnan(line.coverage)


def test_a_prediction_of_no_time_at_all() -> None:
    line = error_line("one GPU", np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    assert (line.mape, line.bias) == (0.5, -1.0)


FRAME = pd.DataFrame(
    {
        "dtype": ["bf16", "fp8", "bf16", "fp8"],
        "same": ["x"] * 4,
        "t": [5e-6, 50e-6, 500e-6, 5e-3],
        "predicted_s": [6e-6, 40e-6, 500e-6, 10e-3],
        "low_s": [0.0, 0.0, 0.0, 9e-3],
        "high_s": [1.0, 1.0, 1.0, 1.0],
    }
)


def test_lines_by_group_and_by_size() -> None:
    lines = {line.group: line for line in error_lines(FRAME, "t", ("dtype", "same", "absent"))}
    assert list(lines) == ["all", "dtype bf16", "dtype fp8", "under 10 us", "10 to 100 us", "100 us to 1 ms", "over 1 ms"]
    assert lines["all"].mape == pytest.approx((0.2 + 0.2 + 0.0 + 1.0) / 4)
    assert lines["dtype bf16"].mape == pytest.approx(0.1)
    assert lines["dtype fp8"].mape == pytest.approx(0.6)
    assert [lines[name].rows for name in list(lines)[3:]] == [1, 1, 1, 1]
    assert lines["over 1 ms"].coverage == 0.0
    assert lines["all"].coverage == 0.75


def test_limits_of_size_classes_belong_to_the_upper_one() -> None:
    frame = pd.DataFrame({"t": [10e-6, 100e-6, 1e-3], "predicted_s": [10e-6, 100e-6, 1e-3]})
    assert [line.group for line in error_lines(frame, "t")] == ["all", "10 to 100 us", "100 us to 1 ms", "over 1 ms"]


def test_worst_rows_first_whichever_side() -> None:
    worst = worst_rows(FRAME, "t", 3)
    assert worst["ratio"].tolist() == pytest.approx([2.0, 0.8, 1.2])
    assert worst_rows(FRAME.assign(predicted_s=FRAME["t"]), "t", 2).index.tolist() == [0, 1], "ties stay in order"


def test_joined_frames_keep_categories() -> None:
    parts = [pd.DataFrame({"g": pd.Categorical(names), "x": [1.0, 2.0]}) for names in (["b", "a"], ["c", "a"])]
    frame = joined(parts)
    assert frame["g"].tolist() == ["b", "a", "c", "a"]
    assert frame["g"].cat.categories.tolist() == ["a", "b", "c"]
    assert frame["x"].tolist() == [1.0, 2.0, 1.0, 2.0]
