"""Values of the SASS interpreter, and the operations on them that are more than one line of Python.

A register holds, for the threads of a group, a Python int (the same in every thread), a uint64 array with one 32-bit
value a thread, an `Unknown` (it depends on data), or a `Partial` (it does in some threads). Predicates are bools, bool
arrays, `Unknown` or `Partial`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

M32, M64, SIGN = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 0x80000000
Value = Any


class Unknown:
    """A value that depends on data; `cause` says on which. Arithmetic with it gives it back.

    Single bits may be known all the same, as where a register keeps several predicates: `value` holds in the bits of
    `mask` (an int, or one a thread). Bitwise operations keep them, all others forget them.
    """

    __slots__ = ("cause", "mask", "origin", "value")
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __init__(self, cause: str, value: Value = 0, mask: Value = 0, origin: Unknown | None = None) -> None:
        self.cause, self.value, self.mask = cause, value, mask
        self.origin = self if origin is None else origin

    def __repr__(self) -> str:
        return f"Unknown({self.cause!r})"

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of {self!r} was asked for")

    def _same(self, other: Value) -> Unknown:
        return self.origin

    __add__ = __radd__ = __sub__ = __rsub__ = _same
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _same
    __lt__ = __le__ = __gt__ = __ge__ = _same

    def __eq__(self, other: Value) -> Any:
        return self.origin

    def __ne__(self, other: Value) -> Any:
        return self.origin

    def _bits(self, other: Value, value: Value, mask: Value) -> Value:
        """The result of a bitwise operation whose bits in `mask` are known."""
        plain = mask & M32
        if type(plain) is int:
            if plain == M32:
                return value & M32
            return Unknown(self.cause, value & plain, plain, self.origin) if plain else self.origin
        if (plain == M32).all():
            return value & M32
        return Unknown(self.cause, value & plain, plain, self.origin) if plain.any() else self.origin

    def _flags(self, other: Value, deciding: bool) -> Value:
        """Joined with flags by thread, of which those that are `deciding` say the result alone."""
        if type(other) is bool:
            return self.origin
        flags, known = (other.value, other.known) if type(other) is Partial else (other, True)
        if flags.dtype != bool:
            return self.origin
        decided = known & (flags == deciding)
        return flags if decided.all() else Partial(np.full(len(flags), deciding), decided, self.origin) if decided.any() else self.origin

    def __and__(self, other: Value) -> Value:
        if type(other) is bool or type(other) is Partial or is_flag(other):
            return False if other is False else self._flags(other, False)
        value, mask = _known_bits(other)
        zeros = (self.mask & (self.value ^ M32)) | (mask & (value ^ M32))
        return self._bits(other, self.value & value, (self.mask & mask) | zeros)

    def __or__(self, other: Value) -> Value:
        if type(other) is bool or type(other) is Partial or is_flag(other):
            return True if other is True else self._flags(other, True)
        value, mask = _known_bits(other)
        ones = (self.mask & self.value) | (mask & value)
        return self._bits(other, self.value | value, (self.mask & mask) | ones)

    def __xor__(self, other: Value) -> Value:
        if type(other) is bool or type(other) is Partial or is_flag(other):
            return self.origin
        value, mask = _known_bits(other)
        return self._bits(other, self.value ^ value, self.mask & mask)

    def __mul__(self, other: Value) -> Value:
        return 0 if type(other) is int and other == 0 else self.origin

    __rand__, __ror__, __rxor__, __rmul__ = __and__, __or__, __xor__, __mul__


def _known_bits(value: Value) -> tuple[Value, Value]:
    return (value.value, value.mask) if type(value) is Unknown else (value, M64)


class Partial:
    """Values of which some threads' are unknown: `value` holds where `known` does."""

    __slots__ = ("cause", "known", "value")
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __init__(self, value: Value, known: np.ndarray, cause: Unknown) -> None:
        self.value, self.known, self.cause = value, known, cause

    def __bool__(self) -> bool:
        raise TypeError("the truth of a value that some threads do not know was asked for")


def _with(operation: Callable[[Value, Value], Value], swapped: bool) -> Callable[[Partial, Value], Value]:
    def apply(self: Partial, other: Value) -> Value:
        if type(other) is Unknown:
            joined = operation in (operator.and_, operator.or_) and self.value.dtype == bool
            return operation(other, self if joined else 0 if self.value.dtype != bool else True)
        known = self.known & other.known if type(other) is Partial else self.known
        mine, theirs = self.value, other.value if type(other) is Partial else other
        return Partial(operation(theirs, mine) if swapped else operation(mine, theirs), known, self.cause)
    return apply


