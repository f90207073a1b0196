"""Operands of SASS instructions as expressions of Python over ``R`` (register values) and ``K`` (constant bank 0)."""

from __future__ import annotations

import re

from .sass import PREDICATE, UNIFORM, UNIFORM_PREDICATE, Instruction
from .values import M32, M64

_TWO32 = 1 << 32
REGISTER_OPERAND = re.compile(r"^([-~|!]?)(U?R)(Z|\d+)(?:\.(64|U32|H0_H0|H1_H1|B[0-3]|[A-Z0-9_]+))?\|?$")
PREDICATE_OPERAND = re.compile(r"^(!?)(U?P)(T|\d)$")
CONSTANT = re.compile(r"^([-~|]?)c\[0x0\]\[0x([0-9a-f]+)\]\|?$")
CONSTANT_INDEXED = re.compile(r"^c\[0x([0-9a-f]+)\]\[(U?RZ|U?R\d+)?\+?(?:(-?)0x([0-9a-f]+))?\]$")
IMMEDIATE = re.compile(r"^(-?)0x([0-9a-f]+)$")


class NotModelledError(Exception):
    """This form of the instruction has no meaning here yet."""


def flag(text: str) -> str:
    """Expression of a predicate operand."""
    match = PREDICATE_OPERAND.match(text)
    if not match:
        raise NotModelledError
    if match[3] == "T":
        return "False" if match[1] else "True"
    place = (UNIFORM_PREDICATE if match[2] == "UP" else PREDICATE) + int(match[3])
    return f"(R[{place}] ^ True)" if match[1] else f"R[{place}]"


def register_number(match: re.Match[str]) -> int:
    """Number of the register that `REGISTER_OPERAND` matched."""
    return (UNIFORM if match[2] == "UR" else 0) + int(match[3])


def word(text: str) -> str:
    """Expression of a 32-bit operand; a minus gives 2**32 minus the value, which carries out as hardware's does."""
    if match := REGISTER_OPERAND.match(text):
        if match[1] == "|" or match[4] in ("H0_H0", "H1_H1", "B0", "B1", "B2", "B3"):
            raise NotModelledError
        inner = "0" if match[3] == "Z" else f"R[{register_number(match)}]"
        return {"": inner, "-": f"({_TWO32} - {inner})", "~": f"({inner} ^ M)", "!": inner}[match[1]]
    if match := CONSTANT.match(text):
        inner = f"K[{int(match[2], 16)}]"
        if match[1] == "|":
            raise NotModelledError
        return {"": inner, "-": f"({_TWO32} - {inner})", "~": f"({inner} ^ M)"}[match[1]]
    if match := IMMEDIATE.match(text):
        value = int(match[2], 16)
        return str((-value if match[1] else value) & M32)
    raise NotModelledError


def double(text: str) -> str:
    """Expression of a 64-bit operand: a register pair, two constants, or a sign-extended immediate."""
    if match := REGISTER_OPERAND.match(text):
        if match[1] not in ("", "-"):
            raise NotModelledError
        if match[3] == "Z":
            return "0"
        n = register_number(match)
        inner = f"(R[{n}] | R[{n + 1}] << 32)"
        return f"((M64 - {inner} + 1) & M64)" if match[1] else inner
    if match := CONSTANT.match(text):
        at = int(match[2], 16)
        inner = f"(K[{at}] | K[{at + 4}] << 32)"
        return f"((M64 - {inner} + 1) & M64)" if match[1] == "-" else inner
    if match := IMMEDIATE.match(text):
        value = int(match[2], 16)
        return str((-value if match[1] else value) & M64)
    raise NotModelledError


def guard_of(ins: Instruction) -> str:
    """Expression of an instruction's guard."""
    if ins.guard is None:
        return "False" if ins.guard_negated else "True"
    return f"(R[{ins.guard}] ^ True)" if ins.guard_negated else f"R[{ins.guard}]"
