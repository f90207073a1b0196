"""Which buffers an address can point into, by the pointers that it is computed of: known also where the address itself depends on data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .launch import Buffer, Launch
from .memory_ops import GLOBAL, LOCAL, SHARED, STORE, address_registers
from .parameters import parameters_of
from .program import Program
from .sass import PREDICATE

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
    code = program.listing.instructions
    before: dict[int, list[int]] = {}
    for one, other in program.flow.edges:
        before.setdefault(other, []).append(one)
    words = pointer_words(program, launch)
    stored = [(i, register) for i, op in program.memory_ops.items() if op.space == SHARED and op.kind == STORE
              for register in code[i].reads if register < PREDICATE and register not in address_registers(code[i])]
    sources: dict[tuple[int, int], tuple[frozenset[int], tuple[tuple[int, int], ...]]] = {}
    made = {}
    for index in accesses:
        todo = [(index, register) for register in address_registers(code[index], target=False) if register < PREDICATE]
        seen, found = set(todo), set[int]()
        while todo:
            key = todo.pop()
            if key not in sources:
                sources[key] = _sources(program, before, words, stored, *key)
            found |= sources[key][0]
            more = set(sources[key][1]) - seen
            seen |= more
            todo += sorted(more)
        made[index] = tuple(launch.buffers[n] for n in sorted(found))
    return made


def _sources(program: Program, before: Mapping[int, list[int]], words: Mapping[int, int], stored: Iterable[tuple[int, int]], at: int,
             register: int) -> tuple[frozenset[int], tuple[tuple[int, int], ...]]:
    """Numbers of the buffers, and the registers before other instructions, of which a register just before instruction `at` is made."""
    code = program.listing.instructions
    buffers: set[int] = set()
    more: set[tuple[int, int]] = set()
    for where in _definitions(program, before, at, register):
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
    """Number of the buffer by offset in constant bank 0, of both words of its pointer."""
    bank, _ = parameters_of(program.compiled, launch)
    made: dict[int, int] = {}
    by_address = {buffer.address: n for n, buffer in reversed(list(enumerate(launch.buffers)))}
    for offset in sorted(bank):
        low, high = bank[offset], bank.get(offset + 4)
        if type(low) is int and type(high) is int and low | high << 32 in by_address:
            made[offset] = made[offset + 4] = by_address[low | high << 32]
    return made


def _definitions(program: Program, before: Mapping[int, list[int]], at: int, register: int) -> list[int]:
    """Instructions whose result `register` may hold just before instruction `at`."""
    code, flow = program.listing.instructions, program.flow
    found: list[int] = []
    entered: set[int] = set()
    todo = [(flow.block_of[at], at)]
    while todo:
        block, stop = todo.pop()
        first = flow.blocks[block].instructions[0].index
        for where in range(stop - 1, first - 1, -1):
            if register in code[where].writes:
                found.append(where)
                if code[where].guard is None:
                    break
        else:
            for other in before.get(block, ()):
                if other not in entered:
                    entered.add(other)
                    todo.append((other, flow.blocks[other].instructions[-1].index + 1))
    return found
