"""Fused nests in closed form against their walk, access by access and byte by byte."""

from __future__ import annotations

import random

import pytest

from presilicon.mapping.nest.fused import CascadeMapping, evaluate_cascade, inner_tensors, problems
from presilicon.mapping.nest.fused_group import backing_memories
from presilicon.mapping.nest.fused_walker import CascadeWalker

from .random_cascades import random_cascade, random_fused, random_hierarchy, single


def _agree(seed: int, sizes: tuple[int, ...]) -> bool:
    rng = random.Random(seed)
    cascade = random_cascade(rng, sizes)
    hierarchy = random_hierarchy(rng, rng.choice((1, 2, 2, 3)), roomy=True)
    everything = tuple(range(len(cascade.ops)))
    groups = [everything]
    if len(everything) > 2 and rng.random() < 0.4:
        groups = [everything[:2], everything[2:]] if rng.random() < 0.5 else [everything[:1], everything[1:]]
    nests = []
    for ops in groups:
        options = backing_memories(cascade, ops, problems(cascade, hierarchy, ops, 0)) if inner_tensors(cascade, ops) else []
        if len(ops) > 1 and not options:
            return False
        nests.append(
            random_fused(rng, cascade, hierarchy, ops, rng.choice(options)) if len(ops) > 1 else single(rng, cascade, hierarchy, ops[0])
        )
    mapping = CascadeMapping(tuple(nests))
    counts = evaluate_cascade(mapping, cascade, hierarchy)
    walked = CascadeWalker(mapping, cascade, hierarchy)
    for op, each in enumerate(counts.by_op):
        for access in each.accesses:
            key = (op, access.tensor, [m.name for m in hierarchy.memories].index(access.level))
            found = (walked.reads.get(key, 0), walked.writes.get(key, 0))
            assert (access.reads, access.writes) == found, f"seed {seed}: {access}, walked {found}\n{mapping}"
        for number, memory in enumerate(hierarchy.memories[1:], start=1):
            assert counts.occupancy_bytes[memory.name][op] == pytest.approx(walked.occupancy[op, number]), (
                f"seed {seed}: {memory.name}, {op}"
            )
    return True


@pytest.mark.parametrize("batch", range(6))
def test_hundreds_of_random_fused_nests(batch: int) -> None:
    checked = sum(_agree(seed, (1, 2, 3, 4)) for seed in range(batch * 100, (batch + 1) * 100))
    assert checked > 20
