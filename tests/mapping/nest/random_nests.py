"""Random small problems and nests for the tests of this folder."""

from __future__ import annotations

import random

from presilicon.arch.hierarchy import CLASSES, Fanout, Hierarchy, Memory
from presilicon.mapping.nest import Keep, Loop, Mapping, Problem, Spatial, conv, problem
from presilicon.mapping.nest.nest import windowed
from presilicon.workloads.formats import by_name
from presilicon.workloads.op import Op, Operand


def random_op(rng: random.Random, sizes: tuple[int, ...]) -> Op:
    """A matrix product, a batched one, a convolution in one or two dimensions (strided, dilated), or a depthwise one."""
    kind = rng.choice(("gemm", "batched", "conv1", "conv1", "conv2", "depthwise"))
    size = {dim: rng.choice(sizes) for dim in "bmnkpqrsc"}
    if kind == "gemm":
        axes = (("m", "k"), ("k", "n"), ("m", "n"))
    elif kind == "batched":
        axes = (("b", "m", "k"), ("b", "k", "n"), ("b", "m", "n"))
    elif kind == "conv1":
        axes = (("c", "p+r"), ("m", "c", "r"), ("m", "p"))
    elif kind == "conv2":
        axes = (("p+r", "q+s"), ("m", "r", "s"), ("m", "p", "q"))
    else:
        axes = (("c", "p+r"), ("c", "r"), ("c", "p"))
    stride, dilation = rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2))

    def axis(text: str) -> tuple[tuple[str, int], ...]:
        first, plus, second = text.partition("+")
        return ((first, stride), (second, dilation)) if plus else ((first, 1),)

    names = sorted({c for operand in axes for part in operand for c in part if c != "+"})
    formats = [by_name(rng.choice(("int8", "bf16"))) for _ in range(3)]
    operands = tuple(
        Operand(name, role, tuple(axis(part) for part in parts), fmt)  # type: ignore[arg-type]
        for name, role, parts, fmt in zip("IWO", ("input", "weight", "output"), axes, formats, strict=True)
    )
    return Op(kind, "matmul", "test", {dim: size[dim] for dim in names}, operands, {"mac": 1.0})


def random_hierarchy(rng: random.Random, *, memories: int, roomy: bool) -> Hierarchy:
    """`memories` levels below the first, fanouts at random, tensors that pass by at random."""
    levels: list[Memory | Fanout] = [Memory("L0", None, 64.0, 60.0, 4.0)]
    for i in range(1, memories + 1):
        if rng.random() < 0.45:
            levels.append(_fanout(rng, i))
        keeps = tuple(c for c in CLASSES if rng.random() < 0.8) or CLASSES
        size = None if roomy else float(rng.choice((4, 8, 12, 24, 48)) * 4 ** (memories - i))
        energies = rng.choice(((6.0, 6.0), (5.0, 7.0), (0.6, 0.6), (1.0, 3.0)))
        rates = rng.choice(({}, {"bandwidth_bytes_per_clk": 2.0}, {"read_bytes_per_clk": 1.0, "write_bytes_per_clk": 2.0}))
        partition = {"output": 8.0} if not roomy and rng.random() < 0.2 else {}
        levels.append(Memory(f"L{i}", size, *energies, keeps=keeps, buffers=rng.choice((1, 1, 2)), partition_bytes=partition, **rates))
    if rng.random() < 0.3 or (memories == 1 and len(levels) == 2):
        levels.append(_fanout(rng, memories + 1))
    return Hierarchy("random", tuple(levels), 0.3, 1e9)


def _fanout(rng: random.Random, i: int) -> Fanout:
    axes = {"x": rng.choice((2, 3, 4))} | ({"y": 2} if rng.random() < 0.3 else {})
    return Fanout(f"F{i}", axes, multicast=rng.random() < 0.8, reduction=rng.random() < 0.8)


def _shuffled_keeps(rng: random.Random, prob: Problem) -> list[Keep | int]:
    """Each memory's tiles in random order, and behind them the memory's number, where the fanouts below it stand."""
    keeps: list[Keep | int] = []
    for i, memory in enumerate(prob.memories):
        own = [Keep(t.name, memory.name) for t in prob.tensors.values() if i in t.levels and i]
        rng.shuffle(own)
        keeps += [*own, i]
    return keeps


def _nest(rng: random.Random, keeps: list[Keep | int], slots: list[list[Loop]], spatial: dict[int, list[Spatial]]) -> Mapping:
    """Slot i stands above item i of `keeps`, the last one below all; loops of a slot in random order."""
    nodes: list[Keep | Loop | Spatial] = []
    for keep, loops in zip([*keeps, None], slots, strict=True):
        rng.shuffle(loops)
        nodes += loops
        nodes += spatial.get(keep, []) if isinstance(keep, int) else [keep] if keep else []
    return Mapping(tuple(nodes))


