"""One step of a model as a module of flat tensors: what both front ends run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .values import Role

#: Objects that hold tensors and are rebuilt around the step's own tensors: the caches of transformers.
_CONTAINERS = ("transformers.cache_utils", "transformers.models")


#: Fields of a model's output that the next step reads.
CACHES = ("past_key_values", "cache_params", "state", "mems")


def _field(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, dict) else getattr(output, name, None)


class Returned:
    """What a step says of its outputs; an object of its own, because export puts plain attributes back."""

    cache = 0


class Step(nn.Module):
    """Calls a model with arguments whose tensors are this module's inputs, and returns the tensors of its output.

    Parameters
    ----------
    model
        The traced module; becomes the submodule ``model``.
    args, kwargs
        Its arguments on the meta device; nested containers and caches of transformers may hold tensors.
    role
        Says of an argument's name or position what its tensors are.

    The last ``returned.cache`` of the returned tensors are those of a cache.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        role: Callable[[str], Role] = lambda name: "input",
    ) -> None:
        super().__init__()
        self.model = model
        self.arguments = [("args", args), *kwargs.items()]
        self.inputs: list[torch.Tensor] = []
        self.roles: list[Role] = []
        self.returned = Returned()
        known: set[int] = set()
        for name, item in self.arguments:
            for tensor in tensors_in(item):
                if id(tensor) not in known:
                    known.add(id(tensor))
                    self.inputs.append(tensor)
                    self.roles.append(role(name))

    def forward(self, *flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fresh = {id(old): new for old, new in zip(self.inputs, flat, strict=True)}
        rebuilt = {name: rebuild(item, fresh) for name, item in self.arguments}
        output = self.model(*rebuilt.pop("args"), **rebuilt)
        kept = {id(t): t for name in CACHES for t in tensors_in(_field(output, name))}
        others = {id(t): t for t in tensors_in(output) if id(t) not in kept}
        self.returned.cache = len(kept)
        return (*others.values(), *kept.values())


def tensors_in(item: Any) -> Iterator[torch.Tensor]:
    """Tensors inside nested containers, dataclasses and caches, in a fixed order."""
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, dict):
        for part in item.values():
            yield from tensors_in(part)
    elif isinstance(item, (list, tuple, set)):
        for part in item:
            yield from tensors_in(part)
    elif _is_container(item):
        yield from tensors_in(vars(item))


def rebuild(item: Any, fresh: dict[int, torch.Tensor]) -> Any:
    """A copy of nested containers with every tensor replaced by its stand-in; other objects are shared."""
    if isinstance(item, torch.Tensor):
        return fresh.get(id(item), item)
    if isinstance(item, dict) and type(item) is dict:
        return {key: rebuild(part, fresh) for key, part in item.items()}
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*(rebuild(part, fresh) for part in item))
    if type(item) in (list, tuple):
        return type(item)(rebuild(part, fresh) for part in item)
    if isinstance(item, dict):  # transformers' ModelOutput
        return type(item)(**{key: rebuild(part, fresh) for key, part in item.items()})
    if _is_container(item):
        twin = copy.copy(item)
        for key, part in vars(item).items():
            twin.__dict__[key] = rebuild(part, fresh)
        return twin
    return item


def _is_container(item: Any) -> bool:
    if isinstance(item, (nn.Module, type)) or callable(item):
        return False
    if dataclasses.is_dataclass(item):
        return True
    kind = type(item)
    return any(
        base.__module__.startswith(_CONTAINERS) and "ache" in base.__name__ + base.__module__ for base in kind.__mro__
    ) and hasattr(item, "__dict__")


def to_meta(item: Any) -> Any:
    """Tensors of nested arguments as meta tensors of the same shape, strides and dtype."""
    if isinstance(item, torch.Tensor):
        return (
            item
            if item.device.type == "meta"
            else torch.empty_strided(item.shape, item.stride(), dtype=item.dtype, device="meta")
        )
    if isinstance(item, dict) and type(item) is dict:
        return {key: to_meta(part) for key, part in item.items()}
    if isinstance(item, tuple) and hasattr(item, "_fields"):
        return type(item)(*(to_meta(part) for part in item))
    if type(item) in (list, tuple):
        return type(item)(to_meta(part) for part in item)
    return item


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy of a module with its parameters, buffers and other tensors on the meta device; no data is copied."""
    memo: dict[int, Any] = {}
    tensors: list[Any] = [*module.parameters(), *module.buffers()]
    for part in module.modules():
        tensors += [v for v in vars(part).values() if isinstance(v, torch.Tensor)]
    if all(t.device.type == "meta" for t in tensors):
        return module
    for tensor in tensors:
        if id(tensor) in memo:
            continue
        twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        memo[id(tensor)] = (
            nn.Parameter(twin, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin
        )
    return copy.deepcopy(module, memo)
