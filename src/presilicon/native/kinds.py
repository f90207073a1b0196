"""Numbers and arrays as compiled code knows them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

#: Kinds of numbers: truth value, signed, unsigned, float, and a literal that becomes what stands beside it.
TRUTH, SIGNED, UNSIGNED, FLOAT, LITERAL = "b", "i", "u", "f", "l"
LLVM: Final = {TRUTH: "i1", SIGNED: "i64", UNSIGNED: "i64", FLOAT: "double", LITERAL: "i64"}
#: Element types of arrays: in memory, and the kind of what is read.
ELEMENTS: Final = {"b1": ("i8", TRUTH), "i1": ("i8", SIGNED), "i2": ("i16", SIGNED), "i4": ("i32", SIGNED), "i8": ("i64", SIGNED),
                    "u1": ("i8", UNSIGNED), "u2": ("i16", UNSIGNED), "u4": ("i32", UNSIGNED), "u8": ("i64", UNSIGNED),
                    "f4": ("float", FLOAT), "f8": ("double", FLOAT)}


class UntranslatableError(TypeError):
    """Code that is not of the small part of Python that can be compiled."""


@dataclass(frozen=True)
class Number:
    """A number: its kind, and the text that names it (of a literal its digits)."""

    kind: str
    text: str


@dataclass(frozen=True)
class Array:
    """An array in C order: element type, address and extents."""

    element: str
    data: str
    shape: tuple[str, ...]


#: What is said of an argument: the kind of a number, or element type and rank of an array.
Argument = str | tuple[str, int]


def argument_of(value: Any) -> Argument:
    """What the code needs to know of an argument.

    Raises
    ------
    UntranslatableError
        Neither a number nor an array in C order.
    """
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise UntranslatableError(f"an array of shape {value.shape} is not in C order")
        return value.dtype.str[1:], value.ndim
    if isinstance(value, (bool, np.bool_)):
        return TRUTH
    if isinstance(value, np.unsignedinteger):
        return UNSIGNED
    if isinstance(value, (int, np.integer)):
        return SIGNED
    if isinstance(value, (float, np.floating)):
        return FLOAT
    raise UntranslatableError(f"{type(value).__name__} is neither a number nor an array")


def joined(one: str, other: str) -> str | None:
    """The kind that holds both; None where signed meets unsigned."""
    if one == other:
        return one
    kinds = {one, other}
    if FLOAT in kinds:
        return FLOAT
    if kinds == {SIGNED, UNSIGNED}:
        return None
    return UNSIGNED if UNSIGNED in kinds else SIGNED


@dataclass(frozen=True)
class Open(Number):
    """A name to which only literals have been assigned so far: a signed integer, unless what stands beside it says otherwise."""


def struct_of(kinds: Sequence[str]) -> str:
    """LLVM's type of several numbers."""
    return "{" + ", ".join(LLVM[kind] for kind in kinds) + "}"


def real(value: float) -> str:
    """A float as LLVM writes it."""
    return "0x" + struct.pack(">d", value).hex().upper()
