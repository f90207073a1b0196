"""Workloads and measures of systems that mix a processor with processing in memory."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

import numpy as np

from ...arch import AnySystem
from ...arch.hybrid_spec import HybridSystem, NpuSide
from ...errors import CaseError
from ...workloads import Op, OpGraph, tensor
from ...workloads.requests import NAMED, Requests, sample_decode_batch
from .registry import measures

#: Median prompt and output tokens of ShareGPT (NeuPIMs' tokenised dump: 391,726 pairs, medians 17 and 261); a log-normal of that mean and
#: median stands for it. Alpaca's medians are not public; its lengths take the same shape.
_SHAPE = {"sharegpt": (17.0, 261.0), "alpaca": (12.1 * 17.0 / 80.3, 55.8 * 261.0 / 295.0)}
_MEANS = {"sharegpt": (80.3, 295.0), "alpaca": (12.1, 55.8)}
#: Longest context that the models take.
_LONGEST = 2048


def decoder_layers(hidden: int, heads: int, devices: int, contexts: tuple[int, ...], layers: int = 1) -> OpGraph:
    """Decoder layers of a GPT-3 as one of `devices` devices runs it in decode, without collectives (as NeuPIMs' simulator)."""
    batch, own, share = len(contexts), heads // devices, hidden // devices
    if heads % devices or hidden % heads:
        raise CaseError(f"decoder layer: {heads} heads of {hidden} over {devices} devices do not divide")

    def linear(name: str, n: int, k: int) -> Op:
        operands = (tensor("a", "input", "m k", "fp16"), tensor("w", "weight", "k n", "fp16"), tensor("out", "output", "m n", "fp16"))
        return Op(name, "matmul", "linear", {"m": batch, "n": n, "k": k}, operands, {"mac": 1.0}, count=layers)

    def rows(name: str, kind: Any, width: int, body: dict[str, float], inputs: int = 1) -> Op:
        names = [tensor(f"x{i}", "input", "r c", "fp16") for i in range(inputs)]
        return Op(name, kind, name, {"r": batch, "c": width}, (*names, tensor("out", "output", "r c", "fp16")), body, count=layers)

    total, dim = sum(contexts), hidden // heads
    cache = [tensor(name, "cache", "b h s e", "fp16", total * own * dim) for name in ("k", "v")]
    attention = Op(
        "attention", "attention", "sdpa", {"b": batch, "h": own, "g": 1, "q": 1, "s": max(contexts), "e": dim},
        (tensor("q", "input", "b h g q e", "fp16"), *cache, tensor("out", "output", "b h g q e", "fp16")),
        {"mac": 2.0, "exp": 1.0 / dim, "add": 2.0 / dim, "mul": 1.0 / dim}, {"phase": "decode"}, iterations=float(own * dim * total),
        count=layers)
    norm = {"add": 4.0, "mul": 3.0, "rsqrt": 1.0 / hidden}
    ops = [rows("ln_1", "norm", hidden, norm), linear("qkv", 3 * share, hidden), attention, linear("proj", hidden, share),
           rows("residual_1", "elementwise", hidden, {"add": 1.0}, 2), rows("ln_2", "norm", hidden, norm),
           linear("fc_1", 4 * share, hidden), rows("gelu", "elementwise", 4 * share, {"mul": 1.0}), linear("fc_2", hidden, 4 * share),
           rows("residual_2", "elementwise", hidden, {"add": 1.0}, 2)]
    edges = [(a.name, b.name, "out") for a, b in pairwise(ops)]
    return OpGraph("decoder layers", ops, edges, tokens=float(batch), meta={"parallel": {"tp": devices}, "batch": batch, "phase": "decode"})


@lru_cache(maxsize=8)
def _requests(dataset: str) -> Requests:
    if dataset not in _SHAPE:
        raise CaseError(f"requests {dataset!r}: expected one of {', '.join(_SHAPE)} (means of others: {', '.join(NAMED)})")
    rng = np.random.default_rng(20240427)
    drawn = []
    for mean, median in zip(_MEANS[dataset], _SHAPE[dataset], strict=True):
        sigma = math.sqrt(2.0 * math.log(mean / median))
        drawn.append(np.clip(np.rint(rng.lognormal(math.log(median), sigma, 20_000)), 1, _LONGEST // 2))
    return Requests(np.zeros(20_000), *drawn)


def contexts_of(dataset: str, batch: int, seed: int) -> tuple[int, ...]:
    """Keys of each request of a warm batch, in the order of arrival; the new token is one of them."""
    return tuple(int(n) + 1 for n in sample_decode_batch(_requests(dataset), batch, seed).contexts)


@lru_cache(maxsize=20_000)
def _layer_s(system: _Same, hidden: int, heads: int, devices: int, contexts: tuple[int, ...], repeated_scores: bool) -> tuple[float, ...]:
    """Seconds of a layer in the middle of a step, busy seconds of the units' mean channel, and FLOPs of products."""
    from ...sim.hybrid.run import lay_out

    few, many = (
        lay_out(decoder_layers(hidden, heads, devices, contexts, layers), system.system, place="pim-attention",
                requests=[n - 1 for n in contexts]) for layers in _LAYERS)
    time_s = (many.played.time_s - few.played.time_s) / (_LAYERS[1] - _LAYERS[0])
    pim = extra = 0.0
    for part in few.parts:
        pim += part.chosen("attention", few.placement.device["attention"]).busy_s.get("pim mean channel", 0.0)
    found = few.whole.pim.get("attention")
    if repeated_scores and found is not None and found.requests is not None and found.packing is not None:
        side = system.system.pim
        assert side is not None
        load = np.bincount(found.packing.channel, weights=found.requests.score_cycles, minlength=side.channels)
        extra = (devices - 1) * float(load.max()) * side.device.cycle_s
    flops = sum(2.0 * op.scalar_ops("mac") for op in few.whole.graph if op.kind == "matmul")
    return time_s + extra, pim, flops


#: Layers of two runs whose difference is the time of a layer in the middle of a step.
_LAYERS = (2, 6)


class _Same:
    """A system, equal to itself only."""

    def __init__(self, system: HybridSystem) -> None:
        self.system = system

    def __hash__(self) -> int:
        return id(self.system)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.system is other.system


def _hybrid(system: AnySystem) -> HybridSystem:
    if not isinstance(system, HybridSystem):
        raise CaseError(f"{system.name}: expected a hybrid system, found a system of kind {system.kind}")
    return system


@measures.add("1")
def layer_speedup(
    system: AnySystem, baseline: AnySystem, models: list[list[int]], datasets: str, batches: list[int], samples: int = 10,
    repeated_scores: bool = False,
) -> float:
    """Mean over models, datasets, batch sizes and sampled warm batches of one decoder layer's time on the baseline over the system's.

    `models` are (hidden size, heads, devices); `datasets` are names with a comma between. `repeated_scores`: each device of the baseline
    computes the scores of all heads of the model, as the public code of NeuPIMs' blocked baseline does (PIMGEMVSoftmax takes the whole
    embedding, NeuPIMSLogitSoftmax a device's share).
    """
    return float(np.mean(_ratios(system, baseline, models, datasets, batches, samples, repeated_scores)))


def _ratios(system: AnySystem, baseline: AnySystem, models: list[list[int]], datasets: str, batches: list[int], samples: int,
            repeated_scores: bool) -> list[float]:
    new, old = _Same(_hybrid(system)), _Same(_hybrid(baseline))
    ratios = []
    for hidden, heads, devices in models:
        for dataset in datasets.replace(" ", "").split(","):
            for batch in batches:
                for seed in range(samples):
                    contexts = contexts_of(dataset, batch, seed)
                    ratios.append(_layer_s(old, hidden, heads, devices, contexts, repeated_scores)[0]
                                  / _layer_s(new, hidden, heads, devices, contexts, False)[0])
    return ratios


@measures.add("1")
def share_of_gains(
    system: AnySystem, baseline: AnySystem, models: list[list[int]], datasets: str, batches: list[int], samples: int = 10
) -> float:
    """Share of the points of `layer_speedup` at which the system is not slower than the baseline (by more than 0.1 %)."""
    return float(np.mean([ratio > 0.999 for ratio in _ratios(system, baseline, models, datasets, batches, samples, False)]))


@measures.add("1")
def layer_utilisation(system: AnySystem, part: str, models: list[list[int]], datasets: str, batches: list[int], samples: int = 10) -> float:
    """Mean busy share of one decoder layer: ``npu``, products' FLOPs over the arrays' peak; ``pim``, the units' mean channel."""
    found, kept = _Same(_hybrid(system)), []
    for hidden, heads, devices in models:
        for dataset in datasets.replace(" ", "").split(","):
            for batch in batches:
                for seed in range(samples):
                    time_s, pim, flops = _layer_s(found, hidden, heads, devices, contexts_of(dataset, batch, seed), False)
                    if part == "npu":
                        kept.append(flops / (cast(NpuSide, found.system.xpu).peak_flops_per_s * time_s))
                    else:
                        kept.append(pim / time_s)
    return float(np.mean(kept))


@measures.add("1")
def decode_speedup(
    system: AnySystem, baseline: AnySystem, layers: int, hidden: int, heads: int, batch: int, prompt: int, output: int, energy: bool = False
) -> float:
    """Time of the generation stage of equal requests on the baseline over that on the system, by AttAcc's closed form; or its energy.

    Source: AttAcc simulator (public). Tokens are sampled every 64th, whose cost is linear in the keys but for rows and tiles.
    """
    from ...mapping.attacc_system import Decoder, token_estimate

    model = Decoder(layers, hidden, heads)
    sums = []
    for each in (_hybrid(baseline), _hybrid(system)):
        tokens = [token_estimate(each, model, batch, keys) for keys in range(prompt + 1, prompt + output, 64)]
        sums.append(sum(t.total_energy_j if energy else t.time_s for t in tokens))
    return sums[0] / sums[1]


@measures.add("1")
def hybrid_speedup(graph: OpGraph, system: AnySystem, place: str = "auto", over: str = "xpu") -> float:
    """Time of a step on a hybrid system under one placement, ``over``, over that under another, ``place``."""
    from ...sim.hybrid.run import lay_out

    new, old = (lay_out(graph, _hybrid(system), "analytic", rule).played.time_s for rule in (place, over))
    return old / new


@measures.add("1")
def in_order(graph: OpGraph, system: AnySystem, second: AnySystem) -> float:
    """1 if a step is fastest on the system, slower on the second, and slowest on the system's processor alone; else 0."""
    from ...sim.hybrid.run import lay_out

    times = [lay_out(graph, _hybrid(s), "analytic", rule).played.time_s
             for s, rule in ((system, "auto"), (second, "auto"), (system, "xpu"))]
    return float(times == sorted(times))
