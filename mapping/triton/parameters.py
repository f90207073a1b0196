"""A launch's parameters as the kernel finds them in constant bank 0."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from ...errors import KernelError
from .compile import CompiledKernel
from .launch import Buffer, Launch, TensorMap
from .made_maps import SCRATCH_WINDOW, equal_descriptors, made_maps
from .values import Unknown

#: Where we place the window through which code reads its own parameters (descriptors are passed by address).
CONSTANT_WINDOW = 0x7E00_0000_0000
_STACK_TOP = 0x00FF_F000
_SCRATCH = (("u64", SCRATCH_WINDOW), ("u64", 0x7C00_0000_0000))


class ConstantBank(dict[int, Any]):
    """Constant bank 0: words by byte offset; what is not known is `Unknown`.

    Attributes
    ----------
    equal
        Which of the tensor descriptors that the kernel makes are the same in every CTA, as `made_maps.equal_descriptors` has it.
    """

    equal: np.ndarray = np.array([1, 0], np.int64)

    def __missing__(self, offset: int) -> Unknown:
        made = self[offset] = Unknown(f"constant bank 0 at {offset:#x}")
        return made


_FORMATS = {"i1": "<B", "u1": "<B", "i8": "<b", "u8": "<B", "i16": "<h", "u16": "<H", "i32": "<i", "u32": "<I", "i64": "<q",
            "u64": "<Q", "fp16": "<e", "fp32": "<f", "f32": "<f", "fp64": "<d"}


def _flatten(kind: Any, value: Any, mapped: bool) -> Iterable[tuple[str, Any]]:
    """Parameters in order: tuples flattened, constexprs dropped, descriptors expanded as Triton's launcher does."""
    if isinstance(kind, tuple):
        for k, v in zip(kind, value, strict=True):
            yield from _flatten(k, v, mapped)
    elif isinstance(value, TensorMap):
        sizes = [*value.shape], [*value.strides]
        if mapped:
            yield "descriptor", value
        else:
            yield "*", value.buffer
            yield from (("i64", n) for n in itertools.chain(*sizes))
            yield from (("i1", 0), ("i1", 0))
        yield from (("i32", n) for n in sizes[0])
        yield from (("i64", n) for n in sizes[1])
    elif kind != "constexpr":
        yield str(kind), value


def _bytes_of(kind: str, value: Any, size: int) -> bytes | None:
    if isinstance(value, Buffer):
        return struct.pack("<Q", value.address)
    if kind == "bf16":
        return struct.pack("<f", float(value))[2:]
    if kind not in _FORMATS:
        return None
    if kind[0] in "iu":
        number = int(value) & ((1 << 8 * size) - 1)
        return number.to_bytes(size, "little")
    return struct.pack(_FORMATS[kind], float(value))


def parameters_of(compiled: CompiledKernel, launch: Launch) -> tuple[ConstantBank, dict[int, TensorMap]]:
    """Constant bank 0 as the launch fills it, and the tensor descriptors by their place in it.

    Those that the kernel makes itself of nothing but its arguments stand under the address where the first CTA keeps them.

    Raises
    ------
    KernelError
        The kernel's parameters are not those of the launch.
    """
    layout, bank = compiled.layout, ConstantBank(_system_constants(compiled, launch))
    flat = [pair for name, kind in launch.signature.items()
            for pair in _flatten(kind, launch.arguments[name], bool(compiled.metadata.get("tensordesc_meta")))]
    if len(flat) > len(layout.parameters):
        raise KernelError(f"{compiled.source_file}:{compiled.source_line}: kernel {compiled.name!r} takes {len(layout.parameters)} "
                          f"parameters, the launch passes {len(flat)}")
    raw = bytearray(max((offset + size for offset, size in layout.parameters), default=0) + 8)
    unset: set[int] = set()
    maps: dict[int, TensorMap] = {}
    for (kind, value), (offset, size) in zip([*flat, *_SCRATCH], layout.parameters, strict=False):
        packed = None if kind == "descriptor" else _bytes_of(kind, value, size)
        if kind == "descriptor":
            maps[layout.parameter_base + offset] = value
        if packed is None:
            unset |= set(range(offset, offset + size))
            for at in range(offset, offset + size, 4):
                bank.pop(layout.parameter_base + at, None)
        else:
            raw[offset:offset + len(packed)] = packed
    given = {at for offset, size in layout.parameters for at in range(offset // 4 * 4, offset + size, 4)}
    for offset in sorted(given):
        if offset not in unset:
            bank[layout.parameter_base + offset] = int.from_bytes(raw[offset:offset + 4], "little")
    made = made_maps(compiled, launch)
    bank.equal = equal_descriptors(compiled, made)
    return bank, maps | {SCRATCH_WINDOW + place: found for place, found in made.items()}


def _system_constants(compiled: CompiledKernel, launch: Launch) -> dict[int, int]:
    """What the driver puts in front of the parameters: sizes of block and grid, the stack, the parameters' own address."""
    blocks, grid = (0x360, 0x370) if compiled.target >= 100 else (0x0, 0xC)
    stack, window, access = (0x37C, 0x348, 0x358) if compiled.target >= 100 else (0x28, 0x198, 0x208) if compiled.target >= 90 \
        else (0x28, None, 0x118)
    sizes = (launch.grid[0] * compiled.num_ctas, *launch.grid[1:])
    words = {blocks + 4 * i: n for i, n in enumerate((compiled.threads, 1, 1))} | {grid + 4 * i: n for i, n in enumerate(sizes)}
    words |= {stack: _STACK_TOP, access: 0, access + 4: 0}
    if window is not None:
        words |= {window: CONSTANT_WINDOW & 0xFFFFFFFF, window + 4: CONSTANT_WINDOW >> 32}
    return words
