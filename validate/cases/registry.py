"""The functions that a case may name: measures, which compute a claim's quantity, and builders, which make workloads.

Each is a plain Python function with annotated parameters; the annotations say how YAML gives them (`Parameter`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

from ...arch import AnySystem, System
from ...errors import CaseError, UnknownNameError
from ...workloads import NumberFormat, OpGraph

Role = Literal["graph", "system", "format", "quantity", "quantities", "count", "counts", "text", "flag", "shapes"]
_ROLES: Final[dict[Any, Role]] = {
    OpGraph: "graph",
    AnySystem: "system",
    System: "system",
    NumberFormat: "format",
    float: "quantity",
    int: "count",
    list[int]: "counts",
    list[float]: "quantities",
    list[list[int]]: "shapes",
    str: "text",
    bool: "flag",
}
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Parameter:
    """One parameter of a measure or builder.

    Attributes
    ----------
    role
        ``graph``: the name of a workload of the case. ``system``: the name of one of its systems. ``format``: a number
        format. ``quantity``: a number, or a text with a unit. ``quantities``: a list of them. ``count``, ``counts``,
        ``shapes``: a whole number above 0, a list of them, a list of lists. ``text``, ``flag``: words, true or false.
    unit
        Base unit of a quantity.
    required
        Whether there is no default.
    gpu
        Whether a system must be a GPU.
    """

    name: str
    role: Role
    unit: str = "1"
    required: bool = True
    gpu: bool = False


@dataclass(frozen=True)
class Entry:
    """A registered function.

    Attributes
    ----------
    unit
        Base unit of what a measure returns (``""`` for builders).
    """

    name: str
    function: Callable[..., Any]
    unit: str
    parameters: tuple[Parameter, ...]

    @property
    def summary(self) -> str:
        """First line of its docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]


def unknown(what: str, name: object, known: Iterable[str], where: str) -> CaseError:
    """The error for a name that does not exist: where it stands, and the nearest names that do."""
    return CaseError(str(UnknownNameError(what, str(name), known, where=where)))


class Registry:
    """Functions by name; a second one of the same name is refused."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, Entry] = {}

    def add(self, unit: str = "") -> Callable[[F], F]:
        """Decorator that registers a function under its own name, with the unit of its result."""

        def register(function: F) -> F:
            name = function.__name__
            if name in self._entries:
                raise ValueError(f"two {self.what}s are named {name!r}")
            if not inspect.getdoc(function):
                raise ValueError(f"{self.what} {name!r} has no docstring; it states the formula and its source")
            self._entries[name] = Entry(name, function, unit, _parameters(function))
            return function

        return register

    def get(self, name: str, where: str) -> Entry:
        """The entry of a name; CaseError with the nearest ones otherwise."""
        if name not in self._entries:
            raise unknown(self.what, name, self._entries, where)
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))


def _parameters(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    found = []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        annotation, unit = parameter.annotation, "1"
        if get_origin(annotation) is Annotated:
            annotation, unit = get_args(annotation)
        if annotation not in _ROLES:
            raise TypeError(
                f"{function.__name__}: parameter {name!r} is annotated {annotation!r}; "
                f"allowed: {', '.join(map(str, _ROLES))}"
            )
        found.append(Parameter(name, _ROLES[annotation], unit, parameter.default is inspect.Parameter.empty, annotation is System))
    return tuple(found)


measures: Final = Registry("measure")
builders: Final = Registry("workload kind")
