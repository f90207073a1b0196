"""A mapped op for people: the nest, its traffic, its energy, and what has been proven about it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from ...arch.estimate import Estimate
from ...arch.hierarchy import Hierarchy, Latency, load_hierarchy
from ...errors import MappingError, UnknownNameError
from ...units import format_si
from ...workloads.op import Op
from .constraints import Constraints
from .counts import Counts
from .estimate import estimate_of
from .incumbent import Objective
from .nest import Keep, Mapping, lines
from .problem import Counting, Problem, problem
from .search import Found, search
from .zigzag import zigzag_problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS: Final = {"energy": "J", "latency": "s", "edp": "J s"}


class StoppedBeforeError(MappingError):
    """A search was stopped, by its time limit or by Ctrl-C, before it had found a first mapping."""


class Answer:
    """What a search found: how good it is, and how far from its bound. Results give `objective`, `counts`, `exhausted` and `bound`."""

    objective: Objective
    counts: Any
    exhausted: bool
    bound: float

    @property
    def value(self) -> float:
        """The objective: joules, seconds or joule-seconds."""
        return {"energy": self.counts.energy_j, "latency": self.counts.latency_s, "edp": self.counts.edp_js}[self.objective]

    @property
    def gap(self) -> float:
        """How much less than the objective the bound is, as a share of it; 0 when proven optimal."""
        return 0.0 if self.exhausted else 1.0 - self.bound / self.value


@dataclass(frozen=True)
class MappingResult(Answer):
    """The best mapping of an op that a search found, and how far it is proven.

    Attributes
    ----------
    problem
        The op on its hierarchy.
    objective
        What was minimised.
    mapping, counts
        The nest and what it costs.
    exhausted
        No mapping of the space is better.
    bound
        No mapping's objective is lower, in joules, seconds or joule-seconds.
    space, evaluated
        Mappings that the space holds, and partial mappings whose cost was computed; both 0 for a mapping that was given.
    imperfect
        The space holds factors in space that do not divide.
    """

    problem: Problem
    objective: Objective
    mapping: Mapping
    counts: Counts
    exhausted: bool
    bound: float
    space: int
    evaluated: int
    imperfect: bool = False

    @property
    def estimate(self) -> Estimate:
        """Time, energy and traffic of one run of the op."""
        return estimate_of(self.problem.op, self.counts, self.problem.hierarchy)

    def picture(self) -> Figure:
        """The nest as nested boxes, and the bytes that each memory holds over the run."""
        from .picture import picture

        return picture(self.mapping, self.problem)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __repr__(self) -> str:
        return f"MappingResult({next(self._head())}: {'proven optimal' if self.exhausted else 'not proven'})"

    def __str__(self) -> str:
        return "\n".join(
            [*self._head(), "", *self._nest(), "", *self._traffic(), "", *self._energy(), "", *self._occupancy(), self._proof()]
        )

    def _head(self) -> Iterator[str]:
        counts, op = self.counts, self.problem.op
        dims = " ".join(f"{dim}={extent}" for dim, extent in self.problem.dims.items())
        yield f"{op.name} ({dims}) on {self.problem.hierarchy.name}" + (f", least {self.objective}" if self.space else "")
        yield (
            f"energy {format_si(counts.energy_j, 'J', 7)}   latency {format_si(counts.latency_s, 's', 7)} ({counts.cycles:,.0f} cycles)   "
            f"EDP {counts.edp_js:.6g} J s"
        )
        yield f"limited by {counts.limiter}; MAC utilisation {counts.utilisation:.1%}"
        if self.space and not self.imperfect and counts.limiter == "mac" and counts.instances["mac"] < counts.mac_units / 2:
            yield "more than half of the MACs idle: factors divide extents here; --imperfect searches those that do not, too"
        if counts.phases:
            yield "cycles: " + ", ".join(f"{name} {cycles:,.0f}" for name, cycles in counts.phases.items())

    def _nest(self) -> Iterator[str]:
        notes = {}
        for node, steps in zip(self.mapping.nodes, self.mapping.extents_below(self.problem.dims), strict=True):
            if isinstance(node, Keep):
                tensor = self.problem.tensors[node.tensor]
                tile = self.problem.clipped(steps)
                extents = " x ".join(str(e) for e in tensor.extents(tile)) or "1"
                notes[node] = f"[{extents}] {bytes_text(tensor.volume(tile) * tensor.bytes_per_element)}"
        outermost = self.problem.memories[0].name
        yield f"{outermost}: {', '.join(self.problem.tensors)}"
        yield from lines(self.mapping.nodes, notes)

    def _traffic(self) -> Iterator[str]:
        width = max(len(memory.name) for memory in self.problem.memories)
        yield f"{'memory':<{width}}  tensor         bytes read      bytes written"
        for access in self.counts.accesses:
            yield f"{access.level:<{width}}  {access.tensor:<8} {access.read_bytes:>16,.0f}   {access.written_bytes:>16,.0f}"

    def _energy(self) -> Iterator[str]:
        width = max(len(name) for name in self.counts.energy_by)
        yield f"{'component':<{width}}         energy   share           cycles"
        for name, joules in self.counts.energy_by.items():
            share = joules / self.counts.energy_j if self.counts.energy_j else 0.0
            yield f"{name:<{width}} {format_si(joules, 'J', 7):>14}  {share:>6.1%}  {self.counts.cycles_by[name]:>15,.0f}"

    def _occupancy(self) -> Iterator[str]:
        for memory in self.problem.memories[1:]:
            held = self.counts.occupancy_bytes[memory.name]
            room = f" of {bytes_text(memory.size_bytes)} ({held / memory.size_bytes:.0%})" if memory.size_bytes else ""
            yield f"{memory.name} holds {bytes_text(held)}{room} in each of {self.counts.instances[memory.name]} instances"

    def _proof(self) -> str:
        if not self.space:
            return "counted, not searched"
        factors = ", factors in space that do not divide among them" if self.imperfect else ""
        searched = f"{self.evaluated:,} partial mappings evaluated for a space of {self.space:.4g} mappings{factors}"
        if self.exhausted:
            return f"proven optimal: {searched}"
        if self.counts.phases and self.objective != "energy":
            return (
                f"searched for the overlapped latency, fill and drain counted afterwards: at most {self.gap:.2%} above the optimum "
                f"(bound {self.bound:.6g} {UNITS[self.objective]}): {searched}"
            )
        return f"stopped early, at most {self.gap:.2%} above the optimum (bound {self.bound:.6g} {UNITS[self.objective]}): {searched}"


def bytes_text(number: float) -> str:
    """Bytes with a binary unit."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:g} B"


