"""`predict`: a model by name, with everything that changes its graph, on a system; what the command of the same name does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from .errors import PresiliconError
from .report import Report
from .sim.run import Fidelity, Runtime

if TYPE_CHECKING:
    import numpy as np

    from .arch import AnySystem
    from .arch.hybrid_spec import HybridSystem
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
        As `presilicon.parallelise` takes them; on a hybrid system tp is the number of its devices, and the others stay 1.
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
    device, own = own_split(device, degrees, sequence_parallel)

    def split(graph: OpGraph, parts: int | None) -> OpGraph:
        if own:
            return graph
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
        found, told = fitted(requests, trace, lambda g: split(g, 1 if pp > 1 else None), [device], replicas=dp, stages=pp, place=place)
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
    place: str = "auto",
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
    place
        Where attention runs on hybrid systems, in whose memory its caches then lie.
    """
    import numpy as np

    from .workloads.requests import decode_batches

    requests = _requests(source)
    whole = trace(replicas, _PROBE_CONTEXT)
    one = split(whole) if any(system.kind != "hybrid" for system in systems) else whole

    cache, probed = _caches(whole), whole.memory.kv_cache_bytes / replicas  # bytes of one request, on all devices
    token = sum(size for size, _ in cache) or probed / (_PROBE_CONTEXT + 1)

    def held(system: AnySystem) -> tuple[float, float]:
        """Bytes for caches, and those of one token of one request, on one device or, of a hybrid system, on all."""
        graph = whole if system.kind == "hybrid" else one
        return _cache_room(graph, system, place), token * graph.memory.kv_cache_bytes / probed if probed else 0.0

    room, per_token = min(map(held, systems), key=lambda found: found[0] / max(found[1], 1e-30))

    def kept(tokens: np.ndarray) -> np.ndarray:
        """Tokens, less those that layers with a sliding window forget."""
        found: np.ndarray = sum(size * np.minimum(tokens, window) for size, window in cache) / sum(size for size, _ in cache)
        return found

    batch = decode_batches(requests, room * replicas, per_token, max_batch=MOST_REQUESTS * replicas, samples=1,
                           kept=kept if cache else None)[0]
    parts = max(replicas * stages, 1)
    if len(batch) >= parts:
        batch = type(batch)(batch.contexts[: len(batch) // parts * parts])
    return batch, f"{source if isinstance(source, str | Path) else 'requests'}: {requests.describe()}"


def _caches(graph: OpGraph) -> list[tuple[float, float]]:
    """Bytes of one token in the caches of one request, and the window, of each attention and all its repeats; empty without windows."""
    found = []
    for op in graph:
        window = int(op.attributes.get("window") or 0) if op.kind == "attention" else 0
        size = op.operand_bytes("cache") if op.kind == "attention" else 0.0
        if size:
            found.append((op.count * size / (op.dims["b"] * op.dims["s"]), float(window) if window else math.inf))
    return found if any(window < math.inf for _, window in found) else []


def own_split(system: AnySystem, degrees: Mapping[str, int], sequence_parallel: bool = False) -> tuple[AnySystem, bool]:
    """A system with as many devices as asked, and whether it shares a whole model over them itself, as hybrid systems do.

    Parameters
    ----------
    system
        Of any kind; only hybrid systems change.
    degrees
        As `presilicon.parallelise` takes them. ``tp`` above 1 is the number of a hybrid system's devices, in place of its file's.
    sequence_parallel
        As `presilicon.parallelise` takes it.

    Raises
    ------
    PresiliconError
        Another degree for a hybrid system.
    """
    if system.kind != "hybrid":
        return system, False
    other = [f"{name} {degree}" for name, degree in degrees.items() if name != "tp" and degree > 1]
    other += ["sequence_parallel"] * sequence_parallel
    if other:
        raise PresiliconError(f"{system.name}: {', '.join(other)}: a hybrid system shares every layer over its devices (tensor parallel); "
                              "tp, or --set devices=N, is their number; dp replicas do not meet while they serve, so "
                              "predict one with its part of the batch (throughput and energy count once for each)")
    return (system.override({"devices": degrees["tp"]}) if degrees["tp"] > 1 else system), True


def _cache_room(graph: OpGraph, system: AnySystem, place: str) -> float:
    """Bytes that a system has for caches beside weights."""
    if system.kind == "hybrid":
        from .sim.hybrid.sharing import cache_room_bytes

        return cache_room_bytes(graph, cast("HybridSystem", system), place, MEMORY_SHARE)
    return MEMORY_SHARE * system.memory_bytes - graph.memory.weights_bytes


def ragged(trace: Callable[[int, int], OpGraph], batch: Batch) -> OpGraph:
    """A decode step of requests with their own contexts."""
    from .workloads.ragged import with_contexts

    return with_contexts(trace(len(batch), max(1, round(float(batch.contexts.mean())))), batch.contexts)
