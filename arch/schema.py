"""The fields of a device file, read off the dataclasses of `spec` once: path, unit, meaning, and where the value is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from . import constants
from .spec import ARITHMETICS, Dram, Gpu, Host, Link, Power

#: Sections of a device file that hold numbers of the hardware, with their dataclass.
PARTS: Final[Mapping[str, Any]] = {"gpu": Gpu, "dram": Dram, "power": Power, "link": Link, "host": Host}


@dataclass(frozen=True)
class Leaf:
    """One field that holds a value.

    Attributes
    ----------
    path, unit, meaning
        ``"dram.bandwidth"``, base unit (``""`` for words and flags), and what it stands for.
    steps
        Attribute names from `System` down to the value.
    key
        Key into the mapping that the last attribute is (tensor arithmetics), or None.
    """

    path: str
    unit: str
    meaning: str
    steps: tuple[str, ...]
    key: str | None = None


@cache
def tree() -> dict[str, Any]:
    """The fields as nested mappings by alias, with a `Leaf` at each end."""
    return {part: _branch(kind, part, (part,)) for part, kind in PARTS.items()}


def _branch(kind: Any, where: str, steps: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, annotation in get_type_hints(kind, include_extras=True).items():
        infos = [m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, FieldInfo)]
        if not infos:
            found[name] = _branch(annotation, f"{where}.{name}", (*steps, name))
            continue
        alias = next((i.alias for i in infos if i.alias), name)
        unit = next((str(i.json_schema_extra["unit"]) for i in infos if isinstance(i.json_schema_extra, dict)), "")
        meaning = next((i.description for i in infos if i.description), "")
        path, reach = f"{where}.{alias}", (*steps, name)
        if get_origin(annotation.__origin__) is Mapping:
            found[alias] = {a: Leaf(f"{path}.{a}", unit, f"{meaning}: {a}", reach, a) for a in ARITHMETICS}
        else:
            found[alias] = Leaf(path, unit, meaning, reach)
    return found


@cache
def leaves() -> dict[str, Leaf]:
    """Every leaf by its path, in the order of the dataclasses."""
    return {leaf.path: leaf for leaf in _walk(tree())}


def _walk(branch: Mapping[str, Any]) -> Iterator[Leaf]:
    for child in branch.values():
        if isinstance(child, Leaf):
            yield child
        else:
            yield from _walk(child)


def describe() -> Iterator[tuple[str, str, str]]:
    """Path, unit and meaning of every field that a device file may hold, calibration constants included.

    The dataclasses of `spec` are the single place where a field is declared; this walks them. Unit ``"1"`` is a plain
    number, ``""`` a word or a flag.

    >>> next(describe())[:2]
    ('gpu.clock.boost', 'Hz')
    """
    for leaf in leaves().values():
        yield leaf.path, leaf.unit, leaf.meaning
    for constant in constants.all_constants().values():
        yield f"calibration.{constant.name}", constant.unit, constant.meaning
