"""What the CTAs of a launch share in L2, from the addresses with which they begin.

CTAs that run together and read the same bytes at about the same time cost DRAM once: of what a wave of CTAs asks for, the distinct part
that no earlier wave has left in L2 comes from DRAM. To know it for a whole wave, one warp of every CTA of it is followed until its loops
repeat, and its first address at each load names the stream of bytes that the CTA reads there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...mapping.triton import CompiledKernel, Evaluation, Launch
from ...mapping.triton.access import SECTOR_BYTES
from ...mapping.triton.execute import Execution
from ...mapping.triton.group import Group, Lanes, WholeWarpError
from ...mapping.triton.values import Unknown, Value, settled
from .classes import program_ids
from .warps import EnoughError, followed_warps, one_warp

#: Segments that are followed at most.
_STEPS = 240
#: Executions of one instruction after which its loop is known.
_REPEATS = 3


class _Peek(Execution):
    """Follows one warp a CTA and keeps the first address of each access."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
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
        if self.steps > _STEPS or (self.times[index] > _REPEATS and self.steps > len(self.segments)):
            raise EnoughError
        guard, address = settled(guard), settled(address, settled(guard))
        if type(address) is Unknown or type(guard) is Unknown or guard is False:
            return
        lanes = group.lanes
        at = lanes.first(guard if type(guard) is np.ndarray else None)
        on = self._on(guard, at, lanes)
        many = address[at] if type(address) is np.ndarray else np.full(len(at), address, dtype=np.uint64)
        kept = self.first.setdefault(index, np.full(len(self.program_ids), -1, dtype=np.int64))
        ctas = lanes.ids[at] // self.threads
        new = on & (kept[ctas] < 0)
        kept[ctas[new]] = many[new].astype(np.int64)

    def access(self, index: int, group: Group, guard: Value, address: Value) -> None:
        if self._ops[index].space == "global":
            self._note(index, group, guard, address)

    def copied(self, index: int, group: Group, guard: Value, address: Value, counted: bool) -> None:
        return

    def sync(self, index: int, group: Group, guard: Value, address: Value, value: Value) -> None:
        return

    def bulk(self, index: int, group: Group, guard: Value, shared: Value, coordinates: tuple[Value, ...], descriptor: Value) -> None:
        key: Value = 0
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
        guard, address = settled(guard), settled(address, settled(guard))
        if type(address) is Unknown or type(guard) is Unknown or guard is False:
            return
        lanes = group.lanes
        at = lanes.first(guard if type(guard) is np.ndarray else None)
        on = self._on(guard, at, lanes)
        many = address[at].astype(np.int64) if type(address) is np.ndarray else np.full(len(at), address, dtype=np.int64)
        self.touches.append((index, (lanes.ids[at] // self.threads)[on], many[on]))


def first_addresses(compiled: CompiledKernel, launch: Launch, ids: np.ndarray) -> dict[int, np.ndarray]:
    """First address of warp 0 at each access to global memory, by instruction: int64 of shape (len(ids),), -1 where not known."""
    found: dict[int, np.ndarray] = {}
    for start, peek in followed_warps(one_warp(compiled, addresses="global"), launch, ids, _Peek):
        for index, addresses in peek.first.items():
            found.setdefault(index, np.full(len(ids), -1, dtype=np.int64))[start:start + len(addresses)] = addresses
    return found


@dataclass(frozen=True)
class Sharing:
    """How much of what each load asks of L2 comes from DRAM.

    Attributes
    ----------
    dram
        float64 of shape (phases, instructions): bytes of DRAM per byte that the SMs ask for.
    missing
        The same shape: share of the requests that wait for DRAM, those that ride on another SM's miss included.
    l2
        The same shape: bytes of L2's slices per byte asked for; the SMs of one cluster of processors (TPC) that ask for a line together
        are served once.
    waves
        Wave of CTAs that each phase stands for.
    """

    dram: np.ndarray
    missing: np.ndarray
    l2: np.ndarray
    waves: tuple[str, ...] = ("first", "steady", "last")


def sharing(compiled: CompiledKernel, launch: Launch, run: Evaluation, *, together: int, capacity_bytes: float,
            merge: int = 2, warm: bool = False) -> Sharing:
    """Sharing of the waves of a launch.

    Parameters
    ----------
    run
        One CTA, followed to its end.
    together
        CTAs that the GPU holds at once.
    capacity_bytes
        What L2 keeps.
    merge
        SMs whose requests of one line are served once.
    warm
        Operands were used just before the launch, so that L2 still holds what of them fits.
    """
    programs, count = launch.programs, len(run.program.listing.instructions)
    waves = -(-programs // together)
    picked = sorted({0, 1, *range(max(0, waves // 2 - 1), min(waves, waves // 2 + 2)), waves - 1} & set(range(waves)))
    if together * len(picked) > 6000:
        picked = sorted({0, min(1, waves - 1)})
    numbers = [np.arange(w * together, min(programs, (w + 1) * together)) for w in picked]
    addresses = first_addresses(compiled, launch, program_ids(launch, np.concatenate(numbers)))
    loads, bytes_of = _loads(run)
    edges = np.concatenate([[0], np.cumsum([len(n) for n in numbers])])
    dram = np.ones((3, count))
    missing = np.ones((3, count))
    slices = np.ones((3, count))
    found = np.zeros((len(picked), count, 3))
    classes: dict[bytes, list[int]] = {}
    for index in loads:
        if index in addresses:
            keys = addresses[index] // SECTOR_BYTES if index in run.tallies else addresses[index]
            classes.setdefault(np.unique(keys, return_inverse=True)[1].tobytes(), []).append(index)
    last: list[dict[int, float]] = [{} for _ in classes]
    position = 0.0
    for n, _ in enumerate(picked):
        if n and picked[n] != picked[n - 1] + 1:
            position += together * sum(bytes_of[i] for i in loads) * 0.1
        moved = 0.0
        for number, members in enumerate(classes.values()):
            keys = addresses[members[0]][edges[n]:edges[n + 1]] // SECTOR_BYTES
            unique, times = np.unique(keys, return_counts=True)
            size = sum(bytes_of[i] for i in members)
            fresh = np.array([position - last[number].get(int(k), -1e30) > capacity_bytes for k in unique])
            for k in unique.tolist():
                last[number][k] = position
            found[n, members, 0] = fresh.sum() / len(keys)
            found[n, members, 1] = times[fresh].sum() / len(keys)
            found[n, members, 2] = _merged(keys, merge)
            moved += len(unique) * size
        position += moved
    known = [i for members in classes.values() for i in members]
    weight = np.array([bytes_of[i] for i in known]) if known else np.zeros(0)
    for phase, at in enumerate((0, max(0, len(picked) - 2), len(picked) - 1)):
        if not known:
            break
        mean = (found[at, known] * weight[:, None]).sum(axis=0) / max(weight.sum(), 1e-9)
        for n, part in enumerate((dram, missing, slices)):
            part[phase] = mean[n]
            part[phase, known] = found[at, known, n]
    return _within_buffers(Sharing(dram, missing, slices), launch, addresses, loads, bytes_of, programs, waves, capacity_bytes, warm)


#: Waves of CTAs that are walked through, by the share of the launch's work that is done when they begin; and windows in which those of a
#: wave go on together, at most.
_WALKED, _WINDOWS = (0.0, 0.35, 0.65, 1.0), 64


def sharing_of_walks(compiled: CompiledKernel, launch: Launch, runs: Sequence[Evaluation], *, together: int, work: np.ndarray,
                     capacity_bytes: float, merge: int = 2, warm: bool = False) -> Sharing:
    """Sharing where CTAs go different ways: from every address of some waves of CTAs, the first, the last and two between.

    The waves are those that begin when given shares of the launch's work are done: CTAs that leave at once do not stand for others.

    CTAs of a wave go on at the same pace in bytes. What one of them asks for comes from DRAM unless the wave has touched it since
    `capacity_bytes` of other bytes went by, whichever instruction touched it.

    Parameters
    ----------
    runs
        CTAs that were followed to their end, at least one of each way.
    work
        Instructions of each CTA, in order of launch.
    together, capacity_bytes, merge, warm
        As `sharing` takes them.
    """
    programs, count = launch.programs, len(runs[0].program.listing.instructions)
    waves = -(-programs // together)
    done = np.cumsum(np.add.reduceat(np.where(work > 0.05 * work.max(), work, 0.0), np.arange(0, programs, together)))
    picked = sorted({int(np.searchsorted(done, share * done[-1] * (1.0 - 1e-9), side="right")) for share in _WALKED})
    numbers = [np.arange(w * together, min(programs, (w + 1) * together)) for w in picked]
    each, loads = _bytes_each(runs)
    walks = _walks(compiled, launch, numbers, loads)
    dram, missing, slices = np.ones((3, count)), np.ones((3, count)), np.ones((3, count))
    distinct, inverse = np.unique(np.concatenate([walk[2] for walk in walks]), return_inverse=True)
    last = np.full(len(distinct), -1e30)
    parts = np.split(np.asarray(inverse).reshape(-1), np.cumsum([len(walk[2]) for walk in walks])[:-1])
    position = 0.0
    found = np.zeros((len(picked), count, 4))
    for n, ((index, cta, _), key) in enumerate(zip(walks, parts, strict=True)):
        if n and picked[n] != picked[n - 1] + 1:
            position += capacity_bytes * 0.1 * (picked[n] - picked[n - 1] - 1)
        size = each[index]
        order = np.argsort(cta, kind="stable")
        so_far = np.cumsum(size[order])
        begins = np.searchsorted(cta[order], np.arange(len(numbers[n])))
        so_far -= np.concatenate([[0.0], so_far])[begins][cta[order]]
        windows = min(_WINDOWS, max(1, int(4 * size.sum() / max(capacity_bytes, 1.0)) + 1))
        window = np.empty(len(index), dtype=np.int64)
        pace = (so_far - size[order]) / max(float(so_far.max(initial=1.0)), 1.0)
        window[order] = np.minimum(windows - 1, (pace * windows).astype(np.int64))
        for w in range(windows):
            at = np.flatnonzero(window == w)
            if not len(at):
                continue
            unique, back, times = np.unique(key[at], return_inverse=True, return_counts=True)
            back = np.asarray(back).reshape(-1)
            fresh = position - last[unique] > capacity_bytes
            last[unique] = position
            weight = fresh / times
            np.add.at(found[n, :, 0], index[at], 1.0)
            np.add.at(found[n, :, 1], index[at], weight[back])
            np.add.at(found[n, :, 2], index[at], fresh[back].astype(float))
            position += float((np.bincount(back, weights=size[at]) / times).sum())
        for i in np.unique(index).tolist():
            mine = index == i
            first = np.full(len(numbers[n]), -1, dtype=np.int64)
            first[cta[mine][::-1]] = key[mine][::-1]
            found[n, i, 3] = _merged(first, merge)
    between = list(range(1, len(picked) - 1)) or [min(1, len(picked) - 1)]
    for phase, at_waves in enumerate(([0], between, [len(picked) - 1])):
        touches = found[at_waves].sum(axis=0)
        seen = touches[:, 0] > 0
        if not seen.any():
            continue
        ratio = touches / np.maximum(touches[:, :1], 1.0)
        weight = touches[:, 0] * each
        mean = (ratio * weight[:, None]).sum(axis=0) / max(weight.sum(), 1e-9)
        for column, part in ((1, dram), (2, missing)):
            part[phase] = np.where(seen, ratio[:, column], mean[column])
        slices[phase, seen] = np.mean([found[n, seen, 3] for n in at_waves], axis=0)
    walked = {i: np.concatenate([walk[2][walk[0] == i] for walk in walks]) * SECTOR_BYTES for i in loads}
    touched = np.bincount(np.concatenate([walk[0] for walk in walks]), minlength=count) / sum(len(chunk) for chunk in numbers)
    mean_bytes = {i: float(touched[i] * each[i]) for i in loads}
    return _within_buffers(Sharing(dram, missing, slices), launch, walked, loads, mean_bytes, programs, waves, capacity_bytes, warm)


def _walks(compiled: CompiledKernel, launch: Launch, waves: Sequence[np.ndarray],
           loads: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """By wave: instruction, CTA and sector (of bulk copies: box) of every access of warp 0 by `loads`, each CTA's in order."""
    program, wanted = one_warp(compiled, addresses="global"), frozenset(loads)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64),) * 3]
    for start, walk in followed_warps(program, launch, program_ids(launch, np.concatenate(waves)), _Walk):
        for index, ctas, addresses in walk.touches:
            if index in wanted:
                key = addresses // SECTOR_BYTES if index in program.memory_ops else addresses
                parts.append((np.full(len(ctas), index, np.int64), start + ctas, key))
    whole = [np.concatenate([part[n] for part in parts]) for n in range(3)]
    edges = np.cumsum([0, *map(len, waves)])
    wave = np.searchsorted(edges, whole[1], side="right") - 1
    picks = [np.flatnonzero(wave == n) for n in range(len(waves))]
    return [(whole[0][at], whole[1][at] - edges[n], whole[2][at]) for n, at in enumerate(picks)]


def _bytes_each(runs: Sequence[Evaluation]) -> tuple[np.ndarray, list[int]]:
    """Bytes (whole sectors) that all warps of a CTA ask for in one execution of each instruction that reads global memory."""
    count = len(runs[0].program.listing.instructions)
    total, times = np.zeros(count), np.zeros(count)
    loads: set[int] = set()
    for run in runs:
        mine, bytes_of = _loads(run)
        loads.update(mine)
        counts = run.instruction_counts
        for index in mine:
            total[index] += bytes_of[index]
            bulk = sum(1 for each in run.bulks if each.instruction == index)
            times[index] += bulk or counts[index] / max(run.program.threads // 32, 1)
    return np.divide(total, times, out=np.zeros(count), where=times > 0), sorted(loads)


def _merged(keys: np.ndarray, merge: int) -> float:
    """Distinct keys among neighbours in order of launch, over all keys."""
    whole = len(keys) // merge * merge
    if not whole:
        return 1.0
    rows = np.sort(keys[:whole].reshape(-1, merge), axis=1)
    return float(1 + (rows[:, 1:] != rows[:, :-1]).sum(axis=1).mean()) / merge


def _loads(run: Evaluation) -> tuple[list[int], Mapping[int, float]]:
    """Instructions that read global memory, and the bytes (whole sectors) that a CTA asks for with each."""
    sizes: dict[int, float] = {}
    for index, tally in run.tallies.items():
        op = run.program.memory_ops[index]
        if op.space == "global" and op.kind in ("load", "copy"):
            sizes[index] = float(max(tally.sectors * SECTOR_BYTES, tally.bytes if tally.unknown else 0))
    for bulk in run.bulks:
        if run.program.listing.instructions[bulk.instruction].base in ("UTMALDG", "UBLKCP"):
            sizes[bulk.instruction] = sizes.get(bulk.instruction, 0.0) + float(run.bulk_box(bulk)[1] or 0)
    return sorted(sizes), sizes


def _within_buffers(share_of: Sharing, launch: Launch, addresses: Mapping[int, np.ndarray], loads: list[int],
                    bytes_of: Mapping[int, float], programs: int, waves: int, capacity: float, warm: bool) -> Sharing:
    """A tensor that L2 keeps is read from DRAM once at most; one that it held before the launch, not at all."""
    dram, missing = share_of.dram.copy(), share_of.missing
    total = sum(b.size_bytes for b in launch.buffers)
    resident = float(np.clip(2.0 - total / capacity, 0.0, 1.0)) if warm else 0.0
    by_buffer: dict[int, list[int]] = {}
    for index in loads:
        known = addresses.get(index)
        known = known[known >= 0] if known is not None else np.zeros(0)
        for n, buffer in enumerate(launch.buffers):
            if len(known) and buffer.start <= known[0] < buffer.start + buffer.size_bytes:
                by_buffer.setdefault(n, []).append(index)
    share = np.array([1.0, max(waves - 2, 0), 1.0 if waves > 1 else 0.0]) / max(waves, 1)
    for n, members in by_buffer.items():
        size = launch.buffers[n].size_bytes
        asked = sum(bytes_of[i] * programs * float(dram[:, i] @ share) for i in members)
        if asked > size and size <= capacity:
            dram[:, members] *= size / asked
    return Sharing(dram * (1.0 - resident), missing * (1.0 - resident), share_of.l2)
