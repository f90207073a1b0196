"""Closed forms of attention: physics that must hold for any sizes, and the error on measured rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch import load, load_gpu, names
from presilicon.errors import MappingError
from presilicon.mapping.gpu.attention import attention_decode, attention_prefill
from presilicon.mapping.gpu.attention_kernels import (
    IMPLEMENTATIONS,
    implementation_of,
    latent_implementation_of,
    resolve,
)
from presilicon.mapping.gpu.machine import KernelTimes, Machine

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "measured"
SYSTEMS = ("a100-sxm-80gb", "l40s", "h100-sxm", "b200", "v100-sxm", "t4")
BETTER = (
    "sm_count",
    "clock_hz",
    "dram_bytes_per_s",
    "l2_bytes",
    "l2_bytes_per_clk",
    "power_limit_w",
    "sfu_per_clk",
    "fma_per_clk",
    "smem_bytes_per_clk",
)

shapes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 64),
        "kv_len": st.integers(1, 20000),
        "kv_heads": st.sampled_from([1, 2, 4, 8, 32]),
        "group": st.sampled_from([1, 2, 4, 8, 12]),
        "head_dim": st.sampled_from([64, 80, 128, 192, 256]),
    }
)


def machine(name: str) -> Machine:
    return Machine.of(load(name))


def run(m: Machine, shape: dict[str, int], *, decode: bool, q_len: int | None = None) -> KernelTimes:
    heads = shape["kv_heads"] * shape["group"]
    if decode:
        return attention_decode(m, shape["batch"], shape["kv_len"], heads, shape["kv_heads"], shape["head_dim"])
    return attention_prefill(m, shape["batch"], q_len or shape["kv_len"], shape["kv_len"], heads, shape["kv_heads"], shape["head_dim"])


def peak(m: Machine) -> float:
    return float(max(rate for name, rate in m.tensor_flops_per_clk.items() if name in {"bf16", "fp16"}) * m.sm_count * m.clock_hz)


@settings(deadline=None, max_examples=60)
@given(shape=shapes, name=st.sampled_from(SYSTEMS), decode=st.booleans())
def test_never_beats_the_tensor_roofline(shape: dict[str, int], name: str, decode: bool) -> None:
    m = machine(name)
    times = run(m, shape, decode=decode)
    n = shape["kv_len"]
    pairs = n if decode else n * (n + 1) / 2
    flops = 4.0 * shape["batch"] * shape["kv_heads"] * shape["group"] * shape["head_dim"] * pairs
    assert times.time_s >= flops / peak(m)


@settings(deadline=None, max_examples=60)
@given(
    shape=shapes,
    name=st.sampled_from(SYSTEMS),
    decode=st.booleans(),
    field=st.sampled_from(BETTER),
    more=st.floats(1.01, 3.0),
)
def test_a_better_machine_is_never_slower(shape: dict[str, int], name: str, decode: bool, field: str, more: float) -> None:
    m = machine(name)
    value = getattr(m, field) * more
    better = replace(m, **{field: np.ceil(value) if field == "sm_count" else value})
    assert run(better, shape, decode=decode).time_s <= run(m, shape, decode=decode).time_s * (1 + 1e-9)


@settings(deadline=None, max_examples=60)
@given(
    shape=shapes,
    name=st.sampled_from(SYSTEMS),
    decode=st.booleans(),
    grown=st.sampled_from(["batch", "kv_len", "kv_heads"]),
)
def test_twice_the_work_is_never_faster(shape: dict[str, int], name: str, decode: bool, grown: str) -> None:
    m = machine(name)
    twice = shape | {grown: 2 * shape[grown]}
    assert run(m, twice, decode=decode).time_s >= run(m, shape, decode=decode).time_s * (1 - 1e-9)


@pytest.mark.parametrize("implementation", sorted(IMPLEMENTATIONS))
def test_designs_broadcast_against_ops(implementation: str) -> None:
    m = machine("a100-sxm-80gb")
    designs = replace(m, sm_count=np.array([[54.0], [108.0], [216.0]]), l2_bytes=m.l2_bytes * np.array([[0.5], [1.0], [2.0]]))
    batch, kv_len = np.array([1.0, 16.0, 64.0, 300.0]), np.array([33.0, 500.0, 4096.0, 20.0])
    for decode in (True, False):
        form = attention_decode if decode else attention_prefill
        sizes = (batch, kv_len, 32, 8, 128) if decode else (batch, kv_len, kv_len, 32, 8, 128)
        many = form(
            designs,
            *sizes,
            implementation=implementation,
            kv_bits=np.array([16, 8, 16, 8]),
            window=np.array([0, 128, 0, 64]),
        )
        assert many.time_s.shape == (3, 4)
        assert all(value.shape == (3, 4) for value in (*many.busy_s.values(), *many.bytes_moved.values(), *many.choice.values()))
        one = form(m, *sizes, implementation=implementation, kv_bits=np.array([16, 8, 16, 8]), window=np.array([0, 128, 0, 64]))
        np.testing.assert_allclose(many.time_s[1], one.time_s)


def test_a_window_and_a_mask_save_work() -> None:
    m = machine("a100-sxm-80gb")
    full = attention_prefill(m, 4, 16384, 16384, 32, 8, 128)
    assert attention_prefill(m, 4, 16384, 16384, 32, 8, 128, window=1024).time_s < 0.25 * full.time_s
    both = attention_prefill(m, 4, 16384, 16384, 32, 8, 128, causal=False)
    assert 1.8 * full.time_s < both.time_s < 2.1 * full.time_s
    wide = attention_decode(m, 64, 32768, 32, 8, 128)
    assert attention_decode(m, 64, 32768, 32, 8, 128, window=1024).bytes_moved["dram"] < 0.1 * wide.bytes_moved["dram"]


def test_grouped_heads_share_the_cache_in_decode() -> None:
    m = machine("h100-sxm")
    grouped, own = attention_decode(m, 64, 8192, 32, 8, 128), attention_decode(m, 64, 8192, 32, 32, 128)
    assert own.bytes_moved["dram"] == pytest.approx(4 * grouped.bytes_moved["dram"], rel=0.01)
    assert own.time_s > 3.5 * grouped.time_s


def test_an_fp8_cache_halves_the_bytes() -> None:
    m = machine("l40s")
    wide, narrow = (attention_decode(m, 128, 8192, 32, 8, 128, kv_bits=bits) for bits in (16, 8))
    assert narrow.bytes_moved["dram"] == pytest.approx(0.5 * wide.bytes_moved["dram"], rel=0.01)
    assert narrow.time_s < 0.65 * wide.time_s


def test_a_latent_cache_is_read_once_for_keys_and_values() -> None:
    m = machine("h100-sxm")
    latent = attention_decode(m, 64, 8192, 128, 1, 576, v_head_dim=512)
    cache = 64 * 8192 * 576 * 2
    assert cache <= latent.bytes_moved["dram"] < 1.1 * cache


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("kv_len", [256, 2048, 65536])
def test_a_cold_cache_is_read_from_dram_whole(name: str, kv_len: int) -> None:
    machine = Machine.of(load(name))
    cache = 2 * kv_len * 8 * 128 * 2  # keys and values of one request, 8 heads of 128, 16 bits
    cold = attention_decode(machine, 1, kv_len, 32, 8, 128, cold=True)
    warm = attention_decode(machine, 1, kv_len, 32, 8, 128)
    assert cold.bytes_moved["dram"] >= cache
    assert cold.time_s >= max(float(warm.time_s), cache / machine.dram_bytes_per_s)


def test_a_cache_that_fits_in_l2_is_not_read_from_dram() -> None:
    m = machine("l40s")
    assert attention_decode(m, 8, 4096, 32, 4, 128).bytes_moved["dram"] == 0
    assert attention_decode(m, 8, 65536, 32, 8, 128).bytes_moved["dram"] > 8 * 65536 * 8 * 512


def test_short_grids_are_split_along_the_cache() -> None:
    m = machine("a100-sxm-80gb")
    short, long = attention_decode(m, 1, 65536, 32, 8, 128), attention_decode(m, 256, 4096, 32, 8, 128)
    assert short.choice["split_kv"] > 4
    assert long.choice["split_kv"] == 1


def test_kernel_sources_name_implementations() -> None:
    assert implementation_of("torch_flow") == {"implementation": "trtllm"}
    assert implementation_of(float("nan")) == implementation_of("unheard of") == {}
    assert resolve("fa3", "sm_90") is not resolve("fa3", "sm_80")
    with pytest.raises(MappingError, match="trtlm"):
        attention_decode(machine("l40s"), 1, 128, 8, 8, 64, implementation="trtlm")


def gpus() -> list[Machine]:
    return [Machine.of(load_gpu(name)) for name in names() if getattr(load(name), "kind", "gpu") == "gpu"]


def test_the_general_case_splits_a_long_cache_on_every_gpu() -> None:
    """One KV head over 131,072 tokens: every GPU must bring the cache with many SMs at once, not with one."""
    for m in gpus():
        times = attention_decode(m, 1, 131072, 1, 1, 128, cold=True)
        memory_s = 131072 * 2 * 128 * 2 / m.dram_bytes_per_s
        assert times.choice["ctas"] >= min(m.sm_count, 128) * 0.9, m.name
        floor_s = (m["attention.floor"] + m["attention.launch"]) / m.clock_hz
        assert times.time_s < 2.5 * memory_s + floor_s, m.name
        latent = attention_decode(m, 1, 131072, 16, 1, 576, v_head_dim=512, cold=True)
        assert latent.choice["ctas"] >= min(m.sm_count, 128) * 0.9, m.name


@pytest.mark.parametrize("implementation", ["sglang", "vllm", "trtllm"])
def test_libraries_split_a_long_cache_on_hopper(implementation: str) -> None:
    """A batch of 1 with 8 KV heads over 131,072 tokens takes at most 1.5 times the time of its bytes."""
    m = machine("h100-sxm")
    times = attention_decode(m, 1, 131072, 64, 8, 128, implementation=implementation)
    assert times.time_s < 1.5 * 131072 * 8 * 512 / m.dram_bytes_per_s


@pytest.mark.parametrize("name", ["h100-sxm", "b200"])
def test_latent_decode_is_split_where_the_cache_is_long(name: str) -> None:
    m = machine(name)
    times = attention_decode(m, 1, 131072, 16, 1, 576, v_head_dim=512, implementation="trtllm-mla")
    assert times.choice["ctas"] > 0.9 * m.sm_count
    assert times.time_s < 4.0 * 131072 * 576 * 2 / m.dram_bytes_per_s


def test_a_plan_for_more_heads_makes_fewer_pieces() -> None:
    """vLLM's tables come from a plan for 8 KV heads: with one there is an eighth of the pieces, with 8 as many as of an own plan."""
    m = machine("h100-sxm")
    for kv_heads, ratio in ((1, 1 / 8), (8, 1.0)):
        own = attention_decode(m, 1, 131072, 8 * kv_heads, kv_heads, 128, implementation="sglang").choice["ctas"]
        planned = attention_decode(m, 1, 131072, 8 * kv_heads, kv_heads, 128, implementation="vllm").choice["ctas"]
        assert planned / own == pytest.approx(ratio, rel=0.1)


