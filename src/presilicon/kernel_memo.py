"""Answers kept on disk, so that asking again costs neither torch nor Triton: what an answer depended on is recorded and checked.

An entry lies under the hash of what was asked (file, options, device files, presilicon's own files, versions). It lists what the user's
file made use of while it ran: modules beside it, files that it opened, folders that it listed, environment variables that it read. If any
of these has changed since, the entry is not used. A file whose result may change without any of this (it asks for the time or for random
numbers, starts processes, opens connections, loads native modules of its own) is never kept.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from .errors import OutputError
from .files import cache_folder, write_atomically

_SCHEMA: Final = 1
_IMPORT: Final = "import:"
_FLOORS: Final = ("arch", "workloads", "mapping", "sim", "validate")
_PACKAGES: Final = ("torch", "triton", "numpy", "llvmlite", "simpy")
#: Prefixes of environment variables that compilers read.
_COMPILER_VARIABLES: Final = ("TRITON_", "MLIR_", "LLVM_", "CUDA_", "PTXAS", "DISABLE_", "NVPTX_")
_LIMIT_ENTRIES: Final = 2000
_CHANGING_MODULES: Final = frozenset({"time", "datetime", "random", "secrets", "uuid", "subprocess", "socket", "ctypes", "multiprocessing"})
#: Attributes that tell of what is not recorded: chance, the process, whether files exist.
_CHANGING_NAMES: Final = frozenset(
    {"random", "urandom", "getpid", "argv", "stdin", "exists", "isfile", "isdir", "is_file", "is_dir", "stat", "getmtime", "getsize"}
)
_CHANGING_EVENTS: Final = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "socket.connect", "sqlite3.connect",
                           "urllib.Request", "ctypes.dlopen")


def memo_folder() -> Path | None:
    """Where answers are kept: ``results`` in `presilicon.files.cache_folder`; None where nothing is to be kept."""
    base = cache_folder()
    return base / "results" if base else None


def digest(value: Any) -> str:
    """Hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@lru_cache(maxsize=1)
def _own_folders() -> tuple[Path, ...]:
    """Folders of presilicon's own code and data, wherever an installation has them."""
    from importlib.util import find_spec

    folders = [Path(__file__).parent]
    for floor in _FLOORS:
        spec = find_spec(f"{__package__}.{floor}")
        folders += [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    return tuple(folders)


@lru_cache(maxsize=1)
def package_stamp() -> str:
    """Hash of presilicon's own code and data files and of the versions of what it computes with."""
    from importlib.metadata import PackageNotFoundError, version

    made = hashlib.sha256(sys.version.encode())
    for folder in _own_folders():
        for root, inner, names in os.walk(folder):
            inner[:] = sorted(name for name in inner if name != "__pycache__")
            for name in sorted(names):
                if name.endswith((".py", ".yaml", ".json")):
                    made.update(name.encode())
                    made.update(Path(root, name).read_bytes())
    for package in _PACKAGES:
        try:
            made.update(f"{package} {version(package)}".encode())
        except PackageNotFoundError:
            made.update(package.encode())
    return made.hexdigest()


def question(what: str, asked: Mapping[str, Any], files: Iterable[Path] = ()) -> str:
    """Key of an answer: what was asked, the content of the files named, presilicon's stamp and the compilers' settings."""
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith(_COMPILER_VARIABLES))
    contents = [(str(path.resolve()), _content(path)) for path in files]
    place = [os.getcwd(), os.environ.get("PYTHONPATH")]
    return digest([_SCHEMA, what, dict(asked), contents, settings, place, package_stamp()])


def _content(path: str | Path) -> str:
    """Hash of a file's content; "" where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def _listing(folder: str) -> str:
    """Hash of a folder's names, behind ``import:`` only of what could be imported; "" where there is no folder."""
    importing, place = folder.startswith(_IMPORT), folder.removeprefix(_IMPORT)
    try:
        names = [name for name in os.listdir(place) if name != "__pycache__"]
    except OSError:
        return ""
    return digest(sorted(name for name in names if not importing or "." not in name or name.endswith((".py", ".so", ".zip"))))


