"""The error of the GPU models on measured op tables, by the protocols that the claims name, as one Markdown page.

* as shipped: the device file as it stands;
* held out: constants fitted on a random half of the rows (seed 0), error and interval coverage on the other half;
* transfer: the constants of another GPU's table, with this GPU's data sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ..arch import System, load, names
from ..arch.constants import all_constants
from ..arch.loader import override
from ..errors import TableError, UnknownNameError
from .calibrate import FAMILIES, Table, calibrate
from .errors_table import ErrorLine, error_lines, worst_rows
from .opfile import halves, read_table
from .optable import predict

PROTOCOLS: Final = ("shipped", "held-out", "transfer")
_GROUPS: Final = ("gemm_dtype", "attn_dtype", "moe_dtype", "kernel_source")

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Entry:
    """One table under one protocol.

    Attributes
    ----------
    lines
        First the error over all rows, then by group and size class.
    worst
        The rows with the largest error, as text.
    """

    table: str
    system: str
    kind: str
    protocol: str
    lines: Sequence[ErrorLine]
    worst: str = ""


def find_tables(folder: Path, systems: Mapping[str, str] | None = None, measured: str = "latency_s") -> list[tuple[Table, System]]:
    """Tables ``GPU.KIND.csv`` of a folder whose kind can be told, with the device file of each GPU.

    Parameters
    ----------
    folder
        Where the tables are.
    systems
        Device-file name by the GPU's name in the file names; absent: the shipped device whose name begins with it, a calibrated one first.

    Raises
    ------
    TableError
        No table is found.
    UnknownNameError
        A GPU has no device file.
    """
    found = []
    for path in sorted(folder.glob("*.*.csv")):
        gpu = path.name.partition(".")[0]
        try:
            table = read_table(path, None, measured)
        except TableError:
            continue  # another sort of CSV: only op tables are wanted
        found.append((table, _system_of(gpu, systems or {})))
    if not found:
        raise TableError(f"{folder}: no op tables named GPU.KIND.csv with a column {measured!r}")
    return found


def _system_of(gpu: str, systems: Mapping[str, str]) -> System:
    if gpu in systems:
        return load(systems[gpu])
    wanted = gpu.replace("_", "-")
    matches = [load(name) for name in names() if name == wanted or name.startswith(wanted)]
    if not matches:
        raise UnknownNameError("GPU in a table's file name", gpu, names())
    return max(matches, key=lambda s: len(s.intervals))


def evaluate_tables(tables: Sequence[tuple[Table, System]], protocols: Iterable[str] = PROTOCOLS, *, seed: int = 0,
                    progress: Progress = lambda stage, share: None) -> list[Entry]:
    """Every table under every protocol."""
    entries: list[Entry] = []
    protocols = list(protocols)
    total = len(tables) * len(protocols)
    fitted: dict[tuple[str, str], System] = {}
    for number, (protocol, (table, system)) in enumerate((p, t) for p in protocols for t in tables):
        progress(f"{protocol}: {table.name}", number / total)
        if protocol == "shipped":
            entries.append(_entry(table, system, system, protocol))
        elif protocol == "held-out":
            one, other = halves(len(table.frame), seed)
            fit = calibrate([table.rows(one)], system, source="half of the rows", seed=seed)
            entries.append(_entry(table.rows(other), system, fit.system, protocol))
        else:
            for donor_table, donor in tables:
                if donor.name == system.name or _sort(donor_table) != _sort(table):
                    continue
                key = (donor_table.name, donor.name)
                if key not in fitted:
                    fitted[key] = calibrate([donor_table], donor, source=donor.name, seed=seed).system
                entries.append(_entry(table, system, with_constants(system, fitted[key], table.kind.name), f"transfer from {donor.name}"))
    progress("done", 1.0)
    return entries


def _sort(table: Table) -> str:
    """What the file holds: its name without the GPU."""
    return table.name.partition(".")[2]


def with_constants(system: System, donor: System, kind: str | None = None) -> System:
    """A system with another's fitted constants (traits of a chip's design stay); with a kind of table, only those of its families."""
    families = FAMILIES[kind] if kind else None
    changes = {f"calibration.{name}": donor.calibration[name] for name, constant in all_constants().items()
               if constant.fit and (families is None or constant.family in families)}
    return override(system, changes, source=f"constants of {donor.name}", status="fitted")


def _entry(table: Table, system: System, used: System, protocol: str) -> Entry:
    frame = table.frame.assign(measured_s=table.measured_s)
    predicted = predict(table.frame, table.kind, used)
    frame = frame.assign(**{name: predicted[name] for name in ("predicted_s", "low_s", "high_s")})
    worst = worst_rows(frame, "measured_s", 5)
    shown = [c for c in (*table.kind.sizes, *_GROUPS, "measured_s", "predicted_s", "ratio") if c in worst.columns]
    return Entry(table.name, system.name, table.kind.name, protocol, error_lines(frame, "measured_s", _GROUPS),
                 worst[shown].to_string(index=False, float_format=lambda x: f"{x:.4g}"))


def overview(entries: Sequence[Entry]) -> str:
    """Markdown: one line per table and protocol, worst first."""
    rows = ["| table | on | protocol | rows | MAPE | median | p95 | bias | in 90 % interval |", "|---|---|---|--:|--:|--:|--:|--:|--:|"]
    for entry in sorted(entries, key=lambda e: -e.lines[0].mape):
        rows.append(f"| {entry.table} | {entry.system} | {entry.protocol} |" + _cells(entry.lines[0]))
    return "\n".join(rows)


def _cells(line: ErrorLine) -> str:
    covered = "-" if np.isnan(line.coverage) else f"{line.coverage:.1%}"
    return f" {line.rows} | {line.mape:.1%} | {line.median:.1%} | {line.p95:.1%} | {line.bias:+.1%} | {covered} |"


def page(entries: Sequence[Entry], command: str) -> str:
    """The whole Markdown page: overview, then each table's breakdown and worst rows."""
    parts = ["# Accuracy\n", f"Written by `{command}`. MAPE is the mean of |predicted - measured| / measured; bias is the geometric mean of "
             "predicted / measured, minus one. Protocols: *shipped*, the device file as it stands (its constants were fitted on these tables: in "
             "sample); *held-out*, constants fitted on a random half of the rows, error on the other half; *transfer*, the constants "
             "of another GPU with this one's data sheet.\n", "## Overview, worst first\n", overview(entries), ""]
    for entry in entries:
        if entry.protocol == "shipped":
            continue
        parts += [f"## {entry.table} on {entry.system}, {entry.protocol}\n", "| group | rows | MAPE | median | p95 | bias | in 90 % interval |",
                  "|---|--:|--:|--:|--:|--:|--:|"]
        parts += [f"| {line.group} |" + _cells(line) for line in entry.lines]
        if entry.worst:
            parts += ["\nWorst rows:\n", "```text", entry.worst, "```"]
        parts.append("")
    return "\n".join(parts) + "\n"
