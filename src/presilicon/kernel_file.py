"""A user's file of Triton kernels: ``launches()`` yields ``(kernel, grid, args, meta)``, and each is predicted on each system."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from . import kernel_memo
from .errors import KernelError, PresiliconError, shown

if TYPE_CHECKING:
    from .arch import System
    from .mapping.triton import CapturedLaunch

#: Launches that one file may yield; more are taken for a generator without an end.
MOST_LAUNCHES: Final = 1000
_FORM: Final = "expected (kernel, grid, args, meta)"
#: What torch and Triton say where no GPU is found: "Torch not compiled with CUDA enabled", "Found no NVIDIA driver", "0 active drivers".
_NO_GPU: Final = ("CUDA", "NVIDIA", "active drivers")


@dataclass(frozen=True)
class FileLaunch:
    """One launch that a file yields; `captured` where it comes from `capture_launches`."""

    kernel: Any = field(repr=False)
    grid: Any = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    number: int = 0
    captured: CapturedLaunch | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The kernel's function name."""
        from .mapping.triton.launch import unwrap

        return str(unwrap(self.kernel).__name__)

    @property
    def argument_names(self) -> list[str]:
        """Names of the kernel's parameters."""
        from .mapping.triton.launch import unwrap

        return [param.name for param in unwrap(self.kernel).params]


