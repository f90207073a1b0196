"""`trace`: any module with example inputs to an `OpGraph`."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ...errors import TraceError
from ..fold import fold
from ..graph import OpGraph
from .builder import build
from .values import Program

if TYPE_CHECKING:
    from torch import nn

    from .step import Step


def trace(
    module: nn.Module,
    *args: Any,
    strict: bool = False,
    folded: bool = True,
    name: str = "",
    front_end: str = "auto",
    phase: str = "prefill",
    **kwargs: Any,
) -> OpGraph:
    """Trace one call of a module, without running it on data.

    Parameters
    ----------
    module
        On any device; tensors are replaced by meta tensors, and nothing is computed.
    args, kwargs
        Example inputs; only shapes and dtypes of tensors matter.
    strict
        Raise where an operator has no formula.
    folded
        Keep repeated blocks once, with a count.
    front_end
        ``"export"``, ``"dispatch"``, or ``"auto"``: export, and dispatch where the model does not export.
    phase
        ``"prefill"`` for a forward pass, ``"train"`` for forward, backward and AdamW.

    Raises
    ------
    TraceError
        The module raises, or depends on values of tensors, which have none here.
    UncoveredOpError
        With `strict`.
    """
    from torch import nn

    from .step import Step, meta_copy, to_meta

    if not isinstance(module, nn.Module):
        raise TraceError(f"trace needs a torch.nn.Module, got {type(module).__name__}")
    title = name or type(module).__name__
    model = meta_copy(module)
    args, kwargs = to_meta(tuple(args)), to_meta(dict(kwargs))
    meta = {"model": title, "phase": phase, **versions()}
    if phase == "train":
        from .training import train_graph

        graph = train_graph(model, args, kwargs, title, meta=meta, strict=strict)
        return fold(graph) if folded else graph
    training = {part: part.training for part in model.modules()}
    model.eval()
    try:
        step = Step(model, args, kwargs)
        return finish(step, title, meta=meta, strict=strict, folded=folded, front_end=front_end, tokens=_tokens(step))
    finally:
        for part, mode in training.items():
            part.training = mode


def _tokens(step: Step) -> float:
    if not step.inputs:
        return 0.0
    shape = step.inputs[0].shape
    return (
        float(shape[0] * shape[1])
        if len(shape) == 2 and not step.inputs[0].is_floating_point()
        else float(shape[0] if shape else 1)
    )


def versions() -> dict[str, str]:
    """Versions of torch and, if it is loaded, transformers."""
    import sys

    import torch

    found = {"torch": str(torch.__version__)}
    if "transformers" in sys.modules:
        found["transformers"] = str(sys.modules["transformers"].__version__)
    return found


def finish(
    step: Step, name: str, *, meta: Mapping[str, Any], strict: bool, folded: bool, front_end: str, tokens: float
) -> OpGraph:
    """Trace a prepared step, with export and then dispatch, and build its graph."""
    return graph_of(capture(step, front_end, name), name, meta=meta, strict=strict, folded=folded, tokens=tokens)


def graph_of(program: Program, name: str, *, meta: Mapping[str, Any], strict: bool, folded: bool, tokens: float) -> OpGraph:
    """The graph of a step that was captured."""
    meta = {**meta, "front_end": program.front_end}
    if program.reason:
        meta["front_end_reason"] = program.reason
    graph = build(program, name, tokens=tokens, meta=meta, strict=strict)
    return fold(graph) if folded else graph


def capture(step: Step, front_end: str, name: str) -> Program:
    """Run the front ends in turn; the reason why the first failed is kept in the program.

    Each is tried twice: as it is, and with the meta device as the default for tensors that the model makes without
    naming a device.
    """
    import torch

    from .dispatch import dispatch_program
    from .export import export_program

    runs = {"export": [export_program], "dispatch": [dispatch_program], "auto": [export_program, dispatch_program]}.get(
        front_end
    )
    if runs is None:
        raise TraceError(f"front_end must be 'auto', 'export' or 'dispatch', not {front_end!r}")
    reasons: list[str] = []
    last: Exception | None = None
    for run in runs:
        for device in (nullcontext(), torch.device("meta")):
            try:
                with device:
                    program = run(step, step.inputs, step.roles)
            except Exception as error:
                reasons.append(describe(error))
                last = last or error
                continue
            if run is dispatch_program and len(reasons) > 1:
                program.reason = reasons[0]
            return program
    tried = f"; torch.export failed first: {reasons[0]}" if len(runs) > 1 else ""
    raise TraceError(f"{name} cannot be traced on meta tensors: {reasons[2 * len(runs) - 2]}{tried}") from last


def describe(error: BaseException) -> str:
    """Type, first line of the message, and the innermost line of the user's or the model's code."""
    text = str(error).strip().splitlines()
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if (
            "/torch/" not in frame.filename
            and "/workloads/" not in frame.filename
            and not frame.filename.startswith("<")
        ):
            place = f" (at {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"
    return f"{type(error).__name__}: {text[0] if text else ''}{place}"
