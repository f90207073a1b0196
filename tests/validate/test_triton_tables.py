"""Fused mixture-of-experts rows as launches of our Triton kernels, and their errors on measured tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("llvmlite")  # a pure Python run of as many instructions takes an hour

from presilicon import arch
from presilicon.errors import TableError
from presilicon.validate import triton_moe, triton_tables
from presilicon.validate.kernels import moe

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "measured"
A100, L40S = MEASURED / "a100_sxm.moe_triton.csv", MEASURED / "l40s.moe_triton.csv"
needs_tables = pytest.mark.skipif(not A100.is_file(), reason="measured tables are not beside the project (../shared/measured)")
HEAD = ("framework,version,kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,"
        "distribution,latency_s\n")


def row(**changes: object) -> triton_moe.MoeRow:
    values = {"framework": "sglang", "version": "0.5.10", "moe_dtype": "bfloat16", "tokens": 64, "hidden": 1024, "inter": 512, "top_k": 4,
              "experts": 32, "tp": 1, "ep": 1, "distribution": "power_law_1.2", "measured_s": 1e-4}
    return triton_moe.MoeRow(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("tokens", "experts", "top_k", "ep"), [(1, 8, 2, 1), (64, 32, 4, 4), (3, 128, 8, 8), (4096, 16, 4, 2)])
def test_expert_counts(tokens: int, experts: int, top_k: int, ep: int) -> None:
    for seed in range(3):
        counts = triton_moe.expert_counts(tokens, experts, top_k, ep, 1.01, seed)
        assert counts.sum() == tokens * top_k
        assert counts.min() >= 0
        assert counts.max() <= tokens
        ranks = counts.reshape(ep, -1).sum(1)
        assert ranks[0] == ranks.max()


def test_power_law_is_uneven_and_balanced_is_even() -> None:
    counts = triton_moe.expert_counts(4096, 64, 8, 1, 1.2, seed=0)
    assert counts.max() > 4 * np.median(counts)
    even = triton_moe.routing_of(row(distribution="balanced"), 16)
    assert set(np.bincount(even.experts_of.reshape(-1))) == {8}


@pytest.mark.parametrize("distribution", ["balanced", "power_law_1.2"])
def test_pairs_are_aligned_as_the_kernels_own_routine_does(distribution: str) -> None:
    routing = triton_moe.routing_of(row(distribution=distribution), 16)
    ids, of_block, used = triton_moe.align_pairs(routing, 16, 32)
    wanted, wanted_of, wanted_used = moe.align(routing.experts_of, 32, 16)
    assert used == wanted_used == 16 * triton_moe.row_blocks(routing, 16)
    assert ids.tolist() == wanted.tolist()
    assert of_block[:used // 16].tolist() == wanted_of[:used // 16].tolist()


def test_pairs_of_experts_elsewhere() -> None:
    masked = triton_moe.routing_of(row(ep=4, framework="vllm", version="0.24.0"), 16)
    assert len(masked.experts_of) == 64  # all tokens are here
    flat = masked.experts_of.reshape(-1)
    ids, _, used = triton_moe.align_pairs(masked, 16, 8)
    assert sorted(ids[ids < len(flat)]) == np.flatnonzero(flat >= 0).tolist()
    assert used < len(flat)
    computed = triton_moe.routing_of(row(ep=4), 16)  # only tokens with a local expert, and all of their pairs
    assert computed.experts_of.min() == 0
    assert computed.active <= 8


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a100_sxm.moe_triton.csv"
    path.write_text(HEAD.replace(",topk", ""))
    with pytest.raises(TableError, match="topk"):
        triton_moe.read_rows(path)


def test_a_table_of_other_formats_has_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "l40s.moe_triton.csv"
    path.write_text(HEAD + "vllm,0.24.0,x,fp8_block,8,1024,512,2,8,1,1,balanced,1e-4\n")
    with pytest.raises(TableError, match="no row can be predicted"):
        triton_tables.moe_errors(path, arch.load("l40s"))


def test_small_layer_and_its_page(tmp_path: Path) -> None:
    path = tmp_path / "a100_sxm.moe_triton.csv"
    line = "sglang,0.5.10,x,bfloat16,{},1024,512,2,8,1,1,balanced,{}\n"
    path.write_text(HEAD + line.format(4, 5e-5) + line.format(512, 9e-5))
    found = triton_tables.moe_errors(path, arch.load("a100-sxm-80gb"))
    assert found.frame.tile.tolist() == ["16x32x64x1x4x3", "64x64x32x8x4x3"]  # at most as many tokens as experts, and more
    assert (found.frame.gemms_s + found.frame.others_s).tolist() == pytest.approx(found.frame.predicted_s.tolist())
    assert found.rank_correlation == pytest.approx(1.0)
    page = triton_tables.moe_page([found])
    assert "| a100_sxm.moe_triton.csv | a100-sxm-80gb | tile | 2 |" in page
    assert "Worst rows" in page


@needs_tables
def test_sample_has_its_share_of_every_size() -> None:
    rows = triton_moe.read_rows(A100)
    some = triton_moe.sample(rows, 100)
    assert len(set(some)) == 100
    small = np.mean([r.tokens <= 64 for r in rows])
    assert np.mean([r.tokens <= 64 for r in some]) == pytest.approx(small, abs=0.02)
    assert {r.experts for r in some} == {r.experts for r in rows}


@needs_tables
@pytest.mark.exhaustive
@pytest.mark.parametrize(("path", "system"), [(A100, "a100-sxm-80gb"), (L40S, "l40s")])
def test_measured_rows_without_fitting(path: Path, system: str) -> None:
    found = triton_tables.moe_errors(path, arch.load(system), rows=40)
    assert not found.refused
    assert found.rank_correlation >= 0.95
    assert found.median < 0.35  # the aim is 0.25; see docs/accuracy.md
