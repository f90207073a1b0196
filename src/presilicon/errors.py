"""Every exception that presilicon raises on purpose; the command line turns each into exit status 2 and one line (what
Triton says of a kernel: its lines)."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxstring, _REPR.maxother = 3, 4, 80, 80


def shown(value: object) -> str:
    """`value` as an error message shows it: its repr, cut short however large or deep it is.

    >>> shown({"a": [1, 2, 3, 4, 5]})
    "{'a': [1, 2, 3, 4, ...]}"
    """
    try:
        return _REPR.repr(value)
    except ValueError:
        return "a number of thousands of digits"


class PresiliconError(Exception):
    """Base of all errors that a user can cause; the message names the place, what was found and what is allowed."""


class SpecError(PresiliconError):
    """A device file or an override is wrong."""


class UnitError(SpecError, ValueError):
    """A quantity has no, or the wrong, unit."""


class GraphError(PresiliconError):
    """A graph file is cut short, of another version, cyclic, or inconsistent."""


class TraceError(PresiliconError):
    """A model could not be built or traced."""


class MissingPackageError(TraceError):
    """Tracing needs a package that is not installed."""


class WorkloadError(PresiliconError):
    """A workload cannot be what is asked of it: split that way over devices, or made of those requests."""


class UncoveredOpError(TraceError):
    """Strict mode: the graph holds ops without a formula."""


class TableError(PresiliconError):
    """An op table has missing columns or bad values."""


class CalibrationError(PresiliconError):
    """A calibration has too little data or nothing to fit."""


class CaseError(PresiliconError):
    """A published-result case file is wrong."""


class OutputError(PresiliconError):
    """A file cannot be written where the user wants it."""


class MappingError(PresiliconError):
    """An op cannot be mapped onto a device."""


class KernelError(PresiliconError):
    """A Triton kernel cannot be bound to its arguments, compiled, or followed through its control flow."""


def _nearest(name: str, known: list[str]) -> list[str]:
    """Up to three names that start as the wrong one, or else those that are alike; capitals do not count."""
    folded = {other.casefold(): other for other in known}
    key = name.casefold()
    starting = [other for other in folded if key and other.startswith(key)][:3]
    return [folded[other] for other in starting or difflib.get_close_matches(key, folded, n=3, cutoff=0.5)]


class UnknownNameError(PresiliconError):
    """A name that does not exist, with the nearest ones that do."""

    def __init__(self, what: str, name: str, known: Iterable[str], where: str = "") -> None:
        known = sorted(set(known))
        self._given = (what, name, known, where)
        near = _nearest(name, known)
        hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        if not near:
            shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            hint = f"; known: {shown}" if known else ""
        place = f"{where}: " if where else ""
        super().__init__(f"{place}unknown {what} {name!r}{hint}")
        self.name = name
        self.nearest = near

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str], str]]:
        return type(self), self._given
