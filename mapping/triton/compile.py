"""Compile a launch for a GPU that is not there, and keep what the compiler said of it.

The stages are Triton's own (`backend.add_stages`), run in order on an explicit `GPUTarget`; what a GPU would be asked for
(registers, shared memory, spills) is read from the cubin.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import KernelError
from . import cache
from .cubin import CubinInfo, read_cubin
from .launch import Grid, Launch, bind_launch, place_of, source_place
from .patience import VARIABLE, limit_s, reason_to_stop, within
from .tools import require_triton, run_on_cubin

_SCHEMA = "5"
_TEXTS = ("ttir", "ttgir", "ptx")
_ONE_AT_A_TIME = threading.RLock()
_SASS_OPTIONS = ("-c", "-hex", "-gi")


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel as ptxas left it, for one specialisation and one target.

    Attributes
    ----------
    name
        The entry point.
    target
        Compute capability.
    ttir, ttgir, ptx, sass
        Texts of each level; `sass` is ``nvdisasm -c -hex -gi``.
    cubin
        The machine code.
    num_warps
        Warps a CTA, those of warp-specialised partitions included.
    num_ctas, num_stages
        CTAs a cluster; pipeline stages asked for.
    shared_bytes
        Dynamic shared memory a CTA, as the launch asks for it.
    tensor_memory_columns
        Columns of tensor memory a CTA (sm_100); 0 elsewhere.
    registers, stack_bytes
        Registers a thread as allocated by ptxas; bytes of local memory a thread (spills).
    metadata
        All that Triton's stages noted, as JSON values.
    source_file, source_line
        Where the kernel is defined.
    key
        The content's hash, by which it is cached.
    """

    name: str
    target: int
    ttir: str = field(repr=False)
    ttgir: str = field(repr=False)
    ptx: str = field(repr=False)
    sass: str = field(repr=False)
    cubin: bytes = field(repr=False)
    num_warps: int
    num_ctas: int
    num_stages: int
    shared_bytes: int
    tensor_memory_columns: int
    registers: int
    stack_bytes: int
    metadata: Mapping[str, Any] = field(repr=False)
    source_file: str
    source_line: int
    key: str = field(repr=False)

    @property
    def threads(self) -> int:
        """Threads a CTA."""
        return self.num_warps * 32

    @cached_property
    def layout(self) -> CubinInfo:
        """Parameter layout and resources as the cubin states them."""
        return read_cubin(self.cubin)

    @property
    def static_shared_bytes(self) -> int:
        """Shared memory that the code declares beside the dynamic part, without what the system reserves."""
        return max(0, self.layout.static_shared_bytes - (1024 if self.target >= 90 else 0))


def _environment() -> dict[str, str]:
    """Settings that change what Triton compiles."""
    library = importlib.import_module("triton._C.libtriton")
    getter = getattr(library, "get_cache_invalidating_env_vars", None)
    return dict(getter()) if getter else {}


def _source(launch: Launch) -> Any:
    source = importlib.import_module("triton.compiler.compiler").ASTSource
    return source(launch.function, dict(launch.signature), dict(launch.constexprs), dict(launch.attributes))


