"""A compiled kernel taken apart once: instructions, control flow, and the pieces to follow it by."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .calls import settle_calls
from .cfg import ControlFlow, control_flow
from .closing import ClosingLoop, bounds_of, closing_loops
from .compile import CompiledKernel
from .lines import Lines
from .memory_ops import MemoryOp, memory_ops_of
from .sass import Listing, parse_listing
from .segments import Segment, build_segments, compile_segments
from .slicing import Addresses, Slice, slice_program


@dataclass(frozen=True, eq=False)
class Program:
    """A kernel taken apart once: instructions, control flow, and the pieces to follow it by.

    Attributes
    ----------
    compiled
        What it was made from.
    listing, flow
        Instructions; basic blocks, edges and loops.
    plan, segments
        What is evaluated to know control and addresses.
    memory_ops
        The memory access of each instruction that has one, by instruction index.
    lines
        What each instruction does.
    addresses
        Whether addresses are evaluated.
    """

    compiled: CompiledKernel
    listing: Listing
    flow: ControlFlow
    plan: Slice
    segments: tuple[Segment, ...] = field(repr=False)
    memory_ops: Mapping[int, MemoryOp] = field(repr=False)
    lines: Lines = field(repr=False)
    addresses: Addresses = True

    @property
    def threads(self) -> int:
        """Threads a CTA."""
        return self.compiled.threads

    @property
    def target(self) -> int:
        """Compute capability."""
        return self.compiled.target

    @property
    def shared_bytes(self) -> int:
        """Shared memory that the code may address, what the system reserves included."""
        return self.compiled.shared_bytes + self.compiled.static_shared_bytes + (1024 if self.target >= 90 else 0)

    def where(self, index: int) -> str:
        """``file.py:34`` of an instruction, or the kernel's own place."""
        source = self.listing.instructions[index].source
        return str(source) if source else f"{self.compiled.source_file}:{self.compiled.source_line}"

    @functools.cached_property
    def closing(self) -> dict[int, ClosingLoop]:
        """Loops that may be closed, by their first segment."""
        return closing_loops(self)

    @functools.cached_property
    def probes(self) -> dict[int, Callable[..., Any]]:
        """Segments of these loops as functions that also note what bounds them, by segment number."""
        chosen = sorted({number for loop in self.closing.values() for number in loop.members})
        return compile_segments([self.segments[n] for n in chosen], self.plan, self.lines, self.memory_ops,
                                addresses=self.addresses, extra=bounds_of)

    def cause_of(self, index: int) -> str:
        """Why an instruction's result is unknown: the load that it comes from, by the text before it, or the instruction itself."""
        if index not in self.causes:
            self.causes[index] = self._cause_of(index)
        return self.causes[index]

    @functools.cached_property
    def causes(self) -> dict[int, str]:
        """What `cause_of` found."""
        return {}

    def _cause_of(self, index: int) -> str:
        code, todo, seen = self.listing.instructions, [index], {index}
        while todo:
            at = todo.pop()
            if at in self.memory_ops:
                ins = code[at]
                place = f" (line {ins.source.line})" if ins.source else ""
                return f"what {ins.opcode} at {ins.address:#x}{place} reads"
            for register in code[at].reads:
                writers = self.lines.writers.get(register, [at])
                found = writers[bisect_left(writers, at) - 1]  # the one before, else the last: round a loop
                if found not in seen:
                    seen.add(found)
                    todo.append(found)
        return f"the result of {code[index].opcode} at {code[index].address:#x}"


@functools.lru_cache(maxsize=64)
def _parsed(key: str, compiled: _Same) -> tuple[ControlFlow, Mapping[int, MemoryOp], Lines]:
    listing = settle_calls(parse_listing(compiled.kernel.sass), compiled.kernel.layout.functions)
    return control_flow(listing), memory_ops_of(listing.instructions), Lines(listing)


@functools.lru_cache(maxsize=128)
def _program(key: str, compiled: _Same, addresses: Addresses) -> Program:
    flow, memory_ops, lines = _parsed(key, compiled)
    plan = slice_program(flow, lines, memory_ops, addresses=addresses)
    segments = build_segments(flow, plan, lines, memory_ops, addresses=addresses)
    return Program(compiled.kernel, flow.listing, flow, plan, segments, memory_ops, lines, addresses)


class _Same:
    """A kernel that compares equal to every other one, so that the cache goes by the key alone."""

    def __init__(self, kernel: CompiledKernel) -> None:
        self.kernel = kernel

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    def __hash__(self) -> int:
        return 0


def take_apart(compiled: CompiledKernel, *, addresses: Addresses = True) -> Program:
    """The program of a compiled kernel.

    Parameters
    ----------
    addresses
        False leaves memory addresses alone: faster, for counts of instructions only; ``"global"`` those of shared and local memory.
    """
    return _program(compiled.key, _Same(compiled), addresses)
