"""Errors of Triton predictions on measured tables, worst first: fused mixture-of-experts rows and the Triton tutorials' figures.

Nothing is fitted on the MoE rows; for the tutorials the power at which their machine's SM clock falls is (`tutorials`). ``python -m
presilicon.validate.triton_tables FOLDER`` prints the page (`make triton-accuracy MEASURED=FOLDER`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..arch import System
from ..errors import KernelError, TableError
from . import moe_rows, triton_moe, tutorials
from .accuracy import system_of
from .errors_table import ErrorLine, error_lines, rank_correlation, worst_rows
from .moe_configs import TunedConfigs, read_tuned
from .older_triton import older_version

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, float], None]

#: What the tables of MoE rows and of the tutorials are called in a folder of measured tables.
MOE_TABLES: Final = "*.moe*.csv"
TUTORIALS: Final = "triton_tutorials.a100_sxm_40gb.csv"
_SIZES: Final = ((16, "1 to 16 tokens"), (128, "17 to 128 tokens"), (1024, "129 to 1,024 tokens"), (1 << 30, "over 1,024 tokens"))


@dataclass(frozen=True)
class MoeErrors:
    """Predictions of one table's rows.

    Attributes
    ----------
    table, system
        The file's name and the device file's.
    fidelity
        ``"tile"`` or ``"cycle"``.
    frame
        One row for each measured row: its sizes, ``measured_s``, ``predicted_s``, what it is made of, and ``why`` in words.
    refused
        Rows without a prediction, with the reason.
    """

    table: str
    system: str
    fidelity: str
    frame: pd.DataFrame
    refused: tuple[str, ...]

    @property
    def median(self) -> float:
        """Median of |predicted - measured| / measured."""
        return float((self.frame.predicted_s / self.frame.measured_s - 1).abs().median())

    @property
    def rank_correlation(self) -> float:
        """Spearman's rank correlation of predicted and measured; NaN for fewer than three rows."""
        return rank_correlation(self.frame)

    def lines(self) -> list[ErrorLine]:
        """All rows, then by framework's config rule, number format, tokens and measured time."""
        return error_lines(self.frame, "measured_s", ("config", "moe_dtype", "distribution", "size"))


def why(row: moe_rows.MoeRow, found: triton_moe.MoePrediction) -> str:
    """What to look at first where a row's prediction is far off."""
    dram = sum(run.bytes_moved["dram"] for run in found.runs)
    if dram < 0.95 * (1.0 - found.held) * found.weight_bytes:
        return f"simulated DRAM bytes are {dram / found.weight_bytes:.0%} of the weights"
    if found.others_s > found.gemms_s:
        return "small kernels around the GEMMs"
    if found.tile[2] * 2 < 128 and row.moe_dtype != "fp8" and "dram" in found.limiter:
        return "DRAM, rows of half a line"
    return found.limiter


def moe_errors(path: Path, system: System, *, rows: int | None = None, fidelity: str = "tile", tuned: bool = False,
               configs: TunedConfigs | None = None, progress: Progress = lambda stage, share: None) -> MoeErrors:
    """Predict rows of a table of mixture-of-experts layers.

    Parameters
    ----------
    path, system
        The table, and the GPU that it was measured on.
    rows
        A stratified sample of so many (`moe_rows.sample`); None: all.
    fidelity
        As `simulate_kernel` takes it.
    tuned
        Also rows of shapes for which a tuned file ships: eight tiles are predicted for each, and the fastest is taken.
    configs
        Tuned files of the frameworks; then rows with one are predicted with its config.
    progress
        Told the table and the share that is done.

    Raises
    ------
    TableError
        A column is missing, or no row can be predicted.
    """
    import pandas as pd

    wanted = [row for row in moe_rows.read_rows(path) if tuned or configs is not None or not moe_rows.has_tuned_file(row, system)]
    wanted = moe_rows.sample(wanted, len(wanted) if rows is None else rows)
    records: list[dict[str, Any]] = []
    refused = []
    for number, row in enumerate(wanted):
        progress(path.name, number / len(wanted))
        try:
            found = triton_moe.predict_row(row, system, fidelity=fidelity, configs=configs)
        except KernelError as error:
            refused.append(str(error))
            continue
        records.append({
            "framework": row.framework, "moe_dtype": row.moe_dtype, "tokens": row.tokens, "hidden": row.hidden, "inter": row.inter,
            "top_k": row.top_k, "experts": row.experts, "tp": row.tp, "ep": row.ep, "distribution": row.distribution,
            "config": found.config,
            "size": next(name for limit, name in _SIZES if row.tokens <= limit), "tile": "x".join(map(str, found.tile)),
            "measured_s": row.measured_s, "predicted_s": found.time_s, "gemms_s": found.gemms_s, "others_s": found.others_s,
            "why": why(row, found)})
    if not records:
        raise TableError(f"{path}: no row can be predicted; {refused[0] if refused else 'it has none of ' + ', '.join(moe_rows.FORMATS)}")
    return MoeErrors(path.name, system.name, fidelity, pd.DataFrame(records), tuple(refused))


