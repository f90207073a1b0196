"""Hybrid systems from device files: a processor, memory with processing units beside it, links, and how work is laid out.

A file has `kind: hybrid`. Every entry is ``{value: ..., source: ...}``, switches as well, and is overridden by its path:
``system.override({"pim.access": "blocked", "devices": 8})``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ..errors import SpecError, UnknownNameError, shown
from ..units import parse
from . import dram
from .hybrid_spec import (
    ACCESSES,
    GEMV,
    KERNELS,
    LEVELS,
    MEMORIES,
    PACKINGS,
    STATIONARY,
    HybridSystem,
    NpuSide,
    PimSide,
    Plan,
    TiledSide,
    Wire,
    suits,
)
from .spec import Provenance, System

__all__ = ["HybridSystem", "NpuSide", "PimSide", "Plan", "TiledSide", "Wire", "hybrid_from_document", "override"]

#: Kinds of entries: a quantity of a unit above zero, one that may be zero (``0 unit``), a whole number, a yes or no, a text, or words.
Kind = str | tuple[str, ...]
_WHOLE: Final = "whole"
_FLAG: Final = "flag"
_TEXT: Final = "text"
_NPU: Final[Mapping[str, Kind]] = {
    "clock": "Hz", "arrays": _WHOLE, "rows": _WHOLE, "columns": _WHOLE, "stationary": STATIONARY, "vector_cores": _WHOLE, "lanes": _WHOLE,
    "bandwidth": "B/s", "efficiency": "1", "scratchpad": "B", "mac_energy": "0 J", "vector_energy": "0 J", "idle": "0 W", "gemv": GEMV}
_TILED: Final[Mapping[str, Kind]] = {
    "cores": _WHOLE, "flops": "FLOP/s", "bandwidth": "B/s", "compute_share": "1", "memory_share": "1", "l1": "B", "l2": "B", "memory": "B",
    "dram_energy": "0 J/B", "l2_energy": "0 J/B", "l1_energy": "0 J/B", "register_energy": "0 J/B", "mac_energy": "0 J", "idle": "0 W"}
_PIM: Final[Mapping[str, Kind]] = {
    "dram": _TEXT, "kernel": KERNELS, "count": _WHOLE, "channels": _WHOLE, "memory": MEMORIES, "access": ACCESSES, "level": LEVELS,
    "power_limited": _FLAG,
    "host": "0 s", "scale": "1", "op_per_byte": "0 1", "issue": "0 Hz", "composite": _FLAG, "vectors": _WHOLE}
_WIRE: Final[Mapping[str, Kind]] = {"bandwidth": "B/s", "latency": "0 s", "energy": "0 J/B"}
_PLAN: Final[Mapping[str, Kind]] = {
    "packing": PACKINGS, "sub_batches": _WHOLE, "sub_batch_least": _WHOLE, "prefetch": _FLAG, "head_pipeline": _FLAG,
    "co_processing": _FLAG, "fuse": _FLAG}
#: Entries that a section may leave out.
_OPTIONAL: Final = {
    "channels", "level", "power_limited", "host", "scale", "op_per_byte", "issue", "composite", "vectors", "energy", "idle", "system",
    "gemv", *_PLAN}
_TOP: Final = ("name", "title", "kind", "sources", "devices", "xpu", "memory", "pim", "pim_linear", "link", "fabric", "plan", "notes")


class _Reader:
    """Walks a document; keeps the value, unit and source of every entry by its path."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        sources = document.get("sources") or {}
        self.sources: Mapping[str, Any] = sources if isinstance(sources, Mapping) else {}
        self.provenance: dict[str, Provenance] = {}
        self.values: dict[str, tuple[Any, str]] = {}

    def section(self, node: Any, path: str, known: Mapping[str, Kind]) -> dict[str, Any]:
        """Checked values of a section; absent optional entries are left out."""
        if not isinstance(node, Mapping):
            raise SpecError(f"{path}: expected a mapping of {', '.join(known)}, found {shown(node)}")
        for key in node:
            if key not in known:
                raise UnknownNameError("key", str(key), known, where=path)
        for key in known:
            if key not in node and key not in _OPTIONAL:
                raise SpecError(f"{path}.{key}: missing")
        return {key: self.entry(node[key], f"{path}.{key}", known[key]) for key in known if key in node}

    def entry(self, node: Any, path: str, kind: Kind) -> Any:
        """One ``{value, source}``, checked as its kind asks."""
        if not isinstance(node, Mapping) or "value" not in node or not set(node) <= {"value", "source", "status"}:
            raise SpecError(f"{path}: write {{value: ..., source: ...}}; every entry names its source")
        source, status = node.get("source"), node.get("status", "sourced")
        if not isinstance(source, str) or not source.strip():
            raise SpecError(f"{path}: no source; every entry names its source (a data sheet, a paper, a public simulator)")
        if status not in ("sourced", "fitted", "assumed", "override"):
            raise UnknownNameError("status", str(status), ("sourced", "fitted", "assumed", "override"), where=path)
        value = self._value(node["value"], path, kind)
        self.provenance[path] = Provenance(str(self.sources.get(source, source)), status)
        self.values[path] = (value, "" if isinstance(kind, tuple) or kind in (_FLAG, _TEXT, _WHOLE) else kind.split()[-1])
        return value

    def _value(self, value: Any, path: str, kind: Kind) -> Any:
        if isinstance(kind, tuple):
            if value not in kind:
                raise UnknownNameError(path.rsplit(".", 1)[-1], str(value), kind, where=path)
            return value
        if kind == _FLAG:
            if not isinstance(value, bool):
                raise SpecError(f"{path}: expected true or false, found {shown(value)}")
            return value
        if kind == _TEXT:
            if not isinstance(value, str) or not value.strip():
                raise SpecError(f"{path}: expected a name, found {shown(value)}")
            return value
        try:
            number = parse(value, "1" if kind == _WHOLE else kind.split()[-1])
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from None
        if kind == _WHOLE:
            if number != int(number) or not 1 <= number <= 1 << 40:
                raise SpecError(f"{path}: expected a whole number from 1 on, found {shown(value)}")
            return int(number)
        if number < 0 or (number == 0 and not kind.startswith("0 ")):
            raise SpecError(f"{path}: expected a number {'of 0 or more' if kind.startswith('0 ') else 'above 0'}, found {shown(value)}")
        return number


