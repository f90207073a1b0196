"""Triton kernels of a published package, taken out of its wheel: the very source that ran where a table was measured.

Nothing of the package is installed or imported. From a wheel (``pip download --no-deps sglang==0.5.14``) or an unpacked package, the
top-level statements of a module that the wanted names need are found by `ast` and written, each on its own line number, into a module in
the cache folder (`files.cache_folder`); names that it imports from modules of the same package are taken out of those in the same way. What
the package asks the machine for (which GPU, which platform) is given by the caller. The module is then imported, which runs what was
taken out: do that with packages that you trust.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.util
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import KernelError, TableError, UnknownNameError
from ..files import cache_folder, replacing


@dataclass(frozen=True)
class Package:
    """A wheel or an unpacked package.

    Attributes
    ----------
    name, version
        As in the wheel's file name: ``sglang``, ``0.5.14``.
    path
        The wheel, or the folder that holds the package's folder.
    taken
        Modules taken out so far with what was given, by module, names and that.
    """

    name: str
    version: str
    path: Path
    taken: dict[tuple[Any, ...], tuple[ModuleType, Any]] = field(default_factory=dict, repr=False, compare=False)

    def read(self, module: str) -> str:
        """Source of ``sglang.srt.utils``: a file of that name, or a folder's ``__init__.py``.

        Raises
        ------
        KernelError
            The package has no such module, or is no wheel.
        """
        stem = module.replace(".", "/")
        for name in (f"{stem}.py", f"{stem}/__init__.py"):
            try:
                if self.path.is_dir():
                    return (self.path / name).read_text(encoding="utf-8")
                with zipfile.ZipFile(self.path) as wheel:
                    return wheel.read(name).decode()
            except (FileNotFoundError, NotADirectoryError, KeyError):
                continue
            except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
                raise KernelError(f"{self.path}: {name} cannot be read: {error}") from None
        raise KernelError(f"{self.path} has no module {module}")

    def take(self, module: str, names: Iterable[str], given: Mapping[str, Any] | None = None) -> ModuleType:
        """A module with `names` of `module` and what they need.

        Parameters
        ----------
        module
            Dotted, with the package's own name.
        names
            Functions, `@triton.jit` or plain, and constants.
        given
            Values in place of what the package would find out itself, in this module and those that it imports from. ``triton`` and ``tl``
            are always Triton's own.

        Raises
        ------
        KernelError
            A module that is missing or does not parse, or whose import fails; it is named.
        UnknownNameError
            A name that is neither defined nor imported there.
        """
        import triton
        import triton.language as tl

        given = {"triton": triton, "tl": tl, **(given or {})}
        key = (module, frozenset(names), tuple(sorted((name, repr(value) if isinstance(value, (bool, int, str, tuple)) else id(value))
                                                      for name, value in given.items())))
        if key not in self.taken:
            self.taken[key] = self._take(module, set(names), given), given
        return self.taken[key][0]

    def _take(self, module: str, names: set[str], given: Mapping[str, Any]) -> ModuleType:
        text, inside = _part(self.read(module), module, self.name, names, given)
        values = {name: value for name, value in given.items() if re.search(rf"\b{name}\b", text)}
        wanted: dict[str, set[str]] = {}
        for other, theirs, _ in inside:
            wanted.setdefault(other, set()).add(theirs)
        for other, theirs_names in wanted.items():
            found = self.take(other, theirs_names, {n: v for n, v in given.items() if n not in ("triton", "tl")})
            values |= {here: getattr(found, theirs) for o, theirs, here in inside if o == other}
        return _imported(text, f"{self.name}-{self.version}", module, values)


def find_package(folder: Path, name: str, version: str) -> Package:
    """The wheel ``NAME-VERSION-*.whl`` of a folder, or its folder ``NAME-VERSION`` with the unpacked package.

    Raises
    ------
    TableError
        Neither is there; the message says how to get it.
    """
    unpacked = folder / f"{name}-{version}"
    wheels = sorted(folder.glob(f"{name}-{version}-*.whl"))
    if unpacked.is_dir() or wheels:
        return Package(name, version, unpacked if unpacked.is_dir() else wheels[0])
    raise TableError(f"{folder} has no {name} {version}: pip download --no-deps -d {folder} {name}=={version}")


def _bound(node: ast.stmt) -> set[str]:
    """Names that a top-level statement binds."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While)):
        inner = [child for child in ast.walk(node) if isinstance(child, ast.stmt) and child is not node]
        return {name for child in inner if not isinstance(child, (ast.If, ast.Try, ast.With, ast.For, ast.While)) for name in _bound(child)}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, (ast.AnnAssign, ast.AugAssign)) else []
    return {child.id for target in targets for child in ast.walk(target) if isinstance(child, ast.Name)}


