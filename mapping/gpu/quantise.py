"""Kernels that narrow the activation before a matrix multiply, by library, and the time that they take.

A scaled product of narrow operands starts from a bf16 activation: its scales are found and it is written again in fewer bits, by kernels
of their own before the GEMM. How many there are and how often they pass over the activation is a property of the library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from ...errors import UnknownNameError

#: Elements of the weights that share a scale in each direction (block-scaled fp8).
BLOCK: Final = 128.0


class Pass(NamedTuple):
    """One kernel.

    Attributes
    ----------
    read, written
        Bytes per element; `OUT` stands for the width that the GEMM reads.
    rate
        Constant that limits its bytes, or its elements, per clock and SM beside the memory's bandwidth.
    again
        Bytes per element that it reads once more, from L2.
    of_weights
        Its elements are the scales that the rows of the weights carry, k / 128 for each row, not those of the activation.
    """

    read: float
    written: float
    rate: str = "gemm.stream_bytes"
    again: float = 0.0
    of_weights: bool = False


OUT: Final = -1.0


class Quantiser(NamedTuple):
    """Kernels of a library before a GEMM.

    Attributes
    ----------
    passes
        Those that work through a tensor.
    steps
        How many floors of a small kernel they and those on a few scales last, one kernel that finds scales and narrows apart. A
        reduction counts one more, and so does a grid of 1,024 CTAs.
    fused
        One kernel finds the scales and narrows.
    row_ctas
        It has a small CTA for each row, which takes its time to start.
    """

    passes: tuple[Pass, ...]
    steps: int
    fused: bool = False
    row_ctas: bool = False


#: Sources: vLLM 0.14, model_executor/layers/quantization/input_quant_fp8.py (QuantFP8.forward_native, which runs wherever a model is
#: built with Inductor's defaults but not compiled); SGLang, sgl-kernel per_token_quant_fp8.cu and per_token_group_quant_8bit.cu;
#: TensorRT-LLM, cpp/tensorrt_llm/common/cudaFp8Utils.cu (invokeComputeScalesAndQuantizeMatrix); DeepGEMM, csrc/apis/layout.hpp
#: (transform_sf_into_required_layout for sm_100); AIConfigurator, collector/sglang/collect_gemm.py (per_token_quant_int8).
QUANTISERS: Final[Mapping[str, Quantiser]] = {
    # One kernel whose threads hold a group of elements between finding its scale and writing it.
    "group": Quantiser((Pass(2.0, OUT),), 0, fused=True),
    # One CTA per row, which reads it twice.
    "row": Quantiser((Pass(2.0, OUT, again=2.0),), 0, fused=True),
    # vLLM's own, static scale.
    "vllm_rows": Quantiser((Pass(2.0, OUT),), 0, fused=True, row_ctas=True),
    # PyTorch, static scale: widen, reciprocal of the scale, multiply, clamp, narrow.
    "torch_tensor": Quantiser((Pass(2.0, 4.0), Pass(4.0, 4.0), Pass(4.0, 4.0), Pass(4.0, OUT)), 5),
    # PyTorch, groups of 128: magnitude, maximum with its index, three kernels on the scales, divide, clamp,
    # narrow, scales transposed, and aligned by DeepGEMM.
    "torch_group": Quantiser(
        (Pass(2.0, 2.0), Pass(2.0, 0.0, "gemm.group_maximum_elements"), Pass(2.0, 4.0), Pass(4.0, 4.0), Pass(4.0, OUT)), 13
    ),
    # PyTorch, rows to int8: widen, magnitude, maximum, two kernels on the scales, divide, round, clamp, narrow.
    "torch_row": Quantiser(
        (Pass(2.0, 4.0), Pass(4.0, 4.0), Pass(4.0, 0.0), Pass(4.0, 4.0), Pass(4.0, 4.0), Pass(4.0, 4.0), Pass(4.0, OUT)), 10
    ),
    # TensorRT-LLM, dynamic scale of the whole tensor: clear, maximum, scale to float32, narrow; both large kernels
    # load one element at a time, in 1,024 CTAs.
    "trtllm_tensor": Quantiser((Pass(2.0, 0.0, "gemm.scalar_bytes"), Pass(2.0, OUT, "gemm.scalar_bytes")), 7),
    # The group kernel, then DeepGEMM's for weight scales that are not in Blackwell's layout: row numbers, their blocks, gather, pack.
    "group_and_weight_scales": Quantiser((Pass(2.0, OUT), Pass(4.0, 4.0, "gemm.scale_elements", of_weights=True)), 4, fused=True),
}


def quantiser_named(name: str) -> Quantiser:
    """Look a quantiser up; unknown names raise with the nearest."""
    if name not in QUANTISERS:
        raise UnknownNameError("quantiser of a GEMM", name, QUANTISERS)
    return QUANTISERS[name]


def quantise_s(
    x: Mapping[str, np.ndarray], quantiser: Quantiser, out_bytes: float, missing: Callable[[Any], Any], dram_bytes_per_clk: Any
) -> tuple[Any, Any, Any]:
    """Seconds of all kernels, seconds of their launches alone, and bytes from and to DRAM.

    Parameters
    ----------
    x
        Sizes ``m``, ``n``, ``k``, ``batch`` and the machine's numbers, as `gemm` holds them.
    out_bytes
        Bytes per element of the narrow activation.
    missing
        Share of a footprint in bytes that L2 does not hold.
    dram_bytes_per_clk
        Achievable.

    Notes
    -----
    A stream of kernels that touch each byte once keeps a limited number of bytes in flight per SM, so that its rate falls short of a
    fast memory's: the two limits join as independent causes of waiting (root of the sum of squares).
    """
    cycles: Any = 0.0
    dram: Any = 0.0
    for one in quantiser.passes:
        written = out_bytes if one.written == OUT else one.written
        elements = x["n"] * np.ceil(x["k"] / BLOCK) if one.of_weights else x["m"] * x["k"]
        elements = elements * x["batch"]
        moved = elements * (one.read + written)
        outside = moved * missing(moved)
        work = elements if one.rate.endswith("_elements") else moved + elements * one.again
        cycles = cycles + np.hypot(outside / dram_bytes_per_clk, work / (x[one.rate] * x["sm_count"]))
        dram = dram + outside
    if quantiser.row_ctas:
        cycles = cycles + x["m"] * x["batch"] * x["gemm.row_dispatch_cycles"]
    floor_s = quantiser.steps * x["gemm.step_launch"] + float(quantiser.fused) * x["gemm.quantise_launch"]
    return cycles / x["clock_hz"] + floor_s, floor_s, dram
