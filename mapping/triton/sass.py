"""The listing of ``nvdisasm -c -hex -gi`` as instructions with registers, control words and source lines.

Registers are numbered in one space, so that a set of them is one int: ``R0`` to ``R254`` are 0 to 254, ``UR0`` and up 256
and up, ``P0`` to ``P6`` 512 to 518, ``UP0`` to ``UP6`` 520 to 526. ``RZ``, ``URZ``, ``PT`` and ``UPT`` are constants and
have no number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from ...errors import KernelError

UNIFORM, PREDICATE, UNIFORM_PREDICATE, REGISTER_COUNT = 256, 512, 520, 528
#: Bytes of one instruction.
INSTRUCTION_BYTES = 16


@dataclass(frozen=True, slots=True)
class Control:
    """How the hardware may issue an instruction, bits 105 to 125 of its encoding.

    Attributes
    ----------
    stall
        Cycles before the next instruction of the warp may issue (0 to 15).
    yields
        Another warp is to be preferred after this one.
    write_barrier, read_barrier
        Scoreboard (0 to 5) released when the result is there, or when the operands have been read; None for none.
    wait_mask
        Scoreboards, as bits, that must be free before this instruction issues.
    reuse
        Operand slots, as bits, that the register reuse cache keeps.
    """

    stall: int
    yields: bool
    write_barrier: int | None
    read_barrier: int | None
    wait_mask: int
    reuse: int

    @classmethod
    def decode(cls, high: int) -> Control:
        """From the upper 64 bits of an encoding.

        Examples
        --------
        >>> Control.decode(0x000e620000002500)
        Control(stall=1, yields=False, write_barrier=1, read_barrier=None, wait_mask=0, reuse=0)
        """
        word = high >> 41 & 0x1FFFFF
        write, read = word >> 5 & 7, word >> 8 & 7
        return cls(word & 15, not word >> 4 & 1, None if write == 7 else write, None if read == 7 else read,
                   word >> 11 & 63, word >> 17 & 15)


@dataclass(frozen=True, slots=True)
class SourceLine:
    """A place in the user's Python file; `inner` is the library line that was inlined there, if any."""

    file: str
    line: int
    inner: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One SASS instruction.

    Attributes
    ----------
    index, address
        Place in the listing, and byte address in the kernel.
    opcode
        With modifiers: ``"IMAD.WIDE.U32"``; `base` is ``"IMAD"`` and `modifiers` the rest.
    guard, guard_negated
        Number of the predicate register before the instruction, None for none (``@PT`` included); ``@!PT`` is
        ``(None, True)``: never executed, though issued.
    operands
        Texts as listed, reuse marks removed.
    reads, writes
        Numbers of the registers read (the guard included) and written.
    target
        Byte address that a branch, call or BSSY names, or None.
    targets
        Addresses that an indirect branch may go to.
    source
        Line of the user's file, None where ptxas gives none.
    control
        The control word.
    encoding
        The 128 bits.
    """

    index: int
    address: int
    opcode: str
    base: str
    modifiers: tuple[str, ...]
    guard: int | None
    guard_negated: bool
    operands: tuple[str, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    target: int | None
    targets: tuple[int, ...]
    source: SourceLine | None
    control: Control
    encoding: int

    def __str__(self) -> str:
        name = "" if self.guard is None and not self.guard_negated else f"@{'!' if self.guard_negated else ''}" \
            f"{'PT' if self.guard is None else register_name(self.guard)} "
        return f"{name}{self.opcode} {', '.join(self.operands)}".strip()

    def has(self, *modifiers: str) -> bool:
        """Whether one of `modifiers` is among the instruction's."""
        return any(name in self.modifiers for name in modifiers)


