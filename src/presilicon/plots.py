"""Pictures of reports; colours are Okabe and Ito's, which colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .mapping.gpu.lower import arithmetic_of
from .units import format_si

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .mapping.scratchpad import Plan
    from .report import Report

_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"]
_KINDS = ("matmul", "attention", "elementwise", "reduce", "conv", "copy", "gather")


def colour(index: int) -> str:
    """The index-th colour of the palette, repeating."""
    return _COLOURS[index % len(_COLOURS)]


def kind_colours(kinds: Iterable[str]) -> dict[str, str]:
    """A colour for each kind of op; the usual kinds have the same one in every picture."""
    kinds = sorted(set(kinds))
    found = {kind: _KINDS.index(kind) for kind in kinds if kind in _KINDS}
    for kind in kinds:
        if kind not in found:
            free = [i for i in reversed(range(len(_COLOURS))) if i not in found.values()]
            found[kind] = free[0] if free else len(found)
    return {kind: colour(found[kind]) for kind in kinds}


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from .figure import ShownFigure

    figure = ShownFigure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def svg(figure: Figure) -> bytes:
    """A figure as SVG: the same figure gives the same bytes."""
    from .figure import svg as write

    return write(figure)


def _wrapped(title: str, width: int = 80) -> str:
    """A title in lines that fit over a picture."""
    from textwrap import fill

    return literal(fill(" ".join(title.split()), width))


def literal(text: str) -> str:
    """A text that matplotlib draws to the letter: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def roofline(report: Report) -> Figure:
    """Achieved FLOP/s of each op over its FLOPs per compulsory byte, under the system's ceilings; area of a dot: share of the time.

    An op whose operands are still in L2 from the op before may lie above the DRAM slope, never above the L2 slope.
    """
    import numpy as np

    s = report.simulation
    frame = report.to_frame()
    frame = frame[(frame["flops"] > 0) & (frame["time_s"] > 0) & (frame["bytes"] > 0)]
    figure, axes = _figure(8.0, 5.0)
    peaks, slopes = s.system.peaks_flops_per_s, s.system.ceilings_bytes_per_s
    used = sorted({r.arithmetic for r in s.results if r.arithmetic in peaks} or {arithmetic_of("bf16", peaks)} & set(peaks) or set(peaks))
    intensity = frame["flops"] / frame["bytes"]
    low, high = (min(0.1, intensity.min()), max(1e4, intensity.max())) if len(frame) else (0.1, 1e4)
    x = np.geomspace(low / 2, high * 2, 400)
    ceilings = {"fp32 FMA" if a == "fma" else a: peaks[a] for a in dict.fromkeys((*used, *(("fma",) if "fma" in peaks else ())))}
    top = max(ceilings.values())
    for (name, rate), style in zip(slopes.items(), ("-", ":", "--", "-."), strict=False):
        label = f"{name.upper() if name in ('dram', 'l2') else name}: {format_si(rate, 'B/s')}"
        axes.plot(x, np.minimum(top, x * rate) / 1e12, color="#000000", lw=1.2, ls=style, label=label)
    for name, peak in ceilings.items():
        axes.axhline(peak / 1e12, color="#777777", lw=0.8, ls="--")
        axes.annotate(f"{name}: {format_si(peak, 'FLOP/s')}", (x[-1], peak / 1e12), ha="right", va="bottom", fontsize=8, color="#555555")
    palette = kind_colours(frame["kind"])
    for kind, group in frame.groupby("kind", sort=True):
        axes.scatter(
            group["flops"] / group["bytes"],
            group["flops"] / group["time_s"] / 1e12,
            s=12 + 1200 * group["share"],
            alpha=0.65,
            color=palette[str(kind)],
            edgecolor="none",
        )
        axes.scatter([], [], s=40, color=palette[str(kind)], label=str(kind), edgecolor="none")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="FLOPs per compulsory byte",
        ylabel="TFLOP/s",
        title=_wrapped(f"{s.graph.name} {s.graph.meta.get('phase', '')} on {s.system.title}"),
    )
    axes.grid(True, which="major", alpha=0.25)
    axes.legend(fontsize=8, loc="lower right")
    return figure


def timeline(report: Report, max_spans: int = 2000) -> Figure:
    """Bars of host and devices over time, coloured by kind; the longest `max_spans` bars when there are more."""
    s = report.simulation
    kinds: dict[str, str] = {r.op.name: r.op.kind for r in s.results}
    spans = sorted(s.spans, key=lambda span: -span.duration_s)[:max_spans]
    lanes = sorted({span.lane for span in spans}, reverse=True)
    palette = kind_colours(kinds.values())
    figure, axes = _figure(10.0, 1.6 + 0.6 * len(lanes))
    for lane_index, lane in enumerate(lanes):
        for kind in (*palette, ""):
            bars = [
                (span.start_s * 1e3, span.duration_s * 1e3)
                for span in spans
                if span.lane == lane and (kinds.get(span.op, "") if lane != "host" else "") == kind
            ]
            if bars:
                axes.broken_barh(bars, (lane_index - 0.4, 0.8), facecolors=palette.get(kind, "#999999"), label=kind or "launch")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), fontsize=8, ncols=9, loc="outside lower center")
    axes.set(yticks=range(len(lanes)), yticklabels=lanes, xlabel="ms")
    axes.set(title=_wrapped(f"{s.graph.name} {s.graph.meta.get('phase', '')} on {s.system.name}"))
    return figure


def scratchpad(plan: Plan) -> Figure:
    """What a scratchpad holds: a rectangle for each stay of a tensor, addresses over steps; hatched: fetched from DRAM."""
    from matplotlib.patches import Rectangle

    figure, axes = _figure(10.0, 5.0)
    mib = 2.0**20
    for stay in plan.intervals:
        tensor = plan.problem.tensors[stay.tensor]
        width, height = stay.last - stay.first + 1, tensor.size_bytes / mib
        face = colour(stay.tensor % 7)
        axes.add_patch(
            Rectangle(
                (stay.first - 0.5, stay.address / mib),
                width,
                height,
                facecolor=face,
                alpha=0.6,
                edgecolor="#333333",
                lw=0.5,
                hatch="///" if stay.fetched else None,
            )
        )
        if width > len(plan.order) / 12 and height > plan.capacity_bytes / mib / 16:
            axes.annotate(tensor.name, (stay.first - 0.4, stay.address / mib + height / 2), fontsize=6, va="center")
    axes.axhline(plan.capacity_bytes / mib, color="#000000", lw=1.0, ls="--")
    what = f"{format_si(plan.non_compulsory_bytes, 'B')} not compulsory, {'proven' if plan.proven else 'not proven'}"
    axes.set(
        xlim=(-0.5, len(plan.order) - 0.5),
        ylim=(0, 1.05 * plan.capacity_bytes / mib),
        xlabel="step",
        ylabel="address in MiB",
        title=f"{plan.problem.name}, {plan.method}: {what}",
    )
    return figure
