"""What the closed form of attention needs to know of a kernel's code, and of the library call around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Table by head_dim of one value for all.
Table = Mapping[int, float]


@dataclass(frozen=True)
class AttentionKernel:
    """How one attention kernel is tiled; a property of its code, the same on every GPU that runs it.

    Tables map the largest head_dim that an entry serves to its value.

    Attributes
    ----------
    tile_q
        Query rows of a CTA; a shorter query is padded to it. 0: one query head a CTA, on the fp32 pipes (no tensor
        core).
    tile_kv
        KV tokens per step of the CTA's loop.
    warps
        Warps of a CTA, each with up to 255 registers a thread.
    reader_rows
        Query rows for which one read of K and V from shared memory serves: those of a warp (``mma.sync``, 16 or 32)
        or of a warpgroup (``wgmma``, 64).
    stages
        KV steps in flight per CTA.
    pack
        Most query heads of one KV head that share a tile; 1: every query head has its own.
    packs_windows
        Whether sliding-window calls are packed too.
    split
        How a short grid is split along the KV axis (flash decoding): ``"none"``; ``"sm"``: to one CTA per SM where
        that is faster; ``"slots"``: to all resident CTAs, to one per SM, to half as many, a quarter and so on, whichever is fastest;
        ``"waves"``: to 8 CTAs per SM, at least 128 tokens each (XQA); ``"four"``: always in four; ``"even"``: by FlashAttention 3's
        rule, pieces of 1.1 times the even share of an SM; ``"parts"``: the KV of all sequences laid end to end and cut into
        equal parts, one per SM, whose seams are merged (FlashMLA, trtllm-gen).
    empty_share
        Share of a CTA's cycles outside its loop that one costs whose piece lies outside the window, as ``"waves"`` cuts the whole
        cache; 0: it cuts the window alone.
    planned_kv_heads
        KV heads for which ``"even"`` plans the pieces, where the caller's plan is not for this call's own; 0: its own.
    planned_heads
        Query heads for which ``"parts"`` divides the SMs, where the caller's plan is not for this call's own: tiles that the
        call does not have leave their SMs idle.
    combine_launches, combine_cycles
        Launches that merge the pieces, and cycles per piece of that merge.
    wider
        Kernels for more packed query rows, by ascending tile_q.
    rows_from
        Fewest packed query rows for which this kernel takes over from the narrower one whose `wider` names it; 0: more than
        that one's tile.
    most_head_dim
        Largest head_dim that the kernel serves.
    skips_window
        Whether KV steps wholly outside a sliding window are skipped.
    heads_outermost
        Whether the query head is the slowest axis of the grid, so that the heads of a group re-read KV from DRAM when
        one pass over the batch exceeds L2.
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
    window_row_cycles
        SM cycles per query row besides where a sliding window cuts keys off, as the steps at both of its edges are masked score by
        score.
    companions
        Further launches that the call needs with this kernel, by head_dim.
    step_cycles
        Cycles of latency per KV step that a CTA cannot hide alone: load, barrier, dependent instructions.
    most_resident
        Most CTAs on an SM.
    tail
        Part of the longest CTA's time for which the last SM of an uneven grid outlasts the mean: less where a
        persistent kernel takes the longest tiles first.
    """

    tile_q: int
    tile_kv: Table
    warps: Table = field(default_factory=lambda: {1024: 4})
    reader_rows: Table = field(default_factory=lambda: {1024: 16})
    stages: int = 1
    pack: int = 1
    packs_windows: bool = True
    split: str = "none"
    empty_share: float = 1.0
    planned_kv_heads: float = 0.0
    planned_heads: float = 0.0
    combine_launches: float = 1.0
    combine_cycles: float = 100.0
    wider: tuple[AttentionKernel, ...] = ()
    rows_from: float = 0.0
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
    window_row_cycles: float = 0.0
    step_cycles: float = 0.0
    most_resident: float = 16.0
    tail: float = 0.8

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
    prefill, prefill_narrow, prefill_dense, prefill_long, prefill_fp8
        Prefill kernels: the usual one; the one for head_dim up to 64; the one for calls without a mask and without a cache
        (encoders); the one for
        more than 128 query tokens (on sm_86, sm_89 and sm_120 only with head_dim of 256 and more); the one for fp8
        arithmetic.
    decode, decode_fp8
        Decode kernels, the second for an fp8 cache.
    split_kernel, split_fp8
        Kernels (the second for fp8 products) that take over from `prefill` and `decode` where FlashAttention 3 decides to split:
        query tiles of one sequence below 0.8 of the SMs, more than four KV steps, at most 992 sequences.
    fallback, fallback_fp8
        Decode kernels for groups (query heads per KV head) up to ``fallback_below``, above ``fallback_above`` or not
        whole.
    fallback_few
        Whether `fallback` also takes grids below a quarter of a CTA of 128 tokens per SM (16-bit cache).
    fallback_few_fp8
        Smallest group for which it does so with an fp8 cache.
    fallback_bits
        Narrowest cache element that `fallback` takes.
    one_token_decodes
        Whether a prefill of one query token runs the decode kernel.
    prefill_reads_cache
        Whether prefill reads K and V from the cache in its format, or from the 16-bit inputs.
    launches_prefill, launches_decode, launches_fp8
        Further kernels in the call: write of the new keys and values to the cache, rotary embedding, scheduling
        metadata; and those that only an fp8 cache needs (quantisation of the new keys and values; negative: those that it saves). A launch
        is that of the constant ``attention.launch``; kernels that do more than start and end count as more than one.
    fp8_products
        Whether an fp8 cache makes the products run in fp8, on queries that are converted first.
    query_casts
        Times that the call converts the queries from 16 bits to fp8 for that.
    latent_tokens
        New tokens up to which a prefill of latent attention runs the decode kernel in the latent space.
    stores_latent
        Whether what a prefill stores is one latent vector of 512 + 64 elements per token, not keys and values per head.
    writes_in_decode
        Whether the bytes of the new keys and values, and of converted queries, count in decode beside their launches.
    write_bytes_per_clk
        Bytes per clock and SM that the kernels which store the new keys and values move at most: one that computes an
        address for each element (``index_put``) is slower than DRAM. 0: no such limit.
    fused_fp8_store
        Whether one kernel of its own converts the queries and stores an fp8 cache, at the speed of memory.
    write_block_cycles, write_block_cycles_fp8
        SM cycles of a block of a kernel that stores the new keys and values with one block of up to 512 threads, one for
        each element, per token (vLLM's ``reshape_and_cache_flash``), to a 16-bit and to an fp8 cache; 0: another kernel.
    cache_cast_bytes_per_clk
        Bytes per clock and SM of a kernel that converts the whole fp8 cache to 16 bits before every call; 0: there is none.
    absorbed_prefill
        Whether a latent prefill runs in the latent space: all heads over one KV head of 512 + 64 elements, the first 512
        of which are the values, instead of over keys and values projected per head.
    query_passes, kv_passes
        Times that the call reads and writes the queries, and the new keys and values, outside the attention kernel
        (in prefill).
    regroups
        Whether a packed decode first copies the queries, and last the output, into the packed layout (two launches), as
        it must when both batch and kv_heads exceed 1.
    kv_aliased
        Whether the caller's cache keeps K and V in the same bytes, as benchmarks that allocate a K-only cache do: V
        then hits in L2 where it is read soon enough after K.
    latent_projection
        Whether the call of a latent attention includes the projection of the latent vectors to keys and values
        (prefill), or of queries and outputs from and to the latent space (decode); width of the latent vector, 0:
        none.
    host_s
        Seconds that the host takes to issue the call when it is not replayed from a CUDA graph; 0: replayed.
    """

    prefill: AttentionKernel
    decode: AttentionKernel
    prefill_narrow: AttentionKernel | None = None
    prefill_dense: AttentionKernel | None = None
    prefill_long: AttentionKernel | None = None
    prefill_fp8: AttentionKernel | None = None
    decode_fp8: AttentionKernel | None = None
    split_kernel: AttentionKernel | None = None
    split_fp8: AttentionKernel | None = None
    fallback: AttentionKernel | None = None
    fallback_fp8: AttentionKernel | None = None
    fallback_above: float = 32.0
    fallback_below: float = 1.0
    fallback_few: bool = False
    fallback_few_fp8: float = np.inf
    fallback_bits: float = 8.0
    one_token_decodes: bool = False
    prefill_reads_cache: bool = True
    launches_prefill: float = 0.0
    launches_decode: float = 0.0
    launches_fp8: float = 0.0
    fp8_products: bool = False
    query_casts: float = 0.0
    latent_tokens: float = 0.0
    stores_latent: bool = False
    writes_in_decode: bool = False
    write_bytes_per_clk: float = 0.0
    fused_fp8_store: bool = False
    write_block_cycles: float = 0.0
    write_block_cycles_fp8: float = 0.0
    cache_cast_bytes_per_clk: float = 0.0
    absorbed_prefill: bool = False
    query_passes: float = 0.0
    kv_passes: float = 1.0
    regroups: bool = False
    kv_aliased: bool = False
    latent_projection: float = 0.0
    host_s: float = 0.0
