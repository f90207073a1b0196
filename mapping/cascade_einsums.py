"""Attention as a cascade of einsums, and how many passes over its keys the cascade needs.

One line an einsum: ``OUT[ranks] = operations: IN[ranks] ...``; it iterates over every rank that it names. ``m`` are the keys, ``p`` the
queries, ``e`` and ``f`` the elements of a key and of a value. A cascade that goes over the keys once cuts them into ``m1`` tiles of ``m0``:
``R[m1-1,p]`` is the tensor as the tile before left it, ``R[end,p]`` as the last one did. Heads and batch are outside.

Source of both cascades: FuseMax (MICRO 2024), the numerically stable three-pass softmax, and the one-pass cascade of FlashAttention-2
(arXiv 2307.08691) with the division left to the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ..errors import MappingError, UnknownNameError, shown

#: Scalar operations that an einsum may name.
OPERATIONS: Final = ("mac", "mul", "add", "max", "exp", "div")
_LINE: Final = re.compile(r"^(?P<out>\w+\[[^\]]*\]) = (?P<body>[a-z ]+): (?P<reads>.+)$")
_TENSOR: Final = re.compile(r"(\w+)\[([^\]]*)\]")
_TEXTS: Final = {
    "three-pass": """
        QK[m,p] = mac: Q[p,e] K[m,e]
        M[p] = max: QK[m,p]
        SN[m,p] = add exp: QK[m,p] M[p]
        SD[p] = add: SN[m,p]
        A[m,p] = div: SN[m,p] SD[p]
        AV[f,p] = mac: A[m,p] V[m,f]
    """,
    "one-pass": """
        QK[m1,m0,p] = mac: Q[p,e] K[m1,m0,e]
        LM[m1,p] = max: QK[m1,m0,p]
        RM[m1,p] = max: RM[m1-1,p] LM[m1,p]
        SLN[m1,m0,p] = add exp: QK[m1,m0,p] RM[m1,p]
        SLD[m1,p] = add: SLN[m1,m0,p]
        PRM[m1,p] = add exp: RM[m1-1,p] RM[m1,p]
        SPD[m1,p] = mul: PRM[m1,p] RD[m1-1,p]
        RD[m1,p] = add: SPD[m1,p] SLD[m1,p]
        SLNV[m1,f,p] = mac: SLN[m1,m0,p] V[m1,m0,f]
        SPNV[m1,f,p] = mul: PRM[m1,p] RNV[m1-1,f,p]
        RNV[m1,f,p] = add: SPNV[m1,f,p] SLNV[m1,f,p]
        AV[f,p] = div: RNV[end,f,p] RD[end,p]
    """,
}
#: Cascades by name.
NAMES: Final = tuple(_TEXTS)


@dataclass(frozen=True)
class Access:
    """A tensor as an einsum reads or writes it; a rank may be ``m1-1`` (the tile before) or ``end`` (the last one)."""

    tensor: str
    ranks: tuple[str, ...]

    @property
    def iterated(self) -> frozenset[str]:
        """The ranks that vary."""
        return frozenset(rank.removesuffix("-1") for rank in self.ranks if rank != "end")

    @property
    def before(self) -> bool:
        """Whether it is the tensor of the tile before."""
        return any(rank.endswith("-1") for rank in self.ranks)


@dataclass(frozen=True)
class Einsum:
    """One einsum: its output, scalar operations a point, and inputs."""

    out: Access
    body: Mapping[str, int]
    reads: tuple[Access, ...]

    @property
    def name(self) -> str:
        """Name of what it writes."""
        return self.out.tensor

    @cached_property
    def ranks(self) -> frozenset[str]:
        """Every rank that it iterates over."""
        return self.out.iterated.union(*(access.iterated for access in self.reads))

    def points(self, extents: Mapping[str, int]) -> int:
        """Points of its iteration space."""
        return math.prod(extents[rank] for rank in self.ranks)


@dataclass(frozen=True)
class Cascade:
    """Einsums in an order in which they can run."""

    name: str
    einsums: tuple[Einsum, ...]

    def __getitem__(self, name: str) -> Einsum:
        for einsum in self.einsums:
            if einsum.name == name:
                return einsum
        raise UnknownNameError("einsum", name, [e.name for e in self.einsums], f"cascade {self.name}")

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Tensors that no einsum writes."""
        written = {e.name for e in self.einsums}
        return tuple(dict.fromkeys(a.tensor for e in self.einsums for a in e.reads if a.tensor not in written))

    @cached_property
    def carried(self) -> tuple[str, ...]:
        """Tensors that one tile of keys leaves to the next."""
        return tuple(dict.fromkeys(a.tensor for e in self.einsums for a in e.reads if a.before))

    @cached_property
    def keys(self) -> str:
        """The rank along which the keys are traversed: ``m1`` where they are cut into tiles, else ``m``."""
        return "m1" if any("m1" in e.ranks for e in self.einsums) else "m"

    @cached_property
    def levels(self) -> dict[str, int]:
        """The pass, from 1, in which each einsum runs; see `passes`."""
        level: dict[str, int] = {}
        for einsum in self.einsums:
            found = 1
            for access in einsum.reads:
                if access.tensor in level and not access.before:
                    reduced = self.keys not in access.iterated and self.keys in self[access.tensor].ranks
                    found = max(found, level[access.tensor] + reduced)
            level[einsum.name] = found
        return level

    def passes(self, tensor: str = "QK") -> int:
        """How often the cascade must go over all keys of a tensor.

        An einsum that reads what is known only when all keys have been seen (a reduction over the keys, or the last state of what is
        carried along) belongs to the pass after; what is carried from the tile before belongs to the same one. The passes over a tensor
        are those from the first einsum that reads or writes it to the last that reads it, or a tensor made of it key by key.

        Raises
        ------
        MappingError
            The tensor has no keys.

        >>> cascade("three-pass").passes(), cascade("one-pass").passes()
        (3, 1)
        """
        level = self.levels
        made = {tensor}
        touched: list[int] = []
        for einsum in self.einsums:
            if self.keys in einsum.ranks and (einsum.name == tensor or any(a.tensor in made for a in einsum.reads)):
                touched.append(level[einsum.name])
                if self.keys in einsum.out.iterated:
                    made.add(einsum.name)
        if not touched:
            raise MappingError(f"cascade {self.name}: no einsum goes over keys of {shown(tensor)}")
        return max(touched) - min(touched) + 1


