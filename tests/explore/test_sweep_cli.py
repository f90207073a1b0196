"""`presilicon sweep` as a user types it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from presilicon.cli import main

MLP = Path(__file__).parents[1] / "data" / "mlp.graph.json"


def study(folder: Path, **changes: Any) -> str:
    document = {
        "workloads": [{"graph": str(MLP)}],
        "systems": ["h100-sxm"],
        "parameters": {"gpu.sm.count": [66, 132], "dram.bandwidth": ["2 TB/s", "4 TB/s", "8 TB/s"]},
    } | changes
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return str(path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *arguments])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_rows_and_the_best_designs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, study(tmp_path), "-o", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    first, *best = out.splitlines()
    assert first == f"6 rows in {tmp_path / 'out'}"
    assert [line.partition(" of ")[0] for line in best] == ["best latency", "best energy"]
    assert "gpu.sm.count 132, dram.bandwidth 8 TB/s" in best[0]


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, study(tmp_path, batch_points=4), "-o", str(tmp_path / "out"), "--dry-run")
    assert code == 0
    assert out.startswith("6 points in 2 batches, 0 of them done; about ")
    assert out.rstrip().endswith("on disk")
    assert not (tmp_path / "out").exists()


def test_failed_designs_and_unmet_constraints_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"gpu.sm.shared_memory_per_cta": ["100 KiB", "400 KiB"]}
    path = study(tmp_path, parameters=parameters | {"gpu.sm.shared_memory": ["228 KiB", "500 KiB"]}, constraints=["energy_j < 0"])
    code, out, _ = run(capsys, path, "-o", str(tmp_path / "out"))
    assert code == 0
    assert "1 designs have no result, such as " in out
    assert "exceeds gpu.sm.shared_memory" in out
    assert "constraint energy_j < 0: met by no design; energy_j is from " in out
    assert "best" not in out


def test_a_large_study_is_refused_where_nobody_can_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = {"range": [1e9, 2e9], "steps": 4000}
    code, _, err = run(capsys, study(tmp_path, parameters={"gpu.clock.boost": wide, "dram.bandwidth": wide}), "-o", str(tmp_path / "out"))
    assert code == 2
    assert "16,000,000 points, more than 10,000,000; --yes" in err


def test_one_line_for_a_misspelt_parameter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study(tmp_path, parameters={"dram.bandwith": [1e12]})
    code, _, err = run(capsys, path, "-o", str(tmp_path / "out"))
    assert code == 2
    assert err.count("\n") == 1
    assert "parameters.dram.bandwith: h100-sxm: unknown parameter path 'dram.bandwith'; did you mean 'dram.bandwidth'" in err
