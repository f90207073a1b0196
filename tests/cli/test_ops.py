"""`presilicon ops` on tables that are right, however odd they look: every cell passes through, columns keep their order."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from presilicon.arch import load
from presilicon.validate import csvtable
from presilicon.validate.opfile import predict_file

from .conftest import Outcome

PREDICTED = ["predicted_s", "low_s", "high_s", "limiter"]


def _rows(path: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def test_extra_columns_pass_through_as_text(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    lines = [
        "id,note,k,price,gemm_dtype,n,when,m,flag,count,", '007,"a, ""b""",64,1e-06,bfloat16,128,2024-01-02,32,TRUE,12,',
        "1e5,\u00e9\u4e16\U0001f600,128,0.10,fp8,64,,8,NaN,,x", " 8 ,NA,256,+1.0,half,64,null,8.0,None,-0, y ",
        "9999999999999999999999,,512,1_0,float16, 64 ,inf,8e0,nan,0x1,'",
    ]  # fmt: skip
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    outcome = run("ops", table, "--system", "a100-sxm-80gb", "-o", out)
    assert (outcome.status, outcome.err) == (0, "")
    assert "4 rows of gemm predicted on a100-sxm-80gb" in outcome.out
    written = out.read_text(encoding="utf-8").splitlines()
    assert [line[: len(old)] for line, old in zip(written, lines, strict=True)] == lines, "the input's bytes, then the prediction"
    assert _rows(out)[0] == [*_rows(table)[0], *PREDICTED]
    for row in _rows(out)[1:]:
        time, low, high = (float(cell) for cell in row[-4:-1])
        assert 0 < low < time < high
        assert row[-1] in ("tensor", "dram", "l2", "floor", "smem", "fma", "sfu")


