"""Graphs of one rank: work is conserved, memory shrinks, and collectives carry the textbook's bytes."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from presilicon.errors import UnknownNameError, WorkloadError
from presilicon.workloads import Op, OpGraph, quantise, tensor
from presilicon.workloads.parallel import parallelise

LLAMA = Path(__file__).parents[1] / "data" / "llama-3-8b.prefill.graph.json.gz"
LLAMA_DECODE = Path(__file__).parents[1] / "data" / "llama-3-8b.decode.graph.json.gz"
HIDDEN, LAYERS, VOCABULARY = 4096, 32, 128256
BATCH, SEQ = 4, 32


@pytest.fixture(scope="module")
def llama() -> OpGraph:
    return OpGraph.load(LLAMA)


@pytest.fixture(scope="module")
def llama_decode() -> OpGraph:
    return OpGraph.load(LLAMA_DECODE)


def some(*names: str, slow: tuple[str, ...] = ()) -> list[Any]:
    """Models for every run, and those for the slow one."""
    return [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in slow)]


@cache
def traced(name: str, phase: str = "prefill", attention: str = "sdpa", **changes: Any) -> OpGraph:
    """A small version of a built-in configuration, three layers or four."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from presilicon.workloads.trace.pretrained import trace_config

    from .small import config

    return trace_config(
        name, config(name, **changes), phase=phase, batch=BATCH, seq=SEQ, context=SEQ, dtype="bf16", strict=True, folded=True,
        attention=attention, scans="torch", front_end="auto",
    )  # fmt: skip


def collectives(graph: OpGraph) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for op in graph:
        if op.kind == "collective":
            found[op.attributes["operation"], op.attributes["group"]] += op.count
    return found


def message_bytes(graph: OpGraph, operation: str, group: str = "tp") -> float:
    return sum(
        op.count * max(op.bytes_read, op.bytes_written)
        for op in graph
        if op.kind == "collective" and (op.attributes["operation"], op.attributes["group"]) == (operation, group)
    )


def products(graph: OpGraph) -> float:
    return sum(op.flops * op.count for op in graph if op.kind in ("matmul", "attention"))


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_llama_by_the_book(llama: OpGraph, tp: int) -> None:
    rank = parallelise(llama, tp=tp)
    residual = 2048 * HIDDEN * 2.0
    assert products(rank) * tp == products(llama)
    # Megatron-LM: two all-reduces of batch x seq x hidden a layer, and one after the embedding split by vocabulary.
    assert collectives(rank) == {("all_reduce", "tp"): 2 * LAYERS + 1, ("all_gather", "tp"): 1}
    assert message_bytes(rank, "all_reduce") == (2 * LAYERS + 1) * residual
    assert message_bytes(rank, "all_gather") == VOCABULARY * 2.0
    norms = LAYERS * 2 * HIDDEN * 2 + HIDDEN * 2
    assert rank.memory.weights_bytes == pytest.approx((llama.memory.weights_bytes - norms) / tp + norms, rel=1e-6)
    assert rank.memory.kv_cache_bytes == llama.memory.kv_cache_bytes / tp
    assert rank.tokens == llama.tokens
    assert rank.meta["parallel"]["devices"] == tp
    assert rank.meta["parallel"]["replicated"] == []


def test_a_rank_without_its_own_kv_head_shares_one(llama: OpGraph) -> None:
    rank = parallelise(llama, tp=16)
    key = rank["model.layers.0.self_attn.k_proj.linear"]
    attention = next(op for op in rank if op.kind == "attention")
    assert key.dims["n"] == 128  # a whole head
    assert (attention.dims["h"], attention.dims["g"]) == (1, 2)
    assert rank.memory.kv_cache_bytes == llama.memory.kv_cache_bytes / 8


@pytest.mark.parametrize(
    "name", some("llama-3-8b", "qwen3-8b", "gpt2", "bloom", slow=("mistral-7b", "qwen2.5-7b", "phi-3-mini", "gemma-3-4b", "opt-30b"))
)
def test_two_reductions_a_layer_and_work_conserved(name: str) -> None:
    graph = traced(name)
    rank = parallelise(graph, tp=2)
    layers = 4 if name.startswith("gemma") else 3
    assert collectives(rank) == {("all_reduce", "tp"): 2 * layers + 1, ("all_gather", "tp"): 1}
    assert products(rank) * 2 == products(graph)
    assert rank.memory.kv_cache_bytes == graph.memory.kv_cache_bytes / 2


