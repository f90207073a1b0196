"""Op tables: how rows become kernels, row by row and whatever their order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from presilicon.arch import load
from presilicon.errors import TableError, UnknownNameError
from presilicon.validate.opfile import kind_of, read_table
from presilicon.validate.optable import KINDS, check, formats_of, kind_named, predict

MEASURED = Path(__file__).parents[3] / "shared" / "measured"

ATTENTION = {
    "batch_size": [1, 4],
    "isl": [1, 1],
    "num_heads": [32, 32],
    "num_key_value_heads": [8, 32],
    "head_dim": [128, 64],
    "attn_dtype": "bfloat16",
    "step": [4096, 63],
}
LATENT = {
    "mla_dtype": "bfloat16",
    "kv_cache_dtype": ["bfloat16", "fp8"],
    "num_heads": [64, 16],
    "batch_size": [1, 4],
    "isl": [1, 1],
    "step": [4096, 63],
}
TABLES = {
    "gemm": {"gemm_dtype": ["bf16", "fp8", "w4a16"], "m": [1, 512, 8], "n": [4096, 64, 128], "k": [4096, 64, 128]},
    "attention-decode": ATTENTION,
    "attention-prefill": ATTENTION | {"isl": [512, 100], "window_size": [0, 64]},
    "mla-decode": LATENT,
    "mla-prefill": LATENT | {"isl": [512, 100]},
    "encoder-attention": {k: v for k, v in ATTENTION.items() if k not in ("num_key_value_heads", "step")} | {"isl": [512, 100]},
    "moe": {"moe_dtype": "bf16", "num_tokens": [1, 4096], "hidden_size": 2048, "inter_size": 768, "topk": 8, "num_experts": 128},
    "collective": {"dtype": "half", "num_gpus": [2, 8], "message_size": [1024, 2**24], "operation": ["all_reduce", "all_gather"]},
    "scan": {
        "kernel_source": ["selective_state_update", "mamba_chunk_scan_combined", "causal_conv1d_fn"],
        "batch_size": [1, 2, 1],
        "seq_len": [1, 4096, 64],
        "d_conv": 4,
        "nheads": 64,
        "head_dim": 64,
        "n_groups": 8,
        "d_state": 128,
        "chunk_size": 256,
    },
}


@pytest.mark.parametrize("system", ["a100-sxm-80gb", "t4", "b200"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_on_every_generation(name: str, system: str) -> None:
    assert set(TABLES) == set(KINDS), "a new kind needs a table here"
    frame = pd.DataFrame(TABLES[name])
    kind = kind_named(name)
    out = predict(check(frame, kind, "t"), kind, load(system))
    assert np.all(
        (out["low_s"] > 0) & (out["low_s"] <= out["predicted_s"]) & (out["predicted_s"] <= out["high_s"]) & np.isfinite(out["high_s"])
    )
    assert all(out["limiter"])
    assert all(out["interval_key"])


@pytest.mark.parametrize("name", KINDS)
def test_a_row_does_not_depend_on_the_others(name: str) -> None:
    kind, system = kind_named(name), load("l40s")
    frame = check(pd.DataFrame(TABLES[name]), kind, "t")
    whole = predict(frame, kind, system)
    reverse = predict(frame.iloc[::-1], kind, system)
    for i in range(len(frame)):
        alone = predict(frame.iloc[[i]], kind, system)
        for column in whole:
            assert alone[column][0] == whole[column][i] == reverse[column][len(frame) - 1 - i], column


@pytest.mark.parametrize("name", [n for n in KINDS if n != "encoder-attention"])
def test_the_kind_is_told_from_the_columns(name: str) -> None:
    frame = pd.DataFrame(TABLES[name])
    if name == "collective":
        frame = frame.rename(columns={"dtype": "nccl_dtype"})
    assert kind_of(frame, "t").name == name


def test_columns_that_tell_nothing() -> None:
    with pytest.raises(TableError, match=r"t: cannot tell the kind of table from its columns \(a, b\); name it with --kind: gemm, "):
        kind_of(pd.DataFrame({"a": [1], "b": [2]}), "t")
    with pytest.raises(UnknownNameError, match="unknown kind of op table 'attention'; did you mean 'attention-"):
        kind_named("attention")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("bfloat16", ("bf16", 16, 16, False)),
        ("float16", ("fp16", 16, 16, False)),
        ("fp8", ("fp8", 8, 8, False)),
        ("fp8_block", ("fp8", 8.25, 8.25, False)),
        ("fp8_static", ("fp8", 8, 8, False)),
        ("int8_sq", ("int8", 8, 8, False)),
        ("int8_wo", ("bf16", 16, 8.125, True)),
        ("int4_wo", ("bf16", 16, 4.125, True)),
        ("w4a16", ("bf16", 16, 4.125, True)),
        ("w4a16_mxfp4", ("bf16", 16, 4.25, True)),
        ("nvfp4", ("fp4", 4.5, 4.5, False)),
    ],
)
def test_number_formats_of_tables(dtype: str, expected: tuple[str, float, float, bool]) -> None:
    assert formats_of(dtype) == expected


def test_weights_in_few_bits_pay_off_only_where_weights_are_what_moves() -> None:
    kind, system = kind_named("gemm"), load("a100-sxm-80gb")
    frame = pd.DataFrame({"gemm_dtype": ["bfloat16", "w4a16"] * 2, "m": [1, 1, 8192, 8192], "n": 8192, "k": 8192})
    wide, narrow, wide_large, narrow_large = predict(check(frame, kind, "t"), kind, system)["predicted_s"]
    assert narrow < 0.6 * wide
    assert narrow_large > 0.9 * wide_large


def test_an_arithmetic_that_the_gpu_lacks_runs_on_the_next_one() -> None:
    kind = kind_named("gemm")
    frame = check(pd.DataFrame({"gemm_dtype": ["fp8", "bfloat16"], "m": 4096, "n": 4096, "k": 4096}), kind, "t")
    for system in (load("v100-sxm"), load("a100-sxm-80gb")):
        fp8, bf16 = predict(frame, kind, system)["predicted_s"]
        assert 0.9 * bf16 < fp8 < 1.5 * bf16, "no faster arithmetic than 16 bit, and the activations are converted first"


@pytest.mark.parametrize(
    "name",
    [
        "a100_sxm.gemm",
        "l40s.gemm",
        "a100_sxm.context_attention",
        "l40s.generation_attention",
        "l40s.encoder_attention",
        "a100_sxm.moe_triton",
        "l40s.nccl",
        "a100_sxm.custom_allreduce",
        "a100_sxm.gdn",
        "l40s.mamba2",
    ],
)
def test_measured_tables_are_read(name: str) -> None:
    path = MEASURED / f"{name}.csv"
    if not path.exists():
        pytest.skip("needs the measured tables in ../shared/measured")
    table = read_table(path, None, "latency_s")
    part = table.rows(np.arange(0, len(table.frame), 50)) if table.kind.name != "collective" else table
    predicted = predict(part.frame, part.kind, load("a100-sxm-80gb" if name.startswith("a100") else "l40s"))["predicted_s"]
    assert np.median(np.abs(np.log(predicted / part.measured_s))) < 0.25
