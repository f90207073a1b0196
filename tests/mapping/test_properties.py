"""What every closed form must obey, through the names that users write: System, override paths, `evaluate`.

No estimate beats the roofline of its own System; better in one number and equal in the others is never slower; twice the batch is
never faster; an override changes what it names and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from presilicon.arch import System, load, names, value_at
from presilicon.arch.loader import paths
from presilicon.mapping.gpu.analytic import evaluate
from presilicon.mapping.gpu.lower import arithmetic_of
from presilicon.mapping.gpu.machine import KernelTimes, Machine

Sizes = Mapping[str, float]


@dataclass(frozen=True)
class Family:
    """One kernel family as the properties see it.

    Attributes
    ----------
    name
        As `evaluate` takes it.
    sizes, options
        What hypothesis draws; ``arithmetic`` among the options is a number format, which each GPU runs as it can.
    flops
        Tensor FLOPs that the result needs at least.
    dram_bytes
        Bytes that no cache can hold when the kernel starts, given the sizes, the options and the L2's bytes.
    batch
        Sizes of which twice as many is never faster.
    """

    name: str
    sizes: Mapping[str, st.SearchStrategy[float]]
    options: Mapping[str, st.SearchStrategy[Any]] = field(default_factory=dict)
    flops: Callable[[Sizes, Mapping[str, Any]], float] = lambda s, o: 0.0
    dram_bytes: Callable[[Sizes, Mapping[str, Any], float], float] = lambda s, o, l2: 0.0
    batch: tuple[str, ...] = ("batch",)
    draw: Callable[[dict[str, float]], dict[str, float]] = lambda sizes: sizes


def _upto(limit: int) -> st.SearchStrategy[float]:
    """Whole numbers, spread over the powers of two and everything between."""
    exponents = st.integers(0, limit.bit_length() - 1)
    return st.one_of(exponents.map(lambda e: 2.0**e), exponents.flatmap(lambda e: st.integers(2**e, min(2 ** (e + 1), limit)).map(float)))


def _grouped_heads(sizes: dict[str, float]) -> dict[str, float]:
    group = sizes.pop("group")
    return sizes | {"q_heads": group * sizes["kv_heads"]}


def _prefix(sizes: dict[str, float]) -> dict[str, float]:
    past = sizes.pop("past")
    return _grouped_heads(sizes) | {"kv_len": sizes["q_len"] + past}


def _experts(sizes: dict[str, float]) -> dict[str, float]:
    return sizes | {"topk": min(sizes["topk"], sizes["num_experts"])}


def _gemm_dram_bytes(s: Sizes, o: Mapping[str, Any], l2: float) -> float:
    """A weight that comes back only after all the others is in no cache; what was written before may be, up to the L2's size."""
    return s["n"] * s["k"] * s["batch"] * o["w_bits"] / 8 if o["weight_copies"] == float("inf") else 0.0


def _prefill_flops(s: Sizes, o: Mapping[str, Any]) -> float:
    pairs = s["q_len"] * (s["kv_len"] - (s["q_len"] - 1) / 2) if o["causal"] else s["q_len"] * s["kv_len"]
    return 4 * s["batch"] * s["q_heads"] * s["head_dim"] * pairs


