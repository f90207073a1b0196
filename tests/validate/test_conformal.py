"""Intervals from residuals: they cover what they claim, where the noise differs, and widen beyond what they saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch import System, load
from presilicon.arch.intervals import bounds, check, table_for
from presilicon.arch.loader import from_document
from presilicon.errors import SpecError
from presilicon.validate.conformal import interval_table


def _with_intervals(**tables: Any) -> System:
    return from_document(dict(load("l40s").document) | {"intervals": tables})


def _draw(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and measured seconds whose log-residual grows from 2 % to 25 % towards small kernels and is skewed."""
    predicted = 10 ** rng.uniform(-6, -2, rows)
    spread = 0.02 + 0.23 * (-2 - np.log10(predicted)) / 4
    return predicted, predicted * np.exp(spread * (rng.gamma(2.0, 1.0, rows) - 1.5))


@pytest.mark.parametrize("seed", range(3))
def test_fresh_rows_are_covered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    system = _with_intervals(gemm=interval_table(*_draw(rng, 6000), source="synthetic"))
    predicted, measured = _draw(rng, 20_000)
    low, high = bounds(system, "gemm.bf16", predicted)
    inside = (measured >= low) & (measured <= high)
    assert 0.87 <= inside.mean() <= 0.93
    for decade in range(-6, -2):
        part = (predicted >= 10.0**decade) & (predicted < 10.0 ** (decade + 1))
        assert 0.84 <= inside[part].mean() <= 0.96, "the bins follow the noise"
    width = np.log(high / low)
    assert width[predicted < 1e-5].mean() > 3 * width[predicted > 1e-3].mean()


def test_few_rows_give_one_bin_as_wide_as_the_data() -> None:
    table = interval_table(np.full(10, 1e-3), 1e-3 * np.linspace(0.8, 1.2, 10), source="x")
    assert (table["rows"], len(table["low"])) == (10, 1)
    assert table["low"] == [pytest.approx(0.8)], "of 10 rows the 5 % quantile is not known: the lowest stands for it"
    assert table["high"] == [pytest.approx(1.2)]
    check(table, "x")


def test_the_finite_sample_quantile() -> None:
    measured = np.arange(1, 40) / 20.0  # n = 39: (n + 1) * 0.95 = 38 and (n + 1) * 0.05 = 2
    table = interval_table(np.ones(39), measured, source="x")
    assert table["low"] == [pytest.approx(2 / 20)]
    assert table["high"] == [pytest.approx(38 / 20)]


TABLE = {"coverage": 0.9, "edges_s": [1e-5, 1e-4, 1e-3], "low": [0.8, 0.9], "high": [1.25, 1.1], "rows": 100, "source": "x"}


def test_intervals_widen_outside_of_what_was_seen() -> None:
    system = _with_intervals(gemm=TABLE)
    time = np.array([1e-7, 1e-6, 1e-5, 9e-5, 2e-4, 1e-3, 1e-2, 1e-1])
    low, high = bounds(system, "gemm", time)
    assert np.log(high / time) == pytest.approx(np.log([1.25] * 4 + [1.1] * 4) * np.array([3, 2, 1, 1, 1, 1, 2, 3]))
    assert np.log(low / time) == pytest.approx(np.log([0.8] * 4 + [0.9] * 4) * np.array([3, 2, 1, 1, 1, 1, 2, 3]))


def test_the_prediction_is_never_outside_of_its_interval() -> None:
    system = _with_intervals(gemm=TABLE | {"low": [1.1, 0.5], "high": [1.3, 0.9]})
    time = np.array([2e-5, 2e-4])
    low, high = bounds(system, "gemm", time)
    assert np.all(low <= time)
    assert np.all(time <= high)


def test_which_table_applies() -> None:
    system = _with_intervals(**{"gemm": TABLE, "gemm.fp8": TABLE | {"source": "fp8"}})
    assert table_for(system, "gemm.fp8")[0]["source"] == "fp8"
    assert table_for(system, "gemm.bf16")[0]["source"] == "x"
    assert table_for(system, "gemm.bf16")[1]
    fallback, own = table_for(system, "no such family")
    assert not own
    check(fallback, "fallback")


@pytest.mark.parametrize(
    "change",
    [
        {"edges_s": [1e-4, 1e-5, 1e-3]},
        {"edges_s": [0.0, 1e-4, 1e-3]},
        {"edges_s": [1e-5, 1e-4]},
        {"low": [0.8]},
        {"low": [0.0, 0.9]},
        {"low": [2.0, 0.9]},
        {"high": "wide"},
        {"more": 1},
    ],
)
def test_damaged_tables_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"intervals\.gemm: "):
        _with_intervals(gemm=TABLE | change)
    assert _with_intervals(gemm=TABLE).intervals["gemm"] == TABLE


def test_times_that_hardly_differ_share_a_bin() -> None:
    predicted = np.linspace(1.0, 1.0 + 1e-7, 600)
    assert len(interval_table(predicted, predicted, source="x")["low"]) == 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(1e-7, 10.0), st.floats(0.05, 20.0)), min_size=1, max_size=300))
def test_every_table_can_be_read_back(rows: list[tuple[float, float]]) -> None:
    predicted, ratio = (np.array(column) for column in zip(*rows, strict=True))
    table = interval_table(predicted, predicted * ratio, source="x")
    low, high = bounds(_with_intervals(gemm=table), "gemm", predicted)
    assert np.all((low > 0) & (low <= predicted) & (predicted <= high) & np.isfinite(high))
