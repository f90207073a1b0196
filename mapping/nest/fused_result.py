"""A mapped cascade for people: its groups and their joint nests, traffic with passes, energy, and what has been proven."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ...arch.estimate import Estimate
from ...arch.hierarchy import Hierarchy, load_hierarchy
from ...errors import MappingError
from ...units import format_si
from ...workloads.op import Op
from .cascade import Cascade, cascade_from_text
from .estimate import estimate_of
from .fused import CascadeCounts, CascadeMapping, FusedNest, fused_lines, inner_tensors, own_nest, problems
from .fused_search import search_cascade
from .incumbent import Objective
from .nest import Keep
from .result import UNITS, Answer, StoppedBeforeError, bytes_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class CascadeResult(Answer):
    """The best mapping of a cascade that a search found, and how far it is proven.

    Attributes
    ----------
    cascade, hierarchy, objective
        What was mapped on what, and what was minimised.
    mapping, counts
        The nests and what they cost.
    exhausted
        No mapping of the space (`presilicon.mapping.nest.fused_search`) is better.
    bound
        No mapping's objective is lower, in joules, seconds or joule-seconds.
    cuts, evaluated
        Ways to group the ops that the space holds, and partial mappings whose cost was computed.
    """

    cascade: Cascade
    hierarchy: Hierarchy
    objective: Objective
    mapping: CascadeMapping
    counts: CascadeCounts
    exhausted: bool
    bound: float
    cuts: int
    evaluated: int

    @property
    def fused(self) -> tuple[str, ...]:
        """Intermediates that never reach the first memory."""
        return tuple(name for group in self.mapping.groups if group.level for name in inner_tensors(self.cascade, group.ops))

    @property
    def estimate(self) -> Estimate:
        """Time, energy and traffic of all ops, one after the other."""
        parts = [estimate_of(op, counts, self.hierarchy) for op, counts in zip(self.cascade.ops, self.counts.by_op, strict=True)]
        return sum(parts[1:], start=parts[0])

    def picture(self) -> Figure:
        """The joint nests as nested boxes, and the bytes that each memory holds while the ops take turns."""
        from .cascade_picture import cascade_picture

        return cascade_picture(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        return f"CascadeResult({next(self._head())}: {'proven optimal' if self.exhausted else 'not proven'})"

    def __str__(self) -> str:
        return "\n".join([*self._head(), "", *self._nests(), *self._traffic(), "", *self._energy(), "", *self._occupancy(), self._proof()])

    def _head(self) -> Iterator[str]:
        counts = self.counts
        dims = {dim: extent for op in self.cascade.ops for dim, extent in op.dims.items()}
        sizes = " ".join(f"{dim}={extent}" for dim, extent in dims.items())
        yield f"{' -> '.join(op.name for op in self.cascade.ops)} ({sizes}) on {self.hierarchy.name}, least {self.objective}"
        yield (
            f"energy {format_si(counts.energy_j, 'J', 7)}   latency {format_si(counts.latency_s, 's', 7)} ({counts.cycles:,.0f} cycles)   "
            f"EDP {counts.edp_js:.6g} J s"
        )
        kept = ", ".join(self.fused)
        yield f"never written to {self.hierarchy.memories[0].name}: {kept}" if kept else "nothing is fused"

    def _nests(self) -> Iterator[str]:
        for group in self.mapping.groups:
            yield from fused_lines(group, self.cascade, self._notes(group))
            yield ""

    def _notes(self, group: FusedNest) -> dict[tuple[int, Keep], str]:
        names = [memory.name for memory in self.hierarchy.memories]
        compiled = problems(self.cascade, self.hierarchy, group.ops, names.index(group.level) if group.level else 0)
        inner, notes = inner_tensors(self.cascade, group.ops) if group.level else {}, {}
        for k, (op, each) in enumerate(zip(group.ops, compiled, strict=True)):
            nest, _, _ = own_nest(group, k, tuple(name for name in inner if name in each.tensors), tuple(names))
            for node, tile in zip(nest.nodes, nest.extents_below(each.dims), strict=True):
                if isinstance(node, Keep):
                    tensor = each.tensors[node.tensor]
                    extents = " x ".join(str(e) for e in tensor.extents(tile)) or "1"
                    notes[op, node] = f"[{extents}] {bytes_text(tensor.volume(tile) * tensor.bytes_per_element)}"
        return notes

    def _traffic(self) -> Iterator[str]:
        width = max(len(memory.name) for memory in self.hierarchy.memories)
        ops = max(len(op.name) for op in self.cascade.ops)
        tensors = max(8, *(len(o.name) for op in self.cascade.ops for o in op.operands))
        yield f"{'op':<{ops}}  {'memory':<{width}}  {'tensor':<{tensors}}        bytes read      bytes written     passes"
        for i, (op, counts) in enumerate(zip(self.cascade.ops, self.counts.by_op, strict=True)):
            for a in counts.accesses:
                passes = self.counts.passes(i, a.tensor, a.level)
                yield (
                    f"{op.name:<{ops}}  {a.level:<{width}}  {a.tensor:<{tensors}} {a.read_bytes:>17,.0f}  {a.written_bytes:>17,.0f} "
                    f"{passes:>10,.4g}"
                )

    def _energy(self) -> Iterator[str]:
        energy = self.counts.energy_by
        width = max(len(name) for name in energy)
        yield f"{'component':<{width}}         energy   share"
        for name, joules in energy.items():
            share = joules / self.counts.energy_j if self.counts.energy_j else 0.0
            yield f"{name:<{width}} {format_si(joules, 'J', 7):>14}  {share:>6.1%}"

    def _occupancy(self) -> Iterator[str]:
        for memory in self.hierarchy.memories[1:]:
            held = self.counts.occupancy_bytes[memory.name]
            room = f" of {bytes_text(memory.size_bytes)}" if memory.size_bytes else ""
            parts = ", ".join(f"{bytes_text(size)} during {op.name}" for op, size in zip(self.cascade.ops, held, strict=True))
            yield f"{memory.name} holds {parts}{room}"

    def _proof(self) -> str:
        searched = f"{self.evaluated:,} partial mappings evaluated over {self.cuts} ways to group the ops"
        if self.exhausted:
            return f"proven optimal: {searched}"
        return f"stopped early, at most {self.gap:.2%} above the optimum (bound {self.bound:.6g} {UNITS[self.objective]}): {searched}"


def map_cascade(
    cascade: Cascade | str | Sequence[Op],
    hierarchy: Hierarchy | str | Path,
    objective: Objective = "edp",
    *,
    fuse: bool = True,
    time_limit_s: float | None = None,
) -> CascadeResult:
    """The best mapping of a cascade of einsums on a spatial accelerator, fused where that is better.

    Parameters
    ----------
    cascade
        A cascade, its text (`presilicon.mapping.nest.cascade`), or ops whose dimensions and tensors share names.
    hierarchy
        A hierarchy, the name of a shipped one, or the path of a file.
    objective
        ``"energy"``, ``"latency"`` (of equally fast mappings the one of least energy) or ``"edp"``, of all ops together.
    fuse
        False: every op by itself.
    time_limit_s
        Stop after so many seconds with the best so far and its bound. Ctrl-C does the same.

    Raises
    ------
    MappingError
        No cascade, an op that cannot be mapped or does not fit, or time ran out before the first mapping.
    UnknownNameError
        An unknown hierarchy, objective, function or number format.

    Examples
    --------
    >>> text = "S[m,p] = Q[m,e] K[p,e]; A[m,f] = S[m,p] V[p,f]; m=64 p=64 e=16 f=16 int8"
    >>> result = map_cascade(text, "mapbench-16", "energy")
    >>> result.exhausted, result.fused
    (True, ('S',))
    """
    if isinstance(cascade, str):
        cascade = cascade_from_text(cascade)
    elif not isinstance(cascade, Cascade):
        cascade = Cascade(tuple(cascade))
    spec = load_hierarchy(hierarchy)
    found = search_cascade(cascade, spec, objective, fuse=fuse, time_limit_s=time_limit_s)
    if found.mapping is None or found.counts is None:
        names = " -> ".join(op.name for op in cascade.ops)
        if not found.exhausted:
            raise StoppedBeforeError(
                f"cascade {names}: stopped before the first mapping was found; {found.evaluated:,} partial mappings evaluated"
            )
        raise MappingError(f"cascade {names}: no mapping fits")
    rest = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return CascadeResult(cascade, spec, objective, **rest)
