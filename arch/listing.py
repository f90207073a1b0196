"""The numbers of a system as rows for people: what `presilicon systems NAME` prints."""

from __future__ import annotations

from html import escape
from typing import Final, NamedTuple

from ..units import format_si
from .spec import AnySystem

_BINARY: Final = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


class Row(NamedTuple):
    """One number of a system.

    Attributes
    ----------
    path
        As `System.override` takes it.
    value
        Formatted with its unit (``"3.352 TB/s"``, ``"50 MiB"``, ``"132"``, ``"nvlink"``).
    unit
        Unit in which `System.override` reads a bare number: ``"B/s"``; ``"1"`` for a plain number, ``""`` for words.
    status
        ``"sourced"``, ``"fitted"``, ``"assumed"`` or ``"override"``.
    source
        Where the number comes from, in words.
    """

    path: str
    value: str
    unit: str
    status: str
    source: str


def table(system: AnySystem) -> list[Row]:
    """Every number of a system with its source, hardware first, then the calibration constants.

    >>> from presilicon.arch import load
    >>> tuple(table(load("h100-sxm"))[1])[:4]
    ('gpu.clock.headroom', '1.082', '1', 'sourced')
    """
    rows = []
    for path, value, unit in system.numbers():
        origin = system.provenance[path]
        rows.append(Row(path, format_value(value, unit), unit, origin.status, origin.source))
    return rows


def short(system: AnySystem) -> str:
    """A system in one line: name, kind, highest rate at 16 bits (or the highest), memory, and how many numbers the user set.

    >>> from presilicon.arch import load
    >>> load("h100-sxm").override({"dram.bandwidth": 4e12})
    System(h100-sxm: NVIDIA H100-SXM5-80GB, gpu sm_90, 989 TFLOP/s bf16, 4 TB/s, 85.5 GB; 1 number overridden)
    """
    peaks = system.peaks_flops_per_s
    best = next((a for a in ("bf16", "fp16", "int8") if a in peaks), max(peaks, key=lambda a: peaks[a], default=""))
    parts = [
        f"{system.kind} {system.generation}".strip(),
        f"{format_si(peaks[best], 'FLOP/s')} {best}" if best else "",
        format_si(system.ceilings_bytes_per_s["dram"], "B/s"),
        format_si(system.memory_bytes, "B"),
    ]
    set_by_user = sum(origin.status == "override" for origin in system.provenance.values())
    told = f"; {set_by_user} number{'s' if set_by_user > 1 else ''} overridden" if set_by_user else ""
    return f"{type(system).__name__}({system.name}: {system.title}, {', '.join(filter(None, parts))}{told})"


def short_html(system: AnySystem) -> str:
    """The line, and every number under a fold, for notebooks."""
    cell = "<td style='text-align:left'>"
    rows = ((r.path, r.value, r.status, r.source) for r in table(system))
    lines = "".join("<tr>" + "".join(f"{cell}{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    head = "".join(f"<th>{name}</th>" for name in ("path", "value", "status", "source"))
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f"<details><summary>{escape(short(system))}</summary>{body}</details>"


def format_value(value: object, unit: str) -> str:
    """A value as a device file would write it: binary prefixes where they are whole, rates per clock in full.

    >>> format_value(52428800.0, "B"), format_value(8192.0, "FLOP/clk"), format_value(1.41e9, "Hz")
    ('50 MiB', '8192 FLOP/clk', '1.41 GHz')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if unit == "B":
        for name, size in _BINARY:
            if value >= size and value % size == 0:
                return f"{value / size:g} {name}" if value / size < 1e6 else format_si(value, unit, 4)
    if unit == "clk" or unit.endswith("/clk"):
        return f"{value:.6g} {unit}"
    return format_si(value, unit, 4)