@dataclass(frozen=True)
class Listing:
    """A kernel's instructions in order of address, with the labels' addresses."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    @cached_property
    def by_address(self) -> dict[int, Instruction]:
        """Instruction at each address."""
        return {instruction.address: instruction for instruction in self.instructions}


def register_name(number: int) -> str:
    """``"R5"``, ``"UR4"``, ``"P0"`` or ``"UP1"``."""
    if number >= UNIFORM_PREDICATE:
        return f"UP{number - UNIFORM_PREDICATE}"
    if number >= PREDICATE:
        return f"P{number - PREDICATE}"
    return f"UR{number - UNIFORM}" if number >= UNIFORM else f"R{number}"


_REGISTER = re.compile(r"(?<![\w.])(U?[RP])(\d+)(?!\w)")
_CODE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;?\s*/\* 0x([0-9a-f]{16}) \*/")
_HIGH = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
#: What nvdisasm of CUDA 12.8 writes behind an instruction of sm_120: its control word in words (``&wr=0x0 &req={0} ?trans1``).
_SCHEDULING = re.compile(r"(\s+&\w+=\S+)*\s+\?\w+$")
_LABEL = re.compile(r"^(\.L_x_\d+|[\w$.]+):$")
_LINE = re.compile(r'//## File "([^"]*)", line (\d+)(?: inlined at "([^"]*)", line (\d+))?')
_GUARD = re.compile(r"^@(!?)(U?P(?:T|\d))\s+")
_TARGETS = re.compile(r'\(\*"BRANCH_TARGETS ([^"]*)"\*\)')
_BANK = {"R": 0, "UR": UNIFORM, "P": PREDICATE, "UP": UNIFORM_PREDICATE}
_IS_PREDICATE = re.compile(r"^!?U?P(T|\d)$")

#: Opcodes whose first operand is no destination.
_NO_RESULT_NAMES = """
    ST STG STS STL STSM STTM RED REDG REDAS BAR MEMBAR EXIT BRA BRX JMP JMX CALL RET BSSY BSYNC BREAK WARPSYNC DEPBAR LDGDEPBAR
    LDGSTS LDGSTSARRIVE NOP NANOSLEEP ERRBAR CCTL CCTLL CCTLT FENCE WARPGROUP WARPGROUPSET UTMALDG UTMASTG UTMAREDG UTMACCTL
    UTMACMDFLUSH UTMAPF UBLKCP UBLKPF UBLKRED UTCHMMA UTCQMMA UTCIMMA UTCOMMA UTCMMA UTCBAR UTCCP UTCSHIFT ARRIVES ACQBULK
    ACQSHMINIT PREEXIT KILL BPT RTT R2B B2R YIELD UCGABAR_ARV UCGABAR_WAIT UVIRTCOUNT PMTRIG STAS
