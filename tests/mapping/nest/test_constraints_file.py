"""Constraints from a file are those that one writes in Python, and every slip names its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from presilicon.cli import main
from presilicon.errors import SpecError, UnknownNameError
from presilicon.mapping.nest import Constraints, load_constraints, map_op, matmul

TEXT = """
dataflow: os
spatial: {pe_array: {m: 16, n: 16}}
spatial_dims: {pe_array.x: [m]}
order: {buffer: [O, W, I]}
tiles: {buffer: {O: {m: 64, n: 64}}}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "limits.yaml"
    path.write_text(text)
    return path


def status(*args: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(args)
    return ended.value.code or 0


def test_a_file_is_what_it_says(tmp_path: Path) -> None:
    assert load_constraints(written(tmp_path, TEXT)) == Constraints(
        dataflow="os",
        spatial={"pe_array": {"m": 16, "n": 16}},
        spatial_dims={"pe_array.x": ("m",)},
        order={"buffer": ("O", "W", "I")},
        tiles={("buffer", "O"): {"m": 64, "n": 64}},
    )


def test_the_command_obeys_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "dataflow: ws\nspatial: {pe_array: {k: 16, n: 16}}\n")
    assert status("map", "matmul m=64 n=64 k=64 int8", "--objective", "energy", "--constraints", str(path)) == 0
    told = capsys.readouterr().out
    expected = map_op(matmul(64, 64, 64), "mapbench-16", "energy", Constraints(dataflow="ws", spatial={"pe_array": {"k": 16, "n": 16}}))
    assert str(expected).splitlines()[:3] == told.splitlines()[:3]
    assert "parallel k in 16" in told


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("spatal: {}", UnknownNameError, "did you mean 'spatial'"),
        ("dataflow: 3", SpecError, "dataflow: expected os, ws or is, found 3"),
        ("even: 1", SpecError, "even: expected true or false"),
        ("spatial: [m]", SpecError, "spatial: expected a mapping"),
        ("spatial: {pe_array: {m: 0}}", SpecError, "spatial: pe_array: m: expected a whole number of 1 or more, found 0"),
        ("order: {buffer: O}", SpecError, "order: buffer: expected a list of names"),
        ("tiles: {buffer: 3}", SpecError, "tiles: buffer: expected a mapping, found 3"),
        ("tiles: {buffer: {O: {m: 1.5}}}", SpecError, "tiles: buffer: O: m: expected a whole number"),
    ],
)
def test_slips_name_their_place(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_constraints(written(tmp_path, text))


def test_a_constraint_that_no_mapping_meets_says_by_how_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "tiles: {buffer: {O: {m: 1024, n: 1024}}}\n")
    assert status("map", "matmul m=1024 n=1024 k=1024 int8", "--constraints", str(path)) == 2
    assert "524290 B more than its 524288 B" in capsys.readouterr().err
