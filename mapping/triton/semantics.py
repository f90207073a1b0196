"""What integer, predicate and lane instructions of SASS do: one rule an opcode, in expressions of Python over register lists.

An expression works on ``R`` (values by register number), ``K`` (constant bank 0 by byte offset), ``g`` (the group of threads)
and ``X`` (the execution, for memory). An opcode or a form that is not listed gives an `Unknown` that names it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from . import values
from .operands import (
    CONSTANT,
    CONSTANT_INDEXED,
    PREDICATE_OPERAND,
    REGISTER_OPERAND,
    NotModelledError,
    double,
    flag,
    guard_of,
    word,
)
from .sass import PREDICATE, Instruction, destinations

#: Names that the generated lines use.
NAMESPACE: dict[str, Any] = {
    "Unknown": values.Unknown, "M": values.M32, "M64": values.M64, "sel": values.select, "num": values.as_number,
    "sx": values.sign_extend, "lut": values.lookup3, "plut": values.lookup3_flags,
    "shl": values.shift_left, "shr": values.shift_right, "sar": values.arithmetic_right, "sar64": values.arithmetic_right64,
    "clamp": values.clamp_shift, "minmax": values.minmax, "absolute": values.absolute, "prmt": values.permute_bytes,
    "flo": values.leading_one, "popc": values.count_ones, "brev": values.reverse_bits, "sgxt": values.sign_from,
    "bmsk": values.bit_mask, "i2f": values.to_float, "rcp": values.reciprocal, "f2i": values.to_integer, "mixed": values.mixed,
}
def _float_word(text: str) -> str:
    """A float immediate as its float32 bits, or any 32-bit operand."""
    try:
        return word(text)
    except NotModelledError:
        pass
    named = {"+INF": 0x7F800000, "-INF": 0xFF800000, "+QNAN": 0x7FFFFFFF, "-QNAN": 0xFFFFFFFF}
    if text in named:
        return str(named[text])
    try:
        return str(struct.unpack("<I", struct.pack("<f", float(text)))[0])
    except (ValueError, OverflowError):
        raise NotModelledError from None


class Form:
    """An instruction's operands, sorted: registers and predicates written, sources, trailing predicates."""

    def __init__(self, ins: Instruction) -> None:
        self.ins = ins
        operands = list(ins.operands)
        count = destinations(ins.base, operands)
        self.outs = [op for op in operands[:count] if not PREDICATE_OPERAND.match(op)]
        self.flags_out = [op for op in operands[:count] if PREDICATE_OPERAND.match(op)]
        rest = operands[count:]
        self.flags = [op for op in rest if PREDICATE_OPERAND.match(op)]
        self.sources = [op for op in rest if not PREDICATE_OPERAND.match(op)]

    def signed(self) -> bool:
        return not self.ins.has("U32", "U64", "U8", "U16")

    def carry(self) -> str:
        """Sum of the carry-in predicates of an ``.X`` form."""
        if not self.ins.has("X"):
            return ""
        return "".join(f" + num({flag(op)})" for op in self.flags if op not in ("!PT", "!UPT"))


Rule = Callable[[Form], tuple[list[str], list[str]]]
#: Setup lines and expressions, one for each register written and then each predicate written.
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def keep(rule: Rule) -> Rule:
        for name in names:
            RULES[name] = rule
        return rule
    return keep


