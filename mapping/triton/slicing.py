"""Which instructions must be evaluated to know where control goes and which addresses are touched.

A backward pass over the control-flow graph: an instruction is needed if it writes a register that is still wanted; then
what it reads is wanted before it, unless its result is unknown anyway (floating-point data). Wanted from the start are
guards and conditions of jumps, addresses, and what
barriers, TMA and tcgen05 instructions read. Sets of registers are ints, one bit a register.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .cfg import ControlFlow
from .lines import Lines
from .memory_ops import GLOBAL, MBARRIER, TMA, MemoryOp, address_registers, descriptor_registers
from .sass import Instruction
from .tensor_core import TCGEN05, TENSOR_CORE


@dataclass(frozen=True)
class Slice:
    """What to evaluate.

    Attributes
    ----------
    needed
        By instruction index: whether its results are wanted.
    live
        By instruction index: registers wanted just before it.
    tracks_shared, tracks_local
        Whether values read back from shared or local memory are wanted, so that stores must be followed.
    reads_program_id
        Whether any wanted value depends on the program id.
    """

    needed: tuple[bool, ...]
    live: tuple[int, ...]
    tracks_shared: bool
    tracks_local: bool
    reads_program_id: bool


#: Opcodes whose operands matter beyond their results.
_APART = TMA | MBARRIER | TCGEN05


def bits(registers: Iterable[int]) -> int:
    """A set of register numbers as an int."""
    made = 0
    for number in registers:
        made |= 1 << number
    return made


#: Addresses that are evaluated: all, none, or those of global memory alone.
Addresses = bool | Literal["global"]


def wants_address(op: MemoryOp, addresses: Addresses) -> bool:
    """Whether an access's address is asked for."""
    return addresses is True or (addresses == GLOBAL and op.space == GLOBAL)


def _roots(ins: Instruction, op: MemoryOp | None, addresses: Addresses, shared: bool, local: bool) -> int:
    """Registers that an instruction wants whatever becomes of its results."""
    if ins.base in ("BRA", "EXIT", "RET", "BRX", "JMX", "JMP", "CALL", "BREAK", "BSYNC", "BAR", "BSSY", "WARPSYNC"):
        return bits(ins.reads)
    if ins.base in TMA or ins.base in MBARRIER:
        return bits(ins.reads) if addresses is True or (addresses and ins.base in TMA) else 0
    guard = bits([ins.guard] if ins.guard is not None else [])
    if ins.base in TENSOR_CORE:
        return guard | bits(descriptor_registers(ins)) if ins.base in TCGEN05 else guard
    if op is None:
        return 0
    tracked = (op.space == "shared" and shared) or (op.space == "local" and local)
    if tracked and op.kind != "load":
        return bits(ins.reads)
    copied = op.kind == "copy" and shared
    if not wants_address(op, addresses) and not tracked and not copied:
        return 0
    return guard | bits(address_registers(ins, target=addresses is True or copied))


def _pass(flow: ControlFlow, lines: Lines, ops: Mapping[int, MemoryOp], addresses: Addresses, shared: bool,
          local: bool) -> tuple[list[bool], list[int]]:
    code = flow.listing.instructions
    uses = [bits(i.reads) for i in code]
    defines = [bits(i.writes) for i in code]
    roots = [_roots(i, ops.get(i.index), addresses, shared, local) for i in code]
    opaque = [i.index not in ops and i.base not in _APART and lines.opaque(i.index) for i in code]
    # Lanes of a warp without the guard keep their values, so a guarded write kills nothing.
    kills = [0 if i.guard is not None or i.guard_negated else d for i, d in zip(code, defines, strict=True)]
    needed = [False] * len(code)
    live = [0] * len(code)
    entry = [0] * len(flow.blocks)
    after: list[list[int]] = [[] for _ in flow.blocks]
    before: list[list[int]] = [[] for _ in flow.blocks]
    for one, other in flow.edges:
        after[one].append(other)
        before[other].append(one)
    todo = list(range(len(flow.blocks)))
    waiting = set(todo)
    while todo:
        number = todo.pop()
        waiting.discard(number)
        wanted = 0
        for other in after[number]:
            wanted |= entry[other]
        for ins in reversed(flow.blocks[number].instructions):
            i = ins.index
            if defines[i] & wanted and not (ins.guard is None and ins.guard_negated):
                needed[i] = True
                wanted = (wanted & ~kills[i]) | (uses[i] if not opaque[i] else 0 if ins.guard is None else 1 << ins.guard)
            else:
                wanted &= ~kills[i]
            wanted |= roots[i]
            live[i] |= wanted
        if wanted | entry[number] != entry[number]:
            entry[number] |= wanted
            for other in before[number]:
                if other not in waiting:
                    waiting.add(other)
                    todo.append(other)
    return needed, live


def slice_program(flow: ControlFlow, lines: Lines, ops: Mapping[int, MemoryOp], *, addresses: Addresses = True) -> Slice:
    """What must be evaluated; with ``addresses=False`` for control flow only, with ``"global"`` for global memory's addresses too."""
    shared = local = False
    while True:
        needed, live = _pass(flow, lines, ops, addresses, shared, local)
        wanted = [i for i in flow.listing.instructions if needed[i.index] and i.writes]
        spaces = {op.space for i in wanted if (op := ops.get(i.index)) is not None}
        if ("shared" in spaces) == shared and ("local" in spaces) == local:
            break
        shared, local = shared or "shared" in spaces, local or "local" in spaces
    reads = any(i.base in ("S2R", "S2UR") and i.operands[-1].startswith("SR_CTAID") for i in wanted)
    return Slice(tuple(needed), tuple(live), shared, local, reads)


