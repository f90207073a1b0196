"""Rules of GEMM libraries: tiles, the kernels that narrow an activation, and how the measured tables were taken."""

from __future__ import annotations

import math

import numpy as np
import pytest

from presilicon.arch import load
from presilicon.errors import UnknownNameError
from presilicon.mapping.gpu.gemm import gemm, table_options, table_weight_copies
from presilicon.mapping.gpu.gemm_kernels import LIBRARIES, deep_gemm, sglang_sm90, vllm_sm90, vllm_sm100
from presilicon.mapping.gpu.machine import Machine
from presilicon.mapping.gpu.quantise import QUANTISERS, quantiser_named

H100, B200 = Machine.of(load("h100-sxm")), Machine.of(load("b200"))
FP8 = {"arithmetic": "fp8", "a_bits": 8.0, "w_bits": 8.0}


def tile(rule: object, *sizes: float) -> tuple[float, ...]:
    return tuple(float(part) for part in rule(*sizes, 132.0))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("rule", "m", "n", "k", "rows", "columns"),
    [
        (vllm_sm90, 16, 1280, 4096, 16, 64),
        (vllm_sm90, 64, 1280, 4096, 16, 64),
        (vllm_sm90, 64, 1281, 4096, 64, 64),
        (vllm_sm90, 128, 4096, 4096, 64, 128),
        (vllm_sm90, 8192, 4096, 4096, 128, 128),
        (vllm_sm90, 8192, 4096, 6144, 256, 128),
        (vllm_sm100, 64, 4096, 2048, 64, 64),
        (vllm_sm100, 64, 4096, 4096, 64, 128),
        (sglang_sm90, 256, 4096, 4096, 64, 64),
        (sglang_sm90, 257, 4096, 4096, 128, 128),
    ],
)
def test_dispatch_of_cutlass_kernels(rule: object, m: int, n: int, k: int, rows: int, columns: int) -> None:
    assert tile(rule, m, n, k) == (rows, columns, 1)


@pytest.mark.parametrize(("m", "n"), [(1, 128), (64, 7168), (65, 4096), (256, 2048), (4096, 7168), (8192, 512)])
def test_deep_gemm_fills_the_last_of_the_fewest_rounds(m: int, n: int) -> None:
    sms = 132
    rows, columns, split = tile(deep_gemm, m, n, 4096)
    assert split == 1
    assert rows == 64 or m > 64

    def rank(height: float, width: float) -> tuple[int, int]:
        ctas = math.ceil(m / height) * math.ceil(n / width)
        return math.ceil(ctas / sms), -(ctas % sms or sms)

    heights = (64,) if m <= 64 else (64, 128)
    every = [(h, w) for h in heights for w in range(16, 257, 16) if h == 64 or w <= 192]
    assert rank(rows, columns) == min(rank(*one) for one in every)


def test_kernels_that_never_divide_k_are_slower_where_few_tiles_have_a_long_k() -> None:
    whole = gemm(H100, 16, 256, 16384, library="whole_k", **FP8)
    assert whole.choice["split_k"] == 1
    assert whole.time_s > 2.0 * gemm(H100, 16, 256, 16384, **FP8).time_s


def test_scales_by_block_cost_the_tensor_cores_time_on_hopper() -> None:
    """An operation or two for each accumulator and 128 elements of k, beside four cycles of products for one of the fp32 lanes."""
    plain, scaled = (gemm(H100, 8192, 8192, 8192, library=name, **FP8).time_s for name in ("whole_k", "deep_gemm_sm90"))
    assert 1.02 < scaled / plain < 1.6


@pytest.mark.parametrize(("name", "bytes_per_element"), [("group", 3), ("torch_tensor", 27), ("torch_row", 47), ("trtllm_tensor", 5)])
@pytest.mark.parametrize("machine", [H100, B200], ids=lambda m: m.name)
def test_a_chain_of_kernels_takes_the_bytes_that_it_moves(machine: Machine, name: str, bytes_per_element: int) -> None:
    m = k = 8192
    bare, whole = gemm(machine, m, 128, k, **FP8), gemm(machine, m, 128, k, quantiser=name, **FP8)
    moved = bytes_per_element * m * k
    assert whole.bytes_moved["dram"] - bare.bytes_moved["dram"] == pytest.approx(moved, rel=0.1)
    extra_s = float(whole.time_s - bare.time_s)
    assert moved / machine.dram_bytes_per_s < extra_s < 5.0 * moved / machine.dram_bytes_per_s


def test_small_activations_pay_a_floor_for_each_kernel() -> None:
    bare = gemm(H100, 1, 128, 128, **FP8).time_s
    for name, kernels in (("torch_tensor", 5), ("torch_row", 9), ("torch_group", 12)):
        extra_s = float(gemm(H100, 1, 128, 128, quantiser=name, **FP8).time_s - bare)
        assert kernels * 1e-6 < extra_s < kernels * 3e-6
    assert gemm(H100, 1, 128, 128, quantiser="group", **FP8).time_s - bare < 4e-6


