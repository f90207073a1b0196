"""Following a kernel's control flow: threads step through segments, split at divergent branches and join again.

Everything that does not depend on data is exact: integers, predicates, lane operations, constants and parameters. What
does is `Unknown`; where control depends on it, an assumption is made, named and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import KernelError
from .access import PatternTable, Tally, tally_access
from .assumptions import Chooser
from .group import Group, Lanes, Pending
from .launch import Buffer
from .memory_ops import SHARED, memory_op
from .segments import BARRIER, BRANCH, EXIT, FALL, JOIN, RETURN, Segment
from .shared_memory import SharedMemory
from .tensor_core import MatrixShape, descriptor_shape, static_shape
from .values import M32, Partial, Unknown, Value, from_bytes, select, settled

#: Steps (segments executed) after which a kernel is taken to never end.
MAX_STEPS = 1_000_000
_CHECK_EVERY = 4096


@dataclass(frozen=True)
class Bulk:
    """One bulk copy (TMA): instruction, shared address, coordinates, address of the descriptor, issuing warps."""

    instruction: int
    step: int
    shared: Value
    coordinates: tuple[Value, ...]
    descriptor: Value
    times: int


@dataclass
class Trace:
    """What happened, in order: one entry a step.

    Attributes
    ----------
    segments, lanes
        Segment number and thread-set number of each step.
    accesses
        ``(step, instruction, pattern, base address)`` of each memory access.
    syncs
        ``(step, instruction, warps, address, value)`` of each instruction that touches an mbarrier (bulk loads name the one that they
        complete on), with the warps that issue it; -1 for an address or a value that depends on data.
    """

    segments: list[int] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)
    accesses: list[tuple[int, int, int, int]] = field(default_factory=list)
    syncs: list[tuple[int, int, tuple[int, ...], int, int]] = field(default_factory=list)


class Execution:
    """The state of some CTAs of one launch."""

    def __init__(self, program: Any, constants: Mapping[int, Value], program_ids: np.ndarray, *, buffers: tuple[Buffer, ...] = (),
                 chooser: Chooser, trace: bool = False, max_steps: int = MAX_STEPS, cluster_ranks: np.ndarray | None = None) -> None:
        self.program, self.constants = program, constants
        self.code, self.segments = program.listing.instructions, program.segments
        self.threads: int = program.threads
        self.program_ids = program_ids
        self.cluster_ranks = np.zeros(len(program_ids), dtype=np.int64) if cluster_ranks is None else cluster_ranks
        self.buffers, self.chooser, self.max_steps = buffers, chooser, max_steps
        self.counts = [0] * len(self.segments)
        self.taken = [0] * len(self.segments)
        self.steps = 0
        self.tallies: dict[int, Tally] = {}
        self.copies: dict[int, Tally] = {}
        self.matrices: dict[tuple[int, MatrixShape], int] = {}
        self.bulks: list[Bulk] = []
        self.patterns = PatternTable()
        self.trace = Trace() if trace else None
        self.lane_sets: list[Lanes] = []
        self._numbers: dict[bytes, Lanes] = {}
        self._ops = program.memory_ops
        self._unknowns: dict[int, Unknown] = {}
        self._arrived: dict[int, np.ndarray] = {}
        self._waiting: list[tuple[Group, int, int | None]] = []
        self._joining: list[tuple[Group, str]] = []
        self._written: set[int] = set()
        self._has_data = any(buffer.data is not None for buffer in buffers)
        self._seen: dict[tuple[int, int], tuple[Any, ...]] = {}
        total = len(program_ids) * self.threads
        self.alive = np.ones(total, dtype=bool)
        self.shared = SharedMemory(len(program_ids), self.threads, program.shared_bytes + 4096, 1024 if program.target >= 90 else 0) \
            if program.plan.tracks_shared else None

    # -- threads ---------------------------------------------------------------------------------------------------

    def lanes(self, ids: np.ndarray) -> Lanes:
        """The `Lanes` of these threads, one object for one set."""
        key = ids.tobytes()
        if key not in self._numbers:
            self._numbers[key] = Lanes(ids, len(self.lane_sets))
            self.lane_sets.append(self._numbers[key])
        return self._numbers[key]

    def run(self) -> None:
        """Execute until every thread has ended.

        Raises
        ------
        KernelError
            More steps than allowed, or a loop that provably never ends.
        """
        everyone = Group(self.lanes(np.arange(len(self.alive))), self)
        everyone.clear()
        ready: list[Group | Pending] = [everyone]
        while ready or self._waiting or self._joining:
            if not ready:
                ready += self._release(force=True)
            ready.sort(key=lambda g: g.place, reverse=True)
            first = ready.pop()
            group = first.group() if isinstance(first, Pending) else first
            while ready and ready[-1].place == group.place:
                other, live = ready.pop(), self.segments[group.place].live
                group = other.rejoin(group, live) if isinstance(other, Pending) else group.join(other, live)
            limit = ready[-1].place if ready else len(self.segments)
            self._follow(group, limit, ready)

    def _follow(self, group: Group, limit: int, ready: list[Group | Pending]) -> None:
        """Run one group until it ends, waits, splits, or reaches a place where another one stands."""
        registers, constants = group.registers, self.constants
        segments, counts, trace = self.segments, self.counts, self.trace
        warps, number = len(group.lanes.warps), group.lanes.number
        while True:
            segment = segments[group.place]
            self.steps += 1
            if self.steps % _CHECK_EVERY == 0:
                self._check(group, segment)
            counts[segment.number] += warps
            if trace is not None:
                trace.segments.append(segment.number)
                trace.lanes.append(number)
            result = segment.run(registers, constants, self, group)
            ends = segment.ends
            if ends == BRANCH and not segment.conditional:
                result = True
            if ends == FALL:
                place = segment.next
            elif ends in (BRANCH, EXIT):
                if type(result) is Partial:
                    result = self._settle_branch(segment, result, group)
                if type(result) is Unknown:
                    result = self.chooser.branch(segment, result, group)
                if result is True or result is False:
                    if result and ends == EXIT:
                        return self._exit(group, ready)
                    place = segment.target if result else segment.next
                    if result:
                        self.taken[segment.number] += warps
                else:
                    return self._split(group, segment, result, ready)
            elif ends == BARRIER:
                group.place = self._place(segment.next, segment)
                guard = settled(result[0])
                if type(guard) is np.ndarray and not guard.all():
                    if guard.any():
                        ready.append(group.part(~guard, segment.live_after))
                        arriving = group.part(guard, segment.live_after)
                        if self._barrier(arriving, segment, result[1], ready):
                            ready.append(arriving)
                    else:
                        ready.append(group)
                    return None
                if guard is not False and not self._barrier(group, segment, result[1], ready):
                    return None
                place = group.place
            elif ends == JOIN:
                group.place = self._place(segment.next, segment)
                if not self._join(group, result, ready):
                    return None
                place = group.place
            else:
                result = settled(result)
                if type(result) is np.ndarray and len(set(result.tolist())) > 1:
                    for value in sorted(set(result.tolist())):
                        part = group.part(result == value, segment.live_after)
                        part.place = self._place(self._indirect(segment, value, ends), segment)
                        ready.append(part)
                    return None
                place = self._indirect(segment, int(result[0]) if type(result) is np.ndarray else result, ends)
            group.place = self._place(place, segment)
            if group.place >= limit and limit < len(segments):
                ready.append(group)
                return None

    def _settle_branch(self, segment: Segment, flag: Partial, group: Group) -> Value:
        """A condition that some threads know: the others are decided by the chooser."""
        if flag.known.all():
            return flag.value
        if not flag.known.any():
            return flag.cause
        return np.where(flag.known, flag.value, self.chooser.branch(segment, flag.cause, group))

    def _place(self, place: int | None, segment: Segment) -> int:
        if place is None:
            raise KernelError(f"{self.program.where(segment.last)}: control runs past the end of the kernel")
        return place

    def _check(self, group: Group, segment: Segment) -> None:
        where = self.program.where(segment.last)
        if self.steps > self.max_steps:
            raise KernelError(f"{where}: still running after {self.max_steps:,} steps; an infinite loop, or one that needs "
                              "max_steps= to be raised")
        if self.program.plan.tracks_shared or self.program.plan.tracks_local:
            return
        state = tuple(_frozen(group.registers[n]) for n in segment.live)
        key = (segment.number, group.lanes.number)
        if self._seen.get(key) == state and None not in state:
            raise KernelError(f"{where}: infinite loop: nothing that its condition depends on changes")
        self._seen[key] = state

    def _exit(self, group: Group, ready: list[Group | Pending]) -> None:
        self.alive[group.lanes.ids] = False
        ready += self._release()

    def _split(self, group: Group, segment: Segment, taken: np.ndarray, ready: list[Group | Pending]) -> None:
        if taken.all() or not taken.any():
            only = bool(taken[0])
            if only and segment.ends == EXIT:
                return self._exit(group, ready)
            group.place = self._place(segment.target if only else segment.next, segment)
            self.taken[segment.number] += len(group.lanes.warps) * only
            ready.append(group)
            return None
        behind = self._place(segment.next, segment)
        if segment.ends == EXIT:
            staying = group.part(~taken, segment.live_after)
            staying.place = behind
            ready.append(staying)
            self.alive[group.lanes.ids[taken]] = False
            ready += self._release()
            return None
        ahead = self._place(segment.target, segment)
        self.taken[segment.number] += int(np.logical_or.reduceat(taken, group.lanes.starts).sum())
        # Those who stand further on wait: often the others come to the same place, and then nothing need be copied.
        now, later, place, wait = (~taken, taken, behind, ahead) if behind < ahead else (taken, ~taken, ahead, behind)
        running = group.part(now, segment.live_after)
        running.place = place
        ready.append(running)
        ready.append(Pending(group, later, wait, segment.live_after))
        return None

    def _indirect(self, segment: Segment, value: Value, ends: str) -> int | None:
        if type(value) is not int:
            raise KernelError(f"{self.program.where(segment.last)}: {self.code[segment.last]} jumps to where only the data says")
        for other in self.segments:
            if self.code[other.first].address == value:
                return other.number
        kind = "returns" if ends == RETURN else "jumps"
        raise KernelError(f"{self.program.where(segment.last)}: {self.code[segment.last]} {kind} to {value:#x}, which is no label")

    # -- barriers ----------------------------------------------------------------------------------------------------

    def _barrier(self, group: Group, segment: Segment, operands: tuple[Value, ...], ready: list[Group | Pending]) -> bool:
        """Whether the group goes on; False where it waits."""
        if len(group.lanes.ids) == int(self.alive.sum()):
            return True
        number = operands[0] if operands and type(operands[0]) is int else 0
        count = operands[1] if len(operands) > 1 and type(operands[1]) is int else None
        arrived = self._arrived.setdefault(number, np.zeros(len(self.program_ids), dtype=np.int64))
        np.add.at(arrived, group.lanes.ids // self.threads, 1)
        if "ARV" in self.code[segment.last].modifiers:
            ready += self._release()
            return True
        self._waiting.append((group, number, count))
        ready += self._release()
        return False

    def _release(self, force: bool = False) -> list[Group]:
        """Groups that need wait no longer; with `force` one is let go although its barrier is not complete."""
        free: list[Group] = []
        for number in {number for _, number, _ in self._waiting}:
            here = [entry for entry in self._waiting if entry[1] == number]
            arrived = self._arrived[number]
            done = np.zeros(len(arrived), dtype=bool)
            for group, _, count in here:
                ctas = np.unique(group.lanes.ids // self.threads)
                present = self.alive.reshape(len(self.program_ids), self.threads).sum(axis=1)[ctas]
                done[ctas] = arrived[ctas] >= (present if count is None else count)
            for entry in here:
                if done[np.unique(entry[0].lanes.ids // self.threads)].all():
                    self._waiting.remove(entry)
                    free.append(entry[0])
            left = {int(c) for group, n, _ in self._waiting if n == number for c in np.unique(group.lanes.ids // self.threads)}
            arrived[[c for c in np.flatnonzero(done) if c not in left]] = 0
        free += self._release_joins()
        if force and not free:
            entries = [g for g, _, _ in self._waiting] + [g for g, _ in self._joining]
            group = min(entries, key=lambda g: g.place)
            self.chooser.note("barrier", self.segments[group.place].first - 1, "threads that never arrive", "taken as complete")
            self._waiting = [e for e in self._waiting if e[0] is not group]
            self._joining = [e for e in self._joining if e[0] is not group]
            free.append(group)
        return free

    def opens(self, name: str, group: Group) -> None:
        """BSSY: the group's threads will meet again at the BSYNC of this barrier."""
        mask = np.zeros(len(self.alive), dtype=bool)
        mask[group.lanes.ids] = True
        group.joins[name] = mask

    def leaves(self, name: str, group: Group, guard: Value) -> None:
        """BREAK: the threads whose guard holds will not come to the BSYNC."""
        if name in group.joins:
            ids = group.lanes.ids[guard] if type(guard) is np.ndarray else group.lanes.ids if guard is True else group.lanes.ids[:0]
            group.joins[name][ids] = False

    def _join(self, group: Group, name: str, ready: list[Group | Pending]) -> bool:
        wanted = group.joins.get(name)
        if wanted is None or int((wanted & self.alive).sum()) <= group.lanes.count:
            return True
        self._joining.append((group, name))
        ready += self._release_joins()
        return False

    def _release_joins(self) -> list[Group]:
        free = []
        for group, name in list(self._joining):
            same = [g for g, n in self._joining if n == name and g.joins.get(name) is group.joins.get(name)]
            if group not in [g for g, _ in self._joining]:
                continue
            wanted = group.joins[name] & self.alive
            if sum(g.lanes.count for g in same) >= int(wanted.sum()):
                self._joining = [e for e in self._joining if e[0] not in same]
                free += same
        return free

    # -- what instructions do to memory ------------------------------------------------------------------------------

    def unknown(self, index: int) -> Unknown:
        """The unknown that an instruction's result is."""
        if index not in self._unknowns:
            ins = self.code[index]
            place = f" (line {ins.source.line})" if ins.source else ""
            self._unknowns[index] = Unknown(f"what {ins.opcode} at {ins.address:#x}{place} reads")
        return self._unknowns[index]

    def access(self, index: int, group: Group, guard: Value, address: Value) -> None:
        """Count a per-thread memory access."""
        guard = settled(guard)
        address = settled(address, guard)
        op = self._ops[index]
        tally = self.tallies.get(index)
        if tally is None:
            tally = self.tallies[index] = Tally()
        if type(guard) is Unknown:
            self.chooser.note("mask", index, guard.cause, "every thread taken as active")
        found = tally_access(tally, self.patterns, group.lanes, guard, address, op.thread_bytes, op.rows, op.space == SHARED)
        if type(address) is Unknown and guard is not False:
            self.chooser.note("address", index, address.cause, "bytes counted, sectors not")
        if found is not None and self.trace is not None:
            self.trace.accesses.append((self.steps, index, *found))
        if op.kind in ("store", "atomic") and op.space == "global" and self._has_data:
            self._overwritten(guard, address)

    def copied(self, index: int, group: Group, guard: Value, address: Value, counted: bool) -> None:
        """Count what a cp.async writes to shared memory."""
        guard = settled(guard)
        address = settled(address, guard)
        size = self._ops[index].thread_bytes
        if counted:
            tally_access(self.copies.setdefault(index, Tally()), self.patterns, group.lanes, guard, address, size, 0, True)
        if self.shared is not None:
            self.shared.put(group.lanes, guard, address, (self.unknown(index),) * max(1, size // 4), size)

    def _overwritten(self, guard: Value, address: Value) -> None:
        """Forget what tensors held that are now written to."""
        if guard is False or type(address) is Unknown:
            return
        many = np.atleast_1d(np.asarray(address, dtype=np.uint64))
        many = many[guard] if type(guard) is np.ndarray and len(guard) == len(many) else many
        for buffer in self.buffers:
            if buffer.data is not None and ((many >= buffer.start) & (many < buffer.start + buffer.size_bytes)).any():
                self._written.add(buffer.start)

    def load(self, index: int, group: Group, guard: Value, address: Value, old: tuple[Value, ...]) -> tuple[Value, ...]:
        """Values that a load brings, where they are known: from tensors with data, local and followed shared memory."""
        op, count = self._ops[index], len(old)
        guard = settled(guard)
        address = settled(address, guard)
        if guard is False:
            return old
        fresh: tuple[Value, ...]
        if op.space == "local":
            fresh = tuple(group.local.get(address + 4 * k, self.unknown(index)) if type(address) is int else self.unknown(index)
                          for k in range(count))
        elif op.space == SHARED:
            fresh = (self.unknown(index),) * count
            if self.shared is not None and not op.rows:
                signed = self.code[index].has("S8", "S16")
                fresh = self.shared.get(group.lanes, guard, address, count, op.thread_bytes, signed, self.unknown(index))
        else:
            fresh = self._get_global(index, guard, address, count, op.thread_bytes)
        return tuple(select(guard, new, was) if type(guard) is not Unknown else guard for new, was in zip(fresh, old, strict=True))

    def store(self, index: int, group: Group, guard: Value, address: Value, data: tuple[Value, ...]) -> None:
        """A store to local memory, or to shared memory that is followed."""
        op = self._ops[index]
        guard = settled(guard)
        address = settled(address, guard)
        if op.space == "local":
            if type(address) is not int or type(guard) is Unknown:
                group.local.clear()
                return
            for k, value in enumerate(data):
                old = group.local.get(address + 4 * k, self.unknown(index))
                group.local[address + 4 * k] = select(guard, value, old)
        elif self.shared is not None and op.kind == "atomic":
            self.shared.atomic(group.lanes, guard, address, data[-1], self.code[index].modifiers, self.unknown(index))
        elif self.shared is not None:
            value = data if not op.rows else (self.unknown(index),) * len(data)
            self.shared.put(group.lanes, guard, address, value, op.thread_bytes)

    def constant(self, bank: int, at: Value, offset: int) -> Value:
        """A word of a constant bank at a computed place."""
        at = settled(at)
        if type(at) is int:
            return self._constant_word(bank, (at + offset) & M32)
        if type(at) is Unknown:
            return at
        words = [self._constant_word(bank, (int(a) + offset) & M32) for a in at]
        bad = next((w for w in words if type(w) is Unknown), None)
        return bad if bad is not None else np.array(words, dtype=np.uint64)

    def _constant_word(self, bank: int, at: int) -> Value:
        if bank == 0:
            return self.constants[at]
        contents = self.program.compiled.layout.constants.get(bank, b"")
        if at + 4 <= len(contents):
            return int.from_bytes(contents[at:at + 4], "little")
        return Unknown(f"constant bank {bank} at {at:#x}")

    def _get_global(self, index: int, guard: Value, address: Value, count: int, size: int) -> tuple[Value, ...]:
        unknown = (self.unknown(index),) * count
        if type(address) is Unknown or type(guard) is Unknown:
            return unknown
        many = np.atleast_1d(np.asarray(address, dtype=np.uint64))
        on = guard if type(guard) is np.ndarray and len(guard) == len(many) else np.ones(len(many), dtype=bool)
        if not on.any():
            return unknown
        low, high = int(many[on].min()), int(many[on].max()) + size
        for buffer in self.buffers:
            if buffer.data is None or buffer.start in self._written or low < buffer.start:
                continue
            if high > buffer.start + len(buffer.data):
                continue
            places = np.where(on, many - np.uint64(buffer.start), 0).astype(np.int64)
            words = []
            for k in range(count):
                raw = from_bytes([buffer.data[places + 4 * k + byte] for byte in range(min(size, 4))],
                                 self.code[index].has("S8", "S16"))
                words.append(int(raw[0]) if (raw == raw[0]).all() else raw)
            return tuple(words)
        return unknown

    # -- whole-warp machinery --------------------------------------------------------------------------------------------

    def _warps_with(self, group: Group, guard: Value) -> int:
        guard = settled(guard)
        if guard is True or type(guard) is Unknown:
            return len(group.lanes.warps)
        return 0 if guard is False else int(np.logical_or.reduceat(guard, group.lanes.starts).sum())

    def matrix(self, index: int, group: Group, guard: Value, descriptor: Value) -> None:
        """Count a tensor-core instruction whose guard or shape is dynamic."""
        warps = self._warps_with(group, guard)
        if not warps:
            return
        ins = self.code[index]
        if type(guard) is Unknown:
            self.chooser.note("mask", index, guard.cause, "taken as executed")
        shape = static_shape(ins.base, ins.modifiers)
        if shape is None:
            value = settled(descriptor, guard)
            value = int(value[0]) if type(value) is np.ndarray and (value == value[0]).all() else value
            value = value if type(value) is int else None
            if value is None:
                cause = descriptor.cause if type(descriptor) is Unknown else "a descriptor that differs by thread"
                self.chooser.note("shape", index, cause, "not counted")
                return
            shape = descriptor_shape(ins.base, ins.modifiers, value)
        key = (index, shape)
        self.matrices[key] = self.matrices.get(key, 0) + warps

    def sync(self, index: int, group: Group, guard: Value, address: Value, value: Value) -> None:
        """Note in the trace what touches an mbarrier."""
        if self.trace is None:
            return
        guard = settled(guard)
        if guard is False:
            return
        lanes = group.lanes
        at = lanes.first(guard if type(guard) is np.ndarray else None)
        on = guard[at] if type(guard) is np.ndarray else np.ones(len(at), dtype=bool)
        if not on.any():
            return
        place = int(at[on][0])

        def of(word: Value) -> int:
            if type(word) is Partial:
                return int(word.value[place]) if word.known[place] else -1
            return -1 if type(word) is Unknown else int(word[place]) if type(word) is np.ndarray else int(word)

        warps = tuple(lanes.warps[on].tolist())
        self.trace.syncs.append((self.steps, index, warps, of(address) & M32, of(value) if of(value) < 0 else of(value) & M32))

    def bulk(self, index: int, group: Group, guard: Value, shared: Value, coordinates: tuple[Value, ...], descriptor: Value) -> None:
        """Note a bulk copy; one thread of a warp issues it for the warp."""
        warps = self._warps_with(group, guard)
        if not warps:
            return
        if type(guard) is Unknown:
            self.chooser.note("mask", index, guard.cause, "taken as executed")
        guard = settled(guard)
        picks = group.lanes.first(guard if type(guard) is np.ndarray else None)
        if type(guard) is np.ndarray:
            picks = picks[guard[picks]]

        def at(value: Value, place: int) -> Value:
            if type(value) is Partial:
                return int(value.value[place]) if value.known[place] else value.cause
            return int(value[place]) if type(value) is np.ndarray else value

        if self.shared is not None and type(shared) is Unknown:
            self.shared.forget()
        for place in picks:
            self.bulks.append(Bulk(index, self.steps, at(shared, place), tuple(at(c, place) for c in coordinates),
                                   at(descriptor, place), 1))


def _frozen(value: Value) -> Any:
    """A register's value for comparison; None for unknown ones."""
    return None if type(value) in (Unknown, Partial) else value.tobytes() if type(value) is np.ndarray else value


def memory_ops_of(code: tuple[Any, ...]) -> dict[int, Any]:
    """Memory access of each instruction that has one."""
    return {ins.index: op for ins in code if (op := memory_op(ins)) is not None}