def test_an_fp8_cache_makes_hopper_kernels_compute_in_fp8() -> None:
    """FlashAttention 3 converts the queries; the tensor cores then take half the time of the same number of steps' columns."""
    m = machine("h100-sxm")
    wide, narrow = (attention_prefill(m, 4, 8192, 8192, 32, 8, 128, implementation="sglang", kv_bits=bits) for bits in (16, 8))
    assert narrow.busy_s["tensor"] * narrow.clock_hz == pytest.approx(0.5 * wide.busy_s["tensor"] * wide.clock_hz, rel=0.05)
    a100 = machine("a100-sxm-80gb")  # no fp8 products
    wide, narrow = (attention_prefill(a100, 4, 8192, 8192, 32, 8, 128, implementation="sglang", kv_bits=bits) for bits in (16, 8))
    assert narrow.busy_s["tensor"] * narrow.clock_hz == pytest.approx(wide.busy_s["tensor"] * wide.clock_hz)


def test_an_absorbed_prefill_multiplies_in_the_latent_space() -> None:
    """Products of 576 + 512 instead of 192 + 128 columns."""
    m = machine("h100-sxm")
    heads = {"batch": 8, "q_len": 8192, "kv_len": 8192, "q_heads": 128, "kv_heads": 128, "head_dim": 192, "v_head_dim": 128}
    absorbed, projected = (attention_prefill(m, **heads, implementation=i) for i in ("sglang-mla", "trtllm-mla"))
    work = [times.busy_s["tensor"] * times.clock_hz for times in (absorbed, projected)]
    assert work[0] / work[1] == pytest.approx((576 + 512) / (192 + 128), rel=0.05)


