"""A compiled kernel taken apart once: instructions, control flow, and the pieces to follow it by."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from .cfg import ControlFlow, control_flow
from .compile import CompiledKernel
from .execute import memory_ops_of
from .memory_ops import MemoryOp
from .sass import Listing, parse_listing
from .segments import Segment, build_segments
from .slicing import Slice, slice_program


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
    """

    compiled: CompiledKernel
    listing: Listing
    flow: ControlFlow
    plan: Slice
    segments: tuple[Segment, ...] = field(repr=False)
    memory_ops: Mapping[int, MemoryOp] = field(repr=False)

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


@functools.lru_cache(maxsize=64)
def _program(key: str, compiled: _Same, addresses: bool) -> Program:
    kernel = compiled.kernel
    listing = parse_listing(kernel.sass)
    flow = control_flow(listing)
    plan = slice_program(flow, addresses=addresses)
    return Program(kernel, listing, flow, plan, build_segments(flow, plan, addresses=addresses), memory_ops_of(listing.instructions))


class _Same:
    """A kernel that compares equal to every other one, so that the cache goes by the key alone."""

    def __init__(self, kernel: CompiledKernel) -> None:
        self.kernel = kernel

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    def __hash__(self) -> int:
        return 0


def take_apart(compiled: CompiledKernel, *, addresses: bool = True) -> Program:
    """The program of a compiled kernel.

    Parameters
    ----------
    addresses
        False leaves memory addresses alone: faster, for counts of instructions only.
    """
    return _program(compiled.key, _Same(compiled), addresses)
