"""Loops in closed form: iterations that repeat with registers that move by equal steps are counted, not walked.

Two periods of an innermost loop (a period is as many iterations as its pipeline has stages) that go the same way, access memory in the
same patterns and move every register by the same step are followed by more of their kind, until the first comparison, carry or minimum
comes out otherwise. Where that is follows from the operands of both periods, which are linear as long as nothing but sums, products with
constants and selections stands between them and the registers that move; a loop with anything else (a quotient, a bit pattern) of such a
register is walked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from .access import Tally
from .effects import Bulk, Repeat
from .group import Group
from .memory_ops import ATOMIC, GLOBAL, LOAD, MBARRIER, STORE, TMA
from .operands import NotModelledError, word
from .sass import PREDICATE, Instruction, span
from .segments import Segment
from .tensor_core import TCGEN05, TENSOR_CORE
from .values import M32, Partial, Unknown, Value, has_bits

#: Iterations of a period at most, arrivals after which a loop is walked, and periods that must be saved.
_LONGEST, _PATIENCE, _WORTH = 8, 18, 2
_WORD: Final = 1 << 32
#: What stays linear in a register that moves; the operands that bound it are noted by `bounds_of`.
_LINEAR: Final = frozenset({"MOV", "IADD3", "IADD", "VIADD", "IMAD", "LEA", "SEL", "R2UR", "ISETP", "IMNMX", "VIMNMX", "VIADDMNMX"})
_SUMS: Final = frozenset({"IADD3", "IADD", "VIADD"})
#: Truth tables of LOP3 that join bits: a | b, a | b | c, a ^ b, a ^ b ^ c.
_JOINS: Final = frozenset({0xFC, 0xFE, 0x3C, 0x96})
#: What a loop in closed form does not have: convergence barriers, indirect jumps.
_REFUSED: Final = frozenset({"BSSY", "BSYNC", "BREAK", "BRX", "JMX"})


def _name(ins: Instruction) -> str:
    return ins.base[1:] if ins.base[0] == "U" else ins.base


def _plain(ins: Instruction) -> list[str]:
    """Operands that are no predicates, the destination first."""
    return [op for op in ins.operands if not op.lstrip("!").removeprefix("U").startswith("P")]


def _masked(operand: str) -> str:
    """Expression of a 32-bit operand, masked where it is more than a register, a parameter or a number."""
    text = word(operand)
    return text if (text.startswith(("R[", "K[")) and text.endswith("]")) or text.isdigit() else f"({text}) & M"


def bounds_of(ins: Instruction, lines: list[str]) -> list[str]:
    """An instruction's lines, with those added that note the operands on which its result's linearity rests."""
    name, plain = _name(ins), _plain(ins)
    carries = any(n >= PREDICATE for n in ins.writes)
    at = next((n for n, line in enumerate(lines) if line.startswith("t = ")), -1)

    def spans(operands: list[str], flip: int = 0) -> list[str]:
        return [f"X.edge({word(op.lstrip('-~'))}, None, {flip})" for op in operands if "R" in op and not op.endswith("RZ")]

    try:
        if name == "ISETP" and lines[0].startswith("a = "):
            one, other = plain[-2:]
            flip = 0 if ins.has("U32") or ins.has("EQ", "NE") else 1 << 31
            return [*lines[:at], f"X.edge({_masked(one)}, {_masked(other)}, {flip})", *lines[at:]]
        if name in ("IMNMX", "VIMNMX", "VIADDMNMX"):
            one = f"(({word(plain[1])}) + ({word(plain[2])}))" if name == "VIADDMNMX" else f"({word(plain[1])})"
            other, flip = word(plain[3 if name == "VIADDMNMX" else 2]), 0 if ins.has("U32") else 1 << 31
            return [*lines, f"X.edge({one} & M, ({other}) & M, {flip})"]
        if name in _SUMS and ins.has("64"):
            return [*spans(plain[1:]), *lines, f"X.edge(R[{ins.writes[0]}], None, 0)"]
        if name in _SUMS and carries:
            return [*lines[:at + 1], f"X.edge(t, {_WORD}, 0)", f"X.edge(t, {2 * _WORD}, 0)", *spans(plain[1:]), *lines[at + 1:]]
        if name == "LEA" and (carries or ins.has("HI")):
            shifted = f"X.edge((({word(plain[1])}) << {int(plain[-1], 16)}) & M, None, 0)"
            more = spans(plain[1:2], 1 << 31) if ins.has("SX32") else []
            if not ins.has("HI"):
                more += [f"X.edge(t, {_WORD}, 0)", *spans(plain[2:3])]
            return [*lines[:at + 1], shifted, *spans(plain[1:2]), *more, *lines[at + 1:]]
        if name == "SHF" and ins.has("HI") and "L" in ins.modifiers:
            return [f"X.edge((({word(plain[1])}) << {int(plain[2], 16)}) & M, None, 0)", *spans(plain[1:2]), *lines]
        if name == "LOP3" and int(plain[-1], 16) in _JOINS:
            return [*lines, f"X.joined({', '.join(f'({word(op)}) & M' for op in plain[1:4])})"]
        if name == "IMAD" and ins.has("WIDE"):
            flip = 0 if ins.has("U32") else 1 << 31
            return [*spans(plain[1:3], flip), *spans(plain[3:4]), *lines, f"X.edge(R[{ins.writes[0]}], None, 0)"]
    except (NotModelledError, ValueError, IndexError):
        return [*lines, "X.edge(None, None, 0)"]
    return lines


@dataclass(frozen=True)
class ClosingLoop:
    """An innermost loop that may be closed.

    Attributes
    ----------
    head
        The segment that every iteration starts with.
    members
        Its segments.
    instructions
        Indices of its memory accesses.
    """

    head: int
    members: frozenset[int]
    instructions: tuple[int, ...]


def closing_loops(program: Any) -> dict[int, ClosingLoop]:
    """Innermost loops that may be closed, by their first segment."""
    loops = program.flow.loops
    outer = {loop.parent for loop in loops}
    code, made = program.listing.instructions, {}
    for loop in loops:
        inside = [segment for segment in program.segments if segment.block in loop.blocks]
        indices = [i for segment in inside for i in range(segment.first, segment.last + 1)]
        if loop.header in outer or loop.waits or any(code[i].base in _REFUSED for i in indices):
            continue
        head = next(segment.number for segment in inside if segment.block == loop.header and segment.opens_block)
        made[head] = ClosingLoop(head, frozenset(s.number for s in inside), tuple(i for i in indices if i in program.memory_ops))
    return made


#: Two numbers that are compared (None: one number that must not leave the 32-bit range), and what to flip to have them in order.
Bound = tuple[Value, Value, int]


@dataclass
class _Visit:
    """What is known when a group comes to the head of a loop."""

    registers: list[Value]
    local: dict[int, Value]
    trips: dict[int, int]
    path: int
    step: int
    counts: tuple[dict[int, int], dict[int, int]]
    tallies: tuple[dict[int, Tally], dict[int, Tally]]
    matrices: dict[Any, int]
    chosen: dict[Any, int]
    bulks: int
    accesses: int
    kinds: list[tuple[Any, ...]]
    bounds: list[Bound] = field(default_factory=list)
    joins: list[tuple[Value, ...]] = field(default_factory=list)


class Closer:
    """Watches an execution for loops that can be closed.

    Parameters
    ----------
    machine
        The `execute.Execution`.
    """

    def __init__(self, machine: Any) -> None:
        self.machine, self.program = machine, machine.program
        self.heads: Mapping[int, ClosingLoop] = machine.program.closing
        self.path: list[int] = []
        self.visits: list[_Visit] = []
        self.loop: ClosingLoop | None = None
        self.group: Group | None = None
        self.failures = 0
        self.moves = -1
        self._known: dict[tuple[frozenset[int], tuple[int, ...], bool], bool] = {}

    def function(self, group: Group, segment: Segment) -> Callable[..., Any]:
        """What to run for a segment; where a loop that can be closed begins, its registers and all counts are moved on first."""
        number = segment.number
        if number in self.heads:
            self._arrive(group, segment)
        elif self.loop is not None and (number not in self.loop.members or group is not self.group):
            self.loop = None
        self.path.append(number)
        if self.loop is None or self.failures >= _PATIENCE:
            return segment.run
        return self.program.probes[number]

    # -- what probes note ------------------------------------------------------------------------------------------

    def edge(self, one: Value, other: Value, flip: int) -> None:
        """Two numbers that are compared, once the bits of `flip` are flipped; with None, one that must not leave the 32-bit range."""
        self.visits[-1].bounds.append((one, other, flip))

    def joined(self, *parts: Value) -> None:
        """Numbers whose bits are joined."""
        self.visits[-1].joins.append(parts)

    def _arrive(self, group: Group, segment: Segment) -> None:
        loop = self.heads[segment.number]
        if self.loop is not loop or group is not self.group or self.moves != self.machine.moves:
            self.loop, self.group, self.moves, self.failures = loop, group, self.machine.moves, 0
            self.visits = []
        if self.failures >= _PATIENCE:
            return
        self.visits.append(self._visit(group, segment))
        self.failures += 1
        for period in range(1, min(_LONGEST, (len(self.visits) - 1) // 2) + 1):
            if self._close(group, segment, period):
                self.visits, self.failures = [self._visit(group, segment)], 1
                return

    def _visit(self, group: Group, segment: Segment) -> _Visit:
        machine, loop = self.machine, self.loop
        assert loop is not None
        accesses = machine.trace.accesses if machine.trace else []
        since = self.visits[-1].accesses if self.visits else len(accesses)
        return _Visit(
            [group.registers[n] for n in segment.live], dict(group.local), dict(group.trips), len(self.path), machine.steps,
            ({n: machine.counts[n] for n in loop.members}, {n: machine.taken[n] for n in loop.members}),
            tuple({i: Tally(**vars(side[i])) for i in loop.instructions if i in side}  # type: ignore[arg-type]
                  for side in (machine.tallies, machine.copies)),
            dict(machine.matrices), {key: entry[1] for key, entry in machine.chooser.made.items()}, len(machine.bulks),
            len(accesses), [self._kind(access) for access in accesses[since:]])

    # -- closing -----------------------------------------------------------------------------------------------------

    def _close(self, group: Group, segment: Segment, period: int) -> bool:
        """Skip as many periods as are like the last two; False where there are too few."""
        one, two, now = (self.visits[n] for n in (-1 - 2 * period, -1 - period, -1))
        way = self.path[two.path:now.path]
        if way != self.path[one.path:two.path] or two.trips != now.trips:
            return False
        steps = []
        for a, b, c in zip(one.registers, two.registers, now.registers, strict=True):
            step = _step(b, c)
            if step is None or not _same_step(_step(a, b), step):
                return False
            steps.append(step)
        moving = frozenset(n for n, step in zip(segment.live, steps, strict=True) if type(step) is not int or step)
        everyone = group.lanes.count == int(self.machine.alive.sum())
        if not self._alike(one, two, now, period) or not self._linear(moving, tuple(way), everyone):
            return False
        first = [pair for visit in self.visits[-1 - 2 * period:-1 - period] for pair in visit.bounds]
        second = [pair for visit in self.visits[-1 - period:-1] for pair in visit.bounds]
        joins = [[parts for visit in part for parts in visit.joins]
                 for part in (self.visits[-1 - 2 * period:-1 - period], self.visits[-1 - period:-1])]
        if len(first) != len(second) or not all(_disjoint(a, b) for a, b in zip(*joins, strict=True)):
            return False
        times = _room(first, second)
        if times is None or times < _WORTH:
            return False
        self._skip(group, segment, steps, (one, two, now), way, times)
        return True

    def _alike(self, one: _Visit, two: _Visit, now: _Visit, period: int) -> bool:
        """Whether both periods left local memory alone and accessed memory in the same patterns."""
        if any(one.local.get(k) is not v and not _same_step(_step(one.local.get(k), v), 0) for k, v in now.local.items()):
            return False
        if two.bulks - one.bulks != now.bulks - two.bulks:
            return False
        return all(a.kinds == b.kinds for a, b in zip(self.visits[-2 * period:-period], self.visits[-period:], strict=True))

    def _kind(self, access: tuple[int, int, int, int]) -> tuple[Any, ...]:
        """Equal for accesses of one instruction that cost the same; one aligned address for all threads costs the same everywhere."""
        _, index, number, base = access
        pattern = self.machine.patterns.patterns[number]
        if pattern.offsets is None and base % self.program.memory_ops[index].thread_bytes == 0:
            return index, pattern.lanes, pattern.threads, b"" if pattern.active is None else pattern.active.tobytes()
        return index, number

    def _linear(self, moving: frozenset[int], way: tuple[int, ...], everyone: bool) -> bool:
        """Whether only linear operations stand between the registers that move and what is wanted of them."""
        key = (moving, way, everyone)
        if key not in self._known:
            self._known[key] = self._stays_linear(set(moving), way, everyone)
        return self._known[key]

    def _stays_linear(self, moving: set[int], way: tuple[int, ...], everyone: bool) -> bool:
        machine, program = self.machine, self.program
        code, needed = program.listing.instructions, program.plan.needed
        for number in way:
            piece = program.segments[number]
            for ins in code[piece.first:piece.last + 1]:
                i, op = ins.index, program.memory_ops.get(ins.index)
                if ins.base == "BAR" and not everyone:
                    return False
                if op is not None and machine.has_data and op.space == GLOBAL and (op.kind in (STORE, ATOMIC) or needed[i]):
                    return False
                read = moving.intersection(ins.reads)
                if not needed[i]:
                    if read and ins.base in MBARRIER | TCGEN05 and program.addresses:
                        return False
                    continue
                guarded = ins.guard is not None
                if read and op is None and ins.base not in TMA | TENSOR_CORE and not program.lines.opaque(i):
                    if not _keeps_linear(ins, read):
                        return False
                    moving.update(n for n in ins.writes if n < PREDICATE)
                elif read and op is not None and op.space != GLOBAL and op.kind == LOAD:
                    return False
                elif not guarded:
                    moving.difference_update(ins.writes)
        return True

    def _skip(self, group: Group, segment: Segment, steps: list[Any], visits: tuple[_Visit, _Visit, _Visit], way: list[int],
              times: int) -> None:
        """Move registers and counts on by so many periods."""
        machine = self.machine
        one, two, now = visits
        for n, step in zip(segment.live, steps, strict=True):
            if type(step) is not int or step:
                group.registers[n] = (group.registers[n] + times * step) & M32
        machine.steps += times * len(way)
        for counts, before in zip((machine.counts, machine.taken), two.counts, strict=True):
            for n, count in before.items():
                counts[n] += times * (counts[n] - count)
        for side, tallies in zip((machine.tallies, machine.copies), two.tallies, strict=True):
            for i in self.heads[segment.number].instructions:
                if i in side:
                    into, was = side[i], tallies.get(i, Tally())
                    for name in Tally.__dataclass_fields__:
                        setattr(into, name, getattr(into, name) + times * (getattr(into, name) - getattr(was, name)))
        for key, count in list(machine.matrices.items()):
            machine.matrices[key] = count + times * (count - two.matrices.get(key, 0))
        for key, entry in machine.chooser.made.items():
            entry[1] += times * (entry[1] - two.chosen.get(key, 0))
        pairs = list(zip(machine.bulks[one.bulks:two.bulks], machine.bulks[two.bulks:now.bulks], strict=True))
        for k in range(1, times + 1):
            for a, b in pairs:
                place = tuple(_moved(x, y, k) for x, y in zip(a.coordinates, b.coordinates, strict=True))
                machine.bulks.append(Bulk(b.instruction, -1, b.shared, place, b.descriptor, b.times))
        if machine.trace is not None:
            end = len(machine.trace.segments)
            machine.trace.repeats.append(Repeat(end - len(way), end, times))


def _keeps_linear(ins: Instruction, moving: set[int]) -> bool:
    """Whether an instruction's result moves in equal steps where its operands do."""
    name = _name(ins)
    if name == "SHF":
        return "L" in ins.modifiers and not ins.has("W") and ins.operands[2].startswith("0x") and (ins.has("HI") or ins.has("U32"))
    if name == "LOP3":
        return int(_plain(ins)[-1], 16) in _JOINS and not any(n >= PREDICATE for n in ins.writes)
    if name not in _LINEAR:
        return False
    if name == "ISETP":
        return not ins.has("U64", "S64", "64")
    if name == "IMAD":
        factors = _plain(ins)[1:3]
        carries = any(n >= PREDICATE for n in ins.writes)
        return not ins.has("HI") and not carries and sum(_reads(op, moving) for op in factors) < 2
    if name == "LEA" and ins.has("HI"):
        return all(n < PREDICATE for n in ins.writes)
    return name in _SUMS or not ins.has("64")


