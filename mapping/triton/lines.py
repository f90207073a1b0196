"""Instructions of SASS as lines of Python over register lists, by the rules of `semantics`."""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property

from .operands import IMMEDIATE, PREDICATE_OPERAND, REGISTER_OPERAND, NotModelledError, guard_of, register_number
from .sass import PREDICATE, UNIFORM_PREDICATE, Instruction, Listing
from .semantics import RULES, Form


def lines_of(ins: Instruction) -> list[str]:
    """Lines of Python that do what an instruction does to registers and predicates; memory is left to the caller."""
    if ins.guard is None and ins.guard_negated:
        return []
    form = Form(ins)
    guard = guard_of(ins)
    if ins.base == "R2P":
        return _lines_of_r2p(ins, guard)
    targets: list[int] = []
    rule = RULES.get(ins.base) or (RULES.get(ins.base[1:]) if ins.base[0] == "U" else None)
    flags_only = [n for n in ins.writes if n >= PREDICATE]
    plain = [n for n in ins.writes if n < PREDICATE]
    try:
        if rule is None:
            raise NotModelledError
        setup, results = rule(form)
    except (NotModelledError, ValueError, IndexError, StopIteration):
        return _unknown_lines(ins)
    registers = _expected_registers(form, ins)
    expressions = dict(zip(plain, (e for e, n in zip(results, registers, strict=False) if n is not None), strict=False))
    behind = results[len(registers):]
    for operand, expression in zip(form.flags_out, behind, strict=False):
        match = PREDICATE_OPERAND.match(operand)
        if match and match[3] != "T":
            expressions[(UNIFORM_PREDICATE if match[2] == "UP" else PREDICATE) + int(match[3])] = expression
    targets = [n for n in (*plain, *flags_only) if n in expressions]
    if len(targets) < len({*plain, *flags_only}):
        return _unknown_lines(ins)  # the rule does not say all that is written
    if len(targets) == 1:
        n = targets[0]
        return [*setup, f"R[{n}] = {_kept(guard, expressions[n], n)}"]
    lines = [*setup, *(f"v{i} = {expressions[n]}" for i, n in enumerate(targets))]
    if guard != "True" and ins.guard in targets:
        lines.append(f"q = {guard}")
        guard = "q"
    return lines + [f"R[{n}] = {_kept(guard, f'v{i}', n)}" for i, n in enumerate(targets)]


def _unknown_lines(ins: Instruction) -> list[str]:
    """Lines for an instruction whose results are taken to depend on data."""
    names = ", ".join(["", *(f"R[{n}]" for n in ins.reads)])
    lines = [f"t = mixed({f'{ins.opcode} at {ins.address:#x}'!r}{names})"]
    return lines + [f"R[{n}] = {_kept(guard_of(ins), 't', n)}" for n in ins.writes]


#: Comparisons of numbers that are followed only where no data comes in, so that what leads to data is not evaluated in vain.
_OF_SCALARS = frozenset({"FSETP", "UFSETP"})
_DEEP = 64


class Lines(dict[int, list[str]]):
    """`lines_of` each instruction of a listing by index, made when first asked for."""

    def __init__(self, listing: Listing) -> None:
        super().__init__()
        self.listing = listing

    def __missing__(self, index: int) -> list[str]:
        ins = self.listing.instructions[index]
        made = self[index] = _unknown_lines(ins) if ins.base in _OF_SCALARS and self._meets_data(ins) else lines_of(ins)
        return made

    def opaque(self, index: int) -> bool:
        """Whether the results are unknown whatever the operands are: the instruction is not modelled."""
        made = self[index]
        return bool(made) and made[0].startswith("t = mixed(")

    @cached_property
    def writers(self) -> dict[int, list[int]]:
        """Indices of the instructions that write each register, rising."""
        found: dict[int, list[int]] = {}
        for ins in self.listing.instructions:
            for register in ins.writes:
                found.setdefault(register, []).append(ins.index)
        return found

    def _meets_data(self, ins: Instruction) -> bool:
        """Whether an operand comes, by the text before it, from memory or from an instruction that is not modelled."""
        todo, seen = [ins.index], {ins.index}
        while todo:
            at = todo.pop()
            for register in self.listing.instructions[at].reads:
                if register >= PREDICATE:
                    continue
                writers = self.writers.get(register, [])
                place = bisect_left(writers, at)
                if not place:
                    return True
                found = writers[place - 1]
                if found in seen:
                    continue
                before = self.listing.instructions[found]
                if before.base not in RULES and before.base[1:] not in RULES:
                    return True
                if before.base in _OF_SCALARS or len(seen) > _DEEP or self.opaque(found):
                    return True
                seen.add(found)
                todo.append(found)
        return False


def _expected_registers(form: Form, ins: Instruction) -> list[int | None]:
    """One entry for each result expression that is a register: its number, or None for RZ."""
    found: list[int | None] = []
    plain = [n for n in ins.writes if n < PREDICATE]
    for operand in form.outs:
        if operand in ("RZ", "URZ"):
            found += [None, None] if ins.has("WIDE", "64", "U64", "S64") and ins.base not in ("SHF", "USHF") else [None]
        else:
            found += plain
    return found


def _kept(guard: str, expression: str, number: int) -> str:
    return expression if guard == "True" else f"sel({guard}, {expression}, R[{number}])"


def _lines_of_r2p(ins: Instruction, guard: str) -> list[str]:
    match = REGISTER_OPERAND.match(ins.operands[1])
    mask = int(ins.operands[2], 16) if len(ins.operands) > 2 and IMMEDIATE.match(ins.operands[2]) else 0x7F
    shift = {"B1": 8, "B2": 16, "B3": 24}.get(match[4] or "", 0) if match else 0
    source = "0" if match is None or match[3] == "Z" else f"R[{register_number(match)}]"
    return [f"t = {source} >> {shift}"] + [
        f"R[{PREDICATE + n}] = {_kept(guard, f'(t >> {n}) & 1 != 0', PREDICATE + n)}" for n in range(7) if mask >> n & 1]
