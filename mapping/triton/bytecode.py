"""A kernel's integer code as arrays, for an interpreter that runs a warp in compiled code.

The text is that of `semantics` and `segments`, which `execute` runs as Python: one meaning, two ways to run it. Each line becomes
operations of at most three operands over one file of values: registers, temporaries, numbers, words of constant bank 0.
"""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass
from typing import Final

import numpy as np

from .memory_ops import ATOMIC, COPY, GLOBAL, LOAD, LOCAL, SHARED, STORE
from .program import Program
from .sass import PREDICATE, REGISTER_COUNT
from .segments import BARRIER, BRANCH, EXIT, FALL, INDIRECT, JOIN, RETURN, lines_of_one, returned_of
from .values import M32, M64, SIGN

#: Operations of two or three values; what each does stands in `warp_machine.alu`.
ALU: Final = ("mov", "add", "sub", "mul", "and", "or", "xor", "lsl", "lsr", "lt", "le", "gt", "ge", "eq", "ne", "sel", "shl", "shr",
              "sar64",             "min", "absolute", "prmt", "flo", "popc", "brev", "sgxt", "bmsk", "i2f", "rcp", "f2i", "unknown")
#: All others.
EFFECTS: Final = ("special", "first_lane", "any", "all", "ballot", "elect", "elected_lane", "reduce", "shuffle", "in_range", "access",
                  "copied",                 "load", "store", "argument", "bulk", "sync", "matrix", "refuse")
NUMBER: Final = {name: n for n, name in enumerate((*ALU, *EFFECTS))}
#: Operations that do something beside writing their result.
_DOING: Final = [NUMBER[name] for name in ("access", "copied", "store", "argument", "bulk", "sync", "matrix", "refuse")]
SPECIAL: Final = ("SR_TID.X", "SR_CTAID.X", "SR_CTAID.Y", "SR_CTAID.Z", "SR_LANEID", "SR_EQMASK", "SR_LTMASK", "SR_LEMASK", "SR_GTMASK",
                  "SR_GEMASK")
SHUFFLES: Final = ("IDX", "BFLY", "UP", "DOWN")
REDUCTIONS: Final = ("AND", "OR", "XOR", "SUM", "MIN", "MAX")
ENDS: Final = (FALL, BRANCH, EXIT, BARRIER, JOIN, RETURN, INDIRECT)
SPACES: Final = (GLOBAL, SHARED, LOCAL)
KINDS: Final = (LOAD, STORE, ATOMIC, COPY)
#: Temporaries behind the registers, the last of them for what is thrown away.
TEMPORARIES: Final = 128
#: Slots from here down stand for words of constant bank 0 until all are known, those between for numbers.
_WORDS: Final = -1_000_001

_BINARY: Final = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor", ast.LShift: "lsl",
                  ast.RShift: "lsr"}
#: Operations on numbers that are done here.
_FOLDED: Final = {"and": operator.and_, "or": operator.or_, "xor": operator.xor, "add": operator.add, "sub": operator.sub,
                  "mul": operator.mul, "lsl": operator.lshift, "lsr": operator.rshift}
