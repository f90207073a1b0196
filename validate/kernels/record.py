"""The measurements on disk: one CSV row a point, written as soon as it is known; provenance beside it; op tables made from it."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .suite import Config, Shape, Suite, fields_of, text_of

if TYPE_CHECKING:
    from ...errors import PresiliconError
else:
    try:
        from ...errors import PresiliconError
    except ImportError:  # without presilicon

        class PresiliconError(Exception):
            """Stands in for presilicon's own."""


class MeasureError(PresiliconError):
    """A measurement cannot start or go on; the message names the file, the GPU or the suite."""


#: Columns of the file, in order. latency_s is the median, p10_s and p90_s its spread; status is ok, wrong (the output failed its check)
#: or failed (message says why). Clocks, power and temperature were read while the last runs were on the GPU.
COLUMNS: Final = (
    "suite",
    "kernel",
    "dtype",
    "shape",
    "config",
    "timer",
    "status",
    "latency_s",
    "p10_s",
    "p90_s",
    "runs",
    "repeats",
    "flops",
    "bytes",
    "tflop_per_s",
    "gb_per_s",
    "error",
    "tolerance",
    "grid",
    "registers",
    "spills",
    "shared_bytes",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "power_w",
    "temperature_c",
    "gpu",
    "triton",
    "measured_at",
    "message",
)

_ATTENTION: Final = (
    "framework",
    "version",
    "kernel_source",
    "batch_size",
    "isl",
    "num_heads",
    "num_key_value_heads",
    "head_dim",
    "beam_width",
    "attn_dtype",
    "kv_cache_dtype",
    "step",
    "window_size",
    "latency_s",
)

#: Columns of the op tables, as `presilicon calibrate`, `validate` and `ops` take them.
TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "gemm": ("framework", "version", "kernel_source", "gemm_dtype", "m", "n", "k", "latency_s"),
    "context_attention": _ATTENTION,
    "generation_attention": _ATTENTION,
    "encoder_attention": ("framework", "version", "kernel_source", "batch_size", "isl", "num_heads", "head_dim", "attn_dtype", "latency_s"),
    "moe_triton": (
        "framework",
        "version",
        "kernel_source",
        "moe_dtype",
        "num_tokens",
        "hidden_size",
        "inter_size",
        "topk",
        "num_experts",
        "moe_tp_size",
        "moe_ep_size",
        "distribution",
        "latency_s",
    ),
}


