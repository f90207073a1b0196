"""The accuracy table: `make accuracy MEASURED=FOLDER` prints it and writes it into README.md between its two markers.

FOLDER holds measured op tables named ``GPU.WHAT.csv`` (``a100_sxm.gemm.csv``), with seconds in ``latency_s``. For each,
constants are fitted on a random half of its rows and judged on the other half (held out); and fitted on the same table
of another GPU, together with this GPU's data sheet (transfer).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from presilicon import PresiliconError, System, load_system
from presilicon.arch.loader import override
from presilicon.files import write_atomically
from presilicon.validate.calibrate import Table, calibrate
from presilicon.validate.errors_table import error_line
from presilicon.validate.opfile import halves, read_table
from presilicon.validate.optable import predict

#: Device file of each GPU that a table's name may begin with.
SYSTEMS = {"a100_sxm": "a100-sxm-80gb", "l40s": "l40s"}
README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- accuracy:begin", "<!-- accuracy:end -->"
COLUMNS = ("GPU", "table", "rows", "held out: MAPE", "median", "in 90 % interval", "transfer: MAPE")


def read(folder: Path) -> dict[tuple[str, str], Table]:
    """Tables by what they hold and GPU; those of unknown GPUs or kinds are named on stderr and left out."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        gpu, _, what = path.stem.partition(".")
        try:
            if gpu not in SYSTEMS:
                raise PresiliconError(f"no device file is known for {gpu!r}")
            found[what, gpu] = read_table(path, None, "latency_s")
        except PresiliconError as error:
            sys.stderr.write(f"left out: {path.name}: {error}\n")
    return found


def fit(table: Table, system: System) -> System:
    """Constants and intervals of `system` fitted on a table."""
    return calibrate([table], system, source=f"fitted on {table.name}").system


def transferred(what: str, gpu: str, tables: dict[tuple[str, str], Table]) -> System | None:
    """This GPU's data sheet with constants fitted on another GPU's table of the same kind; None without one."""
    for (other_what, other), table in tables.items():
        if other_what == what and other != gpu:
            constants = fit(table, load_system(SYSTEMS[other])).calibration
            changes = {f"calibration.{name}": value for name, value in constants.items()}
            return override(load_system(SYSTEMS[gpu]), changes, source=f"fitted on {table.name}", status="fitted")
    return None


def groups(table: Table) -> Iterator[tuple[str, np.ndarray]]:
    """Rows by data type where a GEMM or MoE table holds several, else all."""
    column = next((c for c in ("gemm_dtype", "moe_dtype") if c in table.frame.columns), None)
    values = table.frame[column].astype(str).to_numpy() if column else np.full(len(table.frame), "")
    for value in np.unique(values):
        yield value, np.flatnonzero(values == value)


def rows(tables: dict[tuple[str, str], Table]) -> Iterator[tuple[str, ...]]:
    """Cells of the table, in the order of `COLUMNS`."""
    for (what, gpu), table in sorted(tables.items()):
        fit_on, other = halves(len(table.frame))
        own = fit(table.rows(fit_on), load_system(SYSTEMS[gpu]))
        foreign = transferred(what, gpu, tables)
        held_out = table.rows(other)
        for name, index in groups(held_out):
            part = held_out.rows(index)
            p = predict(part.frame, part.kind, own)
            line = error_line(name, part.measured_s, p["predicted_s"], p["low_s"], p["high_s"])
            away = "–"
            if foreign is not None:
                seconds = predict(part.frame, part.kind, foreign)["predicted_s"]
                away = f"{error_line(name, part.measured_s, seconds).mape:.1%}"
            yield (SYSTEMS[gpu], f"{what} {name}".strip(), str(line.rows), f"{line.mape:.1%}", f"{line.median:.1%}",
                   f"{line.coverage:.1%}", away)


def main(folder: Path) -> None:
    """Print the table and write it into the README."""
    table = [COLUMNS, ("---",) * len(COLUMNS), *rows(read(folder))]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    sys.stdout.write(lines + "\n")
    text = README.read_text(encoding="utf-8")
    start, end = text.index("\n", text.index(BEGIN)) + 1, text.index(END)
    write_atomically(README, f"{text[:start]}{lines}\n{text[end:]}".encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
