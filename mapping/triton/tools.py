"""Triton itself and the NVIDIA command-line tools of its wheel, found once and never needed before they are used."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ...errors import KernelError, UnknownNameError

#: Compute capabilities that kernels are compiled and followed for.
TARGETS = (80, 86, 89, 90, 100, 120)
#: `nvdisasm` fills 60 MB of tables before it reads anything: a seventh of its 0.2 s goes into the faults of 14,500 small pages.
#: Source: glibc manual, Memory Allocation Tunables; other C libraries do not look at it.
_LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.top_pad=67108864"}


@functools.cache
def require_triton() -> ModuleType:
    """The `triton` package.

    Raises
    ------
    KernelError
        Triton is not installed or cannot be loaded; names the optional extra.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("triton")
    except ImportError as error:
        raise KernelError("Triton kernels need the package `triton` (3.5 or later), which could not be imported "
                          f"({error}): pip install 'presilicon[kernels]'") from None


def parse_target(target: int | str) -> int:
    """A compute capability as an int, from ``90``, ``"90"``, ``"sm_90"``, ``"sm_90a"`` or ``"9.0"``.

    Raises
    ------
    UnknownNameError
        Not one of `TARGETS`.

    Examples
    --------
    >>> parse_target("sm_90a"), parse_target(80)
    (90, 80)
    """
    text = str(target).lower().removeprefix("sm_").removeprefix("sm").rstrip("af").replace(".", "")
    if not text.isdecimal() or int(text) not in TARGETS:
        raise UnknownNameError("target", str(target), [f"sm_{cc}" for cc in TARGETS])
    return int(text)


@functools.cache
def tool_path(name: str) -> Path:
    """Where Triton's wheel keeps `nvdisasm` or `cuobjdump`.

    Raises
    ------
    KernelError
        This Triton carries no such tool.
    """
    backend = importlib.import_module(f"{require_triton().__name__}.backends.nvidia")
    path = Path(str(backend.__file__)).parent / "bin" / name
    if not path.is_file():
        raise KernelError(f"{path}: this Triton carries no {name}; the wheel from PyPI does")
    return path


def run_on_cubin(name: str, options: Sequence[str], cubin: bytes) -> str:
    """What `nvdisasm` or `cuobjdump` prints for a cubin.

    Raises
    ------
    KernelError
        The tool failed; the message is its own.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([str(tool_path(name)), *options, file.name], capture_output=True, text=True, check=False,
                              env=_LARGE_PAGES | os.environ)
    if done.returncode:
        raise KernelError(f"{name} failed with status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
