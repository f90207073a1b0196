"""Straight pieces of a kernel as compiled Python functions: what the interpreter executes in one step.

A segment ends where control may leave (a jump, an exit) or where threads may have to wait for others (barriers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .cfg import ControlFlow, is_conditional
from .lines import Lines
from .memory_ops import COPY, LOAD, MBARRIER, TMA, MemoryOp, address_of, descriptor_registers
from .operands import NotModelledError, flag, guard_of, word
from .sass import INSTRUCTION_BYTES, PREDICATE, UNIFORM, Instruction
from .semantics import NAMESPACE
from .slicing import Addresses, Slice, wants_address
from .tensor_core import TCGEN05, TENSOR_CORE

#: How a segment ends.
FALL, BRANCH, EXIT, BARRIER, JOIN, RETURN, INDIRECT = "fall", "branch", "exit", "barrier", "join", "return", "indirect"


@dataclass(frozen=True)
class Segment:
    """A run of instructions.

    Attributes
    ----------
    number, block
        Its number, and the basic block that it lies in.
    opens_block
        It is the first of its block.
    first, last
        Indices of its first and last instruction.
    ends
        How it ends.
    conditional
        Its last instruction may fall through.
    next, target
        Numbers of the segments behind it and of the one jumped to; None where there is none.
    run
        ``run(R, K, X, g)`` executes it; returns the condition of the jump, the barrier's operands, or None.
    live
        Registers wanted at its start.
    live_after
        Registers wanted at the start of any segment behind it.
    """

    number: int
    block: int
    opens_block: bool
    first: int
    last: int
    ends: str
    conditional: bool
    next: int | None
    target: int | None
    run: Callable[..., Any]
    live: tuple[int, ...]
    live_after: tuple[int, ...]


_ENDS = {"BRA": BRANCH, "JMP": BRANCH, "EXIT": EXIT, "KILL": EXIT, "BPT": EXIT, "RET": RETURN, "CALL": BRANCH, "BRX": INDIRECT,
         "JMX": INDIRECT, "BAR": BARRIER, "BSYNC": JOIN}


def _end(ins: Instruction) -> str | None:
    if ins.guard is None and ins.guard_negated:
        return None
    if ins.base == "BRA" and ins.has("DIV", "CONV"):
        return None  # threads that run together here are converged
    return _ENDS.get(ins.base)


def _memory_lines(ins: Instruction, op: MemoryOp, plan: Slice, addresses: Addresses) -> list[str]:
    guard = guard_of(ins)
    if guard == "False":
        return []
    i, counted = ins.index, wants_address(op, addresses)
    lines = [f"X.access({i}, g, {guard}{f' & {op.condition}' if op.condition != 'True' else ''}, {op.address})"] if counted else []
    if op.target and (addresses is True or plan.tracks_shared):
        lines.append(f"X.copied({i}, g, {guard}, {op.target}, {addresses is True}, {op.address}, {op.condition})")
    if op.space == "local" and not plan.tracks_local:
        lines = [f"X.access({i}, g, {guard}, 0)"] if counted else []
    tracked = (op.space == "shared" and plan.tracks_shared) or (op.space == "local" and plan.tracks_local)
    wanted = plan.needed[i] and ins.writes
    if op.kind == LOAD and wanted:
        values = ", ".join(f"R[{n}]" for n in ins.writes)
        lines.append(f"{values}{',' if len(ins.writes) == 1 else ''} = X.load({i}, g, {guard}, {op.address}, ({values},))")
        return lines
    if tracked and op.kind != LOAD:
        data = _data_words(ins)
        lines.append(f"X.store({i}, g, {guard}, {op.address}, ({''.join(f'{d}, ' for d in data)}))")
    if wanted:
        lines += [f"R[{n}] = X.unknown({i})" for n in ins.writes]
    return lines


def _data_words(ins: Instruction) -> list[str]:
    """Expressions of the words that a store writes."""
    behind = [op for op in ins.operands if not op.startswith(("[", "desc["))]
    data = [op for op in behind if op[0] in "RU-" or op.startswith("0x")]
    if not data:
        return ["X.unknown(0)"]
    name, matrices = data[-1], ins.base == "STSM"
    count = 4 if ins.has("128") or (matrices and ins.has("4")) else 2 if ins.has("64") or (matrices and ins.has("2")) else 1
    try:
        if name in ("RZ", "URZ"):
            return ["0"] * count
        base = int(name.lstrip("UR")) + (UNIFORM if name[0] == "U" else 0)
        return [f"R[{base + k}]" for k in range(count)]
    except ValueError:
        try:
            return [word(name)]
        except NotModelledError:
            return ["X.unknown(0)"]


def _tma_line(ins: Instruction) -> str:
    """Shared address, coordinates and descriptor of a bulk copy."""
    registers = [n for n in ins.reads if n < PREDICATE]
    brackets = [op for op in ins.operands if op.startswith("[")]
    names = []
    for op in brackets[:2]:
        digits = op[1:-1].split("+")[0].split(".")[0]
        names.append(int(digits.lstrip("UR")) + (UNIFORM if digits[0] == "U" else 0))
    dims = next((int(m[0]) for m in ins.modifiers if m[0].isdigit() and m.endswith("D")), 0)
    first, second = (names + [registers[0] if registers else 0] * 2)[:2]
    offset = 2 if ins.base == "UTMALDG" else 1
    coordinates = "".join(f"R[{first + offset + k}], " for k in range(dims))
    return (f"X.bulk({ins.index}, g, {guard_of(ins)}, R[{first}], ({coordinates}), R[{second}] | R[{second + 1}] << 32); "
            f"X.sync({ins.index}, g, {guard_of(ins)}, {f'R[{first + 1}]' if ins.base == 'UTMALDG' else '0'}, 0)")


def _sync_line(ins: Instruction) -> str:
    """An mbarrier's address, and what is written to it or asked of it."""
    place = next((n for n, op in enumerate(ins.operands) if op.startswith("[")), None)
    try:
        address = address_of(ins.operands[place], "shared") if place is not None else "X.unknown(0)"
        value = word(ins.operands[place + 1]) if place is not None and place + 1 < len(ins.operands) else "0"
    except NotModelledError:
        address = value = f"X.unknown({ins.index})"
    return f"X.sync({ins.index}, g, {guard_of(ins)}, {address}, {value})"