def content_key(launch: Launch) -> str:
    """Hash of everything that the machine code depends on: source and closure, specialisation, options, target, Triton."""
    triton = require_triton()
    try:
        source = _source(launch).hash()
    except Exception as error:
        raise KernelError(f"{place_of(launch.function)} does not compile: {type(error).__name__}: {error}") from error
    kinds = sorted((str(path), _kind(value)) for path, value in launch.constexprs.items())  # the source's hash takes 1024 for "1024"
    parts = [_SCHEMA, triton.__version__, str(launch.target), source, launch.options.hash(), source_place(launch.function)[0],
             json.dumps(sorted(_environment().items())), json.dumps(kinds)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _kind(value: Any) -> str:
    """The type of a constexpr, and those inside a tuple."""
    inner = getattr(value, "value", value) if type(value).__name__ == "constexpr" else value
    return f"({' '.join(map(_kind, inner))})" if isinstance(inner, tuple | list) else type(inner).__name__


def _run_stages(launch: Launch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Texts by stage and the metadata; raises what Triton raises."""
    compiler = importlib.import_module("triton.compiler.compiler")
    ir = importlib.import_module("triton._C.libtriton").ir
    backend = compiler.make_backend(compiler.GPUTarget("cuda", launch.target, 32))
    source, options = _source(launch), launch.options
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    metadata: dict[str, Any] = {**options.__dict__}
    module = source.make_ir(backend.target, options, backend.get_codegen_implementation(options), backend.get_module_map(),
                            context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    made: dict[str, Any] = {}

    def go_on(module: Any, names: Sequence[str]) -> Any:
        for name in names:
            module = stages[name](module, metadata)
            if name == "ptx":
                module = _one_line_each(module)
            made[name] = module if isinstance(module, bytes) else str(module)
        return module

    def rest() -> tuple[dict[str, Any], dict[str, Any]]:
        go_on(module, names[early:])
        return made, json.loads(json.dumps(metadata, default=str))

    names = list(stages)
    early = names.index("ttgir") + 1 if "ttgir" in names else 0
    module = go_on(module, names[:early])
    limit, reason = limit_s(), reason_to_stop(made.get("ttgir", ""), 32 * int(options.num_warps))
    if reason is None or not limit or not hasattr(os, "fork"):
        go_on(module, names[early:])
        return made, metadata
    try:
        done: tuple[dict[str, Any], dict[str, Any]] = within(limit, rest)
    except TimeoutError:
        raise RuntimeError(f"still compiling after {limit:g} s: {reason}, or set {VARIABLE} to more seconds (0: no limit)") from None
    return done


def _one_line_each(ptx: str) -> str:
    """PTX in which a block of inline assembly has one source line.

    LLVM counts the lines of the assembly text as if they were lines of the kernel's file, so that a masked load of four words would
    spread over four lines, those of other statements among them.
    """

    def settle(block: re.Match[str]) -> str:
        first, *rest = re.split(r"(?m)^(?=[ \t]*\.loc\b)", block[0])
        return first + "".join(part if number == 0 else part.partition("\n")[2] for number, part in enumerate(rest))

    return re.sub(r"// begin inline asm.*?// end inline asm", settle, ptx, flags=re.DOTALL)


@contextlib.contextmanager
def _quietly(notes: list[str]) -> Iterator[None]:
    """Keep Triton's Python and C++ sides from printing; MLIR's errors go into `notes`, where they stand for a message."""
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as said, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            text = said.read().decode(errors="replace")
            notes += dict.fromkeys(line for line in text.splitlines() if re.search(r":\d+:\d+: error: |^error: ", line))


def _compile(launch: Launch) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Head and parts of a cache entry, but for the machine code's text."""
    notes: list[str] = []
    try:
        with _quietly(notes):
            made, metadata = _run_stages(launch)
    except Exception as error:
        said = "\n".join([*notes, str(error).strip() or type(error).__name__])
        cause = error.__cause__
        while cause is not None:
            said += f"\n{type(cause).__name__}: {cause}" if str(cause) and str(cause) not in said else ""
            cause = cause.__cause__
        raise KernelError(f"{place_of(launch.function)} does not compile for sm_{launch.target}: {said}") from error
    cubin = made["cubin"]
    info = read_cubin(cubin)
    head = {
        "name": info.name, "num_warps": int(metadata.get("num_warps", launch.options.num_warps)),
        "num_ctas": launch.options.num_ctas, "num_stages": launch.options.num_stages,
        "shared_bytes": int(metadata.get("shared") or 0), "tensor_memory_columns": int(metadata.get("tmem_size") or 0),
        "registers": info.registers, "stack_bytes": info.stack_bytes,
        "metadata": json.loads(json.dumps(metadata, default=str)),
    }
    parts = {name: made[name].encode() for name in _TEXTS} | {"cubin": cubin}
    return head, parts


def _disassembled(cubin: bytes) -> str:
    text = run_on_cubin("nvdisasm", [*_SASS_OPTIONS, "-ndf"], cubin)
    # the targets of BRX are listed by the slower data-flow analysis only
    return run_on_cubin("nvdisasm", _SASS_OPTIONS, cubin) if re.search(r"\bBRX\b", text) else text


def compile_launch(launch: Launch, *, cached: bool = True, folder: Path | None = None,
                   problem: Callable[[CompiledKernel], str] | None = None) -> CompiledKernel:
    """Compile a bound launch, or take it from the cache.

    Parameters
    ----------
    launch
        From `bind_launch`.
    cached
        False compiles anew and leaves the cache alone.
    folder
        Cache folder; `cache.kernel_folder` by default.
    problem
        Asked of the kernel without `sass` why it is of no use, "" if it is: what cannot be launched need not be disassembled.

    Raises
    ------
    KernelError
        The kernel does not compile; the message is Triton's (or ptxas's), behind the kernel's file and line. Or it has a `problem`.
    """
    key = content_key(launch)
    folder = (folder or cache.kernel_folder()) if cached else None
    entry = cache.load(folder, key) if folder else None
    known = entry is not None and {*_TEXTS, "cubin"} <= entry[1].keys()
    head, parts = entry if entry is not None and known else _compile(launch)
    file, line = source_place(launch.function)
    texts: dict[str, Any] = {name: parts[name].decode() for name in _TEXTS}
    made = CompiledKernel(target=launch.target, cubin=parts["cubin"], sass=parts.get("sass", b"").decode(), source_file=file,
                          source_line=line, key=key, **texts, **head)
    found = problem(made) if problem is not None else ""
    if not found and not made.sass:
        made = replace(made, sass=_disassembled(made.cubin))
        known, parts = False, {**parts, "sass": made.sass.encode()}
    if folder and not known:
        cache.store(folder, key, head, parts)
    if found:
        raise KernelError(f"{place_of(launch.function)} {found}")
    return made


def compile_kernel(kernel: Any, grid: Grid, args: Sequence[Any], meta: Mapping[str, Any] | None = None, *,
                   target: int | str, config: Any = None) -> CompiledKernel:
    """Compile ``kernel[grid](*args, **meta)`` for a GPU that need not be there; see `bind_launch` for the arguments."""
    return compile_launch(bind_launch(kernel, grid, args, meta, target=target, config=config))


def resource_usage(compiled: CompiledKernel) -> dict[str, int]:
    """What ``cuobjdump -res-usage`` says of the cubin: ``REG``, ``STACK``, ``SHARED``, ``LOCAL``, ``CONSTANT[0]`` and others."""
    text = run_on_cubin("cuobjdump", ["-res-usage"], compiled.cubin)
    pairs = (item.rsplit(":", 1) for item in text.split() if ":" in item)
    return {name: int(value) for name, value in pairs if value.isdecimal()}
