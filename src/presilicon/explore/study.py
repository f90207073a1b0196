"""A study: workloads x systems x parameters, read from YAML or a mapping and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..arch import AnySystem, System, load
from ..arch.yamlfile import read_yaml
from ..errors import GraphError, PresiliconError, SpecError, UnknownNameError, shown
from ..sim.host import RUNTIMES
from ..sim.run import FIDELITIES
from .axes import Axis, numbers_of, read_axes
from .expression import Expression, parse_expression

#: What a study may optimise: its column in the results, and whether less or more is better.
OBJECTIVES: Final[Mapping[str, tuple[str, Literal["min", "max"]]]] = {
    "latency": ("time_s", "min"),
    "throughput": ("tokens_per_s", "max"),
    "energy": ("energy_j", "min"),
    "memory": ("peak_memory_bytes", "min"),
    "area": ("area_mm2", "min"),
    "power": ("power_w", "min"),
    "cost": ("cost_usd", "min"),
}
#: Degrees of parallelism of a workload.
DEGREES: Final = ("tp", "pp", "dp", "ep", "cp")
#: What can change a traced graph.
CHANGES: Final = ("quant", "sparsity", *DEGREES)
#: Fields of a workload that conditions may name, and that stand in every row.
WORKLOAD_FIELDS: Final = ("model", "phase", "batch", "seq", "context", "dtype", *CHANGES, "attention", "scans")
#: Points of one batch (one file): of closed forms on GPUs, which run on whole arrays, and of everything else.
_VECTOR_BATCH: Final = 20_000
_POINT_BATCH: Final = 50


@dataclass(frozen=True)
class Workload:
    """What one step runs: a model to trace, or a saved graph.

    Attributes
    ----------
    model
        Name, ``config.json``, ``FILE.py:FUNCTION``, or the path of a graph file; `is_graph` tells.
    phase, batch, seq, context, dtype, quant, sparsity, attention, scans
        As `presilicon.trace_model`, `presilicon.workloads.quantise` and `presilicon.workloads.sparsify` take them. For a graph file only
        `quant`, `sparsity` and the degrees may be given; the others are what its trace noted, or None.
    tp, pp, dp, ep, cp
        Devices of tensor, pipeline, data, expert and context parallelism, as `presilicon.workloads.parallel.parallelise` takes them.
    title
        Of a graph file: the graph's own name.
    """

    model: str
    is_graph: bool = False
    phase: str | None = "prefill"
    batch: int | None = 1
    seq: int | None = 2048
    context: int | None = 4096
    dtype: str | None = "bfloat16"
    quant: str | None = None
    sparsity: str | None = None
    attention: str | None = "sdpa"
    scans: str | None = "torch"
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    cp: int = 1
    title: str = ""

    @property
    def name(self) -> str:
        """Name of the model: that of the graph, or what is left of a path."""
        path = Path(self.model)
        if self.title or path.name == self.model:
            return self.title or self.model.removesuffix(".json")
        return path.parent.name if path.name == "config.json" else path.name.removesuffix(".json")

    @property
    def label(self) -> str:
        """Short name for people: ``"llama-3-8b decode batch=8 context=4096 w4a16"``."""
        changes = [self.quant, self.sparsity, *(f"{name}={getattr(self, name)}" for name in DEGREES if getattr(self, name) > 1)]
        if self.is_graph:
            stem = Path(self.model).name.removesuffix(".gz").removesuffix(".json").removesuffix(".graph")
            return " ".join(filter(None, (stem, *changes)))
        length = f"context={self.context}" if self.phase == "decode" else f"seq={self.seq}"
        words = [self.name, self.phase, f"batch={self.batch}", length, *changes]
        words += [w for w, usual in ((self.dtype, "bfloat16"), (self.attention, "sdpa"), (self.scans, "torch")) if w != usual]
        return " ".join(str(w) for w in words if w)


@dataclass(frozen=True)
class Study:
    """Workloads x systems x parameters; treat as immutable.

    Attributes
    ----------
    name
        For people.
    workloads, systems
        Expanded: one entry for each combination of the lists that the file gives.
    axes
        Parameters that vary: each axis holds one column, or several that move together; the design space is their product.
    when
        Conditions over parameters and workload fields that a point must meet to be evaluated.
    objectives
        Names of `OBJECTIVES`.
    constraints
        Conditions over the columns of the results.
    fidelity, runtime, seed, batch_points
        As `presilicon.simulate` takes them; seed of random parameters; raw points of one batch (one file of the results).
    document
        The study as plain data that YAML can write, defaults filled in.
    source
        File that it came from, for messages.
    """

    name: str
    workloads: tuple[Workload, ...]
    systems: tuple[AnySystem, ...]
    axes: tuple[Axis, ...]
    when: tuple[Expression, ...] = ()
    objectives: tuple[str, ...] = ("latency", "energy")
    constraints: tuple[Expression, ...] = ()
    fidelity: str = "analytic"
    runtime: str = "cudagraph"
    seed: int = 0
    batch_points: int = _VECTOR_BATCH
    document: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    source: str = "study"

    @property
    def paths(self) -> tuple[str, ...]:
        """Override paths that vary, in the order of the file."""
        return tuple(path for axis in self.axes for path in axis.columns)

    def system(self, name: str) -> AnySystem:
        """The system of that name."""
        return next(s for s in self.systems if s.name == name)


class _Document(BaseModel):
    """The YAML file; what its parts hold is checked by `read_axes` and below."""

    model_config = ConfigDict(extra="forbid")
    name: str = ""
    workloads: list[dict[str, Any]] = Field(min_length=1)
    systems: list[str] = Field(min_length=1)
    parameters: dict[str, Any] = Field(default_factory=dict)
    samples: int | None = Field(default=None, ge=1)
    when: list[str] = Field(default_factory=list)
    objectives: list[str] = Field(default_factory=lambda: ["latency", "energy"])
    constraints: list[str] = Field(default_factory=list)
    fidelity: str = "analytic"
    runtime: str = "cudagraph"
    seed: int = Field(default=0, ge=0)
    batch_points: int | None = Field(default=None, ge=1, le=1_000_000)


def load_study(study: Study | Mapping[str, Any] | str | Path) -> Study:
    """Read and check a study.

    Parameters
    ----------
    study
        Path of a YAML file, a mapping of the same content, or a Study, which comes back as it is. Paths of graphs and device files
        inside a file are relative to the file's folder, or else to the working directory.

    Raises
    ------
    SpecError
        A missing, misspelt or ill-formed part; the message names file and place.
    UnknownNameError
        An unknown key, parameter path, system, fidelity, runtime or objective, with the nearest names.
    """
    if isinstance(study, Study):
        return study
    if isinstance(study, Mapping):
        return _build(dict(study), Path(), "study")
    path = Path(study)
    document = read_yaml(path)
    try:
        return _build(document, path.parent, str(path))
    except UnknownNameError as error:
        error.args = (f"{path}: {error}",)
        raise
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None


def _build(raw: dict[str, Any], folder: Path, source: str) -> Study:
    for key in raw:
        if key not in _Document.model_fields:
            raise UnknownNameError("key", str(key), _Document.model_fields)
    try:
        document = _Document.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise SpecError(f"{place}: {_explain(first)}") from None
    for value, known, what in ((document.fidelity, FIDELITIES, "fidelity"), (document.runtime, RUNTIMES, "runtime")):
        if value not in known:
            raise UnknownNameError(what, value, known)
    for objective in document.objectives:
        if objective not in OBJECTIVES:
            raise UnknownNameError("objective", objective, OBJECTIVES, where="objectives")
    systems = _systems(document.systems, folder)
    workloads = tuple(w for index, entry in enumerate(document.workloads) for w in _workloads(entry, folder, f"workloads.{index}"))
    labels = [w.label for w in workloads]
    for label in labels:
        if labels.count(label) > 1:
            raise SpecError(f"workloads: {label!r} is listed twice; rows could not tell the two apart")
    axes = read_axes(document.parameters, systems, samples=document.samples, seed=document.seed)
    vector = document.fidelity == "analytic" and all(isinstance(s, System) for s in systems)
    study = Study(
        name=document.name or (Path(source).stem if source != "study" else "study"),
        workloads=workloads,
        systems=systems,
        axes=axes,
        when=tuple(parse_expression(text, f"when.{i}") for i, text in enumerate(document.when)),
        objectives=tuple(document.objectives),
        constraints=tuple(parse_expression(text, f"constraints.{i}") for i, text in enumerate(document.constraints)),
        fidelity=document.fidelity,
        runtime=document.runtime,
        seed=document.seed,
        batch_points=document.batch_points or (_VECTOR_BATCH if vector else _POINT_BATCH),
        document=document.model_dump(exclude_none=True),
        source=source,
    )
    _check_names(study)
    return study


def _explain(error: Any) -> str:
    kind, found = error["type"], shown(error["input"])
    if kind == "missing":
        return "missing"
    if kind == "too_short":
        return "empty; give one or more"
    words = {"list_type": "a list", "dict_type": "a mapping", "string_type": "a text", "int_type": "a whole number"}
    if kind in words:
        return f"expected {words[kind]}, found {found}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]} (found {found})"


def _near(text: str, folder: Path) -> str:
    """A path as it is found: relative to the study's folder if it exists there."""
    path = folder / text
    return str(path) if not Path(text).is_absolute() and path.exists() and not (text == path.name and folder == Path()) else text


