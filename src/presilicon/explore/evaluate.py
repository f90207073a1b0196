"""Designs of one workload on one system, evaluated into rows: on arrays where the models allow it, one by one where they do not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import __version__
from ..arch import AnySystem, System
from ..errors import PresiliconError
from ..sim.host import RUNTIME_OF
from ..workloads.graph import OpGraph
from .cache import Cache
from .expand import Columns, config_hashes, config_prefix, digest
from .study import CHANGES, DEGREES, Study, Workload

if TYPE_CHECKING:
    import pyarrow as pa

#: Columns of every row that hold what was found; ``share.RESOURCE`` columns and what `presilicon.arch.area` offers come beside them.
RESULTS: Final = ("time_s", "low_s", "high_s", "tokens_per_s", "energy_j", "limiter", "fits", "peak_memory_bytes")
#: Columns of every row that say what the workload is.
WORKLOAD_COLUMNS: Final = (
    "workload",
    "model",
    "phase",
    "batch",
    "seq",
    "context",
    "dtype",
    *CHANGES,
    "system",
    "fidelity",
    "runtime",
    "uncovered_ops",
)
_WHOLE: Final = ("batch", "seq", "context", *DEGREES, "uncovered_ops")
#: Sources whose content decides what a prediction is.
_MODEL_SOURCES: Final = ("arch", "workloads", "mapping", "sim")
_OWN_SOURCES: Final = ("axes.py", "evaluate.py", "expand.py", "host_arrays.py", "vector.py")


@dataclass(frozen=True)
class Subject:
    """All that the evaluation of designs of one workload on one system needs; goes to workers as it is.

    Attributes
    ----------
    workload, graph
        What runs, and its graph (quantised, pruned, split).
    system
        On what, before overrides.
    fidelity, runtime
        As `presilicon.simulate` takes them.
    cache
        File of the results of earlier runs, for models that are slow; None: none.
    failure
        Why there is no graph; every design's error then.
    """

    workload: Workload
    graph: OpGraph
    system: AnySystem
    fidelity: str = "analytic"
    runtime: str = "cudagraph"
    cache: Path | None = None
    failure: str = ""

    @property
    def vectorised(self) -> bool:
        """Whether many designs go through the models at once."""
        return isinstance(self.system, System)


@cache
def code_version() -> str:
    """Version of the package, and a hash of the models' sources: ``"0.1.0+5f0c2a7e"``; equal where predictions are."""
    from importlib import import_module

    files = {f"explore/{name}": Path(__file__).parent / name for name in _OWN_SOURCES}
    for floor in _MODEL_SOURCES:
        folder = Path(str(import_module(f"..{floor}", __package__).__file__)).parent
        for path in folder.rglob("*"):
            inner = path.relative_to(folder)
            if path.suffix in (".py", ".yaml") and inner.parts[0] not in ("devices", "trace"):
                files[f"{floor}/{inner.as_posix()}"] = path
    content = hashlib.blake2b(digest_size=4)
    for name in sorted(files):
        content.update(name.encode() + files[name].read_bytes())
    return f"{__version__}+{content.hexdigest()}"


def evaluate_designs(subject: Subject, columns: Columns, *, version: str | None = None) -> pa.Table:
    """One row per design.

    Parameters
    ----------
    subject
        Workload and system.
    columns
        Arrays of shape ``(designs,)`` by override path, SI units; an empty mapping is one design, the system as it is.
    version
        What stands in ``code_version``; `code_version` if None.

    Returns
    -------
    pyarrow.Table
        `WORKLOAD_COLUMNS`, a column for each path, `RESULTS`, ``share.RESOURCE``, area, power and cost where `presilicon.arch.area`
        offers them, ``config_hash``, ``code_version``, and ``error``: None, or why a design has no result (its numbers are then null).
    """
    import pyarrow as pa

    count = len(next(iter(columns.values()))) if columns else 1
    errors = np.full(count, None, dtype=object)
    hashes = config_hashes(config_prefix(subject.workload, subject.system, subject.fidelity, subject.runtime), columns, count)
    if subject.failure:
        errors[:] = subject.failure
        found = _nothing(count)
    elif subject.cache and not (subject.vectorised and subject.fidelity == "analytic"):
        found = _with_cache(subject, columns, errors, hashes)
    else:
        found = _evaluate(subject, columns, count, errors)
    _note_endless(found, errors)
    found |= {} if subject.failure else _costs(subject, columns, count, found)
    table: dict[str, Any] = _workload_columns(subject, count)
    for path, values in columns.items():
        table[path] = pa.array(values.tolist() if values.dtype == object else values)
    failed = np.array([error is not None for error in errors], dtype=bool)
    for name, values in found.items():
        kind = pa.string() if name == "limiter" else pa.bool_() if name == "fits" else pa.float64()
        table[name] = pa.array(values, kind, mask=failed)
    table["config_hash"] = pa.array(hashes, pa.string())
    table["code_version"] = _repeated(version or code_version(), count)
    table["error"] = pa.array(errors.tolist(), pa.string())
    return pa.table(table)


