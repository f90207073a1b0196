"""The command line in-process: what it prints, its exit status, and what it leaves in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from presilicon.cli import main


@dataclass(frozen=True)
class Outcome:
    """What one run of the command line did."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """``run("ops", path, "--system", "l4")``."""

    def call(*args: Any) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Outcome(stop.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def fails(run: Callable[..., Outcome], tmp_path: Path) -> Callable[..., str]:
    """Run what must fail: exit status 2, one line on stderr (which it returns), nothing written or changed below `tmp_path`.

    `several`: more than one line.
    """

    def call(*args: Any, several: bool = False) -> str:
        before = snapshot(tmp_path)
        outcome = run(*args)
        assert outcome.status == 2, outcome
        assert outcome.err.startswith("presilicon: "), outcome
        assert (outcome.err.count("\n") > 1) is several
        assert "Traceback" not in outcome.err
        assert len(outcome.err) < 1000
        assert snapshot(tmp_path) == before
        return outcome.err.removeprefix("presilicon: ").rstrip("\n")

    return call


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content; None for a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
