"""Tasks on lanes: order, exclusion, prefetch, and who waited for whom."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.errors import PresiliconError
from presilicon.sim.hybrid.engine import Task, play


def test_lanes_overlap_and_dependences_wait() -> None:
    tasks = [Task("a", "a", "xpu", 2.0), Task("b", "b", "pim", 3.0, (0,)), Task("c", "c", "xpu", 1.0), Task("d", "d", "xpu", 1.0, (1,))]
    found = play(tasks, blocked=False)
    assert found.time_s == 6.0
    assert found.busy_s == {"xpu": 4.0, "pim": 3.0}
    assert found.waited_s == {("pim", "xpu"): 2.0, ("xpu", "pim"): 2.0}


def test_blocked_memory_excludes() -> None:
    tasks = [Task("a", "a", "xpu", 2.0, memory=True), Task("b", "b", "pim", 3.0, memory=True)]
    assert play(tasks, blocked=False).time_s == 3.0
    blocked = play(tasks, blocked=True)
    assert blocked.time_s == 5.0
    assert blocked.waited_s == {("pim", "xpu (memory)"): 2.0}


def test_the_other_lane_slows_only_while_it_works() -> None:
    tasks = [Task("a", "a", "xpu", 10.0, memory=True, beside=2.0), Task("b", "b", "pim", 3.0, memory=True)]
    found = play(tasks, blocked=False)
    assert found.time_s == pytest.approx(11.5)  # 3 seconds at half pace do 1.5 seconds of work; 8.5 more follow
    assert found.slowed_s["xpu"] == pytest.approx(1.5)
    both = [Task("a", "a", "xpu", 4.0, memory=True, beside=2.0), Task("b", "b", "pim", 4.0, memory=True, beside=1.5)]
    found = play(both, blocked=False)
    ends = {span.lane: span.start_s + span.duration_s for span in found.spans}
    assert ends["pim"] == pytest.approx(6.0)  # slowed by the processor all along
    assert ends["xpu"] == pytest.approx(7.0)  # 3 of 4 done after 6 seconds
    alone = [Task("a", "a", "xpu", 10.0, memory=True, beside=2.0), Task("b", "b", "fabric", 3.0)]
    assert play(alone, blocked=False).time_s == 10.0
    fetch = [Task("attend", "attend", "pim", 2.0, memory=True), Task("w", "w", "xpu", 1.0, (0,), True, 3.0, 10.0, 3.0, 2.0)]
    assert play(fetch, blocked=False, scratchpad_bytes=20.0).time_s == pytest.approx(4.0)  # 1 of 3 fetched by 2, the rest by 4


def test_weights_are_fetched_ahead_while_there_is_room() -> None:
    tasks = [Task("attend", "attend", "pim", 5.0),
             *(Task(f"w{i}", f"w{i}", "xpu", 1.0, (i,), fetch_s=2.0, fetch_bytes=10.0, alone_s=2.0) for i in range(2))]
    assert play(tasks, blocked=False).time_s == 9.0  # 5 + 2 + 2
    assert play(tasks, blocked=False, scratchpad_bytes=20.0).time_s == 7.0  # both wait in the scratchpad
    assert play(tasks, blocked=False, scratchpad_bytes=10.0).time_s == 8.0  # the second is fetched when the first is done: 5 + 1 + 2
    assert play(tasks, blocked=False, scratchpad_bytes=5.0).time_s == 9.0


def test_weights_that_leave_no_room_for_others_are_refused() -> None:
    # The last task takes the processor first, and waits there for weights that those of the one before it leave no room for.
    ahead: dict[str, Any] = {"fetch_s": 2.0, "fetch_bytes": 10.0, "alone_s": 2.0}
    tasks = [Task("attend", "attend", "pim", 5.0), Task("w0", "w0", "xpu", 1.0, (0,), **ahead), Task("w1", "w1", "xpu", 1.0, **ahead)]
    assert play(tasks, blocked=False, scratchpad_bytes=20.0).time_s == 6.0
    with pytest.raises(PresiliconError, match="'w0' and 1 more never ran"):
        play(tasks, blocked=False, scratchpad_bytes=10.0)


def test_a_task_cannot_need_a_later_one() -> None:
    with pytest.raises(PresiliconError, match="does not come before"):
        play([Task("a", "a", "xpu", 1.0, (0,))], blocked=False)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["xpu", "pim", "link"]), st.floats(0.01, 5), st.integers(0, 5)), max_size=15), st.booleans())
def test_time_lies_between_the_critical_path_and_the_sum(drawn: list[tuple[str, float, int]], blocked: bool) -> None:
    tasks = [Task(str(i), str(i), lane, s, (i - back,) if 0 < back <= i else (), memory=lane != "link")
             for i, (lane, s, back) in enumerate(drawn)]
    found = play(tasks, blocked=blocked)
    ends: list[float] = []
    for task in tasks:
        ends.append(task.seconds + max((ends[i] for i in task.after), default=0.0))
    assert max(ends, default=0.0) - 1e-9 <= found.time_s <= sum(t.seconds for t in tasks) + 1e-9
    for lane, busy in found.busy_s.items():
        assert busy == pytest.approx(sum(t.seconds for t in tasks if t.lane == lane))
        spans = sorted((s.start_s, s.start_s + s.duration_s) for s in found.spans if s.lane == lane)
        assert all(b[0] >= a[1] - 1e-9 for a, b in pairwise(spans))
    assert play(tasks, blocked=blocked) == found
