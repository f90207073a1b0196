"""Traced graphs kept on disk: the same graph comes back, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from presilicon.workloads import kept
from presilicon.workloads.models import trace_model

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path))
    return tmp_path / "graphs"


def no_tracing(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("traced again")


@pytest.mark.slow
def test_the_same_graph_comes_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trace_model("gpt2", phase="decode", batch=2)
    with monkeypatch.context() as patch:
        patch.setattr("presilicon.workloads.trace.pretrained.trace_config", no_tracing)
        again = trace_model("gpt2", phase="decode", batch=2)
        with pytest.raises(AssertionError, match="traced again"):
            trace_model("gpt2", phase="decode", batch=3)
    assert again.to_dict() == first.to_dict()
    assert again.ops == first.ops


@pytest.mark.slow
def test_a_damaged_entry_is_traced_anew(folder: Path) -> None:
    first = trace_model("gpt2", seq=64)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    for bad in (b"", whole[:100], b"{}"):
        entry.write_bytes(bad)
        assert trace_model("gpt2", seq=64).to_dict() == first.to_dict()
        assert entry.read_bytes() == whole


def test_a_configuration_is_known_by_its_content(folder: Path) -> None:
    options = {"phase": "prefill", "batch": 1}
    one = kept.path_of("m", {"model_type": "llama", "hidden_size": 64}, options)
    assert one == kept.path_of("m", {"hidden_size": 64, "model_type": "llama"}, options)
    others = [
        kept.path_of("m", {"model_type": "llama", "hidden_size": 128}, options),
        kept.path_of("m", {"model_type": "mistral", "hidden_size": 64}, options),
        kept.path_of("m", {"model_type": "llama", "hidden_size": 64}, options | {"batch": 2}),
        kept.path_of("n", {"model_type": "llama", "hidden_size": 64}, options),
    ]
    assert len({one, *others}) == 5


def test_nothing_is_kept_where_that_is_asked_or_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESILICON_CACHE", "off")
    assert kept.path_of("m", {"model_type": "llama"}, {}) is None
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path / "file"))
    assert trace_model("gpt2", seq=64).name == "gpt2"
