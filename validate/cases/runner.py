"""Running cases: each claim's quantity computed by its measure."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ...errors import CaseError, PresiliconError, TraceError
from ...workloads import OpGraph
from .case import Case, Claim, read_case
from .registry import unknown
from .results import CaseResults, ClaimResult

FOLDER: Final = Path(__file__).parent


def case_paths(folder: Path | None = None) -> dict[str, Path]:
    """Case files of a folder (the shipped ones by default) by name.

    Raises
    ------
    CaseError
        The folder does not exist or holds no case.
    """
    folder = FOLDER if folder is None else Path(folder)
    if not folder.is_dir():
        raise CaseError(f"{folder}: not a folder of case files")
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not found:
        raise CaseError(f"{folder}: holds no case file (*.yaml)")
    return found


def run_cases(names: Sequence[str] = (), folder: Path | None = None) -> CaseResults:
    """Run published results.

    Parameters
    ----------
    names
        Cases to run; all when empty.
    folder
        Where the case files are; None: those that presilicon ships.

    Returns
    -------
    CaseResults
        Every claim, the one furthest beyond its tolerance first.

    Raises
    ------
    CaseError
        No such case, a wrong case file, or a measure that cannot be computed; the message names file and field.
        All files are read and checked before anything runs.
    """
    paths = case_paths(folder)
    for name in names:
        if name not in paths:
            raise unknown("case", name, paths, str(folder or FOLDER))
    cases = [read_case(paths[name]) for name in (dict.fromkeys(names) or paths)]
    results = [result for claims in _progress(cases) for result in claims]
    return CaseResults(tuple(sorted(results, key=lambda r: (-r.excess, r.case.name, r.claim.quantity))))


def _progress(cases: Sequence[Case]) -> Iterator[list[ClaimResult]]:
    """Run each case; on a terminal, say on stderr which one."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("cases", total=sum(len(case.claims) for case in cases))
        for case in cases:
            progress.update(task, description=case.name)
            yield run_case(case, lambda: progress.advance(task))


def run_case(case: Case, done: Callable[[], None] = lambda: None) -> list[ClaimResult]:
    """Compute every claim of one case, in the file's order; `done` is called after each."""
    made: dict[str, OpGraph] = {}
    results = []
    for claim in case.claims:
        try:
            predicted = float(claim.measure.function(**_resolve(case, claim, made)))
        except PresiliconError as error:
            if not (isinstance(error, TraceError) and _missing()):
                raise CaseError(f"{claim.where} ({claim.quantity}): {error}") from error
            results.append(ClaimResult(case, claim, math.nan, str(error)))
        else:
            results.append(ClaimResult(case, claim, predicted))
        done()
    return results


def _missing() -> list[str]:
    """Packages of the extra ``trace`` that are not installed; without them models are not traced."""
    return [name for name in ("torch", "transformers") if find_spec(name) is None]


def _resolve(case: Case, claim: Claim, made: dict[str, OpGraph]) -> dict[str, Any]:
    """Arguments with workloads built (each once for the same arguments) and systems looked up."""
    found = dict(claim.arguments)
    for p in claim.measure.parameters:
        if p.name not in found:
            continue
        if p.role == "system":
            found[p.name] = case.systems[found[p.name]]
        elif p.role == "graph":
            name = found[p.name]
            workload = case.workloads[name]
            arguments = {**workload.arguments, **claim.changes[name]}
            key = f"{workload.builder.name} {sorted(arguments.items())!r}"
            if key not in made:
                made[key] = workload.builder.function(**arguments)
            found[p.name] = made[key]
    return found
