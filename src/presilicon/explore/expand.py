"""The points of a study in a fixed order: how many there are before any exists, their batches, and each one's hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..arch import AnySystem
from .axes import Axis, numbers_of
from .study import Study, Workload, condition_columns, units_of

#: Columns of one block of designs: arrays of shape ``(designs,)`` by override path.
Columns = Mapping[str, np.ndarray]
#: Raw points looked at together where only the number that meets the conditions is wanted.
_BLOCK = 200_000


@dataclass(frozen=True)
class Batch:
    """Points that are evaluated and written together: a range of the design space for one workload on one system.

    Attributes
    ----------
    number
        Place in the order of the study.
    workload, system
        Index into the study's.
    start, stop
        Range of raw points of the design space; those that fail the study's conditions are left out.
    """

    number: int
    workload: int
    system: int
    start: int
    stop: int


@dataclass(frozen=True)
class Designs:
    """Every point of a study, as numbers that are made only when asked for.

    The order is workload, system, then the axes as the study lists them, the last one fastest.
    """

    study: Study

    @cached_property
    def space(self) -> int:
        """Designs of one workload on one system, before conditions; 1 where nothing varies."""
        return math.prod(len(axis) for axis in self.study.axes)

    @property
    def size(self) -> int:
        """Points of the whole study, before conditions."""
        return self.space * len(self.study.workloads) * len(self.study.systems)

    def columns(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Raw designs `start` to `stop` of the space, by path; without conditions."""
        index = np.arange(start, min(stop, self.space))
        found: dict[str, np.ndarray] = {}
        for axis, place in zip(self.study.axes, _places(self.study.axes, index), strict=True):
            found |= {path: values[place] for path, values in axis.columns.items()}
        return found

    def block(self, batch: Batch) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Raw indices and columns of the designs of a batch that meet the study's conditions."""
        columns = self.columns(batch.start, batch.stop)
        keep = self.keeps(batch, columns)
        index = np.arange(batch.start, batch.stop)[keep]
        return index, {path: values[keep] for path, values in columns.items()}

    def keeps(self, batch: Batch, columns: Columns) -> np.ndarray:
        """Which designs meet every condition of the study, for the batch's workload and system."""
        keep = np.ones(batch.stop - batch.start, dtype=bool)
        if self.study.when:
            system = self.study.systems[batch.system]
            known = condition_columns(self.study.workloads[batch.workload], system) | dict(columns)
            units = units_of(system)
            for condition in self.study.when:
                keep &= np.asarray(condition.evaluate(known, units), dtype=bool)
        return keep

    def batches(self, points: int | None = None) -> Iterator[Batch]:
        """Batches in order, of at most `points` raw points (the study's own number if None)."""
        step, number = points or self.study.batch_points, 0
        for workload in range(len(self.study.workloads)):
            for system in range(len(self.study.systems)):
                for start in range(0, self.space, step):
                    yield Batch(number, workload, system, start, min(start + step, self.space))
                    number += 1

    def count(self) -> int:
        """Points that meet the conditions; memory does not grow with their number."""
        if not self.study.when:
            return self.size
        return sum(int(self.keeps(b, self.columns(b.start, b.stop)).sum()) for b in self.batches(_BLOCK))


def _places(axes: Sequence[Axis], index: np.ndarray) -> list[np.ndarray]:
    """Index into each axis of raw points: a mixed-radix number whose last digit is the last axis."""
    found: list[np.ndarray] = []
    rest = index
    for axis in reversed(axes):
        rest, digit = np.divmod(rest, len(axis))
        found.append(digit)
    return found[::-1]


def design_points(study: Study) -> Designs:
    """The points of a study; see `Designs`.

    >>> from presilicon.explore.study import load_study
    >>> study = load_study({"workloads": [{"model": "llama-3-8b", "batch": [1, 8]}], "systems": ["h100-sxm"],
    ...                     "parameters": {"gpu.sm.count": [100, 132], "dram.bandwidth": ["2 TB/s", "4 TB/s", "8 TB/s"]},
    ...                     "when": ["gpu.sm.count < 132 or dram.bandwidth > 2e12"]})
    >>> design_points(study).size, design_points(study).count()
    (12, 10)
    """
    return Designs(study)


def digest(data: Any) -> str:
    """Hash of plain data: equal for equal content, on every machine."""
    text = json.dumps(data, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def workload_identity(workload: Workload) -> dict[str, Any]:
    """What makes a workload the same one wherever its file lies: its fields, and the content of the file that defines it."""
    fields = dict(vars(workload))
    path = Path(workload.model.partition(".py:")[0] + ".py" if ".py:" in workload.model else workload.model)
    if path.is_dir():
        path /= "config.json"
    if path.is_file():
        fields["model"], fields["content"] = path.name, hashlib.blake2b(path.read_bytes(), digest_size=10).hexdigest()
    return fields


def system_identity(system: AnySystem) -> dict[str, Any]:
    """What makes a system the same one wherever its file lies: every number, and the intervals that its calibration earned."""
    found = {"name": system.name, "numbers": {path: value for path, value, _ in numbers_of(system)}, "intervals": dict(system.intervals)}
    pim = getattr(system, "pim", None)
    return found if pim is None else found | {"memory": repr(replace(pim.device, sources={}))}


def config_prefix(workload: Workload, system: AnySystem, fidelity: str, runtime: str) -> str:
    """The part of a point's hash that all designs of one workload on one system share."""
    return digest([workload_identity(workload), system_identity(system), fidelity, runtime])


def config_hashes(prefix: str, columns: Columns, count: int) -> list[str]:
    """One hash per design: of the workload, the system's every number, fidelity, runtime and the changed numbers, in no matter what study.

    Parameters
    ----------
    prefix
        From `config_prefix`.
    columns
        Arrays of shape ``(count,)`` by path.
    """
    paths = sorted(columns)
    numeric = [path for path in paths if columns[path].dtype != object]
    start = hashlib.blake2b(f"{prefix}:{','.join(numeric)}:".encode(), digest_size=10)
    rows = np.ascontiguousarray(np.stack([columns[path].astype("<f8") for path in numeric], axis=1)) if numeric else np.empty((count, 0))
    words = [(path, columns[path]) for path in paths if path not in numeric]
    found = []
    for index in range(count):
        one = start.copy()
        one.update(rows[index].tobytes())
        for path, values in words:
            one.update(f"{path}={values[index]};".encode())
        found.append(one.hexdigest())
    return found
