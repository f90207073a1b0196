"""Random constraints on small problems, and which of the enumerated mappings meet them: by looking at the nest, not by searching."""

from __future__ import annotations

import random
from collections.abc import Iterator

from presilicon.mapping.nest import Constraints, Keep, Loop, Mapping, Problem, Spatial
from presilicon.mapping.nest.constraints import DATAFLOWS

FIELDS = ("dataflow", "spatial", "spatial_dims", "order", "tiles")


def random_constraints(rng: random.Random, problem: Problem) -> Constraints:
    """One to three kinds of constraints at once."""
    chosen = rng.sample(FIELDS, rng.choice((1, 1, 2, 3)))
    found: dict[str, object] = {}
    kept = [(memory, [t.name for t in problem.tensors.values() if i in t.levels]) for i, memory in enumerate(problem.memories) if i]
    if "dataflow" in chosen:
        found["dataflow"] = rng.choice(sorted(DATAFLOWS))
    if "spatial" in chosen and problem.fanouts:
        _, fanout = rng.choice(problem.fanouts)
        dims = rng.sample(list(problem.dims), min(2, len(problem.dims)))
        found["spatial"] = {fanout.name: {d: _divisor(rng, problem.dims[d], fanout.instances if i == 0 else 2) for i, d in enumerate(dims)}}
    if "spatial_dims" in chosen and problem.fanouts:
        _, fanout = rng.choice(problem.fanouts)
        name = fanout.name if rng.random() < 0.5 else f"{fanout.name}.{rng.choice(list(fanout.axes))}"
        found["spatial_dims"] = {name: tuple(rng.sample(list(problem.dims), rng.randrange(len(problem.dims) + 1)))}
    if "order" in chosen:
        memory, names = rng.choice(kept)
        found["order"] = {memory.name: tuple(rng.sample(names, rng.randrange(len(names) + 1)))}
    if "tiles" in chosen:  # of dimensions that index the tensor
        memory, names = rng.choice(kept)
        tensor = rng.choice(names)
        dim = rng.choice(sorted(problem.tensors[tensor].relevant))
        found["tiles"] = {(memory.name, tensor): {dim: _divisor(rng, problem.dims[dim], 8)}}
    return Constraints(**found)  # type: ignore[arg-type]


def _divisor(rng: random.Random, extent: int, most: int) -> int:
    return rng.choice([f for f in range(1, min(extent, most) + 1) if extent % f == 0])


def meets(mapping: Mapping, problem: Problem, wanted: Constraints) -> bool:
    """Whether a nest obeys constraints."""
    return all(_checks(mapping, problem, wanted))


def _checks(mapping: Mapping, problem: Problem, wanted: Constraints) -> Iterator[bool]:
    nodes = mapping.nodes
    at = {(n.level, n.tensor): i for i, n in enumerate(nodes) if isinstance(n, Keep)}
    spread = [n for n in nodes if isinstance(n, Spatial)]
    if wanted.dataflow is not None:
        kind = DATAFLOWS[wanted.dataflow]
        places = ((t.kind, (problem.memories[-1].name, t.name)) for t in problem.tensors.values())
        innermost = [(known, at[place]) for known, place in places if place in at]
        yield all(i < j for first, i in innermost if first == kind for other, j in innermost if other != kind)
    for name, factors in wanted.spatial.items():
        for dim in problem.dims:
            total = 1
            for node in spread:
                total *= node.factor if (node.fanout, node.dim) == (name, dim) else 1
            yield total == factors.get(dim, 1)
    for name, dims in wanted.spatial_dims.items():
        fanout, _, axis = name.partition(".")
        yield all(n.dim in dims for n in spread if n.fanout == fanout and (not axis or n.axis == axis))
    for name, order in wanted.order.items():
        places = [at[name, tensor] for tensor in order]
        yield places == sorted(places)
    for place, factors in wanted.tiles.items():
        for dim, extent in factors.items():
            total = 1
            for node in nodes[at[place] :]:
                total *= node.factor if isinstance(node, (Loop, Spatial)) and node.dim == dim else 1
            yield total == extent
