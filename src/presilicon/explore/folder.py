"""The folder of a sweep's results: what study it holds, which batches are there, and that only one process writes to it.

study.lock.yaml         the study, its hash, the code's version
graphs/                 traced workloads, so that going on needs no torch
batches/                one Parquet file a batch, whole or absent, named by number and content
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import yaml

from ..arch.yamlfile import read_yaml
from ..errors import OutputError, PresiliconError, SpecError, shown
from ..files import replacing, write_atomically
from ..workloads.graph import OpGraph
from .evaluate import graph_of
from .expand import Batch, digest, system_identity, workload_identity
from .study import CHANGES, Study, Workload

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST: Final = "study.lock.yaml"
_FORMAT: Final = "presilicon-sweep 1"
_META: Final = b"presilicon.batch"


def study_identity(study: Study) -> dict[str, Any]:
    """What decides the rows of a study, as plain data; its name, objectives and constraints do not."""
    return {
        "workloads": {w.label: digest(workload_identity(w)) for w in study.workloads},
        "systems": {s.name: digest(system_identity(s)) for s in study.systems},
        "parameters": {p: f"{len(v)} values, {digest(v.tolist())}" for axis in study.axes for p, v in axis.columns.items()},
        "axes": [list(axis.columns) for axis in study.axes],
        "when": [condition.text for condition in study.when],
        "fidelity": study.fidelity,
        "runtime": study.runtime,
        "batch_points": study.batch_points,
    }


@dataclass
class ResultsFolder:
    """A results folder, opened for writing; use as a context manager, which holds its lock.

    Parameters
    ----------
    path
        The folder; made where it does not exist.
    study, version
        What it holds, or shall hold, and the code that computes it.

    Raises
    ------
    OutputError
        It cannot be written, holds something else, or another process writes to it.
    """

    path: Path
    study: Study
    version: str
    _lock: IO[str] | None = field(default=None, repr=False)

    def __enter__(self) -> ResultsFolder:
        if self.path.is_dir() and not (self.path / MANIFEST).exists():
            own = ("batches", "graphs", ".lock")
            foreign = [p.name for p in self.path.iterdir() if p.name not in own and not p.name.startswith(f".{MANIFEST}")]
            if foreign:
                raise OutputError(f"{self.path}: holds {foreign[0]!r} and no {MANIFEST}: not a results folder; give an empty or a new one")
        try:
            for folder in (self.path, self.batches):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self._lock = _locked(self.path)
        try:
            self._claim()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()  # the operating system releases the lock, as it does when the process dies
            self._lock = None

    @property
    def batches(self) -> Path:
        """Where the Parquet files lie."""
        return self.path / "batches"

    @property
    def identity(self) -> str:
        """Hash of the study."""
        return digest(study_identity(self.study))

    def _claim(self) -> None:
        """Refuse a folder of something else; write the manifest; sweep up what a killed process left half written."""
        manifest = self.path / MANIFEST
        if manifest.exists():
            check_same(self.path, read_manifest(self.path), self.study, self.version)
        content = {
            "format": _FORMAT,
            "code_version": self.version,
            "study_hash": self.identity,
            "identity": study_identity(self.study),
            "study": resolved_document(self.study),
        }
        payload = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140).encode()
        if not manifest.exists() or manifest.read_bytes() != payload:
            write_atomically(manifest, payload)
        for stale in [*self.batches.glob(".batch-*"), *self.path.glob(f".{MANIFEST}.*")]:
            stale.unlink(missing_ok=True)

    def key(self, batch: Batch) -> str:
        """Hash of what a batch's file must hold."""
        return digest([self.identity, self.version, batch.number, batch.workload, batch.system, batch.start, batch.stop])

    def file(self, batch: Batch) -> Path:
        """Where a batch is, or will be, written."""
        return self.batches / f"batch-{batch.number:06d}-{self.key(batch)}.parquet"

    def has(self, batch: Batch) -> bool:
        """Whether a batch's file is there, whole, and its own."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.file(batch)
        if not path.is_file():
            return False
        try:
            metadata = pq.read_metadata(path).metadata or {}
        except (OSError, pa.ArrowException):
            return False
        return metadata.get(_META) == self.key(batch).encode()

    def write(self, batch: Batch, table: pa.Table) -> None:
        """Write one batch, whole or not at all; OutputError where the disk is full or the folder is gone."""
        import pyarrow.parquet as pq

        marked = table.replace_schema_metadata({_META: self.key(batch).encode()})
        with replacing(self.file(batch)) as stream:
            pq.write_table(marked, stream, compression="zstd")

    def graph_file(self, workload: Workload) -> Path:
        """Where the graph of a workload is saved, or will be."""
        return self.path / "graphs" / f"{digest(workload_identity(workload))}.graph.json.gz"

    def graph(self, workload: Workload) -> OpGraph:
        """The graph of a workload: as an earlier run saved it here, else traced and saved."""
        path = self.graph_file(workload)
        if path.exists():
            try:
                return OpGraph.load(path)
            except PresiliconError:
                path.unlink()
        graph = graph_of(workload)
        graph.save(path)
        return graph


def resolved_document(study: Study) -> dict[str, Any]:
    """The study's document with paths that lead to their files from anywhere."""
    document = dict(study.document)
    workloads = []
    for w in study.workloads:
        model = str(Path(w.model).resolve()) if "/" in w.model or w.is_graph or ".py:" in w.model else w.model
        fields = {k: v for k, v in vars(w).items() if k not in ("model", "is_graph", "title") and v is not None}
        changes = {k: v for k, v in fields.items() if k in CHANGES}
        workloads.append({"graph": model} | changes if w.is_graph else {"model": model} | fields)
    base = Path(study.source).parent if study.source != "study" else Path()
    files = [name if not ("/" in name or name.endswith((".yaml", ".yml"))) else _file(base, name) for name in document.get("systems", [])]
    return document | {"workloads": workloads, "systems": files}


