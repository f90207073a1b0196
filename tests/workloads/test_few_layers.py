"""A few layers in place of many: the very graph that the whole model gives, and the whole model wherever that is not certain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from presilicon.errors import UncoveredOpError
from presilicon.workloads import OpGraph
from presilicon.workloads.models import trace_model
from presilicon.workloads.trace import few_layers, huggingface, pretrained

from .small import config

#: Layers enough to gain by it: alike, alternating, or with some of another kind before them.
MANY: dict[str, dict[str, Any]] = {
    "llama-3-8b": {"num_hidden_layers": 6},
    "gemma-2-9b": {"num_hidden_layers": 12},
    "deepseek-v3": {"num_hidden_layers": 8},
    "falcon-7b": {"num_hidden_layers": 7},
    "gpt2": {"n_layer": 6},
    "vit-b-16": {"num_hidden_layers": 6},
}


def several(name: str, **changes: Any) -> dict[str, Any]:
    return config(name, **MANY[name], **changes)


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[OpGraph, bool]]:
    """The graph of a configuration, and whether short versions gave it; with `whole`, they are not tried."""
    monkeypatch.setenv("PRESILICON_CACHE", "off")

    def run(document: dict[str, Any], *, whole: bool = False, **options: Any) -> tuple[OpGraph, bool]:
        path, found = tmp_path / "config.json", []
        path.write_text(json.dumps(document))
        with monkeypatch.context() as patch:
            patch.setattr(pretrained, "of_short_versions",
                          lambda *given: found.append(None if whole else few_layers.of_short_versions(*given)) or found[0])
            graph = trace_model(path, batch=2, **options)
        return graph, bool(found) and found[0] is not None

    return run


OFTEN = [("llama-3-8b", "decode"), ("gemma-2-9b", "decode"), ("deepseek-v3", "prefill"), ("gpt2", "prefill"), ("vit-b-16", "prefill")]
BOTH = [(name, phase) for name in MANY for phase in ("prefill", "decode") if (name, phase) not in (*OFTEN, ("vit-b-16", "decode"))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "phase"), [*OFTEN, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in BOTH)])
def test_the_graph_is_that_of_the_whole(name: str, phase: str, traced: Callable[..., tuple[OpGraph, bool]]) -> None:
    sizes = {"seq": 32} if phase == "prefill" else {"context": 40}
    graph, short = traced(several(name), phase=phase, **sizes)
    assert short
    assert graph.to_dict() == traced(several(name), whole=True, phase=phase, **sizes)[0].to_dict()


@pytest.mark.slow
def test_layers_that_follow_no_rule_are_all_traced(traced: Callable[..., tuple[OpGraph, bool]]) -> None:
    kinds = ["sliding_attention"] * 7 + ["full_attention"]
    uneven = config("gemma-3-4b")
    text = {"num_hidden_layers": 8, "layer_types": kinds}
    graph, short = traced(uneven | text | ({"text_config": uneven["text_config"] | text} if "text_config" in uneven else {}), seq=32)
    assert not short
    assert sum(op.count for op in graph if op.kind == "attention") == 8


@pytest.mark.slow
def test_what_a_layer_leaves_behind_needs_the_whole(traced: Callable[..., tuple[OpGraph, bool]]) -> None:
    document = several("llama-3-8b", output_hidden_states=True)
    graph, short = traced(document, seq=32)
    assert not short
    assert graph.to_dict() == traced(document, whole=True, seq=32)[0].to_dict()


@pytest.mark.slow
def test_a_strict_trace_counts_what_the_whole_has(monkeypatch: pytest.MonkeyPatch, traced: Callable[..., tuple[OpGraph, bool]]) -> None:
    monkeypatch.setattr("presilicon.workloads.trace.builder.lookup", lambda target, *a: None)
    with pytest.raises(UncoveredOpError, match=r"aten\.\w+\.\w+ x\d+") as refused:
        traced(several("llama-3-8b"), seq=32, strict=True)
    assert "silu.default x6 " in str(refused.value)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [("aaaaaa", (0, 1)), ("aaaaa", (0, 0)), ("abababababab", (0, 2)), ("baaaaaaaa", (1, 1)), ("aaaaaaab", (0, 0)),
     ("cabababababab", (1, 2)), ("abcdefghijkl", (0, 0)), ("", (0, 0))],
)
def test_what_repeats(kinds: str, found: tuple[int, int]) -> None:
    assert few_layers._repeats(list(kinds)) == found


def test_layers_are_told_apart_by_their_numbers_and_parameters() -> None:
    settings = huggingface.config_of(several("llama-3-8b"), "llama")
    model, _ = huggingface.build(settings, "llama", torch.bfloat16, "sdpa")
    kinds = few_layers.kinds_of(settings, model)
    assert len(kinds) == 6
    assert kinds == kinds[:1] * 6
    model.model.layers[3].self_attn.scaling = 2.0
    model.model.layers[5].mlp.down_proj = torch.nn.Linear(8, 8, device="meta")
    changed = few_layers.kinds_of(settings, model)
    assert [n for n in range(6) if changed[n] != kinds[0]] == [3, 5]
    model.model.layers[4].mlp.activation = torch.tanh
    model.model.layers[2].windows = [4, 8]
    for n in (0, 1):
        model.model.layers[n].windows = [4]
    assert len({repr(kind) for kind in few_layers.kinds_of(settings, model)[:5]}) == 4