def _systems(names: Sequence[str], folder: Path) -> tuple[AnySystem, ...]:
    found: list[AnySystem] = []
    for index, name in enumerate(names):
        is_path = name.endswith((".yaml", ".yml")) or "/" in name
        try:
            system = load(_near(name, folder) if is_path else name)
        except UnknownNameError as error:
            error.args = (f"systems.{index}: {error}",)
            raise
        if any(system.name == other.name for other in found):
            raise SpecError(f"systems.{index}: two systems are named {system.name!r}; rows could not tell them apart")
        found.append(system)
    return tuple(found)


def _workloads(entry: Mapping[str, Any], folder: Path, where: str) -> list[Workload]:
    """One entry with lists, as the product of its lists."""
    known = ("model", "graph", *WORKLOAD_FIELDS[1:])
    for key in entry:
        if key not in known:
            raise UnknownNameError("key", str(key), known, where=where)
    if ("model" in entry) == ("graph" in entry):
        raise SpecError(f"{where}: give either model or graph")
    lists = {key: value if isinstance(value, list) else [value] for key, value in entry.items()}
    lists |= {"sparsity": [_scheme(value, f"{where}.sparsity") for value in lists["sparsity"]]} if "sparsity" in lists else {}
    for key, values in lists.items():
        for value in values:
            _check_field(key, value, f"{where}.{key}")
        if not values:
            raise SpecError(f"{where}.{key}: empty; give one value or more")
    found = []
    for combination in product(*lists.values()):
        chosen = dict(zip(lists, combination, strict=True))
        if "graph" in chosen:
            extra = sorted(set(chosen) - {"graph", *CHANGES})
            if extra:
                raise SpecError(f"{where}.{extra[0]}: a saved graph is what it is; only {', '.join(CHANGES)} can change it")
            found.append(_saved(_near(chosen.pop("graph"), folder), chosen, where))
        else:
            chosen["model"] = _near(chosen["model"], folder) if "/" in chosen["model"] else chosen["model"]
            found.append(Workload(**chosen))
    return found


