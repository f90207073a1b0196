"""What instructions do beyond registers: memory accesses counted and followed, matrix products, bulk copies, mbarriers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from .access import FAR, PatternTable, Tally, tally_access
from .assumptions import Chooser
from .group import Group
from .launch import Buffer
from .memory_ops import SHARED, MemoryOp, transposed_of
from .parameters import ConstantBank
from .sass import Instruction
from .shared_memory import SharedMemory
from .tensor_core import MatrixShape, descriptor_shape, static_shape
from .values import M32, Partial, Unknown, Value, from_bytes, select, settled

#: What an address is that no memory has.
_OFF: Final = Unknown(f"arithmetic that leads beyond all memory (2^{FAR.bit_length() - 1} bytes)")


@dataclass(frozen=True)
class Bulk:
    """One bulk copy (TMA): instruction, shared address, coordinates, address of the descriptor, issuing warps."""

    instruction: int
    step: int
    shared: Value
    coordinates: tuple[Value, ...]
    descriptor: Value
    times: int


@dataclass(frozen=True)
class Repeat:
    """Steps [first, end) of a trace stand for `times` more of their kind right behind them."""

    first: int
    end: int
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
    blind
        ``(step, instruction)`` of each that is made at addresses which only data knows.
    syncs
        ``(step, instruction, warps, address, value)`` of each instruction that touches an mbarrier (bulk loads name the one that they
        complete on), with the warps that issue it; -1 for an address or a value that depends on data.
    repeats
        Steps that stand for more of their kind, in order; none overlap.
    skipped
        ``(step, warps)``: warps whose guard leaves out the barrier with which the step ends.
    """

    segments: list[int] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)
    accesses: list[tuple[int, int, int, int]] = field(default_factory=list)
    blind: list[tuple[int, int]] = field(default_factory=list)
    syncs: list[tuple[int, int, tuple[int, ...], int, int]] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    skipped: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def order(self) -> np.ndarray:
        """int64: the steps in the order in which they are executed, those that repeat as often as they do."""
        parts, at = [], 0
        for repeat in self.repeats:
            parts += [np.arange(at, repeat.end), np.tile(np.arange(repeat.first, repeat.end), repeat.times)]
            at = repeat.end
        return np.concatenate([*parts, np.arange(at, len(self.segments))])


