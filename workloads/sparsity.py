"""Patterns of zeros in weights: how many elements remain, and what it costs to say where they are."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ..errors import SpecError, UnknownNameError

#: Largest group of an N:M pattern: a position within it takes one byte.
LARGEST_GROUP: Final = 256
#: Schemes with a part of the weights left out wherever they lie, by how the others are stored: bits of position for each stored
#: element, and bits for each element of the dense matrix.
_STORED: Final = {
    "unstructured": (0.0, 1.0 + 32.0 / (64 * 64)),
    "tiled_csl": (16.0, 32.0 / (128 * 64)),
}
#: What error messages offer.
EXAMPLES: Final = ("2:4", "1:4", "4:8", "unstructured:0.6", "tiled_csl:0.8")


@dataclass(frozen=True)
class Sparsity:
    """A pattern of zeros.

    Attributes
    ----------
    name
        ``"2:4"``, ``"unstructured:0.6"``.
    density
        Share of the elements that is stored.
    index_bits
        Bits of position for each stored element.
    mask_bits
        Bits of position for each element of the dense matrix.
    kept, group
        N and M of an N:M pattern, else 0.
    """

    name: str
    density: float
    index_bits: float
    mask_bits: float = 0.0
    kept: int = 0
    group: int = 0

    @property
    def bitmap(self) -> bool:
        """Whether each element of the dense matrix has a bit that says if it is stored."""
        return self.mask_bits >= 1.0

    def bits(self, element_bits: float) -> float:
        """Bits for each element of the dense matrix, of elements so wide.

        >>> sparsity_by_name("2:4").bits(16)
        9.0
        """
        return self.density * (element_bits + self.index_bits) + self.mask_bits


@lru_cache(maxsize=256)
def sparsity_by_name(name: str) -> Sparsity:
    """The pattern that a scheme names.

    ``N:M``
        At most N of M neighbours along the depth of the product are not zero. Each stored element has its place in its group,
        ceil(log2 M) bits; 2:4 is the pattern of sparse tensor cores, whose metadata is 2 bits (NVIDIA, PTX ISA, ``mma.sp``).
    ``unstructured:S``
        A share S of all weights is zero, wherever they lie. A bitmap: one bit an element, and a 4-byte offset for each
        64 x 64 tile, the format TCA-BME of SpInfer (EuroSys 2025; group tiles of its repository, HPMLL/SpInfer_EuroSys25).
    ``tiled_csl:S``
        The same as Tiled-CSL of Flash-LLM (arXiv 2309.10285): a 16-bit place with each stored element, and a 4-byte offset for
        each 128 x 64 tile. Fewer bytes than the bitmap for 16-bit elements only from 93.7 % of zeros on.

    Raises
    ------
    UnknownNameError
        No such scheme, with the nearest.
    SpecError
        N above M, a share of zeros that is not between 0 and 1.

    >>> sparsity_by_name("unstructured:0.6").density
    0.4
    """
    head, colon, tail = str(name).strip().partition(":")
    if colon and re.fullmatch(r"\d+", head) and re.fullmatch(r"\d+", tail):
        return _n_of_m(int(head), int(tail))
    if head in _STORED and colon:
        return _scattered(head, tail)
    if head in _STORED:
        raise SpecError(f"sparsity {name!r}: give the share of weights that are zero, such as {head}:0.6")
    raise UnknownNameError("sparsity scheme", str(name), (*EXAMPLES, *_STORED))


def _n_of_m(kept: int, group: int) -> Sparsity:
    name = f"{kept}:{group}"
    if not 1 <= kept < group <= LARGEST_GROUP:
        raise SpecError(f"sparsity {name!r}: N of M neighbours are kept; expected 1 <= N < M <= {LARGEST_GROUP}")
    return Sparsity(name, kept / group, float(math.ceil(math.log2(group))), kept=kept, group=group)


def _scattered(scheme: str, text: str) -> Sparsity:
    try:
        zeros = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        zeros = math.nan
    if not 0.0 < zeros < 1.0:
        raise SpecError(f"sparsity '{scheme}:{text}': expected the share of weights that are zero, above 0 and below 1; found {text!r}")
    index_bits, mask_bits = _STORED[scheme]
    return Sparsity(f"{scheme}:{zeros:.6g}", round(1.0 - zeros, 12), index_bits, mask_bits)
