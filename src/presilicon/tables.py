"""Tables for the terminal (rich) of reports, systems and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from .units import format_si

if TYPE_CHECKING:
    from rich.console import Console

    from .report import Report
    from .workloads import OpGraph


def make_table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> Table:
    """A table; columns are ``(name, justify)``. Cells are escaped: names from files are never markup."""
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


def summary_lines(report: Report) -> list[tuple[str, str]]:
    """The head of a report as (name, value)."""
    s = report.simulation
    low, high = report.interval_s
    memory = s.memory
    lines = [
        ("model", f"{s.graph.name}  {s.graph.meta.get('phase', '')}".rstrip() + _workload(s.graph.meta)),
        ("system", ", ".join(filter(None, (_devices(report) + f"{s.system.title} ({s.system.name})", s.fidelity, s.runtime)))),
        ("time", format_si(s.time_s, "s") + (f"   90 % interval {format_si(low, 's')} to {format_si(high, 's')}" if low < high else "")),
    ]
    if s.graph.tokens:
        lines.append((f"{_unit(s.graph)}s/s", f"{report.tokens_per_s:,.0f}"))
    total = sum(report.energy_j.values())
    step_s = s.time_s or 1.0
    each = f", {format_si(total / s.graph.tokens, 'J')} a {_unit(s.graph)}" if s.graph.tokens else ""
    lines.append(("energy", format_si(total, "J") + each))
    lines.append(
        (
            "limited by",
            report.limited_by + "   " + ", ".join(f"{name} {value / step_s:.0%}" for name, value in list(report.bottlenecks().items())[:5]),
        )
    )
    if s.runtime == "eager" or s.host_limited:
        lines.append(
            (
                "host",
                f"{format_si(s.host_busy_s, 's')} to launch; device busy {s.device_busy_s / step_s:.0%} of the step; first kernel "
                f"after {format_si(s.first_kernel_s, 's')}",
            )
        )
    fits = "fits" if memory.fits else f"DOES NOT FIT: {format_si(memory.missing_bytes, 'B')} too much"
    lines.append(
        (
            "memory",
            f"{format_si(memory.peak_bytes, 'B')} of {format_si(memory.capacity_bytes, 'B')}, {fits}   "
            + ", ".join(f"{n} {format_si(v, 'B')}" for n, v in memory.parts_bytes.items()),
        )
    )
    if report.uncovered:
        lines.append(
            (
                "UNCOVERED",
                f"{sum(u['count'] for u in report.uncovered)} ops without a formula: "
                + ", ".join(f"{u['target']} x{u['count']}" for u in report.uncovered[:6]),
            )
        )
    else:
        lines.append(("coverage", f"all {sum(r.op.count for r in s.results)} kernels have a formula"))
    lines.append(("calibration", _calibration(report)))
    return lines + [("note" if i == 0 else "", note) for i, note in enumerate(s.notes)]


def _calibration(report: Report) -> str:
    assumed = f"{len(report.assumed)} numbers assumed (presilicon systems {report.simulation.system.name})"
    sources = report.calibration
    if not sources:
        return f"none: there are no intervals for systems of kind {report.simulation.system.kind}; {assumed}"
    own = sum(not text.startswith("not calibrated") for text in sources.values())
    return f"{own} of {len(sources)} kernel families calibrated on this GPU; {assumed}"


def _devices(report: Report) -> str:
    return f"{report.devices} x " if report.devices > 1 else ""


def _unit(graph: OpGraph) -> str:
    """What the graph's tokens are: tokens of text, or whole images and clips."""
    return str(graph.meta.get("unit", "token"))


def _workload(meta: Any) -> str:
    length = "context" if meta.get("phase") == "decode" else "seq"
    keys = ("batch", "dtype") if meta.get("unit") == "sample" else ("batch", length, "dtype")
    parts = [f"{key} {meta[key]}" for key in keys if meta.get(key)]
    return ("  " + ", ".join(parts)) if parts else ""


def print_report(report: Report, console: Console, top: int = 10) -> None:
    """The whole report: head, share by kind and limiter, the most expensive ops."""
    for name, value in summary_lines(report):
        style = "bold red" if name == "UNCOVERED" or "DOES NOT FIT" in value else ""
        console.print(f"{name:<12}{escape(value)}", style=style, highlight=False)
    if not report.simulation.results:
        return
    kinds: Any = report.by_kind()
    console.print(
        make_table(
            "Share by kind",
            [("kind", "left"), ("limited by", "left"), ("kernels", "right"), ("time", "right"), ("share", "right")],
            [(r.kind, r.limiter, int(r.ops), format_si(r.time_s, "s"), f"{r.share:.1%}") for r in kinds.head(12).itertuples()],
        )
    )
    frame: Any = report.to_frame().nlargest(top, "total_s")
    console.print(
        make_table(
            f"Most expensive of {len(report.simulation.results)} distinct ops",
            [
                ("op", "left"),
                ("shape", "left"),
                ("runs", "right"),
                ("one run", "right"),
                ("share", "right"),
                ("limited by", "left"),
                ("TFLOP/s", "right"),
                ("DRAM GB/s", "right"),
            ],
            [
                (
                    r.module or r.op,
                    r.shape,
                    r.count,
                    format_si(r.time_s, "s"),
                    f"{r.share:.1%}",
                    r.limiter,
                    f"{r.tflops_per_s:.3g}",
                    f"{r.gb_per_s:.4g}",
                )
                for r in frame.itertuples()
            ],
        )
    )


def comparison_table(reports: Sequence[Report]) -> Table:
    """Reports side by side."""
    first = reports[0].time_s
    rows = []
    for report in reports:
        h = report.headline()
        rows.append(
            (
                h["model"],
                h["phase"],
                h["system"],
                format_si(h["time_s"], "s"),
                f"{format_si(h['low_s'], 's')} to {format_si(h['high_s'], 's')}" if report.has_interval else "-",
                f"{h['tokens_per_s']:,.0f}",
                format_si(h["energy_j"], "J"),
                h["limited_by"],
                "yes" if h["fits"] else "NO",
                f"{first / h['time_s']:.2f}x",
            )
        )
    return make_table(
        "",
        [
            ("model", "left"),
            ("phase", "left"),
            ("system", "left"),
            ("time", "right"),
            ("90 % interval", "right"),
            ("tokens/s", "right"),
            ("energy", "right"),
            ("limited by", "left"),
            ("fits", "left"),
            ("speedup", "right"),
        ],
        rows,
    )
