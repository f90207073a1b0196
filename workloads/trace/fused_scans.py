"""Operators that stand for the fused scans of state-space and linear-attention models.

They take the place of transformers' own fallbacks, written in plain torch, for kernels of mamba_ssm, causal_conv1d and
flash-linear-attention; names and arguments are those of the fallbacks. They have shapes but no arithmetic.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import torch
from torch import Tensor

from ...errors import TraceError


def _operator(name: str, mutates: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Define an operator by the shapes of its outputs."""

    def define(shapes: Callable[..., Any]) -> Callable[..., Any]:
        def no_arithmetic(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(f"presilicon::{name} has a shape but no arithmetic")

        def no_backward(ctx: Any, *gradients: Any) -> Any:
            raise TraceError(f"the fused kernel {name} has no backward pass here; give phase='prefill' or 'decode'")

        schema = torch.library.infer_schema(shapes, mutates_args=mutates)
        made = torch.library.custom_op(f"presilicon::{name}", no_arithmetic, mutates_args=mutates, schema=schema)
        made.register_fake(shapes)
        if not mutates:  # a step of decoding, which torch allows no gradient
            made.register_autograd(no_backward)
        return made

    return define


@_operator("mamba1_scan")
def _mamba1_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[0], x.shape[1], a.shape[1], dtype=torch.float32)


@_operator("mamba2_scan")
def _mamba2_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    state = x.new_empty(x.shape[0], x.shape[2], x.shape[3], b.shape[3], dtype=torch.float32)
    return torch.empty_like(x), state


@_operator("mamba2_update", ("state",))
def _mamba2_update(
    state: Tensor, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None, z: Tensor | None
) -> Tensor:
    return torch.empty_like(x)


@_operator("causal_conv1d")
def _causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, activation: bool) -> Tensor:
    return torch.empty_like(x)


@_operator("causal_conv1d_update", ("state",))
def _causal_conv1d_update(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor | None, activation: bool) -> Tensor:
    return torch.empty_like(x)


@_operator("gated_delta")
def _gated_delta(
    query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, initial: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    state = value.new_empty(value.shape[0], value.shape[2], key.shape[3], value.shape[3], dtype=torch.float32)
    return torch.empty_like(value), state


@_operator("gated_delta_update")
def _gated_delta_update(
    query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    state = value.new_empty(value.shape[0], value.shape[2], key.shape[3], value.shape[3], dtype=torch.float32)
    return torch.empty_like(value), state


@_operator("rwkv_scan")
def _rwkv_scan(
    decay: Tensor, first: Tensor, key: Tensor, value: Tensor, num: Tensor | None, den: Tensor | None, top: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, _, width = key.shape
    states = [key.new_empty(batch, width, dtype=torch.float32) for _ in range(3)]
    return torch.empty_like(key), states[0], states[1], states[2]


def _rwkv_linear_attention(
    time_decay: Tensor,
    time_first: Tensor,
    key: Tensor,
    value: Tensor,
    state: Any = None,
    return_state: bool = False,
) -> Any:
    num, den, top = state if state is not None else (None, None, None)
    output, *states = _rwkv_scan(time_decay, time_first, key, value, num, den, top)
    return output, states if return_state or state is not None else None


def _mamba_selective_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    return_last_state: bool = False,
    **kwargs: Any,
) -> Any:
    output, state = _mamba1_scan(hidden_states, dt, A, B, C, D, z, delta_bias)
    return (output, state) if return_last_state else output


def _mamba2_chunk_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    chunk_size: int,
    D: Tensor | None = None,  # noqa: N803
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    **kwargs: Any,
) -> Any:
    output, state = _mamba2_scan(hidden_states, dt, A, B, C, D, initial_states, chunk_size)
    return (output, state) if return_final_states else output


def _selective_state_update(
    state: Tensor,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    output: Tensor = _mamba2_update(state, hidden_states, dt, A, B, C, D, z)
    return output


def _conv_fn(
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **kwargs: Any,
) -> Tensor:
    output: Tensor = _causal_conv1d(hidden_states, weight, bias, activation is not None)
    return output


def _conv_update(
    hidden_states: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **kwargs: Any,
) -> Tensor:
    output: Tensor = _causal_conv1d_update(hidden_states, conv_state, weight, bias, activation is not None)
    return output


def _chunk_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **kwargs: Any,
) -> Any:
    output, state = _gated_delta(query, key, value, g, beta, initial_state, chunk_size)
    return output, state if output_final_state else None


def _recurrent_gated_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    **kwargs: Any,
) -> Any:
    output, state = _gated_delta_update(query, key, value, g, beta, initial_state)
    return output, state if output_final_state else None


#: The fallback that walks the sequence token by token: replaced always, because nobody runs it on a GPU.
_SEQUENTIAL: Final[dict[str, Callable[..., Any]]] = {
    "mamba_selective_scan": _mamba_selective_scan,
    "rwkv_linear_attention": _rwkv_linear_attention,
}
_FUSED: Final[dict[str, Callable[..., Any]]] = _SEQUENTIAL | {
    "mamba2_chunk_scan": _mamba2_chunk_scan,
    "mamba2_selective_state_update": _selective_state_update,
    "causal_conv1d_fn": _conv_fn,
    "causal_conv1d_update": _conv_update,
    "torch_chunk_gated_delta_rule": _chunk_gated_delta_rule,
    "torch_recurrent_gated_delta_rule": _recurrent_gated_delta_rule,
}


@contextmanager
def fused_scans(every: bool = True) -> Iterator[None]:
    """Replace the fallbacks in all loaded models of transformers; without `every`, only the sequential ones."""
    wanted = _FUSED if every else _SEQUENTIAL
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith("transformers.models."):
                for label in wanted.keys() & vars(module).keys():
                    stack.enter_context(mock.patch.object(module, label, wanted[label]))
        yield
