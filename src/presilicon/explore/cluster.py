"""Batches evaluated in this process, in worker processes of this machine, or on a dask cluster; a worker that dies costs a retry."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import PresiliconError
from .evaluate import Subject, code_version, evaluate_designs
from .expand import Batch, Columns

if TYPE_CHECKING:
    import pyarrow as pa

#: How often a batch may take its worker with it before it is given up.
TRIES: Final = 3
#: Seconds between a worker's looks at whether its parent still lives.
_WATCH_S: Final = 1.0
_CONNECT_S: Final = 20


@dataclass(frozen=True)
class Task:
    """One batch with all that its evaluation needs; `designs` counts them, where nothing varies too."""

    batch: Batch
    subject: Subject
    columns: Columns
    version: str
    designs: int = 1


class WorkerDiedError(PresiliconError):
    """A batch whose worker died each time."""


def evaluate_task(task: Task) -> pa.Table:
    """What a worker runs; refuses where the worker's code is another version than the sweep's."""
    if code_version() != task.version:
        raise PresiliconError(f"a worker has version {code_version()} of the models, the sweep {task.version}; install the same everywhere")
    return evaluate_designs(task.subject, task.columns, version=task.version).slice(0, task.designs)


#: A finished batch, or why it could not be evaluated.
Outcome = tuple[Batch, "pa.Table | WorkerDiedError"]


def run_tasks(tasks: Iterable[Task], workers: int = 1, dask: str | None = None) -> Iterator[Outcome]:
    """Evaluate tasks; results come as they are ready.

    Parameters
    ----------
    tasks
        Taken from the iterable a few ahead of the workers, so that memory does not grow with their number.
    workers
        Processes of this machine; 1 evaluates here.
    dask
        Address (``tcp://host:8786``) or scheduler file of a cluster that exists; `workers` then does not count.

    Raises
    ------
    PresiliconError
        No scheduler answers at `dask`, dask is not installed, or a worker has another version.
    """
    if dask:
        yield from _on_dask(tasks, dask)
    elif workers > 1:
        yield from _on_processes(tasks, workers)
    else:
        for task in tasks:
            yield task.batch, evaluate_task(task)


def _on_processes(tasks: Iterable[Task], workers: int) -> Iterator[Outcome]:
    from concurrent.futures import FIRST_COMPLETED, Future, wait
    from concurrent.futures.process import BrokenProcessPool

    waiting, suspects = iter(tasks), deque[tuple[Task, int]]()
    running: dict[Future[Any], tuple[Task, int]] = {}
    pool = worker_pool(workers)

    def start(task: Task, deaths: int) -> bool:
        """Hand a task to the pool; False, and the task among the suspects, where the pool has just broken."""
        try:
            running[pool.submit(evaluate_task, task)] = (task, deaths)
        except BrokenProcessPool:
            suspects.append((task, deaths))
            return False
        return True

    try:
        while True:
            # After a death the batches that were running go one at a time, so that the next death has one culprit.
            whole = True
            if suspects and not running:
                whole = start(*suspects.popleft())
            while whole and not suspects and len(running) < 2 * workers and not any(deaths for _, deaths in running.values()):
                following = next(waiting, None)
                if following is None:
                    break
                whole = start(following, 0)
            if whole and not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), set())
            for future in done:
                task, deaths = running.pop(future)
                try:
                    yield task.batch, future.result()
                except BrokenProcessPool:
                    whole = False
                    if deaths + 1 >= TRIES:
                        yield task.batch, _died(task, "out of memory, or killed")
                    else:
                        suspects.append((task, deaths + 1))
            if not whole:
                suspects.extend((task, deaths + 1) for task, deaths in running.values())
                running.clear()
                pool.shutdown(wait=False, kill_workers=True)
                pool = worker_pool(workers)
    finally:
        pool.shutdown(wait=False, kill_workers=True)


class Workers:
    """Processes of this machine that evaluate designs as `evaluate_designs` does; they start with the first that are worth it.

    Parameters
    ----------
    count
        Processes; 1 evaluates here. Closed forms of GPUs, which take thousands of designs at once, are evaluated here in any case.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: Any = None

    def __call__(self, subject: Subject, columns: Columns, *, version: str | None = None) -> pa.Table:
        """Rows of designs, in their order.

        Raises
        ------
        WorkerDiedError
            Workers died each time.
        """
        from concurrent.futures.process import BrokenProcessPool

        designs = len(next(iter(columns.values()))) if columns else 1
        if self.count == 1 or designs == 1 or (subject.vectorised and subject.fidelity == "analytic"):
            return evaluate_designs(subject, columns, version=version)
        parts = np.array_split(np.arange(designs), min(self.count, designs))
        batches = [Batch(i, 0, 0, int(part[0]), int(part[-1]) + 1) for i, part in enumerate(parts)]
        tasks = [
            Task(batch, subject, {path: values[part] for path, values in columns.items()}, version or code_version(), len(part))
            for batch, part in zip(batches, parts, strict=True)
        ]
        for _ in range(TRIES):
            try:
                self._pool = self._pool or worker_pool(self.count)
                return _joined([answer.result() for answer in [self._pool.submit(evaluate_task, task) for task in tasks]])
            except BrokenProcessPool:
                self.close()
        where = f"{subject.workload.label} on {subject.system.name}"
        raise WorkerDiedError(f"{where}: a worker died {TRIES} times (out of memory, or killed); fewer workers take less memory")

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, kill_workers=True)
            self._pool = None


