"""Options that change the workload: parallelism and requests with their own lengths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from presilicon.workloads import OpGraph

DATA = Path(__file__).parents[1] / "data"
PREFILL, DECODE = DATA / "llama-3-8b.prefill.graph.json.gz", DATA / "llama-3-8b.decode.graph.json.gz"


@pytest.mark.slow
def test_predict_on_eight(run: Callable[..., Any], tmp_path: Path) -> None:
    outcome = run("predict", PREFILL, "--system", "h100-sxm", "--tp", 8, "--fidelity", "analytic", "--out", tmp_path)
    assert outcome.status == 0, outcome
    assert "8 x NVIDIA H100" in outcome.out
    assert "one of 8 devices (tp 8)" in outcome.out
    headline = json.loads(next(tmp_path.glob("*h100-sxm.json")).read_text())
    assert headline["devices"] == 8


def test_trace_saves_one_rank(run: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "rank.json"
    assert run("trace", DECODE, "-o", path, "--tp", 4, "--cp", 2).status == 0
    parallel = OpGraph.load(path).meta["parallel"]
    assert (parallel["tp"], parallel["cp"], parallel["devices"]) == (4, 2, 8)


@pytest.mark.slow
def test_zeros_in_the_weights(run: Callable[..., Any], tmp_path: Path) -> None:
    options = ("--fidelity", "analytic", "--quant", "w4a16", "--sparsity", "2:4", "--out", tmp_path)
    outcome = run("predict", DECODE, "--system", "h100-sxm", "--system", "t4", *options)
    assert outcome.status == 0, outcome
    assert "the tensor cores skip the zeros" in outcome.out
    assert "t4 has no sparse tensor cores" in " ".join(outcome.out.split())
    assert run("trace", DECODE, "-o", tmp_path / "pruned.json", "--sparsity", "unstructured:60%").status == 0
    graph = OpGraph.load(tmp_path / "pruned.json")
    assert graph.meta["sparsity"] == "unstructured:0.6"
    assert graph.memory.weights_bytes < 0.6 * OpGraph.load(DECODE).memory.weights_bytes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sparsity", "2.4"], "unknown sparsity scheme '2.4'"),
        (["--sparsity", "5:4"], "1 <= N < M"),
        (["--sparsity", "unstructured:1"], "above 0 and below 1"),
        (["--tp", "3"], "32 attention heads do not divide by --tp 3"),
        (["--tp", "8", "--pp", "2"], "16 devices, but its link joins 8"),
        (["--ep", "2", "--dp", "2"], "--ep 2: the graph has no grouped expert matmuls"),
        (["--microbatches", "2"], "give --pp"),
        (["--sequence-parallel"], "tp is 1"),
        (["--requests", "sharegpt"], "a saved graph has the batch that it was traced with"),
    ],
)
def test_mistakes(fails: Callable[..., str], options: list[str], words: str) -> None:
    assert words in fails("predict", PREFILL, "--system", "h100-sxm", *options)


def test_requests_need_a_decode_step(fails: Callable[..., str]) -> None:
    assert "--phase decode" in fails("predict", "llama-3-8b", "--system", "h100-sxm", "--requests", "sharegpt")


@pytest.mark.slow
def test_requests_share_the_memory(run: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,4000,1000\n1,8000,2000\n")
    model = ("predict", "llama-3.2-1b", "--phase", "decode", "--requests", trace, "--system", "l4", "--fidelity", "analytic")
    outcome = run(*model)
    assert outcome.status == 0, outcome
    assert "DOES NOT FIT" not in outcome.out
    two = run(*model, "--batch", 2)
    assert "batch 2" in two.out


@pytest.mark.slow
def test_tensor_parallel_is_the_number_of_a_hybrids_devices(run: Callable[..., Any], fails: Callable[..., str], tmp_path: Path) -> None:
    options = ("--fidelity", "analytic", "--out", tmp_path)
    found = []
    for more in (("--tp", 2), ("--set", "devices=2"), ()):
        assert run("predict", DECODE, "--system", "neupims", *more, *options).status == 0
        found.append(json.loads(next(tmp_path.glob("*neupims.json")).read_text()))
    assert found[0] == found[1] != found[2]
    # Beside a GPU, which gets the part of one rank.
    outcome = run("predict", DECODE, "--system", "neupims", "--system", "h100-sxm", "--tp", 2, "--fidelity", "analytic")
    assert outcome.status == 0, outcome
    assert "2 devices, each with its share" in outcome.out
    assert "one of 2 devices (tp 2)" in outcome.out
    assert "pp 2: a hybrid system shares every layer" in fails("predict", DECODE, "--system", "neupims", "--pp", 2)
    assert "give --pp" in fails("predict", DECODE, "--system", "neupims", "--microbatches", 2)


def test_placement_needs_a_hybrid(run: Callable[..., Any], fails: Callable[..., str]) -> None:
    assert "h100-sxm is none" in fails("predict", DECODE, "--system", "h100-sxm", "--place", "pim")
    assert run("predict", DECODE, "--system", "h100-sxm", "--system", "neupims", "--place", "xpu", "--fidelity", "analytic").status == 0