def test_byte_order_mark_line_ends_and_blank_lines(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    plain, odd = tmp_path / "plain.csv", tmp_path / "odd.csv"
    plain.write_text("gemm_dtype,m,n,k\nbf16,1,2,3\nbf16,4,5,6\n")
    odd.write_bytes(b"\xef\xbb\xbf\r\n gemm_dtype , m,n,k\r\n\r\nbf16,1,2,3\r\n\r\nbf16,4,5,6")
    for table in (plain, odd):
        assert run("ops", table, "--system", "l4", "-o", table.with_suffix(".out")).status == 0
    assert [row[4:] for row in _rows(plain.with_suffix(".out"))] == [row[4:] for row in _rows(odd.with_suffix(".out"))]


def test_a_second_run_replaces_the_prediction_in_place(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    table.write_text("limiter,gemm_dtype,m,n,predicted_s,k,note\nme,bf16,1,2,7,3,keep\n")
    assert run("ops", table, "--system", "l4", "-o", out).status == 0
    first = out.read_bytes()
    header, row = _rows(out)
    assert header == ["limiter", "gemm_dtype", "m", "n", "predicted_s", "k", "note", "low_s", "high_s"]
    assert row[0] == "floor"
    assert float(row[4]) < 1e-4
    assert row[6] == "keep"
    assert run("ops", out, "--system", "l4", "-o", out).status == 0
    assert out.read_bytes() == first


def test_number_formats_have_aliases(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    names = (("bfloat16", "bf16"), ("half", "float16"), ("fp8", "float8_e4m3fn"), ("float32", "fp32"))
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    table.write_text("gemm_dtype,m,n,k\n" + "".join(f"{name},4096,4096,4096\n" for pair in names for name in pair))
    assert run("ops", table, "--system", "h100-sxm", "-o", out).status == 0
    times = [float(row[4]) for row in _rows(out)[1:]]
    assert times[0::2] == times[1::2]
    assert times[4] < times[0] < times[6], "fp8 is faster than bf16, fp32 slower"


def test_columns_that_may_be_absent_have_their_defaults(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    header, row = "num_tokens,hidden_size,inter_size,topk,num_experts,moe_dtype", "64,2048,1024,2,8,bf16"
    tables = {
        "absent": f"{header}\n{row}\n",
        "empty": f"{header},moe_tp_size,moe_ep_size,distribution\n{row},,,\n",
        "given": f"{header},moe_tp_size,moe_ep_size,distribution\n{row},1,1,balanced\n",
    }
    results = []
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
        assert run("ops", tmp_path / name, "--system", "a100-sxm-80gb", "-o", tmp_path / f"{name}.out").status == 0
        results.append(_rows(tmp_path / f"{name}.out")[1][-4:])
    assert results[0] == results[1] == results[2]


def test_sizes_up_to_the_limit(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    huge = 2**40
    table.write_text(f"gemm_dtype,m,n,k\nbf16,{huge},1,1\nbf16,1,{huge},1\nbf16,1,1,{huge}\nbf16,{huge},{huge},{huge}\n")
    assert run("ops", table, "--system", "h100-sxm", "-o", out).status == 0
    cube = float(_rows(out)[4][4])
    assert cube >= 2.0 * float(huge) ** 3 / load("h100-sxm").tensor_flops_per_s("bf16")


def test_the_error_table(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    table.write_text("gemm_dtype,m,n,k\n" + "".join(f"{d},{m},4096,4096\n" for d in ("bf16", "fp16") for m in (64, 512, 4096)))
    run("ops", table, "--system", "a100-sxm-80gb", "-o", out)
    header, *rows = _rows(out)
    lines = [",".join([*header[:4], "seconds"]), *(",".join([*row[:4], repr(float(row[4]) / 1.1)]) for row in rows)]
    table.write_text("\n".join(lines) + "\n")
    outcome = run("ops", table, "--system", "a100-sxm-80gb", "--measured", "seconds", "--worst", 2)
    assert outcome.status == 0
    groups = {line.rsplit(maxsplit=6)[0].strip(): line.split()[-6:] for line in outcome.out.splitlines() if "%" in line}
    assert {"all", "gemm_dtype bf16", "gemm_dtype fp16"} <= set(groups)
    assert groups["all"][:5] == ["6", "10.0%", "10.0%", "10.0%", "+10.0%"]
    assert outcome.out.split("worst rows:")[1].count("bf16") + outcome.out.split("worst rows:")[1].count("fp16") == 2


def test_pieces_give_what_the_whole_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "table.csv"
    table.write_text("gemm_dtype,m,n,k,t\n" + "".join(f"{'bf16' if i % 3 else 'fp16'},{i},128,{8 * i},{i}e-6\n" for i in range(1, 30)))
    system = load("l40s")
    whole = predict_file(table, system, out=tmp_path / "whole.csv", measured="t", worst=5)
    monkeypatch.setattr(csvtable.read_chunks, "__defaults__", (4,))
    pieces = predict_file(table, system, out=tmp_path / "pieces.csv", measured="t", worst=5)
    assert (tmp_path / "pieces.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert pieces.errors == whole.errors
    assert pieces.worst.reset_index(drop=True).equals(whole.worst.reset_index(drop=True))
    assert pieces.rows == whole.rows == 29


def _long_table(path: Path, rows: int, last: str) -> None:
    with path.open("w") as stream:
        stream.write("gemm_dtype,m,n,k,id\n")
        stream.writelines(f"bf16,{1 + i % 997},128,64,{i:06d}\n" for i in range(rows))
        stream.write(last)


@pytest.mark.slow
def test_a_long_table(tmp_path: Path, run: Callable[..., Outcome]) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    _long_table(table, 300_000, "")
    assert run("ops", table, "--system", "l4", "-o", out).status == 0
    with out.open() as stream:
        assert next(stream).startswith("gemm_dtype,m,n,k,id,predicted_s,")
        for i, line in enumerate(stream):
            assert line.startswith(f"bf16,{1 + i % 997},128,64,{i:06d},")
    assert i == 299_999


@pytest.mark.slow
def test_an_error_late_in_a_long_table_leaves_nothing(tmp_path: Path, fails: Callable[..., str]) -> None:
    table = tmp_path / "table.csv"
    _long_table(table, 2 * csvtable.CHUNK_ROWS, "bf16,1,1,zero,x\n")
    error = fails("ops", table, "--system", "l4", "-o", tmp_path / "new" / "out.csv")
    assert f"line {2 * csvtable.CHUNK_ROWS + 2}, column 'k'" in error
