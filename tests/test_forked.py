"""Work that is shared among forked processes."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from presilicon.errors import KernelError, UnknownNameError
from presilicon.forked import forked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_each_thing_once_by_other_processes() -> None:
    found = dict(forked(lambda thing: (thing**2, os.getpid()), range(20), 3, lost=None))
    assert {number: square for number, (square, _) in found.items()} == {n: n * n for n in range(20)}
    assert os.getpid() not in {process for _, process in found.values()}
    assert len({process for _, process in found.values()}) <= 3


@pytest.mark.parametrize(("things", "jobs"), [([5], 4), ([5, 6], 1), ([], 4)])
def test_little_work_stays_here(things: list[int], jobs: int) -> None:
    found = list(forked(lambda thing: (thing, os.getpid()), things, jobs, lost=None))
    assert found == [(n, (thing, os.getpid())) for n, thing in enumerate(things)]


def test_a_forked_process_forks_no_more() -> None:
    def inner(_: int) -> tuple[int, set[Any]]:
        return os.getpid(), {process for _, process in forked(lambda _: os.getpid(), range(3), 3, lost=None)}

    for _, answer in forked(inner, range(2), 2, lost=None):
        assert answer is not None
        assert answer[1] == {answer[0]} != {os.getpid()}


def _die(thing: int) -> int:
    if thing % 3 == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return thing


def test_what_ends_without_an_answer_is_named_and_the_rest_goes_on() -> None:
    assert dict(forked(_die, range(8), 2, lost=-1)) == {n: -1 if n % 3 == 1 else n for n in range(8)}


def _raise(error: Exception) -> Any:
    raise error


def test_errors_come_back() -> None:
    with pytest.raises(KernelError, match="so it is"):
        list(forked(_raise, [KernelError("so it is")] * 4, 2, lost=None))
    with pytest.raises(UnknownNameError, match="unknown thing 'a'") as raised:
        list(forked(_raise, [UnknownNameError("thing", "a", ["ab"])] * 2, 2, lost=None))
    assert raised.value.nearest == ["ab"]
