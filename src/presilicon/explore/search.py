"""`explore`: multi-objective search over the parameters of a study with Optuna, a generation of designs evaluated at once."""

from __future__ import annotations

import html
import json
import math
import secrets
import sys
import time
import uuid
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from ..errors import OutputError, PresiliconError, UnknownNameError, shown
from ..files import replacing, write_atomically
from ..workloads.graph import OpGraph
from .cluster import workers_of
from .evaluate import code_version, graph_of
from .folder import ResultsFolder, resolved_document, study_identity
from .pareto import as_minimised, hypervolume, non_dominated
from .space import Dimension, Evaluate, check_constraints, dimensions, evaluate_points
from .study import OBJECTIVES, Study, Workload, load_study

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from matplotlib.figure import Figure

Sampler = Literal["nsga2", "tpe", "random"]
SAMPLERS: Final = ("nsga2", "tpe", "random")
#: Files of an output folder.
TRIALS, FRONT, DATABASE, MANIFEST = "trials.parquet", "front.parquet", "explore.db", "explore.json"
_STUDY_NAME: Final = "presilicon"
_MOST_TRIALS: Final = 1_000_000
_FORMAT: Final = "presilicon-explore 1"
#: How often a storage is opened that another process makes at the same moment, and the words of databases that tell so.
_OPENINGS, _PAUSE_S = 6, 0.1
_MADE_TWICE: Final = ("already exists", "unique constraint", "duplicate")


