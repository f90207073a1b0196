"""Options of the command line that change the traced workload: parallelism, and requests with their own lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import PresiliconError

if TYPE_CHECKING:
    from .arch import AnySystem
    from .workloads import OpGraph

Tp = Annotated[int, typer.Option("--tp", help="Tensor-parallel devices: heads, MLP features and vocabulary are split.", min=1)]
Pp = Annotated[int, typer.Option("--pp", help="Pipeline stages of equally many blocks.", min=1)]
Dp = Annotated[int, typer.Option("--dp", help="Replicas, each with its share of the batch.", min=1)]
Ep = Annotated[int, typer.Option("--ep", help="Devices that the experts are dealt over, out of tp x dp x cp.", min=1)]
Cp = Annotated[int, typer.Option("--cp", help="Context-parallel devices: the sequence, or in decode the cache, is split.", min=1)]
Microbatches = Annotated[int | None, typer.Option(help="Parts of the batch in the pipeline; default: as many as stages.", min=1)]
SequenceParallel = Annotated[bool, typer.Option("--sequence-parallel", help="Norms on 1/tp of the tokens: reduce-scatter and all-gather.")]
RequestsOption = Annotated[
    str | None,
    typer.Option(
        "--requests",
        help="Decode requests of different lengths: a trace (CSV, Parquet), sharegpt, alpaca ..., or lognormal:PROMPT:OUTPUT. "
        "Without --batch, memory decides how many.",
    ),
]

#: Part of the memory that an engine takes, and most requests that it runs at once (vLLM: gpu_memory_utilization,
#: max_num_seqs of v0).
MEMORY_SHARE, MOST_REQUESTS = 0.9, 256

DEGREES = ("tp", "pp", "dp", "ep", "cp")


def split(graph: OpGraph, parameters: Mapping[str, Any]) -> OpGraph:
    """The graph of one rank, as the options say."""
    degrees = {name: parameters[name] for name in DEGREES}
    microbatches, sequence = parameters.get("microbatches"), bool(parameters.get("sequence_parallel"))
    if all(value == 1 for value in degrees.values()) and not sequence:
        if microbatches is not None:
            raise PresiliconError("--microbatches follow each other through a pipeline; give --pp")
        return graph
    from .workloads.parallel import parallelise

    return parallelise(graph, **degrees, microbatches=microbatches, sequence_parallel=sequence)


def traced_requests(call: typer.Context, source: str, trace: Callable[[int, int], OpGraph], systems: Sequence[AnySystem]) -> OpGraph:
    """A decode step of requests with their own contexts.

    Parameters
    ----------
    trace
        From the number of requests and a context to a traced, quantised graph of one device's work before it is split.
    systems
        Where it will run; the smallest memory decides the batch when the call names none.
    """
    from .workloads.ragged import with_contexts
    from .workloads.requests import decode_batches, find_requests, sample_decode_batch

    if getattr(call.params["phase"], "value", "") != "decode":
        raise PresiliconError("--requests are decoded together: give --phase decode")
    requests = find_requests(source)
    if getattr(call.get_parameter_source("batch"), "name", "") == "COMMANDLINE":
        batch = sample_decode_batch(requests, call.params["batch"])
    else:
        replicas, context = call.params["dp"], 1024
        one = split(trace(replicas, context), {**call.params, "microbatches": 1 if call.params["pp"] > 1 else None})
        per_token = one.memory.kv_cache_bytes / (context + 1)  # of one request, on one device
        room = MEMORY_SHARE * min(s.memory_bytes for s in systems) - one.memory.weights_bytes
        most = MOST_REQUESTS * replicas
        batch = decode_batches(requests, room * replicas, per_token, max_batch=most, samples=1)[0]
        whole = max(replicas * call.params["pp"], 1)
        if len(batch) >= whole:
            batch = type(batch)(batch.contexts[: len(batch) // whole * whole])
    graph = with_contexts(trace(len(batch), max(1, round(float(batch.contexts.mean())))), batch.contexts)
    graph.meta["requests"] = f"{source}: {requests.describe()}"
    return graph
