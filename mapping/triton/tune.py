"""Config spaces of Triton kernels: from a text, a YAML file, or the kernel's own `@triton.autotune`.

A config is a plain mapping: constexpr arguments of the kernel and launch options (``num_warps``, ``num_stages``, ``num_ctas``,
``maxnreg``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ...arch import System
from ...errors import KernelError, UnknownNameError, shown
from .launch import configs_of, place_of, unwrap

#: Options of a launch, beside the kernel's own arguments, that a config may set.
OPTIONS: Final = ("num_warps", "num_stages", "num_ctas", "maxnreg")
MOST_CONFIGS: Final = 100_000

Config = dict[str, Any]


def parse_space(text: str) -> list[Config]:
    """Every combination of ``"BLOCK_M=64,128 num_warps=4,8"``.

    Raises
    ------
    KernelError
        An item is not ``NAME=VALUE,...``, a name stands twice, or there is nothing.

    Examples
    --------
    >>> parse_space("BLOCK=64,128 num_warps=4")
    [{'BLOCK': 64, 'num_warps': 4}, {'BLOCK': 128, 'num_warps': 4}]
    """
    axes: dict[str, list[Any]] = {}
    for item in text.split():
        name, sign, values = item.partition("=")
        if not sign or not name.isidentifier() or not values:
            raise KernelError(f"config space {text!r}: {item!r} is not of the form NAME=VALUE,VALUE")
        if name in axes:
            raise KernelError(f"config space {text!r}: {name} stands twice")
        axes[name] = [_value(value) for value in values.split(",") if value]
    return product(axes, "config space")


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def product(axes: Mapping[str, Sequence[Any]], where: str) -> list[Config]:
    """Every combination of the values of each name, the last name fastest.

    Raises
    ------
    KernelError
        No names, a name without values, or more than `MOST_CONFIGS` combinations.
    """
    if not axes:
        raise KernelError(f"{where}: it is empty")
    for name, values in axes.items():
        if not values:
            raise KernelError(f"{where}: {name} has no values")
    size = math.prod(len(values) for values in axes.values())
    if size > MOST_CONFIGS:
        raise KernelError(f"{where}: {size} configs, {MOST_CONFIGS} are the most")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def read_space(path: Path) -> list[Config]:
    """Configs of a YAML file: names with lists of values (every combination), or ``configs:`` with a list of configs.

    Raises
    ------
    SpecError
        The file cannot be read or is no YAML mapping.
    KernelError
        It holds no configs.
    """
    from ...arch.yamlfile import read_yaml

    found = read_yaml(path)
    listed = found.get("configs")
    if listed is None:
        return product({str(name): values if isinstance(values, list) else [values] for name, values in found.items()}, str(path))
    if len(found) > 1:
        others = ", ".join(sorted(str(name) for name in found if name != "configs"))
        raise KernelError(f"{path}: configs stands beside {others}; give one form")
    if not isinstance(listed, list) or not listed or not all(isinstance(item, Mapping) and item for item in listed):
        raise KernelError(f"{path}: configs: expected a list of mappings of names to values, found {shown(listed)}")
    return [{str(name): value for name, value in item.items()} for item in listed]


def as_config(given: Any) -> Config:
    """A config as a mapping, from a mapping or a `triton.Config`."""
    if isinstance(given, Mapping):
        return dict(given)
    if hasattr(given, "all_kwargs"):
        if getattr(given, "pre_hook", None) is not None:
            raise KernelError(f"{given}: configs with a pre_hook are not ranked; prepare the arguments beforehand")
        return {name: value for name, value in given.all_kwargs().items() if value is not None}
    raise KernelError(f"expected a config as a mapping or a triton.Config, found {shown(given)}")


def own_space(kernel: Any, args: Sequence[Any], meta: Mapping[str, Any], system: System | None = None) -> list[Config]:
    """The configs of the kernel's `@triton.autotune`, early pruning applied (as on `system`, if given).

    Raises
    ------
    KernelError
        The kernel is not autotuned.
    """
    configs = configs_of(kernel, args, meta, system)
    if not configs:
        raise KernelError(f"{place_of(unwrap(kernel))} is not autotuned: give a config space")
    return [as_config(config) for config in configs]


def check_space(kernel: Any, grid: Any, meta: Mapping[str, Any], configs: Sequence[Any]) -> list[Config]:
    """The configs as mappings without repeats, if the kernel can take them.

    Raises
    ------
    KernelError
        No configs; or the grid is fixed although they change the kernel's arguments.
    UnknownNameError
        A name that is neither an argument of the kernel nor a launch option; names the nearest.
    """
    function = unwrap(kernel)
    where = place_of(function)
    if not configs:
        raise KernelError(f"{where}: the config space is empty")
    found = [as_config(config) for config in configs]
    constants = [param.name for param in function.params if param.is_constexpr]
    known = [*constants, *OPTIONS]
    for name in dict.fromkeys(name for config in found for name in config):
        if name not in known:
            raise UnknownNameError("config key", name, known, where)
    varied = [name for name in constants if len({repr(config.get(name, meta.get(name))) for config in found}) > 1]
    if varied and not callable(grid):
        raise KernelError(f"{where}: the configs change {', '.join(varied)} but the grid is fixed at {shown(grid)}; "
                          "give it as a function: lambda meta: (triton.cdiv(M, meta['BLOCK_M']), ...)")
    unique: dict[str, Config] = {}
    for config in found:
        unique.setdefault(repr(sorted(config.items(), key=lambda item: item[0])), config)
    return list(unique.values())


def plain_kernel(kernel: Any) -> Any:
    """The kernel without its autotune layers, heuristics kept, so that a config can be given as keyword arguments.

    Raises
    ------
    KernelError
        Heuristics lie around the autotuner, so that they would be lost.
    """
    layer = kernel
    while not hasattr(layer, "params") and hasattr(layer, "fn"):
        if hasattr(layer, "configs"):
            layer = layer.fn
            continue
        if hasattr(layer, "values") and _autotuned(layer.fn):
            raise KernelError(f"{place_of(unwrap(kernel))}: @triton.heuristics around @triton.autotune; write them the other way round")
        break
    return layer


def _autotuned(layer: Any) -> bool:
    while not hasattr(layer, "params") and hasattr(layer, "fn"):
        if hasattr(layer, "configs"):
            return True
        layer = layer.fn
    return False