@dataclass(frozen=True)
class Exploration:
    """What a search found.

    Attributes
    ----------
    study
        What was searched.
    objectives
        Names of `presilicon.explore.study.OBJECTIVES`, in the order of the search.
    frame
        One row per trial, in their order: ``trial``, the parameters, the results, ``error``, ``violation``, ``feasible``, ``front``.
    path
        Output folder; None: nothing was written.
    info
        Sampler, seed, code version, hash of the study.
    """

    study: Study
    objectives: tuple[str, ...]
    frame: pd.DataFrame
    path: Path | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def front(self) -> pd.DataFrame:
        """The feasible rows that no other feasible row dominates, best first in the first objective."""
        rows = self.frame[self.frame["front"]]
        return rows.iloc[np.argsort(as_minimised(rows, self.objectives)[:, 0], kind="stable")]

    @property
    def reference(self) -> np.ndarray:
        """Default reference point of the hypervolume: the worst feasible value of each objective (less is better), and a tenth of the
        range beyond."""
        return reference_of(as_minimised(self.frame[self.frame["feasible"]], self.objectives))

    def hypervolume(self, reference: Sequence[float] | np.ndarray | None = None) -> float:
        """Volume that the front dominates before a reference point, in the units of the objectives; 0 where nothing is feasible.

        Parameters
        ----------
        reference
            One value per objective, all minimised (throughput negated); None: `reference`. Compare only volumes of one reference.
        """
        if not self.frame["feasible"].any():
            return 0.0
        return hypervolume(as_minimised(self.front, self.objectives), self.reference if reference is None else reference)

    def picture(self) -> Figure:
        """The trials and the front, over the first two objectives."""
        from .figures import front_figure

        return front_figure(self.frame, self.objectives, title=self.study.name)

    def __repr__(self) -> str:
        return (
            f"Exploration({self.study.name}: {len(self.frame)} trials, {int(self.frame['feasible'].sum())} feasible, "
            f"{int(self.frame['front'].sum())} on the front of {', '.join(self.objectives)})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>" + self.front.head(10).to_html(index=False, escape=True)

    def least_violating(self, rows: int = 5) -> pd.DataFrame:
        """The evaluated designs that break the constraints least."""
        return self.frame[self.frame["error"].isna()].sort_values("violation", kind="stable").head(rows)


def reference_of(values: np.ndarray) -> np.ndarray:
    """A point a tenth of the range beyond the worst of each objective, shape ``(objectives,)``."""
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return np.zeros(values.shape[1])
    worst, best = values.max(axis=0), values.min(axis=0)
    span: np.ndarray = np.where(worst > best, worst - best, np.abs(worst))
    return np.asarray(worst + 0.1 * span)


def explore(
    study: Study | Mapping[str, Any] | str | Path,
    objectives: Sequence[str] | None = None,
    trials: int = 500,
    *,
    sampler: Sampler = "nsga2",
    seed: int = 0,
    population: int = 25,
    out: str | Path | None = None,
    storage: str | None = None,
    workers: int = 1,
    progress: bool = False,
    graphs: Mapping[Workload, OpGraph] | None = None,
) -> Exploration:
    """Search the parameters of a study for the best trade-offs.

    Parameters
    ----------
    study
        Path of a study file, a mapping of the same content, or a Study. Ranges are searched between their ends, lists over their values;
        the study's constraints (``area_mm2 <= 800``), its conditions, and that the workloads fit into the memory are kept.
    objectives
        Two names or more of `presilicon.explore.study.OBJECTIVES`; the study's own if None. Over several workloads time, rate and energy
        are geometric means.
    trials
        Designs in all; those that the storage holds already count.
    sampler
        ``"nsga2"`` (genetic), ``"tpe"`` (density estimates) or ``"random"``.
    seed
        Equal seeds give equal trials, also when a search was stopped and went on.
    population
        Designs of one generation, which are evaluated together.
    out
        Folder for the database, the trials and the front; None: nothing is written.
    storage
        URL of an Optuna RDB storage that several machines may share, in place of the folder's SQLite file.
    workers
        Processes of this machine among which a generation is divided, where designs are evaluated one by one (NPUs, hybrid systems,
        ``tile``); the trials are the same.
    progress
        Show a bar on a terminal.
    graphs
        Graphs of workloads that are traced already.

    Returns
    -------
    Exploration

    Raises
    ------
    PresiliconError
        Optuna is not installed, fewer than two objectives, nothing varies, the storage cannot be opened, or worker processes die.
    UnknownNameError
        An unknown objective or sampler.
    OutputError
        The storage holds another study, and the message says what differs; or it is full, or locked for too long.
    """
    optuna = _optuna()
    study = load_study(study)
    names = tuple(objectives or study.objectives)
    _check(study, names, trials, sampler, population, workers)
    check_constraints(study)
    found = dimensions(study)
    folder = Path(out) if out is not None else None
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    run = _Run(study, names, found, sampler, seed, population, code_version())
    kept = _storage(optuna, storage or (f"sqlite:///{folder.absolute() / DATABASE}" if folder else None), run)
    load_graph = ResultsFolder(folder, study, run.version).graph if folder else graph_of  # kept in the folder, as a sweep does
    traced = {w: graphs[w] if graphs and w in graphs else load_graph(w) for w in study.workloads}
    with warnings.catch_warnings(), _quiet(optuna), _bar(progress, trials) as advance:
        warnings.simplefilter("ignore")
        with workers_of(workers) as evaluate:
            rows = _search(optuna, run, kept, traced, trials, advance, evaluate)
    result = Exploration(study, names, _frame(rows, names), folder, run.identity())
    if folder is not None:
        _write(result, folder)
    return result


@dataclass(frozen=True)
class _Run:
    """What decides a search."""

    study: Study
    objectives: tuple[str, ...]
    dimensions: tuple[Dimension, ...]
    sampler: str
    seed: int
    population: int
    version: str

    def identity(self) -> dict[str, Any]:
        """As plain data: two searches with one identity may share a storage."""
        space = {
            d.name: f"{d.low:g} to {d.high:g}{', log' * d.log}" if d.columns is None else f"{len(next(iter(d.columns.values())))} values"
            for d in self.dimensions
        }
        found = study_identity(self.study)
        return {
            "format": _FORMAT,
            "objectives": list(self.objectives),
            "constraints": [c.text for c in self.study.constraints],
            "sampler": self.sampler,
            "seed": self.seed,
            "population": self.population,
            "space": space,
            "code_version": self.version,
        } | {key: found[key] for key in ("workloads", "systems", "parameters", "when", "fidelity", "runtime")}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise PresiliconError("the search needs Optuna, which is not installed: pip install 'presilicon[explore]'") from None
    return optuna


def _check(study: Study, names: Sequence[str], trials: int, sampler: str, population: int, workers: int) -> None:
    for name in names:
        if name not in OBJECTIVES:
            raise UnknownNameError("objective", name, OBJECTIVES)
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise PresiliconError(f"objectives: expected two or more, each once, found {', '.join(names) or 'none'}; "
                              f"known: {', '.join(OBJECTIVES)}")
    if sampler not in SAMPLERS:
        raise UnknownNameError("sampler", sampler, SAMPLERS)
    for value, what, least in ((trials, "trials", 1), (population, "population", 2), (workers, "workers", 1)):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_TRIALS:
            raise PresiliconError(f"{what}: expected a whole number from {least} to {_MOST_TRIALS:,}, found {shown(value)}")


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _bar(wanted: bool, trials: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not (wanted and sys.stderr.isatty())) as bar:
        task = bar.add_task("searching", total=trials)
        yield lambda done: bar.update(task, completed=done)


def _storage(optuna: Any, url: str | None, run: _Run) -> optuna.Study:
    """The study that is kept: what it holds must be of the same search. Another process may be making it at this very moment."""
    for attempt in range(_OPENINGS):
        try:
            with _quiet(optuna), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _opened(optuna, url, run)
        except PresiliconError:
            raise
        except Exception as error:
            reason = str(error).split("\n", maxsplit=1)[0]
            raced = isinstance(error, optuna.exceptions.DuplicatedStudyError) or any(word in str(error).lower() for word in _MADE_TWICE)
            if not raced or attempt == _OPENINGS - 1:
                raise PresiliconError(f"{url}: the storage cannot be opened: {type(error).__name__}: {reason}") from None
            time.sleep(_PAUSE_S * (attempt + 1))
    raise AssertionError("unreachable")


def _opened(optuna: Any, url: str | None, run: _Run) -> optuna.Study:
    directions = ["minimize" if OBJECTIVES[name][1] == "min" else "maximize" for name in run.objectives]
    known = [] if url is None else optuna.get_all_study_names(url)
    if _STUDY_NAME not in known:
        kept = optuna.create_study(storage=url, study_name=_STUDY_NAME, directions=directions)
        kept.set_user_attr("identity", run.identity())
        return kept
    kept = optuna.load_study(study_name=_STUDY_NAME, storage=url)
    begun = not kept.user_attrs and not kept.get_trials(deepcopy=False)  # made, and not yet described: killed there, or at it now
    if begun and [d.name.lower() for d in kept.directions] == directions:
        kept.set_user_attr("identity", run.identity())
    _same(url or "", kept.user_attrs.get("identity"), run.identity())
    return kept


def _same(url: str, was: Any, now: Mapping[str, Any]) -> None:
    """Refuse a storage of another search, and say what differs."""
    if not isinstance(was, Mapping):
        raise OutputError(f"{url}: holds a study that presilicon did not write")
    for key, value in json.loads(json.dumps(now)).items():
        before = was.get(key)
        if before == value:
            continue
        what = f"{key}: was {shown(before)}, is {shown(value)}"
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            part = next(k for k in sorted({*before, *value}) if before.get(k) != value.get(k))
            what = f"{key}: {part}: was {shown(before.get(part))}, is {shown(value.get(part))}"
        raise OutputError(f"{url}: holds another search: {what}; give another folder or storage")


def _sampler(optuna: Any, run: _Run, done: int, own: int) -> Any:
    """A sampler seeded for the generation after so many trials, so that a search that went on draws what an uninterrupted one draws.

    `own` tells processes apart that share a storage: with one seed they would draw the same designs.
    """
    seed = int(np.random.SeedSequence([run.seed, done, own] if own else [run.seed, done]).generate_state(1)[0])
    if run.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)

    def constraints(trial: Any) -> tuple[float]:
        return (float(trial.user_attrs["row"]["violation"]),)

    if run.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, constraints_func=constraints, constant_liar=True, n_startup_trials=run.population)
    blend = optuna.samplers.nsgaii.BLXAlphaCrossover()  # of the crossovers tried the best of real-valued parameters, and bounded
    return optuna.samplers.NSGAIISampler(population_size=run.population, seed=seed, constraints_func=constraints, crossover=blend)


