"""Errors on serving frameworks' own Triton kernels: attention, latent attention and delta rules, nothing fitted on them.

``python -m presilicon.validate.serving MEASURED_FOLDER FOLDER_OF_WHEELS`` takes the kernels out of the wheels that were
measured (``pip download --no-deps -d FOLDER_OF_WHEELS sglang==0.5.14``), rebuilds the launches of measured rows (`serving_launches`) of
every table GPU.KIND.csv of the folder whose GPU has a device file, predicts every kernel of a call and prints the errors by kernel, GPU and
measured time, worst first. `make kernel-tables` writes such tables of H100, H200, B200, GB200, RTX PRO 6000, L40S and A100. Rows were timed
as replays of a CUDA graph back to back, so that what fits is in L2 already. Nothing is fitted on these rows. Kernels are compiled by the
Triton that is installed: put the one that ran (3.6 for SGLang 0.5.14 and vLLM 0.24, 3.5 for SGLang 0.5.10 and vLLM 0.14) into
``PYTHONPATH``.

**Split.** A row belongs to the half to develop on where the CRC-32 of its size columns, joined by commas, is even, and to the half to
test on otherwise. Causes of errors are sought in the half to develop on.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..arch import System
from ..errors import KernelError, TableError, UnknownNameError
from ..mapping.gpu.machine import Machine
from ..mapping.gpu.memory_bound import memory_kernel
from ..mapping.triton import compile_launch
from ..sim.sm.run import simulate_kernel
from . import serving_launches as launches
from .accuracy import system_of
from .errors_table import points_page
from .packages import Package, find_package
from .points_report import HALVES, Progress, report, require_half

if TYPE_CHECKING:
    import pandas as pd


#: Columns that are no size of a row.
_NO_SIZE: Final = ("framework", "version", "kernel_source", "latency_s")
_CLASSES: Final = ((20e-6, "up to 20 us"), (200e-6, "20 to 200 us"), (2e-3, "200 us to 2 ms"), (float("inf"), "over 2 ms"))


@dataclass(frozen=True)
class Source:
    """The measured rows of one kernel.

    Attributes
    ----------
    name
        In words.
    kind
        Of the tables GPU.KIND.csv.
    framework, version, kernel_source
        As in the table.
    build
        Rebuilds what a row's call launches.
    bytes_of
        Where calls were launched from the host one by one: bytes that a row's call reads at least. Short calls then measure the host, so
        that only rows count whose bytes take DRAM, at the data sheet's bandwidth, as long as the shortest call of the table took.
    """

    name: str
    kind: str
    framework: str
    version: str
    kernel_source: str
    build: Callable[[launches.Row, Package, System], launches.Call]
    bytes_of: Callable[[launches.Row], float] | None = None


SOURCES: Final = (
    Source("SGLang encoder attention", "encoder_attention", "sglang", "0.5.14", "triton", launches.sglang_encoder),
    Source("SGLang prefill", "context_attention", "sglang", "0.5.14", "triton", launches.sglang_extend),
    Source("SGLang decode", "generation_attention", "sglang", "0.5.14", "triton", launches.sglang_decode),
    Source("vLLM prefill, fp8 cache", "context_attention", "vllm", "0.24.0", "vllm_triton_attn", launches.vllm_unified),
    Source("vLLM decode, fp8 cache", "generation_attention", "vllm", "0.24.0", "vllm_triton_attn", launches.vllm_unified),
    Source("vLLM latent decode", "generation_mla", "vllm", "0.14.0", "vllm_triton_mla", launches.vllm_mla,
           bytes_of=launches.latent_bytes),
    Source("SGLang delta rule", "gdn", "sglang", "0.5.10", "fused_recurrent_gated_delta_rule", launches.sglang_delta_rule),
    Source("SGLang delta rule, packed", "gdn", "sglang", "0.5.14", "fused_recurrent_gated_delta_rule_packed_decode",
           launches.sglang_delta_packed),
    Source("SGLang delta rule in chunks", "gdn", "sglang", "0.5.14", "chunk_gated_delta_rule", launches.sglang_delta_chunks),
    Source("SGLang convolution", "gdn", "sglang", "0.5.14", "causal_conv1d_fn", launches.sglang_conv),
)


@dataclass(frozen=True)
class Prediction:
    """Seconds of a call: all, what moves bytes beside the kernels, and each kernel by name with what limits it.

    Each part has the floor of a kernel alone; in all, kernels behind the first have that of a kernel between others.
    """

    time_s: float
    beside_s: float
    kernels: tuple[tuple[str, float, str], ...]


def half_of(row: launches.Row) -> str:
    """``"develop"`` or ``"test"``, by the rule of this module.

    >>> half_of({"batch_size": 1, "isl": 16, "latency_s": 1e-5})
    'test'
    """
    sizes = ",".join(str(value) for name, value in row.items() if name not in _NO_SIZE)
    return HALVES[zlib.crc32(sizes.encode()) % 2]


def read_rows(path: Path, source: Source, half: str, count: int, system: System) -> list[dict[str, Any]]:
    """Rows of a kernel and half in a table, every n-th in order of the measured time; none where the table is of other kernels.

    Raises
    ------
    TableError
        The table lacks a column.
    """
    import pandas as pd

    frame = pd.read_csv(path, dtype={"version": str})
    for name in _NO_SIZE:
        if name not in frame.columns:
            raise TableError(f"{path}: no column {name!r}; it has {', '.join(map(str, frame.columns))}")
    frame = frame[(frame.framework == source.framework) & (frame.version == source.version) & (frame.kernel_source == source.kernel_source)]
    ordered: list[dict[str, Any]] = [{str(name): value for name, value in row.items()}
                                     for row in frame.sort_values("latency_s", kind="stable").to_dict("records")]
    bytes_of, host_s = source.bytes_of, float(frame.latency_s.min()) if len(frame) else 0.0
    rows = [row for row in ordered if half in ("", half_of(row))
            and (bytes_of is None or bytes_of(row) >= host_s * system.dram.bandwidth_bytes_per_s)]
    return rows if count >= len(rows) else [rows[int((n + 0.5) * len(rows) / count)] for n in range(count)]


def find_rows(folder: Path, source: Source, half: str, count: int, gpu: str = "") -> list[tuple[System, list[dict[str, Any]]]]:
    """`read_rows` of every table of a folder that has rows of the kernel, with its GPU, but those of GPUs without a device file.

    Parameters
    ----------
    gpu
        Only tables whose name begins with it.
    """
    found = []
    for path in sorted(folder.glob(f"{gpu}*.{source.kind}.csv")):
        with contextlib.suppress(UnknownNameError):
            system = system_of(path.name.partition(".")[0])
            if rows := read_rows(path, source, half, count, system):
                found.append((system, rows))
    return found


def predict_row(row: launches.Row, source: Source, package: Package, system: System, *, fidelity: str = "tile") -> Prediction:
    """Seconds of one row.

    Kernels of one graph follow one another sooner than graphs do: what `memory.floor` has more than `gemm.step_launch` is counted once.
    """
    machine, beside, kernels = Machine.of(system), 0.0, []
    steps = source.build(row, package, system).steps
    for step in steps:
        if isinstance(step, launches.Moved):
            beside += float(memory_kernel(machine, step.read, step.written).time_s)
            continue
        bounds = [step.bind(system.generation, config) for config in step.configs() or [None]]
        run = min((simulate_kernel(compile_launch(bound), bound, system, fidelity=fidelity, warm_l2=True) for bound in bounds),
                  key=lambda run: run.time_s)
        kernels.append((step.name, run.time_s, run.limiter))
    sooner = max(0.0, system.calibration["memory.floor"] - system.calibration["gemm.step_launch"]) * (len(steps) - 1)
    return Prediction(beside + sum(time for _, time, _ in kernels) - sooner, beside, tuple(kernels))


def compare(folder: Path, packages: Path, sources: Sequence[Source] = SOURCES, *, rows: int = 30, half: str = "", gpu: str = "",
            fidelity: str = "tile", progress: Progress = lambda stage, share: None) -> pd.DataFrame:
    """One row for each measured one: kernel, GPU, sizes, half, ``measured_s``, ``predicted_s``, ``error``, what limits.

    Rows that cannot be predicted have NaN, and the reason in ``limiter``.
    """
    import pandas as pd

    tables = [(source, system, wanted) for source in sources for system, wanted in find_rows(folder, source, half, rows, gpu)]
    if not tables:
        raise TableError(f"{folder}: no table {gpu}*.KIND.csv with rows of {', '.join(source.name for source in sources)}")
    records = []
    for source, system, wanted in tables:
        package = find_package(packages, source.framework, source.version)
        for number, row in enumerate(wanted):
            progress(f"{source.name}, {system.name}", number / len(wanted))
            measured = float(row["latency_s"])
            sizes = " ".join(f"{name}={value}" for name, value in row.items() if name not in (*_NO_SIZE, "beam_width", "model_name"))
            record = {"kernel": source.name, "gpu": system.name, "sizes": sizes, "half": half_of(row), "measured_s": measured,
                      "size": next(name for limit, name in _CLASSES if measured <= limit)}
            try:
                found = predict_row(row, source, package, system, fidelity=fidelity)
            except KernelError as error:
                records.append({**record, "predicted_s": float("nan"), "error": float("nan"), "beside_s": 0.0, "limiter": str(error)})
                continue
            limiter = ", ".join(f"{name} {time * 1e6:.0f} us {why}" for name, time, why in found.kernels)
            records.append({**record, "predicted_s": found.time_s, "error": found.time_s / measured - 1.0, "beside_s": found.beside_s,
                            "limiter": limiter})
    return pd.DataFrame(records)


def page(frame: pd.DataFrame, worst: int = 20) -> str:
    """Markdown: errors by kernel, half, measured time and both, and the worst rows; each worst first."""
    columns = {"kernel": "kernel", "gpu": "GPU", "half": "half", "size": "measured", "on": "kernel and GPU", "long": "kernel and measured"}
    frame = frame.assign(on=frame.kernel + ", " + frame.gpu, long=frame.kernel + ", " + frame["size"])
    return points_page(frame, columns, ("on", "sizes"), worst)


def main(measured: Path, packages: Path, rows: int = 30, fidelity: str = "tile", half: str = "", only: str = "",
         gpu: str = "", out: Path | None = None) -> None:
    """Errors on serving frameworks' Triton kernels, from the tables of MEASURED and the wheels of PACKAGES.

    --rows of each kernel and GPU; --half develop or test; --only takes kernels whose name contains it, --gpu tables whose name begins with
    it; --out writes every row as CSV.
    """
    import triton

    require_half(half)
    sources = [source for source in SOURCES if only.lower() in source.name.lower()]
    if not sources:
        raise UnknownNameError("kernel", only, [source.name for source in SOURCES])

    report(lambda progress: compare(measured, packages, sources, rows=rows, half=half, gpu=gpu, fidelity=fidelity, progress=progress),
           lambda frame: f"Compiled by Triton {triton.__version__}.\n\n" + page(frame), out)


if __name__ == "__main__":
    import typer

    typer.run(main)