def test_sglang_converts_a_latent_fp8_cache_before_every_call() -> None:
    """Its decode kernel takes 16 bits: one byte is read and two are written per element before it."""
    m = machine("h100-sxm")
    wide, narrow = (
        attention_decode(m, 64, 16384, 16, 1, 576, v_head_dim=512, kv_bits=bits, implementation="sglang-mla").time_s for bits in (16, 8)
    )
    assert narrow - wide / 2 > 64 * 16384 * 576 * 3 / m.dram_bytes_per_s


def test_storing_new_keys_one_block_per_token_costs_by_tokens() -> None:
    """vLLM's kernel has 512 threads for 4 heads of 128 as for 8: a quarter as many blocks fit as for one head."""
    m = machine("h100-sxm")
    one, four, eight = (blocks_s(m, kv_heads) for kv_heads in (1, 4, 8))
    assert four / one == pytest.approx(4.0)
    assert eight == four


def blocks_s(m: Machine, kv_heads: int) -> float:
    from presilicon.mapping.gpu.attention import _arrays, _slow_s

    sizes = {"batch": 16, "q_len": 1024, "kv_len": 1024, "q_heads": 8, "kv_heads": kv_heads, "qk_dim": 128, "v_dim": 128, "window": 0}
    work = _arrays(sizes, causal=True, arithmetic="bf16", kv_bits=16)
    return float(_slow_s(m, resolve("vllm", "sm_90"), work, decode=False))