@pytest.mark.parametrize("name", some("falcon-40b", slow=("gpt-neox-20b",)))
def test_attention_and_mlp_side_by_side_share_a_reduction(name: str) -> None:
    rank = parallelise(traced(name), tp=2)
    assert collectives(rank) == {("all_reduce", "tp"): 3 + 1, ("all_gather", "tp"): 1}


def test_fused_projection_with_one_kv_head() -> None:
    graph = traced("falcon-7b")
    rank = parallelise(graph, tp=4)
    fused = next(op for op in rank if op.kind == "matmul" and "query_key_value" in op.name)
    assert graph[fused.name].dims["n"] == (4 + 2) * 16
    assert fused.dims["n"] == (1 + 2) * 16
    assert rank.memory.kv_cache_bytes == graph.memory.kv_cache_bytes


@pytest.mark.slow
@pytest.mark.parametrize("name", some("bert-base", "t5-base", slow=("vit-b-16", "whisper-small")))
def test_encoders_split_too(name: str) -> None:
    graph = traced(name)
    rank = parallelise(graph, tp=2)
    blocks = sum(op.flops * op.count for op in graph if op.kind == "attention")
    assert sum(op.flops * op.count for op in rank if op.kind == "attention") * 2 == blocks
    assert products(graph) / products(rank) > 1.9


@pytest.mark.slow
def test_latent_attention_replicates_what_makes_the_latent() -> None:
    graph = traced("deepseek-v3", "decode")
    rank = parallelise(graph, tp=2)
    assert rank["model.layers.0.self_attn.q_b_proj.linear"].dims["n"] * 2 == graph["model.layers.0.self_attn.q_b_proj.linear"].dims["n"]
    assert rank["model.layers.0.self_attn.q_a_proj.linear"].dims == graph["model.layers.0.self_attn.q_a_proj.linear"].dims
    assert any("q_a_proj" in line and "reduces over the features" in line for line in rank.meta["parallel"]["replicated"])
    assert rank.memory.kv_cache_bytes == graph.memory.kv_cache_bytes


@pytest.mark.slow
def test_state_space_blocks_are_replicated_and_reported() -> None:
    rank = parallelise(traced("mamba2-2.7b"), tp=2)
    assert any("in_proj" in line and "conv" in line for line in rank.meta["parallel"]["replicated"])


@pytest.mark.slow
def test_experts_split_by_features_or_dealt_out() -> None:
    graph = traced("mixtral-8x7b")
    inside, dealt = parallelise(graph, tp=2), parallelise(graph, tp=2, ep=2)
    name = "model.layers.0.mlp.experts.grouped_mm"
    assert inside[name].dims["n"] * 2 == graph[name].dims["n"] == dealt[name].dims["n"]
    assert (inside[name].attributes["groups"], dealt[name].attributes["groups"]) == (4, 2)
    assert dealt[name].dims["m"] * 2 == graph[name].dims["m"]
    assert products(inside) == products(dealt)
    assert inside.memory.weights_bytes == dealt.memory.weights_bytes
    # ranks with the same tokens need no exchange, only the sum that the block has anyway, after the top-k copies are added
    for rank in (inside, dealt):
        assert collectives(rank) == {("all_reduce", "tp"): 7, ("all_gather", "tp"): 1}
        assert {op.dims["n"] for op in rank if op.attributes.get("operation") == "all_reduce"} == {BATCH * SEQ * 64}


@pytest.mark.slow
def test_replicas_exchange_tokens_of_their_experts() -> None:
    graph = traced("mixtral-8x7b", "decode")
    rank = parallelise(graph, dp=2, ep=2)
    assert collectives(rank) == {("all_to_all", "ep"): 2 * 3}
    rows = BATCH // 2 * 2  # this replica's tokens, to two experts each
    assert message_bytes(rank, "all_to_all", "ep") == 2 * 3 * rows * 64 * 2
    assert products(rank) * 2 == products(graph)
    experts = 3 * 4 * (3 * 64 * 96) * 2  # layers x experts x matrices, in bytes
    assert graph.memory.weights_bytes - rank.memory.weights_bytes == experts / 2


