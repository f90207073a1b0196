"""Grids of CTAs that differ: which are alike, when the last one ends, and what they share."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs Triton (the extra `kernels`)")
torch = pytest.importorskip("torch", reason="needs torch for meta tensors")

sys.path.insert(0, str(Path(__file__).parent))

from presilicon import arch  # noqa: E402
from presilicon.mapping.triton import bind_launch, compile_launch, evaluate_grid  # noqa: E402
from presilicon.sim.sm.classes import Classes, cta_classes, grid_of, sample, spread_sample  # noqa: E402
from presilicon.sim.sm.dispatch import dispatch, run_dispatch  # noqa: E402
from presilicon.sim.sm.distinct import kinds_of  # noqa: E402
from presilicon.sim.sm.grid import follow  # noqa: E402
from presilicon.sim.sm.run import simulate_kernel  # noqa: E402

A100, H100 = arch.load("a100-sxm-80gb"), arch.load("h100-sxm")


@cache
def uneven_launch(kinds: int, rounds: int, programs: int) -> Any:
    from uneven import uneven

    x, out = (torch.empty(programs * 1024, dtype=torch.float32, device="meta") for _ in range(2))
    launch = bind_launch(uneven, (programs,), (x, out, rounds), {"KINDS": kinds, "BLOCK": 1024, "num_warps": 4}, target="sm_80")
    return compile_launch(launch), launch


@cache
def attention(target: str, length: int, causal: bool) -> Any:
    from presilicon.validate.kernels.attention import flash_attention

    heads, kv_heads, d = 32, 8, 128
    q, out = (torch.empty(1, heads, length, d, dtype=torch.bfloat16, device="meta") for _ in range(2))
    k, v = (torch.empty(1, kv_heads, length, d, dtype=torch.bfloat16, device="meta") for _ in range(2))
    stride = (length * d, d)
    meta = {"GROUP": 4, "HEAD_DIM": d, "CAUSAL": causal, "WINDOWED": False, "BLOCK_M": 128, "BLOCK_N": 64,
            "num_warps": 8 if target == "sm_90" else 4, "num_stages": 3}
    args = (q, k, v, out, 0.1, length, length, 0, *stride, *stride, *stride, *stride)
    launch = bind_launch(flash_attention, (length // 128, heads), args, meta, target=target)
    return compile_launch(launch), launch


@pytest.mark.parametrize(("programs", "most"), [(7, 7), (7, 1024), (5000, 1024), (16_512, 1024), (1, 4)])
def test_each_stretch_of_a_launch_has_one_cta_that_is_followed(programs: int, most: int) -> None:
    picks, owner = spread_sample(programs, most)
    assert len(picks) == min(programs, most)
    assert owner[picks].tolist() == list(range(len(picks)))
    assert (np.diff(owner) >= 0).all()
    assert np.bincount(owner).max() - np.bincount(owner).min() <= 1
    assert programs > most or picks.tolist() == list(range(programs))


@pytest.mark.parametrize(("programs", "end", "period", "busy"), [(16_512, 512, 8, 4), (16_512, 4096, 16, 4), (16_384, 4096, 8, 4),
                                                                 (65_536, 65_536, 32, 8), (8192, 8192, 8, 1)])
def test_work_dealt_out_in_a_period_is_met_as_often_as_it_is_there(programs: int, end: int, period: int, busy: int) -> None:
    # tiles in groups of rows, of which only some have work, at the begin of a grid that is made for the most there can be
    number = np.arange(programs)
    works = (number % period < busy) & (number < end)
    picks, owner = spread_sample(programs, 1024)
    assert works[picks][owner].sum() == pytest.approx(end * busy / period, rel=0.15)


def test_ctas_of_one_length_are_one_class() -> None:
    assert len(cta_classes(*uneven_launch(1, 64, 1000))) == 1


def test_lengths_make_classes_of_one_way() -> None:
    classes = cta_classes(*uneven_launch(8, 64, 1000))
    assert len(classes) == 8
    assert len(set(classes.way.tolist())) == 1
    assert sorted(classes.count.tolist()) == [125] * 8
    assert np.array_equal(np.argsort(classes.work[classes.number[:8]]), np.arange(8))
    work = np.sort(classes.work)
    assert np.allclose(np.diff(work), work[1] - work[0])


def test_what_lies_between_two_samples() -> None:
    work = np.array([10.0, 30.0, 20.0, 50.0, 1.0])
    classes = Classes(np.zeros(5, np.int64), np.arange(5), np.full(5, 2), work, np.array([0, 0, 0, 0, 1]))
    found = sample(classes)
    assert set(found.classes) == {0, 1, 3, 4}
    assert np.allclose(found.weights @ work[list(found.classes)], work)
    assert np.allclose(found.weights.sum(axis=1), 1.0)


@pytest.mark.parametrize("make", [lambda: uneven_launch(8, 64, 1000), lambda: attention("sm_80", 1024, True),
                                  lambda: attention("sm_90", 1024, True)])
def test_one_cta_of_each_class_counts_for_the_grid(make: Any) -> None:
    compiled, launch = make()
    classes = cta_classes(compiled, launch)
    samples = sample(classes)
    whole, found = evaluate_grid(compiled, launch), grid_of(compiled, launch, classes, samples, follow(compiled, launch, classes, samples))
    assert np.array_equal(whole.block_counts, found.block_counts)
    assert whole.tensor_flops == found.tensor_flops


def test_dispatch_against_hand_counts() -> None:
    length = np.array([100.0, 300.0])
    # three SMs: the long one first, short ones fill the others
    assert dispatch(np.array([1, 0, 0, 0, 0, 0, 0]), length, length, length, sms=3, slots=1).makespan == 300.0
    # the long one last: it begins when a slot is free
    assert dispatch(np.array([0, 0, 0, 1]), length, length, length, sms=3, slots=1).makespan == 400.0
    found = dispatch(np.array([0, 0, 0, 1]), length, length, length, sms=3, slots=1)
    assert found.active_sms == pytest.approx((100 + 100 + 400) / 400)
    # two on one SM that slow each other to half: the short one ends at 200, the long one has 200 to go, alone at full pace
    pair = dispatch(np.array([0, 1]), 2 * length, 2 * length, length, sms=1, slots=2)
    assert pair.makespan == pytest.approx(400.0)


def test_dispatch_is_no_better_than_the_work_and_the_longest_allow() -> None:
    rng = np.random.default_rng(0)
    length = rng.uniform(50.0, 400.0, 8)
    number = rng.integers(0, 8, 1000)
    for slots in (1, 3):
        found = dispatch(number, slots * length, slots * length, length, sms=20, slots=slots).makespan
        least = length[number].sum() / 20
        assert max(least, length.max()) <= found * (1 + 1e-9)
        assert found <= least + slots * length.max()


def test_python_and_compiled_dispatch_agree() -> None:
    pytest.importorskip("llvmlite")
    rng = np.random.default_rng(1)
    number, length = rng.integers(0, 4, 200), rng.uniform(1.0, 9.0, 4)
    company, crowd = np.zeros(3), np.zeros(3)
    plain = run_dispatch(number, length, length, length / 2, 7, 2, 2.0, company, crowd)
    found = dispatch(number, length, length, length / 2, sms=7, slots=2)
    assert found.makespan == plain[0]
    assert company[0] == 0.0
    assert company.sum() == pytest.approx(plain[1])  # time of SMs at work, however many they hold


def test_company_is_what_a_crowded_sm_has_and_empty_ctas_are_none() -> None:
    length = np.array([1000.0, 1.0])
    # three long ones on two SMs, and many that leave at once: one SM has two all the time, mean 1.5 CTAs an SM
    numbers = np.concatenate([np.zeros(3, np.int64), np.ones(200, np.int64)])
    found = dispatch(numbers, length, length, length, sms=2, slots=8)
    assert (found.most, found.resident) == (2, pytest.approx(3.0, rel=0.01))
    assert dispatch(np.zeros(2, np.int64), length, length, length, sms=2, slots=8).most == 1
    assert dispatch(np.zeros(100, np.int64), length, length, length, sms=2, slots=8).most == 8


@pytest.mark.parametrize("fidelity", ["cycle", "tile"])
def test_two_on_some_sms_take_less_than_twice_as_long_as_one(fidelity: str) -> None:
    def time_s(programs: int) -> float:
        found = simulate_kernel(*uneven_launch(2, 64, programs), A100, fidelity=fidelity)
        return found.time_s - found.launch_s

    # 108 SMs: 20 of them hold a second CTA, whose warps fill what latency leaves idle
    assert time_s(108) < time_s(128) < 1.6 * time_s(108)


@pytest.mark.parametrize("fidelity", ["cycle", "tile"])
@pytest.mark.parametrize("programs", [108 * 16 * 8, 108])
def test_lengths_from_one_to_eight_take_the_sum_of_their_times(fidelity: str, programs: int) -> None:
    def time_s(kinds: int, rounds: int) -> float:
        found = simulate_kernel(*uneven_launch(kinds, rounds, programs), A100, fidelity=fidelity)
        return found.time_s - found.launch_s

    each = [time_s(1, 64 * k) for k in range(1, 9)]
    mixed = time_s(8, 64)
    if programs <= 108:  # one CTA an SM: the longest
        assert mixed == pytest.approx(max(each), rel=0.03)
    else:  # eight waves: the mean of the eight grids, and at most one CTA more
        assert 0.97 * float(np.mean(each)) <= mixed <= float(np.mean(each)) + max(each) / 8


@pytest.mark.slow
@pytest.mark.parametrize(("target", "system"), [("sm_80", A100), ("sm_90", H100)])
@pytest.mark.parametrize("fidelity", ["cycle", "tile"])
def test_causal_attention_takes_little_more_than_half(target: str, system: Any, fidelity: str) -> None:
    whole, causal = (simulate_kernel(*attention(target, 4096, masked), system, fidelity=fidelity) for masked in (False, True))
    assert 0.5 < causal.time_s / whole.time_s < 0.75
    # q, k, v and out once; masked and unmasked loops read the same k and v
    compulsory = 2 * 128 * 4096 * (32 * 2 + 8 * 2)
    assert causal.bytes_moved["dram"] == pytest.approx(compulsory, rel=0.1)
    assert 0.0 < causal.tail_share < 0.5


def test_rows_are_told_apart_by_all_columns() -> None:
    rows = np.random.default_rng(5).integers(-2, 3, (400, 4))
    picks, kind = kinds_of(rows)
    ways, expected = np.unique(rows, axis=0, return_inverse=True)
    assert len(picks) == len(ways)
    assert np.array_equal(rows[picks[kind]], rows)
    assert np.array_equal(kind[:, None] == kind, expected.reshape(-1)[:, None] == expected.reshape(-1))
