"""Attention offloaded to other GPUs over a network (Lamina), against GPUs that run whole models.

Requests of a trace's mean lengths in a steady state: a request's context is its prompt and half of its answer. Memory decides the batch:
beside the weights on GPUs that run the whole model, alone on attention workers. A layer sends queries, keys and values to the attention
workers and takes their results back: 2 (2 h + 2 KV) bytes a request, over one network card a model worker, and one round trip.

Source: Chen et al., arXiv 2405.01814, version 2 (second hand); 400 Gb/s cards, 33.0 us a round trip and 45.7 GB/s with its own stack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from ...arch import System
from ...errors import CaseError
from ...workloads.requests import NAMED
from .registry import measures
from .serving import MEMORY_SHARE, llama_config, llama_step, sizes
from .simulated import step_time, tensor_parallel_step_time

#: Round trip in seconds and bandwidth of a network card between GPUs (Lamina, its own network stack).
ROUND_TRIP_S, CARD_BYTES_PER_S = 33.0e-6, 45.7e9
#: Requests that vLLM runs at once at most by default (max_num_seqs).
_MOST = 256
_STATISTICS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {"least": np.min, "mean": np.mean, "largest": np.max}


def context(trace: str) -> int:
    """Mean tokens in the cache of a request that decodes."""
    if trace not in NAMED:
        raise CaseError(f"trace {trace!r}: expected one of {', '.join(NAMED)}")
    prompt, answer = NAMED[trace]
    return round(prompt + answer / 2)


def batches(model: str, trace: str, gpu: System, attender: System, gpus: int, attenders: int) -> tuple[int, int]:
    """Requests at a time on whole GPUs, and with attention workers."""
    weights, cache = sizes(model)
    each = cache * context(trace)
    whole = int((MEMORY_SHARE * gpus * gpu.memory_bytes - weights) // each)
    return min(_MOST, max(1, whole)), max(1, int(MEMORY_SHARE * attenders * attender.memory_bytes // each))


def _step(model: str, gpu: System, devices: int, batch: int, keys: int, parts: tuple[str, ...] = ("products", "attention")) -> float:
    _, config = llama_config(model)
    graph = llama_step(model, devices, batch, 1, keys, parts)
    if devices == 1:
        return step_time(graph, gpu)
    return tensor_parallel_step_time(graph, devices, 2 * config["num_hidden_layers"], 2.0 * batch * config["hidden_size"], gpu, "vllm")


def token_s(model: str, trace: str, gpu: System, attender: System, workers: int, attenders: int, batch: int, stagger: bool) -> float:
    """Seconds between tokens of a batch; with `stagger` the batch is cut in two, one of them at the products while the other attends."""
    _, config = llama_config(model)
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    kv = config["num_key_value_heads"] * (hidden // config["num_attention_heads"])
    parts = 2 if stagger and batch > 1 else 1
    size, keys = -(-batch // parts), context(trace)
    products = _step(model, gpu, workers, size, keys, ("products",))
    attending = step_time(llama_step(model, attenders, size, 1, keys, ("attention",)), attender)
    network = layers * (ROUND_TRIP_S + 2.0 * size * (2 * hidden + 2 * kv) / (CARD_BYTES_PER_S * workers))
    alone = products + attending + network
    return max(alone, 2 * products, 2 * attending) if parts == 2 else alone


@measures.add("1")
def offload_gain(
    gpu: System, attender: System, models: str, traces: str, workers: list[int], attenders: list[int], gpus: list[int],
    stagger: bool = False, statistic: str = "mean",
) -> float:
    """Least, mean or largest gain in tokens a second, over models and traces, of attention workers over whole GPUs; 0.5 is half more."""
    if statistic not in _STATISTICS:
        raise CaseError(f"statistic {statistic!r}: expected one of {', '.join(_STATISTICS)}")
    gains = []
    for model, own, far, whole in zip(models.replace(" ", "").split(","), workers, attenders, gpus, strict=True):
        for trace in traces.replace(" ", "").split(","):
            plain, large = batches(model, trace, gpu, attender, whole, far)
            old = plain / _step(model, gpu, whole, plain, context(trace))
            gains.append(large / token_s(model, trace, gpu, attender, own, far, large, stagger) / old - 1.0)
    return float(_STATISTICS[statistic](gains))


@measures.add("1")
def offload_batch(gpu: System, attender: System, models: str, traces: str, attenders: list[int], gpus: list[int]) -> float:
    """Mean, over models and traces, of the batch with attention workers over that of whole GPUs."""
    ratios = []
    for model, far, whole in zip(models.replace(" ", "").split(","), attenders, gpus, strict=True):
        for trace in traces.replace(" ", "").split(","):
            plain, large = batches(model, trace, gpu, attender, whole, far)
            ratios.append(large / plain)
    return float(np.mean(ratios))