def map_op(
    op: Op,
    hierarchy: Hierarchy | str | Path,
    objective: Objective = "edp",
    constraints: Constraints | None = None,
    *,
    time_limit_s: float | None = None,
    counting: Counting = "accelforge",
    imperfect: bool = False,
    latency: Latency | None = None,
) -> MappingResult:
    """The best mapping of an op on a spatial accelerator.

    Parameters
    ----------
    op
        A dense nest of multiply-accumulates: a matrix product or a convolution.
    hierarchy
        A hierarchy, the name of a shipped one, or the path of a file.
    objective
        ``"energy"``, ``"latency"`` (of equally fast mappings the one of least energy) or ``"edp"``.
    constraints
        What narrows the space.
    time_limit_s
        Stop after so many seconds with the best so far and its bound. Ctrl-C does the same.
    counting
        Rule by which accesses are counted: ``"accelforge"`` (`presilicon.mapping.nest.counts`) or ``"zigzag"``
        (`presilicon.mapping.nest.zigzag`).
    imperfect
        Also factors in space that do not divide extents (`presilicon.mapping.nest.ragged_space`).
    latency
        ``"overlapped"`` or ``"fill-drain"`` (`presilicon.mapping.nest.filldrain`); None: what the hierarchy says.

    Raises
    ------
    MappingError
        The op cannot be mapped, nothing fits (says what, and by how much), no mapping meets the constraints (says which
        of them excludes all), or time ran out before the first mapping.
    UnknownNameError
        An unknown hierarchy or objective, or a constraint on what does not exist.

    Examples
    --------
    >>> from presilicon.mapping.nest.ops import op_from_text
    >>> result = map_op(op_from_text("matmul m=64 n=64 k=64 int8"), "mapbench-16", "edp")
    >>> result.exhausted, result.counts.utilisation
    (True, 1.0)
    """
    spec = load_hierarchy(hierarchy)
    compiled = compile_op(op, spec if latency is None else dataclasses.replace(spec, latency=latency), counting)
    constraints = constraints or Constraints()
    found = search(compiled, objective, constraints, time_limit_s=time_limit_s, imperfect=imperfect)
    if found.mapping is None:
        if not found.exhausted:
            raise StoppedBeforeError(
                f"op {op.name!r}: stopped before the first mapping was found; {found.evaluated:,} partial mappings evaluated"
            )
        raise MappingError(f"op {op.name!r}: no mapping satisfies the constraints{_culprits(compiled, constraints)}")
    return _result(compiled, objective, found, imperfect=imperfect)


