"""Operators that stand for fused kernels which torch itself does not have: attention with windows and sinks, scans.

Models of transformers reach them through its own registries of kernels. They have shapes but no arithmetic: only meta
tensors pass.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import torch

#: Name under which transformers knows the attention.
FUSED: Final = "presilicon_fused"
_SCAN: Final = "mamba_selective_scan"


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


@torch.library.custom_op("presilicon::selective_scan", mutates_args=())
def selective_scan(
    hidden: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor | None,
    z: torch.Tensor | None,
    dt_bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mamba's scan over hidden (batch, channels, length) with a state of (channels, n); returns the output and the last
    state.
    """
    raise NotImplementedError("presilicon::selective_scan has a shape but no arithmetic")


@selective_scan.register_fake
def _(
    hidden: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor | None,
    z: torch.Tensor | None,
    dt_bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(hidden), hidden.new_empty(hidden.shape[0], hidden.shape[1], a.shape[1])


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


@contextmanager
def fused_scans() -> Iterator[None]:
    """Replace the sequential loops of transformers' Mamba models by one scan operator."""
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("transformers.models.") and callable(vars(module).get(_SCAN)):
                stack.enter_context(mock.patch.object(module, _SCAN, _scan))
        yield


def _scan(
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,  # noqa: N803
    B: torch.Tensor,  # noqa: N803
    C: torch.Tensor,  # noqa: N803
    D: torch.Tensor | None = None,  # noqa: N803
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    return_last_state: bool = False,
    **kwargs: Any,
) -> Any:
    output, state = selective_scan(hidden_states, dt, A, B, C, D, z, delta_bias)
    return (output, state) if return_last_state else output
