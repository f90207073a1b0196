"""Constraints on a mapping, read from a YAML file: ``presilicon map --constraints FILE``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ...arch.yamlfile import read_yaml
from ...errors import SpecError, UnknownNameError, shown
from .constraints import Constraints

_KEYS: Final = ("dataflow", "spatial", "spatial_dims", "order", "tiles", "even")


def load_constraints(path: str | Path) -> Constraints:
    """Read constraints.

    The keys are the attributes of `Constraints`, all optional. ``tiles`` is nested: memory, tensor, dimension::

        dataflow: os
        spatial: {pe_array: {m: 16, n: 16}}
        spatial_dims: {pe_array.x: [m, n]}
        order: {buffer: [O, W, I]}
        tiles: {buffer: {O: {m: 512}}}
        even: false

    Raises
    ------
    SpecError
        Not a YAML mapping, or a value of the wrong kind; names its place.
    UnknownNameError
        A key that is none of these. Names of memories, tensors and dimensions are checked where the op is known.
    """
    source = Path(path)
    document = read_yaml(source)
    for key in document:
        if key not in _KEYS:
            raise UnknownNameError("key", str(key), _KEYS, where=str(source))
    dataflow, even = document.get("dataflow"), document.get("even", False)
    if dataflow is not None and not isinstance(dataflow, str):
        raise SpecError(f"{source}: dataflow: expected os, ws or is, found {shown(dataflow)}")
    if not isinstance(even, bool):
        raise SpecError(f"{source}: even: expected true or false, found {shown(even)}")

    def section(key: str) -> Mapping[str, Any]:
        return _mapping(document.get(key, {}), f"{source}: {key}")

    tiles = {
        (memory, tensor): _factors(extents, f"{source}: tiles: {memory}: {tensor}")
        for memory, tensors in section("tiles").items()
        for tensor, extents in _mapping(tensors, f"{source}: tiles: {memory}").items()
    }
    return Constraints(
        dataflow=dataflow,
        spatial={fanout: _factors(factors, f"{source}: spatial: {fanout}") for fanout, factors in section("spatial").items()},
        spatial_dims={place: _names(dims, f"{source}: spatial_dims: {place}") for place, dims in section("spatial_dims").items()},
        order={memory: _names(tensors, f"{source}: order: {memory}") for memory, tensors in section("order").items()},
        tiles=tiles,
        even=even,
    )


def _mapping(node: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(node, Mapping):
        raise SpecError(f"{where}: expected a mapping, found {shown(node)}")
    return {str(key): value for key, value in node.items()}


def _factors(node: Any, where: str) -> dict[str, int]:
    found = _mapping(node, where)
    for dim, factor in found.items():
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
            raise SpecError(f"{where}: {dim}: expected a whole number of 1 or more, found {shown(factor)}")
    return dict(found)


def _names(node: Any, where: str) -> tuple[str, ...]:
    if not isinstance(node, list) or not all(isinstance(name, str) for name in node):
        raise SpecError(f"{where}: expected a list of names, found {shown(node)}")
    return tuple(node)