def _saved(path: str, changes: Mapping[str, Any], where: str) -> Workload:
    """A saved graph as a workload; its fields are what the trace noted."""
    from ..workloads.graph import OpGraph

    try:
        graph = OpGraph.load(path)
    except GraphError as error:
        raise SpecError(f"{where}: {error}") from None
    noted: dict[str, Any] = {key: graph.meta.get(key) for key in ("phase", "batch", "seq", "context", "dtype", "attention", "scans")}
    return Workload(path, True, title=graph.name, **noted, **changes)


def _scheme(value: Any, where: str) -> str | None:
    """Name of a sparsity scheme; ``2:4`` without quotes too, which YAML 1.1 reads as 124, a number of base 60."""
    from ..workloads.sparsity import sparsity_by_name

    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value // 60}:{value % 60}" if value >= 60 else str(value)
    try:
        return sparsity_by_name(str(value)).name
    except UnknownNameError as error:
        error.args = (f"{where}: {error}",)
        raise
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _check_field(key: str, value: Any, where: str) -> None:
    choices: dict[str, tuple[str, ...]] = {
        "phase": ("prefill", "decode", "train"),
        "attention": ("sdpa", "flash", "eager"),
        "scans": ("torch", "fused"),
    }
    if key in ("batch", "seq", "context", *DEGREES):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SpecError(f"{where}: expected a positive whole number, found {shown(value)}")
    elif key == "quant":
        from ..workloads.quantise import SCHEMES

        if value is not None and value not in SCHEMES:
            raise UnknownNameError("quantisation scheme", str(value), SCHEMES, where=where)
    elif key == "sparsity":
        return  # read by `_scheme`
    elif not isinstance(value, str) or not value:
        raise SpecError(f"{where}: expected a text, found {shown(value)}")
    elif key in choices and value not in choices[key]:
        raise UnknownNameError(key, value, choices[key], where=where)


def _check_names(study: Study) -> None:
    """Every name in a condition is a parameter, a number of all systems, or a workload field."""
    for index, condition in enumerate(study.when):
        for system in study.systems:
            columns = {**condition_columns(study.workloads[0], system), **{p: np.ones(1) for p in study.paths}}
            columns |= {path: axis.columns[path][:1] for axis in study.axes for path in axis.columns}
            try:
                condition.evaluate(columns, units_of(system))
            except UnknownNameError as error:
                error.args = (f"when.{index}: {error}",)
                raise
            except PresiliconError as error:
                raise SpecError(f"when.{index}: {error}") from None


def units_of(system: AnySystem) -> dict[str, str]:
    """Base unit of every number of a system by path; ``""`` for words and flags."""
    return {path: unit for path, _, unit in numbers_of(system)}


def condition_columns(workload: Workload, system: AnySystem) -> dict[str, Any]:
    """What a condition may name beside the parameters: fields of the workload, and the system's own numbers."""
    fields = {name: getattr(workload, name) for name in WORKLOAD_FIELDS} | {"model": workload.name}
    return {path: value for path, value, _ in numbers_of(system)} | fields | {"system": system.name}
