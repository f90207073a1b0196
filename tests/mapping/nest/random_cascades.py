"""Random small cascades, hierarchies and fused nests."""

from __future__ import annotations

import dataclasses
import random

from presilicon.arch.hierarchy import CLASSES, Fanout, Hierarchy, Memory
from presilicon.mapping.nest import Keep, Loop, Mapping, Problem
from presilicon.mapping.nest.cascade import Cascade, cascade_from_text
from presilicon.mapping.nest.fused import FusedNest, Held, inner_tensors, problems, shared_dims

from .random_nests import random_mapping

TEXTS = (
    "S[m,p] = Q[m,e] K[p,e]; A[m,f] = S[m,p] V[p,f]",
    "S[h,m] = Q[h,m,e] K[h,e]; A[h,f] = S[h,m] V[m,f]",
    "Z[m,n] = X[m,k] W[k,n]; Y[m,n] = relu(Z[m,n])",
    "Z[m,n] = X[m,k] W[k,n]; Y[m,n] = add(Z[m,n], B[n])",
    "H[m,f] = X[m,d] W[d,f]; G[m,f] = exp(H[m,f]); Y[m,o] = G[m,f] U[f,o]",
    "S[m,p] = Q[m,e] K[p,e]; P[m,p], M[m], D[m] = softmax(S[m,p]); A[m,f] = P[m,p] V[p,f]",
    "T[c,p] = I[p+r] W[c,r]; O[m,p] = T[c,p] U[m,c]",
    "T[c,p] = I[p] W[c]; O[m,p] = T[c,p+r] U[m,c,r]",
    "M[m] = max(S[m,p]); P[m,p] = sub(S[m,p], M[m])",
)
COSTS = {"exp": 6.0, "add": 1.0, "cmp": 1.0, "mul": 1.0, "div": 1.0}


def random_cascade(rng: random.Random, sizes: tuple[int, ...], texts: tuple[str, ...] = TEXTS) -> Cascade:
    """One of the texts with random sizes; a windowed reader gets the padded extent that it needs no more of than is written."""
    text = rng.choice(texts)
    dims = sorted(
        {c for part in text.split(";") for name in part.replace("=", " ").split("[")[1:] for c in name.split("]")[0] if c.isalpha()}
    )
    return cascade_from_text(f"{text}; " + " ".join(f"{dim}={rng.choice(sizes)}" for dim in dims))


def random_hierarchy(rng: random.Random, memories: int, roomy: bool) -> Hierarchy:
    """Memories that keep everything or leave a class out; a fanout anywhere."""
    at = rng.choice((0, memories, memories, memories + 1))
    levels: list[Memory | Fanout] = [Memory("L0", None, *rng.choice(((64.0, 60.0), (8.0, 1.0))), rng.choice((None, 0.5, 4.0)))]
    fanout = Fanout("F", {"x": rng.choice((2, 3))}, rng.random() < 0.8, rng.random() < 0.8)
    for i in range(1, memories + 1):
        if at == i:
            levels.append(fanout)
        keeps = CLASSES if rng.random() < 0.75 else tuple(rng.sample(CLASSES, 2))
        size = None if roomy else float(rng.randrange(6, 30))
        rates = rng.choice(({}, {}, {"bandwidth_bytes_per_clk": 2.0}, {"read_bytes_per_clk": 1.0, "write_bytes_per_clk": 2.0}))
        energies = rng.choice(((6.0, 6.0), (5.0, 7.0), (0.6, 0.6), (1.0, 3.0)))
        levels.append(Memory(f"L{i}", size, *energies, keeps=keeps, buffers=rng.choice((1, 1, 2)), **rates))
    if at == memories + 1:
        levels.append(fanout)
    return Hierarchy("random", tuple(levels), 0.3, 1e9, op_macs=COSTS)


def random_fused(rng: random.Random, cascade: Cascade, hierarchy: Hierarchy, ops: tuple[int, ...], backing: int) -> FusedNest:
    """Any fused nest of a group: shared loops and tiles at random, branches that are random nests of what is left."""
    compiled = problems(cascade, hierarchy, ops, backing)
    memory = hierarchy.memories[backing].name
    left = {dim: cascade.ops[ops[0]].dims[dim] for dim in shared_dims(cascade, ops)}
    shared: list[Loop | Held] = []
    inner = inner_tensors(cascade, ops)
    above: list[Held] = []
    for number in range(1, backing + 1):
        here = [
            Held(op, Keep(t.name, hierarchy.memories[number].name))
            for op, each in zip(ops, compiled, strict=True)
            for t in each.tensors.values()
            if number in t.levels and t.name not in inner and (number < backing or rng.random() < 0.5)
        ]
        rng.shuffle(here)
        above += here
    for node in [*above, None]:
        for dim, extent in list(left.items()):
            factors = [f for f in range(2, extent + 1) if extent % f == 0]
            if factors and rng.random() < 0.4:
                factor = rng.choice(factors)
                left[dim] //= factor
                shared.append(Loop(dim, factor))
        if node is not None:
            shared.append(node)
    branches = []
    for op, each in zip(ops, compiled, strict=True):
        kept = {(n.keep.tensor, n.keep.level) for n in above if n.op == op} | {(name, memory) for name in inner}
        gone = {hierarchy.memories[i].name for i in range(1, backing)}
        nest = random_mapping(rng, _smaller(each, left))
        nodes = tuple(n for n in nest.nodes if not isinstance(n, Keep) or ((n.tensor, n.level) not in kept and n.level not in gone))
        branches.append(nodes)
    return FusedNest(ops, memory, tuple(shared), tuple(branches))


def _smaller(each: Problem, left: dict[str, int]) -> Problem:
    return dataclasses.replace(each, dims=dict(each.dims) | left)


def single(rng: random.Random, cascade: Cascade, hierarchy: Hierarchy, op: int) -> FusedNest:
    """One op by itself, in a random nest."""
    (compiled,) = problems(cascade, hierarchy, (op,), 0)
    mapping: Mapping = random_mapping(rng, compiled)
    return FusedNest((op,), "", (), (mapping.nodes,))
