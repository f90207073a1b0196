"""Training steps: FLOPs of forward and backward as torch counts them, nothing uncovered, memory by class."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch.utils.flop_counter import FlopCounterMode

from presilicon.errors import TraceError
from presilicon.workloads import OpGraph, trace
from presilicon.workloads.trace import huggingface, pretrained
from presilicon.workloads.trace.eager import eager_semantics
from presilicon.workloads.trace.training import FusedAttention

from .small import config, mac_flops

NAMES = ["llama-3-8b", "gpt2", "bert-base", "vit-b-16", "resnet-50", "t5-base"]


def build(name: str) -> Any:
    return huggingface.build(huggingface.config_of(config(name), name), name, torch.bfloat16, "sdpa")[0]


def step(name: str, *, folded: bool = False) -> tuple[OpGraph, Any]:
    model = build(name)
    return pretrained._train(model, name, {}, 2, 32, torch.bfloat16, True, folded), model


@pytest.mark.parametrize("name", NAMES)
def test_flops_of_forward_and_backward(name: str) -> None:
    graph, model = step(name)
    kwargs, _ = huggingface.inputs(model, 2, 32, torch.bfloat16)
    kwargs |= huggingface.labels(model, kwargs, 2)
    if huggingface.accepts(model, "use_cache"):
        kwargs["use_cache"] = False
    model.train()
    with FlopCounterMode(display=False) as counter, FusedAttention(), eager_semantics():
        model(**kwargs).loss.backward()
    assert mac_flops(graph) == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert graph.uncovered == ()
    folded, _ = step(name, folded=True)
    assert folded.flops == pytest.approx(graph.flops, rel=1e-12)
    assert len(folded) < len(graph)


def test_backward_ops_know_their_module_and_cost_twice_the_forward() -> None:
    graph, _ = step("llama-3-8b")
    forward = [op for op in graph if op.kind == "matmul" and "pass" not in op.attributes]
    backward = [op for op in graph if op.kind == "matmul" and op.attributes.get("pass") == "backward"]
    assert len(backward) == 2 * len(forward)
    assert sum(op.flops for op in backward) == 2 * sum(op.flops for op in forward)
    assert {op.module for op in backward} == {op.module for op in forward}
    assert all(op.name.startswith("backward.") for op in backward)


def test_memory_and_optimizer() -> None:
    graph, model = step("gpt2")
    parameters = sum(p.numel() for p in model.parameters())
    assert graph.memory.gradient_bytes == 2 * parameters
    assert graph.memory.optimizer_bytes == 2 * 2 * parameters
    adamw = graph["optimizer.adamw"]
    assert adamw.dims["n"] == parameters
    assert adamw.operand_bytes() == 7 * 2 * parameters  # reads weight, gradient, two moments; writes weight and moments
    assert graph.memory.activations_bytes > 0
    wider = pretrained._train(build("gpt2"), "gpt2", {}, 4, 32, torch.bfloat16, True, False)
    assert wider.memory.activations_bytes > 1.8 * graph.memory.activations_bytes


def test_a_module_without_parameters_cannot_be_trained() -> None:
    with pytest.raises(TraceError, match="depends on a parameter"):
        trace(torch.nn.ReLU(), torch.zeros(4), phase="train")


def test_any_module_trains_on_the_mean_of_its_output() -> None:
    graph = trace(torch.nn.Linear(8, 4), torch.zeros(3, 8), phase="train")
    assert next(op.kind for op in graph if "pass" not in op.attributes) == "matmul"
    assert any(op.attributes.get("pass") == "backward" and op.kind == "matmul" for op in graph)