@contextmanager
def workers_of(count: int) -> Iterator[Workers]:
    """`Workers` that end with the block, in whatever way it ends."""
    found = Workers(count)
    try:
        yield found
    finally:
        found.close()


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one below the other; a resource that no design of a table waits for has a share of 0 there, as beside others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = pa.concat_tables(tables, promote_options="default")
    for index, name in enumerate(whole.schema.names):
        if name.startswith("share."):
            filled = pc.if_else(pc.is_null(whole["error"]), pc.fill_null(whole[name], 0.0), whole[name])
            whole = whole.set_column(index, name, filled)
    return whole


def worker_pool(workers: int) -> Any:
    """Processes of joblib's own executor, which end with their parent and leave Ctrl-C to it."""
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(max_workers=workers, initializer=_begin_worker, initargs=(os.getpid(),), env={"OMP_NUM_THREADS": "1"})


def _begin_worker(parent: int) -> None:
    """Ctrl-C reaches the workers of a terminal too, but the parent decides what it means; a worker whose parent was killed ends."""
    import signal
    import threading
    import time

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_S)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


def _died(task: Task, why: str) -> WorkerDiedError:
    batch = task.batch
    return WorkerDiedError(
        f"batch {batch.number} ({task.subject.workload.label} on {task.subject.system.name}, designs {batch.start} to {batch.stop - 1}): "
        f"its worker died {TRIES} times ({why})"
    )


def _on_dask(tasks: Iterable[Task], address: str) -> Iterator[Outcome]:
    with _client(address) as client, client.as_current():
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        waiting = iter(tasks)
        running: dict[Any, Task] = {}
        completed = as_completed([])

        def submit() -> None:
            task = next(waiting, None)
            if task is not None:
                future = client.submit(evaluate_task, task, pure=False)
                running[future] = task
                completed.add(future)

        for _ in range(2 * max(1, sum(client.nthreads().values()))):
            submit()
        for future in completed:
            task = running.pop(future)
            try:
                yield task.batch, future.result()
            except KilledWorker as error:
                yield task.batch, _died(task, " ".join(str(error).split())[:200])
            submit()


@contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise PresiliconError("--dask needs dask.distributed: pip install 'presilicon[cluster]'") from None
    where: Mapping[str, Any] = {"scheduler_file": address} if os.path.exists(address) else {"address": address}
    try:
        client = Client(**where, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise PresiliconError(f"no dask scheduler answers at {address}: {' '.join(str(error).split()) or type(error).__name__}") from None
    try:
        yield client
    finally:
        client.close()
