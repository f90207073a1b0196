"""Picture of a mapped cascade: the joint nests as boxes within boxes, and what every memory holds while the ops take turns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .fused import FusedNest, after_shared, fused_lines, inner_tensors, problems, stored_bytes
from .nest import Loop
from .picture import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .fused_result import CascadeResult

#: Iterations of a group's shared loops that the picture of occupancy shows.
SHOWN = 3


@dataclass(frozen=True)
class Turn:
    """One op's turn within one iteration of its group's shared loops.

    Attributes
    ----------
    op
        Number of the op in the cascade.
    start, stop
        Cycles since the cascade began; iterations that are not shown count as if they were.
    kept, tiles
        Bytes that one instance of the memory holds of intermediates, and of all other tiles.
    """

    op: int
    start: float
    stop: float
    kept: float
    tiles: float


def turns(result: CascadeResult, memory: str, shown: int = SHOWN) -> list[Turn]:
    """Turns of all ops in the first iterations of each group's shared loops, in order of time."""
    names = [m.name for m in result.hierarchy.memories]
    found, begun = [], 0.0
    for group in result.mapping.groups:
        rounds = math.prod(node.factor for node in group.shared if isinstance(node, Loop))
        each = [result.counts.by_op[op].cycles / rounds for op in group.ops]
        kept = _kept(result, group, names, memory)
        now = begun
        for _ in range(min(rounds, shown)):
            for op, cycles, size in zip(group.ops, each, kept, strict=True):
                held = result.counts.occupancy_bytes[memory][op]
                found.append(Turn(op, now, now + cycles, size, held - size))
                now += cycles
        begun += rounds * sum(each)
    return found


def _kept(result: CascadeResult, group: FusedNest, names: list[str], memory: str) -> list[float]:
    """Bytes of intermediates in a memory during each op of a group."""
    if group.level != memory:
        return [0.0] * len(group.ops)
    compiled = problems(result.cascade, result.hierarchy, group.ops, names.index(group.level))
    part, inner = after_shared(group, result.cascade), inner_tensors(result.cascade, group.ops)
    sizes = {name: stored_bytes(name, compiled, part) for name in inner}
    return [sum(sizes[name] for name, (first, last) in inner.items() if first <= op <= last) for op in group.ops]


def cascade_picture(result: CascadeResult) -> Figure:
    """The nests (left) and bytes held in each memory over the first iterations of every group (right)."""
    from ...figure import ShownFigure

    text = [line for group in result.mapping.groups for line in fused_lines(group, result.cascade, {})]
    memories = result.hierarchy.memories[1:]
    figure = ShownFigure(figsize=(11.0, max(3.5, 0.26 * len(text) + 1.0)), layout="constrained")
    grid = figure.add_gridspec(max(1, len(memories)), 2, width_ratios=(1.1, 1.0))
    _nests(figure.add_subplot(grid[:, 0]), text, result)
    for row, memory in enumerate(memories):
        axes = figure.add_subplot(grid[row, 1])
        _occupancy(axes, turns(result, memory.name), result, memory.size_bytes)
        axes.set(title=f"{memory.name}, one instance", ylabel="bytes")
        if row == len(memories) - 1:
            axes.set_xlabel(f"cycles; up to {SHOWN} iterations of each group's shared loops")
    return figure


def _nests(axes: Any, text: list[str], result: CascadeResult) -> None:
    from matplotlib.patches import Rectangle

    depths = [(len(line) - len(line.lstrip())) // 2 for line in text]
    inset = 0.4 / max(1, *depths)
    for row, (line, depth) in enumerate(zip(text, depths, strict=True)):
        content = line.strip()
        left = 0.01 + depth * inset
        if content.startswith(("for ", "parallel ")) or content.endswith(":"):
            end = next((i for i in range(row + 1, len(text)) if depths[i] <= depth), len(text))
            style = "--" if content.startswith("parallel ") else "-"
            axes.add_patch(Rectangle((left - 0.005, row), 1.0 - 2 * left, end - row - 0.1, fill=False, linewidth=0.7, linestyle=style))
        axes.text(left, row + 0.5, content, va="center", fontsize=8)
    axes.set(
        xlim=(0, 1), ylim=(len(text) + 0.1, 0), title=f"{' -> '.join(op.name for op in result.cascade.ops)} on {result.hierarchy.name}"
    )
    axes.axis("off")


def _occupancy(axes: Any, shown: list[Turn], result: CascadeResult, size: float | None) -> None:
    named: set[int] = set()
    for turn in shown:
        colour, width = COLOURS[turn.op % len(COLOURS)], turn.stop - turn.start
        label = None if turn.op in named else result.cascade.ops[turn.op].name
        named.add(turn.op)
        axes.bar(turn.start, turn.kept, width, align="edge", color=colour, alpha=0.5, hatch="//", linewidth=0)
        axes.bar(turn.start, turn.tiles, width, bottom=turn.kept, align="edge", color=colour, linewidth=0, label=label)
    if shown:
        axes.legend(fontsize=7, loc="lower right", title="hatched: intermediates", title_fontsize=7)
    if size is not None:
        axes.axhline(size, color="black", linewidth=0.8)
