"""Measures of CENT: Llama 2 on CXL devices of GDDR6-AiM, against GPUs that serve as large a batch as their memory holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...arch import AnySystem, System
from ...arch.hybrid_spec import HybridSystem
from ...errors import CaseError
from ...mapping.cent import Llama, Token, token
from ...workloads import OpGraph
from .registry import measures
from .serving import MEMORY_SHARE, llama_config, llama_step, sizes
from .simulated import _simulate, step_time, tensor_parallel_step_time

#: Tokens of a request, prompt and answer, and between two that are computed (CENT: 512 and 3,584, every 128th).
_PROMPT, _ALL, _STEP = 512, 4096, 128
_PHASES = {"prefill": (1, _PROMPT), "decode": (_PROMPT + 1, _ALL), "all": (1, _ALL)}


def _llama(name: str) -> Llama:
    _, config = llama_config(name)
    return Llama(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"], config["num_attention_heads"],
                 config["num_key_value_heads"], config["vocab_size"])


def _token(system: AnySystem, model: str, devices: int, keys: int, tensor: int) -> Token:
    if not isinstance(system, HybridSystem) or system.pim is None or system.pim.kernel != "aim":
        raise CaseError(f"{system.name}: expected a system with AiM units")
    return token(system.pim.device, _llama(model), devices, keys, tensor=tensor)


@measures.add("s")
def cent_block_time(system: AnySystem, model: str, devices: int, keys: int, tensor: int = 0) -> float:
    """Seconds of one block of a Llama in the banks of CENT's devices; `tensor`: devices that share its products; 0: the pipeline."""
    return _token(system, model, devices, keys, tensor).block_s


@measures.add("1")
def cent_tokens_per_s(system: AnySystem, model: str, devices: int, phase: str = "all") -> float:
    """Tokens a second of CENT's pipeline, the mean over contexts of every 128th token of 512 in and 3,584 out, as CENT averages."""
    return float(np.mean([t.tokens_per_s for t in _tokens(system, model, devices, phase)]))


def _tokens(system: AnySystem, model: str, devices: int, phase: str) -> list[Token]:
    if phase not in _PHASES:
        raise CaseError(f"phase {phase!r}: expected one of {', '.join(_PHASES)}")
    first, last = _PHASES[phase]
    return [_token(system, model, devices, keys, 0) for keys in range(_STEP, _ALL + 1, _STEP) if first <= keys <= last]


def gpu_batch(system: System, model: str, gpus: int) -> int:
    """Requests of 4,096 tokens whose caches fit beside the weights in the memory that vLLM takes."""
    weights, cache = sizes(model)
    return max(1, int((MEMORY_SHARE * gpus * system.memory_bytes - weights) // (cache * _ALL)))


def paged_step(model: str, gpus: int, requests: int, tokens: int, keys: int) -> OpGraph:
    """One GPU's share of a step under vLLM's own paged attention, which reads keys and values again for every query head of a group.

    Source: vLLM issue 1880 (its kernel "does not leverage the benefits of MQA/GQA"), issue 15351 (a thread block for each query head).
    """
    graph = llama_step(model, gpus, requests, tokens, keys)
    if tokens > 1:
        return graph
    ops = [replace(op, dims={**op.dims, "h": op.dims["h"] * op.dims["g"], "g": 1}) if op.kind == "attention" else op for op in graph]
    return OpGraph(graph.name, ops, [(u, v, d["tensor"]) for u, v, d in graph.nx.edges(data=True)], tokens=graph.tokens)


def gpu_seconds(system: System, model: str, gpus: int, phase: str, requests: int = 0) -> tuple[float, int]:
    """Seconds in which GPUs run a phase of a batch (0 requests: a full one), and the batch; prompts one after the other, each whole."""
    batch, m = requests or gpu_batch(system, model, gpus), _llama(model)

    def step(requests: int, tokens: int, keys: int) -> float:
        graph = paged_step(model, gpus, requests, tokens, keys)
        if gpus == 1:
            return step_time(graph, system)
        return tensor_parallel_step_time(graph, gpus, 2 * m.blocks, 2.0 * requests * tokens * m.hidden, system, "vllm")

    # Decode at the mean context of the answer's tokens.
    prefill_s = batch * step(1, _PROMPT, _PROMPT) if phase != "decode" else 0.0
    decode_s = (_ALL - _PROMPT) * step(batch, 1, (_PROMPT + _ALL) // 2) if phase != "prefill" else 0.0
    return prefill_s + decode_s, batch


@measures.add("1")
def cent_speedup(system: AnySystem, gpu: System, models: str, devices: list[int], gpus: list[int], phase: str = "all") -> float:
    """Geometric mean over models of CENT's tokens a second over those of GPUs with a full batch.

    `models` are names with a comma between; `devices` and `gpus` say how many of each a model takes.
    """
    names = models.replace(" ", "").split(",")
    if not len(names) == len(devices) == len(gpus):
        raise CaseError(f"models, devices, gpus: expected as many of each, found {len(names)}, {len(devices)}, {len(gpus)}")
    ratios = []
    for name, cent, count in zip(names, devices, gpus, strict=True):
        ours = cent_tokens_per_s(system, name, cent, phase)
        seconds, batch = gpu_seconds(gpu, name, count, phase)
        first, last = _PHASES[phase]
        ratios.append(ours / (batch * (last - first + 1) / seconds))
    return float(np.exp(np.mean(np.log(ratios))))


@measures.add("s")
def cent_gpu_query_time(gpu: System, model: str, gpus: int, requests: int) -> float:
    """Seconds in which GPUs serve so many requests of 512 tokens in and 3,584 out at once."""
    return gpu_seconds(gpu, model, gpus, "all", requests)[0]


@measures.add("J")
def cent_token_energy(system: AnySystem, model: str, devices: int, phase: str = "all") -> float:
    """Joules a token in CENT's memory: activates, all-bank products, open rows, controllers and PHYs; the mean of `cent_tokens_per_s`."""
    return float(np.mean([t.energy_j for t in _tokens(system, model, devices, phase)]))


@measures.add("1")
def cent_energy_ratio(system: AnySystem, gpu: System, models: str, devices: list[int], gpus: list[int]) -> float:
    """Geometric mean over models of the joules a token of GPUs in decode with a full batch over those of CENT's memory."""
    ratios = []
    for name, cent, count in zip(models.replace(" ", "").split(","), devices, gpus, strict=True):
        seconds, batch = gpu_seconds(gpu, name, count, "decode")
        step_s = seconds / (_ALL - _PROMPT)
        total = _simulate(paged_step(name, count, batch, 1, (_PROMPT + _ALL) // 2), gpu).total
        joules = count * (total.total_energy_j + max(0.0, step_s - total.time_s) * gpu.idle_w) / batch
        ratios.append(joules / cent_token_energy(system, name, cent, "decode"))
    return float(np.exp(np.mean(np.log(ratios))))
