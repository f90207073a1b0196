"""The order of operators in which the fewest bytes pass the DRAM, where operators stream what does not wait on chip (`retain`).

Which tensors are alive together, and so compete for the room, is a matter of order where a graph branches. The search goes over sets of
operators that have run, and over what is on chip then: of all ways there, the one that has moved the fewest bytes is kept. Between two
tensors through which everything passes there are few such sets. A tensor is dropped only where room is needed, as dropping it earlier
saves nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Final

from .problem import Problem, Tensor
from .retain import moved_by

#: Pairs of a state and an operator that may run next that are tried at each step, the states with the fewest bytes first; where there are
#: more, the order is not proven.
MOST_MOVES: Final = 512
#: Tensors among which every choice of what to drop is tried.
MOST_CHOICES: Final = 6


@dataclass(frozen=True)
class Order:
    """An order of operators.

    Attributes
    ----------
    steps
        Operators by index, in the order in which they run.
    moved_bytes
        Bytes that pass the DRAM, if what waits on chip packs.
    proven
        No order moves fewer.
    """

    steps: tuple[int, ...]
    moved_bytes: float
    proven: bool


def best_order(
    problem: Problem, capacity_bytes: float, runs: Sequence[float], before: Collection[tuple[int, int]], blocks: Sequence[int], least: float
) -> Order | None:
    """An order that moves fewer bytes than are known to do, if there is one.

    Parameters
    ----------
    problem, capacity_bytes, runs
        As for `presilicon.mapping.scratchpad.retain.retain`.
    before
        Pairs of operators of which the first must run before the second, beside those that tensors say.
    blocks
        By operator, in program order: the block that it stands in. Blocks stay one after the other.
    least
        Bytes that are known to do.

    Returns
    -------
    Order or None
        None: no better order was found; whether there is none is not said.

    Examples
    --------
    Two long branches, side by side in the program, one after the other in the best order:

    >>> wide = [Tensor(n, s, p, (c,)) for n, s, p, c in (("a", 6, 0, 2), ("b", 6, 1, 3), ("c", 1, 2, 4), ("d", 1, 3, 4))]
    >>> best_order(Problem("p", ("a", "b", "c", "d", "e"), tuple(wide)), 8, (1,) * 5, (), (0,) * 5, least=12.0)
    Order(steps=(0, 2, 1, 3, 4), moved_bytes=0.0, proven=True)
    """
    capacity = int(capacity_bytes)
    fits = [t.size_bytes <= capacity for t in problem.tensors]
    streamed = sum(moved_by(problem, i, None, runs) for i, fit in enumerate(fits) if not fit)
    kept = tuple(t for t, fit in zip(problem.tensors, fits, strict=True) if fit)
    edges = frozenset(before) | frozenset(problem.order.edges)
    often = tuple(float(r) for r in runs)
    found = _best(Problem(problem.name, problem.ops, kept), capacity, often, edges, tuple(blocks), float(least) - streamed)
    return None if found is None else replace(found, moved_bytes=found.moved_bytes + streamed)


@lru_cache(maxsize=256)
def _best(
    problem: Problem, capacity: int, runs: tuple[float, ...], before: frozenset[tuple[int, int]], blocks: tuple[int, ...], least: float
) -> Order | None:
    search = _Search(problem, capacity, runs, before)
    states: dict[tuple[int, int], _State] = {(0, 0): _State(0.0, None, -1)}
    exact = True
    start = 0
    for number in range(len(problem.ops)):
        if number and blocks[number] != blocks[number - 1]:
            start = number
        end = next((i for i in range(number, len(blocks)) if blocks[i] != blocks[number]), len(blocks))
        after: dict[tuple[int, int], _State] = {}
        moves = 0
        for (done, held), state in sorted(states.items(), key=lambda item: (item[1].cost + search.rest(item[0][0]), item[0])):
            ready = [op for op in range(start, end) if not (done >> op & 1 or search.needs[op] & ~done)]
            moves += len(ready)
            if moves > MOST_MOVES and moves > len(ready):
                exact = False
                break
            for op in ready:
                for kept, cost in search.run(op, done, held):
                    key, total = (done | 1 << op, kept), state.cost + cost
                    known = after.get(key)
                    if total + search.rest(key[0]) < least * (1 - 1e-12) - 1e-9 and (known is None or total < known.cost):
                        after[key] = _State(total, state, op)
        states = after
    if not states:
        return None
    last = min(states.items(), key=lambda item: (item[1].cost, item[0]))[1]
    return Order(tuple(reversed(list(last.steps()))), last.cost, exact and not search.cut)


@dataclass(frozen=True)
class _State:
    """Bytes moved so far, the state before, and the operator that led here."""

    cost: float
    before: _State | None
    op: int

    def steps(self) -> Iterator[int]:
        state: _State | None = self
        while state is not None and state.op >= 0:
            yield state.op
            state = state.before


class _Search:
    """What an operator does to a state; sets of operators and of tensors are the bits of numbers."""

    def __init__(self, problem: Problem, capacity: int, runs: Sequence[float], before: Collection[tuple[int, int]]) -> None:
        self.tensors, self.capacity = problem.tensors, capacity
        self.sizes = [t.size_bytes for t in problem.tensors]
        self.writes = [t.size_bytes * runs[t.producer or 0] for t in problem.tensors]
        self.runs = runs
        count = len(problem.ops)
        self.needs = [0] * count
        for first, second in before:
            self.needs[second] |= 1 << first
        self.makes: list[list[int]] = [[] for _ in range(count)]
        self.reads: list[list[int]] = [[] for _ in range(count)]
        self.readers = [_bits(t.consumers) for t in problem.tensors]
        for i, tensor in enumerate(problem.tensors):
            self.makes[tensor.producer or 0].append(i)
            for op in tensor.consumers:
                self.reads[op].append(i)
        self.cut = False

    def rest(self, done: int) -> float:
        """Bytes that the operators yet to run move at least: outputs of the graph."""
        return sum(self.writes[i] for i, t in enumerate(self.tensors) if t.output and not done >> (t.producer or 0) & 1)

    def run(self, op: int, done: int, held: int) -> Iterator[tuple[int, float]]:
        """What is on chip after an operator, and the bytes that it moves: one for each choice of what to drop for it."""
        made = self.makes[op]
        present = [i for i in range(len(self.sizes)) if held >> i & 1] + [i for i in made if self.readers[i]]
        written = sum(self.writes[i] for i in made if self.tensors[i].output)
        excess = sum(self.sizes[i] for i in present) - self.capacity
        for dropped in self._choices(present, excess):
            gone = _bits(dropped)
            cost = written + sum(self.writes[i] for i in dropped if not self.tensors[i].output)
            cost += sum(self.sizes[i] * self.runs[op] for i in self.reads[op] if gone >> i & 1 or not held >> i & 1)
            ran = done | 1 << op
            yield _bits(i for i in present if not gone >> i & 1 and self.readers[i] & ~ran), cost

    def _choices(self, present: Sequence[int], excess: int) -> Iterator[tuple[int, ...]]:
        """Sets of tensors that make room and of which none can stay."""
        if excess <= 0:
            yield ()
            return
        if len(present) > MOST_CHOICES:
            self.cut = True
            for sign in (1, -1):
                yield self._enough(sorted(present, key=lambda i: (sign * self.sizes[i], i)), excess)
            return
        for number in range(1, len(present) + 1):
            for chosen in combinations(present, number):
                freed = sum(self.sizes[i] for i in chosen)
                if freed >= excess and freed - min(self.sizes[i] for i in chosen) < excess:
                    yield chosen

    def _enough(self, order: Sequence[int], excess: int) -> tuple[int, ...]:
        """The first tensors of an order that make room."""
        chosen: list[int] = []
        for i in order:
            if excess <= 0:
                break
            chosen.append(i)
            excess -= self.sizes[i]
        return tuple(chosen)


def _bits(numbers: Collection[int] | Iterator[int]) -> int:
    found = 0
    for i in numbers:
        found |= 1 << i
    return found


def reordered(problem: Problem, steps: Sequence[int]) -> Problem:
    """The same problem with its operators in another order; tensors keep their places."""
    at = {op: step for step, op in enumerate(steps)}
    tensors = tuple(
        Tensor(t.name, t.size_bytes, None if t.producer is None else at[t.producer], tuple(sorted(at[c] for c in t.consumers)), t.output)
        for t in problem.tensors
    )
    return Problem(problem.name, tuple(problem.ops[op] for op in steps), tensors)
