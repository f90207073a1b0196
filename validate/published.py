"""Published figures of Triton kernels beside predictions in which nothing was fitted on them.

``python -m presilicon.validate.published`` prints the errors by set, GPU and kernel, worst first. The figures with their sources lie in
``validate/data/published_triton.yaml``; `published_kernels` rebuilds the kernels.

**Split.** A point belongs to the half to test on where the first byte of SHA-256 of its set's name, a space, and the sizes of its row is
odd, and to the half to develop on otherwise. The rule was written down before any error was looked at; causes of errors are sought in the
half to develop on, and the half to test on is for the number at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..arch.yamlfile import read_yaml
from ..errors import KernelError, TableError, UnknownNameError
from .errors_table import points_page
from .points_report import HALVES, Progress, report, require_half
from .published_kernels import KERNELS, OPS, Point, predict

if TYPE_CHECKING:
    import pandas as pd


#: The data file.
DATA: Final = Path(__file__).resolve().parent / "data" / "published_triton.yaml"
METHODS: Final = ("do_bench", "kernel", "graph", "stream")
UNITS: Final = ("ms", "us", "tflops")
_NEEDED: Final = ("source", "date", "gpu", "kernel", "method", "unit", "note", "columns", "rows")


def half_of(point: Point) -> str:
    """``"test"`` or ``"develop"``, by the rule of this module."""
    return HALVES[hashlib.sha256(f"{point.name} {point.label}".encode()).digest()[0] % 2]


def _seconds(value: float, unit: str, sizes: dict[str, Any]) -> float:
    if unit != "tflops":
        return value * {"ms": 1e-3, "us": 1e-6}[unit]
    if "head_dim" in sizes:
        flop = 4.0 * sizes["batch"] * sizes["heads"] * sizes["n"] ** 2 * sizes["head_dim"] * (0.5 if sizes["causal"] else 1.0)
    else:
        flop = 2.0 * sizes["m"] * sizes["n"] * sizes["k"]
    return float(flop / (value * 1e12))


def read_points(path: Path = DATA) -> list[Point]:
    """Every figure of the data file.

    Raises
    ------
    TableError
        A set lacks a key, or a row has another length than the columns.
    UnknownNameError
        A kernel, method or unit that is not known.
    """
    points = []
    for name, one in read_yaml(path).get("sets", {}).items():
        missing = [key for key in _NEEDED if key not in one]
        if missing:
            raise TableError(f"{path}: {name} lacks {', '.join(missing)}")
        for what, value, allowed in (("kernel", one["kernel"], [*KERNELS, *OPS]), ("method", one["method"], METHODS),
                                     ("unit", one["unit"], UNITS)):
            if value not in allowed:
                raise UnknownNameError(f"{what} of {name} in {path}", value, list(allowed))
        override = tuple(sorted((key, float(value)) for key, value in one.get("override", {}).items()))
        for row in one["rows"]:
            if len(row) != len(one["columns"]):
                raise TableError(f"{path}: {name}: {row} has {len(row)} values for the columns {', '.join(one['columns'])}")
            sizes = {**one.get("fixed", {}), **dict(zip(one["columns"], row, strict=True))}
            figure = float(sizes.pop("figure"))
            label = " ".join(str(sizes[key]) for key in one["columns"] if key not in ("config", "figure"))
            points.append(Point(name, str(one["gpu"]), override, str(one["kernel"]), str(one["method"]), label, sizes,
                                _seconds(figure, str(one["unit"]), sizes), str(one.get("triton", ""))))
    return points


def compare(points: Sequence[Point], *, fidelity: str = "tile", cubins: Sequence[Path] = (),
            progress: Progress = lambda stage, share: None) -> pd.DataFrame:
    """One row for each point: set, GPU, kernel, Triton, sizes, half, ``measured_s``, ``predicted_s``, ``error``, config, limiter.

    ``triton`` names the version that compiled the kernel, and that of the source where it is told and another. Points that cannot be
    predicted have NaN, and the reason in ``limiter``. `cubins` as `published_kernels.predict` takes it.
    """
    import pandas as pd
    import triton

    records = []
    for number, point in enumerate(points):
        progress(point.name, number / len(points))
        installed = str(triton.__version__)
        published = f", published with {point.triton}" if point.triton not in ("", installed) else ""
        record = {"set": point.name, "gpu": point.gpu, "kernel": point.kernel, "triton": installed + published, "sizes": point.label,
                  "half": half_of(point), "measured_s": point.measured_s}
        try:
            found = predict(point, fidelity=fidelity, cubins=cubins)
        except KernelError as error:
            records.append({**record, "predicted_s": float("nan"), "error": float("nan"), "config": "", "limiter": str(error)})
            continue
        records.append({**record, "triton": found.triton or record["triton"], "predicted_s": found.time_s,
                        "error": found.time_s / point.measured_s - 1.0, "config": "x".join(map(str, found.config)),
                        "limiter": found.limiter})
    return pd.DataFrame(records)


def page(frame: pd.DataFrame, worst: int = 15) -> str:
    """Markdown: errors of both halves, then by set, GPU, kernel and Triton, and the worst points; each worst first."""
    groups = {"half": "half", "set": "set", "gpu": "GPU", "kernel": "kernel", "triton": "Triton"}
    return points_page(frame, groups, ("set", "sizes", "config"), worst)


def main(fidelity: str = "tile", half: str = "", only: str = "", cubins: list[Path] | None = None, out: Path | None = None) -> None:
    """Errors on published figures of Triton kernels, worst first.

    --half develop or test; --only takes sets whose name contains it; --cubins (any number) takes kernels of an older Triton, for the sets
    that name it;
    --out writes every point as CSV.
    """
    require_half(half)
    points = [p for p in read_points() if only in p.name and half in ("", half_of(p))]
    if not points:
        raise TableError(f"no published figure is of {half or 'any'} half and a set with {only!r} in its name")

    report(lambda progress: compare(points, fidelity=fidelity, cubins=cubins or (), progress=progress), page, out)


if __name__ == "__main__":
    import typer

    typer.run(main)
