"""Parallelism as a knob of the workload: the graph of one rank, with the collectives that join the ranks.

Tensor parallelism and where its collectives go: `presilicon.workloads.parallel_tensor`. The others split tokens
(data, context, microbatches of a pipeline), blocks (pipeline) or experts.
"""

from __future__ import annotations

import math
from typing import Final

from ..errors import UnknownNameError, WorkloadError
from .graph import OpGraph
from .parallel_rank import Degrees, Rank

#: Kernels of the all-reduce: a serving engine's own for small messages, or the library's.
ALL_REDUCE: Final = ("auto", "nccl", "vllm", "sglang", "trtllm")


def parallelise(
    graph: OpGraph,
    *,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    cp: int = 1,
    microbatches: int | None = None,
    sequence_parallel: bool = False,
    all_reduce: str = "auto",
) -> OpGraph:
    """The graph of one rank of a parallel system.

    Parameters
    ----------
    graph
        A traced graph of the whole batch, folded or not, quantised or not.
    tp
        Tensor parallel: heads, MLP features, vocabulary (padded to a multiple, as Megatron does).
    pp
        Pipeline stages of equally many blocks. The rank is one of the last stage, which has the output head; the graph
        is one microbatch, and `presilicon.sim.parallel` adds the bubble.
    dp
        Replicas, each with its share of the batch. Training: their gradients are all-reduced in buckets of 25 MiB.
    ep
        Ranks that the experts are dealt over, taken from the tp x dp x cp ranks of a stage. Ranks with the same tokens
        (tp) each compute their own experts' part; ranks with different tokens exchange them (two all-to-alls).
    cp
        Context parallel. Prefill and training: the sequence is split, keys and values are gathered (as much traffic as
        ring attention), causal work is balanced. Decode: the cache is split, and partial results are gathered.
    microbatches
        Of a pipeline; None: ``pp`` in training and in decode, else 1.
    sequence_parallel
        Norms and residuals on 1/tp of the tokens: each all-reduce becomes a reduce-scatter and an all-gather
        (Korthikanti et al., arXiv 2205.05198).
    all_reduce
        ``"nccl"``, or the engine whose own kernel takes small messages; ``"auto"``: vllm, in training nccl.

    Returns
    -------
    OpGraph
        Of one rank; `tokens` stays that of the whole system. ``meta["parallel"]`` holds the degrees, `devices`, and
        `replicated`: the matmuls that every rank repeats, with the reason.

    Raises
    ------
    WorkloadError
        A size does not divide, or nothing in the graph can be split as asked.
    """
    if all_reduce not in ALL_REDUCE:
        raise UnknownNameError("all-reduce implementation", str(all_reduce), ALL_REDUCE)
    if "parallel" in graph.meta:
        raise WorkloadError(f"{graph.name}: the graph is already that of one rank: {graph.meta['parallel']}")
    training = graph.meta.get("phase") == "train"
    batch = graph.meta.get("batch")
    if microbatches is None:
        share = batch // dp if isinstance(batch, int) else 1
        microbatches = 1 if pp == 1 or graph.meta.get("phase") == "prefill" else math.gcd(pp, max(share, 1))
    degrees = Degrees(tp, pp, dp, ep, cp, microbatches)
    if sequence_parallel and tp == 1:
        raise WorkloadError("parallelism: sequence_parallel shares the tokens of a tensor-parallel group; tp is 1")
    if ep > 1 and not any("groups" in op.attributes for op in graph):
        raise WorkloadError(f"{graph.name}: --ep {ep}: the graph has no grouped expert matmuls")
    kernel = ("nccl" if training else "vllm") if all_reduce == "auto" else all_reduce
    return Rank(graph, degrees, kernel, sequence_parallel).build()
