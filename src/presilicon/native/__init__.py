"""Functions of plain loops over NumPy arrays as machine code, by the LLVM that numba brings along.

numba itself takes half a minute for the two largest of them, nine tenths of it in Python: it types and rewrites every one of a function's
values. What they are written in is so small (see `module`) that it can be written down as LLVM's text in one pass. Machine code is kept in
``native`` of `files.cache_folder`, by the functions, the kinds of arguments and the processor.

To optimise takes LLVM six times as long as to write plain machine code, which runs two to four times as long and gives the same numbers to
the last bit (no option allows LLVM to reorder floating-point arithmetic). So a function is plain code first, and is optimised, in a
thread of its own, once it has run for `PLAIN_S`: about what that costs.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from threading import Lock, Thread
from time import perf_counter
from typing import Any, Final

import numpy as np

from ..errors import OutputError
from ..files import cache_folder, trim_folder, write_atomically
from .kinds import FLOAT, TRUTH, UNSIGNED, Argument, argument_of
from .module import DATA, ELEMENT, EXTENTS, FLAGS, RANK, Module

#: The folder of machine code is kept below this size.
LIMIT_BYTES: Final = 16 * 2**20
#: A function that has run for so many seconds as plain code is optimised: within a factor of two of what the largest of them cost LLVM.
PLAIN_S: Final = 0.3


#: Machine code: what it gives for some values, whose types of elements (their addresses) are given too; None where the arrays are others.
Code = Callable[[tuple[Any, ...], bytes], Any]


class _Processor:
    """LLVM for the processor that this runs on."""

    def __init__(self) -> None:
        import llvmlite
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.llvm = llvm
        cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
        self.name = f"{llvmlite.__version__} {llvm.get_process_triple()} {cpu} {features}"
        target = llvm.Target.from_triple(llvm.get_process_triple())
        self.machine, self.plain = (target.create_target_machine(cpu=cpu, features=features, opt=level, reloc="pic",
                                                                 codemodel="jitdefault", jit=True) for level in (2, 0))
        self.engines: list[Any] = []

    def object_of(self, text: str, optimised: bool = True) -> bytes:
        """Machine code of LLVM's text."""
        llvm = self.llvm
        module = llvm.parse_assembly(text)
        module.triple, module.data_layout = llvm.get_process_triple(), str(self.machine.target_data)
        if not optimised:
            plain: bytes = self.plain.emit_object(module)
            return plain
        # rows of 32 lanes are what loops go over: unrolled or interleaved ones take twice as long to compile and run no faster
        options = llvm.create_pipeline_tuning_options(speed_level=1)
        options.loop_unrolling = options.loop_interleaving = False
        builder = llvm.create_pass_builder(self.machine, options)
        builder.getModulePassManager().run(module, builder)
        found: bytes = self.machine.emit_object(module)
        return found

    def address_of(self, machine_code: bytes) -> int:
        """Address of ``entry``, loaded."""
        llvm = self.llvm
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), self.machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
        engine.finalize_object()
        self.engines.append(engine)
        return int(engine.get_function_address("entry"))


def _arrays_are_known() -> bool:
    """Whether arrays lie in memory as `module` has it."""
    one = np.zeros((3, 5))
    data, extents, element = (ctypes.c_void_p.from_address(id(one) + place).value for place in (DATA, EXTENTS, ELEMENT))
    ordered, other = (ctypes.c_int32.from_address(id(array) + FLAGS).value & 1 for array in (one, one[:, 1:]))
    return data == one.ctypes.data and element == id(one.dtype) and (ordered, other) == (1, 0) \
        and ctypes.c_int32.from_address(id(one) + RANK).value == 2 \
        and extents is not None and [ctypes.c_int64.from_address(extents + 8 * k).value for k in (0, 1)] == [3, 5]


def _processor() -> _Processor | None:
    """None where there is no LLVM of a version that knows untyped pointers."""
    with _LOCK:
        return _known_processor()


_LOCK: Final = Lock()


@lru_cache(maxsize=1)
def _known_processor() -> _Processor | None:
    try:
        import llvmlite

        recent = tuple(map(int, llvmlite.__version__.split(".")[:2])) >= (0, 45)
        return _Processor() if recent and sys.implementation.name == "cpython" and _arrays_are_known() else None
    except (ImportError, OSError, ValueError):
        return None


