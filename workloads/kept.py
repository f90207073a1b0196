"""Traced graphs kept on disk by content, so that the same model is traced once.

An entry's key is the hash of everything that its graph depends on: the configuration, the options, this folder's sources, the versions of
torch and transformers and the files of the model's architecture. A folder that cannot be read or written is silently none.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ..errors import GraphError, OutputError
from ..files import cache_folder, trim_folder
from .graph import OpGraph

#: The folder is kept below this size; a folded graph takes some 10 kB.
LIMIT_BYTES: Final = 64 * 2**20


def path_of(name: str, config: Mapping[str, Any], options: Mapping[str, Any]) -> Path | None:
    """File of the graph of a configuration under options of `trace_model`; None where nothing is to be kept."""
    base = cache_folder()
    if base is None:
        return None
    try:
        asked = json.dumps([name, config, options, _architecture(str(config.get("model_type")))], sort_keys=True)
    except (TypeError, ValueError):
        return None
    return base / "graphs" / f"{hashlib.sha256(asked.encode() + _sources()).hexdigest()}.json.gz"


def find(path: Path | None) -> OpGraph | None:
    """The graph that a file holds; None where there is none, or it is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        graph = OpGraph.load(path)
    except GraphError:
        return None
    with suppress(OSError):
        os.utime(path)
    return graph


def keep(path: Path | None, graph: OpGraph) -> None:
    """Write a graph, and drop those used longest ago where the folder grows too large."""
    if path is not None:
        with suppress(OutputError, OSError, TypeError, ValueError):
            graph.save(path)
            trim_folder(path.parent, "*.json.gz", LIMIT_BYTES)


@cache
def _sources() -> bytes:
    """Hash of the code that traces, and of the versions of what it traces with."""
    found = hashlib.sha256(sys.version.encode())
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        with suppress(OSError):
            found.update(path.name.encode() + path.read_bytes())
    for package in ("torch", "transformers"):
        with suppress(PackageNotFoundError):
            found.update(version(package).encode())
    return found.digest()


@cache
def _architecture(kind: str) -> list[tuple[str, int, int]]:
    """Name, size and time of the files with which transformers builds a model: a development install keeps its version."""
    spec = find_spec("transformers")
    places = list(spec.submodule_search_locations or ()) if spec else []
    files = [path for place in places for path in sorted(Path(place, "models", kind.replace("-", "_")).glob("*.py"))]
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
