"""Every mapping of a small cascade: what the search must not miss. Only `evaluate` and the definition of a group are the search's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from presilicon.arch.hierarchy import Hierarchy
from presilicon.errors import MappingError
from presilicon.mapping.nest import Keep, Loop, Problem, evaluate
from presilicon.mapping.nest.cascade import Cascade
from presilicon.mapping.nest.fused import CascadeMapping, FusedNest, Held, evaluate_cascade, inner_tensors, problems, shared_dims

from .enumeration import all_counts, mappings

Cost = tuple[float, float]  # energy, cycles
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """One op's part of a fused nest: the shapes of its tiles above the branch point, the shape there, and what it costs and holds."""

    points: tuple[tuple[Shape, Keep], ...]
    end: Shape
    energy: float
    cycles: float
    held: tuple[float, ...]  # by memory: its own tiles and the intermediates that it touches
    above: tuple[float, ...]  # by memory: its tiles above the branch
    nodes: tuple[object, ...]


def all_costs(cascade: Cascade, hierarchy: Hierarchy, limit: int) -> list[Cost] | None:
    """Energy and cycles of mappings that contain the best by every objective; None where the space is too large."""
    whole: list[Cost] = []
    parts: dict[tuple[int, ...], list[Cost]] = {}
    number = len(cascade.ops)
    for first, last in itertools.combinations(range(number + 1), 2):
        ops = tuple(range(first, last))
        found = _alone(cascade, hierarchy, ops[0], limit) if len(ops) == 1 else _together(cascade, hierarchy, ops, limit)
        if found is None:
            return None
        parts[ops] = _front(found)
    for cuts in range(number):
        for at in itertools.combinations(range(1, number), cuts):
            edges = [0, *at, number]
            groups = [parts[tuple(range(a, b))] for a, b in itertools.pairwise(edges)]
            for chosen in itertools.product(*groups):
                whole.append((sum(c[0] for c in chosen), sum(c[1] for c in chosen)))
    return whole


def _front(costs: list[Cost]) -> list[Cost]:
    found: list[Cost] = []
    for cost in sorted(set(costs)):
        if not found or cost[1] < found[-1][1]:
            found.append(cost)
    return found


def _alone(cascade: Cascade, hierarchy: Hierarchy, op: int, limit: int) -> list[Cost] | None:
    counts = all_counts(problems(cascade, hierarchy, (op,), 0)[0], limit)
    return None if counts is None else [(c.energy_j, c.cycles) for c in counts]


def _together(cascade: Cascade, hierarchy: Hierarchy, ops: tuple[int, ...], limit: int) -> list[Cost] | None:
    inner = inner_tensors(cascade, ops)
    if not inner or any(all(cascade.operand(i, name) is None for name in inner) for i in ops):
        return []
    found: list[Cost] = []
    for backing in range(1, len(hierarchy.memories)):
        if any(hierarchy.fanouts_below(i) for i in range(backing)):
            continue
        compiled = problems(cascade, hierarchy, ops, backing)
        if any(backing not in p.tensors[n].levels for p in compiled for n in inner if n in p.tensors):
            continue
        dims = shared_dims(cascade, ops)
        sides: list[list[Branch]] = []
        for each in compiled:
            branches = _branches(each, set(inner), backing, dims, limit)
            if branches is None:
                return None
            sides.append(branches)
        if _size(sides) > 60 * limit:
            return None
        found += _joined(cascade, hierarchy, ops, backing, compiled, sides, dims)
    return found


def _size(sides: list[list[Branch]]) -> int:
    ends = set.intersection(*({b.end for b in side} for side in sides))
    total = 0
    for end in ends:
        ways = 1
        for side in sides:
            ways *= sum(b.end == end for b in side)
        total += ways
    return total


def _branches(each: Problem, inner: set[str], backing: int, dims: tuple[str, ...], limit: int) -> list[Branch] | None:
    """Every nest of one op whose intermediates stand together below loops over shared dimensions; the dominated left out."""
    memory = each.memories[backing].name
    stored = {name for name in inner if name in each.tensors}
    windowed = backing > 1 or any(t.sliding for t in each.tensors.values())
    kept: dict[object, list[Branch]] = {}
    for number, mapping in enumerate(mappings(each)):
        if number >= limit:
            return None
        places = [i for i, n in enumerate(mapping.nodes) if isinstance(n, Keep) and n.tensor in stored and n.level == memory]
        if places != list(range(places[0], places[0] + len(places))):
            continue
        branch = places[-1] + 1
        above = mapping.nodes[: places[0]]
        if any(isinstance(n, Loop) and n.dim not in dims for n in above):
            continue
        try:
            counts = evaluate(mapping, each, branch)
        except MappingError as error:
            if "more than its" not in str(error) and "cannot add" not in str(error):
                raise
            continue
        below = mapping.extents_below(each.dims)
        tiles = {n: b for n, b in zip(mapping.nodes[:branch], below, strict=False) if isinstance(n, Keep)}
        points = tuple((tuple(tiles[n][d] for d in dims), n) for n in above if isinstance(n, Keep))
        room = tuple(
            sum(each.tensor_bytes(each.tensors[n.tensor], tiles[n], m) for n in above if isinstance(n, Keep) and n.level == m.name)
            for m in each.memories
        )
        end = tuple(below[branch - 1][d] for d in dims)
        held = tuple(counts.occupancy_bytes.get(m.name, 0.0) for m in each.memories)
        new = Branch(points, end, counts.energy_j, counts.cycles, held, room, mapping.nodes[branch:])
        others = kept.setdefault((points if windowed else tuple(p for p, _ in points), end, room), [])
        if not any(_covers(old, new) for old in others):
            others[:] = [old for old in others if not _covers(new, old)]
            others.append(new)
    return [branch for group in kept.values() for branch in group]


