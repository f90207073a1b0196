"""From torch's tensors and operator calls to `Value` and `Call`; both front ends use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ...errors import UnknownNameError
from ..formats import by_name
from .values import Call, Program, Role, Value

if TYPE_CHECKING:
    import torch

#: torch dtypes without a format of their own, by what they cost.
_STAND_IN: Final = {
    "complex128": "fp64",
    "complex32": "fp32",
    "uint16": "int16",
    "uint32": "int32",
    "uint64": "int64",
    "float4_e2m1fn_x2": "mxfp4",
    "float8_e8m0fnu": "uint8",
    "float8_e5m2fnuz": "fp8_e5m2",
}
_FRAME: Final = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY: Final = ("/torch/", "<string>", "<eval_with_key>")


def format_name(dtype: torch.dtype) -> str:
    """Name of the number format of a torch dtype."""
    name = str(dtype).removeprefix("torch.")
    try:
        return by_name(_STAND_IN.get(name, name)).name
    except UnknownNameError:
        return "uint8"


def storage_id(tensor: torch.Tensor) -> int:
    """Identity of the memory behind a tensor, equal for its views."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
        return id(tensor)


def storage_size(tensor: torch.Tensor) -> int:
    """Bytes of the memory behind a tensor."""
    try:
        return int(tensor.untyped_storage().nbytes())
    except (NotImplementedError, RuntimeError):
        return int(tensor.numel()) * tensor.element_size()


def names_of(target: Any) -> tuple[str, str]:
    """``("aten.add.Tensor", "aten.add")`` of an overload."""
    qualified = str(
        getattr(target, "_qualified_op_name", "")
        or getattr(getattr(target, "_overloadpacket", None), "_qualified_op_name", "")
    )
    if not qualified:
        text = f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"
        return text, text
    packet = qualified.replace("::", ".")
    overload = getattr(target, "_overloadname", "")
    return (f"{packet}.{overload}" if overload else packet), packet


def source_of(stack_trace: str | None) -> str:
    """``modeling_llama.py:123``: the innermost frame outside torch."""
    best = ""
    for path, line in _FRAME.findall(stack_trace or ""):
        if not any(part in path for part in _LIBRARY):
            best = f"{path.rsplit('/', 1)[-1]}:{line}"
    return best


def module_facts(module: Any) -> dict[str, Any]:
    """What an attention module says of its work: causality, window, heads and how many query heads share a KV head."""
    facts: dict[str, Any] = {}
    if module is None:
        return facts
    config = getattr(module, "config", None)
    window = module.sliding_window if hasattr(module, "sliding_window") else _window_of(config, module)
    if isinstance(window, int) and window > 0:
        facts["window"] = window
    if isinstance(getattr(module, "is_causal", None), bool):
        facts["causal"] = module.is_causal
    groups = getattr(module, "num_key_value_groups", None)
    heads = (
        getattr(module, "num_heads", None)
        or getattr(module, "num_attention_heads", None)
        or getattr(config, "num_attention_heads", None)
    )
    if isinstance(groups, int) and isinstance(heads, int) and groups > 0:
        facts |= {"groups": groups, "q_heads": heads, "kv_heads": heads // groups}
    return facts


def _window_of(config: Any, module: Any) -> int | None:
    """The window that a configuration gives the layer of a module, where the module itself does not say."""
    kinds, layer = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    if kinds and isinstance(layer, int) and layer < len(kinds) and kinds[layer] != "sliding_attention":
        return None
    found = getattr(config, "sliding_window", None)
    return found if isinstance(found, int) else None


class Recorder:
    """Collects the calls of one traced step.

    Parameters
    ----------
    model
        The module that is traced, for what its submodules say of themselves.
    front_end
        ``"export"`` or ``"dispatch"``.
    """

    def __init__(self, model: torch.nn.Module | None, front_end: str) -> None:
        self.program = Program(front_end=front_end)
        self._model = model
        self._roles: dict[int, Role] = {}
        self._names: dict[int, str] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    def declare(self, tensor: torch.Tensor, role: Role, name: str) -> Value:
        """A tensor that exists before the step: a weight, a cache, an input."""
        key = storage_id(tensor)
        self._roles[key] = role
        self._names.setdefault(key, name)
        value = self.value(tensor)
        self.program.inputs.append(value)
        return value

    def value(self, tensor: torch.Tensor, producer: Call | None = None) -> Value:
        """The record of a tensor."""
        key = storage_id(tensor)
        if key not in self.program.storage_bytes:
            self.program.storage_bytes[key] = storage_size(tensor)
        return Value(
            tuple(int(n) for n in tensor.shape),
            _strides(tensor),
            format_name(tensor.dtype),
            key,
            self._roles.get(key, "input"),
            self._names.get(key, ""),
            producer,
        )

    def call(
        self,
        target: Any,
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
        outputs: Iterable[torch.Tensor],
        *,
        module: str = "",
        source: str = "",
        phase: str = "forward",
    ) -> Call:
        """Record one operator; tensors among the arguments are given as `Value`."""
        name, packet = names_of(target)
        arguments, mutated = bind(target, list(args), dict(kwargs))
        call = Call(name, packet, arguments, [], module, source, mutated, phase)
        if "attention" in packet:
            call.facts = self.facts(module)
        call.outputs = [self.value(t, call) for t in outputs]
        self.program.calls.append(call)
        return call

    def facts(self, module: str) -> dict[str, Any]:
        """`module_facts` of a submodule by its path."""
        if module not in self._facts:
            found = None
            if self._model is not None:
                try:
                    found = self._model.get_submodule(module)
                except AttributeError:
                    found = None
            self._facts[module] = module_facts(found)
        return self._facts[module]


def bind(target: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Arguments by the names of the schema, defaults filled in, and the names of those that are written."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return {f"arg{i}": a for i, a in enumerate(args)} | kwargs, ()
    bound: dict[str, Any] = {}
    mutated = []
    for position, argument in enumerate(schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value
        if argument.alias_info is not None and argument.alias_info.is_write:
            mutated.append(argument.name)
    return bound, tuple(mutated)


def _strides(tensor: torch.Tensor) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in tensor.stride())
    except (NotImplementedError, RuntimeError):
        return (1,) * tensor.dim()
