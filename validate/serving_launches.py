"""Calls of serving frameworks' Triton kernels, rebuilt from a row of a measured table with the framework's own launch code.

The launch functions (`context_attention_fwd`, `extend_attention_fwd`, `decode_attention_fwd`, `unified_attention` ...) are taken out of the
wheel that was measured together with their kernels (`packages`), and called with meta tensors inside `capture_launches`: grids, block
sizes, warps and stages are the framework's. What surrounds them is rebuilt here as the collector of the tables does it
(ai-dynamo/aiconfigurator, ``collector/sglang`` and ``collector/vllm``): the sizes, the index tensors with their values, and the kernels
that are timed with them and are not Triton's, which move bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from ..arch import System
from ..errors import KernelError
from ..mapping.triton import CapturedLaunch, capture_launches
from .packages import Package

Row = Mapping[str, Any]

#: Tokens of a page of the KV cache in the collectors.
_SGLANG_PAGE: Final = 64
_VLLM_BLOCK: Final = 64
#: ``triton_attention_num_kv_splits`` of SGLang's server arguments.
_SGLANG_SPLITS: Final = 8
#: Tokens of a chunk of a delta rule in SGLang.
_CHUNK: Final = 64
#: Latent attention of DeepSeek: latent rank, rotary part; query and value sizes of a head.
_LATENT, _ROPE, _NOPE, _VALUE = 512, 64, 128, 128


@dataclass(frozen=True)
class Moved:
    """A kernel that is not Triton's and moves bytes: bytes read and written."""

    read: float
    written: float


@dataclass(frozen=True)
class Call:
    """What one measured call launches, in order."""

    steps: tuple[CapturedLaunch | Moved, ...]


def _meta(*shape: int, dtype: str = "bfloat16") -> Any:
    import torch

    return torch.empty(*shape, dtype=getattr(torch, dtype), device="meta")


def _dtype(name: str) -> str:
    return "float8_e4m3fn" if name == "fp8" else str(name)


def _indices(values: Any, dtype: str = "int32") -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, dtype))


def _captured(system: System, call: Callable[[], Any]) -> tuple[CapturedLaunch, ...]:
    with capture_launches(system) as launches:
        call()
    return tuple(launches)


def _sglang(system: System) -> dict[str, Any]:
    """What SGLang asks the machine."""
    capability = int(system.generation.removeprefix("sm_"))
    return {"_is_cuda": True, "_is_hip": False, "_is_gfx95": False, "CUDA_CAPABILITY": divmod(capability, 10)}


def sglang_encoder(row: Row, package: Package, system: System) -> Call:
    """Attention of a vision encoder: no mask, every sequence as long."""
    batch, length, heads, dim = (int(row[name]) for name in ("batch_size", "isl", "num_heads", "head_dim"))
    module = package.take("sglang.srt.layers.attention.triton_ops.prefill_attention", ["context_attention_fwd"], _sglang(system))
    q, k, v, out = (_meta(batch * length, heads, dim) for _ in range(4))
    starts, lengths = _indices(np.arange(batch + 1) * length), _indices(np.full(batch, length))
    return Call(_captured(system, lambda: module.context_attention_fwd(q, k, v, out, starts, lengths, length, is_causal=False,
                                                               sm_scale=dim**-0.5)))


def _value_dim(row: Row) -> int:
    """Size of a value: keys of 192 are those of MiMo, whose values have 128.

    The tables do not say so. With values of 192 as well, decode of large batches would move more than the data sheet's bandwidth allows,
    and 1.2 times what the same kernel reaches on other sizes.
    """
    return 128 if int(row["head_dim"]) == 192 else int(row["head_dim"])


def _sglang_store(row: Row, tokens: int) -> tuple[Moved, ...]:
    """Casts to the cache's format where it is another, and what stores keys and values.

    One kernel does both where they are as wide; else each is an indexed assignment, which makes its int32 indices int64 first.
    """
    item = 1.0 if row["kv_cache_dtype"] == "fp8" else 2.0
    sides = [float(tokens * int(row["num_key_value_heads"]) * dim) for dim in (int(row["head_dim"]), _value_dim(row))]
    casts = [Moved(2.0 * n, n) for n in sides] if row["kv_cache_dtype"] == "fp8" and row["attn_dtype"] != "fp8" else []
    if sides[0] == sides[1]:
        return (*casts, Moved(item * sum(sides), item * sum(sides)))
    return (*casts, *(step for n in sides for step in (Moved(4.0 * tokens, 8.0 * tokens), Moved(item * n, item * n))))