class LaunchesError(KernelError):
    """Some launches of a file cannot be predicted; `documents` holds the answers of the others."""

    def __init__(self, message: str, documents: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.documents = documents


def load_launches(path: Path, gpus: Sequence[System]) -> list[list[FileLaunch]]:
    """Run a file and its ``launches()``, for each of the systems.

    The file runs once for all of them, unless it fails because it asks for a GPU (its number of SMs, a tensor on ``"cuda"``) and there is
    none: then it runs once for each system, and is told that it is there, as `capture_launches` tells it.

    Raises
    ------
    TraceError, UnknownNameError
        The file does not exist or raises, or has no function ``launches``.
    KernelError
        ``launches()`` raises, yields nothing, or something else than launches.
    """
    try:
        return [_run(path)] * len(gpus)
    except PresiliconError as error:
        if not any(word in str(error) for word in _NO_GPU):
            raise
    from .mapping.triton.capture import capture_launches

    made = []
    for gpu in gpus:
        with capture_launches(gpu) as launched:
            made.append(_run(path, launched))
    return made


def _run(path: Path, launched: list[CapturedLaunch] | None = None) -> list[FileLaunch]:
    """Run a file and its ``launches()``; what was launched while it ran comes last."""
    from .workloads.pyfile import load_function, user_line

    _, function = load_function(f"{path}:launches")
    made: list[FileLaunch] = []
    try:
        found = function()
        if found is None and launched:
            found = ()
        if not hasattr(found, "__iter__"):
            raise KernelError(f"{path}: launches() returned {shown(found)}; {_FORM} for each launch, yielded or in a list")
        for item in chain(found, () if launched is None else launched):
            if len(made) >= MOST_LAUNCHES:
                raise KernelError(f"{path}: launches() yields more than {MOST_LAUNCHES} launches")
            made.append(_as_launch(item, len(made), path))
    except KernelError:
        raise
    except (Exception, SystemExit) as error:
        raise KernelError(f"{path}: launches() raised {user_line(error, path)}") from error
    if not made:
        raise KernelError(f"{path}: launches() yields nothing; {_FORM} for each launch")
    return made


def _as_launch(item: Any, number: int, path: Path) -> FileLaunch:
    where = f"{path}: launch {number} of launches()"
    if hasattr(item, "bind") and hasattr(item, "kernel"):  # recorded by capture_launches
        return FileLaunch(item.kernel, item.grid, tuple(item.args), dict(item.meta), number, item)
    if not isinstance(item, tuple | list) or len(item) not in (3, 4):
        raise KernelError(f"{where} is {shown(item)}; {_FORM}")
    kernel, grid, args, meta = (*item, {})[:4]
    if not isinstance(args, tuple | list):
        raise KernelError(f"{where}: the arguments are {shown(args)}, not a tuple or list; {_FORM}")
    if not isinstance(meta, dict) or not all(isinstance(name, str) for name in meta):
        raise KernelError(f"{where}: the keyword arguments are {shown(meta)}, not a dict with names as keys; {_FORM}")
    return FileLaunch(kernel, grid, tuple(args), dict(meta), number)


def predict_file(
    path: Path, systems: Sequence[str], *, fidelity: str = "tile", record: bool = False, fresh: bool = False,
    assume: Mapping[str, int | bool] | None = None, progress: Callable[[float, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Documents (`KernelReport.document`) of every launch of a file on every system, launch by launch.

    What was answered before is taken from the disk before torch or Triton are imported, if nothing that it depended on has changed; see
    `presilicon.kernel_memo`.

    Parameters
    ----------
    path
        The file.
    systems
        Names or device files of GPUs.
    fidelity, record
        As `predict_kernel` takes them.
    fresh
        Leave the answers on the disk alone.
    assume
        As `predict_kernel` takes it; each name must decide something in one launch at least.
    progress
        Called with predictions made and wanted; of an autotuned launch each config is a part of one.

    Raises
    ------
    PresiliconError
        As `load_launches` and `predict_kernel` do; the message names the launch.
    LaunchesError
        Only some launches can be predicted.
    """
    if not path.is_file():
        raise KernelError(f"{path}: no such file")
    key = kernel_memo.question(
        "file", {"systems": list(systems), "fidelity": fidelity, "record": record, "assume": sorted(map(repr, (assume or {}).items()))},
        [path, *(Path(name) for name in systems if name.endswith((".yaml", ".yml")) or "/" in name)],
    )
    kept = None if fresh else kernel_memo.load(key)
    if kept is not None:
        return list(kept["documents"])
    uses = kernel_memo.Uses()
    documents = _predict(path, systems, fidelity, record, assume or {}, uses, progress)
    kernel_memo.store(key, {"documents": documents}, uses)
    return documents


def _predict(
    path: Path, systems: Sequence[str], fidelity: str, record: bool, assume: Mapping[str, int | bool], uses: kernel_memo.Uses,
    progress: Callable[[float, int], None] | None,
) -> list[dict[str, Any]]:
    import logging

    from .kernel_api import gpu_of, predict_launch, told_elsewhere
    from .mapping.triton.decisions import check_arguments, check_used, split
    from .mapping.triton.tools import require_triton
    from .sim.sm.ahead import compile_ahead

    gpus: list[System] = [gpu_of(name) for name in systems]
    require_triton()
    compile_ahead(fidelity)
    _need_torch()
    logging.disable(logging.WARNING)
    try:
        uses.add_file(str(path.resolve()))
        with kernel_memo.recording(uses):
            loaded = load_launches(path, gpus)
        launches = [(launch, gpu) for group in zip_longest(*loaded) for launch, gpu in zip(group, gpus, strict=True) if launch is not None]
        documents: list[dict[str, Any]] = []
        failures: list[KernelError] = []

        def part(done: int, wanted: int) -> None:
            if progress is not None:
                progress(len(documents) + done / wanted, len(launches))

        for launch, gpu in launches:
            try:
                with kernel_memo.recording(uses):  # grids, heuristics and pruning are the user's code too
                    report = predict_launch(
                        launch.kernel, launch.grid, launch.args, gpu, launch.meta, fidelity=fidelity, record=record, assume=assume,
                        progress=part,
                    )
            except KernelError as error:
                where = f"{path}: launch {launch.number}: " if str(path) not in str(error) else ""
                failures.append(KernelError(f"{where}{error}"))
                failures[-1].__cause__ = error
                continue
            told = told_elsewhere(launch.captured, gpu) if launch.captured is not None else ""
            if told:
                report = report.assuming(told)
            documents.append({**report.document(), "launch": launch.number})
            if progress is not None:
                progress(len(documents), len(launches))
        if failures and documents:
            raise LaunchesError("\n".join(dict.fromkeys(map(str, failures))), documents) from failures[0]
        if failures:
            raise failures[0]
        values, lines = split(assume)
        check_arguments(values, {name for launch, _ in launches for name in launch.argument_names})
        check_used(lines, [text for document in documents for text in document["run"]["assumptions"]])
    finally:
        logging.disable(logging.NOTSET)
    return documents


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise KernelError(f"launches() needs torch for its meta tensors, which could not be imported ({error}): "
                          "pip install 'presilicon[trace,kernels]'") from None
