"""Several models traced at once, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..errors import PresiliconError
from .evaluate import graph_of, trace_options
from .study import Workload

#: Processes that trace; each takes up to 1 GB.
_MOST: Final = 4


def trace_ahead(workloads: Iterable[Workload]) -> None:
    """Trace what the user's cache of graphs lacks, in as many processes as there are processors, so that it is there when asked for.

    Does nothing for fewer than two graphs, one processor, or where nothing is kept. What fails is let be: whoever asks for the graph
    traces it again, and tells of the error.
    """
    missing: dict[Path, Workload] = {}
    for workload in workloads:
        with suppress(PresiliconError):
            path = None if workload.is_graph else _kept_path(workload)
            if path is not None and not path.exists():
                missing.setdefault(path, workload)
    processes = min(len(missing), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, _MOST)
    if processes < 2:
        return
    from .cluster import worker_pool

    pool = worker_pool(processes)
    try:
        for answer in [pool.submit(_trace, workload) for workload in missing.values()]:
            with suppress(Exception):
                answer.result()
    finally:
        pool.shutdown(wait=False, kill_workers=True)


def _kept_path(workload: Workload) -> Path | None:
    from ..workloads.models import kept_path

    return kept_path(workload.model, **trace_options(workload))


def _trace(workload: Workload) -> None:
    graph_of(workload)
