"""Every mapping of a small problem, one by one: what the search must not miss. It shares only `evaluate` with the search."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

from presilicon.arch.hierarchy import Fanout
from presilicon.errors import MappingError
from presilicon.mapping.nest import Counts, Keep, Loop, Mapping, Problem, Spatial, evaluate


def factorisations(number: int, slots: int) -> Iterator[tuple[int, ...]]:
    """Every way to write `number` as a product of so many factors, in order."""
    if slots == 1:
        yield (number,)
        return
    for factor in range(1, number + 1):
        if number % factor == 0:
            for rest in factorisations(number // factor, slots - 1):
                yield factor, *rest


def mappings(problem: Problem) -> Iterator[Mapping]:
    """All nests: tiles in every order, factors in every place, loops of one place in every order."""
    for skeleton in _skeletons(problem):
        yield from _filled(problem, skeleton)


def _skeletons(problem: Problem) -> Iterator[list[Keep | tuple[Fanout, str]]]:
    """Tiles in every order, each memory's above the axes of the fanouts below it."""
    per_level = []
    for i, memory in enumerate(problem.memories):
        kept = [Keep(t.name, memory.name) for t in problem.tensors.values() if i and i in t.levels]
        per_level.append([(order, problem.hierarchy.fanouts_below(i)) for order in permutations(kept)])
    for levels in product(*per_level):
        skeleton: list[Keep | tuple[Fanout, str]] = []
        for order, fanouts in levels:
            skeleton += order
            skeleton += [(fanout, axis) for fanout in fanouts for axis in fanout.axes]
        yield skeleton


def _filled(problem: Problem, skeleton: list[Keep | tuple[Fanout, str]]) -> Iterator[Mapping]:
    """Slot 0 is above the skeleton, slot i + 1 below its item i; each axis is a slot of its own."""
    axes = [item for item in skeleton if not isinstance(item, Keep)]
    slots = len(skeleton) + 1
    for factors in product(*(factorisations(extent, slots + len(axes)) for extent in problem.dims.values())):
        split = dict(zip(problem.dims, factors, strict=True))
        if any(_product(split[d][slots + j] for d in split) > fanout.axes[axis] for j, (fanout, axis) in enumerate(axes)):
            continue
        places = [list(permutations([Loop(d, split[d][s]) for d in split if split[d][s] > 1])) for s in range(slots)]
        for loops in product(*places):
            nodes: list[Loop | Spatial | Keep] = list(loops[0])
            seen = 0
            for item, below in zip(skeleton, loops[1:], strict=True):
                if isinstance(item, Keep):
                    nodes.append(item)
                else:
                    nodes += [Spatial(d, split[d][slots + seen], item[0].name, item[1]) for d in split if split[d][slots + seen] > 1]
                    seen += 1
                nodes += below
            yield Mapping(tuple(nodes))


def _product(factors: Iterator[int]) -> int:
    found = 1
    for factor in factors:
        found *= factor
    return found


def all_counts(problem: Problem, limit: int, *, imperfect: bool = False) -> list[Counts] | None:
    """Costs of every mapping that fits; None when there are more than `limit` mappings."""
    found = []
    for number, mapping in enumerate(imperfect_mappings(problem) if imperfect else mappings(problem)):
        if number >= limit:
            return None
        try:
            found.append(evaluate(mapping, problem))
        except MappingError as error:
            if not any(known in str(error) for known in ("more than its", "cannot add", "windows or strides")):
                raise
    return found


def latched_counts(problem: Problem, limit: int) -> list[Counts] | None:
    """`all_counts` where the tiles of the last memory stand among those of the one above, each below its own there."""
    last = len(problem.memories) - 1
    outer = [[[*order, *_axes(problem, i)] for order in permutations(_kept(problem, i))] for i in range(last - 1)]
    inner = []
    for order in permutations([*_kept(problem, last - 1), *_kept(problem, last)]):
        above = {k.tensor: order.index(k) for k in order if k.level == problem.memories[last - 1].name}
        if all(above.get(k.tensor, -1) < i for i, k in enumerate(order) if k.level == problem.memories[last].name):
            inner.append([*order, *_axes(problem, last)])
    found = []
    for parts in product(*outer, inner):
        for mapping in _filled(problem, [item for part in parts for item in part]):
            if len(found) >= limit:
                return None
            try:
                found.append(evaluate(mapping, problem))
            except MappingError as error:
                if not any(known in str(error) for known in ("more than its", "cannot add")):
                    raise
    return found


def _kept(problem: Problem, i: int) -> list[Keep]:
    return [Keep(t.name, problem.memories[i].name) for t in problem.tensors.values() if i and i in t.levels]


def _axes(problem: Problem, i: int) -> list[tuple[Fanout, str]]:
    return [(fanout, axis) for fanout in problem.hierarchy.fanouts_below(i) for axis in fanout.axes]


def imperfect_mappings(problem: Problem) -> Iterator[Mapping]:
    """All nests with any factors in space, and perfect factors of the steps that they leave."""
    for skeleton in _skeletons(problem):
        axes = [item for item in skeleton if not isinstance(item, Keep)]
        room = [fanout.axes[axis] for fanout, axis in axes]
        per_dim = [list(product(*(range(1, min(n, extent) + 1) for n in room))) for extent in problem.dims.values()]
        for spread in product(*per_dim):
            shared = [_product(iter(each)) for each in spread]
            if any(_product(each[j] for each in spread) > n for j, n in enumerate(room)):
                continue
            if any(s > e for s, e in zip(shared, problem.dims.values(), strict=True)):
                continue
            space = dict(zip(problem.dims, spread, strict=True))
            steps = [-(-e // s) for e, s in zip(problem.dims.values(), shared, strict=True)]
            for factors in product(*(factorisations(n, len(skeleton) + 1) for n in steps)):
                yield from _ordered(skeleton, dict(zip(problem.dims, factors, strict=True)), space)


def _ordered(
    skeleton: list[Keep | tuple[Fanout, str]], split: dict[str, tuple[int, ...]], space: dict[str, tuple[int, ...]]
) -> Iterator[Mapping]:
    places = [list(permutations([Loop(d, split[d][s]) for d in split if split[d][s] > 1])) for s in range(len(skeleton) + 1)]
    for loops in product(*places):
        nodes: list[Loop | Spatial | Keep] = list(loops[0])
        seen = 0
        for item, below in zip(skeleton, loops[1:], strict=True):
            if isinstance(item, Keep):
                nodes.append(item)
            else:
                nodes += [Spatial(d, space[d][seen], item[0].name, item[1]) for d in space if space[d][seen] > 1]
                seen += 1
            nodes += below
        yield Mapping(tuple(nodes))
