"""Conditions and constraints: comparisons and arithmetic over named columns, read with `ast` and evaluated on arrays, never as code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..errors import SpecError, UnknownNameError, shown
from ..units import parse

_BINARY: Final[dict[type, Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.float_power,
}
_COMPARE: Final[dict[type, Callable[[Any, Any], Any]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {"min": np.minimum, "max": np.maximum, "abs": np.abs, "log2": np.log2}
_LONGEST: Final = 1000
_FORM: Final = "a comparison such as 'dram.bandwidth >= 2e12', joined by and, or, not; numbers, + - * / // % **, min, max, abs, log2, in"


@dataclass(frozen=True)
class Expression:
    """One condition over named columns.

    Attributes
    ----------
    text
        As it was written.
    names
        Columns that it reads (``"dram.bandwidth"``, ``"batch"``).
    """

    text: str
    names: frozenset[str]

    def evaluate(self, columns: Mapping[str, Any], units: Mapping[str, str] | None = None) -> Any:
        """Truth of the condition, element by element.

        Parameters
        ----------
        columns
            Arrays of one shape, or scalars, by name; SI units.
        units
            Base unit by name; a text beside a name that has one is read as a quantity: ``dram.bandwidth >= '2 TB/s'``.

        Returns
        -------
        bool or numpy array of bool

        Raises
        ------
        UnknownNameError
            The condition names no column.
        """
        with np.errstate(all="ignore"):
            return _value(ast.parse(self.text, mode="eval").body, columns, units or {}, self.text)

    def sides(self, columns: Mapping[str, Any], units: Mapping[str, str]) -> tuple[Any, Any] | None:
        """Values left and right of the one ``<``, ``<=``, ``>`` or ``>=`` that the condition is; None where it is something else."""
        body = ast.parse(self.text, mode="eval").body
        if not (isinstance(body, ast.Compare) and len(body.ops) == 1 and isinstance(body.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)):
            return None
        with np.errstate(all="ignore"):
            left, right = _sides(body, columns, units, self.text)
        return left, right


def parse_expression(text: Any, where: str) -> Expression:
    """Read a condition; its names are checked later, against the columns that there are.

    Raises
    ------
    SpecError
        Not an expression of this small grammar; the message says which part is not.

    >>> sorted(parse_expression("dram.bandwidth >= 2e12 and batch < 8", "when").names)
    ['batch', 'dram.bandwidth']
    """
    if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
        raise SpecError(f"{where}: expected {_FORM}; found {shown(text)}")
    text = " ".join(text.split())
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise SpecError(f"{where}: {shown(text)} is not a condition; expected {_FORM}") from None
    if not isinstance(body, ast.Compare | ast.BoolOp) and not (isinstance(body, ast.UnaryOp) and isinstance(body.op, ast.Not)):
        raise SpecError(f"{where}: {shown(text)} says neither true nor false; expected {_FORM}")
    names: set[str] = set()
    _check(body, names, f"{where}: {shown(text)}")
    return Expression(text, frozenset(names))


def _dotted(node: ast.AST) -> str | None:
    """``gpu.sm.count`` from its nested attributes; None where the node is something else."""
    steps: list[str] = []
    while isinstance(node, ast.Attribute):
        steps.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(steps)]) if isinstance(node, ast.Name) else None


def _children(node: ast.AST) -> list[ast.expr] | None:
    """Operands of a node of the grammar; None where it does not belong to it."""
    match node:
        case ast.BoolOp():
            return node.values
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd()):
            return [node.operand]
        case ast.BinOp() if type(node.op) in _BINARY:
            return [node.left, node.right]
        case ast.Compare() if all(type(op) in _COMPARE for op in node.ops):
            return [node.left, *node.comparators]
        case ast.Compare(ops=[ast.In() | ast.NotIn()], comparators=[ast.List() | ast.Tuple() | ast.Set() as listed]):
            return [node.left, *listed.elts]
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _FUNCTIONS:
            return node.args if len(node.args) == (2 if name in ("min", "max") else 1) else None
        case ast.Constant() if isinstance(node.value, int | float | str) and len(str(node.value)) < 300:
            return []
    return None


def _check(node: ast.AST, names: set[str], where: str) -> None:
    name = _dotted(node)
    if name is not None:
        names.add(name)
        return
    children = _children(node)
    if children is None:
        raise SpecError(f"{where}: {shown(ast.unparse(node))} is not allowed; expected {_FORM}")
    for child in children:
        _check(child, names, where)


def _value(node: ast.AST, columns: Mapping[str, Any], units: Mapping[str, str], text: str) -> Any:
    name = _dotted(node)
    if name is not None:
        if name not in columns:
            raise UnknownNameError("name", name, columns, where=shown(text))
        value = columns[name]
        return np.asarray(value) if isinstance(value, list | tuple) else value

    def of(child: ast.AST) -> Any:
        return _value(child, columns, units, text)

    match node:
        case ast.Constant():
            return float(node.value) if isinstance(node.value, int) and not isinstance(node.value, bool) else node.value
        case ast.UnaryOp():
            inner = of(node.operand)
            return np.logical_not(inner) if isinstance(node.op, ast.Not) else -inner if isinstance(node.op, ast.USub) else inner
        case ast.BinOp():
            return _BINARY[type(node.op)](of(node.left), of(node.right))
        case ast.BoolOp():
            join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
            return join.reduce(np.broadcast_arrays(*[of(v) for v in node.values]))
        case ast.Call(func=ast.Name(id=function)):
            return _FUNCTIONS[function](*[of(argument) for argument in node.args])
        case ast.Compare(ops=[ast.In() | ast.NotIn() as op], comparators=[ast.List() | ast.Tuple() | ast.Set() as listed]):
            left, unit = of(node.left), _unit([node.left], units)
            found = np.logical_or.reduce([_equal(left, _quantity(of(item), unit)) for item in listed.elts])
            return np.logical_not(found) if isinstance(op, ast.NotIn) else found
        case ast.Compare():
            sides = _sides(node, columns, units, text)
            pairs = zip(sides, node.ops, sides[1:], strict=False)
            return np.logical_and.reduce(np.broadcast_arrays(*[_compared(op, a, b, text) for a, op, b in pairs]))
    raise SpecError(f"{shown(text)}: expected {_FORM}")


def _sides(node: ast.Compare, columns: Mapping[str, Any], units: Mapping[str, str], text: str) -> list[Any]:
    """Values of what a comparison compares; quantities written as texts as SI numbers."""
    unit = _unit([node.left, *node.comparators], units)
    return [_quantity(_value(side, columns, units, text), unit) for side in (node.left, *node.comparators)]


def _compared(op: ast.cmpop, a: Any, b: Any, text: str) -> Any:
    if isinstance(op, ast.Eq | ast.NotEq):
        same = _equal(a, b)
        return same if isinstance(op, ast.Eq) else np.logical_not(same)
    try:
        return _COMPARE[type(op)](a, b)
    except TypeError:
        raise SpecError(f"{shown(text)}: compares a word with a number") from None


def _equal(a: Any, b: Any) -> Any:
    """Equality in which a word never equals a number, whatever their types."""
    a, b = (side if isinstance(side, np.ndarray) else np.asarray(side, dtype=object if isinstance(side, str) else None) for side in (a, b))
    if (a.dtype == object) != (b.dtype == object):
        a, b = a.astype(object), b.astype(object)
    return np.asarray(a == b, dtype=bool)


def _unit(nodes: list[ast.expr], units: Mapping[str, str]) -> str:
    """Unit of the first name among the operands that has one."""
    inner = [name for node in nodes for each in ast.walk(node) if (name := _dotted(each)) in units]
    return next((units[name] for name in inner if name is not None and units[name]), "")


def _quantity(value: Any, unit: str) -> Any:
    return parse(value, unit) if isinstance(value, str) and unit else value
