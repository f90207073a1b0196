"""Attention kernels built for sm_100, and what one call of a library launches besides.

The kernels are trtllm-gen's, which TensorRT-LLM, FlashInfer (for vLLM) and SGLang all run (TensorRT-LLM
cpp/tensorrt_llm/kernels/trtllmGenKernels/fmha): in prefill two query tiles of 128 rows of one head a CTA; in decode up to 16 heads of
a group in a tile, latent attention of more than 32 heads in tiles of 64; accumulators in tensor memory. TensorRT-LLM leaves groups of
more than 16 to its masked multi-head attention. Cycle and instruction counts were fitted on B200 and GB200 rows of AIConfigurator 0.7.0
(PyPI), the half whose sizes have an even CRC-32, one value for both GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from .attention_hopper import HOPPER, HOPPER_MMHA, HOPPER_MMHA_FP8
from .attention_types import AttentionKernel, Implementation

# Two query tiles of 128 rows a CTA, accumulators in tensor memory.
BLACKWELL: Final = replace(HOPPER, tile_q=256, tile_kv={64: 128, 1024: 128}, reader_rows={1024: 128})

_CONTEXT = replace(BLACKWELL, pack=1, split="none", most_resident=1.0, cta_cycles=3000.0, row_cycles=21.5, softmax_ops=1.5, tail=0.85)
_CONTEXT_FP8 = replace(_CONTEXT, cta_cycles=2300.0)
_CONTEXT_192 = replace(_CONTEXT, cta_cycles=3100.0, row_cycles=0.0, softmax_ops=1.0)
_GENERATION = AttentionKernel(
    tile_q=16,
    tile_kv={1024: 128},
    reader_rows={1024: 64},
    stages=2,
    pack=16,
    split="sm",
    combine_launches=0.0,
    combine_cycles=150.0,
    specialised=True,
    padded=BLACKWELL.padded,
    most_resident=1.0,
    cta_cycles=1700.0,
    row_cycles=60.0,
)
_GENERATION = replace(_GENERATION, wider=(replace(_GENERATION, tile_q=64, pack=64),))
_LATENT_16 = replace(
    _GENERATION, split="parts", cta_cycles=7000.0, row_cycles=130.0, step_cycles=2500.0, combine_launches=0.17, combine_cycles=230.0
)
_LATENT_64 = replace(_LATENT_16, tile_q=64, pack=64, rows_from=33.0, cta_cycles=4500.0, step_cycles=900.0, wider=())
_LATENT = replace(_LATENT_16, wider=(_LATENT_64,))
_LATENT_FP8 = replace(_LATENT_16, cta_cycles=3400.0, step_cycles=700.0, wider=(replace(_LATENT_64, cta_cycles=2000.0, step_cycles=600.0),))

# The general case splits whenever that is faster.
_FLASH = Implementation(
    _CONTEXT, replace(_GENERATION, split="slots", combine_cycles=0.0, wider=()), prefill_fp8=_CONTEXT_FP8, fp8_products=True
)
_TRTLLM = Implementation(
    replace(_CONTEXT, cta_cycles=2200.0, row_cycles=30.0),
    replace(_GENERATION, combine_launches=1.2),
    prefill_reads_cache=False,
    launches_prefill=3.0,
    launches_decode=1.9,
    query_passes=2.9,
    kv_passes=0.7,
    kv_aliased=True,
    fallback=replace(HOPPER_MMHA, cta_cycles=2900.0, step_cycles=400.0, unpack_ops=3.7),
    fallback_fp8=replace(HOPPER_MMHA_FP8, cta_cycles=2200.0, step_cycles=700.0, unpack_ops_fp8=6.2),
    fallback_below=0.0,
    fallback_above=16.0,
)
_SGLANG = Implementation(
    _CONTEXT,
    _GENERATION,
    prefill_fp8=_CONTEXT_FP8,
    fp8_products=True,
    query_casts=0.3,
    launches_prefill=3.6,
    launches_decode=3.8,
    launches_fp8=-3.0,
    kv_passes=0.9,
    write_bytes_per_clk=3.6,
    fused_fp8_store=True,
)
_FLASHINFER = Implementation(
    _CONTEXT,
    _GENERATION,
    fp8_products=True,
    one_token_decodes=True,
    launches_prefill=1.2,
    launches_decode=1.25,
    launches_fp8=0.2,
    kv_passes=1.5,
    write_block_cycles=3800.0,
    write_block_cycles_fp8=5100.0,
)
_MLA = Implementation(
    _CONTEXT_192,
    _LATENT,
    decode_fp8=_LATENT_FP8,
    fp8_products=True,
    query_casts=2.4,
    stores_latent=True,
    launches_prefill=3.2,
    launches_decode=0.2,
    launches_fp8=1.6,
    query_passes=1.35,
    kv_passes=1.3,
)

#: By the name that a call's ``implementation`` option takes.
BLACKWELL_KERNELS: Final[Mapping[str, Implementation]] = {
    "flash": _FLASH,
    "fa3": replace(_FLASH, launches_prefill=1.0, launches_decode=1.0),
    "trtllm": _TRTLLM,
    "trtllm-1.0": _TRTLLM,
    "sglang-trtllm": _SGLANG,
    "flashinfer": replace(_FLASHINFER, launches_prefill=0.0, launches_decode=0.0, write_block_cycles=0.0, write_block_cycles_fp8=0.0),
    "flashinfer-vllm": _FLASHINFER,
    "trtllm-mla": _MLA,
    "sglang-trtllm-mla": replace(
        _MLA,
        prefill=replace(_CONTEXT_192, softmax_ops=3.6),
        query_casts=1.2,
        launches_prefill=2.6,
        launches_fp8=1.25,
        query_passes=1.9,
        kv_passes=1.1,
        write_bytes_per_clk=7.5,
    ),
}
