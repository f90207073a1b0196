"""Recording the Triton launches that a program makes, instead of running them."""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from ...arch import System
from ...errors import KernelError
from .absent import AbsentGpu, present
from .compile import CompiledKernel, compile_launch
from .launch import Grid, Launch, bind_launch, configs_of, unwrap
from .tools import require_triton

_LOCK = threading.RLock()
_OPEN: list[tuple[list[CapturedLaunch], AbsentGpu | None]] = []
_KEPT: list[tuple[type, str, Any]] = []


@dataclass(frozen=True)
class CapturedLaunch:
    """One ``kernel[grid](*args, **meta)`` that was recorded.

    Attributes
    ----------
    kernel
        As it was launched: a `JITFunction`, or an autotune or heuristics wrapper around one.
    grid, args, meta
        As they were passed.
    where
        ``file.py:12`` of the launch.
    told
        What the program had asked for, by the time of the launch, of the GPU that it was told to be on: ``{"multi_processor_count": 132}``.
    system
        That GPU; None where the program was told nothing.
    """

    kernel: Any = field(repr=False)
    grid: Grid = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    meta: Mapping[str, Any] = field(repr=False)
    where: str
    told: Mapping[str, Any] = field(default_factory=dict, repr=False)
    system: System | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The kernel's function name."""
        return str(unwrap(self.kernel).__name__)

    def configs(self) -> list[Any]:
        """The configs that an autotuned kernel would choose from; empty for others."""
        return configs_of(self.kernel, self.args, self.meta, self.system)

    def bind(self, target: int | str, config: Any = None) -> Launch:
        """The launch bound for a target; see `bind_launch`."""
        return bind_launch(self.kernel, self.grid, self.args, self.meta, target=target, config=config, system=self.system)

    def compile(self, target: int | str, config: Any = None) -> CompiledKernel:
        """The launch compiled for a target."""
        return compile_launch(self.bind(target, config))


class WarmedUp(CapturedLaunch):
    """What ``kernel.warmup(...)`` gives back: programs read the compiled kernel's resources and launch it with a grid of their own."""

    @cached_property
    def _compiled(self) -> CompiledKernel:
        if self.system is None:
            raise KernelError(f"{self.where}: what {self.name!r} is compiled to depends on the GPU; name it: capture_launches(system)")
        return self.compile(self.system.generation)

    def _init_handles(self) -> None:
        pass

    @property
    def n_regs(self) -> int:
        """Registers a thread."""
        return self._compiled.registers

    @property
    def n_spills(self) -> int:
        """Spilled registers a thread."""
        return self._compiled.stack_bytes // 4

    @property
    def metadata(self) -> SimpleNamespace:
        """What Triton's compiler noted."""
        return SimpleNamespace(**self._compiled.metadata)

    def __getitem__(self, grid: Grid) -> Callable[..., Any]:
        names = [param.name for param in unwrap(self.kernel).params]

        def launch(*args: Any, **_: Any) -> CapturedLaunch:
            return _record(self.kernel, grid=grid, **{**self.meta, **dict(zip(names, args, strict=False))})

        return launch


def _caller() -> str:
    """The innermost frame that is neither ours nor Triton's."""
    frame = sys._getframe(1)
    ours = (__name__, "triton.", "contextlib", "torch.")
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith(ours):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _record(kernel: Any, *args: Any, grid: Grid, warmup: bool = False, **meta: Any) -> CapturedLaunch:
    launches, gpu = _OPEN[-1]
    about = (_caller(), dict(gpu.asked), gpu.system) if gpu is not None else (_caller(), {}, None)
    if warmup:
        return WarmedUp(kernel, grid, args, dict(meta), *about)
    launches.append(CapturedLaunch(kernel, grid, args, dict(meta), *about))
    return launches[-1]


def _launcher(kernel: Any, grid: Grid) -> Callable[..., Any]:
    """``kernel[grid]``, also of wrappers that libraries put around Triton's own: their `run` measures, or looks into what was compiled."""
    try:
        unwrap(kernel)
    except KernelError:
        return functools.partial(kernel.run, grid=grid, warmup=False)
    return functools.partial(_record, kernel, grid=grid)


def _replacements() -> Iterator[tuple[type, str, Any]]:
    """Class, method, and what it does while launches are recorded."""
    require_triton()
    jit = importlib.import_module("triton.runtime.jit")
    autotuner = importlib.import_module("triton.runtime.autotuner")
    yield jit.KernelInterface, "__getitem__", _launcher
    for kind in (jit.JITFunction, autotuner.Autotuner, autotuner.Heuristics):
        yield kind, "run", _record


@contextmanager
def capture_launches(system: System | None = None) -> Iterator[list[CapturedLaunch]]:
    """Record every Triton launch made in the block instead of running it.

    Tensors may be meta tensors; nothing is compiled and no GPU is asked for. A launch gives back its `CapturedLaunch`, and
    output tensors keep what they held. Blocks may be nested (the inner one records), and threads share the recorder.

    Parameters
    ----------
    system
        A GPU that need not be there, which answers where the program asks for its own: meta tensors pass for tensors on it (`x.is_cuda`,
        `x.device`), what is made on ``"cuda"`` is a meta tensor, `torch.cuda` and Triton's driver tell its SMs, capability and memory, and
        custom operators (`torch.library`) run what they would run on a GPU. None: torch and Triton are as they are.

    Yields
    ------
    The launches so far, in order.

    Raises
    ------
    KernelError
        Triton is not installed.
    """
    launches: list[CapturedLaunch] = []
    gpu = None if system is None else AbsentGpu(system)
    with _LOCK:
        if not _OPEN:
            for kind, name, instead in _replacements():
                _KEPT.append((kind, name, kind.__dict__[name]))
                setattr(kind, name, instead)
        _OPEN.append((launches, gpu))
    try:
        with ExitStack() as around:
            if gpu is not None:
                # It loads itself at the first operation on a meta tensor, and lists the functions of torch.cuda then: not ours.
                importlib.import_module("torch._dynamo")
                around.enter_context(present(gpu))
            yield launches
    finally:
        with _LOCK:
            _OPEN[:] = [other for other in _OPEN if other[0] is not launches]
            if not _OPEN:
                while _KEPT:
                    setattr(*_KEPT.pop())
