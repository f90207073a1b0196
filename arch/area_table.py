"""The numbers of ``area.yaml``, and what of them depends on the process node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from ..errors import SpecError, UnknownNameError, shown
from .yamlfile import read_yaml

TABLE: Final = Path(__file__).parent / "area.yaml"
#: A node by its name in the table, or in nanometres.
Node = str | float


@cache
def table() -> dict[str, Any]:
    """The content of ``area.yaml``."""
    return read_yaml(TABLE)


def value(section: str, name: str) -> float:
    """One number of the table."""
    return float(table()[section][name]["value"])


def known(section: str, name: str, what: str) -> Mapping[str, Any]:
    """One entry of a section; UnknownNameError, with `what` it is, where there is none."""
    entries: Mapping[str, Any] = table()[section]
    if name not in entries:
        raise UnknownNameError(what, str(name), entries)
    found: Mapping[str, Any] = entries[name]
    return found


def of_node(node: Node, what: str) -> float:
    """A number of a process node: ``"logic"``, transistors per mm2; ``"sram_cell"``, mm2 of one bit; ``"wafer_usd"``.

    Parameters
    ----------
    node
        Name of a node of the table (``"N7"``), or nanometres: between two rows that have the number the logarithm is interpolated over
        the logarithm of the node; the finest row stands for what lies down to 3 nm.

    Raises
    ------
    UnknownNameError
        No such node.
    SpecError
        Nanometres outside of the table, or the node lacks the number.

    >>> of_node("N7", "sram_cell"), round(of_node(16, "logic") / 1e6, 1)
    (2.7e-08, 30.9)
    """
    if isinstance(node, str):
        entry = known("nodes", node, "process node")
        if what not in entry:
            raise SpecError(f"area: {node}: no {'wafer price' if what == 'wafer_usd' else what}; give another node")
        return float(entry[what]["value"])
    rows = sorted((float(entry["nm"]), float(entry[what]["value"])) for entry in table()["nodes"].values() if what in entry)
    if not (isinstance(node, int | float) and 3.0 <= node <= rows[-1][0]):
        raise SpecError(f"area: process node: expected 3 to {rows[-1][0]:g} nm, found {shown(node)}")
    if node <= rows[0][0]:
        return rows[0][1]
    high = next(i for i, (nm, _) in enumerate(rows) if nm >= node)
    (n0, v0), (n1, v1) = rows[high - 1], rows[high]
    return float(v0 * (v1 / v0) ** (math.log(node / n0) / math.log(n1 / n0)))


def nanometres(node: Node) -> float:
    """A node of the table in nanometres."""
    return float(known("nodes", node, "process node")["nm"]) if isinstance(node, str) else float(node)
