"""Recording the Triton launches that a program makes, instead of running them."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .compile import CompiledKernel, compile_launch
from .launch import Grid, Launch, bind_launch, configs_of, unwrap
from .tools import require_triton

_LOCK = threading.RLock()
_OPEN: list[list[CapturedLaunch]] = []
_KEPT: list[tuple[type, Any]] = []


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
    """

    kernel: Any = field(repr=False)
    grid: Grid = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    meta: Mapping[str, Any] = field(repr=False)
    where: str

    @property
    def name(self) -> str:
        """The kernel's function name."""
        return str(unwrap(self.kernel).__name__)

    def configs(self) -> list[Any]:
        """The configs that an autotuned kernel would choose from; empty for others."""
        return configs_of(self.kernel, self.args, self.meta)

    def bind(self, target: int | str, config: Any = None) -> Launch:
        """The launch bound for a target; see `bind_launch`."""
        return bind_launch(self.kernel, self.grid, self.args, self.meta, target=target, config=config)

    def compile(self, target: int | str, config: Any = None) -> CompiledKernel:
        """The launch compiled for a target."""
        return compile_launch(self.bind(target, config))


def _caller() -> str:
    """The innermost frame that is neither ours nor Triton's."""
    frame = sys._getframe(1)
    ours = (__name__, "triton.", "contextlib", "torch.")
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith(ours):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _record(kernel: Any, *args: Any, grid: Grid, warmup: bool = False, **meta: Any) -> CapturedLaunch:
    made = CapturedLaunch(kernel, grid, args, dict(meta), _caller())
    if not warmup:
        _OPEN[-1].append(made)
    return made


def _classes() -> list[type]:
    require_triton()
    jit = importlib.import_module("triton.runtime.jit")
    autotuner = importlib.import_module("triton.runtime.autotuner")
    return [jit.JITFunction, autotuner.Autotuner, autotuner.Heuristics]


@contextmanager
def capture_launches() -> Iterator[list[CapturedLaunch]]:
    """Record every Triton launch made in the block instead of running it.

    Tensors may be meta tensors; nothing is compiled and no GPU is asked for. A launch gives back its `CapturedLaunch`, and
    output tensors keep what they held. Blocks may be nested (the inner one records), and threads share the recorder.

    Yields
    ------
    The launches so far, in order.

    Raises
    ------
    KernelError
        Triton is not installed.
    """
    launches: list[CapturedLaunch] = []
    with _LOCK:
        if not _OPEN:
            for kind in _classes():
                _KEPT.append((kind, kind.__dict__["run"]))
                kind.run = _record  # type: ignore[attr-defined]
        _OPEN.append(launches)
    try:
        yield launches
    finally:
        with _LOCK:
            _OPEN[:] = [other for other in _OPEN if other is not launches]
            if not _OPEN:
                while _KEPT:
                    kind, original = _KEPT.pop()
                    kind.run = original  # type: ignore[attr-defined]
