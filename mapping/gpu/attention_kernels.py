"""Attention kernels in use: how each cuts its work into CTAs, and what one call of a library launches besides.

Tile sizes, packing and splitting rules are those of the public sources: FlashAttention 2 (csrc/flash_attn/src/flash_fwd_launch_template.h),
FlashAttention 3 (hopper/tile_size.h, heuristics.h, flash_prepare_scheduler.cu), TensorRT-LLM (fmha_v2, XQA, masked multi-head
attention), FlashInfer (FA2DetermineCtaTileQ, batch decode) and Triton kernels of vLLM and SGLang. Cycle and instruction counts
(`cta_cycles`, `dim_cycles`, `step_cycles`, `combine_cycles`, `softmax_ops`, `unpack_ops`, `spill`) describe the code and not the GPU; they were fitted on
A100-SXM4-80GB and L40S rows of the AIConfigurator tables (commit 095f58a) together, one value for both GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from ...errors import MappingError

#: Table by head_dim of one value for all.
Table = Mapping[int, float]


@dataclass(frozen=True)
class AttentionKernel:
    """How one attention kernel is tiled; a property of its code, the same on every GPU that runs it.

    Tables map the largest head_dim that an entry serves to its value.

    Attributes
    ----------
    tile_q
        Query rows of a CTA; a shorter query is padded to it. 0: one query head a CTA, on the fp32 pipes (no tensor core).
    tile_kv
        KV tokens per step of the CTA's loop.
    warps
        Warps of a CTA, each with up to 255 registers a thread.
    reader_rows
        Query rows for which one read of K and V from shared memory serves: those of a warp (``mma.sync``, 16 or 32) or of a
        warpgroup (``wgmma``, 64).
    stages
        KV steps in flight per CTA.
    pack
        Most query heads of one KV head that share a tile; 1: every query head has its own.
    packs_windows
        Whether sliding-window calls are packed too.
    split
        How a short grid is split along the KV axis (flash decoding): ``"none"``; ``"sm"``: to one CTA per SM where that is
        faster; ``"slots"``: to all resident CTAs where that is faster; ``"waves"``: to 8 CTAs per SM, at least 128 tokens each
        (XQA); ``"four"``: always in four; ``"even"``: by FlashAttention 3's rule, pieces of 1.1 times the even share of an SM.
    combine_launches, combine_cycles
        Launches that merge the pieces, and cycles per piece of that merge.
    wider
        Kernels for more packed query rows, by ascending tile_q.
    most_head_dim
        Largest head_dim that the kernel serves.
    skips_window
        Whether KV steps wholly outside a sliding window are skipped.
    heads_outermost
        Whether the query head is the slowest axis of the grid, so that the heads of a group re-read KV from DRAM when one pass
        over the batch exceeds L2.
    tiles_outermost
        Whether the query tile is the slowest axis, so that every further tile re-reads KV from DRAM when KV exceeds L2.
    specialised
        Whether warp specialisation overlaps one warpgroup's softmax with another's tensor-core work within a CTA.
    padded
        Head dim that the code computes with.
    spill
        Time of the matrix instructions over that without register spills, by head_dim.
    softmax_ops
        Instructions per score on the fp32 pipe: scale, running maximum, sum, mask, conversion.
    unpack_ops, unpack_ops_fp8
        fp32-pipe instructions per element of K and V: products on the fp32 pipes, or conversion of an fp8 cache.
    cta_cycles, dim_cycles, row_cycles
        SM cycles per CTA outside its loop: page table, query load, final scaling and store; and those per element of
        head_dim, and per query row that is not padding.
    companions
        Further launches that the call needs with this kernel, by head_dim.
    step_cycles
        Cycles of latency per KV step that a CTA cannot hide alone: load, barrier, dependent instructions.
    most_resident
        Most CTAs on an SM.
    """

    tile_q: int
    tile_kv: Table
    warps: Table = field(default_factory=lambda: {1024: 4})
    reader_rows: Table = field(default_factory=lambda: {1024: 16})
    stages: int = 1
    pack: int = 1
    packs_windows: bool = True
    split: str = "none"
    combine_launches: float = 1.0
    combine_cycles: float = 100.0
    wider: tuple[AttentionKernel, ...] = ()
    most_head_dim: int = 1 << 20
    skips_window: bool = True
    heads_outermost: bool = False
    tiles_outermost: bool = False
    specialised: bool = False
    padded: Table = field(default_factory=dict)
    companions: Table = field(default_factory=lambda: {1024: 0.0})
    spill: Table = field(default_factory=lambda: {1024: 1.0})
    softmax_ops: float = 4.0
    unpack_ops: float = 0.0
    unpack_ops_fp8: float = 2.0
    cta_cycles: float = 2500.0
    dim_cycles: float = 0.0
    row_cycles: float = 0.0
    step_cycles: float = 0.0
    most_resident: float = 16.0

    def pad(self, head_dim: Any) -> Any:
        """Head dim that the code computes with; the nearest larger one of its table."""
        return np.maximum(lookup(self.padded, head_dim), head_dim) if self.padded else head_dim


def lookup(table: Table, head_dim: Any) -> np.ndarray:
    """Entry of a table by head_dim, for each head_dim; past the last limit, the last entry.

    >>> lookup({64: 128, 256: 64}, np.array([64, 72, 512])).tolist()
    [128.0, 64.0, 64.0]
    """
    limits = np.array(sorted(table), dtype=float)
    values = np.array([float(table[limit]) for limit in sorted(table)])
    if len(values) == 1:
        return values[0]
    return values[np.minimum(np.searchsorted(limits, np.asarray(head_dim)), len(limits) - 1)]


@dataclass(frozen=True)
class Implementation:
    """What one call of a library's attention contains.

    Attributes
    ----------
    prefill, prefill_dense, prefill_long, prefill_fp8
        Prefill kernels: the usual one; the one for calls without a mask and without a cache (encoders); the one for more than 128 query tokens (on sm_86, sm_89 and sm_120 only with head_dim of
        256 and more); the one for fp8 arithmetic.
    decode, decode_fp8
        Decode kernels, the second for an fp8 cache.
    split_kernel
        Kernel that takes over from `prefill` and `decode` where FlashAttention 3 decides to split: query tiles of one
        sequence below 0.8 of the SMs, more than four KV steps, at most 992 sequences.
    fallback, fallback_fp8
        Decode kernels for groups (query heads per KV head) up to ``fallback_below``, above ``fallback_above`` or not whole.
    fallback_few
        Whether `fallback` also takes grids below a quarter of a CTA of 128 tokens per SM (16-bit cache).
    fallback_bits
        Narrowest cache element that `fallback` takes.
    one_token_decodes
        Whether a prefill of one query token runs the decode kernel.
    prefill_reads_cache
        Whether prefill reads K and V from the cache in its format, or from the 16-bit inputs.
    launches_prefill, launches_decode, launches_fp8
        Further kernels in the call: write of the new keys and values to the cache, rotary embedding, scheduling metadata;
        and those that only an fp8 cache needs (quantisation of the new keys and values).
    query_passes, kv_passes
        Times that the call reads and writes the queries, and the new keys and values, outside the attention kernel (in prefill).
    regroups
        Whether a packed decode first copies the queries, and last the output, into the packed layout (two launches), as
        it must when both batch and kv_heads exceed 1.
    kv_aliased
        Whether the caller's cache keeps K and V in the same bytes, as benchmarks that allocate a K-only cache do: V then hits in
        L2 where it is read soon enough after K.
    latent_projection
        Whether the call of a latent attention includes the projection of the latent vectors to keys and values (prefill), or of
        queries and outputs from and to the latent space (decode); width of the latent vector, 0: none.
    host_s
        Seconds that the host takes to issue the call when it is not replayed from a CUDA graph; 0: replayed.
    """

    prefill: AttentionKernel
    decode: AttentionKernel
    prefill_dense: AttentionKernel | None = None
    prefill_long: AttentionKernel | None = None
    prefill_fp8: AttentionKernel | None = None
    decode_fp8: AttentionKernel | None = None
    split_kernel: AttentionKernel | None = None
    fallback: AttentionKernel | None = None
    fallback_fp8: AttentionKernel | None = None
    fallback_above: float = 32.0
    fallback_below: float = 1.0
    fallback_few: bool = False
    fallback_bits: float = 8.0
    one_token_decodes: bool = False
    prefill_reads_cache: bool = True
    launches_prefill: float = 0.0
    launches_decode: float = 0.0
    launches_fp8: float = 0.0
    query_passes: float = 0.0
    kv_passes: float = 1.0
    regroups: bool = False
    kv_aliased: bool = False
    latent_projection: float = 0.0
    host_s: float = 0.0


_BY_32: Final = {32 * i: 32 * i for i in range(1, 33)}
_FMHA_PADDING: Final = {16: 16, 32: 32, 64: 64, 80: 80, 96: 96, 128: 128, 256: 256, 512: 512, 1024: 1024}
_BY_64: Final = {64 * i: 64 * i for i in range(1, 17)}
_POWERS: Final = {16: 16, 32: 32, 64: 64, 128: 128, 256: 256, 512: 512, 1024: 1024}
_16: Final[Table] = {1024: 16}
_32: Final[Table] = {1024: 32}

# FlashAttention 2: the split kernel of paged caches (vLLM), and the dense kernel.
_FA2_PAGED = AttentionKernel(tile_q=64, tile_kv={64: 256, 128: 128, 1024: 64}, heads_outermost=True, padded=_BY_32, cta_cycles=2700.0)
_FA2_DECODE = replace(_FA2_PAGED, pack=64, packs_windows=False, split="slots", combine_cycles=400.0)
_FA2_DENSE = AttentionKernel(tile_q=128, tile_kv={64: 128, 128: 64, 1024: 64}, reader_rows={128: 32, 1024: 16}, warps={128: 4, 1024: 8},
                             padded=_BY_32, cta_cycles=1100.0)
# FlashAttention 3 on sm_80 and sm_89: every call packs groups.
_FA3 = AttentionKernel(tile_q=128, tile_kv={64: 112, 128: 64, 192: 64, 1024: 48}, reader_rows={128: 32, 1024: 16}, warps={128: 4, 1024: 8},
                       pack=128, padded=_BY_32, cta_cycles=3300.0)
_FA3_SPLIT = replace(_FA3, tile_kv={64: 80, 96: 48, 128: 112, 192: 64, 1024: 64}, reader_rows={96: 32, 1024: 16}, warps={96: 4, 1024: 8}, split="even", cta_cycles=11000.0, combine_cycles=210.0)
# TensorRT-LLM: fmha_v2 without and with granular tiling, XQA, masked multi-head attention.
_FMHA = AttentionKernel(tile_q=64, tile_kv={1024: 32}, padded=_FMHA_PADDING, spill={128: 1.0, 1024: 1.9}, cta_cycles=1800.0, row_cycles=41.0, softmax_ops=7.9, step_cycles=250.0)
_FMHA_TILED = AttentionKernel(tile_q=64, tile_kv={1024: 128}, padded=_FMHA_PADDING, cta_cycles=2000.0, row_cycles=15.0, softmax_ops=14.0, step_cycles=160.0)
_FMHA_192 = AttentionKernel(tile_q=64, tile_kv={1024: 64}, softmax_ops=9.0, cta_cycles=2800.0)
_FMHA_LATENT = AttentionKernel(tile_q=64, tile_kv={1024: 64}, pack=64, cta_cycles=4400.0, step_cycles=1800.0)
_FMHA_FP8 = replace(_FMHA, companions={64: 2.0, 192: 0.0, 1024: 2.0}, spill={64: 4.5, 128: 0.99, 192: 1.3, 1024: 7.3})
_XQA = AttentionKernel(tile_q=32, tile_kv={1024: 128}, pack=32, split="waves", combine_launches=0.0, combine_cycles=0.0, padded=_FMHA_PADDING,
                       most_resident=1.0, cta_cycles=4900.0)
_XQA_FP8 = replace(_XQA, split="none", unpack_ops_fp8=5.4)
_MMHA = AttentionKernel(tile_q=0, tile_kv={1024: 16}, split="sm", combine_launches=1.5, combine_cycles=0.0, padded=_FMHA_PADDING, most_resident=8.0, cta_cycles=2300.0, step_cycles=260.0, unpack_ops=2.8)
_MMHA_FP8 = replace(_MMHA, cta_cycles=7900.0, step_cycles=1000.0, unpack_ops_fp8=46.0)
# FlashInfer: query tiles of 16, 64 and 128 packed rows; CUDA-core decode for groups of 1 and 2.
_FI_128 = AttentionKernel(tile_q=128, tile_kv={64: 64, 1024: 32}, reader_rows=_32, pack=128, split="slots", most_head_dim=128, cta_cycles=2500.0, dim_cycles=15.0, step_cycles=390.0, combine_cycles=35.0, unpack_ops_fp8=9.1)
_FI_64 = AttentionKernel(tile_q=64, tile_kv={64: 128, 128: 64, 1024: 32}, pack=64, split="slots", cta_cycles=2500.0, dim_cycles=15.0, step_cycles=390.0, combine_cycles=35.0, unpack_ops_fp8=9.1)
_FI = AttentionKernel(tile_q=16, tile_kv={64: 128, 1024: 64}, pack=16, split="slots", wider=(_FI_64, _FI_128), cta_cycles=2500.0, dim_cycles=15.0, step_cycles=390.0, combine_cycles=35.0, unpack_ops_fp8=9.1)
_FI_CUDA = AttentionKernel(tile_q=0, tile_kv={1024: 16}, pack=8, split="slots", most_resident=8.0, cta_cycles=1900.0, unpack_ops=2.6)
# Triton.
_TRITON = AttentionKernel(tile_q=64, tile_kv={1024: 64}, padded=_POWERS, tiles_outermost=True, cta_cycles=6700.0, softmax_ops=20.0, step_cycles=790.0, unpack_ops_fp8=1.8)
_TRITON_DENSE = replace(_TRITON, spill={64: 1.0, 1024: 3.1}, softmax_ops=6.2, cta_cycles=200.0)
_TRITON_DECODE = AttentionKernel(tile_q=16, tile_kv={1024: 32}, pack=16, split="slots", padded=_POWERS, cta_cycles=320.0, dim_cycles=36.0, step_cycles=620.0)

_TRITON_LATENT = AttentionKernel(tile_q=16, tile_kv={1024: 64}, pack=16, split="four", cta_cycles=20000.0, step_cycles=7300.0)

#: The general case: a packed flash kernel that splits whenever that is faster.
_FLASH = replace(_FA3, split="slots", tile_kv={64: 112, 128: 64, 192: 64, 1024: 48}, wider=())
_FLASH_DECODE = AttentionKernel(tile_q=16, tile_kv={64: 128, 1024: 64}, pack=16, split="slots", padded=_BY_32, wider=(
    AttentionKernel(tile_q=64, tile_kv={128: 64, 1024: 32}, pack=64, split="slots", padded=_BY_32),
    AttentionKernel(tile_q=128, tile_kv={128: 64, 1024: 32}, reader_rows=_32, pack=128, split="slots", padded=_BY_32)))

# sm_90 and later: wgmma reads K and V once per 64 rows, two consumer warpgroups alternate softmax and matrix instructions.
_HOPPER = AttentionKernel(tile_q=128, tile_kv={64: 176, 96: 144, 128: 176, 192: 112, 1024: 80}, warps={1024: 4}, reader_rows={1024: 64}, stages=2,
                          pack=128, split="slots", specialised=True, padded=_BY_32)
_HOPPER_DECODE = replace(_FLASH_DECODE, stages=2)

#: By the name that a call's ``implementation`` option takes.
IMPLEMENTATIONS: Final[Mapping[str, Implementation]] = {
    "flash": Implementation(_FLASH, _FLASH_DECODE),
    "fa3": Implementation(_FA3, _FA3, split_kernel=_FA3_SPLIT, launches_prefill=1.0, launches_decode=1.0),
    "fa2": Implementation(_FA2_PAGED, _FA2_DECODE, one_token_decodes=True, regroups=True),
    "fa2-dense": Implementation(_FA2_DENSE, _FA2_DENSE, kv_passes=0.0),
    "trtllm": Implementation(_FMHA, _XQA, prefill_long=_FMHA_TILED, prefill_fp8=_FMHA_FP8, decode_fp8=_XQA_FP8, fallback=_MMHA,
                             fallback_fp8=_MMHA_FP8, fallback_few=True, prefill_reads_cache=False, launches_prefill=1.0, launches_decode=1.0, query_passes=1.0,
                             kv_aliased=True),
    "flashinfer": Implementation(replace(_FI, skips_window=False), _FI, fallback=_FI_CUDA, fallback_below=2.0, fallback_above=np.inf,
                                 fallback_bits=16.0, launches_fp8=1.0),
    "flashinfer-vllm": Implementation(_FI, _FI, fallback=_FI_CUDA, fallback_below=2.0, fallback_above=np.inf, fallback_bits=16.0,
                                      one_token_decodes=True, launches_prefill=1.0, launches_decode=1.0, launches_fp8=1.0),
    "triton": Implementation(replace(_TRITON, skips_window=False), _TRITON_DECODE, prefill_dense=_TRITON_DENSE, launches_prefill=1.0, launches_decode=1.0),
    "triton-vllm": Implementation(_TRITON, _TRITON_DECODE),
    "trtllm-mla": Implementation(_FMHA_192, _FMHA_LATENT, launches_prefill=1.4, launches_decode=0.0, query_passes=1.0, kv_passes=0.0),
    "triton-mla": Implementation(replace(_FA2_DENSE, padded=_BY_64), _TRITON_LATENT, latent_projection=512.0, host_s=3.4e-4),
}

#: The same names on sm_90 and later, where the libraries ship other kernels.
_SPECIALISED: Final[Mapping[str, Implementation]] = {
    "flash": Implementation(_HOPPER, _HOPPER_DECODE),
    "fa3": Implementation(_HOPPER, _HOPPER_DECODE, launches_prefill=1.0),
}
_KERNEL_SOURCES: Final[Mapping[str, str]] = {
    "flash_attention": "fa3", "vllm_flash_attn": "fa2", "vllm_flash_attn_fa2": "fa2", "vllm_flash_attn_fa3": "fa3", "torch_flow": "trtllm",
    "flashinfer": "flashinfer", "vllm_flashinfer_fidecode": "flashinfer-vllm", "vllm_flashinfer_fiprefill": "flashinfer-vllm",
    "triton": "triton", "vllm_triton_attn": "triton-vllm", "vllm_vit_flash_attn_fa2": "fa2-dense", "default": "trtllm-mla",
    "vllm_triton_mla": "triton-mla",
}


def implementation_of(kernel_source: str | float | None) -> dict[str, str]:
    """Options of `attention_prefill` and `attention_decode` for the kernel that an op table names.

    Parameters
    ----------
    kernel_source
        As in the AIConfigurator tables (``"flash_attention"``, ``"torch_flow"`` ...); anything else is the general case.

    >>> implementation_of("torch_flow")
    {'implementation': 'trtllm'}
    >>> implementation_of(None)
    {}
    """
    name = _KERNEL_SOURCES.get(str(kernel_source))
    return {} if name is None else {"implementation": name}


def resolve(name: str | None, generation: str) -> Implementation:
    """The implementation of a name on a GPU generation; None: the general case.

    Raises
    ------
    MappingError
        No implementation has the name.
    """
    name = name or "flash"
    if name not in IMPLEMENTATIONS:
        raise MappingError(f"no attention implementation {name!r}; known: {', '.join(IMPLEMENTATIONS)}")
    if generation in {"sm_90", "sm_100", "sm_103"} and name in _SPECIALISED:
        return _SPECIALISED[name]
    return IMPLEMENTATIONS[name]
