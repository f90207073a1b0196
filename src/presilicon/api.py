"""The functions that people call: trace, simulate, compare."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PresiliconError
from .report import Report
from .sim.run import Fidelity, Runtime
from .sim.run import simulate as _simulate
from .workloads.graph import OpGraph

if TYPE_CHECKING:
    import pandas as pd

    from .arch import AnySystem
    from .validate.opfile import CalibrationSummary


def trace(module: Any, *args: Any, **kwargs: Any) -> OpGraph:
    """Trace a ``torch.nn.Module`` called as ``module(*args, **kwargs)`` into an operator graph; nothing is computed.

    See `presilicon.workloads.trace.trace`.
    """
    from .workloads.trace import trace as run

    return run(module, *args, **kwargs)


def trace_model(model: str | Path, **options: Any) -> OpGraph:
    """Trace a model by built-in name, from a Hugging Face ``config.json``, or from ``file.py:function``.

    See `presilicon.workloads.models.trace_model` for the options (phase, batch, seq, context, dtype, attention, scans, ...).
    """
    from .workloads.models import trace_model as run

    return run(model, **options)


def load_graph(path: str | os.PathLike[str]) -> OpGraph:
    """Load a graph that `OpGraph.save` wrote; torch is not needed."""
    return OpGraph.load(path)


def simulate(
    graph: OpGraph,
    system: AnySystem | str | Path,
    *,
    fidelity: Fidelity = "tile",
    runtime: Runtime = "cudagraph",
    strict: bool = False,
    place: str = "auto",
) -> Report:
    """Predict one step of a graph on a system.

    Parameters
    ----------
    graph
        From `trace`, `trace_model` or `load_graph`.
    system
        A System, a shipped name (``presilicon systems``), or the path of a device file.
    fidelity
        ``"analytic"`` or ``"tile"``.
    runtime
        ``"eager"``, ``"cudagraph"`` or ``"compiled"``.
    strict
        Raise if the graph has ops without a formula.
    place
        Hybrid systems: which device takes which op, ``"auto"`` by cost, or a rule of `presilicon.mapping.placement`.

    Returns
    -------
    Report
    """
    return Report(_simulate(graph, system, fidelity=fidelity, runtime=runtime, strict=strict, place=place))


def compare(reports: Sequence[Report]) -> pd.DataFrame:
    """One row per report: time, interval, tokens/s, energy, what limits, whether it fits.

    ``speedup`` is the first report's time over each one's.
    """
    import pandas as pd

    rows = [report.headline() for report in reports]
    frame = pd.DataFrame(rows)
    if len(frame):
        frame["speedup"] = frame["time_s"].iloc[0] / frame["time_s"]
    return frame


def predict_table(table: pd.DataFrame | str | Path, system: AnySystem | str | Path, *, kind: str | None = None) -> pd.DataFrame:
    """Predict every row of an op table; ``presilicon ops`` does the same for a file of any length.

    Parameters
    ----------
    table
        One operator per row, or the path of such a CSV; docs/ops-tables.md names the columns.
    system
        A GPU: a System, a shipped name or the path of a device file.
    kind
        Kind of the table; None: told from the columns.

    Returns
    -------
    pandas.DataFrame
        The rows, and ``predicted_s``, ``low_s``, ``high_s`` (seconds) and ``limiter``.

    Raises
    ------
    TableError
        Naming row and column.
    SpecError
        The system is no GPU.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"m": [1, 4096], "n": [4096, 4096], "k": [4096, 4096], "gemm_dtype": "bfloat16"})
    >>> list(predict_table(rows, "a100-sxm-80gb")["limiter"])
    ['dram', 'tensor']
    """
    from .arch import load_gpu
    from .validate.opfile import predict_table as run

    return run(_table(table), load_gpu(system), kind)


def calibrate(
    tables: Sequence[pd.DataFrame | str | Path],
    system: AnySystem | str | Path,
    *,
    source: str | None = None,
    kind: str | None = None,
    measured: str = "latency_s",
    seed: int = 0,
) -> CalibrationSummary:
    """Fit the physical constants of a GPU to measured op tables, as ``presilicon calibrate`` does.

    Parameters
    ----------
    tables
        Op tables with measured seconds, or paths of such CSVs; at least 20 rows each.
    system
        Where the constants start from, and the data sheet numbers that stay.
    source
        What the tables were measured on; stands beside every fitted number.
    kind
        Kind of all tables; None: told from the columns of each.
    measured
        Column of measured seconds.
    seed
        Of the folds.

    Returns
    -------
    CalibrationSummary
        ``.system`` is the fitted System, ``.to_frame()`` the errors before, after and held out, ``.calibration.fitted`` the constants.

    Raises
    ------
    TableError, CalibrationError
        Bad rows, too few, or nothing that they could fit.
    SpecError
        The system is no GPU.
    """
    from .arch import load_gpu
    from .validate.opfile import calibrate_files

    if isinstance(tables, str | Path) or hasattr(tables, "columns"):
        raise PresiliconError("calibrate: expected a list of tables, found one table; write [table]")
    return calibrate_files([_table(t) for t in tables], load_gpu(system), source=source, kind=kind, measured=measured, seed=seed)


def _table(table: pd.DataFrame | str | Path) -> pd.DataFrame | Path:
    return Path(table) if isinstance(table, str | Path) else table
