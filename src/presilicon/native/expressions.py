"""Expressions."""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from .kinds import FLOAT, LITERAL, LLVM, SIGNED, TRUTH, UNSIGNED, Argument, Number, Open, real, struct_of
from .writer import Writer

_COMPARE: Final = {
    ast.Eq: ("eq", "eq", "oeq"), ast.NotEq: ("ne", "ne", "une"), ast.Lt: ("slt", "ult", "olt"), ast.LtE: ("sle", "ule", "ole"),
    ast.Gt: ("sgt", "ugt", "ogt"), ast.GtE: ("sge", "uge", "oge")}
_BINARY: Final = {
    ast.Add: ("add", "fadd"), ast.Sub: ("sub", "fsub"), ast.Mult: ("mul", "fmul"), ast.BitAnd: ("and", ""), ast.BitOr: ("or", ""),
    ast.BitXor: ("xor", ""), ast.LShift: ("shl", "")}
_FOLD: Final[dict[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.BitXor: operator.xor, ast.LShift: operator.lshift, ast.RShift: operator.rshift, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod}


class Expressions(Writer):
    """Writes expressions."""

    def known(self, node: ast.expr) -> Any:
        """What a name of the surrounding module, or one of NumPy's, stands for."""
        if isinstance(node, ast.Attribute):
            return getattr(self.known(node.value), node.attr)
        if isinstance(node, ast.Name) and node.id in self.python.__globals__:
            return self.python.__globals__[node.id]
        raise self.refuse(f"{ast.unparse(node)} is not known")

    def constant(self, value: Any) -> Number:
        if isinstance(value, (bool, np.bool_)):
            return Number(TRUTH, "true" if value else "false")
        if isinstance(value, np.unsignedinteger):
            number = int(value)
            return Number(UNSIGNED, str(number - (1 << 64) if number >= 1 << 63 else number))
        if isinstance(value, np.integer):
            return Number(SIGNED, str(int(value)))
        if isinstance(value, int):
            return Number(LITERAL, str(value))
        if isinstance(value, (float, np.floating)):
            return Number(FLOAT, real(float(value)))
        raise self.refuse(f"{value!r} is no number")

    def value(self, node: ast.expr) -> Number:
        if isinstance(node, ast.Constant):
            return self.constant(node.value)
        if isinstance(node, ast.Name):
            if node.id in self.kinds:
                self.slots.add(node.id)
                kind = self.kinds[node.id]
                text = self.emit(f"load {LLVM[kind]}, ptr %v.{node.id}")
                return Open(SIGNED, text) if kind == LITERAL else Number(kind, text)
            return self.constant(self.known(node))
        if isinstance(node, ast.Subscript):
            if isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
                axis = node.slice
                assert isinstance(axis, ast.Constant)
                text = self.array(node.value.value).shape[int(ast.literal_eval(axis))]
                return Number(SIGNED, text)
            return self.load(node)
        if isinstance(node, ast.Attribute):
            return self.constant(self.known(node))
        if isinstance(node, ast.BinOp):
            return self.binary(node.op, self.value(node.left), self.value(node.right))
        if isinstance(node, ast.Compare):
            return self.compare(node)
        if isinstance(node, ast.UnaryOp):
            return self.unary(node)
        if isinstance(node, ast.BoolOp):
            return self.either(node.values, isinstance(node.op, ast.And))
        if isinstance(node, ast.IfExp):
            return self.picked(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        raise self.refuse(f"{ast.unparse(node)} cannot be compiled")

    def binary(self, op: ast.operator, left: Number, right: Number) -> Number:
        left, right = self.opened(left, right), self.opened(right, left)
        if left.kind == right.kind == LITERAL:
            return Number(LITERAL, str(_folded(op, int(left.text), int(right.text))))
        if isinstance(op, ast.Div):
            return Number(FLOAT, self.emit(f"fdiv double {self.to(left, FLOAT)}, {self.to(right, FLOAT)}"))
        if isinstance(op, ast.Pow) and FLOAT in (left.kind, right.kind):
            return Number(FLOAT, self.emit(f"call double @llvm.pow.f64(double {self.to(left, FLOAT)}, double {self.to(right, FLOAT)})"))
        kind = self.join(left, right)
        if kind == TRUTH and not isinstance(op, (ast.BitAnd, ast.BitOr, ast.BitXor)):
            kind = SIGNED
        one, other = self.to(left, kind), self.to(right, kind)
        if isinstance(op, ast.RShift):
            return Number(kind, self.emit(f"{'ashr' if kind == SIGNED else 'lshr'} i64 {one}, {other}"))
        if isinstance(op, (ast.FloorDiv, ast.Mod)) and kind != FLOAT:
            return Number(kind, self.divide(kind, one, other, isinstance(op, ast.Mod)))
        name = _BINARY.get(type(op), ("", ""))[kind == FLOAT]
        if not name:
            raise self.refuse(f"{type(op).__name__} of such numbers cannot be compiled")
        return Number(kind, self.emit(f"{name} {LLVM[kind]} {one}, {other}"))

    def opened(self, value: Number, beside: Number) -> Number:
        """A name of literals beside an unsigned number counts as unsigned."""
        return Number(UNSIGNED, value.text) if isinstance(value, Open) and beside.kind == UNSIGNED else value

    def divide(self, kind: str, one: str, other: str, rest: bool) -> str:
        """Quotient rounded down, or the rest that belongs to it."""
        if kind == UNSIGNED:
            return self.emit(f"{'urem' if rest else 'udiv'} i64 {one}, {other}")
        remainder = self.emit(f"srem i64 {one}, {other}")
        differs = self.emit(f"icmp slt i64 {self.emit(f'xor i64 {remainder}, {other}')}, 0")
        short = self.emit(f"and i1 {differs}, {self.emit(f'icmp ne i64 {remainder}, 0')}")
        if rest:
            return self.emit(f"add i64 {remainder}, {self.emit(f'select i1 {short}, i64 {other}, i64 0')}")
        quotient = self.emit(f"sdiv i64 {one}, {other}")
        return self.emit(f"sub i64 {quotient}, {self.emit(f'zext i1 {short} to i64')}")

    def compare(self, node: ast.Compare) -> Number:
        left, found = self.value(node.left), ""
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In):
                assert isinstance(comparator, ast.Tuple)
                this = "false"
                for part in comparator.elts:
                    this = self.emit(f"or i1 {this}, {self.compared(ast.Eq(), left, self.value(part))}")
            else:
                right = self.value(comparator)
                this = self.compared(op, left, right)
                left = right
            found = self.emit(f"and i1 {found}, {this}") if found else this
        return Number(TRUTH, found)

    def compared(self, op: ast.cmpop, left: Number, right: Number) -> str:
        left, right = self.opened(left, right), self.opened(right, left)
        kind = self.join(left, right)
        kind = SIGNED if kind in (TRUTH, LITERAL) else kind
        name = _COMPARE[type(op)][(SIGNED, UNSIGNED, FLOAT).index(kind)]
        return self.emit(f"{'fcmp' if kind == FLOAT else 'icmp'} {name} {LLVM[kind]} {self.to(left, kind)}, {self.to(right, kind)}")

    def unary(self, node: ast.UnaryOp) -> Number:
        value = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return Number(TRUTH, self.emit(f"xor i1 {self.truth(value)}, true"))
        if value.kind == LITERAL:
            return Number(LITERAL, str(-int(value.text) if isinstance(node.op, ast.USub) else ~int(value.text)))
        if isinstance(node.op, ast.USub):
            if value.kind == FLOAT:
                return Number(FLOAT, self.emit(f"fneg double {value.text}"))
            return Number(SIGNED, self.emit(f"sub i64 0, {self.to(value, SIGNED)}"))
        if isinstance(node.op, ast.Invert) and value.kind in (SIGNED, UNSIGNED):
            return Number(value.kind, self.emit(f"xor i64 {value.text}, -1"))
        raise self.refuse(f"{ast.unparse(node)} cannot be compiled")

    def either(self, parts: Sequence[ast.expr], both: bool) -> Number:
        """`and` and `or`: a truth value; what comes later is looked at only if it matters."""
        result, end = self.new("v.either"), self.label()
        name = result[len("%v."):]
        self.kinds[name] = TRUTH
        for n, part in enumerate(parts):
            self.set(name, Number(TRUTH, self.truth(self.value(part))))
            if n < len(parts) - 1:
                further = self.label()
                held = self.emit(f"load i1, ptr {result}")
                self.branch(held, *((further, end) if both else (end, further)))
                self.begin(further)
        self.jump(end)
        self.begin(end)
        return Number(TRUTH, self.emit(f"load i1, ptr {result}"))

    def picked(self, node: ast.IfExp) -> Number:
        name = f"picked.{node.lineno}.{node.col_offset}"
        self.choose(node.test, lambda: self.set(name, self.value(node.body)), lambda: self.set(name, self.value(node.orelse)))
        return self.value(ast.Name(name))

    def callee(self, node: ast.Call) -> Callable[..., Any] | None:
        """The function of this kind that is called, if it is one."""
        held = self.python.__globals__.get(node.func.id) if isinstance(node.func, ast.Name) else None
        return held if inspect.isfunction(held) else None

    def several(self, node: ast.expr) -> list[Number]:
        """Results of a call."""
        function = self.callee(node) if isinstance(node, ast.Call) else None
        if function is None or not isinstance(node, ast.Call):
            raise self.refuse(f"{ast.unparse(node)} gives no several values")
        kinds: list[Argument] = []
        given: list[str] = []
        for arg in node.args:
            if isinstance(arg, ast.Name) and (arg.id in self.arrays or isinstance(self.python.__globals__.get(arg.id), np.ndarray)):
                array = self.array(arg)
                kinds.append((array.element, len(array.shape)))
                given += [f"ptr {array.data}", *(f"i64 {extent}" for extent in array.shape)]
                continue
            value = self.value(arg)
            kind = SIGNED if value.kind == LITERAL else value.kind
            kinds.append(kind)
            given.append(f"{LLVM[kind]} {self.to(value, kind)}")
        name, results = self.module.function(function, tuple(kinds))
        whole = self.emit(f"call {struct_of(results)} @{name}({', '.join(given)})")
        return [Number(SIGNED if kind == LITERAL else kind, self.emit(f"extractvalue {struct_of(results)} {whole}, {n}"))
                for n, kind in enumerate(results)]

    def call(self, node: ast.Call) -> Number:
        if self.callee(node):
            found = self.several(node)
            if len(found) != 1:
                raise self.refuse(f"{ast.unparse(node)} gives {len(found)} values")
            return found[0]
        name = ast.unparse(node.func)
        values = [self.value(arg) for arg in node.args]
        if name in ("min", "max"):
            return self.extreme(values, name == "min")
        one = values[0]
        if name in ("np.int64", "int", "np.uint64"):
            kind = UNSIGNED if name == "np.uint64" else SIGNED
            if one.kind == FLOAT:
                return Number(kind, self.emit(f"{'fptosi' if kind == SIGNED else 'fptoui'} double {one.text} to i64"))
            return Number(kind, self.to(one, kind))
        if name in ("np.uint32", "np.uint8"):
            mask = 0xFFFFFFFF if name == "np.uint32" else 0xFF
            return Number(UNSIGNED, self.emit(f"and i64 {self.to(one, UNSIGNED)}, {mask}"))
        if name in ("np.float64", "float"):
            return Number(FLOAT, self.to(one, FLOAT))
        if name == "np.float32":
            source = f"{'sitofp i64' if one.kind in (SIGNED, LITERAL) else 'uitofp i64'} {one.text} to float"
            narrow = self.emit(f"fptrunc double {one.text} to float" if one.kind == FLOAT else source)
            return Number(FLOAT, self.emit(f"fpext float {narrow} to double"))
        if name in ("np.ceil", "np.trunc", "np.sqrt"):
            return Number(FLOAT, self.emit(f"call double @llvm.{name[3:]}.f64(double {self.to(one, FLOAT)})"))
        if name == "round":
            whole = self.emit(f"call double @llvm.rint.f64(double {self.to(one, FLOAT)})")
            return Number(SIGNED, self.emit(f"fptosi double {whole} to i64"))
        if name == "abs":
            if one.kind == FLOAT:
                return Number(FLOAT, self.emit(f"call double @llvm.fabs.f64(double {one.text})"))
            return Number(SIGNED, self.emit(f"call i64 @llvm.abs.i64(i64 {self.to(one, SIGNED)}, i1 false)"))
        raise self.refuse(f"{name} cannot be called")

    def extreme(self, values: Sequence[Number], least: bool) -> Number:
        kind = self.join(*values)
        kind = SIGNED if kind in (TRUTH, LITERAL) else kind
        best = self.to(values[0], kind)
        for value in values[1:]:
            text = self.to(value, kind)
            better = self.compared(ast.Lt() if least else ast.Gt(), Number(kind, text), Number(kind, best))
            best = self.emit(f"select i1 {better}, {LLVM[kind]} {text}, {LLVM[kind]} {best}")
        return Number(kind, best)


def _folded(op: ast.operator, left: int, right: int) -> int:
    return int(_FOLD[type(op)](left, right))
