"""The Triton tutorials' published figures (A100-SXM4-40GB) beside predictions of kernels of the same algorithm.

`matmul` of tutorial 03 is `kernels.gemm.matmul` and the softmax of tutorial 02 is `kernels.rows.softmax`; the autotuned configs of tutorial
03 stand here as data. The published times are those of `triton.testing.do_bench`: L2 cleared, CUDA events around one launch, the best
config of the set. That machine's SM clock fell under load, further than the data sheet's 400 W say: the power at which it falls is fitted
here, the one number that is, and the clock of each kernel follows from it (`mapping.gpu.power`). Assumed numbers of
`arch/sm_timing.yaml` were settled with this table in view (docs/sm.md): its errors are not held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..arch import System, load_gpu
from ..errors import TableError
from ..mapping.triton import CompiledKernel, Launch, bind_launch, compile_launch, occupancy_of
from ..sim.sm.run import simulate_at_limits
from .older_code import with_older_code
from .older_triton import MATMUL_CONFIGS, name_of

#: Launch and events in a time of `do_bench`, in place of a graphed kernel's floor: the README of the table gives 5 to 8 us.
DO_BENCH_S = 5.0e-6
#: Power at which the table's machine lowers its SM clock, fitted on its fp16 matmuls, W.
POWER_W = 320.0
#: Between these it is looked for.
POWERS_W = tuple(float(power) for power in range(200, 401, 10))
#: What the board's data sheet has, and more than any kernel would draw, with which all run at the boost clock.
DATA_SHEET_W, UNLIMITED_W = 400.0, 4000.0


@dataclass(frozen=True)
class Row:
    """One published figure and its prediction.

    Attributes
    ----------
    kernel, dtype, size
        ``"matmul"`` or ``"softmax"``; m = n = k, or the columns of 4096 rows.
    measured_s, predicted_s
        Seconds a call as `do_bench` sees it.
    config
        The config that the model holds to be the fastest.
    """

    kernel: str
    dtype: str
    size: int
    measured_s: float
    predicted_s: float
    config: tuple[int, ...]

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_s / self.measured_s - 1.0


def read_published(path: Path) -> list[tuple[str, str, int, float]]:
    """Kernel, dtype, size and seconds of the table's Triton rows.

    Raises
    ------
    TableError
        The table lacks a column.
    """
    import pandas as pd

    frame = pd.read_csv(path)
    for name in ("kernel", "dtype", "n", "latency_s"):
        if name not in frame.columns:
            raise TableError(f"{path}: no column {name!r}; it has {', '.join(map(str, frame.columns))}")
    frame = frame[frame.kernel.isin(["matmul", "softmax"])]
    columns = (frame[name].tolist() for name in ("kernel", "dtype", "n", "latency_s"))
    return [(str(name), str(dtype), int(n), float(s)) for name, dtype, n, s in zip(*columns, strict=True)]


@lru_cache(maxsize=4096)
def matmul_launch(size: int, dtype: str, config: tuple[int, int, int, int, int]) -> tuple[CompiledKernel, Launch]:
    """Tutorial 03's launch of one size and config, compiled for sm_80."""
    import torch

    from .kernels.gemm import matmul

    block_m, block_n, block_k, stages, warps = config
    kind = getattr(torch, dtype)
    a, b = (torch.empty(size, size, dtype=kind, device="meta") for _ in range(2))
    c = torch.empty(size, size, dtype=torch.float16, device="meta")
    strides = (1, size) if dtype.startswith("float8") else (size, 1)
    grid = (-(-size // block_m) * -(-size // block_n),)
    meta = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": 8, "INT8": False, "SCALED": False,
            "num_warps": warps, "num_stages": stages}
    launch = bind_launch(matmul, grid, (a, b, c, a, a, size, size, size, size, 1, *strides, size, 1), meta, target="sm_80")
    return compile_launch(launch), launch


def older_launch(folder: Path, size: int, dtype: str, config: tuple[int, int, int, int, int]) -> tuple[CompiledKernel, Launch]:
    """`matmul_launch` with the machine code that an older Triton made, from the folder that `older_triton` wrote.

    Raises
    ------
    TableError
        The folder lacks the kernel.
    """
    compiled, launch = matmul_launch(size, dtype, config)
    return with_older_code(compiled, folder, name_of(dtype, config)), launch


def softmax_launch(columns: int, system: System, rows: int = 4096) -> tuple[CompiledKernel, Launch]:
    """Tutorial 02's launch: as many programs as its own occupancy rule gives, 8 warps, 2 stages."""
    import torch

    from .kernels.rows import softmax

    x, out = (torch.empty(rows, columns, dtype=torch.float32, device="meta") for _ in range(2))
    meta = {"BLOCK": 1 << (columns - 1).bit_length(), "STAGES": 2, "num_warps": 8}

    def bound(programs: int) -> Launch:
        return bind_launch(softmax, (programs,), (out, x, columns, columns, rows, columns), meta, target="sm_80")

    compiled = compile_launch(bound(rows))
    sm = system.gpu.sm
    resident = int(sm.registers) // (compiled.registers * 32 * 8)
    if compiled.shared_bytes:
        resident = min(resident, int(sm.shared_bytes_per_cta) // compiled.shared_bytes)
    return compiled, bound(min(rows, int(sm.count) * resident))


def predict(kernel: str, dtype: str, size: int, systems: Sequence[System], *, fidelity: str = "cycle",
            configs: Iterable[tuple[int, int, int, int, int]] = MATMUL_CONFIGS,
            cubins: Path | None = None) -> list[tuple[float, float, tuple[int, ...]]]:
    """By GPU, which differ in their power alone: seconds of the kernel itself, the fixed part of them, and the best config.

    Configs that do not fit an SM are passed over. `cubins` is a folder of matmuls that an older Triton compiled (`older_triton`).
    """
    if kernel == "softmax":
        return [(found.time_s, found.launch_s, ())
                for found in simulate_at_limits(*softmax_launch(size, systems[0]), systems, fidelity=fidelity)]
    best: list[tuple[float, float, tuple[int, ...]]] = [(float("inf"), 0.0, ())] * len(systems)
    for config in configs:
        compiled, launch = matmul_launch(size, dtype, config) if cubins is None else older_launch(cubins, size, dtype, config)
        if occupancy_of(compiled, systems[0]).ctas == 0:
            continue
        runs = simulate_at_limits(compiled, launch, systems, fidelity=fidelity)
        best = [min(one, (found.time_s, found.launch_s, config)) for one, found in zip(best, runs, strict=True)]
    return best


def machine(power_w: float = POWER_W) -> System:
    """The A100-SXM4-40GB of the table, whose SM clock falls where a kernel would draw more than so many W."""
    return load_gpu("a100-sxm-40gb").override({"power.limit": power_w})


def compare(path: Path, *, kernel: str, dtype: str, power_w: float = POWER_W, sizes: Iterable[int] | None = None, fidelity: str = "cycle",
            configs: Iterable[tuple[int, int, int, int, int]] = MATMUL_CONFIGS, cubins: Path | None = None) -> list[Row]:
    """Published and predicted times of one kernel and dtype; `cubins` as `predict` takes it."""
    return compare_at((power_w,), path, kernel=kernel, dtype=dtype, sizes=sizes, fidelity=fidelity, configs=configs, cubins=cubins)[power_w]


def compare_at(powers_w: Sequence[float], path: Path, *, kernel: str, dtype: str, sizes: Iterable[int] | None = None,
               fidelity: str = "cycle", configs: Iterable[tuple[int, int, int, int, int]] = MATMUL_CONFIGS,
               cubins: Path | None = None) -> dict[float, list[Row]]:
    """`compare` at several powers, each kernel simulated once."""
    wanted = None if sizes is None else set(sizes)
    systems, choice = [machine(power) for power in powers_w], tuple(configs)
    rows: dict[float, list[Row]] = {power: [] for power in powers_w}
    for name, kind, size, measured in read_published(path):
        if (name, kind) != (kernel, dtype) or (wanted is not None and size not in wanted):
            continue
        found = predict(name, kind, size, systems, fidelity=fidelity, configs=choice, cubins=cubins)
        for power, (time_s, fixed_s, config) in zip(powers_w, found, strict=True):
            rows[power].append(Row(name, kind, size, measured, time_s - fixed_s + DO_BENCH_S, config))
    return rows


def fit_power(path: Path, *, sizes: Iterable[int] | None = None,
              configs: Iterable[tuple[int, int, int, int, int]] = MATMUL_CONFIGS) -> float:
    """Power of least mean absolute relative error over the fp16 matmuls, of `POWERS_W`."""
    return _best_power(compare_at(POWERS_W, path, kernel="matmul", dtype="float16", sizes=sizes, configs=configs))


def at_one_clock(rows: Sequence[Row]) -> tuple[float, list[Row]]:
    """The SM clock, the same for all sizes, of least mean absolute relative error, within 10 MHz, and the rows at it.

    Parameters
    ----------
    rows
        Predicted with `UNLIMITED_W`: what is not launch goes with 1 / clock.
    """
    boost = float(machine().gpu.clock.boost_hz)
    clocks = [1e7 * step for step in range(90, round(boost / 1e7) + 1)]
    tried = {clock: [replace(row, predicted_s=(row.predicted_s - DO_BENCH_S) * boost / clock + DO_BENCH_S) for row in rows]
             for clock in clocks}
    best = min(tried, key=lambda clock: mape(tried[clock]))
    return best, tried[best]


def _best_power(rows: Mapping[float, Sequence[Row]]) -> float:
    return min(rows, key=lambda power: mape(rows[power]))


@dataclass(frozen=True)
class HeldOut:
    """The power fitted on one half of the fp16 sizes, and the errors with it.

    Attributes
    ----------
    power_w
        Fitted.
    fitted
        Rows of the sizes that it was fitted on.
    other
        Rows of the other sizes.
    """

    power_w: float
    fitted: tuple[Row, ...]
    other: tuple[Row, ...]


def held_out(path: Path, *, seed: int = 0, sizes: Iterable[int] | None = None,
             configs: Iterable[tuple[int, int, int, int, int]] = MATMUL_CONFIGS) -> tuple[HeldOut, HeldOut]:
    """Fit the power on each of two random halves of the fp16 sizes, and predict the other.

    The power alone is held out: the assumed numbers of ``arch/sm_timing.yaml`` were settled with the whole table in view.
    """
    rows = compare_at(POWERS_W, path, kernel="matmul", dtype="float16", sizes=sizes, configs=configs)
    order = np.random.default_rng(seed).permutation(sorted(row.size for row in rows[POWERS_W[0]])).tolist()
    found = []
    for half in (set(order[:len(order) // 2]), set(order[len(order) // 2:])):
        parts = {power: [row for row in every if row.size in half] for power, every in rows.items()}
        power = _best_power(parts)
        found.append(HeldOut(power, tuple(parts[power]), tuple(row for row in rows[power] if row.size not in half)))
    return found[0], found[1]


def mape(rows: Sequence[Row]) -> float:
    """Mean absolute relative error."""
    return float(np.mean([abs(row.error) for row in rows]))


def table(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """Rows as records: size, measured and predicted seconds, config, error."""
    return [{"kernel": r.kernel, "dtype": r.dtype, "size": r.size, "measured_us": round(r.measured_s * 1e6, 2),
             "predicted_us": round(r.predicted_s * 1e6, 2), "config": "x".join(map(str, r.config)), "error": round(r.error, 4)}
            for r in rows]