def test_kernel_sources_name_implementations_by_version() -> None:
    assert implementation_of("flash_attention", "0.5.6.post2") == {"implementation": "sglang-index-put"}
    assert implementation_of("flash_attention", "0.5.10") == implementation_of("flash_attention", "") == {"implementation": "sglang"}
    assert implementation_of("torch_flow", "1.0.0rc3") == {"implementation": "trtllm-1.0"}
    assert latent_implementation_of("default", "1.0.0rc3") == {"implementation": "trtllm-mla", "kv_bits": 16.0}
    assert latent_implementation_of("default", "1.2.0rc5") == {"implementation": "trtllm-mla"}
    assert latent_implementation_of("flash_attention", "0.5.8") == {"implementation": "sglang-mla"}
    assert latent_implementation_of("unheard of") == {}


@pytest.mark.parametrize(("name", "low", "high"), [("a100-sxm-80gb", 0.54, 0.70), ("l40s", 0.45, 0.62), ("h100-sxm", 0.49, 0.62)])
def test_long_prefill_reaches_the_published_share_of_peak(name: str, low: float, high: float) -> None:
    """Aggregates of the AIConfigurator tables: flash attention, 4,096 to 16,384 tokens, head_dim 128. On the H100, SGLang and vLLM reach
    0.51 to 0.58 with the write of the new keys and values."""
    m = machine(name)
    tokens = np.array([4096.0, 8192.0, 16384.0])
    times = attention_prefill(m, 4, tokens, tokens, 32, 8, 128)
    share = 4.0 * 4 * 32 * 128 * tokens * (tokens + 1) / 2 / times.time_s / peak(m)
    assert np.all((low < share) & (share < high))


