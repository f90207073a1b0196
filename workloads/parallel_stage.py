"""The blocks of one stage of a pipeline."""

from __future__ import annotations

from fractions import Fraction

from ..errors import WorkloadError
from .graph import OpGraph


def layer(module: str) -> tuple[str, str] | None:
    """Outermost numbered container of a module path, and the number."""
    parts = module.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[:i]), part
    return None


def last_stage(graph: OpGraph, pp: int, training: bool) -> dict[str, int]:
    """How often the last of `pp` stages runs each op: its part of the blocks, and what follows them."""
    blocks: dict[tuple[str, str], int] = {}
    for op in graph:
        at = layer(op.module)
        if at is not None and op.attributes.get("pass") != "backward" and blocks.setdefault(at, op.count) != op.count:
            raise WorkloadError(f"{graph.name}: --pp {pp}: the blocks of {at[0]} hold blocks themselves; trace with folded=False")
    containers = {container for container, _ in blocks}
    if len(containers) != 1:
        found = ", ".join(sorted(containers)) or "none"
        raise WorkloadError(f"{graph.name}: --pp {pp}: needs one stack of blocks; found {found}")
    total = sum(blocks.values())
    if total % pp:
        raise WorkloadError(f"{graph.name}: {total} blocks of {next(iter(containers))} do not divide by --pp {pp}")
    mine = {at: count // pp for at, count in blocks.items()}
    left = total // pp - sum(mine.values())
    for at in sorted(blocks, key=lambda b: -blocks[b] % pp and -blocks[b]):  # unequal kinds: the commonest fills up
        take = min(left, blocks[at] - mine[at])
        mine[at], left = mine[at] + take, left - take
    seen = False
    counts: dict[str, int] = {}
    share = Fraction(total // pp, total)
    for op in graph:
        at = layer(op.module)
        if at is not None:
            seen = True
            counts[op.name] = mine[at] * op.count // blocks[at] if at in mine else round(op.count * share)
        elif op.kind == "gather" and ((not seen) or (training and op.attributes.get("scatter"))):
            counts[op.name] = 0  # the embedding is the first stage's
        else:
            counts[op.name] = op.count
    return counts
