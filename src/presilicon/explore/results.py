"""The results of a sweep as a table that stays on disk until it is asked for."""

from __future__ import annotations

import html
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SpecError, UnknownNameError
from .columns import plain, quantities
from .expand import design_points
from .expression import Expression, parse_expression
from .folder import read_manifest
from .study import OBJECTIVES, Study, load_study

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.dataset as pads

_PREVIEW_ROWS = 10
#: Words of a workload that are none where it has no such thing.
_MAY_BE_NONE = frozenset(("phase", "dtype", "quant", "sparsity"))


class Sweep:
    """Rows of a sweep, backed by the Parquet files of its results folder.

    Parameters
    ----------
    path
        The results folder.
    study
        What was swept; read from the folder if None.
    temporary
        Owner of a temporary folder, which then lives as long as this object.

    Examples
    --------
    ``sweep.to_frame(columns=["gpu.sm.count", "time_s"], filter="fits and time_s < 0.01")`` reads only what it needs;
    ``sweep["time_s"]`` is one column; ``sweep.dataset`` is a `pyarrow.dataset.Dataset` for anything else.
    """

    def __init__(self, path: Path, study: Study | None = None, temporary: Any = None) -> None:
        self.path = Path(path)
        self._temporary = temporary
        self._study = study
        read_manifest(self.path)

    @cached_property
    def study(self) -> Study:
        """The study; SpecError where a file that it names is gone."""
        return self._study if self._study is not None else load_study(read_manifest(self.path)["study"])

    @cached_property
    def dataset(self) -> pads.Dataset:
        """The files as one `pyarrow.dataset.Dataset`, in the order of the study."""
        import pyarrow as pa
        import pyarrow.dataset as pads
        import pyarrow.parquet as pq

        files = sorted((self.path / "batches").glob("batch-*.parquet"))
        try:
            schemas = [pq.read_schema(file).remove_metadata() for file in files]
        except (OSError, pa.ArrowException) as error:
            raise SpecError(f"{self.path}: a batch is damaged; run the sweep again: {' '.join(str(error).split())}") from None
        schema = pa.unify_schemas(schemas) if schemas else pa.schema([])
        return pads.dataset([str(file) for file in files], schema=schema, format="parquet")

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return list(self.dataset.schema.names)

    @property
    def batches(self) -> tuple[int, int]:
        """Batches that are there, and batches of the whole study."""
        return len(list((self.path / "batches").glob("batch-*.parquet"))), sum(1 for _ in design_points(self.study).batches())

    def __len__(self) -> int:
        return int(self.dataset.count_rows())

    def __getitem__(self, column: str) -> pd.Series[Any]:
        return self.to_frame([column])[column]

    def to_frame(self, columns: list[str] | None = None, filter: Any = None, *, categories: bool = False) -> pd.DataFrame:
        """Rows as a pandas DataFrame.

        Parameters
        ----------
        columns
            Which columns; all if None.
        filter
            Which rows: a condition as text (``"fits == 1 and area_mm2 <= 800"``), or a `pyarrow.compute.Expression`; all if None.
        categories
            Words of the workload as pandas categories, which take an eighth of the memory, in place of plain strings.

        Raises
        ------
        UnknownNameError
            No such column, with the nearest names.
        """
        known = self.columns
        for name in columns or ():
            if name not in known:
                raise UnknownNameError("column", name, known, where=str(self.path))
        if not isinstance(filter, str):
            return _frame(self.dataset.to_table(columns=columns, filter=filter), categories)
        condition = parse_expression(filter, "filter")
        self._known(condition, "filter")
        wanted = list(dict.fromkeys([*(columns or known), *sorted(condition.names)]))
        frame = _frame(self.dataset.to_table(columns=wanted), categories)
        return frame[self.holds(condition, frame)].reset_index(drop=True)[columns or known]

    def holds(self, condition: Expression, frame: pd.DataFrame) -> Any:
        """Truth of a condition for each row of a frame that has its columns; rows without a result do not meet it.

        A workload that is not quantised or pruned has no scheme, which is a value like others: ``quant != 'w4a16'`` holds for it.
        """
        import numpy as np

        columns = {name: plain(frame[name]) for name in condition.names}
        missing = np.zeros(len(frame), dtype=bool)
        for name in condition.names - _MAY_BE_NONE:
            missing |= frame[name].isna().to_numpy()
        return np.broadcast_to(np.asarray(condition.evaluate(columns, quantities(columns)), dtype=bool), (len(frame),)) & ~missing

    def _known(self, condition: Expression, where: str) -> None:
        for name in sorted(condition.names):
            if name not in self.columns:
                raise UnknownNameError("column", name, self.columns, where=where)

    @property
    def uncovered(self) -> dict[str, int]:
        """Ops without a formula by workload, where there are any; their time is only that of moving their bytes."""
        import pyarrow.compute as pc

        frame = self.to_frame(["workload", "uncovered_ops"], filter=pc.field("uncovered_ops") > 0).drop_duplicates()
        return dict(zip(frame["workload"].tolist(), frame["uncovered_ops"].tolist(), strict=True))

    @property
    def failures(self) -> int:
        """Designs that could not be evaluated."""
        import pyarrow.compute as pc

        return int(self.dataset.count_rows(filter=~pc.field("error").is_null()))

    def failed(self) -> pd.DataFrame:
        """Rows whose design could not be evaluated, with their error."""
        import pyarrow.compute as pc

        return self.to_frame(filter=~pc.field("error").is_null())

    def best(self, objective: str = "latency") -> pd.DataFrame:
        """The best row of each workload and system that meets every constraint of the study; reads few columns of the others.

        Parameters
        ----------
        objective
            One of `presilicon.explore.study.OBJECTIVES`.

        Raises
        ------
        UnknownNameError
            No such objective, or these results lack its column, or that of a constraint.
        """
        if objective not in OBJECTIVES or OBJECTIVES[objective][0] not in self.columns:
            known = [name for name, (column, _) in OBJECTIVES.items() if column in self.columns]
            raise UnknownNameError("objective", objective, known)
        column, direction = OBJECTIVES[objective]
        frame = self.to_frame(list(dict.fromkeys(["workload", "system", column, *self._constrained()])))
        frame = frame[self._meets(frame) & frame[column].notna()]
        groups = frame.groupby(["workload", "system"], sort=False, observed=True)[column]
        chosen = groups.idxmin() if direction == "min" else groups.idxmax()
        return _frame(self.dataset.take(chosen.to_list()))

    def feasible(self) -> pd.DataFrame:
        """Rows that have a result and meet every constraint of the study."""
        frame = self.to_frame()
        return frame[self._meets(frame) & frame["error"].isna()]

    def _constrained(self) -> list[str]:
        """Columns that the study's constraints name."""
        for index, condition in enumerate(self.study.constraints):
            self._known(condition, f"constraints.{index}")
        return sorted({name for condition in self.study.constraints for name in condition.names})

    def _meets(self, frame: pd.DataFrame) -> Any:
        import numpy as np

        self._constrained()
        return np.logical_and.reduce([np.ones(len(frame), dtype=bool), *(self.holds(c, frame) for c in self.study.constraints)])

    def unmet(self) -> list[str]:
        """Constraints of the study that no row meets, each with the range of the columns that it names."""
        import pyarrow.compute as pc

        found = []
        for index, condition in enumerate(self.study.constraints):
            self._known(condition, f"constraints.{index}")
            frame = self.to_frame(sorted(condition.names), filter=pc.field("error").is_null())
            if len(frame) and not self.holds(condition, frame).any():
                numeric = [name for name in frame if frame[name].dtype.kind in "fiu"]
                span = ", ".join(f"{name} is from {frame[name].min():.6g} to {frame[name].max():.6g}" for name in numeric)
                found.append(f"{condition.text}: met by no design{f'; {span}' if span else ''}")
        return found

    def __repr__(self) -> str:
        done, whole = self.batches
        return f"Sweep({self.path}: {len(self):,} rows, {done} of {whole} batches)"

    def _repr_html_(self) -> str:
        head = _frame(self.dataset.head(_PREVIEW_ROWS))
        return f"<p>{html.escape(repr(self))}</p>" + head.to_html(index=False, float_format=lambda x: f"{x:.4g}", escape=True)


def _frame(table: pa.Table, categories: bool = False) -> pd.DataFrame:
    """A table as a DataFrame; words, which the files hold as dictionaries, as plain strings unless `categories`."""
    import pyarrow as pa

    for index, field in enumerate(table.schema if not categories else ()):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(field.type.value_type))
    return table.to_pandas()


def load_results(path: str | Path) -> Sweep:
    """The results that `presilicon sweep` wrote into a folder; SpecError where there are none."""
    return Sweep(Path(path))
