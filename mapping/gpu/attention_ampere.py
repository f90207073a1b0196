"""Attention kernels built for sm_80 and sm_89, and what one call of a library launches besides.

Tile sizes, packing and splitting rules are those of the public sources: FlashAttention 2
(csrc/flash_attn/src/flash_fwd_launch_template.h), FlashAttention 3 (hopper/tile_size.h, heuristics.h,
flash_prepare_scheduler.cu), TensorRT-LLM (fmha_v2, XQA, masked multi-head attention), FlashInfer
(FA2DetermineCtaTileQ, batch decode) and Triton kernels of vLLM and SGLang. Cycle and instruction counts
(`cta_cycles`, `dim_cycles`, `step_cycles`, `combine_cycles`, `softmax_ops`, `unpack_ops`, `spill`) describe the code
and not the GPU; they were fitted on A100-SXM4-80GB and L40S rows of the AIConfigurator tables (commit 095f58a)
together, one value for both GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from .attention_types import AttentionKernel, Implementation, Table

BY_32: Final = {32 * i: 32 * i for i in range(1, 33)}
FMHA_PADDING: Final = {16: 16, 32: 32, 64: 64, 80: 80, 96: 96, 128: 128, 256: 256, 512: 512, 1024: 1024}
_BY_64: Final = {64 * i: 64 * i for i in range(1, 17)}
_POWERS: Final = {16: 16, 32: 32, 64: 64, 128: 128, 256: 256, 512: 512, 1024: 1024}
_32: Final[Table] = {1024: 32}

# FlashAttention 2: the split kernel of paged caches (vLLM), and the dense kernel.
_FA2_PAGED = AttentionKernel(tile_q=64, tile_kv={64: 256, 128: 128, 1024: 64}, heads_outermost=True, padded=BY_32, cta_cycles=2700.0)
_FA2_DECODE = replace(_FA2_PAGED, pack=64, packs_windows=False, split="slots", combine_cycles=400.0)
_FA2_DENSE = AttentionKernel(
    tile_q=128,
    tile_kv={64: 128, 128: 64, 1024: 64},
    reader_rows={128: 32, 1024: 16},
    warps={128: 4, 1024: 8},
    padded=BY_32,
    cta_cycles=1100.0,
)
# FlashAttention 3 on sm_80 and sm_89: every call packs groups.
_FA3 = AttentionKernel(
    tile_q=128,
    tile_kv={64: 112, 128: 64, 192: 64, 1024: 48},
    reader_rows={128: 32, 1024: 16},
    warps={128: 4, 1024: 8},
    pack=128,
    padded=BY_32,
    cta_cycles=3300.0,
)
_FA3_SPLIT = replace(
    _FA3,
    tile_kv={64: 80, 96: 48, 128: 112, 192: 64, 1024: 64},
    reader_rows={96: 32, 1024: 16},
    warps={96: 4, 1024: 8},
    split="even",
    cta_cycles=11000.0,
    combine_cycles=210.0,
)
# TensorRT-LLM: fmha_v2 without and with granular tiling, XQA, masked multi-head attention.
_FMHA = AttentionKernel(
    tile_q=64,
    tile_kv={1024: 32},
    padded=FMHA_PADDING,
    spill={128: 1.0, 1024: 1.9},
    cta_cycles=1800.0,
    row_cycles=41.0,
    softmax_ops=7.9,
    step_cycles=250.0,
)
_FMHA_TILED = AttentionKernel(
    tile_q=64,
    tile_kv={1024: 128},
    padded=FMHA_PADDING,
    cta_cycles=2000.0,
    row_cycles=15.0,
    softmax_ops=14.0,
    step_cycles=160.0,
)
_FMHA_192 = AttentionKernel(tile_q=64, tile_kv={1024: 64}, softmax_ops=9.0, cta_cycles=2800.0)
_FMHA_LATENT = AttentionKernel(tile_q=64, tile_kv={1024: 64}, pack=64, unpack_ops_fp8=0.0, cta_cycles=4400.0, step_cycles=1800.0)
_FMHA_FP8 = replace(_FMHA, companions={64: 2.0, 192: 0.0, 1024: 2.0}, spill={64: 4.5, 128: 0.99, 192: 1.3, 1024: 7.3})
XQA = AttentionKernel(
    tile_q=32,
    tile_kv={1024: 128},
    pack=32,
    split="waves",
    combine_launches=0.0,
    combine_cycles=0.0,
    padded=FMHA_PADDING,
    most_resident=1.0,
    cta_cycles=4900.0,
)
_XQA_FP8 = replace(XQA, split="none", unpack_ops_fp8=5.4)
MMHA = AttentionKernel(
    tile_q=0,
    tile_kv={1024: 16},
    split="sm",
    combine_launches=1.5,
    combine_cycles=0.0,
    padded=FMHA_PADDING,
    most_resident=8.0,
    cta_cycles=2300.0,
    step_cycles=260.0,
    unpack_ops=2.8,
)
MMHA_FP8 = replace(MMHA, cta_cycles=7900.0, step_cycles=1000.0, unpack_ops_fp8=46.0)
# FlashInfer: query tiles of 16, 64 and 128 packed rows; CUDA-core decode for groups of 1 and 2.
_FI_128 = AttentionKernel(
    tile_q=128,
    tile_kv={64: 64, 1024: 32},
    reader_rows=_32,
    pack=128,
    split="slots",
    most_head_dim=128,
    cta_cycles=2500.0,
    dim_cycles=15.0,
    step_cycles=390.0,
    combine_cycles=35.0,
    unpack_ops_fp8=9.1,
)
_FI_64 = AttentionKernel(
    tile_q=64,
    tile_kv={64: 128, 128: 64, 1024: 32},
    pack=64,
    split="slots",
    cta_cycles=2500.0,
    dim_cycles=15.0,
    step_cycles=390.0,
    combine_cycles=35.0,
    unpack_ops_fp8=9.1,
)
_FI = AttentionKernel(
    tile_q=16,
    tile_kv={64: 128, 1024: 64},
    pack=16,
    split="slots",
    wider=(_FI_64, _FI_128),
    cta_cycles=2500.0,
    dim_cycles=15.0,
    step_cycles=390.0,
    combine_cycles=35.0,
    unpack_ops_fp8=9.1,
)
_FI_CUDA = AttentionKernel(tile_q=0, tile_kv={1024: 16}, pack=8, split="slots", most_resident=8.0, cta_cycles=1900.0, unpack_ops=2.6)
# Triton.
_TRITON = AttentionKernel(
    tile_q=64,
    tile_kv={1024: 64},
    padded=_POWERS,
    tiles_outermost=True,
    cta_cycles=6700.0,
    softmax_ops=20.0,
    step_cycles=790.0,
    unpack_ops_fp8=1.8,
)
_TRITON_DENSE = replace(_TRITON, spill={64: 1.0, 1024: 3.1}, softmax_ops=6.2, cta_cycles=200.0)
_TRITON_DECODE = AttentionKernel(
    tile_q=16,
    tile_kv={1024: 32},
    pack=16,
    split="slots",
    padded=_POWERS,
    cta_cycles=320.0,
    dim_cycles=36.0,
    step_cycles=620.0,
)

_TRITON_LATENT = AttentionKernel(tile_q=16, tile_kv={1024: 64}, pack=16, split="four", cta_cycles=20000.0, step_cycles=7300.0)

#: The general case: a packed flash kernel that splits whenever that is faster.
_FLASH = replace(_FA3, split="slots", combine_cycles=0.0)
_FLASH_128 = replace(_FI_128, combine_cycles=0.0, padded=BY_32, most_head_dim=1024)
_FLASH_64 = replace(_FI_64, combine_cycles=0.0, padded=BY_32)
FLASH_DECODE = replace(_FI, combine_cycles=0.0, padded=BY_32, wider=(_FLASH_64, _FLASH_128))

#: By the name that a call's ``implementation`` option takes.
AMPERE: Final[Mapping[str, Implementation]] = {
    "flash": Implementation(_FLASH, FLASH_DECODE),
    "fa3": Implementation(_FA3, _FA3, split_kernel=_FA3_SPLIT, launches_prefill=1.0, launches_decode=1.0),
    "fa2": Implementation(_FA2_PAGED, _FA2_DECODE, one_token_decodes=True, regroups=True),
    "fa2-dense": Implementation(_FA2_DENSE, _FA2_DENSE, kv_passes=0.0),
    "trtllm": Implementation(
        _FMHA,
        XQA,
        prefill_long=_FMHA_TILED,
        prefill_fp8=_FMHA_FP8,
        decode_fp8=_XQA_FP8,
        fallback=MMHA,
        fallback_fp8=MMHA_FP8,
        fallback_few=True,
        prefill_reads_cache=False,
        launches_prefill=1.0,
        launches_decode=1.0,
        query_passes=1.0,
        kv_aliased=True,
    ),
    "flashinfer": Implementation(
        replace(_FI, skips_window=False),
        _FI,
        fallback=_FI_CUDA,
        fallback_below=2.0,
        fallback_above=np.inf,
        fallback_bits=16.0,
        launches_fp8=1.0,
    ),
    "flashinfer-vllm": Implementation(
        _FI,
        _FI,
        fallback=_FI_CUDA,
        fallback_below=2.0,
        fallback_above=np.inf,
        fallback_bits=16.0,
        one_token_decodes=True,
        launches_prefill=1.0,
        launches_decode=1.0,
        launches_fp8=1.0,
    ),
    "triton": Implementation(
        replace(_TRITON, skips_window=False),
        _TRITON_DECODE,
        prefill_dense=_TRITON_DENSE,
        launches_prefill=1.0,
        launches_decode=1.0,
    ),
    "triton-vllm": Implementation(_TRITON, _TRITON_DECODE),
    "trtllm-mla": Implementation(_FMHA_192, _FMHA_LATENT, launches_prefill=1.0, query_passes=1.0, kv_passes=0.0),
    "triton-mla": Implementation(replace(_FA2_DENSE, padded=_BY_64), _TRITON_LATENT, latent_projection=512.0, host_s=3.4e-4),
}
