"""Autotuning logs that are public: every config of a matrix multiplication with its time, beside predictions in which nothing was fitted.

``python -m presilicon.validate.autotune_logs`` prints errors by GPU and shape, how well configs are ranked, and what a choice from the
predictions would cost. The figures with their sources lie in ``validate/data/published_autotune.yaml``.

A log prints the fastest ten or so of the configs that were tried. The rest is known too, since the library writes its list of configs
(``torch/_inductor/template_heuristics``): a choice is made among all of them, and one that was not printed is slower than those printed.

**Regret**: the measured time of the best of the configs that are predicted to be the fastest (one, or five), over the measured best,
less 1.

**Split.** A shape, with all its configs, belongs to the half of `published.half_of` by the log's name and the sizes. The rule was written
down before any error was looked at; causes are sought in the half to develop on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..arch import System, load_gpu
from ..arch.yamlfile import read_yaml
from ..errors import KernelError, TableError, UnknownNameError
from ..mapping.triton import bind_launch, compile_launch, occupancy_of
from ..sim.sm.run import simulate_kernel
from .errors_table import points_page, rank_correlation
from .kernels.suite import cdiv
from .points_report import Progress, report, require_half
from .published import half_of
from .published_kernels import Point
from .tutorials import DO_BENCH_S

if TYPE_CHECKING:
    import pandas as pd

#: BLOCK_M, BLOCK_N, BLOCK_K, stages, warps.
Config = tuple[int, int, int, int, int]

#: The data file.
DATA: Final = Path(__file__).resolve().parent / "data" / "published_autotune.yaml"
LAYOUTS: Final = ("nk", "kn")
_NEEDED: Final = ("source", "date", "gpu", "torch", "triton", "dtype", "b", "note", "runs", "tried", "shapes")
#: Configs that torch 2.7 to 2.9 tries for a matrix multiplication on an NVIDIA GPU (template_heuristics), before sizes clip them.
TRIED: Final[tuple[Config, ...]] = (
    (32, 32, 16, 1, 2), (32, 32, 128, 2, 4), (32, 64, 32, 5, 8), (64, 32, 32, 5, 8), (64, 32, 128, 5, 4), (64, 64, 16, 2, 4),
    (64, 64, 32, 2, 4), (64, 64, 64, 3, 8), (64, 64, 128, 5, 4), (64, 128, 32, 3, 4), (64, 128, 32, 4, 8), (64, 128, 64, 3, 4),
    (64, 128, 128, 4, 4), (128, 64, 32, 3, 4), (128, 64, 32, 4, 8), (128, 128, 32, 2, 8), (128, 128, 32, 3, 4), (128, 128, 64, 3, 4),
    (128, 128, 64, 5, 8),
)


def tried(m: int, n: int) -> list[Config]:
    """Configs that are tried for a size: blocks no larger than the next power of two, no more warps than 16 x 16 tiles, each once.

    Examples
    --------
    >>> len(tried(128, 4096)), len(tried(64, 4096)), len(tried(16, 4096))
    (19, 17, 17)
    """
    found: dict[Config, None] = {}
    most_m, most_n = (max(16, 1 << (size - 1).bit_length()) for size in (m, n))
    for full_m, full_n, block_k, stages, warps in TRIED:
        block_m, block_n = min(full_m, most_m), min(full_n, most_n)
        found[block_m, block_n, block_k, stages, min(warps, block_m * block_n // 256)] = None
    return list(found)


@dataclass(frozen=True)
class Shape:
    """One multiplication of a log.

    Attributes
    ----------
    name, gpu
        The log, and its device file.
    m, n, k
        Sizes.
    dtype, layout
        Of the operands, and of B in memory (`LAYOUTS`).
    seconds
        By config, of each run of the log; NaN where a run does not print it.
    """

    name: str
    gpu: str
    m: int
    n: int
    k: int
    dtype: str
    layout: str
    seconds: Mapping[Config, tuple[float, ...]]

    @property
    def label(self) -> str:
        """``"m n k"``."""
        return f"{self.m} {self.n} {self.k}"

    @property
    def half(self) -> str:
        """By the rule of `published`."""
        return half_of(Point(self.name, self.gpu, (), "", "", self.label, {}, 1.0))

    def measured(self) -> dict[Config, float]:
        """Seconds by config: the geometric mean of the runs that print it."""
        return {config: float(np.exp(np.nanmean(np.log(times)))) for config, times in self.seconds.items()}

    def floor_s(self, system: System) -> float:
        """Seconds below which no kernel can be: its bytes once through DRAM, or its products at the peak."""
        size = 2.0
        moved = size * (self.m * self.k + self.k * self.n + self.m * self.n)
        peak = system.peaks_flops_per_s[{"float16": "fp16", "bfloat16": "bf16"}[self.dtype]]
        return max(moved / system.ceilings_bytes_per_s["dram"], 2.0 * self.m * self.n * self.k / peak)


def read_shapes(path: Path = DATA) -> list[Shape]:
    """Every multiplication of the data file.

    Raises
    ------
    TableError
        A log lacks a key, or a row has another length than config and runs.
    UnknownNameError
        A layout that is not known.
    """
    shapes = []
    for name, log in read_yaml(path).get("logs", {}).items():
        missing = [key for key in _NEEDED if key not in log]
        if missing:
            raise TableError(f"{path}: {name} lacks {', '.join(missing)}")
        if log["b"] not in LAYOUTS:
            raise UnknownNameError(f"b of {name} in {path}", log["b"], list(LAYOUTS))
        for label, rows in log["shapes"].items():
            m, n, k = (int(size) for size in str(label).split())
            seconds = {}
            for row in rows:
                if len(row) != 5 + len(log["runs"]):
                    raise TableError(f"{path}: {name} {label}: {row} has {len(row)} values for a config of 5 and {len(log['runs'])} runs")
                config: Config = tuple(int(value) for value in row[:5])  # type: ignore[assignment]
                seconds[config] = tuple(math.nan if value is None else 1e-3 * float(value) for value in row[5:])
            shapes.append(Shape(str(name), str(log["gpu"]), m, n, k, str(log["dtype"]), str(log["b"]), seconds))
    return shapes


def predict(shape: Shape, config: Config, system: System, *, fidelity: str = "tile") -> tuple[float, str]:
    """Seconds as the log's method shows them, and what limits the kernel.

    Raises
    ------
    KernelError
        The config does not fit an SM.
    """
    import torch

    from .kernels.gemm_inductor import matmul_inductor

    block_m, block_n, block_k, stages, warps = config
    a, b, c = (torch.empty(*size, dtype=getattr(torch, shape.dtype), device="meta")
               for size in ((shape.m, shape.k), (shape.k, shape.n), (shape.m, shape.n)))
    meta = {"M": shape.m, "N": shape.n, "K": shape.k, "B_NK": shape.layout == "nk", "BLOCK_M": block_m, "BLOCK_N": block_n,
            "BLOCK_K": block_k, "GROUP_M": 8, "num_warps": warps, "num_stages": stages}
    grid = (cdiv(shape.m, block_m) * cdiv(shape.n, block_n),)
    launch = bind_launch(matmul_inductor, grid, (a, b, c), meta, target=system.generation)
    compiled = compile_launch(launch)
    if occupancy_of(compiled, system).ctas == 0:
        raise KernelError(f"{shape.name} {shape.label}: {config} does not fit an SM of {system.name}")
    run = simulate_kernel(compiled, launch, system, fidelity=fidelity, dirty_l2=True)
    return run.time_s - run.launch_s + DO_BENCH_S, run.limiter


def compare(shapes: Sequence[Shape], *, fidelity: str = "tile", progress: Progress = lambda stage, share: None) -> pd.DataFrame:
    """One row for each config that was tried: log, GPU, shape, half, config, ``measured_s`` (NaN where not printed), ``predicted_s`` (NaN
    where it does not fit), ``error``, ``floor_s``, limiter."""
    import pandas as pd

    records = []
    for number, shape in enumerate(shapes):
        system, measured = load_gpu(shape.gpu), shape.measured()
        for config in dict.fromkeys((*measured, *tried(shape.m, shape.n))):
            progress(f"{shape.name} {shape.label}", number / len(shapes))
            measured_s = measured.get(config, math.nan)
            record = {"set": shape.name, "gpu": shape.gpu, "shape": f"{shape.gpu} {shape.label}", "half": shape.half,
                      "config": "x".join(map(str, config)), "measured_s": measured_s, "floor_s": shape.floor_s(system)}
            try:
                time_s, limiter = predict(shape, config, system, fidelity=fidelity)
            except KernelError as error:
                time_s, limiter = math.nan, str(error)
            records.append({**record, "predicted_s": time_s, "error": time_s / measured_s - 1.0, "limiter": limiter})
    return pd.DataFrame(records)


@dataclass(frozen=True)
class Choice:
    """What predictions are worth for the choice of a config, for one shape.

    Attributes
    ----------
    shape
        GPU and sizes.
    printed, tried
        Configs with a measured time, and all that fit.
    rank
        Spearman's correlation over those printed.
    place
        Of the measured best in the prediction, 1 for the first.
    regret
        By how many of the fastest predicted are measured; infinity where none of them was printed.
    """

    shape: str
    printed: int
    tried: int
    rank: float
    place: int
    regret: Mapping[int, float]


def choices(frame: pd.DataFrame, tops: Sequence[int] = (1, 3, 5)) -> list[Choice]:
    """A `Choice` for each shape of what `compare` gives, worst rank first."""
    found = []
    for name, part in frame[frame.predicted_s.notna()].groupby("shape", sort=True):
        order = part.sort_values("predicted_s", kind="stable")
        measured = order.measured_s.to_numpy(dtype=float)
        best = float(np.nanmin(measured))
        regret = {top: (float(np.nanmin(measured[:top])) / best - 1.0 if np.isfinite(measured[:top]).any() else math.inf) for top in tops}
        known = part[part.measured_s.notna()]
        found.append(Choice(str(name), len(known), len(part), rank_correlation(known), 1 + int(np.nanargmin(measured)), regret))
    return sorted(found, key=lambda choice: choice.rank)


def page(frame: pd.DataFrame, worst: int = 15) -> str:
    """Markdown: errors of printed configs by half, GPU and shape, choices by shape, predictions below the floor, and the worst points."""
    known = frame[frame.measured_s.notna()]
    found = choices(frame)
    tops = list(found[0].regret)
    lines = [points_page(known, {"half": "half", "gpu": "GPU", "shape": "shape"}, ("shape", "config"), worst)]
    titles = " | ".join(f"regret of {top}" for top in tops)
    lines += ["", f"| shape | printed | tried | rank correlation | place of the best | {titles} |",
              "|---|--:|--:|--:|--:|" + "--:|" * len(tops)]
    lines += [f"| {c.shape} | {c.printed} | {c.tried} | {c.rank:.3f} | {c.place} | "
              + " | ".join("not printed" if math.isinf(v) else f"{v:.1%}" for v in c.regret.values()) + " |" for c in found]
    for top in tops:
        values = np.array([choice.regret[top] for choice in found])
        lines.append(f"\nBest of the predicted top {top}: within 3 % of the measured best in {int((values <= 0.03).sum())} of "
                     f"{len(values)} shapes, median {np.median(values):.1%}, worst {np.max(values):.1%}.")
    lines.append(f"\nPredictions below the floor of bytes and products: {int((frame.predicted_s < frame.floor_s).sum())} of "
                 f"{int(frame.predicted_s.notna().sum())}.")
    return "\n".join(lines) + "\n"


def main(fidelity: str = "tile", half: str = "", only: str = "", gpu: str = "", out: Path | None = None) -> None:
    """Errors and choices on public autotuning logs.

    --half develop or test; --only takes logs and shapes whose name contains it; --gpu a device file; --out writes every config as CSV.
    """
    require_half(half)
    shapes = [s for s in read_shapes() if only in f"{s.name} {s.label}" and gpu in ("", s.gpu) and half in ("", s.half)]
    if not shapes:
        raise TableError(f"no autotuning log is of {half or 'any'} half, of {gpu or 'any GPU'} and has {only!r} in its name or sizes")

    report(lambda progress: compare(shapes, fidelity=fidelity, progress=progress), page, out)


if __name__ == "__main__":
    import typer

    typer.run(main)
