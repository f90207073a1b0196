"""Every architecture that must trace: nothing uncovered, FLOPs as torch counts them, folding exact, in each phase that
it has.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch.utils.flop_counter import FlopCounterMode

from presilicon.errors import TraceError
from presilicon.workloads import OpGraph
from presilicon.workloads.fold import fold
from presilicon.workloads.trace import huggingface, pretrained
from presilicon.workloads.trace.api import finish
from presilicon.workloads.trace.eager import eager_semantics
from presilicon.workloads.trace.fused_scans import fused_scans
from presilicon.workloads.trace.step import Step

from .small import DECODES, SMALL, config, mac_flops

BATCH, SEQ, CONTEXT = 2, 32, 40


def prepare(name: str, phase: str) -> tuple[Step, float]:
    settings = huggingface.config_of(config(name), name)
    model, _ = huggingface.build(settings, name, torch.bfloat16, "sdpa")
    meta: dict[str, Any] = {}
    if phase == "prefill":
        return pretrained._prefill(model, BATCH, SEQ, torch.bfloat16, meta)
    return pretrained._decode(model, name, BATCH, SEQ, CONTEXT, torch.bfloat16, meta)


def graph_of(step: Step, name: str, tokens: float, front_end: str = "auto") -> OpGraph:
    return finish(step, name, meta={}, strict=True, folded=False, front_end=front_end, tokens=tokens)


def counted(step: Step) -> float:
    with torch.inference_mode(), eager_semantics(), FlopCounterMode(display=False) as counter:
        step(*step.inputs)
    return float(counter.get_total_flops())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "phase"), [(n, "prefill") for n in SMALL] + [(n, "decode") for n in DECODES])
def test_flops_agree_with_torch_and_nothing_is_uncovered(name: str, phase: str) -> None:
    step, tokens = prepare(name, phase)
    expected = counted(step)
    graph = graph_of(step, name, tokens)  # strict: an operator without a formula raises
    assert graph.meta["front_end"] == "export", graph.meta
    assert mac_flops(graph) == pytest.approx(expected, rel=1e-3)
    folded = fold(graph)
    assert folded.flops == pytest.approx(graph.flops, rel=1e-12)
    assert sum(op.count for op in folded) == len(graph)
    assert sum(op.count * op.bytes_read for op in folded) == pytest.approx(
        sum(op.bytes_read for op in graph), rel=1e-12
    )
    assert graph.memory.weights_bytes > 0
    if phase == "decode":
        assert graph.memory.kv_cache_bytes > 0
        assert tokens == BATCH


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-3-8b", "gemma-3-4b", "deepseek-v3", "t5-base", "swin-t", "resnet-50"])
def test_both_front_ends_record_the_same_program(name: str) -> None:
    step, tokens = prepare(name, "prefill")
    exported, dispatched = graph_of(step, name, tokens, "export"), graph_of(step, name, tokens, "dispatch")
    assert dispatched.meta["front_end"] == "dispatch"
    assert [(o.module, o.kind, dict(o.dims)) for o in exported] == [
        (o.module, o.kind, dict(o.dims)) for o in dispatched
    ]
    assert exported.flops == dispatched.flops
    assert exported.memory == dispatched.memory


def test_gqa_is_seen_and_the_cache_is_read_once() -> None:
    step, tokens = prepare("llama-3-8b", "decode")
    graph = graph_of(step, "llama", tokens)
    attention = next(op for op in graph if op.kind == "attention")
    assert {d: attention.dims[d] for d in "bhgqs"} == {"b": BATCH, "h": 2, "g": 2, "q": 1, "s": CONTEXT + 1}
    assert attention.attributes["phase"] == "decode"
    assert [o.name for o in attention.operands if o.role == "cache"] == ["k", "v"]
    layers, heads, width = 3, 2, 16
    assert graph.memory.kv_cache_bytes == layers * 2 * BATCH * heads * (CONTEXT + 1) * width * 2
    # The new token is written into the cache: nothing copies it whole.
    assert max(op.dims["n"] for op in graph if op.kind == "copy") < BATCH * heads * CONTEXT * width


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma-3-4b", "mistral-7b"])
def test_repeated_kv_heads_are_a_copy_but_attention_has_the_true_ones(name: str) -> None:
    step, tokens = prepare(name, "prefill")
    graph = graph_of(step, name, tokens)
    masked = [op for op in graph if op.kind == "attention" and op.attributes["window"]]
    assert masked
    for op in masked:
        assert (op.dims["h"], op.dims["g"]) == (2, 2)
        window = op.attributes["window"]
        pairs = sum(min(i + 1, window) for i in range(SEQ))
        assert op.points == pairs * BATCH * 4 * op.dims["e"]
        assert op.attributes["mask"]


def test_causal_prefill_executes_half() -> None:
    step, tokens = prepare("llama-3-8b", "prefill")
    op = next(op for op in graph_of(step, "llama", tokens) if op.kind == "attention")
    assert op.attributes["causal"]
    assert op.points == BATCH * 4 * op.dims["e"] * SEQ * (SEQ + 1) / 2


@pytest.mark.slow
def test_experts_are_grouped_products_with_all_their_weights() -> None:
    step, tokens = prepare("qwen3-30b-a3b", "prefill")
    graph = graph_of(step, "qwen", tokens)
    grouped = [op for op in graph if "groups" in op.attributes and op.kind == "matmul"]
    assert len(grouped) == 2 * 3
    up = grouped[0]
    assert (up.dims["m"], up.dims["n"], up.dims["k"]) == (BATCH * SEQ * 2, 64, 64)
    weight = next(o for o in up.operands if o.name == "w")
    assert weight.role == "weight"
    assert up.elements(weight) == 8 * 64 * 64
    assert up.attributes["distribution"] == "balanced"


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["prefill", "decode", "train"])
def test_experts_in_float16_do_what_those_in_bfloat16_do(phase: str) -> None:
    def products(dtype: str) -> list[tuple[Any, ...]]:
        graph = pretrained.trace_config(
            "mixtral-8x7b", config("mixtral-8x7b"), phase=phase, batch=2, seq=SEQ, context=SEQ, dtype=dtype,
            strict=True, folded=False, attention="sdpa", scans="fused", front_end="auto",
        )
        roles = ("input", "weight", "output")
        found = [(sorted(op.dims.values()), op.flops, op.operand_bytes(*roles), op.attributes) for op in graph if op.kind == "matmul"]
        return sorted(found, key=repr)

    assert products("float16") == products("bfloat16")
    assert sum("groups" in attributes for *_, attributes in products("float16")) == {"prefill": 6, "decode": 6, "train": 12}[phase]


@pytest.mark.slow
def test_latent_attention_keeps_its_two_head_widths() -> None:
    step, tokens = prepare("deepseek-v3", "prefill")
    op = next(op for op in graph_of(step, "deepseek", tokens) if op.kind == "attention")
    assert op.dims["e"] == 24
    assert op.attributes["v_head_dim"] == 16
    assert op.body["mac"] == pytest.approx(1 + 16 / 24)
    value = next(o for o in op.operands if o.name == "v")
    assert op.elements(value) == BATCH * 4 * SEQ * 16


@pytest.mark.slow
def test_fused_attention_reads_windows_caps_and_sinks() -> None:
    for name, attribute in (("gemma-2-9b", "softcap"), ("gpt-oss-20b", "sinks")):
        model, implementation = huggingface.build(
            huggingface.config_of(config(name), name), name, torch.bfloat16, "flash"
        )
        assert implementation == "flash"
        step, tokens = pretrained._prefill(model, BATCH, SEQ, torch.bfloat16, {})
        ops = [op for op in graph_of(step, name, tokens) if op.kind == "attention"]
        assert {op.attributes["window"] for op in ops} == {0, 24}
        assert all(attribute in op.attributes for op in ops)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_fused_scans_stand_for_the_torch_code(phase: str) -> None:
    step, tokens = prepare("mamba2-2.7b", phase)
    plain = graph_of(step, "mamba2", tokens)
    with fused_scans():
        fused = graph_of(step, "mamba2", tokens)
    variants = {op.attributes["variant"] for op in fused if op.kind == "scan"}
    assert variants == (
        {"mamba2_scan", "causal_conv1d"} if phase == "prefill" else {"mamba2_update", "causal_conv1d_update"}
    )
    assert len(fused) < len(plain) / 1.4
    assert sum(op.bytes_read for op in fused) < sum(op.bytes_read for op in plain)
    assert fused.flops == pytest.approx(plain.flops, rel=0.35)
    assert fused.memory.kv_cache_bytes == plain.memory.kv_cache_bytes


def test_fused_scans_without_a_backward_pass_say_so() -> None:
    with pytest.raises(TraceError, match=r"mamba-2\.8b: the fused kernel mamba1_scan has no backward pass here; give phase='prefill'"):
        pretrained.trace_config(
            "mamba-2.8b", config("mamba-2.8b"), phase="train", batch=1, seq=16, context=None, dtype="bf16", strict=False, folded=False,
            attention="sdpa", scans="torch", front_end="auto",
        )


def test_names_are_unique_and_readable_and_say_where() -> None:
    step, tokens = prepare("llama-3-8b", "prefill")
    graph = graph_of(step, "llama", tokens)
    op = graph["model.layers.1.self_attn.q_proj.linear"]
    assert op.module == "model.layers.1.self_attn.q_proj"
    assert op.source.startswith("modeling_llama.py:")
    assert op.target == "aten.linear.default"
    weight = next(o for o in op.operands if o.role == "weight")
    assert (weight.name, op.extent(weight)) == ("w", (64, 64))
    sources = {u for u, v in graph.nx.edges if v == "model.layers.1.add"}
    assert sources == {"model.layers.1.self_attn.o_proj.linear", "model.layers.0.add_2"}


def test_logits_of_the_last_token_only() -> None:
    step, tokens = prepare("llama-3-8b", "prefill")
    graph = graph_of(step, "llama", tokens)
    assert graph["lm_head.linear"].dims["m"] == BATCH
    assert tokens == BATCH * SEQ
