"""Front end by ``torch.export`` (non-strict, no decompositions): the FX graph of ATen operators becomes a `Program`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from .dispatch import Capture, _cached
from .eager import eager_semantics
from .recorder import Recorder, names_of, source_of, storage_id
from .registry import has_formula
from .values import Program, Role, Value

if TYPE_CHECKING:
    import torch

WRAPPED: Final = "model"
_REPEAT: Final = re.compile(r"@\d+$")


def export_program(step: torch.nn.Module, inputs: Sequence[torch.Tensor], roles: Sequence[Role]) -> Program:
    """Export a step whose forward takes flat tensors and returns flat tensors.

    Parameters
    ----------
    step
        Module with the traced model as attribute ``model``; module paths are given relative to that.
    inputs, roles
        Tensors on the meta device, and what each is.

    Raises
    ------
    Exception
        Whatever ``torch.export`` raises where it cannot export.
    """
    import torch

    with torch.no_grad(), eager_semantics():
        program = torch.export.export(step, tuple(inputs), strict=False)
    recorder = Recorder(getattr(step, WRAPPED, step), "export")
    walker = _Walker(recorder)
    kinds = {"PARAMETER": "weight", "BUFFER": "weight", "CONSTANT_TENSOR": "input"}
    env: dict[torch.fx.Node, Any] = {}
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    user = iter(roles)
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        value = node.meta.get("val")
        kind = spec.kind.name
        role: Any = kinds.get(kind) or (next(user, "input") if kind == "USER_INPUT" else "input")
        if isinstance(value, torch.Tensor):
            env[node] = recorder.declare(value, role, _strip(spec.target or node.name))
        else:
            env[node] = value
    outputs = walker.walk(program.graph_module, env)
    found = [v for v in outputs if isinstance(v, Value)]
    recorder.program.outputs = found
    recorder.program.cache = found[len(found) - _cached(step) :]
    return recorder.program


class _Walker:
    """Visits the nodes of a graph module and of the graph modules that it calls."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def walk(
        self, module: torch.fx.GraphModule, env: dict[torch.fx.Node, Any], prefix: tuple[str, str] = ("", "")
    ) -> list[Any]:
        import torch

        result: list[Any] = []
        for node in module.graph.nodes:
            if node.op == "get_attr":
                found = _attribute(module, node.target)
                env[node] = (
                    self.recorder.declare(found, "input", node.target) if isinstance(found, torch.Tensor) else found
                )
            elif node.op == "call_function":
                env[node] = self._function(node, env, prefix)
            elif node.op == "call_module":
                inner = module.get_submodule(node.target)
                env[node] = self._inline(inner, [_resolve(a, env) for a in node.args], node)  # type: ignore[arg-type]
            elif node.op == "output":
                result = list(_flat(_resolve(node.args[0], env)))
        return result

    def _function(self, node: torch.fx.Node, env: dict[torch.fx.Node, Any], prefix: tuple[str, str]) -> Any:
        import operator

        import torch

        args, kwargs = _resolve(node.args, env), _resolve(node.kwargs, env)
        if node.target is operator.getitem:
            return args[0][args[1]]
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            graphs = [(i, a) for i, a in enumerate(args) if isinstance(a, torch.fx.GraphModule)]
            if len(graphs) == 1:
                position, graph = graphs[0]
                return self._inline(graph, [a for i, a in enumerate(args) if i > position], node)
        touches = any(isinstance(a, Value) for a in _flat((args, list(kwargs.values()))))
        if not touches and not isinstance(node.target, torch._ops.OpOverload):
            return node.meta.get("val")  # arithmetic on sizes
        value = node.meta.get("val")
        target, packet = names_of(node.target)
        where, line = _module_path(node) or prefix[0], source_of(node.meta.get("stack_trace")) or prefix[1]
        if not has_formula(target, packet):
            inner = self._decompose(node, where, line)
            if inner is not None:
                return inner
        outputs = [v for v in _flat(value) if isinstance(v, torch.Tensor)]
        call = self.recorder.call(node.target, args, kwargs, outputs, module=where, source=line)
        return _repack(value, iter(call.outputs))

    def _inline(self, graph: torch.fx.GraphModule, operands: list[Any], node: torch.fx.Node) -> Any:
        inner: dict[torch.fx.Node, Any] = {}
        placeholders = [n for n in graph.graph.nodes if n.op == "placeholder"]
        for placeholder, operand in zip(placeholders, operands, strict=False):
            inner[placeholder] = operand
        return self.walk(graph, inner, (_module_path(node), source_of(node.meta.get("stack_trace"))))

    def _decompose(self, node: torch.fx.Node, where: str, line: str) -> Any:
        """Run a composite operator that has no formula on its recorded tensors and record the operators inside it."""
        import torch

        if not isinstance(node.target, torch._ops.OpOverload) or not node.target._can_decompose():
            return None
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val"))
        capture = Capture(self.recorder, where=lambda: (where, line))
        try:
            with torch.inference_mode(), capture:
                found = node.target.decompose(*args, **kwargs)
        except Exception:
            return None
        if found is NotImplemented or not capture.recorded:
            return None
        original, fresh = list(_flat(node.meta.get("val"))), list(_flat(found))
        for old, new in zip(original, fresh, strict=False):
            if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor):
                self._alias(storage_id(old), storage_id(new), capture)
        values = iter([self.recorder.value(t, capture.producer(t)) for t in original if isinstance(t, torch.Tensor)])
        return _repack(node.meta.get("val"), values)

    def _alias(self, old: int, new: int, capture: Capture) -> None:
        """Make the recorded outputs of a decomposition carry the storage that the rest of the graph knows."""
        for call in capture.calls:
            for value in (*call.outputs, *call.values):
                if value.storage == new:
                    value.storage = old


def _module_path(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = next(reversed(stack.values()))[0]
    return _REPEAT.sub("", _strip(path))


def _strip(path: str) -> str:
    path = path.removeprefix("L['self'].")
    return "" if path == WRAPPED else path.removeprefix(f"{WRAPPED}.")


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _resolve(item: Any, env: dict[torch.fx.Node, Any]) -> Any:
    import torch

    if isinstance(item, torch.fx.Node):
        return env[item]
    if isinstance(item, (list, tuple)):
        return [_resolve(i, env) for i in item]
    if isinstance(item, dict):
        return {k: _resolve(v, env) for k, v in item.items()}
    return item


def _flat(item: Any) -> Iterator[Any]:
    if isinstance(item, (list, tuple)):
        for part in item:
            yield from _flat(part)
    elif isinstance(item, dict):
        yield from _flat(list(item.values()))
    else:
        yield item


def _repack(template: Any, values: Iterator[Value]) -> Any:
    import torch

    if isinstance(template, torch.Tensor):
        return next(values)
    if isinstance(template, (list, tuple)):
        return [_repack(part, values) for part in template]
    return template