def _covers(a: Branch, b: Branch) -> bool:
    return a.energy <= b.energy and a.cycles <= b.cycles and all(x <= y for x, y in zip(a.held, b.held, strict=True))


def _joined(
    cascade: Cascade,
    hierarchy: Hierarchy,
    ops: tuple[int, ...],
    backing: int,
    compiled: list[Problem],
    sides: list[list[Branch]],
    dims: tuple[str, ...],
) -> Iterator[Cost]:
    windowed = backing > 1 or any(t.sliding for each in compiled for t in each.tensors.values())
    inner = inner_tensors(cascade, ops)
    for chosen in itertools.product(*sides):
        if len({b.end for b in chosen}) > 1:
            continue
        points = sorted({p for b in chosen for p, _ in b.points} | {chosen[0].end}, reverse=True, key=lambda p: [*map(int, p)])
        points.sort(key=lambda p: -_volume(p))
        if any(x % y for a, b in itertools.pairwise(points) for x, y in zip(a, b, strict=True)):
            continue
        if windowed:
            for nest in _merged(cascade, hierarchy, ops, backing, chosen, points, dims):
                try:
                    yield evaluate_fused(nest, cascade, hierarchy, ops)
                except MappingError as error:
                    if "more than its" not in str(error):
                        raise
            continue
        part = dict(zip(dims, chosen[0].end, strict=True))
        fits = True
        for number, memory in enumerate(hierarchy.memories):
            for k, branch in enumerate(chosen):
                size = branch.held[number] + sum(b.above[number] for i, b in enumerate(chosen) if i != k)
                if number == backing:
                    for name, (first, last) in inner.items():
                        if first <= ops[k] <= last and name not in compiled[k].tensors:
                            owner = next(p for p in compiled if name in p.tensors)
                            size += owner.tensor_bytes(owner.tensors[name], dict(owner.dims) | part, memory)
                fits = fits and (memory.size_bytes is None or size <= memory.size_bytes)
        if fits:
            yield sum(b.energy for b in chosen), sum(b.cycles for b in chosen)


def _volume(point: Shape) -> int:
    found = 1
    for extent in point:
        found *= extent
    return found


def _merged(
    cascade: Cascade,
    hierarchy: Hierarchy,
    ops: tuple[int, ...],
    backing: int,
    chosen: tuple[Branch, ...],
    points: list[Shape],
    dims: tuple[str, ...],
) -> Iterator[FusedNest]:
    """The joint nest, with the shared loops of one place in every order."""
    here = tuple(cascade.ops[ops[0]].dims[d] for d in dims)
    gaps, keeps = [], []
    for point in points:
        loops = [Loop(d, a // b) for d, a, b in zip(dims, here, point, strict=True) if a != b]
        gaps.append(list(itertools.permutations(loops)))
        own = [Held(op, keep) for op, branch in zip(ops, chosen, strict=True) for p, keep in branch.points if p == point]
        levels = [m.name for m in hierarchy.memories]
        keeps.append(sorted(own, key=lambda h: levels.index(h.keep.level)))
        here = point
    flat = [levels.index(h.keep.level) for part in keeps for h in part]
    if flat != sorted(flat):
        return
    for loops in itertools.product(*gaps):
        shared = [node for gap, own in zip(loops, keeps, strict=True) for node in (*gap, *own)]
        yield FusedNest(ops, hierarchy.memories[backing].name, tuple(shared), tuple(b.nodes for b in chosen))  # type: ignore[misc]


def evaluate_fused(nest: FusedNest, cascade: Cascade, hierarchy: Hierarchy, ops: tuple[int, ...]) -> Cost:
    """Energy and cycles of one group alone; the other ops in a nest of no consequence."""
    rest = Cascade(tuple(cascade.ops[i] for i in ops))
    moved = {op: i for i, op in enumerate(ops)}
    shared = tuple(Held(moved[n.op], n.keep) if isinstance(n, Held) else n for n in nest.shared)
    alone = FusedNest(tuple(range(len(ops))), nest.level, shared, nest.branches)
    counts = evaluate_cascade(CascadeMapping((alone,)), rest, hierarchy)
    return counts.energy_j, counts.cycles
