"""Operators that stand for fused kernels which torch itself does not have: attention with windows, caps and sinks.

Models of transformers reach it through its own registry of attentions. It has shapes but no arithmetic: only meta
tensors pass.
"""

from __future__ import annotations

from typing import Any, Final

import torch

#: Name under which transformers knows the attention.
FUSED: Final = "presilicon_fused"


@torch.library.custom_op("presilicon::attention", mutates_args=())
def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    sinks: torch.Tensor | None,
    is_causal: bool,
    window: int,
    softcap: float,
) -> torch.Tensor:
    """Attention of query (b, H, q, e) over key (b, Hk, s, e) and value (b, Hk, s, ev), laid out (b, q, H, ev)."""
    raise NotImplementedError("presilicon::attention has a shape but no arithmetic")


@attention.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    sinks: torch.Tensor | None,
    is_causal: bool,
    window: int,
    softcap: float,
) -> torch.Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[3])


def register() -> None:
    """Make the attention known to transformers, with no mask: kernels of this kind work masks out themselves."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if FUSED not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(FUSED, _interface)
        ALL_MASK_ATTENTION_FUNCTIONS.register(FUSED, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


def _interface(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *args: Any,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal) and query.shape[2] > 1
    bias = position_bias if position_bias is not None else attention_mask
    found = attention(query, key, value, bias, s_aux, causal, int(sliding_window or 0), float(softcap or 0.0))
    return found, None