@pytest.mark.parametrize("name", some("llama-3-8b", slow=("qwen3-8b", "gpt2")))
def test_training_reduces_four_times_a_layer(name: str) -> None:
    graph = traced(name, "train")
    rank = parallelise(graph, tp=2)
    # forward and backward of attention and MLP; the embedding, the head's input gradient, the loss
    assert collectives(rank) == {("all_reduce", "tp"): 4 * 3 + 3}
    assert products(rank) * 2 == products(graph)
    assert rank.memory.optimizer_bytes == pytest.approx(
        graph.memory.optimizer_bytes * rank.memory.weights_bytes / graph.memory.weights_bytes
    )


def test_gradients_are_reduced_once_in_buckets(llama: OpGraph) -> None:
    graph = traced("llama-3-8b", "train")
    rank = parallelise(graph, dp=2)
    assert products(rank) * 2 == products(graph)
    assert message_bytes(rank, "all_reduce", "dp") == pytest.approx(graph.memory.gradient_bytes, rel=1e-3)
    assert rank.memory.weights_bytes == graph.memory.weights_bytes


@pytest.mark.parametrize("name", some("mixtral-8x7b", "deepseek-v3", slow=("llama-3-8b", "gemma-2-9b", "mamba2-2.7b", "t5-base")))
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_replicas_share_the_batch(name: str, phase: str) -> None:
    graph = traced(name, phase)
    rank = parallelise(graph, dp=2)
    assert products(rank) * 2 == products(graph)
    assert rank.memory.kv_cache_bytes * 2 == graph.memory.kv_cache_bytes
    assert not collectives(rank)


def test_context_parallel_prefill(llama: OpGraph) -> None:
    rank = parallelise(llama, cp=4)
    blocks = [op for op in llama if op.kind in ("matmul", "attention") and op.count > 1]
    for op in blocks:
        assert rank[op.name].flops * 4 == op.flops
    assert message_bytes(rank, "all_gather", "cp") == LAYERS * 2 * 2048 * 8 * 128 * 2  # keys and values of the sequence
    assert rank["lm_head.linear"].dims == llama["lm_head.linear"].dims  # one token: nothing to split


