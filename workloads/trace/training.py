"""A training step: forward, backward and optimizer update, recorded by the dispatch mode while autograd runs on meta
tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ...errors import TraceError
from ..formats import by_name
from ..graph import OpGraph
from ..op import Op, Operand
from .api import describe
from .builder import build
from .dispatch import Capture, declare, module_paths, source_line
from .eager import eager_semantics
from .recorder import Recorder, format_name, storage_id
from .step import tensors_in
from .values import Program, axes

#: fp32 and bf16 elements of one fused AdamW: decay, two moments, bias correction, root, quotient.
ADAMW = {"mul": 6.0, "add": 5.0, "div": 2.0, "rsqrt": 1.0}
#: Limits of one launch of torch's multi-tensor kernels with four tensor lists (ATen/native/cuda/MultiTensorApply.cuh).
_TENSORS_PER_LAUNCH, _ELEMENTS_PER_LAUNCH = 36, 320 * 65536


class FusedAttention(TorchFunctionMode):
    """Sends scaled_dot_product_attention to the kernel that a GPU would take, flash or memory-efficient.

    On the meta device torch would take the unfused reference instead.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    aten = torch.ops.aten
    if query.dim() != 4:
        shape = query.shape
        q, k, v = (t.reshape(-1, 1, *t.shape[-2:]) for t in (query, key, value))
        return _attention(q, k, v, None, dropout_p, is_causal, scale).reshape(*shape[:-1], value.shape[-1])
    half = query.dtype in (torch.bfloat16, torch.float16)
    if attn_mask is None and half and query.shape[-1] == value.shape[-1] <= 256:
        found: torch.Tensor = aten._scaled_dot_product_flash_attention(
            query, key, value, dropout_p, is_causal, scale=scale
        )[0]
        return found
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if attn_mask is not None:
        attn_mask = attn_mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(
                attn_mask.logical_not(), float("-inf")
            )
    result: torch.Tensor = aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]
    return result


def train_graph(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
    *,
    meta: Mapping[str, Any],
    strict: bool = False,
    tokens: float = 0.0,
) -> OpGraph:
    """Trace forward, backward and a fused AdamW update.

    The loss is the output's ``loss``, a scalar output, or the mean of its floating-point tensors. Backward ops have the
    attribute ``pass = "backward"`` and the module of the forward op that they differentiate.

    Raises
    ------
    TraceError
        The model raises on meta tensors, or no parameter gets a gradient.
    """
    model.train()
    try:
        program, gradients = record(model, args, kwargs)
    except TraceError as error:
        raise TraceError(f"{name}: {error}" if name not in str(error) else str(error)) from error
    except Exception as error:
        raise TraceError(f"{name}: the training step cannot be traced on meta tensors: {describe(error)}") from error
    finally:
        model.eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradient_bytes = sum(p.numel() * p.element_size() for p in trained)
    return build(
        program,
        name,
        tokens=tokens,
        strict=strict,
        extra=tuple(optimizer_ops(trained)),
        optimizer_bytes=2.0 * gradient_bytes,
        gradient_bytes=float(gradient_bytes),
        kept=gradients,
        meta={
            **meta,
            "front_end": "dispatch",
            "front_end_reason": "training runs autograd",
            "optimizer": "AdamW (fused), state in the parameters' format",
        },
    )


def record(model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, set[int]]:
    """Run forward and backward; returns the program and the storages of the parameters' gradients."""
    recorder = Recorder(model, "dispatch")
    origin: dict[int, tuple[str, str]] = {}
    last = [("", "")]
    inputs = list(tensors_in([args, kwargs]))
    with module_paths(model) as stack, torch.enable_grad(), eager_semantics(), FusedAttention():

        def where() -> tuple[str, str]:
            node = torch._C._current_autograd_node()
            if node is None:
                found = (stack[-1], source_line())
                origin.setdefault(torch.autograd._get_sequence_nr() - 1, found)
                return found
            last[0] = origin.get(node._sequence_nr(), last[0])
            return last[0]

        def phase() -> str:
            return "forward" if torch._C._current_autograd_node() is None else "backward"

        capture = Capture(recorder, where, phase)
        declare(recorder, capture, model, inputs, ["input"] * len(inputs))
        with capture:
            output = model(*args, **kwargs)
            loss = _loss(output)
            loss.backward()
        gradients = {storage_id(p.grad) for p in model.parameters() if p.grad is not None}
        if not gradients:
            raise TraceError("no parameter of the model got a gradient")
        recorder.program.outputs = [capture.value_of(p.grad) for p in model.parameters() if p.grad is not None]
        for parameter in model.parameters():
            parameter.grad = None
    return recorder.program, gradients


def _loss(output: Any) -> torch.Tensor:
    loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
    if isinstance(loss, torch.Tensor):
        return loss
    floats = [t for t in tensors_in(output) if t.is_floating_point() and t.requires_grad]
    if not floats:
        raise TraceError("the output holds no tensor that depends on a parameter")
    if floats[0].dim() == 0:
        return floats[0]
    return floats[0].float().mean()


def optimizer_ops(parameters: list[torch.nn.Parameter]) -> list[Op]:
    """One fused AdamW op for each format of parameters: dimension n, all their elements."""
    groups: dict[str, list[torch.nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(format_name(parameter.dtype), []).append(parameter)
    ops = []
    for number_format, members in groups.items():
        n = sum(p.numel() for p in members)
        fmt = by_name(number_format)
        reads = [Operand("x0", "weight", axes("n"), fmt)]
        reads += [Operand(label, "input", axes("n"), fmt) for label in ("x1", "x2", "x3")]  # gradient and two moments
        writes = [Operand(label, "output", axes("n"), fmt) for label in ("out", "out1", "out2")]
        launches = max(math.ceil(len(members) / _TENSORS_PER_LAUNCH), math.ceil(n / _ELEMENTS_PER_LAUNCH))
        ops.append(
            Op(
                "optimizer.adamw" if len(groups) == 1 else f"optimizer.adamw.{number_format}",
                "elementwise",
                "aten._fused_adamw_.default",
                {"n": n},
                (*reads, *writes),
                ADAMW,
                {"launches": launches, "pass": "optimizer"},
                module="optimizer",
            )
        )
    return ops
