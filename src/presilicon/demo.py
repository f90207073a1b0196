"""The main job on a real model: what ``make demo`` runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .api import simulate, trace_model
from .report import Report
from .tables import comparison_table

if TYPE_CHECKING:
    from rich.console import Console

SYSTEMS = ("a100-sxm-80gb", "l40s", "h100-sxm")
WORKLOADS = ({"phase": "prefill", "batch": 1, "seq": 2048}, {"phase": "decode", "batch": 8, "context": 4096})


def run(console: Console, folder: Path, write: Callable[[Report, Path], None]) -> None:
    """Trace Llama-3-8B, predict it, print the tables, and leave timelines and rooflines in a folder."""
    reports: list[Report] = []
    for workload in WORKLOADS:
        console.rule(f"Llama-3-8B {workload['phase']}")
        graph = trace_model("llama-3-8b", dtype="bfloat16", **workload)
        graph.save(folder / f"llama-3-8b.{workload['phase']}.graph.json")
        for system in SYSTEMS:
            report = simulate(graph, system)
            report.print(console, top=6)
            write(report, folder)
            reports.append(report)
    for phase in ("prefill", "decode"):
        console.print(comparison_table([r for r in reports if r.simulation.graph.meta.get("phase") == phase]))
    console.print(
        f"Timelines (open *.perfetto.json at ui.perfetto.dev), rooflines (*.svg), tables (*.csv) and graphs are in {folder.resolve()}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
