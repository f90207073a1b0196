"""Commands for accelerators other than GPUs: the mapping of one operator."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import PresiliconError, UnknownNameError
from .files import check_writable, write_atomically
from .terminal import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from .mapping.nest import Constraints, MappingResult
    from .workloads import Op, OpGraph


class ObjectiveName(StrEnum):
    """What the best mapping has least of."""

    ENERGY = "energy"
    LATENCY = "latency"
    EDP = "edp"


class LatencyName(StrEnum):
    """What of transfers and computation overlaps."""

    OVERLAPPED = "overlapped"
    FILL_DRAIN = "fill-drain"


class CountingName(StrEnum):
    """Rules by which accesses are counted."""

    ACCELFORGE = "accelforge"
    ZIGZAG = "zigzag"


def map_(
    op: Annotated[str | None, typer.Argument(help="An op, such as 'matmul m=1024 n=1024 k=1024 int8'.")] = None,
    system: Annotated[str, typer.Option("--system", help="Name or path of a hierarchy file.")] = "mapbench-16",
    objective: Annotated[ObjectiveName, typer.Option(help="What is least.")] = ObjectiveName.EDP,
    cascade: Annotated[
        str | None, typer.Option(help="Einsums, such as 'S[m,p] = Q[m,e] K[p,e]; A[m,f] = S[m,p] V[p,f]; m=64 ...'.")
    ] = None,
    graph: Annotated[Path | None, typer.Option(help="Take the op from a saved graph.")] = None,
    name: Annotated[str | None, typer.Option("--op", help="Name of the op in --graph; several with commas: a cascade.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every op of --graph, repeated shapes once.")] = False,
    fuse: Annotated[bool, typer.Option("--fuse/--no-fuse", help="Fuse the ops of a cascade where that is better.")] = True,
    dataflow: Annotated[str | None, typer.Option(help="os, ws or is.")] = None,
    constraints: Annotated[
        Path | None, typer.Option(help="A YAML file of what the mapping must obey: dataflow, spatial factors, order, tiles.")
    ] = None,
    imperfect: Annotated[bool, typer.Option("--imperfect", help="Also factors in space that do not divide their dimension.")] = False,
    latency: Annotated[LatencyName | None, typer.Option(help="What of transfers and computation overlaps.")] = None,
    even: Annotated[bool, typer.Option("--even", help="All tiles of a memory at one depth; --to-timeloop implies it.")] = False,
    front: Annotated[bool, typer.Option("--pareto", help="The energy-latency front.")] = False,
    time_limit: Annotated[float | None, typer.Option(help="Seconds; then the best so far and its bound.", min=0.0)] = None,
    counting: Annotated[CountingName, typer.Option(help="Rule by which accesses are counted.")] = CountingName.ACCELFORGE,
    from_timeloop: Annotated[Path | None, typer.Option(help="Count the mapping of this Timeloop file; no search.")] = None,
    to_timeloop: Annotated[Path | None, typer.Option(help="Write the mapping as a Timeloop file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the nest and the occupancy (SVG).")] = None,
) -> None:
    """The best mapping of one operator, a cascade or a whole graph onto a spatial accelerator, and whether it is proven."""
    from dataclasses import replace

    from .mapping.nest import Constraints, cascade_from_graph, load_constraints, map_cascade, map_op, op_from_text, pareto
    from .units import format_si
    from .workloads.graph import OpGraph

    if sum(source is not None for source in (op, cascade, graph)) != 1:
        raise PresiliconError("map: give one of: an op, --cascade TEXT, or --graph FILE with --op NAME or --all")
    if (graph is not None) != (name is not None or everything) or (name is not None and everything):
        raise PresiliconError("map: --graph FILE goes with either --op NAME or --all")
    for path in (to_timeloop, picture):
        if path is not None:
            check_writable(path)
    console, limits = make_console(), Constraints() if constraints is None else load_constraints(constraints)
    limits = replace(limits, dataflow=dataflow or limits.dataflow, even=limits.even or even or to_timeloop is not None)
    loaded = None if graph is None else OpGraph.load(graph)
    several = cascade is not None or (name is not None and "," in name)
    if (several or everything) and (front or from_timeloop is not None or to_timeloop is not None):
        raise PresiliconError("map: --pareto, --from-timeloop and --to-timeloop take a single op")
    if picture is not None and (everything or front):
        raise PresiliconError("map: --picture takes the mapping of a single op or of a cascade")
    if counting is CountingName.ZIGZAG and (several or everything or front or from_timeloop is not None):
        raise PresiliconError("map: --counting zigzag takes the search of a single op")
    if several and (dataflow is not None or even or constraints is not None):
        raise PresiliconError("map: --constraints, --dataflow and --even take single ops, not a cascade")
    if (imperfect or latency is not None) and (several or everything or front or from_timeloop is not None or to_timeloop is not None):
        raise PresiliconError("map: --imperfect and --latency take the search of a single op")
    if loaded is not None and everything:
        _print_graph(loaded, system, objective, limits, time_limit, console)
        return
    if several:
        chosen = str(cascade) if loaded is None else cascade_from_graph(loaded, [part.strip() for part in str(name).split(",")])
        result = map_cascade(chosen, system, objective.value, fuse=fuse, time_limit_s=time_limit)
        console.print(str(result), highlight=False, markup=False)
        if picture is not None:
            from .plots import svg

            write_atomically(picture, svg(result.picture()))
            console.print(f"wrote {picture}", highlight=False, markup=False)
        return
    if loaded is not None and name not in loaded.nx:
        raise UnknownNameError("op", str(name), [each.name for each in loaded], where=str(graph))
    single = op_from_text(str(op)) if loaded is None else loaded[str(name)]
    if front:
        for p in pareto(single, system, limits, time_limit_s=time_limit):
            proof = "proven" if p.exhausted else f"gap {p.gap:.1%}"
            console.print(f"{format_si(p.counts.energy_j, 'J', 6)}  {p.counts.cycles:,.0f} cycles  {proof}", highlight=False, markup=False)
        return
    if from_timeloop is not None:
        answer = _counted(single, system, objective, from_timeloop)
    else:
        answer = map_op(
            single,
            system,
            objective.value,
            limits,
            time_limit_s=time_limit,
            counting=counting.value,
            imperfect=imperfect,
            latency=None if latency is None else latency.value,
        )
    console.print(str(answer), highlight=False, markup=False)
    if to_timeloop is not None:
        import yaml

        from .mapping.nest import mapping_to_timeloop

        text = yaml.safe_dump(mapping_to_timeloop(answer.mapping, answer.problem), sort_keys=False, default_flow_style=None)
        write_atomically(to_timeloop, text.encode())
    if picture is not None:
        from .plots import svg

        write_atomically(picture, svg(answer.picture()))
    for written in filter(None, (to_timeloop, picture)):
        console.print(f"wrote {written}", highlight=False, markup=False)


def _counted(op: Op, system: str, objective: ObjectiveName, path: Path) -> MappingResult:
    """A mapping of the user's, counted."""
    from .arch.hierarchy import load_hierarchy
    from .mapping.nest import MappingResult, evaluate, mapping_from_timeloop, problem

    mapping, compiled = mapping_from_timeloop(path, problem(op, load_hierarchy(system)))
    return MappingResult(compiled, objective.value, mapping, evaluate(mapping, compiled), False, 0.0, 0, 0)


