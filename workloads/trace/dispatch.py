"""Front end by a dispatch mode: the model runs on meta tensors and every ATen operator that it launches is recorded.

In inference mode composite operators (linear, attention, norms) reach the mode whole, as they do in an exported graph.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .recorder import Recorder, names_of, storage_id
from .registry import has_formula
from .values import Call, Program, Role, Value

if TYPE_CHECKING:
    from types import FrameType

_SKIP = ("/torch/", "/workloads/trace/")


class Capture(TorchDispatchMode):
    """Records what is dispatched while it is on.

    Parameters
    ----------
    recorder
        Where calls go.
    where
        Gives module path and source line of the running call.
    phase
        Gives ``"forward"`` or ``"backward"``.
    """

    def __init__(
        self, recorder: Recorder, where: Callable[[], tuple[str, str]], phase: Callable[[], str] = lambda: "forward"
    ) -> None:
        super().__init__()
        self._recorder = recorder
        self._where = where
        self._phase = phase
        self._values: dict[int, Value] = {}
        self._alive: list[Any] = []
        self.calls: list[Call] = []

    @property
    def recorded(self) -> bool:
        """Whether anything ran."""
        return bool(self.calls)

    def producer(self, tensor: torch.Tensor) -> Call | None:
        """The call that returned a tensor of the same storage last."""
        key = storage_id(tensor)
        for call in reversed(self.calls):
            if any(v.storage == key for v in call.outputs):
                return call
        return None

    def adopt(self, tensor: torch.Tensor, value: Value) -> None:
        """Use this record for a tensor that exists before the step."""
        self._values[id(tensor)] = value
        self._alive.append(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target, packet = names_of(func)
        if not has_formula(target, packet) and func._can_decompose():
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        outputs = [t for t in _flat(result) if isinstance(t, torch.Tensor)]
        module, source = self._where()
        call = self._recorder.call(
            func, self._record(args), self._record(kwargs), outputs, module=module, source=source, phase=self._phase()
        )
        for tensor, value in zip(outputs, call.outputs, strict=True):
            self.adopt(tensor, value)
        self.calls.append(call)
        return result

    def value_of(self, tensor: torch.Tensor) -> Value:
        """The record of a tensor, made when it is first seen."""
        found = self._values.get(id(tensor))
        if found is None:
            found = self._recorder.value(tensor)
            self.adopt(tensor, found)
        return found

    def _record(self, item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return self.value_of(item)
        if isinstance(item, (list, tuple)):
            return [self._record(i) for i in item]
        if isinstance(item, dict):
            return {k: self._record(v) for k, v in item.items()}
        return item


@contextmanager
def module_paths(model: torch.nn.Module) -> Iterator[list[str]]:
    """A stack of the paths of the modules that are running."""
    stack = [""]
    handles = []

    def leave(*_: Any) -> None:
        stack.pop()

    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: stack.append(path)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def source_line() -> str:
    """File and line of the innermost frame outside torch and this package."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if not any(part in path for part in _SKIP) and not path.startswith("<"):
            return f"{path.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def declare(
    recorder: Recorder, capture: Capture, model: torch.nn.Module, inputs: Sequence[torch.Tensor], roles: Sequence[Role]
) -> None:
    """Make parameters, buffers and inputs known before the step."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        capture.adopt(tensor, recorder.declare(tensor, "weight", name))
    for i, (tensor, role) in enumerate(zip(inputs, roles, strict=True)):
        capture.adopt(tensor, recorder.declare(tensor, role, f"input{i}"))


def dispatch_program(step: torch.nn.Module, inputs: Sequence[torch.Tensor], roles: Sequence[Role]) -> Program:
    """Run a step (see `export_program`) on meta tensors and record it."""
    from .eager import eager_semantics

    model: Any = getattr(step, "model", step)
    recorder = Recorder(model, "dispatch")
    with module_paths(model) as stack, torch.inference_mode(), eager_semantics():
        capture = Capture(recorder, where=lambda: (stack[-1], source_line()))
        declare(recorder, capture, model, inputs, roles)
        with capture:
            outputs = step(*inputs)
        found = [capture.value_of(t) for t in _flat(outputs) if isinstance(t, torch.Tensor)]
        recorder.program.outputs = found
        recorder.program.cache = found[len(found) - _cached(step) :]
    return recorder.program


def _cached(step: Any) -> int:
    return int(getattr(getattr(step, "returned", None), "cache", 0))


def _flat(item: Any) -> Iterator[Any]:
    if isinstance(item, (list, tuple)):
        for part in item:
            yield from _flat(part)
    elif isinstance(item, dict):
        for part in item.values():
            yield from _flat(part)
    else:
        yield item
