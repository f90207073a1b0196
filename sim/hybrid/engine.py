"""Tasks of a hybrid system's step on the event engine: processor, units in memory, links, each one task at a time, in program order."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import simpy

from ...errors import PresiliconError
from ..result import Span


@dataclass(frozen=True)
class Task:
    """One run of an op, or one transfer.

    Attributes
    ----------
    name, op, lane
        Label, name of the op, and what does it: ``"xpu"``, ``"pim"``, ``"link"``, ``"fabric"``.
    seconds
        Time of the run; with a fetch of its own (`fetch_s`) what remains when its weights are there.
    after
        Positions of the tasks that it needs, all before its own.
    memory
        Whether it takes the memory that processor and units exclude each other from.
    fetch_s, fetch_bytes
        Time and bytes of weights that may be fetched before it starts.
    alone_s
        Time of the run where nothing is fetched ahead.
    beside
        Time of the run, and of the fetch, over that by itself where processor and units share memory and the other one works all along;
        while it does not, the run goes on at full rate.
    crossed_bytes
        Bytes of a transfer over the link.
    """

    name: str
    op: str
    lane: str
    seconds: float
    after: tuple[int, ...] = ()
    memory: bool = False
    fetch_s: float = 0.0
    fetch_bytes: float = 0.0
    alone_s: float = 0.0
    beside: float = 1.0
    crossed_bytes: float = 0.0


@dataclass(frozen=True)
class Played:
    """When everything ran.

    Attributes
    ----------
    time_s
        End of the last task.
    spans
        Bars by lane.
    busy_s
        Busy seconds by lane.
    waited_s
        Idle seconds of the first lane before a task that waited for the second.
    slowed_s
        Seconds that a lane ran longer since the other one used the memory as well.
    """

    time_s: float
    spans: tuple[Span, ...]
    busy_s: Mapping[str, float]
    waited_s: Mapping[tuple[str, str], float]
    slowed_s: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _State:
    spans: list[Span] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    waited: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    free_at: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    slowed: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    holder: str = ""
    working: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    changed: simpy.Event | None = None

    def work(self, env: simpy.Environment, lane: str, more: int) -> None:
        """A lane begins (1) or ends (-1) to use the memory; whoever is slowed by it looks again."""
        self.working[lane] += more
        before, self.changed = self.changed, env.event()
        if before is not None:
            before.succeed()


def play(tasks: Sequence[Task], *, blocked: bool, scratchpad_bytes: float = 0.0) -> Played:
    """Run tasks, each after those that it needs, one at a time on each lane, earlier tasks first where several are ready.

    Parameters
    ----------
    tasks
        In program order.
    blocked
        Tasks with `Task.memory` exclude each other.
    scratchpad_bytes
        Room for weights that are fetched ahead; 0: none is.

    Raises
    ------
    PresiliconError
        A task needs one that does not come before it, or weights fetched ahead fill the scratchpad for good.
    """
    env = simpy.Environment()
    lanes = {lane: simpy.PriorityResource(env) for lane in dict.fromkeys(task.lane for task in tasks)}
    memory = simpy.PriorityResource(env)
    done = [env.event() for _ in tasks]
    state = _State()
    fetched: dict[int, simpy.Event] = {}
    room = simpy.Container(env, capacity=scratchpad_bytes, init=scratchpad_bytes) if scratchpad_bytes else None
    if room is not None:
        ahead = [(i, task) for i, task in enumerate(tasks) if 0 < _whole_bytes(task) <= scratchpad_bytes]
        fetched = {i: env.event() for i, _ in ahead}
        env.process(_fetch(env, ahead, fetched, room, state))
    for position, task in enumerate(tasks):
        if any(not 0 <= other < position for other in task.after):
            raise PresiliconError(f"task {task.name!r} needs a task that does not come before it")
        env.process(_run(env, position, task, tasks, lanes, memory if blocked and task.memory else None, done, state, fetched, room))
    env.run()
    stuck = [task.name for task, event in zip(tasks, done, strict=True) if not event.processed]
    if stuck:
        raise PresiliconError(f"task {stuck[0]!r} and {len(stuck) - 1} more never ran: weights fetched ahead fill the scratchpad")
    end = max((span.start_s + span.duration_s for span in state.spans), default=0.0)
    return Played(end, tuple(sorted(state.spans, key=lambda s: (s.start_s, s.lane))), dict(state.busy), dict(state.waited),
                  dict(state.slowed))


def _whole_bytes(task: Task) -> int:
    """Room that a task's weights take; whole bytes, whose sums are exact, so that what was taken fits back."""
    return math.ceil(task.fetch_bytes)


