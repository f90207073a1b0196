"""Fused MoE and grouped GEMM: expert loads, bounds, monotonicity, agreement with the measured tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon import arch
from presilicon.arch.constants import all_constants
from presilicon.errors import UnknownNameError
from presilicon.mapping.gpu import moe, moe_kernels
from presilicon.mapping.gpu.expert_load import BLOCK_ROWS, expert_load
from presilicon.mapping.gpu.machine import Machine

MEASURED = Path(__file__).resolve().parents[3] / "shared" / "measured"
TENSOR = {"bf16": 2048.0, "fp16": 2048.0, "tf32": 1024.0, "int8": 4096.0}
A100 = (108.0, 1.41e9, TENSOR, 64.0, 16.0, 128.0, 164 * 1024.0, 163 * 1024.0, 65536.0, 64.0, 32.0, 40 * 2**20, 5120.0,
        200 / 1.41e9, 80e9, 2.039e12, 390 / 1.41e9, 400.0, 60.0)  # fmt: skip
L40S = (142.0, 2.505e9, {"bf16": 1024.0, "fp16": 1024.0, "fp8": 2048.0, "int8": 2048.0}, 128.0, 16.0, 128.0,
        100 * 1024.0, 99 * 1024.0, 65536.0, 48.0, 24.0, 96 * 2**20, 3072.0, 279 / 2.505e9, 48e9, 0.864e12,
        636 / 2.505e9, 350.0, 80.0)  # fmt: skip
SIZES = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts")


def gpu(name: str, generation: str, numbers: tuple) -> Machine:
    known = {n: c.assume(generation)[0] for n, c in all_constants().items() if c.family == "moe"}
    return Machine(name, generation, *numbers, known)


GPUS = {"a100_sxm": gpu("a100-sxm-80gb", "sm_80", A100), "l40s": gpu("l40s", "sm_89", L40S)}
GPUS |= {"h100": Machine.of(arch.load("h100-sxm")), "b200": Machine.of(arch.load("b200"))}
LAYERS = st.tuples(
    st.integers(1, 20000), st.sampled_from([1024, 2688, 4096, 7168]), st.sampled_from([512, 1856, 2048, 14336]),
    st.sampled_from([1, 2, 4, 8]), st.sampled_from([8, 16, 64, 128, 256]),
)  # fmt: skip


def drawn_loads(tokens: int, experts: int, topk: int, ep: int, alpha: float) -> tuple[float, float, float]:
    """Mean rows, active experts and 64-row blocks of the heaviest of `ep` ranks over 40 draws."""
    rng = np.random.default_rng(0)
    pairs = tokens * topk
    low, high = (1.0, 0.8 * tokens) if pairs > experts else (0.01, 2.0)
    found = []
    for _ in range(40):
        u = rng.random(experts)
        x = ((high ** (1 - alpha) - low ** (1 - alpha)) * u + low ** (1 - alpha)) ** (1 / (1 - alpha))
        counts = np.rint(x / x.sum() * pairs).reshape(ep, -1)
        heavy = counts[counts.sum(1).argmax()]
        found.append((heavy.sum(), (heavy > 0).sum(), np.ceil(heavy / 64).sum()))
    return tuple(np.mean(found, 0))


@pytest.mark.parametrize(("tokens", "experts", "topk", "ep", "alpha"), [
    (4096, 128, 8, 1, 1.01), (4096, 128, 8, 8, 1.01), (16384, 256, 8, 32, 1.01), (2048, 256, 8, 16, 1.2),
    (1024, 384, 8, 384, 1.2),
])  # fmt: skip
def test_heaviest_rank_agrees_with_drawn_loads(tokens: int, experts: int, topk: int, ep: int, alpha: float) -> None:
    load = expert_load(tokens, experts, topk, ep, f"power_law_{alpha}")
    rows, active, tiles = drawn_loads(tokens, experts, topk, ep, alpha)
    assert float(load.rows) == pytest.approx(rows, rel=0.12)
    assert float(load.active) == pytest.approx(active, rel=0.1)
    assert float(load.tiles[64]) == pytest.approx(tiles, rel=0.12)


@pytest.mark.parametrize("distribution", ["balanced", "power_law_1.01", "power_law_1.2"])
def test_loads_conserve_pairs_and_pad_to_whole_blocks(distribution: str) -> None:
    tokens, experts, topk = np.array([1.0, 17.0, 300.0, 8192.0]), 64, 4
    load = expert_load(tokens, experts, topk, 1, distribution)
    np.testing.assert_allclose(load.rows, tokens * topk, rtol=0.03)
    assert (load.active <= np.minimum(experts, load.rows) + 1e-9).all()
    for rows in BLOCK_ROWS:
        assert (load.tiles[rows] * rows >= load.rows * 0.99).all()
        assert (load.tiles[rows] >= load.active - 1e-9).all()
        assert (load.tiles[rows] <= load.rows / rows + load.active + 1e-6).all()


def test_expert_parallel_ranks_do_less_and_the_heaviest_more_than_its_share() -> None:
    ep = np.array([1.0, 2.0, 8.0, 32.0, 128.0])
    load = expert_load(4096, 128, 8, ep, "power_law_1.2")
    assert (np.diff(load.rows) < 0).all()
    assert (load.rows[1:] > 4096 * 8 / ep[1:]).all()


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    layer=LAYERS, name=st.sampled_from(sorted(GPUS)), library=st.sampled_from(moe_kernels.LIBRARIES),
    ep=st.sampled_from([1, 2, 8]), remote=st.sampled_from(moe.REMOTE_ROWS), tuned=st.booleans(),
    field=st.sampled_from(["sm_count", "clock_hz", "l2_bytes", "l2_bytes_per_clk", "dram_bytes_per_s", "smem_bytes",
                           "registers", "smem_bytes_per_clk", "max_ctas", "smem_bytes_per_cta", "power_limit_w"]),
    factor=st.floats(1.0, 3.0),
)  # fmt: skip
def test_better_machine_and_smaller_batch_are_never_slower_and_roofline_holds(
    layer: tuple, name: str, library: str, ep: int, remote: str, tuned: bool, field: str, factor: float
) -> None:
    machine, (tokens, hidden, inter, topk, experts) = GPUS[name], layer

    def time(m: Machine, t: int) -> float:
        options = {"moe_ep_size": ep, "library": library, "remote_rows": remote, "tuned": tuned}
        return float(moe.fused_moe(m, t, hidden, inter, topk, experts, **options).time_s)

    base = time(machine, tokens)
    assert time(replace(machine, **{field: getattr(machine, field) * factor}), tokens) <= base * (1 + 1e-9)
    assert time(machine, 2 * tokens) >= base * (1 - 1e-9)
    assert base > 6 * tokens * topk / ep * hidden * inter / machine.tensor_rate("bf16")


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 50000), n=st.sampled_from([512, 1408, 4096]), k=st.sampled_from([512, 2048, 7168]),
    groups=st.sampled_from([1, 8, 64, 256]), factor=st.floats(1.0, 2.0),
    field=st.sampled_from(["sm_count", "clock_hz", "l2_bytes"]),
)  # fmt: skip
def test_grouped_gemm_is_monotone_and_above_the_roofline(
    rows: int, n: int, k: int, groups: int, factor: float, field: str
) -> None:
    machine = GPUS["a100_sxm"]
    base = moe.grouped_gemm(machine, rows, n, k, groups)
    assert moe.grouped_gemm(machine, 2 * rows, n, k, groups).time_s >= base.time_s * (1 - 1e-9)
    better = replace(machine, **{field: getattr(machine, field) * factor})
    assert moe.grouped_gemm(better, rows, n, k, groups).time_s <= base.time_s * (1 + 1e-9)
    assert base.time_s > 2.0 * rows * n * k / machine.tensor_rate("bf16")
    weights, moved = min(groups, rows) * n * k * 2, rows * (n + k) * 2
    cold = moe.grouped_gemm(machine, rows, n, k, groups, active=min(groups, rows), warm=False)
    assert cold.bytes_moved["dram"] >= 0.999 * (weights + moved)
    assert cold.time_s > (weights + moved) / machine.dram_bytes_per_s


def test_designs_broadcast_against_layers() -> None:
    base = GPUS["a100_sxm"]
    designs = replace(
        base, sm_count=np.array([[80.0], [108.0], [160.0]]), l2_bytes=np.array([[20.0], [40.0], [80.0]]) * 2**20
    )
    tokens, experts = np.array([1.0, 64.0, 4096.0, 16384.0]), np.array([8, 64, 128, 256])
    both = moe.fused_moe(designs, tokens, 4096, 1536, 2, experts, distribution="power_law_1.01", tuned=False)
    assert both.time_s.shape == (3, 4)
    assert {v.shape for v in both.busy_s.values()} == {(3, 4)}
    one = moe.fused_moe(base, tokens[2], 4096, 1536, 2, experts[2], distribution="power_law_1.01", tuned=False)
    np.testing.assert_allclose(both.time_s[1, 2], one.time_s)
    assert (np.diff(both.time_s, axis=0) <= 0).all()


def test_few_tokens_stream_the_active_weights() -> None:
    """32 tokens of a DeepSeek-sized layer: DRAM limits, and at most its peak rate is reached."""
    machine = GPUS["a100_sxm"]
    times = moe.fused_moe(machine, 32, 7168, 2048, 8, 256)
    weights = 256 * 3 * 7168 * 2048 * 2
    assert times.limiter() == "dram"
    assert 0.65 < weights / machine.dram_bytes_per_s / times.time_s < 1
    assert times.bytes_moved["dram"] == pytest.approx(weights, rel=0.02)
    cold = moe.fused_moe(machine, 1, 2048, 768, 8, 128, moe_tp_size=8, warm=False)
    warm = moe.fused_moe(machine, 1, 2048, 768, 8, 128, moe_tp_size=8)
    assert warm.bytes_moved["dram"] < cold.bytes_moved["dram"]
    assert warm.time_s < cold.time_s


def test_routing_skew_costs_where_it_pads_and_saves_where_it_leaves_experts_idle() -> None:
    machine = GPUS["a100_sxm"]
    even = moe.fused_moe(machine, [64, 8192], 4096, 1536, 8, 128, moe_ep_size=8)
    skew = moe.fused_moe(machine, [64, 8192], 4096, 1536, 8, 128, moe_ep_size=8, distribution="power_law_1.2")
    assert skew.time_s[1] > 1.2 * even.time_s[1]
    idle = moe.fused_moe(machine, 64, 4096, 1536, 8, 128, distribution="power_law_1.2")
    assert idle.time_s < moe.fused_moe(machine, 64, 4096, 1536, 8, 128).time_s


def test_tuned_tiles_and_short_rows() -> None:
    machine = GPUS["a100_sxm"]
    default = moe.fused_moe(machine, 8192, 4096, 7168, 2, 8, tuned=False)
    shipped = moe.fused_moe(machine, 8192, 4096, 7168, 2, 8)
    assert default.choice["tile_m"] == 64
    assert shipped.choice["tile_m"] == 128
    assert shipped.time_s < 0.75 * default.time_s
    ragged, whole = moe.fused_moe(
        machine, 8192, 2688, np.array([1856, 1920]), 6, 128, moe_tp_size=8, tuned=False
    ).time_s
    assert ragged > 1.2 * whole


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    machine = GPUS["a100_sxm"]
    with pytest.raises(UnknownNameError, match="power_law"):
        moe.fused_moe(machine, 8, 1024, 512, 2, 8, distribution="power_low_1.2")
    with pytest.raises(UnknownNameError, match="balanced"):
        expert_load(8, 8, 2, 1, "zipf")
    with pytest.raises(UnknownNameError, match="sglang"):
        moe.fused_moe(machine, 8, 1024, 512, 2, 8, library="sglan")
    with pytest.raises(UnknownNameError):
        moe.fused_moe(machine, 8, 1024, 512, 2, 8, remote_rows="gone")
    with pytest.raises(UnknownNameError):
        moe_kernels.implementation_of("tensorflow")


@pytest.mark.parametrize(("name", "bar"), [("a100_sxm", 0.10), ("l40s", 0.14)])
def test_measured_tables(name: str, bar: float) -> None:
    path = MEASURED / f"{name}.moe_triton.csv"
    if not path.exists():
        pytest.skip(f"measured tables are not beside the repository: {path}")
    import pandas as pd

    frame = pd.read_csv(path).iloc[::3].reset_index(drop=True)
    errors = []
    for (framework, version, dtype, distribution), part in frame.groupby(
        ["framework", "version", "moe_dtype", "distribution"]
    ):
        fp8 = dtype.startswith("fp8")
        options = {"w_bits": 8 if fp8 else 16} | moe_kernels.implementation_of(framework, version, dtype)
        times = moe.fused_moe(
            GPUS[name],
            *(part[c].to_numpy() for c in SIZES),
            moe_tp_size=part["moe_tp_size"].to_numpy(),
            moe_ep_size=part["moe_ep_size"].to_numpy(),
            distribution=distribution,
            arithmetic="fp8" if fp8 else "bf16",
            gated=moe_kernels.is_gated(framework, version, part["hidden_size"], part["inter_size"], part["topk"]),
            **options,
        )
        errors.append(np.abs(times.time_s / part["latency_s"].to_numpy() - 1))
    assert np.concatenate(errors).mean() < bar


def collected_load(tokens: int, experts: int, topk: int, ep: int, alpha: float) -> tuple[float, float]:
    """Mean rows and active experts of the first rank over 40 draws of the collector of early 2026.

    What rounding leaves over goes to the experts with most rows; the heaviest rank trades places with the first; the rows
    are laid out expert by expert over the top-k columns, and a token's repeated expert gives way to the first free ones.
    """
    rng = np.random.default_rng(1)
    pairs = tokens * topk
    low, high = (1.0, 0.8 * tokens) if pairs > experts else (0.01, 2.0)
    found = []
    for _ in range(40):
        u = rng.random(experts)
        x = ((high ** (1 - alpha) - low ** (1 - alpha)) * u + low ** (1 - alpha)) ** (1 / (1 - alpha))
        counts = np.rint(x / x.sum() * pairs).astype(int)
        order = np.argsort(-counts, kind="stable")
        left = pairs - counts.sum()
        if left > 0:
            np.add.at(counts, order[np.arange(left) % experts], 1)
        for _ in range(-left):
            counts[counts.argmax()] -= 1
        ranks = counts.reshape(ep, -1)
        heavy = ranks.sum(1).argmax()
        ranks[[0, heavy]] = ranks[[heavy, 0]]
        order = np.argsort(-counts, kind="stable")
        columns = np.repeat(order, counts[order]).reshape(topk, tokens).T
        chosen = np.zeros((tokens, experts), int)
        np.add.at(chosen, (np.repeat(np.arange(tokens), topk), columns.ravel()), 1)
        best = np.argsort(-chosen, axis=1, kind="stable")[:, :topk]
        local = np.bincount(best.ravel(), minlength=experts)[: experts // ep]
        found.append((local.sum(), (local > 0).sum()))
    return tuple(np.mean(found, 0))


@pytest.mark.parametrize(("tokens", "experts", "topk", "ep"), [
    (1, 256, 8, 8), (2, 256, 8, 1), (4, 256, 8, 1), (16, 128, 8, 4), (256, 256, 8, 8), (1024, 8, 2, 8), (256, 8, 2, 2),
])  # fmt: skip
def test_rounding_of_the_older_draws_agrees_with_drawn_loads(tokens: int, experts: int, topk: int, ep: int) -> None:
    load = expert_load(tokens, experts, topk, ep, "power_law_1.2", rounding="popular")
    rows, active = collected_load(tokens, experts, topk, ep, 1.2)
    assert float(load.rows) == pytest.approx(rows, rel=0.15)
    assert float(load.active) == pytest.approx(active, rel=0.17)


def test_a_lone_token_of_the_older_draws_has_all_its_experts_on_one_rank() -> None:
    old = expert_load(1, 256, 8, 8, "power_law_1.2", rounding="popular")
    assert (float(old.rows), float(old.active)) == (8.0, 8.0)
    assert float(expert_load(1, 256, 8, 8, "power_law_1.2").rows) == 1.0
    with pytest.raises(UnknownNameError, match="popular"):
        expert_load(1, 256, 8, 8, "power_law_1.2", rounding="up")


def test_older_vllm_takes_the_tiles_of_sglang() -> None:
    old = moe_kernels.implementation_of("vllm", "0.14.0")["library"]
    few, many = (moe_kernels.default_tile(old, tokens, 128, fp8=fp8) for tokens, fp8 in ((64, False), (256, True)))
    assert (few.m, few.n, few.k) == (16, 32, 64)
    assert (many.m, many.n, many.k) == (64, 64, 32)
    assert moe_kernels.implementation_of("vllm", "0.24.0")["library"] == "vllm"


def test_tensorrt_llm_streams_the_active_weights_and_pads_to_fewer_tokens() -> None:
    for name, peak in (("h100-sxm", 0.85), ("b200", 0.65), ("a100-sxm-80gb", 0.8)):
        machine = Machine.of(arch.load(name))
        times = moe.fused_moe(machine, 32, 7168, 2048, 8, 256, library="trtllm")
        weights = 256 * 3 * 7168 * 2048 * 2
        assert times.limiter() == "dram"
        assert peak < weights / machine.dram_bytes_per_s / times.time_s < 1
        assert times.choice["tile_m"] <= 32


def test_a_sum_in_the_second_gemm_saves_a_pass_over_the_rows() -> None:
    machine = Machine.of(arch.load("h100-sxm"))
    older, newer = (moe.fused_moe(machine, 16384, 7168, 2048, 8, 256, library=n, moe_tp_size=8) for n in ("trtllm-1.0", "trtllm"))
    rows = 16384 * 8 * 7168 * 2
    assert newer.time_s < older.time_s
    assert older.bytes_moved["dram"] - newer.bytes_moved["dram"] == pytest.approx(rows, rel=0.3)


def test_without_timed_tactics_hopper_runs_the_first_of_the_list() -> None:
    hopper, ampere = (Machine.of(arch.load(name)) for name in ("h100-sxm", "a100-sxm-80gb"))

    def slower(machine: Machine) -> float:
        best, first = (
            moe.fused_moe(machine, 2048, 7168, 2048, 8, 256, moe_ep_size=64, library="trtllm", tuned=tuned).time_s
            for tuned in (True, False)
        )
        return float(first / best)

    assert slower(hopper) > 1.5
    assert slower(ampere) == 1.0


def test_tactics_of_another_shape_hide_those_of_a_number_that_begins_alike() -> None:
    ranks = np.array([1, 8, 32, 64, 128, 256])
    found = moe_kernels.is_timed("1.2.0rc5", "fp8", 7168, 2048, 256, ranks)
    assert found.tolist() == [True, True, True, False, False, False]  # 4, 2 and 1 begin 48, 256 and 128
    assert moe_kernels.is_timed("1.2.0rc5", "fp8_block", 7168, 2048, 256, ranks).all()
    assert moe_kernels.is_timed("1.0.0rc3", "fp8", 7168, 2048, 256, ranks).all()
    assert moe_kernels.is_timed("1.2.0rc5", "float16", 4096, 14336, 8, [1, 2, 4, 8]).all()


def test_formats_with_fewer_bits_are_faster_on_blackwell() -> None:
    machine = Machine.of(arch.load("b200"))
    layer = (np.array([32.0, 16384.0]), 7168, 2048, 8, 256)
    formats = ({}, {"arithmetic": "fp8", "w_bits": 8}, {"arithmetic": "fp4", "w_bits": 4.5})
    wide, byte, half = (moe.fused_moe(machine, *layer, library="trtllm", **how).time_s for how in formats)
    assert (byte < 0.75 * wide).all()
    assert (half < 0.85 * byte).all()
