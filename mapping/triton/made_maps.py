"""Tensor descriptors (TMA) that a kernel makes itself, where the launch's arguments alone say what it writes into them.

Triton keeps them in global scratch memory, a part of it for each CTA. TTGIR names what each is made from (``ttng.tensormap_create``:
address, box, shape and strides, fastest axis first) and where it is kept (``ttg.global_scratch_alloc``, in the order of the text).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from .compile import CompiledKernel
from .launch import Buffer, Launch, TensorMap
from .tile_scalars import evaluate_scalar
from .ttgir import ELEMENT_BITS, TileProgram, parse_ttgir

#: Where we place scratch memory; bytes of a descriptor (CUtensorMap), on which it is aligned too.
SCRATCH_WINDOW: Final = 0x7D00_0000_0000
SCRATCH_END: Final = 0x7E00_0000_0000
DESCRIPTOR_BYTES: Final = 128
#: From here on the element formats of ``tensormap.replace.elemtype`` are packed ones of less than a byte (PTX ISA).
_PACKED: Final = 13
_SSA: Final = r"%([\w$.#-]+)"
_ALLOCATE: Final = re.compile(_SSA + r" = ttg\.global_scratch_alloc \{alignment = (\d+) : i32, nbytes = (\d+) : i32")
_CREATE: Final = re.compile(rf"ttng\.tensormap_create {_SSA}, {_SSA}, \[(.*?)\], \[(.*?)\], \[(.*?)\], \[.*?\] \{{(.*?)\}} : "
                            r"\(!tt\.ptr<i8>, !tt\.ptr<(\w+)>")
_MOVED: Final = re.compile(_SSA + rf" = tt\.addptr {_SSA}, {_SSA} : !tt\.ptr<(\w+)>")


def made_maps(compiled: CompiledKernel, launch: Launch) -> dict[int, TensorMap]:
    """Descriptors by their place in a CTA's scratch memory; those whose contents depend on more than the arguments are left out."""
    text = compiled.ttgir
    if "ttng.tensormap_create" not in text:
        return {}
    places: dict[str, int] = {}
    end = 0
    for name, alignment, size in _ALLOCATE.findall(text):
        end = -(-end // int(alignment)) * int(alignment)
        places[name] = end
        end += int(size)
    if end != scratch_bytes(compiled):
        return {}
    tiles, moved = parse_ttgir(text), {name: rest for name, *rest in _MOVED.findall(text)}
    made: dict[int, TensorMap | None] = {}
    for where, pointer, *lists, attributes, element in _CREATE.findall(text):
        if where in places:  # what is written twice may be either
            made[places[where]] = None if places[where] in made else _map(tiles, launch, moved, pointer, lists, attributes, element)
    return {place: found for place, found in made.items() if found is not None}


def _map(tiles: TileProgram, launch: Launch, moved: Mapping[str, list[str]], pointer: str, lists: list[str], attributes: str,
         element: str) -> TensorMap | None:
    value, size = _values(tiles, launch), ELEMENT_BITS.get(element, 0) // 8
    box, shape, strides = ([value(name) for name in re.findall(_SSA, part)] for part in lists)
    buffer = _buffer(launch, moved, pointer, value)
    kind = re.search(r"elem_type = (\d+)", attributes)
    if buffer is None or not size or kind is None or int(kind[1]) >= _PACKED:
        return None
    known = [[n for n in part if n is not None] for part in (box, shape, strides)]
    if any(len(part) < len(whole) for part, whole in zip(known, (box, shape, strides), strict=True)):
        return None
    return TensorMap(buffer, tuple(known[1][::-1]), (*(n // size for n in known[2][::-1]), 1), tuple(known[0][::-1]), size)


def _values(tiles: TileProgram, launch: Launch) -> Callable[[str], int | None]:
    """What gives an integer of TTGIR, None where it is not the same in every CTA."""
    nowhere = (None, None, None)
    return lambda name: evaluate_scalar(tiles.scalars, name, launch.arguments, nowhere, launch.grid, {})


def _buffer(launch: Launch, moved: Mapping[str, list[str]], name: str, value: Callable[[str], int | None]) -> Buffer | None:
    """The tensor that a pointer is to, moved as the kernel moves it."""
    if name not in moved:
        found = launch.arguments.get(name)
        return found if isinstance(found, Buffer) else None
    before, offset, element = moved[name]
    base, by = _buffer(launch, moved, before, value), value(offset)
    size = ELEMENT_BITS.get(element, 0) // 8
    return None if base is None or by is None or not size else replace(base, address=base.address + by * size)


def scratch_bytes(compiled: CompiledKernel) -> int:
    """Bytes of scratch memory of a CTA, from one's to the next one's."""
    return int(compiled.metadata.get("global_scratch_size") or 0)


def in_scratch(compiled: CompiledKernel, descriptor: int) -> int | None:
    """Address of what the first CTA keeps where this one keeps a descriptor; None for one that is not in scratch memory."""
    size = scratch_bytes(compiled)
    if not size or not SCRATCH_WINDOW <= descriptor < SCRATCH_END:
        return None
    return SCRATCH_WINDOW + (descriptor - SCRATCH_WINDOW) % size


def equal_descriptors(compiled: CompiledKernel, made: Mapping[int, TensorMap]) -> np.ndarray:
    """int64: bytes of a CTA's scratch memory (1 for none), then by `DESCRIPTOR_BYTES` of it whether all CTAs have the same one there."""
    size = scratch_bytes(compiled)
    found = np.zeros(2 + size // DESCRIPTOR_BYTES, np.int64)
    found[0] = max(1, size)
    found[[1 + place // DESCRIPTOR_BYTES for place in made if place % DESCRIPTOR_BYTES == 0]] = 1
    return found


def common(descriptor: int, equal: np.ndarray) -> int:
    """The first CTA's descriptor that is equal to this one, or this one."""
    if not SCRATCH_WINDOW <= descriptor < SCRATCH_END:
        return descriptor
    place = (descriptor - SCRATCH_WINDOW) % int(equal[0])
    return SCRATCH_WINDOW + place if equal[1 + place // DESCRIPTOR_BYTES] else descriptor
