"""Tracing of transformers models: the step of each phase, its cache, and what is recorded about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from ...errors import TraceError, UnknownNameError
from ..fold import fold
from ..graph import OpGraph
from . import cache as caches
from . import huggingface as hf
from .api import capture, describe, graph_of, versions
from .few_layers import of_short_versions
from .fused_scans import fused_scans
from .liveness import left_behind
from .step import Step
from .values import Role

DTYPES: Final = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float32": torch.float32,
    "fp32": torch.float32,
}
#: Tokens that a sequence takes in, and that a cache holds, where nobody says and the model has as many positions.
DEFAULT_SEQ: Final = 2048
DEFAULT_CONTEXT: Final = 4096


class _NoDecodingError(TraceError):
    """The model has no decode step, however long its context."""


def trace_config(
    name: str,
    data: Mapping[str, Any],
    *,
    phase: str,
    batch: int,
    seq: int | None,
    context: int | None,
    dtype: str,
    strict: bool,
    folded: bool,
    attention: str,
    scans: str,
    front_end: str,
) -> OpGraph:
    """Build the model of a configuration and trace one phase; see `presilicon.workloads.trace_model`."""
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    if scans not in ("torch", "fused"):
        raise UnknownNameError("choice of scans", scans, ("torch", "fused"))
    number = DTYPES[dtype]
    config = hf.config_of(data, name)
    limit = hf.positions(config)
    if seq is None:
        seq = min(DEFAULT_SEQ, limit or DEFAULT_SEQ)
    if context is None:
        context = min(DEFAULT_CONTEXT, limit - 1 if limit else DEFAULT_CONTEXT)
    model, implementation = hf.build(config, name, number, attention)
    meta: dict[str, Any] = {
        "model": name,
        "phase": phase,
        "batch": batch,
        "seq": seq,
        "dtype": str(number).removeprefix("torch."),
        "attention": implementation,
        "scans": scans,
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        **versions(),
    }
    length = context + 1 if phase == "decode" else seq
    beyond = f"{length} positions, but the configuration allows {limit}" if limit and length > limit else ""
    if beyond:
        meta["note"] = beyond

    def build(config: Any) -> Any:
        return hf.build(config, name, number, attention)[0]

    def trace(model: Any) -> tuple[OpGraph, int]:
        about = dict(meta)
        step, tokens = (
            _prefill(model, batch, seq, number, about)
            if phase == "prefill"
            else _decode(model, name, batch, seq, context, number, about)
        )
        program = capture(step, front_end, name)
        return graph_of(program, name, meta=about, strict=strict, folded=folded, tokens=tokens), left_behind(program)

    with hf.quiet(), hf.grouped_products(), fused_scans(every=scans == "fused"):
        try:
            if phase == "train":
                return _train(model, name, meta, batch, seq, number, strict, folded)
            graph = of_short_versions(config, model, build, trace) if folded else None
            if graph is None:
                graph, _ = trace(model)
        except _NoDecodingError:
            raise
        except TraceError as error:
            if beyond:
                raise TraceError(f"{name}: {beyond}; give a shorter seq or context ({error})") from error
            raise
    if not any(op.kind == "attention" for op in graph):
        graph.meta["attention"] = "none fused"
    return graph


def _prefill(model: Any, batch: int, seq: int, dtype: torch.dtype, meta: dict[str, Any]) -> tuple[Step, float]:
    kwargs, tokens = hf.inputs(model, batch, seq, dtype)
    meta["unit"] = _unit(kwargs)
    if "input_ids" in kwargs or "decoder_input_ids" in kwargs:
        if hf.accepts(model, "use_cache") and _decodes(model):
            kwargs["use_cache"] = True
        if hf.accepts(model, "logits_to_keep"):
            kwargs["logits_to_keep"] = 1
            meta["logits"] = "last token only"
    return Step(model, (), kwargs), tokens


def _unit(kwargs: dict[str, Any]) -> str:
    """What ``OpGraph.tokens`` counts: tokens of text, or whole images and clips."""
    return "token" if "input_ids" in kwargs else "sample"


def _decodes(model: Any) -> bool:
    try:
        return bool(model.can_generate()) and getattr(model.config, "model_type", "") != "bert"
    except AttributeError:
        return False


def _decode(
    model: Any, name: str, batch: int, seq: int, context: int, dtype: torch.dtype, meta: dict[str, Any]
) -> tuple[Step, float]:
    kwargs, _ = hf.inputs(model, batch, seq if hf.is_encoder_decoder(model) else context, dtype)
    one = torch.zeros(batch, 1, dtype=torch.long, device="meta")
    if hf.is_encoder_decoder(model):
        kwargs["decoder_input_ids"] = torch.zeros(batch, context, dtype=torch.long, device="meta")
    if not hf.accepts(model, "use_cache") or not ({"input_ids", "decoder_input_ids"} & set(kwargs)):
        raise _NoDecodingError(f"{name}: {type(model).__name__} does not decode token by token; use phase='prefill'")
    try:
        argument, cache, output = caches.filled(model, kwargs)
    except LookupError as error:
        raise _NoDecodingError(
            f"{name}: {type(model).__name__} does not decode token by token: {error}; use phase='prefill'"
        ) from None
    except Exception as error:
        raise TraceError(
            f"{name}: the cache of a decode step cannot be made on meta tensors: {describe(error)}"
        ) from error
    step_kwargs: dict[str, Any] = {argument: caches.in_place(cache), "use_cache": True}
    if hf.is_encoder_decoder(model):
        from transformers.modeling_outputs import BaseModelOutput

        step_kwargs["decoder_input_ids"] = one
        step_kwargs["encoder_outputs"] = BaseModelOutput(last_hidden_state=output.encoder_last_hidden_state)
    else:
        step_kwargs["input_ids"] = one
    if hf.accepts(model, "logits_to_keep"):
        step_kwargs["logits_to_keep"] = 1
    meta["context"] = context

    def role(label: str) -> Role:
        return "cache" if label in (argument, "encoder_outputs") else "input"

    return Step(model, (), step_kwargs, role), float(batch)


def _train(
    model: Any, name: str, meta: dict[str, Any], batch: int, seq: int, dtype: torch.dtype, strict: bool, folded: bool
) -> OpGraph:
    from .training import train_graph

    kwargs, tokens = hf.inputs(model, batch, seq, dtype)
    meta["unit"] = _unit(kwargs)
    kwargs |= hf.labels(model, kwargs, batch)
    if hf.accepts(model, "use_cache"):
        kwargs["use_cache"] = False
    graph = train_graph(model, (), kwargs, name, meta=meta, strict=strict, tokens=tokens)
    return fold(graph) if folded else graph