def cascade(name: str) -> Cascade:
    """A cascade by name.

    Raises
    ------
    UnknownNameError
        No such cascade, with the nearest name.

    >>> [e.name for e in cascade("three-pass").einsums]
    ['QK', 'M', 'SN', 'SD', 'A', 'AV']
    """
    if name not in _TEXTS:
        raise UnknownNameError("cascade", str(name), NAMES)
    return parse_cascade(name, _TEXTS[name])


def parse_cascade(name: str, text: str) -> Cascade:
    """A cascade from its lines.

    Raises
    ------
    MappingError
        A line that is no einsum, an unknown operation, or a tensor written twice; names the line.
    """
    einsums: list[Einsum] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        found = _LINE.match(line)
        if found is None:
            raise MappingError(f"cascade {name}: expected OUT[ranks] = operations: IN[ranks] ..., found {shown(line)}")
        words = found["body"].split()
        for word in words:
            if word not in OPERATIONS:
                raise UnknownNameError("operation", word, OPERATIONS, f"cascade {name}: {line}")
        out, *reads = (Access(tensor, tuple(ranks.split(","))) for tensor, ranks in _TENSOR.findall(f"{found['out']} {found['reads']}"))
        if out.tensor in {e.name for e in einsums}:
            raise MappingError(f"cascade {name}: {out.tensor} is written twice")
        einsums.append(Einsum(out, {word: words.count(word) for word in words}, tuple(reads)))
    return Cascade(name, tuple(einsums))
