"""What a run of cases found: each claim beside the prediction, as a table, notes and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ...files import write_atomically
from ...units import format_si
from .case import Case, Claim

if TYPE_CHECKING:
    from rich.table import Table

Verdict = Literal["within", "not run", "expected miss", "MISS"]
_MARKS: Final[tuple[Verdict, ...]] = ("within", "not run", "expected miss", "MISS")
_HEADINGS: Final = ("case", "quantity", "system", "claimed", "predicted", "error", "tolerance", "verdict")


@dataclass(frozen=True)
class ClaimResult:
    """One claim and what presilicon says.

    Attributes
    ----------
    predicted
        In `unit`; NaN where the claim could not be run.
    not_run
        Why it could not (an optional package is not installed).
    """

    case: Case
    claim: Claim
    predicted: float
    not_run: str = ""

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
        if self.not_run:
            return 0.0
        if math.isnan(distance):
            return math.inf
        if not self.claim.tolerance:
            return math.inf if distance else 0.0
        return distance / self.claim.tolerance

    @property
    def verdict(self) -> Verdict:
        """Whether the prediction is within the claim's tolerance; a NaN is not."""
        if self.not_run:
            return "not run"
        if self.excess <= 1.0 + 1e-9:
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
        """What to print: the table, the note of every miss and every case, and a count."""
        from rich.text import Text

        yield self._table()
        misses: dict[tuple[str, str, str], list[str]] = {}
        for r in self.results:
            what = f"{r.claim.quantity} ({r.system})" if r.system else r.claim.quantity
            if r.verdict != "within":
                misses.setdefault((r.verdict, r.case.name, r.not_run or r.claim.note), []).append(what)
            elif r.claim.expected_miss:
                yield Text(f"within, although expected to miss: {r.case.name}: {what}")
        for (verdict, name, note), quantities in misses.items():
            yield Text(f"{verdict}: {name}: {'; '.join(quantities)}: {note or 'no cause is known'}")
        cases = {r.case.name: r.case for r in self.results}
        for name in sorted(cases):
            if cases[name].notes:
                yield Text(f"{name}: {cases[name].notes}")
        within, skipped, expected, missed = (sum(r.verdict == mark for r in self.results) for mark in _MARKS)
        leaned, derived = (sum(getattr(r.claim, name) for r in self.results) for name in ("seen", "derived"))
        if leaned:
            yield Text(
                f"* constants of the model lean on these figures ({leaned}): agreement is consistency, not prediction"
            )
        if derived:
            yield Text(f"+ these figures follow from the case's own inputs ({derived}): agreement checks the arithmetic only")
        if leaned or derived:
            alone = [r for r in self.results if not (r.claim.seen or r.claim.derived)]
            marks = [sum(r.verdict == mark for r in alone) for mark in ("within", "expected miss", "MISS")]
            yield Text(
                f"{len(alone)} claims test a published figure that nothing here was made from: {marks[0]} within tolerance, "
                f"{marks[1]} expected misses, {marks[2]} misses"
            )
        yield Text(
            f"{len(self.results)} claims of {len(cases)} cases: {within} within tolerance, "
            f"{expected} expected misses, {missed} misses" + (f", {skipped} not run" if skipped else "")
        )

    def _table(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in _HEADINGS:
            numeric = name in ("claimed", "predicted", "error", "tolerance")
            table.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
        for r in self.results:
            claimed, predicted = (format_si(value, r.unit, 4) for value in (r.claim.claimed, r.predicted))
            cells = (
                r.case.name,
                r.claim.quantity,
                r.system,
                claimed,
                predicted,
                _error(r),
                _tolerance(r.claim),
                r.verdict + " *" * r.claim.seen + " +" * r.claim.derived,
            )
            table.add_row(*(Text(cell) for cell in cells), style="red" if r.verdict == "MISS" else "")
        return table

    def rows(self) -> list[dict[str, Any]]:
        """Plain rows, one a claim, worst first; claimed, predicted and tolerance are in the unit of column ``unit``."""
        return [
            {
                "case": r.case.name,
                "quantity": r.claim.quantity,
                "system": r.system,
                "unit": r.unit,
                "claimed": r.claim.claimed,
                "predicted": r.predicted,
                "error": r.error,
                "tolerance": r.claim.tolerance,
                "verdict": r.verdict,
                "seen": r.claim.seen,
                "derived": r.claim.derived,
                "measure": r.claim.measure.name,
                "source": r.claim.source,
                "note": r.claim.note,
            }
            for r in self.results
        ]


def _error(r: ClaimResult) -> str:
    if math.isnan(r.predicted):
        return "-"
    if r.claim.relative:
        return f"{r.error:+.1%}"
    difference = r.predicted - r.claim.claimed
    return ("-" if difference < 0 else "+") + format_si(abs(difference), r.unit, 2)


def _tolerance(claim: Claim) -> str:
    if claim.relative and claim.claimed:
        return f"{100 * claim.tolerance / abs(claim.claimed):.3g}%"
    return format_si(claim.tolerance, claim.measure.unit, 2)


def to_csv(results: CaseResults, path: Path) -> None:
    """Write the rows of a run as CSV; the file appears whole or not at all.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    text, rows = io.StringIO(), results.rows()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["case"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(Path(path), text.getvalue().encode())
