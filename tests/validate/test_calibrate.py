"""Calibration finds the constants that made a table, leaves alone what no row moves, and writes what it found with its source."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from presilicon.arch import System, load, save
from presilicon.arch.constants import all_constants
from presilicon.errors import CalibrationError, TableError
from presilicon.validate.calibrate import Table, calibrate, shape_groups
from presilicon.validate.opfile import calibrate_files, halves
from presilicon.validate.optable import check, kind_named, predict

BASE = load("a100-sxm-80gb")


def _changed(families: tuple[str, ...]) -> System:
    """A GPU that differs from the base in every constant of some families that may be fitted, by a fifth up or down."""
    constants = [c for c in all_constants().values() if c.family in families and c.fit]
    factors = [0.8 if i % 2 else 1.25 for i in range(len(constants))]
    return BASE.override(
        {
            f"calibration.{c.name}": float(np.clip(BASE.calibration[c.name] * f, c.low, c.high))
            for c, f in zip(constants, factors, strict=True)
        }
    )


def _gemms(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "gemm_dtype": "bf16",
            "m": 2 ** rng.integers(0, 13, rows),
            "n": 2 ** rng.integers(5, 14, rows),
            "k": 2 ** rng.integers(5, 14, rows),
        }
    )


def _collectives(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "dtype": "half",
            "num_gpus": 2 ** rng.integers(1, 4, rows),
            "message_size": 2 ** rng.integers(7, 29, rows),
            "operation": rng.choice(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"], rows),
        }
    )


def _table(frame: pd.DataFrame, kind: str, truth: System, noise: float = 0.0) -> Table:
    checked = check(frame, kind_named(kind), "table")
    exact = predict(checked, kind_named(kind), truth)["predicted_s"]
    return Table("table", kind_named(kind), checked, exact * np.exp(noise * np.random.default_rng(1).standard_normal(len(frame))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "frame", "families"),
    [
        ("gemm", _gemms(300), ("gemm", "power")),
        ("collective", _collectives(400), ("collective",)),
    ],
)
def test_the_constants_that_made_a_table_are_found(kind: str, frame: pd.DataFrame, families: tuple[str, ...]) -> None:
    truth = _changed(families)
    table = _table(frame, kind, truth)
    result = calibrate([table], BASE, source="made up")
    before, after, held_out = result.errors
    assert before.mape > 0.03
    assert after.mape < 0.01
    assert held_out.mape < 0.02
    fresh = check(_gemms(200, seed=9) if kind == "gemm" else _collectives(200, seed=9), table.kind, "fresh")
    expected, found = (predict(fresh, table.kind, system)["predicted_s"] for system in (truth, result.system))
    assert np.mean(np.abs(found / expected - 1)) < 0.01
    for name, value in result.fitted.items():
        constant = all_constants()[name]
        assert constant.low <= value <= constant.high
        origin = result.system.provenance[f"calibration.{name}"]
        assert (origin.status, origin.source) == ("fitted", "made up")
        assert result.system.calibration[name] == value
    assert not set(result.fitted) & set(result.idle)


def test_what_no_row_moves_is_named_and_kept() -> None:
    result = calibrate([_table(_gemms(100), "gemm", BASE)], BASE, source="x")
    assert "gemm.dequantise_ops" in result.idle
    kept = set(all_constants()) - set(result.fitted)
    assert {"gemm.dequantise_ops", "collective.hop", "memory.floor"} <= kept
    for name in kept:
        assert result.system.calibration[name] == BASE.calibration[name]
        assert result.system.provenance[f"calibration.{name}"] == BASE.provenance[f"calibration.{name}"]
    for name in result.fitted:
        assert result.system.calibration[name] == pytest.approx(BASE.calibration[name], rel=0.05), "there was nothing to find"


def test_only_calibration_and_intervals_change() -> None:
    result = calibrate([_table(_gemms(100), "gemm", BASE, noise=0.1)], BASE, source="x")
    assert {part: getattr(result.system, part) for part in ("gpu", "dram", "power", "link", "host", "name", "title")} == {
        part: getattr(BASE, part) for part in ("gpu", "dram", "power", "link", "host", "name", "title")
    }
    assert set(result.system.intervals) == {*BASE.intervals, "gemm.bf16"}
    assert {k: v for k, v in result.system.intervals.items() if k != "gemm.bf16"} == {
        k: v for k, v in BASE.intervals.items() if k != "gemm.bf16"
    }
    assert result.system.intervals["gemm.bf16"]["rows"] == 100


@pytest.mark.slow
def test_noise_gives_intervals_that_cover_it() -> None:
    result = calibrate([_table(_gemms(1500), "gemm", BASE, noise=0.08)], BASE, source="x")
    fresh = _table(_gemms(1500, seed=5), "gemm", BASE, noise=0.08)
    predicted = predict(fresh.frame, fresh.kind, result.system)
    inside = (fresh.measured_s >= predicted["low_s"]) & (fresh.measured_s <= predicted["high_s"])
    assert 0.86 <= inside.mean() <= 0.95


@pytest.mark.parametrize("columns", [{"n": 4096, "k": 4096}, {"n": 4096}])
def test_few_shapes(columns: dict[str, int]) -> None:
    frame = pd.DataFrame(
        {"gemm_dtype": "bf16", "m": np.arange(1, 41) * 64, "n": np.repeat([512, 1024], 20), "k": np.tile([64, 128], 20)}
    ).assign(**columns)
    result = calibrate([_table(frame, "gemm", _changed(("gemm",)))], BASE, source="x")
    assert result.errors[1].mape < 0.01
    assert np.isfinite(result.errors[2].mape)


def test_rows_of_one_shape_are_held_out_together() -> None:
    table = _table(_gemms(200), "gemm", BASE)
    labels = shape_groups(table)
    shapes = table.frame.groupby(["n", "k"]).ngroup().to_numpy()
    assert len(set(zip(labels, shapes, strict=True))) == len(set(labels)) == len(set(shapes))


def test_halves_are_two_random_parts_of_all_rows() -> None:
    first, second = halves(11)
    assert (len(first), len(second)) == (5, 6)
    assert sorted([*first, *second]) == list(range(11))
    assert list(halves(11)[0]) == list(first)
    assert list(halves(11, seed=1)[0]) != list(first)


def test_too_little_to_fit() -> None:
    with pytest.raises(CalibrationError, match="table: 19 rows; calibration needs at least 20"):
        calibrate([_table(_gemms(19), "gemm", BASE)], BASE, source="x")


def _write(path: Path, table: Table) -> Path:
    frame = table.frame.assign(latency_s=table.measured_s)
    frame.to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_the_half_protocol(tmp_path: Path) -> None:
    """The other half's rows do not touch the fit: however wrong they are, the constants are the same."""
    table = _table(_gemms(200), "gemm", _changed(("gemm", "power")), noise=0.02)
    seen, unseen = halves(200)
    wrong = table.measured_s.copy()
    wrong[unseen] *= 3.0
    files = [_write(tmp_path / "right.csv", table), _write(tmp_path / "wrong.csv", Table("wrong", table.kind, table.frame, wrong))]
    right, spoilt = (calibrate_files([file], BASE, half=0, source="x") for file in files)
    assert right.calibration.fitted == spoilt.calibration.fitted
    assert right.system == spoilt.system
    assert right.other_half[0].rows == 100
    assert right.other_half[0].mape < 0.05
    assert spoilt.other_half[0].mape > 0.5
    predicted = predict(table.frame, table.kind, right.system)["predicted_s"]
    assert right.other_half[0].mape == pytest.approx(np.mean(np.abs(predicted[unseen] / table.measured_s[unseen] - 1)))
    assert right.calibration.errors[1].mape == pytest.approx(np.mean(np.abs(predicted[seen] / table.measured_s[seen] - 1)))


