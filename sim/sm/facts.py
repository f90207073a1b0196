"""What the simulation needs to know of a kernel's machine code, as arrays: made once a kernel and GPU, and small enough to be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from ...arch import System
from ...arch.sm_timing import SmTiming
from ...mapping.triton import CompiledKernel, Evaluation, Program, take_apart
from ...mapping.triton.tensor_core import TENSOR_CORE, MatrixShape, static_shape
from . import isa
from .calibrated import Same
from .isa import IsaTable

#: FLOP of one warp-instruction of each opcode.
_FLOPS: Final = {"FADD": 32, "FMUL": 32, "FFMA": 64, "HADD2": 64, "HMUL2": 64, "HFMA2": 128, "DADD": 32, "DMUL": 32, "DFMA": 64,
                 "FFMA2": 128,                "FADD2": 64, "FMUL2": 64, "MUFU": 32}


@dataclass(frozen=True, eq=False)
class CodeFacts:
    """Machine code on one GPU; all arrays by instruction unless said otherwise.

    Attributes
    ----------
    table, lines
        `isa.instruction_table` and `isa.code_lines`.
    first, size
        int64 by segment, which follow one another: its first instruction, and how many it has.
    vector, matrix, sharers
        FLOP of one warp-instruction, tensor cores aside; FLOP of a matrix instruction whose shape its name gives, and the warps that
        execute it together (1 for all else).
    guarded
        bool: a matrix instruction with a guard.
    rate
        Multiply-adds a clock and sub-core of matrix instructions, 0 for others.
    arithmetic
        That of the first matrix instruction.
    file, line, files
        Source line (0: none), and which of `files` it is in.
    """

    table: IsaTable
    lines: np.ndarray
    first: np.ndarray
    size: np.ndarray
    vector: np.ndarray
    matrix: np.ndarray
    sharers: np.ndarray
    guarded: np.ndarray
    rate: np.ndarray
    file: np.ndarray
    line: np.ndarray
    arithmetic: str
    files: tuple[str, ...]

    def by_instruction(self, entered: np.ndarray) -> np.ndarray:
        """How often each instruction is issued, from how often each segment is entered.

        Not by basic block: lanes may come to a BSYNC apart, and what is behind it in its block goes on for all of them together.
        """
        return np.repeat(np.round(entered).astype(np.int64), self.size)


@dataclass(frozen=True, eq=False)
class GridCounts:
    """What a whole grid executes.

    Attributes
    ----------
    counts
        int64 by instruction: warp-instructions.
    tensor_flops
        Of the tensor cores.
    assumptions
        What only data could tell.
    """

    counts: np.ndarray
    tensor_flops: int
    assumptions: tuple[str, ...]


def counts_of(evaluation: Evaluation) -> GridCounts:
    """Counts of a grid that was followed."""
    return GridCounts(evaluation.instruction_counts, evaluation.tensor_flops, tuple(str(a) for a in evaluation.assumptions))


def tensor_flops(facts: CodeFacts, counts: np.ndarray, guarded: Mapping[int, int]) -> int:
    """FLOP of the tensor cores: `guarded` says how often warps execute matrix instructions that have a guard."""
    total = 0
    for index in np.flatnonzero(facts.matrix).tolist():
        times = guarded.get(index, 0) if facts.guarded[index] else int(counts[index])
        total += int(facts.matrix[index]) * times // int(facts.sharers[index])
    return total


def code_facts(program: Program, system: System, timing: SmTiming) -> CodeFacts:
    """The facts of a kernel on a GPU."""
    code = program.listing.instructions
    shapes: dict[int, MatrixShape | None] = {i.index: static_shape(i.base, i.modifiers) for i in code if i.base in TENSOR_CORE}
    known = {index: shape for index, shape in shapes.items() if shape is not None}
    matrix, sharers = np.zeros(len(code), np.int64), np.ones(len(code), np.int64)
    rate = np.zeros(len(code))
    for index in shapes:
        rate[index] = isa.macs_per_clock(code[index], system)
    for index, shape in known.items():
        matrix[index], sharers[index] = shape.flops, shape.warps
    files = tuple(dict.fromkeys((program.compiled.source_file, *(i.source.file for i in code if i.source))))
    place = {name: n for n, name in enumerate(files)}
    segments = program.segments
    return CodeFacts(
        isa.instruction_table(program, system, timing), isa.code_lines(program),
        np.array([s.first for s in segments]), np.array([s.last - s.first + 1 for s in segments]),
        np.array([float(_FLOPS.get(i.base, 0)) for i in code]), matrix, sharers,
        np.array([i.guard is not None or i.guard_negated for i in code]), rate,
        np.array([place[i.source.file] if i.source else 0 for i in code]), np.array([i.source.line if i.source else 0 for i in code]),
        isa.arithmetic_of(code[min(shapes)]) if shapes else "fp16", files)


@lru_cache(maxsize=128)
def _facts(key: str, about: str, made: Made) -> CodeFacts:
    return code_facts(take_apart(made.compiled), made.system, made.timing)


class Made:
    """What is made once a kernel is made from; equal to every other, so that a cache goes by its keys alone."""

    def __init__(self, compiled: CompiledKernel, system: System, timing: SmTiming) -> None:
        self.compiled, self.system, self.timing = compiled, system, timing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Made)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=16)
def about(same: Same[System], timing: Same[SmTiming]) -> str:
    """What facts depend on beside the machine code."""
    return repr((same.held.gpu.sm, timing.held))


def facts_of(compiled: CompiledKernel, system: System, timing: SmTiming) -> CodeFacts:
    """`code_facts`, made once."""
    return _facts(compiled.key, about(Same(system), Same(timing)), Made(compiled, system, timing))