def _plain_lines(ins: Instruction, lines: Lines) -> list[str]:
    if lines.opaque(ins.index):
        return [f"t = X.opaque({ins.index})", *lines[ins.index][1:]]
    return lines[ins.index]


def lines_of_one(ins: Instruction, op: MemoryOp | None, plan: Slice, lines: Lines, addresses: Addresses) -> list[str]:
    """Lines of Python that do what of an instruction is wanted, memory included."""
    if op is not None:
        wanted = plan.needed[ins.index] and bool(ins.writes)
        tracked = (op.space == "shared" and plan.tracks_shared) or (op.space == "local" and plan.tracks_local)
        tracked = tracked or (plan.tracks_shared and op.kind == COPY)
        return _memory_lines(ins, op, plan, addresses) if wants_address(op, addresses) or wanted or tracked else []
    if ins.base in TMA:
        return [_tma_line(ins)] if addresses else []
    if ins.base in MBARRIER:
        return ([_sync_line(ins)] if addresses is True else []) + (_plain_lines(ins, lines) if plan.needed[ins.index] else [])
    if ins.base in TCGEN05:
        registers = descriptor_registers(ins)
        shape = f"R[{registers[0]}]" if registers else f"X.unknown({ins.index})"
        issuers = [f"X.sync({ins.index}, g, {guard_of(ins)}, 0, 0)"] if addresses is True else []
        return [f"X.matrix({ins.index}, g, {guard_of(ins)}, {shape})", *issuers]
    if ins.base in TENSOR_CORE and (ins.guard is not None or ins.guard_negated):
        return [f"X.matrix({ins.index}, g, {guard_of(ins)}, 0)"]
    if ins.base == "BSSY":
        return [f"X.opens({ins.operands[0]!r}, g)"]
    if ins.base == "BREAK":
        return [f"X.leaves({ins.operands[-1]!r}, g, {guard_of(ins)})"]
    return _plain_lines(ins, lines) if plan.needed[ins.index] else []


def _condition(ins: Instruction) -> str:
    """Expression that is true where the jump is taken."""
    parts = [guard_of(ins)]
    for op in ins.operands:
        if op.lstrip("!") in ("PT", "UPT") or (op.lstrip("!")[0] in "PU" and op[-1].isdigit() and not op.startswith("`")):
            try:
                parts.append(flag(op))
            except NotModelledError:
                continue
    return " & ".join(dict.fromkeys(parts))