def hybrid_from_document(document: Mapping[str, Any], folder: Path | None = None) -> HybridSystem:
    """Build a HybridSystem from the content of a device file.

    Parameters
    ----------
    document
        The file's mapping.
    folder
        Where a DRAM file or a processor's device file that it names by path lies.

    Raises
    ------
    SpecError
        An entry that is missing, without source, of the wrong unit or out of range; it names the path.
    UnknownNameError
        Unknown keys, words, DRAM devices or processors, with the nearest.
    """
    document = copy.deepcopy(dict(document))
    for key in document:
        if key not in _TOP:
            raise UnknownNameError("key", str(key), _TOP)
    for key in ("name", "devices", "xpu"):
        if key not in document:
            raise SpecError(f"{key}: missing; a hybrid device file has at least name, devices, xpu")
    reader = _Reader(document)
    devices = reader.entry(document["devices"], "devices", _WHOLE)
    xpu = _xpu(reader, document["xpu"], folder)
    pim, linear = (_pim(reader, document, key, folder) for key in ("pim", "pim_linear"))
    link = _wire(reader, document, "link")
    plan = Plan(**reader.section(document.get("plan") or {}, "plan", _PLAN))
    if linear is not None and pim is None:
        raise SpecError("pim: missing; with one memory alone, pim, its units run both attention and products with weights")
    if any(side is not None and side.memory == "separate" for side in (pim, linear)) and link is None:
        raise SpecError("link: missing; memory of its own needs a link to the processor")
    if plan.sub_batches > 2:
        raise SpecError(f"plan.sub_batches: expected 1 or 2, found {plan.sub_batches}")
    return HybridSystem(
        name=str(document["name"]), title=str(document.get("title", document["name"])), devices=devices, xpu=xpu, pim=pim, link=link,
        fabric=_wire(reader, document, "fabric"), plan=plan, pim_linear=linear,
        memory_bytes=devices * _capacity(reader, document, xpu, [side for side in (pim, linear) if side is not None]),
        provenance=reader.provenance, values=reader.values, document=document)


def _xpu(reader: _Reader, node: Any, folder: Path | None) -> System | NpuSide | TiledSide:
    forms = ("system", "npu", "tiled")
    if not isinstance(node, Mapping) or len([form for form in forms if form in node]) != 1:
        raise SpecError(f"xpu: expected one of {', '.join(forms)}, found {shown(node)}")
    if "system" in node:
        from .loader import load_gpu

        reader.section(node, "xpu", {"system": _TEXT})
        return load_gpu(_file(node["system"], folder))
    if "npu" in node:
        v = reader.section(node["npu"], "xpu.npu", _NPU)
        if v["efficiency"] > 1:
            raise SpecError(f"xpu.npu.efficiency: expected a share up to 1, found {v['efficiency']:g}")
        return NpuSide(v["clock"], v["arrays"], v["rows"], v["columns"], v["stationary"], v["vector_cores"], v["lanes"], v["bandwidth"],
                       v["efficiency"], v["scratchpad"], v["mac_energy"], v["vector_energy"], v.get("idle", 0.0), v.get("gemv", "spread"))
    v = reader.section(node["tiled"], "xpu.tiled", _TILED)
    energy = {name: v[f"{name}_energy"] for name in ("dram", "l2", "l1", "register", "mac")}
    return TiledSide(v["cores"], v["flops"], v["bandwidth"], v["compute_share"], v["memory_share"], v["l1"], v["l2"], v["memory"], energy,
                     v.get("idle", 0.0))


