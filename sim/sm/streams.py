"""Traces of CTAs packed into arrays: what every warp issues, in order, and what each of its memory accesses costs.

A trace of `mapping.triton.evaluate` says which threads went through which segments. Warps of a CTA that went the same way share a stream
of instruction indices; each position that accesses memory names a row of an access table. Long runs of equal loop iterations are cut to
a few, and simulated twice with different numbers of them, so that what an iteration costs in the steady state is known exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ...mapping.triton import Evaluation
from ...mapping.triton.access import BANK_BYTES, BANKS, LINE_BYTES, SECTOR_BYTES
from ...mapping.triton.memory_ops import ATOMIC
from ...mapping.triton.memory_ops import SHARED as SHARED_SPACE
from ...mapping.triton.tensor_core import element_bits
from . import isa
from .l1 import active_addresses, l1_misses
from .l2 import ANYWHERE, atomic_passes, scattered

WARP = 32
#: mbarriers of a CTA that are told apart.
SLOTS = 64
#: Columns of the access table, in the order of `Rows.find`.
COLUMNS = ("instruction", "smem", "tags", "l2_bytes", "l1_passes", "atomics", "sync_slot", "sync_value")
#: Rounds through the mbarriers from which a run of them counts.
ROUNDS = 4
#: Iterations of a long loop that `tile` plays (twice: so many, and half as many, which is more than are fetched ahead).
KEPT = 12
#: Share of the longest run's repetitions from which another run of the same stretches is cut as it is.
_AS_LONG = 0.75


@dataclass(frozen=True)
class Period:
    """A run of equal stretches in a trace: steps [first, first + length * times).

    Attributes
    ----------
    first, length, times
        The first step, steps of a stretch, and how often it repeats.
    iterations
        Loop iterations in a stretch: more than one where mbarriers are gone through in rounds, slot by slot and in both parities.
    again
        Where further runs of such stretches begin that are as long or longer (a persistent CTA's next tiles), and are cut as this one is.
    """

    first: int
    length: int
    times: int
    iterations: int = 1
    again: tuple[int, ...] = ()


@dataclass
class Rows:
    """The access table: one row for each distinct cost of an access, per warp.

    Attributes
    ----------
    instruction
        Which instruction's.
    smem, tags, l2_bytes, l1_passes
        Clocks of the shared-memory banks, of the tag stage, bytes between SM and L2, clocks of L1 data (of tcgen05 products:
        multiply-adds); float.
    atomics
        Clocks for which slices of L2 do the access's atomics (`l2.atomic_passes`).
    sync_slot, sync_value
        mbarrier number in the CTA (-1: none) and arrival count, bytes or parity.
    """

    instruction: list[int] = field(default_factory=list)
    smem: list[float] = field(default_factory=list)
    tags: list[float] = field(default_factory=list)
    l2_bytes: list[float] = field(default_factory=list)
    l1_passes: list[float] = field(default_factory=list)
    atomics: list[float] = field(default_factory=list)
    sync_slot: list[int] = field(default_factory=list)
    sync_value: list[int] = field(default_factory=list)
    numbers: dict[tuple[Any, ...], int] = field(default_factory=dict)

    def find(self, instruction: int, smem: float = 0.0, tags: float = 0.0, l2_bytes: float = 0.0, l1_passes: float = 0.0,
             atomics: float = 0.0, sync_slot: int = -1, sync_value: int = 0) -> int:
        """Number of the row, made if new."""
        key = (instruction, smem, tags, l2_bytes, l1_passes, atomics, sync_slot, sync_value)
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.numbers)
            self.instruction.append(instruction)
            self.smem.append(smem)
            self.tags.append(tags)
            self.l2_bytes.append(l2_bytes)
            self.l1_passes.append(l1_passes)
            self.atomics.append(atomics)
            self.sync_slot.append(sync_slot)
            self.sync_value.append(sync_value)
        return number


@dataclass(frozen=True)
class Cta:
    """One CTA's streams.

    Attributes
    ----------
    roles
        By warp: index into `code`.
    code, access
        By role: int32 instruction indices, and rows of the access table or -1.
    """

    roles: tuple[int, ...]
    code: tuple[np.ndarray, ...]
    access: tuple[np.ndarray, ...]

    @property
    def issued(self) -> int:
        """Warp-instructions."""
        return sum(len(self.code[role]) for role in self.roles)


def find_period(keys: np.ndarray, longest: int = 512, at_least: int = 8) -> Period | None:
    """The longest run of repeated steps.

    Parameters
    ----------
    keys
        int64 by step: equal where steps are alike.
    longest
        Steps of a period at most.
    at_least
        Repetitions from which a run counts.
    """
    best: Period | None = None
    n = len(keys)
    if n < at_least:
        return None
    # a period's candidates: distances between equal steps that occur most
    order = np.argsort(keys, kind="stable")
    same = keys[order][1:] == keys[order][:-1]
    gaps = (order[1:] - order[:-1])[same]
    gaps = gaps[gaps <= longest]
    if not len(gaps):
        return None
    counts = np.bincount(gaps)
    for length in np.argsort(-counts, kind="stable")[:6].tolist():
        if counts[length] == 0 or length == 0 or (best is not None and n <= best.times * best.length + length):
            continue  # no such distance, or no run of it is longer than what was found
        equal = np.concatenate([[False], keys[length:] == keys[:-length], [False]])
        edges = np.flatnonzero(equal[1:] != equal[:-1])
        starts, stops = edges[::2], edges[1::2]
        k = int(np.argmax(stops - starts))
        times = int(stops[k] - starts[k]) // length + 1
        if times >= at_least and (best is None or times * length > best.times * best.length + length):
            best = Period(int(starts[k]), length, times)
    return best


def runs_alike(keys: np.ndarray, period: Period) -> list[tuple[int, int]]:
    """First step and repetitions of the runs of the same stretches, its own among them, that are not much shorter than a period.

    Parameters
    ----------
    keys
        int64 by step: equal where steps are alike.
    """
    length = period.length
    equal = np.concatenate([[False], keys[length:] == keys[:-length], [False]])
    edges = np.flatnonzero(equal[1:] != equal[:-1])
    starts, times = edges[::2], (edges[1::2] - edges[::2]) // length + 1
    wanted = np.sort(keys[period.first:period.first + length])  # a run may begin anywhere in a stretch
    return [(start, n) for start, n in zip(starts.tolist(), times.tolist(), strict=True)
            if n >= _AS_LONG * period.times and np.array_equal(np.sort(keys[start:start + length]), wanted)]


def step_keys(run: Evaluation, rows_of: np.ndarray, row_steps: np.ndarray) -> np.ndarray:
    """int64 by step: equal where segment, threads and the costs of all accesses are."""
    assert run.trace is not None
    segments, lanes = np.array(run.trace.segments, dtype=np.int64), np.array(run.trace.lanes, dtype=np.int64)
    mixed = np.zeros(len(segments), dtype=np.uint64)
    if len(row_steps):
        weight = (rows_of.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        weight ^= weight >> np.uint64(29)
        np.add.at(mixed, row_steps, weight * np.uint64(0xBF58476D1CE4E5B9))
    whole = np.stack([segments.astype(np.uint64), lanes.astype(np.uint64), mixed], axis=1)
    return np.unique(whole, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Followed:
    """One CTA's trace, made ready once to be packed into streams.

    Attributes
    ----------
    run
        The CTA, with its trace.
    rows
        Costs of its accesses.
    steps, instructions, numbers
        int64: step, instruction and row of each access, by rising step.
    events
        Step, instruction, issuing warps and row of what touches mbarriers.
    period
        The longest run of equal stretches, if there is one; its steps count in `order`.
    order
        int64: steps as they are executed, those that the trace leaves out repeated.
    """

    run: Evaluation
    rows: Rows
    steps: np.ndarray
    instructions: np.ndarray
    numbers: np.ndarray
    events: list[tuple[int, int, tuple[int, ...], int]]
    period: Period | None
    order: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """int64 by instruction: warp-instructions."""
        return self.run.instruction_counts

    def pack(self, keep: int | None = None) -> Cta:
        """Streams, the longest run of stretches cut to `keep`."""
        return pack_cta(self, keep)


class CtaStreams(Protocol):
    """One CTA, ready to be packed into streams: `Followed`, or what stands for it."""

    @property
    def rows(self) -> Rows:
        """Costs of accesses."""

    @property
    def period(self) -> Period | None:
        """The longest run of equal stretches."""

    @property
    def counts(self) -> np.ndarray:
        """int64 by instruction: warp-instructions."""

    def pack(self, keep: int | None = None) -> Cta:
        """Streams, the longest run of stretches cut to `keep`."""


def follow_streams(run: Evaluation, *, l1_bytes: float, storage: Mapping[int, tuple[int, int]] | None = None) -> Followed:
    """Costs and period of one CTA's trace.

    Parameters
    ----------
    l1_bytes
        L1 cache left beside shared memory.
    storage
        First byte and size of the memory that an instruction's addresses lie in, where it is known.
    """
    rows = Rows()
    steps, instructions, numbers = _accesses(run, rows, l1_bytes, storage or {})
    events = _events(run, rows)
    assert run.trace is not None
    order = run.trace.order()
    period = find_period(step_keys(run, numbers, steps)[order])
    if events and period is not None:  # what is cut must leave every mbarrier as it found it
        of_events = np.array([(row, step) for step, _, _, row in events], dtype=np.int64)
        keys = step_keys(run, np.concatenate([numbers, of_events[:, 0]]), np.concatenate([steps, of_events[:, 1]]))[order]
        one, period = period, find_period(keys, at_least=ROUNDS)
        if period is not None and not _closed(run, rows, events, set(order[period.first:period.first + period.length].tolist())):
            period = None
        if period is not None:
            period = replace(period, iterations=max(1, round(period.length / one.length)))
    by_step = np.argsort(steps, kind="stable")
    return Followed(run, rows, steps[by_step], instructions[by_step], numbers[by_step], events, period, order)


def _closed(run: Evaluation, rows: Rows, events: list[tuple[int, int, tuple[int, ...], int]], steps: set[int]) -> bool:
    """Whether these steps themselves complete every mbarrier that they wait at, and wait at every one that they complete.

    Where warps of their own fetch and others compute, the one's loop cannot be cut without the other's.
    """
    code = run.program.listing.instructions
    waits: set[int] = set()
    arrives: set[int] = set()
    for step, index, _, row in events:
        if step in steps:
            kind = isa.kind_of(code[index])
            if kind == isa.SYNC_WAIT:
                waits.add(rows.sync_slot[row])
            elif kind in (isa.SYNC_ARRIVE, isa.BULK_LOAD, isa.TCGEN_COMMIT):
                arrives.add(rows.sync_slot[row])
    return waits == arrives


def pack_cta(followed: Followed, keep: int | None = None) -> Cta:
    """Streams of one CTA.

    Parameters
    ----------
    keep
        Stretches to keep of the longest run of equal ones; None keeps all.
    """
    run, period, events = followed.run, followed.period, followed.events
    steps, instructions, numbers = followed.steps, followed.instructions, followed.numbers
    program, trace = run.program, run.trace
    assert trace is not None
    chosen = followed.order
    if period is not None and keep is not None and keep < period.times:
        left_out = slice(period.first + keep * period.length, period.first + period.times * period.length)
        chosen = np.delete(chosen, left_out)
    segments = np.array(trace.segments, dtype=np.int64)[chosen]
    lanes = np.array(trace.lanes, dtype=np.int64)[chosen]
    begins = np.searchsorted(steps, np.arange(len(trace.segments) + 1))
    warps = program.threads // WARP
    member = np.zeros((len(run.lane_sets), warps), dtype=bool)
    for number, found in enumerate(run.lane_sets):
        member[number, found.warps] = True
    used = np.unique(np.array(trace.lanes, dtype=np.int64))
    issuers = np.zeros((len({e[1] for e in events}), warps), dtype=np.int64)
    order = {index: n for n, index in enumerate(sorted({e[1] for e in events}))}
    for _, index, who, _ in events:
        issuers[order[index], list(who)] += 1
    absent = np.zeros((len(program.segments), warps), dtype=np.int64)
    for step, who in trace.skipped:
        absent[trace.segments[step], list(who)] += 1
    columns, roles = np.unique(np.concatenate([member[used].astype(np.int64), issuers, absent]), axis=1, return_inverse=True)
    roles = np.asarray(roles).reshape(-1)
    first = np.array([s.first for s in program.segments], dtype=np.int64)
    sizes = np.array([s.last - s.first + 1 for s in program.segments], dtype=np.int64)
    code, access = [], []
    for role in range(columns.shape[1]):
        mine = np.zeros(len(run.lane_sets), dtype=bool)
        mine[used] = columns[:len(used), role] > 0
        warp = int(np.flatnonzero(roles == role)[0])
        here = np.flatnonzero(mine[lanes])
        not_reached = np.zeros(len(trace.segments), dtype=np.int64)  # a barrier that the warp does not come to ends its segment
        not_reached[[step for step, who in trace.skipped if warp in who]] = 1
        lengths = sizes[segments[here]] - not_reached[chosen[here]]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        stream = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - first[segments[here]], lengths)
        entry = np.full(len(stream), -1, dtype=np.int32)
        at = chosen[here]
        each = begins[at + 1] - begins[at]
        owner = np.repeat(np.arange(len(here)), each)
        which = np.arange(len(owner)) - np.repeat(np.cumsum(each) - each - begins[at], each)
        entry[offsets[owner] + instructions[which] - first[segments[here[owner]]]] = numbers[which]
        if events:
            by_step = np.argsort(at, kind="stable")
            low, high = (np.searchsorted(at[by_step], [e[0] for e in events], side=side).tolist() for side in ("left", "right"))
            for n, (_, index, who, row) in enumerate(events):
                if warp in who and low[n] < high[n]:
                    places = by_step[low[n]:high[n]]
                    entry[offsets[places] + index - first[segments[here[places]]]] = row
        code.append(stream.astype(np.int32))
        access.append(entry)
    return Cta(tuple(int(r) for r in roles), tuple(code), tuple(access))


def _accesses(run: Evaluation, rows: Rows, l1_bytes: float,
              storage: Mapping[int, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step, instruction and row of every access."""
    program, trace = run.program, run.trace
    assert trace is not None
    code = program.listing.instructions
    hits = l1_misses(run, l1_bytes)
    patterns = run.patterns
    table: dict[tuple[int, int, float], int] = {}
    copies = {i: (t.passes / max(t.executions, 1)) for i, t in run.copies.items()}
    out_steps, out_instructions, out_rows = [], [], []
    for n, (step, index, number, base) in enumerate(trace.accesses):
        miss = hits[n]
        key = (index, number, miss)
        row = table.get(key)
        if row is None:
            pattern, op = patterns[number], program.memory_ops[index]
            warps = max(len(run.lane_sets[pattern.lanes].warps), 1)
            if op.space == SHARED_SPACE:
                row = rows.find(index, smem=pattern.passes / warps)
            else:
                sectors = pattern.sectors / warps
                bytes_here = sectors * SECTOR_BYTES
                data = max(pattern.threads / warps * op.thread_bytes / (BANKS * BANK_BYTES), bytes_here / LINE_BYTES)
                kind = isa.kind_of(code[index])
                if op.space == "local":
                    data, sectors, bytes_here = op.thread_bytes * WARP / LINE_BYTES, 0.0, 0.0
                    row = rows.find(index, tags=1.0, l1_passes=data)
                elif kind == isa.ASYNC_COPY:
                    row = rows.find(index, smem=copies.get(index, data), tags=pattern.lines / warps, l2_bytes=bytes_here * miss)
                else:
                    row = rows.find(index, tags=pattern.lines / warps, l2_bytes=bytes_here * miss, l1_passes=data,
                                    atomics=_passes(run, number, base) / warps if op.kind == ATOMIC else 0.0)
            table[key] = row
        out_steps.append(step - 1)
        out_instructions.append(index)
        out_rows.append(row)
    scattered_rows: dict[int, int] = {}
    for step, index in trace.blind:  # accesses whose addresses only data knows: coalesced, as their bytes allow
        op, tally = program.memory_ops[index], run.tallies[index]
        if op.space == SHARED_SPACE:
            continue
        if index not in scattered_rows:
            size = tally.bytes / max(tally.executions, 1)
            lines, data = max(size / LINE_BYTES, 1.0), size / LINE_BYTES
            if op.kind == ATOMIC:
                lanes = max(1, round(tally.threads / max(tally.executions, 1)))
                passes, sectors = scattered(storage.get(index, (0, ANYWHERE))[1], op.thread_bytes, lanes)
                made = rows.find(index, tags=sectors, l2_bytes=sectors * SECTOR_BYTES, l1_passes=1.0, atomics=passes)
            elif isa.kind_of(code[index]) == isa.ASYNC_COPY:
                made = rows.find(index, smem=copies.get(index, data), tags=lines, l2_bytes=size)
            else:
                made = rows.find(index, tags=lines, l2_bytes=size, l1_passes=data)
            scattered_rows[index] = made
        out_steps.append(step - 1)
        out_instructions.append(index)
        out_rows.append(scattered_rows[index])
    order = np.array(out_steps, dtype=np.int64)
    return order, np.array(out_instructions, dtype=np.int64), np.array(out_rows, dtype=np.int64)


def _passes(run: Evaluation, number: int, base: int) -> int:
    """Clocks for which slices of L2 do the atomics of a pattern, summed over its warps."""
    pattern = run.patterns[number]
    lanes = run.lane_sets[pattern.lanes]
    warp = lanes.warp if pattern.active is None else lanes.warp[pattern.active]
    at = active_addresses(run, number, base)
    return sum(atomic_passes(at[warp == w]) for w in np.unique(warp).tolist())


def arrivals_wanted(value: int) -> int:
    """Arrivals that complete a phase of an mbarrier, from the word that it is set to (-1: not known)."""
    return max(1, 0x100000 - (value >> 1)) if value >= 0 else 1


def _events(run: Evaluation, rows: Rows) -> list[tuple[int, int, tuple[int, ...], int]]:
    """Bulk copies, tcgen05 products and what touches mbarriers: step, instruction, issuing warps and row."""
    trace, code = run.trace, run.program.listing.instructions
    assert trace is not None
    slots: dict[int, int] = {}
    boxes: dict[tuple[int, int], tuple[int, int]] = {}
    for bulk in run.bulks:
        boxes.setdefault((bulk.step, bulk.instruction), (run.bulk_box(bulk)[1] or 0, run.bulk_bytes(bulk)))
    shapes = dict(list(run.matrices))
    found = []
    for step, index, warps, address, value in trace.syncs:
        kind = isa.kind_of(code[index])
        slot = slots.setdefault(address, len(slots) % SLOTS) if address >= 0 and kind != isa.BULK_STORE else -1
        if kind in (isa.BULK_LOAD, isa.BULK_STORE):
            inside, whole = boxes.get((step, index), (0, 0))
            row = rows.find(index, smem=whole / LINE_BYTES, l2_bytes=float(inside), sync_slot=slot, sync_value=whole)
        elif kind == isa.TCGEN:
            shape = shapes.get(index)
            if shape is None:
                continue
            own = 0 if code[index].operands[0].startswith("tmem") else shape.m  # A in tensor memory costs the banks nothing
            moved = (own + shape.n) * shape.k * element_bits(code[index].base, code[index].modifiers) / 8
            row = rows.find(index, smem=moved / LINE_BYTES, l1_passes=float(shape.m * shape.n * shape.k))
        elif kind == isa.SYNC_INIT:
            row = rows.find(index, sync_slot=slot, sync_value=arrivals_wanted(value))
        elif kind == isa.SYNC_WAIT:
            row = rows.find(index, sync_slot=slot, sync_value=int(value > 0))
        elif kind in (isa.SYNC_ARRIVE, isa.TCGEN_COMMIT):
            row = rows.find(index, sync_slot=slot, sync_value=max(value, 0) if kind == isa.SYNC_ARRIVE else 0)
        else:
            continue
        found.append((step - 1, index, warps, row))
    return found
