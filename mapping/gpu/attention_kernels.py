"""Attention kernels in use: how each cuts its work into CTAs, and what one call of a library launches besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np


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
        Warps of a CTA. Each computes ``tile_q / warps`` rows (at least 16) and reads all of K and V from shared memory.
    stages
        KV steps in flight per CTA.
    pack
        Most query heads of one KV head that share a tile; 1: every query head has its own.
    split
        Whether a short grid is split along the KV axis (flash decoding), with a combining launch.
    softmax_ops
        Instructions per score on the fp32 pipe: scale, running maximum, sum, mask, conversion.
    cta_cycles
        SM cycles per CTA outside its loop: page table, query load, final scaling and store.
    overlap
        Whether warp specialisation overlaps one warpgroup's softmax with another's tensor-core work (sm_90 and later).
    """

    tile_q: int
    tile_kv: Mapping[int, int]
    warps: Mapping[int, int] = field(default_factory=lambda: {1024: 4})
    stages: int = 1
    pack: int = 1
    split: bool = False
    softmax_ops: float = 4.0
    cta_cycles: float = 2500.0
    dim_cycles: float = 0.0
    split_waves: float = 0.0
    split_slots: bool = True
    step_cycles: float = 400.0
    combine_cycles: float = 100.0
    combine_launches: float = 1.0
    heads_outermost: bool = False
    skips_window: bool = True
    wider: tuple[AttentionKernel, ...] = ()
    most_head_dim: int = 1024
    overlap: bool = False
    pack_windows: bool = True
    split_groups_only: bool = False
    most_resident: float = 16.0
    padded: Mapping[int, int] = field(default_factory=dict)
    spill: Mapping[int, float] = field(default_factory=lambda: {1024: 1.0})
    unpack_ops: float = 0.0
    unpack_ops_fp8: float = 2.0

    def unsplit(self) -> AttentionKernel:
        return replace(self, split=False)

    def pad(self, head_dim: Any) -> Any:
        return self.lookup(self.padded, head_dim) if self.padded else head_dim

    def lookup(self, table: Mapping[int, int], head_dim: Any) -> np.ndarray:
        """Entry of ``table`` for each head_dim."""
        limits = np.array(sorted(table))
        values = np.array([float(table[limit]) for limit in limits])
        return values[np.minimum(np.searchsorted(limits, np.asarray(head_dim)), len(limits) - 1)]


@dataclass(frozen=True)
class Implementation:
    """What one call of a library's attention contains.

    Attributes
    ----------
    prefill, decode
        The kernels.
    fallback, fallback_group
        Decode kernel for groups (query heads per KV head) of 1 or above ``fallback_group``, and for grids with fewer than
        a quarter of a CTA per SM; none: ``decode`` serves all.
    launches_prefill, launches_decode, launches_fp8
        Further kernels in the call: write of the new keys and values to the cache, rotary embedding, scheduling
        metadata; and those that only an fp8 cache needs (quantisation of the new keys and values).
    query_passes
        Times that the call reads and writes the queries outside the attention kernel (in prefill).
    kv_passes
        The same for the new keys and values (1: read them and write them to the cache).
    regroup
        Whether a packed decode first copies the queries, and last the output, into the packed layout (two launches),
        which it needs when both batch and kv_heads exceed 1.
    kv_aliased
        Whether the caller's cache stores K and V in the same bytes (benchmarks of TensorRT-LLM allocate a K-only cache), so that
        V hits in L2 where the kernel reads K and V tile by tile.
    host_s
        Seconds that the host needs to issue one call; 0: in a CUDA graph.
    """

    prefill: AttentionKernel
    decode: AttentionKernel
    decode_fp8: AttentionKernel | None = None
    fallback: AttentionKernel | None = None
    fallback_fp8: AttentionKernel | None = None
    fallback_group: float = 32
    fallback_below: float = 1
    fallback_few: bool = False
    fallback_element: float = 0.0
    launches_prefill: float = 1.0
    launches_decode: float = 1.0
    launches_fp8: float = 0.0
    query_passes: float = 0.0
    kv_passes: float = 1.0
    regroup: bool = False
    kv_aliased: bool = False
    host_s: float = 0.0
    decode_single: bool = False
    prefill_reads_cache: bool = True
    prefill_long: AttentionKernel | None = None
    prefill_fp8: AttentionKernel | None = None


_POW2 = {16: 16, 32: 32, 64: 64, 80: 80, 96: 96, 128: 128, 256: 256, 512: 512, 1024: 1024}
_BY32 = {32 * i: 32 * i for i in range(1, 33)}