@_rule("MOV", "UMOV")
def _mov(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("64"):
        return [f"t = {double(f.sources[0])}"], ["t & M", "t >> 32"]
    return [], [f"{_float_word(f.sources[0])}"]


@_rule("IADD3", "UIADD3", "IADD", "UIADD", "VIADD")
def _add(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("64"):
        if any(op not in ("PT", "UPT") for op in f.flags_out) or f.ins.has("X"):
            raise NotModelledError
        return [f"t = ({' + '.join(double(op) for op in f.sources)}) & M64"], ["t & M", "t >> 32"]
    line = f"t = {' + '.join(word(op) for op in f.sources)}{f.carry()}"
    return [line], ["t & M", "t >> 32 != 0", "t >> 33 != 0"]


def _product(f: Form) -> str:
    a, b = (f"({word(op)}) & M" for op in f.sources[:2])
    if f.ins.has("U32"):
        return f"({a}) * ({b})"
    return f"sx({a}) * sx({b})"


@_rule("IMAD", "UIMAD")
def _multiply(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("WIDE", "HI"):
        lines = [f"p = ({_product(f)}) & M64", f"t = (p + {double(f.sources[2])}{f.carry()}) & M64"]
        over = f"(t < p) | ((t == p) & (0{f.carry()} != 0))" if f.carry() else "t < p"  # all ones and a carry in give p again
        return lines, ["t & M", "t >> 32", over] if f.ins.has("WIDE") else ["t >> 32", over]
    if f.flags_out:
        raise NotModelledError
    a, b, c = (word(op) for op in f.sources)
    return [], [f"({a} * {b} + {c}{f.carry()}) & M"]


@_rule("LEA", "ULEA")
def _lea(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("HI"):
        if f.ins.has("SX32"):
            a, b, shift = f.sources
            high = f"((shl(sx(({word(a)}) & M), {word(shift)}) & M64) >> 32)"
        else:
            a, b, c, shift = f.sources
            high = f"(((shl(({word(a)}) & M | (({word(c)}) & M) << 32, {word(shift)})) & M64) >> 32)"
        return [f"t = {high} + {word(b)}{f.carry()}"], ["t & M", "t >> 32 != 0"]
    a, b, shift = f.sources
    return [f"t = (shl(({word(a)}) & M, {word(shift)}) & M) + {word(b)}{f.carry()}"], ["t & M", "t >> 32 != 0"]


@_rule("SHF", "USHF")
def _shift(f: Form) -> tuple[list[str], list[str]]:
    low, amount, high = (word(op) for op in f.sources)
    wide = f.ins.has("U64", "S64")
    whole = f"({low} | {high} << 32)"
    if f.ins.has("W"):
        amount = f"({amount} & {63 if wide else 31})"
    elif not wide:
        amount = f"clamp({amount}, 32)"
    if "L" in f.ins.modifiers:
        moved = f"shl({whole}, {amount})"
        return [], [f"({moved} & M64) >> 32" if f.ins.has("HI") else f"{moved} & M"]
    if f.ins.has("HI"):
        return [], [f"sar({high}, {amount})" if f.ins.has("S32", "S64") else f"shr({high}, {amount}) & M"]
    return [], [f"{'sar64' if f.ins.has('S64', 'S32') else 'shr'}({whole}, {amount}) & M"]


_SHORT_TABLES = {0xC0: "a & b", 0xFC: "a | b", 0x3C: "a ^ b", 0x80: "a & b & c", 0xFE: "a | b | c", 0x96: "a ^ b ^ c",
                 0x33: "b ^ M", 0xF8: "a | (b & c)", 0xEA: "(a & b) | c", 0x30: "a & (b ^ M)", 0xF0: "a", 0xCC: "b", 0xAA: "c",
                 0x0F: "a ^ M", 0xE2: "(a & b) | (c & (b ^ M))", 0x78: "a ^ (b & c)", 0x6A: "(a & b) ^ c", 0xC8: "(a | c) & b",
                 0xA8: "(a | b) & c", 0xE0: "a & (b | c)"}


@_rule("LOP3", "ULOP3")
def _logic(f: Form) -> tuple[list[str], list[str]]:
    a, b, c, table = f.sources
    code = int(table, 16)
    lines = [f"a = {word(a)}", f"b = {word(b)}", f"c = {word(c)}",
             f"t = {_SHORT_TABLES.get(code, f'lut({code}, a, b, c)')}"]
    join = "&" if f.ins.has("PAND") else "|"
    extra = f" {join} {flag(f.flags[-1])}" if f.flags else ""
    return lines, ["t", f"(t != 0){extra}"]


@_rule("PLOP3", "UPLOP3")
def _flag_logic(f: Form) -> tuple[list[str], list[str]]:
    a, b, c = (flag(op) for op in f.flags)
    return [], [f"plut({int(code, 16)}, {a}, {b}, {c})" for code in f.sources]


_COMPARE = {"LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "EQ": "==", "NE": "!="}


@_rule("ISETP", "UISETP")
def _compare(f: Form) -> tuple[list[str], list[str]]:
    name = next(m for m in f.ins.modifiers if m in _COMPARE or m in ("F", "T"))
    wide = f.ins.has("U64", "S64", "64")
    if name in "FT":
        test = str(name == "T")
        lines: list[str] = []
    else:
        a, b = ((double if wide else word)(op) for op in f.sources[:2])
        if wide:
            flip = "" if f.ins.has("U64") else f" ^ {1 << 63}"
        else:
            a, b = f"({a}) & M", f"({b}) & M"
            flip = "" if f.ins.has("U32") or name in ("EQ", "NE") else f" ^ {values.SIGN}"
        lines = [f"a = ({a}){flip}", f"b = ({b}){flip}"]
        test = f"(a {_COMPARE[name]} b)"
        if f.ins.has("EX"):
            low = flag(f.flags[-1])
            test = {"EQ": f"((a == b) & {low})", "NE": f"((a != b) | {low})"}.get(
                name, f"((a {_COMPARE[name][0]} b) | ((a == b) & {low}))")
    join = {"AND": "&", "OR": "|", "XOR": "^"}[next((m for m in f.ins.modifiers if m in ("AND", "OR", "XOR")), "AND")]
    other = flag(f.flags[0])
    return [*lines, f"t = {test}", f"q = {other}"], [f"t {join} q", f"(t ^ True) {join} q"]


def _float_operand(text: str, flush: bool) -> str:
    """Expression of a float32 operand's bits, denormals flushed to zero if so asked."""
    match = REGISTER_OPERAND.match(text) or CONSTANT.match(text)
    if match and match[1] in ("-", "|"):
        plain = f"(({word(text.strip('-|'))}) & M)"
        bits = f"({plain} ^ {values.SIGN})" if match[1] == "-" else f"({plain} & {values.SIGN - 1})"
    else:
        bits = f"(({_float_word(text)}) & M)"
    return f"({bits} * num(({bits} & {0x7F800000 if flush else values.SIGN - 1}) != 0))"  # zero has no sign that counts


@_rule("FSETP", "UFSETP")
def _compare_floats(f: Form) -> tuple[list[str], list[str]]:
    """float32 in order of their bits: negative ones reversed, positive ones above them; NaN apart."""
    name = next(m for m in f.ins.modifiers if m.removesuffix("U") in _COMPARE or m in ("NUM", "NAN"))
    a, b = (_float_operand(op, f.ins.has("FTZ")) for op in f.sources[:2])
    lines = [f"{side} = {text}" for side, text in (("a", a), ("b", b))]
    lines.append(f"n = ((a & {values.SIGN - 1}) > {0x7F800000}) | ((b & {values.SIGN - 1}) > {0x7F800000})")
    lines += [f"{side} = {side} ^ ((({side} >> 31) * {values.SIGN - 1}) | {values.SIGN})" for side in "ab"]
    if name in ("NUM", "NAN"):
        test = "n" if name == "NAN" else "(n ^ True)"
    else:
        plain = name.removesuffix("U") if name not in _COMPARE else name
        test = f"((a {_COMPARE[plain]} b) & (n ^ True))" if name in _COMPARE and name != "NE" else f"((a {_COMPARE[plain]} b) | n)"
        if name == "NE":
            test = "((a != b) & (n ^ True))"
    join = {"AND": "&", "OR": "|", "XOR": "^"}[next((m for m in f.ins.modifiers if m in ("AND", "OR", "XOR")), "AND")]
    return [*lines, f"t = {test}", f"q = {flag(f.flags[0])}"], [f"t {join} q", f"(t ^ True) {join} q"]


@_rule("SEL", "USEL", "FSEL")
def _sel(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("64"):
        a, b = (double(op) for op in f.sources)
        return [f"t = sel({flag(f.flags[0])}, {a}, {b})"], ["t & M", "t >> 32"]
    if f.ins.base == "FSEL" and any(op[0] in "-|" and "R" in op for op in f.sources):
        raise NotModelledError
    a, b = (f"({_float_word(op)}) & M" for op in f.sources)
    return [], [f"sel({flag(f.flags[0])}, {a}, {b})"]


@_rule("IMNMX", "VIMNMX", "UIMNMX", "UVIMNMX")
def _minmax(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("64", "S16x2", "U16x2"):
        raise NotModelledError
    a, b = (f"({word(op)}) & M" for op in f.sources)
    return [], [_not_below_zero(f, f"minmax({flag(f.flags[-1])}, {a}, {b}, {f.signed()})")]


def _not_below_zero(f: Form, value: str) -> str:
    """What ``.RELU`` makes of a signed result."""
    if f.ins.has("RELU") and not f.signed():
        raise NotModelledError
    return f"minmax(False, {value}, 0, True)" if f.ins.has("RELU") else value


@_rule("VIADDMNMX")
def _add_minmax(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("64", "S16x2", "U16x2"):
        raise NotModelledError
    a, b, c = (word(op) for op in f.sources)
    return [], [_not_below_zero(f, f"minmax({flag(f.flags[-1])}, ({a} + {b}) & M, ({c}) & M, {f.signed()})")]


@_rule("IABS")
def _abs(f: Form) -> tuple[list[str], list[str]]:
    return [], [f"absolute({word(f.sources[0])})"]


@_rule("I2F", "I2FP")
def _i2f(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("F64", "F16", "BF16", "U8", "S8", "U16", "S16"):
        raise NotModelledError
    wide = f.ins.has("U64", "S64")
    source = double(f.sources[0]) if wide else f"({word(f.sources[0])}) & M"
    return [], [f"i2f({source}, {64 if wide else 32}, {f.signed()}, {f.ins.has('RP')})"]


@_rule("F2I", "F2IP")
def _f2i(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("F64", "F16") or not f.ins.has("TRUNC"):
        raise NotModelledError
    wide = f.ins.has("U64", "S64")
    line = f"t = f2i({word(f.sources[0])}, {64 if wide else 32}, {f.signed()})"
    return [line], ["t & M", "t >> 32"] if wide else ["t"]


@_rule("MUFU")
def _mufu(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.modifiers != ("RCP",):
        raise NotModelledError
    return [], [f"rcp({word(f.sources[0])})"]


@_rule("HFMA2")
def _half_constant(f: Form) -> tuple[list[str], list[str]]:
    a, b, *halves = f.sources
    if {a.lstrip("-"), b.lstrip("-")} != {"RZ"} or len(halves) != 2:
        raise NotModelledError
    return [], [str(values.half_pair(float(halves[0]), float(halves[1])))]


@_rule("PRMT", "UPRMT")
def _prmt(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.modifiers:
        raise NotModelledError
    a, selector, c = (word(op) for op in f.sources)
    return [], [f"prmt({a}, {selector}, {c})"]


@_rule("POPC", "UPOPC")
def _popc(f: Form) -> tuple[list[str], list[str]]:
    return [], [f"popc(({word(f.sources[0])}) & M)"]


@_rule("FLO", "UFLO")
def _flo(f: Form) -> tuple[list[str], list[str]]:
    return [], [f"flo(({word(f.sources[0])}) & M, {f.signed()}, {f.ins.has('SH')})"]


@_rule("BREV", "UBREV")
def _brev(f: Form) -> tuple[list[str], list[str]]:
    return [], [f"brev({word(f.sources[0])})"]


@_rule("SGXT", "USGXT")
def _sgxt(f: Form) -> tuple[list[str], list[str]]:
    return [], [f"sgxt({word(f.sources[0])}, {word(f.sources[1])}, {f.signed()})"]


@_rule("BMSK", "UBMSK")
def _bmsk(f: Form) -> tuple[list[str], list[str]]:
    return [], [f"bmsk({word(f.sources[0])}, {word(f.sources[1])})"]


@_rule("S2R", "S2UR", "CS2R")
def _special(f: Form) -> tuple[list[str], list[str]]:
    name = f.sources[0]
    if name == "SRZ":
        return [], ["0", "0"]
    if f.ins.base == "CS2R":
        raise NotModelledError
    return [], [f"g.special({name!r})"]


@_rule("R2UR")
def _to_uniform(f: Form) -> tuple[list[str], list[str]]:
    guard = guard_of(f.ins)
    return [f"t = g.first_lane({guard}, {word(f.sources[0])})"], ["t"]


@_rule("VOTE", "VOTEU")
def _vote(f: Form) -> tuple[list[str], list[str]]:
    source = flag(f.flags[-1])
    test = f"g.any({source})" if f.ins.has("ANY") else f"g.all({source})"
    return [], [*(f"g.ballot({source})" for _ in f.outs), test]


@_rule("ELECT")
def _elect(f: Form) -> tuple[list[str], list[str]]:
    return [], [*("g.elected_lane()" for _ in f.outs), "g.elect()"]


@_rule("SHFL")
def _shuffle(f: Form) -> tuple[list[str], list[str]]:
    a, b, c = (word(op) for op in f.sources)
    return [f"t, q = g.shuffle({f.ins.modifiers[0]!r}, {a}, {b}, {c})"], ["t", "q"]


@_rule("REDUX", "UREDUX", "CREDUX")
def _redux(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("F32", "NAN", "ABS"):
        raise NotModelledError
    kind = next((m for m in f.ins.modifiers if m in ("SUM", "XOR", "MIN", "MAX", "OR", "AND")), "AND")
    return [], [f"g.reduce({kind!r}, {word(f.sources[0])}, {f.ins.has('S32')})"]


@_rule("P2R")
def _pack_flags(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.modifiers or f.sources[0] != "PR":
        raise NotModelledError
    old, mask = word(f.sources[1]), int(f.sources[2], 16)
    bits = " | ".join(f"num(R[{PREDICATE + n}]) << {n}" for n in range(7) if mask >> n & 1) or "0"
    return [], [f"({old} & {~mask & values.M32}) | {bits}"]


@_rule("R2P")
def _unpack_flags(f: Form) -> tuple[list[str], list[str]]:
    raise NotModelledError  # written out in `lines_of`, since it names no destination


@_rule("LDC", "ULDC", "LDCU")
def _constant(f: Form) -> tuple[list[str], list[str]]:
    narrow = next((name for name in ("U8", "S8", "U16", "S16") if f.ins.has(name)), "")
    count = len(f.ins.writes) or 1
    if match := CONSTANT.match(f.sources[0]):
        at = int(match[2], 16)
        if narrow:  # an argument that is a bool; within one word, since aligned
            top = 1 << int(narrow[1:]) - 1
            part = f"K[{at // 4 * 4}] >> {at % 4 * 8} & {2 * top - 1}"
            return [], [part if narrow[0] == "U" else f"(({part} ^ {top}) - {top}) & M"]
        return [], [f"K[{at + 4 * i}]" for i in range(count)]
    if not narrow and (match := CONSTANT_INDEXED.match(f.sources[0])):
        bank, offset = int(match[1], 16), int(match[4] or "0", 16) * (-1 if match[3] else 1)
        return [f"t = {word(match[2] or 'RZ')}"], [f"X.constant({bank}, t, {offset + 4 * i})" for i in range(count)]
    raise NotModelledError


@_rule("SYNCS")
def _syncs(f: Form) -> tuple[list[str], list[str]]:
    if f.ins.has("TRYWAIT", "PHASECHK"):
        return [], ["True"]  # a wait ends; how long it took is a matter of time, not of control
    raise NotModelledError


@_rule("UTCATOMSWS")
def _allocate(f: Form) -> tuple[list[str], list[str]]:
    return [], [*("0" for _ in f.outs), "True"]


@_rule("USETMAXREG", "SETMAXREG")
def _registers(f: Form) -> tuple[list[str], list[str]]:
    return [], ["True" for _ in f.flags_out]
