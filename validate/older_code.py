"""Machine code that an older Triton made (`older_triton`), in place of that of the Triton which is installed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ..errors import TableError
from ..mapping.triton import CompiledKernel
from ..mapping.triton.cubin import read_cubin
from ..mapping.triton.tools import run_on_cubin


@lru_cache(maxsize=256)
def _read(folder: Path, name: str) -> tuple[bytes, str, int]:
    """Machine code, its listing and shared memory."""
    path = folder / "kernels.json"
    try:
        shared = json.loads(path.read_text(encoding="utf-8"))["shared_bytes"][name]
        cubin = (folder / f"{name}.cubin").read_bytes()
    except (OSError, KeyError, ValueError) as error:
        raise TableError(f"{folder}: no kernel {name!r} of an older Triton ({type(error).__name__}: {error})") from error
    return cubin, run_on_cubin("nvdisasm", ["-c", "-hex", "-gi", "-ndf"], cubin), int(shared)


def with_older_code(compiled: CompiledKernel, folder: Path, name: str) -> CompiledKernel:
    """`compiled` with the machine code of the kernel `name` of a folder that `older_triton` wrote; its arguments must be the same.

    Raises
    ------
    TableError
        The folder lacks the kernel.
    """
    cubin, sass, shared = _read(folder, name)
    info = read_cubin(cubin)
    return replace(compiled, name=info.name, cubin=cubin, sass=sass, shared_bytes=shared, registers=info.registers,
                   stack_bytes=info.stack_bytes, metadata={}, key=f"{folder}/{name}")
