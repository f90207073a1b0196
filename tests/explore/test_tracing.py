"""Models traced at once, each in its own process, end in the cache of graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from presilicon.explore.study import Workload
from presilicon.explore.tracing import trace_ahead
from presilicon.workloads.models import kept_path, trace_model

SHORT = {"seq": 32, "context": 32}


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path))
    return tmp_path / "graphs"


@pytest.mark.slow
def test_graphs_are_those_that_one_process_traces(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1}, raising=False)
    one, other = Workload("gpt2", **SHORT), Workload("gpt2", phase="decode", **SHORT)
    trace_ahead([one, other, Workload("gpt2", quant="fp8", **SHORT), Workload("none")])
    found = {path: path.read_bytes() for path in graphs.iterdir()}
    assert set(found) == {kept_path("gpt2", phase=phase, **SHORT) for phase in ("prefill", "decode")}
    for path in found:
        path.unlink()
    for phase in ("prefill", "decode"):
        trace_model("gpt2", phase=phase, **SHORT)
    assert {path: path.read_bytes() for path in graphs.iterdir()} == found


def test_no_process_starts_for_one_graph_or_none(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("presilicon.explore.cluster.worker_pool", lambda workers: pytest.fail("a pool was made"))
    trace_ahead([])
    trace_ahead([Workload("gpt2"), Workload("gpt2", quant="fp8")])
    monkeypatch.setenv("PRESILICON_CACHE", "off")
    trace_ahead([Workload("gpt2"), Workload("bert-base")])
