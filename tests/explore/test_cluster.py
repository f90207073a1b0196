"""Workers: the same rows from one process, several processes and a dask cluster; a worker that dies costs no rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presilicon.arch import load
from presilicon.errors import PresiliconError
from presilicon.explore import cluster
from presilicon.explore.cluster import Task, WorkerDiedError, run_tasks
from presilicon.explore.evaluate import Subject, code_version, evaluate_designs
from presilicon.explore.expand import Batch
from presilicon.explore.study import Workload
from presilicon.explore.sweep import sweep
from presilicon.workloads.graph import OpGraph

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESILICON_CACHE", "off")


def document(**changes: Any) -> dict[str, Any]:
    return {
        "workloads": [{"graph": str(DATA / "mlp.graph.json")}, {"graph": str(DATA / "llama-3-8b.decode.graph.json.gz")}],
        "systems": ["h100-sxm"],
        "parameters": {"gpu.sm.count": [66, 132], "dram.bandwidth": ["2 TB/s", "4 TB/s", "8 TB/s"]},
        "batch_points": 2,
        "fidelity": "tile",
    } | changes


@pytest.mark.slow
def test_dask_gives_the_rows_of_one_process(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    expected = sweep(document(), tmp_path / "one").to_frame()
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(**options) as local:
        found = sweep(document(), tmp_path / "dask", dask=local.scheduler_address)
        assert found.to_frame().equals(expected)
        assert found.batches == (6, 6)


def test_no_scheduler_at_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_CONNECT_S", 1)
    with pytest.raises(PresiliconError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:1"):
        sweep(document(), tmp_path / "out", dask="tcp://127.0.0.1:1")


@pytest.mark.slow
def test_processes_give_the_rows_of_one(tmp_path: Path) -> None:
    expected = sweep(document(), tmp_path / "one").to_frame()
    assert sweep(document(), tmp_path / "two", workers=2).to_frame().equals(expected)


class Deadly:
    """A workload whose evaluation kills its worker, the first times that it is tried."""

    label = "deadly"

    def __init__(self, notes: Path, times: int) -> None:
        self.notes, self.times = notes, times


def evaluate_deadly(task: Task) -> str:
    subject: Any = task.subject
    if isinstance(subject.workload, Deadly):
        with subject.workload.notes.open("a") as notes:
            notes.write("x")
        if subject.workload.notes.stat().st_size <= subject.workload.times:
            os._exit(9)
    return f"batch {task.batch.number}"


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 99])
def test_a_worker_that_dies(times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    try:
        from joblib.externals import cloudpickle  # of joblib before 1.6
    except ImportError:
        cloudpickle = pytest.importorskip("cloudpickle")
    cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    monkeypatch.setattr(cluster, "evaluate_task", evaluate_deadly)
    notes = tmp_path / "notes"
    subjects: list[Any] = [
        SimpleNamespace(workload=Deadly(notes, times) if i == 2 else None, system=SimpleNamespace(name="s")) for i in range(6)
    ]
    tasks = [Task(Batch(i, 0, 0, 2 * i, 2 * i + 2), subjects[i], {}, code_version()) for i in range(6)]
    found: dict[int, Any] = {batch.number: outcome for batch, outcome in run_tasks(tasks, workers=2)}
    assert sorted(found) == list(range(6)), "each batch comes back once"
    assert all(found[i] == f"batch {i}" for i in range(6) if i != 2)
    if times == 1:
        assert found[2] == "batch 2", "tried again"
    else:
        assert isinstance(found[2], WorkerDiedError)
        assert str(found[2]) == "batch 2 (deadly on s, designs 4 to 5): its worker died 3 times (out of memory, or killed)"
        assert notes.stat().st_size == cluster.TRIES


@pytest.mark.slow
def test_batches_that_died_are_named_and_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from presilicon.explore import sweep as module

    def lossy(tasks: Any, workers: int, dask: str | None) -> Any:
        for batch, outcome in run_tasks(tasks):
            yield batch, WorkerDiedError("batch 1: its worker died") if batch.number == 1 else outcome

    text = document(fidelity="analytic")
    monkeypatch.setattr(module, "run_tasks", lossy)
    with pytest.raises(PresiliconError, match=r"1 of the batches are missing; .*batch 1: its worker died"):
        sweep(text, tmp_path / "out")
    assert len(list((tmp_path / "out" / "batches").iterdir())) == 5
    monkeypatch.undo()
    assert len(sweep(text, tmp_path / "out")) == 12


def test_a_worker_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("presilicon.explore.sweep.code_version", lambda: "0.0.0+other")
    with pytest.raises(PresiliconError, match=r"a worker has version .* the sweep 0\.0\.0\+other"):
        sweep(document(), tmp_path / "out")


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_generation_survives_workers_that_die_twice(deaths: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool of a search starts again; only a third death ends it, with one line."""
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    started: list[int] = []

    class Pool:
        def submit(self, run: Any, task: Any) -> Future[Any]:
            answer: Future[Any] = Future()
            if len(started) <= deaths:
                answer.set_exception(BrokenProcessPool("killed"))
            else:
                answer.set_result(run(task))
            return answer

        def shutdown(self, **_: Any) -> None:
            """As a pool has it."""

    monkeypatch.setattr(cluster, "worker_pool", lambda count: started.append(count) or Pool())
    subject = Subject(Workload("mlp", True), OpGraph.load(DATA / "mlp.graph.json"), load("gemmini-16"))
    designs = {"dram.bandwidth": np.array([8e9, 16e9, 32e9])}
    with cluster.workers_of(2) as evaluate:
        if deaths == cluster.TRIES:
            with pytest.raises(cluster.WorkerDiedError, match="a worker died 3 times"):
                evaluate(subject, designs)
        else:
            assert evaluate(subject, designs).to_pandas().equals(evaluate_designs(subject, designs).to_pandas())
    assert started == [2] * 3
