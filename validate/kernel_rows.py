"""Measured Triton kernels (`presilicon measure`): rows checked, split before anything is fitted, and predicted from their machine code."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..arch import System
from ..errors import KernelError, TableError
from ..files import write_atomically
from .kernels.record import COLUMNS, beside, read_rows, row_key
from .kernels.suite import fields_of

if TYPE_CHECKING:
    import pandas as pd

    from .kernels.suite import Config, Shape, Suite

Progress = Callable[[str, float], None]
#: The timer whose rows are predicted: CUDA-graph replays back to back, L2 warm, no events and no host in the time.
TIMER: Final = "graph"
#: Of shapes one in four and of configs one in five is held out.
_HELD_SHAPES, _HELD_CONFIGS = 4, 5
#: A row whose 10th and 90th percentile are further apart than this was disturbed, and says little.
STEADY: Final = 1.3
#: How far the memory that a GPU states may be from the data sheet's: ECC and the driver take up to 7 %; boards of a model differ by more.
_MEMORY: Final = 0.12
#: Classes of shapes by the sizes of their names: work of a launch in bytes or operations.
_GROUPS: Final = ("gemms", "attentions", "moes", "memory", "tensors")


@dataclass(frozen=True)
class KernelRows:
    """Measured rows that can be predicted.

    Attributes
    ----------
    path, gpu
        The file, and the GPU's name in it.
    frame
        One row each: suite, group, dtype, shape, config (texts), measured_s, spread (90th over 10th percentile), triton (the version that
        compiled it), part ("fit", "held-out shape", "held-out config"), size (class by the shape's work).
    notes
        What was left out, and which rows another Triton compiled, in words.
    seed
        Of the split.
    """

    path: Path
    gpu: str
    frame: pd.DataFrame
    notes: tuple[str, ...]
    seed: int = 0

    def rows(self, wanted: Any) -> KernelRows:
        """Some of the rows, by a mask or positions."""
        picks = np.flatnonzero(wanted) if np.asarray(wanted).dtype == bool else np.asarray(wanted)
        return KernelRows(self.path, self.gpu, self.frame.iloc[picks].reset_index(drop=True), self.notes, self.seed)


def is_measurement(path: Path) -> bool:
    """Whether a file begins like one of `presilicon measure`."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            head = stream.readline(4096).strip().split(",")
    except (OSError, UnicodeDecodeError):
        return False
    return {"suite", "timer", "latency_s"} <= set(head) or len(set(head) & set(COLUMNS)) > len(COLUMNS) // 2


def split_of(suite: str, shape: str, config: str, seed: int = 0) -> str:
    """The part that a row belongs to, by its names alone: "fit", "held-out shape" or "held-out config".

    Examples
    --------
    >>> split_of("gemm", "m=1", "BLOCK=2") in ("fit", "held-out shape", "held-out config")
    True
    """
    if _draw(seed, suite, shape) % _HELD_SHAPES == 0:
        return "held-out shape"
    return "held-out config" if _draw(seed, suite, config) % _HELD_CONFIGS == 0 else "fit"


def _draw(*what: object) -> int:
    return int.from_bytes(hashlib.sha256("\n".join(map(str, what)).encode()).digest()[:8], "big")


def write_split(rows: KernelRows) -> Path:
    """Write the split beside the data: the rule, the seed, and every row's part. To be called before anything is fitted."""
    parts: dict[str, list[str]] = {}
    for suite, shape, config, part in rows.frame[["suite", "shape", "config", "part"]].itertuples(index=False):
        parts.setdefault(part, []).append(f"{suite} | {shape} | {config}")
    rule = (f"by SHA-256 of seed, suite and shape one shape in {_HELD_SHAPES} is held out, and of the others by seed, suite and config one "
            f"config in {_HELD_CONFIGS}; kernels are left out one by one")
    place = beside(rows.path, "split.json")
    write_atomically(place, (json.dumps({"data": rows.path.name, "timer": TIMER, "seed": rows.seed, "rule": rule, "parts": parts},
                                        indent=1) + "\n").encode())
    return place


def seed_of(path: Path) -> int:
    """Seed of the split that lies beside a file; 0 where there is none."""
    try:
        return int(json.loads(beside(path, "split.json").read_text(encoding="utf-8"))["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def read_kernel_rows(path: Path, system: System, *, seed: int | None = None) -> KernelRows:
    """The rows of a measurement file that can be predicted: our Triton kernels, timed in CUDA graphs, outputs right.

    Parameters
    ----------
    system
        The GPU that the file must be of.
    seed
        Of the split; by default that of the split beside the file.

    Raises
    ------
    TableError
        A time is no positive number, a row stands twice, the file is another GPU's, or no row is left.
    MeasureError
        It cannot be read, columns are missing, or it holds several GPUs.
    """
    import pandas as pd

    table = read_rows(path)
    if not table:
        raise TableError(f"{path}: no rows")
    check_gpu(path, table[0]["gpu"], system)
    try:
        from .kernels import all_suites, groups

        suites, of_group = all_suites(), {name: group for group, names in groups().items() for name in names}
    except ImportError as error:
        raise TableError(f"{path}: predicting kernels needs torch and triton: {error}") from None
    seed = seed_of(path) if seed is None else seed
    seen: dict[tuple[str, str, str, str], int] = {}
    kept: list[dict[str, Any]] = []
    dropped: dict[str, int] = {}
    for number, row in enumerate(table, 2):
        if row_key(row) in seen:
            raise TableError(f"{path}, row {number}: {row['suite']} {row['shape']} {row['config']} ({row['timer']}) stands in row "
                             f"{seen[row_key(row)]} too")
        seen[row_key(row)] = number
        why = _why_not(row, suites, of_group)
        if why:
            dropped[why] = dropped.get(why, 0) + 1
            continue
        measured, low, high = (_seconds(row[name], path, number, name) for name in ("latency_s", "p10_s", "p90_s"))
        if not low <= measured <= high:
            raise TableError(f"{path}, row {number}: the median, {measured:.6g} s, does not lie between the 10th and the 90th percentile, "
                             f"{low:.6g} and {high:.6g} s")
        suite, shape, config = suites[row["suite"]], fields_of(row["shape"]), fields_of(row["config"])
        if not _takes(suite, shape, config):
            dropped["of shapes or configs that are not there"] = dropped.get("of shapes or configs that are not there", 0) + 1
            continue
        peak, rate = max(system.peaks_flops_per_s.values()), suite.flops(shape) / measured
        if rate > 1.1 * peak:
            raise TableError(f"{path}, row {number}: {row['suite']} {row['shape']} would be {rate / 1e12:.4g} TFLOP/s; {system.title} has "
                             f"{peak / 1e12:.4g}")
        if high > STEADY * low:
            dropped[f"spread over {STEADY}"] = dropped.get(f"spread over {STEADY}", 0) + 1
            continue
        kept.append({"suite": row["suite"], "group": of_group[row["suite"]], "dtype": row["dtype"], "shape": row["shape"],
                     "config": row["config"], "measured_s": measured, "spread": high / low, "triton": row["triton"],
                     "part": split_of(row["suite"], row["shape"], row["config"], seed), "size": _size(suite, shape)})
    if not kept:
        raise TableError(f"{path}: no row to predict: none is of a Triton kernel, timed by {TIMER!r}, with status ok ({_listed(dropped)})")
    notes = [f"{len(kept)} of {len(table)} rows are predicted; left out: {_listed(dropped)}"] if dropped else []
    notes += [*_other_compilers(kept), *_other_settings(path)]
    return KernelRows(path, table[0]["gpu"], pd.DataFrame(kept), tuple(notes), seed)


def _other_compilers(kept: Sequence[dict[str, Any]]) -> list[str]:
    """What is to be said of rows whose code another Triton made than the one that is installed."""
    import triton

    times = Counter(str(row["triton"]) for row in kept if row["triton"] not in ("", triton.__version__))
    return [f"{count} rows were measured with Triton {version}, but Triton {triton.__version__} compiles them here, to other machine code: "
            f"pip install triton=={version} predicts the code that ran" for version, count in sorted(times.items())]


def _listed(dropped: dict[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in sorted(dropped.items(), key=lambda item: -item[1])) or "none"


def _why_not(row: dict[str, str], suites: dict[str, Suite], of_group: dict[str, str]) -> str:
    if row["suite"] not in suites:
        return "of suites that are not there"
    if of_group[row["suite"]] not in _GROUPS:
        return "of microbenchmarks and torch's operators"
    if row["timer"] != TIMER:
        return f"of other timers than {TIMER}"
    return "" if row["status"] == "ok" else f"with status {row['status']}"


def _takes(suite: Suite, shape: Shape, config: Config) -> bool:
    """Whether a suite has shapes and configs with these names and kinds of values; another version's may have others."""
    return _like(shape, suite.shapes) and _like(config, suite.configs(shape))


def _like(fields: Mapping[str, Any], known: Sequence[Mapping[str, Any]]) -> bool:
    """Whether fields are those of one that is known: words that are known; numbers of its kind, positive or known."""
    def fits(value: Any, name: str, own: Any) -> bool:
        return type(value) is type(own) and (value in values[name] or (not isinstance(value, str) and 0 < value < math.inf))

    values: dict[str, set[Any]] = {}
    for one in known:
        for name, value in one.items():
            values.setdefault(name, set()).add(value)
    return any(fields.keys() == one.keys() and all(fits(value, name, one[name]) for name, value in fields.items()) for one in known)


def _seconds(text: str, path: Path, number: int, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise TableError(f"{path}, row {number}, column {column!r}: expected positive seconds, found {text!r}")
    return value


def _size(suite: Suite, shape: Any) -> str:
    """A class of shapes by the bytes that must move."""
    megabytes = suite.bytes(shape) / 1e6
    return "under 10 MB" if megabytes < 10 else "10 to 100 MB" if megabytes < 100 else "over 100 MB"


def check_gpu(path: Path, gpu: str, system: System) -> None:
    """Raise if a file's GPU is not the system's.

    By the provenance beside the file where there is one (compute capability, SMs, memory), and by the model's name, its memory and its form
    (a name that states none is of the SXM board where the system's states one).

    Raises
    ------
    TableError
        It is another one.
    """
    facts = (_machines(path) or [{}])[-1]
    capability, count = str(facts.get("compute_capability", "")).replace(".", ""), facts.get("sm_count")
    if capability and f"sm_{capability}" != system.generation:
        raise TableError(f"{path}: measured on {gpu} (sm_{capability}); {system.name} is {system.generation}")
    if count is not None and int(count) != int(system.gpu.sm.count):
        raise TableError(f"{path}: measured on {gpu} with {count} SMs; {system.name} has {int(system.gpu.sm.count)}")
    known = f"{system.title} {system.name}"
    models, forms = _models(gpu), _forms(known)
    if (models and not models & _models(known)) or (forms and not (_forms(gpu) or {"SXM"}) & forms):
        raise TableError(f"{path}: measured on {gpu}; {system.name} is {system.title}: name the device file of that GPU with --system")
    named = re.search(r"(\d+) ?GB", gpu.upper())
    memory = float(facts.get("memory_bytes") or (float(named[1]) * 1e9 if named else system.memory_bytes))
    if abs(memory / system.memory_bytes - 1) > _MEMORY:
        raise TableError(f"{path}: measured on {gpu} with {memory / 1e9:.4g} GB; {system.name} has {system.memory_bytes / 1e9:.4g} GB")


def _machines(path: Path) -> list[dict[str, Any]]:
    """What the provenance beside a file says of the machine, run by run; empty where there is none."""
    try:
        return [dict(run["machine"]) for run in json.loads(beside(path, "provenance.json").read_text(encoding="utf-8"))["runs"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _other_settings(path: Path) -> list[str]:
    """What is to be said of runs that found the GPU with other drivers, limits or clocks."""
    notes = []
    for name, what in (("driver", "drivers"), ("power_limit_w", "power limits (W)"), ("max_sm_clock_mhz", "largest SM clocks (MHz)")):
        found = sorted({str(machine[name]) for machine in _machines(path) if machine.get(name) is not None})
        if len(found) > 1:
            notes.append(f"the runs of the file had different {what}: {', '.join(found)}; one set of constants is fitted for all")
    return notes


def _models(text: str) -> set[str]:
    """Names of models in a text, such as H100 or 4090: whole words, so that an L4 is no L40S."""
    words = set(re.findall(r"(?<![A-Z0-9])(?:[A-Z]{1,2}\d+[A-Z]?|\d{4})(?![A-Z0-9])", text.upper()))
    return {word for word in words if not word.endswith("GB")}


def _forms(text: str) -> set[str]:
    return {form[:4].rstrip("0123456789") for form in re.findall(r"(?<![A-Z0-9])(?:SXM\d?|PCIE|NVL)(?![A-Z0-9])", text.upper())}


@dataclass(frozen=True)
class Predicted:
    """What the simulation says of one row.

    Attributes
    ----------
    core_s, launch_s
        Seconds of all its launches: the part that the GPU computes or moves, and the fixed part.
    tensor
        Whether it uses the tensor cores.
    limiter
        Of its longest launch.
    problem
        Why there is no prediction, "" if there is one.
    """

    core_s: float
    launch_s: float
    tensor: bool
    limiter: str
    problem: str = ""


def predict_point(suite: str, shape: str, config: str, systems: Sequence[System]) -> list[Predicted]:
    """One row on several variants of a GPU (equal but for their constants)."""
    from ..mapping.triton import bind_launch, compile_launch
    from ..sim.sm.run import simulate_kernel
    from .kernels import suite_named

    made: list[Predicted] = []
    gpu = systems[0]
    try:
        place = {"sm_count": int(gpu.gpu.sm.count), "capability": int(gpu.generation.removeprefix("sm_"))}
        launches = [bind_launch(one.kernel, one.grid, one.args, dict(one.meta), target=gpu.generation)
                    for one in suite_named(suite).predict(fields_of(shape), fields_of(config), **place)]
        compiled = [compile_launch(launch) for launch in launches]
        for system in systems:
            runs = [simulate_kernel(code, launch, system, fidelity="tile", warm_l2=True)
                    for code, launch in zip(compiled, launches, strict=True)]
            slowest = max(runs, key=lambda run: run.time_s)
            made.append(Predicted(sum(run.time_s - run.launch_s for run in runs), sum(run.launch_s for run in runs),
                                  any(run.tensor_flops for run in runs), slowest.limiter))
    except KernelError as error:
        return [Predicted(math.nan, math.nan, False, "", str(error))] * len(systems)
    return made


def predict_rows(rows: KernelRows, systems: Sequence[System], *, jobs: int = 1, label: str = "predicting",
                 progress: Progress = lambda stage, share: None) -> list[list[Predicted]]:
    """Each row on each variant of a GPU, row by row."""
    points = [(str(one.suite), str(one.shape), str(one.config)) for one in rows.frame.itertuples()]
    if jobs <= 1:
        found = (predict_point(suite, shape, config, systems) for suite, shape, config in points)
    else:
        from joblib import Parallel, delayed

        calls = (delayed(predict_point)(suite, shape, config, list(systems)) for suite, shape, config in points)
        found = Parallel(n_jobs=jobs, return_as="generator")(calls)
    made = []
    for one in found:
        made.append(one)
        progress(label, len(made) / len(points))
    return made
