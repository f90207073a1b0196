"""Commands for NPUs: what their scratchpad holds over a whole graph, and two systems at equal area or power."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import PresiliconError
from .files import check_writable, write_atomically
from .terminal import make_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .iso import Equalised
    from .mapping.scratchpad import Plan
    from .report import Report


class BudgetName(StrEnum):
    """What two systems have equal."""

    AREA = "area"
    POWER = "power"


class MethodName(StrEnum):
    """How a plan is found."""

    AUTO = "auto"
    GREEDY = "greedy"
    ILP = "ilp"
    DIVIDE = "divide"


def allocate(
    graph: Annotated[Path, typer.Argument(metavar="GRAPH", help="Saved graph (`presilicon trace`).")],
    scratchpad: Annotated[str, typer.Option(help="Its size, such as 2MiB.")],
    method: Annotated[MethodName, typer.Option(help="auto: ilp, for large graphs divide.")] = MethodName.AUTO,
    fuse: Annotated[bool, typer.Option("--fuse/--no-fuse", help="Fuse elementwise chains and epilogues first.")] = True,
    time_limit: Annotated[float, typer.Option(help="Seconds for the solver.", min=0.0)] = 60.0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV of what the scratchpad holds when and where.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw addresses over steps (SVG).")] = None,
) -> None:
    """Operator order, residency, addresses, spills and fetches of least DRAM traffic for one scratchpad, beside a greedy baseline."""
    from .mapping.fusion import fuse as fused
    from .mapping.scratchpad import allocate as plan_for
    from .mapping.scratchpad import problem_of
    from .units import format_si, parse
    from .workloads.graph import OpGraph

    for path in (out, picture):
        if path is not None:
            check_writable(path)
    loaded = OpGraph.load(graph)
    if not any(op.kind != "view" for op in loaded):
        raise PresiliconError(f"{graph}: no operators to plan for")
    problem = problem_of(fused(loaded) if fuse else loaded)
    capacity = int(parse(scratchpad, "B"))
    baseline = plan_for(problem, capacity, "greedy")
    plan = baseline if method is MethodName.GREEDY else plan_for(problem, capacity, method.value, time_limit_s=time_limit)  # type: ignore[arg-type]

    def size(number: float) -> str:
        return format_si(number, "B", 4)

    forced = problem.forced_bytes(capacity)
    proof = "proven: no order and residency moves fewer bytes" if plan.proven else _gap(plan)
    moved = sum(op != step for step, op in enumerate(plan.order))
    lines = [
        f"{problem.name}: {len(problem.ops)} operators, {len(problem.tensors)} tensors, scratchpad of {format_si(capacity, 'B', 4)}",
        f"compulsory       {size(problem.compulsory_bytes)}, of which weights {size(problem.streamed_bytes)}",
        f"forced           {size(forced)} above that: operators whose tensors do not fit stream them",
        f"greedy           {size(baseline.non_compulsory_bytes)} not compulsory",
    ]
    if plan is not baseline:
        spare = baseline.non_compulsory_bytes - forced
        less = (
            f", {(baseline.non_compulsory_bytes - plan.non_compulsory_bytes) / spare:.0%} less of what is not forced" if spare > 0 else ""
        )
        lines.append(f"{plan.method:<16} {size(plan.non_compulsory_bytes)} not compulsory{less}")
    fetched = [i for i in plan.intervals if i.fetched]
    lines += [
        f"                 {proof}",
        f"order            {'as in the program' if not moved else f'{moved} operators run at another step'}",
        f"traffic          {len(plan.spilled)} tensors written, {len(fetched)} fetches",
        f"peak             {size(plan.peak_bytes)} of {format_si(capacity, 'B', 4)}",
    ]
    console = make_console()
    for line in lines:
        console.print(line, highlight=False, markup=False)
    if out is not None:
        write_atomically(out, _csv(plan).encode())
    if picture is not None:
        from .plots import scratchpad as draw
        from .plots import svg

        write_atomically(picture, svg(draw(plan)))
    for written in filter(None, (out, picture)):
        console.print(f"wrote {written}", highlight=False, markup=False)


def show_equal(reports: Sequence[Report], found: Equalised) -> None:
    """Print A, B and the scaled B: what they take, how fast they are, and their silicon and energy by part."""
    from .iso import cost, parts
    from .tables import make_table
    from .units import format_si

    console = make_console()
    systems = [report.simulation.system for report in reports]
    names = [systems[0].name, systems[1].name, f"{systems[1].name}, scaled"]
    unit = {"area": "mm2", "power": "W"}[found.budget]
    scaled = ", ".join(f"{path} {value:g}" for path, value in found.changes.items())
    lines = [
        f"equal {found.budget}: {found.allowed:.4g} {unit} of {names[0]}; {names[1]} takes {found.before:.4g} {unit}",
        f"scaled: {scaled}, {found.spent:.4g} {unit}; one unit more would exceed the budget",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)
    base = reports[0]
    rows = [
        (
            name,
            f"{cost(system, 'area'):.4g}",
            f"{cost(system, 'power'):.4g}",
            format_si(max(system.peaks_flops_per_s.values()), "FLOP/s"),
            format_si(report.time_s, "s"),
            f"{base.time_s / report.time_s:.2f}x",
            format_si(report.simulation.total.total_energy_j, "J"),
            f"{base.simulation.total.total_energy_j / report.simulation.total.total_energy_j:.2f}x",
            report.limited_by,
        )
        for name, system, report in zip(names, systems, reports, strict=True)
    ]
    columns = [("system", "left"), *((c, "right") for c in ("mm2", "peak W", "peak", "time", "faster", "energy", "less energy"))]
    console.print(make_table("", [*columns, ("limited by", "left")], rows))
    silicon = [parts(system) for system in systems]
    _by_part("Silicon by part, mm2", names, silicon, "{:.3g}")
    energy = [{k: 1e3 * v for k, v in report.simulation.total.energy_j.items()} for report in reports]
    _by_part("Energy by component, mJ", names, energy, "{:.4g}")


def _by_part(title: str, names: Sequence[str], found: Sequence[dict[str, float]], form: str) -> None:
    from .tables import make_table

    every = dict.fromkeys(part for each in found for part in each)
    rows = [(part, *(form.format(each[part]) if part in each else "-" for each in found)) for part in every]
    rows.append(("sum", *(form.format(sum(each.values())) for each in found)))
    make_console().print(make_table(title, [("part", "left"), *((name, "right") for name in names)], rows))


def _gap(plan: Plan) -> str:
    gap = plan.moved_bytes / plan.bound_bytes - 1 if plan.bound_bytes > 0 else 0.0
    return f"not proven: at most {gap:.2%} more than the least possible traffic, compulsory bytes included"


def _csv(plan: Plan) -> str:
    """One row for each stay of a tensor."""
    import csv
    import io

    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(("tensor", "bytes", "first_step", "last_step", "first_op", "last_op", "address", "from", "written_to_dram"))
    for stay in sorted(plan.intervals, key=lambda i: (i.first, i.address)):
        tensor = plan.problem.tensors[stay.tensor]
        ops = [plan.problem.ops[plan.order[step]] for step in (stay.first, stay.last)]
        start = "dram" if stay.fetched else "made"
        rows.writerow((tensor.name, tensor.size_bytes, stay.first, stay.last, *ops, stay.address, start, int(stay.tensor in plan.spilled)))
    return stream.getvalue()