def test_context_parallel_decode_splits_the_cache(llama_decode: OpGraph) -> None:
    rank = parallelise(llama_decode, cp=2)
    attention = next(op for op in rank if op.kind == "attention")
    assert attention.dims["s"] == -(-llama_decode[attention.name].dims["s"] // 2)
    assert rank.memory.kv_cache_bytes == llama_decode.memory.kv_cache_bytes / 2
    assert collectives(rank) == {("all_gather", "cp"): LAYERS}
    assert rank["lm_head.linear"] == llama_decode["lm_head.linear"]


def test_sequence_parallel_moves_the_same_bytes(llama: OpGraph) -> None:
    plain, sequence = parallelise(llama, tp=4), parallelise(llama, tp=4, sequence_parallel=True)
    assert message_bytes(sequence, "reduce_scatter") == message_bytes(plain, "all_reduce")
    gathered = message_bytes(sequence, "all_gather") - VOCABULARY * 2.0
    assert gathered == message_bytes(plain, "all_reduce")  # before q, k, v, before gate, up, and before the head
    norm = "model.layers.0.input_layernorm.mul_2"
    assert sequence[norm].dims["n"] * 4 == plain[norm].dims["n"]


def test_pipeline_stage(llama: OpGraph) -> None:
    rank = parallelise(llama, pp=4, tp=2)
    blocks = [op for op in llama if op.kind == "matmul" and op.count == LAYERS]
    assert {rank[op.name].count for op in blocks} == {LAYERS // 4}
    assert rank["lm_head.linear"].count == 1
    assert "model.embed_tokens.embedding" not in rank.nx
    assert message_bytes(rank, "send", "pp") == 2048 * HIDDEN * 2
    assert rank.meta["parallel"]["devices"] == 8


def test_quantised_weights_shrink_alike(llama: OpGraph) -> None:
    graph = quantise(llama, "w4a16")
    rank = parallelise(graph, tp=8)
    assert products(rank) * 8 == products(graph)
    assert rank.memory.weights_bytes == pytest.approx(graph.memory.weights_bytes / 8, rel=2e-3)


def test_unfolded_is_the_same_work() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from presilicon.workloads.fold import fold
    from presilicon.workloads.trace.pretrained import trace_config

    from .small import config

    graph = trace_config(
        "llama", config("llama-3-8b"), phase="prefill", batch=BATCH, seq=SEQ, context=SEQ, dtype="bf16", strict=True, folded=False,
        attention="sdpa", scans="torch", front_end="auto",
    )  # fmt: skip
    loose, tight = parallelise(graph, tp=2), parallelise(fold(graph), tp=2)
    assert loose.flops == tight.flops
    assert collectives(loose) == collectives(tight)


def test_saved_and_loaded(llama: OpGraph, tmp_path: Path) -> None:
    rank = parallelise(llama, tp=2)
    again = OpGraph.load(rank.save(tmp_path / "rank.json"))
    assert json.dumps(again.to_dict()) == json.dumps(rank.to_dict())


def chain(widths: list[int]) -> OpGraph:
    """Linear layers with a relu between them, as a user's own module gives."""
    ops, edges, last = [], [], ""
    for i, (k, n) in enumerate(pairwise(widths)):
        ports = (tensor("a", "input", "b m k", "bf16"), tensor("w", "weight", "k n", "bf16"), tensor("out", "output", "b m n", "bf16"))
        ops.append(Op(f"fc{i}", "matmul", "aten.linear.default", {"b": 1, "m": 8, "n": n, "k": k}, ports, {"mac": 1.0}))
        if last:
            edges.append((last, f"fc{i}", "a"))
        relu = (tensor("x0", "input", "n", "bf16"), tensor("out", "output", "n", "bf16"))
        ops.append(Op(f"relu{i}", "elementwise", "aten.relu.default", {"n": 8 * n}, relu, {"cmp": 1.0}))
        edges.append((f"fc{i}", f"relu{i}", "x0"))
        last = f"relu{i}"
    return OpGraph("mlp", ops, edges, meta={"phase": "prefill", "batch": 8, "seq": 1})


def test_plain_layers_alternate_columns_and_rows() -> None:
    rank = parallelise(chain([64, 256, 64, 256, 64]), tp=4)
    assert [(op.dims["n"], op.dims["k"]) for op in rank if op.kind == "matmul"] == [(64, 64), (64, 64), (64, 64), (64, 64)]
    assert collectives(rank) == {("all_reduce", "tp"): 2}
    order = [op.name for op in rank]
    assert order.index("fc1.all_reduce_tp") == order.index("fc1") + 1  # a relu takes no partial sums


def test_degree_one_changes_nothing(llama: OpGraph) -> None:
    rank = parallelise(llama)
    assert rank.ops == llama.ops
    assert rank.memory == llama.memory


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tp": 3}, "32 attention heads do not divide by --tp 3"),
        ({"tp": 0}, "tp must be a whole number from 1"),
        ({"pp": 5}, "32 blocks of model.layers do not divide by --pp 5"),
        ({"dp": 2}, "batch 1 does not divide by --dp 2"),
        ({"cp": 3}, "sequence 2048 does not divide by --cp 3"),
        ({"ep": 2, "dp": 2}, "no grouped expert matmuls"),
        ({"ep": 2}, "tp x dp x cp = 1"),
        ({"tp": 2, "dp": 3, "ep": 3}, "one must divide the other"),
        ({"sequence_parallel": True}, "tp is 1"),
    ],
)
def test_what_does_not_divide_is_named(llama: OpGraph, options: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        parallelise(llama, **options)


@pytest.mark.slow
def test_errors_that_name_a_way_out(llama: OpGraph) -> None:
    with pytest.raises(UnknownNameError, match="vllm"):
        parallelise(llama, tp=2, all_reduce="vlm")
    with pytest.raises(WorkloadError, match="already"):
        parallelise(parallelise(llama, tp=2), tp=2)
    with pytest.raises(WorkloadError, match="4 experts do not divide by --ep 8"):
        parallelise(traced("mixtral-8x7b"), dp=4, tp=2, ep=8)
    with pytest.raises(WorkloadError, match="--attention flash"):
        parallelise(traced("gemma-2-9b"), tp=4)
    with pytest.raises(WorkloadError, match="one stack of blocks"):
        parallelise(traced("t5-base"), pp=2)
    with pytest.raises(WorkloadError, match="no pair of matmuls"):
        parallelise(OpGraph("none", [], meta={"phase": "prefill"}), tp=2)