def _note_endless(found: Mapping[str, np.ndarray], errors: np.ndarray) -> None:
    """Note an error for designs whose time, rate or energy is no finite number: theirs are beyond what floats hold."""
    for name in ("time_s", "tokens_per_s", "energy_j"):
        for index in np.flatnonzero(~np.isfinite(found[name].astype(float))):
            if errors[index] is None:
                errors[index] = f"{name} is {found[name][index]:g}: a number of this design is too small or too large"


def _repeated(text: str | None, count: int) -> Any:
    """A column of one word, stored once."""
    import pyarrow as pa

    index = pa.array(np.zeros(count, dtype=np.int32), mask=np.full(count, text is None))
    return pa.DictionaryArray.from_arrays(index, pa.array([text or ""], pa.string()))


def _workload_columns(subject: Subject, count: int) -> dict[str, Any]:
    import pyarrow as pa

    w = subject.workload
    fields: dict[str, Any] = {name: getattr(w, name) for name in ("phase", "batch", "seq", "context", "dtype", *CHANGES)}
    fields |= {
        "workload": w.label,
        "model": w.name,
        "system": subject.system.name,
        "fidelity": subject.fidelity,
        "runtime": RUNTIME_OF.get(subject.system.kind, subject.runtime),
    }
    fields["uncovered_ops"] = None if subject.failure else sum(u.count for u in subject.graph.uncovered)
    found: dict[str, Any] = {}
    for name in WORKLOAD_COLUMNS:
        value = fields[name]
        if name in _WHOLE:
            found[name] = pa.array(np.full(count, value or 0, dtype=np.int64), mask=np.full(count, value is None))
        else:
            found[name] = _repeated(None if value is None else str(value), count)
    return found


