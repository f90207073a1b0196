"""Autotuning without a GPU: the configs of a kernel ranked by prediction, and which of them are worth measuring."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import KernelError, PresiliconError, UnknownNameError
from .units import format_si

if TYPE_CHECKING:
    import pandas as pd

    from .arch import System
    from .kernel_file import FileLaunch

Config = dict[str, Any]
Progress = Callable[[int, int], None]
Decisions = Mapping[str, int | bool]

#: Mean absolute error that is left between kernels of one algorithm on one GPU once a common factor (the clock) is taken out. Source: the
#: sixteen configs of Triton's matmul tutorial on an A100, 31 published sizes: 4.5 to 5.8 %, with the SM clock as the only number fitted.
RESIDUAL: Final = 0.05
#: Two predictions with independent normal errors of that mean size differ by less than this factor in 90 % of cases:
#: the mean absolute value of a normal error is sqrt(2 / pi) of its standard deviation, 1.645 deviations hold 90 %.
SEPARABLE: Final = 1.0 + RESIDUAL * (3.141592653589793 / 2) ** 0.5 * 2**0.5 * 1.645


@dataclass(frozen=True)
class TuneRow:
    """One config.

    Attributes
    ----------
    config
        Constexpr arguments and launch options.
    time_s, low_s, high_s
        Predicted seconds and their absolute interval; infinite where it cannot launch.
    occupancy, registers, stack_bytes, shared_bytes
        Share of the warp slots, registers and spilled bytes a thread, shared memory a CTA.
    limiter
        What limits it.
    problem
        Why it cannot be compiled or launched, "" if it can.
    worth_measuring
        Whether the predictions cannot tell it from the best.
    assumptions
        What was assumed where only data could tell.
    """

    config: Config
    time_s: float
    low_s: float
    high_s: float
    occupancy: float
    registers: int
    stack_bytes: int
    shared_bytes: int
    limiter: str
    problem: str = ""
    worth_measuring: bool = False
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class TuneResult:
    """A ranked config space: fastest first, those that cannot launch last."""

    kernel: str
    system: str
    fidelity: str
    rows: tuple[TuneRow, ...] = field(repr=False)
    top: int = 5

    @property
    def best(self) -> Config:
        """The config that is predicted to be the fastest."""
        return self.rows[0].config

    @property
    def worth_measuring(self) -> list[Config]:
        """The configs that the predictions cannot tell from the best, the best included."""
        return [row.config for row in self.rows if row.worth_measuring]

    @property
    def rule(self) -> str:
        """By what two configs are told apart, in words."""
        return (
            f"two configs of one kernel on one GPU are told apart from a factor of {SEPARABLE:.3f} on: what errs alike (clock, bandwidth, "
            f"launch) cancels between them, and {RESIDUAL:.0%} mean error is left (Triton's tutorial matmul on an A100, one common factor "
            "fitted); the absolute interval is wider"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per config, in order of rank: the config's names, then the fields of `TuneRow`."""
        import pandas as pd

        apart = ("config", "assumptions")
        return pd.DataFrame([row.config | {name: value for name, value in vars(row).items() if name not in apart} for row in self.rows])

    def summary(self) -> str:
        """The ranking as text."""
        from rich.console import Console

        console = Console(width=140, force_terminal=False, color_system=None)
        with console.capture() as capture:
            self.print(console)
        return capture.get()

    def print(self, console: Any) -> None:
        """Print the `top` configs, those worth measuring, and those that cannot launch."""
        from .kernel_tables import shown_assumptions
        from .tables import make_table

        runs = [row for row in self.rows if not row.problem]
        close, failed = [row for row in runs if row.worth_measuring], [row for row in self.rows if row.problem]
        every = list(dict.fromkeys(name for row in self.rows for name in row.config))
        names = [name for name in every if len({repr(row.config.get(name, "")) for row in self.rows}) > 1]
        same = text_of({name: self.rows[0].config[name] for name in every if name not in names})
        if runs:
            best = runs[0].time_s
            rows = [
                (i + 1, *(row.config.get(name, "") for name in names), format_si(row.time_s, "s"), f"{row.time_s / best:.3f}",
                 f"{format_si(row.low_s, 's')} to {format_si(row.high_s, 's')}", f"{row.occupancy:.0%}", row.registers,
                 row.stack_bytes or "-", f"{row.shared_bytes:,d}", row.limiter, "yes" if row.worth_measuring else "")
                for i, row in enumerate(runs[: self.top])
            ]
            columns = [("rank", "right"), *((_folded(name), "right") for name in names), ("time", "right"), ("to best", "right"),
                       ("interval", "right"), ("occup.", "right"), ("regs", "right"), ("spilled", "right"), ("smem B", "right"),
                       ("limited by", "left"), ("measure", "left")]
            title = f"{self.kernel} on {self.system}, {self.fidelity}: {len(runs)} of {len(self.rows)} configs can launch"
            title += f"; all have {same}" if same else ""
            console.print(make_table(title, columns, rows))
        console.print(f"worth measuring: {len(close)} of {len(runs)}", highlight=False, markup=False)
        for row in close[self.top:]:
            console.print(f"  also {text_of(row.config)}  {format_si(row.time_s, 's')}", highlight=False, markup=False)
        console.print(self.rule, highlight=False, markup=False)
        for text in shown_assumptions(runs[0].assumptions if runs else ()):
            console.print(f"assumed: {text}", highlight=False, markup=False)
        for row in failed:
            console.print(f"cannot launch: {text_of(row.config)}: {' '.join(row.problem.split())[:300]}", highlight=False, markup=False)

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.rule)}</p>" + self.to_frame().head(max(self.top, 10)).to_html(index=False, escape=True)


