"""Fused mixture-of-experts rows as launches of our Triton kernels, and their errors on measured tables."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("llvmlite")  # a pure Python run of as many instructions takes an hour

from presilicon import arch
from presilicon.errors import TableError
from presilicon.validate import moe_configs, moe_routing, moe_rows, triton_moe, triton_tables
from presilicon.validate.kernels import moe

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "measured"
A100, L40S = MEASURED / "a100_sxm.moe_triton.csv", MEASURED / "l40s.moe_triton.csv"
needs_tables = pytest.mark.skipif(not A100.is_file(), reason="measured tables are not beside the project (../shared/measured)")
HEAD = ("framework,version,kernel_source,moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,"
        "distribution,latency_s\n")


def row(**changes: object) -> moe_rows.MoeRow:
    values = {"framework": "sglang", "version": "0.5.10", "moe_dtype": "bfloat16", "tokens": 64, "hidden": 1024, "inter": 512, "top_k": 4,
              "experts": 32, "tp": 1, "ep": 1, "distribution": "power_law_1.2", "measured_s": 1e-4}
    return moe_rows.MoeRow(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("tokens", "experts", "top_k", "ep"), [(1, 8, 2, 1), (64, 32, 4, 4), (3, 128, 8, 8), (4096, 16, 4, 2)])
def test_expert_counts(tokens: int, experts: int, top_k: int, ep: int) -> None:
    for seed in range(3):
        counts = moe_routing.expert_counts(tokens, experts, top_k, ep, 1.01, seed)
        assert counts.sum() == tokens * top_k
        assert counts.min() >= 0
        assert counts.max() <= tokens
        ranks = counts.reshape(ep, -1).sum(1)
        assert ranks[0] == ranks.max()


def test_power_law_is_uneven_and_balanced_is_even() -> None:
    counts = moe_routing.expert_counts(4096, 64, 8, 1, 1.2, seed=0)
    assert counts.max() > 4 * np.median(counts)
    even = moe_routing.routing_of(row(distribution="balanced"), 16)
    assert set(np.bincount(even.experts_of.reshape(-1))) == {8}


@pytest.mark.parametrize("distribution", ["balanced", "power_law_1.2"])
def test_pairs_are_aligned_as_the_kernels_own_routine_does(distribution: str) -> None:
    routing = moe_routing.routing_of(row(distribution=distribution), 16)
    ids, of_block, used = moe_routing.align_pairs(routing, 16, 32)
    wanted, wanted_of, wanted_used = moe.align(routing.experts_of, 32, 16)
    assert used == wanted_used == 16 * moe_routing.row_blocks(routing, 16)
    assert ids.tolist() == wanted.tolist()
    assert of_block[:used // 16].tolist() == wanted_of[:used // 16].tolist()


def test_pairs_of_experts_elsewhere() -> None:
    masked = moe_routing.routing_of(row(ep=4, framework="vllm", version="0.24.0"), 16)
    assert len(masked.experts_of) == 64  # all tokens are here
    flat = masked.experts_of.reshape(-1)
    ids, _, used = moe_routing.align_pairs(masked, 16, 8)
    assert sorted(ids[ids < len(flat)]) == np.flatnonzero(flat >= 0).tolist()
    assert used < len(flat)
    computed = moe_routing.routing_of(row(ep=4), 16)  # only tokens with a local expert, and all of their pairs
    assert computed.experts_of.min() == 0
    assert computed.active <= 8


def test_a_table_without_a_column_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a100_sxm.moe_triton.csv"
    path.write_text(HEAD.replace(",topk", ""))
    with pytest.raises(TableError, match="topk"):
        moe_rows.read_rows(path)


def test_a_table_of_other_formats_has_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "l40s.moe_triton.csv"
    path.write_text(HEAD + "trtllm,1.0,x,nvfp4,8,1024,512,2,8,1,1,balanced,1e-4\n")
    with pytest.raises(TableError, match="no row can be predicted"):
        triton_tables.moe_errors(path, arch.load("l40s"))


@pytest.mark.slow
def test_small_layer_and_its_page(tmp_path: Path) -> None:
    path = tmp_path / "a100_sxm.moe_triton.csv"
    line = "sglang,0.5.10,sglang_fused_moe_triton,bfloat16,{},1024,512,2,8,1,1,balanced,{}\n"
    path.write_text(HEAD + line.format(4, 5e-5) + line.format(512, 9e-5))
    found = triton_tables.moe_errors(path, arch.load("a100-sxm-80gb"))
    assert found.frame.tile.tolist() == ["16x32x64x1x4x3", "64x64x32x8x4x3"]  # at most as many tokens as experts, and more
    assert (found.frame.gemms_s + found.frame.others_s).tolist() == pytest.approx(found.frame.predicted_s.tolist())
    assert np.isnan(found.rank_correlation)  # of two points
    page = triton_tables.moe_page([found])
    assert "| a100_sxm.moe_triton.csv | a100-sxm-80gb | tile | 2 |" in page
    assert "Worst rows" in page


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 160, 8), (3, 8, 2), (300, 8, 2), (64, 384, 8)])
def test_every_token_goes_to_as_many_experts_as_it_names(early: bool, tokens: int, experts: int, top_k: int) -> None:
    version = "0.14.0" if early else "0.24.0"
    chosen = moe_routing.chosen_experts(row(framework="vllm", version=version, tokens=tokens, experts=experts, top_k=top_k), seed=1)
    assert chosen.shape == (tokens, top_k)
    if early:  # of the later rule the counts are capped, which a table of experts by column keeps apart
        assert all(len(set(experts_of)) == top_k for experts_of in chosen.tolist())
    assert chosen.min() >= 0
    assert chosen.max() < experts


def test_early_tables_give_what_is_missing_to_the_most_loaded() -> None:
    counts = moe_routing.early_counts(8, 384, 8, 4, 1.01, seed=0)
    shares = moe_routing._drawn_counts(8, 384, 8, 1.01, seed=0)
    assert counts.sum() == 64
    assert sorted(counts)[:-64] == [0] * 320
    assert (shares.sum() > 64) == (np.count_nonzero(counts) < np.count_nonzero(shares))
    few = moe_routing.early_counts(1, 160, 8, 32, 1.01, seed=0)  # all shares round to nothing: the first experts, of which a rank has five
    assert np.flatnonzero(few).tolist() == list(range(8))


@pytest.mark.parametrize(("framework", "version", "kind", "tokens", "tile"), [
    ("vllm", "0.14.0", "float16", 8, "16 32 64 1 4 3"), ("vllm", "0.14.0", "fp8", 64, "64 64 32 8 4 3"),
    ("vllm", "0.14.0", "fp8_block", 8, "64 128 128 32 4 3"), ("vllm", "0.24.0", "fp8", 64, "32 64 128 1 4 3"),
    ("sglang", "0.5.8.post1", "float16", 64, "64 64 32 8 4 3"), ("sglang", "0.5.8", "fp8", 8, "64 128 128 1 4 4")])
def test_default_tiles_by_version(framework: str, version: str, kind: str, tokens: int, tile: str) -> None:
    found = moe_rows.default_of(row(framework=framework, version=version, moe_dtype=kind, experts=8), tokens)
    assert " ".join(str(int(value)) for value in dataclasses.astuple(found)) == tile


def test_what_early_collectors_drove() -> None:
    nemotron = {"hidden": 2688, "inter": 1856, "top_k": 6, "experts": 128, "framework": "vllm"}
    assert row(version="0.14.0", **nemotron).gated  # every layer had gate and up
    assert not row(version="0.24.0", **nemotron).gated
    sglang = {"framework": "sglang", "moe_dtype": "fp8_block"}
    assert row(**sglang, version="0.5.10").block_scaled
    assert not row(**sglang, version="0.5.10", inter=1856).block_scaled  # no multiple of 128: one scale for an expert
    assert not row(**sglang, version="0.5.8.post1").block_scaled  # of early 2026: never
    assert row(version="0.14.0", framework="vllm", moe_dtype="fp8_block").block_scaled
    assert moe_rows.default_of(row(**sglang, version="0.5.8.post1"), 4096).n == 256


def test_weights_outlast_a_call_as_far_as_l2_goes() -> None:
    l40s = arch.load("l40s")

    def held(**changed: int) -> float:
        made = row(distribution="balanced", tokens=16, **changed)
        return triton_moe.held_share(made, moe_routing.routing_of(made, 16), l40s, made.inter // made.tp)

    # 32 experts of 1,024 x 64, three matrices of two bytes, are 13 MB of 101; of 4,096 x 2,048, 1.6 GB
    assert held(inter=64) == 1.0
    assert held(hidden=4096, inter=2048) == 0.0
    sizes = [held(hidden=4096, inter=inter) for inter in (96, 128, 136, 144, 160)]  # 75, 101, 107, 113 and 126 MB of weights
    assert sizes == sorted(sizes, reverse=True)
    assert 0.3 < sizes[2] < 0.7
    assert sizes[0] == 1.0
    assert sizes[-1] == 0.0


def test_experts_that_some_calls_leave_out_come_back_later() -> None:
    # one token draws 4 of 32 experts of 4.7 MB, a call of 19 MB in an L2 of 42; until an expert is drawn again, others are
    few = row(tokens=1, hidden=4096, inter=192, distribution="power_law_1.2")
    routing = moe_routing.routing_of(few, 16)
    a100 = arch.load("a100-sxm-80gb")
    again = dataclasses.replace(few, distribution="balanced")
    alone = triton_moe.held_share(again, moe_routing.routing_of(again, 16), a100, few.inter)
    assert alone == 1.0
    assert triton_moe.held_share(few, routing, a100, few.inter) < 0.9
    assert triton_moe.held_share(dataclasses.replace(few, in_turn=1), routing, a100, few.inter) == 1.0


def tuned_file(folder: Path, gpu: str = "NVIDIA_A100-SXM4-80GB", rest: str = "", stages: int | None = 4, block: int = 32) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"E=8,N=512,device_name={gpu}{rest}.json"
    base = {"BLOCK_SIZE_M": 16, "BLOCK_SIZE_N": block, "BLOCK_SIZE_K": 64, "GROUP_SIZE_M": 1}
    launch = {} if stages is None else {"num_warps": 8, "num_stages": stages}
    path.write_text(json.dumps({"triton_version": "3.4.0", "1": base, "64": {**base, "BLOCK_SIZE_M": 64, **launch}}))
    return path


def test_tuned_file_of_the_nearest_number_of_tokens(tmp_path: Path) -> None:
    tuned_file(tmp_path / "vllm" / "configs")
    tuned_file(tmp_path / "sglang" / "configs" / "triton_3_1_0", block=128)
    tuned_file(tmp_path / "sglang" / "configs" / "triton_3_4_0", block=256)
    tuned_file(tmp_path / "vllm" / "configs", "NVIDIA_H200", ",dtype=fp8_w8a8,block_shape=[128, 128]")
    configs = moe_configs.read_tuned(tmp_path)
    near = configs.find("vllm", "a100-sxm-80gb", 8, 512, 32, "float16")
    assert near is not None
    assert (near.m, near.n, near.warps, near.stages) == (16, 32, 4, 3)  # 32 is nearer to 1 than to 64; Triton's own warps and stages
    far = configs.find("sglang", "a100-sxm-80gb", 8, 512, 10_000, "bfloat16")
    assert far is not None
    assert (far.m, far.n, far.warps, far.stages) == (64, 256, 8, 4)  # the newest Triton's
    assert configs.find("vllm", "a100-sxm-80gb", 8, 256, 32, "float16") is None
    assert configs.find("vllm", "a100-sxm-80gb", 8, 512, 32, "fp8") is None
    assert configs.find("vllm", "h200-sxm", 8, 512, 32, "fp8_block") is not None


def test_folders_without_or_with_contradicting_tuned_files(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no tuned config file"):
        moe_configs.read_tuned(tmp_path)
    tuned_file(tmp_path / "vllm-1" / "configs")
    tuned_file(tmp_path / "vllm-2" / "configs")
    assert len(moe_configs.read_tuned(tmp_path).files) == 1  # two of the same contents
    tuned_file(tmp_path / "vllm-2" / "configs", block=64)
    with pytest.raises(TableError, match="one version of each framework"):
        moe_configs.read_tuned(tmp_path)


@pytest.mark.parametrize(("text", "message"), [
    ("[1, 2]", "not a file of configs"), ("{", "not a file of configs"), ("{}", "no config"), ('{"few": {}}', "not a file of configs"),
    ('{"8": {"BLOCK_SIZE_M": 16}}', "has no BLOCK_SIZE_N"), ('{"8": 3}', "not a file of configs")])
def test_a_file_that_no_framework_wrote_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "E=8,N=512,device_name=NVIDIA_L40S.json"
    path.write_text(text)
    with pytest.raises(TableError, match=message):
        moe_configs.read_configs(path)


@pytest.mark.slow
def test_rows_of_tuned_shapes_take_the_frameworks_config(tmp_path: Path) -> None:
    tuned_file(tmp_path / "configs")
    path = tmp_path / "a100_sxm.moe_triton.csv"
    path.write_text(HEAD + "".join(f"vllm,0.14.0,vllm_fused_moe,float16,64,1024,{inter},2,8,1,1,balanced,9e-5\n" for inter in (512, 1024)))
    found = triton_tables.moe_errors(path, arch.load("a100-sxm-80gb"), configs=moe_configs.read_tuned(tmp_path)).frame
    assert dict(zip(found.inter, found.tile, strict=True)) == {512: "64x32x64x1x8x4", 1024: "64x64x32x8x4x3"}
    assert dict(zip(found.inter, found.config, strict=True)) == {512: "the framework's tuned file", 1024: "the framework's default"}


@pytest.mark.slow
def test_scales_by_block_in_the_interpreter() -> None:
    code = """