"""
_NO_RESULT = frozenset(_NO_RESULT_NAMES.split())
_LOADS = frozenset({"LD", "LDG", "LDS", "LDL", "LDC", "LDCU", "ULDC", "ATOM", "ATOMG", "ATOMS", "LDGMC", "LDT", "LDTM"})
_GLOBAL = frozenset({"LD", "LDG", "ST", "STG", "ATOM", "ATOMG", "RED", "REDG"})
#: An address of 64 bits (``.E``) that is not named as one, as compare-and-swap has it: ``ATOMG.E.CAS PT, R6, [R2], R10, R11``.
_SHORT = re.compile(r"^\[(R\d+)(?=[+\]])(?!.*UR)")
_STORES = frozenset({"ST", "STG", "STS", "STL", "RED", "REDG", "STAS"})
_VECTOR = re.compile(r"^B?F(16|32)x([248])$")
#: Opcodes with register first that may name carry-out predicates behind it, and how many at most.
_CARRY = {"IADD3": 2, "UIADD3": 2, "LEA": 1, "ULEA": 1, "IMAD": 1, "UIMAD": 1, "VOTE": 1, "VOTEU": 1, "IADD": 1, "UIADD": 1,
          "MATCH": 1, "VIMNMX": 2, "VIADDMNMX": 2, "VIMNMX3": 2, "UVIMNMX": 2, "FMNMX": 1}
_TWO_PREDICATES = frozenset({"ISETP", "UISETP", "FSETP", "DSETP", "HSETP2", "PSETP", "UPSETP", "PLOP3", "UPLOP3", "ICMP"})


def destinations(base: str, operands: list[str]) -> int:
    """How many leading operands are written."""
    if base in _NO_RESULT or not operands:
        return 0
    first = operands[0]
    if first[0] in "[`" or first.startswith(("desc", "gdesc", "tmem", "c[")):
        return 0
    if _IS_PREDICATE.match(first):
        if base in _TWO_PREDICATES:
            return 2
        if base in ("VOTEU", "VOTE", "FCHK", "SYNCS", "R2P"):
            return 1
        second = len(operands) > 1 and re.match(r"^U?R(Z|\d+)", operands[1])
        return 2 if second else 1
    count = 1
    while count <= _CARRY.get(base, 0) and count < len(operands) - 1 and re.match(r"^U?P(T|\d)$", operands[count]):
        count += 1
    return count


def vector_bytes(modifiers: Iterable[str]) -> int:
    """Bytes of one thread of an atomic on a vector of floats (``F16x2`` to ``F32x4``), 0 for any other access."""
    vector = next((match for match in map(_VECTOR.match, modifiers) if match), None)
    return int(vector[1]) * int(vector[2]) // 8 if vector else 0


def _memory_width(modifiers: tuple[str, ...]) -> int:
    for name, width in (("256", 8), ("128", 4), ("64", 2), ("F64", 2), ("U64", 2), ("S64", 2)):
        if name in modifiers:
            return width
    return max(1, vector_bytes(modifiers) // 4)


def _matrix_widths(base: str, modifiers: tuple[str, ...]) -> tuple[int, int, int]:
    """Registers a thread of A, B and C of a warp-level matrix instruction, from its shape and formats."""
    from .tensor_core import element_bits, warp_shape

    m, n, k = warp_shape(base, modifiers)
    bits = element_bits(base, modifiers)
    sums = 64 if base == "DMMA" else 16 if base == "HMMA" and "F32" not in modifiers else 32
    return max(1, m * k * bits // 1024), max(1, n * k * bits // 1024), max(1, m * n * sums // 1024)


def _width(base: str, modifiers: tuple[str, ...], slot: int, written: bool, operand: str) -> int:
    """Registers that an operand in the given source (or destination) slot spans."""
    base = base[1:] if base in ("UI2F", "UF2I", "UF2F", "UMUFU", "UIMAD") else base
    if base in _LOADS or base in _STORES:
        if base == "LDTM":
            return next((int(name[1:]) for name in modifiers if re.match(r"^x\d+$", name)), 1)
        return _memory_width(modifiers)
    if base in ("LDSM", "STSM"):
        return next((int(name) for name in reversed(modifiers) if name in ("1", "2", "4")), 1)
    if base == "STTM":
        return next((int(name[1:]) for name in modifiers if re.match(r"^x\d+$", name)), 1)
    if base in ("HMMA", "IMMA", "QMMA", "DMMA", "OMMA", "BMMA"):
        a, b, c = _matrix_widths(base, modifiers)
        return c if written else (a, b, c)[slot] if slot < 3 else 1
    if base in ("HGMMA", "QGMMA", "IGMMA", "BGMMA"):
        shape = next((name for name in modifiers if "x" in name), "64x8x16").split("x")
        half = "F16" in modifiers and "F32" not in modifiers
        return int(shape[1]) // (4 if half else 2) if written or slot == 2 or (operand[0] == "R" and slot > 0) else 4
    if base == "CS2R":
        return 1 if "32" in modifiers else 2
    if base == "IMAD":
        if "WIDE" in modifiers:
            return 2 if written or slot == 2 else 1
        return 2 if "HI" in modifiers and not written and slot == 2 else 1
    if base[0] == "D" and base in ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX"):
        return 2
    if base in ("FADD2", "FMUL2", "FFMA2"):
        return 2
    if base in ("F2F", "I2F", "F2I", "FRND", "MUFU"):
        wide = [i for i, name in enumerate(modifiers) if name in ("F64", "U64", "S64")]
        if not wide or base == "MUFU":
            return 1
        if base == "I2F":
            return 2 if written == ("F64" in modifiers) or (not written and modifiers[wide[0]] != "F64") else 1
        if base == "F2I":
            return 2 if (modifiers[wide[0]] != "F64") == written else 1
        return 2
    if base in ("SHF", "USHF", "SYNCS", "R2UR", "UTMALDG", "LEA", "ULEA"):
        return 1
    return 2 if not {"64", "U64", "S64"}.isdisjoint(modifiers) else 1


def span(operand: str, width: int, wide_base: bool = False) -> Iterator[int]:
    """Numbers of the registers of one operand: the named one and those behind it, and those inside brackets with their own widths."""
    for match in _REGISTER.finditer(operand):
        number = _BANK[match[1]] + int(match[2])
        before, after = operand[:match.start()], operand[match.end():]
        if match[1] in ("P", "UP"):
            count = 1
        elif before.endswith("gdesc["):
            count = 4 if "," not in operand and "gdesc" in operand and width == 4 else 2
        elif before.endswith("desc["):
            count = 1 if before.endswith("idesc[") else 2
        elif "[" in before and before.count("[") > before.count("]"):
            count = 2 if after.startswith(".64") or (match[1] == "UR" and wide_base) else 1
        else:
            count = width
        yield from range(number, number + count)


def _registers(base: str, modifiers: tuple[str, ...], operands: list[str]) -> tuple[list[int], list[int]]:
    """Numbers read and written by the operands."""
    count = destinations(base, operands)
    reads: list[int] = []
    writes: list[int] = []
    for operand in operands[:count]:
        wide = 1 if _IS_PREDICATE.match(operand) else _width(base, modifiers, 0, True, operand)
        writes += span(operand, wide)
    if base == "R2P":
        writes += range(PREDICATE, PREDICATE + 7)
    if base == "P2R":
        reads += range(PREDICATE, PREDICATE + 7)
    slot = 0
    for operand in operands[count:]:
        wide = 1 if _IS_PREDICATE.match(operand) else _width(base, modifiers, slot, False, operand)
        if base in ("HGMMA", "QGMMA", "IGMMA", "BGMMA") and "gdesc" in operand:
            wide = 4 if not re.match(r"^R\d", operands[count]) else 2
        reads += span(operand, wide, base in _GLOBAL)
        slot += 0 if _IS_PREDICATE.match(operand) else 1
    if base.startswith(("UTMA", "UBLK")) and operands:
        for match in _REGISTER.finditer(operands[0]):  # shared address, mbarrier and the coordinates lie side by side
            dims = next((int(name[0]) for name in modifiers if re.match(r"^[1-5]D$", name)), 0)
            reads += range(_BANK[match[1]] + int(match[2]), _BANK[match[1]] + int(match[2]) + 2 + dims)
        for match in _REGISTER.finditer(operands[1] if len(operands) > 1 else ""):
            reads += range(_BANK[match[1]] + int(match[2]), _BANK[match[1]] + int(match[2]) + 2)
    return reads, writes


def _split_operands(text: str) -> list[str]:
    return [part.strip().replace(".reuse", "") for part in text.split(",")] if text.strip() else []


def parse_listing(text: str) -> Listing:
    """Instructions of the kernel (and of the functions it calls) in a listing of ``nvdisasm -c -hex -gi``.

    Raises
    ------
    KernelError
        No instruction found, an encoding is missing, or a branch names a label that is not there.
    """
    labels: dict[str, int] = {}
    raw: list[tuple[int, str, int, SourceLine | None]] = []
    pending: list[str] = []
    source: SourceLine | None = None
    inner, name, fresh = "", "", True
    lines = iter(text.splitlines())
    for line in lines:
        if match := _CODE.match(line):
            high = _HIGH.match(next(lines, ""))
            if high is None:
                raise KernelError(f"nvdisasm listing: no second half of the encoding behind {line.strip()!r}")
            address = int(match[1], 16)
            for label in pending:
                labels[label] = address
            pending.clear()
            raw.append((address, _SCHEDULING.sub("", match[2]), int(high[1], 16) << 64 | int(match[3], 16), source))
            inner, fresh = "", True
        elif match := _LINE.search(line):
            if fresh:
                source, fresh = None, False
            if match[3]:
                inner = inner or f"{match[1]}:{match[2]}"
                source = SourceLine(match[3], int(match[4]), inner)
            else:
                source = SourceLine(match[1], int(match[2]), inner)
        elif match := _LABEL.match(line):
            pending.append(match[1])
            if match[1].startswith(".text."):
                name = name or match[1].removeprefix(".text.")
    if not raw:
        raise KernelError("nvdisasm listing: no instruction in it (made without -c -hex?)")
    end = raw[-1][0] + INSTRUCTION_BYTES
    labels |= dict.fromkeys(pending, end)
    return Listing(name, tuple(_instruction(i, *entry, labels) for i, entry in enumerate(raw)), labels)


def _instruction(index: int, address: int, text: str, encoding: int, source: SourceLine | None,
                 labels: dict[str, int]) -> Instruction:
    guard, negated = None, False
    targets: tuple[int, ...] = ()
    if match := _TARGETS.search(text):
        targets = tuple(labels[label] for label in match[1].split(",") if label in labels)
        text = text[:match.start()].strip()
    if match := _GUARD.match(text):
        negated = bool(match[1])
        if not match[2].endswith("T"):
            bank = UNIFORM_PREDICATE if match[2][0] == "U" else PREDICATE
            guard = bank + int(match[2][-1])
        text = text[match.end():]
    opcode, _, rest = text.partition(" ")
    opcode = opcode.rstrip(";")
    operands = _split_operands(rest)
    base, *modifiers = opcode.split(".")
    if base in _GLOBAL and "E" in modifiers:
        operands = [_SHORT.sub(r"[\1.64", operand) for operand in operands]
    target = None
    for operand in operands:
        if operand.startswith("`("):
            label = operand[2:].rstrip(")")
            if base == "RET":
                continue
            if label not in labels:
                raise KernelError(f"nvdisasm listing: {text!r} at {address:#x} names a label that is not there")
            target = labels[label]
    reads, writes = _registers(base, tuple(modifiers), operands)
    if guard is not None:
        reads.append(guard)
    return Instruction(index, address, opcode, base, tuple(modifiers), guard, negated, tuple(operands),
                       tuple(dict.fromkeys(reads)), tuple(dict.fromkeys(writes)), target, targets, source,
                       Control.decode(encoding >> 64), encoding)