def _fetch(env: simpy.Environment, ahead: Sequence[tuple[int, Task]], fetched: Mapping[int, simpy.Event], room: simpy.Container,
           state: _State) -> Generator[Any, Any, None]:
    for position, task in ahead:
        yield room.get(_whole_bytes(task))
        start = float(env.now)
        yield from _progress(env, state, "memory", task.fetch_s, task.beside)
        spent = float(env.now) - start
        state.spans.append(Span(f"fetch {task.name}", "memory", start, spent, task.op))
        state.busy["memory"] += spent
        fetched[position].succeed()


#: Who slows whom.
_OTHER: Final = {"xpu": "pim", "memory": "pim", "pim": "xpu"}


def _progress(env: simpy.Environment, state: _State, lane: str, seconds: float, beside: float) -> Generator[Any, Any, None]:
    """Run for so many seconds of full rate, at 1 / `beside` of it while the other one works."""
    other = _OTHER.get(lane)
    if other is None or beside <= 1.0:
        yield env.timeout(seconds)
        return
    if state.changed is None:
        state.changed = env.event()
    left, start = seconds, float(env.now)
    while left > 0:
        pace = beside if state.working[other] else 1.0
        since, end = float(env.now), env.timeout(left * pace)
        yield end | state.changed
        if end.processed:
            break
        left -= (float(env.now) - since) / pace
    state.slowed[lane] += max(0.0, float(env.now) - start - seconds)


def _run(env: simpy.Environment, position: int, task: Task, tasks: Sequence[Task], lanes: Mapping[str, simpy.PriorityResource],
         memory: simpy.PriorityResource | None, done: list[simpy.Event], state: _State, fetched: Mapping[int, simpy.Event],
         room: simpy.Container | None) -> Generator[Any, Any, None]:
    cause = ""
    for other in task.after:
        if not done[other].processed:
            yield done[other]
            cause = tasks[other].lane
    ready = float(env.now)
    with lanes[task.lane].request(priority=position) as turn:
        yield turn
        idle_from = state.free_at[task.lane]
        if ready > idle_from and cause and cause != task.lane:
            state.waited[task.lane, cause] += ready - idle_from
        held = None
        if memory is not None:
            asked = float(env.now)
            held = memory.request(priority=position)
            yield held
            other_lane = state.holder
            if float(env.now) > asked and other_lane != task.lane:
                state.waited[task.lane, f"{other_lane} (memory)"] += float(env.now) - asked
            state.holder = task.lane
        start = float(env.now)
        ahead = position in fetched
        if task.memory:
            state.work(env, task.lane, 1)
        yield from _progress(env, state, task.lane, task.seconds if ahead else max(task.seconds, task.alone_s), task.beside)
        if ahead:
            if not fetched[position].processed:
                late = float(env.now)
                yield fetched[position]
                state.waited[task.lane, "memory"] += float(env.now) - late
            assert room is not None
            yield room.put(_whole_bytes(task))
        if task.memory:
            state.work(env, task.lane, -1)
        end = float(env.now)
        if memory is not None and held is not None:
            memory.release(held)
        state.free_at[task.lane] = end
        state.busy[task.lane] += end - start
        state.spans.append(Span(task.name, task.lane, start, end - start, task.op))
    done[position].succeed()
