"""The GPU of CENT's case: vLLM's own attention kernel reads the cache of a group for each of its query heads."""

from __future__ import annotations

import pytest

from presilicon.arch import load_gpu
from presilicon.validate.cases.cent import cent_gpu_query_time, paged_step
from presilicon.validate.cases.serving import llama_step


@pytest.mark.parametrize(("model", "gpus", "times"), [("llama-2-7b", 1, 1), ("llama-2-70b", 4, 8)])
def test_grouped_caches_are_read_for_every_query_head(model: str, gpus: int, times: int) -> None:
    shared, paged = (next(op for op in step(model, gpus, 4, 1, 1000) if op.kind == "attention") for step in (llama_step, paged_step))
    assert paged.operand_bytes("cache") == times * shared.operand_bytes("cache")
    assert paged.flops == shared.flops
    prompt = [step(model, gpus, 1, 512, 512) for step in (llama_step, paged_step)]
    assert prompt[0].flops == prompt[1].flops


def test_more_requests_take_longer_and_serve_more() -> None:
    gpu = load_gpu("a100-sxm-80gb")
    times = [cent_gpu_query_time(gpu, "llama-2-70b", 4, requests) for requests in (1, 16, 128)]
    assert times == sorted(times)
    assert times[2] < 128 * times[0]
