"""Plain loops over NumPy arrays, written in a small part of Python, as text of LLVM's intermediate language.

What may be written: assignments, `if`, `while`, ``for ... in range(...)``, `break`, `continue`, `return`; numbers, arrays that are
indexed in full (or, to be filled, to a row), their `shape`, arithmetic, comparisons, `and`, `or`, `not`, `min`, `max`, `abs`, `round`,
`int`, `float`; of NumPy the scalar types, `ceil`, `trunc`, `sqrt` and, for scratch, `zeros`, `ones`, `full`; other functions of this
kind. A number is a truth value, a signed or an unsigned integer of 64 bits, or a float of 64 bits; what is narrower in an array is
widened when it is read. Signed and unsigned integers do not mix: who wants that says which is meant. Indices are taken as they are,
negative ones too (they do not count from the end), and divisors must not be zero.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import numpy as np

from .expressions import Expressions
from .kinds import (
    ELEMENTS,
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
    struct_of,
)

#: Where a NumPy array (`PyArrayObject_fields`, part of its binary interface) has the address of its data, its rank, the addresses of its
#: extents and of its type of elements, and its flags, of which the first says that it is in C order.
DATA: Final = object.__basicsize__
RANK, EXTENTS, ELEMENT, FLAGS = DATA + 8, DATA + 16, DATA + 40, DATA + 48
_DECLARED: Final = """
declare ptr @calloc(i64, i64)
declare void @free(ptr)
declare double @llvm.ceil.f64(double)
declare double @llvm.trunc.f64(double)
declare double @llvm.sqrt.f64(double)
declare double @llvm.rint.f64(double)
declare double @llvm.pow.f64(double, double)
declare double @llvm.fabs.f64(double)
declare i64 @llvm.abs.i64(i64, i1)
"""
#: Said of a loop's jump back, and what it refers to: several rounds at a time (vector instructions) would gain nothing.
_ONE_BY_ONE: Final = ", !llvm.loop !0"
_REFERRED: Final = '!0 = distinct !{!0, !1}\n!1 = !{!"llvm.loop.vectorize.enable", i1 false}\n'


class Statements(Expressions):
    """Writes a function, statement by statement."""

    def body(self) -> bool:
        """Translate; False where a kind was widened and all must be done anew."""
        for name, argument in zip(self.names, self.arguments, strict=True):
            if isinstance(argument, tuple):
                if argument[0] not in ELEMENTS:
                    raise self.refuse(f"{name} is an array of {argument[0]}")
                self.arrays[name] = Array(argument[0], f"%{name}.p", tuple(f"%{name}.{k}" for k in range(argument[1])))
            else:
                self.set(name, Number(argument, f"%{name}.v"))
        self.block(self.node.body)
        self.lines.append("unreachable")
        return not self.widened

    def text(self, name: str) -> str:
        """The function, once its body is translated."""
        given = []
        for parameter, argument in zip(self.names, self.arguments, strict=True):
            given += [f"{LLVM[argument]} %{parameter}.v"] if isinstance(argument, str) else [
                f"ptr %{parameter}.p", *(f"i64 %{parameter}.{k}" for k in range(argument[1]))]
        head = []
        for slot in sorted(self.slots):
            llvm = LLVM[self.kinds[slot]]
            head += [f"%v.{slot} = alloca {llvm}", f"store {llvm} {'0.0' if llvm == 'double' else '0'}, ptr %v.{slot}"]
        for slot in self.scratch:
            head += [f"{slot} = alloca ptr", f"store ptr null, ptr {slot}"]
        body = "\n  ".join([*head, *self.lines])
        kept = "" if self.module.inlined else " noinline"
        return f"define internal {struct_of(self.results)} @{name}({', '.join(given)}){kept} {{\n  {body}\n}}\n"

    def allocate(self, name: str, call: ast.Call) -> None:
        """Scratch: ``np.zeros``, ``np.ones``, ``np.full`` with a shape and a type."""
        assert isinstance(call.func, ast.Attribute)
        which, args = call.func.attr, list(call.args)
        shape = args.pop(0)
        fill = args.pop(0) if which == "full" else ast.Constant(1)
        dtype = np.dtype(self.known(args[0])) if args else np.dtype(float)
        extents = tuple(self.to(self.value(part), SIGNED) for part in (shape.elts if isinstance(shape, ast.Tuple) else [shape]))
        total = extents[0]
        for extent in extents[1:]:
            total = self.emit(f"mul i64 {total}, {extent}")
        array = Array(dtype.str[1:], self.emit(f"call ptr @calloc(i64 {total}, i64 {dtype.itemsize})"), extents)
        slot = self.new("scratch")
        self.scratch.append(slot)
        self.lines.append(f"store ptr {array.data}, ptr {slot}")
        if which != "zeros":
            self.arrays["to be filled"] = Array(array.element, array.data, (total,))
            each = ast.Subscript(ast.Name("to be filled"), ast.Name("filled"))
            self.loop("filled", Number(LITERAL, "0"), Number(SIGNED, total), 1, lambda: self.store(each, self.value(fill)))
        self.arrays[name] = array

    def block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            self.at = statement
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            self.assign(node)
        elif isinstance(node, ast.AugAssign):
            assert isinstance(node.target, (ast.Name, ast.Subscript))
            self.put(node.target, self.binary(node.op, self.value(node.target), self.value(node.value)))
        elif isinstance(node, ast.If):
            self.choose(node.test, lambda: self.block(node.body), lambda: self.block(node.orelse))
        elif isinstance(node, ast.While):
            test, body, end = self.label(), self.label(), self.label()
            self.jump(test)
            self.begin(test)
            self.branch(self.truth(self.value(node.test)), body, end)
            self.begin(body)
            self.exits.append((test, end))
            self.block(node.body)
            self.exits.pop()
            self.jump(test)
            self.begin(end)
        elif isinstance(node, ast.For):
            self.for_range(node)
        elif isinstance(node, (ast.Break, ast.Continue)):
            self.jump(self.exits[-1][isinstance(node, ast.Break)])
            self.begin(self.label())
        elif isinstance(node, ast.Return):
            self.leave(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self.several(node.value)
        elif not (isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))):
            raise self.refuse(f"{type(node).__name__} cannot be compiled")

    def assign(self, node: ast.Assign) -> None:
        value = node.value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in ("zeros", "ones", "full"):
            assert isinstance(node.targets[0], ast.Name)
            self.allocate(node.targets[0].id, value)
            return
        targets = [target.elts if isinstance(target, ast.Tuple) else [target] for target in node.targets]
        if isinstance(targets[0], list) and len(targets[0]) > 1:
            found = [self.value(part) for part in value.elts] if isinstance(value, ast.Tuple) else self.several(value)
        else:
            found = [self.value(value)]
        for names in targets:
            if len(names) != len(found):
                raise self.refuse(f"{len(found)} values for {len(names)} names")
            for target, one in zip(names, found, strict=True):
                self.put(target, one)

    def put(self, target: ast.expr, value: Number) -> None:
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Tuple) and isinstance(target.slice.elts[-1], ast.Slice):
            each = ast.Subscript(target.value, ast.Tuple([*target.slice.elts[:-1], ast.Name("column")]))
            columns = Number(SIGNED, self.array(target.value).shape[-1])
            self.loop("column", Number(LITERAL, "0"), columns, 1, lambda: self.store(each, value))
        elif isinstance(target, ast.Subscript):
            self.store(target, value)
        elif isinstance(target, ast.Name):
            self.set(target.id, value)
        else:
            raise self.refuse(f"{ast.unparse(target)} cannot be assigned to")

    def for_range(self, node: ast.For) -> None:
        call, target = node.iter, node.target
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "range" and isinstance(target, ast.Name)):
            raise self.refuse("loops go over range()")
        parts = [self.value(arg) for arg in call.args]
        start, stop = (Number(LITERAL, "0"), parts[0]) if len(parts) == 1 else (parts[0], parts[1])
        step = parts[2] if len(parts) > 2 else Number(LITERAL, "1")
        if step.kind != LITERAL:
            raise self.refuse("a loop's step is a literal")
        if UNSIGNED in (start.kind, stop.kind):
            raise self.refuse("a loop's bounds are signed")
        self.loop(target.id, start, stop, int(step.text), lambda: self.block(node.body))

    def loop(self, name: str, start: Number, stop: Number, step: int, body: Callable[[], None]) -> None:
        counter = self.new("c")
        last = self.to(stop, SIGNED)
        before, test, inside, again, end = (self.label() for _ in range(5))
        first = self.to(start, SIGNED)
        self.jump(before)
        self.begin(before)
        self.jump(test)
        self.begin(test)
        self.lines.append(f"{counter} = phi i64 [ {first}, %{before} ], [ {counter}.next, %{again} ]")
        self.branch(self.emit(f"icmp {'slt' if step > 0 else 'sgt'} i64 {counter}, {last}"), inside, end)
        self.begin(inside)
        self.set(name, Number(SIGNED, counter))
        self.exits.append((again, end))
        body()
        self.exits.pop()
        self.jump(again)
        self.begin(again)
        self.lines.append(f"{counter}.next = add nsw i64 {counter}, {step}")
        self.lines.append(f"br label %{test}{'' if self.python in self.module.wide else _ONE_BY_ONE}")
        self.begin(end)

    def leave(self, node: ast.Return) -> None:
        assert node.value is not None
        found = [self.value(part) for part in node.value.elts] if isinstance(node.value, ast.Tuple) else (
            self.several(node.value) if isinstance(node.value, ast.Call) and self.callee(node.value) else [self.value(node.value)])
        kinds = [value.kind for value in found]
        if not self.results:
            self.results.extend(kinds)
        for n, kind in enumerate(kinds):
            wider = joined(self.results[n], kind)
            if wider is None:
                raise self.refuse("a result is signed here and unsigned there")
            self.widened |= wider != self.results[n]
            self.results[n] = wider
        for slot in self.scratch:
            self.lines.append(f"call void @free(ptr {self.emit(f'load ptr, ptr {slot}')})")
        whole = "undef"
        for n, value in enumerate(found):
            kind = self.results[n]
            text = self.to(value, kind if kind != LITERAL else SIGNED)
            whole = self.emit(f"insertvalue {struct_of(self.results)} {whole}, {LLVM[kind]} {text}, {n}")
        self.lines.append(f"ret {struct_of(self.results)} {whole}")
        self.begin(self.label())


class Module:
    """Functions of one compiled entry, each for the arguments that it is called with.

    Parameters
    ----------
    inlined
        LLVM may put functions where they are called: what is called for little work runs sooner, and all is compiled later.
    wide
        Functions whose loops are worth vector instructions.
    """

    def __init__(self, *, inlined: bool = True, wide: Collection[Callable[..., Any]] = ()) -> None:
        self.inlined, self.wide = inlined, wide
        self.parts: list[str] = [_DECLARED]
        self.made: dict[tuple[Callable[..., Any], tuple[Argument, ...]], tuple[str, tuple[str, ...]]] = {}
        self.constants: dict[int, tuple[np.ndarray, str]] = {}
        self.files: dict[str, dict[tuple[str, int], ast.FunctionDef]] = {}

    def definition(self, function: Callable[..., Any]) -> ast.FunctionDef:
        """A function as it is written; its file is read once (`inspect.getsource` would look at every module there is)."""
        code = function.__code__
        if code.co_filename not in self.files:
            lines = linecache.getlines(code.co_filename, function.__globals__)
            self.files[code.co_filename] = {(node.name, node.lineno): node for node in ast.walk(ast.parse("".join(lines)))
                                            if isinstance(node, ast.FunctionDef)}
        found = self.files[code.co_filename].get((code.co_name, code.co_firstlineno))
        if found is None:
            raise UntranslatableError(f"{code.co_name}: {code.co_filename} is no longer what was imported")
        return found

    def function(self, function: Callable[..., Any], arguments: tuple[Argument, ...]) -> tuple[str, tuple[str, ...]]:
        """Name of a function for such arguments, and the kinds of what it returns."""
        key = function, arguments
        if key not in self.made:
            name = f"{function.__name__}.{len(self.made)}"
            kinds: dict[str, str] = {}
            results: list[str] = []
            while True:
                writer = Statements(self, function, arguments, kinds, results)
                if writer.body():
                    break
            self.parts.append(writer.text(name))
            self.made[key] = name, tuple(results)
        return self.made[key]

    def constant(self, values: np.ndarray) -> Array:
        """An array of the surrounding module, as it is now."""
        if id(values) not in self.constants:
            name = f"@constant.{len(self.constants)}"
            held = np.ascontiguousarray(values)
            self.constants[id(values)] = values, name
            raw = "".join(f"\\{byte:02x}" for byte in held.tobytes())
            self.parts.append(f'{name} = private constant [{held.nbytes} x i8] c"{raw}", align 16\n')
        return Array(values.dtype.str[1:], self.constants[id(values)][1], tuple(map(str, values.shape)))

    def entry(self, function: Callable[..., Any], arguments: tuple[Argument, ...]) -> tuple[str, tuple[str, ...]]:
        """The whole text, with a function ``entry(arguments, results, elements)`` of arrays of 64-bit words, and the kinds of the results.

        A word is a number, or the address of a NumPy array as Python has it; of `elements` that of its type. Where an array has another
        type or rank, or is not in C order, nothing is done, and 0 comes back in place of 1.
        """
        name, kinds = self.function(function, arguments)
        lines, given = [], []
        alike = "true"
        for n, argument in enumerate(arguments):
            lines.append(f"%p{n} = getelementptr i64, ptr %arguments, i64 {n}")
            if isinstance(argument, str):
                llvm = LLVM[argument]
                lines += [f"%w{n} = load i64, ptr %p{n}", f"%a{n} = icmp ne i64 %w{n}, 0"] if llvm == "i1" else [
                    f"%a{n} = load {llvm}, ptr %p{n}"]
                given.append(f"{llvm} %a{n}")
                continue
            lines += [f"%o{n} = load ptr, ptr %p{n}"]
            for part, place in (("d", DATA), ("e", EXTENTS)):
                lines += [f"%{part}a{n} = getelementptr i8, ptr %o{n}, i64 {place}", f"%{part}{n} = load ptr, ptr %{part}a{n}"]
            given += [f"ptr %d{n}", *(f"i64 %a{n}.{k}" for k in range(argument[1]))]
            for part, place, llvm in (("n", RANK, "i32"), ("t", ELEMENT, "i64"), ("g", FLAGS, "i32")):
                lines += [f"%{part}a{n} = getelementptr i8, ptr %o{n}, i64 {place}", f"%{part}{n} = load {llvm}, ptr %{part}a{n}"]
            lines += [f"%wa{n} = getelementptr i64, ptr %elements, i64 {n}", f"%wt{n} = load i64, ptr %wa{n}",
                      f"%nc{n} = icmp eq i32 %n{n}, {argument[1]}", f"%tc{n} = icmp eq i64 %t{n}, %wt{n}",
                      f"%gc{n} = trunc i32 %g{n} to i1"]
            for part in ("nc", "tc", "gc"):
                lines.append(f"%{part}.all{n} = and i1 {alike}, %{part}{n}")
                alike = f"%{part}.all{n}"
        lines += [f"br i1 {alike}, label %known, label %other", "other:", "ret i64 0", "known:"]
        for n, argument in enumerate(arguments):
            for k in range(argument[1] if isinstance(argument, tuple) else 0):
                lines += [f"%x{n}.{k} = getelementptr i64, ptr %e{n}, i64 {k}", f"%a{n}.{k} = load i64, ptr %x{n}.{k}"]
        lines.append(f"%r = call {struct_of(kinds)} @{name}({', '.join(given)})")
        for n, kind in enumerate(kinds):
            lines += [f"%q{n} = getelementptr i64, ptr %results, i64 {n}", f"%f{n} = extractvalue {struct_of(kinds)} %r, {n}"]
            if kind == TRUTH:
                lines.append(f"%z{n} = zext i1 %f{n} to i64")
            lines.append(f"store {'i64' if kind == TRUTH else LLVM[kind]} %{'z' if kind == TRUTH else 'f'}{n}, ptr %q{n}")
        body = "\n  ".join(lines)
        entry = f"define i64 @entry(ptr %arguments, ptr %results, ptr %elements) {{\n  {body}\n  ret i64 1\n}}\n"
        return "\n".join([*self.parts, entry, _REFERRED]), kinds