for _name in ("add", "sub", "mul", "xor", "and_", "or_", "lshift", "rshift"):
    _plain = _name.rstrip("_")
    setattr(Partial, f"__{_plain}__", _with(getattr(operator, _name), False))
    setattr(Partial, f"__r{_plain}__", _with(getattr(operator, _name), True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Partial, f"__{_name}__", _with(getattr(operator, _name), False))

#: What a register holds that was not kept when groups joined, since nothing reads it: any value will do.
DEAD = Unknown("a register that was not kept")


def settled(value: Value, mask: Value = True) -> Value:
    """`value` with what is unknown only outside `mask` made plain; `Unknown` where a thread of the mask lacks it."""
    if type(value) is not Partial:
        return value
    wanted = mask if type(mask) is np.ndarray else np.full(len(value.known), mask is not False)
    return value.value if (value.known | ~wanted).all() else value.cause


def lifted(function: Callable[..., Value]) -> Callable[..., Value]:
    """The function, working on `Partial` arguments too."""
    @functools.wraps(function)
    def apply(*args: Value) -> Value:
        known, cause, plain = None, None, []
        for arg in args:
            if type(arg) is Partial:
                known, cause = arg.known if known is None else known & arg.known, arg.cause
                plain.append(arg.value)
            else:
                plain.append(arg)
        result = function(*plain)
        if known is None or type(result) is Unknown or cause is None:
            return result
        return Partial(result if type(result) is np.ndarray else np.full(len(known), result), known, cause)
    return apply


def select(condition: Value, yes: Value, no: Value) -> Value:
    """`yes` where the condition holds, else `no`."""
    if condition is True or yes is no:
        return yes
    if condition is False:
        return no
    if type(condition) is Unknown:
        return condition
    if no is DEAD:
        return yes
    if has_bits(yes) or has_bits(no):
        return _select_bits(condition, yes, no)
    if Unknown in (type(yes), type(no)) or Partial in (type(condition), type(yes), type(no)):
        return _select_partial(condition, yes, no)
    return np.where(condition, _as_array(yes), _as_array(no))


def is_flag(value: Value) -> bool:
    """Whether a value is a predicate's: a bool, or an array of them."""
    if type(value) is Partial:
        return is_flag(value.value)
    return type(value) is bool or (type(value) is np.ndarray and value.dtype.kind == "b")


def _as_array(value: Value) -> Value:
    return np.uint64(value) if type(value) is int else value


def has_bits(value: Value) -> bool:
    """Whether a value is unknown but for some bits."""
    return type(value) is Unknown and value.origin is not value


def _select_bits(condition: Value, yes: Value, no: Value) -> Value:
    cause = next(v for v in (yes, no) if has_bits(v))
    if type(condition) is Partial or Partial in (type(yes), type(no)):
        return cause.origin
    (one, one_mask), (two, two_mask) = (_known_bits(v) for v in (yes, no))
    value = np.where(condition, _as_array(one), _as_array(two))
    mask = np.where(condition, _as_array(one_mask & M32), _as_array(two_mask & M32))
    return cause._bits(None, value, mask)


def _select_partial(condition: Value, yes: Value, no: Value) -> Value:
    known = np.ones(len(condition.known if type(condition) is Partial else condition), dtype=bool)
    cause: Unknown | None = None
    if type(condition) is Partial:
        known, cause, condition = condition.known, condition.cause, condition.value
    flags = is_flag(yes) or is_flag(no)
    sides = []
    for side, here in ((yes, condition), (no, ~condition)):
        if type(side) is Unknown:
            known, cause = known & ~here, side
            sides.append(np.False_ if flags else np.uint64(0))
        elif type(side) is Partial:
            known, cause = known & (side.known | ~here), side.cause
            sides.append(side.value)
        else:
            sides.append(_as_array(side))
    result = np.where(condition, *sides)
    if cause is None or known.all():
        return result
    return Partial(result, known, cause) if known.any() else cause


@lifted
def as_number(flag: Value) -> Value:
    """A predicate as 0 or 1."""
    if type(flag) is bool:
        return int(flag)
    return flag if type(flag) is Unknown else flag.astype(np.uint64)


@lifted
def absolute(value: Value) -> Value:
    """|value| of a signed 32-bit number."""
    if type(value) is int:
        return value if value < SIGN else (1 << 32) - value
    return value if type(value) is Unknown else np.where(value < SIGN, value, (1 << 32) - value)


def lookup3(table: int, a: Value, b: Value, c: Value) -> Value:
    """LOP3: the bitwise function of three inputs with this truth table (0xF0, 0xCC, 0xAA stand for a, b and c)."""
    result: Value = 0
    for row in range(8):
        if table >> row & 1:
            term = a if row & 4 else a ^ M32
            term = term & (b if row & 2 else b ^ M32)
            result = result | (term & (c if row & 1 else c ^ M32))
    return result


def lookup3_flags(table: int, a: Value, b: Value, c: Value) -> Value:
    """PLOP3: the same of three predicates."""
    result: Value = False
    for row in range(8):
        if table >> row & 1:
            term = a if row & 4 else a ^ True
            term = term & (b if row & 2 else b ^ True)
            result = result | (term & (c if row & 1 else c ^ True))
    return result


@lifted
def clamp_shift(amount: Value, most: int) -> Value:
    """A shift amount, cut to `most`."""
    if type(amount) is int:
        return min(amount, most)
    return amount if type(amount) is Unknown else np.minimum(amount, np.uint64(most))


@lifted
def shift_left(value: Value, amount: Value) -> Value:
    """value << amount of 64 bits, for amounts up to 64."""
    if type(value) is Unknown or type(amount) is Unknown:
        return value if type(value) is Unknown else amount
    if type(amount) is int:
        return 0 if amount >= 64 else (value << amount) & M64
    shifted = (value if type(value) is not int else np.uint64(value)) << np.minimum(amount, np.uint64(63))
    return np.where(amount < 64, shifted, np.uint64(0))


@lifted
def shift_right(value: Value, amount: Value) -> Value:
    """value >> amount of 64 bits, logical, for amounts up to 64."""
    if type(value) is Unknown or type(amount) is Unknown:
        return value if type(value) is Unknown else amount
    if type(amount) is int:
        return 0 if amount >= 64 else value >> amount
    shifted = (value if type(value) is not int else np.uint64(value)) >> np.minimum(amount, np.uint64(63))
    return np.where(amount < 64, shifted, np.uint64(0))


def sign_extend(value: Value) -> Value:
    """A 32-bit number as two's complement of 64 bits."""
    return ((value ^ SIGN) + 0xFFFFFFFF80000000) & M64


def arithmetic_right(value: Value, amount: Value) -> Value:
    """value >> amount of a signed 32-bit number."""
    amount = clamp_shift(amount, 31)
    return shift_right(sign_extend(value), amount) & M32


@lifted
def arithmetic_right64(value: Value, amount: Value) -> Value:
    """value >> amount of a signed 64-bit number."""
    amount = clamp_shift(amount, 63)
    top = value >> 63
    fill = (shift_left(M64, 64 - amount) if type(amount) is int else (M64 ^ shift_right(M64, amount))) * top
    return shift_right(value, amount) | (fill & M64)


def minmax(smaller: Value, a: Value, b: Value, signed: bool) -> Value:
    """The smaller or the larger of two numbers."""
    flip = SIGN if signed else 0
    return select(((a ^ flip) < (b ^ flip)) ^ smaller, b, a)


@lifted
def permute_bytes(a: Value, selector: Value, c: Value) -> Value:
    """PRMT: four bytes picked from the eight of (c, a); bit 3 of a nibble replicates the byte's sign."""
    if type(selector) is not int:
        return selector if type(selector) is Unknown else Unknown("PRMT with a selector that differs by thread")
    result: Value = 0
    for place in range(4):
        nibble = selector >> 4 * place & 15
        byte = ((a if nibble & 7 < 4 else c) >> 8 * (nibble & 3)) & 0xFF
        if nibble & 8:
            byte = (byte >> 7) * 0xFF
        result = result | (byte << 8 * place)
    return result


@lifted
def leading_one(value: Value, signed: bool, distance: bool) -> Value:
    """FLO: number of the highest set bit (of the highest bit unlike the sign, if signed), all ones for none.

    With `distance`, how far it must be shifted left to reach bit 31.
    """
    if type(value) is Unknown:
        return value
    if signed:
        value = select(value >= SIGN, value ^ M32, value)
    if type(value) is int:
        place = value.bit_length() - 1
        return M32 if place < 0 else 31 - place if distance else place
    place = np.zeros_like(value)
    rest = value.copy()
    for step in (16, 8, 4, 2, 1):
        high = rest >> step > 0
        place = np.where(high, place + step, place)
        rest = np.where(high, rest >> step, rest)
    return np.where(value == 0, np.uint64(M32), 31 - place if distance else place)


@lifted
def count_ones(value: Value) -> Value:
    """POPC."""
    if type(value) is int:
        return value.bit_count()
    return value if type(value) is Unknown else np.bitwise_count(value).astype(np.uint64)


@lifted
def reverse_bits(value: Value) -> Value:
    """BREV."""
    for step, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)):
        value = ((value >> step) & mask) | ((value & mask) << step)
    return value & M32