def load(key: str) -> dict[str, Any] | None:
    """The answer kept under a key, if everything that it depended on is as it was."""
    folder = memo_folder()
    if folder is None:
        return None
    try:
        entry = json.loads((folder / f"{key}.json").read_bytes())
        current = (
            all(_content(path) == content for path, content in entry["files"])
            and all(_listing(path) == content for path, content in entry["folders"])
            and all(os.environ.get(name) == value for name, value in entry["environment"])
        )
        answer = entry["answer"] if current and entry["sum"] == digest(entry["answer"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answer if isinstance(answer, dict) else None


def store(key: str, answer: Mapping[str, Any], uses: Uses | None = None) -> bool:
    """Keep an answer, unless what it depends on cannot be known; says whether it was kept."""
    uses = uses or Uses()
    folder = memo_folder()
    if uses.reasons or folder is None:
        return False
    plain = json.loads(json.dumps(dict(answer)))
    entry = {
        "answer": plain,
        "sum": digest(plain),
        "files": sorted((path, content) for path, content in uses.files.items()),
        "folders": sorted((path, _listing(path)) for path in uses.folders),
        "environment": sorted(uses.environment.items(), key=lambda item: item[0]),
    }
    with suppress(OutputError, OSError):
        write_atomically(folder / f"{key}.json", json.dumps(entry).encode())
        _trim(folder)
        return True
    return False


def _trim(folder: Path) -> None:
    entries = list(folder.glob("*.json"))
    if len(entries) > _LIMIT_ENTRIES:
        ages: list[tuple[float, Path]] = []
        for path in entries:
            with suppress(OSError):
                ages.append((path.stat().st_mtime, path))
        for _, path in sorted(ages)[: len(entries) - _LIMIT_ENTRIES * 9 // 10]:
            path.unlink(missing_ok=True)


@dataclass
class Uses:
    """What a user's file made use of while it ran.

    Attributes
    ----------
    files
        Hash of the content by path, taken when the file was opened.
    folders
        Folders that were listed.
    environment
        Environment variables that were read, None for those that were not set.
    reasons
        Why an answer cannot be kept; empty if it can.
    """

    files: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    environment: dict[str, str | None] = field(default_factory=dict)
    reasons: set[str] = field(default_factory=set)

    def add_file(self, path: str) -> None:
        """Remember a file, with the content that it has now; one that changes while it is used is a reason not to keep."""
        content = _content(path)
        if self.files.setdefault(path, content) != content:
            self.reasons.add(f"{path} changed")


_ACTIVE: list[tuple[int, Uses]] = []


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    """Folders whose content belongs to an installation, whose versions are in the key (the interpreter, site-packages, presilicon)."""
    import site

    paths = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")} | set(site.getsitepackages())
    paths |= {site.getusersitepackages(), "/proc", "/sys", "/dev", "/etc", str(cache_folder() or ""), *map(str, _own_folders())}
    return tuple(os.path.realpath(path).rstrip("/") + "/" for path in paths if path)


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


@lru_cache(maxsize=32768)
def _foreign(path: str) -> bool:
    """Whether an absolute path lies outside of every installation. Where folders lie is found out once a process."""
    folder, name = os.path.split(path)
    plain = name not in ("", ".", "..") and not os.path.islink(path)
    return not (f"{_real_folder(folder)}/{name}/" if plain else os.path.realpath(path) + "/").startswith(_installed())


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _ACTIVE or event not in _EVENTS:
        return
    thread, uses = _ACTIVE[-1]
    if thread != threading.get_ident():
        return
    _ACTIVE.append((0, uses))  # what is done here is not the user's
    try:
        _note(uses, event, arguments)
    finally:
        _ACTIVE.pop()


def _note(uses: Uses, event: str, arguments: tuple[Any, ...]) -> None:
    target = arguments[0] if arguments else None
    if event in _CHANGING_EVENTS:
        uses.reasons.add(f"it calls {event}")
        return
    if not isinstance(target, str | bytes | os.PathLike):
        if target is None and event in ("os.listdir", "os.scandir"):
            uses.folders.add(os.getcwd())
        return
    path = os.path.realpath(os.fsdecode(target))
    if not _foreign(path) or "__pycache__" in path:
        return
    if event == "open":
        mode = arguments[1]
        writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
        if writes or (mode is None and flags & (os.O_WRONLY | os.O_RDWR)):
            uses.reasons.add(f"it writes {path}")
        else:
            uses.add_file(path)
    else:
        uses.folders.add((_IMPORT if _importing() else "") + path)


def _importing() -> bool:
    """Whether Python's own import machinery is at work."""
    frame = sys._getframe(1)
    for _ in range(6):
        if str(frame.f_globals.get("__name__")).endswith(("importlib._bootstrap_external", "_frozen_importlib_external")):
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


_EVENTS: Final = frozenset({"open", "os.listdir", "os.scandir", *_CHANGING_EVENTS})


@lru_cache(maxsize=1)
def _install_hook() -> None:
    sys.addaudithook(_hook)


class _WatchedEnvironment(type(os.environ)):  # type: ignore[misc]
    """`os.environ` that remembers which variables the user's file asks for."""

    def __getitem__(self, name: str) -> str:
        self._remember(name)
        return str(super().__getitem__(name))

    def __iter__(self) -> Iterator[str]:
        names = list(super().__iter__())
        for name in names:
            self._remember(name)
        return iter(names)

    def __contains__(self, name: object) -> bool:
        self._remember(name)
        return bool(super().__contains__(name))

    def _remember(self, name: object) -> None:
        if _ACTIVE and _ACTIVE[-1][0] == threading.get_ident() and isinstance(name, str):
            _ACTIVE[-1][1].environment[name] = _environment_value(name)


def _environment_value(name: str) -> str | None:
    raw = os.environ._data.get(os.environ.encodekey(name))  # type: ignore[attr-defined]
    return None if raw is None else str(os.environ.decodevalue(raw))


@contextmanager
def recording(uses: Uses) -> Iterator[None]:
    """Record in `uses` what the block reads; blocks may follow one another with the same `uses`, and are of one thread.

    Modules of the user's that are loaded when the block ends count as read, whenever they were loaded.
    """
    _install_hook()
    original = os.environ.__class__
    os.environ.__class__ = _WatchedEnvironment
    _ACTIVE.append((threading.get_ident(), uses))
    try:
        yield
    finally:
        _ACTIVE.pop()
        os.environ.__class__ = original
        _add_modules(uses)


@contextmanager
def not_recording() -> Iterator[None]:
    """Work of presilicon's own within a recorded block."""
    _ACTIVE.append((0, Uses()))
    try:
        yield
    finally:
        _ACTIVE.pop()


def _add_modules(uses: Uses) -> None:
    for module in list(sys.modules.values()):
        name, file = str(getattr(module, "__name__", "")), getattr(module, "__file__", None)
        if not isinstance(file, str) or not os.path.isabs(file) or name.partition(".")[0] == __package__ or not _foreign(file):
            continue
        if file.endswith((".so", ".pyd")):
            uses.reasons.add(f"it loads {file}")
        else:
            uses.add_file(os.path.realpath(file))
    for path in list(uses.files):
        if path.endswith(".py"):
            uses.reasons |= {f"{path} uses {name}" for name in _changing(path)}


def _changing(path: str) -> set[str]:
    """Names in a source file whose values may differ from run to run."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {"a syntax that cannot be read"}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & _CHANGING_MODULES
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {str(node.module).partition(".")[0]} & _CHANGING_MODULES
        elif isinstance(node, ast.Attribute) and node.attr in _CHANGING_NAMES:
            found.add(node.attr)
        elif isinstance(node, ast.Name) and node.id == "input":
            found.add(node.id)
    return found
