"""The answer for one graph on one system: tables, pictures, a trace for Perfetto, and how far to believe it."""

from __future__ import annotations

import html
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import perfetto
from .arch.intervals import interval_key, table_for
from .sim.parallel import degrees, devices
from .sim.result import OpResult, Simulation
from .units import format_si

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.console import Console


class Report:
    """What `presilicon.simulate` returns.

    Parameters
    ----------
    simulation
        The result to report on.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation

    @property
    def time_s(self) -> float:
        """Wall time of one step in seconds."""
        return self.simulation.time_s

    @property
    def interval_s(self) -> tuple[float, float]:
        """Low and high end of the time in seconds; NaN on systems for which no calibration knows them."""
        if not self.has_interval:
            return math.nan, math.nan
        return self.simulation.low_s, self.simulation.high_s

    @property
    def has_interval(self) -> bool:
        """Whether a calibration says how far the times may be off: on GPUs only."""
        return self.simulation.system.kind == "gpu"

    @property
    def tokens_per_s(self) -> float:
        """Tokens that one second produces (decode) or takes in (prefill, training), or images or clips; 0 where the graph has none."""
        return self.simulation.graph.tokens / self.time_s if self.time_s else 0.0

    @property
    def energy_j(self) -> Mapping[str, float]:
        """Joules of one step by component, of all devices; idle power over the gaps counts as ``static``."""
        energy = dict(self.simulation.total.energy_j)
        gap = max(0.0, self.time_s - self.simulation.device_busy_s)
        energy["static"] = energy.get("static", 0.0) + gap * self.simulation.system.idle_w
        return {component: value * self.devices for component, value in energy.items()}

    @property
    def devices(self) -> int:
        """Devices that run the graph together; times, memory and rows are those of one of them."""
        return devices(self.simulation.graph)

    @property
    def uncovered(self) -> list[dict[str, Any]]:
        """Ops of the model that have no formula: target, count, bytes; their time is only that of moving their bytes."""
        return [vars(u) for u in self.simulation.graph.uncovered]

    @property
    def assumed(self) -> list[str]:
        """Numbers of the device that no source gave and a rule filled."""
        return self.simulation.system.assumed()

    @property
    def calibration(self) -> dict[str, str]:
        """Per kernel family of this graph: the source of the interval that applies; GPUs only."""
        found: dict[str, str] = {}
        for r in self.simulation.results if self.simulation.system.kind == "gpu" else ():
            key = interval_key(r.family, r.arithmetic)
            if key not in found:
                table, own = table_for(self.simulation.system, key)
                found[key] = str(table["source"]) if own else f"not calibrated on this GPU; {table['source']}"
        return found

    def headline(self) -> dict[str, Any]:
        """The numbers of the first line, as plain data."""
        s = self.simulation
        return {
            "model": s.graph.name,
            "phase": s.graph.meta.get("phase", ""),
            "system": s.system.name,
            "runtime": s.runtime,
            "fidelity": s.fidelity,
            "time_s": s.time_s,
            "low_s": self.interval_s[0],
            "high_s": self.interval_s[1],
            "tokens_per_s": self.tokens_per_s,
            "energy_j": sum(self.energy_j.values()),
            "flops": s.graph.flops if self.devices == 1 else self.devices * sum(r.op.flops * r.op.count for r in s.results),
            "devices": self.devices,
            "limited_by": self.limited_by,
            "peak_memory_bytes": s.memory.peak_bytes,
            "fits": s.memory.fits,
            "uncovered_ops": sum(u.count for u in s.graph.uncovered),
        }

    @property
    def limited_by(self) -> str:
        """``"host"`` when launches set the time, else the resource that limits the largest share of the kernels' time."""
        if self.simulation.host_limited:
            return "host"
        share = self.bottlenecks()
        return max(share, key=lambda name: share[name]) if share else ""

    def bottlenecks(self) -> dict[str, float]:
        """Seconds of kernel time by the resource that limits each kernel, plus ``"host"``: gaps in which the device waits; no zeros."""
        s = self.simulation
        share: dict[str, float] = defaultdict(float)
        for r in s.results:
            if not r.op.attributes.get("overlap"):
                share[r.estimate.limiter] += r.estimate.time_s * r.op.count
        beside = s.device_busy_s - sum(share.values())
        if any(r.op.attributes.get("overlap") for r in s.results) and beside > 0:
            share["link"] += beside  # gradients that the backward pass does not hide
        gap = self.time_s - s.device_busy_s
        if gap > 0:
            share["pipeline" if degrees(s.graph).get("pp", 1) > 1 else "host"] = gap
        return dict(sorted(((name, seconds) for name, seconds in share.items() if seconds), key=lambda item: -item[1]))

    def to_frame(self) -> pd.DataFrame:
        """One row per op: kind, sizes, count, time of one run and of all, share, interval, what limits, achieved rates, energy."""
        import pandas as pd

        total = sum(r.total.time_s for r in self.simulation.results) or 1.0
        frame = pd.DataFrame([_row(r, total) for r in self.simulation.results])
        return frame if self.has_interval or frame.empty else frame.assign(low_s=math.nan, high_s=math.nan)

    def by_kind(self) -> pd.DataFrame:
        """One row per kernel family and limiter: runs, time, share."""
        frame = self.to_frame()
        if frame.empty:
            return frame
        grouped = frame.groupby(["kind", "limiter"], sort=False).agg(
            ops=("count", "sum"), time_s=("total_s", "sum"), share=("share", "sum"), energy_j=("energy_j", "sum")
        )
        return grouped.sort_values("time_s", ascending=False).reset_index()

    def to_perfetto(self, path: str | os.PathLike[str]) -> Path:
        """Write the timeline as Chrome trace events, which https://ui.perfetto.dev opens."""
        return perfetto.write(self.simulation, Path(path))

    def roofline(self) -> Figure:
        """Every op against the system's roofline."""
        from .plots import roofline

        return roofline(self)

    def timeline(self, max_spans: int = 2000) -> Figure:
        """Host and GPU over time."""
        from .plots import timeline

        return timeline(self, max_spans)

    def compare(self, *others: Report) -> pd.DataFrame:
        """This report beside others, one row each; see `presilicon.compare`."""
        from .api import compare

        return compare([self, *others])

    def summary(self) -> str:
        """The report as text."""
        from rich.console import Console

        console = Console(width=110, force_terminal=False, color_system=None)
        with console.capture() as capture:
            self.print(console)
        return capture.get()

    def print(self, console: Console, top: int = 10) -> None:
        """Print the report to a rich console."""
        from .tables import print_report

        print_report(self, console, top)

    def __repr__(self) -> str:
        low, high = self.interval_s
        interval = f" [{format_si(low, 's')}, {format_si(high, 's')}]" if low < high else ""
        where = f"{self.simulation.graph.name} on {self.simulation.system.name}"
        return f"Report({where}: {format_si(self.time_s, 's')}{interval}, limited by {self.limited_by})"

    def _repr_html_(self) -> str:
        from .tables import summary_lines

        head = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th><td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in summary_lines(self)
        )
        frame = self.by_kind()
        return f"<table>{head}</table>" + frame.to_html(index=False, float_format=lambda x: f"{x:.4g}", escape=True)


def _row(r: OpResult, total_s: float) -> dict[str, Any]:
    e = r.estimate
    dram_bytes = e.bytes_moved.get("dram", 0.0)
    per_s = 1.0 / e.time_s if e.time_s else 0.0
    return {
        "op": r.op.name,
        "module": r.op.module,
        "kind": r.op.kind,
        "family": r.family,
        "shape": " ".join(f"{k}={v}" for k, v in r.op.dims.items()),
        "count": r.op.count,
        "time_s": e.time_s,
        "low_s": e.low_s,
        "high_s": e.high_s,
        "total_s": e.time_s * r.op.count,
        "share": e.time_s * r.op.count / total_s,
        "limiter": e.limiter,
        "flops": e.flops,
        "tflops_per_s": e.flops * per_s / 1e12,
        "bytes": r.op.bytes_read + r.op.bytes_written,
        "dram_bytes": dram_bytes,
        "gb_per_s": dram_bytes * per_s / 1e9,
        "clock_hz": e.clock_hz,
        "energy_j": e.total_energy_j * r.op.count,
        "source": r.op.source,
        "place": r.place,
        "reason": r.reason,
    }
