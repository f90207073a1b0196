"""Pruned weights on GPUs: bounds, monotonicity, what sparse tensor cores gain and what devices without them do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.arch import load
from presilicon.errors import SpecError
from presilicon.mapping.gpu.energy import kernel_energy
from presilicon.mapping.gpu.gemm import gemm
from presilicon.mapping.gpu.lower import Kernel, lower
from presilicon.mapping.gpu.machine import Machine
from presilicon.mapping.gpu.moe import grouped_gemm
from presilicon.mapping.gpu.sparse import arithmetic_label, executed_share, sparse_options
from presilicon.workloads import Op, OpGraph, quantise, sparsify, tensor
from presilicon.workloads.formats import by_name

GPUS = {name: Machine.of(load(name)) for name in ("a100-sxm-80gb", "l40s", "h100-sxm", "b200", "l4")}
T4, V100 = Machine.of(load("t4")), Machine.of(load("v100-sxm"))
NAMES = st.sampled_from(sorted(GPUS))
SIZES = st.tuples(st.integers(1, 20000), st.integers(1, 30000), st.integers(1, 4000).map(lambda k: 8 * k), st.sampled_from([1, 1, 3]))


def options(scheme: str, fmt: str = "fp16") -> dict[str, Any]:
    pruned = by_name(f"{fmt}@{scheme}") if scheme else by_name(fmt)
    return {"arithmetic": "fp16", "w_bits": pruned.bits, "weight_copies": float("inf")} | sparse_options(pruned, "fp16")


@settings(max_examples=80, deadline=None)
@given(name=NAMES, size=SIZES, scheme=st.sampled_from(["2:4", "1:2", "4:8", "unstructured:0.7", "tiled_csl:0.9"]))
def test_never_beats_the_roofline(name: str, size: tuple[int, ...], scheme: str) -> None:
    gpu, (m, n, k, batch) = GPUS[name], size
    given_options = options(scheme)
    times = gemm(gpu, m, n, k, batch, **given_options)
    label = arithmetic_label(given_options, gpu)
    assert label == ("fp16_sparse" if scheme in ("2:4", "1:2") else "fp16")
    assert times.time_s >= 2.0 * m * n * k * batch / load(name).peaks_flops_per_s[label]
    assert times.time_s >= n * k * batch * given_options["w_bits"] / 8 / gpu.dram_bytes_per_s
    assert times.bytes_moved["dram"] >= n * k * batch * given_options["w_bits"] / 8


@settings(max_examples=80, deadline=None)
@given(name=NAMES, size=SIZES, zeros=st.floats(0.05, 0.9), more=st.floats(0.005, 0.095))
def test_sparser_is_never_slower(name: str, size: tuple[int, ...], zeros: float, more: float) -> None:
    less, most = (gemm(GPUS[name], *size, **options(f"unstructured:{share:.4f}")).time_s for share in (zeros, zeros + more))
    assert most <= less * (1 + 1e-9)


@settings(max_examples=80, deadline=None)
@given(name=NAMES, size=SIZES)
def test_two_of_four_gains_at_most_two_and_is_never_slower(name: str, size: tuple[int, ...]) -> None:
    gpu = GPUS[name]
    dense, pruned = gemm(gpu, *size, **options("")).time_s, gemm(gpu, *size, **options("2:4")).time_s
    assert dense / 2 <= pruned <= dense * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(name=NAMES, size=SIZES, speedup=st.floats(1.0, 1.99))
def test_faster_sparse_tensor_cores_are_never_slower(name: str, size: tuple[int, ...], speedup: float) -> None:
    slow, fast = (gemm(replace(GPUS[name], sparse_speedup=s), *size, **options("2:4")).time_s for s in (speedup, speedup + 0.01))
    assert fast <= slow * (1 + 1e-9)


@pytest.mark.parametrize("gpu", [T4, V100])
@pytest.mark.parametrize("scheme", ["2:4", "unstructured:0.9"])
def test_without_sparse_tensor_cores_only_bytes_shrink(gpu: Machine, scheme: str) -> None:
    size = (4096, 8192, 8192)
    dense, pruned = gemm(gpu, *size, **options("")), gemm(gpu, *size, **options(scheme))
    clocks = pruned.clock_hz / dense.clock_hz
    assert pruned.busy_s["tensor"] * clocks == pytest.approx(dense.busy_s["tensor"])
    assert pruned.bytes_moved["dram"] < dense.bytes_moved["dram"]
    assert executed_share(options(scheme), gpu) == 1.0
    row = (8, 8192, 8192)
    assert gemm(gpu, *row, **options(scheme)).time_s < gemm(gpu, *row, **options("")).time_s  # memory bound


def test_the_activations_limit_what_skipping_gains() -> None:
    """Half of the activations meets no weight, but all of them pass shared memory: a large product gains less than two."""
    gpu, size = GPUS["a100-sxm-80gb"], (8192, 8192, 8192)
    dense, pruned = gemm(gpu, *size, **options("")), gemm(gpu, *size, **options("2:4"))
    assert 1.2 < float(dense.time_s / pruned.time_s) < 1.9
    wide = replace(gpu, smem_bytes_per_clk=16 * gpu.smem_bytes_per_clk, l2_bytes_per_clk=16 * gpu.l2_bytes_per_clk, power_limit_w=1e9,
                   dram_bytes_per_s=16 * gpu.dram_bytes_per_s)
    ideal = gemm(wide, *size, **options("")).time_s / gemm(wide, *size, **options("2:4")).time_s
    assert ideal > dense.time_s / pruned.time_s


def test_energy_is_that_of_executed_products() -> None:
    gpu, size = GPUS["h100-sxm"], (4096, 4096, 4096)
    kernels = {s: Kernel("op", "gemm", dict(zip("mnk", size, strict=True)), options(s), flops=2.0 * 4096**3) for s in ("", "2:4", "4:8")}
    joules = {}
    for scheme, kernel in kernels.items():
        times = gemm(replace(gpu, power_limit_w=1e9), *size, **options(scheme))
        joules[scheme] = float(kernel_energy([kernel], times, gpu)["tensor"][0])
    assert joules["2:4"] == pytest.approx(joules[""] / 2)
    assert joules["4:8"] == pytest.approx(joules[""])


def test_designs_with_and_without_sparse_tensor_cores_on_one_array() -> None:
    speedups = np.array([1.0, 1.0001, 1.5, 2.0])
    gpu = GPUS["a100-sxm-80gb"]
    together = gemm(replace(gpu, sparse_speedup=speedups[:, np.newaxis]), np.array([16, 2048, 8192]), 4096, 4096, **options("2:4"))
    for i, speedup in enumerate(speedups):
        alone = gemm(replace(gpu, sparse_speedup=speedup), np.array([16, 2048, 8192]), 4096, 4096, **options("2:4"))
        np.testing.assert_allclose(together.time_s[i], alone.time_s, rtol=1e-12)
        for name, busy in alone.busy_s.items():
            np.testing.assert_allclose(together.busy_s[name][i], busy, rtol=1e-12, err_msg=name)


def matmul(weight: str, activation: str = "bf16") -> Op:
    operands = (tensor("a", "input", "m k", activation), tensor("w", "weight", "n k", weight), tensor("out", "output", "m n", "bf16"))
    return Op("op", "matmul", "aten.linear", {"m": 64, "n": 4096, "k": 4096}, operands, {"mac": 1.0})


@pytest.mark.parametrize(
    ("weight", "activation", "device", "arithmetic", "skip", "dequantise"),
    [
        ("bf16@2:4", "bf16", "h100-sxm", "bf16", True, False),
        ("w4_g128@2:4", "bf16", "a100-sxm-80gb", "bf16", True, True),  # Sparse-Marlin
        ("int8@2:4", "int8", "a100-sxm-80gb", "int8", True, False),
        ("fp8_e4m3@2:4", "fp8_e4m3", "h100-sxm", "fp8", True, False),
        ("nvfp4@2:4", "nvfp4", "b200", "fp4", False, False),  # 4-bit elements are skipped in pairs only
        ("fp32@2:4", "fp32", "a100-sxm-80gb", "fma", False, False),
        ("bf16@4:8", "bf16", "h100-sxm", "bf16", False, False),
        ("bf16@unstructured:0.5", "bf16", "h100-sxm", "bf16", False, False),
        ("w8_g128@unstructured:0.5", "bf16", "t4", "fp16", False, True),
    ],
)
def test_lowering(weight: str, activation: str, device: str, arithmetic: str, skip: bool, dequantise: bool) -> None:
    kernel = lower(matmul(weight, activation), load(device).gpu.sm.tensor_flops_per_clk)
    assert kernel.options["w_bits"] == by_name(weight).bits
    pruned = kernel.options["pruned"]
    assert pruned.bits == by_name(weight).dense.bits
    assert (kernel.options["arithmetic"], pruned.skippable, kernel.options["dequantise"]) == (arithmetic, skip, dequantise)
    assert "pruned" not in lower(matmul("bf16"), load(device).gpu.sm.tensor_flops_per_clk).options


def test_grouped_products_prune_their_experts() -> None:
    gpu = GPUS["h100-sxm"]
    few, many = {"rows": 16.0, "n": 4096.0, "k": 4096.0, "groups": 8.0}, {"rows": 65536.0, "n": 4096.0, "k": 4096.0, "groups": 8.0}
    pruning = {name: options("2:4")[name] for name in ("w_bits", "pruned")}
    for sizes, gain in ((few, 1.3), (many, 1.2)):
        dense, pruned = grouped_gemm(gpu, **sizes), grouped_gemm(gpu, **sizes, **pruning)
        assert gain < float(dense.time_s / pruned.time_s) <= 2.0
    expanded = grouped_gemm(T4, **few, arithmetic="fp16", **pruning)
    assert expanded.busy_s["tensor"] == pytest.approx(grouped_gemm(T4, **few, arithmetic="fp16").busy_s["tensor"])


def test_the_key_of_a_device_file() -> None:
    h100, t4 = load("h100-sxm"), load("t4")
    assert (h100.gpu.sm.sparse_speedup, t4.gpu.sm.sparse_speedup) == (2.0, 1.0)
    assert h100.provenance["gpu.sm.sparse_speedup"].status == "sourced"
    assert h100.peaks_flops_per_s["fp8_sparse"] == 2 * h100.peaks_flops_per_s["fp8"] == pytest.approx(3958e12, rel=0.01)
    assert not any(name.endswith("_sparse") for name in t4.peaks_flops_per_s)
    assert "fp64_sparse" not in h100.peaks_flops_per_s
    for value, word in ((0.5, "1 or more"), (2.5, "at most 2")):
        with pytest.raises(SpecError, match=word):
            h100.override({"gpu.sm.sparse_speedup": value})


def test_w4_and_two_of_four_is_what_marlin_stores() -> None:
    graph = OpGraph("one", [matmul("bf16")])
    weight = quantise(sparsify(graph, "2:4"), "w4a16")["op"].operands[1].number_format
    assert weight.bits == 0.5 * (4 + 2) + 16 / 128