def _file(base: Path, name: str) -> str:
    near = base / name
    return str((near if near.exists() else Path(name)).resolve())


def _locked(folder: Path) -> IO[str]:
    """An open file that holds the folder's lock, which the operating system releases when the process ends in whatever way."""
    path = folder / ".lock"
    try:
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    try:
        _take_lock(stream)
    except OSError:
        stream.seek(0)
        holder = " ".join(stream.read(200).split())
        stream.close()
        text = f"another process ({holder or 'unknown'}) is writing here; wait for it, or give another folder"
        raise OutputError(f"{folder}: {text}") from None
    stream.seek(0)
    stream.truncate()
    stream.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
    stream.flush()
    return stream


def _take_lock(stream: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Content of a results folder's study.lock.yaml.

    Raises
    ------
    SpecError
        The folder holds no results, or the file is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise SpecError(f"{folder}: no {MANIFEST}: not a results folder of presilicon sweep")
    manifest = read_yaml(path)
    if manifest.get("format") != _FORMAT or not isinstance(manifest.get("identity"), dict) or not isinstance(manifest.get("study"), dict):
        raise SpecError(f"{path}: format {shown(manifest.get('format'))}; this release reads {_FORMAT!r}")
    return manifest


def check_same(folder: Path, manifest: Mapping[str, Any], study: Study, version: str) -> None:
    """OutputError that names what differs, unless a folder's rows are of this study and this code."""
    was, now = manifest["identity"], study_identity(study)
    for part in now:
        if was.get(part) != now[part]:
            raise OutputError(f"{folder}: holds another study: {_difference(part, was.get(part), now[part])}; give another folder")
    if manifest.get("code_version") != version:
        raise OutputError(
            f"{folder}: written by version {manifest.get('code_version')} of the models, this is {version}: their rows do not mix; "
            "give another folder"
        )


def _difference(part: str, was: Any, now: Any) -> str:
    """What changed, as narrowly as it can be told."""
    if isinstance(was, dict) and isinstance(now, dict):
        gone, new = sorted(set(was) - set(now)), sorted(set(now) - set(was))
        if gone or new:
            return f"{part}: {', '.join([f'no {shown(n)} any more' for n in gone] + [f'{shown(n)} is new' for n in new])}"
        changed = next((name for name in now if was[name] != now[name]), None)
        return f"{part}: {shown(changed)} changed its content" if changed else f"{part}: in another order"
    return f"{part}: was {shown(was)}, is {shown(now)}"
