"""`sweep`: every point of a study evaluated into a results folder, where it left off if it was stopped."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from ..errors import MissingPackageError, OutputError, PresiliconError, SpecError
from .cache import default_cache
from .cluster import Task, WorkerDiedError, run_tasks
from .evaluate import Subject, code_version, evaluate_designs, graph_of, subjects, told
from .expand import Batch, Designs, design_points
from .folder import MANIFEST, ResultsFolder
from .results import Sweep
from .space import check_constraints
from .study import Study, Workload, load_study
from .tracing import trace_ahead

if TYPE_CHECKING:
    from ..workloads import OpGraph

#: Points of a study above which it must be confirmed.
MOST_POINTS: Final = 10_000_000
#: Designs that a dry run evaluates for each workload and system: on arrays, and one by one.
_SAMPLE_ARRAYS: Final = 2000
_SAMPLE_POINTS: Final = 3
_SAMPLED_SUBJECTS: Final = 6


@dataclass(frozen=True)
class Plan:
    """What a sweep would do, by `plan`.

    Attributes
    ----------
    points, batches
        Points that meet the conditions, and files that hold them.
    done
        Batches that the results folder holds already.
    time_s
        Estimate for all points on the workers given; measured on a small sample.
    disk_bytes
        Estimate of the results' size.
    """

    points: int
    batches: int
    done: int
    time_s: float
    disk_bytes: float


def sweep(
    study: Study | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    workers: int = 1,
    *,
    dask: str | None = None,
    yes: bool = False,
    progress: bool = False,
    use_cache: bool = True,
) -> Sweep:
    """Evaluate every point of a study.

    Parameters
    ----------
    study
        Path of a study file, a mapping of the same content, or a Study.
    out
        Results folder; one that holds part of the same study is completed. None: a temporary one, which goes with the returned object.
    workers
        Processes of this machine.
    dask
        Address or scheduler file of a dask cluster that exists, in place of `workers`.
    yes
        Go on above ten million points.
    progress
        Show a bar with rate and time left on a terminal.
    use_cache
        Keep and reuse the results of slow models in the user's cache.

    Returns
    -------
    Sweep
        Lazily backed by the Parquet files.

    Raises
    ------
    SpecError, UnknownNameError
        The study is wrong, empty or exploding.
    OutputError
        The folder cannot be written, is full, is another study's, or another process writes to it; whole batches stay.
    PresiliconError
        Batches are missing because their worker died each time; all others are there.

    Examples
    --------
    >>> found = sweep({"workloads": [{"model": "llama-3-8b"}], "systems": ["h100-sxm"],
    ...                "parameters": {"dram.bandwidth": ["2 TB/s", "4 TB/s"]}})  # doctest: +SKIP
    >>> found.to_frame(["dram.bandwidth", "time_s"])  # doctest: +SKIP
    """
    study = load_study(study)
    check_constraints(study)
    points = check_size(study, yes)
    temporary = tempfile.TemporaryDirectory(prefix="presilicon-sweep-") if out is None else None
    folder = Path(temporary.name if temporary else str(out))
    cache = default_cache() if use_cache else None
    with ResultsFolder(folder, study, code_version()) as results:
        trace_ahead(w for w in study.workloads if not results.graph_file(w).exists())
        graphs = _graphs(study.workloads, results.graph)
        dead = _run(results, design_points(study), subjects(study, graphs, cache), points, workers, dask, progress)
    if dead:
        raise PresiliconError(
            f"{folder}: {len(dead)} of the batches are missing; the others are there, and the same command tries these "
            f"again: {'; '.join(str(error) for error in dead[:3])}"
        )
    return Sweep(folder, study, temporary=temporary)


def _graphs(workloads: Iterable[Workload], load: Callable[[Workload], OpGraph]) -> dict[Workload, OpGraph | str]:
    """Graph of every workload, or why it has none: its rows then hold that error, and the others go on.

    Raises
    ------
    Exception
        No workload has a graph (the first one's error), the folder cannot be written, or a package is missing.
    """
    graphs: dict[Workload, OpGraph | str] = {}
    first: Exception | None = None
    for workload in workloads:
        try:
            graphs[workload] = load(workload)
        except (OutputError, MissingPackageError):
            raise
        except Exception as error:  # whatever tracing raises for one workload must not end the sweep
            graphs[workload], first = told(error), first or error
    if first is not None and all(isinstance(graph, str) for graph in graphs.values()):
        raise first
    return graphs


def check_size(study: Study, yes: bool = False) -> int:
    """Points of a study; SpecError where there are none, or more than ten million without `yes`."""
    designs = design_points(study)
    if designs.size > MOST_POINTS and not yes:
        raise SpecError(f"{study.source}: {designs.size:,} points, more than {MOST_POINTS:,}; --yes (yes=True) evaluates them all")
    points = designs.count()
    if points:
        return points
    for condition in study.when:
        alone = Designs(_only(study, condition))
        if not alone.count():
            raise SpecError(f"{study.source}: when: no point meets {condition.text!r}")
    raise SpecError(f"{study.source}: when: no point meets all of the conditions together")


def _only(study: Study, condition: Any) -> Study:
    from dataclasses import replace

    return replace(study, when=(condition,))


def _run(
    results: ResultsFolder,
    designs: Designs,
    by_index: Mapping[tuple[int, int], Subject],
    points: int,
    workers: int,
    dask: str | None,
    progress: bool,
) -> list[WorkerDiedError]:
    """Evaluate and write every batch that is not there; the batches whose worker died come back."""
    dead: list[WorkerDiedError] = []
    sizes: dict[int, int] = {}
    with _bar(progress, points) as bar:

        def tasks() -> Iterator[Task]:
            for batch in designs.batches():
                if results.has(batch):
                    bar.skip(int(designs.keeps(batch, designs.columns(batch.start, batch.stop)).sum()))
                    continue
                index, columns = designs.block(batch)
                sizes[batch.number] = len(index)
                yield Task(batch, by_index[batch.workload, batch.system], columns, results.version, len(index))

        for batch, outcome in run_tasks(tasks(), workers, dask):
            if isinstance(outcome, WorkerDiedError):
                dead.append(outcome)
            else:
                results.write(batch, outcome)
            bar.advance(sizes.pop(batch.number))
    return dead


class _Bar(Protocol):
    def skip(self, points: int) -> None: ...

    def advance(self, points: int) -> None: ...


class _Silent:
    def skip(self, points: int) -> None:
        """Nothing is shown."""

    def advance(self, points: int) -> None:
        """Nothing is shown."""


@contextmanager
def _bar(wanted: bool, points: int) -> Iterator[_Bar]:
    """A progress bar with rate and time left, on a terminal only."""
    if not (wanted and sys.stderr.isatty()):
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} points/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("sweep", total=points, rate="-")
        begun = time.monotonic()
        fresh = 0

        class Rich:
            def skip(self, points: int) -> None:
                shown.advance(task, points)

            def advance(self, points: int) -> None:
                nonlocal fresh
                fresh += points
                rate = fresh / max(1e-9, time.monotonic() - begun)
                shown.update(task, advance=points, rate=f"{rate:,.0f}")

        yield Rich()


def plan(study: Study | Mapping[str, Any] | str | Path, out: str | Path | None = None, workers: int = 1) -> Plan:
    """What a sweep would take, from a few designs of each workload and system, measured now.

    Parameters
    ----------
    study, out, workers
        As `sweep` takes them; nothing is written.

    Raises
    ------
    SpecError, UnknownNameError
        The study is wrong or empty.
    """
    study = load_study(study)
    check_constraints(study)
    count = check_size(study, yes=True)
    designs, version = design_points(study), code_version()
    results = ResultsFolder(Path(out), study, version) if out is not None else None
    saved = results if results is not None and (results.path / MANIFEST).exists() else None
    batches = list(designs.batches()) if designs.size // study.batch_points < MOST_POINTS else []
    done = sum(saved.has(batch) for batch in batches) if saved else 0
    seconds, size, rows = 0.0, 0.0, 0
    pairs = [(i, j) for i in range(len(study.workloads)) for j in range(len(study.systems))]
    chosen = [pairs[k] for k in np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _SAMPLED_SUBJECTS)).astype(int))]
    by_index = subjects(study, _graphs(dict.fromkeys(study.workloads[i] for i, _ in chosen), graph_of))
    for i, j in chosen:
        subject = by_index[i, j]
        batch = Batch(0, i, j, 0, min(designs.space, study.batch_points))
        index, columns = designs.block(batch)
        fast = subject.vectorised and study.fidelity == "analytic"
        few = np.unique(np.linspace(0, len(index) - 1, min(len(index), _SAMPLE_ARRAYS if fast else _SAMPLE_POINTS)).astype(int))
        if not len(index):
            continue
        part = {path: values[few] for path, values in columns.items()}
        evaluate_designs(subject, {path: values[:1] for path, values in part.items()}, version=version)  # imports and look-up tables
        begun = time.perf_counter()
        table = evaluate_designs(subject, part, version=version)
        seconds += time.perf_counter() - begun
        rows += table.num_rows
        size += _parquet_bytes(table)
    each = seconds / max(1, rows)
    return Plan(count, len(batches), done, each * count * (1 - done / max(1, len(batches))) / max(1, workers), size / max(1, rows) * count)


def _parquet_bytes(table: Any) -> int:
    """Size of a table as a Parquet file, less its fixed part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sizes = []
    for part in (table, table.slice(0, 0)):
        sink = pa.BufferOutputStream()
        pq.write_table(part, sink, compression="zstd")
        sizes.append(sink.getvalue().size)
    return max(1, sizes[0] - sizes[1])
