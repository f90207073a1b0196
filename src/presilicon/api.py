"""The functions that people call: trace, simulate, compare."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .report import Report
from .sim.run import Fidelity, Runtime
from .sim.run import simulate as _simulate
from .workloads.graph import OpGraph

if TYPE_CHECKING:
    import pandas as pd

    from .arch import AnySystem


def trace(module: Any, *args: Any, **kwargs: Any) -> OpGraph:
    """Trace a ``torch.nn.Module`` called as ``module(*args, **kwargs)`` into an operator graph; nothing is computed.

    See `presilicon.workloads.trace.trace`.
    """
    from .workloads.trace import trace as run

    return run(module, *args, **kwargs)


def trace_model(model: str | Path, **options: Any) -> OpGraph:
    """Trace a model by built-in name, from a Hugging Face ``config.json``, or from ``file.py:function``.

    See `presilicon.workloads.models.trace_model` for the options (phase, batch, seq, context, dtype, strict).
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
    """One row per report: time, interval, tokens/s, energy, what limits, whether it fits; the fastest has speedup 1 over itself.

    ``speedup`` is the first report's time over each one's.
    """
    import pandas as pd

    rows = [report.headline() for report in reports]
    frame = pd.DataFrame(rows)
    if len(frame):
        frame["speedup"] = frame["time_s"].iloc[0] / frame["time_s"]
    return frame
