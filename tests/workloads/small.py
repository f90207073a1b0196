"""Small versions of every configuration that must trace, and the FLOPs that torch itself counts for them."""

from __future__ import annotations

import math
from typing import Any

from presilicon.workloads import OpGraph

#: What makes each built-in configuration small; two layers where one would hide an alternation, four where the pattern
#: needs them.
_LLM: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
SMALL: dict[str, dict[str, Any]] = {
    "llama-3-8b": _LLM,
    "mistral-7b": _LLM | {"sliding_window": 24},
    "mixtral-8x7b": _LLM | {"num_local_experts": 4},
    "qwen2.5-7b": _LLM,
    "qwen3-8b": _LLM | {"head_dim": 16},
    "qwen3-30b-a3b": _LLM | {"head_dim": 16, "num_experts": 8, "moe_intermediate_size": 32, "num_experts_per_tok": 2},
    "gemma-2-9b": _LLM | {"head_dim": 16, "num_hidden_layers": 4, "sliding_window": 24},
    "gemma-3-4b": _LLM
    | {
        "head_dim": 16,
        "num_hidden_layers": 4,
        "sliding_window": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    },
    "phi-3-mini": _LLM | {"num_key_value_heads": 4, "sliding_window": 24},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 256, "bos_token_id": 0, "eos_token_id": 0},
    "gpt-neox-20b": _LLM,
    "opt-30b": {
        "hidden_size": 64,
        "word_embed_proj_dim": 64,
        "ffn_dim": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 256,
    },
    "bloom": {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 256},
    "falcon-7b": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 256},
    "falcon-40b": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_kv_heads": 2,
        "vocab_size": 256,
    },
    "deepseek-v3": _LLM
    | {
        "num_key_value_heads": 4,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "q_lora_rank": 32,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    },
    "gpt-oss-20b": _LLM
    | {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 4, "sliding_window": 24},
    "mamba2-2.7b": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_heads": 8,
        "head_dim": 16,
        "state_size": 16,
        "chunk_size": 16,
        "vocab_size": 256,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "mamba-2.8b": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "vocab_size": 256,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "bert-base": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 256,
    },
    "t5-base": {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4, "vocab_size": 256},
    "whisper-small": {
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 96,
        "max_source_positions": 50,
    },
    "vit-b-16": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 64,
    },
    "clip-vit-b-32": {
        "projection_dim": 32,
        "text_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 256,
            "max_position_embeddings": 40,
            "projection_dim": 32,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
        },
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 32,
            "projection_dim": 32,
        },
    },
    "swin-t": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "image_size": 56},
    "convnext-t": {"depths": [2, 2], "hidden_sizes": [16, 32], "num_stages": 2, "image_size": 64},
    "resnet-50": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [3, 3], "image_size": 64},
    "sam-vit-b": {
        "vision_config": {
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 128,
            "patch_size": 16,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 96,
        },
        "prompt_encoder_config": {"image_size": 128, "patch_size": 16},
    },
}
DECODES = [
    name
    for name in SMALL
    if name not in ("bert-base", "vit-b-16", "clip-vit-b-32", "swin-t", "convnext-t", "resnet-50", "sam-vit-b")
]


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A built-in configuration made small."""
    from presilicon.workloads.models import load_config

    return load_config(name)[1] | SMALL[name] | changes


#: Matmuls for which torch has no count: grouped products and triangular solves.
_UNCOUNTED = {"groups", "split_groups", "triangular"}


def mac_flops(graph: OpGraph) -> float:
    """FLOPs of the multiply-adds that torch counts, masks left out."""
    return sum(
        math.prod(op.dims.values()) * 2 * op.body["mac"] * op.count
        for op in graph
        if "mac" in op.body
        and (op.kind in ("conv", "attention") or (op.kind == "matmul" and not _UNCOUNTED & set(op.attributes)))
    )