def available() -> bool:
    """Whether functions can be compiled here (the extra `fast`)."""
    return _processor() is not None


class Native:
    """A function that is compiled for each kinds of arguments that it is called with; without LLVM it runs as it stands.

    Arrays must be in C order; what the function writes is written to them. Other threads go on meanwhile. It is plain code first (see
    `presilicon.native`).

    Parameters
    ----------
    inlined, wide
        As `module.Module` takes them.
    usual
        What it is called with as a rule: names of arguments by what `kinds.argument_of` says of them; arguments that are not named are
        ``("i8", 1)``. For these it can be compiled `ahead` of the first call.
    """

    def __init__(self, function: Callable[..., Any], *, inlined: bool = True, wide: tuple[Callable[..., Any], ...] = (),
                 usual: Mapping[Argument, str] | None = None) -> None:
        self.function = function
        self.inlined, self.wide, self.usual = inlined, wide, _usual(function, usual) if usual is not None else None
        self.last: dict[tuple[type, ...], tuple[Code, bytes, tuple[Any, ...]]] = {}
        self.code: dict[tuple[Argument, ...], Code] = {}
        self.lock = Lock()

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns: a number, or a tuple of them."""
        types = tuple(map(type, arguments))
        last = self.last.get(types)
        found = last[0](arguments, last[1]) if last is not None else None
        if found is None:  # the code itself says whether arrays are those that it is for
            if _processor() is None:
                return self.function(*arguments)
            code = self._loaded(tuple([argument_of(value) for value in arguments]))
            elements = tuple([value.dtype if isinstance(value, np.ndarray) else None for value in arguments])
            words = struct.pack(f"{len(elements)}q", *map(id, elements))
            self.last[types] = code, words, elements
            found = code(arguments, words)
        return found

    def ahead(self, *, optimised: bool = False) -> None:
        """Load or compile it for its usual arguments, where there is LLVM."""
        if self.usual is not None and _processor() is not None:
            self._loaded(self.usual)
            if optimised:
                self.optimise(self.usual)

    def _loaded(self, arguments: tuple[Argument, ...]) -> Code:
        """Code for these arguments, by one thread; others that want it wait."""
        with self.lock:
            if arguments not in self.code:
                self.code[arguments] = _loaded(self, arguments)
            return self.code[arguments]

    def optimise(self, arguments: tuple[Argument, ...]) -> None:
        """From now on optimised code in place of plain code."""
        if isinstance(self.code.get(arguments), _Plain):
            better = _loaded(self, arguments, optimised=True)
            with self.lock:
                self.code[arguments] = better
                self.last.clear()


class _Plain:
    """Plain code, until it has run for long enough that optimised code would have paid."""

    def __init__(self, native: Native, arguments: tuple[Argument, ...], call: Code) -> None:
        self.native, self.arguments, self.call, self.left_s = native, arguments, call, PLAIN_S

    def __call__(self, values: tuple[Any, ...], elements: bytes) -> Any:
        start = perf_counter()
        found = self.call(values, elements)
        before = self.left_s
        self.left_s = before - (perf_counter() - start)
        if self.left_s <= 0.0 < before:
            _in_thread(lambda: self.native.optimise(self.arguments))
        return found


def _usual(function: Callable[..., Any], named: Mapping[Argument, str]) -> tuple[Argument, ...]:
    kinds = {name: kind for kind, names in named.items() for name in names.split()}
    return tuple([kinds.get(name, ("i8", 1)) for name in inspect.signature(function).parameters])


def ahead(functions: Iterable[Native], *, optimised: bool = False) -> None:
    """Load or compile functions for their usual arguments, in a thread of its own: LLVM keeps no other thread from going on.

    Before a process forks, the thread comes to its end.

    Parameters
    ----------
    optimised
        At once, not only when they have run for `PLAIN_S`.
    """
    if _processor() is None:
        return

    def work() -> None:
        for function in functions:
            with suppress(Exception):  # whatever it is, the call will say it
                function.ahead(optimised=optimised)

    _in_thread(work)


def _in_thread(work: Callable[[], Any]) -> None:
    thread = Thread(target=work, name="presilicon-native")
    thread.start()
    _THREADS.append(thread)


def _wait() -> None:
    while _THREADS:
        _THREADS.pop().join()


_THREADS: Final[list[Thread]] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait)


def _loaded(native: Native, arguments: tuple[Argument, ...], *, optimised: bool = False) -> Code:
    """Machine code for these arguments, from the cache or made; plain code where optimised code is neither kept nor asked for."""
    processor = _processor()
    assert processor is not None
    kept = _read(_path(native, arguments, processor, True))
    plain = kept is None and not optimised
    raw, kinds = kept or _made(native, arguments, processor, not plain)
    run = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3)(processor.address_of(raw))
    pack = struct.Struct("".join("d" if argument == FLOAT else "Q" if argument == UNSIGNED else "q" for argument in arguments)).pack
    unpack = struct.Struct("".join("d" if kind == FLOAT else "q" for kind in kinds)).unpack_from
    results = ctypes.c_int64 * max(len(kinds), 1)
    numbers = [n for n, argument in enumerate(arguments) if isinstance(argument, str)]
    truths = [n for n in numbers if arguments[n] == TRUTH]
    alone = len(kinds) == 1

    def call(values: tuple[Any, ...], elements: bytes) -> Any:
        words: list[Any] = list(map(id, values))
        for n in numbers:
            words[n] = values[n]
        for n in truths:
            words[n] = bool(values[n])
        found = results()
        if not run(pack(*words), found, elements):
            return None
        got = unpack(found)
        return got[0] if alone else got

    return _Plain(native, arguments, call) if plain else call


def _read(path: Path | None) -> tuple[bytes, str] | None:
    """Machine code that is kept, and the kinds of what it returns."""
    if path is not None:
        with suppress(OSError, ValueError):
            digest, kinds, raw = path.read_bytes().split(b"\n", 2)
            if hashlib.sha256(kinds + raw).hexdigest() == digest.decode():
                return raw, kinds.decode()
    return None


def _made(native: Native, arguments: tuple[Argument, ...], processor: _Processor, optimised: bool) -> tuple[bytes, str]:
    """Machine code, and the kinds of what it returns; plain code may be kept."""
    path = _path(native, arguments, processor, optimised)
    kept = None if optimised else _read(path)
    if kept is not None:
        return kept
    text, results = Module(inlined=native.inlined, wide=native.wide).entry(native.function, arguments)
    raw, kinds = processor.object_of(text, optimised), "".join(results).encode()
    if path is not None:
        with suppress(OutputError, OSError):
            write_atomically(path, b"\n".join([hashlib.sha256(kinds + raw).hexdigest().encode(), kinds, raw]))
            trim_folder(path.parent, "*.o", LIMIT_BYTES)
    return raw, kinds.decode()


def _path(native: Native, arguments: tuple[Argument, ...], processor: _Processor, optimised: bool) -> Path | None:
    """Changes with the function, what it calls and reads, how it is compiled, the translator, the processor; None where nothing is kept."""
    base, function = cache_folder(), native.function
    if base is None:
        return None
    mixed = hashlib.sha256(repr((sys.version, processor.name, arguments, native.inlined, [f.__name__ for f in native.wide])).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        mixed.update(path.read_bytes())
    for part in _parts(function, set()):
        mixed.update(part)
    return base / "native" / f"{function.__name__}-{mixed.hexdigest()[:32]}{'' if optimised else '-plain'}.o"


def _parts(function: Callable[..., Any], seen: set[Callable[..., Any]]) -> Iterator[bytes]:
    """Code of a function and of those that it calls, and the values of the names of its module that it uses."""
    if function in seen:
        return
    seen.add(function)
    code: Any = function.__code__
    yield repr((code.co_code, code.co_consts, code.co_names, code.co_varnames)).encode()
    for name in code.co_names:
        held = function.__globals__.get(name)
        if inspect.isfunction(held):
            yield from _parts(held, seen)
        elif isinstance(held, np.ndarray):
            yield name.encode() + held.dtype.str.encode() + held.tobytes()
        elif isinstance(held, (int, float, np.generic)):
            yield repr((name, type(held).__name__, held)).encode()
