"""Attention kernels built for sm_90, and what one call of a library launches besides.

Tile sizes, packing and splitting rules are those of the public sources: FlashAttention 3 (hopper/tile_size.h, heuristics.h,
flash_prepare_scheduler.cu), FlashMLA (get_mla_metadata.cu), TensorRT-LLM (fmha_v2 with warp specialisation, XQA's mha.cu and mha_sm90.cu,
decoderXQARunner.h, masked multi-head attention), SGLang (flashattention_backend.py, memory_pool.py) and vLLM (flash_attn.py,
mla/flashattn_mla.py, mla/flashmla.py). Cycle and instruction counts describe the code and not the GPU; they were fitted on H100-SXM and
H200-SXM rows of AIConfigurator 0.7.0 (PyPI), the half whose sizes have an even CRC-32, one value for both GPUs.

What those rows time beside the kernels: SGLang's latent prefill runs absorbed (one KV head of 576); vLLM's FlashAttention 3 and
FlashMLA run on a plan for 8 KV heads and 128 query heads, those of the model file, whatever the row's; vLLM's latent calls are issued by
the host one by one, not replayed, and contain the projections to and from the latent space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from .attention_ampere import BY_32, FLASH_DECODE, FMHA_PADDING, MMHA, MMHA_FP8, XQA
from .attention_types import AttentionKernel, Implementation

# wgmma reads K and V once per 64 rows; two consumer warpgroups alternate softmax and matrix instructions.
HOPPER: Final = AttentionKernel(
    tile_q=128,
    tile_kv={64: 128, 96: 144, 128: 128, 192: 112, 1024: 80},
    warps={1024: 4},
    reader_rows={1024: 64},
    stages=2,
    pack=128,
    split="slots",
    combine_cycles=150.0,
    specialised=True,
    padded=BY_32,
    cta_cycles=6200.0,
    softmax_ops=9.5,
    tail=0.3,
)
HOPPER_FP8: Final = replace(HOPPER, tile_kv={64: 160, 96: 128, 128: 224, 192: 160, 1024: 128}, cta_cycles=4500.0, softmax_ops=9.3)
HOPPER_DECODE: Final = replace(FLASH_DECODE, stages=2)

# FlashAttention 3 on paged caches: tiles of tile_size_fwd_sm90 without TMA, every call packed.
_FA3 = replace(HOPPER, tile_kv={128: 128, 192: 96, 1024: 80}, split="none", most_resident=1.0)
_FA3_FP8 = replace(HOPPER_FP8, tile_kv={64: 160, 96: 128, 192: 160, 1024: 128}, split="none", most_resident=1.0)
_FA3_SPLIT = replace(_FA3, split="even", cta_cycles=7000.0, combine_launches=0.76, combine_cycles=155.0)
_FA3_SPLIT_FP8 = replace(_FA3_FP8, split="even", cta_cycles=7000.0, combine_launches=0.76, combine_cycles=125.0)
# Keys of 192 and values of 128, not paged.
_FA3_192 = replace(_FA3, tile_kv={1024: 128}, softmax_ops=1.0)
# Latent attention: tiles of 64 query rows and 64 keys, the 512 columns of the values on two warpgroups.
_LATENT = replace(_FA3, tile_q=64, tile_kv={1024: 64}, pack=64, softmax_ops=1.0)
_FA3_LATENT = replace(_LATENT, cta_cycles=12000.0, step_cycles=100.0)
_FA3_LATENT_SPLIT = replace(_LATENT, split="even", cta_cycles=5000.0, step_cycles=100.0, combine_launches=3.0, combine_cycles=113.0)
_FLASHMLA = replace(
    _LATENT, split="parts", cta_cycles=28600.0, row_cycles=100.0, step_cycles=650.0, combine_launches=1.06, combine_cycles=155.0
)
_FLASHMLA_FP8 = replace(_FLASHMLA, cta_cycles=24000.0, step_cycles=1240.0)
# TensorRT-LLM: no packing of groups in prefill.
_FMHA = replace(
    HOPPER,
    tile_kv={128: 128, 1024: 64},
    pack=1,
    split="none",
    padded=FMHA_PADDING,
    most_resident=1.0,
    cta_cycles=1000.0,
    row_cycles=30.0,
    softmax_ops=11.5,
    tail=0.25,
)
_FMHA_64 = replace(_FMHA, tile_kv={1024: 64}, cta_cycles=0.0, window_row_cycles=57.0, softmax_ops=5.9)
_FMHA_FP8 = replace(
    _FMHA,
    tile_kv={128: 256, 1024: 128},
    companions={1024: 1.0},
    cta_cycles=1800.0,
    row_cycles=19.0,
    window_row_cycles=85.0,
    softmax_ops=6.0,
)
_FMHA_192 = replace(_FMHA, tile_kv={1024: 64}, padded=BY_32, cta_cycles=3400.0, row_cycles=0.0, softmax_ops=1.0, tail=0.3)
_FMHA_192_FP8 = replace(_FMHA_192, cta_cycles=3700.0, softmax_ops=13.0)
_XQA_32 = replace(XQA, cta_cycles=6700.0, empty_share=0.67, companions={1024: 0.5})
_XQA = replace(_XQA_32, tile_q=8, pack=8, wider=(replace(_XQA_32, tile_q=16, pack=16), _XQA_32))
_XQA_FP8_32 = replace(_XQA_32, empty_share=0.0, companions={1024: 0.0}, cta_cycles=1300.0, combine_cycles=440.0, unpack_ops_fp8=9.4)
_XQA_FP8 = replace(
    _XQA_FP8_32,
    tile_q=16,
    pack=16,
    reader_rows={1024: 64},
    cta_cycles=850.0,
    combine_cycles=95.0,
    unpack_ops_fp8=0.0,
    wider=(_XQA_FP8_32,),
)
# 256 threads load 16 bytes each, unrolled by four.
HOPPER_MMHA: Final = replace(
    MMHA, tile_kv={64: 32, 1024: 16}, stages=4, split="slots", step_cycles=380.0, unpack_ops=5.2, combine_launches=2.6
)
HOPPER_MMHA_FP8: Final = replace(
    MMHA_FP8,
    tile_kv={64: 64, 1024: 32},
    stages=4,
    split="slots",
    cta_cycles=2400.0,
    step_cycles=1050.0,
    unpack_ops_fp8=3.5,
    combine_launches=2.6,
)

_FLASH = Implementation(HOPPER, HOPPER_DECODE, prefill_fp8=HOPPER_FP8, fp8_products=True)
_SGLANG = Implementation(
    _FA3,
    _FA3,
    prefill_fp8=_FA3_FP8,
    decode_fp8=_FA3_FP8,
    split_kernel=_FA3_SPLIT,
    split_fp8=_FA3_SPLIT_FP8,
    fp8_products=True,
    query_casts=1.0,
    launches_prefill=0.75,
    launches_decode=0.7,
    launches_fp8=0.5,
    kv_passes=0.85,
)
# The plan is made before the call, so that no launch is left for it.
_VLLM = replace(
    _SGLANG,
    prefill=replace(_FA3, softmax_ops=4.0, tail=0.7),
    prefill_fp8=replace(_FA3_FP8, softmax_ops=14.0, tail=0.7),
    decode=replace(_FA3, cta_cycles=3600.0),
    decode_fp8=replace(_FA3_FP8, cta_cycles=4000.0),
    split_kernel=replace(_FA3_SPLIT, planned_kv_heads=8.0, cta_cycles=1000.0, combine_launches=0.0, combine_cycles=450.0),
    split_fp8=replace(_FA3_SPLIT_FP8, planned_kv_heads=8.0, cta_cycles=3600.0, combine_launches=0.0, combine_cycles=450.0),
    query_casts=0.0,
    launches_prefill=1.6,
    launches_decode=1.25,
    kv_passes=1.0,
    launches_fp8=0.0,
    one_token_decodes=True,
    write_block_cycles=4850.0,
    write_block_cycles_fp8=6500.0,
)
_TRTLLM = Implementation(
    _FMHA,
    _XQA,
    prefill_narrow=_FMHA_64,
    prefill_fp8=_FMHA_FP8,
    decode_fp8=_XQA_FP8,
    fallback=HOPPER_MMHA,
    fallback_fp8=HOPPER_MMHA_FP8,
    fallback_few=True,
    fallback_few_fp8=32.0,
    prefill_reads_cache=False,
    launches_prefill=1.85,
    query_passes=1.45,
    kv_passes=0.7,
    kv_aliased=True,
)
_VLLM_MLA = Implementation(
    _FA3_192,
    _FLASHMLA,
    latent_projection=512.0,
    stores_latent=True,
    launches_prefill=10.0,
    launches_decode=10.0,
    query_passes=1.0,
    kv_passes=2.7,
)

#: By the name that a call's ``implementation`` option takes.
HOPPER_KERNELS: Final[Mapping[str, Implementation]] = {
    "flash": _FLASH,
    "fa3": replace(_FLASH, launches_prefill=1.0, launches_decode=1.0),
    "sglang": _SGLANG,
    "sglang-index-put": replace(_SGLANG, launches_prefill=3.5, launches_decode=3.5, kv_passes=0.9, write_bytes_per_clk=4.0),
    "vllm": _VLLM,
    "trtllm": _TRTLLM,
    "trtllm-1.0": replace(_TRTLLM, fallback_few_fp8=1.0),
    "sglang-mla": Implementation(
        replace(_LATENT, cta_cycles=6400.0),
        _FA3_LATENT,
        split_kernel=_FA3_LATENT_SPLIT,
        absorbed_prefill=True,
        launches_prefill=1.05,
        launches_fp8=2.2,
        query_passes=0.35,
        kv_passes=2.6,
        write_bytes_per_clk=13.0,
        cache_cast_bytes_per_clk=3.9,
    ),
    "trtllm-mla": Implementation(
        _FMHA_192,
        _FLASHMLA,
        prefill_fp8=_FMHA_192_FP8,
        decode_fp8=_FLASHMLA_FP8,
        fp8_products=True,
        query_casts=1.9,
        stores_latent=True,
        launches_prefill=1.95,
        launches_decode=1.6,
        launches_fp8=2.05,
        query_passes=0.6,
        kv_passes=1.0,
    ),
    "vllm-fa3-mla": replace(
        _VLLM_MLA,
        decode=_FA3_LATENT,
        split_kernel=replace(_FA3_LATENT_SPLIT, cta_cycles=14000.0),
        latent_tokens=512.0,
        host_s=1.55e-4,
    ),
    "vllm-flashmla": replace(
        _VLLM_MLA,
        decode_fp8=replace(_FLASHMLA_FP8, cta_cycles=7300.0, row_cycles=52.0, step_cycles=0.0, planned_heads=128.0),
        latent_tokens=128.0,
        query_passes=2.6,
        kv_passes=5.0,
        host_s=2.0e-4,
    ),
}
