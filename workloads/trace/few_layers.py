"""A few layers in place of many: of a model whose layers are alike, or alternate, two short versions say all about the whole.

Both versions are built and traced. What they have in common is the model without its layers, what the longer one has more is one period
of layers; the graph of the whole follows by counting. It is taken only where that is certain to be the graph of the whole: all layers of
the whole model agree, period by period, in their modules, numbers and parameters (some at the beginning may be of their own kinds, which
the short versions then have too); both versions agree in all ops, operands and edges; and no layer leaves behind what lives
on, counters aside. Everything else is traced in full.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, replace
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

import torch

from ..graph import Memory, OpGraph

Model = torch.nn.Module

#: Periods of layers in the two versions: the second layer of a kind is the first to follow one of its kind.
SHORT, LONG = 2, 3
#: Bytes that a period of layers may leave behind: positions that are counted.
COUNTERS: Final = 64
#: Attributes of modules that say which layer they are.
_PLACES: Final = ("layer_idx", "layer_id", "layer_index", "layer_number")
#: Attributes that are told apart by their value; others by their type.
_PLAIN: Final = (bool, int, float, str, tuple, list, dict, set, torch.dtype, FunctionType, BuiltinFunctionType)


def of_short_versions(config: Any, model: Model, build: Callable[[Any], Model], trace: Callable[[Model], tuple[OpGraph, int]],
                      ) -> OpGraph | None:
    """The folded graph of a model from those of two short versions of it; None where only the whole model can say.

    Parameters
    ----------
    config, model
        Of transformers; the model is on the meta device.
    build, trace
        The model of a configuration; the folded graph of a model, and the bytes beside its cache that the step returns.
    """
    kinds = kinds_of(config, model)
    first, period = _repeats(kinds)
    if not period:
        return None
    sizes = [first + periods * period for periods in (SHORT, LONG)]
    try:
        configs = [_with_layers(config, size) for size in sizes]
        models = [build(one) for one in configs]
        if any(kinds_of(*one) != kinds[:size] for *one, size in zip(configs, models, sizes, strict=True)):
            return None
        (short, left), (long, more) = (trace(one) for one in models)
    except Exception:  # whatever a short version cannot do, or a strict trace refuses, the whole model shall say
        return None
    return extrapolated(short, long, (len(kinds) - sizes[1]) // period) if left == more else None


def kinds_of(config: Any, model: Model) -> list[Any]:
    """What each layer is, in order, its place aside; nothing where no single stack has the configuration's number of layers."""
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    stacks = [part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == layers]
    if len(stacks) != 1 or getattr(config, "is_encoder_decoder", False):
        return []
    kinds = [list(_description(layer)) for layer in stacks[0]]
    for key, listed in vars(text).items():
        if isinstance(listed, (list, tuple)) and len(listed) == layers:
            kinds = [[*kind, key, str(entry)] for kind, entry in zip(kinds, listed, strict=True)]
    return kinds


def _repeats(kinds: list[Any]) -> tuple[int, int]:
    """Behind how many layers of their own kinds the others repeat, and after how many; (0, 0) where tracing them all is no dearer."""
    number = {repr(kind): n for n, kind in reversed(list(enumerate(kinds)))}
    of = [number[repr(kind)] for kind in kinds]
    count = len(of)
    return min(
        ((first, period) for first in range(count) for period in range(1, count)
         if 2 * first + (SHORT + LONG) * period < count and (count - first) % period == 0
         and of[first:] == of[first:first + period] * ((count - first) // period)),
        key=lambda found: 2 * found[0] + (SHORT + LONG) * found[1], default=(0, 0))


def _description(layer: Model) -> Iterator[Any]:
    """Everything that tells a layer from others, its place aside: modules, their plain attributes, shapes of parameters and buffers."""
    for name, part in layer.named_modules():
        yield name, type(part)
        for key, value in sorted(vars(part).items()):
            if key in _PLACES or key.startswith("_"):
                continue
            yield key, value if isinstance(value, _PLAIN) else type(value)
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        yield name, tuple(tensor.shape), tensor.dtype


def _with_layers(config: Any, layers: int) -> Any:
    """The configuration with so many layers; lists of one entry a layer lose the others."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    whole = text.num_hidden_layers
    for key, listed in vars(text).items():
        if isinstance(listed, (list, tuple)) and len(listed) == whole:
            setattr(text, key, listed[:layers])
    text.num_hidden_layers = layers
    return config


def extrapolated(short: OpGraph, long: OpGraph, times: int) -> OpGraph | None:
    """The graph that has what the long one has more than the short one so many times again; None where they differ in more than counts.

    Examples
    --------
    >>> from presilicon.workloads.op import Op, tensor
    >>> def layers(count):
    ...     ports = (tensor("x0", "input", "n", "bf16"), tensor("out", "output", "n", "bf16"))
    ...     return OpGraph("some", [Op("relu", "elementwise", "aten.relu.default", {"n": 8}, ports, count=count)])
    >>> [op.count for op in extrapolated(layers(2), layers(3), 29)]
    [32]
    """
    both = (short, long)
    same = [[replace(op, count=1) for op in graph] for graph in both]
    about = [(graph.tokens, [u.target for u in graph.uncovered]) for graph in both]
    edges: list[Any] = [list(graph.nx.edges(data="tensor")) for graph in both]
    grows = long.memory.activations_bytes - short.memory.activations_bytes
    if same[0] != same[1] or about[0] != about[1] or edges[0] != edges[1] or not 0 <= grows <= COUNTERS:
        return None
    counts = _further(*([op.count for op in graph] for graph in both), times=times)
    runs = _further(*([item.count for item in graph.uncovered] for graph in both), times=times)
    touched = _further(*([item.bytes_touched for item in graph.uncovered] for graph in both), times=times)
    return OpGraph(
        long.name,
        [replace(op, count=count) for op, count in zip(long, counts, strict=True)],
        edges[1],
        memory=Memory(*_further(*(astuple(graph.memory) for graph in both), times=times)),
        tokens=long.tokens,
        uncovered=[replace(item, count=n, bytes_touched=size) for item, n, size in zip(long.uncovered, runs, touched, strict=True)],
        meta=long.meta,
    )


def _further(short: Sequence[Any], long: Sequence[Any], *, times: int) -> list[Any]:
    """Where numbers come to that go on so many times as they did from the short list to the long one."""
    return [b + times * (b - a) for a, b in zip(short, long, strict=True)]
