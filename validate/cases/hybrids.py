"""Workloads and measures of systems that mix a processor with processing in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

import numpy as np

from ...arch import AnySystem
from ...arch.hybrid_spec import HybridSystem, NpuSide
from ...errors import CaseError
from ...mapping.pim_attention import Heads, request_costs
from ...workloads import Op, OpGraph, tensor
from .registry import measures
from .warm import Lengths, Warm, lengths_of, warm_batch


def decoder_layers(hidden: int, heads: int, devices: int, contexts: tuple[int, ...], layers: int = 1, tokens: int = 1) -> OpGraph:
    """Decoder layers of a GPT-3 as one of `devices` devices runs it in decode, without collectives (as NeuPIMs' simulator).

    `tokens`: tokens of each request that one step takes, more than one where speculated ones are verified.
    """
    batch, own, share = len(contexts), heads // devices, hidden // devices
    if heads % devices or hidden % heads:
        raise CaseError(f"decoder layer: {heads} heads of {hidden} over {devices} devices do not divide")

    def linear(name: str, n: int, k: int) -> Op:
        operands = (tensor("a", "input", "m k", "fp16"), tensor("w", "weight", "k n", "fp16"), tensor("out", "output", "m n", "fp16"))
        return Op(name, "matmul", "linear", {"m": batch * tokens, "n": n, "k": k}, operands, {"mac": 1.0}, count=layers)

    def rows(name: str, kind: Any, width: int, body: dict[str, float], inputs: int = 1) -> Op:
        axes, dims = ("n", {"n": batch * tokens * width}) if kind == "elementwise" else ("r c", {"r": batch * tokens, "c": width})
        names = [tensor(f"x{i}", "input", axes, "fp16") for i in range(inputs)]
        return Op(name, kind, name, dims, (*names, tensor("out", "output", axes, "fp16")), body, count=layers)

    total, dim = sum(contexts), hidden // heads
    cache = [tensor(name, "cache", "b h s e", "fp16", total * own * dim) for name in ("k", "v")]
    attention = Op(
        "attention", "attention", "sdpa", {"b": batch, "h": own, "g": 1, "q": tokens, "s": max(contexts), "e": dim},
        (tensor("q", "input", "b h g q e", "fp16"), *cache, tensor("out", "output", "b h g q e", "fp16")),
        {"mac": 2.0, "exp": 1.0 / dim, "add": 2.0 / dim, "mul": 1.0 / dim}, {"phase": "decode"}, count=layers,
        iterations=float(own * dim * total * tokens))
    norm = {"add": 4.0, "mul": 3.0, "rsqrt": 1.0 / hidden}
    ops = [rows("ln_1", "norm", hidden, norm), linear("qkv", 3 * share, hidden), attention, linear("proj", hidden, share),
           rows("residual_1", "elementwise", hidden, {"add": 1.0}, 2), rows("ln_2", "norm", hidden, norm),
           linear("fc_1", 4 * share, hidden), rows("gelu", "elementwise", 4 * share, {"mul": 1.0}), linear("fc_2", hidden, 4 * share),
           rows("residual_2", "elementwise", hidden, {"add": 1.0}, 2)]
    edges = [(a.name, b.name, "out") for a, b in pairwise(ops)]
    return OpGraph("decoder layers", ops, edges, tokens=float(batch * tokens),
                   meta={"parallel": {"tp": devices}, "batch": batch, "phase": "decode"})


@lru_cache(maxsize=512)
def _warm(lengths: Lengths, batch: int, how: str, shape: tuple[int, int, int], system: _Same, seed: int) -> Warm:
    """A warm batch as a system's plan packs it for a model; that of a system without units takes turns over 32 channels."""
    side = system.system.pim
    if side is None:
        return warm_batch(lengths, batch, 32, "round-robin", None, seed)
    hidden, heads, devices = shape
    keys = np.arange(1, lengths.longest + 1, dtype=np.int64)
    cycles = request_costs(side, Heads(heads // devices, 1, hidden // heads), keys).cycles
    return warm_batch(lengths, batch, side.channels, how, np.concatenate([[0.0], cycles]), seed)


@lru_cache(maxsize=20_000)
def _layer_s(system: _Same, shape: tuple[int, int, int], lengths: Lengths, batch: int, seed: int) -> tuple[float, ...]:
    """Seconds of a layer, busy seconds of the units' mean channel, and FLOPs of products."""
    from ...sim.hybrid.run import lay_out

    hidden, heads, devices = shape
    requests = _warm(lengths, batch, system.system.plan.packing, shape, system, seed)
    keys = tuple(int(n) + 1 for n in requests.contexts)
    found = lay_out(decoder_layers(hidden, heads, devices, keys, _LAYERS), system.system, place="pim-attention", requests=requests)
    pim = sum(part.chosen("attention", found.placement.device["attention"]).busy_s.get("pim mean channel", 0.0) for part in found.parts)
    flops = sum(2.0 * op.scalar_ops("mac") for op in found.whole.graph if op.kind == "matmul")
    return found.played.time_s / _LAYERS, pim, flops


#: Layers of a run, from an idle system to the end: NeuPIMs' simulator plays two (its stages A to F).
_LAYERS = 2


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


def _points(models: list[list[int]], lengths: list[float], batches: list[int], samples: int) -> Iterator[_Point]:
    for model in models:
        for drawn in lengths_of(lengths):
            for batch in batches:
                for seed in range(samples):
                    yield (model[0], model[1], model[2]), drawn, batch, seed


#: Model as (hidden size, heads, devices), lengths of requests, batch, seed of the sample.
_Point = tuple[tuple[int, int, int], Lengths, int, int]


@measures.add("1")
def layer_speedup(
    system: AnySystem, baseline: AnySystem, models: list[list[int]], lengths: list[float], batches: list[int], samples: int = 10,
) -> float:
    """Mean over models, data sets, batch sizes and warm batches of one decoder layer's time on the baseline over the system's.

    `models` are (hidden size, heads, devices); `lengths` as `presilicon.validate.cases.warm.lengths_of` takes them.
    """
    return float(np.mean(_ratios(system, baseline, models, lengths, batches, samples)))


@measures.add("1")
def least_layer_speedup(
    system: AnySystem, baseline: AnySystem, models: list[list[int]], lengths: list[float], batches: list[int], samples: int = 10,
) -> float:
    """Least of the ratios of `layer_speedup`, each the mean of its samples."""
    return float(np.min(_means(_ratios(system, baseline, models, lengths, batches, samples), samples)))


@measures.add("1")
def most_layer_speedup(
    system: AnySystem, baseline: AnySystem, models: list[list[int]], lengths: list[float], batches: list[int], samples: int = 10,
) -> float:
    """Largest of the ratios of `layer_speedup`, each the mean of its samples."""
    return float(np.max(_means(_ratios(system, baseline, models, lengths, batches, samples), samples)))


def _means(ratios: list[float], samples: int) -> Any:
    return np.reshape(ratios, (-1, samples)).mean(axis=1)


def _ratios(system: AnySystem, baseline: AnySystem, models: list[list[int]], lengths: list[float], batches: list[int],
            samples: int) -> list[float]:
    new, old = _Same(_hybrid(system)), _Same(_hybrid(baseline))
    return [_layer_s(old, *point)[0] / _layer_s(new, *point)[0] for point in _points(models, lengths, batches, samples)]


@measures.add("1")
def share_of_gains(
    system: AnySystem, baseline: AnySystem, models: list[list[int]], lengths: list[float], batches: list[int], samples: int = 10,
) -> float:
    """Share of the points of `layer_speedup`, each the mean of its samples, at which the system is not slower (by more than 0.1 %)."""
    return float(np.mean(_means(_ratios(system, baseline, models, lengths, batches, samples), samples) > 0.999))


@measures.add("1")
def layer_utilisation(system: AnySystem, part: str, models: list[list[int]], lengths: list[float], batches: list[int],
                      samples: int = 10) -> float:
    """Mean busy share of one decoder layer: ``npu``, products' FLOPs over the arrays' peak; ``pim``, the units' mean channel."""
    found, kept = _Same(_hybrid(system)), []
    for point in _points(models, lengths, batches, samples):
        time_s, pim, flops = _layer_s(found, *point)
        kept.append(flops / (cast(NpuSide, found.system.xpu).peak_flops_per_s * time_s) if part == "npu" else pim / time_s)
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


@measures.add("1")
def parallel_decode_speedup(
    system: AnySystem, baseline: AnySystem, place: str, over: str, models: list[list[int]], keys: int, batches: list[int],
    tokens: list[int],
) -> float:
    """Mean over models, batches and speculated tokens of a decode step's time on the baseline, placed by ``over``, over the system's.

    `models` are (layers, hidden size, heads); every request has `keys` keys, and takes each of `tokens` tokens a step.
    """
    from ...sim.hybrid.run import lay_out

    new, old, ratios = _hybrid(system), _hybrid(baseline), []
    for layers, hidden, heads in models:
        for batch in batches:
            for each in tokens:
                graph = decoder_layers(hidden, heads, new.devices, (keys,) * batch, layers, each)
                times = [lay_out(graph, one, "analytic", rule).played.time_s for one, rule in ((old, over), (new, place))]
                ratios.append(times[0] / times[1])
    return float(np.mean(ratios))