def moe_page(errors: Sequence[MoeErrors], worst: int = 10) -> str:
    """Markdown: overview, then each table by class with its worst rows."""
    parts = ["| table | on | fidelity | rows | median | MAPE | bias | rank correlation |", "|---|---|---|--:|--:|--:|--:|--:|"]
    for one in sorted(errors, key=lambda e: -e.median):
        all_rows = one.lines()[0]
        parts.append(f"| {one.table} | {one.system} | {one.fidelity} | {all_rows.rows} | {all_rows.median:.1%} | {all_rows.mape:.1%} | "
                     f"{all_rows.bias:+.1%} | {one.rank_correlation:.3f} |")
    for one in errors:
        parts += [f"\n## {one.table}, {one.fidelity}\n", "| group | rows | median | MAPE | p95 | bias |", "|---|--:|--:|--:|--:|--:|"]
        parts += [f"| {n.group} | {n.rows} | {n.median:.1%} | {n.mape:.1%} | {n.p95:.1%} | {n.bias:+.1%} |" for n in one.lines()]
        table = worst_rows(one.frame, "measured_s", worst)
        shown = ["tokens", "hidden", "inter", "top_k", "experts", "tp", "ep", "distribution", "tile", "measured_s", "predicted_s", "ratio",
                 "why"]
        parts += ["\nWorst rows:\n", "```text", table[shown].to_string(index=False, float_format=lambda x: f"{x:.4g}"), "```"]
        if one.refused:
            parts.append(f"\n{len(one.refused)} rows without a prediction, the first: {one.refused[0]}")
    return "\n".join(parts) + "\n"


def tutorial_page(path: Path, *, fidelity: str = "cycle", cubins: Path | None = None, worst: int = 5) -> str:
    """Markdown: mean error on the tutorials' figures with the sizes that err most; `cubins` as `tutorials.predict` takes it."""
    parts = ["| kernel | code | sizes | MAPE | bias |", "|---|---|--:|--:|--:|"]
    lines: list[str] = []
    wanted: list[tuple[str, str, Path | None]] = [("matmul", "float8_e5m2", None), ("matmul", "float16", None)]
    wanted.append(("softmax", "float32", None))
    if cubins is not None:
        wanted += [("matmul", "float8_e5m2", cubins), ("matmul", "float16", cubins)]
    for kernel, dtype, folder in wanted:
        code = "this Triton" if folder is None else f"Triton {older_version(folder)}"
        found = tutorials.compare_at((tutorials.POWER_W, tutorials.DATA_SHEET_W, tutorials.UNLIMITED_W), path, kernel=kernel, dtype=dtype,
                                     fidelity=fidelity, cubins=folder)
        rows = found[tutorials.POWER_W]
        ways = {"": rows}
        if dtype == "float16":
            ways[f", nothing fitted ({tutorials.DATA_SHEET_W:.0f} W)"] = found[tutorials.DATA_SHEET_W]
            clock, alike = tutorials.at_one_clock(found[tutorials.UNLIMITED_W])
            ways[f", one SM clock fitted in place of the power ({clock / 1e9:.2f} GHz)"] = alike
        for way, predicted in ways.items():
            bias = float(np.exp(np.mean([np.log(row.predicted_s / row.measured_s) for row in predicted])) - 1)
            parts.append(f"| {kernel}, {dtype}{way} | {code} | {len(predicted)} | {tutorials.mape(predicted):.1%} | {bias:+.1%} |")
        far = sorted(rows, key=lambda row: -abs(row.error))[:worst]
        lines.append(f"{kernel}, {dtype}, {code}: " + "; ".join(f"{row.size}: {row.error:+.1%}" for row in far))
    return "\n".join([*parts, "", "Sizes that err most:", "", *(f"* {line}" for line in lines)]) + "\n"


def main(
    folder: Path,
    rows: int = 150,
    fidelity: str = "tile",
    every: bool = False,
    tuned: bool = False,
    tutorial: bool = True,
    cubins: Path | None = None,
    configs: Path | None = None,
) -> None:
    """Errors of Triton predictions on the tables of FOLDER, worst first.

    --every predicts all MoE rows, --tuned also those of tuned shapes; --configs takes a folder of an unpacked wheel of SGLang or vLLM,
    whose tuned files say what those run; --cubins takes a folder of an older Triton's matmuls.
    """
    import sys

    paths = sorted(folder.glob(MOE_TABLES))
    shipped = None if configs is None else read_tuned(configs)
    found = [moe_errors(path, system_of(path.name.partition(".")[0]), rows=None if every else rows, fidelity=fidelity, tuned=tuned,
                        configs=shipped)
             for path in paths]
    sys.stdout.write("# Fused MoE of serving frameworks, nothing fitted\n\n" + moe_page(found) if found else f"{folder}: no {MOE_TABLES}\n")
    if tutorial and (folder / TUTORIALS).is_file():
        title = "Triton tutorials, the power at which the SM clock falls fitted on fp16 matmul"
        sys.stdout.write(f"\n# {title}\n\n" + tutorial_page(folder / TUTORIALS, cubins=cubins))


if __name__ == "__main__":
    import typer

    typer.run(main)