def _folded(name: str) -> str:
    """A long name in two lines, parted at the underscore nearest to its middle."""
    parts = [(abs(len(name) - 2 * at), at) for at, letter in enumerate(name) if letter == "_" and len(name) > 6]
    return f"{name[:min(parts)[1]]}\n{name[min(parts)[1]:]}" if parts else name


def text_of(config: Mapping[str, Any]) -> str:
    """A config as ``NAME=VALUE NAME=VALUE``."""
    return " ".join(f"{name}={value}" for name, value in config.items())


def tune(
    kernel: Any, grid: Any, args: Sequence[Any] = (), configs: Iterable[Any] | None = None, system: System | str | Path = "h100-sxm", *,
    top: int = 5, fidelity: str = "tile", assume: Mapping[Any, int | bool] | None = None, progress: Progress | None = None, **meta: Any,
) -> TuneResult:
    """Rank the configs of a kernel by prediction.

    Parameters
    ----------
    kernel, grid, args, meta
        As at a launch, without what the configs set; `grid` a function of the bound arguments where they change tile sizes.
    configs
        Mappings or `triton.Config`s; a text such as ``"BLOCK_M=64,128 num_warps=4,8"``; by default the kernel's own.
    system, fidelity, assume
        As `predict_kernel` takes them; each name in `assume` must decide something for one config at least.
    top
        Configs that the summary lists.
    progress
        Called with configs done and wanted.

    Raises
    ------
    KernelError
        The space is empty, the grid does not follow the configs, or no config can launch.
    UnknownNameError
        A name that the kernel does not have.
    """
    from .kernel_api import FIDELITIES, gpu_of
    from .kernel_file import FileLaunch
    from .mapping.triton.decisions import check_arguments, decisions, split

    gpu = gpu_of(system)
    if fidelity not in FIDELITIES:
        raise UnknownNameError("fidelity", fidelity, FIDELITIES)
    launch = FileLaunch(kernel, grid, tuple(args), dict(meta))
    found = space_of(launch, configs, gpu)
    told = decisions(assume)
    check_arguments(split(told)[0], launch.argument_names)
    rows = _rows([launch], found, gpu, fidelity, told, None, progress)
    return _ranked(launch.name, gpu.name, fidelity, rows, top, told)


def space_of(launch: FileLaunch, configs: Iterable[Any] | None, system: System | None = None) -> list[Config]:
    """The configs to rank for a launch, checked; the kernel's own are pruned as on `system`."""
    from .mapping.triton.tune import check_space, own_space, parse_space

    if isinstance(configs, str):
        configs = parse_space(configs)
    given = own_space(launch.kernel, launch.args, launch.meta, system) if configs is None else list(configs)
    return check_space(launch.kernel, launch.grid, launch.meta, given)