@pytest.mark.parametrize("name", sorted(QUANTISERS))
def test_narrowing_more_is_never_faster(name: str) -> None:
    m = np.array([1.0, 64.0, 1000.0, 8192.0])
    for axis in (lambda: gemm(B200, m, 512, 4096, quantiser=name, **FP8), lambda: gemm(B200, 64, 512, 128 * m, quantiser=name, **FP8)):
        assert np.all(np.diff(axis().time_s) > 0)
    with pytest.raises(UnknownNameError):
        quantiser_named(name + "x")


def test_an_eager_call_takes_at_least_what_its_host_takes() -> None:
    host_s = B200["gemm.eager_call"]
    small, large = (gemm(B200, m, 4096, 4096, timed="eager", **FP8).time_s for m in (4, 2**20))
    assert small == pytest.approx(host_s)
    assert large == pytest.approx(gemm(B200, 2**20, 4096, 4096, **FP8).time_s)
    alone = gemm(H100, 4, 4096, 4096, timed="alone").time_s - gemm(H100, 4, 4096, 4096).time_s
    assert alone == pytest.approx(H100["gemm.profiled_launch"])


def test_few_rows_of_a_weight_only_product_stream_the_weights() -> None:
    """Dot products whose warps share k, so that no reduction kernel and no main loop of one CTA over all of k is left."""
    options = {"arithmetic": "bf16", "w_bits": 8.0, "dequantise": True, "library": "weight_only"}
    one = gemm(H100, 1, 8192, 8192, **options)
    assert one.choice["split_k"] == 1
    assert one.limiter() == "dram"
    assert 1.0 < one.time_s / (8192 * 8192 / H100.dram_bytes_per_s) < 1.6
    assert gemm(H100, 16, 512, 16384, **options).time_s > 1.2 * gemm(H100, 15, 512, 16384, **options).time_s


def test_tables_name_the_kernels_that_ran() -> None:
    assert table_options("bfloat16", "vllm_default", "sm_90") == {"weight_copies": 6.0}
    fp8 = {
        name: table_options("fp8", source, "sm_90", name)
        for name, source in (("vllm", "vllm_default"), ("sglang", "sglang"), ("trtllm", "torch_flow"))
    }
    assert [o["quantiser"] for o in fp8.values()] == ["torch_tensor", "row", "trtllm_tensor"]
    assert [o.get("library", "best") for o in fp8.values()] == ["vllm_sm90", "sglang_sm90", "best"]
    assert table_options("fp8", "CutlassFP8ScaledMMLinearKernel", "sm_89", "vllm")["quantiser"] == "vllm_rows"
    assert table_options("fp8_block", "vllm_default", "sm_100")["timed"] == "eager"
    assert "timed" not in table_options("fp8_block", "vllm_default", "sm_90")
    assert table_options("int8_wo", "sglang", "sm_90")["arithmetic"] == "int8"
    assert table_options("int4_wo", "trt_flow_/x", "sm_90")["timed"] == "alone"
    assert table_options("fp8", "torch_flow", "sm_100", "trtllm", "1.2.0rc5")["overlapped"]
    assert "overlapped" not in table_options("nvfp4", "torch_flow", "sm_100", "trtllm", "1.2.0rc5")
    general = table_options("fp8", "mine", "sm_90", "mine")
    assert general == {"weight_copies": 6.0, "quantiser": "group"}
    for dtype in ("bfloat16", "fp8", "fp8_block", "nvfp4", "int8_wo", "int4_wo", "int8", "w4a16"):
        for generation in ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120"):
            for framework in ("", "vllm", "sglang", "trtllm"):
                options = table_options(dtype, "", generation, framework)
                assert options.get("library", "best") in LIBRARIES
                assert options.get("quantiser", "group") in QUANTISERS


def test_tables_of_the_collector_with_int8_met_one_weight() -> None:
    frameworks, versions = ["SGLang", "sglang", "sglang", "vllm"], ["0.5.6", "0.5.6", "0.5.8", "0.12"]
    assert table_weight_copies(frameworks, versions, ["int8_wo", "fp8", "fp8", "int8_wo"]) == ["1", "1", "", ""]


def test_a_table_may_say_how_many_weights_its_calls_met() -> None:
    pd = pytest.importorskip("pandas")
    from presilicon.validate.optable import check, kind_named, predict

    kind, system = kind_named("gemm"), load("l40s")
    frame = pd.DataFrame({"m": [1, 1], "n": [4096, 4096], "k": [8192, 8192], "gemm_dtype": ["bfloat16"] * 2, "weight_copies": ["1", ""]})
    one, six = predict(check(frame, kind, "table"), kind, system)["predicted_s"]
    ratio = 4096 * 8192 * 2 / system.dram.bandwidth_bytes_per_s / six
    assert 0.6 < ratio < 1.0  # six of 67 MB come from DRAM,
    assert one < 0.6 * six  # one stays in 96 MiB of L2
