"""Every op of a graph mapped, repeated shapes once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...arch.estimate import Estimate
from ...arch.hierarchy import Hierarchy, load_hierarchy
from ...errors import MappingError
from ...workloads.graph import OpGraph
from ...workloads.op import Op
from .constraints import Constraints
from .incumbent import Objective
from .problem import problem
from .result import MappingResult, StoppedBeforeError, map_op

#: Called with the shapes mapped so far, all shapes, and the op that is next.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Shape:
    """Ops of one shape.

    Attributes
    ----------
    ops
        Their names in the graph.
    runs
        How often all of them together run in one step.
    result
        Their mapping; None: not mapped.
    reason
        Why not.
    """

    ops: tuple[str, ...]
    runs: int
    result: MappingResult | None
    reason: str = ""


@dataclass(frozen=True)
class GraphMapping:
    """Mappings of a graph's ops.

    Attributes
    ----------
    graph, hierarchy, objective
        What was mapped on what, and what was minimised for each op by itself.
    shapes
        Distinct shapes in program order, those that cannot be mapped too.
    stopped
        Interrupted before the last shape.
    """

    graph: OpGraph
    hierarchy: Hierarchy
    objective: Objective
    shapes: tuple[Shape, ...]
    stopped: bool

    @property
    def mapped(self) -> tuple[Shape, ...]:
        """Shapes that have a mapping."""
        return tuple(shape for shape in self.shapes if shape.result is not None)

    @property
    def exhausted(self) -> bool:
        """Every mapping is proven."""
        return not self.stopped and all(shape.result.exhausted for shape in self.mapped if shape.result is not None)

    @property
    def estimate(self) -> Estimate:
        """All mapped ops, one after the other."""
        total = Estimate()
        for shape in self.mapped:
            assert shape.result is not None
            total = total + shape.result.estimate * shape.runs
        return total


def signature(op: Op) -> object:
    """What the mapping of an op depends on: the same for ops that differ in names alone."""
    names = {dim: i for i, dim in enumerate(op.dims)}
    operands = tuple(
        (o.role, tuple(tuple((names[dim], stride) for dim, stride in axis) for axis in o.projection), o.number_format, o.elements)
        for o in op.operands
    )
    return tuple(op.dims.values()), operands, tuple(sorted(op.body.items())), op.iterations


def map_graph(
    graph: OpGraph,
    hierarchy: Hierarchy | str | Path,
    objective: Objective = "edp",
    constraints: Constraints | None = None,
    *,
    time_limit_s: float | None = None,
    progress: Progress | None = None,
) -> GraphMapping:
    """The best mapping of every op of a graph that the array can execute.

    Parameters
    ----------
    graph
        Ops; those that the array cannot execute are listed with the reason.
    hierarchy, objective, constraints, time_limit_s
        As of `map_op`, for each op by itself.
    progress
        Called before each shape.

    Raises
    ------
    UnknownNameError, MappingError
        As `map_op` for a hierarchy, an objective or a constraint that is none.
    """
    spec = load_hierarchy(hierarchy)
    groups: dict[object, list[Op]] = {}
    for op in graph:
        groups.setdefault(signature(op), []).append(op)
    able = {key for key, ops in groups.items() if not _reason(ops[0], spec)}
    found: list[Shape] = []
    stopped, done = False, 0
    for key, ops in groups.items():
        names, runs = tuple(op.name for op in ops), sum(op.count for op in ops)
        if key not in able:
            found.append(Shape(names, runs, None, _reason(ops[0], spec)))
            continue
        if stopped:
            found.append(Shape(names, runs, None, "stopped before"))
            continue
        if progress is not None:
            progress(done, len(able), names[0])
        try:
            result = map_op(ops[0], spec, objective, constraints, time_limit_s=time_limit_s)
        except StoppedBeforeError as error:
            found.append(Shape(names, runs, None, str(error)))
            stopped = time_limit_s is None
        except MappingError as error:
            found.append(Shape(names, runs, None, str(error)))
        else:
            # Ctrl-C: the search has caught it.
            stopped = not result.exhausted and time_limit_s is None and (spec.latency == "overlapped" or objective == "energy")
            found.append(Shape(names, runs, result))
        done += 1
    return GraphMapping(graph, spec, objective, tuple(found), stopped)


def _reason(op: Op, spec: Hierarchy) -> str:
    try:
        problem(op, spec)
    except MappingError as error:
        return str(error)
    return ""
