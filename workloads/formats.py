"""Number formats: how many bits an element costs in memory, and which arithmetic executes it.

Source of the block-scaled layouts: OCP Microscaling Formats (MX) v1.0 (32 elements, one 8-bit scale); NVIDIA NVFP4 (16
elements, one 8-bit fp8 scale); group-wise weight-only integers as in GPTQ and AWQ (128 elements, a 16-bit scale, and a
zero point of the weight's bits).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from ..errors import UnknownNameError
from .sparsity import Sparsity, sparsity_by_name

Execution = Literal["native", "dequantise", "bit-serial", "look-up"]


@dataclass(frozen=True)
class NumberFormat:
    """How one tensor's elements are stored and computed with.

    Attributes
    ----------
    element_bits
        Bits of one element without its share of the group's data.
    group_size, scale_bits, zero_bits
        Elements that share a scale and a zero point (0: none, per tensor), and the bits of those.
    index_bits
        Bits of position information per stored element (sparse formats).
    arithmetic
        Name of the arithmetic that a device needs to execute it natively (``"bf16"``, ``"fp8"``, ``"int8"`` ...).
    execution
        ``"native"``, or how it is brought to its arithmetic: ``"dequantise"``, ``"bit-serial"``, ``"look-up"``.
    sparsity
        Pattern of the zeros that are not stored; None: every element is stored.
    """

    name: str
    element_bits: float
    arithmetic: str
    execution: Execution = "native"
    group_size: int = 0
    scale_bits: float = 0.0
    zero_bits: float = 0.0
    index_bits: float = 0.0
    sparsity: Sparsity | None = None

    @property
    def bits(self) -> float:
        """Bits per element of the dense tensor, its share of scales, zero points and positions included.

        Groups of scales are those of the dense tensor, as sparse formats of quantised weights keep them (Sparse-Marlin).

        >>> by_name("mxfp4").bits, by_name("bf16@2:4").bits
        (4.25, 9.0)
        """
        shared = (self.scale_bits + self.zero_bits) / self.group_size if self.group_size else 0.0
        stored = self.element_bits + self.index_bits
        return shared + (stored if self.sparsity is None else self.sparsity.bits(stored))

    @property
    def dense(self) -> NumberFormat:
        """The same elements, all of them stored."""
        return self if self.sparsity is None else replace(self, name=self.name.partition("@")[0], sparsity=None)

    def sparse(self, sparsity: Sparsity | None) -> NumberFormat:
        """The same elements in another pattern, named ``FORMAT@SCHEME``; None: dense."""
        dense = self.dense
        return dense if sparsity is None else replace(dense, name=f"{dense.name}@{sparsity.name}", sparsity=sparsity)

    @property
    def bytes(self) -> float:
        """Bytes per element: `bits` / 8."""
        return self.bits / 8.0


_FORMATS: Final = {
    f.name: f
    for f in (
        NumberFormat("fp64", 64, "fp64"),
        NumberFormat("fp32", 32, "fp32"),
        NumberFormat("tf32", 32, "tf32"),
        NumberFormat("bf16", 16, "bf16"),
        NumberFormat("fp16", 16, "fp16"),
        NumberFormat("fp8_e4m3", 8, "fp8"),
        NumberFormat("fp8_e5m2", 8, "fp8"),
        NumberFormat("fp8_block", 8, "fp8", group_size=128, scale_bits=32),
        NumberFormat("int8", 8, "int8"),
        NumberFormat("int4", 4, "int4"),
        NumberFormat("w8_g128", 8, "bf16", "dequantise", group_size=128, scale_bits=16),
        NumberFormat("w4_g128", 4, "bf16", "dequantise", group_size=128, scale_bits=16),
        NumberFormat("w4_g128_zero", 4, "bf16", "dequantise", group_size=128, scale_bits=16, zero_bits=4),
        NumberFormat("mxfp8", 8, "fp8", group_size=32, scale_bits=8),
        NumberFormat("mxfp6", 6, "fp8", group_size=32, scale_bits=8),
        NumberFormat("mxfp4", 4, "fp4", group_size=32, scale_bits=8),
        NumberFormat("nvfp4", 4, "fp4", group_size=16, scale_bits=8),
        NumberFormat("int64", 64, "int64"),
        NumberFormat("int32", 32, "int32"),
        NumberFormat("int16", 16, "int32"),
        NumberFormat("uint8", 8, "int8"),
        NumberFormat("bool", 8, "int32"),
        NumberFormat("complex64", 64, "fp32"),
    )
}

_ALIASES: Final = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "float64": "fp64",
    "double": "fp64",
    "fp8": "fp8_e4m3",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
    "float8_e4m3fnuz": "fp8_e4m3",
    "w4a16": "w4_g128",
    "w8a16": "w8_g128",
    "int4_wo": "w4_g128",
    "int8_wo": "w8_g128",
    "w4a16_mxfp4": "mxfp4",
}


def by_name(name: str) -> NumberFormat:
    """Look a format up by its name or a usual alias; unknown names raise with the nearest.

    ``"bf16@2:4"`` is a format with a pattern of zeros (`presilicon.workloads.sparsity.sparsity_by_name`).

    >>> by_name("bfloat16").name
    'bf16'
    """
    if "@" in name:
        return _sparse(name)
    found = _FORMATS.get(_ALIASES.get(name, name))
    if found is None:
        raise UnknownNameError("number format", name, [*_FORMATS, *_ALIASES])
    return found


@lru_cache(maxsize=256)
def _sparse(name: str) -> NumberFormat:
    element, _, scheme = name.partition("@")
    return by_name(element).sparse(sparsity_by_name(scheme))


def names() -> list[str]:
    """Names of all formats, without aliases."""
    return list(_FORMATS)