def compile_op(op: Op, hierarchy: Hierarchy, counting: Counting = "accelforge") -> Problem:
    """An op on a hierarchy, with accesses counted by a rule."""
    if counting not in get_args(Counting):
        raise UnknownNameError("counting rule", str(counting), get_args(Counting))
    return zigzag_problem(op, hierarchy) if counting == "zigzag" else problem(op, hierarchy)


def _result(compiled: Problem, objective: Objective, found: Found, *, imperfect: bool = False) -> MappingResult:
    assert found.mapping is not None
    assert found.counts is not None
    parts = (found.mapping, found.counts, found.exhausted, found.bound, found.space, found.evaluated)
    return MappingResult(compiled, objective, *parts, imperfect)


def _culprits(compiled: Problem, constraints: Constraints) -> str:
    """Which single constraints, when dropped, leave a mapping."""
    loosened: dict[str, Constraints] = {"dataflow": dataclasses.replace(constraints, dataflow=None)} if constraints.dataflow else {}
    for key in constraints.spatial:
        rest = {k: v for k, v in constraints.spatial.items() if k != key}
        loosened[f"spatial of {key}"] = dataclasses.replace(constraints, spatial=rest)
    for key in constraints.order:
        kept = {k: v for k, v in constraints.order.items() if k != key}
        loosened[f"order of {key}"] = dataclasses.replace(constraints, order=kept)
    for place in constraints.tiles:
        others = {k: v for k, v in constraints.tiles.items() if k != place}
        loosened[f"tile of {place[1]} in {place[0]}"] = dataclasses.replace(constraints, tiles=others)
    enough = [name for name, loose in loosened.items() if search(compiled, "energy", loose, time_limit_s=5.0).mapping is not None]
    if not enough:
        return "; they exclude one another in more than one way"
    return f"; without any one of these there is one: {', '.join(enough)}"


def pareto(
    op: Op,
    hierarchy: Hierarchy | str | Path,
    constraints: Constraints | None = None,
    *,
    time_limit_s: float | None = None,
) -> list[MappingResult]:
    """The energy-latency front: mappings of which none is both faster and cheaper than another, fastest last.

    The mapping of least energy first; then, again and again, that of least energy among the strictly faster ones. Each point is
    proven like any search; `time_limit_s` holds for each. See `map_op` for parameters and errors.
    """
    if load_hierarchy(hierarchy).latency != "overlapped":
        raise MappingError("pareto: the front is one of overlapped latencies; the hierarchy says latency: fill-drain")
    first = map_op(op, hierarchy, "energy", constraints, time_limit_s=time_limit_s)
    front = [first]
    while True:
        latest = front[-1].counts.latency_s * (1 - 1e-9)
        found = search(first.problem, "energy", constraints, time_limit_s=time_limit_s, latest_s=latest)
        if found.mapping is None or found.counts is None:
            return front
        point = _result(first.problem, "energy", found)
        if math.isclose(point.counts.energy_j, front[-1].counts.energy_j, rel_tol=1e-9):
            front.pop()
        front.append(point)
