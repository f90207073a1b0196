"""The error of predicted Triton kernels on measured ones: by kernel, shape class and config, tuning, and the bars that were set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..arch import System
from ..arch.intervals import bounds, table_for
from ..errors import TableError
from ..files import write_atomically
from .errors_table import ErrorLine, error_line, worst_rows
from .kernel_rows import KernelRows, Progress, predict_rows
from .kernels.record import beside
from .kernels.suite import fields_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: What is asked of held-out rows (mean and 95th percentile of the absolute error), of GEMM and attention among them, and of tuning.
MAPE_BAR: Final = 0.10
P95_BAR: Final = 0.25
DENSE_BAR: Final = 0.07
TUNE_BAR: Final = 0.03
#: Mean error of a kernel that took no part in the fit.
LEFT_OUT_BAR: Final = 0.15
#: Predicted configs that are measured, and configs of a shape from which on tuning is judged.
TOP, CONFIGS = 5, 50
BEGIN, END = "<!-- measured-kernels:begin -->", "<!-- measured-kernels:end -->"


@dataclass(frozen=True)
class Tuned:
    """How well predictions choose a config of one shape.

    Attributes
    ----------
    suite, shape, configs
        What was tuned, and over how many measured configs.
    loss
        The best measured time among the predicted top 5 over the best of all, minus 1.
    first
        The same of the predicted best alone.
    rank
        Spearman's rank correlation of predicted and measured times.
    """

    suite: str
    shape: str
    configs: int
    loss: float
    first: float
    rank: float


@dataclass(frozen=True)
class KernelErrors:
    """Measured rows with their predictions.

    Attributes
    ----------
    rows
        What was measured.
    system
        What predicted it.
    frame
        The rows that could be predicted, with predicted_s, low_s, high_s, limiter.
    refused
        Rows without a prediction, in words.
    calibrated
        Whether the intervals are of this GPU's own calibration.
    """

    rows: KernelRows
    system: System
    frame: pd.DataFrame
    refused: tuple[str, ...]
    calibrated: bool

    def line(self, name: str, mask: Any) -> ErrorLine | None:
        """Errors of the rows of a mask; None for none."""
        part = self.frame[np.asarray(mask)]
        if not len(part):
            return None
        columns = (part[name].to_numpy(dtype=float) for name in ("measured_s", "predicted_s", "low_s", "high_s"))
        return error_line(name, *columns)

    def lines(self) -> list[ErrorLine]:
        """All rows, by part of the split, by kernel, by class of shapes, by warps and stages of the config, by time."""
        frame = self.frame
        made = [self.line("all", np.ones(len(frame), dtype=bool))]
        for column, label in (("part", ""), ("suite", ""), ("size", "moves "), ("dtype", ""), ("warps", "warps "), ("stages", "stages ")):
            if frame[column].nunique() > 1:
                made += [self.line(f"{label}{value}", frame[column] == value) for value in sorted(frame[column].unique(), key=str) if value]
        edges = (0.0, 10e-6, 100e-6, 1e-3, np.inf)
        for low, high, name in zip(edges, edges[1:], ("under 10 us", "10 to 100 us", "100 us to 1 ms", "over 1 ms"), strict=False):
            made.append(self.line(name, (frame["measured_s"] >= low) & (frame["measured_s"] < high)))
        return [line for line in made if line is not None]

    def tuning(self, least: int = CONFIGS) -> list[Tuned]:
        """Shapes of which so many configs were measured, worst first."""
        made = []
        for (suite, shape), part in self.frame.groupby(["suite", "shape"], sort=True):
            if len(part) < least:
                continue
            ordered = part.sort_values("predicted_s", kind="stable")
            best = float(part["measured_s"].min())
            ranks = part[["predicted_s", "measured_s"]].rank().to_numpy()
            rank = float(np.corrcoef(ranks[:, 0], ranks[:, 1])[0, 1])
            made.append(Tuned(str(suite), str(shape), len(part), float(ordered["measured_s"].iloc[:TOP].min()) / best - 1,
                              float(ordered["measured_s"].iloc[0]) / best - 1, rank))
        return sorted(made, key=lambda one: -one.loss)

    def left_out(self) -> list[ErrorLine]:
        """Each kernel by constants that were fitted without it, as `presilicon calibrate` noted beside the data; worst first."""
        try:
            lines = json.loads(beside(self.rows.path, "left-out.json").read_text(encoding="utf-8"))
            fitted = all(abs(self.system.calibration[name] / value - 1) < 1e-6 for name, value in lines["fitted"].items())
            if not fitted:  # another fit's
                return []
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return sorted((ErrorLine(**line) for line in lines["kernels"]), key=lambda line: -line.mape)

    def verdicts(self) -> list[tuple[str, str, str, bool]]:
        """(what, asked, found, whether it is met) for each bar that the rows can judge."""
        held = self.frame["part"] != "fit"
        dense = self.frame["group"].isin(["gemms", "attentions"])
        made = []
        whole, tensor = self.line("held out", held), self.line("held out, GEMM and attention", held & dense)
        if whole is not None:
            made += [("held-out rows, MAPE", f"{MAPE_BAR:.0%}", f"{whole.mape:.1%}", whole.mape <= MAPE_BAR),
                     ("held-out rows, p95", f"{P95_BAR:.0%}", f"{whole.p95:.1%}", whole.p95 <= P95_BAR)]
        if tensor is not None:
            made.append(("held-out GEMM and attention, MAPE", f"{DENSE_BAR:.0%}", f"{tensor.mape:.1%}", tensor.mape <= DENSE_BAR))
        left = self.left_out()
        if left:
            worst = max(left, key=lambda line: line.mape)
            made.append((f"each of {len(left)} kernels left out of the fit, MAPE (worst: {worst.group})", f"{LEFT_OUT_BAR:.0%}",
                         f"{worst.mape:.1%}", worst.mape <= LEFT_OUT_BAR))
        for one in self.tuning():
            made.append((f"best of the top {TOP} of {one.configs}, {one.suite} {one.shape}", f"{TUNE_BAR:.0%}", f"{one.loss:.1%}",
                         one.loss <= TUNE_BAR))
        return made

    def page(self, worst: int = 10) -> str:
        """Markdown: the bars, errors by class, tuning, worst rows."""
        refused = [f"{len(self.refused)} rows have no prediction; the first: {self.refused[0]}"] if self.refused else []
        parts = [f"{len(self.frame)} rows measured on {self.rows.gpu} (`{self.rows.path.name}`), predicted on `{self.system.name}`.",
                 *self.rows.notes, *refused,
                 "The intervals are this GPU's own." if self.calibrated else "The intervals are those of GPUs without measured kernels."]
        made = ["\n\n".join(parts), ""]
        verdicts = self.verdicts()
        if verdicts:
            made += ["| bar | asked | found | |", "|---|--:|--:|---|"]
            made += [f"| {what} | {asked} | {found} | {'met' if met else 'missed'} |" for what, asked, found, met in verdicts]
            made.append("")
        made += ["| rows | number | MAPE | median | p95 | bias | in 90 % interval |", "|---|--:|--:|--:|--:|--:|--:|"]
        made += [f"| {n.group} | {n.rows} | {n.mape:.1%} | {n.median:.1%} | {n.p95:.1%} | {n.bias:+.1%} | {n.coverage:.0%} |"
                 for n in self.lines()]
        left = self.left_out()
        if left:
            made += ["", "| kernel left out of the fit | rows | MAPE | p95 | bias |", "|---|--:|--:|--:|--:|"]
            made += [f"| {n.group} | {n.rows} | {n.mape:.1%} | {n.p95:.1%} | {n.bias:+.1%} |" for n in left]
        tuned = self.tuning(2 * TOP)
        if tuned:
            made += ["", f"| tuned shape | configs | best of top {TOP} | predicted best | rank correlation |", "|---|--:|--:|--:|--:|"]
            made += [f"| {one.suite} {one.shape} | {one.configs} | {one.loss:+.1%} | {one.first:+.1%} | {one.rank:.3f} |" for one in tuned]
        shown = ["suite", "shape", "config", "part", "measured_s", "predicted_s", "ratio", "limiter"]
        table = worst_rows(self.frame, "measured_s", worst)[shown]
        made += ["", "Worst rows:", "", "```text", table.to_string(index=False, float_format=lambda x: f"{x:.4g}"), "```", ""]
        return "\n".join(made)

    def parity(self) -> Figure:
        """Predicted over measured seconds, one point a row, by kernel; the shaded band is 10 %."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 6.0), layout="constrained")
        axes = figure.subplots()
        low = 0.7 * float(self.frame[["measured_s", "predicted_s"]].min().min())
        high = 1.4 * float(self.frame[["measured_s", "predicted_s"]].max().max())
        line = np.array([low, high])
        axes.fill_between(line, line * 0.9, line * 1.1, color="0.9", lw=0)
        axes.plot(line, line, color="0.5", lw=0.8)
        for number, (suite, part) in enumerate(self.frame.groupby("suite", sort=True)):
            held = (part["part"] != "fit").to_numpy()
            for mask, fill in ((held, True), (~held, False)):
                axes.scatter(part["measured_s"][mask], part["predicted_s"][mask], s=14, color=f"C{number % 10}", lw=0.8,
                             marker="o^sD"[number // 10 % 4], facecolors=f"C{number % 10}" if fill else "none",
                             label=str(suite) if fill == bool(held.any()) else None)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="measured, s", ylabel="predicted, s",
                 title=f"{self.rows.gpu}: measured and predicted kernels (filled: held out)")
        axes.legend(fontsize=6, ncols=2)
        return figure