import torch
from presilicon.validate.kernels import moe
g = torch.Generator().manual_seed(0)
m, n, k, top_k, experts, side = 8, 96, 64, 2, 3, 32
a, b = torch.randn(m, k, generator=g), torch.randn(experts, n, k, generator=g)
a_scale, b_scale = torch.rand(m, k // side, generator=g), torch.rand(experts, n // side, k // side, generator=g)
chosen = torch.stack([torch.randperm(experts, generator=g)[:top_k] for _ in range(m)])
ids, of_block, used = (torch.as_tensor(part) for part in moe.align(chosen.numpy(), experts, 16))
wide = a_scale.repeat_interleave(side, 1), b_scale.repeat_interleave(side, 1).repeat_interleave(side, 2)
want = torch.stack([(a * wide[0])[t] @ (b * wide[1])[e].T for t in range(m) for e in chosen[t].tolist()])
for block_n, columns in ((32, False), (32, True), (16, False), (64, True)):
    out = torch.empty(m * top_k, n)
    grid = (len(ids) // 16 * -(-n // block_n),)
    moe.moe_matmul[grid](a, b, out, a_scale, b_scale, None, ids, of_block, used.reshape(1), n, k, m * top_k, k, n * k, k, n, BLOCK_M=16,
                         BLOCK_N=block_n, BLOCK_K=16, GROUP_M=1, TOP_K=top_k, WEIGHTED=False, SCALED=True, EVEN_K=True, CAPACITY=len(ids),
                         SCALE_BLOCK=side, SCALE_COLUMNS=columns)
    print((out - want).abs().max().item() < 1e-4)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})
    assert done.stdout.split() == ["True"] * 4, done.stderr


@needs_tables
def test_sample_has_its_share_of_every_size() -> None:
    rows = moe_rows.read_rows(A100)
    some = moe_rows.sample(rows, 100)
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


def test_rows_of_other_kernels_are_left_out(tmp_path: Path) -> None:
    sources = ("sglang_fused_moe_triton", "vllm_fused_moe", "moe_torch_flow", "flashinfer_cutlass_fused_moe")
    lines = [f"sglang,0.5.10,{source},bfloat16,64,1024,512,4,32,1,1,balanced,{n}e-4\n" for n, source in enumerate(sources, 1)]
    path = tmp_path / "h100_sxm.moe.csv"
    path.write_text(HEAD + "".join(lines))
    assert [found.measured_s for found in moe_rows.read_rows(path)] == [1e-4, 2e-4]