@lifted
def sign_from(value: Value, bits: Value, signed: bool) -> Value:
    """SGXT: the lowest `bits` bits, sign- or zero-extended."""
    if type(bits) is not int:
        return bits if type(bits) is Unknown else Unknown("SGXT with a width that differs by thread")
    bits = min(bits, 32)
    kept = value & ((1 << bits) - 1)
    if not signed or not bits:
        return kept
    half = 1 << (bits - 1)
    return ((kept ^ half) + ((1 << 32) - half)) & M32


@lifted
def bit_mask(position: Value, width: Value) -> Value:
    """BMSK: `width` ones from `position` on."""
    ones = shift_left(1, clamp_shift(width, 32))
    return shift_left((ones + M64) & M64 if type(ones) is not Unknown else ones, clamp_shift(position, 32)) & M32


def half_pair(high: float, low: float) -> int:
    """Two float16 in one word, as HFMA2 builds constants."""
    raw = np.array([low, high], dtype=np.float16).view(np.uint16)
    return int(raw[1]) << 16 | int(raw[0])


@lifted
def to_float(value: Value, bits: int, signed: bool, upward: bool) -> Value:
    """I2F: bits of the float32 next to an integer, rounded to nearest or upward."""
    if type(value) is Unknown:
        return value
    many = np.atleast_1d(np.asarray(value, dtype=np.uint64))
    negative = (many >> np.uint64(bits - 1) == 1) if signed else np.zeros(many.shape, dtype=bool)
    size = np.where(negative, (~many + np.uint64(1)) & np.uint64(M32 if bits == 32 else M64), many)
    result = size.astype(np.float32)
    if upward:
        back = np.where(result >= 2.0**64, np.inf, result.astype(np.float64))
        low = np.where(np.isfinite(back), back, 0).astype(np.uint64) < size
        result = np.where(low & np.isfinite(back), np.nextafter(result, np.float32(np.inf)), result)
    raw = np.where(negative, -result, result).astype(np.float32).view(np.uint32).astype(np.uint64)
    return int(raw[0]) if type(value) is int else raw


