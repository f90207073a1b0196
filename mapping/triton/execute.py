"""Following a kernel's control flow: threads step through segments, split at divergent branches and join again.

Everything that does not depend on data is exact: integers, predicates, lane operations, constants and parameters. What
does is `Unknown`; where control depends on it, an assumption is made, named and counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import KernelError
from .assumptions import Chooser
from .closing import Closer
from .effects import Effects
from .group import Group, Lanes, Pending
from .launch import Buffer
from .parameters import ConstantBank
from .segments import BARRIER, BRANCH, EXIT, FALL, JOIN, RETURN, Segment
from .values import Partial, Unknown, Value, settled

#: Steps (segments executed) after which a kernel is taken to never end.
MAX_STEPS = 1_000_000
_CHECK_EVERY = 4096


class Execution(Effects):
    """The state of some CTAs of one launch.

    Parameters
    ----------
    lanes
        Lanes of each warp that are followed, all by default. Some stand for their warp where control is the same for all lanes.
    close
        Count loops in closed form where that is exact (see `closing`); a trace then has `repeats`.
    """

    def __init__(self, program: Any, constants: ConstantBank, program_ids: np.ndarray, *, buffers: tuple[Buffer, ...] = (),
                 chooser: Chooser, trace: bool = False, max_steps: int = MAX_STEPS, cluster_ranks: np.ndarray | None = None,
                 lanes: tuple[int, ...] = (), close: bool = False) -> None:
        super().__init__(program, constants, len(program_ids), buffers, chooser, trace)
        self.segments: tuple[Segment, ...] = program.segments
        self.program_ids, self.max_steps = program_ids, max_steps
        self.cluster_ranks = np.zeros(len(program_ids), dtype=np.int64) if cluster_ranks is None else cluster_ranks
        self.counts = [0] * len(self.segments)
        self.taken = [0] * len(self.segments)
        self.lane_sets: list[Lanes] = []
        self._numbers: dict[bytes, Lanes] = {}
        self._arrived: dict[int, np.ndarray] = {}
        self._waiting: list[tuple[Group, int, int | None]] = []
        self._joining: list[tuple[Group, str]] = []
        self._seen: dict[tuple[int, int], tuple[Any, ...]] = {}
        self.sampled = bool(lanes)
        #: How often another group took over.
        self.moves = 0
        possible = close and not program.plan.tracks_shared and (trace or not program.addresses) and bool(program.closing)
        self.closer = Closer(self) if possible else None
        self.alive = np.ones(len(program_ids) * self.threads, dtype=bool)
        if lanes:
            self.alive = np.tile(np.isin(np.arange(32), lanes), len(self.alive) // 32)

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
        everyone = Group(self.lanes(np.flatnonzero(self.alive)), self)
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
        warps, number, closer = len(group.lanes.warps), group.lanes.number, self.closer
        self.moves += 1
        while True:
            segment = segments[group.place]
            run = segment.run if closer is None else closer.function(group, segment)
            self.steps += 1
            if self.steps % _CHECK_EVERY == 0:
                self._check(group, segment)
            counts[segment.number] += warps
            if trace is not None:
                trace.segments.append(segment.number)
                trace.lanes.append(number)
            result = run(registers, constants, self, group)
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
                if trace is not None and (guard is False or type(guard) is np.ndarray):
                    idle = np.ones(warps, dtype=bool) if guard is False else ~np.logical_or.reduceat(guard, group.lanes.starts)
                    if idle.any():
                        trace.skipped.append((len(trace.segments) - 1, tuple(group.lanes.warps[idle].tolist())))
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

    def edge(self, one: Value, other: Value, flip: int) -> None:
        """Two numbers that a loop which may be closed compares."""
        if self.closer is not None:
            self.closer.edge(one, other, flip)

    def joined(self, *parts: Value) -> None:
        """Numbers whose bits such a loop joins."""
        if self.closer is not None:
            self.closer.joined(*parts)

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


def _frozen(value: Value) -> Any:
    """A register's value for comparison; None for unknown ones."""
    return None if type(value) in (Unknown, Partial) else value.tobytes() if type(value) is np.ndarray else value
