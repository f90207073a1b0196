"""The error of the GPU models on measured op tables, by the protocols that the claims name, as one Markdown page.

* as shipped: the device file as it stands;
* held out: constants fitted on a random half of the rows (seed 0), error and interval coverage on the other half;
* transfer: the constants of another GPU's table, with this GPU's data sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from ..arch import System, load_gpu, names
from ..arch.intervals import uncalibrated
from ..errors import TableError, UnknownNameError
from ..files import write_atomically
from .calibrate import Table, calibrate, with_constants
from .conformal import interval_table
from .errors_table import ErrorLine, error_lines, worst_rows
from .opfile import halves, read_table
from .optable import KINDS, predict

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
        found.append((table, system_of(gpu, systems or {})))
    if not found:
        raise TableError(f"{folder}: no op tables named GPU.KIND.csv with a column {measured!r}")
    return found


def system_of(gpu: str, systems: Mapping[str, str] | None = None) -> System:
    """Device file of the GPU that a table's file name names.

    Parameters
    ----------
    gpu
        What stands before the first point of the file name, as ``a100_sxm``.
    systems
        Device-file name by such a name; absent: the shipped device whose name begins with it (``a100_sxm``) or with which it begins
        (``b200_sxm``), a calibrated one first.

    Raises
    ------
    UnknownNameError
        No device file has it.
    """
    systems = systems or {}
    if gpu in systems:
        return load_gpu(systems[gpu])
    wanted = gpu.replace("_", "-")
    matches = [load_gpu(name) for name in names() if name.startswith(wanted) or wanted.startswith(f"{name}-")]
    if not matches:
        raise UnknownNameError("GPU in a table's file name", gpu, names())
    return max(matches, key=lambda s: len(s.intervals))


def evaluate_tables(
    tables: Sequence[tuple[Table, System]],
    protocols: Iterable[str] = PROTOCOLS,
    *,
    seed: int = 0,
    progress: Progress = lambda stage, share: None,
) -> list[Entry]:
    """Every table under every protocol."""
    entries: list[Entry] = []
    wanted = list(protocols)
    for number, protocol in enumerate(wanted):

        def report(stage: str, share: float, at: int = number, name: str = protocol) -> None:
            progress(f"{name}: {stage}", (at + share) / len(wanted))

        if protocol == "transfer":
            entries += [
                _entry(table, system, used, f"transfer from {donor}") for table, system, used, donor in transfers(tables, seed, report)
            ]
            continue
        for position, (table, system) in enumerate(tables):
            report(table.name, position / len(tables))
            if protocol == "shipped":
                entries.append(_entry(table, system, system, protocol))
            else:
                one, other = halves(len(table.frame), seed)
                fit = calibrate([table.rows(one)], system, source="half of the rows", seed=seed)
                entries.append(_entry(table.rows(other), system, fit.system, protocol))
    progress("done", 1.0)
    return entries


def transfers(
    tables: Sequence[tuple[Table, System]], seed: int = 0, progress: Progress = lambda stage, share: None
) -> Iterator[tuple[Table, System, System, str]]:
    """Each table with its system, that system with the constants fitted on the same table of another GPU, and the other's name.

    Where another GPU of its generation was measured, only such lend their constants.
    """
    fitted: dict[str, System] = {}
    for position, (table, system) in enumerate(tables):
        progress(table.name, position / len(tables))
        donors = [(t, s) for t, s in tables if s.name != system.name and _sort(t) == _sort(table)]
        related = [(t, s) for t, s in donors if s.generation == system.generation]
        for donor_table, donor in related or donors:
            if donor_table.name not in fitted:
                fitted[donor_table.name] = calibrate([donor_table], donor, source=donor.name, seed=seed).system
            yield table, system, with_constants(system, fitted[donor_table.name], table.kind.name), donor.name


def transfer_intervals(
    tables: Sequence[tuple[Table, System]], seed: int = 0, progress: Progress = lambda stage, share: None
) -> dict[str, dict[str, Any]]:
    """Interval tables for GPUs without a calibration of their own: the residuals of transfers between GPUs that have one.

    Link-bound and scan kernels are left out: their constants belong to a host and to one implementation, and do not transfer.
    """
    ratios: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for table, _, used, _ in transfers([t for t in tables if t[0].kind.name not in ("collective", "scan")], seed, progress):
        predicted = predict(table.frame, table.kind, used)
        for key in np.unique(predicted["interval_key"].astype(str)):
            mine = predicted["interval_key"] == key
            ratios.setdefault(key.partition(".")[0], []).append((predicted["predicted_s"][mine], table.measured_s[mine]))
    names = ", ".join(sorted({system.title for _, system in tables}))
    return {
        family: interval_table(
            *(np.concatenate(column) for column in zip(*parts, strict=True)),
            source=f"constants of one GPU on the rows of another ({names})",
        )
        for family, parts in sorted(ratios.items())
    }


def write_intervals(path: Path, tables: Sequence[tuple[Table, System]], seed: int = 0) -> None:
    """Write `transfer_intervals` as the YAML that `presilicon.arch.intervals` reads, with its entries for the host and all the rest."""
    rules = {name: uncalibrated()[name] for name in ("default", "host")} | transfer_intervals(tables, seed)
    head = "# Intervals for a GPU that has no calibration of its own. Written by: presilicon validate FOLDER --intervals FILE\n"
    write_atomically(path, (head + yaml.safe_dump(rules, sort_keys=False, default_flow_style=None, width=130)).encode())


def _sort(table: Table) -> str:
    """What the file holds: its name without the GPU."""
    return table.name.partition(".")[2]


def _entry(table: Table, system: System, used: System, protocol: str) -> Entry:
    frame = table.frame.assign(measured_s=table.measured_s)
    predicted = predict(table.frame, table.kind, used)
    frame = frame.assign(**{name: predicted[name] for name in ("predicted_s", "low_s", "high_s")})
    worst = worst_rows(frame, "measured_s", 5)
    shown = [c for c in (*table.kind.sizes, *_GROUPS, "measured_s", "predicted_s", "ratio") if c in worst.columns]
    return Entry(
        table.name,
        system.name,
        table.kind.name,
        protocol,
        error_lines(frame, "measured_s", _GROUPS),
        worst[shown].to_string(index=False, float_format=lambda x: f"{x:.4g}"),
    )


def overview(entries: Sequence[Entry]) -> str:
    """Markdown: one line per table and protocol, worst first."""
    rows = ["| table | on | protocol | rows | MAPE | median | p95 | bias | in 90 % interval |", "|---|---|---|--:|--:|--:|--:|--:|--:|"]
    for entry in sorted(entries, key=lambda e: -e.lines[0].mape):
        rows.append(f"| {entry.table} | {entry.system} | {entry.protocol} |" + _cells(entry.lines[0]))
    return "\n".join(rows)


def at_a_glance(entries: Sequence[Entry]) -> str:
    """Markdown: MAPE of every operator by GPU and protocol."""
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for entry in sorted(entries, key=lambda e: list(KINDS).index(e.kind)):
        operator = entry.kind if entry.kind != "collective" else entry.table.split(".")[1].replace("_", " ")
        cells.setdefault((entry.system, entry.protocol), {})[operator] = entry.lines[0].mape
    operators = list(dict.fromkeys(operator for row in cells.values() for operator in row))
    rows = [f"| GPU | protocol | {' | '.join(operators)} |", "|---|---|" + "--:|" * len(operators)]
    for (system, protocol), row in sorted(cells.items(), key=lambda item: (item[0][1], item[0][0])):
        rows.append(f"| {system} | {protocol} | " + " | ".join(f"{row[name]:.1%}" if name in row else "" for name in operators) + " |")
    return "\n".join(rows)


def _cells(line: ErrorLine) -> str:
    covered = "-" if np.isnan(line.coverage) else f"{line.coverage:.1%}"
    return f" {line.rows} | {line.mape:.1%} | {line.median:.1%} | {line.p95:.1%} | {line.bias:+.1%} | {covered} |"


def page(entries: Sequence[Entry], command: str) -> str:
    """The whole Markdown page: overview, then each table's breakdown and worst rows."""
    parts = [
        "# Accuracy\n",
        f"Written by `{command}`. MAPE is the mean of |predicted - measured| / measured; bias is the geometric mean of "
        "predicted / measured, minus one. Protocols: *shipped*, the device file as it stands (fitted on these tables: in "
        "sample); *held-out*, constants fitted on a random half of the rows, error on the other half; *transfer*, the constants "
        "of another GPU (of the same generation, where one was measured) with this one's data sheet.\n",
        "## Overview\n",
        at_a_glance(entries),
        "",
        "## All tables, worst first\n",
        overview(entries),
        "",
    ]
    for entry in entries:
        if entry.protocol == "shipped":
            continue
        parts += [
            f"## {entry.table} on {entry.system}, {entry.protocol}\n",
            "| group | rows | MAPE | median | p95 | bias | in 90 % interval |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        parts += [f"| {line.group} |" + _cells(line) for line in entry.lines]
        if entry.worst:
            parts += ["\nWorst rows:\n", "```text", entry.worst, "```"]
        parts.append("")
    return "\n".join(parts) + "\n"
