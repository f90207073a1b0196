"""`predict`: a model by name, with everything that changes its graph, on a system; what the command of the same name does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import PresiliconError
from .report import Report
from .sim.run import Fidelity, Runtime

if TYPE_CHECKING:
    from .arch import AnySystem
    from .workloads import OpGraph
    from .workloads.requests import Batch, Requests

#: Part of the memory that an engine takes, and most requests that it runs at once (vLLM: gpu_memory_utilization,
#: max_num_seqs of v0).
MEMORY_SHARE: Final = 0.9
MOST_REQUESTS: Final = 256
#: Context with which a cache's bytes per token are found.
_PROBE_CONTEXT: Final = 1024


def predict(
    model: str | Path | OpGraph,
    system: AnySystem | str | Path,
    *,
    requests: str | Path | Requests | Sequence[int] | None = None,
    batch: int | None = None,
    quant: str | None = None,
    sparsity: str | None = None,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 1,
    cp: int = 1,
    microbatches: int | None = None,
    sequence_parallel: bool = False,
    fidelity: Fidelity = "tile",
    runtime: Runtime = "cudagraph",
    strict: bool = False,
    place: str = "auto",
    **options: Any,
) -> Report:
    """Trace a model, change it as asked, and predict one step on a system.

    Parameters
    ----------
    model
        As `presilicon.trace_model` takes it; or a graph, or the path of a saved one, which cannot have `requests`.
    system
        As `presilicon.simulate` takes it.
    requests
        Decode requests of different lengths: a trace file, the name of a data set, ``"lognormal:PROMPT:OUTPUT"``, `Requests`, or the
        contexts themselves.
    batch
        Sequences; with `requests` None means: as many as the memory holds, else 1.
    quant, sparsity
        As `presilicon.quantise` and `presilicon.sparsify` take them.
    tp, pp, dp, ep, cp, microbatches, sequence_parallel
        As `presilicon.parallelise` takes them.
    fidelity, runtime, strict, place
        As `presilicon.simulate` takes them.
    **options
        Of the trace: phase, seq, context, dtype, attention, scans.

    Returns
    -------
    Report

    Raises
    ------
    PresiliconError
        Requests with another phase than decode, or with a saved graph; and as the functions above raise.

    Examples
    --------
    ``predict("llama-3-8b", "h100-sxm", phase="decode", requests="sharegpt", quant="fp8", tp=2)``
    """
    from .api import simulate
    from .arch import load
    from .workloads.graph import is_graph_file
    from .workloads.parallel import parallelise
    from .workloads.sparsify import reformat

    device = load(system)
    degrees: dict[str, Any] = {"tp": tp, "pp": pp, "dp": dp, "ep": ep, "cp": cp}

    def split(graph: OpGraph, parts: int | None) -> OpGraph:
        if all(degree == 1 for degree in degrees.values()) and not sequence_parallel:
            if parts is not None and pp == 1 and parts == microbatches:
                raise PresiliconError("microbatches follow each other through a pipeline; give pp")
            return graph
        return parallelise(graph, **degrees, microbatches=parts, sequence_parallel=sequence_parallel)

    def trace(sequences: int, context: int | None) -> OpGraph:
        chosen = options if context is None else options | {"context": context}
        return reformat(_graph(model, {"batch": sequences, "strict": strict, **chosen}), quant, sparsity)

    if requests is None:
        graph = trace(1 if batch is None else batch, None)
        return simulate(split(graph, microbatches), device, fidelity=fidelity, runtime=runtime, strict=strict, place=place)
    if options.get("phase") != "decode":
        raise PresiliconError("requests are decoded together: give phase='decode'")
    if not isinstance(model, str | Path) or is_graph_file(model):
        raise PresiliconError(f"{model}: a saved graph has the batch that it was traced with; requests need the model")
    found, told = drawn(requests, batch) if batch is not None or _listed(requests) else (None, "")
    if found is None:
        found, told = fitted(requests, trace, lambda g: split(g, 1 if pp > 1 else None), [device], replicas=dp, stages=pp)
    graph = ragged(trace, found)
    graph.meta["requests"] = told
    return simulate(split(graph, microbatches), device, fidelity=fidelity, runtime=runtime, strict=strict, place=place)


def _graph(model: str | Path | OpGraph, options: dict[str, Any]) -> OpGraph:
    from .workloads.graph import OpGraph, is_graph_file
    from .workloads.models import trace_model

    if isinstance(model, OpGraph):
        return model
    return OpGraph.load(model) if is_graph_file(model) else trace_model(model, **options)


def _listed(requests: Any) -> bool:
    """Whether requests are given as their contexts."""
    return not isinstance(requests, str | Path) and not hasattr(requests, "describe")


def _requests(source: Any) -> Requests:
    from .workloads.requests import find_requests

    found: Requests = source if hasattr(source, "describe") else find_requests(source)
    return found


def drawn(source: Any, batch: int | None) -> tuple[Batch, str]:
    """So many requests of a source, or a list of contexts as it is; and what a report says of them."""
    from .workloads.requests import Batch, contexts_of, sample_decode_batch

    if _listed(source):
        contexts = contexts_of(source, len(source))
        if batch is not None and batch != len(contexts):
            raise PresiliconError(f"requests: {len(contexts)} contexts are given, and a batch of {batch}")
        return Batch(contexts), f"{len(contexts)} contexts as given"
    requests = _requests(source)
    assert batch is not None
    return sample_decode_batch(requests, batch), f"{source if isinstance(source, str | Path) else 'requests'}: {requests.describe()}"


def fitted(
    source: Any,
    trace: Callable[[int, int], OpGraph],
    split: Callable[[OpGraph], OpGraph],
    systems: Sequence[AnySystem],
    *,
    replicas: int = 1,
    stages: int = 1,
) -> tuple[Batch, str]:
    """As many requests as the smallest memory holds; and what a report says of them.

    Parameters
    ----------
    source
        As `predict` takes requests.
    trace
        From the number of requests and a context to a graph of the whole model.
    split
        From that to one device's part, in a single microbatch.
    systems
        Where it will run.
    replicas, stages
        Data-parallel replicas and pipeline stages, which whole parts of the batch go to.
    """
    from .workloads.requests import decode_batches

    requests = _requests(source)
    one = split(trace(replicas, _PROBE_CONTEXT))
    per_token = one.memory.kv_cache_bytes / (_PROBE_CONTEXT + 1)  # of one request, on one device
    room = MEMORY_SHARE * min(s.memory_bytes for s in systems) - one.memory.weights_bytes
    batch = decode_batches(requests, room * replicas, per_token, max_batch=MOST_REQUESTS * replicas, samples=1)[0]
    whole = max(replicas * stages, 1)
    if len(batch) >= whole:
        batch = type(batch)(batch.contexts[: len(batch) // whole * whole])
    return batch, f"{source if isinstance(source, str | Path) else 'requests'}: {requests.describe()}"


def ragged(trace: Callable[[int, int], OpGraph], batch: Batch) -> OpGraph:
    """A decode step of requests with their own contexts."""
    from .workloads.ragged import with_contexts

    return with_contexts(trace(len(batch), max(1, round(float(batch.contexts.mean())))), batch.contexts)
