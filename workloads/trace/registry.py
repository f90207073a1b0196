"""The table from ATen operators to formulas.

One decorated function per operator turns a traced call into ops::

    @formula("aten.linear")
    def linear(call): ...

Keys are names (``"aten.linear"`` for every overload, ``"aten.add.Tensor"`` for one), so that reading the table needs no
torch. A formula returns one `Draft`, several, or None for an operator that costs nothing on the device.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final

from .values import Call, Draft

Formula = Callable[[Call], "Draft | Sequence[Draft] | None"]

_FORMULAS: Final[dict[str, Formula]] = {}
_FAMILIES: Final = (
    "matmul",
    "einsum",
    "conv",
    "attention",
    "norm",
    "elementwise",
    "movement",
    "indexing",
    "reduce",
    "scan",
    "state_space",
    "control",
    "backward",
)
_loaded: list[str] = []


def words(text: str) -> list[str]:
    """Names written with spaces between them."""
    return text.split()


def formula(*targets: object) -> Callable[[Formula], Formula]:
    """Register a function as the formula of operators, given as torch objects or named by strings.

    A string may hold several names with spaces between.

    Raises
    ------
    ValueError
        An operator has a formula already.

    Examples
    --------
    >>> @formula("my_lib.fused_op")
    ... def fused_op(call):
    ...     return None
    >>> forget("my_lib.fused_op")
    """
    names = [name for t in targets for name in (t.split() if isinstance(t, str) else [operator_name(t)])]

    def register(function: Formula) -> Formula:
        for name in names:
            if name in _FORMULAS:
                raise ValueError(
                    f"operator {name!r} has a formula already: {_FORMULAS[name].__module__}.{_FORMULAS[name].__name__}"
                )
            _FORMULAS[name] = function
        return function

    return register


def forget(*names: str) -> None:
    """Take formulas out of the table; unknown names raise KeyError."""
    for name in names:
        del _FORMULAS[name]


def operator_name(target: object) -> str:
    """``torch.ops.aten.add.Tensor`` or ``torch.ops.aten.add`` as ``"aten.add.Tensor"`` or ``"aten.add"``."""
    name = getattr(target, "_qualified_op_name", None) or getattr(target, "name", None)
    text = str(name() if callable(name) else name if name is not None else target)
    return text.replace("::", ".")


def lookup(call: Call) -> Formula | None:
    """The formula of a call: by overload first, then by operator."""
    load()
    return _FORMULAS.get(call.target) or _FORMULAS.get(call.packet)


def has_formula(target: str, packet: str) -> bool:
    """Whether the operator is in the table."""
    load()
    return target in _FORMULAS or packet in _FORMULAS


def nearest(packet: str) -> list[str]:
    """Operators of similar name that have a formula."""
    load()
    return difflib.get_close_matches(packet, list(_FORMULAS), n=3, cutoff=0.6)


def covered() -> list[str]:
    """All operators that have a formula, sorted."""
    load()
    return sorted(_FORMULAS)


def load() -> None:
    """Import the formula families once."""
    if not _loaded:
        _loaded.append("done")
        for family in _FAMILIES:
            import_module(f".{family}", __package__)
