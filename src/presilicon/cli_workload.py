"""Options of the command line that change the traced workload: formats, zeros, parallelism, and requests with their own lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import PresiliconError

if TYPE_CHECKING:
    from .arch import AnySystem
    from .workloads import OpGraph

SparsityOption = Annotated[
    str | None,
    typer.Option(
        "--sparsity",
        help="Zeros in the weights of the linear layers: 2:4 or another N:M, unstructured:0.6 (60 % are zero), tiled_csl:0.8.",
    ),
]
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

DEGREES = ("tp", "pp", "dp", "ep", "cp")


def reformatted(graph: OpGraph, parameters: Mapping[str, Any]) -> OpGraph:
    """The graph with the number formats and the zeros that the options say."""
    from .workloads.sparsify import reformat

    return reformat(graph, parameters.get("quant"), parameters.get("sparsity"))


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
    from .predicting import drawn, fitted, ragged

    if getattr(call.params["phase"], "value", "") != "decode":
        raise PresiliconError("--requests are decoded together: give --phase decode")
    if getattr(call.get_parameter_source("batch"), "name", "") == "COMMANDLINE":
        batch, told = drawn(source, call.params["batch"])
    else:
        replicas, stages = call.params["dp"], call.params["pp"]
        single = {**call.params, "microbatches": 1 if stages > 1 else None}
        batch, told = fitted(source, trace, lambda graph: split(graph, single), systems, replicas=replicas, stages=stages)
    graph = ragged(trace, batch)
    graph.meta["requests"] = told
    return graph