def random_mapping(rng: random.Random, prob: Problem) -> Mapping:
    """Any nest that follows the rules of `Mapping`: tiles at random depths, loops at random places and in random order."""
    left = dict(prob.dims)
    spatial: dict[int, list[Spatial]] = {}
    indexed = frozenset.intersection(*(t.relevant for t in prob.tensors.values() if t.kind == "output"))
    for position, fanout in prob.fanouts:
        for axis, room in fanout.axes.items():
            instances = room
            dims = [d for d in left if fanout.reduction or d in indexed]
            for dim in rng.sample(dims, min(2, len(dims))):
                options = [f for f in range(2, instances + 1) if left[dim] % f == 0]
                if options and rng.random() < 0.7:
                    factor = rng.choice(options)
                    left[dim] //= factor
                    instances //= factor
                    spatial.setdefault(position, []).append(Spatial(dim, factor, fanout.name, axis))
    keeps = _shuffled_keeps(rng, prob)
    slots: list[list[Loop]] = [[] for _ in range(len(keeps) + 1)]
    for dim in prob.dims:
        while left[dim] > 1:
            factor = rng.choice([f for f in range(2, left[dim] + 1) if left[dim] % f == 0])
            left[dim] //= factor
            slots[rng.randrange(len(slots))].append(Loop(dim, factor))
    return _nest(rng, keeps, slots, spatial)


def random_ragged_mapping(rng: random.Random, prob: Problem) -> Mapping:
    """A nest whose factors cover the extents: any number of instances, loops in time that may run past the end."""
    spatial: dict[int, list[Spatial]] = {}
    instances = dict.fromkeys(prob.dims, 1)
    indexed = frozenset.intersection(*(t.relevant for t in prob.tensors.values() if t.kind == "output"))
    for position, fanout in prob.fanouts:
        for axis, most_instances in fanout.axes.items():
            room = most_instances
            for dim in rng.sample(list(prob.dims), min(2, len(prob.dims))):
                most = min(room, prob.dims[dim] // instances[dim])
                if most > 1 and rng.random() < 0.8 and (fanout.reduction or dim in indexed):
                    factor = rng.randrange(2, most + 1)
                    room //= factor
                    instances[dim] *= factor
                    spatial.setdefault(position, []).append(Spatial(dim, factor, fanout.name, axis))
    keeps = _shuffled_keeps(rng, prob)
    slots: list[list[Loop]] = [[] for _ in range(len(keeps) + 1)]
    for dim, extent in prob.dims.items():
        left = -(-extent // instances[dim])
        last = len(slots)
        if windowed(prob, dim) and extent % instances[dim] and instances[dim] > 1:
            # Its loops stand above every fanout that spreads it, or (if that leaves windows without gaps) below.
            tops = [keeps.index(position) for position, nodes in spatial.items() if any(n.dim == dim for n in nodes)]
            last = last if rng.random() < 0.3 else 1 + min(tops)
        places = sorted(rng.sample(range(last), min(last, rng.choice((1, 2, 3)))), reverse=True)
        for place in places:
            exact = place == places[-1]
            factor = left if exact else rng.randrange(1, left + 1)
            slots[place].append(Loop(dim, factor))
            left = -(-left // factor)
    return _nest(rng, keeps, slots, spatial)


def random_problem(rng: random.Random, *, sizes: tuple[int, ...], memories: int, roomy: bool) -> Problem:
    """A random op on a random hierarchy."""
    return problem(random_op(rng, sizes), random_hierarchy(rng, memories=memories, roomy=roomy))


def tense_problem(rng: random.Random, sizes: tuple[int, ...] = (1, 2, 3, 4, 6, 8)) -> Problem:
    """A random op whose tiles compete for one small memory, at energies and bandwidths that pull in different directions."""
    op = random_op(rng, sizes)
    if rng.random() < 0.3:
        op = conv(m=rng.choice((1, 2)), c=1, p=rng.choice((4, 6, 8, 9)), q=1, r=rng.choice((2, 3)))
    energies = [rng.choice((0.1, 1.0, 8.0)) for _ in range(4)]
    rates = [rng.choice((None, 0.25, 1.0, 4.0)) for _ in range(3)]
    size = float(rng.randrange(4, 40))
    keeps = CLASSES if rng.random() < 0.8 else tuple(rng.sample(CLASSES, 2))
    fanout = Fanout("F", {"x": rng.choice((2, 3, 4))}, rng.random() < 0.8, rng.random() < 0.8)
    levels: tuple[Memory | Fanout, ...] = (
        Memory("L0", None, energies[0], energies[1], rates[0]),
        Memory("L1", size, energies[2], energies[3], None, rates[1], rates[2], keeps),
    )
    at = rng.choice((1, 2))
    return problem(op, Hierarchy("tense", (*levels[:at], fanout, *levels[at:]), 0.3, 1e9))
