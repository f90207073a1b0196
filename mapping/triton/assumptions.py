"""What is assumed where control, masks or addresses depend on data: chosen by a rule or by the user, named, counted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ...errors import UnknownNameError
from .cfg import Loop
from .values import Unknown

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
#: Instructions with which a way ends, and trips of a loop when two ways are compared.
_ENDS: Final = frozenset({"EXIT", "BRA", "NOP", "BSYNC", "RET", "WARPSYNC"})
_TRIPS: Final = 16


@dataclass(frozen=True)
class Assumption:
    """Something that only the data could tell, and what was taken in its place.

    Attributes
    ----------
    name
        ``"line 34"``; with its address behind it where a line has several. Pass it in ``assume=`` to decide it: for a
        loop a number of trips, for a branch whether it is taken.
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

    def __str__(self) -> str:
        return f"{self.where}: {self.kind} depends on {self.cause}: {self.choice} ({self.times} times)"


class Chooser:
    """Decides unknown branches and remembers every assumption.

    A loop whose end depends on data makes one trip (or as many as `given` says); a branch that depends on data falls
    through, so that the code behind a skipped `if` is counted. Where the two ways of a branch do not meet before the kernel ends (an early
    return), the one with more work is taken.
    """

    def __init__(self, program: Any, given: Mapping[str, int | bool] | None = None) -> None:
        self.program = program
        self.given = dict(given or {})
        self.used: set[str] = set()
        #: Cause and count by instruction, kind and choice.
        self.made: dict[tuple[int, str, str], list[Any]] = {}
        self._longer: dict[int, bool | None] = {}

    def name_of(self, index: int) -> str:
        """How an instruction's assumption is called."""
        ins = self.program.listing.instructions[index]
        line = f"line {ins.source.line}" if ins.source else ""
        return f"{line} at {ins.address:#x}" if line else f"at {ins.address:#x}"

    def _asked(self, index: int) -> int | bool | None:
        full = self.name_of(index)
        for name in (full, full.split(" at ")[0]):
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
            longer = self._longer_way(segment) if asked is None else None
            taken = bool(longer) if asked is None else bool(asked)
            why = "" if longer is None else ", the way with more work of two that end apart"
            self.note("branch", index, unknown.cause, ("taken" if taken else "not taken") + why)
            return taken
        if loop.waits:
            return leaves
        wanted = 1 if asked is None else int(asked)
        done = group.trips[segment.number] = group.trips.get(segment.number, 0) + 1
        at_top = segment.block == loop.header and segment.block not in loop.latches
        stays = done <= wanted if at_top else done < wanted
        if not stays:
            group.trips[segment.number] = 0
            self.note("loop", index, unknown.cause, f"{wanted} trip{'s' if wanted != 1 else ''}")
        return leaves ^ stays

    def _longer_way(self, segment: Any) -> bool | None:
        """Whether the way of a jump that is taken has more work; None where both ways meet before the kernel ends."""
        if segment.number not in self._longer:
            self._longer[segment.number] = self._compare_ways(segment)
        return self._longer[segment.number]

    def _compare_ways(self, segment: Any) -> bool | None:
        segments, flow = self.program.segments, self.program.flow
        after: dict[int, list[int]] = {}
        for one, other in flow.edges:
            after.setdefault(one, []).append(other)
        reached = []
        for way in (segment.target, segment.next):
            todo = [] if way is None else [segments[way].block]
            seen = set(todo)
            while todo:
                more = set(after.get(todo.pop(), ())) - seen
                seen |= more
                todo += sorted(more)
            reached.append(seen)
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

    def check_used(self) -> None:
        """Raise for names in `given` that named nothing unknown."""
        unused = self.given.keys() - self.used
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