def _file(entry: dict[str, Any], folder: Path | None) -> str:
    """A shipped name, or the full path of a file beside the device file, which its entry then names, so that overrides find it."""
    path = None if folder is None else folder / entry["value"]
    if path is not None and path.suffix == ".yaml" and path.exists():
        entry["value"] = str(path.resolve())
    return str(entry["value"])


def _pim(reader: _Reader, document: Mapping[str, Any], key: str, folder: Path | None) -> PimSide | None:
    if key not in document:
        return None
    node = document[key]
    v = reader.section(node, key, _PIM)
    device = dram.load(_file(node["dram"], folder))
    if "channels" in v:
        device = replace(device, organisation=replace(device.organisation, channels=v["channels"]))
    side = PimSide(device, v["kernel"], v["count"], v["memory"], v["access"], v.get("level", "bank"), v.get("power_limited", True),
                   v.get("host", 0.0), v.get("scale", 1.0), v.get("op_per_byte", 0.0), v.get("issue", 0.0), v.get("composite", False),
                   v.get("vectors", 1))
    if side.kernel == "logic" and not side.op_per_byte:
        raise SpecError(f"{key}.op_per_byte: missing; units on the logic die need their operations per byte")
    if side.kernel != "logic" and device.pim is None:
        raise SpecError(f"{key}.dram: {device.name} has no processing units; kernel {side.kernel!r} needs them")
    if not suits(side.kernel, device):
        fitting = [kernel for kernel in KERNELS if kernel != "logic" and suits(kernel, device)]
        raise SpecError(f"{key}.kernel: {side.kernel!r} needs commands that {device.name} has not; "
                        + (f"its units run {' or '.join(map(repr, fitting))}" if fitting else "tell its own by their roles "
                           "(gemv: mac, write, read), and give kernel 'gemv'"))
    if side.vectors > 1 and side.kernel != "attacc":
        raise SpecError(f"{key}.vectors: {side.vectors}; units of kernel {side.kernel!r} take one vector at a time, those of 'attacc' may "
                        "take several")
    return side


def _wire(reader: _Reader, document: Mapping[str, Any], key: str) -> Wire | None:
    if key not in document:
        return None
    v = reader.section(document[key], key, _WIRE)
    return Wire(v["bandwidth"], v["latency"], v.get("energy", 0.0))


def _capacity(reader: _Reader, document: Mapping[str, Any], xpu: System | NpuSide | TiledSide, sides: Sequence[PimSide]) -> float:
    """Bytes of one device: its own memory, which units may share, and memories of their own."""
    shared = sum(side.size_bytes for side in sides if side.memory == "shared")
    own = 0.0
    if isinstance(xpu, System):
        own = xpu.dram.size_bytes
    elif isinstance(xpu, TiledSide):
        own = xpu.memory_bytes
    elif "memory" in document:
        own = float(reader.entry(document["memory"], "memory", "B"))
    elif not shared:
        raise SpecError("memory: missing; an NPU without shared units needs its capacity")
    return max(own, shared) + sum(side.size_bytes for side in sides if side.memory == "separate")


def _left_out(document: Mapping[str, Any]) -> list[str]:
    """Paths of the entries that a file may have and leaves out, of the sections that it has; of the plan always."""
    sections: dict[str, Mapping[str, Kind]] = {"plan": _PLAN, "pim": _PIM, "pim_linear": _PIM, "link": _WIRE, "fabric": _WIRE}
    there = {name: document.get(name, {} if name == "plan" else None) for name in sections}
    sections |= {"xpu.npu": _NPU, "xpu.tiled": _TILED}
    there |= {f"xpu.{form}": document["xpu"].get(form) for form in ("npu", "tiled")}
    return [f"{name}.{key}" for name, node in there.items() if node is not None
            for key in sections[name] if key in _OPTIONAL and key not in node]


def override(system: HybridSystem, changes: Mapping[str, Any]) -> HybridSystem:
    """See `HybridSystem.override`. Paths below ``xpu.system`` are those of the processor's own device file."""
    document: dict[str, Any] = copy.deepcopy(dict(system.document))
    inner: dict[str, Any] = {}
    for path, value in changes.items():
        if path in system.values:
            node: Any = document
            for step in path.split("."):
                node = node[step]
            node.update({"value": value, "source": "set by the user", "status": "override"})
        elif isinstance(system.xpu, System) and path.startswith("xpu."):
            inner[path.removeprefix("xpu.")] = value
        elif path in (optional := _left_out(document)):
            *sections, last = path.split(".")
            node = document
            for step in sections:
                node = node.setdefault(step, {})
            node[last] = {"value": value, "source": "set by the user", "status": "override"}
        else:
            raise UnknownNameError("path", path, [*system.values, *optional], where=system.name)
    changed = hybrid_from_document(document)
    if isinstance(system.xpu, System) and isinstance(changed.xpu, System) and "xpu.system" not in changes:
        changed = replace(changed, xpu=system.xpu.override(inner))
    return changed