HEADS = {"kv_heads": _upto(16), "group": _upto(16), "head_dim": st.sampled_from([64.0, 96.0, 128.0, 256.0])}
FAMILIES = {
    "gemm": Family(
        "gemm",
        {"m": _upto(16384), "n": _upto(32768), "k": _upto(16384), "batch": st.sampled_from([1.0, 1.0, 3.0, 32.0])},
        {
            "arithmetic": st.sampled_from(["bf16", "fp8", "fp32"]),
            "a_bits": st.just(16.0),
            "w_bits": st.sampled_from([16.0, 8.0]),
            "weight_copies": st.sampled_from([1.0, 6.0, float("inf")]),
        },
        flops=lambda s, o: 2 * s["m"] * s["n"] * s["k"] * s["batch"],
        dram_bytes=_gemm_dram_bytes,
        batch=("m", "batch"),
    ),
    "grouped_gemm": Family(
        "grouped_gemm",
        {"rows": _upto(65536), "n": _upto(8192), "k": _upto(8192), "groups": _upto(256)},
        {"arithmetic": st.just("bf16")},
        flops=lambda s, o: 2 * s["rows"] * s["n"] * s["k"],
        batch=("rows",),
    ),
    "fused_moe": Family(
        "fused_moe",
        {"num_tokens": _upto(32768), "hidden_size": _upto(8192), "inter_size": _upto(16384), "topk": _upto(8), "num_experts": _upto(256)},
        {"arithmetic": st.just("bf16")},
        flops=lambda s, o: 6 * s["num_tokens"] * s["topk"] * s["hidden_size"] * s["inter_size"],
        batch=("num_tokens",),
        draw=_experts,
    ),
    "attention_prefill": Family(
        "attention_prefill",
        {"batch": _upto(64), "q_len": _upto(8192), "past": st.one_of(st.just(0.0), _upto(16384)), **HEADS},
        {"arithmetic": st.just("bf16"), "causal": st.booleans()},
        flops=_prefill_flops,
        draw=_prefix,
    ),
    "attention_decode": Family(
        "attention_decode",
        {"batch": _upto(512), "kv_len": _upto(131072), **HEADS},
        {"arithmetic": st.just("bf16"), "kv_bits": st.sampled_from([8.0, 16.0])},
        dram_bytes=lambda s, o, l2: 2 * s["batch"] * s["kv_len"] * s["kv_heads"] * s["head_dim"] * o["kv_bits"] / 8 - l2,
        batch=("batch", "kv_len"),
        draw=_grouped_heads,
    ),
    "memory": Family(
        "memory",
        {"bytes_read": _upto(2**33), "bytes_written": _upto(2**33), "fma_ops": _upto(2**33), "sfu_ops": _upto(2**30), "rows": _upto(65536)},
        {"kind": st.sampled_from(["elementwise", "norm", "softmax", "reduce", "gather", "copy"])},
        dram_bytes=lambda s, o, l2: s["bytes_read"] + s["bytes_written"] - 2 * l2,
        batch=(),
    ),
    "collective": Family(
        "collective",
        {"message_bytes": _upto(2**32), "num_gpus": st.sampled_from([2.0, 4.0, 8.0])},
        {"operation": st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])},
        batch=("message_bytes",),
    ),
    "mamba2_scan": Family(
        "scan",
        {
            "batch": _upto(64),
            "seq_len": _upto(16384),
            "heads": _upto(128),
            "head_dim": st.just(64.0),
            "state_dim": st.sampled_from([64.0, 128.0]),
            "groups": st.just(1.0),
            "chunk": st.just(256.0),
        },
        {"variant": st.just("mamba2_scan")},
    ),
    "mamba2_update": Family(
        "scan",
        {"batch": _upto(512), "heads": _upto(128), "head_dim": st.just(64.0), "state_dim": st.sampled_from([64.0, 128.0])},
        {"variant": st.just("mamba2_update")},
        dram_bytes=lambda s, o, l2: 4 * s["batch"] * s["heads"] * s["head_dim"] * s["state_dim"] - 2 * l2,
    ),
    "gated_delta": Family(
        "scan",
        {
            "batch": _upto(64),
            "seq_len": _upto(16384),
            "key_heads": st.just(16.0),
            "value_heads": st.sampled_from([16.0, 32.0]),
            "key_dim": st.just(128.0),
            "value_dim": st.just(128.0),
        },
        {"variant": st.just("gated_delta")},
    ),
    "causal_conv1d": Family(
        "scan",
        {"batch": _upto(64), "seq_len": _upto(16384), "channels": _upto(16384), "width": st.just(4.0)},
        {"variant": st.just("causal_conv1d")},
    ),
}
SYSTEMS = {name: load(name) for name in names() if load(name).kind == "gpu"}

#: Each number that may be better alone, and which way; ``tensor`` stands for the arithmetic that the kernel uses.
BETTER = {
    **dict.fromkeys(
        (
            "gpu.sm.count",
            "gpu.clock.boost",
            "gpu.sm.fma",
            "gpu.sm.sfu",
            "gpu.sm.shared_bandwidth",
            "gpu.sm.registers",
            "gpu.sm.max_warps",
            "gpu.sm.max_ctas",
            "gpu.l2.size",
            "gpu.l2.bandwidth",
            "dram.bandwidth",
            "dram.size",
            "power.limit",
            "link.bandwidth",
            "tensor",
        ),
        True,
    ),
    **dict.fromkeys(("gpu.l2.latency", "dram.latency", "power.idle", "link.latency"), False),
}
WHOLE = ("gpu.sm.count", "gpu.sm.registers", "gpu.sm.max_warps", "gpu.sm.max_ctas")


