"""Which instructions must be evaluated to know where control goes and which addresses are touched.

A backward pass over the control-flow graph: an instruction is needed if it writes a register that is still wanted; then
what it reads is wanted before it. Wanted from the start are guards and conditions of jumps, addresses, and what
barriers, TMA and tcgen05 instructions read. Sets of registers are ints, one bit a register.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .cfg import ControlFlow
from .memory_ops import MBARRIER, TMA, address_registers, descriptor_registers, memory_op
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


def bits(registers: Iterable[int]) -> int:
    """A set of register numbers as an int."""
    made = 0
    for number in registers:
        made |= 1 << number
    return made


def _roots(ins: Instruction, addresses: bool, shared: bool, local: bool) -> int:
    """Registers that an instruction wants whatever becomes of its results."""
    if ins.base in ("BRA", "EXIT", "RET", "BRX", "JMX", "JMP", "CALL", "BREAK", "BSYNC", "BAR", "BSSY", "WARPSYNC"):
        return bits(ins.reads)
    if ins.base in TMA or ins.base in MBARRIER:
        return bits(ins.reads) if addresses else 0
    guard = bits([ins.guard] if ins.guard is not None else [])
    if ins.base in TENSOR_CORE:
        return guard | bits(descriptor_registers(ins)) if ins.base in TCGEN05 else guard
    op = memory_op(ins)
    if op is None:
        return 0
    tracked = (op.space == "shared" and shared) or (op.space == "local" and local)
    if tracked and op.kind != "load":
        return bits(ins.reads)
    if not addresses and not tracked and not (op.kind == "copy" and shared):
        return 0
    return guard | bits(address_registers(ins))


def _pass(flow: ControlFlow, addresses: bool, shared: bool, local: bool) -> tuple[list[bool], list[int]]:
    code = flow.listing.instructions
    uses = [bits(i.reads) for i in code]
    defines = [bits(i.writes) for i in code]
    roots = [_roots(i, addresses, shared, local) for i in code]
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
                wanted = (wanted & ~kills[i]) | uses[i]
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


def slice_program(flow: ControlFlow, *, addresses: bool = True) -> Slice:
    """What must be evaluated; with ``addresses=False`` for control flow only."""
    shared = local = False
    while True:
        needed, live = _pass(flow, addresses, shared, local)
        wanted = [i for i in flow.listing.instructions if needed[i.index] and i.writes]
        spaces = {op.space for i in wanted if (op := memory_op(i)) is not None}
        if ("shared" in spaces) == shared and ("local" in spaces) == local:
            break
        shared, local = shared or "shared" in spaces, local or "local" in spaces
    reads = any(i.base in ("S2R", "S2UR") and i.operands[-1].startswith("SR_CTAID") for i in wanted)
    return Slice(tuple(needed), tuple(live), shared, local, reads)