@lifted
def reciprocal(value: Value) -> Value:
    """MUFU.RCP: bits of 1 / x of a float32, rounded to nearest (the hardware's last bit may differ)."""
    if type(value) is Unknown:
        return value
    many = np.atleast_1d(np.asarray(value, dtype=np.uint64)).astype(np.uint32).view(np.float32)
    with np.errstate(divide="ignore", over="ignore"):
        raw = (np.float32(1) / many).view(np.uint32).astype(np.uint64)
    return int(raw[0]) if type(value) is int else raw


@lifted
def to_integer(value: Value, bits: int, signed: bool) -> Value:
    """F2I with truncation: a float32 as an integer of `bits` bits, clamped."""
    if type(value) is Unknown:
        return value
    many = np.atleast_1d(np.asarray(value, dtype=np.uint64)).astype(np.uint32).view(np.float32).astype(np.float64)
    low, high = (-2.0**(bits - 1), 2.0**(bits - 1)) if signed else (0.0, 2.0**bits)
    whole = np.trunc(np.nan_to_num(many, nan=0.0, posinf=high, neginf=low))
    top = np.uint64((1 << (bits - signed)) - 1)
    inside = np.clip(whole, low, np.nextafter(high, 0))
    raw = np.where(inside < 0, (~np.abs(inside).astype(np.uint64) + np.uint64(1)), np.maximum(inside, 0).astype(np.uint64))
    raw = np.where(whole >= high, top, raw) & np.uint64(M32 if bits == 32 else M64)
    return int(raw[0]) if type(value) is int else raw


def from_bytes(parts: list[np.ndarray], signed: bool) -> np.ndarray:
    """One to four bytes a thread, lowest first, as 32-bit words, sign-extended if asked."""
    raw = np.zeros(len(parts[0]), dtype=np.uint64)
    for number, part in enumerate(parts):
        raw |= part.astype(np.uint64) << np.uint64(8 * number)
    if signed:
        half = np.uint64(1 << (8 * len(parts) - 1))
        raw = ((raw ^ half) - half) & np.uint64(M32)
    return raw


def mixed(name: str, *operands: Value) -> Unknown:
    """The result of an operation that is not evaluated: unknown, for the reason of its first unknown operand."""
    for operand in operands:
        if type(operand) is Unknown:
            return operand
        if type(operand) is Partial:
            return operand.cause
    return Unknown(f"the result of {name}")
