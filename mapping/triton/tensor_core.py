"""Shapes of tensor-core instructions, from their SASS names or from tcgen05 instruction descriptors."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Shape digits in SASS names, as (m, n, k).
_WARP_SHAPES = {
    "16816": (16, 8, 16), "1688": (16, 8, 8), "1684": (16, 8, 4), "884": (8, 8, 4), "8816": (8, 8, 16), "8832": (8, 8, 32),
    "16832": (16, 8, 32), "16864": (16, 8, 64), "168128": (16, 8, 128), "168256": (16, 8, 256), "88128": (8, 8, 128),
}
_BITS = {"TF32": 32, "BF16": 16, "F16": 16, "E4M3": 8, "E5M2": 8, "S8": 8, "U8": 8, "S4": 4, "U4": 4, "E2M1": 4, "E3M2": 6,
         "E2M3": 6, "B1": 1, "F64": 64}
_DEFAULT_BITS = {"HMMA": 16, "IMMA": 8, "QMMA": 8, "DMMA": 64, "OMMA": 4, "BMMA": 1, "HGMMA": 16, "QGMMA": 8, "IGMMA": 8,
                 "BGMMA": 1, "UTCHMMA": 16, "UTCQMMA": 8, "UTCIMMA": 8, "UTCOMMA": 4}
WARP_LEVEL = frozenset({"HMMA", "IMMA", "QMMA", "DMMA", "OMMA", "BMMA"})
WARPGROUP_LEVEL = frozenset({"HGMMA", "QGMMA", "IGMMA", "BGMMA"})
TCGEN05 = frozenset({"UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA"})
TENSOR_CORE = WARP_LEVEL | WARPGROUP_LEVEL | TCGEN05


@dataclass(frozen=True)
class MatrixShape:
    """Extents of one matrix instruction, and how many warps execute it together (1, or 4 for a warpgroup)."""

    m: int
    n: int
    k: int
    warps: int = 1

    @property
    def flops(self) -> int:
        """Multiply and add counted apart: 2 m n k."""
        return 2 * self.m * self.n * self.k


def warp_shape(base: str, modifiers: tuple[str, ...]) -> tuple[int, int, int]:
    """(m, n, k) of a warp-level instruction; (16, 8, 16) where the name carries no shape.

    Examples
    --------
    >>> warp_shape("HMMA", ("16816", "F32", "BF16"))
    (16, 8, 16)
    """
    for name in modifiers:
        digits = name.replace("x", "")
        if digits in _WARP_SHAPES:
            return _WARP_SHAPES[digits]
    return 16, 8, 16


def element_bits(base: str, modifiers: tuple[str, ...]) -> int:
    """Bits of an element of A as the instruction reads it."""
    named = [_BITS[name] for name in modifiers if name in _BITS and name != "F16"]
    return named[0] if named else _DEFAULT_BITS.get(base, 16)


def static_shape(base: str, modifiers: tuple[str, ...]) -> MatrixShape | None:
    """Shape of an instruction whose name carries it; None for tcgen05, whose descriptor carries it.

    Examples
    --------
    >>> static_shape("HGMMA", ("64x256x16", "F32", "BF16"))
    MatrixShape(m=64, n=256, k=16, warps=4)
    """
    if base in WARP_LEVEL:
        return MatrixShape(*warp_shape(base, modifiers))
    if base in WARPGROUP_LEVEL:
        for name in modifiers:
            if match := re.fullmatch(r"(\d+)x(\d+)x(\d+)", name):
                return MatrixShape(int(match[1]), int(match[2]), int(match[3]), 4)
    return None


def descriptor_shape(base: str, modifiers: tuple[str, ...], descriptor: int) -> MatrixShape:
    """Shape of a tcgen05 MMA from its 32-bit instruction descriptor.

    Bits 17 to 22 hold N / 8 and bits 24 to 28 M / 16 (PTX ISA, "Instruction descriptor" of tcgen05.mma; for the
    block-scaled kinds M / 128 lies in bits 27 and 28); bits 7 to 9 are A's format, 2 being tf32. K is 32 bytes of A.
    One thread issues for the CTA, or for a pair of CTAs (``.2CTA``).
    """
    n = (descriptor >> 17 & 0x3F) * 8
    m = (descriptor >> 24 & 0x1F) * 16
    if base == "UTCHMMA":
        k = 8 if descriptor >> 7 & 7 == 2 else 16
    elif base == "UTCOMMA":
        m, k = (descriptor >> 27 & 3) * 128, 64
    else:
        k = 32
    return MatrixShape(m, n, k)