class Point(NamedTuple):
    """One config of one shape of one suite."""

    suite: str
    shape: Shape
    config: Config

    def key(self, timer: str) -> tuple[str, str, str, str]:
        """What a row is found by."""
        return self.suite, text_of(self.shape), text_of(self.config), timer


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Record:
    """The CSV of one GPU, opened to go on.

    A last line that was cut short is dropped. Rows are appended with one write each, flushed and synced, so that a killed run loses the
    row in flight at most.

    Parameters
    ----------
    path
        Of the CSV; made, with its header, if absent.
    gpu
        Name of the GPU at hand.

    Raises
    ------
    MeasureError
        The file holds another GPU's rows, has other columns, or cannot be written.
    """

    def __init__(self, path: Path, gpu: str) -> None:
        self.path, self.gpu = path, gpu
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or not path.stat().st_size:
                path.write_text(_line(COLUMNS), encoding="utf-8")
            self.done = {row_key(row) for row in read_rows(path, repair=True, gpu=gpu)}
            self._stream = path.open("a", encoding="utf-8", newline="")
        except OSError as error:
            raise MeasureError(f"{path}: cannot be written: {error.strerror or error}") from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; columns that it lacks stay empty.

        Raises
        ------
        MeasureError
            The disk is full, or the file cannot be written for another reason.
        """
        unknown = set(row) - set(COLUMNS)
        if unknown:
            raise ValueError(f"no such columns: {', '.join(sorted(unknown))}")
        full = {"gpu": self.gpu, **row}
        try:
            self._stream.write(_line([_cell(full.get(name)) for name in COLUMNS]))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise MeasureError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self.done.add(row_key(full))

    def missing(self, point: Point, timers: Iterable[str]) -> list[str]:
        """Timers of a point that have no row yet."""
        return [timer for timer in timers if point.key(timer) not in self.done]

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def row_key(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """(suite, shape, config, timer)."""
    return row["suite"], row["shape"], row["config"], row["timer"]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(value).split())


def _line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def read_rows(path: Path, *, repair: bool = False, gpu: str = "") -> list[dict[str, str]]:
    """Rows of a measurement file.

    Parameters
    ----------
    repair
        The file is to be gone on with: what follows the last whole line is dropped, on disk, and its columns must be those of this version,
        in order. Else more columns are passed over, and a last line without its end counts if it has all its cells: a killed run leaves
        fewer, other tools a whole row.
    gpu
        The GPU that all rows must be of; empty: any one.

    Raises
    ------
    MeasureError
        It cannot be read, has other columns, or rows of more than one GPU.
    """
    try:
        payload = path.read_bytes()
        whole = payload[: payload.rfind(b"\n") + 1]
        if repair and len(whole) < len(payload):
            with path.open("r+b") as stream:
                stream.truncate(len(whole))
        table = list(csv.reader(io.StringIO(whole.decode("utf-8" if repair else "utf-8-sig")), strict=True))
        last = [] if repair else next(csv.reader([payload[len(whole) :].decode("utf-8-sig", "replace")]), [])
        if not table or len(last) == len(table[0]):
            table += [last] if last else []
    except OSError as error:
        raise MeasureError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise MeasureError(f"{path}: not a CSV table in UTF-8: {error}") from None
    if not table and repair:
        path.write_text(_line(COLUMNS), encoding="utf-8")
        return []
    header = tuple(table[0]) if table else ()
    _check_header(path, header, exactly=repair)
    otherwise = "; choose another name for the output" if repair else ""
    rows = []
    for number, cells in enumerate(table[1:], 2):
        if not cells:
            continue  # a blank line
        if len(cells) != len(header):
            raise MeasureError(f"{path}, row {number}: expected {len(header)} cells, found {len(cells)}")
        found = dict(zip(header, cells, strict=True))
        row = {name: found[name] for name in COLUMNS}
        gpu = gpu or row["gpu"]
        if row["gpu"] != gpu:
            raise MeasureError(f"{path}, row {number}: measured on {row['gpu']!r}, not on {gpu!r}; one file holds one GPU{otherwise}")
        rows.append(row)
    return rows


def _check_header(path: Path, header: Sequence[str], *, exactly: bool) -> None:
    """Raise unless all columns are there; `exactly`: in order and no others, as a file to go on with has them."""
    missing, others = ([name for name in one if name not in two] for one, two in ((COLUMNS, header), (header, COLUMNS)))
    twice = sorted({name for name in header if header.count(name) > 1})
    if missing or twice or (exactly and tuple(header) != COLUMNS):
        said = [f"{what}: {', '.join(names[:6])}" for what, names in (("missing", missing), ("unknown", others), ("twice", twice)) if names]
        raise MeasureError(f"{path}: not a measurement file of this version: columns differ ({'; '.join(said) or 'their order'})"
                           + ("; choose another name for the output" if exactly else ""))


def drop_rows(path: Path, suites: Container[str], statuses: Container[str] = ("failed", "wrong")) -> int:
    """Take rows of some suites that ended with some status out of a file; returns how many.

    Raises
    ------
    MeasureError
        As `read_rows` does.
    """
    rows = read_rows(path, repair=True)
    kept = [row for row in rows if row["suite"] not in suites or row["status"] not in statuses]
    if len(kept) < len(rows):
        write_atomically(path, "".join([_line(COLUMNS), *(_line([row[name] for name in COLUMNS]) for row in kept)]))
    return len(rows) - len(kept)


def beside(path: Path, ending: str) -> Path:
    """``h100.csv`` and ``inflight.json`` give ``h100.inflight.json``."""
    return path.with_name(f"{path.name.removesuffix('.csv')}.{ending}")


def note_run(path: Path, run: Mapping[str, Any]) -> None:
    """Add a run to the provenance beside the data, or replace it if its start is there already."""
    place = beside(path, "provenance.json")
    try:
        runs = json.loads(place.read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        runs = []
    runs = [other for other in runs if other.get("started") != run["started"]] + [dict(run)]
    write_atomically(place, json.dumps({"data": path.name, "columns": list(COLUMNS), "runs": runs}, indent=1) + "\n")


def export_tables(path: Path, suites: Mapping[str, Suite], version: str = "") -> list[Path]:
    """Op tables ``STEM.KIND.csv`` beside a measurement file, from its checked graph replays; of several configs of a shape the fastest.

    Returns
    -------
    The files written, one for each kind that has rows.
    """
    best: dict[str, dict[str, tuple[float, dict[str, Any]]]] = {}
    for row in read_rows(path):
        suite = suites.get(row["suite"])
        if suite is None or not suite.table or row["timer"] != "graph" or row["status"] != "ok":
            continue
        latency = float(row["latency_s"])
        table = best.setdefault(suite.table, {})
        if row["suite"] + row["shape"] not in table or latency < table[row["suite"] + row["shape"]][0]:
            framework = "torch" if suite.call else "triton"
            fields = {
                "framework": framework,
                "version": version or row["triton"],
                **suite.row(fields_of(row["shape"])),
                "latency_s": row["latency_s"],
            }
            table[row["suite"] + row["shape"]] = latency, fields
    written = []
    for kind, table in best.items():
        lines = [_line(TABLES[kind]), *(_line([_cell(fields[name]) for name in TABLES[kind]]) for _, fields in table.values())]
        written.append(beside(path, f"{kind}.csv"))
        write_atomically(written[-1], "".join(lines))
    return written