_COMPARE: Final = {ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne"}


@dataclass(frozen=True, eq=False)
class Bytecode:
    """The part of a kernel that decides control and addresses.

    Attributes
    ----------
    code
        int32 of shape (operations, 6): operation, result, three operands (slots), and a number of its own.
    begin, end, condition
        int32 by segment: its operations, and the slot of what it returns.
    numbers
        uint64: values of the slots behind the temporaries.
    words
        int32 of shape (n, 2): slot and byte offset of the words of constant bank 0 that are read.
    registers, first_number
        Slots of registers, which come first; the slot of the first of `numbers`, before which temporaries stand.
    slots
        All slots.
    """

    code: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    condition: np.ndarray
    numbers: np.ndarray
    words: np.ndarray
    registers: int
    first_number: int
    slots: int


class _Writer:
    """Turns lines into operations."""

    def __init__(self, *, follows_shared: bool = False) -> None:
        self.follows_shared = follows_shared
        self.code: list[tuple[int, int, int, int, int, int]] = []
        self.numbers: dict[int, int] = {}
        self.words: dict[int, int] = {}
        self.names: dict[str, int] = {}
        self.constants: dict[int, int] = {}  # by slot
        self.bounds: dict[int, int] = {}  # of temporaries: no value is larger
        self.free = 0
        self.needed: set[str] = set()  # names that later lines of the instruction read
        self.begun = 0  # where the operations of the instruction begin

    def begin(self) -> None:
        """The next instruction: temporaries and names begin anew."""
        self.free, self.begun = 0, len(self.code)
        self.names.clear()
        self.bounds.clear()

    def number(self, value: int) -> int:
        """Slot of a number; negative until all are known."""
        slot = -1 - self.numbers.setdefault(value & M64, len(self.numbers))
        self.constants[slot] = value & M64
        return slot

    def word(self, offset: int) -> int:
        return _WORDS - self.words.setdefault(offset, len(self.words))

    def temporary(self) -> int:
        self.free += 1
        assert self.free < TEMPORARIES
        return REGISTER_COUNT + self.free - 1

    def emit(self, name: str, *operands: int, into: int | None = None, extra: int = 0) -> int:
        """Append an operation, unless a slot holds its result; the slot of its result."""
        simple = self.simpler(name, operands) if name in _FOLDED else None
        if simple is not None:
            return simple if into is None else self.move(simple, into)
        self.save(into)
        target = self.temporary() if into is None else into
        padded = [*operands, *[self.number(0)] * (3 - len(operands))]
        self.code.append((NUMBER[name], target, padded[0], padded[1], padded[2], extra))
        if into is None:
            self.bounds[target] = min(self.largest(name, operands), M64)
        return target

    def bound(self, slot: int) -> int:
        """No value of a slot is larger."""
        if slot in self.constants:
            return self.constants[slot]
        if slot >= REGISTER_COUNT:
            return self.bounds.get(slot, M64)
        return 1 if slot >= PREDICATE else M32

    def largest(self, name: str, operands: tuple[int, ...]) -> int:
        """No result of an operation is larger."""
        if name in _COMPARE.values():
            return 1
        bounds = [self.bound(slot) for slot in operands]
        shift = self.constants.get(operands[1], 64) if name in ("lsl", "lsr") else 0
        if name == "lsl":
            return bounds[0] << shift
        if name == "lsr":
            return bounds[0] >> shift if shift < 64 else bounds[0]
        return {"and": lambda: min(bounds), "min": lambda: min(bounds), "or": lambda: _ones(max(bounds)), "xor": lambda: _ones(max(bounds)),
                "add": lambda: sum(bounds), "mul": lambda: bounds[0] * bounds[1], "mov": lambda: bounds[0],
                "sel": lambda: max(bounds[1:])}.get(name, lambda: M64)()

    def simpler(self, name: str, operands: tuple[int, ...]) -> int | None:
        """A slot that holds what the operation would give: two numbers, or one that changes nothing."""
        one, other = (self.constants.get(slot) for slot in operands)
        if one is not None and other is not None:
            return self.number(_FOLDED[name](one, min(other, 63) if name in ("lsl", "lsr") else other))
        if name in ("and", "or", "xor", "add", "mul") and one is not None:
            operands, one, other = operands[::-1], other, one
        if other is None:
            return None
        if name == "and" and other & _ones(self.bound(operands[0])) == _ones(self.bound(operands[0])):
            return operands[0]
        if other == 0 and name in ("and", "mul"):
            return self.number(0)
        return operands[0] if (other == 0 and name not in ("and", "mul")) or (other == 1 and name == "mul") else None

    def save(self, register: int | None) -> bool:
        """Keep what a register holds before it is written, if a name that is still to be read stands for it."""
        found = [name for name, held in self.names.items() if held == register and name in self.needed]
        if found:
            assert register is not None
            kept = self.temporary()
            self.code.append((NUMBER["mov"], kept, register, self.number(0), self.number(0), 0))
            self.bounds[kept] = self.bound(register)
            self.names.update(dict.fromkeys(found, kept))
        return bool(found)

    def move(self, slot: int, into: int) -> int:
        """Put what a slot holds into a register: by the operation that made it, where nothing stands against it."""
        if slot == into:
            return into
        if not self.save(into) and slot >= REGISTER_COUNT:
            for at in range(len(self.code) - 1, self.begun - 1, -1):
                name, target, *operands, extra = self.code[at]
                if target == slot:
                    self.code[at] = (name, into, operands[0], operands[1], operands[2], extra)
                    self.names.update({key: into for key, held in self.names.items() if held == slot})
                    return into
                if into in (target, *operands) or slot in operands:
                    break
        self.code.append((NUMBER["mov"], into, slot, self.number(0), self.number(0), 0))
        return into

    def effect(self, name: str, *operands: int, extra: int = 0) -> None:
        self.emit(name, *operands, into=REGISTER_COUNT + TEMPORARIES - 1, extra=extra)

    def instruction(self, lines: str) -> None:
        """Operations of one instruction."""
        body = ast.parse(lines).body
        read = [{part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)} for node in body]
        for n, node in enumerate(body):
            self.needed = set().union(*read[n + 1:])
            self.statement(node)
        self.begin()

    # -- statements ----------------------------------------------------------------------------------------------------

    def returned(self, node: ast.expr) -> int:
        """Slot of what a segment returns: a condition, an address, the guard of a barrier."""
        if isinstance(node, ast.Tuple):
            node = node.elts[0]
        return self.number(1) if isinstance(node, ast.Constant) and not isinstance(node.value, int) else self.value(node)

    def statement(self, node: ast.stmt) -> None:
        """Operations of one line."""
        if isinstance(node, ast.Expr):
            self.call(node.value)
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            if isinstance(target, ast.Tuple):
                self.several(target.elts, node.value)
            elif isinstance(target, ast.Name):
                self.names[target.id] = self.value(node.value)
            else:
                self.value(node.value, into=_register(target))

    def several(self, targets: list[ast.expr], call: ast.expr) -> None:
        assert isinstance(call, ast.Call)
        if _called(call) == "g.shuffle":
            mode = SHUFFLES.index(ast.literal_eval(call.args[0]))
            operands = [self.value(arg) for arg in call.args[1:]]
            for target, name in zip(targets, ("shuffle", "in_range"), strict=True):
                assert isinstance(target, ast.Name)
                self.names[target.id] = self.emit(name, *operands, extra=mode)
            return
        index, guard, address = ast.literal_eval(call.args[0]), self.value(call.args[2]), self.value(call.args[3])
        kept = [self.emit("load", guard, address, _register(target), extra=index | k << 20) for k, target in enumerate(targets)]
        for target, slot in zip(targets, kept, strict=True):
            self.move(slot, _register(target))

    def call(self, node: ast.expr) -> None:
        assert isinstance(node, ast.Call)
        name, args = _called(node), node.args
        if name in ("X.opens", "X.leaves"):
            return
        index = ast.literal_eval(args[0])
        guard = self.value(args[2])
        if name == "X.bulk":
            coordinates = args[4]
            assert isinstance(coordinates, ast.Tuple)
            for slot in [self.value(part) for part in coordinates.elts]:
                self.effect("argument", slot)
            self.effect("bulk", guard, self.value(args[3]), self.value(args[5]), extra=index)
        elif name == "X.store":
            address, data = self.value(args[3]), args[4]
            assert isinstance(data, ast.Tuple)
            for k, part in enumerate(data.elts):
                self.effect("store", guard, address, self.value(part), extra=index | k << 20)
        elif name == "X.copied":  # from address 0 come the zeros that are filled in
            places = [self.value(args[3])]
            if self.follows_shared:
                places.append(self.emit("sel", self.value(args[6]), self.value(args[5]), self.number(0)))
            self.effect("copied", guard, *places, extra=index)
        else:
            self.effect({"X.access": "access", "X.sync": "sync", "X.matrix": "matrix"}[name], guard, *(self.value(a) for a in args[3:5]),
                        extra=index)

    # -- expressions ---------------------------------------------------------------------------------------------------

    def value(self, node: ast.expr, into: int | None = None) -> int:
        """Slot of an expression's value."""
        found: int | None = None
        if isinstance(node, ast.Constant):
            found = self.number(int(ast.literal_eval(node)))
        elif isinstance(node, ast.Name):
            found = self.number({"M": M32, "M64": M64}[node.id]) if node.id in ("M", "M64") else self.names[node.id]
        elif isinstance(node, ast.Subscript):
            assert isinstance(node.value, ast.Name)
            found = _register(node) if node.value.id == "R" else self.word(ast.literal_eval(node.slice))
        if found is not None:
            return found if into is None else self.move(found, into)
        if isinstance(node, ast.BinOp):
            return self.emit(_BINARY[type(node.op)], self.value(node.left), self.value(node.right), into=into)
        if isinstance(node, ast.Compare):
            return self.emit(_COMPARE[type(node.ops[0])], self.value(node.left), self.value(node.comparators[0]), into=into)
        assert isinstance(node, ast.Call)
        return self.function(_called(node), node.args, into)

    def function(self, name: str, args: list[ast.expr], into: int | None) -> int:
        if name in ("mixed", "Unknown", "X.opaque", "X.unknown"):
            return self.emit("unknown", into=into)
        if name == "X.constant":
            return self.emit("refuse", into=into)
        if name == "g.special":
            special = {"SR_TID": "SR_TID.X"}.get(which := ast.literal_eval(args[0]), which)
            if special in ("SR_TID.Y", "SR_TID.Z"):
                return self.emit("mov", self.number(0), into=into)
            if special.upper() not in SPECIAL:
                return self.emit("unknown" if special != "SR_CgaCtaId" else "mov", self.number(0), into=into)
            return self.emit("special", into=into, extra=SPECIAL.index(special.upper()))
        if name in ("g.elect", "g.elected_lane"):
            return self.emit(name[2:], into=into)
        if name == "g.reduce":
            kind, signed = REDUCTIONS.index(ast.literal_eval(args[0])), ast.literal_eval(args[2])
            return self.emit("reduce", self.value(args[1]), into=into, extra=kind | signed << 8)
        if name in ("g.any", "g.all", "g.ballot", "g.first_lane"):
            return self.emit(name[2:], *(self.value(arg) for arg in args), into=into)
        if name in ("lut", "plut"):
            return self.table(ast.literal_eval(args[0]), [self.value(arg) for arg in args[1:]], M32 if name == "lut" else 1, into)
        if name in ("minmax", "flo", "sgxt", "i2f", "f2i"):
            return self.with_flags(name, args, into)
        operands = [self.value(arg) for arg in args]
        if name == "num":
            return operands[0] if into is None else self.move(operands[0], into)
        if name == "clamp":
            return self.emit("min", *operands, into=into)
        if name in ("sx", "sar"):
            wide = self.emit("add", self.emit("xor", operands[0], self.number(SIGN)), self.number(0xFFFFFFFF80000000))
            if name == "sx":
                return wide if into is None else self.emit("mov", wide, into=into)
            moved = self.emit("shr", wide, self.emit("min", operands[1], self.number(31)))
            return self.emit("and", moved, self.number(M32), into=into)
        return self.emit(name, *operands, into=into)

    def with_flags(self, name: str, args: list[ast.expr], into: int | None) -> int:
        flags = [int(ast.literal_eval(arg)) for arg in args if isinstance(arg, ast.Constant)]
        if name == "minmax":
            smaller, a, b = (self.value(arg) for arg in args[:3])
            flip = self.number(SIGN if ast.literal_eval(args[3]) else 0)
            less = self.emit("lt", self.emit("xor", a, flip), self.emit("xor", b, flip))
            return self.emit("sel", self.emit("xor", less, smaller), b, a, into=into)
        if name == "sgxt":
            return self.emit(name, self.value(args[0]), self.value(args[1]), into=into, extra=flags[-1])
        extra = sum(flag << 8 * n for n, flag in enumerate(flags))
        return self.emit(name, self.value(args[0]), into=into, extra=extra)

    def table(self, code: int, parts: list[int], ones: int, into: int | None) -> int:
        """A bitwise function of three values by its truth table, as `values.lookup3` has it."""
        whole = self.number(0)
        negated = [self.emit("xor", part, self.number(ones)) for part in parts]
        for row in range(8):
            if code >> row & 1:
                picked = [part if row & bit else other for part, other, bit in zip(parts, negated, (4, 2, 1), strict=True)]
                term = self.emit("and", self.emit("and", picked[0], picked[1]), picked[2])
                whole = self.emit("or", whole, term)
        return self.emit("mov", whole, into=into)