def _draw(data: st.DataObject, family: Family) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A batch of size tuples under one set of options."""
    options = {name: data.draw(strategy, name) for name, strategy in family.options.items()}
    drawn = data.draw(st.lists(st.fixed_dictionaries(dict(family.sizes)), min_size=4, max_size=4), "sizes")
    rows = [family.draw(dict(row)) for row in drawn]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, options


def _time(family: Family, system: System, sizes: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> KernelTimes:
    options = dict(options)
    if "arithmetic" in options:
        options["arithmetic"] = arithmetic_of(options["arithmetic"], system.gpu.sm.tensor_flops_per_clk)
    return evaluate(family.name, Machine.of(system), system.link, sizes, options)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_estimate_beats_the_roofline_of_its_own_system(name: str, data: st.DataObject) -> None:
    family, system = FAMILIES[name], SYSTEMS[data.draw(st.sampled_from(sorted(SYSTEMS)), "system")]
    sizes, options = _draw(data, family)
    times = _time(family, system, sizes, options)
    assert np.all(np.isfinite(times.time_s) & (times.time_s > 0))
    arithmetic, rates = (
        arithmetic_of(options.get("arithmetic", "bf16"), system.gpu.sm.tensor_flops_per_clk),
        system.gpu.sm.tensor_flops_per_clk,
    )
    fma = 2 * system.gpu.sm.fma_per_clk * system.gpu.sm.count * system.gpu.clock.boost_hz
    peak = system.tensor_flops_per_s(arithmetic) if arithmetic in rates else fma
    for i in range(len(times.time_s)):
        row = {key: float(values[i]) for key, values in sizes.items()}
        assert times.time_s[i] >= family.flops(row, options) / peak
        assert times.time_s[i] >= family.dram_bytes(row, options, system.gpu.l2.size_bytes) / system.dram.bandwidth_bytes_per_s
    assert np.all(times.time_s >= times.bytes_moved["dram"] / system.dram.bandwidth_bytes_per_s * (1 - 1e-9)), (
        "the bytes that it reports itself"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_better_system_is_never_slower(name: str, data: st.DataObject) -> None:
    family, system = FAMILIES[name], SYSTEMS[data.draw(st.sampled_from(sorted(SYSTEMS)), "system")]
    sizes, options = _draw(data, family)
    path, factor = data.draw(st.sampled_from(sorted(BETTER)), "number"), data.draw(st.sampled_from([1.05, 1.3, 2.0, 4.0]), "factor")
    if path == "tensor":
        arithmetic = arithmetic_of(options.get("arithmetic", "bf16"), system.gpu.sm.tensor_flops_per_clk)
        assume(arithmetic in system.gpu.sm.tensor_flops_per_clk)
        path, more = f"gpu.sm.tensor.{arithmetic}", True
    else:
        more = BETTER[path]
    value = value_at(system, path) * (factor if more else 1 / factor)
    better = system.override({path: np.ceil(value) if path in WHOLE else value})
    assert np.all(
        _time(family, better, sizes, options).time_s <= _time(family, system, sizes, options).time_s * (1 + 1e-9)
    )


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.batch])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_twice_the_batch_is_never_faster(name: str, data: st.DataObject) -> None:
    family, system = FAMILIES[name], SYSTEMS[data.draw(st.sampled_from(sorted(SYSTEMS)), "system")]
    sizes, options = _draw(data, family)
    grown = data.draw(st.sampled_from(family.batch), "grown")
    twice = {**sizes, grown: 2 * sizes[grown]}
    assert np.all(_time(family, system, twice, options).time_s >= _time(family, system, sizes, options).time_s * (1 - 1e-9))


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_one_token_over_a_long_cache_is_split_no_finer_than_pays(system: System) -> None:
    """Merging many small pieces costs time: an H100 NVL once took 1.1 % less for twice the batch (2 KV heads of 256, 4,097 tokens)."""
    axes = 2.0 ** np.arange(8), [513.0, 4097.0, 9000.0], [1.0, 2.0, 3.0, 8.0], [64.0, 128.0, 256.0]
    batch, kv_len, kv_heads, head_dim = np.meshgrid(*axes)
    sizes = {"q_len": np.ones_like(batch), "kv_len": kv_len, "q_heads": 2 * kv_heads, "kv_heads": kv_heads, "head_dim": head_dim}
    options = {"arithmetic": "bf16", "causal": False}
    once, twice = (_time(FAMILIES["attention_prefill"], system, sizes | {"batch": b}, options).time_s for b in (batch, 2 * batch))
    assert np.all(twice >= once * (1 - 1e-9))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_override_changes_what_it_names_and_nothing_else(data: st.DataObject) -> None:
    system = SYSTEMS[data.draw(st.sampled_from(sorted(SYSTEMS)))]
    numbers = [path for path in paths(system) if isinstance(value_at(system, path), float) and not path.startswith("calibration.")]
    bounded = ("gpu.sm.shared_memory_per_cta", "gpu.sm.sparse_speedup", "power.idle")
    path = data.draw(st.sampled_from([p for p in numbers if p not in bounded]))
    value = value_at(system, path)
    changed = system.override({path: 2 * value if value else 1e-6})
    assert value_at(changed, path) == (2 * value if value else 1e-6)
    assert {p: value_at(changed, p) for p in paths(system) if p != path} == {p: value_at(system, p) for p in paths(system) if p != path}
    assert value_at(system, path) == value, "the first system stays as it was"
    assert changed.override({path: value}).gpu == system.gpu


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_number_that_the_kernel_does_not_use_does_not_move_it(name: str, data: st.DataObject) -> None:
    family, system = FAMILIES[name], SYSTEMS["h100-sxm"]
    sizes, options = _draw(data, family)
    other = system.override({"host.launch": "50 us", "dram.size": "1 TB", **({} if name == "collective" else {"link.bandwidth": "1 GB/s"})})
    assert np.array_equal(_time(family, other, sizes, options).time_s, _time(family, system, sizes, options).time_s)
