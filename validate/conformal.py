"""Interval tables from residuals: split conformal prediction, in bins of predicted time.

For each bin the ends are the finite-sample quantiles of measured over predicted time among calibration rows that the constants were not
fitted on: the ceil((n + 1)(1 - alpha / 2))-th smallest of n, and its mirror (Vovk et al. 2005; Lei et al., JASA 113, 2018).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

MIN_ROWS_PER_BIN: Final = 60
MAX_BINS: Final = 12


def interval_table(predicted_s: np.ndarray, measured_s: np.ndarray, *, coverage: float = 0.9, source: str) -> dict[str, Any]:
    """The table that `presilicon.arch.intervals` reads, from held-out predictions of one family.

    Parameters
    ----------
    predicted_s, measured_s
        Seconds, one entry per row; the constants must not have been fitted on these rows.
    coverage
        Share of future rows that should lie within.
    source
        Stands in the device file beside the table.
    """
    predicted_s, measured_s = np.asarray(predicted_s, dtype=float), np.asarray(measured_s, dtype=float)
    bins = int(np.clip(len(predicted_s) // MIN_ROWS_PER_BIN, 1, MAX_BINS))
    edges = np.unique([float(f"{edge:.5g}") for edge in np.quantile(predicted_s, np.linspace(0.0, 1.0, bins + 1))])
    if len(edges) < 2:
        edges = np.array([edges[0], edges[0] * 1.001])
    ratio = measured_s / predicted_s
    index = np.clip(np.searchsorted(edges, predicted_s, side="right") - 1, 0, len(edges) - 2)
    alpha = (1.0 - coverage) / 2.0
    ends = [_quantiles(ratio[index == b], alpha) if np.any(index == b) else _quantiles(ratio, alpha) for b in range(len(edges) - 1)]
    return {
        "coverage": coverage,
        "edges_s": edges.tolist(),
        "low": [float(f"{low:.4g}") for low, _ in ends],
        "high": [float(f"{high:.4g}") for _, high in ends],
        "rows": len(predicted_s),
        "source": source,
    }


def _quantiles(ratio: np.ndarray, alpha: float) -> tuple[float, float]:
    ordered = np.sort(ratio)
    n = len(ordered)
    rank = (n + 1) * alpha + 1e-9  # (1 - 0.9) / 2 is a little below 0.05
    high = min(n, int(np.ceil(n + 1 - rank))) - 1
    low = max(1, int(np.floor(rank))) - 1
    return float(ordered[low]), float(ordered[high])