def _ones(value: int) -> int:
    """All bits up to a number's highest."""
    return (1 << value.bit_length()) - 1


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    assert isinstance(node.func, ast.Attribute)
    assert isinstance(node.func.value, ast.Name)
    return f"{node.func.value.id}.{node.func.attr}"


def _register(node: ast.expr) -> int:
    assert isinstance(node, ast.Subscript)
    return int(ast.literal_eval(node.slice))


def bytecode_of(program: Program) -> Bytecode:
    """The operations of a program, for its choice of addresses."""
    writer, code = _Writer(follows_shared=program.plan.tracks_shared), program.listing.instructions
    begin, end, condition = [], [], []
    for segment in program.segments:
        begin.append(len(writer.code))
        for ins in code[segment.first:segment.last + 1]:
            lines = lines_of_one(ins, program.memory_ops.get(ins.index), program.plan, program.lines, program.addresses)
            writer.instruction("\n".join(lines))
        condition.append(writer.returned(ast.parse(returned_of(code[segment.last], segment.ends), mode="eval").body))
        writer.begin()
        end.append(len(writer.code))
    return _laid_out(writer, begin, end, condition)


def _laid_out(writer: _Writer, begin: list[int], end: list[int], condition: list[int]) -> Bytecode:
    """Slots without gaps: the registers that are used, temporaries, numbers and words."""
    code = np.array(writer.code, dtype=np.int64).reshape(-1, 6)
    taken = np.array(condition, dtype=np.int64)
    wanted = _wanted(code, taken)
    before = np.concatenate([[0], np.cumsum(wanted)])
    code, begin, end = code[wanted], before[begin].tolist(), before[end].tolist()
    used = np.unique(np.concatenate([code[:, 1:5].reshape(-1), taken]))
    used = used[used >= 0]
    registers, first = int(np.searchsorted(used, REGISTER_COUNT)), len(used)
    for slots in (code[:, 1:5], taken):
        of_number, of_word = (slots < 0) & (slots > _WORDS), slots <= _WORDS
        of_rest = slots >= 0
        slots[of_rest] = np.searchsorted(used, slots[of_rest])
        slots[of_number] = first - 1 - slots[of_number]
        slots[of_word] = first + len(writer.numbers) + _WORDS - slots[of_word]
    words = np.array([(first + len(writer.numbers) + n, offset) for offset, n in writer.words.items()], dtype=np.int64).reshape(-1, 2)
    assert not len(code) or np.abs(code).max() < 1 << 31
    return Bytecode(code.astype(np.int32), np.array(begin), np.array(end), taken, np.array(list(writer.numbers), dtype=np.uint64), words,
                    registers, first, first + len(writer.numbers) + len(writer.words))


def _wanted(code: np.ndarray, conditions: np.ndarray) -> np.ndarray:
    """bool by operation: it does something, or somewhere something that does reads what it writes."""
    wanted = np.isin(code[:, 0], _DOING)
    while True:
        read = np.unique(np.concatenate([conditions, code[wanted, 2:5].reshape(-1)]))
        more = wanted | np.isin(code[:, 1], read)
        if (more == wanted).all():
            return wanted
        wanted = more
