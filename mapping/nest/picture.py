"""Pictures of a mapped op: its nest as boxes within boxes, and what every memory holds over the first iterations of the nest."""

from __future__ import annotations

from collections.abc import Mapping as MappingABC
from typing import TYPE_CHECKING, Any

from .nest import Keep, Loop, Mapping, Node, Spatial
from .problem import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#999999")
#: Points of the occupancy picture.
STEPS = 400


def picture(mapping: Mapping, problem: Problem) -> Figure:
    """The nest as nested boxes (left) and bytes held in each memory over the run (right)."""
    from ...figure import ShownFigure

    memories = problem.memories[1:]
    figure = ShownFigure(figsize=(11.0, max(3.5, 0.32 * len(mapping.nodes) + 1.0)), layout="constrained")
    grid = figure.add_gridspec(max(1, len(memories)), 2, width_ratios=(1.1, 1.0))
    _nest(figure.add_subplot(grid[:, 0]), mapping, problem)
    for row, memory in enumerate(memories):
        _occupancy(figure.add_subplot(grid[row, 1]), mapping, problem, memory.name, last=row == len(memories) - 1)
    return figure


def _colour(name: str, names: MappingABC[str, Any]) -> str:
    return COLOURS[list(names).index(name) % len(COLOURS)]


def _nest(axes: Any, mapping: Mapping, problem: Problem) -> None:
    from matplotlib.patches import Rectangle

    loops = sum(not isinstance(node, Keep) for node in mapping.nodes)
    inset, total, depth = 0.5 / max(loops, 1), len(mapping.nodes) + 1.0, 0
    outermost = problem.memories[0].name
    axes.text(0.01, 0.5, f"{outermost}: {', '.join(problem.tensors)}", va="center", fontsize=8)
    for i, (node, tile) in enumerate(zip(mapping.nodes, mapping.extents_below(problem.dims), strict=True), start=1):
        left = 0.01 + depth * inset
        if isinstance(node, Keep):
            tensor = problem.tensors[node.tensor]
            shape = " x ".join(str(e) for e in tensor.extents(problem.clipped(tile))) or "1"
            colour = _colour(node.tensor, problem.tensors)
            axes.text(left, i + 0.5, f"{node.level}: {node.tensor} [{shape}]", va="center", fontsize=8, color=colour, weight="bold")
            continue
        text = f"{'for' if isinstance(node, Loop) else 'parallel'} {node.dim} in {node.factor}"
        if isinstance(node, Spatial):
            text += f" on {node.fanout}.{node.axis}"
        style = "--" if isinstance(node, Spatial) else "-"
        axes.add_patch(Rectangle((left - 0.005, i), 1.0 - 2 * left, total - i - 0.08 * depth, fill=False, linewidth=0.7, linestyle=style))
        axes.text(left, i + 0.5, text, va="center", fontsize=8)
        depth += 1
    axes.set(xlim=(0, 1), ylim=(total + 0.1, 0), title=f"{problem.op.name} on {problem.hierarchy.name}")
    axes.axis("off")


def occupancy(mapping: Mapping, problem: Problem, memory: str, steps: int = STEPS) -> tuple[list[float], dict[str, list[float]]]:
    """Bytes that one instance of a memory holds of each tensor, over the share of the run that has passed.

    A tile fills while its first user runs and stays until the loop directly above it advances; so each tensor's curve climbs within the
    first iteration of the nest below the tile, and then stays at the tile's size, refilled each time that it moves.
    """
    below = mapping.extents_below(problem.dims)
    level = next(m for m in problem.memories if m.name == memory)
    share, spans, at = 1.0, {}, {}
    for node, tile in zip(mapping.nodes, below, strict=True):
        if isinstance(node, Loop):
            share /= node.factor
        elif isinstance(node, Keep) and node.level == memory:
            tensor = problem.tensors[node.tensor]
            at[node.tensor] = share  # share of the run for which one tile stays
            spans[node.tensor] = problem.tensor_bytes(tensor, problem.clipped(tile), level)
    horizon = max(at.values(), default=1.0) * 2
    times = [min(1.0, horizon) * i / steps for i in range(steps + 1)]
    held: dict[str, list[float]] = {}
    for name, size in spans.items():
        first = _first_use(mapping.nodes, problem, name, memory) * at[name]
        held[name] = [size * min(1.0, ((t % at[name]) + at[name] / steps) / first) if first else size for t in times]
    return times, held


def _first_use(nodes: tuple[Node, ...], problem: Problem, tensor: str, memory: str) -> float:
    """Share of a tile's stay after which all of it has been touched once."""
    start = next(i for i, n in enumerate(nodes) if n == Keep(tensor, memory))
    share = 1.0
    for node in nodes[start + 1 :]:
        if isinstance(node, Loop) and node.dim in problem.tensors[tensor].relevant:
            return share
        if isinstance(node, Loop):
            share /= node.factor
    return share


def _occupancy(axes: Any, mapping: Mapping, problem: Problem, memory: str, *, last: bool) -> None:
    times, held = occupancy(mapping, problem, memory)
    if held:
        axes.stackplot([100 * t for t in times], *held.values(), colors=[_colour(n, problem.tensors) for n in held], labels=list(held))
        axes.legend(fontsize=7, loc="lower right")
    size = next(m for m in problem.memories if m.name == memory).size_bytes
    if size is not None:
        axes.axhline(size, color="black", linewidth=0.8)
    axes.set(ylabel="bytes", title=f"{memory}, one instance", ylim=(0, None))
    if last:
        axes.set_xlabel("share of the run, %")
