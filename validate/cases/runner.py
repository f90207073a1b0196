"""Running cases: each claim's quantity computed by its measure and held against the published value."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ...errors import CaseError, PresiliconError
from ...files import write_atomically
from ...units import format_si
from ...workloads import OpGraph
from .case import Case, Claim, read_case
from .registry import unknown

if TYPE_CHECKING:
    from rich.table import Table

FOLDER: Final = Path(__file__).parent
Verdict = Literal["within", "expected miss", "MISS"]
_COLUMNS: Final = (
    "case",
    "quantity",
    "system",
    "unit",
    "claimed",
    "predicted",
    "error",
    "tolerance",
    "verdict",
    "measure",
    "source",
    "note",
)


@dataclass(frozen=True)
class ClaimResult:
    """One claim and what presilicon says; `claimed` and `predicted` in `unit`."""

    case: Case
    claim: Claim
    predicted: float

    @property
    def unit(self) -> str:
        """Base unit of the measure."""
        return self.claim.measure.unit

    @property
    def system(self) -> str:
        """Names of the systems that the claim is about."""
        names = [
            self.claim.arguments[p.name]
            for p in self.claim.measure.parameters
            if p.role == "system" and p.name in self.claim.arguments
        ]
        return ", ".join(str(name) for name in names)

    @property
    def error(self) -> float:
        """(predicted - claimed) / claimed; the plain difference where 0 is claimed."""
        difference = self.predicted - self.claim.claimed
        return difference / abs(self.claim.claimed) if self.claim.claimed else difference

    @property
    def excess(self) -> float:
        """Distance from the claimed value as a multiple of the tolerance; infinite for any distance where that is 0."""
        distance = abs(self.predicted - self.claim.claimed)
        if math.isnan(distance):
            return math.inf
        if not self.claim.tolerance:
            return math.inf if distance else 0.0
        return distance / self.claim.tolerance

    @property
    def verdict(self) -> Verdict:
        """Whether the prediction is within the claim's tolerance; a NaN is not."""
        if self.excess <= 1.0:
            return "within"
        return "expected miss" if self.claim.expected_miss else "MISS"


@dataclass(frozen=True)
class CaseResults:
    """All claims of a run, worst first."""

    results: tuple[ClaimResult, ...]

    @property
    def all_within(self) -> bool:
        """Whether no claim is missed but those whose case says so, with the reason."""
        return all(r.verdict != "MISS" for r in self.results)

    def lines(self) -> Iterator[Any]:
        """What to print: the table, the note of every miss, and a count."""
        from rich.text import Text

        yield self._table()
        for r in self.results:
            if r.verdict != "within":
                yield Text(f"{r.verdict}: {r.case.name}, {r.claim.quantity}: {r.claim.note or 'no cause is given'}")
            elif r.claim.expected_miss:
                yield Text(f"within, though the case expects a miss: {r.case.name}, {r.claim.quantity}")
        names = list(dict.fromkeys(r.case.name for r in sorted(self.results, key=lambda r: r.case.name)))
        counts = {
            verdict: sum(r.verdict == verdict for r in self.results) for verdict in ("within", "expected miss", "MISS")
        }
        yield Text(
            f"{len(self.results)} claims of {len(names)} cases: {counts['within']} within tolerance, {counts['expected miss']} expected misses, "
            f"{counts['MISS']} misses"
        )

    def _table(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, justify in (
            ("case", "left"),
            ("quantity", "left"),
            ("system", "left"),
            ("claimed", "right"),
            ("predicted", "right"),
            ("error", "right"),
            ("tolerance", "right"),
            ("verdict", "left"),
        ):
            table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
        for r in self.results:
            cells = (
                r.case.name,
                r.claim.quantity,
                r.system,
                format_si(r.claim.claimed, r.unit, 4),
                format_si(r.predicted, r.unit, 4),
                _error(r),
                _tolerance(r.claim),
                r.verdict,
            )
            table.add_row(*(Text(cell) for cell in cells), style="red" if r.verdict == "MISS" else "")
        return table

    def rows(self) -> list[dict[str, Any]]:
        """Plain rows, one a claim, worst first; values in the unit of column ``unit``."""
        return [
            dict(
                zip(
                    _COLUMNS,
                    (
                        r.case.name,
                        r.claim.quantity,
                        r.system,
                        r.unit,
                        r.claim.claimed,
                        r.predicted,
                        r.error,
                        r.claim.tolerance,
                        r.verdict,
                        r.claim.measure.name,
                        r.claim.source,
                        r.claim.note,
                    ),
                    strict=True,
                )
            )
            for r in self.results
        ]


def _error(r: ClaimResult) -> str:
    if r.claim.relative:
        return f"{r.error:+.1%}"
    difference = r.predicted - r.claim.claimed
    return ("-" if difference < 0 else "+") + format_si(abs(difference), r.unit, 2)


def _tolerance(claim: Claim) -> str:
    if claim.relative and claim.claimed:
        return f"{100 * claim.tolerance / abs(claim.claimed):.3g}%"
    return format_si(claim.tolerance, claim.measure.unit, 2)


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
    return CaseResults(tuple(sorted(results, key=lambda r: (-r.excess, r.case.name))))


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
            raise CaseError(f"{claim.where} ({claim.quantity}): {error}") from error
        results.append(ClaimResult(case, claim, predicted))
        done()
    return results


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


def to_csv(results: CaseResults, path: Path) -> None:
    """Write the rows of a run as CSV; the file appears whole or not at all.

    Raises
    ------
    CaseError
        The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(results.rows())
    try:
        write_atomically(Path(path), text.getvalue().encode())
    except OSError as error:
        raise CaseError(f"{path}: cannot be written: {error.strerror or error}") from None
