"""A kernel's code as `light` takes it, kept beside the compiled kernel: it depends on the machine code and on the SM alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache as once
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...arch import System
from ...arch.sm_timing import SmTiming
from ...mapping.triton import CompiledKernel, cache, take_apart
from ...mapping.triton.bytecode import Bytecode
from ...mapping.triton.warp_runs import NotFollowedError, WarpCode, warp_code
from . import isa
from .calibrated import Same
from .facts import CodeFacts, Made, about, code_facts

_PARTS: Final = ("full", "reads", "control")
_NARROW: Final = ("<i1", "<i2", "<i4")


@dataclass(frozen=True, eq=False)
class LightCode:
    """A kernel for the interpreter.

    Attributes
    ----------
    full, reads, control
        What decides control and all addresses; those of global memory; control alone.
    facts
        What issuing its instructions takes.
    """

    full: WarpCode
    reads: WarpCode
    control: WarpCode
    facts: CodeFacts


def light_code(compiled: CompiledKernel, system: System, timing: SmTiming) -> LightCode:
    """A kernel's code: from this process, from the cache of kernels, or made anew.

    Raises
    ------
    NotFollowedError
        The interpreter does not know it.
    """
    found = _light_code(compiled.key, about(Same(system), Same(timing)), Made(compiled, system, timing))
    if found is None:
        raise NotFollowedError
    return found


@lru_cache(maxsize=128)
def _light_code(key: str, about: str, made: Made) -> LightCode | None:
    folder = cache.kernel_folder()
    name = hashlib.sha256(f"{key}\n{about}\n{_version()}".encode()).hexdigest()
    entry = cache.load(folder, name) if folder else None
    if entry is not None and "light" in entry[0]:
        return _unpacked(entry[0]["light"], entry[1]["arrays"]) if entry[0]["light"] else None
    try:
        full = take_apart(made.compiled)
        facts = code_facts(full, made.system, made.timing)
        if (facts.table.kind == isa.TCGEN).any():
            raise NotFollowedError
        found: LightCode | None = LightCode(warp_code(full), warp_code(take_apart(made.compiled, addresses="global")),
                                            warp_code(take_apart(made.compiled, addresses=False)), facts)
    except NotFollowedError:
        found = None
    if folder:
        head, arrays = _packed(found) if found else ({}, b"")
        cache.store(folder, name, {"light": head}, {"arrays": arrays}, compress=False)
    return found


@once
def _version() -> str:
    """Changes with the sources that code is made by."""
    here = Path(__file__).parent
    folders = (here, Path(str(cache.__file__)).parent)
    states = [(path.name, (state := path.stat()).st_mtime_ns, state.st_size) for folder in folders for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def _flat(item: Any, prefix: str) -> dict[str, Any]:
    """Fields by dotted name, those of dataclasses inside too."""
    made: dict[str, Any] = {}
    for each in fields(item):
        value = getattr(item, each.name)
        made |= _flat(value, f"{prefix}{each.name}.") if hasattr(value, "__dataclass_fields__") else {prefix + each.name: value}
    return made


def _packed(code: LightCode) -> tuple[dict[str, Any], bytes]:
    """Arrays of one type and shape as one, each different one once, in as few bytes as their numbers take."""
    plain: dict[str, Any] = {}
    places: dict[str, tuple[int, int]] = {}
    groups: dict[tuple[str, tuple[int, ...]], dict[bytes, int]] = {}
    for name, value in _flat(code, "").items():
        if isinstance(value, np.ndarray):
            key = value.dtype.str, value.shape
            group = groups.setdefault(key, {})
            places[name] = list(groups).index(key), group.setdefault(value.tobytes(), len(group))
        else:
            plain[name] = value
    blocks, parts = [], []
    for (kind, shape), group in groups.items():
        whole = np.frombuffer(b"".join(group), np.dtype(kind))
        held = next((n for n in _NARROW if kind == "<i8" and (whole.astype(n) == whole).all()), kind)
        blocks.append((kind, held, [len(group), *shape]))
        parts.append(whole.astype(held).tobytes())
    return {"plain": plain, "blocks": blocks, "places": places}, b"".join(parts)


def _unpacked(head: Mapping[str, Any], raw: bytes) -> LightCode:
    values, at, blocks = dict(head["plain"]), 0, []
    for kind, held, shape in head["blocks"]:
        narrow = np.frombuffer(raw, held, math.prod(shape), at)
        at += narrow.nbytes
        blocks.append(list(narrow.astype(kind).reshape(shape)))
    for name, (block, place) in head["places"].items():
        values[name] = blocks[block][place]
    values["facts.files"] = tuple(values["facts.files"])

    def build(kind: Any, prefix: str, inner: Mapping[str, Any]) -> Any:
        return kind(**{name: build(inner[name], f"{prefix}{name}.", {}) if name in inner else values[prefix + name]
                       for name in kind.__dataclass_fields__})

    full, reads, control = (build(WarpCode, f"{name}.", {"bytecode": Bytecode}) for name in _PARTS)
    return LightCode(full, reads, control, build(CodeFacts, "facts.", {"table": isa.IsaTable}))
