"""Functions as machine code give what they give as Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="needs llvmlite (the extra `fast`)")

from presilicon import native
from presilicon.native import Native
from presilicon.native.kinds import FLOAT, UntranslatableError

TABLE = np.array([3, 1, 4, 1, 5], np.int32)
HALF = np.float32(0.5)
MIXED = np.uint64(0x9E3779B97F4A7C15)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESILICON_CACHE", str(tmp_path))


def integers(a, b):  # type: ignore[no-untyped-def]
    """Signed operations, quotients rounded down included."""
    whole = a // b
    rest = a % b
    return a + b, a - b, a * b, whole, rest, a & b, a | b, a ^ b, a << (b & 7), a >> (b & 7), ~a, -a, abs(a), min(a, b), max(a, b, 0), a < b


def unsigned(a, b):  # type: ignore[no-untyped-def]
    """Unsigned operations, which wrap around."""
    return a * MIXED, a >> np.uint64(5), a // b, a % b, a < b, np.int64(a), np.uint64(np.int64(b)), np.uint8(a), np.uint32(b)


def reals(a, b):  # type: ignore[no-untyped-def]
    """Floats; single precision where it is asked for."""
    half = np.float32(a) / np.float32(2)
    return a + b, a / b, np.ceil(a), np.trunc(a), np.sqrt(abs(a)), round(b), int(a), half, a > b, min(a, b), max(a, 1), float(3), a**b


def flow(values, found):  # type: ignore[no-untyped-def]
    """Loops, ways out of them, conditions that guard what follows."""
    total = 0
    mean = 0
    for k in range(values.shape[0]):
        if values[k] < 0:
            continue
        if k + 1 < values.shape[0] and values[k + 1] == 99:
            break
        found[k, 0], found[k, 1] = values[k], TABLE[k % 5] if k else -1
        total += values[k]
    for k in range(9, 0, -3):
        total += k
    left = total
    while True:
        left = left // 2
        if left in (0, 1) or not left > 2:
            break
    room = np.full((3, 2), 7, np.int16)
    room[1, 0] = 1
    room[2, :] = 2
    part, twice = pair(room, 2)
    mean = total / 2
    found[0, :] = 11
    return total, left, mean, part, twice, 0 < total <= 1000


def pair(room, times):  # type: ignore[no-untyped-def]
    """What another function gives."""
    whole = 0
    for i in range(room.shape[0]):
        for j in range(room.shape[1]):
            whole += room[i, j]
    return whole, whole * times


def narrow(bytes_, words, flags, single):  # type: ignore[no-untyped-def]
    """What is narrower is widened when it is read, and cut when it is written."""
    words[0] = np.uint64(bytes_[0]) + np.uint64(300)
    bytes_[1] = np.uint64(511)
    flags[1] = not flags[0]
    single[0] = single[1] / 3.0
    return bytes_[0], single[0]


@pytest.mark.parametrize(("a", "b"), [(17, 5), (-17, 5), (17, -5), (-17, -5), (0, 3), (2**40, 12345), (-(2**40), 7)])
def test_integers(a: int, b: int) -> None:
    assert Native(integers)(a, b) == integers(a, b)


@pytest.mark.parametrize(("a", "b"), [(17, 5), (2**64 - 3, 2**63 + 9), (1, 2**64 - 1)])
def test_unsigned_integers(a: int, b: int) -> None:
    with np.errstate(over="ignore"):
        expected = [int(x) for x in unsigned(np.uint64(a), np.uint64(b))[:7]]
    found = [x if n in (4, 5) else x % 2**64 for n, x in enumerate(Native(unsigned)(np.uint64(a), np.uint64(b)))]
    expected[5] = a - 2**64 if a >> 63 else a
    assert found == [*expected, a % 256, b % 2**32]


@pytest.mark.parametrize(("a", "b"), [(2.5, 0.5), (0.1, 3.5), (7.75, -1.25)])
def test_reals(a: float, b: float) -> None:
    assert Native(reals)(a, b) == tuple(float(x) if isinstance(x, np.floating) else x for x in reals(a, b))


def test_control() -> None:
    values = np.array([5, -2, 7, 12, 99, 3])
    one, other = np.zeros((6, 2), np.int64), np.zeros((6, 2), np.int64)
    assert Native(flow)(values, one) == flow(values, other)
    assert np.array_equal(one, other)
    assert other[2].tolist() == [7, 4]


def test_narrow_elements() -> None:
    given = [np.array([200, 0], np.uint8), np.zeros(1, np.uint32), np.array([True, True]), np.array([0.0, 1.0], np.float32)]
    copies = [part.copy() for part in given]
    found = Native(narrow)(*given)
    assert found == (200, float(np.float32(1 / 3)))
    assert [part.tolist() for part in given] == [[200, 255], [500], [True, False], [float(np.float32(1 / 3)), 1.0]]
    copies[0][1] = 255  # NumPy refuses 511
    assert copies[0].tolist() == given[0].tolist()


def test_what_was_compiled_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Native(pair)(np.ones((2, 2), np.int16), 3) == (4, 12)
    kept = list((tmp_path / "native").glob("pair-*.o"))
    assert len(kept) == 1
    monkeypatch.setattr(native, "Module", None)
    assert Native(pair)(np.ones((2, 3), np.int16), 3) == (6, 18)
    with pytest.raises(TypeError):
        Native(pair)(np.ones((2, 3), np.int32), 3)


def test_plain_code_is_optimised_once_it_has_run_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PLAIN_S", 1e-12)
    values, found = np.array([5, -2, 7, 12, 99, 3]), np.zeros((6, 2), np.int64)
    function = Native(flow)
    first = function(values, found)
    native._wait()
    assert not any(isinstance(code, native._Plain) for code in function.code.values())
    other = np.zeros((6, 2), np.int64)
    assert (function(values, other), other.tolist()) == (first, found.tolist())
    assert sorted(path.name.endswith("-plain.o") for path in (tmp_path / "native").glob("flow-*.o")) == [False, True]
    assert not isinstance(next(iter(_called(Native(flow), values, other).code.values())), native._Plain)


def _called(function: Native, *arguments: Any) -> Native:
    function(*arguments)
    return function


@pytest.mark.parametrize("optimised", [False, True])
def test_both_kinds_of_code_round_alike(optimised: bool) -> None:
    function = Native(reals, usual={FLOAT: "a b"})
    function.ahead(optimised=optimised)
    for a, b in [(0.1, 0.3), (1 / 3, 7.0), (2.0**53 + 2, 1.5)]:
        assert function(a, b) == tuple(float(x) if isinstance(x, np.floating) else x for x in reals(a, b))


def test_damage_and_other_constants_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, found = np.array([1, 2]), np.zeros((2, 2), np.int64)
    Native(flow)(values, found)
    assert found[1, 1] == 1
    kept = next((tmp_path / "native").glob("flow-*.o"))
    kept.write_bytes(kept.read_bytes()[:-1])
    Native(flow)(values, found)
    monkeypatch.setitem(globals(), "TABLE", TABLE + 5)
    Native(flow)(values, found)
    assert found[1, 1] == 6


def mixes(a, b):  # type: ignore[no-untyped-def]
    """Signed and unsigned."""
    return a + b


def lists(a):  # type: ignore[no-untyped-def]
    """No number."""
    b = [a]
    return b[0]


@pytest.mark.parametrize(("function", "arguments", "what"), [
    (mixes, (1, np.uint64(2)), "mixes, line .*: signed meets unsigned"), (lists, (1,), r"lists, line .*: \[a\] cannot be compiled"),
    (mixes, (np.zeros((4, 4))[:, :2], 1), "not in C order"), (mixes, ("a", 1), "str is neither")])
def test_what_cannot_be_compiled_is_said(function: Any, arguments: tuple[Any, ...], what: str) -> None:
    with pytest.raises(UntranslatableError, match=what):
        Native(function)(*arguments)


def test_arrays_of_other_kinds_are_told_apart() -> None:
    function, numbers = Native(pair), np.arange(6)
    for element in (np.int16, np.int32, np.float64, np.int16):
        assert function(numbers.reshape(2, 3).astype(element), 2) == (15, 30)
    for other, what in ((numbers.reshape(3, 2).T, "not in C order"), (numbers.reshape(2, 3).astype(complex), "c16")):
        with pytest.raises(UntranslatableError, match=what):
            function(other, 2)
    assert function(numbers.reshape(3, 2).astype(np.int16), 2) == (15, 30)


def test_without_llvm_it_is_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_processor", lambda: None)
    assert not native.available()
    assert Native(lists)(3) == 3
