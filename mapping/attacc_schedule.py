"""The stretches between two barriers in which decode attention on an AttAcc stack goes, as `presilicon.sim.dram.attacc` plays them.

Two heads are interleaved, so that moves and softmax of one hide behind the products of the other (the public trace generators).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..arch.dram import DramDevice
from .attacc_time import MOVED

#: Byte within a bank at which values start (8 MiB: half of the bank), as in the public trace generators.
VALUES = 1 << 23
#: Moves before, first column and number of MACs, moves behind, columns by which the head begins inside of a row (units at bank groups):
#: one stretch. Moves by their bank.
Stretch = tuple[Sequence[int], int, int, Sequence[int], int]


@dataclass(frozen=True)
class Shape:
    """Columns and moves of one head; as `presilicon.sim.dram.attacc` lays it out."""

    device: DramDevice
    keys: int
    head_dim: int
    lanes: int
    level: str

    @property
    def across(self) -> int:
        """Units that share the head dimension."""
        return self.device.organisation.banks if self.level == "bank" else 1

    @property
    def split(self) -> int:
        """Units that share the keys."""
        org = self.device.organisation
        return org.pseudo_channels * (1 if self.level == "buffer" else org.ranks * org.bank_groups)

    @property
    def own(self) -> int:
        """Keys of a unit."""
        return math.ceil(self.keys / self.split)

    def column(self, offset: int) -> int:
        """First column of a matrix that starts at a byte of each bank."""
        org = self.device.organisation
        if self.level == "bank":
            return offset // org.column_bytes
        if self.level == "bg":
            return offset // org.row_bytes * org.columns * org.banks
        # A head may begin inside of a row; columns go round all banks.
        return offset // org.column_bytes * org.ranks * org.bank_groups * org.banks

    def askew(self, offset: int) -> int:
        """Columns by which a matrix that starts at a byte of each bank begins inside of a row, where that changes pages."""
        org = self.device.organisation
        return offset % org.row_bytes // org.column_bytes if self.level == "bg" else 0

    def groups(self, ranks_first: bool) -> list[int]:
        """First bank of each bank group."""
        org = self.device.organisation
        if self.level == "buffer":
            return [0]
        found = [rank * org.bank_groups * org.banks + group * org.banks for rank in range(org.ranks) for group in range(org.bank_groups)]
        return found if ranks_first else sorted(found, key=lambda bank: (bank % (org.bank_groups * org.banks), bank))

    def query(self) -> list[int]:
        """Writes of the query."""
        return [bank for bank in range(self.across) for _ in range(math.ceil(self.head_dim / self.across / self.lanes))]

    def back(self) -> list[int]:
        """Moves of the probabilities."""
        return [bank for bank in self.groups(True) for _ in range(math.ceil(self.keys / (self.split * self.lanes)))]

    def results(self) -> list[int]:
        """Moves of a part of the result."""
        org = self.device.organisation
        if self.level == "buffer":
            return [0]
        return [rank * org.bank_groups * org.banks + bank for bank in range(self.across) for rank in range(org.ranks)]

    def score(self, offset: int) -> list[tuple[int, int, int]]:
        """First column and MACs of every 16 keys, and how far askew they lie."""
        per_key = math.ceil(self.head_dim / self.across / self.lanes)
        start, askew = self.column(offset), self.askew(offset)
        return [(start + at * per_key, min(MOVED, self.own - at) * per_key, askew) for at in range(0, self.own, MOVED)]

    def context(self, offset: int) -> list[tuple[int, int, int]]:
        """First column and MACs of every part of the result, and how far askew they lie."""
        start, askew = self.column(offset + VALUES), self.askew(offset + VALUES)
        return [(start + at * self.own, self.own, askew) for at in range(math.ceil(self.head_dim / (self.across * self.lanes)))]


def _spread(items: list[int], chunks: int, shares: int, lanes: int) -> list[list[int]]:
    """Moves of one head beside the products of another, as the public generators spread them."""
    stride = len(items) * lanes // shares
    cut: list[list[int]] = [[] for _ in range(chunks)]
    for index, item in enumerate(items):
        share = index * lanes // stride if stride else shares
        if share < shares:
            cut[chunks - shares + share].append(item)
    return cut


def _phase(pending: list[int], macs: list[tuple[int, int, int]], moves: list[int], first: list[int], beside: list[list[int]],
           ) -> tuple[list[Stretch], list[int]]:
    """Stretches of a phase after moves that are still to do; and the moves that it leaves."""
    found: list[Stretch] = []
    for index, (start, count, askew) in enumerate(macs):
        found.append((pending if index == 0 else [], start, count, [*(moves if index else first), *beside[index]], askew))
    return found, moves


def stretches(shape: Shape, heads: int, apart: int) -> Iterator[Stretch]:
    """The busiest channel's stretches: two heads interleaved, a last odd one alone."""
    channels = shape.device.organisation.channels
    rounds = math.ceil(heads / channels)
    pending: list[int] = []
    query, back, moves, results = shape.query(), shape.back(), shape.groups(False), shape.results()
    for index in range(0, rounds - 1, 2):
        one, two = shape.score(index * apart), shape.score((index + 1) * apart)
        values = shape.context(index * apart)
        chunks, parts = len(one), len(values)
        busy = [min(channels, heads - turn * channels) for turn in (index, index + 1)]
        none: list[list[int]] = [[] for _ in range(max(chunks, parts))]
        yield [*pending, *query], one[0][0], int(index == 0), [], one[0][2]
        found, pending = _phase([], one, moves, [], _spread(query, chunks, chunks, busy[1]))
        yield from found
        found, pending = _phase(pending, two, moves, [0], _spread(back, chunks, chunks - chunks // 2, busy[0]))
        yield from found
        found, pending = _phase(pending, values, results, [0], _spread(back, parts, parts - parts // 2, busy[1]))
        yield from found
        found, pending = _phase(pending, values, results, [], none)
        yield from found
    if rounds % 2:
        one, values = shape.score((rounds - 1) * apart), shape.context((rounds - 1) * apart)
        none = [[] for _ in range(max(len(one), len(values)))]
        yield [*pending, *query], 0, 0, [], 0
        found, pending = _phase([], one, moves, [], none)
        yield from found
        yield [*pending, 0, *back], 0, 0, [], 0
        found, pending = _phase([], values, results, [], none)
        yield from found
    yield pending, 0, 0, [], 0
