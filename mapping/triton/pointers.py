"""Which buffers an address can point into, by the pointers that it is computed of: known also where the address itself depends on data."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from .launch import Buffer, Launch
from .memory_ops import GLOBAL, LOCAL, SHARED, STORE, address_registers
from .parameters import parameters_of
from .program import Program
from .sass import PREDICATE, Instruction

_WORD = re.compile(r"c\[0x0\]\[0x([0-9a-f]+)\]")


def buffers_behind(program: Program, launch: Launch, accesses: Iterable[int]) -> dict[int, tuple[Buffer, ...]]:
    """Buffers whose pointers, as parameters of the kernel, go into the address of an access without passing through global memory.

    Definitions that reach the access are followed backward through the control-flow graph.

    Parameters
    ----------
    accesses
        Instructions with an access of their threads (`program.memory_ops`).

    Returns
    -------
    By instruction.
    """
    words = pointer_words(program, launch)
    found = _found(program.compiled.key, tuple(sorted(words.items())), tuple(accesses), _Same(program))
    return {index: tuple(launch.buffers[n] for n in numbers) for index, numbers in found}


class _Same:
    """A program, equal to every other: the cache goes by the kernel's key and the places of its pointers."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=256)
def _found(key: str, places: tuple[tuple[int, int], ...], accesses: tuple[int, ...],
           same: _Same) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Numbers of the buffers behind each access; `places`: offset in constant bank 0 and number of the buffer."""
    program, words = same.program, dict(places)
    code = program.listing.instructions
    flow = _Flow(program)
    stored = [(i, register) for i, op in program.memory_ops.items() if op.space == SHARED and op.kind == STORE
              for register in code[i].reads if register < PREDICATE and register not in address_registers(code[i])]
    sources: dict[tuple[int, int], tuple[frozenset[int], tuple[tuple[int, int], ...]]] = {}
    made = []
    for index in accesses:
        todo = [(index, register) for register in address_registers(code[index], target=False) if register < PREDICATE]
        seen, found = set(todo), set[int]()
        while todo:
            at = todo.pop()
            if at not in sources:
                sources[at] = _sources(program, flow, words, stored, *at)
            found |= sources[at][0]
            more = set(sources[at][1]) - seen
            seen |= more
            todo += sorted(more)
        made.append((index, tuple(sorted(found))))
    return tuple(made)


class _Flow:
    """Which instructions of each block write a register, and which blocks come before it."""

    def __init__(self, program: Program) -> None:
        code, self.flow = program.listing.instructions, program.flow
        self.before: dict[int, list[int]] = {}
        for one, other in program.flow.edges:
            self.before.setdefault(other, []).append(one)
        self.writers: dict[tuple[int, int], list[int]] = {}
        for ins in code:
            block = program.flow.block_of[ins.index]
            for register in ins.writes:
                self.writers.setdefault((block, register), []).append(ins.index)

    def definitions(self, code: Sequence[Instruction], at: int, register: int) -> list[int]:
        """Instructions whose result `register` may hold just before instruction `at`."""
        found: list[int] = []
        entered: set[int] = set()
        todo = [(self.flow.block_of[at], at)]
        while todo:
            block, stop = todo.pop()
            here = self.writers.get((block, register), [])
            for where in reversed(here[:bisect_left(here, stop)]):
                found.append(where)
                if code[where].guard is None:
                    break
            else:
                for other in self.before.get(block, ()):
                    if other not in entered:
                        entered.add(other)
                        todo.append((other, self.flow.blocks[other].instructions[-1].index + 1))
        return found


def _sources(program: Program, flow: _Flow, words: Mapping[int, int], stored: Iterable[tuple[int, int]], at: int,
             register: int) -> tuple[frozenset[int], tuple[tuple[int, int], ...]]:
    """Numbers of the buffers, and the registers before other instructions, of which a register just before instruction `at` is made."""
    code = program.listing.instructions
    buffers: set[int] = set()
    more: set[tuple[int, int]] = set()
    for where in flow.definitions(code, at, register):
        op = program.memory_ops.get(where)
        if op is not None and op.space in (GLOBAL, LOCAL):
            continue
        if op is not None:  # values change threads through shared memory: from any store to it
            more.update(stored)
            continue
        for operand in code[where].operands:
            buffers.update(words[int(offset, 16)] for offset in _WORD.findall(operand) if int(offset, 16) in words)
        more.update((where, other) for other in code[where].reads if other < PREDICATE)
    return frozenset(buffers), tuple(more)


def pointer_words(program: Program, launch: Launch) -> dict[int, int]:
    """Number of the buffer by offset in constant bank 0, of both words of its pointer; that of a view points into its storage."""
    bank, _ = parameters_of(program.compiled, launch)
    made: dict[int, int] = {}
    by_start = {buffer.start: n for n, buffer in reversed(list(enumerate(launch.buffers)))}
    by_address = {buffer.address: by_start[buffer.start] for buffer in (*launch.buffers, *_pointers(launch.arguments.values()))
                  if buffer.start in by_start}
    for offset in sorted(bank):
        low, high = bank[offset], bank.get(offset + 4)
        if type(low) is int and type(high) is int and low | high << 32 in by_address:
            made[offset] = made[offset + 4] = by_address[low | high << 32]
    return made


def _pointers(values: Iterable[object]) -> Iterator[Buffer]:
    """Pointers among arguments, those in tuples included."""
    for value in values:
        if isinstance(value, Buffer):
            yield value
        elif isinstance(value, tuple):
            yield from _pointers(value)
