"""What the terminal shows of predicted kernels, from their documents (`KernelReport.document`): nothing heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from .tables import make_table
from .units import format_si

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN_ASSUMPTIONS = 12
_SHOWN_LEFT_OUT = 4
_TIMES = re.compile(r" \((\d+) times\)$")
_DECIDABLE = re.compile(r"^.*:(\d+): (loop|branch) depends on .*$")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def head_lines(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The head of a kernel's report as (name, value)."""
    run, info = document["run"], document["info"]
    found = run["occupancy"]
    tail = f"tail {run['tail_share']:.0%} of the cycles"
    pipes = sorted(run["pipe_busy"].items(), key=lambda item: -item[1])
    total = sum(run["stalls"].values()) or 1.0
    stalls = sorted(run["stalls"].items(), key=lambda item: -item[1])
    spilled = f", {info['stack_bytes']} B spilled a thread" if info["stack_bytes"] else ""
    lines = [
        ("kernel", f"{info['name']}  grid {' x '.join(map(str, info['grid']))}, {run['warps_per_cta']} warps   {info['where']}"),
        ("system", f"{info['title']} ({info['system']}), sm_{info['target']}, {run['fidelity']}, {format_si(run['clock_hz'], 'Hz')}"),
        ("time", f"{format_si(run['time_s'], 's')}   interval {format_si(run['low_s'], 's')} to {format_si(run['high_s'], 's')}"
                 f"   ({run['cycles']:,d} cycles; launch, ramp and drain {format_si(run['launch_s'], 's')})"),
        ("rates", f"{run['flops'] / run['time_s'] / 1e12:.4g} TFLOP/s, "
                  f"of these tensor cores {run['tensor_flops'] / run['time_s'] / 1e12:.4g};   "
                  f"{run['bytes_moved'].get('dram', 0.0) / run['time_s'] / 1e9:.4g} GB/s DRAM, "
                  f"{run['bytes_moved'].get('l2', 0.0) / run['time_s'] / 1e9:.4g} GB/s L2"),
        ("occupancy", f"{found['fraction']:.0%}: {run['ctas_per_sm']} CTAs of {run['warps_per_cta']} warps an SM, bounded by "
                      f"{' and '.join(found['bound_by'])}   ({info['registers']} registers a thread{spilled}, "
                      f"{info['shared_bytes']:,d} B shared memory a CTA)"),
        ("waves", f"{run['waves']:.2f}, {tail}"),
        ("limited by", f"{run['limiter']}   busy: " + ", ".join(f"{name} {share:.0%}" for name, share in pipes[:7] if share >= 0.005)),
        ("stalls", ", ".join(f"{name} {count / total:.0%}" for name, count in stalls[:8] if count >= 0.005 * total)),
        ("interval", info["interval"]),
    ]
    if info["config"]:
        lines.insert(1, ("config", info["config"]))
        for number, text in enumerate(_first(info.get("left_out", ()), _SHOWN_LEFT_OUT)):
            lines.insert(2 + number, ("" if number else "left out", text))
    return lines + [("assumed" if i == 0 else "", text) for i, text in enumerate(shown_assumptions(run["assumptions"]))]


def shown_assumptions(texts: Sequence[str]) -> list[str]:
    """The first assumptions, joined, and how to decide them."""
    shown = _first(joined_assumptions(texts), _SHOWN_ASSUMPTIONS)
    open_ones = [text for text in texts if ", as given" not in text]
    if any(" depends on what " in text for text in open_ones):
        shown.append("a CPU tensor with its values in place of the meta tensor that is read there decides what depends on it")
    found = sorted(filter(None, map(_DECIDABLE.match, open_ones)), key=lambda match: match[2] != "loop")
    if found:
        value = "TRIPS" if found[0][2] == "loop" else "false" if " is executed" in found[0][0] or " taken" in found[0][0] else "true"
        shown.append(f"so does --assume ARGUMENT=INTEGER, the value of a tensor's elements, or --assume {found[0][1]}={value} by the line")
    return shown


def _first(texts: Sequence[str], most: int) -> list[str]:
    """The first of the texts, and how many more there are."""
    return [*texts[:most], *([f"and {len(texts) - most} more"] if len(texts) > most else [])]


def joined_assumptions(texts: Sequence[str]) -> list[str]:
    """Assumptions with those joined that differ in nothing but the instruction: one source line, one cause's line, one choice.

    Examples
    --------
    >>> joined_assumptions(["a.py:3: branch depends on what LDG at 0x10 (line 2) reads: not taken (1 times)",
    ...                     "a.py:3: branch depends on what LDG at 0x20 (line 2) reads: not taken (4 times)"])
    ['a.py:3: branch depends on what LDG (line 2) reads: not taken (5 times)']
    """
    members: dict[str, list[str]] = {}
    for text in texts:
        members.setdefault(_ADDRESS.sub("", _TIMES.sub("", text)), []).append(text)
    made = []
    for key, same in members.items():
        counts = [int(found[1]) for found in map(_TIMES.search, same) if found]
        made.append(same[0] if len(same) == 1 else f"{key} ({sum(counts)} times)" if counts else key)
    return made


def print_kernel(document: Mapping[str, Any], console: Console, top: int = 10) -> None:
    """Head and most expensive source lines."""
    for name, value in head_lines(document):
        console.print(f"{name:<12}{escape(value)}", highlight=False)
    lines = document["run"]["lines"]
    if lines and top:
        rows = [
            (f"{line['file'].rpartition('/')[2]}:{line['line']}" if line["line"] else "(no line)", f"{line['share']:.1%}",
             f"{line['issued']:,d}", f"{line['stall_cycles']:,.0f}", line["text"].strip())
            for line in lines[:top]
        ]
        columns = [("line", "left"), ("share", "right"), ("warp issues", "right"), ("stalled warp-cycles", "right"), ("source", "left")]
        console.print(make_table(f"Most expensive of {len(lines)} source lines", columns, rows))


def kernel_comparison(documents: Sequence[Mapping[str, Any]]) -> Table:
    """The launches on several systems side by side; ``speedup`` is against the launch's first system."""
    first: dict[Any, float] = {}
    rows = []
    for document in documents:
        run, info = document["run"], document["info"]
        key = document.get("launch", 0)
        base = first.setdefault(key, run["time_s"])
        rows.append((
            info["name"], "x".join(map(str, info["grid"])), info["system"], format_si(run["time_s"], "s"),
            f"{format_si(run['low_s'], 's')} to {format_si(run['high_s'], 's')}", f"{run['flops'] / run['time_s'] / 1e12:.4g}",
            f"{run['bytes_moved'].get('dram', 0.0) / run['time_s'] / 1e9:.4g}", f"{run['occupancy']['fraction']:.0%}",
            f"{run['waves']:.2f}",
            run["limiter"], f"{base / run['time_s']:.2f}x",
        ))
    columns = [("kernel", "left"), ("grid", "right"), ("system", "left"), ("time", "right"), ("interval", "right"), ("TFLOP/s", "right"),
               ("DRAM GB/s", "right"), ("occupancy", "right"), ("waves", "right"), ("limited by", "left"), ("speedup", "right")]
    return make_table("", columns, rows)