def _costs(subject: Subject, columns: Columns, count: int, results: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Area, power and cost of each design, where `presilicon.arch.costs` knows its technology.

    A limit on power that the clock, which has a lowest value, cannot hold does not make a design draw less than its step takes.
    """
    from ..arch.costs import design_costs
    from ..sim.parallel import devices

    found: dict[str, Any] = dict(design_costs(subject.system, columns, devices(subject.graph)))
    if found:
        with np.errstate(all="ignore"):
            mean_w = results["energy_j"].astype(float) / results["time_s"].astype(float)
        found["power_w"] = np.fmax(found["power_w"], mean_w)
        found["power_w_per_device"] = np.fmax(found["power_w_per_device"], mean_w / found["devices"])
    return {name: np.broadcast_to(np.asarray(values, dtype=float), (count,)) for name, values in found.items()}


def _arrays(subject: Subject, columns: Columns, count: int, errors: np.ndarray) -> dict[str, np.ndarray]:
    """Designs of a GPU on arrays; those that no system can be are told apart first, those that a model refuses by halving."""
    from .vector import evaluate_gpu

    assert isinstance(subject.system, System)
    system = subject.system
    _refuse_inconsistent(system, columns, errors)
    merged: dict[str, np.ndarray] = {}

    def run(chosen: np.ndarray) -> None:
        part = {path: values[chosen] for path, values in columns.items()} or {"gpu.sm.count": np.array([system.gpu.sm.count])}
        found = evaluate_gpu(subject.graph, system, part, subject.fidelity, subject.runtime)
        for name, values in found.items():
            if name not in merged:
                merged[name] = np.full(count, None if values.dtype == object else 0, dtype=values.dtype)
            merged[name][chosen] = values

    _halving(run, np.flatnonzero([error is None for error in errors]), errors)
    return merged or _nothing(count)


def _nothing(count: int) -> dict[str, np.ndarray]:
    """Columns of a batch of which no design has a result."""
    types: dict[str, Any] = {"limiter": object, "fits": bool}
    return {name: np.full(count, None if name == "limiter" else 0, dtype=types.get(name, float)) for name in RESULTS}


def _halving(run: Callable[[np.ndarray], None], chosen: np.ndarray, errors: np.ndarray) -> None:
    """Run on as many designs at once as can be; one that raises gets its error noted, and the others go on."""
    if not len(chosen):
        return
    try:
        with np.errstate(all="ignore"):
            run(chosen)
    except Exception as error:  # whatever a model raises for one design must not end the sweep
        if len(chosen) == 1 or _fails_alike(run, chosen, error):
            errors[chosen] = told(error)
            return
        half = len(chosen) // 2
        _halving(run, chosen[:half], errors)
        _halving(run, chosen[half:], errors)


def _fails_alike(run: Callable[[np.ndarray], None], chosen: np.ndarray, error: Exception) -> bool:
    """Whether the first, middle and last design each raise the same: then the workload is at fault, not the design."""
    for index in (0, len(chosen) // 2, len(chosen) - 1):
        try:
            run(chosen[index : index + 1])
        except Exception as other:
            if told(other) != told(error):
                return False
        else:
            return False
    return True


def told(error: Exception) -> str:
    """An error as a row holds it: one line, with its type where it is not one of presilicon's own."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PresiliconError) else f"{type(error).__name__}: {text}"


#: Paths that `presilicon.arch` checks against each other.
_TOGETHER: Final = ("gpu.sm.shared_memory", "gpu.sm.shared_memory_per_cta", "power.idle", "power.limit")


def _refuse_inconsistent(system: System, columns: Columns, errors: np.ndarray) -> None:
    """Note the error of designs whose numbers contradict each other, each combination tried once on the system itself."""
    varied = [path for path in columns if path in _TOGETHER]
    if not varied:
        return
    combinations: dict[tuple[float, ...], list[int]] = {}
    for index, values in enumerate(zip(*(columns[path].tolist() for path in varied), strict=True)):
        combinations.setdefault(values, []).append(index)
    for values, indices in combinations.items():
        try:
            system.override(dict(zip(varied, values, strict=True)))
        except PresiliconError as error:
            errors[indices] = told(error)


def _evaluate(subject: Subject, columns: Columns, count: int, errors: np.ndarray) -> dict[str, np.ndarray]:
    if subject.vectorised:
        return _arrays(subject, columns, count, errors)
    rows: list[dict[str, Any]] = []
    for index in range(count):
        try:
            rows.append(_row(subject, {path: values[index] for path, values in columns.items()}))
        except Exception as error:  # recorded with the design; the sweep goes on
            errors[index] = told(error)
            rows.append({})
    return _gathered(rows)


def _with_cache(subject: Subject, columns: Columns, errors: np.ndarray, hashes: list[str]) -> dict[str, np.ndarray]:
    """As `_evaluate`, but designs that an earlier run has evaluated come from the cache, and the others go into it."""
    assert subject.cache is not None
    cache, prefix = Cache(subject.cache), f"{code_version()}:{digest(subject.graph.to_dict())}"
    keys = [f"{prefix}:{each}" for each in hashes]
    known = cache.get(keys)
    missing = np.array([index for index, key in enumerate(keys) if key not in known], dtype=int)
    if len(missing):
        own = errors[missing]
        found = _evaluate(subject, {path: values[missing] for path, values in columns.items()}, len(missing), own)
        errors[missing] = own
        fresh = {
            keys[index]: {name: values[i].item() if hasattr(values[i], "item") else values[i] for name, values in found.items()}
            for i, index in enumerate(missing)
            if own[i] is None
        }
        cache.put(fresh)
        known |= fresh
    return _gathered([known.get(key, {}) for key in keys])


def _gathered(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Columns of rows, of which some may be empty."""
    nothing = _nothing(1)
    names = dict.fromkeys([*RESULTS, *(name for row in rows for name in row)])

    def column(name: str) -> np.ndarray:
        absent = nothing[name][0] if name in nothing else 0.0
        return np.array([row.get(name, absent) for row in rows], dtype=object if name == "limiter" else None)

    return {name: column(name) for name in names}


def _row(subject: Subject, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What one simulation found, as plain data."""
    from ..report import Report
    from ..sim.run import simulate

    system = subject.system.override(changes) if changes else subject.system
    report = Report(simulate(subject.graph, system, fidelity=subject.fidelity, runtime=subject.runtime))  # type: ignore[arg-type]
    headline, seconds = report.headline(), report.bottlenecks()
    whole = sum(seconds.values()) or 1.0
    found = {name: headline[name] for name in RESULTS if name != "limiter"} | {"limiter": headline["limited_by"]}
    found = {name: value if isinstance(value, bool | str) else float(value) for name, value in found.items()}
    return found | {f"share.{name}": value / whole for name, value in seconds.items()}


def subjects(study: Study, graphs: Mapping[Workload, OpGraph | str], cache: Path | None = None) -> dict[tuple[int, int], Subject]:
    """The subject of each (workload, system) of a study by their indices; a text in place of a graph says why there is none.

    Workloads of which nothing is given are left out.
    """
    found = {}
    for i, workload in enumerate(study.workloads):
        if workload not in graphs:
            continue
        given = graphs[workload]
        graph, failure = (OpGraph(workload.name, ()), given) if isinstance(given, str) else (given, "")
        for j, system in enumerate(study.systems):
            found[i, j] = Subject(workload, graph, system, study.fidelity, study.runtime, cache, failure)
    return found


def trace_options(workload: Workload) -> dict[str, Any]:
    """What `presilicon.trace_model` is given for a workload."""
    return {name: getattr(workload, name) for name in ("phase", "batch", "seq", "context", "dtype", "attention", "scans")}


def graph_of(workload: Workload) -> OpGraph:
    """Trace, or load, quantise, prune and split the graph of a workload; raises as `presilicon.trace_model` and `parallelise` do."""
    from ..workloads.models import trace_model
    from ..workloads.sparsify import reformat

    graph = OpGraph.load(workload.model) if workload.is_graph else trace_model(workload.model, **trace_options(workload))
    graph = reformat(graph, workload.quant, workload.sparsity)
    degrees = {name: getattr(workload, name) for name in DEGREES}
    if all(degree == 1 for degree in degrees.values()):
        return graph
    from ..workloads.parallel import parallelise

    return parallelise(graph, **degrees)
