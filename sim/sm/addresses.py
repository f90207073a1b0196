"""Where the CTAs of a launch begin their accesses: one warp of each followed, until its loops repeat or to its end."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np

from ...mapping.triton import CompiledKernel, Launch, take_apart
from ...mapping.triton.access import SECTOR_BYTES
from ...mapping.triton.execute import Execution
from ...mapping.triton.group import Group, Lanes, WholeWarpError
from ...mapping.triton.made_maps import common
from ...mapping.triton.values import Unknown, Value, settled
from .classes import program_ids
from .warps import SAMPLED_LANES, EnoughError, followed_warps, one_warp

#: Segments of a warp that are followed at most.
_STEPS = 240
#: Executions of one instruction after which its loop is known.
_REPEATS = 3


class _Peek(Execution):
    """Follows one warp a CTA and keeps the first address of each access."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.equal = self.constants.equal
        self.first: dict[int, np.ndarray] = {}
        self.times: dict[int, int] = {}

    def _on(self, guard: Value, at: np.ndarray, lanes: Lanes) -> np.ndarray:
        """Which warps have an active lane, `at`; of sampled lanes the first is the one that counts."""
        if type(guard) is not np.ndarray:
            return np.ones(len(at), dtype=bool)
        if self.sampled and (at != lanes.starts).any():
            raise WholeWarpError
        return guard[at]

    def _note(self, index: int, group: Group, guard: Value, address: Value) -> None:
        self.times[index] = self.times.get(index, 0) + 1
        if self.steps > _STEPS * (self.threads // 32) or (self.times[index] > _REPEATS and self.steps > len(self.segments)):
            raise EnoughError
        found = self._begun(group, guard, address)
        if found is None:
            return
        ctas, many = found
        kept = self.first.setdefault(index, np.full(len(self.program_ids), -1, dtype=np.int64))
        new = kept[ctas] < 0
        kept[ctas[new][::-1]] = many[new][::-1]  # of a CTA's warps the first counts

    def _begun(self, group: Group, guard: Value, address: Value) -> tuple[np.ndarray, np.ndarray] | None:
        """CTA and address of the first lane of each warp at work, as if all lanes were where data decides; None if it is not known."""
        guard, address = settled(guard), settled(address, settled(guard))
        address = self.reached(guard, address)
        if type(address) is Unknown or guard is False:
            return None
        lanes = group.lanes
        at = lanes.first(guard if type(guard) is np.ndarray else None)
        on = self._on(guard, at, lanes)
        many = address[at].astype(np.int64) if type(address) is np.ndarray else np.full(len(at), address, dtype=np.int64)
        return (lanes.ids[at] // self.threads)[on], many[on]

    def access(self, index: int, group: Group, guard: Value, address: Value) -> None:
        if self._ops[index].space == "global":
            self._note(index, group, guard, address)

    def copied(self, index: int, group: Group, guard: Value, address: Value, counted: bool, source: Value = None,
               condition: Value = True) -> None:
        if self.shared is not None:
            super().copied(index, group, guard, address, False, source, condition)

    def sync(self, index: int, group: Group, guard: Value, address: Value, value: Value) -> None:
        return

    def bulk(self, index: int, group: Group, guard: Value, shared: Value, coordinates: tuple[Value, ...], descriptor: Value) -> None:
        key: Value = 0
        if type(descriptor) is int:
            descriptor = common(descriptor, self.equal)
        elif type(descriptor) is np.ndarray:
            descriptor = np.array([common(int(one), self.equal) for one in descriptor], dtype=np.uint64)
        for part in (*coordinates, descriptor):
            if type(part) is Unknown:
                return
            key = (key * 1_000_003 + part) & 0x7FFFFFFFFFFF
        self._note(index, group, guard, key)


class _Walk(_Peek):
    """Follows one warp a CTA to its end and keeps every address that it begins an access with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.touches: list[tuple[int, np.ndarray, np.ndarray]] = []

    def _note(self, index: int, group: Group, guard: Value, address: Value) -> None:
        found = self._begun(group, guard, address)
        if found is not None:
            ctas, leads = np.unique(found[0], return_index=True)  # one warp of each CTA counts
            self.touches.append((index, ctas, found[1][leads]))


def first_addresses(compiled: CompiledKernel, launch: Launch, ids: np.ndarray, wanted: Iterable[int] = (),
                    lanes: tuple[int, ...] = SAMPLED_LANES) -> dict[int, np.ndarray]:
    """First address of a CTA at each access to global memory, by instruction: int64 of shape (len(ids),), -1 where not known.

    Warp 0 is followed, and where it has not all that is `wanted`, the others too.
    """
    found: dict[int, np.ndarray] = {}
    for program in (one_warp(compiled, addresses="global"), take_apart(compiled, addresses="global")):
        for start, peek in followed_warps(program, launch, ids, _Peek, lanes):
            for index, addresses in peek.first.items():
                found.setdefault(index, np.full(len(ids), -1, dtype=np.int64))[start:start + len(addresses)] = addresses
        if not _missed(found, wanted):
            break
    return found


def _missed(found: Container[int], wanted: Iterable[int]) -> bool:
    """Whether there is an access that warp 0 does not come to: other warps have to be followed too."""
    return any(index not in found for index in wanted)


def walks(compiled: CompiledKernel, launch: Launch, others: frozenset[int], lanes: tuple[int, ...], waves: Sequence[np.ndarray],
          loads: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By wave: instruction, CTA and sector (of bulk copies: box) of every access of warp 0 by `loads`, each CTA's in order.

    What only other warps do (`others`) comes from one of them.
    """
    wanted = set(loads)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64),) * 3]
    for program in (one_warp(compiled, addresses="global"), take_apart(compiled, addresses="global")):
        seen: set[int] = set()
        for start, walk in followed_warps(program, launch, program_ids(launch, np.concatenate(waves)), _Walk, lanes):
            for index, ctas, addresses in walk.touches:
                if index in wanted:
                    key = addresses // SECTOR_BYTES if index in program.memory_ops else addresses
                    parts.append((np.full(len(ctas), index, np.int64), start + ctas, key))
                    seen.add(index)
        wanted = set(others - seen)
        if not wanted:
            break
    return by_wave(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]),
                   np.concatenate([part[2] for part in parts]), waves)


def by_wave(index: np.ndarray, cta: np.ndarray, key: np.ndarray,
            waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Instruction, CTA (its place in the wave) and key of accesses by wave."""
    edges = np.cumsum([0, *map(len, waves)])
    wave = np.searchsorted(edges, cta, side="right") - 1
    picks = [np.flatnonzero(wave == n) for n in range(len(waves))]
    return [(index[at], cta[at] - edges[n], key[at]) for n, at in enumerate(picks)]
