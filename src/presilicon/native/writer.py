"""Text of one function as it is written: names, labels, conversions, elements of arrays."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .kinds import (
    ELEMENTS,
    FLOAT,
    LITERAL,
    LLVM,
    SIGNED,
    TRUTH,
    UNSIGNED,
    Argument,
    Array,
    Number,
    UntranslatableError,
    joined,
    real,
)

if TYPE_CHECKING:
    from .module import Module


class Writer(ABC):
    """One function's lines, and what is known of its names."""

    def __init__(self, module: Module, function: Callable[..., Any], arguments: tuple[Argument, ...], kinds: dict[str, str],
                 results: list[str]) -> None:
        self.module, self.python, self.kinds, self.results = module, function, kinds, results
        self.node = node = module.definition(function)
        self.names = [a.arg for a in node.args.args]
        if len(self.names) != len(arguments):
            raise UntranslatableError(f"{function.__name__} takes {len(self.names)} arguments, {len(arguments)} given")
        self.arguments = arguments
        self.lines: list[str] = []
        self.count = 0
        self.widened = False
        self.arrays: dict[str, Array] = {}
        self.scratch: list[str] = []
        self.exits: list[tuple[str, str]] = []
        self.slots: set[str] = set()
        self.at: ast.AST = node

    @abstractmethod
    def value(self, node: ast.expr) -> Number:
        """The number that an expression gives."""

    # -- text --------------------------------------------------------------------------------------------------------------

    def refuse(self, what: str) -> UntranslatableError:
        line = getattr(self.at, "lineno", self.node.lineno)
        return UntranslatableError(f"{self.python.__name__}, line {line}: {what}")

    def new(self, prefix: str = "t") -> str:
        self.count += 1
        return f"%{prefix}{self.count}"

    def emit(self, text: str) -> str:
        name = self.new()
        self.lines.append(f"{name} = {text}")
        return name

    def label(self) -> str:
        self.count += 1
        return f"L{self.count}"

    def begin(self, label: str) -> None:
        self.lines.append(f"{label}:")

    def jump(self, label: str) -> None:
        self.lines.append(f"br label %{label}")

    def branch(self, condition: str, yes: str, no: str) -> None:
        self.lines.append(f"br i1 {condition}, label %{yes}, label %{no}")

    def choose(self, test: ast.expr, yes: Callable[[], None], no: Callable[[], None]) -> None:
        """One of two ways."""
        one, other, end = self.label(), self.label(), self.label()
        self.branch(self.truth(self.value(test)), one, other)
        for label, make in ((one, yes), (other, no)):
            self.begin(label)
            make()
            self.jump(end)
        self.begin(end)

    # -- numbers -----------------------------------------------------------------------------------------------------------

    def to(self, value: Number, kind: str) -> str:
        """Text of a number as one of a kind."""
        if value.kind == kind or {value.kind, kind} == {SIGNED, UNSIGNED}:
            return value.text if value.kind != LITERAL else str(int(value.text))
        if value.kind == LITERAL:
            number = int(value.text)
            if kind == FLOAT:
                return real(float(number))
            if kind == TRUTH:
                return "true" if number else "false"
            return str(number - (1 << 64) if number >= 1 << 63 else number)
        if kind == TRUTH:
            return self.truth(value)
        if kind == FLOAT:
            return self.emit(f"{'sitofp i64' if value.kind == SIGNED else f'uitofp {LLVM[value.kind]}'} {value.text} to double")
        if value.kind == TRUTH:
            return self.emit(f"zext i1 {value.text} to i64")
        raise self.refuse("a float in place of an integer: say int()")

    def truth(self, value: Number) -> str:
        """Text of whether a number is not zero."""
        if value.kind == TRUTH:
            return value.text
        if value.kind == LITERAL:
            return "true" if int(value.text) else "false"
        if value.kind == FLOAT:
            return self.emit(f"fcmp une double {value.text}, 0.0")
        return self.emit(f"icmp ne i64 {value.text}, 0")

    def join(self, *values: Number) -> str:
        kind = values[0].kind
        for value in values[1:]:
            found = joined(kind, value.kind)
            if found is None:
                raise self.refuse("signed meets unsigned: say which is meant")
            kind = found
        return kind

    def set(self, name: str, value: Number) -> None:
        """Assign to a name."""
        if name in self.arrays:
            raise self.refuse(f"{name} is an array")
        known = self.kinds.get(name)
        kind = value.kind if known is None else joined(known, value.kind)
        if kind is None:
            raise self.refuse(f"{name} is signed here and unsigned there")
        if known != kind:
            self.kinds[name] = kind
            self.widened |= known is not None
        self.slots.add(name)
        llvm = LLVM[kind]
        text = self.to(value, kind if kind != LITERAL else SIGNED)
        self.lines.append(f"store {llvm} {text}, ptr %v.{name}")

    # -- arrays ----------------------------------------------------------------------------------------------------------

    def array(self, node: ast.expr) -> Array:
        if isinstance(node, ast.Name):
            if node.id in self.arrays:
                return self.arrays[node.id]
            held = self.python.__globals__.get(node.id)
            if isinstance(held, np.ndarray):
                return self.module.constant(held)
        raise self.refuse(f"{ast.unparse(node)} is no array")

    def place(self, node: ast.Subscript) -> tuple[Array, str]:
        """An element's array and address."""
        array = self.array(node.value)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if len(parts) != len(array.shape):
            raise self.refuse(f"{ast.unparse(node)}: {len(parts)} indices for {len(array.shape)} axes")
        at = ""
        for n, part in enumerate(parts):
            index = self.value(part)
            if index.kind == FLOAT or (index.kind == LITERAL and int(index.text) < 0):
                raise self.refuse(f"{ast.unparse(part)} is no index")
            text = self.to(index, SIGNED)
            if n:
                at = self.emit(f"mul nsw i64 {at}, {array.shape[n]}")
                text = self.emit(f"add nsw i64 {at}, {text}")
            at = text
        return array, self.emit(f"getelementptr inbounds {ELEMENTS[array.element][0]}, ptr {array.data}, i64 {at}")

    def load(self, node: ast.Subscript) -> Number:
        array, address = self.place(node)
        llvm, kind = ELEMENTS[array.element]
        text = self.emit(f"load {llvm}, ptr {address}")
        if kind == TRUTH:
            return Number(kind, self.emit(f"icmp ne i8 {text}, 0"))
        if llvm == "float":
            return Number(kind, self.emit(f"fpext float {text} to double"))
        if llvm not in ("double", "i64"):
            text = self.emit(f"{'sext' if kind == SIGNED else 'zext'} {llvm} {text} to i64")
        return Number(kind, text)

    def store(self, node: ast.Subscript, value: Number) -> None:
        array, address = self.place(node)
        llvm, kind = ELEMENTS[array.element]
        text = self.to(value, kind)
        if kind == TRUTH:
            text = self.emit(f"zext i1 {text} to i8")
        elif llvm == "float":
            text = self.emit(f"fptrunc double {text} to float")
        elif llvm not in ("double", "i64"):
            text = self.emit(f"trunc i64 {text} to {llvm}")
        self.lines.append(f"store {llvm} {text}, ptr {address}")
