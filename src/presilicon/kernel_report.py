"""What a prediction of a Triton kernel gives: the report, its source with costs by line, its timeline."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import SpecError
from .files import write_atomically
from .units import format_si

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from .sim.sm.result import KernelRun


@dataclass(frozen=True)
class KernelInfo:
    """What was launched on what.

    Attributes
    ----------
    name, where
        The kernel, and ``file.py:12`` of its definition.
    system, title
        Name of the system, and for people.
    target
        Compute capability that was compiled for: 90 is sm_90.
    grid
        Numbers of program ids.
    arguments
        The arguments as text, tensors by size.
    registers, stack_bytes, shared_bytes
        Registers a thread, spilled bytes a thread, shared memory a CTA.
    num_stages
        Pipeline stages asked for.
    interval
        Where the interval comes from, in words.
    config
        The autotune config that was taken, "" where there is no choice.
    left_out
        Autotune configs that cannot run on this system, each with the reason, as Triton's autotuner passes over them.
    """

    name: str
    where: str
    system: str
    title: str
    target: int
    grid: tuple[int, ...]
    arguments: Mapping[str, str]
    registers: int
    stack_bytes: int
    shared_bytes: int
    num_stages: int
    interval: str
    config: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelReport:
    """The answer for one launch on one system.

    Attributes
    ----------
    run
        What the simulation found.
    info
        What was launched on what.
    """

    run: KernelRun
    info: KernelInfo

    @property
    def time_s(self) -> float:
        """Predicted seconds on the device."""
        return self.run.time_s

    @property
    def interval_s(self) -> tuple[float, float]:
        """Low and high end of the time in seconds; `info.interval` says where it comes from."""
        return self.run.low_s, self.run.high_s

    def assuming(self, text: str) -> KernelReport:
        """The report with one more assumption."""
        return replace(self, run=replace(self.run, assumptions=(*self.run.assumptions, text)))

    def document(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {"run": asdict(self.run), "info": asdict(self.info)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> KernelReport:
        """The report that `document` was made from."""
        from .mapping.triton import Occupancy
        from .sim.result import Span
        from .sim.sm.result import KernelRun, LineCost

        run, info = dict(document["run"]), dict(document["info"])
        found = dict(run["occupancy"])
        run["occupancy"] = Occupancy(**{**found, "bound_by": tuple(found["bound_by"])})
        run["lines"] = tuple(LineCost(**line) for line in run["lines"])
        run["spans"] = tuple(Span(**span) for span in run["spans"])
        for name in ("assumptions", "issued_by_instruction", "stalls_by_instruction"):
            run[name] = tuple(run[name])
        info["grid"], info["left_out"] = tuple(info["grid"]), tuple(info.get("left_out", ()))
        return cls(KernelRun(**run), KernelInfo(**info))

    def to_frame(self) -> pd.DataFrame:
        """One row per source line: file, line, text, warp-instructions, stalled warp-cycles, share of the warp-cycles."""
        import pandas as pd

        from .sim.sm.result import LineCost

        columns = [each.name for each in fields(LineCost)]
        return pd.DataFrame([asdict(line) for line in self.run.lines], columns=columns)

    def to_perfetto(self, path: str | os.PathLike[str]) -> Path:
        """Write one SM's timeline as Chrome trace events, which https://ui.perfetto.dev opens.

        Raises
        ------
        SpecError
            The prediction was made without ``record=True``.
        """
        return write_perfetto(self.document(), Path(path))

    def annotated_source(self) -> str:
        """The kernel's source with the share of the warp-cycles and the issues of each line."""
        return annotated(self.document())

    def summary(self) -> str:
        """The report as text."""
        from rich.console import Console

        console = Console(width=140, force_terminal=False, color_system=None)
        with console.capture() as capture:
            self.print(console)
        return capture.get()

    def print(self, console: Console, top: int = 10) -> None:
        """Print the report to a rich console."""
        from .kernel_tables import print_kernel

        print_kernel(self.document(), console, top)

    def __repr__(self) -> str:
        low, high = self.interval_s
        return (
            f"KernelReport({self.info.name}{list(self.info.grid)} on {self.info.system}: {format_si(self.time_s, 's')} "
            f"[{format_si(low, 's')}, {format_si(high, 's')}], limited by {self.run.limiter})"
        )

    def _repr_html_(self) -> str:
        from .kernel_tables import head_lines

        head = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in head_lines(self.document())
        )
        return f"<table>{head}</table>" + self.to_frame().head(10).to_html(index=False, float_format=lambda x: f"{x:.4g}", escape=True)


def annotated(document: Mapping[str, Any]) -> str:
    """The source files of a report with share and issues before each line, from the first to the last line that costs anything."""
    lines = [line for line in document["run"]["lines"] if line["line"] > 0]
    parts = []
    for file in sorted({line["file"] for line in lines}):
        costs = {line["line"]: line for line in lines if line["file"] == file}
        try:
            text = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            text = []
        parts.append(f"{file}\n{'share':>7} {'issued':>12} {'stalled':>12}")
        for number in range(min(costs), max(costs) + 1):
            cost = costs.get(number)
            source = text[number - 1] if number <= len(text) else cost["text"] if cost else ""
            head = f"{cost['share']:7.1%} {cost['issued']:12,d} {cost['stall_cycles']:12,.0f}" if cost else " " * 33
            parts.append(f"{head} {number:5d}  {source}".rstrip())
    return "\n".join(parts)


def write_perfetto(document: Mapping[str, Any], path: Path) -> Path:
    """Write the recorded timeline of a report."""
    spans = document["run"]["spans"]
    if not spans:
        raise SpecError(f"{document['info']['name']}: no timeline was recorded; ask for it with fidelity='cycle' and record=True")
    lanes = {lane: index + 1 for index, lane in enumerate(dict.fromkeys(span["lane"] for span in spans))}
    title = f"{document['info']['name']} on one SM of {document['info']['system']}"
    events: list[dict[str, Any]] = [{"ph": "M", "pid": 1, "name": "process_name", "args": {"name": title}}]
    events += [{"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": lane}} for lane, tid in lanes.items()]
    events += [
        {"ph": "X", "pid": 1, "tid": lanes[span["lane"]], "name": span["name"], "ts": span["start_s"] * 1e6,
         "dur": span["duration_s"] * 1e6, "args": {"source": span["op"]} if span["op"] else {}}
        for span in spans
    ]
    write_atomically(path, (json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}) + "\n").encode())
    return path