def kernel_errors(rows: KernelRows, system: System, *, jobs: int = 1, progress: Progress = lambda stage, share: None) -> KernelErrors:
    """Predict every row.

    Raises
    ------
    TableError
        None can be predicted.
    """
    found = [one for (one,) in predict_rows(rows, [system], jobs=jobs, progress=progress)]
    good = np.array([not one.problem for one in found])
    refused = tuple(f"{row.suite} {row.shape} {row.config}: {one.problem}"
                    for row, one in zip(rows.frame.itertuples(), found, strict=True) if one.problem)
    if not good.any():
        raise TableError(f"{rows.path}: no row can be predicted; {refused[0]}")
    kept = [one for one in found if not one.problem]
    times = np.array([one.core_s + one.launch_s for one in kept])
    low, high = np.empty(len(times)), np.empty(len(times))
    own, tensor = True, np.array([one.tensor for one in kept])
    for name, mine in (("kernel.tensor", tensor), ("kernel.memory", ~tensor)):
        _, its = table_for(system, name)
        own &= its or not mine.any()
        # without measured kernels: the rule of `presilicon kernel`, the rows of fused MoE kernels for tensor cores, else the widest
        family = name if its else "fused_moe" if name == "kernel.tensor" else "default"
        low[mine], high[mine] = bounds(system, family, times[mine])
    configs = [fields_of(text) for text in rows.frame["config"][good]]
    frame = rows.frame[good].reset_index(drop=True).assign(
        predicted_s=times, low_s=low, high_s=high, limiter=[one.limiter for one in kept],
        warps=[str(config.get("num_warps", "")) for config in configs], stages=[str(config.get("num_stages", "")) for config in configs])
    return KernelErrors(rows, system, frame, refused, own)


def note_left_out(path: Path, fitted: Mapping[str, float], lines: Sequence[ErrorLine]) -> Path:
    """Write errors of kernels that were left out of a fit beside the data, with the constants that the whole fit found."""
    place = beside(path, "left-out.json")
    kernels = [{**vars(line), "group": line.group.split()[0], "coverage": None} for line in lines]
    write_atomically(place, (json.dumps({"fitted": dict(fitted), "kernels": kernels}, indent=1) + "\n").encode())
    return place


def write_into(path: Path, errors: Sequence[KernelErrors], command: str) -> None:
    """Put the tables between the markers of a Markdown page.

    Raises
    ------
    TableError
        The page has no such markers.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise TableError(f"{path}: no lines {BEGIN} and {END} to put the tables between")
    head, rest = text.split(BEGIN)
    tables = "\n".join(f"### {one.rows.gpu}\n\n{one.page()}" for one in errors)
    write_atomically(path, f"{head}{BEGIN}\nWritten by `{command}`.\n\n{tables}{END}{rest.split(END)[1]}".encode())
