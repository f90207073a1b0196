"""The workload that a command line asks for: traced or read, in its formats, split over devices, of requests with their own lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from .errors import PresiliconError

if TYPE_CHECKING:
    from .arch import AnySystem
    from .workloads import OpGraph

DEGREES = ("tp", "pp", "dp", "ep", "cp")


def graph_of(model: str, strict: bool, call: typer.Context) -> OpGraph:
    """What `traced` gives; then the part of one rank."""
    return split(traced(model, strict, call), call.params)


def runs_of(model: str, strict: bool, call: typer.Context, systems: Sequence[AnySystem]) -> list[tuple[OpGraph, AnySystem]]:
    """What each system runs, of the requests that the options say: the part of one rank, or all of a system that shares it itself."""
    from .predicting import own_split

    degrees = {name: call.params[name] for name in DEGREES}
    found = [own_split(system, degrees, bool(call.params.get("sequence_parallel"))) for system in systems]
    kept = [system for system, _ in found]
    whole = _requests(model, strict, call, kept) if call.params.get("requests") else traced(model, strict, call)
    rank = whole if all(own for _, own in found) and not call.params.get("microbatches") else split(whole, call.params)
    return [(whole if own else rank, system) for system, own in found]


def _requests(model: str, strict: bool, call: typer.Context, systems: Sequence[AnySystem]) -> OpGraph:
    """A decode step of requests with their own contexts; the smallest memory of the systems decides the batch when the call names none."""
    from .predicting import drawn, fitted, ragged
    from .workloads.graph import is_graph_file

    if is_graph_file(model):
        raise PresiliconError(f"{model}: a saved graph has the batch that it was traced with; --requests need the model")
    if call.params["phase"] != "decode":
        raise PresiliconError("--requests are decoded together: give --phase decode")

    def trace(batch: int, context: int) -> OpGraph:
        return traced(model, strict, call, {"batch": batch, "context": context})

    source = call.params["requests"]
    if getattr(call.get_parameter_source("batch"), "name", "") == "COMMANDLINE":
        batch, told = drawn(source, call.params["batch"])
    else:
        replicas, stages = call.params["dp"], call.params["pp"]
        single = {**call.params, "microbatches": 1 if stages > 1 else None}
        batch, told = fitted(source, trace, lambda graph: split(graph, single), systems, replicas=replicas, stages=stages,
                             place=call.params.get("place", "auto"))
    graph = ragged(trace, batch)
    graph.meta["requests"] = told
    return graph


def traced(model: str, strict: bool, call: typer.Context, changes: Mapping[str, Any] | None = None) -> OpGraph:
    """A graph file as it is, anything else traced with the options of the call; in the formats that the options say."""
    from .workloads.graph import OpGraph, is_graph_file
    from .workloads.sparsify import reformat

    names = ("phase", "batch", "seq", "context", "dtype", "attention", "scans")
    options = {name: getattr(call.params[name], "value", call.params[name]) for name in names} | dict(changes or {})
    formats = call.params.get("quant"), call.params.get("sparsity")
    if not is_graph_file(model):
        import logging

        from .workloads.models import trace_model

        logging.disable(logging.CRITICAL)  # torch logs tracebacks of what the error then says in one line
        try:
            return reformat(trace_model(model, **options, strict=strict), *formats)
        finally:
            logging.disable(logging.NOTSET)
    graph = OpGraph.load(model)
    for name, value in options.items():
        given = getattr(call.get_parameter_source(name), "name", "") == "COMMANDLINE"
        if given and graph.meta.get(name, value) != value:
            raise PresiliconError(f"{model}: traced with {name} {graph.meta[name]}; --{name} {value} cannot change a saved graph")
    return reformat(graph, *formats)


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
