"""Results of a sweep or of a search, read alike for pictures and reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PresiliconError, SpecError
from .folder import MANIFEST as SWEEP_MANIFEST
from .search import DATABASE, TRIALS
from .search import MANIFEST as SEARCH_MANIFEST

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Loaded:
    """What a results folder holds.

    Attributes
    ----------
    path, kind, name
        The folder; ``"sweep"`` or ``"search"``; the study's name.
    frame
        One row per design (and workload, in a sweep), with ``feasible`` and, where one failed, ``error``.
    parameters
        Columns that the study varied.
    objectives
        Of the study.
    facts
        Hash, version and the like, by name.
    """

    path: Path
    kind: str
    name: str
    frame: pd.DataFrame
    parameters: tuple[str, ...]
    objectives: tuple[str, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    def where(self, condition: str | None) -> pd.DataFrame:
        """Rows that meet a condition, as studies write them; all if None.

        Raises
        ------
        SpecError, UnknownNameError
            It is no condition, or names no column.
        """
        from .columns import plain, quantities
        from .expression import parse_expression

        if condition is None:
            return self.frame
        read = parse_expression(condition, "where")
        columns = {str(name): plain(self.frame[name]) for name in self.frame}
        found = np.broadcast_to(np.asarray(read.evaluate(columns, quantities(read.names)), dtype=bool), (len(self.frame),))
        return self.frame[found]


def load_folder(path: str | Path) -> Loaded:
    """Read the folder of `presilicon sweep` or `presilicon explore`.

    Raises
    ------
    SpecError
        The folder holds neither, or a file of it is damaged.
    """
    folder = Path(path)
    if (folder / SWEEP_MANIFEST).is_file():
        return _sweep(folder)
    if (folder / SEARCH_MANIFEST).is_file() and (folder / TRIALS).is_file():
        return _search(folder)
    if (folder / DATABASE).is_file():
        raise SpecError(f"{folder}: holds a search that was stopped before it wrote its trials; run the same command again to go on")
    raise SpecError(f"{folder}: holds no results: neither {SWEEP_MANIFEST} of presilicon sweep nor {SEARCH_MANIFEST} of presilicon explore")


def _sweep(folder: Path) -> Loaded:
    from .expression import parse_expression
    from .folder import read_manifest
    from .results import Sweep

    manifest = read_manifest(folder)
    found = Sweep(folder)
    frame = found.to_frame()
    document, identity = manifest["study"], manifest["identity"]
    constraints = list(document.get("constraints") or [])
    good = frame["error"].isna().to_numpy().copy() if "error" in frame else np.ones(len(frame), dtype=bool)
    if "fits" in frame:
        good &= frame["fits"].fillna(False).astype(bool).to_numpy()
    for index, text in enumerate(constraints):
        condition = parse_expression(text, f"constraints.{index}")
        if all(name in frame for name in condition.names):
            good &= found.holds(condition, frame)
    frame["feasible"] = good
    facts = {
        "study hash": str(manifest.get("study_hash", "")),
        "code version": str(manifest.get("code_version", "")),
        "fidelity": str(identity.get("fidelity", "")),
        "runtime": str(identity.get("runtime", "")),
        "constraints": "; ".join(map(str, constraints)) or "none",
    }
    names = tuple(p for p in identity.get("parameters", {}) if p in frame)
    return Loaded(folder, "sweep", str(document.get("name") or folder.name), frame, names,
                  tuple(document.get("objectives") or ("latency", "energy")), facts | _calibrations(document))


def _search(folder: Path) -> Loaded:
    import pandas as pd

    place = folder / SEARCH_MANIFEST
    try:
        manifest = json.loads(place.read_text(encoding="utf-8"))
        frame = pd.read_parquet(folder / TRIALS)
        names = tuple(p for name in manifest["space"] for p in name.split(" & ") if p in frame and p != "system")
        facts = {
            "sampler": f"{manifest['sampler']}, seed {manifest['seed']}, {manifest['population']} a generation",
            "code version": str(manifest["code_version"]),
            "fidelity": str(manifest["fidelity"]),
            "runtime": str(manifest["runtime"]),
            "constraints": "; ".join(map(str, manifest["constraints"])) or "none",
            "workloads": "; ".join(map(str, manifest["workloads"])),
        }
        return Loaded(folder, "search", str(manifest["name"]), frame, names, tuple(manifest["objectives"]),
                      facts | _calibrations(manifest.get("study") or {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{place}: damaged: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from None


def _calibrations(document: Mapping[str, Any]) -> dict[str, str]:
    """For each system of a study, how many of its numbers are sourced, fitted, assumed."""
    from collections import Counter

    from ..arch import load

    found: dict[str, str] = {}
    for name in document.get("systems") or ():
        try:
            system = load(str(name))
        except PresiliconError as error:
            found[f"system {name}"] = f"cannot be read any more: {error}"
            continue
        count = Counter(p.status for p in system.provenance.values())
        told = ", ".join(f"{n} numbers {status}" for status, n in sorted(count.items()))
        families = ", ".join(sorted(system.intervals)) or "none"
        found[f"system {system.name}"] = f"{told}; calibrated families: {families}"
    return found