_FA2_SPLIT = AttentionKernel(padded=_BY32, heads_outermost=True, tile_q=64, tile_kv={64: 256, 128: 128, 1024: 64}, pack=64, split=True, pack_windows=False, split_groups_only=True, cta_cycles=3500.)
_FA3_SM80 = AttentionKernel(padded=_BY32, tile_q=128, tile_kv={64: 112, 128: 64, 192: 64, 1024: 48}, warps={128: 4, 1024: 8}, pack=128, split=True, cta_cycles=2700.)
_FMHA = AttentionKernel(tile_q=64, tile_kv={1024: 32}, cta_cycles=2900., padded=_POW2)
_FMHA_TILED = AttentionKernel(tile_q=64, tile_kv={1024: 128}, cta_cycles=2900., padded=_POW2)
_MMHA = AttentionKernel(padded=_POW2, split_slots=False, tile_q=0, unpack_ops=2.0, unpack_ops_fp8=40.0, tile_kv={1024: 64}, split=True, cta_cycles=2000.0, most_resident=8, combine_launches=0.0)
_XQA = AttentionKernel(padded=_POW2, combine_launches=0.0, combine_cycles=0.0, split_waves=8.0, tile_q=32, tile_kv={1024: 128}, warps={1024: 4}, pack=32, split=True, cta_cycles=8000.0, most_resident=1)
_FI128 = AttentionKernel(tile_q=128, tile_kv={64: 64, 1024: 32}, pack=128, split=True, most_head_dim=128)
_FI64 = AttentionKernel(tile_q=64, tile_kv={64: 128, 128: 64, 1024: 32}, pack=64, split=True)
_FLASHINFER_DEC = AttentionKernel(tile_q=16, tile_kv={64: 128, 1024: 64}, pack=16, split=True, wider=(_FI64, _FI128))
_FLASHINFER = replace(_FLASHINFER_DEC, skips_window=False)
_FLASHINFER_CUDA = AttentionKernel(tile_q=0, pack=8, unpack_ops=2.0, tile_kv={1024: 64}, split=True, cta_cycles=2000.0, most_resident=8)
_TRITON = AttentionKernel(tile_q=64, tile_kv={1024: 64}, cta_cycles=2500.)
_TRITON_DEC = AttentionKernel(tile_q=16, tile_kv={1024: 32}, pack=16, split=True, cta_cycles=2500.)

IMPLEMENTATIONS = {
    "fa3": Implementation(_FA3_SM80, _FA3_SM80, launches_prefill=2.0, launches_decode=2.0),
    "fa2": Implementation(replace(_FA2_SPLIT, pack=1, split=False), _FA2_SPLIT, regroup=True, decode_single=True),
    "trtllm": Implementation(_FMHA, _XQA, prefill_reads_cache=False, prefill_long=_FMHA_TILED, prefill_fp8=replace(_FMHA, spill={64: 4.0, 192: 1.0, 1024: 6.0}, softmax_ops=10.), fallback=_MMHA, fallback_fp8=replace(_MMHA, cta_cycles=6000.0, dim_cycles=20.0), decode_fp8=replace(_XQA, split_waves=0.0, split=False, unpack_ops_fp8=20.0), fallback_few=True, kv_aliased=True, query_passes=1.0),
    "flashinfer": Implementation(_FLASHINFER, _FLASHINFER_DEC, fallback=_FLASHINFER_CUDA, fallback_below=2, fallback_group=1e9, fallback_element=2.0, launches_fp8=2.0),
    "flashinfer-vllm": Implementation(_FLASHINFER_DEC, _FLASHINFER_DEC, decode_single=True, fallback=_FLASHINFER_CUDA, fallback_below=2, fallback_group=1e9, fallback_element=2.0, launches_fp8=2.0),
    "triton-vllm": Implementation(_TRITON, _TRITON_DEC),
    "triton": Implementation(replace(_TRITON, skips_window=False), _TRITON_DEC),
}
FLASH_ATTENTION = IMPLEMENTATIONS["fa3"]
SOURCES = {"flash_attention": "fa3", "vllm_flash_attn": "fa2", "vllm_flash_attn_fa2": "fa2", "torch_flow": "trtllm", "flashinfer": "flashinfer", "vllm_flashinfer_fidecode": "flashinfer-vllm",
           "vllm_flashinfer_fiprefill": "flashinfer-vllm", "triton": "triton", "vllm_triton_attn": "triton-vllm"}


def implementation_of(kernel_source: str) -> Implementation:
    return IMPLEMENTATIONS[SOURCES[kernel_source]]