class Effects:
    """The part of an execution that instructions act on.

    Parameters
    ----------
    program
        `program.Program`.
    constants
        Words of constant bank 0.
    ctas
        How many CTAs run together.
    buffers, chooser, trace
        As `Execution` takes them.
    """

    def __init__(self, program: Any, constants: ConstantBank, ctas: int, buffers: tuple[Buffer, ...], chooser: Chooser,
                 trace: bool) -> None:
        self.program, self.constants, self.buffers, self.chooser = program, constants, buffers, chooser
        self.code: tuple[Instruction, ...] = program.listing.instructions
        self.threads: int = program.threads
        self.steps = 0
        #: Whether some lanes stand for their warp.
        self.sampled = False
        self.tallies: dict[int, Tally] = {}
        self.copies: dict[int, Tally] = {}
        self.matrices: dict[tuple[int, MatrixShape], int] = {}
        self.bulks: list[Bulk] = []
        self.patterns = PatternTable()
        self.trace = Trace() if trace else None
        self._ops: Mapping[int, MemoryOp] = program.memory_ops
        self._unknowns: dict[int, Unknown] = {}
        self._written: set[int] = set()
        self.has_data = any(buffer.data is not None for buffer in buffers)
        self.shared = SharedMemory(ctas, self.threads, program.shared_bytes + 4096, 1024 if program.target >= 90 else 0) \
            if program.plan.tracks_shared else None

    def unknown(self, index: int) -> Unknown:
        """The unknown that an instruction's result is."""
        if index not in self._unknowns:
            self._unknowns[index] = Unknown(self.program.cause_of(index))
        return self._unknowns[index]

    def opaque(self, index: int) -> Unknown:
        """The result of an instruction that is not evaluated, for the reason that the program's text gives."""
        if index not in self._unknowns:
            self._unknowns[index] = Unknown(self.program.cause_of(index))
        return self._unknowns[index]

    def access(self, index: int, group: Group, guard: Value, address: Value) -> None:
        """Count a per-thread memory access."""
        guard = settled(guard)
        address = settled(address, guard)
        op = self._ops[index]
        address = self.reached(guard, address) if op.space == "global" else address
        tally = self.tallies.get(index)
        if tally is None:
            tally = self.tallies[index] = Tally()
        if type(guard) is Unknown:
            self.chooser.note("mask", index, guard.cause, "every thread taken as active")
        before = tally.unknown
        found = tally_access(tally, self.patterns, group.lanes, guard, address, op.thread_bytes, op.rows, op.space == SHARED)
        if tally.unknown > before and self.trace is not None:
            self.trace.blind.append((len(self.trace.segments), index))
        if type(address) is Unknown and guard is not False:
            self.chooser.note("address", index, address.cause, "taken as bytes side by side that nothing else asks for")
        if found is not None and self.trace is not None:
            self.trace.accesses.append((len(self.trace.segments), index, *found))
        if op.kind in ("store", "atomic") and op.space == "global" and self.has_data:
            self._overwritten(guard, address)

    def reached(self, guard: Value, address: Value) -> Value:
        """`address`; where only data knows the mask and not all threads would stay inside one buffer, not known either: some are masked.

        Nor is one that lies further off than memory reaches.
        """
        if type(address) is np.ndarray and int(address.max()) >= FAR:
            on = address[guard] if type(guard) is np.ndarray else address
            return _OFF if len(on) and int(on.max()) >= FAR else address
        if type(address) is int and address >= FAR:
            return _OFF
        if type(guard) is not Unknown or type(address) is Unknown:
            return address
        many = np.atleast_1d(np.asarray(address, dtype=np.uint64))
        low, high = int(many.min()), int(many.max())
        inside = any(buffer.start <= low and high < buffer.start + buffer.size_bytes for buffer in self.buffers)
        return address if inside else guard

    def copied(self, index: int, group: Group, guard: Value, address: Value, counted: bool, source: Value = None,
               condition: Value = True) -> None:
        """Count what a cp.async writes to shared memory, and put there what is known of it; zeros where `condition` does not hold."""
        guard = settled(guard)
        address = settled(address, guard)
        size = self._ops[index].thread_bytes
        if counted:
            tally_access(self.copies.setdefault(index, Tally()), self.patterns, group.lanes, guard, address, size, 0, True)
        if self.shared is None:
            return
        words = (self.unknown(index),) * max(1, size // 4)
        if self.has_data and source is not None and guard is not False:
            condition = settled(condition)
            on = condition if guard is True else guard if condition is True else guard & condition
            words = self._get_global(index, on, settled(source, on), len(words), size)
            words = words if condition is True else tuple(select(condition, word, 0) for word in words)
        self.shared.put(group.lanes, guard, address, words, size)

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
            if self.shared is not None and op.rows:
                if (transposed := transposed_of(self.code[index])) is not None:
                    fresh = self.shared.get_matrices(group.lanes, guard, address, count, transposed, self.unknown(index), self.sampled)
            elif self.shared is not None:
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
        elif self.shared is not None and op.rows:
            transposed = transposed_of(self.code[index])
            data = data if transposed is not None else (self.unknown(index),) * len(data)
            self.shared.put_matrices(group.lanes, guard, address, data, bool(transposed), self.sampled)
        elif self.shared is not None:
            self.shared.put(group.lanes, guard, address, data, op.thread_bytes)

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
        given = of(value) if of(value) < 0 else of(value) & M32
        self.trace.syncs.append((len(self.trace.segments), index, warps, of(address) & M32, given))

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
        step = len(self.trace.segments) if self.trace is not None else self.steps
        for place in picks:
            self.bulks.append(Bulk(index, step, at(shared, place), tuple(at(c, place) for c in coordinates),
                                   at(descriptor, place), 1))