def returned_of(ins: Instruction, ends: str) -> str:
    """Expression that a segment returns: the jump's condition, the barrier's guard and operands, the name of what is joined, an address."""
    if ends in (BRANCH, EXIT):
        return _condition(ins)
    if ends == BARRIER:
        values = []
        for op in ins.operands:
            try:
                values.append(f"({word(op)}) & M")
            except NotModelledError:
                continue
        return f"({guard_of(ins)}, ({''.join(f'{v}, ' for v in values)}))"
    if ends == JOIN:
        return repr(ins.operands[-1])
    if ends in (RETURN, INDIRECT):
        register = next((n for n in ins.reads if n < PREDICATE), None)
        return "None" if register is None else f"R[{register}]"
    return "None"


def _numbers(mask: int) -> tuple[int, ...]:
    return tuple(n for n in range(mask.bit_length()) if mask >> n & 1)


Pieces = list[tuple[int, bool, list[Instruction], str]]


def _pieces(flow: ControlFlow) -> Pieces:
    """Block, whether it opens it, instructions and end of each segment."""
    runs: Pieces = []
    for block in flow.blocks:
        opens, run = True, []
        for ins in block.instructions:
            run.append(ins)
            ends = _end(ins)
            if ends is not None:
                runs.append((block.index, opens, run, ends))
                opens, run = False, []
        if run:
            runs.append((block.index, opens, run, FALL))
    return runs


def _functions(named: Mapping[int, tuple[list[Instruction], str]], plan: Slice, lines: Lines, ops: Mapping[int, MemoryOp],
               addresses: Addresses,
               extra: Callable[[Instruction, list[str]], list[str]] | None = None) -> dict[int, Callable[..., Any]]:
    text = []
    for n, (run, ends) in named.items():
        text.append(f"def s{n}(R, K, X, g):")
        for ins in run:
            body = lines_of_one(ins, ops.get(ins.index), plan, lines, addresses)
            if extra is not None and body and plan.needed[ins.index] and ins.index not in ops:
                body = extra(ins, body)
            text += [f"    {line}" for line in body]
        text.append(f"    return {returned_of(run[-1], ends)}")
    namespace = dict(NAMESPACE)
    exec(compile("\n".join(text), f"<segments of {lines.listing.name}>", "exec"), namespace)
    return {n: namespace[f"s{n}"] for n in named}


def compile_segments(segments: Iterable[Segment], plan: Slice, lines: Lines, ops: Mapping[int, MemoryOp], *, addresses: Addresses,
                     extra: Callable[[Instruction, list[str]], list[str]]) -> dict[int, Callable[..., Any]]:
    """Segments as functions with lines of one's own, by segment number.

    Parameters
    ----------
    extra
        Gives the lines of an instruction that is evaluated, from the instruction and its lines.
    """
    code = lines.listing.instructions
    named = {s.number: (list(code[s.first:s.last + 1]), s.ends) for s in segments}
    return _functions(named, plan, lines, ops, addresses, extra)


def build_segments(flow: ControlFlow, plan: Slice, lines: Lines, ops: Mapping[int, MemoryOp], *,
                   addresses: Addresses = True) -> tuple[Segment, ...]:
    """Cut the blocks into segments and compile each to a Python function."""
    runs = _pieces(flow)
    starts = {run[0].address: n for n, (_, _, run, _) in enumerate(runs)}
    functions = _functions({n: (run, ends) for n, (_, _, run, ends) in enumerate(runs)}, plan, lines, ops, addresses)
    made = []
    everywhere = 0
    for _, _, run, _ in runs:
        everywhere |= plan.live[run[0].index]
    for n, (number, opens, run, ends) in enumerate(runs):
        last = run[-1]
        after = 0
        for address in (last.address + INSTRUCTION_BYTES, last.target, *last.targets):
            after |= plan.live[runs[starts[address]][2][0].index] if address in starts else 0
        if ends == RETURN:
            after = everywhere
        made.append(Segment(n, number, opens, run[0].index, last.index, ends, ends == FALL or is_conditional(last),
                            starts.get(last.address + INSTRUCTION_BYTES), starts.get(last.target) if last.target is not None else None,
                            functions[n], _numbers(plan.live[run[0].index]), _numbers(after)))
    return tuple(made)