def _main(*args: Any) -> int:
    from presilicon.cli import main

    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    return int(stop.value.code or 0)


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The device file that it writes holds what was fitted with its source, gives the same predictions, and comes out the same again."""
    table = _write(tmp_path / "table.csv", _table(_gemms(150), "gemm", _changed(("gemm", "power")), noise=0.03))
    device = tmp_path / "mine.yaml"
    arguments = ("calibrate", table, "--system", "a100-sxm-80gb", "--half", 1, "--source", "my own GPU", "-o")
    assert _main(*arguments, device) == 0
    printed = capsys.readouterr().out
    assert "table.csv other half" in printed
    assert "gemm.launch = " in printed
    assert "not moved by any row, left as they were: " in printed

    written = yaml.safe_load(device.read_text())
    entry = written["calibration"]["gemm.launch"]
    assert (entry["status"], written["sources"][entry["source"]]) == ("fitted", "my own GPU")
    summary = calibrate_files([table], BASE, half=1, source="my own GPU")
    assert load(device) == summary.system
    assert save(load(device), tmp_path / "copy.yaml").read_bytes() == device.read_bytes()

    assert _main(*arguments, tmp_path / "again.yaml") == 0
    assert (tmp_path / "again.yaml").read_bytes() == device.read_bytes()

    assert _main("ops", table, "--system", device, "-o", tmp_path / "out.csv") == 0
    expected = predict(check(pd.read_csv(table), kind_named("gemm"), "t"), kind_named("gemm"), summary.system)
    with (tmp_path / "out.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for name in ("predicted_s", "low_s", "high_s"):
        assert [float(row[name]) for row in rows] == expected[name].tolist()


def test_starting_constants_of_another_system(tmp_path: Path) -> None:
    other = save(BASE.override({"calibration.gemm.dequantise_ops": 0.5}), tmp_path / "other.yaml")
    table = _write(tmp_path / "table.csv", _table(_gemms(50), "gemm", BASE))
    result = calibrate_files([table], load("a100-sxm-40gb"), start=load(other), source="x")
    assert result.system.calibration["gemm.dequantise_ops"] == 0.5
    assert result.system.provenance["calibration.gemm.dequantise_ops"].source == "constants of a100-sxm-80gb"


def _bad(tmp_path: Path, text: str) -> Callable[[], object]:
    (tmp_path / "bad.csv").write_text(text)
    return lambda: calibrate_files([tmp_path / "bad.csv"], BASE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gemm_dtype,m,n,k,latency_s\n" + "bf16,1,2,3,1e-6\n" * 5, "bad.csv: 5 rows; calibration needs at least 20"),
        ("gemm_dtype,m,n,k,latency_s\n" + "bf16,1,2,3,0\n" * 30, "line 2, column 'latency_s': expected positive seconds"),
        ("gemm_dtype,m,n,k\n" + "bf16,1,2,3\n" * 30, "column 'latency_s' \\(measured seconds\\) is missing"),
        ("gemm_dtype,m,n,k,latency_s\n" + "bf16,1,2,x,1\n" * 30, "line 2, column 'k'"),
    ],
)
def test_tables_that_cannot_be_fitted(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((CalibrationError, TableError), match=message):
        _bad(tmp_path, text)()
