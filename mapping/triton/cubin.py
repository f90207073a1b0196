"""What a cubin says of its kernel: where the parameters lie in the constant bank, registers, shared memory, threads.

A cubin is an ELF file; its ``.nv.info`` sections are lists of attributes (one byte of format, one of kind, then two
bytes of value, or of size before the value).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ...errors import KernelError

_NOBITS = 8
_FUNCTION = 2
_SIZED = 4
_PARAM_CBANK, _KPARAM_INFO, _REGCOUNT, _REQNTID, _FRAME_SIZE = 0x0A, 0x17, 0x2F, 0x10, 0x11


@dataclass(frozen=True)
class CubinInfo:
    """Layout and resources of the one kernel in a cubin.

    Attributes
    ----------
    name
        Its symbol.
    parameters
        ``(offset, size)`` in bytes of each parameter, from the start of the parameter area.
    parameter_base
        Where that area starts in constant bank 0.
    registers
        32-bit registers a thread.
    stack_bytes
        Local memory a thread: spills and local arrays.
    static_shared_bytes
        Shared memory that the code itself declares (on sm_90 and later with the 1 KiB that the system reserves).
    threads
        Threads a CTA, as the code requires them.
    constants
        Contents of the constant banks other than 0, by bank.
    functions
        Functions of the CUDA system whose addresses stand in constant bank 4, by offset: ``vprintf``, ``__assertfail``.
    """

    name: str
    parameters: tuple[tuple[int, int], ...]
    parameter_base: int
    registers: int
    stack_bytes: int
    static_shared_bytes: int
    threads: int
    constants: dict[int, bytes]
    functions: dict[int, str] = field(default_factory=dict)


def _sections(cubin: bytes) -> dict[str, tuple[int, bytes, int]]:
    """``(type, contents, size)`` by section name."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    width, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", cubin, table + i * width) for i in range(count)]
    base = heads[names][4]
    found = {}
    for name, kind, _, _, offset, size in heads:
        text = cubin[base + name:cubin.index(b"\0", base + name)].decode()
        found[text] = (kind, b"" if kind == _NOBITS else cubin[offset:offset + size], size)
    return found


def _attributes(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 4 <= len(data):
        form, kind = data[at], data[at + 1]
        size = struct.unpack_from("<H", data, at + 2)[0] if form == _SIZED else 0
        found.append((kind, data[at + 4:at + 4 + size] if form == _SIZED else data[at + 2:at + 4]))
        at += 4 + size
    return found


def _functions(sections: dict[str, tuple[int, bytes, int]]) -> dict[int, str]:
    """Symbols of functions to which the relocations of constant bank 4 refer, by offset."""
    symbols, names = sections.get(".symtab", (0, b"", 0))[1], sections.get(".strtab", (0, b"", 0))[1]
    found = {}
    for section, width in ((".rel.nv.constant4", 16), (".rela.nv.constant4", 24)):
        data = sections.get(section, (0, b"", 0))[1]
        for at in range(0, len(data) - width + 1, width):
            offset, info = struct.unpack_from("<QQ", data, at)
            name, kind = struct.unpack_from("<IB", symbols, (info >> 32) * 24)
            if kind & 15 == _FUNCTION:
                found[offset] = names[name:names.index(b"\0", name)].decode()
    return found


def read_cubin(cubin: bytes) -> CubinInfo:
    """Read the kernel's layout and resources.

    Raises
    ------
    KernelError
        Not a cubin with exactly one kernel.
    """
    try:
        sections = _sections(cubin)
        kernels = [name.removeprefix(".nv.info.") for name in sections if name.startswith(".nv.info.")]
        (name,) = [kernel for kernel in kernels if f".nv.constant0.{kernel}" in sections]
        base, parameters, threads, registers, stack = 0, {}, 0, 0, 0
        for kind, value in _attributes(sections[f".nv.info.{name}"][1]):
            if kind == _PARAM_CBANK:
                base = struct.unpack_from("<H", value, 4)[0]
            elif kind == _KPARAM_INFO:
                _, ordinal, offset, packed = struct.unpack("<IHHI", value)
                parameters[ordinal] = (offset, packed >> 18 & 0x3FFF)
            elif kind == _REQNTID:
                x, y, z = struct.unpack("<III", value)
                threads = x * y * z
        for kind, value in _attributes(sections[".nv.info"][1]):
            if kind == _REGCOUNT:
                registers = max(registers, struct.unpack_from("<I", value, 4)[0])
            elif kind == _FRAME_SIZE:
                stack = max(stack, struct.unpack_from("<I", value, 4)[0])
    except (struct.error, ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise KernelError(f"not a cubin with one kernel ({type(error).__name__}: {error})") from None
    shared = sections.get(f".nv.shared.{name}", (0, b"", 0))[2]
    banks = {int(section[len(".nv.constant"):].split(".")[0]): contents for section, (_, contents, _) in sections.items()
             if section.startswith(".nv.constant") and section.endswith((f".{name}", "3", "4"))}
    banks.pop(0, None)
    return CubinInfo(name, tuple(parameters[i] for i in sorted(parameters)), base, registers, stack, shared, threads, banks,
                     _functions(sections))