def _search(
    optuna: Any, run: _Run, kept: optuna.Study, graphs: Mapping[Workload, OpGraph], trials: int, advance: Any, evaluate: Evaluate
) -> list[dict[str, Any]]:
    """Generations of designs until there are enough trials; the storage is written once a generation.

    Sampling works on a copy in memory, which other processes' trials join before each generation: a database is asked for
    whole trials only. A process that sees others write draws from a seed of its own from then on; a generation that they had too, or
    for which they left no room, is let go.
    """
    distributions = {d.name: d.distribution() for d in run.dimensions}
    working, seen, own, begun = _memory(optuna, kept), set[str](), 0, False
    while True:
        arrived = _arrived(optuna, kept, seen)
        own = own or (_own_seed() if begun and arrived else 0)
        working.add_trials(arrived)
        seen.update(trial.user_attrs["id"] for trial in arrived)
        begun = True
        advance(min(trials, len(seen)))
        count = min(run.population - len(seen) % run.population, trials - len(seen))
        if count <= 0:
            break
        working.sampler = _sampler(optuna, run, len(seen), own)
        asked = [working.ask(distributions) for _ in range(count)]
        done = _evaluated(optuna, run, graphs, working, asked, evaluate)
        others = _arrived(optuna, kept, seen)
        drawn = [trial.params for trial in others]
        if others and (len(seen) + len(others) + len(done) > trials or all(trial.params in drawn for trial in done)):
            working, seen, own = _memory(optuna, kept), set(), own or _own_seed()
            continue
        seen.update(trial.user_attrs["id"] for trial in done)
        with _stored():
            kept.add_trials(done)
    return [dict(t.user_attrs["row"]) for t in sorted(working.get_trials(deepcopy=False), key=lambda t: t.number)][:trials]