def _used(node: ast.stmt) -> set[str]:
    """Names that a statement reads, those of its functions' bodies included; types of annotations in quotes or not are left out."""
    found: set[str] = set()
    todo: list[ast.AST] = [node]
    while todo:
        one = todo.pop()
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load):
            found.add(one.id)
        todo.extend(ast.iter_child_nodes(one))
    return found


def _is_typing(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    base = module.split(".")[:-node.level]
    return ".".join([*base, *([node.module] if node.module else [])])


def _part(source: str, module: str, package: str, names: set[str], given: Mapping[str, Any]) -> tuple[str, list[tuple[str, str, str]]]:
    """The statements that `names` need, each on its own line, and what comes from the package: (module, name there, name here)."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise KernelError(f"{module}, line {error.lineno}: does not parse: {error.msg}") from None
    statements = [node for node in tree.body if not _is_typing(node)]
    binds: dict[str, list[ast.stmt]] = {}
    for node in statements:
        for name in _bound(node):
            binds.setdefault(name, []).append(node)
    unknown = sorted(name for name in names if name not in binds and name not in given)
    if unknown:
        raise UnknownNameError(f"name in {module}", unknown[0], sorted(binds))
    kept: list[ast.stmt] = [node for node in statements if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    inside: list[tuple[str, str, str]] = []
    todo, seen = sorted(names), set(names)
    while todo:
        name = todo.pop()
        if name in given:
            continue
        for node in binds.get(name, ()):
            if isinstance(node, ast.ImportFrom) and _absolute(node, module).split(".")[0] == package:
                theirs = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
                inside.append((_absolute(node, module), theirs, name))
                continue
            if node in kept:
                continue
            kept.append(node)
            more = (_used(node) | _bound(node)) - seen
            seen |= more
            todo += sorted(more)
    lines = source.splitlines()
    text = [""] * len(lines)
    for node in kept:
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
        text[first - 1:node.end_lineno] = lines[first - 1:node.end_lineno]
    return "\n".join(text) + "\n", inside


def _imported(text: str, package: str, module: str, values: Mapping[str, Any]) -> ModuleType:
    """The text as a module from a file of the cache folder, with `values` in place before its first line."""
    kept = cache_folder()
    folder = (kept if kept is not None else Path(tempfile.mkdtemp(prefix="presilicon-"))) / "packages" / package
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = folder / digest / f"{module.rpartition('.')[2]}.py"
    if not path.is_file():
        with replacing(path) as stream:
            stream.write(text.encode())
    spec = importlib.util.spec_from_file_location(f"presilicon_taken_{digest}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise KernelError(f"{path}: cannot be imported")
    found = importlib.util.module_from_spec(spec)
    vars(found).update(values)
    sys.modules[spec.name] = found
    try:
        spec.loader.exec_module(found)
    except NameError as error:
        raise KernelError(f"{module} of {package} needs {error.name!r}, which the package finds out at run time: give it") from None
    except Exception as error:
        raise KernelError(f"{module} of {package}: {type(error).__name__}: {error}") from None
    missing = sorted(name for name in _free(text) if not hasattr(found, name) and not hasattr(builtins, name))
    if missing:
        raise KernelError(f"{module} of {package} needs {', '.join(missing)}, which the package finds out at run time: give it")
    return found


def _free(text: str) -> set[str]:
    """Names that functions of the text read from their module."""
    import symtable

    def globals_of(table: symtable.SymbolTable) -> set[str]:
        inside = table.get_type() == "function"
        mine = {symbol.get_name() for symbol in table.get_symbols() if inside and symbol.is_global() and symbol.is_referenced()}
        return mine.union(*(globals_of(child) for child in table.get_children()))

    return globals_of(symtable.symtable(text, "taken", "exec"))
