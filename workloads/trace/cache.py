"""KV caches for a decode step: filled with `context` tokens, and appended to in place as serving engines do."""

from __future__ import annotations

import copy
from typing import Any

import torch


def filled(model: torch.nn.Module, kwargs: dict[str, Any]) -> tuple[str, Any, Any]:
    """Run a prefill on meta tensors and return the name of the cache argument, the cache, and the whole output.

    Raises
    ------
    LookupError
        The output holds no cache: the model does not decode.
    """
    from .eager import eager_semantics

    with torch.no_grad(), eager_semantics():  # not inference mode: the step writes into these tensors
        output = model(**kwargs, use_cache=True)
    for name in ("past_key_values", "cache_params", "state", "mems"):
        cache = getattr(output, name, None)
        if cache is not None:
            return name, cache, output
    raise LookupError("its output holds no cache (past_key_values, cache_params, state)")


def in_place(cache: Any, new_tokens: int = 1) -> Any:
    """A copy of a cache whose growing layers write new keys and values into memory that is there already.

    transformers' dynamic layers concatenate, which copies the whole cache in every step; no serving engine does. Layers
    of other kinds (recurrent states, static layers) stay as they are.
    """
    try:
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache
    except ImportError:
        return cache
    twin = copy.copy(cache)
    if isinstance(cache, EncoderDecoderCache):
        twin.self_attention_cache = in_place(cache.self_attention_cache, new_tokens)
        return twin
    layers = getattr(cache, "layers", None)
    if not isinstance(layers, list):
        return cache
    grown = []
    for layer in layers:
        plain = getattr(type(layer), "update", None) in (DynamicLayer.update, DynamicSlidingWindowLayer.update)
        if not plain or not isinstance(getattr(layer, "keys", None), torch.Tensor) or layer.keys.dim() != 4:
            grown.append(layer)
            continue
        ready = copy.copy(layer)
        ready.__class__ = _grown_class(type(layer))
        ready.length = layer.get_seq_length()
        ready.keys, ready.values = _longer(layer.keys, new_tokens), _longer(layer.values, new_tokens)
        grown.append(ready)
    twin.layers = grown
    return twin


def _longer(tensor: torch.Tensor, tokens: int) -> torch.Tensor:
    shape = list(tensor.shape)
    shape[-2] += tokens
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device)


_classes: dict[type, type] = {}


def _grown_class(base: type) -> type:
    if base not in _classes:

        def update(self: Any, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            tokens = key_states.shape[-2]
            self.keys[:, :, -tokens:, :].copy_(key_states)
            self.values[:, :, -tokens:, :].copy_(value_states)
            self.length += tokens
            if hasattr(self, "cumulative_length"):
                self.cumulative_length += tokens
            return self.keys, self.values

        def get_seq_length(self: Any, *args: Any, **kwargs: Any) -> int:
            return int(self.length)

        _classes[base] = type(
            f"InPlace{base.__name__}",
            (base,),
            {"update": update, "get_seq_length": get_seq_length, "__module__": base.__module__},
        )
    return _classes[base]