def _memory(optuna: Any, kept: optuna.Study) -> optuna.Study:
    """An empty study in memory with the directions of the kept one."""
    return optuna.create_study(directions=[d.name.lower() for d in kept.directions])


def _arrived(optuna: Any, kept: optuna.Study, seen: Collection[str]) -> list[optuna.trial.FrozenTrial]:
    """Finished trials of the storage that are not among those seen."""
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    with _stored():
        return [trial for trial in kept.get_trials(deepcopy=False, states=states) if trial.user_attrs["id"] not in seen]


def _own_seed() -> int:
    return secrets.randbits(63) | 1


@contextmanager
def _stored() -> Iterator[None]:
    """Errors of the database as one of presilicon's own: locked for too long, full, gone."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        cause = error.__cause__ or error
        reason = str(cause).split("\n", maxsplit=1)[0]
        raise OutputError(
            f"the storage cannot be read or written: {type(cause).__name__}: {reason}; the generations in it are whole, and the same "
            "command goes on from there"
        ) from None


def _evaluated(
    optuna: Any, run: _Run, graphs: Mapping[Workload, OpGraph], working: optuna.Study, asked: Sequence[Any], evaluate: Evaluate
) -> list[Any]:
    """Evaluate one generation and tell the working study; the finished trials."""
    columns: dict[str, np.ndarray] = {}
    for dimension in run.dimensions:
        columns |= dimension.values([trial.params[dimension.name] for trial in asked])
    results = evaluate_points(run.study, graphs, columns, run.version, evaluate)
    minimised = [(OBJECTIVES[name][0]) for name in run.objectives]
    for name, column in zip(run.objectives, minimised, strict=True):
        if column not in results:
            raise PresiliconError(f"objective {name}: {run.study.systems[0].name} has no column {column}: the area model does not know it")
    for index, trial in enumerate(asked):
        row = {name: _plain(values[index]) for name, values in results.items()}
        values = [row[column] for column in minimised]
        if row["error"] is None and not all(isinstance(v, float) and math.isfinite(v) for v in values):
            bad = next(n for n, v in zip(run.objectives, values, strict=True) if not (isinstance(v, float) and math.isfinite(v)))
            value = row[OBJECTIVES[bad][0]]
            row |= {"error": f"{bad} is {'not known of ' + str(row['system']) if value is None else value}", "feasible": False}
        trial.set_user_attr("id", uuid.uuid4().hex)
        if not math.isfinite(row["violation"]):
            row["violation"] = 1e9
        trial.set_user_attr("row", row)
        if row["error"] is None:
            working.tell(trial, values)
        else:
            working.tell(trial, state=optuna.trial.TrialState.FAIL)
    known = {trial.number for trial in asked}
    return [t for t in working.get_trials(deepcopy=False) if t.number in known]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value


def _frame(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(list(rows))
    frame.insert(0, "trial", np.arange(len(frame)))
    for name in ("feasible", "fits"):
        frame[name] = frame[name].fillna(False).astype(bool)
    frame["violation"] = frame["violation"].astype(float)
    values = as_minimised(frame, objectives)
    values[~frame["feasible"].to_numpy()] = np.inf
    frame["front"] = non_dominated(values)
    return frame


def _write(result: Exploration, folder: Path) -> None:
    """Trials, front, its picture, and what was searched."""
    from ..plots import svg
    from .figures import front_figure

    front = result.front
    for name, frame in ((TRIALS, result.frame), (FRONT, front)):
        with replacing(folder / name) as stream:
            frame.to_parquet(stream, index=False)
    manifest = dict(result.info) | {"name": result.study.name, "study": resolved_document(result.study)}
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    if len(front):
        write_atomically(folder / "front.svg", svg(front_figure(result.frame, result.objectives, title=result.study.name)))
