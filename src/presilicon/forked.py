"""The same work on many things by forked processes: they have all that this process has, so that nothing is imported or made anew."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context, parent_process
from typing import Any, TypeVar

Thing = TypeVar("Thing")
Found = TypeVar("Found")

#: What a forked process is to do, and on what.
_TASK: list[Any] = []


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forked(work: Callable[[Thing], Found], things: Sequence[Thing], jobs: int | None = None, *, lost: Found) -> Iterator[tuple[int, Found]]:
    """What `work` gives for each thing, behind the thing's number, in the order in which they are done.

    Where there is one thing or one core, in a process that another made, and where processes cannot fork, this process does it all.

    Parameters
    ----------
    work
        What it gives, or raises, must be something to be pickled; what it prints is lost.
    jobs
        Processes at once; as many as `cores` by default.
    lost
        What stands for the answer where a process ends without one, as a compiler that crashes makes it.

    Raises
    ------
    Exception
        What `work` raises.
    """
    many = min(jobs or cores(), len(things))
    if many < 2 or parent_process() is not None or "fork" not in get_all_start_methods():
        yield from ((number, work(thing)) for number, thing in enumerate(things))
        return
    left = set(range(len(things)))
    for number, found in _answers(work, things, many, sorted(left)):
        left.remove(number)
        yield number, found
    for number in sorted(left):  # a process ended, and the pool with it: one after the other tells whose work it was
        yield number, dict(_answers(work, things, 1, [number])).get(number, lost)


def _answers(work: Callable[[Thing], Found], things: Sequence[Thing], many: int, numbers: Sequence[int]) -> Iterator[tuple[int, Found]]:
    """Those of the things with these numbers that come before a process ends without an answer."""
    pool = ProcessPoolExecutor(many, get_context("fork"), _begin, (work, things))
    try:
        asked = {pool.submit(_call, number): number for number in numbers}
        for answer in as_completed(asked):
            yield asked[answer], answer.result()
    except BrokenProcessPool:
        return
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(*task: Any) -> None:
    _TASK[:] = task
    gc.freeze()  # what was there before is looked at no more: its pages stay shared
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _call(number: int) -> Any:
    work, things = _TASK
    return work(things[number])


__all__ = ["cores", "forked"]
