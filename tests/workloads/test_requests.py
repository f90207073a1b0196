"""Requests with their own lengths, the batches that they make, and decode graphs of such batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.errors import TableError, UnknownNameError, WorkloadError
from presilicon.workloads import OpGraph
from presilicon.workloads.parallel import parallelise
from presilicon.workloads.ragged import with_contexts
from presilicon.workloads.requests import (
    NAMED,
    Batch,
    Requests,
    decode_batches,
    draw_requests,
    expert_tokens,
    find_requests,
    load_requests,
    prefill_batches,
    sample_decode_batch,
)

DECODE = Path(__file__).parents[1] / "data" / "llama-3-8b.decode.graph.json.gz"


@pytest.mark.parametrize(
    ("arrival", "prompt", "output", "words"),
    [
        ([0.0, -1.0], [1, 1], [1, 1], r"arrival_s\[1\] is -1"),
        ([0.0, 2.0, 1.0], [1] * 3, [1] * 3, r"arrival_s\[2\] = 1 is before arrival_s\[1\] = 2"),
        ([0.0], [0], [1], r"prompt_tokens\[0\] is 0"),
        ([0.0], [1], [0], r"output_tokens\[0\] is 0"),
        ([0.0], [1.5], [1], "whole number"),
        ([0.0, np.nan], [1, 1], [1, 1], r"arrival_s\[1\] is nan"),
        ([0.0], [1, 2], [1, 2], "1, 2 and 2 values"),
        ([], [], [], "there are none"),
        (["a"], [1], [1], "expected numbers"),
    ],
)
def test_bad_requests_are_named(arrival: list[float], prompt: list[float], output: list[float], words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        Requests(np.array(arrival), np.array(prompt), np.array(output))


def test_requests_cannot_be_changed() -> None:
    requests = Requests(np.array([0.0]), np.array([5]), np.array([7]))
    with pytest.raises(ValueError, match="read-only"):
        requests.prompt_tokens[0] = 1


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("arrival_s,prompt_tokens,output_tokens", "0,10,20\n1.5,30,40\n"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens", "0,10,20\n1.5,30,40\n"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03.0,10,20\n2023-11-16 18:17:04.5,30,40\n"),
    ],
)
def test_traces_under_their_usual_names(tmp_path: Path, header: str, rows: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{header}\n{rows}")
    found = load_requests(path)
    assert found.arrival_s.tolist() == [0.0, 1.5]
    assert found.prompt_tokens.tolist() == [10, 30]
    assert found.output_tokens.tolist() == [20, 40]


def test_parquet_traces(tmp_path: Path) -> None:
    import pandas as pd

    path = tmp_path / "trace.parquet"
    pd.DataFrame({"input_len": [3, 4], "output_len": [5, 6]}).to_parquet(path)
    found = find_requests(path)
    assert found.arrival_s.tolist() == [0.0, 0.0]
    assert found.total_tokens.tolist() == [8, 10]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("prompt_tokens\n3\n", TableError, "no column output_tokens; has prompt_tokens"),
        ("prompt,input,output\n1,2,3\n", TableError, "'prompt' and 'input' both mean prompt_tokens"),
        ("prompt,output\n1,x\n", WorkloadError, "output_tokens: expected numbers"),
        ("prompt,output\n", WorkloadError, "there are none"),
        ("arrival,prompt,output\n", WorkloadError, "there are none"),
        ("arrival,prompt,output\nlater,1,2\n", TableError, "neither seconds nor dates"),
        ("arrival,prompt,output\n2024-01-02 03:04:05,1,2\n3 May 2024 4 pm,1,2\n", TableError, "dates of one format"),
        ("prompt,prompt,output\n1,2,3\n", TableError, "'prompt' and 'prompt.1' both mean prompt_tokens"),
        ("prompt,output\nTrue,3\n", TableError, "expected prompt_tokens, found true and false"),
        ("arrival,prompt,output\n5,1,2\n3,1,2\n", WorkloadError, "sort the trace"),
        ("", TableError, "not a table"),
    ],
)
def test_bad_traces_name_the_file(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(error, match=words) as caught:
        find_requests(path)
    assert "trace.csv" in str(caught.value)


def test_absent_trace_and_unknown_name() -> None:
    with pytest.raises(TableError, match="cannot be read"):
        find_requests("/nowhere/trace.csv")
    with pytest.raises(UnknownNameError, match="'sharegpt'"):
        find_requests("sharegp")
    with pytest.raises(WorkloadError, match="PROMPT:OUTPUT"):
        find_requests("fixed:a:b")


@pytest.mark.parametrize("name", NAMED)
def test_named_traces_have_their_published_means(name: str) -> None:
    prompt, output = NAMED[name]
    found = draw_requests(100_000, prompt, output, seed=1)
    assert found.prompt_tokens.mean() == pytest.approx(prompt, rel=0.03)
    assert found.output_tokens.mean() == pytest.approx(output, rel=0.03)


def test_distributions_and_arrivals() -> None:
    fixed = find_requests("fixed:100:20", count=3)
    assert fixed.total_tokens.tolist() == [120] * 3
    uniform = draw_requests(50_000, 100, 20, distribution="uniform")
    assert (uniform.prompt_tokens.min(), uniform.prompt_tokens.max()) == (1, 199)
    poisson = draw_requests(50_000, 1, 1, distribution="fixed", rate_per_s=8.0)
    assert poisson.arrival_s[-1] == pytest.approx(50_000 / 8, rel=0.02)
    again = draw_requests(50, 80, 296, seed=3)
    assert np.array_equal(again.output_tokens, draw_requests(50, 80, 296, seed=3).output_tokens)
    assert not np.array_equal(again.output_tokens, draw_requests(50, 80, 296, seed=4).output_tokens)


def test_steady_state_meets_long_answers_more_often() -> None:
    # request A decodes once, B 99 times: of 100 decode steps 99 are B's, over contexts 10 ... 108
    requests = Requests(np.array([0.0, 0.0]), np.array([5000, 10]), np.array([2, 100]))
    contexts = sample_decode_batch(requests, 100_000, seed=0).contexts
    assert np.mean(contexts == 5000) == pytest.approx(0.01, abs=0.002)
    short = contexts[contexts < 5000]
    assert (short.min(), short.max()) == (10, 108)
    assert short.mean() == pytest.approx(59.0, abs=0.5)
    with pytest.raises(WorkloadError, match="none decodes"):
        sample_decode_batch(Requests(np.array([0.0]), np.array([5]), np.array([1])), 4)


@given(st.integers(1, 40), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_batches_fit_the_memory(times: int, seed: int) -> None:
    requests = draw_requests(200, 80, 296, seed=seed)
    capacity = float(requests.total_tokens.max()) * times * 16.0
    for batch in decode_batches(requests, capacity, 16.0, max_batch=64, samples=3, reserve="current", seed=seed):
        assert 1 <= len(batch) <= 64
        assert (batch.contexts + 1).sum() * 16.0 <= capacity


def test_reserving_the_end_admits_fewer() -> None:
    requests = draw_requests(500, 80, 296, seed=0)
    now = decode_batches(requests, 2e6, 16.0, reserve="current")
    final = decode_batches(requests, 2e6, 16.0, reserve="final")
    assert sum(map(len, final)) < sum(map(len, now))


def test_what_windows_forget_takes_no_room() -> None:
    requests = Requests(np.zeros(3), [1000, 5000, 9000], [100, 100, 100])
    whole = decode_batches(requests, 1e6, 1.0, max_batch=1000, samples=1)[0]
    half = decode_batches(requests, 1e6, 1.0, max_batch=1000, samples=1, kept=lambda n: (n + np.minimum(n, 500)) / 2)[0]
    # Half of the layers keep 500 tokens of each: where all would keep 5,100 on average, 2,800 are kept.
    assert len(half) / len(whole) == pytest.approx(5100 / 2800, rel=0.05)
    with pytest.raises(WorkloadError, match="request 2 needs a cache"):
        decode_batches(requests, 4000.0, 1.0, samples=1, kept=lambda n: (n + np.minimum(n, 500)) / 2)


def test_a_request_longer_than_the_memory() -> None:
    requests = Requests(np.array([0.0, 0.0]), np.array([10, 900]), np.array([10, 101]))
    with pytest.raises(WorkloadError, match="request 1 needs a cache of 1001 tokens, and the memory holds 1000"):
        decode_batches(requests, 1000 * 8.0, 8.0)


def test_prefill_keeps_order_and_budget() -> None:
    requests = Requests(np.zeros(4), np.array([60, 30, 20, 500]), np.ones(4))
    assert [b.contexts.tolist() for b in prefill_batches(requests, 100)] == [[60, 30], [20], [500]]
    assert prefill_batches(requests, 100)[0].tokens == 90


@pytest.mark.parametrize("distribution", ["balanced", "uniform", "power_law_1.2", "zipf_1.0"])
@pytest.mark.parametrize(("tokens", "experts", "topk"), [(1, 8, 2), (100, 8, 2), (5000, 64, 6), (7, 128, 8)])
def test_experts_get_every_choice_once(distribution: str, tokens: int, experts: int, topk: int) -> None:
    counts = expert_tokens(tokens, experts, topk, distribution=distribution, seed=5)
    assert counts.shape == (experts,)
    assert counts.sum() == tokens * topk
    assert 0 <= counts.min() <= counts.max() <= tokens


def test_routing_gets_more_uneven() -> None:
    heaviest = [expert_tokens(4096, 64, 4, distribution=d, seed=0).max() for d in ("balanced", "uniform", "zipf_1.0")]
    assert heaviest == sorted(heaviest)
    assert heaviest[0] == 256
    with pytest.raises(UnknownNameError, match="zipf"):
        expert_tokens(4, 4, 2, distribution="zip_1")
    with pytest.raises(WorkloadError, match="topk 5 of 4"):
        expert_tokens(4, 4, 5)


@pytest.fixture(scope="module")
def decode() -> OpGraph:
    return OpGraph.load(DECODE)


def test_equal_contexts_are_the_traced_batch(decode: OpGraph) -> None:
    same = with_contexts(decode, [decode.meta["context"]] * decode.meta["batch"])
    assert same.flops == decode.flops
    assert same.memory == decode.memory
    assert [op.bytes_read for op in same] == [op.bytes_read for op in decode]


def test_ragged_attention_is_a_sum_over_requests(decode: OpGraph) -> None:
    batch, context = decode.meta["batch"], decode.meta["context"]
    contexts = np.random.default_rng(0).integers(1, 2 * context, batch)
    ragged = with_contexts(decode, contexts)
    for op in decode:
        mine = ragged[op.name]
        if op.kind == "attention":
            assert mine.flops * batch * (context + 1) == pytest.approx(op.flops * (contexts + 1).sum())
            key = next(o for o in mine.operands if o.name == "k")
            assert mine.elements(key) == (contexts + 1).sum() * 8 * 128
        else:
            assert mine == op
    assert ragged.memory.kv_cache_bytes == pytest.approx(decode.memory.kv_cache_bytes * (contexts + 1).mean() / (context + 1))


def test_ragged_batches_split_over_ranks(decode: OpGraph) -> None:
    batch = decode.meta["batch"]
    ragged = with_contexts(decode, range(100, 100 + batch))
    heads = parallelise(ragged, tp=8)
    attention = next(op for op in heads if op.kind == "attention")
    assert attention.flops * 8 == ragged[attention.name].flops
    if batch % 2 == 0:
        half = parallelise(ragged, dp=2)[attention.name].attributes["kv_lengths"]
        assert half == [n + 1 for n in range(100, 100 + batch)][::-1][::2]


def test_what_cannot_be_ragged(decode: OpGraph) -> None:
    prefill = OpGraph.load(DECODE.with_name("llama-3-8b.prefill.graph.json.gz"))
    with pytest.raises(WorkloadError, match="decode step"):
        with_contexts(prefill, [1])
    with pytest.raises(WorkloadError, match="contexts, but the step decodes"):
        with_contexts(decode, [1] * (decode.meta["batch"] + 1))
    with pytest.raises(WorkloadError, match="before the graph is split"):
        with_contexts(parallelise(decode, tp=2), [1] * decode.meta["batch"])
    with pytest.raises(WorkloadError, match=r"contexts\[0\] is 0"):
        Batch(np.array([0]))
