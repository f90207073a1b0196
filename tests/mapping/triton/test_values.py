"""What single instructions do, against Python's own integers; the same for one value and for an array of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presilicon.mapping.triton import parse_listing
from presilicon.mapping.triton.lines import lines_of
from presilicon.mapping.triton.sass import PREDICATE, REGISTER_COUNT
from presilicon.mapping.triton.semantics import NAMESPACE
from presilicon.mapping.triton.values import Partial, Unknown, select

M = 2**32
WORDS = st.one_of(st.integers(0, M - 1), st.sampled_from([0, 1, 2, 31, 32, 33, M - 1, M // 2, M // 2 - 1, 0x80000001]))


def _signed(value: int, bits: int = 32) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _run(line: str, registers: dict[int, Any], array: bool) -> list[Any]:
    """Registers behind one instruction; with `array`, every input as an array of one."""
    text = f".text.k:\n        /*0000*/     {line} ;   /* 0x0000000000000000 */\n   /* 0x000fe20000000f00 */"
    (ins,) = parse_listing(text).instructions
    state: list[Any] = [0] * PREDICATE + [False] * (REGISTER_COUNT - PREDICATE)
    for number, value in registers.items():
        state[number] = np.array([value], dtype=bool if number >= PREDICATE else np.uint64) if array else value
    space = {**NAMESPACE, "R": state, "K": {}, "X": None, "g": None}
    exec("\n".join(lines_of(ins)), space)
    return [v if type(v) in (int, bool, Unknown) else v[0].item() if isinstance(v, np.ndarray) else v for v in state]


CASES = [
    ("IADD3 R0, P0, R1, R2, R3", lambda a, b, c: (a + b + c) % M, lambda a, b, c: a + b + c >= M),
    ("IADD3 R0, P0, R1, -R2, RZ", lambda a, b, c: (a - b) % M, lambda a, b, c: a >= b),
    ("IMAD R0, R1, R2, R3", lambda a, b, c: (a * b + c) % M, None),
    ("IMAD R0, R1, -R2, R3", lambda a, b, c: (c - a * b) % M, None),
    ("IMAD.HI R0, R1, R2, RZ", lambda a, b, c: (_signed(a) * _signed(b) >> 32) % M, None),
    ("IMAD.HI.U32 R0, R1, R2, RZ", lambda a, b, c: a * b >> 32, None),
    ("LEA R0, P0, R1, R2, 0x3", lambda a, b, c: ((a << 3) + b) % M, lambda a, b, c: ((a << 3) % M + b) >= M),
    ("LEA.HI R0, R1, R2, R3, 0x5", lambda a, b, c: (((c << 32 | a) << 5 >> 32) + b) % M, None),
    ("LEA.HI.SX32 R0, R1, R2, 0x19", lambda a, b, c: ((_signed(a) >> 7) + b) % M, None),
    ("SHF.R.S32.HI R0, RZ, R2, R1", lambda a, b, c: (_signed(a) >> min(b, 31)) % M, None),
    ("SHF.R.U32.HI R0, RZ, R2, R1", lambda a, b, c: a >> min(b, 32), None),
    ("SHF.L.U32 R0, R1, R2, RZ", lambda a, b, c: (a << min(b, 32)) % M, None),
    ("SHF.L.U64.HI R0, R1, 0x7, R3", lambda a, b, c: ((c << 32 | a) << 7 >> 32) % M, None),
    ("SHF.R.U64 R0, R1, 0x9, R3", lambda a, b, c: ((c << 32 | a) >> 9) % M, None),
    ("SHF.R.W.U32 R0, R1, R2, R3", lambda a, b, c: ((c << 32 | a) >> (b & 31)) % M, None),
    ("SHF.L.W.U32.HI R0, R1, R2, R3", lambda a, b, c: ((c << 32 | a) << (b & 31) >> 32) % M, None),
    ("LOP3.LUT P0, R0, R1, R2, R3, 0x96, !PT", lambda a, b, c: a ^ b ^ c, lambda a, b, c: a ^ b ^ c != 0),
    ("LOP3.LUT R0, R1, R2, R3, 0xd8, !PT", lambda a, b, c: sum(1 << i for i in range(32) if 0xD8 >> (
        (a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1), None),
    ("ISETP.LT.AND P0, PT, R1, R2, PT", None, lambda a, b, c: _signed(a) < _signed(b)),
    ("ISETP.GE.U32.AND P0, PT, R1, R2, PT", None, lambda a, b, c: a >= b),
    ("VIMNMX R0, R1, R2, PT", lambda a, b, c: min(_signed(a), _signed(b)) % M, None),
    ("VIMNMX.RELU R0, R1, R2, PT", lambda a, b, c: max(min(_signed(a), _signed(b)), 0), None),
    ("VIMNMX.U32 R0, R1, R2, !PT", lambda a, b, c: max(a, b), None),
    ("IABS R0, R1", lambda a, b, c: abs(_signed(a)) % M, None),
    ("SGXT R0, R1, 0x5", lambda a, b, c: _signed(a & 31, 5) % M, None),
    ("SGXT.U32 R0, R1, 0x5", lambda a, b, c: a & 31, None),
    ("BMSK R0, 0x3, 0x4", lambda a, b, c: 0x78, None),
    ("POPC R0, R1", lambda a, b, c: a.bit_count(), None),
    ("FLO.U32 R0, R1", lambda a, b, c: (a.bit_length() - 1) % M, None),
    ("BREV R0, R1", lambda a, b, c: int(f"{a:032b}"[::-1], 2), None),
    ("PRMT R0, R1, 0x5410, R3", lambda a, b, c: (a & 0xFFFF) | (c & 0xFFFF) << 16, None),
    ("PRMT R0, R1, 0x8880, R3", lambda a, b, c: (a & 0xFF) | (0xFFFFFF00 if a >> 7 & 1 else 0), None),
]


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("case", CASES, ids=[line for line, _, _ in CASES])
@settings(max_examples=60, deadline=None)
@given(a=WORDS, b=WORDS, c=WORDS)
def test_instruction(case: tuple[str, Any, Any], array: bool, a: int, b: int, c: int) -> None:
    line, value, flag = case
    state = _run(line, {1: a, 2: b, 3: c}, array)
    if value is not None:
        assert state[0] == value(a, b, c)
    if flag is not None:
        assert state[PREDICATE] == flag(a, b, c)


@pytest.mark.parametrize("array", [False, True])
@settings(max_examples=100, deadline=None)
@given(a=WORDS, b=WORDS, low=WORDS, high=WORDS)
def test_wide_products_and_carry_chains(array: bool, a: int, b: int, low: int, high: int) -> None:
    state = _run("IMAD.WIDE R4, R1, R2, R6", {1: a, 2: b, 6: low, 7: high}, array)
    wide = (_signed(a) * _signed(b) + (high << 32 | low)) % 2**64
    assert (state[4], state[5]) == (wide % M, wide >> 32)
    state = _run("IMAD.HI.U32 R0, P2, R1, R2, R6", {1: a, 2: b, 6: low, 7: high, PREDICATE + 2: low > high}, array)
    whole = a * b + (high << 32 | low)
    assert (state[0], state[PREDICATE + 2]) == ((whole >> 32) % M, whole >= 2**64)
    state = _run("IMAD.WIDE.U32.X R4, P1, R1, R2, R6, P0", {1: a, 2: b, 6: low, 7: high, PREDICATE: a > b}, array)
    assert (state[4] | state[5] << 32, state[PREDICATE + 1]) == ((whole + (a > b)) % 2**64, whole + (a > b) >= 2**64)
    state = _run("IADD3.X R0, R1, R2, RZ, P0, !PT", {1: a, 2: b, PREDICATE: True}, array)
    assert state[0] == (a + b + 1) % M
    state = _run("ISETP.LT.AND.EX P1, PT, R1, R2, PT, P0", {1: a, 2: b, PREDICATE: low < high}, array)
    assert state[PREDICATE + 1] == ((_signed(a) << 32 | low) < (_signed(b) << 32 | high) if a == b else _signed(a) < _signed(b))


@pytest.mark.slow
@pytest.mark.parametrize("array", [False, True])
@settings(max_examples=200, deadline=None)
@given(n=WORDS, d=st.one_of(st.integers(1, 1000), st.integers(1, M - 1)))
def test_the_compilers_unsigned_division_is_exact(array: bool, n: int, d: int) -> None:
    """I2F.RP, MUFU.RCP, F2I and two corrections, as ptxas emits them."""
    registers: dict[int, Any] = {1: n, 2: d}
    for line in ("I2F.U32.RP R3, R2", "MUFU.RCP R3, R3", "VIADD R4, R3, 0xffffffe", "F2I.FTZ.U32.TRUNC.NTZ R5, R4",
                 "IMAD.MOV.U32 R4, RZ, RZ, RZ", "IMAD.MOV R6, RZ, RZ, -R5", "IMAD R7, R6, R2, RZ", "IMAD.HI.U32 R5, R5, R7, R4",
                 "IMAD.HI.U32 R5, R5, R1, RZ", "IMAD.MOV R6, RZ, RZ, -R5", "IMAD R6, R6, R2, R1",
                 "ISETP.GE.U32.AND P0, PT, R6, R2, PT", "@P0 IMAD.IADD R6, R6, 0x1, -R2", "@P0 VIADD R5, R5, 0x1",
                 "ISETP.GE.U32.AND P1, PT, R6, R2, PT", "@P1 VIADD R5, R5, 0x1"):
        registers = dict(enumerate(_run(line, registers, array)))
    assert registers[5] == n // d


def test_unknown_spreads_and_stops_where_it_does_not_matter() -> None:
    data = Unknown("a load")
    assert _run("IADD3 R0, R1, R2, RZ", {1: data}, False)[0] is data
    assert _run("LOP3.LUT R0, R1, R2, RZ, 0xc0, !PT", {1: data, 2: 0}, False)[0] == 0
    assert _run("ISETP.GE.AND P0, PT, R1, R2, P1", {1: data}, False)[PREDICATE] is False
    made = _run("MUFU.EX2 R0, R1", {1: 5}, False)[0]
    assert type(made) is Unknown
    assert "MUFU.EX2" in made.cause
    with pytest.raises(TypeError):
        bool(data)


def test_threads_that_know_keep_what_they_know() -> None:
    mask, values, data = np.array([True, False, True]), np.array([1, 2, 3], dtype=np.uint64), Unknown("a load")
    mixed = select(mask, values, data)
    assert type(mixed) is Partial
    assert mixed.known.tolist() == [True, False, True]
    assert (mixed + 1).value[mask].tolist() == [2, 4]
    again = select(~mask, 7, mixed)
    assert isinstance(again, np.ndarray)
    assert again.tolist() == [1, 7, 3]
    assert select(mask, data, data) is data


def test_a_flag_that_decides_alone_is_known_beside_data() -> None:
    """``tid == 0 and data``: all other threads know that it is false."""
    first, data = np.array([True, False, False]), Unknown("a load")
    both = data & first
    assert type(both) is Partial
    assert both.known.tolist() == [False, True, True]
    assert both.value[both.known].tolist() == [False, False]
    either = first | data
    assert either.known.tolist() == [True, False, False]
    assert either.value[0]
    assert (data & both).known.tolist() == (both & data).known.tolist() == [False, True, True]
    assert (data & ~(first | True)).tolist() == [False] * 3, "known all over"
    assert (data | ~first & False) is data, "known nowhere"
    assert (data & Partial(first, np.array([True, True, False]), data)).known.tolist() == [False, True, False]
