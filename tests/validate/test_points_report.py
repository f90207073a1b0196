"""What the commands that compare predictions with published points share."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from presilicon.errors import UnknownNameError
from presilicon.validate.points_report import Progress, report, require_half


def test_points_are_written_and_their_page_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def compare(progress: Progress) -> pd.DataFrame:
        progress("one", 0.5)
        return pd.DataFrame({"error": [0.1, -0.2]})

    report(compare, lambda frame: f"{len(frame)} points\n", tmp_path / "points.csv")
    assert pd.read_csv(tmp_path / "points.csv").error.tolist() == [0.1, -0.2]
    written = capsys.readouterr()
    assert (written.out, written.err) == ("2 points\n", "")  # no line of progress where there is no terminal


def test_a_half_that_does_not_exist_is_refused() -> None:
    require_half("")
    with pytest.raises(UnknownNameError, match="did you mean 'test'"):
        require_half("tets")
