"""Decisions of the user where only data could tell: what a tensor holds, which condition holds, how many trips a loop makes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ...errors import KernelError, UnknownNameError, shown

_NAME: Final = re.compile(r"^(?:line )?(\d+)( at 0x[0-9a-f]+)?$|^(.+\.py):(\d+)$")
_WHERE: Final = re.compile(r"^(.*):(\d+): (?:loop|branch) depends on ")
_ARGUMENT: Final = re.compile(r"^[A-Za-z_]\w*$")
#: Bytes of a tensor that is filled with one value, at most.
_MOST_BYTES: Final = 2**30
_FORM: Final = ('the name of an argument with the integer that its tensor holds, or "line 34" (or 34, "file.py:34") with true or false for '
                "the condition there, or the trips of the loop there")
_WORDS: Final = {"true": True, "yes": True, "false": False, "no": False}


def decisions(given: Mapping[Any, Any] | None) -> dict[str, int | bool]:
    """Decisions with their names as `assumptions.Assumption` has them.

    Parameters
    ----------
    given
        By argument of the kernel, ``"lengths_ptr"``: the integer that every element of its tensor is. By source line, ``34``,
        ``"line 34"``, ``"line 34 at 0x320"`` (one instruction of the line) or ``"file.py:34"``: whether the condition there holds, or how
        many trips the loop there makes (as it stands in machine code: the compiler may have unrolled it).

    Raises
    ------
    KernelError
        A name or a value of another form.

    Examples
    --------
    >>> decisions({"lengths_ptr": 1024, 34: 17, "36": True})
    {'lengths_ptr': 1024, 'line 34': 17, 'line 36': True}
    """
    made: dict[str, int | bool] = {}
    for name, value in (given or {}).items():
        if _ARGUMENT.match(str(name)) and isinstance(value, int):
            made[str(name)] = int(value)
            continue
        match = _NAME.match(str(name))
        if not match or not isinstance(value, int) or value < 0:
            raise KernelError(f"assume: {shown(name)}: {shown(value)}: expected {_FORM}")
        made[f"{match[3]}:{match[4]}" if match[3] else f"line {int(match[1])}{match[2] or ''}"] = value
    return made


def parse_decisions(texts: Iterable[str]) -> dict[str, int | bool]:
    """Decisions from texts such as ``"34=17"``.

    Raises
    ------
    KernelError
        A text of another form, or a name that stands twice.

    Examples
    --------
    >>> parse_decisions(["34=17", "moe.py:36=true"])
    {'line 34': 17, 'moe.py:36': True}
    """
    made: dict[str, int | bool] = {}
    for text in texts:
        name, sign, value = text.rpartition("=")
        plain = value.strip().lower()
        if not sign or not (plain in _WORDS or plain.removeprefix("-").isdecimal()):
            raise KernelError(f"--assume {text}: expected ARGUMENT=INTEGER, LINE=true, LINE=false or LINE=TRIPS")
        fresh = decisions({name.strip(): _WORDS[plain] if plain in _WORDS else int(plain)})
        if fresh.keys() & made.keys():
            raise KernelError(f"--assume {text}: {name} stands twice")
        made |= fresh
    return made


def split(given: Mapping[str, int | bool]) -> tuple[dict[str, int], dict[str, int | bool]]:
    """Decisions about arguments, and those about lines."""
    values = {name: int(value) for name, value in given.items() if _ARGUMENT.match(name)}
    return values, {name: value for name, value in given.items() if name not in values}


def filled(tensor: Any, value: int, where: str) -> Any:
    """A tensor on the CPU, laid out like `tensor`, that holds one value.

    Raises
    ------
    KernelError
        No integer tensor, a value that it cannot hold, or a tensor of more than 1 GiB.
    """
    kind = getattr(tensor, "dtype", None)
    if not hasattr(tensor, "new_full") or kind is None or kind.is_floating_point or kind.is_complex:
        found = f"a tensor of {kind}" if kind is not None else shown(tensor)
        raise KernelError(f"{where}: assume: {value} was given for {found}; only tensors of integers decide what a kernel does")
    if tensor.numel() * tensor.element_size() > _MOST_BYTES:
        raise KernelError(f"{where}: assume: a tensor of {tensor.numel()} elements is too large to be filled with {value}")
    width, signed = 8 * tensor.element_size(), getattr(kind, "is_signed", True)
    low, high = (0, 1) if str(kind) == "torch.bool" else (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)
    if not low <= value <= high:
        raise KernelError(f"{where}: assume: {value} does not fit {str(kind).removeprefix('torch.')}")
    return tensor.new_full(tensor.shape, value, device="cpu")


def unused(given: Iterable[str], assumptions: Iterable[str]) -> set[str]:
    """Lines that none of the assumptions, as text, answers to."""
    made = set()
    for file, line in _places(assumptions):
        made |= {f"line {line}", f"{file}:{line}"}
    return {name for name in given if name.split(" at ")[0] not in made and not any(f.endswith(f"/{name}") for f in made)}


def check_used(given: Mapping[str, int | bool], assumptions: Iterable[str]) -> None:
    """Raise for decisions about what data does not decide.

    Raises
    ------
    UnknownNameError
        It names those that could be decided.
    """
    assumptions = list(assumptions)
    left = sorted(unused(given, assumptions))
    if left:
        raise UnknownNameError("assumption", left[0], {f"line {line}" for _, line in _places(assumptions)},
                               "assume: where data decides a loop or a branch")


def check_arguments(given: Iterable[str], names: Iterable[str]) -> None:
    """Raise for decisions about arguments that are not there.

    Raises
    ------
    UnknownNameError
        It names the nearest.
    """
    names = set(names)
    for name in sorted(set(given) - names):
        raise UnknownNameError("argument", name, names, "assume")


def _places(assumptions: Iterable[str]) -> list[tuple[str, str]]:
    return [(match[1], match[2]) for match in map(_WHERE.match, assumptions) if match]