def tune_file(
    path: Path, name: str, configs: Iterable[Any] | None, system: str, *, top: int = 5, fidelity: str = "tile", number: int | None = None,
    assume: Mapping[Any, int | bool] | None = None, jobs: int | None = None, progress: Progress | None = None,
) -> TuneResult:
    """Rank the configs of one kernel of a file; a config's time is the sum over the launches of that kernel that ``launches()`` yields.

    Parameters
    ----------
    path, name
        The file, and the kernel's name.
    number
        Only the launch of this number, counted from 0 over the launches of the kernel.
    assume
        As `tune` takes it.
    jobs
        Processes; by default one a CPU core.

    Raises
    ------
    PresiliconError
        As `tune` does.
    """
    from .kernel_api import gpu_of
    from .mapping.triton.decisions import check_arguments, decisions, split

    gpu, told = gpu_of(system), decisions(assume)
    launches = _launches(path, name, number, gpu)
    check_arguments(split(told)[0], launches[0].argument_names)
    found = space_of(launches[0], configs, gpu)
    rows = _rows(launches, found, gpu, fidelity, told, jobs, progress)
    return _ranked(name, gpu.name, fidelity, rows, top, told)


def _rows(launches: Sequence[FileLaunch], configs: Sequence[Config], gpu: System, fidelity: str, told: Decisions, jobs: int | None,
          progress: Progress | None) -> list[TuneRow]:
    """Each config predicted, by several processes where there are cores for them; in the order of the configs."""
    from .forked import forked
    from .sim.sm.ahead import compile_ahead

    def work(config: Config) -> TuneRow:
        return _row(launches, config, gpu, fidelity, told)

    compile_ahead(fidelity)
    found: dict[int, TuneRow] = {}
    for number, row in forked(work, configs, jobs, lost=_failed({}, "the compiler ended without an answer (out of memory?)")):
        found[number] = replace(row, config=configs[number])
        if progress is not None:
            progress(len(found), len(configs))
    return [row for _, row in sorted(found.items())]


def _failed(config: Config, problem: str) -> TuneRow:
    nothing = float("inf")
    return TuneRow(config, nothing, nothing, nothing, 0.0, 0, 0, 0, "", problem)


def _launches(path: Path, name: str, number: int | None, gpu: System) -> list[FileLaunch]:
    from .kernel_file import load_launches
    from .mapping.triton.tools import require_triton

    require_triton()
    every = load_launches(path, [gpu])[0]
    mine = [launch for launch in every if launch.name == name]
    if not mine:
        raise UnknownNameError("kernel", name, {launch.name for launch in every}, where=f"{path}: launches()")
    if number is None:
        return mine
    if not 0 <= number < len(mine):
        raise KernelError(f"{path}: launch {number} of {name}: launches() yields {len(mine)} of them")
    return [mine[number]]


def _row(launches: Sequence[FileLaunch], config: Config, gpu: System, fidelity: str, told: Decisions) -> TuneRow:
    from .kernel_api import predict_launch
    from .mapping.triton.tune import plain_kernel

    reports = []
    for launch in launches:
        try:
            meta = {**launch.meta, **config}
            kernel = plain_kernel(launch.kernel)
            reports.append(predict_launch(kernel, launch.grid, launch.args, gpu, meta, fidelity=fidelity, assume=told))
        except PresiliconError as error:
            return _failed(config, str(error))
    slowest = max(reports, key=lambda report: report.time_s)
    run, info = slowest.run, slowest.info
    return TuneRow(
        config, sum(r.time_s for r in reports), sum(r.run.low_s for r in reports), sum(r.run.high_s for r in reports),
        run.occupancy.fraction, info.registers, info.stack_bytes, info.shared_bytes, run.limiter,
        assumptions=tuple(dict.fromkeys(text for report in reports for text in report.run.assumptions)),
    )


def _ranked(kernel: str, system: str, fidelity: str, rows: Sequence[TuneRow], top: int, told: Decisions) -> TuneResult:
    from .mapping.triton.decisions import check_used, split

    ordered = sorted(rows, key=lambda row: (bool(row.problem), row.time_s))
    if not ordered or ordered[0].problem:
        why = ordered[0].problem if ordered else "there is none"
        raise KernelError(f"{kernel}: none of {len(rows)} configs can launch on {system}; the first: {why}")
    check_used(split(told)[1], [text for row in rows for text in row.assumptions])
    best = ordered[0].time_s
    marked = [replace(row, worth_measuring=not row.problem and row.time_s <= best * SEPARABLE) for row in ordered]
    return TuneResult(kernel, system, fidelity, tuple(marked), top)