def _reads(operand: str, registers: set[int]) -> bool:
    return not registers.isdisjoint(span(operand, 1))


def _moved(before: Value, after: Value, times: int) -> Value:
    return (after + times * (after - before)) & M32 if type(before) is int and type(after) is int else after


def _step(before: Value, after: Value) -> Any:
    """By how much a value moved, modulo 2**32, one number or one a thread; None where that is not known."""
    if before is after:
        return 0
    kinds = (type(before), type(after))
    if Unknown in kinds:
        same = kinds[0] is kinds[1] and not has_bits(before) and not has_bits(after) and before.cause == after.cause
        return 0 if same else None
    if Partial in kinds:
        same = kinds[0] is kinds[1] and np.array_equal(before.known, after.known) and np.array_equal(
            before.value[before.known], after.value[after.known])
        return 0 if same else None
    if before is None or after is None:
        return None
    if bool in kinds or (type(after) is np.ndarray and after.dtype.kind == "b"):
        return 0 if np.array_equal(before, after) else None
    if kinds == (int, int):
        return (after - before) & M32
    step = (after - before) & np.uint64(M32) if type(after) is np.ndarray and type(before) is np.ndarray else (
        (np.asarray(after, dtype=np.uint64) - np.asarray(before, dtype=np.uint64)) & np.uint64(M32))
    first = int(step[0])
    return first if (step == first).all() else step