@pytest.mark.parametrize(("name", "low", "high"), [("a100-sxm-80gb", 0.70, 0.87), ("l40s", 0.74, 0.88), ("h100-sxm", 0.80, 0.93)])
def test_long_decode_reaches_the_published_share_of_bandwidth(name: str, low: float, high: float) -> None:
    m = machine(name)
    times = attention_decode(m, 128, 16384, 32, 8, 128)
    share = 128 * 16384 * 8 * 512 / times.time_s / m.dram_bytes_per_s
    assert low < share < high


@pytest.mark.parametrize(
    ("system", "table", "bar"),
    [
        ("a100-sxm-80gb", "a100_sxm.context_attention", 0.07),
        ("a100-sxm-80gb", "a100_sxm.generation_attention", 0.11),
        ("l40s", "l40s.context_attention", 0.145),
        ("l40s", "l40s.generation_attention", 0.15),
        ("l40s", "l40s.encoder_attention", 0.15),
        ("a100-sxm-80gb", "a100_sxm.context_mla", 0.13),
        ("a100-sxm-80gb", "a100_sxm.generation_mla", 0.13),
    ],
)
def test_error_on_measured_rows(system: str, table: str, bar: float) -> None:
    """Mean absolute relative error over all rows of a table, constants as the device and generation files give them."""
    path = MEASURED / f"{table}.csv"
    if not path.exists():
        pytest.skip(f"no measured table {path}")
    pd = pytest.importorskip("pandas")
    m = machine(system)
    frame = pd.read_csv(path)
    frame["arithmetic"] = np.where(frame.get("attn_dtype", frame.get("mla_dtype")) == "fp8", "fp8", "bf16")
    predicted = np.zeros(len(frame))
    for (source, arithmetic), index in frame.groupby(["kernel_source", "arithmetic"]).indices.items():
        rows = frame.iloc[index]
        kv_heads = rows.get("num_key_value_heads", rows["num_heads"]).to_numpy()
        kv_len = (rows["isl"] + rows.get("step", 0)).to_numpy()
        window = rows["window_size"].fillna(0).to_numpy() if "window_size" in rows else 0
        cache = rows.get("kv_cache_dtype", rows["arithmetic"])
        options = {
            "arithmetic": arithmetic,
            "kv_bits": np.where(cache == "fp8", 8, 16),
            "window": window,
        } | implementation_of(source)
        latent = table.endswith("mla")
        if "generation" in table:
            dims, v_dim = (576, 512) if latent else (rows["head_dim"].to_numpy(), None)
            times = attention_decode(
                m,
                rows["batch_size"].to_numpy(),
                kv_len,
                rows["num_heads"].to_numpy(),
                1 if latent else kv_heads,
                dims,
                v_head_dim=v_dim,
                **options,
            )
        else:
            dims, v_dim = (192, 128) if latent else (rows["head_dim"].to_numpy(), None)
            times = attention_prefill(
                m,
                rows["batch_size"].to_numpy(),
                rows["isl"].to_numpy(),
                kv_len,
                rows["num_heads"].to_numpy(),
                kv_heads,
                dims,
                v_head_dim=v_dim,
                causal="encoder" not in table,
                **options,
            )
        predicted[index] = times.time_s
    error = np.abs(predicted / frame["latency_s"].to_numpy() - 1)
    assert error.mean() < bar


@pytest.mark.parametrize("name", ["rtx-3090", "a100-sxm-80gb"])
def test_the_backward_pass_takes_the_time_of_its_five_products(name: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from presilicon.sim.run import simulate
    from presilicon.workloads.models import trace_model

    system = load(name)
    results = simulate(trace_model("gpt2", phase="train", batch=4, seq=1024), system).results
    attention = [r for r in results if r.op.kind == "attention"]
    backward = [r for r in attention if r.op.attributes.get("backward")]
    forward = [r for r in attention if not r.op.attributes.get("backward")]
    for r in (*forward, *backward):
        assert r.estimate.time_s > r.op.flops / system.peaks_flops_per_s[r.arithmetic], "no faster than the tensor cores"
    ratio = max(r.estimate.time_s for r in backward) / max(r.estimate.time_s for r in forward)
    assert 1.8 < ratio < 3.0, "dQ, dK, dV, dP and the scores again, for the forward's two products"
