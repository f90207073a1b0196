"""Files of op tables from Python: what `predict_file` returns, and that a library function prints nothing."""

from __future__ import annotations

import csv
import math
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from presilicon.arch import load
from presilicon.errors import OutputError, TableError
from presilicon.validate.csvtable import Chunk, read_chunks
from presilicon.validate.opfile import predict_file, read_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "[bold]table.csv"
    path.write_text("gemm_dtype,m,n,k,seconds\n" + "".join(f"{d},{m},1024,1024,{m}e-7\n" for m in (1, 64, 4096) for d in ("bf16", "fp16")))
    return path


def test_what_it_returns_and_writes(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = table.with_name("out.csv")
    summary = predict_file(table, load("l4"), out=out, measured="seconds", worst=3)
    assert (summary.kind, summary.system, summary.rows, summary.written) == ("gemm", "l4", 6, out)
    assert [line.group for line in summary.errors][:3] == ["all", "gemm_dtype bf16", "gemm_dtype fp16"]
    assert len(summary.worst) == 3
    assert all(a >= b for a, b in pairwise(abs(math.log(ratio)) for ratio in summary.worst["ratio"]))
    assert capsys.readouterr() == ("", "")
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    ratio = [float(row["predicted_s"]) / float(row["seconds"]) for row in rows]
    assert summary.errors[0].mape == pytest.approx(sum(abs(r - 1) for r in ratio) / 6)
    inside = [float(row["low_s"]) <= float(row["seconds"]) <= float(row["high_s"]) for row in rows]
    assert summary.errors[0].coverage == pytest.approx(sum(inside) / 6)


def test_names_of_files_are_not_markup(table: Path) -> None:
    console = Console(width=200)
    with console.capture() as capture:
        for line in predict_file(table, load("l4"), measured="seconds").lines(2):
            console.print(line, highlight=False, markup=False)
    assert "[bold]table.csv: 6 rows of gemm predicted on l4" in capture.get()
    assert capture.get().count("worst rows:") == 1


def test_without_measurements_there_are_no_errors(table: Path) -> None:
    summary = predict_file(table, load("l4"))
    assert summary.errors == []
    assert summary.worst is None
    assert summary.written is None


def test_same_input_same_bytes(table: Path, tmp_path: Path) -> None:
    written = []
    for name in ("a.csv", "b.csv"):
        predict_file(table, load("h100-sxm"), out=tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


def test_a_failure_closes_what_was_begun(table: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="column 'absent'"):
        predict_file(table, load("l4"), out=tmp_path / "new" / "out.csv", measured="absent")
    with pytest.raises(OutputError, match="cannot be written"):
        predict_file(table, load("l4"), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [table.name]


def test_chunks_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"x\ny"\n\n2,z\n3,"q"\n')
    chunks = list(read_chunks(path, chunk_rows=2))
    assert [chunk.lines for chunk in chunks] == [[3, 5], [6]]
    assert [chunk.rows for chunk in chunks] == [[["1", "x\ny"], ["2", "z"]], [["3", "q"]]]
    assert chunks[0].frame().loc[5].to_dict() == {"a": "2", "b": "z"}


def test_columns_are_replaced_in_place_and_added_behind() -> None:
    import io

    stream = io.BytesIO()
    Chunk([" x", "y", "", ""], [["1", "2", "a", "b"], ["3", "4", "c", "d"]], [2, 3]).write(
        stream, {"z": [7, 8], "x": ["p", "q,r"]}, with_header=True
    )
    assert stream.getvalue().decode() == ' x,y,,,z\np,2,a,b,7\n"q,r",4,c,d,8\n'


def test_a_measured_table_is_numbers_and_text(table: Path) -> None:
    read = read_table(table, None, "seconds")
    assert read.name == table.name
    assert read.kind.name == "gemm"
    assert read.frame["m"].tolist() == [1, 1, 64, 64, 4096, 4096]
    assert read.measured_s.tolist() == pytest.approx([1e-7, 1e-7, 64e-7, 64e-7, 4096e-7, 4096e-7])
