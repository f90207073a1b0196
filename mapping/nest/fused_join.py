"""Partial mappings above the branch point of a fused group, joined with the branches of its ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .lattice import Lattice, Slide, TensorTable
from .pareto import nondominated
from .sweep import Meter, States

Index = NDArray[np.int64]
Floats = NDArray[np.float64]
#: (energies, cycles) of what is known -> which may still be part of a mapping better than the best known.
Gate = Callable[[Floats, Floats | float], NDArray[np.bool_]]
#: Energy, cycles, shared shape, row above, row of each branch.
Pair = tuple[float, float, int, int, tuple[int, ...]]


def match(
    live: Sequence[Floats],
    meter: Meter,
    upper: States,
    chosen: Sequence[States],
    capacity: float,
    gate: Gate,
    floor: float,
    found: list[Pair],
) -> None:
    """The best of energy alone: beside each partial mapping above, the cheapest branch of each op that fits."""
    total = upper.cost[:, 0].copy()
    rows = []
    for k, states in enumerate(chosen):
        if not len(states):
            return
        room = capacity - live[k][upper.shape] - upper.held
        top = float(states.held.max()) + 1.0
        # Of the states of one shape, sorted by bytes held, each costs less than those before it.
        keys = states.shape * (2 * top) + states.held
        at = np.searchsorted(keys, upper.shape * (2 * top) + np.minimum(room, top), side="right") - 1
        good = (at >= 0) & (room >= 0)
        at = np.maximum(at, 0)
        good &= (states.shape[at] == upper.shape) & (states.held[at] <= room)
        total = np.where(good, total + states.cost[at, 0], np.inf)
        rows.append(states.row[at])
    meter.add(len(total))
    best_row = int(np.argmin(total))
    if gate(total[best_row : best_row + 1], floor)[0]:
        where = int(upper.shape[best_row])
        found.append((float(total[best_row]), 0.0, where, int(upper.row[best_row]), tuple(int(r[best_row]) for r in rows)))


def match_all(
    live: Sequence[Floats],
    meter: Meter,
    slowest: Callable[[Floats], Floats],
    upper: States,
    chosen: Sequence[States],
    capacity: float,
    gate: Gate,
    found: list[Pair],
) -> None:
    """All that fits together, with every cost."""
    for shape in np.unique(upper.shape):
        top = upper.take(upper.shape == shape)
        parts = [states.take(states.shape == shape) for states in chosen]
        if any(not len(part) for part in parts):
            continue
        rest = [np.zeros(top.cost.shape[1])]
        for part in reversed(parts):
            rest.append(rest[-1] + part.cost.min(axis=0))
        cost, held, rows = top.cost, top.held, [top.row]
        for k, part in enumerate(parts):
            a, b = np.repeat(np.arange(len(cost)), len(part)), np.tile(np.arange(len(part)), len(cost))
            good = held[a] + part.held[b] + live[k][shape] <= capacity
            a, b = a[good], b[good]
            total = cost[a] + part.cost[b]
            meter.add(len(total))
            low = total + rest[len(parts) - 1 - k]
            good = gate(low[:, 0], slowest(low))
            a, b, total = a[good], b[good], total[good]
            stay = nondominated(np.zeros(len(a), dtype=np.int64), np.column_stack([total, held[a]]))
            cost, held = total[stay], held[a[stay]]
            rows = [r[a[stay]] for r in rows] + [part.row[b[stay]]]
        cycles = slowest(cost)
        for i in front_of(cost[:, 0], cycles, gate):
            found.append((float(cost[i, 0]), float(cycles[i]), int(shape), int(rows[0][i]), tuple(int(r[i]) for r in rows[1:])))


def front_of(energy: Floats, cycles: Floats, gate: Gate) -> list[int]:
    """Of those that pass the gate, the ones that no other beats in both, cheapest first."""
    good = np.flatnonzero(gate(energy, cycles))
    stay = good[nondominated(np.zeros(len(good), dtype=np.int64), np.column_stack([energy[good], cycles[good]]))]
    return [int(i) for i in stay[np.argsort(energy[stay], kind="stable")]]


def embedding(shared: Lattice, whole: Lattice) -> Index:
    """Index, in an op's lattice, of each shape of the shared dimensions, the other dimensions whole."""
    strides = {(axis.dim, axis.prime): axis.stride for axis in whole.axes}
    base = sum(axis.most * axis.stride for axis in whole.axes if axis.dim not in shared.dims)
    found = np.full(shared.size, base, dtype=np.int64)
    for axis, exponents in zip(shared.axes, shared.exponents, strict=True):
        found += exponents.astype(np.int64) * strides[axis.dim, axis.prime]
    return found


def on_shared(shared: Lattice, table: TensorTable, up: Index) -> TensorTable:
    """A tensor's table over the shapes of the shared dimensions."""
    slides = tuple(
        Slide(s.dim, s.factor, shared.index({s.dim: s.factor}), s.moved[up], s.valid[up]) for s in table.slides if s.dim in shared.dims
    )
    return TensorTable(table.volume[up], table.moved[up], slides)
