"""Which memory an instruction touches, with which bytes a thread, and where its address stands."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .operands import NotModelledError, flag
from .sass import UNIFORM, Instruction, span, vector_bytes

#: Spaces of memory, and the kinds of access.
GLOBAL, SHARED, LOCAL = "global", "shared", "local"
LOAD, STORE, ATOMIC, COPY = "load", "store", "atomic", "copy"

_OPS = {
    "LDG": (GLOBAL, LOAD), "LD": (GLOBAL, LOAD), "STG": (GLOBAL, STORE), "ST": (GLOBAL, STORE), "ATOMG": (GLOBAL, ATOMIC),
    "ATOM": (GLOBAL, ATOMIC), "RED": (GLOBAL, ATOMIC), "REDG": (GLOBAL, ATOMIC), "LDGSTS": (GLOBAL, COPY),
    "LDS": (SHARED, LOAD), "STS": (SHARED, STORE), "ATOMS": (SHARED, ATOMIC), "LDSM": (SHARED, LOAD), "STSM": (SHARED, STORE),
    "LDL": (LOCAL, LOAD), "STL": (LOCAL, STORE),
}
#: What touches mbarriers: initialisation, arrivals and waits, and the commit of tcgen05.
MBARRIER = frozenset({"SYNCS", "UTCBAR"})
TMA = frozenset({"UTMALDG", "UTMASTG", "UTMAREDG", "UBLKCP", "UBLKRED"})
_TERM = re.compile(r"([+-]?)\s*(U?R(?:Z|\d+)|0x[0-9a-f]+)((?:\.\w+)*)")
_BRACKET = re.compile(r"(desc)?\[[^\]]*\](?:\[([^\]]*)\])?")


@dataclass(frozen=True)
class MemoryOp:
    """A memory access of every active thread.

    Attributes
    ----------
    space
        ``"global"``, ``"shared"`` or ``"local"``.
    kind
        ``"load"``, ``"store"``, ``"atomic"``, or ``"copy"`` (cp.async, from global to shared memory).
    thread_bytes
        Bytes of one thread; for LDSM and STSM the 16 bytes of the row that the thread's address names.
    rows
        For LDSM and STSM: how many threads' addresses count (8 a matrix); 0 otherwise.
    address
        Expression of the address over ``R``.
    condition
        Expression of a trailing predicate without which nothing is read (cp.async with zero fill), else ``"True"``.
    target
        For a copy: expression of the shared address written.
    """

    space: str
    kind: str
    thread_bytes: int
    rows: int
    address: str
    condition: str = "True"
    target: str = ""


def _bytes(ins: Instruction) -> int:
    for name, size in (("256", 32), ("128", 16), ("64", 8), ("U8", 1), ("S8", 1), ("U16", 2), ("S16", 2), ("F16", 2), ("BF16", 2)):
        if name in ins.modifiers:
            return size * (2 if name in ("F16", "BF16") and any(m.startswith("RN") for m in ins.modifiers) else 1)
    return 8 if ins.has("F64", "S64", "U64") else vector_bytes(ins.modifiers) or 4


def address_of(operand: str, space: str) -> str:
    """Expression of a bracketed address: ``desc[UR4][R2.64+0x10]``, ``[R5.X4+UR4+0x400]``, ``[UR8]``."""
    match = _BRACKET.fullmatch(operand)
    if not match:
        raise NotModelledError
    inner = match[2] if match[1] else operand[1:-1]
    wide = space == GLOBAL
    parts = []
    for sign, name, suffix in _TERM.findall(inner):
        if name.startswith("0x"):
            value = int(name, 16)
            parts.append(str((-value if sign == "-" else value) & (0xFFFFFFFFFFFFFFFF if wide else 0xFFFFFFFF)))
            continue
        if name.endswith("Z"):
            continue
        number = int(name.lstrip("UR")) + (UNIFORM if name[0] == "U" else 0)
        scale = next((int(m[1:]) for m in suffix.split(".") if re.fullmatch(r"X\d+", m)), 1)
        pair = wide and (".64" in suffix or name[0] == "U")  # a uniform register beside another is a 64-bit base
        text = f"(R[{number}] | R[{number + 1}] << 32)" if pair else f"R[{number}]"
        parts.append(f"{text} * {scale}" if scale > 1 else text)
    mask = "M64" if wide else "M"
    return f"({' + '.join(parts) or '0'}) & {mask}"


def memory_op(ins: Instruction) -> MemoryOp | None:
    """The access of an instruction; None for one that is no per-thread access (TMA and tensor memory are apart)."""
    if ins.base not in _OPS:
        return None
    space, kind = _OPS[ins.base]
    brackets = [op for op in ins.operands if op.startswith(("[", "desc["))]
    if not brackets:
        return None
    try:
        if ins.base == "LDGSTS":
            trailing = [op for op in ins.operands if re.fullmatch(r"!?U?P(T|\d)", op)]
            return MemoryOp(GLOBAL, COPY, _bytes(ins), 0, address_of(brackets[1], GLOBAL), flag(trailing[0]) if trailing else "True",
                            address_of(brackets[0], SHARED))
        address = address_of(brackets[0], space)
    except NotModelledError:
        address = f"Unknown('the address of {ins.opcode} at {ins.address:#x}')"
    if ins.base in ("LDSM", "STSM"):
        count = next((int(m) for m in reversed(ins.modifiers) if m in ("1", "2", "4")), 1)
        return MemoryOp(space, kind, 16, 8 * count, address)
    return MemoryOp(space, kind, _bytes(ins), 0, address)


def transposed_of(ins: Instruction) -> bool | None:
    """Whether LDSM or STSM takes matrices transposed; None for one whose numbers are not of 16 bits."""
    return "MT88" in ins.modifiers if "16" in ins.modifiers and ("M88" in ins.modifiers or "MT88" in ins.modifiers) else None


def address_registers(ins: Instruction, *, target: bool = True) -> tuple[int, ...]:
    """Registers inside the brackets of an access (descriptors aside), and its trailing predicate for cp.async.

    Parameters
    ----------
    target
        Also those of the shared address that cp.async writes to.
    """
    found: list[int] = []
    for number, op in enumerate(op for op in ins.operands if op.startswith(("[", "desc["))):
        if ins.base == "LDGSTS" and number == 0 and not target:
            continue
        match = _BRACKET.fullmatch(op)
        inner = f"[{match[2]}]" if match and match[1] else op
        registers = list(span(inner, 1))
        if _OPS[ins.base][0] == GLOBAL and (ins.base != "LDGSTS" or number == 1):
            registers += [n + 1 for n in registers if n >= UNIFORM]
        found += registers
    if ins.base == "LDGSTS":
        found += [n for n in ins.reads if n >= 512]
    return tuple(dict.fromkeys(found))


def descriptor_registers(ins: Instruction) -> tuple[int, ...]:
    """The register that holds a tcgen05 instruction's descriptor (``idesc[UR21]``)."""
    return tuple(UNIFORM + int(op[8:-1]) for op in ins.operands if re.fullmatch(r"idesc\[UR\d+\]", op))


def memory_ops_of(code: Iterable[Instruction]) -> dict[int, MemoryOp]:
    """Memory access of each instruction that has one."""
    return {ins.index: op for ins in code if (op := memory_op(ins)) is not None}