def _same_step(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    return bool(one == other) if type(one) is int and type(other) is int else np.array_equal(one, other)


def _room(first: list[Bound], second: list[Bound]) -> int | None:
    """How many more periods leave all comparisons as they are; None where one cannot be foreseen or nothing moves."""
    least: int | None = None
    for (a, b, flip), (c, d, _) in zip(first, second, strict=True):
        if a is None:
            return None
        if a is c and b is d:
            continue
        one, other = (0 if x is None else _advance(x ^ flip if flip else x, y ^ flip if flip else y) for x, y in ((a, c), (b, d)))
        if one is None or other is None:
            return None
        if type(one) is int and type(other) is int and not one and not other:
            continue
        limits = []
        for value, step in ((c, one), (d, other)):
            if type(step) is not int or step:
                many = _plain_numbers(value ^ flip)
                limits += [(many + 1, step)] + ([(many - _WORD, step)] if np.all(many < _WORD) else [])
        if d is not None and type(c) is not Unknown and type(d) is not Unknown:
            limits.append((_plain_numbers(c ^ flip) - _plain_numbers(d ^ flip), one - other))
        for value, step in limits:
            room = _until_zero(value, step)
            if room is not None and (least is None or room < least):
                least = room
    return least


def _disjoint(before: tuple[Value, ...], after: tuple[Value, ...]) -> bool:
    """Whether at most one of some numbers moves, and by steps that are multiples of a power of two above all bits of the others."""
    steps = [_advance(a, b) for a, b in zip(before, after, strict=True)]
    moving = [n for n, step in enumerate(steps) if type(step) is not int or step]
    if not moving:
        return True
    if len(moving) > 1 or type(steps[moving[0]]) is not int or any(type(v) in (Unknown, Partial) for v in after):
        return False
    grain = steps[moving[0]] & -steps[moving[0]]
    return all(int(np.max(value)) < grain for n, value in enumerate(after) if n != moving[0])


def _plain_numbers(value: Value) -> Any:
    return value if type(value) is int else value.astype(np.int64)


def _advance(before: Value, after: Value) -> Any:
    """By how much a number moved, one for all threads where they agree; 0 for what is unknown; None where that is not known."""
    kinds = (type(before), type(after))
    if kinds == (int, int):
        return after - before
    if Unknown in kinds:
        return 0 if kinds == (Unknown, Unknown) else None
    if Partial in kinds:
        return None
    step = _plain_numbers(after) - _plain_numbers(before)
    first = int(step[0])
    return first if (step == first).all() else step


def _until_zero(value: Any, step: Any) -> int | None:
    """Steps until a number that moves loses its sign; None for never."""
    if type(step) is int:
        if step == 0:
            return None
        if type(value) is not int:
            toward = value[value >= 0] if step < 0 else value[value <= 0]
            if not len(toward):
                return None
            value = int(toward.min() if step < 0 else toward.max())
        if value and (value > 0) == (step > 0):
            return None
        return (abs(value) - 1) // abs(step) if value else 0
    many, steps = np.broadcast_arrays(np.asarray(value, dtype=np.int64), step)
    toward = (steps != 0) & ((many == 0) | ((many > 0) != (steps > 0)))
    if not toward.any():
        return None
    return int(((np.abs(many[toward]) - 1) // np.abs(steps[toward])).clip(min=0).min())
