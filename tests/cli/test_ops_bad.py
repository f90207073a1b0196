"""Op tables that are wrong: one clear error that names the line and the column, and no output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

HEADER = "gemm_dtype,m,n,k,latency_s"
ROW = "bfloat16,128,256,512,1e-5"

#: Name, text of the table, what the message says.
TABLES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "empty; expected a header and rows"),
    "blank": ("\n\n", "empty; expected a header and rows"),
    "header only": (HEADER + "\n", "no rows below the header"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff\xfe", "not a CSV table in UTF-8"),
    "nul bytes": (b"\x00" * 64, "no rows below the header"),
    "utf-16": (f"{HEADER}\n{ROW}\n".encode("utf-16"), "not a CSV table in UTF-8"),
    "missing column": ("gemm_dtype,m,n\nbfloat16,1,2\n", "column 'k' is missing; gemm needs m, n, k (found gemm_dtype, m, n)"),
    "column twice": (f"{HEADER},m\n{ROW},1\n", "line 1: column 'm' is there twice"),
    "semicolons": (f"{HEADER}\n{ROW}\n".replace(",", ";"), "line 1: columns are separated by semicolons; expected commas"),
    "tabs": (f"{HEADER}\n{ROW}\n".replace(",", "\t"), "separated by tabs"),
    "unclosed quote": (f'{HEADER}\n"{ROW}\n', "not a CSV table"),
    "short row": (f"{HEADER}\n{ROW}\nbfloat16,1,2\n", "line 3: expected 5 cells as in the header, found 3"),
    "long row": (f"{HEADER}\n{ROW},9\n", "line 2: expected 5 cells as in the header, found 6"),
    "empty dtype": (f"{HEADER}\n{ROW}\n,1,1,1,1\n", "line 3, column 'gemm_dtype': expected a text, found ''"),
    "unknown dtype": (
        f"{HEADER}\n{ROW}\nbfloat61,1,1,1,1\n",
        "line 3, column 'gemm_dtype': unknown number format 'bfloat61'; did you mean 'bfloat16'",
    ),
    "no kind": ("a,b\n1,2\n", "cannot tell the kind of table from its columns (a, b); name it with --kind: gemm"),
    "huge field": (HEADER + "\n" + "x" * 200_000 + ",1,1,1,1\n", "field larger than field limit"),
}
CELLS = ["many", "0", "-1", "NaN", "inf", "-inf", "", " ", "1.5", "1e30", "0x10", "1_000", "True", "1,5", "1 2", "\u0661\u0662"]


@pytest.mark.parametrize("case", TABLES)
def test_wrong_tables(case: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    content, message = TABLES[case]
    table = tmp_path / "table.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    error = fails("ops", table, "--system", "a100-sxm-80gb", "-o", tmp_path / "out.csv")
    assert error.startswith(str(table))
    assert message in error


@pytest.mark.parametrize("column", ["m", "n", "k"])
@pytest.mark.parametrize("cell", CELLS)
def test_wrong_sizes(cell: str, column: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    sizes = {"m": "16", "n": "32", "k": "64"} | {column: f'"{cell}"' if "," in cell else cell}
    table = tmp_path / "table.csv"
    table.write_text(f"gemm_dtype,m,n,k\nbfloat16,1,2,3\n\nbfloat16,{sizes['m']},{sizes['n']},{sizes['k']}\n")
    error = fails("ops", table, "--system", "a100-sxm-80gb", "-o", tmp_path / "out.csv")
    assert error == f"{table}, line 4, column {column!r}: expected a whole number from 1 to 2^40, found {cell.strip()!r}"


def test_the_line_counts_line_ends_within_quotes(tmp_path: Path, fails: Callable[..., str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f'{HEADER},note\n{ROW},"one\ntwo"\nbfloat16,0,1,1,1,\n')
    assert "line 4, column 'm'" in fails("ops", table, "--system", "l4")


@pytest.mark.parametrize("cell", ["", "fast", "0", "-1e-5", "nan", "inf"])
def test_wrong_measurements(cell: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"{HEADER}\n{ROW}\nbfloat16,1,1,1,{cell}\n")
    assert fails("ops", table, "--system", "l4", "--measured", "latency_s", "-o", tmp_path / "out.csv") == (
        f"{table}, line 3, column 'latency_s': expected positive seconds, found {cell!r}"
    )


def test_missing_measurements(tmp_path: Path, fails: Callable[..., str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"{HEADER}\n{ROW}\n")
    error = fails("ops", table, "--system", "l4", "--measured", "seconds", "-o", tmp_path / "out.csv")
    assert error == f"{table}: column 'seconds' (measured seconds) is missing (found gemm_dtype, m, n, k, latency_s)"


#: Kind, header, row, message.
KINDS = {
    "decode: more KV heads than heads": (
        "attention-decode",
        "batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype",
        "1,1,8,16,128,bfloat16",
        "line 2, column 'num_key_value_heads': expected at most num_heads of the same row, found '16'",
    ),
    "prefill: window below 0": (
        "attention-prefill",
        "batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,window_size",
        "1,1,8,8,128,bfloat16,-1",
        "line 2, column 'window_size': expected a whole number from 0 to 2^40, found '-1'",
    ),
    "prefill: cache of an unknown format": (
        "attention-prefill",
        "batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,kv_cache_dtype",
        "1,1,8,8,128,bfloat16,fp9",
        "line 2, column 'kv_cache_dtype': unknown number format 'fp9'",
    ),
    "moe: more experts per token than experts": (
        "moe",
        "num_tokens,hidden_size,inter_size,topk,num_experts,moe_dtype",
        "1,64,64,9,8,bfloat16",
        "line 2, column 'topk': expected at most num_experts of the same row, found '9'",
    ),
    "moe: no tensor parallelism at all": (
        "moe",
        "num_tokens,hidden_size,inter_size,topk,num_experts,moe_dtype,moe_tp_size",
        "1,64,64,2,8,bfloat16,0",
        "line 2, column 'moe_tp_size': expected a whole number from 1 to 2^40, found '0'",
    ),
    "moe: unknown distribution": (
        "moe",
        "num_tokens,hidden_size,inter_size,topk,num_experts,moe_dtype,distribution",
        "1,64,64,2,8,bfloat16,gaussian",
        "'gaussian'",
    ),
    "collective: unknown operation": (
        "collective",
        "num_gpus,message_size,dtype,operation",
        "2,1024,half,all_reduse",
        "unknown operation 'all_reduse'; did you mean 'all_reduce'",
    ),
    "scan: unknown kernel": (
        "scan",
        "batch_size,seq_len,d_conv,nheads,head_dim,n_groups,d_state,chunk_size,kernel_source",
        "1,1,4,8,64,1,128,256,mamba9",
        "'mamba9'",
    ),
    "scan: kernel of the other family": (
        "scan",
        "batch_size,seq_len,d_conv,num_k_heads,head_k_dim,num_v_heads,head_v_dim,kernel_source",
        "1,1,4,8,64,8,64,selective_state_update",
        "kernel_source 'selective_state_update' needs the columns nheads",
    ),
    "scan: no heads": ("scan", "batch_size,seq_len,d_conv,kernel_source", "1,1,4,causal_conv1d_fn", "column 'nheads' is missing"),
}


@pytest.mark.parametrize("case", KINDS)
def test_wrong_rows_of_other_kinds(case: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    kind, header, row, message = KINDS[case]
    table = tmp_path / "table.csv"
    table.write_text(f"{header}\n{row}\n")
    error = fails("ops", table, "--kind", kind, "--system", "a100-sxm-80gb", "-o", tmp_path / "out.csv")
    assert error.startswith(str(table))
    assert message in error


def test_wrong_arguments(tmp_path: Path, fails: Callable[..., str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"{HEADER}\n{ROW}\n")
    assert fails("ops", table, "--system", "h100-sxn") == "unknown system 'h100-sxn'; did you mean 'h100-sxm' or 'v100-sxm' or 'h200-sxm'?"
    assert fails("ops", table, "--system", "l4", "--kind", "gem") == "unknown kind of op table 'gem'; did you mean 'gemm'?"
    assert "column 'num_tokens' is missing" in fails("ops", table, "--system", "l4", "--kind", "moe")
    assert fails("ops", tmp_path / "none.csv", "--system", "l4").endswith("none.csv: cannot be read: No such file or directory")
    assert fails("ops", tmp_path, "--system", "l4").endswith("cannot be read: Is a directory")


@pytest.mark.parametrize("place", ["folder", "table.csv/out.csv", "table.csv/new/out.csv"])
def test_places_that_cannot_be_written(place: str, tmp_path: Path, fails: Callable[..., str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"{HEADER}\n{ROW}\n")
    (tmp_path / "folder").mkdir()
    assert f"{tmp_path / place}: cannot be written: " in fails("ops", table, "--system", "l4", "-o", tmp_path / place)


def test_a_device_is_not_replaced(tmp_path: Path, fails: Callable[..., str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f"{HEADER}\n{ROW}\n")
    assert fails("ops", table, "--system", "l4", "-o", "/dev/null") == "/dev/null: cannot be written: not a regular file"
    assert Path("/dev/null").is_char_device()


def test_an_error_keeps_the_old_output_and_leaves_no_new_folder(tmp_path: Path, fails: Callable[..., str]) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    table.write_text(f"{HEADER}\n{ROW}\nbfloat16,0,1,1,1\n")
    out.write_text("the old one\n")
    fails("ops", table, "--system", "l4", "-o", out)
    fails("ops", table, "--system", "l4", "-o", tmp_path / "new" / "folder" / "out.csv")
    fails("ops", table, "--system", "l4", "-o", table)