def sglang_extend(row: Row, package: Package, system: System) -> Call:
    """Prefill without a prefix: the new keys and values go into the cache, and attention reads them where they were."""
    batch, length, heads, kv, dim = (int(row[n]) for n in ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim"))
    kind, cache = _dtype(row["attn_dtype"]), _dtype(row["kv_cache_dtype"])
    window = int(row["window_size"])
    module = package.take("sglang.srt.layers.attention.triton_ops.extend_attention", ["extend_attention_fwd"], _sglang(system))
    tokens, slots = batch * length, batch * length + _SGLANG_PAGE
    wide = _value_dim(row)
    q, k, v = (_meta(tokens, n, each, dtype=kind) for n, each in ((heads, dim), (kv, dim), (kv, wide)))
    k_cache, v_cache = (_meta(slots, kv, each, dtype=cache) for each in (dim, wide))
    starts, none = _indices(np.arange(batch + 1) * length), _indices(np.zeros(batch + 1))
    launches = _captured(system, lambda: module.extend_attention_fwd(
        q, k, v, _meta(tokens, heads, wide, dtype=kind), k_cache, v_cache, starts, none, _indices(np.zeros(1), "int64"), None, True, None,
        length, 1.0, 1.0, dim**-0.5, sliding_window_size=window or -1, window_kv_offsets=none[:batch] if window else None))
    return Call((*_sglang_store(row, tokens), *launches))


def kv_splits(length: int, batch: int, heads: int, kv: int, sms: int, most: int = _SGLANG_SPLITS) -> int:
    """Splits that SGLang's ``get_num_kv_splits_triton`` chooses where all sequences are as long.

    >>> kv_splits(4096, 1, 32, 8, 142)
    8
    """
    share = int(np.float32(sms) * max(float(np.log2(np.float32(length) / 64.0)), 1.0))
    group = heads // kv
    ctas = batch * (heads if group == 1 else -(-heads // min(16, group)))
    second = min(-(-share // ctas), most)
    chunk = -(-length // second)
    return max(1, -(-length // chunk))


def sglang_decode(row: Row, package: Package, system: System) -> Call:
    """One new token of every sequence: split over the keys, then joined."""
    batch, heads, kv, dim = (int(row[n]) for n in ("batch_size", "num_heads", "num_key_value_heads", "head_dim"))
    total, window, cache = int(row["step"]) + 1, int(row["window_size"]), _dtype(row["kv_cache_dtype"])
    module = package.take("sglang.srt.layers.attention.triton_ops.decode_attention", ["decode_attention_fwd"], _sglang(system))
    length = min(total, window) if window else total
    # tokens before the window are never read, and left out of the cache
    wide = _value_dim(row)
    k_cache, v_cache = (_meta(batch * length + 2 * _SGLANG_PAGE, kv, each, dtype=cache) for each in (dim, wide))
    slots = np.arange(batch * length) + _SGLANG_PAGE
    # the backend splits by the whole length, also where a window leaves less
    splits = kv_splits(total, batch, heads, kv, int(system.gpu.sm.count))
    launches = _captured(system, lambda: module.decode_attention_fwd(
        _meta(batch, heads, dim), k_cache, v_cache, _meta(batch, heads, wide), _indices(np.arange(batch + 1) * length),
        _indices(slots, "int64"), _meta(batch, heads, _SGLANG_SPLITS, wide, dtype="float32"),
        _meta(batch, heads, _SGLANG_SPLITS, dtype="float32"), _indices(np.full(batch, splits)), _SGLANG_SPLITS, dim**-0.5, 1.0, 1.0))
    return Call((*_sglang_store(row, batch), *launches))


def _block_table(batch: int, length: int, first: int = 0) -> tuple[np.ndarray, int]:
    """Pages of every sequence in a random order, the first page left out, as the collector deals them, and how many there are.

    Tokens before `first` are behind every window: their pages are never read, and stand as the page left out.
    """
    each, unread = -(-length // _VLLM_BLOCK), first // _VLLM_BLOCK
    order = np.random.default_rng(42).permutation(batch * (each - unread)) + 1
    table = np.zeros((batch, each), dtype=np.int64)
    table[:, unread:] = order.reshape(batch, each - unread)
    return table, len(order) + 1


@lru_cache(maxsize=8)
def _vllm(capability: int) -> Any:
    """What vLLM asks the machine."""
    import torch

    return SimpleNamespace(fp8_dtype=lambda: torch.float8_e4m3fn, is_device_capability_family=lambda n: n == capability // 10 * 10)


def vllm_unified(row: Row, package: Package, system: System) -> Call:
    """Unified attention over a paged cache: prefill or one new token, keys and values in fp8."""
    decode = int(row["step"]) > 0
    batch, heads, kv, dim = (int(row[n]) for n in ("batch_size", "num_heads", "num_key_value_heads", "head_dim"))
    queries, length = (1, int(row["step"])) if decode else (int(row["isl"]), int(row["isl"]))
    module = package.take("vllm.v1.attention.ops.triton_unified_attention", ["unified_attention", "KVQuantMode"],
                          {"is_batch_invariant": False, "current_platform": _vllm(int(system.generation.removeprefix("sm_")))})
    window = int(row["window_size"])
    table, pages = _block_table(batch, length, max(0, length - queries + 1 - window) if window else 0)
    fp8 = row["kv_cache_dtype"] == "fp8"
    cache = _meta(2, pages, _VLLM_BLOCK, kv, dim, dtype=_dtype(row["kv_cache_dtype"]))
    threshold, segments = 128 // kv, 16   # sequences up to which decode is split: 128 CTAs over the key heads
    room = min(threshold, batch)
    one = _meta(1, dtype="float32").expand(batch, kv)
    launches = _captured(system, lambda: module.unified_attention(
        q=_meta(batch * queries, heads, dim), k=cache[0], v=cache[1], out=_meta(batch * queries, heads, dim),
        cu_seqlens_q=_indices(np.arange(batch + 1) * queries), max_seqlen_q=queries, seqused_k=_indices(np.full(batch, length)),
        max_seqlen_k=length, softmax_scale=dim**-0.5, causal=True, window_size=(window - 1, 0) if window else (-1, -1),
        block_table=_indices(table), softcap=0, q_descale=None, k_descale=one, v_descale=one, seq_threshold_3D=threshold,
        num_par_softmax_segments=segments,
        softmax_segm_output=_meta(room, heads, segments, 1 << (dim - 1).bit_length(), dtype="float32"),
        softmax_segm_max=_meta(room, heads, segments, dtype="float32"),
        softmax_segm_expsum=_meta(room, heads, segments, dtype="float32"),
        kv_quant_mode=module.KVQuantMode.FP8_PER_TENSOR if fp8 else module.KVQuantMode.NONE))
    return Call(launches)


def latent_bytes(row: Row) -> float:
    """The latent cache of a row, once."""
    return 2.0 * (_LATENT + _ROPE) * int(row["batch_size"]) * int(row["step"])


def vllm_mla(row: Row, package: Package, system: System) -> Call:
    """Decode over the latent cache: queries to the latent space, attention in four splits, and back."""
    batch, heads, length = (int(row[n]) for n in ("batch_size", "num_heads", "step"))
    module = package.take("vllm.v1.attention.ops.triton_decode_attention", ["decode_attention_fwd"], {"is_hip_": False})
    table, pages = _block_table(batch, length)
    if pages * _VLLM_BLOCK * (_LATENT + _ROPE) >= 1 << 31:
        raise KernelError("the cache has 2^31 numbers or more, and the kernel's 32-bit offsets wrap: what it read is not known")
    cache = _meta(pages, _VLLM_BLOCK, 1, _LATENT + _ROPE)
    q, out = _meta(batch, heads, _LATENT + _ROPE), _meta(batch, heads, _LATENT)
    launches = _captured(system, lambda: module.decode_attention_fwd(
        q, cache, cache[..., :_LATENT], out, _meta(batch, heads), _indices(table), _indices(np.full(batch, length)),
        _meta(batch, heads, 4, _LATENT + 1, dtype="float32"), 4, (_LATENT + _ROPE)**-0.5, _VLLM_BLOCK))
    rows = 2.0 * batch * heads
    around = (Moved(rows * _NOPE + 2.0 * heads * _NOPE * _LATENT, rows * _LATENT),   # queries to the latent space
              Moved(rows * (_LATENT + _ROPE), rows * (_LATENT + _ROPE)),   # beside their rotary part
              Moved(0.0, rows * _LATENT), Moved(0.0, rows))   # zeros to write into
    back = Moved(rows * _LATENT + 2.0 * heads * _VALUE * _LATENT, rows * _VALUE)
    return Call((*around, *launches, back))


def sglang_delta_rule(row: Row, package: Package, system: System) -> Call:
    """One token of a gated delta rule for every sequence, its state read and a new one written."""
    if row["phase"] != "generation":
        raise KernelError("only the recurrent kernel of generation is rebuilt")
    batch, heads, key, values, value = (int(row[n]) for n in ("batch_size", "num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim"))
    module = package.take("sglang.srt.layers.attention.fla.fused_recurrent", ["fused_recurrent_gated_delta_rule_fwd"],
                          {"is_gather_supported": True})
    q, k, v = _meta(batch, 1, heads, key), _meta(batch, 1, heads, key), _meta(batch, 1, values, value)
    g, beta = _meta(batch, 1, values), _meta(batch, 1, values)
    return Call(_captured(system, lambda: module.fused_recurrent_gated_delta_rule_fwd(
        q, k, v, g, beta, key**-0.5, _meta(batch, values, value, key), True, False, None)))


def _delta_sizes(row: Row) -> tuple[int, int, int, int, int, int]:
    """Sequences, tokens of each, heads of keys and of values, and their sizes."""
    names = ("batch_size", "seq_len", "num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim")
    batch, length, heads, values, key, value = (int(row[name]) for name in names)
    return batch, length, heads, values, key, value


def sglang_delta_packed(row: Row, package: Package, system: System) -> Call:
    """One token of a gated delta rule for every sequence, from queries, keys and values as the convolution leaves them."""
    batch, _, heads, values, key, value = _delta_sizes(row)
    module = package.take("sglang.srt.layers.attention.fla.fused_recurrent", ["fused_recurrent_gated_delta_rule_packed_decode"],
                          {"is_gather_supported": True})
    mixed, gates = _meta(batch, 2 * heads * key + values * value), _meta(batch, values)
    launches = _captured(system, lambda: module.fused_recurrent_gated_delta_rule_packed_decode(
        mixed_qkv=mixed, a=gates, b=gates, A_log=_meta(values, dtype="float32"), dt_bias=_meta(values), scale=key**-0.5,
        initial_state=_meta(batch, values, value, key, dtype="float32"), out=_meta(batch, 1, values, value),
        ssm_state_indices=_meta(batch, dtype="int32"), use_qk_l2norm_in_kernel=True))
    # the function asks that all lie on one device: which state is whose is put in behind it
    slots = {"ssm_state_indices": _indices(np.arange(batch))}
    return Call(tuple(replace(launch, meta={**launch.meta, **slots}) for launch in launches))


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    """In place of decorators that ask the machine's GPU."""
    return function


def sglang_delta_chunks(row: Row, package: Package, system: System) -> Call:
    """A gated delta rule over sequences in chunks of 64 tokens: six kernels and the zeros that one of them adds to."""
    batch, length, heads, values, key, value = _delta_sizes(row)
    given = {**_sglang(system), "tensor_cache": _as_it_is, "input_guard": _as_it_is, "autotune_cache_kwargs": {}, "SUPPRESS_LEVEL": 0,
             "is_tf32_supported": True, "is_gather_supported": True, "is_nvidia_hopper": system.generation == "sm_90", "is_intel": False}
    norm = package.take("sglang.srt.layers.attention.fla.l2norm", ["l2norm_fwd"], given)
    module = package.take("sglang.srt.layers.attention.fla.chunk", ["chunk_gated_delta_rule_fwd"], given)
    tokens = batch * length
    q, k, v = _meta(1, tokens, heads, key), _meta(1, tokens, heads, key), _meta(1, tokens, values, value)
    gate, beta = (_meta(1, tokens, values, dtype="float32") for _ in range(2))
    starts = _indices(np.arange(batch + 1) * length)
    chunks = _indices([[sequence, chunk] for sequence in range(batch) for chunk in range(-(-length // _CHUNK))])

    def call() -> None:
        norm.l2norm_fwd(q)
        norm.l2norm_fwd(k)
        module.chunk_gated_delta_rule_fwd(q=q, k=k, v=v, g=gate, beta=beta, scale=key**-0.5,
                                          initial_state=_meta(batch, values, value, key, dtype="float32"),
                                          initial_state_indices=_indices(np.arange(batch)), cu_seqlens=starts, chunk_indices=chunks)

    launches = _captured(system, call)
    return Call((*launches[:3], Moved(0.0, 2.0 * tokens * values * _CHUNK), *launches[3:]))


def sglang_conv(row: Row, package: Package, system: System) -> Call:
    """The causal convolution before a delta rule, over whole sequences."""
    batch, length, heads, values, key, value = _delta_sizes(row)
    module = package.take("sglang.srt.layers.attention.mamba.causal_conv1d_triton", ["causal_conv1d_fn"])
    channels, width = 2 * heads * key + values * value, int(row["d_conv"])
    return Call(_captured(system, lambda: module.causal_conv1d_fn(
        _meta(batch * length, channels).transpose(0, 1), _meta(channels, width), None,
        query_start_loc=_indices(np.arange(batch + 1) * length), cache_indices=_indices(np.arange(batch)),
        has_initial_state=_indices(np.zeros(batch), "bool"), conv_states=_meta(batch, channels, width - 1), activation="silu",
        seq_lens_cpu=[length] * batch)))
