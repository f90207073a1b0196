"""What is assumed where control, masks or addresses depend on data: chosen by a rule or by the user, named, counted."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Final

from ...errors import UnknownNameError
from .cfg import Loop
from .values import Unknown

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
#: Instructions with which a way ends, and trips of a loop when two ways are compared.
_ENDS: Final = frozenset({"EXIT", "BRA", "NOP", "BSYNC", "RET", "WARPSYNC"})
_TRIPS: Final = 16
#: Names of functions that ptxas links in for the rare operands of divisions, roots and angles.
_INTERNAL: Final = ("__internal_", "__cuda_sm")
#: Constant bank 4 holds addresses of the module's own data; instructions back to it from an address, at most.
_TABLES: Final = "c[0x4]"
_NEAR: Final = 24


@dataclass(frozen=True)
class Assumption:
    """Something that only the data could tell, and what was taken in its place.

    Attributes
    ----------
    name
        ``"line 34"``; with its address behind it where a line has several. Pass it in ``assume=`` to decide it: for a
        loop a number of trips, for a branch whether the line is executed that `choice` names, the first of the two ways' that differ
        (where no source line tells them apart: whether the jump is taken).
    kind
        ``"loop"``, ``"branch"``, ``"mask"`` (which threads of an access are active), ``"address"``, ``"shape"``,
        ``"barrier"`` or ``"sample"`` (counts scaled up from some program ids).
    where, address
        ``file.py:34``, and the instruction's address in the kernel (-1 for none).
    cause
        What it depends on.
    choice
        What was taken.
    times
        How often.
    """

    name: str
    kind: str
    where: str
    address: int
    cause: str
    choice: str
    times: int

    @property
    def holds(self) -> bool:
        """Of a branch: what ``assume=`` would have to say to have the same."""
        return self.choice.startswith("taken") or " is executed" in self.choice

    def __str__(self) -> str:
        return f"{self.where}: {self.kind} depends on {self.cause}: {self.choice} ({self.times} times)"


class Chooser:
    """Decides unknown branches and remembers every assumption.

    A loop whose end depends on data makes one trip (or as many as `given` says); of a branch that depends on data the way is taken that
    executes the line below it, so that the body of an `if` is counted. Where the two ways of a branch do not meet before the kernel ends
    (an early return), the one with more work is taken; assertions hold; library functions (sine, division) meet no rare operands.
    """

    def __init__(self, program: Any, given: Mapping[str, int | bool] | None = None) -> None:
        self.program = program
        self.given = dict(given or {})
        self.used: set[str] = set()
        #: Cause and count by instruction, kind and choice.
        self.made: dict[tuple[int, str, str], list[Any]] = {}
        self._longer: dict[int, bool | None] = {}
        self._first: dict[int, bool] = {}
        #: Blocks from which control may come to the kernel's end, and not only to a failed assertion.
        self._exits = _blocks_before(program, "EXIT") if any(i.base == "KILL" for i in program.listing.instructions) else None
        self._apart: dict[int, list[set[int]]] = {}
        self._after: dict[int, list[int]] = {}
        for one, other in program.flow.edges:
            self._after.setdefault(one, []).append(other)

    def name_of(self, index: int) -> str:
        """How an instruction's assumption is called."""
        ins = self.program.listing.instructions[index]
        line = f"line {ins.source.line}" if ins.source else ""
        return f"{line} at {ins.address:#x}" if line else f"at {ins.address:#x}"

    def _asked(self, index: int) -> int | bool | None:
        full, where = self.name_of(index), self.program.where(index)
        short = where.rpartition("/")[2]
        for name in (full, full.split(" at ")[0], where, short):
            if name in self.given:
                self.used.add(name)
                return self.given[name]
        return None

    def note(self, kind: str, index: int, cause: str, choice: str) -> None:
        """Remember an assumption."""
        entry = self.made.setdefault((index, kind, choice), [cause, 0])
        entry[1] += 1

    def branch(self, segment: Any, unknown: Unknown, group: Any) -> bool:
        """Whether a jump whose condition is unknown is taken."""
        index, asked = segment.last, self._asked(segment.last)
        loop, leaves = self.exit_of(segment)
        if loop is None:
            taken, choice = self._way(segment, asked)
            self.note("branch", index, unknown.cause, choice)
            return taken
        if loop.waits:
            return leaves
        wanted = 1 if asked is None else int(asked)
        done = group.trips[segment.number] = group.trips.get(segment.number, 0) + 1
        stays = done <= wanted if self.before_its_body(segment, loop, leaves) else done < wanted
        if not stays:
            group.trips[segment.number] = 0
            given = "" if asked is None else ", as given"
            self.note("loop", index, unknown.cause, f"{wanted} trip{'s' if wanted != 1 else ''}{given}")
        return leaves ^ stays

    def before_its_body(self, segment: Any, loop: Loop, leaves: bool) -> bool:
        """Whether a loop is left before its body, not behind it: at its head, or where source lines below the jump's follow inside."""
        if segment.number not in self._first:
            stays = segment.next if leaves else segment.target
            after = set() if stays is None else self._reached(self.program.segments[stays].block, {loop.header}) & loop.blocks
            self._first[segment.number] = segment.block not in loop.latches and (
                segment.block == loop.header or self._first_line(segment, after) is not None)
        return self._first[segment.number]

    def _way(self, segment: Any, asked: int | bool | None) -> tuple[bool, str]:
        """Whether a jump that is no loop's end is taken, and the choice in words."""
        why = ""
        sides = self._sides(segment)
        lines = [self._first_line(segment, side) for side in sides]
        body = None if lines[0] == lines[1] else lines[1] is None or (lines[0] is not None and lines[0] < lines[1])
        ends = self._exits if asked is None else None
        stops = [ends is not None and bool(side) and not side & ends for side in sides]
        if stops[0] != stops[1]:
            return stops[1], "an assertion, taken to hold"
        starts = [None if way is None else self.program.segments[way].block for way in (segment.target, segment.next)]
        rare = [asked is None and start is not None and self._is_rare(segment, side, start)
                for side, start in zip(sides, starts, strict=True)]
        if rare[0] != rare[1]:
            return rare[1], "the usual way of a library function"
        if asked is None:
            longer = self._longer_way(segment)
            taken = bool(body if longer is None else longer)
            why = "" if longer is None else ", the way with more work of two that end apart"
        else:
            into = [any(loop.header in side and segment.block not in loop.blocks for loop in self.program.flow.loops) for side in sides]
            why = ", as given"
            if type(asked) is int and into[0] != into[1]:  # a loop of that many trips lies behind one way
                taken = into[0] == (asked > 0)
            else:
                taken = bool(asked) if body is None else bool(asked) == body
        if body is None:
            return taken, ("taken" if taken else "not taken") + why
        return taken, f"line {lines[0 if body else 1]} is {'executed' if taken == body else 'passed over'}{why}"

    def _sides(self, segment: Any) -> list[set[int]]:
        """The blocks that only one way of a jump reaches, before control comes back to it: of the way taken, and of the other."""
        if segment.number not in self._apart:
            segments = self.program.segments
            reached = [self._reached(None if way is None else segments[way].block, {segment.block})
                       for way in (segment.target, segment.next)]
            self._apart[segment.number] = [reached[0] - reached[1], reached[1] - reached[0]]
        return self._apart[segment.number]

    def _reached(self, start: int | None, without: Set[int]) -> set[int]:
        """The blocks that can be reached from one without passing some."""
        todo = [] if start is None or start in without else [start]
        seen = set(todo)
        while todo:
            more = set(self._after.get(todo.pop(), ())) - seen - without
            seen |= more
            todo += sorted(more)
        return seen

    def _is_rare(self, segment: Any, blocks: Set[int], start: int) -> bool:
        """Whether a side is the way of a CUDA library function for rare operands: it begins on the jump's own source line (the function is
        inlined) and has such a block, or every way through it from its first block leads to one. No loop goes round beside them, as one
        with a division in its body does.
        """
        import networkx

        rare = {block for block in blocks if self._for_rare_operands(block)}
        if not rare:
            return False
        usual = set() if self._first_line(segment, {start}) is None else self._reached(start, rare)
        beside = networkx.DiGraph((one, other) for one in blocks - rare for other in self._after.get(one, ()) if other in blocks - rare)
        return usual <= blocks and all(block in self._after for block in usual) and networkx.is_directed_acyclic_graph(beside)

    def _for_rare_operands(self, block: int) -> bool:
        """Whether a block is of a library function for rare operands (large angles, denormals): it calls an internal function or reads a
        table of the library's.
        """
        instructions = self.program.flow.blocks[block].instructions
        return any((ins.base == "CALL" and any(name in op for op in ins.operands for name in _INTERNAL))
                   or (ins.base == "LDG" and self._from_table(ins.index)) for ins in instructions)

    def _from_table(self, index: int) -> bool:
        """Whether an address comes from the constants in which the library's tables have theirs."""
        code, writers = self.program.listing.instructions, self.program.lines.writers
        todo, seen = [index], {index}
        while todo and len(seen) < _NEAR:
            at = todo.pop()
            if any(op.startswith(_TABLES) for op in code[at].operands):
                return True
            for register in code[at].reads:
                before = writers.get(register, ())
                place = bisect_left(before, at)
                if place and before[place - 1] not in seen and before[place - 1] not in self.program.memory_ops:
                    seen.add(before[place - 1])
                    todo.append(before[place - 1])
        return False

    def _first_line(self, segment: Any, blocks: Set[int]) -> int | None:
        """The first source line below a jump's that blocks hold, in the same file."""
        code, flow = self.program.listing.instructions, self.program.flow
        source = code[segment.last].source
        if source is None:
            return None
        found = [ins.source.line for block in blocks for ins in flow.blocks[block].instructions
                 if ins.source is not None and ins.source.file == source.file and ins.source.line > source.line]
        return min(found, default=None)

    def _longer_way(self, segment: Any) -> bool | None:
        """Whether the way of a jump that is taken has more work; None where both ways meet before the kernel ends."""
        if segment.number not in self._longer:
            self._longer[segment.number] = self._compare_ways(segment)
        return self._longer[segment.number]

    def _compare_ways(self, segment: Any) -> bool | None:
        segments, flow = self.program.segments, self.program.flow
        reached = [self._reached(None if way is None else segments[way].block, frozenset()) for way in (segment.target, segment.next)]
        only_ends = {b.index for b in flow.blocks if all(i.base in _ENDS for i in b.instructions)}
        if segment.target is None or (reached[0] & reached[1]) - only_ends:
            return None
        depth = dict.fromkeys(range(len(flow.blocks)), 0)
        for loop in flow.loops:
            for block in loop.blocks:
                depth[block] = max(depth[block], loop.depth)
        work = [sum(len(flow.blocks[b].instructions) * _TRIPS**depth[b] for b in side) for side in reached]
        return work[0] > work[1]

    def exit_of(self, segment: Any) -> tuple[Loop | None, bool]:
        """The innermost loop that one way of this jump leaves, and whether taking the jump leaves it."""
        segments = self.program.segments
        ways = [None if n is None else segments[n].block for n in (segment.target, segment.next)]
        inside = [loop for loop in self.program.flow.loops if segment.block in loop.blocks]
        for loop in sorted(inside, key=lambda one: len(one.blocks)):
            stay = [way in loop.blocks for way in ways]
            if stay[0] != stay[1]:
                return loop, stay[1]
        return None, False

    def check_used(self, names: Iterable[str]) -> None:
        """Raise for decisions that named nothing unknown."""
        unused = set(names) - self.used
        if unused:
            known = {name for index, kind, _ in self.made if kind in ("loop", "branch")
                     for name in (self.name_of(index), self.name_of(index).split(" at ")[0])}
            raise UnknownNameError("assumption", sorted(unused)[0], known, "assume=")

    def assumptions(self) -> tuple[Assumption, ...]:
        """All that was assumed, in order of address; what is assumed in one line for one cause is one assumption."""
        made: dict[tuple[Any, ...], Assumption] = {}
        for (index, kind, choice), (cause, times) in sorted(self.made.items()):
            where, ins = self.program.where(index), self.program.listing.instructions[index]
            short, name = _ADDRESS.sub("", cause), self.name_of(index)
            key = (kind, where, short, choice) if ins.source else (index, kind, choice)
            if key not in made:
                made[key] = Assumption(name, kind, where, ins.address, cause, choice, times)
                continue
            same = made[key]
            made[key] = replace(same, name=same.name if same.name == name else same.name.split(" at ")[0],
                                cause=cause if same.cause == cause else short, times=same.times + times)
        return tuple(made.values())


def _blocks_before(program: Any, base: str) -> set[int]:
    """Blocks from which control may reach an instruction of this opcode."""
    before: dict[int, list[int]] = {}
    for one, other in program.flow.edges:
        before.setdefault(other, []).append(one)
    todo = [block.index for block in program.flow.blocks if any(ins.base == base for ins in block.instructions)]
    seen = set(todo)
    while todo:
        more = set(before.get(todo.pop(), ())) - seen
        seen |= more
        todo += sorted(more)
    return seen