def _print_graph(
    graph: OpGraph, system: str, objective: ObjectiveName, limits: Constraints, time_limit: float | None, console: Console
) -> None:
    import sys

    from rich.console import Console as Screen
    from rich.progress import Progress

    from .mapping.nest import map_graph
    from .tables import make_table
    from .units import format_si

    with Progress(console=Screen(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("mapping", total=None)

        def progress(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)

        found = map_graph(graph, system, objective.value, limits, time_limit_s=time_limit, progress=progress)
    rows = []
    for shape in found.mapped:
        assert shape.result is not None
        counts = shape.result.counts
        more = f" and {len(shape.ops) - 1} more" if len(shape.ops) > 1 else ""
        dims = " ".join(f"{dim}={extent}" for dim, extent in shape.result.problem.dims.items())
        proof = "proven" if shape.result.exhausted else f"gap {shape.result.gap:.1%}"
        energy = format_si(counts.energy_j * shape.runs, "J", 5)
        cycles = f"{counts.cycles * shape.runs:,.0f}"
        rows.append((shape.ops[0] + more, dims, shape.runs, energy, cycles, f"{counts.utilisation:.1%}", counts.limiter, proof))
    columns = [(name, "left") for name in ("op", "shape")] + [(name, "right") for name in ("runs", "energy", "cycles", "MACs used")]
    console.print(
        make_table(f"{graph.name} on {found.hierarchy.name}, least {objective.value}", [*columns, ("limited by", ""), ("", "")], rows)
    )
    total = found.estimate
    console.print(f"mapped ops together: {format_si(total.total_energy_j, 'J', 6)}  {format_si(total.time_s, 's', 6)}", highlight=False)
    left = [shape for shape in found.shapes if shape.result is None]
    if left:
        reasons: dict[str, list[str]] = {}
        for shape in left:
            reasons.setdefault(shape.reason.rpartition(": ")[2], []).extend(shape.ops)
        for reason, names in reasons.items():
            console.print(f"not mapped: {len(names)} ops, such as {names[0]}: {reason}", highlight=False, markup=False)
